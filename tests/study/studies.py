"""Tiny studies for tests: their files, and `jaxplay` here and in a process."""

import pathlib
import shlex
import subprocess
import sys
from unittest import mock

from jaxplay import cli, commands
from jaxplay.api import devices
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib
from tests.training import runs

RATES = {"hparams.learning_rate": space_lib.Float(1e-3, 1.0, "log")}

_CONFIG = """
from jaxplay import config as config_lib


def get_config(width="8"):
  config = config_lib.base()
  config.max_train_steps = 24
  config.batch_size = 32
  config.eval_batch_size = 300
  config.log_every = 4
  config.eval_every = 8
  config.checkpoint_every = 8
  config.steps_per_call = 4
  config.num_predictions = 0
  config.export = False
  config.model.width = int(width)
  return config
"""

_STUDY = """
from jaxplay.study.space import *
from jaxplay.study.study import Study


def get_study():
  return Study({})
"""

# `jaxplay`, but a signal comes when its progress says so.
_SIGNALLED = """
import os, signal, sys
from jaxplay import cli, terminal

number, moment, *arguments = sys.argv[1:]


class Console(terminal.Console):
  def progress(self, done, total, line):
    super().progress(done, total, line)
    at = {"step": done, "trials": int(line.get("trials", "0").split("/")[0])}
    if eval(moment, {"os": os} | at):
      os.kill(os.getpid(), int(number))


terminal.Console = Console
sys.argv = ["jaxplay", *arguments]
sys.exit(cli.main())
"""


def write(folder, **fields) -> str:
  """Writes config.py and study.py into a folder; returns the latter's path."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "config.py").write_text(_CONFIG)
  defaults = dict(goal="Which?", config="config.py", space=RATES, num_trials=4)
  given = ", ".join(f"{k}={v!r}" for k, v in (defaults | fields).items())
  (folder / "study.py").write_text(_STUDY.format(given))
  return str(folder / "study.py")


def load(folder, **fields):
  """What study.json is to hold for such a file."""
  return study_lib.load(write(folder, **fields))[0]


def call(*arguments) -> int:
  """Runs `jaxplay` in this process, on its devices; returns the exit code."""
  with mock.patch.object(devices, "start"):  # JAX has begun already.
    return cli.main([str(argument) for argument in arguments])


def pasted(output):
  """Arguments of the last command that was printed, as a shell has them."""
  words = shlex.split(output.split("next: ")[-1].split("\n")[1])
  return words[len(commands.program(words)) :]


def start(*arguments, signal=None, moment=""):
  """Starts `jaxplay` as a process; see `_SIGNALLED` for the rest."""
  program = ["-m", "jaxplay.cli"]
  if signal is not None:
    program = ["-c", _SIGNALLED, str(int(signal)), moment]
  return subprocess.Popen(
    [sys.executable, *program, *map(str, arguments)],
    cwd=runs.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )


def finish(process, code=0) -> str:
  """Waits for a process that is to end with `code`; returns its output."""
  output, _ = process.communicate(timeout=runs.HANG)
  assert process.returncode == code, output
  return output


def trial(study, index):
  """A trial of the study in a folder."""
  return study_lib.StudyDir(study).trial(index)


def statuses(study):
  """How each trial that was begun stands, in order."""
  return [
    study_lib.rundir.RunDir(path).status().get("status")
    for path in sorted((pathlib.Path(study) / "trials").iterdir())
  ]


def files(folder):
  """Every file below a folder -> (its time, its content)."""
  return {
    path: (path.stat().st_mtime_ns, path.read_bytes())
    for path in sorted(pathlib.Path(folder).rglob("*"))
    if path.is_file()
  }
