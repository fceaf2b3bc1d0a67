"""wandb, trackio and MLflow without network: what they have after a kill.

Each is an extra of its own, and tested where it is installed.
"""

import json
import struct
import subprocess
import sys

import pytest

from jaxplay import rundir
from tests.training import runs

pytestmark = pytest.mark.slow


def _curves(workdir):
  """Metric -> [(step, value)] of metrics.jsonl, without non-finite values."""
  curves = {}
  for line in rundir.RunDir(workdir).metrics():
    for name, value in line.items():
      if name != "step" and value is not None:
        curves.setdefault(name, []).append((line["step"], value))
  return curves


def _killed_and_resumed(name, workdir):
  """Trains with a writer, killed at step 20; the output of the second start."""
  keys = runs.overrides(writers=(name,), model__width=8, report_test=True)
  runs.kill(keys, workdir, "20")
  done = subprocess.run(
    [
      *(sys.executable, "-m", "jaxplay.cli"),
      *runs.command(keys | {"writers": name}, workdir, "--fake_devices=8"),
    ],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
    timeout=runs.HANG,
  )
  assert done.returncode == 0, done.stderr
  assert "warning" not in done.stdout + done.stderr
  assert rundir.RunDir(workdir).status()["status"] == "completed"


def _assert_same(found, workdir):
  """Each step once; times are those of whichever start wrote the line."""
  for name, points in _curves(workdir).items():
    expected = points
    if name in runs._TIMES:
      found[name] = [(step, 0.0) for step, _ in found[name]]
      expected = [(step, 0.0) for step, _ in points]
    assert found[name] == expected, name


def _records(log):
  """Records of a file of wandb: a header of 7 bytes, then LevelDB's log format.

  Blocks of 32 KiB hold chunks: CRC (4 bytes), length (2), type (1), data; a
  record is one full chunk (1), or a first (2), middle (3) and last (4) ones.
  """
  at, parts = 7, b""
  while at + 7 <= len(log):
    if 2**15 - at % 2**15 < 7:  # No chunk begins at the end of a block.
      at += 2**15 - at % 2**15
    size, kind = struct.unpack("<HB", log[at + 4 : at + 7])
    parts += log[at + 7 : at + 7 + size]
    at += 7 + size
    if kind in (1, 4):
      yield parts
      parts = b""


def test_wandb_offline(tmp_path, monkeypatch):
  """G9: the folder of the last start has the whole curve, under one id."""
  pytest.importorskip("wandb")
  from wandb.proto import wandb_internal_pb2

  monkeypatch.delenv("WANDB_MODE", raising=False)
  run = tmp_path / "runs" / "mlp"
  _killed_and_resumed("wandb", run)
  files = sorted(
    run.glob("wandb/offline-run-*/run-*.wandb"),
    key=lambda path: path.stat().st_mtime,
  )
  assert len(files) == 2 and len({path.name for path in files}) == 1
  found, summary = {}, {}
  for data in _records(files[-1].read_bytes()):
    record = wandb_internal_pb2.Record()
    record.ParseFromString(data)
    if record.HasField("run"):
      assert (record.run.project, record.run.display_name) == ("runs", "mlp")
    for item in record.summary.update:
      summary[item.key or item.nested_key[0]] = json.loads(item.value_json)
    row = {
      item.key or item.nested_key[0]: json.loads(item.value_json)
      for item in record.history.item
    }
    for name, value in row.items():
      if not name.startswith("_"):
        found.setdefault(name, []).append((row["_step"], value))
  _assert_same(found, run)
  status = rundir.RunDir(run).status()
  assert summary["status"] == "completed"
  assert summary["best/valid/error_rate"] == status["best"]["value"]
  assert summary["test/loss"] == status["test"]["test/loss"]


def test_trackio(tmp_path, monkeypatch):
  """G9: the local database has each step once."""
  pytest.importorskip("trackio")
  monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
  run = tmp_path / "runs" / "mlp"
  _killed_and_resumed("trackio", run)
  read = """
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
(run,) = trackio.Api().runs("runs")
logs = SQLiteStorage.get_logs("runs", run.name)
print(json.dumps([run.name, run.config, logs]))
"""
  done = subprocess.run(
    [sys.executable, "-c", read], capture_output=True, text=True, check=True
  )
  name, config, logs = json.loads(done.stdout.splitlines()[-1])
  assert name.startswith("mlp") and config["optimizer"] == "nesterov"
  found = {}
  for log in logs:
    for key, value in log.items():
      found.setdefault(key, []).append((log["step"], value))
  _assert_same(found, run)
  best = rundir.RunDir(run).status()["best"]
  assert found["best/valid/error_rate"] == [(best["step"], best["value"])]


def test_mlflow(tmp_path, monkeypatch):
  """G9: a SQLite file beside the run has each step once."""
  pytest.importorskip("mlflow")
  pytest.importorskip("alembic")
  monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
  run = tmp_path / "runs" / "mlp"
  _killed_and_resumed("mlflow", run)
  read = """
import json, sys, mlflow
client = mlflow.MlflowClient("sqlite:///" + sys.argv[1])
experiment = client.get_experiment_by_name("runs")
(run,) = client.search_runs([experiment.experiment_id])
found = {
  name: sorted(
    (m.step, m.value) for m in client.get_metric_history(run.info.run_id, name)
  )
  for name in run.data.metrics
}
print(json.dumps([run.info.status, run.info.run_name, run.data.params, found]))
"""
  done = subprocess.run(
    [sys.executable, "-c", read, str(run / "mlflow.db")],
    capture_output=True,
    text=True,
    check=True,
  )
  status, name, params, found = json.loads(done.stdout.splitlines()[-1])
  assert (status, name) == ("FINISHED", "mlp")
  assert params["hparams.learning_rate"] == "0.1"
  found = {name: [(s, v) for s, v in points] for name, points in found.items()}
  _assert_same(found, run)
  tested = rundir.RunDir(run).status()["test"]
  assert found["test/loss"] == [(tested["step"], tested["test/loss"])]
