"""How long a training run should be while hardware, budgets and software grow.

A run that ends at a deadline and starts L years earlier uses the hardware, the
budget and the software of its start. Growth favors a late start, the time left
an early one; the best L has the most effective compute.

Notation: levels are 1 at the deadline. With v years left, a dollar buys
exp(-h v) of hardware, exp(-i v) dollars are available, and software is worth
exp(-s v). Hardware bought with v years left computes for v years.
docs/longest_run.md derives the formulas.

Source: Sevilla, Besiroglu, Dudney and Ho 2022, "The longest training run"
(epochai.org/blog/the-longest-training-run), below "the article".
"""

import dataclasses
import datetime
import math
from typing import Any, Literal

import numpy as np
from scipy import optimize, special

import jaxplay
from jaxplay import finding
from jaxplay.playbook import result as result_lib

SOURCE = "Sevilla et al. 2022, The longest training run"
DAYS_PER_YEAR = 365.25
SPREAD = 0.3

# Outside this range a growth rate per year is a typing error: it would double
# in 7,000 years or in 2.5 days.
_GROWTH_RANGE = (1e-4, 100.0)
# Above, a few extreme growth rates dominate the expected compute.
_SPREAD_RANGE = (0.001, 0.5)
_MAX_YEARS, _MAX_BUDGET_GROWTH = 100.0, 1e9
_DRAWS = 200_000


@dataclasses.dataclass(frozen=True)
class Rates:
  """Exponential growth rates per year, log(2) / (years to double).

  Attributes:
    hardware: FLOP/s per dollar; doubles in 2.46 years (Hobbhahn and Besiroglu
      2022; the article, footnote 2).
    investment: Dollars of a training run; 1.31 for its compute, which doubles
      in 6.3 months, less 0.281 for hardware (the article, footnotes 3 and 4).
    software: Algorithmic efficiency; 44 times less compute for the same result
      after 7 years, log(44) / 7 (Hernandez and Brown 2020).

  Raises:
    jaxplay.UserError: A growth rate is outside [1e-4, 100].
  """

  hardware: float = 0.281
  investment: float = 1.03
  software: float = 0.541

  def __post_init__(self):
    low, high = _GROWTH_RANGE
    for name, growth in dataclasses.asdict(self).items():
      if not low <= growth <= high:
        raise jaxplay.UserError(
          f"expected a growth rate of {name} in [{low:g}, {high:g}] per year,"
          f" got {growth:g}"
        )


ARTICLE = Rates()


@dataclasses.dataclass(frozen=True)
class Variant:
  """Which levels grow, and which a run can adopt after its start.

  Attributes:
    name: Shown in tables and figures.
    formula: The best length in years.
    article: The article's value in years; empty if it has none.
    budget: "fixed", "rising" until the start, or "spent": spent as it comes in,
      so that hardware is bought, and swapped, during the run.
    software: The version used: that of the "start", of each "purchase" of
      hardware, or the latest at each "use"; "fixed" if it does not improve.
  """

  name: str
  formula: str
  article: str
  budget: Literal["fixed", "rising", "spent"]
  software: Literal["fixed", "start", "purchase", "use"]

  def length(self, rates: Rates) -> float:
    """Return the best length in years, in closed form except for one root."""
    h, i, s = dataclasses.astuple(rates)
    # Money that is spent as it comes in is no reason to wait.
    g = h + i if self.budget == "rising" else h
    if self.software == "use":
      return math.log1p(s / g) / s
    if self.software == "fixed":
      return 1 / g
    if self.software == "purchase" or self.budget != "spent":
      return 1 / (g + s)
    g = h + i

    def slope(u: float) -> float:
      return math.exp(-g * u) * (1 - (h + s) * u) - s * i * _ramp(g, u)

    return optimize.brentq(slope, 0, 1 / (h + s))

  def compute(self, length: float, rates: Rates) -> float:
    """Return the effective compute of a run of `length` years.

    In units of a year with the hardware, budget and software of the deadline.
    """
    h, i, s = dataclasses.astuple(rates)
    if self.software == "purchase":
      h = h + s
    g = h if self.budget == "fixed" else h + i
    if self.software == "use":
      total = math.exp(-g * length) * _decay(s, length)
      if self.budget == "spent":
        total += i / s * (_decay(g, length) - _decay(g + s, length))
      return total
    total = length * math.exp(-g * length)
    if self.budget == "spent":
      total += i * _ramp(g, length)
    return total * math.exp(-s * length) if self.software == "start" else total


def _decay(g: float, length: float) -> float:
  """Integral of exp(-g v) over [0, length]."""
  return -math.expm1(-g * length) / g


def _ramp(g: float, length: float) -> float:
  """Integral of v exp(-g v) over [0, length]."""
  return float(special.gammainc(2, g * length)) / g**2


VARIANTS = (
  Variant("hardware", "1/h", "3.55", "fixed", "fixed"),
  Variant("hardware, budget", "1/(h+i)", "0.76", "rising", "fixed"),
  Variant("hardware, software", "1/(h+s)", "1.22", "fixed", "start"),
  Variant("hardware, budget, software", "1/(h+i+s)", "0.21", "rising", "start"),
  Variant(
    "the same, software upgraded", "ln(1+s/(h+i))/s", "", "rising", "use"
  ),
  Variant("hardware swapped", "1/h", "3.55", "spent", "fixed"),
  Variant(
    "swapped, software of each purchase", "1/(h+s)", "1.2", "spent", "purchase"
  ),
  Variant("swapped, software of the start", "a root", "", "spent", "start"),
  Variant("swapped, software upgraded", "ln(1+s/h)/s", "", "spent", "use"),
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

  Args:
    variant: What grows.
    rates: How fast it grows.
    deadline: The last day of the run.
    today: The earliest possible start.
    budget: Dollars today.

  Raises:
    jaxplay.UserError: The deadline is in the past, or too far for these rates.
  """
  left = (deadline - today).days / DAYS_PER_YEAR
  if left <= 0:
    raise jaxplay.UserError(
      f"expected a deadline after {today}, got {deadline}"
    )
  if left > _MAX_YEARS:
    raise jaxplay.UserError(
      f"the deadline {deadline} is {left:.0f} years away, too long for constant"
      f" growth; choose a deadline within {_MAX_YEARS:g} years"
    )
  best = variant.length(rates)
  kept = variant.compute(left, rates) / variant.compute(best, rates)
  years = min(best, left)
  at_start = later = None
  if budget is not None:
    growth = 0.0 if variant.budget == "fixed" else rates.investment
    if growth * left > math.log(_MAX_BUDGET_GROWTH):
      raise jaxplay.UserError(
        f"a budget growing by {growth:g} per year would exceed"
        f" {_MAX_BUDGET_GROWTH:g} times today's on {deadline}; choose an"
        " earlier deadline, or omit the budget"
      )
    at_start = budget * math.exp(growth * (left - years))
    later = 0.0
    if variant.budget == "spent":
      later = at_start * math.expm1(growth * years)
  wait = round((left - years) * DAYS_PER_YEAR)
  return Start(
    date=today + datetime.timedelta(days=wait),
    years=years,
    overdue=best - years,
    budget=at_start,
    later=later,
    lost_today=max(1 - kept, 0.0),  # rounding, where the maximum is flat
  )


def uncertainty(spread: float = SPREAD) -> dict[str, float]:
  """Return by which factor uncertain growth changes the best length 1/g.

  Each entry is an interpretation of the article's remark on uncertainty.
  Volatile: exp(g t) is the mean of a geometric Brownian motion whose logarithm
  has standard deviation `spread` after 1/g years. Unknown: g is drawn once,
  from a gamma distribution with relative standard deviation `spread`. The
  deadline is 2/g years away, and the length is fixed today.

  Args:
    spread: In [0.001, 0.5].

  Raises:
    jaxplay.UserError: The spread is outside this range.
  """
  low, high = _SPREAD_RANGE
  if not low <= spread <= high:
    raise jaxplay.UserError(
      f"expected a spread in [{low:g}, {high:g}], got {spread:g}"
    )
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


_RENTED = (
  "This assumes bought hardware. With rented hardware, start as late as the"
  " available devices and the largest useful batch size permit."
)


def answer(
  rates: Rates,
  *,
  spread: float = SPREAD,
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
  tables = [_lengths_table(years, rates)]
  details: dict[str, Any] = {
    "rates": dataclasses.asdict(rates),
    "lengths": [{"variant": n, "years": y} for n, y in years.items()],
    "uncertainty": [
      {"name": n, "exact": f / rates.hardware, "factor": f}
      for n, f in factors.items()
    ],
  }
  starts = {}
  if deadline is not None:
    today = today or datetime.date.today()
    starts = {
      v.name: start(v, rates, deadline=deadline, today=today, budget=budget)
      for v in VARIANTS
    }
    tables.append(_starts_table(starts, deadline))
    details["starts"] = [
      {"variant": n, **dataclasses.asdict(s), "date": s.date.isoformat()}
      for n, s in starts.items()
    ]
  tables.append(_uncertainty_table(factors, rates.hardware, spread))
  return result_lib.ProcedureResult(
    summary=[_verdict(years), _RENTED],
    findings=_findings(rates, years, factors, starts),
    tables=tables,
    figures=[
      _lengths_picture(
        "compute against length, hardware bought at the start",
        "Effective compute at the deadline relative to the best length (point)."
        " The more a late start gains, the shorter the best run.",
        [v for v in VARIANTS if v.budget != "spent"],
        rates,
      ),
      _lengths_picture(
        "compute against length, hardware bought during the run",
        "If hardware is bought as money comes in, long runs lose less: their"
        " late purchases are as good as those of short runs.",
        [v for v in VARIANTS if v.budget == "spent"],
        rates,
      ),
      _uncertainty_picture(factors, rates.hardware, spread, seed),
    ],
    details=details,
  )


def _verdict(years):
  fixed, bought, upgraded = (
    f"{12 * years[name]:.1f} months"
    if years[name] < 1
    else f"{years[name]:.2f} years"
    for name in (
      "hardware, budget, software",
      "swapped, software of the start",
      "swapped, software upgraded",
    )
  )
  return (
    f"Start {fixed} before the deadline if hardware, budget and software stay"
    f" those of the start; {bought} if hardware is bought as money comes in;"
    f" {upgraded} if software is upgraded as well."
  )


def _findings(rates, years, factors, starts):
  shorter = [name for name, factor in factors.items() if factor < 1]
  rows = [
    (
      "uncertainty_shortens_runs",
      "remark on stochasticity",
      factors,
      "The article expects uncertain growth to shorten runs. This holds in"
      f" {len(shorter)} of {len(factors)} readings ({'; '.join(shorter)}).",
    ),
    ("model_applies", "rented hardware", {}, _RENTED),
  ]
  overdue = {name: s for name, s in starts.items() if s.overdue}
  if overdue:
    lost = {name: s.lost_today for name, s in overdue.items()}
    low, high = min(lost.values()), max(lost.values())
    row = (
      "best_start_is_over",
      "deadline",
      {"lost": lost, "years": {n: s.overdue for n, s in overdue.items()}},
      f"The best start is in the past for {len(overdue)} of {len(starts)}"
      f" variants. For these, start today: this loses {low:.1%} to {high:.1%}"
      " of the best effective compute.",
    )
    rows.insert(0, row)
  if rates == ARTICLE:
    combined = years["hardware, budget, software"]
    row = (
      "article_contradicts_itself",
      "the article's arithmetic",
      {"said": 0.21, "found": combined},
      "The article's combined length, 0.21 years, uses a growth of investment"
      f" of 3.84 per year instead of its own {rates.investment}, which gives"
      f" {combined:.2f} years. Other discrepancies: docs/longest_run.md.",
    )
    rows.append(row)
  return [
    finding.Finding(check, "warn", subject, evidence, advice, SOURCE)
    for check, subject, evidence, advice in rows
  ]


def _lengths_table(years, rates):
  h, i, s = dataclasses.astuple(rates)
  return result_lib.Table(
    "The longest training run",
    ["what grows", "formula", "years", "months", "article"],
    [
      [v.name, v.formula, f"{y:.4f}", f"{12 * y:.2f}", v.article or None]
      for v, y in zip(VARIANTS, years.values(), strict=True)
    ],
    f"Growth per year: hardware h = {h:g}, investment i = {i:g}, software"
    f" s = {s:g}. Article: its result in years, at its own growth rates.",
  )


def _starts_table(starts, deadline):
  heads = ["what grows", "start", "years", "lost by starting today"]
  rows = []
  for name, s in starts.items():
    day = f"{s.date} (now)" if s.overdue > 0 else f"{s.date}"
    row = [name, day, f"{s.years:.3f}", f"{s.lost_today:.1%}"]
    if s.budget is not None:
      row += [f"{s.budget:,.0f}", f"{s.later:,.0f}"]
    rows.append(row)
  if len(rows[0]) > len(heads):
    heads += ["dollars at the start", "during the run"]
  return result_lib.Table(
    f"To be done on {deadline}",
    heads,
    rows,
    "Lost: share of the effective compute of the best start, even if that is"
    " in the past.",
  )


def _effect(factor):
  if factor == 1:
    return "the same"
  return "shorter" if factor < 1 else "longer"


def _uncertainty_table(factors, growth, spread):
  return result_lib.Table(
    f"Growth that is uncertain by {spread:g}, for hardware alone",
    ["reading", "years", "times 1/h", "effect"],
    [
      [name, f"{f / growth:.3f}", f"{f:.3f}", _effect(f)]
      for name, f in factors.items()
    ],
    "For a deadline 2/h years away and a length fixed today.",
  )


def _lengths_picture(name, caption, variants, rates):
  years = {v: v.length(rates) for v in variants}
  grid = np.geomspace(min(years.values()) / 10, 4 * max(years.values()), 81)
  return result_lib.FigureData(
    name,
    result_lib.Axis("length of the run, years", log=True),
    result_lib.Axis("effective compute relative to the best"),
    lines=[
      {
        "x": float(f"{x:.4g}"),
        "y": round(v.compute(x, rates) / v.compute(best, rates), 4),
        "series": v.name,
      }
      for v, best in years.items()
      for x in grid.tolist()
    ],
    points=[{"x": x, "y": 1.0, "series": v.name} for v, x in years.items()],
    caption=caption,
  )


def _uncertainty_picture(factors, growth, spread, seed):
  rng = np.random.default_rng(seed)
  lengths = 1 / rng.gamma(spread**-2, growth * spread**2, _DRAWS)
  shown = np.quantile(lengths, [0.001, 0.995])
  counts, edges = np.histogram(lengths, 40, tuple(shown))
  fixed = {name: factor / growth for name, factor in factors.items()}
  return result_lib.FigureData(
    "best length, where the growth of hardware is unknown",
    result_lib.Axis("best length at the drawn growth rate, years"),
    result_lib.Axis("share of the draws"),
    bars=[
      {"x": low, "x2": high, "y": count / _DRAWS, "series": "draws"}
      for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ],
    rules={
      "expected compute": fixed["unknown rate: expected compute"],
      "no uncertainty, or expected log": 1 / growth,
      "share of the frontier": fixed[
        "unknown rate: expected share of the frontier"
      ],
    },
    caption="Best length at each growth rate, and (dashed) the best length to"
    " fix in advance, which depends on what is maximized.",
  )
