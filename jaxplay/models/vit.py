"""Vision transformer (Dosovitskiy et al. 2021) on the language model's blocks.

Patches, learned positions, bidirectional attention, and the mean over patches
instead of a class token (Beyer et al. 2022, arXiv 2205.01580).
"""

import jax.numpy as jnp
from flax import linen as nn

import jaxplay
from jaxplay.models import transformer


class ViT(transformer.Transformer):
  """Classifier of images.

  Attributes, beside those of `Transformer`:
    patch_size: Height and width of a patch; must divide those of the image.
  """

  patch_size: int = 4

  @nn.compact
  def __call__(self, x, *, train, weights=None, rows=None, dropout_rate=0.0):
    """Float32 logits [batch, classes] of images [batch, height, width, c]."""
    x = nn.DenseGeneral(
      self.width, axis=(-3, -2, -1), dtype=self.dtype, name="embedding"
    )(_patches(x, self.patch_size))
    positions = self.param(
      "positions", nn.initializers.normal(0.02), (x.shape[1], self.width)
    )
    x = x + positions[None].astype(self.dtype)
    encoder = self.blocks("encoder", causal=False)
    x = encoder(x, None, train=train, rate=dropout_rate, rows=rows)
    x = x.mean(1, dtype=jnp.float32)
    return nn.Dense(self.num_classes, name="head")(x)


def parameters(model: ViT, shape: tuple[int, int, int]) -> dict[str, int]:
  """Number of parameters by group: embedding, attention, mlp, norm, head.

  Args:
    model: The model.
    shape: Of an image: height, width, channels.
  """
  patches, values = _patch_grid(model, shape)
  return {
    # With a bias, and one position embedding per patch.
    "embedding": (values + 1 + patches) * model.width,
    **model.inner_parameters(),
    "head": (model.width + 1) * model.num_classes,
  }


def flops_per_image(
  model: ViT, shape: tuple[int, int, int]
) -> dict[str, float]:
  """FLOPs of the forward pass for one image, by group.

  A training step takes three times as many, minus the gradient of the images,
  which is not computed. `transformer.block_flops` documents what is counted.

  Args:
    model: The model.
    shape: Of an image: height, width, channels.
  """
  patches, values = _patch_grid(model, shape)
  blocks = model.inner_flops(patches)
  return {
    "embedding": 2 * patches * values * model.width,
    **{name: patches * flops for name, flops in blocks.items()},
    "head": 2 * model.width * model.num_classes,
  }


def _patch_grid(model, shape):
  """Number of patches, and of values per patch."""
  height, width, channels = shape
  size = model.patch_size
  return (height // size) * (width // size), size * size * channels


def _patches(images, size):
  """[batch, patches, size, size, channels]; row by row."""
  batch, height, width, channels = images.shape
  if height % size or width % size:
    raise jaxplay.UserError(
      f"images of {height} x {width} are not divisible into patches of"
      f" {size} x {size}; use a config.model.patch_size that divides both"
    )
  split = images.reshape(
    batch, height // size, size, width // size, size, channels
  )
  return split.swapaxes(2, 3).reshape(batch, -1, size, size, channels)
