"""Rows of tables of trials and of studies, and the command of a rerun."""

import math
import pathlib
from typing import Any

from jaxplay import commands, rundir
from jaxplay import provenance as provenance_lib
from jaxplay.analysis.results import integrity, reading
from jaxplay.analysis.results.data import ENDED, Results, Trial
from jaxplay.study import study as study_lib


def trial_rows(results: Results) -> list[dict[str, Any]]:
  """Make the rows of trials.csv, one for each trial."""
  rows = []
  for trial in results.trials:
    best, best_step = trial.best(results.objective)
    final, _ = trial.final(results.objective)
    rows.append(
      {
        "index": trial.index,
        "status": trial.status,
        "adaptive": trial.adaptive,
        **{p.label: trial.point.get(p.label) for p in results.space.parameters},
        f"best {results.objective}": _or_none(best),
        "best_step": best_step if best_step >= 0 else None,
        f"final {results.objective}": _or_none(final),
        "step": trial.step,
        "reason": trial.reason,
      }
    )
  return rows


def _or_none(value):
  return value if math.isfinite(value) else None


def step_rows(trial: Trial) -> list[dict[str, Any]]:
  """Make the lines of metrics.jsonl again, one for each logged step.

  Returns:
    {"step": updates made, METRIC: its value; None: it was not finite}
  """
  rows: dict[int, dict[str, Any]] = {}
  for name, (steps, values) in trial.curves.items():
    for step, value in zip(steps.tolist(), values.tolist(), strict=True):
      rows.setdefault(step, {"step": step})[name] = _or_none(value)
  return [rows[step] for step in sorted(rows)]


def tracking_row(directory: study_lib.StudyDir) -> dict[str, Any]:
  """Make a study's row in the table of all studies (G8)."""
  results = reading.read_study(directory.path)
  study, provenance = results.study, directory.provenance() or {}
  diff = provenance.get("git_diff")
  done = sum(trial.status in ENDED for trial in results.trials)
  row = {
    "study": str(directory.path),
    "goal": study["goal"],
    "notes": study["notes"],
    "config": study["config_file"],
    "trials": f"{done}/{len(results.trials)}",
    "adaptive": results.num_adaptive or None,
    "objective": f"{results.select} {results.objective}",
    "best": None,
    "best_trial": None,
    "command": commands.line(study["command"]),
    "commit": provenance.get("git_commit"),
    "uncommitted_changes": None if diff is None else bool(diff),
    "changed_files": provenance_lib.is_changed(provenance),
  }
  if results.ranked:
    best = results.ranked[0]
    row |= {"best": results.value(best), "best_trial": best.index}
  if sentences := integrity.in_words(integrity.doubts(results)):
    row["damaged"] = " ".join(sentences)
  return row


def rerun_command(
  results: Results, path: pathlib.Path, trial: int | None
) -> str:
  """The command that trains a trial with other seeds, run like its study.

  Args:
    results: The study.
    path: Its directory.
    trial: Index; None: the best one when the command runs.
  """
  which = "--best" if trial is None else f"--trial={trial}"
  words = results.study.get("command") or ()
  rerun = ["study", "rerun", str(rundir.absolute(path)), which]
  kept = commands.kept(words, commands.RUNNER)
  return commands.line([*commands.program(words), *rerun, *kept])
