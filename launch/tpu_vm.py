"""Runs a job on a Cloud TPU slice of any size, and takes preemption in stride.

    python launch/tpu_vm.py launch/example.toml --dry_run    # the commands
    python launch/tpu_vm.py launch/example.toml

Asks for a queued resource and waits until it is ACTIVE, installs the last
commit of this repository on all workers, starts jaxplay on all of them, and
shows the log of worker 0. A slice that was taken away is deleted and asked for
again, and the same command resumes from its checkpoint; so --workdir must be on
storage that outlives the slice and that all workers share (`setup` mounts it).
Ctrl-C has the job save and then deletes the slice, as does its end; --keep
leaves it. If this program dies, the job goes on, and the same command finds it.
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

# The Python of TPU images is older than 3.11; uv brings one.
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
  "spot": job_lib.Key(bool, False),  # cheap, and may be taken away
  # Shell lines on each worker: in the source tree, and before jaxplay starts.
  "install": job_lib.Key(str, _INSTALL, is_script=True),
  "setup": job_lib.Key(str, "", is_script=True),
  "wait_seconds": job_lib.Key(int, 300, least=1),  # until all have begun
  "max_restarts": job_lib.Key(int, 3),  # of a job that failed on a live slice
  "create_flags": job_lib.Key(list, ()),  # whatever else gcloud is to be told
}

_UNREACHABLE = 10  # attempts in a row before this program gives up

# Of ~/NAME on a worker. HUP is ignored: the job outlives the connection.
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
_HOW_IS_IT = """
cd ~/{name} 2>/dev/null || {{ echo absent; exit; }}
if [ -s launch.code ]; then cat launch.code
elif [ -s launch.pid ] && kill -0 $(cat launch.pid) 2>/dev/null
then echo running
else echo absent
fi
"""
# The first to fail is seldom worker 0, which then only misses it.
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
  """What this program cannot mend: one sentence, exit code 1."""


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
    help="how often to look at the slice (default 30)",
  )


def _seconds(text):
  """Type of a time to wait."""
  try:
    seconds = float(text)
  except ValueError:
    seconds = math.nan
  if not 0 <= seconds <= 86_400:
    raise argparse.ArgumentTypeError(
      f"it is {text!r}; it must be from 0 to 86400"
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
    _say("uncommitted changes do not travel; the workers get the last commit")
  _on_signals(_stop)
  code = job_lib.EXIT_FAILED
  try:
    try:
      code = _until_done(slice_, options)
    except Stopped:
      _say("stopping; once more, and the slice is left as it is")
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
  """The commands that concern one slice."""

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

  def how_is_it(self):
    return self._ssh("0", _HOW_IS_IT)

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
  """All commands, to be read or pasted into a shell."""
  file = pathlib.Path.cwd() / f"{slice_.job.name}.tar.gz"
  steps = [
    ("Ask for the slice", slice_.create()),
    ("Repeat until it says ACTIVE", slice_.describe()),
    ("Install the last commit on all workers", slice_.archive(file)),
    ("", slice_.copy(file)),
    ("", slice_.install()),
    ("Start the job on all workers", slice_.start()),
    ("Show the log of worker 0 until the job ends", slice_.follow(1)),
    ("Its exit code; 75: saved, start it again", slice_.how_is_it()),
    ("Delete the slice; if it was SUSPENDED, begin again", slice_.delete()),
  ]
  if keep:
    steps.pop()
  lines = []
  for comment, command in steps:
    lines += [f"# {comment}"] if comment else []
    lines += [shlex.join(command)]
  return "\n".join(lines)


def _until_done(slice_, options):
  """Runs the job, on as many slices as it takes; its exit code."""
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
    # A host that was taken away ends the others before the slice's state says
    # why: look again a little later.
    time.sleep(options.poll_seconds)
    state = _state(slice_)
    if state != "ACTIVE":
      _say(f"the slice was taken away ({state or 'it is gone'})")
    elif code is None:
      unreachable = 0 if has_spoken else unreachable + 1
      if unreachable >= _UNREACHABLE:
        raise Failed(f"worker 0 of {slice_.job.name} cannot be reached")
    elif code == job_lib.EXIT_PREEMPTED:
      _say("the job was told to stop, and saved; it is started again")
    elif restarts >= slice_.place.max_restarts:
      _say(f"the job failed with exit code {code}, {restarts} restarts later")
      return code
    else:
      restarts += 1
      _say(f"the job ended with exit code {code}; restart {restarts}")


def _get_active(slice_, poll_seconds):
  """Creates the slice unless it is there; returns when it is ACTIVE."""
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
      _say(f"{slice_.job.name}: {state or 'not there yet'}")
      shown = state
    if state == "ACTIVE":
      return
    if state == "FAILED":
      raise Failed(
        "the request for the slice failed; this says why:"
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
  """(exit code, whether its log was seen); code None: who knows."""
  if _how_is_it(slice_) != "running":
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
    answer = _how_is_it(slice_)
    if answer != "running":
      return (int(answer) if answer.isdecimal() else None), seen > 0
    if seen == before:  # The connection breaks as soon as it is made.
      return None, seen > 0


def _save(slice_):
  """Has a job that runs save itself; the exit code of this program."""
  if _state(slice_) == "ACTIVE" and _how_is_it(slice_) == "running":
    _call(slice_.stop())
    code, _ = _follow(slice_)
    return job_lib.EXIT_FAILED if code is None else code
  return job_lib.EXIT_PREEMPTED


def _how_is_it(slice_):
  """An exit code, "running", "absent", or "": no answer."""
  process = _start(slice_.how_is_it(), stdout=subprocess.PIPE, text=True)
  lines = _communicate(process)[0].split()
  return lines[-1] if lines else ""


def _state(slice_):
  """The slice's state; empty: there is none."""
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
  """Runs a command, its output on ours; its exit code."""
  process = _start(command)
  _communicate(process)
  return process.returncode


def _start(command, **kwargs):
  # In a session of its own, Ctrl-C comes to this program alone.
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
