"""How long to train: the rules, on numbers with planted answers."""

import math

import numpy as np
import pytest

import jaxplay
from jaxplay.playbook.steps import decide as steps

_TARGET = steps.Target("train/error_rate", 0.0)


def _fits(times, infeasible=()):
  """Rates 0.01, 0.1, 1, ... and the steps in which each fits; None: never."""
  return [
    steps.Fit(
      rate=10.0 ** (i - 2),
      status="infeasible" if i in infeasible else "completed",
      steps=time,
      least=0.0 if time else 0.2 + i,
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
  """F2: steps of the fastest trial; no answer at an edge, or where none fits.

  A rate beyond which all diverge is an edge of stability, not of the range.
  """
  found, findings = steps.initial(_fits(times, infeasible), _TARGET, 1000)
  assert found == expected
  assert [finding.verdict for finding in findings] == verdicts


@pytest.mark.parametrize("times", [[300, 500, 900], [900, 500, 300]])
def test_an_edge_proposes_the_wider_range(times):
  """F2: the range grows by ten on the side of the best rate, and stays else."""
  _, (finding,) = steps.initial(_fits(times), _TARGET, 1000)
  low, high = finding.evidence["proposed"]
  is_low = times[0] == min(times)
  assert low == pytest.approx(0.001 if is_low else 0.01)
  assert high == pytest.approx(1 if is_low else 10)
  assert f"{low:g}:{high:g}" in finding.advice


def test_nothing_fits_says_how_close_it_was():
  """F2, F3: more steps, a looser target, or it is compute-bound."""
  found, (finding,) = steps.initial(_fits([None] * 3), _TARGET, 1000)
  assert found is None and finding.evidence["least"] == 0.2
  assert all(w in finding.advice for w in ("--steps=4000", "compute-bound"))


@pytest.mark.parametrize("window, expected", [(0, 20), (10, 20), (30, 70)])
def test_a_target_is_reached_for_a_whole_window(window, expected):
  """F2: a perfect fit is one over an epoch, not a lucky batch."""
  values = [0.5, 0.0, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0]
  curves = {"m": (np.arange(10, 90, 10), np.array(values))}
  assert steps.Target("m", 0.0).reached(curves, window) == expected


def test_a_target_that_is_never_reached():
  """F2: neither by NaN, nor by another metric."""
  curves = {"m": (np.arange(3), np.array([math.nan, 1.0, math.nan]))}
  assert steps.Target("m", 0.5).reached(curves) is None
  assert steps.Target("other", 0.5).reached(curves) is None


@pytest.mark.parametrize(
  "text", ["", "valid/error_rate", "a<0.1", "a<=x", "a<=nan", "a<=inf"]
)
def test_targets_that_are_none(text):
  """Errors: a target is METRIC<=X."""
  with pytest.raises(jaxplay.UserError, match="METRIC<=X"):
    steps.Target.parse(text)


def test_a_target_reads_what_it_says():
  """F2: `str` and `parse` undo each other."""
  target = steps.Target("valid/loss", 0.125)
  assert steps.Target.parse(str(target)) == target
