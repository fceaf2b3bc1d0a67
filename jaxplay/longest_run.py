"""How long a training run should be while hardware, budgets and software grow.

A late start has better hardware, a larger budget and better software, an early
start more time; the best length has the most effective compute at the deadline.

Notation: levels are 1 at the deadline. With v years left, a dollar buys
exp(-h v) of hardware, exp(-i v) dollars are available, and software is worth
exp(-s v). docs/longest_run.md derives the formulas.

Source: Sevilla, Besiroglu, Dudney and Ho 2022, "The longest training run"
(epochai.org/blog/the-longest-training-run), below "the article".
"""

import dataclasses
import datetime
import math
from typing import Any, Literal

import numpy as np
from scipy import special

import jaxplay
from jaxplay import finding
from jaxplay.playbook import result as result_lib

_DAYS_PER_YEAR = 365.25
_MAX_YEARS, _MAX_BUDGET_GROWTH = 100, 1e9
_DRAWS = 200_000


@dataclasses.dataclass(frozen=True)
class Rates:
  """Exponential growth rates per year, ln(2) / (years to double).

  Attributes:
    hardware: FLOP/s per dollar (Hobbhahn and Besiroglu 2022).
    investment: Dollars of a training run: 1.31 for its compute, less hardware.
    software: Algorithmic efficiency, ln(44) / 7 (Hernandez and Brown 2020).

  Raises:
    jaxplay.UserError: A growth rate is outside [1e-4, 100].
  """

  hardware: float = 0.281
  investment: float = 1.03
  software: float = 0.541

  def __post_init__(self):
    for name, rate in vars(self).items():
      _check_range(f"growth rate of {name}", rate, 1e-4, 100, " per year")


def _check_range(name, value, low, high, unit=""):
  if not low <= value <= high:
    raise jaxplay.UserError(
      f"expected a {name} in [{low:g}, {high:g}]{unit}, got {value:g}"
    )


ARTICLE = Rates()


@dataclasses.dataclass(frozen=True)
class Variant:
  """Which levels grow, and which a run can adopt after its start.

  Attributes:
    name: Shown in tables and figures.
    formula: The best length in years.
    budget: "fixed", "rising" until the start, or "spent": spent as it comes in,
      so that hardware is bought during the run, too.
    software: "fixed", or the version used: that of the "start", of each
      "purchase" of hardware, or the latest at each "use".
    article: The article's best length in years, if it has one.
  """

  name: str
  formula: str
  budget: Literal["fixed", "rising", "spent"]
  software: Literal["fixed", "start", "purchase", "use"]
  article: str | None = None

  def length(self, rates: Rates) -> float:
    """Return the best length in years."""
    h, i, s = dataclasses.astuple(rates)
    if self.budget == "spent" and self.software == "start":
      g = h + i
      a, b = s * i / g**2, h * (1 + s / g)  # Derivation 6 of the docs.
      z = g * (1 + a) / b
      return (z - float(special.wrightomega(z + math.log(g * a / b)))) / g
    # Money that is spent as it comes in is no reason to wait.
    g = h + i if self.budget == "rising" else h
    if self.software == "use":
      return math.log1p(s / g) / s
    return 1 / g if self.software == "fixed" else 1 / (g + s)

  def compute(self, length: float, rates: Rates) -> float:
    """Return the effective compute of a run of `length` years.

    In units of a year with the hardware, budget and software of the deadline.
    """
    h, i, s = dataclasses.astuple(rates)
    if self.software == "purchase":
      h += s
    g = h if self.budget == "fixed" else h + i
    if self.software == "use":
      first = _decay(s, length)
      later = (_decay(g, length) - _decay(g + s, length)) / s
    else:
      first = length
      later = float(special.gammainc(2, g * length)) / g**2  # of v exp(-g v)
    total = math.exp(-g * length) * first
    if self.budget == "spent":
      total += i * later
    return total * math.exp(-s * length) if self.software == "start" else total


def _decay(g, length):
  """Integral of exp(-g v) over [0, length]."""
  return -math.expm1(-g * length) / g


_FROZEN, _BOUGHT, _UPGRADED = (
  Variant("hardware, budget, software", "1/(h+i+s)", "rising", "start", "0.21"),
  Variant("swapped, software of the start", "see docs", "spent", "start"),
  Variant("swapped, software upgraded", "ln(1+s/h)/s", "spent", "use"),
)
VARIANTS = (
  Variant("hardware", "1/h", "fixed", "fixed", "3.55"),
  Variant("hardware, budget", "1/(h+i)", "rising", "fixed", "0.76"),
  Variant("hardware, software", "1/(h+s)", "fixed", "start", "1.22"),
  _FROZEN,
  Variant(
    "hardware, budget, upgraded software", "ln(1+s/(h+i))/s", "rising", "use"
  ),
  Variant("hardware swapped", "1/h", "spent", "fixed", "3.55"),
  Variant(
    "swapped, software of each purchase", "1/(h+s)", "spent", "purchase", "1.2"
  ),
  _BOUGHT,
  _UPGRADED,
)


@dataclasses.dataclass(frozen=True)
class Start:
  """When to start a run that ends at a deadline.

  Attributes:
    date: The best day that is not in the past.
    years: From it to the deadline.
    overdue: Years since the best start; 0 if it is not in the past.
    budget: Dollars available at the start; None if today's is unknown.
    later: Dollars that come in, and are spent, during the run; or None.
    lost_today: Share of the best effective compute lost by starting today.
  """

  date: datetime.date
  years: float
  overdue: float
  budget: float | None
  later: float | None
  lost_today: float


def start(
  variant: Variant,
  rates: Rates,
  *,
  deadline: datetime.date,
  today: datetime.date,
  budget: float | None = None,
) -> Start:
  """Compute when to start, with what budget, and what starting today costs.

  The arguments are those of `answer`.

  Raises:
    jaxplay.UserError: The deadline is in the past, or too far for these rates.
  """
  left = (deadline - today).days / _DAYS_PER_YEAR
  if not 0 < left <= _MAX_YEARS:
    raise jaxplay.UserError(
      f"expected a deadline after {today} and within {_MAX_YEARS} years,"
      f" got {deadline}"
    )
  best = variant.length(rates)
  years = min(best, left)
  at_start = later = None
  if budget is not None:
    growth = 0.0 if variant.budget == "fixed" else rates.investment
    if growth * left > math.log(_MAX_BUDGET_GROWTH):
      raise jaxplay.UserError(
        f"a budget that grows by {growth:g} per year exceeds"
        f" {_MAX_BUDGET_GROWTH:g} times today's on {deadline}; choose an"
        " earlier deadline, or omit the budget"
      )
    at_start = budget * math.exp(growth * (left - years))
    is_spent = variant.budget == "spent"
    later = at_start * math.expm1(growth * years) if is_spent else 0.0
  kept = variant.compute(left, rates) / variant.compute(best, rates)
  wait = datetime.timedelta(days=round((left - years) * _DAYS_PER_YEAR))
  lost = max(1 - kept, 0.0)  # Near the flat maximum, rounding can exceed it.
  return Start(today + wait, years, best - years, at_start, later, lost)


def uncertainty(spread: float) -> dict[str, float]:
  """Return by which factor uncertain growth changes the best length 1/g.

  The keys name what is uncertain and what is maximized. Volatile: a geometric
  Brownian motion whose logarithm has standard deviation `spread` after 1/g
  years. Unknown: g is drawn once, from a gamma distribution with relative
  standard deviation `spread`. The deadline is 2/g years away, and the length is
  fixed today.

  Args:
    spread: In [0.001, 0.5]; above, a few extreme rates decide the mean.

  Raises:
    jaxplay.UserError: The spread is outside this range.
  """
  _check_range("spread", spread, 0.001, 0.5)
  v = spread**2
  return {
    "volatile: expected compute": 1.0,
    "volatile about the given median: expected compute": 1 / (1 + v / 2),
    "volatile: expected log of compute": 1 / (1 - v / 2),
    "unknown rate: expected compute": (1 - 2 * v) / (1 - v),
    "unknown rate: expected log of compute": 1.0,
    "unknown rate: expected share of the frontier": 1 / (1 - v),
    "unknown rate, known at the start: mean length": 1 / (1 - v),
  }


def answer(
  rates: Rates,
  *,
  spread: float = 0.3,
  seed: int = 0,
  deadline: datetime.date | None = None,
  today: datetime.date | None = None,
  budget: float | None = None,
) -> result_lib.ProcedureResult:
  """Return the best lengths, the effect of uncertainty, and when to start.

  Args:
    rates: Growth rates.
    spread: Uncertainty of the growth of hardware; see `uncertainty`.
    seed: Of the draws in the figure of uncertain lengths.
    deadline: The last day of the run; None: only lengths.
    today: The earliest possible start; default: the current day.
    budget: Dollars today; used with a deadline.

  Raises:
    jaxplay.UserError: See `start` and `uncertainty`.
  """
  years = {v.name: v.length(rates) for v in VARIANTS}
  factors = uncertainty(spread)
  details: dict[str, Any] = {
    "rates": dataclasses.asdict(rates),
    "lengths": [{"variant": n, "years": y} for n, y in years.items()],
    "uncertainty": [
      {"name": n, "exact": f / rates.hardware, "factor": f}
      for n, f in factors.items()
    ],
  }
  tables = [_lengths_table(years, rates)]
  starts = {}
  if deadline is not None:
    today = today or datetime.date.today()
    starts = {
      v.name: start(v, rates, deadline=deadline, today=today, budget=budget)
      for v in VARIANTS
    }
    tables.append(_starts_table(starts, deadline, budget))
    details["starts"] = [
      {"variant": n, **dataclasses.asdict(s), "date": s.date.isoformat()}
      for n, s in starts.items()
    ]
  tables.append(_uncertainty_table(factors, rates.hardware, spread))
  frozen, bought, upgraded = (
    f"{12 * y:.1f} months" if y < 1 else f"{y:.2f} years"
    for y in (years[v.name] for v in (_FROZEN, _BOUGHT, _UPGRADED))
  )
  return result_lib.ProcedureResult(
    summary=[
      f"Start {frozen} before the deadline if hardware, budget and software"
      f" stay those of the start; {bought} if hardware is bought as money comes"
      f" in (swapped); {upgraded} if software is upgraded as well.",
      "This assumes bought hardware. With rented hardware, start as late as the"
      " available devices and the largest useful batch size permit.",
    ],
    findings=_findings(rates, years[_FROZEN.name], factors, starts),
    tables=tables,
    figures=[
      _lengths_figure("at the start", rates, is_spent=False),
      _lengths_figure("during the run", rates, is_spent=True),
      _uncertainty_figure(factors, rates.hardware, spread, seed),
    ],
    details=details,
  )


def _findings(rates, combined, factors, starts):
  rows = []
  lost = {name: s.lost_today for name, s in starts.items() if s.overdue}
  if lost:
    advice = (
      f"The best start is in the past for {len(lost)} of {len(starts)} rows."
      f" For these, start today: this loses up to {max(lost.values()):.1%} of"
      " the best effective compute."
    )
    rows.append(("best_start_is_over", {"lost": lost}, advice))
  shorter = sum(factor < 1 for factor in factors.values())
  advice = (
    "The article expects uncertain growth to shorten runs. It does in"
    f" {shorter} of {len(factors)} cases; see docs/longest_run.md."
  )
  rows.append(("uncertainty_shortens_runs", factors, advice))
  if rates == ARTICLE:
    advice = (
      "The article's combined length, 0.21 years, uses a growth of investment"
      f" of 3.84 per year instead of its own {rates.investment}, which gives"
      f" {combined:.2f} years. Other discrepancies: docs/longest_run.md."
    )
    evidence = {"said": 0.21, "found": combined}
    rows.append(("article_contradicts_itself", evidence, advice))
  source = "Sevilla et al. 2022, The longest training run"
  return [
    finding.Finding(check, "warn", "longest run", evidence, advice, source)
    for check, evidence, advice in rows
  ]


def _lengths_table(years, rates):
  h, i, s = dataclasses.astuple(rates)
  return result_lib.Table(
    f"Best length, if hardware grows by h = {h:g} per year, investment by"
    f" i = {i:g}, software by s = {s:g}",
    ["what grows", "formula", "years", "months", "article"],
    [
      [v.name, v.formula, f"{y:.4f}", f"{12 * y:.2f}", v.article]
      for v, y in zip(VARIANTS, years.values(), strict=True)
    ],
    "Article: its result in years, at its own growth rates.",
  )


def _starts_table(starts, deadline, budget):
  heads = ["what grows", "start", "years", "lost by starting today"]
  if budget is not None:
    heads += ["dollars at the start", "during the run"]
  rows = []
  for name, s in starts.items():
    day = f"{s.date} (now)" if s.overdue else f"{s.date}"
    row = [name, day, f"{s.years:.3f}", f"{s.lost_today:.1%}"]
    if budget is not None:
      row += [f"{s.budget:,.0f}", f"{s.later:,.0f}"]
    rows.append(row)
  note = "Lost: relative to the best start, even if that is in the past."
  return result_lib.Table(f"To be done on {deadline}", heads, rows, note)


def _uncertainty_table(factors, growth, spread):
  rows = []
  for name, factor in factors.items():
    effect = "shorter" if factor < 1 else "longer" if factor > 1 else "the same"
    rows.append([name, f"{factor / growth:.3f}", f"{factor:.3f}", effect])
  return result_lib.Table(
    f"Best length for hardware alone, if its growth is uncertain by {spread:g}",
    ["what is uncertain: what is maximized", "years", "times 1/h", "effect"],
    rows,
    "For a deadline 2/h years away and a length fixed today.",
  )


def _lengths_figure(bought, rates, *, is_spent):
  variants = [v for v in VARIANTS if (v.budget == "spent") == is_spent]
  lengths = [v.length(rates) for v in variants]
  grid = np.geomspace(min(lengths) / 10, 4 * max(lengths), 81).tolist()
  lines, points = [], []
  for v, best in zip(variants, lengths, strict=True):
    points.append({"x": best, "y": 1.0, "series": v.name})
    most = v.compute(best, rates)
    for x in grid:
      y = round(v.compute(x, rates) / most, 4)
      lines.append({"x": float(f"{x:.4g}"), "y": y, "series": v.name})
  return result_lib.FigureData(
    f"compute against length, hardware bought {bought}",
    result_lib.Axis("length of the run, years", log=True),
    result_lib.Axis("effective compute relative to the best"),
    lines=lines,
    points=points,
    caption="The more a late start gains, the shorter the best run (point)."
    " Money that is spent as it comes in makes long runs lose less.",
  )


def _uncertainty_figure(factors, growth, spread, seed):
  rng = np.random.default_rng(seed)
  lengths = 1 / rng.gamma(spread**-2, growth * spread**2, _DRAWS)
  shown = np.quantile(lengths, [0.001, 0.995])
  counts, edges = np.histogram(lengths, 40, shown)
  unknown = "unknown rate: "
  return result_lib.FigureData(
    "best length, where the growth of hardware is unknown",
    result_lib.Axis("best length at the drawn growth rate, years"),
    result_lib.Axis("share of the draws"),
    bars=[
      {"x": low, "x2": high, "y": count / _DRAWS, "series": "draws"}
      for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ],
    rules={
      name.removeprefix(unknown): factor / growth
      for name, factor in factors.items()
      if name.startswith(unknown)
    },
    caption="Best length at each growth rate, and (dashed) the best length to"
    " fix in advance, which depends on what is maximized.",
  )
