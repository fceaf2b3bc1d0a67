"""Tasks: inputs, loss per example, and the sums for metrics.

A task classifies images or rows of numbers, predicts the next token at every
position, several labels, or numbers. It takes whole batches as dicts of arrays.
Sums and counts are reduced over devices and hosts; means are taken once, on the
host (`metrics.py`). `own_task.py` makes a task of the user's class.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float32, Int32, Num, Shaped

import jaxplay
from jaxplay import data
from jaxplay.config import metric as metric_lib
from jaxplay.data import images
from jaxplay.training import scores

_TOP = 5


def of(dataset: data.Dataset, name: str = "", metrics: Sequence[str] = ()):
  """The task `name` on a data set.

  Args:
    dataset: The data set.
    name: Key of `metric_lib.TASKS`; empty: that of the data.
    metrics: Names of metrics to compute; empty: those of every run.

  Raises:
    jaxplay.UserError: The data set has no examples for this task.
  """
  example, classes = dataset.example, dataset.num_classes
  kinds = _kinds(example)
  if not kinds or name and name not in kinds:
    listed = ", ".join(
      f"{feature!r} {dtype} {list(shape)}"
      for feature, (shape, dtype) in example.items()
    )
    way = f"; it can be {' or '.join(map(repr, kinds))}" if kinds else ""
    raise jaxplay.UserError(
      f"config.task.name is {name!r}, but the data set has the features"
      f" {listed}{way}"
    )
  name = name or kinds[0]
  names = tuple(metrics) or metric_lib.TASKS[name].logged
  if name == "next_token":
    return NextToken(classes, names)
  if name == "classification":
    return Classification(classes, dataset.pixel_max, names)
  feature = "target" if name == "regression" else "label"
  shape = example[feature][0]
  number = 1
  for size in shape:
    number *= size
  kind = Regression if name == "regression" else MultiLabel
  return kind(number, dataset.pixel_max, names)


def _kinds(example):
  """Names of the tasks that examples with these features are made for."""
  if "tokens" in example:
    return ["next_token"]
  kinds = []
  if "label" in example:
    kinds.append("multi_label" if example["label"][0] else "classification")
  if "target" in example:
    kinds.append("regression")
  return kinds if {"image", "inputs"} & example.keys() else []


def default_inputs(batch: Mapping[str, Any], pixel_max: int) -> Any:
  """What a model reads of a batch: `image`, or else `inputs`.

  Args:
    batch: Its features. Images of integers, from 0 to `pixel_max`, are scaled
      to [-1, 1]; `moves`, if there, are applied to images.
    pixel_max: Largest pixel value.
  """
  if "image" not in batch:
    inputs = batch["inputs"]
    is_float = jnp.issubdtype(inputs.dtype, jnp.floating)
    return inputs.astype(jnp.float32) if is_float else inputs
  image = batch["image"]
  if "moves" in batch:
    image = images.move(image, batch["moves"])
  if jnp.issubdtype(image.dtype, jnp.floating):
    return image.astype(jnp.float32)
  return image.astype(jnp.float32) * (2 / pixel_max) - 1


@dataclasses.dataclass(frozen=True)
class Classification:
  """Images, or rows of numbers, to classes.

  Attributes:
    num_classes: Number of classes.
    pixel_max: Largest pixel value; [0, pixel_max] is scaled to [-1, 1].
    metrics: Names of the metrics to compute.
  """

  num_classes: int
  pixel_max: int = 0
  metrics: tuple[str, ...] = ("loss", "error_rate")

  @property
  def num_outputs(self) -> int:
    """Size of the output of the model."""
    return self.num_classes

  def inputs(self, batch: dict[str, Array]) -> Num[Array, "batch ..."]:
    """What the model reads [batch, ...]; images augmented, in [-1, 1]."""
    return default_inputs(batch, self.pixel_max)

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
  ) -> dict[str, Any]:
    """Sums over the examples of weight one, to be added over batches.

    Returns:
      loss (nats, without smoothing), errors, weight: scalars; class_correct,
      class_count: int32 [num_classes]. For the metrics that need them:
      class_predicted: int32 [num_classes]; in_top5: scalar; `scores.ROWS`:
      logits [batch, num_classes], label and weight [batch].
    """
    counted, label = batch["weight"] > 0, batch["label"]
    errors = self.errors(logits, batch)
    sums: dict[str, Any] = _sums(
      logits, label, errors, counted, self.num_classes
    )
    sums |= _more_sums(logits, label, counted, self.num_classes, self.metrics)
    if set(self.metrics) & set(scores.OF_RANKS):
      sums[scores.ROWS] = {
        "logits": logits,
        "label": label,
        "weight": batch["weight"],
      }
    return sums

  def costs(
    self,
    logits: Float32[Array, "batch classes"],
    batch: dict[str, Array],
    metric: metric_lib.Metric,
  ) -> dict[str, Array] | None:
    """The cost of each example, whose mean over the split is the metric's.

    Returns:
      cost: [batch], nats or 0 and 1; counts: how often each example counts in
      the mean [batch], if not the same. None: the metric, such as F1, is no
      mean over examples.
    """
    label = batch["label"]
    if metric.name == "loss":
      return {"cost": _nll(jax.nn.log_softmax(logits), label)}
    if metric.name in ("error_rate", "accuracy"):
      return {"cost": self.errors(logits, batch)}
    if metric.name == "top5_accuracy":
      return {"cost": ~_in_top(logits, label)}
    return None

  def check_outputs(self, outputs, size: int, model: str) -> None:
    """Refuses outputs of a model that are not logits [size, num_classes]."""
    _check_outputs(outputs, (size, self.num_classes), model)

  def predictions(
    self, logits: Float32[Array, "batch classes"], batch: dict[str, Array]
  ) -> dict[str, Array]:
    """Predictions of the fixed sample: logits float32 [batch, classes]."""
    return {"logits": logits}

  def values(
    self, sums: Mapping[str, Any], bytes_per_token: float | None = None
  ) -> dict[str, float]:
    """Metrics of a split, from the sums over it; see `scores.values`."""
    return scores.values(sums, self.metrics, bytes_per_token)


@dataclasses.dataclass(frozen=True)
class NextToken:
  """Prediction of each token of a row from those before it.

  Attributes:
    num_classes: Size of the vocabulary.
    metrics: Names of the metrics to compute.
  """

  num_classes: int
  metrics: tuple[str, ...] = ("loss", "error_rate", "bits_per_byte")

  @property
  def num_outputs(self) -> int:
    """Size of the output of the model."""
    return self.num_classes

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
    sums = _sums(logits, targets, errors, counted, self.num_classes)
    return sums | _more_sums(
      logits, targets, counted, self.num_classes, self.metrics
    )

  def costs(
    self,
    logits: Float32[Array, "batch length classes"],
    batch: dict[str, Array],
    metric: metric_lib.Metric,
  ) -> dict[str, Array] | None:
    """As for `Classification`: the mean over a row's tokens, which count."""
    targets = _targets(batch)
    if metric.name == "loss":
      costs = _nll(jax.nn.log_softmax(logits), targets)
    elif metric.name in ("error_rate", "accuracy"):
      costs = _wrong(logits, targets)
    elif metric.name == "top5_accuracy":
      costs = ~_in_top(logits, targets)
    else:
      return None
    length = targets.shape[1]
    counts = jnp.full(len(targets), length, jnp.float32)
    return {"cost": costs.astype(jnp.float32).mean(-1), "counts": counts}

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

  values = Classification.values


@dataclasses.dataclass(frozen=True)
class MultiLabel:
  """Images, or rows of numbers, to any number of labels.

  Attributes:
    num_labels: Number of labels; an example has each of them or not.
    pixel_max: Largest pixel value; [0, pixel_max] is scaled to [-1, 1].
    metrics: Names of the metrics to compute.
  """

  num_labels: int
  pixel_max: int = 0
  metrics: tuple[str, ...] = ("loss", "error_rate")

  @property
  def num_outputs(self) -> int:
    """Size of the output of the model."""
    return self.num_labels

  inputs = Classification.inputs
  predictions = Classification.predictions
  values = Classification.values

  def check_outputs(self, outputs, size: int, model: str) -> None:
    """Refuses outputs of a model that are not [size, num_outputs]."""
    _check_outputs(outputs, (size, self.num_outputs), model)

  def loss(
    self,
    logits: Float32[Array, "batch labels"],
    batch: dict[str, Array],
    hparams: dict,
  ) -> Float32[Array, " batch"]:
    """Mean sigmoid cross-entropy of each example's labels [batch], nats.

    Smoothing moves each label, 0 or 1, by `label_smoothing` / 2 towards 1/2.
    """
    smoothing = hparams["label_smoothing"]
    labels = (1 - smoothing) * _flat(batch["label"]) + smoothing / 2
    return optax.sigmoid_binary_cross_entropy(logits, labels).mean(-1)

  def errors(
    self, logits: Float32[Array, "batch labels"], batch: dict[str, Array]
  ) -> Float32[Array, " batch"]:
    """Fraction of wrong labels of each example [batch]."""
    wrong = _wrong_labels(logits, _flat(batch["label"]))
    return wrong.astype(jnp.float32).mean(-1)

  def eval_sums(
    self, logits: Float32[Array, "batch labels"], batch: dict[str, Array]
  ) -> dict[str, Any]:
    """As for `Classification`; every label of an example counts.

    Returns:
      loss (nats, without smoothing), errors, weight: sums over all labels;
      labels: number of examples; class_correct, class_count, class_predicted:
      examples that have a label and are predicted to, int32 [num_labels]; and,
      for the metrics that need them, rows.
    """
    labels, real = _flat(batch["label"]), batch["weight"] > 0
    counted = jnp.broadcast_to(real[:, None], labels.shape)
    loss = optax.sigmoid_binary_cross_entropy(logits, labels)
    has, predicted = labels > 0, (logits > 0) & jnp.isfinite(logits)

    def of_each_label(which):
      return jnp.sum(which & counted, 0, dtype=jnp.int32)

    wrong = _wrong_labels(logits, labels)
    sums: dict[str, Any] = {
      "loss": jnp.sum(jnp.where(counted, loss, 0.0)),
      "errors": jnp.sum(wrong & counted, dtype=jnp.int32),
      "weight": jnp.sum(counted, dtype=jnp.int32),
      "labels": jnp.sum(real, dtype=jnp.int32),
      "class_correct": of_each_label(has & predicted),
      "class_count": of_each_label(has),
      "class_predicted": of_each_label(predicted),
    }
    if set(self.metrics) & set(scores.OF_RANKS):
      weight = batch["weight"]
      rows = {"logits": logits, "label": labels, "weight": weight}
      sums[scores.ROWS] = rows
    return sums

  def costs(
    self,
    logits: Float32[Array, "batch labels"],
    batch: dict[str, Array],
    metric: metric_lib.Metric,
  ) -> dict[str, Array] | None:
    """As for `Classification`: the mean over an example's labels."""
    if metric.name == "loss":
      labels = _flat(batch["label"])
      loss = optax.sigmoid_binary_cross_entropy(logits, labels)
      return {"cost": loss.mean(-1)}
    if metric.name in ("error_rate", "accuracy"):
      return {"cost": self.errors(logits, batch)}
    return None


@dataclasses.dataclass(frozen=True)
class Regression:
  """Images, or rows of numbers, to numbers.

  Attributes:
    num_outputs: Numbers to predict of each example, flattened.
    pixel_max: Largest pixel value; [0, pixel_max] is scaled to [-1, 1].
    metrics: Names of the metrics to compute.
  """

  num_outputs: int
  pixel_max: int = 0
  metrics: tuple[str, ...] = ("loss", "rmse", "mae", "r2")

  errors = None  # A number is never simply wrong.
  inputs = Classification.inputs
  values = Classification.values

  def loss(
    self,
    outputs: Float32[Array, "batch ..."],
    batch: dict[str, Array],
    hparams: dict,
  ) -> Float32[Array, " batch"]:
    """Mean squared error of each example's targets [batch]."""
    return jnp.square(_flat(outputs) - _flat(batch["target"])).mean(-1)

  def eval_sums(
    self, outputs: Float32[Array, "batch ..."], batch: dict[str, Array]
  ) -> dict[str, Any]:
    """Sums over the targets of the examples of weight one.

    Returns:
      loss, absolute, weight: squared errors, absolute errors, and number of
      targets; squared: squared errors of each target [num_outputs]. As
      `scores.ROWS`, one row for the batch, the moments of its targets: mean,
      and the sums and squares of what is left of them [1, num_outputs], count
      and weight [1].
    """
    targets, real = _flat(batch["target"]), batch["weight"] > 0
    counted = jnp.broadcast_to(real[:, None], targets.shape)
    # `where`, not a product: a NaN under weight zero must not count.
    error = jnp.where(counted, _flat(outputs) - targets, 0.0)
    squared = jnp.square(error).sum(0)
    number = jnp.sum(real, dtype=jnp.int32)
    mean = jnp.where(counted, targets, 0.0).sum(0) / jnp.maximum(number, 1)
    left = jnp.where(counted, targets - mean[None], 0.0)
    return {
      "loss": squared.sum(),
      "absolute": jnp.abs(error).sum(),
      "weight": jnp.sum(counted, dtype=jnp.int32),
      "squared": squared,
      scores.ROWS: {
        "mean": mean[None],
        "left": left.sum(0)[None],  # By rounding of the mean it is not zero.
        "squares": jnp.square(left).sum(0)[None],
        "count": number[None],
        "weight": jnp.ones([1]),
      },
    }

  def costs(
    self,
    outputs: Float32[Array, "batch ..."],
    batch: dict[str, Array],
    metric: metric_lib.Metric,
  ) -> dict[str, Array] | None:
    """As for `Classification`: the mean over an example's targets."""
    error = _flat(outputs) - _flat(batch["target"])
    if metric.name in ("loss", "mse"):
      return {"cost": jnp.square(error).mean(-1)}
    if metric.name == "mae":
      return {"cost": jnp.abs(error).mean(-1)}
    return None

  def check_outputs(self, outputs, size: int, model: str) -> None:
    """Refuses outputs of a model that are not [size, num_outputs]."""
    _check_outputs(outputs, (size, self.num_outputs), model)

  def predictions(
    self, outputs: Float32[Array, "batch ..."], batch: dict[str, Array]
  ) -> dict[str, Array]:
    """Predictions of the fixed sample: outputs float32 [batch, ...]."""
    return {"outputs": outputs}


def _flat(
  array: Shaped[Array, "batch ..."],
) -> Float32[Array, "batch numbers"]:
  return array.reshape(array.shape[0], -1).astype(jnp.float32)


def _wrong_labels(logits, labels):
  """Whether each label is predicted wrongly; true for NaN logits."""
  return ((logits > 0) != (labels > 0)) | ~jnp.isfinite(logits)


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


def _more_sums(logits, labels, counted, num_classes, names):
  """The sums that only some metrics need; NaN logits predict no class."""
  more = {}
  finite = jnp.isfinite(logits).all(-1)
  if set(names) & set(scores.OF_PREDICTED):
    zeros = jnp.zeros(num_classes, jnp.int32)
    best, real = jnp.argmax(logits, -1).reshape(-1), counted & finite
    more["class_predicted"] = zeros.at[best].add(
      real.reshape(-1).astype(jnp.int32)
    )
  if "top5_accuracy" in names:
    in_top5 = counted & _in_top(logits, labels)
    more["in_top5"] = jnp.sum(in_top5, dtype=jnp.int32)
  return more


def _in_top(logits, labels):
  """Whether the label is among the 5 likeliest; false for NaN logits."""
  own = jnp.take_along_axis(logits, labels[..., None], -1)
  index = jax.lax.broadcasted_iota(jnp.int32, logits.shape, logits.ndim - 1)
  # Of equal logits the first is ahead, as for argmax.
  tied = (logits == own) & (index < labels[..., None])
  ahead = ((logits > own) | tied).sum(-1)
  return jnp.isfinite(logits).all(-1) & (ahead < _TOP)


def _nll(log_p, labels):
  return -jnp.take_along_axis(log_p, labels[..., None], axis=-1)[..., 0]
