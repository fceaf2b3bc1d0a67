"""Exports a study to an Optuna storage, for optuna-dashboard and others."""

import contextlib
import hashlib
import json

import jaxplay
from jaxplay import rundir
from jaxplay.analysis import results as results_lib


def export(
  results: results_lib.Results, url: str
) -> tuple[str, int, list[int]]:
  """Add the ended trials that the storage does not have yet.

  Completed trials become COMPLETE, infeasible ones PRUNED: results without a
  value. Evaluations of the objective become intermediate values. Parameters are
  named by their labels; those without effect in a trial are left out. A value
  beyond the range in study.json widens the range of its trial.

  Args:
    results: The study.
    url: URL of any storage that Optuna supports: SQLite, PostgreSQL, ... Only
      one process may write at a time.

  Returns:
    (name of the study in the storage, number of trials added, indices of trials
    that are left out: Optuna refuses their values, such as 0 on a log scale).

  Raises:
    jaxplay.UserError: Optuna is not installed or cannot write to the storage,
      or the storage has another study of this name.
  """
  try:
    import optuna
  except ImportError:
    raise jaxplay.UserError(
      "exporting to Optuna requires Optuna; pip install 'jaxplay[optuna]'"
    ) from None
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  name = rundir.absolute(results.path).name

  def domains(point):
    return {
      p.label: _distribution(optuna.distributions, p, point[p.label])
      for p in results.space.parameters
      if p.label in point
    }

  try:
    with _storage(optuna.storages, url) as storage:
      study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction=results.metric.either("minimize", "maximize"),
        load_if_exists=True,
      )
      exported = _indices(study, results)
      new, left_out = [], []
      for trial in results.trials:
        if trial.status not in rundir.DONE or trial.index in exported:
          continue
        try:
          new.append(_trial(optuna.trial, results, trial, domains))
        except (ValueError, TypeError):
          left_out.append(trial.index)
      study.add_trials(new)
  except jaxplay.UserError:
    raise
  except Exception as error:  # Any error of the driver for this URL.
    reason = str(error).strip().split("\n")[0]
    if isinstance(error.__cause__, ModuleNotFoundError):
      driver = error.__cause__.name
      reason = f"its driver, the module {driver!r}, is not installed"
    raise jaxplay.UserError(
      f"Optuna cannot write to the storage {url!r}: {reason}"
    ) from None
  return name, len(new), left_out


@contextlib.contextmanager
def _storage(storages, url):
  """Open the storage; close its connections at the end."""
  storage = storages.RDBStorage(url)
  try:
    yield storage
  finally:
    storage.remove_session()
    storage.engine.dispose()


_INDEX, _STUDY = "jaxplay:trial", "jaxplay:study"


def _indices(study, results):
  """Indices of the trials in the storage."""
  # Not by the path, since a study may be moved.
  keys = ("config", "space", "algorithm", "points", "seed", "objective")
  same = {key: results.study[key] for key in keys}
  digest = hashlib.sha256(json.dumps(same, sort_keys=True).encode()).hexdigest()
  trials = study.get_trials(deepcopy=False)
  if not trials:
    study.set_user_attr(_STUDY, digest)
    study.set_user_attr("jaxplay:goal", results.study["goal"])
    study.set_user_attr("jaxplay:objective", results.objective)
  elif study.user_attrs.get(_STUDY) != digest:
    raise jaxplay.UserError(
      f"the storage has another study named {study.study_name!r}; rename the"
      " directory of this study, or use another storage"
    )
  return {trial.user_attrs.get(_INDEX) for trial in trials}


def _trial(trial_lib, results, trial, domains):
  steps, values = trial.curves.get(results.objective, ((), ()))
  value = results.value(trial)
  # Optuna does not accept NaN as a value.
  completed = value == value
  states = trial_lib.TrialState
  return trial_lib.create_trial(
    state=states.COMPLETE if completed else states.PRUNED,
    value=value if completed else None,
    params={label: _plain(value) for label, value in trial.point.items()},
    distributions=domains(trial.point),
    intermediate_values={
      int(step): float(v)
      for step, v in zip(steps, values, strict=True)
      if v == v
    },
    user_attrs={
      _INDEX: trial.index,
      "jaxplay:status": trial.status,
      "jaxplay:run": str(trial.path),
      "jaxplay:adaptive": trial.adaptive,
    },
  )


def _distribution(distributions, parameter, value):
  if parameter.kind == "choice":
    return distributions.CategoricalDistribution(
      [_plain(value) for value in parameter.values]
    )
  kind = {
    "float": distributions.FloatDistribution,
    "int": distributions.IntDistribution,
  }[parameter.kind]
  # Optuna has no log(1 - x) scale; only the axis differs.
  low, high = min(parameter.low, value), max(parameter.high, value)
  return kind(low, high, log=parameter.scale == "log")


def _plain(value):
  return str(value) if isinstance(value, tuple | list) else value
