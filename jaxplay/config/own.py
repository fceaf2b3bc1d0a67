"""Parts of the user: models, optimizers, ... named in a config as FILE.py:NAME.

A part declares its own keys where it stands, by annotated fields of a class or
arguments of a function with defaults:

    class Mixer(nn.Module):
      patch: Annotated[int, "[1, 64]", "side of a patch, in pixels"] = 4
      activation: Literal["gelu", "relu"] = "gelu"

are config.model.patch and config.model.activation. When a part is named they
are added to the config, and written down in `config.declared`, so that whoever
reads a config knows them without running the user's code:

    ("part", switch, part, names that it takes)
    ("key", switch, part, key, default, within, choices, comment, traced)
    ("metric", part, name, maximized, most)
"""

import contextlib
import dataclasses
import functools
import inspect
import math
import os
import re
import sys
import traceback
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import ml_collections

import jaxplay
from jaxplay import usercode, userfiles
from jaxplay.config import keys, parts
from jaxplay.config.key import Key

# Switch -> group of the keys of its parts.
GROUPS = {
  "model.name": "model",
  "optimizer": "hparams",
  "schedule": "hparams",
  "task.name": "task",
  "dataset.name": "dataset",
}
_OF_FLAX = ("parent", "name")  # Fields of every Linen module.
# Its Dropout decides on the rate in Python.
_DROPOUT = os.path.join("flax", "linen", "stochastic.py")
# What a part gets if it names it, instead of a key.
_GIVEN = {
  "model.name": (
    *(*_OF_FLAX, "num_classes", "norm", "constrain", "dtype"),
    *("train", "weights", "rows", "dropout_rate"),
  ),
  "optimizer": ("learning_rate", "mask", "weight_decay_mask"),
  "schedule": ("step", "hparams"),
  "task.name": ("num_outputs", "maximize"),
  "dataset.name": (),
}
# Data sets that are built in, by what is in front of the colon.
_BUILT_IN = ("tfds", "text", *parts.OWN_FILES)
_TAKEN = {
  "hparams": ("max_train_steps", "schedule", "cooldown_shape"),
  "model": ("name",),
  "task": ("name", "metrics"),
  "dataset": ("name",),
}
_TRACED = ("hparams", int), ("hparams", float)
_INTERVAL = re.compile(r"([\[(])\s*(\S+)\s*,\s*(\S+)\s*([\])])")


def is_own(switch: str, name: Any) -> bool:
  """Whether the value of a switch names a part of the user."""
  if switch not in GROUPS or not usercode.is_name(name):
    return False
  return switch != "dataset.name" or name.partition(":")[0] not in _BUILT_IN


def named(flat: Mapping[str, Any]) -> dict[str, str]:
  """Switch -> part of the user, of those that a flat config selects."""
  return {s: flat[s] for s in GROUPS if is_own(s, flat.get(s))}


def declared_parts(declared: Any) -> list[tuple[str, str]]:
  """(switch, part) of all parts in `config.declared`."""
  return [(row[1], row[2]) for row in declared if row[0] == "part"]


def takes(
  flat: Mapping[str, Any], switch: str, part: str | None = None
) -> tuple[str, ...]:
  """The names that a part takes, the selected one if None; "*": unknown."""
  part = flat[switch] if part is None else part
  for row in flat.get("declared") or ():
    if row[0] == "part" and row[1:3] == (switch, part):
      return tuple(row[3])
  return ()


def arguments(
  flat: Mapping[str, Any], switch: str, part: str | None = None
) -> tuple[dict[str, Any], tuple[str, ...]]:
  """The values of a part's keys.

  Args:
    flat: The config.
    switch: The switch of the part.
    part: The part; None: the selected one.

  Returns:
    (name to value of what is fixed, names of what is traced)
  """
  part = flat[switch] if part is None else part
  static, traced = {}, []
  table = keys_of(flat)
  for row in flat["declared"]:
    if row[:3] == ("key", switch, part):
      name = row[3].rpartition(".")[2]
      if table[row[3]].traced:
        traced.append(name)
      else:
        static[name] = flat[row[3]]
  return static, tuple(traced)


def declare(switch: str, name: str, folder: str) -> tuple[tuple, ...]:
  """Loads a part, which runs the user's code, and returns its rows.

  Args:
    switch: Of `GROUPS`.
    name: FILE.py:NAME or package.module:NAME.
    folder: Relative to which it is named.

  Raises:
    jaxplay.UserError: It does not run, or declares what no key can be.
  """
  # Annotations that are texts are names in its module.
  with usercode.importing(name, folder):
    return _rows(switch, name, load(switch, name, folder))


def _rows(switch, name, part):
  where = f"config.{switch}={name!r}"
  rows: list[tuple] = []
  taken = set(_GIVEN[switch]) & {f.name for f in _fields(part, switch)}
  taken -= set(_OF_FLAX)
  for field in _fields(part, switch):
    if field.name in _GIVEN[switch] or field.name.startswith("_"):
      continue
    row = _key_row(switch, name, field, where)
    if row is not None:
      rows.append(row)
  if switch == "model.name":
    taken |= _taken_by_call(part)
  if switch == "task.name":
    rows += [
      ("metric", name, metric, True, None) for metric in maximized(part, where)
    ]
  rows.append(("part", switch, name, tuple(sorted(taken))))
  return tuple(sorted(rows, key=lambda row: (row[0], str(row))))


def load(switch: str, name: str, folder: str) -> Any:
  """The object that a name stands for; runs the user's code.

  Raises:
    jaxplay.UserError: It does not run, or there is no such thing.
  """
  where = f"config.{switch}={name!r}"
  return run(lambda: usercode.load(name, folder), f"{where} does not run")


def run(
  act: Callable[[], Any],
  what: str,
  explain: Callable[[BaseException], str] | None = None,
) -> Any:
  """Calls `act`, which runs the user's code.

  Args:
    act: The function.
    what: Begins the message if it fails.
    explain: Instead of `describe`.

  Raises:
    jaxplay.UserError: It fails.
  """
  try:
    # Standard output is for results, such as JSON.
    with contextlib.redirect_stdout(sys.stderr):
      return act()
  except (jaxplay.UserError, KeyboardInterrupt):
    raise
  # The user's own code may raise anything, SystemExit included.
  except BaseException as error:
    raise jaxplay.UserError(
      f"{what}: {(explain or describe)(error)}"
    ) from error


def guarded(function: Callable[..., Any], what: str) -> Callable[..., Any]:
  """A function of the user, of which every call is one of `run`."""
  return lambda *args, **kwargs: run(lambda: function(*args, **kwargs), what)


def describe(error: BaseException, path: str = "") -> str:
  """The error of a user's code, with its line.

  Args:
    error: The error.
    path: The user's file; empty: the last one in the traceback that is not of
      an installed package, which is named as well.
  """
  name, where = type(error).__name__, ""
  text = text_of(error).partition("\n")[0]
  frames = traceback.extract_tb(error.__traceback__)
  if path:
    where = line_of(error, path)
  else:
    own = [frame for frame in frames if _is_users(frame.filename)]
    if own:
      file = os.path.relpath(own[-1].filename)
      where = f"{file!r}, line {own[-1].lineno}: "
    elif isinstance(error, SyntaxError) and error.filename:
      where = f"{os.path.relpath(error.filename)!r}, line {error.lineno}: "
  if isinstance(error, SystemExit):
    return f"{where}it ends the program ({name}: {text})"
  if name.startswith("Tracer") or name == "ConcretizationTypeError":
    text += " (a number that is traced decides in Python; use "
    if any(frame.filename.endswith(_DROPOUT) for frame in frames):
      text += "jaxplay.models.dropout, which takes dropout_rate, or a field of"
      text += " the model for the rate)"
    else:
      text += 'jax.numpy, or declare it as Annotated[float, "static"])'
  return f"{where}{name}: {text}"


def text_of(error: BaseException) -> str:
  """The text of an error, whose `str` may raise itself."""
  return str(traceback.TracebackException.from_exception(error)).strip()


def line_of(error: BaseException, path: str) -> str:
  """ "line N: ", the last line in a file on the way to an error, or ""."""
  lines = [
    f"line {frame.lineno}: "
    for frame in traceback.extract_tb(error.__traceback__)
    if frame.filename == path
  ]
  return lines[-1] if lines else ""


_OURS = os.path.dirname(os.path.abspath(jaxplay.__file__))
_INSTALLED = {os.path.dirname(os.path.abspath(os.__file__))} | {
  os.path.abspath(path)
  for path in sys.path
  if path.endswith(("site-packages", "dist-packages"))
}


def _is_users(filename):
  """Whether a file is neither ours, nor installed, nor Python's own."""
  if filename.startswith("<"):
    return False
  path = os.path.abspath(filename)
  return not path.startswith(
    tuple(folder + os.sep for folder in (_OURS, *_INSTALLED))
  )


def wraps_errors(flat: Mapping[str, Any]) -> Any:
  """A context in which an error in the user's files becomes one sentence.

  Args:
    flat: The config; without parts of the user nothing is changed.
  """
  return _wrapped() if named(flat) else contextlib.nullcontext()


@contextlib.contextmanager
def _wrapped() -> Iterator[None]:
  try:
    yield
  except jaxplay.UserError:
    raise
  except (Exception, SystemExit) as error:
    frames = traceback.extract_tb(error.__traceback__)
    if not any(_is_users(frame.filename) for frame in frames):
      raise
    raise jaxplay.UserError(f"a part fails: {describe(error)}") from error


@dataclasses.dataclass(frozen=True)
class _Field:
  name: str
  annotation: Any  # inspect.Parameter.empty: none
  default: Any  # the same


_EMPTY = inspect.Parameter.empty


def _fields(part, switch):
  """The fields of a class, or the arguments of a function."""
  if inspect.isclass(part):
    hints = _hints(part)
    fields = [
      _Field(name, hint, _default(part, name))
      for name, hint in hints.items()
      if typing.get_origin(hint) is not typing.ClassVar
    ]
    return fields
  if not callable(part) or (switch == "model.name" and not is_maker(part)):
    return []
  try:
    parameters = inspect.signature(part).parameters.values()
  except (TypeError, ValueError):
    return []
  if switch == "schedule":
    parameters = list(parameters)[1:]  # The step, by any name.
  if isinstance(part, functools.partial):
    part = part.func
  hints = _hints(part if inspect.isroutine(part) else type(part).__call__)
  return [
    _Field(p.name, hints.get(p.name, p.annotation), p.default)
    for p in parameters
    if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
  ]


def _hints(part):
  try:
    return typing.get_type_hints(part, include_extras=True)
  except Exception:  # A name in it may not exist at run time; the others do.
    hints = {}
    for owner in reversed(part.__mro__) if inspect.isclass(part) else (part,):
      names = vars(sys.modules.get(owner.__module__, object))
      for name, hint in inspect.get_annotations(owner).items():
        hints[name] = _hint(hint, names)
    return hints


def _hint(hint, names):
  one = types.SimpleNamespace(__annotations__={"hint": hint})
  try:
    (found,) = typing.get_type_hints(one, {**names}, None, True).values()
    return found
  except Exception:
    return hint


def _default(part, name):
  field = getattr(part, "__dataclass_fields__", {}).get(name)
  if field is not None:
    if field.default is not dataclasses.MISSING:
      return field.default
    if field.default_factory is not dataclasses.MISSING:
      return field.default_factory()
    return _EMPTY
  return getattr(part, name, _EMPTY)


def _key_row(switch, name, field, where):
  """The row of a key; None if the field is nothing that a config can hold."""
  group = GROUPS[switch]
  key, kind, extras = f"{group}.{field.name}", field.annotation, ()

  def refuse(why):
    raise jaxplay.UserError(f"{where}: {field.name} {why}")

  if typing.get_origin(kind) is typing.Annotated:
    kind, *extras = typing.get_args(kind)
  default = field.default
  if default is _EMPTY:
    given = ", ".join(n for n in _GIVEN[switch] if n not in _OF_FLAX)
    refuse(
      f"has no default; give it one, which becomes that of config.{key}"
      + (f" (without one it gets {given}, by these names)" if given else "")
    )
  if isinstance(default, list):
    default = tuple(default)
  if kind is float and type(default) is int:
    default = float(default)
  if not _is_value(default):
    return None
  if group == "hparams" and isinstance(default, tuple):
    return None
  if field.name in _TAKEN[group]:
    refuse(f"cannot be a key, since config.{key} is another one; rename it")
  choices = ()
  if typing.get_origin(kind) is typing.Literal:
    choices = typing.get_args(kind)
    if not all(isinstance(choice, str) for choice in choices):
      refuse("is a Literal of other values than texts; use an interval")
    if default not in choices:
      refuse(f"is {default!r} by default, which is not one of {choices}")
  within, comments, is_fixed = "", [], False
  for extra in extras:
    if not isinstance(extra, str):
      continue
    if _INTERVAL.fullmatch(extra):
      within = _interval(extra, refuse)
    elif extra == "static":
      is_fixed = True
    else:
      comments.append(extra)
  is_number = type(default) in (int, float)
  if within and not is_number:
    refuse(f"has the range {within} and is {default!r}, which is no number")
  known = keys.KEYS.get(key)
  if known is not None and type(known.default) is not type(default):
    refuse(
      f"is {default!r} by default, and config.{key} is built in with another"
      f" type, {type(known.default).__name__}; rename it"
    )
  if known is not None:
    within, choices = within or known.within, choices or known.choices
  if within and not Key(default, "", within).holds(default):
    refuse(f"is {default!r} by default, which does not lie in {within}")
  # Optimizers branch in Python on integers, such as a number of iterations.
  numbers = (int, float) if switch == "schedule" else (float,)
  traced = group == "hparams" and type(default) in numbers and not is_fixed
  comment = "; ".join(comments) or f"of {name}"
  return "key", switch, name, key, default, within, choices, comment, traced


def _is_value(value):
  if isinstance(value, tuple):
    return all(map(_is_value, value))
  if isinstance(value, float):
    return math.isfinite(value)
  if type(value) is int:
    return -(2**63) <= value < 2**63
  return isinstance(value, bool | str)


def _interval(text, refuse):
  begin, low, high, end = _INTERVAL.fullmatch(text).groups()
  try:
    valid = float(low) <= float(high)
  except ValueError:
    valid = False
  if not valid:
    refuse(f"has the range {text!r}; expected one such as '[0, 1)'")
  return f"{begin}{low}, {high}{end}"


def _taken_by_call(part):
  """What `__call__` of a Linen module takes; "*" of another kind of model."""
  if not is_linen(part):
    return {"*"}
  return set(_GIVEN["model.name"]) & set(
    inspect.signature(part.__call__).parameters
  )


def is_maker(part: Any) -> bool:
  """Whether a part is called to make a model, and is none itself."""
  return (
    inspect.isclass(part)
    or inspect.isroutine(part)
    or isinstance(part, functools.partial)
  )


def is_linen(part: Any) -> bool:
  """Whether it is a class of Flax's Linen, without importing that."""
  return inspect.isclass(part) and any(
    c.__module__.startswith("flax.linen") for c in part.__mro__
  )


def maximized(part: Any, where: str) -> tuple[str, ...]:
  """Names of the metrics of a user's task of which more is better.

  Args:
    part: His class, or an instance.
    where: Begins the message.

  Raises:
    jaxplay.UserError: `maximize` does not hold names of metrics.
  """
  maximize = getattr(part, "maximize", ())
  if isinstance(maximize, str):
    maximize = (maximize,)
  if not isinstance(maximize, tuple | list) or not all(
    isinstance(n, str) and re.fullmatch("[a-z0-9_]+", n) for n in maximize
  ):
    raise jaxplay.UserError(
      f"{where}: maximize is {maximize!r}; expected a tuple of the names of"
      " metrics, of small letters, digits and _"
    )
  return tuple(maximize)


def as_rows(value: Any) -> tuple[tuple, ...]:
  """`config.declared` from JSON, checked.

  Raises:
    jaxplay.UserError: It is nothing that `declare` makes.
  """
  if not isinstance(value, tuple | list):
    raise jaxplay.UserError("config.declared is no list of rows")
  rows = tuple(_as_tuple(row) for row in value)
  for row in rows:
    if not _is_row(row):
      raise jaxplay.UserError(
        f"config.declared has the row {repr(row)[:80]}, which no part declares"
      )
  return rows


def _as_tuple(value):
  return (
    tuple(map(_as_tuple, value)) if isinstance(value, list | tuple) else value
  )


def _is_row(row):
  match row:
    case ("part", str(switch), str(name), tuple(names)):
      return is_own(switch, name) and all(isinstance(n, str) for n in names)
    case ("metric", str(name), str(), bool(), None | float() | int()):
      return is_own("task.name", name)
    case ("key", str(switch), str(name), str(key), _, str(), _, str(), bool()):
      *_, default, within, choices, _, traced = row
      group, _, leaf = key.partition(".")
      known = keys.KEYS.get(key)
      return (
        is_own(switch, name)
        and group == GROUPS[switch]
        and leaf.isidentifier()
        and leaf not in _TAKEN[group]
        and _is_value(default)
        and (known is None or type(known.default) is type(default))
        and isinstance(choices, tuple)
        and all(isinstance(choice, str) for choice in choices)
        and (not choices or default in choices)
        and (not within or _holds(default, within))
        and (not traced or (group, type(default)) in _TRACED)
      )
  return False


def _holds(default, within):
  if type(default) not in (int, float) or not _INTERVAL.fullmatch(within):
    return False
  try:
    return Key(default, "", within).holds(default)
  except ValueError:
    return False


def keys_of(flat: Mapping[str, Any]) -> Mapping[str, Key]:
  """The keys of a config: those that are built in, and those of its parts.

  Args:
    flat: Its dotted keys and values; of them the switches and `declared` count.
  """
  declared = flat.get("declared") or ()
  if not declared:
    return keys.KEYS
  selected = (flat.get(s, keys.defaults()[s]) for s in GROUPS)
  # A list is of JSON.
  of_json = not isinstance(declared, tuple) or not isinstance(
    declared[0], tuple
  )
  return _table(as_rows(declared) if of_json else declared, *selected)


def defaults_of(flat: Mapping[str, Any]) -> Mapping[str, Any]:
  """Dotted keys and defaults of `keys_of`, sorted."""
  table = keys_of(flat)
  if table is keys.KEYS:
    return keys.defaults()
  return {name: table[name].default for name in sorted(table)}


@functools.lru_cache(1024)
def _table(declared, *values):
  table, selected = dict(keys.KEYS), dict(zip(GROUPS, values, strict=True))
  for row in declared:
    if row[:3] == ("part", "model.name", selected["model.name"]):
      text = _is_text(*map(selected.get, _OF_TEXT))
      _narrow(table, row[2], row[3], text)
  # The selected ones last: theirs is the default.
  rows = [row for row in declared if row[0] == "key"]
  for row in sorted(rows, key=lambda row: selected[row[1]] == row[2]):
    _, switch, part, name, default, within, choices, comment, traced = row
    old, used_by = table.get(name), (switch, (part,))
    if old is not None:
      shared = old.used_by is not None and old.used_by[0] == switch
      used_by = shared and (switch, (*old.used_by[1], part)) or None
    if old is None:
      table[name] = Key(
        default,
        comment,
        within,
        choices,
        used_by,
        traced=traced,
        branch=traced,
        fixed=_OTHER_DATA if switch == "dataset.name" else "",
        retune="optimizer" if switch == "optimizer" and traced else "",
      )
    elif selected[switch] == part:
      table[name] = dataclasses.replace(
        old,
        default=default,
        comment=comment,
        within=within,
        choices=choices,
        used_by=used_by,
      )
    else:
      table[name] = dataclasses.replace(old, used_by=used_by)
  return types.MappingProxyType(table)


_OTHER_DATA = "results on different data are not comparable; make one study per"
_OTHER_DATA += " data set"


def _narrow(table, part, taken, text):
  """Says which keys of built-in models a model of the user reads."""
  for name, key in table.items():
    switch, readers = key.used_by or ("", ())
    used_by: Any = key.used_by
    if text and switch == "model.name" and not name.startswith("model."):
      if set(readers) & set(parts.TEXT_MODELS):
        used_by = (switch, (*readers, part))  # of texts, whatever the model
    elif "*" in taken or name == "model.name":
      continue
    elif name == "hparams.dropout_rate":
      used_by = ("model.name", (part,) if "dropout_rate" in taken else ())
    elif switch == "model.norm" and "norm" not in taken:
      used_by = ("model.name", parts.MODELS)
    elif not switch and name.startswith("model."):
      if name.removeprefix("model.") not in taken:
        used_by = ("model.name", parts.MODELS)
    if used_by != key.used_by:
      table[name] = dataclasses.replace(key, used_by=used_by)


def is_text(config: ml_collections.ConfigDict | Mapping[str, Any]) -> bool:
  """Whether a config trains on texts: for its built-in model, or its data.

  Args:
    config: A config, or the nested dict of a config.json.
  """
  parts_named = (config[part]["name"] for part in ("model", "dataset", "task"))
  return _is_text(*parts_named)


_OF_TEXT = ("model.name", "dataset.name", "task.name")


def _is_text(model, dataset, task):
  if not is_own("model.name", model):
    return model in parts.TEXT_MODELS
  is_named = dataset == "pythonlib" or dataset.startswith("text:")
  return is_named or task == "next_token"


def folder(code: str) -> str:
  """The folder that parts of a config are named relative to.

  Args:
    code: `config.code`; empty: of a config without parts of the user.

  Returns:
    That of its code; else of the user's file that runs; else the current one.
  """
  if code:
    return usercode.folder_of(code)
  return userfiles.running() or os.getcwd()
