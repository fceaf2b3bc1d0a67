"""The command line: `jaxplay VERB ...`; the only package that knows flags.

Exit codes: 0 done, 1 the run failed, 2 the request was wrong (one sentence, no
traceback), 75 preempted and resumable, 130 interrupted outside the loop.
"""

import contextlib
import os
import select
import sys
import traceback

import jaxplay
from jaxplay import commands, installed, lifeline, provenance, storage, terminal
from jaxplay.api import devices
from jaxplay.cli import (
  common,
  completion,
  config,
  export,
  plan,
  report,
  scaling,
  study,
  train,
)


@terminal.shown_as_text()
def main(argv: list[str] | None = None) -> int:
  """Runs a command line; returns the exit code."""
  words = sys.argv[1:] if argv is None else list(argv)
  provenance.forget()
  lifeline.watch()
  with commands.typed_as(words):
    return _main(words, is_program=argv is None)


def _main(words, is_program):
  arguments = None
  try:
    arguments, rest = _parser().parse_known_args(words)
    common.set_devices(arguments)
    code = arguments.verb(arguments, rest)
    sys.stdout.flush()
  except BrokenPipeError:
    code = _broken_pipe()
  except jaxplay.UserError as error:
    print(f"jaxplay: {common.sentence(error)}", file=sys.stderr)
    code = common.EXIT_WRONG
  except PermissionError as error:
    print(f"jaxplay: no permission: {error.filename!r}", file=sys.stderr)
    code = common.EXIT_WRONG
  except jaxplay.Stopped:
    # Standard output may be for the result alone, as JSON.
    if devices.is_first():
      print("stopped; the same command resumes", flush=True)
    code = common.EXIT_PREEMPTED
  except jaxplay.RunError as error:
    print(f"jaxplay: {common.sentence(error)}", file=sys.stderr)
    code = common.EXIT_FAILED
  except MemoryError as error:
    what = f": {common.sentence(error)}" if str(error) else ""
    print(f"jaxplay: out of memory{what}", file=sys.stderr)
    code = common.EXIT_FAILED
  except KeyboardInterrupt:
    print("jaxplay: interrupted; the same command resumes", file=sys.stderr)
    code = common.EXIT_INTERRUPTED
  except Exception as error:
    if missing := installed.problem(error):
      print(f"jaxplay: {missing}", file=sys.stderr)
      return common.EXIT_WRONG
    if lost := storage.problem(error, common.folder_of(arguments)):
      return _lost(lost, arguments, is_program)
    traceback.print_exc()
    code = common.EXIT_FAILED
  if code not in (0, common.EXIT_PREEMPTED) and devices.has_joined():
    # Without the farewell of Python and JAX: they would wait for the others.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return code


def _lost(problem, arguments, is_program):
  """Says that the disk is full, or gone; the exit code."""
  code = common.EXIT_FAILED
  if getattr(arguments, "of_study", False):
    code = common.EXIT_STORAGE
  # The output may be on the same disk.
  with contextlib.suppress(OSError):
    print(f"jaxplay: {common.sentence(problem)}", file=sys.stderr, flush=True)
  with contextlib.suppress(OSError):
    sys.stdout.flush()
  if is_program or devices.has_joined():
    # Threads of orbax wait for minutes for each other, and then complain.
    os._exit(code)
  return code


def _broken_pipe():
  """Exit code: 0 where the reader of our output, `head`, has seen enough."""
  output = select.poll()
  output.register(1)
  if any(
    event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0)
  ):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # For what is not yet flushed.
    return 0
  traceback.print_exc()  # It was another pipe, such as a worker's.
  return common.EXIT_FAILED


def _parser():
  parser = common.Parser(
    prog="jaxplay",
    description="The Deep Learning Tuning Playbook as working software.",
  )
  parser.add_argument(
    "--version", action="version", version=jaxplay.__version__
  )
  completion.add(parser)
  verbs = parser.add_subparsers(metavar="VERB", required=True)

  for module in (train, config, study, report, export, scaling, plan):
    module.add(verbs)
  return parser
