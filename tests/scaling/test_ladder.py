"""Ladders: their files, reading and running them."""

import json
import pathlib
import re
import shutil
import signal

import numpy as np
import pytest

import jaxplay
from jaxplay import cli, report, rundir
from jaxplay import config as config_lib
from jaxplay.scaling import ladder
from jaxplay.scaling import law as law_lib
from jaxplay.scaling import plots as plots_ladder
from jaxplay.scaling import result as result_lib
from jaxplay.training import checkpoint_files
from tests import browser
from tests.scaling import ladders
from tests.study import studies

_FILE = """
from jaxplay import config as config_lib
from jaxplay.scaling import ladder


def get_config():
  config = config_lib.base()
  config.batch_size = 8
  config.eval_batch_size = 8
  config.log_every = 2
  config.eval_every = 10
  config.num_predictions = 0
  config.objective = "valid/loss"
  config.optimizer = "adamw"
  config.hparams.learning_rate = 3e-3
  config.dataset.name = "text:{folder}/text/*.txt"
  config.dataset.valid_files = "{folder}/valid/*.txt"
  config.dataset.data_dir = "{folder}/cache"
  config.dataset.sequence_length = 8
  config.model.name = "lm"
  config.model.norm = "rms"
  config.model.heads = 1
  config.model.depth = 1
  return config


def get_ladder():
  return ladder.Ladder(**({fields}))
"""
_FIELDS = dict(
  goal="How?",
  config="ladder.py",
  sizes={"tiny": {"model.width": 8}, "small": {"model.width": 16}},
  steps=(10, 20),
)


def _write(folder, **fields):
  """Writes a ladder file with its config and text; returns its path."""
  for name in ("text", "valid"):
    (folder / name).mkdir(exist_ok=True)
    for i in range(6):
      (folder / name / f"{i}.txt").write_text(f"{name} {i} " * 40)
  path = folder / "ladder.py"
  text = _FILE.format(folder=folder, fields=repr(_FIELDS | fields))
  path.write_text(text)
  return str(path)


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
  """A generated ladder of six sizes and four lengths."""
  return ladders.make(tmp_path_factory.mktemp("ladder") / "made up").path


def test_points_of_a_ladder(made_up):
  """S5: a point for each branch, with N without embeddings, D and C."""
  results = ladder.read(made_up)
  assert len(results.points) == len(ladders.WIDTHS) * len(ladders.STEPS)
  sizes = list(dict.fromkeys(point.size for point in results.points))
  assert sizes == [f"w{width}" for width in ladders.WIDTHS]  # smallest first
  assert list(results.base_runs) == sizes
  point = results.points[0]
  counts = ladders.counts(ladders.WIDTHS[0])
  assert point.parameters == counts["parameters"]["attention"]
  assert point.embedding_parameters == counts["parameters"]["embedding"]
  assert point.tokens == ladders.STEPS[0] * ladders.TOKENS_PER_STEP
  assert point.flops == ladders.STEPS[0] * counts["flops_per_step"]["formula"]
  compiled = ladder.read(made_up, "compiled").points[0]
  assert compiled.flops == pytest.approx(1.1 * point.flops)
  assert compiled.loss == point.loss and point.cooled


def test_compute_of_a_ladder(made_up):
  """S5: base runs and cooldowns, compared with separate runs."""
  spent = ladder.read(made_up).spent
  per_step = sum(
    ladders.counts(width)["flops_per_step"]["formula"]
    for width in ladders.WIDTHS
  )
  cooldowns = 0.2 * sum(ladders.STEPS)
  assert spent.spent == pytest.approx(
    per_step * (0.8 * max(ladders.STEPS) + cooldowns)
  )
  assert spent.from_scratch == pytest.approx(per_step * sum(ladders.STEPS))
  assert spent.spent / spent.from_scratch < 0.65


def test_an_unfinished_ladder(tmp_path):
  """Only completed branches are points."""
  made = ladders.make(tmp_path, widths=(32, 64), finished=(500,))
  made.branch("w32", 500).write_status("running", step=7)
  results = ladder.read(tmp_path)
  assert [point.size for point in results.points] == ["w64"]
  path = tmp_path / "report.html"
  report.write_ladder(results, None, [], path=path)
  page = _payload(path)
  assert "Nothing" not in json.dumps(page["tables"] + page["numbers"])
  shutil.rmtree(tmp_path / "sizes")
  results = ladder.read(tmp_path)
  assert not results.points and results.spent is None
  report.write_ladder(results, None, [], path=path)


def _payload(path):
  text = pathlib.Path(path).read_text()
  return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def test_the_report_shows_the_fit(made_up, capsys):
  """S5: law, best models, compute and every point; each figure is valid."""
  assert studies.call("report", made_up) == 0
  out = capsys.readouterr().out
  results = ladder.read(made_up)
  law = law_lib.fit(results.points)
  assert f"L(N, D) = {law.irreducible:.4g} + " in out
  page = _payload(made_up / "report.html")
  tables = {t: rows for t, _, _, rows in page["tables"] + page["numbers"]}
  found = dict(row[:2] for row in tables["L(N, D) = E + A / N^a + B / D^b"])
  assert found["a"] == pytest.approx(law.exponent_n)
  assert len(tables["Points"]) == len(results.points)
  assert len(tables["The best model for a budget"]) == 3
  budgets = tables["The best model for a budget"]
  assert "(extrapolated)" in budgets[1][0]
  # The best D of the last is more than MAX_FACTOR outside the points.
  assert budgets[-1][1:] == ["not determined"] * 4 + [None]
  slices = tables["The best size of isoFLOP slices"]
  assert {row[2] == "not determined" for row in slices} == {True, False}
  ratio = tables["Compute"][0][-1]
  assert ratio == pytest.approx(
    results.spent.spent / results.spent.from_scratch
  )
  names = [figure["name"] for figure in page["figures"]]
  assert len(names) == 5 and {f["group"] for f in page["figures"]} == set(
    plots_ladder.GROUPS
  )
  for figure in plots_ladder.figures(results, law):
    figure.chart.to_dict(validate=True)
  checks = {finding["check"] for finding in page["findings"]}
  assert "embedding_parameters" in checks


def test_a_ladder_as_a_result(made_up):
  """S5: tables of the law, budgets, compute and points, if there is a law."""
  results = ladder.read(made_up)
  law = law_lib.fit(results.points)
  whole = result_lib.as_result(results, law, [])
  assert len(whole.tables) == 5 and whole.details["law"]
  assert len(whole.tables[0].rows) == len(law_lib.COEFFICIENTS)
  assert whole.tables[0].rows[2][:2] == ["a", law.exponent_n]
  assert len(whole.tables[-1].rows) == len(results.points)
  without = result_lib.as_result(results, None, [], why="3 points")
  assert len(without.tables) == 2 and "3 points" in without.summary[0]


def test_the_law_of_a_directory(made_up):
  """S5: the law is recovered from the directory."""
  law = law_lib.fit(ladder.read(made_up).points)
  assert law.exponent_n == pytest.approx(ladders.LAW[2], abs=0.06)
  assert law.exponent_d == pytest.approx(ladders.LAW[4], abs=0.06)
  assert law.irreducible == pytest.approx(ladders.LAW[0], abs=0.15)


def test_fit_for_a_budget(made_up, capsys):
  """S5: the best model for a budget; far outside only with --extrapolate."""
  budget = 1e13
  assert studies.call("scaling", "fit", made_up, f"--flops={budget}") == 0
  out = capsys.readouterr().out
  best = law_lib.fit(ladder.read(made_up).points).optimal(budget)
  assert f"parameters N    {best.parameters.value:.4g} (" in out
  far = ("scaling", "fit", made_up, "--flops=1e20")
  assert studies.call(*far) == cli.common.EXIT_WRONG
  assert "times outside" in capsys.readouterr().err
  assert studies.call(*far, "--extrapolate", "--json") == 0
  printed = json.loads(capsys.readouterr().out)
  assert printed["optimum"]["factor"] > law_lib.MAX_FACTOR
  assert studies.call(*far[:3], "--count=compiled", "--count_embeddings") == 0


@pytest.mark.skipif(browser.BINARY is None, reason="there is no chromium")
def test_the_page_in_a_browser(made_up, capsys):
  """The report of a ladder draws all its figures without an exception."""
  studies.call("report", made_up)
  with browser.Browser() as window:
    window.open(str(made_up / "report.html"))
    text = window.run("document.body.innerText")
    drawn = window.run("document.querySelectorAll('.view svg.marks').length")
    assert drawn == 5
    assert "How does the loss fall?" in text and "<made> up" in text
    assert not [e for e in window.events if "xception" in json.dumps(e)]


def test_figures_as_files(made_up, tmp_path):
  """Each figure without a browser."""
  assert studies.call("report", made_up, f"--figures={tmp_path}") == 0
  files = sorted(tmp_path.glob("*.svg"))
  assert len(files) == 5 and all(path.stat().st_size > 2000 for path in files)


REFUSED = {
  "one size": (dict(sizes={"a": {"model.width": 8}}), "got 1"),
  "no sizes": (dict(sizes=3), "as sizes, got 3"),
  "a number": (dict(sizes={"a": 8, "b": 16}), "as sizes, got {'a': 8"),
  "a path": (
    dict(sizes={"../a": {"model.width": 8}, "b": {"model.width": 16}}),
    "name of a size '../a'",
  ),
  "twins": (
    dict(sizes={"a": {"model.width": 8}, "b": {"model.width": 8}}),
    "'a' and 'b' are the same model",
  ),
  "other text": (
    dict(sizes={"a": {"dataset.sequence_length": 8}, "b": {}}),
    "sets 'dataset.sequence_length'",
  ),
  "schedule": (dict(overrides={"schedule": "cosine"}), "sets 'schedule'"),
  "error rate": (
    dict(overrides={"objective": "valid/error_rate"}),
    "got 'valid/error_rate'",
  ),
  "one length": (dict(steps=20), "steps of size 'tiny', got 20"),
  "typo of a size": (
    dict(steps={"tiny": (10,), "small": (10,), "smal": (10,)}),
    "unknown size 'smal'",
  ),
  "long rows": (
    dict(overrides={"dataset.sequence_length": 10**8}),
    "not enough for one row",
  ),
  "no goal": (dict(goal=" "), "has no goal"),
  "no lengths": (dict(steps=()), "steps of size 'tiny', got ()"),
  "odd lengths": (dict(steps=(10, -1)), "got (10, -1)"),
  "lengths of one": (dict(steps={"tiny": (10,)}), "steps of size 'small'"),
  "no config": (dict(config="nowhere.py"), "there is no config file"),
  "typo": (dict(overrides={"batch_siz": 8}), "did you mean config.batch_size?"),
  "fraction": (dict(cooldown_fraction=1.5), "(0, 1), got 1.5"),
  "shape": (dict(cooldown_shape="sqrt"), "config.cooldown_shape is 'sqrt'"),
  "width": (
    dict(sizes={"a": {"model.width": 8}, "b": {"model.width": -1}}),
    "config.model.width is -1",
  ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_bad_ladder_files(tmp_path, capsys, case):
  """Bad input: one sentence, exit code 2, and no training."""
  fields, sentence = REFUSED[case]
  path = _write(tmp_path, **fields)
  code = studies.call("scaling", "run", path, f"--workdir={tmp_path / 'L'}")
  error = capsys.readouterr().err
  assert code == cli.common.EXIT_WRONG
  assert sentence in error and error.count("\n") == 1
  assert not (tmp_path / "L").exists()


def test_what_is_not_determined_is_no_number(tmp_path, capsys):
  """S5: no nan, inf or model of 0 parameters in output, JSON or report."""
  path = tmp_path / "L"
  ladders.make(path, widths=(32, 48, 64), steps=(500, 700, 1_000), noise=0.05)
  assert studies.call("scaling", "fit", path) == 0
  assert studies.call("report", path) == 0
  out = capsys.readouterr().out
  assert "not determined" in out
  words = re.findall(r"[\w.+-]+", out)
  assert not {"nan", "inf", "-inf"} & set(words)
  assert studies.call("scaling", "fit", path, "--json") == 0
  row = json.loads(
    capsys.readouterr().out, parse_constant=lambda name: pytest.fail(name)
  )
  checks = {check["check"]: check["verdict"] for check in row["findings"]}
  assert checks["at_bounds"] in ("warn", "fail")
  page = _payload(path / "report.html")
  cells = {
    str(cell)
    for _, _, _, rows in page["tables"]
    for table_row in rows
    for cell in table_row
  }
  assert "not determined" in cells
  assert not {"nan", "inf", "0"} & cells


def test_proportional_ladders_have_no_law(tmp_path, capsys):
  """Bad input: one sentence, with what to train next."""
  directory = ladders.make(tmp_path / "L", noise=0.0, only_ratio=True)
  code = studies.call("scaling", "fit", directory.path)
  assert code == cli.common.EXIT_WRONG
  error = capsys.readouterr().err
  assert "durations" in error and error.count("\n") == 1
  assert studies.call("report", directory.path) == 0
  assert "No law yet" in capsys.readouterr().out


def test_compiled_flops_that_were_not_counted(tmp_path, capsys):
  """Bad input: the compiler does not count on every device."""
  directory = ladders.make(tmp_path / "L")
  counts = ladders.counts(32)
  counts["flops_per_step"]["compiled"] = None
  directory.write_counts("w32", counts)
  verb = ("scaling", "fit", directory.path, "--count=compiled")
  assert studies.call(*verb) == cli.common.EXIT_WRONG
  assert "--count=formula" in capsys.readouterr().err


def test_too_few_points(tmp_path, capsys):
  """Bad input: too few points for a fit."""
  ladders.make(tmp_path / "L", widths=(32, 48, 64), steps=(500,))
  assert studies.call("scaling", "fit", tmp_path / "L") == cli.common.EXIT_WRONG
  error = capsys.readouterr().err
  assert error.startswith("jaxplay: 3 points") and error.count("\n") == 1, error
  assert studies.call("report", tmp_path / "L") == 0
  assert "No law yet: 3 points" in capsys.readouterr().out
  (sentence,) = _payload(tmp_path / "L" / "report.html")["said"]
  assert "3 points" in sentence


def test_another_ladder_in_the_same_folder_is_refused(tmp_path):
  """A ladder may grow, but its points have to stay comparable."""
  ladders.make(tmp_path, widths=(32, 64), steps=(500,))
  directory = ladder.LadderDir(tmp_path)
  grown = ladders.definition(widths=(32, 64, 96), steps=(500, 1000))
  directory.create(grown)
  assert set(directory.ladder()["sizes"]) == {"w32", "w64", "w96"}
  fraction = "cooldown_fraction was 0.2 and is now 0.3"
  with pytest.raises(jaxplay.UserError, match=fraction):
    directory.create(grown | {"cooldown_fraction": 0.3})
  with pytest.raises(jaxplay.UserError, match="size 'w32' was"):
    directory.create(grown | {"sizes": {"w32": {"model.width": 9}}})
  shorter = ladders.definition(widths=(32, 64, 96), steps=(1000,))
  with pytest.raises(jaxplay.UserError, match=r"lengths \[500\]"):
    directory.create(shorter)
  run = rundir.RunDir(tmp_path / "run")
  run.create()
  run.write_config({})
  with pytest.raises(jaxplay.UserError, match="holds a run"):
    ladder.LadderDir(run.path).create(grown)
  # A folder holds a single kind of directory.
  for kind in ("a run", "a study"):
    with pytest.raises(jaxplay.UserError, match="holds a ladder"):
      rundir.refuse_other(tmp_path, kind)


def test_model_sizes(tmp_path):
  """S5: a base run ends where its last branch starts, and keeps each start."""
  definition = ladder.load(_write(tmp_path, steps=(10, 25, 40)))
  model_sizes = ladder.model_sizes(definition)
  assert [size.name for size in model_sizes] == ["tiny", "small"]
  for size in model_sizes:
    assert size.starts == {10: 8, 25: 20, 40: 32}
    assert size.config.schedule == "constant"
    assert size.config.max_train_steps == 32
    assert set(size.config.keep_steps) == {8, 20, 32}
    assert {c.max_train_steps for c in size.branches.values()} == {10, 25, 40}


def test_lengths_of_branches(tmp_path):
  """S5: also if two cooldowns begin at the same step after rounding."""
  lengths = tuple(range(3, 40))
  definition = ladder.load(_write(tmp_path, steps=lengths))
  for size in ladder.model_sizes(definition):
    assert len({*size.starts.values()}) < len(lengths)
    for steps, config in size.branches.items():
      assert config.max_train_steps == steps


@pytest.mark.pods
def test_a_ladder_runs_resumes_and_grows(tmp_path, capsys):
  """S5: stopped in a branch and resumed, then with an additional length."""
  path = _write(tmp_path)
  arguments = ("scaling", "run", path, f"--workdir={tmp_path / 'L'}")
  process = studies.start(
    *arguments, signal=signal.SIGTERM, moment="step == 18"
  )
  studies.finish(process, cli.common.EXIT_PREEMPTED)
  assert studies.call(*arguments) == 0
  results = ladder.read(tmp_path / "L")
  assert [(p.size, p.tokens) for p in results.points] == [
    (size, steps * 64) for size in ("tiny", "small") for steps in (10, 20)
  ]
  assert results.unique_tokens > 0
  base_run = results.base_runs["tiny"]
  assert {8, 16} <= set(checkpoint_files.steps(base_run.checkpoints))
  config = config_lib.from_json(results.branches["tiny"][20].config())
  assert (config.schedule, config.max_train_steps) == ("wsd", 20)
  before = {
    r: r.metrics() for runs in results.branches.values() for r in runs.values()
  }
  assert "No law yet" in capsys.readouterr().out
  # A second call trains nothing.
  assert studies.call(*arguments) == 0
  assert all(run.metrics() == lines for run, lines in before.items())
  # An additional length continues the base run.
  _write(tmp_path, steps=(10, 20, 40))
  assert studies.call(*arguments) == 0
  results = ladder.read(tmp_path / "L")
  assert len(results.points) == 6
  assert results.base_runs["tiny"].status()["step"] == 32
  loss = np.array([p.loss for p in results.points]).reshape(2, 3)
  assert np.isfinite(loss).all() and (loss[:, 2] < loss[:, 0]).all()
