"""A finding: the result of a check of a run or a study."""

import dataclasses
from typing import Any, Literal

Verdict = Literal["ok", "warn", "fail", "unknown"]


@dataclasses.dataclass(frozen=True)
class Finding:
  """The result of one check.

  Attributes:
    check: Name of the check, e.g. `better_than_chance`.
    verdict: `ok`, `warn`, `fail`, or `unknown` if the data do not suffice.
    subject: What it is about: a metric, a hyperparameter, a trial.
    evidence: The numbers behind the verdict, JSON values only.
    advice: What to do, one or two sentences; empty if `ok`.
    source: Where the rule comes from, e.g. "Playbook, <section>".
  """

  check: str
  verdict: Verdict
  subject: str
  evidence: dict[str, Any]
  advice: str
  source: str

  def as_json(self) -> dict[str, Any]:
    """Returns the row of `findings.json`."""
    return dataclasses.asdict(self)
