"""Adaptive trials: the next points of a study, by Bayesian optimization.

After exploration, when one good configuration counts more than insight,
"Bayesian optimization tools should be used to automatically find the best
hyperparameter configuration" (Playbook, after exploration concludes). Optuna is
that tool. It gets a fresh study in memory each time, so a suggestion is a
function of the trials and a seed, and there is no state to keep.
"""

import contextlib
import importlib.util
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay.study import space as space_lib

# Number of ended trials below which points are random.
FEWEST = 8
# A space of choices alone may have been tried nearly everywhere.
_ATTEMPTS = 20

History = Sequence[tuple[Mapping[str, Any], float | None]]


def suggest(
  space: space_lib.Space, history: History, *, num: int, seed: int
) -> list[dict[str, Any]]:
  """Returns the next points of a study, to be tried at the same time.

  Optuna sees numbers as units on their scale, and choices without an order.
  A diverged trial has an infinite value and violates a constraint: as a failure
  or NaN it would be ignored, and suggested again. Source: Gelbart et al.,
  Bayesian Optimization with Unknown Constraints (2014).

  Args:
    space: Where the points are to lie.
    history: (point, cost) of trials in this space, see `config.metric`; less is
      better; inf if the trial diverged, None if it has not ended. Crashed
      trials are left out.
    num: Number of points.
    seed: At least 0. The same history and seed give the same points.

  Raises:
    jaxplay.UserError: Optuna is not installed.
  """
  with _quiet_optuna() as optuna:
    # Else each batch would draw the numbers of the one before.
    seeds = np.random.SeedSequence([seed, len(history)])
    seed = int(seeds.generate_state(1)[0])
    study = optuna.create_study(sampler=_sampler(optuna, space, seed))
    for earlier, value in history:
      study.add_trial(_optuna_trial(optuna, space, earlier, value))
    known = [earlier for earlier, _ in history]
    points: list[dict[str, Any]] = []
    for _ in range(num):
      for _ in range(_ATTEMPTS):
        # The trial stays open, so that the next ones keep away from it.
        point = _ask(study.ask(), space)
        if point not in known and point not in points:
          break
      points.append(point)
  return points


def check_installed() -> None:
  """Checks that Optuna is installed, before it is needed.

  Raises:
    jaxplay.UserError: It is not.
  """
  with _quiet_optuna():
    pass


def sampler(space: space_lib.Space) -> str:
  """Returns which of Optuna's samplers `suggest` uses in a space.

  Returns:
    "gp" where torch is installed and no parameter is conditional, else "tpe".
  """
  if importlib.util.find_spec("torch") is None or _is_conditional(space):
    return "tpe"
  return "gp"


def _is_conditional(space):
  return any(p.when for p in space.parameters)


@contextlib.contextmanager
def _quiet_optuna() -> Iterator[Any]:
  try:
    import optuna
  except ImportError:
    raise jaxplay.UserError(
      "suggesting trials needs Optuna; pip install 'jaxplay[optuna]'"
    ) from None
  before = optuna.logging.get_verbosity()
  optuna.logging.set_verbosity(optuna.logging.ERROR)
  try:
    with warnings.catch_warnings():  # Of what is experimental, and of inf.
      warnings.simplefilter("ignore")
      yield optuna
  finally:
    optuna.logging.set_verbosity(before)


def _sampler(optuna, space, seed):
  if sampler(space) == "gp":
    return optuna.samplers.GPSampler(seed=seed, n_startup_trials=FEWEST)
  return optuna.samplers.TPESampler(
    seed=seed,
    n_startup_trials=FEWEST,
    multivariate=True,
    group=_is_conditional(space),
    constant_liar=True,
  )


def _optuna_trial(optuna, space, point, value):
  """Returns a trial for Optuna."""
  active = space.active(point)
  states = optuna.trial.TrialState
  outcome = {"state": states.RUNNING}
  if value is not None:
    outcome = {
      "state": states.COMPLETE,
      "value": value,
      # Above 0 is violated.
      "constraints": {"diverged": 1.0 if math.isinf(value) else -1.0},
    }
  return optuna.trial.create_trial(
    params={p.label: _to_optuna(p, point[p.key]) for p in active},
    distributions={
      p.label: _distribution(optuna.distributions, p) for p in active
    },
    **outcome,
  )


def _ask(trial, space):
  """Returns the point that Optuna suggests, by config key."""
  point = {}
  for p in space.ordered:
    if p.key in point or not p.exists(point):
      continue
    if p.kind == "choice":
      at = trial.suggest_categorical(p.label, range(len(p.values)))
      point[p.key] = p.values[at]
    else:
      point[p.key] = p.from_unit(trial.suggest_float(p.label, 0.0, 1.0))
  # In the order of the space, as every other point of a study.
  return {p.key: point[p.key] for p in space.active(point)}


def _to_optuna(parameter, value):
  if parameter.kind == "choice":
    last = len(parameter.values) - 1
    return round(parameter.to_unit(value) * last)
  return parameter.to_unit(value)


def _distribution(distributions, parameter):
  if parameter.kind == "choice":
    places = range(len(parameter.values))
    return distributions.CategoricalDistribution(places)
  return distributions.FloatDistribution(0.0, 1.0)
