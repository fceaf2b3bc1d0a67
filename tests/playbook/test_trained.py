"""Procedures on configs of many features, with training.

These tests check that each procedure completes, and that its config trains.
"""

import json

import pytest

from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.config import keys
from jaxplay.study import study as study_lib
from tests.playbook import features
from tests.study import studies

_CONFIG = """
from jaxplay import config as config_lib
from jaxplay.config import keys

KEYS = {}


def get_config():
  config = config_lib.base()
  for key, value in KEYS.items():
    config_lib.override(config, key, value)
  return config
"""

# As many features together as three models allow.
_OFTEN = {"dropout": "yes", "clipping": "yes", "regularization": "yes"}
_LAST = {"seed": "last", "kept": "some steps"}
ROWS = {
  "mlp": {
    **_OFTEN,
    **_LAST,
    "norm": "ghost",
    "weights": "ema",
    "objective": "of raw",
    "schedule": "wsd",
    "warmup": "half",
    "optimizer": "adamw",
    "augmentation": "shift",
    "computed": "in microbatches",
  },
  "vit": {
    **_OFTEN,
    "norm": "layer",
    "weights": "raw beside ema",
    "objective": "of ema",
    "schedule": "cosine",
    "warmup": "nearly all",
    "optimizer": "schedule_free_adamw",
    "augmentation": "crop_flip",
    "computed": "over fsdp",
    "kept": "for people",
  },
  "lm of a mixture": {
    "dropout": "yes",
    "norm": "rms",
    "weights": "window",
    "objective": "loss",
    "schedule": "linear",
    "warmup": "short",
    "optimizer": "lion",
  },
}


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
  return features.write_texts(tmp_path_factory.mktemp("texts"))


@pytest.fixture
def written(tmp_path, texts):
  """Writes a row as a config file; returns (its path, the config)."""

  def write(row, **changes):
    config = features.make(row, texts)
    for key, value in changes.items():
      config_lib.override(config, key.replace("__", "."), value)
    keys = config_lib.flatten(config)
    path = tmp_path / "config.py"
    path.write_text(_CONFIG.replace("{}", repr(keys)))
    return path, config

  return write


def _trains(path, workdir):
  """Checks that `jaxplay train` completes a config."""
  config = config_lib.load(str(path))
  config_lib.validate(config)
  assert studies.call("train", f"--config={path}", f"--workdir={workdir}") == 0
  status = rundir.RunDir(workdir).status()
  assert status["status"] == "completed", status
  assert status["best"]["metric"] == config.objective


def _settings(plan):
  return json.loads((plan / "plan.json").read_text())["answer"]["settings"]


@pytest.mark.pods
def test_all_features_at_once(written, tmp_path):
  """R7: training completes a few steps."""
  row = ROWS["mlp"] | {"model": "mlp", "warmup": "short"}
  path, _ = written(row, max_train_steps=8)
  _trains(path, tmp_path / "run")


@pytest.mark.pods
@pytest.mark.parametrize(
  "row",
  # Only models that compile in seconds.
  [row for row in features.FEW if "resnet" not in row["model"]],
  ids=features.name,
)
def test_every_config_of_the_design_trains(row, written, tmp_path):
  """R7: a few steps; every second row without the features of `keys.OFF`."""
  _, config = written(row, export=False)
  changes = config_lib.with_steps(config_lib.flatten(config), 4)
  if features.FEW.index(row) % 2:
    changes |= config_lib.without(config, *keys.OFF)
  for key, value in changes.items():
    config_lib.override(config, key, value)
  rundir.write_json(tmp_path / "config.json", config_lib.as_json(config))
  _trains(tmp_path / "config.json", tmp_path / "run")


@pytest.mark.pods
def test_plans(written, tmp_path):
  """R7: plan steps, stability and batch-size, and their settings."""
  path, config = written(ROWS["mlp"] | {"model": "mlp"})
  rate = config.hparams.learning_rate
  options = [
    *(f"--config={path}", "--fake_devices=8"),
    f"--learning_rates={rate / 3:g}:{rate * 3:g}",
  ]
  plan = tmp_path / "steps"
  fit = "--fit=train/loss<=100"
  arguments = (*options, f"--workdir={plan}", "--steps=6", fit)
  assert studies.call("plan", "steps", *arguments) == 0
  plan = tmp_path / "stability"
  arguments = (*options, f"--workdir={plan}", "--seeds=1")
  assert studies.call("plan", "stability", *arguments) == 0
  plan = tmp_path / "batch_size"
  arguments = (*options, f"--workdir={plan}", "--seeds=1", "--steps=4")
  sizes = ("--batch_sizes=32,64", "--target=valid/loss<=100")
  assert studies.call("plan", "batch-size", *arguments, *sizes) == 0
  for plan in ("steps", "stability", "batch_size"):
    for key, value in _settings(tmp_path / plan).items():
      config_lib.override(config, key, value)
    config_lib.validate(config)
  rundir.write_json(tmp_path / "pasted.json", config_lib.as_json(config))
  _trains(tmp_path / "pasted.json", tmp_path / "run")


@pytest.mark.pods
def test_the_life_of_a_study(written, tmp_path):
  """R7: run, rerun, suggest, final, rounds, and the report's next study."""
  _, config = written(ROWS["mlp"] | {"model": "mlp"})
  low, high = config.hparams.learning_rate / 10, config.hparams.learning_rate
  study = tmp_path / "study"
  (tmp_path / "study.py").write_text(f"""
from jaxplay.study.space import Float
from jaxplay.study.study import Study


def get_study():
  space = {{"hparams.learning_rate": Float({low!r}, {high!r}, "log")}}
  return Study(goal="Which?", config="config.py", space=space, num_trials=8)
""")
  for verb in (
    ("study", "run", tmp_path / "study.py", f"--workdir={study}"),
    ("study", "rerun", study, "--best", "--seeds=2", "--no_report"),
    ("study", "suggest", study, "--trials=1", "--ignore_findings"),
    ("study", "final", study, "--seeds=2", f"--log={tmp_path / 'LOG.md'}"),
    ("plan", "steps", f"--from={study}", f"--workdir={tmp_path / 'from'}"),
    ("plan", "clip", study / "trials" / "0000"),
    ("plan", "rounds", study, "--steps=36", f"--workdir={tmp_path / 'next'}"),
  ):
    assert studies.call(*verb) == 0, verb
  directory = study_lib.StudyDir(study)
  chosen = directory.trial(directory.final()["trial"])
  assert chosen.status()["test"]["test/loss"] > 0
  study_lib.load(str(study / "next_study.py"))
  _trains(tmp_path / "next" / "next.json", tmp_path / "run")


@pytest.mark.pods
def test_a_branch(written, tmp_path):
  """R7: a cooldown from a constant run with all features."""
  model = "lm of a mixture"
  row = ROWS[model] | {"model": model, "schedule": "constant"}
  path, _ = written(row | {"warmup": "short"}, keep_steps=(12,))
  parent, branch = tmp_path / "parent", tmp_path / "branch"
  _trains(path, parent)
  arguments = ("--step=12", f"--workdir={branch}")
  assert studies.call("branch", parent, *arguments) == 0
  whole = tmp_path / "whole"
  _trains(branch / "config.json", whole)
  last = [rundir.RunDir(run).metrics()[-1] for run in (branch, whole)]
  assert last[0]["train/loss"] == last[1]["train/loss"]


@pytest.mark.pods
def test_the_loop(written, tmp_path):
  """R7: the playbook, and its resulting config."""
  path, config = written(ROWS["mlp"] | {"model": "mlp"})
  rate = config.hparams.learning_rate
  arguments = (f"--learning_rates={rate / 3:g}:{rate:g}", "--seeds=1")
  more = ("--budget=12", "--keep_batch_size", f"--workdir={tmp_path / 'plan'}")
  assert studies.call("playbook", path, *arguments, *more) == 0
  _trains(tmp_path / "plan" / "best.json", tmp_path / "run")
  study_lib.load(str(tmp_path / "plan" / "explore_1" / "next_study.py"))


@pytest.mark.pods
def test_compiled_for_here(written, capsys):
  """R7: plan topology on the devices of this machine."""
  path, _ = written(ROWS["vit"] | {"model": "vit"}, batch_size=64)
  arguments = (f"--config={path}", "--topology=here", "--json")
  assert studies.call("plan", "topology", *arguments) == 0
  (row,) = json.loads(capsys.readouterr().out)
  assert row["fits"] and row["measured_seconds"] > 0


@pytest.mark.pods
def test_a_ladder(written, tmp_path):
  """R7: scaling, of a model with dropout, clipping and averaged weights."""
  written(
    {
      "model": "lm",
      "norm": "rms",
      "dropout": "yes",
      "clipping": "yes",
      "weights": "ema",
      "objective": "loss",
      "warmup": "short",
    }
  )
  (tmp_path / "ladder.py").write_text("""
from jaxplay.scaling.ladder import Ladder


def get_ladder():
  return Ladder(
    goal="How does loss fall?",
    config="config.py",
    sizes={"8": {"model.width": 8}, "16": {"model.width": 16}},
    steps=(16,),
  )
""")
  ladder = tmp_path / "ladder"
  arguments = ("run", tmp_path / "ladder.py", f"--workdir={ladder}")
  assert studies.call("scaling", *arguments) == 0
  for size in ("8", "16"):
    run = rundir.RunDir(ladder / "sizes" / size / "00000016")
    assert run.status()["status"] == "completed"
