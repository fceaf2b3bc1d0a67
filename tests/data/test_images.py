"""Augmentation: which moves are drawn, and what a move does to an image."""

import io

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from jaxplay.data import images


def _slow_move(image, down, right, mirror):
  """Mirrors one image, then shifts it on a canvas of zeros."""
  height, width, _ = image.shape
  if mirror:
    image = image[:, ::-1]
  canvas = np.zeros_like(image)
  for row in range(height):
    for column in range(width):
      if 0 <= row + down < height and 0 <= column + right < width:
        canvas[row + down, column + right] = image[row, column]
  return canvas


def _pictures(number, shape, dtype=np.uint8):
  values = np.random.default_rng(0).integers(1, 255, (number, *shape))
  return values.astype(dtype)


@pytest.mark.parametrize("xp", [np, jnp], ids=["numpy", "jax"])
@pytest.mark.parametrize("shape", [(5, 8, 3), (8, 5, 1)])
def test_move_equals_a_slow_reference(xp, shape):
  """Augmentation: every shift, mirrored or not, equals the loop over pixels."""
  moves = np.array(
    [
      (down, right, mirror)
      for down in (-9, -2, 0, 1, 4)
      for right in (-3, 0, 2, 7)
      for mirror in (0, 1)
    ],
    np.int32,
  )
  pictures = _pictures(len(moves), shape)
  moved = images.move(xp.asarray(pictures), xp.asarray(moves))
  expected = [
    _slow_move(picture, *move)
    for picture, move in zip(pictures, moves, strict=True)
  ]
  np.testing.assert_array_equal(np.asarray(moved), np.stack(expected))
  assert moved.dtype == np.uint8
  assert isinstance(moved, type(xp.zeros(())))


def test_what_comes_in_is_zero():
  """Augmentation: what a shift uncovers is filled with zeros, all of it."""
  ones = np.ones((1, 6, 6, 2), np.uint8)
  moved = images.move(ones, np.array([[2, -1, 0]], np.int32))[0]
  assert not moved[:2].any() and not moved[:, -1:].any()
  assert moved[2:, :-1].all()


def test_moves_cover_their_range_and_no_more():
  """Augmentation: shifts are uniform in [-pixels, pixels], mirrors half."""
  steps, examples = np.arange(100)[:, None], np.tile(np.arange(100), (100, 1))
  moves = images.draw_moves(0, steps, examples, "crop_flip", 2)
  assert moves.shape == (100, 100, 3) and moves.dtype == np.int32
  for axis in (0, 1):
    values, counts = np.unique(moves[..., axis], return_counts=True)
    np.testing.assert_array_equal(values, [-2, -1, 0, 1, 2])
    # Of 10,000 draws, a fixed seed; the deviation of a count is 40.
    assert np.abs(counts - 2000).max() < 6 * 40
  assert abs(moves[..., 2].mean() - 0.5) < 6 * 0.005
  both = np.corrcoef(moves.reshape(-1, 3).T) - np.eye(3)
  assert np.abs(both).max() < 6 / 100


def test_shift_never_mirrors():
  """Augmentation: a mirrored digit is no digit; `shift` only shifts."""
  arguments = (0, np.arange(50)[:, None], np.tile(np.arange(50), (50, 1)))
  shift = images.draw_moves(*arguments, "shift", 3)
  crop_flip = images.draw_moves(*arguments, "crop_flip", 3)
  assert not shift[..., 2].any()
  np.testing.assert_array_equal(shift[..., :2], crop_flip[..., :2])


def test_zero_pixels_are_no_shift():
  """Augmentation: a largest shift of zero leaves images where they are."""
  moves = images.draw_moves(0, np.arange(9), np.arange(9), "shift", 0)
  assert not moves.any()
  pictures = _pictures(9, (4, 4, 1))
  np.testing.assert_array_equal(images.move(pictures, moves), pictures)


def test_moves_follow_the_example_wherever_it_is():
  """M2: an example's move depends on seed, step and example, not its place."""
  examples = np.array([4, 9, 2, 7])
  moves = images.draw_moves(1, np.int64(5), examples, "crop_flip", 4)
  part = images.draw_moves(1, np.int64(5), examples[[2, 0]], "crop_flip", 4)
  np.testing.assert_array_equal(part, moves[[2, 0]])
  later = images.draw_moves(1, np.int64(6), examples, "crop_flip", 4)
  assert not np.array_equal(later, moves)


def _crops(number, step=0):
  return images.draw_crops(0, np.int64(step), np.arange(number))


@pytest.mark.parametrize("height, width", [(100, 100), (60, 200), (333, 250)])
def test_random_crops_are_as_they_are_drawn(height, width):
  """Augmentation: areas and aspects of the Inception crop, inside the image."""
  boxes = np.array([images.crop_box(w, height, width) for w in _crops(2000)])
  left, top, right, bottom = boxes.T
  assert boxes.min() >= 0
  assert right.max() <= width and bottom.max() <= height
  share = (right - left) * (bottom - top) / (height * width)
  aspect = (right - left) / (bottom - top)
  assert 0.08 <= share.min() < 0.1 and share.max() <= 1 + 1e-9
  assert 3 / 4 - 1e-9 <= aspect.min() and aspect.max() <= 4 / 3 + 1e-9
  # Where nearly all fit they are uniform; nowhere are all at one place.
  if height == width:
    assert abs(np.log(aspect).mean()) < 0.02
    assert abs(share.mean() - 0.5) < 0.05
  middle = (left + right) / 2 / width
  assert middle.min() < 0.4 and middle.max() > 0.6


def test_a_sliver_is_cropped_in_its_middle():
  """Augmentation: where no crop fits, the largest centered one is taken."""
  box = images.crop_box(_crops(1)[0], 10, 1000)
  np.testing.assert_allclose(box, (493, 0, 493 + 40 / 3, 10))


def test_crops_are_a_function_of_step_and_example():
  """Augmentation: other steps and examples have other crops."""
  one, again, later = _crops(5), _crops(5), _crops(5, step=1)
  np.testing.assert_array_equal(one, again)
  assert len({words.tobytes() for words in (*one, *later)}) == 10
  mirrored = (_crops(4000)[:, -1] >> 31).mean()
  assert abs(mirrored - 0.5) < 0.03


def _gradient(height, width):
  """A picture whose red is its column and whose green is its row."""
  picture = np.zeros((height, width, 3), np.uint8)
  picture[..., 0] = np.arange(width)[None] * 255 // (width - 1)
  picture[..., 1] = np.arange(height)[:, None] * 255 // (height - 1)
  picture[..., 2] = 128
  return picture


def _file(picture, kind, **kwargs):
  file = io.BytesIO()
  Image.fromarray(picture).save(file, format=kind, **kwargs)
  return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("shape", [(500, 375), (64, 90)])
def test_a_decoded_crop_is_that_part(kind, shape):
  """Data: what is decoded is the part that was drawn, mirrored if it says so.

  Also where a JPEG is decoded at a fraction of its size.
  """
  height, width = shape
  encoded = _file(_gradient(*shape), kind, quality=95)
  for words in _crops(20):
    left, top, right, bottom = images.crop_box(words, height, width)
    found = images.decode(encoded, 48, 3, words=words).astype(float)
    across = (left + (np.arange(48) + 0.5) * (right - left) / 48) / width
    if words[-1] >> 31:
      across = across[::-1]
    down = (top + (np.arange(48) + 0.5) * (bottom - top) / 48) / height
    assert np.abs(found[:, :, 0] - 255 * across[None]).mean() < 4
    assert np.abs(found[:, :, 1] - 255 * down[:, None]).mean() < 4


@pytest.mark.parametrize("share", [1.0, 0.875])
def test_a_share_of_the_middle(share):
  """Data: evaluation sees a centered square of a share of the shorter side."""
  encoded = _file(_gradient(200, 300), "PNG")
  found = images.decode(encoded, 50, 3, share=share).astype(float)
  low, high = (0.5 + sign * share * 100 / 300 for sign in (-1, 1))
  np.testing.assert_allclose(found[0, 0, 0], 255 * low, atol=4)
  np.testing.assert_allclose(found[0, -1, 0], 255 * high, atol=4)


def test_other_modes_are_converted():
  """Data: gray, palette and CMYK files become three channels."""
  for mode, kind in (("L", "JPEG"), ("P", "PNG"), ("CMYK", "JPEG")):
    file = io.BytesIO()
    Image.fromarray(_gradient(40, 40)).convert(mode).save(file, format=kind)
    found = images.decode(file.getvalue(), 20, 3)
    assert found.shape == (20, 20, 3) and found.dtype == np.uint8
