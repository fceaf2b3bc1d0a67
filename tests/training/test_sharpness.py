"""The largest eigenvalue of the Hessian, against dense matrices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import flatten_util

import jaxplay
from jaxplay import models
from jaxplay.data import order
from jaxplay.training import sharpness
from jaxplay.training import workload as workload_lib
from tests.training import runs


def _symmetric(eigenvalues):
  rng = np.random.default_rng(3)
  basis, _ = np.linalg.qr(rng.standard_normal((len(eigenvalues),) * 2))
  return basis * eigenvalues @ basis.T


@pytest.mark.parametrize(
  "eigenvalues",
  [
    [7.0],
    [-3.0, 2.0, 5.0],
    # A more negative one is no sharpness.
    [-50.0, *np.linspace(-1, 1, 200), 10.0],
    [*np.geomspace(1e-6, 20, 300), 20.5],
    -np.linspace(5, 6, 150),
  ],
  ids=["one", "three", "negative", "bulk", "concave"],
)
def test_known_eigenvalues(eigenvalues):
  """I8: the largest, not that of the largest magnitude, to its tolerance."""
  matrix = _symmetric(np.asarray(eigenvalues))
  calls = []

  def product(vector):
    calls.append(vector)
    return matrix @ vector

  value, number = sharpness.largest_eigenvalue(product, len(eigenvalues))
  assert value == pytest.approx(max(eigenvalues), rel=sharpness.TOLERANCE)
  assert number == len(calls)


def test_what_does_not_converge():
  """I8: no eigenvalue is better than a wrong one; the cost is bounded."""
  hard = _symmetric(-np.geomspace(1e-9, 1, 500))
  value, number = sharpness.largest_eigenvalue(lambda v: hard @ v, 500)
  assert value is None and number < 300
  for size in (3, 100):
    value, _ = sharpness.largest_eigenvalue(lambda v: v * np.nan, size)
    assert value is None


_SMALL = {
  "max_train_steps": 6,
  "batch_size": 256,
  "model.depth": 1,
  "model.width": 4,
  "model.activation": "tanh",
}


def _dense(config, at):
  """The sharpness after `at` steps, by `jax.hessian` and numpy alone."""
  workload = workload_lib.make_workload(config, devices=jax.devices()[:1])
  state, feed = workload.init(), workload_lib.make_feed(workload, config, 0)
  for step in range(at):
    arguments = feed.arguments(step, step + 1)
    state, _ = feed.program(workload.hparams, state, *arguments)
  flat, unravel = flatten_util.ravel_pytree(state.params)
  source = workload.dataset.splits["train"]
  size = config.batch_size // config.microbatches
  number = -(-sharpness.EXAMPLES // size)
  seed = order.stream_seed(0, "predictions")
  index = order.batch_indices(seed, 0, size, source.num_examples, number)

  def loss(flat):
    losses = []
    for part in index.reshape(number, size):
      batch = jax.tree.map(jnp.asarray, source.fetch(part))
      logits, _ = models.apply(
        workload.model,
        unravel(flat),
        state.batch_stats,
        workload.task.inputs(batch),
        train=config.model.norm == "batch",
        rows=jnp.arange(size),
        dropout_key=jax.random.key(0),
      )
      log_p = jax.nn.log_softmax(logits)
      picked = jnp.take_along_axis(log_p, batch["label"][:, None], 1)
      losses.append(-picked.mean())
    return sum(losses) / number

  hessian = np.asarray(jax.jit(jax.hessian(loss))(flat), np.float64)
  if config.optimizer == "adam":
    nu = flatten_util.ravel_pytree(state.opt_state[0].nu)[0]
    nu = np.asarray(nu, np.float64)
    beta1, beta2 = config.hparams.beta1, config.hparams.beta2
    scale = (np.sqrt(nu) + config.hparams.epsilon) * (1 - beta1**at)
    root = 1 / np.sqrt(scale / np.sqrt(1 - beta2**at))
    hessian = root[:, None] * hessian * root
  return np.linalg.eigvalsh((hessian + hessian.T) / 2)[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
  "changes",
  [
    {"optimizer": "adam", "hparams.learning_rate": 0.01},
    {
      "model.norm": "batch",
      "model.dropout": True,
      "hparams.dropout_rate": 0.5,
    },
  ],
  ids=["adam", "batch norm, dropout"],
)
def test_against_the_dense_hessian(changes):
  """I8: a network of two layers, at the start and after some steps."""
  config = runs.make_config(runs.overrides() | _SMALL | changes)
  rows = sharpness.measure(config, [0, 3])
  adaptive = config.optimizer == "adam"
  assert [row["step"] for row in rows] == [3] if adaptive else [0, 3]
  for row in rows:
    expected = _dense(config, row["step"])
    assert row["sharpness"] == pytest.approx(expected, rel=sharpness.TOLERANCE)
    assert row["rate"] == pytest.approx(config.hparams.learning_rate)
    assert row["examples"] >= sharpness.EXAMPLES and row["products"] > 1


@pytest.mark.slow
def test_a_run_that_diverges():
  """I8: nothing is measured of weights that are not finite."""
  config = runs.make_config(
    runs.overrides() | {"optimizer": "sgd", "model.width": 4}
  )
  config.hparams.learning_rate = 1e30
  assert [row["step"] for row in sharpness.measure(config, [0, 39])] == [0]


def test_optimizers_without_a_preconditioner():
  """I8: what is not known is refused by name."""
  with pytest.raises(jaxplay.UserError, match="muon.*adamw"):
    sharpness.preconditioner("muon", {}, ())
