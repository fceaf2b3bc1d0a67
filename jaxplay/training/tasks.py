"""Tasks: inputs, loss per example, and the sums for metrics.

A task classifies images, or the next token at every position. It takes whole
batches as dicts of arrays. Sums and counts are reduced over devices and hosts;
means are taken once, on the host (`metrics.py`).
"""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float32, Int32

import jaxplay
from jaxplay import data
from jaxplay.data import images


def of(dataset: data.Dataset):
  """The task of a data set."""
  if "tokens" in dataset.example:
    return NextToken(dataset.num_classes)
  return Classification(dataset.num_classes, dataset.pixel_max)


@dataclasses.dataclass(frozen=True)
class Classification:
  """Images to classes.

  Attributes:
    num_classes: Number of classes.
    pixel_max: Largest pixel value; [0, pixel_max] is scaled to [-1, 1].
  """

  num_classes: int
  pixel_max: int

  def inputs(
    self, batch: dict[str, Array]
  ) -> Float32[Array, "batch height width channels"]:
    """Float32 [batch, height, width, channels] in [-1, 1], augmented."""
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
    """Whether each example is misclassified [batch]; NaN logits count so."""
    return _wrong(logits, batch["label"])

  def eval_sums(
    self, logits: Float32[Array, "batch classes"], batch: dict[str, Array]
  ) -> dict[str, Array]:
    """Sums over the examples of weight one, to be added over batches.

    Returns:
      loss (nats, without smoothing), errors, weight: scalars; class_correct,
      class_count: int32 [num_classes].
    """
    counted = batch["weight"] > 0
    errors = self.errors(logits, batch)
    return _sums(logits, batch["label"], errors, counted, self.num_classes)

  def check_outputs(self, outputs, size: int, model: str) -> None:
    """Refuses outputs of a model that are not logits [size, num_classes]."""
    _check_outputs(outputs, (size, self.num_classes), model)

  def predictions(
    self, logits: Float32[Array, "batch classes"], batch: dict[str, Array]
  ) -> dict[str, Array]:
    """Predictions of the fixed sample: logits float32 [batch, classes]."""
    return {"logits": logits}


@dataclasses.dataclass(frozen=True)
class NextToken:
  """Prediction of each token of a row from those before it.

  Attributes:
    num_classes: Size of the vocabulary.
  """

  num_classes: int

  def inputs(self, batch: dict[str, Array]) -> Int32[Array, "batch length"]:
    """The tokens of each row without the last, int32 [batch, length]."""
    return batch["tokens"][:, :-1].astype(jnp.int32)

  def loss(
    self,
    logits: Float32[Array, "batch length classes"],
    batch: dict[str, Array],
    hparams: dict,
  ) -> Float32[Array, " batch"]:
    """Mean cross-entropy of each row's tokens [batch], nats.

    With label smoothing, and `z_loss` times the squared logarithm of the
    softmax normalizer, which keeps the normalizer near one (Chowdhery et al.
    2022, section 5).
    """
    log_z = jax.nn.logsumexp(logits, axis=-1)
    log_p = logits - log_z[..., None]
    smoothing = hparams["label_smoothing"]
    losses = (1 - smoothing) * _nll(log_p, _targets(batch)) - (
      smoothing * log_p.mean(-1)
    )
    return (losses + hparams["z_loss"] * jnp.square(log_z)).mean(-1)

  def errors(
    self,
    logits: Float32[Array, "batch length classes"],
    batch: dict[str, Array],
  ) -> Float32[Array, " batch"]:
    """Fraction of wrong top-1 predictions in each row [batch]."""
    wrong = _wrong(logits, _targets(batch))
    return wrong.astype(jnp.float32).mean(-1)

  def eval_sums(
    self,
    logits: Float32[Array, "batch length classes"],
    batch: dict[str, Array],
  ) -> dict[str, Array]:
    """As for `Classification`, over the tokens of rows of weight one."""
    targets = _targets(batch)
    counted = jnp.broadcast_to((batch["weight"] > 0)[:, None], targets.shape)
    errors = _wrong(logits, targets)
    return _sums(logits, targets, errors, counted, self.num_classes)

  def check_outputs(self, outputs, size: int, model: str) -> None:
    """Refuses outputs that are not logits [size, length, num_classes]."""
    _check_outputs(outputs, (size, None, self.num_classes), model)

  def predictions(
    self,
    logits: Float32[Array, "batch length classes"],
    batch: dict[str, Array],
  ) -> dict[str, Array]:
    """Predictions of the fixed sample.

    Returns:
      nll: nats for each token, float32 [batch, length]; predicted: the
      likeliest token, int32 [batch, length].
    """
    return {
      "nll": _nll(jax.nn.log_softmax(logits), _targets(batch)),
      "predicted": jnp.argmax(logits, -1).astype(jnp.int32),
    }


def _check_outputs(outputs, shape, model):
  """Refuses outputs of another shape, of which None may be any size."""
  fits = len(outputs.shape) == len(shape) and all(
    expected in (size, None)
    for size, expected in zip(outputs.shape, shape, strict=True)
  )
  if not fits:
    expected = ["any" if size is None else size for size in shape]
    raise jaxplay.UserError(
      f"{model} returns outputs of shape {list(outputs.shape)}; the task"
      f" expects {expected}: name the argument num_classes in the model for the"
      " last size"
    )


def _targets(batch):
  return batch["tokens"][:, 1:].astype(jnp.int32)


def _wrong(logits, labels):
  """Whether the label is not the likeliest class; true for NaN logits."""
  best = jnp.argmax(logits, -1) == labels
  return ~(best & jnp.isfinite(logits).all(-1))


def _sums(logits, labels, errors, counted, num_classes):
  """Sums of `logits` [..., classes] where `counted` [...]; see `eval_sums`."""
  errors = errors & counted
  loss = _nll(jax.nn.log_softmax(logits), labels)

  def of_each_class(which):
    zeros = jnp.zeros(num_classes, jnp.int32)
    return zeros.at[labels.reshape(-1)].add(which.reshape(-1).astype(jnp.int32))

  return {
    # `where`, not a product: a NaN under weight zero must not count.
    "loss": jnp.sum(jnp.where(counted, loss, 0.0)),
    "errors": jnp.sum(errors, dtype=jnp.int32),
    "weight": jnp.sum(counted, dtype=jnp.int32),
    "class_correct": of_each_class(counted & ~errors),
    "class_count": of_each_class(counted),
  }


def _nll(log_p, labels):
  return -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
