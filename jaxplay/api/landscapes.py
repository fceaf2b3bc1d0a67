"""Weights between checkpoints: the loss on a line, and of their mean."""

import os
from typing import Any, Literal

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir, terminal, usercode
from jaxplay.api import arguments, devices, exports, plans
from jaxplay.playbook import landscape as landscape_lib
from jaxplay.playbook import result as result_lib

_WEIGHTS = ("raw", "ema", "window")
_MOST_POINTS = 401
_LAST = 5  # checkpoints to merge


@arguments.public("landscape")
def landscape(
  run: arguments.Place,
  other: arguments.Place,
  workdir: arguments.Folder | None = None,
  *,
  points: arguments.Count = 21,
  split: Literal["valid", "train"] = "valid",
  weights: arguments.Names | None = None,
) -> result_lib.ProcedureResult:
  """Evaluates the loss on the line between two checkpoints of one model.

  Such as a checkpoint of a base run, RUN:STEP, and the branch that cooled down
  from it (Hägele et al. 2024). Shows whether there is a barrier between them,
  and how much lower the end is. The line goes on beyond both by a quarter.

  Args:
    run: Run, or RUN:STEP; default: its best checkpoint. Its config says what is
      evaluated.
    other: Likewise; also an export, or a .safetensors file.
    workdir: Folder for the report; default: nothing is written.
    points: Number of evaluations from one to the other, both included.
    split: "valid", or "train": as many fixed examples of the training split.
    weights: "raw", "ema" or "window": a name for both, or a name for each;
      default: the weights that the objective of each run ranks.

  Returns:
    Tables, a figure and sentences; `details` has all losses, the barrier and
    the fall.

  Raises:
    jaxplay.UserError: There is no such checkpoint, or they are not of one
      model.

  Examples:
    >>> import jaxplay as jp
    >>> found = jp.landscape("runs/constant:20", "runs/constant:20", points=2)
    >>> found.details["fall"]["value"]
    0.0
  """
  if not 2 <= points <= _MOST_POINTS:
    raise jaxplay.UserError(
      f"{arguments.option('points')} is {points}; it must lie in"
      f" [2, {_MOST_POINTS}]"
    )
  kinds = _kinds(weights, 2)
  devices.start()

  from jaxplay.training import landscape as measured
  from jaxplay.training import weights as weights_lib

  ends = [
    weights_lib.read(source, kind)
    for source, kind in zip((run, other), kinds, strict=True)
  ]
  (first, _), (last, _) = ends
  measured.between(first, last, 0.5)  # Refuses other models, before data.
  evaluated = _evaluated(run, split)
  places = landscape_lib.positions(points)
  names = {"loss": False}
  if evaluated.has_statistics:
    names = {landscape_lib.RECOMPUTED: True, landscape_lib.INTERPOLATED: False}
  series: dict[str, list[landscape_lib.Point]] = {name: [] for name in names}
  with _console() as console:
    for number, place in enumerate(places.tolist(), 1):
      arrays = measured.between(first, last, place)
      for name, recompute in names.items():
        found = evaluated.measure(arrays, recompute=recompute)
        series[name].append(_point(place, found))
      line = {"step": number, "loss": found.loss}
      console.progress(number, len(places), line)
  answer = landscape_lib.line(
    series,
    (
      {"source": os.fspath(run), **_facts(ends[0][1])},
      {"source": os.fspath(other), **_facts(ends[1][1])},
    ),
    evaluated.metric,
    split,
  )
  options = {
    "run": os.fspath(run),
    "other": os.fspath(other),
    "points": points,
    "split": split,
  }
  goal = "Is there a barrier between two checkpoints?"
  return _kept(workdir, "landscape", options, goal, answer)


@arguments.public("merge")
def merge(
  run: arguments.Place,
  workdir: arguments.Folder | None = None,
  *,
  last: arguments.Count | None = None,
  steps: arguments.Counts | None = None,
  split: Literal["valid", "train"] = "valid",
  weights: arguments.Names | None = None,
  safetensors: arguments.Safetensors | None = None,
) -> result_lib.ProcedureResult:
  """Evaluates uniform means of the kept checkpoints of a run.

  A mean of late checkpoints of a constant rate can stand in for a cooldown that
  was not run (Hägele et al. 2024). Unlike config.averages it is taken
  afterwards, from the checkpoints that config.keep_steps kept.

  Args:
    run: Run with at least two checkpoints.
    workdir: Folder for the report; default: nothing is written.
    last: Number of last checkpoints; default: 5, or all.
    steps: Steps of the checkpoints, instead of the last ones.
    split: As in `landscape`.
    weights: "raw", "ema" or "window"; default: the weights that the objective
      ranks.
    safetensors: File for the mean of them all, which `config.init_from` loads.

  Returns:
    The loss of each checkpoint, and of the mean of it and all later ones.

  Raises:
    jaxplay.UserError: There is no such run or checkpoint.

  Examples:
    >>> import jaxplay as jp
    >>> _ = jp.train("runs/constant/config.json", "runs/constant",
    ...              extend_steps=40)
    >>> merged = jp.merge("runs/constant", steps=[20, 40])
    >>> [row["merged"] for row in merged.details["means"]]
    [2]
  """
  if last is not None and steps is not None:
    raise jaxplay.UserError(
      f"{arguments.option('last')} and {arguments.option('steps')} cannot both"
      " be given; leave one out"
    )
  (kind,) = _kinds(weights, 1)
  if safetensors is not None:
    exports.refuse_existing(safetensors)
  devices.start()

  from jaxplay.training import landscape as measured
  from jaxplay.training import weights as weights_lib

  chosen = _chosen(run, weights_lib.steps(rundir.RunDir(run)), last, steps)
  evaluated = _evaluated(run, split)
  models: list[dict[str, Any]] = []  # from the last to the first
  alone, merged = [], []
  with _console() as console:
    for number, step in enumerate(reversed(chosen), 1):
      models.append(weights_lib.read(f"{os.fspath(run)}:{step}", kind)[0])
      found = evaluated.measure(models[-1])
      alone.append((step, _point(1, found)))
      if number > 1:
        mean = measured.mean(models[::-1])
        if evaluated.has_statistics:
          mean = evaluated.recomputed(mean)
        found = evaluated.measure(mean)
        merged.append(_point(number, found))
      console.progress(number, len(chosen), {"step": step, "loss": found.loss})
  answer = landscape_lib.merge(
    alone[::-1],
    merged,
    evaluated.metric,
    split,
    measured.EXAMPLES if evaluated.has_statistics else 0,
  )
  if safetensors is not None and devices.is_first():
    weights_lib.write_safetensors(mean, safetensors)
  options = {"run": os.fspath(run), "steps": chosen, "split": split}
  goal = "Is a mean of checkpoints better than the last one?"
  return _kept(workdir, "merge", options, goal, answer)


def _console():
  return terminal.Console(quiet=not devices.is_first(), names=("loss",))


def _kept(workdir, *content):
  """The answer, which the first host writes if there is a folder."""
  return plans.keep(workdir if devices.is_first() else None, *content)


def _kinds(weights, number):
  """The weights to read of each of `number` checkpoints; "": the ranked."""
  option = arguments.option("weights")
  for name in weights or ():
    if name not in _WEIGHTS:
      raise jaxplay.UserError(
        f"{option} has {name!r}; use one of {', '.join(_WEIGHTS)}"
      )
  if not weights:
    return [""] * number
  if len(weights) not in (1, number):
    raise jaxplay.UserError(
      f"{option} has {len(weights)} names; use at most {number}"
    )
  return list(weights) * (number // len(weights))


def _facts(facts):
  return {name: facts[name] for name in ("step", "weights") if name in facts}


def _evaluated(source, split):
  """What evaluates weights as the run of a source evaluates its own."""
  import jax

  from jaxplay.training import landscape as measured
  from jaxplay.training import resume
  from jaxplay.training import weights as weights_lib

  path, _ = weights_lib.split_step(source)
  run = rundir.RunDir(path)
  nested = run.config()
  if nested is None:
    raise rundir.absent(path, "a run")
  usercode.look_in(path)
  config = config_lib.from_json(nested, path / "config.json")
  config_lib.validate(config, jax.device_count())
  evaluated = measured.Landscape(config, split)
  resume.check_same_data(run, evaluated.dataset)
  return evaluated


def _point(position, found):
  return landscape_lib.Point(
    position, found.loss, found.value, found.costs, found.counts
  )


def _chosen(run, there, last, steps):
  """Steps of the checkpoints to merge, ascending."""
  listed = ", ".join(map(str, there)) or "none"
  if missing := sorted(set(steps or ()) - set(there)):
    raise jaxplay.UserError(
      f"{os.fspath(run)!r} has no checkpoint of step {missing[0]}; it has"
      f" {listed} (config.keep_steps selects the checkpoints to keep)"
    )
  if last is not None and last > len(there):
    raise jaxplay.UserError(
      f"{arguments.option('last')} is {last}, and {os.fspath(run)!r} has the"
      f" checkpoints {listed} (config.keep_steps selects the checkpoints to"
      " keep)"
    )
  chosen = sorted(set(steps)) if steps else there[-(last or _LAST) :]
  if len(chosen) < 2:
    raise jaxplay.UserError(
      f"a mean needs at least two checkpoints, and of {os.fspath(run)!r} it"
      f" would be of {len(chosen)}; it has {listed} (config.keep_steps selects"
      " the checkpoints to keep)"
    )
  return chosen
