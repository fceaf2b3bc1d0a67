"""Decoder-only transformer language model, as in Hägele et al. 2024.

Pre-RMSNorm, rotary positions, SwiGLU, no biases.
"""

import jax.numpy as jnp
from flax import linen as nn

from jaxplay.models import transformer


class LM(transformer.Transformer):
  """Next-token predictor; `num_classes` is the vocabulary size.

  Attributes, beside those of `Transformer`:
    tied_embedding: Whether the output layer is the embedding, transposed.
    rotary_base: See `transformer.rotary`.
  """

  tied_embedding: bool = False
  rotary_base: float = 10_000.0

  @nn.compact
  def __call__(
    self, tokens, *, train, weights=None, rows=None, dropout_rate=0.0
  ):
    """Float32 logits [batch, length, tokens] of int32 [batch, length]."""
    embed = nn.Embed(
      self.num_classes,
      self.width,
      embedding_init=nn.initializers.normal(0.02),
      name="embedding",
    )
    rotation = transformer.rotary(
      tokens.shape[-1], self.width // self.heads, self.rotary_base
    )
    decoder = self.blocks("decoder", causal=True)
    # If the table and the tokens are split over the same devices, a look-up
    # would gather the activations; gathering the table is cheaper.
    table = self.constrain(embed.embedding.astype(self.dtype), whole=True)
    x = jnp.take(table, tokens, axis=0)
    x = decoder(x, rotation, train=train, rate=dropout_rate, rows=rows)
    if self.tied_embedding:
      kernel = embed.embedding.T
    else:
      kernel = _Head(self.num_classes, name="head")(self.width)
    # Accumulated in float32, which nn.Dense of this dtype would not do.
    return jnp.einsum(
      "blw,wv->blv",
      x,
      kernel.astype(self.dtype),
      preferred_element_type=jnp.float32,
    )


class _Head(nn.Module):
  """The kernel of the output layer."""

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
    **model.inner_parameters(),
    "head": 0 if model.tied_embedding else table,
  }


def flops_per_token(model: LM, length: int) -> dict[str, float]:
  """FLOPs of the forward pass for one token, by group.

  A training step takes three times as many: the backward pass has two matrix
  products for each of the forward pass. `transformer.block_flops` documents
  what is counted.
  """
  return {
    "embedding": 0,  # a look-up
    **model.inner_flops(length),
    "head": 2 * model.num_classes * model.width,
  }
