"""The families: their sizes, shapes, residual branches and dropout."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from jaxplay import models
from jaxplay.models import dropout, resnet

# Two more depths, of two blocks: the others take their time to compile.
BASIC, BOTTLENECK = 5, 8


@pytest.fixture(autouse=True)
def _shallow_resnets(monkeypatch):
  monkeypatch.setitem(resnet.STAGES, BASIC, ((1, 1), False))
  monkeypatch.setitem(resnet.STAGES, BOTTLENECK, ((1, 1), True))


def _build(name, num_classes=10, norm_kind="batch", dtype="float32", **sizes):
  return models.build(
    name,
    num_classes,
    norm_kind=norm_kind,
    virtual_batch_size=4,
    num_groups=4,
    dtype=dtype,
    **sizes,
  )


SMALL = {
  "mlp": dict(depth=2, width=16),
  "resnet": dict(depth=BASIC, width=4),
  "wide_resnet": dict(depth=10, width=1),
}


@functools.partial(jax.jit, static_argnums=0)
def _init(model, inputs, seed=0):
  return models.init(model, jax.random.key(seed), inputs)


def _pictures(*shape):
  """Not by JAX, which compiles for each shape."""
  return np.random.default_rng(0).normal(size=shape).astype(np.float32)


def _count(model, shape):
  """Parameters, without computing them."""
  params, _ = jax.eval_shape(
    functools.partial(models.init, model),
    jax.random.key(0),
    jax.ShapeDtypeStruct((1, *shape), jnp.float32),
  )
  return sum(leaf.size for leaf in jax.tree.leaves(params))


# torchvision's ResNets (github.com/pytorch/vision) of the same v1.5; WRN-28-10
# as in the paper's own code for CIFAR-10, "36.5M" in its Table 4.
@pytest.mark.parametrize(
  "name, depth, width, shape, classes, number",
  [
    ("resnet", 18, 64, (224, 224, 3), 1000, 11_689_512),
    ("resnet", 34, 64, (224, 224, 3), 1000, 21_797_672),
    ("resnet", 50, 64, (224, 224, 3), 1000, 25_557_032),
    ("resnet", 101, 64, (224, 224, 3), 1000, 44_549_160),
    ("wide_resnet", 28, 10, (32, 32, 3), 10, 36_479_194),
    ("wide_resnet", 16, 4, (32, 32, 3), 10, 2_748_890),
  ],
)
def test_parameter_counts(name, depth, width, shape, classes, number):
  """A1: the families have exactly the published numbers of parameters."""
  sizes = dict(depth=depth, width=width, stem="imagenet")
  assert _count(_build(name, classes, **sizes), shape) == number


def test_mlp_parameter_count():
  """A1: an MLP has depth hidden layers of one width, and a linear output."""
  model = _build("mlp", 10, "none", depth=3, width=20)
  assert _count(model, (4, 4, 2)) == 33 * 20 + 2 * 21 * 20 + 21 * 10


def _convolutions(model, shape):
  """Of each convolution: kernel height, stride and output height."""
  inputs = jnp.zeros((1, *shape))
  params, stats = jax.eval_shape(functools.partial(_init, model), inputs)
  jaxpr = jax.make_jaxpr(functools.partial(models.apply, model))(
    params, stats, inputs
  )
  found = []
  for equation in jaxpr.eqns:
    if equation.primitive.name == "conv_general_dilated":
      kernel = equation.invars[1].aval.shape[0]
      stride = equation.params["window_strides"][0]
      found.append((kernel, stride, equation.outvars[0].aval.shape[1]))
  return found


@pytest.mark.parametrize("depth, convolutions", [(18, 20), (50, 53)])
def test_resnet_strides(depth, convolutions):
  """A1: v1.5: the stride is in the 3x3 convolutions; 224 pixels become 7."""
  model = _build("resnet", depth=depth, width=64, stem="imagenet")
  found = _convolutions(model, (224, 224, 3))
  # The shortcuts with a projection have 1x1 kernels, with the stride.
  assert len(found) == convolutions
  assert found[0] == (7, 2, 112)
  strided = [kernel for kernel, stride, _ in found[1:] if stride == 2]
  assert sorted(strided) == [1, 1, 1, 3, 3, 3]
  assert {size for _, _, size in found[1:]} == {56, 28, 14, 7}
  assert found[-1][-1] == 7
  if depth == 50:
    # A 1x1 before a strided 3x3 still sees the larger picture.
    for one, other in zip(found[1:], found[2:], strict=False):
      if other[:2] == (3, 2):
        assert one == (1, 1, 2 * other[2])


def test_small_stem_keeps_the_picture():
  """A1: with the small stem, 32 pixels stay 32 in the first stage."""
  found = _convolutions(_build("resnet", depth=18, width=8), (32, 32, 3))
  assert found[0] == (3, 1, 32) and found[-1][-1] == 4
  found = _convolutions(_build("wide_resnet", depth=16, width=2), (32, 32, 3))
  assert found[0] == (3, 1, 32) and found[-1][-1] == 8
  assert len(found) == 1 + 12 + 3  # stem, blocks, a projection for each stage


@pytest.mark.parametrize("name", SMALL)
def test_any_picture_goes(name):
  """A1: odd and small sizes, and other channels, give logits of each class."""
  for shape in ((8, 8, 1), (5, 7, 3), (1, 1, 2)):
    model = _build(name, 7, **SMALL[name])
    inputs = jax.ShapeDtypeStruct((3, *shape), jnp.float32)
    params, stats = jax.eval_shape(functools.partial(_init, model), inputs)
    logits, _ = jax.eval_shape(
      functools.partial(models.apply, model), params, stats, inputs
    )
    assert logits.shape == (3, 7) and logits.dtype == jnp.float32


@pytest.mark.parametrize(
  "name, depth, zero, sizes",
  [
    pytest.param("resnet", BASIC, True, {}, marks=pytest.mark.pods),
    ("resnet", BASIC, False, {}),
    ("resnet", BOTTLENECK, True, {}),
    ("wide_resnet", 10, True, {}),
    ("wide_resnet", 10, True, {"norm_position": "post_branch"}),
  ],
)
def test_zero_init_residual(name, depth, zero, sizes):
  """I6: zero-initialized branches are the identity: their kernels are mute.

  Every 3x3 kernel but the stem's is in a branch, in all these families.
  """
  width = 1 if name == "wide_resnet" else 4
  model = _build(
    name, depth=depth, width=width, zero_init_residual=zero, **sizes
  )
  inputs = _pictures(4, 8, 8, 3)
  params, stats = _init(model, inputs)

  def other_branches(path, leaf):
    inside = "stem" not in str(path) and leaf.shape[:2] == (3, 3)
    return leaf + 1.0 if inside and leaf.ndim == 4 else leaf

  @jax.jit
  def logits(params):
    return models.apply(model, params, stats, inputs, train=True)[0]

  changed = jax.tree_util.tree_map_with_path(other_branches, params)
  same = np.array_equal(logits(params), logits(changed))
  assert same == zero
  scales = [
    leaf
    for path, leaf in jax.tree_util.tree_flatten_with_path(params)[0]
    if path[-1].key == "scale" and not leaf.any()
  ]
  blocks = 3 if name == "wide_resnet" else 2
  assert len(scales) == (blocks if zero else 0)


@pytest.mark.parametrize("position", ["pre", "post_branch"])
def test_a_norm_before_the_sum(position):
  """I7: x + norm(f(x)) does not depend on the scale of the branch's kernels."""
  model = _build("wide_resnet", depth=10, width=1, norm_position=position)
  inputs = _pictures(4, 8, 8, 3)
  params, stats = _init(model, inputs)

  def scaled(path, leaf):
    inside = "stem" not in str(path) and leaf.shape[:2] == (3, 3)
    return 3 * leaf if inside and leaf.ndim == 4 else leaf

  @jax.jit
  def logits(params):
    return models.apply(model, params, stats, inputs, train=True)[0]

  changed = logits(jax.tree_util.tree_map_with_path(scaled, params))
  same = np.allclose(logits(params), changed, rtol=1e-2, atol=1e-2)
  assert same == (position == "post_branch")


# Activation functions.


@pytest.mark.parametrize("name", models.ACTIVATIONS)
def test_mlp_activations(name):
  """I6: a hidden layer is the function of a linear one, by its name."""
  model = _build("mlp", depth=1, width=16, norm_kind="none", activation=name)
  inputs = _pictures(4, 5)
  params, _ = _init(model, inputs)
  first, last = params["Dense_0"], params["Dense_1"]
  hidden = models.ACTIVATIONS[name](
    inputs @ first["kernel"] + first["bias"][None]
  )
  expected = hidden @ last["kernel"] + last["bias"][None]
  logits, _ = models.apply(model, params, {}, inputs)
  np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_activations_of_each_family(name):
  """I6: by default ReLU, and another function where one is named."""
  inputs, logits = _pictures(4, 8, 8, 3), {}
  for activation in ("", "relu", "tanh"):
    model = _build(name, **SMALL[name], activation=activation)
    params, stats = _init(model, inputs)
    logits[activation], _ = jax.jit(models.apply, static_argnums=0)(
      model, params, stats, inputs
    )
  np.testing.assert_array_equal(logits[""], logits["relu"])
  assert np.abs(logits["tanh"] - logits["relu"]).max() > 1e-3


# Dropout.


def _dropping(name, **kwargs):
  return _build(name, norm_kind="none", dropout=True, **SMALL[name], **kwargs)


@pytest.mark.parametrize("name", SMALL)
def test_dropout_masks_follow_the_row(name):
  """M2: a mask is a function of key and global row, not of place or company."""
  model = _dropping(name)
  inputs = _pictures(4, 4, 4, 3)
  params, stats = _init(model, inputs)

  @jax.jit
  def logits(inputs, rows, seed):
    return models.apply(
      model,
      params,
      stats,
      inputs,
      train=True,
      rows=rows,
      dropout_rate=0.5,
      dropout_key=jax.random.key(seed),
    )[0]

  rows = jnp.array([10, 11, 12, 13])
  whole = logits(inputs, rows, 3)
  # Rows 13 and 11 at other places, beside rows 6 and 7.
  order = np.array([3, 0, 1, 2])
  moved = logits(inputs[order], jnp.array([13, 6, 11, 7]), 3)
  np.testing.assert_allclose(moved[0], whole[3], rtol=1e-5, atol=1e-5)
  np.testing.assert_allclose(moved[2], whole[1], rtol=1e-5, atol=1e-5)
  assert (np.abs(moved[1] - whole[0]) > 1e-3).any()
  assert (np.abs(logits(inputs, rows, 4) - whole) > 1e-3).any(1).all()


def test_dropout_rate_is_traced():
  """Idea 1: one compilation serves every rate, and zero is no dropout."""
  model = _dropping("mlp")
  inputs = _pictures(6, 4, 4, 3)
  params, stats = _init(model, inputs)

  @jax.jit
  def logits(rate):
    return models.apply(
      model,
      params,
      stats,
      inputs,
      train=True,
      rows=jnp.arange(6),
      dropout_rate=rate,
      dropout_key=jax.random.key(0),
    )[0]

  evaluated, _ = models.apply(model, params, stats, inputs)
  np.testing.assert_allclose(logits(0.0), evaluated, rtol=1e-4, atol=1e-6)
  assert np.abs(logits(0.3) - evaluated).max() > 1e-3
  assert np.abs(logits(0.3) - logits(0.6)).max() > 1e-3
  assert logits._cache_size() == 1


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(rate):
  """A1: `rate` of the activations become zero, the others grow to match."""
  x = jnp.ones((200, 50))
  y = dropout.Dropout().apply(
    {},
    x,
    train=True,
    rate=rate,
    rows=jnp.arange(200),
    rngs={"dropout": jax.random.key(0)},
  )
  kept = np.asarray(y) != 0
  np.testing.assert_allclose(y[kept], 1 / (1 - rate), rtol=1e-6)
  # 10,000 draws under a fixed key.
  deviation = np.sqrt(rate * (1 - rate) / kept.size)
  assert abs(kept.mean() - (1 - rate)) < 6 * deviation
  # Rows differ from each other.
  assert len(np.unique(kept, axis=0)) > 100


@pytest.mark.parametrize("name", SMALL)
def test_dropout_layers_are_a_choice(name):
  """A1: without `dropout` there is nothing random, and no key is needed."""
  inputs = jnp.zeros((2, 4, 4, 3))
  draws = {}
  for dropping in (True, False):
    model = _build(name, norm_kind="none", dropout=dropping, **SMALL[name])
    params, stats = jax.eval_shape(functools.partial(_init, model), inputs)
    key = jax.random.key(0) if dropping else None
    jaxpr = jax.make_jaxpr(
      functools.partial(
        models.apply, model, train=True, rows=jnp.arange(2), dropout_key=key
      )
    )(params, stats, inputs)
    draws[dropping] = "random_bits" in str(jaxpr)
  assert draws == {True: True, False: False}


# Types.


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("norm_kind", ["batch", "layer"])
def test_bfloat16_is_the_computation_only(name, norm_kind):
  """A1: in bfloat16 parameters, averages and logits are float32 still."""
  model = _build(name, norm_kind=norm_kind, dtype="bfloat16", **SMALL[name])
  inputs = jax.ShapeDtypeStruct((4, 4, 4, 3), jnp.float32)

  def everything(inputs):
    params, stats = _init(model, inputs)
    logits, new = models.apply(model, params, stats, inputs, train=True)
    return params, stats, logits, new

  shapes = jax.tree.leaves(jax.eval_shape(everything, inputs))
  assert {leaf.dtype for leaf in shapes} == {jnp.dtype("float32")}
  params, stats, *_ = jax.eval_shape(everything, inputs)
  jaxpr = jax.make_jaxpr(functools.partial(models.apply, model))(
    params, stats, inputs
  )
  products = [
    equation.outvars[0].aval.dtype
    for equation in jaxpr.eqns
    if equation.primitive.name in ("dot_general", "conv_general_dilated")
  ]
  # All but the classifier of the residual networks.
  assert len(products) >= 3
  assert products.count(jnp.bfloat16) >= len(products) - (name != "mlp")


def test_bfloat16_is_near_float32():
  """A1: the two types compute the same model."""
  inputs = _pictures(4, 4, 4, 3)
  logits = {}
  for dtype in ("float32", "bfloat16"):
    model = _build("mlp", norm_kind="layer", dtype=dtype, **SMALL["mlp"])
    params, stats = _init(model, inputs)
    logits[dtype], _ = models.apply(model, params, stats, inputs)
  difference = np.abs(logits["float32"] - logits["bfloat16"]).max()
  assert 0 < difference < 0.1


def test_kernels_start_as_he_et_al_say():
  """A1: the draw, flat for speed, is that of Flax's own initializer."""
  shape, key = (3, 3, 8, 16), jax.random.key(0)
  he = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
  np.testing.assert_allclose(
    resnet._he_normal(key, shape), he(key, shape), rtol=1e-6
  )


def test_init_is_a_function_of_the_key():
  """M2: the same key gives the same parameters, another one others."""
  inputs = jnp.zeros((1, 4, 4, 3))
  model = _build("mlp", **SMALL["mlp"])
  one, again, other = (_init(model, inputs, seed)[0] for seed in (0, 0, 1))
  jax.tree.map(np.testing.assert_array_equal, one, again)
  kernels = [tree["Dense_0"]["kernel"] for tree in (one, other)]
  assert not np.array_equal(*kernels)
