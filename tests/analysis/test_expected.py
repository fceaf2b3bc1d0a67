"""What is left of the best value without luck, where the truth is known."""

import dataclasses

import numpy as np
import pytest

from jaxplay.analysis import checklist, expected, trials
from jaxplay.study import space as space_lib
from tests.analysis import by_hand, lucky


@pytest.mark.parametrize("num", [16, 64])
def test_equal_trials_are_worth_what_they_all_are(num):
  """D15: of 64 equal trials of 0.1 on 500 examples the best reports 0.073."""
  found = lucky.errors("flat", num, 30)
  assert found[:, 0].mean() < -0.018
  assert abs(found[:, 1].mean()) < 0.005
  assert found[:, 2].mean() >= 0.9


def test_independent_evaluations_are_selected_too():
  """D15: as above, each of 20 evaluations of a trial with its own luck."""
  rng = np.random.default_rng(0)
  made = by_hand.line([0.1] * 64, num_valid=lucky.EXAMPLES)
  steps = np.arange(1, 21) * 5
  reported, fair = [], []
  for _ in range(20):
    curves = rng.binomial(lucky.EXAMPLES, 0.1, (64, 20)) / lucky.EXAMPLES
    each = [
      dataclasses.replace(t, curves={made.objective: (steps, curve)})
      for t, curve in zip(made.trials, curves, strict=True)
    ]
    results = dataclasses.replace(made, trials=each)
    reported.append(results.value(results.ranked[0]))
    fair.append(expected.of_best(results).value)
  assert np.mean(reported) < 0.075
  assert np.mean(fair) == pytest.approx(0.1, abs=0.002)


def test_the_costs_of_examples_widen_the_interval_of_a_loss():
  """D15: without them it holds no noise of the validation set, and says so."""
  known, unknown = (
    lucky.errors("flat", 16, 30, metric="valid/loss", are_saved=are_saved)
    for are_saved in (True, False)
  )
  assert known[:, 2].mean() >= 0.9 > unknown[:, 2].mean()


@pytest.mark.parametrize("kind", ["bowl", "needle"])
@pytest.mark.parametrize("num", [16, 64])
def test_what_is_truly_better_stays_better(kind, num):
  """D15: a bowl and a needle are not taken for luck, and are covered."""
  found = lucky.errors(kind, num, 30)
  assert abs(found[:, 1].mean()) < (0.02 if kind == "needle" else 0.01)
  assert found[:, 2].mean() >= 0.9


def test_reruns_decide():
  """D15: with two reruns of the best their mean, wider by the examples."""
  results, _ = lucky.study(0, "flat", 20)
  best = results.ranked[0]
  steps, _ = best.curves[results.objective]
  again = [
    dataclasses.replace(
      best, curves={results.objective: (steps, np.full(len(steps), value))}
    )
    for value in (0.1, 0.104)
  ]
  results = dataclasses.replace(results, reruns={best.index: again})
  found = expected.of_best(results)
  assert found.value == pytest.approx(0.102)
  assert "2 reruns" in found.method
  mean, low, high = trials.rerun_interval(results, best.index)
  assert found.interval[0] < low < mean < high < found.interval[1]


def test_too_little_is_told():
  """D15: no estimate without reruns or a surface, and why."""
  found = expected.of_best(by_hand.line([0.1, 0.2]))
  assert found.value is None and found.interval is None
  assert "2 reruns" in found.method and found.method in found.in_words()
  assert expected.of_best(by_hand.line([0.1], range(1))).value is None


def test_a_maximized_objective_is_mirrored():
  """D15: an accuracy is expected to be lower, as its error rate is higher."""
  results, _ = lucky.study(0, "flat", 30)
  mirrored = []
  for trial in results.trials:
    steps, values = trial.curves[results.objective]
    curves = {"valid/accuracy": (steps, 1 - values)}
    mirrored.append(dataclasses.replace(trial, curves=curves))
  other = dataclasses.replace(
    results, trials=mirrored, objective="valid/accuracy"
  )
  one, two = expected.of_best(results), expected.of_best(other)
  assert two.value == pytest.approx(1 - one.value)
  assert two.interval == pytest.approx(
    (1 - one.interval[1], 1 - one.interval[0])
  )


@pytest.mark.parametrize("kind", ["flat", "bowl"])
@pytest.mark.parametrize("num", [16, 40, 100])
def test_luck_is_no_reason_for_more_trials(kind, num):
  """D3: a healthy study on 500 examples is left alone without reruns."""
  verdicts = [
    checklist.enough_trials(lucky.study(seed, kind, num)[0]).verdict
    for seed in range(10)
  ]
  assert "warn" not in verdicts


def test_assumed_noise_decides_nothing():
  """D3, D14: of a loss without reruns no trial is known to be as good."""
  for seed in range(5):
    results, _ = lucky.study(seed, "bowl", 40, metric="valid/loss")
    found = checklist.enough_trials(results)
    assert found.verdict == "unknown" and "--seeds" in found.advice
    assert found.evidence["noise_from"].startswith("assumed")


@pytest.mark.parametrize("metric", ["valid/error_rate", "valid/loss"])
def test_trials_that_are_all_equal_tie(metric):
  """E1: 20 trials of 0.1033 need no reruns to be told that nothing matters."""
  results = by_hand.line([0.1033] * 20)
  renamed = [
    dataclasses.replace(t, curves={metric: t.curves["valid/error_rate"]})
    for t in results.trials
  ]
  found = checklist.retrain_variance(
    dataclasses.replace(results, trials=renamed, objective=metric)
  )
  assert found.verdict == "warn" and found.evidence["num_trials"] == 20


def test_trials_that_vary_as_their_examples_do_tie():
  """E1: up to the noise of 500 examples; not so where the rate matters."""
  rng = np.random.default_rng(0)
  told = []
  for _ in range(40):
    values = rng.binomial(500, 0.1, 20) / 500
    found = checklist.retrain_variance(by_hand.line(values, num_valid=500))
    told.append(found.verdict)
  assert told.count("warn") >= 30 and set(told) <= {"warn", "unknown"}
  for _ in range(40):
    truth = 0.1 + 0.3 * (np.linspace(0, 1, 20) - 0.5) ** 2
    values = rng.binomial(500, truth) / 500
    found = checklist.retrain_variance(by_hand.line(values, num_valid=500))
    assert found.verdict == "unknown"


def test_the_luck_of_unequal_counts():
  """D15: the best of 9 and of 32 draws, as drawing them gives."""
  draws = np.random.default_rng(0).standard_normal((20_000, 32))
  assert trials.luck(32) == pytest.approx(draws.max(axis=1).mean(), abs=0.02)
  nine = draws[:, :9].max(axis=1).mean()
  assert trials.luck(9) == pytest.approx(nine, abs=0.02)
  assert trials.luck(1) == pytest.approx(0, abs=1e-9)
  mapping = {"model.depth": space_lib.Choice((1, 2))}
  points = [{"model.depth": 1 + (i < 9)} for i in range(41)]
  one, two = trials.isolation(
    by_hand.study(mapping, points, [0.1] * 41), "model.depth"
  )
  assert one["luck"] == trials.luck(32) and two["luck"] == trials.luck(9)
