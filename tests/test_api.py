"""The Python API: `import jaxplay as jp`."""

import ast
import contextlib
import doctest
import inspect
import pathlib
import re
import shutil
import subprocess
import sys
from unittest import mock

import pytest

import jaxplay as jp
from jaxplay.api import arguments, devices
from tests.scaling import ladders
from tests.study import studies

_ROOT = pathlib.Path(jp.__file__).parents[1]
_NOTEBOOK = _ROOT / "docs" / "notebook.py"


@pytest.fixture(autouse=True)
def _as_before():
  yield
  jp.show_progress(True)
  devices.configure(devices.Devices())


_LADDER = """
import jaxplay as jp
from jaxplay import config as config_lib


def get_config():
  config = jp.base_config()
  config.batch_size = config.eval_batch_size = 8
  config.objective = "valid/loss"
  config.optimizer = "adamw"
  config.export = False
  config.num_predictions = 0
  config.dataset.name = "text:train.txt"
  config.dataset.valid_files = "valid.txt"
  config.dataset.data_dir = "cache"
  config.dataset.sequence_length = 8
  config.model.name = "lm"
  config.model.norm = "rms"
  config.model.heads = config.model.depth = 1
  return config


def get_ladder():
  return jp.Ladder(
    goal="How does the loss fall?",
    config="ladder.py",
    sizes={f"w{width}": {"model.width": width} for width in (8, 16, 24)},
    steps=(10, 20),
  )
"""


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  """A folder with what the examples begin with."""
  folder = tmp_path_factory.mktemp("examples")
  mlp = "experiments/digits_mlp"
  shutil.copytree(_ROOT / mlp, folder / mlp)
  (folder / "ladder.py").write_text(_LADDER)
  for name in ("train.txt", "valid.txt"):
    (folder / name).write_text(name * 200)
  ladders.make(folder / "runs" / "ladder")
  with contextlib.chdir(folder):
    jp.show_progress(False)
    config = jp.load_config(f"{mlp}/config.py", {"max_train_steps": 20})
    constant = {"schedule": "constant", "keep_steps": (20,), "log_every": 2}
    jp.train(jp.load_config(config, constant), "runs/constant")
    study = jp.Study(
      goal="Which learning rate?",
      config=f"{mlp}/config.py",
      space={"hparams.learning_rate": jp.Float(0.01, 1.0, scale="log")},
      overrides={
        "max_train_steps": 20,
        "eval_every": 2,
        "schedule": "constant",
      },
      num_trials=8,
    )
    jp.run_study(study, "runs/study")
  return folder


# Minutes in all: with the tests of pods.
_LONG = {"plan_batch_size", "plan_stability", "run_ladder", "run_playbook"}


def _examples():
  """Every example of the public functions and classes."""
  finder = doctest.DocTestFinder(recurse=False)
  for name in sorted(jp._PUBLIC):
    marks = [pytest.mark.pods] if name in _LONG else []
    for example in finder.find(getattr(jp, name), name):
      yield pytest.param(example, id=name, marks=marks)


@pytest.mark.parametrize("example", list(_examples()))
def test_examples_run(example, prepared, tmp_path, monkeypatch):
  """API: every public function has an example, which gives what it shows."""
  assert example.examples, "it has no example"
  shutil.copytree(prepared, tmp_path / "copy")
  monkeypatch.chdir(tmp_path / "copy")
  jp.show_progress(False)
  runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
  with mock.patch.object(devices, "start"):  # JAX has begun already.
    assert not runner.run(example).failed


def test_names_for_type_checkers_are_the_public_ones():
  """API: what is imported late and what a type checker sees agree."""
  tree = ast.parse(pathlib.Path(jp.__file__).read_text())
  seen = {
    alias.name: node.module
    for node in ast.walk(tree)
    if isinstance(node, ast.ImportFrom) and node.module.startswith("jaxplay")
    for alias in node.names
  }
  assert seen == jp._PUBLIC


def test_every_public_function_is_documented():
  """API: every argument of a public function has a description and a type."""
  for name in jp._PUBLIC:
    value = getattr(jp, name)
    assert inspect.getdoc(value), name
    if not inspect.isfunction(value):
      continue
    for argument in arguments.of(value).values():
      assert argument.description, f"{name}: {argument.name}"
    for parameter in inspect.signature(value).parameters.values():
      assert parameter.annotation is not inspect.Parameter.empty, name


def test_importing_imports_no_jax():
  """API: reading a pod's run on a laptop costs no JAX."""
  program = "import sys, jaxplay as jp; jp.read, jp.check, jp.run_study"
  program += "; assert not {'jax', 'flax', 'orbax'} & set(sys.modules)"
  subprocess.run([sys.executable, "-c", program], check=True, cwd=_ROOT)


@pytest.mark.parametrize(
  ("call", "value"),
  [
    (lambda path: jp.rerun_study(path, best=True, seeds=0), "0"),
    (lambda path: jp.rerun_study(path, best=True, seeds="many"), "many"),
    (lambda path: jp.rerun_study(path), "best_of_each"),
    (lambda path: jp.extend_study(path, trials=2.5), "2.5"),
    (lambda path: jp.run_study(path / "none.py", path), "none.py"),
    (lambda path: jp.train("none.py", path), "none.py"),
    (lambda path: jp.branch(path, path), "step"),
    (lambda path: jp.write_report(path, format="pdf"), "pdf"),
    (lambda path: jp.plan_clip(path / "none"), "none"),
    (lambda path: jp.use_devices(fake_devices=0), "0"),
    (lambda path: jp.use_devices(process_id=1), "--coordinator"),
    (lambda path: jp.plan_longest_run(hardware="fast"), "fast"),
  ],
)
def test_mistakes_raise_one_sentence(tmp_path, call, value):
  """Errors: a wrong argument is named with its value, and nothing is made."""
  with pytest.raises(jp.UserError) as error:
    call(tmp_path)
  assert value in str(error.value) and "\n" not in str(error.value)
  assert not list(tmp_path.iterdir())


def test_a_call_records_the_command_that_does_the_same(tmp_path):
  """API: what a study keeps as its command runs on the command line."""
  file = studies.write(tmp_path) if hasattr(studies, "write") else None
  if file is None:
    study = jp.Study(
      goal="Which learning rate?",
      config=str(_ROOT / "experiments" / "digits_mlp" / "config.py"),
      space={"hparams.learning_rate": jp.Float(0.01, 1.0, scale="log")},
      overrides={"max_train_steps": 10},
      num_trials=2,
    )
    file = study
  jp.show_progress(False)
  with mock.patch.object(devices, "start"):
    outcome = jp.run_study(file, tmp_path / "study", report=False)
  assert sum(outcome.counts.values()) == len(outcome.results.trials)
  command = outcome.results.study["command"]
  assert {"study", "run"} < set(command)


def test_documents_name_functions_that_exist():
  """API: what README.md and docs/ call; and docs/api.md lists all of it."""
  texts = [_ROOT / "README.md", *(_ROOT / "docs").rglob("*.md")]
  called = {n for t in texts for n in re.findall(r"\bjp\.(\w+)", t.read_text())}
  assert called and called <= {*jp.__all__}
  reference = (_ROOT / "docs" / "api.md").read_text()
  listed = re.findall(r"^        - (\w+)$", reference, re.MULTILINE)
  assert sorted(listed) == sorted(jp.__all__)


@pytest.mark.pods
def test_the_notebook_runs(prepared, tmp_path, monkeypatch):
  """API: docs/notebook.py, cell by cell; results have an HTML form."""
  shutil.copytree(prepared / "experiments", tmp_path / "experiments")
  monkeypatch.chdir(tmp_path)
  cells = re.split(r"^# %%.*$", _NOTEBOOK.read_text(), flags=re.MULTILINE)
  names, shown = {}, []
  for cell in cells:
    *statements, last = ast.parse(cell).body or [ast.parse("0").body[0]]
    if not isinstance(last, ast.Expr):
      statements, last = [*statements, last], None
    exec(compile(ast.Module(statements, []), "notebook", "exec"), names)
    if last is not None:
      value = eval(
        compile(ast.Expression(last.value), "notebook", "eval"), names
      )
      shown += [value] if hasattr(value, "_repr_html_") else []
  assert len(shown) == 3
  for value in shown:
    assert re.match("<(table|p)>", value._repr_html_())
  assert (tmp_path / "runs" / "notebook" / "steps" / "report.html").exists()


_BAD_CALLS = [
  ("load_config(None)", "config:"),
  ("load_config(5)", "config:"),
  ("load_config('')", "config:"),
  ("load_config(C, ['a=1'])", "overrides:"),
  ("load_config(C, {3: 4})", "overrides:"),
  ("train(C, 5)", "workdir:"),
  ("train(C, '')", "workdir:"),
  ("train(C, 'w', profile=(3, 1))", "profile:"),
  ("train('nope.py', 'w')", "'nope.py'"),
  ("train(C, 'w', extend_steps=True)", "extend_steps:"),
  ("branch('runs/constant', 'w', steps=[])", "steps:"),
  ("branch('runs/constant', 'w', step=20, overrides=['x'])", "overrides:"),
  ("branch('runs/constant', 'w', step=20, shape=3)", "shape:"),
  ("branch('runs/constant', 'w', step=20, mixture=3)", "mixture:"),
  ("run_study(None, 'w')", "study:"),
  ("run_study(S, 'w', trials=900)", "trials"),
  ("run_study(S, 'w', trials=[])", "trials:"),
  ("run_study(S, 'w', trials=['x'])", "trials:"),
  ("run_study(S, 'w', runner='processes')", "jaxplay.Runner"),
  ("run_study(S, 'w', runner=jp.Runner(kind='thread'))", "'thread'"),
  ("run_study(S, 'w', runner=jp.Runner(parallel=0))", "parallel:"),
  ("run_study(S, 'w', report=3)", "report:"),
  ("extend_study('runs/study', '-1')", "trials:"),
  ("extend_study('runs/study', 10**5000)", "trials:"),
  ("rerun_study('runs/study', trial=99)", "99"),
  ("rerun_study('runs/study')", "best"),
  ("suggest('runs/study', 0)", "trials:"),
  ("find_studies(None)", "root:"),
  ("find_studies('nowhere')", "'nowhere'"),
  ("read(R)", "path:"),
  ("read('nowhere')", "'nowhere'"),
  ("read_run(None)", "path:"),
  ("check([1])", "study:"),
  ("compare(R, 3)", "candidate:"),
  ("compare(R, R, smallest=float('nan'))", "smallest:"),
  ("figures(jp.Study)", "study:"),
  ("write_figures(R, 'figs', 'gif')", "'gif'"),
  ("write_figures('nowhere', 'figs')", "'nowhere'"),
  ("write_report('runs/study', format='png')", "figures"),
  ("plan_steps(C, 'w', fit=3)", "fit:"),
  ("plan_steps(C)", "workdir"),
  (
    "plan_steps(jp.load_config(C, {'task.name': 'regression',"
    " 'objective': 'valid/loss'}), 'w')",
    "fit",
  ),
  ("plan_topology(C, None)", "topology:"),
  ("plan_topology(C, [])", "topology:"),
  ("run_playbook(C, 'w', budget=0)", "budget"),
  ("run_playbook(C, 'w', budget=None)", "budget:"),
  ("plan_longest_run(hardware='fast')", "hardware:"),
  ("run_ladder(None, 'w')", "ladder:"),
  ("fit_scaling_law(None)", "ladder:"),
  ("use_devices(wait_seconds='x')", "wait_seconds:"),
  ("use_devices(fake_devices=0)", "fake_devices:"),
]


@pytest.mark.parametrize("call, part", _BAD_CALLS)
def test_bad_arguments(call, part, prepared, monkeypatch):
  """Bad input: one short sentence that names the argument; nothing is left."""
  monkeypatch.chdir(prepared)
  names = {
    "jp": jp,
    "C": "experiments/digits_mlp/config.py",
    "R": jp.read("runs/study"),
    "S": "experiments/digits_mlp/study_lr.py",
  }
  before = studies.files(prepared)
  with mock.patch.object(devices, "start"):  # JAX has begun already.
    with pytest.raises(jp.UserError) as error:
      eval(f"jp.{call}", names)
  message = str(error.value)
  assert part in message and "\n" not in message and len(message) < 500
  assert studies.files(prepared) == before


def test_results_are_compared_by_another_objective(prepared, monkeypatch):
  """API: results and their path give the same, by any objective."""
  monkeypatch.chdir(prepared)
  results = jp.read("runs/study")
  for objective in (None, "valid/loss"):
    of_results = jp.compare(results, results, objective=objective)
    of_paths = jp.compare("runs/study", "runs/study", objective=objective)
    assert of_results == of_paths
    assert of_results.objective == (objective or results.objective)


def test_an_unknown_argument_names_the_function():
  """Bad input: Python's own error, with the function and what it takes."""
  with pytest.raises(TypeError, match=r"train\(\).*'extend'.*extend_steps"):
    jp.train("config.py", "w", extend=3)
  with pytest.raises(TypeError, match=r"train\(\).*'workdir'"):
    jp.train("config.py")


def test_devices_come_before_jax():
  """API: devices that JAX cannot have any more are refused at once."""
  with pytest.raises(jp.UserError, match="too late"):
    jp.use_devices(fake_devices=3)
