"""Batch norm over the global batch and over ghost groups, on eight devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplay import models
from jaxplay.models import norm
from jaxplay.training import sharding

BATCH, SHAPE = 32, (32, 3, 2, 4)  # four examples on each of eight devices
EPSILON = 1e-5


def _inputs(seed=0, shape=SHAPE):
  rng = np.random.default_rng(seed)
  x = rng.normal(size=shape) * 2 + rng.normal(size=shape[-1:]) * 3
  # Each example has its own mean, so that groups differ.
  x += rng.normal(size=(shape[0],) + (1,) * (len(shape) - 1)) * 2
  return x.astype(np.float32)


def _variables(seed=1, features=SHAPE[-1]):
  """Scale and bias, and averages, that are not their initial values."""
  rng = np.random.default_rng(seed)
  draw = lambda low, high: rng.uniform(low, high, features).astype(np.float32)  # noqa: E731
  return {
    "params": {"scale": draw(0.5, 2), "bias": draw(-1, 1)},
    "batch_stats": {"mean": draw(-1, 1), "var": draw(0.5, 2)},
  }


def _apply(group, variables, x, weights=None):
  """Outputs and the statistics of this batch."""
  module = norm.BatchNorm(virtual_batch_size=group, epsilon=EPSILON)
  outputs, updated = module.apply(
    variables, x, train=True, weights=weights, mutable=["batch_stats"]
  )
  return outputs, updated["batch_stats"]


def _reference(group, variables, x, weights=None):
  """Group by group in float64, from the definition."""
  scale, bias = variables["params"]["scale"], variables["params"]["bias"]
  x = x.astype(np.float64)
  outputs, means, variances, counts = np.zeros_like(x), [], [], []
  for start in range(0, len(x), group):
    rows = np.arange(start, start + group)
    real = rows if weights is None else rows[weights[rows] > 0]
    if not len(real):
      continue
    values = x[real].reshape(-1, x.shape[-1])
    mean, var = values.mean(0), values.var(0)
    outputs[real] = (x[real] - mean) / np.sqrt(var + EPSILON) * scale + bias
    means.append(mean)
    variances.append(var)
    counts.append(len(real))
  return outputs, {
    "mean": np.average(means, axis=0, weights=counts),
    "var": np.average(variances, axis=0, weights=counts),
  }


def _assert_close(one, other, **kwargs):
  kwargs = dict(rtol=2e-5, atol=2e-5) | kwargs
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, **kwargs), one, other
  )


# A group within a device (two and four groups to each), one group for each
# device, groups that span devices, and the whole batch.
@pytest.mark.parametrize("group", [1, 2, 4, 8, 16, 32])
def test_groups_on_eight_devices(mesh, group):
  """N3: ghost batch norm takes exactly virtual_batch_size examples per group.

  With four examples on each of eight devices, whatever the size of a group.
  """
  x, variables = _inputs(), _variables()
  placed = jax.device_put(x, sharding.batch(mesh))
  assert len({shard.data.shape for shard in placed.addressable_shards}) == 1
  outputs, stats = jax.jit(_apply, static_argnums=0)(group, variables, placed)
  expected, expected_stats = _reference(group, variables, x)
  _assert_close(outputs, expected)
  _assert_close(stats, expected_stats)
  # N4: one array, the same on every device.
  for leaf in stats.values():
    assert leaf.sharding.is_fully_replicated


def test_batch_norm_is_over_the_global_batch(mesh):
  """N1: statistics are synchronized: 8 devices give what 1 device gives.

  Outputs, statistics and gradients; and it is not each device for itself.
  """
  x, variables = _inputs(2), _variables()
  target = _inputs(3)

  def loss(params, x, target):
    outputs, stats = _apply(None, variables | {"params": params}, x)
    return jnp.mean((outputs - target) ** 2), (outputs, stats)

  both = jax.jit(jax.value_and_grad(loss, argnums=(0, 1), has_aux=True))
  place = lambda array: jax.device_put(array, sharding.batch(mesh))  # noqa: E731
  eight = both(variables["params"], place(x), place(target))
  one = both(variables["params"], x, target)
  _assert_close(eight, one, rtol=1e-5, atol=1e-6)
  expected, stats = _reference(BATCH, variables, x)
  _assert_close(one[0][1], (expected, stats))
  assert np.abs(_reference(4, variables, x)[0] - expected).max() > 0.1


def test_ghost_of_the_whole_batch_is_batch_norm():
  """N2: a virtual batch as large as the batch is plain batch norm."""
  x, variables = _inputs(), _variables()
  _assert_close(
    _apply(BATCH, variables, x), _apply(None, variables, x), rtol=0, atol=0
  )


def test_statistics_ignore_the_batch_size():
  """N2: a group's output depends on its own examples, not on the batch."""
  x, variables = _inputs(), _variables()
  whole, _ = _apply(8, variables, x)
  alone, _ = _apply(8, variables, x[8:16])
  _assert_close(alone, whole[8:16], rtol=1e-6, atol=1e-6)


def test_a_batch_that_does_not_split():
  """N3: rather than a group of another size, an error."""
  with pytest.raises(ValueError, match="batch of 32 .* groups of 12"):
    _apply(12, _variables(), _inputs())


# Padding: of the second group of 8 one row, of the last all.
WEIGHTS = np.ones(BATCH, np.float32)
WEIGHTS[[13, *range(24, 32)]] = 0.0


@pytest.mark.parametrize("group", [4, 8, 32])
def test_padding_does_not_enter(mesh, group):
  """G4: rows of weight zero do not enter statistics, nor a group of them."""
  x, variables = _inputs(), _variables()
  outputs, stats = jax.jit(_apply, static_argnums=0)(
    group,
    variables,
    jax.device_put(x, sharding.batch(mesh)),
    jax.device_put(WEIGHTS, sharding.batch(mesh)),
  )
  expected, expected_stats = _reference(group, variables, x, WEIGHTS)
  _assert_close(outputs[WEIGHTS > 0], expected[WEIGHTS > 0])
  _assert_close(stats, expected_stats)
  assert np.isfinite(outputs).all()


@pytest.mark.parametrize("filling", [0.0, -1e4, 1e30, np.inf, np.nan])
def test_what_padding_holds_is_irrelevant(filling):
  """G4: neither outputs, statistics nor gradients see what padding holds."""
  variables = _variables()

  def loss(params, x):
    outputs, stats = _apply(8, variables | {"params": params}, x, WEIGHTS)
    real = jnp.where(WEIGHTS[:, None, None, None] > 0, outputs, 0.0)
    return jnp.sum(real**3), (real, stats)

  both = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
  x = _inputs()
  filled = x.copy()
  filled[WEIGHTS == 0] = filling
  expected, got = (
    both(variables["params"], x),
    both(variables["params"], filled),
  )
  _assert_close(got, expected, rtol=0, atol=0)
  assert not np.asarray(got[1][1])[WEIGHTS == 0].any()
  assert np.isfinite(got[0][0])


def test_weights_of_one_change_nothing():
  """G4: a batch without padding is the same with and without weights."""
  x, variables = _inputs(), _variables()
  _assert_close(
    _apply(8, variables, x, np.ones(BATCH, np.float32)),
    _apply(8, variables, x),
    rtol=1e-6,
    atol=1e-6,
  )


@pytest.mark.parametrize("group", [8, None])
def test_large_means_keep_their_digits(group):
  """N1: with a mean of 1e4 times the deviation, the variance is still right.

  In one pass, E[x^2] - E[x]^2 would lose all of it in 32 bits.
  """
  x = 1e4 + np.random.default_rng(0).normal(size=(BATCH, 64))
  x = x.astype(np.float32)
  variables = norm.BatchNorm().init(jax.random.key(0), x, train=False)
  outputs, stats = _apply(group, variables, x)
  initial = {"params": {"scale": np.ones(64), "bias": np.zeros(64)}}
  expected, expected_stats = _reference(group or BATCH, initial, x)
  # About a value of the group itself, not even the mean loses digits.
  _assert_close(outputs, expected, rtol=0, atol=2e-5)
  _assert_close(stats["var"], expected_stats["var"], rtol=1e-5)
  naive = np.square(x).mean(0) - np.square(x.mean(0))
  assert np.abs(naive - 1).max() > 1


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("group", [4, 8, None])
def test_a_constant_channel_is_exactly_zero(mesh, group, devices):
  """N1: a channel that is dead, or saturated, is the bias alone, to the bit.

  On every layout: an error of rounding, over the root of epsilon, would fall on
  either side of the next ReLU, as the devices add up.
  """
  constants = np.array([0.1, 1e4 / 3, -7e-5, 0.0], np.float32)
  x = np.broadcast_to(constants, SHAPE)
  weights = np.ones(BATCH, np.float32)
  weights[[0, 13]] = 0.0  # Padding, which holds something else.
  x = np.where(weights[:, None, None, None] > 0, x, np.float32(5))
  variables = _variables()
  for given in (None, weights):
    inputs = np.broadcast_to(constants, SHAPE) if given is None else x
    place = sharding.batch(mesh) if devices == 8 else jax.devices()[0]
    placed = jax.device_put((inputs, given), place)
    outputs, stats = jax.jit(
      lambda x, w: _apply(group, variables, x, w)  # noqa: B023
    )(*placed)
    real = slice(None) if given is None else weights > 0
    bias = np.broadcast_to(variables["params"]["bias"], SHAPE)
    np.testing.assert_array_equal(np.asarray(outputs)[real], bias[real])
    np.testing.assert_array_equal(stats["var"], 0.0)
    np.testing.assert_allclose(stats["mean"], constants, rtol=2e-7)


@pytest.mark.parametrize("given", [None, "weights"])
def test_what_is_subtracted_first_is_irrelevant(given):
  """N1: rotated within their groups, examples have the same outputs.

  And gradients: no example is special for being the first.
  """
  weights = None if given is None else WEIGHTS
  x, variables = _inputs(7), _variables()

  def loss(x, target, weights):
    outputs, stats = _apply(8, variables, x, weights)
    return jnp.sum((outputs - target) ** 2), stats

  def turned(array):
    if array is None:
      return None
    groups = array.reshape(BATCH // 8, 8, *array.shape[1:])
    return np.roll(groups, 3, axis=1).reshape(array.shape)

  both = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (_, stats), grads = both(x, _inputs(8), weights)
  (_, other), other_grads = both(turned(x), turned(_inputs(8)), turned(weights))
  real = slice(None) if weights is None else turned(weights) > 0
  _assert_close(other, stats)
  _assert_close(
    other_grads[real], turned(np.asarray(grads))[real], rtol=1e-4, atol=1e-4
  )


def test_gradient_is_that_of_the_definition():
  """N3: the gradient goes through mean and variance of each group."""
  x, variables = _inputs(5), _variables()
  target = _inputs(6)

  def plain(params, x):
    """The textbook formula, differentiated by JAX."""
    x = x.reshape(BATCH // 8, -1, SHAPE[-1])
    mean, var = x.mean(1, keepdims=True), x.var(1, keepdims=True)
    x = (x - mean) / jnp.sqrt(var + EPSILON)
    return (
      x * params["scale"][None, None] + params["bias"][None, None]
    ).reshape(SHAPE)

  def loss(function):
    return lambda params, x: jnp.sum((function(params, x) - target) ** 2)

  ours = lambda params, x: _apply(8, {**variables, "params": params}, x)[0]  # noqa: E731
  _assert_close(
    jax.grad(loss(ours), argnums=(0, 1))(variables["params"], x),
    jax.grad(loss(plain), argnums=(0, 1))(variables["params"], x),
    rtol=1e-4,
    atol=1e-4,
  )


@pytest.mark.parametrize("group", [None, 8])
def test_evaluation_uses_the_averages(group):
  """N4: when not training, outputs come from the averages, row by row."""
  x, variables = _inputs(), _variables()
  module = norm.BatchNorm(virtual_batch_size=group, epsilon=EPSILON)
  outputs = module.apply(variables, x, train=False)
  stats, params = variables["batch_stats"], variables["params"]
  expected = (x - stats["mean"]) / np.sqrt(stats["var"] + EPSILON)
  _assert_close(outputs, expected * params["scale"] + params["bias"])
  # Of any number of rows, too: no group has to be full.
  _assert_close(module.apply(variables, x[:3], train=False), outputs[:3])


def test_training_leaves_the_averages_to_the_step():
  """N4: what a batch leaves behind are its statistics, not old averages."""
  x = _inputs()
  one, other = _variables(1), _variables(2)
  other["params"] = one["params"]
  _assert_close(_apply(8, one, x), _apply(8, other, x), rtol=0, atol=0)


def test_half_precision_outputs_have_whole_statistics():
  """N1: with bfloat16 outputs the statistics are those of float32."""
  x, variables = _inputs(), _variables()
  module = norm.BatchNorm(virtual_batch_size=8, dtype=jnp.bfloat16)
  half = jnp.asarray(x, jnp.bfloat16)
  outputs, updated = module.apply(
    variables, half, train=True, mutable=["batch_stats"]
  )
  assert outputs.dtype == jnp.bfloat16
  _assert_close(
    updated["batch_stats"], _apply(8, variables, half.astype(jnp.float32))[1]
  )


# The choice in the models.


def _model(name, kind, **sizes):
  sizes = {"depth": 10, "width": 1 if name == "wide_resnet" else 8} | sizes
  if name == "mlp":
    sizes["depth"] = 2
  return models.build(
    name,
    3,
    norm_kind=kind,
    virtual_batch_size=2,
    num_groups=4,
    dtype="float32",
    **sizes,
  )


@pytest.mark.parametrize("name", ["mlp", "resnet", "wide_resnet"])
@pytest.mark.parametrize(
  "kind", ["batch", "ghost", "layer", "rms", "group", "none"]
)
def test_norms_are_a_drop_in_choice(name, kind):
  """N5: every norm works in every model, and only batch norms keep averages."""
  model = _model(name, kind)
  x = jax.ShapeDtypeStruct((4, 8, 8, 3), jnp.float32)

  def both(key, x):
    params, stats = models.init(model, key, x)
    trained, new = models.apply(
      model, params, stats, x, train=True, rows=jnp.arange(4)
    )
    evaluated, same = models.apply(model, params, stats, x)
    return params, stats, trained, new, evaluated, same

  params, stats, trained, new, evaluated, same = jax.eval_shape(
    both, jax.random.key(0), x
  )
  assert trained.shape == evaluated.shape == (4, 3)
  assert bool(stats) == (kind in ("batch", "ghost"))
  assert jax.tree.structure(new) == jax.tree.structure(stats)
  assert jax.tree.structure(same) == jax.tree.structure(stats)
  names = {
    jax.tree_util.keystr(path, simple=True, separator="/")
    for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]
  }
  assert any(path.endswith("/scale") for path in names) == (kind != "none")
  # A convolution has a bias exactly where no norm follows that has one.
  biased = any("Conv_" in path and path.endswith("bias") for path in names)
  assert biased == (kind in ("none", "rms") and name != "mlp")


@pytest.mark.parametrize("kind", ["layer", "group"])
def test_norms_of_one_example(kind):
  """N5: layer and group norm are of each example: no batch, no averages."""
  module = norm.Norm(kind=kind, num_groups=2)
  x = _inputs()
  variables = module.init(jax.random.key(0), x, train=False)
  outputs = module.apply(variables, x, train=True)
  alone = module.apply(variables, x[5:6], train=False)
  _assert_close(alone, outputs[5:6])
  x = x.astype(np.float64)
  if kind == "layer":
    mean, var = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    expected = (x - mean) / np.sqrt(var + 1e-5)
  else:
    grouped = x.reshape(BATCH, 3, 2, 2, 2)
    mean = grouped.mean((1, 2, 4), keepdims=True)
    var = grouped.var((1, 2, 4), keepdims=True)
    expected = ((grouped - mean) / np.sqrt(var + 1e-5)).reshape(SHAPE)
  _assert_close(outputs, expected, rtol=1e-4, atol=1e-4)


def test_no_norm_is_no_change():
  """N5: `none` hands its input through."""
  x = _inputs()
  assert norm.Norm(kind="none").apply({}, x, train=True) is x
