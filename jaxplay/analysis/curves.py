"""Checks of a single run, from its logged curves alone.

Each check takes arrays and returns one Finding. Three words that the rules
share:

*Noise* is the standard deviation of an evaluation around a smooth curve,
estimated from second differences, so a trend does not count as noise.

*Resolution* is the standard error of an error rate on the validation set,
sqrt(p (1 - p) / n). Runs see the same examples, so it is a cautious scale: what
is less than it is not worth a finding, whatever the noise.

*Level* is the mean over a window of consecutive evaluations.
"""

import functools
import math

import numpy as np

from jaxplay import finding, rundir
from jaxplay.analysis import results

_TRAINING_CURVES = "Playbook, examining the training curves"
_INPUT = "Playbook, evaluating and optimizing the input pipeline"
_UNSTABLE = "Playbook, identifying unstable workloads"

# The checks below by name, in the order in which `check_trial` returns them.
CHECKS = (
  "better_than_chance",
  "overfitting",
  "late_variance",
  "still_improving",
  "saturated_early",
  "training_loss_rises",
  "periodic_validation",
  "early_instability",
  "mid_training_instability",
  "aggressive_clipping",
  "input_bound",
)


def check_run(run: rundir.RunDir) -> list[finding.Finding]:
  """All checks of one run, on the objective of its config.

  Raises:
    jaxplay.UserError: This is no run directory.
  """
  trial = results.read_run(run.path)
  return check_trial(trial, run.objective())


def check_trial(trial: results.Trial, objective: str) -> list[finding.Finding]:
  """All checks of one run, in the order of `CHECKS`."""

  def curve(name):
    return trial.curves.get(name, (np.zeros(0, np.int64), np.zeros(0)))

  steps, values = curve(objective)
  loss_steps, loss = curve("train/loss")
  _, norms = curve("train/grad_norm_max")
  _, rates = curve("learning_rate")
  clipped_steps, clipped = curve("train/clipped")
  num_examples = trial.num_valid if objective.endswith("error_rate") else 0
  # The loss is not quantized, so it shows a period that an error rate hides.
  loss_of_split = objective.partition("/")[0] + "/loss"
  smooth = curve(loss_of_split if loss_of_split in trial.curves else objective)
  error_rate, _ = trial.best("valid/error_rate")
  ended = trial.status == "completed"
  # By the loss, or by a gradient that no loss shows.
  diverged_at = trial.step if trial.status == "infeasible" else None
  losses = (loss_steps, loss, norms, trial.max_train_steps, diverged_at)
  return [
    better_than_chance(
      error_rate if math.isfinite(error_rate) else None,
      trial.chance,
      trial.num_valid,
    ),
    overfitting(steps, values, num_examples)
    if diverged_at is None
    else _after_divergence("overfitting"),
    late_variance(steps, values, num_examples, rates)
    if diverged_at is None
    else _after_divergence("late_variance"),
    still_improving(steps, values, num_examples, rates)
    if ended
    else _unfinished("still_improving"),
    saturated_early(steps, values, loss)
    if ended
    else _unfinished("saturated_early"),
    training_loss_rises(loss_steps, loss)
    if diverged_at is None
    else _after_divergence("training_loss_rises", "train/loss"),
    periodic_validation(*smooth),
    early_instability(*losses),
    mid_training_instability(*losses),
    aggressive_clipping(clipped_steps, clipped, curve("train/grad_norm")[1]),
    input_bound(curve("data_wait")[1], curve("examples_per_second")[1]),
  ]


def better_than_chance(
  error_rate: float | None, chance: float | None, num_examples: int
) -> finding.Finding:
  """Is the result "reasonable": clearly better than chance on validation?

  Chance is the error rate of always answering the most frequent class. The
  rule: `fail` where the best error rate is not below chance by 5 standard
  errors of a share of `num_examples`; `warn` where it is, but by less than a
  tenth of chance; else `ok`. Source: Playbook, choosing the initial
  configuration.

  Args:
    error_rate: Best validation error rate, in [0, 1]; None: never evaluated.
    chance: Error rate of the most frequent class, in [0, 1].
    num_examples: Validation examples.
  """
  found = functools.partial(
    finding.Finding,
    check="better_than_chance",
    subject="valid/error_rate",
    source="Playbook, choosing the initial configuration",
  )
  if error_rate is None or chance is None or not num_examples:
    return found(
      verdict="unknown",
      evidence={},
      advice="The run was never evaluated; it needs one finite evaluation.",
    )
  error = resolution(chance, num_examples)
  below = chance - error_rate
  if below <= 5 * error:
    verdict = "fail"
    advice = (
      "The best validation error is what guessing the most frequent class"
      " gives. Before any tuning, find out why: learning rate far off, labels"
      " or inputs mixed up, or far too few steps."
    )
  elif below < 0.1 * chance:
    verdict = "warn"
    advice = (
      "Better than chance, but barely. Try a learning rate ten times larger or"
      " smaller, or more steps, before designing a study around this config."
    )
  else:
    verdict, advice = "ok", ""
  return found(
    verdict=verdict,
    evidence=dict(
      best_error_rate=error_rate,
      chance_error_rate=chance,
      standard_error=error,
      num_examples=num_examples,
    ),
    advice=advice,
  )


def overfitting(
  steps: np.ndarray, values: np.ndarray, num_examples: int = 0
) -> finding.Finding:
  """Does the validation objective rise again: problematic overfitting?

  The rule: `warn` where the level of the last fifth is above the lowest level
  of any such window by more than 10 %, 5 standard errors of the noise, and the
  resolution. Needs 10 evaluations.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], the objective; what is not finite is left out.
    num_examples: Validation examples of an error rate; 0: it is none.
  """
  steps, values = _finite(steps, values)
  if len(values) < 10:
    return _too_short("overfitting", len(values), 10)
  width = max(3, len(values) // 5)
  levels = _levels(values, width)
  at = int(np.argmin(levels))
  low, end = levels[at], levels[-1]
  error = _noise(values[len(values) // 5 :]) * math.sqrt(2 / width)
  smallest = resolution(low, num_examples)
  rises = end - low > max(0.1 * abs(low), 5 * error, smallest)
  return _finding(
    "overfitting",
    "warn" if rises else "ok",
    dict(
      lowest_level=low,
      lowest_until_step=int(steps[at + width - 1]),
      final_level=end,
      standard_error=error,
      resolution=smallest,
    ),
    "The validation objective rises after step"
    f" {steps[at + width - 1]:,}. Add regularization or tune what there is"
    " (weight decay, dropout, label smoothing, augmentation) before comparing"
    " this trial with others.",
    _TRAINING_CURVES,
  )


def late_variance(
  steps: np.ndarray,
  values: np.ndarray,
  num_examples: int = 0,
  learning_rates: np.ndarray | None = None,
) -> finding.Finding:
  """Does the objective jump from evaluation to evaluation late in training?

  The rule: `warn` where over the last third the standard deviation around a
  straight line is above 5 % of the level and above the resolution. Needs 15
  evaluations.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], the objective.
    num_examples: Validation examples of an error rate; 0: it is none.
    learning_rates: As logged, to tell which remedy is open; None: they are not.
  """
  steps, values = _finite(steps, values)
  if len(values) < 15:
    return _too_short("late_variance", len(values), 15)
  late = values[-(len(values) // 3) :]
  residuals = _residuals(late, 2)
  deviation = math.sqrt(residuals @ residuals / (len(late) - 2))
  level = float(late.mean())
  smallest = resolution(level, num_examples)
  share = final_rate(learning_rates)
  remedy = (
    "decay the learning rate, or average the weights"
    if share is None or share > 0.5
    else "average the weights, increase the batch size, or lower the rate"
  )
  return _finding(
    "late_variance",
    "warn" if deviation > max(0.05 * abs(level), smallest) else "ok",
    dict(
      standard_deviation=deviation,
      level=level,
      resolution=smallest,
      final_learning_rate_share=share,
    ),
    f"The objective still moves by {deviation:.2g} around {level:.3g} between"
    f" evaluations, so its best one is partly luck. To calm it: {remedy}; or"
    " get more validation data.",
    _TRAINING_CURVES,
  )


def still_improving(
  steps: np.ndarray,
  values: np.ndarray,
  num_examples: int = 0,
  learning_rates: np.ndarray | None = None,
) -> finding.Finding:
  """Is the objective still falling when training ends ("compute-bound")?

  The rule: the level of the last fifth lies below that of the fifth before by
  more than 4 %, 4 standard errors of the noise, and the resolution. Then
  `warn`; but `unknown` where the learning rate ends below a fifth of its peak,
  because a decay lowers the end of every curve. Needs 10 evaluations.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], the objective.
    num_examples: Validation examples of an error rate; 0: it is none.
    learning_rates: As logged, for the decay; None: they are not.
  """
  steps, values = _finite(steps, values)
  if len(values) < 10:
    return _too_short("still_improving", len(values), 10)
  gain, error = last_gain(values)
  level = float(values[-(len(values) // 5) :].mean())
  smallest = resolution(level, num_examples)
  share = final_rate(learning_rates)
  evidence = dict(
    gain_of_last_fifth=gain,
    level=level,
    standard_error=error,
    resolution=smallest,
    final_learning_rate_share=share,
  )
  if gain <= max(0.04 * abs(level), 4 * error, smallest):
    return _finding("still_improving", "ok", evidence, "", _TRAINING_CURVES)
  if share is not None and share < 0.2:
    return _finding(
      "still_improving",
      "unknown",
      evidence,
      "The objective improves to the end, as the decay of the learning rate"
      " makes it. To know whether more steps help, run the best trial with"
      " twice the steps.",
      _TRAINING_CURVES,
    )
  return _finding(
    "still_improving",
    "warn",
    evidence,
    f"The last fifth of the steps still gained {gain:.2g}: the run is"
    " compute-bound, and more steps or a decay of the learning rate would"
    " improve it.",
    _TRAINING_CURVES,
  )


def last_gain(values: np.ndarray) -> tuple[float, float]:
  """How far the last fifth of a curve lies below the fifth before.

  Returns:
    (the difference of levels, its standard error from the noise).
  """
  width = len(values) // 5
  before, last = values[-2 * width : -width], values[-width:]
  error = _noise(values[-3 * width :]) * math.sqrt(2 / width)
  return float(before.mean() - last.mean()), error


def saturated_early(
  steps: np.ndarray, values: np.ndarray, loss: np.ndarray
) -> finding.Finding:
  """Had training and validation saturated long before the end?

  The rule, on the steps after the first 40 %: `warn` where between the first
  and the second half of them the objective gains at most 2 %, surely (at two
  standard errors of the noise) less than 5 %, and the training loss falls by
  less than 1 % of its whole fall. Needs 20 evaluations and 20 training losses.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], the objective.
    loss: [lines], the training loss at equal intervals over the same steps.
  """
  steps, values = _finite(steps, values)
  loss = loss[np.isfinite(loss)]
  if min(len(values), len(loss)) < 20:
    return _too_short("saturated_early", min(len(values), len(loss)), 20)

  def halves(curve):
    late = curve[int(0.4 * len(curve)) :]
    return late[: len(late) // 2], late[len(late) // 2 :]

  middle, last = halves(values)
  gain, level = float(middle.mean() - last.mean()), float(last.mean())
  noise = _noise(np.concatenate([middle, last]))
  error = noise * math.sqrt(1 / len(middle) + 1 / len(last))
  loss_middle, loss_last = halves(loss)
  loss_gain = float(loss_middle.mean() - loss_last.mean())
  fall = float(loss[0] - loss_last.mean())
  flat = gain <= 0.02 * abs(level) and gain + 2 * error < 0.05 * abs(level)
  return _finding(
    "saturated_early",
    "warn" if flat and loss_gain < 0.01 * fall else "ok",
    dict(
      objective_gain=gain,
      objective_level=level,
      standard_error=error,
      training_loss_gain=loss_gain,
      training_loss_fall=fall,
      since_step=int(steps[int(0.4 * len(steps))]),
    ),
    f"Nothing improves after step {steps[int(0.4 * len(steps))]:,}. Decrease"
    " max_train_steps, and spend the time on more trials.",
    _TRAINING_CURVES,
  )


def training_loss_rises(steps: np.ndarray, loss: np.ndarray) -> finding.Finding:
  """Does the training loss end above a level that it had reached?

  The rule: the level of the last tenth of the lines is above the lowest such
  level by more than 20 %, 5 standard errors of the noise, and 2 % of the fall
  before: `warn`; `fail` where half of the fall is undone. A loss that ends in
  NaN is left to the checks of instability. Needs 10 lines.

  Args:
    steps: [lines], updates.
    loss: [lines], mean training loss since the line before.
  """
  if len(loss) and not np.isfinite(loss[-1]):
    return _after_divergence("training_loss_rises", "train/loss")
  steps, loss = _finite(steps, loss)
  if len(loss) < 10:
    return _too_short("training_loss_rises", len(loss), 10)
  width = max(3, len(loss) // 10)
  levels = _levels(loss, width)
  at = int(np.argmin(levels))
  low, end = float(levels[at]), float(levels[-1])
  rise, fall = end - low, max(float(loss[: at + 1].max()) - low, 0.0)
  error = _noise(loss[len(loss) // 5 :]) * math.sqrt(2 / width)
  verdict = "ok"
  if rise > max(0.2 * abs(low), 5 * error, 0.02 * fall):
    verdict = "fail" if rise > 0.5 * fall else "warn"
  return _finding(
    "training_loss_rises",
    verdict,
    dict(
      lowest_level=low,
      lowest_until_step=int(steps[at + width - 1]),
      final_level=end,
      fall_before=fall,
      standard_error=error,
    ),
    f"The training loss rises after step {steps[at + width - 1]:,}. That"
    " usually is a bug in the training pipeline; if lower learning rates do"
    " not show it, it is instability.",
    _TRAINING_CURVES,
    subject="train/loss",
  )


def periodic_validation(
  steps: np.ndarray, values: np.ndarray
) -> finding.Finding:
  """Does a validation metric go up and down with a period?

  The rule: after the first fifth, without a smooth trend and first-order
  autocorrelation, one frequency of at least 3 cycles (with its neighbour)
  holds more of the variance than chance explains, by Fisher's test of the
  periodogram at 0.1 %, with an amplitude above 0.3 % of the level. Needs 30
  evaluations at equal distances. Source: Playbook, examining the training
  curves ("additional behaviors"); Fisher 1929, tests of significance in
  harmonic analysis.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], a validation metric.
  """
  steps, values = _finite(steps, values)
  if len(steps) > 2 and steps[-1] - steps[-2] != steps[1] - steps[0]:
    steps, values = steps[:-1], values[:-1]  # The last one comes when it ends.
  if len(values) < 30:
    return _too_short("periodic_validation", len(values), 30)
  gaps = np.diff(steps)
  if (gaps != gaps[0]).any():
    return _finding(
      "periodic_validation",
      "unknown",
      dict(num_evaluations=len(values)),
      "Evaluations are not at equal distances; evaluate every so many steps.",
      _TRAINING_CURVES,
    )
  late = _residuals(values[len(values) // 5 :], 4)
  # Periods of two evaluations and less than 3 cycles look like plain noise.
  correlation = (late[1:] @ late[:-1]) / max(late @ late, 1e-300)
  white = late[1:] - np.clip(correlation, 0, 0.9) * late[:-1]
  power = np.abs(np.fft.rfft(white))[3:] ** 2
  pairs = power[:-1] + power[1:]
  at = int(np.argmax(pairs))
  share = float(pairs[at]) / max(float(power.sum()), 1e-300)
  amplitude = math.sqrt(2 * share * (white @ white) / len(white))
  matters = amplitude > 0.003 * abs(values[-len(late) :].mean())
  count = len(power)
  # Two of `count` exponential shares exceed g: a bound over the pairs.
  p_value = min(
    1.0, count * (1 + (count - 1) * share) * max(1 - share, 0) ** (count - 1)
  )
  cycles = 3 + at + float(power[at + 1]) / max(float(pairs[at]), 1e-300)
  period = len(white) / cycles * float(gaps[0])
  return _finding(
    "periodic_validation",
    "warn" if p_value < 1e-3 and matters else "ok",
    dict(
      period_steps=period, amplitude=amplitude, share=share, p_value=p_value
    ),
    f"A validation metric repeats every {period:,.0f} steps. Training examples"
    " may come in the same unshuffled order in each epoch, or the evaluation"
    " may see different examples in turn; compare with the steps of an epoch.",
    _TRAINING_CURVES,
  )


def early_instability(
  steps: np.ndarray,
  loss: np.ndarray,
  norms: np.ndarray,
  max_train_steps: int,
  diverged_at: int | None = None,
) -> finding.Finding:
  """Was training unstable in its first fifth, even if it recovered?

  The rule, up to `max_train_steps` / 5: `fail` where the loss becomes NaN;
  `warn` where it exceeds its lowest value so far by 50 % and by 5 % of the
  first one, or where the largest gradient norm is 10 times the median of the
  others. Needs 5 lines there.

  Args:
    steps: [lines], updates.
    loss: [lines], mean training loss since the line before.
    norms: [lines], largest unclipped gradient norm (L2) since the line before.
    max_train_steps: Updates asked for.
    diverged_at: Updates until the run ended as infeasible; None: the loss says
      whether it diverged.
  """
  diverged_at = _divergence(steps, loss, diverged_at)
  if diverged_at is not None and diverged_at <= max_train_steps / 5:
    return _diverged("early_instability", diverged_at, "early")
  whole, early = loss, steps <= max_train_steps / 5
  loss = loss[early]
  norms = norms[: len(loss)]
  norms = norms[np.isfinite(norms)]
  if len(loss) < 5:
    return _too_short("early_instability", len(loss), 5, "lines in that fifth")
  before = np.minimum.accumulate(loss)[:-1]
  rise = loss[1:] - before
  unstable = _first((rise > 0.5 * before) & (rise > 0.05 * loss[0]))
  median = float(np.median(norms)) if len(norms) else 0.0
  ratio = float(norms.max()) / median if median else 0.0
  verdict = "warn" if unstable is not None or ratio > 10 else "ok"
  then = ""
  if diverged_at is not None:
    then = f", and it diverges at step {diverged_at:,}"
  elif unstable is None or (whole[unstable + 2 :] <= before[unstable]).any():
    then = " and then recovers"
  return _finding(
    "early_instability",
    verdict,
    dict(
      loss_rises_at_step=None if unstable is None else int(steps[unstable + 1]),
      largest_gradient_norm_to_median=ratio,
    ),
    f"Training is unstable early{then}. Try a learning rate warmup, or gradient"
    " clipping just above the typical norm; check with about 500 steps at twice"
    " the rate, evaluated at every step.",
    _UNSTABLE,
    subject="train/loss",
  )


def mid_training_instability(
  steps: np.ndarray,
  loss: np.ndarray,
  norms: np.ndarray,
  max_train_steps: int,
  diverged_at: int | None = None,
) -> finding.Finding:
  """Did training suddenly become unstable after its first fifth?

  The rule: `fail` where the loss becomes NaN; `warn` where a line is above the
  median of the 5 before it: the loss by a factor of 2, 8 times the noise and
  2 % of the first loss; or the largest gradient norm by a factor of 10, while
  it also exceeds the median norm of the first fifth. Needs 10 lines.

  Args:
    steps: [lines], updates.
    loss: [lines], mean training loss since the line before.
    norms: [lines], largest unclipped gradient norm (L2) since the line before.
    max_train_steps: Updates asked for.
    diverged_at: As for `early_instability`.
  """
  early = steps <= max_train_steps / 5
  diverged_at = _divergence(steps, loss, diverged_at)
  if diverged_at is not None and diverged_at <= max_train_steps / 5:
    return _after_divergence("mid_training_instability", "train/loss")
  if diverged_at is not None:
    return _diverged("mid_training_instability", diverged_at, "mid")
  if len(loss) < 10:
    return _too_short("mid_training_instability", len(loss), 10)
  usual = _medians_before(loss, 5)
  rise = loss[5:] - usual
  threshold = max(8 * _noise(loss[5:]), 0.02 * loss[0])
  jumps = (rise > np.abs(usual)) & (rise > threshold)
  if len(norms) == len(loss) and np.isfinite(norms).all():
    start = np.median(norms[early]) if early.any() else norms[0]
    jumps |= (norms[5:] > 10 * _medians_before(norms, 5)) & (norms[5:] > start)
  jumps &= ~early[5:]
  first = _first(jumps)
  return _finding(
    "mid_training_instability",
    "ok" if first is None else "warn",
    dict(
      first_at_step=None if first is None else int(steps[5 + first]),
      num_lines=int(jumps.sum()),
    ),
    "The loss or the gradient norm jumps in the middle of training. Try"
    " gradient clipping at the 90th percentile of the norms; a longer warmup"
    " if that does not help.",
    _UNSTABLE,
    subject="train/loss",
  )


def aggressive_clipping(
  steps: np.ndarray, clipped: np.ndarray, norms: np.ndarray
) -> finding.Finding:
  """Are most updates clipped?

  The rule: `warn` where more than 50 % of all updates were clipped. Source:
  Playbook, gradient clipping.

  Args:
    steps: [lines], updates.
    clipped: [lines], share of the updates clipped since the line before.
    norms: [lines], unclipped gradient norms (L2), for the advice.
  """
  source = "Playbook, gradient clipping"
  share = clipped_share(steps, clipped)
  if share is None:
    return _too_short("aggressive_clipping", 0, 1, "lines of train/clipped")
  evidence = dict(share_of_updates_clipped=share)
  if share <= 0.5:
    return _finding(
      "aggressive_clipping", "ok", evidence, "", source, "train/clipped"
    )
  norms = norms[np.isfinite(norms)]
  typical = float(np.percentile(norms, 90)) if len(norms) else None
  threshold = f" ({typical:.2g} here)" if typical is not None else ""
  return _finding(
    "aggressive_clipping",
    "warn",
    evidence | dict(gradient_norm_90th_percentile=typical),
    f"{share:.0%} of the updates are clipped, which is a strange way of"
    " reducing the learning rate. Reduce it instead, and clip at the 90th"
    f" percentile of the gradient norms{threshold}.",
    source,
    subject="train/clipped",
  )


def clipped_share(steps: np.ndarray, clipped: np.ndarray) -> float | None:
  """The share of all updates that were clipped; None: it was not logged.

  Args:
    steps: [lines], updates.
    clipped: [lines], share of the updates clipped since the line before.
  """
  updates = np.diff(steps, prepend=0)
  finite = np.isfinite(clipped)
  if not updates[finite].sum():
    return None
  return float(np.average(clipped[finite], weights=updates[finite]))


def input_bound(waits, rates) -> finding.Finding:
  """Does training wait for its data?

  The rule: the median over the lines of the share of time spent waiting, the
  first line left out, which fills the pipeline; `warn` from a tenth on, `fail`
  from a half on. Needs 4 lines. Source: Playbook, how should I evaluate and
  optimize the input pipeline.

  Args:
    waits: Share of wall time at each line, [0, 1].
    rates: Examples per second at each line.
  """
  needed = 4
  waits, rates = (values[np.isfinite(values)] for values in (waits, rates))
  if len(waits) < needed:
    return _too_short("input_bound", len(waits), needed, "lines of metrics")
  share = np.median(waits[1:])
  evidence = {"share_of_time_waiting": share}
  if len(rates) > 1:
    evidence["examples_per_second"] = np.median(rates[1:])
  verdict = "ok" if share < 0.1 else "warn" if share < 0.5 else "fail"
  advice = (
    "The devices wait for data. Raise config.dataset.workers up to the"
    " cores of a host, store the images smaller, or read from a faster disk;"
    " tools/benchmark.py input says what a core can do."
  )
  return _finding("input_bound", verdict, evidence, advice, _INPUT, "data_wait")


# What the rules share.


def resolution(error_rate: float, num_examples: int) -> float:
  """Standard error of an error rate on `num_examples`; 0 of other metrics."""
  if not num_examples:
    return 0.0
  # One error at least: sets without a single one are not infinitely sharp.
  share = min(max(float(error_rate), 1 / num_examples), 1.0)
  return math.sqrt(share * (1 - share) / num_examples)


def final_rate(learning_rates: np.ndarray | None) -> float | None:
  """The last learning rate as a share of the largest; None: not logged."""
  if learning_rates is None:
    return None
  rates = learning_rates[np.isfinite(learning_rates)]
  return float(rates[-1] / rates.max()) if len(rates) and rates.max() else None


def _finding(
  check, verdict, evidence, advice, source, subject="objective"
) -> finding.Finding:
  evidence = {
    name: float(value) if isinstance(value, np.floating) else value
    for name, value in evidence.items()
  }
  advice = "" if verdict == "ok" else advice
  return finding.Finding(check, verdict, subject, evidence, advice, source)


def _too_short(check, has, needs, what="values"):
  return _finding(
    check,
    "unknown",
    dict(has=has, needs=needs),
    f"Too short to tell: the run has {has} {what}, and this needs {needs}."
    " Log or evaluate more often.",
    _TRAINING_CURVES,
  )


def _unfinished(check):
  return _finding(
    check,
    "unknown",
    {},
    "The run did not reach its last step.",
    _TRAINING_CURVES,
  )


def _after_divergence(check, subject="objective"):
  return _finding(
    check,
    "unknown",
    {},
    "The run diverged; see early_instability and mid_training_instability.",
    _TRAINING_CURVES,
    subject,
  )


def _divergence(steps, loss, diverged_at):
  """The step at which a run diverged; None: it did not."""
  first = _first(~np.isfinite(loss))
  if diverged_at is None and first is not None:
    return int(steps[first])
  return diverged_at


def _diverged(check, step, when):
  fix = {
    "early": "a learning rate warmup, or gradient clipping",
    "mid": "gradient clipping, or a longer warmup",
  }[when]
  return _finding(
    check,
    "fail",
    dict(diverged_at_step=step),
    f"Training diverged at step {step:,}. If better trials need this learning"
    f" rate, try {fix}; else a lower rate.",
    _UNSTABLE,
    subject="train/loss",
  )


def _finite(steps, values):
  finite = np.isfinite(values)
  return steps[finite], values[finite]


def _first(flags):
  """Index of the first that is true, or None."""
  return int(np.argmax(flags)) if flags.any() else None


def _noise(values):
  """Standard deviation around a smooth curve, from second differences.

  The mean, not the median, of absolute ones: those of an error rate on few
  examples are mostly zero.
  """
  if len(values) < 3:
    return 0.0
  second = values[2:] - 2 * values[1:-1] + values[:-2]
  # E|x| of a normal x is sd sqrt(2 / pi), and sd of `second` is sqrt(6) noise.
  return float(np.abs(second).mean()) * math.sqrt(math.pi / 12)


def _levels(values, width):
  """Means over windows of `width`, [len(values) - width + 1]."""
  sums = np.cumsum(np.concatenate([[0.0], values]))
  return (sums[width:] - sums[:-width]) / width


def _medians_before(values, width):
  """The median of the `width` values before each, from the first that has."""
  windows = np.lib.stride_tricks.sliding_window_view(values[:-1], width)
  return np.sort(windows, axis=1)[:, width // 2]


def _residuals(values, num_terms):
  """What a smooth trend of `num_terms` terms leaves."""
  basis = _trend(len(values), num_terms)
  return values - basis @ (basis.T @ values)


@functools.lru_cache(maxsize=64)
def _trend(length, num_terms):
  """Orthonormal columns: constant, line, logarithm, parabola."""
  t = np.linspace(0.05, 1, length)
  columns = [np.ones(length), t, np.log(t), t * t][:num_terms]
  return np.linalg.qr(np.stack(columns, axis=1))[0]
