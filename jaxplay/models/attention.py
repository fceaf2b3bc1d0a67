"""Scaled dot-product attention, by the fastest kernel that fits.

The softmax is in float32, whatever the type of the inputs.
"""

import functools
import math

import jax
import jax.numpy as jnp

# What the TPU kernel takes: blocks of so many positions, and lanes of features.
_TPU_POSITIONS, _TPU_FEATURES = 128, 128


def attend(query, key, value, *, causal: bool):
  """Attention of each head.

  cuDNN's flash kernel on GPUs where types and shapes allow, JAX's own flash
  kernel on TPUs likewise, else `jax.nn.dot_product_attention` as XLA compiles
  it.

  Args:
    query: [batch, length, heads, features].
    key: As query.
    value: As query.
    causal: Whether a position sees only those before it, and itself.

  Returns:
    As query.
  """
  backend = jax.default_backend()
  if backend == "tpu" and fits_tpu_flash(query):
    return tpu_flash(query, key, value, causal=causal)
  implementation = "xla"
  if backend == "gpu" and _fits_cudnn(query):
    implementation = "cudnn"
  return jax.nn.dot_product_attention(
    query, key, value, is_causal=causal, implementation=implementation
  )


def _fits_cudnn(query):
  half = query.dtype in (jnp.bfloat16, jnp.float16)
  return half and query.shape[-1] % 8 == 0 and query.shape[-1] <= 128


def fits_tpu_flash(query) -> bool:
  """Whether `tpu_flash` takes queries [batch, length, heads, features]."""
  _, length, _, features = query.shape
  return length % _TPU_POSITIONS == 0 and features % _TPU_FEATURES == 0


def tpu_flash(query, key, value, *, causal: bool):
  """Attention by the Pallas kernel that comes with JAX; as `attend`."""
  from jax.experimental.pallas.ops.tpu import flash_attention

  heads_first = functools.partial(jnp.swapaxes, axis1=1, axis2=2)
  out = flash_attention.flash_attention(
    heads_first(query),
    heads_first(key),
    heads_first(value),
    causal=causal,
    sm_scale=1 / math.sqrt(query.shape[-1]),
  )
  return heads_first(out)
