"""The end of a study: its best point over seeds, and the test set, once.

The test set is never used for a choice. So what is to be tested is recorded
before the test set is evaluated, and every result stays recorded.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay import formats, rundir
from jaxplay.analysis import compare
from jaxplay.analysis import results as results_lib


def chosen(
  results: results_lib.Results, *, trial: int, date: str, command: str
) -> dict[str, Any]:
  """Record what is to be tested, chosen by validation, for final.json.

  Args:
    results: The study, with reruns of the trial.
    trial: Index of the trial.
    date: Date of the choice.
    command: The command that made it.

  Returns:
    trial, adaptive, point, objective, seeds (of the completed reruns),
    diverged (number of infeasible ones), valid (mean, std, values over the
    seeds, and trial), num_trials (that had ended), commit, files_commit, date,
    command.

  Raises:
    jaxplay.UserError: No rerun was completed.
  """
  best = next(t for t in results.trials if t.index == trial)
  reruns = results.reruns.get(trial, ())
  completed = [t for t in reruns if math.isfinite(results.value(t))]
  if not completed:
    raise jaxplay.UserError(
      f"no rerun of trial {trial} of {str(results.path)!r} was completed, so"
      " there is nothing to test"
    )
  return {
    "trial": trial,
    "adaptive": best.adaptive,
    "point": dict(best.point),
    "objective": f"{results.select} {results.objective}",
    "seeds": [t.seed for t in completed],
    "diverged": sum(t.status == "infeasible" for t in reruns),
    "valid": _spread(
      [results.value(t) for t in completed], results.value(best)
    ),
    "num_trials": num_ended(results),
    "commit": compare.commit(results.path),
    "files_commit": compare.files_commit(results.path),
    "date": date,
    "command": command,
  }


def num_ended(results: results_lib.Results) -> int:
  """Number of trials that ended; if it grows, the study was continued."""
  return sum(trial.status in results_lib.ENDED for trial in results.trials)


def tested(
  final: Mapping[str, Any],
  trial: rundir.RunDir,
  reruns: Sequence[rundir.RunDir],
) -> dict[str, Any]:
  """Add the test metrics.

  Args:
    final: As from `chosen`.
    trial: The chosen run, whose status holds test metrics.
    reruns: Its reruns, one for each seed, likewise.

  Returns:
    `final` with test: metric -> mean, std, values over the seeds, trial.
  """
  own, *others = (run.status()["test"] for run in (trial, *reruns))
  metrics = [name for name in own if name.startswith("test/")]
  return dict(final) | {
    "test": {
      name: _spread([other[name] for other in others], own[name])
      for name in metrics
    }
  }


def _spread(values, trial):
  """Statistics over seeds; the trial is apart, as it was selected."""
  deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return rundir.plain(
    {
      "mean": float(np.mean(values)),
      "std": deviation,
      "values": values,
      "trial": trial,
    }
  )


def lines(final: Mapping[str, Any]) -> list[str]:
  """Format each metric as a line of text."""
  rows = {final["objective"]: final["valid"]} | final["test"]
  seeds, width = len(final["seeds"]), max(map(len, rows)) + 2
  text = [
    f"{name:<{width}}{formats.spread(row['mean'], row['std'])} over {seeds}"
    f" seeds; the trial itself {row['trial']:.4g}"
    for name, row in rows.items()
  ]
  if final["diverged"]:
    text.append(f"{final['diverged']} reruns diverged and are left out")
  return text


def log_entry(study: str, final: Mapping[str, Any]) -> str:
  """Format an entry of a launch log, in Markdown (E4).

  Args:
    study: Its directory.
    final: As from `tested`.
  """
  kind = "adaptive trial" if final["adaptive"] else "trial"
  entry = [
    f"## {final['date']}: final {study}, trial {final['trial']}",
    "",
    f"The best {kind} of {final['num_trials']}, chosen by {final['objective']};"
    f" over seeds {', '.join(map(str, final['seeds']))}, and on the test set at"
    f" the best checkpoint of each. Commit {final['commit']}; of the config and"
    f" study files: {final.get('files_commit', 'unknown')}.",
    "",
    "| | mean over seeds | +- | the trial itself |",
    "|---|---|---|---|",
  ]
  rows = {final["objective"]: final["valid"]} | final["test"]
  for name, row in rows.items():
    deviation = "" if row["std"] is None else f"{row['std']:.2g}"
    entry.append(
      f"| {name} | {row['mean']:.4g} | {deviation} | {row['trial']:.4g} |"
    )
  entry += ["", *(f"- `{k}`: {v!r}" for k, v in final["point"].items())]
  if final["diverged"]:
    entry.append(
      f"- caveat: {final['diverged']} reruns diverged and are left out."
    )
  for earlier in final.get("earlier", ()):
    entry.append(
      f"- caveat: the test set was evaluated before: on {earlier['date']}, with"
      f" trial {earlier['trial']} of"
      f" {earlier['num_trials']}."
    )
  return "\n".join([*entry, "", f"`{final['command']}`", "", ""])
