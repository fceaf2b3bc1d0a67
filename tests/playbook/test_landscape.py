"""What the line between two models, or a mean of checkpoints, shows."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxplay.config import metric
from jaxplay.playbook import landscape

LOSS, ERROR = metric.of("loss"), metric.of("error_rate")
ENDS = (
  {"source": "runs/base:1200", "step": 1200, "weights": "raw"},
  {"source": "runs/cooled", "step": 1500, "weights": "ema"},
)


def _points(loss_at, places=(), noise=0.0, number=400):
  """Points of a loss as a function of the position, with costs of examples.

  The examples differ among each other, and how they do so depends on the
  position by `noise`.
  """
  rng = np.random.default_rng(0)
  base = rng.normal(size=number)
  points = []
  for place in places or landscape.positions(9).tolist():
    costs = loss_at(place) + base + noise * rng.normal(size=number)
    costs += loss_at(place) - costs.mean() if not noise else 0
    points.append(landscape.Point(place, costs.mean(), 0.1, costs))
  return points


def _line(points, **more):
  return landscape.line({"loss": points, **more}, ENDS, LOSS, "valid")


@pytest.mark.parametrize("points, number", [(2, 2), (5, 7), (21, 31)])
def test_positions(points, number):
  """S8: both ends are evaluated exactly, and a quarter beyond each."""
  places = landscape.positions(points).tolist()
  assert {0.0, 1.0} <= set(places) and len(places) == number
  np.testing.assert_allclose(np.diff(places), 1 / (points - 1))
  assert sum(0 <= place <= 1 for place in places) == points


def test_the_interval_is_that_of_a_paired_t_test():
  """S8: a difference of two losses on the same examples, after Student."""
  rng = np.random.default_rng(1)
  one, other = rng.normal(1, 1, 50), rng.normal(0.5, 1, 50)
  found = landscape.gap(
    landscape.Point(0, one.mean(), 0, one),
    landscape.Point(1, other.mean(), 0, other),
  )
  expected = stats.ttest_rel(one, other).confidence_interval(0.95)
  np.testing.assert_allclose(found.interval, expected)
  assert found.value == pytest.approx(one.mean() - other.mean())


def test_a_parabola_between_has_its_barrier_and_its_lowest_point():
  """S8: by hand: 1 - 0.2 t + 4 h t (1 - t) and (t - 1.125)^2."""
  answer = _line(_points(lambda t: 1 + 1.2 * t * (1 - t) - 0.2 * t))
  assert answer.details["barrier"]["at"] == pytest.approx(0.375)
  height = 1.2 * 0.375 * 0.625 - 0.2 * 0.375
  assert answer.details["barrier"]["value"] == pytest.approx(height)
  assert answer.details["fall"]["value"] == pytest.approx(0.2)
  assert answer.summary[0].startswith("There is a barrier")
  assert "cooled step 1500 (ema) is lower" in answer.summary[1]

  answer = _line(_points(lambda t: 1 + (t - 1.125) ** 2))
  assert answer.details["barrier"]["value"] == 0
  assert answer.details["lowest"]["at"] == pytest.approx(1.125)
  assert answer.summary[0].startswith("No barrier")
  assert "chance" not in answer.summary[2]


def test_what_may_be_chance_is_no_barrier():
  """S8: of the noise of the examples alone a barrier is rarely claimed."""
  wrong = unclear = 0
  for seed in range(300):
    rng = np.random.default_rng(seed)
    flat = []
    for place in landscape.positions(8):
      costs = 1 + 0.1 * rng.standard_exponential(size=200)
      flat.append(landscape.Point(place, costs.mean(), 0.0, costs))
    sentence = _line(flat).summary[0]
    wrong += sentence.startswith("There is a barrier")
    unclear += "chance" in sentence
  assert wrong <= 0.05 * 300 and unclear > 150


def test_without_costs_nothing_is_called_significant():
  """S8: and a loss that is not finite is a barrier."""
  points = [
    landscape.Point(p, 1 + p * (1 - p), 0.0) for p in landscape.positions(5)
  ]
  answer = _line(points)
  assert answer.details["barrier"]["interval"] is None
  assert "not known" in answer.summary[0]
  points[3] = landscape.Point(0.5, math.nan, 0.0)
  assert "not finite" in _line(points).summary[0]
  points[1] = landscape.Point(0.0, math.inf, 0.0)
  assert "not finite" in _line(points).summary[1]


def test_a_model_with_batch_statistics_shows_both_ways():
  """S8: the recomputed statistics decide; the others stand beside them."""
  series = {
    landscape.RECOMPUTED: _points(lambda t: 1 - 0.1 * t),
    landscape.INTERPOLATED: _points(lambda t: 1 - 0.1 * t + t * (1 - t)),
  }
  answer = landscape.line(series, ENDS, ERROR, "train")
  assert answer.summary[0].startswith("No barrier")
  assert "0.25" in answer.summary[-1]
  (table,) = answer.tables
  assert len(table.heads) == 5 and len(table.rows) == 13
  assert len({row["series"] for row in answer.figures[0].lines}) == 2


def test_a_mean_is_compared_with_the_last_checkpoint():
  """S8: and the best of several means is not the one that is judged."""
  (last,) = _points(lambda t: 1.0, places=[1])
  alone = [(10, last), (20, last), (30, last)]
  merged = [
    *_points(lambda t: 0.8, places=[2]),
    *_points(lambda t: 0.9, places=[3]),
  ]
  answer = landscape.merge(alone, merged, LOSS, "valid", 2048)
  assert answer.details["fall"]["value"] == pytest.approx(0.1)
  assert "10, 20, 30" in answer.summary[0] and "lower" in answer.summary[0]
  assert "last 2" in answer.summary[1] and "2,048" in answer.summary[2]
  (table,) = answer.tables
  means = [row[-1] for row in table.rows]
  assert means[0] is None
  np.testing.assert_allclose(means[1:], [0.8, 0.9])
