"""Jobs on a real Slurm of two nodes: whole, as arrays, killed and resumed."""

import os
import pathlib
import signal
import sys
import time

import pytest

from jaxplay import rundir
from tests.launch import cluster as cluster_lib
from tests.launch import launches
from tests.study import studies
from tests.training import runs

pytestmark = [
  pytest.mark.pods,
  pytest.mark.skipif(
    bool(cluster_lib.missing()), reason=cluster_lib.missing() or "-"
  ),
]

_KEYS = runs.overrides(
  max_train_steps=400,
  log_every=10,
  eval_every=100,
  checkpoint_every=50,
  **runs.MLP,
)
_STEPS = _KEYS["max_train_steps"]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
  with cluster_lib.Cluster(tmp_path_factory.mktemp("slurm")) as cluster:
    yield cluster


@pytest.fixture(scope="module")
def program(tmp_path_factory):
  """Shell lines after which `jaxplay` is that of this source tree."""
  folder = tmp_path_factory.mktemp("bin")
  (folder / "jaxplay").write_text(
    f"#!/bin/sh\nPYTHONPATH={runs.ROOT}"
    f' exec {sys.executable} -m jaxplay.cli "$@"'
  )
  (folder / "jaxplay").chmod(0o755)
  return f"export PATH={folder}:$PATH"


def _submit(cluster, program, folder, arguments, **table):
  """Submits by launch/slurm.py; the job's number."""
  path = launches.write(
    folder,
    "test",
    arguments,
    slurm={"time": "10:00", "setup": program, "grace_seconds": 60} | table,
  )
  out, _ = launches.launch(
    "slurm.py", path, "--yes", cwd=folder, env=cluster.environment
  )
  return int(out.split("submitted job ")[1].split(";")[0])


def _train(cluster, program, folder):
  return _submit(
    cluster,
    program,
    folder,
    runs.command(_KEYS, folder / "run", "--fake_devices=1"),
    nodes=2,
  )


def _ranks(folder):
  """{rank: process id} of the job's jaxplay processes."""
  found = {}
  for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
    try:
      words = path.read_bytes().decode(errors="replace").split("\0")
    except OSError:
      continue  # It has ended.
    if "jaxplay.cli" in words and f"--workdir={folder / 'run'}" in words:
      rank = [w for w in words if w.startswith("--process_id=")][0]
      found[int(rank.partition("=")[2])] = int(path.parent.name)
  return found


def _wait_for_step(folder, step):
  """Until the run has logged a step, far from its end."""

  def there():
    lines = rundir.RunDir(folder / "run").metrics()
    return bool(lines) and lines[-1]["step"] >= step

  cluster_lib.until(there, runs.HANG)
  assert rundir.RunDir(folder / "run").metrics()[-1]["step"] < _STEPS


def _log(folder, job):
  return (folder / f"test-{job}.log").read_text()


@pytest.fixture(scope="module")
def whole(cluster, program, tmp_path_factory):
  """A folder with an uninterrupted run of two nodes, and its log."""
  folder = tmp_path_factory.mktemp("whole")
  job = _train(cluster, program, folder)
  assert cluster.finish(job) == ["COMPLETED"], _log(folder, job)
  return folder


def test_two_nodes_train_one_run(whole):
  """M1: a job of two nodes completes, and each line is written once."""
  run = rundir.RunDir(whole / "run")
  assert run.status()["status"] == "completed"
  steps = [line["step"] for line in run.metrics()]
  assert steps == sorted(set(steps)) and steps[-1] == _STEPS


def test_stopped_and_killed_ends_as_if_it_were_not(
  cluster, program, whole, tmp_path
):
  """M4, G7: told to stop, then a rank killed: requeued, resumed, the same."""
  job = _train(cluster, program, tmp_path)
  _wait_for_step(tmp_path, 40)
  # What --signal does when the time limit nears.
  cluster.run("scancel", "--signal=TERM", job)
  cluster_lib.until(lambda: "; requeued" in _log(tmp_path, job), runs.HANG)
  stopped = rundir.RunDir(tmp_path / "run").status()
  assert stopped["status"] == "preempted" and 40 <= stopped["step"] < _STEPS
  assert "exit code 75 after 0 restarts; requeued" in _log(tmp_path, job)

  _wait_for_step(tmp_path, stopped["step"] + 60)
  begun = time.monotonic()
  os.kill(_ranks(tmp_path)[1], signal.SIGKILL)
  cluster_lib.until(lambda: not _ranks(tmp_path), 30)
  print(f"the other rank ended after {time.monotonic() - begun:.1f} s")

  assert cluster.finish(job) == ["COMPLETED"], _log(tmp_path, job)
  assert "exit code 137 after 1 restarts; requeued" in _log(tmp_path, job)
  assert "preempted at step" in _log(tmp_path, job)
  runs.assert_same(runs.lines(whole / "run"), runs.lines(tmp_path / "run"))
  runs.assert_same(
    runs.last_state(_KEYS, whole / "run"),
    runs.last_state(_KEYS, tmp_path / "run"),
  )


def test_cancelled_stays_so(cluster, program, tmp_path):
  """M4: who cancels a job has it saved, and means it."""
  job = _train(cluster, program, tmp_path)
  _wait_for_step(tmp_path, 40)
  cluster.run("scancel", job)
  assert cluster.finish(job) == ["CANCELLED"]
  cluster_lib.until(lambda: not _ranks(tmp_path), 30)
  assert "; requeued" not in _log(tmp_path, job)
  assert rundir.RunDir(tmp_path / "run").status()["status"] == "preempted"


def test_an_array_runs_the_trials_of_a_study(cluster, program, tmp_path):
  """M: each element runs its trial, and no more; together the study."""
  study = studies.write(tmp_path, num_trials=4)
  job = _submit(
    cluster,
    program,
    tmp_path,
    *[
      ["study", "run", study, f"--workdir={tmp_path / 's'}", "--fake_devices=1"]
    ],
    array="0-2%2",
  )
  ends = cluster.finish(job)
  logs = list(tmp_path.glob(f"test-{job}_*.log"))
  assert ends == ["COMPLETED"] * 3, [log.read_text() for log in logs]
  assert studies.statuses(tmp_path / "s") == ["completed"] * 3
  assert len(logs) == 3
