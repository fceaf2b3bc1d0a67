"""Reading photographs made up with the median size of ImageNet's."""

import collections
import functools
import io
import tempfile
from typing import Any

import grain
import numpy as np
import tensorflow_datasets as tfds
from benchmarks import common
from PIL import Image

from jaxplay import data
from jaxplay.data import images

NUM_EXAMPLES = 400
_HEIGHT, _WIDTH = 375, 500


class Photographs(tfds.core.GeneratorBasedBuilder):
  """One split, "train"."""

  url_infos: dict = {}  # TFDS would look for a file of checksums
  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    features = {
      "image": tfds.features.Image(encoding_format="jpeg"),
      "label": tfds.features.ClassLabel(num_classes=5),
    }
    return tfds.core.DatasetInfo(
      builder=self, features=tfds.features.FeaturesDict(features)
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for i in range(NUM_EXAMPLES):
      yield i, {"image": io.BytesIO(photograph(i)), "label": i % 5}


def prepare(folder: str) -> None:
  """Writes the set; afterwards `tfds:photographs` can be loaded."""
  Photographs(
    data_dir=folder, file_format="array_record"
  ).download_and_prepare()


@functools.cache
def photograph(i: int) -> bytes:
  """Returns a JPEG file that is as hard to decode as a photograph."""
  rng = np.random.default_rng(i)
  coarse = rng.integers(0, 255, (_HEIGHT // 8, _WIDTH // 8, 3))
  image = Image.fromarray(coarse.astype(np.uint8)).resize((_WIDTH, _HEIGHT))
  pixels = np.asarray(image, float)
  pixels = pixels + rng.normal(0, 12, pixels.shape)
  file = io.BytesIO()
  noisy = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
  noisy.save(file, format="JPEG", quality=90)
  return file.getvalue()


def input_pipeline(rounds: int) -> None:
  """Photographs per second and core: read, cropped, decoded and resized to 224.

  Made-up JPEG files in array_record, by our reader on one core, against PIL in
  a plain loop and against grain reading one example at a time with the same
  decoder; and the parts of our time.
  """
  number = 256
  rows = np.arange(number)
  words = images.draw_crops(0, np.int64(0), rows)
  files = [photograph(i) for i in range(number)]
  with tempfile.TemporaryDirectory() as folder:
    prepare(folder)
    source: Any = data.load(
      "tfds:photographs",
      data_dir=folder,
      splits=dict.fromkeys(("train", "valid", "test"), "train"),
      image_size=224,
      synthetic={},
    ).splits["train"]

    def ours():
      for i in range(0, number, 64):
        source.fetch(rows[:64] + i, words[rows[:64] + i])

    def plain():
      for file, word in zip(files, words, strict=True):
        with Image.open(io.BytesIO(file)) as image:
          width, height = image.size
          box = images.crop_box(word, height, width)
          np.asarray(image.convert("RGB").resize((224, 224), 2, box=box))

    def by_grain():
      options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
      examples = grain.MapDataset.range(number).map(
        lambda i: source.fetch(np.array([i]), words[i : i + 1])
      )
      for _ in examples.to_iter_dataset(options):
        pass

    def reading():
      source.source.__getitems__(rows.tolist())

    def decoding():
      for file, word in zip(files, words, strict=True):
        images.decode(file, 224, 3, words=word)

    ratios = collections.defaultdict(list)
    for _ in range(rounds):
      seconds = common.seconds_of(ours)
      ratios["images per second and core"].append(number / seconds)
      for what, function in (
        ("time of PIL in a loop / ours", plain),
        ("time of grain, one by one / ours", by_grain),
        ("share of reading records", reading),
        ("share of decoding and resizing", decoding),
      ):
        ratios[what].append(common.seconds_of(function) / seconds)
  for what, values in ratios.items():
    common.show(f"input, {what}", values)
