"""Installing jaxplay: without JAX, with the extra `train`, and its folders."""

import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

import jaxplay
from jaxplay import installed

_ROOT = pathlib.Path(__file__).resolve().parents[1]


def test_an_import_of_the_extra_is_explained():
  """Installing: only packages of the extra `train` are explained."""
  for name in ("jax", "optax.contrib", "orbax"):
    error = ModuleNotFoundError("No module", name=name)
    assert "pip install 'jaxplay[train]'" in installed.problem(error)
  assert installed.problem(ModuleNotFoundError("No module", name="x")) is None
  assert installed.problem(ImportError("x")) is None


def test_training_without_jax_is_refused(monkeypatch):
  """Installing: one sentence with the command, before anything is written."""
  installed.require_training()
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(jaxplay.UserError, match=r"jaxplay\[train\]"):
    installed.require_training()


def test_folders_of_an_editable_installation():
  """Installing: experiments and launchers are found beside the package."""
  for name in installed.FOLDERS:
    assert installed.folder(name) == _ROOT / name


def _run(*words, cwd, code=0):
  """Standard output of a command in the clean environment."""
  env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
  done = subprocess.run(
    [str(word) for word in words],
    **{"cwd": cwd, "env": env, "capture_output": True, "text": True},
  )
  assert done.returncode == code, done.stdout + done.stderr
  return done.stdout


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
  """A folder with an environment in venv/ that holds only the wheel."""
  uv = shutil.which("uv", path=os.path.dirname(sys.executable))
  if uv is None:
    pytest.skip("uv is not installed")
  folder = tmp_path_factory.mktemp("clean")
  # Built from a copy: a build leaves folders beside pyproject.toml.
  source = folder / "source"
  for name in ("jaxplay", "experiments", "launch"):
    shutil.copytree(_ROOT / name, source / name)
  for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "README.md"):
    shutil.copy(_ROOT / name, source)
  shutil.copy(_ROOT / "LICENSE", source)
  build = [uv, "build", "--wheel", "--no-build-isolation", "--out-dir", folder]
  _run(*build, "--python", sys.executable, source, cwd=folder)
  _run(uv, "venv", "--python", sys.executable, "venv", cwd=folder)
  (wheel,) = folder.glob("*.whl")
  install(folder, uv, wheel)
  return folder, uv, wheel


def install(folder, uv, what):
  """Installs with the real resolver, or skips the test without a network."""
  done = subprocess.run(
    [uv, "pip", "install", "--python", "venv/bin/python", str(what)],
    **{"cwd": folder, "capture_output": True, "text": True},
  )
  offline = ("error sending request", "dns error", "Failed to fetch")
  if any(words in done.stderr for words in offline):
    pytest.skip("the package index cannot be reached")
  assert done.returncode == 0, done.stderr


@pytest.mark.pods
def test_a_wheel_without_jax_reports(clean, finished_study):
  """Installing: the base reads a study and writes its report, without JAX."""
  folder = clean[0]
  program = folder / "venv" / "bin" / "jaxplay"
  python = folder / "venv" / "bin" / "python"
  find = "import importlib.util as u; print(u.find_spec('jax'))"
  assert _run(python, "-c", find, cwd=folder).strip() == "None"
  shutil.copytree(finished_study, folder / "study")
  _run(program, "report", "study", cwd=folder)
  assert (folder / "study" / "report.html").stat().st_size > 10_000
  assert json.loads((folder / "study" / "findings.json").read_text())
  refused = subprocess.run(
    [program, "train", "--config=x.py", "--workdir=run"],
    capture_output=True,
    text=True,
    cwd=folder,
  )
  assert refused.returncode == 2 and "jaxplay[train]" in refused.stderr
  assert not (folder / "run").exists()


@pytest.mark.pods
def test_a_wheel_with_the_extra_trains(clean):
  """Installing: a run of an experiment that the wheel holds."""
  folder, uv, wheel = clean
  install(folder, uv, f"jaxplay[train] @ {wheel.as_uri()}")
  program = folder / "venv" / "bin" / "jaxplay"
  python = folder / "venv" / "bin" / "python"
  for name in installed.FOLDERS:
    inside = _run(python, "-m", "jaxplay.installed", name, cwd=folder).strip()
    assert inside == str(next(folder.glob(f"venv/lib/*/*/jaxplay/{name}")))
    shutil.copytree(inside, folder / name)
  _run(
    *(program, "train", "--config=experiments/digits_mlp/config.py"),
    *("--workdir=run", "--config.max_train_steps=20"),
    cwd=folder,
  )
  status = json.loads((folder / "run" / "status.json").read_text())
  assert status["status"] == "completed"
  assert (folder / "run" / "export" / "forward.jaxexport").exists()
