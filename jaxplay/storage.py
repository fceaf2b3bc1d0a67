"""Whether an error is one of storage, and what to say of it.

A full disk, a lost mount or a deleted folder is no crash: nothing is wrong with
what is computed, so nothing is deleted and no attempt counted, and the same
command goes on once the disk is well.
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
_MOUNT = "see to the disk"
_FILES = "raise the limit of open files (ulimit -n)"
# What to do about each of them. Names that never were there are not among
# them: those are mistakes.
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
# Whose errors are those of buckets, and the words of TensorStore's.
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
  """The sentence about an error, if it is one of storage.

  Args:
    error: Any; what it was raised from counts, too.
    folder: The run or study that was at work; that it is gone is an error of
      storage. A path from `rundir.at`, or None.
  """
  for one in _chain(error):
    if isinstance(one, jaxplay.StorageError):
      return one
    number, path = _of_file(one)
    if number in _GONE and is_gone(folder):
      return gone(folder)
    if number in _ADVICE:
      where = _where(path, folder)
      told = f"{os.strerror(number)}" + (f" in {str(where)!r}" if where else "")
      return _sentence(f"{told}{_room(where)}", _ADVICE[number])
    if folder is not None and not isinstance(folder, pathlib.Path):
      if _of_bucket(one):
        reason = str(one).split("\n")[0][:200]
        what = f"{str(folder)!r} is out of reach ({reason})"
        return _sentence(what, "see to the network")
  return None


@contextlib.contextmanager
def reported(folder: Any = None) -> Iterator[None]:
  """Makes errors of storage `jaxplay.StorageError`s; see `problem`."""
  try:
    yield
  except Exception as error:
    found = problem(error, folder)
    if found is None or found is error:
      raise
    raise found from error


def full(folder: Any) -> jaxplay.StorageError:
  """What to raise where a process could not even write its error."""
  found = problem(OSError(errno.ENOSPC, "", str(folder)), folder)
  assert found is not None
  return found


def is_gone(folder: Any) -> bool:
  """Whether a folder of this machine, which was there, is not any more."""
  return isinstance(folder, pathlib.Path) and not folder.is_dir()


def gone(folder: Any) -> jaxplay.StorageError:
  """What to raise where `is_gone`."""
  return jaxplay.StorageError(
    f"the folder {str(folder)!r} was removed or unmounted; put it back and"
    " start the same command again, or start in another workdir"
  )


def _sentence(what, advice):
  return jaxplay.StorageError(
    f"{what}; {advice} and start the same command again, which goes on from"
    " what was saved"
  )


def _chain(error):
  """An error and what it was raised from, as far as that is shown."""
  seen = []
  while error is not None and error not in seen:
    seen.append(error)
    shown = None if error.__suppress_context__ else error.__context__
    error = error.__cause__ or shown
  return seen


def _where(path, folder):
  """The folder, if the path is in it, else the path; None: neither is known."""
  if path is None or isinstance(path, int):
    return folder
  inside = isinstance(folder, pathlib.Path) and (
    pathlib.Path(os.path.abspath(path)).is_relative_to(folder.absolute())
  )
  return folder if inside else path


def _of_file(error):
  """(errno, path) of an error about a file; None where it says nothing."""
  if isinstance(error, OSError):
    return error.errno, error.filename
  text = str(error) if isinstance(error, ValueError) else ""
  found, path = _TENSORSTORE.search(text), _TENSORSTORE_FILE.search(text)
  return found and int(found[1]), path and path[1]


def _of_bucket(error):
  """Whether an error is of the client of a bucket, or of its network."""
  kinds = {kind.__module__.split(".")[0] for kind in type(error).__mro__}
  if kinds & set(_CLIENTS) or isinstance(error, ConnectionError):
    return True
  return isinstance(error, ValueError) and bool(
    _OUT_OF_REACH.search(str(error))
  )


def _room(path):
  """How much is free where a path is, in words; empty: it is not known."""
  if not isinstance(path, str | pathlib.Path):
    return ""
  path = pathlib.Path(path).absolute()
  try:
    while not path.exists():
      path = path.parent
    found = os.statvfs(path)
  except OSError:
    return ""
  free = f"{found.f_bavail * found.f_frsize / 2**20:,.1f} MiB"
  # Some file systems have no fixed number of files, and say 0 of 0.
  files = f" and {found.f_favail:,} more files" if found.f_files else ""
  return f" (room there for {free}{files})"
