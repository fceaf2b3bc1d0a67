"""What other programs read: event files, tables, Optuna, weights."""

import dataclasses
import pathlib

import jaxplay
from jaxplay import rundir
from jaxplay.analysis import results as results_lib
from jaxplay.api import arguments, devices
from jaxplay.study import study as study_lib


@dataclasses.dataclass(frozen=True)
class Exported:
  """What an export wrote.

  Attributes:
    tensorboard: Folder of the event files.
    csv: The table.
    safetensors: The weights.
    optuna: Name of the study in the storage.
    num_added: Number of trials that the storage did not have.
    left_out: Indices of trials that Optuna cannot represent.
    doubts: Sentences on trials that may not be those of the study.
  """

  tensorboard: pathlib.Path | None = None
  csv: pathlib.Path | None = None
  safetensors: pathlib.Path | None = None
  optuna: str | None = None
  num_added: int = 0
  left_out: tuple[int, ...] = ()
  doubts: tuple[str, ...] = ()


@arguments.public("export")
def export(
  source: arguments.Place,
  *,
  tensorboard: arguments.Folder | None = None,
  csv: arguments.NewFile | None = None,
  optuna: arguments.Storage | None = None,
  safetensors: arguments.Safetensors | None = None,
) -> Exported:
  """Exports a study or a run for other programs.

  Args:
    source: Study or run directory, finished or not.
    tensorboard: Folder for event files: a subfolder per trial, with its scalars
      and hyperparameters. Only an earlier export of the same source is
      replaced.
    csv: New file with a row per trial of a study, or per step of a run.
    optuna: Storage to which trials of a study are added, such as sqlite:///FILE
      or postgresql://...
    safetensors: File for the weights of a run, FILE.safetensors: those of its
      best checkpoint, which `config.init_from` would load. Names are the paths
      of parameters, such as "Dense_0/kernel"; averages of batch statistics
      begin with "batch_stats/".

  Returns:
    Where everything is.

  Raises:
    jaxplay.UserError: There is no study or run, a library is not installed, or
      files of others are in the way.

  Examples:
    >>> import jaxplay as jp
    >>> exported = jp.export("runs/study", csv="runs/trials.csv")
    >>> exported.csv.name
    'trials.csv'
  """
  from jaxplay.analysis import optuna_export, tensorboard_export

  if not any((tensorboard, csv, optuna, safetensors)):
    *most, last = map(
      arguments.option, ("tensorboard", "csv", "optuna", "safetensors")
    )
    raise jaxplay.UserError(
      f"an export requires at least one of {', '.join(most)} and {last}"
    )
  # All is read and checked before anything is written.
  path = rundir.at(source)
  is_run = optuna is None and (path / "config.json").exists()
  is_run |= safetensors is not None  # Only a run has weights.
  read = results_lib.read_run if is_run else results_lib.read_study
  content: results_lib.Trial | results_lib.Results = read(path)
  if tensorboard is not None:
    tensorboard_export.check(path, tensorboard)
  if csv is not None:
    rundir.refuse_links_in(path, csv)
  exported = Exported(
    tensorboard=None if tensorboard is None else rundir.at(tensorboard),
    csv=None if csv is None else rundir.at(csv),
    safetensors=None if safetensors is None else rundir.at(safetensors),
  )
  if safetensors is not None:
    refuse_existing(safetensors)
    devices.start()

    from jaxplay.training import weights

    weights.write_safetensors(weights.read(path)[0], safetensors)
  if isinstance(content, results_lib.Results):
    doubts = results_lib.in_words(results_lib.doubts(content))
    exported = dataclasses.replace(exported, doubts=tuple(doubts))
    if optuna is not None:
      results_lib.refuse_doubts(content)
      name, added, left_out = optuna_export.export(content, optuna)
      exported = dataclasses.replace(
        exported, optuna=name, num_added=added, left_out=tuple(left_out)
      )
  if exported.tensorboard is not None:
    tensorboard_export.export(content, exported.tensorboard)
  if exported.csv is not None:
    if isinstance(content, results_lib.Results):
      rows = results_lib.trial_rows(content)
    else:
      rows = results_lib.step_rows(content)
    rundir.write_text(exported.csv, study_lib.as_csv(rows))
  return exported


def refuse_existing(file: arguments.Safetensors) -> None:
  """Refuses to write over a file."""
  if rundir.at(file).exists():
    raise jaxplay.UserError(
      f"{str(file)!r} exists, and is not overwritten; name a new file"
    )
