"""A covering design of config features, for the tests of the procedures.

A row has one value of each feature. `ROWS` contain every value, and every pair
of values of the features in `MEET`. `FEW` of them contain every value.
"""

import itertools

import ml_collections

from jaxplay import config as config_lib

# Keys of every row, for short tests.
TINY = {
  "max_train_steps": 24,
  "batch_size": 32,
  "eval_batch_size": 64,
  "log_every": 2,
  "eval_every": 4,
  "checkpoint_every": 12,
  "steps_per_call": 4,
  "num_predictions": 0,
  "export": False,
  "model.width": 8,
  "model.depth": 1,
}
_SYNTHETIC = {
  "dataset.name": "synthetic",
  "dataset.shape": (8, 8, 3),
  "dataset.num_train": 256,
  "dataset.num_valid": 64,
  "dataset.num_test": 64,
}
_TRANSFORMER = {"model.heads": 2, "hparams.learning_rate": 0.01}
TEXT = "text:{texts}"  # the folder of `texts`
_MIXTURE = (
  (0, ((f"{TEXT}/a", 1.0),)),
  (18, ((f"{TEXT}/a", 0.5), (f"{TEXT}/b", 0.5))),
)

# Feature -> name of a value -> config keys.
FEATURES = {
  "model": {
    "mlp": {},
    "resnet": {"model.name": "resnet", "model.depth": 10, "model.width": 4}
    | _SYNTHETIC,
    "wide_resnet": {
      "model.name": "wide_resnet",
      "model.depth": 10,
      "model.width": 1,
      "model.zero_init_residual": True,
    }
    | _SYNTHETIC,
    "vit": {"model.name": "vit"} | _SYNTHETIC | _TRANSFORMER,
    "lm": {
      "model.name": "lm",
      "dataset.name": f"{TEXT}/a",
      "dataset.sequence_length": 16,
      "hparams.z_loss": 1e-3,
    }
    | _TRANSFORMER,
    "lm of a mixture": {
      "model.name": "lm",
      "dataset.name": f"{TEXT}/a",
      "dataset.sequence_length": 16,
      "dataset.mixtures": _MIXTURE,
    }
    | _TRANSFORMER,
  },
  "norm": {
    "none": {},
    "batch": {"model.norm": "batch", "hparams.norm_momentum": 0.8},
    "ghost": {"model.norm": "ghost", "model.virtual_batch_size": 16},
    "layer": {"model.norm": "layer"},
    "rms": {"model.norm": "rms"},
    "group": {"model.norm": "group", "model.num_groups": 4},
  },
  "dropout": {
    "no": {},
    "yes": {"model.dropout": True, "hparams.dropout_rate": 0.1},
    "layers without a rate": {"model.dropout": True},
  },
  "clipping": {
    "no": {},
    "yes": {"clipping": True, "hparams.clip_norm": 0.5},
  },
  "regularization": {
    "no": {},
    "yes": {"hparams.weight_decay": 1e-3, "hparams.label_smoothing": 0.1},
  },
  "weights": {
    "raw": {},
    "raw beside ema": {"averages": ("ema",), "hparams.ema_decay": 0.9},
    "ema": {"averages": ("ema",), "weights": "ema", "hparams.ema_decay": 0.9},
    "window": {
      "averages": ("ema", "window"),
      "weights": "window",
      "hparams.window_steps": 6,
      "hparams.window_stride": 2,
    },
  },
  "objective": {
    "error": {"objective": "valid/error_rate"},
    "loss": {"objective": "valid/loss"},
    "of ema": {"objective": "valid_ema/error_rate"},
    "of raw": {"objective": "valid_raw/loss"},
  },
  "schedule": {
    "constant": {"schedule": "constant"},
    "linear": {"schedule": "linear", "hparams.final_factor": 0.1},
    "cosine": {"schedule": "cosine"},
    "rsqrt": {"schedule": "rsqrt", "hparams.decay_timescale": 6},
    "wsd": {
      "schedule": "wsd",
      "cooldown_shape": "square",
      "hparams.cooldown_fraction": 0.4,
    },
    "cooldown alone": {"schedule": "wsd", "hparams.cooldown_fraction": 1.0},
  },
  "warmup": {
    "no": {},
    "short": {"hparams.warmup_steps": 2},
    "half": {"hparams.warmup_steps": 12},
    "nearly all": {"hparams.warmup_steps": 22},
  },
  "optimizer": {name: {"optimizer": name} for name in config_lib.OPTIMIZERS},
  "augmentation": {
    "none": {},
    "shift": {"dataset.augment": "shift", "dataset.augment_pixels": 1},
    "crop_flip": {"dataset.augment": "crop_flip", "dataset.augment_pixels": 2},
    "resized_crop": {"dataset.augment": "resized_crop"},
  },
  "computed": {
    "at once": {},
    "in microbatches": {"microbatches": 2},
    "over fsdp": {"mesh.fsdp": 2},
  },
  "kept": {
    "usual": {},
    "some steps": {"keep_steps": (3, 12), "keep_best": 2},
    "for people": {"export": True, "num_predictions": 4, "report_test": True},
  },
  "seed": {"first": {}, "last": {"seed": 2**32 - 1}},
}

# Pairs of features that interact in a procedure: both are turned off together,
# scaled with the steps, split the batch, or change the hyperparameters.
MEET = (
  ("weights", "objective"),
  ("schedule", "warmup"),
  ("schedule", "weights"),
  ("warmup", "model"),
  ("model", "norm"),
  ("model", "dropout"),
  ("norm", "computed"),
  ("optimizer", "clipping"),
  ("optimizer", "dropout"),
  ("regularization", "augmentation"),
  ("dropout", "augmentation"),
)
_IMAGES = ("resnet", "wide_resnet", "vit")
_TEXTS = ("lm", "lm of a mixture")
_AVERAGES = tuple(FEATURES["weights"])[1:]
# (feature, value) -> allowed values of other features; the rest is refused.
NEEDS = {
  **{("model", name): {"norm": ("layer", "rms")} for name in ("vit", *_TEXTS)},
  **{
    ("augmentation", name): {"model": ("mlp", *_IMAGES)}
    for name in ("shift", "crop_flip")
  },
  ("augmentation", "resized_crop"): {"model": _IMAGES},
  ("norm", "batch"): {"computed": ("at once", "over fsdp")},
  ("schedule", "wsd"): {"warmup": ("no", "short", "half")},
  ("schedule", "cooldown alone"): {"warmup": ("no",)},
  ("objective", "of ema"): {"weights": ("raw beside ema", "window")},
  ("objective", "of raw"): {"weights": ("ema", "window")},
}

Row = dict[str, str]


def make(row: Row, texts="") -> ml_collections.ConfigDict:
  """Returns the config of a row.

  Args:
    row: Feature -> name of its value; default: the first value.
    texts: Folder of texts, from `write_texts`; only training reads it.
  """
  config = config_lib.base()
  keys = dict(TINY)
  for feature, values in FEATURES.items():
    keys |= values[row.get(feature, next(iter(values)))]
  for key, value in keys.items():
    config_lib.override(config, key, _in(texts, value))
  return config


def _in(texts, value):
  if isinstance(value, tuple):
    return tuple(_in(texts, part) for part in value)
  if isinstance(value, str):
    return value.replace("{texts}", str(texts))
  return value


def write_texts(folder):
  """Writes the text of the language models; returns the folder."""
  for name, word in (("a", "fox"), ("b", "dog")):
    (folder / name).mkdir(parents=True)
    for i in range(20):
      line = f"the {word} number {i} jumps over the other one\n"
      (folder / name / f"{i}.txt").write_text(20 * line)
  return folder


def agree(row: Row) -> bool:
  """Whether the config allows the values of a row, or of a part of a row."""
  return all(
    row.get(other, values[0]) in values
    for feature, value in row.items()
    for other, values in NEEDS.get((feature, value), {}).items()
  )


def completed(row: Row) -> Row:
  """Completes a row with the first allowed value of each other feature."""
  for feature, values in FEATURES.items():
    if feature not in row:
      fitting = [v for v in values if agree(row | {feature: v})]
      row = row | {feature: fitting[0]}
  return row


def covering() -> list[Row]:
  """Returns rows that contain every value, and all allowed pairs of `MEET`.

  Greedy: each row takes as many missing parts as possible, in order.
  """
  missing = [{f: value} for f, values in FEATURES.items() for value in values]
  missing += [
    {one: a, other: b}
    for one, other in MEET
    for a, b in itertools.product(FEATURES[one], FEATURES[other])
  ]
  missing = [part for part in missing if agree(part)]
  missing.sort(key=len, reverse=True)
  rows = []
  while missing:
    row = {}
    for part in missing:
      if all(row.get(f, value) == value for f, value in part.items()):
        if agree(row | part):
          row = row | part
    rows.append(completed(row))
    missing = [part for part in missing if part.items() - rows[-1].items()]
  return rows


def holding(rows: list[Row]) -> list[Row]:
  """Selects few rows that contain every value of every feature."""
  selected, missing = [], {item for row in rows for item in row.items()}
  while missing:
    selected.append(max(rows, key=lambda row: len(missing & row.items())))
    missing -= selected[-1].items()
  return selected


ROWS = covering()
FEW = holding(ROWS)


def name(row: Row) -> str:
  """Returns the id of a test: the values of a row that are not the first."""
  return ", ".join(
    f"{feature} {value}".replace("yes", "").strip()
    for feature, value in row.items()
    if value != next(iter(FEATURES[feature]))
  )
