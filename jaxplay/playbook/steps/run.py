"""`plan steps`: a first number of training steps, or the next one."""

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

_LINES = 200  # of each trial


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
  """A sweep of constant learning rates; see `decide.steps`.

  Args:
    runner: Where to run it.
    config: The base config.
    learning_rates: Lowest and highest.
    max_train_steps: Of each trial.
    target: What counts as fitted: a training metric.
    num_train: Examples of the training split.
    per_decade: Rates for each factor of ten.

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
      f"no trial logged {target.metric!r}; --fit can be of {', '.join(known)}"
    )
  ended = [t for t in results.trials if t.status in ("completed", "infeasible")]
  rates = {t.index: t.point[study_runner.LEARNING_RATE] for t in ended}
  fits = [
    decide.Fit(
      rate=rates[trial.index],
      status=trial.status,
      steps=target.reached(trial.curves, epoch)
      if trial.status == "completed"
      else None,
      least=trial.best(target.metric)[0],
    )
    for trial in ended
  ]
  curves = {
    rates[trial.index]: trial.curves[target.metric]
    for trial in ended
    if target.metric in trial.curves
  }
  flat = config_lib.flatten(config)
  return decide.sweep_answer(fits, curves, target, max_train_steps, off, flat)


def from_study(results: results_lib.Results) -> result_lib.ProcedureResult:
  """The next number of steps, from where the trials of a study were best.

  Raises:
    jaxplay.UserError: No trial has a value yet.
  """
  if not results.ranked:
    raise jaxplay.UserError(
      f"{str(results.path)!r} has no completed trial yet, so there is no best"
      " step to read"
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
    said = [f"Train for {steps:,} steps: {reason}."]
  elif len(unknown) > 1 or findings[0].verdict == "unknown":
    said = [f"Inconclusive: {unknown[0].advice}"]
  else:
    said = [f"{old:,} steps are right: {_where(findings[0])}."]
  bound = findings[1]
  if bound.verdict in ("ok", "warn"):
    count, judged = bound.evidence["compute_bound"], bound.evidence["judged"]
    is_bound = "is" if bound.verdict == "warn" else "is not"
    said.append(
      f"The workload {is_bound} compute-bound ({count} of the {judged} best"
      " trials still improve at their end and have not fitted the training"
      " set)."
    )
  shares = trials_lib.best_steps(results)
  values = [results.value(trial) for trial in results.ranked]
  late = np.mean(shares > 0.75)
  return result_lib.ProcedureResult(
    summary=said,
    settings=config_lib.with_steps(flat, steps),
    findings=findings,
    figures=[
      result_lib.FigureData(
        "best step of each trial",
        result_lib.Axis("best step, share of all steps"),
        result_lib.Axis(
          f"{results.select} {results.objective}", log=True, with_zero=True
        ),
        points=[
          dict(x=float(x), y=y, series="trial")
          for x, y in zip(shares, values, strict=True)
        ],
        rules={"first tenth": 0.1, "last quarter": 0.75},
        caption=f"{late:.0%} of the trials are best in the last quarter."
        " Always in the first tenth: too long. Mostly in the last quarter:"
        " train longer, and re-tune the decay.",
      )
    ],
    details=dict(steps=steps, max_train_steps=old, best_step_shares=shares),
  )


def _where(found):
  early = found.evidence.get("share_best_in_first_tenth")
  late = found.evidence.get("share_best_in_last_quarter")
  if early is None:
    return "nothing says otherwise"
  return (
    f"{early:.0%} of the better trials are best in the first tenth of them,"
    f" {late:.0%} in the last quarter"
  )
