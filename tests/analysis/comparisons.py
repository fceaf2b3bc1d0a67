"""Comparisons of trainings whose truth is known: coverage and power.

    python -m tests.analysis.comparisons [--repeats=1000]

prints the tables of the section "Comparisons" of docs/checks.md. Every number
is from `compare.compare` or `compare.choices` on results in memory.

A training draws its noise between seeds from `NOISES`. An error rate is that of
`num_valid` examples: each has a difficulty, in part common to all trainings, in
part to those of one side, and is an error where it exceeds a threshold.
"""

import argparse
import dataclasses
import functools
import math
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
from scipy import special, stats

from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.analysis import compare
from jaxplay.analysis import results as results_lib
from jaxplay.study import space as space_lib

LEVEL = 0.1  # cost of every training on average, unless one is better
DEVIATION = 0.003  # between seeds

_CONFIG = config_lib.as_json(config_lib.base())


@dataclasses.dataclass(frozen=True, eq=False)
class Trial(results_lib.Trial):
  """A trial with results of single examples in memory."""

  saved: rundir.Examples | None = None

  def examples(self) -> rundir.Examples | None:
    return self.saved


def _lognormal(rng, size):
  """Of shape 1, with mean 0 and deviation 1; its skewness is 6.2."""
  draws = np.exp(rng.standard_normal(size)) - math.exp(0.5)
  return draws / math.sqrt((math.e - 1) * math.e)


NOISES: dict[str, Callable] = {
  "normal": lambda rng, size: rng.standard_normal(size),
  "t3": lambda rng, size: rng.standard_t(3, size) / math.sqrt(3),
  "lognormal": _lognormal,
}


def side(
  name: str,
  values: np.ndarray,
  objective: str = "valid/loss",
  num_valid: int = 0,
  costs: np.ndarray | None = None,
) -> results_lib.Results:
  """A study of one trial with reruns.

  Args:
    name: Its directory.
    values: The objective of each rerun.
    objective: The metric.
    num_valid: Validation examples.
    costs: Of each example in each rerun, [reruns, n]; None: not saved.
  """
  saved: list[rundir.Examples | None] = [None] * len(values)
  if costs is not None:
    saved = [
      rundir.Examples(100, row, 100, row, None, objective, "the same")
      for row in costs
    ]
  best, *reruns = (
    Trial(
      index=0,
      path=pathlib.Path(name),
      status="completed",
      reason="",
      point={},
      seed=0,
      step=100,
      max_train_steps=100,
      curves={objective: (np.array([100]), np.array([value]))},
      num_valid=num_valid,
      saved=examples,
    )
    for value, examples in zip(
      [values[0], *values], [None, *saved], strict=True
    )
  )
  return results_lib.Results(
    path=pathlib.Path(name),
    study={"config": _CONFIG, "objective": objective},
    space=space_lib.Space({}),
    objective=objective,
    select="best",
    trials=[best],
    reruns={0: reruns},
  )


def of_seeds(
  rng: np.random.Generator,
  noises: tuple[str, str],
  deviations: tuple[float, float],
  reruns: int,
  improvement: float = 0.0,
) -> compare.Comparison:
  """Compare losses, whose noise is that of seeds alone."""
  baseline, candidate = (
    side(name, level + deviation * NOISES[noise](rng, reruns))
    for name, level, noise, deviation in zip(
      ("baseline", "candidate"),
      (LEVEL, LEVEL - improvement),
      noises,
      deviations,
      strict=True,
    )
  )
  return compare.compare(baseline, candidate)


def of_examples(
  rng: np.random.Generator,
  num_valid: int,
  agreement: float,
  reruns: int,
  are_saved: bool = True,
  improvement: float = 0.0,
) -> compare.Comparison:
  """Compare error rates, whose noise is that of seeds and of examples.

  Args:
    rng: Random numbers.
    num_valid: Validation examples.
    agreement: Correlation of the difficulty of an example on the two sides.
    reruns: Of each side.
    are_saved: Whether the results of single examples are.
    improvement: Of the population's error rate.
  """
  own = (1 - agreement) / 2  # of a side; the rest is of each training
  shape = reruns, num_valid
  common = math.sqrt(agreement) * rng.standard_normal(num_valid, np.float32)
  sides = []
  for name, level in (("baseline", LEVEL), ("candidate", LEVEL - improvement)):
    rates = level + DEVIATION * rng.standard_normal((reruns, 1))
    hard = common + math.sqrt(own) * rng.standard_normal(num_valid, np.float32)
    hard = hard + math.sqrt(own) * rng.standard_normal(shape, np.float32)
    errors = hard < special.ndtri(np.clip(rates, 1e-9, 1))
    costs = errors.astype(np.float32)
    sides.append(
      side(
        name,
        errors.mean(1),
        "valid/error_rate",
        num_valid,
        costs if are_saved else None,
      )
    )
  return compare.compare(*sides)


def agreement(correlation: float) -> float:
  """The agreement of difficulties at which errors have a correlation."""
  if not correlation:
    return 0.0
  threshold = special.ndtri(LEVEL)
  grid = np.linspace(0, 1, 401)[1:-1]
  both = [
    stats.multivariate_normal.cdf(
      [threshold] * 2, cov=[[1, shared], [shared, 1]]
    )
    for shared in grid
  ]
  correlations = (np.array(both) - LEVEL**2) / (LEVEL * (1 - LEVEL))
  return float(np.interp(correlation, correlations, grid))


def of_choices(
  rng: np.random.Generator,
  noise: str,
  reruns: int,
  improvement: float,
  number: int,
) -> bool:
  """Whether the best of several choices is called better than any other.

  Args:
    rng: Random numbers.
    noise: One of `NOISES`.
    reruns: Of each.
    improvement: Of the first choice; the others are equal.
    number: Of choices.
  """
  names = tuple(f"c{i}" for i in range(number))
  space = space_lib.Space(
    {"model.name": space_lib.Choice(names, role="scientific")}
  )
  trials, again = [], {}
  for i, name in enumerate(names):
    level = LEVEL - improvement * (i == 0)
    values = level + DEVIATION * NOISES[noise](rng, reruns)
    own = side("study", values)
    point = space.labelled({"model.name": name})
    trials.append(dataclasses.replace(own.trials[0], index=i, point=point))
    again[i] = own.reruns[0]
  study = dataclasses.replace(own, space=space, trials=trials, reruns=again)
  return any(c.verdict == "adopt" for *_, c in compare.choices(study))


def covers(comparison: compare.Comparison, improvement: float = 0.0) -> bool:
  """Whether the interval holds the truth."""
  low, high = comparison.interval
  return low <= improvement <= high


_RERUNS = (2, 3, 5, 10)
_CHOICES = (2, 3, 4, 8)
_SEEDS = {  # noise and deviation of the baseline, and of the candidate
  "normal": (("normal", "normal"), (1, 1)),
  "normal, 6 times noisier": (("normal", "normal"), (1, 6)),
  "t3": (("t3", "t3"), (1, 1)),
  "lognormal": (("lognormal", "lognormal"), (1, 1)),
  "lognormal, 6 times noisier": (("normal", "lognormal"), (1, 6)),
}


def tables(repeats: int, seed: int = 0) -> Iterator[str]:
  """The lines of all tables, in Markdown; shares in %.

  Args:
    repeats: Comparisons for each number; a fifth where nothing is near 95%.
    seed: Of everything.
  """
  rng = np.random.default_rng(seed)

  def rates(draw, columns, number=repeats):
    """How often `draw(column)` is true, for each column."""
    return [
      sum(draw(column) for _ in range(number)) / number for column in columns
    ]

  yield from _head("coverage, loss", _RERUNS)
  for name, (noises, scales) in _SEEDS.items():
    both = noises, tuple(DEVIATION * scale for scale in scales)
    draw = functools.partial(_covered_loss, rng, *both)
    yield _row(name, rates(draw, _RERUNS))
  yield ""
  yield from _head("power, loss, normal noise", _RERUNS)
  for times in (2, 3, 4):
    draw = functools.partial(_adopted_loss, rng, times * DEVIATION)
    yield _row(f"better by {times} deviations", rates(draw, _RERUNS))
    welch = [_power_of_welch(rng, 20 * repeats, n, times) for n in _RERUNS]
    yield _row("the same by Welch's test alone", welch)
  few = max(repeats // 5, 1)
  for kind, are_saved, number in (
    ("paired", True, repeats),
    ("binomial", False, few),
  ):
    yield ""
    yield from _head(f"coverage, error rate, {kind}", _RERUNS)
    for num_valid in (300, 500, 10_000):
      for correlation in (0.0, 0.5, 0.8):
        data = num_valid, agreement(correlation), are_saved
        draw = functools.partial(_covered_rate, rng, *data)
        name = f"{num_valid:,} examples, correlation {correlation}"
        yield _row(name, rates(draw, _RERUNS, number))
    yield ""
    yield from _head(f"power, error rate, {kind}, correlation 0.5", _RERUNS)
    for num_valid, better in ((500, 0.03), (10_000, 0.01)):
      data = num_valid, agreement(0.5), are_saved
      draw = functools.partial(_adopted_rate, rng, *data, better)
      name = f"{num_valid:,} examples, better by {better}"
      yield _row(name, rates(draw, _RERUNS, number))
  yield ""
  yield from _head("a significant difference, loss", _CHOICES, "choices")
  for noise in NOISES:
    draw = functools.partial(of_choices, rng, noise, 5, 0.0)
    yield _row(f"all equal, {noise}", rates(draw, _CHOICES, few))
  for times in (3, 5):
    draw = functools.partial(of_choices, rng, "normal", 5, times * DEVIATION)
    yield _row(f"one better by {times} deviations", rates(draw, _CHOICES, few))


def _head(name, columns, noun="reruns"):
  yield f"| {name} | {' | '.join(f'{n} {noun}' for n in columns)} |"
  yield "|---" * (len(columns) + 1) + "|"


def _row(name, shares):
  return f"| {name} | {' | '.join(f'{100 * s:.1f}' for s in shares)} |"


def _covered_loss(rng, noises, deviations, reruns):
  return covers(of_seeds(rng, noises, deviations, reruns))


def _adopted_loss(rng, better, reruns):
  noises, deviations = ("normal", "normal"), (DEVIATION, DEVIATION)
  found = of_seeds(rng, noises, deviations, reruns, better)
  return found.verdict == "adopt"


def _covered_rate(rng, num_valid, agree, are_saved, reruns):
  return covers(of_examples(rng, num_valid, agree, reruns, are_saved))


def _adopted_rate(rng, num_valid, agree, are_saved, better, reruns):
  found = of_examples(rng, num_valid, agree, reruns, are_saved, better)
  return found.verdict == "adopt"


def _power_of_welch(rng, repeats, reruns, times):
  one, other = rng.standard_normal((2, reruns, repeats))
  test = stats.ttest_ind(
    one + times, other, equal_var=False, alternative="two-sided"
  )
  return float(((test.pvalue < 0.05) & (test.statistic > 0)).mean())


if __name__ == "__main__":
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--repeats", type=int, default=1000)
  for line in tables(parser.parse_args().repeats):
    print(line, flush=True)
