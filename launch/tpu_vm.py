"""Runs a job on a Cloud TPU slice of any size, and restarts it if preempted.

    python launch/tpu_vm.py launch/example.toml --dry_run    # the commands
    python launch/tpu_vm.py launch/example.toml

Requests a queued resource and waits until it is ACTIVE, installs the last
commit of this repository on all workers, starts jaxplay on all of them, and
shows the log of worker 0. A preempted slice is deleted and requested again, and
the same command resumes from its checkpoint; so --workdir must be on storage
that outlives the slice and that all workers share (`setup` mounts it). Ctrl-C
makes the job save; then, as at its end, the slice is deleted, unless --keep is
given. If this program dies, the job continues, and the same command finds it.
"""

import argparse
import math
import pathlib
import shlex
import signal
import subprocess
import sys
import tempfile
import time

import job as job_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]

# The Python of TPU images is older than 3.11; uv installs a newer one.
_INSTALL = """
python3 -m pip install --quiet --user uv
~/.local/bin/uv venv --quiet --allow-existing --python 3.12 .venv
~/.local/bin/uv pip install --quiet -r requirements.lock -e '.[tpu,gcs]'
"""

KEYS = {
  "project": job_lib.Key(str),
  "zone": job_lib.Key(str),
  "accelerator_type": job_lib.Key(str),  # such as "v5litepod-16"
  "runtime_version": job_lib.Key(
    str
  ),  # the image, such as "v2-alpha-tpuv5-lite"
  "spot": job_lib.Key(bool, False),  # cheaper, but may be preempted
  # Shell lines on each worker: to install, and before jaxplay starts.
  "install": job_lib.Key(str, _INSTALL, is_script=True),
  "setup": job_lib.Key(str, "", is_script=True),
  "wait_seconds": job_lib.Key(int, 300, least=1),  # until all have started
  "max_restarts": job_lib.Key(int, 3),  # after failures on a live slice
  "create_flags": job_lib.Key(list, ()),  # other flags of gcloud
}

_UNREACHABLE = 10  # failed attempts in a row before giving up

# Runs in ~/NAME on a worker. HUP is ignored: the job outlives the connection.
_START = """
cd ~/{name}
export PATH=$PWD/.venv/bin:$PATH
{setup}
export {variable}={launched}
rm -f launch.pid launch.code
(
  trap '' HUP
  {command} &
  echo $! >launch.pid
  wait $!
  echo $? >launch.code
) >launch.log 2>&1 </dev/null &
"""
_FOLLOW = """
cd ~/{name}
until [ -s launch.pid ]; do sleep 1; done
tail --lines=+{first} --follow --pid=$(cat launch.pid) launch.log
"""
_STATUS = """
cd ~/{name} 2>/dev/null || {{ echo absent; exit; }}
if [ -s launch.code ]; then cat launch.code
elif [ -s launch.pid ] && kill -0 $(cat launch.pid) 2>/dev/null
then echo running
else echo absent
fi
"""
# The first worker that fails is rarely worker 0.
_LAST_WORDS = 'tail --lines=20 ~/{name}/launch.log | sed "s/^/$(hostname): /"'
_STOP = "kill -TERM $(cat ~/{name}/launch.pid)"
_UNPACK = """
set -e
mkdir -p ~/{name}
tar -xzf ~/{name}.tar.gz -C ~/{name}
cd ~/{name}
{install}
"""


class Failed(Exception):
  """An error that this program cannot handle: one sentence, exit code 1."""


class Stopped(Exception):
  """Ctrl-C, or SIGTERM."""


def main():
  return job_lib.main(__doc__, "tpu_vm", KEYS, launch, add=_add)


def _add(parser):
  parser.add_argument(
    "--keep", action="store_true", help="do not delete the slice at the end"
  )
  parser.add_argument(
    "--poll_seconds",
    type=_seconds,
    default=30.0,
    metavar="S",
    help="seconds between checks of the slice (default 30)",
  )


def _seconds(text):
  """Parses a time to wait."""
  try:
    seconds = float(text)
  except ValueError:
    seconds = math.nan
  if not 0 <= seconds <= 86_400:
    raise argparse.ArgumentTypeError(
      f"expected seconds from 0 to 86400, got {text!r}"
    )
  return seconds


def launch(job, options):
  slice_ = Slice(job)
  if options.dry_run:
    print(plan(slice_, options.keep))
    return 0
  job_lib.need("gcloud", "install the Google Cloud CLI")
  place = job.place
  spot = "spot " if place.spot else ""
  job_lib.ask(
    f"Create the {spot}TPU slice {job.name!r}, {place.accelerator_type} in"
    f" {place.zone} of {place.project}, and pay for it?",
    options.yes,
  )
  if _output(["git", "-C", str(ROOT), "status", "--porcelain"]).strip():
    _say("the workers get the last commit, without uncommitted changes")
  _on_signals(_stop)
  code = job_lib.EXIT_FAILED
  try:
    try:
      code = _until_done(slice_, options)
    except Stopped:
      _say("stopping; interrupt again to keep the slice")
      code = _save(slice_)
  except Failed as error:
    print(f"launch: {error}", file=sys.stderr)
  except Stopped:
    _say(f"not deleted, and it costs: {shlex.join(slice_.delete())}")
    return job_lib.EXIT_PREEMPTED
  if options.keep:
    _say(f"kept, and it costs: {shlex.join(slice_.delete())}")
  else:
    _say("deleting the slice")
    if _call(slice_.delete()):
      _say(f"it may still cost: {shlex.join(slice_.delete())}")
  return code


class Slice:
  """The gcloud commands for one slice."""

  def __init__(self, job):
    self.job, self.place = job, job.place

  def create(self):
    place = self.place
    return self._gcloud(
      *("queued-resources", "create", self.job.name),
      f"--node-id={self.job.name}",
      f"--accelerator-type={place.accelerator_type}",
      f"--runtime-version={place.runtime_version}",
      *(["--spot"] if place.spot else []),
      *place.create_flags,
    )

  def describe(self):
    return self._gcloud(
      *("queued-resources", "describe", self.job.name),
      "--format=value(state.state)",
    )

  def delete(self):
    return self._gcloud(
      *("queued-resources", "delete", self.job.name), "--force", "--quiet"
    )

  def archive(self, file):
    return [
      *("git", "-C", str(ROOT), "archive"),
      *("--format=tar.gz", f"--output={file}", "HEAD"),
    ]

  def copy(self, file):
    return self._gcloud(
      *("tpu-vm", "scp", str(file), f"{self.job.name}:{self.job.name}.tar.gz"),
      "--worker=all",
    )

  def install(self):
    return self._ssh("all", _UNPACK, install=self.place.install.strip())

  def start(self):
    # gcloud reaches the workers of a large slice one after the other.
    wait = f"--wait_seconds={self.place.wait_seconds}"
    command = shlex.join(
      ["jaxplay", *self.job.arguments, wait, "--distributed"]
    )
    launched = job_lib.launched(self.job.arguments, file=self.job.file)
    return self._ssh(
      "all",
      _START,
      command=command,
      setup=self.place.setup.strip(),
      variable=job_lib.LAUNCH,
      launched=shlex.quote(launched),
    )

  def follow(self, first):
    return self._ssh("0", _FOLLOW, first=first)

  def job_status(self):
    return self._ssh("0", _STATUS)

  def last_words(self):
    return self._ssh("all", _LAST_WORDS)

  def stop(self):
    return self._ssh("all", _STOP)

  def _ssh(self, worker, script, **values):
    script = script.format(name=self.job.name, **values).strip()
    return self._gcloud(
      *("tpu-vm", "ssh", self.job.name),
      *(f"--worker={worker}", f"--command={script}"),
    )

  def _gcloud(self, *words):
    project, zone = self.place.project, self.place.zone
    return [
      *("gcloud", "compute", "tpus", *words),
      *(f"--project={project}", f"--zone={zone}"),
    ]


def plan(slice_, keep):
  """All commands, as text for a shell."""
  file = pathlib.Path.cwd() / f"{slice_.job.name}.tar.gz"
  steps = [
    ("Request the slice", slice_.create()),
    ("Repeat until it is ACTIVE", slice_.describe()),
    ("Install the last commit on all workers", slice_.archive(file)),
    ("", slice_.copy(file)),
    ("", slice_.install()),
    ("Start the job on all workers", slice_.start()),
    ("Show the log of worker 0 until the job ends", slice_.follow(1)),
    ("Its exit code; 75: saved, start again", slice_.job_status()),
    ("Delete the slice; if it was SUSPENDED, start again", slice_.delete()),
  ]
  if keep:
    steps.pop()
  lines = []
  for comment, command in steps:
    lines += [f"# {comment}"] if comment else []
    lines += [shlex.join(command)]
  return "\n".join(lines)


def _until_done(slice_, options):
  """Runs the job until it ends, on new slices if needed; its exit code."""
  restarts = unreachable = 0
  while True:
    _get_active(slice_, options.poll_seconds)
    code, has_spoken = _session(slice_)
    if code == 0:
      return code
    if code not in (None, job_lib.EXIT_PREEMPTED):
      _say("the last lines of all workers:")
      _call(slice_.last_words())
    if code == job_lib.EXIT_WRONG:
      return code
    # A preempted host ends the others before the state of the slice shows it:
    # wait a little.
    time.sleep(options.poll_seconds)
    state = _state(slice_)
    if state != "ACTIVE":
      _say(f"the slice was taken away ({state or 'it is gone'})")
    elif code is None:
      unreachable = 0 if has_spoken else unreachable + 1
      if unreachable >= _UNREACHABLE:
        raise Failed(f"worker 0 of {slice_.job.name} cannot be reached")
    elif code == job_lib.EXIT_PREEMPTED:
      _say("the job received a signal, and saved; restarting it")
    elif restarts >= slice_.place.max_restarts:
      _say(f"the job failed with exit code {code} after {restarts} restarts")
      return code
    else:
      restarts += 1
      _say(f"the job ended with exit code {code}; restart {restarts}")


def _get_active(slice_, poll_seconds):
  """Creates the slice if needed; returns when it is ACTIVE."""
  shown, silent = None, 0
  while True:
    try:
      state, silent = _state(slice_), 0
    except Failed:
      silent += 1
      if shown is None or silent >= _UNREACHABLE:
        raise
      time.sleep(poll_seconds)
      continue
    if state != shown:
      _say(f"{slice_.job.name}: {state or 'does not exist yet'}")
      shown = state
    if state == "ACTIVE":
      return
    if state == "FAILED":
      raise Failed(
        "the request for the slice failed; for the reason run"
        f" {shlex.join(slice_.describe()[:-3] + slice_.describe()[-2:])}"
      )
    if state == "":
      if _call(slice_.create()):
        raise Failed("gcloud could not create the slice")
    elif state == "SUSPENDED":
      if _call(slice_.delete()):
        raise Failed("gcloud could not delete the slice that was taken away")
    else:
      time.sleep(poll_seconds)


def _session(slice_):
  """(exit code, whether it had output); code None: unknown."""
  if _job_status(slice_) != "running":
    with tempfile.TemporaryDirectory() as folder:
      file = f"{folder}/{slice_.job.name}.tar.gz"
      for command in (
        slice_.archive(file),
        slice_.copy(file),
        slice_.install(),
        slice_.start(),
      ):
        if _call(command):
          _say(f"this failed: {shlex.join(command)}")
          return job_lib.EXIT_FAILED, False
  return _follow(slice_)


def _follow(slice_):
  """Shows the log until the job ends; like `_session`."""
  seen = 0
  while True:
    before = seen
    process = _start(slice_.follow(seen + 1), stdout=subprocess.PIPE, text=True)
    try:
      for line in process.stdout:
        print(line, end="", flush=True)
        seen += 1
    finally:
      process.kill()
      process.wait()
    status = _job_status(slice_)
    if status != "running":
      return (int(status) if status.isdecimal() else None), seen > 0
    if seen == before:  # The connection breaks immediately.
      return None, seen > 0


def _save(slice_):
  """Makes a running job save; returns the exit code of this program."""
  if _state(slice_) == "ACTIVE" and _job_status(slice_) == "running":
    _call(slice_.stop())
    code, _ = _follow(slice_)
    return job_lib.EXIT_FAILED if code is None else code
  return job_lib.EXIT_PREEMPTED


def _job_status(slice_):
  """An exit code, "running", "absent", or "" if unknown."""
  process = _start(slice_.job_status(), stdout=subprocess.PIPE, text=True)
  lines = _communicate(process)[0].split()
  return lines[-1] if lines else ""


def _state(slice_):
  """The state of the slice; empty: it does not exist."""
  process = _start(
    slice_.describe(),
    stdout=subprocess.PIPE,
    stderr=subprocess.PIPE,
    text=True,
  )
  out, err = _communicate(process)
  if process.returncode == 0:
    return out.strip()
  if "NOT_FOUND" in err or "not found" in err:
    return ""
  raise Failed(f"gcloud cannot describe the slice: {' '.join(err.split())}")


def _output(command):
  return subprocess.run(command, stdout=subprocess.PIPE, text=True).stdout


def _call(command):
  """Runs a command and shows its output; returns its exit code."""
  process = _start(command)
  _communicate(process)
  return process.returncode


def _start(command, **kwargs):
  # In its own session, it does not receive Ctrl-C.
  return subprocess.Popen(
    command, stdin=subprocess.DEVNULL, start_new_session=True, **kwargs
  )


def _communicate(process):
  try:
    return process.communicate()
  except BaseException:
    process.kill()
    process.wait()
    raise


def _on_signals(handler):
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, handler)


def _stop(*unused):
  raise Stopped


def _say(sentence):
  print(f"[launch] {sentence}", flush=True)


if __name__ == "__main__":
  sys.exit(main())
