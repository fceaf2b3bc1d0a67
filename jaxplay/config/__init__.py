"""Configs: every key with its default, loading, overriding, checking.

An experiment file defines `get_config()`, which edits `base()` and returns it;
it may take one string, given on the command line as `--config=FILE:STRING`.
Every mistake raises `jaxplay.UserError` with one sentence: the value, the
nearest valid name, and the fix.

    key.py       what is declared about a key
    parts.py     optimizers, models, ... and the keys that each of them reads
    keys.py      the other keys, and the table of all
    own.py       parts of the user, and the keys that they declare
    metric.py    whether more of a metric is better
    values.py    nested and flat values, types, JSON
    metric.py    which metrics are maximized
    checks.py    values, ranges, and pairs that must agree
    edits.py     other lengths, features off, differences
    files.py     from files and the command line
"""
# ruff: noqa: F401  (the names that other packages use)

from jaxplay.config import metric, own
from jaxplay.config.checks import (
  check_effect,
  cooldown_steps,
  evaluated,
  has_effect,
  idle,
  is_on,
  is_own_data,
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
  final_rate,
  is_kept,
  is_resumable,
  longest_warmup,
  next_kept,
  only_code,
  other_seeds,
  resumed,
  settled,
  stored,
  with_batch_size,
  with_evaluations,
  with_steps,
  with_warmup,
  without,
)
from jaxplay.config.files import (
  absolute,
  beside,
  beside_config,
  from_user_file,
  load,
  parsed,
  renewed,
  write_code,
)
from jaxplay.config.key import Key
from jaxplay.config.keys import (
  KEYS,
  OPTIMIZER_NUMBERS,
  REGULARIZATION,
  RETUNE,
  defaults,
)
from jaxplay.config.metric import Metric
from jaxplay.config.own import (
  declared_parts,
  is_own,
  is_text,
  keys_of,
  named,
  takes,
  wraps_errors,
)
from jaxplay.config.parts import (
  ACTIVATIONS,
  AVERAGES,
  CONTINUED,
  COOLDOWN_SHAPES,
  DIAGNOSTICS,
  MESH_AXES,
  MESH_PRESETS,
  MODELS,
  MOVES,
  OPTIMIZERS,
  OWN_FILES,
  REMAT,
  RESNET_DEPTHS,
  SCHEDULES,
  TABLES,
  TEXT_MODELS,
  TRANSFORMERS,
  WRITERS,
)
from jaxplay.config.values import (
  as_json,
  base,
  declare,
  flatten,
  from_json,
  nearest,
  one_of,
  override,
  rounded,
  select,
  shown,
  typed,
)
