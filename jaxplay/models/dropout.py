"""Dropout with a traced rate and one random stream per example."""

import jax
import jax.numpy as jnp
from flax import linen as nn


class Dropout(nn.Module):
  """Zeroes activations with probability `rate` and rescales the others.

  Unlike `nn.Dropout` the rate may be a tracer, and the mask of an example
  depends on its row in the global batch, not on the shape of the array that it
  sits in: the same with and without gradient accumulation, on any devices.
  """

  @nn.compact
  def __call__(self, x, *, train, rate, rows):
    """Drops from `x` [batch, ...]; `rows` [batch] are global batch rows."""
    if not train or self.is_initializing():
      return x
    key = self.make_rng("dropout")
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    keep = jax.vmap(lambda k: jax.random.bernoulli(k, 1 - rate, x.shape[1:]))
    return jnp.where(keep(keys), x / (1 - rate), 0).astype(x.dtype)
