"""From one round to the next: schedules, numbers of steps, and transfer."""

import dataclasses

import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay.playbook.rounds import decide as rounds
from jaxplay.playbook.rounds import run
from tests.analysis import by_hand


def _flat(**changes):
  config = config_lib.base()
  for key, value in changes.items():
    config_lib.override(config, key.replace("__", "."), value)
  return config_lib.flatten(config)


def test_a_linear_decay_keeps_its_length():
  """F4: the constant phase grows; base learning rate and warmup are kept."""
  flat = _flat(
    schedule="linear", max_train_steps=1000, hparams__warmup_steps=100
  )
  changes, _ = rounds.longer(flat, 4000)
  assert changes["schedule"] == "wsd"
  assert changes["cooldown_shape"] == "linear"
  fraction = changes["hparams.cooldown_fraction"]
  assert config_lib.cooldown_steps(4000, fraction) == 900
  assert not {"hparams.learning_rate", "hparams.warmup_steps"} & changes.keys()


@pytest.mark.parametrize("steps", [1001, 1500, 7777])
@pytest.mark.parametrize("fraction", [0.1, 0.2, 1.0])
def test_wsd_extends_the_constant_part(steps, fraction):
  """F4: the cooldown keeps its length, to the step."""
  flat = _flat(
    schedule="wsd", max_train_steps=1000, hparams__cooldown_fraction=fraction
  )
  changes, _ = rounds.longer(flat, steps)
  kept = config_lib.cooldown_steps(steps, changes["hparams.cooldown_fraction"])
  assert kept == config_lib.cooldown_steps(1000, fraction)


@pytest.mark.parametrize("schedule", ["cosine", "constant", "rsqrt"])
def test_others_are_stretched(schedule):
  """F4: only the number of steps changes."""
  changes, _ = rounds.longer(_flat(schedule=schedule), 5000)
  assert changes == {"max_train_steps": 5000}


@pytest.mark.parametrize("steps", [1000, 10])
def test_a_round_is_longer(steps):
  """Errors: the next round needs more steps."""
  with pytest.raises(jaxplay.UserError, match="--steps"):
    rounds.longer(_flat(max_train_steps=1000), steps)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_rounds_grow_by_the_same_factor(number):
  """F5: log-spaced, up to the requested number of steps."""
  lengths = [100, *rounds.lengths(100, 100_000, number)]
  assert len(lengths) == number + 1 and lengths[-1] == 100_000
  factors = np.divide(lengths[1:], lengths[:-1])
  assert factors == pytest.approx(1000 ** (1 / number), rel=0.02)


def test_transfer_to_longer_runs():
  """F4: the Playbook's order, from warmup to the learning rate."""
  keys = [
    "hparams.warmup_steps",
    "model.depth",
    "hparams.weight_decay",
    "hparams.learning_rate",
  ]
  transfers = [rounds.transfer(key) for key in keys]
  assert transfers == ["very likely", "likely", "might", "unlikely"]
  verdicts = [finding.verdict for finding in rounds.transfers(keys)]
  assert verdicts == ["ok", "ok", "unknown", "warn"]


@pytest.mark.parametrize("seed", range(5))
def test_a_ranking_that_transfers(seed):
  """F5: noise much smaller than the differences does not matter."""
  rng = np.random.default_rng(seed)
  short = np.linspace(0.1, 0.5, 12)
  long = 0.5 * short + 0.01 * rng.standard_normal(12)
  assert rounds.ranking(short, long, (100, 400)).verdict == "ok"
  assert rounds.ranking(short, long[::-1], (100, 400)).verdict == "warn"


def test_the_best_trial_diverges():
  """F5: the best learning rate of short runs may diverge in longer ones."""
  short = np.linspace(0.1, 0.5, 12)
  long = short.copy()
  long[0] = np.nan
  finding = rounds.ranking(short, long, (100, 400))
  assert finding.verdict == "warn"
  assert finding.evidence["place_of_the_last_best"] == 12
  assert rounds.ranking(short[:4], long[:4], (1, 4)).verdict == "unknown"


@pytest.mark.parametrize("at, verdict", [(0.5, "ok"), (0.8, "warn")])
def test_a_best_value_that_moves(at, verdict):
  """F5: by more than a quarter of the first round's range."""
  found = rounds.moved("hparams.learning_rate", (0.5, at), (0.1, 0.2))
  assert found.verdict == verdict


def test_conclusions_of_a_round_by_a_maximized_metric():
  """F5: the order of trials is kept or lost as by the mirrored metric."""
  first = np.arange(16) / 64
  for again, expected in ((first, "ok"), (first[::-1], "warn")):
    verdicts = []
    for sign, objective in ((1, "valid/error_rate"), (-1, "valid/accuracy")):
      rounds_of_both = [
        _by_metric(by_hand.line(values), sign, objective)
        for values in (first, again)
      ]
      found = run._recheck(*rounds_of_both, (100, 400))
      verdicts.append([(f.check, f.verdict, f.evidence) for f in found])
    assert verdicts[0] == verdicts[1]
    assert verdicts[0][0][1] == expected


def _by_metric(results, sign, objective):
  """The study by the error rate, or by the accuracy."""
  trials = [
    dataclasses.replace(
      trial, curves={objective: (steps, values if sign > 0 else 1 - values)}
    )
    for trial in results.trials
    for steps, values in [trial.curves["valid/error_rate"]]
  ]
  return dataclasses.replace(results, trials=trials, objective=objective)
