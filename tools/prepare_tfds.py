"""Downloads a TFDS data set and writes it as records that jaxplay reads.

    python tools/prepare_tfds.py imagenet2012 --data_dir=DIR
    python tools/prepare_tfds.py c4/en --data_dir=gs://BUCKET/tfds

Once for each set, on one machine: the only thing here that downloads anything.
Most sets need TensorFlow for it (pip install tensorflow), training does not.
ImageNet's archives have to be fetched by hand into DIR/downloads/manual; TFDS
says which. The records are of the format array_record, which any of them can be
read from without the others, as an order that is a function of the step asks.
"""

import argparse
import sys


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("name", help="such as cifar10, or c4/en:3.0.1")
  parser.add_argument(
    "--data_dir",
    required=True,
    help="folder or bucket, config.dataset.data_dir",
  )
  options = parser.parse_args()

  import tensorflow_datasets as tfds

  try:
    builder = tfds.builder(
      options.name, data_dir=options.data_dir, file_format="array_record"
    )
  except tfds.core.DatasetNotFoundError as error:
    parser.error(str(error).strip().split("\n")[0])
  builder.download_and_prepare()
  for name, split in builder.info.splits.items():
    size = split.num_bytes / 2**30
    print(f"{name}: {split.num_examples:,} examples, {size:.2f} GiB")
  return 0


if __name__ == "__main__":
  sys.exit(main())
