"""What `config.diagnostics` logs of each layer: norms, and their ratios.

A layer is a module, the parameters of one group of the tree: "Dense_0" holds
its kernel and its bias. Blocks that a scan has stacked are layers of their own,
"decoder/blocks/0/mlp/down". If there are more than 64 layers, their names are
cut to as many levels as 64 names allow: a line of metrics stays small.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from jaxplay import config as config_lib

_MOST = 64  # layers
_STACK = "blocks"  # the group of a transformer's stacked blocks


@dataclasses.dataclass(frozen=True)
class Diagnostics:
  """Numbers of each layer, logged with the other training metrics.

  Attributes:
    names: What is logged, of: "update_ratio", L2 norm of the update over that
      of the weights before it, infinite or NaN where all weights are 0;
      "gradient_norm", L2 norm of the gradient before clipping; "weight_norm",
      L2 norm of the weights before the update.
    stacked: Whether the leaves below "blocks" hold a block in each row.
  """

  names: Sequence[str] = ()
  stacked: bool = False

  def layers(self, params: Any) -> tuple[str, ...]:
    """The names of the layers.

    Args:
      params: Trainable parameters, or ShapeDtypeStructs.
    """
    if not self.names:
      return ()
    return tuple(dict.fromkeys(name for name, *_ in self._parts(params)))

  def empty(self, params: Any) -> dict[str, jax.Array]:
    """The entries of the tally before the first step: float32 [layers]."""
    zeros = jnp.zeros([len(self.layers(params))], jnp.float32)
    return dict.fromkeys(self.names, zeros)

  def measured(
    self, params: Any, grads: Any, updates: Any
  ) -> dict[str, jax.Array]:
    """The entries of the tally after a step: float32 [layers].

    Args:
      params: Trainable parameters before the update.
      grads: Their gradient, before clipping.
      updates: What is added to them.
    """
    weights = self._norms(params)
    measure = {
      "update_ratio": lambda: self._norms(updates) / weights,
      "gradient_norm": lambda: self._norms(grads),
      "weight_norm": lambda: weights,
    }
    return {name: measure[name]() for name in self.names}

  def _norms(self, tree):
    """The L2 norm of each layer, float32 [layers]."""
    squares: dict[str, Any] = {}
    for name, leaf, row in self._parts(tree):
      leaf = leaf if row is None else leaf[row]
      square = jnp.sum(jnp.square(jnp.abs(leaf).astype(jnp.float32)))
      squares[name] = squares.get(name, 0.0) + square
    return jnp.sqrt(jnp.stack(list(squares.values())))

  def _parts(self, tree):
    """(name of its layer, array, row of the array or None) of each leaf."""
    parts = list(self._modules(tree))
    levels = max((len(path) for path, _, _ in parts), default=0)
    while len({path[:levels] for path, _, _ in parts}) > _MOST:
      levels -= 1
    for path, leaf, row in parts:
      # Of many layers without common groups only the sum is left.
      yield "/".join(path[:levels]) or "all", leaf, row

  def _modules(self, tree):
    """(path of its module, array, row of the array or None) of each leaf."""
    for entries, leaf in jax.tree_util.tree_leaves_with_path(tree):
      path = tuple(
        jax.tree_util.keystr((entry,), simple=True) for entry in entries
      )
      module = path[:-1] or path
      if self.stacked and _STACK in module:
        at = module.index(_STACK) + 1
        for row in range(leaf.shape[0]):
          yield (*module[:at], str(row), *module[at:]), leaf, row
      else:
        yield module, leaf, None


NONE = Diagnostics()


def of(config: ml_collections.ConfigDict) -> Diagnostics:
  """The diagnostics of a config."""
  is_stacked = config.model.name in config_lib.TRANSFORMERS
  return Diagnostics(tuple(config.diagnostics), is_stacked)
