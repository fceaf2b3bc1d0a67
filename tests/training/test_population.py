"""A population: every trial as it would have been alone."""

import functools
import json
import pathlib

import numpy as np
import pytest

from jaxplay import rundir
from jaxplay.training import population
from tests.training import runs

RATES = (0.001, 0.03, 0.1, 0.5, 1.0)


def _configs(**extra):
  keys = runs.overrides(**extra)
  return [
    runs.make_config(
      keys | {"hparams.learning_rate": rate, "hparams.momentum": momentum}
    )
    for rate, momentum in zip(RATES, np.linspace(0, 0.99, 5), strict=True)
  ]


class _Study:
  """Runs of a population in a folder."""

  def __init__(self, folder, configs, **group):
    self.folder, self.configs = folder, configs
    self.told, self.seen = [], []
    self._group = functools.partial(
      population.Group, configs, self.told.append, **group
    )
    self.runs = [
      rundir.RunDir(folder / "trials" / f"{i}") for i in range(len(configs))
    ]
    for run in self.runs:
      run.create()

  def train(self, act=lambda statuses: None):
    def progress(statuses):
      self.seen.append(statuses)
      act(statuses)

    return self._group().train(
      self.configs, self.runs, self.folder / "population", progress
    )


def _alone(config, folder):
  from jaxplay.training import train

  return train.train(config, str(folder), runs.Quiet())


def _files(folder):
  """Every file of a run but the checkpoints' own, which orbax lays out."""
  files = set()
  for path in pathlib.Path(folder).rglob("*"):
    name = path.relative_to(folder).as_posix()
    if path.is_file() and not name.startswith((".", "checkpoints/")):
      files.add(name)
  return files


@pytest.mark.parametrize(
  "extra",
  [
    pytest.param({**runs.MLP, "averages": ("ema", "window")}, id="mlp"),
    pytest.param({"clipping": True, "microbatches": 2}, id="microbatches"),
    pytest.param({"optimizer": "schedule_free_adamw"}, id="schedule-free"),
  ],
)
def test_trial_equals_itself_alone(tmp_path, extra):
  """Idea 1: a population's trial equals the same trial run alone."""
  extra = {key.replace(".", "__"): value for key, value in extra.items()}
  configs = _configs(export=True, report_test=True, **extra)
  study = _Study(tmp_path, configs)
  assert study.train()
  for i in (0, 2, 4):
    alone = tmp_path / "alone" / str(i)
    status = _alone(configs[i], alone)
    ours = study.runs[i].status()
    assert ours["status"] == status["status"]
    runs.assert_close(
      runs.lines(study.runs[i].path), runs.lines(alone), 2e-3, 2e-3
    )
    assert _files(study.runs[i].path) == _files(alone)
    assert ours.keys() == status.keys()
    assert ours["best"]["step"] in (
      line["step"]
      for line in runs.lines(alone)
      if line.get("valid/error_rate", 1) <= status["best"]["value"] + 0.01
    )
