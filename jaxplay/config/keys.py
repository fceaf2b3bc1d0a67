"""The keys of a config that all parts share, and the table of all: `KEYS`."""

import dataclasses
import functools
import types
from collections.abc import Mapping
from typing import Any

from jaxplay.config import parts
from jaxplay.config.key import (
  BELOW_1,
  INT_FROM_0,
  LARGEST,
  NOT_NEGATIVE,
  POSITIVE,
  POSITIVE_INT,
  Key,
  data,
  number,
  size,
)

# Why no search space may contain a key.
_ALIKE = "trials are only comparable if all are measured alike; set it in the"
_ALIKE += " base config"
_HOW = "it affects how a trial is computed, not its result; set it in the base"
_HOW += " config"


def _alike(default, comment, within=POSITIVE_INT, **facts):
  """A key of when and how trials are measured and saved."""
  return Key(default, comment, within, branch=True, fixed=_ALIKE, **facts)


def _axis(default, comment):
  return Key(default, comment, resume=True, fixed=_HOW)


_COMMON = {
  "seed": Key(
    0,
    "seed of initialization, example order, augmentation and dropout",
    f"[0, {2**32 - 1}]",
    traced=True,
    fixed="it is no hyperparameter; `jaxplay study rerun` measures the variance"
    " over seeds (Playbook, determining whether to adopt a training pipeline"
    " change or hyperparameter configuration)",
  ),
  "max_train_steps": Key(
    1000,
    "number of parameter updates",
    POSITIVE_INT,
    branch=True,
    fixed="never tune the number of steps in a study: use one number for all"
    " trials, and one study per number (Playbook, deciding how long to train"
    " when training is not compute-bound)",
  ),
  "batch_size": Key(
    128, "examples per update, over all devices and hosts", POSITIVE_INT
  ),
  "microbatches": Key(
    1,
    "gradient accumulation: parts of a batch; saves memory, not time",
    POSITIVE_INT,
    fixed=_HOW,
  ),
  "steps_per_call": Key(
    0,
    "steps per dispatch, if the data fit on the device; 0: automatic",
    INT_FROM_0,
    resume=True,
    fixed=_HOW,
  ),
  "log_every": Key(
    50, "steps between training metrics", POSITIVE_INT, fixed=_ALIKE
  ),
  "diagnostics": Key(
    (),
    "what is logged of each layer with the training metrics: 'update_ratio',"
    " 'gradient_norm', 'weight_norm'",
    fixed=_ALIKE,
  ),
  "eval_every": _alike(100, "steps between evaluations"),
  "eval_batch_size": _alike(
    512, "at least batch_size; padded to divide over the devices"
  ),
  "eval_examples": Key(
    0,
    "periodic evaluations use a fixed random sample of this many validation"
    " examples, and the end the whole split, valid_full/; 0: always the whole",
    INT_FROM_0,
    fixed=_ALIKE,
  ),
  "checkpoint_every": _alike(500, "steps between checkpoints for resuming"),
  "keep_best": _alike(
    1, "number of best checkpoints to keep, besides the latest two"
  ),
  "keep_steps": _alike(
    ("geometric",),
    "other steps whose checkpoints are kept, to branch from; 'geometric':"
    " steps 100, 200, 400, 800, ... of schedule 'constant'",
    "",
    resume=True,
  ),
  "objective": Key(
    "",
    "metric that ranks trials; empty: valid/error_rate for classification, else"
    " valid/loss",
    branch=True,
    fixed="one objective ranks all trials of a study; to rank by another, use"
    " another objective for the same trials afterwards",
  ),
  "report_test": Key(
    False,
    "evaluate on the test set, once, at the end",
    resume=True,
    fixed="the test set is evaluated once, at the end, for the chosen trial"
    " (Playbook, after exploration concludes)",
  ),
  "num_predictions": _alike(
    64, "number of examples whose predictions are saved; 0: none", INT_FROM_0
  ),
  "keep_examples": _alike(
    100_000,
    "largest validation split of which the objective of each example is saved,"
    " at the best and the last evaluation; 0: none",
    INT_FROM_0,
    resume=True,
  ),
  "export": Key(
    True,
    "export the forward function of the best checkpoint",
    resume=True,
    fixed=_ALIKE,
  ),
  "code": Key(
    "",
    "digest of the code of the user's parts, written when they are loaded",
    branch=True,
    fixed="it is written when parts are loaded",
  ),
  "writers": Key(
    (),
    "where curves are written besides metrics.jsonl: 'tensorboard', 'wandb',"
    " 'trackio', 'mlflow'",
    branch=True,
    resume=True,
    fixed="it affects what is written about a trial, not its result; set it in"
    " the base config",
  ),
  "init_from": Key(
    "",
    "weights to start from: a run, RUN:STEP, an export, or a .safetensors file",
  ),
  "init_map": Key(
    (),
    "pairs (pattern, replacement): other names for the source's parameters; ''"
    " drops them",
  ),
  "frozen": Key(
    (), "patterns of parameters that are not trained, such as 'Dense_0/.*'"
  ),
  "declared": Key(
    (),
    "keys and metrics of the user's parts, written when they are loaded",
    resume=True,
    fixed="it is written when parts are loaded",
  ),
  "optimizer": Key(
    "nesterov",
    "update rule, or FILE.py:NAME of a function",
    choices=parts.OPTIMIZERS,
  ),
  "schedule": Key(
    "constant",
    "learning rate schedule after the warmup, or FILE.py:NAME of a function",
    choices=parts.SCHEDULES,
    traced=True,
    branch=True,
    transfers="unlikely",
    off=("decay", "constant"),
  ),
  "clipping": Key(
    False,
    "clip the global gradient norm at hparams.clip_norm",
    off=("clipping", False),
  ),
  "averages": Key(
    (),
    "weight averages to evaluate besides the raw weights: 'ema', 'window'",
    fixed="averages are evaluated besides the raw weights; name all of them in"
    " the base config, and compare their metrics within the same trials",
    off=("averages", ()),
  ),
  "weights": Key(
    "raw",
    "weights of the metrics valid/ and test/: 'raw', or one of averages",
    choices=("raw", *parts.AVERAGES),
    branch=True,
    off=("averages", "raw"),
  ),
  "hparams.learning_rate": number(
    0.1,
    "base learning rate, which the schedule multiplies",
    POSITIVE,
    transfers="unlikely",
    retune="optimizer",
  ),
  "hparams.weight_decay": number(
    0.0,
    "decoupled, times the learning rate; not of biases and norm scales",
    NOT_NEGATIVE,
    off=("weight_decay", 0.0),
    regularization=True,
    retune="regularization",
  ),
  "hparams.label_smoothing": number(
    0.0,
    "probability spread evenly over the classes",
    BELOW_1,
    used_by=(
      "task.name",
      ("", "classification", "next_token", "multi_label"),
    ),
    off=("label_smoothing", 0.0),
    regularization=True,
    retune="regularization",
  ),
  "hparams.warmup_steps": number(
    0,
    "steps of linear warmup of the learning rate from zero",
    INT_FROM_0,
    transfers="very likely",
    off=("warmup", 0),
  ),
  "task.name": Key(
    "",
    "what is learned: classification, next_token, regression, multi_label;"
    " empty: next_token of an lm, else classification",
    fixed="trials of different tasks are not comparable",
  ),
  "task.metrics": _alike(
    (),
    "metrics to log besides those of the task and the objective, such as 'f1'",
    "",
  ),
  "dataset.name": data(
    "digits",
    "digits, synthetic, or tfds:<name>; for an lm pythonlib, text:<path, folder"
    " or glob>, or tfds:<name>; your own: npz:, folder:, csv:, parquet: or hf:"
    " and a path, or a function, FILE.py:NAME",
  ),
  "dataset.targets": data(
    (),
    "csv, parquet, tfds, hf: columns or features to predict; empty: those that"
    " the set names",
  ),
  "dataset.inputs": data(
    (),
    "csv, parquet, tfds, hf: columns or features to predict from; empty: those"
    " that the set names, or all other numbers",
  ),
  "dataset.standardize": data(
    False,
    "csv, parquet: subtract from each input its mean, and divide by its"
    " standard deviation, of the training split",
  ),
  "dataset.augment": Key(
    "none",
    "augmentation of training images",
    choices=parts.AUGMENTATIONS,
    off=("augmentation", "none"),
    regularization=True,
  ),
  "dataset.center_share": Key(
    1.0,
    "with image_size: side of the center crop relative to the shorter side"
    " of the image, for evaluation and without random crops",
    "(0, 1]",
  ),
  "dataset.device_bytes": data(
    2**28,
    "data sets up to this size, in bytes, are copied to the device",
    NOT_NEGATIVE,
    resume=True,
  ),
  "dataset.workers": data(
    0,
    "reader processes for larger data sets; 0: threads",
    "[0, 1024]",
    resume=True,
  ),
  "dataset.data_dir": data(
    "",
    "tfds: folder of prepared data; text: folder of the token cache; empty: the"
    " default of TFDS, and the cache folder of the user",
    resume=True,
  ),
  "dataset.fold_validation": data(
    False,
    "train on the validation examples as well, for a final model: then only the"
    " test set measures it, and its last step is the result",
  ),
  "dataset.train_split": data("train", "tfds: split string"),
  "dataset.valid_split": data("validation", "tfds: split string"),
  "dataset.test_split": data("test", "tfds: split string"),
  "dataset.image_size": Key(
    0,
    "tfds, folder, hf: resize to this height and width; 0: as stored",
    INT_FROM_0,
  ),
  "dataset.num_train": data(
    10_000, "synthetic: training examples", POSITIVE_INT
  ),
  "dataset.num_valid": data(
    1_000, "synthetic: validation examples", POSITIVE_INT
  ),
  "dataset.num_test": data(1_000, "synthetic: test examples", POSITIVE_INT),
  "dataset.num_classes": data(
    10,
    "synthetic: classes; also assumed for plans without the data",
    f"[2, {LARGEST}]",
  ),
  "dataset.shape": data((32, 32, 3), "synthetic: height, width, channels"),
  "dataset.difficulty": data(
    1.0, "synthetic: ratio of noise to signal; 0: no noise", NOT_NEGATIVE
  ),
  "model.name": size(
    "mlp", "model family, or FILE.py:NAME of a module", choices=parts.MODELS
  ),
  "model.depth": size(
    2,
    "mlp: hidden layers; resnet: 10-101; wide_resnet: 6n + 4; vit, lm: blocks",
    POSITIVE_INT,
  ),
  "model.width": size(
    128,
    "mlp, vit, lm: features; resnet: features of stage 1; wide_resnet: widening"
    " factor",
    POSITIVE_INT,
  ),
  "model.norm": size("none", "normalization", choices=parts.NORMS),
  "model.dropout": size(
    False,
    "dropout layers, with hparams.dropout_rate",
    transfers="might",
    off=("dropout", False),
    regularization=True,
  ),
  "model.dtype": size(
    "float32", "type of the computation", choices=("float32", "bfloat16")
  ),
  "mesh.replica": _axis(1, "splits batches over slices with a slow connection"),
  "mesh.data": _axis(
    -1,
    "splits batches; -1: all remaining devices, and 1 in a population, where"
    " the remaining devices train other trials",
  ),
  "mesh.fsdp": _axis(1, "splits batches and large parameters"),
  "mesh.tensor": _axis(1, "splits what the rules name, such as heads"),
  "mesh.rules": _axis(
    ("fsdp",),
    "'data', 'fsdp', 'fsdp+tensor', or pairs (path pattern, partition); the"
    " first match decides; see training/sharding.py",
  ),
}


def _declared() -> dict[str, Key]:
  """The keys of all parts, after those that all share, group by group."""
  keys = dict(_COMMON)
  for switch, of_switch in parts.PARTS.items():
    readers: dict[str, tuple] = {}
    for part, own in of_switch.items():
      keys |= own
      for name in own:
        readers[name] = (*readers.get(name, ()), part)
    for name, those in readers.items():
      keys[name] = dataclasses.replace(keys[name], used_by=(switch, those))
  return {
    name: keys[name]
    for name in sorted(keys, key=lambda n: GROUPS.index(n.rpartition(".")[0]))
  }


GROUPS = ("", "hparams", "task", "dataset", "model", "mesh")
KEYS: Mapping[str, Key] = types.MappingProxyType(_declared())
TRACED = tuple(name for name, key in KEYS.items() if key.traced)
# Feature -> the keys that turn it off. A key that then has no effect, such as
# the dropout rate, falls back to its default: see `edits.without`.
OFF: dict[str, dict[str, Any]] = {}
for _name, _key in KEYS.items():
  if _key.off:
    OFF.setdefault(_key.off[0], {})[_name] = _key.off[1]

REGULARIZATION = tuple(
  key.off[0] for key in KEYS.values() if key.off and key.regularization
)
OPTIMIZER_NUMBERS = tuple(
  name for name, key in KEYS.items() if key.retune == "optimizer"
)
RETUNE = OPTIMIZER_NUMBERS + tuple(
  name for name, key in KEYS.items() if key.retune == "regularization"
)


@functools.cache
def defaults() -> Mapping[str, Any]:
  """Dotted keys and their defaults, sorted; not to be changed."""
  return types.MappingProxyType(
    {name: KEYS[name].default for name in sorted(KEYS)}
  )
