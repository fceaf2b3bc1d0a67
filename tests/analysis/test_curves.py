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
    (0.0, 0.5, 10, "fail"),  # 10 of 10 right may be luck
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
