"""Suggestions: pure, within the space, and good where the answer is known."""

import json
import math
import os
import subprocess
import sys

import numpy as np
import pytest

from jaxplay.study import sampling, suggest
from jaxplay.study import space as space_lib
from tests.training import runs

PLAIN = {
  "hparams.learning_rate": space_lib.Float(1e-4, 1.0, "log"),
  "hparams.beta1": space_lib.Float(0.5, 0.999, "log_one_minus"),
  "hparams.dropout_rate": space_lib.Float(0.0, 0.5),
  "model.depth": space_lib.Int(1, 6),
  "model.width": space_lib.Int(16, 1024, "log"),
  "model.mlp_widths": space_lib.Choice(((8,), (8, 16), (32,))),
}
CONDITIONAL = {
  "optimizer": space_lib.Choice(("adam", "nesterov"), role="scientific"),
  "hparams.learning_rate": [
    space_lib.Float(1e-5, 1e-1, "log", when={"optimizer": "adam"}),
    space_lib.Float(1e-3, 1e1, "log", when={"optimizer": "nesterov"}),
  ],
  "hparams.beta1": space_lib.Float(
    0.5, 0.999, "log_one_minus", when={"optimizer": "adam"}
  ),
}
TWO = {
  "hparams.learning_rate": space_lib.Float(1e-4, 1.0, "log"),
  "hparams.beta1": space_lib.Float(0.5, 0.999, "log_one_minus"),
}
BEST = (0.3, 0.6)  # in units


def _points(mapping, num, seed=0):
  space = space_lib.Space(mapping)
  return space, sampling.points(space, algorithm="halton", seed=seed, num=num)


def _distance(space, point):
  """From `BEST`, in units."""
  units = [p.to_unit(point[p.key]) for p in space.parameters]
  return math.dist(units, BEST)


def _history(space, points):
  """Good near the first value of everything; a tenth diverged, one is open."""
  values = [
    math.inf
    if i % 10 == 9
    else sum(p.to_unit(point[p.key]) for p in space.active(point))
    for i, point in enumerate(points)
  ]
  return list(zip(points, values[:-1] + [None], strict=True))


@pytest.mark.parametrize("mapping", [PLAIN, CONDITIONAL])
def test_points_lie_in_the_space(mapping):
  """C9: every scale, whole numbers, choices; of conditional ones those alone
  that exist; and no two alike."""
  space, points = _points(mapping, 24)
  history = _history(space, points)
  found = suggest.suggest(space, history, num=12, seed=3)
  assert len(found) == 12
  for point in found:
    active = space.active(point)
    assert {p.key for p in active} == point.keys()
    assert all(p.holds(point[p.key]) for p in active)
  assert len({str(sorted(p.items())) for p in found + points}) == 36
  kept = json.loads(json.dumps(found))  # As study.json holds them.
  assert [space.labelled(p) for p in kept] == [space.labelled(p) for p in found]


_ELSEWHERE = """
import json, sys
from jaxplay.study import suggest
from tests.study import test_suggest as here

space, points = here._points(getattr(here, sys.argv[1]), 20)
history = here._history(space, points)
print(json.dumps(suggest.suggest(space, history, num=3, seed=5)))
"""


@pytest.mark.parametrize("name", ["PLAIN", "CONDITIONAL"])
def test_the_same_table_and_seed_give_the_same_points(name):
  """C9: a suggestion is a function of trials and seed, in any process."""
  space, points = _points(globals()[name], 20)
  history = _history(space, points)
  before = repr(history)
  found = suggest.suggest(space, history, num=3, seed=5)
  assert suggest.suggest(space, history, num=3, seed=5) == found
  assert suggest.suggest(space, history, num=3, seed=6) != found
  assert repr(history) == before
  done = subprocess.run(
    [sys.executable, "-c", _ELSEWHERE, name],
    cwd=runs.ROOT,
    env=os.environ | {"PYTHONHASHSEED": "7"},
    capture_output=True,
    text=True,
    check=True,
  )
  assert json.loads(done.stdout) == json.loads(json.dumps(found))


def test_suggestions_beat_the_sequence():
  """C9: from 24 trials of a quadratic, in batches of 4, the next 16 lie nearer
  to its optimum than those of the sequence would, for every seed."""
  for seed in range(3):
    space, points = _points(TWO, 40, seed)
    history = [(p, _distance(space, p) ** 2) for p in points[:24]]
    found = []
    for _ in range(4):
      batch = suggest.suggest(space, history, num=4, seed=seed)
      history += [(p, _distance(space, p) ** 2) for p in batch]
      found += batch
    suggested = np.median([_distance(space, p) for p in found])
    sampled = np.median([_distance(space, p) for p in points[24:]])
    assert suggested < 0.7 * sampled


def test_few_suggestions_where_trials_diverge():
  """C9: of 16 suggestions at most 4 lie in the half that diverges, where 8 of
  random points would."""
  for seed in range(3):
    space, points = _points(TWO, 24, seed)
    rate = space.parameters[0]

    def value(point, rate=rate):
      unit = rate.to_unit(point[rate.key])
      return math.inf if unit > 0.5 else (0.25 - unit) ** 2

    history = [(p, value(p)) for p in points]
    bad = 0
    for _ in range(4):
      batch = suggest.suggest(space, history, num=4, seed=seed)
      history += [(p, value(p)) for p in batch]
      bad += sum(math.isinf(value(p)) for p in batch)
    assert bad <= 4


def test_a_batch_keeps_apart():
  """C9: the points of a batch know of each other, and of trials under way."""
  space, points = _points(TWO, 24)
  history = [(p, _distance(space, p) ** 2) for p in points]
  first = suggest.suggest(space, history, num=1, seed=0)[0]
  others = suggest.suggest(space, [*history, (first, None)], num=4, seed=0)
  assert first not in others
  assert len({tuple(p.values()) for p in others}) == 4


def test_a_space_that_is_tried_everywhere():
  """C9: where nothing new is left, points are repeated; it comes to an end."""
  space = space_lib.Space({"model.depth": space_lib.Choice((1, 2))})
  history = [({"model.depth": 1 + i % 2}, float(i % 2)) for i in range(8)]
  found = suggest.suggest(space, history, num=3, seed=0)
  assert all(point["model.depth"] in (1, 2) for point in found)


def test_all_trials_diverged():
  """C9: without any value there still are points, in the space."""
  space, points = _points(TWO, 12)
  history = [(point, math.inf) for point in points]
  for point in suggest.suggest(space, history, num=4, seed=0):
    assert all(p.holds(point[p.key]) for p in space.active(point))


def test_the_sampler_goes_by_the_space(monkeypatch):
  """C9: a Gaussian process where torch is and no parameter is conditional."""
  monkeypatch.setattr(suggest.importlib.util, "find_spec", lambda name: name)
  assert suggest.sampler(space_lib.Space(PLAIN)) == "gp"
  assert suggest.sampler(space_lib.Space(CONDITIONAL)) == "tpe"
  monkeypatch.setattr(suggest.importlib.util, "find_spec", lambda name: None)
  assert suggest.sampler(space_lib.Space(PLAIN)) == "tpe"
