"""Launch files: mistakes cost a sentence; each launcher reads its table."""

import ast
import shlex
import signal
import subprocess
import sys

import pytest

from tests.launch import launches
from tests.training import runs

_LAUNCHERS = ("gke.py", "local.py", "slurm.py", "tpu_vm.py")
_TRAIN = ["train", "--config=c", "--workdir=w"]
_STUDY = ["study", "run", "s.py", "--workdir=w"]
_GOOD = 'name = "a"\narguments = ["train"]\n[slurm]\ntime = "10"\n'


@pytest.mark.parametrize("launcher", _LAUNCHERS)
def test_the_example_is_for_all(launcher):
  """M: the example has what each launcher needs."""
  out, _ = launches.launch(
    launcher, runs.ROOT / "launch" / "example.toml", "--dry_run"
  )
  assert "jaxplay" in out and "experiments/digits_mlp/config.py" in out


def test_launchers_need_the_standard_library_only():
  """Floors: they run where neither JAX nor jaxplay is installed."""
  for path in (runs.ROOT / "launch").glob("*.py"):
    for node in ast.walk(ast.parse(path.read_text())):
      names = []
      if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
      elif isinstance(node, ast.ImportFrom):
        names = [node.module]
      for name in names:
        top = name.split(".")[0]
        assert top in {*sys.stdlib_module_names, "job"}, f"{path}: {name}"


def test_launchers_hold_no_hyperparameters():
  """M: what is trained is said by the launch file, in jaxplay's words."""
  for path in (runs.ROOT / "launch").iterdir():
    if path.is_file():
      assert "hparams" not in path.read_text(), path


@pytest.mark.parametrize(
  ("text", "sentence"),
  [
    (_GOOD + "node = 2", "has no key 'node'; did you mean 'nodes'?"),
    (_GOOD + "[slrum]", "has no key 'slrum'; did you mean 'slurm'?"),
    (_GOOD + "nodes = '2'", "nodes is '2'; it must be a whole number"),
    (_GOOD + "nodes = 0", "nodes is 0; it must be at least 1"),
    (_GOOD + "nodes = true", "nodes is True; it must be a whole number"),
    (_GOOD.replace('time = "10"', ""), "[slurm] lacks time"),
    (_GOOD.replace('[slurm]\ntime = "10"', ""), "has no table [slurm]"),
    (_GOOD.replace('name = "a"', ""), "lacks name"),
    (_GOOD.replace('"a"', '"A b"'), "name is 'A b'"),
    (_GOOD.replace('["train"]', '"train"'), "it must be a list of texts"),
    (_GOOD.replace('["train"]', "[]"), "must begin with a verb"),
    (
      _GOOD.replace('["train"]', '["train", "--process_id=1"]'),
      "which the launcher sets for each process",
    ),
    (_GOOD + 'array = "0-2"', "begin with 'study', 'run'"),
    (
      _GOOD.replace('"train"', '"study", "run"') + 'array = "0:2"',
      "array is '0:2'; it must be trials, such as '0-63'",
    ),
    *(
      (_GOOD.replace('"10"', f'"10{bad}--wrap=x"'), "control character")
      for bad in (r"\n#SBATCH ", r"\r", r"\u001b", r"\u0085")
    ),
    (_GOOD.replace('["train"]', r'["train", "a\nb"]'), "control character"),
    (_GOOD + r'sbatch_flags = ["-x\n"]', "control character"),
    (_GOOD + r'setup = "a\u001bb"', "control character"),
    ("name =", "is not TOML"),
    (None, "No such file"),
  ],
)
def test_mistakes_in_the_file(tmp_path, text, sentence):
  """M: one sentence that names the file, and exit code 2."""
  path = tmp_path / "job.toml"
  if text is not None:
    path.write_text(text)
  out, err = launches.launch("slurm.py", path, "--dry_run", code=2)
  assert sentence in err and str(path) in err, err
  assert len(err.strip().splitlines()) == 1 and not out


def test_without_slurm_it_says_so(tmp_path):
  """M: one sentence, exit code 2; and nobody was asked."""
  path = launches.write(tmp_path, "job", _TRAIN, slurm={"time": "10"})
  _, err = launches.launch(
    "slurm.py", path, code=2, env={"PATH": str(tmp_path)}
  )
  assert "there is no sbatch on this machine" in err


@pytest.mark.parametrize("answer", ["", "n\n", "yess\n"])
def test_nothing_is_submitted_without_a_yes(tmp_path, answer):
  """M: what costs is asked for; all but y and yes is a no."""
  sbatch = tmp_path / "sbatch"
  sbatch.write_text("#!/bin/sh\ntouch submitted")
  sbatch.chmod(0o755)
  path = launches.write(tmp_path, "job", _TRAIN, slurm={"time": "10"})
  _, err = launches.launch(
    *("slurm.py", path),
    code=2,
    cwd=tmp_path,
    input=answer,
    stdin=None,
    env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
  )
  assert "[y/N]" in err and "nothing was launched" in err
  assert not (tmp_path / "submitted").exists()


def test_a_batch_script_asks_for_what_the_table_says(tmp_path):
  """M: each key reaches sbatch; bash takes the script as it is."""
  path = launches.write(
    *(tmp_path, "job", [*_STUDY, "--workdir=it's"]),
    slurm={
      "time": "1-0",
      "nodes": 2,
      "gpus_per_node": 8,
      "partition": "p",
      "account": "a --wrap=x",
      "memory": "9G",
      "array": "0-63%8",
      "sbatch_flags": ["--constraint=x"],
      "setup": "module load y",
    },
  )
  script, _ = launches.launch("slurm.py", path, "--dry_run")
  subprocess.run(["bash", "-n"], input=script, text=True, check=True)
  for flag in (
    *("nodes=2", "time=1-0", "gpus-per-node=8", "partition=p", "mem=9G"),
    *("array=0-63%8", "constraint=x", "signal=TERM@120", "open-mode=append"),
  ):
    assert f"#SBATCH --{flag}\n" in script
  assert "#SBATCH --account='a --wrap=x'\n" in script
  assert "--cpus-per-task" not in script  # Not asked for.
  assert "\nmodule load y\n" in script and "--coordinator=" in script
  assert shlex.quote("--workdir=it's") in script
  assert "--trials=$SLURM_ARRAY_TASK_ID" in script


def test_one_process_needs_no_coordinator(tmp_path):
  """M1: a single process is not told to wait for any."""
  path = launches.write(tmp_path, "job", _TRAIN, slurm={"time": "10"})
  script, _ = launches.launch("slurm.py", path, "--dry_run")
  assert "--coordinator" not in script and "--process_id" not in script


def test_local_commands_can_be_pasted(tmp_path):
  """M: --dry_run prints the processes; options override the file."""
  path = launches.write(tmp_path, "job", _TRAIN, local={"processes": 3})
  out, _ = launches.launch("local.py", "--dry_run", "--devices=4", path)
  lines = [shlex.split(line) for line in out.splitlines()]
  assert len(lines) == 4 and lines[-1] == ["wait"]
  for index, words in enumerate(lines[:-1]):
    assert words[1:6] == ["-m", "jaxplay.cli", *_TRAIN]
    assert {f"--process_id={index}", "--num_processes=3"} <= {*words}
    assert "--fake_devices=4" in words and words[-1] == "&"


@pytest.mark.parametrize(
  ("arguments", "sentence"),
  [
    (["--processes=0", "--", "train"], "--processes is 0"),
    (["launch/example.toml", "train"], "one argument too many"),
    (["none.toml"], "No such file"),
  ],
)
def test_local_mistakes(arguments, sentence):
  """M: one sentence, exit code 2."""
  _, err = launches.launch("local.py", *arguments, code=2, cwd=runs.ROOT)
  assert sentence in err and len(err.strip().splitlines()) == 1


@pytest.mark.pods
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_signals_and_codes_on(tmp_path, number):
  """M4, G7: Ctrl-C and SIGTERM end in a checkpoint, and in exit code 75."""
  keys = runs.overrides(max_train_steps=10**6, **runs.MLP)
  path = launches.write(
    *(tmp_path, "job", runs.command(keys, tmp_path / "run")),
    local={"processes": 2, "devices": 1},
  )
  process = subprocess.Popen(
    [sys.executable, "launch/local.py", path],
    cwd=runs.ROOT,
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
  )
  for line in process.stdout:
    if line.startswith("[0] step"):
      process.send_signal(number)
      break
  output = process.communicate(timeout=runs.HANG)[0]
  assert process.returncode == 75, output
  assert "preempted at step" in output
  resume = output.split("next: to resume\n")[1].split("\n")[0]
  launched = (sys.executable, "launch/local.py", "--processes=2", "--devices=1")
  assert shlex.split(resume.removeprefix("[0]")) == [
    *(*launched, "--"),
    *runs.command(keys, tmp_path / "run"),
  ]
  assert any((tmp_path / "run" / "checkpoints").iterdir())
