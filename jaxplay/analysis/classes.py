"""The error rate of each class of a run, and whether rare classes suffer.

The mean over a validation split hides a class of which it has few examples.
Training counts the correct examples of each class at every evaluation, and
writes them to RUN/predictions.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import stats

from jaxplay import config as config_lib
from jaxplay import finding, rundir
from jaxplay.analysis import results as results_lib

# With less than this share of the mean count of the classes, a class is rare.
RARE = 0.5
# Errors this many times as frequent as in the other classes are tolerated:
# classes are never equally hard.
_FACTOR = 1.5
_LEVEL = 0.05  # chance of a false alarm, over all rare classes together
# What has to be found with a probability of `_POWER`, or a class is not judged.
_PLAIN_FACTOR, _PLAIN, _POWER = 3, 0.5, 0.95
_MOST_LISTED = 20
_SOURCE = "Playbook, setting up periodic evaluations"


@dataclasses.dataclass(frozen=True, eq=False)
class Classes:
  """Correct examples of each class at one evaluation.

  Attributes:
    step: Updates made.
    count: Validation examples of each class (of several labels: that have the
      label), int64 [classes].
    correct: Those that were predicted, int64 [classes].
    names: Of the classes, or their numbers.
  """

  step: int
  count: np.ndarray
  correct: np.ndarray
  names: tuple[str, ...]

  @property
  def errors(self) -> np.ndarray:
    """Share of wrong examples of each class [classes]; NaN: no examples."""
    with np.errstate(invalid="ignore"):
      return 1 - self.correct / self.count

  def intervals(self) -> np.ndarray:
    """95% intervals of `errors`, [classes, 2], by Wilson's score (1927)."""
    z, n = stats.norm.ppf(0.975), np.maximum(self.count, 1)
    share = (self.count - self.correct) / n
    center = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    half *= z / (1 + z**2 / n)
    ends = np.stack([center - half, center + half], axis=-1)
    # With no or only errors an end is exact, but for rounding.
    ends = np.where(np.isin(share, (0, 1))[:, None], np.round(ends, 12), ends)
    return np.where(self.count[:, None] > 0, np.clip(ends, 0, 1), [0.0, 1.0])


def read(
  trial: results_lib.Trial, objective: str, select: str = "best"
) -> Classes | None:
  """Reads the counts of a run at its best, or last, evaluation.

  Args:
    trial: The run.
    objective: The metric by which it chooses the step.
    select: "best" or "final".

  Returns:
    None: they were not saved.

  Raises:
    rundir.Damaged: The file holds something else.
  """
  step = getattr(trial, select)(objective)[1]
  run = rundir.RunDir(trial.path)
  path = run.path / "predictions" / f"{step:08d}.npz"
  if step < 0 or not path.exists():
    return None
  arrays = run.predictions(step)
  count, correct = arrays.get("class_count"), arrays.get("class_correct")
  if count is None or correct is None:
    return None
  if not (
    count.ndim == 1
    and count.shape == correct.shape
    and count.dtype.kind == correct.dtype.kind == "i"
    and (0 <= correct).all()
    and (correct <= count).all()
    and (count < 2**31).all()  # No split has as many examples.
    and count.any()
  ):
    raise rundir.Damaged(path, "its counts of classes are no such counts")
  facts = (run.provenance() or {}).get("dataset") or {}
  names = facts.get("classes") or ()
  if len(names) != len(count):
    names = range(len(count))
  return Classes(
    step,
    count.astype(np.int64),
    correct.astype(np.int64),
    tuple(map(str, names)),
  )


def has_classes(trial: results_lib.Trial) -> bool:
  """Whether a run validates classes or labels, by its config."""
  config = rundir.RunDir(trial.path).config()
  if config is None or trial.folded:
    return False
  flat = results_lib.flat(config)  # An older one may lack keys.
  parts = ("model", "dataset", "task")
  named = {part: {"name": flat[f"{part}.name"]} for part in parts}
  return config_lib.task_name(named) in ("classification", "multi_label")


def check_trial(
  trial: results_lib.Trial, objective: str, select: str = "best"
) -> list[finding.Finding]:
  """Runs `rare_classes` on what a run saved; []: its task has no classes."""
  try:
    if not has_classes(trial):
      return []
    return [rare_classes(read(trial, objective, select))]
  except rundir.Damaged as error:
    return [_unknown(str(error)[:1].upper() + str(error)[1:] + ".", {})]


def rare_classes(classes: Classes | None) -> finding.Finding:
  """Check that the rare classes are predicted about as well as the others.

  A class is rare with less than half of the mean number of examples. The rule:
  `warn` if the error rate of a rare class is significantly above 1.5 times that
  of all other classes: an exact binomial test at 5%, divided by the number of
  rare classes. A rare class is judged if its examples suffice to find a plain
  fault, an error rate of 3 times that of the others and at least 1/2, with a
  probability of 95%; `unknown` if one does not, and none warns; else `ok`.

  Args:
    classes: From `read`; None: they were not saved.
  """
  if classes is None:
    return _unknown(
      "The run saved no counts of classes at this step; train with"
      " config.num_predictions above 0.",
      {},
    )
  count, correct = classes.count, classes.correct
  rare = np.flatnonzero(count < RARE * count.mean())
  rare = rare[np.argsort(count[rare], kind="stable")]
  wrong = count - correct
  rest = count.sum() - count[rare]
  # Not zero: no validation set is infinitely precise.
  others = (wrong.sum() - wrong[rare] + 1) / (rest + 2)
  level = _LEVEL / max(len(rare), 1)
  tolerated = _FACTOR * others
  p = np.where(
    tolerated < 1, stats.binom.sf(wrong[rare] - 1, count[rare], tolerated), 1.0
  )
  judged = _power(count[rare], others, level) >= _POWER
  bad, short = rare[p <= level], rare[~judged & (p > level)]
  intervals = classes.intervals()
  listed = [*bad, *(i for i in rare if i not in bad)][:_MOST_LISTED]
  evidence: dict[str, Any] = {
    "step": classes.step,
    "error_rate": float(wrong.sum() / count.sum()),
    "num_classes": len(count),
    "num_rare": len(rare),
    "num_bad": len(bad),
    "num_too_few_examples": len(short),
    "rare": [
      {
        "class": classes.names[i],
        "examples": int(count[i]),
        "error_rate": float(wrong[i] / count[i]) if count[i] else None,
        "interval": intervals[i].tolist(),
      }
      for i in listed
    ],
  }
  if len(bad):
    worst = bad[np.argmax(classes.errors[bad])]
    low, high = intervals[worst]
    more = f", and {len(bad) - 1} more rare classes" if len(bad) > 1 else ""
    return finding.Finding(
      "rare_classes",
      "warn",
      "valid/error_rate",
      evidence,
      f"Class {classes.names[worst]}, with {count[worst]} of {count.sum()}"
      f" validation examples, has an error rate of"
      f" {classes.errors[worst]:.3g} (95% interval {low:.3g} to {high:.3g}),"
      f" far above the {evidence['error_rate']:.3g} of all examples{more}. The"
      " mean hides it: report rare classes by themselves, rank trials by"
      " valid/recall or valid/f1, or add examples of these classes.",
      _SOURCE,
    )
  if len(short):
    fewest = short[0]
    return _unknown(
      f"{len(short)} of {len(rare)} rare classes have too few validation"
      f" examples to find a plain fault, such as class"
      f" {classes.names[fewest]} with {count[fewest]}; add validation examples"
      " of these classes.",
      evidence,
    )
  return finding.Finding(
    "rare_classes", "ok", "valid/error_rate", evidence, "", _SOURCE
  )


def _unknown(advice, evidence):
  return finding.Finding(
    "rare_classes", "unknown", "valid/error_rate", evidence, advice, _SOURCE
  )


def _power(count, others, level):
  """The probability of finding a plain fault in each class."""
  tolerated = np.minimum(_FACTOR * others, 1)
  plain = np.minimum(np.maximum(_PLAIN, _PLAIN_FACTOR * others), 1)
  # The fewest errors that are significant.
  fewest = stats.binom.isf(level, np.maximum(count, 1), tolerated) + 1
  return np.where(
    (count > 0) & (tolerated < plain),
    stats.binom.sf(fewest - 1, count, plain),
    0.0,
  )
