"""A finding: the result of one check of a run or a study."""

import dataclasses
import html
from collections.abc import Iterable
from typing import Any, Literal

Verdict = Literal["ok", "warn", "fail", "unknown"]


@dataclasses.dataclass(frozen=True)
class Finding:
  """The result of one check of a run or a study.

  Attributes:
    check: Name of the check, e.g. `better_than_chance`.
    verdict: `ok`, `warn`, `fail`, or `unknown` if the data do not suffice.
    subject: The metric, hyperparameter or trial that was checked.
    evidence: The numbers behind the verdict, JSON values only.
    advice: The deciding number, its consequence and what to do, in a few
      sentences; mostly empty if `ok`.
    source: Where the rule comes from, e.g. "Playbook, <section>".
  """

  check: str
  verdict: Verdict
  subject: str
  evidence: dict[str, Any]
  advice: str
  source: str

  def as_json(self) -> dict[str, Any]:
    """The row of `findings.json`."""
    return dataclasses.asdict(self)


class Findings(list[Finding]):
  """Findings of several checks; a notebook shows them as a table."""

  def _repr_html_(self) -> str:
    """An HTML table with a row for each finding."""
    return as_html(
      ("verdict", "check", "subject", "advice"),
      [(f.verdict, f.check, f.subject, f.advice) for f in self],
    )


def as_html(heads: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
  """Make an HTML table.

  Args:
    heads: Titles of the columns.
    rows: A sequence of cells for each row; shown as text, escaped.
  """

  def row(tag, cells):
    inner = "".join(f"<{tag}>{html.escape(str(c))}</{tag}>" for c in cells)
    return f"<tr>{inner}</tr>"

  body = "".join(row("td", cells) for cells in rows)
  return (
    f"<table><thead>{row('th', heads)}</thead><tbody>{body}</tbody></table>"
  )


def not_enough(
  check: str, subject: str, has: int, needs: int, what: str, source: str
) -> Finding:
  """Make the finding of a check that has too little data.

  Args:
    check: Name of the check.
    subject: What it is about.
    has: Number of data points.
    needs: Number required.
    what: What is counted, such as "trials with a value".
    source: Where the rule comes from.
  """
  advice = f"Not enough data: needs {needs} {what}, has {has}."
  evidence = {"has": int(has), "needs": needs}
  return Finding(check, "unknown", subject, evidence, advice, source)
