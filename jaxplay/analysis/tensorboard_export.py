"""Exports runs that are there already as TensorBoard event files.

    DIR/0007/events.out.tfevents...   scalars and hyperparameters of trial 7
        jaxplay_export.json           what was exported to this folder

Only files of an earlier export of the same study or run are replaced.
"""

import os
import pathlib

import jaxplay
from jaxplay import rundir, writers
from jaxplay.analysis import results as results_lib

_MARK = "jaxplay_export.json"


def check(source: str | os.PathLike, folder: str | os.PathLike) -> None:
  """Refuses a folder with other files, and a missing library.

  Args:
    source: The study or run directory.
    folder: To be written, whether it exists or not.

  Raises:
    jaxplay.UserError: Nothing can be exported there.
  """
  writers.refuse_missing(["tensorboard"])
  rundir.refuse_links_in(source, folder)
  path = rundir.at(folder)
  if not path.is_dir() or not any(path.iterdir()):
    return
  try:
    mark = rundir.read_json(path / _MARK, dict[str, str])
  except rundir.Damaged:
    mark = None
  if mark is None:
    raise jaxplay.UserError(
      f"the folder {str(folder)!r} has other files; export to an empty or a new"
      " folder"
    )
  if mark.get("source") != _name(source):
    raise jaxplay.UserError(
      f"the folder {str(folder)!r} holds an export of {mark.get('source')!r};"
      " export to another folder"
    )


def export(
  content: results_lib.Results | results_lib.Trial, folder: pathlib.Path
) -> None:
  """Writes a subfolder for a run, or for each trial that has begun.

  The hyperparameters of a trial are those that the study varies, and its
  status; a completed one has its value, as best/OBJECTIVE (or final/OBJECTIVE).
  Those of a run are what its config has of such keys.

  Args:
    content: The study, or the run.
    folder: Checked by `check`.
  """
  rundir.make_folder(folder)
  rundir.write_json(folder / _MARK, {"source": _name(content.path)})
  if isinstance(content, results_lib.Trial):
    run = rundir.RunDir(content.path)
    hparams = writers.hyperparameters(results_lib.flat(run.config() or {}))
    name = rundir.absolute(content.path).name
    _written(content, folder / name, hparams).close(run.status())
    return
  for trial in content.trials:
    if trial.status != "pending":
      _export_trial(content, trial, folder / f"{trial.index:04d}")


def _export_trial(results, trial, folder):
  point = {label: writers.plain(value) for label, value in trial.point.items()}
  file = _written(trial, folder, {**point, "status": trial.status})
  value, step = getattr(trial, results.select)(results.objective)
  if trial.status == "completed" and step >= 0:
    file.write(step, {f"{results.select}/{results.objective}": value})
  status = {"status": trial.status}
  if trial.status != results_lib.EXCLUDED:  # Its files can be read.
    tested = rundir.RunDir(trial.path).status().get("test")
    status |= {"test": tested} if tested else {}
  file.close(status)


def _written(trial, folder, hparams):
  from jaxplay.writers import tensorboard

  file = tensorboard.EventFile(folder, hparams)
  for row in results_lib.step_rows(trial):
    file.write(row.pop("step"), row)
  return file


def _name(source):
  return str(rundir.absolute(rundir.at(source)))
