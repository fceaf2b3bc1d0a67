"""Importances and interactions on functions whose importances are known."""

import dataclasses
import json

import numpy as np
import pytest

from jaxplay.analysis import checklist, importance, plots_study, refine
from jaxplay.study import sampling
from jaxplay.study import space as space_lib
from tests.analysis import by_hand, importances


def _study(mapping, function, num, infeasible=None, noise=0.01, **fields):
  """A study of a function of the point, with noise."""
  space = space_lib.Space(mapping)
  points = sampling.points(space, algorithm="halton", seed=0, num=num)
  rng = np.random.default_rng(0)
  values = [function(p) + noise * rng.standard_normal() for p in points]
  diverged = [i for i, p in enumerate(points) if infeasible and infeasible(p)]
  return by_hand.study(mapping, points, values, diverged, **fields)


def _float(**more):
  return space_lib.Float(0.0, 1.0, **more)


def _findings(study):
  found = checklist.check_study(study)
  return [f for f in found if f.check == "importance"]


@pytest.mark.parametrize(
  "name", ["additive", "product", "effective rate", "heavy tails"]
)
def test_known_importances(name):
  """D13: shares of known functions, and of their pairs, with intervals."""
  (row,) = importance.importances(importances.study(name, 100, 0.1, 0))
  total, pairs = importances.truth(name, 0.1)
  for share, truth in zip(row.shares.values(), total, strict=True):
    assert share.low <= share.estimate <= share.high
    assert share.estimate == pytest.approx(truth, abs=0.1)
    assert share.low - 0.01 <= truth <= share.high + 0.01
  for share, truth in zip(row.pairs.values(), pairs, strict=True):
    assert share.estimate == pytest.approx(truth, abs=0.1)
  labels = list(row.shares)
  assert {*row.matter} >= {labels[i] for i in np.flatnonzero(total > 0.15)}
  assert {*row.matter} <= {labels[i] for i in np.flatnonzero(total > 0.05)}
  assert {*row.interact} == {
    pair for pair, truth in zip(row.pairs, pairs, strict=True) if truth > 0.05
  }


@pytest.mark.parametrize("name", ["nothing", "nothing of 1"])
def test_noise_is_no_importance(name):
  """D13: where nothing has an effect, 5% of studies say otherwise at most."""
  false = 0
  for seed in range(20):
    study = importances.study(name, (16, 40)[seed % 2], 0.1, seed)
    (row,) = importance.importances(study)
    assert not row.idle
    false += bool(row.matter or row.interact)
  assert false <= 1
  (found,) = _findings(study)
  assert found.verdict == "unknown" and found.advice


def test_one_hyperparameter():
  """D13: one that has an effect explains all that is explained."""
  study = _study({"hparams.a": _float()}, lambda p: p["hparams.a"], 20)
  (row,) = importance.importances(study)
  assert row.matter == ["hparams.a"] and not row.pairs and row.map is None
  assert plots_study.figures(study)


@pytest.mark.parametrize(
  "reason, change",
  [
    ("15", lambda values: values[:15]),
    ("same", lambda values: [0.1] * 20),
  ],
)
def test_not_enough_to_explain(reason, change):
  """D13: few trials, and trials of one value, are unknown."""
  study = by_hand.line(change(np.linspace(0.1, 0.5, 20).tolist()))
  assert importance.importances(study) == []
  (found,) = _findings(study)
  assert found.verdict == "unknown" and reason in found.advice


def test_all_infeasible():
  """D13: without a value there is no order."""
  study = by_hand.line([0.1] * 20, infeasible=range(20))
  assert importance.importances(study) == []
  (found,) = _findings(study)
  assert found.verdict == "unknown" and found.evidence["has"] == 0


def test_a_metric_to_maximize_gives_the_same():
  """D13: accuracies have the importances of the errors."""
  study = importances.study("effective rate", 40, 0.1, 0)

  def mirrored(trial):
    steps, values = trial.curves["valid/error_rate"]
    curves = {"valid/accuracy": (steps, 1 - values)}
    return dataclasses.replace(trial, curves=curves)

  other = dataclasses.replace(
    study,
    trials=[mirrored(trial) for trial in study.trials],
    objective="valid/accuracy",
  )
  (ours,), (theirs) = (
    importance.importances(study),
    (importance.importances(other)),
  )
  assert ours.as_json() == theirs[0].as_json()
  ours, theirs = np.array(ours.map.objective), theirs[0].map.objective
  np.testing.assert_allclose(ours, 1 - np.array(theirs), atol=1e-12)


def test_a_few_terrible_trials_are_not_all():
  """D13: ten times as bad is not ten times as important."""
  study = importances.study("additive", 60, 0.1, 0)
  (before,) = importance.importances(study)
  worst = {t.index for t in study.ranked[-5:]}

  def worse(trial):
    steps, values = trial.curves["valid/error_rate"]
    values = values * 1e6 if trial.index in worst else values
    return dataclasses.replace(
      trial, curves={"valid/error_rate": (steps, values)}
    )

  trials = [worse(trial) for trial in study.trials]
  (after,) = importance.importances(dataclasses.replace(study, trials=trials))
  for label, share in before.shares.items():
    assert after.shares[label].estimate == pytest.approx(
      share.estimate, abs=0.05
    )


def test_choices_booleans_and_integers():
  """D13: names have no order; few integers are levels."""
  mapping = {
    "optimizer": space_lib.Choice(("sgd", "adam", "nadam")),
    "model.bias": space_lib.Choice((True, False)),
    "model.depth": space_lib.Int(1, 4),
    "model.width": space_lib.Int(16, 1024, "log"),
    "hparams.a": _float(),
  }

  def cost(p):
    # The middle value is the worst.
    effect = {"sgd": 0.0, "adam": 1.0, "nadam": 0.2}[p["optimizer"]]
    return effect + 0.4 * p["model.bias"] + 0.3 * (p["model.depth"] - 2) ** 2

  study = _study(mapping, cost, 80)
  (row,) = importance.importances(study)
  assert {"optimizer", "model.depth"} <= {*row.matter}
  assert not {"model.width", "hparams.a"} & {*row.matter}
  assert row.alone["optimizer"].estimate > 0.1
  names = {figure.name for figure in plots_study.figures(study)}
  assert {"importance: valid/error_rate", "interaction: valid/error_rate"} <= (
    names
  )


def test_each_group_has_its_own():
  """D13, C2: a hyperparameter is judged where it exists."""
  adam, sgd = {"optimizer": "adam"}, {"optimizer": "sgd"}
  mapping = {
    "optimizer": space_lib.Choice(("adam", "sgd"), role="scientific"),
    "hparams.beta1": _float(when=adam),
    "hparams.momentum": _float(when=sgd),
    "hparams.a": _float(),
  }

  def cost(p):
    if p["optimizer"] == "adam":
      return (p["hparams.beta1"] - 0.3) ** 2
    return 3 + (p["hparams.a"] - 0.3) ** 2

  rows = {
    row.group: row for row in importance.importances(_study(mapping, cost, 80))
  }
  assert list(rows) == ["optimizer=adam", "optimizer=sgd"]
  assert rows["optimizer=adam"].matter == ["hparams.beta1"]
  assert rows["optimizer=sgd"].matter == ["hparams.a"]
  assert "hparams.momentum" not in rows["optimizer=adam"].shares
  # Too few for each, but not for both together.
  (both,) = importance.importances(_study(mapping, cost, 24))
  assert both.group == "" and "optimizer" in both.matter


def test_a_hyperparameter_under_a_nuisance_choice():
  """D13, C2: its share is of the trials in which it exists."""
  mapping = {
    "clipping": space_lib.Choice(("none", "norm")),
    "hparams.clip_norm": _float(when={"clipping": "norm"}),
    "hparams.a": _float(),
  }
  study = _study(mapping, lambda p: p.get("hparams.clip_norm", 0.5), 100)
  (row,) = importance.importances(study)
  assert row.matter == ["hparams.clip_norm"]
  assert ("clipping", "hparams.clip_norm") not in row.pairs


def test_what_matters_among_good_trials_is_not_fixed():
  """D13: a cliff in one hyperparameter does not make the others idle."""
  for seed in range(5):
    (row,) = importance.importances(importances.study("local", 100, 0.01, seed))
    assert row.matter[0] == "hparams.h0"
    assert "hparams.h1" not in row.idle


def test_infeasible_trials_are_the_worst():
  """D13, D4: what decides whether trials diverge matters."""
  mapping = {f"hparams.{name}": _float() for name in "abc"}
  study = _study(
    mapping,
    lambda p: (p["hparams.b"] - 0.3) ** 2,
    60,
    infeasible=lambda p: p["hparams.a"] > 0.7,
  )
  (row,) = importance.importances(study)
  assert {*row.matter} == {"hparams.a", "hparams.b"}
  assert row.num_trials + row.num_infeasible == 60
  assert plots_study.figures(study)


def test_adaptive_trials_are_left_out():
  """D13: they are no fair sample of the space."""
  study = importances.study("additive", 40, 0.1, 0)
  trials = [
    dataclasses.replace(trial, adaptive=trial.index >= 30)
    for trial in study.trials
  ]
  (row,) = importance.importances(dataclasses.replace(study, trials=trials))
  assert row.num_trials == 30


def test_many_hyperparameters():
  """D13: of more than 8, pairs are those of the most important."""
  mapping = {f"hparams.h{i}": _float() for i in range(12)}
  study = _study(
    mapping, lambda p: p["hparams.h3"] + p["hparams.h9"] * p["hparams.h3"], 64
  )
  (row,) = importance.importances(study)
  assert len(row.shares) == 12 and len(row.pairs) == 28
  assert "hparams.h3" in row.matter


def test_findings_are_json_and_repeatable():
  """D13: the same study gives the same numbers, as JSON."""
  one, other = (
    _findings(importances.study("product", 40, 0.1, 0))[0].as_json()
    for _ in range(2)
  )
  assert one == other
  json.dumps(one, allow_nan=False)


# The next study.

_SPACE = {
  "hparams.learning_rate": space_lib.Float(1e-3, 1.0, "log"),
  "hparams.weight_decay": space_lib.Float(1e-6, 1e-2, "log"),
  "hparams.label_smoothing": space_lib.Float(0.0, 0.2),
}
_FIELDS = {
  "goal": "Which?",
  "config_file": "config.py",
  "overrides": {},
  "algorithm": "halton",
  "seed": 0,
}


def _sloped(num, role="nuisance"):
  """A study in which weight decay and label smoothing do nothing."""
  last = dataclasses.replace(_SPACE["hparams.label_smoothing"], role=role)
  mapping = _SPACE | {"hparams.label_smoothing": last}

  def cost(p):
    return (np.log10(p["hparams.learning_rate"]) + 1.5) ** 2

  study = _study(mapping, cost, num, noise=0.02)
  return dataclasses.replace(study, study=study.study | _FIELDS)


def _next(study):
  text = refine.next_study(study, checklist.check_study(study))
  scope = {}
  exec(text, scope)
  return text, scope["get_study"]()


def test_what_does_nothing_is_fixed():
  """D13: it leaves the space, at the value of the best trial."""
  study = _sloped(100)
  text, following = _next(study)
  assert set(following.space) == {"hparams.learning_rate"}
  best = study.ranked[0].point
  for name in ("hparams.weight_decay", "hparams.label_smoothing"):
    assert following.overrides[name] == best[name]
  (row,) = importance.importances(study)
  share = row.shares["hparams.weight_decay"]
  assert f"{share.low:.1%} to {share.high:.1%}" in " ".join(
    text.replace("#", "").split()
  )


def test_what_the_question_is_about_is_not_fixed():
  """D13, C1: a scientific hyperparameter stays; so do those of few trials."""
  _, following = _next(_sloped(100, role="scientific"))
  assert "hparams.label_smoothing" in following.space
  assert "hparams.weight_decay" not in following.space
  _, following = _next(_sloped(39))
  assert set(following.space) == set(_SPACE)


def test_what_interacts_stays_and_says_so():
  """D13: both stay, and each names the other."""

  def cost(p):
    rate, decay = (
      np.log10(p[f"hparams.{name}"])
      for name in ("learning_rate", "weight_decay")
    )
    return (rate + 1.5 + decay + 4) ** 2

  study = _study(_SPACE, cost, 100, noise=0.02)
  study = dataclasses.replace(study, study=study.study | _FIELDS)
  text, following = _next(study)
  pair = {"hparams.learning_rate", "hparams.weight_decay"}
  assert pair <= set(following.space)
  (row,) = importance.importances(study)
  assert [set(both) for both in row.interact] == [pair]
  assert text.count("they interact") == 2
