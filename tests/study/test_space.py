"""Search spaces: domains and scales, conditions, and every refusal."""

import json
import math

import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay.study import space as space_lib
from jaxplay.study import space_checks as checks
from jaxplay.study.space import Choice, Float, Int, Space

LEARNING_RATE = "hparams.learning_rate"
MOMENTUM = "hparams.momentum"
BETA1 = "hparams.beta1"
WARMUP = "hparams.warmup_steps"
COOLDOWN = "hparams.cooldown_fraction"
CLIP = "hparams.clip_norm"
DROPOUT = "hparams.dropout_rate"
GHOST = "model.virtual_batch_size"

RATE = Float(1e-4, 1e-1, "log")
OPTIMIZERS = Choice(("adam", "nesterov"), role="scientific")


def _config(**changes):
  """The base config with dotted keys set; __ stands for the dot."""
  config = config_lib.base()
  for key, value in changes.items():
    config_lib.override(config, key.replace("__", "."), value)
  return config


def _refusal(function, *args, **kwargs):
  """The sentence with which a request is refused."""
  with pytest.raises(jaxplay.UserError) as caught:
    function(*args, **kwargs)
  message = str(caught.value)
  assert "\n" not in message
  return message


def _parameter(domain):
  return Space({LEARNING_RATE: domain}).parameters[0]


# Domains and their scales.

NUMBERS = [
  Float(-3.0, 7.0),
  Float(1e-9, 1e3, "log"),
  Float(2.0, 2.5, "log"),
  Float(0.0, 0.9999, "log_one_minus"),
  Float(-5.0, 0.5, "log_one_minus"),
  Int(-2, 9),
  Int(1, 2),
  Int(1, 1000, "log"),
  Int(30, 33, "log"),
  Int(0, 10**6),
]


@pytest.mark.parametrize("domain", NUMBERS, ids=str)
def test_units_and_values_round_trip(domain):
  """C6: from_unit undoes to_unit, over the whole range."""
  parameter = _parameter(domain)
  rng = np.random.default_rng(0)
  if domain.kind == "int":
    inside = range(domain.low, min(domain.high, domain.low + 2000) + 1)
    for value in (*inside, domain.high - 1, domain.high):
      assert parameter.from_unit(parameter.to_unit(value)) == value
    return
  for value in rng.uniform(domain.low, domain.high, 200).tolist():
    again = parameter.from_unit(parameter.to_unit(value))
    assert again == pytest.approx(value, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("domain", NUMBERS, ids=str)
def test_ends_are_exact(domain):
  """C6: unit 0 is the low end and unit 1 the high end, not nearly so."""
  parameter = _parameter(domain)
  assert parameter.from_unit(0.0) == domain.low
  assert parameter.from_unit(1.0) == domain.high
  assert parameter.to_unit(domain.low) == 0.0
  assert parameter.to_unit(domain.high) == 1.0
  units = np.sort(np.random.default_rng(0).random(500))
  values = parameter.from_units([*units, 1 - 1e-16])
  assert values == sorted(values)
  assert domain.low <= values[0] and values[-1] <= domain.high
  assert [parameter.from_unit(unit) for unit in units] == values[:-1]
  # Beyond the ends, as the best point of an older study can be.
  assert parameter.to_unit(domain.low - 1) == 0.0
  assert parameter.to_unit(domain.high + 1) == 1.0


@pytest.mark.parametrize("domain", NUMBERS, ids=str)
def test_every_cpu_makes_the_same_values(domain, monkeypatch):
  """C5: the last bit of exp differs between CPUs, and decides nothing."""
  parameter = _parameter(domain)
  units = np.random.default_rng(0).random(1000)
  values = parameter.from_units(units)
  assert len(set(values)) > min(1000, domain.high - domain.low) / 3
  exp = np.exp
  monkeypatch.setattr(np, "exp", lambda x: np.nextafter(exp(x), np.inf))
  assert parameter.from_units(units) == values
  if domain.kind == "float":
    assert values == [float(f"{value:.10g}") for value in values]


@pytest.mark.parametrize(
  "domain, middle",
  [
    (Float(0.0, 10.0), 5.0),
    (Float(1e-4, 1.0, "log"), 1e-2),
    (Float(0.9, 0.999, "log_one_minus"), 0.99),
    (Int(1, 9), 5),
    (Int(1, 26, "log"), 5),  # the root of 1 x 27
    (Choice(("a", "b", "c")), "b"),
  ],
  ids=str,
)
def test_middles(domain, middle):
  """C6: each scale has its own middle."""
  assert _parameter(domain).from_unit(0.5) == pytest.approx(middle)


def test_values_of_a_choice_own_equal_intervals():
  """C6: a choice is one dimension, cut into equal parts."""
  parameter = _parameter(Choice(("a", "b", "c", "d")))
  units = [0.0, 0.24, 0.26, 0.49, 0.51, 0.74, 0.76, 1.0]
  assert "".join(parameter.from_units(units)) == "aabbccdd"
  assert [parameter.to_unit(v) for v in "abcd"] == [0, 1 / 3, 2 / 3, 1]
  assert _parameter(Choice(("only",))).to_unit("only") == 0.0
  with pytest.raises(ValueError):
    parameter.to_unit("e")


@pytest.mark.parametrize(
  "domain, inside, outside",
  [
    (Float(0.0, 1.0), [0.0, 0.5, 1, np.float64(0.3)], [-0.1, 2, True, "0.5"]),
    (Int(1, 3), [1, 3, np.int64(2)], [0, 4, 2.0, True, None]),
    (Choice(("a", (1, 2))), ["a", (1, 2), [1, 2]], ["b", 1]),
  ],
)
def test_holds(domain, inside, outside):
  """C5: explicit points are held to their domains."""
  parameter = _parameter(domain)
  assert all(parameter.holds(value) for value in inside)
  assert not any(parameter.holds(value) for value in outside)


# Parameters, labels, conditions.

CONDITIONAL = Space(
  {
    "optimizer": OPTIMIZERS,
    LEARNING_RATE: [
      Float(1e-5, 1e-2, "log", when={"optimizer": "adam"}),
      Float(1e-3, 1.0, "log", when={"optimizer": ("nesterov", "momentum")}),
    ],
    BETA1: Float(0.5, 0.99, "log_one_minus", when={"optimizer": "adam"}),
    "clipping": Choice((True, False), when={"optimizer": "adam"}),
    CLIP: Float(0.1, 10, "log", when={"clipping": True}),
  }
)


def test_labels():
  """C2: parameters that share a key are told apart by their conditions."""
  assert [p.label for p in CONDITIONAL.parameters] == [
    "optimizer",
    f"{LEARNING_RATE} [optimizer=adam]",
    f"{LEARNING_RATE} [optimizer=nesterov|momentum]",
    BETA1,
    "clipping",
    CLIP,
  ]
  both = {"optimizer": "adam", "clipping": True}
  space = Space(
    {
      CLIP: [
        Float(0, 1, when=both),
        Float(0, 2, when={"optimizer": "sgd"}),
      ]
    }
  )
  assert space.parameters[0].label == f"{CLIP} [optimizer=adam, clipping=True]"


def test_read_through():
  """C1: what a domain says can be read from the parameter."""
  optimizer, rate, *_ = CONDITIONAL.parameters
  assert (rate.kind, rate.low, rate.high) == ("float", 1e-5, 1e-2)
  assert (rate.scale, rate.role, rate.values) == ("log", "nuisance", ())
  assert rate.when == {"optimizer": ("adam",)}
  assert (optimizer.kind, optimizer.role) == ("choice", "scientific")
  assert optimizer.values == ("adam", "nesterov") and optimizer.when == {}
  assert (optimizer.low, optimizer.high, optimizer.scale) == (None,) * 3


def test_active_and_labelled():
  """C2: which parameters exist depends on the point."""
  point = {
    "optimizer": "adam",
    LEARNING_RATE: 1e-3,
    BETA1: 0.9,
    "clipping": True,
    CLIP: 1.0,
  }
  labels = [p.label for p in CONDITIONAL.active(point)]
  adam_rate = f"{LEARNING_RATE} [optimizer=adam]"
  assert labels == ["optimizer", adam_rate, BETA1, "clipping", CLIP]
  assert CONDITIONAL.labelled(point) == {
    "optimizer": "adam",
    adam_rate: 1e-3,
    BETA1: 0.9,
    "clipping": True,
    CLIP: 1.0,
  }


def test_active_in_a_whole_config():
  """C2: a switch that does not exist in a trial switches nothing on.

  The config of a run has a value for every key, here of clipping too.
  """
  config = _config(optimizer="nesterov", clipping=True)
  point = CONDITIONAL.labelled(config_lib.flatten(config))
  nesterov_rate = f"{LEARNING_RATE} [optimizer=nesterov|momentum]"
  assert point == {"optimizer": "nesterov", nesterov_rate: 0.1}


def test_ordered():
  """C2: every parameter comes after its switches, however it was declared."""
  domains = [
    ("c", Float(0, 1, when={"b": 1})),
    ("b", Choice((1, 2), when={"a": 1})),
    ("a", Choice((1, 2))),
  ]
  space = Space(dict(domains))
  assert [p.key for p in space.parameters] == ["c", "b", "a"]
  assert [p.key for p in space.ordered] == ["a", "b", "c"]
  assert [p.key for p in space.active({"a": 1, "b": 1, "c": 0.5})] == [
    *("c", "b", "a")
  ]


def test_conditions_on_tuples():
  """C2: a value that is a tuple is not taken for several values."""
  space = Space(
    {
      "a": Choice(((1,), (1, 2), ())),
      "b": Float(0, 1, when={"a": (1, 2)}),
      "c": Float(0, 1, when={"a": ((1,), ())}),
    }
  )
  assert [p.when for p in space.parameters] == [
    {},
    {"a": ((1, 2),)},
    {"a": ((1,), ())},
  ]
  # A point that was JSON has lists.
  assert [p.key for p in space.active({"a": [1, 2], "b": 0.5})] == ["a", "b"]


# JSON.


def test_json_round_trip():
  """C5: study.json holds the space, and gives it back exactly."""
  space = Space(
    {
      "optimizer": Choice(["adam", "sgd"], role="scientific"),
      LEARNING_RATE: [
        Float(np.float64(1) / 3, 1, "log", when={"optimizer": "adam"}),
        Float(1e-300, 0.1 + 0.2, when={"optimizer": ("sgd",)}),
      ],
      BETA1: Float(0.9, 0.99, "log_one_minus", "scientific"),
      WARMUP: Int(np.int64(3), 7, "log"),
      "a": Choice((True, 1.5, 2, "x", (1, (2, 3)), ())),
      "b": Int(0, 1, when={"a": (1, (2, 3))}),
      "c": Int(0, 1, when={"a": [True, 2]}),
      "model.width": Choice(np.array([64, 128])),
    }
  )
  rows = space.as_json()
  again = Space.from_json(json.loads(json.dumps(rows)))
  assert again == space and again.as_json() == rows
  for old, new in zip(space.parameters, again.parameters, strict=True):
    assert repr(new) == repr(old)  # 1, 1.0 and True are equal
  assert space != Space({LEARNING_RATE: RATE})
  assert rows[1] == {
    "key": LEARNING_RATE,
    "label": f"{LEARNING_RATE} [optimizer=adam]",
    "kind": "float",
    "low": 1 / 3,
    "high": 1,
    "scale": "log",
    "role": "nuisance",
    "when": {"optimizer": ["adam"]},
  }


def test_spaces_do_not_change():
  """C5: neither a space nor its parts can be edited under a study."""
  domains = {LEARNING_RATE: RATE}
  space = Space(domains)
  domains[WARMUP] = Int(0, 10)
  assert len(space.parameters) == 1
  for part in (space, space.parameters[0], space.parameters[0].domain):
    with pytest.raises(AttributeError):
      part.parameters = part.label = part.low = 3


# Refusals.


@pytest.mark.parametrize(
  "make, words",
  [
    (lambda: Choice("adam"), ["Choice('adam')", "list or tuple"]),
    (lambda: Choice({"adam", "sgd"}), ["Choice({", "list or tuple"]),
    (lambda: Choice(3), ["Choice(3)"]),
    (
      lambda: Space({LEARNING_RATE: (1e-4, 1e-1)}),
      [LEARNING_RATE, "(0.0001, 0.1)", "Float(1e-4, 1e-1, 'log')"],
    ),
    (lambda: Space({LEARNING_RATE: 0.1}), [LEARNING_RATE, "= 0.1"]),
    (
      lambda: Space({LEARNING_RATE: Float}),
      [LEARNING_RATE, "expected a Float"],
    ),
    (lambda: Space({LEARNING_RATE: []}), [LEARNING_RATE, "= []"]),
    (
      lambda: Space({LEARNING_RATE: Float(0, 1, when="adam")}),
      [LEARNING_RATE, "when='adam'", "{'optimizer': 'adam'}"],
    ),
    (lambda: Space([("optimizer", OPTIMIZERS)]), ["a list", "config keys"]),
  ],
)
def test_what_is_no_domain(make, words):
  """Errors: what cannot be a space says so where it is written."""
  message = _refusal(make)
  assert all(word in message for word in words), message


@pytest.mark.parametrize(
  "space, words",
  [
    ({}, ["empty"]),
    # Keys.
    (
      {"hparams.leraning_rate": RATE},
      ["config.hparams.leraning_rate", f"config.{LEARNING_RATE}?"],
    ),
    ({"learning_rate": RATE}, [f"did you mean config.{LEARNING_RATE}?"]),
    ({"hparams": RATE}, ["config.hparams is a group"]),
    # What no space may hold.
    (
      {"max_train_steps": Int(100, 1000)},
      ["max_train_steps", "never tune", "Playbook, deciding how long"],
    ),
    (
      {"batch_size": Choice((64, 128))},
      ["batch_size", "nuisance", "scientific", "Playbook, why shouldn't"],
    ),
    ({"seed": Int(0, 9)}, ["seed", "jaxplay study rerun", "Playbook"]),
    ({"report_test": Choice((True, False))}, ["test set", "Playbook"]),
    ({"objective": Choice(("valid/loss",))}, ["objective", "afterwards"]),
    ({"averages": Choice(((), ("ema",)))}, ["averages", "base config"]),
    ({"mesh.fsdp": Choice((1, 2))}, ["mesh.fsdp", "how a trial is computed"]),
    ({"microbatches": Choice((1, 2))}, ["how a trial is computed"]),
    ({"log_every": Int(1, 9)}, ["log_every", "measured alike"]),
    ({"eval_every": Int(1, 9)}, ["eval_every", "measured alike"]),
    ({"export": Choice((True, False))}, ["export", "measured alike"]),
    ({"dataset.name": Choice(("digits",))}, ["dataset.name", "comparable"]),
    ({"dataset.train_split": Choice(("train",))}, ["not comparable"]),
    # Roles, scales, ends.
    (
      {LEARNING_RATE: Float(0, 1, role="Scientific")},
      ["role 'Scientific'", "did you mean 'scientific'?", "'nuisance'"],
    ),
    (
      {LEARNING_RATE: Float(0.1, 1, "log10")},
      ["scale 'log10'", "did you mean 'log'?", "'log_one_minus'"],
    ),
    ({LEARNING_RATE: Float(0.1, 1, "nuisance")}, ["scale 'nuisance'"]),
    ({WARMUP: Int(0, 1, "log_one_minus")}, ["'linear', 'log'"]),
    ({LEARNING_RATE: Float(1, 0.1)}, ["from 1 to 0.1", "low must be below"]),
    ({LEARNING_RATE: Float(0.1, 0.1)}, ["base config"]),
    ({WARMUP: Int(5, 5)}, ["from 5 to 5"]),
    ({LEARNING_RATE: Float(0, 1, "log")}, ["'log'", "reaches 0", "above 0"]),
    ({WARMUP: Int(0, 100, "log")}, ["'log'", "reaches 0", "'linear'"]),
    (
      {MOMENTUM: Float(0, 1, "log_one_minus")},
      ["'log_one_minus'", "reaches 1", "below 1"],
    ),
    ({LEARNING_RATE: Float("0.1", 1)}, ["low='0.1'", "number"]),
    ({LEARNING_RATE: Float(0.1, math.inf)}, ["high=inf", "finite"]),
    ({LEARNING_RATE: Float(math.nan, 1)}, ["low=nan", "finite"]),
    ({LEARNING_RATE: Float(False, True)}, ["low=False"]),
    ({WARMUP: Int(0, 1e3)}, ["high=1000.0", "integer"]),
    # Types.
    ({WARMUP: Float(0, 100)}, [WARMUP, "Float", "type int", "use Int"]),
    ({LEARNING_RATE: Int(1, 10)}, ["Int", "type float", "use Float"]),
    ({"clipping": Int(0, 1)}, ["clipping", "type bool", "use Choice"]),
    ({"clipping": Choice((0, 1))}, ["search space", "clipping is 0", "bool"]),
    ({LEARNING_RATE: Choice(("high", "low"))}, ["'high'", "float"]),
    # Choices.
    ({"optimizer": Choice(())}, ["optimizer", "without values"]),
    ({"optimizer": Choice(("sgd", "sgd"))}, ["'sgd' more than once"]),
    ({LEARNING_RATE: Choice((1, 0.1, 1.0))}, ["1.0 more than once"]),
    ({"optimizer": Choice(("adam", "adma"))}, ["'adma'", "'adam'?"]),
    # Conditions.
    (
      {LEARNING_RATE: Float(0.1, 1, when={"optimizer": "nesterov"})},
      [LEARNING_RATE, "optimizer is not a Choice", "these are: none"],
    ),
    (
      {
        "optimizer": OPTIMIZERS,
        LEARNING_RATE: Float(0.1, 1, when={"optimiser": "adam"}),
      },
      ["optimiser is not a Choice", "these are: optimizer"],
    ),
    (
      {WARMUP: Int(0, 9), LEARNING_RATE: Float(0.1, 1, when={WARMUP: 3})},
      [f"{WARMUP} is not a Choice"],
    ),
    (
      {
        "optimizer": OPTIMIZERS,
        LEARNING_RATE: Float(0.1, 1, when={"optimizer": ("adam", "lion")}),
      },
      ["'lion'", "not among the values of optimizer", "'adam', 'nesterov'"],
    ),
    (
      {
        "optimizer": OPTIMIZERS,
        LEARNING_RATE: Float(0.1, 1, when={"optimizer": ()}),
      },
      ["when={'optimizer': ()}", "not among the values"],
    ),
    (
      {
        "optimizer": Choice(("adam", "sgd"), when={"clipping": True}),
        "clipping": Choice((True, False), when={"optimizer": "adam"}),
        LEARNING_RATE: RATE,
      },
      ["optimizer, clipping", "only under one another"],
    ),
    (
      {"optimizer": Choice(("adam", "sgd"), when={"optimizer": "adam"})},
      ["optimizer", "only under one another"],
    ),
    (
      {
        "optimizer": OPTIMIZERS,
        "clipping": Choice((True, False), when={"optimizer": "adam"}),
        CLIP: Float(1, 2, when={"clipping": True, "optimizer": "nesterov"}),
      },
      [CLIP, "can never exist"],
    ),
    (
      {
        "clipping": Choice((True, False)),
        CLIP: Float(1, 2, role="scientific", when={"clipping": True}),
      },
      [CLIP, "clipping, which is nuisance", "uniformly", "Playbook"],
    ),
    # One key, several parameters.
    (
      {"optimizer": OPTIMIZERS, LEARNING_RATE: [RATE, RATE]},
      [f"{LEARNING_RATE} is in the space twice", "when="],
    ),
    (
      {
        "optimizer": OPTIMIZERS,
        LEARNING_RATE: [RATE, Float(0.1, 1, when={"optimizer": "adam"})],
      },
      ["twice", f"{LEARNING_RATE} [optimizer=adam]", "exist together"],
    ),
    (
      {
        "optimizer": Choice(("adam", "sgd", "lion")),
        LEARNING_RATE: [
          Float(0.1, 1, when={"optimizer": ("adam", "sgd")}),
          Float(0.1, 1, when={"optimizer": ("sgd", "lion")}),
        ],
      },
      ["[optimizer=adam|sgd]", "[optimizer=sgd|lion]"],
    ),
    (
      {
        "optimizer": OPTIMIZERS,
        "clipping": Choice((True, False)),
        LEARNING_RATE: [
          Float(0.1, 1, when={"optimizer": "adam"}),
          Float(0.1, 1, when={"clipping": True}),
        ],
      },
      ["twice", "exist together"],
    ),
    # What the config refuses.
    (
      {WARMUP: Int(0, 2000)},
      [f"{WARMUP}=2000", "longer than the run", "max_train_steps=1000"],
    ),
    ({LEARNING_RATE: Float(-1, 1)}, [f"{LEARNING_RATE}=-1", "(0, inf)"]),
    ({MOMENTUM: Float(0, 1)}, [f"{MOMENTUM}=1.0", "[0, 1)"]),
    (
      {"batch_size": Choice((64, 1024), role="scientific")},
      ["batch_size=1024", "eval_batch_size is 512"],
    ),
    (
      {"model.name": Choice(("mlp", "resnet"))},
      ["model.name='resnet'", "model.depth is 2", "18"],
    ),
    # What nothing reads.
    (
      {BETA1: Float(0.5, 0.9)},
      [
        f"{BETA1} has no effect",
        "'nesterov'",
        "set config.optimizer to 'adam'",
      ],
    ),
    (
      {"optimizer": OPTIMIZERS, MOMENTUM: Float(0.5, 0.9)},
      ["no effect", "'adam'", "when={'optimizer': 'nesterov'}", "Playbook"],
    ),
    (
      {DROPOUT: Float(0.0, 0.5)},
      [f"{DROPOUT} has no effect", "set config.model.dropout to True"],
    ),
    (
      {DROPOUT: Float(0.0, 0.5), "model.dropout": Choice((True, False))},
      ["no effect", "when={'model.dropout': True}"],
    ),
    (
      {GHOST: Choice((32, 64)), "model.norm": Choice(("batch", "ghost"))},
      [f"{GHOST} has no effect", "when={'model.norm': 'ghost'}"],
    ),
    (
      {
        "cooldown_shape": Choice(("linear", "cosine")),
        "schedule": Choice(("wsd", "cosine")),
      },
      ["cooldown_shape has no effect", "when={'schedule': 'wsd'}"],
    ),
  ],
)
def test_refusals(space, words):
  """C8, B8, C2, errors: what, why, and how to mend, in one sentence."""
  message = _refusal(Space(space).check, _config())
  assert all(word in message for word in words), message
  assert len(message) < 450


def test_pairs_that_cannot_be_trained():
  """Errors: where two ends disagree both are named, and nothing else is."""
  space = Space(
    {LEARNING_RATE: RATE, WARMUP: Int(0, 900), COOLDOWN: Float(0, 0.5)}
  )
  message = _refusal(space.check, _config(schedule="wsd"))
  assert f"allows {WARMUP}=900, {COOLDOWN}=0.5, which" in message
  assert "warmup of 900 and a cooldown of 500" in message
  assert LEARNING_RATE not in message


def test_integers_between_the_ends_are_tried():
  """Errors: 17 does not divide the batch, though both ends do."""
  space = Space(
    {
      "model.norm": Choice(("batch", "ghost")),
      GHOST: Int(16, 32, when={"model.norm": "ghost"}),
    }
  )
  message = _refusal(space.check, _config())
  assert f"{GHOST}=17" in message and "16 or 32" in message


def test_a_rare_combination_is_found():
  """Errors: one that only a single combination of three choices has."""
  space = Space(
    {
      "batch_size": Choice((96, 128), role="scientific"),
      "model.norm": Choice(("batch", "ghost", "layer"), role="scientific"),
      GHOST: Choice((16, 32, 64), when={"model.norm": "ghost"}),
      LEARNING_RATE: RATE,
    }
  )
  message = _refusal(space.check, _config())
  assert f"batch_size=96, model.norm='ghost', {GHOST}=64" in message


def test_what_trains_can_be_varied():
  """A3: no hyperparameter of training or model is refused by its name."""
  free = [name for name, key in config_lib.KEYS.items() if not key.fixed]
  assert {key for key in free if "." not in key} == {
    *("batch_size", "clipping", "cooldown_shape", "optimizer", "schedule"),
    *("weights", "init_from", "init_map", "frozen"),
  }
  hparams = {f"hparams.{key}" for key in config_lib.base().hparams}
  assert hparams <= set(free)
  assert {f"model.{key}" for key in config_lib.base().model} <= set(free)


@pytest.mark.parametrize(
  "changes, key",
  [
    ({"hparams__momentum": 1.5}, "hparams.momentum"),
    ({"batch_size": 100, "microbatches": 3}, "batch_size"),
    ({"eval_batch_size": 1}, "eval_batch_size"),
    ({"objective": "valid/r2"}, "objective"),
    ({"model__norm": "gost"}, "model.norm"),
  ],
)
def test_an_invalid_base_config_is_named_itself(changes, key):
  """Errors: what no value of the space is to blame for is not laid on it."""
  space = Space({LEARNING_RATE: RATE, WARMUP: Int(0, 10)})
  message = _refusal(space.check, _config(**changes))
  assert "base config" in message and f"config.{key}" in message
  assert "the space allows" not in message


# What is accepted.


@pytest.mark.parametrize(
  "space, changes",
  [
    ({LEARNING_RATE: RATE}, {}),
    ({LEARNING_RATE: Choice((0.1, 1, np.float32(0.5)))}, {}),
    ({WARMUP: Int(0, 1000)}, {}),
    ({"model.depth": Int(1, 5), "model.width": Int(8, 64, "log")}, {}),
    ({"batch_size": Choice((64, 512), role="scientific")}, {}),
    ({DROPOUT: Float(0, 0.5)}, {"model__dropout": True}),
    ({WARMUP: Int(0, 500), COOLDOWN: Float(0, 0.5)}, {"schedule": "wsd"}),
    # At the base's virtual_batch_size, 64, ghost norm cannot be trained.
    (
      {
        "model.norm": Choice(("batch", "ghost"), role="scientific"),
        GHOST: Choice((16, 32), when={"model.norm": "ghost"}),
      },
      {"batch_size": 96},
    ),
    # A base config that cannot be trained where it is varied.
    (
      {"model.depth": Choice((10, 18))},
      {"model__name": "resnet", "model__norm": "batch"},
    ),
    (
      {
        "model.name": Choice(("mlp", "resnet"), role="scientific"),
        "model.depth": [
          Choice((10, 18), when={"model.name": "resnet"}),
          Choice((1, 4), when={"model.name": "mlp"}),
        ],
      },
      {},
    ),
    # The same key under nested conditions, which exclude each other.
    (
      {
        "optimizer": Choice(("adam", "sgd"), role="scientific"),
        "clipping": Choice((True, False), when={"optimizer": "adam"}),
        LEARNING_RATE: [
          Float(0.1, 1, when={"optimizer": "sgd"}),
          Float(0.1, 1, when={"clipping": True}),
          Float(0.1, 1, when={"clipping": False}),
        ],
      },
      {},
    ),
    (
      {
        "optimizer": Choice(("schedule_free_adamw", "sgd")),
        BETA1: Float(0.1, 0.9, when={"optimizer": "schedule_free_adamw"}),
      },
      {},
    ),
  ],
)
def test_good_spaces(space, changes):
  """C2: what can be trained everywhere is accepted, and the config kept."""
  config = _config(**changes)
  Space(space).check(config)
  assert config.to_dict() == _config(**changes).to_dict()


def test_proposed_conditions_work():
  """Errors: a refused parameter is accepted with the when= that is proposed."""
  optimizers = Choice(("sgd", "adam", "nadam", "nesterov"), role="scientific")
  space = {"optimizer": optimizers, BETA1: Float(0.5, 0.9)}
  message = _refusal(Space(space).check, _config())
  assert "when={'optimizer': ('adam', 'nadam')}" in message
  space[BETA1] = Float(0.5, 0.9, when={"optimizer": ("adam", "nadam")})
  Space(space).check(_config())


def test_a_space_may_switch_off_what_the_config_has():
  """Playbook's roles: with and without dropout, at the config's own rate."""
  config = _config(model__dropout=True, hparams__dropout_rate=0.1)
  space = Space({"model.dropout": Choice((True, False)), LEARNING_RATE: RATE})
  space.check(config, overrides=["hparams.dropout_rate"])
  assert space.notes(config) == []
  # Of what no trial reads, a file is told and an override refused.
  idle = _config(hparams__dropout_rate=0.1)
  space = Space({LEARNING_RATE: RATE})
  (note,) = space.notes(idle)
  assert "dropout_rate=0.1 has no effect" in note
  with pytest.raises(jaxplay.UserError, match="no effect.*model.dropout"):
    space.check(idle, overrides=["hparams.dropout_rate"])


def test_many_combinations_take_no_time():
  """Errors: of very many combinations some are tried, not all."""
  space = Space(
    {
      "optimizer": Choice(config_lib.OPTIMIZERS),
      "schedule": Choice(config_lib.SCHEDULES),
      "dataset.augment": Choice(("none", *config_lib.MOVES)),
      "clipping": Choice((True, False)),
      "model.dropout": Choice((True, False)),
      "model.width": Choice(range(8, 80, 8)),
      LEARNING_RATE: RATE,
    }
  )
  assert len(list(checks._probes(space))) < 300
  space.check(_config())


def test_given_points_are_tried_instead():
  """C5: of an explicit list the points count, not what lies between."""
  space = Space({WARMUP: Int(0, 900), COOLDOWN: Float(0.0, 0.5)})
  config = _config(schedule="wsd")
  good = [{WARMUP: 900, COOLDOWN: 0.1}, {WARMUP: 0, COOLDOWN: 0.5}]
  space.check(config, good)
  bad = [*good, {WARMUP: 900, COOLDOWN: 0.5}]
  assert f"{WARMUP}=900" in _refusal(space.check, config, bad)
  # A table of points has a momentum in Adam's rows too.
  table = Space({"optimizer": OPTIMIZERS, MOMENTUM: Choice((0.8, 0.9))})
  rows = [{"optimizer": name, MOMENTUM: 0.8} for name in ("adam", "nesterov")]
  table.check(_config(), rows)


# Notes.


@pytest.mark.parametrize(
  "space, changes, words",
  [
    (
      {
        "batch_size": Choice((64, 128), role="scientific"),
        LEARNING_RATE: RATE,
      },
      {"hparams__weight_decay": 0.01},
      [f"nothing tunes {MOMENTUM}, hparams.weight_decay;", "equal target"],
    ),
    (
      {"model.depth": Choice((1, 2), role="scientific"), WARMUP: Int(0, 9)},
      {},
      ["values of model.depth", "one learning rate", "Playbook"],
    ),
    (
      {"optimizer": OPTIMIZERS, LEARNING_RATE: RATE},
      {},
      [f"{LEARNING_RATE} has one range for adam, nesterov", "when="],
    ),
    (
      {LEARNING_RATE: Float(1e-4, 1e-1)},
      {},
      ["linear from 0.0001 to 0.1", "above 0.01", "scale='log'"],
    ),
  ],
)
def test_notes(space, changes, words):
  """B8, C1, C2: a space that is allowed but doubtful gets a sentence."""
  (note,) = Space(space).notes(_config(**changes))
  assert all(word in note for word in words), note


def test_good_spaces_get_no_notes():
  """C1: a space as the Playbook has it is left in peace."""
  for space in (
    CONDITIONAL,
    Space({LEARNING_RATE: RATE, MOMENTUM: Float(0, 0.9)}),
    Space({LEARNING_RATE: Float(1e-4, 1e-1, "log", role="scientific")}),
    Space(space_lib.adam_space(100)),
  ):
    assert space.notes(_config()) == []


# Adam.


@pytest.mark.parametrize(
  "num_trials, names",
  [
    (1, ["learning_rate"]),
    (9, ["learning_rate"]),
    (10, ["learning_rate", "beta1"]),
    (24, ["learning_rate", "beta1"]),
    (25, ["learning_rate", "beta1", "epsilon"]),
    (99, ["learning_rate", "beta1", "epsilon"]),
    (100, ["learning_rate", "beta1", "epsilon", "beta2"]),
  ],
)
def test_adam_space(num_trials, names):
  """C4: what of Adam to tune, by the number of trials."""
  domains = space_lib.adam_space(num_trials)
  assert list(domains) == [f"hparams.{name}" for name in names]
  space = Space(domains)
  space.check(_config(optimizer="adam"))
  for parameter in space.parameters:  # The usual values are inside.
    flat = config_lib.flatten(_config(hparams__learning_rate=1e-3))
    assert 0.05 < parameter.to_unit(flat[parameter.key]) < 0.95


def test_adam_space_for_one_of_several_optimizers():
  """C4, C2: the rules of thumb, for the trials that are Adam's."""
  domains = space_lib.adam_space(
    12, learning_rate=(1e-4, 1e-2), when={"optimizer": "adam"}
  )
  adam_rate = domains.pop(LEARNING_RATE)
  assert (adam_rate.low, adam_rate.high) == (1e-4, 1e-2)
  nesterov_rate = Float(1e-2, 1.0, "log", when={"optimizer": "nesterov"})
  space = Space(
    {"optimizer": OPTIMIZERS, LEARNING_RATE: [adam_rate, nesterov_rate]}
    | domains
  )
  space.check(_config())
  assert space.notes(_config()) == []
  for number in (0, 9.5, "20"):
    assert repr(number) in _refusal(space_lib.adam_space, number)


@pytest.mark.parametrize(
  "changes, num_trials, names",
  [
    ({"optimizer": "sgd"}, 9, ["learning_rate"]),
    ({"optimizer": "sgd"}, 24, ["learning_rate"]),
    ({}, 10, ["learning_rate", "momentum"]),
    ({}, 25, ["learning_rate", "momentum", "weight_decay"]),
    (
      {"optimizer": "rmsprop", "model__dropout": True},
      25,
      ["learning_rate", "epsilon", "momentum", "rho"]
      + ["weight_decay", "dropout_rate"],
    ),
    (
      {"optimizer": "adam", "clipping": True},
      50,
      ["learning_rate", "beta1", "epsilon"]
      + ["weight_decay", "label_smoothing", "clip_norm"],
    ),
    ({"model__name": "lm"}, 50, ["learning_rate", "momentum", "weight_decay"]),
  ],
)
def test_default_space(changes, num_trials, names):
  """C4: what of a config to tune first, by the number of trials."""
  config = _config(**changes)
  domains = space_lib.default_space(config, num_trials, (1e-3, 1.0))
  assert list(domains) == [f"hparams.{name}" for name in names]
  space = Space(domains)
  if config.model.name != "lm":
    space.check(config)
  flat = config_lib.flatten(config)
  for parameter in space.parameters:  # The config's own are inside.
    if flat[parameter.key]:
      assert 0.0 < parameter.to_unit(flat[parameter.key]) < 1.0


# AlgoPerf's files.


@pytest.fixture
def search_space(tmp_path):
  """Writes a search space; returns its path."""

  def write(content):
    path = tmp_path / "tuning_search_space.json"
    text = content if isinstance(content, str) else json.dumps(content)
    path.write_text(text)
    return str(path)

  return write


NADAMW = {
  "learning_rate": {"min": 1e-4, "max": 1e-2, "scaling": "log"},
  "one_minus_beta1": {"min": 4e-3, "max": 0.1, "scaling": "log"},
  "beta2": {"feasible_points": [0.999]},
  "warmup_factor": {"feasible_points": [0.05]},
  "weight_decay": {"min": 5e-3, "max": 1.0, "scaling": "log"},
  "label_smoothing": {"feasible_points": [0.1, 0.2]},
  "batch_size": {"feasible_points": [64, 128]},
  "hparams.final_factor": {"min": 0, "max": 0.5, "scaling": "linear"},
  "clip_norm": {"min": 2.0, "max": 2.0, "scaling": "log"},
  "window_steps": {"min": 10, "max": 1000, "scaling": "log"},
}


def test_algoperf_space(search_space):
  """C6: a search space of AlgoPerf, in its own order, by config key."""
  space = space_lib.from_algoperf(search_space(NADAMW), max_train_steps=1010)
  assert [(p.key, p.domain.kind) for p in space.parameters] == [
    (LEARNING_RATE, "float"),
    (BETA1, "float"),
    ("hparams.beta2", "choice"),
    (WARMUP, "choice"),
    ("hparams.weight_decay", "float"),
    ("hparams.label_smoothing", "choice"),
    ("batch_size", "choice"),
    ("hparams.final_factor", "float"),
    (CLIP, "choice"),
    ("hparams.window_steps", "int"),
  ]
  domains = {p.key: p.domain for p in space.parameters}
  assert domains[LEARNING_RATE] == Float(1e-4, 1e-2, "log", when={})
  assert domains[BETA1] == Float(0.9, 0.996, "log_one_minus", when={})
  assert domains[WARMUP].values == (50,)
  assert domains[CLIP].values == (2.0,)
  assert domains["hparams.window_steps"] == Int(10, 1000, "log", when={})
  assert domains["hparams.final_factor"] == Float(0, 0.5, when={})


def test_algoperf_points(search_space):
  """C6: a list of explicit points, bare or wrapped, by config key."""
  path = search_space(
    [
      {"learning_rate": 0.1, "one_minus_beta1": 0.25, "warmup_factor": 0.5},
      {"learning_rate": {"feasible_points": [0.2]}},
    ]
  )
  assert space_lib.from_algoperf(path, max_train_steps=100) == [
    {LEARNING_RATE: 0.1, BETA1: 0.75, WARMUP: 50},
    {LEARNING_RATE: 0.2},
  ]


@pytest.mark.parametrize(
  "content, words",
  [
    ("{", ["cannot read", "tuning_search_space.json"]),
    ("3", ["not a search space of AlgoPerf", "feasible_points"]),
    ({"learning_rate": 0.1}, ["not a search space of AlgoPerf"]),
    ({"learning_rate": {"min": 0.1, "max": 1}}, ["not a search", "'scaling'"]),
    ([0.1, 0.2], ["not a search space of AlgoPerf"]),
    ([{"learning_rate": {"feasible_points": []}}], ["not a search space"]),
    (
      {"leraning_rate": {"feasible_points": [0.1]}},
      ["leraning_rate is not a hyperparameter", f"config.{LEARNING_RATE}?"],
    ),
    (
      {"one_minus_beta_1": {"min": 0.1, "max": 0.2, "scaling": "log"}},
      ["one_minus_beta_1", f"did you mean config.{BETA1}?"],
    ),
    ({"l2": {"feasible_points": [0.1]}}, ["l2", "lists every key"]),
    (
      {"warmup_factor": {"feasible_points": [0.1]}},
      ["warmup_factor", "max_train_steps=..."],
    ),
    (
      {"one_minus_beta1": {"min": 0.1, "max": 0.2, "scaling": "linear"}},
      ["one_minus_beta1 with a linear range", "range of beta1"],
    ),
    (
      {
        "beta1": {"feasible_points": [0.1]},
        "one_minus_beta1": {"feasible_points": [0.9]},
      },
      [f"config.{BETA1}", "in the file twice"],
    ),
  ],
)
def test_algoperf_files_that_do_not_fit(search_space, content, words):
  """Errors: what in the file has no counterpart, and the nearest that has."""
  message = _refusal(space_lib.from_algoperf, search_space(content))
  assert all(word in message for word in words), message


def test_algoperf_files_that_are_not_there(tmp_path):
  """Errors: a path that leads nowhere is named."""
  for path in (str(tmp_path / "none.json"), str(tmp_path)):
    assert repr(path) in _refusal(space_lib.from_algoperf, path)
