"""Dropout with a traced rate and one random stream per example."""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn


class Dropout(nn.Module):
  """Zeroes activations with probability `rate` and rescales the others.

  Unlike in `nn.Dropout`, the rate may be a tracer, and the mask of an example
  depends only on its row in the global batch: it is the same with and without
  gradient accumulation, and on any devices.
  """

  @nn.compact
  def __call__(self, x, *, train, rate, rows):
    """Drops from `x` [batch, ...]; `rows` [batch] are global batch rows."""
    if not train or self.is_initializing():
      return x
    key = self.make_rng("dropout")
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    # Flat: XLA is several times slower to compile and draw more dimensions.
    size = math.prod(x.shape[1:])
    draw = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, (size,)))
    keep = draw(keys).reshape(x.shape)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)
