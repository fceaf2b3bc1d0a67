"""Instability, warmup and clipping: the rules, on generated curves."""

import math

import numpy as np
import pytest

from jaxplay import config as config_lib
from jaxplay.playbook import study_runner
from jaxplay.playbook.stability import decide as stability
from jaxplay.playbook.stability import run as procedure

_STEPS = np.arange(1, 101)
_FALL = 2.3 * np.exp(-_STEPS / 30)


def _bump(start, height):
  return height * np.exp(-(((_STEPS - start) / 6) ** 2))


_CURVES = {
  "": _FALL,
  "rises": _FALL + _bump(60, 1.8),
  "above start": _FALL + _bump(10, 4.0),
  "never trains": np.full(100, 2.3),
  "diverged": np.where(_STEPS > 50, np.nan, _FALL),
}


def _run(rate, kind="", value=0.1, **fields):
  loss = _CURVES[kind]
  status = "infeasible" if kind == "diverged" else "completed"
  norms = np.ones(100)
  return stability.Run(rate, status, _STEPS, loss, norms, value=value, **fields)


@pytest.mark.parametrize("kind", _CURVES)
@pytest.mark.parametrize("seed", range(5))
def test_kinds_of_instability(kind, seed):
  """I2: a loss that rises; noise of batches is no instability."""
  noise = 1 + 0.03 * np.random.default_rng(seed).standard_normal(100)
  run = _run(0.1, kind)
  noisy = stability.Run(
    run.rate, run.status, _STEPS, run.loss * noise, run.norms
  )
  assert stability.unstable(noisy) == kind


def test_a_spike_in_nats_is_unstable():
  """D14, I2: 1 nat for 5 of 200 lines, of a loss that falls from 10.8 to 3.3;
  also in the run that is evaluated at every step."""
  at = np.arange(1, 201)
  fall = 3.28 + 6 * np.exp(-at / 7) + 1.5 * np.exp(-at / 50)
  for seed in range(10):
    noise = 1 + 0.01 * np.random.default_rng(seed).standard_normal(200)
    for spike, kind in ((0.0, ""), (1.0, "rises"), (3.0, "rises")):
      loss = fall * noise
      loss[120:125] += spike
      run = stability.Run(0.1, "completed", at, loss, np.ones(200))
      assert stability.unstable(run) == kind
      found = stability.every_step(run, 100)
      assert found.verdict == ("warn" if spike else "ok")


def test_a_check_at_every_step_without_evaluations():
  """D14, I3: nothing was evaluated, so nothing is known."""
  none = np.zeros(0)
  run = stability.Run(0.1, "failed", none, none, none)
  assert stability.every_step(run, 100).verdict == "unknown"


def test_only_up_to_a_step():
  """I4: a run is judged up to a step after its warmup."""
  assert stability.unstable(_run(0.1, "rises"), until=40) == ""
  assert stability.unstable(_run(0.1, "diverged"), until=40) == ""
  assert stability.unstable(_run(0.1, "diverged"), until=60) == "diverged"


def test_instability_above_the_best_rate_is_worth_fixing():
  """I2: an instability just above the best rate, but not far above it."""
  near = [_run(0.01, value=0.3), _run(0.1), _run(1, "rises", 0.5)]
  sweep, finding = stability.judge(near, "valid/error_rate")
  assert (sweep.best, sweep.unstable_rate) == (0.1, 1)
  assert sweep.worth_fixing and finding.verdict == "warn"
  far = [_run(0.1), *(_run(r, value=0.4) for r in (1, 2)), _run(4, "diverged")]
  sweep, finding = stability.judge(far, "valid/error_rate")
  assert sweep.worth_fixing is False and finding.verdict == "ok"


def test_a_sweep_of_a_maximized_metric():
  """I2: the best rate has the largest accuracy; values stay values."""
  accuracy = config_lib.metric.of("valid/accuracy")
  found = []
  for metric, values in (
    (config_lib.metric.of("valid/error_rate"), (0.5, 0.125, 0.25)),
    (accuracy, (0.5, 0.875, 0.75)),
  ):
    kinds = ("", "", "rises")
    runs = [
      _run(rate, kind, value, metric=metric)
      for rate, kind, value in zip((0.01, 0.1, 1), kinds, values, strict=True)
    ]
    sweep, finding = stability.judge(runs, metric.name)
    none = stability.Fix("none", {}, runs)
    better = [_run(1, "", values[1], metric=metric)]
    fix = stability.Fix("clipping", {}, better)
    worse = stability.Fix(
      "clipping", {}, [_run(1, "", values[0], metric=metric)]
    )
    chosen = [stability.decide([none, f], 1)[0].name for f in (fix, worse)]
    assert finding.evidence["best_value"] == values[1]
    assert none.mean == values[1] and none.cost == 0.125
    found.append((sweep.best, sweep.worth_fixing, finding.verdict, chosen))
  assert found[0] == found[1] == (0.1, True, "warn", ["clipping", "none"])


def test_inconclusive_sweeps():
  """I2: no trial above the best rate, or no result at all: `unknown`."""
  top = [_run(0.1, value=0.3), _run(1)]
  sweep, finding = stability.judge(top, "valid/error_rate")
  assert sweep.worth_fixing is None and finding.verdict == "unknown"
  none = [_run(0.1, "diverged", math.nan), _run(1, "diverged", math.nan)]
  sweep, finding = stability.judge(none, "valid/error_rate")
  assert sweep.best is None and finding.verdict == "unknown"


@pytest.mark.parametrize("every, seen", [(1, True), (20, False)])
def test_a_jump_between_evaluations(every, seen):
  """I3: an evaluation at every step detects what the usual ones may miss."""
  loss = _FALL + np.where((_STEPS > 45) & (_STEPS < 55), 2.0, 0.0)
  run = stability.Run(0.2, "completed", _STEPS, loss, np.zeros(0))
  finding = stability.every_step(run, every)
  assert finding.verdict == "warn" and finding.evidence["first_jump"] == 46
  assert finding.evidence["seen_by_usual_evaluations"] == seen
  assert ("every 20 steps" in finding.advice) == (not seen)


def test_warmup_lengths():
  """I4: powers of ten, up to 10% of the steps."""
  assert stability.warmup_lengths(400) == [10, 40]
  assert stability.warmup_lengths(100_000) == [10, 100, 1000, 10_000]
  assert stability.warmup_lengths(7) == [1]


def test_the_shortest_warmup_of_the_highest_rate():
  """I4: the highest stable learning rate, and its shortest warmup."""
  runs = [
    (10, _run(1.0)),
    (30, _run(1.0)),
    (10, _run(3.0, "above start")),
    (20, _run(3.0)),
    (30, _run(3.0)),
    (30, _run(10.0, "above start")),
  ]
  chosen, finding = stability.warmup(runs, 1.0, 1000)
  assert chosen == (3.0, 20) and finding.verdict == "ok"
  chosen, finding = stability.warmup(runs, 1.0, 300)
  assert chosen == (3.0, 20) and "5%" in finding.advice
  chosen, finding = stability.warmup(runs[-1:], 1.0, 300)
  assert chosen is None and finding.verdict == "warn"


@pytest.mark.parametrize("seed", range(5))
def test_the_threshold_clips_a_tenth(seed):
  """I5: at most a tenth of the norms are above the threshold."""
  norms = np.random.default_rng(seed).lognormal(size=2000)
  limit = stability.threshold(norms)
  assert 0.08 <= (norms > limit).mean() <= 0.1
  assert stability.threshold(np.append(norms, np.nan)) == limit


@pytest.mark.parametrize("share, verdict", [(0.5, "ok"), (0.51, "warn")])
def test_clipping_most_updates(share, verdict):
  """I5: over 50%, the advice is a lower learning rate."""
  finding = stability.clipping_share(share, 1.0)
  assert finding.verdict == verdict
  assert ("learning rate" in finding.advice) == (verdict == "warn")


def _fix(name, kind, value, extra=0, clipped=0.0, spread=0.01):
  runs = [_run(0.1, value=0.3), _run(1.0, kind, value, clipped=clipped)]
  values = value + spread * np.array([-1.0, 0.0, 1.0])
  return stability.Fix(name, {name: 1}, runs, extra, values)


@pytest.mark.parametrize(
  "warmup, clipping, expected",
  [
    # Both are stable, and equal within their spread: the cheaper one.
    (("", 0.10, 40), ("", 0.105, 0), "clipping"),
    (("", 0.10, 40), ("", 0.20, 0), "warmup"),
    (("", 0.10, 40), ("rises", 0.05, 0), "warmup"),
    (("", 0.10, 40), ("", 0.05, 0, 0.8), "warmup"),
    (("rises", 0.10, 40), ("rises", 0.1, 0), "none"),
    (("", 0.50, 40), ("", 0.5, 0), "none"),
  ],
)
def test_the_fix_with_the_smallest_cost(warmup, clipping, expected):
  """I4, I5: it is stable, not worse than no fix, and has the smallest cost."""
  none = _fix("none", "rises", 0.3)
  fixes = [none, _fix("warmup", *warmup), _fix("clipping", *clipping)]
  chosen, finding = stability.decide(fixes, 1.0)
  assert chosen.name == expected
  assert finding.verdict == ("warn" if expected == "none" else "ok")


@pytest.mark.parametrize(
  "alone, both, verdict, better",
  [
    (("", 0.2), ("", 0.1), "warn", True),
    (("", 0.11), ("", 0.1), "ok", False),
    (("", 0.1), ("", 0.2), "ok", False),
    # Only both are stable; only one is.
    (("rises", 0.2), ("", 0.3), "warn", True),
    (("", 0.2), ("rises", 0.1), "ok", False),
    # Clipping most updates is no fix.
    (("", 0.2, 0, 0.9), ("", 0.3), "warn", True),
  ],
)
def test_both_fixes_together(alone, both, verdict, better):
  """I7: better than either by two standard errors, or the only stable ones."""
  fixes = [_fix("clipping", *alone), _fix("warmup", "rises", 0.2, 40)]
  found = stability.together(fixes, _fix("warmup and clipping", *both), 1.0)
  assert (found.verdict, found.evidence["better"]) == (verdict, better)
  without_seeds = [
    stability.Fix(name, {}, [_run(1.0)]) for name in ("clipping", "both")
  ]
  found = stability.together(without_seeds[:1], without_seeds[1], 1.0)
  assert found.verdict == "unknown" and found.evidence["better"] is None
  crashed = stability.Fix("both", {}, [])
  assert stability.together(fixes, crashed, 1.0).verdict == "unknown"


def test_the_fix_with_fewer_settings():
  """I7: both together are chosen only if they are better than a warmup."""
  none = _fix("none", "rises", 0.3)
  warmup = _fix("warmup", "", 0.10, 40)
  for value, expected in ((0.095, "warmup"), (0.05, "warmup and clipping")):
    both = stability.Fix(
      "warmup and clipping",
      {"warmup": 1, "clipping": 1},
      [_run(1.0, "", value)],
      40,
      value + 0.01 * np.array([-1.0, 0.0, 1.0]),
    )
    chosen, _ = stability.decide([none, warmup, both], 1.0)
    assert chosen.name == expected


_UNSTABLE = 0.32  # the lowest unstable learning rate of the sweep


def _train(directory, jobs):
  """Writes run directories; with clipping, the unstable rate crashes."""
  for job in jobs:
    rate = job.config.hparams.learning_rate
    crashes = job.config.clipping and rate == _UNSTABLE
    job.run.create()
    job.run.write_config(config_lib.as_json(job.config))
    if crashes:
      job.failed("out of memory", failures=1)
      continue
    loss = _CURVES["above start" if rate >= _UNSTABLE else ""]
    lines = [
      {"step": int(step), "train/loss": x, "train/grad_norm": 1.0}
      for step, x in zip(_STEPS, loss.tolist(), strict=True)
    ]
    value = abs(math.log(rate / 0.2))
    lines[-1] |= {"valid/loss": loss[-1], "valid/error_rate": value}
    job.run.append_metrics(lines)
    job.run.write_status("completed", step=100, final=lines[-1])


def test_a_crashed_trial(tmp_path):
  """I5, reliability: without its trial, a fix is `unknown`."""
  runner = study_runner.StudyRunner(tmp_path, train=_train, log=lambda _: None)
  config = config_lib.base()
  config_lib.validate(config)
  result = procedure.stability(
    runner, config, learning_rates=(0.01, 10.0), seeds=2
  )
  findings = {finding.check: finding for finding in result.findings}
  assert findings["clipping"].verdict == "unknown"
  assert findings["fix_of_instability"].verdict == "unknown"
  assert findings["warmup_and_clipping"].verdict == "unknown"
  assert "clipping" in result.summary[0] and "crashed" in result.summary[0]
