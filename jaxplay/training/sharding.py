"""The mesh, and who holds what: the only module that says PartitionSpec.

Three axes: `data` splits batches, `fsdp` splits batches and large parameters,
`tensor` splits what a rule names. Rules are (path pattern, partition) pairs
from the config, searched in order in the path of each leaf of the train state;
an optimizer's moments end in their parameter's path, so they follow it.
"""

import functools
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

_BATCH = ("data", "fsdp")
# Splitting smaller parameters saves no memory and costs a collective each.
_MIN_FSDP_SIZE = 2**12


def make_mesh(*, data: int, fsdp: int, tensor: int) -> Mesh:
  """A mesh over all devices of all hosts; `data=-1` takes what is left.

  Axes are Auto, said explicitly: under the new default, Explicit, Flax's Embed
  and convolutions with split weights fail.
  """
  if data == -1:
    data = jax.device_count() // (fsdp * tensor)
  return jax.make_mesh(
    (data, fsdp, tensor),
    ("data", "fsdp", "tensor"),
    axis_types=(AxisType.Auto,) * 3,
  )


def replicated(mesh: Mesh) -> NamedSharding:
  """Everything on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """Dimension `axis` split over the batch axes of the mesh."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, _BATCH))


def by_rules(mesh: Mesh, tree: Any, rules: Sequence[tuple[str, Any]]) -> Any:
  """A sharding for each leaf of a train state.

  Args:
    mesh: From `make_mesh`.
    tree: Arrays or ShapeDtypeStructs.
    rules: (pattern, partition): the first pattern found in a leaf's path, such
      as "params/Dense_0/kernel", decides. A partition is an axis name or None
      per dimension, or the word "fsdp": split the largest dimension that
      divides over that axis, where the leaf has at least 4,096 elements. Leaves
      of other rank than the partition, of a dimension that does not divide, or
      that no pattern matches, are replicated.
  """

  def sharding(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    for pattern, partition in rules:
      if re.search(pattern, name):
        if partition == "fsdp":
          partition = _largest_dimension(leaf.shape, mesh.shape["fsdp"])
        if not _divides(leaf.shape, partition, mesh):
          partition = ()
        return NamedSharding(mesh, PartitionSpec(*partition))
    return replicated(mesh)

  return jax.tree_util.tree_map_with_path(sharding, tree)


def _divides(shape, partition, mesh):
  return len(partition) == len(shape) and not any(
    axis and size % mesh.shape[axis]
    for size, axis in zip(shape, partition, strict=True)
  )


def _largest_dimension(shape, parts):
  if parts == 1 or np.prod(shape) < _MIN_FSDP_SIZE:
    return ()
  dividing = [size if size % parts == 0 else 0 for size in shape]
  if not any(dividing):
    return ()
  largest = int(np.argmax(dividing))
  return tuple("fsdp" if i == largest else None for i in range(len(shape)))


def over_batch(mesh: Mesh, attend: Callable) -> Callable:
  """Lets each device attend for its own rows and heads.

  The compiler cannot split a kernel by itself; and where parameters are split
  it would gather the activations of plain attention, five times their memory
  (a language model on 16 TPU v5e chips, compiled ahead of time).

  Args:
    mesh: From `make_mesh`.
    attend: As `models.attention.attend`.
  """
  if mesh.size == 1:
    return attend
  split = PartitionSpec(
    _BATCH, None, "tensor"
  )  # of [batch, length, heads, ...]
  rows, heads = mesh.shape["data"] * mesh.shape["fsdp"], mesh.shape["tensor"]

  def split_attend(query, key, value, *, causal):
    # The trials of a population are split already, and one row cannot be.
    inside = jax.sharding.get_abstract_mesh().manual_axes
    if inside or query.shape[0] % rows or query.shape[2] % heads:
      return attend(query, key, value, causal=causal)
    return jax.shard_map(
      functools.partial(attend, causal=causal),
      mesh=mesh,
      in_specs=split,
      out_specs=split,
      check_vma=False,
    )(query, key, value)

  return split_attend


def local_rows(mesh: Mesh, batch_size: int) -> np.ndarray:
  """The rows of a global batch that this host's devices hold, ascending."""
  slices = batch(mesh).addressable_devices_indices_map((batch_size,)).values()
  rows = [np.arange(batch_size)[index] for index in slices]
  return np.unique(np.concatenate(rows))


def place(
  sharding: NamedSharding, local: np.ndarray, global_size: int, axis: int
):
  """A global array from this host's rows of it along `axis`."""
  shape = list(local.shape)
  shape[axis] = global_size
  return jax.make_array_from_process_local_data(sharding, local, tuple(shape))


def place_everywhere(mesh: Mesh, array: np.ndarray) -> jax.Array:
  """A replicated global array from the same value on every host."""
  return jax.make_array_from_process_local_data(
    replicated(mesh), array, array.shape
  )


def trials(mesh: Mesh) -> NamedSharding:
  """The leading dimension, of trials, split over all devices."""
  return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def over_trials(mesh: Mesh, function: Callable) -> Callable:
  """Lets each device call `function(trials, shared)` on the trials it holds.

  The arrays of `trials` and of what is returned have a leading dimension of
  trials, split as `trials(mesh)` says; `shared` is the same everywhere. No
  device waits for another.
  """
  split = PartitionSpec(mesh.axis_names)
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=(split, PartitionSpec()),
    out_specs=split,
    check_vma=False,
  )


def place_trials(mesh: Mesh, array: np.ndarray) -> jax.Array:
  """A global array over trials from the same value on every host."""
  return jax.make_array_from_callback(
    array.shape, trials(mesh), lambda index: array[index]
  )


def to_host(tree: Any) -> Any:
  """Whole numpy arrays on every host."""
  if jax.process_count() > 1:
    return multihost_utils.process_allgather(tree, tiled=True)
  return jax.device_get(tree)


def from_first_host(make: Callable[[], Any]) -> Any:
  """What `make()` returns on the first host (a JSON value), on every host."""
  if jax.process_count() == 1:
    return make()
  text = json.dumps(make()) if jax.process_index() == 0 else ""
  encoded = np.frombuffer(text.encode(), np.uint8)
  length = multihost_utils.broadcast_one_to_all(np.int32(encoded.size))
  padded = np.zeros(int(length), np.uint8)
  padded[: encoded.size] = encoded[: int(length)]
  return json.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())
