"""A mixer (Tolstikhin et al. 2021): patches mix, then their features do."""

from typing import Annotated, Literal

import flax.linen as nn


class Mixer(nn.Module):
  """Its annotated fields are config.model.patch, width, depth, activation."""

  num_classes: int  # from the data
  patch: Annotated[int, "[1, 16]", "side of a patch, in pixels"] = 4
  width: Annotated[int, "[1, 4096]", "features of a patch"] = 64
  depth: Annotated[int, "[1, 100]", "blocks"] = 2
  activation: Literal["gelu", "relu"] = "gelu"

  @nn.compact
  def __call__(self, x):
    act = getattr(nn, self.activation)
    x = nn.Conv(self.width, (self.patch,) * 2, (self.patch,) * 2)(x)
    x = x.reshape(x.shape[0], -1, self.width)
    for _ in range(self.depth):
      y = nn.LayerNorm()(x).swapaxes(1, 2)
      x = x + nn.Dense(x.shape[1])(act(nn.Dense(32)(y))).swapaxes(1, 2)
      y = nn.LayerNorm()(x)
      x = x + nn.Dense(self.width)(act(nn.Dense(2 * self.width)(y)))
    return nn.Dense(self.num_classes)(nn.LayerNorm()(x).mean(1))
