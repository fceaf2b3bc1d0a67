"""What is declared about one key of a config: `Key`."""

import dataclasses
import functools
from typing import Any

LARGEST = 2**31 - 1  # the train step computes with 32-bit integers

# Intervals that many keys share.
POSITIVE_INT, INT_FROM_0 = f"[1, {LARGEST}]", f"[0, {LARGEST}]"
BELOW_1, NOT_NEGATIVE, POSITIVE = "[0, 1)", "[0, inf)", "(0, inf)"
SHARE = "[0, 1]"


@dataclasses.dataclass(frozen=True)
class Key:
  """One key of a config.

  Attributes:
    default: Its value in `base()`. Every other value must have the same type.
    comment: Its meaning, in one line.
    within: Interval of valid values in the usual notation, such as "[0, 1)".
      Empty: any value, or what `checks` allows.
    choices: The valid names; empty: the value is not a name.
    used_by: (switch, values): the key has an effect only if the key `switch`
      has one of these values. None: always.
    traced: Whether the train step takes it as an argument: changing it does not
      recompile, and trials of one population may differ in it.
    branch: Whether a branch of a run may change it: it affects neither the
      training up to the branch point nor the data.
    resume: Whether it may change when a run resumes: it affects where and how
      the run is computed, or what is evaluated, but not the result of training.
    transfers: How likely its best value still holds for longer training: "very
      likely", "likely", "might" or "unlikely" (Playbook, deciding how long to
      train).
    fixed: Why a search space must not contain it; empty: it may.
    off: (feature, value): the value that turns a feature off.
    regularization: Whether that feature limits how well a model fits its
      training set, or makes gradients noisier.
    retune: "optimizer" or "regularization" if the value should be tuned again
      after a change of the batch size (Playbook, changing the batch size
      requires re-tuning most hyperparameters).
  """

  default: Any
  comment: str
  within: str = ""
  choices: tuple[str, ...] = ()
  used_by: tuple[str, tuple] | None = None
  traced: bool = False
  branch: bool = False
  resume: bool = False
  transfers: str = "might"
  fixed: str = ""
  off: tuple[str, Any] | None = None
  regularization: bool = False
  retune: str = ""

  def holds(self, value: float) -> bool:
    """Whether a number lies in the interval."""
    low, high = _bounds(self.within)
    above = value >= low if self.within[0] == "[" else value > low
    return above and (value <= high if self.within[-1] == "]" else value < high)


@functools.cache
def _bounds(within: str) -> tuple[float, float]:
  low, high = within[1:-1].split(",")
  return float(low), float(high)


def number(default: float, comment: str, within: str, **facts: Any) -> Key:
  """Declares a number that the train step takes as an argument."""
  return Key(default, comment, within, traced=True, branch=True, **facts)


def size(default: Any, comment: str, within: str = "", **facts: Any) -> Key:
  """Declares a key that shapes the model."""
  return Key(default, comment, within, **({"transfers": "likely"} | facts))


def data(default: Any, comment: str, within: str = "", **facts: Any) -> Key:
  """Declares a key that selects the data, which all trials of a study share."""
  why = "results on different data are not comparable; make one study per data"
  return Key(default, comment, within, fixed=f"{why} set", **facts)
