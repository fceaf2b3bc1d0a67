"""Estimates a config on a topology: memory, traffic and time of a step."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import ml_collections

import jaxplay
from jaxplay import config as config_lib
from jaxplay import pods
from jaxplay.pods import probe, program, roofline
from jaxplay.pods import topology as topology_lib

_MOST_DOUBLINGS = 12  # of the batch size in a search


def find(name: str) -> topology_lib.Topology:
  """Returns the topology of a name, or the devices of this process for "here".

  Raises:
    jaxplay.UserError: The topology is unknown, or its compiler not installed.
  """
  if name == pods.HERE:
    shape = (jax.local_device_count(),)
    return topology_lib.Topology(name, jax.devices(), shape, 1)
  return topology_lib.topology(name)


def estimate(
  topology: topology_lib.Topology, config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """Compiles a config for a topology; for "here", also measures its step.

  Args:
    topology: The topology.
    config: A checked config.

  Returns:
    JSON values of one device: "fits", "memory" (bytes by part), and if it fits
    "flops", "memory_traffic_bytes", "collectives" and, if the chip's peaks are
    known, "seconds" by resource, "step_seconds" (low and high), and "bound".

  Raises:
    jaxplay.UserError: The mesh or the batch size does not fit the devices.
  """
  devices = topology.devices
  compiled = topology_lib.compile_for(config, devices)
  chip = roofline.chip(topology.kind)
  measured = None
  if topology.name == pods.HERE:
    measured = probe.step_seconds(config)
    if chip is None:
      peaks = probe.peaks()
      chip = dataclasses.replace(
        roofline.UNKNOWN,
        source="measured here",
        flops=peaks["flops"],
        memory_bandwidth=peaks["memory_bandwidth"],
      )
  row: dict[str, Any] = {
    "topology": topology.name,
    "kind": topology.kind,
    "chips": len(devices),
    "mesh": config_lib.mesh_sizes(config.mesh, len(devices)),
    "batch_size": config.batch_size,
    "memory": dict(compiled.memory),
    "chip": None if chip is None else dataclasses.asdict(chip),
    "compile_seconds": compiled.seconds,
    "fits": not compiled.too_large,
    "too_large": compiled.too_large,
  }
  if compiled.too_large:
    return row
  traffic = program.traffic(compiled.text)
  row |= {
    "eval_bytes": compiled.eval_bytes,
    "flops": compiled.flops,
    "flops_source": compiled.flops_source,
    "memory_traffic_bytes": traffic.memory_bytes,
    "collectives": _by_kind(traffic.collectives),
    "unknown_loops": traffic.unknown_loops,
  }
  if measured is not None:
    row["measured_seconds"] = measured
  if chip is None:
    return row
  line = roofline.estimate(
    chip,
    flops=compiled.flops,
    memory_bytes=traffic.memory_bytes,
    collectives=traffic.collectives,
    slice_shape=topology.shape,
  )
  low, high = line.step_seconds
  return row | {
    "intensity": line.intensity,
    "seconds": dict(line.seconds),
    "bound": line.bound,
    "step_seconds": [low, high],
    "examples_per_second": [config.batch_size / t for t in (high, low)],
    "efficiency": list(line.efficiency),
  }


def _by_kind(collectives: Iterable[program.Collective]):
  kinds: dict[str, dict[str, float]] = {}
  for collective in collectives:
    sums = kinds.setdefault(
      collective.kind, {"times": 0, "wire_bytes": 0.0, "network_bytes": 0.0}
    )
    sums["times"] += collective.times
    sums["wire_bytes"] += collective.wire_bytes
    if collective.between_slices:
      sums["network_bytes"] += collective.wire_bytes
  return kinds


def largest_batch(
  topology: topology_lib.Topology,
  config: ml_collections.ConfigDict,
  row: Mapping[str, Any],
  log: Callable[[int], None] = lambda size: None,
) -> int | None:
  """Returns the largest batch size that fits, by doubling or halving.

  Args:
    topology: The devices.
    config: The config, with the initial batch size.
    row: The result of `estimate` of this config.
    log: Called with each batch size before compiling.

  Returns:
    The batch size; None: no size fits.
  """

  def fits(size):
    sized = config_lib.with_batch_size(config, size)
    try:
      config_lib.validate(sized, len(topology.devices))
    except jaxplay.UserError:  # Fewer examples than devices.
      return None
    log(size)
    return not topology_lib.compile_for(sized, topology.devices).too_large

  size = config.batch_size
  for _ in range(_MOST_DOUBLINGS):
    if row["fits"]:
      if not fits(2 * size):
        return size
      size *= 2
      continue
    size //= 2
    fitting = fits(size) if size else None
    if fitting is None:
      return None
    if fitting:
      return size
  return size
