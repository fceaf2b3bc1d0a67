"""The largest eigenvalue of the Hessian, the sharpness, along a run.

Gradient descent with learning rate r is unstable along an eigenvector whose
eigenvalue is above 2 / r. Of an adaptive method, whose update is the momentum
over a diagonal P, the eigenvalue is that of P^-1/2 H P^-1/2 (Cohen et al. 2022,
arXiv 2207.14484); Gilmer et al. 2021 (arXiv 2110.04369) follow it along a run.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from jax import flatten_util
from scipy.sparse import linalg

import jaxplay
from jaxplay import config as config_lib
from jaxplay import models, usercode
from jaxplay.training import parts, schedules, step, weights
from jaxplay.training import workload as workload_lib

TOLERANCE = 0.02  # relative, of an eigenvalue
EXAMPLES = 512  # of which the loss is the mean, rounded up to whole batches
_VECTORS = 12  # of the Lanczos method between restarts
_RESTARTS = 10


def largest_eigenvalue(
  product: Callable[[np.ndarray], np.ndarray], size: int
) -> tuple[float | None, int]:
  """The largest eigenvalue of a symmetric matrix, by the Lanczos method.

  Args:
    product: The matrix times a vector [size].
    size: Number of rows.

  Returns:
    (eigenvalue, number of products). The eigenvalue is exact to a share of
    `TOLERANCE`; None: it did not converge, or a product is not finite.
  """
  number = 0

  def counted(vector):
    nonlocal number
    number += 1
    return np.asarray(product(np.ravel(vector)), np.float64)

  if size <= _VECTORS:
    matrix = np.stack([counted(row) for row in np.eye(size)])
    if not np.isfinite(matrix).all():
      return None, number
    return float(np.linalg.eigvalsh((matrix + matrix.T) / 2)[-1]), number
  start = np.random.default_rng(0).standard_normal(size)
  try:
    (value,) = linalg.eigsh(
      linalg.LinearOperator((size, size), counted, dtype=np.float64),
      k=1,
      which="LA",
      v0=start,
      ncv=_VECTORS,
      maxiter=_RESTARTS,
      tol=TOLERANCE,
      return_eigenvectors=False,
    )
  except linalg.ArpackError:  # Also of what has not converged.
    return None, number
  return (float(value) if np.isfinite(value) else None), number


def measure(
  config: ml_collections.ConfigDict, steps: Sequence[int]
) -> list[dict[str, Any]]:
  """Trains a run once more, on one device, and measures its sharpness.

  The loss is that of training, in float32, without dropout and augmentation: a
  mean over fixed batches of training examples, each normalized by its own
  statistics where the model has batch norm. Weight decay is no part of it.

  Args:
    config: A checked config, of the optimizers of `preconditioner`.
    steps: Numbers of updates after which to measure, ascending; 0 is left out
      for adaptive methods, which have no P yet.

  Returns:
    For each step that is reached with finite weights: step; rate, the learning
    rate of the next update; sharpness, None if it did not converge; products,
    the number of Hessian-vector products; examples, in the loss.

  Raises:
    jaxplay.UserError: The model has no second derivatives.
  """
  with usercode.running(config.code):
    return _measure(_on_one_device(config), steps)


def _on_one_device(config):
  config = config.copy_and_resolve_references()
  for axis in config_lib.MESH_AXES:
    config.mesh[axis] = 1
  return config


def _measure(config, steps):
  workload = workload_lib.make_workload(config, devices=jax.local_devices()[:1])
  state = workload.init(weights.load(config, workload.state).arrays)
  feed = workload_lib.make_feed(workload, config, 0)
  batches = [
    jax.tree.map(jnp.asarray, batch)
    for batch in workload_lib.fixed_batches(workload, config, EXAMPLES)
  ]
  # Half precision would hide small eigenvalues, and its kernels have no second
  # derivative.
  exact = config.copy_and_resolve_references()
  exact.model.dtype = "float32"
  model = parts.model(exact, workload.task.num_outputs, workload.mesh)
  hessian = _products(model, workload.task, config.frozen)
  curves = tuple(parts.schedules(config).values())
  rows, at = [], 0
  for stop in steps:
    while at < stop:
      upto = min(stop, feed.next_stop(at))
      state, tally = feed.program(
        workload.hparams, state, *feed.arguments(at, upto)
      )
      at = upto
    if at and float(tally["bad_step"]):
      break
    scale = preconditioner(config.optimizer, workload.hparams, state.opt_state)
    if scale is not None and not at:
      continue
    trainable, _ = step.split_params(state.params, config.frozen)
    flat, _ = flatten_util.ravel_pytree(trainable)
    root = jnp.ones_like(flat)
    if scale is not None:
      root = 1 / jnp.sqrt(flatten_util.ravel_pytree(scale)[0])
    product = functools.partial(hessian, workload.hparams, state, batches, root)
    try:
      value, number = largest_eigenvalue(product, flat.size)
    except TypeError as error:  # JAX's, of a function without a derivative.
      reason = str(error).strip().splitlines()[0]
      raise jaxplay.UserError(
        "the sharpness needs second derivatives of the model"
        f" config.model.name={config.model.name!r}, which it has not"
        f" ({reason}); leave the sharpness out"
      ) from error
    rate = schedules.learning_rate(jnp.int32(at), workload.hparams, curves)
    rows.append(
      {
        "step": at,
        "rate": float(rate),
        "sharpness": value,
        "products": number,
        "examples": sum(len(jax.tree.leaves(b)[0]) for b in batches),
      }
    )
  return rows


def _products(model, task, frozen):
  """Makes `(hparams, state, batches, root, v) -> root * H (root * v)`."""

  @jax.jit
  def of_batch(hparams, state, batch, root, vector):
    trainable, fixed = step.split_params(state.params, frozen)
    flat, unravel = flatten_util.ravel_pytree(trainable)

    def loss(flat):
      outputs, _ = models.apply(
        model,
        step.merge_params(unravel(flat), fixed),
        state.batch_stats,
        task.inputs(batch),
        train=True,
        rows=jnp.arange(jax.tree.leaves(batch)[0].shape[0]),
        dropout_key=jax.random.wrap_key_data(state.dropout_key),
      )
      return task.loss(outputs, batch, hparams).mean()

    _, moved = jax.jvp(jax.grad(loss), (flat,), (root * vector,))
    return root * moved

  def product(hparams, state, batches, root, vector):
    vector = jnp.asarray(vector, jnp.float32)
    with jax.default_matmul_precision("highest"):
      # One dispatch per batch, not a loop: see `workload.steps_per_call`.
      parts = [
        of_batch(hparams, state, batch, root, vector) for batch in batches
      ]
    return sum(parts) / len(parts)

  return product


def preconditioner(optimizer: str, hparams: dict, opt_state: Any) -> Any:
  """The diagonal P of an adaptive method, a tree like its parameters.

  The update is that of (heavy-ball) momentum with the gradient over P; of Adam
  and its like P includes the correction of the first moment, as in Cohen et al.
  2022.

  Args:
    optimizer: Name.
    hparams: Its numbers.
    opt_state: Its state after at least one update.

  Returns:
    None: P is 1, of sgd, momentum and nesterov.

  Raises:
    jaxplay.UserError: Its P is not known.
  """
  if optimizer in ("sgd", "momentum", "nesterov"):
    return None
  if optimizer == "rmsprop":
    nu = optax.tree.get(opt_state, "nu")
    return jax.tree.map(lambda v: jnp.sqrt(v + hparams["epsilon"]), nu)
  if optimizer not in ("adam", "nadam", "adamw"):
    raise jaxplay.UserError(
      f"the sharpness with config.optimizer={optimizer!r} is not known; use"
      " sgd, momentum, nesterov, rmsprop, adam, nadam or adamw"
    )
  nu = optax.tree.get(opt_state, "nu")
  count = optax.tree.get(opt_state, "count")
  first = 1 - hparams["beta1"] ** count
  second = jnp.sqrt(1 - hparams["beta2"] ** count)
  # The FAQ's Adam adds epsilon before the correction, optax's after it.
  inside = 1.0 if optimizer == "adamw" else 1 / second
  return jax.tree.map(
    lambda v: first * (jnp.sqrt(v) / second + inside * hparams["epsilon"]), nu
  )
