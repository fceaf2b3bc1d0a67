"""Every procedure with every feature of a config: its trials and its settings.

Runs are generated, since these tests check which configs a procedure makes.
`test_trained.py` trains configs of all features.
"""

import itertools
import math

import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay.analysis import checklist, refine
from jaxplay.analysis import results as results_lib
from jaxplay.playbook import budget as playbook_lib
from jaxplay.playbook import loop as playbook
from jaxplay.playbook import study_runner
from jaxplay.playbook.batch_size import run as batch_size
from jaxplay.playbook.rounds import run as rounds
from jaxplay.playbook.stability import run as stability
from jaxplay.playbook.steps import decide as steps_lib
from jaxplay.playbook.steps import run as steps
from jaxplay.study import runners
from jaxplay.study import study as study_lib
from tests.playbook import features, planted

each_row = pytest.mark.parametrize("row", features.ROWS, ids=features.name)
few_rows = pytest.mark.parametrize("row", features.FEW, ids=features.name)


# The rows themselves.


def test_the_rows_are_complete():
  """R7: each value of each feature, and each allowed pair of `MEET`."""
  for feature, values in features.FEATURES.items():
    assert {row[feature] for row in features.ROWS} == values.keys()
  for one, other in features.MEET:
    met = {(row[one], row[other]) for row in features.ROWS}
    for pair in itertools.product(
      features.FEATURES[one], features.FEATURES[other]
    ):
      agree = features.agree(dict(zip((one, other), pair, strict=True)))
      assert (pair in met) == agree, pair


@pytest.mark.parametrize("part", features.NEEDS, ids=" ".join)
def test_pairs_in_no_row_are_refused(part):
  """R7: the rows leave out only invalid configs."""
  feature, value = part
  for other, fitting in features.NEEDS[part].items():
    for wrong in features.FEATURES[other].keys() - set(fitting):
      with pytest.raises(jaxplay.UserError):
        config_lib.validate(features.make({feature: value, other: wrong}))


# The trials of procedures, and their settings.


def _checked(given, train):
  """As `train`, but checks each config first."""

  def checked(directory, jobs):
    for job in jobs:
      _assert_sound(job.config, given)
    return train(directory, jobs)

  return checked


def _assert_sound(config, given):
  """Checks that a config is valid, and that no more keys are without effect."""
  config_lib.validate(config)
  was, now = (set(config_lib.without_effect(c)) for c in (given, config))
  assert now <= was


def _assert_pastes(result, given):
  """Checks the config with the settings of a result."""
  config = given.copy_and_resolve_references()
  for key, value in result.settings.items():
    config_lib.override(config, key, value)
  _assert_sound(config, given)
  assert config.objective == given.objective
  assert config.weights == given.weights


def _assert_next_study_loads(path):
  """Checks the study file that a report writes."""
  results = results_lib.read_study(path)
  text = refine.next_study(results, checklist.check_study(results))
  (path / "next_study.py").write_text(text)
  definition, _ = study_lib.load(str(path / "next_study.py"))
  old, new = (
    config_lib.from_json(study["config"])
    for study in (results.study, definition)
  )
  changed = config_lib.differences(
    config_lib.as_json(old), config_lib.as_json(new)
  )
  flat = config_lib.flatten(old)
  steps = config_lib.with_steps(flat, new.max_train_steps)
  often = config_lib.with_evaluations(flat, new.max_train_steps)
  assert steps.keys() <= changed.keys() <= steps.keys() | often.keys()


def _study_runner(path, given, **kwargs):
  train = planted.trains(10 * given.hparams.learning_rate, **kwargs)
  return study_runner.StudyRunner(
    path, train=_checked(given, train), log=lambda _: None
  )


def _rates(given):
  rate = given.hparams.learning_rate
  return rate / 10, rate * 10


@pytest.mark.slow
@each_row
def test_steps(row, tmp_path):
  """R7, F2: the sweep turns off regularization; the settings are valid."""
  given = features.make(row)
  result = steps.sweep(
    _study_runner(tmp_path, given),
    given,
    learning_rates=_rates(given),
    max_train_steps=24,
    target=steps_lib.Target("train/loss", 1.0),
    num_train=64,
    per_decade=2,
  )
  assert 0 < result.details["steps"] < 24
  assert result.settings["max_train_steps"] == result.details["steps"]
  _assert_pastes(result, given)
  study = study_lib.StudyDir(tmp_path / "sweep").study()
  trained = config_lib.from_json(study["config"])
  assert not config_lib.without(
    trained, "dropout", "augmentation", "averages", "decay", "warmup"
  )
  _assert_next_study_loads(tmp_path / "sweep")


def _unstable(given, fix):
  """Generates runs: rates above the config's are unstable without the fix."""

  def train(directory, jobs):
    for job in jobs:
      new = job.config
      is_fixed = {
        "warmup": new.hparams.warmup_steps != given.hparams.warmup_steps,
        "clipping": new.clipping
        and new.hparams.clip_norm != given.hparams.clip_norm,
        "none": False,
      }[fix]
      rate = new.hparams.learning_rate / given.hparams.learning_rate
      rises = rate > 1 and not is_fixed
      lines = [
        {
          "step": step,
          "train/loss": 2 * step if rises else 1 / step,
          "train/grad_norm": 1.0 + 0.01 * step,
          "train/clipped": 0.0,
        }
        for step in range(1, new.max_train_steps + 1)
      ]
      value = 5.0 if rises else abs(math.log(rate / 2))
      for metric in config_lib.evaluated(new):
        lines[-1][metric] = value
      job.run.create()
      job.run.write_config(config_lib.as_json(new))
      job.run.append_metrics(lines)
      job.run.write_status("completed", step=new.max_train_steps)

  return train


@pytest.mark.slow
@each_row
def test_stability(row, tmp_path):
  """R7, I4, I5: each fix, with settings for the given config."""
  given = features.make(row)
  fix = ("warmup", "clipping", "none")[features.ROWS.index(row) % 3]
  if fix == "warmup" and row["warmup"] == "short":
    fix = "none"  # It is the only warmup that is tried for so few steps.
  train = _checked(given, _unstable(given, fix))
  runner = study_runner.StudyRunner(tmp_path, train=train, log=lambda _: None)
  result = stability.stability(
    runner, given, learning_rates=_rates(given), seeds=2, per_decade=2
  )
  assert result.details["fix"] == fix
  _assert_pastes(result, given)


def _measured(config):
  """A measurement with the same throughput at each size."""
  config_lib.validate(config)
  seconds = 1e-3 * config.batch_size
  return {
    "step_seconds": seconds,
    "loop_seconds": seconds,
    "exchange_seconds": 0.0,
    "bytes": 1e6,
    "too_large": "",
  }


@few_rows
def test_batch_size(row, tmp_path):
  """R7, B5: allowed sizes, each trained to a target."""
  given = features.make(row)
  target = steps_lib.Target("valid/loss", 1.2)
  batch_size.check(target, given)
  result = batch_size.batch_size(
    _study_runner(tmp_path, given),
    given,
    measure=_measured,
    num_devices=2,
    num_train=256,
    largest=64,
    target=target,
    learning_rates=_rates(given),
    seeds=2,
    max_train_steps=24,
  )
  sizes = [speed["batch_size"] for speed in result.details["speeds"]]
  assert sizes and result.details["batch_size"] in sizes
  _assert_pastes(result, given)


@pytest.mark.slow
@each_row
def test_rounds(row, tmp_path):
  """R7, F4: the next number of steps, the rounds, and their next studies."""
  given = features.make(row)
  runner = _study_runner(tmp_path, given)
  rates = study_runner.learning_rates(*_rates(given))
  first = runner.sweep("first", rates, given, goal="Which rate?")
  number = 2 * (features.ROWS.index(row) % 2)
  if number and row["schedule"] == "linear":
    number = 1
  result = rounds.rounds(runner, first, steps=100, number=number)
  config = config_lib.load(str(tmp_path / "next.json"))
  _assert_sound(config, given)
  assert config.max_train_steps == 100
  _assert_pastes(result, given)
  if number:
    _assert_next_study_loads(tmp_path / f"round_{number + 1}")
  jobs = runners.rerun_jobs(study_lib.StudyDir(first.path), [0], 3)
  for job in jobs:
    _assert_sound(job.config, given)
  assert len({given.seed, *(job.config.seed for job in jobs)}) == 4


def _measure(row):
  """For every second row: a measurement in favour of a larger batch size."""
  at = features.ROWS.index(row)
  if at % 2 or row["warmup"] == "nearly all":
    return None
  return lambda config: (
    _measured(config) | {"loop_seconds": 1e-3 * max(1, config.batch_size / 64)}
  )


@pytest.mark.slow
@few_rows
def test_playbook(row, tmp_path):
  """R7: the whole loop, and its resulting config."""
  given = features.make(row)
  result = playbook.playbook(
    _study_runner(tmp_path, given, noise=0.0),
    given,
    budget=playbook_lib.Budget(trials=14),
    num_train=256,
    learning_rates=_rates(given),
    seeds=1,
    seed=0,
    measure=_measure(row),
    write_report=lambda *_: None,
  )
  _assert_pastes(result, given)
  config = config_lib.load(str(tmp_path / "best.json"))
  _assert_sound(config, given)
  looks = ("export", "num_predictions", "report_test", "seed")
  assert [config[key] for key in looks] == [given[key] for key in looks]
