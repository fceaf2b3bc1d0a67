"""Does the optimum lie beyond an edge of the search space?"""

import dataclasses
import math

import numpy as np
from scipy import stats

import jaxplay
from jaxplay import config as config_lib
from jaxplay import finding, formats
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import surface
from jaxplay.analysis import trials as trials_lib
from jaxplay.analysis.checklist import shared
from jaxplay.study import study as study_lib

# Chance of a false alarm in a study, over its hyperparameters and groups.
_FALSE_ALARMS = 0.03
# What counts as plain: a slope, in standard deviations per half of the range,
# for one hyperparameter; of several, each explains its share of the variance.
_PLAIN = 0.8


@dataclasses.dataclass(frozen=True)
class Edge:
  """Whether the optimum of a group lies beyond a hyperparameter's range.

  Attributes:
    group: Name of the group of trials.
    side: The edge towards which the objective improves more: "low" or "high".
    count: Number of trials with a value.
    p_value: Probability that by chance it improves as much.
    beyond: Whether it improves up to that edge, significantly.
    inside: Whether a plain improvement up to either edge can be excluded.
    infeasible_beyond: Whether most trials beyond the best ones diverged.
    best: Unit of the best trial.
  """

  group: str
  side: str
  count: int
  p_value: float
  beyond: bool
  inside: bool
  infeasible_beyond: bool
  best: float


def edges(results: results_lib.Results) -> dict[str, list[Edge]]:
  """Locate the optimum in the range of each hyperparameter with an order.

  The rule is that of `search_space_boundary`.

  Returns:
    Label -> for each group its edge, or one for all if some are too small; []
    if there are too few trials.
  """
  ordered = list(filter(trials_lib.is_ordered, results.space.parameters))
  valued = {p.label: _valued(results, p) for p in ordered}
  num_tests = max(sum(map(len, valued.values())), 1)
  threshold = _FALSE_ALARMS / (2 * num_tests)
  plain = _PLAIN / math.sqrt(max(len(ordered), 1))
  return {
    p.label: [
      _edge(results, p, group, threshold, plain) for group in valued[p.label]
    ]
    for p in ordered
  }


def _valued(results, parameter):
  """(name, places, values) of each group to be judged by itself."""
  units = trials_lib.units(parameter, results.column(parameter.label))
  values = np.where(np.isnan(units), np.nan, results.costs)
  found = []
  for name, indices in trials_lib.groups(
    results, False, parameter.label
  ).items():
    indices = indices[np.isfinite(values[indices])]
    if len(indices):
      found.append((name, indices, values[indices]))
  fewest = min((len(indices) for _, indices, _ in found), default=0)
  if len(found) > 1 and fewest < shared.FEWEST_IN_GROUP:
    # Ranks within groups, so that no group is better than another as a whole.
    ranks = [(stats.rankdata(v) - 0.5) / len(v) for _, _, v in found]
    places = np.concatenate([indices for _, indices, _ in found])
    found = [("", places, np.concatenate(ranks))]
  return [group for group in found if len(group[1]) >= shared.FEWEST]


def _edge(results, parameter, group, threshold, plain) -> Edge:
  name, indices, values = group
  num = len(values)
  units = trials_lib.units(parameter, results.column(parameter.label))
  top = values <= np.sort(values)[max(5, num // 8) - 1]
  scales = _scales(values)
  found = surface.slopes(results, parameter.label, indices, scales)
  side, p_value, beyond, inside = "low", 1.0, False, False
  if found:
    p_values = np.array([[slope.p_value for slope in both] for both in found])
    side = ("low", "high")[int(p_values.min(axis=0).argmin())]
    p_value = min(len(found) * p_values.min(), 1.0)
    # Where most trials tie for the best, no edge of theirs is better.
    beyond = p_value < threshold and top.sum() <= num / 2
    inside = not beyond and all(
      slope.least(0.975) > -plain for both in found for slope in both
    )
  own = units[indices]
  # As far as the best reach, and beyond.
  reach = own[top].max() if side == "high" else own[top].min()
  groups = trials_lib.groups(results, False, parameter.label)
  members = groups.get(name, np.arange(len(units)))
  everywhere, diverged = units[members], results.infeasible[members]
  far = everywhere > reach if side == "high" else everywhere < reach
  return Edge(
    group=name,
    side=side,
    count=num,
    p_value=float(p_value),
    beyond=bool(beyond),
    inside=bool(inside),
    infeasible_beyond=int((far & diverged).sum()) >= max(2, 0.5 * far.sum()),
    best=float(own[np.argmin(values)]),
  )


def _scales(values):
  """Costs on two scales with a deviation of about 1; [] if all are equal.

  Normal scores of their ranks, which no outlier disturbs, and the costs
  themselves, which a quadratic follows exactly near an optimum; without the
  bad ones' excess over the better half.
  """
  middle = np.median(values)
  near = np.minimum(values, middle + 3 * (middle - values.min()))
  if near.std() == 0:
    return []
  ranks = stats.rankdata(values) - 0.5
  return [stats.norm.ppf(ranks / len(values)), near / near.std()]


def search_space_boundary(
  results: results_lib.Results,
) -> list[finding.Finding]:
  """Check whether the optimum lies beyond an edge of a range.

  One finding for each hyperparameter with an order: numbers, and choices of 3
  or more monotone numbers. In each group of at least 16 trials with a value
  (else over all trials, ranked within their groups; needs 10), a quadratic
  response surface over all hyperparameters is fitted to the normal scores of
  the costs' ranks, and one to the costs without outliers (`surface.slopes`).
  Their slopes an eighth of the range from either edge decide, by Student's t:

  1. `warn` if the objective significantly improves towards an edge: at 3%,
     divided by both surfaces and both edges of all hyperparameters and groups.
     So one without effect passes, whatever the noise, and an optimum well
     inside does too;
  2. `ok` if a plain slope towards either edge, 0.8 standard deviations per half
     of the range, divided by the root of the number of hyperparameters, can be
     excluded at 97.5% by both;
  3. else `unknown`: the trials do not decide it.

  The evidence of a warning holds a wider range; but if half of the trials
  beyond the best ones, at least 2, diverged, the advice is about stability. An
  edge that is the key's own bound is `ok`: its declared interval holds no value
  beyond. Values that the config refuses for another reason are still proposed,
  with that reason. Source: Playbook, identifying bad search space boundaries.
  """
  findings, found = [], edges(results)
  for parameter in filter(trials_lib.is_ordered, results.space.parameters):
    located = found[parameter.label]
    if located:
      findings.append(_boundary(results, parameter, located))
      continue
    column = results.column(parameter.label)[np.isfinite(results.values)]
    has = sum(value is not None for value in column)
    check = "search_space_boundary"
    findings.append(shared.too_few(check, has, parameter.label))
  return findings


def _boundary(results, parameter, located):
  found = [e for e in located if e.beyond]
  worst = min(found or located, key=lambda e: e.p_value)
  evidence = dict(
    side=worst.side if found else None,
    p_value=worst.p_value,
    num_trials=worst.count,
    best_value=shared.plain(parameter.from_unit(worst.best)),
    groups=[e.group for e in found if e.group],
    range=_range(parameter),
  )
  where = "".join(
    f"{' and' if i else ''} with {group}"
    for i, group in enumerate(evidence["groups"])
  )
  range_ = _show(parameter, _range(parameter))
  improves = (
    f"The objective{where} improves up to the {worst.side} end of {range_} (p ="
    f" {worst.p_value:.2g} over {worst.count} trials)"
  )
  verdict: finding.Verdict = "ok"
  advice = ""
  if any(e.infeasible_beyond for e in found):
    verdict = "warn"
    evidence["infeasible_beyond"] = True
    advice = (
      f"{improves}, and most trials beyond the best ones diverged, so a wider"
      " range would only add infeasible trials; see optimization_instability."
    )
  elif found:
    proposed, refusal = _wider(results, parameter, {e.side for e in found})
    evidence["proposed"] = proposed
    if refusal:
      evidence["refused"] = refusal
    if proposed == _range(parameter):
      evidence["edge_is_bound_of_key"] = True
    else:
      verdict = "warn"
      advice = (
        f"{improves}, so the optimum may lie outside. Run another study over"
        f" {_show(parameter, proposed)}."
      )
      if refusal:
        advice += f" Change the base config for that: {refusal}."
  elif not all(e.inside for e in located):
    verdict = "unknown"
    advice = (
      f"{worst.count} trials do not show whether the optimum lies beyond"
      f" {range_} (p = {worst.p_value:.2g}): the effect of {parameter.label} is"
      " small against the noise and the other hyperparameters. If it should"
      " matter, run twice as many trials (`jaxplay study extend`)."
    )
  return finding.Finding(
    "search_space_boundary",
    verdict,
    parameter.label,
    evidence,
    advice,
    "Playbook, identifying bad search space boundaries",
  )


def _wider(results, parameter, sides):
  """The range extended on the given sides, and why the config refuses it.

  By half of its width on a linear scale; on a logarithmic one by the cube root
  of its ratio, at least 3 and at most 10; less where the key's own interval or
  the config allows less. Choices get one more value. What the config refuses
  for another reason than that interval is proposed all the same.
  """
  wider, reasons = list(_range(parameter)), []
  holds, refusal = _holds(results, parameter), _refusal(results, parameter)
  for side in sorted(sides):
    values = [v for v in _outwards(parameter, side) if holds(v)]
    if not values:
      continue
    legal = [value for value in values if not refusal(value)]
    value = (legal or values)[0]
    if not legal:
      reasons.append(refusal(value))
    if parameter.kind == "choice":
      wider.insert(len(wider) if side == "high" else 0, value)
    elif side == "high":
      wider[1] = value
    else:
      wider[0] = value
  return wider, "; ".join(dict.fromkeys(reasons))


def _holds(results, parameter):
  """Whether the interval that a key declares, if any, holds a value."""
  flat = config_lib.flatten(results.study.get("config") or {})
  try:
    key = config_lib.keys_of(flat).get(parameter.key)
  except jaxplay.UserError:  # Declarations that this version cannot read.
    key = None
  if key is None or not key.within:
    return lambda value: True
  return lambda value: (
    key.holds(value)
    and not (key.traced and not key.holds(config_lib.rounded(value)))
  )


def _refusal(results, parameter):
  """Why a trial's config refuses a value; "": not, or it refuses any value.

  A config that is not valid as it was trained, such as one of another program,
  says nothing about other values.
  """
  trial = next(
    t for t in results.ranked if t.point.get(parameter.label) is not None
  )
  point = results.by_key(trial)

  def why(change):
    try:
      study_lib.trial_config(results.study.get("config") or {}, point | change)
    except jaxplay.UserError as error:
      return str(error).rstrip(".")
    return ""

  if why({}):
    return lambda value: ""
  return lambda value: why({parameter.key: value})


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
    values = [max(round(1 - formats.rounded(rest, 2), 12), 0.0)]
  if type(edge) is int:
    values = [round(value) for value in values]
  elif parameter.scale != "log_one_minus":
    values = [formats.rounded(value, 2) for value in values]
  # Choices may descend; rounding may reach back to the edge, or inside.
  rises = sign if parameter.kind != "choice" else edge - inner
  return [value for value in values if (value - edge) * rises > 0]


def _range(parameter):
  """[low, high], or the values of a choice."""
  if parameter.kind == "choice":
    return list(parameter.values)
  return [parameter.low, parameter.high]


def _show(parameter, values):
  if parameter.kind == "choice":
    return ", ".join(map(str, values))
  return f"{values[0]:g} to {values[1]:g}"
