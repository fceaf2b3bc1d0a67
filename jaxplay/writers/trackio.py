"""Trackio: curves in a local database, which `trackio show` displays."""

import contextlib
import contextvars
import sys
from collections.abc import Mapping
from typing import Any

import trackio

from jaxplay import writers


def open(run: writers.Run) -> "_Run":
  """Starts or resumes a run; TRACKIO_DIR and TRACKIO_SPACE_ID say where."""
  # A run that is started in a context ends the one before it there, and prints
  # so on standard output, which is for results.
  with contextlib.redirect_stdout(sys.stderr):
    started = contextvars.Context().run(
      trackio.init,
      project=run.project,
      name=f"{run.name}-{run.id}",
      config=dict(run.hparams),
      resume="allow",
      embed=False,
      auto_log_cpu=False,
      auto_log_gpu=False,
    )
  return _Run(started)


class _Run:
  def __init__(self, run):
    # After the last step that the database has; 0 of a new run.
    self._run, self._first = run, run._next_step

  def write(self, step: int, line: Mapping[str, float | None]) -> None:
    if step >= self._first:
      self._run.log(dict(line), step=step)

  def close(self, status: Mapping[str, Any]) -> None:
    for step, line in writers.summary(status):
      self._run.log(line, step=step)
    with contextlib.redirect_stdout(sys.stderr):
      self._run.finish()
