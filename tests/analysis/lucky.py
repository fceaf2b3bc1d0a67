"""Studies whose best trial is lucky, with the truth; and what is made of them.

    python -m tests.analysis.lucky [--studies=100]

prints bias and coverage of the estimate of the best value: the table in
docs/checks.md.
"""

import argparse
import dataclasses

import numpy as np

from jaxplay import rundir
from jaxplay.analysis import expected
from jaxplay.study import space as space_lib
from tests.analysis import by_hand, comparisons

KEYS = ("hparams.label_smoothing", "hparams.rho", "hparams.momentum")
EXAMPLES, EVALUATIONS = 500, 20
# Truths: all equal; a quadratic; one trial at half of the others; each 10% of
# its own, as no hyperparameter explains.
KINDS = ("flat", "bowl", "needle", "rough")


def study(seed, kind, num, metric="valid/error_rate", are_saved=False):
  """(a study, the true value of each trial), of one of `KINDS`.

  Error rates on 500 examples, which share half of their variance between
  trials; 20 evaluations, correlated by 0.7; 1% between seeds. With `are_saved`
  the trials have the costs of their examples.
  """
  rng = np.random.default_rng([seed, num])
  units = rng.uniform(size=(num, 3))
  truth = np.full(num, 0.1)
  if kind == "bowl":
    best = rng.uniform(0.3, 0.7, 3)
    truth = 0.1 * (1 + ((units - best) ** 2 * (3, 1.5, 0)).sum(axis=1))
  elif kind == "needle":
    truth[rng.integers(num)] = 0.05
  elif kind == "rough":
    truth = 0.1 * (1 + 0.1 * rng.standard_normal(num))
  wave = rng.standard_normal((num, EVALUATIONS))
  for i in range(1, EVALUATIONS):
    wave[:, i] = 0.7 * wave[:, i - 1] + np.sqrt(0.51) * wave[:, i]
  line = np.arange(1, EVALUATIONS + 1) / EVALUATIONS
  curves = np.minimum(truth[:, None] * (1 + 4 * np.exp(-8 * line)), 0.9)
  deviation = np.sqrt(curves * (1 - curves) / EXAMPLES)
  shared, own = rng.standard_normal(), rng.standard_normal((num, 1))
  curves = curves * (1 + 0.01 * rng.standard_normal((num, 1)))
  curves += deviation * (0.7 * shared + 0.5 * own + 0.5 * wave)
  curves = np.round(curves * EXAMPLES) / EXAMPLES
  mapping = {key: space_lib.Float(0.0, 0.9) for key in KEYS}
  points = [dict(zip(KEYS, row, strict=True)) for row in (0.9 * units).tolist()]
  made = by_hand.study(mapping, points, curves.min(axis=1), num_valid=EXAMPLES)
  steps = np.arange(1, EVALUATIONS + 1) * 5
  found = [
    dataclasses.replace(trial, curves={metric: (steps, curve)})
    for trial, curve in zip(made.trials, curves, strict=True)
  ]
  if are_saved:
    found = [
      comparisons.Trial(**vars(trial), saved=_saved(curve, metric))
      for trial, curve in zip(found, curves, strict=True)
    ]
  return dataclasses.replace(made, trials=found, objective=metric), truth


def _saved(curve, metric):
  wrong = round(curve.min() * EXAMPLES)
  costs = np.float32(np.arange(EXAMPLES) < wrong)
  return rundir.Examples(5, costs, 5, costs, None, metric, "examples")


def errors(kind, num, seeds, **more):
  """[seeds, 3]: error of the best value, of the estimate; whether covered."""
  rows = []
  for seed in range(seeds):
    results, truth = study(seed, kind, num, **more)
    best, found = results.ranked[0], expected.of_best(results)
    true = truth[best.index]
    low, high = found.interval
    rows.append(
      [results.value(best) - true, found.value - true, low <= true <= high]
    )
  return np.array(rows)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--studies", type=int, default=100)
  num_studies = parser.parse_args().studies
  heads = "truth", "objective", "trials", "bias of the best", "of the estimate"
  print(f"| {' | '.join(heads)} | coverage, % |")
  print("|---|---|---|---|---|---|")
  for kind in KINDS:
    for metric, are_saved in (
      ("valid/error_rate", False),
      ("valid/loss", False),
      ("valid/loss", True),
    ):
      of = metric + ", examples saved" * are_saved
      for num in (16, 64):
        more = dict(metric=metric, are_saved=are_saved)
        found = errors(kind, num, num_studies, **more)
        best, left, covered = found.mean(axis=0)
        print(
          f"| {kind} | {of} | {num} | {best:.4f} | {left:.4f} |"
          f" {100 * covered:.0f} |",
          flush=True,
        )


if __name__ == "__main__":
  main()
