"""What made a run: the command, the code and files, the machine (G8).

    git_commit, git_diff   of jaxplay itself; null: unknown
    jaxplay                its version, and its repository as below
    files                  the user's files that ran: the config, the study, and
                           what they import from beside them, each with its text
                           and its state in the repository that holds it
    repositories           these: folder, remote, commit, uncommitted changes

Nothing is read from the environment, and remotes have no passwords. Where git
fails a value is unknown, which differs from "none".
"""

import functools
import hashlib
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import jaxplay
from jaxplay import commands, userfiles

# A run directory is small, and a study holds hundreds of them.
_MOST_TEXT = 64 * 1024  # bytes of a file
_MOST_DIFF = 64 * 1024  # bytes of the changes of a repository
_CUT = "\n... (there is more)\n"
_SECONDS = 20.0  # until git is considered to have failed

# Files and repositories of an earlier command; see `carry`.
_carried: dict[str, Any] = {}


def record(
  devices: str = "", versions: Mapping[str, str] = {}
) -> dict[str, Any]:
  """Returns what makes a run or study, for `rundir.Directory.note_start`.

  Args:
    devices: Kind and count of the devices, as text.
    versions: Library -> version.
  """
  source = os.path.dirname(os.path.abspath(__file__))
  own = _repository(source)
  if own["state"] == "known" and not _git(
    source, "ls-files", "--", "__init__.py"
  ):
    # Installed into a folder of another repository.
    own = {"state": "none"}
  if own["state"] == "known":
    own = own | {"untracked": _untracked(source)}
  files, repositories = _files(userfiles.ran())
  if not files:
    files = _carried.get("files", [])
    repositories = _carried.get("repositories", [])
  return {
    "git_commit": own.get("commit"),
    "git_diff": own.get("diff"),
    "jaxplay": {"version": jaxplay.__version__, "repository": own},
    "files": files,
    "repositories": repositories,
    "versions": {"python": sys.version.split()[0], **versions},
    "devices": devices,
    "host": socket.gethostname(),
    "command": commands.typed(),
    "folder": os.getcwd(),
    "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
  }


def carry(earlier: Mapping[str, Any] | None) -> None:
  """Attributes what is made from now on to the files of an earlier command.

  Such as for a rerun, whose config is from the study.

  Args:
    earlier: From `record`; None if unknown.
  """
  _carried.clear()
  for key in ("files", "repositories"):
    _carried[key] = (earlier or {}).get(key, [])


def forget() -> None:
  """Starts another command, without the files of the one before."""
  _carried.clear()
  userfiles.forget()
  for known in (_repository, _state, _untracked):
    known.cache_clear()


def in_words(provenance: Mapping[str, Any]) -> dict[str, str]:
  """Returns name -> text, of the code and files in a provenance."""
  own = provenance.get("jaxplay") or {}
  commit = provenance.get("git_commit") or "unknown"
  texts = {
    "jaxplay": f"{own.get('version', 'version unknown')}, commit {commit}",
    "uncommitted changes of jaxplay": _changes(provenance.get("git_diff")),
  }
  untracked = (own.get("repository") or {}).get("untracked")
  if untracked:
    texts["untracked files of jaxplay"] = ", ".join(untracked)
  for repository in provenance.get("repositories", ()):
    folder = repository["folder"]
    texts[f"repository {folder}"] = (
      f"{repository['remote'] or 'no remote'}, commit"
      f" {repository['commit'] or 'not known'}"
    )
    texts[f"uncommitted changes of {folder}"] = _changes(repository["diff"])
  files = provenance.get("files")
  if files is None:
    return texts | {"files of the user": "unknown"}
  lines = [f"{file['path']}: {file['state']}" for file in files]
  texts["files of the user"] = "\n".join(lines) or "none ran"
  return texts | {f"text of {file['path']}": file["text"] for file in files}


def is_changed(provenance: Mapping[str, Any]) -> bool | None:
  """Returns whether the user's files are not committed; None if unknown."""
  files = provenance.get("files")
  states = {file["state"] for file in files or ()}
  if states & {"changed", "untracked", "ignored", "in no repository"}:
    return True
  return None if files is None or "unknown" in states else False


def _changes(diff):
  return "unknown" if diff is None else diff or "none"


def without_password(url: str) -> str:
  """Returns the URL of a remote without credentials."""
  match = re.fullmatch(r"(\w[\w+.-]*://)([^/]*@)?([^?#]*)(.*)", url, re.DOTALL)
  if match is None:  # A path, or host:path of ssh.
    return re.sub(r"^([^/@]*):[^/@]*@", r"\1@", url)
  scheme, user, rest, _ = match.groups()
  if user and scheme.endswith("ssh://"):
    return f"{scheme}{user.rpartition('@')[0].partition(':')[0]}@{rest}"
  return scheme + rest


def _files(ran):
  """Returns (each of the user's files, their repositories)."""
  files, repositories = [], {}
  for path, content in ran.items():
    folder = os.path.dirname(os.path.realpath(path))
    repository = _repository(folder)
    if repository["state"] == "known":
      repositories[repository["folder"]] = repository
    files.append(
      {
        "path": path,
        "text": _bounded(content, _MOST_TEXT),
        "sha256": hashlib.sha256(content).hexdigest(),
        "state": _state(path),
        "repository": repository.get("folder"),
      }
    )
  return files, list(repositories.values())


def _bounded(content, most):
  text = content[:most].decode("utf-8", "replace")
  return text + (_CUT if len(content) > most else "")


@functools.cache
def _state(path):
  """Returns "committed", "changed", "untracked", "ignored", ..."""
  repository = _repository(os.path.dirname(os.path.realpath(path)))
  if repository["state"] != "known":
    is_none = repository["state"] == "none"
    return "in no repository" if is_none else "unknown"
  real = os.path.realpath(path)
  status = _git(
    os.path.dirname(real),
    *("status", "--porcelain", "-z", "--ignored", "--", real),
  )
  if status is None:
    return "unknown"
  if not status:
    return "committed"
  return {b"??": "untracked", b"!!": "ignored"}.get(status[:2], "changed")


@functools.cache
def _repository(folder):
  """Returns the repository of a folder, as it was when first asked for.

  Returns:
    {"state": "none", "unknown" or "known"}; if known also "folder", "remote",
    "commit" and "diff", the last two None if unknown.
  """
  try:
    done = _run_git(folder, "rev-parse", "--show-toplevel")
  except (OSError, subprocess.TimeoutExpired) as error:
    return {"state": "unknown", "reason": f"git: {type(error).__name__}"}
  if done.returncode:
    reason = done.stderr.decode("utf-8", "replace").strip().split("\n")[0]
    if "not a git repository" in reason:
      return {"state": "none"}
    return {"state": "unknown", "reason": reason}
  top = os.fsdecode(done.stdout.rstrip(b"\n"))
  commit = _git(folder, "rev-parse", "--verify", "--quiet", "HEAD")
  remotes = (_git(folder, "remote") or b"").decode("utf-8", "replace").split()
  url = b""
  if remotes:
    name = "origin" if "origin" in remotes else remotes[0]
    url = _git(folder, "config", "--get", f"remote.{name}.url") or b""
  return {
    "state": "known",
    "folder": top,
    "remote": without_password(url.decode("utf-8", "replace").strip()),
    "commit": commit.decode().strip() if commit else None,
    "diff": _diff(top) if commit else None,
  }


@functools.cache
def _untracked(folder):
  """Returns names of untracked modules in a folder; None if unknown."""
  names = _git(
    folder, *("ls-files", "--others", "--exclude-standard", "-z", "--", "*.py")
  )
  if names is None:
    return None
  return names.decode("utf-8", "replace").split("\0")[:-1]


def _diff(folder):
  """Returns uncommitted changes of tracked files, cut; None if unknown."""
  # Without the programs that the repository's settings would run instead.
  words = ("diff", "HEAD", "--no-ext-diff", "--no-textconv", "--no-color")
  process = subprocess.Popen(
    _command(folder, *words, "--ignore-submodules=dirty"),
    stdout=subprocess.PIPE,
    stderr=subprocess.DEVNULL,
    **_setting(),
  )
  late = threading.Timer(_SECONDS, process.kill)
  late.start()
  with process:
    content = process.stdout.read(_MOST_DIFF + 1)
    if len(content) > _MOST_DIFF:
      process.kill()  # Changes may be very long.
      late.cancel()
      return _bounded(content, _MOST_DIFF)
  late.cancel()
  return None if process.returncode else _bounded(content, _MOST_DIFF)


def _git(folder, *words):
  """Returns git's output as bytes; None if it fails."""
  try:
    done = _run_git(folder, *words)
  except (OSError, subprocess.TimeoutExpired):
    return None
  return done.stdout if done.returncode == 0 else None


def _run_git(folder, *words):
  return subprocess.run(
    _command(folder, *words),
    capture_output=True,
    timeout=_SECONDS,
    **_setting(),
  )


def _command(folder, *words):
  settings = ("core.fsmonitor=false", "core.quotepath=false")
  options = [word for setting in settings for word in ("-c", setting)]
  return ["git", "-C", folder, *options, *words]


def _setting():
  """Returns arguments of every git process."""
  # In a git hook, these variables would name another repository.
  environment = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("GIT_")
  }
  # It only reads.
  environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"}
  return {
    "stdin": subprocess.DEVNULL,
    "env": environment | {"LC_ALL": "C"},
  }
