"""What a study found, or the comparison of two, in sentences.

For the terminal and for the first lines of a page: the best value, whether it
can be trusted, and what was compared. All of it is of `compare` and of the
findings; nothing is decided here.
"""

from collections.abc import Mapping, Sequence

from jaxplay import finding
from jaxplay.analysis import compare
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib


def of_study(
  results: results_lib.Results, findings: Sequence[finding.Finding]
) -> list[str]:
  """Two or more sentences on a study, or on a run as `compare.read` has it.

  Args:
    results: The study.
    findings: Its checklist; empty: not checked.

  Returns:
    How good its best trial is and whether its space holds the optimum; then
    one for each scientific choice that the best one is compared with.
  """
  edges = [f for f in findings if f.check == "search_space_boundary"]
  choices = [of_choice(*found) for found in compare.cells(results)]
  return [_best(results) + _edges(edges), *choices]


def of_both(
  comparison: compare.Comparison,
  both: Mapping[str, results_lib.Results],
  findings: Sequence[Sequence[finding.Finding]],
) -> list[str]:
  """What each side found and, last, what the comparison of them says.

  Args:
    comparison: Of the two.
    both: "baseline" and "candidate" -> the study or run.
    findings: Of the checklist of each, in this order; empty: not checked.
  """
  said = []
  for (name, results), own in zip(both.items(), findings, strict=True):
    first, *rest = of_study(results, own)
    name = name.capitalize()
    said.append(f"{name} {results.path.name}: {first}")
    said += [f"{name}: {part[0].lower()}{part[1:]}" for part in rest]
  return [*said, of_comparison(comparison)]


def of_choice(best: str, other: str, found: compare.Comparison) -> str:
  """Whether one combination of scientific choices is better than another."""
  difference = f"{found.improvement:.4g} ({_interval(found.interval)})"
  if found.verdict == "adopt":
    return f"{best} is better than {other} by {difference}."
  return f"No significant difference between {best} and {other}: {difference}."


def of_comparison(comparison: compare.Comparison) -> str:
  """What becomes of the candidate, and by how much it is better."""
  improvement = comparison.improvement
  better = "lower" if improvement >= 0 else "higher"
  changes = ", ".join(
    f"{key} from {_short(old)} to {_short(new)}"
    for key, (old, new) in comparison.changes.items()
  )
  return (
    f"{_verdict(comparison)}: {comparison.objective} of the candidate is"
    f" {abs(improvement):.4g} {better} (improvement"
    f" {_interval(comparison.interval)})"
    + (f"; it changes {changes}." if changes else ".")
  )


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
  again = results.values_of(results.reruns.get(best.index, ()))
  if len(again) > 1:
    mean, low, high = trials_lib.rerun_interval(results, best.index)
    text += (
      f", and {mean:.4g} on average over {len(again)} other seeds"
      f" ({_interval((low, high))})"
    )
  return text + "."


def _edges(findings):
  """What the checks say of the ranges; "" where none was made."""
  bad = [f for f in findings if f.verdict in ("warn", "fail")]
  if bad:
    return " " + " ".join(_edge(f) for f in bad)
  if findings and all(f.verdict == "ok" for f in findings):
    return " Its best trials lie well inside the space."
  return ""


def _edge(found):
  evidence = found.evidence
  if "proposed" not in evidence:
    return f"Check {found.subject}: {found.advice}"
  low, high = evidence["range"]
  return (
    f"Its space is too narrow: the {evidence['num_best']} best trials lie at"
    f" the {evidence['side']} edge of {found.subject}, {low:g} to {high:g}"
    f" (p = {evidence['p_value']:.2g})."
  )


def _interval(ends):
  return f"95%: {ends[0]:.4g} to {ends[1]:.4g}"


def _short(value):
  return f"{value:.4g}" if isinstance(value, float) else str(value)
