"""A study directory as training would write it, with made-up curves."""

import dataclasses

import numpy as np
from benchmarks import common, study_full

from jaxplay import config as config_lib
from jaxplay.study import study as study_lib


def write(folder, num_trials):
  """Write a study directory as training would, with made-up curves."""
  config = config_lib.load(str(common.config_file("digits_mlp")))
  definition, _ = study_lib.define(
    dataclasses.replace(
      study_full.get_study(),
      config=str(common.config_file("digits_mlp")),
      overrides={"max_train_steps": 10_000},
      num_trials=num_trials,
    ),
    config,
  )
  directory = study_lib.StudyDir(folder)
  directory.create(definition)
  rng = np.random.default_rng(0)
  steps = np.arange(100, 10_100, 100)
  for index, point in enumerate(directory.points()):
    run = directory.trial(index)
    run.create()
    run.write_config(
      config_lib.as_json(study_lib.trial_config(definition["config"], point))
    )
    learning_rate = point["hparams.learning_rate"]
    distance = abs(np.log10(learning_rate / 0.1))
    errors = 0.9 * steps**-0.3 * (1 + distance) * rng.uniform(0.97, 1.03, 100)
    run.append_metrics(
      [
        {
          "step": step,
          "train/loss": error * 2,
          "train/error_rate": error,
          "train/grad_norm": error,
          "train/grad_norm_max": error * 1.5,
          "train/clipped": 0.0,
          "learning_rate": learning_rate,
          "steps_per_second": 100.0,
          "examples_per_second": 12_800.0,
          "data_wait": 0.0,
          "valid/loss": error * 2.1,
          "valid/error_rate": error,
        }
        for step, error in zip(steps.tolist(), errors.tolist(), strict=True)
      ]
    )
    run.write_status(
      "completed", step=10_000, max_train_steps=10_000, seconds=1.0
    )
