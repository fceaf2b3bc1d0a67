"""What is printed: whatever a study says, and whatever a terminal can show."""

import io
import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from jaxplay import rundir, terminal
from tests.study import studies
from tests.training import runs

_CONTROL = re.compile(r"[^\S \n\t]|[\x00-\x08\x0e-\x1f\x7f-\x9f\u202e]")
_EVIL = "\x1b]0;title\x07\x1b[2J\x9b1A\rfine\u202egnp"
_AS_TEXT = r"\x1b]0;title\x07\x1b[2J\x9b1A\rfine\u202egnp"
_NO_TEXT = os.fsdecode(b"d\xff\xc3\xa9")  # of a folder; no UTF-8


@pytest.mark.parametrize(
  ("text", "encoding", "shown"),
  [
    ("plain, 95 %\n\ttab\n", "ascii", "plain, 95 %\n\ttab\n"),
    (_EVIL, "utf-8", _AS_TEXT),
    ("Hägele ± 1", "utf-8", "Hägele ± 1"),
    ("Hägele ± 1", "ascii", r"H\xe4gele \xb1 1"),
    (_NO_TEXT, "utf-8", r"d\udcffé"),
    ("\x00\x7f", "ascii", r"\x00\x7f"),
    ("نص 文", "utf-8", "نص 文"),
  ],
)
def test_as_text(text, encoding, shown):
  """Terminals: nothing but text, tabs and newlines; once is enough."""
  assert terminal.as_text(text, encoding) == shown
  assert terminal.as_text(shown, encoding) == shown


def test_streams_are_given_back(monkeypatch):
  """Terminals: outside of a verb nothing is changed."""
  out, err = io.StringIO(), io.TextIOWrapper(io.BytesIO(), "ascii")
  monkeypatch.setattr(sys, "stdout", out)
  monkeypatch.setattr(sys, "stderr", err)
  with terminal.shown_as_text():
    print("\x1b", end="")
    print("é\r", end="", file=sys.stderr, flush=True)
    terminal.stderr().write("\r")
  assert (sys.stdout, sys.stderr) == (out, err)
  err.flush()
  assert (
    out.getvalue() == r"\x1b" and err.buffer.getvalue() == rb"\xe9\r" + b"\r"
  )


_READING = (
  ("study", "status", "{study}"),
  ("study", "list", "{study}"),
  ("study", "list", "{study}", "--csv"),
  ("export", "{study}", "--csv={study}/exported.csv"),
  ("compare", "{study}", "{study}", "--log={study}/LOG.md"),
  ("report", "{study}", "--figures={study}/figures"),
  ("report", "{study}/trials/0000"),
)


def _commands(study):
  return [[word.format(study=study) for word in words] for words in _READING]


def test_nothing_that_a_study_says_is_obeyed(finished_study, tmp_path, capsys):
  """Terminals: goal, notes, command, reasons and names are shown as text."""
  study = shutil.copytree(finished_study, tmp_path / f"study{_EVIL}")
  file = study / "study.json"
  changed = dict.fromkeys(("goal", "notes", "config_file"), f"a {_EVIL}")
  changed["command"] = ["jaxplay", _EVIL]
  changed["goal"] += "\nbest valid/error_rate 0"
  file.write_text(json.dumps(json.loads(file.read_text()) | changed))
  for index, status in ((0, "failed"), (1, "infeasible")):
    studies.trial(study, index).write_status(status, reason=_EVIL, failures=2)
  commands = _commands(study)
  commands += [["study", "extend", str(study), "--trials=8"], ["repo\x1brt"]]
  for words in commands:
    code = studies.call(*words)
    assert code == {"extend": 1, "repo\x1brt": 2}.get(words[:2][-1], 0)
    said = "".join(capsys.readouterr())
    assert said and not _CONTROL.search(said), words
    assert "\nbest valid/error_rate 0\n" not in said, words
    if words[:2] in (["study", "list"], ["study", "extend"]):
      assert _AS_TEXT in said


_IN_ORDER = """
import json, sys
from jaxplay import cli
commands, study = json.loads(sys.argv[1]), sys.argv[2]
print([cli.main([w.format(study=study) for w in c]) for c in commands])
"""


@pytest.mark.slow
def test_names_that_are_no_text(finished_study, tmp_path):
  """Terminals: a folder may have any name, and a terminal know only ASCII."""
  study = shutil.copytree(finished_study, tmp_path / _NO_TEXT)
  file = study / "study.json"
  changed = {"command": ["jaxplay", _NO_TEXT], "config_file": _NO_TEXT}
  file.write_text(json.dumps(json.loads(file.read_text()) | changed))
  done = subprocess.run(
    [sys.executable, "-c", _IN_ORDER, json.dumps(_READING), study],
    cwd=runs.ROOT,
    env=os.environ
    | {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    | {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    capture_output=True,
    timeout=runs.HANG,
  )
  said, errors = done.stdout.decode("ascii"), done.stderr.decode("ascii")
  assert said.split("\n")[-2] == str([0] * len(_READING)), errors
  assert r"d\udcff\udcc3\udca9" in said and "Traceback" not in errors
  written = ("*.json", "*.csv", "*.py", "*.html", "*.md", "*.svg")
  files = [path for kind in written for path in study.glob(kind)]
  files += list((study / "figures").iterdir())
  assert len(files) > len(written)
  for path in files:
    assert path.read_text("utf-8")


@pytest.mark.parametrize("verb", ["train", "study", "plan"])
def test_training_needs_a_name_that_is_text(tmp_path, capsys, verb):
  """Terminals: where checkpoints cannot be written, nothing is."""
  study, workdir = studies.write(tmp_path), tmp_path / _NO_TEXT
  config = f"--config={tmp_path / 'config.py'}"
  words = {
    "train": ["train", config],
    "study": ["study", "run", study],
    "plan": ["plan", "steps", config],
  }
  assert studies.call(*words[verb], f"--workdir={workdir}") == 2
  said = capsys.readouterr().err
  assert r"d\udcff" in said and "workdir" in said and not workdir.exists()


def test_text_files_are_utf8(tmp_path):
  """Terminals: names that are no text are written as Python writes them."""
  path = tmp_path / "file.md"
  rundir.write_text(path, f"é {_NO_TEXT}\n")
  assert path.read_text("utf-8") == "é d\\udcffé\n"
