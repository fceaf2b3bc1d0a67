"""Models of Equinox, Haiku and Flax NNX, as pairs of pure functions."""

import pytest

from jaxplay import config as config_lib
from tests.own import parts_here
from tests.training import runs

EQUINOX = """
import equinox as eqx
import jax


class Net:
  def __init__(self, num_classes, width: int = 32):
    self.sizes = num_classes, width

  def init(self, key, inputs):
    num_classes, width = self.sizes
    net = eqx.nn.MLP(inputs[0].size, num_classes, width, 1, key=key)
    params, self.rest = eqx.partition(net, eqx.is_inexact_array)
    return params

  def apply(self, params, inputs):
    net = eqx.combine(params, self.rest)
    return jax.vmap(net)(inputs.reshape(inputs.shape[0], -1))
"""
HAIKU = """
import haiku as hk


def Net(num_classes, width: int = 32):
  def forward(inputs):
    return hk.nets.MLP([width, num_classes])(hk.Flatten()(inputs))

  return hk.without_apply_rng(hk.transform(forward))
"""
NNX = """
import jax
from flax import nnx


class Module(nnx.Module):
  def __init__(self, size, width, num_classes, rngs):
    self.inner = nnx.Linear(size, width, rngs=rngs)
    self.outer = nnx.Linear(width, num_classes, rngs=rngs)

  def __call__(self, x):
    return self.outer(jax.nn.relu(self.inner(x)))


class Net:
  def __init__(self, num_classes, width: int = 32):
    self.sizes = width, num_classes

  def init(self, key, inputs):
    net = Module(inputs[0].size, *self.sizes, rngs=nnx.Rngs(key))
    self.graph, params = nnx.split(net, nnx.Param)
    return nnx.to_pure_dict(params)

  def apply(self, params, inputs):
    state = nnx.State(params)
    net = nnx.merge(self.graph, state)
    return net(inputs.reshape(inputs.shape[0], -1))
"""


@pytest.mark.parametrize(
  "library, text", [("equinox", EQUINOX), ("haiku", HAIKU), ("flax", NNX)]
)
def test_a_model_of_another_library(tmp_path, library, text):
  """P1: it learns, with a key of its own, and its export is written."""
  pytest.importorskip(library)
  folder = parts_here.write(tmp_path / "user", net=text)
  file = parts_here.config_file(
    folder,
    [
      'config.model.name = "net.py:Net"',
      "config.model.width = 24",
      'config.optimizer = "adam"',
      "config.hparams.learning_rate = 0.02",
      "config.max_train_steps = 40",
      "config.eval_every = 20",
      "config.checkpoint_every = 20",
    ],
  )
  config = config_lib.load(file)
  config_lib.validate(config)
  from jaxplay.training import train

  status = train.train(config, str(tmp_path / "run"), runs.Quiet())
  assert status["best"]["value"] < 0.4
  assert (tmp_path / "run" / "export" / "weights.npz").exists()
