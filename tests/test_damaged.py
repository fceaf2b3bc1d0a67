"""Damaged files: every verb says so in a sentence, or its result is the same.

Whatever comes of it, no other file changes, and nothing ends in a traceback.
"""

import json
import os
import re
import shutil

import msgspec
import numpy as np
import pytest

from jaxplay import rundir
from jaxplay.analysis import results as results_lib
from jaxplay.playbook import phase
from jaxplay.playbook import result as result_lib
from jaxplay.playbook.batch_size import throughput
from jaxplay.scaling import ladder
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib
from tests.scaling import ladders
from tests.study import studies

# What readers write anew, of what they have read.
_DERIVED = (
  *("report.html", "findings.json", "next_study.py", "trials.csv"),
  *("comparison.html", "table.csv"),
)
_TABLE = "table.csv"
_BEST = "trials/BEST"


# Ways in which a file can be damaged, as JSON or not.


def _other(change):
  """Damages the bytes of a file."""
  return lambda path: path.write_bytes(change(path.read_bytes()))


def _folder(path):
  path.unlink()
  path.mkdir()


def _pipe(path):
  path.unlink()
  os.mkfifo(path)


def _first_number(text):
  return lambda data: re.sub(rb": [0-9.e+-]+", b": " + text, data, count=1)


def _twice(data):
  """The first key once more."""
  key = re.search(rb'"[^"]+": ', data)[0]
  return data.replace(key, key + b"7, " + key, 1)


BYTES = {
  "empty": _other(lambda data: b""),
  "blank": _other(lambda data: b" \n"),
  "half": _other(lambda data: data[: len(data) // 2]),
  "zeros": _other(lambda data: bytes(len(data))),
  "no UTF-8": _other(lambda data: data.replace(b'"', b"\xff", 1)),
  "a list": _other(lambda data: b"[]\n"),
  "null": _other(lambda data: b"null\n"),
  "a word": _other(lambda data: b'"word"\n'),
  "NaN": _other(_first_number(b"NaN")),
  "infinite": _other(_first_number(b"1e999")),
  "many digits": _other(_first_number(b"9" * 5000)),
  "a key twice": _other(_twice),
  "deep": _other(lambda data: b"[" * 100_000 + b"\n"),
  "rather deep": _other(lambda data: b'{"a":' * 400 + b"1" + b"}" * 400),
  "long": _other(lambda data: b'{"a": "' + b"x" * 10**7 + b'"}\n'),
  "folder": _folder,
  "pipe": _pipe,
}


def _put(place, value):
  """Another value, or none, at a place of a JSON file: "space.0.low"."""

  def damage(path):
    content = json.loads(path.read_text())
    *above, last = [int(p) if p.isdecimal() else p for p in place.split("/")]
    inner = content
    for part in above:
      inner = inner[part]
    if value is _GONE:
      del inner[last]
    else:
      inner[last] = value
    path.write_text(json.dumps(content))

  return damage


_GONE = object()

OF_STUDY = {
  f"{place} = {'gone' if value is _GONE else value!r}": _put(place, value)
  for place, value in [
    ("num_trials", 0),
    ("num_trials", "8"),
    ("num_trials", 10**30),
    ("num_trials", 10**9),
    ("num_trials", _GONE),
    ("seed", -1),
    ("seed", 0.5),
    ("seed", True),
    ("algorithm", "hltn"),
    ("algorithm", "explicit"),
    ("objective", 3),
    ("objective", "worst:valid/loss"),
    ("space", {}),
    ("space/0/kind", "flot"),
    ("space/0/low", "0.1"),
    ("space/0/low", 1e300),
    ("space/0/low", -1),
    ("space/0/high", _GONE),
    ("space/0/scale", "lg"),
    ("space/0/role", "main"),
    ("space/0/when", []),
    ("space/0/key", 3),
    ("config", []),
    ("config/objective", _GONE),
    ("config/max_train_steps", None),
    ("config/seed", "0"),
    ("config/hparams", 3),
    ("overrides", None),
    ("points", {}),
    ("goal", 7),
    ("command", "jaxplay"),
    ("suggested", [{"after": 99, "points": [{}]}]),
    ("suggested", [{"after": -1, "points": []}]),
    ("suggested", [{"after": 2, "points": [{"x": 1}]}]),
    ("suggested", [{"after": 2}]),
  ]
}

OF_STATUS = {
  f"{place} = {'gone' if value is _GONE else value!r}": _put(place, value)
  for place, value in [
    ("status", "done"),
    ("status", 5),
    ("status", _GONE),
    ("step", -1),
    ("step", "24"),
    ("best", {"step": 8}),
    ("best/value", "low"),
    ("best/value", 0.0),
    ("final", []),
    ("final/train|loss", "x"),
    ("chance/num_valid", -1),
    ("chance/majority_error_rate", 7),
    ("reason", 3),
    ("seconds", -5),
  ]
}
OF_CONFIG = {
  f"{place} = {'gone' if value is _GONE else value!r}": _put(place, value)
  for place, value in [
    ("seed", "0"),
    ("max_train_steps", 0),
    ("hparams", None),
    ("hparams/learning_rate", "0.1"),
    ("dataset", []),
    ("model/width", "8"),
    ("objective", 3),
  ]
}


def _lines(change):
  """Damages the lines of metrics.jsonl."""

  def damage(path):
    lines = path.read_text().splitlines()
    path.write_text("".join(line + "\n" for line in change(lines)))

  return damage


OF_METRICS = {
  "twice": _lines(lambda lines: lines + lines),
  "a line twice": _lines(lambda lines: [lines[0], *lines]),
  "backwards": _lines(lambda lines: lines[::-1]),
  "without its end": _lines(lambda lines: lines[:-1]),
  "no step": _lines(lambda lines: ['{"train/loss": 1.0}', *lines]),
  "half a step": _lines(lambda lines: ['{"step": 0.5}', *lines]),
  "a word for a number": _lines(
    lambda lines: ['{"step": 1, "train/loss": "low"}', *lines]
  ),
  "a list for a number": _lines(
    lambda lines: ['{"step": 1, "train/loss": [1]}', *lines]
  ),
}


@pytest.fixture(scope="module")
def intact(finished_study, tmp_path_factory):
  """A study without its checkpoints; its best trial was run again."""
  folder = tmp_path_factory.mktemp("intact") / "root"
  large = shutil.ignore_patterns("checkpoints*", "export", "log.txt")
  study = shutil.copytree(finished_study, folder / "study", ignore=large)
  shutil.copytree(study, folder / "another")
  best = results_lib.read_study(study).ranked[0].index
  rerun = study / "reruns" / f"{best:04d}" / "1"
  shutil.copytree(study / "trials" / f"{best:04d}", rerun)
  _put("seed", 1)(rerun / "config.json")
  file = finished_study.parent / "study.py"
  return study, file, best, {}


def _verbs(study, file, best, pages):
  """Command lines that read a study, or its best trial."""
  trial = study / "trials" / f"{best:04d}"
  quiet = "--no_report"
  found = {
    "status": ("study", "status", study),
    "list": ("study", "list", study.parent),
    "export": ("export", study, f"--csv={study.parent / _TABLE}"),
    "compare": ("compare", study, study.parent / "another", "--json"),
    "extend": ("study", "extend", study, "--trials=8", quiet),
    "run": ("study", "run", file, f"--workdir={study}", quiet),
    "rerun": ("study", "rerun", study, "--best", "--seeds=1", quiet),
    "report run": ("report", trial),
    "train": ("train", f"--config={trial}/config.json", f"--workdir={trial}"),
    "branch": ("branch", trial, "--step=8", f"--workdir={study}/branch"),
  }
  if pages:
    found["report"] = ("report", study)
  return found


def _others(root, damaged):
  """Content of what is neither damaged nor derived."""
  return {
    path.relative_to(root): path.read_bytes()
    for path in sorted(root.rglob("*"))
    if path.is_file()
    and path != damaged
    and path.name not in _DERIVED
    # What says who holds a run is empty.
    and path.name != ".lock"
  }


def _check(intact, tmp_path, capsys, name, damage, *, pages=False, verbs=None):
  """Damages a file of a study, and calls every verb, or some of them.

  Returns:
    Verb -> (exit code, output).
  """
  whole, file, best, usual = intact
  root = shutil.copytree(whole.parent, tmp_path / "root")
  study = root / whole.name
  name = name.replace("BEST", f"{best:04d}")

  def said(command):
    (root / _TABLE).unlink(missing_ok=True)  # Nothing is overwritten.
    code = studies.call(*command)
    captured = capsys.readouterr()
    both = captured.out, captured.err
    return code, *(text.replace(str(root), "ROOT") for text in both)

  commands = {
    verb: command
    for verb, command in _verbs(study, file, best, pages).items()
    if verbs is None or verb in verbs
  }
  for verb, command in commands.items():
    if verb not in usual:  # Of the intact one, once.
      usual[verb] = said(command)
      assert usual[verb][0] == (2 if verb == "branch" else 0), usual[verb]
  path = study / name
  damage(path)
  before = _others(root, path)
  found = {}
  for verb, command in commands.items():
    code, out, err = said(command)
    assert "Traceback" not in err, f"{verb}: {err}"
    told = out + err
    if (code, out, err) != usual[verb]:
      assert code in (0, 1, 2), f"{verb}: {told}"
      # The file, or the run that it is of, is named.
      names = [path.name, "/".join(name.split("/")[:-1]) or "study.json"]
      names += ["config."] * (verb == "train")  # The key, of its own argument.
      assert any(part in told for part in names), f"{verb}: {told}"
    if code == 2:
      assert err.startswith("jaxplay: ") and err.count("\n") == 1, err
    assert _others(root, path) == before, verb
    found[verb] = code, told
  return found


@pytest.mark.slow
@pytest.mark.parametrize("damage", [*BYTES, *OF_STUDY])
def test_a_damaged_study_is_refused_and_the_others_listed(
  intact, tmp_path, capsys, damage
):
  """Every reader of study.json: file, place and what to do."""
  change = (BYTES | OF_STUDY)[damage]
  found = _check(intact, tmp_path, capsys, "study.json", change, pages=True)
  for verb in ("status", "export", "report", "extend", "run", "compare"):
    code, told = found[verb]
    assert code == 2 and "study.json" in told and "restore" in told, told
  code, told = found["list"]
  assert code == 1 and "ROOT/another" in told and "damaged" in told


_OF_TRIAL = [
  *(("config.json", name, BYTES[name]) for name in BYTES),
  *(("config.json", name, change) for name, change in OF_CONFIG.items()),
  *(("status.json", name, BYTES[name]) for name in BYTES),
  *(("status.json", name, change) for name, change in OF_STATUS.items()),
  *(("metrics.jsonl", name, BYTES[name]) for name in BYTES),
  *(("metrics.jsonl", name, change) for name, change in OF_METRICS.items()),
]


@pytest.mark.slow
@pytest.mark.parametrize(
  "file, damage", [pytest.param(f, d, id=f"{f} {n}") for f, n, d in _OF_TRIAL]
)
def test_a_damaged_trial_is_left_out(intact, tmp_path, capsys, file, damage):
  """The study without it, and a sentence on it; nothing is chosen then."""
  # One file is damaged in every way for one verb of each reader, and in some
  # for all of them.
  verbs = None
  if damage in BYTES.values() and damage not in _FOR_ALL:
    verbs = ("status", "rerun", "report run", "train")
  name = f"{_BEST}/{file}"
  found = _check(intact, tmp_path, capsys, name, damage, verbs=verbs)
  for verb in ("status", "export", "list", "compare"):
    code, told = found.get(verb, found["status"])
    assert code == 0 and _is_told(told), told
  code, told = found["rerun"]  # Of the best, which it might have been.
  assert code == 2 and "restore" in told, told


_FOR_ALL = [BYTES[name] for name in ("half", "a list", "NaN", "folder")]


def _is_told(told):
  return "left out" in told or "trained other values" in told


@pytest.mark.parametrize(
  "file, damage",
  [
    ("config.json", BYTES["half"]),
    ("config.json", OF_CONFIG["model/width = '8'"]),
    ("status.json", BYTES["zeros"]),
    ("metrics.jsonl", BYTES["empty"]),
  ],
)
def test_the_report_says_which_trials_are_left_out(
  intact, tmp_path, capsys, file, damage
):
  """A finding that is never ok; the page is written with the other trials."""
  name = f"{_BEST}/{file}"
  found = _check(intact, tmp_path, capsys, name, damage, pages=True)
  code, told = found["report"]
  assert code == 0 and _is_told(told)
  study = tmp_path / "root" / "study"
  findings = json.loads((study / "findings.json").read_text())
  (row,) = [f for f in findings if f["check"] == "trials_match_study"]
  assert row["verdict"] == "fail"
  assert f"{intact[2]:04d}" in json.dumps(row["evidence"]) or (
    str(intact[2]) in row["evidence"]["different"]
  )
  assert row["advice"] in (study / "report.html").read_text() or file


@pytest.mark.parametrize(
  "name, damage",
  [
    ("provenance.json", "half"),
    ("provenance.json", "folder"),
    (f"{_BEST}/provenance.json", "a list"),
    (f"{_BEST}/provenance.json", "deep"),
    ("reruns/BEST/1/config.json", "half"),
    ("reruns/BEST/1/status.json", "a word"),
    ("reruns/BEST/1/metrics.jsonl", "NaN"),
    ("findings.json", "zeros"),
    ("trials.csv", "folder"),
    ("trials/0000/predictions/x.npz", None),
  ],
)
def test_other_damaged_files(intact, tmp_path, capsys, name, damage):
  """Provenance, reruns, and what nobody reads."""

  def strange(path):
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"no archive")

  _check(intact, tmp_path, capsys, name, BYTES.get(damage, strange))


@pytest.mark.parametrize("damage", BYTES)
@pytest.mark.parametrize("name", ["ladder.json", "sizes/w64/counts.json"])
def test_a_damaged_ladder_is_refused(tmp_path, capsys, name, damage):
  """S1: `scaling fit` and `report` of a ladder."""
  ladders.make(tmp_path, widths=(32, 64), steps=(500,))
  BYTES[damage](tmp_path / name)
  before = _others(tmp_path, tmp_path / name)
  for verb in (("scaling", "fit", tmp_path), ("report", tmp_path)):
    assert studies.call(*verb) == 2
    told = capsys.readouterr().err
    assert name.split("/")[-1] in told and told.count("\n") == 1
    assert _others(tmp_path, tmp_path / name) == before


# Of every file that is read, what it holds, and its type.
_PHASE = {
  **{"name": "steps", "said": ["all"], "settings": {}, "findings": []},
  **{"data": {"length": 3}, "spent": 1.5, "seconds": 2.5, "page": ""},
}
_SPREAD = {"mean": 0.5, "std": None, "values": [0.5], "trial": 0.25}
SHAPES = {
  "plan.json": (
    result_lib.PlanFile,
    {"question": "steps", "options": {"a": 1}, "config": None, "command": []},
  ),
  "01_steps.json": (phase.PhaseFile, _PHASE),
  "0.json": (throughput.Pass, {"loop_seconds": 0.5, "bytes": None}),
  "final.json": (
    study_lib.FinalFile,
    {
      **{"date": "2026-01-01", "trial": 3, "num_trials": 8, "adaptive": False},
      **{"point": {"x": 0.5}, "objective": "best valid/loss", "seeds": [1]},
      **{"diverged": 0, "valid": _SPREAD, "commit": "", "command": "jaxplay"},
      "folded": {
        **{"date": "2026-01-01", "command": "jaxplay", "schedule": "cosine"},
        **{"steps": 8, "of_steps": 8, "best_steps": [8], "at_steps": None},
        **{"seeds": [1], "diverged": 0, "unmeasured": ["overfitting"]},
        "examples": {"train": 9, "valid": 1},
        "test": {"test/loss": {"mean": 0.5, "std": None, "values": [0.5]}},
      },
    },
  ),
  "findings.json": (
    list[rundir.FindingRow],
    [
      {
        **{"check": "a", "verdict": "ok", "subject": "b"},
        **{"evidence": {"n": 1}, "advice": "", "source": "c"},
      }
    ],
  ),
  "counts.json": (ladder.Counts, ladders.counts(64)),
  "init.json": (
    rundir.Init,
    {
      **{"source": "a/run", "sha256": "0", "step": 3, "weights": "raw"},
      **{"loaded": {"a": "b"}, "skipped": {"c": "why"}, "left": ["d"]},
    },
  ),
  "provenance.json": (rundir.Provenance, {"host": "a", "command": ["b"]}),
  "status.json": (rundir.RunStatus, {"status": "running", "step": 3}),
  "checkpoints.json": (
    rundir.Packed,
    {"population": "trials-0000", "place": 3, "study": "/a/study"},
  ),
}


@pytest.mark.parametrize("name", SHAPES)
def test_every_file_has_a_shape(tmp_path, name):
  """What is damaged in any way is told with its file; what is not, is kept."""
  shape, content = SHAPES[name]
  path = tmp_path / name
  for damage in (*BYTES.values(), None):
    if path.is_dir():
      path.rmdir()
    path.unlink(missing_ok=True)
    rundir.write_json(path, content)
    if damage is None:
      assert rundir.read_json(path, shape) == content
      continue
    whole = path.read_bytes()
    damage(path)
    if path.is_file() and path.read_bytes() == whole:
      continue  # It has no number.
    if name in ("0.json", "provenance.json", "findings.json"):
      # A list of nothing is a list, and an object may have other keys.
      if path.is_file() and path.read_bytes()[:7] in (b"[]\n", b'{"a": "'):
        continue
    with pytest.raises(rundir.Damaged, match=re.escape(name)):
      rundir.read_json(path, shape)


def test_predictions_are_arrays(tmp_path):
  """No pickle is loaded, which could run anything, and no torn archive."""
  run = rundir.RunDir(tmp_path)
  run.write_predictions(8, logits=np.ones((4, 3)))
  path = tmp_path / "predictions" / "00000008.npz"
  whole = path.read_bytes()
  for data in (b"", whole[:60], whole[:-30], b"x" * 99, bytes(len(whole))):
    path.write_bytes(data)
    with pytest.raises(rundir.Damaged, match="00000008.npz"):
      run.predictions(8)
  with path.open("wb") as file:
    np.savez(file, logits=np.array([{}], object))
  with pytest.raises(rundir.Damaged, match="pickle"):
    run.predictions(8)


def test_a_later_version_may_add_keys(intact, tmp_path):
  """Files of a later version are read; their further keys are kept."""
  study = shutil.copytree(intact[0], tmp_path / "study")
  for name in ("study.json", f"trials/{intact[2]:04d}/status.json"):
    _put("later", {"x": [1]})(study / name)
  content = study_lib.StudyDir(study).study()
  assert content["later"] == {"x": [1]}
  assert results_lib.doubts(results_lib.read_study(study)) == {}


def test_shapes_name_what_is_wrong():
  """The place in the file is in the sentence."""
  rows = space_lib.Space({"a": space_lib.Float(0.1, 1)}).as_json()
  msgspec.convert(rows, list[space_lib.Row], strict=True)
  with pytest.raises(rundir.Damaged, match=r"\$\[0\]\.low: expected float"):
    rundir.check_shape("x", [rows[0] | {"low": "1"}], list[space_lib.Row])
