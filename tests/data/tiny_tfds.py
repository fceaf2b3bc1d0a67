"""TFDS image sets small enough to be made by a test, without TensorFlow."""

import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

SPLITS = {"train": 23, "validation": 9, "test": 6}
NUM_CLASSES = 5
SHAPES = {
  "fixed": (6, 8, 3),
  "gray": (6, 6, 1),
  "varying": (None, None, 3),
  "deep": (6, 6, 1),  # of 16 bits
  "unlabelled": (6, 8, 3),
  "hidden": (6, 8, 3),  # test labels are not published: -1
  "partial": (6, 8, 3),  # every fourth training label is not known
}


class TinyTfds(tfds.core.GeneratorBasedBuilder):
  """Random pictures: of one size, of many, gray, deep, or without a label."""

  # Nothing to download. TFDS 4.9.10 would look for a file of checksums by means
  # of importlib_resources, which it needs but does not require
  # (github.com/tensorflow/datasets/issues/11212).
  url_infos = {}
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=kind) for kind in SHAPES]

  def _info(self):
    kind = self.builder_config.name
    features = {
      "image": tfds.features.Image(shape=SHAPES[kind], dtype=_dtype(kind)),
      "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
      # Sorts before "image", and nothing can decode it.
      "depth": tfds.features.Image(shape=(6, 6, 1)),
    }
    if kind == "unlabelled":
      del features["label"]
    # Directly: a folder of metadata is looked for by importlib_resources too.
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in SPLITS}

  def _generate_examples(self, split):
    kind = self.builder_config.name
    images, labels = pictures(kind, split)
    for i, (image, label) in enumerate(zip(images, labels, strict=True)):
      # As a file: TFDS would encode an array by means of TensorFlow.
      file = io.BytesIO()
      Image.fromarray(image.squeeze()).save(file, format="PNG")
      file.seek(0)
      record = {"image": file, "depth": io.BytesIO(b"no picture at all")}
      yield i, record if kind == "unlabelled" else record | {"label": label}


def pictures(kind, split):
  """What is written: a list of images and one of labels.

  TFDS shuffles records when it writes them.
  """
  rng = np.random.default_rng(list(SPLITS).index(split))
  images, labels = [], []
  for _ in range(SPLITS[split]):
    shape = [size or int(rng.integers(5, 12)) for size in SHAPES[kind]]
    largest = np.iinfo(_dtype(kind)).max
    images.append(rng.integers(0, largest, shape).astype(_dtype(kind)))
    labels.append(int(rng.integers(NUM_CLASSES)))
  if kind == "hidden" and split == "test":
    labels = [-1] * len(labels)
  if kind == "partial" and split == "train":
    labels[::4] = [-1] * len(labels[::4])
  return images, labels


def prepare(folder, kind="fixed"):
  """Writes the set; afterwards `tfds:tiny_tfds/<kind>` can be loaded."""
  builder = TinyTfds(
    data_dir=str(folder), config=kind, file_format="array_record"
  )
  builder.download_and_prepare()


def _dtype(kind):
  return np.uint16 if kind == "deep" else np.uint8


class TinyImagenet(tfds.core.GeneratorBasedBuilder):
  """JPEG photographs in the schema of imagenet2012, of sizes as they come."""

  url_infos = {}
  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = {
      "image": tfds.features.Image(encoding_format="jpeg"),
      "label": tfds.features.ClassLabel(num_classes=NUM_CLASSES),
      "file_name": tfds.features.Text(),
    }
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      supervised_keys=("image", "label"),
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in PHOTOGRAPHS}

  def _generate_examples(self, split):
    for i in range(PHOTOGRAPHS[split]):
      file, label = photograph(split, i)
      record = {"image": io.BytesIO(file), "label": label}
      yield i, record | {"file_name": f"n{label:08d}_{i}.JPEG"}


PHOTOGRAPHS = {"train": 60, "validation": 12}


def photograph(split, i):
  """(JPEG file, label) of a made-up scene, whose label is its color."""
  rng = np.random.default_rng([list(PHOTOGRAPHS).index(split), i])
  height, width = rng.integers(40, 120, 2)
  label = int(rng.integers(NUM_CLASSES))
  coarse = rng.integers(0, 120, (6, 6, 3)).astype(np.uint8)
  coarse[..., label % 3] += np.uint8(60 + 30 * (label // 3))
  file = io.BytesIO()
  picture = Image.fromarray(coarse).resize((int(width), int(height)))
  picture.save(file, format="JPEG", quality=90)
  return file.getvalue(), label


def prepare_photographs(folder):
  """Writes the set; afterwards `tfds:tiny_imagenet` can be loaded."""
  builder = TinyImagenet(data_dir=str(folder), file_format="array_record")
  builder.download_and_prepare()


class TinyTable(tfds.core.GeneratorBasedBuilder):
  """Numbers of all kinds: nested, vectors, a class, and text to be left out."""

  url_infos = {}
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [
    tfds.core.BuilderConfig(name=kind) for kind in ("supervised", "plain")
  ]

  def _info(self):
    is_supervised = self.builder_config.name == "supervised"
    features = {
      "columns": {
        "b": np.float32,
        "a": tfds.features.Scalar(np.float64),
        "note": tfds.features.Text(),
      },
      "vector": tfds.features.Tensor(shape=(4,), dtype=np.float32),
      "tags": tfds.features.Tensor(shape=(3,), dtype=np.bool_),
      "quality": np.int32,
      "image": tfds.features.Image(shape=(5, 6, 3)),
      "ragged": tfds.features.Tensor(shape=(None,), dtype=np.float32),
    }
    if is_supervised:
      del features["image"]
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(features),
      supervised_keys=("columns", "quality") if is_supervised else None,
    )

  def _split_generators(self, dl_manager):
    return {
      split: self._generate_examples(split) for split in ("train", "validation")
    }

  def _generate_examples(self, split):
    for i, row in enumerate(table(split)):
      file = io.BytesIO()
      Image.fromarray(row["image"]).save(file, format="PNG")
      file.seek(0)
      record = {
        "columns": {"a": row["a"], "b": row["b"], "note": "?"},
        "image": file,
        "ragged": np.zeros(i % 3, np.float32),
        **{name: row[name] for name in ("vector", "tags", "quality")},
      }
      if self.builder_config.name == "supervised":
        del record["image"]
      yield i, record


def table(split):
  """What is written of a split of `TinyTable`, in another order."""
  rng = np.random.default_rng(len(split))
  return [
    {
      "a": float(rng.normal()),
      "b": float(np.float32(rng.normal())),
      "vector": rng.normal(size=4).astype(np.float32),
      "tags": rng.integers(0, 2, 3).astype(bool),
      "quality": i,
      "image": rng.integers(0, 255, (5, 6, 3)).astype(np.uint8),
    }
    for i in range({"train": 12, "validation": 5}[split])
  ]
