"""How long a training run is worth starting, where waiting buys more.

Who trains until a deadline T and starts L years before it has the hardware, the
budget and the software of T - L: growth says wait, the time that is left says
start. The longest run that is not outdone by a later start is the best L.

With v the years that are left, all relative to the deadline: a dollar buys
exp(-h v) of hardware, exp(-i v) dollars are there, software makes exp(-s v) of
it. What is bought with v years left computes for v years.

Source: Sevilla, Besiroglu, Dudney and Ho 2022, "The longest training run"
(epochai.org/blog/the-longest-training-run), here "the article". It contradicts
itself in places; `contradictions` says where, and what its own rates give.
"""

import dataclasses
import datetime
import math
from typing import Literal

import numpy as np
from scipy import integrate, optimize, special, stats

import jaxplay
from jaxplay import finding
from jaxplay.playbook import result as answer_lib

SOURCE = "Sevilla et al. 2022, The longest training run"
DAYS_PER_YEAR = 365.25
SPREAD = 0.3

# A rate outside of these, per year, is a slip: it doubles in 7,000 years, or
# each 2.5 days.
_LEAST_RATE, _MOST_RATE = 1e-4, 100.0
# With more, a few draws make up all of the expected compute.
_LEAST_SPREAD, _MOST_SPREAD = 0.001, 0.5
# No growth goes on this long.
_MOST_YEARS, _MOST_GROWTH = 100.0, 1e9
_BATCHES, _DRAWS = 40, 5000
_HORIZON = 2.0  # years until the deadline, of the draws, in units of 1/g
_CONFIDENCE = 0.99


@dataclasses.dataclass(frozen=True)
class Rates:
  """Growth per year, of a logarithm: doubling takes log(2) / rate years.

  Attributes:
    hardware: FLOP/s per dollar; 0.281 is said to double in 2.46 years
      (Hobbhahn and Besiroglu 2022; the article, footnote 2).
    investment: Dollars of a training run; 1.31 of its compute, said to double
      in 6.3 months, less 0.281 of hardware (the article, footnotes 3 and 4).
    software: 44 times less compute for the same in 7 years, log(44) / 7
      (Hernandez and Brown 2020).

  Raises:
    jaxplay.UserError: One of them is no growth.
  """

  hardware: float = 0.281
  investment: float = 1.03
  software: float = 0.541

  def __post_init__(self):
    for name, rate in dataclasses.asdict(self).items():
      if not _LEAST_RATE <= rate <= _MOST_RATE:
        raise jaxplay.UserError(
          f"the growth of {name} is {rate:g} per year; it must lie in"
          f" [{_LEAST_RATE:g}, {_MOST_RATE:g}]"
        )


ARTICLE = Rates()


@dataclasses.dataclass(frozen=True)
class Variant:
  """What grows, and what of it a run can take up after its start.

  Attributes:
    name: For people.
    formula: Of the best length, in years.
    article: The article's length as it says it; empty: it has none.
    rising: Whether the budget grows.
    swapped: Whether hardware is bought during the run, as money comes in.
    software: Whose day's software is used: "" for one that does not improve,
      that of the "start", of each "purchase" of hardware, or of its "use".
  """

  name: str
  formula: str
  article: str = ""
  rising: bool = False
  swapped: bool = False
  software: Literal["", "start", "purchase", "use"] = ""

  def length(self, rates: Rates) -> float:
    """The best length in years, in closed form but for one root.

    docs/longest_run.md derives them.
    """
    h, i, s = dataclasses.astuple(rates)
    # Money that is spent as it comes in is no reason to wait.
    g = h + i * (self.rising and not self.swapped)
    if not self.software:
      return 1 / g
    if self.software == "use":
      return math.log1p(s / g) / s
    if self.software == "purchase" or not self.swapped:
      return 1 / (g + s)
    g = h + i

    def slope(u):
      bought = i / g**2 * special.gammainc(2, g * u)
      return math.exp(-g * u) * (1 - (h + s) * u) - s * bought

    return optimize.brentq(slope, 0, 1 / (h + s))

  def compute(self, length: float, rates: Rates) -> float:
    """Effective compute of a run of `length` years, by its definition.

    In years of the hardware, budget and software of the deadline.
    """
    h, i, s = dataclasses.astuple(rates)

    def yielded(v):
      """Of hardware for one dollar, bought when v years are left."""
      years = -math.expm1(-s * v) / s if self.software == "use" else v
      frozen = {"start": length, "purchase": v}.get(self.software, 0.0)
      return math.exp(-h * v - s * frozen) * years

    total = yielded(length) * math.exp(-i * length * self.rising)
    if self.swapped:
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

  def length_by_search(self, rates: Rates) -> float:
    """The length of the most `compute`, found without the closed form.

    NaN where twice the length loses too little for numbers of 64 bits.
    """
    lengths = np.geomspace(
      0.01 / sum(dataclasses.astuple(rates)), 10 / rates.hardware, 100
    )
    best = np.argmax([self.compute(x, rates) for x in lengths])
    found = optimize.minimize_scalar(
      lambda x: -self.compute(x, rates),
      bounds=(lengths[max(best - 1, 0)], lengths[min(best + 1, 99)]),
      method="bounded",
      options={"xatol": 1e-9 * lengths[best]},
    )
    flat = self.compute(2 * found.x, rates) > (1 - 1e-6) * -found.fun
    return math.nan if flat else found.x


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
    date: The best day that is not over.
    years: From it to the deadline.
    overdue: Years by which the best start is over; 0: it is not.
    budget: Dollars that are there at the start; None: today's is not known.
    later: Dollars that come in, and are spent, during the run; None likewise.
    lost_today: Share of the best effective compute that a start today loses.
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
  """When to start, with what budget, and what it costs not to wait.

  Args:
    variant: What grows.
    rates: How fast.
    deadline: The run's last day.
    today: The first day that can be chosen.
    budget: Dollars today.

  Raises:
    jaxplay.UserError: The deadline is over, or too far for these rates.
  """
  left = (deadline - today).days / DAYS_PER_YEAR
  if left <= 0:
    raise jaxplay.UserError(
      f"the deadline {deadline} does not lie after {today}; choose a later one"
    )
  if left > _MOST_YEARS:
    raise jaxplay.UserError(
      f"the deadline {deadline} is {left:.0f} years away, and no growth goes on"
      f" that long; choose one within {_MOST_YEARS:g}"
    )
  best = variant.length(rates)
  kept = variant.compute(left, rates) / variant.compute(best, rates)
  years = min(best, left)
  at_start = later = None
  if budget is not None:
    growth = rates.investment * variant.rising
    if growth * left > math.log(_MOST_GROWTH):
      raise jaxplay.UserError(
        f"a budget that grows by {growth:g} per year would be more than"
        f" {_MOST_GROWTH:g} times as large on {deadline}; choose a nearer"
        " deadline, or leave out the budget"
      )
    at_start = budget * math.exp(growth * (left - years))
    later = 0.0
    if variant.swapped:
      later = at_start * math.expm1(growth * years)
  wait = round((left - years) * DAYS_PER_YEAR)
  return Start(
    date=today + datetime.timedelta(days=wait),
    years=years,
    overdue=best - years,
    budget=at_start,
    later=later,
    lost_today=max(1 - kept, 0.0),  # where it is flat, rounding remains
  )


@dataclasses.dataclass(frozen=True)
class Reading:
  """One reading of the article's remark that uncertainty shortens a run.

  Attributes:
    name: What is uncertain, and what is maximized.
    exact: Best length, years, in closed form.
    drawn: The same from draws.
    low: Of the 99 % interval of `drawn`; so is `high`.
    factor: `exact` over the length without uncertainty.
  """

  name: str
  exact: float
  drawn: float
  low: float
  high: float
  factor: float

  @property
  def effect(self) -> str:
    """ "shorter", "the same" or "longer"."""
    if math.isclose(self.factor, 1):
      return "the same"
    return "shorter" if self.factor < 1 else "longer"


def readings(
  rate: float, *, spread: float = SPREAD, seed: int = 0
) -> list[Reading]:
  """Best lengths under uncertainty, where they are 1/rate without.

  Volatile: exp(rate t) is the mean of a geometric Brownian motion, whose
  logarithm scatters by `spread` within 1/rate years. Unknown: the rate is drawn
  once, from a gamma distribution of mean `rate` and standard deviation `spread`
  times it. The deadline is 2/rate years away, and the length fixed today.

  Args:
    rate: Growth per year.
    spread: Of the uncertainty, in [0.001, 0.5].
    seed: Of the draws.

  Raises:
    jaxplay.UserError: The spread lies outside of that.
  """
  if not _LEAST_SPREAD <= spread <= _MOST_SPREAD:
    raise jaxplay.UserError(
      f"the spread is {spread:g}; it must lie in [{_LEAST_SPREAD:g},"
      f" {_MOST_SPREAD:g}]"
    )
  scale = spread**2 * rate  # of the gamma distribution; the variance per year
  horizon = _HORIZON / rate
  random = np.random.default_rng(seed)
  unknown = _unknown_rates(rate, spread, random)
  normal = random.standard_normal(unknown.shape)

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

  base, longer = 1 / rate, 1 / (rate - scale)
  cases = (
    ("volatile: expected compute", base, expected(volatile(rate))),
    (
      "volatile about the given median: expected compute",
      1 / (rate + scale / 2),
      expected(volatile(rate + scale / 2)),
    ),
    (
      "volatile: expected log of compute",
      1 / (rate - scale / 2),
      cautious(volatile(rate)),
    ),
    (
      "unknown rate: expected compute",
      (1 - scale * horizon) / (rate - scale),
      expected(lambda wait, _, g: g * wait),
    ),
    (
      "unknown rate: expected log of compute",
      base,
      cautious(lambda wait, _, g: g * wait),
    ),
    (
      "unknown rate: expected share of the frontier",
      longer,
      expected(lambda wait, _, g: g * (wait - horizon)),
    ),
  )
  found = []
  for name, exact, objective in cases:
    lengths = [
      optimize.minimize_scalar(
        lambda x, *draws, f=objective: -f(x, *draws),
        bounds=(0.01 * base, horizon),
        args=draws,
        method="bounded",
      ).x
      for draws in zip(normal, unknown, strict=True)
    ]
    found.append(_reading(name, exact, lengths, base))
  learnt = "unknown rate, known at the start: mean length"
  found.append(_reading(learnt, longer, (1 / unknown).mean(axis=1), base))
  return found


def _unknown_rates(rate, spread, random):
  """[batches, draws], of a gamma distribution."""
  size = (_BATCHES, _DRAWS)
  return random.gamma(spread**-2, rate * spread**2, size)


def _reading(name, exact, lengths, base):
  """Of the best lengths of the batches."""
  mean = float(np.mean(lengths))
  wide = stats.t.ppf((1 + _CONFIDENCE) / 2, _BATCHES - 1)
  half = float(wide * stats.sem(lengths))
  return Reading(name, exact, mean, mean - half, mean + half, exact / base)


def answer(
  rates: Rates,
  *,
  spread: float = SPREAD,
  seed: int = 0,
  deadline: datetime.date | None = None,
  today: datetime.date | None = None,
  budget: float | None = None,
) -> answer_lib.Answer:
  """The lengths of all variants, what uncertainty does, and when to start.

  Args:
    rates: Growth; at the article's, what contradicts it is told, too.
    spread: As of `readings`.
    seed: Likewise.
    deadline: None: when to start is not asked.
    today: With a deadline, the first day that can be chosen.
    budget: With a deadline, dollars today.

  Raises:
    jaxplay.UserError: As of `start` and `readings`.
  """
  lengths = {v: v.length(rates) for v in VARIANTS}
  searched = {v: v.length_by_search(rates) for v in VARIANTS}
  tables = [_lengths_table(lengths, searched, rates)]
  said = [_verdict(lengths)]
  findings, details = [], {"rates": dataclasses.asdict(rates)}
  details["lengths"] = [
    {"variant": v.name, "years": years, "by_search": searched[v]}
    for v, years in lengths.items()
  ]
  if deadline is not None:
    starts = {
      v: start(v, rates, deadline=deadline, today=today, budget=budget)
      for v in VARIANTS
    }
    tables.append(_starts_table(starts, deadline, budget))
    findings += _too_late(starts)
    details["starts"] = [
      {"variant": v.name}
      | dataclasses.asdict(found)
      | {"date": found.date.isoformat()}
      for v, found in starts.items()
    ]
  uncertain = readings(rates.hardware, spread=spread, seed=seed)
  tables.append(_readings_table(uncertain, spread))
  findings.append(_uncertainty(uncertain))
  details["uncertainty"] = [dataclasses.asdict(r) for r in uncertain]
  findings.append(_rented())
  if rates == ARTICLE:
    findings += contradictions()
  return answer_lib.Answer(
    said=said,
    findings=findings,
    tables=tables,
    pictures=[
      *_lengths_pictures(lengths, rates),
      _uncertainty_picture(uncertain, rates.hardware, spread, seed),
    ],
    details=details,
  )


def contradictions() -> list[finding.Finding]:
  """Where the article's figures contradict its own text."""
  years = {v.name: v.length(ARTICLE) for v in VARIANTS}
  combined = years["hardware, budget, software"]
  frozen = years["swapped, software of the start"]
  upgraded = years["swapped, software upgraded"]
  h, i, _ = dataclasses.astuple(ARTICLE)
  return [
    _contradiction(
      "the combined length",
      f"Its 0.21 years (2.52 months) are 1/(0.28 + 3.84 + 0.54), with 3.84 of"
      f" investment where its text has {i}. That gives {combined:.2f} years"
      f" ({12 * combined:.1f} months). 'Less than 3 months' in the summary and"
      " '2.5 months' in the conclusion inherit it.",
      said=1 / (0.28 + 3.84 + 0.54),
      found=combined,
    ),
    _contradiction(
      "the length with swapped hardware",
      "The summary has 1.2 years (14-15 months), the section 3.55. The former"
      " is 1/(h+s), derived for no swapping: it holds if each purchase"
      f" keeps the software of its day. It is {frozen:.2f} with the software of"
      f" the start, and {upgraded:.2f} with software that is upgraded.",
      said=[1.2, 3.55],
      found=[frozen, upgraded, 1 / h],
    ),
    _contradiction(
      "the bounds",
      "The summary's, 3 months and 1.2 years, are the lower ends of the"
      " conclusion's ranges, 2.5 months to 3.6 years and 1.2 to 3.6 years; it"
      " ends with 'not over 4 years'. Its rates give"
      f" {12 * combined:.1f} months to {1 / h:.2f} years, and {frozen:.2f} to"
      f" {1 / h:.2f} years. A best length is no bound either: shorter runs are"
      " outdone just as well.",
      said=[0.25, 1.2, 3.6, 4.0],
      found=[combined, frozen, 1 / h],
    ),
    _contradiction(
      "the order of magnitude",
      "Budgets are said to grow an order of magnitude faster than hardware,"
      f" and runs to become an order shorter: it is {i / h:.1f} times faster"
      f" and {(h + i) / h:.1f} times shorter. (3.84 would be {3.84 / h:.0f}"
      " times.)",
      said=10,
      found=[i / h, (h + i) / h],
    ),
    _contradiction(
      "its rounding",
      f"Doubling in 2.46 years is {math.log(2) / 2.46:.3f} per year, not {h}:"
      f" 3.55 years are 2.46/ln(2), and 1/{h} is {1 / h:.2f}. Doubling in 6.3"
      f" months is {12 * math.log(2) / 6.3:.2f}, not 1.31. 9.12 and 2.52 months"
      " are years that were rounded before.",
      said=3.55,
      found=1 / h,
    ),
    _contradiction(
      "what is maximized",
      "Compute per dollar, it says, of which the budget is no part; where"
      " budgets rise, its formulas maximize compute.",
    ),
    _contradiction(
      "software that is upgraded",
      "It promises to look at that, and does so for hardware alone. The length"
      f" is {years['the same, software upgraded']:.2f} years without swapped"
      f" hardware and {upgraded:.2f} with it.",
    ),
  ]


def _contradiction(subject, advice, **evidence):
  return finding.Finding(
    "article_contradicts_itself", "warn", subject, evidence, advice, SOURCE
  )


def _too_late(starts):
  late = {v.name: found for v, found in starts.items() if found.overdue}
  if not late:
    return
  lost = {name: found.lost_today for name, found in late.items()}
  yield finding.Finding(
    "best_start_is_over",
    "warn",
    "deadline",
    {"lost": lost, "years": {n: found.overdue for n, found in late.items()}},
    f"For {len(late)} of {len(starts)} variants the best start is over. Start"
    f" today: that loses {min(lost.values()):.1%} to {max(lost.values()):.1%}"
    " of the best effective compute.",
    SOURCE,
  )


def _uncertainty(uncertain):
  shorter = [r.name for r in uncertain if r.effect == "shorter"]
  return finding.Finding(
    "uncertainty_shortens_runs",
    "warn",
    "remark on stochasticity",
    {r.name: r.factor for r in uncertain},
    f"The article says so of all; it holds in {len(shorter)} of"
    f" {len(uncertain)} readings ({'; '.join(shorter)}), and not for its"
    " reason. There, an uncertain future is worth more on average, which pays"
    " for waiting. Caution does not shorten a run: hardware that was bought is"
    " known, what waiting would buy is not. This model knows no runs that fail"
    " or lose their purpose.",
    SOURCE,
  )


def _rented():
  return finding.Finding(
    "model_applies",
    "warn",
    "rented hardware",
    {},
    "Not to hardware that is rented and a small part of what there is: an hour"
    " of many devices costs what many hours of one do, prices fall, and"
    " training is largely parallel. There, wait as long as possible and train"
    " briefly on many devices; the limits are what can be rented at once and"
    " the largest useful batch.",
    SOURCE,
  )


def _verdict(lengths):
  years = {v.name: length for v, length in lengths.items()}
  fixed = years["hardware, budget, software"]
  swapped = years["swapped, software of the start"]
  upgraded = years["swapped, software upgraded"]
  return (
    f"Start {_span(fixed)} before the deadline if hardware, budget and"
    f" software stay those of the start; {_span(swapped)} if hardware is bought"
    f" as money comes in; {_span(upgraded)} if software is upgraded, too."
  )


def _span(years):
  return f"{12 * years:.1f} months" if years < 1 else f"{years:.2f} years"


def _lengths_table(lengths, searched, rates):
  h, i, s = dataclasses.astuple(rates)
  return answer_lib.Table(
    "The longest training run",
    ["what grows", "formula", "years", "months", "by search", "article"],
    [
      [
        *(v.name, v.formula, f"{years:.4f}", f"{12 * years:.2f}"),
        *(f"{searched[v]:.4f}".replace("nan", "flat"), v.article or None),
      ]
      for v, years in lengths.items()
    ],
    f"Per year: hardware h = {h:g}, investment i = {i:g}, software s = {s:g}."
    " By search: the maximum of the effective compute itself. Article: its"
    " years, at its own rates.",
  )


def _starts_table(starts, deadline, budget):
  heads = ["what grows", "start", "years", "lost by starting today"]
  rows = []
  for v, found in starts.items():
    when = found.date.isoformat() + " (now)" * (found.overdue > 0)
    rows.append([v.name, when, f"{found.years:.3f}", f"{found.lost_today:.1%}"])
    if budget is not None:
      rows[-1] += [f"{found.budget:,.0f}", f"{found.later:,.0f}"]
  if budget is not None:
    heads += ["dollars at the start", "during the run"]
  return answer_lib.Table(
    f"To be done on {deadline}",
    heads,
    rows,
    "Lost: share of the effective compute of the best start, even where that"
    " is over.",
  )


def _readings_table(uncertain, spread):
  return answer_lib.Table(
    f"Growth that is uncertain by {spread:g}, for hardware alone",
    ["reading", "years", "by draws", "99 % interval", "times 1/h", "effect"],
    [
      [
        *(r.name, f"{r.exact:.3f}", f"{r.drawn:.3f}"),
        *(f"{r.low:.3f} to {r.high:.3f}", f"{r.factor:.3f}", r.effect),
      ]
      for r in uncertain
    ],
    "The article: uncertainty pushes towards shorter runs. Deadline 2/h years"
    " away, length fixed today; the factors are the same for any 1/g.",
  )


def _lengths_pictures(lengths, rates):
  for name, chosen, caption in (
    (
      "compute against length, hardware bought at the start",
      [v for v in VARIANTS if not v.swapped],
      "Effective compute by the deadline of runs of a length, against the best"
      " (point). Growth that waiting can use makes the best run shorter.",
    ),
    (
      "compute against length, hardware bought during the run",
      [v for v in VARIANTS if v.swapped],
      "With hardware bought as money comes in, long runs lose less: what is"
      " bought late is as good as theirs.",
    ),
  ):
    shown = {v: lengths[v] for v in chosen}
    grid = np.geomspace(min(shown.values()) / 10, 4 * max(shown.values()), 81)
    lines = [
      {
        "x": float(f"{x:.4g}"),
        "y": round(v.compute(x, rates) / v.compute(best, rates), 4),
        "series": v.name,
      }
      for v, best in shown.items()
      for x in grid
    ]
    yield answer_lib.Picture(
      name,
      answer_lib.Axis("length of the run, years", log=True),
      answer_lib.Axis("effective compute against the best"),
      lines=lines,
      points=[{"x": x, "y": 1.0, "series": v.name} for v, x in shown.items()],
      caption=caption,
    )


def _uncertainty_picture(uncertain, rate, spread, seed):
  lengths = 1 / _unknown_rates(rate, spread, np.random.default_rng(seed))
  shown = np.quantile(lengths, [0.001, 0.995])
  counts, edges = np.histogram(lengths, 40, shown)
  exact = {r.name: r.exact for r in uncertain}
  return answer_lib.Picture(
    "best length, where the growth of hardware is unknown",
    answer_lib.Axis("best length for a rate as drawn, years"),
    answer_lib.Axis("share of the draws"),
    bars=[
      {"x": low, "x2": high, "y": count / lengths.size, "series": "draws"}
      for low, high, count in zip(edges, edges[1:], counts, strict=False)
    ],
    rules={
      "expected compute": exact["unknown rate: expected compute"],
      "no uncertainty, or expected log": 1 / rate,
      "share of the frontier": exact[
        "unknown rate: expected share of the frontier"
      ],
    },
    caption="Which length is best for each rate, and (dashed) the one to fix"
    " beforehand: it depends on what is maximized, not on caution.",
  )
