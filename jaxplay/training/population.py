"""Trains many trials in one program: a population.

Trials of one static config differ only in `hparams` and seed, which a step
takes as arguments, so they share one compilation. The axis of trials is laid
over all devices of all hosts, in groups of as many devices as the config's mesh
asks for: one, unless it says otherwise. No group waits for another. A trial
leaves the run directory that it would have left alone.
"""

import functools
import math
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir, storage
from jaxplay.training import (
  checkpoint,
  evaluate,
  feed,
  metrics,
  record,
  sharding,
  step,
  train,
)

# Each trial holds a file open, its lock.
_MAX_TRIALS = 512
# Share of the memory of a device that a population may take.
_MEMORY_SHARE = 0.8


class Group:
  """Trials of one static config: one compilation, some populations."""

  def __init__(
    self,
    configs: Sequence[ml_collections.ConfigDict],
    tell: Callable[[str], None],
    device_bytes: float | None = None,
    mode: str | None = None,
  ):
    """Compiles for as many of the trials as fit into memory together.

    Args:
        configs: One for each trial, equal but for what a step takes as an
        argument: `hparams`, `seed`, and which schedule it is.
      tell: Called with a sentence on how many fit.
      device_bytes: Memory to use on each device; None: most of it.
      mode: How a device goes through its trials: all "together" (`vmap`),
        "looped", one after the other in a compiled loop, or "called", a call
        for each step of each; None: what its kind is good at.

    Raises:
      jaxplay.UserError: The training split does not fit on a device.
    """
    train.check_same_hosts(configs)
    config = self.config = configs[0]
    self.tell = tell
    config_lib.validate(config, jax.device_count(), trials=True)
    self.workload = train.make_workload(config, trials=True)
    self.mesh = self.workload.mesh
    self._groups = self.mesh.shape["trial"]
    splits = self.workload.dataset.splits
    if not feed.fits(splits["train"], config.dataset.device_bytes):
      raise jaxplay.UserError(
        "a population needs its training examples on the device, and"
        f" {splits['train'].nbytes:,} bytes are more than"
        f" config.dataset.device_bytes={config.dataset.device_bytes:,}; raise"
        " it, or use --runner=processes"
      )
    if train.crops(config):
      raise jaxplay.UserError(
        "a population needs its training examples on the device, and"
        " config.dataset.augment='resized_crop' reads them anew in each step;"
        " use --runner=processes"
      )
    self._same_order = len({c.seed for c in configs}) == 1
    self._mode = mode or self._choose_mode()
    self.chunk_steps = config.steps_per_call
    if self._mode == "called" or not self.chunk_steps:
      self.chunk_steps = feed.CHUNK_STEPS
    self.arrays = feed.on_device(self.mesh, splits["train"])
    self.sample = train.prediction_sample(
      splits["valid"], config.num_predictions
    )
    self._exported = None
    self._choose_size(len(configs), device_bytes, tell)

  def _choose_mode(self):
    if jax.default_backend() != "cpu":
      return "together"
    # A core has nothing to gain from many small matrices at once; and what XLA
    # makes slow in a loop is called.
    steps = self.config.steps_per_call or train.steps_per_call(self.workload)
    return "called" if steps == 1 else "looped"

  def _choose_size(self, num, device_bytes, tell):
    """Sets `size`, the trials of a population, and compiles for it."""
    groups = self._groups
    limit = device_bytes or _memory() * _MEMORY_SHARE
    most = _MAX_TRIALS
    while True:
      populations = -(-num // most)
      self.size = -(-num // (populations * groups)) * groups
      self.state = self._state_like()
      try:
        self._program = self._compile()
        needed = self._needed_bytes()
      except jax.errors.JaxRuntimeError as error:
        smallest = self.size == groups
        if smallest or "RESOURCE_EXHAUSTED" not in str(error):
          raise
        needed = 2 * limit
      needed, least = _agreed(needed), -_agreed(-limit)
      if needed <= least or self.size == groups:
        break
      most = int(self.size * least / needed) // groups * groups or groups
    tell(
      f"{num} trials in {populations} population(s) of {self.size} on"
      f" {self._devices_told()}, {needed / 1e9:.2g} GB of"
      f" {least / 1e9:.2g} GB each"
    )

  def _devices_told(self):
    each = self.mesh.size // self._groups
    if each == 1:
      return f"{self._groups} device(s)"
    return f"{self._groups} group(s) of {each} devices"

  def _needed_bytes(self):
    """Of one device, for states, the best states, and the computation."""
    memory = self._program.memory_analysis()
    best = sum(
      leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
      for leaf in jax.tree.leaves(self.state)
    )
    return best + (
      memory.argument_size_in_bytes
      + memory.output_size_in_bytes
      + memory.temp_size_in_bytes
      - memory.alias_size_in_bytes
    )

  def _state_like(self):
    """The states of a population, as ShapeDtypeStructs."""
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        (self.size, *leaf.shape),
        leaf.dtype,
        sharding=sharding.trials(self.mesh, leaf.sharding),
      ),
      self.workload.state,
    )

  @property
  def _where(self):
    """The shardings of the states."""
    return jax.tree.map(lambda leaf: leaf.sharding, self.state)

  def _compile(self):
    run_steps = step.make_run_steps(
      self.workload.train_step,
      one_by_one=self._mode == "called",
      # All at once, one that stops would cost the others a selection.
      until_diverged=self._mode == "looped",
    )

    def one(trial, shared):
      hparams, state, own = trial
      arrays, examples, begin, end = shared
      return run_steps(hparams, state, arrays, examples | own, begin, end)

    def of_device(trials, shared):
      place, *shared = shared
      if self._mode == "together":
        return jax.vmap(one, in_axes=(0, None))(trials, shared)
      if self._mode == "looped":
        return jax.lax.map(lambda trial: one(trial, shared), trials)
      state, tally = one(_at(trials, place), shared)
      states = jax.tree.map(
        lambda leaves, leaf: leaves.at[place].set(leaf), trials[1], state
      )
      return states, jax.tree.map(lambda leaf: leaf[None], tally)

    def train_population(hparams, states, own, shared):
      return sharding.over_trials(self.mesh, of_device)(
        (hparams, states, own), shared
      )

    own, examples = self.examples([self.config.seed], 0)
    shared = (np.int32(0), self.arrays, examples, np.int32(0), np.int32(1))
    arguments = (self.hparams([self.config]), self.state, own, shared)
    program = jax.jit(
      train_population,
      donate_argnums=1,
      out_shardings=(self._where, sharding.trials(self.mesh)),
    )
    return program.lower(*arguments).compile()

  def close(self):
    """Frees its programs; it is of no use any more.

    The functions of its own that it jits hold it, through an object that the
    garbage collector does not see. A program on a CPU is some hundred mappings
    of memory, of which a process may have 65,530: a study of a hundred batches
    of suggestions would crash.
    """
    self.__dict__.clear()

  def hparams(self, configs):
    """The traced numbers of trials, name -> [size], on the devices."""
    return self._stacked([train.traced(config) for config in configs])

  def init(self, configs, hparams):
    """The states before the first step."""
    seeds = self._stacked([step.stream_seeds(c.seed) for c in configs])
    return self._init((hparams, seeds), ())

  def _stacked(self, of_trials):
    """A dict for each trial -> name -> [size, ...], on the devices."""
    # Who stands in for the trials that a population lacks is never looked at.
    of_trials = of_trials + of_trials[-1:] * (self.size - len(of_trials))
    return {
      name: sharding.place_trials(
        self.mesh, np.stack([numbers[name] for numbers in of_trials])
      )
      for name in of_trials[0]
    }

  def examples(self, seeds, begin):
    """What the steps of a chunk are made of: (of each trial, of all)."""
    config = self.config

    @functools.cache
    def of_seed(seed):
      return feed.examples(
        begin,
        self.chunk_steps,
        microbatches=config.microbatches,
        seed=seed,
        batch_size=config.batch_size,
        num_examples=self.workload.dataset.splits["train"].num_examples,
        augment=config.dataset.augment,
        augment_pixels=config.dataset.augment_pixels,
        phases=self.workload.dataset.phases,
      )

    if not self._same_order:
      return self._stacked([of_seed(seed) for seed in seeds]), {}
    return {}, {
      name: sharding.place_everywhere(self.mesh, array)
      for name, array in of_seed(seeds[0]).items()
    }

  @functools.cached_property
  def _init(self):
    return self._over_trials(
      lambda trial, _: self.workload.init_state(
        hparams=trial[0], seeds=trial[1]
      ),
      self._where,
    )

  def packed_like(self, num):
    """What `packed` returns, as ShapeDtypeStructs."""
    where = sharding.replicated(self.mesh)
    if num == self.size:
      return self.state
    return jax.tree.map(
      lambda leaf: jax.ShapeDtypeStruct(
        (num, *leaf.shape[1:]), leaf.dtype, sharding=where
      ),
      self.state,
    )

  def packed(self, states, num):
    """States as they are saved, for any number of devices: without padding."""
    if num == self.size:
      return states
    return jax.jit(
      lambda states: jax.tree.map(lambda leaf: leaf[:num], states),
      out_shardings=sharding.replicated(self.mesh),
    )(states)

  def unpacked(self, states):
    """States as they are computed with, from `packed` ones."""
    pad = self.size - jax.tree.leaves(states)[0].shape[0]
    if not pad:
      return states
    return jax.jit(
      lambda states: jax.tree.map(
        lambda leaf: jax.numpy.concatenate([leaf, leaf[-1:].repeat(pad, 0)]),
        states,
      ),
      out_shardings=self._where,
    )(states)

  def _over_trials(self, function, where=None):
    """Jits `function(trial, shared)` over the trials of a population."""
    if self._mode == "together":
      of_device = jax.vmap(function, in_axes=(0, None))
    else:

      def of_device(trials, shared):
        return jax.lax.map(lambda trial: function(trial, shared), trials)

    return jax.jit(
      sharding.over_trials(self.mesh, of_device), out_shardings=where
    )

  def run_steps(self, hparams, states, examples, begin, end, live):
    """Runs steps [begin, end) of a chunk.

    Args:
      hparams: From `hparams`.
      states: Donated.
      examples: From `examples`.
      begin: First step, counted from the chunk's.
      end: Step before which to stop.
      live: Which trials matter, bool [size].

    Returns:
      (states, tallies), with a leading dimension of trials.
    """
    own, shared = examples[0], (self.arrays, examples[1])
    if self._mode != "called":
      steps = (np.int32(begin), np.int32(end))
      return self._program(hparams, states, own, (np.int32(0), *shared, *steps))
    # The i-th trial of each device in turn, if one of these is alive.
    for i in np.flatnonzero(live.reshape(self._groups, -1).any(axis=0)):
      for at in range(begin, end):
        steps = (np.int32(at), np.int32(at + 1))
        states, _ = self._program(
          hparams, states, own, (np.int32(i), *shared, *steps)
        )
    return states, states.tally

  def evaluate(self, split, hparams, states):
    """Sums over a split: suffix -> name -> numpy [size, ...]."""
    batches = self._eval_feed(split)
    return feed.total(self._sums((hparams, states), b) for b in batches)

  @functools.cache  # noqa: B019
  def _eval_feed(self, split):
    return feed.EvalFeed(
      self.mesh,
      self.workload.dataset.splits[split],
      batch_size=self.config.eval_batch_size,
      device_bytes=self.config.dataset.device_bytes,
      workers=self.config.dataset.workers,
      split=False,
    )

  @functools.cached_property
  def _sums(self):
    workload = self.workload
    eval_batch = evaluate.make_eval_batch(workload.model, workload.task)

    def one(trial, batch):
      batch = feed.gathered(batch)
      return {
        suffix: eval_batch(variables, batch)
        for suffix, variables in self.variables(*trial).items()
      }

    return self._over_trials(one)

  def predictions(self, hparams, states):
    """Of the sample: name -> numpy [size, examples, ...]."""
    batch = self.workload.dataset.splits["valid"].fetch(self.sample["index"])
    return sharding.to_host(self._predictions((hparams, states), batch))

  @functools.cached_property
  def _predictions(self):
    predict = evaluate.make_predict(self.workload.model, self.workload.task)
    return self._over_trials(
      lambda trial, batch: predict(self.variables(*trial)[""], batch)
    )

  def variables(self, hparams, state):
    """What to evaluate of one trial; see `step.eval_variables`."""
    return step.eval_variables(
      state, hparams, self.config.optimizer, self.config.weights
    )

  @functools.cached_property
  def choose(self):
    """(mask [size], new, old) -> states: new where the mask is set."""

    def one(trial, _):
      mask, new, old = trial
      return jax.tree.map(lambda n, o: jax.numpy.where(mask, n, o), new, old)

    def program(mask, new, old):
      of_device = jax.vmap(one, in_axes=(0, None))
      return sharding.over_trials(self.mesh, of_device)((mask, new, old), ())

    return jax.jit(program, donate_argnums=2, out_shardings=self._where)

  @functools.cached_property
  def take(self):
    """(tree, place) -> one trial of the tree, on every device."""
    return jax.jit(_at, out_shardings=sharding.replicated(self.mesh))

  @functools.cached_property
  def evaluated(self):
    """(hparams, state) of one trial -> suffix -> variables; jitted."""
    return jax.jit(self.variables)

  def export(self, variables):
    """The forward function, the same for all trials; see `evaluate`."""
    if self._exported is None:
      self._exported = evaluate.export_forward(
        self.workload.model,
        self.workload.task,
        variables,
        self.workload.dataset.example,
      )
    return self._exported

  def train(
    self,
    configs: Sequence[ml_collections.ConfigDict],
    runs: Sequence[rundir.RunDir],
    folder: pathlib.Path,
    progress: Callable[[dict[int, dict[str, Any]]], None],
  ) -> bool:
    """Trains a population to its end; goes on where it was stopped.

    Args:
      configs: Of at most `size` trials.
      runs: Their run directories, locked. Trials that are done are left alone.
      folder: Where the population keeps its checkpoints meanwhile.
      progress: Called with places in `runs` -> what is known of their status.

    Returns:
      Whether it came to its end; False: a signal asked it to stop.
    """
    return _Population(self, configs, runs, folder, progress).train()


class _Population:
  """One start of one population: the loop and what it keeps between steps."""

  def __init__(self, group, configs, runs, folder, progress):
    self._group, self._configs, self._progress = group, configs, progress
    self._config = group.config
    self._records = [
      record.Record(run, config, group.workload.dataset.bytes_per_token)
      for run, config in zip(runs, configs, strict=True)
    ]
    self._seeds = [config.seed for config in configs]
    self._live = np.zeros(group.size, bool)
    self._live[: len(runs)] = [
      run.status().get("status") not in rundir.DONE for run in runs
    ]
    self._hparams = group.hparams(configs)
    self._folder, self._tell_user = folder, group.tell
    self._checkpoints = checkpoint.Checkpoints(
      folder, keep_best=0, tell=group.tell
    )

  def train(self):
    for i in self._alive():
      train.check_same_config(self._records[i].run, self._configs[i])
      train.check_same_data(self._records[i].run, self._group.workload.dataset)
    self._write_beginnings()
    try:
      went_on = self._train()
      self._checkpoints.close()
      return went_on
    except Exception as error:
      self._stopped_by(error)
      raise

  def _stopped_by(self, error):
    # The population is in a folder of the study.
    study = self._folder.parents[2]
    if jax.process_count() == 1:  # Else a host that died is waited for.
      self._checkpoints.abandon(study)
    lost = storage.problem(error, study)
    for i in self._alive():
      if lost is not None:
        self._records[i].interrupted(lost)
      elif not isinstance(error, jaxplay.UserError):
        self._records[i].failed(error)

  def _alive(self):
    return np.flatnonzero(self._live)

  def _write_beginnings(self):
    if jax.process_index() != 0:
      return
    provenance = train.provenance(self._group.workload.dataset)
    for i in self._alive():
      run = self._records[i].run
      run.write_config(config_lib.as_json(self._configs[i]))
      run.write_provenance(provenance)

  def _train(self):
    config, group = self._config, self._group
    at = self._restore()
    total, chunk = config.max_train_steps, None
    clock = train.Clock(at)
    with train.Preemption() as preemption:
      while at < total and self._live.any():
        if preemption.now():
          return self._preempted(at)
        begin = at // group.chunk_steps * group.chunk_steps
        if chunk != begin:
          examples, chunk = group.examples(self._seeds, begin), begin
        stop = min(train.next_stop(at, config), begin + group.chunk_steps)
        self._states, tally = group.run_steps(
          self._hparams,
          self._states,
          examples,
          at - begin,
          stop - begin,
          self._live,
        )
        if stop == begin + group.chunk_steps and stop < total:
          # While the devices are busy.
          examples, chunk = group.examples(self._seeds, stop), stop
        at = stop
        logged = at % config.log_every == 0 or at == total
        if logged or train.rests(at, config):
          self._settle(at, sharding.to_host(tally), logged, clock)
        if train.rests(at, config):
          clock.restart(at)
      for i in self._alive():
        if preemption.now():
          return self._preempted(at)
        self._finish(i)
      # Where nothing is left to be saved, the next population must not begin.
      return not preemption.now()

  def _restore(self):
    """Begins with the newest checkpoint; returns its step."""
    group, num = self._group, len(self._records)
    like = group.packed_like(num)
    lines = {}  # Step -> those up to it, of each trial that is alive.

    def fits(at, digests):
      lines[at] = {
        i: self._records[i].lines_until(at, digests and digests[i])
        for i in self._alive()
      }
      return None not in lines[at].values()

    try:
      restored = self._checkpoints.restore_newest(
        {"states": like, "best": like}, fits
      )
    except checkpoint.Unfit as error:
      # Another runner had begun a trial anew; or a file was damaged.
      self._tell_user(
        f"lines of metrics before step {error.step} are missing or changed;"
        " the trials begin anew"
      )
      restored = None
    start = restored[0] if restored is not None else 0
    if start:
      self._states = group.unpacked(restored[1]["states"])
      self._best = group.unpacked(restored[1]["best"])
    else:
      self._checkpoints.delete_all()
      self._states = group.init(self._configs, self._hparams)
      self._best = jax.tree.map(jax.numpy.copy, self._states)
    for i in self._alive():
      one = self._records[i]
      one.resume(start, lines[start][i] if start else [])
      # Of another runner, that did not finish this trial.
      if one.writes:
        rundir.remove(one.run.checkpoints)
    self._tell("running", self._alive())
    return start

  def _tell(self, status, places):
    self._progress(
      {
        i: {
          "status": status,
          "step": self._records[i].step,
          "best": self._records[i].best,
        }
        for i in places
      }
    )

  def _settle(self, at, tally, logged, clock):
    """Looks at every trial after step `at`; logs, evaluates, checkpoints."""
    config = self._config
    rates = clock.rates(at, config.batch_size)
    lines = {}
    for i in self._alive():
      of_trial = _at(tally, i)
      bad = metrics.diverged(of_trial)
      if bad:
        self._diverged(i, of_trial, *bad)
        continue
      lines[i] = {"step": at}
      if logged:
        lines[i] |= metrics.train_line(of_trial) | rates
    if at % config.eval_every == 0 or at == config.max_train_steps:
      self._evaluate(at, lines)
    for i, line in lines.items():
      if len(line) > 1:
        self._records[i].write_line(line)
    self._tell("running", lines)
    if at % config.checkpoint_every == 0 and at < config.max_train_steps:
      self._save(at)

  def _evaluate(self, at, lines):
    """Adds the evaluation to the lines; keeps the states that are best."""
    group, objective = self._group, self._config.objective
    sums = group.evaluate("valid", self._hparams, self._states)
    if group.sample is not None:
      predictions = group.predictions(self._hparams, self._states)
    better = np.zeros(group.size, bool)
    for i, line in lines.items():
      one, of_trial = self._records[i], _at(sums, i)
      if group.sample is not None:
        of_sample = _at(predictions, i)
        one.write_predictions(at, group.sample, of_sample, of_trial[""])
      line |= one.evaluation(of_trial)
      best = one.best
      # NaN is better than nothing no more than it is better than a number.
      better[i] = line[objective] < (best["value"] if best else np.inf)
    mask = sharding.place_trials(group.mesh, better)
    self._best = group.choose(mask, self._states, self._best)

  def _save(self, at):
    # A checkpoint promises that all lines up to its step are on the disk.
    for i in self._alive():
      self._records[i].sync()
    num = len(self._records)
    trees = {
      "states": self._group.packed(self._states, num),
      "best": self._group.packed(self._best, num),
    }
    digests = [one.digest for one in self._records]
    self._checkpoints.save(at, trees, np.nan, digests)
    for i in self._alive():
      self._records[i].write_status("running")

  def _preempted(self, at):
    self._save(at)
    self._checkpoints.wait()
    for i in self._alive():
      self._records[i].write_status("preempted", reason=train.PREEMPTED)
    return False

  def _diverged(self, i, tally, step_, reason):
    one = self._records[i]
    self._write_checkpoints(i)
    one.infeasible(tally, step_, reason)
    self._live[i] = False
    self._tell("infeasible", [i])

  def _finish(self, i):
    """Writes what `train` leaves at the end of a run."""
    config, group, one = self._config, self._group, self._records[i]
    extra = {}
    best = self._write_checkpoints(i)
    if best is not None:
      hparams = group.take(self._hparams, i)
      variables = group.evaluated(hparams, best)
      weights = variables[evaluate.suffix(config.objective)]
      if config.report_test:
        extra["test"] = one.test(self._test(i), one.best["step"])
      if config.export:
        weights = jax.device_get(weights)
        if one.writes:
          program = group.export(weights)
          evaluate.write_export(one.run.export, program, weights)
    one.write_status("completed", **extra)
    self._live[i] = False
    self._tell("completed", [i])

  def _write_checkpoints(self, i):
    """Writes the best state and, at the end, the last; returns the best."""
    group, config, one = self._group, self._config, self._records[i]
    best, state, states = one.best, None, {}
    if one.step == config.max_train_steps:
      last = jax.device_get(group.take(self._states, i))
      value = one.lines[-1][config.objective]
      states[one.step] = last, value, one.digest
    if best is not None:
      state = jax.device_get(group.take(self._best, i))
      before = [line for line in one.lines if line["step"] <= best["step"]]
      digest = rundir.Digest(before).as_json()
      states[best["step"]] = state, best["value"], digest
    checkpoint.write(one.run.checkpoints, states)
    return state

  def _test(self, i):
    if self._tests is None:
      self._tests = self._group.evaluate("test", self._hparams, self._best)
    return _at(self._tests, i)[evaluate.suffix(self._config.objective)]

  _tests = None


def _at(tree, i):
  """One trial of a tree over trials."""
  return jax.tree.map(lambda leaves: leaves[i], tree)


def _agreed(number):
  """The largest of all hosts."""
  if jax.process_count() == 1:
    return number
  return float(multihost_utils.process_allgather(np.float64(number)).max())


def _memory():
  """Bytes that each device can have."""
  device = jax.local_devices()[0]
  stats = device.memory_stats()
  if stats and "bytes_limit" in stats:
    return stats["bytes_limit"]
  with open("/proc/meminfo", encoding="ascii") as file:
    kib = next(int(line.split()[1]) for line in file if "MemAvail" in line)
  return kib * 1024 / jax.local_device_count()
