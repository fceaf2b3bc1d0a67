"""The next study file: it loads, and changes what the findings ask for."""

import ast
import copy
import dataclasses
import math

import pytest

from jaxplay import finding, rundir, usercode
from jaxplay.analysis import checklist, refine
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib
from tests.analysis import generated


@pytest.fixture
def next_study(tmp_path):
  """Writes the next study file and reads it as `jaxplay study run` does."""

  def write(results):
    rundir.write_json(tmp_path / "study.json", results.study)
    text = refine.next_study(results, checklist.check_study(results))
    path = tmp_path / "next_study.py"
    path.write_text(text, encoding="utf-8")
    definition, _ = study_lib.load(str(path))
    space = space_lib.Space.from_json(definition["space"])
    return text, definition, {p.label: p for p in space.parameters}

  return write


@pytest.mark.parametrize("fault", [None, *generated.FAULTS])
def test_every_next_study_loads(next_study, fault):
  """D2: whatever the findings, the file is a study that could be run."""
  strength = generated.FAULTS[fault][1][-1] if fault else 0.0
  results = generated.faulty(0, fault, strength, 32)
  text, definition, space = next_study(results)
  assert definition["seed"] == 1
  assert definition["goal"] == results.study["goal"]
  assert set(space) == {p.label for p in results.space.parameters}
  # A comment stands above every line that sets something.
  lines = text.splitlines()
  for i, line in enumerate(lines):
    if line.strip().startswith('"hparams.'):
      assert lines[i - 1].strip().startswith("#")


@pytest.mark.parametrize("seed", range(4))
def test_a_range_moves_where_the_best_are(next_study, seed):
  """D2: the range goes past the edge that the best trials cluster at."""
  results = generated.faulty(seed, "edge", 0.3, 64)
  text, _, space = next_study(results)
  rate = space["hparams.learning_rate"]
  best = results.ranked[0].point["hparams.learning_rate"]
  assert (rate.high > 1.0) if best > 0.01 else (rate.low < 1e-4)
  assert "moved: over 64 trials" in " ".join(text.split())


def test_a_range_narrows_around_the_best(next_study):
  """D2: the good region stays inside, with a margin on both sides."""
  results = generated.study(3, 64)
  text, _, space = next_study(results)
  rate = space["hparams.learning_rate"]
  assert 1e-4 < rate.low < rate.high < 1.0
  assert "narrowed to" in text
  for trial in results.ranked[:5]:
    assert 0.1 < rate.to_unit(trial.point["hparams.learning_rate"]) < 0.9
  # A hyperparameter without effect is not.
  assert space["hparams.weight_decay"].low == 1e-6
  assert space["hparams.weight_decay"].high == 1e-2


def test_an_infeasible_region_is_cut(next_study):
  """D4: the range ends where trials begin to diverge."""
  results = generated.faulty(0, "infeasible", 0.4, 64)
  _, _, space = next_study(results)
  high = space["hparams.learning_rate"].high
  diverged = [
    t.point["hparams.learning_rate"] > high
    for t in results.trials
    if t.status == "infeasible"
  ]
  assert sum(diverged) > 0.8 * len(diverged)


def test_the_edge_of_feasibility_is_kept(next_study):
  """D2: instability is to be fixed before the range is narrowed."""
  results = generated.faulty(0, "edge_of_feasible", 0.3, 64)
  text, _, space = next_study(results)
  assert space["hparams.learning_rate"].high == 1.0
  assert "warmup_steps" in text


@pytest.mark.parametrize(
  "fault, strength, steps",
  [("too_short", 1.0, 20_000), ("too_long", 2.0, 2_000), ("needle", 0.5, None)],
)
def test_the_length_changes_where_asked(next_study, fault, strength, steps):
  """F1: longer, shorter, or as it was, and no key that was not asked for."""
  results = generated.faulty(0, fault, strength, 32)
  _, definition, _ = next_study(results)
  overrides = {"max_train_steps": steps} if steps else {}
  assert definition["overrides"] == overrides


@pytest.mark.parametrize("varied", [False, True])
def test_a_shorter_study_has_room_for_its_warmup(next_study, varied):
  """F1: a warmup keeps its share; a range of them that would not fit, stays."""
  results = generated.faulty(0, "too_long", 2.0, 32)
  total = results.study["config"]["max_train_steps"]
  study, space = copy.deepcopy(results.study), results.space
  if varied:
    warmup = {
      "key": "hparams.warmup_steps",
      **dict(kind="int", low=0, high=total // 2, scale="linear"),
      **dict(role="nuisance", when={}),
    }
    study["space"] = [*study["space"], warmup]
    space = space_lib.Space.from_json(study["space"])
    study["overrides"] = {"max_train_steps": total}
  else:
    study["config"]["hparams"]["warmup_steps"] = total // 2
  results = dataclasses.replace(results, study=study, space=space)
  _, definition, space = next_study(results)
  overrides = definition["overrides"]
  if varied:
    assert definition["config"]["max_train_steps"] == total
    assert space["hparams.warmup_steps"].high == total // 2
  else:
    assert overrides["max_train_steps"] == total // 5
    assert overrides["hparams.warmup_steps"] == total // 10


def test_first_the_space_then_the_length(next_study):
  """F1: while a range moves the steps stay, so that the two studies compare."""
  results = generated.faulty(0, "edge", 0.3, 64)
  asked = finding.Finding(
    "compute_bound", "warn", "valid/loss", {}, "Train longer.", "Playbook"
  )
  findings = [*checklist.check_study(results), asked]
  study = {**results.study, "config_file": "config.py"}
  results = dataclasses.replace(results, study=study)
  assert "max_train_steps" not in refine.next_study(results, findings)
  inside = [f for f in findings if f.check != "search_space_boundary"]
  steps = 2 * study["config"]["max_train_steps"]
  text = refine.next_study(results, inside)
  assert f'"max_train_steps": {steps}' in text


def test_too_few_trials_are_doubled(next_study):
  """D3: twice the trials where too few lay in the good region."""
  for fault, num in ((None, 64), ("needle", 128)):
    results = generated.faulty(0, fault, 0.5, 64)
    assert next_study(results)[1]["num_trials"] == num


def test_conditional_and_scientific_parameters_are_kept(next_study):
  """C2, C3: conditions, roles and scientific values survive."""
  results = generated.study(0, 64, optimizers=("momentum", "nesterov"))
  _, _, space = next_study(results)
  assert space["optimizer"].values == ("momentum", "nesterov")
  assert space["optimizer"].role == "scientific"
  for name in ("momentum", "nesterov"):
    rate = space[f"hparams.learning_rate [optimizer={name}]"]
    assert rate.when == {"optimizer": (name,)}
    assert rate.scale == "log"


def test_a_space_that_would_be_refused_is_kept(next_study):
  """D2: ranges that break a rule of the config together are not proposed."""
  results = generated.faulty(0, "edge", 0.3, 64)
  bad = [
    dataclasses.replace(f, evidence={**f.evidence, "proposed": [1e-4, -1.0]})
    if f.evidence.get("proposed")
    else f
    for f in checklist.check_study(results)
  ]
  text = refine.next_study(results, bad)
  assert "space.Float(0.0001, 1.0" in text
  assert "would be refused" in " ".join(text.split())


def test_names_are_data():
  """D11: quotes, newlines and unicode in a study stay in their strings."""
  goal = "who's \"best\"?\n'''\nimport os # \u2028 \x7f \x9b1A \u202e \\ ü 😀"
  results = generated.study(0, 20)
  study = {**results.study, "goal": goal, "config_file": 'a"b\nimport c'}
  results = dataclasses.replace(results, study=study)
  text = refine.next_study(results, [])
  assert text.replace("\n", "").isprintable()
  tree = ast.parse(text)
  texts = [n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)]
  assert goal in texts and "study.json" in texts
  (imported,) = [n for n in tree.body if isinstance(n, ast.ImportFrom)]
  assert imported.module == "jaxplay.study"


def test_an_empty_study_is_repeated():
  """D2: a study of which nothing was run yet is written as it was."""
  results = generated.study(0, 20)
  pending = [
    dataclasses.replace(t, status="pending", curves={}) for t in results.trials
  ]
  results = dataclasses.replace(results, trials=pending)
  text = refine.next_study(results, checklist.check_study(results))
  assert "narrowed" not in text and "moved" not in text
  assert "overrides={}" in text


def test_exploitation_stays_in_the_space():
  """C9: what is to be narrowed is, what is to be widened stays; the trials that
  lie there are told, diverged ones as inf, and crashed ones never."""
  results = generated.faulty(0, None, 0.0, 64)
  trials = list(results.trials)
  best = results.ranked[0].index
  for index, status in ((best, "failed"), (best + 1, "running")):
    trials[index] = dataclasses.replace(trials[index], status=status)
  results = dataclasses.replace(results, trials=trials)
  findings = checklist.check_study(results)
  space, history = refine.refined(results, findings)
  for old, new in zip(results.space.parameters, space.parameters, strict=True):
    assert (old.label, old.role) == (new.label, new.role)
    assert old.kind == "choice" or old.low <= new.low < new.high <= old.high
  for point, value in history:
    assert value is None or value == value
    assert all(p.holds(point[p.key]) for p in space.active(point))
  points = [space.labelled(point) for point, _ in history]
  assert dict(trials[best].point) not in points
  values = [value for _, value in history]
  told = dict(zip(map(str, points), values, strict=True))
  for trial in results.trials:
    if str(dict(trial.point)) in told:
      value = told[str(dict(trial.point))]
      assert (value == math.inf) == (trial.status == "infeasible")


@pytest.mark.parametrize("seed", range(3))
def test_exploitation_never_widens(seed):
  """C9: the best trials cluster at an edge, and still it is the edge."""
  results = generated.faulty(seed, "edge", 0.3, 64)
  space, history = refine.refined(results, checklist.check_study(results))
  for old, new in zip(results.space.parameters, space.parameters, strict=True):
    assert old.kind == "choice" or old.low <= new.low < new.high <= old.high
  assert len(history) >= 8


def test_adaptive_trials_refine_nothing():
  """C9: the refined space is that of the trials that fill it."""
  results = generated.faulty(0, None, 0.0, 64)
  crowd = [
    dataclasses.replace(results.ranked[0], index=64 + i, adaptive=True)
    for i in range(32)
  ]
  more = dataclasses.replace(results, trials=[*results.trials, *crowd])
  spaces = [
    refine.refined(r, checklist.check_study(r))[0] for r in (results, more)
  ]
  assert spaces[0] == spaces[1]


def test_a_space_is_fixed_only_where_its_edge_is_bad():
  """R3: the wider range, with a reason; else the study's own space."""
  results = generated.faulty(0, "edge", 0.3, 64)
  space, reasons = refine.repaired(results, checklist.check_study(results))
  old = {p.label: p for p in results.space.parameters}
  new = {p.label: p for p in space.parameters}
  changed = [label for label in old if new[label] != old[label]]
  assert "hparams.learning_rate" in changed
  assert len(reasons) == len(changed)
  for reason, label in zip(reasons, changed, strict=True):
    assert reason.startswith(label)
  healthy = generated.study(0, 64)
  assert refine.repaired(healthy, []) == (healthy.space, [])


@pytest.mark.parametrize(
  "check, subject, evidence, factor",
  [
    ("max_train_steps", "x", {"share_best_in_first_tenth": 0.95}, 0.2),
    ("max_train_steps", "x", {"share_best_in_first_tenth": 0.0}, 2),
    ("compute_bound", "x", {}, 2),
    ("saturated_early", "all trials", {}, 0.5),
    ("saturated_early", "trial 3", {}, 1),
  ],
)
@pytest.mark.parametrize("verdict", ["warn", "ok"])
def test_next_steps(check, subject, evidence, factor, verdict):
  """F1-F3: the length follows the checks that warn, and is kept otherwise."""
  study = {"config": {"max_train_steps": 1000}}
  made = finding.Finding(check, verdict, subject, evidence, "", "")
  steps, reason = refine.next_steps(study, [made])
  expected = 1000 * (factor if verdict == "warn" else 1)
  assert steps == expected
  assert (reason == "kept") == (steps == 1000)
  assert refine.next_steps({"config": {"max_train_steps": 1}}, [made])[0] >= 1


def test_a_batch_continues_the_study():
  """C9: points inside the space, after its trials; the same for a seed."""
  pytest.importorskip("optuna")
  results = generated.study(0, 32)
  findings = checklist.check_study(results)
  batches = [
    refine.next_batch(results, findings, num=3, seed=seed) for seed in (1, 1, 2)
  ]
  assert batches[0] == batches[1] != batches[2]
  assert batches[0]["after"] == 32 and len(batches[0]["points"]) == 3
  assert batches[0]["told"] <= 32
  for point in batches[0]["points"]:
    assert all(p.holds(point[p.key]) for p in results.space.active(point))


def test_a_study_from_a_stranger_runs_nothing(tmp_path, monkeypatch):
  """R1: what a study.json names is not loaded, whatever it overrides."""
  (tmp_path / "evil.py").write_text("raise SystemExit('it ran')")
  monkeypatch.chdir(tmp_path)
  results = generated.faulty(0, "edge", 0.3, 64)
  results.study["overrides"]["optimizer"] = "evil.py:f"
  findings = checklist.check_study(results)
  ran = []
  monkeypatch.setattr(usercode, "load", lambda *names: ran.append(names))
  refine.next_study(results, findings)
  refine.repaired(results, findings)
  monkeypatch.setattr(rundir, "is_local", lambda path: False)
  refine.next_study(results, findings)  # It has the overrides, too.
  assert not ran
