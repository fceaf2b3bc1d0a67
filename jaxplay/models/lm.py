"""Decoder-only transformer language model, as in Hägele et al. 2024.

Pre-RMSNorm, rotary positions, SwiGLU, no biases.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxplay.models import attention, transformer


class LM(nn.Module):
  """Next-token predictor.

  Attributes:
    num_classes: Number of different tokens.
    norm: Constructor of a norm layer.
    norm_bias: Whether the norm has a bias (for `parameters`).
    attend: See `transformer.Attention`.
    depth: Number of blocks.
    width: Features of the residual stream.
    heads: Attention heads, which divide the width.
    mlp_width: Hidden features of the MLP; 0: see `transformer.mlp_features`.
    tied_embedding: Whether the output layer is the embedding, transposed.
    qk_norm: Whether queries and keys are normalized.
    rotary_base: See `transformer.rotary`.
    zero_init_residual: Whether residual branches begin as zero.
    dropout: Whether there is dropout after each branch.
    remat: Key of `transformer.REMAT`.
    unroll: See `transformer.Blocks`.
    dtype: Type of the computation; parameters and logits are float32.
  """

  num_classes: int
  norm: Callable
  norm_bias: bool = False
  attend: Callable = attention.attend
  depth: int = 2
  width: int = 128
  heads: int = 4
  mlp_width: int = 0
  tied_embedding: bool = False
  qk_norm: bool = False
  rotary_base: float = 10_000.0
  zero_init_residual: bool = False
  dropout: bool = False
  remat: str = "none"
  unroll: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(
    self, tokens, *, train, weights=None, rows=None, dropout_rate=0.0
  ):
    """Float32 logits [batch, length, tokens] of int32 [batch, length]."""
    embed = nn.Embed(
      self.num_classes,
      self.width,
      dtype=self.dtype,
      embedding_init=nn.initializers.normal(0.02),
      name="embedding",
    )
    rotation = transformer.rotary(
      tokens.shape[-1], self.width // self.heads, self.rotary_base
    )
    x = transformer.Blocks(
      norm=self.norm,
      attend=self.attend,
      depth=self.depth,
      heads=self.heads,
      causal=True,
      mlp_width=self.mlp_width,
      qk_norm=self.qk_norm,
      zero_init_residual=self.zero_init_residual,
      dropout=self.dropout,
      remat=self.remat,
      unroll=self.unroll,
      dtype=self.dtype,
      name="decoder",
    )(embed(tokens), rotation, train=train, rate=dropout_rate, rows=rows)
    if self.tied_embedding:
      kernel = embed.embedding.T
    else:
      kernel = _Head(self.num_classes, name="head")(self.width)
    # Summed in float32, which a layer of this type would not do.
    return jnp.einsum(
      "blw,wv->blv",
      x,
      kernel.astype(self.dtype),
      preferred_element_type=jnp.float32,
    )


class _Head(nn.Module):
  """The kernel of the output layer, under a name of its own."""

  features: int

  @nn.compact
  def __call__(self, width):
    shape = (width, self.features)
    return self.param("kernel", nn.initializers.normal(0.02), shape)


def parameters(model: LM) -> dict[str, int]:
  """Number of parameters by group: embedding, attention, mlp, norm, head."""
  table = model.num_classes * model.width
  return {
    "embedding": table,
    **transformer.block_parameters(
      width=model.width, depth=model.depth, mlp_width=model.mlp_width
    ),
    "norm": transformer.norm_parameters(
      width=model.width,
      depth=model.depth,
      heads=model.heads,
      qk_norm=model.qk_norm,
      norm_bias=model.norm_bias,
    ),
    "head": 0 if model.tied_embedding else table,
  }


def flops_per_token(model: LM, length: int) -> dict[str, float]:
  """FLOPs of the forward pass for one token, by group.

  A step of training takes three times as many: the backward pass is two
  products for each of the forward pass. See `transformer.block_flops` on what
  is counted.
  """
  return {
    "embedding": 0,  # a look-up
    **transformer.block_flops(
      width=model.width,
      depth=model.depth,
      mlp_width=model.mlp_width,
      length=length,
    ),
    "head": 2 * model.num_classes * model.width,
  }
