"""One self-contained HTML page per study, run, ladder, plan or comparison.

Python computes, report.js shows. All that the page knows is one block of JSON
in it: the trials as columns, each metric's values and what follows from them
under either way to select, the curves, and the charts without data. So the
reader changes the objective, the trials and the rows without asking anybody.
"""

import dataclasses
import functools
import importlib.resources
import json
import math
import os
import pathlib
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import vl_convert

import jaxplay
from jaxplay import commands, finding, rundir
from jaxplay import provenance as provenance_lib
from jaxplay.analysis import compare, plots, plots_compare, summary
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.playbook import plots as plots_answer
from jaxplay.playbook import result as answer_lib
from jaxplay.scaling import ladder as ladder_lib
from jaxplay.scaling import law as scaling
from jaxplay.scaling import plots as plots_ladder
from jaxplay.study import space as space_lib

FORMATS = ("svg", "png")

# Fonts of equal widths, of which most machines have one; that of vl-convert,
# which measures the texts, is the first. And the mean width of a letter.
_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
_LETTER = 6.0

# Points of curves in a page, about seven bytes each, and of one curve: trials
# that are drawn first get many, the others share the rest. A thinned curve
# keeps its peaks, or a spike would be lost.
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
  """Writes the page of a study, finished or not.

  Args:
    results: The study.
    findings: Of the checks, under the objective of `results`.
    path: The HTML file; replaced atomically.
    next_study: Text of the next study's file.
    live: The page loads itself again every 15 seconds.
  """
  study = results.study
  provenance = rundir.RunDir(results.path).provenance() or {}
  facts = {
    "study": str(results.path),
    "command": _command(study.get("command")),
    "base config": study.get("config_file"),
    "overrides": study.get("overrides"),
    "trials asked for": study.get("num_trials"),
    "algorithm": study.get("algorithm"),
    "seed of the search": study.get("seed"),
    "adaptive trials": _suggested(study),
    "space": "\n".join(_describe(p) for p in results.space.parameters),
  }
  # Devices and versions are those of the machines that trained.
  ran = results.ranked or [t for t in results.trials if t.status != "pending"]
  if ran:
    provenance = (rundir.RunDir(ran[0].path).provenance() or {}) | provenance
  page = _payload(results, findings) | {
    "kind": "study",
    "title": f"Study {results.path.name}",
    "goal": study.get("goal", ""),
    "notes": study.get("notes", ""),
    "live": live,
    "next_study": next_study,
    "provenance": _provenance(facts, provenance),
  }
  _write_page(page, path)


def write_run(
  trial: results_lib.Trial,
  findings: Sequence[finding.Finding],
  *,
  path: str | os.PathLike,
  objective: str = "",
  live: bool = False,
) -> None:
  """Writes the page of a single run, finished or not.

  Args:
    trial: The run.
    findings: Of its checks.
    path: The HTML file; replaced atomically.
    objective: Logged metric; empty: the one of the run's config.
    live: The page loads itself again every 15 seconds.
  """
  results = _as_study(trial, objective)
  provenance = rundir.RunDir(trial.path).provenance() or {}
  facts = {
    "run": str(trial.path),
    "status": f"{trial.status} at step {trial.step}",
    "reason": trial.reason,
    "command": _command(provenance.get("command")),
    "seed": trial.seed,
  }
  page = _payload(results, findings) | {
    "kind": "run",
    "title": f"Run {trial.path.name}",
    "goal": "",
    "notes": "",
    "live": live,
    "next_study": None,
    "provenance": _provenance(facts, provenance),
  }
  _write_page(page, path)


def write_ladder(
  results: ladder_lib.Results,
  law: scaling.Fit | None,
  findings: Sequence[finding.Finding],
  *,
  path: str | os.PathLike,
  why: str = "",
) -> None:
  """Writes the page of a ladder, finished or not.

  Args:
    results: The ladder.
    law: Fitted to its points; None: they cannot determine one yet.
    findings: On the law.
    path: The HTML file; replaced atomically.
    why: Why there is no law, if there is none.
  """
  ladder = results.ladder
  provenance = rundir.RunDir(results.path).provenance() or {}
  for trunk in results.trunks.values():  # Of the machine that trained.
    provenance = (trunk.provenance() or {}) | provenance
  facts = {
    "ladder": str(results.path),
    "command": _command(ladder.get("command")),
    "base config": ladder["config_file"],
    "cooldown": f"{ladder['cooldown_fraction']:g} of the steps,"
    f" {ladder['cooldown_shape']}",
  }
  *tables, points = _ladder_tables(results, law)
  _write_plain(
    path,
    title=f"Ladder {results.path.name}",
    goal=ladder["goal"],
    notes=ladder["notes"] + (f" No law yet: {why}." if why else ""),
    tables=tables,
    numbers=[points],
    groups=plots_ladder.GROUPS,
    figures=plots_ladder.figures(results, law),
    findings=findings,
    provenance=_provenance(facts, provenance),
  )


def write_answer(
  answer: answer_lib.Answer,
  *,
  path: str | os.PathLike,
  title: str,
  goal: str,
  notes: str = "",
  facts: Mapping[str, Any] = {},
  provenance: Mapping[str, Any] = {},
) -> None:
  """Writes the page of a procedure's answer.

  Args:
    answer: The answer.
    path: The HTML file; replaced atomically.
    title: Such as "Plan steps".
    goal: The question, in a sentence.
    notes: How it was found out, in a sentence or two.
    facts: Name -> text, of what was asked.
    provenance: What made it.
  """
  _write_plain(
    path,
    title=title,
    goal=goal,
    notes=notes,
    said=answer.said,
    settings=answer_lib.as_config_lines(answer.settings) or None,
    tables=[[t.title, t.note, t.heads, t.rows] for t in answer.tables],
    groups={"pictures": ("", "")},
    figures=plots_answer.figures(answer.pictures),
    findings=answer.findings,
    provenance=_provenance(facts, provenance),
  )


def write_comparison(
  comparison: compare.Comparison,
  baseline: results_lib.Results,
  candidate: results_lib.Results,
  findings: Sequence[Sequence[finding.Finding]],
  *,
  path: str | os.PathLike,
) -> None:
  """Writes the page that shows two studies, or runs, side by side.

  Args:
    comparison: Of the two.
    baseline: The one, as from `compare.read`.
    candidate: The other.
    findings: Of the checklist of each; empty for what was not checked.
    path: The HTML file; replaced atomically.
  """
  both = dict(zip(plots_compare.SIDES, (baseline, candidate), strict=True))
  goals = dict.fromkeys(r.study.get("goal", "") for r in both.values())
  facts = {
    name: f"{r.path}, {compare.commit(r.path)}" for name, r in both.items()
  }
  *said, conclusion = summary.of_both(comparison, both, findings)
  tables = _sides(comparison, both)
  _write_plain(
    path,
    figures_first=True,
    title=f"{baseline.path.name} against {candidate.path.name}",
    goal=" | ".join(filter(None, goals)),
    notes=f"{comparison.objective}; less is better.",
    said=[conclusion, *said],
    tables=tables[:2],
    numbers=tables[2:],
    groups=plots_compare.GROUPS,
    figures=plots_compare.figures(baseline, candidate),
    findings=[
      dataclasses.replace(found, subject=f"{name}: {found.subject}")
      for name, own in zip(both, findings, strict=True)
      for found in own
      if found.check != "fixed_caveats"
    ],
    provenance=_provenance(facts, {}),
  )


def _sides(comparison, both):
  """[title, note, heads, rows] of each table of a comparison's page."""
  rows = []
  for name, results in both.items():
    side = getattr(comparison, name)
    rows.append(
      [
        name,
        str(results.path),
        len(results.trials),
        side.best,
        side.num_reruns,
        side.mean,
        *trials_lib.rerun_interval(results, results.ranked[0].index)[1:],
      ]
    )
  heads = ["", "folder", "trials", "best", "reruns", "mean", "from", "to"]
  note = (
    "The mean is over reruns of the best trial with other seeds, where there"
    " are any, with its 95% interval."
  )
  tables = [[comparison.objective, note, heads, rows]]
  own = [
    {p.label: _domain(p) for p in r.space.parameters} for r in both.values()
  ]
  for lines, r in zip(own, both.values(), strict=True):
    lines["number of trials"] = str(len(r.trials))
  labels = dict.fromkeys([*own[0], *own[1]])
  tables.append(
    [
      "The space",
      "",
      ["", *both, "changed"],
      [
        [
          label,
          *(lines.get(label, "not varied") for lines in own),
          "" if own[0].get(label) == own[1].get(label) else "yes",
        ]
        for label in labels
      ],
    ]
  )
  choices = [
    [name, best, other, found.improvement, *found.interval, _in_words(found)]
    for name, results in both.items()
    for best, other, found in compare.cells(results)
  ]
  if choices:
    heads = ["", "best", "against", "improvement", "from", "to", "verdict"]
    tables.append(
      ["What each found", "Improvement with its 95% interval.", heads, choices]
    )
  if comparison.changes:
    tables.append(
      [
        "What differs in the config of the best trials",
        "",
        ["key", *both],
        [
          [key, str(old), str(new)]
          for key, (old, new) in comparison.changes.items()
        ],
      ]
    )
  return tables


def _in_words(found):
  if found.verdict == "adopt":
    return "better"
  return "no significant difference"


def _write_plain(
  path, *, figures, findings, said=(), settings=None, numbers=(), **parts
):
  """Writes a page of which nothing is to be chosen."""
  page = {
    "kind": "plain",
    "live": False,
    "said": list(said),
    "settings": settings,
    "numbers": list(numbers),
    "figures": _figures(figures),
    "findings": [found.as_json() for found in findings],
  }
  _write_page(rundir.plain(page | parts), path)


def answer_figures(
  answer: answer_lib.Answer, folder: str | os.PathLike, format: str = "svg"
) -> list[pathlib.Path]:
  """Writes each picture of an answer into a file; as `figures`."""
  drawn = plots_answer.figures(answer.pictures)
  specs = {figure.name: plots_ladder.spec(figure) for figure in drawn}
  return _write_figures(specs, folder, format)


def ladder_figures(
  results: ladder_lib.Results,
  law: scaling.Fit | None,
  folder: str | os.PathLike,
  format: str = "svg",
) -> list[pathlib.Path]:
  """Writes each figure of a ladder into a file; as `figures`."""
  drawn = plots_ladder.figures(results, law)
  specs = {figure.name: plots_ladder.spec(figure) for figure in drawn}
  return _write_figures(specs, folder, format)


def figures(
  results: results_lib.Results,
  folder: str | os.PathLike,
  format: str = "svg",
) -> list[pathlib.Path]:
  """Writes each figure of a study into a file of its own, without a browser.

  Args:
    results: The study.
    folder: Made if need be.
    format: One of `FORMATS`.

  Returns:
    The files.

  Raises:
    jaxplay.UserError: There is no such format.
  """
  drawn = plots.figures(results)
  specs = {figure.name: plots.spec(figure, results) for figure in drawn}
  return _write_figures(specs, folder, format)


def _write_figures(specs, folder, format):
  if format not in FORMATS:
    raise jaxplay.UserError(
      f"figures cannot be written as {format!r}; use {' or '.join(FORMATS)}"
    )
  folder = rundir.at(folder)
  folder.mkdir(parents=True, exist_ok=True)
  written = []
  for number, (name, spec) in enumerate(specs.items(), 1):
    stem = re.sub(r"[^\w.=-]+", "_", name).strip("_")
    path = folder / f"{number:02d}_{stem}.{format}"
    config = {"background": "white", "font": _FONT, "padding": _padding(spec)}
    options = dict(config=config, show_warnings=False)
    if format == "png":
      png = vl_convert.vegalite_to_png(spec, scale=2, **options)
      rundir.write_bytes(path, png)
    else:
      rundir.write_text(path, vl_convert.vegalite_to_svg(spec, **options))
    written.append(path)
  return written


def _padding(spec):
  """Room around a figure in a file, in pixels.

  Beside a legend for a fifth of its longest label, since where a file is shown
  its font may be missing, and another one may be so much wider.
  """
  labels = [
    str(label)
    for layer in spec.get("layer", ())
    if (colour := layer.get("encoding", {}).get("color", {})).get("legend")
    and "orient" not in colour["legend"]
    for label in colour.get("scale", {}).get("domain", ())
  ]
  room = 0.2 * _LETTER * max(map(len, labels), default=0)
  return {"left": 5, "top": 5, "bottom": 5, "right": 5 + round(room)}


def as_json(
  results: results_lib.Results, findings: Sequence[finding.Finding]
) -> dict[str, Any]:
  """The answer and the findings, for other programs."""
  counts = {}
  for trial in results.trials:
    counts[trial.status] = counts.get(trial.status, 0) + 1
  best = None
  if results.ranked:
    trial = results.ranked[0]
    best = {
      "trial": trial.index,
      "value": results.value(trial),
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
      "findings": [found.as_json() for found in findings],
    }
  )


# Budgets of the table, as factors of the largest point's compute.
_BUDGETS = (0.1, 1.0, 10.0)


def _ladder_tables(results, law):
  """[title, note, heads, rows] of each table of a ladder's page."""
  tables = []
  if law is not None:
    names = {
      "irreducible": "E",
      "coefficient_n": "A",
      "exponent_n": "a",
      "coefficient_d": "B",
      "exponent_d": "b",
    }
    tables.append(
      [
        "L(N, D) = E + A / N^a + B / D^b",
        f"In nats per token; N {'with' if law.count_embeddings else 'without'}"
        " the parameters of embeddings; 90 % intervals by bootstrap.",
        ["coefficient", "value", "from", "to"],
        [
          [names[name], found.value, found.low, found.high]
          for name, found in law.coefficients.items()
        ],
      ]
    )
    largest = max(point.flops for point in results.points)
    rows = []
    for factor in _BUDGETS:
      best = law.optimal(factor * largest, extrapolate=True)
      rows.append(
        [
          f"{best.flops:.2e}" + " (beyond the points)" * (best.factor > 1),
          _short(best.parameters.value),
          f"{_short(best.parameters.low)} to {_short(best.parameters.high)}",
          _short(best.tokens.value),
          f"{_short(best.tokens.low)} to {_short(best.tokens.high)}",
          best.loss.value,
        ]
      )
    tables.append(
      [
        "The best model for a budget",
        f"FLOPs by the {law.flops_source}. jaxplay scaling fit LADDER --flops=C"
        " answers for another.",
        ["FLOPs", "N", "90 %", "D", "90 %", "loss"],
        rows,
      ]
    )
  if results.spent is not None:
    spent = results.spent
    tables.append(
      [
        "What it cost",
        "Constant runs with branches, against a run of its own (such as with a"
        " cosine) for every point.",
        ["FLOPs", "spent", "one run per point", "ratio"],
        [
          [
            "all",
            f"{spent.spent:.3g}",
            f"{spent.from_scratch:.3g}",
            spent.spent / spent.from_scratch,
          ]
        ],
      ]
    )
  tables.append(
    [
      "Points",
      "",
      ["size", "N", "embeddings", "tokens", "FLOPs", "loss"],
      [
        [
          point.size,
          f"{point.parameters:,.0f}",
          f"{point.embedding_parameters:,.0f}",
          f"{point.tokens:,.0f}",
          f"{point.flops:.3g}",
          point.loss,
        ]
        for point in results.points
      ],
    ]
  )
  return tables


def _short(number):
  """Three digits: 85,200, 4.07M, 13.1B."""
  for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
    if number >= size:
      return f"{number / size:.3g}{unit}"
  return f"{float(f'{number:.3g}'):,.0f}"


def _as_study(trial, objective):
  """A run as a study of one trial that varies nothing."""
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
  drawn = plots.figures(results)
  trials = results.trials
  order = sorted(results.metrics, key=_usual_order)
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
  # The curves, most of the page, are plain already.
  return {"steps": steps, "curves": curves} | rundir.plain(
    {
      "metric": results.objective,
      "select": results.select,
      "trials": plots.trial_columns(results)
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
      "groups": plots.GROUPS,
      "figures": _figures(drawn),
      "config": results.study.get("config", {}),
      "config_file": results.study.get("config_file", "the base config"),
      "overrides": results.study.get("overrides", {}),
      "comparisons": _comparisons(results),
      "findings": [found.as_json() for found in findings],
    }
  )


def _again(results):
  """What commands on a study or run begin and end with, for a shell."""
  words = results.study.get("command")
  if not words:
    words = (rundir.RunDir(results.path).provenance() or {}).get("command")
  words = words or ()
  return {
    "program": commands.line(commands.program(words)),
    "devices": commands.line(commands.kept(words, commands.DEVICES)),
    "folder": str(rundir.absolute(results.path)),
  }


def _figures(drawn):
  """What the page knows of each figure."""
  return [
    {
      "name": figure.name,
      "title": figure.title or figure.name,
      "group": figure.group,
      "source": figure.source,
      "caption": figure.caption,
      # Altair's checks take seconds; the tests make them.
      "spec": figure.chart.to_dict(validate=False),
    }
    for figure in drawn
  ]


def _comparisons(results):
  """The best scientific choice against the others, a row for each."""
  return [
    {
      "best": best,
      "other": other,
      "better": found.verdict == "adopt",
      "improvement": found.improvement,
      "interval": found.interval,
      "more_seeds": found.more_seeds,
    }
    for best, other, found in compare.cells(results)
  ]


def _usual_order(metric):
  """Validation first, then training, then what is rarely an objective."""
  places = {"valid": 0, "test": 1, "train": 2}
  return places.get(plots.split(metric), 3), metric


def _under(results):
  """What of a study follows from the objective."""
  columns = plots.objective_columns(results)
  return {
    "objective": _rounded(columns["objective"]),
    "at": columns["at"],
    "best_of": plots.best_of_rows(results),
    "isolation": [
      plots.isolation_rows(results, i)
      for i in range(len(results.space.parameters))
    ],
    "ends": {
      source: plots.ends(results, source)
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
  number = sum(len(trial.curves) for trial in results.trials)
  share = _CURVE_POINTS // max(number, 1)
  most = min(max(share, _FEWEST_POINTS), _MOST_POINTS)
  detailed = {trial.index for trial in results.ranked[:_DETAILED]}
  places, curves = {}, []
  for trial in results.trials:
    points = _MOST_POINTS if trial.index in detailed else most
    found = {}
    for metric, (steps, values) in trial.curves.items():
      steps, values = _thinned(steps, values, points)
      place = places.setdefault(steps.tobytes(), (len(places), steps))[0]
      values = _rounded(plots.drawable(metric, values))
      row = [plots.split(metric), place, values]
      found.setdefault(plots.family(metric), []).append(row)
    curves.append(found)
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


def _describe(parameter):
  return f"{parameter.label}: {_domain(parameter)} ({parameter.role})"


def _domain(parameter):
  if parameter.kind == "choice":
    return ", ".join(map(str, parameter.values))
  return f"{parameter.low:g} to {parameter.high:g}, {parameter.scale}"


def _suggested(study):
  """A line for each batch of adaptive trials."""
  lines = []
  for batch in study.get("suggested", ()):
    first, number = batch["after"], len(batch["points"])
    lines.append(
      f"{first} to {first + number - 1}, by {batch['sampler']} from"
      f" {batch['told']} trials, seed {batch['seed']}"
    )
  return "\n".join(lines)


def _command(words):
  return commands.line(words) if isinstance(words, list) else words


def _provenance(facts, provenance):
  """[name, text] of all that is known."""
  versions = provenance.get("versions") or {}
  code = provenance_lib.in_words(provenance) if provenance else {}
  facts = facts | code | {
    "devices": provenance.get("devices"),
    "host": provenance.get("host"),
    "folder": provenance.get("folder"),
    "started": provenance.get("time"),
    "versions": ", ".join(f"{k} {v}" for k, v in sorted(versions.items())),
    "report": time.strftime("%Y-%m-%d %H:%M:%S%z")
    + f", by jaxplay {jaxplay.__version__}",
  }
  return [[name, str(value)] for name, value in facts.items() if value]


def _write_page(page, path):
  parts = {
    "css": _asset("report.css"),
    "js": _asset("report.js"),
    "vega": _vega(),
    "data": _as_script(page),
  }
  text = re.sub(
    r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("report.html")
  )
  rundir.write_text(rundir.at(path), text)


@functools.cache
def _vega():
  """Vega, Vega-Lite and vega-embed as one script."""
  return vl_convert.javascript_bundle().replace("</script", "<\\/script")


def _asset(name):
  return (importlib.resources.files("jaxplay.report") / name).read_text("utf-8")


def _as_script(value):
  """JSON that ends no script element, whatever it says."""
  text = json.dumps(value, separators=(",", ":"), allow_nan=False)
  return text.replace("<", "\\u003c").replace(">", "\\u003e")
