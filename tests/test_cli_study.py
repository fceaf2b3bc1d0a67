"""The verbs on studies: what they print and write, and what they refuse."""

import csv
import io
import json
import math
import os
import shlex
import shutil
import signal
import subprocess
import sys

import numpy as np
import optuna
import pytest

from jaxplay import cli, rundir
from jaxplay import config as config_lib
from jaxplay.analysis import checklist, curves
from jaxplay.analysis import results as results_lib
from jaxplay.api import reading
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib
from tests import made_up
from tests.study import studies

_RATE = "hparams.learning_rate"


@pytest.fixture
def study(finished_study, tmp_path):
  """A copy of a finished study, to be written in."""
  return shutil.copytree(finished_study, tmp_path / "root" / "study")


@pytest.fixture(scope="module")
def rerun_study(finished_study, tmp_path_factory):
  """A finished study; its two best trials were run again; read only."""
  folder = tmp_path_factory.mktemp("rerun") / "study"
  shutil.copytree(finished_study, folder)
  second = results_lib.read_study(folder).ranked[1].index
  for which in ("--best", f"--trial={second}"):
    command = ("study", "rerun", folder, which, "--seeds=3", "--no_report")
    assert studies.call(*command) == 0
  return folder


def _best(study):
  return results_lib.read_study(study).ranked[0]


def _rows(text):
  return list(csv.DictReader(io.StringIO(text)))


# run, extend, rerun.


def test_a_finished_study_ends_with_its_report(finished_study, study, capsys):
  """D11: figures and checks are made without being asked for."""
  (study / "report.html").unlink()
  path = finished_study.parent / "study.py"
  assert studies.call("study", "run", path, f"--workdir={study}") == 0
  told = capsys.readouterr().out
  best = _best(study)
  assert f"trial {best.index}" in told and "8 trials:" in told
  for name in ("report.html", "next_study.py", "trials.csv", "findings.json"):
    assert (study / name).stat().st_size
  assert str(study / "report.html") in told


def test_the_next_study_that_is_written_runs(study, capsys):
  """After the checks: the next study's file runs as it is, by the command that
  is printed (B12)."""
  assert studies.call("report", study) == 0
  words = studies.pasted(capsys.readouterr().out)
  assert studies.call(*words, "--trials=:1") == 0
  work = study.with_name(f"{study.name}-round-2")
  assert studies.statuses(work)[0] in rundir.DONE
  assert study_lib.StudyDir(work).study()["seed"] == 1


@pytest.mark.slow
def test_the_next_study_runs_from_anywhere(tmp_path, monkeypatch, capsys):
  """R5: after the study was moved, and its config edited, or deleted; the
  config stays that of the study, with its overrides and its objective."""
  (tmp_path / "a").mkdir()
  monkeypatch.chdir(tmp_path / "a")
  studies.write(
    ".",
    config="config.py:16",
    num_trials=1,
    overrides={"max_train_steps": 8, "averages": ("ema",)},
    objective="valid_ema/loss",
  )
  assert studies.call("study", "run", "study.py", "--workdir=s") == 0
  capsys.readouterr()
  old = study_lib.StudyDir("s").study()
  shutil.move("s", tmp_path / "moved")
  shutil.rmtree(tmp_path / "a")
  (tmp_path / "b").mkdir()
  monkeypatch.chdir(tmp_path / "b")
  command = ("study", "run", "../moved/next_study.py", "--workdir=new")
  assert studies.call(*command) == 0
  new = study_lib.StudyDir("new").study()
  assert config_lib.differences(old["config"], new["config"]) == {}
  assert new["config_file"] == str(tmp_path / "moved" / "study.json")
  trials = [
    rundir.RunDir(path / "trials" / "0000").config()
    for path in (tmp_path / "moved", tmp_path / "b" / "new")
  ]
  assert config_lib.differences(*trials).keys() == {"hparams.learning_rate"}


def test_the_files_of_a_study_are_recorded(tmp_path):
  """R4: text and state of the config and study file, in the study, in each
  trial and rerun, and on the page; a config that no commit holds is told."""
  path = studies.write(tmp_path, num_trials=1)
  subprocess.run(["git", "-C", tmp_path, "init", "--quiet"], check=True)
  study = tmp_path / "s"
  assert studies.call("study", "run", path, f"--workdir={study}") == 0
  rerun = ("study", "rerun", study, "--best", "--seeds=1")
  assert studies.call(*rerun, "--no_report") == 0
  expected = {
    str(tmp_path / name): (tmp_path / name).read_text()
    for name in ("study.py", "config.py")
  }
  runs = ["", "trials/0000", "reruns/0000/1"]
  for run in runs:
    entry = rundir.RunDir(study / run).provenance()
    assert {f["path"]: f["text"] for f in entry["files"]} == expected, run
    assert {f["state"] for f in entry["files"]} == {"untracked"}
    assert [r["folder"] for r in entry["repositories"]] == [str(tmp_path)]
  assert entry["command"][-6:] == list(map(str, (*rerun, "--no_report")))
  page = (study / "report.html").read_text()
  assert f"{tmp_path / 'config.py'}: untracked" in page
  assert "config.model.width = int(width)" in page


def test_extend_runs_the_new_trials_alone(study, capsys):
  """C5: more trials continue the sequence; the old ones stay as they are."""
  before = studies.files(study / "trials")
  points = study_lib.StudyDir(study).points()
  assert studies.call("study", "extend", study, "--trials=10") == 0
  assert "10 trials:" in capsys.readouterr().out
  assert len(studies.statuses(study)) == 10
  assert study_lib.StudyDir(study).points()[:8] == points
  after = studies.files(study / "trials")
  assert {p: v for p, v in before.items() if p.name != ".lock"}.items() <= (
    after.items()
  )


def test_reruns_differ_in_nothing_but_the_seed(rerun_study, capsys):
  """E1: the best trial N times with other seeds; its variance is told."""
  results = results_lib.read_study(rerun_study)
  best = results.ranked[0]
  reruns = results.reruns[best.index]
  assert [trial.seed for trial in reruns] == [1, 2, 3]
  own = rundir.RunDir(best.path).config()
  for trial in reruns:
    config = rundir.RunDir(trial.path).config()
    assert config | {"seed": own["seed"]} == own
  finals = {trial.final("train/loss")[0] for trial in reruns}
  assert len(finals) == 3
  assert studies.call("study", "status", rerun_study) == 0
  assert "reruns      6" in capsys.readouterr().out
  assert studies.call("report", rerun_study, "--json") == 0
  found = json.loads(capsys.readouterr().out)["findings"]
  variance = [f for f in found if f["check"] == "retrain_variance"][0]
  assert variance["evidence"]["num_reruns"] == 3


# status, list, export.


def test_status_of_a_study_under_way(tmp_path, capsys):
  """An unfinished study says how far it is."""
  path, study = studies.write(tmp_path), tmp_path / "study"
  command = ("study", "run", path, f"--workdir={study}", "--trials=1")
  assert studies.call(*command) == 0
  assert "3 trials of the study" in capsys.readouterr().out
  assert studies.call("study", "status", study) == 0
  told = capsys.readouterr().out
  assert told.startswith("Which?\n")
  for line in ("completed   1", "pending     3", "trial 1 of 1"):
    assert line in told


def test_the_tracking_table(finished_study, study, tmp_path, capsys):
  """G8: name, config, notes, trials, best result, command, commit, changes."""
  root = study.parent
  path = studies.write(tmp_path / "other", notes='só, "quoted"\nlines')
  studies.call("study", "run", path, f"--workdir={root / 'b'}", "--trials=:1")
  capsys.readouterr()
  assert studies.call("study", "list", root, "--csv") == 0
  rows = {row["study"]: row for row in _rows(capsys.readouterr().out)}
  assert set(rows) == {str(root / "study"), str(root / "b")}
  row, best = rows[str(study)], _best(study)
  assert float(row["best"]) == best.best("valid/error_rate")[0]
  assert int(row["best_trial"]) == best.index and row["trials"] == "8/8"
  words = ["study", "run", str(finished_study.parent / "study.py")]
  words += [f"--workdir={finished_study}"]
  assert row["config"] and row["command"].endswith(shlex.join(words))
  assert row["commit"] and row["uncommitted_changes"] in ("True", "False")
  assert rows[str(root / "b")]["notes"] == 'só, "quoted"\nlines'
  assert rows[str(root / "b")]["trials"] == "1/4"
  assert studies.call("study", "list", root) == 0
  told = capsys.readouterr().out
  assert str(study) in told and "8/8" in told


def test_an_empty_folder_has_no_studies(tmp_path, capsys):
  assert studies.call("study", "list", tmp_path) == 0
  assert "no studies" in capsys.readouterr().out


def test_trials_as_csv(study, tmp_path):
  """A row for each trial; what has no value has an empty cell."""
  file = tmp_path / "trials.csv"
  assert studies.call("export", study, f"--csv={file}") == 0
  text = file.read_text()
  assert text == (study / "trials.csv").read_text()
  rows = _rows(text)
  points = study_lib.StudyDir(study).points()
  assert [float(row[_RATE]) for row in rows] == [p[_RATE] for p in points]
  for row in rows:
    assert row["status"] != "infeasible" or row["reason"]
  assert [row["status"] for row in rows] == studies.statuses(study)


def _in_optuna(url):
  """What Optuna itself reads: trials, best value, importances."""
  storage = optuna.storages.RDBStorage(url)
  try:
    loaded = optuna.load_study(study_name="study", storage=storage)
    importances = optuna.importance.get_param_importances(loaded)
    return loaded.trials, loaded.best_value, importances
  finally:
    storage.remove_session()
    storage.engine.dispose()


def test_trials_in_an_optuna_storage(study, tmp_path, capsys):
  """Optuna reads the trials as its own; a second export adds what is new."""
  url = f"sqlite:///{tmp_path}/trials.db"
  assert studies.call("export", study, f"--optuna={url}") == 0
  assert "8 trials added" in capsys.readouterr().out
  trials, best_value, importances = _in_optuna(url)
  results = results_lib.read_study(study)
  assert best_value == results.value(results.ranked[0])
  assert set(importances) == {_RATE, "hparams.momentum"}
  states = [trial.state.name for trial in trials]
  expected = ["PRUNED" if bad else "COMPLETE" for bad in results.infeasible]
  assert states == expected
  for trial, ours in zip(trials, results.trials, strict=True):
    assert trial.params == dict(ours.point)
    values = ours.curves.get(results.objective, ((), ()))
    assert trial.intermediate_values == {
      step: value
      for step, value in zip(*values, strict=True)
      if not math.isnan(value)
    }
  assert studies.call("study", "extend", study, "--trials=9") == 0
  capsys.readouterr()
  assert studies.call("export", study, f"--optuna={url}") == 0
  assert "1 trial added" in capsys.readouterr().out
  assert len(_in_optuna(url)[0]) == 9


def test_optuna_takes_no_study_for_another(study, tmp_path, capsys):
  """Two studies of one name in a storage: the second is refused, untouched."""
  url = f"sqlite:///{tmp_path}/trials.db"
  assert studies.call("export", study, f"--optuna={url}") == 0
  path = studies.write(tmp_path / "other")
  other = tmp_path / "other" / "study"
  studies.call("study", "run", path, f"--workdir={other}", "--trials=:1")
  capsys.readouterr()
  code = studies.call("export", other, f"--optuna={url}")
  assert code == cli.common.EXIT_WRONG
  assert "another study named 'study'" in capsys.readouterr().err
  assert len(_in_optuna(url)[0]) == 8


# suggest and final.


@pytest.fixture(scope="module")
def nine_trials(tmp_path_factory):
  """A finished study, of which one trial diverged; read only."""
  folder = tmp_path_factory.mktemp("nine")
  varied = {_RATE: space_lib.Float(1e-3, 1e12, "log")}
  path = studies.write(folder, space=varied, num_trials=9)
  study = folder / "study"
  assert studies.call("study", "run", path, f"--workdir={study}") == 0
  return study


@pytest.fixture
def explored(nine_trials, tmp_path):
  """A copy of it, to be written in."""
  return shutil.copytree(nine_trials, tmp_path / "study")


@pytest.mark.slow
def test_suggest_goes_on_with_the_study(explored, nine_trials, capsys):
  """C9: batches until there are K adaptive trials; the same command then has
  nothing left to do; `run`, `extend` and `rerun` take the study as it is."""
  planned = study_lib.StudyDir(explored).points()
  before = studies.files(explored / "trials")
  command = ("study", "suggest", explored, "--trials=3", "--batch=2")
  assert studies.call(*command) == 0
  told = capsys.readouterr().out
  assert "trials 9 to 10 of the study: suggested by" in told
  assert "trials 11 to 11 of the study" in told and "report:" in told
  study = study_lib.StudyDir(explored).study()
  assert study["num_trials"] == 12 and len(study["suggested"]) == 2
  assert study_lib.adaptive(study) == [9, 10, 11]
  assert studies.statuses(explored).count("completed") >= 5
  after = studies.files(explored / "trials")
  assert {p: v for p, v in before.items() if p.name != ".lock"}.items() <= (
    after.items()
  )
  assert studies.call(*command) == 0
  assert "nothing to run" in capsys.readouterr().out
  assert studies.call("study", "suggest", explored, "--trials=2") == 2
  assert "already has 3 adaptive trials" in capsys.readouterr().err
  file, extended = (
    nine_trials.parent / "study.py",
    ("study", "extend", explored),
  )
  assert studies.call("study", "run", file, f"--workdir={explored}") == 0
  assert studies.call(*extended, "--trials=13", "--no_report") == 0
  assert study_lib.StudyDir(explored).points()[:9] == planned
  assert studies.call("study", "rerun", explored, "--trial=9", "--seeds=1") == 0
  file = nine_trials.parent / "explored.csv"
  assert studies.call("export", explored, f"--csv={file}") == 0
  rows = _rows(file.read_text())
  capsys.readouterr()
  assert [r["adaptive"] for r in rows] == ["False"] * 9 + ["True"] * 3 + [
    "False"
  ]
  assert studies.call("study", "status", explored) == 0
  assert "adaptive    3 of them" in capsys.readouterr().out
  assert studies.call("study", "list", explored.parent, "--csv") == 0
  assert _rows(capsys.readouterr().out)[0]["adaptive"] == "3"
  assert studies.call("report", explored, "--json") == 0
  assert json.loads(capsys.readouterr().out)["adaptive"] == [9, 10, 11]


def test_suggestions_in_an_optuna_storage(explored, tmp_path):
  """C9: there, too, they are marked."""
  assert studies.call("study", "suggest", explored, "--trials=1") == 0
  url = f"sqlite:///{tmp_path}/trials.db"
  assert studies.call("export", explored, f"--optuna={url}") == 0
  marks = [t.user_attrs["jaxplay:adaptive"] for t in _in_optuna(url)[0]]
  assert marks == [False] * 9 + [True]


@pytest.mark.pods
def test_a_killed_batch_is_finished_first(explored):
  """C9: the points of a batch are kept before they run; after a kill the same
  command runs what is open, and suggests what an undisturbed one does."""
  other = shutil.copytree(explored, explored.parent / "other")
  command = ("study", "suggest", explored, "--trials=4", "--batch=2")
  process = studies.start(
    *command, signal=signal.SIGKILL, moment="step >= 8 and step < 48"
  )
  studies.finish(process, -signal.SIGKILL)
  killed = study_lib.StudyDir(explored).study()
  assert len(killed["suggested"]) == 1
  assert studies.call(*command) == 0
  assert studies.call(*command[:2], other, *command[3:]) == 0
  ended = [study_lib.StudyDir(path).study() for path in (explored, other)]
  assert ended[0]["suggested"] == ended[1]["suggested"]
  assert ended[0]["suggested"][:1] == killed["suggested"]
  assert set(studies.statuses(explored)) <= set(rundir.DONE)


@pytest.mark.pods
def test_exploration_comes_before_exploitation(tmp_path, capsys):
  """C9: too few trials, or good ones at an edge, are told in a sentence."""
  space = {_RATE: space_lib.Float(1e-7, 1e-3, "log")}
  path = studies.write(tmp_path, space=space, num_trials=4)
  study = tmp_path / "study"
  studies.call("study", "run", path, f"--workdir={study}", "--no_report")
  capsys.readouterr()
  command = ("study", "suggest", study, "--trials=1", "--no_report")
  content = studies.files(study)
  assert studies.call(*command) == cli.common.EXIT_WRONG
  error = capsys.readouterr().err
  assert "4 finished trials" in error and error.count("\n") == 1
  assert studies.files(study) == content
  studies.call("study", "extend", study, "--trials=24", "--no_report")
  results = results_lib.read_study(study, "valid/loss")
  found = checklist.check_study(results)[0]
  assert (found.check, found.verdict) == ("search_space_boundary", "warn")
  # By the objective that tells them apart.
  content = json.loads((study / "study.json").read_text())
  content["objective"] = "valid/loss"
  (study / "study.json").write_text(json.dumps(content))
  capsys.readouterr()
  assert studies.call(*command) == cli.common.EXIT_WRONG
  error = capsys.readouterr().err
  assert f"boundary of {_RATE}" in error and error.count("\n") == 1
  assert "--ignore_findings" in error
  assert studies.call(*command, "--ignore_findings") == 0
  assert len(study_lib.StudyDir(study).points()) == 25


def _tested(study):
  """Which runs of a study were shown the test set, and when."""
  return {
    path: path.stat().st_mtime_ns
    for path in study.glob("*/**/status.json")
    if "test" in json.loads(path.read_text())
  }


@pytest.mark.slow
def test_final_looks_at_the_test_set_once(explored, capsys, monkeypatch):
  """C10, E1, E4: seeds of the best trial, then the test set for them alone;
  again only on request, and that is recorded."""
  monkeypatch.chdir(explored.parent)
  best = _best(explored).index
  command = ("study", "final", explored, "--seeds=2")
  assert studies.call(*command) == 0
  told = capsys.readouterr().out
  log = explored / "LOG.md"
  assert f"final: trial {best}" in told and f"log: {log}" in told
  final, tested = study_lib.StudyDir(explored).final(), _tested(explored)
  runs = [explored / "trials" / f"{best:04d}"]
  runs += [explored / "reruns" / f"{best:04d}" / f"{i}" for i in (1, 2)]
  assert tested.keys() == {run / "status.json" for run in runs}
  assert (final["trial"], final["seeds"]) == (best, [1, 2])
  errors = [
    rundir.RunDir(run).status()["test"]["test/error_rate"] for run in runs
  ]
  assert final["test"]["test/error_rate"]["trial"] == errors[0]
  assert final["test"]["test/error_rate"]["mean"] == np.mean(errors[1:])
  entry = log.read_text()
  assert entry.count("\n## ") == 0 and f"trial {best}" in entry
  assert f"{np.mean(errors[1:]):.4g}" in entry
  # Twice is once.
  assert studies.call(*command) == 0
  assert capsys.readouterr().out.splitlines() == told.splitlines()[-5:]
  assert (_tested(explored), log.read_text()) == (tested, entry)
  # The study goes on.
  assert studies.call("study", "extend", explored, "--trials=10") == 0
  capsys.readouterr()
  assert studies.call(*command) == cli.common.EXIT_WRONG
  error = capsys.readouterr().err
  assert f"with trial {best}" in error and "--again" in error
  assert (_tested(explored), log.read_text()) == (tested, entry)
  assert studies.call(*command, "--again") == 0
  again = log.read_text()
  assert again.startswith(entry) and "was evaluated before" in again
  assert study_lib.StudyDir(explored).final()["earlier"][0]["trial"] == best
  assert studies.call(*command, "--again") == 0
  assert log.read_text() == again


@pytest.mark.slow
def test_final_trains_on_validation_data(explored, capsys, monkeypatch):
  """E6: after the usual final, with its seeds, for the median best step; tested
  once; what nothing measures any more is printed, kept and reported."""
  monkeypatch.chdir(explored.parent)
  directory = study_lib.StudyDir(explored)
  usual = ("study", "final", explored, "--seeds=3")
  assert studies.call(*usual) == 0
  final, tested = directory.final(), _tested(explored)
  assert "folded" not in final
  capsys.readouterr()
  command = (*usual, "--fold_validation")
  assert studies.call(*command) == 0
  told = capsys.readouterr().out
  folded = directory.final().pop("folded")
  # The usual one is as it was.
  assert {k: v for k, v in directory.final().items() if k != "folded"} == final
  assert tested.items() <= _tested(explored).items()
  # The steps of the checkpoints that were tested.
  index = final["trial"]
  best = [
    directory.rerun(index, seed).status()["best"]["step"] for seed in (1, 2, 3)
  ]
  assert folded["steps"] == sorted(best)[1] and folded["seeds"] == [1, 2, 3]
  errors = []
  for seed in folded["seeds"]:
    run = directory.folded(index, seed)
    config, point = run.config(), final["point"]
    assert config["dataset"]["fold_validation"] and config["seed"] == seed
    assert config["hparams"]["learning_rate"] == point[_RATE]
    assert config["max_train_steps"] == folded["steps"]
    errors.append(run.status()["test"]["test/error_rate"])
  test = folded["test"]["test/error_rate"]
  assert test["values"] == errors and test["mean"] == np.mean(errors)
  assert folded["examples"] == {"train": 1497, "valid": 300}
  log = explored / "LOG.md"
  for text in (told, log.read_text()):
    assert f"{np.mean(errors):.4g}" in text and "1,497" in text
    assert all(what in text for what in folded["unmeasured"])
  # They are no reruns, and no trials.
  results = results_lib.read_study(explored)
  assert len(results.reruns[index]) == 3 and not results.strays
  # Twice is once; killed before the record, what was trained is not trained
  # again.
  entry, kept = log.read_text(), _tested(explored)
  assert studies.call(*command) == 0
  whole = directory.final()
  assert (log.read_text(), _tested(explored)) == (entry, kept)
  directory.write_final({k: v for k, v in whole.items() if k != "folded"})
  assert studies.call(*command) == 0
  assert directory.final()["folded"]["test"] == folded["test"]
  assert _tested(explored) == kept
  assert studies.call("report", explored) == 0
  assert "1,497" in (explored / "report.html").read_text()
  # Without a rerun its steps are not known, and nothing is written.
  directory.write_final({k: v for k, v in whole.items() if k != "folded"})
  shutil.rmtree(directory.rerun(index, 2).path)
  capsys.readouterr()
  assert studies.call(*command) == 2
  assert "rerun" in capsys.readouterr().err
  assert "folded" not in directory.final()


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["test", "log", "rerun"])
def test_final_ends_what_is_missing(explored, tmp_path, monkeypatch, lost):
  """C10: killed at any moment, the same command ends what is missing, for the
  trial that was chosen before the test set was looked at."""
  (tmp_path / "experiments").mkdir()
  monkeypatch.chdir(tmp_path)  # Whose log is not of this study (B14).
  command = ("study", "final", explored, "--seeds=2")
  assert studies.call(*command) == 0
  directory = study_lib.StudyDir(explored)
  final, tested = directory.final(), _tested(explored)
  log = explored / "LOG.md"
  assert not any((tmp_path / "experiments").iterdir())
  entry = log.read_text()
  unfinished = {k: v for k, v in final.items() if k != "log"}
  if lost != "log":
    log.unlink()
    unfinished.pop("test")
    path = explored / "reruns" / f"{final['trial']:04d}" / "2"
    if lost == "test":
      status = rundir.RunDir(path).status()
      del status["test"]
      rundir.write_json(path / "status.json", status)
  directory.write_final(unfinished)
  if lost == "rerun":  # Before anything was chosen.
    (explored / "final.json").unlink()
    shutil.rmtree(path)
  assert studies.call(*command) == 0
  assert directory.final() == final and log.read_text() == entry
  kept = _tested(explored)
  assert kept.keys() == tested.keys()
  changed = {path for path in kept if kept[path] != tested[path]}
  assert len(changed) == (lost != "log")


def test_there_may_be_nothing_to_end_with(tmp_path, capsys):
  """C10: without a completed trial, or without a test set: one sentence."""
  study = study_lib.StudyDir(tmp_path / "study")
  study.create(studies.load(tmp_path))
  assert studies.call("study", "final", study.path) == cli.common.EXIT_WRONG
  error = capsys.readouterr().err
  assert "no completed trial" in error and error.count("\n") == 1


def test_there_may_be_no_test_set(tmp_path, capsys):
  """C10: a text without a test split is refused before anything is run."""
  (tmp_path / "valid.txt").write_text("to be or not to be " * 40)
  (tmp_path / "text.txt").write_text("that is the question " * 40)
  config = config_lib.base()
  config.model.name, config.model.norm = "lm", "rms"
  config.dataset.data_dir = str(tmp_path / "tokens")
  config.dataset.name = f"text:{tmp_path}/text.txt"
  config.dataset.valid_files = f"{tmp_path}/valid.txt"
  config.dataset.sequence_length = 64
  space = {_RATE: space_lib.Float(1e-4, 1e-2, "log")}
  made = made_up.study(
    2, space=space, statuses={}, config=config_lib.as_json(config)
  )
  study = tmp_path / "study"
  made_up.write(made, study)
  content = studies.files(study)
  assert studies.call("study", "final", study) == cli.common.EXIT_WRONG
  error = capsys.readouterr().err
  assert "test" in error and error.count("\n") == 1
  assert studies.files(study) == content


# report and compare.


def test_report_as_json(study, capsys):
  """The answer and all findings, for other programs."""
  assert studies.call("report", study, "--json") == 0
  told = json.loads(capsys.readouterr().out)
  best = _best(study)
  assert told["best"]["trial"] == best.index
  assert told["best"]["point"] == dict(best.point)
  assert sum(told["trials"].values()) == 8
  assert told["findings"] == rundir.RunDir(study).findings()
  assert {"search_space_boundary", "overfitting", "fixed_caveats"} <= {
    found["check"] for found in told["findings"]
  }


@pytest.mark.parametrize(
  "objective, select", [("train/loss", "best"), ("final:valid/loss", "final")]
)
def test_objective_chosen_afterwards(study, capsys, objective, select):
  """C7: best or final, validation or training, without rerunning."""
  before = studies.files(study)
  argument = f"--objective={objective}"
  assert studies.call("report", study, argument, "--json") == 0
  told = json.loads(capsys.readouterr().out)
  # A page of its own; what was found by the study's objective stays (B14).
  words = objective.replace(":", "-").replace("/", "-")
  page = study / f"report-{words}.html"
  after = studies.files(study)
  assert page.stat().st_size and after.pop(page) and after == before
  assert studies.call("report", study, argument) == 0
  shown = capsys.readouterr().out
  assert f"report: {page}" in shown and "next_study.py" not in shown
  metric = objective.rpartition(":")[2]
  assert (told["objective"], told["select"]) == (metric, select)
  results = results_lib.read_study(study)
  values = [
    getattr(trial, select)(metric)[0]
    for trial in results.trials
    if trial.status == "completed"
  ]
  assert told["best"]["value"] == min(values)


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_figures_without_a_browser(study, tmp_path, kind):
  """PNG or SVG of each figure, from the command line."""
  folder = tmp_path / "figures"
  arguments = (f"--figures={folder}", f"--format={kind}")
  assert studies.call("report", study, *arguments) == 0
  names = {path.name for path in folder.iterdir()}
  assert len(names) > 8 and all(name.endswith(kind) for name in names)


def test_report_of_a_run(study, capsys):
  """A trial is a run; its report holds the checks of runs."""
  run = _best(study).path
  assert studies.call("report", run, "--json") == 0
  found = json.loads(capsys.readouterr().out)
  assert {f["check"] for f in found} >= set(curves.CHECKS)
  assert studies.call("report", run, "--live") == 0
  assert (run / "report.html").exists()


@pytest.mark.slow
def test_a_live_report_ends_with_the_study(tmp_path, monkeypatch, capsys):
  """Live: renewed while trials are missing, and a last time at the end."""
  path, study = studies.write(tmp_path, num_trials=2), tmp_path / "study"
  run = ("study", "run", path, f"--workdir={study}", "--no_report")
  assert studies.call(*run, "--trials=0") == 0
  monkeypatch.setattr(reading, "LIVE_SECONDS", 1.0)
  process = studies.start(*run)
  assert studies.call("report", study, "--live") == 0
  studies.finish(process)
  assert f"{study / 'report.html'}: 1 of 2 trials" in capsys.readouterr().out
  assert '"live":false' in (study / "report.html").read_text()


def test_compare_and_its_log(rerun_study, study, tmp_path, capsys):
  """E3, E4: verdict, effect, uncertainty, complexity; kept in a log."""
  log = tmp_path / "launches.md"
  sides = (str(study), str(rerun_study))
  assert studies.call("compare", *sides, f"--log={log}") == 0
  told = capsys.readouterr().out
  assert "95%" in told and "3 reruns" in told
  # One trial against itself: seeds are all that differs.
  assert "\nNo significant difference: " in told or "\nKeep the base" in told
  first = log.read_text()
  assert all(side in first for side in sides) and "95%" in first
  assert rundir.RunDir(study).provenance()["git_commit"][:12] in first
  arguments = ("--objective=valid/loss", f"--log={log}", "--smallest=1e9")
  assert studies.call("compare", *sides, *arguments, "--json") == 0
  verdict = json.loads(capsys.readouterr().out)
  assert verdict["verdict"] == "do not adopt"
  assert verdict["objective"] == "valid/loss"
  text = log.read_text()
  assert text.startswith(first) and text.count("\n## ") == 1
  assert f"do not adopt {rerun_study}" in text


def test_the_page_of_a_comparison(rerun_study, study, tmp_path, capsys):
  """E3: beside the candidate, or where it is asked for; for programs, none."""
  sides, page = (str(rerun_study), str(study)), study / "comparison.html"
  assert studies.call("compare", *sides, "--json") == 0
  assert not page.exists()
  assert studies.call("compare", *sides) == 0
  assert str(page) in capsys.readouterr().out
  assert page.read_text().startswith("<!doctype html>")
  out = tmp_path / "both.html"
  assert studies.call("compare", *sides, "--json", f"--out={out}") == 0
  assert out.exists()
  page.unlink()
  page.mkdir()
  assert studies.call("compare", *sides) == 2
  told = capsys.readouterr()
  assert "--out=FILE.html" in told.err and str(page) in told.err


@pytest.mark.parametrize("kind", ["trials", "reruns"])
def test_two_trials_of_a_study_are_compared(rerun_study, capsys, kind):
  """E3: each with its own reruns, and the command for more of these."""
  results = results_lib.read_study(rerun_study)
  one, other = results.reruns
  paths = [rerun_study / kind / f"{index:04d}" for index in (one, other)]
  assert studies.call("compare", *paths, "--json") == 0
  told = json.loads(capsys.readouterr().out)
  for side, index in (("baseline", one), ("candidate", other)):
    values = results.values_of(results.reruns[index])
    assert told[side]["num_reruns"] == len(values) > 0
    assert told[side]["num_reruns"] + told[side]["diverged"] == 3
    assert told[side]["mean"] == pytest.approx(values.mean())
    assert told[side]["rerun"].endswith(f"{rerun_study} --trial={index}")
  assert set(told["changes"]) == {_RATE, "hparams.momentum"}


def test_a_reader_who_has_seen_enough(finished_study):
  """`jaxplay ... | head` ends without a word."""
  there, back = os.pipe()
  os.close(there)
  done = subprocess.run(
    [sys.executable, "-m", "jaxplay.cli", "study", "status", finished_study],
    stdout=back,
    stderr=subprocess.PIPE,
    text=True,
  )
  os.close(back)
  assert (done.returncode, done.stderr) == (0, "")


def test_another_broken_pipe_is_a_failure(monkeypatch, capsys):
  """Of a process that died, say: no reader of ours, so no success."""

  def read_study(path):
    raise BrokenPipeError

  monkeypatch.setattr(results_lib, "read_study", read_study)
  assert studies.call("study", "status", "any") == cli.common.EXIT_FAILED
  assert "BrokenPipeError" in capsys.readouterr().err


# Mistakes.


@pytest.mark.parametrize(
  "words, sentence",
  [
    ("study status {empty}", "holds no study"),
    ("study status {nowhere}", "there is no folder"),
    ("study list {nowhere}", "there is no folder"),
    ("study extend {study} --trials=4", "4 is less"),
    ("study extend {study}", "--trials"),
    ("study extend {study} --trials=many", "at least 1"),
    ("study extend {nowhere} --trials=9", "there is no folder"),
    ("study rerun {study}", "--best"),
    ("study rerun {study} --trial=99", "trials 0 to 7"),
    ("study rerun {study} --trial=-1", "at least 0"),
    ("study rerun {study} --best --seeds=0", "at least 1"),
    ("study rerun {study} --best --trial=1", "not allowed with"),
    ("study run {nowhere}.py --workdir={nowhere}", "there is no study file"),
    ("study run {config} --workdir={nowhere}", "no get_study()"),
    ("study run {config}", "--workdir"),
    ("study run {file} --workdir={empty} --runner=proceses", "processes"),
    ("study run {file} --workdir={empty} --trails=3", "did you mean --trials?"),
    ("study run {file} --workdir={study}", "holds another study"),
    ("study run {file} --workdir={config}", "is a file"),
    ("study suggest {study}", "--trials"),
    ("study suggest {study} --trials=1 --batch=0", "at least 1"),
    ("study suggest {study} --trials=1 --seed=-1", "at least 0"),
    ("study suggest {nowhere} --trials=1", "there is no folder"),
    ("study final {nowhere}", "there is no folder"),
    ("export {study}", "--csv"),
    ("export {study} --optuna=nonsense", "cannot write to the storage"),
    ("export {study} --optuna=mysql://x/y", "module 'MySQLdb', is not"),
    ("report {nowhere}", "there is no folder"),
    ("report {study} --objective=valid/accuracy", "no trial logged"),
    ("report {study} --objective=last:valid/loss", "begins with 'last'"),
    ("report {study} --figures={config}", "is a file"),
    ("report {study} --format=pdf", "svg"),
    ("compare {study} {nowhere}", "there is no folder"),
    ("compare {study} {study}/trials/0099", "has no trial 0099"),
    ("compare {study}", "CANDIDATE"),
    ("compare {study} {study} --objective=x", "no trial logged"),
    ("compare {study} {study} --smallest=-1", "at least 0"),
    ("compare {study} {study} --smallest=nan", "at least 0"),
    ("compare {study} {study} --log={nowhere}/log.md", "does not exist"),
    ("study", "ACTION"),
    ("stduy", "invalid choice"),
  ],
)
def test_a_mistake_costs_one_sentence(
  finished_study, tmp_path, capsys, words, sentence
):
  """Each mistake: exit code 2, one line on stderr, and nothing is lost."""
  empty = tmp_path / "empty"
  empty.mkdir()
  file = studies.write(tmp_path / "files", goal="Another?")
  places = dict(
    study=finished_study,
    empty=empty,
    nowhere=tmp_path / "nowhere",
    file=file,
    config=tmp_path / "files" / "config.py",
  )
  before = studies.files(tmp_path), studies.files(finished_study)
  arguments = [word.format(**places) for word in words.split()]
  assert studies.call(*arguments) == cli.common.EXIT_WRONG
  error = capsys.readouterr().err
  assert sentence in error and error.count("\n") == 1 and len(error) < 500
  assert (studies.files(tmp_path), studies.files(finished_study)) == before
  assert not (tmp_path / "nowhere").exists()
