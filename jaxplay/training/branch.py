"""Branches: from a checkpoint of a constant run into a cooldown.

A branch is a run directory of its own. It begins as a copy of what the other
run was after some step, its lines of metrics included, and goes on as any run
resumes. Since all schedules are one program and a position in the data is a
step, it equals, bit for bit, the run that was planned so from the start (Hägele
et al. 2024, arXiv 2405.18392, section 3).
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
  """The config of the run that is planned as `parent` with a cooldown.

  Args:
    parent: Config of a constant run.
    step: Updates before the cooldown.
    cooldown_fraction: Share of all steps that the cooldown takes, in (0, 1).
    cooldown_shape: One of `config.COOLDOWN_SHAPES`.
    mixture: (name, weight) of the text that the cooldown trains on; empty: what
      the parent trains on.
    overrides: Other keys -> values, of those that a branch may change.

  Raises:
    jaxplay.UserError: The result is no valid config, an override has no effect,
      or the parent's rate is not constant at `step`.
  """
  if not 0 < cooldown_fraction < 1:
    raise jaxplay.UserError(
      f"the cooldown is to take a fraction {cooldown_fraction} of all steps; it"
      " must lie in (0, 1)"
    )
  start, warmup = _constant_until(parent), parent.hparams.warmup_steps
  if step < warmup:
    raise jaxplay.UserError(
      f"the run's learning rate still rises at step {step}"
      f" (config.hparams.warmup_steps={warmup}); branch from step {warmup} or"
      " later"
    )
  if step > start:
    raise jaxplay.UserError(
      f"the run's learning rate is not constant until step {step} (schedule"
      f" {parent.schedule!r}, constant until step {start}); branch from an"
      " earlier step, or from a run of schedule 'constant'"
    )
  if mixture and parent.model.name not in config_lib.TEXT_MODELS:
    raise jaxplay.UserError(
      f"a mixture ({', '.join(name for name, _ in mixture)}) is of text, and"
      f" the run's config.model.name is {parent.model.name!r}; leave it out"
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
    if not config_lib.KEYS[key].branch
  }
  if wrong:
    raise jaxplay.UserError(
      "a branch goes on as its run was, but for the cooldown and what is looked"
      f" at: {config_lib.changes(wrong)}"
    )
  if config.schedule != "wsd" or _constant_until(config) != step:
    raise jaxplay.UserError(
      f"the branch would not cool down from step {step} on, but as schedule"
      f" {config.schedule!r} from step {_constant_until(config)} of"
      f" {config.max_train_steps}; leave schedule, length and cooldown to the"
      " branch"
    )
  if config.cooldown_shape != cooldown_shape:
    raise jaxplay.UserError(
      f"the cooldown is to be {cooldown_shape!r}, and config.cooldown_shape"
      f" {config.cooldown_shape!r}"
    )
  if config.max_train_steps == step:
    raise jaxplay.UserError(
      f"a cooldown of {cooldown_fraction} of all steps, from step {step} on,"
      " has no step; use a larger fraction"
    )
  config_lib.validate(config)
  return config


def unpack(parent: rundir.RunDir, like: Any) -> None:
  """As `packed.unpack`, of a run that no other process is training."""
  if parent.packed() is None:
    return
  first = jax.process_index() == 0
  with parent.lock() if first else contextlib.nullcontext():
    packed.unpack(parent, like)


def check_steps(
  parent: rundir.RunDir, folders: Mapping[int, pathlib.Path]
) -> None:
  """Refuses to branch from steps that have no checkpoint.

  Args:
    parent: The run to branch from.
    folders: Step -> run directory of the branch; those that have begun need no
      checkpoint of the parent any more.
  """
  there = checkpoint_files.steps(parent.checkpoints)
  for step, folder in folders.items():
    if step not in there and rundir.RunDir(folder).config() is None:
      some = ", ".join(map(str, there)) or "none"
      raise jaxplay.UserError(
        f"{str(parent.path)!r} has no checkpoint of step {step}; it has {some}"
        " (config.keep_steps says which are kept)"
      )


def begin(parent: rundir.RunDir, step: int, run: rundir.RunDir, config) -> None:
  """Makes `run` what `parent` was after `step` updates, unless it has begun.

  Args:
    parent: The run to branch from.
    step: Updates made.
    run: The branch.
    config: Of the branch, from `planned`.
  """
  run.refuse_links()
  rundir.refuse_other(run.path, "a run")
  if run.config() is not None:
    return  # `train` looks whether it is the same.
  if run.status() or "resumes" in (run.provenance() or {}):
    run.refuse_remains()
  # With times of the parent: they were paid for once.
  lines = _whole_lines(parent, step)
  run.create()
  with run.lock():
    checkpoint_files.copy(parent.checkpoints, step, run.checkpoints)
    text = "".join(rundir.as_line(line) for line in lines)
    rundir.write_text(run.path / "metrics.jsonl", text)
    facts: dict[str, Any] = {
      "branch": {"run": str(rundir.absolute(parent.path)), "step": step}
    }
    if dataset := (parent.provenance() or {}).get("dataset"):
      facts["dataset"] = dataset
    rundir.write_json(run.path / "provenance.json", facts)
    run.write_config(config_lib.stored(config))  # Last: now it has begun.


def _whole_lines(parent, step):
  """The lines of metrics up to a checkpoint, which must all be there."""
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
      f"{str(parent.path / 'metrics.jsonl')!r} is not what it was when the"
      f" checkpoint of step {step} was saved: lines are missing, changed or"
      " there twice; restore it from a copy, or branch from another step"
    )
  return lines


def _constant_until(config):
  """The last step until which the rate is constant, but for the warmup."""
  total = config.max_train_steps
  if config.schedule == "constant":
    return total
  if config.schedule == "wsd":
    fraction = config.hparams.cooldown_fraction
    return total - config_lib.cooldown_steps(total, fraction)
  return 0


def _total(step, fraction):
  """The length of a run whose cooldown begins after `step` updates."""
  total = round(step / (1 - fraction))
  # Rounded, a cooldown grows by at most one step where the run does.
  while total - config_lib.cooldown_steps(total, fraction) < step:
    total += 1
  while total - config_lib.cooldown_steps(total, fraction) > step:
    total -= 1
  return total
