"""Are there enough trials, and is their order more than noise?"""

import math
from typing import Any

import numpy as np

from jaxplay import finding
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.analysis.checklist import shared


def enough_trials(results: results_lib.Results) -> finding.Finding:
  """Check whether half the budget would have found as good a trial.

  The rule, in each group: by the bootstrap of the budget (`best_of`), an
  unlucky (75%) study of half the trials ends no further above the best value
  than two trainings of one point differ at 95% (`noise`); in other words, about
  3 trials lie in the good region. Else `warn`. Needs 16 trials in each group.
  Source: Playbook, not sampling enough points in the search space; how many
  trials are needed to get good results.
  """
  between = trials_lib.noise(results)
  tolerance = between.tolerance
  groups: list[dict[str, Any]] = []
  for name, indices in trials_lib.groups(results, slices=False).items():
    values = np.where(results.infeasible, np.inf, results.costs)[indices]
    values = values[results.ended[indices]]
    has = len(values) if np.isfinite(values).any() else 0
    if has < shared.FEWEST_IN_GROUP:
      subject = name or results.objective
      return shared.too_few(
        "enough_trials", has, subject, shared.FEWEST_IN_GROUP
      )
    best = float(values.min())
    unlucky = trials_lib.best_of(values, [len(values) // 2])[0]["q75"]
    groups.append(
      dict(
        cell=name,
        num_trials=len(values),
        num_good=int((values <= best + tolerance).sum()),
        loss_of_half=unlucky - best if math.isfinite(unlucky) else None,
      )
    )
  if not groups:
    return shared.too_few(
      "enough_trials", 0, results.objective, shared.FEWEST_IN_GROUP
    )
  # A loss of None: an unlucky half has no feasible trial at all.
  few = [
    group
    for group in groups
    if group["loss_of_half"] is None or group["loss_of_half"] > tolerance
  ]
  advice = ""
  if few:
    worst = min(few, key=lambda group: group["num_good"])
    where = f" with {worst['cell']}" if worst["cell"] else ""
    advice = (
      f"Only {worst['num_good']} of {worst['num_trials']} trials{where} are"
      f" within {tolerance:.2g} of the best, so the best one is partly luck."
      " Run twice as many (`jaxplay study extend`), or vary fewer"
      " hyperparameters in narrower ranges."
    )
  return finding.Finding(
    "enough_trials",
    "warn" if few else "ok",
    results.objective,
    dict(
      noise=between.deviation,
      noise_from=between.source,
      tolerance=tolerance,
      cells=groups,
    ),
    advice,
    shared.SAMPLING,
  )


def _rerun(results):
  best = results.ranked[0].index if results.ranked else None
  return results_lib.rerun_command(results, results.path, best)


def retrain_variance(results: results_lib.Results) -> finding.Finding:
  """Compare the variance between seeds with that between trials.

  The rule: the standard deviation over reruns of a trial, without the trial
  itself, which was selected for being the best. `warn` if more than three
  quarters of the trials with a value lie no further above the mean rerun than
  two trainings of one point differ at 95% (`noise`): there is no significant
  difference between them. Without adaptive trials, which are similar by design.
  Needs 3 reruns of a trial.
  """
  reruns = {
    index: results.values_of(again) for index, again in results.reruns.items()
  }
  num = max(map(len, reruns.values()), default=0)
  if num < 3:
    return finding.Finding(
      "retrain_variance",
      "unknown",
      results.objective,
      dict(has=num, needs=3),
      f"Needs 3 reruns of a trial, has {num}: `{_rerun(results)} --seeds=5`.",
      shared.ADOPTION,
    )
  index = max(reruns, key=lambda i: len(reruns[i]))
  mean = float(reruns[index].mean())
  between = trials_lib.noise(results)
  finite = results.space_filling.costs
  finite = finite[np.isfinite(finite)]
  same = int((finite <= results.metric.cost(mean) + between.tolerance).sum())
  blurred = same > 0.75 * len(finite) and len(finite) > 2
  return finding.Finding(
    "retrain_variance",
    "warn" if blurred else "ok",
    f"trial {index}",
    dict(
      standard_deviation=between.deviation,
      tolerance=between.tolerance,
      mean=mean,
      num_reruns=num,
      in_the_study=next(
        (results.value(t) for t in results.trials if t.index == index), None
      ),
      trials_within_tolerance=same,
      num_trials=len(finite),
    ),
    f"{same} of {len(finite)} trials are within {between.tolerance:.2g} of the"
    " best one's reruns: no significant difference. Do not interpret their"
    " order; reduce the noise (more validation data, more steps), or vary"
    " hyperparameters that matter more."
    if blurred
    else "",
    shared.ADOPTION,
  )
