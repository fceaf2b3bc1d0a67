"""What a study, or a single run, left on disk, read into arrays.

Nothing here judges: `curves` and `trials` do, `plots` draws. The objective is
chosen when reading, so any logged metric can be it, long after the trials ran.
"""

import dataclasses
import functools
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay import commands, rundir
from jaxplay import provenance as provenance_lib
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib

# Nothing more will come of these without a person.
ENDED = (*rundir.DONE, "failed")


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
  """One run, as the checks and the figures want it.

  Attributes:
    index: Place in the sequence of trials; -1 for a run of no study.
    path: The run directory.
    status: One of `rundir.STATUSES`, or "pending" before the run began.
    reason: Why it is infeasible or failed, else "".
    point: Label of each hyperparameter that exists in this trial -> its value.
    seed: The run's seed.
    step: Updates made.
    max_train_steps: Updates asked for.
    curves: Metric -> (steps int64 [n], values float64 [n]); NaN where the
      logged number was not finite.
    chance: Error rate of always answering the most frequent class, or None.
    num_valid: Validation examples; 0: not known.
    adaptive: Whether its point was suggested by the results of others, so that
      it is no sample of the space.
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
  adaptive: bool = False

  def best(self, metric: str) -> tuple[float, int]:
    """(least finite value, the earliest step with it); (NaN, -1): none."""
    steps, values = self.curves.get(metric, _NO_CURVE)
    finite = np.isfinite(values)
    if not finite.any():
      return math.nan, -1
    at = int(np.argmin(np.where(finite, values, np.inf)))
    return float(values[at]), int(steps[at])

  def final(self, metric: str) -> tuple[float, int]:
    """(last value, its step); (NaN, -1) where there is none."""
    steps, values = self.curves.get(metric, _NO_CURVE)
    if not len(steps):
      return math.nan, -1
    return float(values[-1]), int(steps[-1])


@dataclasses.dataclass(frozen=True, eq=False)
class Results:
  """The trials of a study under one objective.

  Attributes:
    path: The study directory.
    study: study.json.
    space: What was varied.
    objective: Metric to minimize, such as "valid/error_rate".
    select: "best" (at the best checkpoint) or "final" (at the last step).
    trials: By index, pending ones included.
    reruns: Index of a trial -> its reruns with other seeds.
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

  def value(self, trial: Trial) -> float:
    """The objective of a trial; NaN unless it was completed.

    An infeasible trial has no value, however good it was before it diverged,
    nor has one that is still running.
    """
    if trial.status != "completed":
      return math.nan
    return getattr(trial, self.select)(self.objective)[0]

  def values_of(self, trials: Iterable[Trial]) -> np.ndarray:
    """The objective of those of some trials that have one, float64 [n]."""
    values = np.array([self.value(trial) for trial in trials], np.float64)
    return values[np.isfinite(values)]

  @functools.cached_property
  def values(self) -> np.ndarray:
    """The objective of each trial, float64 [trials]; NaN as in `value`."""
    return np.array([self.value(trial) for trial in self.trials])

  @functools.cached_property
  def ranked(self) -> list[Trial]:
    """Trials that have a value, best first; of equals the earlier index."""
    order = np.argsort(self.values, kind="stable")
    return [self.trials[i] for i in order if np.isfinite(self.values[i])]

  @functools.cached_property
  def infeasible(self) -> np.ndarray:
    """Which trials diverged, bool [trials]."""
    return np.array([t.status == "infeasible" for t in self.trials], bool)

  @functools.cached_property
  def space_filling(self) -> "Results":
    """The study without its adaptive trials.

    For what takes trials for a fair sample of the space, such as the bootstrap
    of the budget, and for what compares values that had equal chances.
    """
    if not self.num_adaptive:
      return self
    sample = [trial for trial in self.trials if not trial.adaptive]
    return dataclasses.replace(self, trials=sample)

  @property
  def num_adaptive(self) -> int:
    """Number of adaptive trials."""
    return sum(trial.adaptive for trial in self.trials)

  def column(self, label: str) -> np.ndarray:
    """Values of one hyperparameter in each trial, object [trials].

    None where the hyperparameter does not exist in a trial.
    """
    column = np.empty(len(self.trials), object)
    column[:] = [trial.point.get(label) for trial in self.trials]
    return column

  def by_key(self, trial: Trial) -> dict[str, Any]:
    """The point of a trial by config key, as studies take it."""
    keys = {p.label: p.key for p in self.space.parameters}
    return {keys[label]: value for label, value in trial.point.items()}

  @functools.cached_property
  def metrics(self) -> list[str]:
    """Every metric that some trial logged, sorted."""
    return sorted({name for trial in self.trials for name in trial.curves})


def read_study(path, objective: str | None = None) -> Results:
  """Reads a study directory, finished or not.

  Args:
    path: The study directory.
    objective: A logged metric, or "final:METRIC" to take its last value
      instead of its best; None: the study's own.

  Raises:
    jaxplay.UserError: This is no study, or no trial logged that metric.
  """
  directory = study_lib.StudyDir(path)
  study = directory.study()
  space = space_lib.Space.from_json(study["space"])
  select, metric = study_lib.parse_objective(objective or study["objective"])
  points, adaptive = directory.points(), set(study_lib.adaptive(study))
  trials = [
    dataclasses.replace(
      _read_trial(directory.trial(index), index, space.labelled(point)),
      adaptive=index in adaptive,
    )
    for index, point in enumerate(points)
  ]
  reruns = {}
  for index, run in directory.reruns():
    point = space.labelled(points[index])
    reruns.setdefault(index, []).append(_read_trial(run, index, point))
  results = Results(
    path=directory.path,
    study=study,
    space=space,
    objective=metric,
    select=select,
    trials=trials,
    reruns=reruns,
  )
  # The study's own may come later, or never where all trials diverge at once.
  if objective and results.metrics and metric not in results.metrics:
    raise jaxplay.UserError(
      f"no trial logged {metric!r}; it can be {', '.join(results.metrics)}"
    )
  return results


def read_run(path) -> Trial:
  """Reads a single run directory, finished or not.

  Raises:
    jaxplay.UserError: This is no run directory.
  """
  run = rundir.RunDir(path)
  if run.config() is None:
    raise rundir.absent(path, "a run")
  return _read_trial(run, -1, {})


def _read_trial(run, index, point) -> Trial:
  config, status = run.config() or {}, run.status()
  chance = status.get("chance") or {}
  return Trial(
    index=index,
    path=run.path,
    status=status.get("status", "pending"),
    reason=status.get("reason") or "",
    point=point,
    seed=config.get("seed", 0),
    step=status.get("step", 0),
    max_train_steps=status.get(
      "max_train_steps", config.get("max_train_steps", 0)
    ),
    curves=curves(run.metrics()),
    chance=chance.get("majority_error_rate"),
    num_valid=chance.get("num_valid", 0),
  )


def curves(
  lines: Iterable[Mapping[str, Any]],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Columns of metrics.jsonl: metric -> (steps, values).

  A null, which stands for a number that was not finite, becomes NaN.
  """
  columns = {}
  for line in lines:
    step = line["step"]
    for name, value in line.items():
      steps, values = columns.setdefault(name, ([], []))
      steps.append(step)
      values.append(math.nan if value is None else value)
  columns.pop("step", None)
  return {
    name: (np.array(steps, np.int64), np.array(values, np.float64))
    for name, (steps, values) in columns.items()
  }


def trial_rows(results: Results) -> list[dict[str, Any]]:
  """The table of trials: a row for each, what trials.csv holds."""
  rows = []
  for trial in results.trials:
    best, best_step = trial.best(results.objective)
    final, _ = trial.final(results.objective)
    rows.append(
      {
        "index": trial.index,
        "status": trial.status,
        "adaptive": trial.adaptive,
        **{p.label: trial.point.get(p.label) for p in results.space.parameters},
        f"best {results.objective}": _or_none(best),
        "best_step": best_step if best_step >= 0 else None,
        f"final {results.objective}": _or_none(final),
        "step": trial.step,
        "reason": trial.reason,
      }
    )
  return rows


def _or_none(value):
  return value if math.isfinite(value) else None


def tracking_row(directory: study_lib.StudyDir) -> dict[str, Any]:
  """A study's row in the table of all studies (G8)."""
  results = read_study(directory.path)
  study, provenance = results.study, directory.own.provenance() or {}
  diff = provenance.get("git_diff")
  done = sum(trial.status in ENDED for trial in results.trials)
  row = {
    "study": str(directory.path),
    "goal": study["goal"],
    "notes": study["notes"],
    "config": study["config_file"],
    "trials": f"{done}/{len(results.trials)}",
    "adaptive": results.num_adaptive or None,
    "objective": f"{results.select} {results.objective}",
    "best": None,
    "best_trial": None,
    "command": commands.line(study["command"]),
    "commit": provenance.get("git_commit"),
    "uncommitted_changes": None if diff is None else bool(diff),
    "changed_files": provenance_lib.is_changed(provenance),
  }
  if results.ranked:
    best = results.ranked[0]
    row |= {"best": results.value(best), "best_trial": best.index}
  return row


def rerun_command(
  results: Results, path: pathlib.Path, trial: int | None
) -> str:
  """The command that runs a trial with other seeds, as its study was run.

  Args:
    results: The study.
    path: Its directory.
    trial: Index; None: whichever is best by then.
  """
  which = "--best" if trial is None else f"--trial={trial}"
  words = results.study.get("command") or ()
  rerun = ["study", "rerun", str(rundir.absolute(path)), which]
  kept = commands.kept(words, commands.RUNNER)
  return commands.line([*commands.program(words), *rerun, *kept])


_NO_CURVE = (np.zeros(0, np.int64), np.zeros(0))
