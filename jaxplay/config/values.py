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
from jaxplay import usercode
from jaxplay.config import keys, own

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 80
_SHORT.maxlist = _SHORT.maxtuple = 8


class Config(ml_collections.ConfigDict):
  """A config. To name a part of the user adds the keys that it declares.

  So `config.model.name = "mixer.py:Mixer"` loads that file, and
  `config.model.patch` can be set in the next line.
  """

  def __init__(self, *args, **kwargs):
    object.__setattr__(self, "_above", None)  # (config, name of this group)
    super().__init__(*args, **kwargs)

  def __setitem__(self, key, value):
    if isinstance(value, Config):
      object.__setattr__(value, "_above", (self, key))
    if key not in self:  # It is being made or copied.
      super().__setitem__(key, value)
      return
    config, name = self, key
    if self._above is not None:
      config, name = self._above[0], f"{self._above[1]}.{key}"
    if own.is_own(name, value):
      declare(config, name, value)
    _set(config, name, lambda: super(Config, self).__setitem__(key, value))


def base() -> ml_collections.ConfigDict:
  """A config of every key with its default, to be edited."""
  config = Config()
  for group in keys.GROUPS[1:]:
    config[group] = Config()
  for name, key in keys.KEYS.items():
    group, _, leaf = name.rpartition(".")
    (config[group] if group else config)[leaf] = key.default
  return config.lock()


def declare(
  config: ml_collections.ConfigDict,
  switch: str,
  name: str,
  folder: str | None = None,
) -> None:
  """Adds a part of the user to those that a config knows: runs its code.

  Args:
    config: The config, changed in place; the part is not selected yet.
    switch: Key that selects such parts.
    name: FILE.py:NAME or package.module:NAME.
    folder: Relative to which it is named; None: that of the config's other
      parts, of the user's file that runs, or the current one.

  Raises:
    jaxplay.UserError: It does not run, or declares what no key can be.
  """
  known = own.declared_parts(config.declared)
  if (switch, name) in known:
    return
  folder = own.folder(config.code) if folder is None else folder
  rows = own.declare(switch, name, folder)
  contents = usercode.files([n for _, n in known] + [name], folder)
  code = usercode.note(contents, folder)
  flat = flatten(config)
  put(config, "code", code)
  put(config, "declared", (*config.declared, *rows))
  for key, value in own.defaults_of(flatten(config)).items():
    if key not in flat:
      put(config, key, value)


def _set(config, key, act):
  """Sets a key; if it selects a part, what has its default gets the part's."""
  if key not in own.GROUPS or not config.get("declared"):
    act()
    return
  flat = flatten(config)
  before = own.defaults_of(flat)
  act()
  for name, default in own.defaults_of(flatten(config)).items():
    if name in before and flat[name] == before[name] != default:
      put(config, name, default)


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
    path: Of its file, for error messages, and because the code of its parts
      may be beside it.

  Raises:
    jaxplay.UserError: It has other keys or types than `base()`.
  """
  config = base()
  if path:
    usercode.look_in(os.path.dirname(path) or ".")
  try:
    leaves = {k: _as_tuple(v) for k, v in _leaves(nested, _groups())}
    defaults: Mapping = keys.defaults()
    if leaves.get("declared"):
      leaves["declared"] = own.as_rows(leaves["declared"])
      defaults = own.defaults_of(leaves)
    for key, value in {**defaults, **leaves}.items():
      value = typed(key, value, defaults)
      if value != keys.defaults().get(key):
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
  if own.is_own(key, value):
    declare(config, key, value)
  select(config, key, value)


def select(config: ml_collections.ConfigDict, key: str, value: Any) -> None:
  """As `override`, without loading a part of the user that is not declared."""
  group, _, leaf = key.rpartition(".")
  inner = config if not group else config.get(group, {})
  known = group in keys.GROUPS and leaf in inner and leaf not in keys.GROUPS
  flat = {key: inner[leaf]} if known else flatten(config)
  value = typed(key, value, flat)
  _set(config, key, lambda: put(config, key, value))


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
    raise jaxplay.UserError(f"unknown key config.{key}; {nearest(key, flat)}")
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
    # Not as `Config` does, which loads parts.
    ml_collections.ConfigDict.__setitem__(config, leaf, value)


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
  """Refuses a config with other keys or types than `base()` and its parts."""
  flat = dict(_leaves(config, _groups()))
  defaults = own.defaults_of(flat)
  for key, value in flat.items():
    typed(key, value, defaults)
  refuse_missing(flat)


def refuse_missing(flat):
  for key in sorted(own.defaults_of(flat).keys() - flat.keys()):
    raise jaxplay.UserError(
      f"config.{key} is missing; start from config.base()"
    )
