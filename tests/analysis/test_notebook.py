"""Results and findings in notebooks: arrays, data frames and HTML."""

import dataclasses
import html.parser
import sys
import types

import numpy as np
import pytest

import jaxplay
from jaxplay import finding
from jaxplay.analysis import checklist
from jaxplay.study import space as space_lib
from tests import made_up
from tests.analysis import by_hand

HOSTILE = "</td><script>alert('x')</script><img src=x onerror=y>&amp;"


class _Cells(html.parser.HTMLParser):
  """Texts of the cells, and every tag, of a table."""

  def __init__(self, text):
    super().__init__()
    self.tags, self.rows = set(), []
    self.feed(text)

  def handle_starttag(self, tag, attrs):
    assert not attrs
    self.tags.add(tag)
    if tag == "tr":
      self.rows.append([])
    elif tag in ("td", "th"):
      self.rows[-1].append("")

  def handle_data(self, data):
    self.rows[-1][-1] += data


def _table(value):
  cells = _Cells(value._repr_html_())
  assert cells.tags <= {"table", "thead", "tbody", "tr", "th", "td"}
  return cells.rows


def test_arrays_agree_with_the_trials():
  """D11: a row per trial, in order; missing values are NaN, -1 or None."""
  results = made_up.study(30)
  columns = results.to_arrays()
  assert {len(column) for column in columns.values()} == {30}
  assert {p.label for p in results.space.parameters} <= columns.keys()
  for i, trial in enumerate(results.trials):
    assert columns["index"][i] == trial.index
    assert columns["status"][i] == trial.status
    assert columns["step"][i] == trial.step
    np.testing.assert_equal(columns["objective"][i], results.value(trial))
    best_step = trial.best(results.objective)[1]
    assert columns["best_step"][i] == best_step
    for p in results.space.parameters:
      value = columns[p.label][i]
      if p.label in trial.point:
        assert value == trial.point[p.label]
      else:
        assert value is None or np.isnan(value)


def test_types_of_columns():
  """D11: integers stay integers; choices, which may be tuples, are objects."""
  space = {
    "hparams.warmup_steps": space_lib.Int(1, 9),
    "hparams.learning_rate": space_lib.Float(1e-4, 1.0, "log"),
    "model.hidden_sizes": space_lib.Choice(((8,), (8, 8))),
  }
  points = [
    dict(zip(space, values, strict=True))
    for values in ((1, 0.1, (8,)), (9, 0.2, (8, 8)))
  ]
  columns = by_hand.study(space, points, [0.1, 0.2]).to_arrays()
  kinds = [columns[name].dtype.kind for name in space]
  assert kinds == ["i", "f", "O"]
  assert columns["model.hidden_sizes"].tolist() == [(8,), (8, 8)]
  empty = by_hand.study(space, [], []).to_arrays()
  assert all(column.shape == (0,) for column in empty.values())


def test_data_frame(monkeypatch):
  """D11: pandas gets the arrays; without it the error names the command."""
  results = made_up.study(4)
  monkeypatch.setitem(sys.modules, "pandas", None)
  with pytest.raises(jaxplay.UserError, match="pip install\\s+pandas"):
    results.to_dataframe()
  fake = types.SimpleNamespace(DataFrame=dict)
  monkeypatch.setitem(sys.modules, "pandas", fake)
  frame = results.to_dataframe()
  assert list(frame) == list(results.to_arrays())
  np.testing.assert_equal(frame, results.to_arrays())


def test_table_of_the_best_trials():
  """D11: at most ten, best first, with value, best step and point."""
  results = made_up.study(30)
  heads, *rows = _table(results)
  assert len(rows) == 10
  assert [int(row[0]) for row in rows] == [
    trial.index for trial in results.ranked[:10]
  ]
  assert heads[3:] == [p.label for p in results.space.parameters]
  for row, trial in zip(rows, results.ranked, strict=False):
    assert float(row[1]) == pytest.approx(results.value(trial), rel=1e-3)
    assert int(row[2]) == trial.best(results.objective)[1]
  assert len(_table(made_up.study(0, statuses={}))) == 1


def test_hostile_names_are_escaped():
  """D11: names from a study are text, never markup."""
  space = {"model.name": space_lib.Choice((HOSTILE, "mlp"))}
  results = by_hand.study(space, [{"model.name": HOSTILE}], [0.1])
  results = dataclasses.replace(results, objective="valid/error_rate")
  assert _table(results)[1][-1] == HOSTILE
  texts = [HOSTILE] * 3
  made = finding.Finding(texts[0], "warn", texts[1], {}, texts[2], "Playbook")
  assert _table(finding.Findings([made]))[1] == ["warn", *texts]


def test_checks_return_findings():
  """D11: the checklist is shown as a table, a row for each finding."""
  found = checklist.check_study(made_up.study(30))
  assert isinstance(found, finding.Findings)
  _, *rows = _table(found)
  assert rows == [[f.verdict, f.check, f.subject, f.advice] for f in found]
