"""A run on disk: what was written is read, whatever broke in between."""

import errno
import json
import math
import os
import re
import resource
import subprocess
import sys
import threading

import numpy as np
import pytest

import jaxplay
from jaxplay import finding, rundir, storage
from jaxplay.rundir import writing


@pytest.fixture
def run(tmp_path):
  run = rundir.RunDir(tmp_path / "run")
  run.create()
  return run


def _refusal(function, *args):
  with pytest.raises(jaxplay.UserError) as caught:
    function(*args)
  message = str(caught.value)
  assert "\n" not in message
  return message


def test_before_the_run_began(tmp_path):
  """Names on disk: every read copes with the absence of what it reads."""
  run = rundir.RunDir(tmp_path / "none")
  assert run.config() is None and run.provenance() is None
  assert run.status() == {} and run.metrics() == [] and run.findings() == []
  assert not run.path.exists()


def test_names_on_disk(run):
  """Names on disk: other programs find the files under their stable names."""
  run.write_config({"b": {"z": 1, "a": (2, 3)}, "a": None})
  run.write_status("running", step=3)
  run.append_metrics([{"step": 1}])
  found = finding.Finding("check", "ok", "subject", {"n": 1}, "", "source")
  run.write_findings([found.as_json()])
  run.write_provenance({"host": "me"})
  run.write_predictions(12, logits=np.ones(3))
  names = sorted(
    path.relative_to(run.path).as_posix()
    for path in run.path.rglob("*")
    if path.is_file()
  )
  assert names == [
    "config.json",
    "findings.json",
    "metrics.jsonl",
    "predictions/00000012.npz",
    "provenance.json",
    "status.json",
  ]
  text = (run.path / "config.json").read_text()
  assert (
    json.loads(text) == run.config() == {"a": None, "b": {"a": [2, 3], "z": 1}}
  )
  # Keys are sorted, so that two configs can be compared line by line.
  assert [text.index(f'"{key}"') for key in "ab"] == sorted(
    text.index(f'"{key}"') for key in "ab"
  )
  assert run.status() == {"status": "running", "step": 3}
  assert run.findings() == [found.as_json()]
  np.testing.assert_array_equal(run.predictions(12)["logits"], np.ones(3))


def test_only_known_statuses(run):
  """Names on disk: diverged is infeasible, crashed is failed; no other word."""
  for status in rundir.STATUSES:
    run.write_status(status)
  with pytest.raises(ValueError, match="diverged"):
    run.write_status("diverged")
  assert run.status() == {"status": rundir.STATUSES[-1]}


# metrics.jsonl


def test_metrics_are_appended(run):
  """Names on disk: lines come back as they were written, in order."""
  lines = [{"step": 1, "train/loss": 0.1}, {"step": 2, "train/loss": 1 / 3}]
  run.append_metrics(lines[:1])
  run.append_metrics(lines[1:])
  assert run.metrics() == lines


@pytest.mark.parametrize("torn", ['{"step": 3, "tra', "{", '{"step": 3}'])
def test_a_torn_last_line_is_no_line(run, torn):
  """Resume: a line that a crash cut off, even just its end, is left out."""
  run.append_metrics([{"step": 1}, {"step": 2}])
  with open(run.path / "metrics.jsonl", "a") as file:
    file.write(torn)
  assert [line["step"] for line in run.metrics()] == [1, 2]
  run.rewind_metrics(2)
  run.append_metrics([{"step": 3}])
  assert [line["step"] for line in run.metrics()] == [1, 2, 3]


def test_rewind(run):
  """Resume: lines and predictions after the checkpoint are forgotten."""
  run.append_metrics([{"step": step, "x": 0.1} for step in (5, 10, 15, 20)])
  for step in (10, 20):
    run.write_predictions(step, a=np.zeros(1))
  run.rewind_metrics(10)
  assert run.metrics() == [{"step": 5, "x": 0.1}, {"step": 10, "x": 0.1}]
  kept = sorted(path.name for path in (run.path / "predictions").iterdir())
  assert kept == ["00000010.npz"]
  run.rewind_metrics(0)
  assert run.metrics() == []


def test_rewind_changes_no_line_that_stays(run):
  """Resume: not a byte of the earlier lines changes, nor any number."""
  run.append_metrics(
    [{"step": 1, "x": 0.1 + 0.2, "y": float("nan"), "z": 1e-7}]
  )
  before = (run.path / "metrics.jsonl").read_bytes()
  run.rewind_metrics(1)
  assert (run.path / "metrics.jsonl").read_bytes() == before


def test_what_is_not_finite_becomes_null(run):
  """Names on disk: NaN and infinity are not JSON; numpy numbers are."""
  line = {
    "step": np.int32(3),
    "a": float("nan"),
    "b": np.float32("inf"),
    "c": [1.5, -np.inf],
    "d": {"e": np.array([1.0, np.nan])},
    "f": np.float32(0.5),
    "g": np.bool_(True),
  }
  run.append_metrics([line])
  text = (run.path / "metrics.jsonl").read_text()

  def fail(constant):
    raise AssertionError(f"{constant} is not JSON")

  strict = json.loads(text, parse_constant=fail)
  assert strict == {
    "step": 3,
    "a": None,
    "b": None,
    "c": [1.5, None],
    "d": {"e": [1.0, None]},
    "f": 0.5,
    "g": True,
  }
  run.write_status("infeasible", final={"train/loss": float("nan")})
  assert run.status()["final"] == {"train/loss": None}


# best_line


def _lines(*values):
  return [{"step": 10 * i, "valid/loss": v} for i, v in enumerate(values, 1)]


def test_best_line_is_the_least_and_the_earliest():
  """G7: the best step has the least objective; of equals it is the earlier."""
  best = rundir.best_line(_lines(3.0, 1.0, 2.0, 1.0), "valid/loss")
  assert best == {"step": 20, "metric": "valid/loss", "value": 1.0}


def test_best_line_of_a_metric_that_is_maximized():
  """G7: the best step has the largest value; of equals it is the earlier."""
  lines = _lines(1.0, 3.0, None, 3.0, float("inf"))
  best = rundir.best_line(lines, "valid/loss", maximized=True)
  assert best == {"step": 20, "metric": "valid/loss", "value": 3.0}
  ranked = rundir.best_lines(lines, "valid/loss", maximized=True)
  assert [line["step"] for line in ranked] == [20, 40, 10]


def test_best_line_passes_over_what_is_not_finite():
  """G7: NaN, infinity and null are never best, wherever they stand."""
  nan, inf = float("nan"), float("inf")
  for values in [
    (nan, 2.0, 1.0),
    (2.0, nan, 1.0),
    (2.0, 1.0, nan),
    (2.0, None, 1.0),
    (-inf, 2.0, 1.0),
    (inf, nan, 1.0),
  ]:
    assert rundir.best_line(_lines(*values), "valid/loss")["value"] == 1.0


def test_best_line_of_nothing():
  """G7: without one finite objective there is no best step."""
  assert rundir.best_line([], "valid/loss") is None
  assert (
    rundir.best_line([{"step": 1, "train/loss": 1.0}], "valid/loss") is None
  )
  lines = _lines(float("nan"), None, float("inf"))
  assert rundir.best_line(lines, "valid/loss") is None


# Accidents.


def test_replace_keeps_the_old_until_the_new_is_whole(run):
  """Names on disk: a file is replaced, never rewritten where it stands."""
  run.write_status("running", step=1)
  with open(run.path / "status.json") as reader:
    run.write_status("running", step=2)
    assert json.load(reader)["step"] == 1
  with pytest.raises(TypeError):
    run.write_status("running", step=object())
  assert run.status()["step"] == 2


def test_a_reader_never_sees_half_a_file(run):
  """Names on disk: read at any moment, status.json is whole."""
  run.write_status("running", step=0)
  stop, seen = threading.Event(), set()

  def read():
    while not stop.is_set():
      status = run.status()
      seen.add(len(status["text"]) if "text" in status else 0)

  reader = threading.Thread(target=read)
  reader.start()
  try:
    for size in range(0, 200_000, 1000):
      run.write_status("running", text="x" * size)
  finally:
    stop.set()
    reader.join()
  assert len(seen) > 1 and seen <= {0, *range(0, 200_000, 1000)}


@pytest.mark.parametrize(
  "text", [b"", b'{"a": 1', b"\xff\xfe\x00", b"{'a': 1}"]
)
@pytest.mark.parametrize("name", ["config", "status", "provenance", "findings"])
def test_damaged_json(run, name, text):
  """Errors: a damaged file is named, with what to do; no traceback."""
  (run.path / f"{name}.json").write_bytes(text)
  message = _refusal(getattr(run, name))
  assert f"{name}.json" in message and "damaged" in message
  assert "workdir" in message


def test_a_damaged_line_of_metrics(run):
  """Errors: a broken line in the middle is told by its number."""
  run.append_metrics([{"step": 1}, {"step": 2}])
  with open(run.path / "metrics.jsonl", "ab") as file:
    file.write(b"\x00\x00\n")
  run.append_metrics([{"step": 3}])
  message = _refusal(run.metrics)
  assert "metrics.jsonl" in message and "line 3" in message


def test_a_file_in_the_way(tmp_path):
  """Errors: a workdir that cannot be made says so, and reads as empty."""
  (tmp_path / "file").write_text("")
  for path in (tmp_path / "file", tmp_path / "file" / "run"):
    run = rundir.RunDir(path)
    assert run.config() is None and run.metrics() == []
    assert repr(str(path)) in _refusal(run.create)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(tmp_path):
  """Errors: a workdir without permission is told before training starts."""
  tmp_path.chmod(0o500)
  for path in (tmp_path, tmp_path / "run"):
    message = _refusal(rundir.RunDir(path).create)
    assert "cannot write" in message and "denied" in message


def test_create_leaves_nothing_behind(run):
  """Names on disk: the check that a folder is writable leaves no file."""
  run.create()
  assert list(run.path.iterdir()) == []


# provenance.json


def test_provenance_lists_resumes(run):
  """G8: the first start stays, each later one is listed."""
  for host in ("first", "second", "third"):
    run.write_provenance({"host": host})
  assert run.provenance() == {
    "host": "first",
    "resumes": [{"host": "second"}, {"host": "third"}],
  }


def test_urls_that_cannot_be(monkeypatch):
  """Neither a bucket, nor what reads one: a sentence."""
  assert "neither a folder nor" in _refusal(rundir.at, "ftp://host/run")
  monkeypatch.setitem(sys.modules, "s3fs", None)
  assert "needs the package s3fs" in _refusal(rundir.RunDir, "s3://bucket/run")


def test_reading_needs_no_jax():
  """Idea 2: a laptop without JAX reads a pod's run."""
  code = "import sys; from jaxplay import rundir; print('jax' in sys.modules)"
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True
  )
  assert done.stdout.strip() == "False", done.stderr


# Links: a run directory may be from somebody else.


@pytest.fixture
def outside(tmp_path):
  """A file and a folder that a run directory has no business with."""
  folder = tmp_path / "outside"
  folder.mkdir()
  (folder / "file").write_text("mine\n")
  yield folder
  assert {p.name: p.read_text() for p in folder.iterdir()} == {"file": "mine\n"}


@pytest.mark.parametrize(
  "name", ["status.json", ".status.json.partial", ".writable"]
)
def test_a_link_is_replaced_and_not_followed(run, outside, name):
  """Links: what is written stays in the run directory."""
  (run.path / name).symlink_to(outside / "file")
  run.create()
  run.write_status("running", step=1)
  assert run.status() == {"status": "running", "step": 1}
  assert not (run.path / "status.json").is_symlink()


@pytest.mark.parametrize("name", [".lock", "metrics.jsonl"])
def test_no_link_grows(run, outside, name):
  """Links: files that are appended to are no links."""
  (run.path / name).symlink_to(outside / "file")

  def write():
    with run.lock():
      run.append_metrics([{"step": 1}])

  assert name in _refusal(write)
  assert name in _refusal(rundir.open_to_append, run.path / name)


@pytest.mark.parametrize(
  "name",
  ["checkpoints", "checkpoints/5", "predictions", "export", "trials", "sizes"],
)
def test_no_folder_is_elsewhere(run, outside, name):
  """Links: a folder in a run directory is in the run directory."""
  (run.path / name).parent.mkdir(exist_ok=True)
  (run.path / name).symlink_to(outside)
  for begin in (run.create, run.lock().__enter__):
    refusal = _refusal(begin)
    assert str(run.path / name) in refusal and "workdir" in refusal


def test_the_workdir_may_be_a_link(tmp_path):
  """Links: what the user names is where the user says; what is below is not."""
  (tmp_path / "disk").mkdir()
  (tmp_path / "run").symlink_to(tmp_path / "disk")
  rundir.RunDir(tmp_path / "run").create()
  part = rundir.RunDir(tmp_path / "run", tmp_path)
  assert str(tmp_path / "run") in _refusal(part.create)


def test_the_mode_of_a_file_is_the_umask_s(run):
  """Names on disk: others can read a run if the user's umask says so."""
  for mask, mode in ((0o022, 0o644), (0o077, 0o600)):
    before = os.umask(mask)
    try:
      run.write_status("running")
    finally:
      os.umask(before)
    assert (run.path / "status.json").stat().st_mode & 0o777 == mode


def test_a_write_that_breaks_leaves_nothing(run):
  """Links: neither half a file nor one under another name."""
  run.write_config({"a": 1})
  with pytest.raises(ZeroDivisionError):
    with rundir.replacing(run.path / "config.json") as file:
      file.write(b"half")
      1 / 0  # noqa: B018
  assert run.config() == {"a": 1}
  assert [path.name for path in run.path.iterdir()] == ["config.json"]


_WRITER = """
import pathlib, signal, sys
from jaxplay import rundir
with rundir.replacing(pathlib.Path(sys.argv[1])) as file:
  file.write(b"half")
  file.flush()
  print("writing", flush=True)
  signal.pause()
"""


def test_what_a_killed_process_left_is_removed(run):
  """Links: but not what another process is writing."""
  names = lambda: {path.name for path in run.path.iterdir()} - {".lock"}  # noqa: E731
  with subprocess.Popen(
    [sys.executable, "-c", _WRITER, run.path / "status.json"],
    stdout=subprocess.PIPE,
    text=True,
  ) as process:
    try:
      assert process.stdout.readline() == "writing\n"
      written = names()
      with run.lock():
        assert names() == written and len(written) == 1
    finally:
      process.kill()
  assert names() == written
  with run.lock():
    assert not names()


def test_an_interrupted_copy_of_a_folder_is_removed(run, monkeypatch):
  """Links: a checkpoint that a branch begins with is whole or not there."""
  (run.path / "old").mkdir()
  (run.path / "old" / "file").write_text("x")
  run.checkpoints.mkdir()

  class Killed(BaseException):
    pass

  def replace(*unused):
    raise Killed

  with monkeypatch.context() as patch:
    patch.setattr(os, "replace", replace)
    # A kill cleans nothing.
    patch.setattr(writing, "remove", lambda path: None)
    with pytest.raises(Killed):
      rundir.copy(run.path / "old", run.checkpoints / "5")
  assert len(list(run.checkpoints.iterdir())) == 1
  with run.lock():
    assert not list(run.checkpoints.iterdir())


_EDITS = {
  "none": lambda lines: lines,
  "later": lambda lines: [*lines, '{"step": 50}'],
  "cut": lambda lines: lines[:3],
  "emptied": lambda lines: [],
  "first lost": lambda lines: lines[1:],
  "one lost": lambda lines: lines[:2] + lines[3:],
  "one twice": lambda lines: lines[:2] + lines[1:],
  "exchanged": lambda lines: [lines[1], lines[0], *lines[2:]],
  "edited": lambda lines: [lines[0].replace("0.5", "0.4"), *lines[1:]],
  "damaged": lambda lines: [lines[0], lines[1][:-1], *lines[2:]],
  "all twice": lambda lines: lines * 2,
}


@pytest.mark.parametrize("edit", _EDITS)
def test_lines_that_a_checkpoint_promises(tmp_path, edit):
  """G7: lines lost, changed, doubled or exchanged under a checkpoint are seen.

  What comes after them does not matter: it is made again.
  """
  run = rundir.RunDir(tmp_path)
  lines = [{"step": step, "x": 0.5, "y": math.nan} for step in (10, 20, 30, 40)]
  run.append_metrics(lines)
  digest = rundir.Digest(lines).as_json()
  path = tmp_path / "metrics.jsonl"
  edited = _EDITS[edit](path.read_text().splitlines())
  path.write_text("".join(f"{line}\n" for line in edited))
  whole = edit in ("none", "later", "all twice")
  found = run.metrics_until(45, digest)
  assert found == (rundir.plain(lines) if whole else None)
  # Of older versions only the order, and the last line, are known.
  seen = {"cut", "emptied", "exchanged", "one twice", "damaged"}
  if edit in seen:
    assert run.metrics_until(45, None, due=40) is None
  # Of a finished run, nothing comes after them either.
  run.write_status("completed", step=40, lines=digest)
  if edit == "none":
    run.check_metrics()
  else:
    with pytest.raises(jaxplay.UserError, match="metrics.jsonl.*restore it"):
      run.check_metrics()


def test_a_line_is_appended_as_a_whole_or_not_at_all(tmp_path):
  """G7: a disk that is full in the middle of a line leaves no half of it."""
  run = rundir.RunDir(tmp_path)
  run.append_metrics([{"step": 1}])
  before = (tmp_path / "metrics.jsonl").read_bytes()
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 5, hard))
  try:
    with pytest.raises(OSError) as error:
      run.append_metrics([{"step": 2}])
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
  assert "ulimit -f" in str(storage.problem(error.value, run.path))
  assert (tmp_path / "metrics.jsonl").read_bytes() == before
  run.append_metrics([{"step": 2}])
  assert [line["step"] for line in run.metrics()] == [1, 2]


@pytest.mark.parametrize(
  "error, expected",
  [
    (OSError(errno.ENOSPC, "x", "/f"), "'/f'.*room there for.*free some"),
    (OSError(errno.EDQUOT, "x"), "free some"),
    (OSError(errno.ESTALE, "x"), "check the disk"),
    (OSError(errno.EROFS, "x"), "mount it"),
    (OSError(errno.EMFILE, "x"), "ulimit -n"),
    (ValueError("RESOURCE_EXHAUSTED: [os_error_code='28']"), "free some"),
    (FileNotFoundError(errno.ENOENT, "x", "/f"), "was removed"),
    (FileExistsError(errno.EEXIST, "x", "/f"), None),
    (OSError("disk on fire"), None),
    (ConnectionError("no route"), None),
    (ValueError("RESOURCE_EXHAUSTED: out of memory"), None),
    (AssertionError("loss is NaN"), None),
    (MemoryError(), None),
  ],
)
def test_what_is_an_error_of_storage(tmp_path, error, expected):
  """Errors: a full, lost or broken disk is told from a crash in one place."""
  gone = tmp_path / "gone"
  folder = gone if isinstance(error, FileNotFoundError) else tmp_path
  found = storage.problem(error, folder)
  if expected is None:
    assert found is None
    return
  assert re.search(f"{expected}.*same command", str(found))
  # What it was raised from counts, unless that is hidden.
  try:
    try:
      raise error
    except Exception as inner:
      raise RuntimeError("wrapped") from inner
  except RuntimeError as outer:
    assert re.search(expected, str(storage.problem(outer, folder)))
    outer.__cause__ = None
    assert storage.problem(outer, folder) is None
  # A folder that is there has lost a file at most.
  if folder == gone:
    assert storage.problem(error, tmp_path) is None


@pytest.mark.parametrize(
  "name", ["../x", "/x", "a/b", ".x", "..", "", "x\n", "a\0", None, 7]
)
def test_no_name_of_a_file_leads_elsewhere(tmp_path, name):
  """Names from files: of a folder, whatever sizes and studies are called."""
  path = tmp_path / "some.json"
  for shape, value in (
    (rundir.Name, name),
    (dict[rundir.Name, int], {name: 1}),
  ):
    refusal = _refusal(rundir.check_shape, path, value, shape, "$.sizes")
    assert str(path) in refusal and "$.sizes" in refusal
  for good in ("explore_1", "w32", "1-b.x+y"):
    rundir.check_shape(path, {good: 1}, dict[rundir.Name, int])
