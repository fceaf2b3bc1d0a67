"""Single runs: configs, training, branches."""

import functools
import os
from collections.abc import Mapping

import ml_collections

import jaxplay
from jaxplay import config as config_lib
from jaxplay import provenance, rundir, terminal
from jaxplay.api import arguments, devices


def base_config() -> ml_collections.ConfigDict:
  """Makes the config that every experiment file starts from.

  Returns:
    All keys at their defaults; `jaxplay config` prints their meaning.

  Examples:
    >>> import jaxplay as jp
    >>> config = jp.base_config()
    >>> config.hparams.learning_rate = 0.05
  """
  return config_lib.base()


@arguments.public()
def load_config(
  config: arguments.Config, overrides: arguments.Overrides | None = None
) -> ml_collections.ConfigDict:
  """Loads and checks a config.

  Args:
    config: Experiment file with get_config(), FILE:ARG, config.json of a run,
      study.json of a study, or a config, which is copied.
    overrides: Dotted key to value, or to its text.

  Returns:
    The config, locked: a key that does not exist cannot be set.

  Raises:
    jaxplay.UserError: A file, key or value is wrong, or an override has no
      effect.

  Examples:
    >>> import jaxplay as jp
    >>> config = jp.load_config(
    ...   "experiments/digits_mlp/config.py", {"hparams.momentum": 0.8}
    ... )
    >>> config.hparams.momentum
    0.8
  """
  texts = {
    key: value if isinstance(value, str) else repr(value)
    for key, value in (overrides or {}).items()
  }
  loaded = config_lib.load(_spec(config), texts)
  config_lib.validate(loaded)
  return loaded


def _spec(config):
  """What `config.load` takes; files in buckets are read here."""
  if isinstance(config, ml_collections.ConfigDict):
    return config_lib.as_json(config)
  if isinstance(config, Mapping):
    return config
  text = os.fspath(config)
  path = rundir.at(text)
  if rundir.is_local(path):
    return text
  nested = rundir.read_json(path, rundir.Config)
  if nested is None:
    raise jaxplay.UserError(f"there is no config file {text!r}")
  return nested


def resolved(config):
  """A config that was loaded, or is loaded now."""
  if isinstance(config, ml_collections.ConfigDict):
    config_lib.validate(config)
    return config.copy_and_resolve_references()
  return load_config(config)


def _extended(config, extend_steps):
  """The config, with another number of steps if there is one."""
  loaded = resolved(config)
  if extend_steps:
    config_lib.override(loaded, "max_train_steps", extend_steps)
    config_lib.validate(loaded)
  return loaded


@arguments.public("train")
def train(
  config: arguments.Config,
  workdir: arguments.Folder,
  *,
  extend_steps: arguments.Count | None = None,
  allow_code_change: bool = False,
  profile: arguments.Steps | None = None,
) -> rundir.RunDir:
  """Trains one config in one run directory; the same call resumes.

  Args:
    config: Experiment file, or a config.
    workdir: Run directory, made if need be.
    extend_steps: Continue a run of constant learning rate until it has made
      this number of steps in all.
    allow_code_change: Go on although the code of the user's parts was changed.
    profile: Trace steps A to B into RUN/profile, for Perfetto and TensorBoard.

  Returns:
    The run directory: `status()` tells whether the run is completed, infeasible
    (training diverged) or preempted, and its best value; `findings()` what the
    checks of its curves reported.

  Raises:
    jaxplay.UserError: The config or the directory does not fit.
    jaxplay.RunError: The devices failed, such as out of memory.

  Examples:
    >>> import jaxplay as jp
    >>> config = jp.load_config("experiments/digits_mlp/config.py")
    >>> config.max_train_steps = 20
    >>> run = jp.train(config, "runs/first")
    >>> run.status()["status"]
    'completed'
  """
  loaded = _extended(config, extend_steps)
  run = rundir.RunDir(workdir)
  devices.start()

  import jax

  config_lib.validate(loaded, jax.device_count())
  console = terminal.Console(
    quiet=jax.process_index() != 0, names=("train/loss", loaded.objective)
  )
  _print_notes(loaded, console)
  _check_profile(profile, run, loaded)
  _train(
    loaded,
    run,
    console,
    extend=bool(extend_steps),
    allow_code_change=allow_code_change,
    profile=profile,
  )
  return run


@arguments.public()
def describe(
  config: arguments.Config, *, extend_steps: arguments.Count | None = None
) -> list[str]:
  """Compiles a config without training it.

  Args:
    config: Experiment file, or a config.
    extend_steps: As of `train`.

  Returns:
    Texts: the config, the parameters, FLOPs of a step, memory.

  Raises:
    jaxplay.UserError: The config is wrong, or does not fit the devices.

  Examples:
    >>> import jaxplay as jp
    >>> parts = jp.describe("experiments/digits_mlp/config.py")
    >>> print(parts[-1])
    the whole run: 192,000 examples, 160.4 epochs
  """
  loaded = _extended(config, extend_steps)
  devices.start()

  import jax

  from jaxplay.training import dry_run

  config_lib.validate(loaded, jax.device_count())
  _print_notes(loaded, terminal.Console(quiet=jax.process_index() != 0))
  return list(dry_run.describe(loaded))


@arguments.public("branch")
def branch(
  run: arguments.Place,
  workdir: arguments.Folder,
  *,
  step: arguments.Count | None = None,
  steps: arguments.Counts | None = None,
  cooldown_fraction: arguments.Measure = 0.2,
  shape: arguments.Text = "1-sqrt",
  mixture: arguments.Mixture = (),
  overrides: arguments.Overrides | None = None,
) -> list[rundir.RunDir]:
  """Cools down from checkpoints of a run of constant learning rate.

  Each branch equals, bit for bit, the run that was planned so from the start.
  The same call resumes.

  Args:
    run: Run of constant learning rate.
    workdir: Run directory of the branch; with `steps`, folder of the branches.
    step: Cool down after this number of steps.
    steps: A branch for each of these numbers of steps.
    cooldown_fraction: Share of all steps that the cooldown takes.
    shape: 1-sqrt, linear, cosine, square or mirror_cosine.
    mixture: Text to cool down on; default: what the run trains on.
    overrides: Config key to value, for numbers of the branch.

  Returns:
    The run directories, in the order of the steps; fewer if a signal asked to
    stop.

  Raises:
    jaxplay.UserError: There is no such run or checkpoint, or it cannot branch.
    jaxplay.RunError: The devices failed.

  Examples:
    >>> import jaxplay as jp
    >>> (branch,) = jp.branch("runs/constant", "runs/cooled", step=20)
    >>> branch.status()["step"]  # with the cooldown, a fifth of all steps
    25
  """
  if (step is None) == (steps is None):
    raise jaxplay.UserError("a branch requires either step or steps")
  parent = rundir.RunDir(run)
  nested = parent.config()
  if nested is None:
    raise rundir.absent(run, "a run")
  provenance.carry(parent.provenance())
  base = config_lib.from_json(nested, parent.path / "config.json")
  texts = {
    key: value if isinstance(value, str) else repr(value)
    for key, value in (overrides or {}).items()
  }
  changes = config_lib.parsed(texts, base)
  devices.start()

  import jax

  from jaxplay.training import branch as branch_lib
  from jaxplay.training import host, resume, sharding
  from jaxplay.training import workload as workload_lib

  def planned(step):
    config = branch_lib.planned(
      base,
      step=step,
      cooldown_fraction=cooldown_fraction,
      cooldown_shape=shape,
      mixture=mixture,
      overrides=changes,
    )
    config_lib.validate(config, jax.device_count())
    return config

  folder = rundir.at(workdir)
  folders = {}
  if step is not None:
    folders = {step: folder}
  if steps is not None:
    folders = {step: folder / f"{step:08d}" for step in steps}
  # All are checked before the first begins.
  configs = {step: planned(step) for step in folders}
  # Whether the text and the vocabulary exist, and are those of the run.
  workload = workload_lib.make_workload(next(iter(configs.values())))
  resume.check_same_data(parent, workload.dataset)
  branch_lib.unpack(parent, workload.state)
  branch_lib.check_steps(parent, folders)
  branches: list[rundir.RunDir] = []
  with host.Preemption() as preemption:
    for step, config in configs.items():
      if branches and jax.process_count() == 1 and preemption.now():
        break
      console = terminal.Console(
        quiet=jax.process_index() != 0, names=("train/loss", config.objective)
      )
      made = rundir.RunDir(folders[step], folder)
      sharding.from_first_host(
        functools.partial(branch_lib.begin, parent, step, made, config)
      )
      console.tell(f"cooling down from step {step} to {config.max_train_steps}")
      branches.append(made)
      status = _train(config, made, console)
      if status["status"] == "preempted":
        break
  return branches


def _print_notes(config, console):
  for sentence in config_lib.notes(config):
    console.tell(f"note: {sentence}")


def _check_profile(profile, run, config):
  if profile is None:
    return
  _, last = profile
  if last > config.max_train_steps:
    raise jaxplay.UserError(
      f"{arguments.option('profile')} ends at step {last}, and the run at"
      f" {config.max_train_steps}"
    )
  done = run.status().get("step", 0)
  if done >= last:
    raise jaxplay.UserError(
      f"{arguments.option('profile')} ends at step {last}, and"
      f" {str(run.path)!r} has made {done} already; use another workdir"
    )


def _train(config, run, console, **options):
  """Trains a run and writes its findings; returns its status."""
  import jax

  from jaxplay.analysis import curves
  from jaxplay.training import sharding
  from jaxplay.training import train as train_lib

  try:
    with console:
      status = train_lib.train(config, str(run.path), console, **options)
  except jax.errors.JaxRuntimeError as error:
    raise jaxplay.RunError(devices.describe(error)) from None
  if jax.process_index() == 0:
    run.write_findings([f.as_json() for f in curves.check_run(run)])
  sharding.from_first_host(lambda: None)  # The others read what it wrote.
  return status
