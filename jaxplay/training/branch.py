"""Branches: cooldowns from a checkpoint of a run with constant learning rate.

A branch has its own run directory. It starts as a copy of the parent run after
some step, including its metrics, and continues as any resumed run. Since all
schedules are one program and the step determines the data, it is bit for bit
equal to a run with this schedule from the start (Hägele et al. 2024, arXiv
2405.18392, section 3).
"""

import contextlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import ml_collections

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.training import checkpoint_files, packed


def planned(
  parent: ml_collections.ConfigDict,
  *,
  step: int,
  cooldown_fraction: float,
  cooldown_shape: str,
  mixture: Sequence[tuple[str, float]] = (),
  overrides: Mapping[str, Any] | None = None,
) -> ml_collections.ConfigDict:
  """The config of a branch: that of `parent` with a cooldown.

  Args:
    parent: Config of a run with constant learning rate.
    step: Updates before the cooldown.
    cooldown_fraction: Cooldown as a fraction of all steps, in (0, 1).
    cooldown_shape: One of `config.COOLDOWN_SHAPES`.
    mixture: (name, weight) of the text for the cooldown; empty: that of the
      parent.
    overrides: Key -> value, for other keys that a branch may change.

  Raises:
    jaxplay.UserError: The result is no valid config, an override has no effect,
      or the learning rate of the parent is not constant at `step`.
  """
  if not 0 < cooldown_fraction < 1:
    raise jaxplay.UserError(
      f"the cooldown fraction is {cooldown_fraction}; it must lie in (0, 1)"
    )
  start, warmup = _constant_until(parent), parent.hparams.warmup_steps
  if step < warmup:
    raise jaxplay.UserError(
      f"step {step} is within the warmup of the run"
      f" (config.hparams.warmup_steps={warmup}); branch from step {warmup} or"
      " later"
    )
  if step > start:
    raise jaxplay.UserError(
      f"the learning rate is not constant until step {step} (schedule"
      f" {parent.schedule!r}, constant until step {start}); branch from an"
      " earlier step, or from a run of schedule 'constant'"
    )
  if mixture and not config_lib.is_text(parent):
    raise jaxplay.UserError(
      f"a mixture ({', '.join(name for name, _ in mixture)}) requires text, but"
      f" config.model.name of the run is {parent.model.name!r}; leave it out"
    )
  config = parent.copy_and_resolve_references()
  overrides = overrides or {}
  settings = {
    "schedule": "wsd",
    "cooldown_shape": cooldown_shape,
    "hparams.cooldown_fraction": cooldown_fraction,
    "max_train_steps": _total(step, cooldown_fraction),
  }
  if mixture:
    phases = parent.dataset.mixtures or ((0, ((parent.dataset.name, 1.0),)),)
    before = tuple(phase for phase in phases if phase[0] < step)
    settings["dataset.mixtures"] = (*before, (step, tuple(mixture)))
  for key, value in (settings | dict(overrides)).items():
    config_lib.override(config, key, value)
  config_lib.check_effect(config, overrides)
  different = config_lib.differences(
    config_lib.as_json(parent), config_lib.as_json(config)
  )
  wrong = {
    key: values
    for key, values in different.items()
    if not config_lib.keys_of(config_lib.flatten(parent))[key].branch
  }
  if wrong:
    raise jaxplay.UserError(
      "a branch can only change the cooldown, and what is evaluated and saved:"
      f" {config_lib.changes(wrong)}"
    )
  if config.schedule != "wsd" or _constant_until(config) != step:
    raise jaxplay.UserError(
      f"the cooldown would not start at step {step}: schedule"
      f" {config.schedule!r} decays from step {_constant_until(config)} of"
      f" {config.max_train_steps}; do not override schedule, length or cooldown"
    )
  if config.cooldown_shape != cooldown_shape:
    raise jaxplay.UserError(
      f"the requested cooldown shape is {cooldown_shape!r}, but"
      f" config.cooldown_shape is {config.cooldown_shape!r}; set one of them"
    )
  if config.max_train_steps == step:
    raise jaxplay.UserError(
      f"a cooldown of {cooldown_fraction} of all steps from step {step} has no"
      " steps; use a larger fraction"
    )
  config_lib.validate(config)
  return config


def unpack(parent: rundir.RunDir, like: Any) -> None:
  """As `packed.unpack`, with the lock of the run."""
  if parent.packed() is None:
    return
  first = jax.process_index() == 0
  with parent.lock() if first else contextlib.nullcontext():
    packed.unpack(parent, like)


def check_steps(
  parent: rundir.RunDir, folders: Mapping[int, pathlib.Path]
) -> None:
  """Refuses to branch from steps without checkpoint.

  Args:
    parent: The run to branch from.
    folders: Step -> run directory of the branch; a branch that has started
      needs no checkpoint of the parent.
  """
  available = checkpoint_files.steps(parent.checkpoints)
  for step, folder in folders.items():
    if step not in available and rundir.RunDir(folder).config() is None:
      listed = ", ".join(map(str, available)) or "none"
      raise jaxplay.UserError(
        f"{str(parent.path)!r} has no checkpoint of step {step}; it has"
        f" {listed} (config.keep_steps selects the checkpoints to keep)"
      )


def begin(parent: rundir.RunDir, step: int, run: rundir.RunDir, config) -> None:
  """Copies `parent` after `step` updates to `run`, unless that has started.

  Args:
    parent: The run to branch from.
    step: Updates made.
    run: The branch.
    config: From `planned`.
  """
  run.refuse_links()
  rundir.refuse_other(run.path, "a run")
  if run.config() is not None:
    return  # `train` checks whether it is the same.
  if run.status() or "resumes" in (run.provenance() or {}):
    run.refuse_remains()
  lines = _whole_lines(parent, step)
  run.create()
  with run.lock():
    checkpoint_files.copy(parent.checkpoints, step, run.checkpoints)
    text = "".join(rundir.as_line(line) for line in lines)
    rundir.write_text(run.path / "metrics.jsonl", text)
    if (init := parent.init()) is not None:
      run.write_init(init)
    facts: dict[str, Any] = {
      "branch": {"run": str(rundir.absolute(parent.path)), "step": step}
    }
    if dataset := (parent.provenance() or {}).get("dataset"):
      facts["dataset"] = dataset
    rundir.write_json(run.path / "provenance.json", facts)
    config_lib.write_code(config, run.path)
    run.write_config(config_lib.stored(config))  # Last: now it has started.


def _whole_lines(parent, step):
  """The lines of metrics up to a checkpoint, which must be complete."""
  try:
    digest = (checkpoint_files.lines(parent.checkpoints, step) or [None])[0]
  except checkpoint_files.Damaged as error:
    raise jaxplay.UserError(
      f"the checkpoint of step {step} in {str(parent.path)!r} is damaged"
      f" ({error}); branch from another step"
    ) from None
  intervals = [parent.config()[key] for key in ("log_every", "eval_every")]
  due = max(step // every * every for every in intervals)
  lines = parent.metrics_until(step, digest, due=due)
  if lines is None:
    raise jaxplay.UserError(
      f"{str(parent.path / 'metrics.jsonl')!r} does not match the checkpoint"
      f" of step {step}: lines are missing, changed or duplicated; restore it"
      " from a copy, or branch from another step"
    )
  return lines


def _constant_until(config):
  """The last step until which, after the warmup, the schedule is constant."""
  total = config.max_train_steps
  if config.schedule == "constant":
    return total
  if config.schedule == "wsd":
    fraction = config.hparams.cooldown_fraction
    return total - config_lib.cooldown_steps(total, fraction)
  return 0


def _total(step, fraction):
  """The length of a run whose cooldown starts after `step` updates."""
  total = round(step / (1 - fraction))
  # When a run gets one step longer, its cooldown grows by at most one step.
  while total - config_lib.cooldown_steps(total, fraction) < step:
    total += 1
  while total - config_lib.cooldown_steps(total, fraction) > step:
    total -= 1
  return total
