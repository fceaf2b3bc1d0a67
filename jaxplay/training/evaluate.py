"""Exact evaluation of a whole split, and the exported forward function."""

import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from jaxplay import models, rundir


def make_eval_batch(model, task) -> Callable:
  """Makes `eval_batch(variables, batch) -> sums` over one padded batch.

  `variables` is (params, batch_stats); see `Classification.eval_sums`.
  """

  def eval_batch(variables, batch):
    logits, _ = models.apply(model, *variables, task.inputs(batch))
    return task.eval_sums(logits, batch)

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


def export_forward(
  model, task, variables: Any, example: Mapping[str, tuple]
) -> bytes:
  """Serializes raw inputs -> logits with `jax.export`, for any batch size.

  Args:
    model: From `models.build`.
    task: From `tasks`.
    variables: (params, batch_stats) of numpy arrays.
    example: Of the data set: feature -> (shape, dtype).
  """
  leaves, structure = jax.tree.flatten(variables)
  names = list(_named(variables))

  def forward(weights, raw):
    tree = jax.tree.unflatten(structure, [weights[name] for name in names])
    inputs = raw if "tokens" in example else task.inputs({"image": raw})
    return models.apply(model, *tree, inputs)[0]

  weights = {
    name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    for name, leaf in zip(names, leaves, strict=True)
  }
  if "tokens" in example:
    dimensions, dtype = ["batch", "length"], np.int32
  else:
    shape, dtype = example["image"]
    dimensions = ["batch", *map(str, shape)]
  inputs = jax.ShapeDtypeStruct(
    jax_export.symbolic_shape(",".join(dimensions)), dtype
  )
  export = jax_export.export(jax.jit(forward), platforms=("cpu", "cuda", "tpu"))
  return bytes(export(weights, inputs).serialize())


def write_export(folder: pathlib.Path, program: bytes, variables: Any) -> None:
  """Writes the files that run the model without jaxplay.

  `forward.jaxexport` is the program, for CPU, CUDA and TPU, and `weights.npz`
  holds its first argument:

      saved = (folder / "forward.jaxexport").read_bytes()
      forward = jax.export.deserialize(saved)
      weights = dict(np.load(folder / "weights.npz"))
      logits = forward.call(weights, images)  # uint8 [batch, *image_shape]

  (For a language model: int32 tokens [batch, length].)

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
