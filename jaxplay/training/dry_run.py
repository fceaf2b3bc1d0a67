"""Costs of a run without training: `jaxplay train --dry_run`."""

import dataclasses
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from clu import parameter_overview

import jaxplay
from jaxplay import config as config_lib
from jaxplay import models
from jaxplay.training import memory, sharding
from jaxplay.training import workload as workload_lib


def describe(config: ml_collections.ConfigDict) -> Iterator[str]:
  """Yields lines for the terminal: config, parameters, FLOPs and memory."""
  shown = config_lib.as_json(config)
  del shown["declared"]  # What keys are, not their values.
  yield json.dumps(shown, indent=1)
  workload = workload_lib.make_workload(config)
  yield from parameter_table(workload, config.mesh.rules)
  if config.init_from:
    from jaxplay.training import weights  # Checkpoints are slow to import.

    yield from weights.summary(weights.load(config, workload.state).facts)
  costs = compile_costs(config, workload)
  sizes = workload.mesh.shape.items()
  axes = " x ".join(f"{n} {axis}" for axis, n in sizes if n > 1) or "1 device"
  yield f"mesh: {axes} ({workload.mesh.devices.flat[0].device_kind})"
  yield (
    f"one training step, per device: {costs['flops']:.4g} FLOPs"
    f" and {format_bytes(costs['bytes'])} of memory (of these, state"
    f" {format_bytes(costs['state_bytes'])}, temporaries"
    f" {format_bytes(costs['temporary_bytes'])})"
  )
  example = workload.dataset.example
  parameters = models.parameters(workload.model, example)
  by_group = formula_flops(config, workload)
  if parameters and by_group:
    yield "parameters: " + _groups(parameters)
    yield "one training step, by the formula, FLOPs: " + _groups(by_group)
  examples = config.max_train_steps * config.batch_size
  epochs = examples / workload.dataset.splits["train"].num_examples
  yield f"the whole run: {examples:,} examples, {epochs:.1f} epochs"


@dataclasses.dataclass(frozen=True)
class _Row:
  """A row of the table of parameters; the fields are its columns."""

  name: str
  shape: str
  elements: str
  partition: str
  on_each_device: str
  why_not_split: str


def parameter_table(
  workload: workload_lib.Workload, rules: Sequence[Any]
) -> Iterator[str]:
  """Yields a table of the parameters and their sharding."""
  params = workload.state.params
  placements = sharding.placements(workload.mesh, {"params": params}, rules)
  rows, whole, held = [], 0, 0
  for (path, leaf), placement in zip(
    jax.tree_util.tree_leaves_with_path(params),
    jax.tree.leaves(placements["params"]),
    strict=True,
  ):
    each = math.prod(placement.sharding.shard_shape(leaf.shape))
    whole += leaf.size
    held += each * leaf.dtype.itemsize
    axes = [axis or "-" for axis in placement.sharding.spec]
    rows.append(
      _Row(
        jax.tree_util.keystr(path, simple=True, separator="/"),
        " x ".join(map(str, leaf.shape)),
        f"{leaf.size:,}",
        " x ".join(axes),
        format_bytes(each * leaf.dtype.itemsize),
        placement.why if workload.mesh.size > 1 else "",
      )
    )
  yield parameter_overview.make_table(rows)
  yield f"{whole:,} parameters, {format_bytes(held)} of them on each device"


def count(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Parameters and FLOPs of a language model's training.

  Returns:
    "parameters": by group. "flops_per_step", over all devices: by "formula",
    see `formula_flops`, and as "compiled", with the optimizer.
    "tokens_per_step".

  Raises:
    jaxplay.UserError: It is not a language model.
  """
  if not config_lib.is_text(config):
    raise jaxplay.UserError(
      f"config.model.name is {config.model.name!r}; a ladder requires a"
      " language model, 'lm'"
    )
  workload = workload_lib.make_workload(config)
  example = workload.dataset.example
  return {
    "parameters": models.parameters(workload.model, example),
    "flops_per_step": {
      "formula": sum((formula_flops(config, workload) or {}).values()),
      "compiled": _unrolled_flops(config) * workload.mesh.size,
    },
    "tokens_per_step": config.batch_size * config.dataset.sequence_length,
  }


def formula_flops(
  config: ml_collections.ConfigDict, workload: workload_lib.Workload
) -> dict[str, float] | None:
  """FLOPs of a transformer's training step over all devices, by group.

  Three times those of the forward pass, without rematerialization; None for
  other models. See `models.forward_flops`.
  """
  forward = models.forward_flops(workload.model, workload.dataset.example)
  if forward is None:
    return None
  passes = 3 * config.batch_size
  return {group: passes * number for group, number in forward.items()}


def _unrolled_flops(config):
  """FLOPs of a step on one device, as the compiler counts them without loops.

  It counts the body of a loop once, however often that runs. So this uses one
  microbatch, and counts each block after the first as the difference between
  models of two blocks and of one.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.microbatches = 1
  if config.model.name not in config_lib.TRANSFORMERS:
    return _compiled_flops(config)
  depth = config.model.depth
  config.model.depth = 1
  shallow = _compiled_flops(config)
  config.model.depth = 2
  return shallow + (depth - 1) * (_compiled_flops(config) - shallow)


def _compiled_flops(config):
  workload = workload_lib.make_workload(config, unroll=True)
  return _flops_of(_compile(config, workload))


def _flops_of(compiled):
  return compiled.cost_analysis().get("flops", 0.0)


def compile_costs(
  config: ml_collections.ConfigDict, workload: workload_lib.Workload
) -> dict[str, float]:
  """Compiles the train step for this mesh, and returns its costs.

  Returns:
    Per device: flops of a step; peak bytes, of which state_bytes (parameters,
    optimizer, averages) and temporary_bytes.
  """
  compiled = _compile(config, workload)
  sizes = compiled.memory_analysis()
  loops = config.microbatches > 1 or (
    config.model.name in config_lib.TRANSFORMERS
  )
  return {
    "flops": _unrolled_flops(config) if loops else _flops_of(compiled),
    "bytes": memory.peak_bytes(compiled),
    "state_bytes": sizes.alias_size_in_bytes,
    "temporary_bytes": sizes.temp_size_in_bytes,
  }


def _compile(config, workload):
  return lower_train_step(config, workload).compile()


def lower_train_step(
  config: ml_collections.ConfigDict, workload: workload_lib.Workload
):
  """Lowers the training step of a config for its mesh."""
  size = config.batch_size // config.microbatches
  shapes = batch_shapes(config, workload)
  batch = _batch(workload, shapes, (config.microbatches, size))
  step = jax.jit(
    workload_lib.make_train_step(config, workload.model, workload.task),
    donate_argnums=1,
    out_shardings=(
      jax.tree.map(lambda leaf: leaf.sharding, workload.state),
      sharding.replicated(workload.mesh),
    ),
  )
  return step.lower(workload.hparams, workload.state, batch)


def batch_shapes(
  config: ml_collections.ConfigDict, workload: workload_lib.Workload
) -> dict[str, tuple[tuple[int, ...], Any]]:
  """Feature -> (shape, dtype) of one training example."""
  shapes: dict[str, Any] = dict(workload.dataset.example)
  if config.dataset.augment in config_lib.MOVES:
    shapes["moves"] = ((3,), np.int32)
  return shapes


def lower_eval_step(
  config: ml_collections.ConfigDict, workload: workload_lib.Workload
):
  """Lowers the evaluation of a batch, as `lower_train_step`."""
  shapes = dict(workload.dataset.example, weight=((), np.float32))
  size = sharding.padded(workload.mesh, config.eval_batch_size)
  batch = _batch(workload, shapes, (size,))
  eval_batch = workload_lib.make_eval_batch(workload, config)
  step = jax.jit(eval_batch, out_shardings=sharding.replicated(workload.mesh))
  state = workload.state
  variables = (state.params, state.batch_stats)
  return step.lower(variables, batch, workload.hparams)


def _batch(workload, shapes, leading):
  """ShapeDtypeStructs of a batch; the last leading dimension is of examples."""
  where = sharding.batch(workload.mesh, axis=len(leading) - 1)
  return {
    name: jax.ShapeDtypeStruct((*leading, *shape), dtype, sharding=where)
    for name, (shape, dtype) in shapes.items()
  }


def _groups(numbers):
  parts = ", ".join(f"{name} {number:.4g}" for name, number in numbers.items())
  return f"{sum(numbers.values()):.4g} ({parts})"


def format_bytes(number: float) -> str:
  """Formats a number of bytes, such as "1.5 GiB"."""
  if number < 2**10:
    return f"{number:,.0f} bytes"
  for unit, size in (("KiB", 2**10), ("MiB", 2**20)):
    if number < 1024 * size:
      return f"{number / size:.1f} {unit}"
  return f"{number / 2**30:.1f} GiB"
