"""The page of a study, or of a single run."""

import dataclasses
import math
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxplay import commands, finding, rundir
from jaxplay.analysis import (
  compare,
  expected,
  importance,
  plot_rows,
  plots_study,
  summary,
)
from jaxplay.analysis import final as final_lib
from jaxplay.analysis import results as results_lib
from jaxplay.report import page
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib

# Points of all curves in a page, about seven bytes each, and of one curve:
# trials that are drawn first get many, the others share the rest. A thinned
# curve keeps its peaks, or a spike would be lost.
_CURVE_POINTS = 400_000
_MOST_POINTS, _FEWEST_POINTS = 400, 8
_DETAILED = 25


def write(
  results: results_lib.Results,
  findings: Sequence[finding.Finding],
  *,
  path: str | os.PathLike,
  next_study: str | None = None,
  live: bool = False,
) -> None:
  """Write the page of a study, finished or not.

  Args:
    results: The study.
    findings: Its checks, under the objective of `results`.
    path: The HTML file; replaced atomically.
    next_study: Text of the file of the next study.
    live: Whether the page reloads itself every 15 seconds.
  """
  study = results.study
  provenance = rundir.RunDir(results.path).provenance() or {}
  facts = {
    "study": str(results.path),
    "command": page.command(study.get("command")),
    "base config": study.get("config_file"),
    "overrides": study.get("overrides"),
    "number of trials": study.get("num_trials"),
    "algorithm": study.get("algorithm"),
    "seed of the search": study.get("seed"),
    "adaptive trials": _batches(study),
    "space": "\n".join(
      f"{p.label}: {domain(p)} ({p.role})" for p in results.space.parameters
    ),
  }
  # Devices and versions are those of the machines that trained.
  ran = results.ranked or [t for t in results.trials if t.status != "pending"]
  if ran:
    provenance = (rundir.RunDir(ran[0].path).provenance() or {}) | provenance
  data = _payload(results, findings) | {
    "kind": "study",
    "title": f"Study {results.path.name}",
    "goal": study.get("goal", ""),
    "notes": _notes(results),
    "live": live,
    "next_study": next_study,
    "provenance": page.provenance_rows(facts, provenance),
  }
  page.write(data, path)


def write_run(
  trial: results_lib.Trial,
  findings: Sequence[finding.Finding],
  *,
  path: str | os.PathLike,
  objective: str = "",
  live: bool = False,
) -> None:
  """Write the page of a single run, finished or not.

  Args:
    trial: The run.
    findings: Its checks.
    path: The HTML file; replaced atomically.
    objective: Logged metric; empty: the one of the run's config.
    live: Whether the page reloads itself every 15 seconds.
  """
  results = _as_study(trial, objective)
  provenance = rundir.RunDir(trial.path).provenance() or {}
  facts = {
    "run": str(trial.path),
    "status": f"{trial.status} at step {trial.step}",
    "reason": trial.reason,
    "command": page.command(provenance.get("command")),
    "seed": trial.seed,
  }
  data = _payload(results, findings) | {
    "kind": "run",
    "title": f"Run {trial.path.name}",
    "goal": "",
    "notes": final_lib.NOT_MEASURED if trial.folded else "",
    "live": live,
    "next_study": None,
    "provenance": page.provenance_rows(facts, provenance),
  }
  page.write(data, path)


def as_json(
  results: results_lib.Results, findings: Sequence[finding.Finding]
) -> dict[str, Any]:
  """The best trial, comparisons and findings, as JSON values."""
  counts: dict[str, int] = {}
  for trial in results.trials:
    counts[trial.status] = counts.get(trial.status, 0) + 1
  best = None
  if results.ranked:
    trial = results.ranked[0]
    best = {
      "trial": trial.index,
      "value": results.value(trial),
      "expected": dataclasses.asdict(expected.of_best(results)),
      "step": getattr(trial, results.select)(results.objective)[1],
      "point": dict(trial.point),
      "seed": trial.seed,
      "adaptive": trial.adaptive,
      "path": str(trial.path),
    }
  return rundir.plain(
    {
      "study": str(results.path),
      "goal": results.study.get("goal", ""),
      "objective": results.objective,
      "select": results.select,
      "trials": counts,
      "adaptive": [t.index for t in results.trials if t.adaptive],
      "best": best,
      "comparisons": _comparisons(results),
      "importances": [row.as_json() for row in importance.importances(results)],
      "findings": [f.as_json() for f in findings],
    }
  )


def _notes(results):
  """Paragraphs: of the study file, and on a model with validation data."""
  final = study_lib.StudyDir(results.path).final() or {}
  notes = [results.study.get("notes", "")]
  if "test" in final.get("folded", {}):
    notes.append("Final model, trained on validation data as well:")
    notes += [f"- {line}" for line in final_lib.folded_lines(final)]
  return "\n".join(filter(None, notes))


def _as_study(trial, objective):
  """A run as a study of one trial with an empty space."""
  config = rundir.RunDir(trial.path).config() or {}
  metrics = [name for name in trial.curves if name.startswith("valid/")]
  fallback = metrics[0] if metrics else next(iter(trial.curves), "valid/loss")
  objective = objective or config.get("objective", "")
  return results_lib.Results(
    path=trial.path,
    study={"config": config},
    space=space_lib.Space({}),
    objective=objective if objective in trial.curves else fallback,
    select="best",
    trials=[trial],
  )


def _payload(results, findings):
  drawn = plots_study.figures(results)
  trials = results.trials
  order = sorted(
    (name for name in results.metrics if not plot_rows.is_of_layer(name)),
    key=_usual_order,
  )
  objectives = {
    metric: {
      select: _under(
        dataclasses.replace(results, objective=metric, select=select)
      )
      for select in ("best", "final")
    }
    for metric in order
  }
  steps, curves = _curves(results)
  # The curves, most of the page, are plain values already.
  return {"steps": steps, "curves": curves} | rundir.plain(
    {
      "maximized": plot_rows.maximized(results),
      "expected": expected.of_best(results).in_words(),
      "metric": results.objective,
      "select": results.select,
      "trials": plot_rows.trial_columns(results)
      | {
        "place": list(range(len(trials))),
        "reason": [trial.reason for trial in trials],
        "step": [trial.step for trial in trials],
        "max_train_steps": [trial.max_train_steps for trial in trials],
        "seed": [trial.seed for trial in trials],
        "path": [str(rundir.absolute(trial.path)) for trial in trials],
      },
      "again": _again(results),
      "parameters": [
        {
          "label": p.label,
          "key": p.key,
          "role": p.role,
          "values": results.column(p.label).tolist(),
        }
        for p in results.space.parameters
      ],
      "objectives": objectives,
      "reruns": [
        {
          "index": index,
          "seed": rerun.seed,
          "values": {
            metric: {
              "best": rerun.best(metric)[0],
              "final": rerun.final(metric)[0],
            }
            for metric in rerun.curves
            if rerun.status == "completed"
          },
        }
        for index, reruns in results.reruns.items()
        for rerun in reruns
      ],
      "groups": plots_study.GROUPS,
      "figures": page.figure_rows(drawn),
      "config": results.study.get("config", {}),
      "config_file": results.study.get("config_file", "the base config"),
      "overrides": results.study.get("overrides", {}),
      "comparisons": _comparisons(results),
      "findings": [f.as_json() for f in findings],
    }
  )


def _again(results):
  """The parts that commands on a study or run share, quoted for a shell."""
  words = results.study.get("command")
  if not words:
    words = (rundir.RunDir(results.path).provenance() or {}).get("command")
  words = words or ()
  return {
    "program": commands.line(commands.program(words)),
    "devices": commands.line(commands.kept(words, commands.DEVICES)),
    "folder": str(rundir.absolute(results.path)),
  }


def _comparisons(results):
  """The best scientific choice compared with each other one."""
  return [
    {
      "best": best,
      "other": other,
      "verdict": summary.verdict_of_choice(pair),
      "improvement": pair.improvement,
      "interval": pair.interval,
      "data_from": pair.data_from,
      "more_seeds": pair.more_seeds,
    }
    for best, other, pair in compare.choices(results)
  ]


def _usual_order(metric):
  """Validation first, then training, then others, rarely an objective."""
  places = {"valid": 0, "test": 1, "train": 2}
  return places.get(plot_rows.split(metric), 3), metric


def _under(results):
  """The parts of the data that depend on the objective."""
  columns = plot_rows.objective_columns(results)
  return {
    "objective": _rounded(columns["objective"]),
    "at": columns["at"],
    "best_of": plot_rows.best_of_rows(results),
    "isolation": [
      plot_rows.isolation_rows(results, i)
      for i in range(len(results.space.parameters))
    ],
    "ends": {
      source: plot_rows.ends(results, source)
      for source in (
        "trials",
        "best_of",
        *(f"isolation:{i}" for i in range(len(results.space.parameters))),
      )
    },
  }


def _curves(results):
  """Curves of every trial, thinned.

  Returns:
    (different sequences of steps, for each trial {family: [[split, place of its
    steps, values], ...]}).
  """
  alone = len(results.trials) == 1  # A study draws no layers.
  shown = [
    {m: c for m, c in t.curves.items() if alone or not plot_rows.is_of_layer(m)}
    for t in results.trials
  ]
  number = sum(map(len, shown))
  share = _CURVE_POINTS // max(number, 1)
  most = min(max(share, _FEWEST_POINTS), _MOST_POINTS)
  detailed = {trial.index for trial in results.ranked[:_DETAILED]}
  places, curves = {}, []
  for trial, of_trial in zip(results.trials, shown, strict=True):
    points = _MOST_POINTS if trial.index in detailed else most
    families: dict[str, list] = {}
    for metric, (steps, values) in of_trial.items():
      steps, values = _thinned(steps, values, points)
      place = places.setdefault(steps.tobytes(), (len(places), steps))[0]
      values = _rounded(plot_rows.drawable(metric, values))
      row = [plot_rows.split(metric), place, values]
      families.setdefault(plot_rows.family(metric), []).append(row)
    curves.append(families)
  return [steps.tolist() for _, steps in places.values()], curves


def _thinned(steps, values, points):
  """At most `points` of a curve: each part's ends of value, first and last."""
  if len(steps) <= points:
    return steps, values
  edges = np.linspace(0, len(steps), points // 2 + 1).astype(np.int64)
  finite = np.isfinite(values)
  low = np.where(finite, values, np.inf)
  high = np.where(finite, values, -np.inf)
  kept = {0, len(steps) - 1}
  for start, end in zip(edges[:-1], edges[1:], strict=True):
    kept.add(start + int(np.argmin(low[start:end])))
    kept.add(start + int(np.argmax(high[start:end])))
  kept = np.array(sorted(kept))
  return steps[kept], values[kept]


def _rounded(values):
  """Five significant digits, and None for what is not finite."""
  values = np.array(values, np.float64)
  finite = np.isfinite(values) & (values != 0)
  digits = np.zeros(values.shape)
  digits[finite] = 4 - np.floor(np.log10(np.abs(values[finite])))
  # Powers of ten beyond a double's range would make NaN of a tiny number.
  power = 10.0 ** np.clip(digits, -300, 300)
  with np.errstate(invalid="ignore"):
    rounded = np.where(finite, np.round(values * power) / power, values)
  return [v if math.isfinite(v) else None for v in rounded.tolist()]


def domain(parameter: space_lib.Parameter) -> str:
  """A hyperparameter's range, or its choices, as text."""
  if parameter.kind == "choice":
    return ", ".join(map(str, parameter.values))
  return f"{parameter.low:g} to {parameter.high:g}, {parameter.scale}"


def _batches(study):
  """A line for each batch of adaptive trials."""
  lines = []
  for batch in study.get("suggested", ()):
    first, number = batch["after"], len(batch["points"])
    lines.append(
      f"{first} to {first + number - 1}, by {batch['sampler']} from"
      f" {batch['told']} trials, seed {batch['seed']}"
    )
  return "\n".join(lines)
