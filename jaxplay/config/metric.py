"""Metrics: whether more is better, and the cost that stands for a value.

Analyses minimize. So they compute with the cost of a value, which is smaller
for the better of two, and show the value.
"""

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any


@dataclasses.dataclass(frozen=True)
class Metric:
  """What is known about a metric without its values.

  Attributes:
    name: Its name in the lines of metrics, without the split.
    maximized: Whether more is better.
    most: Its best possible value if it is maximized and has one, such as 1.
    is_share: Whether it is a share of the examples that were evaluated, so that
      its sampling error is that of a share.
    bounds: Its smallest and its largest possible value.
  """

  name: str
  maximized: bool = False
  most: float | None = None
  is_share: bool = False
  bounds: tuple[float, float] = (-math.inf, math.inf)

  def cost(self, value: Any) -> Any:
    """What is minimized: the value, or its distance below the best one.

    Args:
      value: A number or an array.
    """
    if not self.maximized:
      return value
    return -value if self.most is None else self.most - value

  def value(self, cost: Any) -> Any:
    """The value of a cost; undoes `cost` up to rounding."""
    return self.cost(cost)

  def either(self, minimized: Any, maximized: Any) -> Any:
    """What fits the direction, such as a word: `either("lower", "higher")`."""
    return maximized if self.maximized else minimized


def _at_most_1(name, least=0.0, **facts):
  bounds = (least, 1.0)
  return Metric(name, maximized=True, most=1.0, bounds=bounds, **facts)


_FROM_0 = (0.0, math.inf)


METRICS: Mapping[str, Metric] = types.MappingProxyType(
  {
    metric.name: metric
    for metric in (
      Metric("loss"),
      Metric("error_rate", is_share=True, bounds=(0.0, 1.0)),
      _at_most_1("accuracy", is_share=True),
      _at_most_1("top5_accuracy", is_share=True),
      _at_most_1("precision"),
      _at_most_1("recall"),
      _at_most_1("f1"),
      _at_most_1("f1_micro"),
      _at_most_1("roc_auc"),
      _at_most_1("average_precision"),
      Metric("perplexity", bounds=(1.0, math.inf)),
      Metric("bits_per_byte", bounds=_FROM_0),
      Metric("mse", bounds=_FROM_0),
      Metric("rmse", bounds=_FROM_0),
      Metric("mae", bounds=_FROM_0),
      _at_most_1("r2", least=-math.inf),
    )
  }
)


def of(objective: str, declared: Any = ()) -> Metric:
  """The metric of an objective such as "valid/f1" or "valid_ema/loss".

  One that is neither built in nor declared is minimized.

  Args:
    objective: Split and metric.
    declared: `config.declared`: what the user's parts declare, among others
      ("metric", part, name, maximized, most); lists will do.
  """
  name = objective.partition("/")[2] or objective
  for kind, _, declared_name, *facts in declared:
    if kind == "metric" and declared_name == name:
      maximized, most = facts[:2]
      bounds = (-math.inf, math.inf if most is None else most)
      return Metric(name, bool(maximized), most, bounds=bounds)
  return METRICS.get(name, Metric(name))


def of_config(flat: Mapping[str, Any]) -> Metric:
  """The metric of a config's objective.

  Args:
    flat: Its dotted keys and values, as from `flatten`.
  """
  return of(flat.get("objective") or "", flat.get("declared") or ())


@dataclasses.dataclass(frozen=True)
class TaskMetrics:
  """The metrics of a built-in task.

  Attributes:
    logged: Those of every run.
    more: Those to be named in `config.task.metrics`, or as the objective.
    objective: The one that ranks trials by default.
  """

  logged: tuple[str, ...]
  more: tuple[str, ...] = ()
  objective: str = "loss"


_OF_CLASSES = (
  *("precision", "recall", "f1", "f1_micro"),
  *("roc_auc", "average_precision"),
)
TASKS: Mapping[str, TaskMetrics] = types.MappingProxyType(
  {
    "classification": TaskMetrics(
      ("loss", "error_rate"),
      ("accuracy", "top5_accuracy", *_OF_CLASSES),
      objective="error_rate",
    ),
    # The error rate of the next token is hardly informative.
    "next_token": TaskMetrics(
      ("loss", "error_rate", "bits_per_byte"),
      ("accuracy", "top5_accuracy", "perplexity"),
    ),
    "regression": TaskMetrics(("loss", "rmse", "mae", "r2"), ("mse",)),
    "multi_label": TaskMetrics(
      ("loss", "error_rate"), ("accuracy", *_OF_CLASSES)
    ),
  }
)
# A user's task, FILE.py:NAME, has the metrics that it computes.
_OWN = TaskMetrics(("loss",))


def of_task(name: str) -> TaskMetrics:
  """The metrics of a task by its full name."""
  return TASKS.get(name, _OWN)
