"""The parts that a config names: built-in ones, or the user's, loaded."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import data, models
from jaxplay.training import optimizers, sharding


def model(
  config: ml_collections.ConfigDict,
  num_outputs: int,
  mesh: Any,
  unroll: bool = False,
):
  """The model of a config, from `models.build`.

  Args:
    config: A checked config.
    num_outputs: Size of the output.
    mesh: From `sharding.make_mesh`.
    unroll: Whether to compile the blocks of a transformer one by one.
  """
  flat, sizes = config_lib.flatten(config), config.model.to_dict()
  of_user = {}
  if config_lib.is_own("model.name", config.model.name):
    of_user["part"] = _part(config, "model.name")
    of_user["fields"], _ = config_lib.own.arguments(flat, "model.name")
    sizes = {
      name: config.model[name]
      for name in ("name", "norm", "virtual_batch_size", "num_groups", "dtype")
    }
  build = functools.partial(
    models.build,
    sizes.pop("name"),
    num_outputs,
    norm_kind=sizes.pop("norm"),
    unroll=unroll,
    attend=sharding.over_batch(mesh, models.attend),
    constrain=sharding.constrain(mesh),
    **of_user,
    **sizes,
  )
  if not of_user:
    return build()
  fails = f"config.model.name={config.model.name!r} fails"
  made = config_lib.own.guarded(build, fails)()
  for method in ("init", "apply"):
    setattr(made, method, config_lib.own.guarded(getattr(made, method), fails))
  return made


def dataset(config: ml_collections.ConfigDict, **kwargs: Any) -> data.Dataset:
  """The data set that a function of the user loads.

  Args:
    config: A checked config.
    **kwargs: task, with_test, augment; see `data.from_splits`.

  Raises:
    jaxplay.UserError: The function fails, or what it returns is no data set.
  """
  name, flat = config.dataset.name, config_lib.flatten(config)
  static, _ = config_lib.own.arguments(flat, "dataset.name")
  function = _part(config, "dataset.name")
  if not callable(function):
    raise jaxplay.UserError(
      f"config.dataset.name={name!r} is {type(function).__name__}; expected a"
      " function that returns splits"
    )
  splits = config_lib.own.run(
    lambda: function(**static), f"config.dataset.name={name!r} fails"
  )
  return data.from_splits(splits, repr(name), name=name, **kwargs)


def task(config: ml_collections.ConfigDict) -> Any:
  """An instance of the user's task.

  Raises:
    jaxplay.UserError: It cannot be made.
  """
  static, _ = config_lib.own.arguments(config_lib.flatten(config), "task.name")
  part = _part(config, "task.name")
  if not isinstance(part, type):
    return part
  return config_lib.own.run(
    lambda: _made(part, static), f"config.task.name={config.task.name!r} fails"
  )


def _made(part, fields):
  """An instance; a class without __init__ gets its fields as attributes."""
  if part.__init__ is not object.__init__:
    return part(**fields)
  made = part()
  for name, value in fields.items():
    setattr(made, name, value)
  return made


def _part(config, switch, name=None):
  """A part of the user, which is loaded."""
  name = config_lib.flatten(config)[switch] if name is None else name
  return config_lib.own.load(switch, name, config_lib.own.folder(config.code))


def optimizer(config: ml_collections.ConfigDict) -> str | optimizers.Make:
  """The optimizer of a config, as `optimizers.build` takes it."""
  if not config_lib.is_own("optimizer", config.optimizer):
    return config.optimizer
  flat = config_lib.flatten(config)
  static, of_step = config_lib.own.arguments(flat, "optimizer")
  return optimizers.of_user(
    _part(config, "optimizer"),
    f"config.optimizer={config.optimizer!r}",
    takes=config_lib.takes(flat, "optimizer"),
    traced=of_step,
    static=static,
  )


def schedules(config: ml_collections.ConfigDict) -> dict[str, Callable]:
  """Name to curve of the user's schedules that a config knows.

  All of them: a study may vary the schedule within a population.
  """
  flat = config_lib.flatten(config)
  curves: dict[str, Callable] = {}
  for switch, name in config_lib.declared_parts(config.declared):
    if switch == "schedule":
      static, of_step = config_lib.own.arguments(flat, switch, name)
      curve = _part(config, switch, name)
      given = config_lib.takes(flat, switch, name)
      curves[name] = functools.partial(
        _factor, name, curve, "hparams" in given, static, of_step
      )
  return curves


def _factor(name, curve, takes_all, static, of_step, at, hparams):
  curve = config_lib.own.guarded(curve, f"config.schedule={name!r} fails")
  given = static | {n: hparams[n] for n in of_step}
  factor = curve(at, **given, **({"hparams": hparams} if takes_all else {}))
  what = type(factor).__name__
  if isinstance(factor, int | float | np.generic | np.ndarray | jax.Array):
    if not jnp.shape(factor) and not jnp.iscomplexobj(factor):
      return factor
    what = f"an array of shape {jnp.shape(factor)} and type {factor.dtype}"
  raise jaxplay.UserError(
    f"config.schedule={name!r} returns {what}; expected a factor of the"
    " learning rate"
  )
