"""The end of the playbook's loop: full-length trials, seeds, and the result."""

import jaxplay
from jaxplay import config as config_lib
from jaxplay import finding, formats, rundir
from jaxplay.analysis import compare
from jaxplay.analysis import results as results_lib
from jaxplay.playbook import exploration, phase, study_runner
from jaxplay.playbook import result as result_lib
from jaxplay.playbook.rounds import decide as rounds_decide
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib

_RATE = study_runner.LEARNING_RATE
_WARMUP = "hparams.warmup_steps"
_LOWER = 0.5  # factor of the learning rate; longer runs may need a lower one
# Keys that the resulting config takes from the given config.
_LOGGING = (
  *("log_every", "eval_every", "checkpoint_every"),
  *study_runner.CURVES_ONLY,
)


def longer(loop: phase.PlaybookLoop) -> phase.Phase:
  """Runs the best short trials again, for all steps of the config."""
  length = loop.data("length")
  config = loop.config()
  total, num = config.max_train_steps, loop.shares.longer
  trials = _best_of_first_round(loop, length)
  # A learning rate is unlikely to transfer to longer runs, so the better half
  # also runs with a lower learning rate.
  kept = trials[: -(-num // 2)]
  lower = [
    point | {_RATE: formats.rounded(_LOWER * point[_RATE], 4)}
    for _, point in kept[: num - len(kept)]
  ]
  changes, why = _lengthened(loop, length)
  study = study_lib.Study(
    goal="Which of the best short trials is the best at full length?",
    config="",
    algorithm="explicit",
    points=[*(point for _, point in kept), *lower],
    overrides=changes | study_runner.CURVES_ONLY,
  )
  results = loop.runner.study("longer", study, config)
  if not results.ranked:
    raise jaxplay.UserError(
      f"none of the {num} best trials completed at {total:,} steps; see"
      f" {str(results.path)!r}"
    )
  loop.write_report(results.path, "", None)
  again = exploration.costs(results, results.trials[: len(kept)])
  ranking = rounds_decide.ranking([c for c, _ in kept], again, (length, total))
  return phase.Phase(
    "longer",
    [
      f"the {len(kept)} best trials at {total:,} steps, and"
      f" {len(lower)} of them at {_LOWER:g} times their learning rate:"
      f" {exploration.best_in_words(results)}",
      why,
    ],
    findings=phase.rows([ranking]),
    data={
      "candidates": [t.index for t in results.ranked],
      "values": exploration.values(results, results.trials),
    },
    page="longer/report.html",
  )


def _lengthened(loop, length):
  """Returns the changes for a full-length run of a short trial, and the reason.

  They keep the learning rate decay of the short trials.
  """
  flat, short = map(config_lib.flatten, (loop.config(), loop.short(length)))
  if flat["schedule"] == "wsd":
    # The cooldown is a share of the steps, whatever their number.
    return {}, "the cooldown keeps its share of the steps"
  longer, why = rounds_decide.longer(short, flat["max_train_steps"])
  # Only the decay is from the short trials; the rest is from the config.
  changes = {
    key: longer[key]
    for key in ("schedule", "cooldown_shape", "hparams.cooldown_fraction")
    if key in longer
  }
  # The warmup may have been shortened for the short trials.
  return changes | config_lib.with_warmup(
    {**flat, **changes}, flat[_WARMUP]
  ), why


def _best_of_first_round(loop, length):
  """Returns (cost, point) of the trials of that length, the best first."""
  rows = []
  for name in dict.fromkeys(p.data["study"] for p in loop.explored()):
    results = results_lib.read_study(loop.runner.path / name)
    if results.study["config"]["max_train_steps"] == length:
      rows += [(results.cost(t), results.by_key(t)) for t in results.ranked]
  if not rows:
    raise jaxplay.UserError(
      "no trial of the first round completed; see"
      f" {str(loop.runner.path / name / 'report.html')!r}"
    )
  return sorted(rows, key=lambda row: row[0])


def final(loop: phase.PlaybookLoop, seeds: int) -> phase.Phase:
  """Runs the candidates and the given config with other seeds."""
  given = loop.given
  study = study_lib.Study(
    goal="How good is the given config?",
    config="",
    space={_RATE: space_lib.Choice((given.hparams.learning_rate,))},
    algorithm="explicit",
    points=[{_RATE: given.hparams.learning_rate}],
    overrides=study_runner.CURVES_ONLY,
  )
  loop.runner.study("given", study, given)
  baseline = loop.runner.rerun("given", [0], seeds)
  candidates = loop.data("candidates")[: loop.shares.candidates]
  results = loop.runner.rerun("longer", candidates, seeds)
  means = {
    index: float(values.mean())
    for index in candidates
    if len(values := results.values_of(results.reruns[index])) == seeds
  }
  for path in (baseline.path, results.path):
    loop.write_report(path, "", None)
  chosen = min(
    means, key=lambda index: results.metric.cost(means[index]), default=None
  )
  comparison = None
  summary = "every candidate diverged with at least one other seed"
  if chosen is not None and not baseline.ranked:
    summary = "the given config did not complete, so every candidate is better"
  elif chosen is not None:
    trial = loop.runner.path / "longer" / "trials" / f"{chosen:04d}"
    compared = compare.compare(baseline, compare.read(trial))
    comparison, (low, high) = compared.as_json(), compared.interval
    summary = (
      f"{compared.objective} {compared.baseline.mean:.4g} ->"
      f" {compared.candidate.mean:.4g} over"
      f" {formats.count(seeds, 'other seed')} each, an improvement of"
      f" {formats.number(compared.improvement)} (95% confidence interval:"
      f" {formats.interval(low, high)})"
    )
  return phase.Phase(
    "final",
    [summary],
    data={"chosen": chosen, "means": means, "comparison": comparison},
    page="longer/report.html",
  )


def result(loop: phase.PlaybookLoop) -> result_lib.ProcedureResult:
  """Writes best.json, and returns the result of the whole loop."""
  last = loop.last.data
  chosen, comparison = last["chosen"], last["comparison"]
  verdict = "adopt" if comparison is None else comparison["verdict"]
  advice = f"Adopt trial {chosen} of the last round"
  if chosen is None or (comparison and comparison["improvement"] <= 0):
    chosen, advice = None, "Keep the given config"
  elif verdict != "adopt":
    advice = f"Trial {chosen} of the last round may be better"
  settings, config = _resulting_config(loop, chosen)
  path = loop.runner.path / "best.json"
  rundir.write_json(path, config_lib.as_json(config))
  return result_lib.ProcedureResult(
    summary=[
      f"{advice}: {loop.last.summary[0]}.",
      f"Spent {loop.spent():.3g} trials; the budget was {loop.budget}.",
      f"Wrote the config to {path}",
    ],
    settings=settings,
    findings=[
      finding.Finding(**{**row, "subject": f"{p.name}: {row['subject']}"})
      for p in loop.phases
      for row in p.findings
    ],
    tables=[
      _settings_table(config_lib.flatten(loop.given), settings),
      _phases_table(loop),
    ],
    figures=[_figure(loop)],
    details={
      "phases": [p.as_json() for p in loop.phases],
      "comparison": comparison,
      "spent": loop.spent(),
      "config": str(path),
    },
  )


def _resulting_config(loop, chosen):
  """Returns (settings, config) of a trial; None: of the given config."""
  config = loop.given.copy_and_resolve_references()
  if chosen is None:
    return {}, config
  given, decided = (config_lib.flatten(c) for c in (config, loop.config()))
  trial = loop.runner.path / "longer" / "trials" / f"{chosen:04d}"
  run = config_lib.from_json(rundir.RunDir(trial).config())
  # Logging and evaluation intervals are the config's.
  best = {**config_lib.flatten(run)} | {key: decided[key] for key in _LOGGING}
  settings = config_lib.settled(given, best)
  for key, value in settings.items():
    config_lib.override(config, key, value)
  config_lib.validate(config)
  return settings, config


def _phases_table(loop):
  return result_lib.Table(
    "Phases",
    ["phase", "trials spent", "decided", "page"],
    [[p.name, round(p.spent, 1), p.summary[0], p.page] for p in loop.phases],
    "A trial is a run of the config's length; a shorter run counts as its"
    " fraction.",
  )


def _settings_table(given, settings):
  return result_lib.Table(
    "Changes",
    ["key", "old", "new"],
    [[key, given[key], value] for key, value in settings.items()],
  )


def _figure(loop):
  """Plots the objective of every trial against the budget spent."""
  rows, at = [], 0.0
  for row in loop.phases:
    values = row.data.get("values", ())
    rows += [
      dict(x=at + row.spent * i / len(values), y=value, series=row.name)
      for i, value in enumerate(values, 1)
      if value is not None
    ]
    at += row.spent
  metric = config_lib.metric.of_config(loop.given)
  axis = result_lib.objective_axis(metric, loop.given.objective)
  comparison = loop.last.data["comparison"] or {}
  for name, side in (("given", "baseline"), ("chosen", "candidate")):
    if side in comparison:
      mean, std = (comparison[side][key] for key in ("mean", "deviation"))
      low = mean if axis.log and mean <= std else mean - std
      series = f"{name}, other seeds"
      point = dict(x=at, y=mean, low=low, high=mean + std, series=series)
      rows.append(point)
  return result_lib.FigureData(
    "every trial, against the budget spent",
    result_lib.Axis("budget spent, trials"),
    axis,
    points=rows,
    caption="Trials are short until the last round. At the end, the mean and"
    " standard deviation over other seeds.",
  )
