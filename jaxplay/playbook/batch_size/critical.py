"""How many steps each batch size takes to a target, and what follows.

Playbook, choosing the batch size: the best size reaches a target in the
least time = time per step x steps, or with the least resources = resources per
step x steps. Up to a critical size, twice the batch takes half the steps.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxplay import finding
from jaxplay.playbook.steps import decide as steps_decide

# Perfect scaling: examples to the target within so much of the least.
_PERFECT = 0.25
# Times that are closer than this are alike; the smaller batch is taken.
_ALIKE = 0.05
FEWEST_SIZES = 4  # for a fit of two numbers
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
class Rate:
  """A learning rate that was run with several seeds.

  Attributes:
    rate: Constant.
    steps: To the target, of each seed; None: it did not reach it.
  """

  rate: float
  steps: tuple[int | None, ...]


@dataclasses.dataclass(frozen=True)
class Reached:
  """How many steps a size took to the target, its learning rate tuned.

  Attributes:
    batch_size: Examples of an update.
    rates: The best of its sweep; none: no rate reached the target.
    budget: Steps that each trial had.
    every: Steps between evaluations, the resolution of steps.
    lowest: Of the rates that were tried, if that may be too high; else 0.
    highest: Likewise, if that may be too low; else infinite.
    least: Best value of the metric.
  """

  batch_size: int
  rates: tuple[Rate, ...]
  budget: int
  every: int
  lowest: float = 0.0
  highest: float = math.inf
  least: float = math.nan

  @property
  def means(self) -> tuple[float, ...]:
    """Steps of each rate; a seed that missed counts with its budget."""
    return tuple(
      float(np.mean([self.budget if s is None else s for s in one.steps]))
      for one in self.rates
    )

  @property
  def best(self) -> Rate:
    """The rate with the fewest steps, in the mean."""
    if not self.rates:
      return Rate(math.nan, ())
    return self.rates[int(np.argmin(self.means))]

  @property
  def mean(self) -> float:
    """Steps of the best rate."""
    return min(self.means)

  @property
  def steps(self) -> tuple[int, ...]:
    """Of the seeds of the best rate that reached the target."""
    return tuple(s for s in self.best.steps if s is not None)

  @property
  def missed(self) -> int:
    """Seeds of the best rate that did not."""
    return len(self.best.steps) - len(self.steps)

  @property
  def is_known(self) -> bool:
    """Whether more seeds reached the target than not."""
    return len(self.steps) > self.missed

  @property
  def examples(self) -> float:
    """Seen until the target was reached."""
    return self.batch_size * self.mean


def _drawn(found, seed=0):
  """Logarithms of steps as they might have been found, [draws, sizes].

  The mean of each rate is drawn by its standard error: of the spread over
  seeds, pooled over rates and sizes since seeds are few, and of a step that is
  known to an interval of evaluations. Then the best rate is chosen again.
  """
  squares, freedom = 0.0, 0
  for one in found:
    for rate in one.rates:
      logs = np.log([s for s in rate.steps if s is not None] or [1])
      squares += float(np.sum((logs - logs.mean()) ** 2))
      freedom += len(logs) - 1
  variance = squares / freedom if freedom else 0.0
  rng = np.random.default_rng(seed)
  columns = []
  for one in found:
    means = np.array(one.means)
    seeds = np.array([len(rate.steps) for rate in one.rates])
    errors = np.sqrt((variance + (one.every / means) ** 2 / 12) / seeds)
    noise = rng.normal(size=(_DRAWS, len(means)))
    columns.append((np.log(means) + errors * noise).min(1))
  return np.stack(columns, 1)


def relative_errors(found: Sequence[Reached]) -> np.ndarray:
  """Errors of the logarithms of steps, of each size.

  Root mean squares over draws of seeds, with the rate chosen anew in each: the
  best of several that are alike seems better than it is.
  """
  logs = np.log([one.mean for one in found])
  return np.sqrt(np.mean((_drawn(found) - logs) ** 2, axis=0))


@dataclasses.dataclass(frozen=True)
class Critical:
  """The fit of steps = least_steps (1 + critical / batch size).

  Attributes:
    least_steps: To which they fall as the batch grows.
    critical: Batch size at which twice as many are needed.
    low: Of the critical size, 5th percentile over draws of seeds, of the best
      rate among those that were run with them, and of what the fit leaves over;
      rates between those that were tried are not in it.
    high: 95th.
    residual: Root mean square of the logarithms of steps.
  """

  least_steps: float
  critical: float
  low: float
  high: float
  residual: float

  def steps(self, batch_size: float) -> float:
    """By the fit."""
    return self.least_steps * (1 + self.critical / batch_size)


def fit_critical(found: Sequence[Reached], seed: int = 0) -> Critical | None:
  """Fits the critical batch size; None: of fewer than four sizes.

  By least squares of log steps, over a grid of critical sizes from a hundredth
  of the smallest size to a hundred times the largest. McCandlish et al. 2018.
  """
  if len(found) < FEWEST_SIZES:
    return None
  sizes = np.array([one.batch_size for one in found], float)
  logs = np.log([one.mean for one in found])
  grid = np.geomspace(sizes.min() / 100, sizes.max() * 100, _GRID)
  shapes = np.log1p(grid[:, None] / sizes)  # [grid, sizes]
  centred = shapes - shapes.mean(1, keepdims=True)

  def best(values):
    """Index into the grid, of each row of values [n, sizes]."""
    values = values - values.mean(1, keepdims=True)
    # |v - c|^2 without |v|^2, which is the same for all of the grid.
    return np.argmin((centred**2).sum(1) - 2 * values @ centred.T, axis=1)

  at = int(best(logs[None])[0])
  least = float(np.exp(np.mean(logs - shapes[at])))
  residuals = logs - np.log(least) - shapes[at]
  # Where the formula fits worse than seeds explain, that is an error, too.
  left = np.sum(residuals**2) / (len(found) - 2)
  more = math.sqrt(max(0.0, left - np.mean(relative_errors(found) ** 2)))
  drawn = _drawn(found, seed)
  drawn += more * np.random.default_rng(seed + 1).normal(size=drawn.shape)
  low, high = np.percentile(grid[best(drawn)], (5, 95))
  return Critical(
    least_steps=least,
    critical=float(grid[at]),
    low=float(low),
    high=float(high),
    residual=float(np.sqrt(np.mean(residuals**2))),
  )


def perfect_to(found: Sequence[Reached]) -> int:
  """The largest size to which scaling is perfect.

  Its examples to the target are within 25 %, or two standard errors, of the
  least of all sizes.
  """
  return max(_near(found, [one.examples for one in found], _PERFECT, max))


def cheapest(found: Sequence[Reached], costs: Mapping[int, float]) -> int:
  """The size of the least cost, or the smallest of those alike.

  Alike are costs that differ by less than 5 %, and by less than two standard
  errors.

  Args:
    found: Of each size, ascending.
    costs: Batch size -> cost of a step.
  """
  totals = [costs[one.batch_size] * one.mean for one in found]
  return min(_near(found, totals, _ALIKE, min))


def _near(found, values, share, of_both):
  """Sizes whose values are near the least, by a share and two errors."""
  errors = relative_errors(found)
  logs = np.log(values)
  at = int(np.argmin(logs))
  return [
    one.batch_size
    for i, one in enumerate(found)
    if i == at
    or logs[i] - logs[at]
    <= of_both(math.log1p(share), 2 * math.hypot(errors[i], errors[at]))
  ]


@dataclasses.dataclass(frozen=True)
class Outcome:
  """Decisions on the sizes that reached a target.

  On given devices the least time and the least device-seconds are the same.

  Attributes:
    time: Size of the least time on these devices (B5), and of their least
      device-seconds (B6).
    time_scaled: Of the least time, as if each doubling of the batch doubled the
      devices, and the time per step were the same.
    resources_scaled: Of the least device-seconds, likewise.
    perfect: See `perfect_to`.
    critical: The fit; None: of too few sizes.
  """

  time: int
  time_scaled: int
  resources_scaled: int
  perfect: int
  critical: Critical | None


def outcome(found: Sequence[Reached], seconds: Mapping[int, float]) -> Outcome:
  """Decides on sizes that reached the target; see `Outcome`.

  Args:
    found: Of each size, ascending.
    seconds: Batch size -> seconds of a step of the training loop.
  """
  sizes = [one.batch_size for one in found]
  return Outcome(
    time=cheapest(found, seconds),
    time_scaled=cheapest(found, dict.fromkeys(sizes, 1.0)),
    resources_scaled=cheapest(found, {size: float(size) for size in sizes}),
    perfect=perfect_to(found),
    critical=fit_critical(found),
  )


def findings(
  all_sizes: Sequence[Reached],
  target: steps_decide.Target,
  chosen: Outcome | None,
) -> list[finding.Finding]:
  """Findings on the steps to the target, of each size (B5, B6, B7).

  Args:
    all_sizes: Ascending.
    target: The target.
    chosen: Of those that reached it; None: none did.
  """
  told = []

  def add(
    check: str,
    verdict: finding.Verdict,
    subject: str,
    evidence: dict[str, Any],
    advice: str = "",
    source: str = _TIME,
  ) -> None:
    told.append(
      finding.Finding(check, verdict, subject, evidence, advice, source)
    )

  if chosen is None:
    closest = min(
      all_sizes, key=lambda o: o.least if math.isfinite(o.least) else math.inf
    )
    evidence = {
      "batch_sizes": [one.batch_size for one in all_sizes],
      "budgets": [one.budget for one in all_sizes],
      "least": closest.least,
    }
    more = 4 * max(one.budget for one in all_sizes)
    add(
      "steps_to_target",
      "unknown",
      str(target),
      evidence,
      f"No batch size reaches {target} in most of its seeds; the closest is"
      f" {closest.least:.3g}, with {closest.batch_size} examples. Give more"
      f" steps (--steps={more}), a looser --target, or a wider"
      " --learning_rates.",
    )
    return told
  found = [one for one in all_sizes if one.is_known]
  errors = relative_errors(found)
  evidence = {
    "batch_sizes": [one.batch_size for one in found],
    "steps": [one.mean for one in found],
    "relative_errors": list(errors),
    "learning_rates": [one.best.rate for one in found],
  }
  add("compared_at_equal_target", "ok", str(target), evidence)
  add(
    "perfect_scaling",
    "ok",
    f"batch sizes to {chosen.perfect}",
    {"examples": [one.examples for one in found], "to": chosen.perfect},
  )
  verdict, subject, evidence, advice = _critical(found, chosen.critical)
  add("critical_batch_size", verdict, subject, evidence, advice, _CRITICAL)
  for check, here, grown, source in (
    ("least_time", chosen.time, chosen.time_scaled, _TIME),
    ("least_resources", chosen.time, chosen.resources_scaled, _RESOURCES),
  ):
    evidence = {"here": here, "devices_grow": grown}
    add(check, "ok", f"batch size {here}", evidence, "", source)
  for i, (before, one) in enumerate(zip(found, found[1:], strict=False)):
    growth = math.log(one.mean / before.mean)
    if growth > max(0.1, 2 * math.hypot(errors[i], errors[i + 1])):
      add(
        "larger_batch_needs_more_steps",
        "warn",
        f"batch size {one.batch_size}",
        {"steps": one.mean, "steps_of_smaller": before.mean},
        f"With {one.batch_size} examples {one.mean:,.0f} steps were needed,"
        f" and with {before.batch_size} only {before.mean:,.0f}. A larger"
        " batch that is well tuned never needs more: tune more than its"
        " learning rate, or the result depends on the noise of training.",
      )
  for one in all_sizes:
    subject = f"batch size {one.batch_size}"
    if not one.is_known:
      add(
        "steps_to_target",
        "unknown",
        subject,
        {"budget": one.budget, "least": one.least, "reached": len(one.steps)},
        f"With {one.batch_size} examples {target} is not reached within"
        f" {one.budget:,} steps in most seeds; it is left out.",
      )
      continue
    if one.missed:
      add(
        "seeds_missed_target",
        "warn",
        subject,
        {"missed": one.missed, "budget": one.budget},
        f"{one.missed} of {len(one.best.steps)} seeds of {subject} did not"
        f" reach {target}; they count with their {one.budget:,} steps, so its"
        " steps are too few.",
      )
    rate = one.best.rate
    if rate <= one.lowest or rate >= one.highest:
      edge = "lowest" if rate <= one.lowest else "highest"
      add(
        "learning_rate_at_edge",
        "warn",
        subject,
        {"learning_rate": rate, "edge": edge},
        f"The best rate of {subject}, {rate:g}, is the {edge} of its sweep,"
        " so it may need fewer steps than it seems; widen --learning_rates.",
        RETUNE,
      )
  return told


def _critical(found, fit):
  """(verdict, subject, evidence, advice) of the fit."""
  sizes = [one.batch_size for one in found]
  if fit is None:
    return (
      "unknown",
      "batch sizes",
      {"batch_sizes": sizes},
      f"A fit takes {FEWEST_SIZES} sizes that reach the target, and"
      f" {len(sizes)} did.",
    )
  told, evidence = f"{fit.critical:,.0f} examples", dataclasses.asdict(fit)
  if not is_between(fit, sizes):
    side = "above" if fit.critical > sizes[-1] else "below"
    return (
      "unknown",
      told,
      evidence,
      f"The critical batch size lies {side} all sizes that were tried; its"
      " value is not known well.",
    )
  return "ok", told, evidence, ""


def is_between(fit: Critical, sizes: Sequence[int]) -> bool:
  """Whether the critical size is among those tried, or not far beyond."""
  return sizes[0] / 4 <= fit.critical <= 4 * sizes[-1]
