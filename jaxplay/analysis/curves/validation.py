"""Checks of the curves of the objective and of other validation metrics."""

import math

import numpy as np
from scipy import stats

from jaxplay import config as config_lib
from jaxplay import finding
from jaxplay.analysis.curves import findings, measures

# Of an objective of which nothing is known.
_MINIMIZED = config_lib.metric.Metric("")


def better_than_chance(
  error_rate: float | None, chance: float | None, num_examples: int
) -> finding.Finding:
  """Check that the result is clearly better than chance on validation.

  Chance is the error rate of always predicting the most frequent class (of
  several labels, the more frequent value of each). The rule: `fail` if the best
  error rate is not below chance by 5 standard errors of a share of
  `num_examples`; `warn` if it is, but by less than a tenth of chance; else
  `ok`. `unknown` if so few examples cannot show it even without an error.
  Source: Playbook, choosing the initial configuration.

  Args:
    error_rate: Best validation error rate, in [0, 1]; None: never evaluated.
    chance: Error rate of the most frequent class, in [0, 1].
    num_examples: Number of validation examples.
  """
  check, subject = "better_than_chance", "valid/error_rate"
  source = "Playbook, choosing the initial configuration"
  if error_rate is None or chance is None or not num_examples:
    advice = "The run has no finite validation error rate, which this requires."
    return findings.make(check, "unknown", {}, advice, source, subject)
  error = measures.resolution(chance, num_examples)
  if chance and chance <= 5 * error:
    return findings.make(
      check,
      "unknown",
      dict(chance_error_rate=chance, num_examples=num_examples),
      f"On {num_examples} validation examples not even an error rate of 0 would"
      f" be 5 standard errors ({error:.2g} each) below chance, {chance:.4g}:"
      " evaluate on more.",
      source,
      subject,
    )
  below = chance - error_rate
  numbers = f"The best validation error rate, {error_rate:.4g}, is"
  verdict: finding.Verdict = "ok"
  advice = ""
  if below <= 5 * error:
    verdict = "fail"
    advice = (
      f"{numbers} not below that of always predicting the most frequent class,"
      f" {chance:.4g}, by 5 standard errors ({error:.2g} each). Before any"
      " tuning, find out why: learning rate far off, mismatched labels or"
      " inputs, or far too few steps."
    )
  elif below < 0.1 * chance:
    verdict = "warn"
    advice = (
      f"{numbers} less than 10% below chance ({chance:.4g}). Try a learning"
      " rate ten times larger or smaller, or more steps, before designing a"
      " study around this config."
    )
  evidence = dict(
    best_error_rate=error_rate,
    chance_error_rate=chance,
    standard_error=error,
    num_examples=num_examples,
  )
  return findings.make(check, verdict, evidence, advice, source, subject)


def better_than_mean(
  mse: float | None, mean_mse: float, num_examples: int
) -> finding.Finding:
  """Check that a regression is clearly better than predicting the mean.

  The counterpart of `better_than_chance`, by R2, the share of the variance of
  the targets that is explained. The rule: `fail` if R2 of n examples is at most
  25 / (n + 25), where n R2 / (1 - R2) is 25, the square of 5 standard errors;
  `warn` if it is more, but below 0.1; else `ok`. Source: Playbook, choosing the
  initial configuration.

  Args:
    mse: Best mean squared error on validation; None: never evaluated.
    mean_mse: That of always predicting the mean of the validation targets.
    num_examples: Number of validation examples.
  """
  check, subject = "better_than_chance", "valid/loss"
  source = "Playbook, choosing the initial configuration"
  if mse is None or not num_examples or not mean_mse > 0:
    advice = "There is no finite validation loss, or the targets do not vary."
    return findings.make(check, "unknown", {}, advice, source, subject)
  explained = 1 - mse / mean_mse
  numbers = f"The best mean squared error on validation, {mse:.4g}, is"
  verdict: finding.Verdict = "ok"
  advice = ""
  if explained <= 25 / (num_examples + 25):
    verdict = "fail"
    advice = (
      f"{numbers} not clearly below that of always predicting the mean of the"
      f" targets, {mean_mse:.4g}, with {num_examples} examples. Before any"
      " tuning, find out why: learning rate far off, targets or inputs of very"
      " different scales, mismatched targets, or far too few steps."
    )
  elif explained < 0.1:
    verdict = "warn"
    advice = (
      f"{numbers} less than 10% below that of always predicting the mean,"
      f" {mean_mse:.4g}. Try a learning rate ten times larger or smaller, or"
      " more steps, before designing a study around this config."
    )
  evidence = dict(
    best_mse=mse, mean_mse=mean_mse, r2=explained, num_examples=num_examples
  )
  return findings.make(check, verdict, evidence, advice, source, subject)


def overfitting(
  steps: np.ndarray,
  values: np.ndarray,
  num_examples: int = 0,
  metric: config_lib.metric.Metric = _MINIMIZED,
) -> finding.Finding:
  """Check whether the validation objective becomes worse again.

  The rule, for an objective that is minimized: `warn` if the level of the last
  tenth is above the lowest level of any such window by more than 10%, 5
  standard errors of the noise, and the resolution; `unknown` if the last value
  is not finite. Needs 10 evaluations. One
  that is maximized is judged by its cost, see `config.metric`, here and in the
  other checks of the objective.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], the objective; non-finite values are left out.
    num_examples: Validation examples if the objective is a share, else 0.
    metric: Of the objective.
  """
  if len(values) and not np.isfinite(values[-1]):
    return findings.ends_without_value("overfitting")
  steps, costs = measures.finite(steps, metric.cost(values))
  if len(costs) < 10:
    return findings.too_short("overfitting", len(costs), 10)
  width = max(3, len(costs) // 10)
  levels = measures.levels(costs, width)
  at = int(np.argmin(levels))
  low, end = levels[at], levels[-1]
  noise = measures.noise(costs[len(costs) // 5 :])
  error = noise * math.sqrt(2 / width)
  resolution = measures.resolution(low, num_examples)
  rises = end - low > max(0.1 * abs(low), 5 * error, resolution)
  until = int(steps[at + width - 1])
  best, last = metric.value(low), metric.value(end)
  name = metric.either("lowest", "highest")
  return findings.make(
    "overfitting",
    "warn" if rises else "ok",
    {
      f"{name}_level": best,
      f"{name}_until_step": until,
      "final_level": last,
      "standard_error": error,
      "resolution": resolution,
    },
    f"The validation objective {metric.either('rises', 'falls')} from"
    f" {best:.4g} at step {until:,} to {last:.4g} at the end. Add"
    " regularization, or tune the existing one (weight decay, dropout, label"
    " smoothing, augmentation), before comparing this trial with others.",
  )


def late_variance(
  steps: np.ndarray,
  values: np.ndarray,
  num_examples: int = 0,
  final_rate: float | None = None,
  metric: config_lib.metric.Metric = _MINIMIZED,
) -> finding.Finding:
  """Check whether the objective jumps between evaluations late in training.

  The rule, over the last third: `warn` if the standard deviation between
  neighbours is above 5% of the level, and above the resolution by more than
  chance (2.5 standard errors of a deviation), and at least twice the objective
  turns around between two moves of 5% or more. The deviation is estimated from
  the median difference of neighbours, so that most have to differ: a drop, a
  burst or a few outliers are no variance. Needs 15 evaluations.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], the objective.
    num_examples: Validation examples if the objective is a share, else 0.
    final_rate: The last learning rate as a share of the largest, to choose the
      advice; None: unknown.
    metric: Of the objective.
  """
  steps, costs = measures.finite(steps, metric.cost(values))
  if len(values) and not np.isfinite(values[-1]):
    return findings.ends_without_value("late_variance")
  if len(costs) < 15:
    return findings.too_short("late_variance", len(costs), 15)
  late = costs[-(len(costs) // 3) :]
  deviation = measures.scatter(late)
  level = float(late.mean())
  resolution = measures.resolution(level, num_examples)
  # The median has 37% of the efficiency of a standard deviation.
  chance = 1 + 2.5 / math.sqrt(2 * 0.37 * len(late))
  remedy = "average the weights, increase the batch size"
  if final_rate is None:
    remedy = "decay the learning rate if it is constant, average the weights"
  elif final_rate > 0.5:
    remedy = "decay the learning rate, average the weights"
  varies = deviation > max(0.05 * abs(level), chance * resolution)
  moves = np.diff(late)
  moves = np.sign(moves) * (np.abs(moves) > 0.05 * abs(level))
  varies &= int((moves[1:] * moves[:-1] < 0).sum()) >= 2
  return findings.make(
    "late_variance",
    "warn" if varies else "ok",
    dict(
      standard_deviation=deviation,
      level=metric.value(level),
      resolution=resolution,
      final_learning_rate_share=final_rate,
    ),
    "Over the last third of the evaluations the objective has a standard"
    f" deviation of {deviation:.2g} around {metric.value(level):.3g}, so its"
    f" best value is partly luck. To reduce it, {remedy}, or use more"
    " validation data.",
  )


def still_improving(
  steps: np.ndarray,
  values: np.ndarray,
  num_examples: int = 0,
  final_rate: float | None = None,
  metric: config_lib.metric.Metric = _MINIMIZED,
) -> finding.Finding:
  """Check whether the objective still improves when training ends.

  The rule: the level of the last fifth lies below that of the fifth before by
  more than 4%, 4 standard errors of the noise, and the resolution. Then
  `warn`; but `unknown` if the learning rate ends below a fifth of its peak,
  because a decay lowers the end of every curve, or if that is not known. Needs
  10 evaluations.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], the objective.
    num_examples: Validation examples if the objective is a share, else 0.
    final_rate: The last learning rate as a share of the largest; None: unknown.
    metric: Of the objective.
  """
  check = "still_improving"
  if len(values) and not np.isfinite(values[-1]):
    return findings.ends_without_value(check)
  steps, costs = measures.finite(steps, metric.cost(values))
  if len(costs) < 10:
    return findings.too_short(check, len(costs), 10)
  gain, error = measures.last_gain(costs)
  level = float(costs[-(len(costs) // 5) :].mean())
  resolution = measures.resolution(level, num_examples)
  improved = f"The objective improved by {gain:.2g} over the last fifth of the"
  verdict: finding.Verdict = "warn"
  advice = (
    f"{improved} steps: the run is compute-bound. Train longer, or decay the"
    " learning rate."
  )
  if gain <= max(0.04 * abs(level), 4 * error, resolution):
    verdict = "ok"
  elif final_rate is None:
    verdict = "unknown"
    advice = (
      f"{improved} steps, and whether the learning rate decays, which causes"
      " that at any length, is unknown: it was not logged, and is not in the"
      " config. To find out whether more steps help, train the best trial for"
      " twice the steps."
    )
  elif final_rate < 0.2:
    verdict = "unknown"
    advice = (
      f"{improved} steps, which a decaying learning rate causes at any length."
      " To find out whether more steps help, train the best trial for twice"
      " the steps."
    )
  evidence = dict(
    gain_of_last_fifth=gain,
    level=metric.value(level),
    standard_error=error,
    resolution=resolution,
    final_learning_rate_share=final_rate,
  )
  return findings.make(check, verdict, evidence, advice)


def saturated_early(
  steps: np.ndarray,
  values: np.ndarray,
  loss: np.ndarray,
  metric: config_lib.metric.Metric = _MINIMIZED,
) -> finding.Finding:
  """Check whether training and validation saturated long before the end.

  The rule: `warn` if the level of the objective from 30 to 50% of the steps is
  surely (at two standard errors of the noise) less than 5% above that of the
  rest, and above that of the last fifth, and the training loss falls after it
  by less than 1% of its whole fall. `ok` if it gains more than 2%; between
  them the noise does not decide: `unknown`. Needs 20 evaluations and 20
  training losses.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], the objective.
    loss: [lines], the training loss at equal intervals over the same steps.
    metric: Of the objective.
  """
  if len(values) and not np.isfinite(values[-1]):
    return findings.ends_without_value("saturated_early")
  steps, costs = measures.finite(steps, metric.cost(values))
  loss = loss[np.isfinite(loss)]
  has = min(len(costs), len(loss))
  if has < 20:
    return findings.too_short("saturated_early", has, 20)

  def parts(curve):
    num = len(curve)
    since, half = int(0.3 * num), num // 2
    return curve[since:half], curve[half:], curve[-(num // 5) :]

  middle, *later = parts(costs)
  noise = measures.noise(costs[len(costs) // 3 :])
  level = float(later[0].mean())
  gains = [
    (
      float(middle.mean() - part.mean()),
      noise * math.sqrt(1 / len(middle) + 1 / len(part)),
    )
    for part in later
  ]
  gain, error = max(gains)
  loss_middle, *loss_later = parts(loss)
  loss_last = min(float(part.mean()) for part in loss_later)
  loss_gain = float(loss_middle.mean()) - loss_last
  fall = float(loss[0]) - loss_last
  flat = all(g + 2 * e < 0.05 * abs(level) for g, e in gains)
  verdict: finding.Verdict = "ok"
  if loss_gain < 0.01 * fall and gain <= 0.02 * abs(level):
    verdict = "warn" if flat else "unknown"
  elif loss_gain < 0.01 * fall and flat:
    verdict = "warn"
  since = int(steps[len(steps) // 2])
  reached = metric.value(level)
  of = f"{reached:.3g}"
  if metric.most is not None:
    of = f"{level:.3g}, the distance of {of} from {metric.most:g}"
  return findings.make(
    "saturated_early",
    verdict,
    dict(
      objective_gain=gain,
      objective_level=reached,
      standard_error=error,
      training_loss_gain=loss_gain,
      training_loss_fall=fall,
      since_step=since,
    ),
    (
      f"After step {since:,} the objective improves by only {gain:.2g} of"
      f" {of}, and the training loss hardly falls. Decrease"
      " max_train_steps, and run more trials instead."
    )
    if verdict == "warn"
    else (
      f"After step {since:,} the objective improves by {gain:.2g} (standard"
      f" error {error:.2g}) of {of}: too noisy to decide whether it is flat."
    ),
  )


def periodic_validation(
  steps: np.ndarray, values: np.ndarray
) -> finding.Finding:
  """Check whether a validation metric oscillates with a period.

  The rule: after the first fifth, without a smooth trend and first-order
  autocorrelation, one frequency of at least 3 cycles (with its neighbour)
  holds more of the variance than chance explains, by Fisher's test of the
  periodogram at 0.5%, with an amplitude above 0.3% of the level. And a wave of
  that frequency explains more than chance, by an F-test at 2%, in each half,
  and with the same phase (within 0.3 turns): one drop, one step and one burst
  have no period. Needs 30 evaluations at equal
  distances. Source: Playbook, examining the training curves ("additional
  behaviors"); Fisher 1929, tests of significance in harmonic analysis.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], a validation metric, or its costs.
  """
  check = "periodic_validation"
  steps, values = measures.finite(steps, values)
  if len(steps) > 2 and steps[-1] - steps[-2] != steps[1] - steps[0]:
    steps, values = steps[:-1], values[:-1]  # That of the last step.
  if len(values) < 30:
    return findings.too_short(check, len(values), 30)
  gaps = np.diff(steps)
  if (gaps != gaps[0]).any():
    advice = "Evaluations are not at equal distances; check eval_every."
    evidence = dict(num_evaluations=len(values))
    return findings.make(check, "unknown", evidence, advice)
  late = measures.residuals(values[len(values) // 5 :], 4)
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
  oscillates = p_value < 5e-3 and matters and _has_wave(white, cycles)
  return findings.make(
    check,
    "warn" if oscillates else "ok",
    dict(
      period_steps=period, amplitude=amplitude, share=share, p_value=p_value
    ),
    f"A validation metric oscillates with a period of {period:,.0f} steps (p ="
    f" {p_value:.2g}). Training examples may come in the same unshuffled order"
    " in each epoch, or evaluations may use different examples in turn; compare"
    " the period with the steps per epoch.",
  )


def _has_wave(values, cycles):
  """Whether a wave of that many cycles is significant in both halves."""
  turns = np.arange(len(values)) * 2 * math.pi * cycles / len(values)
  half = len(values) // 2
  phases = []
  for part in (slice(0, half), slice(half, None)):
    waves = np.stack([np.cos(turns[part]), np.sin(turns[part])], axis=1)
    centered = values[part] - values[part].mean()
    waves -= waves.mean(axis=0)
    (a, b), *_ = np.linalg.lstsq(waves, centered, rcond=None)
    explained = waves @ [a, b]
    rest = centered - explained
    freedom = len(centered) - 3
    ratio = explained @ explained / max(rest @ rest, 1e-300) * freedom / 2
    if ratio < stats.f.isf(0.02, 2, freedom):
      return False
    phases.append(math.atan2(b, a))
  # A frequency that is off by half a bin shifts the halves by a quarter turn.
  turn = abs((phases[1] - phases[0] + math.pi) % (2 * math.pi) - math.pi)
  return turn < 0.3 * 2 * math.pi
