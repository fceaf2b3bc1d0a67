"""A run on disk: the waist between training, which writes, and all that reads.

    RUN/config.json        resolved config, nested, sorted keys
        provenance.json    what made it: git commit, diff, versions, devices
        metrics.jsonl      a line per logged step, in order, append-only
        status.json        how it stands and how it ended; replaced atomically
        checkpoints/       by orbax
        checkpoints.json   of a trial of a population: where they are instead
        predictions/       a fixed sample of examples at each evaluation
        export/            the best checkpoint's forward function

A directory may be from somebody else, so what is in it is data. Files are
replaced by new ones or appended to, and never written through a link: not one
of their own name, nor one of a folder on the way from the run directory. The
shape of each file is written down once as a type, beside the code that owns it,
and `read_json` refuses what has another, such as the rest of a copy that broke
off: in a sentence with the file, the place in it and a way out.

Needs only the standard library, numpy and msgspec, so a laptop reads a pod's
run; in a bucket (gs://) also etils and gcsfs.
"""

import contextlib
import errno
import fcntl
import hashlib
import io
import json
import math
import os
import pathlib
import re
import secrets
import shutil
import stat
import sys
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import (
  IO,
  Annotated,
  Any,
  Literal,
  NotRequired,
  Required,
  TypedDict,
  get_args,
)

import msgspec
import numpy as np

import jaxplay
from jaxplay import storage

Status = Literal["running", "completed", "infeasible", "preempted", "failed"]
STATUSES = get_args(Status)
DONE = ("completed", "infeasible")  # There is nothing left to run.

# What reads and writes each kind of bucket.
_CLIENTS = {"gs": "gcsfs", "s3": "s3fs"}
_BUCKET_SECONDS = 10.0  # at most, until a line of metrics is in a bucket
# Name of a file or folder that is not complete yet; nobody can foresee it.
_PARTIAL = re.compile(r"\.[0-9a-f]{16}\.partial")
# What is written in place: folders of a run, a study and a ladder, and files
# that grow.
_FOLDERS = (
  *("checkpoints", "predictions", "export", "profile"),
  *("trials", "reruns", "populations", "sizes"),
)
_PARTS = ("checkpoints", "profile", "trials", "reruns", "populations", "sizes")
_GROWING = (".lock", "metrics.jsonl", "log.txt")

# What makes a directory a run, a study, a ladder or a plan.
_KINDS = {
  "a run": "config.json",
  "a study": "study.json",
  "a ladder": "ladder.json",
  "a plan": "plan.json",
}

# Types of numbers in files: those that numpy and JAX can hold.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Above0 = Annotated[float, msgspec.Meta(gt=0)]
# Of a folder, never a path that leads elsewhere.
Name = Annotated[str, msgspec.Meta(pattern=r"^\w[\w.+-]*\Z")]
Numbers = dict[str, int | float | None]  # null: it was not finite
_DEEPEST = 64  # levels of nesting, which no file of ours comes near


class Config(TypedDict, total=False):
  """Of config.json what is read without `config.from_json`, which checks all.

  A run of an earlier version lacks the keys that came later.
  """

  seed: Count
  max_train_steps: Positive
  objective: str
  averages: list[str]
  hparams: dict[str, float]
  dataset: dict[str, Any]
  model: dict[str, Any]
  mesh: dict[str, Any]


class Best(TypedDict):
  """The line of metrics with the least objective; see `best_line`."""

  step: Count
  metric: str
  value: float


class _Chance(TypedDict):
  majority_error_rate: Share
  num_valid: Count


class _Lines(TypedDict):
  """Of metrics.jsonl; see `Digest`."""

  count: Count
  sha256: str


class RunStatus(TypedDict):
  """status.json."""

  status: Status
  step: NotRequired[Count]
  max_train_steps: NotRequired[Positive]
  reason: NotRequired[str | None]
  best: NotRequired[Best | None]
  final: NotRequired[Numbers | None]
  test: NotRequired[Numbers]
  seconds: NotRequired[Seconds]
  failures: NotRequired[Count]
  chance: NotRequired[_Chance | None]
  lines: NotRequired[_Lines]


class _Text(TypedDict, total=False):
  name: Required[str]
  vocab_size: Count
  tokenizer: str
  sha256: str
  splits: dict[str, dict[str, Any]]


class _Dataset(_Text, total=False):
  mixture: list[_Text]


class _Branch(TypedDict):
  run: str
  step: Count


class _Repository(TypedDict, total=False):
  """As `provenance` finds it; the keys below "state" are of a known one."""

  state: Literal["none", "unknown", "known"]
  reason: str
  folder: str
  remote: str
  commit: str | None
  diff: str | None
  untracked: list[str] | None


class _Jaxplay(TypedDict):
  version: str
  repository: _Repository


class _KnownRepository(TypedDict):
  folder: str
  remote: str
  commit: str | None
  diff: str | None


class _File(TypedDict):
  path: str
  text: str
  sha256: str
  state: str
  repository: str | None


class Provenance(TypedDict, total=False):
  """provenance.json, of runs, studies, ladders and plans."""

  git_commit: str | None
  git_diff: str | None
  jaxplay: _Jaxplay
  files: list[_File]
  repositories: list[_KnownRepository]
  versions: dict[str, str]
  devices: str
  host: str
  command: list[str]
  folder: str
  time: str
  dataset: _Dataset | None
  branch: _Branch
  resumes: list[dict[str, Any]]


class Packed(TypedDict):
  """checkpoints.json: where the checkpoints of a trial are; see `packed.py`."""

  population: Name
  place: Count
  study: str


class FindingRow(TypedDict):
  """A row of findings.json, as `finding.Finding.as_json` makes it."""

  check: str
  verdict: Literal["ok", "warn", "fail", "unknown"]
  subject: str
  evidence: dict[str, Any]
  advice: str
  source: str


class Damaged(jaxplay.UserError):
  """A file holds what this program does not write into it."""

  def __init__(self, path: str | os.PathLike, what: str):
    """A sentence on it.

    Args:
      path: Of the file.
      what: Place and fault, such as "$.step: expected int, got str".
    """
    super().__init__(
      f"{str(path)!r} is damaged: {what}; restore it from a copy, or start in"
      " another workdir"
    )


def refuse_other(path: str | os.PathLike, kind: str) -> None:
  """Refuses a directory that holds something else than a `kind`.

  Args:
    path: Of the directory, there or not.
    kind: "a run", "a study", "a ladder" or "a plan".

  Raises:
    jaxplay.UserError: It does, or a folder of it is elsewhere.
  """
  RunDir(path).refuse_links()
  for other, name in _KINDS.items():
    if other != kind and (at(path) / name).exists():
      raise jaxplay.UserError(
        f"{str(path)!r} holds {other}; use another workdir"
      )


def absent(path: str | os.PathLike, kind: str) -> jaxplay.UserError:
  """The error of a directory that was to hold a `kind`: what is there instead.

  Args:
    path: Of the directory, there or not.
    kind: "a run", "a study", "a ladder" or "a plan".
  """
  folder, name = at(path), _KINDS[kind]
  if is_local(folder) and not folder.is_dir():
    return jaxplay.UserError(
      f"{str(path)!r} is a file, not a folder"
      if folder.exists()
      else f"there is no folder {str(path)!r}"
    )
  for other, file in _KINDS.items():
    if (folder / file).exists():
      return jaxplay.UserError(f"{str(path)!r} holds {other}, not {kind}")
  return jaxplay.UserError(
    f"{str(path)!r} holds no {kind.partition(' ')[2]} (no {name})"
  )


class RunDir:
  """Reads and writes one run directory; every read copes with its absence."""

  def __init__(
    self, path: str | os.PathLike, root: str | os.PathLike | None = None
  ):
    """Reads and writes nothing yet.

    Args:
      path: Of the run directory.
      root: The directory that it is a part of, such as a study's; None: it is
        the one that the user named, which may be a link.
    """
    self.path = at(path)
    self._root = self.path if root is None else at(root)
    self.checkpoints = self.path / "checkpoints"
    self.export = self.path / "export"
    # Objects in a bucket cannot grow; each append writes all lines anew.
    self._unwritten, self._written = "", time.monotonic()
    # The folder as such, whatever its name.
    self._locked: os.stat_result | None = None

  def create(self) -> None:
    """Makes the directory.

    Raises:
      jaxplay.UserError: It cannot be made or written, or a folder of it is
        elsewhere.
    """
    self.refuse_links()
    self._refuse_name()
    make_folder(self.path)

  def _refuse_name(self):
    """Refuses a name that orbax cannot take."""
    name = str(absolute(self.path))
    try:
      name.encode()
    except UnicodeEncodeError:
      raise jaxplay.UserError(
        f"the name of workdir {name!r} is no text in"
        f" {sys.getfilesystemencoding()}, which checkpoints need; rename the"
        " folder, or use another workdir"
      ) from None

  def refuse_links(self) -> None:
    """Refuses to write in a directory from which links lead elsewhere.

    Raises:
      jaxplay.UserError: A folder of it, or a file that grows, is a link.
    """
    refuse_links(self._root, self.path)
    refuse_links(
      self.path,
      *(self.path / name for name in (*_FOLDERS, *_GROWING)),
      # Not what is in each trial: whoever trains there looks itself.
      *(path for name in _PARTS for path in _listed(self.path / name)),
    )

  def refuse_remains(self) -> None:
    """Refuses a directory without config in which a run has begun already.

    Raises:
      jaxplay.UserError: Whose run it was cannot be known.
    """
    names = ("status.json", "metrics.jsonl", "checkpoints")
    there = [name for name in names if (self.path / name).exists()]
    if there and self.config() is None:  # It is written before all of them.
      raise jaxplay.UserError(
        f"{str(self.path)!r} holds {there[0]} of a run, but no config.json;"
        " restore it from a copy, or use another workdir"
      )

  @contextlib.contextmanager
  def lock(self, wait: bool = False) -> Iterator[None]:
    """Keeps other processes from training here; ends with this process.

    In a bucket there are no locks: there it does nothing.

    Args:
      wait: Whether to wait until the other process is done.

    Raises:
      jaxplay.UserError: Another process is training here, or a folder of it
        is elsewhere.
    """
    if not is_local(self.path):
      yield
      return
    self.refuse_links()
    self._refuse_name()
    with open_to_append(self.path / ".lock") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
      except BlockingIOError:
        raise jaxplay.UserError(
          f"another process is training in {str(self.path)!r}; wait for it, or"
          " use another workdir"
        ) from None
      self._remove_partial()
      self._locked = self.path.stat()
      yield

  def _check_is_there(self):
    """Raises where the folder that was locked was removed meanwhile.

    There may be another one of its name: orbax makes folders that it misses.
    """
    if self._locked is None:
      return
    with contextlib.suppress(OSError):
      if os.path.samestat(self._locked, self.path.stat()):
        return
    raise FileNotFoundError(
      errno.ENOENT, os.strerror(errno.ENOENT), str(self.path)
    )

  def _remove_partial(self):
    """Removes what processes that were killed left incomplete."""
    for folder in (self.path, *(self.path / name for name in _FOLDERS[:3])):
      if folder.is_dir():
        _remove_partial(folder)

  def config(self) -> dict[str, Any] | None:
    """The resolved config, or None before the run began."""
    return read_json(self.path / "config.json", Config)

  def objective(self) -> str:
    """The metric by which the run's config says that it is judged.

    Raises:
      jaxplay.UserError: There is no run here, or its config does not say.
    """
    config = self.config()
    if config is None:
      raise absent(self.path, "a run")
    if "objective" not in config:
      raise Damaged(self.path / "config.json", "$: it has no objective")
    return config["objective"]

  def write_config(self, config: Mapping[str, Any]) -> None:
    write_json(self.path / "config.json", config)

  def provenance(self) -> dict[str, Any] | None:
    """What made the run; "resumes" lists the later starts."""
    return read_json(self.path / "provenance.json", Provenance)

  def write_provenance(self, entry: Mapping[str, Any]) -> None:
    """Keeps the first entry and lists each later one under "resumes".

    What a later entry says of code and files is left out where it is as it was
    before.
    """
    first, entry = self.provenance() or {}, dict(entry)
    own = os.path.abspath(self.path / "config.json")  # It says nothing new.
    if any(file["path"] == own for file in entry.get("files", ())):
      entry |= {"files": [], "repositories": []}
    if "resumes" not in first:  # It may say already what it is a branch of.
      known = {k: v for k, v in first.items() if v and not entry.get(k)}
      first = first | entry | known | {"resumes": []}
    else:
      first["resumes"].append(_news(entry, first))
    write_json(self.path / "provenance.json", first)

  def note_start(self, entry: Mapping[str, Any]) -> None:
    """As `write_provenance`, of what is started anew for each of its parts.

    A start is listed if other code or files made it than the one before.
    """
    first = self.provenance()
    if first is None or _CODE & _news(entry, first).keys():
      self.write_provenance(entry)

  def packed(self) -> Packed | None:
    """Where the checkpoints are, if they were saved with those of others."""
    return read_json(self.path / "checkpoints.json", Packed)

  def write_packed(self, where: Packed | None) -> None:
    """Says so; None: they are in the run directory."""
    path = self.path / "checkpoints.json"
    if where is not None:
      write_json(path, where)
    else:
      path.unlink(missing_ok=True)

  def status(self) -> dict[str, Any]:
    """How the run stands; {} before it began."""
    return read_json(self.path / "status.json", RunStatus) or {}

  def write_status(self, status: str, **fields: Any) -> None:
    """Replaces status.json.

    Args:
      status: One of `STATUSES`. A diverged run is infeasible, which is a
        result; a crashed one failed, which is an accident.
      **fields: JSON values, such as `step`, `reason`, `best`, `final`.
    """
    if status not in STATUSES:
      raise ValueError(f"unknown status {status!r}")
    self._check_is_there()
    self._write_lines()
    write_json(self.path / "status.json", dict(fields, status=status))

  def metrics(self) -> list[dict[str, Any]]:
    """All complete lines of metrics.jsonl; a torn last line is left out.

    Raises:
      Damaged: A line holds something else than numbers, or does not come after
        the one before.
    """
    path, lines, last = self.path / "metrics.jsonl", [], -1
    for number, text in enumerate(self._complete_lines(), 1):
      line = _metrics_line(path, text, number)
      step = line["step"]
      if step <= last:
        raise Damaged(
          path, f"line {number} is of step {step}, and comes after step {last}"
        )
      last = step
      lines.append(line)
    return lines

  def _complete_lines(self):
    self._write_lines()
    return (_read(self.path / "metrics.jsonl") or b"").split(b"\n")[:-1]

  def metrics_until(
    self, step: int, digest: Mapping[str, Any] | None, *, due: int = 0
  ) -> list[dict[str, Any]] | None:
    """The lines up to `step`, if they are those that were written.

    Args:
      step: Updates made.
      digest: Of the lines, from `Digest`. None, of runs of older versions:
        then they must be in order, and not end too early.
      due: For these, the step that the last line has at least.

    Returns:
      Lines; None: some are missing, changed, twice or in another order.
    """
    path = self.path / "metrics.jsonl"
    lines: list[dict[str, Any]] = []
    texts = self._complete_lines()
    with contextlib.suppress(Damaged):  # Up to a line that is.
      for number, text in enumerate(texts, 1):
        line = _metrics_line(path, text, number)
        if digest is None and not _follows(line, lines, step):
          break
        lines.append(line)
    if digest is not None:
      lines = lines[: digest["count"]]
      return lines if Digest(lines).as_json() == digest else None
    return lines if not due or lines and lines[-1]["step"] >= due else None

  def check_metrics(self) -> None:
    """Refuses a run that has ended and lost lines of its metrics.

    Raises:
      Damaged: They are not those that it ended with.
    """
    status, texts = self.status(), self._complete_lines()
    if status.get("status") not in DONE:
      return
    if status.get("lines", _digest(texts)) != _digest(texts):
      why = "lines are missing, changed or there twice since the run ended"
    else:  # Of an older version, there is only this to compare.
      why = _lost(status, self.metrics())
    if why:
      raise Damaged(self.path / "metrics.jsonl", why)

  def append_metrics(self, lines: list[Mapping[str, Any]]) -> None:
    """Appends lines. Non-finite numbers become null: they are not JSON."""
    text = "".join(map(as_line, lines))
    self._check_is_there()
    if is_local(self.path):
      with open_to_append(self.path / "metrics.jsonl") as file:
        _append(file.fileno(), text.encode())
      return
    self._unwritten += text
    if time.monotonic() - self._written > _BUCKET_SECONDS:
      self._write_lines()

  def sync_metrics(self) -> None:
    """Waits until all lines are on the disk."""
    if is_local(self.path):
      with open_to_append(self.path / "metrics.jsonl") as file:
        os.fsync(file.fileno())
    self._write_lines()

  def _write_lines(self):
    if self._unwritten:
      path = self.path / "metrics.jsonl"
      write_text(path, (_read(path) or b"").decode() + self._unwritten)
      self._unwritten, self._written = "", time.monotonic()

  def rewind_metrics(
    self, step: int, lines: Sequence[Mapping[str, Any]] | None = None
  ) -> None:
    """Forgets what comes after `step`: the resumed run will write it again.

    Args:
      step: Updates made.
      lines: Those to keep; None: all up to `step`.
    """
    path = self.path / "metrics.jsonl"
    if lines is None:
      lines = [line for line in self.metrics() if line["step"] <= step]
    if lines or path.exists():  # Else it has just begun.
      write_text(path, "".join(map(as_line, lines)))
    for path in list((self.path / "predictions").glob("*.npz")):
      if path.stem.isdecimal() and int(path.stem) > step:
        path.unlink()

  def write_findings(self, findings: list[Mapping[str, Any]]) -> None:
    write_json(self.path / "findings.json", findings)

  def findings(self) -> list[dict[str, Any]]:
    """The rows of findings.json; [] where there are none."""
    return read_json(self.path / "findings.json", list[FindingRow]) or []

  def write_predictions(self, step: int, **arrays: np.ndarray) -> None:
    """Saves arrays about the evaluation after `step` updates."""
    self._check_is_there()
    folder = self.path / "predictions"
    folder.mkdir(exist_ok=True)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    write_bytes(folder / f"{step:08d}.npz", file.getvalue(), sync=False)

  def predictions(self, step: int) -> dict[str, np.ndarray]:
    """What `write_predictions` saved for `step`.

    Raises:
      Damaged: It is no archive of arrays.
    """
    path = self.path / "predictions" / f"{step:08d}.npz"
    data = _read(path)
    if data is None:
      raise Damaged(path, "there is no such file")
    try:
      with np.load(io.BytesIO(data)) as arrays:
        return dict(arrays)
    # ValueError: also where it would be a pickle, which could run anything.
    except (
      *(ValueError, KeyError, AttributeError, EOFError, OSError, MemoryError),
      *(zipfile.BadZipFile, zlib.error),
    ) as error:
      reason = str(error).split("\n")[0]
      raise Damaged(path, f"it is no archive of arrays ({reason})") from None


# What of a provenance may be large: it is listed again only if it has changed.
_FROM_FILES = ("files", "repositories")
_CODE = {"git_commit", "git_diff", "jaxplay", *_FROM_FILES}


def _news(entry, first):
  """A later entry without what it says of code and files as those before."""
  known = dict(first)
  for earlier in first.get("resumes", ()):
    known |= earlier
  entry = plain(entry)
  if not entry.get("files"):  # It was started from what the run itself holds.
    entry = {k: v for k, v in entry.items() if k not in _FROM_FILES}
  return {
    k: v
    for k, v in entry.items()
    if k not in _CODE or k not in known or known[k] != v
  }


def as_line(line: Mapping[str, Any]) -> str:
  """A line of metrics.jsonl."""
  return json.dumps(plain(line)) + "\n"


class Digest:
  """The number and the hash of lines of metrics, as they are appended."""

  def __init__(self, lines: Iterable[Mapping[str, Any]] = ()):
    self._count, self._hash = 0, hashlib.sha256()
    for line in lines:
      self.append(line)

  def append(self, line: Mapping[str, Any]) -> None:
    self._count += 1
    self._hash.update(as_line(line).encode())

  def as_json(self) -> dict[str, Any]:
    return {"count": self._count, "sha256": self._hash.hexdigest()}


def _digest(texts):
  """As `Digest`, of lines as they are in the file."""
  content = hashlib.sha256(b"".join(text + b"\n" for text in texts))
  return {"count": len(texts), "sha256": content.hexdigest()}


def _lost(status, lines):
  """What the lines lack of what status.json says of the end; "": nothing."""
  final, best = status.get("final") or {}, status.get("best") or {}
  last = lines[-1]["step"] if lines else 0
  if final.get("step", last) != last:
    return f"it ends at step {last}, and the run at {final['step']}"
  of_best = next((x for x in lines if x["step"] == best.get("step")), {})
  if best and of_best.get(best["metric"]) != best["value"]:
    return (
      f"it does not hold the best {best['metric']} of status.json, that of step"
      f" {best['step']}"
    )
  return ""


def _follows(line, lines, step):
  """Whether a line may come after these, in a run that made `step` steps."""
  before = lines[-1]["step"] if lines else 0
  return before < line["step"] <= step


def _append(handle, data):
  """Appends to an open file all of the data, or nothing."""
  size = os.fstat(handle).st_size
  try:
    while data:
      data = data[os.write(handle, data) :]
  except OSError:  # The disk is full, most likely: half a line helps nobody.
    os.ftruncate(handle, size)
    raise


def best_line(
  lines: list[Mapping[str, Any]], objective: str
) -> dict[str, Any] | None:
  """The earliest line with the least finite objective.

  Returns:
    {"step", "metric", "value"}, or None where no line has the objective.
  """
  return next(iter(best_lines(lines, objective)), None)


def best_lines(
  lines: Iterable[Mapping[str, Any]], objective: str
) -> list[dict[str, Any]]:
  """As `best_line`, of all lines with a finite objective, the best first."""
  scored = [
    (line[objective], line["step"])
    for line in lines
    if line.get(objective) is not None and math.isfinite(line[objective])
  ]
  return [
    {"step": step, "metric": objective, "value": value}
    for value, step in sorted(scored)
  ]


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


def _read(path):
  """The bytes of a file, or None where there is no such file."""
  if not is_local(path):
    with _told(f"cannot read {str(path)!r}", path):
      try:
        return path.read_bytes()
      except FileNotFoundError:
        return None
  try:
    # Of a pipe there would be no end to wait for.
    if not stat.S_ISREG(path.stat().st_mode):
      raise Damaged(path, "it is a folder or device, and has to be a file")
    return path.read_bytes()
  except (FileNotFoundError, NotADirectoryError):
    return None
  except OSError as error:
    _raise_if_of_storage(error)
    raise Damaged(path, f"it cannot be read ({error.strerror})") from None


def _raise_if_of_storage(error):
  """Raises what a full or broken disk is; a wrong permission is none."""
  found = storage.problem(error)
  if found is not None and not isinstance(error, PermissionError):
    raise found from None


@contextlib.contextmanager
def _told(what, path):
  """Tells in a sentence what went wrong with a file."""
  # Clients of buckets have errors of their own, for networks and credentials.
  errors = OSError if is_local(path) else Exception
  try:
    yield
  except errors as error:
    _raise_if_of_storage(error)
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


def make_folder(path: pathlib.Path) -> None:
  """Makes a folder, if need be, in which files can be written.

  Raises:
    jaxplay.UserError: It cannot be made or written.
  """
  probe = path / _partial_name()
  with _told(f"cannot write in folder {str(path)!r}", probe):
    path.mkdir(parents=True, exist_ok=True)
    with probe.open("xb" if is_local(probe) else "wb"):
      pass
    probe.unlink(missing_ok=True)


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
    partial = to.with_name(_partial_name())
    try:
      shutil.copytree(folder, partial, symlinks=True)
      os.replace(partial, to)
    except BaseException:
      remove(partial)
      raise
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


def read_json(path: pathlib.Path, shape: Any) -> Any:
  """What a file of JSON holds, or None where there is no such file.

  Args:
    path: Of the file.
    shape: The type that it has to have, a TypedDict or another one of those
      that `msgspec.convert` takes. Further keys, such as those of a later
      version, are kept.

  Raises:
    Damaged: It is no JSON, has another shape, or cannot be read.
  """
  data = _read(path)
  if data is None:
    return None
  value = _parse(path, data)
  check_shape(path, value, shape)
  return value


def check_shape(
  path: pathlib.Path, value: Any, shape: Any, root: str = "$"
) -> None:
  """Refuses a value of a file that has another type than `shape`.

  Args:
    path: Of the file.
    value: What it holds, or a part of that.
    shape: As for `read_json`.
    root: Place of `value` in the file.

  Raises:
    Damaged: It has.
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


def _parse(path, data, line=None):
  """A value of JSON, from a file of it or from a line of one."""
  where = "" if line is None else f"line {line}: "

  def refuse(what):
    raise Damaged(path, where + what)

  def constant(name):
    refuse(f"{name} is no number of JSON")

  def unique(pairs):
    found = dict(pairs)
    if len(found) < len(pairs):
      names = [name for name, _ in pairs]
      twice = next(name for name in names if names.count(name) > 1)
      refuse(f"it has {twice!r} more than once")
    return found

  if not data.strip():
    refuse("it is empty")
  try:
    value = json.loads(
      data.decode(), object_pairs_hook=unique, parse_constant=constant
    )
    return _checked(value, refuse)
  except UnicodeDecodeError as error:
    refuse(f"byte {error.start} is no UTF-8")
  except json.JSONDecodeError as error:
    place = f"line {error.lineno}, " if line is None else ""
    refuse(f"{place}column {error.colno} is no JSON ({error.msg})")
  except RecursionError:
    refuse("it is nested too deeply")
  except ValueError:  # of thousands of digits
    refuse("it has a number out of range")


def _checked(value, refuse):
  """`value`, unless something else will not take its depth or numbers."""
  level = [value]
  for _ in range(_DEEPEST):
    for item in level:
      if isinstance(item, float) and not math.isfinite(item):
        refuse("it has a number out of range")
    level = [
      inner
      for item in level
      if isinstance(item, dict | list)
      for inner in (item.values() if isinstance(item, dict) else item)
    ]
    if not level:
      return value
  refuse("it is nested too deeply")


_LINE = msgspec.json.Decoder(Numbers)


def _metrics_line(path, data, number):
  """A line of metrics.jsonl, which there may be millions of."""
  try:
    line = _LINE.decode(data)
    # Of a key that comes twice only one value is left.
    if data.count(b'":') == len(line) and _is_count(line.get("step")):
      return line
  except (msgspec.MsgspecError, RecursionError, UnicodeError):
    pass  # Once more, for a sentence on it.
  line = _parse(path, data, number)
  if not isinstance(line, dict) or not _is_count(line.get("step")):
    raise Damaged(path, f"line {number} has no step, a whole number")
  for name, value in line.items():
    if isinstance(value, bool) or not isinstance(value, int | float | None):
      raise Damaged(path, f"line {number}: {name} is no number")
    if isinstance(value, int) and abs(value) >= 2**63:
      raise Damaged(path, f"line {number}: {name} is out of range")
  return line


def _is_count(value):
  return type(value) is int and 0 <= value < 2**63


def write_json(path: pathlib.Path, value: Any) -> None:
  """Replaces a file atomically. Non-finite numbers become null."""
  text = json.dumps(plain(value), indent=1, sort_keys=True)
  write_text(path, text + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
  """Replaces a file atomically by one of this text, in UTF-8.

  What that cannot hold, of names of files that are no text, is written as
  Python writes it.
  """
  write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: pathlib.Path, data: bytes, *, sync: bool = True) -> None:
  """Replaces a file atomically by one that holds these bytes.

  Args:
    path: Of the file.
    data: Its content.
    sync: Whether to wait until it is on the disk: without, it may be lost with
      the power of the machine, though not with the process.
  """
  with replacing(path, sync=sync) as file:
    file.write(data)


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
  """Opens a file that takes the place of `path` once it is complete.

  A reader, or a crash, sees the old or the new one. A link at `path` is
  replaced, too: nothing is written where it points.

  Args:
    path: Of the file.
    sync: As for `write_bytes`.
  """
  if not is_local(path):  # An object is there as a whole or not at all.
    with path.open("wb") as file:
      yield file
    return
  file = _open_partial(path.parent)
  try:
    with file:
      yield file
      file.flush()
      if sync:
        os.fsync(file.fileno())
      os.replace(file.name, path)
  except BaseException:
    with contextlib.suppress(FileNotFoundError):
      os.unlink(file.name)
    raise


# What is wrong with the place, and not with the disk.
_MISPLACED = (
  *(errno.EROFS, errno.EACCES, errno.EPERM),
  *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)


@contextlib.contextmanager
def written(path: pathlib.Path, way_out: str) -> Iterator[None]:
  """Says what to do where files cannot be written.

  Args:
    path: What is written inside.
    way_out: What to do, the end of a sentence.

  Raises:
    jaxplay.UserError: This is no place to write.
  """
  try:
    yield
  except OSError as error:
    if error.errno not in _MISPLACED:
      raise
    raise jaxplay.UserError(
      f"cannot write {str(path)!r}: {error.strerror}; {way_out}"
    ) from None


def _partial_name():
  return f".{secrets.token_hex(8)}.partial"


def _open_partial(folder):
  """A new file, locked: who comes to remove what is incomplete leaves it."""
  while True:
    file = open(folder / _partial_name(), "xb")
    with contextlib.suppress(OSError):  # Not every file system has locks.
      fcntl.flock(file, fcntl.LOCK_EX)
    if os.path.exists(file.name):
      return file
    file.close()  # It was removed before it was locked.


def _remove_partial(folder):
  """Removes what is incomplete in a folder and that no process is writing.

  Folders are taken to be nobody's: who calls holds the lock of the run.
  """
  for path in folder.iterdir():
    if not _PARTIAL.fullmatch(path.name):
      continue
    if path.is_dir() and not path.is_symlink():
      remove(path)
      continue
    try:
      handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # It is complete by now, or none of ours.
      continue
    with open(handle, "rb") as file, contextlib.suppress(OSError):
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      path.unlink()


def open_to_append(path: pathlib.Path) -> IO[bytes]:
  """Opens a file of this machine to append and to read; makes it if need be.

  Raises:
    jaxplay.UserError: It is a link.
  """

  def opener(name, flags):
    return os.open(name, flags | os.O_NOFOLLOW, 0o666)

  try:
    return open(path, "a+b", opener=opener)
  except OSError as error:
    if error.errno != errno.ELOOP:
      raise
  raise _linked(path)


def refuse_links(root: pathlib.Path, *paths: pathlib.Path) -> None:
  """Refuses paths that lead out of a folder by a link.

  Args:
    root: The folder; it may be a link itself.
    *paths: Below it; there or not.

  Raises:
    jaxplay.UserError: One of them, or a folder between, is a link.
  """
  if not is_local(root):
    return
  for path in paths:
    parts = path.relative_to(root).parts
    for number in range(1, len(parts) + 1):
      step = root.joinpath(*parts[:number])
      if step.is_symlink():
        raise _linked(step)


def refuse_links_in(root: str | os.PathLike, path: str | os.PathLike) -> None:
  """Refuses a path that leads into a directory and out of it by a link.

  Args:
    root: The directory, of a study for example.
    path: Of the user's choice, within the directory or not.

  Raises:
    jaxplay.UserError: It does.
  """
  if not (is_local(at(root)) and is_local(at(path))):
    return
  path = pathlib.Path(os.path.abspath(path))
  for folder in (path, *path.parents):
    if folder.exists() and folder.samefile(root):
      refuse_links(folder, path)


def _listed(folder):
  """What is in a folder of this machine, if it is there."""
  return folder.iterdir() if is_local(folder) and folder.is_dir() else ()


def _linked(path):
  return jaxplay.UserError(
    f"{str(path)!r} is a link, and nothing is written through links; put the"
    " file or folder itself there, or use the real folder as workdir"
  )
