"""Makes jaxplay/data/digits.npz from the digits that scikit-learn ships.

The split is fixed and stratified by class: 300 test, 300 valid, the other 1,197
train. Needs the `dev` extra: python tools/make_digits.py
"""

import pathlib

import numpy as np
from sklearn import datasets, model_selection


def main():
  digits = datasets.load_digits()
  images = digits.images.astype(np.uint8)
  labels = digits.target.astype(np.uint8)
  rest, test = model_selection.train_test_split(
    np.arange(len(labels)), test_size=300, stratify=labels, random_state=0
  )
  train, valid = model_selection.train_test_split(
    rest, test_size=300, stratify=labels[rest], random_state=0
  )
  arrays = {}
  for name, part in dict(train=train, valid=valid, test=test).items():
    arrays[f"{name}_image"], arrays[f"{name}_label"] = (
      images[part],
      labels[part],
    )
  folder = pathlib.Path(__file__).resolve().parent.parent / "jaxplay" / "data"
  np.savez_compressed(folder / "digits.npz", **arrays)


if __name__ == "__main__":
  main()
