"""Metrics of a whole split, from its sums and collected rows, on the host.

A batch adds two kinds of results. Sums are added over batches, devices and
hosts, in 64 bits on the host. `ROWS` are arrays with a row for each example (or
each batch), which are concatenated in the order of the split, without the rows
of weight zero: ROC AUC and average precision need the score of every example.
`COSTS` are such rows, too: what each example adds to the objective.

A metric that is undefined, such as the AUC of a split with one class, is NaN,
which a line of metrics shows as null and which never ranks a trial.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

ROWS = "rows"  # name -> [rows, ...], with "weight" [rows]
# As `ROWS`: "cost" [examples] and, unless all count the same, "counts".
COSTS = "costs"
# Sums over batches are added on the host, in 64 bits.
_WIDE = {"f": np.float64, "i": np.int64}
# Metrics that need more than the sums that every evaluation has.
OF_PREDICTED = ("precision", "recall", "f1", "f1_micro")
OF_RANKS = ("roc_auc", "average_precision")


def total(parts: Sequence[Any]) -> Any:
  """Adds the results of batches, on the host.

  Args:
    parts: Trees of numpy arrays, of one structure: nested dicts of sums, in
      which `ROWS` holds arrays to concatenate. All may have leading dimensions
      of trials.
  """
  first = parts[0]
  if not isinstance(first, Mapping):
    return np.sum(parts, axis=0, dtype=_WIDE[first.dtype.kind])
  added = {}
  for name in first:
    of_name = [part[name] for part in parts]
    added[name] = _joined(of_name) if name in (ROWS, COSTS) else total(of_name)
  return added


def _joined(parts):
  """Concatenates rows, and leaves out those of weight zero."""
  axis = parts[0]["weight"].ndim - 1
  joined = {
    name: np.concatenate([part[name] for part in parts], axis)
    for name in parts[0]
  }
  weight = joined["weight"]
  real = (
    weight.reshape(-1, weight.shape[-1])[0] > 0
  )  # All trials have the same.
  return {
    name: array.compress(real, axis)
    for name, array in joined.items()
    if name != "weight"
  }


def values(
  sums: Mapping[str, Any],
  names: Iterable[str] | None = None,
  bytes_per_token: float | None = None,
) -> dict[str, float]:
  """Metrics of a split; undefined ones are NaN.

  Args:
    sums: From `total`, of the `eval_sums` of a built-in task.
    names: Names of metrics, of `config.metric`; None: loss and error rate.
      `bits_per_byte` is left out where it has no meaning.
    bytes_per_token: Of text.
  """
  names = ["loss", "error_rate"] if names is None else list(names)
  with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
    line = {n: float(_VALUES[n](sums)) for n in names if n != "bits_per_byte"}
    if bytes_per_token is not None:
      bits = _mean(sums, "loss") / np.log(2)
      line["bits_per_byte"] = float(bits / bytes_per_token)
  return line


def chance(sums: Mapping[str, Any]) -> dict[str, Any] | None:
  """What a constant prediction reaches on a split, for status.json.

  Returns:
    "num_valid", and "majority_error_rate" or, of float targets, "mean_mse": the
    error of predicting their mean. None: unknown.
  """
  if "squared" in sums:
    count, variance = _variances(sums)
    return {"mean_mse": float(variance.mean()), "num_valid": count}
  if "class_count" not in sums:
    return None
  counts = sums["class_count"]
  if "labels" in sums:  # Of each label the more frequent value is predicted.
    share = counts / int(sums["labels"])
    errors = float(np.minimum(share, 1 - share).mean())
    return {"majority_error_rate": errors, "num_valid": int(sums["labels"])}
  return {
    "majority_error_rate": 1 - float(counts.max() / counts.sum()),
    "num_valid": int(counts.sum()),
  }


def roc_auc(positive: np.ndarray, score: np.ndarray) -> float:
  """Area under the ROC curve: the share of pairs in the right order.

  Of all pairs of a positive and a negative example, those whose positive has
  the larger score; ties count half (Hanley and McNeil 1982).

  Args:
    positive: bool [examples].
    score: [examples]; the larger, the likelier positive.

  Returns:
    In [0, 1]; NaN if all examples are positive or none is, or for NaN scores.
  """
  count = int(positive.sum())
  others = positive.size - count
  if not count or not others or np.isnan(score).any():
    return np.nan
  _, which, ties = np.unique(score, return_inverse=True, return_counts=True)
  below = np.cumsum(ties) - ties
  # Twice the rank, so that everything is an exact integer.
  ranks = (2 * below + ties + 1)[which]
  wins = int(ranks[positive].sum()) - count * (count + 1)
  return wins / (2 * count * others)


def average_precision(positive: np.ndarray, score: np.ndarray) -> float:
  """Average precision: precision at each threshold, weighted by its recall.

  The sum over the different scores, from the largest, of the gain in recall
  times the precision there, without interpolation (as in scikit-learn).

  Args:
    positive: bool [examples].
    score: [examples]; the larger, the likelier positive.

  Returns:
    In [0, 1]; NaN if no example is positive, or for NaN scores.
  """
  count = int(positive.sum())
  if not count or np.isnan(score).any():
    return np.nan
  _, which = np.unique(-score, return_inverse=True)
  found = np.bincount(which, positive)
  above = np.cumsum(np.bincount(which))
  return float((found * np.cumsum(found) / above).sum() / count)


def _mean(sums, name):
  return np.float64(sums[name]) / int(sums["weight"])


def _confusions(sums):
  """True and false positives, false negatives of classes that occur.

  A class that is neither the label nor the prediction of an example is left
  out, as scikit-learn does.
  """
  right, labels = sums["class_correct"], sums["class_count"]
  predicted = sums["class_predicted"]
  occurs = (labels > 0) | (predicted > 0)
  return tuple(
    counts[occurs].astype(np.float64)
    for counts in (right, predicted - right, labels - right)
  )


def _precision(sums):
  right, wrong, _ = _confusions(sums)
  return _macro(right, right + wrong)


def _recall(sums):
  right, _, missed = _confusions(sums)
  return _macro(right, right + missed)


def _f1(sums):
  right, wrong, missed = _confusions(sums)
  return _macro(2 * right, 2 * right + wrong + missed)


def _f1_micro(sums):
  right, wrong, missed = (counts.sum() for counts in _confusions(sums))
  return 2 * right / (2 * right + wrong + missed)


def _macro(part, whole):
  """The mean over classes; 0 for a class that has no denominator."""
  if not part.size:
    return np.nan
  return np.divide(part, whole, out=np.zeros_like(part), where=whole > 0).mean()


def _ranked(of_class: Callable) -> Callable:
  """The mean of a metric over classes against the rest, where it is defined.

  With two classes, of class 1.
  """

  def value(sums):
    rows = sums[ROWS]
    scores, label = rows["logits"].astype(np.float64), rows["label"]
    if label.ndim == 1:
      number = scores.shape[1]
      if number == 2:
        positives, scores = [label == 1], scores[:, 1:] - scores[:, :1]
      else:
        positives = [label == i for i in range(number)]
        scores = _log_odds(scores)
    else:
      positives = list(label.T > 0)
    found = np.array(
      [of_class(p, s) for p, s in zip(positives, scores.T, strict=True)]
    )
    if np.isnan(scores).any():
      return np.nan
    defined = found[~np.isnan(found)]
    return defined.mean() if defined.size else np.nan

  return value


def _log_odds(logits):
  """Of each class against all others; finer than the probability near 1."""
  top = logits.max(1, keepdims=True)
  exp = np.exp(logits - top)
  # In order, so that equal odds are equal numbers; and the rest of the
  # likeliest class is summed without it, where a difference would be zero.
  ordered = np.sort(exp, 1)
  rest = ordered.sum(1, keepdims=True) - exp
  rest = np.where(exp == 1, ordered[:, :-1].sum(1, keepdims=True), rest)
  return logits - top - np.log(rest)


def _variances(sums):
  """(examples, variance of each target), from the moments of all batches."""
  rows = sums[ROWS]
  rows = {name: array.astype(np.float64) for name, array in rows.items()}
  count = rows["count"][:, None]
  number = count.sum()
  # Chan et al. 1979: accurate even if the mean is far from zero.
  mean = rows["mean"] + rows["left"] / count
  squares = rows["squares"] - np.square(rows["left"]) / count
  center = (count * mean).sum(0) / number
  squares = squares + count * np.square(mean - center)
  return int(number), squares.sum(0) / number


def _r2(sums):
  """The mean over targets, without those that are constant."""
  number, variance = _variances(sums)
  varies = variance > 0
  if not varies.any():
    return np.nan
  residual = np.float64(sums["squared"])[varies] / number
  return (1 - residual / variance[varies]).mean()


_VALUES: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
  "loss": lambda sums: float(sums["loss"]) / int(sums["weight"]),
  "error_rate": lambda sums: int(sums["errors"]) / int(sums["weight"]),
  "accuracy": lambda sums: 1 - int(sums["errors"]) / int(sums["weight"]),
  "top5_accuracy": lambda sums: int(sums["in_top5"]) / int(sums["weight"]),
  "precision": _precision,
  "recall": _recall,
  "f1": _f1,
  "f1_micro": _f1_micro,
  "roc_auc": _ranked(roc_auc),
  "average_precision": _ranked(average_precision),
  "perplexity": lambda sums: np.exp(_mean(sums, "loss")),
  "mse": lambda sums: _mean(sums, "loss"),
  "rmse": lambda sums: np.sqrt(_mean(sums, "loss")),
  "mae": lambda sums: _mean(sums, "absolute"),
  "r2": _r2,
}
