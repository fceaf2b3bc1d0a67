"""Reports of studies that are somebody else's, in use, or not to be written."""

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.study import studies
from tests.training import runs


@pytest.fixture
def study(finished_study, tmp_path):
  """A copy to write in."""
  return shutil.copytree(finished_study, tmp_path / "received" / "study")


@pytest.fixture
def outside(tmp_path):
  """A file and a folder that no study has any business with."""
  folder = tmp_path / "outside"
  folder.mkdir()
  (folder / "profile").write_text("mine\n")
  yield folder
  found = {path.name: path.read_text() for path in folder.iterdir()}
  assert found == {"profile": "mine\n"}


# Names in a study that are, or were, written.
_WRITTEN = (
  *("findings.json", "next_study.py", "trials.csv", "report.html"),
  *(".trials.csv.partial", ".report.html.partial", ".next_study.py.partial"),
  *(".writable", ".lock", "metrics.jsonl", "LOG.md"),
)
_READING = (
  ("report", "{study}"),
  ("report", "{study}", "--json"),
  ("report", "{study}/trials/0000"),
  ("study", "status", "{study}"),
  ("study", "list", "{study}"),
  ("export", "{study}", "--csv={study}/exported.csv"),
  ("compare", "{study}", "{study}"),
)


def test_reading_writes_through_no_link(study, outside, capsys):
  """Links: whatever a study's files are linked to stays as it is."""
  for folder in (study, study / "trials" / "0000"):
    for name in _WRITTEN:
      if not (folder / name).is_file() or name != "metrics.jsonl":
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(outside / "profile")
  for words in _READING:
    assert studies.call(*(w.format(study=study) for w in words)) == 0
  for folder in (study, study / "trials" / "0000"):
    assert not (folder / "report.html").is_symlink()
    assert (folder / "report.html").read_text().startswith("<!doctype html>")


@pytest.mark.parametrize("option", ["--figures={}", "--out={}/page.html"])
def test_no_link_of_a_study_leads_out_of_it(study, outside, capsys, option):
  """Links: not even a folder that the user names, if the study holds it."""
  (study / "figures").symlink_to(outside)
  option = option.format(study / "figures")
  assert studies.call("report", study, option) == 2
  assert str(study / "figures") in capsys.readouterr().err


_TRAINING = {
  "trials": ("extend", "{study}", "--trials=9"),
  "trials/0007": ("extend", "{study}", "--trials=9"),
  "populations": ("rerun", "{study}", "--best", "--seeds=1"),
  "reruns": ("rerun", "{study}", "--best", "--seeds=1"),
  "reruns/0000": ("rerun", "{study}", "--trial=0", "--seeds=1"),
  ".lock": ("suggest", "{study}", "--trials=1"),
}


@pytest.mark.parametrize("name", _TRAINING)
def test_a_linked_folder_is_not_trained_in(study, outside, capsys, name):
  """Links: what trains in a study trains in no other place."""
  link = study / name
  shutil.rmtree(link, ignore_errors=True)
  link.unlink(missing_ok=True)
  link.parent.mkdir(exist_ok=True)
  link.symlink_to(outside / "profile" if name == ".lock" else outside)
  before = studies.files(study)
  words = [word.format(study=study) for word in _TRAINING[name]]
  assert studies.call("study", *words) == 2
  said = capsys.readouterr().err
  assert str(link) in said and "workdir" in said
  assert studies.files(study) == before


# Studies that cannot be written, and reports at the same time


@contextlib.contextmanager
def _no_overriding():
  """Has root stop at permissions, as everybody does."""
  if os.geteuid() != 0:
    yield
    return
  libc = ctypes.CDLL(None, use_errno=True)
  header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # capabilities, version 3
  before = (ctypes.c_uint32 * 6)()
  assert libc.capget(header, before) == 0
  without = type(before)(*before)
  without[0] &= ~0b110  # of what is effective: reading and writing anything
  assert libc.capset(header, without) == 0
  try:
    yield
  finally:
    assert libc.capset(header, before) == 0


@pytest.fixture
def unwritable(study):
  """The study, which cannot be written by whoever runs the tests."""
  folders = [study, *(path for path in study.rglob("*") if path.is_dir())]
  for folder in folders:
    folder.chmod(0o555)
  with _no_overriding():
    yield study
  for folder in folders:
    folder.chmod(0o755)


@pytest.mark.parametrize("part", ["", "trials/0000"])
def test_a_report_of_what_cannot_be_written(unwritable, tmp_path, capsys, part):
  """Reports: a study in a read-only folder is reported elsewhere."""
  before = studies.files(unwritable)
  path, out = unwritable / part, tmp_path / "page.html"
  assert studies.call("report", path) == 2
  said = capsys.readouterr()
  assert str(path) in said.err and "--out=FILE.html" in said.err
  assert studies.call("report", path, f"--out={out}") == 0
  assert f"report: {out}\n" in capsys.readouterr().out
  assert out.read_text().startswith("<!doctype html>")
  assert studies.files(unwritable) == before


@pytest.mark.parametrize(
  ("out", "sentence"),
  [
    ("{0}", "html"),
    ("{0}/none/page.html", "does not exist"),
    ("/proc/page.html", "cannot write"),
    ("{0}/study.json", "html"),
  ],
)
def test_a_page_has_its_place(study, capsys, out, sentence):
  """Reports: --out overwrites nothing but a page."""
  before = studies.files(study)
  assert studies.call("report", study, f"--out={out.format(study)}") == 2
  assert sentence in capsys.readouterr().err
  assert studies.files(study) == before


# Starts everything at the same moment, once all that is imported is imported.
_AT_ONCE = """
import json, multiprocessing, os, sys
from jaxplay import cli, report
from jaxplay.analysis import checklist, refine
from jaxplay.study import runners

def run(words, barrier):
  barrier.wait()
  sys.exit(cli.main(words))

commands = json.loads(sys.argv[1])
context = multiprocessing.get_context("fork")
barrier = context.Barrier(len(commands))
processes = [context.Process(target=run, args=(w, barrier)) for w in commands]
for process in processes: process.start()
for process in processes: process.join()
sys.exit(max(abs(process.exitcode) for process in processes))
"""


@pytest.mark.pods
def test_any_number_at_once(study, finished_study):
  """Reports: the elements of a job array may all end at the same moment."""
  assert studies.call("report", study) == 0
  names = ("findings.json", "next_study.py", "trials.csv")
  before = [(study / name).read_bytes() for name in names]
  path = finished_study.parent / "study.py"
  commands = [
    ["study", "run", str(path), f"--workdir={study}", f"--trials={i}"]
    for i in range(3)
  ] + [["report", str(study)]] * 3
  done = subprocess.run(
    [sys.executable, "-c", _AT_ONCE, json.dumps(commands)],
    cwd=runs.ROOT,
    capture_output=True,
    text=True,
    timeout=runs.HANG,
  )
  assert done.returncode == 0 and not done.stderr, done.stderr
  assert [(study / name).read_bytes() for name in names] == before
  assert (study / "report.html").read_text().rstrip().endswith("</html>")
  assert not list(study.rglob(".*.partial"))
