"""What made a run: commands, versions, machines, and the code of all."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from jaxplay import commands, provenance, rundir, userfiles
from tests.study import studies

_SECRET = "-".join(["never", "to", "be", "seen"])  # nor in our own diff


@pytest.fixture(autouse=True)
def fresh():
  """As a command begins."""
  provenance.forget()
  yield
  provenance.forget()


def _git(folder, *words):
  identity = ("-c", "user.name=x", "-c", "user.email=x@example.com")
  command = ["git", "-C", folder, *identity, *words]
  subprocess.run(command, check=True, capture_output=True)


def _project(
  folder, remote=f"https://me:{_SECRET}@host/a/b.git?token={_SECRET}"
):
  """A repository of somebody's with a config and a study, committed."""
  folder.mkdir()
  studies.write(folder)
  _git(folder, "init", "--quiet")
  _git(folder, "remote", "add", "origin", remote)
  _git(folder, "add", ".")
  _git(folder, "commit", "--quiet", "-m", "first")
  return folder


def _record(*paths):
  provenance.forget()
  for path in paths:
    userfiles.note(str(path))
  return provenance.record()


def test_provenance_tells_what_made_the_run(tmp_path):
  """G8: commit, uncommitted changes, versions, devices, host and command."""
  run = rundir.RunDir(tmp_path)
  entry = provenance.record("8 x cpu", {"jax": "1.2"})
  assert entry["devices"] == "8 x cpu" and entry["versions"]["jax"] == "1.2"
  assert entry["versions"]["python"] == sys.version.split()[0]
  assert entry["command"] == commands.typed()
  assert entry["folder"] == os.getcwd()
  run.write_provenance(entry)
  assert run.provenance() == entry | {"resumes": []}


def test_the_repository_of_the_users_files(tmp_path, monkeypatch):
  """R4: commit, changes, remote and text of what ran; and nothing secret."""
  monkeypatch.setenv("MY_TOKEN", _SECRET)
  project = _project(tmp_path / "project")
  config = project / "config.py"
  # As a hook of another repository has it.
  monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
  entry = _record(config)
  (file,), (repository,) = entry["files"], entry["repositories"]
  assert file["state"] == "committed" and file["text"] == config.read_text()
  assert repository["folder"] == file["repository"] == str(project)
  assert len(repository["commit"]) == 40 and repository["diff"] == ""
  assert repository["remote"] == "https://host/a/b.git"
  assert _SECRET not in json.dumps(entry)
  told = provenance.in_words(entry)
  assert told[f"uncommitted changes of {project}"] == "none"
  # What is changed is said, of the file and of its repository.
  config.write_text(config.read_text() + "# new\n")
  (project / "other.py").write_text("")
  entry = _record(config, project / "other.py")
  assert [f["state"] for f in entry["files"]] == ["changed", "untracked"]
  assert "+# new" in entry["repositories"][0]["diff"]
  told = provenance.in_words(entry)
  assert "+# new" in told[f"uncommitted changes of {project}"]
  assert told[f"text of {config}"] == config.read_text()
  assert provenance.is_changed(entry)


def test_files_of_no_repository_and_of_no_git(tmp_path, monkeypatch):
  """R4: none is none, and what cannot be known is called so."""
  path = tmp_path / "config.py"
  path.write_text("x = 1\n")
  entry = _record(path)
  assert entry["files"][0]["state"] == "in no repository"
  assert entry["repositories"] == []
  monkeypatch.setenv("PATH", str(tmp_path))
  entry = _record(path)
  assert entry["files"][0]["state"] == "unknown"
  assert entry["git_commit"] is None and entry["git_diff"] is None
  told = provenance.in_words(entry)
  assert told["uncommitted changes of jaxplay"] == "unknown"
  assert "unknown" in told["jaxplay"]
  assert "unknown" in told["files of the user"]
  assert provenance.is_changed(entry) is None
  # Of what an earlier version wrote.
  assert provenance.in_words({})["files of the user"] == "unknown"
  assert provenance.is_changed({}) is None


def test_a_repository_without_a_commit(tmp_path):
  """R4: there are no changes to it that could be none."""
  folder = tmp_path / "project"
  studies.write(folder)
  _git(folder, "init", "--quiet")
  entry = _record(folder / "config.py")
  assert entry["files"][0]["state"] == "untracked"
  told = provenance.in_words(entry)
  assert told[f"uncommitted changes of {folder}"] == "unknown"


def test_large_files_and_changes_are_cut(tmp_path):
  """R4: a run directory stays small."""
  project = _project(tmp_path / "project")
  for name in ("config.py", "study.py"):
    with open(project / name, "a") as file:
      file.write("# \xe4\n" * 10**6)
  entry = _record(project / "config.py")
  assert len(json.dumps(entry)) < 10**6
  assert entry["files"][0]["text"].endswith("(there is more)\n")
  assert entry["repositories"][0]["diff"].endswith("(there is more)\n")
  assert entry["files"][0]["state"] == "changed"


def test_settings_of_a_repository_run_nothing(tmp_path):
  """R4: recording a repository executes none of its programs."""
  project = _project(tmp_path / "project")
  made = tmp_path / "made"
  for key in ("diff.external", "core.fsmonitor"):
    _git(project, "config", key, f"touch {made}")
  (project / "config.py").write_text("# new\n")
  entry = _record(project / "config.py")
  assert "+# new" in entry["repositories"][0]["diff"] and not made.exists()


def test_an_installed_jaxplay_has_not_the_commit_of_its_user(tmp_path):
  """R4: in a .venv inside of somebody's repository."""
  project = _project(tmp_path / "project")
  package = project / "site-packages" / "jaxplay"
  package.mkdir(parents=True)
  source = os.path.dirname(provenance.__file__)
  for name in ("__init__", "commands", "provenance", "userfiles"):
    shutil.copy(f"{source}/{name}.py", package)
  code = "from jaxplay import provenance; import json;"
  code += "print(json.dumps(provenance.record()))"
  done = subprocess.run(
    [sys.executable, "-c", code],
    capture_output=True,
    cwd=project / "site-packages",
    env={"PATH": os.environ["PATH"]},
  )
  entry = json.loads(done.stdout)
  assert entry["git_commit"] is None and entry["git_diff"] is None
  assert entry["jaxplay"]["repository"] == {"state": "none"}


@pytest.mark.parametrize(
  ("url", "expected"),
  [
    ("https://me:pw@host/a.git", "https://host/a.git"),
    ("https://token@host:8443/a?x=token#token", "https://host:8443/a"),
    ("ssh://git:pw@host:22/a", "ssh://git@host:22/a"),
    ("git@host:a/b.git", "git@host:a/b.git"),
    ("me:pw@host:a/b.git", "me@host:a/b.git"),
    ("/folder/with@at:and/colon", "/folder/with@at:and/colon"),
    ("https://me:p@w@host/a", "https://host/a"),
  ],
)
def test_remotes_are_without_passwords(url, expected):
  """R4: in any of the forms that git takes."""
  assert provenance.without_password(url) == expected


def test_a_later_start_says_what_has_changed(tmp_path):
  """R4: of code and files; they are not repeated where they have not."""
  project = _project(tmp_path / "project")
  run = rundir.RunDir(tmp_path / "run")
  run.create()
  for _ in range(2):
    run.write_provenance(_record(project / "config.py"))
  (project / "config.py").write_text("# new\n")
  run.write_provenance(_record(project / "config.py"))
  run.write_provenance(_record())  # From its own config.json.
  first = run.provenance()
  same, other, own = first["resumes"]
  assert not {"files", "repositories", "git_diff", "jaxplay"} & same.keys()
  assert same["command"] and same["time"]
  assert other["files"][0]["text"] == "# new\n"
  assert "+# new" in other["repositories"][0]["diff"]
  assert not {"files", "repositories"} & own.keys()
  # A study lists only those starts.
  study = rundir.RunDir(tmp_path / "study")
  study.create()
  for text in ("# new\n", "# new\n", "# newer\n"):
    (project / "config.py").write_text(text)
    study.note_start(_record(project / "config.py"))
  assert len(study.provenance()["resumes"]) == 1
