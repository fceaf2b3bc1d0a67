"""Infeasible trials and unstable training: how many, and where they lie."""

import itertools
import math
from typing import Any

import numpy as np

from jaxplay import finding
from jaxplay.analysis import curves
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.analysis.checklist import boundary, shared


def infeasible_share(results: results_lib.Results) -> finding.Finding:
  """Check what share of the trials is infeasible, and where they lie.

  Infeasible are trials that diverged, and those that end no better than chance
  (Playbook: "diverge, get really bad loss values"). The rule: `warn` above a
  third of the trials that ended, `fail` above 90%. The region is the threshold
  of one hyperparameter, or the value of a choice, that misclassifies the fewest
  trials; a product or ratio of two that misclassifies at most half of these,
  and 3 fewer, is proposed as a new parameter. Needs 5 trials.
  """
  ended = results.ended
  bad = results.infeasible | (ended & _at_chance(results))
  count, num = int(bad.sum()), int(ended.sum())
  if num < 5:
    return shared.too_few("infeasible_share", num, results.objective, 5)
  evidence: dict[str, Any] = dict(
    share=count / num,
    count=count,
    diverged=int(results.infeasible.sum()),
    num_trials=num,
  )
  advice = ""
  if count:
    region, pair = _region(results, ended, bad)
    evidence["region"] = region
    advice = f"{count} of {num} trials are infeasible."
    if region:
      advice += (
        f" {region['infeasible_inside']} of the {region['trials_inside']}"
        f" trials with {region['rule']} are: exclude that region."
      )
    if pair:
      evidence["reparameterization"] = pair
      advice += (
        f" {pair['rule']} separates them better: sample that expression instead"
        " of one of its factors."
      )
  verdict: finding.Verdict = "ok"
  if count > 0.9 * num:
    verdict = "fail"
    advice += " Such a share may also indicate a bug in the training code."
  elif count > num / 3:
    verdict = "warn"
  return finding.Finding(
    "infeasible_share",
    verdict,
    results.objective,
    evidence,
    advice if verdict != "ok" else "",
    shared.INSIGHT,
  )


def _at_chance(results):
  if not results.metric.is_share:
    return np.zeros(len(results.trials), bool)
  limits = np.array(
    [
      t.chance - 2 * curves.resolution(t.chance, t.num_valid)
      if t.chance and t.num_valid
      else np.nan
      for t in results.trials
    ]
  )
  return results.costs >= limits  # False where either is NaN.


def _region(results, ended, bad):
  """Find the rule on one, and on two, that best separates bad trials from good.

  Returns:
    (rule on one hyperparameter, rule on a product or ratio of two); None if it
    does not help.
  """
  single: list[dict[str, Any]] = []
  axes = []
  for parameter in results.space.parameters:
    column = results.column(parameter.label)
    units = trials_lib.units(parameter, column)
    here = ended & ~np.isnan(units)
    if trials_lib.is_ordered(parameter):
      numbers = np.array([np.nan if v is None else v for v in column], float)
      single += _thresholds(parameter.label, numbers, here, bad)
      axis = _axis(parameter, numbers)
      if axis is not None:
        axes.append((here, *axis))
    else:
      for value in parameter.values if parameter.kind == "choice" else ():
        inside = ended & np.array([v == value for v in column])
        single.append(_rule(parameter.label, "=", value, inside, bad))
  nothing = int(bad.sum())
  best = min(single, key=lambda rule: rule["wrong"], default=None)
  if best is None or best["wrong"] > 0.75 * nothing:
    best = None
  pairs: list[dict[str, Any]] = []
  for one, other in itertools.combinations(axes, 2):
    (here_a, x, one_a), (here_b, y, one_b) = one, other
    for sign in (1, -1):
      name = _product(one_a, (one_b[0], sign * one_b[1]))
      numbers = np.exp(x + sign * y)
      pairs += _thresholds(name, numbers, here_a & here_b, bad)
  pair = min(pairs, key=lambda rule: rule["wrong"], default=None)
  wrong = best["wrong"] if best else nothing
  if pair and (pair["wrong"] > wrong / 2 or pair["wrong"] > wrong - 3):
    pair = None
  return best, pair


def _axis(parameter, numbers):
  """(logarithm of a positive number, (its name, 1 or -1)), or None.

  -1 stands for a factor that is divided by, such as 1 - momentum.
  """
  if parameter.scale == "log":
    return np.log(numbers), (parameter.label, 1)
  below_one = parameter.kind == "float" and 0 <= parameter.low
  if below_one and parameter.high < 1 and parameter.high > 0.5:
    return -np.log1p(-numbers), (f"(1 - {parameter.label})", -1)
  return None


def _product(*factors):
  """Names multiplied (with 1) and divided by (with -1)."""
  above = [name for name, sign in factors if sign > 0]
  below = [name for name, sign in factors if sign < 0]
  return " / ".join([" * ".join(above) or "1", *below])


def _thresholds(name, numbers, here, bad):
  """The best rules `name > t` and `name < t`: none, or both."""
  indices = np.flatnonzero(here)
  indices = indices[np.argsort(numbers[indices])]
  x, is_bad = numbers[indices], bad[indices]
  cuts = np.flatnonzero(x[1:] > x[:-1]) + 1  # a rule cuts between i - 1 and i
  if not len(cuts):
    return []
  below = np.concatenate([[0], np.cumsum(is_bad)])[cuts]
  wrong_above = below + (len(x) - cuts) - (is_bad.sum() - below)
  wrong_below = (cuts - below) + (is_bad.sum() - below)
  rules = []
  for wrong, sign in ((wrong_above, ">"), (wrong_below, "<")):
    cut = cuts[np.argmin(wrong)]
    positive = x[cut - 1] > 0
    middle = (
      math.sqrt(x[cut - 1] * x[cut]) if positive else (x[cut - 1] + x[cut]) / 2
    )
    inside = np.zeros(len(here), bool)
    inside[indices[cut:] if sign == ">" else indices[:cut]] = True
    rules.append(_rule(name, sign, middle, inside, bad))
  return rules


def _rule(name, sign, value, inside, bad):
  """A rule and its errors. Trials without the hyperparameter are outside."""
  number = f"{value:.3g}" if sign != "=" else value
  return dict(
    rule=f"{name} {sign} {number}",
    hyperparameter=name,
    sign=sign,
    value=shared.plain(value),
    trials_inside=int(inside.sum()),
    infeasible_inside=int((inside & bad).sum()),
    infeasible_outside=int((bad & ~inside).sum()),
    wrong=int((inside & ~bad).sum() + (bad & ~inside).sum()),
  )


def optimization_instability(
  results: results_lib.Results, runs: shared.Runs
) -> finding.Finding:
  """Check whether instability keeps the study from better hyperparameters.

  "Instability is only an issue when it forces us to use a learning rate that's
  too small." The rule: `warn` if the objective improves, as in
  `search_space_boundary`, up to the edge of the feasible values of some
  hyperparameter (Figure 7a); or if more than half of the best fifth of the
  trials, at least 3 of 5, show early or mid-training instability. Else
  `unknown` if half of these cannot be judged, and `ok`. Needs 10 trials with a
  value.

  Args:
    results: The study.
    runs: Findings of its runs, as from `check_runs`.
  """
  if len(results.ranked) < shared.FEWEST:
    return shared.too_few(
      "optimization_instability", len(results.ranked), results.objective
    )
  at_edge = [
    (label, edge)
    for label, found in boundary.edges(results).items()
    for edge in found
    if edge.beyond and edge.infeasible_beyond
  ]
  top = results.ranked[: max(5, len(results.ranked) // 5)]
  unstable = [
    t.index
    for t in top
    if any(
      runs[t.index][check].verdict in ("warn", "fail")
      for check in ("early_instability", "mid_training_instability")
    )
  ]
  advice = ""
  if at_edge:
    label, edge = at_edge[0]
    group = f" with {edge.group}" if edge.group else ""
    advice = (
      f"The objective{group} improves up to the {edge.side} end of the feasible"
      f" values of {label} ({edge.count} trials); beyond it training diverges."
      " Plot the training loss at 5 to 10 times the"
      " best learning rate; warmup, gradient clipping or another optimizer may"
      " make better values feasible."
    )
  elif len(unstable) > len(top) / 2:
    advice = (
      f"{len(unstable)} of the {len(top)} best trials show instability in their"
      " training curves. Try warmup against early instability, gradient"
      " clipping against both kinds."
    )
  verdict: finding.Verdict = "warn" if advice else "ok"
  unjudged = {}
  for t in top:
    for check in ("mid_training_instability", "early_instability"):
      found = runs[t.index][check]
      if found.verdict == "unknown" and t.index not in unstable:
        unjudged[t.index] = found.advice
  if not advice and len(unstable) + len(unjudged) > len(top) / 2:
    verdict = "unknown"
    advice = (
      f"{len(unjudged)} of the {len(top)} best trials logged too little to show"
      f" whether they are unstable. {next(iter(unjudged.values()))}"
    )
  return finding.Finding(
    "optimization_instability",
    verdict,
    at_edge[0][0] if at_edge else results.objective,
    dict(
      at_edge_of_feasible=[
        dict(hyperparameter=label, group=e.group, side=e.side)
        for label, e in at_edge
      ],
      num_best=len(top),
      unstable_best=unstable,
      not_judged=list(unjudged),
    ),
    advice,
    "Playbook, how can optimization failures be debugged and mitigated",
  )
