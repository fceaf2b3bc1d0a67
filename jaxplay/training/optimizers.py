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

adamw, lion, schedule_free_adamw, muon, adafactor, sophia and ademamix are those
of optax. Weight decay is decoupled in all of them (Loshchilov and Hutter 2017):
a step also subtracts rate x weight_decay x parameter, for kernels and
embeddings only; where no parameter is called so, for all with more than one
dimension.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from optax import contrib

import jaxplay
from jaxplay.config import own

Make = Callable[[dict, Any], optax.GradientTransformation]

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


def _muon(hparams):
  # Jordan et al. 2024. A learning rate of -1 leaves the direction; decay and
  # rate are those of all optimizers here.
  return contrib.muon(
    -1.0,
    beta=hparams["momentum"],
    eps=hparams["epsilon"],
    adam_b1=hparams["beta1"],
    adam_b2=hparams["beta2"],
    muon_weight_dimension_numbers=_matrices,
    consistent_rms=0.2,  # steps as large as those of AdamW (arXiv 2502.16982)
  )


# Axes of kernels that are no plain matrix: (those summed over, the outputs).
# The others number matrices of their own: q, k and v, gate and up, positions
# in the window of a convolution.
_AXES = {"qkv": ((0,), (2, 3)), "gate_up": ((0,), (2,)), "out": ((0, 1), (2,))}
_AXES_OF_RANK = {2: ((0,), (1,)), 3: ((0,), (1, 2)), 4: ((2,), (3,))}


def _matrices(params):
  """Which axes of each hidden kernel are a matrix; None: AdamW's.

  Blocks that a scan has stacked are matrices of their own. Where nothing is
  called kernel, as in other libraries, each matrix is one.
  """
  paths = jax.tree_util.tree_leaves_with_path(params)
  has_kernels = any(path[-1].key == "kernel" for path, _ in paths)

  def axes(path, leaf):
    names = [entry.key for entry in path]
    stacked = int("blocks" in names)
    rank = leaf.ndim - stacked
    if {"head", "embedding"} & {*names}:
      return None
    if names[-1] != "kernel" and (has_kernels or rank != 2):
      return None
    by_rank = _AXES_OF_RANK.get(rank)
    found = _AXES.get(names[-2], by_rank) if rank > 2 else by_rank
    if found is None:
      return None
    return contrib.MuonDimensionNumbers(
      *(tuple(axis + stacked for axis in some) for some in found)
    )

  return jax.tree_util.tree_map_with_path(axes, params)


def _adafactor(hparams):
  # Shazeer and Stern 2018; the learning rate multiplies, as in the others.
  return optax.chain(
    optax.scale_by_factored_rms(decay_rate=hparams["decay_rate"]),
    optax.clip_by_block_rms(1.0),
    optax.scale_by_param_block_rms(),
  )


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
  "muon": _descend(_muon),
  "adafactor": _descend(_adafactor),
  # Liu et al. 2023; the Hessian's diagonal is estimated every tenth step.
  "sophia": _descend(
    lambda hparams: contrib.sophia(
      -1.0,  # as of muon
      hparams["beta1"],
      hparams["beta2"],
      hparams["epsilon"],
      weight_decay=0.0,
      gamma=hparams["gamma"],
    )
  ),
  "ademamix": _descend(
    lambda hparams: contrib.scale_by_ademamix(
      hparams["beta1"],
      hparams["beta2"],
      hparams["beta3"],
      hparams["mixing"],
      hparams["epsilon"],
    )
  ),
}


def of_user(
  factory: Callable[..., Any],
  where: str,
  *,
  takes: Collection[str],
  traced: Collection[str],
  static: Mapping[str, Any],
) -> Make:
  """An optimizer of the user or of optax, for `build`.

  Without an argument `weight_decay` it gets the decoupled decay of the others.

  Args:
    factory: Function of `learning_rate` and other arguments that returns an
      optax transformation.
    where: Begins messages.
    takes: What it gets if it names it: learning_rate, mask, weight_decay_mask.
    traced: Arguments that are hyperparameters.
    static: Other arguments and their values.

  Raises:
    jaxplay.UserError: It takes no learning rate.
  """
  if "learning_rate" not in takes:
    raise jaxplay.UserError(
      f"{where} takes no argument learning_rate, which the schedule gives it at"
      " each step"
    )

  def guarded(function):
    return own.guarded(function, f"{where} fails")

  def make(hparams, learning_rate):
    given = dict.fromkeys(takes, _decay_mask) | {"learning_rate": learning_rate}
    numbers = {n: hparams[n] for n in traced}
    made = guarded(factory)(**given, **static, **numbers)
    if not isinstance(made, optax.GradientTransformation):
      raise jaxplay.UserError(
        f"{where} returns {type(made).__name__}; expected an optax"
        " GradientTransformation"
      )
    made = type(made)(*map(guarded, made))
    if "weight_decay" in (*traced, *static):
      return made
    decay = learning_rate * hparams["weight_decay"]
    return optax.chain(made, optax.add_decayed_weights(-decay, _decay_mask))

  return make


def build(
  optimizer: str | Make, hparams: dict, learning_rate: jax.Array | float
) -> optax.GradientTransformation:
  """The optimizer of one step.

  Args:
    optimizer: One of `OPTIMIZERS`, or from `of_user`.
    hparams: Numbers, may be traced: `weight_decay` and those that the optimizer
      reads (`config/parts.py`).
    learning_rate: Of this step, after the schedule.
  """
  make = OPTIMIZERS[optimizer] if isinstance(optimizer, str) else optimizer
  return make(hparams, learning_rate)


def eval_params(name: Any, hparams: dict, opt_state, params):
  """The parameters to evaluate; derived for schedule-free methods."""
  if name != "schedule_free_adamw":
    return params
  state = opt_state._replace(b1=hparams["beta1"])
  return contrib.schedule_free_eval_params(state, params)


def _decay_mask(params):
  mask = jax.tree_util.tree_map_with_path(
    lambda path, _: path[-1].key in _DECAYED, params
  )
  if any(jax.tree.leaves(mask)):
    return mask
  # Libraries call them otherwise, such as w and weight.
  return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
