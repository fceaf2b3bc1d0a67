"""The numbers behind the figures and the checks of a study.

Hyperparameters are measured on their own scale, as *units* from 0 at the low
end to 1 at the high end. Trials form *groups*, one for each combination of
scientific choices, because these are compared, and nuisance hyperparameters
have to be tuned in each.
"""

import collections
import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

from jaxplay.analysis import curves
from jaxplay.analysis import results as results_lib
from jaxplay.study import space as space_lib


def outcomes(results: results_lib.Results) -> np.ndarray:
  """The cost of each trial that ended, float64; infeasible: +inf.

  Without adaptive trials, which are no random sample.
  """
  results = results.space_filling
  costs = np.where(results.infeasible, np.inf, results.costs)
  return costs[~np.isnan(costs)]


def best_of(values: np.ndarray, sizes: Sequence[int]) -> list[dict[str, float]]:
  """Compute quantiles of the best of n trials by an exact bootstrap.

  The minimum of n draws with replacement from N values is at most the k-th
  smallest with probability 1 - ((N - k) / N)^n, so no random draws are needed.
  Source: Playbook, Figure 3.

  Args:
    values: [N], as from `outcomes`; NaN is left out.
    sizes: Numbers of trials n.

  Returns:
    A row {n, low, q25, median, q75, high} for each size: quantiles of the best
    at 5, 25, 50, 75 and 95%.
  """
  values = np.sort(values[~np.isnan(values)])
  if not len(values):
    return []
  names = {"low": 0.05, "q25": 0.25, "median": 0.5, "q75": 0.75, "high": 0.95}
  rows = []
  for n in sizes:
    reached = 1 - (1 - np.arange(1, len(values) + 1) / len(values)) ** n
    rows.append(
      {"n": int(n)}
      | {
        # Rounding must not miss a quantile that is reached exactly.
        name: float(values[np.searchsorted(reached, quantile - 1e-12)])
        for name, quantile in names.items()
      }
    )
  return rows


def isolation(results: results_lib.Results, label: str) -> list[dict[str, Any]]:
  """Find the best trial of each value, or slice, of a hyperparameter.

  By value for choices and for at most 10 integers; else in slices of equal
  width on the hyperparameter's own scale, as many as the square root of the
  number of trials, at most 12. Without adaptive trials, which would give a
  slice more chances than the others. Source: Playbook, detecting whether a
  change is useful with isolation plots.

  Returns:
    For each slice, in order: x (the value; of a slice that of its best trial,
    or its middle), low and high (edges of a slice, else None), value (the best
    objective, or NaN), trial (its index, or None), count (trials in it that
    ended), infeasible (how many of them diverged), luck (by how many standard
    deviations of the noise the best of the others is expected to be too good,
    see `luck`; NaN without any).
  """
  results = results.space_filling
  parameter = next(p for p in results.space.parameters if p.label == label)
  column = results.column(label)
  here = results.ended & np.array([value is not None for value in column], bool)
  number = int(np.clip(math.isqrt(int(here.sum())), 2, 12))
  place, edges, names = _slices(parameter, column, number)
  rows = []
  for i, (low, high) in enumerate(edges):
    here = (place == i) & results.ended
    valued = np.flatnonzero(here & np.isfinite(results.values)).tolist()
    best = min(valued, key=lambda j: results.costs[j], default=None)
    x = names[i]
    if low is not None and best is not None:
      x = column[best]
    rows.append(
      dict(
        x=x,
        low=low,
        high=high,
        value=math.nan if best is None else float(results.values[best]),
        trial=None if best is None else results.trials[best].index,
        count=int(here.sum()),
        infeasible=int((here & results.infeasible).sum()),
        luck=luck(len(valued)) if valued else math.nan,
      )
    )
  return rows


@functools.lru_cache(1024)
def luck(num: int) -> float:
  """By how much the best of `num` equal trials is too good, on average.

  The expected maximum of standard normal numbers, in standard deviations: 0 of
  one, 1.03 of 4, 2.07 of 32.
  """
  # The mean of its quantiles, at the middle of many equal parts.
  parts = (np.arange(20_000) + 0.5) / 20_000
  return float(stats.norm.ppf(parts ** (1 / num)).mean())


def rerun_interval(
  results: results_lib.Results, index: int | None
) -> tuple[float, float, float]:
  """Mean over the reruns of a trial, and its 95% interval: (mean, low, high).

  By Student's t, within the metric's bounds; NaN without two reruns that have a
  value. Of other seeds, on the same validation examples.
  """
  reruns = () if index is None else results.reruns.get(index, ())
  values = results.values_of(reruns)
  if len(values) < 2:
    return math.nan, math.nan, math.nan
  error = float(values.std(ddof=1)) / math.sqrt(len(values))
  reach = float(stats.t.isf(0.025, len(values) - 1)) * error
  mean = float(values.mean())
  low, high = results.metric.bounds
  return mean, max(mean - reach, low), min(mean + reach, high)


def groups(
  results: results_lib.Results, slices: bool = True, without: str | None = None
) -> dict[str, np.ndarray]:
  """Group trials by their combination of scientific values.

  A continuous scientific hyperparameter counts by 2 to 4 slices of equal width
  on its scale, of 16 trials on average.

  Args:
    results: The study.
    slices: Whether the slices of continuous hyperparameters form groups. False
      if each group must be able to hold good trials: a slice of bad values
      cannot.
    without: Label of a hyperparameter to ignore.

  Returns:
    Name -> positions of its trials, int [n], in the space's order. Names look
    like "optimizer=adam, model.depth=2"; the only group of a study without
    scientific hyperparameters is called "".
  """
  number = int(np.clip(len(results.trials) // 16, 2, 4))
  keys: list[tuple[tuple[int, str], ...]] = [() for _ in results.trials]
  for parameter in results.space.parameters:
    if parameter.role != "scientific" or parameter.label == without:
      continue
    column = results.column(parameter.label)
    place, edges, names = _slices(parameter, column, number)
    if edges[0][0] is not None and not slices:
      continue
    for trial, i in enumerate(place.tolist()):
      if i >= 0:
        low, high = edges[i]
        value = names[i] if low is None else f"{low:.3g} to {high:.3g}"
        keys[trial] += ((i, f"{parameter.key}={value}"),)
  members: dict[tuple[tuple[int, str], ...], list[int]]
  members = collections.defaultdict(list)
  for trial, key in enumerate(keys):
    members[key].append(trial)
  return {
    ", ".join(part for _, part in key): np.array(members[key])
    for key in sorted(members)
  }


def best_of_each(
  results: results_lib.Results,
) -> dict[str, results_lib.Trial]:
  """Find the best trial of each of `groups` that has a completed one.

  Several groups are compared, so then without adaptive trials, of which one
  group may have had more than the others.
  """
  if len(groups(results)) > 1:
    results = results.space_filling
  best = {}
  for name, indices in groups(results).items():
    valued = indices[np.isfinite(results.values[indices])]
    if len(valued):
      least = int(valued[np.argmin(results.costs[valued])])
      best[name] = results.trials[least]
  return best


def best_steps(
  results: results_lib.Results, tolerance: float = 0.0
) -> np.ndarray:
  """Step of the best value as a share of all steps, for completed trials.

  Args:
    results: The study.
    tolerance: Take the first step whose cost is at most this share, or two
      validation examples, above the least cost; 0: the first best step.

  Returns:
    Shares in [0, 1], in the order of `results.ranked`.
  """
  shares = []
  for trial in results.ranked:
    best, step = trial.best(results.objective)
    if tolerance:
      least = results.metric.cost(best)
      slack = tolerance * abs(least)
      if results.metric.is_share and trial.num_valid:
        slack = max(slack, 2 / trial.num_valid)
      steps, costs = trial.costs(results.objective)
      step = steps[np.argmax(costs <= least + slack)]
    shares.append(step / max(trial.max_train_steps, 1))
  return np.array(shares)


@dataclasses.dataclass(frozen=True)
class Noise:
  """Standard deviation of the objective between trainings of one point.

  Attributes:
    deviation: In the objective's unit; NaN: no trial has a value.
    freedom: Degrees of freedom of the estimate; inf: not from reruns.
    source: What it was estimated from.
    is_assumed: Whether it is not measured at all, so that no verdict may rest
      on it.
  """

  deviation: float
  freedom: float
  source: str
  is_assumed: bool = False

  @property
  def tolerance(self) -> float:
    """The 95% quantile of the difference between two trainings."""
    quantile = float(stats.t.isf(0.025, self.freedom))
    return quantile * math.sqrt(2) * self.deviation


def noise(results: results_lib.Results) -> Noise:
  """Estimate the noise of a study's objective.

  From reruns with other seeds, pooled, if some trial has at least 3; else the
  standard error of the best share on the validation set; else 1% of the least
  cost (the Playbook's example: 0.1 of 23).
  """
  squares, freedom = 0.0, 0
  for reruns in results.reruns.values():
    values = results.values_of(reruns)
    if len(values) >= 3:
      squares += float(((values - values.mean()) ** 2).sum())
      freedom += len(values) - 1
  if freedom:
    return Noise(math.sqrt(squares / freedom), freedom, "reruns")
  if not results.ranked:
    return Noise(math.nan, math.inf, "no trial has a value", True)
  trial = results.ranked[0]
  cost, metric = results.cost(trial), results.metric
  if metric.is_share and trial.num_valid:
    error = curves.resolution(cost, trial.num_valid)
    source = f"standard error on {trial.num_valid} examples"
    return Noise(error, math.inf, source)
  of = "the best value"
  if metric.most is not None:
    of += f"'s distance from {metric.most:g}"
  return Noise(0.01 * abs(cost), math.inf, f"assumed: 1% of {of}", True)


def is_ordered(parameter: space_lib.Parameter) -> bool:
  """Whether a range has edges: a number, or 3 or more monotone choices."""
  if parameter.kind != "choice":
    return True
  values = list(parameter.values)
  return (
    len(values) >= 3
    and all(type(value) in (int, float) for value in values)
    and values in (sorted(values), sorted(values, reverse=True))
  )


def units(parameter: space_lib.Parameter, column: np.ndarray) -> np.ndarray:
  """`to_unit` of each value, float64 [trials]; NaN if it does not exist."""
  return parameter.to_units(column)


def _slices(parameter, column, number):
  """The slice of each trial (-1: none), edges of the slices, their names.

  Args:
    number: Number of slices if the hyperparameter is continuous.
  """
  if parameter.kind == "choice":
    exact = list(parameter.values)
  elif parameter.kind == "int" and parameter.high - parameter.low < 10:
    exact = list(range(parameter.low, parameter.high + 1))
  else:
    unit = units(parameter, column)
    exists = ~np.isnan(unit)
    place = np.full(len(column), -1)
    place[exists] = np.minimum(unit[exists] * number, number - 1)
    cuts = parameter.from_units(np.linspace(0, 1, number + 1))
    middles = parameter.from_units((np.arange(number) + 0.5) / number)
    return place, list(itertools.pairwise(cuts)), middles
  position = {value: i for i, value in enumerate(exact)}
  place = np.array(
    [-1 if v is None else position.get(v, -1) for v in column], int
  )
  return place, [(None, None)] * len(exact), exact
