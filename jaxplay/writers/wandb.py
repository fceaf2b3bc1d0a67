"""Weights & Biases; offline unless WANDB_MODE says otherwise.

A resume begins another folder of the same run id, with all lines; the service
itself drops steps that it has.
"""

import os
from collections.abc import Mapping
from typing import Any

import wandb

from jaxplay import rundir, writers


def open(run: writers.Run) -> "_Run":
  """Starts or resumes a run, in ROOT/wandb unless WANDB_DIR is set."""
  os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
  if not rundir.is_local(run.root) and "WANDB_DIR" not in os.environ:
    raise ValueError("set WANDB_DIR to a local folder for a run in a bucket")
  return _Run(
    wandb.init(
      id=run.id,
      name=run.name,
      project=os.environ.get("WANDB_PROJECT", run.project),
      dir=os.environ.get("WANDB_DIR", str(run.root)),
      mode=os.environ.get("WANDB_MODE", "offline"),
      config=dict(run.hparams),
      resume="allow",
      reinit="create_new",  # Trials of a population are written together.
      settings=wandb.Settings(silent=True, console="off"),
    )
  )


class _Run:
  def __init__(self, run):
    self._run, self._first = run, run.step

  def write(self, step: int, line: Mapping[str, float | None]) -> None:
    if step >= self._first:  # It counts from the last step that it has.
      self._run.log(dict(line), step=step)

  def close(self, status: Mapping[str, Any]) -> None:
    # Their steps may be earlier, which a history does not take.
    for _, line in writers.summary(status):
      self._run.summary.update(line)
    self._run.summary["status"] = status["status"]
    self._run.finish(exit_code=int(status["status"] == "failed"))
