"""What is said of a study, and of two, on studies whose truth is known."""

import dataclasses

import numpy as np
import pytest

from jaxplay.analysis import checklist, compare, expected, summary
from jaxplay.study import space as space_lib
from tests.analysis import by_hand, generated


def _valley(low, high, level=0.1):
  """Error against a learning rate whose best value is 0.03."""
  rates = np.geomspace(low, high, 24)
  values = level + 0.02 * np.log10(rates / 0.03) ** 2
  return by_hand.line(values, low=low, high=high)


def _rerun(results, values):
  best = results.ranked[0]
  reruns = [
    dataclasses.replace(
      best, curves={results.objective: (np.array([100]), np.array([value]))}
    )
    for value in values
  ]
  return dataclasses.replace(results, reruns={best.index: reruns})


def _said(results):
  return summary.of_study(results, checklist.check_study(results))


def test_a_space_that_is_too_narrow():
  """D2: the edge, how many lie there, out of what range, and the evidence."""
  results = _valley(1e-4, 3e-3)
  (said,) = _said(results)
  found = next(
    f
    for f in checklist.check_study(results)
    if f.check == "search_space_boundary"
  )
  assert found.verdict == "warn"
  for part in (
    f"{results.value(results.ranked[0]):.4g}",
    "high edge of hparams.learning_rate, 0.0001 to 0.003",
    f"p = {found.evidence['p_value']:.2g}",
  ):
    assert part in said
  (said,) = _said(_valley(1e-4, 3))
  assert "edge" not in said and "inside" in said
  # Unchecked, nothing is claimed of the space.
  (said,) = summary.of_study(_valley(1e-4, 3), [])
  assert "inside" not in said


def test_the_best_comes_with_what_to_expect():
  """D15: without luck, by reruns or by the other trials, and its interval."""
  alone = _valley(1e-4, 3)
  for results in (alone, _rerun(alone, [0.11, 0.112, 0.117])):
    (said,) = _said(results)
    found = expected.of_best(results)
    assert found.method in said
    assert all(f"{n:.4g}" in said for n in (found.value, *found.interval))
  assert "3 reruns" in said


@pytest.mark.parametrize("improvement", [0.0, 0.2])
def test_a_choice_is_better_or_not(improvement):
  """E1: in words, with the difference and its interval."""
  space = {"optimizer": space_lib.Choice(("adam", "lion"), role="scientific")}
  noise = 0.001 * np.random.default_rng(0).normal(size=20)
  points = [{"optimizer": name} for name in ("adam", "lion") * 10]
  values = [0.3 + improvement * (i % 2) + n for i, n in enumerate(noise)]
  results = by_hand.study(space, points, values)
  _, said = _said(results)
  ((best, other, found),) = compare.choices(results)
  assert best in said and other in said
  assert all(f"{end:.4g}" in said for end in found.interval)
  assert ("is better than" in said) == bool(improvement)
  assert said.startswith("No significant difference") != bool(improvement)


_SEEDS = 0.001 * np.array([-1.2, -0.6, 0.1, 0.6, 1.1])


@pytest.mark.parametrize(
  "better, steps, said",
  [
    (0.02, 100, "Adopt the candidate"),
    (-0.02, 100, "Keep the baseline"),
    (0.0002, 100, "No significant difference"),
    (0.02, 200, "Not comparable"),
  ],
)
def test_the_conclusion(better, steps, said):
  """E3: the verdict in plain words, the difference and what changes."""
  one = _rerun(_valley(1e-4, 3e-3), 0.12 + _SEEDS)
  other = _rerun(_valley(1e-4, 3), 0.12 - better + _SEEDS)
  config = {**other.study["config"], "max_train_steps": steps}
  one.study["config"]["max_train_steps"] = 100
  other.study["config"] = config
  found = compare.compare(one, other)
  sentences = summary.of_both(
    found, {"baseline": one, "candidate": other}, [[], []]
  )
  assert len(sentences) == 3
  assert sentences[-1].startswith(said)
  assert f"{abs(found.improvement):.4g}" in sentences[-1]
  assert "hparams.learning_rate" in sentences[-1]
  assert ("lower" in sentences[-1]) == (better > 0)


def test_nothing_has_a_value_yet():
  """Of a study whose trials all diverged, and of a sound one."""
  (said,) = summary.of_study(by_hand.line([0.1] * 4, range(4)), [])
  assert said.startswith("none of 4 trials")
  assert _said(generated.study(0, 20))
