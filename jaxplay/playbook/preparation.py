"""The phases before the first study: batch size, steps, stability, shares."""

import dataclasses
from collections.abc import Sequence

import jaxplay
from jaxplay import config as config_lib
from jaxplay import finding, formats
from jaxplay.playbook import budget as budget_lib
from jaxplay.playbook import phase
from jaxplay.playbook import result as result_lib
from jaxplay.playbook.stability import run as stability_run
from jaxplay.playbook.steps import decide as steps_decide
from jaxplay.playbook.steps import run as steps_run

_WARMUP = "hparams.warmup_steps"
# The studies search the best learning rate of the sweep / 10 to * 10, since it
# depends on the other hyperparameters.
_AROUND = 10.0


def batch_size(
  loop: phase.PlaybookLoop, result: result_lib.ProcedureResult
) -> phase.Phase:
  """Changes the batch size if that doubles the throughput.

  The number of examples stays the same.

  Args:
    loop: The loop.
    result: The result of `playbook.batch_size.run`.
  """
  loop.write_report(loop.runner.path / "batch_size", "batch-size", result)
  old, new = loop.given.batch_size, result.details["batch_size"]
  settings = {}
  if new is None:
    summary = f"batch size {old} is kept; inconclusive: {result.summary[0]}"
  else:
    gain = budget_lib.gain(result.details["speeds"], old, new)
    gained = f"batch size {new} has {gain:.2g} times the throughput"
    if new == old:
      gained = "throughput does not grow beyond it"
    summary = f"batch size {old} is kept: {gained}"
    changes = budget_lib.with_batch_size(config_lib.flatten(loop.given), new)
    steps = changes.get("max_train_steps", loop.given.max_train_steps)
    if gain >= budget_lib.WORTH and steps < budget_lib.FEWEST_STEPS:
      summary += f", but would leave only {formats.count(steps, 'step')}"
    elif gain >= budget_lib.WORTH:
      settings = changes
      summary = (
        f"batch size {new}, at the same number of examples: {gain:.2g} times"
        " the throughput"
      )
  return phase.Phase(
    "batch_size",
    [summary],
    settings,
    # Re-tuning is needed only if the batch size changes.
    phase.rows(
      f for f in result.findings if settings or f.check != "retune_after_change"
    ),
    page="batch_size/report.html",
  )


def steps(
  loop: phase.PlaybookLoop, learning_rates: tuple[float, float], num_train: int
) -> phase.Phase:
  """Decides on the number of steps of the first round's trials."""
  config = loop.config()
  total, fits, page = config.max_train_steps, None, ""
  findings: Sequence[finding.Finding] = ()
  is_text = config_lib.is_text(config)
  logs_errors = any(
    name.endswith("/error_rate") for name in config_lib.evaluated(config)
  )
  if logs_errors and not is_text:  # Else there is no set that can be fitted.
    result = steps_run.sweep(
      loop.runner.within("steps"),
      config,
      learning_rates=learning_rates,
      max_train_steps=max(1, total // 4),
      target=steps_decide.Target.parse(steps_decide.FITTED),
      num_train=num_train,
      per_decade=budget_lib.per_decade(loop.total()),
    )
    page = "steps/report.html"
    loop.write_report(loop.runner.path / "steps", "steps", result)
    fits, findings = result.details["steps"], result.findings
  length, why = budget_lib.first_length(total, fits, loop.total())
  return phase.Phase(
    "steps",
    [f"trials of the first round have {length:,} of {total:,} steps: {why}"],
    findings=phase.rows(findings),
    data={"length": length},
    page=page,
  )


def stability(
  loop: phase.PlaybookLoop, learning_rates: tuple[float, float], seeds: int
) -> phase.Phase:
  """Finds the best learning rate, and a fix if higher ones are unstable."""
  repair = not budget_lib.is_small(loop.total())
  result = stability_run.stability(
    loop.runner.within("stability"),
    loop.short(loop.data("length")),
    learning_rates=learning_rates,
    seeds=seeds,
    per_decade=budget_lib.per_decade(loop.total()),
    every_step=False,  # The budget does not count evaluations.
    repair=repair,
  )
  loop.write_report(loop.runner.path / "stability", "stability", result)
  settings = dict(result.settings)
  if result.details["warmup_steps"] is not None:
    # The fix adds steps to a short run, but not to the whole run.
    for key in ("max_train_steps", "hparams.cooldown_fraction", _WARMUP):
      settings.pop(key, None)
    warmup = result.details["warmup_steps"]
    settings |= config_lib.with_warmup(
      config_lib.flatten(loop.config()), warmup
    )
  best = result.details["rate"]
  low = best / _AROUND if best else learning_rates[0] / _AROUND**3
  high = best * _AROUND if best else learning_rates[0]
  fix = result.details["fix"]
  summary = result.summary[0]
  if result.details["worth_fixing"] and not repair:
    summary = f"{summary} The budget is too small to search for a fix."
  with_fix = ""
  if fix not in (None, "none"):
    with_fix = f", with {fix} as a fix of the instability"
  return phase.Phase(
    "stability",
    [
      f"search range of the learning rate: {low:.2g} to {high:.2g}{with_fix}",
      summary,
    ],
    settings,
    phase.rows(result.findings),
    {"rates": [formats.rounded(low, 2), formats.rounded(high, 2)]},
    page="stability/report.html",
  )


def shares(loop: phase.PlaybookLoop, seeds: int) -> phase.Phase:
  """Reserves trials for the end; by now the time of a trial is known."""
  reserved = budget_lib.shares(loop.total(), seeds)
  cost = loop.cost(loop.data("length"))
  if not budget_lib.num_explored(loop.left(), reserved.reserve, cost):
    raise jaxplay.UserError(
      f"after the sweeps, {max(loop.left(), 0):.2g} trials of {loop.budget}"
      f" are left, too few for a study, since the end needs {reserved.reserve};"
      " use another workdir with a larger --budget, fewer --seeds, or a config"
      " with fewer steps"
    )
  return phase.Phase(
    "shares",
    [
      f"{reserved.reserve} trials are reserved for the end:"
      f" {reserved.longer} full-length trials, and"
      f" {formats.count(seeds, 'other seed')} for the {reserved.candidates}"
      " best of them and for the given config"
    ],
    data={"shares": dataclasses.asdict(reserved)},
  )
