"""Augmentation of images: random moves and crops are drawn, then applied.

The draws are numpy, a function of (seed, step, example). Moves, of images of
one size, apply alike to numpy and to JAX arrays, so they run on the device
wherever the images already are. Crops apply to encoded images of any size, and
decode no more than they need.
"""

import io
import math
from typing import Any

import numpy as np
from jaxtyping import Int, Int32, Shaped, UInt8, UInt32

from jaxplay.data import order


def draw_moves(
  seed: int,
  steps: Int[np.ndarray | np.generic, "..."],
  examples: Int[np.ndarray, "..."],
  augment: str,
  pixels: int,
) -> Int32[np.ndarray, "... 3"]:
  """Draws how to move each image.

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
  moves = np.zeros(words.shape, np.int32)
  moves[..., :2] = words[..., :2] % np.uint32(2 * pixels + 1)
  moves[..., :2] -= pixels
  if augment == "crop_flip":
    moves[..., 2] = words[..., 2] >> np.uint32(31)  # the top bit
  return moves


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


# Of a random-resized crop (Szegedy et al. 2015, arXiv 1409.4842, section 6):
# shares of the image's area, and width over height.
_AREAS, _ASPECTS = (0.08, 1.0), (3 / 4, 4 / 3)
# Draws of a crop, of which the first within the image is used.
_TRIES = 10
# PIL's filters: means of areas if an image shrinks, else bilinear.
_BOX, _BILINEAR = 4, 2
_WORDS = 4 * _TRIES + 1


def draw_crops(
  seed: int,
  steps: Int[np.ndarray | np.generic, "..."],
  examples: Int[np.ndarray, "..."],
) -> UInt32[np.ndarray, "... words"]:
  """Draws words for `crop_box`; the last word decides about mirroring.

  Args:
    seed: The run's seed.
    steps: Step of each example, broadcast against `examples`.
    examples: Index of each example, any shape.
  """
  return order.draws(seed, "augment", steps, examples, _WORDS)


def crop_box(
  words: UInt32[np.ndarray, " words"], height: int, width: int
) -> tuple[float, float, float, float]:
  """Returns a random part of an image: left, top, right, bottom, in pixels.

  Its area is uniform in [0.08, 1] of the image's, the logarithm of its aspect
  in [log 3/4, log 4/3]. The first of ten draws that lies within the image, or
  else the largest centered part with an aspect in that range.

  Args:
    words: Of one image, from `draw_crops`.
    height: Of the image, in pixels.
    width: Of the image, in pixels.
  """
  uniform = words.astype(np.float64) / 2**32
  low, high = map(math.log, _ASPECTS)
  for area, aspect, across, down in uniform[: 4 * _TRIES].reshape(_TRIES, 4):
    area = (_AREAS[0] + area * (_AREAS[1] - _AREAS[0])) * height * width
    ratio = math.exp(low + aspect * (high - low))
    wide, tall = math.sqrt(area * ratio), math.sqrt(area / ratio)
    if wide <= width and tall <= height:
      left, top = across * (width - wide), down * (height - tall)
      return left, top, left + wide, top + tall
  wide = min(width, height * _ASPECTS[1])
  tall = min(height, wide / _ASPECTS[0])
  return _centered(height, width, tall, wide)


def center_box(
  height: int, width: int, share: float
) -> tuple[float, float, float, float]:
  """Returns the centered square of that share of the shorter side."""
  side = share * min(height, width)
  return _centered(height, width, side, side)


def _centered(height, width, tall, wide):
  left, top = (width - wide) // 2.0, (height - tall) // 2.0
  return left, top, left + wide, top + tall


def decode(
  encoded: bytes,
  size: int,
  channels: int,
  *,
  words: UInt32[np.ndarray, " words"] | None = None,
  share: float = 1.0,
) -> UInt8[np.ndarray, "size size channels"]:
  """Decodes a part of an image, resized to size x size.

  A JPEG that is larger than needed is decoded at a half, a quarter or an eighth
  of its size, which its format offers and costs less.

  Args:
    encoded: A JPEG or PNG file.
    size: Height and width of the result.
    channels: 1 or 3.
    words: From `draw_crops`: a random part, half of the time mirrored; None:
      the centered square.
    share: Side of the centered square over the image's shorter side.
  """
  from PIL import Image  # Costs start-up time that only such sets need.

  with Image.open(io.BytesIO(encoded)) as picture:
    width, height = picture.size
    box = _box(words, height, width, share)
    scale = size / min(box[2] - box[0], box[3] - box[1])
    mode = "L" if channels == 1 else "RGB"
    if scale < 1:  # No smaller than this: it is resized from there.
      picture.draft(mode, (math.ceil(width * scale), math.ceil(height * scale)))
    across, down = picture.size[0] / width, picture.size[1] / height
    box = (box[0] * across, box[1] * down, box[2] * across, box[3] * down)
    return _resized(picture.convert(mode), size, box, words)


def decode_whole(
  encoded: bytes, channels: int
) -> UInt8[np.ndarray, "height width channels"]:
  """Decodes an image of 8 bits per channel, in its own size.

  Args:
    encoded: A JPEG or PNG file.
    channels: 1 or 3.
  """
  from PIL import Image

  with Image.open(io.BytesIO(encoded)) as picture:
    if picture.mode.startswith(("I", "F")):
      raise ValueError(f"mode {picture.mode!r} has more than 8 bits")
    width, height = picture.size
    array = np.asarray(picture.convert("L" if channels == 1 else "RGB"))
    return array.reshape(height, width, channels)


def crop(
  image: UInt8[np.ndarray, "size size channels"],
  words: UInt32[np.ndarray, " words"],
) -> UInt8[np.ndarray, "size size channels"]:
  """Crops a square image at random, to the same size; see `decode`."""
  from PIL import Image

  size, _, channels = image.shape
  picture = Image.fromarray(image[..., 0] if channels == 1 else image)
  return _resized(picture, size, _box(words, size, size, 1.0), words)


def _box(words, height, width, share):
  if words is None:
    return center_box(height, width, share)
  return crop_box(words, height, width)


def _resized(picture, size, box, words):
  """Returns a part of a picture, resized to [size, size, channels]."""
  # PIL refuses a box that a rounding error puts past the border.
  left, top = max(box[0], 0), max(box[1], 0)
  right, bottom = min(box[2], picture.size[0]), min(box[3], picture.size[1])
  shrinks = min(right - left, bottom - top) >= size
  resized = picture.resize(
    (size, size),
    _BOX if shrinks else _BILINEAR,
    box=(left, top, right, bottom),
  )
  array = np.asarray(resized).reshape(size, size, -1)
  mirrored = words is not None and words[-1] >> 31
  return array[:, ::-1] if mirrored else array
