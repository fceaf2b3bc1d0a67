"""Thresholds of the sharpness, on quadratics; what explains an instability."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay.playbook.stability import decide, sharpness
from jaxplay.training import optimizers
from jaxplay.training import sharpness as measured_by
from jaxplay.training import workload as workload_lib

_STEPS = np.arange(1, 101)
_FALL = 2.3 * np.exp(-_STEPS / 30)
_BUMP = _FALL + 1.8 * np.exp(-(((_STEPS - 60) / 6) ** 2))


def _config(optimizer, **hparams):
  config = config_lib.base()
  config.optimizer = optimizer
  for name, value in hparams.items():
    config_lib.override(config, f"hparams.{name}", value)
  config_lib.validate(config)
  return config


# With a large epsilon the preconditioner of a method does not move.
_CASES = [
  ("sgd", {}),
  *(
    (name, {"momentum": m})
    for name in ("momentum", "nesterov")
    for m in (0, 0.9)
  ),
  ("rmsprop", {"momentum": 0.5, "epsilon": 1e4}),
  *(
    (name, {"beta1": beta, "beta2": 0.9, "epsilon": 1e2})
    for name in ("adam", "adamw", "nadam")
    for beta in (0.5, 0.9)
  ),
]


@pytest.mark.parametrize("optimizer, hparams", _CASES)
def test_a_quadratic_diverges_above_the_threshold(optimizer, hparams):
  """I8: curvature of 95% of the threshold converges, 105% diverges."""
  config = _config(optimizer, **hparams)
  numbers = workload_lib.traced(config)
  rate = 0.1
  update = optimizers.build(optimizer, numbers, rate)

  def trained(curvature):
    def body(carry, _):
      x, state = carry
      step, state = update.update({"w": curvature * x["w"]}, state, x)
      return (optax.apply_updates(x, step), state), x["w"]

    start = {"w": jnp.float32(1e-8)}
    first = (start, update.init(start))
    (_, state), xs = jax.lax.scan(body, first, None, 2000)
    return np.abs(np.asarray(xs)), state

  # The preconditioner after many steps near 0.
  _, state = trained(0.0)
  scale = measured_by.preconditioner(optimizer, numbers, state)
  limit = sharpness.limit(config) / rate
  limit *= 1.0 if scale is None else float(scale["w"])
  below, _ = trained(0.95 * limit)
  above, _ = trained(1.05 * limit)
  # Not from the start: the first corrections of Adam overshoot.
  assert below[-1] < 0.1 * below[0]
  assert not above.max() < 1e3 * above[0]


def test_an_unknown_threshold():
  """I8: it is refused, with the optimizer and what is known."""
  with pytest.raises(jaxplay.UserError, match="lion.*adam"):
    sharpness.limit(_config("lion"))


def _run(loss=_BUMP, status="completed", **fields):
  return decide.Run(0.1, status, _STEPS, loss, np.ones(100), **fields)


def test_where_the_loss_rises():
  """I8: from the lowest loss before the rise to the highest after it."""
  start, end = sharpness.rise(_run(), "rises")
  assert 38 <= start <= 52 and 58 <= end <= 66
  diverged = np.where(_STEPS > 50, np.nan, _FALL + np.exp(_STEPS - 48.0))
  start, end = sharpness.rise(_run(diverged, "infeasible"), "diverged")
  assert 35 <= start <= 47 and end == 100
  assert sharpness.rise(_run(np.full(100, 2.3)), "never trains") == (0, 100)
  start, _ = sharpness.rise(_run(2.3 + _STEPS / 10), "above start")
  assert start == 0
  nothing = decide.Run(1.0, "infeasible", _STEPS[:0], _FALL[:0], _FALL[:0])
  assert sharpness.rise(nothing, "diverged") == (0, 0)


@pytest.mark.parametrize("kind", ["", "rises"])
@pytest.mark.parametrize("total", [1, 2, 30, 100_000])
def test_steps_to_measure(kind, total):
  """I8: few, within the run, and some where its loss rises."""
  steps = sharpness.steps(_run(), kind, total)
  assert steps == sorted(set(steps)) and len(steps) <= 13
  assert 0 <= steps[0] and steps[-1] <= max(total - 1, 1)
  if kind and total > 100:
    start, end = sharpness.rise(_run(), kind)
    assert sum(start <= step <= end for step in steps) >= 5


def _explained(ratios, run=None):
  """The finding of a run with these ratios where its loss rises."""
  start, end = sharpness.rise(run or _run(), "rises")
  ratios = [*ratios, *(ratios[-1:] * (6 - len(ratios)))]
  steps = np.linspace(start, end, len(ratios)).astype(int).tolist()
  rows = [
    sharpness.Row(
      step=step,
      rate=0.1,
      sharpness=None if ratio is None else 20 * ratio,
      products=30,
      examples=1024,
    )
    for step, ratio in zip(steps, ratios, strict=True)
  ]
  # High elsewhere: before and after the rise.
  other = dict(rate=0.1, sharpness=500.0, products=30, examples=1024)
  rows = [
    sharpness.Row(step=1, **other),
    *rows,
    sharpness.Row(step=90, **other),
  ]
  measured = sharpness.Measured("", run or _run(), "rises", rows, limit=2.0)
  return sharpness.explain(measured)


@pytest.mark.parametrize(
  "ratios, verdict, explained",
  [
    ((0.5, 1.4, 0.9), "warn", True),
    ((None, 1.4, None), "warn", True),
    ((0.5, 0.8, 0.9), "warn", False),
    # What is missing might have been above.
    ((0.5, None, 0.9), "unknown", None),
    ((None, None, None), "unknown", None),
    ((0.5, 1.01, 0.9), "unknown", None),
    ((), "unknown", None),
  ],
)
def test_what_explains_an_instability(ratios, verdict, explained):
  """I8: above the threshold while the loss rises; else `unknown`."""
  found = _explained(ratios)
  assert (found.verdict, found.evidence["explained"]) == (verdict, explained)
  assert found.advice


def test_a_peak_may_be_between_two_steps():
  """I8: the first and the last step alone exclude nothing between them."""
  run, row = _run(), dict(rate=0.1, sharpness=1.0, products=9, examples=5)
  rows = [sharpness.Row(step=at, **row) for at in sharpness.rise(run, "rises")]
  measured = sharpness.Measured("", run, "rises", rows, limit=2.0)
  found = sharpness.explain(measured)
  assert found.verdict == "unknown" and found.evidence["explained"] is None


def test_clipped_updates_have_no_threshold():
  """I8: clipped updates are smaller than the learning rate says."""
  assert _explained((2.0,), _run(clipped=0.3)).verdict == "unknown"


def test_a_figure_with_both():
  """I8: the sharpness and its threshold, which a warmup moves."""
  rows = [
    sharpness.Row(step=s, rate=r, sharpness=x, products=9, examples=5)
    for s, r, x in ((0, 0.0, 1.0), (10, 0.05, None), (20, 0.1, 40.0))
  ]
  m = sharpness.Measured("rate 0.1", _run(), "rises", rows, limit=2.0)
  assert m.threshold(rows[0]) == math.inf and m.ratio(rows[2]) == 2
  figure = sharpness.figure([m])
  lines = {(line["x"], line["y"]) for line in figure.lines}
  assert lines == {(0, 1.0), (20, 40.0), (20, 20.0)}
  assert sharpness.table([m]).rows[0][2:5] == [40.0, pytest.approx(20), 20]
