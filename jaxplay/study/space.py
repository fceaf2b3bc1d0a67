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
import functools
import json
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, ClassVar, Literal, NotRequired, TypedDict

import ml_collections
import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay.study import space_checks as checks


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

  Examples:
    >>> import jaxplay as jp
    >>> rate = jp.Float(1e-4, 1.0, scale="log")
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
  """An integer; both ends are included. Attributes as in `Float`.

  On the "log" scale n stands for the interval [n, n + 1).

  Examples:
    >>> import jaxplay as jp
    >>> width = jp.Int(16, 256, scale="log")
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
    when: As in `Float`.

  Examples:
    >>> import jaxplay as jp
    >>> optimizer = jp.Choice(["sgd", "adamw"], role="scientific")
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
    return float(self.to_units([value])[0])

  def to_units(self, values: Sequence[Any] | np.ndarray) -> np.ndarray:
    """`to_unit` of each of many values, float64; NaN for None."""
    if self.kind == "choice":
      last = max(len(self.values) - 1, 1)
      units = [
        math.nan if v is None else self.values.index(plain(v)) / last
        for v in values
      ]
      return np.array(units, np.float64)
    numbers = np.array([math.nan if v is None else v for v in values])
    numbers = np.clip(numbers.astype(np.float64), self.low, self.high)
    low, high = self._scaled(np.array([self.low, self.high], np.float64))
    return np.clip((self._scaled(numbers) - low) / (high - low), 0.0, 1.0)

  def _scaled(self, values: np.ndarray) -> np.ndarray:
    if self.scale == "log":
      return np.log(values)
    if self.scale == "log_one_minus":
      return -np.log1p(-values)
    return values

  def from_unit(self, unit: float) -> Any:
    """The value at `unit` in [0, 1]; undoes `to_unit` up to rounding.

    Uniform `unit` gives values uniform on the scale; each integer and each
    value of a choice owns an interval. A real number has ten digits, more than
    the 32 bits of the training step hold.
    """
    return self.from_units([unit])[0]

  def from_units(self, units: Sequence[float] | np.ndarray) -> list:
    """`from_unit` of each of many numbers."""
    units = np.asarray(units, np.float64)
    if self.kind == "choice":
      positions = np.minimum(units * len(self.values), len(self.values) - 1)
      return [self.values[i] for i in positions.astype(np.int64).tolist()]
    low = self.low
    high = self.high + 1 if self.kind == "int" else self.high
    if self.scale == "linear":
      numbers = low + units * (high - low)
    elif self.scale == "log":
      numbers = low * np.exp(units * math.log(high / low))
    else:
      ratio = math.log1p(-high) - math.log1p(-low)
      numbers = 1 - (1 - low) * np.exp(units * ratio)
    if self.kind == "int":
      numbers = np.floor(numbers).astype(np.int64)
    else:
      numbers = _rounded(numbers)
    # Rounding goes neither past the ends nor short of them.
    numbers = np.where(units <= 0, self.low, numbers)
    numbers = np.where(units >= 1, self.high, numbers)
    return np.clip(numbers, self.low, self.high).tolist()

  def exists(self, point: Mapping[str, Any]) -> bool:
    """Whether `when` holds; `point` has only the keys that exist."""
    return all(point.get(key) in values for key, values in self.when.items())

  def holds(self, value: Any) -> bool:
    """Whether `value` belongs to the domain."""
    value = plain(value)
    if self.kind == "choice":
      return value in self.values
    numbers = (int,) if self.kind == "int" else (int, float)
    return type(value) in numbers and self.low <= value <= self.high


class Row(TypedDict):
  """A parameter in study.json, as `Space.as_json` writes it."""

  key: str
  label: NotRequired[str]
  kind: Literal["float", "int", "choice"]
  values: NotRequired[list[Any]]
  low: NotRequired[float]
  high: NotRequired[float]
  scale: NotRequired[str]
  role: NotRequired[str]
  when: NotRequired[dict[str, list[Any]]]


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
    if not isinstance(mapping, Mapping):
      raise jaxplay.UserError(
        f"the space is a {type(mapping).__name__}; expected a mapping of config"
        " keys to domains, such as {'hparams.learning_rate': Float(1e-4, 1e-1,"
        " 'log')}"
      )
    domains = []
    for key, given in mapping.items():
      if not isinstance(key, str):
        raise jaxplay.UserError(
          f"the space has the key {key!r}; expected a config key, such as"
          " 'hparams.learning_rate'"
        )
      several = given if isinstance(given, list | tuple) and given else [given]
      for domain in several:
        if not isinstance(domain, Domain):
          raise jaxplay.UserError(
            f"the space has {key} = {given!r}; expected a Float, Int or"
            " Choice, such as Float(1e-4, 1e-1, 'log'), or a list of them"
          )
        if not isinstance(domain.when, Mapping | None):
          raise jaxplay.UserError(
            f"the space has {key} with when={domain.when!r}; expected a mapping"
            " of a key to a value, such as {'optimizer': 'adam'}"
          )
        if not all(isinstance(other, str) for other in domain.when or ()):
          raise jaxplay.UserError(
            f"the space has {key} with when={domain.when!r}; expected config"
            " keys, such as 'optimizer'"
          )
        domains.append((key, domain))
    switches: dict[str, list] = collections.defaultdict(list)
    for key, domain in domains:
      switches[key] += domain.values
    shared = collections.Counter(key for key, _ in domains)
    parameters = []
    for key, domain in domains:
      when = {
        # A value may itself be a tuple, and is no tuple of values then.
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

  @functools.cached_property
  def ordered(self) -> tuple[Parameter, ...]:
    """The parameters, each after those that its `when` names.

    Those of a circle, which never exist, are left out.
    """
    left: Sequence[Parameter] = self.parameters
    done: tuple[Parameter, ...] = ()
    while ready := [p for p in left if not any(q.key in p.when for q in left)]:
      done += tuple(ready)
      left = [p for p in left if p not in ready]
    return done

  def active(self, point: Mapping[str, Any]) -> list[Parameter]:
    """The parameters that exist under the values of `point`, by config key."""
    labels: dict[str, str] = {}  # by key
    for p in self.ordered:
      # A switch that does not exist itself switches nothing on.
      if p.exists({key: plain(point.get(key)) for key in labels}):
        labels[p.key] = p.label
    return [p for p in self.parameters if p.label == labels.get(p.key)]

  def labelled(self, point: Mapping[str, Any]) -> dict[str, Any]:
    """Label to value, of the parameters that exist in `point`."""
    return {p.label: plain(point[p.key]) for p in self.active(point)}

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
    """The space of which `as_json` made `rows`.

    Raises:
      jaxplay.UserError: They are `Row`s that it did not make.
    """
    kinds = {kind.kind: kind for kind in (Float, Int, Choice)}
    mapping = collections.defaultdict(list)
    for row in rows:
      kind = kinds[row["kind"]]
      # The label is made of the rest.
      names = [field.name for field in dataclasses.fields(kind)]
      given = {name: row[name] for name in names if name in row}
      if missing := [n for n in names if n not in {*given, *_DEFAULTS}]:
        raise jaxplay.UserError(f"{row['key']} has no {missing[0]}")
      mapping[row["key"]].append(kind(**given))
    space = cls(mapping)
    for p in space.parameters:
      checks.check_form(p)
    return space

  def check(
    self,
    config: ml_collections.ConfigDict,
    points: Sequence[Mapping[str, Any]] | None = None,
    overrides: Collection[str] = (),
  ) -> None:
    """Refuses an invalid space; see `checks.check`.

    Raises:
      jaxplay.UserError: For the first problem.
    """
    checks.check(self, config, points, overrides)

  def notes(self, config: ml_collections.ConfigDict) -> list[str]:
    """Returns notes for the terminal, before a study begins."""
    return checks.notes(self, config)


def adam_space(
  num_trials: int,
  learning_rate: tuple[float, float] = (1e-5, 1e-1),
  when: Mapping[str, Any] | None = None,
) -> dict[str, Domain]:
  """Returns which numbers of Adam to tune with a number of trials.

  Under 10 trials the learning rate; from 10 also beta1; from 25 also epsilon;
  "substantially more than 25" also beta2, for which the Playbook gives no
  number: here 100, four times as many. Source: Playbook, how should Adam's
  hyperparameters be tuned.

  Args:
    num_trials: Trials of the study, or for each value of a scientific
      parameter.
    learning_rate: Its ends. The other ranges are our own: wide, to be narrowed
      by a first study.
    when: For all of them, such as {"optimizer": "adam"}.

  Raises:
    jaxplay.UserError: Not a number of trials.
  """
  if type(num_trials) is not int or num_trials < 1:
    raise jaxplay.UserError(
      f"num_trials is {num_trials!r}; expected a positive integer"
    )
  ranges = (
    (1, "learning_rate", (*learning_rate, "log")),
    (10, "beta1", (0.5, 0.999, "log_one_minus")),
    (25, "epsilon", (1e-10, 1e-3, "log")),
    (100, "beta2", (0.9, 0.9999, "log_one_minus")),
  )
  return {
    f"hparams.{name}": Float(*domain, when=when)
    for least, name, domain in ranges
    if num_trials >= least
  }


def default_space(
  config: ml_collections.ConfigDict,
  num_trials: int,
  learning_rate: tuple[float, float],
) -> dict[str, Domain]:
  """Returns which numbers of a config to tune first, with a number of trials.

  For Adam and its variants as `adam_space`. For the others, in the same spirit:
  the learning rate; from 10 trials momentum, rho or betas; from 25 also weight
  decay and, where the config has dropout, its rate; from 50 also label
  smoothing and, where the config clips, the threshold. Keys that the
  config's optimizer and model do not use are left out.

  Args:
    config: The base config. Ranges enclose its weight decay and threshold.
    num_trials: Trials of the study.
    learning_rate: Its ends.

  Raises:
    jaxplay.UserError: Not a number of trials.
  """
  domains: dict[str, Domain] = adam_space(num_trials, learning_rate)
  decay = config.hparams.weight_decay or 1e-3
  most_decay = max(10 * decay, min(100 * decay, 1.0))
  threshold = config.hparams.clip_norm
  ranges = (
    (10, "momentum", 0.5, 0.99, "log_one_minus"),
    (10, "rho", 0.5, 0.99, "log_one_minus"),
    (25, "weight_decay", decay / 100, most_decay, "log"),
    (25, "dropout_rate", 0.0, 0.5, "linear"),
    (50, "label_smoothing", 0.0, 0.2, "linear"),
    (50, "clip_norm", threshold / 10, threshold * 10, "log"),
  )
  for least, name, low, high, scale in ranges:
    if num_trials >= least:
      low, high = float(f"{low:.2g}"), float(f"{high:.2g}")
      domains[f"hparams.{name}"] = Float(low, high, scale)
  flat = config_lib.flatten(config)
  if config_lib.task_name(config) not in ("classification", "multi_label"):
    domains.pop("hparams.label_smoothing", None)
  return {
    key: domain
    for key, domain in domains.items()
    if config_lib.has_effect(key, flat)
  }


def from_algoperf(
  path: str, max_train_steps: int | None = None
) -> Space | list[dict[str, Any]]:
  """Reads a tuning_search_space.json of AlgoPerf.

  Sampled with algorithm "algoperf" this gives AlgoPerf's points, in the order
  that they have before its unseeded shuffle. A name is a config key or one of
  hparams; `one_minus_beta1` (and so on) becomes beta1 on the log_one_minus
  scale; `warmup_factor`, a share of all steps, becomes warmup_steps.

  Args:
    path: The file.
    max_train_steps: Steps of each trial; for `warmup_factor` only.

  Returns:
    A space of nuisance parameters in the file's order, or for a list of points
    those points by config key, for algorithm "explicit".

  Raises:
    jaxplay.UserError: The file cannot be read, or has a parameter without a
      counterpart here.
  """
  try:
    with open(path, encoding="utf-8") as file:
      content = json.load(file)
  except (OSError, ValueError) as error:
    raise jaxplay.UserError(
      f"cannot read the search space {str(path)!r}: {error}"
    ) from None
  try:
    if not isinstance(content, list):
      return Space(_from_algoperf(content, max_train_steps))
    points = []
    for point in content:
      specs = {
        # Explicit values come bare, or as the only feasible point.
        name: value if isinstance(value, dict) else {"feasible_points": [value]}
        for name, value in point.items()
      }
      domains = _from_algoperf(specs, max_train_steps)
      points.append({key: choice.values[0] for key, choice in domains.items()})
    return points
  except (KeyError, TypeError, ValueError, AttributeError) as error:
    raise jaxplay.UserError(
      f"{str(path)!r} is not a search space of AlgoPerf ({error!r}); expected"
      ' names with {"min", "max", "scaling"} or {"feasible_points"}, or a list'
      " of points"
    ) from None


def _from_algoperf(specs, max_train_steps):
  """Config key to domain, in the file's order."""
  flat = config_lib.defaults()
  domains = {}
  for name, spec in specs.items():
    is_complement = name.startswith("one_minus_")
    is_share = name == "warmup_factor"
    key = "warmup_steps" if is_share else name.removeprefix("one_minus_")
    key = key if key in flat else f"hparams.{key}"
    if key not in flat:
      raise jaxplay.UserError(
        f"AlgoPerf's {name} is not a hyperparameter here;"
        f" {config_lib.nearest(key, flat)}"
      )
    if key in domains:
      raise jaxplay.UserError(
        f"AlgoPerf's {name} is config.{key}, which is in the file twice; remove"
        " one of them"
      )
    if is_share and max_train_steps is None:
      raise jaxplay.UserError(
        "AlgoPerf's warmup_factor is a share of all steps, whose number is"
        " needed: from_algoperf(path, max_train_steps=...)"
      )
    if "feasible_points" in spec or spec["min"] == spec["max"]:
      values = spec.get("feasible_points") or [spec["min"]]
      if is_complement:
        values = [1 - value for value in values]
      if is_share:
        values = [int(value * max_train_steps) for value in values]
      domains[key] = Choice(values)
      continue
    low, high, scale = spec["min"], spec["max"], spec["scaling"]
    if is_share or (is_complement and scale != "log"):
      raise jaxplay.UserError(
        f"AlgoPerf's {name} with a {scale} range has no counterpart here; list"
        " its values as feasible_points, or rewrite it as a range of"
        f" {key.removeprefix('hparams.')}"
      )
    if is_complement:
      domains[key] = Float(1 - high, 1 - low, "log_one_minus")
    else:
      kind = Int if type(flat[key]) is int else Float
      domains[key] = kind(low, high, scale)
  return domains


_DEFAULTS = ("scale", "role", "when")
_POWERS_OF_TEN = np.array([float(f"1e{k}") for k in range(-300, 301)])


def _rounded(numbers):
  """To ten significant digits.

  `np.exp` gives another last bit on a CPU with AVX-512 than on one without, for
  one number in twenty, and all machines have to make the same trial.
  """
  with np.errstate(divide="ignore"):  # zero stays zero
    places = 9 - np.floor(np.log10(np.abs(numbers)))
  powers = _POWERS_OF_TEN[np.clip(places, -300, 300).astype(np.int64) + 300]
  return np.round(numbers * powers) / powers


def _make_plain(domain):
  for field in dataclasses.fields(domain):
    value = plain(getattr(domain, field.name))
    object.__setattr__(domain, field.name, value)


def plain(value: Any) -> Any:
  """Python's own numbers, and tuples for lists, as JSON has them."""
  if isinstance(value, np.ndarray | np.generic):
    return plain(value.tolist())
  if isinstance(value, list | tuple):
    return tuple(plain(item) for item in value)
  if isinstance(value, Mapping):
    return {key: plain(item) for key, item in value.items()}
  return value
