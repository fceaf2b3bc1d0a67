"""Augmentation of fixed-size images: random moves are drawn, then applied.

The draws are numpy, a function of (seed, step, example); applying them works
alike on numpy and on JAX arrays, so it runs on the device wherever the images
already are.
"""

from typing import Any

import numpy as np
from jaxtyping import Int, Int32, Shaped

from jaxplay.data import order


def draw_moves(
  seed: int,
  steps: Int[np.ndarray | np.generic, "..."],
  examples: Int[np.ndarray, "..."],
  augment: str,
  pixels: int,
) -> Int32[np.ndarray, "... 3"]:
  """How to move each image.

  Args:
    seed: The run's seed.
    steps: Step of each example, broadcast against `examples`.
    examples: Index of each example, any shape.
    augment: `shift`, or `crop_flip` which also mirrors half of the images.
    pixels: Largest shift along each side.

  Returns:
    int32 [*examples.shape, 3]: shift down, shift right, whether to mirror.
  """
  words = order.draws(seed, "augment", steps, examples, 3)
  shifts = words[..., :2] % np.uint32(2 * pixels + 1)
  shifts = shifts.astype(np.int32) - pixels
  # The top bit: the low ones of the three words already serve the shifts.
  mirror = (words[..., 2:] >> np.uint32(31)).astype(np.int32)
  return np.concatenate([shifts, mirror * (augment == "crop_flip")], axis=-1)


def move(
  images: Shaped[Any, "batch height width channels"],
  moves: Int32[Any, "batch 3"],
) -> Shaped[Any, "batch height width channels"]:
  """Shifts images [batch, height, width, channels], filling with zeros.

  Args:
    images: Numpy or JAX array.
    moves: int32 [batch, 3], from `draw_moves`.
  """
  xp = images.__array_namespace__()
  height, width = images.shape[1:3]
  rows = xp.arange(height)[None, :] - moves[:, :1]
  columns = xp.arange(width)[None, :] - moves[:, 1:2]
  columns = xp.where(moves[:, 2:] == 1, width - 1 - columns, columns)
  inside = ((rows >= 0) & (rows < height))[:, :, None] & (
    (columns >= 0) & (columns < width)
  )[:, None, :]
  batch = xp.arange(images.shape[0])[:, None, None]
  moved = images[
    batch,
    xp.clip(rows, 0, height - 1)[:, :, None],
    xp.clip(columns, 0, width - 1)[:, None, :],
  ]
  return xp.where(inside[..., None], moved, xp.zeros((), images.dtype))
