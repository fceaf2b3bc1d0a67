"""Measures a step, and what the devices that are there can do at best."""

import statistics
import time

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

from jaxplay.training import dry_run, sharding, train

# A step is steady once the median of a few calls is no faster than that of the
# few before; and a machine that others use may never be.
_CALLS, _MOST_ROUNDS = 5, 10


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


def step_seconds(config: ml_collections.ConfigDict) -> float:
  """Seconds of a training step on made-up examples, once it is steady.

  The median of five calls, as soon as it is no less than that of the five
  before; the first call, which compiles, does not count.
  """
  workload = train.make_workload(config, planned=True)
  compiled = dry_run.lower_train_step(config, workload).compile()
  state = workload.init()
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

  batch = {
    name: made_up(name, shape, dtype)
    for name, (shape, dtype) in dry_run.batch_shapes(config, workload).items()
  }
  last = np.inf
  for _ in range(_MOST_ROUNDS):
    times = []
    for _ in range(_CALLS):
      seconds, (state, _) = _seconds(compiled, workload.hparams, state, batch)
      times.append(seconds)
    median = statistics.median(times)
    if median >= last:
      break
    last = median
  return min(median, last)
