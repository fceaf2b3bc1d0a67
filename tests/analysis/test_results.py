"""Results are of what was trained: each run's config.json, not study.json."""

import dataclasses
import json
import shutil

import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.analysis import checklist
from jaxplay.analysis import results as results_lib
from jaxplay.study import runners
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib
from tests import made_up
from tests.study import studies

_RATE = "hparams.learning_rate"
SPACE = {
  _RATE: space_lib.Float(1e-3, 1.0, "log"),
  "hparams.momentum": space_lib.Float(0.5, 0.99, "log_one_minus"),
}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
  """A finished study, its points those of its study.json; read only."""
  folder = tmp_path_factory.mktemp("written") / "study"
  results = made_up.study(8, space=SPACE, statuses={})
  points = study_lib._sample(results.study)
  trials = [
    made_up.trial(i, point, space=results.space)
    for i, point in enumerate(points)
  ]
  trials = [
    # All of them came to an end.
    dataclasses.replace(trial, status="completed")
    for trial in trials
  ]
  made_up.write(dataclasses.replace(results, trials=trials), folder)
  return folder


@pytest.fixture
def study(written, tmp_path):
  """A copy of it, to be changed."""
  return shutil.copytree(written, tmp_path / "study")


def _edit(path, **changes):
  content = json.loads(path.read_text())
  for key, value in changes.items():
    *groups, leaf = key.split("__")
    inner = content
    for group in groups:
      inner = inner[int(group) if group.isdecimal() else group]
    inner[leaf] = value
  path.write_text(json.dumps(content))


def _trained(study):
  """What the runs themselves say."""
  found = []
  for path in sorted((study / "trials").iterdir()):
    hparams = rundir.RunDir(path).config()["hparams"]
    found.append({key: hparams[key.split(".")[1]] for key in SPACE})
  return found


def _finding(study):
  results = results_lib.read_study(study)
  (found,) = [
    f for f in checklist.check_study(results) if f.check == "trials_match_study"
  ]
  return results, found


def test_a_study_as_it_was_run(study):
  """Nothing to say of it."""
  results, found = _finding(study)
  assert (found.verdict, found.evidence) == ("ok", {})
  assert [t.point for t in results.trials] == _trained(study)
  results_lib.refuse_doubts(results)


@pytest.mark.parametrize(
  "changes",
  [
    {"seed": 1},
    {"algorithm": "random"},
    {"space__0__high": 0.01},
    {"space__0__low": 1e-5},
  ],
)
def test_an_edited_study_does_not_move_its_results(study, changes):
  """Points are of config.json; the finding names trials and both values."""
  before = results_lib.read_study(study)
  _edit(study / "study.json", **changes)
  drawn = study_lib.StudyDir(study).points()
  results, found = _finding(study)
  assert [t.point for t in results.trials] == _trained(study)
  assert results.values.tolist() == before.values.tolist()
  assert found.verdict == "fail"
  different = found.evidence["different"]
  assert len(different) == found.evidence["num_different"] == 8
  for index, changed in different.items():
    for key, (planned, trained) in changed.items():
      assert planned == drawn[int(index)][key]
      assert trained == before.trials[int(index)].point[key]
  assert "0, 1, 2" in found.advice and _RATE in found.advice
  with pytest.raises(jaxplay.UserError, match="restore the study"):
    results_lib.refuse_doubts(results)


def test_swapped_folders(study):
  """Two trials under each other's number keep what they trained."""
  first, second = (study / "trials" / f"{i:04d}" for i in (2, 5))
  shutil.move(first, study / "aside")
  shutil.move(second, first)
  shutil.move(study / "aside", second)
  before = _trained(study)
  results, found = _finding(study)
  assert [t.point for t in results.trials] == before
  assert set(found.evidence["different"]) == {"2", "5"}
  assert found.verdict == "fail"


def test_another_base_config(study):
  """Not only the space: a trial that trained with another batch size."""
  _edit(study / "trials" / "0003" / "config.json", batch_size=64)
  _, found = _finding(study)
  assert found.verdict == "fail"
  assert found.evidence["different"] == {"3": {"batch_size": [128, 64]}}
  # How it is computed, and what is kept of it, are no differences.
  _edit(study / "trials" / "0003" / "config.json", batch_size=128, export=False)
  _edit(study / "trials" / "0004" / "config.json", mesh__data=4)
  assert _finding(study)[1].verdict == "ok"


def test_trials_beyond_the_study(study):
  """A study that was made shorter by hand does not hide what it has."""
  _edit(study / "study.json", num_trials=6)
  results, found = _finding(study)
  assert len(results.trials) == 6 and found.verdict == "fail"
  assert found.evidence["strays"] == ["trials/0006", "trials/0007"]
  assert "trials/0006" in found.advice


def test_a_rerun_of_another_point_is_none(study):
  """Only what trained the trial's point, with its own seed, is its rerun."""
  for seed in (1, 2, 3):
    run = study / "reruns" / "0004" / f"{seed}"
    shutil.copytree(study / "trials" / "0004", run)
    _edit(run / "config.json", seed=seed)
  assert _finding(study)[1].verdict == "ok"
  _edit(study / "reruns" / "0004" / "2" / "config.json", hparams__momentum=0.6)
  results, found = _finding(study)
  assert len(results.values_of(results.reruns[4])) == 2
  assert list(found.evidence["excluded"]) == ["reruns/0004/2"]
  assert found.verdict == "fail" and "momentum" in found.advice


def test_a_lost_config_is_no_point_of_the_study(study):
  """What a run without config.json trained is not known."""
  (study / "trials" / "0001" / "config.json").unlink()
  results, found = _finding(study)
  assert results.trials[1].status == results_lib.EXCLUDED
  assert list(found.evidence["excluded"]) == ["trials/0001"]


_NO_ROWS = (None, {"a": 1}, [], ["part"], ["metric", "t.py:T", "f1", True, "1"])


@pytest.mark.parametrize("row", _NO_ROWS)
def test_what_no_part_declares_is_damage(study, row):
  """R1: in a trial it is excluded, with its file; in study.json reported."""
  config = study / "trials" / "0001" / "config.json"
  _edit(config, declared=[row])
  trial = results_lib.read_study(study).trials[1]
  assert trial.status == results_lib.EXCLUDED
  assert "declared" in trial.reason and "config.json" in trial.reason
  with pytest.raises(rundir.Damaged, match="declared"):
    results_lib.read_run(config.parent)
  _edit(study / "study.json", config__declared=[row])
  with pytest.raises(rundir.Damaged, match="declared"):
    results_lib.read_study(study)


class _Silent:
  def progress(self, done, total, values):
    pass


@pytest.mark.parametrize("how", ["processes", "population"])
def test_a_trial_that_has_begun_otherwise_is_not_gone_on_with(tmp_path, how):
  """Neither runner puts another point over what a run has trained."""
  directory = study_lib.StudyDir(tmp_path / "study")
  directory.create(studies.load(tmp_path, num_trials=2))
  for job in runners.trial_jobs(directory, range(2)):
    job.run.create()
    job.run.write_config(config_lib.as_json(job.config))
    job.run.write_status("preempted", step=8)
  _edit(directory.path / "study.json", seed=1)
  jobs = runners.trial_jobs(directory, range(2))
  before, progress = (
    studies.files(directory.path),
    runners.Progress(jobs, _Silent()),
  )

  def run():
    if how == "processes":
      return runners.run_processes(
        jobs, parallel=1, progress=progress, tell=print
      )
    return runners.run_populations(
      jobs,
      study=directory.path,
      make_group=lambda configs: pytest.fail("something was trained"),
      progress=progress,
      tell=print,
    )

  with pytest.raises(jaxplay.UserError) as caught:
    run()
  for part in ("trials/0000", _RATE, "restore", "another workdir"):
    assert part in str(caught.value)
  assert studies.files(directory.path) == before
