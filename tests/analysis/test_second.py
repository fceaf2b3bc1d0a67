"""The second generator makes the studies that it says."""

import numpy as np
import pytest

from jaxplay import config as config_lib
from jaxplay.study import study as study_lib
from tests.analysis import second


@pytest.mark.parametrize("kind", second.HEALTHY)
def test_a_study_could_have_been_run(kind):
  """Its points are in its space, and its configs can be trained."""
  study = second.healthy(3, kind, 16)
  config = config_lib.from_json(study.study["config"])
  if not config.declared:
    study.space.check(config)
    for trial in study.trials:
      study_lib.trial_config(config, study.by_key(trial))
  for trial in study.trials:
    for label, value in trial.point.items():
      (p,) = (p for p in study.space.parameters if p.label == label)
      assert p.holds(value)
    for steps, values in trial.curves.values():
      assert steps.shape == values.shape and (np.diff(steps) > 0).all()


@pytest.mark.parametrize("kind", second.HEALTHY)
def test_several_trials_are_on_the_plateau(kind):
  """Healthy: good trials lie inside, and seeds tell them apart only."""
  for seed in range(8):
    study, world = second.make(seed, 40, second.HEALTHY[kind])
    floors = world.floors([study.by_key(trial) for trial in study.trials])
    assert (floors == floors.min()).sum() >= 3
    for key in world.matter:
      assert 0.05 < world.optimum[key] - world.radius
      assert world.optimum[key] + world.radius < 0.95


def test_a_study_is_a_function_of_its_seed():
  """The same numbers again, and others with another seed."""
  first, again, other = (second.healthy(s, "gaussian", 16) for s in (5, 5, 6))
  np.testing.assert_array_equal(first.values, again.values)
  assert not np.array_equal(first.values, other.values)


@pytest.mark.parametrize("fault", second.FAULTS)
def test_a_fault_is_in_the_curves(fault):
  """A fault changes what the trials logged, or where they lie."""
  strengths = second.FAULTS[fault].strengths
  study = second.faulty(2, fault, strengths[-1], 16)
  assert len(study.trials) == 16 and study.metrics
