"""Makes the two small data sets of this folder: an npz of images, and a table.

    python experiments/own_parts/make_data.py [FOLDER]

images.npz: 16 x 16 pixels with two handwritten digits (those that jaxplay
embeds; UCI, 1998), each at a random place of its half; the label is whether one
of them is a 7, which 19% of the images have. 3,000 training, 1,000 validation
and 1,000 test images, made of the digits of the same split.

table.csv: 3,000 rows of eight numbers x0, ..., x7 and a target y, a smooth
function of five of them with noise of 0.1; in one row of ten y is off by up to
20, as if somebody had mistyped it. There are no splits: jaxplay holds out rows
for validation.
"""

import csv
import importlib.resources
import pathlib
import sys

import numpy as np

SIZES = {"train": 3000, "valid": 1000, "test": 1000}


def images(rng):
  """The arrays of images.npz: split_image, split_label."""
  path = importlib.resources.files("jaxplay.data").joinpath("digits.npz")
  with path.open("rb") as file:
    digits = dict(np.load(file))
  arrays = {}
  for split, number in SIZES.items():
    image = np.zeros((number, 16, 16, 1), np.uint8)
    pixels, labels = digits[f"{split}_image"], digits[f"{split}_label"]
    which = rng.integers(len(labels), size=(number, 2))
    places = rng.integers(9, size=(number, 2))
    for row, (pair, tops) in enumerate(zip(which, places, strict=True)):
      for half, (digit, top) in enumerate(zip(pair, tops, strict=True)):
        left = 8 * half
        image[row, top : top + 8, left : left + 8, 0] = 15 * pixels[digit]
    arrays[f"{split}_image"] = image
    arrays[f"{split}_label"] = (labels[which] == 7).any(1).astype(np.int32)
  return arrays


def table(rng):
  """The rows of table.csv, with a header."""
  x = rng.uniform(-1, 1, size=(3000, 8))
  y = np.sin(3 * x[:, 0]) + x[:, 1] * x[:, 2] + 2 * x[:, 3] ** 2 - x[:, 4]
  y += rng.normal(0, 0.1, len(y))
  mistyped = rng.uniform(size=len(y)) < 0.1
  y += mistyped * rng.uniform(-20, 20, len(y))
  yield [f"x{i}" for i in range(8)] + ["y"]
  for row, target in zip(x, y, strict=True):
    yield [f"{value:.6f}" for value in (*row, target)]


def main(folder):
  """Writes both files; they are the same on every machine."""
  folder.mkdir(parents=True, exist_ok=True)
  np.savez_compressed(folder / "images.npz", **images(np.random.default_rng(0)))
  with open(folder / "table.csv", "w", newline="") as file:
    csv.writer(file).writerows(table(np.random.default_rng(1)))
  print(f"wrote images.npz and table.csv to {folder}")


if __name__ == "__main__":
  here = pathlib.Path(__file__).parent / "data"
  main(pathlib.Path(sys.argv[1]) if sys.argv[1:] else here)
