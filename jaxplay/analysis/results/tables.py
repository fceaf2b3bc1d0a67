"""Rows of tables of trials, and the command of a rerun."""

import math
import pathlib
from typing import Any

from jaxplay import commands, rundir
from jaxplay.analysis.results.data import Results, Trial


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
