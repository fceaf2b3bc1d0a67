"""F7: what twice the steps would gain, under a decaying rate."""

import dataclasses
import json

import numpy as np
import pytest

from jaxplay.analysis import checklist, longer, plots_study
from tests.analysis import generated, published, quadratic, second

SHARES = (np.arange(60) + 1) / 60


def _law(
  schedule,
  power,
  scale,
  exponent=0,
  *,
  shift=0.02,
  peak=0.1,
  stretch=1.0,
  slope=0.2,
):
  """A curve of the law itself, with E = 2, A = 1 and B = `slope`."""
  steps = 4_000
  rates = quadratic.rates_of(schedule, peak, steps) / 0.1
  done = np.cumsum(rates) / steps * stretch
  drops = np.maximum(-np.diff(rates, prepend=0), 0)
  drops[: np.argmax(rates) + 1] = 0
  losses = []
  for share in SHARES:
    at = round(share * steps) - 1
    since = done[at] - done[: at + 1]
    acts = scale * np.maximum(rates[: at + 1], 1e-6) ** exponent
    gained = drops[: at + 1] @ (1 - (1 + since / acts) ** -0.5)
    losses.append(2 + (done[at] + shift) ** -power - slope * gained)
  middles = np.round((np.arange(512) + 0.5) / 512 * steps).astype(int)
  return np.array(losses), 0.1 * rates[middles]


def _runs(curves):
  late = SHARES > longer.SINCE
  return [
    longer.Run(i, SHARES[late], losses[late], rates)
    for i, (losses, rates) in enumerate(curves)
  ]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "linear"])
@pytest.mark.parametrize(
  "numbers", [(0.3, 0.03, 0), (0.9, 0.1, 1), (1.3, 0.01, 1)]
)
def test_curves_of_the_law_are_recovered(schedule, numbers):
  """F7: without noise the gain is exact, for other peaks, too."""
  others = [s for s in ("wsd", "constant", "cosine") if s != schedule]
  curves = [_law(schedule, *numbers)]
  curves += [
    _law(s, *numbers, peak=p) for s, p in zip(others, (0.1, 0.05), strict=False)
  ]
  found = longer.estimate(_runs(curves), 4_000)
  assert not isinstance(found, str)
  twice, _ = _law(schedule, *numbers, stretch=2.0)
  true = 1 - twice[-1] / curves[0][0][-1]
  assert found.held_out < 0.005
  assert found.gain == pytest.approx(true, abs=0.003)
  assert found.interval[0] <= true <= found.interval[1]


def test_a_grid_point_is_not_needed():
  """F7: numbers between those of the grid are covered by the interval."""
  numbers = dict(power=0.55, scale=0.05, shift=0.05)
  curves = [_law(s, **numbers) for s in ("cosine", "wsd", "constant")]
  found = longer.estimate(_runs(curves), 4_000)
  twice, _ = _law("cosine", **numbers, stretch=2.0)
  true = 1 - twice[-1] / curves[0][0][-1]
  assert not isinstance(found, str)
  assert found.interval[0] <= true <= found.interval[1]


def test_the_only_decay_cannot_be_checked():
  """F7: without it, the other trials show nothing of what a decay gains."""
  schedules = ("cosine", "linear", "constant")
  curves = [_law(s, 0.9, 0.01, slope=1.0) for s in schedules]
  assert "held-out" in longer.estimate(_runs(curves), 4_000)


def test_one_schedule_shows_nothing():
  """F7: no other schedule, no estimate, however well the law fits."""
  curves = [_law("cosine", 0.9, 0.1, peak=p) for p in (0.1, 0.05, 0.02)]
  assert "schedule" in longer.estimate(_runs(curves), 4_000)


@pytest.mark.parametrize(
  "shapes",
  [
    ("cosine", "wsd"),
    ("cosine", "exponential"),
    ("late_drop", "step_decay"),
    ("cosine", "wsd", "exponential"),
  ],
)
@pytest.mark.parametrize("begin, end", [(0.9, 0.1), (10.8, 3.3)])
def test_other_curves_are_refused(shapes, begin, end):
  """F7: shapes that do not follow the law miss the held-out schedules."""
  rng = np.random.default_rng(0)
  cells = (np.arange(512) + 0.5) / 512
  for _ in range(10):
    curves = []
    for name in shapes * 3:
      shape, _, schedule = second.SHAPES[name]
      clean = end + (begin - end) * shape(SHARES, rng.random())
      noisy = clean * (1 + 0.003 * rng.normal(size=len(SHARES)))
      curves.append((noisy, second.RATES[schedule](cells)))
    found = longer.estimate(_runs(curves), 1_000)
    assert isinstance(found, str) and "held-out" in found


@pytest.mark.parametrize("noise", [0.001, 0.003, 0.01])
def test_false_alarms_and_coverage_on_a_quadratic(noise):
  """F7: on exact losses of SGD no finished run is warned of."""
  alarms, misses, covered = [], [], []
  for seed in range(10):
    for schedules in (("cosine", "wsd"), tuple(quadratic.SCHEDULES)):
      made, true = quadratic.study(seed + 1_000, schedules, noise)
      found = longer.longer(made)
      if isinstance(found, str):
        continue
      alarms.append(found.helps is True and true < longer.MATTERS)
      misses.append(found.helps is False and true > longer.MATTERS)
      covered.append(found.interval[0] <= true <= found.interval[1])
  assert not sum(alarms) and not sum(misses)
  assert covered and np.mean(covered) >= 0.9


def _first(helps):
  """The first study with that answer."""
  for seed in range(60):
    made, true = quadratic.study(seed, ("constant", "cosine", "wsd"), 1e-3)
    found = longer.longer(made)
    if not isinstance(found, str) and found.helps is helps:
      return made, true, found
  raise AssertionError(helps)


@pytest.mark.parametrize("helps, verdict", [(True, "warn"), (False, "ok")])
def test_the_checks_and_the_page_use_it(helps, verdict):
  """F3, F7: the checks of length decide where a decay left them unknown."""
  made, true, found = _first(helps)
  bound = checklist.compute_bound(made)
  assert bound.verdict == verdict
  low, high = bound.evidence["interval"]
  assert low <= bound.evidence["gain_of_twice_the_steps"] <= high
  json.dumps(bound.as_json())
  best = f"trial {made.ranked[0].index} "
  of_best = [
    f
    for f in checklist.check_study(made)
    if f.check == "still_improving" and f.subject.startswith(best)
  ]
  assert of_best and all(f.verdict in (verdict, "ok") for f in of_best)
  figures = {figure.name: figure for figure in plots_study.figures(made)}
  assert "twice the steps" in figures
  figures["twice the steps"].chart.to_dict()
  assert found.steps == quadratic.STEPS
  assert (true > longer.MATTERS) == helps


def test_too_little_is_unknown():
  """D14, F7: few evaluations, no logged rates, or a rate that rises again."""
  made, *_ = _first(True)

  def changed(change):
    trials = [
      dataclasses.replace(t, curves=dict(t.curves) | change(t))
      for t in made.trials
    ]
    return dataclasses.replace(made, trials=trials)

  def few(trial):
    steps, values = trial.curves["valid/loss"]
    return {"valid/loss": (steps[::4], values[::4])}

  def unlogged(trial):
    return {"learning_rate": (np.zeros(0, np.int64), np.zeros(0))}

  def cyclic(trial):
    steps, rates = trial.curves["learning_rate"]
    return {"learning_rate": (steps, rates * (1 + np.sin(steps / 100) ** 2))}

  for change in (few, unlogged, cyclic):
    study = changed(change)
    assert isinstance(longer.longer(study), str)
    assert checklist.compute_bound(study).verdict != "warn"


@pytest.mark.parametrize("kind", ["cosine", "wsd", "step_decay", "late_drop"])
def test_no_false_alarm_on_healthy_studies_under_decay(kind):
  """D14, F3: finished runs of one schedule are never called compute-bound."""
  for seed in range(3):
    for found in checklist.check_study(second.healthy(seed, kind, 40)):
      if found.check in ("compute_bound", "max_train_steps"):
        assert found.verdict != "warn"
  decayed = generated.study(0, schedule="linear")
  assert isinstance(longer.longer(decayed), str)


def test_published_studies_have_one_schedule_or_none():
  """F7: nothing is claimed where no learning rate was logged."""
  studies = published.studies()
  if not studies:
    pytest.skip("the published trials are not here")
  for path in studies:
    assert isinstance(longer.longer(published.read(path)), str)


def test_a_decay_that_ends_flat_is_not_finished():
  """D14, F3: a loss that follows the sum of the rates is flat at the end."""
  made, _ = quadratic.study(0, ("linear",) * 5, 1e-3)
  steps = made.trials[0].curves["valid/loss"][0]
  left = 1 - steps / quadratic.STEPS
  rng = np.random.default_rng(0)

  def study(clean):
    noisy = clean * (1 + 1e-3 * rng.normal(size=len(steps)))
    curve = dict.fromkeys(("valid/loss", "train/loss"), (steps, noisy))
    trials = [
      dataclasses.replace(t, curves=dict(t.curves) | curve) for t in made.trials
    ]
    return dataclasses.replace(made, trials=trials)

  # Twice the steps would lower it by 47%.
  found = checklist.compute_bound(study(1 / (1.05 - left**2)))
  assert found.verdict == "unknown" and found.evidence["rate_decays"]
  # Flat since the middle.
  finished = study(1 + np.exp(-20 * (1 - left)))
  assert checklist.compute_bound(finished).verdict == "ok"
