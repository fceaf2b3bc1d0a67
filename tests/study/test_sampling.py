"""The trials of a study: the same whoever asks, even, and fairly shared."""

import collections
import itertools
import math
import os
import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import qmc

import jaxplay
from jaxplay.study import sampling
from jaxplay.study.space import Choice, Float, Int, Space

LEARNING_RATE = "hparams.learning_rate"
MOMENTUM = "hparams.momentum"
WARMUP = "hparams.warmup_steps"
CLIP = "hparams.clip_norm"
GHOST = "model.virtual_batch_size"

# Scientific choices, one of them conditional, and nuisance parameters of every
# kind; at most two numbers exist at a time, so that grids take it too.
SPACE = Space(
  {
    "optimizer": Choice(("adam", "nesterov"), role="scientific"),
    LEARNING_RATE: [
      Float(1e-5, 1e-2, "log", when={"optimizer": "adam"}),
      Float(1e-1, 1.0, "log", when={"optimizer": "nesterov"}),
    ],
    MOMENTUM: Float(0.5, 0.99, "log_one_minus", when={"optimizer": "nesterov"}),
    "model.norm": Choice(("batch", "ghost", "layer"), role="scientific"),
    GHOST: Choice(
      (16, 32, 64), role="scientific", when={"model.norm": "ghost"}
    ),
    "clipping": Choice((True, False)),
    "model.width": Choice((64, 128), when={"clipping": True}),
  }
)
EXPLICIT = [
  {LEARNING_RATE: 10.0**-exponent, WARMUP: 10 * exponent}
  for exponent in range(1, 80)
]
EXPLICIT_SPACE = Space(
  {LEARNING_RATE: Float(1e-99, 1.0, "log"), WARMUP: Int(0, 1000)}
)
SAMPLED = [a for a in sampling.ALGORITHMS if a != "explicit"]


def _points(space=SPACE, algorithm="halton", seed=0, num=60, **kwargs):
  if algorithm == "explicit":
    space, kwargs["explicit"] = EXPLICIT_SPACE, EXPLICIT
  return sampling.points(
    space, algorithm=algorithm, seed=seed, num=num, **kwargs
  )


def _refusal(*args, **kwargs):
  with pytest.raises(jaxplay.UserError) as caught:
    _points(*args, **kwargs)
  message = str(caught.value)
  assert "\n" not in message
  return message


# A trial is a function of (space, seed, index).


@pytest.mark.parametrize("algorithm", sampling.ALGORITHMS)
def test_more_trials_continue_the_sequence(algorithm):
  """C5: running 20 more gives the same first trials, and only new numbers."""
  every = _points(algorithm=algorithm, num=70)
  assert len(every) == 70
  for num in (0, 1, 2, 7, 50):
    assert _points(algorithm=algorithm, num=num) == every[:num]


@pytest.mark.parametrize("algorithm", sampling.ALGORITHMS)
def test_any_split_over_machines_gives_the_same_trials(algorithm):
  """C5: each machine of a job array makes its own trials alone."""
  every = _points(algorithm=algorithm, num=70)
  for start, num in ((0, 1), (1, 1), (13, 20), (64, 6), (69, 1)):
    part = _points(algorithm=algorithm, num=num, start=start)
    assert part == every[start : start + num]


@pytest.mark.parametrize("algorithm", ["halton", "sobol", "random", "algoperf"])
def test_a_trial_far_away(algorithm):
  """C5: far along the sequence trials still differ and continue each other."""
  space = Space({LEARNING_RATE: Float(0, 1), MOMENTUM: Float(0, 1)})
  start = 100_000
  late = _points(space, algorithm, num=2, start=start)
  late += _points(space, algorithm, num=1, start=start + 2)
  assert late == _points(space, algorithm, num=3, start=start)
  assert len({point[LEARNING_RATE] for point in late}) == 3


@pytest.mark.parametrize("algorithm", SAMPLED)
def test_seeds_differ(algorithm):
  """C5: another search seed is another study (E2), but not for AlgoPerf's."""
  space = Space({LEARNING_RATE: Float(0, 1), MOMENTUM: Float(0, 1)})
  is_fixed = algorithm in ("algoperf", "grid")
  same = _points(space, algorithm, 0) == _points(space, algorithm, 1)
  assert same == is_fixed
  # The order of scientific values depends on the seed in any case.
  assert _points(SPACE, algorithm, 0) != _points(SPACE, algorithm, 1)


def test_another_process_makes_the_same_trials_without_jax():
  """C5, floors: neither the process nor its hash seed matters; no JAX."""
  code = """if True:
    import sys
    from jaxplay.study import sampling, space
    from jaxplay.study.space import Choice, Float
    domains = {
      "optimizer": Choice(("adam", "sgd", "lion"), role="scientific"),
      "hparams.learning_rate": Float(0, 1),
    }
    print(sampling.points(
      space.Space(domains), algorithm="halton", seed=3, num=9))
    assert not {"jax", "jaxlib", "flax", "optax"} & set(sys.modules)
  """
  done = subprocess.run(
    [sys.executable, "-c", code],
    env=os.environ | {"PYTHONHASHSEED": "7"},
    capture_output=True,
    text=True,
    timeout=120,
  )
  assert done.returncode == 0, done.stderr
  space = Space(
    {
      "optimizer": Choice(("adam", "sgd", "lion"), role="scientific"),
      LEARNING_RATE: Float(0, 1),
    }
  )
  assert done.stdout.strip() == str(_points(space, seed=3, num=9))


def test_golden_rows():
  """C5: a study of six months ago can be made again (scipy, numpy)."""
  space = Space({key: Float(0, 1) for key in "abc"})
  rows = {
    "halton": [0.7072248357, 0.4690796703, 0.4706443631],
    "sobol": [0.4099495886, 0.9641202185, 0.8576548751],
    "random": [0.6369616873, 0.2697867138, 0.0409735239],
    # FACTS: AlgoPerf's halton.py itself, before its shuffle.
    "algoperf": [0.1371460696, 0.2739744373, 0.2861242773],
  }
  for algorithm, row in rows.items():
    point = _points(space, algorithm, num=1)[0]
    assert list(point.values()) == pytest.approx(row, abs=1e-10), algorithm
  turns = Space({"optimizer": Choice(("adam", "sgd"), role="scientific")})
  names = [point["optimizer"] for point in _points(turns, num=6)]
  assert names == ["sgd", "adam", "adam", "sgd", "sgd", "adam"]


# Scientific values are covered uniformly whatever the algorithm.


def _spread(items, of):
  """Largest difference of counts at any prefix of `items`."""
  counts, worst = dict.fromkeys(of, 0), 0
  for item in items:
    counts[item] += 1
    worst = max(worst, max(counts.values()) - min(counts.values()))
  return worst


@pytest.mark.parametrize("algorithm", SAMPLED)
@pytest.mark.parametrize("seed", [0, 1])
def test_scientific_values_are_covered_uniformly(algorithm, seed):
  """C3: at any number of trials no value is one trial ahead of another.

  Single values, combinations, and a conditional one where it exists.
  """
  points = _points(algorithm=algorithm, seed=seed, num=130)
  optimizers, norms = ("adam", "nesterov"), ("batch", "ghost", "layer")
  assert _spread([p["optimizer"] for p in points], optimizers) == 1
  assert _spread([p["model.norm"] for p in points], norms) == 1
  pairs = [(p["optimizer"], p["model.norm"]) for p in points]
  assert _spread(pairs, itertools.product(optimizers, norms)) == 1
  ghosts = [p[GHOST] for p in points if GHOST in p]
  assert len(ghosts) in (43, 44)
  assert _spread(ghosts, (16, 32, 64)) == 1


@pytest.mark.parametrize("sizes", [(2, 2), (2, 4), (6, 4), (3, 2, 4), (5,)])
def test_combinations_are_covered_uniformly(sizes):
  """C3: also where the numbers of values have common factors."""
  keys = "abcd"[: len(sizes)]
  space = Space(
    {
      key: Choice(range(size), role="scientific")
      for key, size in zip(keys, sizes, strict=True)
    }
  )
  for seed in range(3):
    points = _points(space, seed=seed, num=3 * math.prod(sizes) + 1)
    rows = [tuple(point.values()) for point in points]
    assert _spread(rows, itertools.product(*map(range, sizes))) == 1
    for j, size in enumerate(sizes):
      assert _spread([row[j] for row in rows], range(size)) == 1


def test_scientific_choices_are_not_confounded_early():
  """C3: a quarter of all combinations does not tie one choice to another."""
  space = Space({key: Choice(range(4), role="scientific") for key in "abc"})
  seen = []
  for seed in range(10):
    points = _points(space, seed=seed, num=16)
    for one, other in itertools.combinations("abc", 2):
      seen.append(len({(p[one], p[other]) for p in points}))
  # Each value of one with only one of the other would be 4 pairs.
  assert min(seen) > 4 and np.mean(seen) > 10


def test_the_order_of_scientific_values_is_random():
  """C3: values do not simply alternate, which a drift could follow."""
  space = Space({"optimizer": Choice(("adam", "sgd"), role="scientific")})
  names = [point["optimizer"] for point in _points(space, num=200)]
  repeats = sum(a == b for a, b in zip(names, names[1:], strict=False))
  assert 30 < repeats < 70  # half of the 100 block borders


def test_too_many_combinations():
  """C3: what no study could cover is refused, and quickly."""
  space = Space(
    {f"k{i}": Choice(range(9), role="scientific") for i in range(9)}
  )
  assert "387,420,489" in _refusal(space)


# Within a cell, the trials of one combination of scientific values.


@pytest.mark.parametrize("algorithm", ["halton", "sobol", "random", "algoperf"])
def test_cells_share_their_points(algorithm):
  """C3: no value gets luckier with the sampling of the nuisance parameters."""
  space = Space(
    {
      "model.norm": Choice(("batch", "layer", "none"), role="scientific"),
      LEARNING_RATE: Float(1e-5, 1e-1, "log"),
      "clipping": Choice((True, False)),
      WARMUP: Int(0, 100),
    }
  )
  cells = collections.defaultdict(list)
  for point in _points(space, algorithm, num=90):
    cells[point.pop("model.norm")].append(point)
  first, second, third = cells.values()
  assert len(first) == 30 and first == second == third
  alone = Space({p.key: p.domain for p in space.parameters[1:]})
  assert first == _points(alone, algorithm, num=30)


@pytest.mark.parametrize("algorithm", ["halton", "sobol"])
@pytest.mark.parametrize("seed", range(3))
def test_each_cell_sees_the_whole_range(algorithm, seed):
  """C6: with two values a Halton sequence must not give each one half.

  Its points alternate between the halves, as two values do between trials.
  """
  space = Space(
    {
      "clipping": Choice((True, False), role="scientific"),
      LEARNING_RATE: Float(0, 1),
    }
  )
  points = _points(space, algorithm, seed, num=64)
  for value in (True, False):
    rates = [p[LEARNING_RATE] for p in points if p["clipping"] is value]
    assert np.histogram(rates, 4, (0, 1))[0].tolist() == [8, 8, 8, 8]


@pytest.mark.parametrize("algorithm", ["halton", "sobol"])
def test_cells_have_low_discrepancy(algorithm):
  """C6: each cell's points are far more even than random ones."""
  keys = [f"k{i}" for i in range(4)]
  domains = {key: Float(0, 1) for key in keys}
  domains["model.norm"] = Choice(("a", "b", "c"), role="scientific")
  points = _points(Space(domains), algorithm, num=3 * 50)
  rng = np.random.default_rng(0)
  chance = min(qmc.discrepancy(rng.random((50, 4))) for _ in range(20))
  for name in "abc":
    cell = [[p[key] for key in keys] for p in points if p["model.norm"] == name]
    assert qmc.discrepancy(cell) < chance / 4


def test_random_points_are_uniform_and_independent():
  """C6: the fallback is pseudo-random."""
  space = Space({key: Float(0, 1) for key in "ab"})
  points = np.array([[*p.values()] for p in _points(space, "random", num=4000)])
  assert np.abs(points.mean(0) - 0.5).max() < 0.02
  assert abs(np.corrcoef(points.T)[0, 1]) < 0.05
  assert abs(np.corrcoef(points[1:, 0], points[:-1, 0])[0, 1]) < 0.05


# Conditional parameters.


@pytest.mark.parametrize("algorithm", SAMPLED)
def test_parameters_exist_only_under_their_conditions(algorithm):
  """C2: a trial holds a value for what exists in it, and nothing else."""
  seen = set()
  for point in _points(algorithm=algorithm, num=80):
    keys = {"optimizer", LEARNING_RATE, "model.norm", "clipping"}
    if point["optimizer"] == "nesterov":
      keys.add(MOMENTUM)
    if point["model.norm"] == "ghost":
      keys.add(GHOST)
    if point["clipping"]:
      keys.add("model.width")
    assert point.keys() == keys
    assert {p.key for p in SPACE.active(point)} == keys
    seen.add(frozenset(keys))
  assert len(seen) == 8


@pytest.mark.parametrize("algorithm", SAMPLED)
def test_the_same_name_elsewhere_is_another_parameter(algorithm):
  """C2: learning rates of two optimizers keep to their own ranges."""
  for point in _points(algorithm=algorithm, num=40):
    low, high = (1e-5, 1e-2) if point["optimizer"] == "adam" else (1e-1, 1.0)
    assert low <= point[LEARNING_RATE] <= high


def test_conditions_on_conditional_parameters():
  """C2: nothing exists under a switch that does not exist itself."""
  space = Space(
    {
      "c": Float(0, 1, when={"b": (1, 2)}),
      "b": Choice((1, 2, 3), when={"a": True}),
      "a": Choice((True, False)),
    }
  )
  points = _points(space, num=60)
  for point in points:
    assert ("b" in point) == point["a"]
    assert ("c" in point) == (point.get("b") in (1, 2))
  assert {len(point) for point in points} == {1, 2, 3}


def test_keys_come_as_declared():
  """C2: the order of a point's keys is that of the space."""
  order = [p.key for p in SPACE.parameters]
  for point in _points(num=20):
    assert list(point) == sorted(point, key=order.index)


# Scales.


def test_marginals_are_uniform_on_their_scales():
  """C6: every scale is covered evenly, from end to end."""
  space = Space(
    {
      "linear": Float(-2.0, 5.0),
      "log": Float(1e-6, 10.0, "log"),
      "momentum": Float(0.5, 0.999, "log_one_minus"),
      "int": Int(3, 12),
      "int_log": Int(1, 7, "log"),
      "choice": Choice(("a", "b", "c", "d", "e")),
    }
  )
  num = 2000
  points = _points(space, num=num)
  column = {key: np.array([p[key] for p in points]) for key in points[0]}
  units = {
    "linear": (column["linear"] + 2) / 7,
    "log": np.log10(column["log"] / 1e-6) / 7,
    "momentum": np.log((1 - column["momentum"]) / 0.5) / np.log(0.001 / 0.5),
  }
  for key, unit in units.items():
    assert unit.min() >= 0 and unit.max() <= 1
    even = (np.arange(num) + 0.5) / num
    assert np.abs(np.sort(unit) - even).max() < 0.01, key
  shares = {
    "int": {n: 1 / 10 for n in range(3, 13)},
    "int_log": {n: math.log((n + 1) / n) / math.log(8) for n in range(1, 8)},
    "choice": {name: 1 / 5 for name in "abcde"},
  }
  for key, expected in shares.items():
    values, counts = np.unique(column[key], return_counts=True)
    assert set(values.tolist()) == expected.keys()
    for value, count in zip(values.tolist(), counts, strict=True):
      assert count / num == pytest.approx(expected[value], abs=0.01)


@pytest.mark.parametrize("algorithm", SAMPLED)
def test_values_are_plain(algorithm):
  """Names on disk: values are Python's own, as JSON takes them."""
  space = Space(
    {
      LEARNING_RATE: Float(1, 10),
      WARMUP: Int(np.int64(0), 10),
      "model.width": Choice(np.array([1, 2])),
    }
  )
  for point in _points(space, algorithm, num=3):
    assert [type(value) for value in point.values()] == [float, int, int]


def test_a_space_without_numbers():
  """C3: comparing names only is a study too."""
  space = Space({"optimizer": Choice(("adam", "sgd"), role="scientific")})
  for algorithm in ("halton", "sobol", "random", "algoperf"):
    names = [p["optimizer"] for p in _points(space, algorithm, num=4)]
    assert sorted(names) == ["adam", "adam", "sgd", "sgd"]


# AlgoPerf.


def test_algoperf_points():
  """C6: AlgoPerf's mapping of its Halton points, in the space's order."""
  space = Space(
    {
      LEARNING_RATE: Float(1e-4, 1e-2, "log"),
      "hparams.beta1": Float(0.9, 0.996, "log_one_minus"),
      "hparams.label_smoothing": Choice((0.1, 0.2, 0.3, 0.4)),
    }
  )
  rows = [
    (0.1371460696, 0.2739744373, 0.2861242773),
    (0.8065421802, 0.9911667058, 0.8300193328),
  ]
  points = _points(space, "algoperf", seed=5, num=2)
  for point, (x, y, z) in zip(points, rows, strict=True):
    assert point[LEARNING_RATE] == pytest.approx(1e-4 * 100**x, rel=1e-8)
    # AlgoPerf's file has one_minus_beta1 from 0.004 to 0.1, log.
    complement = 0.004 * math.exp(y * math.log(0.1 / 0.004))
    assert point["hparams.beta1"] == pytest.approx(1 - complement, rel=1e-9)
    index = math.floor(z * 4)
    assert point["hparams.label_smoothing"] == (0.1, 0.2, 0.3, 0.4)[index]


# Grids.


def _unit_grid(*axes):
  return sorted(itertools.product(*axes))


def test_grid_of_one_number():
  """C6: 2^k + 1 trials are an even grid with both ends; more refine it."""
  space = Space({LEARNING_RATE: Float(1e-4, 1.0, "log")})
  for num in (2, 3, 5, 9, 17):
    rates = [point[LEARNING_RATE] for point in _points(space, "grid", num=num)]
    assert sorted(rates) == pytest.approx(np.logspace(-4, 0, num), rel=1e-9)
    assert min(rates) == 1e-4 and max(rates) == 1.0


def test_grid_of_two_numbers():
  """C6: squares of 2^k + 1 trials are a square grid."""
  space = Space({LEARNING_RATE: Float(0, 1), MOMENTUM: Float(0, 1)})
  for side in (2, 3, 5, 9):
    points = _points(space, "grid", num=side**2)
    rows = sorted((p[LEARNING_RATE], p[MOMENTUM]) for p in points)
    assert rows == _unit_grid(np.linspace(0, 1, side), np.linspace(0, 1, side))
    assert _points(space, "grid", num=100)[: side**2] == points


def test_grid_with_choices_is_a_product():
  """C6: nuisance choices are crossed with the numbers, not sampled."""
  space = Space(
    {
      LEARNING_RATE: Float(0, 1),
      "clipping": Choice((True, False)),
      "model.norm": Choice(("batch", "layer", "none"), role="scientific"),
    }
  )
  rows = [tuple(point.values()) for point in _points(space, "grid", num=30)]
  axes = (np.linspace(0, 1, 5), (True, False), ("batch", "layer", "none"))
  assert sorted(rows) == _unit_grid(*axes)


def test_grid_with_conditional_numbers_repeats_nothing():
  """C2, C6: each combination has the grid of the numbers that exist in it."""
  space = Space(
    {
      LEARNING_RATE: Float(0, 1),
      "clipping": Choice((True, False)),
      CLIP: Float(1, 2, when={"clipping": True}),
    }
  )
  points = _points(space, "grid", num=18)
  clipped = [p for p in points if p["clipping"]]
  rates = sorted(p[LEARNING_RATE] for p in points if not p["clipping"])
  assert rates == np.linspace(0, 1, 9).tolist()
  assert sorted((p[LEARNING_RATE], p[CLIP]) for p in clipped) == _unit_grid(
    [0, 0.5, 1], [1, 1.5, 2]
  )


@pytest.mark.parametrize(
  "domain, size", [(Int(1, 6), 6), (Int(1, 6, "log"), 6), (Int(0, 1000), 1001)]
)
def test_grid_of_integers_ends(domain, size):
  """C6: a grid of integers tries each once, the ends first, then no more."""
  space = Space({WARMUP: domain})
  values = [point[WARMUP] for point in _points(space, "grid", num=size)]
  assert values[:2] == [domain.low, domain.high]
  assert sorted(values) == list(range(domain.low, domain.high + 1))
  message = _refusal(space, "grid", num=size + 1)
  assert WARMUP in message and f"{size} nodes" in message


def test_grid_of_a_number_and_few_integers():
  """C6: where one side is used up the grid grows along the other."""
  space = Space({WARMUP: Int(1, 2), LEARNING_RATE: Float(0, 1)})
  rows = [tuple(point.values()) for point in _points(space, "grid", num=18)]
  assert sorted(rows) == _unit_grid((1, 2), np.linspace(0, 1, 9))


def test_grid_of_choices_ends():
  """C6: without numbers the combinations are all that there is."""
  space = Space({"clipping": Choice((True, False)), "a": Choice((1, 2, 3))})
  rows = [tuple(point.values()) for point in _points(space, "grid", num=6)]
  assert sorted(rows) == _unit_grid((False, True), (1, 2, 3))
  assert "choices alone" in _refusal(space, "grid", num=7)


def test_grid_of_three_numbers_is_refused():
  """C6: grids are for one or two dimensions."""
  space = Space({key: Float(0, 1) for key in "abc"})
  message = _refusal(space, "grid", num=8)
  for words in ("3 numbers", "a, b, c", "'halton'", "Playbook"):
    assert words in message
  # Three in the space, but never more than two at a time.
  space = Space(
    {
      "optimizer": Choice(("adam", "sgd")),
      "a": [
        Float(0, 1, when={"optimizer": "adam"}),
        Float(0, 1, when={"optimizer": "sgd"}),
      ],
      "b": Float(0, 1),
    }
  )
  assert len(_points(space, "grid", num=8)) == 8


# Requests that make no sense.


@pytest.mark.parametrize(
  "request_, words",
  [
    (dict(num=-1), ["num is -1", "at least 0"]),
    (dict(num=20.0), ["num is 20.0", "integer"]),
    (dict(num=True), ["num is True"]),
    (dict(start=-3), ["start is -3"]),
    (dict(seed=-1), ["seed is -1"]),
    (dict(seed=None), ["seed is None"]),
    (dict(algorithm="Halton"), ["'Halton'", "did you mean 'halton'?"]),
    (dict(algorithm="bayes"), ["'bayes'", "'sobol'", "'explicit'"]),
    (dict(algorithm=None), ["None", "'halton'"]),
    (dict(explicit=EXPLICIT), ["'halton'", "no list"]),
  ],
)
def test_requests_that_make_no_sense(request_, words):
  """Errors: the value, and what it can be."""
  message = _refusal(**request_)
  assert all(word in message for word in words), message


@pytest.mark.parametrize(
  "given, words",
  [
    (None, ["'explicit'", "a list of explicit points"]),
    ([], ["trials 0 to 1", "there are 0"]),
    ([{LEARNING_RATE: 0.1, WARMUP: 1}], ["trials 0 to 1", "there are 1"]),
    ([{LEARNING_RATE: 0.1}] * 2, ["point 0", f"no {WARMUP}"]),
    (
      [{LEARNING_RATE: 0.1, WARMUP: 1, MOMENTUM: 0.9}] * 2,
      ["point 0", MOMENTUM, "does not exist", LEARNING_RATE],
    ),
    (
      [{LEARNING_RATE: 0.1, WARMUP: 1}, {LEARNING_RATE: 2.0, WARMUP: 1}],
      ["point 1", LEARNING_RATE, "2.0", "high=1.0"],
    ),
    ([{LEARNING_RATE: 0.1, WARMUP: 1.5}] * 2, ["point 0", WARMUP, "1.5"]),
    ([[0.1, 1]] * 2, ["point 0", "[0.1, 1]", "config keys to values"]),
  ],
)
def test_explicit_points_that_do_not_fit(given, words):
  """Errors: which point, and what is wrong with it."""
  with pytest.raises(jaxplay.UserError) as caught:
    sampling.points(
      EXPLICIT_SPACE, algorithm="explicit", seed=0, num=2, explicit=given
    )
  message = str(caught.value)
  assert all(word in message for word in words), message
