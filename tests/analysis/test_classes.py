"""Rare classes: their error rates, and what is said about them."""

import json

import numpy as np
import pytest

from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.analysis import classes, curves, plots_study
from jaxplay.analysis import results as results_lib
from jaxplay.study import space as space_lib
from tests.analysis import classes as made_up


def _classes(count, wrong):
  count, wrong = np.array(count), np.array(wrong)
  names = tuple(map(str, range(len(count))))
  return classes.Classes(8, count, count - wrong, names)


def test_intervals_by_hand():
  """G10: Wilson's score, also without examples, errors or correct ones."""
  of = _classes([10, 10, 10, 0], [2, 0, 10, 0])
  z = 1.959964
  end = z**2 / (10 + z**2)
  expected = [[0.0567, 0.5098], [0, end], [1 - end, 1], [0, 1]]
  np.testing.assert_allclose(of.intervals(), expected, atol=1e-4)


def test_a_rare_class_that_is_missed():
  """G10: the class, its examples and its error rate are reported."""
  found = classes.rare_classes(_classes([100] * 5 + [20], [5] * 5 + [14]))
  assert found.verdict == "warn" and found.evidence["num_bad"] == 1
  first = found.evidence["rare"][0]
  assert (first["class"], first["examples"]) == ("5", 20)
  assert first["error_rate"] == pytest.approx(0.7)
  low, high = first["interval"]
  assert low < 0.7 < high
  assert "0.7" in found.advice and "20" in found.advice


@pytest.mark.parametrize(
  "count, wrong, verdict",
  [
    ([100] * 6, [5] * 6, "ok"),  # None is rare.
    ([100] * 6, [5] * 5 + [60], "ok"),  # A hard class is no rare one.
    ([100] * 5 + [20], [5] * 5 + [1], "ok"),
    ([100] * 5 + [2], [5] * 5 + [1], "unknown"),  # It cannot be judged.
    ([100] * 5 + [0], [5] * 6, "unknown"),
    ([100] * 5 + [20], [80] * 5 + [20], "unknown"),  # Nothing works.
  ],
)
def test_verdicts(count, wrong, verdict):
  """G10: what cannot be found is not called ok."""
  wrong = np.minimum(count, wrong)
  assert classes.rare_classes(_classes(count, wrong)).verdict == verdict


@pytest.mark.parametrize("split", made_up.SPLITS.values(), ids=made_up.SPLITS)
@pytest.mark.parametrize("error", [0.02, 0.3])
def test_error_rates(split, error):
  """G10: few false alarms, and a plain fault is not called ok."""
  for spread in made_up.HEALTHY.values():
    assert made_up.rates(100, split, error, spread)["warn"] <= 0.05
  for fault in ((3, 0.5), (9, 1)):
    assert made_up.rates(100, split, error, fault=fault)["ok"] <= 0.05


def _run(folder, counts=None, **keys):
  """A run of one evaluation, with files as training writes them."""
  run = rundir.RunDir(folder)
  run.create()
  config = config_lib.base()
  for key, value in keys.items():
    config_lib.override(config, key.replace("__", "."), value)
  config_lib.validate(config)
  run.write_config(config_lib.stored(config))
  line = {"step": 8, "valid/loss": 1.0, "valid/error_rate": 0.1}
  run.append_metrics([line])
  best = {
    "step": 8,
    "metric": config.objective,
    "value": line[config.objective],
  }
  digest = rundir.Digest([line]).as_json()
  run.write_status(
    "completed", step=8, best=best, final=line, lines=digest, seconds=1.0
  )
  if counts is not None:
    count, correct = (np.array(array, np.int32) for array in counts)
    run.write_predictions(
      8, logits=np.zeros((2, 3)), class_count=count, class_correct=correct
    )
  return run


def _found(run):
  return [f for f in curves.check_run(run) if f.check == "rare_classes"]


def test_counts_of_no_split_are_refused(tmp_path):
  """G10: nothing overflows."""
  run = _run(tmp_path / "run", ([100, 100, 20], [95, 95, 5]))
  trial = results_lib.read_run(run.path)
  for count in ([2**62] * 3, [-1, 2, 3], []):
    array = np.array(count, np.int64)
    run.write_predictions(8, class_count=array, class_correct=array)
    with pytest.raises(rundir.Damaged):
      classes.read(trial, "valid/error_rate")


def test_of_a_run(tmp_path):
  """G10: from the counts of its best step, with a figure."""
  run = _run(tmp_path / "run", ([100, 100, 20], [95, 95, 5]))
  (found,) = _found(run)
  assert found.verdict == "warn" and found.evidence["step"] == 8
  results = results_lib.Results(
    path=run.path,
    study={"config": run.config()},
    space=space_lib.Space({}),
    objective="valid/error_rate",
    select="best",
    trials=[results_lib.read_run(run.path)],
  )
  (figure,) = (f for f in plots_study.figures(results) if f.name == "classes")
  assert "0.75" in json.dumps(plots_study.spec(figure, results)["datasets"])
  # Without counts it is unknown; other tasks have no classes.
  (found,) = _found(_run(tmp_path / "none"))
  assert found.verdict == "unknown" and "num_predictions" in found.advice
  text = {
    "model__name": "lm",
    "model__norm": "rms",
    "dataset__name": "pythonlib",
  }
  assert _found(_run(tmp_path / "text", **text)) == []
  assert _found(_run(tmp_path / "other", task__name="regression")) == []


@pytest.mark.parametrize(
  "counts",
  [([5, 5], [6, 0]), ([5, 5], [1]), ([0, 0], [0, 0]), ([5, -1], [5, -1])],
)
def test_damaged_counts_are_unknown(tmp_path, counts):
  """G10: what is no count is no verdict."""
  (found,) = _found(_run(tmp_path, counts))
  assert found.verdict == "unknown" and "damaged" in found.advice
