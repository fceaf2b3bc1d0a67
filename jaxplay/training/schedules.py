"""Learning rate schedules whose numbers may all be traced.

optax's schedules branch in Python on step counts, so a study over them would
compile many times; these are the same curves with `jnp.where`. A schedule is a
factor in [0, 1] of the base learning rate, after a linear warmup from zero.

The schedule itself is a traced number, too: all factors are computed, which is
cheap, and one is selected. So a run, its branches, and a study of schedules are
one program, and schedules that agree at a step agree bit for bit.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# Factor of the base learning rate after a fraction c of the cooldown
# (Hägele et al. 2024, arXiv 2405.18392, section 3 and appendix).
COOLDOWN_SHAPES = {
  "1-sqrt": lambda c: 1 - jnp.sqrt(c),
  "linear": lambda c: 1 - c,
  "cosine": lambda c: 0.5 * (1 + jnp.cos(jnp.pi * c)),
  "square": lambda c: 1 - jnp.square(c),
  # The cosine, mirrored at the linear shape.
  "mirror_cosine": lambda c: 2 * (1 - c) - 0.5 * (1 + jnp.cos(jnp.pi * c)),
}


def _constant(step, after_warmup, hparams):
  return jnp.ones_like(after_warmup)


def _linear(step, after_warmup, hparams):
  return _down_to(hparams["final_factor"], 1 - after_warmup)


def _cosine(step, after_warmup, hparams):
  return _down_to(
    hparams["final_factor"], COOLDOWN_SHAPES["cosine"](after_warmup)
  )


def _rsqrt(step, after_warmup, hparams):
  # Vaswani et al. 2017: decays as 1/sqrt(step) after the timescale.
  timescale = jnp.float32(hparams["decay_timescale"])
  return jnp.sqrt(timescale / jnp.maximum(step + 1, timescale))


def _wsd(step, after_warmup, hparams):
  total = jnp.float32(hparams["max_train_steps"])
  # An integer number of steps, so that a branch can start at its beginning.
  length = jnp.round(hparams["cooldown_fraction"] * total)
  done = _fraction(step - (total - length), length)
  left = _select(
    hparams["cooldown_shape"],
    [shape(done) for shape in COOLDOWN_SHAPES.values()],
  )
  # Before the cooldown exactly the constant schedule.
  return jnp.where(done > 0, _down_to(hparams["final_factor"], left), 1.0)


SCHEDULES = {
  "constant": _constant,
  "linear": _linear,
  "cosine": _cosine,
  "rsqrt": _rsqrt,
  "wsd": _wsd,  # warmup, stable, decay: constant, then a cooldown
}


def numbers(
  schedule: str, cooldown_shape: str, more: Iterable[str] = ()
) -> dict[str, np.int32]:
  """The traced numbers that encode the names.

  Args:
    schedule: One of `SCHEDULES`, or of `more`.
    cooldown_shape: One of `COOLDOWN_SHAPES`.
    more: Names of the user's schedules, in the order of `learning_rate`.
  """
  return {
    "schedule": np.int32([*SCHEDULES, *more].index(schedule)),
    "cooldown_shape": np.int32(list(COOLDOWN_SHAPES).index(cooldown_shape)),
  }


def learning_rate(
  step: jax.Array,
  hparams: dict[str, Any],
  more: Sequence[Callable[[jax.Array, dict], Any]] = (),
) -> jax.Array:
  """The learning rate of the update number `step`, counted from 0.

  Decays span the steps after the warmup; `wsd` decays over the last
  `cooldown_fraction` of all steps.

  Args:
    step: int32, number of updates so far.
    hparams: Traced numbers: those of `numbers`, `learning_rate`,
      `warmup_steps`, `max_train_steps`, `final_factor`, `decay_timescale` and
      `cooldown_fraction`.
    more: The user's schedules: (updates so far, as a float, and hparams) to the
      factor.
  """
  step = jnp.float32(step)
  warmup = jnp.float32(hparams["warmup_steps"])
  rest = jnp.float32(hparams["max_train_steps"]) - warmup
  after_warmup = _fraction(step - warmup, rest)
  factor = _select(
    hparams["schedule"],
    [curve(step, after_warmup, hparams) for curve in SCHEDULES.values()]
    + [curve(step, hparams) for curve in more],
  )
  # Not zero at the first update: 1/warmup, ..., 1.
  warm = jnp.where(step < warmup, (step + 1) / jnp.maximum(warmup, 1), 1.0)
  return hparams["learning_rate"] * warm * factor


def _select(number, values):
  values = [jnp.float32(value) for value in values]
  return jax.lax.select_n(jnp.int32(number), *values)


def _fraction(done, of):
  return jnp.clip(done / jnp.maximum(of, 1), 0.0, 1.0)


def _down_to(final, factor):
  return final + (1 - final) * factor
