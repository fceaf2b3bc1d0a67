"""Configs: loading, overriding, and one sentence for every mistake."""

import json
import re

import ml_collections
import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay.config import keys

BODY = """
from jaxplay import config as config_lib

def get_config():
  config = config_lib.base()
  {line}
  return config
"""

UNTYPED = "with config.ignore_type(): config.{}"


@pytest.fixture
def experiment(tmp_path):
  """Writes an experiment file; returns its path."""

  def write(text):
    path = tmp_path / "experiment.py"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return str(path)

  return write


def _changed(**changes):
  """The base config with dotted keys set; __ stands for the dot."""
  config = config_lib.base()
  for key, value in changes.items():
    config_lib.override(config, key.replace("__", "."), value)
  return config


def _refusal(function, *args):
  """The sentence with which a request is refused."""
  with pytest.raises(jaxplay.UserError) as caught:
    function(*args)
  message = str(caught.value)
  assert "\n" not in message
  return message


def test_base_is_valid():
  """Config: the defaults are a config that trains, on 1 and on 8 devices."""
  for num_devices in (None, 1, 8):
    config_lib.validate(config_lib.base(), num_devices)


def test_base_is_simple():
  """A4: the first configuration has a constant rate and a fixed momentum."""
  config = config_lib.base()
  assert config.schedule == "constant"
  assert config.hparams.warmup_steps == 0 and not config.clipping
  assert config_lib.without_effect(config) == []


def test_base_is_fresh():
  """Config: editing one config does not change the next."""
  config_lib.base().hparams.learning_rate = 7.0
  assert config_lib.base().hparams.learning_rate != 7.0


@pytest.mark.parametrize("model", config_lib.MODELS)
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_the_objective_follows_the_task(model, weights):
  """Config: text by its loss, images by their errors, unless it is said.

  Config files set a model and leave the rest: of a language model the share of
  wrong tokens is still, and the worse checkpoint was exported.
  """
  config = config_lib.base()
  changes = {"model.name": model, "model.norm": "rms", "model.depth": 10}
  if weights == "ema":
    changes |= {"weights": "ema", "averages": ("ema",)}
  if model == "lm":
    changes["dataset.name"] = "pythonlib"
  for key, value in changes.items():
    config_lib.override(config, key, value)
  said = config.copy_and_resolve_references()
  config_lib.validate(config)
  metric = "loss" if model == "lm" else "error_rate"
  assert config.objective == f"valid/{metric}"
  # It is in what is written, so that whoever reads that needs no rule.
  assert config_lib.as_json(config)["objective"] == f"valid/{metric}"
  for other in ("valid/loss", "valid/error_rate"):
    config_lib.override(said, "objective", other)
    config_lib.validate(said)
    assert said.objective == other


# Loading.


def test_load_runs_the_file(experiment):
  """Config: get_config() edits base() and returns it."""
  path = experiment(BODY.format(line="config.batch_size = 32"))
  config = config_lib.load(path)
  assert config.batch_size == 32
  assert config_lib.load(path, {"batch_size": "16"}).batch_size == 16


def test_load_passes_the_argument(experiment):
  """Config: FILE:STRING calls get_config(STRING)."""
  text = BODY.format(line="config.model.name = name")
  text = text.replace("get_config()", "get_config(name='mlp')")
  path = experiment(text)
  assert config_lib.load(path).model.name == "mlp"
  assert config_lib.load(path + ":resnet").model.name == "resnet"
  path = experiment(BODY.format(line="pass"))
  message = _refusal(config_lib.load, path + ":resnet")
  assert "takes no argument" in message and "'resnet'" in message


def test_load_without_a_file(tmp_path):
  """Errors: a config file that is not there is named."""
  for path in (str(tmp_path / "none.py"), str(tmp_path)):
    assert repr(path) in _refusal(config_lib.load, path)


@pytest.mark.parametrize(
  "text, words",
  [
    ("x = 1", ["defines no get_config()"]),
    ("get_config = 3", ["defines no get_config()"]),
    ("raise KeyError('get_config')", ["line 1", "KeyError"]),
    ("x = 1\n1 / 0", ["line 2", "ZeroDivisionError", "division by zero"]),
    ("import no_such_module", ["line 1", "no_such_module"]),
    ("def get_config(:", ["SyntaxError", "line 1"]),
    ("def get_config(): pass", ["NoneType", "base()"]),
    ("def get_config(): return {}", ["dict", "base()"]),
    ("def get_config(name): pass", ["TypeError", "name"]),
    ("def get_config():\n  raise ValueError", ["line 2", "ValueError"]),
    ("def get_config(a, b): pass", ["argument: 'a'", "FILE:ARG"]),
    ("get_config = dict", ["dict", "base()"]),
    # What ends a program, or cannot even be printed.
    ("import sys\nsys.exit(0)", ["line 2", "ends the program", "SystemExit"]),
    ("def get_config():\n  raise SystemExit", ["line 2", "ends the program"]),
    ("def get_config():\n  raise BaseException", ["line 2", "BaseException"]),
    ("def get_config(): return get_config()", ["line 1", "RecursionError"]),
    (f"x = {'-' * 100_000}1", ["does not run"]),
    (
      "class Silent(Exception):\n  def __str__(self): 1 / 0\nraise Silent",
      ["line 3", "Silent"],
    ),
    (b"x = '\xff'", ["SyntaxError", "experiment.py"]),
    (b"\0", ["null bytes"]),
  ],
)
def test_load_a_file_that_does_not_work(experiment, text, words):
  """Errors: a mistake in the user's own file is told with its line."""
  path = experiment(text)
  message = _refusal(config_lib.load, path)
  assert repr(path) in message
  assert all(word in message for word in words), message


def test_a_user_error_of_the_file_passes(experiment):
  """Errors: an experiment file can refuse a request in its own words."""
  text = "import jaxplay\ndef get_config():\n  raise jaxplay.UserError('no!')"
  assert _refusal(config_lib.load, experiment(text)) == "no!"


@pytest.mark.parametrize(
  "line, nearest",
  [
    ("config.batchsize = 3", "batch_size"),
    ("config.hparams.learningrate = 0.1", "hparams.learning_rate"),
    ("config.model.nmae = 'mlp'", "model.name"),
  ],
)
def test_a_typo_in_a_file_gets_the_nearest_key(experiment, line, nearest):
  """Errors: a locked config refuses typos, in one short sentence."""
  path = experiment(BODY.format(line=line))
  message = _refusal(config_lib.load, path)
  assert f"did you mean config.{nearest}?" in message
  assert "line 6" in message and len(message) < 250


@pytest.mark.parametrize(
  "line, words",
  [
    ("config.seed = print", ["line 7", "builtin_function"]),
    ("config = ml_collections.ConfigDict()", ["averages", "missing"]),
    ("config = ml_collections.ConfigDict({3: 4})", ["config.3"]),
    ("config = ml_collections.ConfigDict({'model': 4})", ["model is a group"]),
    ("config.unlock(); config.itself = config", ["config.itself"]),
    ("config.model.unlock(); config.model.up = config", ["config.model.up"]),
    (UNTYPED.format("seed = config"), ["config.seed is a group"]),
    (UNTYPED.format("seed = print"), ["config.seed", "builtin_function"]),
    (UNTYPED.format("seed = None"), ["config.seed is None"]),
    (
      "config.seed = ml_collections.config_dict.required_placeholder(int)",
      ["config.seed", "placeholder"],
    ),
    ("config.keep_steps = (x := [], x.append(x))", ["config.keep_steps"]),
    ("config.batch_size = 16 ** 99_999", ["config.batch_size", "digits"]),
  ],
)
def test_a_config_of_another_shape(experiment, line, words):
  """Errors: other keys and kinds are named, also of what contains itself."""
  path = experiment("import ml_collections\n" + BODY.format(line=line))

  def load():
    config_lib.validate(config_lib.load(path))

  message = _refusal(load)
  assert all(word in message for word in words), message
  assert len(message) < 400


def test_a_frozen_config_and_one_of_references(experiment):
  """Config: what is computed of another key follows its override."""
  line = "config.max_train_steps = config.get_ref('batch_size') * 2"
  path = experiment(BODY.format(line=line))
  assert config_lib.load(path, {"batch_size": "16"}).max_train_steps == 32
  text = BODY.format(line="import ml_collections")
  text = text.replace(
    "return config", "return ml_collections.FrozenConfigDict(config)"
  )
  config = config_lib.load(experiment(text), {"batch_size": "16"})
  assert config.batch_size == 16
  assert not isinstance(config, ml_collections.FrozenConfigDict)


@pytest.mark.parametrize(
  "text, words",
  [
    ("[]", ["[]", "object"]),
    ("null", ["None", "object"]),
    ("3", ["3", "object"]),
    ('"text"', ["'text'", "object"]),
    ("", ["is not JSON"]),
    ("{", ["is not JSON"]),
    ("[" * 100_000, ["is not JSON"]),
    ('{"model": ' * 100_000, ["is not JSON"]),
    ('{"x": ' * 900 + "1" + "}" * 900, ["config.x"]),
    ('{"seed": ' * 900 + "1" + "}" * 900, ["config.seed is a group"]),
    ('{"seed": ' + "9" * 5000 + "}", ["is not JSON"]),
    ('{"hparams": {"learning_rate": NaN}}', ["learning_rate is nan"]),
    ('{"seed": null}', ["config.seed is None"]),
    ('{"dataset": {"name": null}}', ["config.dataset.name is None"]),
    ('{"model": []}', ["config.model is a group"]),
    (b'{"seed": "\xff"}', ["is not JSON"]),
  ],
)
def test_json_that_is_no_config(tmp_path, text, words):
  """Errors: a JSON file that holds no config is refused in a sentence."""
  path = tmp_path / "config.json"
  path.write_bytes(text if isinstance(text, bytes) else text.encode())
  message = _refusal(lambda: config_lib.validate(config_lib.load(str(path))))
  assert all(word in message for word in words), message
  assert len(message) < 400


@pytest.mark.parametrize(
  "line", ["config.batch_size = 'many'", "config.batch_size = 1.5"]
)
def test_a_wrong_type_in_a_file(experiment, line):
  """Errors: a value of another type is refused where it is set."""
  path = experiment(BODY.format(line=line))
  message = _refusal(config_lib.load, path)
  assert "batch_size" in message and "int" in message


# Overrides, as texts from a command line.


@pytest.mark.parametrize(
  "key, text, value",
  [
    ("batch_size", "64", 64),
    ("hparams.learning_rate", "0.5", 0.5),
    ("hparams.learning_rate", "1", 1.0),
    ("hparams.learning_rate", "3e-4", 3e-4),
    ("clipping", "True", True),
    ("clipping", "false", False),
    ("optimizer", "adam", "adam"),
    ("dataset.train_split", "1-sqrt", "1-sqrt"),
    ("dataset.train_split", "train[:80%]", "train[:80%]"),
    # Texts stay as they are written, whatever they look like.
    ("dataset.data_dir", "007", "007"),
    ("dataset.data_dir", "1e3", "1e3"),
    ("dataset.data_dir", "true", "true"),
    ("dataset.data_dir", "a,b", "a,b"),
    ("dataset.shape", "8,8,1", (8, 8, 1)),
    ("dataset.shape", "(8, 8, 1)", (8, 8, 1)),
    ("dataset.shape", "[8, 8, 1]", (8, 8, 1)),
    ("averages", "ema", ("ema",)),
    ("averages", "ema,window", ("ema", "window")),
    ("averages", "('ema', 'window')", ("ema", "window")),
    ("averages", "()", ()),
    (
      "mesh.rules",
      "(('kernel', (None, 'fsdp')),)",
      (("kernel", (None, "fsdp")),),
    ),
  ],
)
def test_overrides_are_typed(experiment, key, text, value):
  """Config: a text becomes a value of the default's type."""
  path = experiment(BODY.format(line="pass"))
  config = config_lib.load(path, {key: text})
  got = config_lib.flatten(config)[key]
  assert got == value and type(got) is type(value)
  config_lib.validate(config)


@pytest.mark.parametrize(
  "key, text, kind",
  [
    ("batch_size", "12.5", "int"),
    ("batch_size", "True", "int"),
    ("batch_size", "many", "int"),
    ("batch_size", "None", "int"),
    ("hparams.warmup_steps", "1e3", "int"),
    ("hparams.learning_rate", "True", "float"),
    ("hparams.learning_rate", "fast", "float"),
    ("hparams.learning_rate", "(0.1, 0.2)", "float"),
    ("clipping", "1", "bool"),
    ("clipping", "yes", "bool"),
    ("averages", "True", "tuple"),
  ],
)
def test_overrides_of_a_wrong_type(experiment, key, text, kind):
  """Errors: the sentence holds key, value and the type that it must have."""
  path = experiment(BODY.format(line="pass"))
  with pytest.raises(jaxplay.UserError) as caught:
    config_lib.validate(config_lib.load(path, {key: text}))
  message = str(caught.value)
  assert f"config.{key} is" in message or f"config.{key} names" in message
  assert kind in message or "it can hold" in message


@pytest.mark.parametrize(
  "key, nearest",
  [
    ("batch_szie", "batch_size"),
    ("learning_rate", "hparams.learning_rate"),
    ("hparam.learning_rate", "hparams.learning_rate"),
    ("hparams.leraning_rate", "hparams.learning_rate"),
    ("datset.name", "dataset.name"),
    ("modle.name", "model.name"),
  ],
)
def test_an_unknown_key_gets_the_nearest(key, nearest):
  """Errors: a typo gets the nearest key."""
  message = _refusal(config_lib.override, config_lib.base(), key, 1)
  assert f"unknown key config.{key};" in message
  assert f"did you mean config.{nearest}?" in message


def test_a_key_like_no_other():
  """Errors: where no key is near none is proposed."""
  message = _refusal(config_lib.override, config_lib.base(), "hparams.xyz", 1)
  assert "did you mean" not in message and "jaxplay config" in message


def test_a_group_is_no_key():
  """Errors: setting a whole group names one of its keys."""
  message = _refusal(config_lib.override, config_lib.base(), "hparams", 3)
  assert "config.hparams is a group" in message
  assert "config.hparams.beta1" in message


# Values.


def _bounds(interval):
  low, high = interval[1:-1].split(", ")
  return interval[0], float(low), float(high), interval[-1]


_RANGES = {name: k.within for name, k in config_lib.KEYS.items() if k.within}
_CHOICES = {name: k.choices for name, k in config_lib.KEYS.items() if k.choices}


@pytest.mark.parametrize("key", _RANGES)
def test_ranges(key):
  """Errors: just outside its range, each number is refused with the range."""
  opening, low, high, closing = _bounds(_RANGES[key])
  default = config_lib.flatten(config_lib.base())[key]
  is_int = isinstance(default, int)
  below = low if opening == "(" else low - 1
  outside = [below]
  if high != float("inf"):
    outside.append(high if closing == ")" else high + 1)
  if not is_int:
    outside += [float("nan"), float("inf"), float("-inf")]
  for value in outside:
    config = config_lib.base()
    config_lib.override(config, key, int(value) if is_int else value)
    message = _refusal(config_lib.validate, config)
    assert f"config.{key} is" in message
    assert _RANGES[key] in message


@pytest.mark.parametrize("key", _CHOICES)
def test_choices(key):
  """Errors: an unknown name is told the nearest and all there are."""
  names = [name for name in _CHOICES[key] if name]
  config = config_lib.base()
  config_lib.override(config, key, names[0] + "x")
  message = _refusal(config_lib.validate, config)
  assert f"config.{key} is {names[0] + 'x'!r}" in message
  assert f"did you mean {names[0]!r}?" in message
  assert all(repr(name) in message for name in names)


@pytest.mark.parametrize(
  "key, value",
  [
    ("hparams.beta2", 1 - 1e-9),
    ("hparams.epsilon", 1e-60),
    ("hparams.learning_rate", 1e39),
  ],
)
def test_numbers_are_checked_as_the_step_sees_them(key, value):
  """Errors: what 32 bits round out of the range is refused: beta2 = 1 is NaN.

  The rounding is numpy's own.
  """
  low, high = _bounds(_RANGES[key])[1:3]
  with np.errstate(over="ignore"):
    rounded = np.float32(value)
  assert low < value < high and not low < rounded < high
  config = config_lib.base()
  config_lib.override(config, key, value)
  message = _refusal(config_lib.validate, config)
  assert f"config.{key} is {value!r}" in message and "32 bits" in message


def test_integers_fit_in_the_step():
  """Errors: no integer of the config is too large for the step's 32 bits."""
  hparams = config_lib.base().hparams
  integers = [key for key, value in hparams.items() if type(value) is int]
  assert "warmup_steps" in integers
  for key in integers:
    config = config_lib.base()
    config.max_train_steps = 2**31 - 1
    config_lib.override(config, f"hparams.{key}", 2**31)
    assert f"config.hparams.{key}" in _refusal(config_lib.validate, config)


def test_absurdly_large_numbers():
  """Errors: a number beyond all floats is out of range like any other."""
  for key in ("batch_size", "hparams.learning_rate"):
    config = config_lib.base()
    config_lib.override(config, key, 10**400)
    assert f"config.{key}" in _refusal(config_lib.validate, config)


def test_keys_added_or_lost():
  """Errors: a config has exactly the keys of base()."""
  config = config_lib.base()
  with config.unlocked():
    config.batch_sizes = 3
  assert "did you mean config.batch_size?" in _refusal(
    config_lib.validate, config
  )
  config = config_lib.base()
  with config.unlocked():
    del config.mesh.fsdp
  assert "config.mesh.fsdp is missing" in _refusal(config_lib.validate, config)


@pytest.mark.parametrize("value", [None, "128", 128.0, True])
def test_types_are_those_of_base(value):
  """Errors: a config that was made by other means is held to the types."""
  config = config_lib.base()
  with config.unlocked(), config.ignore_type():
    config.batch_size = value
  message = _refusal(config_lib.validate, config)
  assert "config.batch_size is" in message and "int" in message


# Pairs that must agree.

BATCH_NORM = dict(model__norm="batch")
GHOST = dict(model__norm="ghost", batch_size=96)


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(averages=("mean",)), ["'mean'", "'ema'", "'window'"]),
    (dict(objective="test/loss"), ["'valid/error_rate'", "'valid/loss'"]),
    (dict(objective="valid_ema/loss"), ["averages=()", "'valid/loss'"]),
    (dict(batch_size=1024), ["eval_batch_size is 512", "at least 1024"]),
    (dict(hparams__warmup_steps=1001), ["1001", "max_train_steps=1000"]),
    (
      dict(
        schedule="wsd",
        hparams__warmup_steps=900,
        hparams__cooldown_fraction=0.2,
      ),
      ["warmup of 900", "cooldown of 200", "max_train_steps=1000"],
    ),
    (dict(microbatches=3), ["128", "microbatches 3", "126 or 129"]),
    (BATCH_NORM | dict(microbatches=2), ["'batch'", "'ghost'", "64"]),
    (GHOST | dict(model__virtual_batch_size=97), ["97", "batch_size 96"]),
    (GHOST | dict(model__virtual_batch_size=36), ["96", "=36", "32 or 48"]),
    (
      GHOST | dict(model__virtual_batch_size=96, microbatches=2),
      ["microbatch of 48", "=96", "use 48"],
    ),
    (
      dict(optimizer="schedule_free_adamw", hparams__beta1=0.0),
      ["beta1 is 0", "schedule_free_adamw"],
    ),
    (dict(model__name="resnet", model__depth=20), ["20", "18, 34, 50, 101"]),
    (dict(model__name="wide_resnet", model__depth=20), ["20", "16, 22 or 28"]),
    (
      dict(model__norm="group", model__width=100),
      ["num_groups 8", "100 features", "5 or 10"],
    ),
    (dict(dataset__shape=(8, 8)), ["(8, 8)", "(height, width, channels)"]),
    (dict(dataset__shape=(8, 0, 1)), ["(8, 0, 1)"]),
    (dict(mesh__rules=("x",)), ["mesh.rules", "'x'", "pair"]),
    (dict(mesh__rules=(3,)), ["mesh.rules", "3", "pair"]),
    (dict(mesh__rules=(("(", "fsdp"),)), ["mesh.rules", "'('", "pattern"]),
    (dict(mesh__rules=((3, "fsdp"),)), ["mesh.rules", "pattern"]),
    (dict(mesh__rules=((".*", "fdsp"),)), ["'fdsp'", "'fsdp'", "'tensor'"]),
    (dict(mesh__rules=((".*", ("model",)),)), ["('model',)", "'tensor'"]),
    (dict(mesh__rules=((".*", ("data", "data")),)), ["each axis once"]),
  ],
)
def test_pairs_that_disagree(changes, words):
  """Errors: an inconsistent pair is refused with its values and the mend."""
  message = _refusal(config_lib.validate, _changed(**changes))
  assert all(word in message for word in words), message


@pytest.mark.parametrize(
  "changes",
  [
    dict(averages=("ema",), objective="valid_ema/loss"),
    dict(batch_size=512),
    dict(hparams__warmup_steps=1000),
    dict(
      schedule="wsd", hparams__warmup_steps=800, hparams__cooldown_fraction=0.2
    ),
    dict(hparams__dropout_rate=0.1, model__dropout=True),
    # It has no effect, which is no error: a space may turn layers on and off.
    dict(hparams__dropout_rate=0.1),
    GHOST | dict(model__virtual_batch_size=96),
    GHOST | dict(model__virtual_batch_size=48, microbatches=2),
    dict(model__name="resnet", model__depth=18, model__norm="group"),
    dict(model__name="wide_resnet", model__depth=16, model__norm="group"),
    dict(mesh__rules=()),
    dict(mesh__rules=(("kernel", (None, "tensor")), (".*", "fsdp"))),
  ],
)
def test_pairs_that_agree(changes):
  """Config: at the edge of what is refused is what is allowed."""
  config_lib.validate(_changed(**changes), 8)


@pytest.mark.parametrize("model", ["mlp", "lm"])
@pytest.mark.parametrize(
  "name",
  [
    *("npz:a/b.npz", "folder:/photos", "csv:my table.csv", "parquet:t"),
    *("hf:saved", "data.py:load", "more/my data.py:load", "pkg.data:load"),
    *("tfds:mnist", "data:load"),
  ],
)
def test_names_of_data_sets_of_the_user(name, model):
  """Config: files of the user and names of his functions, for any model."""
  norm = "rms" if model == "lm" else "none"
  assert config_lib.is_own_data(name) == (name != "tfds:mnist")
  rows = ()
  if "load" in name:  # As if the function had been loaded.
    rows = (("part", "dataset.name", name, ()),)
  changes = {"declared": rows, "dataset.name": name, "model.name": model}
  config = config_lib.base()
  for key, value in (changes | {"model.norm": norm}).items():
    config_lib.override(config, key, value)
  config_lib.validate(config)


@pytest.mark.parametrize(
  "name", ["npz:", "digits", "a b:load", "data.py:", "text:load", ":x", "x:1"]
)
def test_other_names_are_no_data_sets_of_the_user(name):
  """Config: a path and a name are needed, and text: is for text."""
  assert not config_lib.is_own_data(name)
  lm = {"model__name": "lm", "model__norm": "rms"}
  changes = {} if name == "text:load" else lm
  message = _refusal(
    config_lib.validate, _changed(dataset__name=name, **changes)
  )
  assert repr(name) in message


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(dataset__standardize=True), ["standardize", "True", "'digits'"]),
    (dict(dataset__targets=("y",)), ["targets", "('y',)", "'digits'"]),
    (
      dict(dataset__inputs=("x",), dataset__name="npz:a.npz"),
      ["inputs", "('x',)", "'npz:a.npz'"],
    ),
    (
      dict(dataset__standardize=True, dataset__name="hf:saved"),
      ["standardize", "'hf:saved'", "csv:"],
    ),
    (
      dict(dataset__image_size=8, dataset__name="npz:a.npz"),
      ["image_size", "is 8", "folder:"],
    ),
    (
      dict(dataset__targets=(0.5,), dataset__name="csv:t.csv"),
      ["targets", "(0.5,)"],
    ),
    (
      dict(dataset__augment="resized_crop", dataset__name="folder:photos"),
      ["resized_crop", "image_size"],
    ),
  ],
)
def test_keys_of_other_data_sets(changes, words):
  """Errors: keys that a data set does not read are refused."""
  message = _refusal(config_lib.validate, _changed(**changes))
  assert all(word in message for word in words), message
  if not {"(0.5,)", "resized_crop", "image_size"} & {*words}:
    used = changes | dict(dataset__name="parquet:t", dataset__targets=("y", 3))
    config_lib.validate(_changed(**used))


@pytest.mark.parametrize(
  "changes, words",
  [
    (dict(batch_size=100), ["batch_size 100", "8 devices", "96 or 104"]),
    (dict(batch_size=4), ["batch_size 4 ", "8 devices", "use 8"]),
    (
      dict(batch_size=96, microbatches=8),
      ["batch_size 96 in 8 microbatches", "64 or 128"],
    ),
    (dict(mesh__fsdp=3), ["fsdp=3", "8 devices"]),
    (dict(mesh__data=4), ["data=4", "8 devices"]),
    (dict(mesh__data=2, mesh__fsdp=2), ["data=2, fsdp=2", "8 devices"]),
  ],
)
def test_meshes_that_do_not_fit(changes, words):
  """Errors: a batch that does not divide is told the sizes that do."""
  config = _changed(**changes)
  config_lib.validate(config)  # Nothing is known of devices yet.
  message = _refusal(config_lib.validate, config, 8)
  assert all(word in message for word in words), message


@pytest.mark.parametrize("size", [100, 4, 511])
@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_proposed_batch_sizes_work(size, microbatches):
  """Errors: the way out that an error names is one."""
  changes = dict(microbatches=microbatches, eval_batch_size=1024)
  size = size // microbatches * microbatches
  message = _refusal(
    config_lib.validate, _changed(batch_size=size, **changes), 8
  )
  proposals = re.search(r"use (.*)", message)[1].split(" or ")
  for proposal in proposals:
    config_lib.validate(_changed(batch_size=int(proposal), **changes), 8)


def test_proposed_ghost_groups_work():
  """Errors: the proposed virtual batch sizes are ones that split the batch."""
  changes = GHOST | dict(model__virtual_batch_size=36)
  message = _refusal(config_lib.validate, _changed(**changes))
  for size in re.search(r"use (.*)", message)[1].split(" or "):
    changes["model__virtual_batch_size"] = int(size)
    config_lib.validate(_changed(**changes))


@pytest.mark.parametrize(
  "mesh", [dict(mesh__fsdp=8), dict(mesh__fsdp=2), dict(mesh__tensor=4)]
)
def test_meshes_that_fit(mesh):
  """Config: the tensor axis does not split batches, the other two do."""
  split = 2 if "mesh__tensor" in mesh else 8
  config_lib.validate(_changed(batch_size=split, **mesh), 8)
  config = _changed(batch_size=split // 2, **mesh)
  assert f"{split} devices" in _refusal(config_lib.validate, config, 8)


# Keys without effect, JSON, differences.


def test_without_effect():
  """Config: a number that nothing reads is told, and why."""
  config = _changed(hparams__beta1=0.8, hparams__momentum=0.8)
  assert config_lib.without_effect(config) == [
    "config.hparams.beta1=0.8 has no effect with config.optimizer='nesterov'"
  ]
  config.optimizer = "adam"
  assert config_lib.without_effect(config) == [
    "config.hparams.momentum=0.8 has no effect with config.optimizer='adam'"
  ]


@pytest.mark.parametrize(
  "typed, words",
  [
    (("hparams.dropout_rate", "0.1"), ["config.model.dropout", "True"]),
    # Also the default, which somebody who types it takes to be in force.
    (("hparams.clip_norm", "1.0"), ["config.clipping", "True"]),
    (("hparams.beta1", "0.8"), ["config.optimizer", "'adam'"]),
    (("dataset.augment_pixels", "1"), ["config.dataset.augment", "'shift'"]),
  ],
)
def test_an_override_without_effect(experiment, typed, words):
  """Errors: what was typed is refused with the switch that it needs."""
  path = experiment(BODY.format(line="config.hparams.ema_decay = 0.5"))
  message = _refusal(config_lib.load, path, dict([typed]))
  assert all(w in message for w in (typed[0], typed[1], *words)), message
  switch = words[0].removeprefix("config.")
  both = dict([typed]) | {switch: words[1].strip("'")}
  config_lib.validate(config_lib.load(path, both))


FEATURES = dict(
  averages=("ema", "window"),
  weights="window",
  objective="valid_ema/error_rate",
  clipping=True,
  hparams__clip_norm=0.3,
  schedule="wsd",
  cooldown_shape="square",
  hparams__cooldown_fraction=0.3,
  hparams__final_factor=0.1,
  hparams__warmup_steps=50,
  hparams__ema_decay=0.9,
  hparams__window_steps=7,
  hparams__window_stride=2,
  hparams__weight_decay=0.01,
  hparams__label_smoothing=0.1,
  hparams__dropout_rate=0.2,
  model__dropout=True,
  dataset__augment="shift",
  dataset__augment_pixels=2,
)


@pytest.mark.parametrize("feature", sorted(keys.OFF))
def test_a_feature_off_leaves_a_valid_config(feature):
  """Playbook's procedures: nothing that only the feature used stays set."""
  on = _changed(**FEATURES)
  if feature == "z_loss":
    on = _changed(
      model__name="lm",
      model__norm="rms",
      dataset__name="pythonlib",
      hparams__z_loss=0.1,
    )
  config_lib.validate(on)
  assert not config_lib.without_effect(on)
  off = config_lib.without(on, feature)
  assert off and all(config_lib.flatten(on)[k] != v for k, v in off.items())
  config = on.copy_and_resolve_references()
  for key, value in off.items():
    config_lib.override(config, key, value)
  config_lib.validate(config)
  assert not config_lib.without_effect(config)
  assert not config_lib.without(config, feature)


@pytest.mark.parametrize(
  "averages, weights, objective, expected",
  [
    ((), "raw", "valid_ema/loss", "valid/loss"),
    ((), "raw", "valid_raw/loss", "valid/loss"),
    (("window",), "raw", "valid_ema/loss", "valid/loss"),
    (("window",), "window", "valid_raw/loss", "valid_raw/loss"),
    (("ema", "window"), "raw", "valid_ema/loss", "valid_ema/loss"),
  ],
)
def test_an_objective_follows_the_averages(
  averages, weights, objective, expected
):
  """M4: without its averages an objective is that of the weights themselves."""
  flat = config_lib.flatten(_changed(objective=objective))
  changes = config_lib.settled(flat, {"averages": averages, "weights": weights})
  assert (flat | changes)["objective"] == expected


@pytest.mark.parametrize("steps", [1, 2, 7, 24, 33, 100, 1000, 3000])
@pytest.mark.parametrize("warmup, fraction", [(0, 1.0), (200, 0.8), (600, 0.4)])
@pytest.mark.parametrize("schedule", ["wsd", "linear", "constant"])
def test_another_length_is_valid(steps, warmup, fraction, schedule):
  """F4: of any length; a warmup that fits stays, another keeps its share."""
  config = _changed(
    schedule=schedule,
    hparams__warmup_steps=warmup,
    hparams__cooldown_fraction=fraction,
  )
  config_lib.validate(config)
  changes = config_lib.with_steps(config_lib.flatten(config), steps)
  for key, value in changes.items():
    config_lib.override(config, key, value)
  config_lib.validate(config)
  assert config.max_train_steps == steps
  new = config.hparams.warmup_steps
  assert new == warmup or warmup * steps / 1000 - 2 <= new < warmup
  assert steps < 1000 or new == warmup
  # And of any warmup.
  longer = config_lib.with_warmup(config_lib.flatten(config), steps)
  for key, value in longer.items():
    config_lib.override(config, key, value)
  config_lib.validate(config)
  assert (config.max_train_steps, config.hparams.warmup_steps) == (steps, steps)


def test_phases_of_a_mixture_keep_their_shares():
  """F4: also where so few steps are left that two begin at one."""
  mixtures = tuple((step, (("pythonlib", 1.0 + step),)) for step in (0, 8, 900))
  flat = config_lib.flatten(_changed(dataset__mixtures=mixtures))
  shares = {}
  for steps in (500, 10):
    changes = config_lib.with_steps(flat, steps)
    shares[steps] = [(a, of[0][1]) for a, of in changes["dataset.mixtures"]]
  assert shares == {500: [(0, 1), (4, 9), (450, 901)], 10: [(0, 9), (9, 901)]}


@pytest.mark.parametrize("seed", [0, 7, 2**32 - 2, 2**32 - 1])
def test_other_seeds(seed):
  """G3: of any seed there are others, all of them valid."""
  seeds = config_lib.other_seeds(seed, 5)
  assert len({seed, *seeds}) == 6
  for other in seeds:
    config_lib.validate(_changed(seed=other))


def test_every_number_of_the_optimizer_has_an_effect():
  """A3: of each optimizer, all its numbers can be set."""
  numbers = {
    "sgd": set(),
    "momentum": {"momentum"},
    "nesterov": {"momentum"},
    "rmsprop": {"momentum", "rho", "epsilon"},
    "adam": {"beta1", "beta2", "epsilon"},
    "nadam": {"beta1", "beta2", "epsilon"},
    "adamw": {"beta1", "beta2", "epsilon"},
    "lion": {"beta1", "beta2"},
    "schedule_free_adamw": {"beta1", "beta2", "epsilon"},
    "muon": {"momentum", "beta1", "beta2", "epsilon"},
    "adafactor": {"decay_rate"},
    "sophia": {"beta1", "beta2", "epsilon", "gamma"},
    "ademamix": {"beta1", "beta2", "beta3", "mixing", "epsilon"},
  }
  assert numbers.keys() == set(config_lib.OPTIMIZERS)
  for optimizer, own in numbers.items():
    used = {
      key.removeprefix("hparams.")
      for key in config_lib.KEYS
      if config_lib.used_by(key, {})
      and config_lib.used_by(key, {})[0] == "optimizer"
      and optimizer in config_lib.used_by(key, {})[1]
    }
    assert used == own, optimizer


def test_as_json_round_trip():
  """Config: JSON and back is the same, and no difference to itself."""
  config = _changed(averages=("ema",), hparams__learning_rate=1 / 3)
  plain = config_lib.as_json(config)
  assert json.loads(json.dumps(plain)) == plain
  assert config_lib.differences(plain, json.loads(json.dumps(plain))) == {}
  # Every value comes back as it was, once it is a ConfigDict again.
  again = config_lib.base()
  for key, value in config_lib.flatten(plain).items():
    config_lib.override(again, key, value)
  assert config_lib.as_json(again) == plain
  config_lib.validate(again)


def test_as_json_is_sorted():
  """Names on disk: the keys of config.json are sorted at every level."""
  plain = config_lib.as_json(config_lib.base())
  for group in (plain, plain["hparams"], plain["mesh"]):
    assert list(group) == sorted(group)


def test_differences():
  """Resume: what makes another run differs, where it is computed does not."""
  old = config_lib.as_json(config_lib.base())
  new = config_lib.as_json(
    _changed(
      batch_size=64,
      hparams__momentum=0.5,
      dataset__shape=(8, 8, 1),
      mesh__fsdp=2,
      steps_per_call=7,
      report_test=True,
      dataset__workers=3,
    )
  )
  assert config_lib.differences(old, new) == {
    "batch_size": (128, 64),
    "dataset.shape": ([32, 32, 3], [8, 8, 1]),
    "hparams.momentum": (0.9, 0.5),
  }


def test_differences_of_keys():
  """Resume: a key that only one of two configs has is a difference."""
  old = config_lib.as_json(config_lib.base())
  new = old | {"novelty": 3}
  assert config_lib.differences(old, new) == {"novelty": (None, 3)}
  assert config_lib.differences(new, old) == {"novelty": (3, None)}


def test_flatten_takes_dicts_and_configs():
  """Config: flat keys are the same of a ConfigDict and of its JSON."""
  config = ml_collections.ConfigDict({"a": {"b": 1, "c": {"d": 2}}, "e": 3})
  flat = {"a.b": 1, "a.c.d": 2, "e": 3}
  assert config_lib.flatten(config) == flat
  assert config_lib.flatten(config.to_dict()) == flat


def test_a_key_that_is_younger_than_a_run():
  """A run from before a key was there resumes, unless it is set to another."""
  new = config_lib.as_json(config_lib.base())
  old = config_lib.as_json(config_lib.base())
  del old["model"]["strides"]
  assert config_lib.differences(old, new) == {}
  new["model"]["strides"] = [1, 1, 2]
  assert list(config_lib.differences(old, new)) == ["model.strides"]


def test_the_way_out_that_is_named_exists(tmp_path):
  """Errors: what a broken config file is told to start from can be imported."""
  for text in ("return 3", "return ml_collections.ConfigDict()"):
    path = tmp_path / "config.py"
    path.write_text(f"import ml_collections\ndef get_config():\n  {text}\n")
    message = _refusal(config_lib.load, str(path))
    name = re.search(r"start from ([\w.]+)\(\)", message)[1]
    assert name in ("config.base", "jaxplay.config.base")
    assert getattr(config_lib, name.rpartition(".")[2]) is config_lib.base


@pytest.mark.parametrize("model", config_lib.MODELS)
def test_a_stored_config_holds_the_keys_of_its_parts(model):
  """Names on disk: config.json leaves out defaults of parts not chosen."""
  config = _changed(model__name=model, optimizer="adam", hparams__rho=0.5)
  stored, complete = config_lib.stored(config), config_lib.as_json(config)
  assert stored["hparams"].keys() >= {"beta1", "beta2", "epsilon", "rho"}
  assert "momentum" not in stored["hparams"]
  assert ("heads" in stored["model"]) == (model in config_lib.TRANSFORMERS)
  assert ("mixtures" in stored["dataset"]) == (model == "lm")
  # To whoever reads it, it is the complete config.
  again = config_lib.from_json(json.loads(json.dumps(stored)))
  assert config_lib.as_json(again) == complete
  for other in (complete, config_lib.as_json(config_lib.base())):
    differences = config_lib.differences(complete, other)
    assert config_lib.differences(stored, other) == differences
