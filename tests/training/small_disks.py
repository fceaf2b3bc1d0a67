"""Runs and studies on disks that fill up or go; a program of its own.

Of its own, because after an error of a disk the threads of orbax wait for
minutes. It ends with an error where something is not as it must be, and what it
leaves on standard error is what a user would read.
"""

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile

import numpy as np

from jaxplay import cli, rundir, terminal
from tests.study import studies
from tests.training import runs

KEYS = runs.overrides(
  **{"model.width": 48, "model.norm": "batch", "optimizer": "adamw"},
  averages=("ema", "window"),
  max_train_steps=40,
  checkpoint_every=8,
  hparams__learning_rate=0.01,
)


def can_mount():
  """Whether this process may mount a disk."""
  folder = tempfile.mkdtemp()
  try:
    with disk(folder):
      return True
  except (OSError, subprocess.CalledProcessError):
    return False
  finally:
    os.rmdir(folder)


@contextlib.contextmanager
def disk(folder, options="size=100m"):
  """A disk in memory, mounted at a folder."""
  mount = ("mount", "-t", "tmpfs", "-o", options, "none", str(folder))
  subprocess.run(mount, check=True, stderr=subprocess.DEVNULL)
  try:
    yield
  finally:
    # It may be gone already, as part of a test.
    subprocess.run(["umount", "-l", str(folder)], stderr=subprocess.DEVNULL)


def resize(folder, options):
  """Makes a mounted disk larger or smaller."""
  remount = ("mount", "-o", f"remount,{options}", str(folder))
  subprocess.run(remount, check=True)


def no_partial_files(folder):
  """Whether nothing incomplete is left in a folder."""
  return not [
    path
    for path in pathlib.Path(folder).rglob("*")
    if "partial" in path.name or "tmp" in path.name
  ]


def _call(arguments, code):
  """Runs a command line, which must end with this code; what it printed."""
  there = sys.stdout, sys.stderr
  with tempfile.TemporaryFile("w+") as output:
    sys.stdout = sys.stderr = output
    try:
      got = cli.main(arguments)
    finally:
      sys.stdout, sys.stderr = there
    output.seek(0)
    text = output.read()
  assert got == code, text
  assert "Traceback" not in text, text
  if code:
    told = [line for line in text.split("\n") if line.startswith("jaxplay: ")]
    assert len(told) == 1 and "same command" in told[0], text
  return text


def _fills_up(where, command, told, options):
  """A disk on which there is no room for all: then there is."""
  with disk(where, options):
    text = _call(command, cli.common.EXIT_FAILED)
    assert told in text and "room there for" in text, text
    assert no_partial_files(where)
    folders = [path.parent for path in where.rglob("status.json")]
    statuses = [rundir.RunDir(folder).status() for folder in folders]
    assert all(s["status"] != "failed" for s in statuses), statuses
    assert not any("failures" in s for s in statuses)
    resize(where, "size=100m,nr_inodes=100000")
    _call(command, 0)
    shutil.copytree(where, where.parent / "saved", dirs_exist_ok=True)


def _breaks(where, command, act):
  """A disk that something happens to in the middle of a run."""
  show, acted = terminal.Console.progress, []

  def progress(console, done, total, line):
    show(console, done, total, line)
    if done >= 12 and not acted:
      acted.append(act())

  terminal.Console.progress = progress
  try:
    return _call(command, cli.common.EXIT_FAILED)
  finally:
    terminal.Console.progress = show
    assert acted


def _remove(folder):
  """Removes a folder in which others may just be writing."""
  while folder.exists():
    shutil.rmtree(folder, ignore_errors=True)


def _same_run(one, other):
  runs.assert_same(runs.lines(one), runs.lines(other))
  bests = [rundir.RunDir(path).status()["best"] for path in (one, other)]
  assert bests[0] == bests[1], bests


def _check_runs(folder, *options):
  """A run on disks that fill up, and on one whose folder is removed."""
  where = folder / "disk"
  where.mkdir()
  train = runs.command(KEYS, where / "run")
  whole = folder / "whole"
  _call(runs.command(KEYS, whole), 0)
  for of_disk in options:
    _fills_up(where, train, "No space left on device", of_disk)
    _same_run(whole, folder / "saved" / "run")
    state = runs.last_state(KEYS, whole)
    runs.assert_same(state, runs.last_state(KEYS, folder / "saved" / "run"))
    shutil.rmtree(folder / "saved")
  with disk(where):
    text = _breaks(where, train, lambda: _remove(where / "run"))
    assert "was removed" in text, text
    assert not list(where.iterdir())


def _check_studies(folder):
  """A study: full of bytes, full of files, unmounted."""
  where = folder / "disk"
  where.mkdir()
  overrides = {"model.width": 48, "optimizer": "adamw"}
  path = studies.write(folder, num_trials=3, overrides=overrides)

  def command(study):
    return ["study", "run", path, f"--workdir={study}", "--no_report"]

  _call(command(folder / "whole"), 0)
  for of_disk in ("size=330k", "size=100m,nr_inodes=66"):
    study = where / "study"
    _fills_up(where, command(study), "No space left on device", of_disk)
    saved = folder / "saved" / "study"
    for index in range(3):
      one, other = (studies.trial(s, index) for s in (folder / "whole", saved))
      _same_run(one.path, other.path)
    assert not list((saved / "populations").glob("*/members.json"))
    shutil.rmtree(folder / "saved")
  # A process for each trial: the first to find no room stops the study.
  study = where / "study"
  processes = [*command(study), "--runner=processes", "--parallel=2"]
  _fills_up(where, processes, "No space left on device", "size=250k")
  for index in range(3):
    run = studies.trial(folder / "saved" / "study", index)
    assert [line["step"] for line in run.metrics()] == list(range(4, 25, 4))
    assert run.status()["status"] == "completed"
  with disk(where):

    def unmount():
      subprocess.run(["umount", "-l", str(where)], check=True)

    text = _breaks(where, command(where / "study"), unmount)
    assert "unmounted" in text, text
    assert not list(where.iterdir())


def _check_kills(folder):
  """A run and a study, each killed five times on a disk that is nearly full."""
  where, random = folder / "disk", np.random.default_rng(0)
  where.mkdir()
  path = studies.write(
    folder, num_trials=3, overrides={"model.width": 48, "optimizer": "adamw"}
  )
  study = ["study", "run", path, "--no_report", "--workdir"]
  for name, steps, command in (
    ("run", 40, lambda at: runs.command(KEYS, at)),
    ("study", 3 * 24, lambda at: [*study, str(at)]),
  ):
    studies.finish(studies.start(*command(folder / name)))
    with disk(where, "size=200k"):
      kilobytes = _killed(where, command(where / name), 5, steps, random)
      assert kilobytes > 200, "the disk was never full"
      studies.finish(studies.start(*command(where / name)))
      for whole in folder.glob(f"{name}/**/metrics.jsonl"):
        one = whole.parent
        _same_run(one, where / one.relative_to(folder))
      assert no_partial_files(where)


def _killed(where, command, number, steps, random):
  """Kills a command so often; gives it room where it needs some.

  Returns:
    The size of the disk at the end, in kilobytes.
  """
  kilobytes = 200
  while number:
    moment = f"step >= {random.integers(1, steps)}"
    process = studies.start(*command, signal=signal.SIGKILL, moment=moment)
    output, _ = process.communicate(timeout=runs.HANG)
    assert "Traceback" not in output, output
    if process.returncode == -signal.SIGKILL:
      number -= 1
      continue
    assert process.returncode == cli.common.EXIT_FAILED, output
    assert output.count("\njaxplay: ") == 1 and "room there for" in output
    kilobytes += 200
    resize(where, f"size={kilobytes}k")
  resize(where, "size=100m")
  return kilobytes


_CHECKS = {
  "kills": _check_kills,
  "run": lambda folder: _check_runs(folder, "size=280k"),
  "runs": lambda folder: _check_runs(
    folder, "size=200k", "size=100m,nr_inodes=70"
  ),
  "studies": _check_studies,
}

if __name__ == "__main__":
  with tempfile.TemporaryDirectory() as name:
    _CHECKS[sys.argv[1]](pathlib.Path(name))
  sys.stdout.flush()
  os._exit(0)  # See above.
