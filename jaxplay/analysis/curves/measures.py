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
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxplay import config as config_lib


def resolution(error_rate: float, num_examples: int) -> float:
  """Standard error of an error rate on `num_examples`; 0 for other metrics."""
  if not num_examples:
    return 0.0
  # At least one error, and one that is none: no share is certain.
  edge = min(1 / num_examples, 0.5)
  share = min(max(float(error_rate), edge), 1 - edge)
  return math.sqrt(share * (1 - share) / num_examples)


def final_rate(
  learning_rates: np.ndarray, config: Mapping[str, Any] | None = None
) -> float | None:
  """The last learning rate as a share of the largest; None: unknown.

  Args:
    learning_rates: [lines], as logged; fewer than 3 do not show a schedule.
    config: Dotted keys and values, whose schedule counts where the rates are
      not logged, see `config.final_rate`; None: unknown.
  """
  rates = learning_rates[np.isfinite(learning_rates)]
  if len(rates) >= 3 and rates.max() > 0:
    return float(rates[-1] / rates.max())
  return None if config is None else config_lib.final_rate(config)


def last_gain(values: np.ndarray, fifths: int = 1) -> tuple[float, float]:
  """How far the last fifth of a curve lies below an earlier fifth.

  Args:
    values: [n], at least 10.
    fifths: How many fifths earlier, 1 to 4.

  Returns:
    (the difference of levels, its standard error from the noise).
  """
  width = len(values) // 5
  end = len(values) - fifths * width
  before, last = values[end - width : end], values[-width:]
  error = noise(values[max(end - 2 * width, 0) :]) * math.sqrt(2 / width)
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


def scatter(values: np.ndarray) -> float:
  """Standard deviation between neighbours, from their median difference.

  A trend, a few outliers and a shift of the level count nothing, independent
  noise as it is, correlated noise less.
  """
  if len(values) < 3:
    return 0.0
  steps = np.diff(values)
  median = float(np.median(np.abs(steps - np.median(steps))))
  return 1.4826 * median / math.sqrt(2)


def levels(values: np.ndarray, width: int) -> np.ndarray:
  """Means over windows of `width` values, [len(values) - width + 1]."""
  sums = np.cumsum(np.concatenate([[0.0], values]))
  return (sums[width:] - sums[:-width]) / width


def medians(values: np.ndarray, width: int) -> np.ndarray:
  """Median of the `width` (odd) values around each one, reflected at ends."""
  if len(values) <= width // 2:
    return values.copy()
  padded = np.pad(values, width // 2, mode="reflect")
  windows = np.lib.stride_tricks.sliding_window_view(padded, width)
  return np.sort(windows, axis=1)[:, width // 2]


def jumps(
  values: np.ndarray, least: np.ndarray | float, after: int
) -> np.ndarray:
  """Marks where a curve rises suddenly, and more than by its noise.

  The rise of a value is above the lowest level, a running median of 3, of the
  8 before it. Marked are levels that rise by more than `least` and 6 times
  what they usually do, and single values by half more than `least` and 10
  times. What is usual is the median over the last 50 values: a smooth fall
  counts nothing, and noise that is correlated, has heavy tails or changes with
  time counts as it acts on the rise. Noise that is large in some batches only,
  as with mixup, is not seen by a median: a level must also rise by more than
  1.5 times the second largest of these, and a single value by twice that. A
  rise must exceed 5 standard deviations of the noise nearby (a single value
  8), and 3 times the largest drop nearby: a burst of noise goes in both
  directions. The factors are our own, and chosen on simulated noise.

  Args:
    values: [lines], finite.
    least: [lines] or a number; smaller rises do not matter.
    after: Values at the start that are not judged, at least 2: nothing is
      known of their noise.

  Returns:
    bool [lines].
  """
  marks = np.zeros(len(values), bool)
  if len(values) <= max(after, 4):
    return marks
  level = medians(values, 3)
  # A level contains the value after it, hence those up to two before.
  padded = np.concatenate([np.full(9, np.inf), level[:-2]])
  before = np.lib.stride_tricks.sliding_window_view(padded, 8)
  lowest = before.min(axis=1)[: len(values)]
  lowest[:2] = values[:2]
  factors = ((level, 1.0, 6, 1.5, 5), (values, 1.5, 10, 2.0, 8))
  for curve, share, *_ in factors:
    marks |= curve - lowest > share * least
  marks[:after] = False
  if not marks.any():  # As in most curves, in a tenth of the time.
    return marks
  # Of second differences, which no slope changes: sd sqrt(6), times 0.6745.
  second = np.abs(np.diff(np.pad(values, 1, mode="reflect"), 2))
  noise = _nearby(second, 10, np.median) / 1.65
  drop = _nearby(medians(values, 5) - values, 10, np.max)
  large = _before(np.maximum(values - lowest, 0), after, 98)
  exceeds = np.zeros(len(values), bool)
  for curve, share, usual, often, deviations in factors:
    rise = curve - lowest
    limits = (
      share * least,
      usual * _before(np.maximum(rise, 0), after, 50),
      often * large,
      deviations * noise,
      3 * drop,
    )
    exceeds |= np.logical_and.reduce([rise > limit for limit in limits])
  return marks & exceeds


def loss_jumps(loss: np.ndarray) -> np.ndarray:
  """Marks where a training loss jumps, as `jumps` does; bool [lines].

  A rise matters from a tenth of the fall before it and 4% of the first loss
  on, which is a measure for losses in nats that never come near zero; or when
  it doubles the lowest loss so far, and is above 2% of the first.

  Args:
    loss: [lines], finite.
  """
  if len(loss) < 2:
    return np.zeros(len(loss), bool)
  level = medians(loss, 3)
  first = abs(level[0])
  lowest = np.minimum.accumulate(np.concatenate([level[:1], level[:-1]]))
  fall = level[0] - lowest
  least = np.maximum(0.1 * fall, 0.04 * first)
  doubles = np.maximum(np.abs(lowest), 0.02 * first)
  return jumps(loss, np.minimum(least, doubles), after=10)


def rises_by_half(loss: np.ndarray) -> np.ndarray:
  """Marks losses above the lowest so far by half, and by 5% of the first.

  Of single values among the first 10, which `jumps` does not judge, and of the
  running median of 9: some batches are much harder than others.
  """
  if not len(loss):
    return np.zeros(0, bool)
  marks = np.zeros(len(loss), bool)
  for curve, here in ((loss, slice(0, 10)), (medians(loss, 9), slice(None))):
    lowest = np.minimum.accumulate(curve)
    least = np.maximum(0.5 * np.abs(lowest), 0.05 * abs(loss[0]))
    marks[here] |= (curve - lowest > least)[here]
  return marks


def _before(values, least, percentile):
  """A percentile of the 50 values before each one, in steps of 5; [values].

  Of the first `least` values for these themselves.
  """
  ends = np.clip(np.arange(0, len(values), 5), least, len(values))
  padded = np.concatenate([np.full(50, np.inf), values])
  windows = np.lib.stride_tricks.sliding_window_view(padded, 50)[ends]
  place = (np.minimum(ends, 50) - 1) * percentile // 100
  found = np.sort(windows, axis=1)[np.arange(len(ends)), place]
  return np.repeat(found, 5)[: len(values)]


def _nearby(values, reach, of):
  """`of` the values up to `reach` before and after each one; [values]."""
  padded = np.pad(values, min(reach, len(values) - 1), mode="reflect")
  width = len(padded) - len(values) + 1
  windows = np.lib.stride_tricks.sliding_window_view(padded, width)
  return of(windows, axis=1)


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
