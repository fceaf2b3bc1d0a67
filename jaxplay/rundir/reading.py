"""Reading JSON with checked types: a directory may be from somebody else.

Each file's type is written down once, beside the code that writes the file.
"""

import io
import json
import math
import os
import pathlib
import stat
from collections.abc import Callable
from typing import Any, NoReturn

import msgspec
import numpy as np

import jaxplay
from jaxplay.rundir import paths

_DEEPEST = 64  # levels of nesting; no file of ours comes near
_LARGEST = 2**32  # bytes of arrays; a small file could unpack to any number


class Damaged(jaxplay.UserError):
  """A file has content that jaxplay does not write into it."""

  def __init__(self, path: str | os.PathLike, what: str):
    """Makes the sentence.

    Args:
      path: The file.
      what: Place and fault, such as "$.step: expected int, got str".
    """
    super().__init__(
      f"{str(path)!r} is damaged: {what}; restore it from a copy, or start in"
      " another workdir"
    )


def read_bytes(path: pathlib.Path) -> bytes | None:
  """Returns the content of a file, or None if there is no such file.

  Raises:
    Damaged: It cannot be read.
  """
  if not paths.is_local(path):
    with paths.as_user_errors(f"cannot read {str(path)!r}", path):
      try:
        return path.read_bytes()
      except FileNotFoundError:
        return None
  try:
    # Reading a pipe would wait forever.
    if not stat.S_ISREG(path.stat().st_mode):
      raise Damaged(path, "it is a folder or device, and has to be a file")
    return path.read_bytes()
  except (FileNotFoundError, NotADirectoryError):
    return None
  except OSError as error:
    paths.raise_storage_error(error)
    raise Damaged(path, f"it cannot be read ({error.strerror})") from None


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray] | None:
  """Returns the arrays in a .npz file by name, or None if there is no file.

  Raises:
    Damaged: It is not an archive of arrays, or cannot be read.
  """
  data = read_bytes(path)
  if data is None:
    return None
  try:
    with np.load(io.BytesIO(data)) as archive:
      size = sum(entry.file_size for entry in archive.zip.infolist())
      if size > _LARGEST:
        raise ValueError(f"{size:,} bytes unpacked")
      arrays = dict(archive)
    if other := [n for n, a in arrays.items() if not isinstance(a, np.ndarray)]:
      raise ValueError(f"{other[0]!r} is none")
  # A pickle, which could run anything, is a ValueError; for other bytes that
  # they have not written, numpy and zipfile raise a dozen kinds.
  except Exception as error:
    reason = str(error).split("\n")[0]
    raise Damaged(path, f"it is not an archive of arrays ({reason})") from None
  return arrays


def read_json(path: pathlib.Path, shape: Any) -> Any:
  """Returns the value in a JSON file, or None if there is no such file.

  Args:
    path: The file.
    shape: The type that it must have, a TypedDict or another type that
      `msgspec.convert` accepts. Further keys, such as those of a later version,
      are kept.

  Raises:
    Damaged: It is not JSON, has another type, or cannot be read.
  """
  data = read_bytes(path)
  if data is None:
    return None
  value = parse(path, data)
  check_shape(path, value, shape)
  return value


def check_shape(
  path: str | os.PathLike, value: Any, shape: Any, root: str = "$"
) -> None:
  """Refuses a value from a file that does not have the type `shape`.

  Args:
    path: The file.
    value: Its content, or a part of it.
    shape: As for `read_json`.
    root: Place of `value` in the file.

  Raises:
    Damaged: It has another type.
  """
  try:
    msgspec.convert(value, shape, strict=True)
  except msgspec.ValidationError as error:
    # "Expected `int`, got `str` - at `$.space[0].low`"
    fault, _, place = str(error).replace("`", "").partition(" - at ")
    fault = fault[:1].lower() + fault[1:]
    place = root + place.removeprefix("$")
    raise Damaged(path, f"{place}: {fault}") from None
  except UnicodeEncodeError:
    raise Damaged(path, "it has half of a character") from None


def parse(path: pathlib.Path, data: bytes, line: int | None = None) -> Any:
  """Returns a JSON value.

  Args:
    path: The file, for the error.
    data: Its content, or a line of it.
    line: Number of the line.

  Raises:
    Damaged: It is not JSON, or has numbers, keys or levels that other programs
      would refuse.
  """
  where = "" if line is None else f"line {line}: "

  def refuse(what: str) -> NoReturn:
    raise Damaged(path, where + what)

  def constant(name):
    refuse(f"{name} is not a JSON number")

  def number(text):
    value = float(text)
    if not math.isfinite(value):
      refuse("it has a number out of range")
    return value

  def unique(pairs):
    result = dict(pairs)
    if len(result) < len(pairs):
      names = [name for name, _ in pairs]
      twice = next(name for name in names if names.count(name) > 1)
      refuse(f"it has {twice!r} more than once")
    return result

  if not data.strip():
    refuse("it is empty")
  try:
    value = json.loads(
      data.decode(),
      object_pairs_hook=unique,
      parse_constant=constant,
      parse_float=number,
    )
  except UnicodeDecodeError as error:
    refuse(f"byte {error.start} is not UTF-8")
  except json.JSONDecodeError as error:
    place = f"line {error.lineno}, " if line is None else ""
    refuse(f"{place}column {error.colno} is not JSON ({error.msg})")
  except RecursionError:
    refuse("it is nested too deeply")
  except ValueError:  # An integer has thousands of digits.
    refuse("it has a number out of range")
  _check_depth(value, refuse)
  return value


def _check_depth(value, refuse: Callable[[str], NoReturn]):
  level = [value]
  for _ in range(_DEEPEST):
    inner: list[Any] = []
    for item in level:
      if isinstance(item, dict):
        inner += item.values()
      elif isinstance(item, list):
        inner += item
    if not inner:
      return
    level = inner
  refuse("it is nested too deeply")
