"""The objective as a quadratic function of all hyperparameters at once.

A response surface (Box and Wilson 1951) explains what the other
hyperparameters do to a trial, so that the effect of one stands out, and what
noise and luck did shows in the residuals. Numbers enter by their place x on
their own scale, from -1 at the lowest to 1 at the highest value of the trials,
and by x^2; choices of names by an indicator of each name; products of two
numbers where there are trials enough to estimate them.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from scipy import stats

from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib

# Where slopes are taken: x, seven eighths of the way to the other edge. So an
# optimum is "at the edge" from there on.
_AT = 0.75
# Degrees of freedom that must remain for the noise.
_FEWEST_FREE = 4
# Candidate ratios of the variance of the surface to that of the noise.
_RATIOS = np.concatenate([[0.0], np.logspace(-2, 4, 31)])


@dataclasses.dataclass(frozen=True)
class Slope:
  """How the objective changes towards an edge, close to it.

  Attributes:
    value: Change per half of the range; below 0: it still falls.
    error: Standard error of `value`.
    freedom: Degrees of freedom of `error`.
  """

  value: float
  error: float
  freedom: int

  @property
  def p_value(self) -> float:
    """Probability of a slope this far below 0, where it is 0 in truth."""
    if self.error <= 0:
      return 0.0 if self.value < 0 else 1.0
    return float(stats.t.cdf(self.value / self.error, self.freedom))

  def least(self, level: float) -> float:
    """The lower bound of the slope at a one-sided level, such as 0.95."""
    reach = float(stats.t.isf(1 - level, self.freedom)) * self.error
    return self.value - reach


def slopes(
  results: results_lib.Results,
  label: str,
  indices: np.ndarray,
  targets: Sequence[np.ndarray],
) -> list[tuple[Slope, Slope]]:
  """Measure the slope towards either edge of a number, the others explained.

  By least squares on as rich a surface as the number of trials allows.

  Args:
    results: The study.
    label: Of the hyperparameter, which has an order.
    indices: Places of the trials, all of which have a value of it.
    targets: What to explain, each [len(indices)].

  Returns:
    (towards the low edge, towards the high edge), each outwards, for each
    target; [] if the trials do not determine them.
  """
  terms = _terms(results, indices)
  if label not in terms:
    return []
  own = terms.pop(label)
  lines = [columns[:, :1] for columns in terms.values()]
  curves = [columns[:, 1:] for columns in terms.values()]
  richest = [own, *lines, *curves, *_products([own, *terms.values()])]
  for parts, each in (
    (richest, 3),
    ([own, *lines, *curves], 1),
    ([own, *lines], 1),
    ([own], 1),
  ):
    x = np.column_stack([np.ones(len(indices)), *parts])
    rank = int(np.linalg.matrix_rank(x))
    freedom = len(indices) - rank
    if len(indices) < each * rank or freedom < _FEWEST_FREE:
      continue
    inverse = np.linalg.pinv(x.T @ x)
    contrasts = np.zeros((2, x.shape[1]))
    contrasts[:, 1] = (-1, 1)
    if own.shape[1] > 1:
      contrasts[:, 2] = 2 * _AT
    weights = contrasts @ inverse
    if not np.allclose(weights @ (x.T @ x), contrasts, atol=1e-6):
      return []  # It goes together with another hyperparameter.
    scale = np.einsum("ij,ij->i", weights, contrasts)
    found = []
    for values in targets:
      left = values - x @ (inverse @ (x.T @ values))
      errors = np.sqrt(np.maximum(scale * (left @ left) / freedom, 0))
      low, high = (
        Slope(float(slope), float(error), freedom)
        for slope, error in zip(weights @ (x.T @ values), errors, strict=True)
      )
      found.append((low, high))
    return found
  return []


@dataclasses.dataclass(frozen=True)
class Smooth:
  """A surface that follows the trials as far as they agree with each other.

  Attributes:
    values: Its height at each trial, [trials].
    deviation: Of the trials around it: noise, and what no quadratic follows.
    leverage: Variance of each height, in units of `deviation` squared.
    explained: Share of the variance of the trials that it explains.
    p_value: Probability of explaining as much without any effect.
  """

  values: np.ndarray
  deviation: float
  leverage: np.ndarray
  explained: float
  p_value: float


def smooth(
  results: results_lib.Results, indices: np.ndarray, values: np.ndarray
) -> Smooth:
  """Fit a surface whose strength is estimated from the trials themselves.

  Ridge regression whose penalty maximizes the marginal likelihood (empirical
  Bayes, MacKay 1992): without an effect of any hyperparameter the surface is
  flat, at the mean.

  Args:
    results: The study.
    indices: Places of the trials, at least 3.
    values: What to explain, [len(indices)].
  """
  parts = list(_terms(results, indices).values())
  products = _products(parts)
  if len(indices) >= 3 * (1 + sum(p.shape[1] for p in [*parts, *products])):
    parts += products
  x = np.column_stack([np.zeros((len(indices), 1)), *parts])
  x = x - x.mean(axis=0)
  x /= np.maximum(x.std(axis=0), 1e-12) * np.sqrt(x.shape[1])
  left, singular, _ = np.linalg.svd(x, full_matrices=False)
  centred = values - values.mean()
  along = left.T @ centred
  rest = max(float(centred @ centred - along @ along), 0.0)
  growth = 1 + _RATIOS[:, None] * singular**2
  num = len(indices) - 1
  variances = ((along**2 / growth).sum(axis=1) + rest) / num
  tiny = np.finfo(float).tiny
  likelihood = -num * np.log(np.maximum(variances, tiny))
  likelihood -= np.log(growth).sum(axis=1)
  best = int(np.argmax(likelihood))
  kept = 1 - 1 / growth[best]
  heights = values.mean() + left @ (kept * along)
  total = float(centred @ centred) / len(indices)
  return Smooth(
    values=heights,
    deviation=float(np.sqrt(variances[best])),
    leverage=(left**2 * kept).sum(axis=1) + 1 / len(indices),
    explained=float(heights.var() / total) if total else 0.0,
    # At the edge of its range a variance ratio is 0 half of the time.
    p_value=0.5 * float(stats.chi2.sf(likelihood[best] - likelihood[0], 1))
    if best
    else 1.0,
  )


def _terms(
  results: results_lib.Results, indices: np.ndarray
) -> dict[str, np.ndarray]:
  """The columns of each hyperparameter that varies, label -> [trials, terms].

  0 where it does not exist: at the middle, so that only the trials that have it
  determine its effect.
  """
  terms = {}
  for parameter in results.space.parameters:
    column = results.column(parameter.label)[indices]
    if trials_lib.is_ordered(parameter):
      unit = trials_lib.units(parameter, column)
      exists = np.isfinite(unit)
      different = len(np.unique(unit[exists]))
      if different < 2:
        continue
      low, high = unit[exists].min(), unit[exists].max()
      x = np.where(exists, 2 * (unit - low) / (high - low) - 1, 0.0)
      terms[parameter.label] = np.column_stack([x, x**2][: different - 1])
    else:
      found = [v for v in parameter.values if any(c == v for c in column)]
      if len(found) > 1:
        terms[parameter.label] = np.column_stack(
          [[float(c == v) for c in column] for v in found[1:]]
        )
  return terms


def _products(parts):
  """Products of the first columns of each two of `parts`."""
  return [
    one[:, :1] * other[:, :1] for one, other in itertools.combinations(parts, 2)
  ]
