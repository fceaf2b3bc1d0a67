"""Checks of search spaces: refusals, and notes.

A space that is refused would waste its trials, or its comparisons would not be
fair; the error names the parameter, the reason and the fix.
"""

import itertools
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import ml_collections

import jaxplay
from jaxplay import config as config_lib

ROLES = ("nuisance", "scientific")
SCALES = {
  "float": ("linear", "log", "log_one_minus"),
  "int": ("linear", "log"),
}

_SECTION = (
  "Playbook, identifying scientific, nuisance, and fixed hyperparameters"
)
# The least normal number of 32 bits: smaller ones are flushed to zero.
_SMALLEST = 2.0**-126
_LARGEST = 2**53  # up to which a float of 64 bits has all whole numbers
_NARROWEST = 1e-6  # width of a range against its ends; 32 bits have 6e-8
_MOST_COMBINATIONS = 100  # of choices, tried before a study at 2 ms each


def check(
  space,
  config: ml_collections.ConfigDict,
  points: Sequence[Mapping[str, Any]] | None = None,
  overrides: Collection[str] = (),
) -> None:
  """Refuses a space that would waste trials or compare unfairly.

  Tries up to some hundred trials on the config's validation: all combinations
  of choices (of many some), both ends of numbers, and what lies between. A
  trial that is not among them can still be refused when it is made.

  Args:
    space: A `space.Space`.
    config: The base config, of which the trials differ in the space.
    points: All the trials, if they are a list: tried instead.
    overrides: Keys that were set for this study, each to have an effect in some
      trial, and not varied by the space.

  Raises:
    jaxplay.UserError: For the first problem.
  """
  if not space.parameters:
    _refuse("the space is empty; vary a hyperparameter, or train one run")
  flat = config_lib.flatten(config)
  for p in space.parameters:
    _check_key(p, flat)
    _check_domain(p, flat)
    if p.key in overrides and not p.when:
      _refuse(
        f"{p.key} is in the overrides, which fix it, and in the space, which"
        " varies it; take it out of one of them"
      )
  for p in space.parameters:
    _check_condition(space, p)
  for p, q in itertools.combinations(space.parameters, 2):
    if p.key == q.key and _overlap(_implied(space, p), _implied(space, q)):
      _refuse(
        f"{p.key} is in the space twice, as {p.label} and as {q.label}, which"
        f" can exist together; give each its own when= ({_SECTION})"
      )
  _check_trials(space, config, points)
  config_lib.check_effect(
    config, [key for key in overrides if not _has_effect(space, key, flat)]
  )


def _check_key(p, flat):
  """Refuses keys and roles that no space can have."""
  if p.key not in flat:
    _typed(p, None, flat)
  if reason := config_lib.keys_of(flat)[p.key].fixed:
    _refuse(f"{p.key} cannot be in a search space: {reason}")
  _check_name(p, "role", ROLES)  # Before what depends on it.
  if p.key == "batch_size" and p.role == "nuisance":
    _refuse(
      "batch_size cannot be a nuisance parameter: it should not be tuned for"
      " validation performance, because with everything else tuned for each"
      " size there is no evidence that it matters; choose it for speed, or make"
      " it scientific (Playbook, why shouldn't the batch size be tuned to"
      " directly improve validation set performance)"
    )


def _check_domain(p, flat):
  """Refuses a domain that has no values, or values of another type."""
  kind = {float: "float", int: "int"}.get(type(flat[p.key]), "choice")
  if p.kind not in ("choice", kind):
    _refuse(
      f"{p.label} is a {p.kind.title()}, and config.{p.key} is"
      f" {flat[p.key]!r}, of type {type(flat[p.key]).__name__}; use"
      f" {kind.title()}"
    )
  check_form(p)
  if p.kind == "choice":
    _check_values(p, flat)
  elif p.kind == "float":
    _check_width(p)


def _check_values(p, flat):
  """Refuses values of a choice that a run cannot have, or has twice."""
  kind = type(flat[p.key])
  seen = set()
  for value in p.values:
    # 5 for (5,) or "5", as on a command line, would not equal the value in the
    # run's config.json.
    is_other = kind in (str, tuple) and type(value) is not kind
    if is_other or not _is_json(value):
      _refuse(
        f"{p.label} has the value {value!r}, of type {type(value).__name__}; it"
        f" must be {kind.__name__}, like {flat[p.key]!r}"
      )
    value = _typed(p, value, flat)
    if kind is float:
      value = _in_32_bits(p, value)
    if value in seen:
      _refuse(
        f"{p.label} has {value!r} more than once, so it would be tried more"
        " often; list each value once"
      )
    seen.add(value)


def _is_json(value):
  """Returns whether a value is unchanged by config.json."""
  if isinstance(value, tuple):
    return all(map(_is_json, value))
  if isinstance(value, float):
    return math.isfinite(value)
  return isinstance(value, bool | int | str)


def _check_width(p):
  """Refuses a range that is a single number in 32 bits."""
  low, high = (_in_32_bits(p, end) for end in (p.low, p.high))
  if high - low < _NARROWEST * max(abs(low), abs(high)):
    _refuse(
      f"{p.label} goes from {p.low!r} to {p.high!r}, nearly a single number in"
      " the 32 bits of a training step; widen it, or set it in the base config"
    )


def _in_32_bits(p, value):
  """Returns a number as it is in a training step."""
  rounded = config_lib.rounded(value)
  if not math.isfinite(rounded) or (value and abs(rounded) < _SMALLEST):
    _refuse(
      f"{p.label} has the value {value!r}, which in 32 bits is"
      f" {'0' if math.isfinite(rounded) else 'infinity'}; use 0, or"
      f" {_SMALLEST:.2g} to 3.4e+38"
    )
  return rounded


def check_form(p) -> None:
  """Refuses a parameter that is invalid with any config.

  Args:
    p: A `space.Parameter`.

  Raises:
    jaxplay.UserError: A role or scale is unknown, or a range empty.
  """
  _check_name(p, "role", ROLES)
  if p.kind == "choice":
    if not p.values:
      _refuse(f"{p.label} is a Choice without values; add some")
    return
  _check_name(p, "scale", SCALES[p.kind])
  for end in ("low", "high"):
    number = getattr(p, end)
    types = (int,) if p.kind == "int" else (int, float)
    if type(number) not in types or not math.isfinite(number):
      _refuse(
        f"{p.label} has {end}={number!r}; expected"
        f" {'an integer' if p.kind == 'int' else 'a finite number'}"
      )
    if p.kind == "int" and abs(number) > _LARGEST:
      _refuse(
        f"{p.label} has {end}={number!r}, and integers beyond {_LARGEST:,}"
        " cannot be drawn exactly"
      )
  if p.low >= p.high:
    _refuse(
      f"{p.label} goes from {p.low!r} to {p.high!r}; low must be below high (a"
      " fixed value belongs in the base config)"
    )
  if p.scale == "log" and p.low <= 0:
    _refuse(
      f"{p.label} has scale 'log' and reaches {p.low!r}, which has no"
      " logarithm; start above 0, or use scale 'linear'"
    )
  if p.scale == "log_one_minus" and p.high >= 1:
    _refuse(
      f"{p.label} has scale 'log_one_minus' and reaches {p.high!r}; it must end"
      " below 1, such as at 0.999"
    )


def _typed(p, value, flat):
  try:
    return config_lib.typed(p.key, value, flat)
  except jaxplay.UserError as error:
    _refuse(f"in the search space, {error}")


def _check_name(p, field, names):
  config_lib.one_of(f"{p.label} has {field}", getattr(p, field), names)


def _check_condition(space, p):
  """Refuses a `when` under which a parameter cannot exist, or not fairly."""
  for key, values in p.when.items():
    choices = [q for q in space.parameters if q.kind == "choice"]
    switches = [q for q in choices if q.key == key]
    if not switches:
      names = ", ".join(q.key for q in choices if q != p) or "none"
      _refuse(
        f"{p.label} has when={{{key!r}: ...}}, and {key} is not a Choice of the"
        f" space (these are: {names}); add it, or set it in the base config"
        " and leave out when="
      )
    known = [value for q in switches for value in q.values]
    for value in values or [()]:
      if value not in known:
        _refuse(
          f"{p.label} has when={{{key!r}: {value!r}}}, which is not among"
          f" the values of {key}: {', '.join(map(repr, known))}"
        )
    if p.role == "scientific" and "nuisance" in [q.role for q in switches]:
      _refuse(
        f"{p.label} is scientific but exists only under values of {key},"
        " which is nuisance, so it could not be covered uniformly; make"
        f" {key} scientific too, or {p.label} nuisance (Playbook, creating a"
        " set of studies)"
      )
  if p not in space.ordered:
    circle = [q.label for q in space.parameters if q not in space.ordered]
    _refuse(
      f"{', '.join(circle)} exist only under one another, so never; remove one"
      " of the when="
    )
  if () in _implied(space, p).values():
    _refuse(
      f"{p.label} can never exist: its when= and those of what it names"
      " contradict each other"
    )


def _implied(space, p):
  """All conditions of a parameter: its own, and those of its switches."""
  implied = dict(p.when)
  for key, values in p.when.items():
    switches = [
      q
      for q in space.ordered
      if q.key == key and any(v in values for v in q.values)
    ]
    # With several switches neither's conditions are certain.
    if len(switches) == 1:
      for other, allowed in _implied(space, switches[0]).items():
        both = implied.get(other, allowed)
        implied[other] = tuple(v for v in both if v in allowed)
  return implied


def _overlap(conditions, others):
  """Returns whether both can hold at once."""
  return all(
    any(value in others[key] for value in values)
    for key, values in conditions.items()
    if key in others
  )


def _check_trials(space, config, points):
  """Refuses a space with an invalid trial, or that varies unused keys."""
  for point in _probes(space) if points is None else points:
    trial = _trial(config, point)
    if points is None:
      flat = config_lib.flatten(trial)
      for p in space.active(point):
        switch, values = config_lib.used_by(p.key, flat) or (None, ())
        if switch and not config_lib.is_on(flat[switch], values):
          _refuse_idle(space, p, switch, flat[switch], values)
    if error := _error(trial):
      # At fault: keys that are named, or whose base value would be valid.
      named = [
        key
        for key in point
        if f"config.{key}" in error
        or not _error(_trial(config, {**point, key: None}))
      ]
      if not named and _error(config) == error:
        _refuse(f"the study's base config cannot be trained: {error}")
      # With several faults it may be that no single change would do.
      values = ", ".join(f"{key}={point[key]!r}" for key in named or point)
      _refuse(f"the space allows {values}, which cannot be trained: {error}")


def _trial(config, point):
  trial = config.copy_and_resolve_references()
  for key, value in point.items():
    if value is not None:
      config_lib.select(trial, key, value)
  return trial


def _error(config):
  try:
    config_lib.validate(config)
  except jaxplay.UserError as error:
    return str(error)


def _refuse_idle(space, p, switch, value, values):
  useful = [v for v in _values(space, switch) if config_lib.is_on(v, values)]
  if useful:
    when = {switch: tuple(useful) if len(useful) > 1 else useful[0]}
    fix = f"give it when={when}"
  else:
    fix = (
      f"take it out of the space, or set config.{switch} to"
      f" {' or '.join(map(repr, values))}"
    )
  _refuse(
    f"{p.label} has no effect with config.{switch}={value!r}; {fix}"
    f" ({_SECTION})"
  )


def _values(space, key):
  """Returns all values of a choice in the space; [] if it is not a choice."""
  return [v for p in space.parameters if p.key == key for v in p.values]


def _probes(space) -> Iterator[dict[str, Any]]:
  """Yields points to try: corners, integers between, and some inside."""
  rng = random.Random(0)
  combinations: list[dict[str, Any]] = [{}]
  for p in space.ordered:
    if p.kind == "choice":
      combinations = [
        longer
        for point in combinations
        for longer in (
          [point | {p.key: value} for value in p.values]
          if p.exists(point)
          else [point]
        )
      ]
      if len(combinations) > _MOST_COMBINATIONS:
        combinations = rng.sample(combinations, _MOST_COMBINATIONS)
  numbers = [p for p in space.ordered if p.kind != "choice"]

  def probe(combination, unit):
    return combination | {
      p.key: p.from_unit(unit(p)) for p in numbers if p.exists(combination)
    }

  for combination in combinations:
    yield probe(combination, lambda p: 0.0)
    yield probe(combination, lambda p: 1.0)
  for number in numbers:
    if number.kind == "int":
      possible = [c for c in combinations if number.exists(c)]
      for i in range(1, 16):
        units = {number.label: i / 16}
        yield probe(
          possible[i % len(possible)],
          lambda p, units=units: units.get(p.label, 0.0),
        )
  for _ in range(32):
    yield probe(rng.choice(combinations), lambda p: rng.random())


def notes(space, config: ml_collections.ConfigDict) -> list[str]:
  """Returns notes for the terminal, before a study begins.

  Args:
    space: A `space.Space` that `check` accepts.
    config: The base config, of which the trials differ in the space.
  """
  flat = config_lib.flatten(config)
  varied = {p.key for p in space.parameters}
  tuned = {p.key for p in space.parameters if p.role == "nuisance"}
  sentences = [
    config_lib.no_effect_message(key, flat)
    for key in config_lib.idle(flat)
    if not _has_effect(space, key, flat)
  ]
  if "batch_size" in varied:
    untuned = [
      key
      for key in config_lib.RETUNE
      if key not in tuned and flat[key] and _has_effect(space, key, flat)
    ]
    sentences.append(
      "batch_size is varied, and the best values of most hyperparameters change"
      " with it"
      + (f"; nothing tunes {', '.join(sorted(untuned))}" if untuned else "")
      + "; compare sizes at an equal target, each with the steps it needs"
      " (Playbook, changing the batch size requires re-tuning most"
      " hyperparameters)"
    )
  compared = [
    p.label
    for p in space.parameters
    if p.role == "scientific" and p.key not in config_lib.OPTIMIZER_NUMBERS
  ]
  if compared and not tuned & set(config_lib.OPTIMIZER_NUMBERS):
    sentences.append(
      f"values of {', '.join(compared)} are compared at one learning rate,"
      " which may suit some better than others; at least some of the"
      " optimizer's hyperparameters should be nuisance parameters"
      f" ({_SECTION})"
    )
  for p in space.parameters:
    if (
      p.key == "hparams.learning_rate"
      and "optimizer" in varied
      and "optimizer" not in _implied(space, p)
    ):
      names = ", ".join(_values(space, "optimizer"))
      sentences.append(
        f"{p.label} has one range for {names}; the ranges that work typically"
        " differ by orders of magnitude, so give each optimizer its own with"
        f" when= ({_SECTION})"
      )
    if p.kind == "float" and p.scale == "linear" and 0 < 100 * p.low <= p.high:
      sentences.append(
        f"{p.label} is linear from {p.low:g} to {p.high:g}, so nine of ten"
        f" trials lie above {p.from_unit(0.1):.2g}; scale='log' spreads them"
        " over the orders of magnitude"
      )
  return sentences


def _has_effect(space, key, flat):
  """Returns whether some trial reads the key."""
  switch, values = config_lib.used_by(key, flat) or (None, ())
  return switch is None or any(
    config_lib.is_on(value, values)
    for value in _values(space, switch) or [flat[switch]]
  )


def _refuse(message):
  raise jaxplay.UserError(message)
