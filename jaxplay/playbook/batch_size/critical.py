"""Steps to a target at each batch size, and the critical batch size.

Playbook, choosing the batch size: the best size reaches a target in the
least time = time per step x steps, or with the least resources = resources per
step x steps. Up to a critical size, twice the batch size takes half the steps.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxplay import finding
from jaxplay.playbook.steps import decide as steps_decide

# Scaling is perfect while a size needs at most this share of examples more than
# the best one.
_PERFECT = 0.25
# Costs with a smaller relative difference are equal.
_EQUAL = 0.05
FEWEST_SIZES = 4  # for the fit of two numbers
_DRAWS, _GRID = 500, 600

_TIME = "Playbook, choosing the batch size to minimize training time"
_RESOURCES = (
  "Playbook, choosing the batch size to minimize resource consumption"
)
RETUNE = (
  "Playbook, changing the batch size requires re-tuning most hyperparameters"
)
_CRITICAL = "McCandlish et al. 2018, arXiv 1812.06162"


@dataclasses.dataclass(frozen=True)
class RateRuns:
  """The runs of a learning rate with several seeds.

  Attributes:
    rate: The constant learning rate.
    steps: Steps to the target of each seed; None: it did not reach the target.
  """

  rate: float
  steps: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class StepsToTarget:
  """Steps to the target at one batch size, with a tuned learning rate.

  Attributes:
    batch_size: The batch size.
    rates: The best learning rates of the sweep; empty: none of them reached the
      target.
    budget: Number of steps of each trial.
    every: Steps between evaluations, the resolution of steps.
    lowest: The lowest learning rate of the sweep.
    highest: The highest learning rate of the sweep.
    closest: Best value of the metric; NaN: none.
  """

  batch_size: int
  rates: tuple[RateRuns, ...]
  budget: int
  every: int
  lowest: float = 0.0
  highest: float = math.inf
  closest: float = math.nan

  @property
  def means(self) -> tuple[float, ...]:
    """Mean steps of each learning rate; a miss counts as the budget."""
    return tuple(
      float(np.mean([self.budget if s is None else s for s in runs.steps]))
      for runs in self.rates
    )

  @property
  def best(self) -> RateRuns:
    """The runs of the learning rate with the lowest mean."""
    if not self.rates:
      return RateRuns(math.nan, ())
    return self.rates[int(np.argmin(self.means))]

  @property
  def mean(self) -> float:
    """Mean steps of the best learning rate."""
    return min(self.means)

  @property
  def steps(self) -> tuple[int, ...]:
    """Steps of the best learning rate, of the seeds that reached the target."""
    return tuple(s for s in self.best.steps if s is not None)

  @property
  def missed(self) -> int:
    """Number of seeds of the best learning rate that missed the target."""
    return len(self.best.steps) - len(self.steps)

  @property
  def is_known(self) -> bool:
    """Whether most seeds of the best learning rate reached the target."""
    return len(self.steps) > self.missed

  @property
  def examples(self) -> float:
    """Mean number of examples to the target."""
    return self.batch_size * self.mean


def _drawn(sizes, seed=0):
  """Draws log steps of each size from their errors, [draws, sizes].

  The mean of each learning rate is drawn with its standard error. That has two
  parts: the spread over seeds, pooled over all learning rates and sizes since
  there are few seeds, and the evaluation interval. The best learning rate is
  chosen again in each draw.
  """
  squares, freedom = 0.0, 0
  for tuned in sizes:
    for runs in tuned.rates:
      logs = np.log([s for s in runs.steps if s is not None] or [1])
      squares += float(np.sum((logs - logs.mean()) ** 2))
      freedom += len(logs) - 1
  variance = squares / freedom if freedom else 0.0
  rng = np.random.default_rng(seed)
  columns = []
  for tuned in sizes:
    means = np.array(tuned.means)
    seeds = np.array([len(runs.steps) for runs in tuned.rates])
    errors = np.sqrt((variance + (tuned.every / means) ** 2 / 12) / seeds)
    noise = rng.normal(size=(_DRAWS, len(means)))
    columns.append((np.log(means) + errors * noise).min(1))
  return np.stack(columns, 1)


def relative_errors(sizes: Sequence[StepsToTarget]) -> np.ndarray:
  """Returns the standard error of log steps of each size.

  Includes the choice of the best learning rate, which biases its mean.
  """
  logs = np.log([tuned.mean for tuned in sizes])
  return np.sqrt(np.mean((_drawn(sizes) - logs) ** 2, axis=0))


@dataclasses.dataclass(frozen=True)
class CriticalFit:
  """The fit of steps = least_steps (1 + critical / batch size).

  Attributes:
    least_steps: Limit of the steps for large batch sizes.
    critical: The critical batch size, with 2 * least_steps.
    low: 5th percentile of the critical batch size over seeds, the choice of the
      learning rate, and the residuals. The spacing of the learning rates is not
      included.
    high: 95th percentile.
    residual: Root mean square of the residuals of log steps.
  """

  least_steps: float
  critical: float
  low: float
  high: float
  residual: float

  def steps(self, batch_size: float) -> float:
    """Returns the steps at a batch size, by the fit."""
    return self.least_steps * (1 + self.critical / batch_size)


def fit_critical(
  sizes: Sequence[StepsToTarget], seed: int = 0
) -> CriticalFit | None:
  """Fits the critical batch size; None: fewer than four sizes.

  Least squares of log steps, over a grid of critical batch sizes from 1/100 of
  the smallest size to 100 times the largest. McCandlish et al. 2018.
  """
  if len(sizes) < FEWEST_SIZES:
    return None
  batch_sizes = np.array([tuned.batch_size for tuned in sizes], float)
  logs = np.log([tuned.mean for tuned in sizes])
  grid = np.geomspace(batch_sizes.min() / 100, batch_sizes.max() * 100, _GRID)
  shapes = np.log1p(grid[:, None] / batch_sizes)  # [grid, sizes]
  centred = shapes - shapes.mean(1, keepdims=True)

  def best(values):
    """Returns the index into the grid for each row of values [n, sizes]."""
    values = values - values.mean(1, keepdims=True)
    # |v - c|^2 without |v|^2, which is the same for the whole grid.
    return np.argmin((centred**2).sum(1) - 2 * values @ centred.T, axis=1)

  at = int(best(logs[None])[0])
  least = float(np.exp(np.mean(logs - shapes[at])))
  residuals = logs - np.log(least) - shapes[at]
  # Residuals that are larger than the errors of the steps add to the interval.
  variance = np.sum(residuals**2) / (len(sizes) - 2)
  unexplained = max(0.0, variance - np.mean(relative_errors(sizes) ** 2))
  drawn = _drawn(sizes, seed)
  noise = np.random.default_rng(seed + 1).normal(size=drawn.shape)
  drawn += math.sqrt(unexplained) * noise
  low, high = np.percentile(grid[best(drawn)], (5, 95))
  return CriticalFit(
    least_steps=least,
    critical=float(grid[at]),
    low=float(low),
    high=float(high),
    residual=float(np.sqrt(np.mean(residuals**2))),
  )


def perfect_to(sizes: Sequence[StepsToTarget]) -> int:
  """Returns the largest batch size up to which scaling is perfect.

  Its examples to the target are within 25% or two standard errors of the
  minimum over all sizes.
  """
  return max(_near(sizes, [tuned.examples for tuned in sizes], _PERFECT, max))


def cheapest(sizes: Sequence[StepsToTarget], costs: Mapping[int, float]) -> int:
  """Returns the batch size of the least cost to the target.

  Of sizes whose costs differ by less than 5% and by less than two standard
  errors, the smallest.

  Args:
    sizes: Steps of each size, ascending.
    costs: Batch size -> cost of a step.
  """
  totals = [costs[tuned.batch_size] * tuned.mean for tuned in sizes]
  return min(_near(sizes, totals, _EQUAL, min))


def _near(sizes, values, share, combine):
  """Returns the sizes whose values are near the least.

  Args:
    sizes: Steps of each size.
    values: Value of each size.
    share: Largest relative difference.
    combine: `min` if a difference must also be below two standard errors, `max`
      if one of the two conditions is enough.
  """
  errors = relative_errors(sizes)
  logs = np.log(values)
  least = int(np.argmin(logs))
  near = []
  for i, tuned in enumerate(sizes):
    two_errors = 2 * math.hypot(errors[i], errors[least])
    limit = combine(math.log1p(share), two_errors)
    if i == least or logs[i] - logs[least] <= limit:
      near.append(tuned.batch_size)
  return near


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Decisions on the batch sizes that reached a target.

  Attributes:
    time: The size with the least time on these devices (B5), and so with the
      fewest device-seconds (B6).
    time_scaled: The size with the least time if the number of devices grew in
      proportion to the batch size, at the same time per step.
    resources_scaled: The size with the fewest device-seconds in that case.
    perfect: See `perfect_to`.
    critical: The fit; None: too few sizes.
  """

  time: int
  time_scaled: int
  resources_scaled: int
  perfect: int
  critical: CriticalFit | None


def outcome(
  sizes: Sequence[StepsToTarget], seconds: Mapping[int, float]
) -> Outcome:
  """Decides on the sizes that reached the target; see `Outcome`.

  Args:
    sizes: Steps of each size, ascending.
    seconds: Batch size -> seconds of a step of the training loop.
  """
  batch_sizes = [tuned.batch_size for tuned in sizes]
  return Outcome(
    time=cheapest(sizes, seconds),
    time_scaled=cheapest(sizes, dict.fromkeys(batch_sizes, 1.0)),
    resources_scaled=cheapest(sizes, {n: float(n) for n in batch_sizes}),
    perfect=perfect_to(sizes),
    critical=fit_critical(sizes),
  )


def findings(
  all_sizes: Sequence[StepsToTarget],
  target: steps_decide.Target,
  chosen: Outcome | None,
) -> list[finding.Finding]:
  """Returns findings on the steps to the target (B5, B6, B7).

  Args:
    all_sizes: Steps of each size, ascending.
    target: The target.
    chosen: Decisions on the sizes that reached it; None: no size did.
  """
  rows = []
  least = target.kind.either("least", "largest")

  def add(
    check: str,
    verdict: finding.Verdict,
    subject: str,
    evidence: dict[str, Any],
    advice: str = "",
    source: str = _TIME,
  ) -> None:
    rows.append(
      finding.Finding(check, verdict, subject, evidence, advice, source)
    )

  if chosen is None:
    closest = min(all_sizes, key=lambda tuned: target.cost(tuned.closest))
    evidence = {
      "batch_sizes": [tuned.batch_size for tuned in all_sizes],
      "budgets": [tuned.budget for tuned in all_sizes],
      least: closest.closest,
    }
    more = 4 * max(tuned.budget for tuned in all_sizes)
    add(
      "steps_to_target",
      "unknown",
      str(target),
      evidence,
      f"No batch size reaches {target} with most of its seeds; the closest"
      f" value is {closest.closest:.3g}, at batch size {closest.batch_size}."
      f" Use more steps (--steps={more}), a looser --target, or a wider"
      " --learning_rates.",
    )
    return rows
  sizes = [tuned for tuned in all_sizes if tuned.is_known]
  errors = relative_errors(sizes)
  evidence = {
    "batch_sizes": [tuned.batch_size for tuned in sizes],
    "steps": [tuned.mean for tuned in sizes],
    "relative_errors": list(errors),
    "learning_rates": [tuned.best.rate for tuned in sizes],
  }
  add("compared_at_equal_target", "ok", str(target), evidence)
  add(
    "perfect_scaling",
    "ok",
    f"batch sizes to {chosen.perfect}",
    {"examples": [tuned.examples for tuned in sizes], "to": chosen.perfect},
  )
  verdict, subject, evidence, advice = _critical(sizes, chosen.critical)
  add("critical_batch_size", verdict, subject, evidence, advice, _CRITICAL)
  for check, here, grown, source in (
    ("least_time", chosen.time, chosen.time_scaled, _TIME),
    ("least_resources", chosen.time, chosen.resources_scaled, _RESOURCES),
  ):
    evidence = {"here": here, "devices_grow": grown}
    add(check, "ok", f"batch size {here}", evidence, "", source)
  for i, (before, tuned) in enumerate(zip(sizes, sizes[1:], strict=False)):
    growth = math.log(tuned.mean / before.mean)
    if growth > max(0.1, 2 * math.hypot(errors[i], errors[i + 1])):
      add(
        "larger_batch_needs_more_steps",
        "warn",
        f"batch size {tuned.batch_size}",
        {"steps": tuned.mean, "steps_of_smaller": before.mean},
        f"Batch size {tuned.batch_size} needed {tuned.mean:,.0f} steps, and"
        f" {before.batch_size} only {before.mean:,.0f}. A larger batch size"
        " never needs more steps if it is well tuned: tune more hyperparameters"
        " than the learning rate, or use more --seeds.",
      )
  for tuned in all_sizes:
    subject = f"batch size {tuned.batch_size}"
    if not tuned.is_known:
      add(
        "steps_to_target",
        "unknown",
        subject,
        {
          "budget": tuned.budget,
          least: tuned.closest,
          "reached": len(tuned.steps),
        },
        f"Most seeds of batch size {tuned.batch_size} do not reach {target}"
        f" within {tuned.budget:,} steps; this size is left out.",
      )
      continue
    if tuned.missed:
      add(
        "seeds_missed_target",
        "warn",
        subject,
        {"missed": tuned.missed, "budget": tuned.budget},
        f"{tuned.missed} of {len(tuned.best.steps)} seeds of {subject} did not"
        f" reach {target} and count as {tuned.budget:,} steps, so the mean is"
        " too low.",
      )
    rate = tuned.best.rate
    if rate <= tuned.lowest or rate >= tuned.highest:
      edge = "lowest" if rate <= tuned.lowest else "highest"
      add(
        "learning_rate_at_edge",
        "warn",
        subject,
        {"learning_rate": rate, "edge": edge},
        f"The best learning rate of {subject}, {rate:g}, is the {edge} of its"
        " sweep, so another one may need fewer steps; widen --learning_rates.",
        RETUNE,
      )
  return rows


def _critical(known, fit):
  """Returns (verdict, subject, evidence, advice) on the fit."""
  sizes = [tuned.batch_size for tuned in known]
  if fit is None:
    return (
      "unknown",
      "batch sizes",
      {"batch_sizes": sizes},
      f"The fit needs {FEWEST_SIZES} batch sizes that reach the target, got"
      f" {len(sizes)}.",
    )
  subject, evidence = f"{fit.critical:,.0f} examples", dataclasses.asdict(fit)
  if not is_between(fit, sizes):
    side = "above" if fit.critical > sizes[-1] else "below"
    return (
      "unknown",
      subject,
      evidence,
      f"The critical batch size is far {side} the batch sizes that were tried,"
      " so its estimate is unreliable.",
    )
  return "ok", subject, evidence, ""


def is_between(fit: CriticalFit, sizes: Sequence[int]) -> bool:
  """Whether the critical size is within a factor of 4 of the range of sizes."""
  return sizes[0] / 4 <= fit.critical <= 4 * sizes[-1]
