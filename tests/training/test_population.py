"""A population: every trial as it would have been alone."""

import gc
import json
import os
import pathlib
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.config import keys
from jaxplay.training import checkpoint_files, population, train
from jaxplay.training import workload as workload_lib
from tests.training import runs

# Mild ones: chaos doubles rounding errors.
RATES, MOMENTA = (0.001, 0.01, 0.03, 0.1, 0.2), (0.0, 0.5, 0.9, 0.5, 0.8)


def _configs(rates=RATES, seeds=(0,) * 5, **extra):
  keys = runs.overrides(**{"max_train_steps": 24} | extra)
  return [
    runs.make_config(
      keys
      | {
        "hparams.learning_rate": rate,
        "hparams.momentum": momentum,
        "seed": seed,
      }
    )
    for rate, momentum, seed in zip(rates, MOMENTA, seeds, strict=True)
  ]


class _Study:
  """Runs of a population in a folder."""

  def __init__(self, folder, configs, **kwargs):
    self.folder, self.configs, self.log = folder, configs, []
    self.runs = [
      rundir.RunDir(folder / "trials" / f"{i:04d}") for i in range(len(configs))
    ]
    for run in self.runs:
      run.create()
    self.checkpoints = folder / "populations" / "0" / "checkpoints"
    self.group = _group(configs, self.log, **kwargs)

  def train(self, act=lambda statuses: None):
    """Trains all in one population; whether it came to its end."""
    return self.group.train(
      self.configs,
      self.runs,
      self.folder / "populations" / "0" / "checkpoints",
      act,
    )

  def lines(self, i):
    return runs.lines(self.runs[i].path)

  def unpack(self, i):
    """Asks for what a run alone has, of a trial that has ended."""
    return train.train(self.configs[i], str(self.runs[i].path), runs.Quiet())


_GROUPS = {}


def _group(configs, log, **kwargs):
  """Compiled once for all tests that need the same program."""
  static = config_lib.flatten(config_lib.as_json(configs[0]))
  for name in keys.TRACED:
    del static[name]
  one_seed = len({config.seed for config in configs}) == 1
  key = json.dumps([static, len(configs), one_seed, kwargs])
  if key not in _GROUPS:
    _GROUPS[key] = population.Populations(configs, log.append, **kwargs)
  return _GROUPS[key]


_ALONE = {}


def _alone(config, tmp_path_factory):
  """(status, folder) of the run by itself, run once for all tests."""
  key = json.dumps(config_lib.as_json(config))
  if key not in _ALONE:
    folder = tmp_path_factory.mktemp("alone")
    _ALONE[key] = train.train(config, str(folder), runs.Quiet()), folder
  return _ALONE[key]


def _files(folder):
  """Every file of a run; of the checkpoints only the steps, by parity."""
  files = set()
  for path in pathlib.Path(folder).rglob("*"):
    name = path.relative_to(folder).as_posix()
    if path.is_file() and not name.startswith((".", "checkpoints/")):
      files.add(name)
  return files


# How a device can go through its trials.
each_mode = pytest.mark.parametrize(
  "mode",
  [
    "together",
    *(pytest.param(m, marks=pytest.mark.pods) for m in ("looped", "called")),
  ],
)


@pytest.mark.slow
@each_mode
def test_trial_equals_itself_alone(tmp_path, tmp_path_factory, mode):
  """Idea 1: a population's trial equals the same trial run alone.

  On eight devices, in each way that a device can go through its trials.
  """
  extra = {key.replace(".", "__"): value for key, value in runs.MLP.items()}
  configs = _configs(averages=("ema", "window"), export=True, **extra)
  study = _Study(tmp_path, configs, mode=mode)
  assert study.train()
  for i in (0, 3):
    status, alone = _alone(configs[i], tmp_path_factory)
    ours = study.runs[i].status()
    assert ours.keys() == status.keys()
    assert ours["status"] == status["status"] == "completed"
    runs.assert_close(study.lines(i), runs.lines(alone), 2e-3, 2e-3)
    lines = study.lines(i)
    assert study.unpack(i)["status"] == "completed"
    assert study.lines(i) == lines
    assert _files(study.runs[i].path) == _files(alone)


@pytest.mark.slow
@pytest.mark.parametrize(
  "rates, extra",
  [
    *(
      pytest.param(*case, marks=pytest.mark.pods)
      for case in (
        (RATES, {"clipping": True, "microbatches": 2}),
        ([r / 50 for r in RATES], {"optimizer": "schedule_free_adamw"}),
      )
    ),
    (RATES, {"seeds": (3, 1, 4, 1, 5), "report_test": True}),
  ],
  ids=["microbatches", "schedule-free", "seeds"],
)
def test_other_trials_equal_themselves_alone(
  tmp_path, tmp_path_factory, rates, extra
):
  """Idea 1: with microbatches, derived weights, and a seed for each trial."""
  configs = _configs(rates, **extra)
  study = _Study(tmp_path, configs)
  assert study.train()
  status, alone = _alone(configs[2], tmp_path_factory)
  ours = study.runs[2].status()
  assert ours.keys() == status.keys()
  runs.assert_close(study.lines(2), runs.lines(alone), 2e-3, 2e-3)
  if "test" in status:
    difference = ours["test"]["test/loss"] - status["test"]["test/loss"]
    assert abs(difference) < 0.02


@pytest.mark.slow
@pytest.mark.parametrize(
  "models", ["mlp", pytest.param("others", marks=pytest.mark.pods)]
)
def test_a_run_is_a_population_of_one(models):
  """Idea 1: to the bit. On one device: eight on a CPU share its threads."""
  done = subprocess.run(
    [sys.executable, "-m", "tests.training.population_of_one", models],
    cwd=runs.ROOT,
    env=os.environ | {"JAX_NUM_CPU_DEVICES": "1"},
    capture_output=True,
    text=True,
    timeout=runs.HANG,
  )
  assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.pods
def test_checkpoints_that_are_kept(tmp_path, tmp_path_factory):
  """G7: as many of the best as asked for, and those of given steps."""
  configs = _configs(keep_best=3, keep_steps=(5, 20), eval_every=3)
  study = _Study(tmp_path, configs)
  assert study.train()
  assert checkpoint_files.steps(study.checkpoints) == [5, 20, 24]
  for i, config in enumerate(configs):
    study.unpack(i)
    lines = study.runs[i].metrics()
    best = rundir.best_lines(lines, config.objective)[:3]
    there = checkpoint_files.steps(study.runs[i].checkpoints)
    assert set(there) == {5, 20, 24, *(line["step"] for line in best)}
    # They are the states of those steps: the model gives the logged error.
    workload = workload_lib.make_workload(config)
    for line in best:
      state = _restored(study.runs[i], line["step"], workload)
      assert int(state.step) == line["step"]


def test_a_trial_that_was_copied_or_moved(tmp_path):
  """Checkpoints: found from where a study or a trial was put; else refused."""
  configs = _configs()
  study = _Study(tmp_path / "study", configs)
  assert study.train()
  shutil.copytree(study.runs[1].path, tmp_path / "copy")
  train.train(configs[1], str(tmp_path / "copy"), runs.Quiet())
  copied = runs.last_state(runs.overrides(), tmp_path / "copy")
  runs.assert_same(copied, _weights(study, 1))
  assert study.runs[2].packed() is not None
  shutil.copytree(study.runs[2].path, tmp_path / "lost")
  os.rename(tmp_path / "study", tmp_path / "moved")
  moved = tmp_path / "moved" / "trials" / "0002"
  with pytest.raises(jaxplay.UserError, match="its population.* restore it"):
    train.train(configs[2], str(tmp_path / "lost"), runs.Quiet())
  train.train(configs[2], str(moved), runs.Quiet())
  assert checkpoint_files.steps(moved / "checkpoints")


def test_another_trial_s_checkpoints_are_refused(tmp_path):
  """R1: a run directory that names a place which is not its own."""
  study = _Study(tmp_path, _configs())
  assert study.train()
  where = study.runs[0].packed()
  study.runs[0].write_packed(where | {"place": 1})
  with pytest.raises(jaxplay.UserError, match="has changed"):
    study.unpack(0)
  study.runs[0].write_packed(where)
  study.unpack(0)
  files = [path for path in study.checkpoints.rglob("*") if path.is_file()]
  largest = max(files, key=lambda path: path.stat().st_size)
  data = bytearray(largest.read_bytes())
  data[len(data) // 2] ^= 1
  largest.write_bytes(data)
  with pytest.raises(jaxplay.UserError, match="is damaged.* from a copy"):
    study.unpack(1)
  assert study.runs[1].packed() and not study.runs[1].checkpoints.exists()


@pytest.mark.slow
def test_what_diverged_after_the_last_checkpoint(tmp_path):
  """G7: killed then, the population still has what was best of that trial."""
  rates = (1e30, *RATES[1:])
  often = {"log_every": 1, "eval_every": 1, "checkpoint_every": 1}
  study = _Study(tmp_path, _configs(rates, **often))

  def stop(statuses):
    if {status["step"] for status in statuses.values()} == {1}:
      runs.preempt()

  def die(statuses):
    if statuses.get(0, {}).get("status") == "infeasible":
      raise KeyboardInterrupt

  assert not study.train(stop)
  with pytest.raises(KeyboardInterrupt):
    study.train(die)
  status = study.runs[0].status()
  assert status["status"] == "infeasible"
  assert checkpoint_files.steps(study.checkpoints)[-1] < status["step"]
  assert study.train()
  again = study.runs[0].status()
  assert (again["status"], again["step"]) == ("infeasible", status["step"])
  study.unpack(0)
  there = checkpoint_files.steps(study.runs[0].checkpoints)
  assert again["best"]["step"] in there


@pytest.mark.pods
@each_mode
def test_groups_of_devices(tmp_path, tmp_path_factory, mode):
  """Idea 1: trials that take four devices each, of which two train at a time.

  Within a group batches and parameters are split.
  """
  extra = {key.replace(".", "__"): value for key, value in runs.MLP.items()}
  extra |= {"model__width": 128, "averages": ("ema",)}
  configs = _configs(mesh__data=2, mesh__fsdp=2, **extra)
  study = _Study(tmp_path, configs, mode=mode)
  assert "2 groups of 4 devices" in study.log[0]
  kernel = study.group.programs.state.params["Dense_1"]["kernel"]
  assert kernel.sharding.shard_shape(kernel.shape) == (3, 64, 128)
  assert study.train()
  status, alone = _alone(_configs(**extra)[3], tmp_path_factory)
  assert study.runs[3].status()["status"] == status["status"] == "completed"
  runs.assert_close(study.lines(3), runs.lines(alone), 2e-3, 2e-3)


def test_groups_that_cannot_be():
  """Errors: groups of devices cover all of them, and split a batch evenly."""
  with pytest.raises(jaxplay.UserError, match="must divide 8"):
    _group(_configs(mesh__data=3), [])
  with pytest.raises(jaxplay.UserError, match="batch_size 66"):
    _group(_configs(mesh__data=4, batch_size=66), [])


@pytest.mark.pods
def test_resnets_equal_themselves_alone(tmp_path, tmp_path_factory):
  """Idea 1: with convolutions and batch norm, each step a call."""
  extra = {key.replace(".", "__"): value for key, value in runs.RESNET.items()}
  extra |= {"hparams__learning_rate": 0.01, "model__norm": "batch"}
  extra |= {"max_train_steps": 8, "averages": ("ema",)}
  configs = _configs([r / 20 for r in RATES], **extra)
  study = _Study(tmp_path, configs)
  assert study.train()
  _, alone = _alone(configs[4], tmp_path_factory)
  runs.assert_close(study.lines(4), runs.lines(alone), 5e-3, 5e-3)


@pytest.mark.slow
@each_mode
def test_divergence_hurts_nobody_else(tmp_path, tmp_path_factory, mode):
  """Idea 1: a trial that diverges changes no bit of any other."""
  healthy = _Study(tmp_path / "healthy", _configs(), mode=mode)
  assert healthy.train()
  rates = (*RATES[:2], 1e30, *RATES[3:])
  study = _Study(tmp_path / "study", _configs(rates), mode=mode)
  assert study.train()
  for i in (0, 1, 3, 4):
    runs.assert_same(study.lines(i), healthy.lines(i))
  alone, folder = _alone(study.configs[2], tmp_path_factory)
  status = study.runs[2].status()
  assert status["status"] == alone["status"] == "infeasible"
  assert (status["step"], status["reason"]) == (alone["step"], alone["reason"])
  assert len(study.lines(2)) == len(runs.lines(folder))


def test_a_population_of_divergence_ends_early(tmp_path):
  """Playbook: infeasible trials are results, even if all are."""
  study = _Study(tmp_path, _configs([1e30] * 5, max_train_steps=100_000))
  assert study.train()
  statuses = [run.status() for run in study.runs]
  assert {status["status"] for status in statuses} == {"infeasible"}
  assert max(status["step"] for status in statuses) < 100


@pytest.mark.slow
@pytest.mark.parametrize(
  "at", [*(pytest.param(a, marks=pytest.mark.pods) for a in (4, 12)), 13]
)
def test_stopped_population_continues(tmp_path, at):
  """G7: asked to stop anywhere, a population goes on to the same bits."""
  configs = _configs(log_every=1)
  whole = _Study(tmp_path / "whole", configs)
  assert whole.train()

  def stop(statuses):
    steps = {status["step"] for status in statuses.values()}
    if steps == {at} and not (tmp_path / "asked").exists():
      (tmp_path / "asked").touch()
      runs.preempt()

  study = _Study(tmp_path / "study", configs)
  assert not study.train(stop)
  statuses = {run.status()["status"] for run in study.runs}
  assert statuses == {"preempted"}
  assert max(line["step"] for line in study.lines(0)) < 24
  assert study.train()
  for i in range(5):
    runs.assert_same(study.lines(i), whole.lines(i))
    assert study.runs[i].status()["best"] == whole.runs[i].status()["best"]
  runs.assert_same(_weights(study, 3), _weights(whole, 3))


def _weights(study, i):
  """The newest checkpoint of a trial."""
  study.unpack(i)
  return runs.last_state(runs.overrides(), study.runs[i].path)


def test_population_continues_without_what_ended(tmp_path):
  """G7: a trial that diverged before the stop stays as it was."""
  rates = (1e30, *RATES[1:])
  study = _Study(tmp_path, _configs(rates, log_every=1))
  asked = []

  def stop(statuses):
    if not asked and {s["step"] for s in statuses.values()} == {20}:
      asked.append(runs.preempt())

  assert not study.train(stop)
  before = (study.runs[0].path / "status.json").read_text()
  assert study.train()
  assert (study.runs[0].path / "status.json").read_text() == before
  assert {run.status()["status"] for run in study.runs[1:]} == {"completed"}


def test_population_begins_anew_over_another_runner(tmp_path):
  """G7: lines that another runner cut off are all made again."""
  configs = _configs(log_every=1)
  study = _Study(tmp_path / "study", configs)
  asked = []

  def stop(statuses):
    if not asked and {s["step"] for s in statuses.values()} == {20}:
      asked.append(runs.preempt())

  assert not study.train(stop)
  study.runs[1].rewind_metrics(5)
  assert study.train()
  assert [line["step"] for line in study.lines(1)] == [*range(1, 25)]


def test_population_takes_the_memory_there_is(tmp_path):
  """B1: the size comes from the compiled program, and is reported."""
  configs = [_configs()[i % 5] for i in range(20)]
  all_ = _Study(tmp_path / "all", configs)
  assert all_.group.size == 24  # rounded up to eight devices
  assert "1 population of 24 on 8 devices" in all_.log[0]
  few = _Study(tmp_path / "few", configs, device_bytes=1.0)
  assert few.group.size == 8
  assert "3 populations of 8" in few.log[0]


def test_best_parameters_are_kept(tmp_path):
  """G7: the best step's state is what the checkpoint of that step holds.

  The exported weights, and the checkpoint, give the logged error again.
  """
  rates = (0.03, 0.1, 0.5, 0.6, 0.7)
  configs = _configs(rates, export=True, max_train_steps=48)
  study = _Study(tmp_path, configs)
  assert study.train()
  earlier = 0
  for i, (run, config) in enumerate(zip(study.runs, configs, strict=True)):
    study.unpack(i)
    best = run.status()["best"]
    steps = sorted(int(path.name) for path in run.checkpoints.iterdir())
    assert steps == sorted({best["step"], 48})
    earlier += best["step"] < 48
    workload = workload_lib.make_workload(config)
    state = _restored(run, best["step"], workload)
    with np.load(run.export / "weights.npz") as file:
      exported = dict(file)
    for name in ("Dense_0", "Dense_1"):
      np.testing.assert_array_equal(
        exported[f"0/{name}/kernel"], state.params[name]["kernel"]
      )
  assert earlier, "no trial whose best step is not its last"


def _restored(run, step, workload):
  from jaxplay.training import checkpoint

  checkpoints = checkpoint.Checkpoints(run.checkpoints, keep_best=1)
  state = checkpoints.restore(step, workload.state)
  checkpoints.close()
  return state


@pytest.mark.slow
@pytest.mark.parametrize(
  "mode, seeds",
  [
    ("looped", (0,) * 5),
    pytest.param("together", (3, 1, 4, 1, 5), marks=pytest.mark.pods),
    pytest.param("called", (3, 1, 4, 1, 5), marks=pytest.mark.pods),
  ],
)
def test_sets_that_the_host_reads(tmp_path, mode, seeds):
  """Idea 3: of a set too large for the device, the same; also resumed."""
  extra = {"seeds": seeds, "microbatches": 2, "log_every": 1, "mesh__data": 1}
  near = _Study(tmp_path / "near", _configs(**extra), mode=mode)
  assert near.train()
  far = _configs(dataset__device_bytes=1, **extra)
  study = _Study(tmp_path / "far", far, mode=mode)

  def stop(statuses):
    if {status["step"] for status in statuses.values()} == {13}:
      runs.preempt()

  assert not study.train(stop)
  assert study.train()
  for i in range(5):
    assert study.runs[i].status()["status"] == "completed"
    runs.assert_close(study.lines(i), near.lines(i), 1e-4, 1e-4)


def test_provenance_of_a_trial(tmp_path):
  """G8: each trial says what made it, as a run does."""
  study = _Study(tmp_path, _configs())
  assert study.train()
  entry = study.runs[4].provenance()
  assert entry["host"] and entry["command"] and not entry["resumes"]
  assert os.path.samefile(entry["folder"], os.getcwd())


def test_a_closed_population_leaves_no_programs():
  """A study of a hundred batches holds the programs of one."""

  def programs():
    gc.collect()
    return sum(
      module.name == "jit_train_population"
      for program in jax.devices()[0].client.live_executables()
      for module in program.hlo_modules()
    )

  before = programs()
  group = population.Populations(_configs()[:2], print)
  assert programs() == before + 1
  group.close()
  assert programs() == before


def test_checkpoints_that_an_older_version_wrote(tmp_path):
  """Reliability: of other names, and without checksums, they are as good."""
  from jaxplay.training import checkpoint

  state = {"x": np.arange(3.0, dtype=np.float32)}
  checkpoint_files.write(tmp_path, {8: (state, 0.5, {})})
  facts = tmp_path / "8" / "metrics" / "metrics"
  facts.unlink()
  facts.with_name("metadata").write_text('{"objective": 0.5, "step": 8}')
  log = []
  checkpoints = checkpoint.Checkpoints(tmp_path, keep_best=1, tell=log.append)
  restored = checkpoints.restore(8, jax.tree.map(jax.numpy.asarray, state))
  checkpoints.close()
  assert not log
  np.testing.assert_array_equal(restored["x"], state["x"])
