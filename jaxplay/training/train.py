"""Trains one config in one run directory, from where it stands to its end."""

import bisect
import collections
import contextlib
import dataclasses
import functools
import importlib.metadata
import itertools
import math
import pathlib
import signal
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

import jaxplay
from jaxplay import config as config_lib
from jaxplay import data, models, rundir, storage
from jaxplay import provenance as provenance_lib
from jaxplay.data import order
from jaxplay.training import (
  checkpoint,
  evaluate,
  feed,
  metrics,
  record,
  schedules,
  sharding,
  step,
  tasks,
)

PREEMPTED = "asked to stop by a signal"
# How often status.json of a running run is brought up to date, at evaluations.
STATUS_SECONDS = 2.0


class Console(Protocol):
  """Where a run shows itself; only host 0's does anything."""

  def tell(self, sentence: str) -> None:
    """Prints a line."""

  def progress(self, done: int, total: int, line: dict[str, Any]) -> None:
    """Shows that `done` of `total` steps are made; `line` is the newest."""


@dataclasses.dataclass(frozen=True)
class Workload:
  """A config made into things: the one place that takes it apart."""

  mesh: Any
  dataset: data.Dataset
  model: Any
  task: Any
  hparams: dict[str, np.generic]  # the traced numbers, with max_train_steps
  state: step.TrainState  # ShapeDtypeStructs with shardings
  init: Any  # jitted: () -> TrainState
  init_state: Any  # (seeds=, hparams=) -> TrainState, traceable
  train_step: Any


def make_workload(
  config: ml_collections.ConfigDict,
  *,
  devices: Sequence[Any] | None = None,
  trials: bool = False,
  unroll: bool = False,
  planned: bool = False,
) -> Workload:
  """Builds mesh, data set, model and step of a checked config.

  Args:
    config: A checked config.
    devices: Instead of all of this job; may be of a topology.
    trials: Whether the devices are groups that train trials of their own.
    unroll: Whether the blocks of a transformer are compiled one by one.
    planned: Whether it is not to be run, and needs no data: a data set of the
      shapes that the config names stands for that of a name.

  Raises:
    jaxplay.UserError: The data set cannot be had, or the mesh is not one of
      these devices.
  """
  devices = jax.devices() if devices is None else devices
  asked = [config.mesh[axis] for axis in config_lib.MESH_AXES]
  if -1 not in asked and not trials:  # Not of all, if whoever calls allows it.
    devices = devices[: math.prod(asked)]
  sizes = config_lib.mesh_sizes(config.mesh, len(devices), trials=trials)
  mesh = sharding.make_mesh(**sizes, devices=devices)
  dataset = _planned_dataset(config) if planned else _same_dataset(config)
  sizes = config.model.to_dict()
  model = models.build(
    sizes.pop("name"),
    dataset.num_classes,
    norm_kind=sizes.pop("norm"),
    unroll=unroll,
    attend=sharding.over_batch(mesh, models.attend),
    constrain=sharding.constrain(mesh),
    **sizes,
  )
  task = tasks.of(dataset)
  hparams = traced(config)

  init_state = functools.partial(
    step.init_state,
    model,
    inputs=task.inputs(
      {
        name: jax.numpy.zeros((1, *shape), dtype)
        for name, (shape, dtype) in dataset.example.items()
      }
    ),
    optimizer=config.optimizer,
    averages=config.averages,
  )

  def init():
    return init_state(seeds=step.stream_seeds(config.seed), hparams=hparams)

  shapes = jax.eval_shape(init)
  shardings = sharding.by_rules(mesh, shapes, config.mesh.rules)
  return Workload(
    mesh=mesh,
    dataset=dataset,
    model=model,
    task=task,
    hparams=hparams,
    state=jax.tree.map(
      lambda leaf, where: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=where
      ),
      shapes,
      shardings,
    ),
    init=jax.jit(init, out_shardings=shardings),
    init_state=init_state,
    train_step=make_train_step(config, model, task),
  )


def make_train_step(config: ml_collections.ConfigDict, model, task):
  """The step that a config names; see `step.make_train_step`."""
  return step.make_train_step(
    model,
    task,
    optimizer=config.optimizer,
    clipping=config.clipping,
    averages=config.averages,
    microbatches=config.microbatches,
    log_every=config.log_every,
  )


def traced(config: ml_collections.ConfigDict) -> dict[str, np.generic]:
  """The numbers that a step takes as an argument, as 32-bit scalars."""
  numbers = dict(config.hparams, max_train_steps=config.max_train_steps)
  return {
    name: np.int32(number) if type(number) is int else np.float32(number)
    for name, number in numbers.items()
  } | schedules.numbers(config.schedule, config.cooldown_shape)


def load_dataset(config: ml_collections.ConfigDict) -> data.Dataset:
  """The data set of a config; of a text without test split only if asked.

  Raises:
    jaxplay.UserError: There is none, or it lacks a split that is needed.
  """
  dataset = config.dataset
  common = dict(
    data_dir=dataset.data_dir,
    splits={
      "train": dataset.train_split,
      "valid": dataset.valid_split,
      "test": dataset.test_split,
    },
  )
  if config.model.name in config_lib.TEXT_MODELS:
    return data.load_text(
      dataset.name,
      sequence_length=dataset.sequence_length,
      tokenizer=dataset.tokenizer,
      vocab_size=dataset.vocab_size,
      valid_files=dataset.valid_files,
      test_files=dataset.test_files,
      mixtures=dataset.mixtures,
      with_test=config.report_test,
      **common,
    )
  return data.load(
    dataset.name,
    image_size=dataset.image_size,
    center_share=dataset.center_share,
    synthetic=dict(
      num_train=dataset.num_train,
      num_valid=dataset.num_valid,
      num_test=dataset.num_test,
      num_classes=dataset.num_classes,
      shape=dataset.shape,
      difficulty=dataset.difficulty,
    ),
    with_test=config.report_test,
    **common,
  )


def _same_dataset(config):
  """The data set, once all hosts have the same."""
  dataset, error = None, None
  try:
    dataset = load_dataset(config)
  except jaxplay.UserError as refused:
    error = refused  # Of all hosts, which wait for this one.
  sharding.same_on_every_host(
    {"config": _shared(config), "dataset": dataset and dataset.facts},
    error=str(error or ""),
  )
  if error:
    raise error
  return dataset


def _shared(config):
  """What all hosts must have alike of a config, nested."""
  nested = config_lib.as_json(config)
  for key in ("data_dir", "workers"):  # Each host may keep its data elsewhere.
    nested["dataset"].pop(key)
  return nested


def check_same_hosts(configs: Sequence[ml_collections.ConfigDict]) -> None:
  """Refuses to begin where the hosts were given different configs."""
  shared = [_shared(config) for config in configs]
  sharding.same_on_every_host({"config": shared if shared[1:] else shared[0]})


def _planned_dataset(config):
  dataset = config.dataset
  if config.model.name in config_lib.TEXT_MODELS:
    return data.planned_text(
      sequence_length=dataset.sequence_length,
      tokenizer=dataset.tokenizer,
      vocab_size=dataset.vocab_size,
    )
  if not dataset.name.startswith("tfds:"):
    return load_dataset(config)
  if not dataset.image_size:
    raise jaxplay.UserError(
      f"config.dataset.name is {dataset.name!r}, whose images are not looked at"
      " in planning; set config.dataset.image_size, and num_classes"
    )
  return data.planned_images(
    image_size=dataset.image_size, num_classes=dataset.num_classes
  )


def make_feed(
  workload: Workload, config: ml_collections.ConfigDict, start_step: int
) -> feed.DeviceFeed | feed.HostFeed:
  """How training examples reach the step, by the size of the split."""
  source = workload.dataset.splits["train"]
  common = dict(
    microbatches=config.microbatches,
    seed=config.seed,
    batch_size=config.batch_size,
    augment=config.dataset.augment,
    augment_pixels=config.dataset.augment_pixels,
    phases=workload.dataset.phases,
  )
  shardings = jax.tree.map(lambda leaf: leaf.sharding, workload.state)
  arguments = (workload.mesh, source, workload.train_step, shardings)
  if feed.fits(source, config.dataset.device_bytes) and not crops(config):
    return feed.DeviceFeed(
      *arguments,
      steps_per_call=config.steps_per_call or steps_per_call(workload),
      **common,
    )
  return feed.HostFeed(
    *arguments,
    start_step=start_step,
    stop_step=config.max_train_steps,
    workers=config.dataset.workers,
    **common,
  )


def crops(config: ml_collections.ConfigDict) -> bool:
  """Whether what is read of an example depends on the step."""
  return config.dataset.augment == "resized_crop"


def steps_per_call(workload: Workload) -> int:
  """The number of steps per dispatch that `config.steps_per_call=0` means.

  Enough to hide the dispatch; but one for convolutions on CPU, whose gradients
  XLA makes slow inside loops (7 times slower, a ResNet-10 step on 2 cores).
  """
  on_cpu = jax.default_backend() == "cpu"
  return 1 if on_cpu and models.convolves(workload.model) else 50


def train(
  config: ml_collections.ConfigDict,
  workdir: str,
  console: Console,
  *,
  extend: bool = False,
  profile: tuple[int, int] | None = None,
) -> dict[str, Any]:
  """Trains until `max_train_steps`, divergence or preemption; resumes.

  Called on every host. A run directory that holds a finished run is left as it
  is, save that its test metrics are added when `config.report_test` asks for
  them.

  Args:
    config: A checked config.
    workdir: The run directory.
    console: Where to show progress.
    extend: Whether the run may have been shorter: where the rate does not
      depend on the length, it goes on as if it had been longer from the start.
    profile: Steps after the first and up to the second of which are traced, by
      the first host, into the folder profile of the run.

  Returns:
    What status.json holds at the end.

  Raises:
    jaxplay.UserError: The request is wrong: another config in this workdir, a
      data set that is not there, lines of metrics that are not there any more.
    jaxplay.StorageError: What is saved cannot be written or read.
  """
  check_same_hosts([config])
  run = rundir.RunDir(workdir)
  with storage.reported(run.path):
    return _train_in(run, config, console, extend, profile)


def _train_in(run, config, console, extend, profile):
  rundir.refuse_other(run.path, "a run")
  run.refuse_remains()
  if extend:
    check_extends(run, config)
  # What cannot begin leaves nothing behind.
  workload = None if run.config() else make_workload(config)
  if jax.process_index() != 0:
    return _train(config, run, console, extend, None, workload)
  run.create()
  with run.lock():
    return _train(config, run, console, extend, profile, workload)


def _train(config, run, console, extend, profile, workload):
  check_same_config(run, config, but="max_train_steps" if extend else "")
  status = run.status()
  done = status.get("status") in rundir.DONE
  if status.get("status") == "completed":
    done = status["step"] >= config.max_train_steps
  wants_test = config.report_test and status.get("status") == "completed"
  if done:
    run.check_metrics()
  if done and (not wants_test or "test" in status):
    console.tell(
      f"{run.path} holds a finished run ({status['status']} at step"
      f" {status['step']}); nothing to do"
    )
    return status
  workload = workload or make_workload(config)
  check_same_data(run, workload.dataset)
  if jax.process_index() == 0:
    if not done:  # Of a shorter run, whose best checkpoint may be another.
      rundir.remove(run.export)
    run.write_config(config_lib.as_json(config))
    run.write_provenance(provenance(workload.dataset))
  checkpoints = checkpoint.Checkpoints(
    run.checkpoints,
    keep_best=config.keep_best,
    is_kept=lambda at: config_lib.is_kept(at, config),
    tell=console.tell,
  )
  tracer = _Tracer(run.path / "profile", profile)
  trainer = _Run(config, workload, run, checkpoints, console, tracer)
  try:
    ended = None if done else trainer.train()
    status = ended or trainer.finish()
  except Exception as error:
    if jax.process_count() == 1:  # Else a host that died is waited for.
      checkpoints.abandon(run.path)
    lost = storage.problem(error, run.path)
    if lost is not None:
      trainer.record.interrupted(lost)
    elif not isinstance(error, jaxplay.UserError):
      trainer.record.failed(error)
    raise
  checkpoints.close()
  return status


def check_extends(
  run: rundir.RunDir, config: ml_collections.ConfigDict
) -> None:
  """Refuses to make longer what depends on its length, or is longer already."""
  earlier, made = run.config(), run.status().get("step", 0)
  if earlier is None:
    raise jaxplay.UserError(
      f"workdir {str(run.path)!r} holds no run that could be extended"
    )
  if config.schedule not in ("constant", "rsqrt"):
    raise jaxplay.UserError(
      f"a run of schedule {config.schedule!r} cannot be extended: its rate"
      " depends on its length; extend a constant run, and branch from it"
    )
  asked = earlier.get("max_train_steps", 0)
  if config.max_train_steps < max(made, asked):
    raise jaxplay.UserError(
      f"--extend_steps={config.max_train_steps} is to be the new number of"
      f" steps in all, and {str(run.path)!r} has made {made} of"
      f" {asked}; use a larger one"
    )


def check_same_data(run: rundir.RunDir, dataset: data.Dataset) -> None:
  """Refuses to go on with a run whose examples or vocabulary have changed."""
  earlier = _by_name((run.provenance() or {}).get("dataset"))
  now = _by_name(dataset.facts)
  for name in earlier.keys() & now.keys():
    for key, what in (
      ("vocab_size", "a vocabulary of {} tokens"),
      ("tokenizer", "tokenizer {:.12}"),
      ("num_classes", "{} classes"),
      ("sha256", "content of hash {:.12}"),
      ("tokens_sha256", "tokens of hash {:.12}"),
    ):
      old, new = earlier[name].get(key), now[name].get(key)
      # What an older version did not write is not compared.
      if old is not None and old != new:
        raise jaxplay.UserError(
          f"dataset {name!r} has {what.format(new)}, and {str(run.path)!r}"
          f" began with {what.format(old)}; restore what it was, or use another"
          " workdir"
        )


def _by_name(facts):
  """Facts of each text of a mixture."""
  if not facts:
    return {}
  return {one["name"]: one for one in (facts, *facts.get("mixture", ()))}


def check_same_config(
  run: rundir.RunDir, config: ml_collections.ConfigDict, but: str = ""
) -> None:
  """Refuses to go on with a run of another config.

  Args:
    run: The run directory.
    config: What is asked for now.
    but: A key that may differ.
  """
  earlier = run.config()
  if earlier is None:
    return
  different = config_lib.differences(earlier, config_lib.as_json(config))
  different.pop(but, None)
  if different:
    raise jaxplay.UserError(
      f"workdir {str(run.path)!r} holds a run of another config:"
      f" {config_lib.changes(different)}; use another workdir"
    )


class _Run:
  """One start of one run: the loop and what it keeps between steps."""

  def __init__(self, config, workload, run, checkpoints, console, tracer):
    self._config, self._workload = config, workload
    self._tracer = tracer
    self._checkpoints, self._console = checkpoints, console
    self.record = record.Record(run, config, workload.dataset.bytes_per_token)
    eval_batch = evaluate.make_eval_batch(workload.model, workload.task)
    self._evaluators = {
      split: self._make_evaluator(split, eval_batch)
      for split in ("valid", *(["test"] if config.report_test else []))
    }
    self._predict = evaluate.make_predict(workload.model, workload.task)
    self._sample, self._predictions = self._make_sample()
    get = lambda state, hparams: step.eval_variables(  # noqa: E731
      state, hparams, config.optimizer, config.weights
    )
    derived = config.averages or config.optimizer == "schedule_free_adamw"
    # Without derived weights there is nothing to compute, nor to copy.
    self._eval_variables = jax.jit(get) if derived else get

  def _make_evaluator(self, split, eval_batch):
    config = self._config
    return feed.make_evaluator(
      self._workload.mesh,
      self._workload.dataset.splits[split],
      eval_batch,
      batch_size=config.eval_batch_size,
      device_bytes=config.dataset.device_bytes,
      workers=config.dataset.workers,
    )

  def _make_sample(self):
    source = self._workload.dataset.splits["valid"]
    sample = prediction_sample(source, self._config.num_predictions)
    if sample is None:
      return None, None
    return sample, feed.make_predictor(
      self._workload.mesh, source, self._predict, sample["index"]
    )

  def train(self):
    """Runs from the newest checkpoint on.

    Returns:
      None at the last step, else the status of a run that ended before it.
    """
    config, workload = self._config, self._workload
    state, start = self._restore()
    self._values = sorted(self.record.values())
    feeder = make_feed(workload, config, start)
    # On the devices once, not at every call.
    hparams = {
      name: sharding.place_everywhere(workload.mesh, np.asarray(number))
      for name, number in workload.hparams.items()
    }
    total = config.max_train_steps

    clock = Clock(start)
    in_flight = collections.deque()
    diverged = None
    at, stop = start, self._next_stop(start, feeder)
    arguments = feeder.arguments(at, stop) if at < total else None
    with Preemption() as preemption:
      while at < total and not preemption.now():
        self._tracer.before(at, state)
        state, tally = feeder.program(hparams, state, *arguments)
        self._tracer.after(stop, state)
        if at == start:
          clock.restart(start)  # Compiling is not training.
        at = stop
        in_flight.append((at, tally))
        # From here on the device is busy: what is next is made ready, and what
        # is behind is looked at.
        if at < total:
          stop = self._next_stop(at, feeder)
          with clock.waiting_for_data():
            arguments = feeder.arguments(at, stop)
        rests_here = rests(at, config)
        while len(in_flight) > (0 if rests_here else 1) and not diverged:
          line, diverged = self._settle(*in_flight.popleft(), clock)
        if diverged:
          return self.record.infeasible(*diverged)
        if rests_here:
          self._rest(at, state, line)
          clock.restart(at)
    if at == total:
      return None
    return self._preempted(at, state, in_flight, clock)

  def _next_stop(self, at, feeder):
    return min(
      feeder.next_stop(at),
      next_stop(at, self._config),
      self._tracer.next_stop(at),
    )

  def _restore(self):
    found = {0: []}  # Step -> lines up to it.

    def fits(at, digests):
      # By an older version, if there are none.
      lines = self.record.lines_until(at, (digests or [None])[0])
      found[at] = lines
      return lines is not None

    try:
      restored = self._checkpoints.restore_newest(self._workload.state, fits)
    except checkpoint.Unfit as error:
      raise jaxplay.UserError(
        f"{str(self.record.run.path / 'metrics.jsonl')!r} is not what it was"
        f" when the checkpoint of step {error.step} was saved: lines are"
        " missing, changed or there twice; restore it from a copy, or use"
        " another workdir"
      ) from None
    origin = (self.record.run.provenance() or {}).get("branch")
    if restored is None and origin:
      raise jaxplay.UserError(
        f"{str(self.record.run.path)!r} is a branch of {origin['run']!r}, and"
        f" no checkpoint in it is intact, not that of step {origin['step']}"
        " either; branch from another step, in another workdir"
      )
    start, state = restored or (0, self._workload.init())
    if restored is not None:
      self._console.tell(f"resuming from the checkpoint of step {start}")
    self.record.resume(start, found[start])
    return state, start

  def _settle(self, at, tally, clock):
    """Waits for a call, and logs it if its last step is a logged one.

    Returns:
      (line, None), or (None, (tally, step, reason)) once training has diverged.
      A line of a step that also rests is left for `_rest` to write.
    """
    config = self._config
    logged = at % config.log_every == 0 or at == config.max_train_steps
    if not logged and not rests(at, config):
      tally["loss"].block_until_ready()  # Bounds how far the host is ahead.
      return None, None
    tally = jax.device_get(tally)
    bad = metrics.diverged(tally)
    if bad:
      return None, (tally, *bad)
    line = {"step": at}
    if logged:
      line |= metrics.train_line(tally)
      line |= clock.rates(at, config.batch_size)
    self.record.step = at
    if not rests(at, config):
      self._write_line(line)
    return line, None

  def _rest(self, at, state, line):
    """Evaluates and checkpoints after step `at`, as far as it is time to."""
    config = self._config
    value = np.nan
    keep = at % config.checkpoint_every == 0 or at == config.max_train_steps
    keep |= config_lib.is_kept(at, config)
    if at % config.eval_every == 0 or at == config.max_train_steps:
      line |= self._evaluate(at, state)
      value = line[config.objective]
      better = bisect.bisect_right(self._values, value)
      if np.isfinite(value):
        keep |= better < config.keep_best
        self._values.insert(better, value)
    if len(line) > 1:
      self._write_line(line)
    if keep:
      self._save(at, state, value)
    if self.record.seconds_since_status() > STATUS_SECONDS:
      self.record.write_status("running")

  def _save(self, at, state, value):
    # A checkpoint promises that all lines up to its step are on the disk.
    self.record.sync()
    self._checkpoints.save(at, state, value, [self.record.digest])

  def _evaluate(self, at, state):
    variables = self._eval_variables(state, self._workload.hparams)
    sums = {
      suffix: self._evaluators["valid"](weights)
      for suffix, weights in variables.items()
    }
    if self._sample is not None:
      predictions = self._predictions(variables[""])
      self.record.write_predictions(at, self._sample, predictions, sums[""])
    return self.record.evaluation(sums)

  def _write_line(self, line):
    self.record.write_line(line)
    self._console.progress(line["step"], self._config.max_train_steps, line)

  def _preempted(self, at, state, in_flight, clock):
    diverged = None
    while in_flight and not diverged:
      _, diverged = self._settle(*in_flight.popleft(), clock)
    if diverged:
      return self.record.infeasible(*diverged)
    self.record.step = at
    self._save(at, state, np.nan)
    self._checkpoints.wait()
    return self.record.write_status("preempted", reason=PREEMPTED)

  def finish(self):
    """Chooses the best checkpoint, exports it, and tests it if asked to."""
    config, record = self._config, self.record
    self._checkpoints.wait()
    record.step = config.max_train_steps
    record.complete()
    best, state = self._best()
    if best is None:  # Every evaluation was NaN: nothing to choose.
      return record.write_status("completed")
    variables = self._eval_variables(state, self._workload.hparams)
    weights = variables[evaluate.suffix(config.objective)]
    extra = {"best": best}
    if config.report_test:
      sums = self._evaluators["test"](weights)
      extra["test"] = record.test(sums, best["step"])
    if config.export and not evaluate.exported(record.run.export):
      weights = sharding.to_host(weights)
      if record.writes:
        program = evaluate.export_forward(
          self._workload.model,
          self._workload.task,
          weights,
          self._workload.dataset.example,
        )
        evaluate.write_export(record.run.export, program, weights)
    return record.write_status("completed", **extra)


  def _best(self):
    """(best line, state): of the checkpoints that are there and intact."""
    while True:
      kept = self._checkpoints.steps()
      lines = [line for line in self.record.lines if line["step"] in kept]
      best = rundir.best_line(lines, self._config.objective)
      if best is None and self.record.best is not None:
        raise jaxplay.StorageError(
          f"no checkpoint in {str(self.record.run.checkpoints)!r} is intact of"
          " those that the best is chosen from; the same command trains what is"
          " missing"
        )
      if best is None:
        return None, None
      state = self._checkpoints.restore_intact(
        best["step"], self._workload.state
      )
      if state is not None:
        return best, state


def next_stop(at: int, config: ml_collections.ConfigDict) -> int:
  """The next step after which there is something to do, such as a line."""
  intervals = (config.log_every, config.eval_every, config.checkpoint_every)
  return min(
    config.max_train_steps,
    config_lib.next_kept(at, config) or config.max_train_steps,
    *((at // every + 1) * every for every in intervals),
  )


def rests(at: int, config: ml_collections.ConfigDict) -> bool:
  """Whether the loop waits for the device after this step."""
  return (
    at == config.max_train_steps
    or at % config.eval_every == 0
    or at % config.checkpoint_every == 0
    or config_lib.is_kept(at, config)
  )


def prediction_sample(
  source: data.Source, number: int
) -> dict[str, np.ndarray] | None:
  """The fixed examples whose predictions are saved: "index", and what is asked.

  They depend on no run's seed, so that runs can be compared example by example.
  """
  number = min(number, source.num_examples)
  if not number:
    return None
  seed = order.stream_seed(0, "predictions")
  index = np.sort(order.batch_indices(seed, 0, number, source.num_examples))
  fetched = source.fetch(index)
  fetched.pop("image", None)
  return {"index": index, **fetched}


class _Tracer:
  """Traces a stretch of steps, if any."""

  def __init__(self, folder, steps):
    self._folder = self._written = folder
    self._steps = steps or (-1, -1)

  def next_stop(self, at):
    """The first of the two ends after `at`."""
    return min((s for s in self._steps if s > at), default=math.inf)

  def before(self, at, state):
    """Begins before the call after step `at`, once all before it is done."""
    if at == self._steps[0]:
      jax.block_until_ready(state)
      if not rundir.is_local(self._folder):  # The profiler writes to disks.
        self._written = pathlib.Path(tempfile.mkdtemp())
      jax.profiler.start_trace(str(self._written), create_perfetto_trace=True)

  def after(self, at, state):
    """Ends after the call up to step `at`, once it is done."""
    if at == self._steps[1] and self._steps[0] >= 0:
      jax.block_until_ready(state)
      # A run that was resumed in between has begun nothing.
      with contextlib.suppress(RuntimeError):
        jax.profiler.stop_trace()
        if self._written != self._folder:
          rundir.copy(self._written, self._folder)
          rundir.remove(self._written)


class Clock:
  """Throughput since the last line, evaluations left out."""

  def __init__(self, at):
    self.restart(at)

  def restart(self, at):
    self._since, self._at, self._waited = time.monotonic(), at, 0.0

  def rates(self, at, batch_size):
    """Steps and examples per second, share of time spent waiting for data."""
    seconds = max(time.monotonic() - self._since, 1e-9)
    rate = (at - self._at) / seconds
    waited = self._waited
    self.restart(at)
    return {
      "steps_per_second": rate,
      "examples_per_second": rate * batch_size,
      "data_wait": min(waited / seconds, 1.0),
    }

  @contextlib.contextmanager
  def waiting_for_data(self):
    """Counts the time inside as waiting."""
    since = time.monotonic()
    yield
    self._waited += time.monotonic() - since


class Preemption:
  """Asks to stop on SIGTERM or Ctrl-C, at the same step on every host.

  One around several runs is asked, too, when the one of a run is: a signal in
  the last steps of a run must not be lost.
  """

  # Of the whole process: what one run agrees on may be met by the next.
  _calls = itertools.count(1)

  def __enter__(self):
    self._asked, self._old = False, {}
    # With several hosts JAX's own SIGTERM handler tells the others.
    if jax.process_count() == 1 and (
      threading.current_thread() is threading.main_thread()
    ):
      for number in (signal.SIGTERM, signal.SIGINT):
        self._old[number] = signal.signal(number, self._ask)
    return self

  def _ask(self, number, frame):
    if self._asked and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._asked = True
    outer = getattr(self._old[number], "__self__", None)
    if isinstance(outer, Preemption):
      outer._asked = True

  def now(self):
    """Whether to stop before the next call."""
    if jax.process_count() == 1:
      return self._asked
    return multihost_utils.reached_preemption_sync_point(next(self._calls))

  def __exit__(self, *unused):
    for number, handler in self._old.items():
      signal.signal(number, handler)


def provenance(dataset: data.Dataset) -> dict[str, Any]:
  """What makes the runs of this process; see `provenance.record`."""
  kinds = collections.Counter(d.device_kind for d in jax.devices())
  text = ", ".join(f"{number} x {kind}" for kind, number in kinds.items())
  names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
  return provenance_lib.record(
    f"{text} on {jax.process_count()} host(s)",
    {name: importlib.metadata.version(name) for name in names},
  ) | ({"dataset": dict(dataset.facts)} if dataset.facts else {})
