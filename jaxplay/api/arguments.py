"""Types of the arguments of public functions, and their command lines.

A parameter annotated `Annotated[int, Kind]` is checked when the function is
called, and is an option of the command line of the same name. So each argument
is declared once: its range here, its meaning in the docstring.
"""

import dataclasses
import datetime
import functools
import inspect
import math
import os
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, ParamSpec, TypeVar

import jaxplay
from jaxplay import commands, rundir
from jaxplay import config as config_lib

MOST = 2**31 - 1  # of a count, in the 32 bits of the step
_SMALLEST_RATE, _LARGEST_RATE = 1e-37, 1e37  # in the step's 32 bits

_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclasses.dataclass(frozen=True)
class Kind:
  """How the value of an argument is read.

  Attributes:
    read: Takes the value, or its text; raises ValueError if it is wrong.
    metavar: Stands for the value in a usage line.
  """

  read: Callable[[Any], Any]
  metavar: str = "X"

  def __repr__(self) -> str:
    return self.metavar  # In signatures, which `help` shows.


def shown(value: Any) -> str:
  """A value for a message: short, whatever it is."""
  if isinstance(value, str):
    text = repr(value)
    return text if len(text) <= 200 else f"{text[:100]} ... {text[-50:]}"
  if isinstance(value, int | float | bytes | list | tuple | type(None)):
    return config_lib.shown(value)
  return f"a value of type {type(value).__name__}"


def option(name: str, renamed: str = "") -> str:
  """The name of an argument, as the command line or as Python has it.

  Args:
    name: Of the argument.
    renamed: Of its option, where they differ.
  """
  return f"--{renamed or name}" if commands.is_typed() else name


def integer(least: int, most: int = MOST, metavar: str = "N") -> Kind:
  """Integers from `least` to `most`."""
  expected = f"an integer of at least {least} and at most {most}"
  if most == MOST:
    expected = f"an integer of at least {least}"

  at_most = f"an integer of at most {most}"

  def read(given):
    value = given
    if isinstance(value, str):
      # Python would also take 1_000, +3, blanks and the digits of all scripts.
      digits = value.lstrip("0") or "0"
      # Python converts only so many digits.
      is_plain = value.isascii() and value.isdecimal()
      if not is_plain:
        raise ValueError(f"expected {expected}, got {shown(given)}")
      if len(digits) > len(str(most)):
        raise ValueError(f"expected {at_most}, got {shown(given)}")
      value = int(digits)
    is_integer = hasattr(value, "__index__") and not isinstance(value, bool)
    if not is_integer or value < least:
      raise ValueError(f"expected {expected}, got {shown(given)}")
    if value > most:
      raise ValueError(f"expected {at_most}, got {shown(given)}")
    return int(value)

  return Kind(read, metavar)


def _items(value, read, expected):
  """A comma list, or a sequence, of at least one item."""
  parts = value.split(",") if isinstance(value, str) else value
  try:
    items = [read(part) for part in parts]
  except TypeError:
    items = []
  if not items:
    raise ValueError(f"expected {expected}, got {shown(value)}")
  return items


def _integers(value):
  return _items(value, integer(1).read, "a list of positive integers")


def _measure(value):
  """A number of at least 0."""
  try:
    number = float(value)
    is_plain = not isinstance(value, str) or value.isascii()
  except (TypeError, ValueError):
    is_plain = False
  if not is_plain or not 0 <= number < math.inf:
    raise ValueError(f"expected a number of at least 0, got {shown(value)}")
  return number


def _real(value):
  try:
    return float(value)
  except (TypeError, ValueError):
    raise ValueError(f"expected a number, got {shown(value)}") from None


def _words(expected):
  """Reads a text that is not blank."""

  def read(value):
    if not isinstance(value, str) or not value.strip():
      raise ValueError(f"expected {expected}, got {shown(value)}")
    return value

  return read


_name, _text = _words("a name"), _words("a text")
_storage = _words("a storage, such as sqlite:///FILE")


def _names(value):
  return _items(value, _name, "a list of names")


def _path(value):
  """The path that an argument names, here or in a bucket."""
  if not isinstance(value, str | os.PathLike):
    raise ValueError(f"expected a path, got {shown(value)}")
  text = os.fspath(value)
  if not text:
    raise ValueError("expected a path, got ''; the current folder is '.'")
  path = rundir.at(text)
  if not rundir.is_local(path):
    return path
  try:
    os.stat(path)
  except FileNotFoundError:
    if text.startswith("~"):
      raise ValueError(
        f"{text!r} does not exist; the shell expands ~ only at the beginning of"
        " a word: write $HOME"
      ) from None
  except (OSError, ValueError) as error:  # Too long, below a file, a null byte.
    reason = getattr(error, "strerror", None) or error
    raise ValueError(f"cannot open {text!r}: {reason}") from None
  return path


def _place(value):
  _path(value)
  return os.fspath(value)


def _folder(value):
  path = _path(value)
  if rundir.is_local(path):
    if path.exists() and not path.is_dir():
      raise ValueError(f"expected a folder, and {os.fspath(value)!r} is a file")
    if path.absolute() == path.absolute().parent:
      raise ValueError(
        f"{os.fspath(value)!r} is the root of the file system; use a folder in"
        " it"
      )
  return os.fspath(value)


def _file(value):
  path = _path(value)
  if rundir.is_local(path):
    if path.exists() and not path.is_file():
      raise ValueError(f"{str(path)!r} exists and is not a file")
    if not path.parent.is_dir():
      raise ValueError(
        f"the folder {str(path.parent)!r} of {path.name!r} does not exist"
      )
  return path


def _new_file(value):
  path = _file(value)
  if path.exists():
    raise ValueError(
      f"{str(path)!r} exists, and is not overwritten; name a new file"
    )
  return path


def _safetensors(value):
  if not str(value).endswith(".safetensors"):
    raise ValueError(f"expected FILE.safetensors, got {shown(value)}")
  return _file(value)


def _page(value):
  if not str(value).endswith(".html"):
    raise ValueError(
      f"expected a file name that ends in .html, got {shown(value)}"
    )
  return _file(value)


def _log(value):
  _file(value)
  # A link is the user's own.
  return os.path.realpath(value) if os.path.islink(value) else os.fspath(value)


def _source(value):
  """A path of a study or run, or its results."""
  return value if hasattr(value, "_repr_html_") else _place(value)


def _ladder(value):
  """A path of a ladder, or its points."""
  return value if hasattr(value, "points") else _place(value)


def _budget(value):
  """A number of runs, or hours: 64, "64", "2h"."""
  return str(value) if isinstance(value, int | float) else _text(value)


def _config(value):
  """A file, or a config; what is in it is checked later."""
  if isinstance(value, str | os.PathLike):
    if not os.fspath(value):
      raise ValueError("expected a config file, got ''")
  elif not hasattr(value, "keys"):
    raise ValueError(
      f"expected a config or the path of one, got {shown(value)}"
    )
  return value


def _overrides(value):
  """Config key -> value."""
  if not hasattr(value, "items") or not all(
    isinstance(key, str) for key in value
  ):
    raise ValueError(
      "expected a mapping of config keys, such as {'hparams.momentum': 0.8},"
      f" got {shown(value)}"
    )
  return value


def _trials(value):
  """Trials as "A:B" or as a list of indices."""
  if isinstance(value, str):
    return value
  if isinstance(value, int) and not isinstance(value, bool):
    return [value]
  return _items(value, integer(0).read, "trials 'A:B' or indices")


def _definition(value):
  """A study or a ladder, or the path of its file."""
  if isinstance(value, str | os.PathLike):
    return _place(value)
  if not hasattr(value, "goal"):
    raise ValueError(
      f"expected a definition or the path of its file, got {shown(value)}"
    )
  return value


def _address(value):
  host, _, port = str(value).rpartition(":")
  try:
    integer(1, 65535).read(port if host else "")
  except ValueError:
    raise ValueError(
      f"expected HOST:PORT with a port in [1, 65535], got {shown(value)}"
    ) from None
  return value


def _pair(value):
  """The two halves of A:B, or a pair."""
  if isinstance(value, str):
    first, _, last = value.partition(":")
    return first, last
  return value


def _range(value):
  """A range of learning rates, "0.001:1" or (0.001, 1)."""
  try:
    low, high = map(float, _pair(value))
  except (TypeError, ValueError):
    low = high = 0.0
  if not _SMALLEST_RATE <= low < high <= _LARGEST_RATE:
    raise ValueError(
      f"expected LOW:HIGH, such as 0.001:1, within [{_SMALLEST_RATE:g},"
      f" {_LARGEST_RATE:g}], got {shown(value)}"
    )
  return low, high


def _interval(value):
  """A range of steps, "100:105" or (100, 105)."""
  try:
    first, last = map(integer(0).read, _pair(value))
  except (TypeError, ValueError):
    first = last = 0
  if first >= last:
    raise ValueError(f"expected steps A:B with A < B, got {shown(value)}")
  return first, last


def _mixture(value):
  """A mixture, "pythonlib=0.7,text:notes/*.md=0.3" or pairs."""
  if not isinstance(value, str):
    try:
      value = ",".join(f"{name}={weight}" for name, weight in value)
    except (TypeError, ValueError):
      raise ValueError(
        f"expected pairs (name, weight), got {shown(value)}"
      ) from None
    if not value:
      return ()
  parts = []
  for part in value.split(","):
    name, _, weight = part.rpartition("=")
    try:
      number = float(weight)
    except ValueError:
      name = ""
    if not name:
      raise ValueError(
        f"expected NAME=WEIGHT[,NAME=WEIGHT...], got {shown(value)}"
      )
    if not 0 < number < math.inf:
      raise ValueError(f"expected positive weights, got {shown(value)}")
    parts.append((name, number))
  return tuple(parts)


def _date(value):
  if isinstance(value, datetime.datetime):
    return value.date()
  if isinstance(value, datetime.date):
    return value
  try:
    return datetime.date.fromisoformat(value)
  except (TypeError, ValueError):
    raise ValueError(
      f"expected a date YYYY-MM-DD, got {shown(value)}"
    ) from None


Count = Annotated[int, integer(1)]
Index = Annotated[int, integer(0, metavar="I")]
Seeds = Annotated[int, integer(1, 1_000)]
Devices = Annotated[int, integer(1, 4096)]  # emulated, each with own threads
Counts = Annotated[list[int], Kind(_integers, "N[,N...]")]
Measure = Annotated[float, Kind(_measure)]
Growth = Annotated[float, Kind(_real)]
Name = Annotated[str, Kind(_name, "NAME")]
Names = Annotated[list[str], Kind(_names, "NAME[,NAME...]")]
Metric = Annotated[str, Kind(_name, "METRIC")]
Place = Annotated[str | os.PathLike[str], Kind(_place, "PATH")]
Folder = Annotated[str | os.PathLike[str], Kind(_folder, "DIR")]
Source = Annotated[Any, Kind(_source, "STUDY|RUN")]
Ladder = Annotated[Any, Kind(_ladder, "LADDER")]
Text = Annotated[str, Kind(_text, "TEXT")]
Storage = Annotated[str, Kind(_storage, "URL")]
Budget = Annotated[str | int | float, Kind(_budget, "N|HOURSh")]
Config = Annotated[
  str | os.PathLike[str] | Mapping[str, Any], Kind(_config, "FILE[:ARG]")
]
Overrides = Annotated[Mapping[str, Any], Kind(_overrides, "KEYS")]
Trials = Annotated[str | Sequence[int], Kind(_trials, "A:B")]
Definition = Annotated[Any, Kind(_definition, "FILE")]
Page = Annotated[str | os.PathLike[str], Kind(_page, "FILE.html")]
NewFile = Annotated[str | os.PathLike[str], Kind(_new_file, "FILE")]
Safetensors = Annotated[
  str | os.PathLike[str], Kind(_safetensors, "FILE.safetensors")
]
Log = Annotated[str | os.PathLike[str], Kind(_log, "FILE.md")]
Address = Annotated[str, Kind(_address, "HOST:PORT")]
LearningRates = Annotated[tuple[float, float], Kind(_range, "LOW:HIGH")]
Steps = Annotated[tuple[int, int], Kind(_interval, "A:B")]
Mixture = Annotated[
  tuple[tuple[str, float], ...], Kind(_mixture, "NAME=WEIGHT[,...]")
]
Date = Annotated[datetime.date, Kind(_date, "DATE")]


@dataclasses.dataclass(frozen=True)
class Argument:
  """A parameter of a public function, as the command line needs it.

  Attributes:
    name: Of the parameter.
    kind: How to read its value; None: it is a text, a choice or a switch.
    choices: Its values; empty: not a choice.
    is_switch: Whether it is a bool.
    default: Its default; `inspect.Parameter.empty`: it is required.
    description: From the docstring.
  """

  name: str
  kind: Kind | None
  choices: tuple[Any, ...]
  is_switch: bool
  default: Any
  description: str


@functools.cache
def of(function: Callable[..., Any]) -> dict[str, Argument]:
  """The arguments of a public function, or of a dataclass, by name."""
  texts = _descriptions(inspect.getdoc(function) or "")
  arguments = {}
  for name, parameter in inspect.signature(function).parameters.items():
    annotation = parameter.annotation
    options = [annotation]
    if typing.get_origin(annotation) in (types.UnionType, typing.Union):
      options = list(typing.get_args(annotation))
    kinds = [
      kind
      for option in options
      for kind in getattr(option, "__metadata__", ())
      if isinstance(kind, Kind)
    ]
    choices = [
      value
      for option in options
      if typing.get_origin(option) is typing.Literal
      for value in typing.get_args(option)
    ]
    arguments[name] = Argument(
      name=name,
      kind=kinds[0] if kinds else None,
      choices=tuple(choices),
      is_switch=annotation is bool,
      default=parameter.default,
      description=texts.get(name, ""),
    )
  return arguments


def _descriptions(doc):
  """Name -> text, of the Args or Attributes of a Google style docstring."""
  texts: dict[str, str] = {}
  inside, name = False, ""
  for line in doc.splitlines():
    if not line.startswith(" "):
      if line:
        inside = line in ("Args:", "Attributes:")
    elif inside and not line.startswith("   "):
      name, _, text = line.strip().partition(": ")
      texts[name] = text
    elif inside and name:
      texts[name] += f" {line.strip()}"
  return texts


def checked(function: Callable[..., Any], given: dict[str, Any]) -> None:
  """Reads the values of arguments in place, as their kinds say.

  Args:
    function: Whose arguments they are.
    given: Name to value.

  Raises:
    jaxplay.UserError: A value is not one that the argument takes.
  """
  for name, argument in of(function).items():
    if name not in given:
      continue
    value = given[name]
    if value is None and argument.default is None:
      continue
    if dataclasses.is_dataclass(argument.default):
      kind = type(argument.default)
      if not isinstance(value, kind):
        raise jaxplay.UserError(
          f"{name}: expected jaxplay.{kind.__name__}(...), got {shown(value)}"
        )
      checked(kind, dict(vars(value)))
      continue
    if argument.is_switch and not isinstance(value, bool):
      raise jaxplay.UserError(
        f"{name}: expected True or False, got {shown(value)}"
      )
    if argument.choices and value not in argument.choices:
      if value is argument.default:
        continue
      raise jaxplay.UserError(
        f"{name}: expected {' or '.join(map(repr, argument.choices))}, got"
        f" {shown(value)}"
      )
    if argument.kind is not None and value is not argument.default:
      try:
        given[name] = argument.kind.read(value)
      except ValueError as error:
        raise jaxplay.UserError(f"{name}: {error}") from None


def public(
  *verb: str,
) -> Callable[[Callable[_P, _R]], Callable[_P, _R]]:
  """Marks a public function: its arguments are checked when it is called.

  Called from Python, it records the equivalent command line, as a study and a
  run keep it.

  Args:
    *verb: Words of the command that does the same.
  """

  def decorate(function):
    signature = inspect.signature(function)

    @functools.wraps(function)
    def wrapper(*args, **kwargs):
      try:
        bound = signature.bind(*args, **kwargs)
      except TypeError as error:
        names = ", ".join(signature.parameters)
        raise TypeError(
          f"{function.__name__}(): {error}; it takes {names}"
        ) from None
      checked(function, bound.arguments)
      if commands.is_typed() or not verb:
        return function(*bound.args, **bound.kwargs)
      with commands.typed_as([*verb, *_as_words(function, bound.arguments)]):
        return function(*bound.args, **bound.kwargs)

    return wrapper

  return decorate


def _as_words(function, given):
  """The arguments as words of a command line."""
  words, options = [], []
  parameters = inspect.signature(function).parameters
  for name, value in given.items():
    default = parameters[name].default
    if value is None or (value is default or value == default):
      continue
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
      options += dataclass_words(value)
    elif name == "report":  # Of the command line: --no_report.
      options.append("--no_report")
    elif value is True:
      options.append(f"--{name}")
    elif not isinstance(value, str | os.PathLike | int | float | tuple | list):
      words.append(f"<{type(value).__name__}>")
    elif default is inspect.Parameter.empty and name not in ("workdir",):
      words.append(str(value))
    elif isinstance(value, tuple):
      options.append(f"--{name}={':'.join(map(str, value))}")
    elif isinstance(value, list):
      options.append(f"--{name}={','.join(map(str, value))}")
    else:
      options.append(f"--{name}={value}")
  return words + options


def dataclass_words(value: Any) -> list[str]:
  """The fields of an option group that differ from their defaults, as words."""
  words = []
  for field in dataclasses.fields(value):
    given = getattr(value, field.name)
    if given == field.default:
      continue
    name = field.metadata.get("option", field.name)
    words.append(f"--{name}" if given is True else f"--{name}={given}")
  return words


def make_folder(path: str | os.PathLike[str] | None) -> None:
  """Makes a folder that was asked for, before the work that fills it."""
  if path is not None:
    rundir.make_folder(rundir.at(path))
