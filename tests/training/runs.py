"""Small runs for tests: configs, in-process and command-line training."""

import json
import pathlib
import signal
import subprocess
import sys

import numpy as np

from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.training import checkpoint, train
from jaxplay.training import workload as workload_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]
MLP = {
  "model.width": 32,
  "model.norm": "batch",
  "model.dropout": True,
  "hparams.dropout_rate": 0.1,
  "dataset.augment": "shift",
  "dataset.augment_pixels": 1,
}
# Slow steps: a batch norm over few examples doubles rounding errors each time.
RESNET = {
  "model.name": "wide_resnet",
  "model.depth": 10,
  "model.width": 1,
  "hparams.learning_rate": 0.01,
  "num_predictions": 0,
}
IMAGES = {"dataset.name": "synthetic", "dataset.shape": (16, 16, 3)}
_TRANSFORMER = {
  "model.width": 32,
  "model.depth": 2,
  "model.heads": 4,
  "optimizer": "adamw",
  "averages": ("ema",),
  "hparams.learning_rate": 1e-3,
}
VIT = IMAGES | _TRANSFORMER | {"model.name": "vit", "model.norm": "layer"}
LM = _TRANSFORMER | {
  "model.name": "lm",
  "model.norm": "rms",
  "model.remat": "full",
  "dataset.name": "pythonlib",
  "dataset.sequence_length": 16,
  "dataset.vocab_size": 320,
}
# Seconds after which a process of a test, on a slow machine with others at work
# beside it, is taken to hang.
HANG = 900
_TIMES = ("steps_per_second", "examples_per_second", "data_wait")


def overrides(**extra):
  """A short run on digits; keys use __ for the dot."""
  keys = {
    "max_train_steps": 48,
    "batch_size": 64,
    "eval_batch_size": 300,
    "log_every": 4,
    "eval_every": 8,
    "checkpoint_every": 12,
    "steps_per_call": 5,
    "num_predictions": 8,
    "export": False,
  }
  return keys | {key.replace("__", "."): v for key, v in extra.items()}


def make_config(keys):
  """The base config with dotted keys set, checked."""
  config = config_lib.base()
  for key, value in keys.items():
    config_lib.override(config, key, value)
  config_lib.validate(config)
  return config


class Quiet:
  """A console that keeps what it is told, and acts at a step if asked to."""

  def __init__(self, at=None, act=None):
    self.told, self._at, self._act = [], at, act

  def tell(self, sentence):
    self.told.append(sentence)

  def progress(self, done, total, line):
    if done == self._at:
      self._act()


def preempt():
  """What a cluster does before it takes a machine away."""
  signal.raise_signal(signal.SIGTERM)


def train_here(keys, workdir, at=None, act=None):
  """Trains in this process; returns (status, sentences told)."""
  console = Quiet(at, act)
  status = train.train(make_config(keys), str(workdir), console)
  return status, console.told


def command(keys, workdir, *more):
  """Arguments after `jaxplay` for the same run."""
  return [
    "train",
    f"--config={ROOT / 'tests' / 'training' / 'base_config.py'}",
    f"--workdir={workdir}",
    *(f"--config.{key}={value}" for key, value in keys.items()),
    *more,
  ]


_KILLED = """
import os, pathlib, signal, sys, threading
sys.path.insert(0, sys.argv[1])
from tests.data import tiny_tfds
from tests.training import runs
import jax
jax.config.update("jax_num_cpu_devices", 8)
keys, workdir, moment = eval(sys.argv[2]), sys.argv[3], sys.argv[4]

def die():
  os.kill(os.getpid(), signal.SIGKILL)

def die_while_saving():
  folder = pathlib.Path(workdir) / "checkpoints"
  while not list(folder.glob("*tmp*")):
    pass
  die()

if moment == "saving":
  threading.Thread(target=die_while_saving, daemon=True).start()
  runs.train_here(keys, workdir)
else:
  runs.train_here(keys, workdir, int(moment), die)
"""


def kill(keys, workdir, moment):
  """Trains in a process, killed at a step, or "saving": in the midst of it."""
  killed = subprocess.run(
    [
      *(sys.executable, "-c", _KILLED),
      *(str(ROOT), repr(keys), str(workdir), moment),
    ],
    cwd=ROOT,
  )
  assert killed.returncode == -signal.SIGKILL


def start(arguments, **kwargs):
  """Starts `jaxplay ARGUMENTS` as a process."""
  return subprocess.Popen(
    [sys.executable, "-m", "jaxplay.cli", *arguments],
    cwd=ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
    **kwargs,
  )


def launch(arguments, processes, devices):
  """Runs a job of several processes, which must succeed; its output."""
  done = subprocess.run(
    [
      *(sys.executable, "launch/local.py"),
      *(f"--processes={processes}", f"--devices={devices}", "--"),
      *arguments,
    ],
    cwd=ROOT,
    capture_output=True,
    text=True,
    timeout=HANG,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  return done.stdout


def lines(workdir):
  """Lines of metrics without the times, which no two runs share."""
  return [
    {key: value for key, value in line.items() if key not in _TIMES}
    for line in rundir.RunDir(workdir).metrics()
  ]


def examples(workdir):
  """The saved costs of the validation examples: name -> array."""
  return rundir.RunDir(workdir).examples().as_arrays()


def last_state(keys, workdir):
  """The newest checkpoint as {path: numpy array}."""
  import jax

  config = make_config(keys)
  checkpoints = checkpoint.Checkpoints(
    rundir.RunDir(workdir).checkpoints, keep_best=config.keep_best
  )
  workload = workload_lib.make_workload(config)
  state = checkpoints.restore(checkpoints.steps()[-1], workload.state)
  checkpoints.close()
  leaves, _ = jax.tree_util.tree_flatten_with_path(state)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(leaf)
    for path, leaf in leaves
  }


def assert_same(a, b):
  """Bit for bit: states or lines."""
  if isinstance(a, dict):
    assert a.keys() == b.keys()
    for name in a:
      np.testing.assert_array_equal(a[name], b[name], err_msg=name)
  else:
    assert json.dumps(a) == json.dumps(b)


def assert_close(a, b, rtol, atol):
  """To float tolerance: states or lines."""
  if isinstance(a, dict):
    a, b = [a], [b]
  assert len(a) == len(b)
  for one, other in zip(a, b, strict=True):
    assert one.keys() == other.keys()
    for name in one:
      np.testing.assert_allclose(
        np.asarray(one[name], np.float64),
        np.asarray(other[name], np.float64),
        rtol=rtol,
        atol=atol,
        err_msg=name,
      )
