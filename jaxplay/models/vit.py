"""Vision transformer (Dosovitskiy et al. 2021) on the language model's blocks.

Patches, learned positions, bidirectional attention, and the mean over patches
instead of a class token (Beyer et al. 2022, arXiv 2205.01580).
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from jaxplay.models import attention, transformer


class ViT(nn.Module):
  """Classifier of images.

  Attributes:
    num_classes: Size of the output.
    norm: Constructor of a norm layer.
    attend: See `transformer.Attention`.
    depth: Number of blocks.
    width: Features of the residual stream.
    heads: Attention heads, which divide the width.
    patch_size: Height and width of a patch, which divides the image's.
    mlp_width: Hidden features of the MLP; 0: see `transformer.mlp_features`.
    qk_norm: Whether queries and keys are normalized.
    zero_init_residual: Whether residual branches begin as zero.
    dropout: Whether there is dropout after each branch.
    remat: Key of `transformer.REMAT`.
    dtype: Type of the computation; parameters and logits are float32.
  """

  num_classes: int
  norm: Callable
  attend: Callable = attention.attend
  depth: int = 2
  width: int = 128
  heads: int = 4
  patch_size: int = 4
  mlp_width: int = 0
  qk_norm: bool = False
  zero_init_residual: bool = False
  dropout: bool = False
  remat: str = "none"
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train, weights=None, rows=None, dropout_rate=0.0):
    """Float32 logits [batch, classes] of images [batch, height, width, c]."""
    x = nn.DenseGeneral(
      self.width, axis=(-3, -2, -1), dtype=self.dtype, name="embedding"
    )(_patches(x, self.patch_size))
    positions = self.param(
      "positions", nn.initializers.normal(0.02), (x.shape[1], self.width)
    )
    x = transformer.Blocks(
      norm=self.norm,
      attend=self.attend,
      depth=self.depth,
      heads=self.heads,
      causal=False,
      mlp_width=self.mlp_width,
      qk_norm=self.qk_norm,
      zero_init_residual=self.zero_init_residual,
      dropout=self.dropout,
      remat=self.remat,
      dtype=self.dtype,
      name="encoder",
    )(
      x + positions[None].astype(self.dtype),
      None,
      train=train,
      rate=dropout_rate,
      rows=rows,
    )
    x = x.mean(1)
    x = nn.Dense(self.num_classes, dtype=self.dtype, name="head")(x)
    return x.astype(jnp.float32)


def _patches(images, size):
  """[batch, patches, size, size, channels]; row by row."""
  batch, height, width, channels = images.shape
  split = images.reshape(
    batch, height // size, size, width // size, size, channels
  )
  return split.swapaxes(2, 3).reshape(batch, -1, size, size, channels)
