"""The page of a procedure's result."""

import os
from collections.abc import Mapping
from typing import Any

from jaxplay.playbook import plots as plots_answer
from jaxplay.playbook import result as result_lib
from jaxplay.report import page


def write_answer(
  answer: result_lib.ProcedureResult,
  *,
  path: str | os.PathLike,
  title: str,
  goal: str,
  notes: str = "",
  facts: Mapping[str, Any] = {},
  provenance: Mapping[str, Any] = {},
) -> None:
  """Write the page of a procedure's result.

  Args:
    answer: The result.
    path: The HTML file; replaced atomically.
    title: Such as "Plan steps".
    goal: The question in one sentence.
    notes: The method, in a sentence or two.
    facts: Name -> text of its options.
    provenance: As from `RunDir.provenance`.
  """
  page.write_static(
    path,
    title=title,
    goal=goal,
    notes=notes,
    said=answer.summary,
    settings=result_lib.as_config_lines(answer.settings) or None,
    tables=[[t.title, t.note, t.heads, t.rows] for t in answer.tables],
    groups={"figures": ("", "")},
    figures=plots_answer.figures(answer.figures),
    findings=answer.findings,
    provenance=page.provenance_rows(facts, provenance),
  )
