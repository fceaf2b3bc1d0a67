"""The code of the user's parts: which files it is, and copies of them.

A config names a part as FILE.py:NAME or package.module:NAME. Its code is that
file and what it imports from beside itself. A digest of names and contents
identifies it: `config.code`. Runs and studies keep a copy,

    RUN/code/DIGEST/files.json   names, hashes, and where they were
                    ...          the files

from which they are resumed, rerun and extended anywhere, whatever has become of
the originals. Nothing here runs code except `load`.
"""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import json
import os
import pathlib
import posixpath
import re
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypedDict

import jaxplay
from jaxplay import rundir, userfiles

_MOST_FILES, _MOST_BYTES = 500, 16 * 2**20  # of the code of a config
_SHORT = 16  # characters of a digest in a folder's name

# Digest -> (folder that names are relative to, names of the files).
_folders: dict[str, tuple[str, tuple[str, ...]]] = {}
_places: dict[str, None] = {}  # directories that may hold copies, in order


class Manifest(TypedDict):
  """files.json.

  Attributes:
    base: Folder in which the config names its parts, relative to the copy.
    source: That folder where the code was copied from.
    files: Name, relative to `base`, to the SHA-256 of the content.
  """

  base: str
  source: str
  files: dict[str, str]


def split(name: str) -> tuple[str, str]:
  """(file or module, attribute) of FILE.py:NAME or package.module:NAME."""
  where, _, attribute = name.rpartition(":")
  return where, attribute


def is_name(name: Any) -> bool:
  """Whether a value has the form FILE.py:NAME or package.module:NAME."""
  if not isinstance(name, str):
    return False
  where, attribute = split(name)
  is_module = all(part.isidentifier() for part in where.split("."))
  return attribute.isidentifier() and (where.endswith(".py") or is_module)


def load(name: str, folder: str) -> Any:
  """Imports a part: runs the user's code.

  Args:
    name: FILE.py:NAME, relative to `folder`, or package.module:NAME, which is
      looked for in `folder` first.
    folder: The folder.

  Raises:
    jaxplay.UserError: There is no such file, module or name in it.
    Exception: What the code raises.
  """
  where, attribute = split(name)
  path = _file(where, folder)
  if path is None and where.endswith(".py"):
    raise jaxplay.UserError(
      f"{name!r}: there is no file {os.path.join(folder, where)!r}"
    )
  with importing(name, folder):
    if path is None or not where.endswith(".py"):
      try:
        module = importlib.import_module(where)
      except ModuleNotFoundError as error:
        if error.name is None or not f"{where}.".startswith(f"{error.name}."):
          raise
        raise jaxplay.UserError(
          f"{name!r}: there is no module {error.name!r} in {folder!r}, nor"
          " installed"
        ) from None
    else:
      module = _imported(path)
  if not hasattr(module, attribute):
    names = ", ".join(
      n
      for n, value in vars(module).items()
      if getattr(value, "__module__", None) == module.__name__
    )
    raise jaxplay.UserError(
      f"{name!r}: {where!r} defines no {attribute!r}"
      + (f"; it defines {names}" if names else "")
    )
  return getattr(module, attribute)


def importing(name: str, folder: str) -> contextlib.AbstractContextManager:
  """A context in which a part can import what lies beside it."""
  where, _ = split(name)
  path = _file(where, folder)
  # A file finds what lies beside it, a module what lies beside the config.
  is_file = path is not None and where.endswith(".py")
  return userfiles.importable(path if is_file else os.path.join(folder, "_"))


def _imported(path):
  """The module of a file, called as an `import` beside it would call it."""
  stem = pathlib.Path(path).stem
  if stem.isidentifier():
    # The name may be that of a module that is loaded already.
    known = sys.modules.get(stem)
    if known is None or _is_from(known, path):
      module = importlib.import_module(stem)
      if _is_from(module, path):
        return module
  unique = f"_{hashlib.sha256(path.encode()).hexdigest()[:12]}_{stem}"
  if unique in sys.modules:
    return sys.modules[unique]
  spec = importlib.util.spec_from_file_location(unique, path)
  assert spec is not None and spec.loader is not None
  module = importlib.util.module_from_spec(spec)
  sys.modules[unique] = module
  try:
    spec.loader.exec_module(module)
  except BaseException:
    del sys.modules[unique]
    raise
  return module


def _is_from(module, path):
  file = getattr(module, "__file__", None)
  return file is not None and os.path.realpath(file) == os.path.realpath(path)


def _file(where, folder):
  """The absolute path of a file or module in `folder`; None: not there."""
  if where.endswith(".py"):
    path = os.path.abspath(os.path.join(folder, where))
    return path if os.path.isfile(path) else None
  parts = os.path.join(os.path.abspath(folder), *where.split("."))
  for path in (f"{parts}.py", os.path.join(parts, "__init__.py")):
    if os.path.isfile(path):
      return path
  return None


def files(names: Iterable[str], folder: str) -> dict[str, bytes]:
  """The files of parts, with what they import from beside themselves.

  Args:
    names: As for `load`.
    folder: The folder of the config.

  Returns:
    Path relative to `folder`, with /, to the content. Installed modules are not
    included.

  Raises:
    jaxplay.UserError: They are too many or too large to be copied.
  """
  found: dict[str, bytes] = {}
  left = []
  for name in names:
    where, _ = split(name)
    path = _file(where, folder)
    if path is not None:
      top = os.path.dirname(path)
      if not where.endswith(".py"):
        top = os.path.abspath(folder)
        if "." in where or path.endswith("__init__.py"):
          left += _package(os.path.join(top, where.split(".")[0]), top)
      left.append((path, top))
  while left:
    path, top = left.pop()
    relative = pathlib.PurePath(os.path.relpath(path, folder)).as_posix()
    if relative in found:
      continue
    with open(path, "rb") as file:
      found[relative] = file.read(_MOST_BYTES + 1)
    size = sum(map(len, found.values()))
    if len(found) > _MOST_FILES or size > _MOST_BYTES:
      raise jaxplay.UserError(
        f"the code of {', '.join(names)} is more than {_MOST_FILES} files or"
        f" {_MOST_BYTES >> 20} MiB, too much to be copied to each run; move it"
        " to a folder of its own"
      )
    left += _imports(found[relative], top)
  return found


def _imports(source, top):
  """(path, top) of the modules in `top` that a source imports anywhere."""
  try:
    tree = ast.parse(source)
  except (SyntaxError, ValueError):  # Running it shows the error.
    return []
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names |= {alias.name.partition(".")[0] for alias in node.names}
    elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
      names.add(node.module.partition(".")[0])
  found = []
  for name in names:
    path = os.path.join(top, name)
    if os.path.isfile(f"{path}.py"):
      found.append((f"{path}.py", top))
    found += _package(path, top)
  return found


def _package(path, top):
  if not os.path.isfile(os.path.join(path, "__init__.py")):
    return []
  return [
    (os.path.join(folder, name), top)
    for folder, _, names in os.walk(path)
    for name in names
    if name.endswith(".py")
  ]


def digest(contents: Mapping[str, bytes]) -> str:
  """The identity of files; empty if there are none."""
  hashes = _hashes(contents)
  if not hashes:
    return ""
  text = json.dumps(hashes, sort_keys=True)
  return hashlib.sha256(text.encode()).hexdigest()


def _hashes(contents):
  return {
    name: hashlib.sha256(content).hexdigest()
    for name, content in contents.items()
  }


def note(contents: Mapping[str, bytes], folder: str) -> str:
  """Remembers where code is, and returns its digest.

  Args:
    contents: From `files`.
    folder: The folder that names are relative to.
  """
  code = digest(contents)
  if code:
    _folders[code] = os.path.abspath(folder), tuple(contents)
  return code


def look_in(directory: str | os.PathLike) -> None:
  """Adds a run or study directory to those whose copies may be used.

  Such as of a run that the user wants to train. Its code runs only if it has
  the digest of the config.
  """
  _places[os.fspath(directory)] = None


def folder_of(code: str) -> str:
  """The folder with the code of a digest, relative to which parts are named.

  Args:
    code: `config.code`.

  Raises:
    jaxplay.UserError: It is in no directory that is known, or was changed.
  """
  if code in _folders:
    folder, names = _folders[code]
    if digest({name: _read(folder, name) for name in names}) == code:
      return folder
  for place in reversed(_places):
    for above in _above(rundir.at(place)):
      copy = _copy(above, code)
      manifest = rundir.read_json(copy / "files.json", Manifest)
      if manifest is not None:
        return _checked(copy, manifest, code)
  if code in _folders:
    raise jaxplay.UserError(
      f"the code in {_folders[code][0]!r} was changed since the config was"
      " loaded; load it again"
    )
  raise jaxplay.UserError(
    f"the code of this config (digest {code[:_SHORT]}) is not here: neither in"
    f" {' nor '.join(repr(place) for place in _places) or 'any run'}; start"
    " from the config file, or from a run directory with its folder code"
  )


def _copy(directory, code):
  """The folder of a copy in a run or study directory."""
  if not re.fullmatch("[0-9a-f]{64}", code):
    raise jaxplay.UserError(
      f"config.code is {code[:80]!r}, which is no digest of code; start from"
      " the config file"
    )
  return directory / "code" / code[:_SHORT]


def _above(path):
  """A run directory, and the study that it may be in."""
  yield path
  for levels, name in ((1, "trials"), (2, "reruns")):
    if len(path.parents) > levels and path.parents[levels - 1].name == name:
      yield path.parents[levels]


def _checked(copy, manifest, code):
  """The folder of parts in a copy, whose files are as they were."""
  contents = {}
  base = _inside(copy, manifest["base"])
  for name in manifest["files"]:
    path = _inside(copy, posixpath.join(manifest["base"], name))
    contents[name] = rundir.read_bytes(path) or b""
  if digest(contents) != code:
    changed = [
      name
      for name, content in contents.items()
      if hashlib.sha256(content).hexdigest() != manifest["files"][name]
    ]
    raise jaxplay.UserError(
      f"{str(copy)!r} holds other code than the run was made of:"
      f" {', '.join(sorted(changed)) or 'files.json'} was changed; restore it"
      " from a copy"
    )
  if rundir.is_local(copy):
    note(contents, str(base))
    return str(base)
  # Python imports files of a disk.
  temporary = pathlib.Path(tempfile.mkdtemp(prefix="jaxplay-code-"))
  for name, content in contents.items():
    path = temporary / posixpath.normpath(
      posixpath.join(manifest["base"], name)
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
  note(contents, str(temporary / manifest["base"]))
  return str(temporary / manifest["base"])


def _read(folder, name):
  try:
    with open(os.path.join(folder, name), "rb") as file:
      return file.read(_MOST_BYTES + 1)
  except OSError:  # It was removed.
    return b""


def _inside(copy, name):
  """The path of a name in a copy; refuses one that leads out of it."""
  name = posixpath.normpath(name)
  parts = () if name == "." else tuple(name.split("/"))
  if posixpath.isabs(name) or ".." in parts or "\\" in name or "\0" in name:
    raise rundir.Damaged(copy / "files.json", f"$: {name!r} leads out of it")
  path = copy.joinpath(*parts)
  if rundir.is_local(copy):
    rundir.refuse_links(
      copy, *(copy.joinpath(*parts[:i]) for i in range(1, len(parts) + 1))
    )
  return path


def write(code: str, names: Iterable[str], directory: pathlib.Path) -> None:
  """Copies the code of a digest to a run or study directory, if need be.

  Args:
    code: `config.code`; empty: there is nothing to copy.
    names: The parts, as for `load`.
    directory: Of the run or study.

  Raises:
    jaxplay.UserError: The files were changed since they were loaded.
  """
  if not code or any(
    (_copy(above, code) / "files.json").exists() for above in _above(directory)
  ):
    return
  folder = folder_of(code)
  contents = files(names, folder)
  # As many folders as the highest file is above that of the config.
  depth = max(name.split("/").count("..") for name in contents)
  base = "/".join(["config"] * depth) or "."
  copy = _copy(directory, code)
  for name, content in contents.items():
    path = copy.joinpath(posixpath.normpath(posixpath.join(base, name)))
    path.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_bytes(path, content)
  # Last: then the copy is complete.
  rundir.write_json(
    copy / "files.json",
    {"base": base, "source": folder, "files": _hashes(contents)},
  )


def changed(
  code: str, directory: str | os.PathLike
) -> tuple[str, list[str]] | None:
  """The files that differ by now where the copy of a directory was made from.

  Args:
    code: `config.code`.
    directory: With the copy.

  Returns:
    (the folder of the originals, their changed files); None: nothing changed,
    or the originals are not at hand.
  """
  for above in _above(rundir.at(directory)) if code else ():
    copy = _copy(above, code)
    manifest = rundir.read_json(copy / "files.json", Manifest)
    if manifest is not None:
      paths = [
        path
        for name, known in sorted(manifest["files"].items())
        if (path := os.path.join(manifest["source"], name))
        and os.path.isfile(path)
        and _sha256(path) != known
      ]
      return (manifest["source"], paths) if paths else None
  return None


def _sha256(path):
  return hashlib.sha256(_read("", path)).hexdigest()


@contextlib.contextmanager
def running(code: str) -> Iterator[None]:
  """Lets the code of a digest import what lies beside it, when it is called."""
  if not code:
    yield
    return
  with userfiles.importable(os.path.join(folder_of(code), "_")):
    yield


def forget() -> None:
  """Starts another command, for which no code is known yet."""
  _folders.clear()
  _places.clear()
