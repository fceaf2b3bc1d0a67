"""`plan steps`: the initial number of training steps, or the next one."""

import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay.analysis import checklist, refine
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.playbook import result as result_lib
from jaxplay.playbook import study_runner
from jaxplay.playbook.steps import decide

GOAL = "How many steps are enough to fit the training set?"

_LINES = 200  # logged by each trial


def sweep(
  runner: study_runner.StudyRunner,
  config,
  *,
  learning_rates: tuple[float, float],
  max_train_steps: int,
  target: decide.Target,
  num_train: int,
  per_decade: int = 4,
) -> result_lib.ProcedureResult:
  """Runs a sweep of constant learning rates; see `decide.initial`.

  Args:
    runner: Runs the sweep.
    config: The base config.
    learning_rates: Lowest and highest learning rate.
    max_train_steps: Number of steps of each trial.
    target: The target of fitting the training set, of a training metric.
    num_train: Number of examples of the training split.
    per_decade: Number of learning rates for each factor of ten.

  Raises:
    jaxplay.UserError: No trial logs that metric.
  """
  features = ("decay", "warmup", *config_lib.REGULARIZATION)
  off = config_lib.without(config, *features)
  epoch = num_train / config.batch_size
  overrides = {
    **off,
    **config_lib.without(config, "averages"),
    "max_train_steps": max_train_steps,
    "log_every": max(1, min(round(epoch), max_train_steps // _LINES)),
    "eval_every": max_train_steps,
    "checkpoint_every": max(max_train_steps // 4, 1),
    **study_runner.CURVES_ONLY,
  }
  results = runner.sweep(
    "sweep",
    study_runner.learning_rates(*learning_rates, per_decade),
    config,
    goal=GOAL,
    overrides=overrides,
  )
  if results.metrics and target.metric not in results.metrics:
    known = [name for name in results.metrics if name.startswith("train/")]
    raise jaxplay.UserError(
      f"no trial logged {target.metric!r}; expected --fit of {', '.join(known)}"
    )
  ended = [t for t in results.trials if t.status in ("completed", "infeasible")]
  rates = {t.index: t.point[study_runner.LEARNING_RATE] for t in ended}
  sweep_trials = [
    decide.SweepTrial(
      rate=rates[trial.index],
      status=trial.status,
      steps=target.reached(trial.curves, epoch)
      if trial.status == "completed"
      else None,
      best=trial.best(target.metric)[0],
    )
    for trial in ended
  ]
  curves = {
    rates[trial.index]: trial.curves[target.metric]
    for trial in ended
    if target.metric in trial.curves
  }
  flat = config_lib.flatten(config)
  return decide.as_result(
    sweep_trials, curves, target, max_train_steps, off, flat
  )


def from_study(results: results_lib.Results) -> result_lib.ProcedureResult:
  """Returns the next number of steps, from the best steps of a study's trials.

  Raises:
    jaxplay.UserError: No trial has completed.
  """
  if not results.ranked:
    raise jaxplay.UserError(
      f"{str(results.path)!r} has no completed trial; run the study first"
    )
  by_check = {(f.check, f.subject): f for f in checklist.check_study(results)}
  findings = [
    by_check["max_train_steps", "max_train_steps"],
    by_check["compute_bound", results.objective],
    by_check["saturated_early", "all trials"],
  ]
  flat = config_lib.flatten(config_lib.from_json(results.study["config"]))
  old = flat["max_train_steps"]
  steps, reason = refine.next_steps(results.study, findings)
  unknown = [f for f in findings if f.verdict == "unknown"]
  if steps != old:
    summary = [f"Train for {steps:,} steps: {reason}."]
  elif len(unknown) > 1 or findings[0].verdict == "unknown":
    summary = [f"Inconclusive: {unknown[0].advice}"]
  else:
    summary = [f"Keep {old:,} steps: {_best_steps(findings[0])}."]
  bound = findings[1]
  if bound.verdict in ("ok", "warn"):
    count, judged = bound.evidence["compute_bound"], bound.evidence["judged"]
    is_bound = "is" if bound.verdict == "warn" else "is not"
    why = (
      f"{count} of the {judged} best trials still improve at their end and have"
      " not fitted the training set"
    )
    if (gain := bound.evidence.get("gain_of_twice_the_steps")) is not None:
      low, high = bound.evidence["interval"]
      why = (
        f"twice the steps are expected to lower the cost by {gain:.1%} (95%"
        f" interval {low:.1%} to {high:.1%})"
      )
    summary.append(f"The workload {is_bound} compute-bound: {why}.")
  shares = trials_lib.best_steps(results)
  values = [results.value(trial) for trial in results.ranked]
  late = np.mean(shares > 0.75)
  return result_lib.ProcedureResult(
    summary=summary,
    settings=config_lib.with_steps(flat, steps),
    findings=findings,
    figures=[
      result_lib.FigureData(
        "best step of each trial",
        result_lib.Axis("best step, share of all steps"),
        result_lib.objective_axis(
          results.metric, f"{results.select} {results.objective}"
        ),
        points=[
          dict(x=float(x), y=y, series="trial")
          for x, y in zip(shares, values, strict=True)
        ],
        rules={"first tenth": 0.1, "last quarter": 0.75},
        caption=f"{late:.0%} of the trials are best in the last quarter. If all"
        " are best in the first tenth, train for fewer steps; if most are best"
        " in the last quarter, train for more, and re-tune the decay.",
      )
    ],
    details=dict(steps=steps, max_train_steps=old, best_step_shares=shares),
  )


def _best_steps(found):
  early = found.evidence.get("share_best_in_first_tenth")
  late = found.evidence.get("share_best_in_last_quarter")
  if early is None:
    return "no check recommends another number"
  return (
    f"{early:.0%} of the better trials are best in the first tenth of the"
    f" steps, {late:.0%} in the last quarter"
  )
