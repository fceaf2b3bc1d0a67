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


@dataclasses.dataclass(frozen=True)
class Slice:
  """The losses of several sizes at the same compute.

  Attributes:
    flops: The compute.
    parameters: [sizes], increasing, counted as in the fit.
    losses: [sizes], interpolated, nats per token.
    parabola: [3], coefficients of the loss in log N, for `np.polyval`.
    optimum: N at the minimum of the parabola.
    bracketed: Whether a smaller and a larger size are worse; if not, the
      optimum is an extrapolation.
  """

  flops: float
  parameters: np.ndarray
  losses: np.ndarray
  parabola: np.ndarray
  optimum: law_lib.Estimate
  bracketed: bool


@dataclasses.dataclass(frozen=True)
class IsoFlops:
  """Slices of equal compute, and N = G C^p through their bracketed minima.

  Attributes:
    slices: Sorted by compute.
    coefficient: G; None if fewer than 2 slices are bracketed.
    exponent: p; None if fewer than 2 slices are bracketed.
  """

  slices: list[Slice]
  coefficient: float | None
  exponent: law_lib.Estimate | None


def iso_flops(
  law: law_lib.Fit, *, num_budgets: int = 7, num_draws: int = 200, seed: int = 0
) -> IsoFlops:
  """Estimates the best size at each of several budgets.

  Approach 2 of Hoffmann et al. 2022. The loss of each size is interpolated in
  log compute by a monotone cubic, and a parabola in log N is fitted to each
  slice. Wide slices bias it (Czech et al. 2026), so it uses sizes within a
  factor of 8 of the best, and at least 3. Intervals: the losses are resampled
  with the residuals of the law.

  Args:
    law: Provides the points, the count of parameters, and the residuals.
    num_budgets: Number of budgets, log-spaced over the range of 3 sizes.
    num_draws: Number of resamples for the intervals.
    seed: Seed of the resamples.

  Raises:
    jaxplay.UserError: No budget is covered by 3 sizes.
  """
  n, _, loss, flops = law_lib.columns(law.points, law.count_embeddings)
  noise = law.residuals * math.sqrt(len(n) / max(len(n) - 5, 1))
  draws = np.random.default_rng(seed).choice(noise, (num_draws, len(n)))
  losses = loss * np.exp(np.vstack([np.zeros(len(n)), draws]))
  slices, minima = [], []
  for budget, sizes, values in _at_equal_compute(n, flops, losses, num_budgets):
    parabolas, minimum, bracketed = _parabolas(np.log(sizes), values)
    slices.append(
      Slice(
        flops=budget,
        parameters=sizes,
        losses=values[:, 0],
        parabola=parabolas[:, 0],
        optimum=law_lib.estimate(np.exp(minimum)),
        bracketed=bracketed,
      )
    )
    minima.append(minimum)
  if not slices:
    raise jaxplay.UserError(
      "no compute budget lies between the shortest and the longest run of 3 of"
      f" the {len(np.unique(n))} sizes; train small sizes longer, or use the"
      " fitted law alone"
    )
  keep = [i for i, found in enumerate(slices) if found.bracketed]
  if len(keep) < 2:
    return IsoFlops(slices, None, None)
  logs = np.stack([minima[i] for i in keep])
  logs = logs[:, np.isfinite(logs).all(axis=0)]
  budgets = np.log([slices[i].flops for i in keep])
  slope, intercept = np.polyfit(budgets, logs, 1)
  return IsoFlops(slices, math.exp(intercept[0]), law_lib.estimate(slope))


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
    (parabolas [3, draws], x of their minima [draws], whether the first minimum
    is bracketed)
  """
  best = int(losses[:, 0].argmin())
  away = np.abs(x - x[best])
  near = away <= max(math.log(_REACH) + 1e-9, np.sort(away)[2])
  square, line, _ = parabolas = np.polyfit(x[near], losses[near], 2)
  with np.errstate(divide="ignore", invalid="ignore"):
    least = -line / (2 * square)
  # A parabola that is open below has no minimum: it is at -inf or inf.
  slope = 2 * square * x[best] + line
  least = np.where(square > 0, least, -np.sign(slope) * np.inf)
  inside = 0 < best < len(x) - 1 and x[0] < least[0] < x[-1]
  return parabolas, least, bool(inside)
