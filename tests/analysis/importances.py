"""Known functions with known importances, and how well they are found.

    python -m tests.analysis.importances [--studies=40] [--method=forest]

prints the tables of "Importances" in docs/checks.md: errors of the shares,
coverage of their intervals, and how often a hyperparameter that does nothing is
found to matter, one that matters to be fixed, and an interaction where there is
none. `--method=forest` and `--method=gp` do so for a random forest and a
Gaussian process of scikit-learn, with intervals from a bootstrap of the trials
and from the posterior.

Costs are functions of units in [0, 1] plus normal noise. The true shares are
those of the expected score of a trial in a study of 20,000, by the pick-freeze
estimator of Sobol; so they are not those of the surrogate's own model.
"""

import argparse
import functools
import itertools
import time
import warnings

import numpy as np
from scipy import stats

from jaxplay.analysis import importance
from jaxplay.study import sampling
from jaxplay.study import space as space_lib
from tests.analysis import by_hand

NOISE = (0.01, 0.1, 0.3)  # its share of the variance of costs
SIZES = (16, 40, 100)
_REFERENCE = 20_000
_RERUNS = 4


def _additive(u):
  return 4 * (u[:, 0] - 0.4) ** 2 + 2 * (u[:, 1] - 0.6) ** 2 + 0.3 * u[:, 2]


def _product(u):
  return 4 * (u[:, 0] - 0.5) * (u[:, 1] - 0.5) + 0.5 * u[:, 2]


def _effective_rate(u):
  """Log of learning_rate / (1 - momentum), and a best value of it."""
  return (1.2 * (u[:, 0] - 0.5) + 0.6 * (u[:, 1] - 0.5) + 0.1) ** 2


def _sparse(u):
  return (u[:, 0] - 0.35) ** 2 + 0.5 * (u[:, 1] - 0.6) ** 2


def _diverges(u):
  """A plateau, a slope below it, and divergence above a diagonal."""
  cost = 0.3 * np.maximum(0.5 - u[:, 0], 0) ** 2 + 0.1 * (u[:, 2] - 0.5) ** 2
  return np.where(u[:, 0] + 0.3 * u[:, 1] > 0.9, np.inf, cost)


def _heavy_tails(u):
  """Some trials are a thousand times as bad as others."""
  return np.exp(16 * (u[:, 0] - 0.4) ** 2 + 8 * (u[:, 1] - 0.6) ** 2)


def _local(u):
  """The second matters only where the first is good."""
  bad = np.abs(u[:, 0] - 0.5)
  return np.where(bad > 0.25, 1 + 4 * bad, 2 * bad + 2 * (u[:, 1] - 0.5) ** 2)


def _nothing(u):
  return np.zeros(len(u))


# Name -> (hyperparameters, function)
FUNCTIONS = {
  "additive": (5, _additive),
  "product": (5, _product),
  "effective rate": (5, _effective_rate),
  "3 idle of 5": (5, _sparse),
  "diverges": (4, _diverges),
  "heavy tails": (5, _heavy_tails),
  "local": (4, _local),
  "nothing": (5, _nothing),
  "nothing of 1": (1, _nothing),
}


def costs(name, units, noise, rng) -> np.ndarray:
  """Costs of trials, inf where they diverge.

  Args:
    name: Of a function.
    units: [trials, hyperparameters]
    noise: Its share of the variance; of the logarithm with heavy tails.
    rng: A numpy generator.
  """
  cost = FUNCTIONS[name][1](units)
  is_log = name == "heavy tails"
  cost = np.log(cost) if is_log else cost
  deviation = _deviation(name) * np.sqrt(noise / (1 - noise))
  cost = cost + deviation * rng.standard_normal(len(cost))
  return np.exp(cost) if is_log else cost


@functools.cache
def _deviation(name):
  number, function = FUNCTIONS[name]
  cost = function(np.random.default_rng(0).random((_REFERENCE, number)))
  cost = np.log(cost) if name == "heavy tails" else cost
  return float(cost[np.isfinite(cost)].std()) or 1.0


def study(name, num, noise, seed):
  """A study of a function, with a unit as each hyperparameter."""
  mapping = {
    f"hparams.h{i}": space_lib.Float(0.0, 1.0)
    for i in range(FUNCTIONS[name][0])
  }
  space = space_lib.Space(mapping)
  points = sampling.points(space, algorithm="halton", seed=seed, num=num)
  units = np.array([list(point.values()) for point in points])
  values = costs(name, units, noise, np.random.default_rng(seed))
  diverged = np.flatnonzero(np.isinf(values)).tolist()
  return by_hand.study(mapping, points, values, diverged)


@functools.cache
def truth(name, noise):
  """(share of each, with its pairs; share of each pair) of the function."""
  rng = np.random.default_rng(1)
  number = FUNCTIONS[name][0]
  one, other = rng.random((2, _REFERENCE, number))
  sample = rng.random((_REFERENCE, number))
  reference = np.sort(costs(name, sample, noise, rng))

  def expected(units):
    scores = 0.0
    for _ in range(_RERUNS):
      drawn = costs(name, units, noise, rng)
      below, upto = (
        np.searchsorted(reference, drawn, side) for side in ("left", "right")
      )
      shares = (below + upto + 1) / 2 / (_REFERENCE + 1)
      scores = scores + stats.norm.ppf(shares) / _RERUNS
    return scores

  base = expected(one)

  def closed(kept):
    units = other.copy()
    units[:, kept] = one[:, kept]
    return float(np.cov(base, expected(units))[0, 1])

  every = list(range(number))
  variance = closed(every)
  alone = [closed([i]) / variance for i in every]
  total = [1 - closed([j for j in every if j != i]) / variance for i in every]
  pairs = [
    closed([i, j]) / variance - alone[i] - alone[j]
    for i, j in itertools.combinations(every, 2)
  ]
  return np.clip(total, 0, 1), np.clip(pairs, 0, 1)


def found(name, num, noise, seed):
  """([shares, 3], [pairs, 3], matter, idle, interact; bool), or None.

  None if fewer than 16 trials have a value.
  """
  rows = importance.importances(study(name, num, noise, seed))
  if not rows:
    return None
  (row,) = rows
  labels, pairs = list(row.shares), list(row.pairs)
  return (
    np.array(list(row.shares.values())),
    np.array(list(row.pairs.values())).reshape(-1, 3),
    np.array([label in row.matter for label in labels]),
    np.array([label in row.idle for label in labels]),
    np.array([pair in row.interact for pair in pairs], bool),
  )


def found_by(method, name, num, noise, seed):
  """As `found`, by "forest" or "gp" of scikit-learn, judged by intervals."""
  made = study(name, num, noise, seed)
  units = np.array([list(trial.point.values()) for trial in made.trials])
  values = np.where(made.infeasible, np.inf, made.costs)
  ranks = stats.rankdata(values)
  scores = stats.norm.ppf((ranks - 0.375) / (num + 0.25))
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # A length scale at its bound.
    shares, pairs = _METHODS[method](units, scores)
  small = importance.SMALL
  matter, interact = shares[:, 1] > small, pairs[:, 1] > small
  return shares, pairs, matter, shares[:, 2] < small, interact


def _sobol(predict, number, size):
  """Indices [hyperparameters] and [pairs], with axes of the predictions."""
  rng = np.random.default_rng(5)
  one, other = rng.random((2, size, number))
  every = list(range(number))
  pairs = list(itertools.combinations(every, 2))
  kept = [every, *([i] for i in every), *map(list, pairs)]
  kept += [[j for j in every if j != i] for i in every]
  units = np.repeat(other[None], len(kept), axis=0)
  for row, columns in zip(units, kept, strict=True):
    row[:, columns] = one[:, columns]
  y = predict(units.reshape(-1, number))
  y = y.reshape(len(kept), size, *y.shape[1:])
  y = y - y.mean(axis=1, keepdims=True)
  closed = (y[:1] * y).mean(axis=1)
  closed = closed / np.maximum(closed[0], 1e-12)
  alone = closed[1 : 1 + number]
  between = [
    closed[1 + number + k] - alone[i] - alone[j]
    for k, (i, j) in enumerate(pairs)
  ]
  return 1 - closed[-number:], np.stack(between)


def _with_interval(estimate, draws):
  """[n, 3], of draws [draws, n]; 99% as in `importance`."""
  low, high = np.quantile(draws, [0.005, 0.995], axis=0)
  return np.stack([estimate, low, high], axis=1)


def _forest(units, scores):
  from sklearn import ensemble

  def fit(places):
    model = ensemble.RandomForestRegressor(
      60, min_samples_leaf=2, random_state=0
    )
    model.fit(units[places], scores[places])
    return _sobol(model.predict, units.shape[1], 512)

  rng = np.random.default_rng(0)
  num = len(scores)
  estimates = fit(np.arange(num))
  draws = [fit(rng.integers(num, size=num)) for _ in range(20)]
  return [
    _with_interval(estimate, np.array(again))
    for estimate, again in zip(estimates, zip(*draws, strict=True), strict=True)
  ]


def _gp(units, scores):
  from sklearn import gaussian_process
  from sklearn.gaussian_process import kernels

  number = units.shape[1]
  kernel = kernels.ConstantKernel(1) * kernels.RBF(np.ones(number), (0.1, 100))
  kernel += kernels.WhiteKernel(0.1, (1e-4, 2))
  model = gaussian_process.GaussianProcessRegressor(
    kernel, n_restarts_optimizer=1, random_state=0
  )
  model.fit(units, scores)
  estimates = _sobol(model.predict, number, 512)
  draws = _sobol(lambda u: model.sample_y(u, 100, random_state=0), number, 48)
  return [
    _with_interval(estimate, again.T)
    for estimate, again in zip(estimates, draws, strict=True)
  ]


_METHODS = {"forest": _forest, "gp": _gp}


def measure(name, num, noise, num_studies, method=None) -> dict[str, float]:
  """Errors and rates over studies; NaN where the function has no such case."""
  seeds = range(num_studies)
  find = functools.partial(found_by, method) if method else found
  start = time.process_time()
  many = [row for s in seeds if (row := find(name, num, noise, s)) is not None]
  if not many:
    return {}
  seconds = (time.process_time() - start) / num_studies
  shares, pairs, matter, idle, interact = (
    np.stack(part) for part in zip(*many, strict=True)
  )
  if name.startswith("nothing"):
    return {
      "false": matter.any(axis=1).mean(),
      "false pair": interact.any(axis=1).mean() if interact.size else 0.0,
      "seconds": seconds,
    }
  total, between = truth(name, noise)
  does_nothing, matters = total < 0.01, total > 0.1
  no_pair, is_pair = between < 0.02, between > 0.1

  def covered(intervals, truth, margin):
    low, high = intervals[..., 1] - margin, intervals[..., 2] + margin
    return (low <= truth) & (truth <= high)

  def mean(values):
    return float(np.mean(values)) if values.size else float("nan")

  return {
    "error": mean(np.abs(shares[..., 0] - total)),
    "error pair": mean(np.abs(pairs[..., 0] - between)),
    # The error of the truth, of which 0.005 is generous, is no miss.
    "covered": mean(covered(shares, total, 0.005)[:, ~does_nothing]),
    "covered pair": mean(covered(pairs, between, 0.005)[:, ~no_pair]),
    "false": mean(matter[:, does_nothing].any(axis=1)),
    "false pair": mean(interact[:, no_pair].any(axis=1)),
    "found": mean(matter[:, matters]),
    "found pair": mean(interact[:, is_pair]),
    "idle": mean(idle[:, does_nothing]),
    "wrongly idle": mean(idle[:, total > 0.05]),
    "seconds": seconds,
  }


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--studies", type=int, default=40)
  parser.add_argument("--functions", default=",".join(FUNCTIONS))
  parser.add_argument("--noise", default=",".join(map(str, NOISE)))
  parser.add_argument("--method", choices=_METHODS)
  parser.add_argument("--sizes", default=",".join(map(str, SIZES)))
  arguments = parser.parse_args()
  heads = None
  for name in arguments.functions.split(","):
    for noise in map(float, arguments.noise.split(",")):
      if name.startswith("nothing") and noise != NOISE[0]:
        continue
      for num in map(int, arguments.sizes.split(",")):
        row = measure(name, num, noise, arguments.studies, arguments.method)
        if row and heads != list(row):
          heads = list(row)
          print("|", " | ".join(["function", "noise", "trials", *heads]), "|")
        cells = [name, f"{noise:.0%}", str(num)]
        cells += [f"{value:.2f}" for value in row.values()]
        print("|", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
  main()
