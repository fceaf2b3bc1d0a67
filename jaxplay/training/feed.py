"""Examples for the step: gathered on the device, or sent by the host.

Both make the same batches in the same order. Data sets that fit are copied to
every device once and gathered there by index, many steps per dispatch; larger
ones are read ahead by the host, which sends only its own rows.
"""

import collections
import functools
from collections.abc import Callable, Iterable
from typing import Any

import jax
import numpy as np

from jaxplay import data
from jaxplay.training import scores, sharding, step

# Steps that the host prepares at once where each step is a call.
CHUNK_STEPS = 50


class Chunks:
  """Chunks of steps, whose examples the host places on the devices at once."""

  def __init__(self, num_steps: int, place: Callable[[int], Any]):
    """Places nothing yet.

    Args:
      num_steps: Length of a chunk.
      place: First step of a chunk -> its examples, on the devices.
    """
    self._num_steps = num_steps
    self._placed = functools.lru_cache(1)(place)

  def next_stop(self, at: int) -> int:
    """The end of the chunk of step `at`."""
    return (at // self._num_steps + 1) * self._num_steps

  def arguments(self, first: int, stop: int) -> tuple[Any, np.int32, np.int32]:
    """(examples, first, stop) of a chunk for steps [first, stop)."""
    begin = first // self._num_steps * self._num_steps
    return self._placed(begin), np.int32(first - begin), np.int32(stop - begin)


class DeviceFeed:
  """Trains on a split that lives on the device, several steps per dispatch."""

  reads = False  # examples, on the host

  def __init__(
    self,
    mesh,
    source,
    train_step: Callable,
    state_shardings,
    *,
    microbatches: int,
    steps_per_call: int,
    **order_kwargs,
  ):
    """Copies the split to the devices.

    Args:
      mesh: From `sharding.make_mesh`.
      source: Examples by index.
      train_step: From `step.make_train_step`.
      state_shardings: Of the train state.
      microbatches: Parts of a batch.
      steps_per_call: Largest number of steps per dispatch.
      **order_kwargs: seed, batch_size, augment, augment_pixels, phases.
    """
    self._one_by_one = steps_per_call == 1
    self._chunk_steps = CHUNK_STEPS if self._one_by_one else steps_per_call
    self._chunks = Chunks(self._chunk_steps, self._place)
    self._order = dict(
      order_kwargs,
      num_examples=source.num_examples,
      microbatches=microbatches,
    )
    self._arrays = on_device(mesh, source)
    size = order_kwargs["batch_size"] // microbatches
    self._sharding = sharding.batch(mesh, axis=2)
    self._rows, self._size = sharding.local_rows(mesh, size), size
    self.program = jax.jit(
      step.make_run_steps(train_step, one_by_one=self._one_by_one),
      donate_argnums=1,
      out_shardings=(state_shardings, sharding.replicated(mesh)),
    )

  def next_stop(self, at: int) -> int:
    """The furthest step that one call can go to."""
    return at + 1 if self._one_by_one else self._chunks.next_stop(at)

  def arguments(self, first: int, stop: int) -> tuple:
    """The arguments of `program` after (hparams, state) for [first, stop)."""
    return (self._arrays, *self._chunks.arguments(first, stop))

  def _place(self, begin):
    """The examples of a chunk, on the devices."""
    chunk = examples(begin, self._chunk_steps, **self._order)
    return {
      name: sharding.place(
        self._sharding, array[:, :, self._rows], self._size, 2
      )
      for name, array in chunk.items()
    }


def examples(
  first: int, num_steps: int, *, microbatches: int, **order_kwargs
) -> dict[str, np.ndarray]:
  """The examples of training steps: [num_steps, microbatches, examples, ...].

  Args:
    first: First step.
    num_steps: Number of steps.
    microbatches: Parts of a batch.
    **order_kwargs: As for `data.train_examples`.
  """
  flat = data.train_examples(step=first, num_steps=num_steps, **order_kwargs)
  return {
    name: array.reshape(num_steps, microbatches, -1, *array.shape[2:])
    for name, array in flat.items()
  }


class HostFeed:
  """Trains on a split that the host reads, one step per dispatch."""

  reads = True  # examples, on the host

  def __init__(
    self,
    mesh,
    source,
    train_step: Callable,
    state_shardings,
    *,
    microbatches: int,
    start_step: int,
    stop_step: int,
    workers: int,
    **order_kwargs,
  ):
    """Starts reading.

    Args:
      mesh: From `sharding.make_mesh`.
      source: Examples by index.
      train_step: From `step.make_train_step`.
      state_shardings: Of the train state.
      microbatches: Parts of a batch.
      start_step: First step.
      stop_step: Step before which the run ends.
      workers: Reader processes; 0: threads in this process.
      **order_kwargs: seed, batch_size, augment, augment_pixels, phases.
    """
    batch_size = order_kwargs["batch_size"]
    self._size = batch_size // microbatches
    rows = np.arange(batch_size).reshape(microbatches, self._size)
    self._batches = data.train_batches(
      source,
      start_step=start_step,
      stop_step=stop_step,
      rows=rows[:, sharding.local_rows(mesh, self._size)],
      workers=workers,
      **order_kwargs,
    )
    self._sharding = sharding.batch(mesh, axis=1)
    self._next = start_step
    self.program = jax.jit(
      train_step,
      donate_argnums=1,
      out_shardings=(state_shardings, sharding.replicated(mesh)),
    )

  def next_stop(self, at: int) -> int:
    """The furthest step that one call can go to."""
    return at + 1

  def arguments(self, first: int, stop: int) -> tuple:
    """The arguments of `program` after (hparams, state) for the next step."""
    if (first, stop) != (self._next, self._next + 1):
      raise ValueError(f"steps are read in order; expected step {self._next}")
    self._next = stop
    return (_placed(next(self._batches), self._sharding, self._size, 1),)


class EvalFeed:
  """A whole split in padded batches; may be iterated repeatedly."""

  def __init__(
    self,
    mesh,
    source,
    *,
    batch_size: int,
    device_bytes: int,
    workers: int,
    split: bool = True,
  ):
    """Copies the split to the devices if it fits.

    Args:
      mesh: From `sharding.make_mesh`.
      source: Examples by index.
      batch_size: Examples per batch over all devices, rounded up to a multiple
        of the devices; the last batch is padded.
      device_bytes: Splits up to this size are copied to the devices.
      workers: Reader processes for larger ones.
      split: Whether a batch is split over the devices; else each has all.
    """
    self._source, self._workers = source, workers
    if split:
      batch_size = sharding.padded(mesh, batch_size)
    self._size, self._mesh, self._split = batch_size, mesh, split
    self._rows = np.arange(batch_size)
    if split:
      self._rows = sharding.local_rows(mesh, batch_size)
    self._batches = None
    if fits(source, device_bytes):
      arrays = on_device(mesh, source)
      parts = data.eval_examples(source.num_examples, batch_size)
      self._batches = [
        {
          "arrays": arrays,
          **self._place({name: array[i] for name, array in parts.items()}),
        }
        for i in range(len(parts["index"]))
      ]

  def __iter__(self):
    """Yields the arguments of `gathered`."""
    if self._batches is not None:
      yield from self._batches
      return
    for batch in data.eval_batches(
      self._source,
      batch_size=self._size,
      rows=self._rows,
      workers=self._workers,
    ):
      yield self._placed(batch)

  def _place(self, batch):
    return self._placed({n: array[self._rows] for n, array in batch.items()})

  def _placed(self, local):
    if self._split:
      return _placed(local, sharding.batch(self._mesh), self._size, 0)
    return {
      name: sharding.place_everywhere(self._mesh, array)
      for name, array in local.items()
    }


def gathered(batch: dict) -> dict:
  """The batch of what an `EvalFeed` yields; traceable."""
  if "arrays" not in batch:
    return batch
  batch = dict(batch)
  index, arrays = batch.pop("index"), batch.pop("arrays")
  return batch | {name: array[index] for name, array in arrays.items()}


def total(sums: Iterable) -> Any:
  """Adds the results of batches from the devices; see `scores.total`."""
  in_flight: collections.deque = collections.deque()
  fetched = []
  for part in sums:
    in_flight.append(part)
    if len(in_flight) > 2:  # Bounds the number of batches in memory.
      fetched.append(sharding.to_host(in_flight.popleft()))
  fetched.extend(sharding.to_host(part) for part in in_flight)
  return scores.total(fetched)


def make_evaluator(
  mesh, source, eval_batch: Callable, *, hparams: Any = None, **feed_kwargs
) -> Callable[[tuple], dict[str, Any]]:
  """Makes `evaluator(variables)`: sums over the whole split, on the host.

  Args:
    mesh: From `sharding.make_mesh`.
    source: Examples by index.
    eval_batch: From `evaluate.make_eval_batch`.
    hparams: Its last argument, on the devices.
    **feed_kwargs: Of `EvalFeed`.
  """
  batches = EvalFeed(mesh, source, **feed_kwargs)
  # One dispatch per batch, not a loop: see `workload.steps_per_call`.
  program = jax.jit(
    lambda variables, batch, hparams: eval_batch(
      variables, gathered(batch), hparams
    ),
    out_shardings=sharding.replicated(mesh),
  )
  return lambda variables: total(
    program(variables, batch, hparams) for batch in batches
  )


def make_predictor(mesh, source, predict: Callable, indices: np.ndarray):
  """Makes `predictor(variables)`: name -> numpy [examples, ...]."""
  padded = -(-len(indices) // mesh.size) * mesh.size
  fetched = source.fetch(np.resize(indices, padded))
  rows = sharding.local_rows(mesh, padded)
  batch = _placed(
    {name: array[rows] for name, array in fetched.items()},
    sharding.batch(mesh),
    padded,
    0,
  )
  program = jax.jit(predict, out_shardings=sharding.replicated(mesh))
  return lambda variables: {
    name: array[: len(indices)]
    for name, array in jax.device_get(program(variables, batch)).items()
  }


def fits(source, device_bytes: int) -> bool:
  """Whether a split is copied to the device."""
  return source.nbytes <= device_bytes


def on_device(mesh, source) -> dict[str, jax.Array]:
  """All examples of a split, on every device."""
  everything = source.fetch(np.arange(source.num_examples))
  return {
    name: sharding.place_everywhere(mesh, array)
    for name, array in everything.items()
  }


def _placed(batch, to, global_size, axis):
  return {
    name: sharding.place(to, array, global_size, axis)
    for name, array in batch.items()
  }
