"""Sentences that summarize a study, or the comparison of two.

For the terminal, the first lines of a page and the table of all studies: the
best value, whether it can be trusted, and what was compared. They restate
`compare`, `expected` and the findings; nothing is decided here.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxplay import commands, finding, formats
from jaxplay import provenance as provenance_lib
from jaxplay.analysis import compare, expected
from jaxplay.analysis import importance as importance_lib
from jaxplay.analysis import results as results_lib
from jaxplay.study import study as study_lib


def of_study(
  results: results_lib.Results, findings: Sequence[finding.Finding]
) -> list[str]:
  """Summarize a study, or a run as from `compare.read`.

  Args:
    results: The study.
    findings: Its checklist; empty: not checked.

  Returns:
    The value of its best trial, what fresh data and seeds would give, and
    whether its space contains the optimum; then a sentence for each scientific
    choice that the best one is compared with.
  """
  edges = [f for f in findings if f.check == "search_space_boundary"]
  choices = [of_choice(*choice) for choice in compare.choices(results)]
  return [_best(results) + _edges(edges), *choices]


def of_both(
  comparison: compare.Comparison,
  both: Mapping[str, results_lib.Results],
  findings: Sequence[Sequence[finding.Finding]],
) -> list[str]:
  """Summarize each side and, last, their comparison.

  Args:
    comparison: The comparison.
    both: "baseline" and "candidate" -> the study or run.
    findings: The checklist of each, in this order; empty: not checked.
  """
  sentences = []
  for (name, results), own in zip(both.items(), findings, strict=True):
    first, *rest = of_study(results, own)
    name = name.capitalize()
    sentences.append(f"{name} {results.path.name}: {first}")
    sentences += [f"{name}: {part[0].lower()}{part[1:]}" for part in rest]
  return [*sentences, of_comparison(comparison)]


def of_choice(best: str, other: str, comparison: compare.Comparison) -> str:
  """Compare one combination of scientific choices with another."""
  interval = _interval(comparison.interval)
  difference = f"{comparison.improvement:.4g} ({interval})"
  if comparison.verdict == "adopt":
    return f"{best} is better than {other} by {difference}."
  if comparison.interval[0] > 0:
    return f"{best} may be better than {other}; inconclusive: {difference}."
  return f"No significant difference between {best} and {other}: {difference}."


def verdict_of_choice(comparison: compare.Comparison) -> str:
  """The verdict on the best choice against another, in a word or two."""
  if comparison.verdict == "adopt":
    return "better"
  if comparison.interval[0] > 0:
    return "inconclusive"
  return "no significant difference"


def of_comparison(comparison: compare.Comparison) -> str:
  """State the verdict, and by how much the candidate is better."""
  improvement = comparison.improvement
  is_higher = (improvement >= 0) == comparison.maximized
  changed = ", ".join(
    f"{key} from {formats.number(old)} to {formats.number(new)}"
    for key, (old, new) in comparison.changes.items()
  )
  changes = f"; it changes {changed}" if changed else ""
  return (
    f"{_verdict(comparison)}: {comparison.objective} of the candidate is"
    f" {abs(improvement):.4g} {'higher' if is_higher else 'lower'} (improvement"
    f" {_interval(comparison.interval)}; noise of the validation set:"
    f" {comparison.data_from}){changes}."
  )


def of_importances(row: importance_lib.Importances) -> list[str]:
  """State what matters in a group of trials, what interacts, what does not."""
  with_group = f" with {row.group}" if row.group else ""
  matter = [f"{name} {_share(row.shares[name])}" for name in row.matter]
  what = ", ".join(matter) or "no hyperparameter has a significant share"
  sentences = [f"Importance in {row.num_trials} trials{with_group}: {what}."]
  for pair in row.interact:
    sentences.append(
      f"Tune {' and '.join(pair)} together: they interact, by"
      f" {_share(row.pairs[pair])}."
    )
  if row.idle:
    idle = ", ".join(f"{n} {_share(row.shares[n])}" for n in row.idle)
    sentences.append(f"Can be fixed at the best value: {idle}.")
  left = [n for n in row.shares if n not in (*row.matter, *row.idle)]
  if left:
    sentences.append(f"Undecided without more trials: {', '.join(left)}.")
  return sentences


def _share(share):
  return f"{share.estimate:.0%} (99%: {share.low:.0%} to {share.high:.0%})"


def tracking_row(directory: study_lib.StudyDir) -> dict[str, Any]:
  """Make a study's row in the table of all studies (G8)."""
  results = results_lib.read_study(directory.path)
  study, provenance = results.study, directory.provenance() or {}
  diff = provenance.get("git_diff")
  done = sum(trial.status in results_lib.ENDED for trial in results.trials)
  row = {
    "study": str(directory.path),
    "goal": study["goal"],
    "notes": study["notes"],
    "config": study["config_file"],
    "trials": f"{done}/{len(results.trials)}",
    "adaptive": results.num_adaptive or None,
    "objective": f"{results.select} {results.objective}",
    "best": None,
    "expected": None,
    "best_trial": None,
    "command": commands.line(study["command"]),
    "commit": provenance.get("git_commit"),
    "uncommitted_changes": None if diff is None else bool(diff),
    "changed_files": provenance_lib.is_changed(provenance),
  }
  if results.ranked:
    best = results.ranked[0]
    row |= {
      "best": results.value(best),
      "expected": expected.of_best(results).in_words(),
      "best_trial": best.index,
    }
  if sentences := results_lib.in_words(results_lib.doubts(results)):
    row["damaged"] = " ".join(sentences)
  return row


def _verdict(comparison):
  low, high = comparison.interval
  if comparison.verdict == "adopt":
    return "Adopt the candidate"
  if comparison.verdict == "do not adopt":
    return "Keep the baseline"
  if not comparison.alike:
    return "Not comparable"
  return "No significant difference" if low <= 0 <= high else "Inconclusive"


def _best(results):
  number = len(results.trials)
  best = results.ranked[0] if results.ranked else None
  if best is None:
    return f"none of {number} trials has a value of {results.objective}."
  of = f" of {number} trials" if number > 1 else ""
  text = f"best {results.objective}{of} {results.value(best):.4g}"
  return f"{text}; {expected.of_best(results).in_words()}."


def _edges(findings):
  """The findings on the ranges; "" without any."""
  bad = [f for f in findings if f.verdict in ("warn", "fail")]
  if bad:
    return " " + " ".join(_edge(f) for f in bad)
  if findings and all(f.verdict == "ok" for f in findings):
    return " The optimum lies inside its space."
  return ""


def _edge(boundary):
  evidence = boundary.evidence
  if "proposed" not in evidence:
    return f"Check {boundary.subject}: {boundary.advice}"
  low, high = evidence["range"]
  return (
    "Its space may be too narrow: the objective improves up to the"
    f" {evidence['side']} edge of {boundary.subject}, {low:g} to"
    f" {high:g} (p = {evidence['p_value']:.2g})."
  )


def _interval(ends):
  return f"95%: {formats.interval(*ends)}"
