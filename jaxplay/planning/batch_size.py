"""Which batch size: the playbook's rules, on numbers.

Playbook, choosing the batch size: it governs the speed of training, and is not
tuned for validation performance. Sizes double until memory ends; only those up
to which throughput grows are considered; of these, the one is best that reaches
a target in the least time = time per step x steps, or with the least resources
= resources per step x steps.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxplay import finding
from jaxplay.planning import answer as answer_lib
from jaxplay.planning import steps as steps_lib

# A doubling of the batch that gives less than so much more throughput does not
# count as growth; and one that gives less than this is not nearly twice it.
GROWTH, NEARLY = 0.25, 0.7
# The loop waits for data where a step in it takes so much longer than alone.
_INPUT_BOUND = 0.25
# So large a share of collectives in a step's least time is what binds.
_COLLECTIVE_SHARE = 0.25
# Perfect scaling: examples to the target within so much of the least.
_PERFECT = 0.25
# Times that are closer than this are alike; the smaller batch is taken.
_ALIKE = 0.05
_FEWEST_SIZES = 4  # for a fit of two numbers
_DRAWS, _GRID = 500, 600

_THROUGHPUT = (
  "Playbook, determining the feasible batch sizes and estimating training"
  " throughput"
)
_TIME = "Playbook, choosing the batch size to minimize training time"
_RESOURCES = (
  "Playbook, choosing the batch size to minimize resource consumption"
)
_RETUNE = "Playbook, changing the batch size requires re-tuning most"
_RETUNE += " hyperparameters"
_CRITICAL = "McCandlish et al. 2018, arXiv 1812.06162"


@dataclasses.dataclass(frozen=True)
class Speed:
  """What is known of training at one batch size.

  Attributes:
    batch_size: Examples of an update.
    loop_seconds: Of a step in the training loop, its data brought by the feed;
      of an estimate, of the step. NaN: not known.
    step_seconds: Of the step alone.
    collective_share: Of collectives in the least time of the compiled step.
    bytes: Of memory on each device, at the peak.
    too_large: Why it does not fit; "": it does.
    bound: Of an estimate: what takes the longest, of `roofline.Roofline`.
  """

  batch_size: int
  loop_seconds: float = math.nan
  step_seconds: float = math.nan
  collective_share: float = 0.0
  bytes: float = math.nan
  too_large: str = ""
  bound: str = ""

  @property
  def throughput(self) -> float:
    """Examples per second, of the training loop."""
    return self.batch_size / self.loop_seconds


def gains(speeds: Sequence[Speed]) -> list[float]:
  """Factor of throughput for each doubling of the batch, of all but the first.

  Against the fastest of the smaller sizes, or 1 if none is faster: a machine
  that others use makes some measurements slow, and the way out of a dip is no
  growth.

  Args:
    speeds: Of sizes that fit, ascending.
  """
  found, record = [], speeds[0]
  for speed in speeds[1:]:
    gain = 1.0
    if speed.throughput > record.throughput:
      doublings = math.log2(speed.batch_size / record.batch_size)
      gain = (speed.throughput / record.throughput) ** (1 / doublings)
      record = speed
    found.append(gain)
  return found


def saturation(speeds: Sequence[Speed]) -> int:
  """Index of the size up to which throughput grows (B3).

  The largest size that gives at least 25 % more throughput, for each doubling,
  than the fastest of the smaller ones; see `gains`.

  Args:
    speeds: Of sizes that fit, ascending.
  """
  found = [i + 1 for i, gain in enumerate(gains(speeds)) if gain >= 1 + GROWTH]
  return max(found, default=0)


def binding(speeds: Sequence[Speed]) -> tuple[str, dict[str, float]]:
  """What binds throughput at the largest sizes: B3's three classes.

  "input": a step in the loop takes 25 % longer than alone; "collective": the
  compiled step's least time is by 25 % or more that of exchanges among devices;
  else "saturation" of the device.

  Returns:
    (class, evidence)
  """
  ratios = [
    s.loop_seconds / s.step_seconds
    for s in speeds
    if math.isfinite(s.step_seconds)
  ]
  ratio = float(np.median(ratios)) if ratios else math.nan
  share = float(np.median([s.collective_share for s in speeds]))
  evidence = {"loop_over_step_seconds": ratio, "collective_share": share}
  if ratio > 1 + _INPUT_BOUND:
    return "input", evidence
  if share >= _COLLECTIVE_SHARE:
    return "collective", evidence
  return "saturation", evidence


_MENDS = {
  "input": "The loop waits for its data: give it more config.dataset.workers,"
  " prepared data, or a larger config.dataset.device_bytes, and measure again.",
  "collective": "Exchanges among devices bind: change config.mesh (plan"
  " topology shows what each costs), and measure again.",
  "saturation": "The device is busy; a larger batch only makes a step longer.",
}


def throughput_findings(
  speeds: Sequence[Speed],
  *,
  microbatches: int = 1,
  measured: bool = True,
) -> list[finding.Finding]:
  """What the throughputs of sizes say (B3, B4).

  Args:
    speeds: Of sizes that fit, ascending.
    microbatches: Of the config.
    measured: Whether they are no estimates.
  """
  at = saturation(speeds)
  last = speeds[at].batch_size
  each = gains(speeds)
  evidence: dict[str, Any] = {
    "batch_sizes": [s.batch_size for s in speeds],
    "examples_per_second": [s.throughput for s in speeds],
    "gain_of_a_doubling": each,
    "growth_that_counts": 1 + GROWTH,
    "saturation": last,
    "measured": measured,
  }
  found = []
  beyond = [s.batch_size for s in speeds[at + 1 :]]
  less = [i for i, gain in enumerate(each[:at]) if gain < 1 + NEARLY]
  if beyond:
    what, why = binding(speeds[at:])
    advice = (
      f"Beyond {last} examples a doubling gives less than {GROWTH:.0%} more"
      f" throughput, so larger batches are not worth it. {_MENDS[what]}"
    )
    found.append(
      finding.Finding(
        "throughput_saturates",
        "warn",
        f"batch size {beyond[0]}",
        evidence | why | {"class": what, "not_recommended": beyond},
        advice,
        _THROUGHPUT,
      )
    )
  else:
    found.append(
      finding.Finding(
        "throughput_saturates",
        "ok",
        f"batch sizes to {last}",
        evidence,
        "",
        _THROUGHPUT,
      )
    )
  if less:
    what, why = binding([speeds[i + 1] for i in less])
    first = speeds[less[0] + 1].batch_size
    found.append(
      finding.Finding(
        "throughput_nearly_doubles",
        "warn",
        f"batch size {first}",
        evidence | why | {"class": what},
        f"From {speeds[less[0]].batch_size} to {first} examples a doubling"
        f" gives {each[less[0]]:.2f} times the throughput, not nearly 2; what"
        f" binds is {what}."
        + (f" {_MENDS[what]}" if what != "saturation" else ""),
        _THROUGHPUT,
      )
    )
  if microbatches > 1:
    found.append(
      finding.Finding(
        "gradient_accumulation",
        "warn",
        "microbatches",
        {"microbatches": microbatches, "batch_sizes": [last]},
        f"config.microbatches={microbatches} only simulates a larger batch: it"
        " saves memory and buys no throughput. Use 1, and a batch that fits.",
        _THROUGHPUT,
      )
    )
  return found


def retune(old: int, new: int, keys: Sequence[str]) -> list[finding.Finding]:
  """What a change of the batch size asks for (B8).

  Args:
    old: The config's size.
    new: The recommended one.
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
      f"From {old} to {new} examples the best values of {', '.join(keys)}"
      " change: tune them again for the new size, before comparing anything.",
      _RETUNE,
    )
  ]


@dataclasses.dataclass(frozen=True)
class Reached:
  """How many steps a size took to the target, its learning rate tuned.

  Attributes:
    batch_size: Examples of an update.
    rate: The best learning rate; NaN: no rate reached the target.
    steps: Of each seed that reached it.
    missed: Seeds that did not.
    budget: Steps that each trial had.
    every: Steps between evaluations, the resolution of `steps`.
    edge: "lowest" or "highest" where the best rate is at that edge, else "".
    least: Best value of the metric.
  """

  batch_size: int
  rate: float
  steps: tuple[int, ...]
  missed: int
  budget: int
  every: int
  edge: str = ""
  least: float = math.nan

  @property
  def mean(self) -> float:
    """Steps to the target; a seed that missed it counts with its budget."""
    all_steps = (*self.steps, *[self.budget] * self.missed)
    return float(np.mean(all_steps))

  @property
  def is_known(self) -> bool:
    """Whether more seeds reached the target than not."""
    return len(self.steps) > self.missed

  @property
  def examples(self) -> float:
    """Seen until the target was reached."""
    return self.batch_size * self.mean


def relative_errors(found: Sequence[Reached]) -> np.ndarray:
  """Standard errors of the logarithms of mean steps, of each size.

  From the spread over seeds, pooled over sizes since seeds are few, and that of
  a step that is only known to an interval of evaluations.
  """
  squares, freedom = 0.0, 0
  for one in found:
    if len(one.steps) > 1:
      logs = np.log(one.steps)
      squares += float(np.sum((logs - logs.mean()) ** 2))
      freedom += len(one.steps) - 1
  variance = squares / freedom if freedom else 0.0
  return np.array(
    [
      math.sqrt(
        (variance + (one.every / one.mean) ** 2 / 12) / max(1, len(one.steps))
      )
      for one in found
    ]
  )


@dataclasses.dataclass(frozen=True)
class Critical:
  """The fit of steps = least_steps (1 + critical / batch size).

  Attributes:
    least_steps: To which they fall as the batch grows.
    critical: Batch size at which twice as many are needed.
    low: Of the critical size, 5th percentile over the seeds' spread.
    high: 95th.
    residual: Root mean square of the logarithms of steps.
  """

  least_steps: float
  critical: float
  low: float
  high: float
  residual: float

  def steps(self, batch_size: float) -> float:
    """By the fit."""
    return self.least_steps * (1 + self.critical / batch_size)


def fit_critical(found: Sequence[Reached], seed: int = 0) -> Critical | None:
  """Fits the critical batch size; None: of fewer than four sizes.

  By least squares of log steps, over a grid of critical sizes from a hundredth
  of the smallest size to a hundred times the largest; the interval is that of
  fits to steps drawn with their standard errors. McCandlish et al. 2018.
  """
  if len(found) < _FEWEST_SIZES:
    return None
  sizes = np.array([one.batch_size for one in found], float)
  logs = np.log([one.mean for one in found])
  errors = relative_errors(found)
  grid = np.geomspace(sizes.min() / 100, sizes.max() * 100, _GRID)
  shapes = np.log1p(grid[:, None] / sizes)  # [grid, sizes]
  centred = shapes - shapes.mean(1, keepdims=True)

  def best(values):
    """Index into the grid, of each row of values [n, sizes]."""
    values = values - values.mean(1, keepdims=True)
    # |v - c|^2 without |v|^2, which is the same for all of the grid.
    return np.argmin((centred**2).sum(1) - 2 * values @ centred.T, axis=1)

  at = int(best(logs[None])[0])
  noise = np.random.default_rng(seed).normal(size=(_DRAWS, len(found)))
  drawn = grid[best(logs + noise * errors)]
  least = float(np.exp(np.mean(logs - shapes[at])))
  residuals = logs - np.log(least) - shapes[at]
  return Critical(
    least_steps=least,
    critical=float(grid[at]),
    low=float(np.percentile(drawn, 5)),
    high=float(np.percentile(drawn, 95)),
    residual=float(np.sqrt(np.mean(residuals**2))),
  )


def perfect_to(found: Sequence[Reached]) -> int:
  """The largest size to which scaling is perfect.

  Its examples to the target are within 25 %, or two standard errors, of the
  least of all sizes.
  """
  errors = relative_errors(found)
  logs = np.log([one.examples for one in found])
  at = int(np.argmin(logs))
  return max(
    one.batch_size
    for one, log, error in zip(found, logs, errors, strict=True)
    if log - logs[at]
    <= max(math.log1p(_PERFECT), 2 * math.hypot(error, errors[at]))
  )


def cheapest(found: Sequence[Reached], costs: Mapping[int, float]) -> int:
  """The size of the least cost, or the smallest of those alike.

  Alike are costs that differ by less than 5 %, and by less than two standard
  errors.

  Args:
    found: Of each size, ascending.
    costs: Batch size -> cost of a step.
  """
  errors = relative_errors(found)
  logs = np.log([costs[one.batch_size] * one.mean for one in found])
  at = int(np.argmin(logs))
  return min(
    one.batch_size
    for i, (one, log, error) in enumerate(zip(found, logs, errors, strict=True))
    if i == at
    or log - logs[at]
    <= min(math.log1p(_ALIKE), 2 * math.hypot(error, errors[at]))
  )


@dataclasses.dataclass(frozen=True)
class Scaled:
  """What steps to a target say of the sizes that reached it.

  Attributes:
    time: Size of the least time on these devices (B5).
    resources: Size of the least device-seconds on these devices (B6).
    time_scaled: As if each doubling of the batch doubled the devices, and the
      time per step were the same.
    resources_scaled: Likewise.
    perfect: See `perfect_to`.
    critical: The fit; None: of too few sizes.
  """

  time: int
  resources: int
  time_scaled: int
  resources_scaled: int
  perfect: int
  critical: Critical | None


def scaled(
  found: Sequence[Reached], seconds: Mapping[int, float], num_devices: int
) -> Scaled:
  """Decides on sizes that reached the target; see `Scaled`.

  Args:
    found: Of each size, ascending.
    seconds: Batch size -> seconds of a step of the training loop.
    num_devices: That those were measured on.
  """
  sizes = [one.batch_size for one in found]
  return Scaled(
    time=cheapest(found, seconds),
    resources=cheapest(
      found, {size: num_devices * seconds[size] for size in sizes}
    ),
    time_scaled=cheapest(found, dict.fromkeys(sizes, 1.0)),
    resources_scaled=cheapest(found, {size: float(size) for size in sizes}),
    perfect=perfect_to(found),
    critical=fit_critical(found),
  )


def target_findings(
  all_sizes: Sequence[Reached],
  target: steps_lib.Target,
  outcome: Scaled | None,
) -> list[finding.Finding]:
  """What steps to the target say, of each size (B5, B6, B7).

  Args:
    all_sizes: Ascending.
    target: What was to be reached.
    outcome: Of those that reached it; None: none did.
  """
  subject = str(target)
  found = [one for one in all_sizes if one.is_known]
  missed = [one for one in all_sizes if not one.is_known]
  if outcome is None:
    closest = min(
      all_sizes, key=lambda o: o.least if math.isfinite(o.least) else math.inf
    )
    most = max(one.budget for one in all_sizes)
    return [
      finding.Finding(
        "steps_to_target",
        "unknown",
        subject,
        {
          "batch_sizes": [one.batch_size for one in all_sizes],
          "budgets": [one.budget for one in all_sizes],
          "least": closest.least,
        },
        f"No batch size reaches {target} in most of its seeds; the closest is"
        f" {closest.least:.3g}, with {closest.batch_size} examples. Give more"
        f" steps (--steps={4 * most}), a looser --target, or a wider"
        " --learning_rates.",
        _TIME,
      )
    ]
  errors = relative_errors(found)
  steps = [one.mean for one in found]
  evidence: dict[str, Any] = {
    "batch_sizes": [one.batch_size for one in found],
    "steps": steps,
    "relative_standard_errors": list(errors),
    "learning_rates": [one.rate for one in found],
  }
  findings = [
    finding.Finding(
      "compared_at_equal_target", "ok", subject, evidence, "", _TIME
    ),
    finding.Finding(
      "perfect_scaling",
      "ok",
      f"batch sizes to {outcome.perfect}",
      {"examples": [one.examples for one in found], "to": outcome.perfect},
      "",
      _TIME,
    ),
    _critical_finding(found, outcome.critical),
    finding.Finding(
      "least_time",
      "ok",
      f"batch size {outcome.time}",
      {"here": outcome.time, "devices_grow": outcome.time_scaled},
      "",
      _TIME,
    ),
    finding.Finding(
      "least_resources",
      "ok",
      f"batch size {outcome.resources}",
      {"here": outcome.resources, "devices_grow": outcome.resources_scaled},
      "",
      _RESOURCES,
    ),
  ]
  for i, (one, before) in enumerate(zip(found[1:], found, strict=False)):
    more = math.log(one.mean / before.mean)
    if more > max(0.1, 2 * math.hypot(errors[i], errors[i + 1])):
      findings.append(
        finding.Finding(
          "larger_batch_needs_more_steps",
          "warn",
          f"batch size {one.batch_size}",
          {"steps": one.mean, "steps_of_smaller": before.mean},
          f"With {one.batch_size} examples {one.mean:,.0f} steps were needed,"
          f" and with {before.batch_size} only {before.mean:,.0f}. A larger"
          " batch that is well tuned never needs more: tune more than its"
          " learning rate, or the target hangs on how noisy training is.",
          _TIME,
        )
      )
  for one in missed:
    findings.append(
      finding.Finding(
        "steps_to_target",
        "unknown",
        f"batch size {one.batch_size}",
        {"budget": one.budget, "least": one.least, "reached": len(one.steps)},
        f"With {one.batch_size} examples {target} is not reached within"
        f" {one.budget:,} steps in most seeds; it is left out.",
        _TIME,
      )
    )
  for one in found:
    if one.missed:
      findings.append(
        finding.Finding(
          "seeds_missed_target",
          "warn",
          f"batch size {one.batch_size}",
          {"missed": one.missed, "budget": one.budget},
          f"{one.missed} of {len(one.steps) + one.missed} seeds of batch size"
          f" {one.batch_size} did not reach {target}; they count with their"
          f" {one.budget:,} steps, so its steps are too few.",
          _TIME,
        )
      )
    if one.edge:
      findings.append(
        finding.Finding(
          "learning_rate_at_edge",
          "warn",
          f"batch size {one.batch_size}",
          {"learning_rate": one.rate, "edge": one.edge},
          f"The best rate of batch size {one.batch_size}, {one.rate:g}, is the"
          f" {one.edge} that was tried, so it may need fewer steps than it"
          " seems; widen --learning_rates.",
          _RETUNE,
        )
      )
  return findings


def _critical_finding(found, fit):
  name, source = "critical_batch_size", _CRITICAL
  sizes = [one.batch_size for one in found]
  if fit is None:
    return finding.Finding(
      name,
      "unknown",
      "batch sizes",
      {"batch_sizes": sizes},
      f"A fit takes {_FEWEST_SIZES} sizes that reach the target, and"
      f" {len(sizes)} did.",
      source,
    )
  evidence = dataclasses.asdict(fit)
  told = f"{fit.critical:,.0f} examples ({fit.low:,.0f} to {fit.high:,.0f})"
  if fit.critical > 4 * sizes[-1] or fit.critical < sizes[0] / 4:
    side = "above" if fit.critical > sizes[-1] else "below"
    return finding.Finding(
      name,
      "unknown",
      told,
      evidence,
      f"The critical batch size lies {side} all sizes that were tried; its"
      " value is not known well.",
      source,
    )
  return finding.Finding(name, "ok", told, evidence, "", source)


def answer(
  speeds: Sequence[Speed],
  *,
  batch_size: int,
  eval_batch_size: int,
  retuned: Sequence[str],
  microbatches: int = 1,
  num_devices: int = 1,
  ended: str = "",
  measured: bool = True,
  target: steps_lib.Target | None = None,
  reached: Sequence[Reached] = (),
) -> answer_lib.Answer:
  """The whole answer.

  Args:
    speeds: Of each size that was tried, ascending; at least one fits.
    batch_size: The config's.
    eval_batch_size: The config's.
    retuned: Hyperparameters to tune again at another size.
    microbatches: The config's.
    num_devices: That times are of.
    ended: Why no larger size was tried, a sentence.
    measured: Whether times are no estimates.
    target: What was to be reached, if anything.
    reached: Of each size that was trained, ascending.
  """
  fitting = [s for s in speeds if not s.too_large]
  timed = [s for s in fitting if s.loop_seconds > 0]
  findings, said, last = [], [], fitting[-1].batch_size
  if timed:
    findings += throughput_findings(
      timed, microbatches=microbatches, measured=measured
    )
    at = saturation(timed)
    last = timed[at].batch_size
    said.append(_told_throughput(timed, at, measured))
  chosen: int | None = last
  outcome = None
  seconds = {s.batch_size: s.loop_seconds for s in timed}
  if target is None:
    said.insert(
      0,
      f"Use {last} examples: the largest batch that fits"
      + (" and up to which throughput grows" if timed else "")
      + ", a rule of thumb that takes no training."
      + (" --target measures what it takes to reach one." if measured else ""),
    )
  else:
    known = [one for one in reached if one.is_known]
    if known:
      outcome = scaled(known, seconds, num_devices)
    findings += target_findings(reached, target, outcome)
    chosen = outcome and outcome.time
    said = _told_target(known, outcome, target, seconds, findings) + said
  too_large = [s for s in speeds if s.too_large]
  if too_large:
    said.append(
      f"{too_large[0].batch_size} examples do not fit:"
      f" {too_large[0].too_large}."
    )
  elif ended:
    said.append(ended)
  settings = {}
  if chosen is not None:
    findings += retune(batch_size, chosen, retuned)
    if chosen != batch_size:
      settings["batch_size"] = chosen
    if chosen > eval_batch_size:
      settings["eval_batch_size"] = chosen
  return answer_lib.Answer(
    said=said,
    settings=settings,
    findings=findings,
    tables=[_table(speeds, reached, num_devices, target)],
    pictures=[
      *([_throughput_picture(timed, measured)] if timed else []),
      *(
        _target_pictures(
          [one for one in reached if one.is_known],
          outcome,
          target,
          seconds,
          num_devices,
        )
        if outcome
        else []
      ),
    ],
    details={
      "batch_size": chosen,
      "saturation": last,
      "speeds": [dataclasses.asdict(s) for s in speeds],
      "reached": [dataclasses.asdict(one) for one in reached],
      "scaled": outcome and dataclasses.asdict(outcome),
      "num_devices": num_devices,
      "target": target and str(target),
    },
  )


def _told_throughput(timed, at, measured):
  one = timed[at]
  about = "" if measured else " at most, by the roofline"
  told = (
    f"Throughput is {_short(one.throughput)} examples per second{about} at"
    f" {one.batch_size} examples"
  )
  if at == len(timed) - 1:
    return told + ", and still grows there."
  what, _ = binding(timed[at:])
  if one.bound and what == "saturation":
    what = f"{timed[-1].bound} of the device"
  return (
    told + f"; beyond, a doubling gives less than {GROWTH:.0%} more ({what})."
  )


def _told_target(known, outcome, target, seconds, findings):
  if outcome is None:
    return [next(f.advice for f in findings if f.check == "steps_to_target")]
  by_size = {one.batch_size: one for one in known}
  one = by_size[outcome.time]
  said = [
    f"Use {one.batch_size} examples: they reach {target} in the least time,"
    f" {_short(seconds[one.batch_size] * one.mean)} s = {one.mean:,.0f} steps"
    f" of {_short(1e3 * seconds[one.batch_size])} ms, at a constant learning"
    f" rate of {one.rate:g}.",
    f"The least device-seconds take {outcome.resources} examples here. If each"
    " doubling doubled the devices and a step took as long:"
    f" {outcome.time_scaled} for time, {outcome.resources_scaled} for"
    " device-seconds.",
    f"Scaling is perfect up to {outcome.perfect} examples.",
  ]
  if outcome.critical is not None:
    fit = outcome.critical
    said.append(
      f"Critical batch size: {fit.critical:,.0f} examples ({fit.low:,.0f} to"
      f" {fit.high:,.0f}), at which {2 * fit.least_steps:,.0f} steps are needed"
      f" and never fewer than {fit.least_steps:,.0f}."
    )
  return said


def _short(number):
  return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def _table(speeds, reached, num_devices, target):
  by_size = {one.batch_size: one for one in reached}
  heads = ["batch size", "fits", "examples/s", "ms per step", "step alone, ms"]
  heads += ["MiB"]
  if target is not None:
    heads += ["rate", "steps", "+-", "examples", "seconds", "device-seconds"]
  rows = []
  for s in speeds:
    row: list[Any] = [
      s.batch_size,
      "NO" if s.too_large else "yes",
      _number(s.throughput),
      _number(1e3 * s.loop_seconds),
      _number(1e3 * s.step_seconds),
      _number(s.bytes / 2**20),
    ]
    one = by_size.get(s.batch_size)
    if one is not None and one.is_known:
      spread = float(np.std(one.steps, ddof=1)) if len(one.steps) > 1 else None
      time = s.loop_seconds * one.mean
      row += [one.rate, round(one.mean), spread and round(spread)]
      row += [round(one.examples), _number(time), _number(num_devices * time)]
    elif target is not None:
      row += ["-", f"> {one.budget}" if one else "-", *["-"] * 4]
    rows.append(row)
  return answer_lib.Table("Batch sizes", heads, rows)


def _number(value):
  return float(f"{value:.4g}") if math.isfinite(value) else None


def _throughput_picture(timed, measured):
  first, at = timed[0], saturation(timed)
  series = "training loop" if measured else "roofline, at most"
  rows = [
    dict(x=s.batch_size, y=s.throughput, series=series) for s in timed
  ] + [
    dict(x=s.batch_size, y=s.batch_size / s.step_seconds, series="step alone")
    for s in timed
    if measured and math.isfinite(s.step_seconds)
  ]
  ideal = [
    dict(
      x=s.batch_size,
      y=first.throughput * s.batch_size / first.batch_size,
      series="twice as much for each doubling",
    )
    for s in timed
    # Far above what is reached, it would only press that flat.
    if first.throughput * s.batch_size / first.batch_size
    <= 4 * max(one.throughput for one in timed)
  ]
  rules = {}
  if at < len(timed) - 1:
    rules = {f"grows up to {timed[at].batch_size}": timed[at].batch_size}
  return answer_lib.Picture(
    "throughput against batch size",
    answer_lib.Axis("batch size, examples", log=True),
    answer_lib.Axis("examples per second", log=True),
    lines=rows + ideal,
    points=rows,
    rules=rules,
    caption="Where the line leaves the ideal one, something binds; past the"
    " rule a larger batch gives no more throughput.",
  )


def _target_pictures(known, outcome, target, seconds, num_devices):
  errors = relative_errors(known)
  least = min(known, key=lambda one: one.examples)
  sizes = [one.batch_size for one in known]
  name = f"steps to {target}"
  lines = [
    dict(x=size, y=least.examples / size, series="perfect scaling")
    for size in sizes
  ]
  rules = {}
  if outcome.critical is not None:
    fine = np.geomspace(sizes[0], sizes[-1], 40)
    lines += [
      dict(x=float(x), y=outcome.critical.steps(x), series="fit") for x in fine
    ]
    critical = outcome.critical.critical
    if sizes[0] / 4 <= critical <= 4 * sizes[-1]:
      rules[f"critical: {critical:,.0f}"] = critical
  x = answer_lib.Axis("batch size, examples", log=True)
  steps = answer_lib.Picture(
    "steps to the target",
    x,
    answer_lib.Axis(name, log=True),
    lines=lines,
    points=[
      dict(
        x=one.batch_size,
        y=one.mean,
        low=one.mean * math.exp(-2 * error),
        high=one.mean * math.exp(2 * error),
        series="best learning rate of each size",
      )
      for one, error in zip(known, errors, strict=True)
    ],
    rules=rules,
    caption="Bars are of two standard errors. Along the line twice the batch"
    " takes half the steps; beyond the critical size a larger one gains less"
    " and less.",
  )
  grown = seconds[sizes[0]]
  costs = [
    row
    for one in known
    for row in (
      dict(
        x=one.batch_size,
        y=seconds[one.batch_size] * one.mean,
        series="time, these devices",
      ),
      dict(
        x=one.batch_size,
        y=grown * one.mean,
        series="time, devices grow with the batch",
      ),
      dict(
        x=one.batch_size,
        y=num_devices * grown * one.mean * one.batch_size / sizes[0],
        series="device-seconds, devices grow",
      ),
    )
  ]
  if num_devices > 1:
    costs += [
      dict(
        x=one.batch_size,
        y=num_devices * seconds[one.batch_size] * one.mean,
        series="device-seconds, these devices",
      )
      for one in known
    ]
  cost = answer_lib.Picture(
    "time and device-seconds to the target",
    x,
    answer_lib.Axis("seconds, device-seconds", log=True),
    lines=costs,
    points=costs,
    rules={f"least time: {outcome.time}": outcome.time},
    caption="Where devices grow with the batch, a step takes as long as that of"
    " the smallest batch. On one device, time and device-seconds are one.",
  )
  return [steps, cost]
