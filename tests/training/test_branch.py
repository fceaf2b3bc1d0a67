"""Branches: a cooldown from a checkpoint is the run that was planned so."""

import functools
import json
import shutil

import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.training import branch, checkpoint_files, train
from tests.training import runs

# Of the constant run: 48 steps, evaluated every 8.
STEPS = (20, 32)


@pytest.fixture(scope="module")
def constant(tmp_path_factory):
  """A constant run with averages: its keys and folder."""
  keys = runs.overrides(
    **runs.MLP, averages=("ema", "window"), keep_steps=STEPS
  )
  workdir = tmp_path_factory.mktemp("constant") / "run"
  status, _ = runs.train_here(keys, workdir)
  assert status["status"] == "completed"
  return keys, workdir


def _branch(parent, workdir, step, at=None, act=None, **kwargs):
  """Branches as the command line does; (config, status)."""
  config = branch.planned(
    config_lib.from_json(rundir.RunDir(parent).config()),
    step=step,
    **dict(cooldown_fraction=0.25, cooldown_shape="1-sqrt") | kwargs,
  )
  run = rundir.RunDir(workdir)
  branch.check_steps(rundir.RunDir(parent), {step: run.path})
  branch.begin(rundir.RunDir(parent), step, run, config)
  return config, train.train(config, str(workdir), runs.Quiet(at, act))


def _planned(config, workdir):
  """The run of that config from its start; its keys."""
  keys = config_lib.flatten(config)
  status, _ = runs.train_here(keys, workdir)
  assert status["status"] == "completed"
  return keys


@pytest.mark.slow
@pytest.mark.parametrize(
  "step, shape",
  [
    pytest.param(STEPS[0], "1-sqrt", marks=pytest.mark.pods),
    (STEPS[1], "cosine"),
  ],
)
def test_a_branch_is_the_run_planned_so(constant, tmp_path, step, shape):
  """S3: branch = planned from the start, bit for bit: all state, all lines."""
  _, parent = constant
  config, status = _branch(
    parent, tmp_path / "branch", step, cooldown_shape=shape
  )
  keys = _planned(config, tmp_path / "planned")
  assert status["status"] == "completed"
  assert status["step"] == config.max_train_steps > step
  runs.assert_same(
    runs.last_state(keys, tmp_path / "branch"),
    runs.last_state(keys, tmp_path / "planned"),
  )
  lines = runs.lines(tmp_path / "branch")
  runs.assert_same(lines, runs.lines(tmp_path / "planned"))
  # And it did cool down: the rate falls, and only after that step.
  rates = {line["step"]: line["learning_rate"] for line in lines}
  base = float(np.float32(config.hparams.learning_rate))
  assert {rate for at, rate in rates.items() if at <= step + 1} == {base}
  assert rates[config.max_train_steps] < base


def test_a_branch_killed_and_resumed(constant, tmp_path):
  """S3, G7: preempted in its cooldown and begun again, it is the same."""
  _, parent = constant
  config, status = _branch(parent, tmp_path / "whole", 32)
  _, status = _branch(parent, tmp_path / "run", 32, 36, runs.preempt)
  assert status["status"] == "preempted"
  _, status = _branch(parent, tmp_path / "run", 32)
  assert status["status"] == "completed"
  runs.assert_same(runs.lines(tmp_path / "whole"), runs.lines(tmp_path / "run"))


def test_a_branch_needs_its_parent_only_to_begin(constant, tmp_path):
  """S3: once begun it stands by itself; the parent is left as it was."""
  _, workdir = constant
  shutil.copytree(workdir, tmp_path / "parent")
  before = sorted(p for p in (tmp_path / "parent").rglob("*") if p.is_file())
  _branch(tmp_path / "parent", tmp_path / "run", 32, 36, runs.preempt)
  after = sorted(p for p in (tmp_path / "parent").rglob("*") if p.is_file())
  assert before == after
  config = config_lib.from_json(rundir.RunDir(tmp_path / "run").config())
  shutil.rmtree(tmp_path / "parent")
  status = train.train(config, str(tmp_path / "run"), runs.Quiet())
  assert status["status"] == "completed"


def test_provenance_says_of_what_it_is_a_branch(constant, tmp_path):
  """S3: run and step that it began with, beside what made it."""
  _, parent = constant
  _branch(parent, tmp_path / "run", 20)
  provenance = rundir.RunDir(tmp_path / "run").provenance()
  assert provenance["branch"] == {"run": str(parent), "step": 20}
  assert provenance["versions"]["jax"] and provenance["resumes"] == []


def test_no_branch_from_within_a_warmup():
  """Errors: where the rate still rises, it is not constant."""
  parent = config_lib.base()
  parent.hparams.warmup_steps = 200
  make = functools.partial(
    branch.planned, parent, cooldown_fraction=0.2, cooldown_shape="linear"
  )
  with pytest.raises(jaxplay.UserError, match="step 199.*warmup_steps=200"):
    make(step=199)
  assert make(step=200).hparams.warmup_steps == 200
  with pytest.raises(jaxplay.UserError, match="z_loss.*no effect.*model.name"):
    make(step=200, overrides={"hparams.z_loss": 0.1})


@pytest.mark.parametrize("fraction", [0.1, 0.2, 1 / 3, 0.5, 0.77])
@pytest.mark.parametrize("step", [7, 20, 999, 12_345])
def test_the_cooldown_begins_at_the_step(fraction, step):
  """S3: the planned run is constant until that step, whatever the fraction."""
  config = branch.planned(
    config_lib.base(),
    step=min(step, 1000),
    cooldown_fraction=fraction,
    cooldown_shape="linear",
  )
  step, total = min(step, 1000), config.max_train_steps
  assert total - config_lib.cooldown_steps(total, fraction) == step
  assert abs(total * (1 - fraction) - step) <= 1


def test_checkpoints_that_are_kept(constant):
  """S3: those of keep_steps are there beside the best and the latest two."""
  keys, workdir = constant
  there = checkpoint_files.steps(workdir / "checkpoints")
  assert set(STEPS) < set(there) and 48 in there


def test_geometric_steps_do_not_depend_on_the_length():
  """S3: doubling from 100 on, of a constant rate; none of another."""
  config = config_lib.base()
  kept = [step for step in range(1, 4000) if config_lib.is_kept(step, config)]
  assert kept == [100, 200, 400, 800, 1600, 3200]
  for step in range(4000):
    later = [s for s in [*kept, 6400] if s > step]
    assert config_lib.next_kept(step, config) == later[0]
  config.schedule = "cosine"
  assert config_lib.next_kept(0, config) is None
  config.keep_steps = (7, "geometric")
  assert config_lib.next_kept(0, config) == 7
  assert config_lib.next_kept(7, config) is None


@pytest.mark.pods
def test_extended_is_longer_from_the_start(tmp_path):
  """S1: a finished constant run goes on as if longer from the start."""
  keys = runs.overrides(**runs.MLP, averages=("ema",), export=True)
  short = keys | {"max_train_steps": 26}  # Not at a line of metrics.
  status, _ = runs.train_here(short, tmp_path / "run")
  assert status["status"] == "completed" and status["step"] == 26
  config = runs.make_config(keys)
  status = train.train(config, str(tmp_path / "run"), runs.Quiet(), extend=True)
  assert status["status"] == "completed" and status["step"] == 48
  runs.train_here(keys, tmp_path / "long")
  runs.assert_same(
    runs.last_state(keys, tmp_path / "run"),
    runs.last_state(keys, tmp_path / "long"),
  )
  lines = [line for line in runs.lines(tmp_path / "run") if line["step"] != 26]
  runs.assert_same(lines, runs.lines(tmp_path / "long"))
  # What the shorter one measured at its end is kept.
  assert len(runs.lines(tmp_path / "run")) == len(lines) + 1
  assert rundir.RunDir(tmp_path / "run").config()["max_train_steps"] == 48
  assert (tmp_path / "run" / "export" / "weights.npz").exists()


REFUSED = {
  "another step": (dict(step=21), "no checkpoint of step 21; it has 20, 32"),
  "optimizer": (
    dict(step=20, overrides={"optimizer": "adam"}),
    "config.optimizer was 'nesterov' and is now 'adam'",
  ),
  "model": (
    dict(step=20, overrides={"model.width": 8}),
    "config.model.width was 32 and is now 8",
  ),
  "fraction": (dict(step=20, cooldown_fraction=1.0), "must lie in (0, 1)"),
  "shape": (dict(step=20, cooldown_shape="sqrt"), "config.cooldown_shape is"),
  "typo": (
    dict(step=20, overrides={"hparams.learning_rat": 1.0}),
    "did you mean config.hparams.learning_rate",
  ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(constant, tmp_path, case):
  """S3: what cannot be branched is refused, and nothing is written."""
  _, parent = constant
  kwargs, message = REFUSED[case]
  with pytest.raises(jaxplay.UserError, match="(?s)") as raised:
    _branch(parent, tmp_path / "run", **kwargs)
  assert message in str(raised.value)
  assert not (tmp_path / "run").exists()


def test_a_run_whose_rate_has_decayed_is_refused(tmp_path):
  """S3: a branch of a cosine run would be no planned run."""
  config = config_lib.base()
  config.schedule = "cosine"
  planned = dict(cooldown_fraction=0.2, cooldown_shape="linear")
  with pytest.raises(jaxplay.UserError, match="not constant until step 100"):
    branch.planned(config, step=100, **planned)
  config.schedule = "wsd"  # constant until its own cooldown
  assert branch.planned(config, step=800, **planned).max_train_steps == 1000
  with pytest.raises(jaxplay.UserError, match="constant until step 800"):
    branch.planned(config, step=801, **planned)


def test_another_branch_in_the_same_folder_is_refused(constant, tmp_path):
  """A run directory holds one run: the differing keys are named."""
  _, parent = constant
  _branch(parent, tmp_path / "run", 20)
  with pytest.raises(jaxplay.UserError, match="cooldown_fraction was 0.25"):
    _branch(parent, tmp_path / "run", 20, cooldown_fraction=0.5)


def test_what_depends_on_its_length_is_not_extended(tmp_path):
  """S1: no extension of a decayed run, of none, or to fewer steps."""
  keys = runs.overrides(max_train_steps=16, schedule="linear", model__width=8)

  def extend(steps, **more):
    config = runs.make_config(keys | {"max_train_steps": steps} | more)
    train.train(config, str(tmp_path), runs.Quiet(), extend=True)

  with pytest.raises(jaxplay.UserError, match="holds no run"):
    extend(32)
  runs.train_here(keys, tmp_path)
  with pytest.raises(jaxplay.UserError, match="depends on its length"):
    extend(32)
  with pytest.raises(jaxplay.UserError, match="has made 16 of 16"):
    extend(8, schedule="constant")
  assert rundir.RunDir(tmp_path).status()["step"] == 16


def test_a_checkpoint_of_another_model_is_not_taken_for_damaged(
  constant, tmp_path
):
  """Bad input: another width or vocabulary is refused, and nothing deleted."""
  keys, workdir = constant
  shutil.copytree(workdir, tmp_path / "run")
  run = rundir.RunDir(tmp_path / "run")
  nested = run.config()
  nested["model"]["width"] = 8
  (run.path / "config.json").write_text(json.dumps(nested))
  run.write_status("running", step=48)
  there = checkpoint_files.steps(run.checkpoints)
  with pytest.raises(jaxplay.UserError, match="another model, vocabulary"):
    runs.train_here(keys | {"model.width": 8}, run.path)
  assert checkpoint_files.steps(run.checkpoints) == there


def test_averages_go_through_a_branch(constant, tmp_path):
  """S4: a branch goes on with the averages, not from their beginning."""
  keys, parent = constant
  config, _ = _branch(parent, tmp_path / "run", 32)
  state = runs.last_state(config_lib.flatten(config), tmp_path / "run")
  params = {k: v for k, v in state.items() if k.startswith("params/")}
  assert params
  for name, array in params.items():
    kept = state[f"averages/ema/0/{name.removeprefix('params/')}"]
    assert np.isfinite(kept).all() and not np.array_equal(kept, array)
