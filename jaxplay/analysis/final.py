"""The end of a study: its best point over seeds, and the test set, once.

The test set chooses nothing. So whatever is to be tested is written down before
the test set is looked at, and what was seen stays written down.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay import rundir
from jaxplay.analysis import compare
from jaxplay.analysis import results as results_lib


def chosen(
  results: results_lib.Results, *, trial: int, date: str, command: str
) -> dict[str, Any]:
  """What is to be tested, by validation alone: final.json before the test.

  Args:
    results: The study, whose trial was rerun.
    trial: Its index.
    date: Of the choice.
    command: That made it.

  Returns:
    trial, adaptive, point, objective, seeds (of the reruns that completed),
    diverged (number of others), valid (mean, std, values over the seeds, and
    trial), num_trials (that had ended), commit, files_commit, date, command.

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
  """Number of trials that ended: more of them, and the study went on."""
  return sum(trial.status in results_lib.ENDED for trial in results.trials)


def tested(
  final: Mapping[str, Any],
  trial: rundir.RunDir,
  reruns: Sequence[rundir.RunDir],
) -> dict[str, Any]:
  """Adds what the test set says.

  Args:
    final: As from `chosen`.
    trial: The run that was chosen, whose status holds test metrics.
    reruns: One for each of its seeds, as well.

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
  """The trial itself stands apart: it was selected for its luck."""
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
  """The numbers in sentences, a line each."""
  rows = {final["objective"]: final["valid"]} | final["test"]
  seeds, width = len(final["seeds"]), max(map(len, rows)) + 2
  found = [
    f"{name:<{width}}{row['mean']:.4g}"
    + (f" +- {row['std']:.2g}" if row["std"] is not None else "")
    + f" over {seeds} seeds; the trial itself {row['trial']:.4g}"
    for name, row in rows.items()
  ]
  if final["diverged"]:
    found.append(f"{final['diverged']} reruns diverged and do not count")
  return found


def log_entry(study: str, final: Mapping[str, Any]) -> str:
  """An entry of a log of launches, in Markdown (E4).

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
    f" study files: {final.get('files_commit', 'not known')}.",
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
      f"- caveat: {final['diverged']} reruns diverged and do not count."
    )
  for earlier in final.get("earlier", ()):
    entry.append(
      "- caveat: the test set was looked at before: on"
      f" {earlier['date']}, with trial {earlier['trial']} of"
      f" {earlier['num_trials']}."
    )
  return "\n".join([*entry, "", f"`{final['command']}`", "", ""])
