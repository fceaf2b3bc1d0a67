"""`jaxplay export`: event files of studies and runs that are there."""

import csv
import shutil
import sys

import numpy as np
import pytest

pytest.importorskip("tensorboard")

import jaxplay as jp
from jaxplay.analysis import results as results_lib
from tests.study import studies
from tests.training import runs
from tests.writers import events


def test_each_trial_has_its_curves_and_hyperparameters(
  finished_study, tmp_path
):
  """G9: infeasible trials, too, with their status and without a best value."""
  exported = jp.export(finished_study, tensorboard=tmp_path / "tb")
  assert exported.tensorboard == tmp_path / "tb"
  results = results_lib.read_study(finished_study)
  assert results.infeasible.any() and results.ranked
  for trial in results.trials:
    folder = tmp_path / "tb" / f"{trial.index:04d}"
    events.assert_same_as_metrics(trial.path, folder)
    values, _ = events.hparams(folder)
    assert values == {**trial.point, "status": trial.status}
    best = events.scalars(folder).get("best/valid/error_rate")
    if trial.status == "infeasible":
      assert best is None
    else:
      value, step = trial.best("valid/error_rate")
      assert best == [(step, float(np.float32(value)))]


def test_a_run_has_the_hyperparameters_of_its_config(finished_study, tmp_path):
  """G9: a run is exported as its own writer writes it."""
  run = finished_study / "trials" / "0000"
  jp.export(run, tensorboard=tmp_path / "tb", csv=tmp_path / "run.csv")
  events.assert_same_as_metrics(run, tmp_path / "tb" / "0000")
  values, _ = events.hparams(tmp_path / "tb" / "0000")
  config = jp.RunDir(run).config()
  assert values["hparams.momentum"] == config["hparams"]["momentum"]
  with (tmp_path / "run.csv").open() as file:
    rows = list(csv.DictReader(file))
  for row, line in zip(rows, jp.RunDir(run).metrics(), strict=True):
    given = {k: float(v) for k, v in row.items() if v}
    assert given == {k: v for k, v in line.items() if v is not None}


def test_only_an_earlier_export_is_replaced(finished_study, tmp_path, capsys):
  """G9: files of others: refused, and nothing is written."""
  to = f"--tensorboard={tmp_path / 'tb'}"
  assert studies.call("export", finished_study, to) == 0
  (tmp_path / "tb" / "0000" / "notes.txt").write_text("mine")
  assert studies.call("export", finished_study, to) == 0
  assert (tmp_path / "tb" / "0000" / "notes.txt").read_text() == "mine"
  run = finished_study / "trials" / "0000"
  events.assert_same_as_metrics(run, tmp_path / "tb" / "0000")
  # Of another source, or no export at all.
  copy = shutil.copytree(finished_study, tmp_path / "copy")
  (tmp_path / "others").mkdir()
  (tmp_path / "others" / "thesis.tex").write_text("mine")
  before = studies.files(tmp_path)
  for words in (
    (copy, to),
    (run, to),
    (copy, f"--tensorboard={tmp_path / 'others'}"),
    (copy, f"--tensorboard={copy}"),
  ):
    capsys.readouterr()
    assert studies.call("export", *words) == 2
    error = capsys.readouterr().err
    assert str(words[1]).partition("=")[2] in error and error.count("\n") == 1
  assert studies.files(tmp_path) == before


def test_a_table_is_not_overwritten(finished_study, tmp_path, capsys):
  """G9: --csv names a new file; nothing else is exported either."""
  file = tmp_path / "trials.csv"
  file.write_text("mine")
  words = (f"--csv={file}", f"--tensorboard={tmp_path / 'tb'}")
  assert studies.call("export", finished_study, *words) == 2
  assert str(file) in capsys.readouterr().err
  assert file.read_text() == "mine" and not (tmp_path / "tb").exists()


def test_a_missing_library_costs_one_sentence(
  finished_study, tmp_path, capsys, monkeypatch
):
  """G9: it names the extra, before anything is written."""
  monkeypatch.setitem(sys.modules, "tensorboard", None)
  to = f"--tensorboard={tmp_path / 'tb'}"
  assert studies.call("export", finished_study, to) == 2
  error = capsys.readouterr().err
  assert "jaxplay[tensorboard]" in error and error.count("\n") == 1
  assert not (tmp_path / "tb").exists()


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "trackio", "mlflow"])
def test_a_run_with_a_missing_writer_does_not_start(
  tmp_path, capsys, monkeypatch, name
):
  """G9: exit code 2, the extra, and no folder: for a run and for a study."""
  monkeypatch.setitem(sys.modules, name, None)
  keys = runs.overrides(writers=name)
  assert studies.call(*runs.command(keys, tmp_path / "run")) == 2
  error = capsys.readouterr().err
  assert f"jaxplay[{name}]" in error and error.count("\n") == 1
  assert not (tmp_path / "run").exists()
  path = studies.write(tmp_path / "files", overrides={"writers": (name,)})
  code = studies.call("study", "run", path, f"--workdir={tmp_path / 'study'}")
  assert code == 2
  assert f"jaxplay[{name}]" in capsys.readouterr().err
  assert not (tmp_path / "study").exists()
