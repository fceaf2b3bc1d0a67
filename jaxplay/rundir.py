"""A run on disk: the waist between training, which writes, and all that reads.

    RUN/config.json        resolved config, nested, sorted keys
        provenance.json    what made it: git commit, diff, versions, devices
        metrics.jsonl      a line per logged step, in order, append-only
        status.json        how it stands and how it ended; replaced atomically
        checkpoints/       by orbax
        predictions/       a fixed sample of examples at each evaluation
        export/            the best checkpoint's forward function

Needs only the standard library and numpy, so a laptop reads a pod's run; in a
bucket (gs://) also etils and gcsfs.
"""

import contextlib
import fcntl
import io
import json
import math
import os
import pathlib
import shutil
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

# What reads and writes each kind of bucket.
_CLIENTS = {"gs": "gcsfs", "s3": "s3fs"}
_BUCKET_SECONDS = 10.0  # at most, until a line of metrics is in a bucket


# What makes a directory a run, a study, a ladder or a plan.
_KINDS = {
  "a run": "config.json",
  "a study": "study.json",
  "a ladder": "ladder.json",
  "a plan": "plan.json",
}


def refuse_other(path: str | os.PathLike, kind: str) -> None:
  """Refuses a directory that holds something else than a `kind`.

  Args:
    path: Of the directory, there or not.
    kind: "a run", "a study", "a ladder" or "a plan".

  Raises:
    jaxplay.UserError: It does.
  """
  for other, name in _KINDS.items():
    if other != kind and (at(path) / name).exists():
      raise jaxplay.UserError(
        f"{str(path)!r} holds {other}; use another workdir"
      )


class RunDir:
  """Reads and writes one run directory; every read copes with its absence."""

  def __init__(self, path: str | os.PathLike):
    self.path = at(path)
    self.checkpoints = self.path / "checkpoints"
    self.export = self.path / "export"
    # Objects in a bucket cannot grow; each append writes all lines anew.
    self._unwritten, self._written = "", time.monotonic()

  def create(self) -> None:
    """Makes the directory.

    Raises:
      jaxplay.UserError: It cannot be made or written.
    """
    probe = self.path / ".writable"
    with _told(f"cannot write in workdir {str(self.path)!r}", probe):
      self.path.mkdir(parents=True, exist_ok=True)
      probe.write_bytes(b"")
      # Another process may be at it, too.
      probe.unlink(missing_ok=True)

  @contextlib.contextmanager
  def lock(self, wait: bool = False) -> Iterator[None]:
    """Keeps other processes from training here; ends with this process.

    In a bucket there are no locks: there it does nothing.

    Args:
      wait: Whether to wait until the other process is done.

    Raises:
      jaxplay.UserError: Another process is training here.
    """
    if not is_local(self.path):
      yield
      return
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
    self._write_lines()
    write_json(self.path / "status.json", dict(fields, status=status))

  def metrics(self) -> list[dict[str, Any]]:
    """All complete lines of metrics.jsonl; a torn last line is left out."""
    self._write_lines()
    path = self.path / "metrics.jsonl"
    text = _read_text(path) or ""
    complete = text[: text.rfind("\n") + 1].splitlines()
    return [
      _parse_json(path, line, number) for number, line in enumerate(complete, 1)
    ]

  def append_metrics(self, lines: list[Mapping[str, Any]]) -> None:
    """Appends lines. Non-finite numbers become null: they are not JSON."""
    text = "".join(map(as_line, lines))
    if is_local(self.path):
      with open(self.path / "metrics.jsonl", "a") as file:
        file.write(text)
      return
    self._unwritten += text
    if time.monotonic() - self._written > _BUCKET_SECONDS:
      self._write_lines()

  def sync_metrics(self) -> None:
    """Waits until all lines are on the disk."""
    if is_local(self.path):
      with open(self.path / "metrics.jsonl", "a") as file:
        os.fsync(file.fileno())
    self._write_lines()

  def _write_lines(self):
    if self._unwritten:
      path = self.path / "metrics.jsonl"
      write_text(path, (_read_text(path) or "") + self._unwritten)
      self._unwritten, self._written = "", time.monotonic()

  def rewind_metrics(self, step: int) -> None:
    """Forgets lines after `step`: the resumed run will write them again."""
    kept = [line for line in self.metrics() if line["step"] <= step]
    text = "".join(map(as_line, kept))
    write_text(self.path / "metrics.jsonl", text)
    for path in list((self.path / "predictions").glob("*.npz")):
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
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    _write(folder / f"{step:08d}.npz", file.getvalue())

  def predictions(self, step: int) -> dict[str, np.ndarray]:
    """What `write_predictions` saved for `step`."""
    path = self.path / "predictions" / f"{step:08d}.npz"
    with path.open("rb") as file, np.load(file) as arrays:
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
  with _told(f"cannot read {str(path)!r}", path):
    try:
      return path.read_bytes().decode("utf-8", "replace")
    except (FileNotFoundError, NotADirectoryError):
      return None


@contextlib.contextmanager
def _told(what, path):
  """Tells in a sentence what went wrong with a file."""
  # Clients of buckets have errors of their own, for networks and credentials.
  errors = OSError if is_local(path) else Exception
  try:
    yield
  except errors as error:
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
    if isinstance(error, FileNotFoundError) and not is_local(path):
      reason = "there is no such bucket"
    raise jaxplay.UserError(f"{what}: {reason}") from None


def at(path: str | os.PathLike) -> pathlib.Path:
  """The path of a file or folder, here or in a bucket.

  Args:
    path: Of this machine, or a URL such as gs://bucket/run.

  Returns:
    A `pathlib.Path`, or of a URL an `etils.epath.Path`, which does the same.

  Raises:
    jaxplay.UserError: What a URL needs is not installed.
  """
  text = os.fspath(path)
  scheme, separator, _ = text.partition("://")
  if not separator:
    return pathlib.Path(path)
  if scheme not in _CLIENTS:
    raise jaxplay.UserError(
      f"{text!r} is neither a folder nor in a bucket (gs:// or s3://)"
    )
  try:
    import fsspec
    from etils import epath

    # Others write here, too: what a listing said may no longer be so.
    settings = fsspec.config.conf.setdefault(scheme, {})
    settings["use_listings_cache"] = False
    fsspec.get_filesystem_class(scheme)
  except ImportError:
    raise jaxplay.UserError(
      f"{scheme}:// needs the package {_CLIENTS[scheme]}: pip install"
      f" {_CLIENTS[scheme]}"
    ) from None
  return epath.Path(text)


def is_local(path: pathlib.Path) -> bool:
  """Whether a path from `at` is of this machine."""
  return isinstance(path, pathlib.Path)


def absolute(path: pathlib.Path) -> pathlib.Path:
  """A path from `at` that does not depend on the current folder."""
  return path.absolute() if is_local(path) else path


def copy(folder: pathlib.Path, to: pathlib.Path) -> None:
  """Copies a folder with all that is in it; there is no `to` yet.

  On a disk `to` is there once it is whole. Buckets cannot rename: there,
  whoever copies has to know whether it came to the end.
  """
  if is_local(folder) and is_local(to):
    partial = to.with_name(f"{to.name}.partial")
    remove(partial)
    shutil.copytree(folder, partial)
    os.replace(partial, to)
    return
  to.mkdir(parents=True, exist_ok=True)
  for path in folder.iterdir():
    if path.is_dir():
      copy(path, to / path.name)
    else:
      with path.open("rb") as old, (to / path.name).open("wb") as new:
        shutil.copyfileobj(old, new)


def remove(folder: pathlib.Path) -> None:
  """Deletes a folder with all that is in it, if it is there."""
  if is_local(folder):
    shutil.rmtree(folder, ignore_errors=True)
  else:
    folder.rmtree(missing_ok=True)


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
  _write(path, text.encode())


def _write(path, data):
  if not is_local(path):  # An object is there as a whole or not at all.
    path.write_bytes(data)
    return
  partial = path.with_name(f".{path.name}.partial")
  with open(partial, "wb") as file:
    file.write(data)
    file.flush()
    os.fsync(file.fileno())
  os.replace(partial, path)
