"""Models: a table of families, and functions that hide Flax from training.

Outside this package a model is a pair of pure functions: `init` returns
parameters and batch statistics, `apply` returns outputs. Only this package
imports Flax.
"""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxplay.models import (
  activation,
  attention,
  lm,
  mlp,
  norm,
  of_user,
  resnet,
  vit,
)

attend = attention.attend
ACTIVATIONS = activation.ACTIVATIONS
Example = Mapping[str, tuple[tuple[Any, ...], Any]]  # name -> (shape, dtype)

FAMILIES: dict[str, type[nn.Module]] = {
  "mlp": mlp.MLP,
  "resnet": resnet.ResNet,
  "wide_resnet": resnet.WideResNet,
  "vit": vit.ViT,
  "lm": lm.LM,
}


def build(
  name: str,
  num_classes: int,
  *,
  part: Any = None,
  fields: Mapping[str, Any] | None = None,
  norm_kind: str,
  virtual_batch_size: int,
  num_groups: int,
  dtype: str,
  **sizes,
):
  """A model of family `name`.

  Args:
    name: Key of `FAMILIES`; or the name of `part`.
    num_classes: Size of the output.
    part: A model of the user, see `of_user.make`; then `sizes` are not used.
    fields: Of `part`.
    norm_kind: `batch`, `ghost`, `layer`, `rms`, `group` or `none`.
    virtual_batch_size: Examples per group of ghost batch norm.
    num_groups: Feature groups of group norm.
    dtype: Type of the computation; parameters are always float32.
    **sizes: Other fields; those that the family does not have are ignored. An
      empty `activation` is the default of the family.
  """
  common = dict(
    num_classes=num_classes,
    norm=functools.partial(
      norm.Norm,
      kind=norm_kind,
      virtual_batch_size=virtual_batch_size,
      num_groups=num_groups,
      dtype=jnp.dtype(dtype),
    ),
    dtype=jnp.dtype(dtype),
  )
  if part is not None:
    where = f"config.model.name={name!r}"
    common["constrain"] = sizes.get("constrain", lambda x: x)
    return of_user.make(part, where, fields or {}, **common)
  family = FAMILIES[name]
  if not sizes.get("activation"):
    sizes.pop("activation", None)
  names = set(family.__dataclass_fields__)
  sizes["norm_bias"] = norm_kind not in ("none", "rms")
  return family(**common, **{k: v for k, v in sizes.items() if k in names})


def parameters(model, example: Example) -> dict[str, int] | None:
  """Number of parameters by group, for a transformer; else None.

  Args:
    model: From `build`.
    example: Of the data set: feature -> (shape, dtype).
  """
  if isinstance(model, lm.LM):
    return lm.parameters(model)
  if isinstance(model, vit.ViT):
    return vit.parameters(model, example["image"][0])
  return None


def forward_flops(model, example: Example) -> dict[str, float] | None:
  """FLOPs of the forward pass of one example by group, for a transformer.

  Args:
    model: From `build`.
    example: As for `parameters`; the last token is only predicted.
  """
  if isinstance(model, lm.LM):
    length = example["tokens"][0][0] - 1
    by_group = lm.flops_per_token(model, length)
    return {name: length * flops for name, flops in by_group.items()}
  if isinstance(model, vit.ViT):
    return vit.flops_per_image(model, example["image"][0])
  return None


def convolves(model, params: Any, inputs: Any) -> bool:
  """Whether the model has convolutions.

  Args:
    model: From `build`.
    params: Its parameters and batch statistics, or ShapeDtypeStructs.
    inputs: Its inputs, or a ShapeDtypeStruct.
  """
  if not isinstance(model, _OF_USER):
    return isinstance(model, resnet.ResNet | resnet.WideResNet)
  forward = jax.make_jaxpr(lambda *args: apply(model, *args)[0])
  return "conv_general_dilated" in str(forward(*params, inputs))


def averages_statistics(model) -> bool:
  """Whether `apply` returns averages, not the statistics of the batch alone."""
  return isinstance(model, _OF_USER) and model.averages


_OF_USER = of_user.Linen | of_user.Functions


def init(model, key: jax.Array, inputs: jax.Array) -> tuple[Any, Any]:
  """Parameters and batch statistics (both nested dicts) from a PRNG key."""
  if isinstance(model, _OF_USER):
    return model.init(key, inputs)
  variables = model.init(key, inputs, train=False)
  return variables["params"], variables.get("batch_stats", {})


def apply(
  model,
  params,
  batch_stats,
  inputs: jax.Array,
  *,
  train: bool = False,
  weights: jax.Array | None = None,
  rows: jax.Array | None = None,
  dropout_rate: jax.Array | float = 0.0,
  dropout_key: jax.Array | None = None,
) -> tuple[jax.Array, Any]:
  """Outputs, and (in training) the statistics of this very batch.

  Args:
    model: What `build` returned.
    params: Parameters.
    batch_stats: Averages of the batch statistics; used when not training.
    inputs: [batch, ...].
    train: Normalize by the statistics of this batch, and apply dropout.
    weights: [batch]; batch statistics ignore rows of weight zero.
    rows: [batch] rows of the global batch, which determine dropout masks.
    dropout_rate: Probability, may be traced.
    dropout_key: PRNG key for dropout in this step, if the model has any.

  Returns:
    Outputs [batch, ...], and a tree like `batch_stats`: `batch_stats` itself if
    not training, else the statistics of this batch, for the caller to average
    (unless `averages_statistics`).
  """
  if isinstance(model, _OF_USER):
    return model.apply(
      params,
      batch_stats,
      inputs,
      train=train,
      weights=weights,
      rows=rows,
      dropout_rate=dropout_rate,
      dropout_key=dropout_key,
    )
  variables = {"params": params, "batch_stats": batch_stats}
  if not train:
    return model.apply(variables, inputs, train=False), batch_stats
  outputs, updated = model.apply(
    variables,
    inputs,
    train=True,
    weights=weights,
    rows=rows,
    dropout_rate=dropout_rate,
    rngs={} if dropout_key is None else {"dropout": dropout_key},
    mutable=["batch_stats"],
  )
  return outputs, updated.get("batch_stats", {})
