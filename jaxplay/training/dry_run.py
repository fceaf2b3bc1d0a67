"""What a run would be, without running it: `jaxplay train --dry_run`."""

import json
from collections.abc import Iterator
from typing import Any

import jax
import ml_collections
import numpy as np
from clu import parameter_overview

from jaxplay import config as config_lib
from jaxplay.training import sharding, train


def describe(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields, for the terminal: config, parameters, FLOPs and memory."""
  yield json.dumps(config_lib.as_json(config), indent=1)
  workload = train.make_workload(config)
  table = parameter_overview.get_parameter_overview(
    workload.state.params, include_stats="sharding"
  )
  yield table
  costs = compile_costs(config, workload)
  axes = " x ".join(f"{n} {axis}" for axis, n in workload.mesh.shape.items())
  yield f"mesh: {axes} ({workload.mesh.devices.flat[0].device_kind})"
  yield (
    f"one training step, per device: {costs['flops']:.4g} FLOPs"
    f" and {_bytes(costs['bytes'])} of memory (of these, state"
    f" {_bytes(costs['state_bytes'])}, temporaries"
    f" {_bytes(costs['temporary_bytes'])})"
  )
  examples = config.max_train_steps * config.batch_size
  epochs = examples / workload.dataset.splits["train"].num_examples
  yield f"the whole run: {examples:,} examples, {epochs:.1f} epochs"


def compile_costs(
  config: ml_collections.ConfigDict, workload: train.Workload
) -> dict[str, float]:
  """Compiles the train step for this mesh and asks the compiler.

  Returns:
    Per device: flops of a step; bytes at its peak, and of these state_bytes
    (parameters, optimizer, averages) and temporary_bytes.
  """
  compiled = _compile(config, workload, config.microbatches)
  memory = compiled.memory_analysis()
  # The cost analysis counts the body of a loop once, however often it runs.
  whole = (
    compiled if config.microbatches == 1 else _compile(config, workload, 1)
  )
  return {
    "flops": whole.cost_analysis().get("flops", 0.0),
    "bytes": memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes,
    "state_bytes": memory.alias_size_in_bytes,
    "temporary_bytes": memory.temp_size_in_bytes,
  }


def _compile(config, workload, microbatches):
  shapes: dict[str, Any] = dict(workload.dataset.example)
  if config.dataset.augment != "none":
    shapes["moves"] = ((3,), np.int32)
  size = config.batch_size // microbatches
  batch = {
    name: jax.ShapeDtypeStruct(
      (microbatches, size, *shape),
      dtype,
      sharding=sharding.batch(workload.mesh, axis=1),
    )
    for name, (shape, dtype) in shapes.items()
  }
  with config.unlocked():
    config = config.copy_and_resolve_references()
    config.microbatches = microbatches
  step = jax.jit(
    train.make_train_step(config, workload.model, workload.task),
    donate_argnums=1,
    out_shardings=(
      jax.tree.map(lambda leaf: leaf.sharding, workload.state),
      sharding.replicated(workload.mesh),
    ),
  )
  return step.lower(workload.hparams, workload.state, batch).compile()


def _bytes(number):
  for unit in ("bytes", "KiB", "MiB", "GiB"):
    if number < 1024 or unit == "GiB":
      return (
        f"{number:,.0f} {unit}" if unit == "bytes" else f"{number:.1f} {unit}"
      )
    number /= 1024
