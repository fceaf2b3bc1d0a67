"""Made-up JPEG files with the median size of ImageNet's, as a TFDS data set."""

import functools
import io

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image

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
