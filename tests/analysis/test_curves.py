"""Checks of a single run, on hand-made numbers."""

import pytest

from jaxplay import rundir
from jaxplay.analysis import curves


@pytest.mark.parametrize(
  "error_rate, chance, num_examples, verdict",
  [
    (0.02, 0.9, 300, "ok"),
    (0.9, 0.9, 300, "fail"),  # the most frequent class
    (0.95, 0.9, 300, "fail"),  # worse than it
    (0.85, 0.9, 300, "fail"),  # within 5 standard errors of 0.017
    (0.88, 0.9, 50_000, "warn"),  # certain, but small
    (0.95, 0.999, 50_000, "warn"),  # an early ImageNet run
    (0.7, 0.999, 50_000, "ok"),
    (0.0, 0.5, 10, "fail"),  # 10 of 10 right may be luck
    (0.0, 0.5, 30, "ok"),
    (None, 0.9, 300, "unknown"),
    (0.1, None, 300, "unknown"),
    (0.0, 0.0, 300, "fail"),  # one class only: nothing was learned
  ],
)
def test_better_than_chance(error_rate, chance, num_examples, verdict):
  """A5: a result must beat chance on validation clearly, else it is told."""
  found = curves.better_than_chance(error_rate, chance, num_examples)
  assert found.verdict == verdict
  assert bool(found.advice) == (verdict != "ok")


def test_a_run_that_was_never_evaluated(tmp_path):
  """A5: a run directory without evaluations gives unknown, not an error."""
  (found,) = curves.check_run(rundir.RunDir(tmp_path))
  assert found.verdict == "unknown"
