"""An optimizer and a schedule."""

from typing import Annotated

import jax.numpy as jnp
from optax import contrib


def muon(
  learning_rate,
  beta: Annotated[float, "[0, 1)", "momentum of the matrices"] = 0.95,
  adam_rate: Annotated[float, "(0, inf)", "rate of what is no matrix"] = 0.3,
):
  """Muon (Jordan et al. 2024), whose other parameters have their own rate.

  `learning_rate` is that of the step, after the schedule; the other arguments
  are config.hparams.beta and config.hparams.adam_rate. Both are traced: a study
  varies them without compiling again.
  """
  return contrib.muon(
    learning_rate, beta=beta, adam_learning_rate=adam_rate * learning_rate
  )


def warm_restarts(step, hparams, *, periods: Annotated[int, "[1, 100]"] = 3):
  """Cosines that start again (Loshchilov and Hutter 2016): a factor.

  `step` counts updates from 0, `hparams` has all numbers of the run.
  """
  length = hparams["max_train_steps"] / periods
  return 0.5 * (1 + jnp.cos(jnp.pi * (step % length) / length))
