"""Two ways to continue a cosine decay that was planned for half of the run.

Until the middle both are the cosine of a run of half the length.
"""

from typing import Annotated

import jax.numpy as jnp


def restarted(step, hparams):
  """Cosine to 0 at the middle; then warmup and cosine to 0 once more."""
  half = hparams["max_train_steps"] / 2
  warmup = hparams["warmup_steps"]
  again = step - half
  rise = jnp.clip((again + 1) / jnp.maximum(warmup, 1), 0, 1)
  second = rise * _cosine((again - warmup) / (half - warmup))
  return jnp.where(step < half, _to_the_middle(step, hparams), second)


def held(
  step,
  hparams,
  *,
  floor: Annotated[float, "(0, 1)", "factor of the rate that is held"] = 0.1,
):
  """Cosine to a tenth of the rate at the middle, which is then held."""
  return floor + (1 - floor) * _to_the_middle(step, hparams)


def _to_the_middle(step, hparams):
  warmup = hparams["warmup_steps"]
  return _cosine((step - warmup) / (hparams["max_train_steps"] / 2 - warmup))


def _cosine(done):
  return 0.5 * (1 + jnp.cos(jnp.pi * jnp.clip(done, 0, 1)))
