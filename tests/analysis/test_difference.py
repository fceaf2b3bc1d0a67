"""Variances and intervals by hand, and on numbers whose truth is known."""

import math

import numpy as np
import pytest
from scipy import stats

from jaxplay.analysis import difference

EXACT = difference.Seeds(0.0, math.inf, 1)


def test_reach_is_of_welch_where_both_sides_are_alike():
  """E3: with equal variances there is no correction for skewness."""
  rng = np.random.default_rng(0)
  one = rng.standard_normal(5)
  other = 1 - one
  side = difference.Seeds(one.var(ddof=1), 4, 5)
  low, high = stats.ttest_ind(one, other, equal_var=False).confidence_interval()
  found = difference.reach((side, side), None, 0.95)
  assert 2 * found == pytest.approx(high - low)


def test_reach_grows_with_everything_unknown():
  """E3, E5: variances, search, few trainings, unlike sides, confidence."""
  side = difference.Seeds(1.0, 4, 5)
  first = difference.reach((side, side), None, 0.95)
  more = (
    ((side, difference.Seeds(4.0, 4, 5)), None, 0.95),
    ((side, difference.Seeds(1.0, 2, 3)), None, 0.95),
    ((side, difference.Seeds(1.0, 4, 5, search=0.1)), None, 0.95),
    ((side, side), difference.Data(0.1), 0.95),
    ((side, side), None, 0.99),
  )
  assert all(difference.reach(*arguments) > first for arguments in more)
  assert difference.reach((EXACT, EXACT), None, 0.95) == 0
  data = difference.Data(1.0)
  assert difference.reach((EXACT, EXACT), data, 0.95) == pytest.approx(
    1.96, 1e-3
  )


def test_paired_variance_of_one_training_each():
  """E5: that of discordant pairs, as in McNemar's test."""
  one, other = np.zeros((2, 1, 100))
  one[0, :7], other[0, 5:9] = 1, 1  # 5 only here, 2 only there
  found = difference.paired(one, other, is_share=True)
  expected = (7 - (5 - 2) ** 2 / 100) / (100 * 99)
  assert found.variance == pytest.approx(expected)
  assert found.flips == (0, 0)
  same = difference.paired(one, one, is_share=True)
  assert same.variance == pytest.approx(1 / 100**2)
  assert difference.paired(one, one).variance == 0


def test_weights_are_numbers_of_copies():
  """E5: an example of weight 2 counts nearly as two equal ones."""
  rng = np.random.default_rng(0)
  one, other = rng.random((2, 3, 400))
  weight = rng.integers(1, 4, 400).astype(float)
  same = difference.paired(one, other, np.full(400, 7.0))
  plain = difference.paired(one, other)
  assert same.variance == pytest.approx(plain.variance)
  assert same.flips == pytest.approx(plain.flips)
  means = [
    np.average((one - other).mean(0)[chosen], weights=weight[chosen])
    for chosen in rng.integers(0, 400, (2000, 400))
  ]
  found = difference.paired(one, other, weight)
  assert found.variance == pytest.approx(np.var(means), rel=0.15)


def test_variance_of_trainings_and_examples_together():
  """E5: the two estimates together give the variance of the difference."""
  rng = np.random.default_rng(0)
  differences, estimates = [], []
  for _ in range(2000):
    sides = []
    for reruns, level in ((2, 1.0), (4, 0.5)):
      costs = rng.standard_normal(50)  # of examples
      costs = costs + 0.1 * rng.standard_normal((reruns, 1))
      sides.append(costs + level * rng.standard_normal((reruns, 50)))
    means = [costs.mean(1) for costs in sides]
    data = difference.paired(*sides)
    total = data.variance + sum(
      (m.var(ddof=1) - flips) / len(m)
      for m, flips in zip(means, data.flips, strict=True)
    )
    differences.append(means[0].mean() - means[1].mean())
    estimates.append(total)
  assert np.mean(estimates) == pytest.approx(np.var(differences), rel=0.1)


def test_more_trainings_leave_the_examples():
  """E5: with many trainings only the examples' own variance is left."""
  rng = np.random.default_rng(0)
  costs = rng.standard_normal((2, 1, 300)) + rng.standard_normal((2, 40, 300))
  few = difference.paired(costs[0, :4], costs[1, :4]).after((4, 4), 40)
  many = difference.paired(*costs)
  assert few.variance == pytest.approx(many.variance, rel=0.2)
  assert few.after((40, 40), 4).variance > few.variance


def test_no_share_is_certain():
  """E5: without a single error the rate on the population is not zero."""
  assert difference.independent((0.0, 1.0), 100).variance > 0
  found = difference.independent((0.1, 0.2), 100).variance
  assert found == pytest.approx((0.1 * 0.9 + 0.2 * 0.8) / 100)
