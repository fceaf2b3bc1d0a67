"""Whether the curvature of the loss explains an instability.

A step of gradient descent overshoots along an eigenvector of the Hessian whose
eigenvalue, the sharpness, is above 2 / rate. Gilmer et al. 2021, A Loss
Curvature Perspective on Training Instability in Deep Learning (arXiv
2110.04369), find the instabilities that warmup cures there.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import ml_collections
import numpy as np

import jaxplay
from jaxplay import finding, formats, rundir
from jaxplay.playbook import result as result_lib
from jaxplay.playbook.stability import decide

# Config and steps -> rows as of `training.sharpness.measure`.
Measure = Callable[
  [ml_collections.ConfigDict, Sequence[int]], Sequence[Mapping[str, Any]]
]
_SOURCE = "Gilmer et al. 2021, arXiv 2110.04369; Cohen et al. 2022, arXiv"
_SOURCE += " 2207.14484"
_ALONG, _IN_WINDOW = 8, 5  # points of a run, and more where the loss rises
_GAP = 0.05  # of a run, between steps that exclude a peak: its 5 lines of 100
_ERROR = 0.02  # relative, of a sharpness that converged

# Optimizer -> the sharpness times the rate above which a quadratic diverges
# (Cohen et al. 2021, arXiv 2103.00065, and 2022), given its momentum. Of the
# last four the sharpness is that of the preconditioned Hessian.
_LIMITS: dict[str, Callable[[Any], float]] = {
  "sgd": lambda hparams: 2.0,
  "momentum": lambda hparams: 2 + 2 * hparams.momentum,
  "nesterov": lambda hparams: (
    (2 + 2 * hparams.momentum) / (1 + 2 * hparams.momentum)
  ),
  "rmsprop": lambda hparams: 2 + 2 * hparams.momentum,
  "adam": lambda hparams: (2 + 2 * hparams.beta1) / (1 - hparams.beta1),
  "adamw": lambda hparams: (2 + 2 * hparams.beta1) / (1 - hparams.beta1),
  "nadam": lambda hparams: (
    (2 + 2 * hparams.beta1) / (1 + 2 * hparams.beta1) / (1 - hparams.beta1)
  ),
}


class Row(TypedDict):
  """A measurement, see `training.sharpness.measure`."""

  step: rundir.Count
  rate: rundir.Seconds  # not negative
  sharpness: float | None
  products: rundir.Count
  examples: rundir.Count


@dataclasses.dataclass(frozen=True)
class Measured:
  """The sharpness along a run.

  Attributes:
    name: Of the run, for people.
    run: Its curves.
    kind: Of its instability; "": it is stable.
    rows: Measurements in the order of their steps.
    limit: The product of sharpness and rate that is not stable.
  """

  name: str
  run: decide.Run
  kind: str
  rows: Sequence[Row]
  limit: float

  def threshold(self, row: Row) -> float:
    """The sharpness that the rate of a row makes unstable."""
    return self.limit / row["rate"] if row["rate"] else math.inf

  def ratio(self, row: Row) -> float:
    """Sharpness over threshold; NaN: it did not converge."""
    if row["sharpness"] is None:
      return math.nan
    return row["sharpness"] / self.threshold(row)

  @property
  def window(self) -> tuple[int, int]:
    """The steps between which its loss rises; see `rise`."""
    return rise(self.run, self.kind)


def limit(config: ml_collections.ConfigDict) -> float:
  """The product of sharpness and learning rate above which training diverges.

  For steps of the gradient of the mean loss, without noise.

  Raises:
    jaxplay.UserError: It is not known for the config's optimizer.
  """
  if config.optimizer not in _LIMITS:
    raise jaxplay.UserError(
      f"no threshold of the sharpness is known for config.optimizer="
      f"{config.optimizer!r}; it is for {', '.join(_LIMITS)}: use one of these,"
      " or leave the sharpness out"
    )
  return float(_LIMITS[config.optimizer](config.hparams))


def rise(run: decide.Run, kind: str) -> tuple[int, int]:
  """The first and last step of the largest rise of a run's loss.

  From the lowest mean loss, over 5 lines, to the highest after it. Of a run
  that diverged the last line is the highest; of one that never trains it is the
  whole run.
  """
  finite = np.isfinite(run.loss)
  steps, loss = run.steps[finite], run.loss[finite]
  last = int(run.steps[-1]) if len(run.steps) else 0
  width = max(1, min(5, len(loss) // 4))
  if kind == "never trains" or len(loss) <= width:
    return 0, last
  means = np.convolve(loss, np.ones(width) / width, "valid")
  lowest = np.minimum.accumulate(means)
  top = len(means) - 1
  if kind != "diverged":
    top = int(np.argmax(means - lowest))
    last = int(steps[top + width - 1])
  bottom = int(np.argmin(means[: top + 1]))
  return int(steps[bottom]) if bottom else 0, last


def steps(run: decide.Run, kind: str, total: int) -> list[int]:
  """The steps at which to measure a run of `total` steps.

  Evenly spaced by their logarithm and by their number, and more where the loss
  of an unstable run rises.
  """
  last = max(1, total - 1)
  half = _ALONG // 2
  places = [*np.geomspace(1, last, half), *np.linspace(0, last, half)]
  if kind:
    places += [*np.linspace(*rise(run, kind), _IN_WINDOW)]
  return sorted({min(int(round(place)), last) for place in places})


def explain(measured: Measured) -> finding.Finding:
  """Checks whether the sharpness of a run explains its instability.

  The rule: it is above the threshold at a step where the loss rises, by more
  than its error. Below it at all of these steps, it does not explain it, if no
  two of them are further apart than the 5 lines by which the rise is located: a
  peak between them would be missed. The threshold is that of the mean loss:
  small batches make training unstable before it, and clipped updates after it.

  Args:
    measured: An unstable run.
  """
  start, end = measured.window
  inside = [row for row in measured.rows if start <= row["step"] <= end]
  ratios = np.array([measured.ratio(row) for row in inside])
  largest = float(np.nanmax(ratios)) if np.isfinite(ratios).any() else None
  evidence = dict(
    rate=measured.run.rate,
    kind=measured.kind,
    loss_rises_from=start,
    loss_rises_to=end,
    measured_there=len(inside),
    converged_there=int(np.isfinite(ratios).sum()),
    largest_ratio=largest,
    clipped=measured.run.clipped,
    products=sum(row["products"] for row in measured.rows),
    explained=None,
  )
  where = (
    f"the loss at learning rate {measured.run.rate:g} rises from step"
    f" {start:,} to {end:,}"
  )

  def judged(verdict, advice, explained=None):
    return finding.Finding(
      "sharpness",
      verdict,
      "hparams.learning_rate",
      evidence | {"explained": explained},
      advice,
      _SOURCE,
    )

  if largest is None:
    return judged(
      "unknown",
      f"Where {where}, no sharpness converged, so it is unknown whether it"
      " explains that.",
    )
  if measured.run.clipped:
    return judged(
      "unknown",
      f"{measured.run.clipped:.0%} of the updates are clipped, which are"
      f" smaller than the threshold supposes: it is unknown why {where}.",
    )
  if largest > 1 + _ERROR:
    return judged(
      "warn",
      f"The curvature explains the instability: {where}, and the sharpness"
      f" there reaches {largest:.2g} times what this rate can follow. A warmup"
      " lets training move to where the loss is less sharp.",
      True,
    )
  if largest >= 1 - _ERROR or not np.isfinite(ratios).all():
    missing = len(ratios) - int(np.isfinite(ratios).sum())
    return judged(
      "unknown",
      f"Where {where}, the sharpness reaches {largest:.2g} times its threshold,"
      f" and {formats.count(missing, 'measurement')} there did not converge:"
      " it is unknown whether it explains that.",
    )
  places = [start, *(row["step"] for row in inside), end]
  gap = int(np.diff(places).max())
  if gap > max(1, _GAP * measured.run.steps[-1]):
    return judged(
      "unknown",
      f"Where {where}, the sharpness is at most {largest:.2g} times its"
      f" threshold at {formats.count(len(inside), 'step')}, up to {gap:,} steps"
      " apart: whether it is higher between them is unknown.",
    )
  return judged(
    "warn",
    f"The curvature of the mean loss does not explain the instability: {where},"
    f" and the sharpness there is at most {largest:.2g} times its threshold."
    " The noise of small batches, single batches with large gradients, or the"
    " data remain: a larger batch or clipping may help.",
    False,
  )


def figure(all_measured: Sequence[Measured]) -> result_lib.FigureData:
  """The sharpness of some runs and its threshold against the step."""

  def lines(value, series):
    return [
      dict(x=row["step"], y=float(value(m, row)), series=series(m))
      for m in all_measured
      for row in m.rows
      if row["sharpness"] is not None and math.isfinite(value(m, row))
    ]

  sharpness = lines(lambda m, row: row["sharpness"], lambda m: m.name)
  products = sum(row["products"] for m in all_measured for row in m.rows)
  number = max(
    (row["examples"] for m in all_measured for row in m.rows), default=0
  )
  return result_lib.FigureData(
    "sharpness and its threshold",
    result_lib.Axis("step"),
    result_lib.Axis("largest eigenvalue of the Hessian", log=True),
    lines=[
      *sharpness,
      *lines(
        lambda m, row: m.threshold(row),
        lambda m: f"{m.limit:.3g} / rate, {m.name}",
      ),
    ],
    points=sharpness,
    caption="Above its threshold, training overshoots along the direction of"
    f" the largest curvature (Gilmer et al. 2021). Of the loss of"
    f" {number:,} training examples, by {products:,} Hessian-vector products;"
    " what did not converge is left out.",
  )


def table(all_measured: Sequence[Measured]) -> result_lib.Table:
  """A row for each run: where its sharpness is largest."""
  rows = []
  for m in all_measured:
    known = [row for row in m.rows if row["sharpness"] is not None]
    top = max(known, key=m.ratio, default=None)
    rows.append(
      [
        m.name,
        m.kind or "stable",
        top and top["sharpness"],
        top and m.threshold(top),
        top and top["step"],
        f"{len(known)} of {len(m.rows)}",
        sum(row["products"] for row in m.rows),
      ]
    )
  return result_lib.Table(
    "Sharpness",
    [
      *("run", "training", "sharpness", "threshold", "at step"),
      *("converged", "Hessian-vector products"),
    ],
    rows,
    "Where it is largest relative to its threshold.",
  )
