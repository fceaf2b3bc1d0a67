"""Checks of the curves of training: loss, gradients, clipping, throughput."""

import math

import numpy as np

from jaxplay import finding
from jaxplay.analysis.curves import findings, measures

_LOSS = "train/loss"
_NO_NORMS = (
  "The loss is stable, but too few gradient norms (train/grad_norm_max) were"
  " logged to see spikes that it does not show."
)


def training_loss_rises(steps: np.ndarray, loss: np.ndarray) -> finding.Finding:
  """Check whether the training loss ends above a level that it had reached.

  The rule: the level of the last tenth of the lines is above the lowest such
  level by more than 10%, 5 standard errors of the noise, and 0.5% of the fall
  before: `warn`; `fail` if half of the fall is undone. A loss that ends in NaN
  is left to the checks of instability. Needs 10 lines.

  Args:
    steps: [lines], updates.
    loss: [lines], mean training loss since the line before.
  """
  check = "training_loss_rises"
  if len(loss) and not np.isfinite(loss[-1]):
    return findings.after_divergence(check, _LOSS)
  steps, loss = measures.finite(steps, loss)
  if len(loss) < 10:
    return findings.too_short(check, len(loss), 10)
  width = max(3, len(loss) // 10)
  levels = measures.levels(loss, width)
  at = int(np.argmin(levels))
  low, end = float(levels[at]), float(levels[-1])
  rise, fall = end - low, max(float(loss[: at + 1].max()) - low, 0.0)
  error = measures.noise(loss[len(loss) // 5 :]) * math.sqrt(2 / width)
  verdict: finding.Verdict = "ok"
  if rise > max(0.1 * abs(low), 5 * error, 0.005 * fall):
    verdict = "fail" if rise > 0.5 * fall else "warn"
  until = int(steps[at + width - 1])
  return findings.make(
    check,
    verdict,
    dict(
      lowest_level=low,
      lowest_until_step=until,
      final_level=end,
      fall_before=fall,
      standard_error=error,
    ),
    f"The training loss rises from {low:.4g} at step {until:,} to {end:.4g} at"
    " the end. That usually is a bug in the training pipeline; if it does not"
    " happen at lower learning rates, it is instability.",
    subject=_LOSS,
  )


def early_instability(
  steps: np.ndarray,
  loss: np.ndarray,
  norms: np.ndarray,
  max_train_steps: int,
  diverged_at: int | None = None,
) -> finding.Finding:
  """Check whether training was unstable in its first fifth.

  The rule, up to `max_train_steps` / 5: `fail` if the loss becomes NaN; `warn`
  if it exceeds its lowest value so far by 50% and by 5% of the first one, or
  jumps as in `measures.loss_jumps`, or if the gradient norm jumps tenfold, as
  in `measures.jumps`, above those just before: norms fall from their start in
  most runs, which is no instability. Needs 5 lines there. `unknown` where the
  loss is stable and no norms were logged.

  Args:
    steps: [lines], updates.
    loss: [lines], mean training loss since the line before.
    norms: [lines], largest unclipped gradient norm (L2) since the line before;
      NaN where it was not logged.
    max_train_steps: Updates planned.
    diverged_at: Updates until the run ended as infeasible; None: detect a
      divergence from the loss.
  """
  check = "early_instability"
  diverged_at = _divergence(steps, loss, diverged_at)
  if diverged_at is not None and diverged_at <= max_train_steps / 5:
    fix = "a learning rate warmup, or gradient clipping"
    return _diverged(check, diverged_at, fix)
  early = steps <= max_train_steps / 5
  number = int(early.sum())
  if number < 5:
    what = "lines in the first fifth of the steps"
    return findings.too_short(check, number, 5, what)
  # A divergence later ends in a loss that is not finite.
  whole = loss[np.isfinite(loss)]
  rises = measures.loss_jumps(whole)[:number]
  rises |= measures.rises_by_half(whole[:number])
  unstable = measures.first(rises)
  norm_at, ratio = _norm_jump(steps, norms, early)
  rises_at = None
  recovers = True
  cause = f"the gradient norm jumps at step {norm_at}"
  if norm_at is not None:
    cause += f" to {ratio:.3g} times the median of those before"
  if unstable is not None:
    rises_at = int(steps[unstable])
    lowest = whole[:unstable].min()
    recovers = bool((whole[unstable + 1 :] <= lowest).any())
    cause = f"the loss rises at step {rises_at:,}, from {lowest:.3g} to"
    cause += f" {whole[unstable]:.3g}"
  then = " and then recovers" if recovers else ""
  if diverged_at is not None:
    then = f" and diverges at step {diverged_at:,}"
  verdict: finding.Verdict = "ok"
  advice = (
    f"Training is unstable early{then}: {cause}. Try a learning rate warmup, or"
    " gradient clipping just above the typical norm; verify with about 500"
    " steps at twice the learning rate, evaluated at every step."
  )
  if unstable is not None or norm_at is not None:
    verdict = "warn"
  elif ratio is None:
    verdict, advice = "unknown", _NO_NORMS
  return findings.make(
    check,
    verdict,
    dict(
      loss_rises_at_step=rises_at,
      norm_jumps_at_step=norm_at,
      largest_norm_to_median_before=ratio,
    ),
    advice,
    findings.UNSTABLE,
    _LOSS,
  )


def mid_training_instability(
  steps: np.ndarray,
  loss: np.ndarray,
  norms: np.ndarray,
  max_train_steps: int,
  diverged_at: int | None = None,
) -> finding.Finding:
  """Check whether training suddenly became unstable after its first fifth.

  The rule: `fail` if the loss becomes NaN; `warn` if it jumps, as in
  `measures.loss_jumps`; or if the gradient norm jumps tenfold, as in
  `measures.jumps`, and above the median norm of the first fifth. Needs 10
  lines. `unknown` where the loss is stable and no norms were logged.

  Args:
    steps: [lines], updates.
    loss: [lines], mean training loss since the line before.
    norms: As for `early_instability`.
    max_train_steps: Updates planned.
    diverged_at: As for `early_instability`.
  """
  check = "mid_training_instability"
  early = steps <= max_train_steps / 5
  diverged_at = _divergence(steps, loss, diverged_at)
  if diverged_at is not None and diverged_at <= max_train_steps / 5:
    return findings.after_divergence(check, _LOSS)
  if diverged_at is not None:
    fix = "gradient clipping, or a longer warmup"
    return _diverged(check, diverged_at, fix)
  if len(loss) < 10 or early.all():
    return findings.too_short(check, len(loss) * (not early.all()), 10)
  jumps = measures.loss_jumps(loss) & ~early
  norm_at, ratio = _norm_jump(steps, norms, ~early)
  first = measures.first(jumps)
  loss_at = None if first is None else int(steps[first])
  found = [at for at in (loss_at, norm_at) if at is not None]
  verdict: finding.Verdict = "ok"
  advice = ""
  if found:
    verdict = "warn"
    advice = (
      "The loss or the gradient norm jumps in the middle of training, first at"
      f" step {min(found):,}. Try gradient clipping at the 90th percentile of"
      " the norms; if that does not help, a longer warmup."
    )
  elif ratio is None:
    verdict, advice = "unknown", _NO_NORMS
  return findings.make(
    check,
    verdict,
    dict(
      first_at_step=min(found, default=None),
      num_lines=int(jumps.sum()),
      norm_jumps_at_step=norm_at,
    ),
    advice,
    findings.UNSTABLE,
    _LOSS,
  )


def _norm_jump(steps, norms, here):
  """Where the gradient norm first jumps, among the lines `here`.

  Returns:
    (its step; None: nowhere, largest ratio of a norm to the median of the 5
    before it; None: fewer than 6 norms were logged, or none of them here).
  """
  known = np.isfinite(norms) & (norms > 0)
  steps, norms, here = steps[known], norms[known], here[known]
  if len(norms) < 6 or not here[5:].any():
    return None, None
  before = measures.medians(norms, 5)[2:-3]
  ratio = float((norms[5:] / before)[here[5:]].max())
  # Single ones by half as much again, on this scale: tenfold.
  least = math.log(10) / 1.5
  jumps = measures.jumps(np.log(norms), least, after=5) & here
  fitted = np.median(norms[: max(5, len(norms) // 5)])
  first = measures.first(jumps & (norms > fitted))
  return None if first is None else int(steps[first]), ratio


def aggressive_clipping(
  steps: np.ndarray, clipped: np.ndarray, norms: np.ndarray
) -> finding.Finding:
  """Check whether most updates are clipped.

  The rule: `warn` if more than 50% of all updates were clipped. Source:
  Playbook, gradient clipping.

  Args:
    steps: [lines], updates.
    clipped: [lines], share of the updates clipped since the line before.
    norms: [lines], unclipped gradient norms (L2), for the advice.
  """
  check, subject = "aggressive_clipping", "train/clipped"
  source = "Playbook, gradient clipping"
  share = measures.clipped_share(steps, clipped)
  if share is None:
    return findings.too_short(check, 0, 1, "lines of train/clipped")
  evidence: dict[str, float | None] = dict(share_of_updates_clipped=share)
  if share <= 0.5:
    return findings.make(check, "ok", evidence, "", source, subject)
  norms = norms[np.isfinite(norms)]
  typical = float(np.percentile(norms, 90)) if len(norms) else None
  evidence["gradient_norm_90th_percentile"] = typical
  threshold = f" ({typical:.2g})" if typical is not None else ""
  return findings.make(
    check,
    "warn",
    evidence,
    f"{share:.0%} of the updates are clipped, which only lowers the effective"
    " learning rate. Lower the learning rate instead, and clip at the 90th"
    f" percentile of the gradient norms{threshold}.",
    source,
    subject,
  )


def input_bound(waits: np.ndarray, throughput: np.ndarray) -> finding.Finding:
  """Check whether training waits for its data.

  The rule: the median over the lines of the share of time spent waiting, the
  first line left out, which fills the pipeline; `warn` from a tenth on, `fail`
  from a half on. Training examples that lie on the device are not waited for,
  and the share is 0. Needs 4 lines. Source: Playbook, how should I evaluate and
  optimize the input pipeline.

  Args:
    waits: Share of wall time at each line, [0, 1].
    throughput: Examples per second at each line.
  """
  waits = waits[np.isfinite(waits)]
  throughput = throughput[np.isfinite(throughput)]
  if len(waits) < 4:
    return findings.too_short("input_bound", len(waits), 4, "lines of metrics")
  share = np.median(waits[1:])
  evidence = {"share_of_time_waiting": share}
  if len(throughput) > 1:
    evidence["examples_per_second"] = np.median(throughput[1:])
  verdict: finding.Verdict = "ok"
  if share >= 0.1:
    verdict = "warn" if share < 0.5 else "fail"
  return findings.make(
    "input_bound",
    verdict,
    evidence,
    f"The devices wait for data {share:.0%} of the time. Raise"
    " config.dataset.workers up to the number of cores of a host, make examples"
    " cheaper to decode, or read from a faster disk; `tools/benchmark.py input`"
    " measures what one core can do.",
    "Playbook, evaluating and optimizing the input pipeline",
    "data_wait",
  )


def _divergence(steps, loss, diverged_at):
  """The step at which a run diverged; None: it did not."""
  first = measures.first(~np.isfinite(loss))
  if diverged_at is None and first is not None:
    return int(steps[first])
  return diverged_at


def _diverged(check, step, fix):
  advice = f"Training diverged at step {step:,}"
  if step > 1:
    advice += ". If better trials need this learning rate, try"
    advice += f" {fix}; else lower it."
  else:
    advice += ": the loss or its gradient is not finite before the first"
    advice += " update, whatever the learning rate. Look at the model, the"
    advice += " loss and the data."
  return findings.make(
    check,
    "fail",
    dict(diverged_at_step=step),
    advice,
    findings.UNSTABLE,
    _LOSS,
  )
