"""Changes of a config, and differences of two."""

import json
import os
import re
from collections.abc import Mapping
from typing import Any

import ml_collections

from jaxplay import usercode
from jaxplay.config import checks, keys, own, values


def with_batch_size(
  config: ml_collections.ConfigDict, size: int
) -> ml_collections.ConfigDict:
  """A copy with another batch size, and eval_batch_size at least as large."""
  config = config.copy_and_resolve_references()
  values.override(config, "batch_size", size)
  values.override(config, "eval_batch_size", max(size, config.eval_batch_size))
  return config


def with_steps(flat: Mapping[str, Any], steps: int) -> dict[str, Any]:
  """The changes that give a config another length.

  The warmup keeps its number of steps if it fits (before the cooldown of wsd),
  else its share of all steps. The phases of a mixture keep their shares.

  Args:
    flat: The config's dotted keys and values, as from `flatten`.
    steps: The new `max_train_steps`.
  """
  share = steps / flat["max_train_steps"]
  changes: dict[str, Any] = {"max_train_steps": steps}
  room, warmup = longest_warmup(flat, steps), flat["hparams.warmup_steps"]
  if warmup > room:
    changes["hparams.warmup_steps"] = min(int(warmup * share), room)
  if flat["dataset.mixtures"]:
    # The last of several phases that begin at the same step counts.
    phases = {round(step * share): of for step, of in flat["dataset.mixtures"]}
    changes["dataset.mixtures"] = tuple(sorted(phases.items()))
  return {key: value for key, value in changes.items() if value != flat[key]}


def with_evaluations(flat: Mapping[str, Any], steps: int) -> dict[str, Any]:
  """The changes that give a run of some length 10 evaluations or more.

  "Retrospectively selecting the best checkpoint" requires frequent ones
  (Playbook, saving checkpoints and retrospectively selecting the best one).

  Args:
    flat: The config's dotted keys and values, as from `flatten`.
    steps: Length of the run.
  """
  if steps // flat["eval_every"] >= 10:
    return {}
  return {"eval_every": max(1, steps // 20)}


def with_warmup(flat: Mapping[str, Any], steps: int) -> dict[str, Any]:
  """The changes that give a config another warmup, and the same length.

  If it does not fit, the cooldown of wsd is shortened.

  Args:
    flat: The config's dotted keys and values, as from `flatten`.
    steps: The new `hparams.warmup_steps`, at most `max_train_steps`.
  """
  total = flat["max_train_steps"]
  changes: dict[str, Any] = {"hparams.warmup_steps": steps}
  if steps > longest_warmup(flat, total):
    changes["hparams.cooldown_fraction"] = (total - steps) / total
  return {key: value for key, value in changes.items() if value != flat[key]}


def longest_warmup(flat: Mapping[str, Any], steps: int) -> int:
  """The longest warmup that fits into a run, before its cooldown.

  Args:
    flat: The config's dotted keys and values, as from `flatten`.
    steps: Length of the run.
  """
  if flat["schedule"] != "wsd":
    return steps
  return steps - checks.cooldown_steps(steps, flat["hparams.cooldown_fraction"])


def final_rate(flat: Mapping[str, Any]) -> float | None:
  """The planned last learning rate as a share of the peak, in [0, 1].

  By the formulas of `training.schedules`; None: the schedule is a function of
  the user's, or the keys that it reads are missing.

  Args:
    flat: The config's dotted keys and values, as from `flatten`.
  """
  try:
    schedule, steps = flat["schedule"], flat["max_train_steps"]
    if flat["hparams.warmup_steps"] >= steps or schedule == "constant":
      return 1.0  # The last rate is the largest.
    if schedule in ("linear", "cosine"):
      return float(flat["hparams.final_factor"])
    if schedule == "wsd":
      fraction = flat["hparams.cooldown_fraction"]
      has_cooldown = checks.cooldown_steps(steps, fraction) > 0
      return float(flat["hparams.final_factor"]) if has_cooldown else 1.0
    if schedule == "rsqrt":
      timescale = flat["hparams.decay_timescale"]
      begin = max(flat["hparams.warmup_steps"], timescale)
      return float(begin / max(steps, begin)) ** 0.5
  except KeyError:
    pass
  return None


def other_seeds(seed: int, number: int) -> list[int]:
  """`number` other seeds: those after `seed`, modulo 2**32."""
  return [(seed + i) % 2**32 for i in range(1, number + 1)]


def changes(different: Mapping[str, tuple[Any, Any]], most: int = 4) -> str:
  """The first of some `differences`, as text; digests of code are last."""
  ordered = sorted(different.items(), key=lambda item: item[0] == "code")
  listed = "; ".join(
    f"config.{key} was {old!r} and is now {new!r}"
    for key, (old, new) in ordered[:most]
  )
  more = len(different) - most
  return listed + (f" and {more} more" if more > 0 else "")


def only_code(
  different: Mapping[str, tuple[Any, Any]], where: str, path: str | os.PathLike
) -> str:
  """What to say if all `differences` are changed code; else empty.

  Args:
    different: As from `differences`.
    where: What the code was changed of.
    path: Its directory, with a copy of the code.
  """
  if different.keys() != {"code"}:
    return ""
  changed = usercode.changed(different["code"][0] or "", path)
  which = f" ({', '.join(map(os.path.relpath, changed[1]))})" if changed else ""
  return (
    f"the code of the parts{which} was changed since {where} began; restore it,"
    " use another workdir, or go on with the changed code by"
    " --allow_code_change"
  )


def is_resumable(key: str) -> bool:
  """Whether a key may differ when a run resumes; see `keys.Key`."""
  return key in keys.KEYS and keys.KEYS[key].resume


def differences(old: Mapping, new: Mapping) -> dict[str, tuple[Any, Any]]:
  """Keys that make two configs different runs, with (old, new) values.

  Both are nested dicts as from `as_json` or `stored`; what may change when a
  run resumes is ignored. A key that is absent has its default.
  """
  old, new = (
    values.as_json(own.defaults_of(flat)) | flat
    for flat in (values.flatten(old), values.flatten(new))
  )
  return {
    key: (old.get(key), new.get(key))
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key) and not is_resumable(key)
  }


def resumed(old: Mapping, new: Mapping) -> dict[str, Any]:
  """The nested config `old`, with what a resume may change as in `new`."""
  kept = json.loads(json.dumps(old))
  for key, value in values.flatten(new).items():
    if is_resumable(key):
      *groups, leaf = key.split(".")
      inner = kept
      for group in groups:
        inner = inner.setdefault(group, {})
      inner[leaf] = value
  return kept


def stored(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """The config as config.json holds it: without keys of parts not chosen.

  A key without effect is left out if it has its default, which an absent key
  has for every reader.
  """
  flat, nested = values.flatten(config), values.as_json(config)
  for key in ("code", "declared"):
    if not flat[key]:
      del nested[key]
  for key, default in own.defaults_of(flat).items():
    if flat[key] == default and not checks.has_effect(key, flat):
      group, _, leaf = key.rpartition(".")
      del (nested[group] if group else nested)[leaf]
  return nested


def without(
  config: ml_collections.ConfigDict, *features: str
) -> dict[str, Any]:
  """The changes that turn off features of a config; {} if they are off.

  Args:
    config: The config; not changed.
    *features: "augmentation", "averages", "clipping", "decay" (of the learning
      rate), "dropout", "label_smoothing", "warmup", "weight_decay", "z_loss".
  """
  off: dict[str, Any] = {}
  for feature in features:
    off |= keys.OFF[feature]
  return settled(values.flatten(config), off)


def settled(
  flat: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
  """Completes changes of a config, and drops those that change nothing.

  A key that no longer has an effect gets its default. If the averages of the
  objective are no longer evaluated, it becomes the same metric of the evaluated
  weights.

  Args:
    flat: The config's dotted keys and values, as from `flatten`.
    changes: Dotted key -> new value.
  """
  new = {**flat, **changes}
  defaults = own.defaults_of(new)
  for key in own.keys_of(flat):
    if not checks.has_effect(key, new):
      had_effect = checks.has_effect(key, flat)
      new[key] = defaults[key] if had_effect else flat[key]
  split, slash, metric = new["objective"].partition("/")
  averaged = re.fullmatch(r"valid_(\w+)", split)
  evaluated = {"raw", *new["averages"]} - {new["weights"]}
  if averaged and averaged[1] not in evaluated:
    new["objective"] = f"valid{slash}{metric}"
  return {key: value for key, value in new.items() if value != flat[key]}


def is_kept(step: int, config: ml_collections.ConfigDict) -> bool:
  """Whether `keep_steps` includes the checkpoint of `step`."""
  return step > 0 and next_kept(step - 1, config) == step


def next_kept(at: int, config: ml_collections.ConfigDict) -> int | None:
  """The first of `keep_steps` after `at`.

  They do not depend on the length of the run: a run that is extended has kept
  the same checkpoints as one that was longer from the start.
  """
  steps = [s for s in config.keep_steps if s != "geometric" and s > at]
  if "geometric" in config.keep_steps and config.schedule == "constant":
    steps.append(100 * 2 ** (at // 100).bit_length())
  return min(steps, default=None)
