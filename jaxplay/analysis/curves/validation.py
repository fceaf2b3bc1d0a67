"""Checks of the curves of the objective and of other validation metrics."""

import math

import numpy as np

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
  `ok`. Source: Playbook, choosing the initial configuration.

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
  fifth is above the lowest level of any such window by more than 10%, 5
  standard errors of the noise, and the resolution. Needs 10 evaluations. One
  that is maximized is judged by its cost, see `config.metric`, here and in the
  other checks of the objective.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], the objective; non-finite values are left out.
    num_examples: Validation examples if the objective is a share, else 0.
    metric: Of the objective.
  """
  steps, costs = measures.finite(steps, metric.cost(values))
  if len(costs) < 10:
    return findings.too_short("overfitting", len(costs), 10)
  width = max(3, len(costs) // 5)
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
  learning_rates: np.ndarray | None = None,
  metric: config_lib.metric.Metric = _MINIMIZED,
) -> finding.Finding:
  """Check whether the objective jumps between evaluations late in training.

  The rule: `warn` if over the last third the standard deviation around a
  straight line is above 5% of the level and above the resolution. Needs 15
  evaluations.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], the objective.
    num_examples: Validation examples if the objective is a share, else 0.
    learning_rates: As logged, to choose the advice; None: not logged.
    metric: Of the objective.
  """
  steps, costs = measures.finite(steps, metric.cost(values))
  if len(costs) < 15:
    return findings.too_short("late_variance", len(costs), 15)
  late = costs[-(len(costs) // 3) :]
  residuals = measures.residuals(late, 2)
  deviation = math.sqrt(residuals @ residuals / (len(late) - 2))
  level = float(late.mean())
  resolution = measures.resolution(level, num_examples)
  share = measures.final_rate(learning_rates)
  remedy = "average the weights, increase the batch size"
  if share is None or share > 0.5:
    remedy = "decay the learning rate, average the weights"
  varies = deviation > max(0.05 * abs(level), resolution)
  return findings.make(
    "late_variance",
    "warn" if varies else "ok",
    dict(
      standard_deviation=deviation,
      level=metric.value(level),
      resolution=resolution,
      final_learning_rate_share=share,
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
  learning_rates: np.ndarray | None = None,
  metric: config_lib.metric.Metric = _MINIMIZED,
) -> finding.Finding:
  """Check whether the objective still improves when training ends.

  The rule: the level of the last fifth lies below that of the fifth before by
  more than 4%, 4 standard errors of the noise, and the resolution. Then
  `warn`; but `unknown` if the learning rate ends below a fifth of its peak,
  because a decay lowers the end of every curve. Needs 10 evaluations.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], the objective.
    num_examples: Validation examples if the objective is a share, else 0.
    learning_rates: As logged, to detect a decay; None: not logged.
    metric: Of the objective.
  """
  check = "still_improving"
  steps, costs = measures.finite(steps, metric.cost(values))
  if len(costs) < 10:
    return findings.too_short(check, len(costs), 10)
  gain, error = measures.last_gain(costs)
  level = float(costs[-(len(costs) // 5) :].mean())
  resolution = measures.resolution(level, num_examples)
  share = measures.final_rate(learning_rates)
  improved = f"The objective improved by {gain:.2g} over the last fifth of the"
  verdict: finding.Verdict = "warn"
  advice = (
    f"{improved} steps: the run is compute-bound. Train longer, or decay the"
    " learning rate."
  )
  if gain <= max(0.04 * abs(level), 4 * error, resolution):
    verdict = "ok"
  elif share is not None and share < 0.2:
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
    final_learning_rate_share=share,
  )
  return findings.make(check, verdict, evidence, advice)


def saturated_early(
  steps: np.ndarray,
  values: np.ndarray,
  loss: np.ndarray,
  metric: config_lib.metric.Metric = _MINIMIZED,
) -> finding.Finding:
  """Check whether training and validation saturated long before the end.

  The rule, on the steps after the first 40%: `warn` if between the first and
  the second half of them the objective gains at most 2%, surely (at two
  standard errors of the noise) less than 5%, and the training loss falls by
  less than 1% of its whole fall. Needs 20 evaluations and 20 training losses.

  Args:
    steps: [evaluations], updates.
    values: [evaluations], the objective.
    loss: [lines], the training loss at equal intervals over the same steps.
    metric: Of the objective.
  """
  steps, costs = measures.finite(steps, metric.cost(values))
  loss = loss[np.isfinite(loss)]
  has = min(len(costs), len(loss))
  if has < 20:
    return findings.too_short("saturated_early", has, 20)

  def halves(curve):
    late = curve[int(0.4 * len(curve)) :]
    return late[: len(late) // 2], late[len(late) // 2 :]

  middle, last = halves(costs)
  gain, level = float(middle.mean() - last.mean()), float(last.mean())
  noise = measures.noise(np.concatenate([middle, last]))
  error = noise * math.sqrt(1 / len(middle) + 1 / len(last))
  loss_middle, loss_last = halves(loss)
  loss_gain = float(loss_middle.mean() - loss_last.mean())
  fall = float(loss[0] - loss_last.mean())
  flat = gain <= 0.02 * abs(level) and gain + 2 * error < 0.05 * abs(level)
  since = int(steps[int(0.4 * len(steps))])
  reached = metric.value(level)
  of = f"{reached:.3g}"
  if metric.most is not None:
    of = f"{level:.3g}, the distance of {of} from {metric.most:g}"
  return findings.make(
    "saturated_early",
    "warn" if flat and loss_gain < 0.01 * fall else "ok",
    dict(
      objective_gain=gain,
      objective_level=reached,
      standard_error=error,
      training_loss_gain=loss_gain,
      training_loss_fall=fall,
      since_step=since,
    ),
    f"After step {since:,} the objective improves by only {gain:.2g} of"
    f" {of}, and the training loss hardly falls. Decrease"
    " max_train_steps, and run more trials instead.",
  )


def periodic_validation(
  steps: np.ndarray, values: np.ndarray
) -> finding.Finding:
  """Check whether a validation metric oscillates with a period.

  The rule: after the first fifth, without a smooth trend and first-order
  autocorrelation, one frequency of at least 3 cycles (with its neighbour)
  holds more of the variance than chance explains, by Fisher's test of the
  periodogram at 0.1%, with an amplitude above 0.3% of the level. Needs 30
  evaluations at equal distances. Source: Playbook, examining the training
  curves ("additional behaviors"); Fisher 1929, tests of significance in
  harmonic analysis.

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
  return findings.make(
    check,
    "warn" if p_value < 1e-3 and matters else "ok",
    dict(
      period_steps=period, amplitude=amplitude, share=share, p_value=p_value
    ),
    f"A validation metric oscillates with a period of {period:,.0f} steps (p ="
    f" {p_value:.2g}). Training examples may come in the same unshuffled order"
    " in each epoch, or evaluations may use different examples in turn; compare"
    " the period with the steps per epoch.",
  )
