"""What is learned: inputs, per-example loss, the sums that make metrics.

A task sees whole batches as dicts of arrays. Sums and counts cross devices and
hosts; means are formed once, on the host (`metrics.py`).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32

from jaxplay.data import images


@dataclasses.dataclass(frozen=True)
class Classification:
  """Images to classes.

  Attributes:
    num_classes: Number of classes.
    pixel_max: Largest pixel value; images are scaled from [0, it] to [-1, 1].
  """

  num_classes: int
  pixel_max: int

  def inputs(
    self, batch: dict[str, Array]
  ) -> Float32[Array, "batch height width channels"]:
    """Float32 [batch, height, width, channels] in [-1, 1], moved if asked."""
    image = batch["image"]
    if "moves" in batch:
      image = images.move(image, batch["moves"])
    return image.astype(jnp.float32) * (2 / self.pixel_max) - 1

  def loss(
    self,
    logits: Float32[Array, "batch classes"],
    batch: dict[str, Array],
    hparams: dict,
  ) -> Float32[Array, " batch"]:
    """Cross-entropy of each example [batch], nats, with label smoothing.

    Smoothing takes `label_smoothing` from the true class and spreads it evenly
    over all classes (Szegedy et al. 2015).
    """
    log_p = jax.nn.log_softmax(logits)
    smoothing = hparams["label_smoothing"]
    return (1 - smoothing) * _nll(log_p, batch["label"]) - (
      smoothing * log_p.mean(-1)
    )

  def errors(
    self, logits: Float32[Array, "batch classes"], batch: dict[str, Array]
  ) -> Bool[Array, " batch"]:
    """Whether each example is misclassified [batch]. NaN logits are."""
    best = jnp.argmax(logits, -1) == batch["label"]
    return ~(best & jnp.isfinite(logits).all(-1))

  def eval_sums(
    self, logits: Float32[Array, "batch classes"], batch: dict[str, Array]
  ) -> dict[str, Array]:
    """Sums over the examples of weight one, to be added up over batches.

    Returns:
      loss (nats, without smoothing), errors, weight: scalars; class_correct,
      class_count: int32 [num_classes].
    """
    counted = batch["weight"] > 0
    errors = self.errors(logits, batch) & counted
    loss = _nll(jax.nn.log_softmax(logits), batch["label"])
    classes = jax.nn.one_hot(batch["label"], self.num_classes, dtype=jnp.int32)
    return {
      # `where`, not a product: a NaN under weight zero must not count.
      "loss": jnp.sum(jnp.where(counted, loss, 0.0)),
      "errors": jnp.sum(errors, dtype=jnp.int32),
      "weight": jnp.sum(counted, dtype=jnp.int32),
      "class_correct": jnp.sum(
        classes * (counted & ~errors)[:, None], 0, dtype=jnp.int32
      ),
      "class_count": jnp.sum(classes * counted[:, None], 0, dtype=jnp.int32),
    }


def _nll(log_p, labels):
  return -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
