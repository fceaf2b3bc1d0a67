"""`jaxplay plan` as users type it: answers, resuming, and mistakes."""

import json
import signal

import numpy as np
import pytest

from jaxplay import rundir
from jaxplay.playbook import result as result_lib
from jaxplay.study import study as study_lib
from tests.study import studies

_RATES = "--learning_rates=0.01:10"


@pytest.fixture
def config(tmp_path):
  """A config of 24 steps, as a flag."""
  studies.write(tmp_path / "files")
  return f"--config={tmp_path / 'files' / 'config.py'}"


def _answer(path):
  return rundir.read_json(path / "plan.json", dict)["answer"]


@pytest.mark.pods
def test_steps_by_a_sweep(tmp_path, config, capsys):
  """F2: steps of the fastest rate; killed, it ends as if it had not been."""
  question = ("plan", "steps", config, _RATES, "--steps=120")
  question += ("--fit=train/error_rate<=0.5",)
  assert studies.call(*question, f"--workdir={tmp_path / 'whole'}") == 0
  said = capsys.readouterr().out
  whole = _answer(tmp_path / "whole")
  steps = whole["settings"]["max_train_steps"]
  assert f"config.max_train_steps = {steps}" in said
  assert 1 < steps < 120
  stopped = (*question, f"--workdir={tmp_path / 'stopped'}")
  process = studies.start(*stopped, signal=signal.SIGTERM, moment="step > 0")
  studies.finish(process, 75)
  assert studies.call(*stopped) == 0
  assert _answer(tmp_path / "stopped") == whole
  assert (tmp_path / "stopped" / "report.html").stat().st_size > 10_000


@pytest.mark.pods
def test_batch_size_killed(tmp_path, config):
  """B1 to B8: measured and trained; killed in training, it keeps what it timed
  and trains to the same; once it is done, the same command only reads."""
  question = ("plan", "batch-size", config, "--batch_sizes=32,64", "--seeds=2")
  question += ("--target=valid/error_rate<=0.6", "--steps=100")
  question += ("--learning_rates=0.03:0.3",)
  assert studies.call(*question, f"--workdir={tmp_path / 'whole'}") == 0
  said = " ".join(_answer(tmp_path / "whole")["said"])
  assert "least time" in said or "too busy" in said  # Others work here, too.
  speed = tmp_path / "whole" / "speed" / "0000032" / "0.json"
  speed = json.loads(speed.read_text())
  assert speed["loop_seconds"] > 0 and speed["step_seconds"] > 0
  whole = _answer(tmp_path / "whole")["details"]["reached"]
  assert [one["batch_size"] for one in whole] == [32, 64]
  for one in whole:
    means = {r["rate"]: np.mean(r["steps"]) for r in one["rates"]}
    assert len(means) > 1 and means[one["rate"]] == min(means.values())
    assert len(one["steps"]) == 2
  killed = tmp_path / "killed"
  stopped = (*question, f"--workdir={killed}")
  process = studies.start(*stopped, signal=signal.SIGKILL, moment="step > 0")
  studies.finish(process, -signal.SIGKILL)
  timed = studies.files(killed / "speed")
  assert studies.call(*stopped) == 0
  after = studies.files(killed / "speed")
  assert len(timed) >= 6 and timed.items() <= after.items()
  assert _answer(killed)["details"]["reached"] == whole
  trained = _metrics(killed)
  assert studies.call(*stopped) == 0 and _metrics(killed) == trained


def _metrics(plan):
  """Each file of metrics of a plan: when it was written, and its lines."""
  return {
    path: found
    for path, found in studies.files(plan).items()
    if path.name == "metrics.jsonl"
  }


@pytest.mark.slow
def test_another_question_in_the_same_folder(tmp_path, config, capsys):
  """Errors: a plan is gone on with, or refused, and never mixed."""
  workdir = f"--workdir={tmp_path / 'plan'}"
  question = ("plan", "steps", config, workdir, "--steps=20", _RATES)
  assert studies.call(*question, "--json") == 0
  before = _answer(tmp_path / "plan")
  # Of what was trained, and of the progress, standard output says nothing.
  assert json.loads(capsys.readouterr().out) == before
  for more, words in (
    (["--steps=30"], "--steps was 20 and is now 30"),
    (["--config.batch_size=16"], "config.batch_size was 32 and is now 16"),
  ):
    capsys.readouterr()
    assert studies.call(*question, *more) == 2
    assert words in capsys.readouterr().err
  capsys.readouterr()
  assert studies.call("report", str(tmp_path / "plan")) == 2
  assert "holds a plan, whose page is" in capsys.readouterr().err
  assert studies.call("plan", "stability", config, workdir) == 2
  assert "'steps'" in capsys.readouterr().err
  assert _answer(tmp_path / "plan") == before


@pytest.mark.pods
def test_rounds_of_a_study_and_clipping_of_its_run(tmp_path, capsys):
  """F4, F5, I5: from a study on disk to longer runs, and to a threshold."""
  study = tmp_path / "study"
  file = studies.write(tmp_path / "files", num_trials=6)
  run = ("study", "run", file, f"--workdir={study}", "--no_report")
  assert studies.call(*run) == 0
  plan = ("plan", "rounds", str(study), "--steps=96", "--rounds=2")
  assert studies.call(*plan, f"--workdir={tmp_path / 'rounds'}") == 0
  answer = _answer(tmp_path / "rounds")
  assert answer["settings"]["max_train_steps"] == 96
  found = [f for f in answer["findings"] if f["check"] == "ranking_transfers"]
  assert [f["subject"] for f in found] == [
    "24 to 48 steps",
    "48 to 96 steps",
  ]
  # Each round draws its new points anew.
  twos, threes = (
    study_lib.StudyDir(tmp_path / "rounds" / name).points()
    for name in ("round_2", "round_3")
  )
  assert twos[3:] and not any(
    point in twos for point in threes[len(threes) // 2 :]
  )
  # What it wrote is a config that can be trained.
  path = tmp_path / "rounds" / "next.json"
  dry = ("train", f"--config={path}", "--dry_run")
  assert studies.call(*dry) == 0
  capsys.readouterr()
  trial = str(study / "trials" / "0000")
  assert studies.call("plan", "clip", trial, "--json") == 2  # 6 lines only
  assert "it takes 10" not in capsys.readouterr().out
  longer = str(tmp_path / "rounds" / "round_3" / "trials" / "0000")
  assert studies.call("plan", "clip", longer, "--json") == 0
  said = json.loads(capsys.readouterr().out)
  assert said["settings"]["clipping"] is True
  assert said["details"]["share"] <= 0.1


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["steps"], "--workdir"),
    (["steps", "--workdir=W"], "--config is missing"),
    (["steps", "--workdir=W", "--from=nowhere"], "no folder"),
    (["steps", "CONFIG", "--workdir=W", "--fit=x"], "METRIC<=X"),
    (["steps", "CONFIG", "--workdir=W", "--learning_rates=1:0.1"], "LOW:HIGH"),
    (["steps", "CONFIG", "--workdir=W", "--config.max_trian_steps=1"], "mean"),
    (["stability", "CONFIG", "--workdir=W", "--seeds=0"], "at least 1"),
    (["batch-size", "CONFIG", "--workdir=W", "--epochs=9"], "equal --target"),
    (["clip", "nowhere"], "no folder"),
    (["rounds", "nowhere", "--steps=9", "--workdir=W"], "no folder"),
    (["longest-run", "--hardware=0"], "hardware"),
    (["nothing"], "nothing"),
  ],
)
def test_mistakes(tmp_path, monkeypatch, capsys, config, arguments, words):
  """Errors: one sentence, exit code 2, and no folder is made."""
  monkeypatch.chdir(tmp_path)
  arguments = [config if word == "CONFIG" else word for word in arguments]
  assert studies.call("plan", *arguments) == 2
  error = capsys.readouterr().err
  assert words in error and len(error.strip().split("\n")) == 1, error
  assert not (tmp_path / "W").exists()


@pytest.mark.pods
def test_the_whole_loop(tmp_path, config, capsys):
  """The loop: real runs; killed, it ends as if it had not been."""
  _, _, file = config.partition("=")
  loop = ("playbook", file, "--budget=18", "--seeds=1", "--keep_batch_size")
  whole, killed = tmp_path / "whole", tmp_path / "killed"
  assert studies.call(*loop, f"--workdir={whole}", "--json") == 0
  said = json.loads(capsys.readouterr().out)
  assert said["details"]["spent"] <= 18
  for moment in ("trials > 2", "step > 40"):
    process = studies.start(
      *loop, f"--workdir={killed}", signal=signal.SIGKILL, moment=moment
    )
    studies.finish(process, -signal.SIGKILL)
  assert studies.call(*loop, f"--workdir={killed}") == 0
  assert _answer(killed)["settings"] == said["settings"]
  best = rundir.read_json(killed / "best.json", dict)
  assert best == rundir.read_json(whole / "best.json", dict)
  assert (
    studies.call("train", f"--config={whole / 'best.json'}", "--dry_run") == 0
  )
  for page in ("", "stability", "explore_1", "longer"):
    assert (killed / page / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize(
  "arguments, words",
  [
    (["CONFIG"], "--budget"),
    (["CONFIG", "--budget=64"], "--workdir"),
    (["--budget=64", "--workdir=W"], "CONFIG"),
    (["nowhere.py", "--budget=64", "--workdir=W"], "no config file"),
    (["CONFIG", "--budget=many", "--workdir=W"], "such as 64"),
    (["CONFIG", "--budget=2d", "--workdir=W"], "such as 64"),
    (["CONFIG", "--budget=9", "--workdir=W"], "18 trials with 3 seeds"),
    (["CONFIG", "--budget=64", "--workdir=W", "--seed=-1"], "--seed"),
    (["CONFIG", "--budget=64", "--workdir=W", "--config.x=1"], "config.x"),
  ],
)
def test_mistakes_with_the_loop(
  tmp_path, monkeypatch, capsys, config, arguments, words
):
  """Errors: one sentence, exit code 2, and no folder is made."""
  monkeypatch.chdir(tmp_path)
  file = config.partition("=")[2]
  arguments = [file if word == "CONFIG" else word for word in arguments]
  assert studies.call("playbook", *arguments) == 2
  error = capsys.readouterr().err
  assert words in error and len(error.strip().split("\n")) == 1, error
  assert not (tmp_path / "W").exists()


def test_lines_to_paste_are_python():
  """What an answer hands back can be pasted."""
  settings = {"schedule": "wsd", "clipping": True, "hparams.clip_norm": 0.5}
  lines = result_lib.as_config_lines(settings).split("\n")
  assert lines == [
    'config.schedule = "wsd"',
    "config.clipping = True",
    "config.hparams.clip_norm = 0.5",
  ]
