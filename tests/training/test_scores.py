"""Metrics of a split: equal to their definitions, as scikit-learn has them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxplay.config import metric
from jaxplay.training import metrics, scores, tasks

NAMES = {name: (*of.logged, *of.more) for name, of in metric.TASKS.items()} | {
  "next_token": ("loss", "error_rate", "accuracy", "top5_accuracy")
}
AVERAGES = {
  "f1": sklearn_metrics.f1_score,
  "precision": sklearn_metrics.precision_score,
  "recall": sklearn_metrics.recall_score,
}


def _split(task, outputs, features, batch_size, trials=0, spoil=np.nan):
  """The metrics of a task on a split, in padded batches."""
  number, parts = len(outputs), []
  eval_sums = jax.jit(task.eval_sums)
  for first in range(0, number, batch_size):
    rows = np.arange(first, first + batch_size)
    weight = (rows < number).astype(np.float32)
    rows = np.where(weight, rows, 0)
    batch = {name: jnp.asarray(of[rows]) for name, of in features.items()}
    batch["weight"] = jnp.asarray(weight)
    filled = np.where(weight[:, None] > 0, outputs[rows], np.float32(spoil))
    sums = jax.device_get(eval_sums(jnp.asarray(filled), batch))
    if trials:
      sums = jax.tree.map(lambda leaf: np.stack([leaf] * trials), sums)
    parts.append(sums)
  added = scores.total(parts)
  if trials:
    added = jax.tree.map(lambda leaf: leaf[-1], added)
  return task.values(added), added


def _classes(number=203, classes=5, decimals=None, absent=(), seed=0):
  """Float32 logits and labels; rounded logits have ties."""
  rng = np.random.default_rng(seed)
  label = rng.integers(0, classes, number).astype(np.int32)
  for gone in absent:
    label[label == gone] = (gone + 1) % classes
  logits = rng.normal(size=(number, classes)) + 1.5 * np.eye(classes)[label]
  if decimals is not None:
    logits = logits.round(decimals)
  return np.float32(logits), label


def _probabilities(logits):
  exp = np.exp(logits.astype(np.float64))
  return exp / exp.sum(1, keepdims=True)


@pytest.mark.parametrize("batch_size", [1, 64, 203, 512])
@pytest.mark.parametrize("trials", [0, 3])
@pytest.mark.parametrize("decimals", [None, 0], ids=["distinct", "tied"])
def test_classification(batch_size, trials, decimals):
  """G4: every metric, of any batches, with padding, and in a population."""
  logits, label = _classes(decimals=decimals)
  task = tasks.Classification(5, metrics=NAMES["classification"])
  values, _ = _split(task, logits, {"label": label}, batch_size, trials)
  chosen, p = logits.argmax(1), _probabilities(logits)
  expected = {
    "loss": sklearn_metrics.log_loss(label, p),
    "error_rate": (chosen != label).mean(),
    "accuracy": (chosen == label).mean(),
    "f1_micro": sklearn_metrics.f1_score(label, chosen, average="micro"),
    **{
      name: of(label, chosen, average="macro") for name, of in AVERAGES.items()
    },
    "roc_auc": np.mean(
      [
        sklearn_metrics.roc_auc_score(label == i, _odds(logits)[:, i])
        for i in range(5)
      ]
    ),
    "average_precision": np.mean(
      [
        sklearn_metrics.average_precision_score(label == i, _odds(logits)[:, i])
        for i in range(5)
      ]
    ),
    "top5_accuracy": 1.0,
  }
  assert values == pytest.approx(expected, rel=1e-6, abs=1e-9)


def _odds(logits):
  p = _probabilities(logits)
  # Equal probabilities are to be ties, whatever order they are computed in.
  return np.round(np.log(p / (1 - p)), 9)


def test_top5():
  """G4: the label is among the five likeliest; the first of equals leads."""
  logits, label = _classes(classes=12)
  task = tasks.Classification(12, metrics=("top5_accuracy", "accuracy"))
  values, _ = _split(task, logits, {"label": label}, 50)
  expected = sklearn_metrics.top_k_accuracy_score(
    label, logits, k=5, labels=np.arange(12)
  )
  assert values["top5_accuracy"] == pytest.approx(expected)
  same = np.zeros((12, 12), np.float32)
  values, _ = _split(task, same, {"label": np.arange(12, dtype=np.int32)}, 5)
  assert values == {
    "top5_accuracy": pytest.approx(5 / 12),
    "accuracy": pytest.approx(1 / 12),
  }


@pytest.mark.parametrize("decimals", [None, 1])
def test_two_classes_are_ranked_by_the_second(decimals):
  """G4: of two classes the AUC is that of class 1; F1 is over both."""
  logits, label = _classes(classes=2, decimals=decimals)
  task = tasks.Classification(2, metrics=NAMES["classification"])
  values, _ = _split(task, logits, {"label": label}, 64)
  score = logits[:, 1].astype(np.float64) - logits[:, 0]
  assert values["roc_auc"] == pytest.approx(
    sklearn_metrics.roc_auc_score(label, score)
  )
  assert values["average_precision"] == pytest.approx(
    sklearn_metrics.average_precision_score(label, score)
  )
  assert values["f1"] == pytest.approx(
    sklearn_metrics.f1_score(label, logits.argmax(1), average="macro")
  )


def test_absent_classes():
  """G4: classes that do not occur are left out, not counted as failures."""
  logits, label = _classes(absent=(1, 3), seed=1)
  logits[:, 1] = -9  # Neither a label nor a prediction.
  task = tasks.Classification(5, metrics=NAMES["classification"])
  values, _ = _split(task, logits, {"label": label}, 64)
  chosen = logits.argmax(1)
  assert 3 in chosen and 1 not in chosen
  for name, of in AVERAGES.items():
    expected = of(label, chosen, average="macro", zero_division=0)
    assert values[name] == pytest.approx(expected)
  aucs = [
    sklearn_metrics.roc_auc_score(label == i, _odds(logits)[:, i])
    for i in (0, 2, 4)
  ]
  assert values["roc_auc"] == pytest.approx(np.mean(aucs))


@pytest.mark.parametrize("number, only", [(1, 2), (9, 2), (9, 1)])
def test_what_is_undefined_is_no_number(number, only):
  """G4: the AUC of one class is NaN, which never ranks a trial."""
  logits, _ = _classes(number=number, classes=3)
  label = np.full(number, only, np.int32)
  task = tasks.Classification(3, metrics=NAMES["classification"])
  values, _ = _split(task, logits, {"label": label}, 4)
  assert np.isnan(values["roc_auc"])
  assert values["average_precision"] == 1.0  # Every ranking is the best one.
  assert 0 <= values["f1"] <= 1
  assert np.isnan(scores.average_precision(np.zeros(3, bool), np.arange(3.0)))


def test_nan_logits_predict_no_class():
  """G4: an example with NaN logits is wrong; a ranking with it is none."""
  logits, label = _classes()
  logits[7] = np.nan
  task = tasks.Classification(5, metrics=NAMES["classification"])
  values, sums = _split(task, logits, {"label": label}, 64)
  right = np.delete(logits.argmax(1) == label, 7)
  assert values["accuracy"] == pytest.approx(right.sum() / 203)
  assert sums["class_predicted"].sum() == 202
  assert np.isnan(values["roc_auc"]) and np.isnan(values["average_precision"])


def test_confident_scores_are_still_ranked():
  """G4: logits so large that every probability is one have no ties."""
  rng = np.random.default_rng(0)
  label = rng.integers(0, 3, 90).astype(np.int32)
  logits = np.float32(rng.normal(size=(90, 3)) + np.eye(3)[label])
  task = tasks.Classification(3, metrics=("roc_auc", "average_precision"))
  plain, _ = _split(task, logits, {"label": label}, 30)
  sharp, _ = _split(task, logits * 200, {"label": label}, 30)
  odds = np.stack(
    [
      logits[:, i] - np.delete(logits, i, 1).max(1)  # Its limit.
      for i in range(3)
    ],
    1,
  )
  expected = np.mean(
    [sklearn_metrics.roc_auc_score(label == i, odds[:, i]) for i in range(3)]
  )
  assert sharp["roc_auc"] == pytest.approx(expected)
  assert plain["roc_auc"] == pytest.approx(expected, abs=0.1)


@pytest.mark.parametrize("seed", range(5))
def test_ranking_against_scikit_learn(seed):
  """G4: random scores with many ties, of any balance."""
  rng = np.random.default_rng(seed)
  score = rng.integers(0, 7, 300) / 7
  positive = rng.uniform(size=300) < rng.uniform(0.02, 0.98)
  assert scores.roc_auc(positive, score) == pytest.approx(
    sklearn_metrics.roc_auc_score(positive, score)
  )
  assert scores.average_precision(positive, score) == pytest.approx(
    sklearn_metrics.average_precision_score(positive, score)
  )


@pytest.mark.parametrize("batch_size", [1, 64, 150])
@pytest.mark.parametrize("trials", [0, 2])
def test_multi_label(batch_size, trials):
  """G4: each label is a decision of its own."""
  rng = np.random.default_rng(0)
  label = (rng.uniform(size=(150, 4)) < [0.1, 0.5, 0.3, 0.9]).astype(np.int32)
  logits = np.float32(rng.normal(size=(150, 4)) + label).round(1)
  task = tasks.MultiLabel(4, metrics=NAMES["multi_label"])
  values, sums = _split(task, logits, {"label": label}, batch_size, trials)
  chosen = (logits > 0).astype(int)
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  expected = {
    "loss": np.mean(
      [sklearn_metrics.log_loss(label[:, i], p[:, i]) for i in range(4)]
    ),
    "error_rate": (chosen != label).mean(),
    "accuracy": (chosen == label).mean(),
    "f1_micro": sklearn_metrics.f1_score(label, chosen, average="micro"),
    **{
      name: of(label, chosen, average="macro") for name, of in AVERAGES.items()
    },
    "roc_auc": sklearn_metrics.roc_auc_score(label, logits),
    "average_precision": sklearn_metrics.average_precision_score(label, logits),
  }
  assert values == pytest.approx(expected, rel=1e-6)
  shares = label.mean(0)
  assert scores.chance(sums) == {
    "majority_error_rate": pytest.approx(np.minimum(shares, 1 - shares).mean()),
    "num_valid": 150,
  }


@pytest.mark.parametrize("batch_size", [1, 7, 64, 120])
@pytest.mark.parametrize("trials", [0, 2])
@pytest.mark.parametrize("center", [0.0, 2000.0])
def test_regression(batch_size, trials, center):
  """G4: also where the targets are far from zero and vary little."""
  rng = np.random.default_rng(0)
  target = np.float32(rng.normal(size=(120, 3)) * [1, 2, 0.5] + center)
  outputs = np.float32(target + rng.normal(size=target.shape))
  task = tasks.Regression(3, metrics=NAMES["regression"])
  values, sums = _split(task, outputs, {"target": target}, batch_size, trials)
  exact, of = target.astype(np.float64), outputs.astype(np.float64)
  mse = sklearn_metrics.mean_squared_error(exact, of)
  expected = {
    "loss": mse,
    "mse": mse,
    "rmse": np.sqrt(mse),
    "mae": sklearn_metrics.mean_absolute_error(exact, of),
    "r2": sklearn_metrics.r2_score(exact, of),
  }
  assert values == pytest.approx(expected, rel=1e-5)
  chance = scores.chance(sums)
  assert chance["num_valid"] == 120
  assert chance["mean_mse"] == pytest.approx(exact.var(0).mean(), rel=1e-5)


@pytest.mark.parametrize("shape", [(), (1,)])
def test_regression_of_one_number(shape):
  """G4: a target without dimensions is one number; one example has no R2."""
  target = np.float32([3.0, 5.0, 4.0]).reshape(-1, *shape)
  outputs = np.float32([[3.0], [4.0], [6.0]])
  task = tasks.Regression(1, metrics=NAMES["regression"])
  values, _ = _split(task, outputs, {"target": target}, 2)
  assert values["mse"] == pytest.approx(5 / 3)
  assert values["r2"] == pytest.approx(1 - 5 / 2)
  values, _ = _split(task, outputs[:1], {"target": target[:1]}, 2)
  assert values["mse"] == 0 and np.isnan(values["r2"])


def test_constant_targets_have_no_r2():
  """G4: a target that never changes is left out of R2."""
  target = np.float32([[1, 7], [2, 7], [4, 7]])
  outputs = np.float32([[1, 7], [2, 8], [3, 7]])
  task = tasks.Regression(2, metrics=("r2",))
  values, _ = _split(task, outputs, {"target": target}, 3)
  expected = sklearn_metrics.r2_score(target[:, 0], outputs[:, 0])
  assert values["r2"] == pytest.approx(expected)


def test_perplexity_of_text():
  """G4: perplexity and bits per byte are the loss on other scales."""
  rng = np.random.default_rng(0)
  tokens = rng.integers(0, 9, (6, 5)).astype(np.int32)
  logits = np.float32(rng.normal(size=(6, 4, 9)))
  names = metric.TASKS["next_token"]
  task = tasks.NextToken(9, (*names.logged, *names.more))
  sums = jax.device_get(
    jax.jit(task.eval_sums)(
      jnp.asarray(logits),
      {"tokens": jnp.asarray(tokens), "weight": jnp.ones(6)},
    )
  )
  line = metrics.eval_line("valid", scores.total([sums]), 2.0, task)
  loss = sklearn_metrics.log_loss(
    tokens[:, 1:].reshape(-1),
    _probabilities(logits.reshape(-1, 9)),
    labels=np.arange(9),
  )
  assert line["valid/loss"] == pytest.approx(loss, rel=1e-6)
  assert line["valid/perplexity"] == pytest.approx(np.exp(loss), rel=1e-6)
  assert line["valid/bits_per_byte"] == pytest.approx(loss / np.log(4))
  top5 = sklearn_metrics.top_k_accuracy_score(
    tokens[:, 1:].reshape(-1), logits.reshape(-1, 9), k=5, labels=np.arange(9)
  )
  assert line["valid/top5_accuracy"] == pytest.approx(top5)


def test_every_metric_is_known():
  """Config: names and directions stand in one table, formulas in another."""
  names = {name for of in metric.TASKS.values() for name in of.logged + of.more}
  assert names == metric.METRICS.keys()
  assert names == scores._VALUES.keys() | {"bits_per_byte"}
