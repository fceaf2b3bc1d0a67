"""A checksum of a train state that does not depend on its sharding.

It detects silent corruption by disks and copies. The bits of all leaves, as one
sequence of 32-bit words, are hashed with the position of each word, and summed
modulo 2**32. The sum is exact in any order, so it is the same for any number of
devices and hosts; changing one word always changes it, any other change does
with probability 1 - 2**-32.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxplay.training import sharding

_SMALL = 2**18  # bytes; smaller leaves are summed on the host, uncompiled


def of(tree: Any) -> int:
  """The checksum of a tree of JAX or numpy arrays; called on every host."""
  begin, here, on_devices = 0, [], []
  for leaf in jax.tree.leaves(tree):
    if _is_here(leaf):
      here.append((leaf, begin))
    else:
      on_devices.append(_sum_of_leaf(leaf, np.uint32(begin)))
    begin = (begin + leaf.size * -(-leaf.dtype.itemsize // 4)) % 2**32
  return (_sum_here(here) + sum(map(_number, on_devices))) % 2**32


def _is_here(leaf):
  """Whether a leaf is small, and entirely on this host."""
  return leaf.nbytes <= _SMALL and (
    isinstance(leaf, np.ndarray | np.generic) or _is_whole(leaf)
  )


def _is_whole(array):
  return array.is_fully_addressable or array.is_fully_replicated


def _number(scalar):
  """The value of a scalar on devices, on every host."""
  return int(scalar if _is_whole(scalar) else sharding.to_host(scalar))


def _sum_here(leaves):
  """The sum over leaves, each (array, position of its first word)."""
  if not leaves:
    return 0
  arrays = jax.device_get([leaf for leaf, _ in leaves])
  words = [_words(np, np.ravel(array)).ravel() for array in arrays]
  places = [
    np.arange(len(of_leaf), dtype=np.uint32) + np.uint32(begin)
    for of_leaf, (_, begin) in zip(words, leaves, strict=True)
  ]
  return int(_sum(np.concatenate(words), np.concatenate(places)))


@jax.jit
def _sum_of_leaf(leaf, begin):
  words, stride = _words(jnp, leaf), 1
  places = jnp.full([1] * words.ndim, begin)
  # The position of each word in the global array.
  for axis in reversed(range(words.ndim)):
    along = jax.lax.broadcasted_iota(np.uint32, words.shape, axis)
    places = places + along * np.uint32(stride % 2**32)
    stride *= words.shape[axis]
  return _sum(words, places)


def _words(xp, leaf):
  """The bits of an array as uint32; 64-bit types get a last dimension of 2."""
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
