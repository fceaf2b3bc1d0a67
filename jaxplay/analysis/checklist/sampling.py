"""Are there enough trials, and is their order more than noise?"""

import math
from typing import Any

import numpy as np
from scipy import stats

from jaxplay import finding
from jaxplay.analysis import curves, expected, surface
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.analysis.checklist import shared


def enough_trials(results: results_lib.Results) -> finding.Finding:
  """Check whether half the budget would have found as good a trial.

  The rule, in each group: by the bootstrap of the budget (`best_of`), an
  unlucky (75%) study of half the trials ends no further above the best trial
  than two trainings of one point differ at 95% (`noise`) and its own value is
  uncertain; in other words, about 3 trials lie in the good region. Else `warn`.
  Each trial counts by what fresh data and seeds would give (`expected.fit`), so
  a lucky one is no reason to search on, and by its evaluations alone, as a few
  trials do not show how luck is to be taken out; where the two disagree, it is
  `unknown`, or with reruns `ok` if it was luck. Needs 16 trials in each
  group, and a measured noise: reruns, or an objective that is a share of a
  known number of examples.
  Source: Playbook, not sampling enough points in the search space; how many
  trials are needed to get good results.
  """
  between = trials_lib.noise(results)
  tolerance = between.tolerance
  fitted = expected.fit(results)
  costs = np.where(results.infeasible, np.inf, results.costs)
  lucky, errors = costs.copy(), np.zeros(len(costs))
  if fitted:
    errors[fitted.indices] = fitted.errors
    costs[fitted.indices] = fitted.costs
    lucky[fitted.indices] = fitted.levels
  groups: list[dict[str, Any]] = []
  for name, indices in trials_lib.groups(results, slices=False).items():
    indices = indices[results.ended[indices]]
    values = costs[indices]
    has = len(values) if np.isfinite(values).any() else 0
    if has < shared.FEWEST_IN_GROUP:
      subject = name or results.objective
      return shared.too_few(
        "enough_trials", has, subject, shared.FEWEST_IN_GROUP
      )
    best = float(values.min())
    loss, of_lucky = _loss_of_half(values), _loss_of_half(lucky[indices])
    groups.append(
      dict(
        group=name,
        num_trials=len(values),
        num_good=int((values <= best + tolerance).sum()),
        # Nor is the value of the best exactly known.
        margin=math.hypot(tolerance, 1.96 * errors[indices[values.argmin()]]),
        loss_of_half=loss,
        loss_if_not_lucky=of_lucky,
      )
    )
  if not groups:
    return shared.too_few(
      "enough_trials", 0, results.objective, shared.FEWEST_IN_GROUP
    )
  without_luck, as_seen = (
    [g for g in groups if g[name] is None or g[name] > g["margin"]]
    for name in ("loss_of_half", "loss_if_not_lucky")
  )
  few = [group for group in without_luck if group in as_seen]
  unclear = as_seen != without_luck
  # With reruns it is known how lucky a trial can be.
  if not without_luck and math.isfinite(between.freedom):
    unclear = False
  verdict: finding.Verdict = "warn" if few else "ok"
  advice = ""
  if between.is_assumed or fitted is None:
    verdict = "unknown"
    advice = (
      "Which trials are as good as the best is unknown, because the variance"
      f" between seeds is: `{_rerun(results)} --seeds=5`."
    )
  elif unclear and not few:
    verdict = "unknown"
    advice = (
      "The best trial is either lucky or hard to find; reruns of it decide:"
      f" `{_rerun(results)} --seeds=5`."
    )
  elif few:
    worst = min(few, key=lambda group: group["num_good"])
    where = f" with {worst['group']}" if worst["group"] else ""
    advice = (
      f"Only {worst['num_good']} of {worst['num_trials']} trials{where} are"
      f" within {tolerance:.2g} of the best, without luck, so more trials may"
      " find a better one. Run twice as many (`jaxplay study extend`), or vary"
      " fewer hyperparameters in narrower ranges."
    )
  return finding.Finding(
    "enough_trials",
    verdict,
    results.objective,
    dict(
      noise=between.deviation,
      noise_from=between.source,
      tolerance=tolerance,
      groups=groups,
    ),
    advice,
    shared.SAMPLING,
  )


def _loss_of_half(values):
  """By how much the best of half the trials is worse, at 75%, if they are few.

  None: an unlucky half has no feasible trial at all.
  """
  unlucky = trials_lib.best_of(values, [len(values) // 2])[0]["q75"]
  return unlucky - float(values.min()) if math.isfinite(unlucky) else None


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

  Without 3 reruns of a trial, `warn` if at least 10 trials tie: all are equal;
  or they vary no more than the validation set alone makes equal ones vary
  (chi-squared test at 5%), and no hyperparameter explains how (response
  surface, likelihood ratio test at 5%). Else `unknown`.
  """
  reruns = {
    index: results.values_of(again) for index, again in results.reruns.items()
  }
  num = max(map(len, reruns.values()), default=0)
  if num < 3 and (tie := _tie(results.space_filling)):
    return finding.Finding(
      "retrain_variance",
      "warn",
      results.objective,
      tie,
      f"All {tie['num_trials']} trials tie"
      + (
        f": they vary by {tie['standard_deviation']:.2g}, as equal ones would"
        f" on {tie['num_valid']:,} validation examples"
        if tie["standard_deviation"]
        else ""
      )
      + ", so no effect of a hyperparameter is visible. Do not interpret their"
      " order; vary hyperparameters that matter more, in wider ranges, or"
      f" measure more precisely. `{_rerun(results)} --seeds=5` measures the"
      " variance between seeds.",
      shared.ADOPTION,
    )
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


def _tie(results):
  """The evidence that all trials are equally good, or None."""
  indices = np.flatnonzero(np.isfinite(results.costs))
  costs = results.costs[indices]
  if len(costs) < shared.FEWEST:
    return None
  tie = dict(num_trials=len(costs), standard_deviation=float(costs.std(ddof=1)))
  if np.ptp(costs) == 0:
    return tie | {"standard_deviation": 0.0}
  num_valid = min(results.trials[i].num_valid for i in indices.tolist())
  if not results.metric.is_share or not num_valid:
    return None
  error = curves.resolution(float(costs.mean()), num_valid)
  squares = float(((costs - costs.mean()) ** 2).sum()) / error**2
  excess = float(stats.chi2.sf(squares, len(costs) - 1))
  scores = stats.norm.ppf((stats.rankdata(costs) - 0.5) / len(costs))
  effect = surface.smooth(results, indices, scores).p_value
  if min(excess, effect) < 0.05:
    return None
  return tie | dict(
    num_valid=num_valid,
    standard_error=error,
    p_value=excess,
    p_value_of_effects=effect,
  )
