"""Optimizers by name, from optax's pieces, with every number traced.

An optimizer is built *inside* the traced train step from that step's learning
rate and hyperparameters, so one compilation serves every value of them.

sgd, momentum, nesterov, rmsprop, adam and nadam follow the update rules of the
Playbook's FAQ to the letter ("What are the update rules for all the popular
optimization algorithms?"). Where optax's aliases of the same name differ:

* `optax.adam` adds epsilon after the bias correction of the second moment; the
  FAQ adds it to the uncorrected root, so its epsilon acts as
  epsilon / sqrt(1 - beta2^t), much more strongly in the first steps.
* `optax.nadam` differs in epsilon in the same way, and corrects the momentum
  part of its look-ahead by step t + 1 and the gradient part by t; the FAQ
  corrects both by t.
* `optax.rmsprop` starts its second moment at 0; the FAQ starts it at 1. Both
  can put epsilon inside the root and momentum after the step size, as here.

adamw, lion and schedule_free_adamw are those of optax. Weight decay is
decoupled in all of them (Loshchilov and Hutter 2017): a step also subtracts
rate x weight_decay x parameter, for kernels and embeddings only.
"""

import jax
import jax.numpy as jnp
import optax
from optax import contrib

_DECAYED = ("kernel", "embedding")


def _scale_by_faq_adam(hparams, nesterov):
  """The direction of Adam or NAdam as the FAQ writes them."""
  beta1, beta2 = hparams["beta1"], hparams["beta2"]

  def init(params):
    zeros = optax.tree.zeros_like(params)
    return optax.ScaleByAdamState(jnp.zeros([], jnp.int32), zeros, zeros)

  def update(grads, state, params=None):
    del params
    count = state.count + 1
    mu = optax.tree.update_moment(grads, state.mu, beta1, 1)
    nu = optax.tree.update_moment(grads, state.nu, beta2, 2)
    ahead = optax.tree.update_moment(grads, mu, beta1, 1) if nesterov else mu
    correction = jnp.sqrt(1 - beta2**count) / (1 - beta1**count)
    direction = jax.tree.map(
      lambda m, v: correction * m / (jnp.sqrt(v) + hparams["epsilon"]),
      ahead,
      nu,
    )
    return direction, optax.ScaleByAdamState(count, mu, nu)

  return optax.GradientTransformation(init, update)


def _descend(direction):
  """Steps along -rate x (direction + weight_decay x parameter)."""

  def make(hparams, learning_rate):
    return optax.chain(
      direction(hparams),
      optax.add_decayed_weights(hparams["weight_decay"], _decay_mask),
      optax.scale(-learning_rate),
    )

  return make


def _rmsprop(hparams, learning_rate):
  scale = optax.scale_by_rms(
    hparams["rho"], hparams["epsilon"], initial_scale=1.0, eps_in_sqrt=True
  )
  return optax.chain(
    scale,
    optax.scale(learning_rate),
    optax.trace(hparams["momentum"]),  # after the step size
    optax.add_decayed_weights(
      learning_rate * hparams["weight_decay"], _decay_mask
    ),
    optax.scale(-1.0),
  )


def _schedule_free_adamw(hparams, learning_rate):
  # Defazio et al. 2024, arXiv 2405.15682. Its momentum is the averaging.
  base = optax.adamw(
    learning_rate,
    b1=0.0,
    b2=hparams["beta2"],
    eps=hparams["epsilon"],
    weight_decay=hparams["weight_decay"],
    mask=_decay_mask,
  )
  return contrib.schedule_free(base, learning_rate, b1=hparams["beta1"])


OPTIMIZERS = {
  "sgd": _descend(lambda hparams: optax.identity()),
  "momentum": _descend(lambda hparams: optax.trace(hparams["momentum"])),
  "nesterov": _descend(
    lambda hparams: optax.trace(hparams["momentum"], nesterov=True)
  ),
  "rmsprop": _rmsprop,
  "adam": _descend(lambda hparams: _scale_by_faq_adam(hparams, nesterov=False)),
  "nadam": _descend(lambda hparams: _scale_by_faq_adam(hparams, nesterov=True)),
  "adamw": _descend(
    lambda hparams: optax.scale_by_adam(
      hparams["beta1"], hparams["beta2"], hparams["epsilon"]
    )
  ),
  "lion": _descend(
    lambda hparams: optax.scale_by_lion(hparams["beta1"], hparams["beta2"])
  ),
  "schedule_free_adamw": _schedule_free_adamw,
}


def build(
  name: str, hparams: dict, learning_rate: jax.Array | float
) -> optax.GradientTransformation:
  """The optimizer of one step.

  Args:
    name: One of `OPTIMIZERS`.
    hparams: Numbers, may be traced: `weight_decay` and those that the optimizer
      reads (`config/parts.py`).
    learning_rate: Of this step, after the schedule.
  """
  return OPTIMIZERS[name](hparams, learning_rate)


def eval_params(name: str, hparams: dict, opt_state, params):
  """The parameters to evaluate; derived for schedule-free methods."""
  if name != "schedule_free_adamw":
    return params
  state = opt_state._replace(b1=hparams["beta1"])
  return contrib.schedule_free_eval_params(state, params)


def _decay_mask(params):
  return jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key in _DECAYED, params
  )
