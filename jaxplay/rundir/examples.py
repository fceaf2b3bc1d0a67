"""The cost of each validation example, in examples.npz of a run.

With them two runs are compared example by example, which removes the noise of
the validation set that both share.
"""

import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxplay.rundir import reading

_FLOATS = ("cost_best", "cost_last", "weight")  # [n]


@dataclasses.dataclass(frozen=True)
class Examples:
  """What each validation example adds to the objective, less is better.

  The cost of the objective (`config.metric.Metric.cost`) is the mean
  sum(weight * cost) / sum(weight), up to the rounding of float32.

  Attributes:
    step_best: The step that the run chose.
    cost_best: There, of each example in the order of the split: float32 [n];
      0 or 1 for an error rate, nats for a loss (mean over the tokens of a row).
    step_last: The last step.
    cost_last: There; not finite where the outputs were not.
    weight: How often each example counts, such as its number of tokens, float32
      [n]; None: all count the same.
    metric: The objective, such as "valid/error_rate".
    data: Hash of which examples these are; equal ones have the same order.
  """

  step_best: int
  cost_best: np.ndarray
  step_last: int
  cost_last: np.ndarray
  weight: np.ndarray | None
  metric: str
  data: str

  def is_mean(self, cost: float) -> bool:
    """Whether `cost`, of the objective at the best step, is the mean here."""
    weight = self.weight
    if weight is not None and not ((weight >= 0).all() and weight.any()):
      return False
    mean = np.average(self.cost_best.astype(np.float64), weights=weight)
    size = np.average(np.abs(self.cost_best.astype(np.float64)), weights=weight)
    return bool(abs(mean - cost) <= 1e-3 * size)

  def as_arrays(self) -> dict[str, Any]:
    """Returns the content of the file; the inverse of `parse`."""
    fields = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
    return {
      name: np.float32(value) if name in _FLOATS else np.asarray(value)
      for name, value in fields.items()
      if value is not None
    }


def parse(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> Examples:
  """Returns the content of a file that may be from somebody else.

  Args:
    path: The file, for the error.
    arrays: Its arrays by name.

  Raises:
    reading.Damaged: It is not what `Examples.as_arrays` returns.
  """
  names = {field.name for field in dataclasses.fields(Examples)}
  missing = names - arrays.keys() - {"weight"}
  if missing:
    raise reading.Damaged(path, f"it has no array {min(missing)!r}")
  size = arrays["cost_best"].size
  made: dict[str, Any] = {"weight": None}
  for name in names & arrays.keys():
    array = arrays[name]
    shape, kinds = ((size,), "f") if name in _FLOATS else ((), "U")
    if name.startswith("step_"):
      kinds = "iu"
    if array.shape != shape or array.dtype.kind not in kinds or not size:
      raise reading.Damaged(path, f"{name} is {array.dtype} {array.shape}")
    try:
      with np.errstate(over="ignore"):  # Infinity is refused below.
        made[name] = array.astype(np.float32) if shape else array.item()
      if kinds == "U":
        made[name].encode()
    except (ValueError, SystemError):  # numpy keeps code points of any number.
      raise reading.Damaged(path, f"{name} is not text") from None
  examples = Examples(**made)
  if not 0 <= examples.step_best <= examples.step_last:
    raise reading.Damaged(path, "its steps are out of order")
  if not np.isfinite(examples.cost_best).all():
    raise reading.Damaged(path, "cost_best is not finite")
  weight = examples.weight
  if weight is not None and not (
    np.isfinite(weight).all() and (weight >= 0).all() and weight.any()
  ):
    raise reading.Damaged(path, "weight has no positive, finite sum")
  return examples
