"""The checklist of a study: every check, with its rule in numbers.

Playbook, extracting insight from experimental results: "in addition to trying
to achieve the original scientific goal of each group of experiments, go through
a checklist of additional questions". `check_study` is that checklist; units and
groups of trials are those of `trials`.

    boundary.py     is the search space wide enough
    importance.py   what matters, and what can be fixed
    sampling.py     are there enough trials, is their order more than noise
    feasibility.py  infeasible trials, instability
    length.py       is training too long or too short
    scope.py        better than chance, rare classes, fixed hyperparameters,
                    damaged studies
"""

import dataclasses

from jaxplay import finding
from jaxplay.analysis import curves
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.analysis.checklist import shared
from jaxplay.analysis.checklist.boundary import search_space_boundary
from jaxplay.analysis.checklist.feasibility import (
  infeasible_share,
  optimization_instability,
)
from jaxplay.analysis.checklist.importance import importance
from jaxplay.analysis.checklist.length import (
  compute_bound,
  max_train_steps,
  still_improving,
)
from jaxplay.analysis.checklist.sampling import enough_trials, retrain_variance
from jaxplay.analysis.checklist.scope import (
  better_than_chance,
  fixed_caveats,
  rare_classes,
  sampled_evaluation,
  trials_match_study,
)

__all__ = [
  "better_than_chance",
  "check_runs",
  "check_study",
  "compute_bound",
  "enough_trials",
  "fixed_caveats",
  "importance",
  "infeasible_share",
  "max_train_steps",
  "optimization_instability",
  "rare_classes",
  "retrain_variance",
  "sampled_evaluation",
  "search_space_boundary",
  "trials_match_study",
]

# Share of faulty trials above which a check of runs warns; 1/2 if absent.
# "Even if none of the best trials are exhibiting problematic overfitting, there
# might still be a problem if it occurs in any of the trials" (Playbook,
# examining the training curves).
_SHARE_OF_TRIALS = {"overfitting": 0.2}


def check_study(results: results_lib.Results) -> finding.Findings:
  """Run the whole checklist.

  Checks of the space require a fair sample of it: those of its boundaries, of
  the number of trials and of where they diverge leave out adaptive trials, and
  count them in their evidence. Checks of runs use all trials.

  Returns:
    The checks of the study; those of the best trial, and of the best of each
    group, with the trial as subject; and each check of runs counted over all
    trials.
  """
  runs, sample = check_runs(results), results.space_filling
  of_space = [
    *search_space_boundary(sample),
    enough_trials(sample),
    infeasible_share(sample),
    optimization_instability(sample, runs),
    *importance(sample),
  ]
  if results.num_adaptive:
    left_out = {"adaptive_left_out": results.num_adaptive}
    of_space = [
      dataclasses.replace(f, evidence=f.evidence | left_out) for f in of_space
    ]
  return finding.Findings(
    [
      *of_space,
      retrain_variance(results),
      max_train_steps(results),
      compute_bound(results),
      better_than_chance(results),
      fixed_caveats(results),
      trials_match_study(results),
      *rare_classes(results),
      *sampled_evaluation(results),
      *_of_best_trials(results, runs),
      *_of_all_trials(runs),
    ]
  )


def check_runs(results: results_lib.Results) -> shared.Runs:
  """Run the checks of each trial that logged anything."""
  return {
    trial.index: {
      result.check: result
      for result in curves.check_trial(
        trial, results.objective, results.config_of(trial)
      )
      if result.check != "better_than_chance"
    }
    for trial in results.trials
    if trial.curves
  }


def _of_best_trials(results, runs):
  each = trials_lib.best_of_each(results)
  if results.ranked and results.ranked[0] not in each.values():
    each = {"the best, adaptive": results.ranked[0]} | each
  for name, best in each.items():
    subject = f"trial {best.index}" + (f" ({name})" if name else "")
    for result in runs[best.index].values():
      if best is results.ranked[0] and result.check == "still_improving":
        result = still_improving(result, results)
      yield dataclasses.replace(result, subject=subject)


def _of_all_trials(runs):
  for check in curves.CHECKS[1:]:
    by_trial = {index: run[check] for index, run in runs.items()}
    judged = [i for i, f in by_trial.items() if f.verdict != "unknown"]
    faulty = [i for i in judged if by_trial[i].verdict != "ok"]
    limit = _SHARE_OF_TRIALS.get(check, 0.5)
    share = len(faulty) / len(judged) if judged else None
    verdict: finding.Verdict = "ok"
    advice = ""
    if share is None:
      verdict = "unknown"
      advice = "No trial has curves long enough for this check."
    elif len(judged) < len(by_trial) / 2:
      # Which can be judged is no accident: those that diverged, perhaps.
      verdict = "unknown"
      first = min(by_trial.keys() - judged)
      advice = (
        f"Only {len(judged)} of {len(by_trial)} trials can be judged, of which"
        f" {len(faulty)} show this. Trial {first}: {by_trial[first].advice}"
      )
    elif share > limit:
      verdict = "warn"
      advice = (
        f"{len(faulty)} of {len(judged)} trials show this, above the limit of"
        f" {limit:.0%}, so the best one may have been selected for avoiding it."
        f" Trial {faulty[0]}: {by_trial[faulty[0]].advice}"
      )
    yield finding.Finding(
      check=check,
      verdict=verdict,
      subject="all trials",
      evidence=dict(
        count=len(faulty),
        judged=len(judged),
        share=share,
        limit=limit,
        trials=faulty[:20],
      ),
      advice=advice,
      source=next(iter(by_trial.values())).source
      if by_trial
      else shared.INSIGHT,
    )
