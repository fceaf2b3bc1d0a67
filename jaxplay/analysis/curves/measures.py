"""Numbers read off a logged curve: noise, levels, trends, resolution.

*Noise* is the standard deviation of an evaluation around a smooth curve,
estimated from second differences, so a trend does not count as noise.

*Resolution* is the standard error of a share on the validation set, such as an
error rate, sqrt(p (1 - p) / n). Runs are evaluated on the same examples, so it
is conservative: smaller differences are not reported, whatever the noise.

*Level* is the mean over a window of consecutive evaluations.
"""

import functools
import math

import numpy as np


def resolution(error_rate: float, num_examples: int) -> float:
  """Standard error of an error rate on `num_examples`; 0 for other metrics."""
  if not num_examples:
    return 0.0
  # At least one error: no validation set is infinitely precise.
  share = min(max(float(error_rate), 1 / num_examples), 1.0)
  return math.sqrt(share * (1 - share) / num_examples)


def final_rate(learning_rates: np.ndarray | None) -> float | None:
  """The last learning rate as a share of the largest; None: not logged."""
  if learning_rates is None:
    return None
  rates = learning_rates[np.isfinite(learning_rates)]
  return float(rates[-1] / rates.max()) if len(rates) and rates.max() else None


def last_gain(values: np.ndarray) -> tuple[float, float]:
  """How far the last fifth of a curve lies below the fifth before.

  Returns:
    (the difference of levels, its standard error from the noise).
  """
  width = len(values) // 5
  before, last = values[-2 * width : -width], values[-width:]
  error = noise(values[-3 * width :]) * math.sqrt(2 / width)
  return float(before.mean() - last.mean()), error


def clipped_share(steps: np.ndarray, clipped: np.ndarray) -> float | None:
  """The share of all updates that were clipped; None: it was not logged.

  Args:
    steps: [lines], updates.
    clipped: [lines], share of the updates clipped since the line before.
  """
  updates = np.diff(steps, prepend=0)
  finite = np.isfinite(clipped)
  if not updates[finite].sum():
    return None
  return float(np.average(clipped[finite], weights=updates[finite]))


def finite(
  steps: np.ndarray, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """The points of a curve whose values are finite."""
  is_finite = np.isfinite(values)
  return steps[is_finite], values[is_finite]


def first(flags: np.ndarray) -> int | None:
  """Index of the first true flag, or None."""
  return int(np.argmax(flags)) if flags.any() else None


def noise(values: np.ndarray) -> float:
  """Standard deviation around a smooth curve, from second differences."""
  if len(values) < 3:
    return 0.0
  second = values[2:] - 2 * values[1:-1] + values[:-2]
  # E|x| of a normal x is sd sqrt(2 / pi), and the sd of `second` is sqrt(6)
  # times the noise. The mean of absolute values, not the median: with few
  # examples most second differences of an error rate are zero.
  return float(np.abs(second).mean()) * math.sqrt(math.pi / 12)


def levels(values: np.ndarray, width: int) -> np.ndarray:
  """Means over windows of `width` values, [len(values) - width + 1]."""
  sums = np.cumsum(np.concatenate([[0.0], values]))
  return (sums[width:] - sums[:-width]) / width


def medians_before(values: np.ndarray, width: int) -> np.ndarray:
  """Median of the `width` values before each one, [len(values) - width]."""
  windows = np.lib.stride_tricks.sliding_window_view(values[:-1], width)
  return np.sort(windows, axis=1)[:, width // 2]


def residuals(values: np.ndarray, num_terms: int) -> np.ndarray:
  """Residuals after a least-squares fit of a trend of `num_terms` terms."""
  basis = _trend(len(values), num_terms)
  return values - basis @ (basis.T @ values)


@functools.lru_cache(maxsize=64)
def _trend(length, num_terms):
  """Orthonormal columns: constant, line, logarithm, parabola."""
  t = np.linspace(0.05, 1, length)
  columns = [np.ones(length), t, np.log(t), t * t][:num_terms]
  return np.linalg.qr(np.stack(columns, axis=1))[0]
