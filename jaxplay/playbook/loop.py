"""`jaxplay playbook`: the whole loop, unattended, within a budget."""

import ml_collections

import jaxplay
from jaxplay import formats
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

GOAL = "What is the best config that this budget can find?"


def playbook(
  runner: study_runner.StudyRunner,
  config: ml_collections.ConfigDict,
  *,
  budget: budget_lib.Budget,
  num_train: int,
  learning_rates: tuple[float, float],
  seeds: int,
  seed: int,
  write_report: phase.WriteReport,
  measure: measure_lib.Measure | None = None,
  num_devices: int = 1,
) -> result_lib.ProcedureResult:
  """Runs batch size, steps, stability, exploration, exploitation, last round.

  Args:
    runner: Runs the studies.
    config: The base config; the last round has its `max_train_steps`.
    budget: Budget of all trials; `check` has accepted it.
    num_train: Number of examples of the training split.
    learning_rates: Lowest and highest learning rate of the sweeps.
    seeds: Number of seeds of each candidate and of the given config.
    seed: Seed of the studies' points and suggestions.
    write_report: Called with (folder, procedure, result) after each procedure,
      and with (folder, "", None) after each study.
    measure: Measures a batch size, as `playbook.batch_size.measure` does; None:
      the config's batch size is kept.
    num_devices: Number of devices that `measure` trains on.

  Raises:
    jaxplay.UserError: The time budget is too small, or no trial completes.
  """
  loop = phase.PlaybookLoop(runner, config, budget, write_report)
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
    # Another seed, so that the studies have different points.
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
  """Checks that `playbook` can complete.

  Raises:
    jaxplay.UserError: The budget or the number of steps is too small.
  """
  if config.max_train_steps < budget_lib.FEWEST_STEPS:
    raise jaxplay.UserError(
      f"expected config.max_train_steps of at least {budget_lib.FEWEST_STEPS},"
      f" got {config.max_train_steps}; the first trials have a quarter of the"
      " steps"
    )
  rates = study_runner.learning_rates(*learning_rates, budget_lib.per_decade(0))
  least = budget_lib.least(seeds, len(rates))
  if budget.trials < least:
    raise jaxplay.UserError(
      f"--budget of {budget} is smaller than the minimum of the whole loop,"
      f" {least} trials with {formats.count(seeds, 'seed')}; with a smaller"
      " budget, run a single procedure of `jaxplay plan`"
    )
  suggest.check_installed()
