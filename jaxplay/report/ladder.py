"""The page of a ladder."""

import os
from collections.abc import Sequence

from jaxplay import finding, rundir
from jaxplay.report import page
from jaxplay.scaling import ladder as ladder_lib
from jaxplay.scaling import law as law_lib
from jaxplay.scaling import plots as plots_ladder
from jaxplay.scaling import result as scaling_result


def write_ladder(
  results: ladder_lib.LadderResults,
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
  result = scaling_result.as_result(results, law, findings, why)
  *tables, points = [[t.title, t.note, t.heads, t.rows] for t in result.tables]
  page.write_static(
    path,
    title=f"Ladder {results.path.name}",
    goal=ladder["goal"],
    notes=ladder["notes"],
    said=result.summary,
    tables=tables,
    numbers=[points],
    groups=plots_ladder.GROUPS,
    figures=plots_ladder.figures(results, law),
    findings=findings,
    provenance=page.provenance_rows(facts, provenance),
  )
