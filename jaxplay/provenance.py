"""What made a run: the command, the code and files, the machine (G8).

    git_commit, git_diff   of jaxplay itself; null: not known
    jaxplay                its version, and its repository as below
    files                  the user's files that ran: the config, the study, and
                           what they import from beside them, each with its text
                           and its state in the repository that holds it
    repositories           these: folder, remote, commit, uncommitted changes

Nothing is taken from the environment, and remotes are without passwords. What
git does not answer is not known, which is another thing than none.
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
_SECONDS = 20.0  # until git is taken not to answer

# Of what was made by an earlier command; see `carry`.
_carried: dict[str, Any] = {}


def record(
  devices: str = "", versions: Mapping[str, str] = {}
) -> dict[str, Any]:
  """What makes a run, study, ladder or plan, for `RunDir.write_provenance`.

  Args:
    devices: Kind and count of the devices, in words.
    versions: Versions of the libraries that computed it.
  """
  source = os.path.dirname(os.path.abspath(__file__))
  own = _repository(source)
  if own["state"] == "known" and not _git(
    source, "ls-files", "--", "__init__.py"
  ):
    # Installed into a folder of somebody's, whose commit says nothing of it.
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
  """What is made from now on comes of the user's files of an earlier command.

  Such as a rerun, which has its config from the study.

  Args:
    earlier: As from `record`; None: nothing is known.
  """
  _carried.clear()
  for key in ("files", "repositories"):
    _carried[key] = (earlier or {}).get(key, [])


def forget() -> None:
  """What is made from now on is another command's."""
  _carried.clear()
  userfiles.forget()
  for known in (_repository, _state, _untracked):
    known.cache_clear()


def in_words(provenance: Mapping[str, Any]) -> dict[str, str]:
  """Name -> text of what a provenance says of code and files."""
  own = provenance.get("jaxplay") or {}
  commit = provenance.get("git_commit") or "not known"
  found = {
    "jaxplay": f"{own.get('version', 'version not known')}, commit {commit}",
    "uncommitted changes of jaxplay": _changes(provenance.get("git_diff")),
  }
  untracked = (own.get("repository") or {}).get("untracked")
  if untracked:
    found["files of jaxplay that no commit holds"] = ", ".join(untracked)
  for repository in provenance.get("repositories", ()):
    folder = repository["folder"]
    found[f"repository {folder}"] = (
      f"{repository['remote'] or 'no remote'}, commit"
      f" {repository['commit'] or 'not known'}"
    )
    found[f"uncommitted changes of {folder}"] = _changes(repository["diff"])
  files = provenance.get("files")
  if files is None:
    return found | {"files of the user": "not known"}
  lines = [f"{file['path']}: {file['state']}" for file in files]
  found["files of the user"] = "\n".join(lines) or "none ran"
  return found | {f"text of {file['path']}": file["text"] for file in files}


def is_changed(provenance: Mapping[str, Any]) -> bool | None:
  """Whether the user's files differ from what a commit holds; None: unknown."""
  files = provenance.get("files")
  states = {file["state"] for file in files or ()}
  if states & {"changed", "untracked", "ignored", "in no repository"}:
    return True
  return None if files is None or "unknown" in states else False


def _changes(diff):
  return "not known" if diff is None else diff or "none"


def without_password(url: str) -> str:
  """The URL of a remote without what opens it."""
  match = re.fullmatch(r"(\w[\w+.-]*://)([^/]*@)?([^?#]*)(.*)", url, re.DOTALL)
  if match is None:  # A path, or host:path of ssh.
    return re.sub(r"^([^/@]*):[^/@]*@", r"\1@", url)
  scheme, user, rest, _ = match.groups()
  if user and scheme.endswith("ssh://"):
    return f"{scheme}{user.rpartition('@')[0].partition(':')[0]}@{rest}"
  return scheme + rest


def _files(ran):
  """(each of the user's files, the repositories that hold them)"""
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
  """Of a file: "committed", "changed", "untracked", "ignored", ..."""
  repository = _repository(os.path.dirname(os.path.realpath(path)))
  if repository["state"] != "known":
    return {"none": "in no repository"}.get(repository["state"], "unknown")
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
  """The repository that holds a folder, as a command found it.

  Returns:
    {"state": "none", "unknown" or "known"; and of a known one "folder",
    "remote", "commit" and "diff"}, the latter None where not known
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
    "commit": commit and commit.decode().strip(),
    "diff": _diff(top) if commit else None,
  }


@functools.cache
def _untracked(folder):
  """Names of modules in a folder that are not tracked; None: not known."""
  found = _git(
    folder, *("ls-files", "--others", "--exclude-standard", "-z", "--", "*.py")
  )
  if found is None:
    return None
  return found.decode("utf-8", "replace").split("\0")[:-1]


def _diff(folder):
  """Uncommitted changes of tracked files, bounded; None: not known."""
  # What the repository's settings would run instead is not wanted.
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
      process.kill()  # Changes may be without end.
      late.cancel()
      return _bounded(content, _MOST_DIFF)
  late.cancel()
  return None if process.returncode else _bounded(content, _MOST_DIFF)


def _git(folder, *words):
  """What git answers, bytes; None: it does not."""
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
  """Of every process of git."""
  # A hook that started us would have git answer of its own repository.
  environment = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("GIT_")
  }
  # It only reads, here.
  environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"}
  return {
    "stdin": subprocess.DEVNULL,
    "env": environment | {"LC_ALL": "C"},
  }
