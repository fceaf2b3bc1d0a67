"""A run on disk: the waist between training, which writes, and all that reads.

    RUN/config.json        resolved config, nested, sorted keys
        provenance.json    what made it: git commit, diff, versions, devices
        metrics.jsonl      a line per logged step, in order, append-only
        status.json        how it stands and how it ended; replaced atomically
        checkpoints/       by orbax
        predictions/       a fixed sample of examples at each evaluation
        export/            the best checkpoint's forward function

Needs only the standard library and numpy, so a laptop reads a pod's run.
"""

import contextlib
import fcntl
import json
import math
import os
import pathlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import jaxplay

STATUSES = ("running", "completed", "infeasible", "preempted", "failed")
DONE = ("completed", "infeasible")  # There is nothing left to run.


# What makes a directory a run, a study or a ladder.
_KINDS = {
  "a run": "config.json",
  "a study": "study.json",
  "a ladder": "ladder.json",
}


def refuse_other(path: str | os.PathLike, kind: str) -> None:
  """Refuses a directory that holds something else than a `kind`.

  Args:
    path: Of the directory, there or not.
    kind: "a run", "a study" or "a ladder".

  Raises:
    jaxplay.UserError: It does.
  """
  for other, name in _KINDS.items():
    if other != kind and (pathlib.Path(path) / name).exists():
      raise jaxplay.UserError(
        f"{str(path)!r} holds {other}; use another workdir"
      )


class RunDir:
  """Reads and writes one run directory; every read copes with its absence."""

  def __init__(self, path: str | os.PathLike):
    self.path = pathlib.Path(path)
    self.checkpoints = self.path / "checkpoints"
    self.export = self.path / "export"

  def create(self) -> None:
    """Makes the directory.

    Raises:
      jaxplay.UserError: It cannot be made or written.
    """
    try:
      self.path.mkdir(parents=True, exist_ok=True)
      (self.path / ".writable").touch()
      # Another process may be at it, too.
      (self.path / ".writable").unlink(missing_ok=True)
    except OSError as error:
      raise jaxplay.UserError(
        f"cannot write in workdir {str(self.path)!r}: {error.strerror}"
      ) from None

  @contextlib.contextmanager
  def lock(self, wait: bool = False) -> Iterator[None]:
    """Keeps other processes from training here; ends with this process.

    Args:
      wait: Whether to wait until the other process is done.

    Raises:
      jaxplay.UserError: Another process is training here.
    """
    with open(self.path / ".lock", "a") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
      except BlockingIOError:
        raise jaxplay.UserError(
          f"another process is training in {str(self.path)!r}; wait for it, or"
          " use another workdir"
        ) from None
      yield

  def config(self) -> dict[str, Any] | None:
    """The resolved config, or None before the run began."""
    return read_json(self.path / "config.json")

  def write_config(self, config: Mapping[str, Any]) -> None:
    write_json(self.path / "config.json", config)

  def provenance(self) -> dict[str, Any] | None:
    """What made the run; "resumes" lists the later starts."""
    return read_json(self.path / "provenance.json")

  def write_provenance(self, entry: Mapping[str, Any]) -> None:
    """Keeps the first entry and lists each later one under "resumes"."""
    first = self.provenance() or {}
    if "resumes" not in first:  # It may say already what it is a branch of.
      first = first | dict(entry, resumes=[])
    else:
      first["resumes"].append(dict(entry))
    write_json(self.path / "provenance.json", first)

  def status(self) -> dict[str, Any]:
    """How the run stands; {} before it began."""
    return read_json(self.path / "status.json") or {}

  def write_status(self, status: str, **fields: Any) -> None:
    """Replaces status.json.

    Args:
      status: One of `STATUSES`. A diverged run is infeasible, which is a
        result; a crashed one failed, which is an accident.
      **fields: JSON values, such as `step`, `reason`, `best`, `final`.
    """
    if status not in STATUSES:
      raise ValueError(f"unknown status {status!r}")
    write_json(self.path / "status.json", dict(fields, status=status))

  def metrics(self) -> list[dict[str, Any]]:
    """All complete lines of metrics.jsonl; a torn last line is left out."""
    path = self.path / "metrics.jsonl"
    text = _read_text(path) or ""
    complete = text[: text.rfind("\n") + 1].splitlines()
    return [
      _parse_json(path, line, number) for number, line in enumerate(complete, 1)
    ]

  def append_metrics(self, lines: list[Mapping[str, Any]]) -> None:
    """Appends lines. Non-finite numbers become null: they are not JSON."""
    with open(self.path / "metrics.jsonl", "a") as file:
      file.writelines(map(as_line, lines))

  def sync_metrics(self) -> None:
    """Waits until all lines are on the disk."""
    with open(self.path / "metrics.jsonl", "a") as file:
      os.fsync(file.fileno())

  def rewind_metrics(self, step: int) -> None:
    """Forgets lines after `step`: the resumed run will write them again."""
    kept = [line for line in self.metrics() if line["step"] <= step]
    text = "".join(map(as_line, kept))
    write_text(self.path / "metrics.jsonl", text)
    for path in (self.path / "predictions").glob("*.npz"):
      if int(path.stem) > step:
        path.unlink()

  def write_findings(self, findings: list[Mapping[str, Any]]) -> None:
    write_json(self.path / "findings.json", findings)

  def findings(self) -> list[dict[str, Any]]:
    """The rows of findings.json; [] where there are none."""
    return read_json(self.path / "findings.json") or []

  def write_predictions(self, step: int, **arrays: np.ndarray) -> None:
    """Saves arrays about the evaluation after `step` updates."""
    folder = self.path / "predictions"
    folder.mkdir(exist_ok=True)
    partial = folder / f".{step}.partial"
    with open(partial, "wb") as file:
      np.savez_compressed(file, **arrays)
    os.replace(partial, folder / f"{step:08d}.npz")

  def predictions(self, step: int) -> dict[str, np.ndarray]:
    """What `write_predictions` saved for `step`."""
    with np.load(self.path / "predictions" / f"{step:08d}.npz") as arrays:
      return dict(arrays)


def as_line(line: Mapping[str, Any]) -> str:
  """A line of metrics.jsonl."""
  return json.dumps(plain(line)) + "\n"


def best_line(
  lines: list[Mapping[str, Any]], objective: str
) -> dict[str, Any] | None:
  """The earliest line with the least finite objective.

  Returns:
    {"step", "metric", "value"}, or None where no line has the objective.
  """
  scored = [
    (line[objective], line["step"])
    for line in lines
    if line.get(objective) is not None and math.isfinite(line[objective])
  ]
  if not scored:
    return None
  value, step = min(scored)
  return {"step": step, "metric": objective, "value": value}


def provenance(devices: str, versions: Mapping[str, str]) -> dict[str, Any]:
  """What made a run, for `write_provenance`.

  Args:
    devices: Kind and count of the devices, in words.
    versions: Versions of the libraries that computed it.
  """

  def git(*args):
    command = ["git", "-C", os.path.dirname(os.path.abspath(__file__)), *args]
    try:
      done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
      return None
    return done.stdout if done.returncode == 0 else None

  commit = git("rev-parse", "HEAD")
  return {
    "git_commit": commit and commit.strip(),
    "git_diff": git("diff", "HEAD") if commit else None,
    "versions": {"python": sys.version.split()[0], **versions},
    "devices": devices,
    "host": socket.gethostname(),
    "command": sys.argv,
    "folder": os.getcwd(),
    "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
  }


def plain(value: Any) -> Any:
  """JSON values: numpy numbers as Python's, non-finite ones as null."""
  if isinstance(value, Mapping):
    return {key: plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  if isinstance(value, np.ndarray | np.generic):
    return plain(value.tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def _read_text(path):
  """What is in a file, or None where there is no such file."""
  try:
    return path.read_text(encoding="utf-8", errors="replace")
  except (FileNotFoundError, NotADirectoryError):
    return None
  except OSError as error:
    raise jaxplay.UserError(
      f"cannot read {str(path)!r}: {error.strerror}"
    ) from None


def read_json(path: pathlib.Path) -> Any:
  """What a file of JSON holds, or None where there is no such file.

  Raises:
    jaxplay.UserError: It is damaged, or cannot be read.
  """
  text = _read_text(path)
  return None if text is None else _parse_json(path, text)


def _parse_json(path, text, line=None):
  try:
    return json.loads(text)
  except json.JSONDecodeError as error:
    raise jaxplay.UserError(
      f"{str(path)!r} is damaged (line {line or error.lineno}); restore it from"
      " a copy, or start in another workdir"
    ) from None


def write_json(path: pathlib.Path, value: Any) -> None:
  """Replaces a file atomically. Non-finite numbers become null."""
  text = json.dumps(plain(value), indent=1, sort_keys=True)
  write_text(path, text + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
  """Writes a file so that a reader, or a crash, sees the old or the new one."""
  partial = path.with_name(f".{path.name}.partial")
  with open(partial, "w") as file:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)
