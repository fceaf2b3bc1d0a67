"""From a round of short runs to a round of longer runs.

Playbook, number of steps: "use the extra steps to extend the period of training
at a high learning rate"; and which values of the first round are likely to
transfer to the next.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

import jaxplay
from jaxplay import config as config_lib
from jaxplay import finding, formats

_ROUNDS = "Playbook, deciding how long to train when training is compute-bound"

_VERDICTS: dict[str, finding.Verdict] = {
  "very likely": "ok",
  "likely": "ok",
  "might": "unknown",
  "unlikely": "warn",
}


def longer(
  flat: Mapping[str, Any], max_train_steps: int
) -> tuple[dict[str, Any], str]:
  """Returns the changes for a larger number of steps, and the reason.

  Warmup and base learning rate are kept. A linear decay keeps its length, after
  a constant learning rate (schedule wsd); so does the cooldown of wsd. A cosine
  is stretched; constant and rsqrt continue. The phases of a mixture keep their
  shares of the steps.

  Args:
    flat: Dotted config key -> value, of the shorter round.
    max_train_steps: Number of steps of the longer round.

  Raises:
    jaxplay.UserError: The number of steps is not larger.
  """
  old = flat["max_train_steps"]
  if max_train_steps <= old:
    raise jaxplay.UserError(
      f"--steps={max_train_steps} must be larger than the {old} steps of the"
      " last round"
    )
  changes = config_lib.with_steps(flat, max_train_steps)
  schedule = flat["schedule"]
  if schedule == "linear":
    length = old - flat["hparams.warmup_steps"]
    changes |= {"schedule": "wsd", "cooldown_shape": "linear"}
    why = (
      f"the linear decay keeps its length of {length:,} steps, and the learning"
      " rate is constant before it"
    )
  elif schedule == "wsd":
    length = config_lib.cooldown_steps(old, flat["hparams.cooldown_fraction"])
    why = (
      f"the cooldown keeps its length of {length:,} steps, and the constant"
      " phase becomes longer"
    )
  else:
    why = {
      "cosine": "the cosine keeps its base learning rate and is stretched",
      "constant": "the learning rate stays constant",
      "rsqrt": "the learning rate continues to decay as 1 / sqrt(step)",
    }[schedule]
    return changes, why
  changes["hparams.cooldown_fraction"] = length / max_train_steps
  return changes, why


def lengths(first: int, last: int, rounds: int) -> list[int]:
  """Returns the steps of each further round, log-spaced up to `last`."""
  factor = (last / first) ** (1 / rounds)
  return [*(round(first * factor**i) for i in range(1, rounds)), last]


def transfer(key: str) -> str:
  """Returns how likely a value transfers to longer runs, as in `_VERDICTS`."""
  return config_lib.KEYS[key].transfers if key in config_lib.KEYS else "might"


def transfers(keys: Sequence[str]) -> list[finding.Finding]:
  """Returns a finding for each hyperparameter that the round varied."""
  advice = {
    "might": "Its best value might transfer; check it in the longer round.",
    "unlikely": "Its best value is unlikely to transfer: re-tune it first at"
    " the new number of steps.",
  }
  return [
    finding.Finding(
      "transfer_to_longer_runs",
      _VERDICTS[transfer(key)],
      key,
      dict(transfers=transfer(key)),
      advice.get(transfer(key), ""),
      _ROUNDS,
    )
    for key in dict.fromkeys(keys)
  ]


def ranking(
  shorter: Sequence[float], longer: Sequence[float], steps: tuple[int, int]
) -> finding.Finding:
  """Checks that trials of both rounds keep their order.

  The rule: Spearman's rank correlation; `warn` below 0.5, or if the best trial
  of the shorter round is not in the better half of the longer round. Needs 5
  trials. A trial that diverges in the longer round ranks last.

  Args:
    shorter: [trials], the cost in the shorter round, see `config.metric`.
    longer: [trials], the cost in the longer round; NaN: it diverged.
    steps: Steps of both rounds.
  """
  short, long = np.array(shorter), np.array(longer)
  long = np.where(np.isnan(long), np.inf, long)

  def found(verdict, advice, **evidence):
    return finding.Finding(
      "ranking_transfers",
      verdict,
      f"{steps[0]:,} to {steps[1]:,} steps",
      dict(points=len(short)) | evidence,
      advice,
      _ROUNDS,
    )

  if len(short) < 5:
    return found("unknown", "Fewer than 5 trials were run at both lengths.")
  if len(set(short)) == 1 or len(set(long)) == 1:
    return found(
      "unknown", "All trials have the same objective in one of the rounds."
    )
  rho = float(stats.spearmanr(stats.rankdata(short), stats.rankdata(long))[0])
  rank = int(stats.rankdata(long, "min")[np.argmin(short)])
  transfers = rho >= 0.5 and rank <= math.ceil(len(long) / 2)
  advice = ""
  if not transfers:
    advice = (
      f"The ranking of {len(short)} trials changes with the number of steps:"
      f" rank correlation {rho:.2f}, and the best trial at {steps[0]:,} steps"
      f" ranks {_ordinal(rank)} at {steps[1]:,}. The conclusions of the shorter"
      " round do not transfer."
    )
  return found(
    "ok" if transfers else "warn",
    advice,
    correlation=rho,
    place_of_the_last_best=rank,
  )


def _ordinal(number):
  """Formats a rank: 1st, 2nd, 3rd, 4th, ... 11th."""
  ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
  return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"


def moved(
  key: str, units: tuple[float, float], values: tuple[Any, Any]
) -> finding.Finding:
  """Checks whether the best value of a hyperparameter moved with the length.

  The rule: `warn` if it moved by more than a quarter of the first round's
  range, on its scale.

  Args:
    key: The hyperparameter.
    units: The best values of both rounds, as positions in that range in [0, 1].
    values: The best values.
  """
  shift = units[1] - units[0]
  has_moved = abs(shift) > 0.25
  verdict: finding.Verdict = "warn" if has_moved else "ok"
  advice = ""
  if math.isnan(shift):
    verdict = "unknown"
    advice = "One of the rounds has no best value of it."
  elif has_moved:
    advice = (
      f"The best value moved from {formats.number(values[0])} to"
      f" {formats.number(values[1])} with the"
      " number of steps; it may move further in a longer round."
    )
  return finding.Finding(
    "best_value_moves",
    verdict,
    key,
    dict(shorter=values[0], longer=values[1], share_of_range=shift),
    advice,
    _ROUNDS,
  )
