"""Writing files so that a reader, or a crash, sees the old one or the new one.

Files are replaced or appended to, and never written through a link. What is
not complete has a name that cannot be predicted, `.<16 hex digits>.partial`.
"""

import contextlib
import errno
import fcntl
import json
import math
import os
import pathlib
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from typing import IO, Any

import numpy as np

import jaxplay
from jaxplay.rundir import paths

_PARTIAL = re.compile(r"\.[0-9a-f]{16}\.partial")
# Errors that mean that the place is wrong, and not that the disk fails.
_MISPLACED = (
  *(errno.EROFS, errno.EACCES, errno.EPERM),
  *(errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG),
)


def plain(value: Any) -> Any:
  """Returns JSON values: Python's numbers for numpy's, null for non-finite."""
  if isinstance(value, Mapping):
    return {key: plain(item) for key, item in value.items()}
  if isinstance(value, list | tuple):
    return [plain(item) for item in value]
  if isinstance(value, np.ndarray | np.generic):
    return plain(value.tolist())
  if isinstance(value, float) and not math.isfinite(value):
    return None
  return value


def write_json(path: pathlib.Path, value: Any) -> None:
  """Replaces a file atomically. Non-finite numbers become null."""
  text = json.dumps(plain(value), indent=1, sort_keys=True)
  write_text(path, text + "\n")


def write_text(path: pathlib.Path, text: str) -> None:
  """Replaces a file atomically by this text in UTF-8.

  Characters without UTF-8, as in file names that are not text, are escaped as
  Python does.
  """
  write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: pathlib.Path, data: bytes, *, sync: bool = True) -> None:
  """Replaces a file atomically by these bytes.

  Args:
    path: The file.
    data: Its content.
    sync: As for `replacing`.
  """
  with replacing(path, sync=sync) as file:
    file.write(data)


@contextlib.contextmanager
def replacing(path: pathlib.Path, *, sync: bool = True) -> Iterator[IO[bytes]]:
  """Opens a file that takes the place of `path` once it is complete.

  A link at `path` is replaced, too: nothing is written where it points.

  Args:
    path: The file.
    sync: Whether to wait until the content is on the disk. Otherwise it can be
      lost with the power of the machine, though not with the process.
  """
  if not paths.is_local(path):  # An object is there as a whole or not at all.
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


@contextlib.contextmanager
def written(path: str | os.PathLike, way_out: str) -> Iterator[None]:
  """Explains what to do where files cannot be written.

  Args:
    path: The file or folder that is written inside.
    way_out: What to do, the end of a sentence.

  Raises:
    jaxplay.UserError: Files cannot be written to this place.
  """
  try:
    yield
  except OSError as error:
    if error.errno not in _MISPLACED:
      raise
    raise jaxplay.UserError(
      f"cannot write {str(path)!r}: {error.strerror}; {way_out}"
    ) from None


def open_to_append(path: str | os.PathLike) -> IO[bytes]:
  """Opens a local file to append to and read from, and creates it if needed.

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
  raise paths.link_error(pathlib.Path(path))


def append(path: pathlib.Path, data: bytes) -> None:
  """Appends to a local file all of the data or, on an error, nothing."""
  with open_to_append(path) as file:
    handle = file.fileno()
    size = os.fstat(handle).st_size
    try:
      while data:
        data = data[os.write(handle, data) :]
    except OSError:  # The disk is full, most likely: half a line is no use.
      os.ftruncate(handle, size)
      raise


def make_folder(path: pathlib.Path) -> None:
  """Makes a folder, if needed, and checks that files can be written there.

  Raises:
    jaxplay.UserError: It cannot be made or written.
  """
  probe = path / _partial_name()
  with paths.as_user_errors(f"cannot write in folder {str(path)!r}", probe):
    path.mkdir(parents=True, exist_ok=True)
    with probe.open("xb" if paths.is_local(probe) else "wb"):
      pass
    probe.unlink(missing_ok=True)


def copy(folder: pathlib.Path, to: pathlib.Path) -> None:
  """Copies a folder with all that is in it; `to` must not exist.

  On a disk `to` appears once it is complete. Buckets cannot rename: there the
  caller has to know whether the copy was completed.
  """
  if paths.is_local(folder) and paths.is_local(to):
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


def remove(folder: Any) -> None:
  """Deletes a folder, from `paths.at`, with its content, if it exists."""
  if paths.is_local(folder):
    shutil.rmtree(folder, ignore_errors=True)
  else:
    folder.rmtree(missing_ok=True)


def remove_partial(folder: pathlib.Path) -> None:
  """Removes incomplete files and folders that no process is writing.

  A folder cannot be locked: the caller has to hold the lock of the run.
  """
  for path in folder.iterdir():
    if not _PARTIAL.fullmatch(path.name):
      continue
    if path.is_dir() and not path.is_symlink():
      remove(path)
      continue
    try:
      handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:  # Complete by now, or not one of our files.
      continue
    with open(handle, "rb") as file, contextlib.suppress(OSError):
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
      path.unlink()


def _partial_name():
  return f".{secrets.token_hex(8)}.partial"


def _open_partial(folder):
  """Opens a new file, locked so that `remove_partial` leaves it alone."""
  while True:
    file = open(folder / _partial_name(), "xb")
    with contextlib.suppress(OSError):  # Not every file system has locks.
      fcntl.flock(file, fcntl.LOCK_EX)
    if os.path.exists(file.name):
      return file
    file.close()  # It was removed before it was locked.
