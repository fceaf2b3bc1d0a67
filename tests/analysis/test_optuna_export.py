"""Studies in an Optuna storage."""

import dataclasses
import math
import pathlib

import numpy as np
import pytest

import jaxplay
from jaxplay.analysis import optuna_export
from jaxplay.study import space as space_lib
from tests.analysis import by_hand

optuna = pytest.importorskip("optuna")

SPACE = {
  "hparams.learning_rate": space_lib.Float(1e-4, 1.0, "log"),
  "hparams.warmup_steps": space_lib.Int(1, 9),
  "model.hidden_sizes": space_lib.Choice(((8,), (8, 8))),
}


def _study(num=5, name="made"):
  points = [
    dict(zip(SPACE, (0.5**i, 1 + i, ((8,), (8, 8))[i % 2]), strict=True))
    for i in range(num)
  ]
  values = [0.5 - 0.1 * i for i in range(num)]
  results = by_hand.study(SPACE, points, values, infeasible=(1,))
  rows = {key: None for key in ("space", "algorithm", "points", "seed")}
  study = rows | results.study | {"goal": "to export"}
  return dataclasses.replace(results, path=pathlib.Path(name), study=study)


@pytest.fixture
def url(tmp_path):
  return f"sqlite:///{tmp_path}/trials.db"


def _trials(url, name="made"):
  storage = optuna.storages.RDBStorage(url)
  try:
    return optuna.load_study(study_name=name, storage=storage).trials
  finally:
    storage.remove_session()
    storage.engine.dispose()


def test_trials_arrive_with_points_and_values(url):
  """C9: completed or pruned, with parameters and intermediate values."""
  results = _study()
  assert optuna_export.export(results, url) == ("made", 5, [])
  for trial, exported in zip(results.trials, _trials(url), strict=True):
    assert exported.user_attrs["jaxplay:trial"] == trial.index
    point = dict(trial.point)
    point["model.hidden_sizes"] = str(point["model.hidden_sizes"])
    assert exported.params == point
    if trial.status == "infeasible":
      assert exported.state == optuna.trial.TrialState.PRUNED
    else:
      assert exported.state == optuna.trial.TrialState.COMPLETE
      assert exported.value == results.value(trial)
    assert exported.intermediate_values == {100: 0.5 - 0.1 * trial.index}


def test_exporting_again_adds_only_new_trials(url):
  """C9: each trial once, in any number of exports."""
  results = _study()
  part = dataclasses.replace(results, trials=results.trials[:3])
  assert optuna_export.export(part, url)[1] == 3
  assert optuna_export.export(results, url)[1] == 2
  assert optuna_export.export(results, url)[1] == 0
  indices = [t.user_attrs["jaxplay:trial"] for t in _trials(url)]
  assert indices == list(range(5))


def test_only_ended_trials_are_exported(url):
  """C9: running, failed and pending ones may still get a value."""
  results = _study()
  trials = [
    dataclasses.replace(trial, status=status)
    for trial, status in zip(
      results.trials,
      ("completed", "running", "failed", "pending", "excluded"),
      strict=True,
    )
  ]
  results = dataclasses.replace(results, trials=trials)
  assert optuna_export.export(results, url)[1] == 1


def test_nan_is_pruned(url):
  """C9: Optuna accepts no NaN, neither as value nor on the way."""
  results = _study(1)
  curve = (np.array([50, 100]), np.array([math.nan, math.nan]))
  nan = dataclasses.replace(
    results.trials[0], curves={results.objective: curve}
  )
  optuna_export.export(dataclasses.replace(results, trials=[nan]), url)
  (exported,) = _trials(url)
  assert exported.state == optuna.trial.TrialState.PRUNED
  assert exported.intermediate_values == {}


def test_a_value_outside_its_range_costs_no_other_trial(url):
  """C9: ranges are widened; what Optuna cannot take is named and left out."""
  results = _study()
  beyond, below = (
    dataclasses.replace(
      results.trials[i],
      point=results.trials[i].point | {"hparams.learning_rate": rate},
    )
    for i, rate in ((0, 7.0), (2, 0.0))  # 0 has no logarithm.
  )
  trials = [beyond, results.trials[1], below, *results.trials[3:]]
  results = dataclasses.replace(results, trials=trials)
  assert optuna_export.export(results, url) == ("made", 4, [2])
  exported = {t.user_attrs["jaxplay:trial"]: t for t in _trials(url)}
  assert exported.keys() == {0, 1, 3, 4}
  assert exported[0].params["hparams.learning_rate"] == 7.0


@pytest.mark.parametrize(
  "objective, direction",
  [("valid/error_rate", "MINIMIZE"), ("valid/f1", "MAXIMIZE")],
)
def test_the_direction_is_that_of_the_metric(url, objective, direction):
  """C9: Optuna's best trial is the one with the most F1."""
  results = dataclasses.replace(_study(), objective=objective)
  optuna_export.export(results, url)
  storage = optuna.storages.RDBStorage(url)
  study = optuna.load_study(study_name="made", storage=storage)
  assert study.direction.name == direction
  storage.remove_session()
  storage.engine.dispose()


def test_another_study_of_the_name_is_refused(url):
  """C9: studies that differ in what makes trials comparable do not mix."""
  results = _study()
  optuna_export.export(results, url)
  other = dataclasses.replace(results, study=results.study | {"seed": 7})
  with pytest.raises(jaxplay.UserError, match="'made'"):
    optuna_export.export(other, url)
  assert len(_trials(url)) == 5


def test_a_storage_that_cannot_be_written():
  """C9: one sentence that names the URL, not a driver's traceback."""
  for bad in ("nonsense", "sqlite:////nonexistent/directory/a.db"):
    with pytest.raises(jaxplay.UserError) as error:
      optuna_export.export(_study(), bad)
    assert repr(bad) in str(error.value)
