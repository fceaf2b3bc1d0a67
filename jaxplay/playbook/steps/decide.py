"""How long to train: the playbook's rules, on numbers.

Playbook, number of steps: a first `max_train_steps` is the number of steps in
which the fastest trial of a sweep of constant learning rates fits the training
set, without augmentation and regularization; and the sweep must not have its
best rate at the edge.
"""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import finding
from jaxplay.playbook import result as result_lib

_SWEEP = (
  "Playbook, algorithm for picking an initial candidate for max_train_steps"
  " using a learning rate sweep"
)


TRAINED = ("train/loss", "train/error_rate")  # metrics of the training set


@dataclasses.dataclass(frozen=True)
class Target:
  """A value of a metric that is to be reached: `METRIC<=X`.

  Attributes:
    metric: A logged metric, such as "valid/error_rate".
    most: The largest value that is good enough.
  """

  metric: str
  most: float

  def __str__(self):
    return f"{self.metric}<={self.most:g}"

  @classmethod
  def parse(cls, text: str) -> "Target":
    """The target of a text such as "valid/error_rate<=0.05".

    Raises:
      jaxplay.UserError: It is none.
    """
    match = re.fullmatch(r"\s*([\w/.+-]+)\s*<=\s*(\S+)\s*", text)
    try:
      most = float(match[2]) if match else math.nan
    except ValueError:
      most = math.nan
    # Neither losses nor error rates are below 0.
    if match is None or not 0 <= most < math.inf:
      raise jaxplay.UserError(
        f"invalid target {text!r}; write METRIC<=X, such as"
        " 'valid/error_rate<=0.05', in quotes"
      )
    return cls(match[1], most)

  def reached(
    self,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    window_steps: float = 0,
  ) -> int | None:
    """The first step at which a run has reached the target; None: never.

    Args:
      curves: Metric -> (steps [n], values [n]).
      window_steps: All values of as many steps have to be good enough: an epoch
        of a training metric, each value of which is a mean over some batches.
    """
    steps, values = curves.get(self.metric, (np.zeros(0), np.zeros(0)))
    since = before = 0  # the end of the last bad value, and of the last one
    for step, value in zip(steps, values, strict=True):
      if not value <= self.most:
        since = step
      elif step - min(since, before) >= window_steps:
        return int(step)
      before = step
    return None


@dataclasses.dataclass(frozen=True)
class Fit:
  """How one rate of the sweep did.

  Attributes:
    rate: The learning rate.
    status: Of the trial, "completed" or "infeasible".
    steps: In which it fitted the training set; None: it did not.
    least: Best value of the training metric; NaN: none.
  """

  rate: float
  status: str
  steps: int | None
  least: float


def initial(
  fits: Sequence[Fit], target: Target, max_train_steps: int
) -> tuple[int | None, list[finding.Finding]]:
  """The number of steps to begin with, or why it is unknown.

  1. No rate fits the training set: `unknown`; more steps, or the workload is
     compute-bound and this algorithm is not for it.
  2. The fastest rate is the lowest or the highest of the sweep: `fail`, with
     the range that is wider by a factor of ten on that side. Rates beyond the
     fastest one that all diverge are no edge of the range, but of stability.

  Args:
    fits: Of each rate, in any order.
    target: What counts as fitted.
    max_train_steps: Of each trial.

  Returns:
    (steps of the fastest trial or None, findings)
  """
  fits = sorted(fits, key=lambda fit: fit.rate)
  rates = [fit.rate for fit in fits]
  evidence: dict[str, Any] = dict(
    lowest_rate=rates[0], highest_rate=rates[-1], target=str(target)
  )
  fitted = [fit for fit in fits if fit.steps is not None]
  found = lambda verdict, advice="", **more: finding.Finding(  # noqa: E731
    "initial_max_train_steps",
    verdict,
    target.metric,
    evidence | more,
    advice,
    _SWEEP,
  )
  if not fitted:
    closest = min(
      fits, key=lambda f: f.least if math.isfinite(f.least) else math.inf
    )
    return None, [
      found(
        "unknown",
        f"No rate reaches {target} within {max_train_steps:,} steps; the"
        f" closest is {closest.least:.3g}, at rate {closest.rate:g}. Give the"
        f" sweep more steps (--steps={4 * max_train_steps}) or a looser --fit;"
        " if the training loss falls however long it trains, the workload is"
        " compute-bound, and its length is what you can afford: tune in rounds"
        " (plan rounds).",
        least=closest.least,
        at_rate=closest.rate,
      )
    ]
  fastest = min(fitted, key=lambda fit: (fit.steps, fit.rate))
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
        f"The fastest rate, {fastest.rate:g}, is the {side} of the sweep, so a"
        " better one may lie beyond it, and the number of steps would be too"
        f" large. Sweep --learning_rates={wider[0]:g}:{wider[1]:g}.",
        proposed=list(wider),
      )
    ]
  findings = [found("ok")]
  beyond = fits[at + 1 :]
  if all(fit.status == "infeasible" for fit in beyond):
    findings.append(
      finding.Finding(
        "rate_at_edge_of_stability",
        "warn",
        "hparams.learning_rate",
        dict(fastest_rate=fastest.rate, diverged=[f.rate for f in beyond]),
        "All rates above the fastest one diverge. If a fix of the instability"
        " (plan stability) allows higher ones, fewer steps will do.",
        "Playbook, how can optimization failures be debugged and mitigated",
      )
    )
  return fastest.steps, findings


def sweep_answer(
  fits: Sequence[Fit],
  curves: Mapping[float, tuple[np.ndarray, np.ndarray]],
  target: Target,
  max_train_steps: int,
  off: Mapping[str, Any],
  flat: Mapping[str, Any],
) -> result_lib.ProcedureResult:
  """The result of the sweep; `initial` decides.

  Args:
    fits: Of each rate.
    curves: Rate -> (steps, values) of the training metric.
    target: What counts as fitted.
    max_train_steps: Of each trial.
    off: Config keys that the sweep had switched off, with their values in it.
    flat: The base config's dotted keys and values.
  """
  steps, findings = initial(fits, target, max_train_steps)
  fits = sorted(fits, key=lambda fit: fit.rate)
  fastest = min(
    (fit for fit in fits if fit.steps is not None),
    key=lambda fit: fit.steps or 0,
    default=None,
  )
  if steps is None or fastest is None:
    said = [findings[0].advice]
  else:
    said = [
      f"The fastest trial fits the training set ({target}) in {steps:,} steps,"
      f" at a constant learning rate of {fastest.rate:g}: train for"
      f" {steps:,} steps to begin with."
    ]
  if off:
    changed = ", ".join(
      f"{key}={value}"
      for key, value in off.items()
      if config_lib.has_effect(key, {**flat, **off})
    )
    said.append(f"Only in the sweep, so that it can fit: {changed}.")
  curves_figure = result_lib.FigureData(
    "training metric of each rate",
    result_lib.Axis("step"),
    result_lib.Axis(target.metric),
    lines=[
      dict(x=int(x), y=float(y), series=f"{rate:g}")
      for rate, (xs, ys) in sorted(curves.items())
      for x, y in zip(xs, ys, strict=True)
    ],
    levels={str(target): target.most},
    rules={} if steps is None else {f"{steps:,} steps": steps},
    caption="The first curve that comes down to the line, and stays there for"
    " an epoch, gives the number of steps to begin with.",
  )
  points_figure = result_lib.FigureData(
    "steps to fit the training set",
    result_lib.Axis("learning rate, constant", log=True),
    result_lib.Axis("steps", log=True),
    lines=[
      dict(x=fit.rate, y=fit.steps, series="fits")
      for fit in fits
      if fit.steps is not None
    ],
    points=[
      dict(
        x=fit.rate,
        y=fit.steps or max_train_steps,
        series="fits"
        if fit.steps
        else "diverged"
        if fit.status == "infeasible"
        else "does not fit",
      )
      for fit in fits
    ],
    caption="A least value that lies within the range, not at its edge, can be"
    " trusted.",
  )
  rows = [[fit.rate, fit.steps or "-", fit.least, fit.status] for fit in fits]
  return result_lib.ProcedureResult(
    summary=said,
    settings={} if steps is None else config_lib.with_steps(flat, steps),
    findings=findings,
    tables=[
      result_lib.Table(
        "Sweep of constant learning rates",
        ["learning rate", "steps to fit", f"least {target.metric}", "status"],
        rows,
      )
    ],
    figures=[points_figure, curves_figure],
    details=dict(
      steps=steps, rate=fastest and fastest.rate, target=str(target)
    ),
  )
