"""Configs from experiment files, runs, and the command line."""

import ast
import contextlib
import functools
import inspect
import json
import os
import re
import traceback
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import ml_collections

import jaxplay
from jaxplay import usercode, userfiles
from jaxplay.config import checks, keys, own, parts, values


def load(
  spec: str | Mapping[str, Any], overrides: Mapping[str, str] = {}
) -> ml_collections.ConfigDict:
  """The config of an experiment file, with overrides.

  Args:
    spec: Path of a Python file with `get_config`, `PATH:STRING` to call
      `get_config(STRING)`, the config.json of a run or its content, or the
      study.json of a study, for its base config.
    overrides: Dotted key -> value as text.

  Raises:
    jaxplay.UserError: No such file, key or type, or an override that has no
      effect.
  """
  config, path = _load(spec)
  # Parts are named relative to the config file, on the command line as well.
  with userfiles.importable(path) if path else contextlib.nullcontext():
    # Switches first: they bring keys of their own.
    for key in sorted(overrides, key=lambda key: key not in own.GROUPS):
      text = {key: overrides[key]}
      values.override(config, key, parsed(text, config)[key])
    _locate(config, path)
  checks.check_effect(config, overrides)
  return config


def _locate(config, path):
  """Makes the path of a data set absolute.

  It is relative to the config file; or to the current folder, if it is there.
  """
  kind, colon, place = config.dataset.name.partition(":")
  if kind not in parts.OWN_FILES or not colon or "://" in place:
    return
  here = os.path.expanduser(place)
  near = os.path.join(os.path.dirname(path), here)
  if os.path.exists(here) and not os.path.exists(near):
    near = here
  values.put(config, "dataset.name", f"{kind}:{os.path.abspath(near)}")


def parsed(
  overrides: Mapping[str, str], config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """Values from texts of the command line, as for `override`."""
  flat = values.flatten(config)
  return {
    # Text stays as it is: a folder may be called 007.
    key: text if isinstance(flat.get(key), str) else _parse(text)
    for key, text in overrides.items()
  }


def from_user_file(path: str, name: str, kind: type, argument: str = "") -> Any:
  """What the function `name` of a Python file returns.

  Args:
    path: Path of the file.
    name: "get_config", "get_study" or "get_ladder".
    kind: The type that it must return.
    argument: Its argument; empty: none.

  Raises:
    jaxplay.UserError: It does not run, or returns another type.
  """
  what = name.removeprefix("get_")
  _refuse_no_file(path, what)
  explain = functools.partial(describe, path=path)
  with userfiles.importable(path):
    function = own.run(
      lambda: userfiles.run(path).get(name),
      f"{what} file {path!r} does not run",
      explain,
    )
    if not callable(function):
      raise jaxplay.UserError(f"{what} file {path!r} defines no {name}()")
    made = own.run(
      lambda: _call(function, f"{name}() in {path!r}", argument),
      f"{name}() in {path!r} fails",
      explain,
    )
  if not isinstance(made, kind):
    hint = ""
    if name == "get_config":
      hint = "; start from jaxplay.config.base() and return it"
    raise jaxplay.UserError(
      f"{name}() in {path!r} returns {type(made).__name__}, not a"
      f" {kind.__module__.rpartition('.')[2]}.{kind.__name__}{hint}"
    )
  return made


@contextlib.contextmanager
def beside_config(
  config: ml_collections.ConfigDict, path: str = ""
) -> Iterator[None]:
  """A context in which parts are named relative to those of a config.

  Args:
    config: The config.
    path: A file of the user, whose folder it is if the config has no parts.
  """
  if config.code:
    path = os.path.join(own.folder(config.code), "_")
  with userfiles.importable(path) if path else contextlib.nullcontext():
    yield


def write_code(config: Mapping[str, Any], directory: Any) -> None:
  """Copies the code of a config's parts to a run or study directory.

  Args:
    config: A config, or nested as in config.json.
    directory: A path, perhaps in a bucket; nothing is written if the copy is
      there, or in the study that the run belongs to.
  """
  declared = own.declared_parts(config.get("declared") or ())
  usercode.write(
    config.get("code") or "", [name for _, name in declared], directory
  )


def renewed(
  config: ml_collections.ConfigDict, folder: str
) -> ml_collections.ConfigDict:
  """The config with its parts as they are in a folder now: runs their code.

  What has the default of a part gets its new default.

  Args:
    config: The config; not changed.
    folder: Relative to which it names its parts.

  Raises:
    jaxplay.UserError: A part does not run, or lacks a key that is set.
  """
  nested = values.as_json(config)
  new = values.from_json(
    {**nested, "code": "", "declared": []} | _built_in(nested)
  )
  for switch, name in own.declared_parts(config.declared):
    values.declare(new, switch, name, folder)
  flat = values.flatten(config)
  old = own.defaults_of(flat)
  for key in sorted(flat, key=lambda key: key not in own.GROUPS):
    if key not in ("code", "declared") and flat[key] != old[key]:
      values.select(new, key, flat[key])
  return new


def _built_in(nested):
  """The groups of a nested config without the keys that parts declare."""
  return {
    group: {
      leaf: value
      for leaf, value in nested[group].items()
      if f"{group}.{leaf}" in keys.KEYS
    }
    for group in keys.GROUPS[1:]
  }


def beside(path: str, spec: str) -> str:
  """FILE[:ARG], relative to the folder of `path` or to the current folder."""
  file, colon, argument = spec.partition(":")
  near = os.path.join(os.path.dirname(path), file)
  if os.path.isfile(near):
    return os.path.relpath(near) + colon + argument
  return spec


def absolute(spec: str) -> str:
  """FILE[:ARG] with an absolute path."""
  file, colon, argument = spec.partition(":")
  if os.path.isfile(spec):  # As in `load`.
    file, colon, argument = spec, "", ""
  return os.path.abspath(file) + colon + argument


def describe(error: BaseException, path: str) -> str:
  """The error of a user's code in `path`, with its line."""
  # The message of a locked ConfigDict contains the whole config.
  if unknown := re.search(r'Key "(.*?)" does not exist', own.text_of(error)):
    # The group is only in the source.
    lines = (
      frame.line or "" for frame in traceback.extract_tb(error.__traceback__)
    )
    full = re.findall(
      rf"\b((?:\w+\.)?{re.escape(unknown[1])})\b", " ".join(lines)
    )
    hint = values.nearest(full[-1] if full else unknown[1], keys.defaults())
    where = own.line_of(error, path)
    return f"{where}unknown key {unknown[1]!r}; {hint}"
  return own.describe(error, path)


def _load(spec):
  """(config, its file of the user, or "")."""
  if isinstance(spec, Mapping):
    return values.from_json(spec), ""
  path, _, argument = spec.partition(":")
  if os.path.isfile(spec):  # Its folder may be called 12:30.
    path, argument = spec, ""
  if path.endswith(".json"):
    if argument:
      raise jaxplay.UserError(
        f"{path!r} takes no argument, but got {argument!r}"
      )
    return _load_json(path), ""
  config = from_user_file(
    path, "get_config", ml_collections.ConfigDict, argument
  )
  values.check_keys(config)
  if isinstance(config, ml_collections.FrozenConfigDict):
    config = values.from_json(values.as_json(config))
  return config, path


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
      f"{path!r} holds {values.shown(nested)}; expected an object, {{...}}, as"
      " in the config.json of a run"
    )
  if isinstance(nested.get("config"), Mapping):
    nested = nested["config"]  # Of a study.json.
  return values.from_json(nested, path)


def _refuse_no_file(path, what):
  if os.path.isdir(path):
    raise jaxplay.UserError(f"the {what} file {path!r} is a folder")
  if not os.path.isfile(path):
    raise jaxplay.UserError(f"there is no {what} file {path!r}")


def _call(function, what, argument):
  """Calls a function of the user with an argument, or without."""
  given = (argument,) if argument else ()
  try:
    inspect.signature(function).bind(*given)
  except ValueError:  # A built-in function has no signature.
    pass
  except TypeError as error:
    raise jaxplay.UserError(
      f"{what} takes no argument, but got {argument!r}"
      if argument
      else f"{what} must take no argument, or the ARG of FILE:ARG, and none was"
      f" given: TypeError: {error}"
    ) from None
  return function(*given)


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
