"""Configs as nested and flat values: their types, and JSON."""

import difflib
import math
import os
import reprlib
import struct
from collections.abc import Iterable, Mapping
from typing import Any

import ml_collections

import jaxplay
from jaxplay.config import keys

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlist = _SHORT.maxtuple = 8


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
  """The config of a nested dict, as from `as_json` or `stored`.

  Args:
    nested: Nested dicts; an absent key has its default.
    path: Of its file, for error messages.

  Raises:
    jaxplay.UserError: It has other keys or types than `base()`.
  """
  config = keys.base()
  try:
    for key, value in _leaves(nested, _groups()):
      value = typed(key, _as_tuple(value), keys.defaults())
      if value != keys.defaults()[key]:
        put(config, key, value)
  except jaxplay.UserError as error:
    where = f"{str(path)!r}: " if path else ""
    raise jaxplay.UserError(f"{where}{error}") from None
  return config


def override(config: ml_collections.ConfigDict, key: str, value: Any) -> None:
  """Sets the dotted `key` of `config` to a value of the default's type.

  Raises:
    jaxplay.UserError: There is no such key, or the type is wrong.
  """
  put(config, key, typed(key, value, keys.defaults()))


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


def shown(value: Any) -> str:
  """A short `repr` of any value, for a message.

  The value may be large, contain itself, or have too many digits to print.
  """
  if isinstance(value, Mapping | ml_collections.ConfigDict):
    return "a group of keys"
  try:
    return _SHORT.repr(value)
  except ValueError:
    return "a number of thousands of digits"


def nearest(key: str, names: Iterable[str]) -> str:
  """A hint for an unknown key: the nearest name, and where all are listed."""
  listed = "`jaxplay config` lists every key"
  leaves = {name: name.rpartition(".")[2] for name in names}
  # Only by the last part, or hparams.foo would be close to all hparams.
  close = difflib.get_close_matches(
    key.rpartition(".")[2], leaves.values(), 1, 0.7
  )
  if close:
    same = [name for name, leaf in leaves.items() if leaf == close[0]]
    best = difflib.get_close_matches(key, same, 1, 0.0)[0]
    return f"did you mean config.{best}? {listed}"
  return listed


def one_of(subject: str, value: Any, names: Iterable[str]) -> None:
  """Refuses an unknown name.

  Args:
    subject: Begins the message, such as "config.schedule is".
    value: The name.
    names: The valid names.

  Raises:
    jaxplay.UserError: With the nearest name, and all of them.
  """
  names = list(names)
  if value in names:
    return
  close = difflib.get_close_matches(str(value).lower(), names, 1, 0.4)
  hint = f"did you mean {close[0]!r}? " if close else ""
  raise jaxplay.UserError(
    f"{subject} {shown(value)}; {hint}it can be {', '.join(map(repr, names))}"
  )


def rounded(value: float) -> float:
  """The nearest 32-bit floating point number."""
  try:
    return struct.unpack("f", struct.pack("f", value))[0]
  except OverflowError:
    return math.inf


def put(config: ml_collections.ConfigDict, key: str, value: Any) -> None:
  """Sets a dotted key of a locked config, whatever the value."""
  *groups, leaf = key.split(".")
  for group in groups:
    config = config[group]
  with config.unlocked():
    config[leaf] = value


def _as_float(value):
  try:
    return float(value)
  except OverflowError:
    return math.inf if value > 0 else -math.inf


def _as_tuple(value):
  return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _leaves(nested, groups, prefix=""):
  """As `flatten`, only to the depth of `base()`.

  Other input may be nested without end, or contain itself.
  """
  for key in nested:
    name = f"{prefix}{key}"
    try:
      value = nested[key]
    except ml_collections.config_dict.RequiredValueError:
      raise jaxplay.UserError(
        f"config.{name} is a placeholder without value; set it in get_config()"
      ) from None
    if name in groups and isinstance(
      value, Mapping | ml_collections.ConfigDict
    ):
      yield from _leaves(value, groups, f"{name}.")
    else:
      yield name, value


def _groups():
  """The names of the groups of `base()`."""
  return {name.rpartition(".")[0] for name in keys.defaults()} - {""}


def check_keys(config):
  """Refuses a config with other keys or types than `base()`."""
  flat = dict(_leaves(config, _groups()))
  for key, value in flat.items():
    typed(key, value, keys.defaults())
  refuse_missing(flat)


def refuse_missing(flat):
  for key in sorted(keys.defaults().keys() - flat.keys()):
    raise jaxplay.UserError(
      f"config.{key} is missing; start from config.base()"
    )
