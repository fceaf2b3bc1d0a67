"""Exact evaluation of a whole split, and the exported forward function."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from jaxplay import models, rundir
from jaxplay.config import metric as metric_lib
from jaxplay.training import own_task, scores, tasks

PLATFORMS = ("cpu", "cuda", "tpu")


def make_eval_batch(
  model, task, metric: metric_lib.Metric | None = None
) -> Callable:
  """Makes `eval_batch(variables, batch, hparams) -> sums` over a padded batch.

  `variables` is (params, batch_stats); see `Classification.eval_sums`. Only the
  loss of a user's task may read `hparams`.

  Args:
    model: From `models.build`.
    task: From `tasks`.
    metric: Whose cost of each example is added as `scores.COSTS`, if it is a
      mean over examples; None: of none.
  """

  def eval_batch(variables, batch, hparams=None):
    outputs, _ = models.apply(model, *variables, task.inputs(batch))
    own = (hparams,) if isinstance(task, own_task.OwnTask) else ()
    sums = task.eval_sums(outputs, batch, *own)
    costs = metric and task.costs(outputs, batch, metric, *own)
    if costs:
      sums[scores.COSTS] = {**costs, "weight": batch["weight"]}
    return sums

  return eval_batch


def make_predict(model, task) -> Callable:
  """Makes `predict(variables, batch) -> predictions` of the fixed sample."""

  def predict(variables, batch):
    logits, _ = models.apply(model, *variables, task.inputs(batch))
    return task.predictions(logits, batch)

  return predict


def suffix(objective: str) -> str:
  """Suffix of the weights of an objective: "valid_ema/loss" -> "_ema"."""
  return objective.split("/")[0].removeprefix("valid")


class NotExportable(Exception):
  """The forward function cannot be exported; why, in a sentence."""


def export_forward(
  model, task, variables: Any, example: Mapping[str, tuple]
) -> tuple[bytes, str]:
  """Serializes raw inputs -> outputs with `jax.export`, for any batch size.

  The raw inputs are the features that the task reads: an array if it is one,
  else a dict of arrays. Of text they are the tokens, of any length.

  Args:
    model: From `models.build`.
    task: From `tasks`.
    variables: (params, batch_stats) of numpy arrays.
    example: Of the data set: feature -> (shape, dtype).

  Returns:
    (program, note). A model that can only be traced with known shapes is
    exported for a batch of one example, and the note says so; else it is empty.

  Raises:
    NotExportable: It cannot be traced for every platform.
  """
  leaves, structure = jax.tree.flatten(variables)
  names = list(_named(variables))
  is_text = isinstance(task, tasks.NextToken)
  read = ["tokens"] if is_text else _read(task, example)

  def forward(weights, raw):
    tree = jax.tree.unflatten(structure, [weights[name] for name in names])
    features = {read[0]: raw} if len(read) == 1 else raw
    inputs = raw if is_text else task.inputs(features)
    return models.apply(model, *tree, inputs)[0]

  weights = {
    name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    for name, leaf in zip(names, leaves, strict=True)
  }

  def serialized(batch):
    scope = jax_export.SymbolicScope()
    raw = {}
    for name in read:
      shape, dtype = example[name]
      if is_text:
        shape, dtype = (shape[0] - 1 if batch == "1" else "length",), np.int32
      dimensions = ",".join(map(str, [batch, *shape]))
      symbolic = jax_export.symbolic_shape(dimensions, scope=scope)
      raw[name] = jax.ShapeDtypeStruct(symbolic, dtype)
    export = jax_export.export(jax.jit(forward), platforms=PLATFORMS)
    inputs = raw[read[0]] if len(read) == 1 else raw
    return bytes(export(weights, inputs).serialize())

  try:
    return serialized("batch"), ""
  except Exception as error:  # A user's model may fail in any way.
    reason = _reason(error)
  try:
    note = (
      f"the model is exported for batches of one example: {reason}, when the"
      " batch size is not known"
    )
    return serialized("1"), note
  except Exception as error:
    raise NotExportable(
      f"the model is not exported: {_reason(error)}; set config.export=False to"
      " train without an export"
    ) from error


def _read(task, example):
  """Names of the features that the inputs of a task are made of."""
  shapes = {
    name: jax.ShapeDtypeStruct((1, *shape), dtype)
    for name, (shape, dtype) in example.items()
  }
  jaxpr = jax.make_jaxpr(task.inputs)(shapes).jaxpr
  used = [*jaxpr.outvars, *(v for eqn in jaxpr.eqns for v in eqn.invars)]
  # The leaves of a dict are in the order of its sorted names.
  names = zip(sorted(shapes), jaxpr.invars, strict=True)
  return [name for name, variable in names if any(v is variable for v in used)]


def _reason(error):
  lines = str(error).strip().splitlines()
  return f"{type(error).__name__}: {lines[0] if lines else ''}".rstrip(": .")


def write_export(folder: pathlib.Path, program: bytes, variables: Any) -> None:
  """Writes the files that run the model without jaxplay.

  `forward.jaxexport` is the program, for CPU, CUDA and TPU, and `weights.npz`
  holds its first argument:

      saved = (folder / "forward.jaxexport").read_bytes()
      forward = jax.export.deserialize(saved)
      weights = dict(np.load(folder / "weights.npz"))
      outputs = forward.call(weights, images)  # uint8 [batch, *image_shape]

  (For a language model: int32 tokens [batch, length].) `forward.in_avals` are
  the shapes and types of its arguments; the batch size is a symbol, or 1 for a
  model that cannot be traced for any.

  Args:
    folder: Where to write; created if needed.
    program: From `export_forward`.
    variables: (params, batch_stats) of numpy arrays.
  """
  folder.mkdir(exist_ok=True)
  with rundir.replacing(folder / "weights.npz") as file:
    np.savez(file, **_named(variables))
  # Last: an interrupted export is repeated.
  rundir.write_bytes(folder / "forward.jaxexport", program)


def exported(folder: pathlib.Path) -> bool:
  """Whether a folder holds a complete export."""
  return (folder / "forward.jaxexport").exists()


def _named(variables):
  """Path of each leaf, such as "0/Dense_0/kernel", -> numpy array."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
    for path, leaf in leaves
  }
