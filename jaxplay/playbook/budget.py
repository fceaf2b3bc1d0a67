"""How the playbook's loop divides its budget among its phases.

The unit is a trial: the number of examples of a run of the config. A shorter
trial costs its fraction.
"""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jaxplay
from jaxplay import config as config_lib

# Smaller budgets do not search for a fix of an instability.
_SMALL = 48
# (smallest budget in trials, learning rates per decade of the sweeps).
_PER_DECADE = ((0, 2), (48, 3), (128, 4))
_SHORT = 4  # The first round's trials have 1/4 of the config's steps.
_LONGER = (3, 32)  # minimum and maximum number of trials of the last round
_CANDIDATES = 3  # maximum number of them that run with other seeds
_END = 0.4  # maximum share of the budget for the end, with 2 candidates or more
_EXPLORED = (16, 256)  # minimum and maximum number of trials of a study
_FEWEST = 8  # A study with fewer trials is not run.
_FIRST_STUDY = 0.4  # share of the trials that remain for studies
# Minimum number of adaptive trials that are suggested at once.
BATCH = 8
_MOST = 1_000_000  # trials or hours; a larger budget is a typo
_UNITS = {"h": 3600.0, "m": 60.0}
# The batch size is changed for at least this factor of throughput, since all
# other hyperparameters have to be tuned again.
WORTH = 2.0
_WARMUP = "hparams.warmup_steps"
# Minimum of `max_train_steps`.
FEWEST_STEPS = 8
# Keys in units of steps, beside the length; scaled with the batch size.
_IN_STEPS = (
  *("log_every", "eval_every", "checkpoint_every"),
  *(_WARMUP, "hparams.decay_timescale"),
  *("hparams.window_steps", "hparams.window_stride"),
)


@dataclasses.dataclass(frozen=True)
class Budget:
  """A budget in trials or in seconds.

  Attributes:
    trials: Number of trials of the config's length, over all phases.
    seconds: Time, over all phases.
  """

  trials: float = math.inf
  seconds: float = math.inf

  @classmethod
  def parse(cls, text: str) -> "Budget":
    """Parses "64" (trials), "2h" or "90m".

    Raises:
      jaxplay.UserError: The text is invalid, or the number not positive.
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
    """Returns the remaining trials; inf until the time of a trial is known.

    Args:
      spent: Cost so far, in trials.
      seconds: Time so far.
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
  """Trials of the config's length that are reserved for the end.

  Attributes:
    longer: Number of trials of the last round.
    candidates: Number of them that run with other seeds.
    seeds: Number of seeds of each candidate, and of the given config.
  """

  longer: int
  candidates: int
  seeds: int

  @property
  def reserve(self) -> int:
    """Number of trials in all; the given config has one with its own seed."""
    return self.longer + 1 + (self.candidates + 1) * self.seeds


def shares(total: float, seeds: int) -> Shares:
  """Reserves 1/8 of the trials for the last round, with 1 to 3 candidates.

  More than one candidate only if the reserve is at most 0.4 of the budget.
  """
  fewest, most = _LONGER
  longer = max(fewest, int(min(total / 8, most)))
  reserved = Shares(longer, 1, seeds)
  for candidates in range(2, _CANDIDATES + 1):
    more = Shares(longer, candidates, seeds)
    if more.reserve <= _END * total:
      reserved = more
  return reserved


def least(seeds: int, rates: int) -> int:
  """Returns the minimum budget of the whole loop, in trials.

  Args:
    seeds: Number of seeds of each candidate.
    rates: Number of learning rates of each sweep with a small budget.
  """
  sweeps = (2 * rates + 1) / _SHORT
  return next(
    total
    for total in itertools.count(1)
    if total >= shares(total, seeds).reserve + sweeps + _EXPLORED[0] / _SHORT
  )


def is_small(total: float) -> bool:
  """Whether the budget is too small to search for a fix of an instability."""
  return total < _SMALL


def per_decade(total: float) -> int:
  """Returns the number of learning rates per decade of the sweeps."""
  return max(number for least, number in _PER_DECADE if total >= least)


def first_length(
  max_train_steps: int, fits: int | None, left: float
) -> tuple[int, str]:
  """Returns the steps of the first round's trials, and the reason.

  A quarter of the config's steps if a constant learning rate fits the training
  set within them, or if the budget is small; otherwise half, since training may
  be compute-bound. Source: Playbook, deciding how long to train.

  Args:
    max_train_steps: The config's.
    fits: Steps in which the fastest learning rate fits the training set; None:
      more than a quarter of the config's.
    left: Remaining trials.
  """
  quarter = max(1, max_train_steps // _SHORT)
  if fits is not None:
    return quarter, (
      f"the training set can be fitted in {fits:,} steps, so a quarter of the"
      " config's steps is enough to compare trials"
    )
  if is_small(left):
    return quarter, "the budget is too small for longer trials"
  return max(1, max_train_steps // 2), (
    "no trial fitted the training set in a quarter of the config's steps, so"
    " trials have half of the config's steps"
  )


def num_explored(left: float, reserve: float, cost: float) -> int:
  """Returns the number of trials of the first study.

  The larger of 16 and 0.4 of the trials that remain for studies.

  Args:
    left: Remaining trials.
    reserve: Trials reserved for the end.
    cost: Cost of a trial of the study, in trials.

  Returns:
    At most 256; 0 if the budget allows fewer than 8.
  """
  fewest, most = _EXPLORED
  affordable = (left - reserve) / cost
  if affordable < _FEWEST:
    return 0
  return int(min(max(fewest, _FIRST_STUDY * affordable), affordable, most))


def num_exploited(
  left: float, reserve: float, cost: float, num_explored: int
) -> int:
  """Returns the number of adaptive trials to run next.

  All trials that remain for studies, but no more than `num_explored`.

  Args:
    left: Remaining trials.
    reserve: Trials reserved for the end.
    cost: Cost of a trial of the study, in trials.
    num_explored: Number of trials of the study that are not adaptive.

  Returns:
    A multiple of `BATCH`; 0: the remaining trials are for the end.
  """
  num = min((left - reserve) / cost, max(num_explored, BATCH))
  return max(0, int(num / BATCH) * BATCH)


def batch(num: int) -> int:
  """Returns how many of `num` adaptive trials to suggest at once."""
  return max(BATCH, num // 16)


def gain(speeds: Sequence[Mapping[str, Any]], old: int, new: int) -> float:
  """Returns the throughput of a batch size relative to another.

  Args:
    speeds: {batch_size, loop_seconds, too_large} of each size, ascending.
    old: The batch size to compare with; if it was not timed, the next smaller
      size is used.
    new: A batch size that was timed.

  Returns:
    inf if the old size does not fit into memory.
  """
  if any(row["too_large"] and row["batch_size"] <= old for row in speeds):
    return math.inf
  throughputs = {
    row["batch_size"]: row["batch_size"] / row["loop_seconds"]
    for row in speeds
    if not row["too_large"]
  }
  smaller = [size for size in throughputs if size <= old]
  return throughputs[new] / throughputs[max(smaller, default=min(throughputs))]


def with_batch_size(flat: Mapping[str, Any], size: int) -> dict[str, Any]:
  """Returns the changes for another batch size at the same number of examples.

  Numbers of steps are scaled, and the decay of weight averages is set so that
  they span as many examples.

  Args:
    flat: Dotted config key -> value.
    size: The new batch size.
  """
  factor = flat["batch_size"] / size

  def scaled(steps):
    return max(1, round(steps * factor))

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
