"""ResNet v1.5 (He et al. 2015, stride in the 3x3) and WideResNet (2016).

`resnet` is the ImageNet family, ResNet-18/34/50/101 by depth, plus a ten-layer
one for small images. `wide_resnet` is the pre-activation family WRN-depth-width
of Zagoruyko and Komodakis (arXiv 1605.07146).
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxplay.models import activation, dropout

# depth: (blocks per stage, bottleneck)
STAGES = {
  10: ((1, 1, 1, 1), False),
  18: ((2, 2, 2, 2), False),
  34: ((3, 4, 6, 3), False),
  50: ((3, 4, 6, 3), True),
  101: ((3, 4, 23, 3), True),
}


def _he_normal(key, shape, dtype=jnp.float32):
  """Normal, of variance 2 / fan-out (He et al. 2015).

  As `variance_scaling(2.0, "fan_out", "normal")`, but drawn flat: XLA takes ten
  times as long to compile a draw in four dimensions.
  """
  fan_out = math.prod(shape[:-2]) * shape[-1]
  flat = jax.random.normal(key, (math.prod(shape),), dtype)
  return flat.reshape(shape) * jnp.asarray(math.sqrt(2 / fan_out), dtype)


_conv = functools.partial(nn.Conv, padding="SAME", kernel_init=_he_normal)


class ResNet(nn.Module):
  """ResNet v1.5.

  Attributes:
    num_classes: Size of the output.
    norm: Constructor of a norm layer.
    norm_bias: Whether the norm has a bias (else the convolutions have one).
    constrain: Sharding constraint of the activations between blocks.
    depth: One of `STAGES`.
    width: Features of the first stage; each later stage doubles them.
    stem: `imagenet` (7x7 stride 2, max pool) or `small` (3x3 stride 1).
    zero_init_residual: Start the last norm of each branch at zero.
    activation: Key of `activation.ACTIVATIONS`.
    dropout: Whether there is dropout before the classifier.
    dtype: Type of the computation; parameters are float32.
  """

  num_classes: int
  norm: Any
  norm_bias: bool = True
  constrain: Callable = lambda x: x
  depth: int = 18
  width: int = 64
  stem: str = "small"
  zero_init_residual: bool = False
  activation: str = "relu"
  dropout: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train, weights=None, rows=None, dropout_rate=0.0):
    """Logits [batch, num_classes] of x [batch, height, width, channels]."""
    activate = activation.ACTIVATIONS[self.activation]
    conv = functools.partial(
      _conv, dtype=self.dtype, use_bias=not self.norm_bias
    )
    stages, bottleneck = STAGES[self.depth]

    def norm(x, **kwargs):
      return self.norm(**kwargs)(x, train=train, weights=weights)

    x = x.astype(self.dtype)
    if self.stem == "imagenet":
      x = activate(norm(conv(self.width, (7, 7), (2, 2), name="stem")(x)))
      x = nn.max_pool(x, (3, 3), (2, 2), "SAME")
    else:
      x = activate(norm(conv(self.width, (3, 3), name="stem")(x)))
    for stage, blocks in enumerate(stages):
      features = self.width * 2**stage
      for block in range(blocks):
        stride = 2 if stage > 0 and block == 0 else 1
        residual, strides = x, (stride, stride)
        if bottleneck:
          x = activate(norm(conv(features, (1, 1))(x)))
          x = activate(norm(conv(features, (3, 3), strides)(x)))
          x = conv(4 * features, (1, 1))(x)
        else:
          x = activate(norm(conv(features, (3, 3), strides)(x)))
          x = conv(features, (3, 3))(x)
        x = norm(x, zero_scale=self.zero_init_residual)
        if residual.shape != x.shape:
          residual = norm(conv(x.shape[-1], (1, 1), strides)(residual))
        x = self.constrain(activate(x + residual))
    return _classify(self, x, train, rows, dropout_rate)


class WideResNet(nn.Module):
  """Pre-activation wide residual network.

  Attributes:
    num_classes: Size of the output.
    norm: Constructor of a norm layer.
    norm_bias: Whether the norm has a bias (else the convolutions have one).
    constrain: Sharding constraint of the activations between blocks.
    depth: Layers, 6n + 4.
    width: Widening factor of the stages of 16, 32 and 64 features.
    strides: Of the first block of each stage.
    norm_position: "pre": a norm begins each residual branch, x + f(norm(x));
      "post_branch": it ends it, before the sum, x + norm(f(x)).
    zero_init_residual: Start the last norm of each branch at zero.
    activation: Key of `activation.ACTIVATIONS`.
    dropout: Whether there is dropout between the convolutions of a block and
      before the classifier.
    dtype: Type of the computation; parameters are float32.
  """

  num_classes: int
  norm: Any
  norm_bias: bool = True
  constrain: Callable = lambda x: x
  depth: int = 28
  width: int = 10
  strides: tuple[int, int, int] = (1, 2, 2)
  norm_position: str = "pre"
  zero_init_residual: bool = False
  activation: str = "relu"
  dropout: bool = False
  dtype: Any = jnp.float32

  @nn.compact
  def __call__(self, x, *, train, weights=None, rows=None, dropout_rate=0.0):
    """Logits [batch, num_classes] of x [batch, height, width, channels]."""
    activate = activation.ACTIVATIONS[self.activation]
    conv = functools.partial(
      _conv, dtype=self.dtype, use_bias=not self.norm_bias
    )

    def norm(x, **kwargs):
      return self.norm(**kwargs)(x, train=train, weights=weights)

    is_pre = self.norm_position == "pre"
    x = conv(16, (3, 3), name="stem")(x.astype(self.dtype))
    for stage in range(3):
      features = 16 * 2**stage * self.width
      for block in range((self.depth - 4) // 6):
        stride = self.strides[stage] if block == 0 else 1
        residual = x
        x = activate(norm(x) if is_pre else x)
        if residual.shape[-1] != features or stride != 1:
          residual = conv(features, (1, 1), (stride, stride))(x)
        x = conv(features, (3, 3), (stride, stride))(x)
        zero = self.zero_init_residual
        x = activate(norm(x, zero_scale=zero and is_pre))
        if self.dropout:
          x = dropout.Dropout()(x, train=train, rate=dropout_rate, rows=rows)
        x = conv(features, (3, 3))(x)
        x = x if is_pre else norm(x, zero_scale=zero)
        x = self.constrain(residual + x)
    x = activate(norm(x))
    return _classify(self, x, train, rows, dropout_rate)


def _classify(model, x, train, rows, dropout_rate):
  """Global average pooling and the linear classifier, in float32."""
  x = x.astype(jnp.float32).mean((1, 2))
  if model.dropout:
    x = dropout.Dropout()(x, train=train, rate=dropout_rate, rows=rows)
  return nn.Dense(model.num_classes, name="head")(x)
