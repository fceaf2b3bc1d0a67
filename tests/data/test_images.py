"""Augmentation: which moves are drawn, and what a move does to an image."""

import jax.numpy as jnp
import numpy as np
import pytest

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
