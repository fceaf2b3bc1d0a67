"""B1 to B8: which batch size, on planted numbers and by the command."""

import dataclasses
import json
import math

import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay.analysis import plots_answer
from jaxplay.planning import batch_size as planning
from jaxplay.planning import steps as steps_lib
from jaxplay.procedures import batch_size as procedure
from jaxplay.procedures import lab as lab_lib
from jaxplay.training import probe
from tests.study import studies

_SIZES = tuple(2**i for i in range(3, 11))
_TARGET = steps_lib.Target("valid/error_rate", 0.1)


def _speeds(most=3000.0, each=20.0, noise=0.0, seed=0, sizes=_SIZES, **kwargs):
  """Throughput min(each * size, most), with noise of its logarithm."""
  rng = np.random.default_rng(seed)
  found = []
  for size in sizes:
    rate = min(each * size, most) * math.exp(noise * rng.normal())
    seconds = size / rate
    found.append(planning.Speed(size, seconds, seconds, **kwargs))
  return found


def _reached(least=100.0, critical=128.0, noise=0.0, seeds=3, seed=0, **kwargs):
  """Steps least * (1 + critical / size), with noise of their logarithm."""
  rng = np.random.default_rng(seed)
  found = []
  for size in kwargs.pop("sizes", _SIZES):
    mean = least * (1 + critical / size)
    steps = mean * np.exp(noise * rng.normal(size=seeds))
    found.append(
      planning.Reached(
        size, 0.1, tuple(np.round(steps).astype(int).tolist()), 0, 9999, 1
      )
    )
  return found


def _answer(speeds, **kwargs):
  known = dict(batch_size=64, eval_batch_size=128, retuned=["hparams.momentum"])
  return planning.answer(speeds, **(known | kwargs))


def _checks(answer):
  return {(found.check, found.verdict) for found in answer.findings}


@pytest.mark.parametrize("noise", [0.0, 0.03, 0.06])
def test_saturation_is_found(noise):
  """B3: where throughput = min(a * size, c) stops to grow, noise or not."""
  # 20 * 160 = 3200, so that 128 still is short of it and 256 is not.
  for seed in range(50):
    speeds = _speeds(3200, noise=noise, seed=seed)
    at = planning.saturation(speeds)
    # From 128 to 256 it grows by 25 % exactly: either will do.
    assert speeds[at].batch_size in (128, 256)
  assert planning.saturation(_speeds(20 * 64)) == _SIZES.index(64)
  assert planning.saturation(_speeds(math.inf)) == len(_SIZES) - 1
  assert planning.saturation(_speeds(1.0)) == 0
  assert planning.saturation(_speeds()[:1]) == 0


@pytest.mark.parametrize("slow", range(1, len(_SIZES)))
def test_a_dip_is_no_growth(slow):
  """B3: a slow measurement does not move the saturation to larger sizes."""
  speeds = _speeds(20 * 64)
  speeds[slow] = dataclasses.replace(
    speeds[slow], loop_seconds=2 * speeds[slow].loop_seconds
  )
  found = speeds[planning.saturation(speeds)].batch_size
  # What was lost at the saturation itself is found at the next size.
  assert found == (128 if _SIZES[slow] == 64 else 64)


@pytest.mark.parametrize(
  "changes, what",
  [
    ({}, "saturation"),
    ({"step_seconds": 0.01}, "input"),
    ({"collective_share": 0.4}, "collective"),
  ],
)
def test_what_binds_is_named(changes, what):
  """B3: input, collective or saturation; past it nothing is recommended."""
  speeds = [dataclasses.replace(s, **changes) for s in _speeds(20 * 64)]
  answer = _answer(speeds)
  found = next(f for f in answer.findings if f.check == "throughput_saturates")
  assert found.verdict == "warn" and found.evidence["class"] == what
  assert found.evidence["not_recommended"] == [128, 256, 512, 1024]
  assert answer.details["batch_size"] == 64 and not answer.settings


def test_larger_batches_change_the_config():
  """B8: what is to be pasted, and what has to be tuned again."""
  answer = _answer(_speeds(math.inf))
  assert answer.settings == {"batch_size": 1024, "eval_batch_size": 1024}
  found = next(f for f in answer.findings if f.check == "retune_after_change")
  assert "hparams.momentum" in found.advice
  assert "retune_after_change" not in {
    f.check for f in _answer(_speeds(20 * 64)).findings
  }
  config = config_lib.base()
  config.optimizer = "adamw"
  config.hparams.weight_decay = 0.1
  keys = procedure.retuned(config)
  assert "hparams.beta2" in keys and "hparams.weight_decay" in keys
  assert "hparams.momentum" not in keys


def test_gradient_accumulation_buys_nothing():
  """B4: told for what it is."""
  found = planning.throughput_findings(_speeds(), microbatches=4)
  told = next(f for f in found if f.check == "gradient_accumulation")
  assert "no throughput" in told.advice
  assert ("gradient_accumulation", "warn") not in _checks(_answer(_speeds()))


@pytest.mark.parametrize("critical", [24.0, 128.0, 700.0])
@pytest.mark.parametrize("noise", [0.0, 0.05])
def test_the_critical_batch_size_is_recovered(critical, noise):
  """B5: of steps = S (1 + B / size); the interval holds it 9 times of 10."""
  inside = 0
  for seed in range(40):
    fit = planning.fit_critical(
      _reached(1000.0, critical, noise=noise, seed=seed)
    )
    assert fit.critical == pytest.approx(critical, rel=0.05 + 5 * noise)
    assert fit.least_steps == pytest.approx(1000, rel=0.02 + 4 * noise)
    inside += fit.low * 0.99 <= critical <= fit.high * 1.01
  assert inside >= 30


def test_too_few_sizes_for_a_fit():
  """B5: two numbers are not fitted to three sizes."""
  found = _reached(sizes=(8, 16, 32))
  assert planning.fit_critical(found) is None
  speeds = _speeds(sizes=(8, 16, 32))
  answer = _answer(speeds, target=_TARGET, reached=found)
  assert ("critical_batch_size", "unknown") in _checks(answer)


def test_perfect_scaling():
  """B5: up to where examples to the target are nearly the least."""
  # 1 + 8/128 of the least at 8; 1.25 times that at about 40.
  assert planning.perfect_to(_reached(10_000.0)) == 32
  assert planning.perfect_to(_reached(1.0, 1e5)) == _SIZES[-1]


@pytest.mark.parametrize("noise", [0.0, 0.03])
def test_the_size_of_least_time_and_of_least_resources(noise):
  """B5, B6: planted; noise does not move them far."""
  # Time per step: constant to 128, then growing with the batch.
  speeds = _speeds(20 * 128)
  seconds = {s.batch_size: s.loop_seconds for s in speeds}
  for seed in range(20):
    found = _reached(1000.0, 256.0, noise=noise, seed=seed)
    outcome = planning.scaled(found, seconds, 1)
    # Past 128 time goes as size + 256: it rises.
    assert outcome.time == outcome.resources == 128
    # With as many devices as it takes, time falls to the largest size, and
    # resources, as size + 256, are least at the smallest.
    assert outcome.time_scaled == 1024
    assert outcome.resources_scaled in (8, 16)


def test_alike_times_take_the_smaller_batch():
  """B5: there is no point in a larger batch that is not faster."""
  found = _reached(1.0, 1e9, noise=0.05, sizes=(64, 128))
  costs = {64: 1.0, 128: 2.0}
  assert planning.cheapest(found, costs) == 64


def test_a_target_that_no_size_reaches():
  """B5: unknown, with what is missing; nothing is to be changed."""
  missed = [
    dataclasses.replace(one, steps=(), missed=3, least=0.2)
    for one in _reached()
  ]
  answer = _answer(_speeds(), target=_TARGET, reached=missed)
  assert ("steps_to_target", "unknown") in _checks(answer)
  assert not answer.settings and "0.2" in answer.said[0]
  assert answer.details["batch_size"] is None


def test_findings_of_single_sizes():
  """B5, B7: a missed size is left out; edges and rising steps are told."""
  found = _reached()
  found[0] = dataclasses.replace(found[0], steps=(), missed=3)
  found[3] = dataclasses.replace(found[3], edge="highest")
  found[5] = dataclasses.replace(found[5], steps=(900, 900, 900))
  found[6] = dataclasses.replace(found[6], steps=(110, 112), missed=1)
  answer = _answer(_speeds(), target=_TARGET, reached=found)
  assert _checks(answer) >= {
    ("compared_at_equal_target", "ok"),
    ("steps_to_target", "unknown"),
    ("learning_rate_at_edge", "warn"),
    ("larger_batch_needs_more_steps", "warn"),
    ("seeds_missed_target", "warn"),
  }
  compared = next(
    f for f in answer.findings if f.check == "compared_at_equal_target"
  )
  assert 8 not in compared.evidence["batch_sizes"]
  for figure in plots_answer.figures(answer.pictures):
    figure.chart.to_dict(validate=True)
  assert json.dumps(answer.as_json())


class _Lab(lab_lib.Lab):
  """Measures nothing twice, and trains nothing."""

  def __init__(self, path):
    super().__init__(path, train=None, tell=lambda _: None)


def _procedure(path, measure, **kwargs):
  known = dict(num_devices=1, num_train=1000, measure=measure)
  config = config_lib.base()
  return procedure.batch_size(_Lab(path), config, **(known | kwargs))


def _measured(config, most=math.inf, fits=math.inf):
  size = config.batch_size
  if size > fits:
    return {"too_large": "2 GiB of 1 GiB", "loop_seconds": math.nan}
  seconds = size / min(10.0 * size, most)
  return {"loop_seconds": seconds, "step_seconds": seconds, "bytes": 1e6}


def test_sizes_double_until_memory_ends(tmp_path):
  """B1: the first size that does not fit is a row; none is measured twice."""
  asked = []

  def measure(config):
    asked.append(config.batch_size)
    return _measured(config, fits=100)

  answer = _procedure(tmp_path, measure)
  assert asked == [8, 16, 32, 64, 128]
  assert answer.details["batch_size"] == 64
  assert answer.tables[0].rows[-1][:2] == [128, "NO"]
  assert any("128 examples do not fit" in text for text in answer.said)
  again = _procedure(tmp_path, measure)
  assert len(asked) == 5 and again.as_json() == answer.as_json()


@pytest.mark.parametrize(
  "options, last, sentence",
  [
    ({}, 512, "training split, 1,000 examples"),
    ({"largest": 40}, 32, "(--largest)"),
    ({"num_devices": 6}, 768, "training split"),
    ({"measure": lambda c: _measured(c, most=250)}, 128, "no longer grows"),
    ({"sizes": [24, 12]}, 24, ""),
  ],
)
def test_where_doubling_ends(options, last, sentence, tmp_path):
  """B1: at the split, at --largest, once throughput has stopped to grow."""
  answer = _procedure(tmp_path, **({"measure": _measured} | options))
  assert answer.details["speeds"][-1]["batch_size"] == last
  assert any(sentence in text for text in answer.said)


def test_a_batch_that_never_fits(tmp_path):
  """B1: a sentence."""
  with pytest.raises(jaxplay.UserError, match="no batch size fits"):
    _procedure(tmp_path, lambda config: _measured(config, fits=1))


def test_steady():
  """B2: the least median, once three rounds no longer improve on it."""
  rounds = iter([9.0, 5.0, 3.0, 2.0, 2.0, 1.99, 2.1, 0.1])
  assert probe.steady(lambda calls: [next(rounds)] * calls) == 1.99
  assert next(rounds) == 0.1
  assert probe.steady(lambda calls: [1.0, 1.0, 50.0]) == 1.0


@pytest.mark.parametrize(
  "arguments, sentence",
  [
    (["--epochs=3"], "only probes the perfect-scaling regime"),
    (["--target=valid/error_rate"], "write METRIC<=X"),
    (["--target=valid/loss<=1", "--topology=v5e:2x2"], "leave one"),
    (["--steps=7"], "add --target"),
    (["--batch_sizes=0"], "it must be at least 1"),
    (["--batch_sizes=2000"], "larger than the training split"),
  ],
)
def test_bad_requests(arguments, sentence, tmp_path, capsys):
  """B7, and others: one sentence, exit code 2."""
  studies.write(tmp_path)
  code = studies.call(
    *("plan", "batch-size", f"--config={tmp_path / 'config.py'}"),
    *(f"--workdir={tmp_path / 'plan'}", *arguments),
  )
  told = capsys.readouterr().err
  assert code == 2 and sentence in told and told.count("\n") == 1


@pytest.mark.slow
def test_from_the_shell(tmp_path, capsys):
  """B1 to B8: measured and trained; the same command only reads."""
  studies.write(tmp_path)
  plan = tmp_path / "plan"
  asked = [
    *("plan", "batch-size", f"--config={tmp_path / 'config.py'}"),
    *(f"--workdir={plan}", "--batch_sizes=32,64", "--seeds=2", "--steps=100"),
    *("--learning_rates=0.03:0.3", "--target=valid/error_rate<=0.6"),
  ]
  assert studies.call(*asked) == 0
  text = capsys.readouterr().out
  assert "Use " in text and "least time" in text
  speed = json.loads((plan / "speed" / "0000032.json").read_text())
  assert speed["loop_seconds"] > 0 and speed["step_seconds"] > 0
  details = json.loads((plan / "plan.json").read_text())["answer"]["details"]
  assert [one["batch_size"] for one in details["reached"]] == [32, 64]
  assert len(details["reached"][0]["steps"]) == 2
  before = {
    path: found[1]
    for path, found in studies.files(plan).items()
    if path.name == "metrics.jsonl" or path.parent.name == "speed"
  }
  assert studies.call(*asked) == 0
  after = studies.files(plan)
  assert all(after[path][1] == content for path, content in before.items())


@pytest.mark.slow
def test_a_metric_that_no_trial_logs(tmp_path, capsys):
  """B5: a sentence with those that there are."""
  studies.write(tmp_path)
  code = studies.call(
    *("plan", "batch-size", f"--config={tmp_path / 'config.py'}"),
    *(f"--workdir={tmp_path / 'plan'}", "--batch_sizes=32", "--steps=4"),
    "--target=valid/eror<=0.6",
  )
  told = capsys.readouterr().err
  assert code == 2 and "no trial logged 'valid/eror'" in told
