"""Do the best trials lie at an edge of the search space?"""

import dataclasses

import numpy as np
from scipy import stats

import jaxplay
from jaxplay import finding, formats
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.analysis.checklist import shared
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib


@dataclasses.dataclass(frozen=True)
class Edge:
  """Where the best trials of a group lie in the range of a hyperparameter.

  Attributes:
    group: Name of the group of trials.
    side: The nearer edge: "low" or "high".
    count: Number of trials with a value.
    top: Number of the best of them, ties included.
    p_value: Probability that by chance they lie as far towards `side`.
    clustered: Whether they lie at `side`, significantly.
    infeasible_beyond: Whether most trials beyond them diverged.
    best: Unit of the best trial.
  """

  group: str
  side: str
  count: int
  top: int
  p_value: float
  clustered: bool
  infeasible_beyond: bool
  best: float


def edges(
  results: results_lib.Results, parameter: space_lib.Parameter
) -> list[Edge]:
  """Locate the best trials in each group, or in all if some are too small.

  The rule is that of `search_space_boundary`.
  """
  units = trials_lib.units(parameter, results.column(parameter.label))
  values = np.where(np.isnan(units), np.nan, results.costs)
  groups = [
    (name, indices)
    for name, indices in trials_lib.groups(
      results, False, parameter.label
    ).items()
    if np.isfinite(values[indices]).any()
  ]
  counts = [np.isfinite(values[indices]).sum() for _, indices in groups]
  if len(groups) > 1 and min(counts) < shared.FEWEST_IN_GROUP:
    # Ranks within groups, so that no group is better than another as a whole.
    pooled = np.full(len(values), np.nan)
    for _, indices in groups:
      valued = indices[np.isfinite(values[indices])]
      ranks = stats.rankdata(values[valued]) - 0.5
      pooled[valued] = ranks / len(valued)
    values, groups = pooled, [("", np.arange(len(values)))]
  ordered = filter(trials_lib.is_ordered, results.space.parameters)
  num_tests = len(groups) * len(list(ordered))
  threshold = 0.02 / max(num_tests, 1)
  return [
    _edge(name, units[i], values[i], results.infeasible[i], threshold)
    for name, i in groups
    if np.isfinite(values[i]).sum() >= shared.FEWEST
  ]


def _edge(group, units, values, infeasible, threshold) -> Edge:
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
  return Edge(
    group=group,
    side=side,
    count=n,
    top=k,
    p_value=float(p_value),
    clustered=bool(p_value < threshold and densest),
    infeasible_beyond=diverged >= max(2, 0.5 * beyond.sum()),
    best=float(u[np.argmin(v)]),
  )


def _two_slices(away, size):
  """Masks of the `size` nearest trials and of the next ones, with ties."""
  near = away <= np.sort(away)[size - 1]
  rest = np.sort(away[~near])
  if not len(rest):
    return near, ~near
  return near, ~near & (away <= rest[min(size, len(rest)) - 1])


def search_space_boundary(
  results: results_lib.Results,
) -> list[finding.Finding]:
  """Check whether the best trials cluster at an edge of a range.

  One finding for each hyperparameter with an order: numbers, and choices of 3
  or more monotone numbers. In each group of at least 16 trials with a value
  (else over all trials, ranked within their groups; needs 10), the best eighth,
  at least 5 trials and all ties, lie at an edge if

  1. they lie closer to it than the other trials with a value, by a rank-sum
     test at 2%, divided by the number of hyperparameters and groups. So one
     without effect passes, whatever the noise;
  2. they are at least as dense in the outermost sixth of the trials with a
     value as in the next sixth: an optimum well inside passes;
  3. they are at most half of the trials.

  Then `warn`, with the wider range in the evidence; but if half of the trials
  beyond the best ones, at least 2, diverged, the advice is about stability; and
  an edge that is the key's own bound is `ok`. Source: Playbook,
  identifying bad search space boundaries.
  """
  findings = []
  for parameter in filter(trials_lib.is_ordered, results.space.parameters):
    located = edges(results, parameter)
    if located:
      findings.append(_boundary(results, parameter, located))
      continue
    column = results.column(parameter.label)[np.isfinite(results.values)]
    has = sum(value is not None for value in column)
    check = "search_space_boundary"
    findings.append(shared.too_few(check, has, parameter.label))
  return findings


def _boundary(results, parameter, located):
  clustered = [e for e in located if e.clustered]
  worst = min(clustered or located, key=lambda e: e.p_value)
  evidence = dict(
    side=worst.side if clustered else None,
    p_value=worst.p_value,
    num_best=worst.top,
    num_trials=worst.count,
    best_value=shared.plain(parameter.from_unit(worst.best)),
    cells=[e.group for e in clustered if e.group],
    range=_range(parameter),
  )
  unstable = [e for e in clustered if e.infeasible_beyond]
  verdict: finding.Verdict = "ok"
  advice = ""
  groups = ", ".join(evidence["cells"])
  where = f" with {groups}" if groups else ""
  best = (
    f"The best {worst.top} of {worst.count} trials{where} cluster at the"
    f" {worst.side} end of {_show(parameter, _range(parameter))} (rank test p ="
    f" {worst.p_value:.2g})"
  )
  if unstable:
    verdict = "warn"
    evidence["infeasible_beyond"] = True
    advice = (
      f"{best}, and most trials beyond them diverged, so a wider range would"
      " only add infeasible trials; see optimization_instability."
    )
  elif clustered:
    proposed = _wider(results, parameter, {e.side for e in clustered})
    evidence["proposed"] = proposed
    if proposed == _range(parameter):
      evidence["edge_is_bound_of_key"] = True
    else:
      verdict = "warn"
      advice = (
        f"{best}, so the optimum may lie outside. Run another study over"
        f" {_show(parameter, proposed)}."
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
  """The range extended on the given sides, as far as the config allows.

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
    elif side == "high":
      wider[1] = value
    else:
      wider[0] = value
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
