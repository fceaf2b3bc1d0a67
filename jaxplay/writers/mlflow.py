"""MLflow; a SQLite file unless a tracking URI is set."""

import collections
import math
import os
import time
from collections.abc import Mapping
from typing import Any

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # As it is imported.

import mlflow  # noqa: E402
from mlflow import entities  # noqa: E402

from jaxplay import rundir, writers  # noqa: E402

_ID, _STEP = "jaxplay.run", "jaxplay.step"
_STATUSES = {
  "completed": "FINISHED",
  "infeasible": "FINISHED",
  "preempted": "KILLED",
}


def open(run: writers.Run) -> "_Run":
  """Starts or resumes a run, in ROOT/mlflow.db or at the tracking URI."""
  uri = mlflow.get_tracking_uri()
  if not mlflow.is_tracking_uri_set():
    if not rundir.is_local(run.root):
      raise ValueError("set MLFLOW_TRACKING_URI for a run in a bucket")
    uri = f"sqlite:///{run.root / 'mlflow.db'}"
  return _Run(mlflow.MlflowClient(uri), run)


class _Run:
  def __init__(self, client, run):
    self._client, self._last = client, -1
    self._pending: collections.deque = collections.deque(maxlen=1_000)
    name = os.environ.get("MLFLOW_EXPERIMENT_NAME", run.project)
    experiment = client.get_experiment_by_name(name)
    where = experiment.experiment_id if experiment else None
    if where is None:
      where = client.create_experiment(name)
    same = client.search_runs([where], f"tags.`{_ID}` = '{run.id}'")
    if same:
      self._id = same[0].info.run_id
      self._last = int(same[0].data.tags.get(_STEP, -1))
      client.update_run(self._id, status="RUNNING")
      return
    made = client.create_run(where, tags={_ID: run.id}, run_name=run.name)
    self._id = made.info.run_id
    params = [entities.Param(k, str(v)) for k, v in run.hparams.items()]
    client.log_batch(self._id, params=params)

  def write(self, step: int, line: Mapping[str, float | None]) -> None:
    if step > self._last:
      tags = [entities.RunTag(_STEP, str(step))]
      self._log(step, line, tags)

  def close(self, status: Mapping[str, Any]) -> None:
    for step, line in writers.summary(status):
      self._log(step, line)
    for operation in self._pending:
      operation.wait()  # Raises what went wrong.
    self._client.set_tag(self._id, "jaxplay.status", status["status"])
    ended = _STATUSES.get(status["status"], "FAILED")
    self._client.set_terminated(self._id, ended)

  def _log(self, step, line, tags=()):
    now = int(1000 * time.time())
    metrics = [
      entities.Metric(
        name, math.nan if value is None else float(value), now, step
      )
      for name, value in line.items()
    ]
    # A transaction takes longer than many a step, so MLflow's own thread does
    # it; a thousand batches are as much as can be late.
    self._pending.append(
      self._client.log_batch(self._id, metrics, tags=tags, synchronous=False)
    )
