"""The command line: exit codes, one sentence for each mistake, dry run."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from jaxplay import cli, commands, rundir
from jaxplay import config as config_lib
from jaxplay.analysis import curves
from tests.study import studies
from tests.training import runs

_CONFIG = str(runs.ROOT / "tests" / "training" / "base_config.py")


@pytest.mark.parametrize(
  "arguments, sentence",
  [
    (["--config.optimizr=adam"], "did you mean config.optimizer?"),
    (["--config.optimizer=adm"], "did you mean 'adam'?"),
    (["--config.hparams.learning_rate=fast"], "it must be float, like 0.1"),
    (["--config.hparams.momentum=1.5"], "it must lie in [0, 1)"),
    (["--config.model.norm=batch", "--config.microbatches=2"], "use norm 'gh"),
    (["--config.eval_batch_size=64"], "set it to at least 128"),
    (["--config.seed"], "write --config.seed=VALUE"),
    (["--workdri=x"], "did you mean --workdir?"),
    (["--config.hparams=1"], "is a group of keys"),
    (["--fake_devices=0"], "at least 1"),
    # Of what has eight devices.
    (["--config.mesh.fsdp=3"], "its axes must be 8"),
    (["--config.dataset.name=digit"], "unknown dataset 'digit'"),
  ],
)
def test_a_mistake_costs_one_sentence(arguments, sentence, tmp_path, capsys):
  """Each mistake: exit code 2, one line on stderr, nothing written."""
  workdir = tmp_path / "run"
  code = studies.call(
    *("train", f"--config={_CONFIG}", f"--workdir={workdir}", *arguments)
  )
  error = capsys.readouterr().err
  assert code == cli.common.EXIT_WRONG
  assert sentence in error and error.count("\n") == 1
  assert not workdir.exists()


@pytest.mark.slow
@pytest.mark.parametrize(
  "arguments, sentence",
  [
    (
      ["--fake_devices=8", "--config.batch_size=100"],
      "is not divisible by 8 devices; use 96 or 104",
    ),
    (["--coordinator=localhost:1"], "--num_processes"),
  ],
)
def test_a_mistake_about_the_machine(arguments, sentence, tmp_path):
  """As above, where JAX has to be begun first."""
  process = runs.start(
    ["train", f"--config={_CONFIG}", f"--workdir={tmp_path}", *arguments]
  )
  output, _ = process.communicate(timeout=runs.HANG)
  assert process.returncode == cli.common.EXIT_WRONG, output
  assert sentence in output and "Traceback" not in output


@pytest.mark.slow
def test_dry_run_tells_what_it_would_cost(tmp_path):
  """A dry run prints config, parameters, FLOPs and memory, writes nothing."""
  process = runs.start(
    [
      *("train", f"--config={_CONFIG}", f"--workdir={tmp_path / 'run'}"),
      *("--dry_run", "--fake_devices=8", "--config.mesh.fsdp=8"),
    ]
  )
  output, _ = process.communicate(timeout=runs.HANG)
  assert process.returncode == 0, output
  assert '"max_train_steps": 1000' in output
  assert '"declared"' not in output
  # A kernel that is split over devices, and a bias that is not.
  assert re.search(r"Dense_1/kernel .* 128 x 128 .* fsdp x - .* 8.0 K", output)
  assert re.search(r"Dense_2/bias .* fewer than 4,096 elements", output)
  flops = float(output.split("one training step, per device: ")[1].split()[0])
  parameters = 64 * 128 + 128 * 128 + 128 * 10
  # Forward and backward, two FLOPs for each parameter and example, an eighth
  # of the batch on each device; the first layer needs no gradient of inputs.
  expected = 2 * 128 / 8 * (3 * parameters - 64 * 128)
  assert expected < flops < 1.25 * expected
  assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_run_from_the_shell(tmp_path):
  """Exit code 0, plain lines in a log, summary, findings; then finished."""
  keys = runs.overrides(report_test=True)
  arguments = runs.command(keys, tmp_path / "run")
  process = runs.start(arguments)
  output, _ = process.communicate(timeout=runs.HANG)
  assert process.returncode == 0, output
  for part in ("step 48/48", "best valid/error_rate", "test error", "next:"):
    assert part in output
  # As it was started, it starts again (B12).
  words = shlex.split(output.split("next: ")[1].split("\n")[1])
  assert studies.pasted(output)[0] == "train"
  program = commands.program(words)
  subprocess.run([*program, "--version"], cwd=runs.ROOT, check=True)
  findings = rundir.RunDir(tmp_path / "run").findings()
  assert {found["check"] for found in findings} >= set(curves.CHECKS)
  again, _ = runs.start(arguments).communicate(timeout=runs.HANG)
  assert "nothing to do" in again


@pytest.mark.slow
def test_reading_a_run_needs_no_jax(tmp_path):
  """Floors: rundir and analysis import neither JAX nor Flax."""
  code = (
    "import sys, jaxplay.rundir, jaxplay.analysis.curves, jaxplay.config;"
    "print([name for name in ('jax', 'flax', 'orbax') if name in sys.modules])"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, cwd=runs.ROOT
  )
  assert json.loads(done.stdout.replace("'", '"')) == []


@pytest.fixture(scope="module")
def constant(tmp_path_factory):
  """A constant run of a few steps, with checkpoints to branch from."""
  folder = tmp_path_factory.mktemp("constant")
  keys = runs.overrides(max_train_steps=16, model__width=8, keep_steps=(8,))
  assert studies.call(*runs.command(keys, folder / "run")) == 0
  return folder / "run"


BRANCHES = {
  "no run": (["nowhere", "--step=8"], "there is no folder 'nowhere'"),
  "no step": (["RUN"], "one of the arguments --step --steps is required"),
  "missing": (["RUN", "--step=9"], "no checkpoint of step 9; it has 8, 12, 16"),
  "one of two": (["RUN", "--steps=8,9"], "no checkpoint of step 9"),
  "not a step": (["RUN", "--steps=8,x"], "at least 1"),
  "fraction": (["RUN", "--step=8", "--cooldown_fraction=1"], "lie in (0, 1)"),
  "shape": (["RUN", "--step=8", "--shape=sqr"], "did you mean 'square'?"),
  "mixture": (["RUN", "--step=8", "--mixture=a"], "expected NAME=WEIGHT"),
  "text": (["RUN", "--step=8", "--mixture=pythonlib=1"], "requires text"),
  "model": (
    ["RUN", "--step=8", "--config.model.width=9"],
    "config.model.width was 8 and is now 9",
  ),
  "optimizer": (
    ["RUN", "--step=8", "--config.optimizer=adam"],
    "config.optimizer was 'nesterov' and is now 'adam'",
  ),
  "typo": (["RUN", "--step=8", "--shap=linear"], "did you mean --shape?"),
  "weight": (
    ["RUN", "--step=8", "--mixture=pythonlib=0"],
    "positive weights",
  ),
  # What the branch itself decides.
  "schedule": (
    ["RUN", "--step=8", "--config.schedule=cosine"],
    "would not start at step 8: schedule 'cosine'",
  ),
  "length": (
    ["RUN", "--step=8", "--config.max_train_steps=6"],
    "would not start at step 8",
  ),
  "another fraction": (
    ["RUN", "--step=8", "--config.hparams.cooldown_fraction=0.8"],
    "would not start at step 8",
  ),
  "another shape": (
    ["RUN", "--step=8", "--config.cooldown_shape=linear"],
    "cooldown shape is '1-sqrt'",
  ),
  "no cooldown": (
    ["RUN", "--step=8", "--cooldown_fraction=0.001"],
    "has no steps; use a larger fraction",
  ),
}


@pytest.mark.parametrize("case", BRANCHES)
def test_a_mistake_about_a_branch(constant, tmp_path, capsys, case):
  """S3: exit code 2, one sentence, nothing written, the run untouched."""
  arguments, sentence = BRANCHES[case]
  arguments = [str(constant) if a == "RUN" else a for a in arguments]
  before = studies.files(constant)
  code = studies.call("branch", *arguments, f"--workdir={tmp_path / 'b'}")
  error = capsys.readouterr().err
  assert code == cli.common.EXIT_WRONG
  assert sentence in error and error.count("\n") == 1
  assert not (tmp_path / "b").exists() and studies.files(constant) == before


@pytest.mark.parametrize("kind", ["study", "ladder"])
def test_a_directory_is_of_one_kind(constant, tmp_path, capsys, kind):
  """Bad input: a run goes into no study, nor into a ladder."""
  (tmp_path / f"{kind}.json").write_text("{}")
  keys = runs.overrides(max_train_steps=8, model__width=8)
  commands = (
    runs.command(keys, tmp_path),
    ["branch", str(constant), "--step=8", f"--workdir={tmp_path}"],
  )
  for command in commands:
    assert studies.call(*command) == cli.common.EXIT_WRONG
    error = capsys.readouterr().err
    assert f"holds a {kind}" in error and error.count("\n") == 1
  assert [path.name for path in tmp_path.iterdir()] == [f"{kind}.json"]


def test_what_cannot_begin_leaves_nothing(tmp_path, capsys):
  """Bad input: a run of data that is not there makes no folder."""
  keys = runs.overrides(max_train_steps=8, dataset__name="tfds:nowhere")
  command = runs.command(keys, tmp_path / "run")
  assert studies.call(*command) == cli.common.EXIT_WRONG
  assert studies.call(*command, "--extend_steps=9") == cli.common.EXIT_WRONG
  assert not (tmp_path / "run").exists()


def _run_of_text(folder):
  """A run in folder/run, of two text files of three; where they are."""
  text = folder / "text"
  text.mkdir()
  for i in range(3):
    (text / f"{i}.txt").write_text(f"{i} some words of text\n" * 20)
  keys = runs.overrides(
    max_train_steps=8,
    keep_steps=(4,),
    objective="valid/loss",
    dataset__name=f"text:{text}/[01].txt",
    dataset__valid_files=f"{text}/2.txt",
    dataset__data_dir=str(folder / "cache"),
    dataset__sequence_length=8,
    model__name="lm",
    model__norm="rms",
    model__width=8,
    model__heads=1,
  )
  assert studies.call(*runs.command(keys, folder / "run")) == 0
  return text


@pytest.mark.pods
def test_a_vocabulary_that_changed(tmp_path, capsys):
  """Bad input: a branch of a run whose text has changed is not begun."""
  text = _run_of_text(tmp_path)
  (text / "1.txt").write_text("other words\n" * 20)
  capsys.readouterr()
  branched = ("branch", tmp_path / "run", "--step=4")
  code = studies.call(*branched, f"--workdir={tmp_path / 'b'}")
  error = capsys.readouterr().err
  assert code == cli.common.EXIT_WRONG and error.count("\n") == 1
  assert "content of hash" in error and f"{tmp_path / 'run'}" in error
  assert not (tmp_path / "b").exists()


@pytest.mark.pods
def test_a_profile_of_some_steps(tmp_path):
  """G1: a trace of the steps that were asked for, and what it sums up to."""
  keys = runs.overrides(max_train_steps=24, model__width=8)
  command = runs.command(keys, tmp_path / "run", "--profile=10:14")
  assert studies.call(*command) == 0
  assert list((tmp_path / "run").glob("profile/**/perfetto_trace.json.gz"))
  tool = str(runs.ROOT / "tools" / "profile.py")
  told = subprocess.run(
    [sys.executable, tool, tmp_path / "run"], capture_output=True, text=True
  )
  assert told.returncode == 0, told.stderr
  assert "category" in told.stdout and "dot" in told.stdout, told.stdout
  for wrong in ("10", "14:10", "10:99"):
    command = runs.command(keys, tmp_path / "other", f"--profile={wrong}")
    assert studies.call(*command) == cli.common.EXIT_WRONG


@pytest.mark.pods
def test_a_mixture_that_is_not_there(tmp_path, capsys):
  """S6: a text that cannot be read leaves no half-made branch behind."""
  text = _run_of_text(tmp_path)
  arguments = ("branch", tmp_path / "run", "--step=4")
  arguments += (f"--workdir={tmp_path / 'b'}", "--config.export=False")
  code = studies.call(*arguments, f"--mixture=text:{text}/nowhere=1")
  error = capsys.readouterr().err
  assert code == cli.common.EXIT_WRONG and "nowhere" in error
  assert error.count("\n") == 1 and not (tmp_path / "b").exists()
  assert studies.call(*arguments, f"--mixture=text:{text}/[0].txt=1") == 0


def test_branches_from_the_shell(constant, tmp_path, capsys):
  """S3: a folder for each step; the same command again changes nothing."""
  arguments = (
    *("branch", str(constant), "--steps=8,16", "--cooldown_fraction=0.5"),
    *("--shape=linear", f"--workdir={tmp_path}"),
  )
  assert studies.call(*arguments) == 0
  for step in (8, 16):
    run = rundir.RunDir(tmp_path / f"{step:08d}")
    assert run.status()["step"] == 2 * step
    assert run.config()["cooldown_shape"] == "linear"
    assert run.findings()
  capsys.readouterr()
  before = studies.files(tmp_path / "00000008" / "checkpoints")
  assert studies.call(*arguments) == 0
  assert capsys.readouterr().out.count("nothing to do") == 2
  assert studies.files(tmp_path / "00000008" / "checkpoints") == before


def test_extend_from_the_shell(constant, tmp_path, capsys):
  """S1: --extend_steps is the new total, and may be typed again."""
  shutil.copytree(constant, tmp_path / "run")
  arguments = (
    *("train", f"--config={tmp_path / 'run' / 'config.json'}"),
    *(f"--workdir={tmp_path / 'run'}", "--extend_steps=24"),
  )
  for _ in range(2):
    assert studies.call(*arguments) == 0
    assert rundir.RunDir(tmp_path / "run").status()["step"] == 24
  assert "nothing to do" in capsys.readouterr().out
  code = studies.call(*arguments[:-1], "--extend_steps=20")
  error = capsys.readouterr().err
  assert code == cli.common.EXIT_WRONG and "has made 24 of 24" in error


# What to paste.


def _differences(one, other):
  """Keys in which the configs of two runs differ."""
  one, other = (rundir.RunDir(path).config() for path in (one, other))
  return config_lib.differences(one, other)


_TINY = ("--config.max_train_steps=8", "--config.seed", "3")


@pytest.mark.parametrize(
  "given",
  [
    ["--config.dataset.data_dir", "a b/größe", "--config.averages=ema,window"],
    ["--fake_devices=8", "--config.mesh.fsdp=2", "--config.mesh.data", "4"],
  ],
)
def test_the_next_seed_is_all_that_changes(tmp_path, capsys, given):
  """R3: the line that is printed, pasted: config argument, overrides and
  mesh as they were given; a workdir with a space is one word."""
  studies.write(tmp_path)
  config, run = f"--config={tmp_path / 'config.py'}:16", tmp_path / "a b" / "r"
  command = ("train", config, "--workdir", run, *_TINY, *given)
  assert studies.call(*command) == 0
  words = studies.pasted(capsys.readouterr().out)
  assert studies.call(*words) == 0
  assert rundir.RunDir(run).config()["model"]["width"] == 16
  assert _differences(run, f"{run}-seed-4") == {"seed": (3, 4)}
  # And so on.
  words = studies.pasted(capsys.readouterr().out)
  assert f"--workdir={run}-seed-5" in words and set(given) <= set(words)


def test_the_next_seed_of_a_run_that_was_extended(constant, tmp_path, capsys):
  """R3: it begins with the length to which the other one came."""
  shutil.copytree(constant, tmp_path / "run")
  config = f"--config={tmp_path / 'run' / 'config.json'}"
  where = f"--workdir={tmp_path / 'run'}"
  assert studies.call("train", config, where, "--extend_steps=24") == 0
  words = studies.pasted(capsys.readouterr().out)
  assert words[1] == config and "--extend_steps=24" not in words
  assert studies.call(*words) == 0
  other = tmp_path / "run-seed-1"
  assert _differences(tmp_path / "run", other) == {"seed": (0, 1)}


def test_a_tenth_of_the_base_rate(tmp_path, capsys):
  """R3: of the config's, and not of what the schedule made of it."""
  studies.write(tmp_path)
  keys = ("--config.hparams.warmup_steps=6", "--config.log_every=1")
  rate, run = "--config.hparams.learning_rate=3e12", tmp_path / "run"
  config = f"--config={tmp_path / 'config.py'}"
  command = ("train", config, f"--workdir={run}", *_TINY, *keys, rate)
  assert studies.call(*command) == 0
  assert rundir.RunDir(run).status()["status"] == "infeasible"
  words = studies.pasted(capsys.readouterr().out)
  assert studies.call(*words) == 0
  assert _differences(run, f"{run}-rate-3e+11") == {
    "hparams.learning_rate": (3e12, 3e11)
  }


def test_after_a_branch_its_report(constant, tmp_path, capsys):
  """R3: the path of the branch, which may have a space."""
  workdir = tmp_path / "a b"
  branch = ("branch", constant, "--step=8", f"--workdir={workdir}")
  assert studies.call(*branch) == 0
  words = studies.pasted(capsys.readouterr().out)
  assert words == ["report", str(workdir)]
  assert studies.call(*words) == 0


@pytest.mark.parametrize(
  "overrides", [(), ("--config.optimizer=lion", "--config.model.norm=ghost")]
)
def test_config_prints_what_a_config_file_could_say(overrides, capsys):
  """Config: the output, run as Python, makes the config that it explains."""
  assert studies.call("config", "--all", *overrides) == 0
  made = config_lib.base()
  exec(capsys.readouterr().out, {"config": made})
  expected = config_lib.load({}, dict(o[9:].split("=") for o in overrides))
  config_lib.validate(expected)
  assert config_lib.as_json(made) == config_lib.as_json(expected)
  assert studies.call("config", *overrides, "--json") == 0
  keys = json.loads(capsys.readouterr().out)
  flat = config_lib.flatten(expected)
  assert set(keys) == {n for n in flat if config_lib.has_effect(n, flat)}


def test_the_shell_completes(capsys, tmp_path):
  """Verbs, options, choices and paths, in a real shell."""
  with pytest.raises(SystemExit) as end:
    cli.main(["--print-completion", "bash"])
  assert end.value.code == 0
  script = tmp_path / "completion.bash"
  script.write_text(capsys.readouterr().out)
  (tmp_path / "runs").mkdir()
  for words, reply in (
    ("jaxplay stud", "study"),
    ("jaxplay study ext", "extend"),
    ("jaxplay report --form", "--format"),
    ("jaxplay report --format p", "png"),
    ("jaxplay study extend ru", "runs"),
  ):
    completed = subprocess.run(
      ["bash", "-c", _COMPLETE, "-", str(script), *words.split()],
      capture_output=True,
      text=True,
      cwd=tmp_path,
      check=True,
    )
    assert completed.stdout.split() == [reply], (words, completed.stderr)


# As bash calls the function of a script when the user presses the tab key.
_COMPLETE = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_jaxplay
echo "${COMPREPLY[@]}"
"""
