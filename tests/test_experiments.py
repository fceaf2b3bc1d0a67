"""Every experiment loads, fits its pod, and trains, shrunk to this machine."""

import importlib
import importlib.util
import pathlib
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from jaxplay import config as config_lib
from jaxplay.api import devices
from jaxplay.pods import topology
from jaxplay.study import study as study_lib
from jaxplay.training import schedules, train
from tests.training import runs

_FOLDER = pathlib.Path(__file__).parents[1] / "experiments"
# Experiment -> (the pod it is for, what shrinks it).
_IMAGENET = {
  "dataset.name": "tfds:tiny_imagenet",
  "dataset.train_split": "train[:48]",
  "dataset.valid_split": "train[48:]",
  "dataset.image_size": 32,
  "dataset.workers": 0,
}
_TEXT = {
  "dataset.name": "tfds:tiny_texts/plain",
  "dataset.train_split": "train",
  "dataset.valid_split": "validation",
  "dataset.test_split": "test",
  "dataset.tokenizer": "bytes",
  "dataset.sequence_length": 8,
  "dataset.vocab_size": 256,
  "model.depth": 2,
  "model.width": 64,
  "model.heads": 2,
  "model.mlp_width": 0,
}
EXPERIMENTS = {
  "imagenet_resnet50/config.py": ("v5e:4x4", _IMAGENET | {"model.width": 4}),
  "imagenet_vit_s16/config.py": (
    "v5e:4x4",
    _IMAGENET | {"model.depth": 2, "model.width": 32, "model.heads": 2},
  ),
  "cifar10_wrn/config.py": (
    "v5e:2x2",
    _IMAGENET
    | {
      "model.depth": 10,
      "model.width": 1,
      "dataset.test_split": "validation",
    },
  ),
  "lm1b_lm/config.py": ("v5e:4x4", _TEXT),
  "c4_lm/config.py": ("v5e:4x4", _TEXT),
  "c4_lm/config.py:1b": ("v5e:8x8", _TEXT),
  "c4_lm/config.py:7b": ("v5p:4x4x8", _TEXT),
}
_SHORT = {
  "max_train_steps": 3,
  "batch_size": 8,
  "eval_batch_size": 8,
  "log_every": 1,
  "eval_every": 3,
  "checkpoint_every": 3,
  "hparams.warmup_steps": 0,
  "num_predictions": 2,
}


def _load(name, changes):
  config = config_lib.load(str(_FOLDER / name))
  for key, value in changes.items():
    config_lib.override(config, key, value)
  return config


@pytest.fixture(scope="session")
def prepared(tmp_path_factory):
  """A folder where the small sets are prepared."""
  from tests.data import tiny_texts, tiny_tfds

  folder = tmp_path_factory.mktemp("prepared")
  tiny_tfds.prepare_photographs(folder)
  tiny_texts.prepare(folder, "plain")
  return str(folder)


@pytest.mark.pods
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_three_steps(name, prepared, tmp_path):
  """Experiments: each trains, on eight devices, on records of its schema."""
  changes = EXPERIMENTS[name][1] | _SHORT | {"dataset.data_dir": prepared}
  config = _load(name, changes)
  config_lib.validate(config, 8)
  status = train.train(config, str(tmp_path / "run"), runs.Quiet())
  assert status["status"] == "completed"
  assert np.isfinite(status["final"]["valid/loss"])


@pytest.mark.pods
@pytest.mark.parametrize("workers", [0, 2])
def test_photographs_resume_exactly(prepared, tmp_path, workers):
  """G7: from the step alone, random crops and all, bit for bit."""
  keys = runs.overrides(
    **{key.replace(".", "__"): value for key, value in _IMAGENET.items()}
  )
  keys |= {
    "batch_size": 8,
    "eval_batch_size": 8,
    "max_train_steps": 12,
    "dataset.test_split": "validation",
    "dataset.augment": "resized_crop",
    "dataset.workers": workers,
    "dataset.data_dir": prepared,
    "model.width": 16,
  }
  runs.train_here(keys, tmp_path / "whole")
  status, _ = runs.train_here(keys, tmp_path / "run", 4, runs.preempt)
  assert status["status"] == "preempted" and status["step"] < 12
  runs.train_here(keys, tmp_path / "run")
  whole, run = (tmp_path / name for name in ("whole", "run"))
  runs.assert_same(runs.lines(whole), runs.lines(run))
  runs.assert_same(runs.last_state(keys, whole), runs.last_state(keys, run))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_are_valid_as_they_are(name):
  """Experiments: nothing is refused, and nothing is set to no effect."""
  config = _load(name, {})
  config_lib.validate(config)
  assert not config_lib.without_effect(config)


@pytest.mark.parametrize("path", sorted(_FOLDER.glob("*/study_*.py")))
def test_studies_are_valid_as_they_are(path):
  """Experiments: each study can be run; nothing is overridden to no effect."""
  definition, _ = study_lib.load(str(path))
  assert definition["goal"].endswith("?")


# They compile for minutes, and are a smaller model of the same kind.
_LIKE_OTHERS = {"cifar10_wrn/config.py", "c4_lm/config.py:1b"}


@pytest.mark.pods
@pytest.mark.skipif(
  importlib.util.find_spec("libtpu") is None,
  reason="without libtpu nothing can be compiled for TPUs",
)
@pytest.mark.parametrize("name", sorted(EXPERIMENTS.keys() - _LIKE_OTHERS))
def test_each_fits_its_pod(name):
  """Experiments: as they are, they compile for the pod that they name."""
  devices.quiet_without_tpu()
  pod = topology.topology(EXPERIMENTS[name][0])
  compiled = topology.compile_for(_load(name, {}), pod.devices)
  assert not compiled.too_large, compiled.too_large


@pytest.fixture
def cooldown_lm(tmp_path, monkeypatch):
  """Imports a script of that folder, with a smaller config."""
  folder = tmp_path / "cooldown_lm"
  shutil.copytree(_FOLDER / "cooldown_lm", folder)
  path = folder / "config.py"
  text = path.read_text()
  for changed in (
    "width = 32",
    "eval_every = 20",
    "eval_batch_size = 256",
    "warmup_steps = 4",
  ):
    name = changed.partition(" ")[0]
    before = next(x for x in text.split("\n") if f".{name} = " in x)
    start = before.index(f".{name} = ") + 1
    text = text.replace(before, before[:start] + changed)
  path.write_text(text)
  monkeypatch.syspath_prepend(folder)
  monkeypatch.setattr(devices, "start", lambda **kwargs: None)
  names = ("paired", "continued", "mixture")
  yield importlib.import_module
  for name in names:
    sys.modules.pop(name, None)


def test_a_restarted_cosine_begins_as_the_short_one():
  """S9: until the middle it is the cosine of half the length."""
  where = _FOLDER / "cooldown_lm" / "schedules.py"
  spec = importlib.util.spec_from_file_location("own_schedules", where)
  own = importlib.util.module_from_spec(spec)
  spec.loader.exec_module(own)
  steps = jnp.arange(120.0)
  hparams = {
    "max_train_steps": 60,
    "warmup_steps": 10,
    "learning_rate": 1.0,
    "final_factor": 0.0,
    "decay_timescale": 1,
    "cooldown_fraction": 0.2,
    **schedules.numbers("cosine", "linear"),
  }
  short = schedules.learning_rate(steps[:60], hparams)
  hparams = hparams | {"max_train_steps": 120, "schedule": np.int32(5)}

  restarted, held = (
    schedules.learning_rate(steps, hparams, [curve])
    for curve in (own.restarted, own.held)
  )
  np.testing.assert_allclose(restarted[:60], short, atol=1e-6)
  np.testing.assert_allclose(held[60:], 0.1, atol=1e-3)
  again = np.asarray(restarted[60:])
  assert again.argmax() in (9, 10) and again.max() == pytest.approx(1, abs=1e-3)
  assert again[-1] < 0.01


@pytest.mark.pods
def test_a_finished_run_is_continued(cooldown_lm, tmp_path, capsys):
  """S9: each way is trained, compared within a seed, and drawn."""
  script = cooldown_lm("continued")
  script.HALF, script.SEEDS = 20, (0, 1)
  script.main(tmp_path / "runs")
  assert "merge at 2N - cooldown at 2N" in capsys.readouterr().out
  assert len(list((tmp_path / "runs" / "figures").glob("*.svg"))) == 1


@pytest.mark.pods
def test_a_better_mixture_in_the_cooldown(cooldown_lm, tmp_path, capsys):
  """S6: three ways to spend the steps, compared within a seed."""
  script = cooldown_lm("mixture")
  script.STEPS, script.SEEDS = 20, (0, 1)
  script.main(tmp_path / "runs")
  assert "more - even" in capsys.readouterr().out
