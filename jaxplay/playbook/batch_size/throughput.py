"""How fast each batch size trains, and up to which size that grows.

Playbook, determining the feasible batch sizes: sizes double until memory ends;
throughput should nearly double with them, and only those up to which it grows
are considered.

Whatever else runs on a machine only makes a step slower. So sizes are timed in
several passes, one after another in each, and the best of its passes counts of
a size. Where the two best differ by more than 10%, the size may be faster by as
much again; if that changed the result, the result is inconclusive. Where they
agree, a time is known to 10% at best: the alternatives are reported.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxplay import finding, rundir

# Throughput grows past a size if a larger one gives so much more; a doubling
# that gives less than this is not nearly twice of it.
GROWTH, NEARLY = 0.25, 0.7
# The two best passes over a size agree if they differ by no more.
AGREE = 0.1
# The loop waits for data where a step in it takes so much longer than alone.
_INPUT_BOUND = 0.25
# So large a share of exchanges in a step is what binds.
_COLLECTIVE_SHARE = 0.25

_SOURCE = (
  "Playbook, determining the feasible batch sizes and estimating training"
  " throughput"
)
_TIMES = ("loop_seconds", "step_seconds", "exchange_seconds")


class Pass(TypedDict, total=False):
  """What one pass over a size has found: fields of `Speed`; null: not known."""

  loop_seconds: rundir.Above0 | None
  step_seconds: rundir.Above0 | None
  exchange_seconds: rundir.Seconds | None
  bytes: rundir.Seconds | None
  too_large: str | None
  bound: str | None


@dataclasses.dataclass(frozen=True)
class Speed:
  """What is known of training at one batch size.

  Attributes:
    batch_size: Examples of an update.
    loop_seconds: Of a step in the training loop, its data brought by the feed;
      of an estimate, of the step. NaN: not known.
    step_seconds: Of the same step, its data there already.
    exchange_seconds: Of the exchanges among devices in a step, by themselves.
    bytes: Of memory on each device, at the peak.
    too_large: Why it does not fit; "": it does.
    bound: Of an estimate: what takes the longest, of `roofline.Roofline`.
    differ: By what share the second best pass took longer than the best one;
      0 of an estimate.
  """

  batch_size: int
  loop_seconds: float = math.nan
  step_seconds: float = math.nan
  exchange_seconds: float = 0.0
  bytes: float = math.nan
  too_large: str = ""
  bound: str = ""
  differ: float = 0.0

  @property
  def throughput(self) -> float:
    """Examples per second, of the training loop."""
    return self.batch_size / self.loop_seconds


def best_of(batch_size: int, passes: Sequence[Mapping[str, Any]]) -> Speed:
  """The best of several passes over a size.

  Args:
    batch_size: The size.
    passes: Fields of `Speed` as each pass has found them; None is not known.
  """
  names = Pass.__annotations__
  known = [{k: p[k] for k in names if p.get(k) is not None} for p in passes]
  fields = dict(next((p for p in known if p.get("too_large")), known[0]))
  for name in _TIMES:
    times = sorted(p[name] for p in known if name in p)
    fields |= {name: times[0]} if times else {}
    if name == "loop_seconds" and len(times) > 1:
      fields["differ"] = times[1] / times[0] - 1
  return Speed(batch_size, **fields)


def swayed(
  speeds: Sequence[Speed],
  decide: Callable[[Sequence[Speed]], Any],
  share: Callable[[Speed], float],
) -> list[tuple[Speed, Any]]:
  """Speeds that a decision depends on, each with the alternative.

  Args:
    speeds: That it is taken by.
    decide: What it is, of speeds.
    share: By which a speed may be faster than it was found to be.
  """
  decision, changing = decide(speeds), []
  for i, speed in enumerate(speeds):
    seconds = speed.loop_seconds / (1 + share(speed))
    faster = dataclasses.replace(speed, loop_seconds=seconds)
    other = decide([*speeds[:i], faster, *speeds[i + 1 :]])
    if other != decision:
      changing.append((speed, other))
  return changing


def gains(speeds: Sequence[Speed]) -> list[float]:
  """Factor of throughput for each doubling of the batch, of all but the first.

  Against the fastest of the smaller sizes, or 1 if none is faster: the way out
  of a dip is no growth.

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

  The smallest size than which no larger one gives 25 % more throughput.

  Args:
    speeds: Of sizes that fit, ascending.
  """
  most = max(s.throughput for s in speeds)
  return next(
    i for i, s in enumerate(speeds) if most < (1 + GROWTH) * s.throughput
  )


def binding(speeds: Sequence[Speed]) -> tuple[str, dict[str, float]]:
  """What binds throughput at some sizes: B3's three classes.

  "input": a step in the loop takes 25 % longer than with its data there;
  "collective": exchanges among devices, by themselves, take 25 % or more of it;
  else "saturation" of the device.

  Returns:
    (class, evidence)
  """
  evidence = {
    "loop_over_step_seconds": float(
      np.median([s.loop_seconds / s.step_seconds for s in speeds])
    ),
    "exchanges_over_loop_seconds": float(
      np.median([s.exchange_seconds / s.loop_seconds for s in speeds])
    ),
  }
  waiting, exchanging = evidence.values()
  if waiting > 1 + _INPUT_BOUND:  # False where it is not known.
    return "input", evidence
  if exchanging >= _COLLECTIVE_SHARE:
    return "collective", evidence
  return "saturation", evidence


_FIXES = {
  "input": "The loop waits for its data: give it more config.dataset.workers,"
  " prepared data, or a larger config.dataset.device_bytes, and measure again.",
  "collective": "Exchanges among devices bind: change config.mesh (plan"
  " topology shows what each costs), and measure again.",
  "saturation": "The device is busy; a larger batch only makes a step longer.",
}


def findings(
  speeds: Sequence[Speed], *, microbatches: int = 1, measured: bool = True
) -> list[finding.Finding]:
  """What the throughputs of sizes say (B2, B3, B4).

  Args:
    speeds: Of sizes that fit, ascending.
    microbatches: Of the config.
    measured: Whether they are no estimates.
  """
  found = []

  def add(check, verdict, subject, evidence, advice=""):
    found.append(
      finding.Finding(check, verdict, subject, evidence, advice, _SOURCE)
    )

  at, each = saturation(speeds), gains(speeds)
  last, beyond = speeds[at].batch_size, [s.batch_size for s in speeds[at + 1 :]]
  evidence: dict[str, Any] = {
    "batch_sizes": [s.batch_size for s in speeds],
    "examples_per_second": [s.throughput for s in speeds],
    "gain_of_a_doubling": each,
    "growth_that_counts": 1 + GROWTH,
    "saturation": last,
    "measured": measured,
  }
  if beyond:
    what, why = binding(speeds[at:])
    add(
      "throughput_saturates",
      "warn",
      f"batch size {beyond[0]}",
      evidence | why | {"class": what, "not_recommended": beyond},
      f"No batch of more than {last} examples gives {GROWTH:.0%} more"
      f" throughput, so larger ones are not worth it. {_FIXES[what]}",
    )
  else:
    add("throughput_saturates", "ok", f"batch sizes to {last}", evidence)
  less = [i for i, gain in enumerate(each[:at]) if gain < 1 + NEARLY]
  if less:
    what, why = binding([speeds[i + 1] for i in less])
    before, first = (speeds[less[0] + i].batch_size for i in (0, 1))
    add(
      "throughput_nearly_doubles",
      "warn",
      f"batch size {first}",
      evidence | why | {"class": what},
      f"From {before} to {first} examples a doubling gives"
      f" {each[less[0]]:.2f} times the throughput, not nearly 2; what binds is"
      f" {what}." + (f" {_FIXES[what]}" if what != "saturation" else ""),
    )
  if microbatches > 1:
    add(
      "gradient_accumulation",
      "warn",
      "microbatches",
      {"microbatches": microbatches, "batch_sizes": [last]},
      f"config.microbatches={microbatches} only simulates a larger batch: it"
      " saves memory and buys no throughput. Use 1, and a batch that fits.",
    )
  return found


def passes_agree(
  speeds: Sequence[Speed], decide: Callable[[Sequence[Speed]], Any]
) -> finding.Finding:
  """Whether the machine was idle enough for a result (B2).

  Unknown if a size whose two best passes differ by more than 10 % would change
  the decision, were it as much faster again.

  Args:
    speeds: Of sizes that were timed.
    decide: What is to be decided.
  """
  differing = [s for s in speeds if s.differ > AGREE]
  hangs = swayed(speeds, decide, lambda s: s.differ if s in differing else 0.0)
  evidence = {
    "batch_sizes": [s.batch_size for s in speeds],
    "passes_differ": [s.differ for s in speeds],
    "agree_within": AGREE,
    "the_answer_hangs_on": [s.batch_size for s, _ in hangs],
  }
  named = [s for s, _ in hangs] or differing
  sizes = " and ".join(str(s.batch_size) for s in named)
  most = max((s.differ for s in named), default=0.0)
  verdict: finding.Verdict = "ok"
  advice = ""
  if hangs:
    verdict = "unknown"
    advice = (
      "Inconclusive, the machine was too busy: the result depends on the time"
      f" of {sizes} examples, whose best two passes differ by {most:.0%}. Run"
      " the same command again when nothing else runs."
    )
  elif differing:
    verdict = "warn"
    advice = (
      f"Something else ran on the machine: the best two passes over {sizes}"
      f" examples differ by {most:.0%}. The result does not depend on it."
    )
  return finding.Finding(
    "passes_agree", verdict, "batch sizes", evidence, advice, _SOURCE
  )
