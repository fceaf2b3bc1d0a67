"""The programs of a population: many trials that share one compilation.

Trials of one static config differ only in `hparams` and seed, which are
arguments of a step. Their axis is split over all devices of all hosts, in
groups of the size of the config's mesh: one device by default. Groups do not
wait for each other.
"""

import functools
import math
from collections.abc import Callable, Sequence

import jax
import ml_collections
import numpy as np
from jax.experimental import multihost_utils

from jaxplay import config as config_lib
from jaxplay import formats
from jaxplay.training import (
  evaluate,
  feed,
  memory,
  population_feed,
  sharding,
  step,
)
from jaxplay.training import workload as workload_lib

# Each trial keeps a file open, its lock.
_MAX_TRIALS = 512
# Fraction of the memory of a device that a population may use.
_MEMORY_SHARE = 0.8


class Programs:
  """The programs of populations of one static config and `size` trials."""

  def __init__(
    self,
    configs: Sequence[ml_collections.ConfigDict],
    tell: Callable[[str], None],
    device_bytes: float | None = None,
    mode: str | None = None,
  ):
    """Compiles for as many trials as fit into memory together.

    Args:
      configs: One per trial, equal except for the arguments of a step:
        `hparams`, `seed`, and the schedule.
      tell: Called with a message on the number that fit.
      device_bytes: Memory to use on each device; None: most of it.
      mode: How a device computes its trials: "together" (`vmap`), "looped",
        one after the other in a compiled loop, or "called", with a dispatch
        for each step of each; None: the fastest for the kind of device.
    """
    workload_lib.check_same_hosts(configs)
    config = self.config = configs[0]
    config_lib.validate(config, jax.device_count(), trials=True)
    self.workload = workload_lib.make_workload(config, trials=True)
    self.mesh = self.workload.mesh
    self._groups = self.mesh.shape["trial"]
    splits = self.workload.dataset.splits
    self._same_order = len({c.seed for c in configs}) == 1
    self._mode = mode or self._choose_mode()
    self._on_device = workload_lib.on_device(self.workload, config)
    if self._on_device:
      self._arrays = feed.on_device(self.mesh, splits["train"])
    self.sample = workload_lib.prediction_sample(
      self.workload.dataset, config.num_predictions
    )
    self._choose_size(len(configs), device_bytes, tell)

  def _choose_mode(self):
    if jax.default_backend() != "cpu":
      return "together"
    # A core gains nothing from batching small matrices; "called" avoids loops
    # where XLA compiles them to slow code.
    steps = self.config.steps_per_call or workload_lib.steps_per_call(
      self.workload
    )
    return "called" if steps == 1 else "looped"

  def _choose_size(self, num, device_bytes, tell):
    """Sets `size`, the trials of a population, and compiles for it."""
    groups = self._groups
    limit = device_bytes or memory.available() * _MEMORY_SHARE
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
        if smallest or not memory.exhausted(error):
          raise
        needed = 2 * limit
      needed, least = _agreed(needed), -_agreed(-limit)
      if needed <= least or self.size == groups:
        break
      most = int(self.size * least / needed) // groups * groups or groups
    tell(
      f"{formats.count(num, 'trial')} in"
      f" {formats.count(populations, 'population')} of {self.size} on"
      f" {self._devices_text()}, {needed / 1e9:.2g} GB of"
      f" {least / 1e9:.2g} GB each"
    )

  def _devices_text(self):
    each = self.mesh.size // self._groups
    if each == 1:
      return formats.count(self._groups, "device")
    return f"{formats.count(self._groups, 'group')} of {each} devices"

  def _needed_bytes(self):
    """Bytes of one device for states, best states, and the computation."""
    best = sum(
      leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
      for leaf in jax.tree.leaves(self.state)
    )
    return self.config.keep_best * best + memory.peak_bytes(self._program)

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
      one_by_one=self._mode == "called" or self.config.steps_per_call == 1,
      # With `vmap`, stopping one trial would cost the others a selection.
      until_diverged=self._mode == "looped",
    )

    def one(trial, shared):
      hparams, state, own = trial
      of_all, begin, end = shared
      if not self._on_device:
        return self.workload.train_step(hparams, state, of_all | own)
      arrays, examples = of_all
      return run_steps(hparams, state, arrays, examples | own, begin, end)

    def of_device(trials, shared):
      place, *shared = shared
      if self._mode != "called":
        return self._each(one)(trials, shared)
      state, tally = one(_at(trials, place), shared)
      states = jax.tree.map(
        lambda leaves, leaf: leaves.at[place].set(leaf), trials[1], state
      )
      return states, jax.tree.map(lambda leaf: leaf[None], tally)

    def train_population(hparams, states, own, shared):
      return sharding.over_trials(self.mesh, of_device)(
        (hparams, states, own), shared
      )

    made = self.make_feed([self.config.seed], 0)
    own, shared, *_ = made.arguments(0, 1)
    shared = (np.int32(0), shared, np.int32(0), np.int32(1))
    arguments = (self.hparams([self.config]), self.state, own, shared)
    program = jax.jit(
      train_population,
      donate_argnums=1,
      out_shardings=(self._where, sharding.trials(self.mesh)),
    )
    return program.lower(*arguments).compile()

  def close(self):
    """Frees the programs; the object cannot be used afterwards.

    Its jitted functions refer to it in a way that the garbage collector does
    not see. A program on a CPU has about a hundred memory mappings, and a
    process at most 65,530: a study of a hundred batches of suggestions would
    crash.
    """
    self.__dict__.clear()

  def hparams(self, configs):
    """The traced numbers of trials: name -> [size], on the devices."""
    return self._stacked([workload_lib.traced(config) for config in configs])

  def init(self, configs, hparams, loaded):
    """The states before the first step, of the arrays of `weights.Loaded`."""
    seeds = self._stacked([step.stream_seeds(c.seed) for c in configs])
    return self._init((hparams, seeds), loaded)

  def _stacked(self, of_trials):
    """Stacks one dict per trial: name -> [size, ...], on the devices."""
    return population_feed.stacked(self.mesh, self._padded(of_trials))

  def _padded(self, of_trials):
    # The results of padding trials are never read.
    return of_trials + of_trials[-1:] * (self.size - len(of_trials))

  def make_feed(self, seeds, start_step):
    """The feed of examples for trials with these seeds."""
    seeds = self._padded(list(seeds))
    if not self._on_device:
      return population_feed.HostFeed(
        self.workload,
        self.config,
        seeds,
        own=not self._same_order,
        start_step=start_step,
      )
    chunk_steps = self.config.steps_per_call
    if self._mode == "called" or not chunk_steps:
      chunk_steps = feed.CHUNK_STEPS
    return population_feed.DeviceFeed(
      self.workload,
      self.config,
      self._arrays,
      seeds,
      own=not self._same_order,
      chunk_steps=chunk_steps,
    )

  @functools.cached_property
  def _init(self):
    return self._over_trials(
      lambda trial, loaded: self.workload.init_state(
        hparams=trial[0], seeds=trial[1], loaded=loaded
      ),
      self._where,
    )

  def packed_like(self, num):
    """The result of `packed`, as ShapeDtypeStructs."""
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
    """States for a checkpoint, independent of the devices: without padding."""
    if num == self.size:
      return states
    return jax.jit(
      lambda states: jax.tree.map(lambda leaf: leaf[:num], states),
      out_shardings=sharding.replicated(self.mesh),
    )(states)

  def unpacked(self, states):
    """States for the programs, from `packed` ones."""
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
    of_device = sharding.over_trials(self.mesh, self._each(function))
    return jax.jit(of_device, out_shardings=where)

  def _each(self, function):
    """`function(trial, shared)` over all trials of a device."""

    def of_device(trials, shared):
      if self.size == self._groups:  # One trial: the same program as a run.
        alone = function(_at(trials, 0), shared)
        return jax.tree.map(lambda leaf: leaf[None], alone)
      if self._mode == "together":
        return jax.vmap(function, in_axes=(0, None))(trials, shared)
      return jax.lax.map(lambda trial: function(trial, shared), trials)

    return of_device

  def run_steps(self, hparams, states, examples, live):
    """Runs some steps.

    Args:
      hparams: From `hparams`.
      states: Donated.
      examples: From `arguments` of the feed.
      live: bool per trial; the results of others are not used.

    Returns:
      (states, tallies), with a leading dimension of trials.
    """
    own, shared, begin, end = examples
    if self._mode != "called":
      steps = (np.int32(begin), np.int32(end))
      return self._program(hparams, states, own, (np.int32(0), shared, *steps))
    live = np.pad(live, (0, self.size - len(live)))
    # The i-th trial of every group in turn, if any of these is live.
    for i in np.flatnonzero(live.reshape(self._groups, -1).any(axis=0)):
      for at in range(begin, end):
        steps = (np.int32(at), np.int32(at + 1))
        states, _ = self._program(
          hparams, states, own, (np.int32(i), shared, *steps)
        )
        # Emulated devices with collectives must not have many calls in flight,
        # which would wait for each other's threads.
        if self.mesh.size > self._groups:
          jax.block_until_ready(states.step)
    # The next call donates the states, and with them their tallies.
    return states, jax.tree.map(jax.numpy.copy, states.tally)

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
    eval_batch = workload_lib.make_eval_batch(workload, self.config)

    def one(trial, batch):
      batch = feed.gathered(batch)
      return {
        suffix: eval_batch(variables, batch, trial[0])
        for suffix, variables in self.variables(*trial).items()
      }

    return self._over_trials(one)

  def predictions(self, hparams, states):
    """Predictions of the sample: name -> numpy [size, examples, ...]."""
    batch = self.workload.dataset.splits["valid"].fetch(self.sample["index"])
    return sharding.to_host(self._predictions((hparams, states), batch))

  @functools.cached_property
  def _predictions(self):
    predict = evaluate.make_predict(self.workload.model, self.workload.task)
    return self._over_trials(
      lambda trial, batch: predict(self.variables(*trial)[""], batch)
    )

  def variables(self, hparams, state):
    """The variables to evaluate of one trial; see `step.eval_variables`."""
    config = self.config
    return step.eval_variables(
      state, hparams, config.optimizer, config.weights, config.frozen
    )

  @functools.cached_property
  def insert(self):
    """(ranks [size], states, best) -> best, with the states at their ranks.

    `best` is a list of states, the best of each trial first. A trial whose rank
    is not an index of the list keeps its states.
    """

    def one(trial, _):
      rank, new, best = trial
      moved = best[:1] + best[:-1]  # one rank down
      return [
        jax.tree.map(
          lambda n, old, down, place=place: jax.numpy.where(
            rank == place, n, jax.numpy.where(rank < place, down, old)
          ),
          *(new, best[place], moved[place]),
        )
        for place in range(len(best))
      ]

    def program(ranks, new, best):
      of_device = jax.vmap(one, in_axes=(0, None))
      return sharding.over_trials(self.mesh, of_device)((ranks, new, best), ())

    where = [self._where] * self.config.keep_best
    return jax.jit(program, donate_argnums=2, out_shardings=where)


def _at(tree, i):
  """One trial of a tree over trials."""
  return jax.tree.map(lambda leaves: leaves[i], tree)


def _agreed(number):
  """The maximum over all hosts."""
  if jax.process_count() == 1:
    return number
  return float(multihost_utils.process_allgather(np.float64(number)).max())
