"""F6: the longest run worth starting; closed forms against the definition.

The definition is integrated, maximized and sampled numerically here; the module
has the closed forms alone.
"""

import dataclasses
import datetime
import json
import math

import numpy as np
import pytest
from scipy import integrate, optimize, special, stats

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


def _compute(variant, length, rates):
  """Effective compute of a run of `length` years, integrated numerically."""
  h, i, s = dataclasses.astuple(rates)

  def yielded(v):
    """Of hardware for one dollar, bought when v years are left."""
    years = -math.expm1(-s * v) / s if variant.software == "use" else v
    frozen = {"start": length, "purchase": v}.get(variant.software, 0.0)
    return math.exp(-h * v - s * frozen) * years

  waits = i if variant.budget != "fixed" else 0.0
  total = yielded(length) * math.exp(-waits * length)
  if variant.budget == "spent":
    # Over log v: days and millennia may both matter.
    longest = min(length, 50 / (h + i))
    total += integrate.quad(
      lambda x: math.exp(x - i * math.exp(x)) * i * yielded(math.exp(x)),
      math.log(1e-7 * min(longest, 1 / (h + i + s))),
      math.log(longest),
      epsabs=0,
      epsrel=1e-12,
      limit=200,
    )[0]
  return total


def _length_by_search(variant, rates):
  """The length with the most `_compute`; NaN if the maximum is flat."""
  lengths = np.geomspace(
    0.01 / sum(dataclasses.astuple(rates)), 10 / rates.hardware, 100
  )
  best = np.argmax([_compute(variant, x, rates) for x in lengths])
  result = optimize.minimize_scalar(
    lambda x: -_compute(variant, x, rates),
    bounds=(lengths[max(best - 1, 0)], lengths[min(best + 1, 99)]),
    method="bounded",
    options={"xatol": 1e-9 * lengths[best]},
  )
  flat = _compute(variant, 2 * result.x, rates) > (1 - 1e-6) * -result.fun
  return math.nan if flat else result.x


def _drawn_lengths(growth, spread, seed, batches=40, draws=5000):
  """Reading -> best length of each batch of draws of uncertain growth."""
  scale = spread**2 * growth  # of the gamma distribution; the variance per year
  horizon = 2 / growth
  rng = np.random.default_rng(seed)
  unknown = rng.gamma(spread**-2, scale, (batches, draws))
  normal = rng.standard_normal(unknown.shape)

  def volatile(drift):
    """log of growth until the start, of the drift of the mean."""
    return lambda wait, z, _: (
      (drift - scale / 2) * wait + np.sqrt(scale * wait) * z
    )

  def expected(log):
    return lambda x, z, g: (
      math.log(x) + special.logsumexp(log(horizon - x, z, g))
    )

  def cautious(log):
    return lambda x, z, g: math.log(x) + log(horizon - x, z, g).mean()

  objectives = {
    "volatile: expected compute": expected(volatile(growth)),
    "volatile about the given median: expected compute": expected(
      volatile(growth + scale / 2)
    ),
    "volatile: expected log of compute": cautious(volatile(growth)),
    "unknown rate: expected compute": expected(lambda wait, _, g: g * wait),
    "unknown rate: expected log of compute": cautious(
      lambda wait, _, g: g * wait
    ),
    "unknown rate: expected share of the frontier": expected(
      lambda wait, _, g: g * (wait - horizon)
    ),
  }
  lengths = {
    name: [
      optimize.minimize_scalar(
        lambda x, *rows, f=objective: -f(x, *rows),
        bounds=(0.01 / growth, horizon),
        args=rows,
        method="bounded",
      ).x
      for rows in zip(normal, unknown, strict=True)
    ]
    for name, objective in objectives.items()
  }
  learnt = "unknown rate, known at the start: mean length"
  return lengths | {learnt: (1 / unknown).mean(axis=1)}


def _drawn(growth, spread, seed):
  """Reading -> mean of the drawn lengths, and half of its 99% interval."""
  return {
    name: (
      np.mean(lengths),
      stats.t.ppf(0.995, len(lengths) - 1) * stats.sem(lengths),
    )
    for name, lengths in _drawn_lengths(growth, spread, seed).items()
  }


@pytest.mark.parametrize("variant", longest_run.VARIANTS, ids=lambda v: v.name)
def test_the_closed_form_is_the_maximum(variant):
  """F6: no other length has more effective compute, at any rates."""
  for rates in _random_rates(20, low=0.2, high=2.0):
    best = variant.length(rates)
    assert _length_by_search(variant, rates) == pytest.approx(best, rel=1e-4)
    most = variant.compute(best, rates)
    for factor in (0.5, 0.98, 1.02, 2.0):
      other = variant.compute(factor * best, rates)
      assert other < most
      integrated = _compute(variant, factor * best, rates)
      assert other == pytest.approx(integrated, rel=1e-9)


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
      dollars = 1.0 if variant.budget == "fixed" else money[0]
    elif variant.budget == "spent":
      dollars = money[place] - money[place - 1]
    else:
      dollars = 0.0
    day = {"fixed": 0.0, "start": length, "purchase": v, "use": 0.0}
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


def test_the_article_is_contradicted_at_its_own_rates_alone():
  """F6: other rates have nothing to do with the article's figures."""

  def evidence(rates):
    return [
      finding.evidence
      for finding in longest_run.answer(rates).findings
      if finding.check == "article_contradicts_itself"
    ]

  combined = _years("hardware, budget, software")
  assert evidence(longest_run.ARTICLE) == [{"said": 0.21, "found": combined}]
  assert not evidence(longest_run.Rates(hardware=0.3))


@pytest.mark.parametrize(
  "gone, name, left",
  [
    ("investment", "hardware, budget", "hardware"),
    ("software", "hardware, software", "hardware"),
    ("software", "hardware, budget, software", "hardware, budget"),
    ("investment", "hardware, budget, software", "hardware, software"),
    ("software", "hardware, budget, upgraded software", "hardware, budget"),
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
    assert frozen < _years("hardware, budget, upgraded software", rates) < both
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
        if name == "hardware" or variant.software != "fixed":
          assert variant.length(faster) < best, (variant.name, name)
        else:
          assert variant.length(faster) == best


def test_extreme_rates():
  """F6: no length is better than the best one at the ends of Rates."""
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
          length = _length_by_search(variant, rates)
          if not math.isnan(length):
            found_by_search += 1
            assert length == pytest.approx(best, rel=1e-3), (variant, rates)
  assert found_by_search > 0.8 * 8 * len(longest_run.VARIANTS)


def test_draws_agree_with_the_closed_forms():
  """F6: each interval of draws holds the closed form, at several spreads."""
  for spread in (0.1, 0.3, 0.5):
    factors = longest_run.uncertainty(spread)
    drawn = _drawn(0.5, spread, seed=3)
    assert factors.keys() == drawn.keys()
    for name, (mean, half) in drawn.items():
      exact = factors[name] / 0.5
      # 1.5 times the half of 99%: 1 in 10,000.
      assert abs(mean - exact) < 1.5 * half, name
      assert half < 0.02 * exact


def test_effects_of_uncertainty():
  """F6: it shortens a run only where growth is worth more on average."""
  table = longest_run.answer(longest_run.ARTICLE).tables[-1]
  effects = {row[0]: row[-1] for row in table.rows}
  assert list(effects.values()) == [
    *("the same", "shorter", "longer"),
    *("shorter", "the same", "longer", "longer"),
  ]
  for name, (mean, half) in _drawn(0.281, 0.3, seed=1).items():
    same = abs(mean - 1 / 0.281) < half
    assert same == (effects[name] == "the same"), name


def test_the_growth_rate_is_only_the_unit_of_time():
  """F6: so the factors of uncertainty do not depend on it; draws neither."""
  once, twice = (_drawn(rate, 0.3, seed=0) for rate in (0.281, 2 * 0.281))
  for name in once:
    assert once[name][0] == pytest.approx(2 * twice[name][0], rel=1e-4)


def test_the_seed_decides_the_figure():
  """F6: of the lengths at drawn growth rates, and nothing else."""
  first, again, other = (
    longest_run.answer(longest_run.ARTICLE, seed=seed) for seed in (0, 0, 1)
  )
  assert first == again and first.details == other.details
  assert first.figures[:2] == other.figures[:2]
  assert first.figures[2] != other.figures[2]


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
    result = longest_run.start(
      variant,
      longest_run.ARTICLE,
      deadline=deadline,
      today=_TODAY,
      budget=1000.0,
    )
    length = variant.length(longest_run.ARTICLE)
    days = (deadline - result.date).days
    assert days == pytest.approx(365.25 * length, abs=0.51)
    assert result.overdue == 0 and 0 < result.lost_today < 1
    wait = 10.0 - length
    rate = longest_run.ARTICLE.investment
    if variant.budget == "fixed":
      rate = 0.0
    assert result.budget == pytest.approx(
      1000 * math.exp(rate * wait), rel=0.002
    )
    # By the deadline all the money there is was spent.
    total = result.budget
    if variant.budget == "spent":
      total = 1000 * math.exp(rate * 10)
    assert result.budget + result.later == pytest.approx(total, rel=0.002)


def test_a_best_start_that_is_over():
  """F6: start now; what is lost is the compute against the best length."""
  variant = _NAMED["hardware"]
  result = longest_run.start(
    variant,
    longest_run.ARTICLE,
    deadline=datetime.date(2027, 11, 25),
    today=_TODAY,
    budget=7.0,
  )
  years, best = 365 / 365.25, 1 / 0.281
  assert result.date == _TODAY and result.budget == 7.0
  assert result.years == pytest.approx(years)
  assert result.overdue == pytest.approx(best - years)
  kept = years * math.exp(-0.281 * years) / (best * math.exp(-1))
  assert result.lost_today == pytest.approx(1 - kept)


@pytest.mark.parametrize(
  "arguments, sentence",
  [
    (("--hardware=0",), "hardware in [0.0001, 100] per year, got 0"),
    (("--investment=-1",), "investment in [0.0001, 100] per year, got -1"),
    (("--software=nan",), "software in [0.0001, 100] per year, got nan"),
    (("--hardware=101",), "in [0.0001, 100] per year, got 101"),
    (("--hardware=inf",), "hardware in [0.0001, 100] per year, got inf"),
    (("--hardware=fast",), "got 'fast'"),
    (("--spread=0",), "in [0.001, 0.5], got 0"),
    (("--spread=0.6",), "in [0.001, 0.5], got 0.6"),
    (("--spread=nan",), "in [0.001, 0.5], got nan"),
    (("--seed=-1",), "at least 0"),
    (
      ("--deadline=2026-11-25",),
      "after 2026-11-25 and within 100 years, got 2026-11-25",
    ),
    (
      ("--deadline=2020-01-01",),
      "after 2026-11-25 and within 100 years, got 2020-01-01",
    ),
    (("--deadline=2028-02-30",), "YYYY-MM-DD"),
    (("--deadline=2200-01-01",), "within 100 years, got 2200-01-01"),
    (("--deadline=2080-01-01", "--budget=5"), "choose an earlier deadline"),
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
  output = capsys.readouterr()
  assert sentence in output.err and not output.out
  assert output.err.startswith("jaxplay: ") and output.err.count("\n") == 1


def test_from_the_shell(tmp_path, capsys):
  """F6: the defaults are the article's rates; the tables, then the notes."""
  assert cli.main([*_PLAN]) == 0
  text = capsys.readouterr().out
  assert "1/(h+i+s)  0.5400    6.48     0.21" in text
  assert "3.84" in text and "uncertainty_shortens_runs" in text
  assert "To be done on" not in text
  assert cli.main([*_PLAN, "--json", f"--figures={tmp_path}"]) == 0
  assert len(list(tmp_path.glob("*.svg"))) == 3
  output = json.loads(capsys.readouterr().out)
  rates = output["details"]["rates"]
  assert rates == dataclasses.asdict(longest_run.ARTICLE)
  assert len(output["details"]["lengths"]) == len(longest_run.VARIANTS)


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
  pictures = longest_run.answer(longest_run.ARTICLE).figures
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
