"""`jaxplay playbook`: the whole loop, unattended, within a budget."""

import ml_collections

import jaxplay
from jaxplay.playbook import budget as budget_lib
from jaxplay.playbook import (
  exploration,
  last_round,
  phase,
  preparation,
  study_runner,
)
from jaxplay.playbook import result as result_lib
from jaxplay.playbook.batch_size import measure as measure_lib
from jaxplay.playbook.batch_size import run as batch_size_run
from jaxplay.study import suggest

GOAL = "Which configuration is the best one that this budget can find?"


def playbook(
  runner: study_runner.StudyRunner,
  config: ml_collections.ConfigDict,
  *,
  budget: budget_lib.Budget,
  num_train: int,
  learning_rates: tuple[float, float],
  seeds: int,
  seed: int,
  keep: phase.Keep,
  measure: measure_lib.Measure | None = None,
  num_devices: int = 1,
) -> result_lib.ProcedureResult:
  """Batch size, steps, stability, exploration, exploitation, the last round.

  Args:
    runner: Where to run it.
    config: The base config, whose `max_train_steps` is what a final run gets.
    budget: Of all that is trained; not refused by `check`.
    num_train: Examples of the training split.
    learning_rates: Lowest and highest of the sweeps.
    seeds: Number, of the candidates and of the given config.
    seed: Of the studies' sequences and suggestions.
    keep: Called with (folder, procedure, result) of each procedure that is part
      of it, and with (folder, "", None) of each study, to write their pages.
    measure: Measures a batch size, as `playbook.batch_size.measure` does; None:
      the config's batch size is kept.
    num_devices: Number of devices that `measure` trains on.

  Raises:
    jaxplay.UserError: A budget of time is too small, or nothing trains.
  """
  loop = phase.Loop(runner, config, budget, keep)
  if measure is not None:
    loop.run(
      "batch_size",
      lambda: preparation.batch_size(
        loop,
        batch_size_run.batch_size(
          runner.within("batch_size"),
          config,
          measure=measure,
          num_devices=num_devices,
          num_train=num_train,
        ),
      ),
    )
  loop.run("steps", lambda: preparation.steps(loop, learning_rates, num_train))
  loop.run(
    "stability", lambda: preparation.stability(loop, learning_rates, seeds)
  )
  loop.run("shares", lambda: preparation.shares(loop, seeds))
  loop.run("explore_1", lambda: exploration.first_study(loop, seed))
  while loop.last.data["next"] is not None:
    number = len(loop.explored()) + 1
    name = f"explore_{number}"
    # Another seed, so that what both spaces share gets other points.
    study_seed = seed + number - 1
    loop.run(name, lambda: exploration.next_study(loop, name, study_seed))  # noqa: B023
  number = 0
  while num := exploration.num_exploited(loop):
    number += 1
    name = f"exploit_{number}"
    loop.run(name, lambda: exploration.exploit(loop, name, num, seed))  # noqa: B023
  loop.run("longer", lambda: last_round.longer(loop))
  loop.run("final", lambda: last_round.final(loop, seeds))
  return last_round.result(loop)


def check(
  config: ml_collections.ConfigDict,
  budget: budget_lib.Budget,
  learning_rates: tuple[float, float],
  seeds: int,
) -> None:
  """Checks that `playbook` can reach its end.

  Raises:
    jaxplay.UserError: The budget or the config is too small for it.
  """
  if config.max_train_steps < budget_lib.FEWEST_STEPS:
    raise jaxplay.UserError(
      f"config.max_train_steps is {config.max_train_steps}; the loop begins"
      f" with trials of a quarter of the steps, and needs"
      f" {budget_lib.FEWEST_STEPS}"
    )
  rates = study_runner.learning_rates(*learning_rates, budget_lib.per_decade(0))
  least = budget_lib.least(seeds, len(rates))
  if budget.trials < least:
    raise jaxplay.UserError(
      f"--budget of {budget} is smaller than the minimum of the whole loop,"
      f" {least} trials with {seeds} seeds; with less, run one procedure of"
      " `jaxplay plan`"
    )
  suggest.check_installed()
