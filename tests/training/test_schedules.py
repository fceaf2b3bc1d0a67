"""Schedules: the published curves, with every number traced."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxplay import config as config_lib
from jaxplay.training import schedules

TOTAL = 100
HPARAMS = dict(
  learning_rate=0.5,
  warmup_steps=10,
  max_train_steps=TOTAL,
  final_factor=0.1,
  decay_timescale=25,
  cooldown_fraction=0.3,
)
EVERY = [
  *((name, "1-sqrt") for name in schedules.SCHEDULES if name != "wsd"),
  *(("wsd", shape) for shape in schedules.COOLDOWN_SHAPES),
]


@jax.jit
def _rates(hparams):
  """The rates of 120 updates, 20 of them past the end."""
  steps = jnp.arange(TOTAL + 20)
  return jax.vmap(lambda step: schedules.learning_rate(step, hparams))(steps)


def _curve(schedule, shape="1-sqrt", **changes):
  """Rates in units of the base rate; changes must keep the type of a number."""
  hparams = {
    key: np.int32(value) if isinstance(value, int) else np.float32(value)
    for key, value in (HPARAMS | changes).items()
  } | schedules.numbers(schedule, shape)
  return np.asarray(_rates(hparams)) / hparams["learning_rate"]


@pytest.mark.parametrize("schedule, shape", EVERY)
def test_warmup(schedule, shape):
  """S1: each rises linearly from 1/warmup to 1, then follows its own curve."""
  curve = _curve(schedule, shape)
  ramp = optax.linear_schedule(0.1, 1.0, 9)(np.arange(10))
  bare = _curve(schedule, shape, warmup_steps=0)
  if schedule == "rsqrt":  # which falls by step, warm or not
    ramp = ramp * bare[:10]
  np.testing.assert_allclose(curve[:10], ramp, rtol=1e-5)
  assert curve[10] == pytest.approx(1.0, rel=1e-5)
  if schedule in ("constant", "rsqrt", "wsd"):
    np.testing.assert_allclose(curve[10:], bare[10:], rtol=1e-5)


@pytest.mark.parametrize("warmup", [0, 10])
def test_linear_and_cosine_are_optax_own(warmup):
  """S1: after the warmup they are optax's schedules of the remaining steps."""
  steps = np.arange(TOTAL + 20 - warmup)
  rest = TOTAL - warmup
  for final in (0.0, 0.1):
    changes = dict(warmup_steps=warmup, final_factor=final)
    np.testing.assert_allclose(
      _curve("linear", **changes)[warmup:],
      optax.linear_schedule(1.0, final, rest)(steps),
      rtol=1e-5,
      atol=1e-6,
    )
    np.testing.assert_allclose(
      _curve("cosine", **changes)[warmup:],
      [optax.cosine_decay_schedule(1.0, rest, final)(step) for step in steps],
      rtol=1e-5,
      atol=1e-6,
    )


def test_constant():
  """A4: a constant rate is constant, from the very first step."""
  np.testing.assert_array_equal(_curve("constant", warmup_steps=0), 1.0)


def test_rsqrt():
  """S1: constant until the timescale, then as one over the root of the step."""
  curve = _curve("rsqrt", warmup_steps=0)
  updates = np.arange(1, TOTAL + 21)
  np.testing.assert_allclose(
    curve, np.minimum(1, np.sqrt(25 / updates)), rtol=1e-5
  )
  # Four times as many updates, half of the rate.
  assert curve[99] == pytest.approx(curve[24] / 2, rel=1e-5)


SHAPES = {
  "1-sqrt": lambda c: 1 - np.sqrt(c),
  "linear": lambda c: 1 - c,
  "cosine": lambda c: (1 + np.cos(np.pi * c)) / 2,
  "square": lambda c: 1 - c**2,
  "mirror_cosine": lambda c: 2 * (1 - c) - (1 + np.cos(np.pi * c)) / 2,
}


@pytest.mark.parametrize("shape", schedules.COOLDOWN_SHAPES)
@pytest.mark.parametrize("fraction", [0.3, 1.0, 0.01])
def test_wsd_cools_down_at_the_end(shape, fraction):
  """S2: constant until the last fraction of all steps, then the shape."""
  length = round(fraction * TOTAL)
  start = TOTAL - length
  curve = _curve("wsd", shape, warmup_steps=0, cooldown_fraction=fraction)
  # The step at which the cooldown starts still has the whole rate.
  np.testing.assert_array_equal(curve[: start + 1], 1.0)
  done = np.minimum((np.arange(start, TOTAL + 20) - start) / length, 1)
  expected = 0.1 + 0.9 * SHAPES[shape](done)
  np.testing.assert_allclose(curve[start:], expected, rtol=1e-5, atol=1e-6)
  assert length == 1 or curve[start + 1] < 1


def test_no_cooldown():
  """S2: a cooldown of no length leaves the rate alone to the end."""
  curve = _curve("wsd", warmup_steps=0, cooldown_fraction=0.0)
  np.testing.assert_array_equal(curve[:TOTAL], 1.0)


def test_cooldown_is_a_whole_number_of_steps():
  """S3: a fraction that is no whole number is rounded to the nearest."""
  for fraction, length in ((0.124, 12), (0.126, 13)):
    curve = _curve("wsd", warmup_steps=0, cooldown_fraction=fraction)
    assert np.flatnonzero(curve < 1)[0] == TOTAL - length + 1


def test_a_cooldown_does_not_depend_on_the_run_before():
  """S3: a longer run's cooldown of as many steps has the same rates."""
  short = _curve(
    "wsd", warmup_steps=0, cooldown_fraction=0.4, max_train_steps=50
  )
  long = _curve(
    "wsd", warmup_steps=0, cooldown_fraction=0.2, max_train_steps=100
  )
  np.testing.assert_allclose(short[30:50], long[80:100], rtol=1e-6)


@pytest.mark.parametrize("schedule, shape", EVERY)
def test_decays_only_fall(schedule, shape):
  """S1: after the warmup no rate rises, and none leaves [final, 1]."""
  curve = _curve(schedule, shape)
  assert (np.diff(curve[:10]) > 0).all()
  assert (np.diff(curve[10:]) <= 1e-7).all()
  assert curve.max() <= 1 and curve[10:].min() >= 0.1 - 1e-6
  if schedule in ("linear", "cosine", "wsd"):
    assert curve[TOTAL - 1] < 0.3
    np.testing.assert_allclose(curve[TOTAL:], 0.1, rtol=1e-5)


@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_all_warmup(schedule):
  """S1: a run of nothing but warmup is a ramp."""
  curve = _curve(
    schedule, warmup_steps=TOTAL, cooldown_fraction=0.0, decay_timescale=1000
  )
  expected = np.arange(1, TOTAL + 1) / TOTAL
  np.testing.assert_allclose(curve[:TOTAL], expected, rtol=1e-5)


def test_one_compilation_serves_a_study():
  """Idea 1: every number and every name is traced: none compiles anew."""
  _curve("constant")
  compiled = _rates._cache_size()
  changes = (
    dict(learning_rate=3.0),
    dict(warmup_steps=0),
    dict(warmup_steps=99),
    dict(max_train_steps=7),
    dict(final_factor=0.0),
    dict(decay_timescale=1),
    dict(cooldown_fraction=1.0),
    dict(cooldown_fraction=0.0),
  )
  for (schedule, shape), change in itertools.product(EVERY, changes):
    assert np.isfinite(_curve(schedule, shape, **change)).all()
  assert _rates._cache_size() == compiled


@pytest.mark.parametrize("schedule", schedules.SCHEDULES)
def test_a_population_has_each_its_own(schedule):
  """Idea 1: vmap over the numbers is each schedule by itself."""
  members = [
    HPARAMS,
    HPARAMS | dict(learning_rate=0.1, warmup_steps=0, final_factor=0.5),
    HPARAMS | dict(max_train_steps=60, cooldown_fraction=0.5),
  ]
  names = schedules.numbers(schedule, "1-sqrt")
  members = [jax.tree.map(np.float32, member) | names for member in members]
  members.append(members[0] | schedules.numbers("linear", "square"))
  stacked = {
    key: np.array([member[key] for member in members]) for key in members[0]
  }
  together = jax.vmap(_rates)(stacked)
  for rates, member in zip(together, members, strict=True):
    np.testing.assert_allclose(rates, _rates(member), rtol=1e-6)


@pytest.mark.parametrize("shape", schedules.COOLDOWN_SHAPES)
@pytest.mark.parametrize("final", [0.0, 0.1, 0.7])
def test_before_its_cooldown_a_run_is_a_constant_one(shape, final):
  """S3: until the cooldown the rates are those of the constant schedule.

  Bit for bit, at any length, so that a branch can begin with its checkpoint.
  """
  changes = dict(learning_rate=0.37, final_factor=final)
  constant = _curve("constant", **changes)
  cooled = _curve("wsd", shape, **changes)
  np.testing.assert_array_equal(cooled[:71], constant[:71])
  assert (cooled[71:] < constant[71:]).all()


def test_the_rate_is_a_multiple_of_the_base():
  """S1: doubling the base rate doubles every rate, and nothing else."""
  for schedule, shape in EVERY:
    np.testing.assert_allclose(
      _curve(schedule, shape, learning_rate=1.0),
      _curve(schedule, shape, learning_rate=0.25),
      rtol=1e-6,
    )


@pytest.mark.parametrize("schedule, shape", EVERY)
@pytest.mark.parametrize("warmup", [0, 10])
def test_the_final_rate_of_a_config(schedule, shape, warmup):
  """D14, S1: what checks read off a config is how its schedule ends."""
  curve = _curve(schedule, shape, warmup_steps=warmup)
  flat = {f"hparams.{key}": value for key, value in HPARAMS.items()} | {
    "max_train_steps": HPARAMS["max_train_steps"],
    "hparams.warmup_steps": warmup,
    "schedule": schedule,
  }
  expected = curve[HPARAMS["max_train_steps"]] / curve.max()
  assert config_lib.final_rate(flat) == pytest.approx(expected, abs=0.01)
  assert config_lib.final_rate(flat | {"schedule": "mine.py:f"}) is None
