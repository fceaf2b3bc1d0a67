"""A TFDS set of texts small enough to be made by a test, without TensorFlow."""

import numpy as np
import tensorflow_datasets as tfds

SPLITS = {"train": 23, "validation": 9, "test": 6}
FEATURES = {
  "plain": ("text", "about"),
  "pairs": ("article", "abstract"),  # the first is to be trained on
  "numbers": (),
}


class TinyTexts(tfds.core.GeneratorBasedBuilder):
  """Short texts, one of which is empty, beside others and a number."""

  url_infos = {}  # See tiny_tfds.py.
  VERSION = tfds.core.Version("1.0.0")
  BUILDER_CONFIGS = [tfds.core.BuilderConfig(name=kind) for kind in FEATURES]

  def _info(self):
    texts = FEATURES[self.builder_config.name]
    return tfds.core.DatasetInfo(
      builder=self,
      features=tfds.features.FeaturesDict(
        {
          "number": tfds.features.Scalar(np.int64),
          **{name: tfds.features.Text() for name in texts},
        }
      ),
      supervised_keys=texts or None,
    )

  def _split_generators(self, dl_manager):
    return {split: self._generate_examples(split) for split in SPLITS}

  def _generate_examples(self, split):
    names = FEATURES[self.builder_config.name]
    for i, content in enumerate(contents(split)):
      # The other text is no text: it must never be looked at.
      texts = dict(zip(names, (content, b"\xff\0"), strict=bool(names)))
      yield i, {"number": i, **texts}


def contents(split):
  """What is written, in another order: bytes, of which one are none."""
  return [f"{split} {i}: ä\n".encode() for i in range(1, SPLITS[split])] + [b""]


def prepare(folder, kind):
  """Writes the set; afterwards `tfds:tiny_texts/<kind>` can be loaded."""
  builder = TinyTexts(
    data_dir=str(folder), config=kind, file_format="array_record"
  )
  builder.download_and_prepare()
