"""How surely two means differ, given three sources of variation (E5).

Playbook, determining whether to adopt a training pipeline change: trial
variance (of training with other seeds), study variance (of the search), and
data collection and sampling variance (of the validation set). The quantity of
interest is the difference on the population of examples, over all seeds; the
validation set is a sample, and is the same for all trainings of both sides.
"""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from scipy import special

# How skewed the noise of seeds may be: three times as much as an exponential
# distribution, about as a lognormal one of shape 1.
_SKEWNESS = 6.0


@dataclasses.dataclass(frozen=True)
class Seeds:
  """What is known of the mean of a side over its trainings.

  Attributes:
    variance: Between trainings, evaluated on the same examples.
    freedom: Degrees of freedom of that estimate; inf: it is assumed.
    number: Trainings in the mean, at least 1.
    search: Variance of the best value over searches; 0 for a mean of reruns.
  """

  variance: float
  freedom: float
  number: int
  search: float = 0.0


@dataclasses.dataclass(frozen=True)
class Data:
  """What is known of the sampling of the validation examples.

  Attributes:
    variance: Of the difference of the two means, for these trainings.
    flips: For each side, the part of it that is a part of `Seeds.variance`,
      too: variance between trainings that single examples cause, which change
      independently. Many examples show it, so it is known well.
  """

  variance: float
  flips: tuple[float, float] = (0.0, 0.0)

  def after(self, numbers: Sequence[int], number: int) -> "Data":
    """The same with another number of trainings of each side.

    Args:
      numbers: Trainings of each side now.
      number: Trainings of each side then.
    """
    change = sum(
      flips / number - flips / now
      for flips, now in zip(self.flips, numbers, strict=True)
    )
    return Data(max(self.variance + change, 0.0), self.flips)


def paired(
  one: np.ndarray,
  other: np.ndarray,
  weight: np.ndarray | None = None,
  is_share: bool = False,
) -> Data:
  """Estimate the sampling variance of a difference on the same examples.

  Trainings and examples are crossed random effects. The variance over examples
  holds their interaction with the trainings; its mean square gives `flips`, so
  that it is not counted twice.

  Args:
    one: Cost of each example in each training of a side, float [trainings, n].
    other: Likewise of the other side; the same examples, at least 2.
    weight: Weight of each example, [n]; None: all count the same.
    is_share: Whether costs are 0 or 1. Then at least one example counts as
      changed: no difference is certain.
  """
  number = one.shape[1]
  variance = sampling(one.mean(0) - other.mean(0), weight)
  flips = []
  for costs in (one, other):
    parts = _parts(costs - costs.mean(0), weight)
    freedom = max(len(costs) - 1, 1) * (number - 1)
    flips.append(float((parts**2).sum()) / freedom / number)
  return Data(max(variance, is_share / number**2), (flips[0], flips[1]))


def independent(shares: Sequence[float], number: int) -> Data:
  """Sampling variance of two shares as if of two sets of `number` examples.

  More than on the same examples, where errors agree in part.
  """
  edge = 1 / (number + 1)  # No share is certain.
  return Data(
    sum(p * (1 - p) / number for p in np.clip(shares, edge, 1 - edge).tolist())
  )


def reach(
  sides: tuple[Seeds, Seeds], data: Data | None, confidence: float
) -> float:
  """Half the width of the interval of the difference of two means.

  By Student's t with the degrees of freedom of Welch (1947). Two trainings may
  agree by luck, so the variance is at least what the examples show. To that
  comes the correction of Johnson (1978) for skewed seeds: the mean of few
  trainings misses the rare bad ones, and so does their variance. Where both
  sides are equally noisy it cancels. As few values do not show their skewness,
  it is assumed.

  Args:
    sides: Both sides.
    data: None: the sampling of the examples is not counted.
    confidence: Level of the interval, in (0, 1).
  """
  data = data or Data(0.0)
  least = data.variance + sum(side.search for side in sides)
  total, below, third = least, 0.0, 0.0
  for sign, side, flips in zip((1, -1), sides, data.flips, strict=True):
    own = side.variance - flips
    total += own / side.number
    below += (side.variance / side.number) ** 2 / side.freedom
    third += sign * max(own, 0.0) ** 1.5 / side.number**2
  freedom = math.inf
  if total > least:
    freedom = total**2 / below if below else math.inf
  total = max(total, least)
  if not total:
    return 0.0
  quantile = _quantile(freedom, confidence)
  if all(math.isinf(side.freedom) for side in sides):
    third = 0.0  # Nothing was measured with few trainings.
  first = quantile * math.sqrt(total)
  skew = _SKEWNESS * abs(third) / (6 * total) * (1 + 2 * quantile**2)
  return first + min(skew, first)  # The next term of a series, not the first.


def sampling(costs: np.ndarray, weight: np.ndarray | None = None) -> float:
  """Variance of a mean over examples, by their sampling.

  Args:
    costs: Of each example, float [n], at least 2.
    weight: Weight of each example, [n]; None: all count the same.
  """
  parts, number = _parts(costs, weight), len(costs)
  return float(parts @ parts) / (number * (number - 1))


def _parts(values, weight):
  """Weighted contributions of examples to a mean, [..., n]: sum to zero."""
  number = values.shape[-1]
  scale = np.ones(number) if weight is None else weight / weight.mean()
  mean = (values * scale).mean(-1, keepdims=True)
  return (values - mean) * scale


def _quantile(freedom, confidence):
  level = (1 + confidence) / 2
  if math.isinf(freedom):
    return float(special.ndtri(level))
  return float(special.stdtrit(freedom, level))
