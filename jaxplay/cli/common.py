"""What the verbs share: options from the arguments of the public functions."""

import argparse
import dataclasses
import difflib
import inspect
import os

import jaxplay
from jaxplay import commands, installed, terminal
from jaxplay.api import arguments as arguments_lib
from jaxplay.api import devices

EXIT_FAILED, EXIT_WRONG, EXIT_PREEMPTED, EXIT_INTERRUPTED = 1, 2, 75, 130
# Of the process of a trial, whose runner has to know that it did not crash.
EXIT_STORAGE = 74

# Characters of a message: whoever gives a value of 100,000 knows it.
_LONGEST = 1_000


class Parser(argparse.ArgumentParser):
  """Reports a mistake as any other: in a sentence, without the usage."""

  def error(self, message):
    raise jaxplay.UserError(f"{message}; see {self.prog} --help")


def add_options(
  verb,
  function,
  *names,
  positional=(),
  optional=(),
  required=(),
  rename=None,
  metavars=None,
):
  """Adds arguments of a public function as options of a verb.

  Args:
    verb: A parser, or a group of one.
    function: Function or dataclass whose arguments they are.
    *names: Of the arguments.
    positional: Those that are given without a name.
    optional: Those that the command line does not require, unlike the function.
    required: Those that it requires, also unlike the function.
    rename: Argument -> name of its option, where they differ.
    metavars: Argument -> what stands for its value in the usage.
  """
  known = arguments_lib.of(function)
  for name in names:
    argument = known[name]
    is_required = argument.default is inspect.Parameter.empty
    option = (rename or {}).get(name, name)
    text = argument.description.rstrip(".")
    text = text[:1].lower() + text[1:] if text[1:2].islower() else text
    settings = {"help": text.replace("%", "%%")}
    if argument.is_switch:
      verb.add_argument(f"--{option}", action="store_true", **settings)
      continue
    if not is_required:
      settings["default"] = argument.default
      if argument.default not in (None, ()):
        settings["help"] += f" (default {argument.default})"
    if argument.choices:
      settings["choices"] = argument.choices
    else:
      settings["metavar"] = (metavars or {}).get(name) or (
        argument.kind.metavar if argument.kind else name.upper()
      )
    if argument.kind is not None:
      settings["type"] = _reader(argument.kind)
    if name in positional:
      settings.pop("default", None)
      verb.add_argument(name, **settings)
    else:
      verb.add_argument(
        f"--{option}",
        dest=name,
        required=name in required or (is_required and name not in optional),
        **settings,
      )


def _reader(kind):
  """What argparse calls with the text of a value."""

  def read(text):
    try:
      return kind.read(text)
    except ValueError as error:
      raise argparse.ArgumentTypeError(str(error)) from None

  return read


def reader(annotation):
  """The type, for argparse, of an argument of the public functions."""
  return _reader(annotation.__metadata__[0])


def given(arguments, *names):
  """Arguments of the command line, by the names that a function gives them."""
  return {name: getattr(arguments, name) for name in names}


_DEVICES = tuple(field.name for field in dataclasses.fields(devices.Devices))


def add_devices(verb):
  """Options of what computes."""
  add_options(verb, devices.Devices, *_DEVICES)


def set_devices(arguments):
  """Takes the devices over from the options of a verb that computes.

  Raises:
    jaxplay.UserError: JAX is missing, or the processes are incomplete.
  """
  if hasattr(arguments, "fake_devices"):
    installed.require_training()
  values = {name: getattr(arguments, name, None) for name in _DEVICES}
  values["distributed"] = bool(values["distributed"])
  values["wait_seconds"] = values["wait_seconds"] or devices.WAIT_SECONDS
  devices.configure(devices.Devices(**values))


def folder_of(arguments):
  """What a command works on, a path; None: nothing, or it is not known."""
  from jaxplay import rundir

  values = vars(arguments) if arguments else {}
  for name in ("workdir", "study", "run", "ladder"):
    if isinstance(values.get(name), str | os.PathLike):
      return rundir.at(values[name])
  return None


def no_more(rest, arguments):
  """Refuses arguments that argparse left over."""
  for word in rest:
    hint = _hint(word, arguments)
    raise jaxplay.UserError(f"unknown argument {word!r}{hint}")


def _hint(word, arguments):
  name = word.partition("=")[0].lstrip("-")
  known = difflib.get_close_matches(name, vars(arguments), 1)
  return f"; did you mean --{known[0]}?" if known else ""


def overrides(rest, arguments):
  """--config.KEY=VALUE, also as two words, from what argparse left over."""
  overrides, words = {}, list(rest)
  while words:
    word = words.pop(0)
    if not word.startswith("--config."):
      raise jaxplay.UserError(
        f"unknown argument {word!r}{_hint(word, arguments)}; config keys are"
        " set by --config.KEY=VALUE"
      )
    key, equals, value = word.removeprefix("--config.").partition("=")
    if not equals:
      if not words:
        raise jaxplay.UserError(f"{word} has no value; write {word}=VALUE")
      value = words.pop(0)
    overrides[key] = value
  return overrides


def show_next(what, command):
  """The command that is likely to come next, and why."""
  where = ""
  launch = commands.launch()
  if launch is not None:
    where = f", in {launch['file']}:" if "file" in launch else ""
  elif devices.current().are_several:
    where = ", on every host"
    if devices.current().process_id is not None:
      where += " with its own --process_id"
  print(f"next: {what}{where}\n  {command}")


def sentence(error):
  """The message of an error, in one line that can be read."""
  text = " ".join(str(error).splitlines())
  if len(text) <= _LONGEST:
    return text
  # What is allowed, and what to do, comes last.
  return f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def as_table(heads, rows):
  """Columns side by side, all but the first to the right."""
  rows = [
    ["-" if c is None or c != c else terminal.short(c) for c in row]
    for row in rows
  ]
  widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
  return "\n".join(
    "  ".join(
      f"{text:{'>' if place else '<'}{width}}"
      for place, (text, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in (heads, *rows)
  )


def show_findings(findings):
  """The findings that ask for something."""
  for finding in findings:
    if finding.verdict in ("warn", "fail"):
      print(
        f"  {finding.verdict}: {finding.check} ({finding.subject}):"
        f" {finding.advice}"
      )
