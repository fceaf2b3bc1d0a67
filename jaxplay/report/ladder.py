"""The page of a ladder."""

import os
from collections.abc import Sequence

from jaxplay import finding, formats, rundir
from jaxplay.report import page
from jaxplay.scaling import ladder as ladder_lib
from jaxplay.scaling import law as law_lib
from jaxplay.scaling import plots as plots_ladder

# Budgets of the table, as factors of the largest point's compute.
_BUDGETS = (0.1, 1.0, 10.0)
_COEFFICIENTS = {
  "irreducible": "E",
  "coefficient_n": "A",
  "exponent_n": "a",
  "coefficient_d": "B",
  "exponent_d": "b",
}


def write_ladder(
  results: ladder_lib.Results,
  law: law_lib.Fit | None,
  findings: Sequence[finding.Finding],
  *,
  path: str | os.PathLike,
  why: str = "",
) -> None:
  """Write the page of a ladder, finished or not.

  Args:
    results: The ladder.
    law: Fitted to its points; None: there are not enough.
    findings: Checks of the law.
    path: The HTML file; replaced atomically.
    why: Why there is no law.
  """
  ladder = results.ladder
  provenance = rundir.RunDir(results.path).provenance() or {}
  for run in results.base_runs.values():  # Of the machine that trained.
    provenance = (run.provenance() or {}) | provenance
  facts = {
    "ladder": str(results.path),
    "command": page.command(ladder.get("command")),
    "base config": ladder["config_file"],
    "cooldown": f"{ladder['cooldown_fraction']:g} of the steps,"
    f" {ladder['cooldown_shape']}",
  }
  *tables, points = _tables(results, law)
  page.write_static(
    path,
    title=f"Ladder {results.path.name}",
    goal=ladder["goal"],
    notes=ladder["notes"] + (f" No law yet: {why}." if why else ""),
    tables=tables,
    numbers=[points],
    groups=plots_ladder.GROUPS,
    figures=plots_ladder.figures(results, law),
    findings=findings,
    provenance=page.provenance_rows(facts, provenance),
  )


def _tables(results, law):
  """[title, note, heads, rows] of each table of the page."""
  tables = []
  if law is not None:
    tables.append(
      [
        "L(N, D) = E + A / N^a + B / D^b",
        f"In nats per token; N {'with' if law.count_embeddings else 'without'}"
        " embedding parameters; 90% intervals by bootstrap.",
        ["coefficient", "value", "from", "to"],
        [
          [_COEFFICIENTS[name], fit.value, fit.low, fit.high]
          for name, fit in law.coefficients.items()
        ],
      ]
    )
    largest = max(point.flops for point in results.points)
    rows = []
    for factor in _BUDGETS:
      best = law.optimal(factor * largest, extrapolate=True)
      beyond = " (extrapolated)" if best.factor > 1 else ""
      rows.append(
        [
          f"{best.flops:.2e}{beyond}",
          formats.large(best.parameters.value),
          _large_interval(best.parameters),
          formats.large(best.tokens.value),
          _large_interval(best.tokens),
          best.loss.value,
        ]
      )
    tables.append(
      [
        "The best model for a budget",
        f"FLOPs by the {law.flops_source}. For another budget, run jaxplay"
        " scaling fit LADDER --flops=C.",
        ["FLOPs", "N", "90%", "D", "90%", "loss"],
        rows,
      ]
    )
  if results.spent is not None:
    spent = results.spent
    tables.append(
      [
        "Compute",
        "Base runs with cooldowns, compared with a separate run for every point"
        " (such as with a cosine schedule).",
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


def _large_interval(estimate):
  return f"{formats.large(estimate.low)} to {formats.large(estimate.high)}"
