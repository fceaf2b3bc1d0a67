"""The order of examples, and every other random draw on data, by index alone.

Position `p` of a run is example `p % batch_size` of step `p // batch_size`; it
belongs to epoch `p // num_examples`, and each epoch is a pseudo-random
permutation. So the position in the data *is* the step: resuming, and any number
of hosts, cost nothing. The arithmetic is our own and will not change under a
new numpy.
"""

import collections
import functools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, Int32, UInt32

# Every stream of randomness in jaxplay. "all hosts": every host draws the same
# values. "per example": a function of (seed, step, example), so it is the same
# whichever host or device handles the example.
STREAMS = {
  "init": (1, "all hosts: parameters"),
  "order": (2, "all hosts: epoch permutations; each host takes its rows"),
  "augment": (3, "per example: crops, flips, shifts"),
  "dropout": (4, "per example: masks, by row of the global batch"),
  "synthetic": (5, "per example: made-up data"),
  "predictions": (6, "all hosts: the sample of saved predictions"),
  "held_out": (7, "all hosts: the validation split of a set that has none"),
  "eval_sample": (8, "all hosts: the sample of periodic evaluations"),
}

_SORTED = 1 << 22  # examples: longer epochs are not sorted and kept
_ROUNDS = 8


def stream_seed(seed: int, stream: str) -> int:
  """A 32-bit seed for one of `STREAMS`, from the run's seed."""
  # Mixed before the seed comes in, or stream 1 of seed 0 would be stream 2 of
  # seed 3.
  number = _mix(np.array([STREAMS[stream][0]], np.uint32), np.uint32(0))
  return int(_mix(_mix(number, _low(seed)), _high(seed))[0])


def batch_indices(
  seed: int, step: int, batch_size: int, num_examples: int, num_steps: int = 1
) -> Int32[np.ndarray, " positions"]:
  """Example indices of `num_steps` batches from `step` on.

  Args:
    seed: The run's seed.
    step: First step, from 0.
    batch_size: Examples per step, over all hosts.
    num_examples: Size of the data set, at most 2**31.
    num_steps: Number of consecutive steps.

  Returns:
    int32 [num_steps * batch_size], each in [0, num_examples). Any
    `num_examples` consecutive positions that start an epoch are a permutation.
  """
  return _indices(seed, step * batch_size, num_steps * batch_size, num_examples)


def mixed_indices(
  seed: int, step: int, batch_size: int, phases: Sequence, num_steps: int = 1
) -> Int32[np.ndarray, " positions"]:
  """As `batch_indices`, from a mixture of several sets in given shares.

  Each batch holds each set's share to within about one example, and the counts
  of examples so far are in closed form: so a mixture, too, is a function of
  (seed, step). Each set continues its own epochs from phase to phase.

  Args:
    seed: The run's seed.
    step: First step, from 0.
    batch_size: Examples per step, over all hosts.
    phases: ((first step, ((first, num_examples, weight), ...)), ...): the
      weights, above 0, from each step on, of the sets that begin at index
      `first`. The first phase begins at step 0.
    num_steps: Number of consecutive steps.
  """
  sets = {first: size for _, parts in phases for first, size, _ in parts}
  taken = np.array(
    [
      [counts[first] for first in sets]
      for counts in (
        _taken(phases, at, batch_size)
        for at in range(step, step + num_steps + 1)
      )
    ]
  )
  # The set of each position: in a batch, the sets follow one another.
  which = np.repeat(
    np.tile(np.arange(len(sets)), num_steps), np.diff(taken, axis=0).reshape(-1)
  )
  out = np.empty(len(which), np.int32)
  for i, (first, size) in enumerate(sets.items()):
    # Sets of one size would go through their examples in step.
    own = int(_mix(np.array([first], np.uint32), _low(seed))[0])
    begin, end = int(taken[0, i]), int(taken[-1, i])
    part = _indices(own if first else seed, begin, end - begin, size)
    out[which == i] = first + part
  return out


def _taken(phases, step, batch_size):
  """Returns the number of examples of each set before `step`."""
  taken: collections.Counter[int] = collections.Counter()
  ends = [*(begin for begin, _ in phases[1:]), math.inf]
  for (begin, parts), end in zip(phases, ends, strict=True):
    positions = max(min(step, end) - begin, 0) * batch_size
    counts = _counts([weight for _, _, weight in parts], positions)
    for (first, _, _), count in zip(parts, counts, strict=True):
      taken[first] += count
  return taken


def _counts(weights, positions):
  """Returns the number of examples per set in `positions` of a phase.

  Each set takes its share of what the sets before it left, rounded down: so the
  counts never fall, and add up to `positions`. Integers make it exact.
  """
  ratios = [weight.as_integer_ratio() for weight in weights]
  scale = math.lcm(*(below for _, below in ratios))
  weights = [above * (scale // below) for above, below in ratios]
  counts, left, total = [], positions, sum(weights)
  for weight in weights:
    counts.append(left * weight // total)
    left, total = left - counts[-1], total - weight
  return counts


def _indices(seed, position, count, num_examples):
  """Returns examples at `count` positions of the endless order of a set."""
  out = np.empty(count, np.int32)
  done = 0
  while done < len(out):
    epoch, offset = divmod(position + done, num_examples)
    some = min(num_examples - offset, count - done)
    if num_examples <= _SORTED:
      part = _sorted_epoch(num_examples, seed, epoch)[offset : offset + some]
    else:
      part = _feistel(offset, some, num_examples, seed, epoch)
    out[done : done + some] = part
    done += some
  return out


def draws(
  seed: int,
  stream: str,
  steps: Int[np.ndarray | np.generic, "..."],
  examples: Int[np.ndarray, "..."],
  num: int,
) -> UInt32[np.ndarray, "... {num}"]:
  """Draws random 32-bit words: a function of (seed, step, example).

  Args:
    seed: The run's seed.
    stream: One of `STREAMS`.
    steps: Step of each example, broadcast against `examples`.
    examples: Index of each example, any shape.
    num: Words per example.

  Returns:
    uint32 [*examples.shape, num].
  """
  examples = np.asarray(examples, np.uint32)[..., None]
  steps = np.asarray(steps)[..., None]
  state = _mix(examples, np.uint32(stream_seed(seed, stream)))
  state = _mix(state, _low(steps)) ^ _high(steps)
  words = np.arange(1, num + 1, dtype=np.uint32) * np.uint32(0x9E3779B9)
  return _mix(state + words, np.uint32(0))


def _epoch_keys(seed, epoch, num):
  """Returns `num` random words for an epoch."""
  key = np.array([stream_seed(seed, "order") ^ (epoch >> 32)], np.uint32)
  key = _mix(key, np.uint32(epoch & 0xFFFFFFFF))
  return _mix(np.arange(num, dtype=np.uint32), key)


@functools.lru_cache(maxsize=4)  # 16 MB each at most
def _sorted_epoch(size, seed, epoch):
  """Returns a whole permutation: the order of a random word per example."""
  words = _epoch_keys(seed, epoch, size).astype(np.uint64) << np.uint64(32)
  # `_mix` is a bijection, so no two words are equal.
  return np.sort(words | np.arange(size, dtype=np.uint64)).astype(np.uint32)


def _feistel(offset, count, size, seed, epoch):
  """Returns a part of a permutation that is too long to store.

  An unbalanced Feistel network with cycle walking (Black and Rogaway, CT-RSA
  2002).
  """
  keys = _epoch_keys(seed, epoch, _ROUNDS)
  bits = int(size - 1).bit_length()
  out = np.arange(offset, offset + count, dtype=np.uint32)
  # Blocks that stay in the cache: three times as fast.
  for a in range(0, count, 16384):
    values = _encrypt(out[a : a + 16384], bits, keys)
    # Values outside range(size), fewer than half, are encrypted again.
    outside = np.flatnonzero(values >= size)
    while len(outside):
      values[outside] = _encrypt(values[outside], bits, keys)
      outside = outside[values[outside] >= size]
    out[a : a + 16384] = values
  return out


def _encrypt(values, bits, keys):
  """One pass of the network over words of `bits` bits."""
  low, high = np.uint32(bits - bits // 2), np.uint32(bits // 2)
  left, right = values >> low, values & np.uint32((1 << int(low)) - 1)
  for key_left, key_right in zip(keys[::2], keys[1::2], strict=True):
    left ^= _mix(right, key_left) >> (np.uint32(32) - high)
    right ^= _mix(left, key_right) >> (np.uint32(32) - low)
  return (left << low) | right


def _mix(values, key):
  """A bijection of 32-bit words that scatters them (Wellons' lowbias32)."""
  values = values ^ key
  values ^= values >> np.uint32(16)
  values *= np.uint32(0x7FEB352D)
  values ^= values >> np.uint32(15)
  values *= np.uint32(0x846CA68B)
  values ^= values >> np.uint32(16)
  return values


def _low(number):
  return np.asarray(number, np.int64).astype(np.uint64).astype(np.uint32)


def _high(number):
  return (
    np.asarray(number, np.int64).astype(np.uint64) >> np.uint64(32)
  ).astype(np.uint32)
