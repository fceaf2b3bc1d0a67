"""A finding: what every check of a run or a study returns."""

import dataclasses
from typing import Any, Literal

Verdict = Literal["ok", "warn", "fail", "unknown"]


@dataclasses.dataclass(frozen=True)
class Finding:
  """One answered question about a run or a study.

  Attributes:
    check: Name of the check, e.g. `better_than_chance`.
    verdict: `ok`, `warn`, `fail`, or `unknown` when the data cannot tell.
    subject: What it is about: a metric, a hyperparameter, a trial.
    evidence: The numbers behind the verdict, JSON values only.
    advice: What to do about it, one or two sentences; empty when `ok`.
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
