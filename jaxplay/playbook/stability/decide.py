"""Is training unstable, is that worth fixing, and which fix costs least?

Playbook, how can optimization failures be debugged and mitigated. "Any workload
will become unstable if the learning rate is too large. Instability is only an
issue when it forces us to use a learning rate that's too small."
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxplay import finding
from jaxplay.playbook import result as result_lib

_UNSTABLE = "Playbook, identifying unstable workloads"
_WARMUP = "Playbook, how to apply learning rate warmup"
_CLIPPING = "Playbook, gradient clipping"

PERCENTILE = 90.0
AGGRESSIVE = 0.5  # share of clipped updates above which the rate is to blame


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """What one training run logged.

  Attributes:
    rate: Base learning rate.
    status: "completed" or "infeasible".
    steps: [lines], updates.
    loss: [lines], mean training loss since the line before, nats.
    norms: [lines], L2 norm of the gradient before clipping, at that step.
    clipped: Share of all updates that were clipped, in [0, 1].
    value: The objective of the run; NaN: it has none.
  """

  rate: float
  status: str
  steps: np.ndarray
  loss: np.ndarray
  norms: np.ndarray
  clipped: float = 0.0
  value: float = math.nan


def unstable(run: Run, until: int | None = None) -> str:
  """How a run is unstable, in a word; "" where it is not.

  "diverged": it became infeasible, or a loss is not finite. "above start": its
  loss, as the mean of 5 lines, exceeds the first one by a tenth. "never
  trains": no quarter of its lines has a mean below nine tenths of the first.
  "rises": it goes up again by more than half of what it had come down, and by a
  tenth of the first: "loss goes up not down during periods of training".
  Source: Playbook, identifying unstable workloads; the numbers are our own.

  Args:
    run: The run.
    until: Read the lines up to this step only; None: all.
  """
  here = np.ones(len(run.steps), bool) if until is None else run.steps <= until
  loss = run.loss[here]
  ended_before = until is None or not len(run.steps) or run.steps[-1] < until
  if not np.isfinite(loss).all() or (
    run.status == "infeasible" and ended_before
  ):
    return "diverged"
  if not len(loss):
    return ""
  first = loss[0]
  means = _means(loss, 5)
  if (means > 1.1 * first).any():
    return "above start"
  if until is None and _means(loss, len(loss) // 4).min() > 0.9 * first:
    return "never trains"
  lowest = np.minimum.accumulate(means)
  least = np.maximum(0.5 * (first - lowest), 0.1 * first)
  return "rises" if (means - lowest > least).any() else ""


def _means(values, width):
  """Moving averages of `width` values; of fewer, where there are few."""
  width = max(1, min(width, len(values) // 4))
  return np.convolve(values, np.ones(width) / width, "valid")


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The stability of a sweep of the learning rate.

  Attributes:
    best: lr*, the rate with the best objective; None: no run has one.
    how: Rate -> how it is unstable, "" where it is not.
    unstable_rate: The lowest unstable rate above lr*; None: there is none.
    worth_fixing: Whether one of the two rates just above lr* is unstable; None:
      not known.
  """

  best: float | None
  how: dict[float, str]
  unstable_rate: float | None
  worth_fixing: bool | None


def judge(runs: Sequence[Run], objective: str) -> tuple[Sweep, finding.Finding]:
  """Judges a sweep of the learning rate: lr*, and the curves just above it.

  Args:
    runs: A run for each rate.
    objective: Name of what `Run.value` is.
  """
  runs = sorted(runs, key=lambda run: run.rate)
  how = {run.rate: unstable(run) for run in runs}
  valued = [run for run in runs if math.isfinite(run.value)]
  best = min(valued, key=lambda run: run.value, default=None)

  def judged(verdict, advice, **evidence):
    return finding.Finding(
      "instability", verdict, objective, evidence, advice, _UNSTABLE
    )

  if best is None:
    low = runs[0].rate
    return Sweep(None, how, low, None), judged(
      "unknown",
      f"No rate of the sweep has a result; even {low:g} is unstable. Sweep"
      f" lower rates: --learning_rates={low / 1000:.2g}:{low:g}.",
    )
  above = [run.rate for run in runs if run.rate > best.rate]
  first = next((rate for rate in above if how[rate]), None)
  evidence = dict(
    best_rate=best.rate,
    best_value=best.value,
    rates_above={f"{rate:g}": how[rate] or "stable" for rate in above},
  )
  if not above:
    return Sweep(best.rate, how, None, None), judged(
      "unknown",
      f"The best rate, {best.rate:g}, is the highest of the sweep; to see what"
      f" is above it, --learning_rates={runs[0].rate:g}:{10 * best.rate:g}.",
      **evidence,
    )
  worth = any(how[rate] for rate in above[:2])
  advice = ""
  if worth and first is not None:
    advice = (
      f"Training is unstable from rate {first:g} on ({how[first]}), just above"
      f" the best one, {best.rate:g}: fixing that will likely allow a better"
      " one."
    )
  return Sweep(best.rate, how, first, worth), judged(
    "warn" if worth else "ok", advice, **evidence
  )


def every_step(run: Run, usual_every: int) -> finding.Finding:
  """Was there early instability that the usual evaluations would miss?

  The rule: evaluated at every step of about 500 at twice the best rate, the
  loss exceeds its lowest value so far by half, and by 5% of the first one.

  Args:
    run: The check; `loss` is the validation loss at every step.
    usual_every: Steps between the evaluations of the config.
  """
  loss = run.loss
  jumps = _jumps(loss, loss[0]) | ~np.isfinite(loss)
  if run.status == "infeasible":
    jumps[-1:] = True
  at = run.steps[jumps]
  is_seen = bool(_jumps(loss[run.steps % usual_every == 0], loss[0]).any())
  advice = ""
  if len(at):
    advice = (
      f"At twice the best rate the loss jumps at step {at[0]:,}"
      f" ({len(at)} such steps)."
      + (
        ""
        if is_seen
        else f" Evaluated every {usual_every} steps, as the config says, this"
        " would not be seen."
      )
    )
  return finding.Finding(
    "early_instability_check",
    "warn" if len(at) else "ok",
    "valid/loss",
    dict(
      rate=run.rate,
      steps=len(loss),
      first_jump=int(at[0]) if len(at) else None,
      jumps=len(at),
      seen_by_usual_evaluations=is_seen,
    ),
    advice,
    _UNSTABLE,
  )


def _jumps(loss, first):
  """Where a loss exceeds its lowest so far by half, and by 5% of the first."""
  lowest = np.minimum.accumulate(loss)
  with np.errstate(invalid="ignore"):
    return loss - lowest > np.maximum(0.5 * lowest, 0.05 * first)


def warmup_lengths(max_train_steps: int) -> list[int]:
  """The ladder of warmups: orders of magnitude, up to 10% of the steps."""
  most = max(max_train_steps // 10, 1)
  ladder = [10**k for k in range(1, 7) if 10**k < most]
  return [*ladder, most]


def warmup(
  runs: Sequence[tuple[int, Run]], unstable_rate: float, max_train_steps: int
) -> tuple[tuple[float, int] | None, finding.Finding]:
  """The shortest warmup that opens the highest rate.

  Each run ramps up to its rate over `warmup_steps`, and keeps it for twice as
  many; it has to be stable that long. Of the bases that some warmup makes
  stable the highest counts, and of its warmups the shortest.

  Args:
    runs: (warmup_steps, run).
    unstable_rate: The lowest unstable rate without warmup.
    max_train_steps: Of the config.

  Returns:
    ((base rate, warmup_steps) or None, finding)
  """
  stable = [
    (run.rate, length)
    for length, run in runs
    if not unstable(run, until=3 * length)
  ]
  rows = {
    f"rate {run.rate:g}, warmup {length}": unstable(run, 3 * length) or "stable"
    for length, run in runs
  }
  chosen = max(stable, key=lambda pair: (pair[0], -pair[1]), default=None)
  verdict: finding.Verdict = "ok"
  advice = ""
  if chosen is None:
    verdict = "warn"
    advice = (
      "No warmup up to a tenth of the steps makes a rate stable that was not."
    )
  elif chosen[1] > 0.05 * max_train_steps:
    verdict = "warn"
    advice = (
      f"It takes {chosen[1]:,} steps of warmup, more than 5% of"
      f" max_train_steps={max_train_steps:,}; that may have to grow."
    )
  return chosen, finding.Finding(
    "warmup",
    verdict,
    "hparams.warmup_steps",
    dict(
      unstable_base_learning_rate=unstable_rate,
      base_learning_rate=chosen and chosen[0],
      warmup_steps=chosen and chosen[1],
      ladder=rows,
    ),
    advice,
    _WARMUP,
  )


def threshold(norms: np.ndarray) -> float:
  """The clipping threshold: the 90th percentile of the unclipped norms.

  Two digits, upwards: "just above the typical gradient norm".
  """
  value = float(np.percentile(norms[np.isfinite(norms)], PERCENTILE))
  if value <= 0:
    return value
  unit = 10.0 ** (math.floor(math.log10(value)) - 1)
  return float(f"{math.ceil(value / unit - 1e-9) * unit:.2g}")


def clipping_share(share: float | None, clip_norm: float) -> finding.Finding:
  """Is clipping so aggressive that the learning rate should be cut?

  Args:
    share: Of the updates that were clipped, in [0, 1]; None: there is no run.
    clip_norm: The threshold.
  """
  if share is None:
    return finding.Finding(
      "clipping",
      "unknown",
      "hparams.clip_norm",
      dict(clip_norm=clip_norm, share_of_updates_clipped=None),
      f"The share of updates clipped at {clip_norm:g} is unknown: the trial at"
      " the unstable rate crashed.",
      _CLIPPING,
    )
  is_much = share > AGGRESSIVE
  return finding.Finding(
    "clipping",
    "warn" if is_much else "ok",
    "hparams.clip_norm",
    dict(clip_norm=clip_norm, share_of_updates_clipped=share),
    f"{share:.0%} of the updates are clipped at {clip_norm:g}: extremely"
    " aggressive, in essence a strange way of reducing the learning rate. Cut"
    " the rate instead."
    if is_much
    else "",
    _CLIPPING,
  )


def clip_answer(
  steps: np.ndarray, norms: np.ndarray, clipped: float, configured: float | None
) -> result_lib.ProcedureResult:
  """`plan clip`: a threshold from the logged norms of a run.

  Args:
    steps: [lines], updates.
    norms: [lines], unclipped L2 norms; what is not finite does not count.
    clipped: Share of the run's updates that were clipped, in [0, 1].
    configured: The run's own threshold; None: it did not clip.
  """
  finite = np.isfinite(norms)
  steps, norms = steps[finite], norms[finite]
  limit = threshold(norms)
  share = float((norms > limit).mean())
  findings = []
  said = [
    f"Clip the gradient at {limit:g}, just above the typical norm: the"
    f" {PERCENTILE:.0f}th percentile of {len(norms)} logged norms, whose median"
    f" is {np.median(norms):.3g} and largest {norms.max():.3g}. That would clip"
    f" {share:.0%} of these updates."
  ]
  if configured is not None:
    findings.append(clipping_share(clipped, configured))
    said.append(
      f"This run clipped {clipped:.0%} of its updates, at {configured:g}."
    )
    if findings[0].verdict == "warn":
      said.insert(0, findings[0].advice)
  rules = {f"{PERCENTILE:.0f}th percentile": limit}
  if configured is not None:
    rules["clip_norm"] = configured
  figures = [
    norms_figure(norms, rules),
    result_lib.FigureData(
      "gradient norm against step",
      result_lib.Axis("step"),
      result_lib.Axis("L2 norm before clipping", log=True),
      lines=[
        dict(x=int(x), y=float(y), series="norm")
        for x, y in zip(steps, norms, strict=True)
      ],
      levels=rules,
    ),
  ]
  return result_lib.ProcedureResult(
    summary=said,
    settings={"clipping": True, "hparams.clip_norm": limit},
    findings=findings,
    figures=figures,
    details=dict(clip_norm=limit, share=share, lines=len(norms)),
  )


def norms_figure(
  norms: np.ndarray, rules: Mapping[str, float]
) -> result_lib.FigureData:
  """The histogram of norms, with thresholds by their names."""
  positive = norms[np.isfinite(norms) & (norms > 0)]
  edges = np.zeros(1)
  if len(positive):
    edges = np.geomspace(positive.min(), positive.max() * 1.001, 31)
  counts, _ = np.histogram(positive, edges)
  return result_lib.FigureData(
    "how often each gradient norm was logged",
    result_lib.Axis("L2 norm before clipping", log=True),
    result_lib.Axis("logged steps"),
    bars=[
      dict(x=float(a), x2=float(b), y=int(n), series="steps")
      for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
    ],
    rules=rules,
    caption="All logged steps. A tail far to the right of the line is what"
    " clipping is for.",
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Fix:
  """A fix that was tried.

  Attributes:
    name: "none", "warmup" or "clipping".
    settings: Config key -> value, without the rate.
    runs: Of the sweep of the rate with it.
    extra_steps: What it costs, per run.
    values: The objective of its best rate with other seeds, [seeds].
  """

  name: str
  settings: dict
  runs: Sequence[Run]
  extra_steps: int = 0
  values: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

  @property
  def best(self) -> Run | None:
    """The run of the best rate."""
    valued = [run for run in self.runs if math.isfinite(run.value)]
    return min(valued, key=lambda run: run.value, default=None)

  def at(self, rate: float) -> Run | None:
    """The run of a rate; None: it crashed, or was not tried."""
    return next((run for run in self.runs if run.rate == rate), None)

  @property
  def mean(self) -> float:
    """Of the best rate with other seeds, or of the run itself."""
    if len(self.values):
      return float(self.values.mean())
    return self.best.value if self.best else math.nan

  @property
  def deviation(self) -> float:
    """Between seeds; NaN of fewer than two."""
    return float(self.values.std(ddof=1)) if len(self.values) > 1 else math.nan


def decide(
  fixes: Sequence[Fix], unstable_rate: float
) -> tuple[Fix, finding.Finding]:
  """The fix with the smallest cost among those that are good enough.

  A fix counts if it makes `unstable_rate` stable, does not clip more than half
  of the updates at its best rate, and its result is not worse than without.
  Good enough is within two standard errors of the best mean; of these the one
  with the fewest extra steps is taken.

  Args:
    fixes: The first is "none".
    unstable_rate: The lowest unstable rate without a fix.
  """
  none = fixes[0]

  def repairs(fix):
    run = fix.at(unstable_rate)
    return (
      run is not None
      and not unstable(run)
      and fix.best is not None
      and fix.best.clipped <= AGGRESSIVE
    )

  repaired = [fix for fix in fixes[1:] if repairs(fix)]
  better = [fix for fix in repaired if fix.mean <= none.mean]
  chosen = none
  if better:
    best = min(better, key=lambda fix: fix.mean)
    slack = 2 * math.sqrt(
      sum(
        np.nan_to_num(f.deviation) ** 2 / max(len(f.values), 1)
        for f in (best, none)
      )
    )
    chosen = min(
      (fix for fix in better if fix.mean <= best.mean + slack),
      key=lambda fix: (fix.extra_steps, fix.mean),
    )
  evidence = {
    fix.name: dict(
      repairs=fix in repaired,
      best_rate=fix.best and fix.best.rate,
      mean=fix.mean,
      deviation=fix.deviation,
      extra_steps=fix.extra_steps,
      clipped=fix.best and fix.best.clipped,
    )
    for fix in fixes
  }
  advice = ""
  verdict: finding.Verdict = "ok"
  crashed = [fix.name for fix in fixes[1:] if fix.at(unstable_rate) is None]
  if chosen is none and crashed:
    verdict = "unknown"
    advice = (
      f"Whether {' or '.join(crashed)} makes rate {unstable_rate:g} stable is"
      " unknown: that trial crashed; see its status.json. Once that is fixed,"
      " remove its folder and run the same command again."
    )
  elif chosen is none:
    verdict = "warn"
    advice = (
      "The instability is there, and nothing that was tried makes a higher rate"
      " better than the best stable one"
      + ("." if repaired else ": neither warmup nor clipping makes it stable.")
      + " Try the other fixes, one line each."
    )
  return chosen, finding.Finding(
    "fix_of_instability",
    verdict,
    "hparams.learning_rate",
    evidence,
    advice,
    "Playbook, potential fixes for common instability patterns",
  )
