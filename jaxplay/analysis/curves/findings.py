"""Findings that several checks of a run share."""

from typing import Any

import numpy as np

from jaxplay import finding

TRAINING_CURVES = "Playbook, examining the training curves"
UNSTABLE = "Playbook, identifying unstable workloads"


def make(
  check: str,
  verdict: finding.Verdict,
  evidence: dict[str, Any],
  advice: str,
  source: str = TRAINING_CURVES,
  subject: str = "objective",
) -> finding.Finding:
  """Make a finding with plain numbers, and without advice if it is `ok`."""
  plain = {
    name: float(value) if isinstance(value, np.floating) else value
    for name, value in evidence.items()
  }
  advice = "" if verdict == "ok" else advice
  return finding.Finding(check, verdict, subject, plain, advice, source)


def too_short(
  check: str, has: int, needs: int, what: str = "values"
) -> finding.Finding:
  """Make the finding of a check of a curve with too few points."""
  return finding.not_enough(
    check, "objective", has, needs, f"logged {what}", TRAINING_CURVES
  )


def unfinished(check: str) -> finding.Finding:
  """Make the finding of a check that requires a finished run."""
  return make(check, "unknown", {}, "The run did not reach its last step.")


def folded(check: str, subject: str) -> finding.Finding:
  """Make the finding of a check that requires validation data."""
  advice = (
    "The run was trained on its validation examples, so only the test set can"
    " measure it; check the runs of the same config without"
    " dataset.fold_validation."
  )
  return make(check, "unknown", {}, advice, subject=subject)


def after_divergence(check: str, subject: str = "objective") -> finding.Finding:
  """Make the finding of a check that a diverged run does not allow."""
  advice = "The run diverged; see early_instability, mid_training_instability."
  return make(check, "unknown", {}, advice, subject=subject)


def ends_without_value(check: str) -> finding.Finding:
  """Make the finding of a check of a curve that does not end in a number."""
  advice = "The last evaluation of the objective is not finite."
  return make(check, "unknown", {}, advice)
