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
  """Makes `predict(variables, batch)`: what is saved of the fixed sample."""

  def predict(variables, batch):
    logits, _ = models.apply(model, *variables, task.inputs(batch))
    return task.predictions(logits, batch)

  return predict


def suffix(objective: str) -> str:
  """Of the weights that an objective is about: "valid_ema/loss" -> "_ema"."""
  return objective.split("/")[0].removeprefix("valid")


def export_forward(
  model, task, variables: Any, example: Mapping[str, tuple]
) -> bytes:
  """Logits of raw inputs, as `jax.export` serializes it; any batch size.

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
    dimensions, dtype = ("batch", "length"), np.int32
  else:
    shape, dtype = example["image"]
    dimensions = ("batch", *map(str, shape))
  shape = jax_export.symbolic_shape(",".join(dimensions))
  return jax_export.export(jax.jit(forward), platforms=("cpu", "cuda", "tpu"))(
    weights, jax.ShapeDtypeStruct(shape, dtype)
  ).serialize()


def write_export(folder: pathlib.Path, program: bytes, variables: Any) -> None:
  """Writes what runs the model where jaxplay is not installed.

  `forward.jaxexport` is the program, for CPU, CUDA and TPU, and `weights.npz`
  holds its first argument:

      saved = (folder / "forward.jaxexport").read_bytes()
      forward = jax.export.deserialize(saved)
      weights = dict(np.load(folder / "weights.npz"))
      logits = forward.call(weights, images)  # uint8 [batch, *image_shape]

  (Of a language model: int32 tokens [batch, length].)

  Args:
    folder: Where to write; is made.
    program: From `export_forward`.
    variables: (params, batch_stats) of numpy arrays.
  """
  folder.mkdir(exist_ok=True)
  with rundir.replacing(folder / "weights.npz") as file:
    np.savez(file, **_named(variables))
  # Last: an export that was killed half-way is made again.
  rundir.write_bytes(folder / "forward.jaxexport", program)


def exported(folder: pathlib.Path) -> bool:
  """Whether `write_export` was here, and finished."""
  return (folder / "forward.jaxexport").exists()


def _named(variables):
  """Path of each leaf, such as "0/Dense_0/kernel", -> numpy array."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(variables)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
    for path, leaf in leaves
  }
