"""The whole loop: its budget, its decisions, and the resulting config."""

import json
import math

import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay.playbook import budget as planning
from jaxplay.playbook import loop as procedure
from jaxplay.playbook import plots as plots_lib
from jaxplay.playbook import study_runner
from jaxplay.study import study as study_lib
from tests.playbook import planted


def _config(**changes):
  config = config_lib.base()
  config.max_train_steps, config.eval_every = 200, 10
  config.schedule = "cosine"
  config.hparams.learning_rate = 0.01
  for key, value in changes.items():
    config_lib.override(config, key.replace("__", "."), value)
  config_lib.validate(config)
  return config


def _loop(path, train, config=None, budget="36", **kwargs):
  known = dict(seeds=3, seed=0, num_train=1000)
  config = config or _config()
  rate = config.hparams.learning_rate
  return procedure.playbook(
    study_runner.StudyRunner(path, train=train, log=lambda _: None),
    config,
    budget=planning.Budget.parse(budget),
    learning_rates=(rate / 30, rate * 30),
    write_report=lambda *_: None,
    **(known | kwargs),
  )


# The budget.


@pytest.mark.parametrize("seeds", [1, 3, 10])
@pytest.mark.parametrize("rates", [7, 13])
def test_the_least_budget_is_enough(seeds, rates):
  """The loop: the minimum budget is enough for each phase."""
  total = planning.least(seeds, rates)
  for budget in range(total, 4 * total):
    left = budget - (2 * rates + 1) / 4
    reserve = planning.shares(budget, seeds).reserve
    explored = planning.num_explored(left, reserve, 1 / 4)
    assert explored >= 16
    left -= explored / 4
    left -= planning.num_exploited(left, reserve, 1 / 4, explored) / 4
    assert left >= reserve


def test_time_is_a_budget_of_trials():
  """The loop: the remaining trials follow from the time of earlier trials."""
  budget = planning.Budget.parse("2h")
  assert budget.left(0, 0) == math.inf
  assert budget.left(spent=10, seconds=3600) == 10
  assert budget.left(spent=10, seconds=3 * 3600) < 0
  assert planning.Budget.parse("90m").seconds == 90 * 60
  assert planning.Budget.parse("64").left(60.5, 1e9) == 3.5
  for text in ("", "h", "-3", "nan", "2 days", "inf", "0"):
    with pytest.raises(jaxplay.UserError, match="such as 64"):
      planning.Budget.parse(text)


def test_a_batch_size_keeps_the_examples():
  """B8: the same examples in larger batches; numbers of steps are scaled."""
  flat = config_lib.flatten(_config(hparams__warmup_steps=20))
  changes = planning.with_batch_size(flat, 4 * flat["batch_size"])
  for key in ("max_train_steps", "eval_every", "hparams.warmup_steps"):
    assert changes[key] == max(1, round(flat[key] / 4))
  speeds = [
    {"batch_size": 32, "loop_seconds": 2.0, "too_large": ""},
    {"batch_size": 128, "loop_seconds": 4.0, "too_large": ""},
    {"batch_size": 256, "loop_seconds": math.nan, "too_large": "2 of 1 GiB"},
  ]
  assert planning.gain(speeds, 32, 128) == 2
  assert planning.gain(speeds, 100, 128) == 2
  assert planning.gain(speeds, 8, 32) == 1
  assert planning.gain(speeds, 256, 128) == math.inf


# The loop, on generated runs.


@pytest.mark.slow
@pytest.mark.parametrize("best_rate", [0.03, 1.0, 10.0])
def test_the_loop_finds_a_good_config(tmp_path, best_rate):
  """The loop: a better config, near the best one, within the budget."""
  result = _loop(tmp_path, planted.trains(best_rate))
  config = config_lib.load(str(tmp_path / "best.json"))
  found, given = (planted.error(c, best_rate) for c in (config, _config()))
  # After 200 steps, the error is at least 1.5 times that of infinitely many.
  assert found < 1.1 * 1.5 * planted.FEWEST < given
  changed = config_lib.differences(
    config_lib.as_json(_config()), config_lib.as_json(config)
  )
  assert changed.keys() == result.settings.keys()
  # Logging and evaluation intervals are not changed.
  assert all(key.startswith("hparams.") for key in changed)
  assert 30 < result.details["spent"] <= 36
  (figure,) = plots_lib.figures(result.figures)
  figure.chart.to_dict(validate=True)


def _decisions(result, path):
  """Returns the phases, without their times and paths."""
  phases = [dict(p, seconds=0) for p in result.details["phases"]]
  return json.loads(json.dumps(phases).replace(str(path), ""))


@pytest.mark.slow
def test_stopped_anywhere_it_ends_the_same(tmp_path):
  """The loop: stopped repeatedly, it makes the same decisions."""
  config = _config(max_train_steps=40)
  whole = _loop(tmp_path / "whole", planted.trains(), config, "20")
  patience = 0

  def stop():
    nonlocal patience
    patience -= 1
    return patience == 0

  stops, path = 0, tmp_path / "stopped"
  while True:
    patience = 7  # A study has more trials.
    try:
      again = _loop(path, planted.trains(stop=stop), config, "20")
      break
    except jaxplay.Stopped:
      stops += 1
  assert stops > 5
  assert _decisions(again, path) == _decisions(whole, tmp_path / "whole")
  best = (path / "best.json").read_bytes()
  assert best == (tmp_path / "whole" / "best.json").read_bytes()


@pytest.mark.slow
def test_a_bad_space_is_repaired(tmp_path):
  """D2: a range is extended if the best trials are at its edge."""
  config = _config(hparams__weight_decay=1e-7, hparams__learning_rate=0.1)
  train = planted.trains(noise=0.001)
  result = _loop(tmp_path, train, config, "96")
  ranges = []
  for name in ("explore_1", "explore_2"):
    study = study_lib.StudyDir(tmp_path / name).study()
    (row,) = [r for r in study["space"] if "weight_decay" in r["key"]]
    ranges.append((row["low"], row["high"]))
  assert ranges[0][1] == 1e-5 < ranges[1][1]
  phases = {p["name"]: p for p in result.details["phases"]}
  assert "weight_decay" in phases["explore_1"]["said"][1]
  assert result.settings["hparams.weight_decay"] > 1e-5


@pytest.mark.slow
def test_a_config_that_is_the_best_is_kept(tmp_path):
  """E3: no settings if no config is better."""
  # No noise, and the best learning rate, momentum and weight decay.
  config = _config(hparams__learning_rate=0.1, hparams__weight_decay=1e-3)
  result = _loop(tmp_path, planted.trains(noise=0.0), config)
  assert result.settings == {}
  assert "Keep the given config" in result.summary[0]


def test_budgets_that_are_too_small():
  """Errors: refused before anything runs."""
  for budget, seeds, words in (
    ("17", 3, "18 trials with 3 seeds"),
    ("24", 20, "20 seeds"),
  ):
    budget = planning.Budget.parse(budget)
    with pytest.raises(jaxplay.UserError, match=words):
      procedure.check(_config(), budget, (1e-3, 1.0), seeds)
  with pytest.raises(jaxplay.UserError, match="quarter of the steps"):
    config = _config(max_train_steps=7)
    procedure.check(config, planning.Budget(64), (1e-3, 1.0), 3)


@pytest.mark.slow
def test_a_time_that_is_too_short(tmp_path):
  """Errors: refused once the time of a trial is known."""
  config = _config(max_train_steps=40)
  with pytest.raises(jaxplay.UserError, match="larger --budget"):
    _loop(tmp_path, planted.trains(), config, "0.0001m")
  assert (tmp_path / "02_stability.json").exists()
