"""Decides on the batch size from measurements, by the playbook's rules.

Playbook, choosing the batch size: it governs the speed of training, and is not
tuned for validation performance. `throughput` judges the speed of each size,
`critical` the steps that each takes to a target.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxplay import finding, formats
from jaxplay.playbook import result as result_lib
from jaxplay.playbook.batch_size import critical, throughput
from jaxplay.playbook.steps import decide as steps_decide

_SIZE = result_lib.Axis("batch size, examples", log=True)


def retune(old: int, new: int, keys: Sequence[str]) -> list[finding.Finding]:
  """Returns findings on a change of the batch size (B8).

  Args:
    old: The config's batch size.
    new: The recommended batch size.
    keys: Hyperparameters of the optimizer and of regularization in use.
  """
  if old == new:
    return []
  return [
    finding.Finding(
      "retune_after_change",
      "warn",
      "batch_size",
      {"old": old, "new": new, "hyperparameters": list(keys)},
      f"The best values of {', '.join(keys)} change from batch size {old} to"
      f" {new}: re-tune them before you compare the two sizes.",
      critical.RETUNE,
    )
  ]


def as_result(
  speeds: Sequence[throughput.Speed],
  *,
  batch_size: int,
  eval_batch_size: int,
  retuned: Sequence[str],
  microbatches: int = 1,
  num_devices: int = 1,
  ended: str = "",
  measured: bool = True,
  target: steps_decide.Target | None = None,
  reached: Sequence[critical.StepsToTarget] = (),
) -> result_lib.ProcedureResult:
  """Decides on the batch size; returns tables, figures and findings.

  Args:
    speeds: Speed of each size, ascending; at least one size fits.
    batch_size: The config's.
    eval_batch_size: The config's.
    retuned: Hyperparameters to re-tune at another size.
    microbatches: The config's.
    num_devices: Number of devices that were timed.
    ended: Why no larger size was tried, a sentence.
    measured: Whether times were measured, not estimated.
    target: The target of training; None: there was no training.
    reached: Steps to the target of each size, ascending.
  """
  fitting = [s for s in speeds if not s.too_large]
  timed = [s for s in fitting if s.loop_seconds > 0]
  known = [tuned for tuned in reached if tuned.is_known]
  largest = fitting[-1].batch_size
  outcome = critical.outcome(known, _seconds(timed)) if known else None

  def decide(speeds):
    """Returns (the largest recommended size, the size of the least time)."""
    last = largest
    if speeds:
      last = speeds[throughput.saturation(speeds)].batch_size
    fastest = known and critical.cheapest(known, _seconds(speeds))
    return last, fastest or None

  last, fastest = decide(timed)
  chosen = last if target is None else fastest
  findings, summary, settings = [], [], {}
  if timed:
    findings += throughput.findings(
      timed, microbatches=microbatches, measured=measured
    )
    summary.append(_throughput_in_words(timed, last, measured))
  if target is None:
    summary.insert(0, _rule_of_thumb(last, bool(timed), measured))
  else:
    findings += critical.findings(reached, target, outcome)
    by_target = _target_in_words(known, outcome, target, timed, findings)
    summary = by_target + summary
  if measured:
    agree = throughput.passes_agree(timed, decide)
    findings.insert(0, agree)
    summary += _alternatives(timed, decide, target is not None)
    if agree.verdict == "unknown":
      if chosen is not None:  # The first sentence recommends it.
        summary = summary[1:]
      summary.insert(0, agree.advice)
      chosen = None
  too_large = next((s for s in speeds if s.too_large), None)
  if too_large:
    summary.append(
      f"{too_large.batch_size} examples do not fit into memory:"
      f" {too_large.too_large.rstrip('.')}."
    )
  elif ended:
    summary.append(ended)
  if chosen is not None:
    findings += retune(batch_size, chosen, retuned)
    if chosen != batch_size:
      settings["batch_size"] = chosen
    if chosen > eval_batch_size:
      settings["eval_batch_size"] = chosen
  figures = [_throughput_figure(timed, last, measured)] if timed else []
  if outcome:
    figures.append(_steps_figure(known, outcome, target))
    figures.append(_cost_figure(known, outcome, timed, num_devices))
  return result_lib.ProcedureResult(
    summary=summary,
    settings=settings,
    findings=findings,
    tables=[_table(speeds, reached, num_devices, target, measured)],
    figures=figures,
    details={
      "batch_size": chosen,
      "saturation": last,
      "speeds": [dataclasses.asdict(s) for s in speeds],
      "reached": [
        dataclasses.asdict(tuned)
        | {"rate": tuned.best.rate, "steps": tuned.steps}
        for tuned in reached
      ],
      "outcome": outcome and dataclasses.asdict(outcome),
      "num_devices": num_devices,
      "target": target and str(target),
    },
  )


def _seconds(speeds) -> Mapping[int, float]:
  return {s.batch_size: s.loop_seconds for s in speeds}


def _rule_of_thumb(last, is_timed, measured):
  largest = "the largest batch size that fits into memory"
  if is_timed:
    largest += " and up to which throughput grows"
  sentence = f"Use batch size {last}: {largest} (a rule of thumb)."
  if not measured:
    return sentence
  return f"{sentence} With --target, the time to a target decides."


def _throughput_in_words(timed, last, measured):
  at = [s.batch_size for s in timed].index(last)
  bound = "" if measured else "at most "
  by_roofline = "" if measured else " by the roofline"
  text = (
    f"Throughput is {bound}{_short(timed[at].throughput)} examples per"
    f" second{by_roofline} at batch size {last}"
  )
  if at == len(timed) - 1:
    return f"{text}, and still grows there." if at else f"{text}."
  limit, _ = throughput.binding(timed[at:])
  if timed[at].bound and limit == "saturation":
    limit = f"{timed[-1].bound} of the device"
  growth = f"{throughput.GROWTH:.0%}"
  return f"{text}; no larger size has {growth} more (limit: {limit})."


def _alternatives(timed, decide, by_target):
  """Returns a sentence on the sizes that may be as good, if there are any."""
  changing = throughput.sensitive(timed, decide, lambda _: throughput.AGREE)
  place = 1 if by_target else 0
  decision = decide(timed)[place]
  others = sorted({other[place] for _, other in changing} - {decision, None})
  if not others:
    return []
  sizes = " or ".join(str(size) for size in others)
  return [
    f"Batch size {sizes} may be as good, since times have an error of"
    f" {throughput.AGREE:.0%}."
  ]


def _target_in_words(known, outcome, target, timed, findings):
  if outcome is None:
    return [next(f.advice for f in findings if f.check == "steps_to_target")]
  tuned = next(o for o in known if o.batch_size == outcome.time)
  seconds = _seconds(timed)[tuned.batch_size]
  scaling = f"Scaling is perfect up to batch size {outcome.perfect}."
  fit = outcome.critical
  found = next(f for f in findings if f.check == "critical_batch_size")
  if found.verdict == "unknown":
    scaling += f" {found.advice}"
  else:
    scaling += (
      f" Critical batch size: {fit.critical:,.0f} examples (90% interval over"
      f" seeds and learning rates: {fit.low:,.0f} to {fit.high:,.0f}), with"
      f" {2 * fit.least_steps:,.0f} steps; the minimum at any size is"
      f" {fit.least_steps:,.0f} steps."
    )
  return [
    f"Use batch size {tuned.batch_size}: it reaches {target} in the least time"
    " and with the fewest device-seconds on these devices,"
    f" {_short(seconds * tuned.mean)} s = {tuned.mean:,.0f} steps of"
    f" {_short(1e3 * seconds)} ms, at a constant learning rate of"
    f" {tuned.best.rate:g}.",
    "If the number of devices grew in proportion to the batch size:"
    f" {outcome.time_scaled} for the least time, {outcome.resources_scaled} for"
    " the fewest device-seconds.",
    scaling,
  ]


def _short(number):
  return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def _table(speeds, reached, num_devices, target, measured):
  by_size = {tuned.batch_size: tuned for tuned in reached}
  heads = ["batch size", "fits", "MiB", "examples/s", "ms per step"]
  if measured:
    heads += ["passes differ", "without feed, ms"]
  if target is not None:
    heads += ["learning rate", "steps", "+-", "examples", "seconds"]
    if num_devices > 1:
      heads.append("device-seconds")
  rows = []
  for s in speeds:
    row: list[Any] = [s.batch_size, "NO" if s.too_large else "yes"]
    row += [_number(s.bytes / 2**20), _number(s.throughput)]
    row.append(_number(1e3 * s.loop_seconds))
    if measured:
      row.append(f"{s.differ:.0%}" if s.loop_seconds > 0 else None)
      row.append(_number(1e3 * s.step_seconds))
    tuned = by_size.get(s.batch_size)
    if tuned is not None and tuned.is_known:
      spread = (
        float(np.std(tuned.steps, ddof=1)) if len(tuned.steps) > 1 else None
      )
      time = s.loop_seconds * tuned.mean
      row += [tuned.best.rate, round(tuned.mean), spread and round(spread)]
      row += [round(tuned.examples), _number(time), _number(num_devices * time)]
    elif target is not None:
      row += ["-", f"> {tuned.budget}" if tuned else "-", *["-"] * 4]
    rows.append(row[: len(heads)])
  return result_lib.Table(
    "Batch sizes",
    heads,
    rows,
    note="Time of a step in the training loop, and of the same step with its"
    " examples on the device (without feed): the best of several passes, and by"
    " how much the second best took longer."
    if measured
    else "Upper bounds by the roofline; nothing was timed.",
  )


def _number(value):
  return formats.rounded(value, 4) if math.isfinite(value) else None


def _throughput_figure(timed, last, measured):
  first, most = timed[0], max(s.throughput for s in timed)
  name = "training loop" if measured else "roofline, at most"
  rows = [dict(x=s.batch_size, y=s.throughput, series=name) for s in timed]
  rows += [
    dict(x=s.batch_size, y=s.batch_size / s.step_seconds, series="without feed")
    for s in timed
    if math.isfinite(s.step_seconds)
  ]
  ideal = [
    (s.batch_size, first.throughput * s.batch_size / first.batch_size)
    for s in timed
  ]
  name = "proportional to the batch size"
  # Without the part far above the measured values.
  lines = [dict(x=x, y=y, series=name) for x, y in ideal if y <= 4 * most]
  return result_lib.FigureData(
    "throughput against batch size",
    _SIZE,
    result_lib.Axis("examples per second", log=True),
    lines=rows + lines,
    points=rows,
    rules={f"grows up to {last}": last} if last < timed[-1].batch_size else {},
    caption="Throughput below the ideal line is limited by the input, by"
    " collectives or by the device; it does not grow beyond the dashed line.",
  )


def _steps_figure(known, outcome, target):
  least = min(tuned.examples for tuned in known)
  sizes = [tuned.batch_size for tuned in known]
  lines = [
    dict(x=size, y=least / size, series="perfect scaling") for size in sizes
  ]
  rules, fit = {}, outcome.critical
  if fit is not None:
    lines += [
      dict(x=float(x), y=fit.steps(x), series="fit")
      for x in np.geomspace(sizes[0], sizes[-1], 40)
    ]
    if critical.is_between(fit, sizes):
      rules[f"critical: {fit.critical:,.0f}"] = fit.critical
  errors = 2 * critical.relative_errors(known)
  return result_lib.FigureData(
    "steps to the target",
    _SIZE,
    result_lib.Axis(f"steps to {target}", log=True),
    lines=lines,
    points=[
      dict(
        x=tuned.batch_size,
        y=tuned.mean,
        low=tuned.mean * math.exp(-error),
        high=tuned.mean * math.exp(error),
        series="best learning rate of each size",
      )
      for tuned, error in zip(known, errors, strict=True)
    ],
    rules=rules,
    caption="Error bars: two standard errors. With perfect scaling, twice the"
    " batch size takes half the steps; beyond the critical batch size the gain"
    " becomes small.",
  )


def _cost_figure(known, outcome, timed, num_devices):
  seconds = _seconds(timed)
  first = known[0].batch_size
  costs = {
    "time, these devices": lambda size: seconds[size],
    "time, devices grow with the batch": lambda _: seconds[first],
    "device-seconds, devices grow": lambda size: (
      num_devices * seconds[first] * size / first
    ),
  }
  if num_devices > 1:
    costs["device-seconds, these devices"] = lambda size: (
      num_devices * seconds[size]
    )
  rows = [
    dict(x=tuned.batch_size, y=tuned.mean * cost(tuned.batch_size), series=name)
    for tuned in known
    for name, cost in costs.items()
  ]
  return result_lib.FigureData(
    "time and device-seconds to the target",
    _SIZE,
    result_lib.Axis("seconds, device-seconds", log=True),
    lines=rows,
    points=rows,
    rules={f"least time: {outcome.time}": outcome.time},
    caption="If the devices grow with the batch size, a step takes as long as"
    " at the smallest size. On one device, time and device-seconds are equal.",
  )
