"""Periodic evaluations on a sample, and the whole split at the end."""

import numpy as np
import pytest

from jaxplay import data, rundir
from jaxplay.analysis import curves
from jaxplay.training import population
from jaxplay.training import workload as workload_lib
from tests.training import runs

_KEYS = runs.overrides(
  model__width=8, eval_batch_size=72, max_train_steps=24, objective="valid/loss"
)
_SAMPLED = _KEYS | {"eval_examples": 100}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
  """A run with a sample of a third, and the same run without."""
  folder = tmp_path_factory.mktemp("both")
  runs.train_here(_SAMPLED, folder / "sampled")
  runs.train_here(_KEYS, folder / "whole")
  return folder / "sampled", folder / "whole"


def test_which_examples():
  """G10: the same for all; other data than the whole; nothing if too large."""
  config = runs.make_config(_KEYS)
  whole = workload_lib.load_dataset(config)
  one, other = data.sampled(whole, 100), data.sampled(whole, 100)
  index = one.splits["valid"].index
  np.testing.assert_array_equal(index, other.splits["valid"].index)
  assert len(np.unique(index)) == 100 and (np.diff(index) > 0).all()
  fetched = one.splits["valid"].fetch(np.arange(100))
  expected = whole.splits["valid"].fetch(index)
  np.testing.assert_array_equal(fetched["label"], expected["label"])
  assert data.identity(one, "valid") == data.identity(other, "valid")
  assert data.identity(one, "valid") != data.identity(whole, "valid")
  assert data.sampled(whole, 300) is data.sampled(whole, 0) is whole


def test_training_is_the_same_and_the_end_is_whole(both):
  """G10: the metrics of the whole split at the end are those of every run."""
  sampled, whole = (runs.lines(folder) for folder in both)
  assert [line["step"] for line in sampled] == [line["step"] for line in whole]
  for one, other in zip(sampled, whole, strict=True):
    assert one["train/loss"] == other["train/loss"]
  for line in sampled[:-1]:
    assert not any(name.startswith("valid_full") for name in line)
  for name in ("loss", "error_rate"):
    assert sampled[-1][f"valid_full/{name}"] == pytest.approx(
      whole[-1][f"valid/{name}"], rel=1e-5
    )
  status = rundir.RunDir(both[0]).status()
  best = status["best"]["step"]
  at_best = next(line for line in whole if line["step"] == best)
  assert status["full"]["step"] == best
  assert status["full"]["valid_full/loss"] == pytest.approx(
    at_best["valid/loss"], rel=1e-5
  )
  assert status["chance"]["num_valid"] == 100


def test_examples_are_those_of_the_sample(both):
  """G10, G11: their costs are those of the same examples of the whole."""
  sampled, whole = map(runs.examples, both)
  assert sampled["data"] != whole["data"]
  config = runs.make_config(_SAMPLED)
  dataset = data.sampled(workload_lib.load_dataset(config), 100)
  index = dataset.splits["valid"].index
  np.testing.assert_allclose(
    sampled["cost_last"], whole["cost_last"][index], rtol=1e-4, atol=1e-5
  )


def test_it_is_checked(both):
  """G10: by objective and labels; a run without a sample has no finding."""

  def found(folder):
    findings = curves.check_run(rundir.RunDir(folder))
    return [f for f in findings if f.check == "sampled_evaluation"]

  (one,) = found(both[0])
  assert one.evidence["num_examples"] == 100
  has_both = {"p_objective", "p_labels"} <= one.evidence.keys()
  assert has_both or one.verdict == "unknown"
  assert one.evidence["share"] == pytest.approx(1 / 3)
  assert 0 <= one.evidence["p_labels"] <= 1
  assert found(both[1]) == []


@pytest.mark.slow
def test_resumed_is_uninterrupted(both, tmp_path):
  """G10, G7: to the bit."""
  runs.train_here(_SAMPLED, tmp_path, 12, runs.preempt)
  runs.train_here(_SAMPLED, tmp_path)
  runs.assert_same(runs.lines(tmp_path), runs.lines(both[0]))
  one, other = (rundir.RunDir(f).status()["full"] for f in (tmp_path, both[0]))
  assert one == other


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["one device", "population"])
def test_on_any_layout(both, tmp_path, kind):
  """G10, G4, N5: a run on one device, and a trial of a population."""
  folder = tmp_path / "trials" / "0000"
  if kind == "one device":
    runs.train_here(_SAMPLED | {"mesh.data": 1}, folder)
  else:
    config = runs.make_config(_SAMPLED)
    run = rundir.RunDir(folder)
    run.create()
    group = population.Populations([config] * 2, print)
    other = rundir.RunDir(tmp_path / "trials" / "0001")
    other.create()
    saved = tmp_path / "populations" / "0" / "checkpoints"
    assert group.train([config] * 2, [run, other], saved, lambda statuses: None)
  runs.assert_close(runs.lines(folder), runs.lines(both[0]), 2e-3, 2e-3)
  assert rundir.RunDir(folder).status()["full"].keys() == (
    rundir.RunDir(both[0]).status()["full"].keys()
  )
