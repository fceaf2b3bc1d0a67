"""Blocks and counts that the language model and the vision transformer share.

A block is x + attention(norm(x)), then x + SwiGLU(norm(x)) (Shazeer 2020, arXiv
2002.05202), or x + norm(attention(x)), then x + norm(SwiGLU(x)). The blocks are
one scanned block, so compile time does not grow with depth, and may be
rematerialized in the backward pass.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxplay.models import activation, attention, dropout

# What the backward pass may reuse of a block.
REMAT = {
  "none": None,  # all
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
  "full": jax.checkpoint_policies.nothing_saveable,
}


def mlp_features(width: int, mlp_width: int) -> int:
  """Hidden features of the SwiGLU layer.

  By default 8/3 of the width, rounded up to a multiple of 32: as many
  parameters as an MLP without gate of four times the width.
  """
  return mlp_width or -(-width * 8 // 3 // 32) * 32


class Attention(nn.Module):
  """Multi-head self-attention.

  Attributes:
    heads: Number of heads; must divide the width.
    attend: (query, key, value, causal=) -> output, each [batch, length, heads,
      features]; see `attention.py`.
    causal: Whether a position attends only to itself and earlier ones.
    qk_norm: Whether queries and keys are RMS-normalized, head by head (Dehghani
      et al. 2023, arXiv 2302.05442).
    out_init: Initializer of the output projection.
    dtype: Type of the computation.
  """

  heads: int
  attend: Callable
  causal: bool
  qk_norm: bool
  out_init: Any
  dtype: Any

  @nn.compact
  def __call__(self, x, rotation):
    """Attends over `x` [batch, length, width]; `rotation`: `rotary` or None."""
    features = x.shape[-1] // self.heads
    dense = functools.partial(nn.DenseGeneral, use_bias=False, dtype=self.dtype)
    qkv = dense((3, self.heads, features), name="qkv")(x)
    query, key, value = (qkv[:, :, i] for i in range(3))
    if self.qk_norm:
      query = nn.RMSNorm(dtype=self.dtype, name="query_norm")(query)
      key = nn.RMSNorm(dtype=self.dtype, name="key_norm")(key)
    if rotation is not None:
      query, key = _rotated(query, rotation), _rotated(key, rotation)
    out = self.attend(query, key, value, causal=self.causal)
    return dense(
      x.shape[-1], axis=(-2, -1), kernel_init=self.out_init, name="out"
    )(out)


class SwiGLU(nn.Module):
  """Gated MLP: down(activation(gate(x)) * up(x)), by default with silu."""

  hidden: int
  activation: str
  out_init: Any
  dtype: Any

  @nn.compact
  def __call__(self, x):
    dense = functools.partial(nn.DenseGeneral, use_bias=False, dtype=self.dtype)
    both = dense((2, self.hidden), name="gate_up")(x)
    gated = (
      activation.ACTIVATIONS[self.activation](both[..., 0, :]) * both[..., 1, :]
    )
    return dense(x.shape[-1], kernel_init=self.out_init, name="down")(gated)


class Block(nn.Module):
  """One block; returns (carry, None) for `nn.scan`.

  Attributes:
    norm, attention, mlp: Constructors of layers.
    norm_position: See `Transformer`.
    zero_norm: Whether the norms that end a branch start at zero.
    constrain: See `Transformer`.
    dropout: Whether there is dropout at the end of each branch.
  """

  norm: Callable
  attention: Callable
  mlp: Callable
  norm_position: str
  zero_norm: bool
  constrain: Callable
  dropout: bool

  @nn.compact
  def __call__(self, x, rotation, train, rate, rows):
    def dropped(x):
      if not self.dropout:
        return x
      return dropout.Dropout()(x, train=train, rate=rate, rows=rows)

    def branch(x, name, layer, *more):
      if self.norm_position == "pre":
        normed = self.norm(name=f"{name}_norm")(x, train=train)
        return dropped(layer(name=name)(normed, *more))
      norm = self.norm(name=f"{name}_norm", zero_scale=self.zero_norm)
      return dropped(norm(layer(name=name)(x, *more), train=train))

    x = x + branch(x, "attention", self.attention, rotation)
    return self.constrain(x + branch(x, "mlp", self.mlp)), None


class Blocks(nn.Module):
  """A stack of blocks and the last norm.

  Attributes:
    norm: Constructor of a norm layer.
    attend: See `Attention`.
    constrain: See `Transformer`.
    depth: Number of blocks.
    heads: Of each block.
    causal: See `Attention`.
    mlp_width: Hidden features; 0: see `mlp_features`.
    qk_norm: See `Attention`.
    activation: Of the MLP.
    norm_position: See `Transformer`.
    zero_init_residual: Whether each branch starts at zero; else its last layer
      is scaled by 1/sqrt(2 depth) at initialization, so that the sum of all
      branches does not grow with depth (Radford et al. 2019).
    dropout: Whether there is dropout at the end of each branch.
    remat: Key of `REMAT`.
    unroll: Whether to compile the blocks one by one, so that the compiler can
      count their FLOPs.
    dtype: Type of the computation.
  """

  norm: Callable
  attend: Callable
  constrain: Callable
  depth: int
  heads: int
  causal: bool
  mlp_width: int
  qk_norm: bool
  activation: str
  norm_position: str
  zero_init_residual: bool
  dropout: bool
  remat: str
  unroll: bool
  dtype: Any

  @nn.compact
  def __call__(self, x, rotation, *, train, rate, rows):
    """Transforms `x` [batch, length, width]; same shape, normalized."""
    out_init = nn.initializers.variance_scaling(
      1 / (2 * self.depth), "fan_in", "truncated_normal"
    )
    # Before a norm a layer of zeros would have no useful gradient.
    is_pre = self.norm_position == "pre"
    if self.zero_init_residual and is_pre:
      out_init = nn.initializers.zeros
    common = dict(out_init=out_init, dtype=self.dtype)
    block = Block
    if self.remat != "none":
      # A scan prevents common subexpression elimination anyway.
      block = nn.remat(
        Block,
        policy=REMAT[self.remat],
        prevent_cse=False,
        static_argnums=(3,),  # train; 0 is the module
      )
    stack = nn.scan(
      block,
      variable_axes={"params": 0},
      split_rngs={"params": True, "dropout": True},
      in_axes=nn.broadcast,
      length=self.depth,
      unroll=self.depth if self.unroll else 1,
    )
    x, _ = stack(
      norm=self.norm,
      attention=functools.partial(
        Attention,
        heads=self.heads,
        attend=self.attend,
        causal=self.causal,
        qk_norm=self.qk_norm,
        **common,
      ),
      mlp=functools.partial(
        SwiGLU,
        hidden=mlp_features(x.shape[-1], self.mlp_width),
        activation=self.activation,
        **common,
      ),
      norm_position=self.norm_position,
      zero_norm=self.zero_init_residual and not is_pre,
      constrain=self.constrain,
      dropout=self.dropout,
      name="blocks",
    )(self.constrain(x), rotation, train, rate, rows)
    return self.norm(name="final_norm")(x, train=train)


class Transformer(nn.Module):
  """Common fields of the families.

  Attributes:
    num_classes: Size of the output.
    norm: Constructor of a norm layer.
    norm_bias: Whether the norm has a bias (for `parameters`).
    attend: See `Attention`.
    constrain: Sharding constraint of the activations between blocks, and with
      `whole=True` of arrays that every device needs entirely.
    depth: Number of blocks.
    width: Features of the residual stream.
    heads: Attention heads; must divide the width.
    mlp_width: Hidden features of the MLP; 0: see `mlp_features`.
    qk_norm: Whether queries and keys are normalized.
    activation: Key of `activation.ACTIVATIONS`, of the gate of the MLP.
    norm_position: "pre": the norm begins each residual branch, x + f(norm(x));
      "post_branch": it ends it, before the sum, x + norm(f(x)).
    zero_init_residual: Whether residual branches start at zero.
    dropout: Whether there is dropout after each branch.
    remat: Key of `REMAT`.
    unroll: See `Blocks`.
    dtype: Type of the computation; parameters and logits are float32.
  """

  num_classes: int
  norm: Callable
  norm_bias: bool = False
  attend: Callable = attention.attend
  constrain: Callable = lambda x, whole=False: x
  depth: int = 2
  width: int = 128
  heads: int = 4
  mlp_width: int = 0
  qk_norm: bool = False
  activation: str = "silu"
  norm_position: str = "pre"
  zero_init_residual: bool = False
  dropout: bool = False
  remat: str = "none"
  unroll: bool = False
  dtype: Any = jnp.float32

  def blocks(self, name: str, *, causal: bool) -> Blocks:
    """The blocks between embedding and output layer."""
    return Blocks(
      norm=self.norm,
      attend=self.attend,
      constrain=self.constrain,
      depth=self.depth,
      heads=self.heads,
      causal=causal,
      mlp_width=self.mlp_width,
      qk_norm=self.qk_norm,
      activation=self.activation,
      norm_position=self.norm_position,
      zero_init_residual=self.zero_init_residual,
      dropout=self.dropout,
      remat=self.remat,
      unroll=self.unroll,
      dtype=self.dtype,
      name=name,
    )

  def inner_parameters(self) -> dict[str, int]:
    """Number of parameters of the blocks: attention, mlp, norm."""
    matrices = block_parameters(
      width=self.width, depth=self.depth, mlp_width=self.mlp_width
    )
    return matrices | {
      "norm": norm_parameters(
        width=self.width,
        depth=self.depth,
        heads=self.heads,
        qk_norm=self.qk_norm,
        norm_bias=self.norm_bias,
      )
    }

  def inner_flops(self, length: int) -> dict[str, float]:
    """FLOPs of the blocks for one of `length` positions; see `block_flops`."""
    return block_flops(
      width=self.width,
      depth=self.depth,
      mlp_width=self.mlp_width,
      length=length,
    )


def rotary(length: int, features: int, base: float):
  """Rotary position embedding (Su et al. 2021, arXiv 2104.09864).

  Args:
    length: Positions, from 0.
    features: Of a head, even.
    base: The slowest pair rotates by about 1/base radians per position.

  Returns:
    (cosines, sines), each float32 [length, features / 2].
  """
  frequencies = base ** (-jnp.arange(0, features, 2, jnp.float32) / features)
  angles = jnp.arange(length, dtype=jnp.float32)[:, None] * frequencies[None, :]
  return jnp.cos(angles), jnp.sin(angles)


def _rotated(x, rotation):
  """Rotates pairs (i, i + features / 2) of `x` [batch, length, heads, any]."""
  cos, sin = (part[None, :, None, :] for part in rotation)
  first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
  rotated = (first * cos - second * sin, second * cos + first * sin)
  return jnp.concatenate(rotated, axis=-1).astype(x.dtype)


def group(path: str) -> str:
  """The group of parameters that a leaf belongs to, by its path.

  Returns:
    `embedding` (with learned positions), `attention`, `mlp`, `norm` or `head`.

  Raises:
    ValueError: A transformer has no such parameter.
  """
  names = path.split("/")
  if any(name.endswith("_norm") for name in names):
    return "norm"
  if "positions" in names:
    return "embedding"
  for name in ("embedding", "attention", "mlp", "head"):
    if name in names:
      return name
  raise ValueError(f"unknown parameter {path!r} of a transformer")


def block_parameters(
  *, width: int, depth: int, mlp_width: int
) -> dict[str, int]:
  """Number of matrix parameters of all blocks, by group."""
  return {
    "attention": depth * 4 * width**2,
    "mlp": depth * 3 * width * mlp_features(width, mlp_width),
  }


def norm_parameters(
  *, width: int, depth: int, heads: int, qk_norm: bool, norm_bias: bool
) -> int:
  """Number of parameters of all norms, the last one included."""
  layers = (2 * depth + 1) * width * (2 if norm_bias else 1)
  return layers + (2 * depth * (width // heads) if qk_norm else 0)


def block_flops(
  *, width: int, depth: int, mlp_width: int, length: int
) -> dict[str, float]:
  """FLOPs of the forward pass through all blocks, for one token, by group.

  A multiply-add counts as two. Attention is counted in full, not only its
  causal half (as in Hoffmann et al. 2022, appendix F); norms, softmax and the
  rotation are not counted (as in Kaplan et al. 2020, section 2.1).
  """
  matrices = block_parameters(width=width, depth=depth, mlp_width=mlp_width)
  return {
    # Scores, and weighted sums of values: 2 x 2 x length x width.
    "attention": 2 * matrices["attention"] + depth * 4 * length * width,
    "mlp": 2 * matrices["mlp"],
  }
