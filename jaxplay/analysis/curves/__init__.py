"""Checks of a single run, from its logged curves alone.

Each check takes arrays and returns one Finding.

    validation.py  objective and validation metrics
    training.py    training loss, gradients, clipping, input pipeline
    measures.py    noise, level and resolution of a curve
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxplay import config as config_lib
from jaxplay import finding, rundir
from jaxplay.analysis import classes, results, sampled
from jaxplay.analysis.curves import findings
from jaxplay.analysis.curves.measures import (
  clipped_share,
  final_rate,
  last_gain,
  loss_jumps,
  resolution,
  rises_by_half,
)
from jaxplay.analysis.curves.training import (
  aggressive_clipping,
  early_instability,
  input_bound,
  mid_training_instability,
  training_loss_rises,
)
from jaxplay.analysis.curves.validation import (
  better_than_chance,
  better_than_mean,
  late_variance,
  overfitting,
  periodic_validation,
  saturated_early,
  still_improving,
)

__all__ = [
  "CHECKS",
  "aggressive_clipping",
  "better_than_chance",
  "better_than_constant",
  "better_than_mean",
  "check_run",
  "check_trial",
  "check_whole",
  "clipped_share",
  "early_instability",
  "final_rate",
  "input_bound",
  "last_gain",
  "late_variance",
  "loss_jumps",
  "mid_training_instability",
  "overfitting",
  "periodic_validation",
  "resolution",
  "rises_by_half",
  "saturated_early",
  "still_improving",
  "training_loss_rises",
]

# The checks by name, in the order in which `check_trial` returns them.
CHECKS = (
  "better_than_chance",
  "overfitting",
  "late_variance",
  "still_improving",
  "saturated_early",
  "training_loss_rises",
  "periodic_validation",
  "early_instability",
  "mid_training_instability",
  "aggressive_clipping",
  "input_bound",
)


# What a run cannot be checked for that was trained on its validation data.
_OF_VALIDATION = (
  "better_than_chance",
  "overfitting",
  "late_variance",
  "still_improving",
  "saturated_early",
  "periodic_validation",
)


def check_run(run: rundir.RunDir) -> finding.Findings:
  """Run all checks of a run directory, on the objective of its config.

  Those of its curves; `classes.rare_classes` if its task has classes; and
  `sampled.sampled_evaluation` if it evaluates a sample.

  Raises:
    jaxplay.UserError: This is not a run directory.
  """
  trial, config = results.read_run(run.path), run.config() or {}
  return check_whole(trial, run.objective(), results.flat(config))


def check_whole(
  trial: results.Trial,
  objective: str,
  config: Mapping[str, Any] | None = None,
) -> finding.Findings:
  """As `check_run`, of a run that was read, on any objective."""
  return finding.Findings(
    [
      *check_trial(trial, objective, config),
      *classes.check_trial(trial, objective),
      *sampled.check_trial(trial, objective),
    ]
  )


def better_than_constant(trial: results.Trial) -> finding.Finding:
  """Check that a run is better than always predicting the same.

  A regression by its mean squared error, other tasks by their error rate.
  """

  def best(metric):
    value, _ = trial.best(metric)
    return value if math.isfinite(value) else None

  if trial.mean_mse is not None:
    loss = best("valid/loss")
    return better_than_mean(loss, trial.mean_mse, trial.num_valid)
  error_rate = best("valid/error_rate")
  return better_than_chance(error_rate, trial.chance, trial.num_valid)


def check_trial(
  trial: results.Trial,
  objective: str,
  config: Mapping[str, Any] | None = None,
) -> finding.Findings:
  """Run all checks of the curves of a run, in the order of `CHECKS`.

  Args:
    trial: The run.
    objective: The logged metric to check.
    config: Its dotted keys and values, for a schedule whose learning rates are
      not logged; None: unknown.
  """
  if trial.folded and not objective.startswith("train"):
    others = check_trial(dataclasses.replace(trial, folded=False), objective)
    return finding.Findings(
      findings.folded(found.check, objective)
      if found.check in _OF_VALIDATION
      else found
      for found in others
    )

  def curve(name: str) -> tuple[np.ndarray, np.ndarray]:
    return trial.curves.get(name, (np.zeros(0, np.int64), np.zeros(0)))

  steps, values = curve(objective)
  loss_steps, loss = curve("train/loss")
  # The largest since the line before; other programs log that of one step.
  largest = "train/grad_norm_max"
  logged = largest if largest in trial.curves else "train/grad_norm"
  norms = _at(loss_steps, *curve(logged))
  rate = final_rate(curve("learning_rate")[1], config)
  metric = config_lib.metric.of(objective, trial.declared)
  num_examples = trial.num_valid if metric.is_share else 0
  # The loss is not quantized, so it shows a period that an error rate hides.
  smooth = objective.partition("/")[0] + "/loss"
  if smooth not in trial.curves:
    smooth = objective
  # By the loss, or by a gradient that no loss shows.
  diverged_at = trial.step if trial.status == "infeasible" else None
  losses = (loss_steps, loss, norms, trial.max_train_steps, diverged_at)
  checks = [better_than_constant(trial)]
  if diverged_at is None:
    checks += [
      overfitting(steps, values, num_examples, metric),
      late_variance(steps, values, num_examples, rate, metric),
    ]
  else:
    names = ("overfitting", "late_variance")
    checks += [findings.after_divergence(name) for name in names]
  if trial.status == "completed":
    checks += [
      still_improving(steps, values, num_examples, rate, metric),
      saturated_early(steps, values, loss, metric),
    ]
  else:
    names = ("still_improving", "saturated_early")
    checks += [findings.unfinished(name) for name in names]
  if diverged_at is None:
    checks.append(training_loss_rises(loss_steps, loss))
  else:
    rises = findings.after_divergence("training_loss_rises", "train/loss")
    checks.append(rises)
  return finding.Findings(
    [
      *checks,
      periodic_validation(*trial.costs(smooth)),
      early_instability(*losses),
      mid_training_instability(*losses),
      aggressive_clipping(*curve("train/clipped"), curve("train/grad_norm")[1]),
      input_bound(curve("data_wait")[1], curve("examples_per_second")[1]),
    ]
  )


def _at(steps, logged, values):
  """The values of a curve at some steps; NaN where it was not logged."""
  found = np.full(len(steps), np.nan)
  at = dict(zip(logged.tolist(), values.tolist(), strict=True))
  found[:] = [at.get(step, math.nan) for step in steps.tolist()]
  return found
