"""B1 to B8: the batch size, from generated numbers and by the command."""

import dataclasses
import json
import math
import time

import jax
import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay import data
from jaxplay.playbook import plots as plots_lib
from jaxplay.playbook import study_runner
from jaxplay.playbook.batch_size import critical, decide, throughput
from jaxplay.playbook.batch_size import run as procedure
from jaxplay.playbook.steps import decide as steps_lib
from jaxplay.pods import probe
from tests.study import studies
from tests.training import runs

_SIZES = tuple(2**i for i in range(3, 11))
_TARGET = steps_lib.Target("valid/error_rate", 0.1)


def _speeds(most=3000.0, each=20.0, noise=0.0, seed=0, sizes=_SIZES, **kwargs):
  """Throughput min(each * size, most), with noise of its logarithm."""
  rng = np.random.default_rng(seed)
  speeds = []
  for size in sizes:
    per_second = min(each * size, most) * math.exp(noise * rng.normal())
    seconds = size / per_second
    speeds.append(throughput.Speed(size, seconds, seconds, **kwargs))
  return speeds


def _reached(least=100.0, twice=128.0, noise=0.0, seeds=3, seed=0, **kwargs):
  """Steps least * (1 + twice / size), with noise of their logarithm."""
  rng = np.random.default_rng(seed)
  reached = []
  for size in kwargs.pop("sizes", _SIZES):
    mean = least * (1 + twice / size)
    steps = mean * np.exp(noise * rng.normal(size=seeds))
    steps = tuple(np.round(steps).astype(int).tolist())
    rates = (critical.RateRuns(0.1, steps),)
    reached.append(critical.StepsToTarget(size, rates, 9999, 1))
  return reached


def _result(speeds, **kwargs):
  known = dict(batch_size=64, eval_batch_size=128, retuned=["hparams.momentum"])
  return decide.as_result(speeds, **(known | kwargs))


def _checks(result):
  return {(finding.check, finding.verdict) for finding in result.findings}


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.06])
def test_saturation_is_found(noise):
  """B3: throughput = min(a * size, c) saturates, with and without noise."""
  # 20 * 160 = 3200, so throughput saturates between 128 and 256.
  for seed in range(50):
    speeds = _speeds(3200, noise=noise, seed=seed)
    at = throughput.saturation(speeds)
    # From 128 to 256 it grows by exactly 25%, so both are right.
    assert speeds[at].batch_size in (128, 256)
  assert throughput.saturation(_speeds(20 * 64)) == _SIZES.index(64)
  assert throughput.saturation(_speeds(math.inf)) == len(_SIZES) - 1
  assert throughput.saturation(_speeds(1.0)) == 0
  assert throughput.saturation(_speeds()[:1]) == 0


@pytest.mark.parametrize("slow", range(1, len(_SIZES)))
def test_a_dip_is_no_growth(slow):
  """B3: a slow measurement does not move the saturation to larger sizes."""
  speeds = _speeds(20 * 64)
  speeds[slow] = dataclasses.replace(
    speeds[slow], loop_seconds=2 * speeds[slow].loop_seconds
  )
  size = speeds[throughput.saturation(speeds)].batch_size
  # If the size of saturation is slow, the next size is taken.
  assert size == (128 if _SIZES[slow] == 64 else 64)


@pytest.mark.parametrize(
  "changes, limit",
  [
    ({}, "saturation"),
    ({"step_seconds": 0.01}, "input"),
    ({"exchange_seconds": 0.08}, "collective"),
  ],
)
def test_limit_of_throughput(changes, limit):
  """B3: input, collective or saturation; larger sizes are not recommended."""
  speeds = [dataclasses.replace(s, **changes) for s in _speeds(20 * 64)]
  result = _result(speeds)
  found = next(f for f in result.findings if f.check == "throughput_saturates")
  assert found.verdict == "warn" and found.evidence["class"] == limit
  assert found.evidence["not_recommended"] == [128, 256, 512, 1024]
  assert result.details["batch_size"] == 64 and not result.settings


def test_larger_batches_change_the_config():
  """B8: the settings, and the hyperparameters to re-tune."""
  result = _result(_speeds(math.inf))
  assert result.settings == {"batch_size": 1024, "eval_batch_size": 1024}
  found = next(f for f in result.findings if f.check == "retune_after_change")
  assert "hparams.momentum" in found.advice
  assert "retune_after_change" not in {
    f.check for f in _result(_speeds(20 * 64)).findings
  }
  config = config_lib.base()
  config.optimizer = "adamw"
  config.hparams.weight_decay = 0.1
  keys = procedure.retuned(config)
  assert "hparams.beta2" in keys and "hparams.weight_decay" in keys
  assert "hparams.momentum" not in keys


def test_gradient_accumulation_buys_nothing():
  """B4: gradient accumulation has a finding."""
  findings = throughput.findings(_speeds(), microbatches=4)
  found = next(f for f in findings if f.check == "gradient_accumulation")
  assert found.verdict == "warn" and "no throughput" in found.advice
  assert ("gradient_accumulation", "warn") not in _checks(_result(_speeds()))


@pytest.mark.parametrize("twice", [24.0, 128.0, 700.0])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_critical_batch_size_is_recovered(twice, noise):
  """B5: steps = S (1 + B / size) is recovered, and its interval covers B."""
  inside = 0
  for seed in range(40):
    fit = critical.fit_critical(_reached(1000.0, twice, noise=noise, seed=seed))
    assert fit.critical == pytest.approx(twice, rel=0.05 + 5 * noise)
    assert fit.least_steps == pytest.approx(1000, rel=0.02 + 4 * noise)
    inside += fit.low * 0.99 <= twice <= fit.high * 1.01
  assert inside >= 30


def test_a_rate_is_chosen_by_the_mean_of_its_seeds():
  """B5: not by the fastest seed; the error includes the choice."""
  lucky = critical.RateRuns(0.1, (50, 150, 160))
  better = critical.RateRuns(0.2, (100,))
  tuned = critical.StepsToTarget(64, (lucky, better), 200, 1)
  assert tuned.best is better and tuned.mean == 100
  missed = critical.RateRuns(0.3, (60, 60, None))
  tuned = critical.StepsToTarget(64, (missed, better), 200, 1)
  assert tuned.best is better
  # The best of several equal learning rates has a larger error; much worse
  # learning rates do not matter.
  seeds = tuple(range(80, 121, 4))
  equal = tuple(critical.RateRuns(rate, seeds) for rate in (0.1, 0.2, 0.3))
  worse = (equal[0], critical.RateRuns(0.4, tuple(8 * s for s in seeds)))
  errors = [
    critical.relative_errors([critical.StepsToTarget(64, rates, 9999, 1)])[0]
    for rates in (equal[:1], equal, worse)
  ]
  assert errors[1] > 1.05 * errors[0]
  assert errors[2] == pytest.approx(errors[0], rel=0.2)


def test_too_few_sizes_for_a_fit():
  """B5: three sizes are too few for the fit."""
  found = _reached(sizes=(8, 16, 32))
  assert critical.fit_critical(found) is None
  speeds = _speeds(sizes=(8, 16, 32))
  result = _result(speeds, target=_TARGET, reached=found)
  assert ("critical_batch_size", "unknown") in _checks(result)


def test_perfect_scaling():
  """B5: up to which size the examples to the target are nearly minimal."""
  # 1 + 8/128 of the minimum at 8; 1.25 times that at about 40.
  assert critical.perfect_to(_reached(10_000.0)) == 32
  assert critical.perfect_to(_reached(1.0, 1e5)) == _SIZES[-1]


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_the_size_of_least_time_and_of_least_resources(noise):
  """B5, B6: with and without noise."""
  # Time per step: constant up to 128, then proportional to the size.
  speeds = _speeds(20 * 128)
  seconds = {s.batch_size: s.loop_seconds for s in speeds}
  for seed in range(20):
    found = _reached(1000.0, 256.0, noise=noise, seed=seed)
    outcome = critical.outcome(found, seconds)
    # Above 128 time is proportional to size + 256.
    assert outcome.time == 128
    # If the devices grow with the size, time is least at the largest size, and
    # resources, proportional to size + 256, at the smallest.
    assert outcome.time_scaled == 1024
    assert outcome.resources_scaled in (8, 16)


def test_equal_times_take_the_smaller_batch():
  """B5: a larger size has to be faster."""
  found = _reached(1.0, 1e9, noise=0.05, sizes=(64, 128))
  costs = {64: 1.0, 128: 2.0}
  assert critical.cheapest(found, costs) == 64


def test_a_target_that_no_size_reaches():
  """B5: `unknown`, and no settings."""
  missed = [
    dataclasses.replace(tuned, rates=(), closest=0.2) for tuned in _reached()
  ]
  result = _result(_speeds(), target=_TARGET, reached=missed)
  assert ("steps_to_target", "unknown") in _checks(result)
  assert not result.settings and "0.2" in result.summary[0]
  assert result.details["batch_size"] is None


def test_findings_of_single_sizes():
  """B5, B7: sizes that miss the target, edges of a sweep, rising steps."""
  found = _reached()

  def change(at, steps, **kwargs):
    rates = (critical.RateRuns(0.1, steps),)
    found[at] = dataclasses.replace(found[at], rates=rates, **kwargs)

  change(0, (None, None, 700))
  change(3, found[3].steps, highest=0.1)
  change(5, (900, 900, 900))
  change(6, (110, 112, None))
  result = _result(_speeds(), target=_TARGET, reached=found)
  assert _checks(result) >= {
    ("compared_at_equal_target", "ok"),
    ("steps_to_target", "unknown"),
    ("learning_rate_at_edge", "warn"),
    ("larger_batch_needs_more_steps", "warn"),
    ("seeds_missed_target", "warn"),
  }
  compared = next(
    f for f in result.findings if f.check == "compared_at_equal_target"
  )
  assert 8 not in compared.evidence["batch_sizes"]
  for figure in plots_lib.figures(result.figures):
    figure.chart.to_dict(validate=True)
  assert json.dumps(result.as_json())


class _Runner(study_runner.StudyRunner):
  """A runner that cannot train."""

  def __init__(self, path):
    super().__init__(path, train=None, log=lambda _: None)


def _procedure(path, measure, **kwargs):
  known = dict(num_devices=1, num_train=1000, measure=measure)
  config = config_lib.base()
  return procedure.batch_size(_Runner(path), config, **(known | kwargs))


def _measured(config, most=math.inf, fits=math.inf):
  size = config.batch_size
  if size > fits:
    return {"too_large": "2 GiB of 1 GiB", "loop_seconds": math.nan}
  seconds = size / min(10.0 * size, most)
  return {"loop_seconds": seconds, "step_seconds": seconds, "bytes": 1e6}


def test_sizes_double_until_memory_ends(tmp_path):
  """B1: the first size that does not fit is compiled once and has a row; a
  second call measures nothing."""
  measured_sizes = []

  def measure(config):
    measured_sizes.append(config.batch_size)
    return _measured(config, fits=100)

  result = _procedure(tmp_path, measure)
  # Each pass measures all sizes.
  assert measured_sizes == [8, 16, 32, 64, 128, *[8, 16, 32, 64] * 2]
  assert result.details["batch_size"] == 64
  assert result.tables[0].rows[-1][:2] == [128, "NO"]
  assert any("128 examples do not fit" in text for text in result.summary)
  again = _procedure(tmp_path, measure)
  assert len(measured_sizes) == 13 and again.as_json() == result.as_json()


class _Busy:
  """A busy machine, with throughput that grows up to batch size 128.

  Half of the measurements take up to three times as long.
  """

  def __init__(self, seed):
    self._rng, self.share, self.measured_sizes = (
      np.random.default_rng(seed),
      0.5,
      [],
    )

  def __call__(self, config):
    self.measured_sizes.append(config.batch_size)
    found = _measured(config, most=10 * 128)
    found["loop_seconds"] *= 1 + 0.02 * self._rng.random()
    if self._rng.random() < self.share:
      found["loop_seconds"] *= 1 + 2 * self._rng.random()
    return found


@pytest.mark.parametrize("calls", range(13))
def test_killed_while_measuring(calls, tmp_path):
  """B2: the same command continues after the last saved pass."""
  left = iter([True] * calls)

  def dies(config):
    if not next(left, False):
      raise KeyboardInterrupt
    return _measured(config, fits=100)

  with pytest.raises(KeyboardInterrupt):
    _procedure(tmp_path / "killed", dies)
  measured_sizes = []

  def measure(config):
    measured_sizes.append(config.batch_size)
    return _measured(config, fits=100)

  killed = _procedure(tmp_path / "killed", measure)
  assert len(measured_sizes) == 13 - calls
  assert killed.as_json() == _procedure(tmp_path / "whole", measure).as_json()


@pytest.mark.slow
def test_load_on_the_machine_changes_no_result(tmp_path):
  """B2: the result is right or `unknown`; on an idle machine, the same command
  measures the uncertain sizes again, and its result is right."""
  chosen = {}
  for seed in range(30):
    machine = _Busy(seed)
    result = _procedure(tmp_path / str(seed), machine, num_train=3000)
    size = result.details["batch_size"]
    chosen[seed] = size
    if size is not None:
      continue
    assert ("passes_agree", "unknown") in _checks(result)
    assert not result.settings
    machine.share, machine.measured_sizes = 0.0, []
    result = _procedure(tmp_path / str(seed), machine, num_train=3000)
    assert result.details["batch_size"] == 128
    assert len(set(machine.measured_sizes)) <= 4
  sizes = list(chosen.values())
  assert set(sizes) <= {128, None} and sizes.count(128) >= 25
  # One pass is not enough.
  single = [
    _procedure(tmp_path / f"{seed} once", _Busy(seed), measured=False)
    for seed in range(30)
  ]
  assert sum(a.details["batch_size"] == 128 for a in single) < 20


@pytest.mark.parametrize(
  "options, last, sentence",
  [
    ({}, 512, "training split of 1,000 examples"),
    ({"largest": 40}, 32, "(--largest)"),
    ({"num_devices": 6}, 768, "training split"),
    ({"measure": lambda c: _measured(c, most=250)}, 128, "no longer grows"),
    ({"sizes": [24, 12]}, 24, ""),
  ],
)
def test_where_doubling_ends(options, last, sentence, tmp_path):
  """B1: at the training split, at --largest, or where throughput saturates."""
  result = _procedure(tmp_path, **({"measure": _measured} | options))
  assert result.details["speeds"][-1]["batch_size"] == last
  assert any(sentence in text for text in result.summary)


def test_a_batch_that_never_fits(tmp_path):
  """B1: refused."""
  with pytest.raises(jaxplay.UserError, match="no batch size fits"):
    _procedure(tmp_path, lambda config: _measured(config, fits=1))


def test_steady():
  """B2: the least median, once three rounds in a row are not faster."""
  rounds = iter([9.0, 5.0, 3.0, 2.0, 2.0, 1.99, 2.1, 0.1])
  assert probe.steady(lambda calls: [next(rounds)] * calls) == 1.99
  assert next(rounds) == 0.1
  assert probe.steady(lambda calls: [1.0, 1.0, 50.0]) == 1.0


@pytest.mark.parametrize(
  "arguments, sentence",
  [
    (["--epochs=3"], "only probes the perfect-scaling regime"),
    (["--target=valid/error_rate"], "METRIC<=X"),
    (["--target=valid/loss<=1", "--topology=v5e:2x2"], "leave one"),
    (["--target=valid/eror<=1"], "train/loss"),
    (["--steps=7"], "add --target"),
    (["--batch_sizes=0"], "at least 1"),
    (["--batch_sizes=2000"], "exceeds the training split"),
  ],
)
def test_bad_requests(arguments, sentence, tmp_path, capsys):
  """B7, and others: refused with one sentence and exit code 2."""
  studies.write(tmp_path)
  code = studies.call(
    *("plan", "batch-size", f"--config={tmp_path / 'config.py'}"),
    *(f"--workdir={tmp_path / 'plan'}", *arguments),
  )
  error = capsys.readouterr().err
  assert code == 2 and sentence in error and error.count("\n") == 1


@pytest.mark.slow
def test_waiting_for_data_shows_in_the_loop_alone(monkeypatch):
  """B3: a batch takes 0.2 seconds to read, unless the data is on the device."""
  read = data._Steps.__getitem__

  def slowly(steps, step):
    time.sleep(0.2)
    return read(steps, step)

  monkeypatch.setattr(data._Steps, "__getitem__", slowly)
  on_device, from_host = (
    probe.measure(
      runs.make_config(
        runs.overrides(dataset__device_bytes=device_bytes, batch_size=8)
      ),
      jax.devices()[:1],
    )
    for device_bytes in (2**28, 0)
  )
  # Four batches are read in parallel, and some before the timing begins.
  assert from_host.loop_seconds > 0.2 / 4 / 3
  assert from_host.loop_seconds > 3 * on_device.loop_seconds
  assert from_host.loop_seconds > 3 * from_host.step_seconds


@pytest.mark.slow
def test_exchanges_among_devices_are_measured():
  """B3: more bytes take longer."""
  devices = jax.devices()[:4]
  few, many = (
    min(probe.exchange_seconds(devices, size) for _ in range(3))
    for size in (1e4, 3e7)
  )
  assert 0 < few < many


@pytest.mark.slow
def test_a_metric_that_no_trial_logs(tmp_path, capsys):
  """B5: refused with exit code 2."""
  studies.write(tmp_path)
  code = studies.call(
    *("plan", "batch-size", f"--config={tmp_path / 'config.py'}"),
    *(f"--workdir={tmp_path / 'plan'}", "--batch_sizes=32", "--steps=4"),
    "--target=train/eror<=0.6",
  )
  assert code == 2 and "'train/eror'" in capsys.readouterr().err
