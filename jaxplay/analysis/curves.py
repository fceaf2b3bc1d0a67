"""Checks of a single run, from its run directory alone."""

import math

from jaxplay import finding, rundir


def check_run(run: rundir.RunDir) -> list[finding.Finding]:
  """All checks of one run."""
  status = run.status()
  errors = [
    line["valid/error_rate"]
    for line in run.metrics()
    if line.get("valid/error_rate") is not None
  ]
  chance = status.get("chance") or {}
  return [
    better_than_chance(
      min(errors, default=None),
      chance.get("majority_error_rate"),
      chance.get("num_valid", 0),
    )
  ]


def better_than_chance(
  error_rate: float | None, chance: float | None, num_examples: int
) -> finding.Finding:
  """Is the result "reasonable": clearly better than chance on validation?

  Chance is the error rate of always answering the most frequent class. The
  rule: `fail` where the best error rate is not below chance by 5 standard
  errors of a share of `num_examples`; `warn` where it is, but by less than a
  tenth of chance; else `ok`. Source: Playbook, choosing the initial
  configuration.

  Args:
    error_rate: Best validation error rate, in [0, 1]; None: never evaluated.
    chance: Error rate of the most frequent class, in [0, 1].
    num_examples: Validation examples.
  """
  found = dict(
    check="better_than_chance",
    subject="valid/error_rate",
    source="Playbook, choosing the initial configuration",
  )
  if error_rate is None or chance is None or not num_examples:
    return finding.Finding(
      verdict="unknown",
      evidence={},
      advice="The run was never evaluated; it needs one finite evaluation.",
      **found,
    )
  error = math.sqrt(chance * (1 - chance) / num_examples)
  evidence = dict(
    best_error_rate=error_rate,
    chance_error_rate=chance,
    standard_error=error,
    num_examples=num_examples,
  )
  below = chance - error_rate
  if below <= 5 * error:
    verdict = "fail"
    advice = (
      "The best validation error is what guessing the most frequent class"
      " gives. Before any tuning, find out why: learning rate far off, labels"
      " or inputs mixed up, or far too few steps."
    )
  elif below < 0.1 * chance:
    verdict = "warn"
    advice = (
      "Better than chance, but barely. Try a learning rate ten times larger or"
      " smaller, or more steps, before designing a study around this config."
    )
  else:
    verdict, advice = "ok", ""
  return finding.Finding(
    verdict=verdict, evidence=evidence, advice=advice, **found
  )
