"""IsoFLOP slices: the best model size for a budget, without a parametric law.

Approach 2 of Hoffmann et al. 2022 (arXiv 2203.15556).
"""

import dataclasses
import math

import numpy as np
from scipy import interpolate

import jaxplay
from jaxplay.scaling import law as law_lib

# A parabola is fitted to sizes within this factor of the best size.
_REACH = 8.0
# A slice determines its optimum if more of its samples than this have theirs
# within the sizes, so that both ends of the 90% interval are within them.
_USABLE = 0.95


@dataclasses.dataclass(frozen=True)
class Slice:
  """The losses of several sizes at the same compute.

  Attributes:
    flops: The compute.
    parameters: [sizes], increasing, counted as in the fit.
    losses: [sizes], interpolated, nats per token.
    parabola: [3], coefficients of the loss in log N, for `np.polyval`.
    bracketed: Whether a smaller and a larger size are worse.
    num_usable: Number of samples whose parabola has its minimum between the
      smallest and the largest of the sizes.
    optimum: N at the minimum of the parabola; None if it is not determined: the
      slice is not bracketed, or more than 5% of the samples are not usable.
  """

  flops: float
  parameters: np.ndarray
  losses: np.ndarray
  parabola: np.ndarray
  bracketed: bool
  num_usable: int
  optimum: law_lib.Estimate | None


@dataclasses.dataclass(frozen=True)
class IsoFlops:
  """Slices of equal compute, and N = G C^p through their optima.

  Attributes:
    slices: Sorted by compute.
    num_samples: Number of bootstrap samples of each slice; 0: no intervals.
    num_usable: Number of samples that are usable in every slice with an
      optimum.
    coefficient: G; None if fewer than 2 slices have an optimum, or if more than
      a tenth of the samples are not usable.
    exponent: p; None like the coefficient.
  """

  slices: list[Slice]
  num_samples: int
  num_usable: int
  coefficient: float | None
  exponent: law_lib.Estimate | None


def iso_flops(law: law_lib.Fit, *, num_budgets: int = 7) -> IsoFlops:
  """Estimates the best size at each of several budgets.

  Approach 2 of Hoffmann et al. 2022. The loss of each size is interpolated in
  log compute by a monotone cubic, and a parabola in log N is fitted to each
  slice. Wide slices bias it (Czech et al. 2026), so it uses sizes within a
  factor of 8 of the best, and at least 3. Intervals: the losses with the noise
  of the bootstrap samples of the law.

  Args:
    law: Provides the points, the count of parameters, and the noise.
    num_budgets: Number of budgets, log-spaced over the range of 3 sizes.

  Raises:
    jaxplay.UserError: No budget is covered by 3 sizes.
  """
  n, _, loss, flops = law_lib.columns(law.points, law.count_embeddings)
  losses = loss * np.exp(np.vstack([np.zeros(len(n)), law.noise]))
  number = len(law.noise)
  slices, minima = [], []
  for budget, sizes, values in _at_equal_compute(n, flops, losses, num_budgets):
    parabolas, minimum, bracketed = _parabolas(np.log(sizes), values)
    usable = int(np.isfinite(minimum[1:]).sum())
    determined = bracketed and (not number or usable > _USABLE * number)
    slices.append(
      Slice(
        flops=budget,
        parameters=sizes,
        losses=values[:, 0],
        parabola=parabolas[:, 0],
        bracketed=bracketed,
        num_usable=usable,
        optimum=law_lib.estimate(np.exp(minimum)) if determined else None,
      )
    )
    if determined:
      minima.append(minimum)
  if not slices:
    raise jaxplay.UserError(
      "no compute budget lies between the shortest and the longest run of 3 of"
      f" the {len(np.unique(n))} sizes; train small sizes longer, or use the"
      " fitted law alone"
    )
  if len(minima) < 2:
    return IsoFlops(slices, number, 0, None, None)
  logs = np.stack(minima)
  logs = logs[:, np.isfinite(logs).all(axis=0)]
  usable = logs.shape[1] - 1
  if usable < 0.9 * number:
    return IsoFlops(slices, number, usable, None, None)
  budgets = np.log([part.flops for part in slices if part.optimum is not None])
  slope, intercept = np.polyfit(budgets, logs, 1)
  return IsoFlops(
    slices,
    number,
    usable,
    math.exp(intercept[0]),
    law_lib.estimate(slope),
  )


def _at_equal_compute(n, flops, losses, num_budgets):
  """Yields budget, sizes and losses [sizes, draws] of each slice of 3 sizes.

  Args:
    n: [points].
    flops: [points].
    losses: [draws, points].
    num_budgets: Number of budgets, log-spaced.
  """
  cubics = {}
  for size in np.unique(n):
    where, index = np.unique(np.log(flops[n == size]), return_inverse=True)
    if len(where) > 1:
      own = losses[:, n == size]
      # Points of the same size and duration are averaged over their seeds.
      means = [own[:, index == i].mean(axis=1) for i in range(len(where))]
      cubics[size] = interpolate.PchipInterpolator(where, np.stack(means))
  if len(cubics) < 3:
    return
  low = sorted(cubic.x[0] for cubic in cubics.values())[2]
  high = sorted(cubic.x[-1] for cubic in cubics.values())[-3]
  for budget in np.linspace(low, high, num_budgets):
    covered = {s: c for s, c in cubics.items() if c.x[0] <= budget <= c.x[-1]}
    if len(covered) >= 3:
      values = np.stack([cubic(budget) for cubic in covered.values()])
      yield math.exp(budget), np.array(list(covered)), values


def _parabolas(x, losses):
  """Fits a parabola to each draw around the best size.

  Args:
    x: [sizes], log N.
    losses: [sizes, draws].

  Returns:
    (parabolas [3, draws], x of their minima [draws], -inf and inf if it is
    below or above the sizes, whether the first minimum is bracketed)
  """
  best = int(losses[:, 0].argmin())
  away = np.abs(x - x[best])
  near = away <= max(math.log(_REACH) + 1e-9, np.sort(away)[2])
  square, line, _ = parabolas = np.polyfit(x[near], losses[near], 2)
  with np.errstate(divide="ignore", invalid="ignore"):
    least = -line / (2 * square)
  # A parabola that is open below has no minimum: it falls to -inf or inf.
  slope = 2 * square * x[best] + line
  least = np.where(square > 0, least, -np.sign(slope) * np.inf)
  least = np.where(least <= x[0], -np.inf, least)
  least = np.where(least >= x[-1], np.inf, least)
  inside = 0 < best < len(x) - 1 and np.isfinite(least[0])
  return parabolas, least, bool(inside)
