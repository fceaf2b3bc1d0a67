"""The rows behind the figures of a study, by the name of their source.

    "trials"         a row per trial
    "best_of"        best of n trials, by bootstrap
    "isolation:2"    best trial in each slice of hyperparameter 2 of the space
    "curves:loss"    logged points of the metrics that end in "/loss"

Fields are named x2, not by hyperparameter: a label such as
"hparams.beta1 [optimizer=adam]" would be parsed as a path in an expression.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from jaxplay import config as config_lib
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.study import space as space_lib

# Trials whose curves are drawn by default.
BEST_FEW = 5
# Curves with a colour, and values of a scientific choice that have one.
NUM_COLOURS = 6
OTHERS = "others"
# Of trials: known in advance, or suggested by the results of others.
KINDS = ("planned", "adaptive")


def rows(
  results: results_lib.Results,
  source: str,
  shown: Sequence[results_lib.Trial] | None = None,
) -> list[dict[str, Any]]:
  """Compute the rows of a source.

  Args:
    results: The study.
    source: A name as in the module's description.
    shown: Trials whose curves to return; None: the best few.
  """
  kind, _, argument = source.partition(":")
  if kind == "trials":
    columns = trial_columns(results) | objective_columns(results)
    return [
      dict(zip(columns, values, strict=True))
      for values in zip(*columns.values(), strict=True)
    ]
  if kind == "best_of":
    return best_of_rows(results)
  if kind == "isolation":
    return isolation_rows(results, int(argument))
  return curve_rows(shown or best_few(results), argument)


def best_few(results: results_lib.Results) -> list[results_lib.Trial]:
  """The best trials; if there are none yet, the first that logged anything."""
  begun = [trial for trial in results.trials if trial.curves]
  return (results.ranked or begun)[:BEST_FEW]


def trial_columns(results: results_lib.Results) -> dict[str, list]:
  """The fields of trials that do not depend on the objective, as lists."""
  trials = results.trials
  columns: dict[str, list] = {
    "index": [trial.index for trial in trials],
    "status": [trial.status for trial in trials],
    "kind": ["adaptive" if trial.adaptive else "planned" for trial in trials],
    # Spreads equal values of a choice, reproducibly.
    "jitter": [trial.index * 0.618034 % 1 for trial in trials],
    "group": [_group(results, trial) for trial in trials],
  }
  for i, parameter in enumerate(results.space.parameters):
    columns[f"x{i}"] = [
      position(parameter, trial.point.get(parameter.label)) for trial in trials
    ]
  return columns


def objective_columns(results: results_lib.Results) -> dict[str, list]:
  """The fields of trials that depend on the objective, as lists.

  `objective` is None without a value; `at` is the step of the best value, for
  completed trials only; `rank` counts from 0.
  """
  rank = {trial.index: i for i, trial in enumerate(results.ranked)}
  steps = [trial.best(results.objective)[1] for trial in results.trials]
  return {
    "objective": _finite(results.values),
    "at": [
      step if trial.index in rank else None
      for step, trial in zip(steps, results.trials, strict=True)
    ],
    "rank": [rank.get(trial.index) for trial in results.trials],
  }


def best_of_rows(results: results_lib.Results) -> list[dict[str, Any]]:
  """Best of n trials, for up to a dozen n from 1 to all that ended."""
  outcomes = trials_lib.outcomes(results)
  number = int((~np.isnan(outcomes)).sum())
  if not results.ranked:
    return []
  sizes = np.unique(np.geomspace(1, number, 12).round().astype(int))
  # If all of n trials diverge, the box ends at the worst value.
  worst = float(np.nanmax(results.costs))
  rows = []
  for row in trials_lib.best_of(outcomes, sizes.tolist()):
    n, *names = row
    costs = (min(row[name], worst) for name in names)
    # Ascending again, if the best costs are the highest values.
    values = sorted(map(results.metric.value, costs))
    rows.append({n: row[n]} | dict(zip(names, values, strict=True)))
  return rows


def isolation_rows(
  results: results_lib.Results, i: int
) -> list[dict[str, Any]]:
  """Best trial in each slice of hyperparameter `i`, for `isolation`.

  `index` is None in a slice without a value; `mean`, `from` and `to` are the
  mean over its reruns and its interval, None without two reruns; `luck` is by
  how many deviations of the noise its value is expected to be too good.
  """
  parameter = results.space.parameters[i]
  groups = {trial.index: _group(results, trial) for trial in results.trials}
  return [
    {
      **{
        field: position(parameter, row[field]) for field in ("x", "low", "high")
      },
      "objective": _finite([row["value"]])[0],
      **_of_reruns(results, row["trial"]),
      "index": row["trial"],
      "group": "" if row["trial"] is None else groups[row["trial"]],
      "label": row["x"] if row["low"] is None else _range(row),
      "count": str(row["count"]),
      "infeasible": row["infeasible"],
      "luck": _finite([row["luck"]])[0],
    }
    for row in trials_lib.isolation(results, parameter.label)
  ]


def _of_reruns(results, index):
  """Mean over the reruns of a trial and its 95% interval."""
  mean, low, high = trials_lib.rerun_interval(results, index)
  return dict(
    zip(("mean", "from", "to"), _finite((mean, low, high)), strict=True)
  )


def ends(results: results_lib.Results, source: str) -> list[float]:
  """Ends of the axis of the objective in the figures of a source.

  Figures of every trial share them, so that they can be compared. An isolation
  plot shows the best half of its slices, and at most 4 times that range.
  """
  kind, _, argument = source.partition(":")
  if kind == "isolation":
    return _zoomed(isolation_rows(results, int(argument)), results.metric)
  if kind == "best_of":
    # Without the unlucky quarter.
    names = results.metric.either(("low", "q75"), ("q25", "high"))
    best = best_of_rows(results)
    return domain([row[name] for row in best for name in names])
  return domain(results.values)


def _zoomed(rows, metric):
  """Ends of an axis for rows of `isolation_rows`."""
  values = [r["objective"] for r in rows if r["objective"] is not None]
  if not values:
    return domain([])
  values.sort(key=metric.cost)
  best, middle, worst = values[0], values[len(values) // 2], values[-1]
  if len(values) > 3 and middle != best:
    worst = min(worst, best + 4 * (middle - best), key=metric.cost)
  spread = [r[name] for r in rows for name in ("from", "to")]
  return domain([best, worst, *spread])


def curve_rows(
  trials: Sequence[results_lib.Trial], name: str
) -> list[dict[str, Any]]:
  """Logged points of every metric of a family, of these trials.

  The first trials get a colour each, those after them share one.
  """
  points = []
  for place, trial in enumerate(trials):
    label = f"{trial.index}" if place < NUM_COLOURS else OTHERS
    for metric, (steps, values) in trial.curves.items():
      if family(metric) == name:
        points += [
          {
            "index": trial.index,
            "trial": label,
            "split": split(metric),
            "step": step,
            "value": value,
          }
          for step, value in zip(
            steps.tolist(), _finite(drawable(metric, values)), strict=True
          )
        ]
  return points


def drawable(metric: str, values: np.ndarray) -> np.ndarray:
  """A curve's values, without the zeros at either end of a schedule.

  Learning rates of several orders of magnitude require a log axis.
  """
  if metric != "learning_rate":
    return values
  return np.where(values > 0, values, np.nan)


def family(metric: str) -> str:
  """The metrics that share a figure: valid/loss -> loss.

  Those of a diagnostic, too: update_ratio/Dense_0 -> update_ratio.
  """
  if is_of_layer(metric):
    return metric.partition("/")[0]
  return metric.rpartition("/")[2]


def split(metric: str) -> str:
  """valid/loss -> valid; of a diagnostic the layer; else ""."""
  if is_of_layer(metric):
    return metric.partition("/")[2]
  return metric.rpartition("/")[0]


def is_of_layer(metric: str) -> bool:
  """Whether it is of `config.diagnostics`, such as update_ratio/Dense_0."""
  first, _, layer = metric.partition("/")
  return bool(layer) and first in config_lib.DIAGNOSTICS


def families(results: results_lib.Results) -> list[str]:
  """Every family that was logged, sorted."""
  return sorted({family(metric) for metric in results.metrics})


def maximized(results: results_lib.Results) -> list[str]:
  """The families of `families` of which more is better."""
  declared = results.declared
  return [
    name
    for name in families(results)
    if config_lib.metric.of(name, declared).maximized
  ]


def position(parameter: space_lib.Parameter, value: Any) -> Any:
  """A value's coordinate on its axis: text for a choice, else a number."""
  if value is None:
    return None
  if parameter.kind == "choice":
    return str(value)
  return 1 - value if parameter.scale == "log_one_minus" else value


def scale(values: Iterable[float | None], maximized: bool = False) -> str:
  """Log if positive values span more than a factor of 10, else linear.

  Linear if more is better, since then small differences count among the
  largest values.
  """
  low, high = domain(values)
  return "log" if 0 < 10 * low < high and not maximized else "linear"


def domain(values: Iterable[float | None]) -> list[float]:
  """Ends of an axis that holds these values; None and NaN are ignored."""
  finite = [value for value in values if value is not None and value == value]
  low, high = min(finite, default=0.0), max(finite, default=1.0)
  margin = 0.1 * abs(low) or 1.0
  return [low, high] if low < high else [low - margin, high + margin]


def _range(row):
  return f"{row['low']:.3g} to {row['high']:.3g}"


def _group(results, trial):
  """Value of the scientific choice that colours the trials, or ""."""
  chosen = grouping(results)
  return str(trial.point.get(chosen.label, "")) if chosen else ""


def grouping(results: results_lib.Results) -> space_lib.Parameter | None:
  """The scientific choice that colours the trials."""
  for parameter in results.space.parameters:
    if parameter.role == "scientific" and parameter.kind == "choice":
      if len(parameter.values) <= NUM_COLOURS:
        return parameter
  return None


def _finite(values):
  """Floats, with None for what is not finite."""
  return [float(v) if math.isfinite(v) else None for v in values]
