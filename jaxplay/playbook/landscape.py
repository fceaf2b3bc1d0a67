"""What the loss on the line between two checkpoints, or at their mean, shows.

After Hägele et al. 2024 (arXiv 2405.18392), on the cooldown and on averages of
weights; the barrier on a line is that of Frankle et al. 2020 (arXiv
1912.05671), here above the higher end, as the ends of a cooldown differ.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from jaxplay import config as config_lib
from jaxplay import formats
from jaxplay.analysis import difference
from jaxplay.playbook import result as result_lib

_LEVEL = 0.95
_SPLITS = {"valid": "validation", "train": "training"}
INTERPOLATED = "batch statistics interpolated"
RECOMPUTED = "batch statistics recomputed"


@dataclasses.dataclass(frozen=True, eq=False)
class Point:
  """A model on a line, or a mean of models.

  Attributes:
    position: 0 at the first end, 1 at the last; of a mean, how many models.
    loss: Mean over the examples, nats or squared error.
    value: The metric of the objective.
    costs: Loss of each example, [examples]; None: not known.
    counts: How often each counts in the mean, [examples]; None: all the same.
  """

  position: float
  loss: float
  value: float
  costs: np.ndarray | None = None
  counts: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Gap:
  """By how much one loss is above another.

  Attributes:
    value: The difference.
    interval: With 95% confidence over the sampling of the examples, which both
      were evaluated on; None: not known.
  """

  value: float
  interval: tuple[float, float] | None

  @property
  def is_clear(self) -> bool:
    """Whether the interval does not hold 0."""
    return self.interval is not None and (
      self.interval[0] > 0 or self.interval[1] < 0
    )

  def __str__(self):
    text = formats.number(abs(self.value))
    if self.interval is None:
      return text
    low, high = sorted(math.copysign(1, self.value) * x for x in self.interval)
    return f"{text} (95%: {formats.number(low)} to {formats.number(high)})"


def gap(one: Point, other: Point, number: int = 1) -> Gap:
  """By how much the loss of `one` is above that of `other`.

  Args:
    one: A point.
    other: Another, on the same examples.
    number: Of how many it is the highest, or lowest: the interval holds for all
      of them together (Bonferroni).
  """
  value = one.loss - other.loss
  if one.costs is None or other.costs is None or len(one.costs) < 2:
    return Gap(value, None)
  data = difference.paired(one.costs[None], other.costs[None], one.counts)
  quantile = stats.t.isf((1 - _LEVEL) / 2 / number, len(one.costs) - 1)
  reach = float(quantile * math.sqrt(data.variance))
  return Gap(value, (value - reach, value + reach))


def positions(points: int) -> np.ndarray:
  """Positions on a line: `points` from 0 to 1, and a quarter more on each side.

  Args:
    points: At least 2; both ends are among them.
  """
  beyond = (points - 1) // 4
  return np.arange(-beyond, points + beyond) / (points - 1)


def line(
  series: Mapping[str, Sequence[Point]],
  ends: tuple[Mapping[str, Any], Mapping[str, Any]],
  metric: config_lib.metric.Metric,
  split: str,
) -> result_lib.ProcedureResult:
  """What the line between two models shows.

  Args:
    series: Points by how batch statistics were made, in the order of their
      positions, of which 0 and 1 are two; the first is judged. Of a model
      without such statistics there is one, "loss".
    ends: Facts of both: "source", and of a run "step" and "weights".
    metric: Of the objective, for the table.
    split: What was evaluated.
  """
  judged = next(iter(series.values()))
  first, last = (_at(judged, place) for place in (0, 1))
  inside = [point for point in judged if 0 <= point.position <= 1]
  top = max(inside, key=_height)
  higher = max(first, last, key=_height)
  barrier = gap(top, higher, max(len(inside) - 2, 1))
  fall = gap(first, last)
  # Of equal points an end.
  lowest = min(first, last, *judged, key=_height)
  number = None if first.costs is None else len(first.costs)
  names = [_name(end) for end in ends]
  summary = [_barrier(barrier, top), _fall(fall, names, split)]
  if lowest not in (first, last) and math.isfinite(lowest.loss):
    lower = gap(min(first, last, key=_height), lowest, len(judged) - 2)
    clear = "" if lower.is_clear else ", which may be chance"
    summary.append(
      f"The lowest loss of the line is at {lowest.position:.2f},"
      f" {lower} below the lower end{clear}."
    )
  if RECOMPUTED in series:
    summary.append(_statistics(series))
  details = {
    "split": split,
    "examples": number,
    "ends": [dict(end) for end in ends],
    "barrier": {"at": top.position} | dataclasses.asdict(barrier),
    "fall": dataclasses.asdict(fall),
    "lowest": {"at": lowest.position, "loss": lowest.loss},
    "lines": {
      name: [
        {"position": p.position, "loss": p.loss, metric.name: p.value}
        for p in points
      ]
      for name, points in series.items()
    },
  }
  figure = result_lib.FigureData(
    f"{_SPLITS[split]} loss on the line between two checkpoints",
    result_lib.Axis("position: 0 is the first checkpoint, 1 the second"),
    result_lib.Axis(f"{_SPLITS[split]} loss"),
    lines=[
      {"x": point.position, "y": point.loss, "series": name}
      for name, points in series.items()
      for point in points
    ],
    points=[
      {"x": end.position, "y": end.loss, "series": name}
      for name, points in series.items()
      for end in (_at(points, 0), _at(points, 1))
    ],
    rules={name: place for place, name in enumerate(names)},
    caption="The loss at the weights (1 - position) * first + position *"
    " second, also beyond both. A rise between the two is a barrier: they lie"
    " in different valleys (Hägele et al. 2024; Frankle et al. 2020).",
  )
  return result_lib.ProcedureResult(
    summary=summary,
    tables=[_table(series, metric, split)],
    figures=[figure],
    details=details,
  )


def _height(point):
  """The loss; what is not finite is above all."""
  return point.loss if math.isfinite(point.loss) else math.inf


def _at(points, position):
  return next(point for point in points if point.position == position)


def _name(end):
  """Such as "constant step 1200 (ema)"."""
  source = str(end["source"]).rstrip("/").rpartition("/")[2]
  folder = source.rpartition(":")[0] or source
  if "step" not in end:
    return source
  weights = "" if end["weights"] == "raw" else f" ({end['weights']})"
  return f"{folder} step {end['step']}{weights}"


def _barrier(barrier, top):
  if not math.isfinite(barrier.value):
    return (
      "The loss is not finite at some points between the two: there is a"
      " barrier."
    )
  if barrier.value <= 0:
    return (
      "No barrier: between the two the loss is nowhere above its higher end."
    )
  where = f"at {top.position:.2f} the loss is above the higher end by {barrier}"
  if barrier.interval is None:
    return f"Between the two, {where}; its sampling error is not known."
  if barrier.interval[0] > 0:
    return f"There is a barrier: {where}."
  return f"No significant barrier: {where}, which may be chance."


def _fall(fall, names, split):
  if not math.isfinite(fall.value):
    return f"The {_SPLITS[split]} loss of one of the two is not finite."
  way = "lower" if fall.value > 0 else "higher"
  clear = (
    ""
    if fall.is_clear or fall.interval is None
    else ", no significant difference"
  )
  return (
    f"The {_SPLITS[split]} loss of {names[1]} is {way} by {fall} than that of"
    f" {names[0]}{clear}."
  )


def _statistics(series):
  gaps = [
    abs(one.loss - other.loss)
    for one, other in zip(series[RECOMPUTED], series[INTERPOLATED], strict=True)
    if 0 <= one.position <= 1
  ]
  most = formats.number(max(filter(math.isfinite, gaps), default=math.nan))
  return (
    "The averages of batch statistics were computed again at every point, as"
    " those between two models are not the mean of theirs; with interpolated"
    f" ones the loss differs by up to {most} between the"
    " ends, which are then what the runs have evaluated."
  )


def _table(series, metric, split):
  heads = ["position"]
  for name in series:
    more = f", {name}" if len(series) > 1 else ""
    heads.append(f"{split} loss{more}")
    if metric.name != "loss":
      heads.append(f"{split} {metric.name}{more}")
  rows = []
  for points in zip(*series.values(), strict=True):
    row = [points[0].position]
    for point in points:
      row += (
        [point.loss] if metric.name == "loss" else [point.loss, point.value]
      )
    rows.append(row)
  return result_lib.Table(f"{split} loss", heads, rows)


def merge(
  alone: Sequence[tuple[int, Point]],
  merged: Sequence[Point],
  metric: config_lib.metric.Metric,
  split: str,
  recomputed: int = 0,
) -> result_lib.ProcedureResult:
  """Whether a mean of the last checkpoints is better than the last one.

  Args:
    alone: (step, point) of each checkpoint, ascending.
    merged: The mean of the last two, three, ... of them.
    metric: Of the objective, for the table.
    split: What was evaluated.
    recomputed: Examples of which the batch statistics of means were computed;
      0: the model has none.
  """
  (_, last), steps = alone[-1], [step for step, _ in alone]
  best = min(merged, key=_height)
  whole = merged[-1]
  fall = gap(last, whole)
  way = "lower" if fall.value > 0 else "higher"
  clear = (
    ""
    if fall.is_clear or fall.interval is None
    else ", no significant difference"
  )
  summary = [
    f"The mean of {len(steps)} checkpoints (steps"
    f" {', '.join(map(str, steps))}) has a {_SPLITS[split]} loss that is {way}"
    f" by {fall} than that of the last alone{clear}."
  ]
  if best is not whole:
    summary.append(
      f"The mean of the last {best.position:.0f} checkpoints has the lowest"
      f" loss, {formats.number(best.loss)}. That value is too optimistic, as it"
      " was selected on the same examples."
    )
  if recomputed:
    summary.append(
      "Batch statistics of each mean were computed again, from"
      f" {recomputed:,} training examples."
    )
  series = [
    ("one checkpoint", steps[::-1], [point for _, point in alone][::-1]),
    ("mean from it to the last", steps[::-1][1:], merged),
  ]
  drawn = [
    {"x": step, "y": point.loss, "series": name}
    for name, at, points in series
    for step, point in zip(at, points, strict=True)
  ]
  rows: list[list[Any]] = []
  means = {int(point.position): point for point in merged}
  for number, (step, point) in enumerate(reversed(alone), 1):
    mean = means.get(number)
    row = [step, point.loss, number, mean and mean.loss]
    if metric.name != "loss":
      row[2:2] = [point.value]
      row += [mean and mean.value]
    rows.append(row)
  heads = ["step", f"{split} loss", "merged", f"{split} loss of the mean"]
  if metric.name != "loss":
    heads[2:2] = [f"{split} {metric.name}"]
    heads += [f"{split} {metric.name} of the mean"]
  figure = result_lib.FigureData(
    f"{_SPLITS[split]} loss of means of checkpoints",
    result_lib.Axis("step of the first checkpoint", whole=True),
    result_lib.Axis(f"{_SPLITS[split]} loss"),
    lines=drawn,
    points=drawn,
    caption="Each checkpoint alone, and the uniform mean of it and all later"
    " ones.",
  )
  return result_lib.ProcedureResult(
    summary=summary,
    tables=[result_lib.Table(f"{split} loss", heads, rows)],
    figures=[figure],
    details={
      "split": split,
      "examples": None if last.costs is None else len(last.costs),
      "checkpoints": [{"step": s, "loss": p.loss} for s, p in alone],
      "means": [{"merged": int(p.position), "loss": p.loss} for p in merged],
      "fall": dataclasses.asdict(fall),
    },
  )
