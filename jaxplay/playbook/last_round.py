"""The end of the loop: full-length trials, other seeds, and the result."""

import jaxplay
from jaxplay import config as config_lib
from jaxplay import finding, rundir
from jaxplay.analysis import compare
from jaxplay.analysis import results as results_lib
from jaxplay.playbook import exploration, phase, study_runner
from jaxplay.playbook import result as result_lib
from jaxplay.playbook.rounds import decide as rounds_decide
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib

_RATE = study_runner.LEARNING_RATE
_WARMUP = "hparams.warmup_steps"
_LOWER = 0.5  # times the learning rate; longer runs may need a lower one
# Keys of which the resulting config keeps its own values.
_LOGGING = (
  *("log_every", "eval_every", "checkpoint_every"),
  *study_runner.CURVES_ONLY,
)


def longer(loop: phase.Loop) -> phase.Phase:
  """Runs the best short trials again, with all steps of the config."""
  length = loop.data("length")
  config = loop.config()
  total, num = config.max_train_steps, loop.shares.longer
  trials = _best_of_first_round(loop, length)
  # A learning rate is unlikely to transfer: the better half also runs with a
  # lower one.
  kept = trials[: -(-num // 2)]
  lower = [
    point | {_RATE: float(f"{_LOWER * point[_RATE]:.4g}")}
    for _, point in kept[: num - len(kept)]
  ]
  changes, why = _lengthened(loop, length)
  study = study_lib.Study(
    goal="Which of the best short trials is the best one at full length?",
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
  loop.keep(results.path, "", None)
  again = exploration.values(results, results.trials[: len(kept)])
  ranking = rounds_decide.ranking([v for v, _ in kept], again, (length, total))
  return phase.Phase(
    "longer",
    [
      f"the {len(kept)} best with {total:,} steps, and with"
      f" {_LOWER:g} times the learning rate:"
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
  """(changes that carry the decay of short trials to a full run, why)."""
  flat, short = map(config_lib.flatten, (loop.config(), loop.short(length)))
  if flat["schedule"] == "wsd":
    # The cooldown is a share of the steps, whatever their number.
    return {}, "the cooldown keeps its share"
  longer, why = rounds_decide.longer(short, flat["max_train_steps"])
  # Only the decay is that of the short trials; the rest is the config's.
  changes = {
    key: longer[key]
    for key in ("schedule", "cooldown_shape", "hparams.cooldown_fraction")
    if key in longer
  }
  # A warmup that was cut for the short trials gets its length back.
  return changes | config_lib.with_warmup(
    {**flat, **changes}, flat[_WARMUP]
  ), why


def _best_of_first_round(loop, length):
  """(objective, point) of trials of that length, the best first."""
  rows = []
  for name in dict.fromkeys(p.data["study"] for p in loop.explored()):
    results = results_lib.read_study(loop.runner.path / name)
    if results.study["config"]["max_train_steps"] == length:
      rows += [(results.value(t), results.by_key(t)) for t in results.ranked]
  if not rows:
    raise jaxplay.UserError(
      "no trial of the first round completed; see"
      f" {str(loop.runner.path / name / 'report.html')!r}"
    )
  return sorted(rows, key=lambda row: row[0])


def final(loop: phase.Loop, seeds: int) -> phase.Phase:
  """Compares the candidates with the given config, with other seeds."""
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
    loop.keep(path, "", None)
  chosen = min(means, key=means.__getitem__, default=None)
  comparison, summary = None, "every candidate diverged with some other seed"
  if chosen is not None and not baseline.ranked:
    summary = "the given config has no value, so every candidate is better"
  elif chosen is not None:
    trial = loop.runner.path / "longer" / "trials" / f"{chosen:04d}"
    compared = compare.compare(baseline, compare.read(trial))
    comparison, (low, high) = compared.as_json(), compared.interval
    summary = (
      f"{compared.objective} {compared.baseline.mean:.4g} ->"
      f" {compared.candidate.mean:.4g} over {seeds} other seeds each, better by"
      f" {compared.improvement:.3g} (95%: {low:.3g} to {high:.3g})"
    )
  return phase.Phase(
    "final",
    [summary],
    data={"chosen": chosen, "means": means, "comparison": comparison},
    page="longer/report.html",
  )


def result(loop: phase.Loop) -> result_lib.ProcedureResult:
  """The result of the whole loop; writes best.json."""
  last = loop.last.data
  chosen, comparison = last["chosen"], last["comparison"]
  verdict = "adopt" if comparison is None else comparison["verdict"]
  advice = f"Adopt trial {chosen} of the last round"
  if chosen is None or (comparison and comparison["improvement"] <= 0):
    chosen, advice = None, "Keep the given config"
  elif verdict != "adopt":
    advice = f"Trial {chosen} of the last round may be better, or as good"
  settings, config = _handed_over(loop, chosen)
  path = loop.runner.path / "best.json"
  rundir.write_json(path, config_lib.as_json(config))
  return result_lib.ProcedureResult(
    summary=[
      f"{advice}: {loop.last.summary[0]}.",
      f"{loop.spent():.3g} trials of {loop.budget} were spent.",
      f"The config was written to {path}",
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
    figures=[_figure(loop, loop.given.objective)],
    details={
      "phases": [p.as_json() for p in loop.phases],
      "comparison": comparison,
      "spent": loop.spent(),
      "config": str(path),
    },
  )


def _handed_over(loop, chosen):
  """(settings, config) of a trial of the last round; None: as given."""
  config = loop.given.copy_and_resolve_references()
  if chosen is None:
    return {}, config
  given, decided = (config_lib.flatten(c) for c in (config, loop.config()))
  trial = loop.runner.path / "longer" / "trials" / f"{chosen:04d}"
  run = config_lib.from_json(rundir.RunDir(trial).config())
  # Not how often a run logs and evaluates.
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
    "A trial is a run of the config's own length; shorter ones count their"
    " share.",
  )


def _settings_table(given, settings):
  return result_lib.Table(
    "What changes",
    ["key", "was", "is"],
    [[key, given[key], value] for key, value in settings.items()],
  )


def _figure(loop, objective):
  """Every trial of the studies, against the budget spent."""
  rows, at = [], 0.0
  for row in loop.phases:
    values = row.data.get("values", ())
    rows += [
      dict(x=at + row.spent * i / len(values), y=value, series=row.name)
      for i, value in enumerate(values, 1)
      if value is not None
    ]
    at += row.spent
  comparison = loop.last.data["comparison"] or {}
  for name, side in (("given", "baseline"), ("chosen", "candidate")):
    if side in comparison:
      mean, std = (comparison[side][key] for key in ("mean", "deviation"))
      low = mean - std if mean > std else mean
      series = f"{name}, other seeds"
      point = dict(x=at, y=mean, low=low, high=mean + std, series=series)
      rows.append(point)
  return result_lib.FigureData(
    "every trial, against the budget spent",
    result_lib.Axis("budget spent, trials"),
    result_lib.Axis(objective, log=True, with_zero=True),
    points=rows,
    caption="Each trial with a value, against the budget spent; trials are"
    " short until the last round. At the end, the mean and standard deviation"
    " over other seeds.",
  )
