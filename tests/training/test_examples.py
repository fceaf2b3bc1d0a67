"""The costs of the validation examples that a run leaves for comparisons."""

import io
import pickle
import zipfile

import jax.numpy as jnp
import numpy as np
import pytest

from jaxplay import data, rundir
from jaxplay.config import metric
from jaxplay.training import own_task, population, tasks, train
from tests.training import runs

_KEYS = runs.overrides(
  objective="valid/loss", model__width=8, eval_batch_size=72
)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A run on eight devices, whose last batch of evaluation is padded."""
  folder = tmp_path_factory.mktemp("whole") / "run"
  runs.train_here(_KEYS, folder)
  return folder


def _batch(kind):
  """(task, outputs, batch) of 7 made-up examples, of which one is padding."""
  rng = np.random.default_rng(0)
  weight = jnp.array([1.0] * 6 + [0.0])
  if kind == "classification":
    task = tasks.Classification(8, metrics=("loss", "top5_accuracy"))
    features = {"label": rng.integers(8, size=7)}
    outputs = rng.normal(size=(7, 8))
  elif kind == "next_token":
    task = tasks.NextToken(8, metrics=("loss", "top5_accuracy"))
    features = {"tokens": rng.integers(8, size=(7, 5))}
    outputs = rng.normal(size=(7, 4, 8))
  elif kind == "multi_label":
    task = tasks.MultiLabel(3)
    features = {"label": rng.integers(2, size=(7, 3))}
    outputs = rng.normal(size=(7, 3))
  else:
    task = tasks.Regression(2)
    features = {"target": rng.normal(size=(7, 2)).astype(np.float32)}
    outputs = rng.normal(size=(7, 2))
  batch = {name: jnp.asarray(a) for name, a in features.items()}
  return task, jnp.asarray(outputs, jnp.float32), batch | {"weight": weight}


@pytest.mark.parametrize("kind", metric.TASKS)
def test_their_mean_is_the_metric(kind):
  """G11: of each metric that is a mean over examples, and of no other."""
  task, outputs, batch = _batch(kind)
  of_kind = metric.TASKS[kind]
  names = (*of_kind.logged, *of_kind.more)
  means = ("loss", "error_rate", "accuracy", "top5_accuracy", "mse", "mae")
  sums = type(task)(task.num_outputs, metrics=names).eval_sums(outputs, batch)
  sums = {
    name: np.asarray(value) for name, value in sums.items() if name != "rows"
  }
  for name in names:
    costs = task.costs(outputs, batch, metric.METRICS[name])
    assert (costs is not None) == (name in means), name
    if costs is None:
      continue
    counts = np.asarray(costs.get("counts", np.ones(7)))[:6]
    mean = np.average(np.asarray(costs["cost"], np.float64)[:6], weights=counts)
    value = type(task)(task.num_outputs, metrics=(name,)).values(sums)[name]
    assert mean == pytest.approx(metric.METRICS[name].cost(value), rel=1e-5)


class _Own:
  """A task whose metrics are a mean, a ratio and one that is maximized."""

  num_outputs = 1
  maximize = ("near",)

  def loss(self, outputs, batch):
    return jnp.square(outputs[:, 0] - batch["target"][:, 0])

  def metrics(self, outputs, batch):
    near = jnp.abs(outputs[:, 0] - batch["target"][:, 0]) < 1
    weight = jnp.square(batch["target"][:, 1])
    return {"near": near, "ratio": (weight * outputs[:, 0] ** 2, weight)}


@pytest.mark.parametrize("name", ["loss", "near", "ratio"])
def test_of_a_users_task(name):
  """G11: of a user's metrics that are means, weighted or not."""
  _, outputs, batch = _batch("regression")
  batch |= {"inputs": batch["target"]}
  example = {
    name: (array.shape[1:], str(array.dtype))
    for name, array in batch.items()
    if name != "weight"
  }
  task = own_task.OwnTask(_Own, "own.py:Own", example)
  of = metric.Metric(name, name == "near", 1.0 if name == "near" else None)
  costs = task.costs(outputs, batch, of, {})
  sums = task.eval_sums(outputs, batch, {})
  counts = np.asarray(costs.get("counts", np.ones(7)))[:6]
  mean = np.average(np.asarray(costs["cost"], np.float64)[:6], weights=counts)
  assert mean == pytest.approx(of.cost(task.values(sums)[name]), rel=1e-5)
  assert task.costs(outputs, batch, metric.Metric("other"), {}) is None


def test_of_the_best_and_the_last_step(whole):
  """G11: as many as there are examples; their means are in the lines."""
  run = rundir.RunDir(whole)
  examples, status = run.examples(), run.status()
  assert examples.step_best == status["best"]["step"]
  assert examples.step_last == status["step"] == 48
  assert examples.metric == "valid/loss" and examples.weight is None
  values = {line["step"]: line.get("valid/loss") for line in run.metrics()}
  for step, costs in (
    (examples.step_best, examples.cost_best),
    (48, examples.cost_last),
  ):
    assert costs.shape == (300,) and costs.dtype == np.float32
    mean = costs.astype(np.float64).mean()
    assert mean == pytest.approx(values[step], rel=1e-5)


@pytest.mark.parametrize("best", [pytest.param(16, marks=pytest.mark.slow), 48])
def test_resumed_is_uninterrupted(whole, tmp_path, best):
  """G11, G7: to the bit, also if the best step was before the interruption."""
  keys, alone = _KEYS, whole
  if best == 16:  # It becomes worse.
    keys = _KEYS | {
      "objective": "valid/error_rate",
      "hparams.learning_rate": 0.5,
      "optimizer": "momentum",
    }
    alone = tmp_path / "alone"
    runs.train_here(keys, alone)
  runs.train_here(keys, tmp_path / "run", 24, runs.preempt)
  assert rundir.RunDir(tmp_path / "run").examples() is None
  runs.train_here(keys, tmp_path / "run")
  examples = runs.examples(tmp_path / "run")
  assert examples["step_best"] == best
  runs.assert_same(examples, runs.examples(alone))


@pytest.mark.slow
def test_on_one_device(whole, tmp_path):
  """G11, G4: the order and the number do not depend on the devices."""
  runs.train_here(_KEYS | {"mesh.data": 1}, tmp_path)
  one, eight = runs.examples(tmp_path), runs.examples(whole)
  assert one["data"] == eight["data"]
  np.testing.assert_allclose(
    one["cost_last"], eight["cost_last"], rtol=0.02, atol=1e-4
  )


@pytest.mark.slow
def test_of_a_population(tmp_path):
  """G11, N5: each trial has its own; one that diverges has none."""
  rates = (0.01, 0.03, 1e30)
  configs = [
    runs.make_config(
      _KEYS | {"hparams.learning_rate": rate, "max_train_steps": 16}
    )
    for rate in rates
  ]
  trials = [rundir.RunDir(tmp_path / f"trials/000{i}") for i in range(3)]
  for run in trials:
    run.create()
  group = population.Populations(configs, print)
  saved = tmp_path / "populations" / "0" / "checkpoints"
  assert group.train(configs, trials, saved, lambda statuses: None)
  assert trials[2].status()["status"] == "infeasible"
  assert trials[2].examples() is None
  train.train(configs[1], str(tmp_path / "alone"), runs.Quiet())
  ours, alone = runs.examples(trials[1].path), runs.examples(tmp_path / "alone")
  assert ours["data"] == alone["data"]
  np.testing.assert_allclose(
    ours["cost_last"], alone["cost_last"], rtol=0.02, atol=1e-4
  )
  first = trials[0].examples()
  assert not np.array_equal(first.cost_last, ours["cost_last"])
  value = trials[0].metrics()[-1]["valid/loss"]
  assert first.cost_last.mean() == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(
  "extra", [{"keep_examples": 299}, {"objective": "valid/f1"}]
)
def test_none_of_a_large_split_or_another_metric(tmp_path, extra):
  """G11: F1 is no mean over examples."""
  runs.train_here(_KEYS | {"max_train_steps": 8} | extra, tmp_path)
  assert rundir.RunDir(tmp_path).status()["status"] == "completed"
  assert rundir.RunDir(tmp_path).examples() is None


def test_which_examples():
  """G11: the hash tells other examples, and rows of another length."""

  def made(valid=9, length=4, facts="a"):
    rows = np.zeros((valid, length), np.int32)
    return data.Dataset(
      {"valid": data.dataset.Arrays({"tokens": rows})},
      2,
      {"tokens": ((length,), "int32")},
      facts={"splits": {"valid": {"sha256": facts}}},
    )

  first = data.identity(made(), "valid")
  assert first == data.identity(made(), "valid") != ""
  others = (made(valid=8), made(length=5), made(facts="b"))
  assert first not in [data.identity(other, "valid") for other in others]
  assert data.identity(data.Dataset({}, 2, {}), "valid") == ""


# A code point that no text has.
_NO_TEXT = np.full((), 2**31 - 1, np.uint32).view("<U1")


def _written(**changed):
  """A file as a run writes it, with other or removed arrays."""
  arrays = {
    "step_best": 1,
    "cost_best": np.ones(3, np.float32),
    "step_last": 2,
    "cost_last": np.ones(3, np.float32),
    "metric": "valid/loss",
    "data": "abc",
  }
  arrays = {n: a for n, a in (arrays | changed).items() if a is not None}
  file = io.BytesIO()
  np.savez(file, **arrays)
  return file.getvalue()


@pytest.mark.parametrize(
  "changed",
  [
    {"cost_best": None},
    {"cost_last": np.ones(4, np.float32)},
    {"cost_best": np.array([1, np.nan, 1], np.float32)},
    {"cost_best": np.zeros(0, np.float32), "cost_last": np.zeros(0)},
    {"weight": np.array([1, -1, 1], np.float32)},
    {"weight": np.zeros(3, np.float32)},
    {"step_best": 3},
    {"step_best": np.array([1])},
    {"step_last": 2.0},
    {"metric": np.array([{}], object)},
    {"data": 5},
    {"metric": _NO_TEXT},
    {"metric": "\ud800"},
    {"cost_best": np.full(3, 1e300)},
  ],
  ids=lambda changed: "-".join(changed),
)
def test_a_damaged_file_is_refused(tmp_path, changed):
  """No pickle is loaded, and no number is made of what is no number."""
  path = tmp_path / "examples.npz"
  assert rundir.RunDir(tmp_path).examples() is None
  path.write_bytes(_written())
  assert rundir.RunDir(tmp_path).examples().step_last == 2
  path.write_bytes(_written(**changed))
  with pytest.raises(rundir.Damaged, match="examples.npz"):
    rundir.RunDir(tmp_path).examples()


def _flagged(data, offset, value):
  """Sets a field of every entry of an archive, at both of its places."""
  for mark, at in ((b"PK\3\4", offset), (b"PK\1\2", offset + 2)):
    start = -1
    while (start := data.find(mark, start + 1)) >= 0:
      data = data[: start + at] + bytes([value]) + data[start + at + 1 :]
  return data


def _with(name, data):
  """An archive with one more entry, of these bytes."""
  file = io.BytesIO(_written(cost_best=None))
  with zipfile.ZipFile(file, "a") as archive:
    archive.writestr(name, data)
  return file.getvalue()


def _header(shape):
  """An array of which there is only the header."""
  file = io.BytesIO()
  fields = {"descr": "<f4", "fortran_order": False, "shape": shape}
  np.lib.format.write_array_header_1_0(file, fields)
  return file.getvalue()


def _array():
  file = io.BytesIO()
  np.save(file, np.ones(3))
  return file.getvalue()


@pytest.mark.parametrize(
  "make",
  [
    lambda: b"",
    lambda: _written()[:-40],
    lambda: pickle.dumps({"cost_best": 1}),
    _array,
    lambda: _flagged(_written(), 6, 1),  # encrypted
    lambda: _flagged(_written(), 8, 97),  # a compression that nobody has
    lambda: _with("cost_best", b"no array"),
    lambda: _with("cost_best.npy", _header((10**30,))),
    lambda: _with("cost_best.npy", _header((10**12,))),
    lambda: _with("cost_best.npy", _header((True,))),
  ],
)
def test_a_foreign_archive_is_refused(tmp_path, make):
  """Whatever its bytes make of numpy and zipfile: in one sentence."""
  (tmp_path / "examples.npz").write_bytes(make())
  with pytest.raises(rundir.Damaged, match="examples.npz"):
    rundir.RunDir(tmp_path).examples()


def test_an_archive_is_not_unpacked_without_limit(tmp_path):
  """A few bytes can unpack to more than any memory."""
  data = _written()
  sizes = data.rfind(b"PK\1\2") + 24  # unpacked, of the last entry
  data = data[:sizes] + b"\xff" * 4 + data[sizes + 4 :]
  (tmp_path / "examples.npz").write_bytes(data)
  with pytest.raises(rundir.Damaged, match="unpacked"):
    rundir.RunDir(tmp_path).examples()
