"""The numbers behind the figures and the checks."""

import dataclasses
import itertools
import math

import numpy as np
import pytest

from jaxplay.analysis import trials
from jaxplay.study import space as space_lib
from tests.analysis import by_hand, generated


@pytest.mark.parametrize("size", [1, 2, 3, 6])
def test_best_of_is_the_bootstrap(size):
  """D3: quantiles of the least of n draws, as enumerating all draws gives."""
  values = [0.3, 0.1, 0.2, 0.2, math.inf]  # a tie, and an infeasible trial
  draws = itertools.product(values, repeat=size)
  least = np.array([min(draw) for draw in draws])
  (row,) = trials.best_of(np.array(values), [size])
  assert row["n"] == size
  for name, quantile in (("q25", 25), ("median", 50), ("q75", 75)):
    assert row[name] == np.percentile(least, quantile, method="inverted_cdf")


def test_more_trials_are_never_worse():
  """D3: every quantile of the best falls as the budget grows."""
  study = generated.study(0)
  rows = trials.best_of(trials.outcomes(study), range(1, 65))
  for name in ("low", "q25", "median", "q75", "high"):
    column = [row[name] for row in rows]
    assert column == sorted(column, reverse=True)
  assert trials.best_of(np.array([]), [1]) == []


def test_isolation_of_a_choice_is_exact():
  """D10: a row for each value, its best trial, and how many there were."""
  mapping = {"model.depth": space_lib.Choice((1, 2, 3))}
  points = [{"model.depth": d} for d in (1, 2, 1, 2)]
  study = by_hand.study(mapping, points, [0.3, 0.2, 0.1, 0.4], infeasible=(1,))
  rows = trials.isolation(study, "model.depth")
  assert [row["x"] for row in rows] == [1, 2, 3]
  assert [row["trial"] for row in rows] == [2, 3, None]
  assert [row["count"] for row in rows] == [2, 2, 0]
  assert [row["infeasible"] for row in rows] == [0, 1, 0]
  assert rows[0]["value"] == 0.1 and math.isnan(rows[2]["value"])
  assert rows[0]["low"] is None


def test_isolation_of_few_integers_is_exact():
  """D10: up to 10 integers are values, more are slices."""
  for high, exact in ((10, True), (11, False)):
    mapping = {"model.depth": space_lib.Int(1, high)}
    points = [{"model.depth": 1 + i % high} for i in range(30)]
    rows = trials.isolation(
      by_hand.study(mapping, points, [0.1] * 30), "model.depth"
    )
    assert (len(rows) == high) == exact
    assert sum(row["count"] for row in rows) == 30


def test_isolation_of_a_number_is_in_slices():
  """D10: slices cover the range, hold every trial once, and its best."""
  study = generated.study(0)
  rows = trials.isolation(study, "hparams.learning_rate")
  assert len(rows) == 8
  assert rows[0]["low"] == pytest.approx(1e-4)
  assert rows[-1]["high"] == pytest.approx(1.0)
  for row, following in itertools.pairwise(rows):
    assert row["high"] == following["low"]
  assert sum(row["count"] for row in rows) == 64
  assert sum(row["infeasible"] for row in rows) == study.infeasible.sum()
  assert np.nanmin([row["value"] for row in rows]) == np.nanmin(study.values)
  for row in rows:
    if row["trial"] is not None:
      assert row["low"] <= row["x"] <= row["high"]
      assert study.values[row["trial"]] == row["value"]


def test_conditional_trials_are_in_their_own_slices():
  """C2, D10: another optimizer's trials are not in this one's isolation."""
  study = generated.study(0, 64, optimizers=("momentum", "nesterov"))
  label = "hparams.learning_rate [optimizer=momentum]"
  rows = trials.isolation(study, label)
  assert sum(row["count"] for row in rows) == 32


def test_cells_are_the_scientific_values():
  """D10: each trial in one cell; one cell without scientific ones."""
  study = generated.study(0, 64, optimizers=("momentum", "nesterov"))
  cells = trials.groups(study)
  assert set(cells) == {"optimizer=momentum", "optimizer=nesterov"}
  assert [len(cell) for cell in cells.values()] == [32, 32]
  assert list(trials.groups(generated.study(0, 20))) == [""]


def test_a_continuous_scientific_number_makes_few_cells():
  """D10: cells hold enough trials to be compared."""
  points = [{"hparams.weight_decay": float(w)} for w in np.linspace(0, 1, 48)]
  mapping = {"hparams.weight_decay": space_lib.Float(0, 1, role="scientific")}
  cells = trials.groups(by_hand.study(mapping, points, [0.1] * 48))
  assert [len(cell) for cell in cells.values()] == [16, 16, 16]


def test_best_steps_take_the_earliest_of_equals():
  """F1: of tied evaluations the first is the best step."""
  study = by_hand.line([0.1])
  curve = (np.array([20, 50, 100]), np.array([0.2, 0.1, 0.1]))
  trial = dataclasses.replace(
    study.trials[0], curves={"valid/error_rate": curve}
  )
  study = dataclasses.replace(study, trials=[trial])
  assert trials.best_steps(study).tolist() == [0.5]
