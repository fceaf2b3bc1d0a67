"""Checkpoints of the trials of a population, which are saved together.

Saving each of many small trials would cost more than training them. So a
population saves all trials in one checkpoint,

    STUDY/populations/NAME/checkpoints/STEP

and RUN/checkpoints.json of each trial holds its index in it. What needs the
checkpoints of one trial, such as a branch, an export, or more steps, unpacks
them: then the run directory is as if the trial had been trained alone.
"""

import pathlib
from typing import Any

import jax
import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.training import checkpoint_files as files


def refer(run: rundir.RunDir, folder: pathlib.Path, place: int) -> None:
  """Writes to the run directory where the checkpoints of a trial are.

  Args:
    run: Of the trial.
    folder: STUDY/populations/NAME/checkpoints.
    place: Index of the trial in the population.
  """
  folder = rundir.absolute(folder)
  run.write_packed(
    {
      "population": folder.parent.name,
      "place": place,
      "study": str(folder.parents[2]),
    }
  )


def unpack(run: rundir.RunDir, like: Any) -> bool:
  """Writes the checkpoints of a trial into its run directory, if needed.

  Called on every host. For a copied run directory it reads them from the
  original study.

  Args:
    run: The run directory.
    like: The state of the trial, as ShapeDtypeStructs.

  Returns:
    Whether it was needed.

  Raises:
    jaxplay.UserError: The folder of the population is missing, damaged, or
      does not match.
  """
  if run.packed() is None:
    return False
  found = states(run, like)
  if jax.process_index() == 0:
    rundir.remove(run.checkpoints)
  files.write(run.checkpoints, found)
  if jax.process_index() == 0:
    run.write_packed(None)
  return True


def states(run: rundir.RunDir, like: Any) -> dict[int, tuple]:
  """The checkpoints of a trial that are with its population's.

  Args:
    run: The run directory; nothing is written there.
    like: The state of the trial, as ShapeDtypeStructs or numpy arrays.

  Returns:
    Step -> what `checkpoint_files.write` takes.

  Raises:
    jaxplay.UserError: As `unpack`.
  """
  where = _where(run)
  run.check_metrics()
  folder, covered = _locate(run, where)
  found: dict[int, tuple] = {}
  for step, (lines, num) in covered.items():
    tree = _read(folder, step, num, like)
    tree = jax.tree.map(lambda leaf: np.asarray(leaf)[where["place"]], tree)
    found |= _of_trial(run, step, lines, tree, step == max(covered))
  return found


def specs(run: rundir.RunDir) -> dict[str, jax.ShapeDtypeStruct]:
  """Name -> ShapeDtypeStruct of the state of a trial; see `states`."""
  folder, covered = _locate(run, _where(run))
  try:
    saved = files.specs(folder, max(covered))
  except files.Damaged as error:
    raise _damaged(folder, max(covered), error) from None
  return {
    name.removeprefix("states/"): jax.ShapeDtypeStruct(
      leaf.shape[1:], leaf.dtype
    )
    for name, leaf in saved.items()
    if name.startswith("states/")
  }


def _where(run):
  where = run.packed()
  assert where is not None
  return where


def _locate(run, where):
  """(folder of checkpoints that contain this run, `_covered`)."""
  path = rundir.absolute(run.path)
  # STUDY/trials/INDEX, STUDY/reruns/INDEX/SEED; or it was copied from there.
  studies = [*path.parents[1:3], rundir.at(where["study"])]
  for study in studies:
    folder = study / "populations" / where["population"] / "checkpoints"
    if folder.is_dir():
      rundir.refuse_links(study, folder)
      if covered := _covered(run, folder, where["place"]):
        return folder, covered
  raise jaxplay.UserError(
    f"the checkpoints of {str(run.path)!r} were saved with those of its"
    f" population, in {str(folder)!r}, which is missing or has changed; restore"
    " it, or train the config in another workdir"
  )


def _covered(run, folder, place):
  """Step -> (lines of the run up to it, number of trials), where they match."""
  lines, covered = run.metrics(), {}
  for step in files.steps(folder):
    try:
      digests = files.lines(folder, step) or []
    except files.Damaged as error:
      raise _damaged(folder, step, error) from None
    if place < len(digests):
      before = lines[: digests[place]["count"]]
      if rundir.Digest(before).as_json() == digests[place]:
        covered[step] = before, len(digests)
  return covered


def _read(folder, step, num, like):
  """The checkpoint of all trials, as numpy arrays."""
  stacked = jax.tree.map(
    # A read-only view, which takes no memory.
    lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), (num, *leaf.shape)),
    like,
  )
  try:
    names = [name.split("/") for name in files.specs(folder, step)]
    kept = len({name[1] for name in names if name[0] == "best"})
    like = {"states": stacked, "best": [stacked] * kept}
    return files.read(folder, step, like)
  except files.Damaged as error:
    raise _damaged(folder, step, error) from None


def _of_trial(run, step, lines, tree, is_newest):
  """The states of one trial in a checkpoint, for `files.write`."""
  objective, made = run.objective(), run.status().get("step", 0)
  metric = config_lib.metric.of_config(run.config() or {})
  states = {}
  if is_newest:
    best = rundir.best_lines(lines, objective, metric.maximized)
    for line, state in zip(best, tree["best"], strict=False):
      states[line["step"]] = state
  if step <= made:  # Else it had diverged.
    states[step] = tree["states"]
  of_step = {line["step"]: line.get(objective) for line in lines}
  return {
    at: (
      state,
      np.nan if of_step.get(at) is None else metric.cost(of_step[at]),
      rundir.Digest(x for x in lines if x["step"] <= at).as_json(),
    )
    for at, state in states.items()
  }


def _damaged(folder, step, error):
  return jaxplay.UserError(
    f"the checkpoint of step {step} in {str(folder)!r} is damaged ({error});"
    " restore it from a copy, or train the config in another workdir"
  )
