"""Checks of a single run, on hand-made curves."""

import dataclasses
import json
import math

import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.analysis import curves, results

_ERROR = "valid/error_rate"
STEPS = np.arange(1, 101) * 100
TIME = STEPS / STEPS[-1]
FALLING = 0.05 * (1 + 4 * np.exp(-8 * TIME))
NOISE = np.random.default_rng(0).standard_normal(100)


@pytest.mark.parametrize(
  "error_rate, chance, num_examples, verdict",
  [
    (0.02, 0.9, 300, "ok"),
    (0.9, 0.9, 300, "fail"),  # the most frequent class
    (0.95, 0.9, 300, "fail"),  # worse than it
    (0.85, 0.9, 300, "fail"),  # within 5 standard errors of 0.017
    (0.88, 0.9, 50_000, "warn"),  # certain, but small
    (0.95, 0.999, 50_000, "warn"),  # an early ImageNet run
    (0.7, 0.999, 50_000, "ok"),
    (0.0, 0.5, 10, "unknown"),  # 10 of 10 right may be luck
    (0.5, 0.5, 10, "unknown"),  # and nothing else would be less so
    (0.0, 0.5, 30, "ok"),
    (None, 0.9, 300, "unknown"),
    (0.1, None, 300, "unknown"),
    (0.0, 0.0, 300, "fail"),  # one class only: nothing was learned
  ],
)
def test_better_than_chance(error_rate, chance, num_examples, verdict):
  """A5: a result must beat chance on validation clearly, else it is told."""
  found = curves.better_than_chance(error_rate, chance, num_examples)
  assert found.verdict == verdict
  assert bool(found.advice) == (verdict != "ok")


@pytest.mark.parametrize(
  "mse, mean_mse, num_examples, verdict",
  [
    (0.5, 4.0, 300, "ok"),
    (4.0, 4.0, 300, "fail"),  # the mean
    (9.0, 4.0, 300, "fail"),  # worse than it
    (3.8, 4.0, 300, "fail"),  # 5% of 300 may be luck
    (3.8, 4.0, 3_000, "warn"),  # certain, but small
    (2.0, 4.0, 20, "fail"),  # half of 20 may be luck
    (0.1, 4.0, 20, "ok"),  # all of them are not
    (None, 4.0, 300, "unknown"),
    (0.1, 0.0, 300, "unknown"),  # the targets do not vary
    (0.1, float("nan"), 300, "unknown"),
    (0.1, 4.0, 0, "unknown"),
  ],
)
def test_better_than_mean(mse, mean_mse, num_examples, verdict):
  """A5: numbers must be predicted clearly better than by their mean."""
  found = curves.better_than_mean(mse, mean_mse, num_examples)
  assert found.verdict == verdict and found.check == "better_than_chance"
  assert bool(found.advice) == (verdict != "ok")


def test_unrelated_outputs_are_no_better_than_the_mean():
  """A5: the best of many random predictions is not taken for learning."""
  rng, verdicts = np.random.default_rng(0), set()
  for _ in range(200):
    target, noise = rng.normal(size=(2, 100))
    outputs = target.mean() + noise * rng.choice([0.1, 0.2, 0.5])
    mse = np.square(outputs - target).mean()
    found = curves.better_than_mean(float(mse), float(target.var()), 100)
    verdicts.add(found.verdict)
  assert verdicts == {"fail"}


@pytest.mark.parametrize(
  "rise, num_examples, verdict",
  [
    (0.0, 0, "ok"),
    (0.05, 0, "ok"),  # 5 %: less than 10 %
    (0.3, 0, "warn"),
    (0.3, 100_000, "warn"),
    (0.3, 100, "ok"),  # 1.5 errors of 100
    (3.0, 100, "warn"),
  ],
)
def test_overfitting(rise, num_examples, verdict):
  """D6: a rise is told that neither noise nor few examples explain."""
  values = FALLING + 0.05 * rise * np.clip(2 * TIME - 1, 0, 1)
  values += 0.0005 * NOISE
  found = curves.overfitting(STEPS, values, num_examples)
  assert found.verdict == verdict
  if verdict == "warn":
    assert 3000 <= found.evidence["lowest_until_step"] <= 7000


def test_overfitting_is_not_seen_in_noise():
  """D6: a curve that jumps by 30 % around its level does not rise."""
  values = 0.05 * (1 + 0.3 * NOISE)
  assert curves.overfitting(STEPS, values).verdict == "ok"


@pytest.mark.parametrize(
  "deviation, num_examples, verdict",
  [(0.0, 0, "ok"), (0.02, 0, "ok"), (0.1, 0, "warn"), (0.1, 300, "ok")],
)
def test_late_variance(deviation, num_examples, verdict):
  """D7: jumps late in training are told, beyond what examples resolve."""
  values = FALLING * (1 + deviation * NOISE)
  found = curves.late_variance(STEPS, values, num_examples, 1.0)
  assert found.verdict == verdict


def test_late_variance_does_not_count_a_trend():
  """D7: a curve that falls steadily does not jump."""
  assert curves.late_variance(STEPS, 1 - 0.9 * TIME).verdict == "ok"


def test_remedies_of_late_variance():
  """D7: a decay is proposed only where the rate has not decayed."""
  values = FALLING * (1 + 0.2 * NOISE)
  constant = curves.late_variance(STEPS, values, 0, 1.0)
  decayed = curves.late_variance(STEPS, values, 0, 0.0)
  assert "decay the learning rate" in constant.advice
  assert "decay the learning rate" not in decayed.advice


@pytest.mark.parametrize(
  "power, rate, verdict",
  [
    (0.0, 1.0, "ok"),
    (0.0, None, "ok"),
    (0.5, 1.0, "warn"),
    (0.5, None, "unknown"),  # not logged, and not known from the config
    (0.5, 0.01, "unknown"),  # the decay alone may have done it
  ],
)
def test_still_improving(power, rate, verdict):
  """D8, F3: a curve that falls when the run ends is told, save by decay."""
  values = 0.05 * TIME**-power * (1 + 0.005 * NOISE)
  assert curves.still_improving(STEPS, values, 0, rate).verdict == verdict


@pytest.mark.parametrize(
  "speed, loss_speed, verdict",
  [(30, 30, "warn"), (5, 30, "ok"), (30, 2, "ok"), (2, 2, "ok")],
)
def test_saturated_early(speed, loss_speed, verdict):
  """D8: only where validation and training both end long before the end."""
  values = 0.05 * (1 + 4 * np.exp(-speed * TIME)) * (1 + 0.005 * NOISE)
  loss = 2 * np.exp(-loss_speed * TIME) + 0.1
  assert curves.saturated_early(STEPS, values, loss).verdict == verdict


def test_noise_does_not_look_saturated():
  """D8: that nothing improves is told where it is sure, not where unseen."""
  values = 0.05 * (1 + 0.5 * NOISE)
  loss = 2 * np.exp(-30 * TIME)
  assert curves.saturated_early(STEPS, values, loss).verdict == "ok"


@pytest.mark.parametrize(
  "rise, verdict",
  [(0.0, "ok"), (0.01, "ok"), (0.3, "warn"), (1.9, "fail")],
)
def test_training_loss_rises(rise, verdict):
  """D9: a training loss that rises during training is told."""
  loss = 2 * np.exp(-10 * TIME) + 0.1 + rise * np.clip(2 * TIME - 1, 0, 1)
  loss *= 1 + 0.02 * NOISE
  assert curves.training_loss_rises(STEPS, loss).verdict == verdict


def test_a_fitted_training_set_does_not_rise():
  """D9: a loss of 0.0001 that doubles is nothing, after a fall from 2."""
  loss = 2 * np.exp(-20 * TIME) + 1e-4 * (1 + TIME)
  assert curves.training_loss_rises(STEPS, loss).verdict == "ok"


@pytest.mark.parametrize("period", [4, 7, 10, 20])
def test_periodic_validation(period):
  """D12: a period is found, and its length in steps."""
  wave = np.sin(2 * math.pi * np.arange(100) / period)
  values = FALLING * (1 + 0.02 * wave + 0.005 * NOISE)
  found = curves.periodic_validation(STEPS, values)
  assert found.verdict == "warn"
  assert found.evidence["period_steps"] == pytest.approx(100 * period, rel=0.1)


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.9])
def test_noise_has_no_period(correlation):
  """D12: fewer than 2 of 100 noisy curves are called periodic."""
  rng = np.random.default_rng(1)
  told = 0
  for _ in range(200):
    noise = rng.standard_normal(100)
    for i in range(1, 100):
      noise[i] += correlation * noise[i - 1]
    values = FALLING * (1 + 0.01 * noise)
    told += curves.periodic_validation(STEPS, values).verdict == "warn"
  assert told <= 3


def test_unequal_distances_have_no_period():
  """D12: evaluations at unequal distances are not judged."""
  steps = np.cumsum(np.arange(1, 101))
  assert curves.periodic_validation(steps, FALLING).verdict == "unknown"


@pytest.mark.parametrize(
  "at, factor, early, mid",
  [
    (0, 1.0, "ok", "ok"),
    (10, 5.0, "warn", "ok"),  # at 11 % of the steps
    (10, 1.1, "ok", "ok"),
    (60, 20.0, "ok", "warn"),
    (10, math.nan, "fail", "unknown"),
    (60, math.nan, "ok", "fail"),
  ],
)
def test_instability(at, factor, early, mid):
  """I2, I3: loss that jumps early, in the middle, or becomes NaN."""
  loss = 2 * np.exp(-5 * TIME) + 0.1
  loss[at] *= factor
  if math.isnan(factor):
    loss = loss[: at + 1]
  steps, norms = STEPS[: len(loss)], np.ones(len(loss))
  found = curves.early_instability(steps, loss, norms, 10_000)
  assert found.verdict == early
  found = curves.mid_training_instability(steps, loss, norms, 10_000)
  assert found.verdict == mid


@pytest.mark.parametrize(
  "at, size, early, mid",
  [
    (5, 30.0, "warn", "ok"),
    (5, 5.0, "ok", "ok"),
    (60, 30.0, "ok", "warn"),
    (60, 5.0, "ok", "ok"),
  ],
)
def test_gradient_spikes(at, size, early, mid):
  """I1, I2: an outlier of the unclipped gradient norm is instability."""
  loss = 2 * np.exp(-5 * TIME) + 0.1
  norms = np.ones(100)
  norms[at] = size
  found = curves.early_instability(STEPS, loss, norms, 10_000)
  assert found.verdict == early
  found = curves.mid_training_instability(STEPS, loss, norms, 10_000)
  assert found.verdict == mid


def test_small_gradients_do_not_spike():
  """I2: an example that is wrong once, in a fitted set, is no instability."""
  norms = 0.001 + np.exp(-20 * TIME)
  norms[60] *= 50
  loss = 2 * np.exp(-20 * TIME) + 0.001
  found = curves.mid_training_instability(STEPS, loss, norms, 10_000)
  assert found.verdict == "ok"


LINES = np.arange(1, 201) * 50
DONE = LINES / LINES[-1]
# A language model, in nats: 10.8 to 3.28.
NATS = 3.28 + 6 * np.exp(-30 * DONE) + 1.5 * np.exp(-4 * DONE)


def _noises(rng, num):
  """Healthy noise of unit size: name -> [num]."""
  correlated = rng.standard_normal(num)
  for i in range(1, num):
    correlated[i] = 0.8 * correlated[i - 1] + 0.6 * correlated[i]
  burst = rng.standard_normal(num)
  at = rng.integers(num)
  burst[at : at + num // 20] *= 5
  return {
    "normal": rng.standard_normal(num),
    "heavy tails": rng.standard_t(3, num) / math.sqrt(3),
    "correlated": correlated,
    "burst": burst,
    "falling": rng.standard_normal(num) * (2 - 1.8 * np.arange(num) / num),
  }


def _unstable(loss, norms=None):
  """The verdicts of early and of mid-training instability."""
  norms = np.ones(len(loss)) if norms is None else norms
  checks = curves.early_instability, curves.mid_training_instability
  return [check(LINES, loss, norms, 10_000).verdict for check in checks]


@pytest.mark.parametrize("nats, num", [(1, 5), (2, 5), (3, 5), (1, 40), (3, 1)])
@pytest.mark.parametrize("at", [30, 60, 150])
def test_spikes_of_a_loss_in_nats(nats, num, at):
  """D14, I2: a loss that never comes near zero need not double to be a spike:
  1 nat over 5 of 200 lines is one, and so is one that lasts."""
  rng = np.random.default_rng(at)
  for _ in range(20):
    loss = NATS * (1 + 0.01 * rng.standard_normal(200))
    loss[at : at + num] += nats
    assert "warn" in _unstable(loss)


def test_a_level_that_shifts_is_a_jump():
  """D14, I2: a loss that jumps and stays there."""
  loss = NATS + 0.02 * np.random.default_rng(0).standard_normal(200)
  loss[120:] += 1
  assert _unstable(loss) == ["ok", "warn"]


@pytest.mark.parametrize("curve", [NATS, 0.1 + 2.2 * np.exp(-8 * DONE)])
def test_noise_is_no_instability(curve):
  """D14, I2: fewer than one in twenty, whatever the noise."""
  told = dict.fromkeys(_noises(np.random.default_rng(0), 200), 0)
  for seed in range(60):
    rng = np.random.default_rng(seed)
    for name, noise in _noises(rng, 200).items():
      norms = (0.4 + 6 * np.exp(-30 * DONE)) * np.exp(0.15 * noise)
      loss = curve * (1 + 0.02 * noise)
      told[name] += "warn" in _unstable(loss, norms)
  assert max(told.values()) <= 3


def test_norms_that_fall_from_their_start():
  """D14, I1: a gradient norm falls from 6.4 to 0.4 in most runs."""
  norms = 0.4 + 6 * np.exp(-20 * DONE)
  assert _unstable(NATS, norms) == ["ok", "ok"]
  norms[20] *= 30
  assert _unstable(NATS, norms) == ["warn", "ok"]


def test_a_loss_without_norms():
  """D14, I1: spikes of norms that were not logged are unknown."""
  for norms in (np.zeros(0), np.full(200, np.nan)):
    padded = np.resize(norms, 200) if len(norms) else np.full(200, np.nan)
    assert _unstable(NATS, padded) == ["unknown", "unknown"]
  loss = NATS.copy()
  loss[100:110] += 3
  assert _unstable(loss, np.full(200, np.nan)) == ["unknown", "warn"]
  trial = _trial()
  logged = {k: v for k, v in trial.curves.items() if "grad_norm" not in k}
  trial = dataclasses.replace(trial, curves=logged)
  verdicts = {f.check: f.verdict for f in curves.check_trial(trial, _ERROR)}
  assert verdicts["early_instability"] == "unknown"
  assert verdicts["mid_training_instability"] == "unknown"


@pytest.mark.parametrize(
  "schedule, verdict",
  [
    ("constant", "warn"),
    ("cosine", "unknown"),
    ("linear", "unknown"),
    ("wsd", "unknown"),
    ("mine.py:schedule", "unknown"),
    (None, "unknown"),
  ],
)
@pytest.mark.parametrize("num_logged", [0, 1])
def test_the_schedule_of_a_rate_that_is_not_logged(
  schedule, verdict, num_logged
):
  """D14, D8: it is the config's, and never taken for constant."""
  trial = _trial(**{"valid/error_rate": 0.05 * TIME**-0.5})
  rate = STEPS[:num_logged], np.ones(num_logged)
  logged = trial.curves | {"learning_rate": rate}
  trial = dataclasses.replace(trial, curves=logged)
  config = config_lib.base()
  config.max_train_steps = 10_000
  flat = config_lib.flatten(config) | {"schedule": schedule}
  found = curves.check_trial(trial, _ERROR, None if schedule is None else flat)
  verdicts = {f.check: f.verdict for f in found}
  assert verdicts["still_improving"] == verdict


def test_one_drop_is_neither_a_period_nor_variance():
  """D14, D7, D12: nor are a step, or a burst."""
  told = {"periodic_validation": 0, "late_variance": 0}
  for seed in range(60):
    rng = np.random.default_rng(seed)
    at = rng.uniform(0.75, 0.9)
    for width in (0.015, 1e-4):
      drop = 1 - 0.25 / (1 + np.exp(-np.clip((TIME - at) / width, -50, 50)))
      for noise in _noises(rng, 100).values():
        values = FALLING * drop * (1 + 0.01 * noise)
        for check in told:
          found = getattr(curves, check)(STEPS, values)
          told[check] += found.verdict == "warn"
  assert max(told.values()) <= 0.03 * 60 * 2 * 5


@pytest.mark.parametrize("num_valid", [300, 500])
def test_counted_errors_do_not_vary(num_valid):
  """D14, D7: an error rate that is counted anew on few examples."""
  rng, told = np.random.default_rng(0), 0
  for _ in range(100):
    values = rng.binomial(num_valid, FALLING) / num_valid
    told += curves.late_variance(STEPS, values, num_valid).verdict == "warn"
  assert told <= 5


@pytest.mark.parametrize("num", [20, 30, 100])
def test_saturated_at_a_fifth(num):
  """D8: plain saturation is told with noise of 1%, and hardly ever missed."""
  rng, missed = np.random.default_rng(0), 0
  t = np.arange(1, num + 1) / num
  for _ in range(60):
    for noise in _noises(rng, num).values():
      values = 0.05 * (1 + 4 * np.exp(-25 * t)) * (1 + 0.01 * noise)
      loss = (0.1 + 2 * np.exp(-25 * t)) * (1 + 0.02 * rng.permutation(noise))
      found = curves.saturated_early(np.arange(num), values, loss)
      missed += found.verdict != "warn"
  assert missed <= 0.02 * 60 * 5


def test_a_late_drop_is_not_saturated():
  """D14, D8: what gains 20% at nine tenths was not over at a fifth."""
  values = 0.05 * (1 + 4 * np.exp(-25 * TIME)) * np.where(TIME > 0.9, 0.8, 1)
  loss = 0.1 + 2 * np.exp(-25 * TIME)
  assert curves.saturated_early(STEPS, values, loss).verdict != "warn"


@pytest.mark.parametrize("rise, most", [(1.3, 3), (1.5, 0)])
def test_a_training_loss_that_rises_by_a_share(rise, most):
  """D9: by half is never missed, by 30% hardly ever; noise of 2%."""
  rng, missed = np.random.default_rng(0), 0
  for _ in range(40):
    for noise in _noises(rng, 100).values():
      for level in (0.1, 3.3):
        loss = level + 2 * np.exp(-20 * TIME)
        loss = loss * (1 + (rise - 1) * np.clip(2 * TIME - 1, 0, 1))
        found = curves.training_loss_rises(STEPS, loss * (1 + 0.02 * noise))
        missed += found.verdict == "ok"
  assert missed <= most


def test_an_objective_that_ends_without_a_value():
  """D14: an objective that became NaN is not judged by what came before."""
  values = FALLING.copy()
  values[60:] = np.nan
  trial = _trial(**{"valid/error_rate": values})
  verdicts = {f.check: f.verdict for f in curves.check_trial(trial, _ERROR)}
  checks = "overfitting", "late_variance", "still_improving", "saturated_early"
  assert {verdicts[check] for check in checks} == {"unknown"}


@pytest.mark.parametrize(
  "share, verdict", [(0.0, "ok"), (0.49, "ok"), (0.51, "warn"), (1.0, "warn")]
)
def test_aggressive_clipping(share, verdict):
  """I5: clipping more than half of the updates is told, with a threshold."""
  norms = np.linspace(0, 1, 100)
  found = curves.aggressive_clipping(STEPS, np.full(100, share), norms)
  assert found.verdict == verdict
  if verdict == "warn":
    assert found.evidence["gradient_norm_90th_percentile"] == pytest.approx(0.9)


def test_clipping_counts_updates_not_lines():
  """I5: a line that stands for 1,000 updates weighs as much as they do."""
  found = curves.aggressive_clipping(
    np.array([10, 1010]), np.array([1.0, 0.2]), np.ones(2)
  )
  assert found.evidence["share_of_updates_clipped"] < 0.25


@pytest.mark.parametrize(
  "share, verdict",
  [(0.0, "ok"), (0.09, "ok"), (0.11, "warn"), (0.49, "warn"), (0.6, "fail")],
)
def test_input_bound(share, verdict):
  """G1: the share of time that training waits for data, its start left out."""
  waits = np.full(20, share)
  waits[0] = 0.99
  found = curves.input_bound(waits, np.full(20, 300.0))
  assert found.verdict == verdict
  assert found.evidence["share_of_time_waiting"] == pytest.approx(share)
  assert ("workers" in found.advice) == (verdict != "ok")
  assert "image" not in found.advice  # the data may be text
  assert curves.input_bound(waits[:3], waits[:3]).verdict == "unknown"


def _trial(num=100, status="completed", **more):
  steps = STEPS[:num]
  logged = {
    "train/loss": 2 * np.exp(-8 * TIME[:num]) + 0.1,
    "train/grad_norm": np.ones(num),
    "train/grad_norm_max": np.ones(num),
    "train/clipped": np.zeros(num),
    "learning_rate": np.ones(num),
    "valid/loss": 3 * FALLING[:num],
    "valid/error_rate": FALLING[:num],
    "data_wait": np.zeros(num),
    "examples_per_second": np.full(num, 100.0),
  } | more
  return results.Trial(
    index=0,
    path=None,
    status=status,
    reason="",
    point={},
    seed=0,
    step=100 * num,
    max_train_steps=10_000,
    curves={name: (steps, values) for name, values in logged.items()},
    chance=0.9,
    num_valid=10_000,
  )


def test_check_trial_has_every_check():
  """D5: all checks, each once, in order, and none faults a smooth curve."""
  found = curves.check_trial(_trial(), _ERROR)
  assert tuple(f.check for f in found) == curves.CHECKS
  assert [f.verdict for f in found] == ["ok"] * len(found)


@pytest.mark.parametrize("num", [0, 1, 2, 3, 5, 9, 14, 19, 29])
@pytest.mark.parametrize("status", ["running", "infeasible"])
def test_short_curves(num, status):
  """D5: a short curve is judged, or it is said how long it has to be."""
  found = {f.check: f for f in curves.check_trial(_trial(num, status), _ERROR)}
  for one in found.values():
    json.dumps(one.as_json(), allow_nan=False)
    diverged = one.verdict == "fail" and "diverged" in one.advice
    assert one.verdict in ("ok", "unknown") or diverged
    assert diverged <= (status == "infeasible")
    assert bool(one.advice) == (one.verdict != "ok")
  needs = {"overfitting": 10, "late_variance": 15, "periodic_validation": 30}
  if status == "infeasible":  # Of its objective nothing is said.
    needs = {"periodic_validation": 30}
  for check, least in needs.items():
    expected = least if num < least else None
    assert found[check].evidence.get("needs") == expected


@pytest.mark.parametrize("what", ["empty", "nan", "inf", "constant"])
def test_odd_curves(what):
  """D5: nothing logged, nothing finite, and nothing that moves."""
  trial = _trial()
  values = {
    "nan": np.full(100, np.nan),
    "inf": np.full(100, np.inf),
    "constant": np.zeros(100),
  }
  if what == "empty":
    logged = {}
  else:
    logged = {name: (STEPS, values[what]) for name in trial.curves}
  trial = dataclasses.replace(trial, curves=logged)
  for found in curves.check_trial(trial, _ERROR):
    json.dumps(found.as_json(), allow_nan=False)
    if what == "empty":
      assert found.verdict == "unknown"


def test_an_unfinished_run_is_not_saturated():
  """D8: a run that has not ended is not judged by its end."""
  for found in curves.check_trial(_trial(60, "running"), _ERROR):
    if found.check in ("still_improving", "saturated_early"):
      assert found.verdict == "unknown"


@pytest.mark.parametrize("seed", range(200))
def test_findings_of_a_diverged_run(seed):
  """I2: a run that ended infeasible is reported to have diverged, and nothing
  else: neither to recover, nor to overfit, nor to be too short.

  Whether the loss or the gradient was the number that was not finite, and
  whatever the curve did before.
  """
  random = np.random.default_rng(seed)
  at = int(random.integers(1, 100))
  loss = 2 * np.exp(-random.uniform(0, 9) * TIME) + 0.1
  loss *= np.exp(random.choice([0.01, 0.3]) * random.standard_normal(100))
  for spike in random.integers(0, 100, 2):
    loss[spike:] *= random.choice([1, 3, 30])
  norms = np.exp(random.standard_normal(100))
  bad = (norms, loss)[seed % 2]
  bad[at] = math.nan
  trial = dataclasses.replace(_trial(at + 1, "infeasible"), step=int(STEPS[at]))
  logged = {"train/loss": loss, "train/grad_norm_max": norms}
  logged |= {"valid/error_rate": np.clip(loss, 0, 1)}
  trial = dataclasses.replace(
    trial,
    curves=trial.curves
    | {name: (STEPS[: at + 1], v[: at + 1]) for name, v in logged.items()},
  )
  found = {f.check: f for f in curves.check_trial(trial, "valid/error_rate")}
  early, mid = found["early_instability"], found["mid_training_instability"]
  diverged = early if at < 20 else mid
  assert diverged.verdict == "fail"
  assert diverged.evidence == {"diverged_at_step": STEPS[at]}
  assert mid.verdict == ("unknown" if at < 20 else "fail")
  for check in ("overfitting", "late_variance", "training_loss_rises"):
    assert found[check].verdict == "unknown"
  for one in found.values():
    assert "recovers" not in one.advice
    if "has" in one.evidence:
      assert one.evidence["has"] < one.evidence["needs"]


@pytest.mark.parametrize("falls_again", [True, False])
def test_what_recovers(falls_again):
  """I2: a loss that stays up is not reported to have recovered."""
  loss = 2 * np.exp(-5 * TIME) + 0.1
  loss[10 : 14 if falls_again else None] = 5.0
  found = curves.early_instability(STEPS, loss, np.ones(100), 10_000)
  assert found.verdict == "warn"
  assert ("recovers" in found.advice) == falls_again


def test_check_run(tmp_path):
  """D5: from a run directory, as the end of `jaxplay train` does."""
  run = rundir.RunDir(tmp_path)
  with pytest.raises(jaxplay.UserError, match="no run"):
    curves.check_run(run)
  config = config_lib.base()
  config_lib.validate(config)
  run.write_config(config_lib.as_json(config))
  assert {f.verdict for f in curves.check_run(run)} == {"unknown"}
  run.append_metrics(
    {"step": int(step), "train/loss": 1.0, "valid/error_rate": error}
    for step, error in zip(STEPS, FALLING, strict=True)
  )
  chance = {"majority_error_rate": 0.9, "num_valid": 10_000}
  run.write_status("completed", step=10_000, chance=chance)
  verdicts = {f.check: f.verdict for f in curves.check_run(run)}
  assert verdicts["better_than_chance"] == "ok"
  assert verdicts["overfitting"] == "ok"
