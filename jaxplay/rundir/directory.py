"""What the directories of runs, studies, ladders and plans share.

Each has a file with its definition, which decides what kind of directory it is,
and beside it

    provenance.json   what made it: git commit, diff, versions, devices
    findings.json     derived: rows of checks
    .lock             held by the process that works in it
"""

import contextlib
import errno
import fcntl
import os
import pathlib
import sys
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import jaxplay
from jaxplay.rundir import paths, reading, shapes, writing

# The file that makes a directory a run, a study, a ladder or a plan.
_DEFINITIONS = {
  "a run": "config.json",
  "a study": "study.json",
  "a ladder": "ladder.json",
  "a plan": "plan.json",
}
# Folders of runs with files of ours, which are written in place.
_OF_RUNS = ("checkpoints", "predictions", "export", "tensorboard")
_FOLDERS = (
  *_OF_RUNS,
  "profile",
  "trials",
  "reruns",
  "populations",
  "sizes",
  "code",
)
# Those whose entries are written in place as well.
_PARTS = ("checkpoints", "profile", "trials", "reruns", "populations", "sizes")
_APPENDED = (".lock", "metrics.jsonl", "log.txt")

# Parts of a provenance that may be large: they are listed again only if they
# have changed.
_FROM_FILES = ("files", "repositories")
_CODE = {"git_commit", "git_diff", "jaxplay", *_FROM_FILES}


def refuse_other(path: str | os.PathLike, kind: str) -> None:
  """Refuses a directory that holds something other than a `kind`.

  Args:
    path: The directory, whether it exists or not.
    kind: "a run", "a study", "a ladder" or "a plan".

  Raises:
    jaxplay.UserError: It does, or a folder in it is a link.
  """
  Directory(path).refuse_links()
  for other, name in _DEFINITIONS.items():
    if other != kind and (paths.at(path) / name).exists():
      raise jaxplay.UserError(
        f"{str(path)!r} holds {other}; use another workdir"
      )


def absent(path: str | os.PathLike, kind: str) -> jaxplay.UserError:
  """Returns the error for a directory without a `kind`: what is there instead.

  Args:
    path: The directory, whether it exists or not.
    kind: "a run", "a study", "a ladder" or "a plan".
  """
  folder, shown = paths.at(path), repr(str(path))
  if paths.is_local(folder) and not folder.exists():
    return jaxplay.UserError(f"there is no folder {shown}")
  if paths.is_local(folder) and not folder.is_dir():
    return jaxplay.UserError(f"{shown} is a file, not a folder")
  for other, name in _DEFINITIONS.items():
    if (folder / name).exists():
      of_it = "; name a trial, such as " + repr(
        str(paths.at(path) / "trials/0000")
      )
      more = of_it if (other, kind) == ("a study", "a run") else ""
      return jaxplay.UserError(f"{shown} holds {other}, not {kind}{more}")
  return jaxplay.UserError(
    f"{shown} holds no {kind.removeprefix('a ')} (no {_DEFINITIONS[kind]})"
  )


class Directory:
  """Reads and writes what all kinds of directories share.

  Attributes:
    kind: "a run", "a study", "a ladder" or "a plan".
    shape: The type of the definition.
    path: The directory.
  """

  kind: ClassVar[str]
  shape: ClassVar[Any]

  def __init__(
    self, path: str | os.PathLike, root: str | os.PathLike | None = None
  ):
    """Reads and writes nothing yet.

    Args:
      path: The directory.
      root: The directory that it is a part of, such as a study's. None: it is
        itself the directory that the user named, which may be a link.
    """
    self.path = paths.at(path)
    self._root = self.path if root is None else paths.at(root)
    # Identifies the folder that was locked, whatever has its name later.
    self._locked: os.stat_result | None = None

  @property
  def _file(self) -> pathlib.Path:
    return self.path / _DEFINITIONS[self.kind]

  def _read(self) -> dict[str, Any] | None:
    """Returns the definition, or None if there is none."""
    return reading.read_json(self._file, self.shape)

  def _definition(self) -> dict[str, Any]:
    """Returns the definition.

    Raises:
      jaxplay.UserError: There is none, or it is damaged.
    """
    definition = self._read()
    if definition is None:
      raise absent(self.path, self.kind)
    return definition

  def _refuse_different(
    self, definition: Mapping[str, Any]
  ) -> dict[str, Any] | None:
    """Returns the definition that is here, None if the directory is new.

    Raises:
      jaxplay.UserError: It does not go with `definition`, or the directory
        holds something else.
    """
    refuse_other(self.path, self.kind)
    here = self._read()
    if here is not None:
      self._check_same(here, definition)
    return here

  def _check_same(self, here: dict[str, Any], definition: Mapping[str, Any]):
    """Refuses what makes `definition` another one than the one that is here."""
    raise NotImplementedError

  def _write(self, definition: Mapping[str, Any]) -> None:
    writing.write_json(self._file, definition)

  def make(self) -> None:
    """Makes the folder.

    Raises:
      jaxplay.UserError: It cannot be made or written, or a folder in it is a
        link.
    """
    self.refuse_links()
    self._refuse_name()
    writing.make_folder(self.path)

  def discard(self) -> None:
    """Removes the directory if it holds a definition and nothing more."""
    made = {self._file.name, "provenance.json", ".lock"}
    files = {path.name: path for path in self.path.iterdir()}
    if files.keys() <= made:
      for path in files.values():
        path.unlink()
      if paths.is_local(self.path):
        self.path.rmdir()

  def _refuse_name(self):
    """Refuses a name that orbax cannot take."""
    name = str(paths.absolute(self.path))
    try:
      name.encode()
    except UnicodeEncodeError:
      raise jaxplay.UserError(
        f"the name of workdir {name!r} is not valid"
        f" {sys.getfilesystemencoding()}, which checkpoints need; rename the"
        " folder, or use another workdir"
      ) from None

  def refuse_links(self) -> None:
    """Refuses to write in a directory with links that lead out of it.

    Raises:
      jaxplay.UserError: A folder, or a file that is appended to, is a link.
    """
    paths.refuse_links(self._root, self.path)
    if not paths.is_local(self.path):
      return
    names = (*_FOLDERS, *_APPENDED)
    paths.refuse_links(self.path, *(self.path / name for name in names))
    for name in _PARTS:
      # Not what is in each trial: whoever trains there checks that.
      if (self.path / name).is_dir():
        paths.refuse_links(self.path, *(self.path / name).iterdir())

  @contextlib.contextmanager
  def lock(self, wait: bool = False) -> Iterator[None]:
    """Keeps other processes from working here; ends with this process.

    Buckets have no locks: there it does nothing.

    Args:
      wait: Whether to wait until the other process is done.

    Raises:
      jaxplay.UserError: Another process is working here, or a folder in it is
        a link.
    """
    if not paths.is_local(self.path):
      yield
      return
    self.refuse_links()
    self._refuse_name()
    with writing.open_to_append(self.path / ".lock") as file:
      try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
      except BlockingIOError:
        raise jaxplay.UserError(
          f"another process is training in {str(self.path)!r}; wait for it, or"
          " use another workdir"
        ) from None
      for folder in (self.path, *(self.path / name for name in _OF_RUNS)):
        if folder.is_dir():
          writing.remove_partial(folder)
      self._locked = self.path.stat()
      yield

  def _check_is_there(self):
    """Raises if the folder that was locked has been removed since.

    There may be another of its name: orbax makes folders that are missing.
    """
    if self._locked is None:
      return
    with contextlib.suppress(OSError):
      if os.path.samestat(self._locked, self.path.stat()):
        return
    raise FileNotFoundError(
      errno.ENOENT, os.strerror(errno.ENOENT), str(self.path)
    )

  def provenance(self) -> dict[str, Any] | None:
    """Returns what made it; "resumes" lists the later starts."""
    return reading.read_json(self.path / "provenance.json", shapes.Provenance)

  def write_provenance(self, entry: Mapping[str, Any]) -> None:
    """Keeps the first entry and lists each later one under "resumes".

    Code and files of a later entry are left out if they have not changed.

    Args:
      entry: From `provenance.record`.
    """
    first, entry = self.provenance() or {}, dict(entry)
    own = os.path.abspath(self._file)  # It adds nothing.
    if any(file["path"] == own for file in entry.get("files", ())):
      entry |= {"files": [], "repositories": []}
    if "resumes" not in first:  # It may already name what it branched from.
      known = {k: v for k, v in first.items() if v and not entry.get(k)}
      first = first | entry | known | {"resumes": []}
    else:
      first["resumes"].append(_changes(entry, first))
    writing.write_json(self.path / "provenance.json", first)

  def note_start(self, entry: Mapping[str, Any]) -> None:
    """As `write_provenance`, for what is started again for each of its parts.

    A start is listed only if its code or files differ from those before.
    """
    first = self.provenance()
    if first is None or _CODE & _changes(entry, first).keys():
      self.write_provenance(entry)

  def findings(self) -> list[dict[str, Any]]:
    """Returns the rows of findings.json; [] if there is none."""
    path = self.path / "findings.json"
    return reading.read_json(path, list[shapes.FindingRow]) or []

  def write_findings(self, findings: list[Mapping[str, Any]]) -> None:
    writing.write_json(self.path / "findings.json", findings)


def _changes(entry, first):
  """Returns a later entry without code and files that are as before."""
  known = dict(first)
  for earlier in first.get("resumes", ()):
    known |= earlier
  entry = writing.plain(entry)
  if not entry.get("files"):  # It was started from the run's own files.
    entry = {k: v for k, v in entry.items() if k not in _FROM_FILES}
  return {
    k: v
    for k, v in entry.items()
    if k not in _CODE or k not in known or known[k] != v
  }
