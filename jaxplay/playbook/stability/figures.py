"""Figures of runs at several learning rates, and the runs of a study."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from jaxplay.analysis import curves
from jaxplay.analysis import results as results_lib
from jaxplay.playbook import result as result_lib
from jaxplay.playbook import study_runner
from jaxplay.playbook.stability import decide

# Losses above this multiple of the largest first loss are drawn there.
_HIGHEST = 3


def run_of(
  trial: results_lib.Trial,
  rate: float,
  results: results_lib.Results | None = None,
) -> decide.Run:
  """Returns the logged metrics of a trial, with its objective in `results`."""
  empty = (np.zeros(0, np.int64), np.zeros(0))
  steps, loss = trial.curves.get("train/loss", empty)
  norms = trial.curves.get("train/grad_norm", empty)[1]
  share = curves.clipped_share(*trial.curves.get("train/clipped", empty)) or 0.0
  run = decide.Run(rate, trial.status, steps, loss, norms, share)
  if results is None:
    return run
  value, metric = results.value(trial), results.metric
  return dataclasses.replace(run, value=value, metric=metric)


def runs(results: results_lib.Results) -> list[decide.Run]:
  """Returns the runs of a sweep that ended, sorted by learning rate."""
  rate = study_runner.LEARNING_RATE
  return [
    run_of(trial, trial.point[rate], results)
    for trial in sorted(results.trials, key=lambda t: t.point[rate])
    if trial.status in ("completed", "infeasible")
  ]


def sweeps(
  name: str,
  named: Mapping[str, Sequence[decide.Run]],
  y: result_lib.Axis,
  caption: str = "",
) -> result_lib.FigureData:
  """The objective against the learning rate, a line for each sweep.

  Args:
    name: Title of the figure.
    named: Name of a sweep -> its runs; those without a value are left out.
    y: Axis of the objective.
    caption: What the figure shows.
  """
  rows = [
    dict(x=run.rate, y=run.value, series=series)
    for series, swept in named.items()
    for run in swept
    if np.isfinite(run.value)
  ]
  return result_lib.FigureData(
    name,
    result_lib.Axis("learning rate", log=True),
    y,
    lines=rows,
    points=rows,
    caption=caption,
  )


def losses(
  name: str,
  named: Mapping[str, decide.Run],
  *,
  log: bool = False,
  caption: str = "",
) -> result_lib.FigureData:
  """The training loss against the step, a line for each run.

  Args:
    name: Title of the figure.
    named: Name of a run -> the run.
    log: Whether the axis of the steps is logarithmic.
    caption: What the figure shows.
  """
  return result_lib.FigureData(
    name,
    result_lib.Axis("step", log=log),
    result_lib.Axis("train/loss, nats"),
    lines=lines(named),
    caption=caption,
  )


def lines(named: Mapping[str, decide.Run]) -> list[dict]:
  """Returns rows of losses, limited to three times the largest first loss."""
  first = max((r.loss[0] for r in named.values() if len(r.loss)), default=1.0)
  return [
    dict(x=int(x), y=float(min(y, _HIGHEST * first)), series=series)
    for series, run in named.items()
    for x, y in zip(run.steps, run.loss, strict=True)
    if np.isfinite(y)
  ]
