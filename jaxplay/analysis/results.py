"""What a study, or a single run, left on disk, read into arrays.

What a trial trained is in its own config.json: study.json may have been edited
since, folders swapped, or the points drawn by another version of a library.
Trials with damaged files are excluded, and the others read.

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
from jaxplay import config as config_lib
from jaxplay import provenance as provenance_lib
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib

# Of a trial whose files are damaged, or that is none of the study's.
EXCLUDED = "excluded"
# Nothing more will come of these without a person.
ENDED = (*rundir.DONE, "failed", EXCLUDED)
_MOST_TOLD = 20  # trials in the evidence of a finding


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
  """One run, as the checks and the figures want it.

  Attributes:
    index: Place in the sequence of trials; -1 for a run of no study.
    path: The run directory.
    status: One of `rundir.STATUSES`, "pending" before the run began, or
      `EXCLUDED`.
    reason: Why it is infeasible, failed or excluded, else "".
    point: Label of each hyperparameter that exists in this trial -> the value
      that it trained.
    seed: The run's seed.
    step: Updates made.
    max_train_steps: Updates asked for.
    curves: Metric -> (steps int64 [n], values float64 [n]); NaN where the
      logged number was not finite.
    chance: Error rate of always answering the most frequent class, or None.
    num_valid: Validation examples; 0: not known.
    adaptive: Whether its point was suggested by the results of others, so that
      it is no sample of the space.
    different: Config key -> (value of study.json, value that it trained), where
      they are not the same.
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
  different: Mapping[str, tuple[Any, Any]] = dataclasses.field(
    default_factory=dict
  )

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
    strays: Run directories of trials that study.json does not have.
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
  base = flat(study["config"])
  planned = [base | _as_trained(point, base) for point in points]
  trials, reruns, strays = [], {}, []
  for index, values in enumerate(planned):
    trial = _read_trial(directory.trial(index), index, space, values)
    trials.append(dataclasses.replace(trial, adaptive=index in adaptive))
  for index, run in directory.reruns():
    if index >= len(points):
      strays.append(f"reruns/{index:04d}/{run.path.name}")
      continue
    rerun = _read_rerun(run, trials[index], space, planned[index])
    reruns.setdefault(index, []).append(rerun)
  strays += [
    f"trials/{index:04d}" for index in directory.begun() if index >= len(points)
  ]
  results = Results(
    path=directory.path,
    study=study,
    space=space,
    objective=metric,
    select=select,
    trials=trials,
    reruns=reruns,
    strays=strays,
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
  run.check_metrics()
  return _trial(run, -1, {}, run.config(), run.status(), run.metrics())


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
  """All keys of a nested config; one that is older has the defaults."""
  return config_lib.as_json(config_lib.defaults()) | config_lib.flatten(config)


def _as_trained(point, base):
  """The values of a point as config.json holds them, of their key's type."""
  trained = {}
  for key, value in point.items():
    if key in base:
      kept = tuple(base[key]) if isinstance(base[key], list) else base[key]
      value = config_lib.typed(key, value, {key: kept})
    trained[key] = value
  return config_lib.as_json(trained)


def _read_trial(run, index, space, planned) -> Trial:
  """A run of a study.

  Args:
    run: Its directory.
    index: Of the trial.
    space: Of the study.
    planned: Flat config that study.json gives it.
  """
  keys = {p.key for p in space.parameters}

  def excluded(reason):
    point = space.labelled({key: planned.get(key) for key in keys})
    steps = planned["max_train_steps"]
    return Trial(index, run.path, EXCLUDED, reason, point, 0, 0, steps, {})

  try:
    config, status = run.config(), run.status()
    if config is None:
      if status.get("status", "failed") != "failed" or run.metrics():
        return excluded("what it trained is not known without its config.json")
      point = space.labelled({key: planned.get(key) for key in keys})
      return _trial(run, index, point, {}, status, ())
    trained = flat(config)
    point = space.labelled({key: trained.get(key) for key in keys})
    if wrong := _outside(space, point):
      return excluded(f"it trained {wrong}, which is not of the study's space")
    different = {}
    if trained != planned:
      different = {
        key: (planned.get(key), trained.get(key))
        for key in sorted(planned.keys() | trained.keys())
        if planned.get(key) != trained.get(key)
        and not config_lib.is_resumable(key)
      }
    run.check_metrics()
    trial = _trial(run, index, point, config, status, run.metrics())
    return dataclasses.replace(trial, different=different)
  except rundir.Damaged as error:
    return excluded(str(error))


def _read_rerun(run, trial, space, planned) -> Trial:
  """A rerun, which has to have trained what its trial did but for the seed."""
  trained = {key: value for key, (_, value) in trial.different.items()}
  seed = {"seed": int(run.path.name)}
  rerun = _read_trial(run, trial.index, space, planned | trained | seed)
  if not rerun.different:
    return rerun
  told = _values(rerun.different, f"trial {trial.index}")
  return dataclasses.replace(
    rerun,
    status=EXCLUDED,
    reason=f"it is no rerun of that trial: {told}",
    curves={},
    different={},
  )


def _outside(space, point):
  """The first value of a trial that its space cannot place; "": none."""
  for p in space.parameters:
    if p.label not in point:
      continue
    value = point[p.label]
    if p.kind == "choice":
      fits = value in p.values
    else:  # A number beyond its range still has a place.
      fits = type(value) in (int, float)
    if not fits:
      return f"{p.label}={value!r}"
  return ""


def doubts(results: Results) -> dict[str, Any]:
  """What keeps the results of a study from being those of its study.json.

  Returns:
    Evidence, JSON values, of at most 20 trials each; {}: there is none.
      different: Index -> config key -> [study.json's value, the trained one].
      excluded: Name of a run directory -> why.
      strays: Names of run directories of trials that study.json does not have.
  """
  reruns = [rerun for runs in results.reruns.values() for rerun in runs]
  found = {
    "different": {
      str(trial.index): {k: list(pair) for k, pair in trial.different.items()}
      for trial in results.trials
      if trial.different
    },
    "excluded": {
      _name(trial): trial.reason
      for trial in (*results.trials, *reruns)
      if trial.status == EXCLUDED
    },
    "strays": {name: None for name in results.strays},
  }
  counts = {f"num_{key}": len(rows) for key, rows in found.items() if rows}
  for key, rows in found.items():
    found[key] = dict(list(rows.items())[:_MOST_TOLD])
  found["strays"] = list(found["strays"])
  return counts | {key: rows for key, rows in found.items() if rows}


def in_words(evidence: Mapping[str, Any]) -> list[str]:
  """What `doubts` returned, in sentences."""
  sentences = []
  if rows := evidence.get("different"):
    first, changed = next(iter(rows.items()))
    names = _listed(list(rows), evidence["num_different"])
    values = _values(changed, "study.json")
    sentences.append(
      f"Trial {names} trained other values than study.json has (trial {first}:"
      f" {values}): the study or the folders were changed since. The values"
      " that were trained are used."
    )
  if rows := evidence.get("excluded"):
    first, reason = next(iter(rows.items()))
    names = _listed(list(rows), evidence["num_excluded"])
    sentences.append(f"{names} is left out ({first}: {reason}).")
  if rows := evidence.get("strays"):
    names = _listed(rows, evidence["num_strays"])
    sentences.append(
      f"{names} is there, and study.json has no such trial; it is left out."
    )
  return sentences


def refuse_doubts(results: Results) -> None:
  """Refuses to decide on a study by results that may not be its own.

  Raises:
    jaxplay.UserError: There are `doubts`.
  """
  if sentences := in_words(doubts(results)):
    raise jaxplay.UserError(
      f"the results of {str(results.path)!r} are not those of its study.json:"
      f" {' '.join(sentences).rstrip('.')}; restore the study from a copy, or"
      " start in another workdir"
    )


def _listed(names, number):
  shown = ", ".join(names[:5])
  return shown + (f" and {number - 5} more" if number > 5 else "")


def _values(changed, other):
  """The first differences of a trial in words."""
  told = ", ".join(
    f"{key} is {old!r} in {other}, and {new!r} in its config.json"
    for key, (old, new) in list(changed.items())[:3]
  )
  return told + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _name(trial):
  """The run directory as seen from the study's."""
  parts = trial.path.parts
  return "/".join(parts[-3:] if "reruns" in parts[-3:] else parts[-2:])


def _trial(run, index, point, config, status, lines) -> Trial:
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
    curves=curves(lines),
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
  if sentences := in_words(doubts(results)):
    row["damaged"] = " ".join(sentences)
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
