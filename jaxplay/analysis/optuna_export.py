"""A study in an Optuna storage, for optuna-dashboard and importances."""

import contextlib
import hashlib
import json

import jaxplay
from jaxplay import rundir
from jaxplay.analysis import results as results_lib


def export(results: results_lib.Results, url: str) -> tuple[str, int]:
  """Adds the trials that ended and that the storage does not hold yet.

  A completed trial is complete there, too; an infeasible one is pruned, which
  is Optuna's word for a trial that is a result but has no value. Values of the
  objective on the way are intermediate values. Parameters are called by their
  labels; one without effect in a trial is not in it.

  Args:
    results: Of the study.
    url: Of any storage that Optuna can write: SQLite, PostgreSQL, ... One
      writer at a time.

  Returns:
    (name of the study in the storage, number of trials added)

  Raises:
    jaxplay.UserError: Optuna is not installed, cannot write to the storage, or
      finds another study of this name there.
  """
  try:
    import optuna
  except ImportError:
    raise jaxplay.UserError(
      "exporting to Optuna needs Optuna; pip install 'jaxplay[optuna]'"
    ) from None
  optuna.logging.set_verbosity(optuna.logging.WARNING)
  name = rundir.absolute(results.path).name
  domains = {
    p.label: _distribution(optuna.distributions, p)
    for p in results.space.parameters
  }
  try:
    with _storage(optuna.storages, url) as storage:
      study = optuna.create_study(
        storage=storage,
        study_name=name,
        direction="minimize",
        load_if_exists=True,
      )
      there = _indices(study, results)
      new = [
        _trial(optuna.trial, results, trial, domains)
        for trial in results.trials
        if trial.status in rundir.DONE and trial.index not in there
      ]
      study.add_trials(new)
  except jaxplay.UserError:
    raise
  except Exception as error:  # Of whichever driver serves the URL.
    reason = str(error).strip().split("\n")[0]
    if isinstance(error.__cause__, ModuleNotFoundError):
      driver = error.__cause__.name
      reason = f"its driver, the module {driver!r}, is not installed"
    raise jaxplay.UserError(
      f"Optuna cannot write to the storage {url!r}: {reason}"
    ) from None
  return name, len(new)


@contextlib.contextmanager
def _storage(storages, url):
  """Whatever the URL names; its connections are closed at the end."""
  storage = storages.RDBStorage(url)
  try:
    yield storage
  finally:
    storage.remove_session()
    storage.engine.dispose()


_INDEX, _STUDY = "jaxplay:trial", "jaxplay:study"


def _indices(study, results):
  """The trials that the storage holds."""
  # What makes trials comparable; not the folder, which may be moved.
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
      f"the storage holds another study that is called {study.study_name!r};"
      " rename the folder of this one, or use another storage"
    )
  return {trial.user_attrs.get(_INDEX) for trial in trials}


def _trial(trial_lib, results, trial, domains):
  steps, values = trial.curves.get(results.objective, ((), ()))
  value = results.value(trial)
  # NaN is no value for Optuna; such a trial is as good as infeasible.
  completed = value == value
  states = trial_lib.TrialState
  return trial_lib.create_trial(
    state=states.COMPLETE if completed else states.PRUNED,
    value=value if completed else None,
    params={label: _plain(value) for label, value in trial.point.items()},
    distributions={label: domains[label] for label in trial.point},
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


def _distribution(distributions, parameter):
  if parameter.kind == "choice":
    return distributions.CategoricalDistribution(
      [_plain(value) for value in parameter.values]
    )
  kind = {
    "float": distributions.FloatDistribution,
    "int": distributions.IntDistribution,
  }[parameter.kind]
  # Optuna has no log(1 - x); the values are right, the axis is linear.
  return kind(parameter.low, parameter.high, log=parameter.scale == "log")


def _plain(value):
  return str(value) if isinstance(value, tuple | list) else value
