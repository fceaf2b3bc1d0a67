"""The trials of a study, or a single run, in memory."""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import finding, formats, rundir
from jaxplay.study import space as space_lib

# Status of a trial whose files are damaged or do not belong to the study.
EXCLUDED = "excluded"
# Final unless somebody restarts the trial.
ENDED = (*rundir.DONE, "failed", EXCLUDED)

_NO_CURVE = (np.zeros(0, np.int64), np.zeros(0))
_SHOWN = 10  # trials in a notebook


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
  """One run, as checks and figures use it.

  Attributes:
    index: Place in the sequence of trials; -1 for a run of no study.
    path: The run directory.
    status: One of `rundir.STATUSES`, "pending" before the run began, or
      `EXCLUDED`.
    reason: Why it is infeasible, failed or excluded, else "".
    point: Label of each hyperparameter that exists in this trial -> the value
      that was trained.
    seed: The run's seed.
    step: Updates made.
    max_train_steps: Updates planned.
    curves: Metric -> (steps int64 [n], values float64 [n]); NaN if the logged
      number was not finite.
    chance: Error rate of always predicting the most frequent class, or None.
    num_valid: Number of validation examples; 0: unknown.
    mean_mse: Of a regression, the mean squared error of always predicting the
      mean of the validation targets, or None.
    adaptive: Whether its point was suggested from the results of other trials,
      so that it is no random sample of the space.
    different: Config key -> (value in study.json, value that was trained), for
      values that differ.
    declared: `config.declared`, for the direction of metrics.
    folded: Whether validation data were trained on, so that nothing measures
      it but the test set.
  """

  index: int
  path: pathlib.Path
  status: str
  reason: str
  point: Mapping[str, Any]
  seed: int
  step: int
  max_train_steps: int
  curves: Mapping[str, tuple[np.ndarray, np.ndarray]]
  chance: float | None = None
  num_valid: int = 0
  mean_mse: float | None = None
  adaptive: bool = False
  different: Mapping[str, tuple[Any, Any]] = dataclasses.field(
    default_factory=dict
  )
  declared: Sequence[Sequence[Any]] = ()
  folded: bool = False

  def examples(self) -> rundir.Examples | None:
    """The objective of each validation example, if the run saved it."""
    return rundir.RunDir(self.path).examples()

  def costs(self, metric: str) -> tuple[np.ndarray, np.ndarray]:
    """A curve as (steps, costs): less is better, see `config.metric`."""
    steps, values = self.curves.get(metric, _NO_CURVE)
    return steps, config_lib.metric.of(metric, self.declared).cost(values)

  def best(self, metric: str) -> tuple[float, int]:
    """The best finite value and its first step; (NaN, -1): none."""
    steps, costs = self.costs(metric)
    finite = np.isfinite(costs)
    if not finite.any():
      return math.nan, -1
    at = int(np.argmin(np.where(finite, costs, np.inf)))
    return float(self.curves[metric][1][at]), int(steps[at])

  def final(self, metric: str) -> tuple[float, int]:
    """The last value and its step; (NaN, -1): none."""
    steps, values = self.curves.get(metric, _NO_CURVE)
    if not len(steps):
      return math.nan, -1
    return float(values[-1]), int(steps[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
  """The trials of a study under one objective.

  Values are for people and files; analyses minimize, and so compute with costs,
  see `config.metric`.

  Attributes:
    path: The study directory.
    study: study.json.
    space: What was varied.
    objective: Metric that ranks trials, such as "valid/error_rate".
    select: "best" (at the best checkpoint) or "final" (at the last step).
    trials: By index, pending ones included.
    reruns: Index of a trial -> its reruns with other seeds.
    strays: Run directories of trials that are not in study.json.
  """

  path: pathlib.Path
  study: Mapping[str, Any]
  space: space_lib.Space
  objective: str
  select: str
  trials: Sequence[Trial]
  reruns: Mapping[int, Sequence[Trial]] = dataclasses.field(
    default_factory=dict
  )
  strays: Sequence[str] = ()

  @functools.cached_property
  def metric(self) -> config_lib.metric.Metric:
    """Direction and kind of the objective."""
    return config_lib.metric.of(self.objective, self.declared)

  @property
  def declared(self) -> Sequence[Sequence[Any]]:
    """`config.declared` of the base config, for the direction of metrics."""
    return self.study.get("config", {}).get("declared") or ()

  def value(self, trial: Trial) -> float:
    """The objective of a trial; NaN unless it is completed.

    Infeasible trials have no value, however good they were before they
    diverged, nor have running ones.
    """
    if trial.status != "completed":
      return math.nan
    return getattr(trial, self.select)(self.objective)[0]

  def values_of(self, trials: Iterable[Trial]) -> np.ndarray:
    """The objective of the given trials that have a value, float64 [n]."""
    values = np.array([self.value(trial) for trial in trials], np.float64)
    return values[np.isfinite(values)]

  @functools.cached_property
  def values(self) -> np.ndarray:
    """The objective of each trial, float64 [trials]; NaN as in `value`."""
    return np.array([self.value(trial) for trial in self.trials])

  def cost(self, trial: Trial) -> float:
    """The cost of a trial's value, less is better; NaN as in `value`."""
    return self.metric.cost(self.value(trial))

  @functools.cached_property
  def costs(self) -> np.ndarray:
    """The cost of each trial, float64 [trials]; NaN as in `value`."""
    return self.metric.cost(self.values)

  @functools.cached_property
  def ranked(self) -> list[Trial]:
    """Trials that have a value, best first; of equals the earlier index."""
    order = np.argsort(self.costs, kind="stable")
    return [self.trials[i] for i in order if np.isfinite(self.values[i])]

  @functools.cached_property
  def infeasible(self) -> np.ndarray:
    """Which trials diverged, bool [trials]."""
    return np.array([t.status == "infeasible" for t in self.trials], bool)

  @functools.cached_property
  def ended(self) -> np.ndarray:
    """Which trials diverged or have a value, bool [trials]."""
    return self.infeasible | ~np.isnan(self.values)

  @functools.cached_property
  def space_filling(self) -> "Results":
    """The study without its adaptive trials.

    For analyses that assume a fair sample of the space, such as the bootstrap
    of the budget, and for comparisons of values that had equal chances.
    """
    if not self.num_adaptive:
      return self
    sample = [trial for trial in self.trials if not trial.adaptive]
    return dataclasses.replace(self, trials=sample)

  @property
  def num_adaptive(self) -> int:
    """Number of adaptive trials."""
    return sum(trial.adaptive for trial in self.trials)

  def example_costs(
    self, trial: Trial
  ) -> tuple[np.ndarray, np.ndarray | None, str] | None:
    """What each validation example adds to the cost of a trial's value.

    Returns:
      (costs float64 [n], weights [n] or None, digest of the examples), as
      `rundir.Examples`; None: not saved, or of another evaluation or metric.

    Raises:
      rundir.Damaged: The file is not what a run writes.
    """
    found = trial.examples()
    if found is None or found.metric != self.objective:
      return None
    at_best = self.select == "best"
    costs = found.cost_best if at_best else found.cost_last
    mean = np.average(costs.astype(np.float64), weights=found.weight)
    if not math.isclose(mean, self.cost(trial), rel_tol=1e-3, abs_tol=1e-6):
      return None
    return costs.astype(np.float64), found.weight, found.data

  def column(self, label: str) -> np.ndarray:
    """Values of one hyperparameter, object [trials]; None: it has none."""
    column = np.empty(len(self.trials), object)
    column[:] = [trial.point.get(label) for trial in self.trials]
    return column

  def by_key(self, trial: Trial) -> dict[str, Any]:
    """The point of a trial by config key, as `study` takes it."""
    keys = {p.label: p.key for p in self.space.parameters}
    return {keys[label]: value for label, value in trial.point.items()}

  def config_of(self, trial: Trial) -> dict[str, Any]:
    """The config of a trial, dotted keys and values, by study.json.

    Empty if study.json holds no config.
    """
    trained = {key: value for key, (_, value) in trial.different.items()}
    return self._config | self.by_key(trial) | trained

  @functools.cached_property
  def _config(self) -> dict[str, Any]:
    return config_lib.flatten(self.study.get("config") or {})

  @functools.cached_property
  def metrics(self) -> list[str]:
    """Every metric that any trial logged, sorted."""
    return sorted({name for trial in self.trials for name in trial.curves})

  def to_arrays(self) -> dict[str, np.ndarray]:
    """Convert the trials to columns.

    Returns:
      Column -> array [trials], in the order of `trials`:
        index: int64.
        status: str.
        adaptive: bool.
        LABEL: Each hyperparameter: int64, float64 (NaN: not in this trial) or
          object (None: not in this trial).
        objective: float64; NaN unless completed.
        best_step: int64, step of the best value of the objective; -1: none.
        step: int64, updates made.
        max_train_steps: int64, updates planned.
        seed: int64.
        reason: str, why it is infeasible, failed or excluded.
    """
    steps = [trial.best(self.objective)[1] for trial in self.trials]

    def ints(name):
      return np.array([getattr(t, name) for t in self.trials], np.int64)

    def texts(name):
      return np.array([getattr(t, name) for t in self.trials], np.str_)

    return {
      "index": ints("index"),
      "status": texts("status"),
      "adaptive": np.array([t.adaptive for t in self.trials], bool),
      **{
        p.label: _as_array(p, self.column(p.label))
        for p in self.space.parameters
      },
      "objective": np.array(self.values, np.float64),
      "best_step": np.array(steps, np.int64),
      "step": ints("step"),
      "max_train_steps": ints("max_train_steps"),
      "seed": ints("seed"),
      "reason": texts("reason"),
    }

  def to_dataframe(self) -> Any:
    """Convert the trials to a pandas.DataFrame, the columns of `to_arrays`.

    Raises:
      jaxplay.UserError: pandas is not installed.
    """
    try:
      import pandas
    except ImportError:
      raise jaxplay.UserError(
        "to_dataframe requires pandas, which is not installed; run pip install"
        " pandas, or use to_arrays"
      ) from None
    return pandas.DataFrame(self.to_arrays())

  def _repr_html_(self) -> str:
    """The best trials, best first, as an HTML table for notebooks."""
    labels = [p.label for p in self.space.parameters]
    heads = ["trial", f"{self.select} {self.objective}", "best step", *labels]
    rows = [
      [
        trial.index,
        formats.number(self.value(trial)),
        trial.best(self.objective)[1],
        *(formats.number(trial.point.get(label, "")) for label in labels),
      ]
      for trial in self.ranked[:_SHOWN]
    ]
    return finding.as_html(heads, rows)


def _as_array(parameter, column):
  """A hyperparameter's column in the narrowest type that holds it."""
  if parameter.kind == "choice":
    return column
  if parameter.kind == "int" and None not in column.tolist():
    return column.astype(np.int64)
  return np.array([math.nan if v is None else v for v in column], np.float64)
