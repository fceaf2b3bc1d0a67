"""Is training too long or too short?"""

import dataclasses

import numpy as np

from jaxplay import finding, formats
from jaxplay.analysis import curves
from jaxplay.analysis import longer as longer_lib
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.analysis.checklist import shared

# Evaluations of a run that show where its best step lies.
FEWEST_EVALUATIONS = 10

_LENGTH = (
  "Playbook, deciding how long to train when training is not compute-bound"
)
# By whether the learning rate decays.
_CAVEAT = {
  True: "",
  None: " (whether it decays is unknown: it was not logged, and is not in the"
  " config)",
}


def max_train_steps(results: results_lib.Results) -> finding.Finding:
  """Check where in training the trials reach their best step.

  The rule, over the better half of the trials: `warn` if 90% come within
  2% (or two validation examples) of their best in the first tenth of the steps
  (too long), or 85% not before the last quarter (train longer and re-tune the
  decay). A learning rate that ends below a fifth of its peak makes the best
  step late whatever the length: then the second is decided by what twice the
  steps are expected to gain, see `longer`, and without that is `unknown`, as
  where the learning rate was not logged and is not in the config. Needs 5
  trials in that half, with 10 evaluations each: the best step is known as
  exactly as steps are evaluated. Runs that another program stopped before
  their planned steps do not count: what they would have reached is not known.
  """
  number = len(results.ranked)
  results = dataclasses.replace(
    results,
    trials=[t for t in results.trials if _is_whole(t, results.objective)],
  )
  if len(results.ranked) < min(number, 5):
    return finding.Finding(
      "max_train_steps",
      "unknown",
      "max_train_steps",
      dict(has=len(results.ranked), needs=5),
      f"{number - len(results.ranked)} of {number} trials stopped before 90% of"
      " their planned steps, so where their best step would be is not known."
      " Needs 5 that did not.",
      _LENGTH,
    )
  shares = trials_lib.best_steps(results, tolerance=0.02)
  half = shares[: max((len(shares) + 1) // 2, 5)]
  if len(half) < 5:
    return shared.too_few("max_train_steps", len(half), "max_train_steps", 5)
  evaluations = [
    int(np.isfinite(trial.costs(results.objective)[1]).sum())
    for trial in results.ranked[: len(half)]
  ]
  if (has := int(np.median(evaluations))) < FEWEST_EVALUATIONS:
    return finding.Finding(
      "max_train_steps",
      "unknown",
      "max_train_steps",
      dict(
        evaluations=has,
        needs=FEWEST_EVALUATIONS,
        max_train_steps=results.ranked[0].max_train_steps,
      ),
      f"The better trials have {formats.count(has, 'evaluation')} each, of at"
      f" least {FEWEST_EVALUATIONS} that show where the best step lies."
      " Evaluate more often (config.eval_every).",
      _LENGTH,
    )
  early, late = float((half <= 0.1).mean()), float((half > 0.75).mean())
  decays = _decays(results)
  steps = results.ranked[0].max_train_steps
  verdict: finding.Verdict = "ok"
  advice = ""
  evidence = {}
  if early >= 0.9:
    verdict = "warn"
    advice = (
      f"{early:.0%} of the better trials reach their best step in the first"
      f" tenth of {steps:,} steps. Train for far fewer steps, and check for"
      " overfitting."
    )
  elif late >= 0.85 and decays is not False:
    verdict, evidence, estimated = _by_twice(results)
    advice = (
      f"{late:.0%} of the better trials reach their best step in the last"
      f" quarter of {steps:,} steps, which a decaying learning rate causes at"
      f" any length{_CAVEAT[decays]}. {estimated}"
    )
  elif late >= 0.85:
    verdict = "warn"
    advice = (
      f"{late:.0%} of the better trials reach their best step in the last"
      f" quarter of {steps:,} steps. Train longer, and re-tune the decay"
      " schedule."
    )
  return finding.Finding(
    "max_train_steps",
    verdict,
    "max_train_steps",
    dict(
      share_best_in_first_tenth=early,
      share_best_in_last_quarter=late,
      num_trials=len(half),
      median_best_step=float(np.median(half)) * steps,
      max_train_steps=steps,
      rate_decays=decays,
      late_because_rate_decays=bool(decays and late >= 0.85),
    )
    | evidence,
    "" if verdict == "ok" else advice,
    _LENGTH,
  )


def _is_whole(trial, objective):
  """Whether a run was evaluated up to the end of its planned steps."""
  steps, _ = trial.costs(objective)
  return bool(len(steps)) and steps[-1] >= 0.9 * trial.max_train_steps


def compute_bound(results: results_lib.Results) -> finding.Finding:
  """Check whether more steps would give a better result.

  The rule, for the 3 best trials of each group: one is compute-bound if the
  last fifth of the steps still improves the objective and the training loss,
  each by 4% and 4 standard errors of its noise, and the training set is not
  fitted: training error above 0.5% in the last tenth or, where that is not
  logged, training loss above 2% of the first. `warn` if most are. If the
  learning rate ends below a fifth of its peak, it lowers the end of every curve
  and flattens the last steps: then what twice the steps are expected to gain
  decides, see `longer`. Without that, or if the schedule is not known, it is
  `unknown`; but `ok` if most have fitted the training set, or not even the
  decay improved them by 4% since the middle of the steps. Needs 10 evaluations.
  Source: Playbook, determining the number of steps for each training run.
  """
  rank = {trial.index: i for i, trial in enumerate(results.ranked)}
  decays = _decays(results)
  # The last steps of a decay are flat, because the rate is low.
  fifths = 1 if decays is False else 2
  votes = []
  for indices in trials_lib.groups(results, slices=False).values():
    trials = (results.trials[i] for i in indices)
    valued = [t for t in trials if t.index in rank]
    best = sorted(valued, key=lambda t: rank[t.index])[:3]
    votes += [_is_compute_bound(t, results.objective, fifths) for t in best]
  judged = [vote for vote in votes if vote is not None]
  source = "Playbook, determining the number of steps for each training run"
  if not judged:
    return finding.Finding(
      "compute_bound",
      "unknown",
      results.objective,
      dict(judged=0),
      "Needs 10 evaluations in one of the best trials; lower eval_every.",
      source,
    )
  bound = sum(judged)
  verdict: finding.Verdict = "ok"
  advice = ""
  evidence = {}
  if decays is not False:
    verdict, evidence, estimated = _by_twice(results)
    if not evidence and bound <= len(judged) / 2:
      verdict = "ok"
    advice = estimated
    if bound > len(judged) / 2:
      advice = (
        f"{bound} of the {len(judged)} best trials improve after the middle of"
        " the steps, which a decaying learning rate causes at any"
        f" length{_CAVEAT[decays]}."
        f" {estimated}"
      )
  elif bound > len(judged) / 2:
    verdict = "warn"
    advice = (
      f"{bound} of the {len(judged)} best trials still improve when they end,"
      " and do not fit the training set: more steps would help. Tune in"
      " rounds of growing length (Playbook, deciding how long to train when"
      " training is compute-bound)."
    )
  return finding.Finding(
    "compute_bound",
    verdict,
    results.objective,
    dict(compute_bound=bound, judged=len(judged), rate_decays=decays)
    | evidence,
    "" if verdict == "ok" else advice,
    source,
  )


def still_improving(
  found: finding.Finding, results: results_lib.Results
) -> finding.Finding:
  """Decide the `still_improving` of the best trial, if a decay prevented that.

  By what twice the steps are expected to gain, see `longer`.

  Args:
    found: The finding of the trial alone.
    results: The study, for its other schedules.
  """
  share = found.evidence.get("final_learning_rate_share")
  if found.verdict != "unknown" or share is None:
    return found
  verdict, evidence, estimated = _by_twice(results)
  if not evidence:
    return found
  return dataclasses.replace(
    found,
    verdict=verdict,
    evidence=found.evidence | evidence,
    advice="" if verdict == "ok" else f"{found.advice} {estimated}",
  )


def _by_twice(results):
  """(verdict, evidence, advice) by the expected gain of twice the steps.

  The evidence is empty if there is no estimate.
  """
  twice = longer_lib.longer(results)
  if isinstance(twice, str):
    return (
      "unknown",
      {},
      "To find out, train the best trial twice as long. (Whether that"
      f" helps cannot be estimated from these trials. {twice})",
    )
  low, high = twice.interval
  evidence = dict(
    gain_of_twice_the_steps=twice.gain,
    interval=[low, high],
    held_out_error=twice.held_out,
    schedules=twice.num_schedules,
    fitted_trials=twice.num_trials,
  )
  gain = (
    f"Twice the steps, with the schedule stretched, are expected to lower the"
    f" cost of trial {twice.trial} by {twice.gain:.1%} (95% interval"
    f" {low:.1%} to {high:.1%}; held-out schedules were predicted within"
    f" {twice.held_out:.1%})"
  )
  if twice.helps is None:
    return "unknown", evidence, f"{gain}, which does not decide. Train it."
  if not twice.helps:
    return "ok", evidence, ""
  return "warn", evidence, f"{gain}: train longer, and re-tune the decay."


def _is_compute_bound(trial, objective, fifths):
  """Whether a trial is compute-bound; None: its curves are too short."""
  for metric in (objective, "train/loss"):
    _, values = trial.costs(metric)
    values = values[np.isfinite(values)]
    if len(values) < 10:
      return None
    gain, error = curves.last_gain(values, fifths)
    level = abs(float(values[-(len(values) // 5) :].mean()))
    if gain <= max(0.04 * level, 4 * error):
      return False
  _, errors = trial.curves.get("train/error_rate", (None, np.zeros(0)))
  if len(errors):
    return bool(errors[-max(1, len(errors) // 10) :].mean() > 0.005)
  return bool(values[-max(1, len(values) // 10) :].mean() > 0.02 * values[0])


def _decays(results):
  """Whether most of the best end below a fifth of their peak learning rate.

  None: it is not known of most.
  """
  empty = (None, np.zeros(0))
  shares = [
    curves.final_rate(
      trial.curves.get("learning_rate", empty)[1], results.config_of(trial)
    )
    for trial in results.ranked[:5]
  ]
  known = [share for share in shares if share is not None]
  if len(known) <= len(shares) / 2:
    return None
  return sum(share < 0.2 for share in known) > len(known) / 2
