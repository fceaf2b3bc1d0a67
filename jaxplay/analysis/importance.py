"""Which hyperparameters explain the order of the trials, and which interact.

A functional analysis of variance: the expected score of a trial is a sum of one
function of each hyperparameter and one of each pair, and a share is the part of
the variance of that sum over the space that one of them causes. (Sobol 1993;
Hutter et al. 2014, fANOVA, with a forest where this has polynomials: Sudret
2008, polynomial chaos expansions.) The score of a trial is the normal quantile
of its rank by cost, so that a few terrible trials cannot be all of the
variance, a metric to maximize gives the same as its negative, and a product of
two effects, additive after a change of scale, is no interaction. Infeasible
trials tie for the worst.

Noise decides with few trials, so all coefficients have a prior that expects
most functions to be about zero and leaves large ones alone (the horseshoe of
Carvalho et al. 2010, a scale for each function), and shares are quantiles of
the posterior, drawn by the Gibbs sampler of Makalic and Schmidt (2016).
docs/checks.md has the measured errors, and those of a forest and a Gaussian
process on the same functions.
"""

import dataclasses
import itertools
import weakref
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy import stats

from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.study import space as space_lib

FEWEST = 16  # trials with a value that a group requires
# Shares below this do not matter.
SMALL = 0.05
_SURE = 0.95  # probability that a share is below `SMALL`, of those to be fixed

_DEGREE = 4  # of the polynomials, and of the products of two
_MOST_PAIRED = 8  # hyperparameters whose pairs are considered
_CHAINS, _BURN_IN, _DRAWS = 8, 60, 200


class Share(NamedTuple):
  """A share of variance in [0, 1]: posterior median and 99% interval."""

  estimate: float
  low: float
  high: float


@dataclasses.dataclass(frozen=True)
class Map:
  """The surrogate's mean over two hyperparameters, the others averaged.

  Attributes:
    pair: Their labels.
    values: Of each of the two, the values of the grid, in order.
    objective: [len(values[0])][len(values[1])], in the objective's unit.
  """

  pair: tuple[str, str]
  values: tuple[list[Any], list[Any]]
  objective: list[list[float]]


@dataclasses.dataclass(frozen=True)
class Importances:
  """What explains the order of a group's trials.

  Attributes:
    group: Name of the group of trials, see `trials.groups`; "": all.
    num_trials: Trials with a value.
    num_infeasible: Trials that diverged, which tie for the worst.
    shares: Label -> share of the variance that disappears if this
      hyperparameter is fixed: its own and that of its pairs (the total index).
    alone: Label -> share of its own function, without its pairs.
    pairs: Labels of two hyperparameters -> share of their interaction.
    explained: Share of the variance between trials that all of these explain;
      the rest is noise and interactions of three or more.
    matter: Labels whose interval lies above `SMALL`, and above what noise
      explains by chance.
    idle: Labels whose share is below `SMALL` with a probability of 95%, and is
      below 10% if the worse half of the trials tie, which leaves less to go by:
      what decides between good trials may be little of what decides between
      all.
    interact: Pairs whose interval lies as those of `matter`.
    map: Of the pair with the largest interaction; None: there is no pair.
  """

  group: str
  num_trials: int
  num_infeasible: int
  shares: Mapping[str, Share]
  alone: Mapping[str, Share]
  pairs: Mapping[tuple[str, str], Share]
  explained: Share
  matter: Sequence[str]
  idle: Sequence[str]
  interact: Sequence[tuple[str, str]]
  map: Map | None

  def as_json(self) -> dict[str, Any]:
    """As JSON values, without the map."""
    return {
      "group": self.group,
      "num_trials": self.num_trials,
      "num_infeasible": self.num_infeasible,
      "shares": {label: list(s) for label, s in self.shares.items()},
      "alone": {label: list(s) for label, s in self.alone.items()},
      "pairs": [[*pair, *share] for pair, share in self.pairs.items()],
      "explained": list(self.explained),
      "matter": list(self.matter),
      "idle": list(self.idle),
      "interact": [list(pair) for pair in self.interact],
    }


_done: weakref.WeakKeyDictionary[results_lib.Results, list[Importances]]
_done = weakref.WeakKeyDictionary()


def importances(results: results_lib.Results) -> list[Importances]:
  """Measure importances in each group of scientific choices.

  Of the space-filling trials, in each group of at least 16 with a value; if no
  group has so many, over all trials, with the scientific choices among the
  hyperparameters. A hyperparameter that exists in some trials of a group is
  judged on these, and its share is of all. Those that did not vary are left
  out. Of more than 8 hyperparameters, pairs are those of the 8 most important.

  Returns:
    A row for each group; none if there are too few trials, if all have the
    same value, or if nothing was varied.
  """
  # The checklist, the figures and the summary of one page.
  if results not in _done:
    _done[results] = _importances(results.space_filling)
  return _done[results]


def _importances(results):
  groups = trials_lib.groups(results, slices=False)
  valued = {
    name: int(np.isfinite(results.values[indices]).sum())
    for name, indices in groups.items()
  }
  if len(groups) > 1 and max(valued.values()) < FEWEST:
    groups = {"": np.arange(len(results.trials))}
    valued = {"": int(np.isfinite(results.values).sum())}
  return [
    found
    for name, indices in groups.items()
    if valued[name] >= FEWEST and (found := _of_group(results, name, indices))
  ]


def _of_group(results, name, indices):
  """The importances of one group, or None: nothing varied, or no value."""
  indices = indices[results.ended[indices]]
  costs = np.where(results.infeasible, np.inf, results.costs)[indices]
  functions = _functions(results, indices)
  if not functions or costs.min() == costs.max():
    return None
  scores = _scores(costs)
  labels = [f.labels[0] for f in functions]
  paired = functions
  if len(functions) > _MOST_PAIRED:
    main, _ = _shares(functions, _fit(functions, scores))
    most = sorted(functions, key=lambda f: -np.median(main[f.labels]))
    paired = [f for f in functions if f in most[:_MOST_PAIRED]]
  functions = functions + _products(results.space, paired)
  fit = _fit(functions, scores)
  draws, explained = _shares(functions, fit)
  total = _total(labels, draws)
  shares = {label: _quantiles(total[label]) for label in labels}
  pairs = {
    names: _quantiles(draws[names]) for names in draws if len(names) == 2
  }

  def is_large(share, draws):
    # In a study of noise, shares are of little, and one of them is large. By
    # chance a coefficient explains 1 / trials of the variance.
    of_all = _quantiles(draws * explained)
    return share.low > SMALL and of_all.low > 2 / len(costs)

  def is_small(draws, limit=SMALL):
    return np.mean(draws < limit) > _SURE

  idle = [label for label in labels if is_small(total[label])]
  clipped = _scores(np.minimum(costs, np.median(costs)))
  if idle and np.ptp(clipped):
    better, _ = _shares(functions, _fit(functions, clipped))
    again = _total(labels, better)
    idle = [label for label in idle if is_small(again[label], 2 * SMALL)]
  strongest = max(pairs, key=lambda p: pairs[p].estimate, default=None)
  return Importances(
    group=name,
    num_trials=int(np.isfinite(costs).sum()),
    num_infeasible=int(np.isinf(costs).sum()),
    shares=shares,
    alone={label: _quantiles(draws[label,]) for label in labels},
    pairs=pairs,
    explained=_quantiles(explained),
    matter=[n for n in labels if is_large(shares[n], total[n])],
    idle=idle,
    interact=[p for p in pairs if is_large(pairs[p], draws[p])],
    map=strongest and _map(results, functions, fit, strongest, costs, scores),
  )


def _scores(costs):
  """Normal quantiles of the ranks of costs; ties share the mean rank."""
  return stats.norm.ppf((stats.rankdata(costs) - 0.375) / (len(costs) + 0.25))


def _quantiles(draws):
  low, middle, high = np.quantile(draws, [0.005, 0.5, 0.995]).tolist()
  return Share(middle, low, high)


def _total(labels, draws):
  """Label -> draws of its share with those of its pairs."""
  return {
    label: sum(d for names, d in draws.items() if label in names)
    for label in labels
  }


# Functions of one and of two hyperparameters.


@dataclasses.dataclass(frozen=True, eq=False)
class _Function:
  """A basis of the functions of one hyperparameter, or of two.

  Attributes:
    labels: Of the hyperparameters.
    columns: [trials, basis], orthonormal over the space; 0 where the
      hyperparameter does not exist.
    degrees: [basis], of the polynomials; the prior shrinks high ones.
    exists: [trials], in which the function exists.
  """

  labels: tuple[str, ...]
  columns: np.ndarray
  degrees: np.ndarray
  exists: np.ndarray


def _functions(results, indices):
  """A basis for each hyperparameter that varies in these trials."""
  functions = []
  for parameter in results.space.parameters:
    column = results.column(parameter.label)[indices]
    exists = np.array([value is not None for value in column], bool)
    values = column[exists].tolist()
    if not any(value != values[0] for value in values):
      continue
    evaluate, degrees = _basis(parameter)
    columns = np.zeros((len(column), len(degrees)))
    columns[exists] = evaluate(values)
    labels = (parameter.label,)
    functions.append(_Function(labels, columns, degrees, exists))
  return functions


def _products(space, functions):
  """A basis for each pair of functions that has interactions."""
  by_label = {p.label: p for p in space.parameters}
  products = []
  for f, g in itertools.combinations(functions, 2):
    one, other = by_label[f.labels[0]], by_label[g.labels[0]]
    exists = f.exists & g.exists
    # One switches the other on, or both are rarely there.
    if one.key in other.when or other.key in one.when or exists.sum() < FEWEST:
      continue
    i, j = np.nonzero(f.degrees[:, None] + g.degrees <= _DEGREE)
    products.append(
      _Function(
        f.labels + g.labels,
        f.columns[:, i] * g.columns[:, j],
        f.degrees[i] * g.degrees[j],
        exists,
      )
    )
  return products


def _basis(parameter):
  """(function of values to [len, basis], degrees) of a hyperparameter.

  Orthonormal polynomials of its unit for numbers and choices with an order,
  else contrasts between the values.
  """
  levels = _levels(parameter)
  if levels is None:
    degrees = np.arange(1, _DEGREE + 1)

    def evaluate(values):
      units = np.array([parameter.to_unit(value) for value in values])
      return _legendre(units)

    return evaluate, degrees
  values, units, weights = levels
  if trials_lib.is_ordered(parameter):
    degrees = np.arange(1, min(_DEGREE, len(values) - 1) + 1)
    raw = units[:, None] ** np.r_[0, degrees]
  else:
    degrees = np.ones(len(values) - 1, int)
    raw = np.c_[np.ones(len(values)), np.eye(len(values))[:, 1:]]
  root = np.sqrt(weights / weights.sum())[:, None]
  table = (np.linalg.qr(raw * root)[0] / root)[:, 1:]
  place = {space_lib.plain(value): i for i, value in enumerate(values)}

  def look_up(values):
    return table[[place[space_lib.plain(value)] for value in values]]

  return look_up, degrees


def _levels(parameter):
  """(values, units, weights) of few values; None: it is continuous."""
  if parameter.kind == "choice":
    values = list(parameter.values)
    return values, np.linspace(0, 1, len(values)), np.ones(len(values))
  if parameter.kind == "int" and parameter.high - parameter.low < 10:
    values = list(range(parameter.low, parameter.high + 1))
    # Each owns the interval to the next, on the scale; see `from_units`.
    ends = np.array([*values, parameter.high + 1], float)
    ends = np.log(ends) if parameter.scale == "log" else ends
    return values, (ends[:-1] + ends[1:]) / 2 - ends[0], np.diff(ends)
  return None


def _legendre(units):
  """Orthonormal Legendre polynomials on [0, 1], [len, _DEGREE]."""
  rows = [
    np.polynomial.Legendre.basis(k, [0, 1])(units) * np.sqrt(2 * k + 1)
    for k in range(1, _DEGREE + 1)
  ]
  return np.stack(rows, axis=1)


# The posterior.


class _Fit(NamedTuple):
  """Draws of the posterior.

  Attributes:
    powers: [draws, functions], sum of squares of each one's coefficients.
    noise: [draws], variance of the rest.
    mean: [columns], mean of the coefficients.
  """

  powers: np.ndarray
  noise: np.ndarray
  mean: np.ndarray


def _shares(functions, fit):
  """(labels -> draws of the share of what is explained, draws of that)."""
  # A function has no variance where it does not exist.
  powers = fit.powers * np.array([f.exists.mean() for f in functions])
  explained = powers.sum(axis=1)
  shares = powers / explained[:, None]
  of_each = {f.labels: shares[:, i] for i, f in enumerate(functions)}
  return of_each, explained / (explained + fit.noise)


def _fit(functions, scores) -> _Fit:
  """Draw from the posterior of y = X b + noise with a grouped horseshoe.

      b[k] ~ N(0, noise * tau * lam[function of k] / degree[k]^2)
      sqrt(tau), sqrt(lam) ~ half-Cauchy(1); p(noise) = 1 / noise

  by the Gibbs sampler of Makalic and Schmidt (2016, "A simple sampler for the
  horseshoe estimator"), several chains in parallel.
  """
  rng = np.random.default_rng(0)
  sizes = np.array([f.columns.shape[1] for f in functions])
  owner = np.repeat(np.arange(len(functions)), sizes)
  starts = np.cumsum(sizes) - sizes
  x = np.concatenate([f.columns for f in functions], axis=1)
  x = x - x.mean(axis=0)
  prior = 1 / np.concatenate([f.degrees for f in functions]) ** 2.0
  y = (scores - scores.mean()) / scores.std()
  draw = _coefficients(x, y, rng)
  num, width = x.shape
  shape = (_CHAINS, len(functions))
  lam, nu = np.ones(shape), np.ones(shape)
  tau, xi = np.full((_CHAINS, 1), 0.1), np.ones((_CHAINS, 1))
  noise = np.full((_CHAINS, 1), 0.5)

  def inverse_gamma(a, b):
    return np.clip(b / rng.gamma(np.broadcast_to(a, b.shape)), 1e-12, 1e12)

  powers, noises, mean = [], [], np.zeros(width)
  for step in range(_BURN_IN + _DRAWS):
    b = draw(prior * tau * lam[:, owner], noise)
    rest = ((y - b @ x.T) ** 2).sum(axis=1, keepdims=True)
    scaled = np.add.reduceat(b * b / prior, starts, axis=1)
    fitted = (scaled / lam).sum(axis=1, keepdims=True)
    noise = inverse_gamma((num - 1 + width) / 2, (rest + fitted / tau) / 2)
    lam = inverse_gamma((sizes + 1) / 2, 1 / nu + scaled / (2 * tau * noise))
    nu = inverse_gamma(1.0, 1 + 1 / lam)
    fitted = (scaled / lam).sum(axis=1, keepdims=True)
    tau = inverse_gamma((width + 1) / 2, 1 / xi + fitted / (2 * noise))
    xi = inverse_gamma(1.0, 1 + 1 / tau)
    if step >= _BURN_IN:
      powers.append(np.add.reduceat(b * b, starts, axis=1))
      noises.append(noise[:, 0])
      mean += b.mean(axis=0) / _DRAWS
  return _Fit(np.concatenate(powers), np.concatenate(noises), mean)


def _coefficients(x, y, rng):
  """A function that draws [chains, columns] coefficients of y = x b + noise.

  Given their prior variances in units of the noise, [chains, columns], and the
  noise, [chains, 1]. In the smaller of the two dimensions of x (Bhattacharya
  et al. 2016; Rue 2001).
  """
  num, width = x.shape
  if width > num:
    diagonal = np.arange(num)

    def wide(variances, noise):
      scaled = x * variances[:, None]
      matrix = scaled @ x.T
      matrix[:, diagonal, diagonal] += 1
      root = np.sqrt(noise)
      b = root * np.sqrt(variances) * rng.standard_normal(variances.shape)
      right = y - b @ x.T - root * rng.standard_normal((len(noise), num))
      weights = np.linalg.solve(matrix, right[..., None])
      return b + (scaled.swapaxes(1, 2) @ weights)[..., 0]

    return wide
  gram, target, diagonal = x.T @ x, x.T @ y, np.arange(width)
  values, vectors = np.linalg.eigh(gram)
  half = vectors * np.sqrt(np.maximum(values, 0))

  def tall(variances, noise):
    matrix = np.repeat(gram[None], len(noise), axis=0)
    matrix[:, diagonal, diagonal] += 1 / variances
    chance = rng.standard_normal(variances.shape) @ half.T
    chance += rng.standard_normal(variances.shape) / np.sqrt(variances)
    right = target + np.sqrt(noise) * chance
    return np.linalg.solve(matrix, right[..., None])[..., 0]

  return tall


# The two-way map.

GRID = 24  # values of a continuous hyperparameter


def _map(results, functions, fit, pair, costs, scores):
  by_label = {p.label: p for p in results.space.parameters}
  values, tables, degrees = [], [], []
  for label in pair:
    parameter = by_label[label]
    levels = _levels(parameter)
    own = levels[0] if levels else None
    if own is None:
      own = parameter.from_units((np.arange(GRID) + 0.5) / GRID)
    evaluate, order = _basis(parameter)
    values.append(own)
    tables.append(evaluate(own))
    degrees.append(order)
  ends = np.cumsum([f.columns.shape[1] for f in functions])
  of = {
    f.labels: (f, part)
    for f, part in zip(functions, np.split(fit.mean, ends[:-1]), strict=True)
  }
  i, j = np.nonzero(degrees[0][:, None] + degrees[1] <= _DEGREE)
  # Columns were centred on their means over the trials.
  surface = -sum(f.columns.mean(axis=0) @ b for f, b in of.values())
  surface = surface + (tables[0] @ of[pair[:1]][1])[:, None]
  surface = surface + tables[1] @ of[pair[1:]][1]
  surface = surface + np.einsum(
    "ak,bk,k->ab", tables[0][:, i], tables[1][:, j], of[pair][1]
  )
  finite = np.isfinite(costs)
  expected = np.interp(
    scores.mean() + scores.std() * surface,
    np.sort(scores[finite]),
    np.sort(costs[finite]),
  )
  as_value = np.vectorize(results.metric.value)
  return Map(pair, (values[0], values[1]), as_value(expected).tolist())
