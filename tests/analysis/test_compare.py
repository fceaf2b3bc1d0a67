"""Adopt or not, on studies whose truth is known."""

import dataclasses
import json
import pathlib

import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.analysis import compare
from jaxplay.analysis import trials as trials_lib
from jaxplay.study import space as space_lib
from tests.analysis import by_hand, comparisons, generated

STUDY = generated.study(0, 20)


def _side(
  values, reruns=(), objective="valid/error_rate", num_valid=10_000, **config
):
  """A study with these values, and reruns of its best trial."""
  base = config_lib.base()
  base.update(config)

  def trial(index, value):
    curve = {objective: (np.array([100]), np.array([value]))}
    status = "completed" if np.isfinite(value) else "infeasible"
    return dataclasses.replace(
      STUDY.trials[index], curves=curve, status=status, num_valid=num_valid
    )

  best = int(np.argmin(values))
  return dataclasses.replace(
    STUDY,
    objective=objective,
    study={**STUDY.study, "config": config_lib.as_json(base)},
    trials=[trial(i, value) for i, value in enumerate(values)],
    reruns={best: [trial(best, v) for v in reruns]} if len(reruns) else {},
  )


def _flat(level, reruns=(), **more):
  """All trials alike but for the first, so that search does not matter."""
  values = np.full(20, level + 1e-4)
  values[:5] = level
  return _side(values, reruns, **more)


_LOSS = {"objective": "valid/loss"}  # has no noise of examples that is known


RERUNS = 0.1 + 0.002 * np.array([-1.2, -0.6, 0.1, 0.6, 1.1])


@pytest.mark.parametrize(
  "improvement, verdict",
  [
    (0.02, "adopt"),
    (-0.02, "do not adopt"),
    (0.001, "inconclusive"),
    (-0.001, "inconclusive"),
  ],
)
def test_verdict_from_reruns(improvement, verdict):
  """E3: the effect against the retrain variance of both."""
  one = _flat(0.1, RERUNS)
  other = _flat(0.1 - improvement, RERUNS - improvement)
  found = compare.compare(one, other)
  assert found.verdict == verdict
  assert found.improvement == pytest.approx(improvement)
  low, high = found.interval
  assert low < improvement < high
  assert found.baseline.num_reruns == found.candidate.num_reruns == 5
  assert found.baseline.deviation == pytest.approx(np.std(RERUNS, ddof=1))
  json.dumps(found.as_json(), allow_nan=False)


def test_equals_are_rarely_adopted():
  """E3: of equal candidates at most 2.5 % are adopted, as intervals promise."""
  rng = np.random.default_rng(0)
  verdicts = [
    compare.compare(
      _flat(0.1, 0.1 + 0.002 * rng.standard_normal(5), **_LOSS),
      _flat(0.1, 0.1 + 0.004 * rng.standard_normal(4), **_LOSS),
    ).verdict
    for _ in range(300)
  ]
  assert verdicts.count("adopt") <= 13
  assert verdicts.count("do not adopt") <= 13


def test_equal_searches_without_reruns_are_rarely_told_apart():
  """E2, E3: two searches of one space differ by luck alone."""
  rng = np.random.default_rng(0)
  verdicts = []
  for _ in range(200):
    # The best lies in a corner, which few trials come near.
    one, other = (_side(0.1 + 0.03 * np.sqrt(rng.random(20))) for _ in "12")
    verdicts.append(compare.compare(one, other).verdict)
  assert verdicts.count("inconclusive") >= 190


def test_one_search_far_below_another_needs_no_reruns():
  """E3: where the search variance decides, reruns need not."""
  one, other = _flat(0.2), _flat(0.05)
  assert compare.compare(one, other).verdict == "adopt"
  assert compare.compare(other, one).verdict == "do not adopt"


@pytest.mark.parametrize("reruns", [(), RERUNS])
def test_missing_reruns_are_asked_for(reruns):
  """E1: without reruns of both, the advice is the command to run."""
  found = compare.compare(_flat(0.1, reruns), _flat(0.099))
  assert found.verdict == "inconclusive"
  path = pathlib.Path("generated").absolute()
  assert f"jaxplay study rerun {path} --trial=0 --seeds=" in found.advice
  assert "optimistic" in found.caveats[0]


def test_the_seeds_that_would_tell_do_tell():
  """E3: with as many seeds as it asks for, the same numbers decide."""

  def found(improvement, noise):
    return compare.compare(
      _flat(0.1, 0.1 + noise, **_LOSS),
      _flat(0.1 - improvement, 0.1 - improvement + noise, **_LOSS),
    )

  noise = RERUNS - RERUNS.mean()
  first = found(0.002, noise)
  assert first.verdict == "inconclusive"
  num = first.more_seeds
  # As many values with exactly the deviation of the reruns.
  spread = np.linspace(-1, 1, num)
  spread *= np.std(RERUNS, ddof=1) / np.std(spread, ddof=1)
  again = found(0.002, spread)
  assert again.verdict == "adopt" and again.more_seeds is None
  fewer = found(0.0025, noise).more_seeds
  assert fewer is None or fewer < num


def test_seeds_do_not_replace_examples():
  """E5: where the validation set is too small, more seeds are no advice."""
  found = compare.compare(
    *(_flat(mean, RERUNS - 0.1 + mean, num_valid=500) for mean in (0.1, 0.09))
  )
  assert found.verdict == "inconclusive" and found.more_seeds is None
  assert "examples" in found.advice and "--seeds" not in found.advice


def test_no_number_of_seeds_tells_nothing_apart():
  """E3: equal means are told by no number of seeds: keep the simpler."""
  found = compare.compare(_flat(0.1, RERUNS), _flat(0.1, RERUNS))
  assert found.more_seeds is None
  assert "simpler" in found.advice


def test_seeds_matter_to_both_sides():
  """E3: what one side's reruns vary, the other's best value varies, too."""
  spread = 0.1 + 0.02 * np.array([-1.2, -0.6, 0.1, 0.6, 1.1])
  for one, other in (
    (_flat(0.12), _flat(0.1, spread)),
    (_flat(0.12, spread + 0.02), _flat(0.1)),
  ):
    found = compare.compare(one, other)
    assert found.verdict == "inconclusive"
    assert found.baseline.deviation == pytest.approx(found.candidate.deviation)


def test_other_code_is_a_caveat(tmp_path):
  """E3: where the config is the same, what changed may be the code."""
  found = []
  for name, commit in (("a", "1" * 40), ("b", "2" * 40), ("c", "1" * 40)):
    run = rundir.RunDir(tmp_path / name)
    run.create()
    run.write_provenance({"git_commit": commit, "git_diff": ""})
    found.append(dataclasses.replace(_flat(0.1, RERUNS), path=run.path))
  told = [compare.compare(found[0], other).caveats for other in found[1:]]
  assert any("2" * 12 in caveat for caveat in told[0])
  assert not any("1" * 12 in caveat for caveat in told[1])


def test_an_improvement_has_to_be_worth_it():
  """E3: a sure improvement below the least that is worth it is refused."""
  one, other = _flat(0.1, RERUNS), _flat(0.09, RERUNS - 0.01)
  assert compare.compare(one, other).verdict == "adopt"
  assert compare.compare(one, other, smallest=0.02).verdict == "do not adopt"
  assert compare.compare(one, other, smallest=0.011).verdict == "inconclusive"


@pytest.mark.parametrize(
  "key, value", [("max_train_steps", 2000), ("batch_size", 256)]
)
def test_unlike_studies_get_no_verdict(key, value):
  """E3, B7: no verdict across lengths or batch sizes, and why."""
  found = compare.compare(
    _flat(0.2, RERUNS + 0.1), _flat(0.1, RERUNS, **{key: value})
  )
  assert found.verdict == "inconclusive" and found.more_seeds is None
  assert found.caveats[0].startswith(key)
  assert key in found.advice


def test_objectives_must_agree():
  """E3: two objectives are refused with both names."""
  other = dataclasses.replace(_flat(0.1), objective="valid/loss")
  with pytest.raises(jaxplay.UserError, match="valid/error_rate.*valid/loss"):
    compare.compare(_flat(0.1), other)


def test_complexity_is_listed():
  """E3: the config keys that the change touches, with both values."""
  found = compare.compare(
    _flat(0.2, RERUNS + 0.1), _flat(0.1, RERUNS, clipping=True, seed=3)
  )
  assert found.changes == {"clipping": [False, True]}
  assert "clipping" in found.advice


def test_diverged_reruns_are_told():
  """E1: a rerun that diverges has no value, and is a caveat."""
  found = compare.compare(
    _flat(0.1, [*RERUNS, np.inf]), _flat(0.05, RERUNS - 0.05)
  )
  assert found.baseline.diverged == 1 and found.baseline.num_reruns == 5
  assert any("diverged" in caveat for caveat in found.caveats)


def test_search_variance_is_a_caveat():
  """E2: a candidate that another search might not find again is told."""
  lucky = np.full(20, 0.2)
  lucky[3] = 0.09
  found = compare.compare(_flat(0.1, RERUNS), _side(lucky, RERUNS - 0.01))
  assert found.verdict == "adopt"
  assert found.candidate.search_deviation > 0.03
  assert any("another seed" in caveat for caveat in found.caveats)


def _of_optimizers(seed, worse=1.0, **settings):
  """A study of three optimizers that are alike, but for the last."""
  names = ("momentum", "nesterov", "sgd")
  study = generated.study(seed, 96, optimizers=names, **settings)

  def made_worse(trial):
    if trial.point["optimizer"] != names[-1]:
      return trial
    steps, values = trial.curves["valid/error_rate"]
    curve = steps, np.minimum(worse * values, 1.0)
    return dataclasses.replace(
      trial, curves={**trial.curves, "valid/error_rate": curve}
    )

  return dataclasses.replace(
    study,
    trials=[made_worse(trial) for trial in study.trials],
    reruns={
      index: [made_worse(trial) for trial in again]
      for index, again in study.reruns.items()
    },
  )


def test_a_worse_choice_is_told():
  """E3, D10: the best scientific value against each other one."""
  found = compare.choices(_of_optimizers(0, worse=2.0))
  told = {other: comparison.verdict for _, other, comparison in found}
  assert len(found) == 2
  assert told.pop("optimizer=sgd") == "adopt"
  assert set(told.values()) == {"inconclusive"}


def test_equal_choices_are_rarely_told_apart():
  """E3: the best of three was not known before, so that luck is accounted."""
  told = sum(
    any(c.verdict == "adopt" for *_, c in compare.choices(_of_optimizers(seed)))
    for seed in range(40)
  )
  assert told <= 4


@pytest.mark.pods
def test_intervals_of_several_choices_hold_together():
  """E3: of four equal choices the best is "better" by luck in under 5 %.

  With plain 95 % intervals it would be in 17 %.
  """
  names = ("a", "b", "c", "d")
  mapping = {"model.name": space_lib.Choice(names, role="scientific")}
  points = [{"model.name": name} for name in names]
  rng = np.random.default_rng(0)
  told = 0
  for _ in range(400):
    study = by_hand.study(mapping, points, [0.1] * 4)
    reruns = {
      trial.index: [
        dataclasses.replace(
          trial, curves={"valid/error_rate": (np.array([100]), np.array([v]))}
        )
        for v in rng.normal(0.1, 0.01, 5)
      ]
      for trial in study.trials
    }
    found = compare.choices(dataclasses.replace(study, reruns=reruns))
    told += any(c.verdict == "adopt" for *_, c in found)
  assert told <= 0.07 * 400  # 3 % on average


def test_choices_without_a_value_are_left_out():
  """E3: nothing to compare with is nothing to say."""
  assert compare.choices(STUDY) == []
  study = _of_optimizers(0)
  one = dataclasses.replace(
    study,
    trials=[
      trial
      if trial.point["optimizer"] == "sgd"
      else dataclasses.replace(trial, status="infeasible")
      for trial in study.trials
    ],
  )
  assert compare.choices(one) == []
  assert compare.choices(dataclasses.replace(study, trials=[])) == []


def test_batch_sizes_of_one_study_get_no_verdict():
  """B7: at the same steps the larger batch saw more examples."""
  mapping = {"batch_size": space_lib.Choice((64, 128), role="scientific")}
  points = [{"batch_size": size} for size in (64, 128) * 20]
  values = [0.1, 0.2] * 20
  ((best, other, found),) = compare.choices(
    by_hand.study(mapping, points, values)
  )
  assert (best, other) == ("batch_size=64", "batch_size=128")
  assert found.verdict == "inconclusive" and "batch_size" in found.caveats[0]


def test_nothing_to_compare():
  """E3: a study of which nothing completed is refused."""
  with pytest.raises(jaxplay.UserError, match="no trial"):
    compare.compare(_flat(0.1), _side(np.full(20, np.inf)))


def test_runs_are_compared(tmp_path):
  """E3: two runs are two studies of one trial; seeds are asked for."""
  for name, error in (("one", 0.1), ("other", 0.099)):
    run = rundir.RunDir(tmp_path / name)
    run.create()
    config = config_lib.base()
    config_lib.validate(config)
    run.write_config(config_lib.as_json(config))
    run.append_metrics([{"step": 100, "valid/error_rate": error}])
    chance = {"majority_error_rate": 0.9, "num_valid": 300}
    run.write_status("completed", step=100, chance=chance)
  one, other = (compare.read(tmp_path / name) for name in ("one", "other"))
  found = compare.compare(one, other)
  assert found.verdict == "inconclusive"
  assert found.improvement == pytest.approx(0.001)
  assert "--config.seed=" in found.advice
  with pytest.raises(jaxplay.UserError, match="no 'valid/f1'"):
    compare.read(tmp_path / "one", "valid/f1")
  with pytest.raises(jaxplay.UserError, match="no folder"):
    compare.read(tmp_path / "none")


def _firm(comparison):
  return comparison.verdict != "inconclusive"


@pytest.mark.parametrize("reruns", [2, 3, 5])
@pytest.mark.parametrize("are_saved", [True, False])
def test_equal_populations_are_rarely_told_apart(reruns, are_saved):
  """E5: two models of equal error on all examples, evaluated on 500.

  By the noise of 5 seeds alone three of four got a firm verdict.
  """
  rng = np.random.default_rng(0)
  agree = comparisons.agreement(0.5)
  found = [
    comparisons.of_examples(rng, 500, agree, reruns, are_saved)
    for _ in range(100)
  ]
  assert sum(map(_firm, found)) <= 9
  assert found[0].data_deviation > 0.005
  assert found[0].data_from.startswith("paired" if are_saved else "binomial")


@pytest.mark.slow
@pytest.mark.parametrize(
  "num_valid, correlation", [(300, 0.5), (500, 0.0), (500, 0.8), (10_000, 0.5)]
)
def test_paired_intervals_hold(num_valid, correlation):
  """E5: they hold the difference of the errors on the population."""
  rng = np.random.default_rng(1)
  agree = comparisons.agreement(correlation)
  number = 250 if num_valid < 10_000 else 120
  covered = [
    comparisons.covers(comparisons.of_examples(rng, num_valid, agree, reruns))
    for _ in range(number)
    for reruns in (2, 5)
  ]
  assert 0.925 <= np.mean(covered) <= 0.995


def test_one_example_is_no_difference():
  """E5: .1 against .098 is one of 500 examples, however equal the reruns."""
  for reruns in (2, 3):
    one, other = (
      _flat(value, [value] * reruns, num_valid=500) for value in (0.1, 0.098)
    )
    assert not _firm(compare.compare(one, other))
  # The same results of 500 examples, but for one.
  costs = np.zeros((2, 500), np.float32)
  costs[:, :50] = 1
  fewer = costs.copy()
  fewer[:, 0] = 0
  one, other = (
    comparisons.side("x", c.mean(1), "valid/error_rate", 500, c)
    for c in (costs, fewer)
  )
  found = compare.compare(one, other)
  assert not _firm(found) and found.data_from.startswith("paired")


def test_equal_reruns_show_no_variance():
  """E1: of a metric without a noise of examples, equal values say nothing."""
  one, other = (_flat(v, [v] * 3, **_LOSS) for v in (0.1, 0.098))
  found = compare.compare(one, other)
  assert not _firm(found) and "equal values" in found.caveats[0]
  assert "--seeds" in found.advice


@pytest.mark.parametrize("reruns", [3, 5, 10])
def test_skewed_seeds(reruns):
  """E3: a side with rare bad seeds seems better than it is.

  By Welch's test 17 % of the intervals miss the truth.
  """
  rng = np.random.default_rng(0)
  found = [
    comparisons.of_seeds(rng, ("normal", "lognormal"), (0.001, 0.006), reruns)
    for _ in range(400)
  ]
  assert np.mean([comparisons.covers(c) for c in found]) >= 0.905
  assert np.mean([c.verdict == "adopt" for c in found]) <= 0.095


@pytest.mark.parametrize("objective", ["valid/f1", "valid/loss"])
def test_assumed_noise_gives_no_verdict(objective):
  """E1: without reruns nothing is known of the noise of such metrics."""
  one, other = _flat(0.2, objective=objective), _flat(0.6, objective=objective)
  for pair in ((one, other), (other, one)):
    found = compare.compare(*pair)
    assert found.verdict == "inconclusive"
    assert objective in found.caveats[0] and "--seeds=" in found.advice
    assert found.data_deviation is None
    assert any("not included" in caveat for caveat in found.caveats)


def test_intervals_stay_in_bounds():
  """E3: no mean is shown outside the values that the metric can take."""
  rates = [0.0, 0.001, 0.01]
  low, high = trials_lib.rerun_interval(_flat(0.0, rates), 0)[1:]
  assert low == 0 < high < 1
  accuracies = _flat(0.99, [1.0, 0.999, 0.98], objective="valid/accuracy")
  low, high = trials_lib.rerun_interval(accuracies, 0)[1:]
  assert 0 < low < high == 1
  found = compare.compare(_flat(0.5, [0.1, 0.9]), _flat(0.5, [0.9, 0.1]))
  assert found.interval == (-1, 1)
  loss = compare.compare(
    _flat(5.0, [1, 9], **_LOSS), _flat(5.0, [9, 1], **_LOSS)
  )
  assert loss.interval[1] > 10


def test_saved_examples_have_to_be_the_same():
  """E5: of other examples, another evaluation or a part: not paired."""
  rng = np.random.default_rng(0)
  costs = (rng.random((2, 3, 500)) < 0.1).astype(np.float32)

  def found(change):
    one, other = (
      comparisons.side("x", c.mean(1), "valid/error_rate", 500, c)
      for c in costs
    )
    last = other.reruns[0][-1]
    if change is None:
      saved = None
    else:
      saved = dataclasses.replace(last.saved, **change)
    other.reruns[0][-1] = dataclasses.replace(last, saved=saved)
    return compare.compare(one, other)

  assert found({}).data_from.startswith("paired")
  for change in (
    None,
    {"data": "others"},
    {"metric": "valid/loss"},
    {"cost_best": np.ones(500, np.float32)},
    {"cost_best": np.full(9, costs[1, -1].mean())},
    {"weight": np.arange(1, 501, dtype=np.float32)},
  ):
    assert found(change).data_from.startswith("binomial")


def test_examples_are_read_from_the_runs(tmp_path):
  """E5: RUN/examples.npz of both sides; a damaged file is a caveat."""
  rng = np.random.default_rng(0)
  sides = []
  for name in ("one", "other"):
    costs = (rng.random(500) < 0.1).astype(np.float32)
    value = float(costs.mean())
    run = rundir.RunDir(tmp_path / name)
    run.create()
    run.write_examples(
      rundir.Examples(100, costs, 100, costs, None, "valid/error_rate", "d")
    )
    own = _side([value, *[0.9] * 19], num_valid=500)
    best = dataclasses.replace(own.trials[0], path=run.path)
    trials = [best, *own.trials[1:]]
    sides.append(dataclasses.replace(own, trials=trials, path=run.path))
  assert compare.compare(*sides).data_from.startswith("paired")
  (tmp_path / "one" / "examples.npz").write_bytes(b"no archive")
  found = compare.compare(*sides)
  assert found.data_from.startswith("binomial")
  assert any("examples.npz" in caveat for caveat in found.caveats)


def test_more_evaluations_are_more_chances():
  """E3, D15: the best of 20 evaluations against the best of 2 is a caveat."""

  def with_evaluations(number):
    made = _side([0.1] * 20, num_valid=500)
    steps = np.arange(1, number + 1)
    curve = {made.objective: (steps, np.full(number, 0.1))}
    trials = [dataclasses.replace(t, curves=curve) for t in made.trials]
    return dataclasses.replace(made, trials=trials)

  found = compare.compare(with_evaluations(2), with_evaluations(20))
  assert any("20" in caveat and "final:" in caveat for caveat in found.caveats)
  found = compare.compare(with_evaluations(19), with_evaluations(20))
  assert not any("final:" in caveat for caveat in found.caveats)
