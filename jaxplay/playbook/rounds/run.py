"""`plan rounds`: from the best of a short study to longer training."""

import json

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.analysis import checklist, refine
from jaxplay.analysis import results as results_lib
from jaxplay.playbook import result as result_lib
from jaxplay.playbook import study_runner
from jaxplay.playbook.rounds import decide
from jaxplay.study import sampling
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib

GOAL = "What of a round of short runs is to be trained for longer, and how?"


def rounds(
  runner: study_runner.StudyRunner,
  first: results_lib.Results,
  *,
  steps: int,
  number: int,
) -> result_lib.ProcedureResult:
  """The config of the next round, or so many rounds, run one after another.

  A round runs the better half of the last round's trials at its length, which
  re-checks that round's conclusions, and as many new points from the narrowed
  space.

  Args:
    runner: Where to run them.
    first: The study of round 1.
    steps: Of the last round.
    number: Rounds to run; 0: only say what the next one is.

  Raises:
    jaxplay.UserError: No trial has a value, or nothing would be longer.
  """
  if not first.ranked:
    raise jaxplay.UserError(
      f"{str(first.path)!r} has no completed trial yet, so there is no best one"
      " to train for longer"
    )
  keys = [p.key for p in first.space.parameters]
  flat = config_lib.flatten(config_lib.from_json(first.study["config"]))
  decay = ["schedule", "hparams.cooldown_fraction"]
  if flat["schedule"] == "linear":
    decay.append("hparams.warmup_steps")  # The decay is what it leaves.
  varied = [key for key in decay if key in keys]
  if varied and number:
    raise jaxplay.UserError(
      f"the study varies config.{varied[0]}, so each trial would become longer"
      " in its own way; fix it, or leave out --rounds"
    )
  findings = decide.transfers(keys)
  results, tables, last = first, [], flat["max_train_steps"]
  history = [(last, first)]
  lengths = decide.lengths(last, steps, number) if number else []
  decide.longer(flat, steps)  # Whether it is longer at all.
  if lengths:
    # Narrowed by what a whole study showed; later rounds have too few trials.
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
    f" ({results.objective} {results.value(best):.4g}) for {steps:,} steps:"
    f" {why}.",
    f"Its config was written to {path}",
  ]
  tables.append(
    result_lib.Table(
      "What is likely to hold",
      ["hyperparameter", "best value", "transfers"],
      [[key, _shown(point.get(key)), decide.transfer(key)] for key in keys],
      "Suspicions of the Playbook, in its decreasing order; none is certain.",
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


def _shown(value):
  return (
    value if isinstance(value, int | float | str | None) else json.dumps(value)
  )


def _better_half(results):
  return results.ranked[: max((len(results.ranked) + 1) // 2, 1)]


def _round(runner, number, first, last, changes, space):
  """Runs a round: the better half of the last, and new points of a space."""
  kept = [last.by_key(trial) for trial in _better_half(last)]
  new = sampling.points(
    space,
    algorithm="halton",
    # That of round 1 is the study's own; each later one draws anew.
    seed=first.study["seed"] + number - 1,
    num=len(kept),
  )
  study = study_lib.Study(
    goal=first.study["goal"],
    config="",  # That of round 1, whatever became of its file.
    space=space_lib.Space.from_json(first.study["space"]),
    algorithm="explicit",
    points=[*kept, *new],
    overrides=changes,
    objective=first.study["objective"],
  )
  config = config_lib.from_json(first.study["config"])
  return runner.study(f"round_{number}", study, config)


def _recheck(shorter, longer, steps):
  """Whether the conclusions of a round hold in the next."""
  if not longer.ranked:
    raise jaxplay.UserError(
      f"no trial of {str(longer.path)!r} completed at {steps[1]:,} steps"
    )
  kept = _better_half(shorter)
  values = [shorter.value(trial) for trial in kept]
  again = [longer.value(trial) for trial in longer.trials[: len(kept)]]
  findings = [decide.ranking(values, again, steps)]
  old, new = shorter.ranked[0], longer.ranked[0]
  for p in shorter.space.parameters:
    pair = (old.point.get(p.label), new.point.get(p.label))
    if p.kind == "choice" or None in pair:
      continue
    units = tuple(p.to_unit(value) for value in pair)
    findings.append(decide.moved(p.label, units, pair))
  return findings
