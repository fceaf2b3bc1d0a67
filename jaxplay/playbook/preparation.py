"""The loop before its first study: batch size, steps, stability, and shares."""

import dataclasses
from collections.abc import Sequence

import jaxplay
from jaxplay import config as config_lib
from jaxplay import finding
from jaxplay.playbook import budget as budget_lib
from jaxplay.playbook import phase
from jaxplay.playbook import result as result_lib
from jaxplay.playbook.stability import run as stability_run
from jaxplay.playbook.steps import decide as steps_decide
from jaxplay.playbook.steps import run as steps_run

_FIT = "train/error_rate<=0"
_WARMUP = "hparams.warmup_steps"
# Range around the best rate of the sweep: other hyperparameters may move it.
_AROUND = 10.0


def batch_size(
  loop: phase.Loop, result: result_lib.ProcedureResult
) -> phase.Phase:
  """Changes the batch size if another is twice as fast, at equal examples.

  Args:
    loop: The loop.
    result: Of `batch_size.run`.
  """
  loop.keep(loop.runner.path / "batch_size", "batch-size", result)
  old, new = loop.given.batch_size, result.details["batch_size"]
  settings = {}
  if new is None:
    summary = f"batches of {old} are kept; inconclusive: {result.summary[0]}"
  else:
    gain = budget_lib.gain(result.details["speeds"], old, new)
    gained = f"{new} examples give {gain:.2g} times the throughput"
    if new == old:
      gained = "throughput grows up to them, and no further"
    summary = f"batches of {old} are kept: {gained}"
    changes = budget_lib.with_batch_size(config_lib.flatten(loop.given), new)
    steps = changes.get("max_train_steps", loop.given.max_train_steps)
    if gain >= budget_lib.WORTH and steps < budget_lib.FEWEST_STEPS:
      summary += f", but then as many examples take {steps} steps"
    elif gain >= budget_lib.WORTH:
      settings = changes
      summary = f"batches of {new}, and as many examples in all: {gained}"
  return phase.Phase(
    "batch_size",
    [summary],
    settings,
    # Nothing is to be tuned again where nothing changes.
    phase.rows(
      f for f in result.findings if settings or f.check != "retune_after_change"
    ),
    page="batch_size/report.html",
  )


def steps(
  loop: phase.Loop, learning_rates: tuple[float, float], num_train: int
) -> phase.Phase:
  """Decides whether trials of a quarter of the steps are long enough."""
  config = loop.config()
  total, fits, page = config.max_train_steps, None, ""
  findings: Sequence[finding.Finding] = ()
  if config.model.name not in config_lib.TEXT_MODELS:
    result = steps_run.sweep(
      loop.runner.within("steps"),
      config,
      learning_rates=learning_rates,
      max_train_steps=max(1, total // 4),
      target=steps_decide.Target.parse(_FIT),
      num_train=num_train,
      per_decade=budget_lib.per_decade(loop.total()),
    )
    page = "steps/report.html"
    loop.keep(loop.runner.path / "steps", "steps", result)
    fits, findings = result.details["steps"], result.findings
  length, why = budget_lib.first_length(total, fits, loop.total())
  return phase.Phase(
    "steps",
    [f"the first round has {length:,} of {total:,} steps: {why}"],
    findings=phase.rows(findings),
    data={"length": length},
    page=page,
  )


def stability(
  loop: phase.Loop, learning_rates: tuple[float, float], seeds: int
) -> phase.Phase:
  """Finds the best learning rate, and a fix if rates above it are unstable."""
  repair = not budget_lib.is_small(loop.total())
  result = stability_run.stability(
    loop.runner.within("stability"),
    loop.short(loop.data("length")),
    learning_rates=learning_rates,
    seeds=seeds,
    per_decade=budget_lib.per_decade(loop.total()),
    every_step=False,  # Its evaluations are not part of the budget.
    repair=repair,
  )
  loop.keep(loop.runner.path / "stability", "stability", result)
  settings = dict(result.settings)
  if result.details["fix"] == "warmup":
    # The steps that the fix adds to a short run are not for the whole run.
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
  return phase.Phase(
    "stability",
    [
      f"the learning rate is searched from {low:.2g} to {high:.2g}"
      + (f", with {fix} as a fix" if fix not in (None, "none") else ""),
      summary,
    ],
    settings,
    phase.rows(result.findings),
    {"rates": [float(f"{low:.2g}"), float(f"{high:.2g}")]},
    page="stability/report.html",
  )


def shares(loop: phase.Loop, seeds: int) -> phase.Phase:
  """Reserves trials for the end, once it is known how long trials take."""
  reserved = budget_lib.shares(loop.total(), seeds)
  cost = loop.cost(loop.data("length"))
  if not budget_lib.num_explored(loop.left(), reserved.reserve, cost):
    raise jaxplay.UserError(
      f"after the sweeps, {max(loop.left(), 0):.2g} trials of {loop.budget}"
      f" are left; {reserved.reserve} of them are needed for the end, which"
      " leaves no study; use another workdir and a larger --budget, fewer"
      " --seeds, or a config with fewer steps"
    )
  return phase.Phase(
    "shares",
    [
      f"{reserved.reserve} trials are reserved for the end:"
      f" {reserved.longer} of all steps, and {seeds} other seeds of the"
      f" {reserved.candidates} best of them and of the given config"
    ],
    data={"shares": dataclasses.asdict(reserved)},
  )
