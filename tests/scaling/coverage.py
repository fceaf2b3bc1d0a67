"""How often the 90% intervals of a scaling law hold the true values.

    python -m tests.scaling.coverage [--ladders=60]

prints the table of docs/checks.md: for each kind and level of noise, over three
laws, the coverage of the intervals that are determined, in %, and how many of
them are. An end that is not determined excludes nothing.
"""

import argparse
import dataclasses
import math
from collections.abc import Iterator

import numpy as np

import jaxplay
from jaxplay.scaling import isoflops
from jaxplay.scaling import law as law_lib


@dataclasses.dataclass(frozen=True)
class Truth:
  """A law, and the sizes and durations of its ladder."""

  law: tuple[float, float, float, float, float]  # E, A, a, B, b
  sizes: np.ndarray
  tokens: np.ndarray

  def loss(self, n, d):
    e, a_n, a, b_d, b = self.law
    return e + a_n / n**a + b_d / d**b

  def optimum(self, flops):
    """Returns N of the lowest loss with 6 N D = flops."""
    _, a_n, a, b_d, b = self.law
    return (a * a_n / (b * b_d)) ** (1 / (a + b)) * (flops / 6) ** (b / (a + b))


LAWS = (
  Truth(
    (1.7, 400, 0.34, 410, 0.28),
    np.geomspace(5e6, 160e6, 5),
    np.geomspace(4e8, 32e8, 4),
  ),
  Truth(
    (1.0, 20, 0.35, 60, 0.33),
    np.geomspace(2.5e4, 9e5, 6),
    np.geomspace(5e5, 4e6, 4),
  ),
  Truth(
    (0.9, 50, 0.5, 900, 0.45),
    np.geomspace(2e4, 1e6, 4),
    np.geomspace(1e6, 27e6, 4),
  ),
)
KINDS = ("normal", "t3", "shared", "small noisier", "near 20 N")
LEVELS = (0.001, 0.005, 0.02)
COLUMNS = ("E", "a", "b", "exponent", "best N", "isoFLOP exponent")


def ladder(truth: Truth, kind: str, noise: float, seed: int):
  """Returns the points of a ladder, with relative noise of this deviation.

  Args:
    truth: The law.
    kind: One of KINDS; "t3" has heavy tails, "shared" half of the variance in
      common among the points of a size, and "near 20 N" two durations of each
      size, a factor of 1.5 apart.
    noise: Standard deviation of the logarithm of the loss.
    seed: Seed of the noise.
  """
  random = np.random.default_rng(seed)
  n, d = np.meshgrid(truth.sizes, truth.tokens, indexing="ij")
  if kind == "near 20 N":
    sizes = np.geomspace(truth.sizes.min(), truth.sizes.max(), 8)
    middle = np.sqrt(truth.tokens.min() * truth.tokens.max())
    ratio = middle / np.sqrt(sizes.min() * sizes.max())
    n, d = np.meshgrid(sizes, [1, 1.5], indexing="ij")
    d = ratio * n * d
  error = random.standard_normal(n.shape)
  if kind == "t3":
    error = random.standard_t(3, n.shape) / math.sqrt(3)
  elif kind == "shared":
    common = random.standard_normal((len(n), 1))
    error = (common + error) / math.sqrt(2)
  elif kind == "small noisier":
    error *= np.geomspace(2, 0.5, len(n))[:, None]
  losses = truth.loss(n, d) * np.exp(noise * error)
  return [
    law_lib.Point(f"{p:.4g}", p, 0.0, t, loss, 6 * p * t, True)
    for p, t, loss in zip(
      *(v.ravel().tolist() for v in (n, d, losses)), strict=True
    )
  ]


def estimates(law, truth: Truth) -> Iterator[tuple]:
  """Yields (estimate or None, true value) in the order of COLUMNS."""
  found = law.coefficients
  e, _, a, _, b = truth.law
  yield found["irreducible"], e
  yield found["exponent_n"], a
  yield found["exponent_d"], b
  yield law.optimal_exponent, b / (a + b)
  flops = max(p.flops for p in law.points)
  try:
    best = law.optimal(flops).parameters
  except jaxplay.UserError:  # Far outside of the points.
    best = None
  yield best, truth.optimum(flops)
  try:
    power = isoflops.iso_flops(law).exponent
  except jaxplay.UserError:  # No budget is covered by 3 sizes.
    power = None
  yield power, b / (a + b)


def coverage(
  truth: Truth, kind: str, noise: float, ladders: int
) -> tuple[np.ndarray, np.ndarray]:
  """Returns the counts of intervals that hold the truth, and of all intervals.

  A ladder that is refused has none; one without both ends is none.
  """
  inside = np.zeros(len(COLUMNS), int)
  known = np.zeros(len(COLUMNS), int)
  for seed in range(ladders):
    try:
      law = law_lib.fit(ladder(truth, kind, noise, seed))
    except jaxplay.UserError:
      continue
    for i, (found, true) in enumerate(estimates(law, truth)):
      if found is None or (math.isnan(found.low) and math.isnan(found.high)):
        continue
      known[i] += 1
      inside[i] += not (found.low > true or found.high < true)
  return inside, known


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--ladders", type=int, default=60)
  ladders = parser.parse_args().ladders
  print(f"| noise | {' | '.join(COLUMNS)} |")
  print("|---" * (1 + len(COLUMNS)) + "|")
  for kind in KINDS:
    for noise in LEVELS:
      rows = [coverage(truth, kind, noise, ladders) for truth in LAWS]
      inside, known = np.sum(rows, axis=0)
      cells = [
        f"{100 * i / k:.0f} ({100 * k / (ladders * len(LAWS)):.0f})"
        if k
        else "- (0)"
        for i, k in zip(inside, known, strict=True)
      ]
      print(f"| {kind}, {noise:.1%} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
  main()
