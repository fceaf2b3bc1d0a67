"""Activation functions by name, of every family."""

from collections.abc import Callable, Mapping

import jax
from flax import linen as nn

ACTIVATIONS: Mapping[str, Callable[[jax.Array], jax.Array]] = {
  "relu": nn.relu,
  "leaky_relu": nn.leaky_relu,
  "elu": nn.elu,
  "gelu": nn.gelu,  # with tanh (Hendrycks and Gimpel 2016)
  "silu": nn.silu,
  "mish": jax.nn.mish,
  "softplus": nn.softplus,
  "tanh": nn.tanh,
  "sigmoid": nn.sigmoid,
}
