"""Studies that others published are read and judged."""

import numpy as np
import pytest

from jaxplay.analysis import checklist
from tests.analysis import published

pytestmark = pytest.mark.skipif(
  not published.studies(), reason="the published runs are not here"
)


@pytest.fixture(scope="module")
def studies():
  return {
    f"{path.parent.name}/{path.name}": published.read(path)
    for path in published.studies()
  }


def test_all_trials_are_read(studies):
  """Thirty trials of six studies, each with its objective and its points."""
  assert len(studies) == 6
  assert sum(len(study.trials) for study in studies.values()) == 30
  for name, study in studies.items():
    for trial in study.trials:
      steps, values = trial.curves[study.objective]
      assert (np.diff(steps) > 0).all() and np.isfinite(values).all(), name
      assert trial.num_valid > 0 and trial.status == "completed"
      assert trial.point.keys() == {p.label for p in study.space.parameters}
      assert np.isfinite(study.value(trial))


def test_the_best_is_best_by_the_workloads_metric(studies):
  """A maximized metric ranks from high to low, an error from low to high."""
  for study in studies.values():
    values = [study.value(trial) for trial in study.ranked]
    rising = study.objective in ("valid/wer",)
    assert values == sorted(values, reverse=not rising)


def test_they_are_judged(studies):
  """Each check says something of each study, and nothing is raised."""
  for name, study in studies.items():
    findings = checklist.check_study(study)
    assert findings, name
    for found in findings:
      assert found.verdict in ("ok", "warn", "fail", "unknown"), name


def test_ordinary_runs_raise_few_alarms(studies):
  """D14: a gradient norm that falls from its start, and a rate not logged."""
  early = []
  for study in studies.values():
    for run in checklist.check_runs(study).values():
      early.append(run["early_instability"].verdict)
      assert run["mid_training_instability"].verdict != "warn"
    # What decays, or has an unknown schedule, or stopped at its target, is no
    # reason to train longer or less.
    verdicts = {f.check: f.verdict for f in checklist.check_study(study)}
    for check in ("max_train_steps", "compute_bound"):
      assert verdicts[check] in ("ok", "unknown")
  assert early.count("warn") <= 0.05 * len(early)
  assert early.count("ok") > 0.5 * len(early)
