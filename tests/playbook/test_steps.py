"""The number of training steps: the rules, on numbers with known results."""

import math

import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay.playbook.steps import decide as steps

_TARGET = steps.Target("train/error_rate", 0.0)


def _trials(times, infeasible=()):
  """Trials of rates 0.01, 0.1, 1, ..., and their steps to fit; None: no fit."""
  return [
    steps.SweepTrial(
      rate=10.0 ** (i - 2),
      status="infeasible" if i in infeasible else "completed",
      steps=time,
      best=0.0 if time else 0.2 + i,
    )
    for i, time in enumerate(times)
  ]


@pytest.mark.parametrize(
  "times, infeasible, expected, verdicts",
  [
    ([900, 300, 500], (), 300, ["ok"]),
    ([900, 300, 300], (), 300, ["ok"]),
    ([300, 500, 900], (), None, ["fail"]),
    ([900, 500, 300], (), None, ["fail"]),
    ([None, 300, None], (), 300, ["ok"]),
    ([900, 300, None], (2,), 300, ["ok", "warn"]),
    ([None, None, None], (), None, ["unknown"]),
  ],
)
def test_fastest_rate_of_a_sweep(times, infeasible, expected, verdicts):
  """F2: steps of the fastest trial; no result at an edge, or without a fit.

  If all higher learning rates diverge, it is an edge of stability.
  """
  number, findings = steps.initial(_trials(times, infeasible), _TARGET, 1000)
  assert number == expected
  assert [finding.verdict for finding in findings] == verdicts


@pytest.mark.parametrize("times", [[300, 500, 900], [900, 500, 300]])
def test_an_edge_proposes_the_wider_range(times):
  """F2: the range grows tenfold on the side of the best learning rate."""
  _, (finding,) = steps.initial(_trials(times), _TARGET, 1000)
  low, high = finding.evidence["proposed"]
  is_low = times[0] == min(times)
  assert low == pytest.approx(0.001 if is_low else 0.01)
  assert high == pytest.approx(1 if is_low else 10)
  assert f"{low:g}:{high:g}" in finding.advice


def test_no_trial_fits():
  """F2, F3: more steps, a looser target, or the workload is compute-bound."""
  number, (finding,) = steps.initial(_trials([None] * 3), _TARGET, 1000)
  assert number is None and finding.evidence["least"] == 0.2
  assert all(w in finding.advice for w in ("--steps=4000", "compute-bound"))


@pytest.mark.parametrize("window, expected", [(0, 20), (10, 20), (30, 70)])
def test_a_target_is_reached_for_a_whole_window(window, expected):
  """F2: the training set is fitted over an epoch, and not on a single batch."""
  values = [0.5, 0.0, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0]
  curves = {"m": (np.arange(10, 90, 10), np.array(values))}
  assert steps.Target("m", 0.0).reached(curves, window) == expected


def test_a_target_that_is_never_reached():
  """F2: NaN and other metrics do not count."""
  curves = {"m": (np.arange(3), np.array([math.nan, 1.0, math.nan]))}
  assert steps.Target("m", 0.5).reached(curves) is None
  assert steps.Target("other", 0.5).reached(curves) is None


@pytest.mark.parametrize(
  "text", ["", "valid/error_rate", "a<0.1", "a<=x", "a<=nan", "a<=inf"]
)
def test_invalid_targets(text):
  """Errors: a target is METRIC<=X."""
  with pytest.raises(jaxplay.UserError, match="METRIC<=X"):
    steps.Target.parse(text)


_SCORE = (("metric", "score.py:Score", "score", True, None),)


@pytest.mark.parametrize(
  "target, text",
  [
    (steps.Target("valid/loss", 0.125), "valid/loss<=0.125"),
    (steps.Target("valid/accuracy", 0.875), "valid/accuracy>=0.875"),
    (steps.Target("valid/score", -2.0, _SCORE), "valid/score>=-2"),
  ],
)
def test_parsing_a_target(target, text):
  """F2: `parse` is the inverse of `str`, in either direction."""
  assert str(target) == text
  assert steps.Target.parse(text, target.declared) == target


@pytest.mark.parametrize(
  "text, expected",
  [
    ("valid/accuracy<=0.9", "valid/accuracy>=0.9"),
    ("valid/loss>=0.5", "valid/loss<=0.5"),
  ],
)
def test_a_target_in_the_wrong_direction(text, expected):
  """Errors: the sentence has the target that is possible."""
  with pytest.raises(jaxplay.UserError, match=expected):
    steps.Target.parse(text)


def test_a_target_that_no_accuracy_can_reach():
  """Errors: a share is at most 1."""
  with pytest.raises(jaxplay.UserError, match="METRIC>=X"):
    steps.Target.parse("valid/accuracy>=1.5")


def test_reaching_a_target_of_a_maximized_metric():
  """F2: as the mirrored error rate reaches the mirrored target."""
  errors = np.array([0.5, 0.0, 0.125, math.nan, 0.125, 0.0, 0.0, 0.0])
  at = np.arange(10, 90, 10)
  for window in (0, 10, 30):
    found = [
      target.reached({target.metric: (at, values)}, window)
      for target, values in (
        (steps.Target("train/error_rate", 0.0625), errors),
        (steps.Target("train/accuracy", 0.9375), 1 - errors),
        (steps.Target("train/score", -0.0625, _SCORE), -errors),
      )
    ]
    assert found[0] is not None and len(set(found)) == 1
  assert steps.Target("train/accuracy", 0.9).cost(math.nan) == math.inf


def test_the_closest_trial_of_a_maximized_metric():
  """F2: no trial reaches the accuracy; the largest one is named."""
  target = steps.Target("train/accuracy", 1.0)
  trials = [
    steps.SweepTrial(rate, "completed", None, value)
    for rate, value in ((0.01, 0.5), (0.1, 0.75), (1.0, math.nan))
  ]
  number, (finding,) = steps.initial(trials, target, 1000)
  assert number is None and finding.evidence["largest"] == 0.75
  assert finding.evidence["at_rate"] == 0.1


@pytest.mark.parametrize("found, every", [(54, 2), (500, 25), (5_000, None)])
def test_a_short_run_is_evaluated_often_enough(found, every):
  """D14, F2: 54 steps of a config that evaluates every 100 have no best one."""
  config = config_lib.base()
  config.max_train_steps = 300
  flat = config_lib.flatten(config)
  trials = _trials([found + 1, found, 2 * found])
  result = steps.as_result(trials, {}, _TARGET, 10_000, {}, flat)
  assert result.settings["max_train_steps"] == found
  assert result.settings.get("eval_every") == every
  assert any("eval_every" in line for line in result.summary) == bool(every)
