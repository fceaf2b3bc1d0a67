"""The same study with a smaller model and few steps: fixed costs matter."""

import dataclasses

import study_full


def get_study():
  """The study, of models 64 wide and 300 steps."""
  return dataclasses.replace(
    study_full.get_study(),
    overrides={"model.width": 64, "max_train_steps": 300, "eval_every": 50},
  )
