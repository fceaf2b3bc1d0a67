"""Writes the next study file from the findings of the last one.

Playbook, extracting insight from experimental results: "based on the answers to
the questions above, refine the most recent study to improve the search space
and/or sample more trials, or take some other corrective action". The file is
to be edited; every change has its reason in a comment above it.
"""

import itertools
import json
import math
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

import jaxplay
from jaxplay import config as config_lib
from jaxplay import finding, formats, rundir
from jaxplay.analysis import results as results_lib
from jaxplay.study import space as space_lib
from jaxplay.study import suggest

_MARGIN = 0.15  # units kept on both sides of the best trials
_NARROW = 0.6  # share of the range, below which it is narrowed
_FEWEST_TO_FIX = 40  # trials of a group in which it does not matter


def next_study(
  results: results_lib.Results, findings: Iterable[finding.Finding]
) -> str:
  """Write the text of a Python file with `get_study()`.

  1. A range whose best trials cluster at an edge becomes the wider one that
     `search_space_boundary` proposes.
  2. A range whose best trials lie at the edge of its feasible part is kept, so
     that the next study can measure a fix of the instability; else, a range
     that is mostly infeasible beyond a threshold is cut there.
  3. Else, a range whose best eighth (at least 5 of 16 trials) lies, with a
     margin of 0.15 of the range on both sides, in less than 0.6 of it, is
     narrowed to that.
  4. `max_train_steps` is doubled, halved or cut to a fifth by the checks of
     length, unless rule 1 widened a range: trials that miss the optimum do not
     show its best length, and the two studies stay comparable. The number of
     trials is doubled if there were too few.
  5. A nuisance hyperparameter that `importance` finds to be idle in every group
     where it exists, each with at least 40 trials, leaves the space and keeps
     the best trial's value, unless rule 1 widened a range, it exists only under
     a condition, or others exist only under its values. Those that interact
     have it in their comment.

  Scientific hyperparameters are kept, except by rule 1. Adaptive trials are
  ignored: they cluster around earlier good ones.

  Args:
    results: The last study.
    findings: Its checklist, as from `checklist.check_study`.
  """
  study, results = results.study, results.space_filling
  findings = list(findings)
  checks = _by_check(findings)
  parameters = results.space.parameters
  domains = [_next_domain(results, p, checks) for p in parameters]
  domains = [
    (domain, reason + _together(p, findings))
    for p, (domain, reason) in zip(parameters, domains, strict=True)
  ]
  steps, steps_reason = next_steps(study, findings)
  moves = any(_moved(p, checks) for p in parameters)
  if moves:
    steps = study["config"]["max_train_steps"]
    steps_reason = (
      "kept: first the space, then the length. Check the length again once the"
      " best trials lie inside the space"
    )
  config, overrides = study["config_file"], dict(study["overrides"])
  config_reason = "kept"
  if rundir.is_local(results.path):
    # It moves with the study, and holds what was trained.
    config, overrides = "study.json", {}
    config_reason = (
      f"the base config of the last study ({study['config_file']} and its"
      " overrides), from the study.json beside this file"
    )
  old = overrides
  flat = config_lib.flatten(config_lib.from_json(study["config"]))
  overrides = old | config_lib.with_steps(flat, steps)
  fixed = {} if moves else _fixed(results, findings)
  if fixed:
    values = {key: value for key, value, _ in fixed.values()}
    left = [p.label not in fixed for p in parameters]
    fewer = tuple(itertools.compress(parameters, left))
    theirs = list(itertools.compress(domains, left))
    if not _refusal(study, overrides | values, fewer, theirs):
      parameters, domains = fewer, theirs
      old, overrides = old | values, overrides | values
      why = "; ".join(reason for *_, reason in fixed.values())
      steps_reason += f". Fixed, see the finding `importance`: {why}"
  length = checks.get(("max_train_steps", "max_train_steps"))
  if length is not None and "evaluations" in length.evidence:
    overrides |= config_lib.with_evaluations(flat, steps)
    steps_reason += (
      ". Evaluated more often: the best step, and so the best length, were"
      f" not known from {length.evidence['evaluations']} evaluations"
    )
  if refusal := _refusal(study, overrides, parameters, domains):
    why = f"kept: the refined space would be refused. {refusal}"
    domains = [(p.domain, why) for p in parameters]
    # The old space may not fit another length, such as with long warmups.
    if refusal := _refusal(study, overrides, parameters, domains):
      overrides = old
      steps_reason = f"kept: another length would be refused. {refusal}"
  num, num_reason = _next_number(results, checks)
  seed = study["seed"] + 1
  algorithm, algorithm_reason = study["algorithm"], "kept"
  if algorithm == "explicit":
    algorithm = "halton"
    algorithm_reason = (
      "was a list of points; now sampled from the ranges they span"
    )
  fields = [
    ("goal", _literal(study["goal"]), "kept; is it still the goal?"),
    ("config", _literal(config), config_reason),
    ("overrides", _literal(overrides), steps_reason),
    ("space", _space(parameters, domains), ""),
    ("num_trials", repr(num), num_reason),
    ("algorithm", _literal(algorithm), algorithm_reason),
    ("seed", repr(seed), f"new (was {study['seed']}), for other points"),
    ("objective", _literal(study["objective"]), "kept"),
    ("notes", _literal(f"refined from {rundir.absolute(results.path)}"), ""),
  ]
  body = "".join(
    f"{_comment(reason, 4)}    {name}={text},\n"
    for name, text, reason in fields
  )
  return (
    '"""The next study, as the findings of the last suggest: edit it."""\n\n'
    "from jaxplay.study import space, study\n\n\n"
    f"def get_study():\n  return study.Study(\n{body}  )\n"
  )


def repaired(
  results: results_lib.Results, findings: Iterable[finding.Finding]
) -> tuple[space_lib.Space, list[str]]:
  """Fix the space of a study: rule 1, and the cuts of rule 2, of `next_study`.

  Args:
    results: The study.
    findings: Its checklist, as from `checklist.check_study`.

  Returns:
    (space, reasons), a sentence for each range that changed; none if there is
    nothing to fix, or if the fixed space would be invalid.
  """
  checks, parameters = _by_check(findings), results.space.parameters
  domains = [_fixed_domain(p, checks) or (p.domain, "") for p in parameters]
  reasons = [
    f"{p.label} is now {_show(domain)}, {reason}"
    for p, (domain, reason) in zip(parameters, domains, strict=True)
    if domain is not p.domain
  ]
  overrides = results.study["overrides"]
  if not reasons or _refusal(results.study, overrides, parameters, domains):
    return results.space, []
  return _as_space(parameters, domains), reasons


def next_batch(
  results: results_lib.Results,
  findings: Iterable[finding.Finding],
  *,
  num: int,
  seed: int,
) -> dict[str, Any]:
  """Suggest adaptive trials, as `StudyDir.append` takes them.

  Args:
    results: The study.
    findings: Its checklist, as from `checklist.check_study`.
    num: Number of points.
    seed: Seed of the suggestions, at least 0.

  Raises:
    jaxplay.UserError: Optuna is not installed.
  """
  space, history = refined(results, findings)
  return {
    "after": len(results.trials),
    "seed": seed,
    "sampler": suggest.sampler(space),
    "told": sum(value is not None for _, value in history),
    "space": space.as_json(),
    "points": suggest.suggest(space, history, num=num, seed=seed),
  }


def refined(
  results: results_lib.Results, findings: Iterable[finding.Finding]
) -> tuple[space_lib.Space, list[tuple[dict[str, Any], float | None]]]:
  """Choose the space in which to suggest trials, and their history there.

  The space of `next_study` within the study's own: ranges are cut or narrowed,
  but not widened. But the study's own space if fewer than `suggest.FEWEST`
  trials that ended lie in the refined one.

  Args:
    results: The study.
    findings: Its checklist, as from `checklist.check_study`.

  Returns:
    (space, history), the latter as `suggest.suggest` takes it.
  """
  checks = _by_check(findings)
  sample, parameters = results.space_filling, results.space.parameters
  space = _as_space(
    parameters,
    [(_within(p, _next_domain(sample, p, checks)[0]), "") for p in parameters],
  )
  history = _history(results)
  inside = [
    (point, value) for point, value in history if _lies_in(space, point)
  ]
  if sum(value is not None for _, value in inside) < suggest.FEWEST:
    return results.space, history
  return space, inside


def _within(parameter, domain):
  """The part of a domain that lies in the parameter's own."""
  if domain.kind == "choice":
    both = [value for value in domain.values if value in parameter.values]
  else:
    both = [max(domain.low, parameter.low), min(domain.high, parameter.high)]
  return _with_range(parameter.domain, both)


def _history(results):
  """(point by config key, cost) of each trial, as `suggest.suggest`."""
  history = []
  for trial in results.trials:
    cost = math.inf
    if trial.status != "infeasible":
      cost = results.cost(trial)
      if math.isnan(cost) and trial.status in results_lib.ENDED:
        continue  # It crashed, or logged no finite value.
    point = results.by_key(trial)
    history.append((point, None if math.isnan(cost) else cost))
  return history


def _lies_in(space, point):
  active = space.active(point)
  return {p.key for p in active} == point.keys() and all(
    p.holds(point[p.key]) for p in active
  )


def _by_check(findings):
  """(check, subject) -> finding; check -> the first that warns or fails."""
  checks: dict[str | tuple[str, str], finding.Finding] = {}
  for result in findings:
    checks[result.check, result.subject] = result
    if result.verdict in ("warn", "fail"):
      checks.setdefault(result.check, result)
  return checks


def _next_domain(results, parameter, checks):
  """(domain, reason) of one hyperparameter."""
  fixed = _fixed_domain(parameter, checks)
  if fixed:
    return fixed
  old = parameter.domain
  narrow = _narrow(results, parameter)
  if narrow:
    (low, high), width, num = narrow
    reason = (
      f"narrowed to {width:.0%} of {_show(old)}, on its scale: the {num} best"
      " trials lie well inside"
    )
    return _with_range(old, [low, high]), reason
  return old, "kept"


def _fixed_domain(parameter, checks):
  """(domain, reason) by rules 1 and 2; the old domain: do not narrow it."""
  old = parameter.domain
  boundary = checks.get(("search_space_boundary", parameter.label))
  proposed = _moved(parameter, checks)
  if proposed:
    edge = boundary.evidence["side"]
    reason = (
      f"moved: over {boundary.evidence['num_trials']} trials the objective"
      f" improves up to the {edge} edge of {_show(old)}"
    )
    return _with_range(old, proposed), reason
  if boundary and boundary.evidence.get("infeasible_beyond"):
    return old, (
      "kept: the best trials lie at the edge of the feasible values. Try warmup"
      " (hparams.warmup_steps) or gradient clipping (clipping,"
      " hparams.clip_norm) on the same range before narrowing it"
    )
  if parameter.role == "scientific":
    return old, "kept: scientific, so its values are compared"
  infeasible = checks.get("infeasible_share")
  region = infeasible and infeasible.evidence.get("region")
  if region and region["hyperparameter"] == parameter.label:
    cut = _cut(parameter, region)
    if cut:
      reason = (
        f"cut: {region['infeasible_inside']} of the {region['trials_inside']}"
        f" trials with {region['rule']} are infeasible; was {_show(old)}"
      )
      return _with_range(old, cut), reason
  return None


def _fixed(results, findings):
  """{label: (key, value, reason)} by rule 5; at least one other is left."""
  parameters = results.space.parameters
  rows = [
    f.evidence
    for f in findings
    if f.check == "importance" and "shares" in f.evidence
  ]
  fixed = {}
  for parameter in parameters:
    label = parameter.label
    where = [row for row in rows if label in row["shares"]]
    is_idle = [
      label in row["idle"] and row["num_trials"] >= _FEWEST_TO_FIX
      for row in where
    ]
    valued = [t for t in results.ranked if label in t.point]
    if (
      not all(is_idle or [False])
      or not valued
      or parameter.role == "scientific"
      or parameter.when
      or any(parameter.key in other.when for other in parameters)
    ):
      continue
    shares = ", ".join(
      f"{estimate:.1%} ({low:.1%} to {high:.1%}) of what explains the order of"
      f" {row['num_trials']} trials"
      + (f" with {row['group']}" if row["group"] else "")
      for row in where
      for estimate, low, high in [row["shares"][label]]
    )
    reason = f"{label} at the best trial's value, since its share is {shares}"
    fixed[label] = (parameter.key, valued[0].point[label], reason)
  return fixed if len(fixed) < len(parameters) else {}


def _together(parameter, findings):
  """What a hyperparameter is to be tuned with, as the end of a sentence."""
  partners = {
    other: share
    for f in findings
    if f.check == "importance" and "pairs" in f.evidence
    for *pair, share, _, _ in f.evidence["pairs"]
    if pair in f.evidence["interact"] and parameter.label in pair
    for other in pair
    if other != parameter.label
  }
  if not partners:
    return ""
  names = " and ".join(f"{n} ({s:.0%})" for n, s in partners.items())
  return f". Tune it together with {names}: they interact"


def _moved(parameter, checks):
  """The wider range that `search_space_boundary` proposes, or None."""
  boundary = checks.get(("search_space_boundary", parameter.label))
  if boundary is None or boundary.verdict != "warn":
    return None
  return boundary.evidence.get("proposed")


def _cut(parameter, region):
  """Range, or values, without the region; None: nothing is left."""
  value = region["value"]
  if parameter.kind == "choice":
    compare = {
      "=": lambda v: list(v) != value if isinstance(v, tuple) else v != value,
      ">": lambda v: v <= value,
      "<": lambda v: v >= value,
    }[region["sign"]]
    left = [v for v in parameter.values if compare(v)]
    return left or None
  low, high = parameter.low, parameter.high
  if region["sign"] == ">":
    high = _rounded(parameter, value)
  else:
    low = _rounded(parameter, value)
  return [low, high] if parameter.low <= low < high <= parameter.high else None


def _narrow(results, parameter):
  """(range, its share of the old one, number of best trials), or None."""
  if parameter.kind == "choice" or not results.ranked:
    return None
  trials = [t for t in results.ranked if parameter.label in t.point]
  if len(trials) < 16:
    return None
  worst = results.cost(trials[max(5, len(trials) // 8) - 1])
  best = [t for t in trials if results.cost(t) <= worst]
  units = [parameter.to_unit(t.point[parameter.label]) for t in best]
  ends = max(min(units) - _MARGIN, 0.0), min(max(units) + _MARGIN, 1.0)
  low, high = (_rounded(parameter, v) for v in parameter.from_units(ends))
  if ends[1] - ends[0] >= _NARROW or not low < high:
    return None
  return (low, high), ends[1] - ends[0], len(best)


def _rounded(parameter, value):
  """Two digits (of 1 - value on the log_one_minus scale), within the range."""
  if value in (parameter.low, parameter.high):
    return value
  if parameter.kind == "int":
    value = round(value)
  elif parameter.scale == "log_one_minus":
    value = round(1 - formats.rounded(1 - value, 2), 12)
  else:
    value = formats.rounded(value, 2)
  return min(max(value, parameter.low), parameter.high)


def next_steps(
  study: Mapping[str, Any], findings: Iterable[finding.Finding]
) -> tuple[int, str]:
  """Choose the number of steps of the next study by rule 4: (steps, reason)."""
  checks = _by_check(findings)
  old = study["config"]["max_train_steps"]
  steps = checks.get("max_train_steps")
  if steps and steps.evidence["share_best_in_first_tenth"] >= 0.9:
    return max(1, old // 5), (
      f"max_train_steps cut to a fifth of {old:,}: nearly all best steps are in"
      " the first tenth"
    )
  saturated = checks.get(("saturated_early", "all trials"))
  if saturated and saturated.verdict == "warn":
    return max(1, old // 2), (
      f"max_train_steps halved from {old:,}: most trials gain nothing after"
      " 40% of them. Hyperparameters in steps (warmup_steps, decay_timescale)"
      " are kept"
    )
  if steps or "compute_bound" in checks:
    return 2 * old, (
      f"max_train_steps doubled from {old:,}: the best trials still improve"
      " when they end. Re-tune the decay; the best learning rate may not"
      " transfer"
    )
  return old, "kept"


def _next_number(results, checks):
  old = len(results.trials)
  few = checks.get("enough_trials")
  if few:
    return (
      2 * old,
      f"doubled from {old}: too few trials are close to the best one",
    )
  return old, "kept"


def _refusal(study, overrides, parameters, domains):
  """Why the space of these domains is invalid, or None."""
  try:
    config = config_lib.from_json(study["config"])
    for key, value in overrides.items():
      config_lib.select(config, key, value)
    _as_space(parameters, domains).check(config, None, overrides)
  except jaxplay.UserError as error:
    return str(error)
  return None


def _as_space(parameters, domains):
  mapping = {}
  for parameter, (domain, _) in zip(parameters, domains, strict=True):
    mapping.setdefault(parameter.key, []).append(domain)
  return space_lib.Space(mapping)


def _with_range(domain, values):
  fields = {"role": domain.role, "when": domain.when or None}
  if domain.kind == "choice":
    return space_lib.Choice(tuple(values), **fields)
  kind = type(domain)
  return kind(values[0], values[1], domain.scale, **fields)


def _show(domain):
  if domain.kind == "choice":
    return ", ".join(map(str, domain.values))
  return f"{domain.low:g} to {domain.high:g}"


# Python source.


def _space(parameters, domains) -> str:
  grouped: dict[str, list] = {}
  for parameter, domain in zip(parameters, domains, strict=True):
    grouped.setdefault(parameter.key, []).append(domain)
  lines = []
  for key, several in grouped.items():
    name = f"      {_literal(key)}:"
    if len(several) == 1:
      ((domain, reason),) = several
      lines.append(f"{_comment(reason, 6)}{name} {_source(domain)},\n")
      continue
    inner = "".join(
      f"{_comment(reason, 8)}        {_source(domain)},\n"
      for domain, reason in several
    )
    lines.append(f"{name} [\n{inner}      ],\n")
  return f"{{\n{''.join(lines)}    }}"


def _source(domain: space_lib.Domain) -> str:
  if domain.kind == "choice":
    arguments = [_literal(domain.values)]
  else:
    arguments = [_literal(domain.low), _literal(domain.high)]
    if domain.scale != "linear":
      arguments.append(f"scale={_literal(domain.scale)}")
  if domain.role != "nuisance":
    arguments.append(f"role={_literal(domain.role)}")
  if domain.when:
    arguments.append(f"when={_literal(domain.when)}")
  return f"space.{type(domain).__name__}({', '.join(arguments)})"


def _literal(value: Any) -> str:
  """Python source of a value, with double quotes around strings."""
  if isinstance(value, str):
    # JSON leaves some invisible characters unescaped.
    is_plain = value.isprintable()
    return json.dumps(value, ensure_ascii=False) if is_plain else repr(value)
  if isinstance(value, Mapping):
    pairs = (f"{_literal(k)}: {_literal(v)}" for k, v in value.items())
    return f"{{{', '.join(pairs)}}}"
  if isinstance(value, tuple | list):
    items = [_literal(item) for item in value]
    return f"({', '.join(items)}{',' if len(items) == 1 else ''})"
  return repr(value)


def _comment(text, indent):
  """Lines of a comment; "" for no text. Line breaks in data are wrapped."""
  prefix = " " * indent + "# "
  lines = textwrap.wrap(text, 80 - len(prefix), break_on_hyphens=False)
  return "".join(f"{prefix}{line}\n" for line in lines)
