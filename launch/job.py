"""Reads launch files and checks them; shared by the launchers.

They run on laptops where neither JAX nor jaxplay is installed, so they use only
the standard library.
"""

import argparse
import dataclasses
import difflib
import json
import os
import re
import shutil
import sys
import tomllib
import unicodedata

EXIT_FAILED, EXIT_WRONG, EXIT_PREEMPTED = 1, 2, 75
REQUIRED = object()

# The environment variable with the launch command, for the commands that a
# process prints: jaxplay/commands.py.
LAUNCH = "JAXPLAY_LAUNCH"
# Options that a launcher sets for each process.
_OURS = ("--coordinator", "--num_processes", "--process_id", "--distributed")
_TABLES = ("local", "slurm", "tpu_vm", "gke")
_KINDS = {
  str: "text in quotes",
  int: "a whole number",
  bool: "true or false",
  list: "a list of texts",
}


class Mistake(Exception):
  """An invalid request: one sentence, exit code 2."""


class Parser(argparse.ArgumentParser):
  """Reports mistakes in the command line like any other."""

  def error(self, message):
    raise Mistake(f"{message}; see {self.prog} --help")


@dataclasses.dataclass(frozen=True)
class Key:
  """A key of a table: its type, its default, and its range."""

  kind: type
  default: object = REQUIRED
  least: int = 0
  most: int = 2**31 - 1
  is_script: bool = False  # lines of shell


@dataclasses.dataclass(frozen=True)
class Job:
  """A launch file, checked: one attribute `place` holds its table."""

  file: str
  name: str
  arguments: tuple[str, ...]
  place: argparse.Namespace


def main(description, table, keys, launch, add=None, check=None):
  """Runs a launcher's command line; returns the exit code.

  Args:
    description: Its docstring.
    table: The table of the file to read.
    keys: {name: Key} of that table.
    launch: Called with the job and the options.
    add: Adds options to a parser.
    check: Called with the job, to check combinations of keys.
  """
  parser = Parser(description=description.split("\n")[0])
  parser.add_argument("file", metavar="FILE", help="launch file (TOML)")
  parser.add_argument(
    "--dry_run", action="store_true", help="print the commands, and stop"
  )
  parser.add_argument(
    "--yes", action="store_true", help="do not ask for confirmation"
  )
  if add:
    add(parser)

  def act():
    options = parser.parse_args()
    return launch(read(options.file, table, keys, check), options)

  return reported(act)


def reported(act):
  """Returns `act()`; prints a mistake in one sentence, and returns 2."""
  try:
    return act()
  except Mistake as error:
    print(f"launch: {error}", file=sys.stderr)
    return EXIT_WRONG


def read(path, table, keys, check=None):
  """The job of a launch file, for one table."""
  if os.path.exists(path) and not os.path.isfile(path):
    raise Mistake(f"{path!r} is no file")  # A pipe would block.
  try:
    with open(path, "rb") as file:
      content = tomllib.load(file)
  except OSError as error:
    raise Mistake(f"cannot read {path!r}: {error.strerror}") from None
  except (ValueError, RecursionError) as error:  # Not UTF-8, or not TOML.
    raise Mistake(f"{path!r} is not TOML: {error}") from None
  try:
    tables = {name: Key(dict, {}) for name in _TABLES}
    top = _checked(
      content, {"name": Key(str), "arguments": Key(list)} | tables, ""
    )
    if table not in content:
      raise Mistake(f"it has no table [{table}]")
    if not re.fullmatch(r"[a-z]([-a-z0-9]{0,38}[a-z0-9])?", top["name"]):
      raise Mistake(
        f"name is {top['name']!r}; expected at most 40 lower-case letters,"
        " digits and dashes, starting with a letter"
      )
    _check_arguments(top["arguments"])
    place = argparse.Namespace(**_checked(content[table], keys, f"[{table}] "))
    job = Job(path, top["name"], tuple(top["arguments"]), place)
    if check:
      check(job)
  except Mistake as error:
    raise Mistake(f"{path}: {error}") from None
  return job


def launched(arguments, **how):
  """The value of `LAUNCH` for these arguments of jaxplay.

  Args:
    arguments: As the user gave them.
    **how: `program`, the words before them, or `file`, the launch file.
  """
  return json.dumps(how | {"arguments": list(arguments)})


def _checked(content, keys, where):
  """The values of all `keys`, with defaults; refuses unknown keys."""
  for name in content:
    if name not in keys:
      near = difflib.get_close_matches(name, keys, 1)
      hint = (
        f"did you mean {near[0]!r}?" if near else f"keys: {', '.join(keys)}"
      )
      raise Mistake(f"{where}has no key {name!r}; {hint}".lstrip())
  missing = [
    name
    for name, key in keys.items()
    if key.default is REQUIRED and name not in content
  ]
  if missing:
    raise Mistake(f"{where}lacks {' and '.join(missing)}".lstrip())
  for name, value in content.items():
    kind = keys[name].kind
    right = type(value) is kind
    if kind is list and right:
      right = all(type(item) is str for item in value)
    if not right and kind is not dict:
      raise Mistake(f"{where}{name} is {value!r}; it must be {_KINDS[kind]}")
    if not right:
      raise Mistake(f"{name} is {value!r}; it must be a table, [{name}]")
    if kind is int:
      check_number(f"{where}{name}", value, keys[name])
    for text in value if kind is list else [value] if kind is str else ():
      _check_text(f"{where}{name}", text, keys[name].is_script)
  return {name: content.get(name, key.default) for name, key in keys.items()}


def check_number(name, value, key):
  """Refuses a number outside the range of its key."""
  if value < key.least:
    raise Mistake(f"{name} is {_short(value)}; it must be at least {key.least}")
  if value > key.most:
    raise Mistake(f"{name} is {_short(value)}; it must be at most {key.most}")


def _short(number):
  """An integer for a message; Python refuses to print too many digits."""
  return number if abs(number) < 2**63 else "a number of more than 64 bits"


def _check_text(name, text, is_script):
  """Refuses control characters, which could start a new line of a script."""
  allowed = "\n\t" if is_script else ""
  control = [c for c in text if unicodedata.category(c) == "Cc"]
  if bad := [c for c in control if c not in allowed]:
    raise Mistake(
      f"{name} is {text!r}, with the control character {bad[0]!r}; remove it"
    )


def _check_arguments(arguments):
  if not arguments or arguments[0].startswith("-"):
    raise Mistake(
      "arguments must begin with a verb of jaxplay, such as 'train'"
    )
  for argument in arguments:
    if argument.partition("=")[0] in _OURS:
      raise Mistake(
        f"arguments hold {argument!r}, which the launcher sets for each"
        " process; leave it out"
      )


def check_trials(job, key):
  """Refuses arguments that cannot be split into trials."""
  if job.arguments[:2] != ("study", "run"):
    raise Mistake(f"{key} needs arguments that begin with 'study', 'run'")
  if any(word.partition("=")[0] == "--trials" for word in job.arguments):
    raise Mistake(f"{key} chooses the trials; leave --trials out of arguments")


def ask(question, yes):
  """Asks for confirmation on the terminal, unless --yes was given."""
  if yes:
    return
  print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
  if sys.stdin.readline().strip().lower() not in ("y", "yes"):
    raise Mistake("nothing was launched; --yes launches without asking")


def need(program, hint):
  """Refuses to continue without a program."""
  if shutil.which(program) is None:
    raise Mistake(f"there is no {program} on this machine; {hint}")
