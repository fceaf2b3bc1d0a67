"""Reads a study directory, or a single run, into arrays.

What a trial trained is in its own config.json: study.json may have been edited
since, folders swapped, or the points drawn by another version of a library.
Trials with damaged files are excluded, and the others read.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.analysis.results import integrity
from jaxplay.analysis.results.data import EXCLUDED, Results, Trial
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib


def read_study(
  path: str | os.PathLike, objective: str | None = None
) -> Results:
  """Read a study directory, finished or not.

  Args:
    path: The study directory.
    objective: A logged metric, or "final:METRIC" to take its last value
      instead of its best; None: the study's own.

  Raises:
    jaxplay.UserError: This is not a study, or no trial logged that metric.
  """
  directory = study_lib.StudyDir(path)
  study = directory.study()
  space = space_lib.Space.from_json(study["space"])
  select, metric = study_lib.parse_objective(objective or study["objective"])
  points, adaptive = directory.points(), set(study_lib.adaptive(study))
  base = flat(study["config"])
  if study["config"].get("declared"):  # Parts have defaults of their own.
    planned = [
      flat(config_lib.as_json(study_lib.planned(study["config"], point)))
      for point in points
    ]
  else:
    planned = [base | _as_trained(point, base) for point in points]
  trials, strays = [], []
  reruns: dict[int, list[Trial]] = {}
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
  # The study's own metric may be logged later, or never if all trials diverge.
  if objective and results.metrics and metric not in results.metrics:
    raise jaxplay.UserError(
      f"unknown objective {metric!r}: no trial logged it; choose one of"
      f" {', '.join(results.metrics)}"
    )
  return results


def read_run(path: str | os.PathLike) -> Trial:
  """Read a single run directory, finished or not.

  Raises:
    jaxplay.UserError: This is not a run directory.
  """
  run = rundir.RunDir(path)
  if run.config() is None:
    raise rundir.absent(path, "a run")
  run.check_metrics()
  return _trial(run, -1, {}, run.config(), run.status(), run.metrics())


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
  """Flatten a nested config; keys that an older one lacks get defaults."""
  values = config_lib.flatten(config)
  return config_lib.as_json(config_lib.own.defaults_of(values)) | values


def _as_trained(point, base):
  """The values of a point in the types of their keys, as in config.json."""
  trained = {}
  for key, value in point.items():
    if key in base:
      kept = tuple(base[key]) if isinstance(base[key], list) else base[key]
      value = config_lib.typed(key, value, {key: kept})
    trained[key] = value
  return config_lib.as_json(trained)


def _read_trial(run, index, space, planned) -> Trial:
  """Read a run of a study.

  Args:
    run: Its directory.
    index: Index of the trial.
    space: Space of the study.
    planned: The trial's flat config by study.json.
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
        return excluded("its config.json is missing, so its values are unknown")
      point = space.labelled({key: planned.get(key) for key in keys})
      return _trial(run, index, point, {}, status, ())
    _declared(run, config)  # Before it is read.
    trained = flat(config)
    point = space.labelled({key: trained.get(key) for key in keys})
    if wrong := _outside(space, point):
      return excluded(f"it trained {wrong}, which is not in the study's space")
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
  """Read a rerun; exclude it unless only its seed differs from its trial."""
  trained = {key: value for key, (_, value) in trial.different.items()}
  seed = {"seed": int(run.path.name)}
  rerun = _read_trial(run, trial.index, space, planned | trained | seed)
  if not rerun.different:
    return rerun
  values = integrity.describe(rerun.different, f"trial {trial.index}")
  return dataclasses.replace(
    rerun,
    status=EXCLUDED,
    reason=f"it is not a rerun of that trial: {values}",
    curves={},
    different={},
  )


def _outside(space, point):
  """The first value of a trial that is not in its space, or ""."""
  for p in space.parameters:
    if p.label not in point:
      continue
    value = point[p.label]
    if p.kind == "choice":
      fits = value in p.values
    else:  # A number beyond its range still has a place on the axis.
      fits = type(value) in (int, float)
    if not fits:
      return f"{p.label}={value!r}"
  return ""


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
    declared=_declared(run, config),
    mean_mse=chance.get("mean_mse"),
    folded=bool((config.get("dataset") or {}).get("fold_validation")),
  )


def _declared(run, config):
  try:
    return config_lib.own.as_rows(config.get("declared") or ())
  except jaxplay.UserError as error:
    raise rundir.Damaged(run.path / "config.json", str(error)) from None


def curves(
  lines: Iterable[Mapping[str, Any]],
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
  """Convert the lines of metrics.jsonl to metric -> (steps, values).

  A null, which stands for a non-finite number, becomes NaN.
  """
  columns: dict[str, tuple[list[int], list[float]]] = {}
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
