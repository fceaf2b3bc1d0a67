"""Whether a config makes sense: values, ranges, and pairs that must agree."""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

import jaxplay
from jaxplay.config import keys, metric, own, parts
from jaxplay.config.values import (
  flatten,
  nearest,
  one_of,
  put,
  refuse_missing,
  rounded,
  shown,
  typed,
)


def validate(
  config: ml_collections.ConfigDict,
  num_devices: int | None = None,
  *,
  trials: bool = False,
) -> None:
  """Checks values, ranges and pairs that must agree; resolves the objective.

  Args:
    config: A config with exactly the keys of `base()`; see also `resolve`.
    num_devices: Devices over all hosts; None: do not check the mesh.
    trials: Whether groups of these devices train different trials.

  Raises:
    jaxplay.UserError: The first mistake in the config.
  """
  flat = flatten(config)
  defaults = own.defaults_of(flat)
  for key in sorted(flat.keys() - defaults.keys()):
    raise jaxplay.UserError(
      f"unknown key config.{key}; {nearest(key, defaults)}"
    )
  refuse_missing(flat)
  for name, value in flat.items():
    typed(name, value, defaults)
    if type(value) is int and not -(2**63) <= value < 2**63:
      raise jaxplay.UserError(
        f"config.{name} is {shown(value)}; expected a 64-bit integer"
      )
  for name, declared in own.keys_of(flat).items():
    if own.is_own(name, flat[name]):
      _check_declared(name, flat)
    elif declared.choices:
      if name in own.GROUPS and str(flat[name]).endswith(".py"):
        raise jaxplay.UserError(
          f"config.{name} is {shown(flat[name])}, a file; name what is in it,"
          " as FILE.py:NAME"
        )
      files = ("FILE.py:NAME",) if name in own.GROUPS else ()
      one_of(f"config.{name} is", flat[name], (*declared.choices, *files))
    if declared.within:
      _check_range(name, flat[name], declared)
  resolve(config)
  _validate_pairs(config)
  if num_devices is not None:
    _validate_mesh(config, num_devices, trials)


def resolve(config: ml_collections.ConfigDict) -> None:
  """Sets an empty `objective` to the default metric of the task."""
  if not config.objective:
    default = metric.of_task(task_name(config)).objective
    put(config, "objective", f"valid/{default}")


def task_name(config: ml_collections.ConfigDict | Mapping[str, Any]) -> str:
  """The full name of the task of a config, or of a nested dict as is."""
  if config["task"]["name"]:
    return config["task"]["name"]
  return "next_token" if own.is_text(config) else "classification"


def metrics(config: ml_collections.ConfigDict) -> tuple[str, ...]:
  """Names of the metrics of a config's task, without split, as logged.

  Of a user's task only those that are known without running it.
  """
  of_task = metric.of_task(task_name(config))
  asked = (*config.task.metrics, config.objective.partition("/")[2])
  declared = [
    row[2] for row in config.declared if row[:2] == ("metric", config.task.name)
  ]
  more = [name for name in of_task.more if name in asked]
  return tuple(dict.fromkeys([*of_task.logged, *more, *declared]))


def mesh_sizes(
  mesh: ml_collections.ConfigDict, num_devices: int, *, trials: bool = False
) -> dict[str, int]:
  """Returns the size of each axis of the mesh.

  Args:
    mesh: config.mesh.
    num_devices: Devices over all hosts.
    trials: Whether groups of devices train different trials: then an axis
      "trial" takes the remaining devices.

  Raises:
    jaxplay.UserError: The mesh does not cover the devices.
  """
  sizes = {axis: mesh[axis] for axis in parts.MESH_AXES}
  listed = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
  left = [axis for axis, size in sizes.items() if size == -1]
  if len(left) > 1:
    raise jaxplay.UserError(
      f"config.mesh has two axes of -1, all remaining devices ({listed}); only"
      " one axis can be -1"
    )
  if trials:
    left, sizes = ["trial"], {a: abs(size) for a, size in sizes.items()}
  for axis in left:
    sizes.pop(axis, None)
    sizes[axis] = num_devices // math.prod(sizes.values())
  covered = math.prod(sizes.values())
  if covered != num_devices:
    raise jaxplay.UserError(
      f"a mesh of {listed} does not cover {num_devices} devices; the product of"
      f" its axes must {'divide' if trials else 'be'} {num_devices}"
    )
  return sizes


def cooldown_steps(max_train_steps: int, fraction: float) -> int:
  """Length of a cooldown in steps, rounded in 32 bits as in the train step."""
  return round(rounded(rounded(fraction) * rounded(max_train_steps)))


def evaluated(config: ml_collections.ConfigDict) -> list[str]:
  """Names of the validation metrics that a run of a config logs; `metrics`."""
  return _of_all_weights(config, metrics(config))


def _of_all_weights(config, names):
  suffixes = [f"_{name}" for name in ("raw", *config.averages)]
  suffixes[suffixes.index(f"_{config.weights}")] = ""
  return [
    f"valid{suffix}/{name}" for suffix in sorted(suffixes) for name in names
  ]


def notes(config: ml_collections.ConfigDict) -> list[str]:
  """Warnings to print before a run starts."""
  warnings = without_effect(config)
  if config.microbatches > 1:
    warnings.append(
      f"config.microbatches={config.microbatches} saves memory, not time:"
      " gradient accumulation does not increase throughput"
    )
  if config.dataset.fold_validation:
    warnings.append(
      "config.dataset.fold_validation=True trains on the validation examples:"
      " there are no validation metrics, no best step and no check of"
      " overfitting: the last step is the result, which only the test set can"
      " measure"
    )
  return warnings


def without_effect(config: ml_collections.ConfigDict) -> list[str]:
  """A sentence for each key that is set and has no effect; see `idle`."""
  flat = flatten(config)
  return [no_effect_message(key, flat) for key in idle(flat)]


def check_effect(
  config: ml_collections.ConfigDict, overridden: Iterable[str]
) -> None:
  """Refuses overrides that have no effect.

  In a config file such a value is not an error, since another key may turn it
  on later; `notes` warns about it.

  Args:
    config: The config, with the overrides applied.
    overridden: Dotted keys.

  Raises:
    jaxplay.UserError: The first key that has no effect.
  """
  flat = flatten(config)
  for key in overridden:
    if not has_effect(key, flat):
      switch, values = _switch(key, flat)
      raise jaxplay.UserError(
        f"{no_effect_message(key, flat)}; leave it out, or set"
        f" config.{switch} to {' or '.join(map(repr, values))}"
      )


def no_effect_message(key: str, flat: Mapping[str, Any]) -> str:
  """A sentence about a key that has no effect."""
  switch, _ = _switch(key, flat)
  return (
    f"config.{key}={flat[key]!r} has no effect with"
    f" config.{switch}={flat[switch]!r}"
  )


def has_effect(key: str, flat: Mapping[str, Any]) -> bool:
  """Whether `key` has an effect in a config, flat as from `flatten`."""
  switch, values = used_by(key, flat) or (None, ())
  return switch is None or is_on(flat.get(switch), values)


def _switch(key, flat):
  """As `used_by`, for a key that has a switch."""
  switch = used_by(key, flat)
  assert switch is not None
  return switch


def used_by(key: str, flat: Mapping[str, Any]) -> tuple[str, tuple] | None:
  """(switch, values) with which `key` has an effect; None: always.

  Args:
    key: A dotted key.
    flat: The config; its parts may have keys of their own.
  """
  table = own.keys_of(flat)
  return table[key].used_by if key in table else None


def _check_declared(switch, flat):
  """Refuses a part of the user that was not loaded."""
  if (switch, flat[switch]) not in own.declared_parts(flat["declared"]):
    raise jaxplay.UserError(
      f"config.{switch} is {shown(flat[switch])}, which this config does not"
      " declare; name it in the config file, with --config, or in the study"
    )


def is_on(switch: Any, values: tuple) -> bool:
  """Whether a switch, or an element of a tuple, has one of the values."""
  if isinstance(switch, tuple):
    return any(element in values for element in switch)
  return switch in values


def idle(flat: Mapping[str, Any]) -> list[str]:
  """Keys with another value than their default and no effect.

  Args:
    flat: The config's dotted keys and values, as from `flatten`.
  """
  return [
    name
    for name, key in own.keys_of(flat).items()
    if flat[name] != key.default and not has_effect(name, flat)
  ]


def _check_range(name, value, key):
  if not key.holds(value):
    raise jaxplay.UserError(
      f"config.{name} is {shown(value)}; it must lie in {key.within}"
    )
  if key.traced and isinstance(value, float):
    stepped = rounded(value)
    if not key.holds(stepped):
      raise jaxplay.UserError(
        f"config.{name} is {shown(value)}, which rounds to {stepped:g} in the"
        f" 32 bits of the train step; it must lie in {key.within}"
      )


def _validate_pairs(config):
  def refuse(message):
    raise jaxplay.UserError(message)

  steps, batch = config.max_train_steps, config.batch_size
  model, hparams = config.model, config.hparams
  for key, names in (
    ("averages", parts.AVERAGES),
    ("diagnostics", parts.DIAGNOSTICS),
    ("writers", parts.WRITERS),
  ):
    for name in config[key]:
      if name not in names:
        refuse(
          f"config.{key} names {shown(name)}; it can hold"
          f" {', '.join(map(repr, names))}"
        )
  if config.weights not in ("raw", *config.averages):
    refuse(
      f"config.weights is {shown(config.weights)}, but config.averages="
      f"{tuple(config.averages)!r} does not name it"
    )
  is_text = own.is_text(config)
  _validate_task(config)
  if config.eval_batch_size < batch:
    refuse(
      f"config.eval_batch_size is {config.eval_batch_size}, less than"
      f" config.batch_size {batch}; set it to at least {batch}: evaluation"
      " needs no activations (Playbook, setting up periodic evaluations)"
    )
  strides = model.strides
  if len(strides) != 3 or not all(
    type(s) is int and 1 <= s <= keys.LARGEST for s in strides
  ):
    refuse(
      f"config.model.strides is {shown(tuple(strides))}; expected three"
      " positive integers, such as (1, 2, 2)"
    )
  if hparams.warmup_steps > steps:
    refuse(
      f"config.hparams.warmup_steps is {hparams.warmup_steps}, longer than the"
      f" run of config.max_train_steps={steps}; use at most {steps}, or more"
      " training steps"
    )
  if config.schedule == "wsd":
    cooldown = cooldown_steps(steps, hparams.cooldown_fraction)
    if hparams.warmup_steps + cooldown > steps:
      refuse(
        f"a warmup of {hparams.warmup_steps} and a cooldown of {cooldown} steps"
        f" (config.hparams.cooldown_fraction={hparams.cooldown_fraction}) are"
        f" longer than the run of config.max_train_steps={steps}"
      )
  if config.optimizer == "schedule_free_adamw" and not hparams.beta1:
    refuse(
      "config.hparams.beta1 is 0, and config.optimizer='schedule_free_adamw'"
      " divides by it; use a value such as 0.9"
    )
  if batch % config.microbatches:
    refuse(
      f"config.batch_size {batch} is not divisible by config.microbatches"
      f" {config.microbatches}; use {_multiples(batch, config.microbatches)}"
    )
  microbatch = batch // config.microbatches
  if model.norm == "batch" and config.microbatches > 1:
    refuse(
      "config.model.norm='batch' needs the whole batch at once, and"
      f" config.microbatches is {config.microbatches}; use norm 'ghost' with a"
      f" virtual_batch_size that divides {microbatch}"
    )
  if model.norm == "ghost":
    virtual = model.virtual_batch_size
    if virtual > batch:
      refuse(
        f"config.model.virtual_batch_size is {virtual}, larger than"
        f" config.batch_size {batch}"
      )
    if microbatch % virtual:
      what = "microbatch" if config.microbatches > 1 else "batch"
      refuse(
        f"a {what} of {microbatch} examples is not divisible by"
        f" config.model.virtual_batch_size={virtual}; use"
        f" {_divisors(microbatch, virtual)}"
      )
  if model.name == "resnet" and model.depth not in parts.RESNET_DEPTHS:
    refuse(
      f"config.model.depth is {model.depth}; the depth of a resnet is one of"
      f" {', '.join(map(str, parts.RESNET_DEPTHS))}"
    )
  if model.name == "wide_resnet" and (model.depth < 10 or model.depth % 6 != 4):
    refuse(
      f"config.model.depth is {model.depth}; the depth of a wide_resnet is"
      " 6n + 4, such as 10, 16, 22 or 28"
    )
  features = 16 if model.name == "wide_resnet" else model.width
  if model.norm == "group" and features % model.num_groups:
    refuse(
      f"config.model.num_groups {model.num_groups} does not divide the"
      f" {features} features of the first layer; use"
      f" {_divisors(features, model.num_groups)}"
    )
  if model.name in parts.TRANSFORMERS:
    _validate_transformer(model)
  _validate_dataset(config.dataset, is_text)
  _validate_keep_steps(config.keep_steps)
  if len(config.dataset.shape) != 3 or not all(
    type(size) is int and 1 <= size <= keys.LARGEST
    for size in config.dataset.shape
  ):
    refuse(
      f"config.dataset.shape is {shown(tuple(config.dataset.shape))}; expected"
      " (height, width, channels)"
    )
  for axis in parts.MESH_AXES:
    size = config.mesh[axis]
    if size != -1 and not 1 <= size <= keys.LARGEST:
      refuse(
        f"config.mesh.{axis} is {shown(size)}; expected -1 (all remaining"
        " devices) or a number of devices"
      )
  _validate_rules(config.mesh.rules)
  _validate_weights(config)


def _validate_task(config):
  name = task_name(config)
  is_own = own.is_own("task.name", name)
  if not is_own:
    one_of("config.task.name is", name, (*metric.TASKS, "FILE.py:NAME"))
  is_text = config.model.name in parts.TEXT_MODELS
  of_user = own.is_own("model.name", config.model.name)
  if not is_own and not of_user and is_text != (name == "next_token"):
    raise jaxplay.UserError(
      f"config.task.name is {name!r}, but config.model.name is"
      f" {config.model.name!r}; of the built-in tasks "
      + (
        "a language model can only learn 'next_token'"
        if is_text
        else "'next_token' requires a language model, 'lm'"
      )
    )
  of_task = metric.of_task(name)
  known = (*of_task.logged, *of_task.more)
  for asked in config.task.metrics:
    if is_own:
      raise jaxplay.UserError(
        f"config.task.metrics names {shown(asked)}, but the task {name!r}"
        " defines its metrics itself"
      )
    one_of("config.task.metrics names", asked, known)
  objectives = _of_all_weights(config, known)
  of_weights = {objective.split("/")[0] for objective in objectives}
  split, _, chosen = config.objective.partition("/")
  # The metrics of a user's task are known once it has run.
  if is_own and split in of_weights and re.fullmatch("[a-z0-9_]+", chosen):
    return
  if config.objective not in objectives:
    usual = _of_all_weights(config, of_task.logged)
    raise jaxplay.UserError(
      f"config.objective is {shown(config.objective)}; with"
      f" config.averages={tuple(config.averages)!r} it can be"
      f" {', '.join(map(repr, usual))}"
      + (f", or {', '.join(of_task.more)} of these" if of_task.more else "")
    )


def _validate_transformer(model):
  if model.norm not in ("rms", "layer"):
    raise jaxplay.UserError(
      f"config.model.norm is {model.norm!r}; a transformer requires 'rms' or"
      " 'layer'"
    )
  if model.width % model.heads:
    raise jaxplay.UserError(
      f"config.model.heads {model.heads} does not divide config.model.width"
      f" {model.width}; use {_divisors(model.width, model.heads)}"
    )
  if model.name == "lm" and model.width // model.heads % 2:
    raise jaxplay.UserError(
      f"config.model.width {model.width} over {model.heads} heads is"
      f" {model.width // model.heads} features per head; rotary positions"
      " require an even number"
    )


def _validate_dataset(dataset, is_text):
  named_by = {dataset.name: "name"}
  mixed = [name for name, _ in _mixed(dataset.mixtures)]
  for name in mixed:
    named_by.setdefault(name, "mixtures")
  for name, key in named_by.items():
    both = name.startswith("tfds:") or (key == "name" and is_own_data(name))
    if not both and is_text != bool(re.match("pythonlib$|text:.", name)):
      raise jaxplay.UserError(
        f"config.dataset.{key} names {shown(name)}; config.model.name requires"
        + (
          " text: 'pythonlib', 'text:<path or glob>' or 'tfds:<name>'"
          if is_text
          else " other data: 'digits', 'synthetic', 'tfds:<name>', your own"
          f" files ({', '.join(f'{kind}:' for kind in parts.OWN_FILES)} and a"
          " path) or your own function, FILE.py:NAME"
        )
      )
  if dataset.fold_validation and mixed and dataset.name not in mixed:
    raise jaxplay.UserError(
      f"config.dataset.fold_validation is True, and config.dataset.mixtures do"
      f" not train on {dataset.name!r}, whose validation split it is; name"
      " another config.dataset.name, or leave fold_validation out"
    )
  if is_text and dataset.augment != "none":
    raise jaxplay.UserError(
      f"config.dataset.augment is {dataset.augment!r}, an augmentation of"
      " images; text requires 'none'"
    )
  height, width = dataset.shape[:1], dataset.shape[1:2]
  square = dataset.name == "synthetic" and height == width
  kind = dataset.name.partition(":")[0]
  sized = kind in ("tfds", "folder", "hf") and dataset.image_size
  if dataset.augment == "resized_crop" and not (square or sized):
    raise jaxplay.UserError(
      "config.dataset.augment='resized_crop' requires tfds:<name>, or"
      " folder: or hf: and a path, with config.dataset.image_size, the size of"
      " the crops, or square 'synthetic' images"
    )
  for key, kinds in (
    ("image_size", ("folder", "hf", "tfds")),
    ("standardize", parts.TABLES),
    ("inputs", (*parts.TABLES, "tfds", "hf")),
    ("targets", (*parts.TABLES, "tfds", "hf")),
  ):
    value = dataset[key]
    if key == "image_size" and not is_own_data(dataset.name):
      continue  # Sets of a fixed size ignore it.
    if value and (is_text or kind not in kinds):
      raise jaxplay.UserError(
        f"config.dataset.{key} is {shown(value)}, which requires a data set of"
        f" {', '.join(f'{kind}:' for kind in kinds)} and config.dataset.name is"
        f" {dataset.name!r}; leave it out"
      )
    if type(value) is tuple and not all(type(n) in (str, int) for n in value):
      raise jaxplay.UserError(
        f"config.dataset.{key} is {shown(value)}; expected names of columns or"
        " features"
      )
  if not dataset.name.startswith("text:") and (
    dataset.valid_files or dataset.test_files
  ):
    raise jaxplay.UserError(
      "config.dataset.valid_files and test_files require a data set 'text:...',"
      f" but config.dataset.name is {dataset.name!r}"
    )


def is_own_data(name: str) -> bool:
  """Whether a data set is in files of the user, or from a function of his.

  Args:
    name: config.dataset.name: one of `OWN_FILES` and a path, or FILE.py:NAME or
      package.module:NAME.
  """
  kind, _, rest = name.partition(":")
  if kind in parts.OWN_FILES:
    return bool(rest)
  return own.is_own("dataset.name", name)


def _mixed(mixtures):
  """(name, weight) of all phases of a mixture, checked."""
  weights, last = [], -1
  for phase in mixtures:
    if not _is_phase(phase):
      raise jaxplay.UserError(
        f"config.dataset.mixtures is {shown(mixtures)}; expected ((step,"
        " ((name, weight), ...)), ...), such as ((0, (('pythonlib', 1.0),)),)"
      )
    step, of_phase = phase
    names = [name for name, _ in of_phase]
    if len({*names}) < len(names):
      raise jaxplay.UserError(
        f"config.dataset.mixtures names a source twice at step {step}: {names}"
      )
    if last < 0 and step:
      raise jaxplay.UserError(
        f"config.dataset.mixtures begins at step {step}; the first must be 0"
      )
    if step <= last:
      raise jaxplay.UserError(
        f"config.dataset.mixtures: step {step} comes after {last}; steps must"
        " increase"
      )
    last = step
    weights += of_phase
  return weights


def _is_phase(phase):
  """Whether it is (step, ((name, weight), ...))."""
  match phase:
    case (int(step), [_, *_] as of_phase) if not isinstance(step, bool):
      return all(map(_is_weight, of_phase))
  return False


def _is_weight(pair):
  match pair:
    case (str(), int() | float() as weight) if not isinstance(weight, bool):
      return 0 < weight < math.inf
  return False


def _validate_keep_steps(steps):
  for step in steps:
    is_step = type(step) is int and 1 <= step <= keys.LARGEST
    if step != "geometric" and not is_step:
      raise jaxplay.UserError(
        f"config.keep_steps holds {shown(step)}; it can hold steps, from 1 to"
        f" {keys.LARGEST}, and 'geometric'"
      )


def _validate_mesh(config, num_devices, trials):
  sizes = mesh_sizes(config.mesh, num_devices, trials=trials)
  split = sizes["replica"] * sizes["data"] * sizes["fsdp"]
  size, unit = config.batch_size, config.microbatches
  if size % (split * unit):
    in_parts = f" in {unit} microbatches" if unit > 1 else ""
    raise jaxplay.UserError(
      f"config.batch_size {size}{in_parts} is not divisible by {split} devices;"
      f" use {_multiples(size, split * unit)}"
    )


def _validate_rules(rules):
  for rule in rules:
    if rule in parts.MESH_PRESETS:
      continue
    if not isinstance(rule, tuple | list) or len(rule) != 2:
      raise jaxplay.UserError(
        f"config.mesh.rules holds {shown(rule)}; each rule is a pair (path"
        " pattern, partition), or one of"
        f" {', '.join(map(repr, parts.MESH_PRESETS))}"
      )
    pattern, partition = rule
    _check_pattern("mesh.rules", pattern)
    if partition == "fsdp":
      continue
    is_list = isinstance(partition, tuple | list)
    named = [a for a in partition if a is not None] if is_list else [partition]
    if any(
      axis not in parts.MESH_AXES or named.count(axis) > 1 for axis in named
    ):
      raise jaxplay.UserError(
        f"config.mesh.rules: {shown(partition)} is not a partition; it can be"
        " 'fsdp', or for each dimension None or one of"
        f" {', '.join(map(repr, parts.MESH_AXES))}, each axis once"
      )


def _validate_weights(config):
  for pattern in config.frozen:
    _check_pattern("frozen", pattern)
  for pair in config.init_map:
    match pair:
      case (pattern, str()):
        _check_pattern("init_map", pattern)
      case _:
        raise jaxplay.UserError(
          f"config.init_map holds {shown(pair)}; expected pairs (pattern,"
          " replacement), such as ('Dense_2/.*', '')"
        )
  if config.init_map and not config.init_from:
    raise jaxplay.UserError(
      f"config.init_map={shown(config.init_map)} has no effect with"
      " config.init_from=''; leave it out, or set config.init_from"
    )


def _check_pattern(key, pattern):
  try:
    re.compile(pattern)
  except (re.error, TypeError, RecursionError, OverflowError) as error:
    raise jaxplay.UserError(
      f"config.{key}: {shown(pattern)} is not a pattern ({error})"
    ) from None


def _multiples(number: int, unit: int) -> str:
  """The multiples of unit on both sides of number."""
  below, above = number // unit * unit, -(-number // unit) * unit
  return f"{below} or {above}" if below else str(above)


def _divisors(number: int, near: int) -> str:
  """The divisors of number on both sides of near."""
  small = [d for d in range(1, math.isqrt(number) + 1) if number % d == 0]
  divisors = sorted({*small, *(number // d for d in small)})
  below = [str(d) for d in divisors if d < near][-1:]
  above = [str(d) for d in divisors if d > near][:1]
  return " or ".join(below + above)
