"""Paths, here and in buckets, and the links that no file is written through."""

import contextlib
import os
import pathlib
from collections.abc import Iterator

import jaxplay
from jaxplay import storage

# The package that reads and writes each kind of bucket.
_CLIENTS = {"gs": "gcsfs", "s3": "s3fs"}


def at(path: str | os.PathLike) -> pathlib.Path:
  """Returns the path of a file or folder, on this machine or in a bucket.

  Args:
    path: A local path, or a URL such as gs://bucket/run.

  Returns:
    A `pathlib.Path`; for a URL an `etils.epath.Path`, which has the same
    methods.

  Raises:
    jaxplay.UserError: The package that the URL needs is not installed.
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

    # Other processes write here as well, so a cached listing may be outdated.
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
  """Returns whether a path from `at` is on this machine."""
  return isinstance(path, pathlib.Path)


def absolute(path: pathlib.Path) -> pathlib.Path:
  """Returns a path from `at` that does not depend on the current folder."""
  return path.absolute() if is_local(path) else path


def refuse_links(root: pathlib.Path, *paths: pathlib.Path) -> None:
  """Refuses paths that lead out of a folder by a link.

  Args:
    root: The folder; it may be a link itself.
    *paths: Paths below it, whether they exist or not.

  Raises:
    jaxplay.UserError: A path, or a folder on the way to it, is a link.
  """
  if not is_local(root):
    return
  for path in paths:
    step = root
    for part in path.relative_to(root).parts:
      step = step / part
      if step.is_symlink():
        raise link_error(step)


def refuse_links_in(root: str | os.PathLike, path: str | os.PathLike) -> None:
  """Refuses a path that leads into a directory and out of it by a link.

  Args:
    root: The directory, for example of a study.
    path: The user's choice, within the directory or not.

  Raises:
    jaxplay.UserError: It does.
  """
  if not (is_local(at(root)) and is_local(at(path))):
    return
  path = pathlib.Path(os.path.abspath(path))
  for folder in (path, *path.parents):
    if folder.exists() and folder.samefile(root):
      refuse_links(folder, path)


def link_error(path: pathlib.Path) -> jaxplay.UserError:
  """Returns the error for a link where nothing can be written."""
  return jaxplay.UserError(
    f"{str(path)!r} is a link, and nothing is written through links; put the"
    " file or folder itself there, or use the real folder as workdir"
  )


@contextlib.contextmanager
def as_user_errors(what: str, path: pathlib.Path) -> Iterator[None]:
  """Turns errors about a file into errors with a sentence.

  Args:
    what: What failed, the beginning of the sentence.
    path: The file.

  Raises:
    jaxplay.StorageError: The disk is full or broken.
    jaxplay.UserError: Any other error about the file.
  """
  # Clients of buckets have errors of their own, for networks and credentials.
  errors = OSError if is_local(path) else Exception
  try:
    yield
  except errors as error:
    raise_storage_error(error)
    reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
    if isinstance(error, FileNotFoundError) and not is_local(path):
      reason = "there is no such bucket"
    raise jaxplay.UserError(f"{what}: {reason}") from None


def raise_storage_error(error: Exception) -> None:
  """Raises the error for a full or broken disk; permissions are not one."""
  problem = storage.problem(error)
  if problem is not None and not isinstance(error, PermissionError):
    raise problem from error
