"""The throughput of each batch size, and the size up to which it grows.

Playbook, determining the feasible batch sizes: sizes double up to the limit of
memory; throughput should nearly double with them, and only sizes up to which it
grows are considered.

Other load on a machine only makes a step slower. So all sizes are timed in
several passes, and the best pass of each size counts. If its two best passes
differ by more than 10%, a size may be faster by as much again; if that would
change the result, the result is inconclusive. If they agree, a time still has
an error of 10%, so alternatives within it are reported.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypedDict

import numpy as np

from jaxplay import finding, rundir

# Throughput grows beyond a size if a larger one has this much more. It nearly
# doubles if a doubling of the size has this much more.
GROWTH, NEARLY = 0.25, 0.7
# Maximum relative difference of two passes that agree.
AGREE = 0.1
# The input is the limit if a step in the loop takes this much longer than with
# its examples on the device.
_INPUT_BOUND = 0.25
# Collectives are the limit if they take this share of a step.
_COLLECTIVE_SHARE = 0.25

_SOURCE = (
  "Playbook, determining the feasible batch sizes and estimating training"
  " throughput"
)
_TIMES = ("loop_seconds", "step_seconds", "exchange_seconds")


class Pass(TypedDict, total=False):
  """A measurement of a size: fields of `Speed`; null: not known."""

  loop_seconds: rundir.Above0 | None
  step_seconds: rundir.Above0 | None
  exchange_seconds: rundir.Seconds | None
  bytes: rundir.Seconds | None
  too_large: str | None
  bound: str | None


@dataclasses.dataclass(frozen=True)
class Speed:
  """Speed and memory of training at one batch size.

  Attributes:
    batch_size: The batch size.
    loop_seconds: Seconds of a step in the training loop, with its feed, or the
      estimate for a step; NaN: not known.
    step_seconds: Seconds of the same step with its examples on the device.
    exchange_seconds: Seconds of the collectives of a step, run alone.
    bytes: Peak memory of each device.
    too_large: Why the size does not fit into memory; "": it fits.
    bound: `roofline.Roofline.bound` of an estimate; "": it was measured.
    differ: How much longer the second best pass took than the best, relative;
      0 for an estimate.
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
    """Examples per second in the training loop."""
    return self.batch_size / self.loop_seconds


def best_of(batch_size: int, passes: Sequence[Mapping[str, Any]]) -> Speed:
  """Returns the best of several passes.

  Args:
    batch_size: The batch size.
    passes: Fields of `Speed` of each pass; None: not known.
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


def sensitive(
  speeds: Sequence[Speed],
  decide: Callable[[Sequence[Speed]], Any],
  share: Callable[[Speed], float],
) -> list[tuple[Speed, Any]]:
  """Returns the speeds whose error can change a decision.

  Args:
    speeds: Speed of each size.
    decide: Decides from speeds.
    share: Relative error of a speed: how much faster it may be.

  Returns:
    (speed, the decision if that speed is faster by its error)
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
  """Returns the growth of throughput for each doubling of the batch size.

  A factor for each size but the first, relative to the fastest smaller size; at
  least 1.

  Args:
    speeds: Speeds of sizes that fit, ascending.
  """
  factors, record = [], speeds[0]
  for speed in speeds[1:]:
    gain = 1.0
    if speed.throughput > record.throughput:
      doublings = math.log2(speed.batch_size / record.batch_size)
      gain = (speed.throughput / record.throughput) ** (1 / doublings)
      record = speed
    factors.append(gain)
  return factors


def saturation(speeds: Sequence[Speed]) -> int:
  """Returns the index of the size up to which throughput grows (B3).

  This is the smallest size such that no larger size has 25% more throughput.

  Args:
    speeds: Speeds of sizes that fit, ascending.
  """
  most = max(s.throughput for s in speeds)
  return next(
    i for i, s in enumerate(speeds) if most < (1 + GROWTH) * s.throughput
  )


def binding(speeds: Sequence[Speed]) -> tuple[str, dict[str, float]]:
  """Returns what limits throughput at some sizes: one of three classes (B3).

  "input": a step in the loop takes over 25% longer than with its examples on
  the device; "collective": collectives, run alone, take 25% of a step or more;
  otherwise "saturation" of the device.

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
  "input": "The training loop waits for its input: use more"
  " config.dataset.workers, prepared data, or a larger"
  " config.dataset.device_bytes, and measure again.",
  "collective": "Collectives are the limit: change config.mesh (plan topology"
  " shows their cost), and measure again.",
  "saturation": "The device is saturated: a larger batch size only makes a step"
  " longer.",
}


def findings(
  speeds: Sequence[Speed], *, microbatches: int = 1, measured: bool = True
) -> list[finding.Finding]:
  """Returns findings on the throughput of the sizes (B2, B3, B4).

  Args:
    speeds: Speeds of sizes that fit, ascending.
    microbatches: The config's.
    measured: Whether speeds were measured, not estimated.
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
    limit, why = binding(speeds[at:])
    add(
      "throughput_saturates",
      "warn",
      f"batch size {beyond[0]}",
      evidence | why | {"class": limit, "not_recommended": beyond},
      f"No batch size above {last} has {GROWTH:.0%} more throughput, so larger"
      f" sizes are not recommended. {_FIXES[limit]}",
    )
  else:
    add("throughput_saturates", "ok", f"batch sizes to {last}", evidence)
  less = [i for i, gain in enumerate(each[:at]) if gain < 1 + NEARLY]
  if less:
    limit, why = binding([speeds[i + 1] for i in less])
    before, first = speeds[less[0]].batch_size, speeds[less[0] + 1].batch_size
    fix = "" if limit == "saturation" else f" {_FIXES[limit]}"
    add(
      "throughput_nearly_doubles",
      "warn",
      f"batch size {first}",
      evidence | why | {"class": limit},
      f"From batch size {before} to {first}, throughput grows by"
      f" {each[less[0]]:.2f} for each doubling, and should nearly double; the"
      f" limit is {limit}.{fix}",
    )
  if microbatches > 1:
    add(
      "gradient_accumulation",
      "warn",
      "microbatches",
      {"microbatches": microbatches, "batch_sizes": [last]},
      f"config.microbatches={microbatches} simulates a larger batch size: it"
      " saves memory, but gives no throughput. Use 1, and a batch size that"
      " fits into memory.",
    )
  return found


def passes_agree(
  speeds: Sequence[Speed], decide: Callable[[Sequence[Speed]], Any]
) -> finding.Finding:
  """Checks that the machine was idle enough for a result (B2).

  `unknown` if a size whose best two passes differ by more than 10% would change
  the decision if it were faster by that difference.

  Args:
    speeds: Speeds of sizes that were timed.
    decide: Decides from speeds.
  """
  differing = [s for s in speeds if s.differ > AGREE]
  deciding = sensitive(
    speeds, decide, lambda s: s.differ if s in differing else 0.0
  )
  evidence = {
    "batch_sizes": [s.batch_size for s in speeds],
    "passes_differ": [s.differ for s in speeds],
    "agree_within": AGREE,
    "the_answer_hangs_on": [s.batch_size for s, _ in deciding],
  }
  named = [s for s, _ in deciding] or differing
  sizes = " and ".join(str(s.batch_size) for s in named)
  most = max((s.differ for s in named), default=0.0)
  verdict: finding.Verdict = "ok"
  advice = ""
  if deciding:
    verdict = "unknown"
    advice = (
      "Inconclusive, the machine was too busy: the result depends on the time"
      f" of batch size {sizes}, whose best two passes differ by {most:.0%}."
      " Run the same command again when the machine is idle."
    )
  elif differing:
    verdict = "warn"
    advice = (
      f"The machine was busy: the best two passes of batch size {sizes} differ"
      f" by {most:.0%}. The result does not depend on that."
    )
  return finding.Finding(
    "passes_agree", verdict, "batch sizes", evidence, advice, _SOURCE
  )
