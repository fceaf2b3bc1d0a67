"""Runs a Python file of the user's, whose folder is importable meanwhile.

`import common` finds the common.py beside the file, as it does in a program.
But several files run in one process, each perhaps with a common.py of its own:
what was imported from a folder is in `sys.modules` only while a file of that
folder runs. What ran is kept as text, for the provenance.
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
  """What was imported from a folder of the user's."""

  path: str
  # Imported once, as in a program: name -> module, path -> what was in it.
  modules: dict[str, Any] = dataclasses.field(default_factory=dict)
  contents: dict[str, bytes] = dataclasses.field(default_factory=dict)
  # Names in `sys.modules` that are of others.
  others: set[str] = dataclasses.field(default_factory=set)


_folders: dict[str, _Folder] = {}
_running: list[_Folder] = []  # A file may have another one run.
_ran: dict[str, bytes] = {}  # path -> what was in the file, in order


@contextlib.contextmanager
def importable(path: str) -> Iterator[None]:
  """Meanwhile, the modules beside the file `path` can be imported."""
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
  # Compiled, a module is known by size and second: an edit would be missed.
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
  """The names that a Python file defines."""
  note(path)
  return runpy.run_path(path)


def note(path: str) -> None:
  """Counts a file as one of the user's that ran, with what is in it."""
  with open(path, "rb") as file:
    _ran[os.path.abspath(path)] = file.read()


def ran() -> dict[str, bytes]:
  """Path -> content of each file of the user's that ran since `forget`.

  Modules that were imported from beside such a file are among them.
  """
  return dict(_ran)


def forget() -> None:
  """What runs from now on is another command's."""
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
  """Whether the module or package `name` is of this folder alone."""
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
  except OSError:  # It is gone meanwhile.
    return b""
