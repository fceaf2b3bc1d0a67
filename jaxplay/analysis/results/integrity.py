"""Reasons to doubt that results belong to the study in study.json."""

from collections.abc import Mapping, Sequence
from typing import Any

import jaxplay
from jaxplay.analysis.results.data import EXCLUDED, Results

_MOST_LISTED = 20  # trials in the evidence of a finding


def doubts(results: Results) -> dict[str, Any]:
  """Collect reasons to doubt that results are those of study.json.

  Returns:
    Evidence, JSON values, of at most 20 trials each; {}: there are none.
      different: Index -> config key -> [value in study.json, trained value].
      excluded: Name of a run directory -> reason.
      strays: Names of run directories of trials that are not in study.json.
  """
  reruns = [rerun for runs in results.reruns.values() for rerun in runs]
  found: dict[str, dict[str, Any]] = {
    "different": {
      str(trial.index): {k: list(pair) for k, pair in trial.different.items()}
      for trial in results.trials
      if trial.different
    },
    "excluded": {
      _name(trial): trial.reason
      for trial in (*results.trials, *reruns)
      if trial.status == EXCLUDED
    },
    "strays": {name: None for name in results.strays},
  }
  evidence: dict[str, Any] = {}
  for key, rows in found.items():
    if rows:
      evidence[f"num_{key}"] = len(rows)
  for key, rows in found.items():
    if rows:
      listed = dict(list(rows.items())[:_MOST_LISTED])
      evidence[key] = list(listed) if key == "strays" else listed
  return evidence


def in_words(evidence: Mapping[str, Any]) -> list[str]:
  """Describe the result of `doubts` in sentences."""
  sentences = []
  if rows := evidence.get("different"):
    first, changed = next(iter(rows.items()))
    names = _listed(list(rows), evidence["num_different"])
    values = describe(changed, "study.json")
    sentences.append(
      f"Trial {names} trained other values than those in study.json (trial"
      f" {first}: {values}): the study or its directories were changed. The"
      " trained values are used."
    )
  if rows := evidence.get("excluded"):
    first, reason = next(iter(rows.items()))
    names = _listed(list(rows), evidence["num_excluded"])
    sentences.append(f"{names} is left out ({first}: {reason}).")
  if rows := evidence.get("strays"):
    names = _listed(rows, evidence["num_strays"])
    sentences.append(
      f"{names} exists but is not a trial in study.json; it is left out."
    )
  return sentences


def refuse_doubts(results: Results) -> None:
  """Raise if the results may not be those of the study.

  Raises:
    jaxplay.UserError: There are `doubts`.
  """
  if sentences := in_words(doubts(results)):
    raise jaxplay.UserError(
      f"the results in {str(results.path)!r} do not match its study.json:"
      f" {' '.join(sentences).rstrip('.')}; restore the study from a copy, or"
      " use another workdir"
    )


def _listed(names, number):
  shown = ", ".join(names[:5])
  return shown + (f" and {number - 5} more" if number > 5 else "")


def describe(changed: Mapping[str, Sequence[Any]], other: str) -> str:
  """Describe the first differences between a trial and what is expected.

  Args:
    changed: Config key -> (expected value, trained value).
    other: Where the expected value is from, such as "study.json".
  """
  text = ", ".join(
    f"{key} is {old!r} in {other}, and {new!r} in its config.json"
    for key, (old, new) in list(changed.items())[:3]
  )
  return text + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _name(trial):
  """The run directory relative to that of the study."""
  parts = trial.path.parts
  return "/".join(parts[-3:] if "reruns" in parts[-3:] else parts[-2:])
