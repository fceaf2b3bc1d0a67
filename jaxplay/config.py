"""Configs: every key with its default, loading, overriding, checking.

An experiment file has `get_config()`, which edits `base()` and returns it; it
may take one string, given on the command line as `--config=FILE:STRING`. Every
mistake raises `jaxplay.UserError` with one sentence: the value, the nearest
valid name, and the mend.
"""

import ast
import contextlib
import difflib
import functools
import inspect
import json
import math
import os
import re
import reprlib
import struct
import sys
import traceback
import types
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

import jaxplay
from jaxplay import userfiles


def base() -> ml_collections.ConfigDict:
  """Every key, its default, and what it means."""
  config = ml_collections.ConfigDict()

  # The run.
  config.seed = 0  # initialization, order of examples, augmentation, dropout
  config.max_train_steps = 1000  # updates of the parameters
  config.batch_size = 128  # examples per update, over all devices and hosts
  config.microbatches = 1  # sequential parts of a batch: saves memory, not time
  config.steps_per_call = 0  # steps per dispatch, data on device; 0: chosen
  config.log_every = 50  # steps between lines of training metrics
  config.eval_every = 100  # steps between evaluations
  config.eval_batch_size = 512  # at least batch_size; padded for the devices
  config.checkpoint_every = 500  # steps between checkpoints for resuming
  config.keep_best = 1  # best checkpoints to keep, beside the latest two
  config.keep_steps = ("geometric",)  # and those after these steps, to branch
  # from; "geometric": of a constant rate, after 100, 200, 400, 800, ...
  config.objective = ""  # metric to minimize; empty: valid/loss of text, else
  # valid/error_rate
  config.report_test = False  # look at the test set, once, at the end
  config.num_predictions = (
    64  # fixed examples whose predictions are saved; 0: none
  )
  config.export = True  # write the best checkpoint's forward function

  # Structure: names decide what is compiled.
  config.optimizer = "nesterov"  # one of OPTIMIZERS
  config.schedule = "constant"  # one of SCHEDULES, each after a warmup
  config.cooldown_shape = "1-sqrt"  # of schedule wsd; one of COOLDOWN_SHAPES
  config.clipping = False  # clip the global gradient norm at hparams.clip_norm
  config.averages = ()  # weight averages to evaluate beside: "ema", "window"
  config.weights = "raw"  # what valid/ and test/ are of; or one of averages

  # Numbers of the training step, traced: changing one compiles nothing.
  config.hparams = hparams = ml_collections.ConfigDict()
  hparams.learning_rate = 0.1  # the base rate that the schedule multiplies
  hparams.momentum = 0.9  # gamma of momentum, nesterov, rmsprop
  hparams.rho = 0.9  # decay of rmsprop's second moment
  hparams.beta1 = 0.9  # adam, nadam, adamw, lion, schedule_free_adamw
  hparams.beta2 = 0.999  # as beta1
  hparams.epsilon = 1e-8  # rmsprop, adam, nadam, adamw, schedule_free_adamw
  hparams.weight_decay = (
    0.0  # decoupled, times the rate; not biases, norm scales
  )
  hparams.clip_norm = 1.0  # largest L2 norm of the gradient, if clipping
  hparams.label_smoothing = 0.0  # mass spread evenly over the classes
  hparams.z_loss = 0.0  # lm: weight of the squared log-normalizer in the loss
  hparams.dropout_rate = 0.0  # probability of zeroing, if model.dropout
  hparams.norm_momentum = 0.9  # decay of batch norm's evaluation averages
  hparams.warmup_steps = 0  # steps of linear increase of the rate from zero
  hparams.final_factor = (
    0.0  # rate after the decay, as a share of the base rate
  )
  hparams.decay_timescale = 1000  # rsqrt: steps until the rate starts to fall
  hparams.cooldown_fraction = 0.2  # wsd: share of all steps at the end
  hparams.ema_decay = 0.999  # averages "ema": weight of the past, per step
  hparams.window_steps = 100  # averages "window": steps in a uniform window
  hparams.window_stride = 1  # averages "window": every so-many-th step enters

  config.dataset = dataset = ml_collections.ConfigDict()
  dataset.name = "digits"  # digits, synthetic, or tfds:<name>; for an lm
  # pythonlib, text:<path, folder or glob>, or tfds:<name>
  dataset.augment = "none"  # one of AUGMENTATIONS, on training images
  dataset.augment_pixels = 4  # largest shift
  dataset.center_share = 1.0  # tfds, resized: share of the shorter side that is
  # seen where nothing is cropped at random
  dataset.device_bytes = 2**28  # sets up to this size live on the device
  dataset.workers = 0  # reader processes for larger sets; 0: threads
  dataset.data_dir = ""  # tfds: where it is prepared; text: where its tokens
  # are kept; empty: TFDS's default, and the user's cache
  dataset.train_split = "train"  # tfds: split strings
  dataset.valid_split = "validation"
  dataset.test_split = "test"
  dataset.image_size = 0  # tfds: resize to this height and width; 0: as stored
  dataset.num_train = 10_000  # synthetic: examples of each split
  dataset.num_valid = 1_000
  dataset.num_test = 1_000
  dataset.num_classes = 10  # synthetic, and what is planned without its data
  dataset.shape = (32, 32, 3)  # synthetic: height, width, channels
  dataset.difficulty = 1.0  # synthetic: noise against signal; 0: no noise
  dataset.sequence_length = 256  # text: tokens that a row asks for
  dataset.tokenizer = "bytes"  # text: or the path of a tokenizers JSON file
  dataset.vocab_size = 0  # text: different tokens of the model, no fewer than
  # the tokenizer's, such as a multiple of 128; 0: the tokenizer's
  dataset.valid_files = ""  # text: path or glob; empty: 2 % of the text
  dataset.test_files = ""  # text: as valid_files
  dataset.mixtures = ()  # text: ((step, ((name, weight), ...)), ...), what is
  # trained on from each step on; empty: dataset.name alone

  config.model = model = ml_collections.ConfigDict()
  model.name = "mlp"  # one of MODELS
  model.depth = 2  # mlp: hidden layers; resnet: 10-101; wide_resnet: 6n + 4;
  # vit, lm: blocks
  model.width = 128  # mlp, vit, lm: features; resnet: of stage 1; wide_resnet:
  # factor
  model.heads = 4  # vit, lm: attention heads, which divide the width
  model.mlp_width = 0  # vit, lm: hidden features; 0: 8/3 of the width
  model.qk_norm = False  # vit, lm: RMS-normalize queries and keys
  model.tied_embedding = False  # lm: the output layer is the embedding
  model.rotary_base = 10_000.0  # lm: of the wavelengths of positions
  model.patch_size = 4  # vit: height and width of a patch
  model.remat = "none"  # vit, lm: what of a block is computed again in the
  # backward pass: "none", "dots" (all but products of matrices) or "full"
  model.strides = (1, 2, 2)  # wide_resnet: of the first block of each stage
  model.stem = "small"  # resnet: "small" (3x3) or "imagenet" (7x7, pooling)
  model.norm = "none"  # one of NORMS
  model.virtual_batch_size = 64  # norm ghost: examples per group
  model.num_groups = 8  # norm group: groups of features
  model.zero_init_residual = False  # all but mlp: residual branches start at 0
  model.dropout = False  # dropout layers, at hparams.dropout_rate
  model.dtype = "float32"  # of the computation: "float32" or "bfloat16"

  config.mesh = mesh = ml_collections.ConfigDict()
  # The sizes of its axes, of which one may be -1: all devices that are left. In
  # a population that is 1, and what is left trains other trials.
  mesh.replica = 1  # batches are split, over slices that are connected slowly
  mesh.data = -1  # batches are split
  mesh.fsdp = 1  # batches and large parameters are split
  mesh.tensor = 1  # what rules name is split, such as heads
  mesh.rules = ("fsdp",)  # "data", "fsdp", "fsdp+tensor", or pairs (path
  # pattern, partition), the first match of which holds; training/sharding.py

  return config.lock()


MODELS = ("mlp", "resnet", "wide_resnet", "vit", "lm")
TRANSFORMERS = ("vit", "lm")
TEXT_MODELS = ("lm",)
REMAT = ("none", "dots", "full")
NORMS = ("batch", "ghost", "layer", "rms", "group", "none")
OPTIMIZERS = (
  "sgd",
  "momentum",
  "nesterov",
  "rmsprop",
  "adam",
  "nadam",
  "adamw",
  "lion",
  "schedule_free_adamw",
)
SCHEDULES = ("constant", "linear", "cosine", "rsqrt", "wsd")
COOLDOWN_SHAPES = ("1-sqrt", "linear", "cosine", "square", "mirror_cosine")
MOVES = ("shift", "crop_flip")
AUGMENTATIONS = ("none", *MOVES, "resized_crop")
AVERAGES = ("ema", "window")
MESH_AXES = ("replica", "data", "fsdp", "tensor")
MESH_PRESETS = ("data", "fsdp", "fsdp+tensor")
RESNET_DEPTHS = (10, 18, 34, 50, 101)

_CHOICES = {
  "optimizer": OPTIMIZERS,
  "schedule": SCHEDULES,
  "cooldown_shape": COOLDOWN_SHAPES,
  "weights": ("raw", *AVERAGES),
  "dataset.augment": AUGMENTATIONS,
  "model.name": MODELS,
  "model.norm": NORMS,
  "model.stem": ("small", "imagenet"),
  "model.remat": REMAT,
  "model.dtype": ("float32", "bfloat16"),
}

# Intervals in the usual notation: [ and ] belong to it, ( and ) do not. The
# integers that a step takes are of 32 bits.
_RANGES = {
  "seed": "[0, 4294967295]",
  "max_train_steps": "[1, 2147483647]",
  "batch_size": "[1, 2147483647]",
  "microbatches": "[1, 2147483647]",
  "steps_per_call": "[0, 2147483647]",
  "log_every": "[1, 2147483647]",
  "eval_every": "[1, 2147483647]",
  "eval_batch_size": "[1, 2147483647]",
  "checkpoint_every": "[1, 2147483647]",
  "keep_best": "[1, 2147483647]",
  "num_predictions": "[0, 2147483647]",
  "hparams.learning_rate": "(0, inf)",
  "hparams.momentum": "[0, 1)",
  "hparams.rho": "[0, 1)",
  "hparams.beta1": "[0, 1)",
  "hparams.beta2": "[0, 1)",
  "hparams.epsilon": "(0, inf)",
  "hparams.weight_decay": "[0, inf)",
  "hparams.clip_norm": "(0, inf)",
  "hparams.label_smoothing": "[0, 1)",
  "hparams.z_loss": "[0, inf)",
  "hparams.dropout_rate": "[0, 1)",
  "hparams.norm_momentum": "[0, 1)",
  "hparams.warmup_steps": "[0, 2147483647]",
  "hparams.final_factor": "[0, 1]",
  "hparams.decay_timescale": "[1, 2147483647]",
  "hparams.cooldown_fraction": "[0, 1]",
  "hparams.ema_decay": "[0, 1)",
  "hparams.window_steps": "[1, 2147483647]",
  "hparams.window_stride": "[1, 2147483647]",
  "dataset.augment_pixels": "[0, 65535]",
  "dataset.center_share": "(0, 1]",
  "dataset.device_bytes": "[0, inf)",
  "dataset.workers": "[0, 1024]",
  "dataset.image_size": "[0, 2147483647]",
  "dataset.num_train": "[1, 2147483647]",
  "dataset.num_valid": "[1, 2147483647]",
  "dataset.num_test": "[1, 2147483647]",
  "dataset.num_classes": "[2, 2147483647]",
  "dataset.difficulty": "[0, inf)",
  "dataset.sequence_length": "[1, 2147483647]",
  "dataset.vocab_size": "[0, 2147483647]",
  "model.depth": "[1, 2147483647]",
  "model.width": "[1, 2147483647]",
  "model.heads": "[1, 2147483647]",
  "model.mlp_width": "[0, 2147483647]",
  "model.rotary_base": "(1, inf)",
  "model.patch_size": "[1, 2147483647]",
  "model.virtual_batch_size": "[1, 2147483647]",
  "model.num_groups": "[1, 2147483647]",
}

# Keys of one optimizer, schedule, ...: setting one elsewhere does nothing.
_USED_BY = {
  "hparams.momentum": ("optimizer", ("momentum", "nesterov", "rmsprop")),
  "hparams.rho": ("optimizer", ("rmsprop",)),
  "hparams.beta1": ("optimizer", OPTIMIZERS[4:]),
  "hparams.beta2": ("optimizer", OPTIMIZERS[4:]),
  "hparams.epsilon": (
    "optimizer",
    ("rmsprop", "adam", "nadam", "adamw", "schedule_free_adamw"),
  ),
  "hparams.clip_norm": ("clipping", (True,)),
  "hparams.dropout_rate": ("model.dropout", (True,)),
  "hparams.norm_momentum": ("model.norm", ("batch", "ghost")),
  "hparams.final_factor": ("schedule", ("linear", "cosine", "wsd")),
  "hparams.decay_timescale": ("schedule", ("rsqrt",)),
  "hparams.cooldown_fraction": ("schedule", ("wsd",)),
  "hparams.ema_decay": ("averages", ("ema",)),
  "hparams.window_steps": ("averages", ("window",)),
  "hparams.window_stride": ("averages", ("window",)),
  "hparams.z_loss": ("model.name", TEXT_MODELS),
  "cooldown_shape": ("schedule", ("wsd",)),
  "model.virtual_batch_size": ("model.norm", ("ghost",)),
  "model.num_groups": ("model.norm", ("group",)),
  "model.stem": ("model.name", ("resnet",)),
  "model.strides": ("model.name", ("wide_resnet",)),
  "model.zero_init_residual": (
    "model.name",
    ("resnet", "wide_resnet", *TRANSFORMERS),
  ),
  **{
    f"model.{key}": ("model.name", TRANSFORMERS)
    for key in ("heads", "mlp_width", "qk_norm", "remat")
  },
  "model.tied_embedding": ("model.name", TEXT_MODELS),
  "model.rotary_base": ("model.name", TEXT_MODELS),
  "model.patch_size": ("model.name", ("vit",)),
  **{
    f"dataset.{key}": ("model.name", TEXT_MODELS)
    for key in (
      "sequence_length",
      "tokenizer",
      "vocab_size",
      "valid_files",
      "test_files",
    )
  },
  "dataset.mixtures": ("model.name", TEXT_MODELS),
  "dataset.augment_pixels": ("dataset.augment", MOVES),
}

# Features, and the keys that turn each off. What then has no effect, such as a
# rate of dropout, falls back to its default: see `without`.
_OFF = {
  "augmentation": {"dataset.augment": "none"},
  "averages": {"averages": (), "weights": "raw"},
  "clipping": {"clipping": False},
  "decay": {"schedule": "constant"},
  "dropout": {"model.dropout": False},
  "label_smoothing": {"hparams.label_smoothing": 0.0},
  "warmup": {"hparams.warmup_steps": 0},
  "weight_decay": {"hparams.weight_decay": 0.0},
  "z_loss": {"hparams.z_loss": 0.0},
}

# Keys of which a branch of a run may have another value: the others say what is
# trained, and on what.
BRANCH_KEYS = (
  "schedule",
  "cooldown_shape",
  "max_train_steps",
  "hparams.",
  "dataset.mixtures",
  "weights",
  "objective",
  "keep_",
  "eval_",
  "checkpoint_every",
  "num_predictions",
)

# What a step takes as arguments: another value compiles nothing anew.
TRACED_KEYS = ("hparams", "seed", "schedule", "cooldown_shape")

_LARGEST = 2**31 - 1  # whole number of the step's 32 bits

# Keys that may differ when a run resumes: where and how it is computed, and
# what is looked at afterwards, but not what is computed.
RESUMABLE_KEYS = (
  "mesh.",
  "report_test",
  "export",
  "steps_per_call",
  "keep_steps",
  "dataset.workers",
  "dataset.data_dir",
  "dataset.device_bytes",
)


def load(
  spec: str | Mapping[str, Any], overrides: Mapping[str, str] = {}
) -> ml_collections.ConfigDict:
  """The config of an experiment file, with overrides.

  Args:
    spec: Path of a Python file with `get_config`, or `PATH:STRING` to call
      `get_config(STRING)`, or the config.json of a run, or what that holds, or
      the study.json of a study, for its base config.
    overrides: Dotted key to the text of a value.

  Raises:
    jaxplay.UserError: No such file, key or type, or an override that has no
      effect.
  """
  config = from_json(spec) if isinstance(spec, Mapping) else _load(spec)
  for key, value in parsed(overrides, config).items():
    override(config, key, value)
  check_effect(config, overrides)
  return config


def parsed(
  overrides: Mapping[str, str], config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """Values from texts of the command line, for `override`."""
  flat = flatten(config)
  return {
    # A text is taken as it is written: a folder may be called 007.
    key: text if isinstance(flat.get(key), str) else _parse(text)
    for key, text in overrides.items()
  }


def _load(spec):
  path, _, argument = spec.partition(":")
  if os.path.isfile(spec):  # Its folder may be called 12:30.
    path, argument = spec, ""
  if path.endswith(".json"):
    if argument:
      raise jaxplay.UserError(
        f"{path!r} takes no argument, but {argument!r} was given"
      )
    return _load_json(path)
  config = from_user_file(
    path, "get_config", ml_collections.ConfigDict, argument
  )
  _check_keys(config)
  if isinstance(config, ml_collections.FrozenConfigDict):
    config = ml_collections.ConfigDict(config)
  return config


def _load_json(path):
  _refuse_no_file(path, "config")
  try:
    with open(path, encoding="utf-8") as file:
      nested = json.load(file)
    userfiles.note(path)
  except (OSError, ValueError, RecursionError) as error:
    raise jaxplay.UserError(f"{path!r} is not JSON: {error}") from None
  if not isinstance(nested, Mapping):
    raise jaxplay.UserError(
      f"{path!r} holds {shown(nested)}; the config.json of a run holds an"
      " object, {...}"
    )
  if isinstance(nested.get("config"), Mapping):
    nested = nested["config"]  # Of a study.json.
  return from_json(nested, path)


def from_user_file(path: str, name: str, kind: type, argument: str = "") -> Any:
  """What the function `name` of a Python file returns, of type `kind`.

  Args:
    path: Of the file.
    name: "get_config", "get_study" or "get_ladder".
    kind: The type that it has to return.
    argument: What it is called with; empty: nothing.

  Raises:
    jaxplay.UserError: It does not run, or returns something else.
  """
  what = name.removeprefix("get_")
  _refuse_no_file(path, what)
  with userfiles.importable(path):
    function = _run(
      lambda: userfiles.run(path).get(name),
      path,
      f"{what} file {path!r} does not run",
    )
    if not callable(function):
      raise jaxplay.UserError(f"{what} file {path!r} defines no {name}()")
    made = _run(
      lambda: _call(function, f"{name}() in {path!r}", argument),
      path,
      f"{name}() in {path!r} fails",
    )
  if not isinstance(made, kind):
    start = "; start from jaxplay.config.base() and return it"
    raise jaxplay.UserError(
      f"{name}() in {path!r} returns {type(made).__name__}, not a"
      f" {kind.__module__.rpartition('.')[2]}.{kind.__name__}"
      f"{start * (name == 'get_config')}"
    )
  return made


def _refuse_no_file(path, what):
  if os.path.isdir(path):
    raise jaxplay.UserError(f"the {what} file {path!r} is a folder")
  if not os.path.isfile(path):
    raise jaxplay.UserError(f"there is no {what} file {path!r}")


def _run(act, path, what):
  """What `act` returns, which runs the user's code in the file `path`."""
  try:
    # Standard output may be our result, as JSON.
    with contextlib.redirect_stdout(sys.stderr):
      return act()
  except (jaxplay.UserError, KeyboardInterrupt):
    raise
  # Whatever it does, SystemExit included: it is the user's own code.
  except BaseException as error:
    raise jaxplay.UserError(f"{what}: {describe(error, path)}") from error


def _call(function, what, argument):
  """Calls a function of the user's with an argument, or without."""
  given = (argument,) if argument else ()
  try:
    inspect.signature(function).bind(*given)
  except ValueError:  # A built-in one has no signature.
    pass
  except TypeError as error:
    raise jaxplay.UserError(
      f"{what} takes no argument, but {argument!r} was given"
      if argument
      else f"{what} is to be called without arguments or with the ARG of"
      f" FILE:ARG, and none was given: TypeError: {error}"
    ) from None
  return function(*given)


def _leaves(nested, groups, prefix=""):
  """As `flatten`, down to the depth of `base()`.

  What others made may be nested without end, or contain itself.
  """
  for key in nested:
    name = f"{prefix}{key}"
    try:
      value = nested[key]
    except ml_collections.config_dict.RequiredValueError:
      raise jaxplay.UserError(
        f"config.{name} is a placeholder that get_config() gives no value"
      ) from None
    if name in groups and isinstance(
      value, Mapping | ml_collections.ConfigDict
    ):
      yield from _leaves(value, groups, f"{name}.")
    else:
      yield name, value


@functools.cache
def defaults() -> Mapping[str, Any]:
  """Dotted keys and values of `base()`, made once; not to be changed."""
  return types.MappingProxyType(flatten(base()))


def _groups():
  """The names of the groups of `base()`, and none of the whole."""
  return {name.rpartition(".")[0] for name in defaults()} - {""}


def _check_keys(config):
  """Refuses a config that has not the keys and types of `base()`."""
  found = dict(_leaves(config, _groups()))
  for key, value in found.items():
    typed(key, value, defaults())
  _refuse_missing(found)


def _refuse_missing(flat):
  for key in sorted(defaults().keys() - flat.keys()):
    raise jaxplay.UserError(
      f"config.{key} is missing; start from config.base()"
    )


def beside(path: str, spec: str) -> str:
  """FILE[:ARG] as it is seen from `path`, or from the current folder."""
  file, colon, argument = spec.partition(":")
  near = os.path.join(os.path.dirname(path), file)
  if os.path.isfile(near):
    return os.path.relpath(near) + colon + argument
  return spec


def absolute(spec: str) -> str:
  """FILE[:ARG] as it is seen from any folder."""
  file, colon, argument = spec.partition(":")
  if os.path.isfile(spec):  # As `load` has it.
    file, colon, argument = spec, "", ""
  return os.path.abspath(file) + colon + argument


def override(config: ml_collections.ConfigDict, key: str, value: Any) -> None:
  """Sets the dotted `key` of `config` to a value of the default's type.

  Raises:
    jaxplay.UserError: There is no such key, or the type is wrong.
  """
  _set(config, key, typed(key, value, flatten(config)))


def _set(config, key, value):
  *groups, leaf = key.split(".")
  for group in groups:
    config = config[group]
  with config.unlocked():
    config[leaf] = value


def typed(key: str, value: Any, flat: Mapping[str, Any]) -> Any:
  """`value` as the type that the dotted `key` has in the `flat` config.

  Raises:
    jaxplay.UserError: There is no such key, or the type is wrong.
  """
  if key not in flat:
    if any(name.startswith(key + ".") for name in flat):
      raise jaxplay.UserError(
        f"config.{key} is a group of keys; set one of them, such as"
        f" config.{next(n for n in flat if n.startswith(key + '.'))}"
      )
    raise jaxplay.UserError(f"there is no config.{key}; {nearest(key, flat)}")
  old = flat[key]
  if isinstance(old, str) and isinstance(value, int | float | os.PathLike):
    value = str(value)
  if isinstance(old, float) and type(value) is int:
    value = _as_float(value)
  if isinstance(old, tuple) and isinstance(value, (str, int, float)):
    value = (value,)
  if isinstance(old, tuple) and isinstance(value, list):
    value = _as_tuple(value)
  if type(value) is not type(old):
    raise jaxplay.UserError(
      f"config.{key} is {shown(value)}, of type {type(value).__name__}; it must"
      f" be {type(old).__name__}, like {old!r}"
    )
  return value


def _as_float(value):
  try:
    return float(value)
  except OverflowError:
    return math.inf if value > 0 else -math.inf


def shown(value: Any) -> str:
  """`repr` of a value that others made, for a message: in a short line.

  It may be large, contain itself, or be a number of too many digits to print.
  """
  if isinstance(value, Mapping | ml_collections.ConfigDict):
    return "a group of keys"
  try:
    return _SHORT.repr(value)
  except ValueError:
    return "a number of thousands of digits"


_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlist = _SHORT.maxtuple = 8


def _parse(text: str) -> Any:
  """A Python literal, a comma list of them, or the text itself."""
  if text.lower() in ("true", "false"):
    return text.lower() == "true"
  try:
    with warnings.catch_warnings(action="ignore"):  # Of '\\d', a pattern.
      return ast.literal_eval(text)
  except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
    if "," in text:
      return tuple(_parse(part.strip()) for part in text.split(",") if part)
    return text


def nearest(key: str, names: Iterable[str]) -> str:
  """Where a misspelt key may have wanted to go: a question, or a pointer."""
  leaves = {name: name.rpartition(".")[2] for name in names}
  # By its last part, or hparams.foo would be close to all the hparams.
  close = difflib.get_close_matches(
    key.rpartition(".")[2], leaves.values(), 1, 0.7
  )
  if close:
    same = [name for name, leaf in leaves.items() if leaf == close[0]]
    best = difflib.get_close_matches(key, same, 1, 0.0)[0]
    return f"did you mean config.{best}?"
  return "jaxplay/config.py lists every key"


def describe(error: BaseException, path: str) -> str:
  """What a user's code in `path` did wrong, and on which line."""
  lines = [
    f"line {frame.lineno}: "
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == path
  ]
  where = lines[-1] if lines else ""
  # Of an error that cannot even be printed, `str` would raise.
  name = type(error).__name__
  text = str(traceback.TracebackException.from_exception(error)).strip()
  # A locked ConfigDict's own words hold the whole config.
  if unknown := re.search(r'Key "(.*?)" does not exist', text):
    hint = nearest(unknown[1], defaults())
    return f"{where}there is no key {unknown[1]!r}; {hint}"
  if isinstance(error, SystemExit):
    return f"{where}it ends the program ({name}: {text})"
  return f"{where}{name}: {text.partition(chr(10))[0]}"


def with_batch_size(
  config: ml_collections.ConfigDict, size: int
) -> ml_collections.ConfigDict:
  """A copy with another batch size, and evaluation no smaller than it."""
  config = config.copy_and_resolve_references()
  override(config, "batch_size", size)
  override(config, "eval_batch_size", max(size, config.eval_batch_size))
  return config


def with_steps(flat: Mapping[str, Any], steps: int) -> dict[str, Any]:
  """The changes that give a config another length.

  A warmup keeps its steps where they fit, before the cooldown of wsd if there
  is one, and else its share. The phases of a mixture keep their shares.

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
    # Of phases that begin at one step the last counts.
    phases = {round(step * share): of for step, of in flat["dataset.mixtures"]}
    changes["dataset.mixtures"] = tuple(sorted(phases.items()))
  return {key: value for key, value in changes.items() if value != flat[key]}


def with_warmup(flat: Mapping[str, Any], steps: int) -> dict[str, Any]:
  """The changes that give a config another warmup, and the same length.

  The cooldown of wsd gives way, as every other decay does.

  Args:
    flat: The config's dotted keys and values, as from `flatten`.
    steps: The new `hparams.warmup_steps`, at most as many as the run has.
  """
  total = flat["max_train_steps"]
  changes: dict[str, Any] = {"hparams.warmup_steps": steps}
  if steps > longest_warmup(flat, total):
    changes["hparams.cooldown_fraction"] = (total - steps) / total
  return {key: value for key, value in changes.items() if value != flat[key]}


def longest_warmup(flat: Mapping[str, Any], steps: int) -> int:
  """The most steps of warmup that fit into so many, before a cooldown.

  Args:
    flat: The config's dotted keys and values, as from `flatten`.
    steps: Of the whole run.
  """
  if flat["schedule"] != "wsd":
    return steps
  return steps - cooldown_steps(steps, flat["hparams.cooldown_fraction"])


def other_seeds(seed: int, number: int) -> list[int]:
  """So many seeds besides `seed`: the next ones, and 0 after the last."""
  return [(seed + i) % 2**32 for i in range(1, number + 1)]


def flatten(config: Mapping, prefix: str = "") -> dict[str, Any]:
  """Dotted keys and leaf values, sorted. Takes nested dicts too."""
  flat = {}
  for key in sorted(config):
    value = config[key]
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      flat.update(flatten(value, f"{prefix}{key}."))
    else:
      flat[prefix + key] = value
  return flat


def as_json(config: ml_collections.ConfigDict) -> dict[str, Any]:
  """Nested plain dicts of JSON values; tuples become lists."""

  def plain(value):
    if isinstance(value, Mapping | ml_collections.ConfigDict):
      return {key: plain(value[key]) for key in sorted(value)}
    if isinstance(value, tuple | list):
      return [plain(item) for item in value]
    return value

  return plain(config)


def from_json(
  nested: Mapping[str, Any], path: str | os.PathLike = ""
) -> ml_collections.ConfigDict:
  """The config that `as_json` was given.

  Args:
    nested: What it returned.
    path: Of the file that holds it, for the sentence of an error.

  Raises:
    jaxplay.UserError: It has other keys or types than `base()`.
  """
  config = base()
  try:
    for key, value in _leaves(nested, _groups()):
      value = typed(key, _as_tuple(value), defaults())
      if value != defaults()[key]:
        _set(config, key, value)
  except jaxplay.UserError as error:
    where = f"{str(path)!r}: " if path else ""
    raise jaxplay.UserError(f"{where}{error}") from None
  return config


def _as_tuple(value):
  return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def changes(different: Mapping[str, tuple[Any, Any]], most: int = 4) -> str:
  """The first of some `differences` in words."""
  told = "; ".join(
    f"config.{key} was {old!r} and is now {new!r}"
    for key, (old, new) in list(different.items())[:most]
  )
  more = len(different) - most
  return told + (f" and {more} more" if more > 0 else "")


def differences(old: Mapping, new: Mapping) -> dict[str, tuple[Any, Any]]:
  """Keys whose change makes another run, with (old, new) values.

  Both are nested dicts as from `as_json`; `RESUMABLE_KEYS` do not count. A key
  that is younger than one of them has its default there.
  """
  default = as_json(defaults())
  old, new = default | flatten(old), default | flatten(new)
  return {
    key: (old.get(key), new.get(key))
    for key in sorted(old.keys() | new.keys())
    if old.get(key) != new.get(key) and not key.startswith(RESUMABLE_KEYS)
  }


def resumed(old: Mapping, new: Mapping) -> dict[str, Any]:
  """A nested config with the `RESUMABLE_KEYS` of another one."""
  kept = json.loads(json.dumps(old))
  for key, value in flatten(new).items():
    if key.startswith(RESUMABLE_KEYS):
      *groups, leaf = key.split(".")
      inner = kept
      for group in groups:
        inner = inner.setdefault(group, {})
      inner[leaf] = value
  return kept


def without_effect(config: ml_collections.ConfigDict) -> list[str]:
  """Sentences on keys set away from their default that nothing reads."""
  flat = flatten(config)
  return [without_effect_told(key, flat) for key in idle(flat)]


def idle(flat: Mapping[str, Any]) -> list[str]:
  """Keys set away from their default that nothing reads.

  Args:
    flat: The config's dotted keys and values, as from `flatten`.
  """
  return [
    key
    for key in _USED_BY
    if flat[key] != defaults()[key] and not has_effect(key, flat)
  ]


def without_effect_told(key: str, flat: Mapping[str, Any]) -> str:
  """A sentence on a key that nothing reads."""
  switch, _ = _USED_BY[key]
  return (
    f"config.{key}={flat[key]!r} has no effect with"
    f" config.{switch}={flat[switch]!r}"
  )


def used_by(key: str) -> tuple[str, tuple] | None:
  """The switch with which `key` has an effect, as `is_on`; None: always."""
  return _USED_BY.get(key)


def has_effect(key: str, flat: Mapping[str, Any]) -> bool:
  """Whether `key` does anything in a config, flat as from `flatten`."""
  switch, values = used_by(key) or (None, ())
  return switch is None or is_on(flat.get(switch), values)


def check_effect(
  config: ml_collections.ConfigDict, keys: Iterable[str]
) -> None:
  """Refuses keys that somebody set on purpose, and that nothing reads.

  What a config file or a default leaves set is no mistake: another key may
  switch it on later. `notes` tells of it.

  Args:
    config: The config with them.
    keys: Dotted keys.

  Raises:
    jaxplay.UserError: The first one that has no effect.
  """
  flat = flatten(config)
  for key in keys:
    if not has_effect(key, flat):
      switch, values = _USED_BY[key]
      raise jaxplay.UserError(
        f"{without_effect_told(key, flat)}; leave it out, or set"
        f" config.{switch} to {' or '.join(map(repr, values))}"
      )


def without(
  config: ml_collections.ConfigDict, *features: str
) -> dict[str, Any]:
  """The changes that turn features of a config off; {} where they are.

  Args:
    config: The config; not changed.
    *features: "augmentation", "averages", "clipping", "decay" (of the learning
      rate), "dropout", "label_smoothing", "warmup", "weight_decay", "z_loss".
  """
  off = {}
  for feature in features:
    off |= _OFF[feature]
  return settled(flatten(config), off)


def settled(
  flat: Mapping[str, Any], changes: Mapping[str, Any]
) -> dict[str, Any]:
  """Changes of a config, with all that has to follow, and only what differs.

  A key that they leave without effect gets its default. An objective that they
  leave without evaluations, because of other averages, becomes the same metric
  of the evaluated weights.

  Args:
    flat: The config's dotted keys and values, as from `flatten`.
    changes: Dotted key -> new value.
  """
  new = {**flat, **changes}
  for key in _USED_BY:
    if not has_effect(key, new):
      new[key] = (defaults() if has_effect(key, flat) else flat)[key]
  of, slash, metric = new["objective"].partition("/")
  averaged = re.fullmatch(r"valid_(\w+)", of)
  evaluated = {"raw", *new["averages"]} - {new["weights"]}
  if averaged and averaged[1] not in evaluated:
    new["objective"] = f"valid{slash}{metric}"
  return {key: value for key, value in new.items() if value != flat[key]}


def is_on(switch: Any, values: tuple) -> bool:
  """Whether a switch, or one of several, has one of the values."""
  if isinstance(switch, tuple):
    return any(one in values for one in switch)
  return switch in values


def notes(config: ml_collections.ConfigDict) -> list[str]:
  """Sentences worth a line on the terminal before a run begins."""
  found = without_effect(config)
  if config.microbatches > 1:
    found.append(
      f"config.microbatches={config.microbatches} saves memory, not time:"
      " gradient accumulation buys no throughput"
    )
  return found


def evaluated(config: ml_collections.ConfigDict) -> list[str]:
  """Metrics of the validation set that a run of a config logs."""
  suffixes = [f"_{name}" for name in ("raw", *config.averages)]
  suffixes[suffixes.index(f"_{config.weights}")] = ""
  is_text = config.model.name in TEXT_MODELS
  metrics = ("loss", "error_rate", *(["bits_per_byte"] if is_text else []))
  return [
    f"valid{suffix}/{metric}"
    for suffix in sorted(suffixes)
    for metric in metrics
  ]


def resolve(config: ml_collections.ConfigDict) -> None:
  """Puts a metric by the task in the place of an empty `objective`.

  Of text the error rate, of next tokens, says little: it is the loss that a
  language model is judged by.
  """
  if not config.objective:
    is_text = config.model.name in TEXT_MODELS
    _set(config, "objective", "valid/loss" if is_text else "valid/error_rate")


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
    trials: Whether they are groups that train trials of their own.

  Raises:
    jaxplay.UserError: The first thing that is wrong.
  """
  flat = flatten(config)
  for key in sorted(flat.keys() - defaults().keys()):
    raise jaxplay.UserError(
      f"there is no config.{key}; {nearest(key, defaults())}"
    )
  _refuse_missing(flat)
  for key, value in flat.items():
    typed(key, value, defaults())
    if type(value) is int and not -(2**63) <= value < 2**63:
      raise jaxplay.UserError(
        f"config.{key} is {shown(value)}, beyond a whole number of 64 bits"
      )
  for key, choices in _CHOICES.items():
    if flat[key] not in choices:
      close = difflib.get_close_matches(str(flat[key]), choices, 1, 0.5)
      hint = f"did you mean {close[0]!r}? " if close else ""
      raise jaxplay.UserError(
        f"config.{key} is {shown(flat[key])}; {hint}It can be"
        f" {', '.join(map(repr, choices))}"
      )
  for key, interval in _RANGES.items():
    value = flat[key]
    if not _within(value, interval):
      raise jaxplay.UserError(
        f"config.{key} is {shown(value)}; it must lie in {interval}"
      )
    if key.startswith("hparams.") and isinstance(value, float):
      if not _within(rounded(value), interval):
        raise jaxplay.UserError(
          f"config.{key} is {shown(value)}, which the step's 32 bits round to"
          f" {rounded(value):g}; it must lie in {interval}"
        )
  resolve(config)
  _validate_pairs(config)
  if num_devices is not None:
    _validate_mesh(config, num_devices, trials)


def _within(value, interval: str) -> bool:
  low, high = (float(bound) for bound in interval[1:-1].split(","))
  above = value >= low if interval[0] == "[" else value > low
  below = value <= high if interval[-1] == "]" else value < high
  return above and below


def rounded(value: float) -> float:
  """To the nearest number of 32 bits."""
  try:
    return struct.unpack("f", struct.pack("f", value))[0]
  except OverflowError:
    return math.inf


def _validate_pairs(config):
  def refuse(message):
    raise jaxplay.UserError(message)

  steps, batch = config.max_train_steps, config.batch_size
  model, hparams = config.model, config.hparams
  for average in config.averages:
    if average not in AVERAGES:
      refuse(
        f"config.averages names {shown(average)}; it can hold"
        f" {', '.join(map(repr, AVERAGES))}"
      )
  if config.weights not in ("raw", *config.averages):
    refuse(
      f"config.weights is {shown(config.weights)}, but config.averages="
      f"{tuple(config.averages)!r} does not name it"
    )
  is_text = model.name in TEXT_MODELS
  objectives = evaluated(config)
  if config.objective not in objectives:
    refuse(
      f"config.objective is {shown(config.objective)}; with"
      f" config.averages={tuple(config.averages)!r} it can be"
      f" {', '.join(map(repr, objectives))}"
    )
  if config.eval_batch_size < batch:
    refuse(
      f"config.eval_batch_size is {config.eval_batch_size}, less than"
      f" config.batch_size {batch}; evaluation keeps no activations, so set it"
      f" to at least {batch} (Playbook, setting up periodic evaluations)"
    )
  strides = model.strides
  if len(strides) != 3 or not all(
    type(s) is int and 1 <= s <= _LARGEST for s in strides
  ):
    refuse(
      f"config.model.strides is {shown(tuple(strides))}; it must be three whole"
      " numbers above 0, such as (1, 2, 2)"
    )
  if hparams.warmup_steps > steps:
    refuse(
      f"config.hparams.warmup_steps is {hparams.warmup_steps}, longer than the"
      f" run of config.max_train_steps={steps}; use that at most, or more steps"
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
      f"config.batch_size {batch} does not split into config.microbatches"
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
        f"a {what} of {microbatch} examples does not split into ghost groups of"
        f" config.model.virtual_batch_size={virtual}; use"
        f" {_divisors(microbatch, virtual)}"
      )
  if model.name == "resnet" and model.depth not in RESNET_DEPTHS:
    refuse(
      f"config.model.depth is {model.depth}; a resnet has one of"
      f" {', '.join(map(str, RESNET_DEPTHS))} layers"
    )
  if model.name == "wide_resnet" and (model.depth < 10 or model.depth % 6 != 4):
    refuse(
      f"config.model.depth is {model.depth}; a wide_resnet has 6n + 4 layers,"
      " such as 10, 16, 22 or 28"
    )
  features = 16 if model.name == "wide_resnet" else model.width
  if model.norm == "group" and features % model.num_groups:
    refuse(
      f"config.model.num_groups {model.num_groups} does not divide the"
      f" {features} features of the first layer; use"
      f" {_divisors(features, model.num_groups)}"
    )
  if model.name in TRANSFORMERS:
    _validate_transformer(model)
  _validate_dataset(config.dataset, is_text)
  _validate_keep_steps(config.keep_steps)
  if len(config.dataset.shape) != 3 or not all(
    type(size) is int and 1 <= size <= _LARGEST for size in config.dataset.shape
  ):
    refuse(
      f"config.dataset.shape is {shown(tuple(config.dataset.shape))}; it must"
      " be (height, width, channels)"
    )
  for axis in MESH_AXES:
    size = config.mesh[axis]
    if size != -1 and not 1 <= size <= _LARGEST:
      refuse(
        f"config.mesh.{axis} is {shown(size)}; it must be -1 (all that are"
        " left) or a number of devices"
      )
  _validate_rules(config.mesh.rules)


def _validate_transformer(model):
  if model.norm not in ("rms", "layer"):
    raise jaxplay.UserError(
      f"config.model.norm is {model.norm!r}; a transformer needs 'rms' or"
      " 'layer'"
    )
  if model.width % model.heads:
    raise jaxplay.UserError(
      f"config.model.heads {model.heads} does not divide config.model.width"
      f" {model.width}; use {_divisors(model.width, model.heads)}"
    )
  if model.name == "lm" and model.width // model.heads % 2:
    raise jaxplay.UserError(
      f"rotary positions turn pairs of features, and config.model.width"
      f" {model.width} over {model.heads} heads is"
      f" {model.width // model.heads}; use an even number"
    )


def _validate_dataset(dataset, is_text):
  keys = {dataset.name: "name"}
  for name, _ in _mixed(dataset.mixtures):
    keys.setdefault(name, "mixtures")
  for name, key in keys.items():
    tfds = name.startswith("tfds:")
    if not tfds and is_text != bool(re.match("pythonlib$|text:.", name)):
      raise jaxplay.UserError(
        f"config.dataset.{key} names {shown(name)}, and config.model.name takes"
        + (
          " text: 'pythonlib', 'text:<path or glob>' or 'tfds:<name>'"
          if is_text
          else " images: 'digits', 'synthetic' or 'tfds:<name>'"
        )
      )
  if is_text and dataset.augment != "none":
    raise jaxplay.UserError(
      f"config.dataset.augment is {dataset.augment!r}, which moves images; text"
      " needs 'none'"
    )
  height, width, *_ = (*dataset.shape, 0, 0)
  square = dataset.name == "synthetic" and height == width
  sized = dataset.name.startswith("tfds:") and dataset.image_size
  if dataset.augment == "resized_crop" and not (square or sized):
    raise jaxplay.UserError(
      "config.dataset.augment='resized_crop' is for tfds:<name>, with the size"
      " of the crops as config.dataset.image_size, and for 'synthetic' images"
      " that are square"
    )
  if not dataset.name.startswith("text:") and (
    dataset.valid_files or dataset.test_files
  ):
    raise jaxplay.UserError(
      "config.dataset.valid_files and test_files are of 'text:...' sets, and"
      f" config.dataset.name is {dataset.name!r}"
    )


def _mixed(mixtures):
  """(name, weight) of all phases of a mixture, checked."""
  form = "config.dataset.mixtures is {}; it must be ((step, ((name, weight),"
  form += " ...)), ...), such as ((0, (('pythonlib', 1.0),)),)"
  parts, last = [], -1
  for phase in mixtures:
    match phase:
      case (int(step), [*of_phase]) if of_phase and step is not True:
        pass
      case _:
        raise jaxplay.UserError(form.format(shown(mixtures)))
    for part in of_phase:
      match part:
        case (str(), int() | float() as weight):
          if weight is not True and 0 < weight < math.inf:
            continue
      raise jaxplay.UserError(form.format(shown(mixtures)))
    names = [name for name, _ in of_phase]
    if len({*names}) < len(names):
      raise jaxplay.UserError(
        f"config.dataset.mixtures names a source twice at step {step}: {names}"
      )
    if step <= last or (last < 0 and step):
      raise jaxplay.UserError(
        f"config.dataset.mixtures: step {step} comes after {last}; the first"
        " must be 0, and each later than the one before"
        if last >= 0
        else f"config.dataset.mixtures begins at step {step}; the first must be"
        " 0"
      )
    last = step
    parts += of_phase
  return parts


def _validate_keep_steps(steps):
  for step in steps:
    is_step = type(step) is int and 1 <= step <= _LARGEST
    if step != "geometric" and not is_step:
      raise jaxplay.UserError(
        f"config.keep_steps holds {shown(step)}; it can hold steps, from 1 to"
        f" {_LARGEST}, and 'geometric'"
      )


def cooldown_steps(max_train_steps: int, fraction: float) -> int:
  """Length of a cooldown, rounded in 32 bits as the train step does."""
  return round(rounded(rounded(fraction) * rounded(max_train_steps)))


def is_kept(step: int, config: ml_collections.ConfigDict) -> bool:
  """Whether the checkpoint after `step` updates is one of `keep_steps`."""
  return step > 0 and next_kept(step - 1, config) == step


def next_kept(at: int, config: ml_collections.ConfigDict) -> int | None:
  """The first of `keep_steps` after `at`.

  They do not depend on the length: a run that is made longer has kept what it
  would have kept as a longer one.
  """
  steps = [s for s in config.keep_steps if s != "geometric" and s > at]
  if "geometric" in config.keep_steps and config.schedule == "constant":
    steps.append(100 * 2 ** (at // 100).bit_length())
  return min(steps, default=None)


def mesh_sizes(
  mesh: ml_collections.ConfigDict, num_devices: int, *, trials: bool = False
) -> dict[str, int]:
  """The size of each axis of the mesh.

  Args:
    mesh: config.mesh.
    num_devices: Devices over all hosts.
    trials: Whether groups of devices train trials of their own: then there is
      an axis "trial", which takes what is left.

  Raises:
    jaxplay.UserError: It does not cover the devices.
  """
  sizes = {axis: mesh[axis] for axis in MESH_AXES}
  told = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
  left = [axis for axis, size in sizes.items() if size == -1]
  if len(left) > 1:
    raise jaxplay.UserError(
      f"config.mesh has two axes of -1, all devices that are left ({told}); one"
      " of them can have that"
    )
  if trials:
    left, sizes = ["trial"], {a: abs(size) for a, size in sizes.items()}
  for axis in left:
    sizes.pop(axis, None)
    sizes[axis] = num_devices // math.prod(sizes.values())
  covered = math.prod(sizes.values())
  if covered != num_devices:
    raise jaxplay.UserError(
      f"a mesh of {told} does not cover {num_devices} devices; the product of"
      f" its axes must {'divide' if trials else 'be'} {num_devices}"
    )
  return sizes


def _validate_mesh(config, num_devices, trials):
  sizes = mesh_sizes(config.mesh, num_devices, trials=trials)
  split = sizes["replica"] * sizes["data"] * sizes["fsdp"]
  size, unit = config.batch_size, config.microbatches
  if size % (split * unit):
    parts = f" in {unit} microbatches" if unit > 1 else ""
    raise jaxplay.UserError(
      f"config.batch_size {size}{parts} does not divide over {split} devices;"
      f" use {_multiples(size, split * unit)}"
    )


def _validate_rules(rules):
  for rule in rules:
    if rule in MESH_PRESETS:
      continue
    if not isinstance(rule, tuple | list) or len(rule) != 2:
      raise jaxplay.UserError(
        f"config.mesh.rules holds {shown(rule)}; each rule is a pair (path"
        f" pattern, partition), or one of {', '.join(map(repr, MESH_PRESETS))}"
      )
    pattern, partition = rule
    try:
      re.compile(pattern)
    except (re.error, TypeError) as error:
      raise jaxplay.UserError(
        f"config.mesh.rules: {shown(pattern)} is not a pattern ({error})"
      ) from None
    if partition == "fsdp":
      continue
    named = partition if isinstance(partition, tuple | list) else "?"
    named = [axis for axis in named if axis is not None]
    if any(axis not in MESH_AXES or named.count(axis) > 1 for axis in named):
      raise jaxplay.UserError(
        f"config.mesh.rules: {shown(partition)} is not a partition; it can be"
        " 'fsdp', or for each dimension None or one of"
        f" {', '.join(map(repr, MESH_AXES))}, each axis once"
      )


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
