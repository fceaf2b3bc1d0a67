"""`plan stability` and `plan clip`: detect an instability, and fix it."""

import dataclasses

import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import formats, rundir
from jaxplay.analysis import results as results_lib
from jaxplay.playbook import result as result_lib
from jaxplay.playbook import study_runner
from jaxplay.playbook.stability import decide
from jaxplay.playbook.stability import figures as figures_lib
from jaxplay.playbook.stability import sharpness as sharpness_lib
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib

_RATE = study_runner.LEARNING_RATE
GOAL = "Is training unstable, is it worth fixing, and which fix is best?"
_WARMUP = "hparams.warmup_steps"
_CHECK_STEPS = 500
_LINES, _EVALUATIONS = 100, 20  # of each trial
# Learning rates of the warmups, relative to the lowest unstable one.
_BASES = (1.0, 3.0, 10.0)
_DIVISORS = (1, 2, 4)  # of the percentile, for lower clipping thresholds


def clip(run: rundir.RunDir) -> result_lib.ProcedureResult:
  """Chooses a clipping threshold from the gradient norms of a run.

  Raises:
    jaxplay.UserError: It logged too few norms, or the path is no run.
  """
  trial = results_lib.read_run(run.path)
  found = figures_lib.run_of(trial, 0.0)
  logged = int(np.isfinite(found.norms).sum())
  if logged < 10:
    raise jaxplay.UserError(
      f"expected at least 10 lines with train/grad_norm in {str(run.path)!r},"
      f" got {logged}; log more often (config.log_every)"
    )
  config = config_lib.from_json(run.config() or {})
  configured = config.hparams.clip_norm if config.clipping else None
  return decide.clip_result(found.steps, found.norms, found.clipped, configured)


def stability(
  runner: study_runner.StudyRunner,
  config,
  *,
  learning_rates: tuple[float, float],
  seeds: int,
  per_decade: int = 4,
  every_step: bool = True,
  repair: bool = True,
  measure: sharpness_lib.Measure | None = None,
) -> result_lib.ProcedureResult:
  """Sweeps the learning rate, and tries warmup and clipping if it is unstable.

  Args:
    runner: Runs the studies.
    config: The base config.
    learning_rates: Lowest and highest learning rate of the sweep.
    seeds: Number of seeds of the best learning rate of each fix.
    per_decade: Number of learning rates for each factor of ten.
    every_step: Whether to check a run with an evaluation at every step; slow if
      the validation set is large.
    repair: Whether to search for a fix of an instability.
    measure: Measures the sharpness along a run; None: it is not measured.

  Raises:
    jaxplay.UserError: The sharpness has no threshold with the optimizer.
  """
  if measure is not None:
    sharpness_lib.limit(config)
  total = config.max_train_steps
  rates = study_runner.learning_rates(*learning_rates, per_decade)
  objective = config.objective
  logged = {
    "log_every": max(1, total // _LINES),
    "eval_every": max(1, total // _EVALUATIONS),
    "checkpoint_every": max(total // 2, 1),
    **study_runner.CURVES_ONLY,
  }
  swept = runner.sweep("sweep", rates, config, goal=GOAL, overrides=logged)
  runs = figures_lib.runs(swept)
  sweep, finding = decide.judge(runs, objective)
  metric = config_lib.metric.of_config(config)
  axis = result_lib.objective_axis(metric, objective)
  findings, figures = [finding], [_sweep_figure(runs, axis, metric, sweep)]
  if sweep.best is not None:
    figures.append(_curves_figure(runs, sweep))
    if every_step:
      found, figure = _every_step(runner, config, sweep.best)
      findings.append(found)
      figures.append(figure)
  measured = []
  if measure is not None:
    measured = _sharpness(runner, config, runs, sweep, measure)
    findings += [sharpness_lib.explain(m) for m in measured if m.kind]
    figures.append(sharpness_lib.figure(measured))
  best, unstable_rate = sweep.best, sweep.unstable_rate
  if (
    not (sweep.worth_fixing and repair) or best is None or unstable_rate is None
  ):
    return _result(config, sweep, findings, figures, runs, measured=measured)
  finding, figure, warmup = _warmup(runner, config, sweep, logged)
  findings.append(finding)
  figures.append(figure)
  above = [rate for rate in rates if rate >= best]
  best_run = next(run for run in runs if run.rate == best)
  none = decide.Fix("none", {}, runs)
  fixes = [_with_seeds(runner, swept, none, seeds)]
  if warmup is not None:
    base, length = warmup
    warm = _prepended(config, length)
    # The learning rate of the warmup may be beyond the sweep.
    warm_rates = sorted({*(r for r in above if r < base), base})
    found = runner.sweep(
      "warmup", warm_rates, config, goal=GOAL, overrides=logged | warm
    )
    fix = decide.Fix("warmup", warm, figures_lib.runs(found), length)
    fixes.append(_with_seeds(runner, found, fix, seeds))
  limit = decide.threshold(best_run.norms)
  for divisor in _DIVISORS:
    clip_norm = formats.rounded(limit / divisor, 2)
    clipping = {"clipping": True, "hparams.clip_norm": clip_norm}
    found = runner.sweep(
      f"clipping_{clip_norm:g}",
      above,
      config,
      goal=GOAL,
      overrides=logged | clipping,
    )
    fix = decide.Fix("clipping", clipping, figures_lib.runs(found))
    at = fix.at(unstable_rate)
    if divisor == _DIVISORS[-1] or (at is not None and not decide.unstable(at)):
      break
  fixes.append(_with_seeds(runner, found, fix, seeds))
  # Together they may do what neither does alone: without a warmup that is
  # enough, the longest one to the lowest unstable learning rate.
  base, length = warmup or (
    unstable_rate,
    decide.warmup_lengths(config.max_train_steps)[-1],
  )
  settings = _prepended(config, length) | clipping
  found = runner.sweep(
    "warmup_and_clipping",
    sorted({*(r for r in above if r < base), base}),
    config,
    goal=GOAL,
    overrides=logged | settings,
  )
  fix = decide.Fix(
    "warmup and clipping", settings, figures_lib.runs(found), length
  )
  both = _with_seeds(runner, found, fix, seeds)
  findings.append(decide.together(fixes[1:], both, unstable_rate))
  fixes.append(both)
  share = None if at is None else at.clipped
  findings.append(decide.clipping_share(share, clip_norm))
  chosen, finding = decide.decide(fixes, unstable_rate)
  findings.append(finding)
  figures += [
    _fixes_figure(fixes, axis),
    _before_after(fixes, unstable_rate),
    decide.norms_figure(
      best_run.norms, {f"{decide.PERCENTILE:.0f}th percentile": limit}
    ),
  ]
  return _result(
    config, sweep, findings, figures, runs, fixes, chosen, measured
  )


def _prepended(config, length):
  """Returns changes that prepend a warmup, and keep the cooldown's length."""
  total = config.max_train_steps
  changes = {_WARMUP: length, "max_train_steps": total + length}
  if config.schedule == "wsd":
    fraction = config.hparams.cooldown_fraction
    cooldown = config_lib.cooldown_steps(total, fraction)
    changes["hparams.cooldown_fraction"] = cooldown / (total + length)
  return changes


def _with_seeds(runner, results, fix, seeds):
  """Runs the best learning rate of a fix with other seeds."""
  if fix.best is None:
    return fix
  index = results.ranked[0].index
  results = runner.rerun(results.path.name, [index], seeds)
  values = results.values_of(results.reruns[index])
  return dataclasses.replace(fix, values=values)


def _sharpness(runner, config, runs, sweep, measure):
  """Measures the best learning rate, and the next one that is unstable."""
  above = [run.rate for run in runs if run.rate > (sweep.best or 0.0)]
  other = sweep.unstable_rate or (above[0] if above else None)
  measured = []
  for run in runs:
    if run.rate not in (sweep.best, other):
      continue
    kind, name = sweep.kinds[run.rate], f"sharpness_{run.rate:g}"
    at_rate = config.copy_and_resolve_references()
    config_lib.override(at_rate, _RATE, run.rate)
    if not runner.measured(name, list[sharpness_lib.Row]):
      at = sharpness_lib.steps(run, kind, config.max_train_steps)
      runner.log(f"{name}: {formats.count(len(at), 'step')} of one run")
      runner.measure(name, lambda c=at_rate, at=at: measure(c, at))
    rows = runner.measured(name, list[sharpness_lib.Row])[0]
    measured.append(
      sharpness_lib.Measured(
        f"rate {run.rate:g}", run, kind, rows, sharpness_lib.limit(at_rate)
      )
    )
  return measured


def _every_step(runner, config, best):
  """Checks about 500 steps at twice the best learning rate."""
  steps = min(_CHECK_STEPS, config.max_train_steps)
  results = runner.sweep(
    "every_step",
    [2 * best],
    config,
    goal="Is there early instability between evaluations?",
    overrides={
      # The beginning of a full run.
      **config_lib.without(config, "decay"),
      "max_train_steps": steps,
      "log_every": 1,
      "eval_every": 1,
      "checkpoint_every": steps,
      **study_runner.CURVES_ONLY,
      _WARMUP: min(config.hparams.warmup_steps, steps),
    },
  )
  trial = results.trials[0]
  at, loss = trial.curves.get("valid/loss", (np.zeros(0), np.zeros(0)))
  run = decide.Run(2 * best, trial.status, at, loss, np.zeros(0))
  rows = [
    dict(
      x=int(x), y=float(y), series=f"every {n} steps" if n > 1 else "every step"
    )
    for n in (1, config.eval_every)
    for x, y in zip(at, loss, strict=True)
    if x % n == 0
  ]
  figure = result_lib.FigureData(
    "validation loss at every step",
    result_lib.Axis("step", log=True),
    result_lib.Axis("valid/loss, nats"),
    lines=rows,
    caption=f"The first {formats.count(steps, 'step')} at {2 * best:g}, twice"
    " the best learning rate, evaluated at every step and as in the config"
    " (Playbook, Figure 5).",
  )
  return decide.every_step(run, config.eval_every), figure


def _warmup(runner, config, sweep, logged):
  """Returns finding, figure, and (learning rate, warmup_steps) or None."""
  lengths = decide.warmup_lengths(config.max_train_steps)
  bases = [formats.rounded(f * sweep.unstable_rate, 3) for f in _BASES]
  longest = 3 * lengths[-1]
  points = [
    {_RATE: base, _WARMUP: length} for base in bases for length in lengths
  ]
  study = study_lib.Study(
    goal="What is the shortest warmup for a higher learning rate?",
    config="",
    space={
      _RATE: space_lib.Float(bases[0], bases[-1], scale="log"),
      _WARMUP: space_lib.Int(min(lengths), max(lengths) + 1, scale="log"),
    },
    algorithm="explicit",
    points=points,
    overrides={
      **logged,
      **config_lib.without(config, "decay", "warmup"),
      "max_train_steps": longest,
      "log_every": 1,
      "eval_every": longest,
      "checkpoint_every": longest,
    },
  )
  results = runner.study("warmup_ladder", study, config)
  runs = [
    (trial.point[_WARMUP], figures_lib.run_of(trial, trial.point[_RATE]))
    for trial in results.trials
    if trial.status in ("completed", "infeasible")
  ]
  warmup, finding = decide.warmup(
    runs, sweep.unstable_rate, config.max_train_steps
  )
  shown = warmup[0] if warmup else bases[0]
  figure = result_lib.FigureData(
    f"training loss with a warmup to learning rate {shown:g}",
    result_lib.Axis("step", log=True),
    result_lib.Axis("train/loss, nats"),
    lines=[
      dict(x=int(x), y=float(y), series=f"{length} steps of warmup")
      for length, run in runs
      if run.rate == shown
      for x, y in zip(run.steps, run.loss, strict=True)
    ],
    caption="A warmup from 0, then a constant learning rate; each run has to be"
    " stable for three times its warmup (Playbook, Figures 6 and 8).",
  )
  return finding, figure, warmup


# Figures and the result.


def _sweep_figure(runs, axis, metric, sweep):
  costs = [run.cost for run in runs if np.isfinite(run.value)]
  worst = metric.value(max(costs, default=1.0))
  return result_lib.FigureData(
    "best value against the learning rate",
    result_lib.Axis("learning rate", log=True),
    axis,
    points=[
      dict(
        x=run.rate,
        y=run.value if np.isfinite(run.value) else worst,
        series=sweep.kinds[run.rate] or "stable",
      )
      for run in runs
    ],
    rules={} if sweep.best is None else {"best": sweep.best},
    caption="An instability is worth fixing if the lowest unstable learning"
    " rate is just above the best one (Playbook, Figure 7a). Diverged runs have"
    f" no value, and are drawn at the {metric.either('top', 'bottom')}.",
  )


def _curves_figure(runs, sweep):
  shown = [run for run in runs if run.rate >= sweep.best][:4]
  return figures_lib.losses(
    "training loss at and above the best learning rate",
    {f"{run.rate:g}": run for run in shown},
    caption="Training is unstable if the loss rises for a period (Playbook,"
    " Figures 4 and 7b).",
  )


def _fixes_figure(fixes, axis):
  return figures_lib.sweeps(
    "best value against the learning rate, with each fix",
    {_named(fix): fix.runs for fix in fixes},
    axis,
    caption="Each fix has its own sweep of the learning rate. Diverged runs are"
    " not shown.",
  )


def _named(fix):
  parts = []
  if _WARMUP in fix.settings:
    parts.append(f"warmup of {fix.extra_steps} steps")
  if "hparams.clip_norm" in fix.settings:
    parts.append(f"clipping at {fix.settings['hparams.clip_norm']:g}")
  return " and ".join(parts) or "without a fix"


def _before_after(fixes, rate):
  return figures_lib.losses(
    f"training loss with and without fixes, learning rate {rate:g}",
    {_named(fix): run for fix in fixes for run in fix.runs if run.rate == rate},
    caption="The lowest unstable learning rate, with and without the fixes"
    " (Playbook, Figures 8 and 9).",
  )


def _result(
  config,
  sweep,
  findings,
  figures,
  runs,
  fixes=(),
  chosen=None,
  measured=(),
):
  flat = config_lib.flatten(config)
  summary, settings = [findings[0].advice], {}
  if sweep.worth_fixing is False:
    summary = [
      "There is no instability to fix: training is stable at the learning rates"
      f" just above the best one, {sweep.best:g}."
    ]
  if sweep.best is not None and sweep.worth_fixing is not None:
    settings = {_RATE: sweep.best}
  if chosen is not None:
    settings = {_RATE: chosen.best.rate} | chosen.settings
    summary.insert(0, _fix_in_words(config, findings, fixes[0], chosen))
    both = next(f for f in findings if f.check == "warmup_and_clipping")
    summary.append(
      both.advice
      or "Warmup and clipping together are no better than one of them."
    )
  tables = [
    result_lib.Table(
      "Sweep of the learning rate",
      ["learning rate", config.objective, "training"],
      [[r.rate, r.value, sweep.kinds[r.rate] or "stable"] for r in runs],
    )
  ]
  if measured:
    tables.append(sharpness_lib.table(measured))
  if fixes:
    tables.insert(
      0,
      result_lib.Table(
        "Fixes",
        [
          *("fix", "best learning rate", config.objective, "+-"),
          *("extra steps", "clipped"),
        ],
        [
          [
            _named(fix),
            fix.best and fix.best.rate,
            fix.mean,
            fix.deviation,
            fix.extra_steps,
            fix.best and f"{fix.best.clipped:.0%}",
          ]
          for fix in fixes
        ],
        "Mean and standard deviation over"
        f" {formats.count(len(fixes[0].values), 'other seed')} at the best"
        " learning rate.",
      ),
    )
    tables.append(_other_fixes(flat))
  return result_lib.ProcedureResult(
    summary=summary,
    settings={k: v for k, v in settings.items() if flat[k] != v},
    findings=findings,
    tables=tables,
    figures=figures,
    details=dict(
      best_rate=sweep.best,
      rate=chosen.best.rate if chosen else sweep.best,
      unstable_rate=sweep.unstable_rate,
      worth_fixing=sweep.worth_fixing,
      fix=chosen and chosen.name,
      warmup_steps=chosen and chosen.settings.get(_WARMUP),
    ),
  )


def _fix_in_words(config, findings, none, chosen):
  """Returns a sentence on the chosen fix."""
  if chosen.name == "none":
    return next(f for f in findings if f.check == "fix_of_instability").advice
  seeds = formats.count(len(chosen.values), "other seed")
  verb = "fix" if " and " in chosen.name else "fixes"
  return (
    f"{_named(chosen).capitalize()} {verb} the instability, with"
    f" {formats.count(chosen.extra_steps, 'extra step')}: the best learning"
    f" rate changes from {none.best.rate:g} to {chosen.best.rate:g}, and"
    f" {config.objective} from {formats.spread(none.mean, none.deviation)} to"
    f" {formats.spread(chosen.mean, chosen.deviation)} ({seeds} each)."
  )


def _other_fixes(flat):
  """Returns a table of the fixes that were not tried."""
  rows = []
  if flat["model.norm"] == "none":
    rows.append(['config.model.norm = "batch"', "normalization"])
  elif (
    flat["model.norm_position"] == "pre"
    and flat["model.name"] in config_lib.KEYS["model.norm_position"].used_by[1]
  ):
    rows.append(
      [
        'config.model.norm_position = "post_branch"',
        "x + norm(f(x)), each residual branch ends with a norm",
      ]
    )
  if flat["model.name"] != "mlp" and not flat["model.zero_init_residual"]:
    rows.append(
      [
        "config.model.zero_init_residual = True",
        "residual branches initialized to 0",
      ]
    )
  if flat["optimizer"] in ("sgd", "momentum", "nesterov", "rmsprop"):
    rows.append(
      [
        'config.optimizer = "adam"',
        "another optimizer, with its own learning rate",
      ]
    )
  rows.append(
    ["config.hparams.learning_rate = ...", "a lower one, as the last resort"]
  )
  return result_lib.Table(
    "Other fixes", ["line of the config", "effect"], rows, "Not tried."
  )
