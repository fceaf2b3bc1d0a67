"""Evaluation: exact sums over any layout, and the exported model."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplay import data, models
from jaxplay.training import evaluate, feed, metrics, sharding, tasks

CLASSES, SHAPE = 10, (8, 8, 1)
TASK = tasks.Classification(num_classes=CLASSES, pixel_max=16)
EXAMPLE = {"image": (SHAPE, "uint8"), "label": ((), "int32")}


def _validation():
  return data.load(
    "digits", data_dir="", splits={}, image_size=0, synthetic={}
  ).splits["valid"]


@pytest.fixture(scope="module")
def valid():
  """The 300 validation digits."""
  source = _validation()
  fetched = source.fetch(np.arange(source.num_examples))
  return {name: jnp.asarray(array) for name, array in fetched.items()}


def _model(norm_kind="batch", name="mlp", **sizes):
  return models.build(
    name,
    CLASSES,
    norm_kind=norm_kind,
    virtual_batch_size=4,
    num_groups=4,
    dtype="float32",
    **dict(depth=1, width=64) | sizes,
  )


def _variables(model):
  """Parameters and averages that are nobody's initial values."""
  shapes = jax.eval_shape(
    lambda: models.init(model, jax.random.key(0), jnp.zeros((1, *SHAPE)))
  )
  rng = np.random.default_rng(0)

  def fill(path, leaf):
    if path[-1].key == "kernel":
      deviation = np.sqrt(2 / np.prod(leaf.shape[:-1]))
      return np.float32(rng.normal(size=leaf.shape) * deviation)
    return np.float32(rng.uniform(0.1, 0.9, leaf.shape))

  return jax.tree_util.tree_map_with_path(fill, shapes)


@pytest.fixture(scope="module")
def trained():
  model = _model()
  return model, _variables(model)


@pytest.fixture(scope="module")
def logits(trained, valid):
  """Of every validation digit, in one batch."""
  model, variables = trained
  predict = jax.jit(evaluate.make_predict(model, TASK))
  return predict(variables, {"image": valid["image"]})["logits"]


@pytest.fixture(scope="module")
def one_device():
  return sharding.make_mesh(devices=jax.devices()[:1])


def _split_sums(trained, mesh, batch_size, device_bytes=2**20):
  """Sums over the split, in batches of that size."""
  model, variables = trained
  evaluator = feed.make_evaluator(
    mesh,
    _validation(),
    evaluate.make_eval_batch(model, TASK),
    batch_size=batch_size,
    device_bytes=device_bytes,
    workers=0,
  )
  return evaluator(jax.device_put(variables, sharding.replicated(mesh)))


def _assert_same_sums(one, other):
  """Counts exactly, the loss up to the order of its sum."""
  assert one.keys() == other.keys()
  for name in one:
    tolerance = 1e-5 if name == "loss" else 0
    np.testing.assert_allclose(one[name], other[name], rtol=tolerance)


@pytest.fixture(scope="module")
def whole(trained, one_device):
  """The sums of one batch that is the whole split, on one device."""
  return _split_sums(trained, one_device, 300)


def test_sums_are_those_of_the_definition(whole, valid, logits):
  """G4: loss, errors and counts over the split, example by example."""
  sums = whole
  logits = np.asarray(logits, np.float64)
  labels = np.asarray(valid["label"])
  log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
  right = logits.argmax(1) == labels
  assert 0 < right.sum() < 300 and len(np.unique(logits.argmax(1))) > 2
  loss = -log_p[np.arange(300), labels].sum()
  assert sums["loss"] == pytest.approx(loss, rel=1e-5)
  assert sums["errors"] == 300 - right.sum() and sums["weight"] == 300
  np.testing.assert_array_equal(sums["class_count"], np.bincount(labels))
  np.testing.assert_array_equal(
    sums["class_correct"], np.bincount(labels[right], minlength=CLASSES)
  )
  line = metrics.eval_line("valid", sums)
  assert line == {
    "valid/loss": pytest.approx(loss / 300, rel=1e-5),
    "valid/error_rate": 1 - right.mean(),
  }


@pytest.mark.parametrize("device_bytes", [2**20, 0], ids=["device", "host"])
@pytest.mark.parametrize(
  "batch_size, devices", [(1, 1), (128, 1), (40, 8), (296, 8), (512, 8)]
)
def test_sums_do_not_depend_on_the_layout(
  mesh, one_device, trained, whole, batch_size, devices, device_bytes
):
  """G4: no metric depends on batch size, devices, or where the split lives."""
  mesh = mesh if devices == 8 else one_device
  assert mesh.size == devices
  sums = _split_sums(trained, mesh, batch_size, device_bytes)
  _assert_same_sums(sums, whole)


def test_per_class_counts_add_up(whole):
  """G6: the counts of the classes are the counts of the split."""
  assert whole["class_count"].sum() == whole["weight"] == 300
  assert whole["class_correct"].sum() == 300 - whole["errors"]
  assert (whole["class_correct"] <= whole["class_count"]).all()


@pytest.mark.parametrize("filling", [np.nan, np.inf, -np.inf, 1e30])
def test_padding_never_counts(logits, valid, filling):
  """G4: what padding gives is irrelevant, NaN included."""
  real = np.ones(300, bool)
  real[[3, *range(250, 300)]] = False
  batch = {"label": valid["label"], "weight": jnp.float32(real)}
  spoilt = jnp.where(real[:, None], logits, np.float32(filling))
  sums = TASK.eval_sums(spoilt, batch)
  part = TASK.eval_sums(
    logits[real], {name: array[real] for name, array in batch.items()}
  )
  _assert_same_sums(jax.device_get(sums), jax.device_get(part))


def test_what_is_not_a_number_is_wrong(logits, valid):
  """G4: an example with NaN logits is an error, whatever argmax says."""
  labels = np.asarray(valid["label"])
  right = np.flatnonzero(logits.argmax(1) == labels)
  spoilt = np.array(logits)
  spoilt[right[0], :] = np.nan
  spoilt[right[1], (labels[right[1]] + 1) % CLASSES] = -np.inf
  errors = np.asarray(TASK.errors(jnp.asarray(spoilt), valid))
  assert errors[right[:2]].all() and not errors[right[2:]].any()


def test_evaluation_does_not_normalize_by_its_batch(trained, valid):
  """N4: the averages alone decide: an example is what it is in any batch."""
  model, variables = trained
  compiled = jax.jit(evaluate.make_predict(model, TASK))
  predict = lambda *args: compiled(*args)["logits"]  # noqa: E731
  whole = predict(variables, {"image": valid["image"]})
  part = predict(variables, {"image": valid["image"][7:12]})
  np.testing.assert_allclose(part, whole[7:12], rtol=1e-5, atol=1e-5)
  other = jax.tree.map(lambda leaf: leaf + 0.5, variables[1])
  changed = predict((variables[0], other), {"image": valid["image"]})
  assert np.abs(changed - whole).max() > 1e-2


# The task.


def test_label_smoothing():
  """A3: smoothing is the cross-entropy against (1 - s) true + s / classes."""
  rng = np.random.default_rng(0)
  logits = jnp.float32(rng.normal(size=(20, CLASSES)))
  labels = jnp.int32(rng.integers(0, CLASSES, 20))
  log_p = np.asarray(jax.nn.log_softmax(logits), np.float64)
  for smoothing in (0.0, 0.3):
    target = (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES
    loss = TASK.loss(logits, {"label": labels}, {"label_smoothing": smoothing})
    np.testing.assert_allclose(loss, -(target * log_p).sum(1), rtol=1e-5)


def test_inputs_are_scaled_and_moved():
  """Data: pixels become [-1, 1]; what a shift uncovers is as a zero pixel."""
  image = np.full((2, 3, 3, 1), 16, np.uint8)
  image[0] = 0
  image = jnp.asarray(image)
  plain = TASK.inputs({"image": image})
  np.testing.assert_array_equal(plain[0], -1.0)
  np.testing.assert_array_equal(plain[1], 1.0)
  moves = jnp.array([[0, 0, 0], [1, 0, 0]], np.int32)
  moved = TASK.inputs({"image": image, "moves": moves})
  np.testing.assert_array_equal(moved[1, 0], -1.0)
  np.testing.assert_array_equal(moved[1, 1:], 1.0)


# The exported model.

_RELOAD = """
import pathlib
import sys
import jax
import numpy as np
folder = pathlib.Path(sys.argv[1])
forward = jax.export.deserialize((folder / "forward.jaxexport").read_bytes())
weights = dict(np.load(folder / "weights.npz"))
images = np.load(folder / "images.npy")
for size in (1, 5, 300):
  np.save(folder / f"{size}.npy", forward.call(weights, images[:size]))
known = {name.split(".")[0] for name in sys.modules}
assert not known & {"jaxplay", "flax"}
assert sorted(forward.platforms) == ["cpu", "cuda", "tpu"]
"""


@pytest.mark.slow
@pytest.mark.parametrize(
  "name, norm_kind", [("mlp", "ghost"), ("resnet", "batch")]
)
def test_exported_model(tmp_path, valid, name, norm_kind):
  """G5: the exported model gives the same logits, for any number of images.

  In a process that knows neither jaxplay nor Flax.
  """
  model = _model(norm_kind, name, depth=10 if name == "resnet" else 2, width=4)
  variables = _variables(model)
  predict = evaluate.make_predict(model, TASK)
  folder = tmp_path / "export"
  program, note = evaluate.export_forward(model, TASK, variables, EXAMPLE)
  assert not note
  evaluate.write_export(folder, program, variables)
  np.save(folder / "images.npy", valid["image"])
  done = subprocess.run(
    [sys.executable, "-c", _RELOAD, str(folder)],
    capture_output=True,
    text=True,
    cwd=tmp_path,
  )
  assert done.returncode == 0, done.stderr
  expected = jax.jit(predict)(variables, {"image": valid["image"]})["logits"]
  assert np.abs(expected - expected[:1]).max() > 1e-2
  for size in (1, 5, 300):
    np.testing.assert_allclose(
      np.load(folder / f"{size}.npy"), expected[:size], rtol=1e-4, atol=1e-4
    )


def test_export_over_an_older_one(tmp_path):
  """G5: exporting twice leaves the newer one."""
  model = _model("none")
  for factor in (1, 2):
    variables = jax.tree.map(lambda x, f=factor: x * f, _variables(model))
    program, _ = evaluate.export_forward(model, TASK, variables, EXAMPLE)
    evaluate.write_export(tmp_path, program, variables)
  with np.load(tmp_path / "weights.npz") as file:
    weights = dict(file)
  leaves = jax.tree.leaves(variables)
  assert len(weights) == len(leaves)
  total = sum(float(weights[name].sum()) for name in weights)
  assert total == pytest.approx(sum(float(leaf.sum()) for leaf in leaves))
