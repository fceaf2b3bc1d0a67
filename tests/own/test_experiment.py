"""Every command of the product, on a copy of experiments/own_parts.

The copy lies outside of the repository, as the folder of a user would, and each
command works on the same files of his: a data set, a task with a loss and a
metric, a model, an optimizer, a schedule.
"""

import json
import shutil
import signal
import subprocess
import sys

import jax
import numpy as np
import pytest

from jaxplay import rundir
from tests.study import studies
from tests.training import runs

_SHORT = (
  *("--config.max_train_steps=12", "--config.eval_every=4"),
  *("--config.log_every=2", "--config.checkpoint_every=4"),
  *("--config.batch_size=64", "--config.hparams.warmup_steps=2"),
)
_STUDY = """
import jaxplay as jp


def get_study():
  return jp.Study(
    goal="Which optimizer, and which loss?",
    config="{config}",
    overrides={{
      "max_train_steps": 8, "eval_every": 4, "log_every": 2,
      "checkpoint_every": 4, "batch_size": 64, "hparams.warmup_steps": 0,
    }},
    space={space},
    num_trials=4,
  )
"""
_OF_IMAGES = """{
  "optimizer": jp.Choice(("rules.py:muon", "adamw"), role="scientific"),
  "hparams.learning_rate": jp.Float(3e-3, 0.1, "log"),
  "hparams.beta": jp.Float(0.5, 0.95, when={"optimizer": "rules.py:muon"}),
}"""
_OF_TABLE = """{
  "task.delta": jp.Choice((0.1, 1.0), role="scientific"),
  "hparams.learning_rate": jp.Float(3e-3, 0.1, "log"),
}"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """The user's folder, with the data and short studies."""
  folder = tmp_path_factory.mktemp("user") / "own_parts"
  shutil.copytree(
    runs.ROOT / "experiments" / "own_parts",
    folder,
    ignore=shutil.ignore_patterns("data", "__pycache__"),
  )
  subprocess.run(
    [sys.executable, str(folder / "make_data.py")],
    check=True,
    capture_output=True,
    cwd=runs.ROOT,
  )
  for name, config, space in (
    ("study_i", "images.py", _OF_IMAGES),
    ("study_t", "table.py", _OF_TABLE),
  ):
    text = _STUDY.format(config=config, space=space)
    (folder / f"{name}.py").write_text(text)
  return folder


@pytest.fixture(scope="module", params=["images", "table"])
def which(request):
  return request.param


def _train(folder, which, workdir, *more):
  return (
    *("train", f"--config={folder / which}.py", f"--workdir={workdir}"),
    *(*_SHORT, *more),
  )


@pytest.fixture(scope="module")
def run(folder, which, tmp_path_factory):
  """A run of either config, over eight devices."""
  path = tmp_path_factory.mktemp(which) / "run"
  assert studies.call(*_train(folder, which, path)) == 0
  return path


@pytest.mark.slow
def test_train_export_and_reload(run, which):
  """P1: the exported program gives what the run predicted."""
  status = rundir.RunDir(run).status()
  metric = {"images": "valid/f1", "table": "valid/within"}[which]
  assert status["status"] == "completed"
  assert status["best"]["metric"] == metric
  values = [line[metric] for line in runs.lines(run) if metric in line]
  assert status["best"]["value"] == max(values)  # more is better
  program = (run / "export" / "forward.jaxexport").read_bytes()
  forward = jax.export.deserialize(bytearray(program))
  weights = dict(np.load(run / "export" / "weights.npz"))
  *_, inputs = forward.in_avals
  made = np.zeros((3, *inputs.shape[1:]), inputs.dtype)
  assert forward.call(weights, made).shape[0] == 3
  assert (run / "code").is_dir()


@pytest.mark.slow
def test_layouts_and_reports(folder, run, which, tmp_path, capsys):
  """P1: laid out, shown, compared and exported like any other run."""
  there = tmp_path / "fsdp"
  layout = ("--config.mesh.data=2", "--config.mesh.fsdp=4")
  assert studies.call(*_train(folder, which, there, *layout)) == 0
  runs.assert_close(runs.lines(run), runs.lines(there), 5e-2, 5e-3)
  assert studies.call("report", run) == 0
  assert studies.call("compare", run, there) in (0, 1)
  to = f"--tensorboard={tmp_path / 'events'}"
  csv = f"--csv={tmp_path / 'steps.csv'}"
  assert studies.call("export", run, to, csv) == 0
  capsys.readouterr()
  assert studies.call(*_train(folder, which, tmp_path / "no", "--dry_run")) == 0
  assert "parameters" in capsys.readouterr().out
  assert not (tmp_path / "no").exists()
  assert studies.call("config", f"--config={folder / which}.py") == 0
  own = {"images": "config.model.patch", "table": "config.task.delta"}[which]
  assert own in capsys.readouterr().out


@pytest.mark.pods
def test_studies(folder, which, tmp_path, capsys):
  """P1, P2: run, moved without its files, extended, rerun, reported."""
  home = shutil.copytree(folder, tmp_path / "home")
  file = home / f"study_{which[0]}.py"
  study = tmp_path / "study"
  assert studies.call("study", "run", file, f"--workdir={study}") == 0
  shutil.rmtree(home)
  moved = study.rename(tmp_path / "elsewhere")
  data = folder / "data"  # what the study trains on stays where it was
  shutil.copytree(data, home / "data")
  quiet = "--no_report"
  assert studies.call("study", "extend", moved, "--trials=6", quiet) == 0
  rerun = ("study", "rerun", moved, "--best_of_each", "--seeds=1", quiet)
  assert studies.call(*rerun) == 0
  capsys.readouterr()
  assert studies.call("report", moved) in (0, 1)
  findings = json.loads((moved / "findings.json").read_text())
  (matches,) = (f for f in findings if f["check"] == "trials_match_study")
  assert matches["verdict"] == "ok"
  csv = f"--csv={tmp_path / 'trials.csv'}"
  assert studies.call("export", moved, csv) == 0
  assert studies.call("compare", moved, moved / "trials" / "0001") in (0, 1, 2)
  best = moved / "trials" / "0003"
  again = f"--config={best / 'config.json'}"
  words = ("train", again, f"--workdir={tmp_path / 'again'}")
  assert studies.call(*words) == 0


@pytest.mark.pods
def test_killed_and_resumed(folder, which, tmp_path, run):
  """P1: killed in training, it goes on to the lines of a run that was not."""
  killed = tmp_path / "killed"
  process = studies.start(
    *_train(folder, which, killed, "--fake_devices=8"),
    signal=signal.SIGKILL,
    moment="step >= 6",
  )
  process.communicate(timeout=runs.HANG)
  assert process.returncode == -signal.SIGKILL
  assert studies.call(*_train(folder, which, killed)) == 0
  runs.assert_close(runs.lines(run), runs.lines(killed), 1e-4, 1e-5)


@pytest.mark.pods
def test_two_processes(folder, which, tmp_path, run):
  """P1: a job of two processes with four devices each."""
  runs.launch(_train(folder, which, tmp_path / "two"), 2, 4)
  runs.assert_close(runs.lines(run), runs.lines(tmp_path / "two"), 5e-2, 5e-3)


@pytest.mark.pods
def test_trials_in_processes(folder, which, tmp_path):
  """P1: each trial in a process of its own, with the study's copy."""
  study = tmp_path / "study"
  words = ("study", "run", folder / f"study_{which[0]}.py", "--trials=0:2")
  more = (f"--workdir={study}", "--runner=processes", "--no_report")
  assert studies.call(*words, *more) == 0
  assert [studies.trial(study, i).status()["status"] for i in range(2)] == [
    "completed"
  ] * 2


@pytest.mark.slow
def test_branch_and_weights(folder, which, tmp_path):
  """P1, P5: cooled down from a constant run; trained on from weights."""
  constant, cooled = tmp_path / "constant", tmp_path / "cooled"
  words = _train(folder, which, constant, "--config.schedule=constant")
  assert studies.call(*words) == 0
  step = ("--step=8", f"--workdir={cooled}", "--shape=linear")
  assert studies.call("branch", constant, *step) == 0
  assert rundir.RunDir(cooled).status()["step"] == 10
  tuned = _train(
    folder,
    which,
    tmp_path / "tuned",
    f"--config.init_from={constant}",
    "--config.schedule=rules.py:warm_restarts",
    "--config.hparams.periods=2",
  )
  assert studies.call(*tuned) == 0
  assert json.loads((tmp_path / "tuned" / "init.json").read_text())


@pytest.mark.pods
@pytest.mark.parametrize("which", ["table"])  # That of images takes minutes.
def test_playbook_and_topology(folder, which, tmp_path, capsys):
  """P1: procedures decide from runs of own parts, and plans compile them."""
  file = folder / f"{which}.py"
  steps = ("--config.max_train_steps=20", *_SHORT[1:])
  words = ("playbook", file, f"--workdir={tmp_path / 'playbook'}")
  more = ("--budget=60", "--seeds=2", "--keep_batch_size")
  assert studies.call(*words, *more, *steps) == 0
  assert (tmp_path / "playbook" / "report.html").exists()
  capsys.readouterr()
  words = ("plan", "topology", f"--config={file}", "--topology=here", "--json")
  assert studies.call(*words) == 0
  assert json.loads(capsys.readouterr().out)
