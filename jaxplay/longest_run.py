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
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from scipy import optimize, special

import jaxplay
from jaxplay import finding
from jaxplay.playbook import result as answer_lib

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
    rising: Whether the budget grows.
    swapped: Whether hardware is bought during the run, as money comes in.
    software: The version used: that of the "start", of each "purchase" of
      hardware, or the latest at each "use"; "" if software does not improve.
  """

  name: str
  formula: str
  article: str = ""
  rising: bool = False
  swapped: bool = False
  software: Literal["", "start", "purchase", "use"] = ""

  def length(self, rates: Rates) -> float:
    """Return the best length in years, in closed form except for one root."""
    h, i, s = dataclasses.astuple(rates)
    # Money that is spent as it comes in is no reason to wait.
    g = h + i if self.rising and not self.swapped else h
    if self.software == "use":
      return math.log1p(s / g) / s
    if not self.software:
      return 1 / g
    if self.software == "purchase" or not self.swapped:
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
    g = h + i if self.rising else h
    if self.software == "use":
      total = math.exp(-g * length) * _decay(s, length)
      if self.swapped:
        total += i / s * (_decay(g, length) - _decay(g + s, length))
      return total
    total = length * math.exp(-g * length)
    if self.swapped:
      total += i * _ramp(g, length)
    return total * math.exp(-s * length) if self.software == "start" else total


def _decay(g: float, length: float) -> float:
  """Integral of exp(-g v) over [0, length]."""
  return -math.expm1(-g * length) / g


def _ramp(g: float, length: float) -> float:
  """Integral of v exp(-g v) over [0, length]."""
  return float(special.gammainc(2, g * length)) / g**2


VARIANTS = (
  Variant("hardware", "1/h", "3.55"),
  Variant("hardware, budget", "1/(h+i)", "0.76", rising=True),
  Variant("hardware, software", "1/(h+s)", "1.22", software="start"),
  Variant(
    "hardware, budget, software",
    "1/(h+i+s)",
    "0.21",
    rising=True,
    software="start",
  ),
  Variant(
    "the same, software upgraded",
    "ln(1+s/(h+i))/s",
    rising=True,
    software="use",
  ),
  Variant("hardware swapped", "1/h", "3.55", rising=True, swapped=True),
  Variant(
    "swapped, software of each purchase",
    "1/(h+s)",
    "1.2",
    rising=True,
    swapped=True,
    software="purchase",
  ),
  Variant(
    "swapped, software of the start",
    "a root",
    rising=True,
    swapped=True,
    software="start",
  ),
  Variant(
    "swapped, software upgraded",
    "ln(1+s/h)/s",
    rising=True,
    swapped=True,
    software="use",
  ),
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
    growth = rates.investment if variant.rising else 0.0
    if growth * left > math.log(_MAX_BUDGET_GROWTH):
      raise jaxplay.UserError(
        f"a budget growing by {growth:g} per year would exceed"
        f" {_MAX_BUDGET_GROWTH:g} times today's on {deadline}; choose an"
        " earlier deadline, or omit the budget"
      )
    at_start = budget * math.exp(growth * (left - years))
    later = at_start * math.expm1(growth * years) if variant.swapped else 0.0
  wait = round((left - years) * DAYS_PER_YEAR)
  return Start(
    date=today + datetime.timedelta(days=wait),
    years=years,
    overdue=best - years,
    budget=at_start,
    later=later,
    lost_today=max(1 - kept, 0.0),  # rounding, where the maximum is flat
  )


@dataclasses.dataclass(frozen=True)
class Reading:
  """One interpretation of the article's remark on uncertainty.

  Attributes:
    name: What is uncertain, and what is maximized.
    exact: Best length in years.
    factor: `exact` divided by the length without uncertainty.
  """

  name: str
  exact: float
  factor: float

  @property
  def effect(self) -> str:
    """ "shorter", "the same" or "longer"."""
    if math.isclose(self.factor, 1):
      return "the same"
    return "shorter" if self.factor < 1 else "longer"


def readings(rate: float, *, spread: float = SPREAD) -> list[Reading]:
  """Return best lengths under uncertainty; without it, each is 1/rate.

  Volatile: exp(rate t) is the mean of a geometric Brownian motion whose
  logarithm has standard deviation `spread` after 1/rate years. Unknown: the
  growth rate is drawn once, from a gamma distribution with mean `rate` and
  standard deviation `spread` times it. The deadline is 2/rate years away, and
  the length is fixed today. The tests draw samples of both.

  Args:
    rate: Growth rate per year.
    spread: Relative standard deviation, in [0.001, 0.5].

  Raises:
    jaxplay.UserError: The spread is outside this range.
  """
  low, high = _SPREAD_RANGE
  if not low <= spread <= high:
    raise jaxplay.UserError(
      f"expected a spread in [{low:g}, {high:g}], got {spread:g}"
    )
  v = spread**2
  factors = {
    "volatile: expected compute": 1.0,
    "volatile about the given median: expected compute": 1 / (1 + v / 2),
    "volatile: expected log of compute": 1 / (1 - v / 2),
    "unknown rate: expected compute": (1 - 2 * v) / (1 - v),
    "unknown rate: expected log of compute": 1.0,
    "unknown rate: expected share of the frontier": 1 / (1 - v),
    "unknown rate, known at the start: mean length": 1 / (1 - v),
  }
  return [Reading(name, f / rate, f) for name, f in factors.items()]


def answer(
  rates: Rates,
  *,
  spread: float = SPREAD,
  seed: int = 0,
  deadline: datetime.date | None = None,
  today: datetime.date | None = None,
  budget: float | None = None,
) -> answer_lib.Answer:
  """Return the best lengths, the effect of uncertainty, and when to start.

  Args:
    rates: Growth rates.
    spread: Uncertainty of the growth of hardware; see `readings`.
    seed: Of the draws in the figure of uncertain lengths.
    deadline: The last day of the run; None: only lengths.
    today: The earliest possible start; default: the current day.
    budget: Dollars today; used with a deadline.

  Raises:
    jaxplay.UserError: See `start` and `readings`.
  """
  years = {v.name: v.length(rates) for v in VARIANTS}
  uncertain = readings(rates.hardware, spread=spread)
  tables = [_lengths_table(years, rates)]
  findings = []
  details = {
    "rates": dataclasses.asdict(rates),
    "lengths": [{"variant": n, "years": y} for n, y in years.items()],
    "uncertainty": [dataclasses.asdict(r) for r in uncertain],
  }
  if deadline is not None:
    today = today or datetime.date.today()
    starts = {
      v.name: start(v, rates, deadline=deadline, today=today, budget=budget)
      for v in VARIANTS
    }
    tables.append(_starts_table(starts, deadline))
    findings += _overdue(starts)
    details["starts"] = [
      {"variant": n, **dataclasses.asdict(s), "date": s.date.isoformat()}
      for n, s in starts.items()
    ]
  tables.append(_readings_table(uncertain, spread))
  findings += [_uncertainty(uncertain), _rented()]
  if rates == ARTICLE:
    findings.append(_arithmetic(years))
  return answer_lib.Answer(
    said=[_verdict(years), _RENTED],
    findings=findings,
    tables=tables,
    pictures=[
      _lengths_picture(
        "compute against length, hardware bought at the start",
        "Effective compute at the deadline relative to the best length (point)."
        " The more a late start gains, the shorter the best run.",
        [v for v in VARIANTS if not v.swapped],
        rates,
      ),
      _lengths_picture(
        "compute against length, hardware bought during the run",
        "If hardware is bought as money comes in, long runs lose less: their"
        " late purchases are as good as those of short runs.",
        [v for v in VARIANTS if v.swapped],
        rates,
      ),
      _uncertainty_picture(uncertain, rates.hardware, spread, seed),
    ],
    details=details,
  )


def _verdict(years: Mapping[str, float]) -> str:
  fixed, bought, upgraded = (
    f"{12 * y:.1f} months" if y < 1 else f"{y:.2f} years"
    for y in (
      years["hardware, budget, software"],
      years["swapped, software of the start"],
      years["swapped, software upgraded"],
    )
  )
  return (
    f"Start {fixed} before the deadline if hardware, budget and software stay"
    f" those of the start; {bought} if hardware is bought as money comes in;"
    f" {upgraded} if software is upgraded as well."
  )


def _finding(
  check: str, subject: str, evidence: dict, advice: str
) -> finding.Finding:
  return finding.Finding(check, "warn", subject, evidence, advice, SOURCE)


def _overdue(starts: Mapping[str, Start]) -> list[finding.Finding]:
  overdue = {name: s for name, s in starts.items() if s.overdue}
  if not overdue:
    return []
  lost = {name: s.lost_today for name, s in overdue.items()}
  return [
    _finding(
      "best_start_is_over",
      "deadline",
      {"lost": lost, "years": {n: s.overdue for n, s in overdue.items()}},
      f"The best start is in the past for {len(overdue)} of {len(starts)}"
      f" variants. For these, start today: this loses {min(lost.values()):.1%}"
      f" to {max(lost.values()):.1%} of the best effective compute.",
    )
  ]


def _uncertainty(uncertain: Sequence[Reading]) -> finding.Finding:
  shorter = [r.name for r in uncertain if r.effect == "shorter"]
  return _finding(
    "uncertainty_shortens_runs",
    "remark on stochasticity",
    {r.name: r.factor for r in uncertain},
    "The article expects uncertain growth to shorten runs. This holds in"
    f" {len(shorter)} of {len(uncertain)} readings ({'; '.join(shorter)}).",
  )


_RENTED = (
  "This assumes bought hardware. With rented hardware, start as late as the"
  " available devices and the largest useful batch size permit."
)


def _rented() -> finding.Finding:
  return _finding("model_applies", "rented hardware", {}, _RENTED)


def _arithmetic(years: Mapping[str, float]) -> finding.Finding:
  combined = years["hardware, budget, software"]
  return _finding(
    "article_contradicts_itself",
    "the article's arithmetic",
    {"said": 0.21, "found": combined},
    "The article's combined length, 0.21 years, uses a growth of investment of"
    f" 3.84 per year instead of its own {ARTICLE.investment}, which gives"
    f" {combined:.2f} years. docs/longest_run.md lists its other discrepancies.",
  )


def _lengths_table(
  years: Mapping[str, float], rates: Rates
) -> answer_lib.Table:
  h, i, s = dataclasses.astuple(rates)
  return answer_lib.Table(
    "The longest training run",
    ["what grows", "formula", "years", "months", "article"],
    [
      [v.name, v.formula, f"{y:.4f}", f"{12 * y:.2f}", v.article or None]
      for v, y in zip(VARIANTS, years.values(), strict=True)
    ],
    f"Growth per year: hardware h = {h:g}, investment i = {i:g}, software"
    f" s = {s:g}. Article: its result in years, at its own growth rates.",
  )


def _starts_table(
  starts: Mapping[str, Start], deadline: datetime.date
) -> answer_lib.Table:
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
  return answer_lib.Table(
    f"To be done on {deadline}",
    heads,
    rows,
    "Lost: share of the effective compute of the best start, even if that is"
    " in the past.",
  )


def _readings_table(
  uncertain: Sequence[Reading], spread: float
) -> answer_lib.Table:
  return answer_lib.Table(
    f"Growth that is uncertain by {spread:g}, for hardware alone",
    ["reading", "years", "times 1/h", "effect"],
    [
      [r.name, f"{r.exact:.3f}", f"{r.factor:.3f}", r.effect] for r in uncertain
    ],
    "For a deadline 2/h years away and a length fixed today.",
  )


def _lengths_picture(
  name: str, caption: str, variants: Sequence[Variant], rates: Rates
) -> answer_lib.Picture:
  years = {v: v.length(rates) for v in variants}
  grid = np.geomspace(min(years.values()) / 10, 4 * max(years.values()), 81)
  return answer_lib.Picture(
    name,
    answer_lib.Axis("length of the run, years", log=True),
    answer_lib.Axis("effective compute relative to the best"),
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


def _uncertainty_picture(
  uncertain: Sequence[Reading], rate: float, spread: float, seed: int
) -> answer_lib.Picture:
  rng = np.random.default_rng(seed)
  lengths = 1 / rng.gamma(spread**-2, rate * spread**2, _DRAWS)
  shown = np.quantile(lengths, [0.001, 0.995])
  counts, edges = np.histogram(lengths, 40, tuple(shown))
  exact = {r.name: r.exact for r in uncertain}
  return answer_lib.Picture(
    "best length, where the growth of hardware is unknown",
    answer_lib.Axis("best length at the drawn growth rate, years"),
    answer_lib.Axis("share of the draws"),
    bars=[
      {"x": low, "x2": high, "y": count / _DRAWS, "series": "draws"}
      for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ],
    rules={
      "expected compute": exact["unknown rate: expected compute"],
      "no uncertainty, or expected log": 1 / rate,
      "share of the frontier": exact[
        "unknown rate: expected share of the frontier"
      ],
    },
    caption="Best length at each growth rate, and (dashed) the best length to"
    " fix in advance, which depends on what is maximized.",
  )
