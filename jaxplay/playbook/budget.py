"""How the playbook's loop spends its budget, and what it does next.

The unit is a trial: as many examples as one run of the config sees. Shorter
trials cost their share.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jaxplay
from jaxplay import config as config_lib

# With fewer trials, nothing is repaired.
_SMALL = 48
# (trials, learning rates of the sweeps for each factor of ten from there on).
_PER_DECADE = ((0, 2), (48, 3), (128, 4))
_SHORT = 4  # A first round's trials have this part of the steps.
_LONGER = (3, 32)  # trials of the last round
_CANDIDATES = 3  # Of them, at most so many are run with other seeds.
_END = 0.4  # share of the budget that the end gets for a further candidate
_EXPLORED = (16, 256)  # trials of a study
_FEWEST = 8  # of which a study is still made
_FIRST_STUDY = 0.4  # share of what is left for studies
# Adaptive trials at a time, at least: they do not learn of each other.
BATCH = 8
_MOST = 1_000_000  # trials or hours: more is a slip of the keys
_UNITS = {"h": 3600.0, "m": 60.0}
# A batch size that is so many times as fast is worth tuning everything for.
WORTH = 2.0
_WARMUP = "hparams.warmup_steps"
# A run that is shorter than this is no run of a loop.
FEWEST_STEPS = 8
# Keys that count steps, beside the length: fewer as batches get larger.
_IN_STEPS = (
  *("log_every", "eval_every", "checkpoint_every"),
  *(_WARMUP, "hparams.decay_timescale"),
  *("hparams.window_steps", "hparams.window_stride"),
)


@dataclasses.dataclass(frozen=True)
class Budget:
  """What may be spent: trials, or seconds.

  Attributes:
    trials: Runs of the config's length, all phases together.
    seconds: Of training, however many trials that is.
  """

  trials: float = math.inf
  seconds: float = math.inf

  @classmethod
  def parse(cls, text: str) -> "Budget":
    """Reads "64" (trials), "2h" or "90m".

    Raises:
      jaxplay.UserError: It is neither, or not positive.
    """
    unit = _UNITS.get(text[-1:])
    try:
      number = float(text[:-1] if unit else text)
    except ValueError:
      number = math.nan
    if not 0 < number <= _MOST:
      raise jaxplay.UserError(
        f"expected a number of trials or a time for --budget, such as 64, 2h or"
        f" 90m, of at most {_MOST:,}; got {text!r}"
      )
    if unit:
      return cls(seconds=number * unit)
    return cls(trials=number)

  def left(self, spent: float, seconds: float) -> float:
    """Trials that are left; inf until the time of a trial is known.

    Args:
      spent: Cost so far, in trials.
      seconds: Duration of these trials.
    """
    if self.trials < math.inf:
      return self.trials - spent
    if not spent:
      return math.inf
    return (self.seconds - seconds) * spent / seconds

  def __str__(self):
    if self.trials < math.inf:
      return f"{self.trials:g} trials"
    return f"{self.seconds / 3600:.3g} hours"


@dataclasses.dataclass(frozen=True)
class Shares:
  """What is put aside for the end, in trials of the config's length.

  Attributes:
    longer: Trials of the last round.
    candidates: Of these, how many are run with other seeds.
    seeds: Of each candidate, and of the given config.
  """

  longer: int
  candidates: int
  seeds: int

  @property
  def reserve(self) -> int:
    """Trials of all of it; the given config is one more to begin with."""
    return self.longer + 1 + (self.candidates + 1) * self.seeds


def shares(total: float, seeds: int) -> Shares:
  """An eighth of the trials for the last round, and 1 to 3 candidates.

  Further candidates only as far as all of it stays within 0.4 of the budget.
  """
  fewest, most = _LONGER
  longer = max(fewest, int(min(total / 8, most)))
  found = Shares(longer, 1, seeds)
  for candidates in range(2, _CANDIDATES + 1):
    more = Shares(longer, candidates, seeds)
    if more.reserve <= _END * total:
      found = more
  return found


def least(seeds: int, rates: int) -> int:
  """The smallest budget of the whole loop, in trials.

  Args:
    seeds: Of each candidate.
    rates: Of each sweep, for as little.
  """
  sweeps = (2 * rates + 1) / _SHORT
  return next(
    total
    for total in itertools.count(1)
    if total >= shares(total, seeds).reserve + sweeps + _EXPLORED[0] / _SHORT
  )


def is_small(total: float) -> bool:
  """Whether the budget is too small for repairs."""
  return total < _SMALL


def per_decade(total: float) -> int:
  """Rates of the sweeps for each factor of ten."""
  return max(number for least, number in _PER_DECADE if total >= least)


def first_length(
  max_train_steps: int, fits: int | None, left: float
) -> tuple[int, str]:
  """Steps of the first round's trials, and why.

  A quarter of the config's where a constant rate fits the training set in them,
  or where the budget is small; else, as it may be compute-bound, half. Source:
  Playbook, deciding how long to train.

  Args:
    max_train_steps: The config's.
    fits: Steps in which the fastest rate fits the training set; None: it did
      not within a quarter of the config's.
    left: Trials that are left.
  """
  quarter = max(1, max_train_steps // _SHORT)
  if fits is not None:
    return quarter, (
      f"the training set can be fitted in {fits:,} steps, so a quarter of the"
      " config's are enough to compare trials"
    )
  if is_small(left):
    return quarter, "the budget is too small for longer trials"
  return max(1, max_train_steps // 2), (
    "nothing shows that a quarter of the config's steps can fit the training"
    " set, so trials are half as long as the config's"
  )


def num_explored(left: float, reserve: float, cost: float) -> int:
  """Trials of the first study: 0.4 of what is left for studies, or 16.

  Args:
    left: Trials that are left.
    reserve: Of these, what the end needs.
    cost: Of a trial of the study.

  Returns:
    At most 256; 0 where not even 8 can be paid for.
  """
  fewest, most = _EXPLORED
  there = (left - reserve) / cost
  if there < _FEWEST:
    return 0
  return int(min(max(fewest, _FIRST_STUDY * there), there, most))


def num_exploited(left: float, reserve: float, cost: float, there: int) -> int:
  """The next adaptive trials: what is left for studies, at most as many.

  Args:
    left: Trials that are left.
    reserve: Of these, what the end needs.
    cost: Of a trial of the study.
    there: Trials of the study that are not adaptive.

  Returns:
    A multiple of `BATCH`; 0: it is time for the end.
  """
  num = min((left - reserve) / cost, max(there, BATCH))
  return max(0, int(num / BATCH) * BATCH)


def batch(num: int) -> int:
  """Adaptive trials at the same time: of many more, as each batch is read."""
  return max(BATCH, num // 16)


def gain(speeds: Sequence[Mapping[str, Any]], old: int, new: int) -> float:
  """Throughput of one batch size over that of another.

  Args:
    speeds: {batch_size, loop_seconds, too_large} of each size, ascending.
    old: Examples; of what was not timed, the next smaller size that was.
    new: Examples, of a size that was timed.

  Returns:
    inf where the old size does not fit into memory.
  """
  if any(row["too_large"] and row["batch_size"] <= old for row in speeds):
    return math.inf
  rates = {
    row["batch_size"]: row["batch_size"] / row["loop_seconds"]
    for row in speeds
    if not row["too_large"]
  }
  near = max((size for size in rates if size <= old), default=min(rates))
  return rates[new] / rates[near]


def with_batch_size(flat: Mapping[str, Any], size: int) -> dict[str, Any]:
  """Changes that make a config see the same examples in batches of a size.

  All that counts steps counts so many fewer, and averages of weights reach back
  as many examples.

  Args:
    flat: Dotted config key -> value.
    size: Examples.
  """
  factor = flat["batch_size"] / size
  scaled = lambda steps: max(1, round(steps * factor))  # noqa: E731
  steps = scaled(flat["max_train_steps"])
  changes = config_lib.with_steps(flat, steps) | {
    "batch_size": size,
    "eval_batch_size": max(size, flat["eval_batch_size"]),
    "keep_steps": tuple(
      step if isinstance(step, str) else scaled(step)
      for step in flat["keep_steps"]
    ),
    "hparams.ema_decay": flat["hparams.ema_decay"] ** (1 / factor),
    **{key: scaled(flat[key]) for key in _IN_STEPS if flat[key]},
  }
  if _WARMUP in changes:
    most = config_lib.longest_warmup(flat, steps)
    changes[_WARMUP] = min(changes[_WARMUP], most)
  return config_lib.settled(flat, changes)
