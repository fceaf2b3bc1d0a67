"""A task of the user: what it may define, and what its mistakes say."""

import re

import clu.metrics
import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

import jaxplay
from jaxplay import rundir
from jaxplay.config import own
from jaxplay.training import own_task, population, scores, tasks, train
from tests.training import runs, tables

WHERE = "robust.py:Robust"


class Robust:
  """Absolute errors, with every kind of metric."""

  num_outputs = tables.TARGETS
  maximize = ("near", "auc")

  def inputs(self, batch):
    return batch["inputs"] * 2

  def loss(self, outputs, batch, hparams):
    error = jnp.abs(outputs - batch["target"])
    return error.mean(1) * (1 + hparams["weight_decay"])

  def metrics(self, outputs, batch):
    error = jnp.abs(outputs - batch["target"])
    weight = batch["target"][:, 0] ** 2
    return {
      "near": (error < 1).mean(1),
      "weighted": (weight * error[:, 0], weight),
    }

  def collect(self, outputs, batch):
    return {"score": outputs[:, 0], "weight": batch["target"]}

  def split_metrics(self, collected):
    high = collected["weight"][:, 0] > 4
    return {
      "auc": sklearn_metrics.roc_auc_score(high, collected["score"]),
      "rows": len(high),
    }


class Plain:
  """The least that a task can be."""

  def loss(self, outputs, batch):
    return jnp.square(outputs - batch["target"]).mean(-1)


# As if the class stood in that file and had been loaded from it.
KEYS = tables.SHORT | {
  "declared": (("part", "task.name", WHERE, ()),),
  "task.name": WHERE,
  "report_test": True,
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run of `Robust` on one device."""
  folder = tmp_path_factory.mktemp("own") / "run"
  with pytest.MonkeyPatch.context() as patch:
    tables.use(patch, tables.made("target"), Robust)
    keys = KEYS | {"mesh.data": 1, "export": True}
    status, _ = runs.train_here(keys, folder)
  assert status["status"] == "completed"
  return folder


def test_metrics_of_the_whole_split(whole):
  """G4: averages, ratios, and what needs all examples, without padding."""
  run = rundir.RunDir(whole)
  last = run.metrics()[-1]
  names = {n for n in last if n.startswith("valid/")}
  expected = ("loss", "near", "weighted", "auc", "rows")
  assert names == {f"valid/{name}" for name in expected}
  assert last["valid/rows"] == 203 and "train/error_rate" not in last
  assert last["valid/loss"] < run.metrics()[1]["valid/loss"]
  assert 0.5 < last["valid/auc"] <= 1
  # From the exported model, by hand.
  assert run.status()["best"]["step"] == last["step"]
  dataset = tables.made("target")
  split = dataset.splits["valid"].fetch(np.arange(203))
  program = (run.export / "forward.jaxexport").read_bytes()
  weights = dict(np.load(run.export / "weights.npz"))
  forward = jax.export.deserialize(bytearray(program))
  error = np.abs(forward.call(weights, split["inputs"]) - split["target"])
  weight = split["target"][:, 0] ** 2
  by_hand = {
    "valid/loss": error.mean(),
    "valid/near": (error < 1).mean(),
    "valid/weighted": (weight * error[:, 0]).sum() / weight.sum(),
  }
  assert {n: last[n] for n in by_hand} == pytest.approx(by_hand, rel=1e-4)
  saved = run.predictions(last["step"])
  assert saved["outputs"].shape == (6, tables.TARGETS)


def test_on_eight_devices(whole, tmp_path, monkeypatch):
  """G4: the same on 8 devices, with padding."""
  tables.use(monkeypatch, tables.made("target"), Robust())
  runs.train_here(KEYS | {"eval_batch_size": 72}, tmp_path / "run")
  runs.assert_close(runs.lines(tmp_path / "run"), runs.lines(whole), 1e-3, 1e-4)


@pytest.mark.slow
def test_resumed_is_uninterrupted(whole, tmp_path, monkeypatch):
  """G7: to the bit."""
  tables.use(monkeypatch, tables.made("target"), Robust)
  keys = KEYS | {"mesh.data": 1}
  runs.train_here(keys, tmp_path / "run", 12, runs.preempt)
  runs.train_here(keys, tmp_path / "run")
  runs.assert_same(runs.lines(tmp_path / "run"), runs.lines(whole))


@pytest.mark.slow
def test_population_is_alone(tmp_path, monkeypatch):
  """N5: each trial is evaluated with its own hyperparameters."""
  tables.use(monkeypatch, tables.made("target"), Robust)
  configs = [
    runs.make_config(KEYS | {"hparams.weight_decay": decay})
    for decay in (0.0, 0.5)
  ]
  study = [rundir.RunDir(tmp_path / "trials" / f"{i}") for i in range(2)]
  for run in study:
    run.create()
  group = population.Populations(configs, print, mode="together")
  folder = tmp_path / "populations" / "0" / "checkpoints"
  assert group.train(configs, study, folder, lambda statuses: None)
  for config, run in zip(configs, study, strict=True):
    alone = tmp_path / "alone" / run.path.name
    train.train(config, str(alone), runs.Quiet())
    runs.assert_close(runs.lines(run.path), runs.lines(alone), 1e-3, 1e-4)


def _task(user, *names):
  dataset = tables.made(*(names or ("target",)))
  return own_task.OwnTask(
    user, WHERE, dataset.example, num_classes=dataset.num_classes
  )


def _evaluated(task, features, outputs):
  """Checked, then evaluated in two padded batches."""
  kernel = jnp.ones((tables.FEATURES, task.num_outputs))
  task.check(lambda kernel, inputs: inputs @ kernel, kernel, {})
  parts = []
  for first in (0, 50):
    rows = np.arange(first, first + 50) % len(outputs)
    batch = {name: jnp.asarray(array[rows]) for name, array in features.items()}
    weight = np.arange(first, first + 50) < len(outputs)
    batch["weight"] = jnp.float32(weight)
    filled = np.where(weight[:, None], outputs[rows], np.nan)
    sums = jax.jit(task.eval_sums)(jnp.float32(filled), batch, {})
    parts.append(jax.device_get(sums))
  return task.values(scores.total(parts))


def test_the_least_task():
  """Parts: a loss is enough; the rest follows from the data."""
  task = _task(Plain)
  assert task.num_outputs == tables.TARGETS
  split = tables.made("target").splits["valid"].fetch(np.arange(80))
  outputs = np.zeros((80, 3), np.float32)
  values = _evaluated(task, split, outputs)
  assert values == {"loss": pytest.approx((split["target"] ** 2).mean())}
  assert task.names == ()


@flax.struct.dataclass
class _Collected(
  clu.metrics.CollectingMetric.from_outputs(("labels", "logits"))
):
  """The area under the curve of class 2 against the others."""

  def compute(self):
    values = super().compute()
    score = values["logits"][:, 2]
    return sklearn_metrics.roc_auc_score(values["labels"] == 2, score)


@flax.struct.dataclass
class _Clu(clu.metrics.Collection):
  accuracy: clu.metrics.Accuracy
  mean_loss: clu.metrics.Average.from_output("loss")
  auc: _Collected


def test_a_collection_of_clu():
  """Parts: metrics of clu, which average or collect, on the whole split."""

  class Task:
    metrics = _Clu
    maximize = ("accuracy", "auc")

    def loss(self, outputs, batch):
      log_p = jax.nn.log_softmax(outputs)
      return -jnp.take_along_axis(log_p, batch["label"][:, None], 1)[:, 0]

  task = _task(Task, "label")
  split = tables.made("label").splits["valid"].fetch(np.arange(80))
  rng = np.random.default_rng(0)
  outputs = np.float32(rng.normal(size=(80, 3)) + np.eye(3)[split["label"]])
  values = _evaluated(task, split, outputs)
  right = outputs.argmax(1) == split["label"]
  auc = sklearn_metrics.roc_auc_score(split["label"] == 2, outputs[:, 2])
  assert values == {
    "loss": pytest.approx(values["mean_loss"]),
    "mean_loss": values["mean_loss"],
    "accuracy": pytest.approx(right.mean()),
    "auc": pytest.approx(auc),
  }


@flax.struct.dataclass
class _OfScales(clu.metrics.Collection):
  scale: clu.metrics.Average.from_output("outputs_scale")


def test_outputs_with_names():
  """Parts: a model may return several outputs, in a dict."""

  class Task:
    num_outputs = 3
    metrics = _OfScales

    def loss(self, outputs, batch):
      error = jnp.abs(outputs["mean"] - batch["target"])
      return (error / outputs["scale"] + jnp.log(outputs["scale"])).mean(1)

  def forward(kernel, inputs):
    mean = inputs @ kernel
    return {"mean": mean, "scale": jnp.exp(mean)}

  task = _task(Task)
  kernel = jnp.ones((tables.FEATURES, 3))
  task.check(forward, kernel, {}, "valid/scale")
  split = tables.made("target").splits["valid"].fetch(np.arange(20))
  outputs = jax.device_get(forward(kernel, split["inputs"]))
  weight = np.float32(np.arange(20) < 15)
  batch = {**split, "weight": weight}
  sums = jax.device_get(task.eval_sums(outputs, batch, {}))
  values = task.values(scores.total([sums]))
  assert values["scale"] == pytest.approx(outputs["scale"][:15].mean())
  assert task.predictions(outputs, split).keys() == {
    "outputs_mean",
    "outputs_scale",
  }


def _with(**methods):
  return type("Wrong", (Plain,), methods)


def _line(function):
  return function.__code__.co_firstlineno


def _scalar(self, outputs, batch):
  return jnp.square(outputs).mean()


def _matrix(self, outputs, batch):
  return jnp.square(outputs)


def _nothing(self, outputs, batch):
  pass


def _raises(self, outputs, batch):
  return outputs["nothing"]


def _other_feature(self, outputs, batch):
  return outputs[:, 0] - batch["targets"]


def _of_no_shape(self, outputs, batch):
  return {"near": outputs.mean()}


def _of_bad_name(self, outputs, batch):
  return {"Near it": outputs.mean(1)}


def _a_list(self, outputs, batch):
  return [outputs.mean(1)]


def _a_triple(self, outputs, batch):
  return {"near": (outputs[:, 0],) * 3}


def _named_loss(self, outputs, batch):
  return {"loss": outputs.mean(1)}


def _no_inputs(self, batch):
  return batch["pixels"]


def _of_no_numbers(self, collected):
  return {"words": "many"}


def _misspelt(self, collected):
  return {"auc": np.maen(collected["out"])}


def _collects(self, outputs, batch):
  return {"out": outputs}


def _collects_sums(self, outputs, batch):
  return {"out": outputs.sum(0)}


@pytest.mark.parametrize(
  "methods, at, words",
  [
    (dict(loss=_scalar), _scalar, ("loss", "[]", "[7]")),
    (dict(loss=_matrix), _matrix, ("loss", "[7, 3]", "[7]")),
    (dict(loss=_nothing), _nothing, ("loss", "NoneType")),
    (dict(loss=_raises), _raises, ("loss", "fails")),
    (dict(loss=_other_feature), _other_feature, ("'targets'", "'target'")),
    (dict(metrics=_raises), _raises, ("metrics", "fails")),
    (dict(metrics=_of_no_shape), _of_no_shape, ("'near'", "[]", "[7]")),
    (dict(metrics=_of_bad_name), _of_bad_name, ("'Near it'",)),
    (dict(metrics=_a_list), _a_list, ("list", "dict")),
    (dict(metrics=_a_triple), _a_triple, ("'near'", "tuple of 3")),
    (dict(metrics=_named_loss), _named_loss, ("'loss'",)),
    (dict(inputs=_no_inputs), _no_inputs, ("inputs", "KeyError", "pixels")),
    (
      dict(collect=_collects, split_metrics=_of_no_numbers),
      _of_no_numbers,
      ("'words'", "number"),
    ),
    (
      dict(collect=_collects, split_metrics=_misspelt),
      _misspelt,
      ("split_metrics", "maen"),
    ),
    (
      dict(collect=_collects_sums, split_metrics=_of_no_numbers),
      _collects_sums,
      ("'out'", "7 examples"),
    ),
  ],
)
def test_mistakes_name_the_line(methods, at, words):
  """Errors: one sentence with the task and the line, before training."""
  task = _task(_with(**methods))
  kernel = jnp.ones((tables.FEATURES, 3))
  with pytest.raises(jaxplay.UserError) as caught:
    task.check(lambda kernel, inputs: inputs @ kernel, kernel, {})
  message = str(caught.value)
  assert WHERE in message and "\n" not in message
  assert all(word in message for word in words), message
  found = int(re.search(r"line (\d+)", message)[1])
  assert _line(at) <= found <= _line(at) + 1


@pytest.mark.parametrize(
  "members, words",
  [
    (dict(loss=None), ("loss(self, outputs, batch)",)),
    (dict(num_outputs=0), ("num_outputs", "0")),
    (dict(num_outputs=2.5), ("num_outputs", "2.5")),
    (dict(collect=_collects), ("collect", "split_metrics")),
    (dict(metrics=dict), ("metrics", "dict")),
    (dict(metrics=3), ("metrics", "int")),
    (dict(__init__=lambda self, size: None), ("size",)),
  ],
)
def test_classes_that_are_no_task(members, words):
  """Errors: what the class lacks."""
  with pytest.raises(jaxplay.UserError) as caught:
    _task(_with(**members))
  message = str(caught.value)
  assert all(word in message for word in (WHERE, *words)), message


@pytest.mark.parametrize(
  "user, objective, words",
  [
    (Robust, "valid/nera", ("'near'", "'auc'", "objective")),
    (_with(maximize=("mine",)), "valid/loss", ("'mine'", "'loss'")),
    (_with(maximize="mine"), "valid/loss", ("'mine'", "maximize")),
  ],
)
def test_metrics_that_the_task_does_not_have(user, objective, words):
  """Errors: an objective that no evaluation would log."""
  task = _task(user)
  kernel = jnp.ones((tables.FEATURES, 3))
  hparams = {"weight_decay": 0.0}
  with pytest.raises(jaxplay.UserError) as caught:
    task.check(
      lambda kernel, inputs: inputs @ kernel, kernel, hparams, objective
    )
  message = str(caught.value)
  assert all(word in message for word in (WHERE, *words)), message


def test_a_model_that_does_not_fit():
  """Errors: outputs of a shape that the loss does not take; other inputs."""
  task = _task(Plain)
  wrong = jnp.ones((tables.FEATURES, 2))
  with pytest.raises(jaxplay.UserError, match="loss.*line"):
    task.check(lambda kernel, inputs: inputs @ kernel, wrong, {})
  with pytest.raises(jaxplay.UserError, match="cannot read the inputs"):
    task.check(lambda kernel, inputs: kernel @ inputs, wrong, {})


def test_what_is_declared():
  """Config: metrics of which more is better, as the config keeps them."""
  assert own.maximized(Robust, WHERE) == ("near", "auc")
  assert own.maximized(Plain, WHERE) == ()
  for wrong in ("Near", ("a b",), (3,), 3):
    with pytest.raises(jaxplay.UserError, match=repr(WHERE)[1:-1]):
      own.maximized(type("T", (), {"maximize": wrong}), WHERE)


def test_a_loss_that_is_no_number(tmp_path, monkeypatch):
  """Errors: a NaN at the first step names the loss, and the run has ended."""

  class Nan(Plain):
    def loss(self, outputs, batch):
      return jnp.log(-1 - jnp.square(outputs[:, 0]))

  tables.use(monkeypatch, tables.made("target"), Nan)
  status, _ = runs.train_here(KEYS, tmp_path / "run")
  assert status["status"] == "infeasible" and status["step"] == 1
  assert WHERE in status["reason"]
  assert f"line {_line(Nan.loss)}" in status["reason"]


def test_a_metric_that_is_no_number(tmp_path, monkeypatch):
  """G4: an undefined metric is null, ranks nothing, and stops nothing."""

  class Undefined(Plain):
    def metrics(self, outputs, batch):
      return {"none": (outputs[:, 0], jnp.zeros(len(outputs)))}

  tables.use(monkeypatch, tables.made("target"), Undefined)
  keys = KEYS | {"objective": "valid/none", "max_train_steps": 8}
  status, _ = runs.train_here(keys, tmp_path / "run")
  assert status["status"] == "completed" and status["best"] is None
  last = rundir.RunDir(tmp_path / "run").metrics()[-1]
  assert last["valid/none"] is None and last["valid/loss"] > 0


def test_inputs_of_several_features(monkeypatch, tmp_path):
  """G5: an exported model takes the features that its task reads."""

  class Both(Plain):
    def inputs(self, batch):
      image = tasks.default_inputs({"image": batch["image"]}, 255)
      return jnp.concatenate(
        [image.reshape(image.shape[0], -1), batch["label"][:, None] * 0.1], 1
      )

  tables.use(monkeypatch, tables.made("target", "label", image=True), Both)
  keys = KEYS | {"max_train_steps": 4, "export": True}
  runs.train_here(keys, tmp_path / "run")
  run = rundir.RunDir(tmp_path / "run")
  program = (run.export / "forward.jaxexport").read_bytes()
  split = tables.made("target", "label", image=True).splits["valid"]
  saved = run.predictions(4)
  batch = split.fetch(saved["index"])
  outputs = jax.export.deserialize(bytearray(program)).call(
    dict(np.load(run.export / "weights.npz")),
    {"image": batch["image"], "label": batch["label"]},
  )
  np.testing.assert_allclose(outputs, saved["outputs"], rtol=1e-4, atol=1e-5)
