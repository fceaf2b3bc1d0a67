"""`plan rounds`: from the best trials of a short study to longer training."""

import json

import jaxplay
from jaxplay import config as config_lib
from jaxplay import formats, rundir
from jaxplay.analysis import checklist, refine
from jaxplay.analysis import results as results_lib
from jaxplay.playbook import result as result_lib
from jaxplay.playbook import study_runner
from jaxplay.playbook.rounds import decide
from jaxplay.study import sampling
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib

GOAL = "Which trial of a round of short runs to train for longer, and how?"


def rounds(
  runner: study_runner.StudyRunner,
  first: results_lib.Results,
  *,
  steps: int,
  number: int,
) -> result_lib.ProcedureResult:
  """Returns the config of a longer run, after running rounds in between if any.

  A round runs the better half of the last round's trials for more steps, which
  checks that round's conclusions, and as many new points of the narrowed space.

  Args:
    runner: Runs the rounds.
    first: The study of round 1.
    steps: Number of steps of the last round.
    number: Number of rounds to run; 0: only determines the next config.

  Raises:
    jaxplay.UserError: No trial has completed, or `steps` is not larger than the
      steps of round 1.
  """
  if not first.ranked:
    raise jaxplay.UserError(
      f"{str(first.path)!r} has no completed trial; run the study first"
    )
  keys = [p.key for p in first.space.parameters]
  flat = config_lib.flatten(config_lib.from_json(first.study["config"]))
  decay = ["schedule", "hparams.cooldown_fraction"]
  if flat["schedule"] == "linear":
    decay.append("hparams.warmup_steps")  # It determines the decay's length.
  varied = [key for key in decay if key in keys]
  if varied and number:
    raise jaxplay.UserError(
      f"the study varies config.{varied[0]}, so its trials would have different"
      " schedules in the longer round; fix its value, or leave out --rounds"
    )
  findings = decide.transfers(keys)
  results, tables, last = first, [], flat["max_train_steps"]
  history = [(last, first)]
  lengths = decide.lengths(last, steps, number) if number else []
  decide.longer(flat, steps)  # Refuses a number of steps that is not larger.
  if lengths:
    # Narrowed by the first study; later rounds have too few trials for that.
    space, _ = refine.refined(first, checklist.check_study(first))
  for i, length in enumerate(lengths, 2):
    changes, _ = decide.longer(flat, length)
    results = _round(runner, i, first, results, changes, space)
    findings += _recheck(history[-1][1], results, (history[-1][0], length))
    history.append((length, results))
  best = results.ranked[0]
  point = results.by_key(best)
  if number:
    changes, why = decide.longer(flat, steps)
  else:
    changes, why = decide.longer(flat | point, steps)
  settings = config_lib.settled(flat, point | changes)
  config = config_lib.from_json(first.study["config"])
  for key, value in settings.items():
    config_lib.override(config, key, value)
  config_lib.validate(config)
  path = runner.path / "next.json"
  rundir.write_json(path, config_lib.as_json(config))
  summary = [
    f"Train trial {best.index} of {results.path.name}"
    f" ({results.objective} {formats.number(results.value(best))}) for"
    f" {steps:,} steps: {why}.",
    f"Wrote its config to {path}",
  ]
  tables.append(
    result_lib.Table(
      "Transfer to longer runs",
      ["hyperparameter", "best value", "transfers"],
      [[key, _as_entry(point.get(key)), decide.transfer(key)] for key in keys],
      "How likely the best values transfer, by the Playbook.",
    )
  )
  figures = []
  if number:
    tables.insert(
      0,
      result_lib.Table(
        "Rounds",
        ["steps", "trials", f"best {results.objective}", "trial"],
        [
          [n, len(r.trials), r.value(r.ranked[0]), r.ranked[0].index]
          for n, r in history
        ],
      ),
    )
    figures.append(
      result_lib.FigureData(
        "best value of each round",
        result_lib.Axis("steps", log=True),
        result_lib.Axis(results.objective),
        points=[
          dict(x=n, y=r.value(t), series="trial")
          for n, r in history
          for t in r.ranked
        ],
        lines=[
          dict(x=n, y=r.value(r.ranked[0]), series="best") for n, r in history
        ],
      )
    )
  return result_lib.ProcedureResult(
    summary=summary,
    settings=settings,
    findings=findings,
    tables=tables,
    figures=figures,
    details=dict(trial=best.index, study=str(results.path), config=str(path)),
  )


def _as_entry(value):
  """Returns a value as an entry of a table."""
  is_plain = isinstance(value, int | float | str | None)
  return value if is_plain else json.dumps(value)


def _better_half(results):
  return results.ranked[: max((len(results.ranked) + 1) // 2, 1)]


def _round(runner, number, first, last, changes, space):
  """Runs the better half of the last round, and new points of a space."""
  kept = [last.by_key(trial) for trial in _better_half(last)]
  new = sampling.points(
    space,
    algorithm="halton",
    # Round 1 has the study's seed, and each later round another one.
    seed=first.study["seed"] + number - 1,
    num=len(kept),
  )
  study = study_lib.Study(
    goal=first.study["goal"],
    config="",  # From study.json of round 1; its file may have changed.
    space=space_lib.Space.from_json(first.study["space"]),
    algorithm="explicit",
    points=[*kept, *new],
    overrides=changes,
    objective=first.study["objective"],
  )
  config = config_lib.from_json(first.study["config"])
  return runner.study(f"round_{number}", study, config)


def _recheck(shorter, longer, steps):
  """Checks whether the conclusions of a round transfer to the next."""
  if not longer.ranked:
    raise jaxplay.UserError(
      f"no trial of {str(longer.path)!r} completed at {steps[1]:,} steps"
    )
  kept = _better_half(shorter)
  costs = [shorter.cost(trial) for trial in kept]
  again = [longer.cost(trial) for trial in longer.trials[: len(kept)]]
  findings = [decide.ranking(costs, again, steps)]
  old, new = shorter.ranked[0], longer.ranked[0]
  for p in shorter.space.parameters:
    pair = (old.point.get(p.label), new.point.get(p.label))
    if p.kind == "choice" or None in pair:
      continue
    units = tuple(p.to_unit(value) for value in pair)
    findings.append(decide.moved(p.label, units, pair))
  return findings
