"""Errors of storage: a full disk, a lost mount, a deleted folder.

They are not crashes: nothing is wrong with the computation, so nothing is
deleted and no attempt is counted, and the same command resumes once the disk is
available again.
"""

import contextlib
import errno
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import jaxplay

_FREE = "free some space there"
_MOUNT = "check the disk"
_FILES = "raise the limit of open files (ulimit -n)"
# What to do about each error. Names that do not exist are not among them: those
# are mistakes.
_ADVICE = {
  errno.ENOSPC: _FREE,
  errno.EDQUOT: _FREE,
  errno.EFBIG: "raise the limit of the size of files (ulimit -f)",
  errno.EROFS: "mount it so that it can be written",
  errno.EACCES: "give the permission",
  errno.EPERM: "give the permission",
  errno.EIO: _MOUNT,
  errno.ENXIO: _MOUNT,
  errno.ENODEV: _MOUNT,
  errno.ESTALE: _MOUNT,
  errno.ENOTCONN: _MOUNT,
  errno.ETIMEDOUT: _MOUNT,
  errno.EHOSTDOWN: _MOUNT,
  errno.EMFILE: _FILES,
  errno.ENFILE: _FILES,
}
_GONE = (errno.ENOENT, errno.ENOTDIR)
# TensorStore, below orbax, raises ValueErrors that end like this.
_TENSORSTORE = re.compile(r"os_error_code='(\d+)'")
_TENSORSTORE_FILE = re.compile(r'local file "([^"]+)"')
# Packages that raise the errors of buckets, and what TensorStore's contain.
_CLIENTS = (
  *("aiohttp", "botocore", "fsspec", "gcsfs", "google", "requests"),
  *("s3fs", "urllib3"),
)
_OUT_OF_REACH = re.compile(
  "UNAVAILABLE|DEADLINE_EXCEEDED|UNAUTHENTICATED|PERMISSION_DENIED|ABORTED"
  "|CURL error|HTTP response code"
)


def problem(
  error: BaseException, folder: Any = None
) -> jaxplay.StorageError | None:
  """Returns an error with a sentence, if an error is about storage.

  Args:
    error: Any error; the errors that it was raised from count as well.
    folder: The run or study in use, a path from `rundir.at`, or None. If it was
      removed, that is an error of storage.
  """
  for cause in _chain(error):
    if isinstance(cause, jaxplay.StorageError):
      return cause
    number, path = _of_file(cause)
    if number in _GONE and is_gone(folder):
      return gone(folder)
    if number in _ADVICE:
      where = _where(path, folder)
      what = os.strerror(number)
      if where:
        what += f" in {str(where)!r}"
      return _sentence(what + _room(where), _ADVICE[number])
    if folder is not None and not isinstance(folder, pathlib.Path):
      if _of_bucket(cause):
        reason = str(cause).split("\n")[0][:200]
        what = f"{str(folder)!r} is out of reach ({reason})"
        return _sentence(what, "check the network")
  return None


@contextlib.contextmanager
def reported(folder: Any = None) -> Iterator[None]:
  """Raises errors of storage as `jaxplay.StorageError`; see `problem`."""
  try:
    yield
  except Exception as error:
    storage_error = problem(error, folder)
    if storage_error is None or storage_error is error:
      raise
    raise storage_error from error


def full(folder: Any) -> jaxplay.StorageError:
  """Returns the error for a process that could not even write its error."""
  error = problem(OSError(errno.ENOSPC, "", str(folder)), folder)
  assert error is not None
  return error


def is_gone(folder: Any) -> bool:
  """Returns whether a folder of this machine was removed."""
  return isinstance(folder, pathlib.Path) and not folder.is_dir()


def gone(folder: Any) -> jaxplay.StorageError:
  """Returns the error for a folder that `is_gone`."""
  return jaxplay.StorageError(
    f"the folder {str(folder)!r} was removed or unmounted; put it back and"
    " start the same command again, or start in another workdir"
  )


def _sentence(what, advice):
  return jaxplay.StorageError(
    f"{what}; {advice} and start the same command again, which resumes from"
    " what was saved"
  )


def _chain(error):
  """Returns an error and those it was raised from, as tracebacks show them."""
  seen = []
  while error is not None and error not in seen:
    seen.append(error)
    shown = None if error.__suppress_context__ else error.__context__
    error = error.__cause__ or shown
  return seen


def _where(path, folder):
  """Returns the folder if the path is in it, else the path, if any."""
  if path is None or isinstance(path, int):
    return folder
  inside = isinstance(folder, pathlib.Path) and (
    pathlib.Path(os.path.abspath(path)).is_relative_to(folder.absolute())
  )
  return folder if inside else path


def _of_file(error):
  """Returns (errno, path) of an error about a file; None if unknown."""
  if isinstance(error, OSError):
    return error.errno, error.filename
  if not isinstance(error, ValueError):
    return None, None
  number = _TENSORSTORE.search(str(error))
  path = _TENSORSTORE_FILE.search(str(error))
  return int(number[1]) if number else None, path[1] if path else None


def _of_bucket(error):
  """Returns whether an error is from a bucket's client or the network."""
  kinds = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
  if kinds & set(_CLIENTS) or isinstance(error, ConnectionError):
    return True
  return isinstance(error, ValueError) and bool(
    _OUT_OF_REACH.search(str(error))
  )


def _room(path):
  """Returns how much is free at a path, as text; empty if unknown."""
  if not isinstance(path, str | pathlib.Path):
    return ""
  path = pathlib.Path(path).absolute()
  try:
    while not path.exists():
      path = path.parent
    stats = os.statvfs(path)
  except OSError:
    return ""
  free = f"{stats.f_bavail * stats.f_frsize / 2**20:,.1f} MiB"
  # Some file systems have no fixed number of files, and report 0 of 0.
  files = f" and {stats.f_favail:,} more files" if stats.f_files else ""
  return f" (room there for {free}{files})"
