"""F6: the longest run worth starting; closed forms against the definition."""

import dataclasses
import datetime
import json
import math

import numpy as np
import pytest

from jaxplay import cli, longest_run
from jaxplay.playbook import plots as plots_answer
from tests import browser

_NAMED = {v.name: v for v in longest_run.VARIANTS}
_TODAY = datetime.date(2026, 11, 25)
_PLAN = ("plan", "longest-run")


def _random_rates(number, low=1e-2, high=10.0):
  draws = np.random.default_rng(0).uniform(
    math.log(low), math.log(high), (number, 3)
  )
  return [longest_run.Rates(*np.exp(row).tolist()) for row in draws]


def _years(name, rates=longest_run.ARTICLE):
  return _NAMED[name].length(rates)


@pytest.mark.parametrize("variant", longest_run.VARIANTS, ids=lambda v: v.name)
def test_the_closed_form_is_the_maximum(variant):
  """F6: no other length has more effective compute, at any rates."""
  for rates in _random_rates(20, low=0.2, high=2.0):
    best = variant.length(rates)
    assert variant.length_by_search(rates) == pytest.approx(best, rel=1e-4)
    most = variant.compute(best, rates)
    for factor in (0.5, 0.98, 1.02, 2.0):
      assert variant.compute(factor * best, rates) < most


@pytest.mark.parametrize("variant", longest_run.VARIANTS, ids=lambda v: v.name)
def test_compute_is_what_a_run_day_by_day_makes(variant):
  """F6: buying, upgrading and computing in small steps give the objective."""
  h, i, s = 0.4, 0.9, 0.6
  length, steps = 1.3, 4000
  edges = np.linspace(length, 0, steps + 1)  # years left
  step = length / steps
  money = np.exp(-i * edges)
  devices = done = 0.0
  for place in range(steps):
    v = edges[place]
    if place == 0:
      dollars = money[0] if variant.rising else 1.0
    else:
      dollars = money[place] - money[place - 1] if variant.swapped else 0.0
    day = {"": 0.0, "start": length, "purchase": v, "use": 0.0}
    bought = dollars * math.exp(-h * v - s * day[variant.software])
    devices += bought
    now = v - step / 2
    today = math.exp(-s * now) if variant.software == "use" else 1.0
    done += devices * today * step
  expected = variant.compute(length, longest_run.Rates(h, i, s))
  assert done == pytest.approx(expected, rel=1e-3)


def test_the_figures_of_the_article():
  """F6: those that hold, and the one that needs another growth of budgets."""
  for name in ("hardware, budget", "hardware, software"):
    assert f"{_years(name):.2f}" == _NAMED[name].article
  # Said of a doubling time of 2.46 years, before that became 0.281.
  doubling = longest_run.Rates(hardware=math.log(2) / 2.46)
  for name in ("hardware", "hardware swapped"):
    assert f"{_years(name, doubling):.2f}" == _NAMED[name].article
    assert f"{_years(name):.2f}" == "3.56"
  name = "hardware, budget, software"
  assert f"{_years(name):.2f}" == "0.54"
  other = longest_run.Rates(0.28, 3.84, 0.54)
  assert f"{_years(name, other):.2f}" == _NAMED[name].article
  # "1.2 years" with swapping, where the software of the start gives less.
  name = "swapped, software of each purchase"
  assert f"{_years(name):.1f}" == _NAMED[name].article
  assert f"{_years('swapped, software of the start'):.2f}" == "0.85"
  assert f"{_years('swapped, software upgraded'):.2f}" == "1.98"


def test_contradictions_are_told_at_its_own_rates_alone():
  """F6: another's rates have nothing to do with the article's figures."""

  def told(rates):
    return {
      found.subject
      for found in longest_run.answer(rates).findings
      if found.check == "article_contradicts_itself"
    }

  assert len(told(longest_run.ARTICLE)) == len(longest_run.contradictions())
  assert not told(longest_run.Rates(hardware=0.3))


@pytest.mark.parametrize(
  "gone, name, left",
  [
    ("investment", "hardware, budget", "hardware"),
    ("software", "hardware, software", "hardware"),
    ("software", "hardware, budget, software", "hardware, budget"),
    ("investment", "hardware, budget, software", "hardware, software"),
    ("software", "the same, software upgraded", "hardware, budget"),
    ("software", "swapped, software of the start", "hardware swapped"),
    ("software", "swapped, software of each purchase", "hardware swapped"),
    ("software", "swapped, software upgraded", "hardware swapped"),
    # Nothing comes in, so there is nothing to swap.
    ("investment", "swapped, software of the start", "hardware, software"),
  ],
)
def test_without_a_growth_its_variant_is_the_one_below(gone, name, left):
  """F6: the least growth that is allowed changes nearly nothing."""
  rates = dataclasses.replace(longest_run.ARTICLE, **{gone: 1e-4})
  assert _years(name, rates) == pytest.approx(_years(left, rates), rel=0.01)


def test_order_of_the_lengths():
  """F6: what waiting can use shortens, what a run takes up lengthens."""
  for rates in _random_rates(50):
    frozen = _years("hardware, budget, software", rates)
    bought = _years("swapped, software of the start", rates)
    each = _years("swapped, software of each purchase", rates)
    both = _years("swapped, software upgraded", rates)
    assert frozen < bought < each < both < _years("hardware swapped", rates)
    assert frozen < _years("the same, software upgraded", rates) < both
    assert (
      frozen < _years("hardware, budget", rates) < _years("hardware", rates)
    )


def test_faster_growth_makes_runs_shorter():
  """F6: of hardware always, of software wherever it counts."""
  for rates in _random_rates(50):
    for variant in longest_run.VARIANTS:
      best = variant.length(rates)
      for name in ("hardware", "software"):
        faster = dataclasses.replace(
          rates, **{name: 1.5 * getattr(rates, name)}
        )
        if name == "hardware" or variant.software:
          assert variant.length(faster) < best, (variant.name, name)
        else:
          assert variant.length(faster) == best


def test_extreme_rates():
  """F6: all that Rates takes is answered, and where it is flat that is said."""
  found_by_search = 0
  for h in (1e-4, 100.0):
    for i in (1e-4, 100.0):
      for s in (1e-4, 100.0):
        rates = longest_run.Rates(h, i, s)
        for variant in longest_run.VARIANTS:
          best = variant.length(rates)
          most = variant.compute(best, rates)
          for factor in (0.1, 0.5, 2.0, 10.0):
            other = variant.compute(factor * best, rates)
            assert other <= most * (1 + 1e-9), (variant.name, rates)
          found = variant.length_by_search(rates)
          if not math.isnan(found):
            found_by_search += 1
            assert found == pytest.approx(best, rel=1e-3), (variant.name, rates)
  assert found_by_search > 0.8 * 8 * len(longest_run.VARIANTS)


def test_draws_agree_with_the_closed_forms():
  """F6: each reading's interval holds its length, at several spreads."""
  for spread in (0.1, 0.3, 0.5):
    for reading in longest_run.readings(0.5, spread=spread, seed=3):
      half = (reading.high - reading.low) / 2
      # 1.5 times the half of 99 %: 1 in 10,000.
      assert abs(reading.drawn - reading.exact) < 1.5 * half, reading
      assert half < 0.02 * reading.exact


def test_effects_of_uncertainty():
  """F6: it shortens a run only where growth is worth more on average."""
  found = {r.name: r for r in longest_run.readings(0.281, seed=1)}
  assert [r.effect for r in found.values()] == [
    *("the same", "shorter", "longer"),
    *("shorter", "the same", "longer", "longer"),
  ]
  for reading in found.values():
    same = reading.low < 1 / 0.281 < reading.high
    assert same == (reading.effect == "the same"), reading


def test_readings_repeat():
  """F6: the seed decides the draws, and the rate only the unit of time."""
  first, again, other = (
    longest_run.readings(0.281, seed=seed) for seed in (0, 0, 1)
  )
  assert first == again != other
  faster = longest_run.readings(2 * 0.281, seed=0)
  for a, b in zip(first, faster, strict=True):
    assert a.factor == pytest.approx(b.factor)
    assert a.drawn == pytest.approx(2 * b.drawn, rel=1e-4)


def test_watching_volatile_growth_does_not_change_the_start():
  """F6: starting when it looks best gains nothing over the fixed length.

  By backward induction over a binomial tree of hardware that grows by g on
  average: wherever it stands, start when 1/g years are left.
  """
  g, volatility, steps, deadline = 0.281, 0.4, 400, 6.0
  step = deadline / steps
  up = math.exp(volatility * math.sqrt(step))
  chance = (math.exp(g * step) - 1 / up) / (up - 1 / up)
  value, started = np.zeros(steps + 1), []
  for place in reversed(range(steps)):
    level = up ** np.arange(-place, place + 1, 2.0)
    now = level * (deadline - place * step)
    wait = chance * value[1:] + (1 - chance) * value[:-1]
    started.append((now >= wait).mean())
    value = np.maximum(now, wait)
  assert set(started) == {0.0, 1.0}
  assert step * sum(started) == pytest.approx(1 / g, abs=2 * step)
  best = math.exp(g * (deadline - 1 / g)) / g
  assert value[0] == pytest.approx(best, rel=1e-3)


def test_when_to_start():
  """F6: the length before the deadline, with what the budget has become."""
  deadline = datetime.date(2036, 11, 25)
  for variant in longest_run.VARIANTS:
    found = longest_run.start(
      variant,
      longest_run.ARTICLE,
      deadline=deadline,
      today=_TODAY,
      budget=1000.0,
    )
    length = variant.length(longest_run.ARTICLE)
    days = (deadline - found.date).days
    assert days == pytest.approx(365.25 * length, abs=0.51)
    assert found.overdue == 0 and 0 < found.lost_today < 1
    wait = 10.0 - length
    rate = longest_run.ARTICLE.investment * variant.rising
    assert found.budget == pytest.approx(
      1000 * math.exp(rate * wait), rel=0.002
    )
    # By the deadline all the money there is was spent.
    total = 1000 * math.exp(rate * 10) if variant.swapped else found.budget
    assert found.budget + found.later == pytest.approx(total, rel=0.002)


def test_a_best_start_that_is_over():
  """F6: start now; what is lost is the compute against the best length."""
  variant = _NAMED["hardware"]
  found = longest_run.start(
    variant,
    longest_run.ARTICLE,
    deadline=datetime.date(2027, 11, 25),
    today=_TODAY,
    budget=7.0,
  )
  years, best = 365 / 365.25, 1 / 0.281
  assert found.date == _TODAY and found.budget == 7.0
  assert found.years == pytest.approx(years)
  assert found.overdue == pytest.approx(best - years)
  kept = years * math.exp(-0.281 * years) / (best * math.exp(-1))
  assert found.lost_today == pytest.approx(1 - kept)


@pytest.mark.parametrize(
  "arguments, sentence",
  [
    (("--hardware=0",), "the growth of hardware is 0 per year"),
    (("--investment=-1",), "the growth of investment is -1 per year"),
    (("--software=nan",), "the growth of software is nan per year"),
    (("--hardware=101",), "must lie in [0.0001, 100]"),
    (("--hardware=inf",), "the growth of hardware is inf per year"),
    (("--hardware=fast",), "got 'fast'"),
    (("--spread=0",), "the spread is 0"),
    (("--spread=0.6",), "must lie in [0.001, 0.5]"),
    (("--spread=nan",), "the spread is nan"),
    (("--seed=-1",), "at least 0"),
    (("--deadline=2026-11-25",), "does not lie after 2026-11-25"),
    (("--deadline=2020-01-01",), "does not lie after"),
    (("--deadline=2028-02-30",), "YYYY-MM-DD"),
    (("--deadline=2200-01-01",), "choose one within 100"),
    (("--deadline=2080-01-01", "--budget=5"), "choose a nearer deadline"),
    (("--deadline=2028-01-01", "--budget=-5"), "a number of at least"),
    (("--budget=5",), "add --deadline=DATE"),
    (("--hardwar=1",), "did you mean --hardware?"),
  ],
)
def test_bad_requests(arguments, sentence, capsys):
  """F6: one sentence, exit code 2."""
  today = ()
  if any(word.startswith("--deadline") for word in arguments):
    today = (f"--today={_TODAY}",)
  assert cli.main([*_PLAN, *arguments, *today]) == 2
  told = capsys.readouterr()
  assert sentence in told.err and not told.out
  assert told.err.startswith("jaxplay: ") and told.err.count("\n") == 1


def test_from_the_shell(tmp_path, capsys):
  """F6: the defaults are the article's rates; the tables, then the notes."""
  assert cli.main([*_PLAN]) == 0
  text = capsys.readouterr().out
  assert "1/(h+i+s)  0.5400    6.48     0.5400     0.21" in text
  assert "3.84" in text and "uncertainty_shortens_runs" in text
  assert "To be done on" not in text
  assert cli.main([*_PLAN, "--json", f"--figures={tmp_path}"]) == 0
  assert len(list(tmp_path.glob("*.svg"))) == 3
  told = json.loads(capsys.readouterr().out)
  rates = told["details"]["rates"]
  assert rates == dataclasses.asdict(longest_run.ARTICLE)
  assert len(told["details"]["lengths"]) == len(longest_run.VARIANTS)


def test_a_plan_is_kept(tmp_path, capsys):
  """F6: --workdir holds answer, findings and page, of one question."""
  folder = tmp_path / "plan"
  asked = [*_PLAN, f"--workdir={folder}", f"--today={_TODAY}"]
  asked += ["--deadline=2028-06-30", "--budget=1e6"]
  assert cli.main(asked) == 0
  assert str(folder / "report.html") in capsys.readouterr().out
  plan = json.loads((folder / "plan.json").read_text())
  assert plan["question"] == "longest-run"
  starts = plan["answer"]["details"]["starts"]
  assert starts[0]["date"] == "2026-11-25" and starts[0]["overdue"] > 0
  findings = json.loads((folder / "findings.json").read_text())
  assert "best_start_is_over" in {row["check"] for row in findings}
  page = (folder / "report.html").read_text()
  assert "To be done on 2028-06-30" in page and "2,359,364" in page
  assert cli.main([*asked, "--hardware=0.3"]) == 2
  assert "--hardware was 0.281 and is now 0.3" in capsys.readouterr().err


def test_pictures_are_valid():
  """F6: every line reaches 1 at its point and nowhere more."""
  pictures = longest_run.answer(longest_run.ARTICLE).pictures
  for figure in plots_answer.figures(pictures):
    figure.chart.to_dict(validate=True)
  for picture in pictures[:2]:
    assert all(point["y"] == 1 for point in picture.points)
    for point in picture.points:
      line = [r["y"] for r in picture.lines if r["series"] == point["series"]]
      assert 0.99 < max(line) <= 1
  shares = [bar["y"] for bar in pictures[2].bars]
  assert sum(shares) == pytest.approx(0.994, abs=1e-3)


@pytest.mark.skipif(browser.BINARY is None, reason="needs Chromium")
def test_the_page_is_drawn(tmp_path):
  """F6: all figures and tables are there, and nothing is complained of."""
  folder = tmp_path / "plan"
  assert cli.main([*_PLAN, f"--workdir={folder}"]) == 0
  with browser.Browser() as window:
    window.open(folder / "report.html")
    assert (
      window.run("document.querySelectorAll('.view svg.marks').length") == 3
    )
    assert window.run("document.querySelectorAll('#the-answer table').length")
    assert not window.problems()
