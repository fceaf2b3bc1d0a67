"""Runners: each trial exactly once, whatever happens to whom."""

import contextlib
import errno
import json
import os
import pathlib
import shutil
import signal

import pytest

import jaxplay
from jaxplay import cli, rundir, terminal
from jaxplay.study import runners
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib
from tests.study import studies
from tests.training import runs

_STEPS = list(range(4, 25, 4))  # of the lines that a tiny trial logs
_RATE = "hparams.learning_rate"
_GROUPS = {
  "model.norm": space_lib.Choice(("none", "layer"), role="scientific"),
  **studies.RATES,
}


def _points(*rates):
  points = [{_RATE: rate} for rate in rates]
  return dict(algorithm="explicit", points=points, space=None, num_trials=0)


def _run(path, study, *more):
  return studies.call("study", "run", path, f"--workdir={study}", *more)


def _assert_once(study, indices, steps=_STEPS):
  """Each trial was begun once, and logged each line once."""
  for index in indices:
    run = studies.trial(study, index)
    assert run.provenance()["resumes"] == []
    assert [line["step"] for line in run.metrics()] == steps


def _trials(study):
  """Files of the trials, without the locks, which are only touched."""
  found = studies.files(pathlib.Path(study) / "trials")
  return {path: v for path, v in found.items() if path.name != ".lock"}


def test_everything_is_done_once(finished_study, tmp_path, capsys):
  """Killed at any moment, run again: of a finished study there is nothing."""
  study = finished_study
  statuses = studies.statuses(study)
  assert set(statuses) == {"completed", "infeasible"} and len(statuses) == 8
  done = [i for i, status in enumerate(statuses) if status == "completed"]
  _assert_once(study, done)
  assert not list(study.glob("populations/*/members.json"))
  before = _trials(study)
  assert _run(study.parent / "study.py", study, "--no_report") == 0
  assert "nothing to run" in capsys.readouterr().out
  assert _trials(study) == before


@pytest.mark.slow
def test_a_program_for_each_static_config(tmp_path, capsys):
  """Trials that differ in static config form groups, one compilation each."""
  path = studies.write(tmp_path, space=_GROUPS, num_trials=5)
  assert _run(path, tmp_path / "study", "--no_report") == 0
  output = capsys.readouterr().out
  assert output.count("in 1 population of") == 2
  assert "trials 5/5" in output and "5 trials: 5 completed" in output
  _assert_once(tmp_path / "study", range(5))


def test_an_infeasible_trial_is_never_run_again(tmp_path, capsys):
  """A diverged trial is a result; a study of nothing else has a report."""
  path = studies.write(tmp_path, **_points(1e30, 3e30))
  study = tmp_path / "study"
  assert _run(path, study) == 0
  assert studies.statuses(study) == ["infeasible"] * 2
  assert "2 trials: 2 infeasible" in capsys.readouterr().out
  before = _trials(study)
  assert _run(path, study, "--retry_failed") == 0
  assert _trials(study) == before
  assert "nothing to run" in capsys.readouterr().out
  # Before the first evaluation, so that nobody logged the objective.
  assert "valid/error_rate" not in str(studies.trial(study, 0).metrics())
  assert (study / "report.html").exists()
  assert studies.call("study", "status", study) == 0
  assert studies.call("study", "list", tmp_path) == 0
  table = f"--csv={tmp_path / 'table.csv'}"
  assert studies.call("export", study, table) == 0


@pytest.mark.parametrize(
  "text, indices",
  [
    ("2", [2]),
    (":2", [0, 1]),
    ("2:", [2, 3]),
    ("1:3", [1, 2]),
    (":", [*range(4)]),
  ],
)
def test_slices(tmp_path, text, indices):
  """C5: `--trials` runs those, as they would have run with the others."""
  path = studies.write(tmp_path, overrides={"max_train_steps": 4})
  assert _run(path, tmp_path / "study", f"--trials={text}") == 0
  begun = sorted(p.name for p in (tmp_path / "study" / "trials").iterdir())
  assert begun == [f"{index:04d}" for index in indices]
  _assert_once(tmp_path / "study", indices, [4])


@pytest.mark.parametrize(
  "text", ["x", "4", "0:5", "3:2", "2:2", "-1", "-3:2", "1:2:3", "0.5", ""]
)
def test_slices_that_are_none(tmp_path, capsys, text):
  """One sentence, and no study is made."""
  path = studies.write(tmp_path)
  assert (
    _run(path, tmp_path / "study", f"--trials={text}") == cli.common.EXIT_WRONG
  )
  error = capsys.readouterr().err
  assert "--trials" in error and error.count("\n") == 1
  assert not (tmp_path / "study").exists()


def _crashing(tmp_path, **fields):
  """A study of which trial 0 crashes at its first evaluation."""
  path = studies.write(tmp_path, overrides={"num_predictions": 4}, **fields)
  run = studies.trial(tmp_path / "study", 0)
  run.create()
  (run.path / "predictions").touch()  # Where a folder has to be.
  return path, tmp_path / "study", run


@pytest.mark.slow
def test_a_crash_is_tried_twice_and_told(tmp_path, capsys):
  """A crashed group is tried once more, then reported; the others finish."""
  path, study, run = _crashing(tmp_path, space=_GROUPS)
  norms = [point["model.norm"] for point in _study_points(path)]
  crashed = [norm == norms[0] for norm in norms]
  assert 0 < sum(crashed) < 4
  assert _run(path, study, "--no_report") == cli.common.EXIT_FAILED
  output = capsys.readouterr().out
  expected = ["failed" if c else "completed" for c in crashed]
  assert studies.statuses(study) == expected
  assert run.status()["failures"] == 2
  assert output.count("trials crashed: FileExistsError") == 2
  assert "trials/0000 crashed: FileExistsError" in output
  assert "--retry_failed" in output
  _assert_once(study, [i for i in range(4) if not crashed[i]])
  # It waits for a person.
  before = _trials(study)
  assert _run(path, study, "--no_report") == cli.common.EXIT_FAILED
  assert _trials(study) == before
  (run.path / "predictions").unlink()
  words = studies.pasted(output)  # B12.
  assert words[-2:] == ["--no_report", "--retry_failed"]
  assert studies.call(*words) == 0
  assert studies.statuses(study) == ["completed"] * 4
  assert [line["step"] for line in run.metrics()] == _STEPS


def _study_points(path):
  definition, _ = study_lib.load(path)
  return study_lib._sample(definition)


def test_a_crash_leaves_what_others_run(tmp_path):
  """Crashing, a runner writes about its own trials only."""
  path, study, _ = _crashing(tmp_path)
  other = studies.trial(study, 1)
  other.create()
  other.write_status("running", step=4)
  with other.lock():
    assert _run(path, study, "--no_report") == cli.common.EXIT_FAILED
  assert studies.statuses(study) == ["failed", "running", "failed", "failed"]
  assert other.status() == {"status": "running", "step": 4}


def test_one_population_crashes_for_itself(tmp_path):
  """Of many populations in a group, those after a crash still run."""
  jobs, trained = _jobs(tmp_path, 4), []

  class Group:
    """Two at a time; the first two crash."""

    size = 2

    def train(self, configs, runs_, folder, progress):
      if runs_[0].path.name == "0000":
        raise OSError("disk on fire")
      for run in runs_:
        run.write_status("completed")
        trained.append(run.path.name)
      return True

    def close(self):
      trained.append("closed")

  assert runners.run_populations(
    jobs,
    study=tmp_path,
    make_group=lambda configs: Group(),
    progress=runners.Progress(jobs, runs.Quiet()),
    tell=lambda sentence: None,
  )
  # In the second attempt the first two crash again, alone.
  assert trained == ["0002", "0003", "closed", "closed"]
  assert [job.failures() for job in jobs] == [2, 2, 0, 0]
  assert "disk on fire" in jobs[1].run.status()["reason"]


@pytest.mark.parametrize("full", [True, False])
def test_an_error_deletes_nothing_of_a_population(tmp_path, full):
  """G7: after a full disk, or a crash, what was saved is gone on with."""
  jobs, found = _jobs(tmp_path, 2), []

  class Group:
    """Saves something, and then the disk is full, or it crashes."""

    size = 2

    def train(self, configs, runs_, folder, progress):
      found.append((folder / "8").exists())
      (folder / "8").mkdir(parents=True, exist_ok=True)
      error = OSError(errno.ENOSPC if full else errno.EEXIST, "no", "FILE")
      raise ValueError("orbax failed") from error

    def close(self):
      pass

  def run():
    return runners.run_populations(
      jobs,
      study=tmp_path,
      make_group=lambda configs: Group(),
      progress=runners.Progress(jobs, runs.Quiet()),
      tell=lambda sentence: None,
    )

  if full:  # It is not tried again, and no trial has crashed.
    for _ in range(3):
      with pytest.raises(jaxplay.StorageError, match="'FILE'.*same command"):
        run()
    assert found == [False, True, True]
    assert [job.failures() for job in jobs] == [0, 0]
  else:
    assert run()
    assert [job.failures() for job in jobs] == [2, 2]
    for job in jobs:
      job.forgive()
    assert run()
    assert found == [False, True, True, True]
  assert (tmp_path / "populations" / "trials-0000" / "members.json").exists()


def test_a_study_that_is_gone_is_not_made_again(tmp_path):
  """A trial of a study whose folder was removed is not begun."""
  study = tmp_path / "study"
  studies.trial(study, 0).create()
  (job,) = _jobs(study, 1)
  shutil.rmtree(study)
  with pytest.raises(jaxplay.StorageError, match="was removed"):
    job.claim()
  assert not study.exists()


def test_what_does_not_compile_is_tried_twice(tmp_path):
  """A crash before any trial began counts like any other."""
  jobs, calls = _jobs(tmp_path, 2), []

  def make_group(configs):
    calls.append(len(configs))
    raise ValueError("no such\nthing")

  for _ in range(2):
    assert runners.run_populations(
      jobs,
      study=tmp_path,
      make_group=make_group,
      progress=runners.Progress(jobs, runs.Quiet()),
      tell=lambda sentence: None,
    )
  assert calls == [2, 2]
  assert [job.failures() for job in jobs] == [2, 2]
  assert jobs[0].run.status()["reason"] == "ValueError: no such"


def _jobs(folder, num):
  definition = studies.load(folder)
  directory = study_lib.StudyDir(folder)
  return [
    runners.Job(
      f"trials/{i:04d}",
      directory.trial(i),
      study_lib.trial_config(definition["config"], {_RATE: 0.1}),
    )
    for i in range(num)
  ]


def test_a_wrong_request_is_no_crash(tmp_path, capsys):
  """What no retry mends is reported at once, and the trials stay open."""
  path = studies.write(tmp_path, overrides={"mesh.fsdp": 7})
  assert _run(path, tmp_path / "study") == cli.common.EXIT_WRONG
  assert "does not cover 8 devices" in capsys.readouterr().err
  assert not (tmp_path / "study" / "trials").exists()


def test_two_runners_on_overlapping_slices(tmp_path, monkeypatch, capsys):
  """No trial twice: a second runner begins while the first is at work."""
  path, study = studies.write(tmp_path, num_trials=6), tmp_path / "study"
  began = []
  show = terminal.Console.progress

  def progress(console, done, total, line):
    show(console, done, total, line)
    if done == 4 * 8 and not began:
      began.append(True)
      assert _run(path, study, "--trials=2:6", "--no_report") == 0
      expected = ["running"] * 4 + ["completed"] * 2
      assert studies.statuses(study) == expected

  monkeypatch.setattr(terminal.Console, "progress", progress)
  assert _run(path, study, "--trials=0:4", "--no_report") == 0
  assert began and studies.statuses(study) == ["completed"] * 6
  assert "locked by another process" in capsys.readouterr().out
  _assert_once(study, range(6))


def test_a_locked_trial_is_left_and_run_later(tmp_path, capsys):
  """What another runner holds is neither waited for nor touched."""
  path, study = studies.write(tmp_path, num_trials=3), tmp_path / "study"
  run = studies.trial(study, 1)
  run.create()
  with run.lock():
    assert _run(path, study) == 0
    output = capsys.readouterr().out
    assert "locked by another process" in output
    assert "1 trial of the study" in output
    assert list(run.path.glob("*")) == [run.path / ".lock"] or not list(
      run.path.glob("[!.]*")
    )
  assert not (study / "report.html").exists()
  assert _run(path, study) == 0
  _assert_once(study, range(3))
  assert (study / "report.html").exists()


def _stop(path, study, step, monkeypatch, *more):
  """Runs a study that a SIGTERM stops at a step of its four trials."""
  show, asked = terminal.Console.progress, []

  def progress(console, done, total, line):
    show(console, done, total, line)
    if done >= 4 * step and not asked:
      asked.append(runs.preempt())

  with monkeypatch.context() as patch:
    patch.setattr(terminal.Console, "progress", progress)
    assert _run(path, study, *more) == cli.common.EXIT_PREEMPTED
  assert set(studies.statuses(study)) == {"preempted"}


def test_a_stopped_population_goes_on_as_a_whole(tmp_path, monkeypatch, capsys):
  """SIGTERM: exit code 75; any slice of it then continues all of it."""
  path, study = studies.write(tmp_path), tmp_path / "study"
  _stop(path, study, 12, monkeypatch)
  assert "the same command resumes" in capsys.readouterr().out
  assert _run(path, study, "--trials=2", "--no_report") == 0
  assert studies.statuses(study) == ["completed"] * 4
  for index in range(4):
    run = studies.trial(study, index)
    assert len(run.provenance()["resumes"]) == 1
    assert [line["step"] for line in run.metrics()] == _STEPS
  assert not list(study.glob("populations/*/members.json"))


@pytest.mark.slow
def test_a_population_that_cannot_go_on_is_begun_anew(tmp_path, monkeypatch):
  """A member that another runner gave up does not hold up the others."""
  path, study = studies.write(tmp_path), tmp_path / "study"
  _stop(path, study, 12, monkeypatch)
  lost = studies.trial(study, 2)
  lost.write_status(**lost.status() | {"status": "failed", "failures": 2})
  before = studies.files(lost.path)
  assert _run(path, study, "--no_report") == cli.common.EXIT_FAILED
  expected = ["completed", "completed", "failed", "completed"]
  assert studies.statuses(study) == expected
  after = studies.files(lost.path)
  assert {p: v for p, v in before.items() if p.name[0] != "."} == {
    p: v for p, v in after.items() if p.name[0] != "."
  }
  assert _run(path, study, "--no_report", "--retry_failed") == 0
  for index in range(4):
    lines = studies.trial(study, index).metrics()
    assert [line["step"] for line in lines] == _STEPS


@pytest.mark.slow
@pytest.mark.parametrize("cut_off", ["members", "configs"])
def test_a_population_killed_as_it_began(tmp_path, cut_off):
  """Killed before all members were written: they are run as if new."""
  path, study = studies.write(tmp_path), tmp_path / "study"
  study_lib.StudyDir(study).create(study_lib.load(path)[0])
  folder = study / "populations" / "trials-0000"
  (folder / "checkpoints" / "8").mkdir(parents=True)
  for index in range(4):
    studies.trial(study, index).create()
  if cut_off == "configs":
    names = [f"trials/{index:04d}" for index in range(4)]
    (folder / "members.json").write_text(json.dumps(names))
  assert _run(path, study, "--trials=:2", "--no_report") == 0
  _assert_once(study, range(2))
  assert _run(path, study, "--no_report") == 0
  _assert_once(study, range(4))


def test_what_an_ended_population_left_is_cleared(tmp_path, monkeypatch):
  """Killed after its last trial ended: it is over, and its checkpoints stay."""
  path, study = studies.write(tmp_path, num_trials=3), tmp_path / "study"
  assert _run(path, study, "--trials=:2", "--no_report") == 0
  folder = study / "populations" / "trials-0000"
  members = folder / "members.json"
  members.write_text(json.dumps(["trials/0000", "trials/0001"]))
  before, saved = _trials(study), studies.files(folder / "checkpoints")
  with studies.trial(study, 1).lock():
    assert not runners._plan({}, study) and members.exists()
  assert _run(path, study, "--no_report") == 0
  assert not members.exists()
  assert studies.files(folder / "checkpoints") == saved
  after = _trials(study)
  assert {path: after[path] for path in before} == before


def test_members_are_runs_of_the_study(finished_study, tmp_path, capsys):
  """Names from files: whatever a population says, only its study is trained.

  What another name leads to stays as it is, and so does the population: whose
  state it holds is not known.
  """
  study = shutil.copytree(finished_study, tmp_path / "study")
  other = shutil.copytree(finished_study / "trials" / "0001", tmp_path / "run")
  rundir.RunDir(other).write_status("preempted", step=8)
  contents = [
    json.dumps([str(other)]),
    json.dumps(["../run"]),
    json.dumps(["trials/../../run"]),
    json.dumps(["trials/0008", str(other)]),
    json.dumps(["trials/8"]),
    json.dumps(["trials/0008\n"]),
    json.dumps(["trials/0008", "trials/0008"]),
    json.dumps([["trials/0008"]]),
    json.dumps({"trials/0008": 1}),
    "[]",
    "null",
    '["trials/00',
  ]
  for number, content in enumerate(contents, 8):
    # One has the name that the next population would have.
    folder = study / "populations" / f"trials-{number:04d}"
    (folder / "checkpoints").mkdir(parents=True)
    (folder / "members.json").write_text(content)
  before = studies.files(other) | studies.files(study / "populations")
  assert studies.call("study", "extend", study, "--trials=9") == 0
  said = capsys.readouterr().out
  for number in range(8, 8 + len(contents)):
    assert f"trials-{number:04d}/members.json" in said
  after = studies.files(other) | studies.files(study / "populations")
  assert {path: after.get(path) for path in before} == before
  assert studies.trial(study, 8).status()["status"] in rundir.DONE


@pytest.mark.parametrize(
  ("name", "is_run"),
  [
    *((name, True) for name in ("trials/0007", "reruns/0007/3")),
    *((name, True) for name in ("trials/12345", "reruns/0000/0")),
    *((name, False) for name in ("trials/7", "trials/00007", "trials/٠٠٠٧")),
    *((name, False) for name in ("reruns/0007", "reruns/0007/03", "/trials/0")),
    *((name, False) for name in ("trials/0007/", "trials//0007", "", None, 7)),
  ],
)
def test_names_of_runs(name, is_run):
  """Names from files: those that the program writes, and no others."""
  assert study_lib.is_run(name) == is_run


def test_progress_counts_what_is_there(tmp_path):
  """Progress: steps, trials, best and infeasible, also of earlier calls."""
  jobs, shown = _jobs(tmp_path, 4), []

  class Console:
    """Keeps what it is to show."""

    def progress(self, done, total, values):
      shown.append((done, total, values))

  best = {"step": 2, "metric": "valid/error_rate"}
  for job, status in zip(
    jobs,
    [
      {"status": "completed", "step": 24, "best": best | {"value": 0.5}},
      # However good it was before it diverged.
      {"status": "infeasible", "step": 2, "best": best | {"value": 0.1}},
      {"status": "failed", "step": 6, "best": None},
    ],
    strict=False,
  ):
    job.run.create()
    job.run.write_status(**status)
  progress = runners.Progress(jobs, Console())
  progress.update({jobs[3].name: {"status": "running", "step": 8}})
  progress.update({"trials/0099": {"status": "completed", "step": 24}})
  last = {"status": "completed", "best": best | {"value": 0.4}}
  progress.update({jobs[3].name: last})
  assert shown[0] == shown[1]
  assert shown[0][:2] == (24 + 24 + 6 + 8, 4 * 24)
  assert shown[0][2] == {"trials": "2/4", "best": 0.5, "infeasible": "1"}
  assert shown[2][2] == {"trials": "3/4", "best": 0.4, "infeasible": "1"}


@pytest.mark.pods
def test_crashes_in_processes(tmp_path, capsys):
  """In processes a crash is one trial's: retried, reported, completed."""
  path, study, run = _crashing(tmp_path, num_trials=2)
  more = ("--runner=processes", "--parallel=2", "--no_report")
  assert _run(path, study, *more) == cli.common.EXIT_FAILED
  output = capsys.readouterr().out
  assert studies.statuses(study) == ["failed", "completed"]
  assert run.status()["failures"] == 2
  assert (
    output.count("trials/0000 crashed and is tried again: exit code 1") == 1
  )
  assert "FileExistsError" in output and "log.txt" in output
  assert (run.path / "log.txt").read_text().count("Traceback") >= 2
  _assert_once(study, (1,))
  before = {p: v for p, v in _trials(study).items() if "0000" not in str(p)}
  (run.path / "predictions").unlink()
  assert _run(path, study, *more, "--retry_failed") == 0
  assert studies.statuses(study) == ["completed"] * 2
  assert [line["step"] for line in run.metrics()] == _STEPS
  after = _trials(study)
  assert {path: after[path] for path in before} == before


@pytest.mark.slow
def test_a_process_that_dies_before_it_says_so(tmp_path, capsys):
  """A crash that wrote no status counts, too: not tried for ever."""
  path = studies.write(
    tmp_path, num_trials=1, overrides={"dataset.name": "digit"}
  )
  study = tmp_path / "study"
  more = ("--runner=processes", "--no_report")
  assert _run(path, study, *more) == cli.common.EXIT_FAILED
  output = capsys.readouterr().out
  assert output.count("unknown dataset 'digit'") == 2
  assert studies.trial(study, 0).status()["failures"] == 2


@pytest.mark.slow
@pytest.mark.pods
def test_processes_that_are_stopped_and_killed(tmp_path, monkeypatch):
  """SIGTERM: children save, 75; one killed is retried; nothing is lost."""
  steps = 4_000
  overrides = {"max_train_steps": steps, "steps_per_call": 1}
  overrides |= {"log_every": 8, "eval_every": 800, "checkpoint_every": 800}
  path = studies.write(tmp_path, num_trials=2, overrides=overrides)
  study = tmp_path / "study"
  lines = str(study / "trials/0000/metrics.jsonl")  # at first empty
  begun = f"os.path.exists({lines!r}) and os.path.getsize({lines!r})"
  process = studies.start(
    *("study", "run", path, f"--workdir={study}", "--no_report"),
    *("--runner=processes", "--parallel=2"),
    signal=signal.SIGTERM,
    moment=begun,
  )
  assert "the same command resumes" in studies.finish(
    process, cli.common.EXIT_PREEMPTED
  )
  assert studies.trial(study, 0).status()["status"] == "preempted"
  at = studies.trial(study, 0).status()["step"]
  assert 0 < at < steps
  # Goes on, and the first child that trains is killed as by the kernel.
  show, killed = terminal.Console.progress, []

  def progress(console, done, total, line):
    show(console, done, total, line)
    lines = studies.trial(study, 1).metrics()
    for child in _children() if not killed and lines else ():
      with contextlib.suppress(ProcessLookupError):
        os.kill(child, signal.SIGKILL)
        killed.append(child)

  monkeypatch.setattr(terminal.Console, "progress", progress)
  more = ("--runner=processes", "--parallel=2", "--no_report")
  assert _run(path, study, *more) == 0
  assert killed and studies.statuses(study) == ["completed"] * 2
  failures = [studies.trial(study, i).status().get("failures") for i in (0, 1)]
  assert 1 in failures and max(f or 0 for f in failures) == 1
  for index in range(2):
    lines = studies.trial(study, index).metrics()
    assert [line["step"] for line in lines] == list(range(8, steps + 1, 8))


@pytest.mark.slow
@pytest.mark.pods
def test_children_of_a_killed_runner_save(tmp_path):
  """SIGKILL of the runner: its children save, as on SIGTERM; all goes on."""
  steps = 4_000
  overrides = {"max_train_steps": steps, "steps_per_call": 1}
  overrides |= {"log_every": 8, "eval_every": 800, "checkpoint_every": 4_000}
  path = studies.write(tmp_path, num_trials=1, overrides=overrides)
  study, more = tmp_path / "study", ("--runner=processes", "--no_report")
  run = studies.trial(study, 0)
  lines = str(run.path / "metrics.jsonl")
  process = studies.start(
    *("study", "run", path, f"--workdir={study}", *more),
    signal=signal.SIGKILL,
    moment=f"os.path.exists({lines!r}) and os.path.getsize({lines!r})",
  )
  studies.finish(process, -signal.SIGKILL)
  with run.lock(wait=True):  # The child has it until its end.
    status = run.status()
  assert status["status"] == "preempted" and 0 < status["step"] < steps
  assert _run(path, study, *more) == 0
  assert studies.statuses(study) == ["completed"]
  steps_logged = [line["step"] for line in run.metrics()]
  assert steps_logged == list(range(8, steps + 1, 8))
  assert len(run.provenance()["resumes"]) == 1


def _children():
  """Processes that this one started and that train, by their number."""
  found = []
  for path in pathlib.Path("/proc").glob("[0-9]*"):
    with contextlib.suppress(OSError, ValueError):
      parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
      if (
        parent == os.getpid()
        and b"jaxplay.cli" in (path / "cmdline").read_bytes()
      ):
        found.append(int(path.name))
  return found


@pytest.mark.slow
@pytest.mark.pods
def test_killed_at_any_moment(tmp_path):
  """SIGKILL and SIGTERM: the same command finishes what is missing.

  Two groups, killed as they begin, between checkpoints, and as trials end; the
  lines are those of a study that nobody interrupted.
  """
  path = studies.write(tmp_path, space=_GROUPS, num_trials=4)
  command = ("study", "run", path, "--no_report")
  whole, study = tmp_path / "whole", tmp_path / "study"
  uninterrupted = studies.start(*command, f"--workdir={whole}")
  moments = {
    "step >= 0": signal.SIGKILL,
    "step >= 2 * 12": signal.SIGTERM,
    "step >= 2 * 20": signal.SIGKILL,
    "trials >= 1": signal.SIGKILL,
    "step > 2 * 24 + 2 * 8": signal.SIGKILL,
    "trials >= 3": signal.SIGTERM,
  }
  for moment, number in moments.items():
    process = studies.start(
      *command, f"--workdir={study}", signal=number, moment=moment
    )
    code = cli.common.EXIT_PREEMPTED if number == signal.SIGTERM else -number
    studies.finish(process, code)
  studies.finish(studies.start(*command, f"--workdir={study}"))
  studies.finish(uninterrupted)
  assert studies.statuses(study) == ["completed"] * 4
  for index in range(4):
    run, other = studies.trial(study, index), studies.trial(whole, index)
    runs.assert_same(runs.lines(run.path), runs.lines(other.path))
    assert run.status()["best"] == other.status()["best"]
    assert rundir.RunDir(other.path).provenance()["resumes"] == []
  # What a kill after the last trial has ended leaves, the next plan ends.
  assert not runners._plan({}, study)
  assert not list(study.glob("populations/*/members.json"))


@pytest.mark.slow
@pytest.mark.pods
def test_runners_at_the_same_time(tmp_path):
  """Any number of runners, of both kinds: no trial twice, none corrupt."""
  path, study = studies.write(tmp_path, num_trials=7), tmp_path / "study"
  command = ("study", "run", path, f"--workdir={study}", "--no_report")
  processes = [
    studies.start(*command, "--trials=0:5"),
    studies.start(*command, "--trials=2:7"),
    studies.start(*command, "--runner=processes", "--trials=4:7"),
  ]
  for process in processes:
    studies.finish(process)
  assert studies.statuses(study) == ["completed"] * 7
  _assert_once(study, range(7))
  before = _trials(study)
  assert _run(path, study, "--no_report") == 0
  assert _trials(study) == before


@pytest.mark.slow
@pytest.mark.pods
def test_one_device_eight_and_two_hosts_are_equal(tmp_path):
  """Idea 1, M1: a trial does not depend on what its population is laid over.

  Two trials on 1 device, on 8, and on 2 hosts of 2: each line once, and that of
  the trial alone.
  """
  path = studies.write(tmp_path, num_trials=2)
  command = ("study", "run", path, "--no_report")
  for devices in (1, 8):
    more = (f"--fake_devices={devices}", f"--workdir={tmp_path / f'{devices}'}")
    studies.finish(studies.start(*command, *more))
  output = runs.launch([*command, f"--workdir={tmp_path / 'hosts'}"], 2, 2)
  assert output.count("2 trials: 2 completed") == 1
  for index in range(2):
    config = studies.trial(tmp_path / "1", index).path / "config.json"
    alone = tmp_path / "alone" / f"{index}"
    more = (f"--workdir={alone}", "--fake_devices=1")
    studies.finish(studies.start("train", f"--config={config}", *more))
    for name in ("1", "8", "hosts"):
      run = studies.trial(tmp_path / name, index)
      runs.assert_close(runs.lines(run.path), runs.lines(alone), 1e-3, 1e-5)
      assert run.provenance()["resumes"] == []
      if name != "8":  # Its checkpoints, on the devices that are here.
        more = (f"--config={run.path / 'config.json'}", "--fake_devices=1")
        command = ("train", *more, f"--workdir={run.path}")
        studies.finish(studies.start(*command))
        assert run.status()["best"]["step"] in _saved(run)


def _saved(run):
  """Steps of the checkpoints that a run left."""
  return [int(p.name) for p in run.checkpoints.iterdir() if p.name.isdecimal()]
