"""Compiles the programs of a config for a TPU topology, without TPUs.

The TPU compiler is part of the library `libtpu`. It compiles for a topology, a
description of chips and their connections.
"""

import contextlib
import dataclasses
import importlib.util
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections
from jax.experimental import topologies

import jaxplay
from jaxplay import config as config_lib
from jaxplay.training import dry_run, memory, sharding
from jaxplay.training import workload as workload_lib


@dataclasses.dataclass(frozen=True)
class Topology:
  """Chips that a program can be compiled for.

  Attributes:
    name: Name, such as "v5e:16x16".
    devices: Abstract devices, slice by slice.
    shape: Chips along each dimension of a slice.
    slices: Number of slices.
  """

  name: str
  devices: Sequence[Any]
  shape: tuple[int, ...]
  slices: int

  @property
  def kind(self) -> str:
    """The kind of its devices, such as "TPU v5 lite"."""
    return self.devices[0].device_kind


def topology(name: str) -> Topology:
  """Returns the topology of a name.

  Args:
    name: [SLICES*]KIND:SHAPE, such as "v5e:16x16" or "2*v5p:4x4x8".

  Raises:
    jaxplay.UserError: The name is invalid, or the compiler not installed.
  """
  form = re.fullmatch(r"(?:(\d+)\*)?(\w+):(\d+(?:x\d+){0,2})", name)
  if not form or (form[1] and int(form[1]) < 1):
    raise jaxplay.UserError(
      "expected a topology KIND:SHAPE or SLICES*KIND:SHAPE, such as v5e:16x16"
      f" or 2*v5p:4x4x8, got {name!r}"
    )
  slices, shape = int(form[1] or 1), tuple(map(int, form[3].split("x")))
  _check_shape(name, form[2], shape)
  options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
  if form[2] == "v4":  # JAX uses its two cores as one device.
    options["chip_config_name"] = "megacore"
  if math.prod(shape) == 1:
    options["chips_per_host_bounds"] = (1, 1, 1)
  try:
    described = topologies.get_topology_desc(
      platform="tpu", topology_name=f"{form[2]}:{form[3]}", **options
    )
  except Exception as error:
    text = str(error).strip().split("\n")[0]
    if importlib.util.find_spec("libtpu") is None:
      raise jaxplay.UserError(
        "compiling for TPUs requires the library libtpu: pip install"
        " 'jaxplay[tpu]'"
      ) from None
    known = "" if form[2] in _KINDS else f"; kinds: {', '.join(_KINDS)}"
    raise jaxplay.UserError(
      f"unknown topology {name!r}: {text}{known}"
    ) from None
  return Topology(name, described.devices, shape, slices)


# Kinds with two-dimensional slices, and their largest side; the library aborts
# the process for larger ones. https://cloud.google.com/tpu/docs/v5e, v6e.
_FLAT = {"v5e": 16, "v6e": 16}
_KINDS = (*_FLAT, "v4", "v5p")


def _check_shape(name, kind, shape):
  side = _FLAT.get(kind)
  if not all(shape):
    reason = "each side must be at least 1"
  elif side and (len(shape) != 2 or max(shape) > side):
    reason = f"{kind} has two sides of at most {side}, such as {kind}:4x4"
  elif kind in _KINDS and not side and len(shape) != 3:
    reason = f"{kind} has three sides, such as {kind}:2x2x4"
  else:
    return
  raise jaxplay.UserError(f"invalid topology {name!r}: {reason}")


@dataclasses.dataclass(frozen=True)
class Compiled:
  """The compiled programs of a config, for each device.

  Attributes:
    memory: Peak memory of a training step in bytes: "parameters", "optimizer",
      "averages", "other" state, "batch" and "temporaries" (such as
      activations).
    eval_bytes: Peak memory of an evaluation step in bytes.
    flops: FLOPs of a training step.
    flops_source: How FLOPs were counted, "compiler" or "formula".
    text: Text of the training step's program.
    seconds: Compilation time.
    too_large: The compiler's message if a training step does not fit into
      memory; then only `memory` of the state and `seconds` are known. "": it
      fits.
  """

  memory: Mapping[str, float]
  eval_bytes: float
  flops: float
  flops_source: str
  text: str
  seconds: float
  too_large: str = ""


def check(config: ml_collections.ConfigDict, devices: Sequence[Any]) -> None:
  """Checks that the mesh and the batch size of a config fit the devices.

  Raises:
    jaxplay.UserError: They do not fit.
  """
  config_lib.validate(config, len(devices))
  sizes = config_lib.mesh_sizes(config.mesh, len(devices))
  sharding.make_mesh(**sizes, devices=devices)


def compile_for(
  config: ml_collections.ConfigDict, devices: Sequence[Any]
) -> Compiled:
  """Compiles the training and the evaluation step of a config.

  Args:
    config: A config; its data set is not read.
    devices: Devices of a `Topology`, or real ones.

  Raises:
    jaxplay.UserError: Its mesh or batch size does not fit the devices.
  """
  check(config, devices)
  workload = workload_lib.make_workload(config, devices=devices, planned=True)
  parts = _state_bytes(workload.state)
  start = time.monotonic()
  try:
    with _uncached():
      compiled = dry_run.lower_train_step(config, workload).compile()
      evaluation = dry_run.lower_eval_step(config, workload).compile()
  except jax.errors.JaxRuntimeError as error:
    short = memory.exhausted(error)
    if not short:
      raise
    seconds = time.monotonic() - start
    return Compiled(parts, math.nan, math.nan, "", "", seconds, short)
  seconds = time.monotonic() - start
  sizes = compiled.memory_analysis()
  parts["batch"] = max(0.0, sizes.argument_size_in_bytes - sum(parts.values()))
  parts["temporaries"] = sizes.temp_size_in_bytes + max(
    0, sizes.output_size_in_bytes - sizes.alias_size_in_bytes
  )
  flops, source = _flops(config, workload, compiled)
  return Compiled(
    memory=parts,
    eval_bytes=memory.peak_bytes(evaluation),
    flops=flops,
    flops_source=source,
    text=compiled.as_text(),
    seconds=seconds,
  )


@contextlib.contextmanager
def _uncached():
  """Disables the compilation cache, from which these programs cannot load."""
  name = "jax_persistent_cache_min_compile_time_secs"
  before = getattr(jax.config, name)
  jax.config.update(name, math.inf)
  try:
    yield
  finally:
    jax.config.update(name, before)


def _state_bytes(state):
  """Returns the bytes of each part of the state, on one device."""

  def of(tree):
    return float(
      sum(
        leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
        for leaf in jax.tree.leaves(tree)
      )
    )

  named = {
    "parameters": of(state.params),
    "optimizer": of(state.opt_state),
    "averages": of(state.averages),
  }
  return named | {"other": of(state) - sum(named.values())}


def _flops(config, workload, compiled):
  """Returns (FLOPs of a training step on one device, their source)."""
  if config.model.name in config_lib.TRANSFORMERS:
    # The compiler counts the loop over blocks as a single iteration.
    whole = sum(dry_run.formula_flops(config, workload).values())
    return whole / workload.mesh.size, "formula"
  counted = compiled.cost_analysis().get("flops", 0.0)
  return counted * config.microbatches, "compiler"
