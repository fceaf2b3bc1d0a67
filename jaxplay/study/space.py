"""Search spaces: which hyperparameters a study varies, how, and in what role.

A scientific hyperparameter is one whose effect is measured; a nuisance one has
to be optimized over for the comparison to be fair; all the others are fixed, by
the base config (Playbook, identifying scientific, nuisance, and fixed
hyperparameters). A conditional one exists only under certain values of another,
and two of the same name under different conditions are different
hyperparameters.

    Space({
      "optimizer": Choice(("adam", "nesterov"), role="scientific"),
      "hparams.learning_rate": [
        Float(1e-5, 1e-2, "log", when={"optimizer": "adam"}),
        Float(1e-3, 1.0, "log", when={"optimizer": "nesterov"}),
      ],
    })
"""

import collections
import dataclasses
import difflib
import itertools
import json
import math
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import ml_collections
import numpy as np

import jaxplay
from jaxplay import config as config_lib

ROLES = ("nuisance", "scientific")
SCALES = {
  "float": ("linear", "log", "log_one_minus"),
  "int": ("linear", "log"),
}

# What no space may hold, and why; a dot at the end stands for a group.
_FIXED = (
  (
    ("max_train_steps",),
    "never tune the number of steps in a study: pick one for all its trials,"
    " and make a study for each length (Playbook, deciding how long to train"
    " when training is not compute-bound)",
  ),
  (
    ("seed",),
    "it is no hyperparameter; `jaxplay study rerun` measures the variance over"
    " seeds (Playbook, determining whether to adopt a training pipeline change"
    " or hyperparameter configuration)",
  ),
  (
    ("report_test",),
    "the test set is looked at once, at the end, for the trial that was chosen"
    " (Playbook, after exploration concludes)",
  ),
  (
    ("objective",),
    "one objective ranks all trials of a study; take another one afterwards,"
    " from the same trials",
  ),
  (
    ("averages",),
    "averages are evaluated beside the raw weights; name all of them in the"
    " base config, and compare their metrics in the same trials",
  ),
  (
    ("microbatches", "steps_per_call", "mesh."),
    "it says how a trial is computed, not what; set it in the base config",
  ),
  (
    (
      *("log_every", "eval_every", "eval_batch_size", "checkpoint_every"),
      *("keep_best", "num_predictions", "export"),
    ),
    "trials are compared only if all are looked at alike; set it in the base"
    " config",
  ),
  (
    (
      *("dataset.name", "dataset.shape", "dataset.difficulty"),
      *("dataset.num_", "dataset.train_split", "dataset.valid_split"),
      *("dataset.test_split", "dataset.workers", "dataset.data_dir"),
      "dataset.device_bytes",
    ),
    "results on different data are not comparable; make a study for each data"
    " set",
  ),
)

# What a change of batch size changes the best value of, as far as it is used.
_TIED_TO_BATCH_SIZE = (
  *("learning_rate", "momentum", "rho", "beta1", "beta2", "epsilon"),
  *("weight_decay", "label_smoothing", "dropout_rate"),
)
_MOST_PROBES = 300  # configs to validate before a study, at 2 ms each


@dataclasses.dataclass(frozen=True)
class Float:
  """A real number.

  Attributes:
    low: Least value, in the unit of the key.
    high: Greatest value; above `low`.
    scale: "linear"; "log": uniform in log(x), `low` above 0; "log_one_minus":
      uniform in log(1 - x), `high` below 1, for momentum and betas.
    role: "nuisance" or "scientific".
    when: Another parameter's key to the value, or tuple of values, under which
      this one exists. None: always.
  """

  low: float
  high: float
  scale: str = "linear"
  role: str = "nuisance"
  when: Mapping[str, Any] | None = None
  kind: ClassVar[str] = "float"
  values: ClassVar[tuple] = ()

  def __post_init__(self):
    _make_plain(self)


@dataclasses.dataclass(frozen=True)
class Int:
  """A whole number; both ends belong to it. Attributes as of `Float`.

  On the "log" scale n stands for the interval [n, n + 1).
  """

  low: int
  high: int
  scale: str = "linear"
  role: str = "nuisance"
  when: Mapping[str, Any] | None = None
  kind: ClassVar[str] = "int"
  values: ClassVar[tuple] = ()

  def __post_init__(self):
    _make_plain(self)


@dataclasses.dataclass(frozen=True)
class Choice:
  """One of several values: names, numbers, booleans or tuples.

  Attributes:
    values: The values, in an order that plots keep.
    role: "nuisance" or "scientific".
    when: As of `Float`.
  """

  values: Sequence[Any]
  role: str = "nuisance"
  when: Mapping[str, Any] | None = None
  kind: ClassVar[str] = "choice"
  low: ClassVar[None] = None
  high: ClassVar[None] = None
  scale: ClassVar[None] = None

  def __post_init__(self):
    if not isinstance(self.values, list | tuple | range | np.ndarray):
      raise jaxplay.UserError(
        f"Choice({self.values!r}) takes a list or tuple of values, such as"
        " Choice(('adam', 'nadam'))"
      )
    object.__setattr__(self, "values", tuple(self.values))
    _make_plain(self)


Domain = Float | Int | Choice


@dataclasses.dataclass(frozen=True)
class Parameter:
  """A hyperparameter of a space.

  Attributes:
    key: Its config key.
    label: Its name: the key, and its conditions where others share the key,
      such as "hparams.learning_rate [optimizer=adam|nadam]".
    domain: What it can be; `when` maps keys to tuples of values.
  """

  key: str
  label: str
  domain: Domain

  kind = property(lambda self: self.domain.kind)  # "float", "int", "choice"
  low = property(lambda self: self.domain.low)  # None of a choice
  high = property(lambda self: self.domain.high)
  scale = property(lambda self: self.domain.scale)
  values = property(lambda self: self.domain.values)  # () of a number
  role = property(lambda self: self.domain.role)
  when = property(lambda self: self.domain.when)  # key to tuple of values

  def to_unit(self, value: Any) -> float:
    """Where `value` lies on the parameter's scale.

    Returns:
      0 at the low end or first value, 1 at the high end or last value; values
      beyond an end are taken to it.

    Raises:
      ValueError: The choice does not have this value.
    """
    if self.kind == "choice":
      last = len(self.values) - 1
      return self.values.index(_plain(value)) / last if last else 0.0
    scaled = {
      "linear": float,
      "log": math.log,
      "log_one_minus": lambda x: -math.log1p(-x),
    }[self.scale]
    value = min(max(value, self.low), self.high)
    low, high = scaled(self.low), scaled(self.high)
    return min(max((scaled(value) - low) / (high - low), 0.0), 1.0)

  def from_unit(self, unit: float) -> Any:
    """The value at `unit` in [0, 1]; undoes `to_unit` up to rounding.

    Uniform `unit` gives values uniform on the scale; each integer and each
    value of a choice owns an interval.
    """
    return self.from_units([unit])[0]

  def from_units(self, units: Sequence[float] | np.ndarray) -> list:
    """`from_unit` of each of many numbers."""
    units = np.asarray(units, np.float64)
    if self.kind == "choice":
      positions = np.minimum(units * len(self.values), len(self.values) - 1)
      return [self.values[i] for i in positions.astype(np.int64).tolist()]
    low, high = self.low, self.high + (self.kind == "int")
    if self.scale == "linear":
      numbers = low + units * (high - low)
    elif self.scale == "log":
      numbers = low * np.exp(units * math.log(high / low))
    else:
      ratio = math.log1p(-high) - math.log1p(-low)
      numbers = 1 - (1 - low) * np.exp(units * ratio)
    # Rounding reaches neither past the ends nor short of them.
    numbers = np.clip(np.where(units < 1, numbers, self.high), low, self.high)
    if self.kind == "int":
      numbers = np.floor(numbers).astype(np.int64)
    return numbers.tolist()

  def holds(self, value: Any) -> bool:
    """Whether `value` belongs to the domain."""
    value = _plain(value)
    if self.kind == "choice":
      return value in self.values
    numbers = (int,) if self.kind == "int" else (int, float)
    return type(value) in numbers and self.low <= value <= self.high


@dataclasses.dataclass(frozen=True, init=False)
class Space:
  """Hyperparameters and their domains.

  Attributes:
    parameters: In the order in which they were declared.
  """

  parameters: tuple[Parameter, ...]

  def __init__(self, mapping: Mapping[str, Domain | Sequence[Domain]]):
    """Makes a space.

    Args:
      mapping: Config key to a domain, or to several domains that exist under
        different conditions.

    Raises:
      jaxplay.UserError: Something is not a domain. `check` finds the rest.
    """
    domains = [
      (key, domain)
      for key, given in mapping.items()
      for domain in (given if isinstance(given, list | tuple) else [given])
    ]
    for key, domain in domains:
      if not isinstance(domain, Domain):
        raise jaxplay.UserError(
          f"the space has {key} = {mapping[key]!r}; it must be a Float, Int or"
          " Choice, such as Float(1e-4, 1e-1, 'log')"
        )
      if not isinstance(domain.when, Mapping | None):
        raise jaxplay.UserError(
          f"the space has {key} with when={domain.when!r}; it must map a key to"
          " a value, such as {'optimizer': 'adam'}"
        )
    switches = collections.defaultdict(list)
    for key, domain in domains:
      switches[key] += domain.values
    shared = collections.Counter(key for key, _ in domains)
    parameters = []
    for key, domain in domains:
      when = {
        # A value that is itself a tuple is told from a tuple of values.
        other: value
        if isinstance(value, tuple) and value not in switches[other]
        else (value,)
        for other, value in (domain.when or {}).items()
      }
      conditions = ", ".join(
        f"{other}={'|'.join(map(str, values))}"
        for other, values in when.items()
      )
      label = f"{key} [{conditions}]" if shared[key] > 1 and when else key
      domain = dataclasses.replace(domain, when=when)
      parameters.append(Parameter(key, label, domain))
    object.__setattr__(self, "parameters", tuple(parameters))

  @property
  def ordered(self) -> list[Parameter]:
    """The parameters, each after those that its `when` names.

    Those of a circle, which exist under no condition, are left out.
    """
    left, done = list(self.parameters), []
    while ready := [
      p for p in left if not any(q.key in p.when for q in left)
    ]:
      done += ready
      left = [p for p in left if p not in ready]
    return done

  def active(self, point: Mapping[str, Any]) -> list[Parameter]:
    """The parameters that exist under the values of `point`, by config key."""
    keys, labels = set(), set()
    for parameter in self.ordered:
      if all(
        key in keys and _plain(point.get(key)) in values
        for key, values in parameter.when.items()
      ):
        keys.add(parameter.key)
        labels.add(parameter.label)
    return [p for p in self.parameters if p.label in labels]

  def labelled(self, point: Mapping[str, Any]) -> dict[str, Any]:
    """Label to value, of the parameters that exist in `point`."""
    return {p.label: point[p.key] for p in self.active(point)}

  def as_json(self) -> list[dict[str, Any]]:
    """A row of JSON values for each parameter, in order."""
    rows = []
    for p in self.parameters:
      row = {"key": p.key, "label": p.label, "kind": p.kind}
      if p.kind == "choice":
        row["values"] = list(p.values)
      else:
        row |= {"low": p.low, "high": p.high, "scale": p.scale}
      when = {key: list(values) for key, values in p.when.items()}
      rows.append(row | {"role": p.role, "when": when})
    return rows

  @classmethod
  def from_json(cls, rows: Sequence[Mapping[str, Any]]) -> "Space":
    """The space of which `as_json` made `rows`."""
    kinds = {kind.kind: kind for kind in (Float, Int, Choice)}
    mapping = collections.defaultdict(list)
    for row in rows:
      fields = {k: v for k, v in row.items() if k not in ("key", "label", "kind")}
      mapping[row["key"]].append(kinds[row["kind"]](**fields))
    return cls(mapping)

  def check(self, config: ml_collections.ConfigDict) -> None:
    """Refuses a space that no good study has.

    Raises:
      jaxplay.UserError: The first thing that is wrong.
    """

  def notes(self, config: ml_collections.ConfigDict) -> list[str]:
    """Sentences worth a line on the terminal before a study begins."""
    return []


def _make_plain(domain):
  for field in dataclasses.fields(domain):
    value = _plain(getattr(domain, field.name))
    object.__setattr__(domain, field.name, value)


def _plain(value):
  """Python's own numbers, and tuples for lists, as JSON has them."""
  if isinstance(value, np.ndarray | np.generic):
    return _plain(value.tolist())
  if isinstance(value, list | tuple):
    return tuple(_plain(item) for item in value)
  if isinstance(value, Mapping):
    return {key: _plain(item) for key, item in value.items()}
  return value
