"""Measures a step, and the peaks of the devices of this process."""

import collections
import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxplay.training import dry_run, feed, memory, sharding
from jaxplay.training import loop as loop_lib
from jaxplay.training import workload as workload_lib

# Time is taken in rounds of calls, each of about so many seconds and at least
# and at most so many calls. It is steady once so many rounds in a row are not
# faster than the fastest one by more than the share; and a machine that others
# use may never be, so rounds and seconds are limited.
_ROUND_SECONDS, _CALLS = 0.1, (3, 100)
_SAME_ROUNDS, _SAME = 3, 0.02
_MOST_ROUNDS, _MOST_SECONDS = 30, 20.0
# Of the loop: seconds of a call, where that is of several steps.
_CALL_SECONDS = 0.05
# Of a loop whose data the host reads, several batches at a time: so many steps
# make a round. The first ones, or seconds, are not timed: what was read ahead
# while it compiled would seem to cost nothing.
_READ_AHEAD, _READ_AHEAD_SECONDS = 16, 10.0
# Of the schedule and the reader: a loop that is measured never ends.
_ENDLESS = 10**8


@dataclasses.dataclass(frozen=True)
class Speed:
  """How fast a config trains on these devices.

  Attributes:
    step_seconds: Of a step whose examples are on the devices already.
    loop_seconds: Of a step with its examples brought, as in training.
    bytes: Of memory on each device, at the peak of a step, as compiled.
    text: The compiled program of the step.
    too_large: Why it does not fit into memory; "": it does, and else no time
      was taken.
  """

  step_seconds: float = math.nan
  loop_seconds: float = math.nan
  bytes: float = math.nan
  text: str = ""
  too_large: str = ""


def peaks(size: int = 2048) -> dict[str, float]:
  """What one device does at best: the best of several trials.

  Args:
    size: Of the square matrices whose product is timed.

  Returns:
    "flops" per second, of products of float32 matrices on a CPU and of bfloat16
    ones elsewhere; "memory_bandwidth", bytes per second of a sum of two arrays,
    much larger than any cache.
  """
  on_cpu = jax.default_backend() == "cpu"
  dtype = jnp.float32 if on_cpu else jnp.bfloat16
  square = jnp.ones((size, size), dtype)
  long = jnp.ones(2**26 if on_cpu else 2**28, jnp.float32)
  product = _best_seconds(jax.jit(jnp.matmul), square, square)
  added = _best_seconds(jax.jit(jnp.add), long, long)
  return {
    "flops": 2 * size**3 / product,
    "memory_bandwidth": 3 * long.nbytes / added,
  }


def _best_seconds(function, *arguments):
  return min(_seconds(function, *arguments)[0] for _ in range(10))


def _seconds(function, *arguments):
  start = time.perf_counter()
  out = jax.block_until_ready(function(*arguments))
  return time.perf_counter() - start, out


def exchange_seconds(devices: Sequence[Any], wire_bytes: float) -> float:
  """Seconds of one exchange among devices: an all-reduce over all of them.

  Args:
    devices: Two at least.
    wire_bytes: What each of them has to receive, as `planning.program` counts
      it: 2 (n - 1) / n of the array, around a ring.
  """
  n = len(devices)
  mesh = sharding.make_mesh(replica=n, devices=devices)
  length = max(1, round(wire_bytes / 4 * n / (2 * (n - 1))))
  own = sharding.local_rows(mesh, n)
  parts = np.ones((len(own), length), np.float32)
  placed = sharding.place(sharding.batch(mesh), parts, n, 0)
  total = jax.jit(
    lambda parts: parts.sum(0), out_shardings=sharding.replicated(mesh)
  )
  return steady(
    lambda calls: [_seconds(total, placed)[0] for _ in range(calls)]
  )


def step_seconds(config: ml_collections.ConfigDict) -> float:
  """Seconds of a training step on made-up examples, once it is `steady`."""
  workload = workload_lib.make_workload(config, planned=True)
  compiled = dry_run.lower_train_step(config, workload).compile()
  state, batch = workload.init(), _made_up(config, workload)

  def one_round(calls):
    nonlocal state
    times = []
    for _ in range(calls):
      seconds, (state, _) = _seconds(compiled, workload.hparams, state, batch)
      times.append(seconds)
    return times

  return steady(one_round)


def _made_up(config, workload):
  """A batch of made-up examples on the devices."""
  rng = np.random.default_rng(0)
  size = config.batch_size // config.microbatches

  def made_up(name, shape, dtype):
    most = {"label": workload.dataset.num_classes, "moves": 1}.get(name)
    most = most or workload.dataset.pixel_max or workload.dataset.num_classes
    shape = (config.microbatches, size, *shape)
    array = rng.integers(0, most, shape).astype(dtype)
    rows = sharding.local_rows(workload.mesh, size)
    where = sharding.batch(workload.mesh, axis=1)
    return sharding.place(where, array[:, rows], size, 1)

  return {
    name: made_up(name, shape, dtype)
    for name, (shape, dtype) in dry_run.batch_shapes(config, workload).items()
  }


def measure(config: ml_collections.ConfigDict, devices: Sequence[Any]) -> Speed:
  """Times the step alone, and the loop with its data, of a config.

  What does not fit, by the compiled program or by running it, is a result.

  Args:
    config: A checked config.
    devices: To train on.

  Raises:
    jaxplay.UserError: Its mesh or batch does not fit the devices, or its data
      set cannot be had.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.max_train_steps = _ENDLESS
  peak_bytes = math.nan
  try:
    workload = workload_lib.make_workload(config, devices=devices)
    compiled = dry_run.lower_train_step(config, workload).compile()
    peak_bytes = memory.peak_bytes(compiled)
    there = memory.of_device(devices[0])
    if peak_bytes > there:  # False where it is not known.
      as_text = dry_run.format_bytes
      return Speed(
        too_large=f"{as_text(peak_bytes)} of {as_text(there)}, as compiled",
        bytes=peak_bytes,
      )
    loop, step = _loop_seconds(config, workload)
  except jax.errors.JaxRuntimeError as error:
    short = memory.exhausted(error)
    if not short:
      raise
    return Speed(too_large=short, bytes=peak_bytes)
  return Speed(step, loop, peak_bytes, compiled.as_text())


def _loop_seconds(config, workload):
  """Seconds of a step of the loop of `train`: with its feed, and without.

  As there, one call is under way while the next one is made ready. No lines,
  evaluations or checkpoints. Without the feed the same calls get the same
  examples over and over, so that nothing differs but what bringing them takes.
  """
  feeder = workload_lib.make_feed(workload, config, 0)
  hparams = {
    name: sharding.place_everywhere(workload.mesh, np.asarray(number))
    for name, number in workload.hparams.items()
  }
  state, at, most = workload.init(), 0, 1
  bring, kept = feeder.arguments, {}

  def keep(first, stop):
    if stop - first not in kept:
      kept[stop - first] = feeder.arguments(first, stop)
    return kept[stop - first]

  def one_round(steps):
    nonlocal state, at
    in_flight, first, calls = collections.deque(), at, 0
    start = time.perf_counter()
    while at - first < steps or calls < _CALLS[0]:
      stop = min(
        feeder.next_stop(at), loop_lib.next_stop(at, config), at + most
      )
      state, tally = feeder.program(hparams, state, *bring(at, stop))
      at, calls = stop, calls + 1
      in_flight.append(tally)
      if len(in_flight) > 1:
        jax.block_until_ready(in_flight.popleft()["loss"])
    jax.block_until_ready(state)
    return [(time.perf_counter() - start) / (at - first)]

  since = time.monotonic()
  one_round(1)  # It compiles.
  reads = isinstance(feeder, feed.HostFeed)
  while reads and at < _READ_AHEAD:
    one_round(1)
    if time.monotonic() - since > _READ_AHEAD_SECONDS:
      break
  # A call of several steps has as many as training makes between its lines.
  most = max(1, math.ceil(_CALL_SECONDS / one_round(1)[0]))
  loop = steady(one_round, _READ_AHEAD if reads else _CALLS[0])
  bring = keep
  return loop, steady(one_round)


def steady(
  one_round: Callable[[int], Sequence[float]], fewest: int = _CALLS[0]
) -> float:
  """Seconds of what is timed in rounds, once they no longer get shorter.

  The least median of a round of calls (of 0.1 seconds, 3 calls at least), as
  soon as three rounds in a row are not faster than the fastest before them by
  more than 2 %; after at most 30 rounds or 20 seconds.

  Args:
    one_round: Times so many calls; returns the seconds of each.
    fewest: Calls of a round, at least.
  """
  since = time.monotonic()
  first = statistics.median(one_round(fewest))
  wanted = math.ceil(_ROUND_SECONDS / max(first, 1e-9))
  calls = max(fewest, min(_CALLS[1], wanted))
  least, same = first, 0
  for _ in range(_MOST_ROUNDS):
    median = statistics.median(one_round(calls))
    same = 0 if median < (1 - _SAME) * least else same + 1
    least = min(least, median)
    if same == _SAME_ROUNDS or time.monotonic() - since > _MOST_SECONDS:
      break
  return least
