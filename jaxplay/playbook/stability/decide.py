"""Decides whether training is unstable, and which fix has the smallest cost.

Playbook, how can optimization failures be debugged and mitigated. "Any workload
will become unstable if the learning rate is too large. Instability is only an
issue when it forces us to use a learning rate that's too small."
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from jaxplay import config as config_lib
from jaxplay import finding, formats
from jaxplay.analysis import curves
from jaxplay.playbook import result as result_lib

_UNSTABLE = "Playbook, identifying unstable workloads"
_WARMUP = "Playbook, how to apply learning rate warmup"
_CLIPPING = "Playbook, gradient clipping"

PERCENTILE = 90.0
AGGRESSIVE = 0.5  # maximum share of clipped updates


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
  """The logged metrics of a run.

  Attributes:
    rate: Base learning rate.
    status: "completed" or "infeasible".
    steps: [lines], number of updates.
    loss: [lines], mean training loss since the previous line, nats.
    norms: [lines], L2 norm of the gradient before clipping, at that step.
    clipped: Share of all updates that were clipped, in [0, 1].
    value: The objective of the run; NaN: it has none.
    metric: Of the objective.
  """

  rate: float
  status: str
  steps: np.ndarray
  loss: np.ndarray
  norms: np.ndarray
  clipped: float = 0.0
  value: float = math.nan
  metric: config_lib.metric.Metric = config_lib.metric.Metric("")

  @property
  def cost(self) -> float:
    """What is minimized, see `config.metric`; NaN: it has no value."""
    return self.metric.cost(self.value)


def unstable(run: Run, until: int | None = None) -> str:
  """Returns the kind of instability of a run; "": it is stable.

  The mean loss is over 5 lines. "diverged": the run is infeasible, or a loss is
  not finite. "above start": the mean loss exceeds the first loss by 10%. "never
  trains": no quarter of the lines has a mean below 90% of the first loss.
  "rises": the mean loss rises by more than half of its decrease so far, and by
  10% of the first loss ("loss goes up not down during periods of training"), or
  the loss jumps by more than its noise, as in `curves.loss_jumps`.
  Source: Playbook, identifying unstable workloads; the thresholds are our own.

  Args:
    run: The run.
    until: Judges the lines up to this step; None: all lines.
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
  rises = (means - lowest > least).any() or curves.loss_jumps(loss).any()
  return "rises" if rises else ""


def _means(values, width):
  """Returns moving averages of at most `width` and a quarter of the values."""
  width = max(1, min(width, len(values) // 4))
  return np.convolve(values, np.ones(width) / width, "valid")


@dataclasses.dataclass(frozen=True)
class Sweep:
  """The stability of a sweep of the learning rate.

  Attributes:
    best: lr*, the learning rate with the best objective; None: no run has one.
    kinds: Learning rate -> kind of instability, as from `unstable`.
    unstable_rate: The lowest unstable learning rate above lr*; None: all are
      stable.
    worth_fixing: Whether one of the two learning rates just above lr* is
      unstable; None: not known.
  """

  best: float | None
  kinds: dict[float, str]
  unstable_rate: float | None
  worth_fixing: bool | None


def judge(runs: Sequence[Run], objective: str) -> tuple[Sweep, finding.Finding]:
  """Checks a sweep of the learning rate for instability just above the best.

  Args:
    runs: A run for each learning rate.
    objective: Name of the objective, for the finding.
  """
  runs = sorted(runs, key=lambda run: run.rate)
  kinds = {run.rate: unstable(run) for run in runs}
  valued = [run for run in runs if math.isfinite(run.value)]
  best = min(valued, key=lambda run: run.cost, default=None)

  def judged(verdict, advice, **evidence):
    return finding.Finding(
      "instability", verdict, objective, evidence, advice, _UNSTABLE
    )

  if best is None:
    low = runs[0].rate
    return Sweep(None, kinds, low, None), judged(
      "unknown",
      "No trial of the sweep has a result; the lowest learning rate was"
      f" {low:g}. Use lower ones: --learning_rates={low / 1000:.2g}:{low:g}.",
    )
  above = [run.rate for run in runs if run.rate > best.rate]
  first = next((rate for rate in above if kinds[rate]), None)
  evidence = dict(
    best_rate=best.rate,
    best_value=best.value,
    rates_above={f"{rate:g}": kinds[rate] or "stable" for rate in above},
  )
  if not above:
    return Sweep(best.rate, kinds, None, None), judged(
      "unknown",
      f"The best learning rate, {best.rate:g}, is the highest of the sweep; for"
      " higher ones, use"
      f" --learning_rates={runs[0].rate:g}:{10 * best.rate:g}.",
      **evidence,
    )
  worth = any(kinds[rate] for rate in above[:2])
  advice = ""
  if worth and first is not None:
    advice = (
      f"Training is unstable ({kinds[first]}) at learning rate {first:g}, just"
      f" above the best learning rate {best.rate:g}: a fix may allow a better"
      " one."
    )
  return Sweep(best.rate, kinds, first, worth), judged(
    "warn" if worth else "ok", advice, **evidence
  )


def every_step(run: Run, usual_every: int) -> finding.Finding:
  """Checks for early instability, which the config's evaluations may miss.

  The rule: in a run of about 500 steps at twice the best learning rate, the
  loss exceeds its lowest value so far by half, and by 5% of its first value, or
  jumps as in `curves.loss_jumps`. `unknown` if nothing was evaluated.

  Args:
    run: That run; `loss` is the validation loss at every step.
    usual_every: Steps between the evaluations of the config.
  """
  loss = run.loss
  if not len(loss) and run.status != "infeasible":
    return finding.not_enough(
      *("early_instability_check", "valid/loss", 0, 1),
      *("evaluations at twice the best learning rate", _UNSTABLE),
    )
  jumps = _jumps(loss)
  if run.status == "infeasible":
    jumps[-1:] = True
  at = run.steps[jumps]
  is_seen = bool(_jumps(loss[run.steps % usual_every == 0]).any())
  advice = ""
  if len(at):
    advice = (
      f"At twice the best learning rate, the loss is unstable from step"
      f" {at[0]:,} on ({formats.count(len(at), 'step')})."
    )
  if len(at) and not is_seen:
    advice += (
      f" Evaluations every {usual_every} steps, as in the config, miss this."
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


def _jumps(loss):
  """Marks losses that jump, or are above the lowest so far by half."""
  marks = ~np.isfinite(loss)
  known = loss[~marks]
  marks[~marks] = curves.loss_jumps(known) | curves.rises_by_half(known)
  return marks


def warmup_lengths(max_train_steps: int) -> list[int]:
  """Returns the warmups to try: powers of ten, and 10% of the steps."""
  most = max(max_train_steps // 10, 1)
  return [*(10**k for k in range(1, 7) if 10**k < most), most]


def warmup(
  runs: Sequence[tuple[int, Run]], unstable_rate: float, max_train_steps: int
) -> tuple[tuple[float, int] | None, finding.Finding]:
  """Chooses the highest learning rate that a warmup makes stable.

  A run warms up over `warmup_steps`, and then has to be stable for twice as
  many steps. Of the warmups of that learning rate, the shortest is chosen.

  Args:
    runs: (warmup_steps, run) of each trial.
    unstable_rate: The lowest unstable learning rate without warmup.
    max_train_steps: The config's.

  Returns:
    ((base learning rate, warmup_steps) or None, finding)
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
      "No warmup of up to 10% of the steps makes an unstable learning rate"
      " stable."
    )
  elif chosen[1] > 0.05 * max_train_steps:
    verdict = "warn"
    advice = (
      f"The warmup of {chosen[1]:,} steps is more than 5% of"
      f" max_train_steps={max_train_steps:,}, which may have to be larger."
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
  """Returns the clipping threshold: the 90th percentile of unclipped norms.

  Rounded up to two significant digits: "just above the typical gradient norm".
  """
  value = float(np.percentile(norms[np.isfinite(norms)], PERCENTILE))
  if value <= 0:
    return value
  unit = 10.0 ** (math.floor(math.log10(value)) - 1)
  return formats.rounded(math.ceil(value / unit - 1e-9) * unit, 2)


def clipping_share(share: float | None, clip_norm: float) -> finding.Finding:
  """Checks whether more than half of the updates are clipped.

  Args:
    share: Share of clipped updates, in [0, 1]; None: there is no run.
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
    f"{share:.0%} of the updates are clipped at {clip_norm:g}, more than"
    f" {AGGRESSIVE:.0%}, which acts as a lower learning rate. Lower the"
    " learning rate instead."
    if is_much
    else "",
    _CLIPPING,
  )


def clip_result(
  steps: np.ndarray, norms: np.ndarray, clipped: float, configured: float | None
) -> result_lib.ProcedureResult:
  """Returns the result of `plan clip`: a threshold from a run's logged norms.

  Args:
    steps: [lines], number of updates.
    norms: [lines], unclipped L2 norms; lines that are not finite are ignored.
    clipped: Share of the run's updates that were clipped, in [0, 1].
    configured: The threshold in the run's config; None: it did not clip.
  """
  finite = np.isfinite(norms)
  steps, norms = steps[finite], norms[finite]
  limit = threshold(norms)
  share = float((norms > limit).mean())
  findings = []
  summary = [
    f"Clip the gradient norm at {limit:g}, the {PERCENTILE:.0f}th percentile of"
    f" {len(norms)} logged norms (median {np.median(norms):.3g}, maximum"
    f" {norms.max():.3g}). This clips {share:.0%} of these updates."
  ]
  if configured is not None:
    findings.append(clipping_share(clipped, configured))
    summary.append(
      f"This run clipped {clipped:.0%} of its updates at {configured:g}."
    )
    if findings[0].verdict == "warn":
      summary.insert(0, findings[0].advice)
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
    summary=summary,
    settings={"clipping": True, "hparams.clip_norm": limit},
    findings=findings,
    figures=figures,
    details=dict(clip_norm=limit, share=share, lines=len(norms)),
  )


def norms_figure(
  norms: np.ndarray, rules: Mapping[str, float]
) -> result_lib.FigureData:
  """Returns a histogram of norms, with labelled thresholds."""
  positive = norms[np.isfinite(norms) & (norms > 0)]
  edges = np.zeros(1)
  if len(positive):
    edges = np.geomspace(positive.min(), positive.max() * 1.001, 31)
  counts, _ = np.histogram(positive, edges)
  return result_lib.FigureData(
    "histogram of the gradient norm",
    result_lib.Axis("L2 norm before clipping", log=True),
    result_lib.Axis("logged steps"),
    bars=[
      dict(x=float(a), x2=float(b), y=int(n), series="steps")
      for a, b, n in zip(edges[:-1], edges[1:], counts, strict=True)
    ],
    rules=rules,
    caption="The L2 norm of the gradient at all logged steps. Clipping helps"
    " against a long tail to the right of the dashed line.",
  )


@dataclasses.dataclass(frozen=True, eq=False)
class Fix:
  """A fix of an instability, with its runs.

  Attributes:
    name: "none", "warmup", "clipping" or "warmup and clipping".
    settings: Config key -> value, without the learning rate.
    runs: Runs of its sweep of the learning rate.
    extra_steps: Its cost in steps of each run.
    values: [seeds], the objective at its best learning rate with other seeds.
  """

  name: str
  settings: dict
  runs: Sequence[Run]
  extra_steps: int = 0
  values: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

  @property
  def best(self) -> Run | None:
    """The run with the best objective."""
    valued = [run for run in self.runs if math.isfinite(run.value)]
    return min(valued, key=lambda run: run.cost, default=None)

  def at(self, rate: float) -> Run | None:
    """Returns the run of a learning rate; None: it crashed or is missing."""
    return next((run for run in self.runs if run.rate == rate), None)

  @property
  def mean(self) -> float:
    """Mean objective over other seeds, or else of the best run."""
    if len(self.values):
      return float(self.values.mean())
    return self.best.value if self.best else math.nan

  @property
  def cost(self) -> float:
    """What is minimized: the cost of `mean`."""
    return self.best.metric.cost(self.mean) if self.best else math.nan

  @property
  def deviation(self) -> float:
    """Standard deviation over other seeds; NaN for fewer than two."""
    return float(self.values.std(ddof=1)) if len(self.values) > 1 else math.nan


def decide(
  fixes: Sequence[Fix], unstable_rate: float
) -> tuple[Fix, finding.Finding]:
  """Chooses the fix with the smallest cost.

  A fix must make `unstable_rate` stable, clip at most half of the updates at
  its best learning rate, and have an objective that is not worse than without a
  fix. Of the fixes within two standard errors of the best one, the one with the
  fewest extra steps, and then settings, is chosen.

  Args:
    fixes: Fixes with their runs; the first is "none".
    unstable_rate: The lowest unstable learning rate without a fix.
  """
  none = fixes[0]
  repaired = [fix for fix in fixes[1:] if _repairs(fix, unstable_rate)]
  better = [fix for fix in repaired if fix.cost <= none.cost]
  chosen = none
  if better:
    best = min(better, key=lambda fix: fix.cost)
    slack = _slack(best, none)
    chosen = min(
      (fix for fix in better if fix.cost <= best.cost + slack),
      key=lambda fix: (fix.extra_steps, len(fix.settings), fix.cost),
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
      f"Whether {' or '.join(crashed)} makes learning rate {unstable_rate:g}"
      " stable is unknown: its trial crashed (see its status.json). Fix the"
      " error, remove the trial's folder, and run the same command again."
    )
  elif chosen is none:
    verdict = "warn"
    reason = "makes a higher learning rate better than the best stable one"
    if not repaired:
      reason = f"makes learning rate {unstable_rate:g} stable"
    advice = (
      f"Training is unstable, and neither warmup nor clipping {reason}, nor do"
      " both together. Try the other fixes in the report."
    )
  return chosen, finding.Finding(
    "fix_of_instability",
    verdict,
    "hparams.learning_rate",
    evidence,
    advice,
    "Playbook, potential fixes for common instability patterns",
  )


def _repairs(fix, unstable_rate):
  """Whether a fix makes a learning rate stable, and clips few updates."""
  run = fix.at(unstable_rate)
  return (
    run is not None
    and not unstable(run)
    and fix.best is not None
    and fix.best.clipped <= AGGRESSIVE
  )


def _slack(one, other):
  """Two standard errors of the difference of two fixes."""
  return 2 * math.sqrt(
    sum(
      np.nan_to_num(f.deviation) ** 2 / max(len(f.values), 1)
      for f in (one, other)
    )
  )


def together(
  fixes: Sequence[Fix], both: Fix, unstable_rate: float
) -> finding.Finding:
  """Checks whether warmup and clipping together are better than either.

  They are if only both make `unstable_rate` stable, or if they are better than
  the better one by more than two standard errors.

  Args:
    fixes: Each by itself.
    both: With the settings of both.
    unstable_rate: The lowest unstable learning rate without a fix.
  """
  repaired = [fix for fix in fixes if _repairs(fix, unstable_rate)]
  alone = min(repaired, key=lambda fix: fix.cost, default=None)
  evidence = dict(
    together=both.mean,
    alone=alone and alone.mean,
    best_alone=alone and alone.name,
    better=None,
  )

  def judged(verdict, advice, better=None):
    return finding.Finding(
      "warmup_and_clipping",
      verdict,
      "hparams.warmup_steps, hparams.clip_norm",
      evidence | {"better": better},
      advice,
      "Playbook, potential fixes for common instability patterns",
    )

  at = both.at(unstable_rate)
  crashed = [f.name for f in (*fixes, both) if f.at(unstable_rate) is None]
  if at is None or (alone is None and crashed):
    return judged(
      "unknown",
      "Whether warmup and clipping together are better than either is unknown:"
      f" a trial of {' and of '.join(crashed)} crashed.",
    )
  if not _repairs(both, unstable_rate):
    return judged("ok", "", False)
  if alone is None:
    return judged(
      "warn",
      f"Only together do warmup and clipping make learning rate"
      f" {unstable_rate:g} stable.",
      True,
    )
  if len(both.values) < 2 or len(alone.values) < 2:
    return judged(
      "unknown",
      "Whether warmup and clipping together are better than either is unknown"
      " without two other seeds of each; use more --seeds.",
    )
  if alone.cost - both.cost > _slack(alone, both):
    return judged(
      "warn",
      "Warmup and clipping together are better than either:"
      f" {formats.spread(both.mean, both.deviation)} against"
      f" {formats.spread(alone.mean, alone.deviation)} with {alone.name}"
      " alone.",
      True,
    )
  return judged("ok", "", False)
