"""The trials of a study, each a pure function of (space, seed, index).

So any number of machines agree on trial 7 without communication, and more
trials continue the same sequence. Low-discrepancy sequences
"spread out the search points more than random search" (Playbook, why use
quasi-random search).

How scientific and nuisance parameters share the trials:

1. Scientific choices are covered uniformly whatever the algorithm (Playbook,
   creating a set of studies): combinations of their values take turns in a
   random order that keeps the counts of all values of each choice, and of all
   combinations, within one trial of each other at any number of trials.
2. Every other parameter is a dimension of the sequence, and the trials of a
   combination (a group) take its points one after the other. All groups take
   the same points, which pairs the comparison: no value gets "luckier with the
   sampling of the nuisance hyperparameters" (Playbook, striking a balance
   between informative and affordable experiments). Points by the number of the
   trial instead would give each of two values one half of the range, because a
   Halton sequence alternates between the halves.
"""

import itertools
import math
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay.study import space as space_lib

ALGORITHMS = ("halton", "sobol", "grid", "random", "explicit", "algoperf")


def points(
  space: space_lib.Space,
  *,
  algorithm: str,
  seed: int,
  num: int,
  start: int = 0,
  explicit: Sequence[Mapping[str, Any]] | None = None,
) -> list[dict[str, Any]]:
  """Returns trials `start` to `start + num - 1` of a study.

  Args:
    space: The search space, which `Space.check` accepts.
    algorithm: One of `ALGORITHMS`.
      "halton": scrambled Halton sequence, for any number of trials.
      "sobol": scrambled Sobol sequence, most even at powers of two.
      "random": independent uniform points.
      "grid": for at most two numbers at a time. Choices are covered like
        scientific ones. Within a combination of them, one number takes its
        ends, then the middles of the gaps, so 2^k + 1 trials are an even grid
        with both ends; two numbers are even grids at the squares of these: 4,
        9, 25, 81 trials. More trials refine the grid.
      "explicit": the points of `explicit`.
      "algoperf": the points of AlgoPerf's halton.py before its final shuffle,
        which is unseeded. Ignores the seed.
    seed: Seed of the study, at least 0.
    num: Number of trials.
    start: Index of the first trial.
    explicit: For "explicit": config keys to values, one for each trial.

  Returns:
    For each trial the config keys of the parameters that exist in it, and
    their values.

  Raises:
    jaxplay.UserError: An argument is invalid, or there are fewer points than
      trials.
  """
  for name, number in (("seed", seed), ("num", num), ("start", start)):
    if type(number) is not int or number < 0:
      raise jaxplay.UserError(
        f"the study's {name} is {number!r}; expected an integer of at least 0"
      )
  if seed >= 2**63:
    raise jaxplay.UserError(
      f"the study's seed is {seed}; expected at most {2**63 - 1}"
    )
  config_lib.one_of("the study's algorithm is", algorithm, ALGORITHMS)
  if (algorithm == "explicit") != (explicit is not None):
    raise jaxplay.UserError(
      f"algorithm {algorithm!r} goes with"
      f" {'a' if explicit is None else 'no'} list of explicit points"
    )
  if algorithm == "explicit":
    return _explicit(space, explicit, start, start + num)
  if not num:
    return []
  covered = [
    p
    for p in space.ordered
    if p.kind == "choice" and (p.role == "scientific" or algorithm == "grid")
  ]
  rest = [p for p in space.parameters if p not in covered]
  end = start + num
  if covered:
    positions = _cover(covered, seed, end)
    ranks = _ranks(positions, end)[start:]
  else:
    positions, ranks = {}, np.arange(start, end)
  positions = {label: column[start:] for label, column in positions.items()}
  if algorithm == "grid":
    units = _grid(rest, covered, positions, ranks)
  else:
    low = int(ranks.min())
    units = _SEQUENCES[algorithm](seed, len(rest), low, int(ranks.max()) + 1)
    units = units[ranks - low] if covered else units
  if algorithm == "algoperf":
    for j, p in enumerate(rest):
      if p.scale == "log_one_minus":  # There it is one_minus_beta1 on log.
        units[:, j] = 1 - units[:, j]
  units = {p.label: units[:, j] for j, p in enumerate(rest)}
  return _trials(space, positions, units, num)


def _trials(space, positions, units, num):
  """Returns the values at the units, without parameters that do not exist."""
  columns = {}
  for p in space.ordered:
    exists = _exists(p, space.ordered, positions, num)
    if p.kind == "choice":
      if p.label in units:
        last = len(p.values) - 1
        position = np.minimum(units[p.label] * len(p.values), last)
        positions[p.label] = np.where(exists, position.astype(np.int64), -1)
      values = (*p.values, None)
      columns[p.label] = [values[i] for i in positions[p.label].tolist()]
    else:
      columns[p.label] = p.from_units(units[p.label])
      for i in np.flatnonzero(~exists).tolist():
        columns[p.label][i] = None
  keys = [p.key for p in space.parameters]
  rows = zip(*(columns[p.label] for p in space.parameters), strict=True)
  return [
    # None stands for a parameter that does not exist.
    {k: v for k, v in zip(keys, row, strict=True) if v is not None}
    for row in rows
  ]


def _exists(parameter, parameters, positions, num):
  """Returns bool [num]: whether it exists; positions are -1 where not."""
  exists = np.ones(num, bool)
  for key, values in parameter.when.items():
    holds = np.zeros(num, bool)
    for other in parameters:
      if other.key == key and other.kind == "choice":
        wanted = [i for i, v in enumerate(other.values) if v in values]
        holds |= np.isin(positions[other.label], wanted)
    exists &= holds
  return exists


def _cover(choices, seed, num):
  """Returns positions of the values of choices in trials 0 to num - 1.

  Choices under the same condition share a design. Adding 1 to each position,
  modulo its number of values, splits all combinations into cycles of a length L
  that all numbers of values divide. Cycles are taken in a random order until
  all are done, and the values are permuted at random each time. So L trials of
  a cycle hold every value of each choice equally often, and all cycles hold
  each combination once.
  """
  groups = {}
  for p in choices:
    groups.setdefault(repr(sorted(p.when.items())), []).append(p)
  positions = {}
  for group in groups.values():
    exists = _exists(group[0], choices, positions, num)
    sizes = np.array([len(p.values) for p in group])
    starts, length = _cycles(tuple(sizes.tolist()))
    rank = np.arange(np.count_nonzero(exists))
    turn, within = np.divmod(rank, len(starts) * length)
    walk, step = np.divmod(within, length)
    turns = int(turn[-1]) + 1 if len(turn) else 0
    name = "order of " + ", ".join(p.label for p in group)
    order = _shuffles(seed, name, turns, len(starts))
    begin = starts[order[turn, walk]]
    for j, p in enumerate(group):
      names = _shuffles(seed, p.label, turns, len(p.values))
      column = np.full(num, -1)
      column[exists] = names[turn, (begin[:, j] + step) % sizes[j]]
      positions[p.label] = column
  return positions


def _cycles(sizes):
  """Returns a combination of each cycle, [cycles, choices], and the length."""
  if math.prod(sizes) > 100_000:
    raise jaxplay.UserError(
      f"the choices to cover have {math.prod(sizes):,} combinations, more"
      " than 100,000; make fewer of them scientific, or use algorithm 'halton',"
      " not a grid"
    )
  length = math.lcm(*sizes)
  seen, starts = set(), []
  for combination in itertools.product(*map(range, sizes)):
    if combination not in seen:
      starts.append(combination)
      seen |= {
        tuple((c + i) % k for c, k in zip(combination, sizes, strict=True))
        for i in range(length)
      }
  return np.array(starts), length


def _shuffles(seed, name, num, size):
  """Returns [num, size], permutations; a row does not depend on num."""
  rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
  return np.argsort(rng.random((num, size)), axis=1)


def _ranks(positions, num):
  """Returns how many earlier trials have the same positions, for each trial."""
  group = np.zeros(num, np.int64)
  for column in positions.values():
    group = group * (column.max() + 2) + column + 1
    group = np.unique(group, return_inverse=True)[1]  # small numbers again
  order = np.argsort(group, kind="stable")
  first = np.searchsorted(group[order], np.arange(group.max() + 1))
  ranks = np.empty(num, np.int64)
  ranks[order] = np.arange(num) - first[group[order]]
  return ranks


# Low-discrepancy and other sequences: points begin to end - 1 in [0, 1)^dims.


def _qmc():
  # The import takes a second, and training does not need it.
  from scipy.stats import qmc

  return qmc


def _halton(seed, dims, begin, end):
  rng = np.random.default_rng(seed)
  return _qmc().Halton(dims, rng=rng).fast_forward(begin).random(end - begin)


def _sobol(seed, dims, begin, end):
  if not dims:
    return np.empty((end - begin, 0))
  engine = _qmc().Sobol(dims, rng=np.random.default_rng(seed))
  # Whole powers of two: scipy warns of every other number.
  return engine.random_base2((end - 1).bit_length())[begin:end]


def _random(seed, dims, begin, end):
  bits = np.random.PCG64(seed)
  bits.advance(begin * dims)
  return np.random.Generator(bits).random((end - begin, dims))


def _algoperf(seed, dims, begin, end):
  """AlgoPerf's halton.py: shuffled, shifted digits, each base its own seed."""
  del seed
  primes, below = [], 0
  while len(primes) < dims + 1:
    below += 1000
    primes = [
      n for n in range(3, below, 2) if all(n % d for d in range(3, n, 2))
    ]
  units = np.empty((end - begin, dims))
  for j, base in enumerate(primes[-dims - 1 : -1]):
    random = np.random.RandomState(base)
    digits = list(range(1, base))
    random.shuffle(digits)
    digits = np.array([0, *digits])
    shift = random.random_sample()
    left = np.arange(begin + 101, end + 101)  # The first 100 are dropped.
    total, denominator = np.zeros(len(left)), base
    while left.any():
      total += digits[left % base] / denominator
      denominator *= base
      left //= base
    units[:, j] = np.fmod(total + shift, 1.0)
  return units


_SEQUENCES = {
  "halton": _halton,
  "sobol": _sobol,
  "random": _random,
  "algoperf": _algoperf,
}


def _grid(numbers, choices, positions, ranks):
  """Returns units, [trials, numbers], each a node of its group's grid."""
  units = np.zeros((len(ranks), len(numbers)))
  exists = np.stack(
    [_exists(p, choices, positions, len(ranks)) for p in numbers]
    or [np.zeros(len(ranks), bool)],
    axis=1,
  )
  for pattern in np.unique(exists, axis=0):
    trials = np.flatnonzero((exists == pattern).all(axis=1))
    columns = np.flatnonzero(pattern)
    nodes = _nodes([numbers[i] for i in columns], int(ranks[trials].max()) + 1)
    units[np.ix_(trials, columns)] = nodes[ranks[trials]]
  return units


def _nodes(numbers, num):
  """Returns the first `num` nodes of a grid, [num, numbers]."""
  if len(numbers) > 2:
    raise jaxplay.UserError(
      f"a grid of {len(numbers)} numbers"
      f" ({', '.join(p.label for p in numbers)}) leaves each with too few"
      " values; use algorithm 'halton', grids are for one or two (Playbook,"
      " where can I find an implementation of quasi-random search)"
    )
  axes = [_axis(p, num) for p in numbers] + [np.zeros(1)] * (2 - len(numbers))
  if num > len(axes[0]) * len(axes[1]):
    names = " and ".join(p.label for p in numbers) or "choices alone"
    raise jaxplay.UserError(
      f"the grid of {names} has {len(axes[0]) * len(axes[1])} nodes for each"
      f" combination of choices, fewer than the {num} trials of a combination"
    )
  # The product of the first n nodes of both axes comes before the rest.
  side = 1
  while min(side, len(axes[0])) * min(side, len(axes[1])) < num:
    side += 1
  i, j = np.indices([min(side, len(axis)) for axis in axes]).reshape(2, -1)
  order = np.lexsort((i - j, np.maximum(i, j)))[:num]
  return np.stack([axes[0][i[order]], axes[1][j[order]]], 1)[:, : len(numbers)]


def _axis(parameter, num):
  """Returns up to `num` units of different values: 0, 1, 1/2, 1/4, 3/4, ..."""
  tried = num
  while True:
    # Base 2 unscrambled: 0, 1/2, 1/4, 3/4, ...
    middles = _qmc().Halton(1, scramble=False).random(tried)[1:, 0]
    units = np.concatenate([[0.0, 1.0], middles])
    if parameter.kind == "float":
      return units[:num]
    first = np.unique(parameter.from_units(units), return_index=True)[1]
    if len(first) >= min(num, parameter.high - parameter.low + 1):
      return units[np.sort(first)][:num]
    tried *= 2


def _explicit(space, given, start, end):
  if end > len(given):
    raise jaxplay.UserError(
      f"trials {start} to {end - 1} were requested, and there are {len(given)}"
      " explicit points"
    )
  trials = []
  for index, point in enumerate(given[start:end], start):
    if not isinstance(point, Mapping):
      raise jaxplay.UserError(
        f"explicit point {index} is {point!r}; expected a mapping of config"
        " keys to values"
      )
    active = space.active(point)
    for key in point:
      if key not in {p.key for p in active}:
        raise jaxplay.UserError(
          f"explicit point {index} has {key}, which does not exist in it; the"
          f" space has {', '.join(p.label for p in space.parameters)}"
        )
    for p in active:
      if p.key not in point:
        raise jaxplay.UserError(
          f"explicit point {index} has no {p.label}; give it a value"
        )
      if not p.holds(point[p.key]):
        raise jaxplay.UserError(
          f"explicit point {index} has {p.label} = {point[p.key]!r}, outside"
          f" its {p.domain}"
        )
    trials.append(dict(point))
  return trials
