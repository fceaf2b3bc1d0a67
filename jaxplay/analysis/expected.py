"""What the best trial would be worth with fresh data and seeds.

The best of many noisy values is too good: it was selected for its noise, among
the evaluations of a trial and among the trials of a study. `of_best` says what
is left of it:

* the mean of its reruns with other seeds, if there are 2;
* else its place on a response surface over all trials (`surface.smooth`), each
  of which enters not by its best evaluation but by the level of those around
  it. What the trial is better than the surface counts only as far as it is more
  than noise explains.

docs/checks.md, The value of the best, has the bias and coverage of both.
"""

import dataclasses
import math

import numpy as np
from scipy import stats

from jaxplay import formats, rundir
from jaxplay.analysis import curves, difference, surface
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib

_FEWEST = 10  # trials for a surface
_REFIT = 24  # trials of which the better half is fitted again
_NORMAL = 1.96  # 97.5% quantile


@dataclasses.dataclass(frozen=True)
class Expected:
  """An estimate of the objective with fresh data and seeds.

  Attributes:
    value: In the objective's unit; None: it cannot be estimated.
    interval: Its 95% interval. It holds the noise of the validation set if the
      objective is a share of its examples, or the run saved the cost of each;
      else `method` says that it does not. None: as `value`.
    method: How it was estimated, or why it was not.
  """

  value: float | None
  interval: tuple[float, float] | None
  method: str

  def in_words(self) -> str:
    """A clause that follows the best value."""
    if self.value is None or self.interval is None:
      return f"what fresh data and seeds would give is unknown: {self.method}"
    return (
      f"{self.value:.4g} expected with fresh data and seeds (95%:"
      f" {formats.interval(*self.interval)}; {self.method})"
    )


@dataclasses.dataclass(frozen=True)
class Fit:
  """Costs without the luck of evaluations and trials.

  Attributes:
    indices: Places of the trials that have a value.
    costs: Expected cost of each, [trials].
    levels: Cost of each around its selected evaluation, [trials].
    errors: Standard error of each of `costs`, [trials], given the surface.
    level_errors: Standard error of each of `levels`, [trials]; 0: unknown.
  """

  indices: np.ndarray
  costs: np.ndarray
  levels: np.ndarray
  errors: np.ndarray
  level_errors: np.ndarray


def of_best(results: results_lib.Results) -> Expected:
  """Estimate what the best trial would be worth with fresh data and seeds."""
  if not results.ranked:
    return Expected(None, None, "no trial has a value")
  best = results.ranked[0]
  metric = results.metric
  reruns = metric.cost(results.values_of(results.reruns.get(best.index, ())))
  if len(reruns) >= 2:
    cost = float(reruns.mean())
    error = float(reruns.std(ddof=1)) / math.sqrt(len(reruns))
    own = float(stats.t.isf(0.025, len(reruns) - 1)) * error
    data = _NORMAL * _of_data(results, best, cost)
    reach = math.hypot(own, data)
    low, high = cost - reach, cost + reach
    method = f"mean of {len(reruns)} reruns"
  elif (fitted := fit(results)) is None:
    method = (
      f"needs 2 reruns of it, or {_FEWEST} trials with a value, has"
      f" {len(results.ranked)}"
    )
    return Expected(None, None, method)
  else:
    at = int(np.argmin(results.costs[fitted.indices]))
    # It was selected, so it is not worth more than it showed.
    cost = max(float(fitted.costs[at]), results.cost(best))
    level = float(fitted.levels[at])
    data = _NORMAL * _of_data(results, best, cost)
    reach = math.hypot(_NORMAL * float(fitted.errors[at]), data)
    # What it is better than its neighbours may be real.
    real = level - math.hypot(_NORMAL * float(fitted.level_errors[at]), data)
    low, high = min(cost - reach, real), max(cost, level) + reach
    method = f"response surface over {len(fitted.indices)} trials"
  if not data:
    method += ", without the noise of the validation set"
  if metric.is_share:
    low, high = max(low, 0.0), min(high, 1.0)
  ends = sorted(float(metric.value(end)) for end in (low, high))
  return Expected(float(metric.value(cost)), (ends[0], ends[1]), method)


def fit(results: results_lib.Results) -> Fit | None:
  """Take the luck out of the costs of all trials; None: fewer than 10.

  A surface is fitted to the levels, without the bad ones' excess; if it
  explains most of them, again to its better half, where a quadratic is closer.
  Of a trial's distance from it that share is kept which is not noise: by the
  variance between reruns where it is known, and by the non-negative garrote
  with the universal threshold of n trials, sqrt(2 log n) deviations (Donoho and
  Johnstone 1994), which the noise of all of them rarely exceeds. A trial with 2
  reruns costs what they do on average.
  """
  indices = np.flatnonzero(np.isfinite(results.costs))
  num = len(indices)
  if num < _FEWEST:
    return None
  found = [_level(results, results.trials[i]) for i in indices.tolist()]
  levels, own = np.array(found).T
  middle = float(np.median(levels))
  # Of equal trials less than one in 10,000 is as bad.
  near = np.minimum(levels, middle + 3 * (middle - np.quantile(levels, 0.1)))
  smooth = surface.smooth(results, indices, near)
  heights, leverage = smooth.values.copy(), smooth.leverage.copy()
  deviation = smooth.deviation
  best = int(np.argmin(results.costs[indices]))
  if smooth.explained > 0.5 and num >= _REFIT:
    better = np.argsort(heights)[: num // 2]
    if best in better:
      smooth = surface.smooth(results, indices[better], near[better])
      heights[better], leverage[better] = smooth.values, smooth.leverage
      deviation = smooth.deviation
  left = near - heights
  noise = trials_lib.noise(results)
  is_known = math.isfinite(noise.freedom)
  if is_known:
    spread = min(noise.deviation, deviation)
  else:  # One outlier must not hide itself.
    middle = float(np.median(np.abs(left - np.median(left))))
    spread = 1.4826 * middle / math.sqrt(max(1 - leverage.mean(), 0.2))
    spread = min(spread, deviation)
  size = left**2 / np.maximum(1 - leverage, 0.05)
  limit = 2 * math.log(num) * spread**2
  kept = 1 - np.minimum(limit / np.maximum(size, max(limit, 1e-300)), 1.0)
  if is_known and deviation:
    kept = np.maximum(kept, 1 - (spread / deviation) ** 2)
  variance = deviation**2 * leverage + kept * spread**2 + own**2
  costs = heights + kept * left
  for at, i in enumerate(indices.tolist()):
    again = results.reruns.get(results.trials[i].index, ())
    again = results.metric.cost(results.values_of(again))
    if len(again) >= 2:
      costs[at] = again.mean()
  return Fit(indices, costs, levels, np.sqrt(variance), own)


def _of_data(results, trial, cost):
  """Standard error of a cost on the validation examples; 0: not known."""
  if results.metric.is_share:
    return curves.resolution(cost, trial.num_valid)
  try:
    found = results.example_costs(trial)
  except rundir.Damaged:
    found = None
  if found is None or len(found[0]) < 2:
    return 0.0
  costs, weight, _ = found
  return math.sqrt(difference.sampling(costs, weight))


def _level(results, trial):
  """(cost at the selected evaluation, standard error), by those around it.

  A line through a fifth of the evaluations on either side of the best one,
  without itself, which was selected.
  """
  cost = results.cost(trial)
  if results.select == "final":
    return cost, 0.0
  steps, costs = trial.costs(results.objective)
  finite = np.isfinite(costs)
  steps, costs = steps[finite], costs[finite]
  if len(costs) < 5:
    return cost, 0.0
  at, width = int(np.argmin(costs)), max(2, len(costs) // 5)
  around = np.r_[
    max(at - width, 0) : at, at + 1 : min(at + width + 1, len(costs))
  ]
  x, y = (steps[around] - steps[at]).astype(float), costs[around]
  middle = x.mean()
  squares = float(((x - middle) ** 2).sum())
  if not squares or len(x) < 2:
    return cost, 0.0
  slope = float(((x - middle) * y).sum()) / squares
  level = float(y.mean()) - slope * middle
  left = y - y.mean() - slope * (x - middle)
  variance = float((left**2).sum()) / max(len(x) - 2, 1)
  return level, math.sqrt(variance * (1 / len(x) + middle**2 / squares))
