"""Training on data sets in files of the user."""

import numpy as np
import pytest

import jaxplay
from jaxplay import rundir
from jaxplay.training import workload as workload_lib
from tests.data import own_sets
from tests.training import runs


def _keys(path, **extra):
  keys = runs.overrides(batch_size=8, eval_batch_size=16, max_train_steps=16)
  return keys | {"dataset.name": f"npz:{path}", "model.width": 16} | extra


@pytest.mark.slow
def test_trains_on_arrays_of_the_user(tmp_path):
  """G2, G7: streamed, preempted and resumed on equal data, as on the device."""
  path = tmp_path / "set.npz"
  pictures = own_sets.pictures()
  np.savez(path, **pictures)
  keys = _keys(path, **{"dataset.augment": "crop_flip"})
  runs.train_here(keys, tmp_path / "device")
  streamed, run = keys | {"dataset.device_bytes": 0}, tmp_path / "run"
  status, _ = runs.train_here(streamed, run, 8, runs.preempt)
  assert status["status"] == "preempted"
  np.savez(path, **pictures | {"image": pictures["image"] ^ 1})
  with pytest.raises(jaxplay.UserError, match="npz:.* hash .* started with"):
    runs.train_here(streamed, run)
  np.savez(path, **pictures)
  status, _ = runs.train_here(streamed, run)
  assert status["status"] == "completed"
  runs.assert_close(
    runs.lines(tmp_path / "device"), runs.lines(run), 1e-3, 1e-5
  )
  facts = rundir.RunDir(run).provenance()["dataset"]
  assert facts["splits"]["train"]["examples"] == 27
  assert facts["held_out"] == 0.1


def test_a_test_split_is_missing_until_it_is_asked_for(tmp_path):
  """C10: then, before a step is made."""
  path = tmp_path / "set.npz"
  np.savez(path, **own_sets.pictures())
  keys = _keys(path, max_train_steps=4)
  with pytest.raises(jaxplay.UserError, match="report_test .* no test split"):
    runs.train_here(keys | {"report_test": True}, tmp_path / "run")
  assert not (tmp_path / "run").exists()
  status, _ = runs.train_here(keys, tmp_path / "run")
  assert status["status"] == "completed"


def test_plans_read_files_of_the_user(tmp_path):
  """Data: they are here, and say what shapes a model must have."""
  path = tmp_path / "set.npz"
  np.savez(path, **own_sets.pictures())
  config = runs.make_config(_keys(path))
  planned = workload_lib.make_workload(config, planned=True)
  assert planned.dataset.example["image"] == ((5, 6, 3), "uint8")
  assert planned.dataset.num_classes == 3


def test_language_models_train_on_tokens_of_the_user(tmp_path):
  """Data: rows of tokens, instead of text."""
  path = tmp_path / "set.npz"
  tokens = np.random.default_rng(0).integers(0, 50, (30, 9))
  np.savez(path, tokens=tokens)
  keys = runs.LM | {"dataset.name": f"npz:{path}"}

  def load(sequence_length, vocab_size):
    lengths = {"dataset.sequence_length": sequence_length}
    config = runs.make_config(
      keys | lengths | {"dataset.vocab_size": vocab_size}
    )
    return workload_lib.load_dataset(config)

  dataset = load(8, 0)
  assert dataset.example == {"tokens": ((9,), "int32")}
  assert dataset.num_classes == tokens.max() + 1
  assert load(8, 128).num_classes == 128
  with pytest.raises(jaxplay.UserError, match="sequence_length is 16, .* 8"):
    load(16, 0)
  with pytest.raises(jaxplay.UserError, match="vocab_size is 20, .* 50"):
    load(8, 20)
