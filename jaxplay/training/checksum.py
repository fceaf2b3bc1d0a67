"""A checksum of a train state that does not depend on how it is laid out.

A disk, or a copy, can change a bit and say nothing. The bits of all leaves, one
after the other as 32-bit words, are hashed with the place of the word, and
summed modulo 2**32. Such a sum is exact in any order, so it is the same over
any number of devices and hosts; a change of one word always changes it, and any
other change with probability 1 - 2**-32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplay.training import sharding

# Of a leaf. Smaller ones are summed on the host, where nothing is compiled.
_SMALL = 2**18  # bytes


def of(tree: Any) -> int:
  """The checksum of a tree of arrays; called on every host.

  Args:
    tree: Arrays of `jax`, read where they are, or of numpy.
  """
  begin, here, on_devices = 0, [], []
  for leaf in jax.tree.leaves(tree):
    if _is_here(leaf):
      here.append((leaf, begin))
    else:
      on_devices.append(_sum_of_leaf(leaf, np.uint32(begin)))
    begin = (begin + leaf.size * -(-leaf.dtype.itemsize // 4)) % 2**32
  return (_sum_here(here) + sum(map(_number, on_devices))) % 2**32


def _is_here(leaf):
  """Whether a leaf is small, and as a whole on this host."""
  return leaf.nbytes <= _SMALL and (
    isinstance(leaf, np.ndarray | np.generic) or _is_whole(leaf)
  )


def _is_whole(array):
  return array.is_fully_addressable or array.is_fully_replicated


def _number(scalar):
  """A scalar on devices, on every host."""
  return int(scalar if _is_whole(scalar) else sharding.to_host(scalar))


def _sum_here(leaves):
  """The sum over leaves, each (array, place of its first word)."""
  if not leaves:
    return 0
  arrays = jax.device_get([leaf for leaf, _ in leaves])
  words = [_words(np, np.ravel(array)).ravel() for array in arrays]
  places = [
    np.arange(len(some), dtype=np.uint32) + np.uint32(begin)
    for some, (_, begin) in zip(words, leaves, strict=True)
  ]
  return int(_sum(np.concatenate(words), np.concatenate(places)))


@jax.jit
def _sum_of_leaf(leaf, begin):
  words, stride = _words(jnp, leaf), 1
  places = jnp.full([1] * words.ndim, begin)
  # The place of each word in the whole array, whoever holds it.
  for axis in reversed(range(words.ndim)):
    along = jax.lax.broadcasted_iota(np.uint32, words.shape, axis)
    places = places + along * np.uint32(stride % 2**32)
    stride *= words.shape[axis]
  return _sum(words, places)


def _words(xp, leaf):
  """The bits of an array, as uint32; wider ones in a last dimension."""
  if leaf.dtype == bool:
    return leaf.astype(np.uint32)
  kind = np.dtype(f"uint{8 * min(leaf.dtype.itemsize, 4)}")
  if xp is jnp:
    return jax.lax.bitcast_convert_type(leaf, kind).astype(np.uint32)
  return leaf.view(kind).astype(np.uint32)


def _sum(words, places):
  return _mixed(words ^ _mixed(places)).sum(dtype=np.uint32)


def _mixed(x):
  """A bijection of uint32 that looks random (the last steps of xxHash32)."""
  x = (x ^ (x >> np.uint32(15))) * np.uint32(2246822519)
  x = (x ^ (x >> np.uint32(13))) * np.uint32(3266489917)
  return x ^ (x >> np.uint32(16))
