"""Arrays and sources of a user, small enough to be made by a test."""

import numpy as np

LABELS = np.array([0, 1, 2] * 10)


def arrays(seed=0, number=30):
  """Features of a split: 64-bit numbers, as numpy makes them."""
  rng = np.random.default_rng(seed)
  return {"x": rng.normal(size=(number, 4)), "y": LABELS[:number].copy()}


def pictures(seed=0, number=30):
  """uint8 images of 5 x 6 pixels, with labels."""
  rng = np.random.default_rng(seed)
  image = rng.integers(0, 256, (number, 5, 6, 3), dtype=np.uint8)
  return {"image": image, "label": LABELS[:number].copy()}


class OneByOne:
  """A random-access source: an example at a time."""

  def __init__(self, arrays):
    self.arrays = arrays

  def __len__(self):
    return len(next(iter(self.arrays.values())))

  def __getitem__(self, i):
    if i >= len(self):
      raise IndexError(i)
    return {name: array[i] for name, array in self.arrays.items()}


class Many(OneByOne):
  """A source that reads many examples at once, and never one."""

  def __getitem__(self, i):
    raise AssertionError("fetch is there")

  def fetch(self, indices):
    return {name: array[indices] for name, array in self.arrays.items()}
