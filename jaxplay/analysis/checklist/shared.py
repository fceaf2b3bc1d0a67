"""What the checks of a study share."""

from collections.abc import Mapping
from typing import Any

from jaxplay import finding

INSIGHT = "Playbook, extracting insight from experimental results"
SAMPLING = "Playbook, not sampling enough points in the search space"
ADOPTION = (
  "Playbook, determining whether to adopt a training pipeline change or"
  " hyperparameter configuration"
)

FEWEST = 10  # trials with a value that a check requires
FEWEST_IN_GROUP = 16  # trials that a group requires to be judged by itself

# Index of a trial -> check -> finding.
Runs = Mapping[int, Mapping[str, finding.Finding]]


def too_few(
  check: str, has: int, subject: str, needs: int = FEWEST
) -> finding.Finding:
  """Make the finding of a check that has too few trials."""
  what = "trials with a value"
  return finding.not_enough(check, subject, int(has), needs, what, SAMPLING)


def plain(value: Any) -> Any:
  """A hyperparameter's value as JSON has it."""
  return list(value) if isinstance(value, tuple) else value
