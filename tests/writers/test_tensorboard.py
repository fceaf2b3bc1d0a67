"""Event files of runs and populations, read back as TensorBoard does."""

import shutil

import numpy as np
import pytest

pytest.importorskip("tensorboard")

from tensorboard.plugins.hparams import api_pb2

from jaxplay import rundir, writers
from jaxplay.study import space as space_lib
from jaxplay.writers import tensorboard
from tests.study import studies
from tests.training import runs
from tests.writers import events

KEYS = runs.overrides(writers=("tensorboard",), model__width=8)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run that was never interrupted, and reports the test set."""
  path = tmp_path_factory.mktemp("runs") / "whole"
  runs.train_here(KEYS | {"report_test": True}, path)
  return path


def test_scalars_are_the_lines_of_metrics(whole):
  """G9: every number of metrics.jsonl, at its step, and the test metrics."""
  events.assert_same_as_metrics(whole)
  found, status = events.scalars(whole / "tensorboard"), _status(whole)
  best = status["best"]
  assert found[f"best/{best['metric']}"] == [
    (best["step"], pytest.approx(best["value"]))
  ]
  for name in ("test/loss", "test/error_rate"):
    expected = pytest.approx(status["test"][name])
    assert found[name] == [(status["test"]["step"], expected)]


def test_hparams_are_those_of_the_config(whole):
  """G9: what a study may vary, in its type; nothing that has no effect."""
  values, status = events.hparams(whole / "tensorboard")
  assert status == api_pb2.STATUS_SUCCESS
  assert values["hparams.learning_rate"] == 0.1
  assert values["optimizer"] == "nesterov"
  assert values["model.dropout"] is False
  assert "hparams.dropout_rate" not in values  # has no effect
  assert "max_train_steps" not in values and "seed" not in values


def test_writers_change_no_bit(whole, tmp_path):
  """G9: the same run without writers: the same lines and the same state."""
  without = KEYS | {"writers": (), "report_test": True}
  runs.train_here(without, tmp_path / "without")
  assert not (tmp_path / "without" / "tensorboard").exists()
  runs.assert_same(runs.lines(whole), runs.lines(tmp_path / "without"))
  runs.assert_same(
    runs.last_state(KEYS, whole), runs.last_state(KEYS, tmp_path / "without")
  )


def test_preempted_and_resumed(whole, tmp_path):
  """G9: after a resume nothing is there twice, or missing."""
  keys = KEYS | {"report_test": True}
  runs.train_here(keys, tmp_path / "run", 20, runs.preempt)
  assert _status(tmp_path / "run")["status"] == "preempted"
  events.assert_same_as_metrics(tmp_path / "run")
  runs.train_here(keys, tmp_path / "run")
  events.assert_same_as_metrics(tmp_path / "run")
  files = (tmp_path / "run" / "tensorboard").iterdir()
  assert len([file for file in files if file.stat().st_size]) == 1
  _assert_same_but_times(tmp_path / "run", whole)


@pytest.mark.slow
def test_killed_and_resumed(whole, tmp_path):
  """G9: as well if a process was killed, with half an event at the end."""
  keys = KEYS | {"report_test": True}
  runs.kill(keys, tmp_path / "run", "20")
  (file,) = (tmp_path / "run" / "tensorboard").iterdir()
  file.write_bytes(file.read_bytes()[:-7])
  runs.train_here(keys, tmp_path / "run")
  events.assert_same_as_metrics(tmp_path / "run")
  _assert_same_but_times(tmp_path / "run", whole)


def test_a_writer_may_be_added_when_a_run_resumes(tmp_path):
  """G9: it writes the lines before, too."""
  without = KEYS | {"writers": ()}
  runs.train_here(without, tmp_path / "run", 20, runs.preempt)
  assert not (tmp_path / "run" / "tensorboard").exists()
  runs.train_here(KEYS, tmp_path / "run")
  events.assert_same_as_metrics(tmp_path / "run")


def test_divergence_ends_as_a_failure(tmp_path):
  """G9: an infeasible run has NaN at its last step, and no best value."""
  runs.train_here(KEYS | {"hparams.learning_rate": 1e12}, tmp_path)
  assert _status(tmp_path)["status"] == "infeasible"
  events.assert_same_as_metrics(tmp_path)
  assert events.hparams(tmp_path / "tensorboard")[1] == api_pb2.STATUS_FAILURE
  found = events.scalars(tmp_path / "tensorboard")
  assert np.isnan([v for points in found.values() for _, v in points]).any()
  assert not any(tag.startswith("best/") for tag in found)


def test_an_open_tensorboard_sees_one_curve(tmp_path):
  """G9: events that come again replace those that were read before."""
  folder = tmp_path / "tensorboard"
  first = tensorboard.EventFile(folder, {})
  for step in (1, 2, 3):
    first.write(step, {"train/loss": float(step)})
  reader = events.read(folder)
  assert [e.step for e in reader.Scalars("train/loss")] == [1, 2, 3]
  second = tensorboard.EventFile(folder, {})
  for step in (1, 2):
    second.write(step, {"train/loss": float(step)})
  points = [(e.step, e.value) for e in reader.Reload().Scalars("train/loss")]
  assert points == [(1, 1.0), (2, 2.0)]


def test_files_of_others_are_left_alone(tmp_path):
  """G9: what jaxplay did not write stays, even in its folder."""
  folder = tmp_path / "tensorboard"
  folder.mkdir()
  other = folder / "events.out.tfevents.1.theirs"
  other.write_bytes(b"theirs")
  for _ in range(4):
    tensorboard.EventFile(folder, {})
  assert other.read_bytes() == b"theirs"
  assert len(list(folder.iterdir())) == 3  # the last one, and one before it


@pytest.mark.slow
def test_each_trial_of_a_population_has_its_own(tmp_path):
  """G9: together or infeasible: each trial writes what it logged."""
  space = {"hparams.learning_rate": space_lib.Float(1e-3, 1e12, "log")}
  path = studies.write(
    tmp_path / "files",
    space=space,
    num_trials=4,
    overrides={"writers": ("tensorboard",)},
  )
  code = studies.call("study", "run", path, f"--workdir={tmp_path / 'study'}")
  assert code == 0
  trials = sorted((tmp_path / "study" / "trials").iterdir())
  statuses = {_status(trial)["status"] for trial in trials}
  assert len(trials) == 4 and statuses == {"completed", "infeasible"}
  for trial in trials:
    events.assert_same_as_metrics(trial)
    values, _ = events.hparams(trial / "tensorboard")
    config = rundir.RunDir(trial).config()
    rate = config["hparams"]["learning_rate"]
    assert values["hparams.learning_rate"] == rate


def test_a_writer_that_fails_is_off_and_the_run_goes_on(whole, tmp_path):
  """G9: one sentence; the results are the same bits."""
  keys = KEYS | {"report_test": True}

  def replace_the_folder():
    shutil.rmtree(tmp_path / "run" / "tensorboard")
    (tmp_path / "run" / "tensorboard").write_text("not a folder")

  status, told = runs.train_here(keys, tmp_path / "run", 20, replace_the_folder)
  assert status["status"] == "completed"
  (warning,) = [sentence for sentence in told if "tensorboard" in sentence]
  assert "off" in warning and "\n" not in warning
  runs.assert_same(runs.lines(whole), runs.lines(tmp_path / "run"))
  runs.assert_same(
    runs.last_state(KEYS, whole), runs.last_state(KEYS, tmp_path / "run")
  )


def test_names_of_the_project_and_the_run(tmp_path):
  """G9: a trial is named within its study, a single run by its folder."""
  study = tmp_path / "my study"
  trial = study / "trials" / "0007"
  trial.mkdir(parents=True)
  (study / "study.json").write_text("{}")
  of_study = writers.Run(trial, {})
  assert (of_study.project, of_study.name) == ("my-study", "trials/0007")
  (tmp_path / "runs" / "mlp").mkdir(parents=True)
  single = writers.Run(tmp_path / "runs" / "mlp", {})
  assert (single.project, single.name) == ("runs", "mlp")
  # An id is kept with the run wherever it is, and no two are equal.
  assert single.id != of_study.id
  moved = (tmp_path / "runs" / "mlp").rename(tmp_path / "moved")
  assert writers.Run(moved, {}).id == single.id


def _status(workdir):
  return rundir.RunDir(workdir).status()


def _assert_same_but_times(workdir, other):
  one, two = (events.scalars(w / "tensorboard") for w in (workdir, other))
  assert one.keys() == two.keys()
  for tag in one.keys() - set(runs._TIMES):
    np.testing.assert_equal(one[tag], two[tag], err_msg=tag)


@pytest.mark.pods
def test_only_the_first_host_writes(tmp_path):
  """G9: two processes make one run, and one file."""
  keys = KEYS | {"writers": "tensorboard"}
  runs.launch(runs.command(keys, tmp_path / "run"), processes=2, devices=2)
  (file,) = (tmp_path / "run" / "tensorboard").iterdir()
  assert file.stat().st_size
  events.assert_same_as_metrics(tmp_path / "run")
