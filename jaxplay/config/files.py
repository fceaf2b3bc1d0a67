"""Configs from experiment files, runs, and the command line."""

import ast
import contextlib
import inspect
import json
import os
import re
import sys
import traceback
import warnings
from collections.abc import Mapping
from typing import Any

import ml_collections

import jaxplay
from jaxplay import userfiles
from jaxplay.config import checks, keys, values


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
  config = values.from_json(spec) if isinstance(spec, Mapping) else _load(spec)
  for key, value in parsed(overrides, config).items():
    values.override(config, key, value)
  checks.check_effect(config, overrides)
  return config


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
    hint = ""
    if name == "get_config":
      hint = "; start from jaxplay.config.base() and return it"
    raise jaxplay.UserError(
      f"{name}() in {path!r} returns {type(made).__name__}, not a"
      f" {kind.__module__.rpartition('.')[2]}.{kind.__name__}{hint}"
    )
  return made


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
  lines = [
    f"line {frame.lineno}: "
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == path
  ]
  where = lines[-1] if lines else ""
  # `str` of an error may raise itself.
  name = type(error).__name__
  text = str(traceback.TracebackException.from_exception(error)).strip()
  # The message of a locked ConfigDict contains the whole config.
  if unknown := re.search(r'Key "(.*?)" does not exist', text):
    hint = values.nearest(unknown[1], keys.defaults())
    return f"{where}there is no key {unknown[1]!r}; {hint}"
  if isinstance(error, SystemExit):
    return f"{where}it ends the program ({name}: {text})"
  return f"{where}{name}: {text.partition(chr(10))[0]}"


def _load(spec):
  path, _, argument = spec.partition(":")
  if os.path.isfile(spec):  # Its folder may be called 12:30.
    path, argument = spec, ""
  if path.endswith(".json"):
    if argument:
      raise jaxplay.UserError(
        f"{path!r} takes no argument, but got {argument!r}"
      )
    return _load_json(path)
  config = from_user_file(
    path, "get_config", ml_collections.ConfigDict, argument
  )
  values.check_keys(config)
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


def _run(act, path, what):
  """Calls `act`, which runs the user's code in the file `path`."""
  try:
    # Standard output is for results, such as JSON.
    with contextlib.redirect_stdout(sys.stderr):
      return act()
  except (jaxplay.UserError, KeyboardInterrupt):
    raise
  # The user's own code may raise anything, SystemExit included.
  except BaseException as error:
    raise jaxplay.UserError(f"{what}: {describe(error, path)}") from error


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
