"""The checklist of a study: every check, with its rule in numbers.

Playbook, extracting insight from experimental results: "in addition to trying
to achieve the original scientific goal of each group of experiments, go through
a checklist of additional questions". `check_study` is that checklist; units and
cells are those of `trials`.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping

import numpy as np
from scipy import stats

import jaxplay
from jaxplay import config as config_lib
from jaxplay import finding
from jaxplay.analysis import curves
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.study import study as study_lib

_INSIGHT = "Playbook, extracting insight from experimental results"
_BOUNDARIES = "Playbook, identifying bad search space boundaries"
_SAMPLING = "Playbook, not sampling enough points in the search space"
_ROLES = "Playbook, identifying scientific, nuisance, and fixed hyperparameters"
_ADOPTION = (
  "Playbook, determining whether to adopt a training pipeline change or"
  " hyperparameter configuration"
)
_STEPS = (
  "Playbook, deciding how long to train when training is not compute-bound"
)

_FEWEST = 10  # trials with a value, below which a study tells nothing
_FEWEST_IN_CELL = 16  # below which a cell is not judged by itself

# Share of the trials with which a fault of runs is the study's; 1/2 if absent.
# "Even if none of the best trials are exhibiting problematic overfitting, there
# might still be a problem if it occurs in any of the trials" (Playbook,
# examining the training curves).
_SHARE_OF_TRIALS = {"overfitting": 0.2}

Runs = Mapping[int, Mapping[str, finding.Finding]]


def check_study(results: results_lib.Results) -> list[finding.Finding]:
  """The whole checklist.

  What is asked of the space is answered by trials that fill it: the checks of
  its boundaries, of the number of trials and of where they diverge leave out
  adaptive ones, and say in their evidence how many. What is asked of runs is
  answered by all.

  Returns:
    The checks of the study; those of the best trial, and of the best of each
    cell, with the trial as subject; and each check of runs counted over all
    trials.
  """
  runs, sample = check_runs(results), results.space_filling
  of_space = [
    *search_space_boundary(sample),
    enough_trials(sample),
    infeasible_share(sample),
    optimization_instability(sample, runs),
  ]
  if results.num_adaptive:
    left_out = {"adaptive_left_out": results.num_adaptive}
    of_space = [
      dataclasses.replace(found, evidence=found.evidence | left_out)
      for found in of_space
    ]
  return [
    *of_space,
    retrain_variance(results),
    max_train_steps(results),
    compute_bound(results),
    better_than_chance(results),
    fixed_caveats(results),
    trials_match_study(results),
    *_of_best_trials(results, runs),
    *_of_all_trials(runs),
  ]


def trials_match_study(results: results_lib.Results) -> finding.Finding:
  """Are all the results those of the trials that study.json describes?

  The rule: `fail` where a trial's own config.json differs from its point and
  the base config, where a run is left out because its files are damaged, or
  where there are runs of trials that study.json does not have; else `ok`. Keys
  that say how a run is computed, or what is kept of it, do not count.
  """
  evidence = results_lib.doubts(results)
  advice = ""
  if evidence:
    advice = " ".join(
      [
        *results_lib.in_words(evidence),
        "Restore study.json, or the run directories, from a copy.",
      ]
    )
  return finding.Finding(
    "trials_match_study",
    "fail" if evidence else "ok",
    "all trials",
    evidence,
    advice,
    "Playbook, setting up experiment tracking",
  )


def check_runs(results: results_lib.Results) -> Runs:
  """Index of each trial that logged anything -> its findings by check."""
  return {
    trial.index: {
      found.check: found
      for found in curves.check_trial(trial, results.objective)
      if found.check != "better_than_chance"
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
    for found in runs[best.index].values():
      yield dataclasses.replace(found, subject=subject)


def _of_all_trials(runs):
  for check in curves.CHECKS[1:]:
    found = {index: run[check] for index, run in runs.items()}
    judged = [i for i, f in found.items() if f.verdict != "unknown"]
    faulty = [i for i in judged if found[i].verdict != "ok"]
    limit = _SHARE_OF_TRIALS.get(check, 0.5)
    share = len(faulty) / len(judged) if judged else None
    verdict, advice = "ok", ""
    if share is None:
      verdict = "unknown"
      advice = "No trial has curves long enough for this check."
    elif share > limit:
      verdict = "warn"
      advice = (
        f"{len(faulty)} of {len(judged)} trials show this, so the best one may"
        " have been selected for avoiding it; one of them:"
        f" {found[faulty[0]].advice}"
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
      source=next(iter(found.values())).source if found else _INSIGHT,
    )


@dataclasses.dataclass(frozen=True)
class _Edge:
  """Where the best trials of a cell lie in the range of a hyperparameter."""

  cell: str
  side: str  # the nearer one: "low" or "high"
  count: int  # trials with a value
  top: int  # of them the best ones, ties included
  p_value: float  # that chance takes them as far towards `side`
  clustered: bool  # the best lie at `side` beyond chance
  infeasible_beyond: bool
  best: float  # unit of the best trial


def _edges(results, parameter) -> list[_Edge]:
  """Per cell, or over all cells where some are too small.

  The rule is in `search_space_boundary`.
  """
  units = trials_lib.units(parameter, results.column(parameter.label))
  values = np.where(np.isnan(units), np.nan, results.values)
  cells = [
    (name, indices)
    for name, indices in trials_lib.groups(
      results, False, parameter.label
    ).items()
    if np.isfinite(values[indices]).any()
  ]
  counts = [np.isfinite(values[indices]).sum() for _, indices in cells]
  if len(cells) > 1 and min(counts) < _FEWEST_IN_CELL:
    # Ranks within cells, so that no cell is better than another as a whole.
    pooled = np.full(len(values), np.nan)
    for _, indices in cells:
      valued = indices[np.isfinite(values[indices])]
      ranks = stats.rankdata(values[valued]) - 0.5
      pooled[valued] = ranks / len(valued)
    values, cells = pooled, [("", np.arange(len(values)))]
  num_tests = len(cells) * sum(_is_ordered(p) for p in results.space.parameters)
  threshold = 0.02 / max(num_tests, 1)
  return [
    _edge(name, units[i], values[i], results.infeasible[i], threshold)
    for name, i in cells
    if np.isfinite(values[i]).sum() >= _FEWEST
  ]


def _edge(cell, units, values, infeasible, threshold) -> _Edge:
  valued = np.isfinite(values)
  u, v = units[valued], values[valued]
  n = len(v)
  top = v <= np.sort(v)[max(5, n // 8) - 1]
  k = int(top.sum())
  side = "high" if u[top].mean() > u.mean() else "low"
  p_value = 1.0
  if k <= n / 2:
    p_value = stats.mannwhitneyu(
      u[top], u[~top], alternative="greater" if side == "high" else "less"
    ).pvalue
  away = 1 - u if side == "high" else u
  near, next_to = _two_slices(away, max(3, n // 6))
  densest = next_to.any() and top[near].mean() >= top[next_to].mean()
  # As far as the best reach, and beyond.
  reach = u[top].max() if side == "high" else u[top].min()
  beyond = units > reach if side == "high" else units < reach
  diverged = int((beyond & infeasible).sum())
  return _Edge(
    cell=cell,
    side=side,
    count=n,
    top=k,
    p_value=float(p_value),
    clustered=bool(p_value < threshold and densest),
    infeasible_beyond=diverged >= max(2, 0.5 * beyond.sum()),
    best=float(u[np.argmin(v)]),
  )


def _two_slices(away, size):
  """The `size` nearest trials, and the next ones; equals stay together."""
  near = away <= np.sort(away)[size - 1]
  rest = np.sort(away[~near])
  if not len(rest):
    return near, ~near
  return near, ~near & (away <= rest[min(size, len(rest)) - 1])


def search_space_boundary(
  results: results_lib.Results,
) -> list[finding.Finding]:
  """Do the best trials cluster at an edge of a hyperparameter's range?

  One finding for each hyperparameter with an order: numbers, and choices of 3
  or more increasing numbers. In each cell of at least 16 trials with a value
  (else over all trials, ranked within their cells; needs 10), the best eighth,
  at least 5 trials and all that tie with them, lie at an edge where

  1. they lie closer to it than the other trials with a value, by a rank-sum
     test at 2 %, divided by the number of hyperparameters and cells. So one
     without effect passes, whatever the noise;
  2. they are at least as dense in the outermost sixth of the trials with a
     value as in the next sixth: an optimum well inside passes;
  3. they are at most half of the trials, else it does not matter.

  Then `warn`, with the wider range in the evidence; but where half of the
  trials beyond the best ones, at least 2, diverged, the advice is to look at
  stability; and an edge that is the key's own bound is `ok`. Source: Playbook,
  identifying bad search space boundaries.
  """
  found = []
  for parameter in results.space.parameters:
    if not _is_ordered(parameter):
      continue
    edges = _edges(results, parameter)
    column = results.column(parameter.label)
    if not edges:
      valued = np.isfinite(results.values)
      has = sum(v is not None for v in column[valued])
      found.append(_too_few("search_space_boundary", has, parameter.label))
      continue
    found.append(_boundary(results, parameter, edges))
  return found


def _boundary(results, parameter, edges):
  clustered = [e for e in edges if e.clustered]
  worst = max(clustered or edges, key=lambda e: -e.p_value)
  evidence = dict(
    side=worst.side if clustered else None,
    p_value=worst.p_value,
    num_best=worst.top,
    num_trials=worst.count,
    best_value=_json(parameter.from_unit(worst.best)),
    cells=[e.cell for e in clustered if e.cell],
    range=_range(parameter),
  )
  unstable = [e for e in clustered if e.infeasible_beyond]
  verdict, advice = "ok", ""
  if unstable:
    verdict = "warn"
    evidence["infeasible_beyond"] = True
    advice = (
      "The best trials lie at the edge of what is feasible, so a wider range"
      " would only add infeasible trials; see optimization_instability."
    )
  elif clustered:
    proposed = _wider(results, parameter, {e.side for e in clustered})
    evidence["proposed"] = _json(proposed)
    where = f" for {', '.join(evidence['cells'])}" if evidence["cells"] else ""
    if proposed == _range(parameter):
      evidence["edge_is_bound_of_key"] = True
    else:
      verdict = "warn"
      advice = (
        f"The best trials{where} cluster at the {worst.side} edge of"
        f" {parameter.label}. Run another study over"
        f" {_show(parameter, proposed)} instead of"
        f" {_show(parameter, _range(parameter))}."
      )
  return finding.Finding(
    "search_space_boundary",
    verdict,
    parameter.label,
    evidence,
    advice,
    _BOUNDARIES,
  )


def _wider(results, parameter, sides):
  """The range moved outwards on some sides, as far as the config allows.

  By half of its width on a linear scale; on a logarithmic one by the cube root
  of its ratio, at least 3 and at most 10. Choices get one more value.
  """
  wider = list(_range(parameter))
  trial = next(
    t for t in results.ranked if t.point.get(parameter.label) is not None
  )
  point = results.by_key(trial)

  def is_legal(value):
    try:
      study_lib.trial_config(
        results.study["config"], point | {parameter.key: value}
      )
    except jaxplay.UserError:
      return False
    return True

  for side in sorted(sides):
    proposals = _outwards(parameter, side)
    value = next((v for v in proposals if is_legal(v)), None)
    if value is None:
      continue
    if parameter.kind == "choice":
      wider.insert(len(wider) if side == "high" else 0, value)
    else:
      wider[side == "high"] = value
  return wider


def _outwards(parameter, side):
  """Values beyond an edge, the farthest first."""
  sign = 1 if side == "high" else -1
  low, high = parameter.low, parameter.high
  edge = high if sign > 0 else low
  if parameter.kind == "choice":
    edge, inner = parameter.values[::-sign][:2]
    is_ratio = edge > 0 and inner > 0
    values = [edge * edge / inner if is_ratio else 2 * edge - inner]
  elif parameter.scale == "linear":
    values = [edge + sign * (high - low) / 2**i for i in range(1, 6)]
    if low > 0:
      values = [max(value, 0) for value in values]
  elif parameter.scale == "log":
    values = [edge * float(np.clip((high / low) ** (1 / 3), 3, 10)) ** sign]
  else:
    ratio = (1 - low) / (1 - high)
    rest = (1 - edge) * float(np.clip(ratio ** (1 / 3), 3, 10)) ** -sign
    values = [max(round(1 - float(f"{rest:.2g}"), 12), 0.0)]
  if type(edge) is int:
    values = [round(value) for value in values]
  elif parameter.scale != "log_one_minus":
    values = [float(f"{value:.2g}") for value in values]
  # Choices may fall; rounding may reach back to the edge, or within.
  rises = sign if parameter.kind != "choice" else edge - inner
  return [value for value in values if (value - edge) * rises > 0]


def enough_trials(results: results_lib.Results) -> finding.Finding:
  """Would half the budget have found as good a trial?

  The rule, in each cell: by the bootstrap of the budget (`best_of`), an unlucky
  (75 %) study of half the trials ends no further above the best value than two
  trainings of one point differ at 95 % (`noise`); in other words, about 3
  trials lie in the good region. Else `warn`. Needs 16 trials in each cell.
  Source: Playbook, not sampling enough points in the search space; how many
  trials are needed to get good results.
  """
  between = trials_lib.noise(results)
  tolerance = between.tolerance
  ended = results.infeasible | ~np.isnan(results.values)
  cells = []
  for name, indices in trials_lib.groups(results, slices=False).items():
    values = np.where(results.infeasible, np.inf, results.values)[indices]
    values = values[ended[indices]]
    has = len(values) if np.isfinite(values).any() else 0
    if has < _FEWEST_IN_CELL:
      subject = name or results.objective
      return _too_few("enough_trials", has, subject, _FEWEST_IN_CELL)
    best = float(values.min())
    unlucky = trials_lib.best_of(values, [len(values) // 2])[0]["q75"]
    cells.append(
      dict(
        cell=name,
        num_trials=len(values),
        num_good=int((values <= best + tolerance).sum()),
        loss_of_half=unlucky - best if math.isfinite(unlucky) else None,
      )
    )
  if not cells:
    return _too_few("enough_trials", 0, results.objective, _FEWEST_IN_CELL)
  # A loss of None: an unlucky half has no feasible trial at all.
  few = [
    c
    for c in cells
    if c["loss_of_half"] is None or c["loss_of_half"] > tolerance
  ]
  advice = ""
  if few:
    worst = min(few, key=lambda c: c["num_good"])
    where = f" of {worst['cell']}" if worst["cell"] else ""
    advice = (
      f"Only {worst['num_good']} of {worst['num_trials']} trials{where} lie in"
      " the good region, so the best one is a lucky point. Run twice as many"
      " (`jaxplay study extend`), or vary fewer hyperparameters in narrower"
      " ranges."
    )
  return finding.Finding(
    "enough_trials",
    "warn" if few else "ok",
    results.objective,
    dict(
      noise=between.deviation,
      noise_from=between.source,
      tolerance=tolerance,
      cells=cells,
    ),
    advice,
    _SAMPLING,
  )


def infeasible_share(results: results_lib.Results) -> finding.Finding:
  """What share of the trials is infeasible, and where do they lie?

  Infeasible are trials that diverged, and those that end no better than chance
  (Playbook: "diverge, get really bad loss values"). The rule: `warn` above a
  third of the trials that ended, `fail` above 90 %. The region is the threshold
  of one hyperparameter, or the value of a choice, with the fewest trials on the
  wrong side; a product or ratio of two that leaves at most half of these, and 3
  fewer, is proposed as a new parameter. Needs 5 trials.
  """
  ended = results.infeasible | ~np.isnan(results.values)
  bad = results.infeasible | (ended & _at_chance(results))
  count, num = int(bad.sum()), int(ended.sum())
  if num < 5:
    return _too_few("infeasible_share", num, results.objective, needs=5)
  evidence = dict(
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
        f" {region['infeasible_inside']} of them have {region['rule']}, where"
        f" {region['trials_inside']} trials lie: leave that region out."
      )
    if pair:
      evidence["reparameterization"] = pair
      advice += (
        f" {pair['rule']} tells them apart better: sample that product instead"
        " of one of its factors."
      )
  verdict = "ok"
  if count > 0.9 * num:
    verdict = "fail"
    advice += " So many may also mean a bug in the training code."
  elif count > num / 3:
    verdict = "warn"
  return finding.Finding(
    "infeasible_share",
    verdict,
    results.objective,
    evidence,
    advice if verdict != "ok" else "",
    _INSIGHT,
  )


def _at_chance(results):
  if not results.objective.endswith("error_rate"):
    return np.zeros(len(results.trials), bool)
  limits = np.array(
    [
      t.chance - 2 * curves.resolution(t.chance, t.num_valid)
      if t.chance and t.num_valid
      else np.nan
      for t in results.trials
    ]
  )
  return results.values >= limits  # False where either is NaN.


def _region(results, ended, bad):
  """Rules that separate bad trials from good: the best one, and a pair's.

  Either is None where it does not help.
  """
  single, axes = [], []
  for parameter in results.space.parameters:
    column = results.column(parameter.label)
    units = trials_lib.units(parameter, column)
    here = ended & ~np.isnan(units)
    if _is_ordered(parameter):
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
  pairs = []
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

  -1 says that the number is divided by, as by 1 - momentum.
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
  """The best rules `name > t` and `name < t`, as 0 or 2 rows of `_rule`."""
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
  """A rule and its score. Trials without the hyperparameter lie outside."""
  number = f"{value:.3g}" if sign != "=" else value
  return dict(
    rule=f"{name} {sign} {number}",
    hyperparameter=name,
    sign=sign,
    value=_json(value),
    trials_inside=int(inside.sum()),
    infeasible_inside=int((inside & bad).sum()),
    infeasible_outside=int((bad & ~inside).sum()),
    wrong=int((inside & ~bad).sum() + (bad & ~inside).sum()),
  )


def optimization_instability(
  results: results_lib.Results, runs: Runs | None = None
) -> finding.Finding:
  """Does instability keep the study from better hyperparameters?

  "Instability is only an issue when it forces us to use a learning rate that's
  too small." The rule: `warn` where the best trials cluster, as in
  `search_space_boundary`, at the edge of what is feasible in some
  hyperparameter (Figure 7a); or where more than half of the best fifth of the
  trials, at least 3 of 5, show early or mid-training instability. Needs 10
  trials with a value.

  Args:
    results: The study.
    runs: As from `check_runs`, to save doing that twice.
  """
  if len(results.ranked) < _FEWEST:
    return _too_few(
      "optimization_instability", len(results.ranked), results.objective
    )
  at_edge = [
    (parameter, edge)
    for parameter in results.space.parameters
    if _is_ordered(parameter)
    for edge in _edges(results, parameter)
    if edge.clustered and edge.infeasible_beyond
  ]
  runs = check_runs(results) if runs is None else runs
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
    parameter, edge = at_edge[0]
    cell = f" ({edge.cell})" if edge.cell else ""
    advice = (
      f"The best trials lie where training begins to diverge in"
      f" {parameter.label}{cell}. Look at the training loss at 5 to 10 times"
      " the best rate; warmup, gradient clipping or another optimizer may give"
      " access to better values."
    )
  elif len(unstable) > len(top) / 2:
    advice = (
      f"{len(unstable)} of the {len(top)} best trials show instability in their"
      " training curves. Warmup helps against the early kind, gradient clipping"
      " against both."
    )
  return finding.Finding(
    "optimization_instability",
    "warn" if advice else "ok",
    at_edge[0][0].label if at_edge else results.objective,
    dict(
      at_edge_of_feasible=[
        dict(hyperparameter=p.label, cell=e.cell, side=e.side)
        for p, e in at_edge
      ],
      num_best=len(top),
      unstable_best=unstable,
    ),
    advice,
    "Playbook, how can optimization failures be debugged and mitigated",
  )


def _rerun(results):
  best = results.ranked[0].index if results.ranked else None
  return results_lib.rerun_command(results, results.path, best)


def retrain_variance(results: results_lib.Results) -> finding.Finding:
  """How much does the same trial vary between seeds, against the study?

  The rule: the standard deviation over reruns of a trial, without the trial
  itself, which was selected for its luck. `warn` where more than three quarters
  of the trials with a value lie no further above the mean rerun than two
  trainings of one point differ at 95 % (`noise`): the study cannot tell these
  apart. (Adaptive trials, which are to be alike, are not counted.) Needs 3
  reruns of a trial.
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
      f"Unknown without reruns: `{_rerun(results)} --seeds=5`.",
      _ADOPTION,
    )
  index = max(reruns, key=lambda i: len(reruns[i]))
  mean = float(reruns[index].mean())
  between = trials_lib.noise(results)
  finite = results.space_filling.values
  finite = finite[np.isfinite(finite)]
  same = int((finite <= mean + between.tolerance).sum())
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
    f"{same} of {len(finite)} trials are as good as the best one as far as"
    " retraining can tell. Do not read anything into their order; measure"
    " better (more validation data, more steps) or vary what matters more."
    if blurred
    else "",
    _ADOPTION,
  )


def max_train_steps(results: results_lib.Results) -> finding.Finding:
  """Where in training do the trials reach their best step?

  The rule, over the better half of the trials: `warn` where 90 % come within
  2 % (or two validation examples) of their best in the first tenth of the steps
  (too long), or 85 % not before the last quarter (train longer and re-tune the
  decay). A learning rate that ends below a fifth of its peak makes the best
  step late whatever the length: then the second is `unknown`. Needs 5 trials in
  that half.
  """
  shares = trials_lib.best_steps(results, tolerance=0.02)
  half = shares[: max((len(shares) + 1) // 2, 5)]
  if len(half) < 5:
    return _too_few("max_train_steps", len(half), "max_train_steps", needs=5)
  early, late = float((half <= 0.1).mean()), float((half > 0.75).mean())
  decays = _decays(results.ranked)
  steps = results.ranked[0].max_train_steps
  verdict, advice = "ok", ""
  if early >= 0.9:
    verdict = "warn"
    advice = (
      f"The best step is nearly always in the first tenth of {steps:,} steps."
      " Train much shorter, and find out whether overfitting ends the rest."
    )
  elif late >= 0.85 and decays:
    verdict = "unknown"
    advice = (
      f"The best step is mostly in the last quarter of {steps:,} steps, which a"
      " decaying learning rate does at any length. To know, train the best"
      " trials twice as long, and re-tune the decay schedule."
    )
  elif late >= 0.85:
    verdict = "warn"
    advice = (
      f"The best step is mostly in the last quarter of {steps:,} steps. Train"
      " longer, and re-tune the decay schedule."
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
      late_because_rate_decays=bool(decays and late >= 0.85),
    ),
    advice,
    _STEPS,
  )


def compute_bound(results: results_lib.Results) -> finding.Finding:
  """Would more steps give a better result?

  The rule, for the 3 best trials of each cell: one is compute-bound where the
  last fifth of the steps still improves the objective and the training loss,
  each by 4 % and 4 standard errors of its noise, and the training set is not
  fitted: training error above 0.5 % in the last tenth or, where that is not
  logged, training loss above 2 % of the first. `warn` where most are; but
  `unknown` where the learning rate ends below a fifth of its peak, because a
  decay lowers the end of every curve. Needs 10 evaluations. Source: Playbook,
  determining the number of steps for each training run.
  """
  rank = {trial.index: i for i, trial in enumerate(results.ranked)}
  votes = []
  for indices in trials_lib.groups(results, slices=False).values():
    trials = (results.trials[i] for i in indices)
    valued = [t for t in trials if t.index in rank]
    best = sorted(valued, key=lambda t: rank[t.index])[:3]
    votes += [_is_compute_bound(t, results.objective) for t in best]
  told = [vote for vote in votes if vote is not None]
  source = "Playbook, determining the number of steps for each training run"
  if not told:
    return finding.Finding(
      "compute_bound",
      "unknown",
      results.objective,
      dict(judged=0),
      "No good trial has 10 evaluations; evaluate more often.",
      source,
    )
  bound = sum(told)
  decays = _decays(results.ranked)
  verdict, advice = "ok", ""
  if bound > len(told) / 2 and decays:
    verdict = "unknown"
    advice = (
      "The best trials improve to the end, as the decay of the learning rate"
      " makes them. Run the best one with twice the steps to know."
    )
  elif bound > len(told) / 2:
    verdict = "warn"
    advice = (
      "The best trials still improve when they end, and have not fitted the"
      " training set: more steps would help. Tune in rounds of growing length"
      " (Playbook, deciding how long to train when training is compute-bound)."
    )
  return finding.Finding(
    "compute_bound",
    verdict,
    results.objective,
    dict(compute_bound=bound, judged=len(told), rate_decays=decays),
    advice,
    source,
  )


def _is_compute_bound(trial, objective):
  """Whether a trial is; None where its curves are too short."""
  for metric in (objective, "train/loss"):
    _, values = trial.curves.get(metric, (None, np.zeros(0)))
    values = values[np.isfinite(values)]
    if len(values) < 10:
      return None
    gain, error = curves.last_gain(values)
    level = abs(float(values[-(len(values) // 5) :].mean()))
    if gain <= max(0.04 * level, 4 * error):
      return False
  _, errors = trial.curves.get("train/error_rate", (None, np.zeros(0)))
  if len(errors):
    return bool(errors[-max(1, len(errors) // 10) :].mean() > 0.005)
  return bool(values[-max(1, len(values) // 10) :].mean() > 0.02 * values[0])


def better_than_chance(results: results_lib.Results) -> finding.Finding:
  """Is the best trial better than chance? `curves.better_than_chance`."""
  best = results.ranked[0] if results.ranked else None
  value = best.best("valid/error_rate")[0] if best else math.nan
  return curves.better_than_chance(
    value if math.isfinite(value) else None,
    best and best.chance,
    best.num_valid if best else 0,
  )


def fixed_caveats(results: results_lib.Results) -> finding.Finding:
  """Which hyperparameters are fixed, so that conclusions hold for them only?

  Lists, for each cell, the optimizer's, schedule's and regularization's numbers
  that have an effect there and do not vary, with their values, and the lengths
  and names fixed for all. The rule: `warn` where values of a scientific
  hyperparameter are compared with the learning rate fixed in one of their
  cells, since optimizer hyperparameters "shouldn't be fixed" then; else `ok`.
  """
  base = config_lib.flatten(results.study["config"])
  scientific = [
    p.label for p in results.space.parameters if p.role == "scientific"
  ]
  keys = {p.label: p.key for p in results.space.parameters}
  choices = [p for p in results.space.parameters if p.kind == "choice"]
  caveats, untuned = {}, []
  for name, indices in trials_lib.groups(results, slices=False).items():
    points = [results.trials[i].point for i in indices]
    varied = {keys[label] for point in points for label in point}
    # What has an effect depends on the choices alone.
    switches = [
      base | dict(chosen)
      for chosen in {
        tuple((p.key, point[p.label]) for p in choices if p.label in point)
        for point in points
      }
    ]
    caveats[name] = {
      key: _json(value)
      for key, value in base.items()
      if key.startswith("hparams.")
      and key not in varied
      and any(config_lib.has_effect(key, flat) for flat in switches)
    }
    if "hparams.learning_rate" not in varied:
      untuned.append(name)
  everywhere = {
    key: _json(base[key])
    for key in ("optimizer", "schedule", "batch_size", "max_train_steps")
    if key in base and key not in keys.values()
  }
  bad = bool(scientific and untuned)
  return finding.Finding(
    "fixed_caveats",
    "warn" if bad else "ok",
    ", ".join(scientific) or results.objective,
    dict(fixed=everywhere, fixed_by_cell=caveats, learning_rate_fixed=untuned),
    f"Values of {', '.join(scientific)} are compared at one learning rate; the"
    " best rate generally depends on them. Make it a nuisance hyperparameter."
    if bad
    else "",
    _ROLES,
  )


def _is_ordered(parameter):
  """Whether it has edges: numbers, or 3 choices in the order of numbers."""
  if parameter.kind != "choice":
    return True
  values = parameter.values
  return (
    len(values) >= 3
    and all(type(value) in (int, float) for value in values)
    and list(values) in (sorted(values), sorted(values, reverse=True))
  )


def _range(parameter):
  """[low, high], or the values of a choice."""
  if parameter.kind == "choice":
    return list(parameter.values)
  return [parameter.low, parameter.high]


def _show(parameter, values):
  if parameter.kind == "choice":
    return ", ".join(map(str, values))
  return f"{values[0]:g} to {values[1]:g}"


def _decays(trials):
  """Whether most of the best end below a fifth of their peak learning rate."""
  shares = [
    curves.final_rate(t.curves["learning_rate"][1])
    for t in trials[:5]
    if "learning_rate" in t.curves
  ]
  told = [share < 0.2 for share in shares if share is not None]
  return sum(told) > len(told) / 2


def _too_few(check, has, subject, needs=_FEWEST):
  return finding.Finding(
    check,
    "unknown",
    subject,
    dict(has=int(has), needs=needs),
    f"Too few trials to tell: {int(has)} have a value here, and this needs"
    f" {needs}.",
    _SAMPLING,
  )


def _json(value):
  return list(value) if isinstance(value, tuple) else value
