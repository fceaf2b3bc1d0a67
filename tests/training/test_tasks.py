"""Tasks of every kind, trained to the end on tables made by hand."""

import dataclasses

import jax
import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.config import metric
from jaxplay.training import dry_run, evaluate, population, tasks, train
from jaxplay.training import workload as workload_lib
from tests.training import runs, tables

KINDS = {
  "classification": ("label",),
  "multi_label": ("labels",),
  "regression": ("target",),
}


def _keys(kind, **more):
  of = metric.TASKS[kind]
  keys = {"task.name": kind, "task.metrics": (*of.logged, *of.more)}
  return tables.SHORT | keys | more


def test_the_task_of_a_data_set():
  """Data: a task takes the features that it is made for."""
  for kind, names in KINDS.items():
    dataset = tables.made(*names)
    task = tasks.of(dataset)
    assert task == tasks.of(dataset, kind)
    assert task.num_outputs == tables.TARGETS
  assert tasks.of(tables.made("scalar")).num_outputs == 1


@pytest.mark.parametrize(
  "names, asked", [(("target",), "classification"), (("label",), "regression")]
)
def test_a_task_without_its_features(names, asked):
  """Errors: what the data are, and the task that they are for."""
  with pytest.raises(jaxplay.UserError, match=r"config\.task\.name") as caught:
    tasks.of(tables.made(*names), asked)
  fitting = "regression" if names == ("target",) else "classification"
  assert repr(names[0]) in str(caught.value) and fitting in str(caught.value)
  assert asked in str(caught.value)


@pytest.mark.parametrize("name", ["weight", "moves"])
def test_features_with_names_of_batches(name):
  """Errors: a column of weights must not decide which rows are padding."""
  dataset = tables.made("label")
  example = {**dataset.example, name: ((), "float32")}
  dataset = dataclasses.replace(dataset, example=example)
  config = runs.make_config(_keys("classification"))
  with pytest.raises(jaxplay.UserError, match=repr(name)):
    workload_lib.make_task(config, dataset)


@pytest.fixture(scope="module", params=KINDS)
def whole(request, tmp_path_factory):
  """A run of each kind on one device: kind, folder."""
  kind = request.param
  folder = tmp_path_factory.mktemp(kind) / "run"
  with pytest.MonkeyPatch.context() as patch:
    tables.use(patch, tables.made(*KINDS[kind]))
    keys = _keys(kind, report_test=True, export=True)
    status, _ = runs.train_here(keys | {"mesh.data": 1}, folder)
  assert status["status"] == "completed"
  return kind, folder


def test_lines(whole):
  """G4: a run logs the metrics of its task, and no error rate of numbers."""
  kind, folder = whole
  run = rundir.RunDir(folder)
  last, of = run.metrics()[-1], metric.TASKS[kind]
  for name in (*of.logged, *of.more):
    assert np.isfinite(last[f"valid/{name}"]), name
  assert ("train/error_rate" in last) == (kind != "regression")
  assert run.status()["best"]["metric"] == f"valid/{of.objective}"
  assert f"test/{of.objective}" in run.status()["test"]
  first = run.metrics()[1]
  assert last["valid/loss"] < first["valid/loss"]
  chance = run.status()["chance"]
  assert chance["num_valid"] == 203
  if kind == "regression":
    assert last["valid/loss"] < 0.5 * chance["mean_mse"]
    r2 = 1 - last["valid/loss"] / chance["mean_mse"]
    assert last["valid/r2"] == pytest.approx(r2, abs=0.2)
    assert not any("error_rate" in name for name in last)
  else:
    assert last["valid/error_rate"] < chance["majority_error_rate"]


def test_metrics_are_those_of_the_predictions(whole):
  """G5: the saved outputs of the sample are those of the exported model."""
  kind, folder = whole
  run = rundir.RunDir(folder)
  saved = run.predictions(run.status()["best"]["step"])
  name = "outputs" if kind == "regression" else "logits"
  program = (run.export / "forward.jaxexport").read_bytes()
  weights = dict(np.load(run.export / "weights.npz"))
  dataset = tables.made(*KINDS[kind])
  inputs = dataset.splits["valid"].fetch(saved["index"])["inputs"]
  outputs = jax.export.deserialize(bytearray(program)).call(weights, inputs)
  np.testing.assert_allclose(saved[name], outputs, rtol=1e-4, atol=1e-5)
  feature = "target" if kind == "regression" else "label"
  fetched = dataset.splits["valid"].fetch(saved["index"])[feature]
  np.testing.assert_array_equal(saved[feature], fetched)
  assert ("class_count" in saved) == (kind != "regression")


@pytest.mark.parametrize(
  "device_bytes",
  [2**28, pytest.param(0, marks=pytest.mark.pods)],
  ids=["device", "host"],
)
def test_devices_and_feeds(whole, tmp_path, monkeypatch, device_bytes):
  """G4, M3: the same on 8 devices, padded, from the device or the host."""
  kind, folder = whole
  tables.use(monkeypatch, tables.made(*KINDS[kind]))
  keys = _keys(kind, report_test=True)
  keys |= {"dataset.device_bytes": device_bytes, "eval_batch_size": 72}
  status, _ = runs.train_here(keys, tmp_path / "run")
  runs.assert_close(
    runs.lines(tmp_path / "run"), runs.lines(folder), 1e-3, 1e-4
  )
  test = rundir.RunDir(folder).status()["test"]
  assert status["test"] == pytest.approx(test, rel=1e-3)


@pytest.mark.slow
def test_resumed_is_uninterrupted(whole, tmp_path, monkeypatch):
  """G7: to the bit, whatever is added up between two lines."""
  kind, folder = whole
  tables.use(monkeypatch, tables.made(*KINDS[kind]))
  keys = _keys(kind, report_test=True) | {"mesh.data": 1}
  runs.train_here(keys, tmp_path / "run", 12, runs.preempt)
  status, told = runs.train_here(keys, tmp_path / "run")
  assert "resuming" in " ".join(told)
  runs.assert_same(runs.lines(tmp_path / "run"), runs.lines(folder))
  assert status["test"] == rundir.RunDir(folder).status()["test"]


@pytest.mark.pods
@pytest.mark.parametrize("kind", KINDS)
def test_population_is_alone(kind, tmp_path, monkeypatch):
  """N5: every metric of a trial is that of the same run alone."""
  tables.use(monkeypatch, tables.made(*KINDS[kind]))
  configs = [
    runs.make_config(_keys(kind) | {"hparams.learning_rate": rate})
    for rate in (0.003, 0.01, 0.03)
  ]
  study = [rundir.RunDir(tmp_path / "trials" / f"{i}") for i in range(3)]
  for run in study:
    run.create()
  group = population.Populations(configs, print, mode="together")
  folder = tmp_path / "populations" / "0" / "checkpoints"
  assert group.train(configs, study, folder, lambda statuses: None)
  for config, run in zip(configs, study, strict=True):
    alone = tmp_path / "alone" / run.path.name
    train.train(config, str(alone), runs.Quiet())
    runs.assert_close(runs.lines(run.path), runs.lines(alone), 1e-3, 1e-4)


def test_an_objective_is_logged():
  """Config: a metric named as the objective needs no other mention."""
  config = runs.make_config(runs.overrides(objective="valid/f1"))
  assert config_lib.metrics(config) == ("loss", "error_rate", "f1")
  assert "valid/f1" in config_lib.evaluated(config)


@pytest.mark.parametrize(
  "keys, words",
  [
    ({"task.name": "regresion"}, ("config.task.name", "regression")),
    ({"task.metrics": ("f2",)}, ("config.task.metrics", "'f1'")),
    ({"task.metrics": ("r2",)}, ("config.task.metrics", "'f1'")),
    (
      {"task.name": "regression", "objective": "valid/f1"},
      ("config.objective", "valid/r2", "mse"),
    ),
    ({"task.name": "next_token"}, ("config.task.name", "'lm'")),
    (
      runs.LM | {"task.name": "classification"},
      ("config.task.name", "'next_token'"),
    ),
    (
      {
        "declared": (("part", "task.name", "a.py:A", ()),),
        "task.name": "a.py:A",
        "task.metrics": ("f1",),
      },
      ("config.task.metrics", "'a.py:A'"),
    ),
  ],
)
def test_tasks_and_metrics_that_do_not_fit(keys, words):
  """Errors: a metric that a task does not have is refused at the door."""
  with pytest.raises(jaxplay.UserError) as caught:
    runs.make_config(keys)
  assert all(word in str(caught.value) for word in words), caught.value


def test_smoothing_has_no_effect_on_numbers():
  """Config: label smoothing of a regression is refused, not ignored."""
  config = runs.make_config(
    {"task.name": "regression", "hparams.label_smoothing": 0.1}
  )
  said = config_lib.without_effect(config)
  assert len(said) == 1 and "label_smoothing" in said[0]
  assert "config.task.name" in said[0]


def test_label_smoothing_of_labels():
  """A3: smoothing moves every label towards one half."""
  task, rng = tasks.MultiLabel(4), np.random.default_rng(0)
  logits = np.float32(rng.normal(size=(6, 4)))
  label = rng.integers(0, 2, (6, 4)).astype(np.int32)
  p = 1 / (1 + np.exp(-logits.astype(np.float64)))
  soft = 0.8 * label + 0.1
  expected = -(soft * np.log(p) + (1 - soft) * np.log(1 - p)).mean(1)
  batch = {"label": jax.numpy.asarray(label)}
  loss = task.loss(jax.numpy.asarray(logits), batch, {"label_smoothing": 0.2})
  np.testing.assert_allclose(loss, expected, rtol=1e-5)


def test_inputs_of_images_and_numbers():
  """Data: uint8 is scaled to [-1, 1]; floats are as they are."""
  image = jax.numpy.asarray([[0, 255]], np.uint8)[..., None, None]
  scaled = tasks.default_inputs({"image": image}, 255)
  np.testing.assert_array_equal(scaled.reshape(-1), [-1, 1])
  for name in ("image", "inputs"):
    numbers = jax.numpy.asarray([[3.5, -2.0]])
    plain = tasks.default_inputs({name: numbers}, 255)
    np.testing.assert_array_equal(plain, numbers)


@pytest.mark.parametrize("kind", KINDS)
def test_plans(kind, monkeypatch):
  """Plans: a dry run compiles the step and the evaluation of every task."""
  tables.use(monkeypatch, tables.made(*KINDS[kind]))
  config = runs.make_config(_keys(kind))
  workload = workload_lib.make_workload(config)
  assert dry_run.lower_train_step(config, workload)
  assert dry_run.lower_eval_step(config, workload)


# Models that cannot be exported for every batch size, or not at all.


class _Model:
  """A linear model that is traced only if `allows` the batch size."""

  def __init__(self, allows):
    self._allows = allows

  def apply(self, variables, inputs, *, train):
    if not self._allows(inputs.shape[0]):
      raise ValueError("this batch size cannot be used")
    return inputs @ variables["params"]["kernel"]


@pytest.mark.parametrize("fixed", [False, True])
def test_export_of_a_model_with_one_batch_size(fixed):
  """G5: what cannot be traced for any batch is exported for one example."""
  dataset = tables.made("target")
  task = tasks.of(dataset)
  kernel = np.ones((tables.FEATURES, tables.TARGETS), np.float32)
  variables = ({"kernel": kernel}, {})
  allows = (lambda size: isinstance(size, int)) if fixed else lambda size: True
  program, note = evaluate.export_forward(
    _Model(allows), task, variables, dataset.example
  )
  assert bool(note) == fixed
  forward = jax.export.deserialize(bytearray(program))
  inputs = np.arange(5, dtype=np.float32)[None]
  outputs = forward.call({"0/kernel": kernel}, inputs)
  np.testing.assert_allclose(outputs, inputs @ kernel)
  # The program itself says which inputs it takes.
  assert (forward.in_avals[-1].shape[0] == 1) == fixed


def test_export_of_what_cannot_be_traced(tmp_path, monkeypatch):
  """G5: a model that cannot be exported trains, with one warning."""
  dataset = tables.made("target")
  with pytest.raises(evaluate.NotExportable, match="this batch size"):
    evaluate.export_forward(
      _Model(lambda size: False),
      tasks.of(dataset),
      ({"kernel": np.ones((5, 3), np.float32)}, {}),
      dataset.example,
    )
  tables.use(monkeypatch, dataset)

  def refused(*args, **kwargs):
    raise evaluate.NotExportable("the model is not exported: no reason")

  monkeypatch.setattr(evaluate, "export_forward", refused)
  keys = _keys("regression", export=True, max_train_steps=4)
  status, told = runs.train_here(keys, tmp_path / "run")
  assert status["status"] == "completed"
  assert sum("not exported" in sentence for sentence in told) == 1
  assert not evaluate.exported(rundir.RunDir(tmp_path / "run").export)
