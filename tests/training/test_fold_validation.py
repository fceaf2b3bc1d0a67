"""E6: a final model that is trained on the validation examples as well."""

import csv

import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay import data, finding, rundir
from jaxplay.analysis import compare, curves
from jaxplay.scaling import ladder
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib
from jaxplay.training import evaluate, landscape, population, train, weights
from jaxplay.training import workload as workload_lib
from tests.data import own_sets
from tests.training import runs

FOLD = {"dataset.fold_validation": True}
KEYS = runs.overrides(max_train_steps=24, **{"dataset.fold_validation": True})
_FUNCTION = """
import numpy as np


def load():
  inputs = np.arange(60, dtype=np.float32).reshape(30, 2)
  splits = {"train": (0, 20), "valid": (20, 25), "test": (25, 30)}
  return {
    split: {"x": inputs[a:b], "y": np.arange(a, b) % 5}
    for split, (a, b) in splits.items()
  }
"""


def _csv(folder):
  with open(folder / "table.csv", "w", newline="") as file:
    rows = [{"a": i, "b": i * i % 7, "k": "xy"[i % 2]} for i in range(40)]
    writer = csv.DictWriter(file, ["a", "b", "k"])
    writer.writeheader()
    writer.writerows(rows)
  return f"csv:{folder / 'table.csv'}"


def _npz(folder):
  np.savez(folder / "set.npz", **own_sets.pictures())
  return f"npz:{folder / 'set.npz'}"


def _tokens(folder):
  tokens = np.random.default_rng(0).integers(0, 50, (30, 17))
  np.savez(folder / "set.npz", tokens=tokens)
  return f"npz:{folder / 'set.npz'}"


def _function(folder):
  (folder / "data.py").write_text(_FUNCTION)
  return f"{folder / 'data.py'}:load"


_SETS = {
  "digits": (lambda folder: "digits", {}),
  "synthetic": (
    lambda folder: "synthetic",
    {"dataset.num_train": 40, "dataset.num_valid": 9, "dataset.num_test": 5},
  ),
  # Streamed, and cropped where they are read.
  "crops": (
    lambda folder: "synthetic",
    {
      "dataset.num_train": 40,
      "dataset.num_valid": 9,
      "dataset.augment": "resized_crop",
    },
  ),
  "table": (_csv, {"dataset.targets": ("k",), "dataset.standardize": True}),
  "images": (_npz, {}),
  "tokens": (_tokens, runs.LM),
  "function": (_function, {}),
}


def _config(name, folder, **extra):
  make, keys = _SETS[name]
  config = config_lib.base()
  named = {"dataset.name": make(folder)} | {
    key: value for key, value in keys.items() if key != "dataset.name"
  }
  for key, value in (named | {"batch_size": 4} | extra).items():
    config_lib.override(config, key, value)
  config_lib.validate(config)
  return config


def _all(source, **more):
  return source.fetch(np.arange(source.num_examples), **more)


@pytest.mark.parametrize("name", _SETS)
def test_an_epoch_is_every_example_once(tmp_path, name):
  """E6: of training and of validation, and of nothing else."""
  usual = workload_lib.load_dataset(_config(name, tmp_path))
  config = _config(name, tmp_path, **FOLD)
  folded = workload_lib.load_dataset(config)
  assert "valid" not in folded.splits
  train, valid = (usual.splits[split] for split in ("train", "valid"))
  number = train.num_examples + valid.num_examples
  source = folded.splits["train"]
  assert source.num_examples == number
  facts = folded.facts["fold_validation"]
  assert facts == {"train": number, "valid": valid.num_examples}
  # The order of an epoch: each index once, whatever the seed.
  order = data.train_examples(
    seed=3,
    step=0,
    num_steps=number,
    batch_size=1,
    num_examples=number,
    augment="none",
    augment_pixels=0,
  )["index"]
  assert sorted(order[:, 0]) == list(range(number))
  # And what an index is.
  parts, whole = (_all(train), _all(valid)), _all(source)
  for feature, array in whole.items():
    expected = np.concatenate([part[feature] for part in parts])
    np.testing.assert_array_equal(array, expected)
    mixed = source.fetch(order[:, 0])[feature]
    np.testing.assert_array_equal(mixed, expected[order[:, 0]])
  if "test" in usual.splits:
    ours, theirs = _all(folded.splits["test"]), _all(usual.splits["test"])
    runs.assert_same(ours, theirs)
  # What identifies the data is what it was.
  for fact in ("name", "sha256", "num_classes"):
    assert folded.facts[fact] == usual.facts[fact]


def test_crops_belong_to_their_examples(tmp_path):
  """E6: examples of both parts are cropped as in a set of their own."""
  usual = workload_lib.load_dataset(_config("crops", tmp_path))
  folded = workload_lib.load_dataset(_config("crops", tmp_path, **FOLD))
  index = np.array([45, 3, 48, 0])
  crops = data.train_examples(
    seed=0,
    step=0,
    num_steps=1,
    batch_size=4,
    num_examples=49,
    augment="resized_crop",
    augment_pixels=0,
  )["crops"][0]
  ours = folded.splits["train"].fetch(index, crops=crops)["image"]
  for i, (split, at) in enumerate(
    (("valid", 5), ("train", 3), ("valid", 8), ("train", 0))
  ):
    alone = usual.splits[split].fetch(np.array([at]), crops=crops[i : i + 1])
    np.testing.assert_array_equal(ours[i], alone["image"][0])


@pytest.mark.slow
def test_however_it_is_computed(tmp_path):
  """E6: on eight devices as on one, though streamed, stopped and resumed, and
  in a population: the same lines, the same test metrics, of the last step."""
  keys = KEYS | {"report_test": True, "model.norm": "batch"}
  one = keys | {"mesh.data": 1}
  status, _ = runs.train_here(one, tmp_path / "one")
  expected = runs.lines(tmp_path / "one")
  assert not any("valid" in name for line in expected for name in line)
  assert status["status"] == "completed" and status["best"] is None
  assert status["test"]["step"] == 24
  streamed = keys | {"dataset.device_bytes": 0}
  stopped, _ = runs.train_here(streamed, tmp_path / "far", 8, runs.preempt)
  assert stopped["status"] == "preempted"
  runs.train_here(streamed, tmp_path / "far")
  trial = rundir.RunDir(tmp_path / "trials" / "0000")
  trial.create()
  config = runs.make_config(one)
  group = population.Populations([config], lambda sentence: None)
  where = tmp_path / "populations" / "0" / "checkpoints"
  assert group.train([config], [trial], where, lambda statuses: None)
  assert trial.status()["best"] is None
  for run in (tmp_path / "far", trial.path):
    runs.assert_close(runs.lines(run), expected, 1e-3, 1e-4)
    test = rundir.RunDir(run).status()["test"]
    runs.assert_close(test, status["test"], 1e-3, 1e-4)
  # The state of the last step is copied out, as that of a usual trial.
  train.train(config, str(trial.path), runs.Quiet())
  assert (trial.checkpoints / "24").is_dir()


@pytest.mark.slow
def test_the_last_step_is_the_result(tmp_path):
  """E6: it is tested, exported, and started from; also asked for later."""
  run = tmp_path / "run"
  keys = KEYS | {"max_train_steps": 12, "export": True}
  status, _ = runs.train_here(keys, run)
  assert "test" not in status and evaluate.exported(rundir.RunDir(run).export)
  exported = dict(np.load(run / "export" / "weights.npz"))
  last = runs.last_state(keys, run)
  kernels = [name for name in exported if "kernel" in name]
  for name in kernels:
    (ours,) = (
      array
      for path, array in last.items()
      if path == f"params/{name.removeprefix('0/')}"
    )
    np.testing.assert_array_equal(exported[name], ours)
  status, _ = runs.train_here(keys | {"report_test": True}, run)
  assert status["test"]["step"] == 12 and status["best"] is None
  weights.write_safetensors(weights.read(run)[0], tmp_path / "w.safetensors")
  _, told = runs.train_here(
    keys | {"init_from": str(run), "max_train_steps": 4}, tmp_path / "next"
  )
  assert any("step 12" in sentence for sentence in told)


def test_nothing_else_can_be_said_of_it(tmp_path):
  """E6: checks of validation are unknown, and it is compared with nothing."""
  run = tmp_path / "run"
  runs.train_here(KEYS, run)
  found = curves.check_run(rundir.RunDir(run))
  assert isinstance(found, finding.Findings)
  assert [f.check for f in found] == list(curves.CHECKS)
  of_validation = [f for f in found if f.subject.startswith("valid")]
  assert {f.check for f in of_validation} >= {"overfitting", "still_improving"}
  assert {f.verdict for f in of_validation} == {"unknown"}
  assert all("fold_validation" in f.advice for f in of_validation)
  with pytest.raises(jaxplay.UserError, match="fold_validation"):
    compare.read(run)
  with pytest.raises(jaxplay.UserError, match="fold_validation"):
    landscape.Landscape(runs.make_config(KEYS), "valid")
  of_train = landscape.Landscape(runs.make_config(KEYS), "train")
  assert of_train.num_examples > 0
  # Another config than the same without.
  with pytest.raises(jaxplay.UserError, match="fold_validation"):
    runs.train_here(KEYS | {"dataset.fold_validation": False}, run)
  assert any(
    "fold_validation" in note
    for note in config_lib.notes(runs.make_config(KEYS))
  )


@pytest.mark.parametrize(
  "train, valid, test, shares",
  [
    ("train", "validation", "test", ""),
    ("train", "test[:50%]", "test[50%:]", ""),
    ("train[:20]", "train[20:]", "test", ""),
    ("train", "test", "test", "test_split"),
    ("train", "test[:2]", "test[1:]", "test_split"),
    ("train", "train[20:]+validation", "test", "train_split"),
  ],
)
def test_tfds_splits_are_apart(tiny_tfds_dir, train, valid, test, shares):
  """E6: nothing is trained on twice, or tested on."""
  keys = KEYS | {
    "dataset.name": "tfds:tiny_tfds/fixed",
    "dataset.data_dir": tiny_tfds_dir,
    "dataset.train_split": train,
    "dataset.valid_split": valid,
    "dataset.test_split": test,
    "report_test": True,
  }
  config = runs.make_config(keys)
  if shares:
    with pytest.raises(jaxplay.UserError, match=f"fold_validation .* {shares}"):
      workload_lib.load_dataset(config)
    return
  source = workload_lib.load_dataset(config).splits["train"]
  pictures = _all(source)["image"].reshape(source.num_examples, -1)
  assert len(np.unique(pictures, axis=0)) == source.num_examples


def test_refusals(tmp_path):
  """E6: where nothing could be selected, or the test set be trained on."""
  config = tmp_path / "config.py"
  config.write_text("from jaxplay.config import base as get_config\n")

  def study(objective, varied=None):
    return study_lib.load(
      study_lib.Study(
        goal="?",
        config=str(config),
        overrides={} if varied else FOLD,
        space=varied or {"hparams.learning_rate": space_lib.Float(0.1, 1)},
        num_trials=2,
        objective=objective,
      )
    )

  for objective in ("", "valid/loss", "final:valid/loss"):
    with pytest.raises(jaxplay.UserError, match="fold_validation"):
      study(objective)
  assert study("train/loss")
  varied = {"dataset.fold_validation": space_lib.Choice((True, False))}
  with pytest.raises(jaxplay.UserError, match="fold_validation"):
    study("", varied)
  write = "from jaxplay.scaling.ladder import Ladder\n\n\ndef get_ladder():\n"
  sizes = {f"w{n}": {"model.width": n} for n in (8, 16, 32)}
  given = f"goal='?', config='config.py', sizes={sizes}, steps=(9, 18)"
  overrides = {"objective": "valid/loss"} | FOLD
  (tmp_path / "ladder.py").write_text(
    f"{write}  return Ladder({given}, overrides={overrides})\n"
  )
  with pytest.raises(jaxplay.UserError, match="fold_validation"):
    ladder.load(str(tmp_path / "ladder.py"))
  mixtures = ((0, (("text:b", 1.0),)),)
  mixed = runs.LM | FOLD | {"dataset.mixtures": mixtures}
  with pytest.raises(jaxplay.UserError, match="fold_validation .* 'pythonlib'"):
    runs.make_config(mixed)
  x = np.arange(20.0).reshape(10, 2)
  held = {"valid_x": x[:4], "valid_y": np.arange(4) % 2}
  tested = {"test_x": x[:4], "test_y": np.arange(4) % 2}
  path = tmp_path / "same.npz"
  np.savez(path, train_x=x, train_y=np.arange(10) % 2, **held, **tested)
  keys = KEYS | {"dataset.name": f"npz:{path}", "report_test": True}
  with pytest.raises(jaxplay.UserError, match="fold_validation .* test split"):
    workload_lib.load_dataset(runs.make_config(keys))
