"""Checks of a study, on generated and hand-made ones."""

import dataclasses
import itertools
import json
import pathlib
import time

import numpy as np
import pytest

from jaxplay import config as config_lib
from jaxplay.analysis import checklist, curves, refine, trials
from jaxplay.study import space as space_lib
from tests.analysis import by_hand, generated

STUDY_CHECKS = (
  "search_space_boundary",
  "enough_trials",
  "infeasible_share",
  "optimization_instability",
  "retrain_variance",
  "max_train_steps",
  "compute_bound",
  "better_than_chance",
  "fixed_caveats",
  "importance",
  "trials_match_study",
)


def _boundary(study):
  (found,) = checklist.search_space_boundary(study)
  return found


# Trust: on generated studies.


@pytest.mark.slow
@pytest.mark.parametrize("fault", generated.FAULTS)
@pytest.mark.parametrize("num_trials", [20, 64])
def test_plain_faults_are_told(fault, num_trials):
  """D2-D12, F1, F3, I2-I5: no plain fault of any kind is missed."""
  check, strengths = generated.FAULTS[fault]
  for seed in range(4):
    study = generated.faulty(seed, fault, strengths[-1], num_trials)
    verdicts = generated.verdicts(study)[check]
    assert generated.warns(verdicts), f"seed {seed}: {verdicts}"


@pytest.mark.slow
@pytest.mark.parametrize(
  "num_studies, settings",
  [
    (60, dict(num_trials=20)),
    (40, dict(num_trials=20, schedule="constant")),
    (30, dict(num_trials=64, num_valid=300)),
    (30, dict(num_trials=64, optimizers=("momentum", "nesterov"))),
    (8, dict(num_trials=200)),
  ],
)
def test_healthy_studies_are_left_alone(num_studies, settings):
  """D2-D12, F1, F3, I2-I5: false alarms stay below a few percent a check.

  docs/checks.md has the rates over more studies; here every seed is fixed.
  """
  rates = generated.rates(num_studies, num_reruns=5, **settings)
  assert set(STUDY_CHECKS) | set(curves.CHECKS) == set(rates)
  most = max(0.05, 1.5 / num_studies)
  assert {check: rate for check, rate in rates.items() if rate > most} == {}


@pytest.mark.parametrize("settings", [{}, dict(optimizers=("adam", "nadam"))])
def test_findings_are_json(settings):
  """D11: every finding can be written to findings.json as it is."""
  for found in checklist.check_study(generated.study(0, 20, **settings)):
    json.dumps(found.as_json(), allow_nan=False)
    assert found.advice or found.verdict == "ok"
    assert found.source.startswith("Playbook")


def test_many_trials_are_checked_in_seconds():
  """D5: 1,000 trials of 100 evaluations take less than 3 seconds."""
  study = generated.study(0, 1000)
  start = time.process_time()
  checklist.check_study(study)
  assert time.process_time() - start < 3


# Boundaries.


@pytest.mark.parametrize("side", ["low", "high"])
@pytest.mark.parametrize("num", [10, 20, 100])
def test_boundary_names_the_side_and_a_wider_range(side, num):
  """D2: a monotone response points out of the range, on that side."""
  values = np.linspace(0.1, 0.5, num)
  found = _boundary(by_hand.line(values if side == "low" else values[::-1]))
  assert found.verdict == "warn"
  assert found.evidence["side"] == side
  low, high = found.evidence["proposed"]
  assert (low < 1e-4) == (side == "low")
  assert (high > 1.0) == (side == "high")
  assert f"{low:g} to {high:g}" in found.advice


@pytest.mark.parametrize("best", [0.25, 0.4, 0.5, 0.7])
def test_an_optimum_inside_is_left_alone(best):
  """D2: a sharp optimum well inside is no boundary problem."""
  values = 0.1 + (np.linspace(0, 1, 40) - best) ** 2
  assert _boundary(by_hand.line(values)).verdict == "ok"


def test_ties_at_the_best_are_no_cluster():
  """D2: where half of all trials tie for the best, nothing is told."""
  values = [0.01] * 30 + [0.02] * 20
  assert _boundary(by_hand.line(values, num_valid=300)).verdict != "warn"


def test_ties_are_taken_together():
  """D2: the order of trials does not decide which of equals are the best."""
  values = np.repeat([0.05, 0.04, 0.03, 0.02, 0.01], 8)
  study = by_hand.line(values)
  back = dataclasses.replace(study, trials=study.trials[::-1])
  one, other = _boundary(study), _boundary(back)
  assert one.evidence["p_value"] == pytest.approx(other.evidence["p_value"])
  assert one.verdict == other.verdict == "warn"


@pytest.mark.parametrize("num_flat", [1, 5])
def test_flat_hyperparameters_are_rarely_told(num_flat):
  """D2: a study of flat hyperparameters is told in under 5 % of cases."""
  rng = np.random.default_rng(0)
  keys = ["weight_decay", "label_smoothing", "momentum", "rho", "epsilon"]
  keys = [f"hparams.{key}" for key in keys[:num_flat]]
  mapping = {key: space_lib.Float(1e-3, 0.5) for key in keys}
  told = 0
  for _ in range(100):
    points = [
      dict(zip(keys, row, strict=True))
      for row in rng.uniform(1e-3, 0.5, (64, num_flat)).tolist()
    ]
    # Out of 300 examples, so that many tie.
    values = rng.binomial(300, 0.03, 64) / 300
    found = checklist.search_space_boundary(
      by_hand.study(mapping, points, values)
    )
    told += any(f.verdict == "warn" for f in found)
  assert told <= 5


def test_an_edge_of_feasibility_is_told_as_instability():
  """D2: better and better until it diverges: do not widen, stabilize."""
  values = np.concatenate([np.linspace(0.5, 0.1, 30), np.ones(10)])
  study = by_hand.line(values, infeasible=range(30, 40))
  found = _boundary(study)
  assert found.verdict == "warn" and "proposed" not in found.evidence
  assert "optimization_instability" in found.advice
  found = checklist.optimization_instability(study, checklist.check_runs(study))
  assert found.verdict == "warn"
  assert found.subject == "hparams.learning_rate"


def test_divergence_far_from_the_best_is_no_instability():
  """D2: divergence matters only where it keeps from a better rate."""
  values = 0.1 + (np.linspace(0, 1, 40) - 0.4) ** 2
  study = by_hand.line(values, infeasible=range(32, 40))
  assert _boundary(study).verdict == "ok"
  found = checklist.optimization_instability(study, checklist.check_runs(study))
  assert found.verdict != "warn"


def test_runs_without_a_training_curve_are_not_called_stable():
  """D2, D14: what was not logged is unknown, never ok."""
  healthy = generated.study(0, 20)
  bare = [
    dataclasses.replace(
      t, curves={k: v for k, v in t.curves.items() if k.startswith("valid/")}
    )
    for t in healthy.trials
  ]
  for trials_, verdict in ((healthy.trials, "ok"), (bare, "unknown")):
    study = dataclasses.replace(healthy, trials=trials_)
    runs = checklist.check_runs(study)
    assert checklist.optimization_instability(study, runs).verdict == verdict


def test_what_another_program_fixed_is_unknown():
  """C1, D14: without a base config nothing is known of what is fixed."""
  study = by_hand.line(np.linspace(0.1, 0.2, 20))
  study.study["config"] = {"theirs": {"lr": 0.1}}
  assert checklist.fixed_caveats(study).verdict == "unknown"


@pytest.mark.parametrize(
  "key, domain, values, verdict, proposed",
  [
    # An edge that is the key's own bound cannot be widened.
    ("hparams.weight_decay", space_lib.Float(0.0, 0.1), "low", "ok", None),
    ("hparams.label_smoothing", space_lib.Float(0.0, 0.2), "low", "ok", None),
    # Up to the bound, where the whole step is too far.
    ("hparams.label_smoothing", space_lib.Float(0.05, 0.2), "low", "warn", 0.0),
    ("hparams.momentum", space_lib.Float(0.5, 0.9), "high", "warn", None),
    (
      *("hparams.momentum", space_lib.Float(0.5, 0.99, "log_one_minus")),
      *("high", "warn", None),
    ),
    ("hparams.warmup_steps", space_lib.Int(0, 100), "low", "ok", None),
    ("hparams.warmup_steps", space_lib.Int(0, 100), "high", "warn", 150),
    ("model.width", space_lib.Choice((64, 128, 256)), "high", "warn", 512),
    ("model.width", space_lib.Choice((256, 128, 64)), "high", "warn", 32),
  ],
)
def test_legal_bounds(key, domain, values, verdict, proposed):
  """D2: the wider range is one that the config accepts."""
  (parameter,) = space_lib.Space({key: domain}).parameters
  points = [{key: v} for v in parameter.from_units(np.linspace(0, 1, 60))]
  errors = np.linspace(0.1, 0.5, 60)
  errors = errors if values == "low" else errors[::-1]
  found = _boundary(by_hand.study({key: domain}, points, errors))
  assert found.evidence["side"] == values
  assert found.verdict == verdict
  if verdict == "ok":
    assert found.evidence["edge_is_bound_of_key"]
    return
  wider = found.evidence["proposed"]
  if proposed is not None:
    assert proposed in wider
  if domain.kind == "choice":
    space_lib.Space({key: space_lib.Choice(wider)}).check(config_lib.base())
    return
  low, high = wider
  assert low < domain.low or high > domain.high
  wide = type(domain)(low, high, domain.scale)
  space_lib.Space({key: wide}).check(config_lib.base())


@pytest.mark.parametrize("dropout", [True, False])
def test_a_config_that_is_refused_hides_no_edge(dropout):
  """D2, D14: an edge is the key's own bound by that key's interval alone, not
  because the config is refused for another reason."""
  rng = np.random.default_rng(0)
  mapping = {
    "hparams.learning_rate": space_lib.Float(1e-4, 1e-2, "log"),
    "hparams.dropout_rate": space_lib.Float(0.0, 0.5),
  }
  points = [
    {"hparams.learning_rate": 10 ** (2 * u - 4), "hparams.dropout_rate": w / 2}
    for u, w in rng.uniform(size=(40, 2)).tolist()
  ]
  values = [
    0.1 + 0.05 * (1.3 - (np.log10(p["hparams.learning_rate"]) + 4) / 2) ** 2
    for p in points
  ]
  study = by_hand.study(mapping, points, values)
  study.study["config"]["model"]["dropout"] = dropout
  rate, other = checklist.search_space_boundary(study)
  assert rate.verdict == "warn" and rate.evidence["side"] == "high"
  assert rate.evidence["proposed"][1] > 1e-2
  assert other.verdict != "warn"


@pytest.mark.parametrize("config", [{}, {"theirs": {"lr": 0.1}}])
@pytest.mark.parametrize("key", ["lr", "hparams.learning_rate"])
def test_a_study_of_another_program_has_edges(config, key):
  """D2, D14: without a config of ours nothing is the bound of a key."""
  mapping = {key: space_lib.Float(1e-4, 1e-2, "log")}
  points = [{key: float(rate)} for rate in np.geomspace(1e-4, 1e-2, 20)]
  study = by_hand.study(mapping, points, np.linspace(0.5, 0.1, 20))
  study.study["config"] = config
  found = _boundary(study)
  assert found.verdict == "warn" and found.evidence["proposed"][1] > 1e-2


def test_a_pair_that_must_agree_is_no_bound():
  """D2: a value that only another key forbids is proposed, with that reason."""
  key = "hparams.warmup_steps"
  mapping = {key: space_lib.Int(0, 100)}
  points = [{key: steps} for steps in range(0, 101, 4)]
  values = np.linspace(0.5, 0.1, len(points))
  study = by_hand.study(mapping, points, values, max_train_steps=100)
  found = _boundary(study)
  assert found.verdict == "warn"
  assert found.evidence["proposed"][1] > 100
  assert "max_train_steps" in found.evidence["refused"]


@pytest.mark.slow
@pytest.mark.parametrize("num", [16, 40, 100])
@pytest.mark.parametrize("num_dims", [1, 2, 3, 4, 5])
def test_no_plain_edge_is_passed(num, num_dims):
  """D2, D14: an optimum beyond an edge of one of 1 to 5 hyperparameters, on any
  scale, is told, or unknown, never ok; healthy studies are left alone, under
  heavy tails, on few examples, with noise that grows with the error."""
  keys = ["learning_rate", "momentum", "weight_decay", "label_smoothing", "rho"]
  domains = [
    space_lib.Float(1e-4, 1e-1, "log"),
    space_lib.Float(0.5, 0.99, "log_one_minus"),
    space_lib.Float(1e-6, 1e-2, "log"),
    space_lib.Float(0.05, 0.2),
    space_lib.Float(0.01, 0.2),
  ]
  mapping = {
    f"hparams.{key}": domain
    for key, domain in zip(keys[:num_dims], domains, strict=False)
  }
  parameters = space_lib.Space(mapping).parameters
  passed, alarms, told, runs = [], 0, 0, 24
  for seed in range(runs):
    rng = np.random.default_rng([seed, num, num_dims])
    units = rng.uniform(size=(num, num_dims))
    at, side = seed % num_dims, (seed // num_dims) % 2
    for faulty in (False, True):
      best = rng.uniform(0.3, 0.7, num_dims)
      if faulty:
        best[at] = 1.3 if side else -0.3
      away = ((units - best) ** 2).sum(axis=1)
      truth = 0.1 * (1 + 2 * away)
      noise = {
        0: 0.01 * rng.standard_normal(num),
        1: 0.01 * rng.standard_t(3, num),
        2: 0.05 * away * rng.standard_normal(num),
        3: 0.0,
      }[seed % 4]
      values = truth * (1 + noise)
      if seed % 4 == 3:
        values = rng.binomial(2000, truth) / 2000
      points = [
        {p.key: p.from_unit(u) for p, u in zip(parameters, row, strict=True)}
        for row in units.tolist()
      ]
      found = checklist.search_space_boundary(
        by_hand.study(mapping, points, values)
      )
      verdicts = [one.verdict for one in found]
      if not faulty:
        alarms += "warn" in verdicts
        continue
      told += verdicts[at] == "warn"
      if verdicts[at] == "ok":
        passed.append(seed)
      if verdicts[at] == "warn" and found[at].evidence["side"] != (
        "high" if side else "low"
      ):
        passed.append(seed)
  assert not passed
  assert alarms <= 0.05 * runs
  assert told >= {16: 0.2, 40: 0.9, 100: 1.0}[num] * runs


def test_names_have_no_edges():
  """D2: a choice of names, or of two numbers, has no boundary."""
  mapping = {
    "dataset.augment": space_lib.Choice(("none", "shift")),
    "model.width": space_lib.Choice((64, 128)),
  }
  points = [
    {"dataset.augment": a, "model.width": w}
    for a, w in itertools.product(("none", "shift"), (64, 128))
  ] * 5
  study = by_hand.study(mapping, points, np.linspace(0.1, 0.2, 20))
  assert checklist.search_space_boundary(study) == []


def test_each_cell_is_judged():
  """D2: an edge of the worse of two optimizers is told, with its name."""
  rates = np.geomspace(1e-4, 1, 30)
  points, values = [], []
  for name, offset in (("momentum", 0.0), ("nesterov", 0.5)):
    for u, rate in zip(np.linspace(0, 1, 30), rates, strict=True):
      points.append({"optimizer": name, "hparams.learning_rate": float(rate)})
      inside, edge = (u - 0.5) ** 2, -0.2 * u
      values.append(offset + 0.3 + (inside if offset == 0 else edge))
  mapping = {
    "optimizer": space_lib.Choice(("momentum", "nesterov"), role="scientific"),
    "hparams.learning_rate": space_lib.Float(1e-4, 1.0, "log"),
  }
  found = _boundary(by_hand.study(mapping, points, values))
  assert found.verdict == "warn"
  assert found.evidence["groups"] == ["optimizer=nesterov"]


# Few trials, none that is feasible, nothing at all.


@pytest.mark.parametrize("num", [0, 1, 2, 9])
def test_few_trials_are_unknown(num):
  """D2, D3: too few trials are told as such, with how many it needs."""
  study = by_hand.line(np.linspace(0.1, 0.2, num))
  found = [_boundary(study), checklist.enough_trials(study)]
  for one, needs in zip(found, (10, 16), strict=True):
    assert one.verdict == "unknown"
    assert one.evidence == {"has": num, "needs": needs}
  for one in checklist.check_study(study):
    json.dumps(one.as_json(), allow_nan=False)


@pytest.mark.parametrize("num", [1, 30])
def test_all_infeasible(num):
  """D4: a study without a feasible trial gives findings, not an error."""
  study = by_hand.line(np.full(num, np.nan), infeasible=range(num))
  found = {f.check: f.verdict for f in checklist.check_study(study)}
  assert found["infeasible_share"] == ("fail" if num > 5 else "unknown")
  assert found["search_space_boundary"] == "unknown"
  assert found["optimization_instability"] == "unknown"


def test_pending_trials_do_not_count():
  """D3: trials that were not run are neither infeasible nor bad."""
  study = by_hand.line(np.linspace(0.1, 0.2, 20))
  pending = [
    dataclasses.replace(t, status="pending", curves={}) for t in study.trials
  ]
  half = dataclasses.replace(study, trials=study.trials[:10] + pending[10:])
  assert checklist.infeasible_share(half).evidence["num_trials"] == 10
  assert len(trials.outcomes(half)) == 10
  rows = trials.isolation(half, "hparams.learning_rate")
  assert sum(row["count"] for row in rows) == 10


# Infeasible regions.


def test_region_of_infeasible_trials():
  """D4: the threshold above which trials diverge is found."""
  study = by_hand.line(np.full(40, 0.1), infeasible=range(20, 40))
  found = checklist.infeasible_share(study)
  assert found.verdict == "warn"
  region = found.evidence["region"]
  assert region["rule"].startswith("hparams.learning_rate > ")
  assert region["value"] == pytest.approx(1e-2)
  assert region["infeasible_inside"] == region["trials_inside"] == 20
  assert "reparameterization" not in found.evidence


def test_region_of_a_choice():
  """D4: one value of a choice can be what does not train."""
  mapping = {
    "model.norm": space_lib.Choice(("none", "layer", "batch")),
    "hparams.learning_rate": space_lib.Float(1e-3, 1.0, "log"),
  }
  rates = 10 ** np.random.default_rng(0).uniform(-3, 0, 30)
  norms = ("none", "layer", "batch") * 10
  points = [
    {"model.norm": norm, "hparams.learning_rate": rate}
    for norm, rate in zip(norms, rates.tolist(), strict=True)
  ]
  study = by_hand.study(mapping, points, [0.1] * 30, infeasible=range(0, 30, 3))
  found = checklist.infeasible_share(study)
  assert found.evidence["region"]["rule"] == "model.norm = none"


def test_reparameterization_is_proposed():
  """D4: what diverges by learning_rate / (1 - momentum) is told so."""
  rng = np.random.default_rng(0)
  rates = 10 ** rng.uniform(-3, 0, 60)
  slowness = 10 ** rng.uniform(-3, -0.1, 60)
  mapping = {
    "hparams.learning_rate": space_lib.Float(1e-3, 1.0, "log"),
    "hparams.momentum": space_lib.Float(0.2, 0.999, "log_one_minus"),
  }
  points = [
    {"hparams.learning_rate": float(r), "hparams.momentum": float(1 - s)}
    for r, s in zip(rates, slowness, strict=True)
  ]
  study = by_hand.study(
    mapping, points, [0.1] * 60, np.flatnonzero(rates / slowness > 1)
  )
  rule = checklist.infeasible_share(study).evidence["reparameterization"][
    "rule"
  ]
  name, _, threshold = rule.rpartition(" > ")
  assert name == "hparams.learning_rate / (1 - hparams.momentum)"
  assert 0.5 < float(threshold) < 2


def test_trials_at_chance_are_infeasible():
  """D4: a trial that ends where guessing does failed, if without NaN."""
  values = np.where(np.arange(40) < 20, 0.1, 0.9)
  found = checklist.infeasible_share(by_hand.line(values))
  assert found.verdict == "warn"
  assert found.evidence["count"] == 20 and found.evidence["diverged"] == 0


# Noise, length, caveats.


def test_noise_is_taken_from_reruns():
  """E1: pooled over reruns of trials, without the selected trial itself."""
  study = by_hand.line(np.linspace(0.1, 0.5, 20))
  assert "10000 examples" in trials.noise(study).source

  def rerun(value):
    curve = {"valid/error_rate": (np.array([100]), np.array([value]))}
    return dataclasses.replace(study.trials[0], curves=curve)

  reruns = {0: [rerun(v) for v in (0.11, 0.12, 0.13)]}
  study = dataclasses.replace(study, reruns=reruns)
  noise = trials.noise(study)
  assert noise.deviation == pytest.approx(0.01) and noise.freedom == 2
  found = checklist.retrain_variance(study)
  assert found.verdict == "ok"
  assert found.evidence["mean"] == pytest.approx(0.12)
  assert found.evidence["in_the_study"] == pytest.approx(0.1)


def test_retrain_variance_without_reruns():
  """E1: unknown without reruns, and the command that makes them."""
  found = checklist.retrain_variance(by_hand.line(np.linspace(0.1, 0.5, 20)))
  assert found.verdict == "unknown"
  path = pathlib.Path("by_hand").absolute()
  assert f"`jaxplay study rerun {path} --trial=0 --seeds=5`" in found.advice


def test_best_steps_of_a_decay_are_late_by_nature():
  """F1: with a decaying rate a late best step is told, but is no fault."""
  decayed = generated.study(0, schedule="linear")
  found = checklist.max_train_steps(decayed)
  assert found.verdict == "unknown" and "twice as long" in found.advice
  assert found.evidence["late_because_rate_decays"]


def _changed(study, change):
  """The study with the curves of every trial changed."""
  trials = [
    dataclasses.replace(t, curves=change(dict(t.curves))) for t in study.trials
  ]
  return dataclasses.replace(study, trials=trials)


@pytest.mark.parametrize("num, told", [(1, False), (9, False), (50, True)])
def test_few_evaluations_do_not_show_the_best_step(num, told):
  """D14, F1: below 10 evaluations of a run, evaluate more often first."""

  def change(curves):
    for name in ("valid/error_rate", "valid/loss"):
      steps, values = curves[name]
      kept = np.linspace(0, len(steps) - 1, num + 1).astype(int)[1:]
      curves[name] = steps[kept], values[kept]
    return curves

  long = generated.faulty(0, "too_short", 1.0, 20)
  config = long.study["config"]
  config = config | {"eval_every": config["max_train_steps"] // num}
  long = dataclasses.replace(long, study=long.study | {"config": config})
  found = checklist.max_train_steps(_changed(long, change))
  assert found.verdict == ("warn" if told else "unknown")
  assert ("eval_every" in found.advice) == (not told)
  findings = checklist.check_study(_changed(long, change))
  steps, _ = refine.next_steps(long.study, findings)
  old = long.study["config"]["max_train_steps"]
  assert steps == (2 * old if told else old)
  text = refine.next_study(_changed(long, change), findings)
  assert ("eval_every" in text) == (not told)


@pytest.mark.parametrize(
  "schedule, verdict",
  [("constant", "warn"), ("cosine", "unknown"), ("a.py:mine", "unknown")],
)
def test_length_by_the_schedule_of_the_config(schedule, verdict):
  """D14, F1, F3: a rate that was not logged is not taken for constant."""

  def change(curves):
    del curves["learning_rate"]
    return curves

  long = _changed(generated.faulty(0, "too_short", 1.0, 20), change)
  config = long.study["config"] | {"schedule": schedule}
  study = dict(long.study, config=config)
  long = dataclasses.replace(long, study=study)
  assert checklist.max_train_steps(long).verdict == verdict
  assert checklist.compute_bound(long).verdict == verdict


def test_a_few_trials_that_can_be_judged_do_not_stand_for_all():
  """D14, D5: those that diverged have an early verdict whatever is logged."""
  study = generated.study(0, 20)
  assert study.infeasible.any()

  def coarse(curves):
    every = slice(9, None, 10)
    return {k: (x[every], y[every]) for k, (x, y) in curves.items()}

  trials = [
    t
    if t.status == "infeasible"
    else dataclasses.replace(t, curves=coarse(t.curves))
    for t in study.trials
  ]
  found = checklist.check_study(dataclasses.replace(study, trials=trials))
  (early,) = [
    f
    for f in found
    if (f.check, f.subject) == ("early_instability", "all trials")
  ]
  assert early.verdict == "unknown"


def test_a_fitted_training_set_is_not_compute_bound():
  """F3: what has fitted its training set needs no more steps."""
  study = generated.faulty(0, "compute_bound", 1.0, 20)
  assert checklist.compute_bound(study).verdict == "warn"
  fitted = [
    dataclasses.replace(
      t,
      curves={
        **t.curves,
        "train/error_rate": (np.array([1, 2]), np.array([0.5, 0.0])),
      },
    )
    for t in study.trials
  ]
  study = dataclasses.replace(study, trials=fitted)
  assert checklist.compute_bound(study).verdict == "ok"


def test_fixed_caveats():
  """C1: fixed numbers that have an effect are listed, others are not."""
  found = checklist.fixed_caveats(generated.study(0, 20))
  fixed = found.evidence["fixed_by_group"][""]
  assert found.verdict == "ok"
  assert "hparams.warmup_steps" in fixed
  assert "hparams.learning_rate" not in fixed  # it is varied
  assert "hparams.beta1" not in fixed  # nesterov has none


def test_a_fixed_learning_rate_is_no_fair_comparison():
  """C1: scientific values compared at one learning rate are warned of."""
  mapping = {"model.depth": space_lib.Choice((1, 2), role="scientific")}
  points = [{"model.depth": d} for d in (1, 2) * 10]
  study = by_hand.study(mapping, points, np.linspace(0.1, 0.2, 20))
  found = checklist.fixed_caveats(study)
  assert found.verdict == "warn"
  assert "model.depth" in found.advice


def test_conditional_caveats():
  """C1, C2: each optimizer is listed with its own fixed numbers."""
  study = generated.study(0, 40, optimizers=("momentum", "adam"))
  fixed = checklist.fixed_caveats(study).evidence["fixed_by_group"]
  assert "hparams.beta1" in fixed["optimizer=adam"]
  assert "hparams.beta1" not in fixed["optimizer=momentum"]


def test_run_checks_name_the_best_trial_of_each_cell():
  """D6: the best trial of each scientific value, and counts over all."""
  study = generated.study(0, 64, optimizers=("momentum", "nesterov"))
  found = [f for f in checklist.check_study(study) if f.check == "overfitting"]
  assert len(found) == 3
  for name in ("momentum", "nesterov"):
    best = next(t for t in study.ranked if t.point["optimizer"] == name)
    subject = f"trial {best.index} (optimizer={name})"
    assert [f.subject for f in found].count(subject) == 1
  assert found[-1].subject == "all trials"
  assert found[-1].evidence["count"] == 0


def test_overfitting_in_other_trials_is_told():
  """D6: selecting the best hides overfitting in the others."""
  study = generated.faulty(0, "overfitting", 0.4, 20)
  best = study.ranked[0]
  healthy = generated.study(0, 20).trials[best.index]
  mixed = [healthy if t.index == best.index else t for t in study.trials]
  study = dataclasses.replace(study, trials=mixed)
  found = [f for f in checklist.check_study(study) if f.check == "overfitting"]
  assert found[-1].verdict == "warn"
  assert best.index not in found[-1].evidence["trials"]


def test_adaptive_trials_are_no_sample_of_the_space():
  """C9, D1: what is asked of the space is answered without adaptive trials,
  which is told; the best trial is the best of all."""
  values = [0.3 + 0.01 * abs(i - 12) for i in range(25)]
  study = by_hand.line(values)
  # A crowd at the upper end, better than all.
  crowd = [
    dataclasses.replace(
      by_hand.line([0.1] * 24).trials[23], index=25 + i, adaptive=True
    )
    for i in range(24)
  ]
  more = dataclasses.replace(study, trials=[*study.trials, *crowd])
  assert more.ranked[0].adaptive and not more.space_filling.num_adaptive
  assert trials.outcomes(more).tolist() == values
  label = study.space.parameters[0].label
  assert trials.isolation(more, label) == trials.isolation(study, label)
  before, after = (
    {f.check: f for f in checklist.check_study(r) if f.subject[:5] != "trial"}
    for r in (study, more)
  )
  for check in ("search_space_boundary", "enough_trials", "infeasible_share"):
    assert after[check].verdict == before[check].verdict
    assert after[check].evidence == (
      before[check].evidence | {"adaptive_left_out": 24}
    )
  best = [f.subject for f in checklist.check_study(more)]
  assert "trial 25" in best


def test_values_are_compared_without_adaptive_trials():
  """C9: no scientific value wins by having been searched harder."""
  mapping = {"optimizer": space_lib.Choice(("adam", "sgd"), role="scientific")}
  points = [{"optimizer": ("adam", "sgd")[i % 2]} for i in range(24)]
  study = by_hand.study(mapping, points, [0.2 + 0.001 * i for i in range(24)])
  found = [
    dataclasses.replace(trial, adaptive=trial.index == 0)
    for trial in study.trials
  ]
  study = dataclasses.replace(study, trials=found)
  each = trials.best_of_each(study)
  assert each["optimizer=adam"].index == 2 and study.ranked[0].index == 0
  subjects = {f.subject for f in checklist.check_study(study)}
  assert "trial 0 (the best, adaptive)" in subjects
