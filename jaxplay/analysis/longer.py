"""How much twice the steps would lower the objective, under decaying rates.

Under a decay every curve falls until it ends, whatever its length, so its end
does not show whether more steps would help. Trials of different schedules can:
the loss at a time t is modelled as

    E + A (S(t) + s)^-a - B D(t),

S(t) the sum of the learning rates so far. D(t) is what lower rates have gained
so far, the sum over the drops of the rate of

    drop * (1 - (1 + (S(t) - S(drop)) / (c (rate after it)^g))^-1/2),

since a drop acts over the steps after it. That is the multi-power law of Luo et
al. (2025, arXiv 2503.12811) with one exponent of D fixed and the other, g, 0 or
1: time counts by S, as for plain SGD, or by steps. So few trials suffice. Each
trial has an E and an A of its own; a, s, c, g, B are those of the study.

The law is no theorem, so it has to predict first: for each schedule, a, s, c, g
and B are fitted to the trials of the other schedules, E and A to the first half
of a trial, and its second half must be met within 1%. A study of one schedule
has nothing to show that by, and gets no estimate.
"""

import dataclasses
import weakref
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxplay.analysis import results as results_lib

TOLERANCE = 0.01  # relative error that is allowed on held-out schedules
MATTERS = 0.04  # relative gain from which on more steps are advised

# Evaluations of a trial, after `SINCE`: 20 at equal distances.
_FEWEST_EARLY, _FEWEST_LATE = 6, 8
_FEWEST_RATES = 20  # logged learning rates of a trial
SINCE = 0.15  # share of the steps that the law leaves out: warmup, first fall
_CELLS = 512  # of a schedule
_OF_EACH = 4  # trials of each schedule, the best ones
_DIFFERENT = 0.1  # mean difference of two schedules, in units of the peak
# Largest ratio of two peak learning rates. Further apart, losses differ by more
# than the law knows.
_ALIKE = 2.0
# Choices that may differ between the trials of a fit.
_OF_SCHEDULE = ("schedule", "cooldown_shape")

# The grid of a, s, c, g; S and c in units of the steps times the largest rate.
_POWERS = np.array([0.1, 0.2, 0.3, 0.45, 0.65, 0.9, 1.3, 2.0, 3.0])
_SHIFTS = np.array([0.003, 0.02, 0.08, 0.2])
_SCALES = np.array([0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0])
_EXPONENTS = (0, 1)
_ACTING = [(c, g) for c in _SCALES for g in _EXPONENTS]
_A, _S = (x.ravel()[:, None] for x in np.meshgrid(_POWERS, _SHIFTS))


@dataclasses.dataclass(frozen=True)
class Longer:
  """What a run of twice the steps is expected to reach.

  Attributes:
    trial: Index of the trial, the best one.
    steps: Its updates.
    now: Its expected cost at the end.
    twice: The expected cost at the end of twice the steps, its whole schedule
      stretched, with the same peak.
    gain: 1 - twice / now.
    interval: 95%, of `gain`.
    held_out: Largest relative error on held-out schedules: of the 90% of the
      levels that are best predicted.
    num_schedules: Different schedules.
    num_trials: Trials that were fitted.
    curve: (steps, fitted costs) of the trial.
    curve_of_twice: (steps, expected costs) of twice the steps.
  """

  trial: int
  steps: int
  now: float
  twice: float
  gain: float
  interval: tuple[float, float]
  held_out: float
  num_schedules: int
  num_trials: int
  curve: tuple[np.ndarray, np.ndarray]
  curve_of_twice: tuple[np.ndarray, np.ndarray]

  @property
  def helps(self) -> bool | None:
    """Whether twice the steps gain 4% or more; None: it is not decided."""
    if self.interval[0] > MATTERS:
      return True
    return False if self.interval[1] < MATTERS else None


class Run(NamedTuple):
  """A trial without its beginning.

  Attributes:
    trial: Its index.
    shares: [n], of the steps, where it was evaluated.
    costs: [n], positive.
    rates: [512], the learning rate at equal distances over all steps.
  """

  trial: int
  shares: np.ndarray
  costs: np.ndarray
  rates: np.ndarray


_done: weakref.WeakKeyDictionary[results_lib.Results, Longer | str]
_done = weakref.WeakKeyDictionary()


def longer(results: results_lib.Results) -> Longer | str:
  """Estimate what twice the steps would give the best trial of a study.

  Returns:
    The estimate; or why there is none, in a sentence.
  """
  # Several checks and the figures of one page.
  if results not in _done:
    _done[results] = _longer(results)
  return _done[results]


def _longer(results):
  runs = _runs(results)
  if not runs:
    return (
      "That needs 20 evaluations of the best trial with a positive cost, and"
      f" {_FEWEST_RATES} logged learning rates that do not rise again after the"
      " warmup."
    )
  return estimate(runs, results.ranked[0].max_train_steps)


def estimate(runs: Sequence[Run], steps: int) -> Longer | str:
  """As `longer`, of the first of some runs, whose costs are positive.

  Args:
    runs: Of the same number of steps.
    steps: That number.
  """
  schedules = _schedules(runs)
  if len(schedules) < 2:
    return (
      "All comparable trials (the same other choices, peak learning rates"
      f" within a factor of {_ALIKE:g}) have the same schedule, so nothing"
      " shows whether a law of the loss under schedules holds here."
    )
  kept = sorted(i for of_one in schedules for i in of_one[:_OF_EACH])
  schedules = [[kept.index(i) for i in s[:_OF_EACH]] for s in schedules]
  runs = [runs[i] for i in kept]
  largest = max(run.rates.max() for run in runs)
  terms = [_terms(run, largest, run.shares) for run in runs]
  whole = [_sums(r, t) for r, t in zip(runs, terms, strict=True)]
  half = [_sums(r, t, until=0.5) for r, t in zip(runs, terms, strict=True)]
  errors = []
  for held in schedules:
    squares, slope = _squares([f for i, f in enumerate(whole) if i not in held])
    at = np.unravel_index(np.argmin(squares), squares.shape)
    of_one = []
    for i in held:
      fitted = terms[i].costs(*half[i].solve(slope), slope)[at]
      # Levels, because a single evaluation has noise of its own.
      late = np.array_split(np.flatnonzero(runs[i].shares > 0.5), 4)
      of_one += [
        abs(fitted[part].mean() / runs[i].costs[part].mean() - 1)
        for part in late
      ]
    errors.append(float(np.quantile(of_one, 0.9)))
  worst = max(errors)
  if not worst <= TOLERANCE:
    return (
      "The law of the loss under schedules (jaxplay.analysis.longer) misses"
      f" held-out schedules by {worst:.1%}, and {TOLERANCE:.0%} is allowed."
    )
  return _predict(runs, terms, whole, largest, worst, len(schedules), steps)


def _predict(runs, terms, fits, largest, worst, num_schedules, steps):
  """The posterior of the first run, stretched: grid, and normal given it."""
  squares, slope = _squares(fits)
  at = np.unravel_index(np.argmin(squares), squares.shape)
  number = sum(len(run.costs) for run in runs)
  residuals = [
    1 - terms[i].costs(*fits[i].solve(slope), slope)[at] / run.costs
    for i, run in enumerate(runs)
  ]
  # Neighbouring errors are alike, so they count for fewer.
  alike = sum(float(r[1:] @ r[:-1]) for r in residuals)
  alike = float(np.clip(alike / max(float(squares[at]), 1e-300), 0, 0.9))
  freedom = max(number - 2 * len(runs) - 4, 1)
  variance = float(squares[at]) / freedom * (1 + alike) / (1 - alike)
  variance = max(variance, 1e-12)
  weights = np.exp(-(squares - squares[at]) / (2 * variance))
  offset, power = fits[0].solve(slope)
  shares = np.linspace(0, 1, 101)[1:]
  terms_now = _terms(runs[0], largest, shares)
  terms_twice = _terms(runs[0], largest, shares, stretch=2.0)
  now = terms_now.costs(offset, power, slope)
  twice = terms_twice.costs(offset, power, slope)
  # How the end moves with A (E moves against it) and with B.
  of_power = variance / fits[0].powers
  of_slope = variance / np.maximum(sum(fit.left for fit in fits), 1e-300)
  mean_power = fits[0].mean_power

  def moved(terms):
    powers, drops = (x[..., -1] for x in terms)
    by_power = powers - mean_power
    by_slope = by_power * fits[0].drop_by_power + fits[0].mean_drop - drops
    return by_power, by_slope

  rng = np.random.default_rng(0)
  drawn = rng.choice(weights.size, 4000, p=weights.ravel() / weights.sum())
  noise = rng.normal(size=(3, 4000)) * np.sqrt(
    [of_power.ravel()[drawn], of_slope.ravel()[drawn], np.full(4000, worst**2)]
  )

  def ends(values, terms):
    by_power, by_slope = (
      np.broadcast_to(x, squares.shape).ravel()[drawn] for x in moved(terms)
    )
    return (
      values[..., -1].ravel()[drawn] + by_power * noise[0] + by_slope * noise[1]
    )

  gains = 1 - ends(twice, terms_twice) * (1 + noise[2]) / np.maximum(
    ends(now, terms_now), 1e-300
  )
  low, high = np.quantile(gains, [0.025, 0.975])
  places = np.round(shares * steps).astype(np.int64)
  return Longer(
    trial=runs[0].trial,
    steps=steps,
    now=float(now[at][-1]),
    twice=float(twice[at][-1]),
    gain=float(1 - twice[at][-1] / now[at][-1]),
    interval=(float(low), float(high)),
    held_out=worst,
    num_schedules=num_schedules,
    num_trials=len(runs),
    curve=(places, now[at]),
    curve_of_twice=(2 * places, twice[at]),
  )


class _Terms(NamedTuple):
  """(S + s)^-a and D, [c and g, a and s, times]."""

  powers: np.ndarray
  drops: np.ndarray

  def costs(self, offset, power, slope):
    """The law, given E, A and B at every point of the grid."""
    offset, power, slope = (x[..., None] for x in (offset, power, slope))
    return offset + power * self.powers - slope * self.drops


class _Sums(NamedTuple):
  """Weighted least squares of one run's costs on 1, its power and its drops.

  Arrays have the shape of the grid, [c and g, a and s]. The weights
  make errors relative.
  """

  mean_cost: np.ndarray
  mean_power: np.ndarray
  mean_drop: np.ndarray
  powers: np.ndarray  # sum of squares of the power, centered
  cost_by_power: np.ndarray  # regression coefficients
  drop_by_power: np.ndarray
  left: np.ndarray  # sum of squares of the drops, without their power
  both: np.ndarray  # of drops and costs, without their power
  rest: np.ndarray  # sum of squares of the costs, without their power
  per_power: np.ndarray  # regressions without E
  drop_per_power: np.ndarray
  weight: float

  def solve(self, slope):
    """E and A, neither negative, given B."""
    power = self.cost_by_power + slope * self.drop_by_power
    mean = self.mean_cost + slope * self.mean_drop
    power = np.maximum(power, 0)
    offset = mean - power * self.mean_power
    through_zero = self.per_power + slope * self.drop_per_power
    power = np.where(offset < 0, through_zero, power)
    return np.maximum(offset, 0), power

  def squares(self, slope):
    """Sum of squared relative errors, given B."""
    offset, power = self.solve(slope)
    freely = self.cost_by_power + slope * self.drop_by_power
    mean = self.mean_cost + slope * self.mean_drop
    return (
      self.rest
      + 2 * slope * self.both
      + slope**2 * self.left
      + self.powers * (power - freely) ** 2
      + self.weight * (offset + power * self.mean_power - mean) ** 2
    )


def _sums(run, terms, until=1.0):
  """Of the evaluations until a share of the steps."""
  powers, drops = terms
  weights = np.where(run.shares <= until, 1 / run.costs**2, 0)
  total = weights.sum()
  costs = run.costs
  means = [(x @ weights / total)[..., None] for x in (costs, powers, drops)]
  cost, power, drop = (
    x - mean for x, mean in zip((costs, powers, drops), means, strict=True)
  )
  square = np.maximum((power**2) @ weights, 1e-300)
  cost_by = (power * cost) @ weights / square
  drop_by = (power * drop) @ weights / square
  rest = cost - cost_by[..., None] * power
  left = drop - drop_by[..., None] * power
  plain = np.maximum((powers**2) @ weights, 1e-300)
  return _Sums(
    *(mean[..., 0] for mean in means),
    square,
    cost_by,
    drop_by,
    (left**2) @ weights,
    (left * rest) @ weights,
    (rest**2) @ weights,
    (powers * costs) @ weights / plain,
    (powers * drops) @ weights / plain,
    total,
  )


def _squares(fits):
  """(sum of squared relative errors, B) at every point of the grid."""
  left = np.maximum(sum(fit.left for fit in fits), 1e-300)
  slope = np.maximum(-sum(fit.both for fit in fits) / left, 0)
  squares = sum(fit.squares(slope) for fit in fits)
  return squares, slope


def _terms(run, largest, shares, stretch=1.0):
  """The terms at shares of the steps, of which there are `stretch` as many."""
  rates = run.rates / largest
  edges = np.arange(_CELLS + 1) / _CELLS
  sums = np.concatenate([[0.0], np.cumsum(rates)]) / _CELLS * stretch
  done = np.interp(shares, edges, sums)
  powers = (done + _S) ** -_A
  drops = np.append(0.0, rates[:-1] - rates[1:])
  places = np.flatnonzero(drops > 1e-9)
  places = places[places > np.argmax(rates)]
  since = np.maximum(done[:, None] - sums[places], 0)
  after = np.maximum(rates[places], 1e-6)
  gains = np.stack(
    [
      (1 - (1 + since / (c * after**g)) ** -0.5) @ drops[places]
      for c, g in _ACTING
    ]
  )
  shape = (len(_ACTING), len(_A), len(shares))
  return _Terms(
    np.broadcast_to(powers, shape), np.broadcast_to(gains[:, None], shape)
  )


def _runs(results):
  """The comparable trials, best first; none if the best is not one.

  They have the same choices, but for the schedule, and similar rates.
  """
  runs = []
  if not results.ranked:
    return runs
  names = [
    p.label
    for p in results.space.parameters
    if p.kind == "choice" and p.key not in _OF_SCHEDULE
  ]
  first = results.ranked[0]
  for trial in results.ranked:
    alike = all(trial.point.get(n) == first.point.get(n) for n in names)
    alike &= trial.max_train_steps == first.max_train_steps
    run = _run(trial, results.objective) if alike else None
    if run is None and trial is first:
      return []
    if run is not None:
      runs.append(run)
  peaks = [run.rates.max() for run in runs]
  return [
    run
    for run, peak in zip(runs, peaks, strict=True)
    if peaks[0] / _ALIKE <= peak <= peaks[0] * _ALIKE
  ]


def _run(trial, objective):
  """One trial; None: it logged too little, or its rate rises again."""
  empty = (np.zeros(0), np.zeros(0))
  logged, rates = trial.curves.get("learning_rate", empty)
  finite = np.isfinite(rates)
  logged, rates = logged[finite], rates[finite]
  if len(rates) < _FEWEST_RATES or not rates.max() > 0:
    return None
  after = rates[np.argmax(rates) :]
  if (np.diff(after) > 0.01 * rates.max()).any():
    return None
  steps, costs = trial.costs(objective)
  shares = steps / trial.max_train_steps
  used = np.isfinite(costs) & (shares > SINCE)
  shares, costs = shares[used], costs[used]
  # A level and a slope before half of the steps, four levels after it.
  early = (shares <= 0.5).sum()
  if early < _FEWEST_EARLY or len(shares) - early < _FEWEST_LATE:
    return None
  if not (costs > 0).all():
    return None
  middles = (np.arange(_CELLS) + 0.5) / _CELLS * trial.max_train_steps
  cells = np.interp(middles, logged, rates)
  return Run(trial.index, shares, costs, cells)


def _schedules(runs):
  """Indices of the runs of each schedule, by the shape after the warmup."""
  found = []
  for i, run in enumerate(runs):
    shape = run.rates[_CELLS // 5 :] / run.rates.max()
    for first, members in found:
      if np.abs(first - shape).mean() < _DIFFERENT:
        members.append(i)
        break
    else:
      found.append((shape, [i]))
  return [members for _, members in found]
