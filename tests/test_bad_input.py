"""Command lines that ask for what cannot be: a sentence, and nothing else.

Whatever a tired user mistypes, or a stranger hands over: exit code 2, one line
on standard error that holds what is wrong, no traceback, nothing written and
nothing run. The commands are words with blanks between, or lists of words;
`_place` makes what they name.
"""

import os
import shutil

import pytest

from jaxplay import cli
from jaxplay.playbook import result as result_lib
from tests.launch import launches
from tests.scaling import ladders
from tests.study import studies

_DIGITS, _DASHES = "9" * 5_000, "-" * 100_000

# What is no whole number of at least 1, for any argument that counts.
_NO_NUMBERS = [
  *("", " ", "²", "٣", "1e3", "0x10", "-0", "-1", "+3", "1_000", "1.5", "nan"),
  *("inf", "None", "[1]", "'3'", "3\n", "0", "9" * 20, _DIGITS, _DASHES),
]
_NO_FILES = ["", "nowhere", "empty", "fifo", "/dev/null", "a\0b", "file.txt/x"]
# What is no folder, and what is the folder of something else.
_NO_FOLDERS = [
  *("", "nowhere", "file.txt", "file.txt/x", "fifo", "/dev/null", "/proc/x"),
  *("a\0b", "x" * 5_000, "unknown://x", "empty"),
]
# Where nothing can be made.
_NO_WORKDIRS = [
  *("", "file.txt", "file.txt/x", "fifo", "/dev/null", "/dev/null/x"),
  *("/proc/x", "/", "a\0b", "x" * 5_000, "unknown://x", "~/runs"),
]
_NO_RANGES = ["", "1", "1:", "a:b", "1:0.1", "0:1", "nan:1", "1:inf", "²:³"]
_NO_CONFIGS = {
  "list.json": "[]",
  "null.json": "None",
  "number.json": "3",
  "text.json": "'text'",
  "deep.json": "is not JSON",
  "latin.json": "is not JSON",
  "plan/plan.json": "unknown key config.",
  "exit.py": "line 2: it ends the program",
  "argument.py": "FILE:ARG",
  "config.py:8:9": "'8:9'",
  "config.json:8": "takes no argument",
  "latin.py": "does not run",
  "study.py": "get_config()",
}

_TRAIN = "train --config=config.py --workdir=W "
_STUDY = "study run study.py --workdir=W "
_BATCH = "plan batch-size --config=config.py --workdir=W "
_LOOP = "playbook config.py --workdir=W --budget=64 "


def _named(value):
  """How a sentence names a value: as Python writes it, cut if it is long."""
  return repr(value)[:40] if len(value) > 40 else repr(value)


# What is asked for, and what the sentence has to hold.
CASES = [
  ("", "VERB"),
  ("stduy", "invalid choice: 'stduy'"),
  ("--verison", "VERB"),
  # train
  ("train", "--config"),
  ("train config.py --workdir=W", "--config"),
  ("train --config=config.py", "--workdir is missing"),
  (_TRAIN + "more", "unknown argument 'more'"),
  (_TRAIN + "--wrokdir=W", "did you mean --workdir?"),
  (_TRAIN + "--config.", "--config."),
  (_TRAIN + "--config.=3", "unknown key config."),
  (_TRAIN + "--config.batch_size", "--config.batch_size=VALUE"),
  (_TRAIN + "--config.batch_size=", "config.batch_size is ''"),
  (_TRAIN + "--config.bacth_size=8", "did you mean config.batch_size?"),
  (_TRAIN + "--config.batch_size.x=8", "unknown key config.batch_size.x"),
  (_TRAIN + "--config.model=mlp", "is a group of keys"),
  (_TRAIN + "--config.batch_size=1e3", "config.batch_size is 1000.0"),
  (_TRAIN + "--config.batch_size=²", "config.batch_size is '²'"),
  (_TRAIN + f"--config.batch_size={_DASHES}", "config.batch_size is '---"),
  (_TRAIN + f"--config.batch_size={_DIGITS}", "config.batch_size is '999"),
  (_TRAIN + f"--config.batch_size=0x{'f' * 50_000}", "thousands of digits"),
  (_TRAIN + f"--config.mesh.data=0x{'f' * 50_000}", "thousands of digits"),
  (_TRAIN + "--config.mesh.data=0", "config.mesh.data is 0"),
  (_TRAIN + f"--config.keep_steps={9**30}", "config.keep_steps holds"),
  (_TRAIN + f"--config.dataset.shape={9**30},8,1", "config.dataset.shape is"),
  (
    _TRAIN + "--config.model.name=wide_resnet --config.model.strides=1,2",
    "config.model.",
  ),
  (_TRAIN + "--config.mesh.rules=(((", "config.mesh.rules holds '((('"),
  (_TRAIN + "--config.mesh.rules=1if", "config.mesh.rules holds '1if'"),
  (_TRAIN + "--config.averages={}", "config.averages is a group"),
  (_TRAIN + "--config.writers=tensorbord", "config.writers names 'tensorbord'"),
  (_TRAIN + "--config.hparams.learning_rate=nan", "learning_rate is 'nan'"),
  (_TRAIN + "--config.hparams.learning_rate=1e400", "learning_rate is inf"),
  (_TRAIN + "--config.dataset.name=digit", "unknown dataset 'digit'"),
  (_TRAIN + "--config.dataset.name=npz:none.npz", "none.npz'"),
  (_TRAIN + "--config.dataset.name=csv:.", "config.dataset.targets"),
  (_TRAIN + "--profile=9:3", "'9:3'"),
  (_TRAIN + "--profile=²:³", "'²:³'"),
  (_TRAIN + "--profile=1:99", "ends at step 99"),
  (_TRAIN + "--extend_steps=99", "'W' holds no run"),
  ("train --config=config.py --workdir=study", "'study' holds a study"),
  ("train --config=config.py --workdir=ladder", "'ladder' holds a ladder"),
  ("train --config=config.py --workdir=plan", "'plan' holds a plan"),
  ("train --config=config.py --workdir=run", "config."),
  # What is to be one of several processes.
  (_TRAIN + "--num_processes=2", "requires --coordinator and --process_id"),
  (_TRAIN + "--process_id=0", "requires --coordinator and --num_processes"),
  (_TRAIN + "--coordinator=a:1", "requires --num_processes and --process_id"),
  (_TRAIN + "--coordinator=a", "'a'"),
  (_TRAIN + "--coordinator=:1", "':1'"),
  (_TRAIN + "--coordinator=a:0", "'a:0'"),
  (_TRAIN + "--coordinator=a:65536", "'a:65536'"),
  (_TRAIN + "--coordinator=a:²", "'a:²'"),
  (
    _TRAIN + "--coordinator=a:1 --num_processes=2 --process_id=2",
    "got 2",
  ),
  (_TRAIN + f"--fake_devices={10**9}", "at most 4096"),
  (_TRAIN + f"--wait_seconds={10**9}", "at most 1000000"),
  # branch
  ("branch", "RUN"),
  ("branch run --workdir=W", "--step"),
  ("branch study --step=8 --workdir=W", "'study' holds a study, not a run"),
  ("export study --safetensors=w.safetensors", "study/trials/0000"),
  ("branch run --step=99 --workdir=W", "step 99"),
  ("branch run --steps=8,x --workdir=W", "'x'"),
  ("branch run --steps=, --workdir=W", "''"),
  ("branch run --step=8 --steps=9 --workdir=W", "not allowed with"),
  *(
    (
      f"branch run --step=8 --workdir=W --cooldown_fraction={fraction}",
      fraction,
    )
    for fraction in ("0", "1", "2", "nan", "inf", "-1", "1e400", "half", "²")
  ),
  ("branch run --step=8 --workdir=W --shape=sqr", "did you mean 'square'?"),
  ("branch run --step=8 --workdir=W --mixture==1", "'=1'"),
  ("branch run --step=8 --workdir=W --mixture=a=inf", "'a=inf'"),
  ("branch run --step=8 --workdir=W --mixture=digits=1", "leave it out"),
  # study
  ("study", "ACTION"),
  ("study rnu study.py", "invalid choice: 'rnu'"),
  ("study run study.py", "--workdir"),
  (_STUDY.replace("study.py", "config.py"), "defines no get_study()"),
  (_STUDY.replace("study.py", "ladder.py"), "defines no get_study()"),
  (_STUDY.replace("study.py", "exit.py"), "line 2: it ends the program"),
  (_STUDY.replace("study.py", "latin.py"), "study file 'latin.py'"),
  (_STUDY + "--trials=8", "trials 0 to 7"),
  (_STUDY + "--trials=1:0", "--trials=1:0"),
  (_STUDY + "--trials=0:9", "--trials=0:9"),
  (_STUDY + "--trials=²", "got '²'"),
  (_STUDY + "--trials=0:٣", "got '0:٣'"),
  (_STUDY + "--trials=1:2:3", "got '1:2:3'"),
  (_STUDY + "--trials=all", "got 'all'"),
  (_STUDY + f"--trials={_DIGITS}", "got '999"),
  (_STUDY + "--runner=proceses", "'proceses'"),
  ("study run study.py --workdir=run", "'run' holds a run"),
  ("study extend study", "--trials"),
  ("study extend study --trials=7", "7 is less"),
  ("study extend study --trials=10001", "at most 10000"),
  ("study extend run --trials=9", "'run' holds a run, not a study"),
  ("study extend study.py --trials=9", "'study.py' is a file"),
  ("study suggest study", "--trials"),
  ("study suggest study --trials=10001", "at most 10000"),
  ("study suggest study --trials=1 --seed=-1", "'-1'"),
  ("study rerun study", "--best"),
  ("study rerun study --trial=8", "no trial 8"),
  ("study rerun study --trial=²", "'²'"),
  ("study rerun study --trial=0 --best", "not allowed with"),
  ("study rerun study --trial=0 --seeds=1001", "at most 1000"),
  ("study final ladder", "'ladder' holds a ladder, not a study"),
  ("study final study --log=", "''"),
  ("study final study --log=empty", "'empty'"),
  ("study final study --log=nowhere/LOG.md", "'nowhere'"),
  ("study status study more", "unknown argument 'more'"),
  ("study list study.py", "'study.py'"),
  # export
  ("export study", "--csv"),
  ("export nowhere --csv=x.csv", "'nowhere'"),
  ("export ladder --csv=x.csv", "'ladder' holds a ladder, not a study"),
  ("export study --csv=study.py", "'study.py'"),
  ("export study --csv=nowhere/x.csv", "'nowhere'"),
  ("export study --optuna=", "storage"),
  ("export study --optuna=sqlite:////nowhere/x.db", "nowhere"),
  ("export run --optuna=sqlite:///x.db", "'run' holds a run, not a study"),
  ("export study --tensorboard=run", "'run'"),
  ("export study --tensorboard=study.py", "'study.py' is a file"),
  # report and compare
  ("report", "STUDY|RUN|LADDER"),
  ("report nowhere", "'nowhere'"),
  ("report study run", "unknown argument 'run'"),
  ("report study --josn", "did you mean --json?"),
  ("report study --objective=", "--objective"),
  ("report study --objective=valid/los", "'valid/los'"),
  ("report study --objective=last:valid/loss", "'last'"),
  ("report run --objective=x", "logged no 'x'"),
  ("report ladder --objective=x", "'ladder'"),
  ("report ladder --live", "'ladder'"),
  ("report study --format=png", "add --figures=DIR"),
  ("report study --figures=F --format=pdf", "'pdf'"),
  ("report plan", "'plan' holds a plan"),
  ("compare study", "CANDIDATE"),
  ("compare study run more", "unknown argument 'more'"),
  ("compare study study/trials/0099", "no trial 0099"),
  ("compare study study --objective=x", "'x'"),
  *(
    (f"compare study study --smallest={size}", repr(size))
    for size in ("-1", "nan", "inf", "1e400", "²", "some", "")
  ),
  ("compare study study --log=empty", "'empty'"),
  # scaling
  ("scaling", "ACTION"),
  ("scaling run", "FILE"),
  ("scaling run config.py --workdir=W", "defines no get_ladder()"),
  ("scaling run exit.py --workdir=W", "line 2: it ends the program"),
  ("scaling fit study", "'study' holds a study, not a ladder"),
  ("scaling fit ladder --flops=1", "--flops=1"),
  ("scaling fit ladder --flops=1e400", "'1e400'"),
  ("scaling fit ladder --count=x", "'x'"),
  # plan
  ("plan", "PROCEDURE"),
  ("plan setps", "invalid choice: 'setps'"),
  ("plan steps --workdir=W", "--config is missing"),
  ("plan steps --config=config.py", "--workdir"),
  ("plan steps --config=config.py --workdir=study", "'study' holds a study"),
  ("plan steps --config=config.py --workdir=plan", "another plan"),
  ("plan steps --config=config.py --from=study --workdir=W", "leave one"),
  ("plan steps --config=config.py --workdir=W --fit=loss", "METRIC<=X"),
  (
    "plan steps --config=config.py --workdir=W --fit=train/loss<=nan",
    "train/loss<=nan",
  ),
  (
    "plan steps --config=config.py --workdir=W --learning_rates=1e-320:1e-310",
    "'1e-320:1e-310'",
  ),
  ("plan steps --from=run --workdir=W", "'run' holds a run, not a study"),
  *(
    (
      f"plan stability --config=config.py --workdir=W --learning_rates={range}",
      repr(range),
    )
    for range in _NO_RANGES
  ),
  (_BATCH + "--batch_sizes=8,x", "'x'"),
  (_BATCH + "--target=loss", "METRIC<=X"),
  (_BATCH + "--steps=9", "add --target"),
  (_BATCH + "--epochs=9", "equal --target"),
  (_BATCH + "--topology=v5e:2x2 --target=valid/loss<=1", "leave one"),
  ("plan clip study", "'study' holds a study, not a run"),
  ("plan rounds run --steps=99 --workdir=W", "'run' holds a run"),
  ("plan rounds study --steps=3 --workdir=W", "--steps=3"),
  ("plan longest-run --hardware=fast", "'fast'"),
  ("plan longest-run --hardware=nan", "hardware"),
  ("plan longest-run --spread=-1", "spread"),
  ("plan longest-run --deadline=2028-02-30", "'2028-02-30'"),
  ("plan longest-run --deadline=tomorrow", "'tomorrow'"),
  ("plan longest-run --budget=9", "add --deadline=DATE"),
  ("plan longest-run --deadline=2028-01-01 --today=2029-01-01", "2029-01-01"),
  ("plan topology --config=config.py", "--topology"),
  ("plan topology --config=config.py --topology=", "''"),
  ("plan topology --config=config.py --topology=v5e:2x", "v5e:2x"),
  ("plan topology --config=config.py --topology=v5e:²x²", "v5e:²x²"),
  # playbook
  ("playbook --budget=64 --workdir=W", "CONFIG"),
  ("playbook config.py --workdir=W", "--budget"),
  *(
    (f"playbook config.py --workdir=W --budget={budget}", _named(budget))
    for budget in ("", "2d", "nanh", "infh", "-1", "²", "0", "1e400h", _DASHES)
  ),
  (_LOOP + "--seed=-1", "'-1'"),
  (_LOOP + "--learning_rates=1:0", "'1:0'"),
]


def _filled(command, values):
  """The command with each value for V, which the sentence has to name."""
  return [([w.replace("V", v) for w in command.split()], v) for v in values]


# A kind of argument, once with all that is none of it, elsewhere with some.
_KINDS = [
  (_TRAIN + "--extend_steps=V", _NO_NUMBERS),
  (_STUDY + "--parallel=V", _NO_NUMBERS[:6]),
  ("branch run --workdir=W --step=V", _NO_NUMBERS[::3]),
  ("study extend study --trials=V", _NO_NUMBERS[::2]),
  (_BATCH + "--largest=V", _NO_NUMBERS[::5]),
  ("study run study.py --workdir=V", _NO_WORKDIRS),
  ("train --config=config.py --workdir=V", _NO_WORKDIRS[::2]),
  ("branch run --step=8 --workdir=V", _NO_WORKDIRS[1::2]),
  ("report study --figures=V", _NO_WORKDIRS),
  ("plan longest-run --workdir=V", _NO_WORKDIRS[::3]),
  ("scaling run ladder.py --workdir=V", _NO_WORKDIRS[::4]),
  ("report V", _NO_FOLDERS),
  ("compare study V", _NO_FOLDERS[::3]),
  ("branch V --step=8 --workdir=W", _NO_FOLDERS[1::3]),
  ("study status V", _NO_FOLDERS[2::3]),
  ("plan clip V", _NO_FOLDERS[::4]),
  ("scaling fit V", _NO_FOLDERS[1::4]),
  ("train --workdir=W --config=V", [*_NO_FILES, *_NO_CONFIGS]),
  ("study run V --workdir=W", _NO_FILES),
  ("scaling run V --workdir=W", _NO_FILES[::2]),
]
CASES += [
  (words, _NO_CONFIGS.get(value, _named(value)))
  for command, values in _KINDS
  for words, value in _filled(command, values)
]

# Launchers: the arguments, and what the sentence has to hold.
_LAUNCHES = [
  ("slurm.py", "", "FILE"),
  ("slurm.py", "nowhere.toml", "nowhere.toml"),
  ("slurm.py", "empty", "'empty' is no file"),
  ("slurm.py", "fifo", "'fifo' is no file"),
  ("gke.py", "latin.toml", "'latin.toml' is not TOML"),
  ("gke.py", "deep.toml", "'deep.toml' is not TOML"),
  ("gke.py", "good.toml", "no table [gke]"),
  ("tpu_vm.py", "good.toml --poll_seconds=nan", "'nan'"),
  ("tpu_vm.py", "good.toml more", "more"),
  ("local.py", "good.toml more", "'more'"),
  ("local.py", "latin.toml", "'latin.toml' is not TOML"),
  ("local.py", "large.toml", "processes is 1000000000"),
  ("local.py", "--processes=² -- train", "'²'"),
  ("local.py", "--processes=0 -- train", "--processes is 0"),
  ("local.py", f"--processes={10**9} -- train", "--processes is 1000000000"),
  ("local.py", f"--devices={10**9} -- train", "--devices is 1000000000"),
]
_GOOD = 'name = "x"\narguments = ["train"]\n'


@pytest.fixture(scope="module")
def place(finished_study, tmp_path_factory):
  """A folder of everything that one may name, and of much that is none."""
  folder = tmp_path_factory.mktemp("place")
  shutil.copytree(finished_study, folder / "study")
  shutil.copytree(finished_study / "trials" / "0000", folder / "run")
  ladders.make(
    folder / "ladder", widths=(32, 48, 64), steps=(500, 1_000, 2_000)
  )
  plan = result_lib.PlanDir(folder / "plan")
  plan.create("steps", {})
  studies.write(folder, num_trials=8)
  (folder / "empty").mkdir()
  os.mkfifo(folder / "fifo")
  files = {
    "file.txt": "text",
    "list.json": "[]",
    "null.json": "null",
    "number.json": "3",
    "text.json": '"text"',
    "deep.json": "[" * 100_000,
    "latin.json": b'{"seed": "\xff"}',
    "config.json": "{}",
    "exit.py": "import sys\nsys.exit(0)\n",
    "argument.py": "def get_config(width): pass\n",
    "latin.py": b"x = '\xff'",
    "ladder.py": "def get_ladder(): 1 / 0\n",
    "good.toml": _GOOD + "[local]\n[tpu_vm]\n",
    "latin.toml": b"name = '\xff'",
    "deep.toml": "x = " + "[" * 100_000,
    "large.toml": _GOOD + "[local]\nprocesses = 1000000000\n",
  }
  for name, text in files.items():
    data = text if isinstance(text, bytes) else text.encode()
    (folder / name).write_bytes(data)
  return folder


def _listed(folder):
  """All that is in a folder -> the time and size of what is no folder."""
  found = {path: path.lstat() for path in folder.rglob("*")}
  return {
    path: not path.is_dir() and (stat.st_mtime_ns, stat.st_size)
    for path, stat in found.items()
  }


def _is_one_sentence(error):
  return error.count("\n") == 1 and len(error) < 2_000


@pytest.mark.parametrize("command, words", CASES)
def test_a_bad_command_line(place, monkeypatch, capsys, command, words):
  """Bad input: exit code 2, one sentence on what is wrong, nothing written."""
  monkeypatch.chdir(place)
  before = _listed(place)
  command = command.split() if isinstance(command, str) else command
  assert studies.call(*command) == cli.common.EXIT_WRONG
  output, error = capsys.readouterr()
  assert words in error and _is_one_sentence(error), error
  assert error.startswith("jaxplay: ") and not output
  assert _listed(place) == before


@pytest.mark.parametrize("launcher, arguments, words", _LAUNCHES)
def test_a_bad_launch(place, launcher, arguments, words):
  """Bad input: launchers refuse as all else does."""
  before = _listed(place)
  arguments = arguments.split()
  output, error = launches.launch(launcher, *arguments, code=2, cwd=place)
  assert words in error and _is_one_sentence(error), error
  assert not output and _listed(place) == before


def test_there_are_enough():
  """Bad input: every verb of the command line, 150 lines at the least."""
  assert len(CASES) + len(_LAUNCHES) >= 150
