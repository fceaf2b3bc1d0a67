"""Scaled dot-product attention, by the fastest kernel that fits.

The softmax is in float32, whatever the type of the inputs.
"""

import functools
import math
import re
from typing import Literal

import jax
import jax.numpy as jnp

# Of the TPU kernel: positions per block, and features per row of lanes.
_TPU_POSITIONS, _TPU_FEATURES = 128, 128


def attend(
  query, key, value, *, causal: bool, device=None, whole: bool | None = None
):
  """Attention of each head.

  cuDNN's flash kernel on GPUs where types and shapes allow, JAX's own flash
  kernel on TPUs likewise, else `jax.nn.dot_product_attention` as XLA compiles
  it.

  Args:
    query: [batch, length, heads, features].
    key: As query.
    value: As query.
    causal: Whether a position attends only to itself and earlier ones.
    device: Device to compile for; None: that of this process.
    whole: Whether XLA does not split the traced arrays over devices: there is
      one device, or this is the body of a `shard_map`. Otherwise a Pallas
      kernel does not compile, as XLA cannot partition it (unlike cuDNN's).
      None: whether there is one device.

  Returns:
    [batch, length, heads, features].
  """
  device = jax.local_devices()[0] if device is None else device
  kernel = fastest(
    query,
    backend=device.platform,
    capability=getattr(device, "compute_capability", ""),
    whole=jax.device_count() == 1 if whole is None else whole,
  )
  if kernel == "tpu_flash":
    return tpu_flash(query, key, value, causal=causal)
  return jax.nn.dot_product_attention(
    query, key, value, is_causal=causal, implementation=kernel
  )


def fastest(
  query, *, backend: str, capability: str, whole: bool
) -> Literal["tpu_flash", "cudnn", "xla"]:
  """Name of the fastest kernel.

  Args:
    query: [batch, length, heads, features]; only type and shape matter.
    backend: `tpu`, `gpu` or another.
    capability: Of the GPU, such as "8.0"; AMD's have other names.
    whole: See `attend`.
  """
  if backend == "tpu" and whole and fits_tpu_flash(query):
    return "tpu_flash"
  if backend == "gpu" and _fits_cudnn(query, capability):
    return "cudnn"
  return "xla"


def _fits_cudnn(query, capability):
  half = query.dtype in (jnp.bfloat16, jnp.float16)
  fits = query.shape[-1] % 8 == 0 and query.shape[-1] <= 128
  # Flash attention needs Ampere or newer, which JAX does not check.
  cuda = re.fullmatch(r"(\d+)\.\d+", capability)
  return half and fits and cuda is not None and int(cuda[1]) >= 8


def fits_tpu_flash(query) -> bool:
  """Whether `tpu_flash` supports queries [batch, length, heads, features]."""
  _, length, _, features = query.shape
  return (
    query.dtype in (jnp.bfloat16, jnp.float32)
    and length % _TPU_POSITIONS == 0
    and (features <= _TPU_FEATURES or features % _TPU_FEATURES == 0)
  )


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
