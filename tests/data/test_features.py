"""TFDS sets of other features than an image and a class."""

import numpy as np
import pytest

import jaxplay
from jaxplay import data
from tests.data import tiny_tfds

SPLITS = {"train": "train", "valid": "validation", "test": "test"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder with both configs of `TinyTable` prepared."""
  folder = tmp_path_factory.mktemp("tfds")
  for kind in ("supervised", "plain"):
    builder = tiny_tfds.TinyTable(
      data_dir=str(folder), config=kind, file_format="array_record"
    )
    builder.download_and_prepare()
  return str(folder)


def _load(folder, kind="plain", **kwargs):
  return data.load(
    f"tfds:tiny_table/{kind}" if "/" not in kind else kind,
    **dict(
      data_dir=folder,
      splits=SPLITS,
      image_size=0,
      synthetic={},
      with_test=False,
      task="regression",
    )
    | kwargs,
  )


def _by_quality(source, quality):
  """The examples of a split, in the order that they were written."""
  got = source.fetch(np.arange(source.num_examples))
  order = np.argsort(quality(got))
  return {name: array[order] for name, array in got.items()}


def _column(split, name):
  return np.array([row[name] for row in tiny_tfds.table(split)])


@pytest.mark.parametrize("split", ["train", "validation"])
def test_supervised_keys_are_used(folder, split):
  """Data: a nested feature of numbers is a row of inputs, without text."""
  made = _load(folder, "supervised")
  assert made.example == {
    "inputs": ((2,), "float32"),
    "target": ((), "float32"),
  }
  assert list(made.splits) == ["train", "valid"] and made.num_classes == 1
  assert made.facts["version"] == "tiny_table/supervised/1.0.0"
  source = made.splits[split.removesuffix("ation")]
  got = _by_quality(source, lambda batch: batch["target"])
  inputs = np.stack([_column(split, "b"), _column(split, "a")], 1)
  np.testing.assert_array_equal(got["inputs"], inputs.astype(np.float32))
  np.testing.assert_array_equal(got["target"], _column(split, "quality"))


def test_features_that_the_config_names(folder):
  """Data: inputs and targets, of any kind that fits the task."""
  made = _load(folder, inputs=("vector",), targets=("quality",))
  got = _by_quality(made.splits["train"], lambda batch: batch["target"])
  np.testing.assert_array_equal(got["inputs"], _column("train", "vector"))
  scalars = ("columns/a", "columns/b")
  made = _load(folder, "supervised", inputs=("vector",), targets=scalars)
  assert made.example["target"] == ((2,), "float32") and made.num_classes == 2
  made = _load(folder, targets=("tags",), task="multi_label")
  assert made.example == {
    "image": ((5, 6, 3), "uint8"),
    "label": ((3,), "bool"),
  }
  got = made.splits["train"].fetch(np.arange(12))
  written = {
    row["image"].tobytes(): row["tags"] for row in tiny_tfds.table("train")
  }
  for image, tags in zip(got["image"], got["label"], strict=True):
    assert tags.tolist() == written[image.tobytes()].tolist()
  made = _load(folder, targets=("quality",), image_size=4)
  assert made.example["image"] == ((4, 4, 3), "uint8")


def test_images_with_classes_stay_as_they_were(tiny_tfds_dir):
  """Data: other tasks read them, too; labels are checked as they are read."""
  name = "tfds:tiny_tfds/fixed"
  usual = _load(tiny_tfds_dir, name, task="classification")
  mine = _load(tiny_tfds_dir, name, task="task.py:Mine")
  assert mine.example == usual.example
  assert mine.num_classes == usual.num_classes == tiny_tfds.NUM_CLASSES
  index = np.arange(23)
  for name, array in usual.splits["train"].fetch(index).items():
    np.testing.assert_array_equal(
      array, mine.splits["train"].fetch(index)[name]
    )


def test_a_missing_test_split_is_no_error(folder):
  """C10: until it is asked for."""
  with pytest.raises(jaxplay.UserError, match="config.dataset.test_split"):
    _load(folder, "supervised", with_test=True)


@pytest.mark.parametrize(
  "kind, kwargs, parts",
  [
    ("plain", {}, ["config.dataset.targets", "'vector'", "ClassLabel"]),
    ("plain", {"targets": ("ragged",)}, ["'ragged'", "'vector'"]),
    ("plain", {"targets": ("image",)}, ["'image'"]),
    ("plain", {"targets": ("quality", "tags")}, ["'tags'", "(3,)"]),
    ("supervised", {"task": "classification"}, ["'quality'", "regression"]),
    ("plain", {"targets": ("vector",), "task": "multi_label"}, ["float32"]),
    ("supervised", {"augment": "shift"}, ["'shift'", "inputs"]),
  ],
)
def test_features_that_cannot_be_used(folder, kind, kwargs, parts):
  """Errors: a sentence names the feature and those that there are."""
  with pytest.raises(jaxplay.UserError) as caught:
    _load(folder, kind, **kwargs)
  message = str(caught.value)
  assert "\n" not in message and "tiny_table" in message
  for part in parts:
    assert part in message, message
