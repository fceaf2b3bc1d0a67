"""The report: what it says, and how it behaves in a real browser."""

import dataclasses
import json
import math
import pathlib
import re
import shlex
import xml.etree.ElementTree

import numpy as np
import pytest
from PIL import Image
from scipy import stats

import jaxplay
from jaxplay import finding, report
from jaxplay.analysis import (
  checklist,
  compare,
  plot_rows,
  plots,
  plots_compare,
  plots_study,
)
from jaxplay.playbook import result as result_lib
from jaxplay.report import study as study_page
from jaxplay.study import space as space_lib
from tests import browser, made_up
from tests.analysis import by_hand

HOSTILE = "</script><script>window.hurt=1</script><img src=x onerror=hurt=2>"
# A label with all that an expression or a field name could trip over.
HOSTILE_CHOICE = "a'\"`\\[0].b </script><i>ü→日本"


_NONE = np.zeros(0)


@pytest.fixture(scope="module")
def study():
  return made_up.study()


def payload(path):
  """What the page knows."""
  text = path.read_text()
  return json.loads(re.search(r'id="data">(.*?)</script>', text, re.S)[1])


def hostile_study():
  """Every text of a study is an attack."""
  space = {
    "hparams.learning_rate": space_lib.Float(1e-4, 1.0, "log"),
    "model.name": space_lib.Choice((HOSTILE_CHOICE, "mlp"), role="scientific"),
  }
  study = made_up.study(8, space=space, goal=HOSTILE, notes=HOSTILE)
  trials = [
    dataclasses.replace(trial, status="infeasible", reason=HOSTILE)
    if trial.index == 2
    else trial
    for trial in study.trials
  ]
  return dataclasses.replace(study, trials=trials)


def odd_studies():
  """Name -> a study that has little to show."""
  one = made_up.study(1, statuses={})
  nothing = {"valid/error_rate": (np.array([100]), np.array([math.nan]))}
  return {
    "no trials": made_up.study(0, statuses={}),
    "one trial": one,
    "all pending": made_up.study(
      3, statuses=dict.fromkeys(range(3), "pending")
    ),
    "all infeasible": made_up.study(
      6, statuses=dict.fromkeys(range(6), "infeasible")
    ),
    "nan only": dataclasses.replace(
      one, trials=[dataclasses.replace(one.trials[0], curves=nothing)]
    ),
    "no metrics": dataclasses.replace(
      one, trials=[dataclasses.replace(one.trials[0], curves={})]
    ),
    "many digits": dataclasses.replace(
      one,
      trials=[
        dataclasses.replace(
          one.trials[0],
          curves={
            "valid/error_rate": (np.arange(3), np.array([1e300, 1e-320, 0]))
          },
        )
      ],
    ),
  }


FINDINGS = [
  finding.Finding("enough_trials", "ok", "trials", {"n": 64}, "", "Playbook"),
  finding.Finding(
    "search_space_boundary",
    "warn",
    "model.depth",
    {"low": 1, "share": math.nan},
    "Reach further.",
    "Playbook",
  ),
]


def test_adaptive_trials_are_marked(study):
  """C9, D1: another shape, with a legend; told where they are left out."""
  trials = [
    dataclasses.replace(trial, adaptive=trial.index >= 50)
    for trial in study.trials
  ]
  adaptive = dataclasses.replace(study, trials=trials)
  kinds = [row["kind"] for row in plot_rows.rows(adaptive, "trials")]
  assert kinds == ["planned"] * 50 + ["adaptive"] * 14
  for results, is_told in ((study, False), (adaptive, True)):
    drawn = {figure.name: figure for figure in plots_study.figures(results)}
    axis = json.dumps(plots_study.spec(drawn["axis: model.depth"], results))
    assert ("diamond" in axis) == is_told
    for name in ("best of n", "isolation: model.depth"):
      assert ("14 adaptive" in drawn[name].caption) == is_told


def test_failed_and_infeasible_trials_are_drawn(study):
  """D1: each axis plot marks them on its upper edge, and drops none."""
  statuses = [trial.status for trial in study.trials]
  figure = next(
    f for f in plots_study.figures(study) if f.name == "axis: model.depth"
  )
  assert {f.name for f in plots_study.figures(study)} >= {
    f"axis: {p.label}" for p in study.space.parameters
  }
  rows = plot_rows.rows(study, figure.source)
  drawn = [row for row in rows if row["x4"] is not None]
  assert [row["status"] for row in drawn] == statuses
  marked = {
    layer["transform"][-1]["filter"]: layer
    for layer in plots_study.spec(figure, study)["layer"]
    if "'" in layer.get("transform", [{}])[-1].get("filter", "")
  }
  cross = marked["datum.status === 'infeasible'"]
  assert cross["mark"]["color"] == plots.RED
  assert marked.keys() >= {"datum.status === 'failed'"}
  # The upper one if less is better, which `sign` says.
  edges = [layer["encoding"]["y"]["value"]["expr"] for layer in marked.values()]
  assert {tuple(map(int, re.findall(r"\d+", e)))[1:] for e in edges} == {
    (5, plots.HEIGHT - 5)
  }


def test_conditional_hyperparameters_say_where_they_exist(study):
  """D1: an axis plot of beta1 shows the Adam trials and says so."""
  adam = sum(t.point["optimizer"] == "adam" for t in study.trials)
  figure = next(f for f in plots_study.figures(study) if "beta1" in f.name)
  assert figure.caption == f"Exists in {adam} of 64 trials."
  rows = plot_rows.rows(study, figure.source)
  assert sum(row["x3"] is not None for row in rows) == adam


def test_isolation_counts_trials(study):
  """D10: a point is the best of its slice, and the slice's trials are told."""
  rows = plot_rows.rows(study, "isolation:0")
  for row in rows:
    here = [
      t
      for t in study.trials
      if t.point["optimizer"] == row["x"]
      and t.status in ("completed", "infeasible")
    ]
    assert row["count"] == str(len(here))
    assert row["objective"] == min(
      study.value(t) for t in here if t.status == "completed"
    )


def _reruns(study, index, values):
  """The study with reruns of a trial that have these values."""
  trial = study.trials[index]
  reruns = [
    dataclasses.replace(
      trial, curves={study.objective: (np.array([1]), np.array([value]))}
    )
    for value in values
  ]
  return dataclasses.replace(study, reruns={index: reruns})


def test_isolation_shows_the_interval_of_reruns(study):
  """E2: the mean over other seeds and its 95 % interval, by Student's t."""
  best, values = study.ranked[0].index, np.array([0.02, 0.023, 0.031])
  rows = plot_rows.rows(_reruns(study, best, values), "isolation:0")
  (row,) = [row for row in rows if row["index"] == best]
  expected = stats.t.interval(
    0.95, 2, values.mean(), values.std(ddof=1) / math.sqrt(3)
  )
  assert row["mean"] == pytest.approx(values.mean())
  assert (row["from"], row["to"]) == pytest.approx(expected)
  assert all(r["mean"] is None for r in rows if r is not row)
  assert (
    plot_rows.ends(_reruns(study, best, values), "isolation:0")[1] >= row["to"]
  )


def test_isolation_shows_what_it_compares():
  """D1: a bad slice does not press the others together; it is named."""
  values = np.repeat([0.9, 0.104, 0.103, 0.1, 0.101, 0.102], 6)
  results = by_hand.line(values)  # Six slices.
  low, high = plot_rows.ends(results, "isolation:0")
  assert low == 0.1 and 0.104 <= high < 0.13
  figure = next(
    f for f in plots_study.figures(results) if "isolation" in f.name
  )
  spec = plots_study.spec(figure, results)
  assert {"name": "worst", "value": high} in spec["params"]
  above = [r for r in spec["datasets"]["data"] if r["objective"] > high]
  assert [r["objective"] for r in above] == [0.9]
  filters = [
    [t["filter"] for t in layer.get("transform", ())] for layer in spec["layer"]
  ]
  assert sum("sign * datum.objective > sign * worst" in f for f in filters) == 2
  # All of them where they are alike, and what is compared is all there is.
  for values in (np.linspace(0.1, 0.2, 36), [0.1, 0.9, *[0.5] * 3]):
    results = by_hand.line(values)
    worst = max(r["objective"] for r in plot_rows.rows(results, "isolation:0"))
    assert plot_rows.ends(results, "isolation:0")[1] >= worst


def test_curves_best_few_first(study):
  """D5: the best trials' curves are drawn, training and validation."""
  rows = plot_rows.rows(study, "curves:loss")
  assert list(dict.fromkeys(row["index"] for row in rows)) == [
    trial.index for trial in study.ranked[: plot_rows.BEST_FEW]
  ]
  assert {row["split"] for row in rows} == {"train", "valid"}


def test_best_of_n_falls_and_is_drawable(study):
  """D3: quartiles of the best of n never rise with n, and are finite."""
  rows = plot_rows.best_of_rows(study)
  for name in ("low", "q25", "median", "q75", "high"):
    values = np.array([row[name] for row in rows])
    assert np.isfinite(values).all()
    assert (np.diff(values) <= 0).all()


def test_scale_one_minus():
  """D1: 0.9, 0.99 and 0.999 are equally far apart under log_one_minus."""
  space = space_lib.Space(
    {"hparams.beta1": space_lib.Float(0.9, 0.999, "log_one_minus")}
  )
  places = [
    math.log10(plot_rows.position(space.parameters[0], value))
    for value in (0.9, 0.99, 0.999)
  ]
  np.testing.assert_allclose(np.diff(places), -1)


@pytest.mark.parametrize(
  "values, expected",
  [
    ([], "linear"),
    ([math.nan, None], "linear"),
    ([0.0, 100.0], "linear"),
    ([0.1, 0.5], "linear"),
    ([0.01, 2.0], "log"),
    ([3.0], "linear"),
  ],
)
def test_scale(values, expected):
  """Report: an axis is logarithmic where the numbers ask for it."""
  assert plot_rows.scale(values) == expected
  low, high = plot_rows.domain(values)
  assert low < high


@pytest.mark.slow
def test_every_figure_as_a_file(tmp_path, study):
  """D11: all figures as SVG without a browser; labels are safe as names."""
  paths = report.figures(study, tmp_path / "svg")
  assert len(paths) == len(plots_study.figures(study))
  for path in paths:
    assert re.fullmatch(r"[\w.=-]+\.svg", path.name)
    tree = xml.etree.ElementTree.parse(path)
    assert len(list(tree.iter("{http://www.w3.org/2000/svg}path"))) > 5
  with pytest.raises(jaxplay.UserError, match="svg or png"):
    report.figures(study, tmp_path, "pdf")


def test_figures_as_png(tmp_path):
  """D11: figures as PNG, of hostile labels too."""
  paths = report.figures(hostile_study(), tmp_path, "png")
  for path in paths:
    with Image.open(path) as image:
      assert len(image.getcolors(1 << 24)) > 10


def test_json(study):
  """Report: the answer and the findings for other programs."""
  found = json.loads(
    json.dumps(report.as_json(study, FINDINGS), allow_nan=False)
  )
  best = study.ranked[0]
  assert found["best"]["trial"] == best.index
  assert found["best"]["value"] == study.value(best)
  assert found["trials"]["pending"] == 1
  assert [f["verdict"] for f in found["findings"]] == ["ok", "warn"]


def test_payload_holds_every_objective(tmp_path, study):
  """C7: best and final of each logged metric, so that any can be chosen."""
  report.write(study, FINDINGS, path=tmp_path / "report.html")
  page = payload(tmp_path / "report.html")
  assert page["objectives"].keys() == set(study.metrics)
  final = dataclasses.replace(study, objective="train/loss", select="final")
  given = page["objectives"]["train/loss"]["final"]["objective"]
  expected = [math.nan if v is None else v for v in given]
  np.testing.assert_allclose(final.values, expected, rtol=1e-4)


def test_page_needs_no_network(tmp_path, study):
  """Report: one file, under a megabyte beside its data, that loads nothing."""
  path = tmp_path / "report.html"
  report.write(study, FINDINGS, path=path)
  text = path.read_text()
  data = len(json.dumps(payload(path)))
  assert len(text) - data < 1_000_000
  markup = re.sub(r"(<script[^>]*>).*?</script>", r"\1", text, flags=re.S)
  assert not re.search(r"(src|href|url)\s*[=(]|@import", markup)
  assert not list(tmp_path.glob(".*"))


def test_thinned_curves_keep_spikes():
  """I1: a spike of the gradient norm survives the thinning of a long curve."""
  steps, values = np.arange(10_000), np.ones(10_000)
  values[7_123], values[42] = 50.0, math.nan
  thin_steps, thin = study_page._thinned(steps, values, 100)
  assert len(thin) <= 102
  assert np.nanmax(thin) == 50.0 and 7_123 in thin_steps
  assert {0, 9_999} <= set(thin_steps.tolist())
  assert (np.diff(thin_steps) > 0).all()


def test_rounding():
  """Report: five digits are kept of any number, however small or large."""
  values = [0.123456789, 1e300, -1e-300, 0.0, 123456.7, math.nan, math.inf]
  rounded = study_page._rounded(values)
  assert rounded[-2:] == [None, None]
  np.testing.assert_allclose(rounded[:5], values[:5], rtol=5e-5)


def test_provenance(tmp_path, study):
  """G8: the page tells goal, command, base config and what was varied."""
  written = made_up.write(study, tmp_path / "STUDY")
  provenance = {"git_commit": "abc123", "git_diff": "-a\n+b", "host": "pod"}
  (tmp_path / "STUDY" / "provenance.json").write_text(json.dumps(provenance))
  report.write(written, [], path=tmp_path / "report.html")
  page = payload(tmp_path / "report.html")
  facts = dict(page["provenance"])
  assert "commit abc123" in facts["jaxplay"]
  assert facts["uncommitted changes of jaxplay"] == "-a\n+b"
  assert facts["command"].startswith("jaxplay study run")
  assert page["goal"] == study.study["goal"]
  assert "model.depth: 1 to 4, linear (nuisance)" in facts["space"]


# ---- In a browser -----------------------------------------------------------

needs_browser = pytest.mark.skipif(
  browser.BINARY is None, reason="no chromium (Debian: apt install chromium)"
)


@pytest.fixture(scope="module")
def window():
  with browser.Browser() as opened:
    yield opened


@pytest.fixture(scope="module")
def page_path(study, tmp_path_factory):
  path = tmp_path_factory.mktemp("report") / "report.html"
  findings = FINDINGS + checklist.check_study(study)
  report.write(study, findings, path=path, next_study="# change me\n")
  return path


@pytest.fixture
def page(window, page_path):
  window.open(page_path)
  return window


def figure(name):
  """JavaScript for the card of a figure."""
  return (
    "[...document.querySelectorAll('.figures > .card')]"
    f".find((card) => card.dataset.name === {name!r})"
  )


def marks(name, kind="path"):
  """JavaScript for the marks of a figure that carry data."""
  return f"[...{figure(name)}.querySelectorAll('.mark-symbol {kind}')]"


def texts(page, selector):
  return page.run(
    f"[...document.querySelectorAll({selector!r})].map((n) => n.textContent)"
  )


def middle(page, script):
  """Scrolls an element into view and returns its middle."""
  return page.run(
    f"(() => {{ const node = {script};"
    " node.scrollIntoView({block: 'center', behavior: 'instant'});"
    " const box = node.getBoundingClientRect();"
    " return [box.x + box.width / 2, box.y + box.height / 2]; })()"
  )


def click(page, script):
  x, y = middle(page, script)
  page.mouse("mouseMoved", x, y)
  for kind in ("mousePressed", "mouseReleased"):
    page.mouse(kind, x, y, button="left", clickCount=1)


def choose(page, selector, value):
  page.run(
    f"(() => {{ const node = document.querySelector({selector!r});"
    f" node.value = {value!r};"
    " node.dispatchEvent(new Event(node.matches('input') ? 'input' :"
    " 'change')); })()"
  )


def drawn(page):
  """Waits until what a choice has made stale is drawn again."""
  page.run("new Promise((done) => setTimeout(done, 200))")
  page.until("!document.querySelector('.view:empty')")


@needs_browser
def test_page_draws_everything(page, study):
  """D11: every figure is drawn, and the console stays silent."""
  expected = [f.title or f.name for f in plots_study.figures(study)]
  assert texts(page, ".figures h4") == expected
  sizes = page.run(
    "[...document.querySelectorAll('.view')].map((view) =>"
    " view.querySelectorAll('svg path, svg text').length"
    " || view.querySelector('canvas').width)"
  )
  assert min(sizes) > 15
  completed = sum(t.status == "completed" for t in study.trials)
  others = sum(t.status in ("infeasible", "failed") for t in study.trials)
  in_legend = len(study.space.parameters[0].values)
  best = 1
  assert (
    page.run(marks("axis: model.depth") + ".length")
    == completed + others + in_legend + best
  )
  assert page.problems() == []


@needs_browser
def test_answer_comes_first(page, study):
  """D11: the best trial, its value and what repeats it open the page."""
  best = study.ranked[0]
  assert texts(page, "h2")[:4] == ["Result", "Checks", "Figures", "Trials"]
  assert float(texts(page, "#best-value")[0]) == pytest.approx(
    study.value(best), rel=1e-3
  )
  assert f"Trial {best.index};" in texts(page, "#best-trial")[0]
  command, flags, config = texts(page, "#answer pre")
  words = shlex.split(command.replace("\\\n", " "))  # B12.
  folder = pathlib.Path(study.path).absolute()
  assert words == [
    *("jaxplay", "train", f"--config={best.path.absolute()}/config.json"),
    f"--workdir={folder}-trial-{best.index}",
  ]
  for parameter in study.space.active(best.point):
    assert f"--config.{parameter.key}=" in flags
  rate = next(v for k, v in best.point.items() if "learning_rate" in k)
  assert json.loads(config)["hparams"]["learning_rate"] == rate
  counts = texts(page, ".per-value td:nth-child(4)")
  assert sum(map(int, counts)) == len(study.ranked) + study.infeasible.sum()
  ((winner, loser, found),) = compare.choices(study)
  cells = texts(page, "#comparisons td")
  assert cells[:2] == [winner, loser]
  assert float(cells[2]) == pytest.approx(found.improvement, rel=1e-3)
  assert cells[4] == found.data_from
  assert cells[5].startswith("better") == (found.verdict == "adopt")


@needs_browser
def test_checklist(page):
  """D11: verdicts as words, worst first; advice, evidence and source."""
  verdicts = [text.split()[1] for text in texts(page, ".check .verdict")]
  order = ("fail", "warn", "unknown", "ok")
  assert sorted(verdicts, key=order.index) == verdicts
  first = texts(page, ".check")[0]
  for part in ("search space boundary", "Reach further.", "share", "Playbook"):
    assert part in first
  link = page.run("document.querySelector('.check a').getAttribute('href')")
  name = page.run(f"document.querySelector('{link}').dataset.name")
  assert name == "axis: model.depth"


@needs_browser
def test_hover_shows_hyperparameters(page, study):
  """D1: the trial under the pointer is told with its hyperparameters."""
  x, y = middle(page, marks("axis: hparams.beta1") + "[5]")
  page.mouse("mouseMoved", x, y)
  page.until("!document.querySelector('#tip').hidden")
  [tip] = texts(page, "#tip")
  index = int(re.match(r"Trial (\d+)", tip)[1])
  for label, value in study.trials[index].point.items():
    assert label in tip
    if isinstance(value, str):
      assert value in tip


@needs_browser
def test_filter_and_sort(page, study):
  """D11: the table of trials is filtered by words and status, and sorted."""
  first = "#trials tbody tr td:first-child"
  assert len(texts(page, first)) == 64
  choose(page, "#words", "optimizer=adam COMPLETED")
  expected = [t.index for t in study.ranked if t.point["optimizer"] == "adam"]
  assert [int(t) for t in texts(page, first)] == expected
  choose(page, "#words", "")
  choose(page, "#status", "infeasible")
  assert len(texts(page, first)) == study.infeasible.sum()
  choose(page, "#status", "")
  dropout = "[...document.querySelectorAll('#trials th button')].find((b) =>"
  dropout += " b.textContent.includes('dropout'))"
  for expected_order, reverse in (("ascending", False), ("descending", True)):
    page.run(f"{dropout}.click()")
    order = page.run(f"{dropout}.parentNode.getAttribute('aria-sort')")
    assert order == expected_order
    values = [t.point["hparams.dropout_rate"] for t in study.trials]
    by_value = sorted(range(64), key=values.__getitem__, reverse=reverse)
    assert [int(t) for t in texts(page, first)] == by_value


@needs_browser
def test_selection_goes_everywhere(page):
  """D11: trials brushed in one figure are those of the others and the table."""
  name = "axis: model.depth"
  x, y = middle(page, f"{figure(name)}.querySelector('.background')")
  half_width, half_height = page.run(
    f"(() => {{ const box = {figure(name)}.querySelector('.background')"
    ".getBoundingClientRect(); return [box.width / 2, box.height / 2]; })()"
  )
  page.mouse("mouseMoved", x - half_width * 0.5, y - half_height * 0.9)
  start = x - half_width * 0.5, y - half_height * 0.9
  page.mouse("mousePressed", *start, button="left", clickCount=1)
  for share in (0.2, 0.6, 1.0):
    page.mouse(
      "mouseMoved",
      x - half_width * 0.5 + share * half_width * 1.6,
      y - half_height * 0.9 + share * half_height * 1.8,
      button="left",
      buttons=1,
    )
  page.mouse("mouseReleased", x + half_width, y, button="left", clickCount=1)
  page.until("!document.querySelector('#picked').hidden")
  drawn(page)
  chosen = int(texts(page, "#picked strong")[0].split()[0])
  assert 3 < chosen < 60
  assert page.run("document.querySelectorAll('tr.picked').length") == chosen
  faint = marks("axis: optimizer") + ".filter((m) => m.getAttribute('opacity')"
  page.until(faint + " === '0.1').length > 0")
  strong = page.run(faint + " === '0.85').length")
  assert strong == chosen
  first = page.run("document.querySelector('tr.picked td').textContent")
  legend = f"{figure('curves: loss')}.querySelector('.role-legend')"
  page.until(f"{legend}?.textContent.includes({first!r})")
  page.run("document.querySelector('#clear').click()")
  page.until("document.querySelector('#picked').hidden")
  assert page.run("document.querySelectorAll('tr.picked').length") == 0
  page.until(faint + " === '0.1').length === 0")
  assert page.problems() == []


@needs_browser
@pytest.mark.slow
def test_the_best_of_a_maximized_metric(window, study, tmp_path):
  """D11: it is at the top and trials without a value at the bottom, or not."""
  trials = [
    dataclasses.replace(
      trial,
      curves={**trial.curves, "valid/accuracy": (steps, 1 - values)},
    )
    for trial in study.trials
    for steps, values in [trial.curves.get("valid/error_rate", (_NONE, _NONE))]
  ]
  changed = dataclasses.replace(
    study, trials=trials, objective="valid/accuracy"
  )
  path = tmp_path / "report.html"
  report.write(changed, [], path=path)
  window.open(path)
  name, best = "axis: model.depth", changed.ranked[0]
  drawn_at = (
    f"{marks(name)}.filter((m) => m.ariaLabel?.includes('STATUS'))"
    ".map((m) => m.getBoundingClientRect().y)"
  )

  def heights(status):
    return window.run(drawn_at.replace("STATUS", status))

  for metric, word, is_above in (
    ("valid/accuracy", "higher", False),
    ("valid/error_rate", "lower", True),
    ("valid/accuracy", "higher", False),
  ):
    choose(window, "#metric", metric)
    window.until(f"{figure(name)}.textContent.includes('{metric} (best)')")
    assert f"{word} is better" in texts(window, ".answer .soft")[0]
    assert texts(window, "#best-trial")[0].startswith(f"Trial {best.index};")
    first = texts(window, "#trials tbody tr:first-child td:first-child")
    assert first == [str(best.index)]
    inside, outside = heights("completed"), heights("infeasible")
    assert len(inside) > len(outside) > 0
    if is_above:
      assert max(outside) < min(inside)
    else:
      assert min(outside) > max(inside)
  # A brush that reaches the bottom takes the trials that are marked there.
  box = window.run(
    f"(() => {{ const node = {figure(name)}.querySelector('.background');"
    " node.scrollIntoView({block: 'center', behavior: 'instant'});"
    " const box = node.getBoundingClientRect();"
    " return [box.left, box.right, box.top, box.bottom]; })()"
  )
  left, right, top, bottom = box
  window.mouse("mouseMoved", left + 2, bottom - 20)
  window.mouse(
    "mousePressed", left + 2, bottom - 20, button="left", clickCount=1
  )
  for share in (0.3, 0.6, 1.0):
    x = left + 2 + share * (right - left - 4)
    y = bottom - 20 + 18 * share
    window.mouse("mouseMoved", x, y, button="left", buttons=1)
  window.mouse("mouseReleased", x, y, button="left", clickCount=1)
  window.until("!document.querySelector('#picked').hidden")
  statuses = set(texts(window, "tr.picked td:nth-child(2)"))
  assert any("infeasible" in text for text in statuses)
  assert window.problems() == []


@needs_browser
def test_every_trial_can_be_reached(page, study):
  """D5: a row of the table shows its curves, of an infeasible trial too."""
  index = int(np.flatnonzero(study.infeasible)[0])
  choose(page, "#words", f"trial {index} infeasible")
  click(page, "document.querySelector('#trials tbody tr')")
  page.until("!document.querySelector('#picked').hidden")
  drawn(page)
  legend = (
    f"{figure('gradient norm')}.querySelector('.role-legend')?.textContent"
  )
  page.until(f"{legend}?.includes('{index}')")
  assert page.problems() == []


@needs_browser
def test_objective_can_be_changed(page, study):
  """C7: another metric, best or final, changes answer, figures and table."""
  other = dataclasses.replace(study, objective="train/loss", select="final")
  choose(page, "#metric", "train/loss")
  choose(page, "#select", "final")
  best = other.ranked[0]
  assert f"Trial {best.index};" in texts(page, "#best-trial")[0]
  assert float(texts(page, "#best-value")[0]) == pytest.approx(
    other.value(best), rel=1e-3
  )
  told = texts(page, "#other-objective")[0].split("objective: ")[1]
  assert shlex.split(told)[-1] == "--objective=final:train/loss"
  assert not texts(page, "#comparisons td")  # That is for the other one.
  expected = [t.index for t in other.ranked]
  rows = [int(t) for t in texts(page, "#trials tbody tr td:first-child")]
  assert rows[: len(expected)] == expected
  page.until(
    f"{figure('axis: model.depth')}.textContent.includes('train/loss (final)')"
  )
  assert page.problems() == []


@needs_browser
def test_texts_of_a_study_are_shown_not_run(window, tmp_path):
  """Report: markup, quotes and unicode in names, goal, notes and reasons."""
  study = hostile_study()
  findings = [
    finding.Finding(
      HOSTILE, "warn", HOSTILE, {HOSTILE: HOSTILE}, HOSTILE, HOSTILE
    )
  ]
  path = tmp_path / "report.html"
  report.write(study, findings, path=path, next_study=HOSTILE)
  window.open(path)
  assert window.run("window.hurt") is None
  assert window.run("document.querySelectorAll('img, i, script').length") == 3
  assert texts(window, "h1") == [HOSTILE]
  assert HOSTILE in texts(window, ".check")[0]
  assert HOSTILE in texts(window, "#trials")[0]
  axis = window.run(f"{figure('axis: model.name')}.textContent")
  assert HOSTILE_CHOICE[:6] in axis
  assert window.problems() == []


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("name", odd_studies())
def test_little_to_show(window, tmp_path, name):
  """Report: unfinished, diverged and empty studies have a page that says so."""
  study = odd_studies()[name]
  path = tmp_path / "report.html"
  report.write(study, [], path=path, live=True)
  window.open(path)
  assert window.problems() == []
  [answer] = texts(window, "#answer")
  if study.ranked:
    assert str(study.ranked[0].index) in answer
  else:
    assert answer.startswith("No ")
  status = "while the study runs"
  assert status in texts(window, "header")[0]


@needs_browser
def test_page_of_a_run(window, tmp_path, study):
  """D5: a single run has its curves, gradient norms, config and verdicts."""
  written = made_up.write(study, tmp_path / "STUDY")
  path = tmp_path / "report.html"
  run = dataclasses.replace(written.ranked[0], index=-1, point={})
  report.write_run(run, FINDINGS, path=path)
  window.open(path)
  assert window.problems() == []
  names = {"curves: error_rate", "curves: loss", "gradient norm"}
  assert all(window.run(f"{figure(name)} !== undefined") for name in names)
  value = run.best("valid/error_rate")[0]
  assert float(texts(window, "#best-value")[0]) == pytest.approx(
    value, rel=1e-3
  )
  assert "Trials" not in texts(window, "h2")


def _two_rounds():
  """A study with too narrow a space, and the next one."""
  rates = np.geomspace(1e-4, 1.0, 32)
  values = 0.1 + 0.02 * np.log10(rates / 0.1) ** 2
  narrow = by_hand.line(values[rates < 0.01], low=1e-4, high=1e-2)
  return narrow, by_hand.line(values)


def test_two_rounds_share_their_axes():
  """E3: figures come in pairs, with the same ends and each with its rows."""
  both = _two_rounds()
  figures = plots_compare.figures(*both)
  assert len(figures) == 6
  for one, other in zip(figures[::2], figures[1::2], strict=True):
    names = [figure.name.split(": ", 1) for figure in (one, other)]
    assert [name[0] for name in names] == ["baseline", "candidate"]
    assert names[0][1] == names[1][1]
    specs = [figure.chart.to_dict() for figure in (one, other)]
    scales = [
      [
        layer["encoding"][axis]["scale"]
        for layer in spec["layer"]
        for axis in ("x", "y")
        if layer["encoding"].get(axis, {}).get("scale")
      ]
      for spec in specs
    ]
    assert scales[0] == scales[1] and scales[0]
    if "axis" in one.name:
      numbers = [len(spec["datasets"]["data"]) for spec in specs]
      assert numbers == [len(results.trials) for results in both]
  # What has no common axis is left to the table of the space.
  other = made_up.study(8, space={"model.depth": space_lib.Int(1, 4)})
  names = [f.name for f in plots_compare.figures(both[0], other)]
  assert names == ["baseline: best of n", "candidate: best of n"]


@needs_browser
def test_page_of_a_comparison(window, tmp_path):
  """E3: verdict, both spaces, and the figures, before the checks."""
  both = _two_rounds()
  found, path = compare.compare(*both), tmp_path / "comparison.html"
  findings = [checklist.check_study(results) for results in both]
  report.write_comparison(found, *both, findings, path=path)
  window.open(path, width=390, height=740, mobile=True)
  assert window.problems() == []
  assert window.run("document.documentElement.scrollWidth") <= 390
  heads = texts(window, "h2")
  assert heads[:4] == ["Result", "Figures", "Checks", "Numbers"]
  said = texts(window, "#the-answer p")
  assert f"{found.improvement:.4g}" in said[0]
  assert "too narrow" in said[1] and "0.0001 to 0.01" in said[1]
  cells = texts(window, "#the-answer td")
  assert {"0.0001 to 0.01, log", "0.0001 to 1, log", "yes"} <= set(cells)
  titles = texts(window, ".figures h4")
  assert titles == [f.title for f in plots_compare.figures(*both)]
  click(window, "document.querySelector('.mark-symbol path')")
  assert window.run("document.querySelector('#picked').hidden")


_LONG = "the one of two series whose name is rather long"


def _answer():
  """An answer with a legend, error rates that touch zero, and a far level."""
  rows = [
    {"x": x, "y": y, "series": series}
    for series, values in (
      (_LONG, (0.9, 0.01, 0.0)),
      ("other", (0.1, 0.2, 0.3)),
    )
    for x, y in enumerate(values)
  ]
  axes = {
    "log": result_lib.Axis("error", log=True, with_zero=True),
    "linear": result_lib.Axis("error"),
  }
  pictures = [
    result_lib.FigureData(
      name,
      result_lib.Axis("seed", whole=True),
      axis,
      points=rows,
      levels={} if axis.log else {"far": 90.0},
    )
    for name, axis in axes.items()
  ]
  return result_lib.ProcedureResult(
    summary=["So."], figures=pictures, findings=FINDINGS
  )


def test_figures_of_an_answer(tmp_path):
  """Zero is drawn beside decades, a far level named, a wider font has room."""
  log, linear = (
    xml.etree.ElementTree.parse(path).getroot()
    for path in report.answer_figures(_answer(), tmp_path)
  )
  small = ("0.01", "0.02", "0.05")
  for figure, is_log in ((log, True), (linear, False)):
    shown = {t.text for t in figure.iter("{http://www.w3.org/2000/svg}text")}
    assert {"0", _LONG} <= shown
    assert any(label in shown for label in small) == is_log
    points = [
      node
      for node in figure.iter("{http://www.w3.org/2000/svg}path")
      if node.get("aria-roledescription") == "point"
    ]
    assert len(points) == 6
  assert "far: 90, above" in shown and "0.5" not in shown
  # Legend and room for a fifth more, at six pixels for a letter.
  width = float(linear.get("width"))
  assert width > plots.WIDTH + 1.2 * 5 * len(_LONG)


@needs_browser
def test_an_answer_on_a_phone(window, tmp_path):
  """A legend takes no room from a narrow figure, and words stay whole."""
  path = tmp_path / "report.html"
  report.write_answer(_answer(), path=path, title="Plan", goal="How?")
  window.open(path, width=390, height=740, mobile=True)
  assert window.problems() == []
  assert window.run("document.documentElement.scrollWidth") <= 390
  widths = window.run(
    "[...document.querySelectorAll('.view .background')].map((node) =>"
    " node.getBoundingClientRect().width)"
  )
  assert max(widths) > 180


@needs_browser
@pytest.mark.parametrize(
  "look",
  [
    {"width": 360, "height": 740, "mobile": True},
    {"width": 768},
    {"media": [("prefers-color-scheme", "dark")]},
    {"width": 720, "media": [("prefers-color-scheme", "dark")], "print": True},
  ],
  ids=["phone", "tablet", "dark", "print"],
)
def test_legible_everywhere(window, page_path, look):
  """Report: no sideways scrolling, and ink that stands out from its paper."""
  look = dict(look)
  on_paper = look.pop("print", False)
  window.open(page_path, **look)
  if on_paper:
    window.run("dispatchEvent(new Event('beforeprint'))")
    window.call("Emulation.setEmulatedMedia", media="print")
  width = window.run("document.documentElement.scrollWidth")
  assert width <= look.get("width", 1280)
  ratios = window.run(
    """(() => {
      const light = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((c) => {
        const s = c / 255;
        return s <= 0.04045 ? s / 12.92 : ((s + 0.055) / 1.055) ** 2.4;
      }).reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
      const paper = light(getComputedStyle(document.body).backgroundColor);
      return [...document.querySelectorAll(
        "p, h2, .verdict, td, dt, p a, .view svg text")].map((node) => {
        const style = getComputedStyle(node);
        const ink = light(node.closest("svg") ? style.fill : style.color);
        return (Math.max(ink, paper) + 0.05) / (Math.min(ink, paper) + 0.05);
      });
    })()"""
  )
  assert len(ratios) > 100
  assert min(ratios) > 4.4
  if on_paper:
    assert (
      window.run("document.querySelectorAll('.check:not([open])').length") == 0
    )


@pytest.mark.slow
@needs_browser
def test_live_page_keeps_its_state(window, tmp_path, study):
  """Report: a page that follows a study keeps filter, selection, objective."""
  path = tmp_path / "report.html"
  report.write(study, [], path=path, live=True)
  window.open(path)
  choose(window, "#metric", "valid/loss")
  choose(window, "#words", "adam")
  click(window, "document.querySelector('#trials tbody tr')")
  window.until("!document.querySelector('#picked').hidden")
  report.write(study, [], path=path, live=True)
  window.reload()
  assert window.run("document.querySelector('#metric').value") == "valid/loss"
  assert window.run("document.querySelector('#words').value") == "adam"
  assert window.run("document.querySelectorAll('tr.picked').length") == 1
