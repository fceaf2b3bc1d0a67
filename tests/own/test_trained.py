"""Training of the user's own parts: all that holds for built-in ones."""

import json

import jax
import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir, usercode
from jaxplay.analysis import curves
from jaxplay.training import parts, population, schedules, step, train
from jaxplay.training import workload as workload_lib
from tests.own import parts_here
from tests.training import runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  return parts_here.write(tmp_path_factory.mktemp("user"))


def _config(folder, *lines):
  file = parts_here.config_file(folder, [*parts_here.SMALL, *lines])
  config = config_lib.load(file)
  config_lib.validate(config)
  return config


def _train(config, workdir, **options):
  console = runs.Quiet(options.pop("at", None), options.pop("act", None))
  return train.train(config, str(workdir), console, **options)


def _lines(path):
  text = (path / "metrics.jsonl").read_text()
  rows = [json.loads(line) for line in text.splitlines()]
  varies = ("steps_per_second", "examples_per_second", "data_wait")
  return [{k: v for k, v in row.items() if k not in varies} for row in rows]


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
  """A run of own model, optimizer and schedule, never stopped."""
  path = tmp_path_factory.mktemp("whole")
  _train(_config(folder), path)
  return path


def test_resumed_is_uninterrupted(folder, whole, tmp_path):
  """P2, G7: after a preemption, from the copies of the code alone."""
  moved = parts_here.write(tmp_path / "user")
  _train(_config(moved), tmp_path / "run", at=6, act=runs.preempt)
  assert rundir.RunDir(tmp_path / "run").status()["status"] == "preempted"
  moved.rename(tmp_path / "gone")
  usercode.forget()
  again = config_lib.load(str(tmp_path / "run" / "config.json"))
  assert _train(again, tmp_path / "run")["status"] == "completed"
  assert _lines(tmp_path / "run") == _lines(whole)


def test_changed_code_needs_a_word(folder, tmp_path):
  """P2: a run goes on with other code only if that is allowed."""
  home = parts_here.write(tmp_path / "user")
  _train(_config(home), tmp_path / "run", at=6, act=runs.preempt)
  before = rundir.RunDir(tmp_path / "run").config()
  (home / "blocks.py").write_text(parts_here.BLOCKS.replace("x + y", "x - y"))
  changed = _config(home)
  with pytest.raises(jaxplay.UserError, match="--allow_code_change") as refused:
    _train(changed, tmp_path / "run")
  assert "blocks.py" in str(refused.value)
  assert "mixer.py" not in str(refused.value)
  assert rundir.RunDir(tmp_path / "run").config() == before
  _train(changed, tmp_path / "run", allow_code_change=True)
  assert rundir.RunDir(tmp_path / "run").config()["code"] == changed.code
  assert len(list((tmp_path / "run" / "code").iterdir())) == 2


def test_eight_devices_are_one(folder):
  """P1: on a mesh of eight, data and FSDP, as on one device."""
  states = []
  for mesh in ({"data": 1}, {"data": 8}, {"data": 2, "fsdp": 4}):
    lines = [f"config.mesh.{axis} = {size}" for axis, size in mesh.items()]
    config = _config(folder, *lines)
    workload = workload_lib.make_workload(config)
    feed = workload_lib.make_feed(workload, config, 0)
    state = workload.init()
    for at in range(2):
      state, _ = feed.program(
        workload.hparams, state, *feed.arguments(at, at + 1)
      )
    states.append(jax.device_get(state.params))
  for other in states[1:]:
    jax.tree.map(
      lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
      states[0],
      other,
    )


def test_a_population_is_its_members(folder, tmp_path):
  """P1: numbers and the schedule itself vary in one program."""
  configs = [
    _config(folder, *lines, "config.mesh.data = 1")
    for lines in (
      (),
      ("config.hparams.beta = 0.3",),
      ("config.hparams.every = 3", "config.hparams.weight_decay = 0.1"),
      ('config.schedule = "cosine"',),
    )
  ]
  together = [rundir.RunDir(tmp_path / "all" / str(i)) for i in range(4)]
  group = population.Populations(configs, runs.Quiet().tell)
  for run in together:
    run.create()
  folder_of_all = tmp_path / "all" / "populations" / "p" / "checkpoints"
  folder_of_all.parent.mkdir(parents=True)
  group.train(configs, together, folder_of_all, lambda lines: None)
  for i, config in enumerate(configs):
    _train(config, tmp_path / str(i))
    one, other = _lines(tmp_path / str(i)), _lines(together[i].path)
    assert len(one) == len(other)
    for line, of_population in zip(one, other, strict=True):
      assert line.keys() == of_population.keys()
      for key, value in line.items():
        assert of_population[key] == pytest.approx(value, abs=1e-4), key


def test_decay_of_an_optimizer_without_it(folder):
  """P1: decoupled, of kernels alone, as in the built-in optimizers."""
  params = []
  for decay in (0.0, 0.5):
    config = _config(folder, f"config.hparams.weight_decay = {decay}")
    workload = workload_lib.make_workload(config)
    feed = workload_lib.make_feed(workload, config, 0)
    state = workload.init()
    first = jax.device_get(state.params)
    state, _ = feed.program(workload.hparams, state, *feed.arguments(0, 1))
    params.append(jax.device_get(state.params))
  rate = 0.05
  expected = jax.tree_util.tree_map_with_path(
    lambda path, old, new: new - rate * 0.5 * old * (path[-1].key == "kernel"),
    first,
    params[0],
  )
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6),
    params[1],
    expected,
  )


NETS = """
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp


class Normed(nn.Module):  # with Flax's own batch norm and dropout
  num_classes: int

  @nn.compact
  def __call__(self, x, train):
    x = nn.Dense(16)(x.reshape(x.shape[0], -1))
    x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
    x = nn.Dropout(0.25, deterministic=not train)(nn.relu(x))
    return nn.Dense(self.num_classes)(x)


class House(nn.Module):  # with what jaxplay gives
  num_classes: int
  norm: object
  constrain: object
  dtype: object

  @nn.compact
  def __call__(self, x, train, weights, rows, dropout_rate):
    x = nn.Dense(16, dtype=self.dtype)(x.reshape(x.shape[0], -1))
    x = self.constrain(self.norm()(x, train=train, weights=weights))
    return nn.Dense(self.num_classes)(nn.relu(x))


class Pair:
  width: int = 8

  def __init__(self, width, num_classes):
    self.width, self.num_classes = width, num_classes

  def init(self, key, inputs):
    size = inputs.size // inputs.shape[0]
    one, two = jax.random.split(key)
    return {
      "in": jax.random.normal(one, (size, self.width)) / size**0.5,
      "out": jax.random.normal(two, (self.width, self.num_classes)) * 0.1,
    }

  def apply(self, params, inputs):
    x = inputs.reshape(inputs.shape[0], -1)
    return jax.nn.relu(x @ params["in"]) @ params["out"]


def functions(num_classes, width: int = 32):
  made = Pair(width, num_classes)
  return made.init, lambda params, x, train, key: made.apply(params, x)


class Plain(nn.Module):
  num_classes: int
  width: int = 8

  @nn.compact
  def __call__(self, x):
    x = nn.relu(nn.Dense(self.width)(x.reshape(x.shape[0], -1)))
    return nn.Dense(self.num_classes)(x)


partial = functools.partial(Plain, width=32)
instance = Plain(10)


def sequential(num_classes, width: int = 32):
  flat = lambda x: x.reshape(x.shape[0], -1)
  layers = [flat, nn.Dense(width), nn.relu, nn.Dense(num_classes)]
  return nn.Sequential(layers)
"""


@pytest.fixture(scope="module")
def nets(tmp_path_factory):
  return parts_here.write(tmp_path_factory.mktemp("nets"), nets=NETS)


@pytest.mark.parametrize(
  "name",
  ["Normed", "House", "Pair", "functions", "partial", "instance", "sequential"],
)
def test_models_of_any_kind_learn(nets, tmp_path, name):
  """P1: modules with and without what jaxplay gives, pure functions."""
  config = _config(
    nets,
    f'config.model.name = "nets.py:{name}"',
    'config.optimizer = "adam"',
    "config.hparams.learning_rate = 0.02",
    "config.max_train_steps = 60",
    'config.schedule = "constant"',
    *(['config.model.norm = "batch"'] if name == "House" else ()),
  )
  status = _train(config, tmp_path / "run")
  assert status["best"]["value"] < 0.3


def test_flax_averages_its_own_statistics(nets):
  """P1: momentum is that of the module, also over microbatches."""
  config = _config(nets, 'config.model.name = "nets.py:Normed"')
  workload = workload_lib.make_workload(config)
  feed = workload_lib.make_feed(workload, config, 0)
  state = jax.device_get(workload.init())
  before = state.batch_stats["BatchNorm_0"]["mean"]
  state, _ = feed.program(
    workload.hparams, jax.device_put(state), *feed.arguments(0, 1)
  )
  after = jax.device_get(state.batch_stats)["BatchNorm_0"]["mean"]
  batch_mean = (after - 0.9 * before) / 0.1
  assert np.abs(batch_mean).max() > 0.05  # of unit order, not a tenth of it
  assert workload.hparams["norm_momentum"] == np.float32(0.9)


def test_a_branch_is_exact(folder, tmp_path):
  """P1, S3: a branch of own model and optimizer equals the planned run."""
  from jaxplay.training import branch

  constant = _config(folder, 'config.schedule = "constant"')
  _train(constant, tmp_path / "run")
  config = branch.planned(
    constant, step=8, cooldown_fraction=0.2, cooldown_shape="linear"
  )
  made = rundir.RunDir(tmp_path / "branch")
  branch.begin(rundir.RunDir(tmp_path / "run"), 8, made, config)
  _train(config, made.path)
  _train(config, tmp_path / "planned")
  one = _lines(made.path)[-1]
  other = _lines(tmp_path / "planned")[-1]
  assert one == other
  assert (made.path / "code").is_dir()


def test_not_finite_at_once(nets, tmp_path):
  """P3: before any update it is no learning rate, and the part is named."""
  parts_here.write(nets, nan=NAN)
  status = _train(
    _config(nets, 'config.model.name = "nan.py:Nan"'), tmp_path / "run"
  )
  assert status["status"] == "infeasible" and status["step"] == 1
  assert "nan.py:Nan" in status["reason"]
  findings = {
    f.check: f for f in curves.check_run(rundir.RunDir(tmp_path / "run"))
  }
  assert findings["early_instability"].verdict == "fail"
  assert "warmup" not in findings["early_instability"].advice


NAN = """
import flax.linen as nn
import jax.numpy as jnp


class Nan(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1)) * jnp.nan
"""


BROKEN = """
import sys

import flax.linen as nn
import jax.numpy as jnp
import optax


class Raises(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x):
    raise ValueError("boom")


class Empty(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x):
    return jnp.zeros((x.shape[0], self.num_classes))


class Shape(nn.Module):
  @nn.compact
  def __call__(self, x):
    return nn.Dense(7)(x.reshape(x.shape[0], -1))


class Rows(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x):
    return nn.Dense(self.num_classes)(x.reshape(1, -1))


class Drops(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x, train, dropout_rate):
    x = nn.Dropout(dropout_rate, deterministic=not train)(x)
    return nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1))


class Cached(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x):
    self.variable("cache", "n", lambda: jnp.zeros(()))
    return nn.Dense(self.num_classes)(x.reshape(x.shape[0], -1))


def text(num_classes):
  return "no model"


def nothing(learning_rate):
  return 3


def no_rate(beta=0.9):
  return optax.sgd(0.1)


def branches(learning_rate, beta: float = 0.9):
  return optax.sgd(learning_rate) if beta > 0.5 else optax.adam(learning_rate)


def fails(step, hparams):
  return step / undefined


def vector(step, hparams):
  return jnp.ones(3)


def none(step, hparams):
  return None


class Exits(nn.Module):
  num_classes: int

  def __call__(self, x):
    sys.exit(0)


class Arity(nn.Module):
  num_classes: int

  @nn.compact
  def __call__(self, x, y):
    return nn.Dense(self.num_classes)(x)


class Needs:
  def __init__(self, a, b):
    pass


def wants(learning_rate):
  return optax.GradientTransformation(optax.identity().init, lambda g, s: g)


def exits(learning_rate):
  sys.exit(0)


class Task:
  def loss(self, outputs, batch):
    return optax.softmax_cross_entropy_with_integer_labels(
      outputs, batch["label"]
    )


class Quits(Task):
  def loss(self, outputs, batch):
    sys.exit(0)


class Blind(Task):
  def inputs(self, batch):
    return None


class Ends(Task):
  def collect(self, outputs, batch):
    return {"a": outputs}

  def split_metrics(self, collected):
    sys.exit(0)
"""


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
  return parts_here.write(tmp_path_factory.mktemp("broken"), broken=BROKEN)


@pytest.mark.parametrize(
  "switch, name, says",
  [
    ("model.name", "Raises", "broken.py"),
    ("model.name", "Empty", "broken.py:Empty"),
    ("model.name", "Shape", "broken.py:Shape"),
    ("model.name", "Rows", "broken.py"),
    ("model.name", "Cached", "cache"),
    ("model.name", "Drops", "jaxplay.models.dropout"),
    ("model.name", "text", "broken.py:text"),
    ("optimizer", "nothing", "broken.py:nothing"),
    ("optimizer", "no_rate", "learning_rate"),
    ("optimizer", "branches", "static"),
    ("schedule", "fails", "undefined"),
    ("schedule", "vector", "broken.py:vector"),
    ("schedule", "none", "broken.py:none"),
    ("model.name", "Exits", "broken.py:Exits"),
    ("model.name", "Arity", "broken.py:Arity"),
    ("model.name", "Needs", "'a' and 'b'"),
    ("optimizer", "wants", "broken.py:wants"),
    ("optimizer", "exits", "broken.py:exits"),
    ("task.name", "Quits", "broken.py:Quits"),
    ("task.name", "Blind", "broken.py:Blind"),
    ("task.name", "Ends", "broken.py:Ends"),
  ],
)
def test_what_breaks_is_named(broken, tmp_path, switch, name, says):
  """P3: one sentence with the file or part, and nothing written."""
  config = _config(
    broken,
    'config.schedule = "constant"',
    f'config.{switch} = "broken.py:{name}"',
  )
  with pytest.raises(jaxplay.UserError) as refused:
    _train(config, tmp_path / "run")
  message = str(refused.value)
  assert says in message and "\n" not in message
  assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
  "curve, expected",
  [
    ("def curve(count):\n  return 0.5 ** count", [0.05, 0.025]),
    (
      "def curve(t, *, power: float = 2.0):\n  return (1 + t) ** -power",
      [0.05, 0.0125],
    ),
    (
      "def curve(t, hparams, power: float = 2.0):\n"
      "  return hparams['learning_rate'] * t**power",
      [0.0, 0.0025],
    ),
  ],
)
def test_a_schedule_gets_what_it_names(tmp_path, curve, expected):
  """The step by any name, and `hparams` only if it asks for them."""
  home = parts_here.write(tmp_path, curves=curve)
  config = _config(home, 'config.schedule = "curves.py:curve"')
  own = tuple(parts.schedules(config).values())
  hparams = workload_lib.make_workload(config).hparams
  rates = [schedules.learning_rate(at, hparams, own) for at in (0, 1)]
  assert rates == pytest.approx(expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optax:lbfgs", "optax.contrib:sophia"])
def test_optimizers_get_what_they_need(folder, tmp_path, name):
  """P1: optax's extra arguments: the loss, and a function of parameters."""
  config = _config(
    folder,
    'config.model.name = "mlp"',
    'config.schedule = "constant"',
    f"config.optimizer = {name!r}",
  )
  assert _train(config, tmp_path / "run")["best"]["value"] < 0.85


def test_own_schedules_share_the_program(folder):
  """P1: their numbers are traced, and a change of them compiles nothing."""
  config = _config(folder)
  workload = workload_lib.make_workload(config)
  feed = workload_lib.make_feed(workload, config, 0)
  rates = []
  for every in (1, 2):
    hparams = workload.hparams | {"every": np.int32(every)}
    state = workload.init()
    state, tally = feed.program(hparams, state, *feed.arguments(0, 3))
    rates.append(float(tally["learning_rate"]))
  assert rates == pytest.approx([0.05 * 0.25, 0.05 * 0.5])
  assert feed.program._cache_size() == 1
  assert isinstance(state, step.TrainState)
