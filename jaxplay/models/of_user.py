"""Models of the user: a Linen module, or a pair of functions."""

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

import jaxplay

# What `__call__` and `apply` get if they name it.
_OF_CALL = ("train", "weights", "rows", "dropout_rate")
_COLLECTIONS = {"params", "batch_stats"}
_PARTIAL = functools.partial


def make(part: Any, where: str, fields: Mapping[str, Any], **given: Any):
  """A model of the user, for `models.init` and `models.apply`.

  Args:
    part: A class of Linen modules; or another class or function that returns a
      Linen module or functions `init(key, inputs)`, `apply(params, inputs)`, as
      attributes or as a pair; or such a module, object or pair.
    where: Begins messages.
    fields: Values of its keys.
    **given: num_classes, norm, constrain, dtype; it gets those that it names.

  Raises:
    jaxplay.UserError: It is none of these.
  """
  is_class, is_partial = inspect.isclass(part), isinstance(part, _PARTIAL)
  if is_class or inspect.isroutine(part) or is_partial:
    names = inspect.signature(part).parameters
    part = part(**fields, **{k: v for k, v in given.items() if k in names})
  if isinstance(part, nn.Module):
    return Linen(part, where, "norm" in type(part).__dataclass_fields__)
  init, apply = getattr(part, "init", None), getattr(part, "apply", None)
  if isinstance(part, tuple | list) and len(part) == 2:
    init, apply = part
  if not (callable(init) and callable(apply)):
    raise jaxplay.UserError(
      f"{where} is {type(part).__name__}; expected a Linen module, or functions"
      " init(key, inputs) and apply(params, inputs)"
    )
  return Functions(init, apply, where)


class Linen:
  """A Linen module that need not know anything of jaxplay.

  Attributes:
    averages: Whether it averages its batch statistics itself, as Flax's
      BatchNorm does, and not by `hparams.norm_momentum`.
  """

  def __init__(self, module: nn.Module, where: str, takes_norm: bool):
    self._module, self._where = module, where
    self.averages = not takes_norm
    self._takes = _named(type(module).__call__)

  def init(self, key, inputs):
    params, dropout = key, jax.random.fold_in(key, 1)
    variables = self._module.init(
      {"params": params, "dropout": dropout},
      inputs,
      **_only(
        self._takes, train=False, weights=None, rows=None, dropout_rate=0.0
      ),
    )
    if other := variables.keys() - _COLLECTIONS:
      raise jaxplay.UserError(
        f"{self._where} keeps the collection {sorted(other)[0]!r}; a model can"
        " keep 'params' and 'batch_stats'"
      )
    return _checked(variables.get("params", {}), self._where), variables.get(
      "batch_stats", {}
    )

  def apply(self, params, batch_stats, inputs, *, dropout_key, **more):
    variables = {"params": params, "batch_stats": batch_stats}
    call = functools.partial(
      self._module.apply,
      variables,
      inputs,
      rngs=_rngs(dropout_key, more["rows"]),
      **_only(self._takes, **more),
    )
    if not more["train"]:
      return _float32(call(), self._where), batch_stats
    outputs, updated = call(mutable=["batch_stats"])
    return _float32(outputs, self._where), updated.get("batch_stats", {})


class Functions:
  """Functions `init(key, inputs)` and `apply(params, inputs, ...)`.

  Such as of Equinox, Haiku and NNX. `apply` gets train, weights, rows,
  dropout_rate and key (of this step, None in evaluation) if it names them.
  """

  averages = True

  def __init__(self, init: Callable, apply: Callable, where: str):
    self._init, self._apply, self._where = init, apply, where
    self._tree: Any = None
    self._names: list[tuple[str, ...]] = []
    self._takes = _named(apply, "key")

  def init(self, key, inputs):
    params = _checked(self._init(key, inputs), self._where)
    paths = jax.tree_util.tree_leaves_with_path(params)
    if all(isinstance(entry, _DICT) for path, _ in paths for entry in path):
      self._tree = None
      return params, {}
    # Names are those of nested dicts everywhere else.
    self._tree = jax.tree.structure(params)
    self._names = [
      tuple(_name(entry) for entry in path) or ("params",) for path, _ in paths
    ]
    nested: dict[str, Any] = {}
    for (*groups, last), (_, leaf) in zip(self._names, paths, strict=True):
      group = nested
      for name in groups:
        group = group.setdefault(name, {})
      group[last] = leaf
    return nested, {}

  def _as_made(self, params):
    """The parameters in the form in which `init` of the user made them."""
    if self._tree is None:
      return params
    leaves = []
    for names in self._names:
      leaf = params
      for name in names:
        leaf = leaf[name]
      leaves.append(leaf)
    return jax.tree.unflatten(self._tree, leaves)

  def apply(self, params, batch_stats, inputs, *, dropout_key, **more):
    params = self._as_made(params)
    key = _rngs(dropout_key, more["rows"]).get("dropout")
    outputs = self._apply(params, inputs, **_only(self._takes, key=key, **more))
    return _float32(outputs, self._where), batch_stats


_DICT = jax.tree_util.DictKey


def _name(entry):
  return jax.tree_util.keystr((entry,), simple=True)


def _named(function, *more):
  # Not what **kwargs would take: `nn.Sequential` hands that to its layers.
  return {*inspect.signature(function).parameters} & {*_OF_CALL, *more}


def _only(names, **given):
  return {name: value for name, value in given.items() if name in names}


def _rngs(key, rows):
  """The key of a microbatch, which is other than that of the next one."""
  if key is None:
    return {}
  return {"dropout": key if rows is None else jax.random.fold_in(key, rows[0])}


def _checked(params, where):
  if not jax.tree.leaves(params):
    raise jaxplay.UserError(
      f"{where} has no parameters; there is nothing to train"
    )
  for path, leaf in jax.tree_util.tree_leaves_with_path(params):
    name = jax.tree_util.keystr(path, simple=True, separator="/")
    if not hasattr(leaf, "dtype") or not jnp.issubdtype(
      leaf.dtype, jnp.floating
    ):
      raise jaxplay.UserError(
        f"{where} has the parameter {name!r} of type"
        f" {getattr(leaf, 'dtype', type(leaf).__name__)}; parameters must be"
        " arrays of floats"
      )
  return params


def _float32(outputs, where):
  if not hasattr(outputs, "dtype"):
    raise jaxplay.UserError(
      f"{where} returns {type(outputs).__name__}; expected an array of outputs"
      " [batch, ...]"
    )
  is_float = jnp.issubdtype(outputs.dtype, jnp.floating)
  return outputs.astype(jnp.float32) if is_float else outputs
