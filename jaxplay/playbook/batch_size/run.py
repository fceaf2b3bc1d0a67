"""`plan batch-size`: the largest fast batch size, or the best for a target."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

import jaxplay
from jaxplay import config as config_lib
from jaxplay import formats
from jaxplay.playbook import result as result_lib
from jaxplay.playbook import study_runner
from jaxplay.playbook.batch_size import critical, decide, measure, throughput
from jaxplay.playbook.steps import decide as steps_decide

_RATE = study_runner.LEARNING_RATE
GOAL = "Which batch size trains fastest, and which costs least?"

# The largest size for a topology if the training split is not available.
_LARGEST_PLANNED = 2**20
_SMALLEST = 8
_EVALUATIONS = 50  # of each trial
# A larger batch size never needs more steps if it is well tuned, so its trials
# get the steps of the smaller size, times this factor since seeds differ.
_ROOM = 1.5
# Number of sizes beyond the saturation of throughput that are timed.
_BEYOND = 2
# Passes over all sizes; and maximum number of additional passes, for each call
# of the command, over the sizes whose best two passes differ.
_PASSES, _MORE = 3, 3
_WIDER = 10.0  # factor by which a sweep is extended
_RERUN = 3  # number of learning rates that run with other seeds


def smallest(unit: int) -> int:
  """Returns the first size: the least `unit` * 2^k that is at least 8.

  Args:
    unit: Devices times microbatches; divides every batch size.
  """
  return unit * 2 ** max(0, math.ceil(math.log2(_SMALLEST / unit)))


def retuned(config) -> list[str]:
  """Returns the hyperparameters to re-tune for another batch size (B8)."""
  flat = config_lib.flatten(config)
  return [
    key
    for key in config_lib.RETUNE
    if flat[key] and config_lib.has_effect(key, flat)
  ]


def check(target: steps_decide.Target, config) -> None:
  """Checks that the trials log the metric of the target.

  Raises:
    jaxplay.UserError: They do not.
  """
  config = config.copy_and_resolve_references()
  for key, value in config_lib.without(config, "averages").items():
    config_lib.override(config, key, value)
  known = (*steps_decide.TRAINED, *config_lib.evaluated(config))
  if target.metric not in known:
    raise jaxplay.UserError(
      f"no trial logs {target.metric!r}; expected --target of"
      f" {', '.join(known)}"
    )


def batch_size(
  runner: study_runner.StudyRunner,
  config: ml_collections.ConfigDict,
  *,
  measure: Callable[[Any], Mapping[str, Any]],
  num_devices: int,
  num_train: int | None,
  sizes: Sequence[int] | None = None,
  largest: int | None = None,
  measured: bool = True,
  target: steps_decide.Target | None = None,
  learning_rates: tuple[float, float] = (1e-3, 1.0),
  seeds: int = 3,
  max_train_steps: int = 0,
) -> result_lib.ProcedureResult:
  """Measures feasible sizes; with a target, also the steps to reach it.

  Args:
    runner: Runs the studies.
    config: The base config.
    measure: Returns the fields of `throughput.Speed`, except `batch_size`, of a
      config.
    num_devices: Number of devices that are measured.
    num_train: Number of examples of the training split; None: not known.
    sizes: Batch sizes; None: doubled from a small size.
    largest: The largest size to try; None: `num_train`.
    measured: Whether `measure` measures times, and does not estimate them.
    target: Trains each size to this target; None: does not train.
    learning_rates: Lowest and highest learning rate of each sweep.
    seeds: Number of seeds of the best learning rates of each size.
    max_train_steps: Number of steps of each trial of the smallest size.

  Raises:
    jaxplay.UserError: No size fits, or no trial logs the target's metric.
  """
  speeds, ended = _speeds(
    runner,
    config,
    measure,
    sizes=sizes,
    first=smallest(num_devices * config.microbatches),
    largest=largest,
    num_train=num_train,
    passes=_PASSES if measured else 1,
  )
  fitting = [s for s in speeds if not s.too_large]
  if not fitting:
    raise jaxplay.UserError(
      f"no batch size fits into memory: {speeds[0].batch_size} examples need"
      f" {speeds[0].too_large}; use a smaller model, config.model.remat, or"
      " shard parameters (config.mesh.fsdp)"
    )
  reached = []
  if target is not None:
    # Sizes beyond saturation are not worth training (B3).
    candidates = fitting
    if sizes is None:
      candidates = fitting[: throughput.saturation(fitting) + 1]
    reached = _reach(
      runner,
      config,
      [s.batch_size for s in candidates],
      target=target,
      learning_rates=learning_rates,
      seeds=seeds,
      max_train_steps=max_train_steps,
    )
  return decide.as_result(
    speeds,
    batch_size=config.batch_size,
    eval_batch_size=config.eval_batch_size,
    retuned=retuned(config),
    microbatches=config.microbatches,
    num_devices=num_devices,
    ended=ended,
    measured=measured,
    target=target,
    reached=reached,
  )


def for_topology(
  runner: study_runner.StudyRunner,
  config: ml_collections.ConfigDict,
  topology: Any,
  *,
  largest: int | None = None,
  **options: Any,
) -> result_lib.ProcedureResult:
  """As `batch_size`, but estimates for a `pods.topology.Topology`."""
  num_train = measure.planned_num_train(config, topology)
  if num_train is None and largest is None:
    largest = _LARGEST_PLANNED
  return batch_size(
    runner,
    config,
    measure=measure.for_topology(topology),
    num_devices=len(topology.devices),
    num_train=num_train,
    largest=largest,
    measured=False,
    **options,
  )


def _speeds(runner, config, measure_size, *, passes, **limits):
  """Returns (speed of each size, why there is no larger size).

  Each pass times all sizes, so that other load on the machine does not affect a
  single size. Sizes whose best two passes differ get additional passes.
  """

  def speed(size, number):
    """Returns the best of at least `number` passes."""
    changed = config_lib.with_batch_size(config, size)
    config_lib.validate(changed)
    name = f"speed/{size:07d}"
    while True:
      done = runner.measured(name, throughput.Pass)
      # A size that does not fit into memory is compiled only once.
      if len(done) >= number or (done and done[-1].get("too_large")):
        return throughput.best_of(size, done)
      which = f", pass {len(done) + 1}" if passes > 1 else ""
      runner.log(f"batch size {size}{which}")
      runner.measure(name, lambda: measure_size(changed))

  for number in range(1, passes + 1):
    # The last size depends on the best passes so far.
    speeds, ended = _doubled(lambda size, n=number: speed(size, n), **limits)
  for _ in range(_MORE):
    for timed in speeds:
      if timed.differ > throughput.AGREE:
        name = f"speed/{timed.batch_size:07d}"
        taken = len(runner.measured(name, throughput.Pass))
        speed(timed.batch_size, taken + 1)
    speeds, ended = _doubled(lambda size: speed(size, passes), **limits)
  return speeds, ended


def _doubled(speed, *, sizes, first, largest, num_train):
  """Returns (speed of each size, why there is no larger size)."""
  speeds, refused, ended = [], [], ""
  queue = sorted(set(sizes)) if sizes else None
  size = queue.pop(0) if queue else first
  while True:
    if num_train is not None and size > num_train:
      ended = (
        f"Batch size {size} exceeds the training split of"
        f" {formats.count(num_train, 'example')}."
      )
      break
    if largest is not None and size > largest:
      ended = f"No size larger than {largest} was tried (--largest)."
      break
    try:
      speeds.append(speed(size))
    except jaxplay.UserError as error:
      if sizes:
        raise  # The user named this size.
      refused.append(str(error))
      if speeds or len(refused) > 10:
        ended = f"Larger sizes are invalid: {error}."
        break
    if speeds and speeds[-1].too_large:
      break
    timed = [s for s in speeds if s.loop_seconds > 0]
    if (
      queue is None
      and timed
      and throughput.saturation(timed) < len(timed) - _BEYOND
    ):
      ended = (
        f"Sizes larger than {speeds[-1].batch_size} were not tried, since"
        " throughput no longer grows."
      )
      break
    if queue == []:
      break
    size = queue.pop(0) if queue else 2 * size
  if not speeds:
    raise jaxplay.UserError(
      refused[0] if refused else f"there is no batch size to try: {ended}"
    )
  return speeds, ended


def _reach(
  runner, config, sizes, *, target, learning_rates, seeds, max_train_steps
):
  """Returns the steps to the target of each size, its rate tuned (B5)."""
  reached, budget = [], max_train_steps
  for size in sizes:
    tuned = _reach_at(
      runner,
      config_lib.with_batch_size(config, size),
      target=target,
      rates=study_runner.learning_rates(*learning_rates),
      seeds=seeds,
      budget=budget,
    )
    reached.append(tuned)
    if tuned.is_known:
      budget = min(budget, math.ceil(_ROOM * tuned.mean))
  return reached


def _reach_at(runner, config, *, target, rates, seeds, budget):
  """Returns the steps to the target of one size."""
  size = config.batch_size
  every = max(1, budget // _EVALUATIONS)
  overrides = {
    **config_lib.without(config, "decay", "warmup", "averages"),
    "max_train_steps": budget,
    "log_every": every,
    "eval_every": every,
    "checkpoint_every": budget,
    **study_runner.CURVES_ONLY,
  }

  def sweep(name, rates):
    results = runner.sweep(
      name,
      rates,
      config,
      goal=f"How many steps to {target} does batch size {size} need?",
      overrides=overrides,
    )
    if results.metrics and target.metric not in results.metrics:
      raise jaxplay.UserError(
        f"no trial logged {target.metric!r}; expected --target of"
        f" {', '.join(results.metrics)}"
      )
    return [
      (_rank(target, trial), trial.point[_RATE], name, trial)
      for trial in results.trials
      if trial.status in ("completed", "infeasible")
    ]

  name = f"size_{size:07d}"
  trials = sweep(f"{name}_sweep", rates)
  if edge := _edge(trials):
    # Extended once, by a decade.
    tried = [row[1] for row in trials]
    low, high = {
      "lowest": (min(tried) / _WIDER, min(tried)),
      "highest": (max(tried), max(tried) * _WIDER),
    }[edge]
    wider = study_runner.learning_rates(low, high)
    beyond = [rate for rate in wider if rate not in tried]
    trials += sweep(f"{name}_beyond", beyond)
  tried = [row[1] for row in trials]
  best = [trial.best(target.metric)[0] for *_, trial in trials]
  fastest = sorted(row[:3] + (row[3].index,) for row in trials)[:_RERUN]
  fastest = [row for row in fastest if math.isfinite(row[0][0])]
  reruns = {}
  for study in sorted({row[2] for row in fastest}):
    indices = sorted(row[3] for row in fastest if row[2] == study)
    reruns[study] = runner.rerun(study, indices, seeds).reruns
  return critical.StepsToTarget(
    size,
    # Without the trials themselves, which were selected for few steps.
    tuple(
      critical.RateRuns(
        rate, tuple(_steps(target, run) for run in reruns[study][index])
      )
      for _, rate, study, index in fastest
    ),
    budget,
    every,
    lowest=min(tried),
    highest=max(tried),
    closest=min(best, key=target.cost, default=math.nan),
  )


def _steps(target, trial):
  """Returns the steps to the target; None: it was not reached."""
  if trial.status != "completed":
    return None
  return target.reached(trial.curves)


def _rank(target, trial):
  """Returns a sort key: steps to the target, then the best value."""
  reached = _steps(target, trial)
  return (
    math.inf if reached is None else reached,
    target.cost(trial.best(target.metric)[0]),
  )


def _edge(trials):
  """Returns the edge of the sweep at which the best trial is, if any.

  The best trial need not reach the target. If all higher learning rates
  diverge, the best one is at an edge of stability, not of the range.
  """
  ranks = [row[0] for row in sorted(trials, key=lambda row: row[1])]
  at = ranks.index(min(ranks))
  if math.isinf(ranks[at][1]):
    return ""
  if at == 0:
    return "lowest"
  return "highest" if at == len(ranks) - 1 else ""
