"""The mesh and shardings; the only module that uses PartitionSpec.

Axes, from the slowest connection to the fastest: `trial` separates the trials
of a population; `replica` and `data` split batches, `replica` over slices;
`fsdp` splits batches and large parameters; `tensor` splits what a rule names.
Rules are (path pattern, partition) pairs from the config; the first pattern
found in the path of a leaf of the train state applies. The paths of optimizer
moments end in the path of their parameter, so they are split like it.
"""

import dataclasses
import functools
import hashlib
import json
import math
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

import jaxplay

_AXES = ("trial", "replica", "data", "fsdp", "tensor")
_BATCH = ("replica", "data", "fsdp")
# Splitting smaller parameters saves no memory and costs a collective each.
_MIN_FSDP_SIZE = 2**12

# Rules by name. Those of the transformer split heads and hidden features over
# `tensor`, so that a block needs one sum over that axis after attention and one
# after the MLP (Shoeybi et al. 2019, arXiv 1909.08053), and the other dimension
# over `fsdp`. The first dimension of a block's leaves is of blocks.
PRESETS = {
  "data": (),
  "fsdp": ((".*", "fsdp"),),
  "fsdp+tensor": (
    ("attention/qkv/kernel", (None, "fsdp", None, "tensor", None)),
    ("attention/out/kernel", (None, "tensor", None, "fsdp")),
    ("mlp/gate_up/kernel", (None, "fsdp", None, "tensor")),
    ("mlp/down/kernel", (None, "tensor", "fsdp")),
    ("embedding/embedding", ("tensor", "fsdp")),
    ("head/kernel", ("fsdp", "tensor")),
    (".*", "fsdp"),
  ),
}


def make_mesh(
  *,
  data: int = 1,
  fsdp: int = 1,
  tensor: int = 1,
  replica: int = 1,
  trial: int = 1,
  devices: Sequence[Any] | None = None,
) -> Mesh:
  """A mesh over all devices of all hosts, neighbours along the last axes.

  Axes are explicitly Auto: with the new default, Explicit, Flax's Embed and
  convolutions with split weights fail.

  Args:
    data: Size of the axis; the product of all sizes is the number of devices.
    fsdp: Size of the axis.
    tensor: Size of the axis.
    replica: Size of the axis; with several slices, a multiple of their number.
    trial: Size of the axis; may span the slices instead of `replica`.
    devices: Instead of all devices; may be of a topology that is not attached.

  Raises:
    jaxplay.UserError: Neither trials nor replicas can span the slices.
  """
  devices = jax.devices() if devices is None else devices
  shape = (trial, replica, data, fsdp, tensor)
  slices = len({getattr(device, "slice_index", 0) for device in devices})
  between = next((i for i in (1, 0) if shape[i] % slices == 0), None)
  if slices == 1:
    array = mesh_utils.create_device_mesh(
      shape, devices, allow_split_physical_axes=True
    )
  elif between is not None:
    across, within = [1] * len(shape), list(shape)
    across[between], within[between] = slices, shape[between] // slices
    array = mesh_utils.create_hybrid_device_mesh(
      within, across, devices, allow_split_physical_axes=True
    )
  elif devices[0].platform == "tpu":
    raise jaxplay.UserError(
      f"only the replica axis can span the {slices} slices of the devices, but"
      f" config.mesh.replica is {replica}; set it to a multiple of {slices}"
    )
  else:  # A slice of GPUs is a host, and devices are ordered by host.
    array = np.array(devices).reshape(shape)
  return Mesh(array, _AXES, axis_types=(AxisType.Auto,) * len(_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
  """All of an array on every device."""
  return NamedSharding(mesh, PartitionSpec())


def batch(mesh: Mesh, axis: int = 0) -> NamedSharding:
  """Dimension `axis` split over the batch axes of the mesh."""
  return NamedSharding(mesh, PartitionSpec(*[None] * axis, _BATCH))


def batch_parts(mesh: Mesh) -> int:
  """Number of parts that a batch is split into."""
  return math.prod(mesh.shape[axis] for axis in _BATCH)


@dataclasses.dataclass(frozen=True)
class Placement:
  """The sharding of a leaf, and the reason if it is not split."""

  sharding: NamedSharding
  why: str  # not split, or not as its rule says; empty: it is


def by_rules(mesh: Mesh, tree: Any, rules: Sequence[Any]) -> Any:
  """A sharding for each leaf of a train state; see `placements`."""
  return jax.tree.map(
    lambda placement: placement.sharding, placements(mesh, tree, rules)
  )


def placements(mesh: Mesh, tree: Any, rules: Sequence[Any]) -> Any:
  """A `Placement` for each leaf of a train state.

  Args:
    mesh: From `make_mesh`.
    tree: Arrays or ShapeDtypeStructs.
    rules: (pattern, partition), or a key of `PRESETS`: the first pattern found
      in the path of a leaf, such as "params/Dense_0/kernel", applies. A
      partition is an axis name or None per dimension, or "fsdp": split the
      largest dimension that is divisible by that axis, if the leaf has at least
      4,096 elements. A dimension that is not divisible is not split; leaves
      that match no pattern, or have another rank than the partition, are
      replicated.
  """
  pairs = [
    pair
    for rule in rules
    for pair in (PRESETS[rule] if isinstance(rule, str) else (rule,))
  ]

  def placement(path, leaf):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    wanted = next((p for pattern, p in pairs if re.search(pattern, name)), None)
    partition, why = _partition(leaf.shape, wanted, mesh.shape)
    return Placement(NamedSharding(mesh, PartitionSpec(*partition)), why)

  return jax.tree_util.tree_map_with_path(placement, tree)


def _partition(shape, wanted, sizes):
  """(partition, why it is not as wanted)."""
  if wanted is None:
    return (), "no rule matches"
  if wanted == "fsdp":
    return _largest_dimension(shape, sizes["fsdp"])
  if len(wanted) != len(shape):
    return (), f"its rule is for {len(wanted)} dimensions"
  whole = [
    axis
    for size, axis in zip(shape, wanted, strict=True)
    if axis and size % sizes[axis]
  ]
  return tuple(None if axis in whole else axis for axis in wanted), ", ".join(
    f"{shape[wanted.index(axis)]} is not divisible by {axis}={sizes[axis]}"
    for axis in whole
  )


def _largest_dimension(shape, parts):
  if parts == 1:
    return (), "fsdp is 1"
  if np.prod(shape) < _MIN_FSDP_SIZE:
    return (), f"fewer than {_MIN_FSDP_SIZE:,} elements"
  divisible = [size if size % parts == 0 else 0 for size in shape]
  if not any(divisible):
    return (), f"no dimension is divisible by fsdp={parts}"
  largest = int(np.argmax(divisible))
  return tuple("fsdp" if i == largest else None for i in range(len(shape))), ""


def constrain(mesh: Mesh) -> Callable:
  """Constrains activations between blocks to be split by rows.

  Otherwise the compiler may gather them where parameters are split, and hold
  the whole batch on every device.

  Returns:
    `constrained(x, whole=False)`; if `whole`, every device has all of `x`.
  """
  rows = batch_parts(mesh)

  def constrained(x, whole=False):
    # A device with its own trial splits nothing, and the one row of the
    # initialization cannot be split.
    inside = jax.sharding.get_abstract_mesh()
    alone = mesh.size == 1 or inside.are_all_axes_manual
    if alone or not whole and x.shape[0] % rows:
      return x
    # Inside a population the axis of trials is manual.
    where = inside if inside.manual_axes else mesh
    return jax.lax.with_sharding_constraint(
      x,
      NamedSharding(where, PartitionSpec() if whole else PartitionSpec(_BATCH)),
    )

  return constrained


def over_batch(mesh: Mesh, attend: Callable) -> Callable:
  """Makes each device compute attention for its own rows and heads.

  The compiler cannot split a kernel, and where parameters are split it would
  gather the activations of plain attention, which takes five times the memory
  (a language model on 16 TPU v5e chips, compiled ahead of time).

  Args:
    mesh: From `make_mesh`.
    attend: As `models.attention.attend`.
  """
  attend = functools.partial(attend, device=mesh.devices.flat[0])
  if mesh.size == 1:
    return functools.partial(attend, whole=True)
  # Of [batch, length, heads, features].
  split = PartitionSpec(_BATCH, None, "tensor")
  rows, heads = batch_parts(mesh), mesh.shape["tensor"]

  def split_attend(query, key, value, *, causal):
    # Trials of a population are already split; one row cannot be split.
    inside = jax.sharding.get_abstract_mesh()
    if inside.manual_axes or query.shape[0] % rows or query.shape[2] % heads:
      whole = inside.are_all_axes_manual
      return attend(query, key, value, causal=causal, whole=whole)
    return jax.shard_map(
      functools.partial(attend, causal=causal, whole=True),
      mesh=mesh,
      in_specs=split,
      out_specs=split,
      check_vma=False,
    )(query, key, value)

  return split_attend


def padded(mesh: Mesh, batch_size: int) -> int:
  """`batch_size`, rounded up to a multiple of the batch parts of a mesh."""
  parts = batch_parts(mesh)
  return -(-batch_size // parts) * parts


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


def place_like(like: jax.ShapeDtypeStruct, array: np.ndarray) -> jax.Array:
  """A global array laid out as `like`, from the same value on every host."""
  return jax.make_array_from_callback(
    array.shape, like.sharding, lambda index: array[index]
  )


def trials(mesh: Mesh, of_one: NamedSharding | None = None) -> NamedSharding:
  """Trials, the first dimension, split over their axis; others as `of_one`."""
  spec = PartitionSpec() if of_one is None else of_one.spec
  return NamedSharding(mesh, PartitionSpec("trial", *spec))


def over_trials(mesh: Mesh, function: Callable) -> Callable:
  """Maps `function(trials, shared)` over groups of devices and their trials.

  The arrays of `trials` and of the result have a leading dimension of trials,
  split as in `trials(mesh)`; `shared` is replicated. Groups do not wait for
  each other; within a group the compiler splits the computation.
  """
  alone = mesh.size == mesh.shape["trial"]
  return jax.shard_map(
    function,
    mesh=mesh,
    in_specs=(PartitionSpec("trial"), PartitionSpec()),
    out_specs=PartitionSpec("trial"),
    # A group of one device splits nothing, and may use custom kernels.
    axis_names=set(mesh.axis_names) if alone else {"trial"},
    check_vma=False,
  )


def place_trials(
  mesh: Mesh, array: np.ndarray, of_one: NamedSharding | None = None
) -> jax.Array:
  """A global array over trials from the same value on every host."""
  return jax.make_array_from_callback(
    array.shape, trials(mesh, of_one), lambda index: array[index]
  )


def local_trials(mesh: Mesh, size: int) -> np.ndarray:
  """Indices of the trials, out of `size`, on this host's devices, ascending."""
  slices = trials(mesh).addressable_devices_indices_map((size,)).values()
  return np.unique(np.concatenate([np.arange(size)[i] for i in slices]))


def to_host(tree: Any) -> Any:
  """Whole numpy arrays on every host."""
  if jax.process_count() > 1:
    return multihost_utils.process_allgather(tree, tiled=True)
  return jax.device_get(tree)


def from_first_host(make: Callable[[], Any]) -> Any:
  """Broadcasts the result of `make()` on the first host, a JSON value.

  Raises:
    jaxplay.UserError: On every host, if the first host raised it.
  """
  if jax.process_count() == 1:
    return make()
  made = {}
  if jax.process_index() == 0:
    try:
      made = {"value": make()}
    except jaxplay.UserError as error:
      made = {"error": str(error)}
  encoded = np.frombuffer(json.dumps(made).encode(), np.uint8)
  length = multihost_utils.broadcast_one_to_all(np.int32(encoded.size))
  padded = np.zeros(int(length), np.uint8)
  padded[: encoded.size] = encoded[: int(length)]
  made = json.loads(multihost_utils.broadcast_one_to_all(padded).tobytes())
  if "error" in made:
    raise jaxplay.UserError(made["error"])
  return made["value"]


def same_on_every_host(facts: Mapping[str, Any], error: str = "") -> None:
  """Refuses to continue if hosts have different facts.

  They would compute different things, or wait for each other forever. Every
  host calls this at the same point; they exchange a few bytes.

  Args:
    facts: JSON values; may be nested.
    error: Why this host cannot continue; empty: it can.

  Raises:
    jaxplay.UserError: On every host, with the first host that differs.
  """
  if jax.process_count() == 1:
    return
  text = json.dumps({"facts": facts, "error": error}, sort_keys=True)
  digest = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.uint8)
  digests = multihost_utils.process_allgather(digest)
  different = (digests != digests[0]).any(axis=1)
  if not different.any():
    return
  hosts = [json.loads(text) for text in _from_each_host(text)]
  names = _from_each_host(socket.gethostname())
  for host, of_host in enumerate(hosts):
    if of_host["error"]:
      raise jaxplay.UserError(
        f"host {host} ({names[host]}): {of_host['error']}"
      )
  host = int(np.argmax(different))
  raise jaxplay.UserError(
    f"host {host} ({names[host]}) differs from host 0 ({names[0]}):"
    f" {_difference(hosts[host]['facts'], hosts[0]['facts'])}; all hosts need"
    " the same data and the same command"
  )


def _from_each_host(text):
  """The texts of all hosts, in their order."""
  encoded = np.frombuffer(text.encode(), np.uint8)
  sizes = multihost_utils.process_allgather(np.int32(encoded.size))
  padded = np.zeros(int(sizes.max()), np.uint8)
  padded[: encoded.size] = encoded
  rows = multihost_utils.process_allgather(padded)
  return [
    row[:size].tobytes().decode() for row, size in zip(rows, sizes, strict=True)
  ]


def _difference(one, other):
  """The first difference of nested values: counts, numbers, then hashes."""
  one, other = _flat(one), _flat(other)
  keys = [k for k in one.keys() | other.keys() if one.get(k) != other.get(k)]
  counts = ("documents", "examples")
  key = min(keys, key=lambda k: ("sha256" in k, not k.endswith(counts), k))
  more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
  return f"{key} is {one.get(key)!r}, and not {other.get(key)!r}{more}"


def _flat(value, path=""):
  """Path -> leaf of nested dicts and lists."""
  if not isinstance(value, dict | list):
    return {path: value}
  items = value.items() if isinstance(value, dict) else enumerate(value)
  flat = {}
  for key, below in items:
    flat |= _flat(below, f"{path}.{key}" if path else str(key))
  return flat
