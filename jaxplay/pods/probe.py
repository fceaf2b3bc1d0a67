"""Measures steps, and the peaks of the devices of this process."""

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

# Duration of a round in seconds, and its minimum and maximum number of calls.
_ROUND_SECONDS, _CALLS = 0.1, (3, 100)
# Timing ends once this number of rounds in a row is not faster by this share.
_SAME_ROUNDS, _SAME = 3, 0.02
# On a busy machine that may never happen, so rounds and time are limited.
_MOST_ROUNDS, _MOST_SECONDS = 30, 20.0
# Duration of a call of several steps.
_CALL_SECONDS = 0.05
# If the host reads the data: steps of a round, since several batches are read
# in parallel. The first steps, for at most this time, are not timed, because
# their data was read during compilation.
_READ_AHEAD, _READ_AHEAD_SECONDS = 16, 10.0
# Number of steps of the schedule; the measured loop does not reach it.
_ENDLESS = 10**8


@dataclasses.dataclass(frozen=True)
class Measurement:
  """Speed and memory of training a config on these devices.

  Attributes:
    step_seconds: Seconds of a step with its examples on the devices.
    loop_seconds: Seconds of a step in the training loop, with its feed.
    bytes: Peak memory of a step on each device, as compiled.
    text: The compiled program of the step.
    too_large: Why it does not fit into memory, and was not timed; "": it fits.
  """

  step_seconds: float = math.nan
  loop_seconds: float = math.nan
  bytes: float = math.nan
  text: str = ""
  too_large: str = ""


def peaks(size: int = 2048) -> dict[str, float]:
  """Measures the peak performance of a device: the best of several calls.

  Args:
    size: Rows and columns of the matrices whose product is timed.

  Returns:
    "flops" per second, for products of float32 matrices on a CPU and bfloat16
    otherwise; "memory_bandwidth", bytes per second, for the sum of two arrays
    that are much larger than any cache.
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
  """Measures the seconds of an all-reduce over devices.

  Args:
    devices: At least two devices.
    wire_bytes: Bytes that each receives, as counted by `pods.program`:
      2 (n - 1) / n of the array, around a ring.
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
  """Measures the seconds of a training step, on random examples."""
  workload = workload_lib.make_workload(config, planned=True)
  compiled = dry_run.lower_train_step(config, workload).compile()
  state, batch = workload.init(), _random_batch(config, workload)

  def one_round(calls):
    nonlocal state
    times = []
    for _ in range(calls):
      seconds, (state, _) = _seconds(compiled, workload.hparams, state, batch)
      times.append(seconds)
    return times

  return steady(one_round)


def _random_batch(config, workload):
  """Returns a batch of random examples on the devices."""
  rng = np.random.default_rng(0)
  size = config.batch_size // config.microbatches

  def random(name, shape, dtype):
    most = {"label": workload.dataset.num_classes, "moves": 1}.get(name)
    most = most or workload.dataset.pixel_max or workload.dataset.num_classes
    shape = (config.microbatches, size, *shape)
    array = rng.integers(0, most, shape).astype(dtype)
    rows = sharding.local_rows(workload.mesh, size)
    where = sharding.batch(workload.mesh, axis=1)
    return sharding.place(where, array[:, rows], size, 1)

  return {
    name: random(name, shape, dtype)
    for name, (shape, dtype) in dry_run.batch_shapes(config, workload).items()
  }


def measure(
  config: ml_collections.ConfigDict, devices: Sequence[Any]
) -> Measurement:
  """Times the step alone, and in the training loop with its data.

  Returns `too_large` if it runs out of memory, in compilation or execution.

  Args:
    config: A checked config.
    devices: The devices to train on.

  Raises:
    jaxplay.UserError: Its mesh or batch size does not fit the devices, or its
      data set is not available.
  """
  config = config.copy_and_resolve_references()
  with config.unlocked():
    config.max_train_steps = _ENDLESS
  peak_bytes = math.nan
  try:
    workload = workload_lib.make_workload(config, devices=devices)
    compiled = dry_run.lower_train_step(config, workload).compile()
    peak_bytes = memory.peak_bytes(compiled)
    available = memory.of_device(devices[0])
    if peak_bytes > available:  # False if either is not known.
      as_text = dry_run.format_bytes
      return Measurement(
        too_large=f"{as_text(peak_bytes)} of {as_text(available)}, as compiled",
        bytes=peak_bytes,
      )
    loop, step = _loop_seconds(config, workload)
  except jax.errors.JaxRuntimeError as error:
    short = memory.exhausted(error)
    if not short:
      raise
    return Measurement(too_large=short, bytes=peak_bytes)
  return Measurement(step, loop, peak_bytes, compiled.as_text())


def _loop_seconds(config, workload):
  """Measures the seconds of a step of the training loop, with and without feed.

  As in `train`, a call is dispatched before the previous call has finished;
  there is no logging, evaluation or checkpoint. Without the feed, the
  same calls get the same examples again, so that the difference is the time of
  the feed.
  """
  feeder = workload_lib.make_feed(workload, config, 0)
  hparams = {
    name: sharding.place_everywhere(workload.mesh, np.asarray(number))
    for name, number in workload.hparams.items()
  }
  state, at, most = workload.init(), 0, 1
  arguments, cached = feeder.arguments, {}

  def cached_arguments(first, stop):
    if stop - first not in cached:
      cached[stop - first] = feeder.arguments(first, stop)
    return cached[stop - first]

  def one_round(steps):
    nonlocal state, at
    in_flight, first, calls = collections.deque(), at, 0
    start = time.perf_counter()
    while at - first < steps or calls < _CALLS[0]:
      stop = min(
        feeder.next_stop(at), loop_lib.next_stop(at, config), at + most
      )
      state, tally = feeder.program(hparams, state, *arguments(at, stop))
      at, calls = stop, calls + 1
      in_flight.append(tally)
      if len(in_flight) > 1:
        jax.block_until_ready(in_flight.popleft()["loss"])
    jax.block_until_ready(state)
    return [(time.perf_counter() - start) / (at - first)]

  since = time.monotonic()
  one_round(1)  # compiles
  reads = isinstance(feeder, feed.HostFeed)
  while reads and at < _READ_AHEAD:
    one_round(1)
    if time.monotonic() - since > _READ_AHEAD_SECONDS:
      break
  # Short steps are timed in calls of several steps, as in training.
  most = max(1, math.ceil(_CALL_SECONDS / one_round(1)[0]))
  loop = steady(one_round, _READ_AHEAD if reads else _CALLS[0])
  arguments = cached_arguments
  return loop, steady(one_round)


def steady(
  one_round: Callable[[int], Sequence[float]], fewest: int = _CALLS[0]
) -> float:
  """Times rounds of calls until they no longer get faster.

  Returns the lowest median of a round (of 0.1 seconds, and at least 3 calls),
  once three rounds in a row are not faster than the fastest before them by more
  than 2%, or after 30 rounds or 20 seconds.

  Args:
    one_round: Makes a number of calls; returns the seconds of each.
    fewest: Minimum number of calls of a round.
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
