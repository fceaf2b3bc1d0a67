"""The order of examples and every random draw, as functions of their index."""

import itertools

import numpy as np
import pytest

from jaxplay.data import order

LARGE = order._SORTED + 12_345  # just too large to be sorted
# Frozen: computed once by this very code. Other values mean that an old run can
# no longer be resumed, so they may never change.
GOLDEN_INDICES = [1158, 833, 741, 766, 944, 397, 248, 996]
GOLDEN_LARGE = [
  3812103,
  2466480,
  3718763,
  3515148,
  973993,
  2145814,
  1357478,
  1149889,
]
GOLDEN_DRAWS = [[1100443522, 3708005158], [285923960, 3503980623]]
GOLDEN_SEEDS = {
  "init": 913692320,
  "order": 1540706303,
  "augment": 564254687,
  "dropout": 303832571,
  "synthetic": 3132901046,
  "predictions": 3915833994,
  "held_out": 1409396408,
  "eval_sample": 3246981890,
}


def _stretch(size, start, stop, seed=0):
  """Positions [start, stop) of the stream, one example a step."""
  return order.batch_indices(seed, start, 1, size, stop - start)


@pytest.mark.parametrize("size", [1, 2, 3, 10, 97, 128, 1197])
def test_every_epoch_is_a_permutation(size):
  """Idea 3: no example is lost or repeated within an epoch, sorted path."""
  for epoch in range(5):
    part = _stretch(size, epoch * size, (epoch + 1) * size)
    np.testing.assert_array_equal(np.sort(part), np.arange(size))


@pytest.mark.parametrize("size", [3, 5, 63, 64, 65, 1000, 40_000])
def test_feistel_is_a_permutation(size):
  """Idea 3: so on the path for sets too large to sort, whatever their size."""
  for seed, epoch in itertools.product((0, 7), (0, 1, 2**33)):
    part = order._feistel(0, size, size, seed, epoch)
    np.testing.assert_array_equal(np.sort(part), np.arange(size))


def test_large_epochs_are_permutations():
  """Idea 3: a set just beyond the sorted path, through the public function."""
  epochs = [_stretch(LARGE, e * LARGE, (e + 1) * LARGE, 3) for e in (0, 5)]
  for part in epochs:
    assert np.bincount(part, minlength=LARGE).max() == 1
  assert not np.array_equal(*epochs)


@pytest.mark.parametrize("size", [10, 97, 1000, LARGE, 2**31])
@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_any_slice_is_a_part_of_one_stream(size, batch_size):
  """Idea 3: the position is the step, so resuming anywhere changes nothing."""
  # Begins in one epoch and ends in another, also for the large sets.
  first = max(size // batch_size - 15, 0)
  stream = order.batch_indices(5, first, batch_size, size, 30)
  assert stream.min() >= 0 and stream.max() < size
  for start, steps in [(0, 30), (0, 1), (1, 4), (13, 17), (29, 1)]:
    part = order.batch_indices(5, first + start, batch_size, size, steps)
    whole = stream[start * batch_size : (start + steps) * batch_size]
    np.testing.assert_array_equal(part, whole)


def test_feistel_blocks_do_not_show():
  """Idea 3: a stretch longer than the cache block equals its pieces."""
  size, offset = 10**8, 12_345
  whole = order._feistel(offset, 40_000, size, 1, 0)
  pieces = [
    order._feistel(offset + a, 10_000, size, 1, 0)
    for a in range(0, 40_000, 10_000)
  ]
  np.testing.assert_array_equal(whole, np.concatenate(pieces))


def test_no_steps_are_no_examples():
  """Idea 3: an empty stretch is empty."""
  assert order.batch_indices(0, 3, 8, 100, 0).shape == (0,)


@pytest.mark.parametrize("size", [1000, LARGE])
def test_epochs_and_seeds_differ(size):
  """M2: each epoch of each seed has its own order."""
  seen = set()
  for seed, epoch in itertools.product((0, 1, 2, 2**32 - 1), (0, 1, 2)):
    seen.add(tuple(_stretch(size, epoch * size, epoch * size + 20, seed)))
  assert len(seen) == 12


@pytest.mark.parametrize("shuffle", ["sorted", "feistel"])
def test_every_place_is_equally_likely(shuffle):
  """Idea 3: over many epochs each example comes at each place equally often.

  Chi-squared of places by examples, under fixed seeds: deterministic.
  """
  size, epochs = 16, 4000
  counts = np.zeros((size, size))
  follows = np.zeros((size, size))
  for epoch in range(epochs):
    if shuffle == "sorted":
      part = order._sorted_epoch.__wrapped__(size, 0, epoch)
    else:
      part = order._feistel(0, size, size, 0, epoch)
    counts[np.arange(size), part] += 1
    follows[part[:-1], part[1:]] += 1
  expected = epochs / size
  # (size - 1)^2 = 225 degrees of freedom: mean 225, deviation 21.
  assert ((counts - expected) ** 2 / expected).sum() < 225 + 6 * 21
  # Which example follows which: 240 pairs, 15 chances in each of the epochs.
  pairs = follows[~np.eye(size, dtype=bool)]
  expected = epochs / size
  assert ((pairs - expected) ** 2 / expected).sum() < 240 + 6 * 22


def test_order_is_frozen():
  """Idea 3: pinned numbers hold the order the same under every numpy."""
  seed = 2**32 - 2
  indices = order.batch_indices(seed, 3, 4, 1197, 2)
  assert indices.tolist() == GOLDEN_INDICES
  assert indices.dtype == np.int32
  large = order.batch_indices(seed, 3, 4, LARGE, 2)
  assert large.tolist() == GOLDEN_LARGE
  drawn = order.draws(
    seed, "augment", np.array([1, 2**40]), np.array([5, 6]), 2
  )
  assert drawn.tolist() == GOLDEN_DRAWS
  seeds = {name: order.stream_seed(seed, name) for name in order.STREAMS}
  assert seeds == GOLDEN_SEEDS


def test_huge_steps():
  """Idea 3: no step number is too large: 2**40 is as good as 0."""
  for size in (97, LARGE):
    step = 2**40
    batch = order.batch_indices(0, step, 512, size, 2)
    assert batch.min() >= 0 and batch.max() < size
    second = order.batch_indices(0, step + 1, 512, size)
    np.testing.assert_array_equal(batch[512:], second)
  # Epochs that differ by a multiple of 2**32 are still different epochs.
  orders = [_stretch(97, e * 97, (e + 1) * 97) for e in (1, 1 + 2**32)]
  assert not np.array_equal(*orders)
  words = order.draws(
    0, "augment", np.array([1, 1 + 2**32]), np.array([7, 7]), 1
  )
  assert words[0] != words[1]


def test_draws_depend_on_seed_step_and_example_alone():
  """M2: a draw is the same in whatever company and shape it is asked for."""
  steps = np.arange(3, 9)[:, None]
  examples = np.tile(np.arange(20), (6, 1))
  whole = order.draws(4, "augment", steps, examples, 3)
  assert whole.shape == (6, 20, 3) and whole.dtype == np.uint32
  for i, j in itertools.product((0, 5), (0, 7, 19)):
    alone = order.draws(4, "augment", np.int64(3 + i), np.array(j), 3)
    np.testing.assert_array_equal(alone, whole[i, j])
  shuffled = order.draws(4, "augment", steps, examples[:, ::-1], 3)
  np.testing.assert_array_equal(shuffled, whole[:, ::-1])
  fewer = order.draws(4, "augment", steps, examples, 2)
  np.testing.assert_array_equal(fewer, whole[..., :2])


def test_draws_differ_in_every_argument():
  """M2: seed, stream, step, example and word each change the draw."""
  words = [
    order.draws(seed, stream, np.int64(step), np.array(example), 2)
    for seed, stream, step, example in itertools.product(
      (0, 1, 2, 3), ("augment", "synthetic"), (0, 1, 2, 2**33), (0, 1, 2, 3)
    )
  ]
  assert len(np.unique(np.concatenate(words))) == 2 * 4 * 2 * 4 * 4


def test_draws_are_uniform():
  """M2: each bit of each word is set half of the time (a fixed seed)."""
  examples = np.tile(np.arange(200), (200, 1))
  words = order.draws(0, "augment", np.arange(200)[:, None], examples, 2)
  bits = np.unpackbits(words.reshape(-1, 2).view(np.uint8), axis=1)
  # 40,000 draws: a deviation of the share is 0.0025.
  np.testing.assert_allclose(bits.mean(0), 0.5, atol=6 * 0.0025)
  # And no bit of one word tells a bit of the other.
  correlation = np.corrcoef(bits.T) - np.eye(64)
  assert np.abs(correlation).max() < 6 / np.sqrt(40_000)


def test_streams_do_not_meet():
  """M2: no stream of one seed is another stream of another seed."""
  seeds = [
    order.stream_seed(seed, name)
    for seed, name in itertools.product(range(64), order.STREAMS)
  ]
  assert len(set(seeds)) == len(seeds)
  numbers = [number for number, _ in order.STREAMS.values()]
  assert len(set(numbers)) == len(numbers)


def test_streams_say_their_kind():
  """M2: each named stream says whether hosts share it."""
  for _, kind in order.STREAMS.values():
    assert kind.startswith(("all hosts: ", "per example: "))
