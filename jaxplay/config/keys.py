"""Every key of a config, declared once: all that is known about it.

A part (an optimizer, a schedule, a model family, ...) is a name and the keys
that it reads; a key is a row of the table `KEYS`. What else there is to know of
a key, such as whether a step takes it as an argument, stands in its row.
"""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

import ml_collections

LARGEST = 2**31 - 1  # whole number of the step's 32 bits


@dataclasses.dataclass(frozen=True)
class Key:
  """One key of a config.

  Attributes:
    default: Its value in `base()`, whose type every other value has.
    comment: What it means, in a line.
    within: Interval of its values in the usual notation: [ and ] belong to it,
      ( and ) do not. Empty: any, or what `checks` says.
    choices: The names that it can be; empty: it is no name.
    used_by: (switch, its values) with which it has an effect; None: always.
    traced: Whether a step takes it as an argument: another value compiles
      nothing anew, and trials of a population may differ in it.
    branch: Whether a branch of a run may have another value: it says neither
      what was trained until there, nor on what.
    resume: Whether it may differ when a run resumes: it says where and how
      something is computed, or what is looked at, but not what is computed.
    transfers: How its best value is to hold in a longer round: "very likely",
      "likely", "might" or "unlikely" (Playbook, deciding how long to train).
    fixed: Why no search space may hold it; empty: it may.
    off: (feature, value): the value that turns a feature off.
    regularization: Whether that feature keeps a model from fitting its training
      set, or makes gradients noisier.
    retune: What it is a number of, "optimizer" or "regularization", if another
      batch size asks to tune it again (Playbook, changing the batch size
      requires re-tuning most hyperparameters).
  """

  default: Any
  comment: str
  within: str = ""
  choices: tuple[str, ...] = ()
  used_by: tuple[str, tuple] | None = None
  traced: bool = False
  branch: bool = False
  resume: bool = False
  transfers: str = "might"
  fixed: str = ""
  off: tuple[str, Any] | None = None
  regularization: bool = False
  retune: str = ""

  def holds(self, value: float) -> bool:
    """Whether a number lies in the interval."""
    low, high, low_is_in, high_is_in = _bounds(self.within)
    above = value >= low if low_is_in else value > low
    return above and (value <= high if high_is_in else value < high)


@functools.cache
def _bounds(within):
  low, high = (float(bound) for bound in within[1:-1].split(","))
  return low, high, within[0] == "[", within[-1] == "]"


# The parts, each with the keys that it reads beside those of all parts.
_OPTIMIZERS = {
  "sgd": (),
  "momentum": ("momentum",),
  "nesterov": ("momentum",),
  "rmsprop": ("momentum", "rho", "epsilon"),
  "adam": ("beta1", "beta2", "epsilon"),
  "nadam": ("beta1", "beta2", "epsilon"),
  "adamw": ("beta1", "beta2", "epsilon"),
  "lion": ("beta1", "beta2"),
  "schedule_free_adamw": ("beta1", "beta2", "epsilon"),
}
_SCHEDULES = {
  "constant": (),
  "linear": ("final_factor",),
  "cosine": ("final_factor",),
  "rsqrt": ("decay_timescale",),
  "wsd": ("final_factor", "cooldown_fraction", "cooldown_shape"),
}
_AVERAGES = {"ema": ("ema_decay",), "window": ("window_steps", "window_stride")}
_NORMS = {
  "batch": ("norm_momentum",),
  "ghost": ("norm_momentum", "virtual_batch_size"),
  "layer": (),
  "rms": (),
  "group": ("num_groups",),
  "none": (),
}
_BLOCKS = ("heads", "mlp_width", "qk_norm", "remat", "zero_init_residual")
_OF_TEXT = (
  *("sequence_length", "tokenizer", "vocab_size", "valid_files", "test_files"),
  "mixtures",
)
_MODELS = {
  "mlp": (),
  "resnet": ("stem", "zero_init_residual"),
  "wide_resnet": ("strides", "zero_init_residual"),
  "vit": (*_BLOCKS, "patch_size"),
  "lm": (*_BLOCKS, "tied_embedding", "rotary_base", "z_loss", *_OF_TEXT),
}
_AUGMENTATIONS = {
  "none": (),
  "shift": ("augment_pixels",),
  "crop_flip": ("augment_pixels",),
  "resized_crop": (),
}
OPTIMIZERS = tuple(_OPTIMIZERS)
SCHEDULES = tuple(_SCHEDULES)
AVERAGES = tuple(_AVERAGES)
NORMS = tuple(_NORMS)
MODELS = tuple(_MODELS)
AUGMENTATIONS = tuple(_AUGMENTATIONS)
TRANSFORMERS = ("vit", "lm")
TEXT_MODELS = ("lm",)
MOVES = ("shift", "crop_flip")
COOLDOWN_SHAPES = ("1-sqrt", "linear", "cosine", "square", "mirror_cosine")
REMAT = ("none", "dots", "full")
RESNET_DEPTHS = (10, 18, 34, 50, 101)
MESH_AXES = ("replica", "data", "fsdp", "tensor")
MESH_PRESETS = ("data", "fsdp", "fsdp+tensor")

_PARTS = {
  "optimizer": _OPTIMIZERS,
  "schedule": _SCHEDULES,
  "averages": _AVERAGES,
  "model.norm": _NORMS,
  "model.name": _MODELS,
  "dataset.augment": _AUGMENTATIONS,
  "clipping": {True: ("clip_norm",)},
  "model.dropout": {True: ("dropout_rate",)},
}


def _used_by(name):
  """The switch and its values that read a key; None: all do."""
  leaf = name.rpartition(".")[2]
  for switch, parts in _PARTS.items():
    readers = tuple(part for part, reads in parts.items() if leaf in reads)
    if readers:
      return switch, readers
  return None


# Why no search space may hold a key.
_ALIKE = "trials are compared only if all are looked at alike; set it in the"
_ALIKE += " base config"
_HOW = "it says how a trial is computed, not what; set it in the base config"
_DATA = "results on different data are not comparable; make a study for each"
_DATA += " data set"

# Intervals that many keys have; the integers of a step are of 32 bits.
_COUNT, _MAYBE = f"[1, {LARGEST}]", f"[0, {LARGEST}]"
_BELOW_1, _NOT_NEGATIVE, _POSITIVE = "[0, 1)", "[0, inf)", "(0, inf)"

_RUN = {
  "seed": Key(
    0,
    "initialization, order of examples, augmentation, dropout",
    f"[0, {2**32 - 1}]",
    traced=True,
    fixed="it is no hyperparameter; `jaxplay study rerun` measures the variance"
    " over seeds (Playbook, determining whether to adopt a training pipeline"
    " change or hyperparameter configuration)",
  ),
  "max_train_steps": Key(
    1000,
    "updates of the parameters",
    _COUNT,
    branch=True,
    fixed="never tune the number of steps in a study: pick one for all its"
    " trials, and make a study for each length (Playbook, deciding how long to"
    " train when training is not compute-bound)",
  ),
  "batch_size": Key(
    128, "examples per update, over all devices and hosts", _COUNT
  ),
  "microbatches": Key(
    1,
    "sequential parts of a batch: saves memory, not time",
    _COUNT,
    fixed=_HOW,
  ),
  "steps_per_call": Key(
    0,
    "steps per dispatch, data on device; 0: chosen",
    _MAYBE,
    resume=True,
    fixed=_HOW,
  ),
  "log_every": Key(
    50, "steps between lines of training metrics", _COUNT, fixed=_ALIKE
  ),
  "eval_every": Key(
    100, "steps between evaluations", _COUNT, branch=True, fixed=_ALIKE
  ),
  "eval_batch_size": Key(
    512,
    "at least batch_size; padded for the devices",
    _COUNT,
    branch=True,
    fixed=_ALIKE,
  ),
  "checkpoint_every": Key(
    500,
    "steps between checkpoints for resuming",
    _COUNT,
    branch=True,
    fixed=_ALIKE,
  ),
  "keep_best": Key(
    1,
    "best checkpoints to keep, beside the latest two",
    _COUNT,
    branch=True,
    fixed=_ALIKE,
  ),
  "keep_steps": Key(
    ("geometric",),
    "and those after these steps, to branch from; 'geometric': of a constant"
    " rate, after 100, 200, 400, 800, ...",
    branch=True,
    resume=True,
    fixed=_ALIKE,
  ),
  "objective": Key(
    "",
    "metric to minimize; empty: valid/loss of text, else valid/error_rate",
    branch=True,
    fixed="one objective ranks all trials of a study; take another one"
    " afterwards, from the same trials",
  ),
  "report_test": Key(
    False,
    "look at the test set, once, at the end",
    resume=True,
    fixed="the test set is looked at once, at the end, for the trial that was"
    " chosen (Playbook, after exploration concludes)",
  ),
  "num_predictions": Key(
    64,
    "fixed examples whose predictions are saved; 0: none",
    _MAYBE,
    branch=True,
    fixed=_ALIKE,
  ),
  "export": Key(
    True,
    "write the best checkpoint's forward function",
    resume=True,
    fixed=_ALIKE,
  ),
  "optimizer": Key("nesterov", "update rule", choices=OPTIMIZERS),
  "schedule": Key(
    "constant",
    "of the learning rate, after a warmup",
    choices=SCHEDULES,
    traced=True,
    branch=True,
    transfers="unlikely",
    off=("decay", "constant"),
  ),
  "cooldown_shape": Key(
    "1-sqrt",
    "of schedule wsd",
    choices=COOLDOWN_SHAPES,
    traced=True,
    branch=True,
    transfers="unlikely",
  ),
  "clipping": Key(
    False,
    "clip the global gradient norm at hparams.clip_norm",
    off=("clipping", False),
  ),
  "averages": Key(
    (),
    "weight averages to evaluate beside: 'ema', 'window'",
    fixed="averages are evaluated beside the raw weights; name all of them in"
    " the base config, and compare their metrics in the same trials",
    off=("averages", ()),
  ),
  "weights": Key(
    "raw",
    "what valid/ and test/ are of; or one of averages",
    choices=("raw", *AVERAGES),
    branch=True,
    off=("averages", "raw"),
  ),
}


def _number(*row, **facts):
  """A number of the training step."""
  return Key(*row, traced=True, branch=True, **facts)


_HPARAMS = {
  "learning_rate": _number(
    0.1,
    "the base rate that the schedule multiplies",
    _POSITIVE,
    transfers="unlikely",
    retune="optimizer",
  ),
  "momentum": _number(
    0.9, "gamma of the optimizer", _BELOW_1, retune="optimizer"
  ),
  "rho": _number(
    0.9, "decay of rmsprop's second moment", _BELOW_1, retune="optimizer"
  ),
  "beta1": _number(
    0.9, "decay of the first moment", _BELOW_1, retune="optimizer"
  ),
  "beta2": _number(
    0.999, "decay of the second moment", _BELOW_1, retune="optimizer"
  ),
  "epsilon": _number(
    1e-8,
    "added to the root of the second moment",
    _POSITIVE,
    retune="optimizer",
  ),
  "weight_decay": _number(
    0.0,
    "decoupled, times the rate; not biases, norm scales",
    _NOT_NEGATIVE,
    off=("weight_decay", 0.0),
    regularization=True,
    retune="regularization",
  ),
  "clip_norm": _number(
    1.0, "largest L2 norm of the gradient, if clipping", _POSITIVE
  ),
  "label_smoothing": _number(
    0.0,
    "mass spread evenly over the classes",
    _BELOW_1,
    off=("label_smoothing", 0.0),
    regularization=True,
    retune="regularization",
  ),
  "z_loss": _number(
    0.0,
    "lm: weight of the squared log-normalizer in the loss",
    _NOT_NEGATIVE,
    off=("z_loss", 0.0),
    regularization=True,
  ),
  "dropout_rate": _number(
    0.0,
    "probability of zeroing, if model.dropout",
    _BELOW_1,
    retune="regularization",
  ),
  "norm_momentum": _number(
    0.9, "decay of batch norm's evaluation averages", _BELOW_1
  ),
  "warmup_steps": _number(
    0,
    "steps of linear increase of the rate from zero",
    _MAYBE,
    transfers="very likely",
    off=("warmup", 0),
  ),
  "final_factor": _number(
    0.0,
    "rate after the decay, as a share of the base rate",
    "[0, 1]",
    transfers="unlikely",
  ),
  "decay_timescale": _number(
    1000,
    "rsqrt: steps until the rate starts to fall",
    _COUNT,
    transfers="unlikely",
  ),
  "cooldown_fraction": _number(
    0.2,
    "wsd: share of all steps at the end",
    "[0, 1]",
    transfers="unlikely",
  ),
  "ema_decay": _number(
    0.999, "averages 'ema': weight of the past, per step", _BELOW_1
  ),
  "window_steps": _number(
    100, "averages 'window': steps in a uniform window", _COUNT
  ),
  "window_stride": _number(
    1, "averages 'window': every so-many-th step enters", _COUNT
  ),
}

_DATASET = {
  "name": Key(
    "digits",
    "digits, synthetic, or tfds:<name>; for an lm pythonlib, text:<path, folder"
    " or glob>, or tfds:<name>",
    fixed=_DATA,
  ),
  "augment": Key(
    "none",
    "moves of training images",
    choices=AUGMENTATIONS,
    off=("augmentation", "none"),
    regularization=True,
  ),
  "augment_pixels": Key(4, "largest shift", "[0, 65535]"),
  "center_share": Key(
    1.0,
    "tfds, resized: share of the shorter side that is seen where nothing is"
    " cropped at random",
    "(0, 1]",
  ),
  "device_bytes": Key(
    2**28,
    "sets up to this size live on the device",
    _NOT_NEGATIVE,
    resume=True,
    fixed=_DATA,
  ),
  "workers": Key(
    0,
    "reader processes for larger sets; 0: threads",
    "[0, 1024]",
    resume=True,
    fixed=_DATA,
  ),
  "data_dir": Key(
    "",
    "tfds: where it is prepared; text: where its tokens are kept; empty: TFDS's"
    " default, and the user's cache",
    resume=True,
    fixed=_DATA,
  ),
  "train_split": Key("train", "tfds: split string", fixed=_DATA),
  "valid_split": Key("validation", "tfds: split string", fixed=_DATA),
  "test_split": Key("test", "tfds: split string", fixed=_DATA),
  "image_size": Key(
    0, "tfds: resize to this height and width; 0: as stored", _MAYBE
  ),
  "num_train": Key(10_000, "synthetic: training examples", _COUNT, fixed=_DATA),
  "num_valid": Key(
    1_000, "synthetic: validation examples", _COUNT, fixed=_DATA
  ),
  "num_test": Key(1_000, "synthetic: test examples", _COUNT, fixed=_DATA),
  "num_classes": Key(
    10,
    "synthetic, and what is planned without its data",
    f"[2, {LARGEST}]",
    fixed=_DATA,
  ),
  "shape": Key((32, 32, 3), "synthetic: height, width, channels", fixed=_DATA),
  "difficulty": Key(
    1.0,
    "synthetic: noise against signal; 0: no noise",
    _NOT_NEGATIVE,
    fixed=_DATA,
  ),
  "sequence_length": Key(256, "text: tokens that a row asks for", _COUNT),
  "tokenizer": Key(
    "bytes", "text: or the path of a tokenizers JSON file", fixed=_DATA
  ),
  "vocab_size": Key(
    0,
    "text: different tokens of the model, no fewer than the tokenizer's, such"
    " as a multiple of 128; 0: the tokenizer's",
    _MAYBE,
  ),
  "valid_files": Key(
    "", "text: path or glob; empty: 2 % of the text", fixed=_DATA
  ),
  "test_files": Key("", "text: as valid_files", fixed=_DATA),
  "mixtures": Key(
    (),
    "text: ((step, ((name, weight), ...)), ...), what is trained on from each"
    " step on; empty: dataset.name alone",
    branch=True,
  ),
}


def _size(*row, transfers="likely", **facts):
  """A key of the model."""
  return Key(*row, transfers=transfers, **facts)


_MODEL = {
  "name": _size("mlp", "family of models", choices=MODELS),
  "depth": _size(
    2,
    "mlp: hidden layers; resnet: 10-101; wide_resnet: 6n + 4; vit, lm: blocks",
    _COUNT,
  ),
  "width": _size(
    128,
    "mlp, vit, lm: features; resnet: of stage 1; wide_resnet: factor",
    _COUNT,
  ),
  "heads": _size(4, "vit, lm: attention heads, which divide the width", _COUNT),
  "mlp_width": _size(
    0, "vit, lm: hidden features; 0: 8/3 of the width", _MAYBE
  ),
  "qk_norm": _size(False, "vit, lm: RMS-normalize queries and keys"),
  "tied_embedding": _size(False, "lm: the output layer is the embedding"),
  "rotary_base": _size(
    10_000.0, "lm: of the wavelengths of positions", "(1, inf)"
  ),
  "patch_size": _size(4, "vit: height and width of a patch", _COUNT),
  "remat": _size(
    "none",
    "vit, lm: what of a block is computed again in the backward pass: 'none',"
    " 'dots' (all but products of matrices) or 'full'",
    choices=REMAT,
  ),
  "strides": _size((1, 2, 2), "wide_resnet: of the first block of each stage"),
  "stem": _size(
    "small",
    "resnet: 'small' (3x3) or 'imagenet' (7x7, pooling)",
    choices=("small", "imagenet"),
  ),
  "norm": _size("none", "normalization", choices=NORMS),
  "virtual_batch_size": _size(64, "norm ghost: examples per group", _COUNT),
  "num_groups": _size(8, "norm group: groups of features", _COUNT),
  "zero_init_residual": _size(
    False,
    "all but mlp: residual branches start at 0",
    transfers="very likely",
  ),
  "dropout": _size(
    False,
    "dropout layers, at hparams.dropout_rate",
    transfers="might",
    off=("dropout", False),
    regularization=True,
  ),
  "dtype": _size(
    "float32", "of the computation", choices=("float32", "bfloat16")
  ),
}


def _axis(default, comment):
  return Key(default, comment, resume=True, fixed=_HOW)


_MESH = {
  "replica": _axis(
    1, "batches are split, over slices that are connected slowly"
  ),
  "data": _axis(
    -1,
    "batches are split; -1: over all devices that are left; in a population 1,"
    " and what is left trains other trials",
  ),
  "fsdp": _axis(1, "batches and large parameters are split"),
  "tensor": _axis(1, "what rules name is split, such as heads"),
  "rules": _axis(
    ("fsdp",),
    "'data', 'fsdp', 'fsdp+tensor', or pairs (path pattern, partition), the"
    " first match of which holds; training/sharding.py",
  ),
}

KEYS: Mapping[str, Key] = types.MappingProxyType(
  {
    prefix + name: dataclasses.replace(key, used_by=_used_by(prefix + name))
    for prefix, rows in (
      ("", _RUN),
      ("hparams.", _HPARAMS),
      ("dataset.", _DATASET),
      ("model.", _MODEL),
      ("mesh.", _MESH),
    )
    for name, key in rows.items()
  }
)
TRACED = tuple(name for name, key in KEYS.items() if key.traced)
# Features, and the keys that turn each off. What then has no effect, such as a
# rate of dropout, falls back to its default: see `edits.without`.
OFF: dict[str, dict[str, Any]] = {}
for _name, _key in KEYS.items():
  if _key.off:
    OFF.setdefault(_key.off[0], {})[_name] = _key.off[1]

REGULARIZATION = tuple(
  key.off[0] for key in KEYS.values() if key.off and key.regularization
)
RETUNE = tuple(name for name, key in KEYS.items() if key.retune)
OPTIMIZER_NUMBERS = tuple(
  name for name, key in KEYS.items() if key.retune == "optimizer"
)


def base() -> ml_collections.ConfigDict:
  """A config of every key with its default, to be edited."""
  config = ml_collections.ConfigDict()
  for name, key in KEYS.items():
    group, _, leaf = name.rpartition(".")
    if not group:
      config[leaf] = key.default
    elif group in config:
      config[group][leaf] = key.default
    else:
      config[group] = {leaf: key.default}
  return config.lock()


@functools.cache
def defaults() -> Mapping[str, Any]:
  """Dotted keys and their defaults, sorted; not to be changed."""
  return types.MappingProxyType(
    {name: KEYS[name].default for name in sorted(KEYS)}
  )
