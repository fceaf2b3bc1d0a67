"""Examples for the trials of a population, from the device or from the host.

Trials with the same seed share their batches, which are then placed once.
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxplay import data
from jaxplay.training import feed, sharding
from jaxplay.training import workload as workload_lib


class DeviceFeed:
  """A split on the device, gathered there, many steps per call."""

  reads = False  # examples, on the host

  def __init__(
    self,
    workload: workload_lib.Workload,
    config: ml_collections.ConfigDict,
    arrays: dict[str, jax.Array],
    seeds: Sequence[int],
    *,
    own: bool,
    chunk_steps: int,
  ):
    """Places nothing yet.

    Args:
      workload: Of the trials.
      config: The part of their configs that they share.
      arrays: The split, on the devices.
      seeds: One per trial of the population, padded.
      own: Whether trials have different orders of examples.
      chunk_steps: Steps that the host prepares at once.
    """
    self._mesh, self._arrays = workload.mesh, arrays
    self._seeds, self._own, self._chunk_steps = seeds, own, chunk_steps
    self._order = dict(
      workload_lib.order(workload, config),
      microbatches=config.microbatches,
      num_examples=workload.dataset.splits["train"].num_examples,
    )
    self._chunks = feed.Chunks(chunk_steps, self._place)

  def next_stop(self, at: int) -> int:
    """The furthest step that one call can go to."""
    return self._chunks.next_stop(at)

  def arguments(self, at: int, stop: int) -> tuple:
    """(per trial, shared, begin, end) for steps [at, stop)."""
    (own, shared), begin, end = self._chunks.arguments(at, stop)
    return own, (self._arrays, shared), begin, end

  def _place(self, begin):
    @functools.cache
    def of_seed(seed):
      order = self._order | {"seed": seed}
      return feed.examples(begin, self._chunk_steps, **order)

    if self._own:
      of_trials = [of_seed(seed) for seed in self._seeds]
      return stacked(self._mesh, of_trials), {}
    return {}, {
      name: sharding.place_everywhere(self._mesh, array)
      for name, array in of_seed(self._seeds[0]).items()
    }


class HostFeed:
  """A split that the host reads, one step per call."""

  reads = True  # examples, on the host

  def __init__(
    self,
    workload: workload_lib.Workload,
    config: ml_collections.ConfigDict,
    seeds: Sequence[int],
    *,
    own: bool,
    start_step: int,
  ):
    """Starts reading.

    Args:
      workload: Of the trials.
      config: The part of their configs that they share.
      seeds: One per trial of the population, padded.
      own: Whether trials have different orders of examples.
      start_step: First step.
    """
    self._mesh, self._own = workload.mesh, own
    self._size = config.batch_size // config.microbatches
    rows = np.arange(config.batch_size).reshape(-1, self._size)
    if own:  # Each host reads whole batches of its own trials.
      here = sharding.local_trials(workload.mesh, len(seeds))
      # Trials of other hosts need a placeholder here, which is not read.
      seeds = [s if i in here else seeds[here[0]] for i, s in enumerate(seeds)]
    else:
      rows = rows[:, sharding.local_rows(workload.mesh, self._size)]
      seeds = seeds[:1]
    self._seeds = seeds
    self._batches = {
      seed: data.train_batches(
        workload.dataset.splits["train"],
        start_step=start_step,
        stop_step=config.max_train_steps,
        rows=rows,
        workers=config.dataset.workers,
        **dict(workload_lib.order(workload, config), seed=seed),
      )
      for seed in set(seeds)
    }

  def next_stop(self, at: int) -> int:
    """The furthest step that one call can go to."""
    return at + 1

  def arguments(self, at: int, stop: int) -> tuple:
    """(per trial, shared, 0, 1) for the next step."""
    read = {seed: next(batches) for seed, batches in self._batches.items()}
    where = sharding.batch(self._mesh, axis=1)
    if self._own:
      of_trials = [read[seed] for seed in self._seeds]
      return stacked(self._mesh, of_trials, where), {}, 0, 1
    batch = {
      name: sharding.place(where, array, self._size, 1)
      for name, array in read[self._seeds[0]].items()
    }
    return {}, batch, 0, 1


def stacked(
  mesh: Any, of_trials: Sequence[dict[str, Any]], of_one: Any = None
) -> dict[str, jax.Array]:
  """Stacks one dict of arrays per trial: name -> [size, ...], on devices."""
  return {
    name: sharding.place_trials(
      mesh, np.stack([arrays[name] for arrays in of_trials]), of_one
    )
    for name in of_trials[0]
  }
