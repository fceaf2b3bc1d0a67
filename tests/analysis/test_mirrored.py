"""A study by a metric that is maximized reads as its minimized mirror does."""

import dataclasses
import json
import re

import numpy as np
import pytest

from jaxplay import rundir
from jaxplay.analysis import (
  checklist,
  compare,
  optuna_export,
  plot_rows,
  plots,
  plots_study,
  refine,
  summary,
)
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.report import study as study_page
from tests import made_up
from tests.analysis import generated

# Minimized metric -> (its mirror, value of the mirror, what declares it).
MIRRORS = {
  "valid/error_rate": ("valid/accuracy", lambda value: 1 - value, ()),
  "valid/loss": (
    "valid/score",
    lambda value: -value,
    [["metric", "score.py:Score", "score", True, None]],
  ),
}
# Fields of the evidence that are values of the objective, by check.
VALUES = {
  "overfitting": ("lowest_level", "final_level"),
  "late_variance": ("level",),
  "still_improving": ("level",),
  "saturated_early": ("objective_level",),
  "retrain_variance": ("mean", "in_the_study"),
}
FAULTS = ("edge", "needle", "overfitting", "improving", "saturated")
FAULTS += ("late_variance", "noisy_retraining", "infeasible", "too_long")


def _each(results, change):
  """The study with every trial and rerun changed."""
  reruns = {i: [*map(change, runs)] for i, runs in results.reruns.items()}
  trials = [*map(change, results.trials)]
  return dataclasses.replace(results, trials=trials, reruns=reruns)


def _exact(values):
  """Values of few bits, whose mirrors are not rounded."""
  return np.round(values * 2**20) / 2**20


def _judged(results, metric):
  """The study by a minimized metric."""

  def exact(trial):
    curves = dict(trial.curves)
    for name in MIRRORS:
      if name in curves:
        curves[name] = curves[name][0], _exact(curves[name][1])
    return dataclasses.replace(trial, curves=curves)

  study = results.study | {"objective": metric}
  changed = dataclasses.replace(results, study=study, objective=metric)
  return _each(changed, exact)


def _mirrored(results):
  """The same study by the mirror of its objective, which each trial logs."""
  objective, mirror, declared = MIRRORS[results.objective]

  def change(trial):
    curves = dict(trial.curves)
    if results.objective in curves:
      steps, values = curves[results.objective]
      curves[objective] = steps, mirror(values)
    return dataclasses.replace(trial, curves=curves, declared=declared)

  config = results.study["config"] | {"declared": declared}
  study = results.study | {"objective": objective, "config": config}
  changed = dataclasses.replace(results, study=study, objective=objective)
  return _each(changed, change)


def _both(results, metric):
  """(the study by a minimized metric, its mirror, value of the mirror)."""
  one = _judged(results, metric)
  return one, _mirrored(one), MIRRORS[metric][1]


@pytest.fixture(params=MIRRORS)
def pair(request):
  """`_both` of a study with infeasible and crashed trials."""
  return _both(made_up.study(40), request.param)


def _without_numbers(text):
  return re.sub(r"-?\d[\d.e-]*", "N", text)


@pytest.mark.parametrize("metric", MIRRORS)
@pytest.mark.parametrize("fault", (None, *FAULTS))
def test_findings_are_the_same(metric, fault):
  """Each verdict, and the evidence with mirrored numbers."""
  setting = {"optimizers": ("adam", "nesterov"), "num_reruns": 3}
  if fault:
    strength = generated.FAULTS[fault][1][-1]
    schedule = "constant" if fault in generated.CONSTANT else "linear"
    setting = dict(fault=fault, strength=strength, schedule=schedule)
    setting["num_reruns"] = 5 * (fault == "noisy_retraining")
  made = generated.study(3, 36, num_valid=8192, **setting)
  one, other, mirror = _both(made, metric)
  pairs = [checklist.check_study(results) for results in (one, other)]
  assert len(pairs[0]) == len(pairs[1])
  warned = set()
  for ours, theirs in zip(*pairs, strict=True):
    assert (ours.check, ours.verdict) == (theirs.check, theirs.verdict)
    if ours.check != "better_than_chance":  # Of the error rate, in both.
      subject = ours.subject.replace(one.objective, other.objective)
      assert theirs.subject == subject
    assert bool(ours.advice) == bool(theirs.advice)
    expected = {
      name.replace("lowest", "highest")
      if ours.check == "overfitting"
      else name: mirror(value)
      if name in VALUES.get(ours.check, ()) and value is not None
      else value
      for name, value in ours.evidence.items()
    }
    assert theirs.evidence.keys() == expected.keys()
    for name, value in expected.items():
      if name == "groups":  # A row for each group of trials.
        assert len(theirs.evidence[name]) == len(value)
        for row, mirrored in zip(theirs.evidence[name], value, strict=True):
          assert row == pytest.approx(mirrored)
        continue
      close = pytest.approx(value) if type(value) is float else value
      assert theirs.evidence[name] == close
    if ours.verdict in ("warn", "fail"):
      warned.add(ours.check)
    if ours.check not in ("overfitting", "saturated_early"):
      assert _without_numbers(theirs.advice) == _without_numbers(ours.advice)
  # Of a loss the noise is not known without reruns.
  if fault and (fault, metric) != ("needle", "valid/loss"):
    assert generated.FAULTS[fault][0] in warned


def test_overfitting_is_said_in_the_direction_of_the_metric():
  """An accuracy that was 0.9 and is now lower falls, and did not rise."""
  made = generated.study(3, 20, "overfitting", 1.0, num_valid=8192)
  one, other, _ = _both(made, "valid/error_rate")
  for results, right, wrong in (
    (one, "rises", "falls"),
    (other, "falls", "rises"),
  ):
    findings = checklist.check_study(results)
    advice = next(
      f.advice
      for f in findings
      if f.check == "overfitting" and f.verdict == "warn"
    )
    assert f"objective {right} from" in advice and wrong not in advice
    first, last = re.search(
      r"from ([\d.]+) at .* to ([\d.]+) at", advice
    ).groups()
    assert (float(first) < float(last)) == (right == "rises")


def test_an_accuracy_alone_says_nothing_about_chance():
  """Without an error rate `better_than_chance` is unknown, and never wrong."""
  _, other, _ = _both(made_up.study(20), "valid/error_rate")
  kept = lambda trial: dataclasses.replace(  # noqa: E731
    trial,
    curves={k: v for k, v in trial.curves.items() if k != "valid/error_rate"},
  )
  findings = checklist.check_study(_each(other, kept))
  found = [f for f in findings if f.check == "better_than_chance"]
  assert [f.verdict for f in found] == ["unknown"]


def test_ranking_and_tables(pair):
  """The best trials, their steps, and what tables and files show of them."""
  one, other, mirror = pair
  assert [t.index for t in one.ranked] == [t.index for t in other.ranked]
  assert len(one.ranked) > 20
  for ours, theirs in zip(one.trials, other.trials, strict=True):
    best, step = ours.best(one.objective)
    expected = [(mirror(best), step), mirror(ours.final(one.objective)[0])]
    found = [theirs.best(other.objective), theirs.final(other.objective)[0]]
    np.testing.assert_equal(found, expected)
  np.testing.assert_equal(other.values, mirror(one.values))
  np.testing.assert_equal(
    other.costs - other.costs[0], one.costs - one.costs[0]
  )
  shares = [trials_lib.best_steps(r, 0.02) for r in (one, other)]
  np.testing.assert_equal(*shares)
  rows = [results_lib.trial_rows(r) for r in (one, other)]
  for ours, theirs in zip(*rows, strict=True):
    value = ours[f"best {one.objective}"]
    assert theirs[f"best {other.objective}"] == (
      None if value is None else mirror(value)
    )
    assert theirs["best_step"] == ours["best_step"]
  best = [study_page.as_json(r, ())["best"] for r in (one, other)]
  ours, theirs = (b.pop("expected") for b in best)
  assert theirs["value"] == pytest.approx(mirror(ours["value"]))
  assert theirs["interval"] == pytest.approx(
    [mirror(end) for end in reversed(ours["interval"])]
  )
  assert best[1] == best[0] | {"value": mirror(best[0]["value"])}


def test_rows_of_figures(pair):
  """Isolation, best of n, ranks: the same trials, with mirrored values."""
  one, other, mirror = pair

  def swapped(row):
    names = ("low", "q25", "median", "q75", "high")
    opposite = dict(zip(names, reversed(names), strict=True))
    return {k: mirror(row[opposite[k]]) if k != "n" else row[k] for k in row}

  bootstrap = [plot_rows.rows(r, "best_of") for r in (one, other)]
  assert bootstrap[1] == [swapped(row) for row in bootstrap[0]]
  assert all(row["low"] <= row["high"] for row in bootstrap[1])
  sources = [f"isolation:{i}" for i in range(len(one.space.parameters))]
  for source in ("trials", *sources):
    rows = [plot_rows.rows(r, source) for r in (one, other)]
    for ours, theirs in zip(*rows, strict=True):
      value = ours["objective"]
      mirrored = None if value is None else mirror(value)
      assert theirs == ours | {"objective": mirrored}
  for source in ("trials", "best_of", *sources):
    low, high = plot_rows.ends(one, source)
    assert plot_rows.ends(other, source) == pytest.approx(
      [mirror(high), mirror(low)]
    )


def test_slices_beyond_the_axis(pair):
  """The end of an axis beyond which a slice is only named is the worst one."""
  one, other, _ = pair
  for results, sign in ((one, 1), (other, -1)):
    worst = plot_rows.ends(results, "isolation:0")[0 if sign < 0 else 1]
    params = plots.isolation(results, 0).to_dict(validate=False)["params"]
    assert {"name": "sign", "value": sign} in params
    assert {"name": "worst", "value": worst} in params


def test_no_slice_is_beyond_the_axis_by_rounding():
  """The worst of a few slices lies on the axis, whatever its last bit."""
  made = made_up.study(40, statuses={})
  for seed in range(20):
    rng = np.random.default_rng(seed)
    curves = [
      {"valid/accuracy": (np.array([1]), rng.integers(0, 300, 1) / 300)}
      for _ in made.trials
    ]
    trials = [
      dataclasses.replace(trial, curves=curve)
      for trial, curve in zip(made.trials, curves, strict=True)
    ]
    results = dataclasses.replace(
      made, trials=trials, objective="valid/accuracy"
    )
    rows = plot_rows.rows(results, "isolation:0")
    values = [row["objective"] for row in rows]
    assert len(values) == 2
    assert plot_rows.ends(results, "isolation:0") == sorted(values)


def test_only_what_is_minimized_has_a_log_axis():
  """An accuracy of 0.01 to 0.9 is drawn on a linear axis."""
  made = made_up.study(3, statuses={})
  steps = made.trials[0].curves["valid/loss"][0]
  wide = steps, np.geomspace(0.01, 0.9, len(steps))
  curves = {"valid/error_rate": wide, "valid/accuracy": wide}
  trials = [dataclasses.replace(t, curves=curves) for t in made.trials]
  for family, kind in (("error_rate", "log"), ("accuracy", "linear")):
    objective = f"valid/{family}"
    results = dataclasses.replace(made, trials=trials, objective=objective)
    figure = plots.Figure(
      *("curves", "curves", f"curves:{family}"), plots.curves(results, family)
    )
    (layer,) = plots_study.spec(figure, results)["layer"]
    assert layer["encoding"]["y"]["scale"]["type"] == kind
    assert plot_rows.scale([0.01, 0.9], results.metric.maximized) == kind


def test_comparisons(pair):
  """Improvements are positive in both directions, and say higher or lower."""
  one, other, mirror = pair

  def halves(results):
    even = [t for t in results.trials if t.index % 2 == 0]
    odd = [t for t in results.trials if t.index % 2]
    return [dataclasses.replace(results, trials=part) for part in (even, odd)]

  told = set()
  for turn in (1, -1):
    ours, theirs = (compare.compare(*halves(r)[::turn]) for r in (one, other))
    for name in ("verdict", "improvement", "interval", "more_seeds", "changes"):
      assert getattr(ours, name) == getattr(theirs, name)
    for side in ("baseline", "candidate"):
      here, there = getattr(ours, side), getattr(theirs, side)
      mirrored = {
        name: mirror(getattr(here, name)) for name in ("best", "mean")
      }
      assert there == dataclasses.replace(here, **mirrored)
    words = [summary.of_comparison(c) for c in (ours, theirs)]
    pairs = {True: ("lower", "higher"), False: ("higher", "lower")}
    expected = pairs[ours.improvement >= 0]
    assert [w in text for w, text in zip(expected, words, strict=True)] == [
      True,
      True,
    ]
    told.add(expected)
  assert len(told) == 2
  choices = [compare.choices(r) for r in (one, other)]
  assert [c[:2] for c in choices[0]] == [c[:2] for c in choices[1]]


def test_next_studies_and_suggestions(pair):
  """The next study is the same, and so are the trials that Optuna suggests."""
  pytest.importorskip("optuna")
  one, other, _ = pair
  findings = [checklist.check_study(r) for r in (one, other)]
  files, batches = [], []
  for results, found in zip((one, other), findings, strict=True):
    files.append(refine.next_study(results, found))
    batches.append(refine.next_batch(results, found, num=3, seed=1))
  assert files[0].replace(one.objective, other.objective) == files[1]
  space, history = refine.refined(one, findings[0])
  _, mirrored = refine.refined(other, findings[1])
  shift = other.costs[0] - one.costs[0]
  for (point, cost), (same, moved) in zip(history, mirrored, strict=True):
    assert point == same and (cost is None) == (moved is None)
    assert cost is None or moved == cost + shift
  assert batches[0]["points"] == batches[1]["points"]


def test_optuna_is_told_to_maximize(tmp_path):
  """The exported study has values, and the direction in which they improve."""
  optuna = pytest.importorskip("optuna")
  both = _both(made_up.study(4, statuses={}), "valid/loss")
  for results, direction in zip(both, ("MINIMIZE", "MAXIMIZE"), strict=False):
    url = f"sqlite:///{tmp_path}/{direction}.db"
    name, *_ = optuna_export.export(results, url)
    storage = optuna.storages.RDBStorage(url)
    try:
      study = optuna.load_study(study_name=name, storage=storage)
      assert study.direction.name == direction
      assert study.best_value == results.value(results.ranked[0])
    finally:
      storage.remove_session()
      storage.engine.dispose()


@pytest.mark.parametrize("metric", MIRRORS)
def test_a_study_on_disk(metric, tmp_path):
  """The direction comes from study.json and config.json; the page knows it."""
  one, other, mirror = _both(made_up.study(6, statuses={}), metric)
  made_up.write(one, tmp_path / "one")
  made_up.write(other, tmp_path / "other")
  one, other = (
    results_lib.read_study(tmp_path / name) for name in ("one", "other")
  )
  assert other.metric.maximized and not one.metric.maximized
  assert [t.index for t in one.ranked] == [t.index for t in other.ranked]
  np.testing.assert_equal(other.values, mirror(one.values))
  path = other.ranked[0].path
  assert rundir.RunDir(path).config()["declared"] == [*MIRRORS[metric][2]]
  run = compare.read(path, other.objective)
  assert run.values.tolist() == [other.value(other.ranked[0])]
  study_page.write(
    other, checklist.check_study(other), path=tmp_path / "p.html"
  )
  text = (tmp_path / "p.html").read_text()
  block = re.search(r'id="data">(.*?)</script>', text, re.S)[1]
  data = json.loads(block)
  assert other.objective.split("/")[1] in data["maximized"]
  assert "loss" not in data["maximized"]
