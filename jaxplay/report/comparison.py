"""The page of a comparison of two studies or runs."""

import dataclasses
import os
from collections.abc import Sequence

from jaxplay import finding
from jaxplay.analysis import compare, plots_compare, summary
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.report import page
from jaxplay.report import study as study_page


def write_comparison(
  comparison: compare.Comparison,
  baseline: results_lib.Results,
  candidate: results_lib.Results,
  findings: Sequence[Sequence[finding.Finding]],
  *,
  path: str | os.PathLike,
) -> None:
  """Write the page of two studies, or runs, side by side.

  Args:
    comparison: As from `compare.compare`.
    baseline: As from `compare.read`.
    candidate: Likewise.
    findings: The checklist of each; empty if it was not checked.
    path: The HTML file; replaced atomically.
  """
  both = dict(zip(plots_compare.SIDES, (baseline, candidate), strict=True))
  goals = dict.fromkeys(r.study.get("goal", "") for r in both.values())
  facts = {
    name: f"{r.path}, {compare.commit(r.path)}" for name, r in both.items()
  }
  *details, conclusion = summary.of_both(comparison, both, findings)
  tables = _tables(comparison, both)
  page.write_static(
    path,
    figures_first=True,
    title=f"{baseline.path.name} against {candidate.path.name}",
    goal=" | ".join(filter(None, goals)),
    notes=f"{comparison.objective}; {baseline.metric.either('lower', 'higher')}"
    " is better.",
    said=[
      *(conclusion, *details, *comparison.caveats),
      *filter(None, [comparison.advice]),
    ],
    tables=tables[:2],
    numbers=tables[2:],
    groups=plots_compare.GROUPS,
    figures=plots_compare.figures(baseline, candidate),
    findings=[
      dataclasses.replace(f, subject=f"{name}: {f.subject}")
      for name, own in zip(both, findings, strict=True)
      for f in own
      if f.check != "fixed_caveats"
    ],
    provenance=page.provenance_rows(facts, {}),
  )


def _tables(comparison, both):
  """[title, note, heads, rows] of each table of the page."""
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
        side.mean if side.num_reruns else None,
        *trials_lib.rerun_interval(results, results.ranked[0].index)[1:],
      ]
    )
  heads = ["", "folder", "trials", "best", "reruns", "mean", "from", "to"]
  note = (
    "Mean over reruns of the best trial with other seeds. The 95% interval is"
    " over seeds alone, on these validation examples."
  )
  tables = [[comparison.objective, note, heads, rows]]
  own = [
    {p.label: study_page.domain(p) for p in r.space.parameters}
    for r in both.values()
  ]
  for lines, r in zip(own, both.values(), strict=True):
    lines["number of trials"] = str(len(r.trials))
  labels = dict.fromkeys([*own[0], *own[1]])
  tables.append(
    [
      "Search space",
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
    [
      name,
      best,
      other,
      pair.improvement,
      *pair.interval,
      pair.data_from,
      summary.verdict_of_choice(pair),
    ]
    for name, results in both.items()
    for best, other, pair in compare.choices(results)
  ]
  if choices:
    heads = ["", "best", "against", "improvement", "from", "to"]
    heads += ["noise of the validation set", "verdict"]
    tables.append(
      [
        "Best scientific values",
        "Improvement with its 95% interval; the table says how the interval"
        " includes the noise of the validation set.",
        heads,
        choices,
      ]
    )
  if comparison.changes:
    tables.append(
      [
        "Differences between the configs of the best trials",
        "",
        ["key", *both],
        [
          [key, str(old), str(new)]
          for key, (old, new) in comparison.changes.items()
        ],
      ]
    )
  return tables
