"""Multilayer perceptron: layers of one width, norm, activation, dropout."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxplay.models import activation, dropout


class MLP(nn.Module):
  """Classifier on flattened inputs.

  Attributes:
    num_classes: Size of the output.
    norm: Constructor of a norm layer.
    depth: Number of hidden layers.
    width: Features of each hidden layer.
    constrain: Sharding constraint of the activations after each layer.
    activation: Key of `activation.ACTIVATIONS`.
    dropout: Whether there is dropout after each hidden layer.
    dtype: Type of the computation; parameters are float32.
  """

  num_classes: int
  norm: Any
  constrain: Callable = lambda x: x
  depth: int = 2
  width: int = 128
  activation: str = "relu"
  dropout: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train, weights=None, rows=None, dropout_rate=0.0):
    """Logits [batch, num_classes] of `x` [batch, ...]."""
    x = x.reshape((x.shape[0], -1)).astype(self.dtype)
    activate = activation.ACTIVATIONS[self.activation]
    for _ in range(self.depth):
      x = nn.Dense(self.width, dtype=self.dtype)(x)
      x = self.norm()(x, train=train, weights=weights)
      x = self.constrain(activate(x))
      if self.dropout:
        x = dropout.Dropout()(x, train=train, rate=dropout_rate, rows=rows)
    return nn.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)
