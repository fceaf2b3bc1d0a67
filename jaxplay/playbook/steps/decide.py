"""Decides on the number of steps from measurements, by the playbook's rules.

Playbook, number of steps: the first `max_train_steps` is the number of steps in
which the fastest trial of a sweep of constant learning rates fits the training
set, without augmentation and regularization. The fastest learning rate must not
be at the edge of the sweep.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import finding, formats
from jaxplay.playbook import result as result_lib

_SWEEP = (
  "Playbook, algorithm for picking an initial candidate for max_train_steps"
  " using a learning rate sweep"
)


# What counts as a fitted training set, over an epoch.
FITTED = "train/error_rate<=0"
TRAINED = ("train/loss", "train/error_rate")  # metrics of the training set


@dataclasses.dataclass(frozen=True)
class Target:
  """A target value of a metric: `METRIC<=X`, or `METRIC>=X` if more is better.

  Attributes:
    metric: A logged metric, such as "valid/error_rate".
    limit: The worst value that reaches the target.
    declared: `config.declared`, for the direction of the metric.
  """

  metric: str
  limit: float
  declared: Sequence[Sequence[Any]] = ()

  def __str__(self):
    return f"{self.metric}{self.kind.either('<=', '>=')}{self.limit:g}"

  @property
  def kind(self) -> config_lib.metric.Metric:
    """Direction and kind of the metric."""
    return config_lib.metric.of(self.metric, self.declared)

  @classmethod
  def parse(cls, text: str, declared: Sequence[Sequence[Any]] = ()) -> "Target":
    """Parses "valid/error_rate<=0.05" or "valid/accuracy>=0.95".

    Args:
      text: The text.
      declared: `config.declared`.

    Raises:
      jaxplay.UserError: The text is no target, or in the wrong direction.
    """
    match = re.fullmatch(r"\s*([\w/.+-]+)\s*([<>]=)\s*(\S+)\s*", text)
    try:
      limit = float(match[3]) if match else math.nan
    except ValueError:
      limit = math.nan
    target = cls(match[1] if match else "", limit, declared)
    # Losses and error rates are not negative, and accuracies at most 1.
    least = 0.0
    if target.kind.maximized and target.kind.most is None:
      least = -math.inf
    if match is None or not least <= target.cost(limit) < math.inf:
      raise jaxplay.UserError(
        "expected a target METRIC<=X, such as 'valid/error_rate<=0.05', or"
        " METRIC>=X, such as 'valid/accuracy>=0.95' (in quotes), got"
        f" {text!r}"
      )
    if match[2] != target.kind.either("<=", ">="):
      raise jaxplay.UserError(
        f"expected '{target}' as target, since {match[1]} is"
        f" {target.kind.either('minimized', 'maximized')}, got {text!r}"
      )
    return target

  def cost(self, value: float) -> float:
    """What is minimized, see `config.metric`; inf if it is not finite."""
    return self.kind.cost(value) if math.isfinite(value) else math.inf

  def reached(
    self,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    window_steps: float = 0,
  ) -> int | None:
    """Returns the step at which a run reaches the target; None: it does not.

    Args:
      curves: Metric -> (steps [n], values [n]).
      window_steps: The target is reached once all values of this number of
        steps reach `limit`. A value of a training metric is a mean over
        some batches, so use an epoch for these.
    """
    steps, values = curves.get(self.metric, (np.zeros(0), np.zeros(0)))
    most = self.cost(self.limit)
    since = before = 0  # steps of the last value that misses, and of the last
    for step, value in zip(steps, values, strict=True):
      if not self.cost(value) <= most:
        since = step
      elif step - min(since, before) >= window_steps:
        return int(step)
      before = step
    return None


@dataclasses.dataclass(frozen=True)
class SweepTrial:
  """A trial of the sweep of the learning rate.

  Attributes:
    rate: The learning rate.
    status: "completed" or "infeasible".
    steps: Steps in which it fitted the training set; None: it did not fit.
    best: Best value of the training metric; NaN: none.
  """

  rate: float
  status: str
  steps: int | None
  best: float


def initial(
  trials: Sequence[SweepTrial], target: Target, max_train_steps: int
) -> tuple[int | None, list[finding.Finding]]:
  """Returns the initial number of steps, or why it is unknown.

  1. If no trial fits the training set, it is `unknown`: the sweep needs more
     steps, or the workload is compute-bound, and this algorithm does not apply.
  2. If the fastest learning rate is the lowest or highest of the sweep, `fail`,
     with a range that is extended by a factor of ten. If all higher ones
     diverge, it is at an edge of stability, and not of the range.

  Args:
    trials: Trials of the sweep, in any order.
    target: The target of fitting the training set.
    max_train_steps: Number of steps of each trial.

  Returns:
    (steps of the fastest trial or None, findings)
  """
  trials = sorted(trials, key=lambda trial: trial.rate)
  rates = [trial.rate for trial in trials]
  evidence: dict[str, Any] = dict(
    lowest_rate=rates[0], highest_rate=rates[-1], target=str(target)
  )

  def found(verdict, advice="", **more):
    return finding.Finding(
      "initial_max_train_steps",
      verdict,
      target.metric,
      evidence | more,
      advice,
      _SWEEP,
    )

  fitted = [trial for trial in trials if trial.steps is not None]
  if not fitted:
    closest = min(trials, key=lambda trial: target.cost(trial.best))
    return None, [
      found(
        "unknown",
        f"No learning rate reaches {target} within {max_train_steps:,} steps;"
        f" the closest value is {closest.best:.3g}, at {closest.rate:g}. Use"
        f" more steps (--steps={4 * max_train_steps}) or a looser --fit. If the"
        " training loss still falls at any number of steps, the workload is"
        " compute-bound: train for as long as you can afford, and tune in"
        " rounds (plan rounds).",
        at_rate=closest.rate,
        **{target.kind.either("least", "largest"): closest.best},
      )
    ]
  fastest = min(fitted, key=lambda trial: (trial.steps, trial.rate))
  evidence |= dict(fastest_rate=fastest.rate, steps=fastest.steps)
  at = rates.index(fastest.rate)
  side, wider = None, (rates[0], rates[-1])
  if at == 0:
    side, wider = "lowest", (rates[0] / 10, rates[-1])
  elif at == len(rates) - 1:
    side, wider = "highest", (rates[0], rates[-1] * 10)
  if side is not None:
    return None, [
      found(
        "fail",
        f"The fastest learning rate, {fastest.rate:g}, is the {side} of the"
        " sweep, so a rate outside it may be faster, and the number of steps"
        f" too large. Use --learning_rates={wider[0]:g}:{wider[1]:g}.",
        proposed=list(wider),
      )
    ]
  findings = [found("ok")]
  beyond = trials[at + 1 :]
  if all(trial.status == "infeasible" for trial in beyond):
    findings.append(
      finding.Finding(
        "rate_at_edge_of_stability",
        "warn",
        "hparams.learning_rate",
        dict(fastest_rate=fastest.rate, diverged=[t.rate for t in beyond]),
        f"All learning rates above the fastest one, {fastest.rate:g}, diverge."
        " If a fix of the instability (plan stability) allows higher ones,"
        " fewer steps are enough.",
        "Playbook, how can optimization failures be debugged and mitigated",
      )
    )
  return fastest.steps, findings


def as_result(
  trials: Sequence[SweepTrial],
  curves: Mapping[float, tuple[np.ndarray, np.ndarray]],
  target: Target,
  max_train_steps: int,
  off: Mapping[str, Any],
  flat: Mapping[str, Any],
) -> result_lib.ProcedureResult:
  """Returns the result of the sweep, as decided by `initial`.

  Args:
    trials: Trials of the sweep.
    curves: Learning rate -> (steps, values) of the training metric.
    target: The target of fitting the training set.
    max_train_steps: Number of steps of each trial.
    off: Values, in the sweep, of the config keys that it turned off.
    flat: Dotted keys and values of the base config.
  """
  steps, findings = initial(trials, target, max_train_steps)
  trials = sorted(trials, key=lambda trial: trial.rate)
  fastest = min(
    (trial for trial in trials if trial.steps is not None),
    key=lambda trial: trial.steps or 0,
    default=None,
  )
  if steps is None or fastest is None:
    summary = [findings[0].advice]
  else:
    summary = [
      f"Begin with max_train_steps = {steps:,}: the fastest trial fits the"
      f" training set ({target}) in {steps:,} steps, at a constant learning"
      f" rate of {fastest.rate:g}."
    ]
  settings = {}
  if steps is not None:
    often = config_lib.with_evaluations(dict(flat), steps)
    settings = config_lib.with_steps(flat, steps) | often
    if often:
      summary.append(
        f"Evaluate every {formats.count(often['eval_every'], 'step')}: with"
        f" eval_every = {flat['eval_every']:,}, {steps:,} steps have too few"
        " evaluations to select the best checkpoint, or to judge the length."
      )
  if off:
    changed = ", ".join(
      f"{key}={value}"
      for key, value in off.items()
      if config_lib.has_effect(key, {**flat, **off})
    )
    summary.append(f"Turned off in the sweep, so that it can fit: {changed}.")
  curves_figure = result_lib.FigureData(
    "training metric of each learning rate",
    result_lib.Axis("step"),
    result_lib.Axis(target.metric),
    lines=[
      dict(x=int(x), y=float(y), series=f"{rate:g}")
      for rate, (xs, ys) in sorted(curves.items())
      for x, y in zip(xs, ys, strict=True)
    ],
    levels={str(target): target.limit},
    rules={} if steps is None else {f"{steps:,} steps": steps},
    caption="The first curve that stays at or"
    f" {target.kind.either('below', 'above')} the line for an epoch determines"
    " the number of steps.",
  )

  def series(trial):
    if trial.steps:
      return "fits"
    return "diverged" if trial.status == "infeasible" else "does not fit"

  points_figure = result_lib.FigureData(
    "steps to fit the training set",
    result_lib.Axis("learning rate, constant", log=True),
    result_lib.Axis("steps", log=True),
    lines=[
      dict(x=trial.rate, y=trial.steps, series="fits")
      for trial in trials
      if trial.steps is not None
    ],
    points=[
      dict(x=trial.rate, y=trial.steps or max_train_steps, series=series(trial))
      for trial in trials
    ],
    caption="The minimum is reliable if it is not at an edge of the range.",
  )
  rows = [[t.rate, t.steps or "-", t.best, t.status] for t in trials]
  return result_lib.ProcedureResult(
    summary=summary,
    settings=settings,
    findings=findings,
    tables=[
      result_lib.Table(
        "Sweep of constant learning rates",
        [
          *("learning rate", "steps to fit"),
          f"{target.kind.either('least', 'largest')} {target.metric}",
          "status",
        ],
        rows,
      )
    ],
    figures=[points_figure, curves_figure],
    details=dict(
      steps=steps, rate=fastest and fastest.rate, target=str(target)
    ),
  )
