"""Which features of a set with a schema are inputs, and which are targets."""

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

import jaxplay
from jaxplay.data import own


@dataclasses.dataclass(frozen=True)
class Feature:
  """A feature of a schema that can be used.

  Attributes:
    kind: "image", "class" or "number".
    shape: Per example, of numbers.
    num_classes: Of a class; 0: not known.
  """

  kind: str
  shape: tuple[int, ...] = ()
  num_classes: int = 0


@dataclasses.dataclass(frozen=True)
class Chosen:
  """Names of the features that are used; several are scalars, to be stacked."""

  inputs: tuple[str, ...]
  targets: tuple[str, ...]
  is_image: bool

  @property
  def names(self) -> tuple[str, ...]:
    return (*self.inputs, *self.targets)

  def stacked(self, columns: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns [n, ...] by name as the features of `own.from_splits`."""
    if self.is_image:
      inputs = columns[self.inputs[0]]
    else:
      inputs = _together([columns[name] for name in self.inputs])
      if inputs.ndim == 1:
        inputs = inputs[:, None]
    targets = _together([columns[name] for name in self.targets])
    return {"image" if self.is_image else "inputs": inputs, "targets": targets}


def choose(
  features: Mapping[str, Feature],
  where: str,
  *,
  inputs: Sequence[str],
  targets: Sequence[str],
  supervised: Sequence[str] = (),
) -> Chosen:
  """Chooses inputs and targets.

  Args:
    features: Those that can be used; a nested one is called "outer/inner".
    where: The data set.
    inputs: As named by the config; empty: those of `supervised`, the image, the
      one that is called as `own` says, or all other scalars.
    targets: As named by the config; empty: that of `supervised`, the one that
      is called as `own` says, or the only class.
    supervised: (input, target) as the set itself names them, or empty.

  Raises:
    jaxplay.UserError: None can be chosen, or those named cannot be used.
  """
  listed = ", ".join(map(repr, features)) or "none"
  for key, named in (("inputs", inputs), ("targets", targets)):
    for name in named:
      if name not in features:
        raise jaxplay.UserError(
          f"config.dataset.{key} names {name!r}, and {where} has no such"
          f" feature that can be used; it has {listed}"
        )
      if len(named) > 1 and features[name].shape:
        raise jaxplay.UserError(
          f"config.dataset.{key} names {len(named)} features of {where}, of"
          f" which {name!r} has shape {features[name].shape}; only scalars can"
          " be joined"
        )
      if features[name].kind == "image" and (key == "targets" or named[1:]):
        raise jaxplay.UserError(
          f"config.dataset.{key} names {name!r}, an image of {where}; an image"
          " is an input, and the only one"
        )
  wanted = tuple(targets) or _targets(features, supervised)
  if not wanted:
    raise jaxplay.UserError(
      f"{where} has no ClassLabel and no feature called 'label' or 'target'"
      f" among those that can be used, {listed}; name its targets in"
      " config.dataset.targets"
    )
  others = {n: f for n, f in features.items() if n not in wanted}
  used = tuple(inputs) or _inputs(others, supervised)
  if not used:
    raise jaxplay.UserError(
      f"{where} has no Image and no numbers among the features that can be"
      f" used, {listed}; name its inputs in config.dataset.inputs"
    )
  return Chosen(used, wanted, features[used[0]].kind == "image")


def _targets(features, supervised):
  usable = {n: f for n, f in features.items() if f.kind != "image"}
  classes = [name for name, f in usable.items() if f.kind == "class"]
  called = [name for name in usable if name in own.TARGETS]
  for names in (supervised[1:2], called, classes):
    if len(names) == 1 and names[0] in usable:
      return tuple(names)
  return ()


def _inputs(features, supervised):
  scalars = [
    n for n, f in features.items() if f.kind == "number" and not f.shape
  ]
  if supervised:
    if supervised[0] in features:
      return (supervised[0],)
    nested = [n for n in scalars if n.startswith(f"{supervised[0]}/")]
    if nested:
      return tuple(nested)
  pictures = [name for name, f in features.items() if f.kind == "image"]
  called = [name for name in features if name in own.INPUTS]
  vectors = [n for n, f in features.items() if f.kind == "number" and f.shape]
  for names in (pictures, called, [] if scalars else vectors):
    if len(names) == 1:
      return tuple(names)
  return tuple(scalars)


def _together(columns):
  return columns[0] if len(columns) == 1 else np.stack(columns, axis=1)
