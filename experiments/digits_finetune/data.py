"""Digits as odd or even, with the labels of 60 training images only."""

import importlib.resources
import io

import numpy as np

_PER_DIGIT = 6  # labelled training images of each digit


def load():
  """The splits of another labelling: label 1 for odd digits, 0 for even ones.

  Returns:
    "train", "valid" and "test", each {"image": uint8 [examples, 8, 8, 1], 0 to
    255; "label": int32 [examples]}. The images are those of the embedded
    digits; 60 of those for training are left, 300 to validate, 300 to test.
  """
  data = importlib.resources.files("jaxplay.data").joinpath("digits.npz")
  splits = {}
  with np.load(io.BytesIO(data.read_bytes())) as arrays:
    for split in ("train", "valid", "test"):
      image, digit = arrays[f"{split}_image"], arrays[f"{split}_label"]
      if split == "train":
        some = [np.flatnonzero(digit == d)[:_PER_DIGIT] for d in range(10)]
        image, digit = (
          a[np.sort(np.concatenate(some))] for a in (image, digit)
        )
      splits[split] = {
        # They have values from 0 to 16.
        "image": np.round(image[..., None] * (255 / 16)).astype(np.uint8),
        "label": (digit % 2).astype(np.int32),
      }
  return splits
