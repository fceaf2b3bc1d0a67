"""The end of a study: its best point over seeds, and the test set, once.

The test set is never used for a choice. So what is to be tested is recorded
before the test set is evaluated, and every result stays recorded.
"""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay import config as config_lib
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


def fixed_steps(
  results: results_lib.Results,
  final: Mapping[str, Any],
  runs: Sequence[rundir.RunDir],
  config: Mapping[str, Any],
) -> dict[str, Any]:
  """Fix the number of steps of a model that no validation split will stop.

  The median of the steps whose checkpoints were the best of the reruns, if the
  learning rate does not depend on the length; of an even number the lower of
  the two in the middle, so that it was evaluated. Else all steps. The number of
  steps is kept and not that of epochs: rate, warmup, decay and regularization
  were tuned for it.

  Args:
    results: The study.
    final: As from `chosen`.
    runs: The reruns, one for each seed of `final`.
    config: Nested config of one of them.

  Returns:
    steps, of_steps (those of a rerun), schedule, best_steps (of each rerun),
    at_steps (mean, std and values of the objective of the reruns at `steps`, if
    all were evaluated there).
  """
  length, schedule = config["max_train_steps"], config["schedule"]
  best = [run.status().get("best") for run in runs]
  best_steps = [line["step"] for line in best if line]
  steps = length
  if schedule in config_lib.CONTINUED and best_steps:
    steps = statistics.median_low(best_steps)
  at_steps = []
  for trial in results.reruns.get(final["trial"], ()):
    if trial.seed in final["seeds"]:
      logged, values = trial.curves.get(results.objective, ((), ()))
      at_steps += [v for s, v in zip(logged, values, strict=True) if s == steps]
  is_whole = len(at_steps) == len(runs) and np.isfinite(at_steps).all()
  return {
    "steps": steps,
    "of_steps": length,
    "schedule": schedule,
    "best_steps": best_steps,
    "at_steps": _over_seeds(at_steps) if is_whole else None,
  }


NOT_MEASURED = (
  "Trained on training and validation examples: it has no validation metric, no"
  " best step chosen afterwards, and no check of overfitting; only the test set"
  " can measure it, once."
)
# What nothing can measure once the validation examples are trained on.
UNMEASURED = (
  "validation metrics of this model",
  "its best step: the number of steps was fixed before",
  "whether it overfits",
  "which seed is best",
  "whether it is better than the model without validation data: choosing"
  " between the two on the test set would make that a validation set",
)


def folded(
  final: Mapping[str, Any],
  length: Mapping[str, Any],
  runs: Sequence[rundir.RunDir],
  *,
  date: str,
  command: str,
) -> dict[str, Any]:
  """Record a final model trained on validation data, before it is tested (E6).

  Args:
    final: As from `tested`, of the model without.
    length: From `fixed_steps`.
    runs: The runs that were trained so, one for each seed of `final`.
    date: Date of the training.
    command: The command that made it.

  Returns:
    `final` with folded: what `fixed_steps` returns, seeds (of the completed
    runs), diverged, examples (train in all, valid of them), unmeasured, date,
    command.

  Raises:
    jaxplay.UserError: All runs diverged.
  """
  completed = _completed(runs)
  if not completed:
    raise jaxplay.UserError(
      f"all {len(runs)} runs on training and validation data diverged, so there"
      " is nothing to test; final.json has the model without"
    )
  of_set = (completed[0].provenance() or {}).get("dataset") or {}
  return dict(final) | {
    "folded": dict(length)
    | {
      "seeds": [int(run.path.name) for run in completed],
      "diverged": len(runs) - len(completed),
      "examples": of_set.get("fold_validation"),
      "unmeasured": list(UNMEASURED),
      "date": date,
      "command": command,
    }
  }


def folded_tested(
  final: Mapping[str, Any], runs: Sequence[rundir.RunDir]
) -> dict[str, Any]:
  """Add the test metrics of the model that was trained on validation data.

  Args:
    final: As from `folded`.
    runs: Its runs, one for each of its seeds, whose status holds test metrics.
  """
  tests = [run.status()["test"] for run in runs]
  test = {
    name: _over_seeds([of_run[name] for of_run in tests])
    for name in tests[0]
    if name.startswith("test/")
  }
  return dict(final) | {"folded": final["folded"] | {"test": test}}


def _completed(runs):
  return [run for run in runs if run.status().get("status") == "completed"]


def _over_seeds(values):
  deviation = float(np.std(values, ddof=1)) if len(values) > 1 else None
  return rundir.plain(
    {"mean": float(np.mean(values)), "std": deviation, "values": values}
  )


def _spread(values, trial):
  """Statistics over seeds; the trial is apart, as it was selected."""
  return _over_seeds(values) | rundir.plain({"trial": trial})


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


def folded_lines(final: Mapping[str, Any]) -> list[str]:
  """Format the model trained on validation data, and what is not measured."""
  of_fold = final["folded"]
  seeds = len(of_fold["seeds"])
  text = [_why_steps(of_fold)]
  if of_fold["at_steps"]:
    row = of_fold["at_steps"]
    text.append(
      f"at that step {final['objective'].split()[-1]} of the reruns was"
      f" {formats.spread(row['mean'], row['std'])}, and as chosen"
      f" {formats.spread(final['valid']['mean'], final['valid']['std'])}"
    )
  for name, row in of_fold["test"].items():
    line = (
      f"{name} {formats.spread(row['mean'], row['std'])} over {seeds} seeds"
    )
    if without := final["test"].get(name):
      spread = formats.spread(without["mean"], without["std"])
      line += f"; without validation data {spread}"
    text.append(line)
  if of_fold["diverged"]:
    text.append(f"{of_fold['diverged']} runs diverged and are left out")
  text.append("not measured any more: " + "; ".join(of_fold["unmeasured"]))
  return text


def _why_steps(of_fold):
  steps, length = of_fold["steps"], of_fold["of_steps"]
  schedule = of_fold["schedule"]
  why = f"all, as the learning rate of schedule {schedule!r} may depend on them"
  if schedule in config_lib.CONTINUED:
    why = "the median best step of its reruns"
    if not of_fold["best_steps"]:
      why = "all steps, as no rerun has a best step"
  examples = of_fold["examples"]
  text = f"{steps} of {length} steps ({why})"
  if examples:
    text += (
      f" on {examples['train']:,} examples, {examples['valid']:,} of them from"
      " validation"
    )
  return text


def folded_entry(study: str, final: Mapping[str, Any]) -> str:
  """As `log_entry`, of the model trained on validation data."""
  of_fold = final["folded"]
  entry = [
    f"## {of_fold['date']}: final {study}, trial {final['trial']}, with"
    " validation data",
    "",
    f"Trained again with seeds {', '.join(map(str, of_fold['seeds']))}, and"
    " evaluated once on the test set, after its last step.",
    "",
    *(f"- {line}" for line in folded_lines(final)),
  ]
  return "\n".join([*entry, "", f"`{of_fold['command']}`", "", ""])


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
