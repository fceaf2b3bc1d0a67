"""Configs: every key with its default, loading, overriding, checking.

An experiment file defines `get_config()`, which edits `base()` and returns it;
it may take one string, given on the command line as `--config=FILE:STRING`.
Every mistake raises `jaxplay.UserError` with one sentence: the value, the
nearest valid name, and the fix.

    key.py       what is declared about a key
    parts.py     optimizers, models, ... and the keys that each of them reads
    keys.py      the other keys, and the table of all
    values.py    nested and flat values, types, JSON
    checks.py    values, ranges, and pairs that must agree
    edits.py     other lengths, features off, differences
    files.py     from files and the command line
"""
# ruff: noqa: F401  (the names that other packages use)

from jaxplay.config.checks import (
  check_effect,
  cooldown_steps,
  evaluated,
  has_effect,
  idle,
  is_on,
  mesh_sizes,
  metrics,
  no_effect_message,
  notes,
  resolve,
  task_name,
  used_by,
  validate,
  without_effect,
)
from jaxplay.config.edits import (
  changes,
  differences,
  is_kept,
  is_resumable,
  longest_warmup,
  next_kept,
  other_seeds,
  resumed,
  settled,
  stored,
  with_batch_size,
  with_steps,
  with_warmup,
  without,
)
from jaxplay.config.files import (
  absolute,
  beside,
  from_user_file,
  load,
  parsed,
)
from jaxplay.config.key import Key
from jaxplay.config.keys import (
  KEYS,
  OPTIMIZER_NUMBERS,
  REGULARIZATION,
  RETUNE,
  base,
  defaults,
)
from jaxplay.config.parts import (
  ACTIVATIONS,
  AVERAGES,
  COOLDOWN_SHAPES,
  MESH_AXES,
  MESH_PRESETS,
  MODELS,
  MOVES,
  OPTIMIZERS,
  REMAT,
  RESNET_DEPTHS,
  SCHEDULES,
  TEXT_MODELS,
  TRANSFORMERS,
)
from jaxplay.config.values import (
  as_json,
  flatten,
  from_json,
  nearest,
  one_of,
  override,
  rounded,
  shown,
  typed,
)
