"""Runs Python files of the user, which can import modules beside them.

`import common` imports the common.py beside the file, as in a program. But
several files run in one process, each perhaps with its own common.py, so
modules imported from a folder are in `sys.modules` only while a file of that
folder runs. The content of files that ran is kept for the provenance.
"""

import contextlib
import dataclasses
import importlib
import os
import runpy
import sys
from collections.abc import Iterator
from typing import Any


@dataclasses.dataclass
class _Folder:
  """Modules that were imported from a folder of the user."""

  path: str
  # Imported once, as in a program: name -> module, path -> content.
  modules: dict[str, Any] = dataclasses.field(default_factory=dict)
  contents: dict[str, bytes] = dataclasses.field(default_factory=dict)
  # Names in `sys.modules` that are not of this folder.
  others: set[str] = dataclasses.field(default_factory=set)


_folders: dict[str, _Folder] = {}
_running: list[_Folder] = []  # A file may run another file.
_ran: dict[str, bytes] = {}  # path -> content, in order


@contextlib.contextmanager
def importable(path: str) -> Iterator[None]:
  """Makes the modules beside the file `path` importable."""
  where = os.path.realpath(os.path.dirname(path))
  folder = _folders.setdefault(where, _Folder(where))
  outer = _running[-1] if _running else None
  if outer is folder:
    yield
    return
  if outer is not None:
    _put_away(outer)
  before = list(sys.path), sys.dont_write_bytecode
  _running.append(folder)
  _take_out(folder)
  sys.path.insert(0, where)
  # Bytecode is checked by size and second, so a quick edit would be missed.
  sys.dont_write_bytecode = True
  try:
    yield
  finally:
    sys.path[:], sys.dont_write_bytecode = before
    _running.pop()
    _put_away(folder)
    if outer is not None:
      _take_out(outer)


def run(path: str) -> dict[str, Any]:
  """Runs a Python file and returns the names that it defines."""
  note(path)
  return runpy.run_path(path)


def note(path: str) -> None:
  """Adds a file, with its content, to those that ran."""
  with open(path, "rb") as file:
    _ran[os.path.abspath(path)] = file.read()


def running() -> str | None:
  """Returns the folder of the file of the user that runs; None: none runs."""
  return _running[-1].path if _running else None


def ran() -> dict[str, bytes]:
  """Returns path -> content of each user file that ran since `forget`.

  Modules that such a file imported from its folder are included.
  """
  return dict(_ran)


def forget() -> None:
  """Starts another command, for which no file has run yet."""
  _ran.clear()


def _take_out(folder):
  """Puts the modules of a folder into `sys.modules`."""
  importlib.invalidate_caches()
  if any(_content(path) != old for path, old in folder.contents.items()):
    folder.modules, folder.contents = {}, {}  # They are imported anew.
  folder.others = set(sys.modules) - set(folder.modules)
  sys.modules.update(folder.modules)


def _put_away(folder):
  """Takes the modules of a folder out of `sys.modules`."""
  folder.modules = {
    name: module
    for name, module in sys.modules.items()
    if _is_beside(folder, name.partition(".")[0])
  }
  for name, module in folder.modules.items():
    del sys.modules[name]
    path = getattr(module, "__file__", None)
    if path is not None:
      folder.contents.setdefault(path, _content(path))
  _ran.update(folder.contents)


def _is_beside(folder, name):
  """Returns whether the module or package `name` is from this folder."""
  if name in folder.others:
    return False
  module = sys.modules.get(name)
  places = list(getattr(module, "__path__", ()))  # of a package
  if not places and getattr(module, "__file__", None):
    places = [module.__file__]
  return any(os.path.dirname(place) == folder.path for place in places)


def _content(path):
  try:
    with open(path, "rb") as file:
      return file.read()
  except OSError:  # It was removed.
    return b""
