"""The language model and the vision transformer, and what they share."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from jax import extend
from jax.experimental import pallas
from jax.experimental.pallas import tpu as pltpu

import jaxplay
from jaxplay import models
from jaxplay.models import attention, lm, transformer, vit
from jaxplay.training import sharding

FAMILIES = ["lm", "vit"]
TOKENS, CLASSES = 11, 5
IMAGE = (4, 6, 3)  # 6 patches of 2 x 2
BASE = 100.0


@functools.cache  # For the same model nothing is compiled again.
def _build(name, outputs=None, dtype="float32", norm="rms", **sizes):
  of_each = {
    "lm": dict(rotary_base=BASE),
    "vit": dict(patch_size=2),
  }
  return models.build(
    name,
    outputs or (TOKENS if name == "lm" else CLASSES),
    norm_kind=norm,
    virtual_batch_size=4,
    num_groups=4,
    dtype=dtype,
    **dict(of_each[name], depth=2, width=16, heads=2) | sizes,
  )


def _inputs(name, batch=2, length=6):
  rng = np.random.default_rng(0)
  if name == "lm":
    return rng.integers(0, TOKENS, (batch, length)).astype(np.int32)
  return rng.normal(size=(batch, *IMAGE)).astype(np.float32)


def _shapes(model, inputs):
  init = functools.partial(models.init, model)
  return jax.eval_shape(init, jax.random.key(0), inputs)[0]


def _params(model, inputs, seed=0):
  """Not the initial ones, in which scales are one and biases zero."""
  rng = np.random.default_rng(seed)

  def draw(path, leaf):
    # By matrices of a block, whose leading dimension is the depth.
    size = leaf.shape[1] if "blocks" in str(path) else leaf.shape[0]
    leaf = rng.normal(size=leaf.shape) / np.sqrt(size)
    return (leaf + ("scale" in str(path))).astype(np.float32)

  return jax.tree_util.tree_map_with_path(draw, _shapes(model, inputs))


@functools.partial(jax.jit, static_argnums=0)
def _init(model, inputs):
  return models.init(model, jax.random.key(0), inputs)[0]


@functools.partial(jax.jit, static_argnums=0)
def _logits(model, params, inputs):
  return models.apply(model, params, {}, inputs)[0]


@functools.partial(jax.jit, static_argnums=0)
def _stack_output(model, params, inputs):
  """Logits, and what the stack of blocks gave to the head."""
  logits, found = model.apply(
    {"params": params},
    inputs,
    train=False,
    capture_intermediates=lambda module, _: isinstance(
      module, transformer.Blocks
    ),
  )
  (stack,) = found["intermediates"].values()
  return logits, stack["__call__"][0]


def _close(one, other, tolerance=1e-5):
  """Differences are small against the largest number."""
  one, other = (np.asarray(array, np.float64) for array in (one, other))
  assert np.abs(one - other).max() <= tolerance * np.abs(other).max()


def _by_leaf(tree):
  leaves = jax.tree_util.tree_leaves_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
  }


# The same models, written again in numpy, in double precision.


def _rms(x, scale, epsilon=1e-5):
  return x / np.sqrt((x**2).mean(-1, keepdims=True) + epsilon) * scale


def _softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def _attention(query, key, value, causal):
  """Position by position, head by head."""
  out = np.zeros(query.shape)
  batch, length, heads, features = query.shape
  for b, i, h in np.ndindex(batch, length, heads):
    seen = slice(0, i + 1) if causal else slice(None)
    scores = key[b, seen, h] @ query[b, i, h] / np.sqrt(features)
    out[b, i, h] = _softmax(scores) @ value[b, seen, h]
  return out


def _turned(x, base):
  """Feature i of the first half and i of the second are a complex number."""
  half = x.shape[-1] // 2
  turns = np.arange(x.shape[1])[:, None] * base ** (-np.arange(half) / half)
  z = (x[..., :half] + 1j * x[..., half:]) * np.exp(1j * turns)[:, None, :]
  return np.concatenate([z.real, z.imag], -1)


def _double(tree):
  return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)


def _silu(x):
  return x / (1 + np.exp(-x))


def _numpy_blocks(
  x, tree, *, causal, base, qk_norm, activate=_silu, is_pre=True
):
  """One block after the other, each with its slice of the parameters."""
  depth = len(tree["blocks"]["mlp"]["down"]["kernel"])
  for i in range(depth):
    block = jax.tree.map(lambda leaf, i=i: leaf[i], tree["blocks"])
    weights = block["attention"]
    scale = block["attention_norm"]["RMSNorm_0"]["scale"]
    y = _rms(x, scale) if is_pre else x
    kernel = weights["qkv"]["kernel"]
    query, key, value = np.einsum("blw,wchf->cblhf", y, kernel)
    if qk_norm:
      query = _rms(query, weights["query_norm"]["scale"], 1e-6)
      key = _rms(key, weights["key_norm"]["scale"], 1e-6)
    if base is not None:
      query, key = _turned(query, base), _turned(key, base)
    y = _attention(query, key, value, causal)
    y = np.einsum("blhf,hfw->blw", y, weights["out"]["kernel"])
    x = x + (y if is_pre else _rms(y, scale))
    scale = block["mlp_norm"]["RMSNorm_0"]["scale"]
    y = _rms(x, scale) if is_pre else x
    gate, up = np.einsum("blw,wch->cblh", y, block["mlp"]["gate_up"]["kernel"])
    y = activate(gate) * up @ block["mlp"]["down"]["kernel"]
    x = x + (y if is_pre else _rms(y, scale))
  return _rms(x, tree["final_norm"]["RMSNorm_0"]["scale"])


def _numpy_lm(params, tokens, qk_norm=False, **kwargs):
  params = _double(params)
  table = params["embedding"]["embedding"]
  head = params["head"]["kernel"] if "head" in params else table.T
  x = _numpy_blocks(
    table[tokens],
    params["decoder"],
    causal=True,
    base=BASE,
    qk_norm=qk_norm,
    **kwargs,
  )
  return x @ head


def _numpy_patches(params, images):
  """The patches' features, with positions; the patches are 2 x 2."""
  embedding = params["embedding"]
  rows = []
  for top in range(0, images.shape[1], 2):
    for left in range(0, images.shape[2], 2):
      patch = images[:, top : top + 2, left : left + 2]
      rows.append(np.einsum("bhwc,hwcf->bf", patch, embedding["kernel"]))
  return np.stack(rows, 1) + embedding["bias"] + params["positions"]


def _numpy_vit(params, images, qk_norm=False):
  params = _double(params)
  x = _numpy_patches(params, images)
  x = _numpy_blocks(
    x, params["encoder"], causal=False, base=None, qk_norm=qk_norm
  )
  return x.mean(1) @ params["head"]["kernel"] + params["head"]["bias"]


@pytest.mark.parametrize("qk_norm", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_lm_is_what_the_formulas_say(tied, qk_norm):
  """A1: pre-RMSNorm, rotary, SwiGLU, block by block, written independently."""
  model = _build("lm", depth=3, tied_embedding=tied, qk_norm=qk_norm)
  tokens = _inputs("lm")
  params = _params(model, tokens)
  assert ("head" in params) != tied
  expected = _numpy_lm(params, tokens, qk_norm)
  _close(_logits(model, params, tokens), expected)


@pytest.mark.parametrize("activation", ["", "relu"])
def test_norms_at_the_end_of_branches(activation):
  """I6: x + norm(f(x)), and the gate of the MLP with another function."""
  model = _build(
    "lm", depth=3, norm_position="post_branch", activation=activation
  )
  tokens = _inputs("lm")
  params = _params(model, tokens)
  activate = (lambda x: np.maximum(x, 0)) if activation else _silu
  expected = _numpy_lm(params, tokens, activate=activate, is_pre=False)
  _close(_logits(model, params, tokens), expected)
  with pytest.raises(AssertionError):
    _close(_logits(model, params, tokens), _numpy_lm(params, tokens))


@pytest.mark.slow
def test_norms_at_the_end_of_branches_start_at_zero():
  """I6: then zero-initialized branches are muted by their norm, and learn."""
  model = _build(
    "lm", depth=1, norm_position="post_branch", zero_init_residual=True
  )
  tokens = _inputs("lm")
  params = _init(model, tokens)
  numbers = _double(params)
  x = _rms(numbers["embedding"]["embedding"][tokens], 1.0)
  identity = x @ numbers["head"]["kernel"]
  _close(_logits(model, params, tokens), identity)
  gradient = jax.jit(
    jax.grad(lambda p: jnp.sin(models.apply(model, p, {}, tokens)[0]).sum())
  )(params)
  blocks = gradient["decoder"]["blocks"]
  for name in ("attention_norm", "mlp_norm"):
    moved = np.abs(blocks[name]["RMSNorm_0"]["scale"])
    assert 0 < moved.max() < 1e3


@pytest.mark.parametrize("qk_norm", [False, True])
def test_vit_is_what_the_formulas_say(qk_norm):
  """A1: the same blocks over patches row by row, and the mean over these."""
  model = _build("vit", depth=3, qk_norm=qk_norm)
  images = _inputs("vit")
  params = _params(model, images)
  expected = _numpy_vit(params, images, qk_norm)
  _close(_logits(model, params, images), expected)


def test_mlp_width_is_a_choice():
  """A1: the MLP is 8/3 as wide as the rest, or as wide as it is told to be."""
  # 8/3 of 96 is 256 = 8 * 32; that of 100 is 266.7, and the next is 288.
  assert transformer.mlp_features(96, 0) == 256
  assert transformer.mlp_features(100, 0) == 288
  for mlp_width, hidden in ((0, 64), (24, 24)):  # 8/3 of 16 is 42.7
    shapes = _shapes(_build("lm", mlp_width=mlp_width), _inputs("lm"))
    mlp = shapes["decoder"]["blocks"]["mlp"]
    assert mlp["gate_up"]["kernel"].shape == (2, 16, 2, hidden)
    assert mlp["down"]["kernel"].shape == (2, hidden, 16)


# Who sees whom.


@pytest.mark.parametrize("position", [0, 3, 5])
def test_lm_is_causal(position):
  """A1: a token changes its own logits and all later ones, none before."""
  model = _build("lm")
  tokens = _inputs("lm")
  params = _params(model, tokens)
  changed = tokens.copy()
  changed[:, position] = (changed[:, position] + 1) % TOKENS
  before, after = (_logits(model, params, t) for t in (tokens, changed))
  difference = np.abs(before - after).max(-1)
  np.testing.assert_array_equal(difference[:, :position], 0)
  assert (difference[:, position:] > 1e-4).all()


def test_vit_sees_all():
  """A1: the last patch changes what becomes of the first, and the reverse."""
  model = _build("vit")
  images = _inputs("vit")
  params = _params(model, images)
  _, before = _stack_output(model, params, images)
  for pixel in ((slice(None), 0, 0), (slice(None), 3, 5)):
    changed = images.copy()
    changed[pixel] += 1.0
    _, after = _stack_output(model, params, changed)
    difference = np.abs(after - before).max(-1)
    assert difference.shape == (2, 6) and (difference > 1e-4).all()


def test_vit_patches_must_tile():
  """A1: a picture that the patches do not tile is refused, with the numbers."""
  model = _build("vit", patch_size=4)
  with pytest.raises(jaxplay.UserError, match="4 x 6 .* 4 x 4"):
    _shapes(model, _inputs("vit"))


# Rotary positions.


def _rotated(x, base=BASE):
  rotation = transformer.rotary(x.shape[1], x.shape[-1], base)
  return np.asarray(transformer._rotated(jnp.asarray(x, jnp.float32), rotation))


def test_rotary_turns_complex_numbers():
  """A1: rotary positions are a turn of each pair, and the first is none."""
  x = np.random.default_rng(0).normal(size=(2, 40, 3, 8))
  turned = _rotated(x)
  _close(turned, _turned(x, BASE))
  np.testing.assert_array_equal(turned[:, 0], x[:, 0].astype(np.float32))
  norms = [np.linalg.norm(array, axis=-1) for array in (x, turned)]
  _close(*norms)
  # By hand: of four features at position 3, one pair turns by 3 radians, the
  # other by 3 / sqrt(100).
  one = _rotated(np.tile([1.0, 1.0, 0.0, 0.0], (1, 4, 1, 1)))[0, 3, 0]
  _close(one, [np.cos(3), np.cos(0.3), np.sin(3), np.sin(0.3)], 1e-6)


def test_rotary_scores_are_relative():
  """A1: the same query and key score by the distance between them alone."""
  rng = np.random.default_rng(0)
  query, key = (np.tile(rng.normal(size=8), (1, 12, 1, 1)) for _ in range(2))
  scores = _rotated(query)[0, :, 0] @ _rotated(key)[0, :, 0].T
  for distance in range(-11, 12):
    diagonal = np.diagonal(scores, distance)
    assert np.ptp(diagonal) < 1e-5
  first = scores[:, 0]
  assert np.ptp(first) > 0.1  # They do depend on it.


# Attention.


def _heads(length, features, dtype=jnp.float32, batch=1, heads=2, scale=1.0):
  """Query, key, value."""
  rng = np.random.default_rng(length + features)
  shape = (batch, length, heads, features)
  query, key, value = (
    jnp.asarray(rng.normal(size=shape), dtype) for _ in range(3)
  )
  return query * jnp.asarray(scale, dtype), key, value


@pytest.mark.parametrize("causal", [False, True])
def test_attend_is_a_softmax(causal):
  """A1: each head's output is the mean of the values that it attends to."""
  arrays = _heads(7, 6, batch=3)
  expected = _attention(*(np.float64(a) for a in arrays), causal)
  _close(attention.attend(*arrays, causal=causal), expected)


def test_softmax_is_in_float32():
  """A1: in bfloat16, scores that only float32 tells apart are told apart.

  Scores are 64 and 64.25, which bfloat16 rounds to the same. Values are 0 and
  1, so the output of the second position is sigmoid(0.25) = 0.5622.
  """
  bfloat16 = functools.partial(jnp.asarray, dtype=jnp.bfloat16)
  query = bfloat16([[0, 0, 0, 0], [16, 1, 0, 0]])[None, :, None]
  key = bfloat16([[8, 0, 0, 0], [8, 0.5, 0, 0]])[None, :, None]
  value = bfloat16([[0] * 4, [1] * 4])[None, :, None]
  out = attention.attend(query, key, value, causal=True)
  assert out.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.float32(out[0, 1, 0]), 0.5622, atol=0.002)
  scores = jnp.einsum("f,kf->k", query[0, 1, 0], key[0, :, 0]) / 2
  assert jax.nn.softmax(scores)[1] == 0.5  # What is not wanted.


def _pulled(attend, arrays, causal):
  """Output, and the gradients of a weighted sum of it."""
  out, pull = jax.vjp(functools.partial(attend, causal=causal), *arrays)
  weights = np.random.default_rng(9).normal(size=out.shape)
  return out, *pull(jnp.asarray(weights, out.dtype))


# More than one block of 128, features below and above one row of lanes; scaled
# so that the largest score moves from block to block.
@pytest.mark.parametrize(
  "length, features, causal",
  [
    (128, 8, False),
    pytest.param(256, 64, True, marks=pytest.mark.pods),
    pytest.param(384, 256, False, marks=pytest.mark.pods),
    pytest.param(512, 128, True, marks=pytest.mark.pods),
  ],
)
def test_tpu_flash_is_attention(length, features, causal):
  """A1: the TPU kernel, interpreted, equals the rest, forward and backward."""
  arrays = _heads(length, features, scale=4.0)
  assert attention.fits_tpu_flash(arrays[0])
  with pltpu.force_tpu_interpret_mode():
    flash = _pulled(attention.tpu_flash, arrays, causal)
  plain = _pulled(attention.attend, arrays, causal)
  for one, other in zip(flash, plain, strict=True):
    _close(one, other)
  if features == 8:  # The definition takes its time.
    _close(flash[0], _attention(*(np.float64(a) for a in arrays), causal))


def test_tpu_flash_in_bfloat16():
  """A1: of bfloat16 the TPU kernel makes what float32 would, to its digits."""
  arrays = _heads(128, 64, jnp.bfloat16)
  with pltpu.force_tpu_interpret_mode():
    out = attention.tpu_flash(*arrays, causal=True)
  assert out.dtype == jnp.bfloat16
  wide = (array.astype(jnp.float32) for array in arrays)
  _close(out, attention.attend(*wide, causal=True), 0.01)


def test_lm_with_the_tpu_kernel(monkeypatch):
  """A1: a model on the TPU kernel is the same model; in a scan, in a vmap.

  By Pallas's other interpreter: that for TPUs has effects, which neither a scan
  of Flax's nor a vmap takes.
  """
  interpreted = functools.partial(pallas.pallas_call, interpret=True)
  monkeypatch.setattr(pallas, "pallas_call", interpreted)
  sizes = dict(num_classes=TOKENS, norm=_build("lm").norm, width=16, heads=2)
  tokens = _inputs("lm", batch=2, length=128)
  plain = lm.LM(**sizes)
  params = [_params(plain, tokens, seed) for seed in range(2)]
  params = jax.tree.map(lambda *leaves: np.stack(leaves), *params)
  flash = lm.LM(**sizes, attend=attention.tpu_flash)
  together = jax.vmap(_logits, (None, 0, None))
  _close(together(flash, params, tokens), together(plain, params, tokens))


def _query(length, features, dtype):
  return jax.ShapeDtypeStruct((2, length, 3, features), dtype)


@pytest.mark.parametrize(
  "backend, length, features, dtype, capability, whole, kernel",
  [
    ("cpu", 256, 128, "bfloat16", "", True, "xla"),
    ("tpu", 256, 128, "bfloat16", "", True, "tpu_flash"),
    ("tpu", 128, 64, "float32", "", True, "tpu_flash"),
    ("tpu", 128, 256, "float32", "", True, "tpu_flash"),
    # JAX's kernel raises on these.
    ("tpu", 200, 128, "float32", "", True, "xla"),
    ("tpu", 64, 128, "float32", "", True, "xla"),
    ("tpu", 256, 192, "float32", "", True, "xla"),
    # Nor does the compiler take this one.
    ("tpu", 128, 128, "float16", "", True, "xla"),
    # XLA does not partition it.
    ("tpu", 256, 128, "bfloat16", "", False, "xla"),
    ("gpu", 200, 128, "bfloat16", "8.0", True, "cudnn"),
    ("gpu", 256, 64, "float16", "12.0", False, "cudnn"),
    # cuDNN's kernel is not for float32, odd features, or older or other GPUs.
    ("gpu", 256, 128, "float32", "8.0", True, "xla"),
    ("gpu", 256, 60, "bfloat16", "8.0", True, "xla"),
    ("gpu", 256, 136, "bfloat16", "8.0", True, "xla"),
    ("gpu", 256, 128, "bfloat16", "7.5", True, "xla"),
    ("gpu", 256, 128, "bfloat16", "gfx942", True, "xla"),
  ],
)
def test_fastest_kernel(
  backend, length, features, dtype, capability, whole, kernel
):
  """A1: attention is by a kernel that takes these shapes on this device."""
  query = _query(length, features, jnp.dtype(dtype))
  found = attention.fastest(
    query, backend=backend, capability=capability, whole=whole
  )
  assert found == kernel


@pytest.mark.parametrize("length, features", [(200, 128), (256, 192)])
def test_tpu_flash_refuses_what_does_not_fit(length, features):
  """A1: the shapes that are kept from the TPU kernel would not run on it."""
  query = _query(length, features, jnp.float32)
  assert not attention.fits_tpu_flash(query)
  flash = functools.partial(attention.tpu_flash, causal=True)
  with pytest.raises((ValueError, NotImplementedError), match="should"):
    jax.eval_shape(flash, query, query, query)


@pytest.mark.parametrize("axes", [{"data": 8}, {"fsdp": 4, "tensor": 2}])
def test_whole_arrays_are_known(axes):
  """A1: a kernel that XLA cannot partition is kept for where it need not."""
  split = sharding.make_mesh(**axes)
  found = []

  def look(query, key, value, *, causal, device, whole):
    found.append(whole)
    return query

  query = jnp.zeros((8, 2, 4, 6))
  attend = sharding.over_batch(split, look)
  call = functools.partial(attend, causal=True)
  jax.jit(call)(query, query, query)
  jax.jit(call)(*[query[:1]] * 3)  # which cannot be split
  over_trials = sharding.over_trials(
    sharding.make_mesh(trial=8), lambda q, _: call(q, q, q)
  )
  jax.jit(over_trials)(query, jnp.zeros(1))
  alone = sharding.make_mesh(devices=jax.devices()[:1])
  sharding.over_batch(alone, look)(query, query, query, causal=True)
  assert found == [True, False, True, True]


# Types.


def _products(jaxpr):
  """Of each product of matrices, in loops too: types of operands, of result."""
  for equation in jaxpr.eqns:
    if equation.primitive.name == "dot_general":
      variables = (*equation.invars, *equation.outvars)
      yield tuple(variable.aval.dtype.name for variable in variables)
    for inner in extend.core.jaxprs_in_params(equation.params):
      yield from _products(inner)


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_is_the_computation_only(name):
  """A1: bfloat16 products; parameters, scores and logits are float32."""
  model = _build(name, dtype="bfloat16", qk_norm=True)
  inputs = _inputs(name)
  params = _shapes(model, inputs)
  assert {leaf.dtype.name for leaf in jax.tree.leaves(params)} == {"float32"}
  jaxpr = jax.make_jaxpr(functools.partial(models.apply, model))(
    params, {}, inputs
  )
  assert jaxpr.out_avals[0].dtype == jnp.float32
  products = list(_products(jaxpr.jaxpr))
  narrow = ("bfloat16",) * 3
  summed = ("bfloat16", "bfloat16", "float32")
  wide = ("float32",) * 3
  # qkv, scores, values, out, gate and up, down.
  block = [narrow, summed, narrow, narrow, narrow, narrow]
  if name == "lm":
    assert products == [*block, summed]
  else:
    assert products == [narrow, *block, wide]


@pytest.mark.parametrize("name", FAMILIES)
def test_bfloat16_is_near_float32(name):
  """A1: the two types compute the same model."""
  inputs = _inputs(name)
  logits = {}
  for dtype in ("float32", "bfloat16"):
    model = _build(name, dtype=dtype)
    logits[dtype] = _logits(model, _params(model, inputs), inputs)
  _close(logits["bfloat16"], logits["float32"], 0.05)
  assert (logits["bfloat16"] != logits["float32"]).any()


def test_logits_are_summed_in_float32():
  """A1: logits of bfloat16 features have the digits of float32."""
  model = _build("lm", width=64, dtype="bfloat16")
  tokens = _inputs("lm")
  params = _params(model, tokens)
  logits, x = _stack_output(model, params, tokens)
  assert x.dtype == jnp.bfloat16
  kernel = params["head"]["kernel"].astype(jnp.bfloat16)
  exact = np.float64(x) @ np.float64(kernel)
  _close(logits, exact, 1e-6)
  rounded = logits.astype(jnp.bfloat16).astype(jnp.float32)
  assert np.abs(rounded - exact).max() > 1e-3 * np.abs(exact).max()


# The start.


@pytest.mark.parametrize(
  "name, zero",
  [
    pytest.param("lm", True, marks=pytest.mark.pods),
    ("vit", True),
    ("lm", False),
  ],
)
def test_zero_init_residual(name, zero):
  """I6: one line, and the stack starts as the identity up to its last norm."""
  model = _build(name, zero_init_residual=zero)
  inputs = _inputs(name)
  params = _init(model, inputs)
  numbers = _double(params)
  if name == "lm":
    x = _rms(numbers["embedding"]["embedding"][inputs], 1.0)
  else:
    x = _rms(_numpy_patches(numbers, inputs), 1.0).mean(1)
  identity = x @ numbers["head"]["kernel"]
  logits = _logits(model, params, inputs)
  difference = np.abs(logits - identity).max() / np.abs(identity).max()
  assert difference < 1e-5 if zero else difference > 0.01


@pytest.mark.parametrize("name", FAMILIES)
def test_zero_init_residual_learns(name):
  """I6: from zero, the last layers move at once and everything after them."""
  model = _build(name, zero_init_residual=True)
  inputs = _inputs(name)
  params = _init(model, inputs)

  @jax.jit
  @jax.grad
  def gradient(params):
    logits = models.apply(model, params, {}, inputs)[0].ravel()
    return logits @ jnp.cos(jnp.arange(logits.size, dtype=jnp.float32))

  first = gradient(params)
  moved = jax.tree.map(lambda leaf, grad: leaf - 0.1 * grad, params, first)
  still = {path for path, grad in _by_leaf(first).items() if not grad.any()}
  last = ("attention/out/kernel", "mlp/down/kernel")
  assert not any(path.endswith(last) for path in still)
  # What comes before a zero has no gradient yet.
  assert any(path.endswith("qkv/kernel") for path in still)
  for path, grad in _by_leaf(gradient(moved)).items():
    assert np.abs(grad).max() > 0, path


def test_branches_start_smaller_with_depth():
  """A1: the layers that end a branch start at std 1 / sqrt(2 depth inputs)."""
  depth, width, hidden = 8, 64, 96
  model = _build("lm", depth=depth, width=width, mlp_width=hidden)
  blocks = _init(model, _inputs("lm"))["decoder"]["blocks"]
  expected = {
    ("attention", "qkv"): 1 / width,
    ("attention", "out"): 1 / width / (2 * depth),
    ("mlp", "gate_up"): 1 / width,
    ("mlp", "down"): 1 / hidden / (2 * depth),
  }
  for (part, layer), variance in expected.items():
    kernel = blocks[part][layer]["kernel"]
    # Over 32,000 draws.
    assert np.std(kernel) == pytest.approx(np.sqrt(variance), rel=0.03)
    correlation = np.corrcoef(np.reshape(kernel, (depth, -1)))
    assert np.abs(correlation - np.eye(depth)).max() < 0.2  # No two alike.


# Rematerialization.


@pytest.mark.slow
def test_remat_changes_no_gradient():
  """A1: what is kept for the backward pass does not change the gradient."""
  inputs = _inputs("lm")
  gradients = {}
  for remat in transformer.REMAT:
    model = _build("lm", remat=remat, dropout=True)
    params = _params(model, inputs)

    def loss(params, model=model):
      logits, _ = models.apply(
        model,
        params,
        {},
        inputs,
        train=True,
        rows=jnp.arange(2),
        dropout_rate=0.3,
        dropout_key=jax.random.key(0),
      )
      return jnp.square(logits).sum()

    gradients[remat] = _by_leaf(jax.jit(jax.grad(loss))(params))
  for path, expected in gradients["none"].items():
    assert np.abs(expected).max() > 0, path
    for remat in ("dots", "full"):
      _close(gradients[remat][path], expected, 1e-4)


def test_remat_saves_memory():
  """A1: of each block, `full` keeps its input and `dots` its products too."""
  batch, length, width, hidden = 2, 64, 32, 96
  tokens = jax.ShapeDtypeStruct((batch, length), jnp.int32)

  def kept(remat, depth):
    """Numbers kept from the forward pass for the backward pass."""
    model = _build("lm", depth=depth, width=width, remat=remat)
    params = _shapes(model, tokens)

    def pull(params, tokens):
      def logits(params):
        return models.apply(model, params, {}, tokens, train=True)[0]

      return jax.vjp(logits, params)[1]

    kept = jax.eval_shape(pull, params, tokens)
    return sum(leaf.size for leaf in jax.tree.leaves(kept))

  parameters = 4 * width**2 + 3 * width * hidden + 2 * width
  of_block = {
    remat: kept(remat, 5) - kept(remat, 4) - parameters
    for remat in transformer.REMAT
  }
  positions = batch * length
  assert of_block["full"] == positions * width
  # The input; query, key and value; the output; gate and up.
  assert of_block["dots"] == positions * (
    width + 3 * width + width + 2 * hidden
  )
  # And, among the rest, the scores.
  scores = batch * 2 * length**2
  assert of_block["none"] > of_block["dots"] + scores


# Dropout.


@pytest.mark.parametrize("name", FAMILIES)
def test_dropout_masks_follow_the_row(name):
  """M2: a mask is a function of key and global row, not of place or company."""
  model = _build(name, dropout=True)
  inputs = _inputs(name, batch=4)
  params = _params(model, inputs)

  @jax.jit
  def logits(inputs, rows, seed, rate):
    return models.apply(
      model,
      params,
      {},
      inputs,
      train=True,
      rows=rows,
      dropout_rate=rate,
      dropout_key=jax.random.key(seed),
    )[0]

  rows = jnp.array([10, 11, 12, 13])
  whole = logits(inputs, rows, 3, 0.5)
  # Rows 13 and 11 at other places, beside rows 6 and 7.
  order = np.array([3, 0, 1, 2])
  moved = logits(inputs[order], jnp.array([13, 6, 11, 7]), 3, 0.5)
  np.testing.assert_allclose(moved[0], whole[3], rtol=1e-4, atol=1e-4)
  np.testing.assert_allclose(moved[2], whole[1], rtol=1e-4, atol=1e-4)
  assert (np.abs(moved[1] - whole[0]) > 1e-3).any()
  other = logits(inputs, rows, 4, 0.5)
  assert (np.abs(other - whole).reshape(4, -1).max(1) > 1e-3).all()
  # The rate is traced, and zero is no dropout.
  _close(logits(inputs, rows, 3, 0.0), _logits(model, params, inputs))


class _Ones(nn.Module):
  """In the place of norms: each block sees ones, the last norm does nothing."""

  @nn.compact
  def __call__(self, x, *, train):
    return x if self.name == "final_norm" else jnp.ones_like(x)


def test_dropout_masks_differ_from_layer_to_layer():
  """A1: each branch of each block draws its own mask.

  Branches add 1, 2, 4 and 8, or nothing, so that the sum tells which did.
  """
  batch, length, width = 3, 20, 8
  blocks = transformer.Blocks(
    norm=_Ones,
    attend=lambda query, key, value, causal: jnp.ones_like(value),
    constrain=lambda x: x,
    depth=2,
    heads=2,
    causal=True,
    mlp_width=5,
    qk_norm=False,
    activation="silu",
    norm_position="pre",
    zero_init_residual=False,
    dropout=True,
    remat="none",
    unroll=False,
    dtype=jnp.float32,
  )
  powers = {"attention": np.array([1.0, 4.0]), "mlp": np.array([2.0, 8.0])}
  params = {
    "attention": {
      "qkv": {"kernel": np.zeros((2, width, 3, 2, 4))},
      "out": {"kernel": np.ones((2, 2, 4, width)) / width},
    },
    "mlp": {
      "gate_up": {"kernel": np.ones((2, width, 2, 5)) / width},
      "down": {"kernel": np.ones((2, 5, width)) / 5 / jax.nn.silu(1.0)},
    },
  }
  for branch, last in (("attention", "out"), ("mlp", "down")):
    kernel = params[branch][last]["kernel"]
    scale = powers[branch].reshape((2,) + (1,) * (kernel.ndim - 1))
    params[branch][last]["kernel"] = kernel * scale / 2  # Kept ones double.
  out = blocks.apply(
    {"params": {"blocks": params}},
    jnp.zeros((batch, length, width)),
    None,
    train=True,
    rate=0.5,
    rows=jnp.arange(batch),
    rngs={"dropout": jax.random.key(0)},
  )
  sums = np.rint(out).astype(int)
  np.testing.assert_allclose(out, sums, atol=1e-4)
  assert sums.min() == 0 and sums.max() == 15
  masks = np.stack([sums >> bit & 1 for bit in range(4)])
  # Of independent draws, each of 480 is the same with probability 1/2.
  for one, other in zip(*np.triu_indices(4, 1), strict=True):
    assert abs((masks[one] == masks[other]).mean() - 0.5) < 0.15
  for row in range(1, batch):
    assert abs((masks[:, row] == masks[:, 0]).mean() - 0.5) < 0.15


# Counts.


def _real_counts(model, inputs):
  counts = dict.fromkeys(("embedding", "attention", "mlp", "norm", "head"), 0)
  for path, leaf in _by_leaf(_shapes(model, inputs)).items():
    counts[transformer.group(path)] += leaf.size
  return counts


@pytest.mark.parametrize(
  "sizes",
  [
    dict(),
    dict(tied_embedding=True),
    dict(qk_norm=True, depth=3),
    dict(mlp_width=40, width=24, heads=3),
    dict(norm="layer", qk_norm=True, tied_embedding=True, depth=1),
  ],
)
def test_parameters_by_group(sizes):
  """A1: the counted parameters of each group are those of the real tree."""
  model = _build("lm", **sizes)
  assert lm.parameters(model) == _real_counts(model, _inputs("lm"))
  sizes = {key: size for key, size in sizes.items() if "tied" not in key}
  model = _build("vit", **sizes)
  assert vit.parameters(model, IMAGE) == _real_counts(model, _inputs("vit"))


def test_parameters_by_hand():
  """A1: one small model, counted on paper."""
  model = _build("lm", outputs=7, depth=2, width=4, heads=2, mlp_width=3)
  assert lm.parameters(model) == {
    "embedding": 7 * 4,
    "attention": 2 * (4 * 12 + 4 * 4),
    "mlp": 2 * (4 * 6 + 3 * 4),
    "norm": 5 * 4,
    "head": 4 * 7,
  }
  # 4 patches of 2 x 2 x 1.
  model = _build("vit", outputs=3, depth=1, width=4, heads=2, mlp_width=3)
  assert vit.parameters(model, (4, 4, 1)) == {
    "embedding": 4 * 4 + 4 + 4 * 4,
    "attention": 4 * 12 + 4 * 4,
    "mlp": 4 * 6 + 3 * 4,
    "norm": 3 * 4,
    "head": 4 * 3 + 3,
  }


def test_group_knows_its_own():
  """A1: a leaf belongs to one group; a leaf of another model to none."""
  blocks = "params/decoder/blocks"
  assert transformer.group(f"{blocks}/attention/query_norm/scale") == "norm"
  assert transformer.group(f"{blocks}/mlp_norm/RMSNorm_0/scale") == "norm"
  assert transformer.group(f"{blocks}/attention/out/kernel") == "attention"
  assert transformer.group("positions") == "embedding"
  with pytest.raises(ValueError, match="Dense_0"):
    transformer.group("params/Dense_0/kernel")


def _compiled_flops(function, *shapes):
  compiled = jax.jit(function).lower(*shapes).compile()
  return compiled.cost_analysis()["flops"]


@pytest.mark.parametrize(
  "name, length, width, depth",
  [("lm", 64, 512, 2), ("lm", 512, 256, 1), ("vit", 64, 512, 1)],
)
def test_flops_are_those_of_the_compiled_program(name, length, width, depth):
  """A1: counted FLOPs are XLA's within 2 %, forward and with backward.

  Unrolled, because XLA counts the body of a loop once. The rest is norms,
  softmax and rotation, less of it the wider the model.
  """
  batch = 2
  model = _build(
    name, outputs=512, depth=depth, unroll=True, width=width, heads=4
  )
  if name == "lm":
    inputs = jax.ShapeDtypeStruct((batch, length), jnp.int32)
    counted = batch * length * sum(lm.flops_per_token(model, length).values())
    unasked = 0
  else:
    shape = (2 * length // 8, 16, 16)  # `length` patches of 2 x 2 x 16
    inputs = jax.ShapeDtypeStruct((batch, *shape), jnp.float32)
    by_group = vit.flops_per_image(model, shape)
    counted = batch * sum(by_group.values())
    unasked = batch * by_group["embedding"]
  params = _shapes(model, inputs)

  def logits(params, inputs):
    return models.apply(model, params, {}, inputs, train=True)[0]

  def loss(params, inputs):
    return jnp.square(logits(params, inputs)).sum()

  forward = _compiled_flops(logits, params, inputs)
  assert counted == pytest.approx(forward, rel=0.02)
  both = _compiled_flops(jax.grad(loss), params, inputs)
  assert 3 * counted - unasked == pytest.approx(both, rel=0.02)


def test_flops_by_group():
  """A1: two FLOPs for a weight and token, and four for a pair of positions."""
  model = _build("lm", outputs=300, depth=3, width=32)
  flops, longer = (lm.flops_per_token(model, n) for n in (10, 30))
  count = lm.parameters(model)
  assert flops["mlp"] == longer["mlp"] == 2 * count["mlp"]
  assert flops["head"] == longer["head"] == 2 * count["head"]
  assert flops["embedding"] == 0
  # Three blocks; scores and their use are a product each, of the width.
  assert flops["attention"] == 2 * count["attention"] + 3 * 4 * 10 * 32
  assert longer["attention"] - flops["attention"] == 3 * 4 * 20 * 32
  deep = lm.flops_per_token(_build("lm", 300, depth=6, width=32), 10)
  for group in ("attention", "mlp"):
    assert deep[group] == 2 * flops[group]
  assert deep["head"] == flops["head"]
  # The head's work is the same where it has no parameters of its own.
  tied = _build("lm", 300, depth=3, width=32, tied_embedding=True)
  assert lm.flops_per_token(tied, 10) == flops

  sizes = dict(outputs=300, depth=3, width=32)
  images = vit.flops_per_image(_build("vit", **sizes), (4, 10, 1))
  assert images["mlp"] == 10 * flops["mlp"]
  assert images["attention"] == 10 * flops["attention"]
  assert images["embedding"] == 10 * 2 * 4 * 32
  assert images["head"] == flops["head"]  # Once, not for each patch.


# As the rest of jaxplay uses them.


def test_lm_learns_to_look_back():
  """A1: gradient descent on `1 0 0 1 0 0 ...` ends near zero loss.

  What follows a 0 depends on the token before it: to one that sees only the
  present token, 2/3 log 2 = 0.46 nats remain.
  """
  model = _build("lm", outputs=2, depth=1, width=32)
  tokens = np.array([[1, 0, 0] * 5], np.int32)
  params = _init(model, tokens[:, :-1])
  adam = optax.adam(0.01)

  @jax.jit
  def step(params, state):
    def loss(params):
      logits, _ = models.apply(model, params, {}, tokens[:, :-1], train=True)
      return optax.losses.softmax_cross_entropy_with_integer_labels(
        logits, tokens[:, 1:]
      ).mean()

    value, gradient = jax.value_and_grad(loss)(params)
    updates, state = adam.update(gradient, state)
    return optax.apply_updates(params, updates), state, value

  state, losses = adam.init(params), []
  for _ in range(50):
    params, state, loss = step(params, state)
    losses.append(float(loss))
  assert losses[0] > 0.6 and losses[-1] < 0.02


def test_population_equals_each_alone():
  """Idea 1: models in one program are what each is alone."""
  model = _build("lm")
  inputs = _inputs("lm")
  params = [_params(model, inputs, seed) for seed in range(3)]
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *params)
  together = jax.vmap(_logits, (None, 0, None))(model, stacked, inputs)
  for one, alone in zip(together, params, strict=True):
    _close(one, _logits(model, alone, inputs))


def test_sharded_equals_single_device(mesh):
  """A1: a batch split over eight devices gives the logits of the whole."""
  model = _build("lm")
  inputs = _inputs("lm", batch=8)
  params = _params(model, inputs)
  split = jax.device_put(inputs, sharding.batch(mesh))
  logits = _logits(model, params, split)
  assert len(logits.sharding.device_set) == 8
  _close(logits, _logits(model, params, inputs))
