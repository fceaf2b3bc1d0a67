"""The check of a sample for skew, against samples that are fair or not."""

import numpy as np
import pytest

from jaxplay.analysis import sampled

_SIZE = 2000


def _drawn(rng, n, kind, *, bias=0.0):
  """The finding of a sample of `n` of 2,000 examples of 10 classes.

  Args:
    rng: Draws everything.
    n: Size of the sample.
    kind: "errors", "losses" or "heavy" losses.
    bias: How much likelier the examples of class 0, which are hard, are drawn.
  """
  label = rng.integers(10, size=_SIZE)
  hard = np.where(label == 0, 5.0, 1.0)
  if kind == "errors":
    cost = (rng.uniform(size=_SIZE) < 0.05 * hard).astype(float)
  else:
    cost = hard * rng.lognormal(0, 1.5 if kind == "heavy" else 0.5, _SIZE)
  chance = 1 + bias * (label == 0)
  index = rng.choice(_SIZE, n, replace=False, p=chance / chance.sum())
  counts = [np.bincount(part, minlength=10) for part in (label[index], label)]
  return sampled.sampled_evaluation(
    cost[index].mean(),
    cost.mean(),
    costs=(cost[index], np.ones(n)),
    share=n / _SIZE,
    counts=tuple(counts),
  )


@pytest.mark.parametrize("kind", ["errors", "losses", "heavy"])
@pytest.mark.parametrize("n", [50, 200, 1000])
def test_error_rates(kind, n):
  """G10: few false alarms; a plainly skewed sample is found."""
  rng = np.random.default_rng(n)
  fair = [_drawn(rng, n, kind).verdict for _ in range(200)]
  assert fair.count("warn") <= 0.05 * 200
  skewed = [_drawn(rng, n, kind, bias=9).verdict for _ in range(40)]
  assert skewed.count("ok") <= 0.05 * 40


def test_without_costs_it_is_unknown():
  """G10: missing data is no verdict."""
  options = dict(share=0.5, counts=None)
  found = sampled.sampled_evaluation(0.1, 0.1, costs=None, **options)
  assert found.verdict == "unknown"
  costs = np.arange(500) / 500, np.ones(500)
  found = sampled.sampled_evaluation(np.nan, 0.1, costs=costs, **options)
  assert found.verdict == "unknown"
