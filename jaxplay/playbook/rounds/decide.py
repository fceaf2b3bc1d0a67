"""From a round of short runs to a round of longer ones.

Playbook, number of steps: "use the extra steps to extend the period of training
at a high learning rate"; and what of the first round is likely to hold in the
next, in its decreasing order.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

import jaxplay
from jaxplay import config as config_lib
from jaxplay import finding

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
  """The changes that make a config train for more steps, and why these.

  Warmup, base rate and all else are kept. A linear decay keeps its length, and
  becomes the end of a constant rate (schedule wsd); so does the cooldown of
  wsd; a cosine is stretched; a constant rate goes on, as rsqrt does. The phases
  of a mixture keep their shares of the steps.

  Args:
    flat: Dotted config key -> value, of the shorter round.
    max_train_steps: Of the longer one.

  Raises:
    jaxplay.UserError: It would not be longer.
  """
  old = flat["max_train_steps"]
  if max_train_steps <= old:
    raise jaxplay.UserError(
      f"--steps={max_train_steps} is not longer than the last round, which has"
      f" {old} steps"
    )
  changes = config_lib.with_steps(flat, max_train_steps)
  schedule = flat["schedule"]
  if schedule == "linear":
    length = old - flat["hparams.warmup_steps"]
    changes |= {"schedule": "wsd", "cooldown_shape": "linear"}
    why = (
      f"the linear decay keeps its length of {length:,} steps, and the rate is"
      " constant before it"
    )
  elif schedule == "wsd":
    length = config_lib.cooldown_steps(old, flat["hparams.cooldown_fraction"])
    why = (
      f"the cooldown keeps its length of {length:,} steps, and the constant"
      " part grows"
    )
  else:
    why = {
      "cosine": "the cosine keeps its base rate and is stretched",
      "constant": "the rate stays constant",
      "rsqrt": "the rate goes on falling as 1 / sqrt(step)",
    }[schedule]
    return changes, why
  changes["hparams.cooldown_fraction"] = length / max_train_steps
  return changes, why


def lengths(first: int, last: int, rounds: int) -> list[int]:
  """Steps of each further round: they grow by the same factor, up to `last`."""
  factor = (last / first) ** (1 / rounds)
  found = [round(first * factor**i) for i in range(1, rounds)]
  return [*found, last]


def transfer(key: str) -> str:
  """Whether a value is to hold in a longer round: "very likely", ..."""
  return config_lib.KEYS[key].transfers if key in config_lib.KEYS else "might"


def transfers(keys: Sequence[str]) -> list[finding.Finding]:
  """A finding for each hyperparameter that the round varied."""
  advice = {
    "might": "It might hold; re-check it in the longer round.",
    "unlikely": "It is unlikely to hold: re-tune it at the new length, first.",
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
  """Do the points that both rounds ran keep their order?

  The rule: Spearman's rank correlation; `warn` below 0.5, or where the best of
  the shorter round is not in the better half of the longer one. Needs 5 points.
  What diverges in the longer round counts as worst.

  Args:
    shorter: [points], the objective in the shorter round; less is better.
    longer: [points], in the longer one; NaN: it diverged.
    steps: Of both rounds.
  """
  short, long = np.array(shorter), np.array(longer)
  long = np.where(np.isnan(long), np.inf, long)
  found = lambda verdict, advice, **evidence: finding.Finding(  # noqa: E731
    "ranking_transfers",
    verdict,
    f"{steps[0]:,} to {steps[1]:,} steps",
    dict(points=len(short)) | evidence,
    advice,
    _ROUNDS,
  )
  if len(short) < 5:
    return found("unknown", "Fewer than 5 points were run at both lengths.")
  if len(set(short)) == 1 or len(set(long)) == 1:
    return found("unknown", "All points are equal in one of the rounds.")
  rho = float(stats.spearmanr(stats.rankdata(short), stats.rankdata(long))[0])
  place = int(stats.rankdata(long, "min")[np.argmin(short)])
  holds = rho >= 0.5 and place <= math.ceil(len(long) / 2)
  return found(
    "ok" if holds else "warn",
    ""
    if holds
    else f"The order of {len(short)} points changes with the length"
    f" (correlation {rho:.2f}; the best at {steps[0]:,} steps ranks"
    f" {_ordinal(place)} at {steps[1]:,}): the conclusions of the shorter round"
    " do not hold.",
    correlation=rho,
    place_of_the_last_best=place,
  )


def _ordinal(number):
  """1st, 2nd, 3rd, 4th, ... 11th."""
  ending = {1: "st", 2: "nd", 3: "rd"}.get(number % 10, "th")
  return f"{number}{'th' if number % 100 in (11, 12, 13) else ending}"


def moved(
  key: str, units: tuple[float, float], values: tuple[Any, Any]
) -> finding.Finding:
  """Did the best value of a hyperparameter move with the length?

  The rule: `warn` where it moved by more than a quarter of the first round's
  range, on its scale.

  Args:
    key: Of the hyperparameter.
    units: Where the best values lie in that range, from 0 to 1.
    values: They themselves.
  """
  shift = units[1] - units[0]
  much = abs(shift) > 0.25
  return finding.Finding(
    "best_value_moves",
    "warn" if much else "ok",
    key,
    dict(shorter=values[0], longer=values[1], share_of_range=shift),
    f"The best value moved from {values[0]:.4g} to {values[1]:.4g} as training"
    " became longer; it may move on."
    if much
    else "",
    _ROUNDS,
  )
