"""A regression that outliers do not spoil, with a metric of its own."""

from typing import Annotated

import jax.numpy as jnp
import optax


class Robust:
  """Huber's loss; its field is config.task.delta."""

  delta: Annotated[float, "(0, inf)", "errors beyond it count linearly"] = 1.0
  maximize = ("within",)  # of this metric, more is better

  def loss(self, outputs, batch):
    """Of each example [batch]."""
    error = outputs.reshape(-1) - batch["target"].reshape(-1)
    return optax.huber_loss(error, delta=self.delta) / self.delta

  def metrics(self, outputs, batch):
    """Of each example [batch]; their means over the split are logged."""
    error = jnp.abs(outputs.reshape(-1) - batch["target"].reshape(-1))
    return {"within": error < 0.25, "mae": error}
