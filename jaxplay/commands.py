"""Commands to paste: the one that was typed, with as little changed as meant.

A command is a list of words that a shell runs as they are, the program first:
`jaxplay`, `python -m jaxplay.cli`, or a launcher up to its `--`. What is
printed keeps all that the user gave: the config and its argument, overrides,
devices.
"""

import contextlib
import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# A launcher says here how it was started, as JSON: its file, or the words
# before those of jaxplay, and these, without what it adds for each process.
LAUNCH = "JAXPLAY_LAUNCH"

# Where and how a command computes: what another command is to keep of it.
DEVICES = (
  "--fake_devices",
  "--distributed",
  "--coordinator",
  "--num_processes",
  "--process_id",
  "--wait_seconds",
)
RUNNER = ("--runner", "--parallel", *DEVICES)
_ALONE = ("--distributed",)  # It takes no value.

_arguments: list[str] | None = None


@contextlib.contextmanager
def typed_as(arguments: Sequence[str]) -> Iterator[None]:
  """What follows is done for these arguments of `jaxplay`."""
  global _arguments
  before, _arguments = _arguments, list(arguments)
  try:
    yield
  finally:
    _arguments = before


def typed() -> list[str]:
  """The command that this process carries out."""
  launched = launch()
  if launched is None:
    return [*_started_by(), *_now()]
  return [*launched.get("program", ["jaxplay"]), *launched["arguments"]]


def is_typed() -> bool:
  """Whether a command line is being carried out."""
  return _arguments is not None


def launch() -> dict[str, Any] | None:
  """What the launcher of this process says, see `LAUNCH`; None: it has none.

  Returns:
    {"arguments": of jaxplay, "program" or "file": what to give them to}
  """
  try:
    launched = json.loads(os.environ.get(LAUNCH, "null"))
    given = launched["arguments"]
  except (ValueError, TypeError, KeyError):
    return None
  # Processes that this one starts see the variable as well.
  return launched if _now()[: len(given)] == given else None


def _now():
  return sys.argv[1:] if _arguments is None else _arguments


def _started_by():
  """The words that start jaxplay as it was started."""
  path, found = sys.argv[0], shutil.which("jaxplay")
  if os.path.basename(path) == "jaxplay" and os.path.isfile(path):
    is_found = found is not None and os.path.samefile(found, path)
    return ["jaxplay" if is_found else path]
  if found is not None and os.path.basename(path) != "__main__.py":
    return ["jaxplay"]  # Started by a program of somebody's.
  is_found = shutil.which("python") == sys.executable
  return ["python" if is_found else sys.executable, "-m", "jaxplay.cli"]


def changed(
  words: Sequence[str],
  options: Mapping[str, Any] = {},
  overrides: Mapping[str, Any] = {},
) -> list[str]:
  """A command with some of its options and overrides at other values.

  Args:
    words: The command.
    options: Option -> value; None takes it away, True gives it without a value.
    overrides: Config key -> value.
  """
  start = _begin(words)
  program, arguments = list(words[:start]), list(words[start:])
  for name, value in options.items():
    arguments = _with(arguments, name, value)
  for key, value in overrides.items():
    text = value if isinstance(value, str) else repr(value)
    arguments = _with(arguments, f"--config.{key}", text)
  return program + arguments


def program(words: Sequence[str]) -> list[str]:
  """The words of a command before the verb; it may be not known, or empty."""
  found = list(words[: _begin(words)]) or ["jaxplay"]
  if os.path.basename(found[0]) == "__main__.py":  # Of earlier versions.
    return ["jaxplay"]
  return found


def kept(words: Sequence[str], names: Sequence[str]) -> list[str]:
  """The options of a command that are in `names`, such as `DEVICES`."""
  return [
    word
    for name, option in _options(words[_begin(words) :], names)
    if name in names
    for word in option
  ]


def line(words: Sequence[str]) -> str:
  """A command for a shell."""
  return shlex.join(words)


def fresh(folder: str, name: str, value: Any = "") -> str:
  """A folder beside another, for a command that is to begin anew.

  Args:
    folder: A workdir, here or in a bucket.
    name: What differs, such as "seed".
    value: Its value, if it has one; replaces an earlier one of the folder.
  """
  folder = folder.rstrip("/") or folder
  if os.path.basename(folder) in ("", ".", ".."):
    folder = os.path.abspath(folder)
  folder = re.sub(rf"(?<=[^/])-{name}-[\d.e+-]+$", "", folder)
  return f"{folder}-{name}" + (f"-{value}" if value != "" else "")


def fresh_number(folder: str, name: str, last: int) -> tuple[str, int]:
  """As `fresh`, with the first number after `last` that has no folder yet."""
  while True:
    last = (last + 1) % 2**32  # As seeds have it.
    other = fresh(folder, name, last)
    if not os.path.lexists(other):
      return other, last


def _begin(words):
  """Number of words of the program."""
  if list(words[1:3]) == ["-m", "jaxplay.cli"]:
    return 3
  if len(words) > 1 and words[1].endswith(".py") and "--" in words:
    return words.index("--") + 1
  return min(1, len(words))


def _options(arguments, names):
  """(option, its words) in order; of other words, each with itself.

  Args:
    arguments: Words after the program.
    names: Options that take a value, as those of the config do.
  """
  words = list(arguments)
  while words:
    word = words.pop(0)
    name, equals, _ = word.partition("=")
    takes_value = name in names or name.startswith("--config.")
    if equals or not takes_value or name in _ALONE or not words:
      yield name, [word]
    else:
      yield name, [word, words.pop(0)]


def _with(arguments, name, value):
  """The arguments with one option at another value."""
  new = [name] if value is True else [f"{name}={value}"]
  if value is None:
    new = []
  found, is_there = [], False
  # A bare option takes no value, now or before.
  for other, words in _options(arguments, () if value is True else (name,)):
    if other != name:
      found += words
    elif not is_there:
      found, is_there = found + new, True
  return found if is_there else found + new


def suggested(
  *verb: Any,
  keep: Sequence[str] = (),
  of: Sequence[str] | None = None,
  options: Mapping[str, Any] | None = None,
  overrides: Mapping[str, Any] | None = None,
) -> str:
  """A command to paste: the one that was typed, or another verb, changed.

  Args:
    *verb: Words of the other verb; none: the command that was typed.
    keep: Options of the typed command that the other verb takes, too.
    of: Keep them of this command instead, such as that which made a study.
    options: Option -> its new value, as `changed` takes them.
    overrides: Config key -> its new value.
  """
  words = typed()
  if verb:
    options_kept = kept(of or words, keep)
    words = [*program(words), *map(str, verb), *options_kept]
  words = changed(words, options or {}, overrides or {})
  if "file" in (launch() or {}):  # It starts no other command.
    return f"arguments = {json.dumps(words[1:], ensure_ascii=False)}"
  return line(words)
