"""Which line and which checkpoints of a run are the best."""

import math

import numpy as np
import pytest

from jaxplay import rundir
from jaxplay.study import runners
from jaxplay.training import checkpoint_files, population, record, train
from tests.training import runs

# Larger losses are better, which is easy to tell from the usual.
DECLARED = (("metric", "task.py:Task", "loss", True, None),)
BACKWARDS = {"objective": "valid/loss", "declared": DECLARED}


def _record(folder, **keys):
  run = rundir.RunDir(folder)
  run.create()
  return record.Record(run, runs.make_config(runs.overrides(**keys)))


def _line(step, value):
  return {"step": step, "valid/loss": value}


@pytest.mark.parametrize(
  "declared, best, expected", [((), 10, [0.5, 2.0]), (DECLARED, 30, [-2, -0.5])]
)
def test_the_best_line_so_far(tmp_path, declared, best, expected):
  """G7: the earliest of the best, in the direction of the metric."""
  made = _record(tmp_path, objective="valid/loss", declared=declared)
  lines = [_line(10, 0.5), _line(20, math.nan), _line(30, 2.0), _line(40, 2.0)]
  lines += [{"step": 45, "train/loss": 1.0}, _line(50, 0.5)]
  for line in lines:
    made.write_line(line)
  value = {10: 0.5, 30: 2.0}[best]
  assert made.best == {"step": best, "metric": "valid/loss", "value": value}
  assert made.best == made.best_line(made.lines)
  assert sorted(set(made.costs())) == expected
  assert math.isnan(made.cost({"step": 45}))
  made.write_status("completed")
  made.run.check_metrics()  # The status agrees with the lines.


def test_the_progress_of_a_study_shows_its_best(tmp_path):
  """The best of several runs is the largest, if that is better."""
  shown = []

  class Console:
    def progress(self, done, total, values):
      shown.append(values["best"])

  for declared in ((), DECLARED):
    config = runs.make_config(
      runs.overrides(objective="valid/loss", declared=declared)
    )
    jobs = [
      runners.Job(name, rundir.RunDir(tmp_path / name), config)
      for name in ("a", "b", "c")
    ]
    runners.Progress(jobs, Console()).update(
      {
        name: {"status": "running", "best": {"value": value}}
        for name, value in (("a", 2.0), ("b", 0.5), ("c", 1.0))
      }
    )
  assert shown == [0.5, 2.0]


@pytest.mark.slow
def test_the_checkpoints_of_the_largest_values_are_kept(tmp_path):
  """G7: by a run, one that was preempted, and a trial of a population."""
  keys = runs.overrides(
    **BACKWARDS,
    max_train_steps=24,
    eval_every=3,
    checkpoint_every=100,
    keep_best=2,
    num_predictions=0,
    model__width=8,
  )
  status, _ = runs.train_here(keys, tmp_path / "alone")
  runs.train_here(keys, tmp_path / "again", 15, runs.preempt)
  resumed, _ = runs.train_here(keys, tmp_path / "again")
  config = runs.make_config(keys)
  folders = [tmp_path / "trials" / f"{i:04d}" for i in range(2)]
  trials = [rundir.RunDir(folder) for folder in folders]
  for run in trials:
    run.create()
  group = population.Populations([config] * 2, print)
  saved = tmp_path / "populations" / "0" / "checkpoints"
  assert group.train([config] * 2, trials, saved, lambda statuses: None)
  train.train(config, str(folders[0]), runs.Quiet())  # Unpacks it.
  lines = rundir.RunDir(tmp_path / "alone").metrics()
  best = rundir.best_lines(lines, "valid/loss", True)
  values = [line["valid/loss"] for line in lines if "valid/loss" in line]
  assert status["best"] == best[0] and best[0]["value"] == max(values)
  assert best[0]["step"] < 24  # Training makes the loss smaller.
  assert resumed["best"] == status["best"]
  of_trial = trials[0].status()["best"]
  assert of_trial["step"] == best[0]["step"]
  np.testing.assert_allclose(of_trial["value"], best[0]["value"], rtol=1e-3)
  for folder in (tmp_path / "alone", tmp_path / "again", folders[0]):
    kept = checkpoint_files.steps(folder / "checkpoints")
    assert {line["step"] for line in best[:2]} <= set(kept)
