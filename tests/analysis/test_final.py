"""The steps of a final model that is trained on validation data."""

import dataclasses

import numpy as np
import pytest

from jaxplay import config as config_lib
from jaxplay.analysis import final
from jaxplay.study import study as study_lib
from tests.analysis import by_hand

_STEPS = 1000


@pytest.mark.parametrize(
  "best", [(300,), (100, 900, 400), (100, 200, 700, 800), ()]
)
@pytest.mark.parametrize("schedule", config_lib.SCHEDULES)
def test_the_steps_are_fixed_before(tmp_path, schedule, best):
  """E6: the median best step, which was evaluated, where the learning rate does
  not depend on the length; else all."""
  seeds, directory = (
    [1, 2, 3, 4][: len(best) or 1],
    study_lib.StudyDir(tmp_path),
  )
  runs = [directory.rerun(0, seed) for seed in seeds]
  for run, step in zip(runs, best, strict=False):
    run.create()
    line = {"step": step, "metric": "valid/error_rate", "value": 0.5}
    fields = {"step": _STEPS, "max_train_steps": _STEPS, "best": line}
    run.write_status("completed", **fields)
  study = by_hand.line([0.1])
  steps = np.arange(100, _STEPS + 1, 100)
  reruns = [
    dataclasses.replace(
      study.trials[0],
      seed=seed,
      curves={"valid/error_rate": (steps, steps + float(seed))},
    )
    for seed in seeds
  ]
  results = dataclasses.replace(study, reruns={0: reruns})
  fixed = final.fixed_steps(
    results,
    {"trial": 0, "seeds": seeds},
    runs,
    {"max_train_steps": _STEPS, "schedule": schedule},
  )
  assert fixed["best_steps"] == list(best) and fixed["of_steps"] == _STEPS
  if best and schedule in ("constant", "rsqrt"):
    assert fixed["steps"] in best
    below = sum(step < fixed["steps"] for step in best)
    above = sum(step > fixed["steps"] for step in best)
    assert max(below, above) <= len(best) / 2
  else:
    assert fixed["steps"] == _STEPS
  assert fixed["at_steps"]["values"] == [fixed["steps"] + s for s in seeds]
