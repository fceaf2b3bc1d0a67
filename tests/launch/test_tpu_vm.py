"""TPU slices, of a stand-in for gcloud: waited for, lost, resumed, deleted."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys

import pytest

from jaxplay import rundir
from tests.launch import cluster as cluster_lib
from tests.launch import launches
from tests.training import runs

_TABLE = {
  "project": "p",
  "zone": "z",
  "accelerator_type": "v5litepod-16",
  "runtime_version": "image",
  "spot": True,
  "install": "test -f pyproject.toml && touch installed",
}


class Cloud:
  """A folder with a `gcloud`, and with the `jaxplay` that its workers run."""

  def __init__(self, folder, states=("ACTIVE",), jaxplay=""):
    self.folder, self.states_file = folder, folder / "states.json"
    (folder / "bin").mkdir()
    stand_in = runs.ROOT / "tests" / "launch" / "gcloud_stand_in.py"
    # This Python starts sooner than what `env` may find.
    self._program("gcloud", f'exec {sys.executable} -S {stand_in} "$@"')
    self._program("jaxplay", jaxplay)
    self.states_file.write_text(json.dumps(states))
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    self.environment = os.environ | {"STAND_IN": str(folder), "PATH": path}

  def file(self, arguments=("train", "--config=c"), **table):
    setup = {"setup": f"export PATH={self.folder / 'bin'}:$PATH"}
    return launches.write(
      self.folder, "job", arguments, tpu_vm=_TABLE | setup | table
    )

  def launch(self, *options, code=0, **table):
    out, err = launches.launch(
      *("tpu_vm.py", self.file(**table), "--poll_seconds=0", *options),
      code=code,
      env=self.environment,
      # A dry run names a file of the folder that it is typed in.
      cwd=self.folder,
    )
    return out + err

  def calls(self):
    """Each call as "create", "describe", "scp all", "ssh 0", ..."""
    path = self.folder / "calls.jsonl"
    if not path.exists():
      return []
    calls = [json.loads(line) for line in path.read_text().splitlines()]
    workers = [
      "".join(w.split("=")[1] for w in call if w.startswith("--worker="))
      for call in calls
    ]
    return [
      f"{call[3]} {worker}".strip()
      for call, worker in zip(calls, workers, strict=True)
    ]

  def exists(self):
    return (self.folder / "slice").exists()

  def _program(self, name, text):
    path = self.folder / "bin" / name
    path.write_text(f"#!/bin/bash\n{text}\n")
    path.chmod(0o755)


def test_a_job_is_waited_for_installed_run_and_deleted(tmp_path):
  """M: create, wait, install and start on all workers, follow 0, delete."""
  states = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
  cloud = Cloud(
    tmp_path, states, 'test -f installed && echo "worker ${HOME##*/}: $@"'
  )
  output = cloud.launch("--yes", arguments=("train", "--config=a b"))
  assert "worker 0: train --config=a b --wait_seconds=300" in output
  assert "worker 1" not in output
  assert [*states, "deleting"] == [
    word
    for word in output.replace(":", " ").split()
    if word in (*states, "deleting")
  ]
  calls = cloud.calls()
  assert calls[:5] == ["describe", "create", *["describe"] * 3]
  assert calls[5:] == [
    *("ssh 0", "scp all", "ssh all", "ssh all", "ssh 0", "ssh 0", "delete")
  ]
  assert not cloud.exists()


def test_a_dry_run_prints_the_commands_and_does_nothing(tmp_path):
  """M: each line is a command that a shell takes as it is."""
  cloud = Cloud(tmp_path)
  output = cloud.launch("--dry_run")
  assert not cloud.calls()
  for word in ("create", "describe", "archive", "scp", "--worker=0", "delete"):
    assert word in output
  assert "--spot" in output and "--accelerator-type=v5litepod-16" in output
  subprocess.run(["bash", "-n"], input=output, text=True, check=True)
  # Pasted into a shell, with the stand-in: a slice comes, works, and goes.
  subprocess.run(
    ["bash", "-e"],
    input=output,
    text=True,
    check=True,
    cwd=tmp_path,
    env=cloud.environment,
    stdout=subprocess.DEVNULL,
  )
  assert [call.split()[0] for call in cloud.calls()] == [
    *("create", "describe", "scp", "ssh", "ssh", "ssh", "ssh", "delete")
  ]


@pytest.mark.pods
@pytest.mark.skipif(shutil.which("gcloud") is None, reason="no gcloud here")
def test_the_flags_are_those_of_the_real_gcloud(tmp_path):
  """M: what the dry run prints is in gcloud's help, which needs no account."""
  output = Cloud(tmp_path).launch("--dry_run")
  commands = [shlex.split(c) for c in output.split("\ngcloud ")[1:]]
  assert len(commands) == 8
  flags = {}
  for words in commands:
    # What follows a command in the plan are comments and other commands.
    words = words[: words.index("--zone=z") + 1]
    used = {w.partition("=")[0] for w in words if w.startswith("--")}
    flags.setdefault(" ".join(words[:4]), set()).update(used)
  # No account, no network: its help lies on the disk.
  offline = {
    "CLOUDSDK_CONFIG": str(tmp_path / "config"),
    "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
    "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
  }
  # Of every command: gcloud's help on one does not repeat them.
  wide = {"--project", "--format", "--quiet"}
  for command, used in flags.items():
    help_ = subprocess.run(
      ["gcloud", *command.split(), "--help"],
      env=os.environ | offline,
      stdin=subprocess.DEVNULL,
      capture_output=True,
      text=True,
      timeout=120,
    ).stdout
    plain = re.sub(r"\x1b\[[0-9;]*m", "", help_)
    for flag in used - wide:
      assert re.search(rf"{flag}\b", plain), f"{command} {flag}"


def test_nothing_is_created_without_a_yes(tmp_path):
  """M: what costs is asked for; no terminal is a no."""
  cloud = Cloud(tmp_path)
  output = cloud.launch(code=2)
  assert "pay for it? [y/N]" in output and "nothing was launched" in output
  assert not cloud.calls()


def test_a_lost_slice_is_replaced_and_the_command_repeated(tmp_path):
  """M4, G7: SUSPENDED: delete, create, the same command again."""
  lost = ["ACTIVE", "SUSPENDED", "SUSPENDED", "PROVISIONING", "ACTIVE"]
  once = "echo begun >>$STAND_IN/n; [ $(wc -l <$STAND_IN/n) -gt 2 ] || exit 1"
  cloud = Cloud(tmp_path, lost, once)
  output = cloud.launch("--yes")
  assert "taken away (SUSPENDED)" in output
  calls = [call for call in cloud.calls() if call in ("create", "delete")]
  assert calls == ["create", "delete"] * 2
  assert len((tmp_path / "n").read_text().split()) == 4  # twice, two workers


@pytest.mark.parametrize(
  ("job_code", "restarts", "code"), [(1, 2, 1), (134, 2, 134), (2, 0, 2)]
)
def test_a_failing_job_is_restarted_so_often(
  tmp_path, job_code, restarts, code
):
  """M: max_restarts on a live slice; a wrong request is not tried again."""
  fails = f"echo >>$STAND_IN/n; echo I am ${{HOME##*/}}; exit {job_code}"
  cloud = Cloud(tmp_path, jaxplay=fails)
  output = cloud.launch("--yes", code=code, max_restarts=2)
  assert output.count("I am 1") == 1 + restarts  # Not only worker 0 is heard.
  assert len((tmp_path / "n").read_text()) == 2 * (1 + restarts)
  assert not cloud.exists()


def test_told_to_stop_from_elsewhere_it_goes_on(tmp_path):
  """M4: exit code 75 on a live slice: the same command again, uncounted."""
  cloud = Cloud(
    tmp_path,
    jaxplay="echo >>$STAND_IN/n; [ $(wc -l <$STAND_IN/n) -gt 8 ] || exit 75",
  )
  cloud.launch("--yes", max_restarts=0)
  assert len((tmp_path / "n").read_text()) == 10


def test_a_request_that_fails_says_where_to_look(tmp_path):
  """M: FAILED, such as for lack of quota, is not waited on."""
  cloud = Cloud(tmp_path, ["WAITING_FOR_RESOURCES", "FAILED"])
  output = cloud.launch("--yes", code=1)
  assert "the request for the slice failed" in output
  assert not cloud.exists()


@pytest.fixture
def start():
  """Starts the launcher; one that a failed test left behind is killed."""
  started = []

  def start(cloud, *options, **table):
    started.append(
      subprocess.Popen(
        [
          *(sys.executable, runs.ROOT / "launch" / "tpu_vm.py"),
          *(cloud.file(**table), "--yes", "--poll_seconds=0", *options),
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=cloud.environment,
      )
    )
    return started[-1]

  yield start
  for process in started:
    process.kill()
    process.wait()
    process.stdout.close()


_WAITS = (
  'trap "echo saved; exit 75" TERM; echo begun; while :; do sleep 0.1; done'
)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_has_the_job_saved(tmp_path, start, number, keep):
  """M4, G7: passed on to all workers; then the slice is deleted, or kept."""
  cloud = Cloud(tmp_path, jaxplay=_WAITS)
  process = start(cloud, *(["--keep"] if keep else []))
  for line in process.stdout:
    if line.strip() == "begun":
      process.send_signal(number)
      break
  output = process.communicate(timeout=runs.HANG)[0]
  assert process.returncode == 75, output
  assert "saved" in output
  assert cloud.exists() == keep
  if keep:
    assert "it costs: gcloud compute tpus queued-resources delete" in output


def test_a_signal_while_waiting_withdraws_the_request(tmp_path, start):
  """M: what would cost one day, when nobody looks, is not left behind."""
  cloud = Cloud(tmp_path, ["WAITING_FOR_RESOURCES"])
  process = start(cloud)
  for line in process.stdout:
    if "WAITING_FOR_RESOURCES" in line:
      process.send_signal(signal.SIGINT)
      break
  output = process.communicate(timeout=runs.HANG)[0]
  assert process.returncode == 75, output
  assert not cloud.exists()


def test_the_job_outlives_this_program(tmp_path, start):
  """M: a launcher that died and is started again finds the job at work."""
  cloud = Cloud(
    tmp_path,
    jaxplay="echo >>$STAND_IN/n; until [ -e $STAND_IN/go ]; do sleep 0.1; done",
  )
  process = start(cloud)
  cluster_lib.until(lambda: cloud.calls().count("ssh 0") == 2, runs.HANG)
  process.kill()
  process.communicate()
  again = start(cloud)
  cluster_lib.until(lambda: cloud.calls().count("ssh 0") == 4, runs.HANG)
  (tmp_path / "go").touch()
  output = again.communicate(timeout=runs.HANG)[0]
  assert again.returncode == 0, output
  assert len((tmp_path / "n").read_text()) == 2  # once on each worker


@pytest.mark.pods
def test_a_real_run_survives_the_loss_of_its_slice(tmp_path, start):
  """M4, G7: two real processes, killed with their slice, end as if never."""
  keys = runs.overrides(max_train_steps=200, **runs.MLP)
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    port = listener.getsockname()[1]
  # `--distributed` finds nothing here; the stand-in's workers are told.
  real = f"""
    export PYTHONPATH={runs.ROOT}
    echo $$ >>$STAND_IN/pids
    exec {sys.executable} -m jaxplay.cli "${{@:1:$#-1}}" --fake_devices=1 \\
      --coordinator=localhost:{port} --num_processes=2 \\
      --process_id=${{HOME##*/}}
  """
  cloud = Cloud(tmp_path, jaxplay=real)
  (tmp_path / "whole").mkdir()
  whole = tmp_path / "whole" / "run"
  runs.launch(runs.command(keys, whole), 2, 1)

  arguments = runs.command(keys, tmp_path / "run")
  process = start(cloud, arguments=arguments)
  run = rundir.RunDir(tmp_path / "run")
  cluster_lib.until(lambda: len(run.metrics()) > 5, runs.HANG)
  cloud.states_file.write_text(json.dumps(["SUSPENDED", "SUSPENDED", "ACTIVE"]))
  for pid in (tmp_path / "pids").read_text().split():
    os.kill(int(pid), signal.SIGKILL)
  output = process.communicate(timeout=runs.HANG)[0]
  assert process.returncode == 0, output
  assert "taken away (SUSPENDED)" in output and "resuming" in output
  runs.assert_same(runs.lines(whole), runs.lines(tmp_path / "run"))
  runs.assert_same(
    runs.last_state(keys, whole), runs.last_state(keys, tmp_path / "run")
  )


def test_without_gcloud_it_says_so(tmp_path):
  """M: one sentence, exit code 2."""
  cloud = Cloud(tmp_path)
  (tmp_path / "bin" / "gcloud").unlink()
  # Nothing else on the path: a real gcloud must not be found by a test.
  cloud.environment["PATH"] = str(tmp_path / "bin")
  output = cloud.launch("--yes", code=2)
  assert "there is no gcloud" in output
