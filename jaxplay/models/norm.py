"""Normalization layers: batch norm over the global batch or over ghost groups.

Training codebases differ in batch norm. Here:

* Statistics are over the *global* batch, or over ghost groups of exactly
  `virtual_batch_size` consecutive examples of it (Hoffer et al. 2017,
  arXiv 1705.08741; Playbook, batch normalization implementation details),
  on any device layout: a device may hold several groups and a group may span
  devices. Under `jit` on a sharded batch this holds by construction, because
  groups depend only on the position in the global batch.
* Moments are first taken within each example, so that only small [batch,
  features] arrays are regrouped; activations stay where they are.
* Data are shifted by the first value of the group (Chan, Golub and LeVeque
  1983, The American Statistician 37(3)). Rounding depends on the layout, and
  its errors are proportional to the summands: so they are relative to the
  deviations, not to the mean, and a constant channel gives exact zeros on every
  layout.
* In training mode the `batch_stats` collection receives *this batch's*
  statistics; the train step averages them (over microbatches, then over
  steps). So the evaluation averages are one replicated array, the same on
  every device and host, and gradient accumulation leaves them unchanged.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn


class BatchNorm(nn.Module):
  """Batch norm over groups of consecutive examples.

  Variances are biased (divided by the count), as in Flax.

  Attributes:
    virtual_batch_size: Examples per group; None: the whole batch is one group.
    epsilon: Added to the variance.
    scale_init: Initializer of the scale.
    dtype: Type of the output; statistics are always float32.
  """

  virtual_batch_size: int | None = None
  epsilon: float = 1e-5
  scale_init: nn.initializers.Initializer = nn.initializers.ones
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train, weights=None):
    """Normalizes `x` [batch, ..., features].

    Args:
      x: Activations [batch, ..., features].
      train: Use this batch's statistics, and leave them in `batch_stats`.
      weights: Optional [batch]; the statistics ignore rows of weight zero
        (padding).
    """
    features = x.shape[-1]
    scale = self.param("scale", self.scale_init, (features,), jnp.float32)
    bias = self.param("bias", nn.initializers.zeros, (features,), jnp.float32)
    zeros, ones = jnp.zeros((features,)), jnp.ones((features,))
    average_mean = self.variable("batch_stats", "mean", lambda: zeros)
    average_var = self.variable("batch_stats", "var", lambda: ones)

    x = x.astype(jnp.float32)
    if train and not self.is_initializing():
      x, mean, var = _center(x, self.virtual_batch_size, weights)
      scale = scale[None] * jnp.reciprocal(jnp.sqrt(var + self.epsilon))
      average_mean.value, average_var.value = _over_groups(
        (mean, var), x.shape[0], weights
      )
      scale = _per_example(scale, x)
    else:
      x = x - _as_features(average_mean.value, x)
      scale = scale * jnp.reciprocal(jnp.sqrt(average_var.value + self.epsilon))
      scale = _as_features(scale, x)
    return (x * scale + _as_features(bias, x)).astype(self.dtype)


def _center(x, group_size, weights):
  """Returns x minus its group's mean, and mean and variance [groups, features].

  The variance is computed after centering: E[x^2] - E[x]^2 in one pass is
  inaccurate if the mean is large relative to the deviation. Neither depends on
  the value that is subtracted first, so no gradient flows to it.
  """
  batch, features = x.shape[0], x.shape[-1]
  group_size = group_size or batch
  if batch % group_size:
    raise ValueError(
      f"a batch of {batch} is not divisible by groups of {group_size} examples"
    )
  if weights is None:
    weights = jnp.ones((batch,))
  else:
    # Infinities times zero would be NaN.
    real = weights.reshape((batch,) + (1,) * (x.ndim - 1)) > 0
    x = jnp.where(real, x, 0.0)
  weights = weights.reshape(-1, group_size)
  # A group of only padding has weight zero, not NaN.
  shares = weights / jnp.maximum(weights.sum(1, keepdims=True), 1e-9)
  inner = tuple(range(1, x.ndim - 1))

  def group_mean(values):
    per_example = values.mean(inner).reshape(-1, group_size, features)
    return jnp.sum(per_example * shares[:, :, None], axis=1)

  first = jax.lax.stop_gradient(_first(x, weights))
  x = x - _per_example(first, x)
  mean = group_mean(x)
  x = x - _per_example(mean, x)
  return x, first + mean, group_mean(jnp.square(x))


def _first(x, weights):
  """One value of the first real example of each group: [groups, features].

  Args:
    x: Activations [batch, ..., features].
    weights: [groups, examples].
  """
  corner = x[(slice(None),) + (0,) * (x.ndim - 2)]
  corner = corner.reshape(*weights.shape, x.shape[-1])
  place = jnp.argmax(weights > 0, axis=1)[:, None, None]
  return jnp.take_along_axis(corner, place, axis=1)[:, 0]


def _per_example(values, x):
  """Broadcasts [groups, features] to the examples of `x`."""
  groups, features = values.shape
  if groups > 1:
    values = jnp.repeat(values, x.shape[0] // groups, axis=0)
  return values.reshape((-1,) + (1,) * (x.ndim - 2) + (features,))


def _as_features(values, x):
  """[features] in the rank of `x`."""
  return values.reshape((1,) * (x.ndim - 1) + (-1,))


def _over_groups(statistics, batch, weights):
  """Means over the groups, weighted by their real examples."""
  if weights is None:
    return tuple(values.mean(0) for values in statistics)
  groups = statistics[0].shape[0]
  real = weights.reshape(groups, batch // groups).sum(1)
  share = real / jnp.maximum(real.sum(), 1e-9)
  return tuple(jnp.sum(values * share[:, None], 0) for values in statistics)


class Norm(nn.Module):
  """The norm that the config names, for any model.

  Attributes:
    kind: `batch`, `ghost`, `layer` or `rms` (over features), `group`, `none`.
    virtual_batch_size: Examples per group, for `ghost`.
    num_groups: Feature groups, for `group`.
    epsilon: Added to the variance.
    zero_scale: Start the scale at zero (last norm of a residual branch).
    dtype: Type of the output.
  """

  kind: str = "batch"
  virtual_batch_size: int = 64
  num_groups: int = 8
  epsilon: float = 1e-5
  zero_scale: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train, weights=None):
    """Normalizes `x` [batch, ..., features]."""
    inits = nn.initializers
    scale_init = inits.zeros if self.zero_scale else inits.ones
    common = dict(epsilon=self.epsilon, scale_init=scale_init, dtype=self.dtype)
    if self.kind == "none":
      return x
    if self.kind == "layer":
      return nn.LayerNorm(**common)(x)
    if self.kind == "rms":
      return nn.RMSNorm(**common)(x)
    if self.kind == "group":
      return nn.GroupNorm(num_groups=self.num_groups, **common)(x)
    size = {"batch": None, "ghost": self.virtual_batch_size}[self.kind]
    return BatchNorm(virtual_batch_size=size, **common)(
      x, train=train, weights=weights
    )
