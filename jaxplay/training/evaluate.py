"""Exact evaluation of a whole split, and the exported forward function."""

import pathlib
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import export as jax_export

from jaxplay import models


def make_eval_batch(model, task) -> Callable:
  """Makes `eval_batch(variables, batch) -> sums` over one padded batch.

  `variables` is (params, batch_stats); see `Classification.eval_sums`.
  """

  def eval_batch(variables, batch):
    logits, _ = models.apply(model, *variables, task.inputs(batch))
    return task.eval_sums(logits, batch)

  return eval_batch


def make_predict(model, task) -> Callable:
  """Makes `predict(variables, batch) -> logits` [batch, classes]."""

  def predict(variables, batch):
    return models.apply(model, *variables, task.inputs(batch))[0]

  return predict


def export_forward(
  folder: pathlib.Path,
  predict: Callable,
  variables: Any,
  image_shape: tuple[int, ...],
) -> None:
  """Writes the forward function, to be run where jaxplay is not installed.

  `forward.jaxexport` is `predict` on raw images, as serialized by `jax.export`
  for CPU, CUDA and TPU and for any batch size; `weights.npz` holds its first
  argument:

      saved = (folder / "forward.jaxexport").read_bytes()
      forward = jax.export.deserialize(saved)
      weights = dict(np.load(folder / "weights.npz"))
      logits = forward.call(weights, images)  # uint8 [batch, *image_shape]

  Args:
    folder: Where to write; is made.
    predict: From `make_predict`.
    variables: (params, batch_stats) of numpy arrays.
    image_shape: Height, width, channels.
  """
  leaves, structure = jax.tree_util.tree_flatten_with_path(variables)
  names = [
    jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves
  ]

  def forward(weights, images):
    tree = jax.tree.unflatten(structure, [weights[name] for name in names])
    return predict(tree, {"image": images})

  weights = {
    name: np.asarray(leaf)
    for name, (_, leaf) in zip(names, leaves, strict=True)
  }
  dimensions = ("batch", *map(str, image_shape))
  shape = jax_export.symbolic_shape(",".join(dimensions))
  exported = jax_export.export(
    jax.jit(forward), platforms=("cpu", "cuda", "tpu")
  )(weights, jax.ShapeDtypeStruct(shape, np.uint8))
  folder.mkdir(exist_ok=True)
  np.savez(folder / "weights.npz", **weights)
  (folder / "forward.jaxexport").write_bytes(exported.serialize())
