"""What the benchmarks share: configs, timing, printing."""

import functools
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import ml_collections

from jaxplay import config as config_lib
from jaxplay import data, rundir
from jaxplay.training import train
from jaxplay.training import workload as workload_lib

ROOT = pathlib.Path(__file__).resolve().parents[2]


def show(what: str, values: list[float]) -> None:
  print(
    f"{what}: {statistics.median(values):.3g} ({min(values):.3g} to"
    f" {max(values):.3g}, {len(values)} rounds)",
    flush=True,
  )


def seconds_of(function: Callable, *arguments: Any) -> float:
  start = time.perf_counter()
  function(*arguments)
  return time.perf_counter() - start


def run(*command: Any, **options: Any) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [str(word) for word in command],
    **{"cwd": ROOT, "capture_output": True, "text": True, "check": True},
    **options,
  )


def ratios_of_steps(one, other, size: int, rounds: int) -> list[float]:
  """Time of a step of a config over that of another, for each round.

  In alternating blocks of `size` steps, ten a round: the difference is smaller
  than the noise of a whole run.
  """
  first, second = _blocks_of_steps(one, size), _blocks_of_steps(other, size)
  next(first)
  next(second)
  return [
    statistics.median(next(first) / next(second) for _ in range(10))
    for _ in range(rounds)
  ]


def _blocks_of_steps(config, size) -> Iterator[float]:
  """Yields the seconds of one block of steps after the other."""
  config = config.copy_and_resolve_references()
  config.max_train_steps = 10**6
  workload = workload_lib.make_workload(config)
  feeder = workload_lib.make_feed(workload, config, 0)
  state, step = workload.init(), 0
  while True:
    start, stop = time.perf_counter(), step + size
    while step < stop:
      upto = min(stop, feeder.next_stop(step))
      arguments = feeder.arguments(step, upto)
      state, _ = feeder.program(workload.hparams, state, *arguments)
      step = upto
    jax.block_until_ready(state)
    yield time.perf_counter() - start


def load_config(
  name: str, keys: Mapping[str, Any]
) -> ml_collections.ConfigDict:
  config = config_lib.load(str(config_file(name)))
  for key, value in keys.items():
    config_lib.override(config, key, value)
  config_lib.validate(config)
  return config


def config_file(experiment: str) -> pathlib.Path:
  return ROOT / "experiments" / experiment / "config.py"


class _Console:
  """Keeps the time of each line of metrics."""

  def __init__(self):
    self.times: list[tuple[float, int]] = []

  def tell(self, sentence: str) -> None:
    pass

  def progress(self, done: int, total: int, line: dict[str, Any]) -> None:
    self.times.append((time.perf_counter(), done))


def trained_steps_per_second(config):
  """`steady` and `whole`; see `loop`."""
  console = _Console()
  with tempfile.TemporaryDirectory() as folder:
    train.train(config, folder, console)
    lines = rundir.RunDir(folder).metrics()
  # The first lines include compilation and copying the data to the device.
  skip = len(lines) // 5
  speeds = [line["steps_per_second"] for line in lines[skip:]]
  (begin, first), (end, last) = console.times[skip], console.times[-1]
  # Each line covers as many steps, hence the harmonic mean.
  steady = statistics.harmonic_mean(speeds)
  return {"steady": steady, "whole": (last - first) / (end - begin)}


def train_examples(config, source, step, num_steps):
  return data.train_examples(
    seed=config.seed,
    step=step,
    num_steps=num_steps,
    batch_size=config.batch_size,
    num_examples=source.num_examples,
    augment=config.dataset.augment,
    augment_pixels=config.dataset.augment_pixels,
  )


def scanned_steps_per_second(step, carry, draw, num_steps):
  """Of `step(carry, x)` in a scan over what each call of `draw` returns."""
  per_call = len(jax.tree.leaves(draw())[0])

  @functools.partial(jax.jit, donate_argnums=0)
  def call(carry, xs):
    if per_call == 1:
      return step(carry, jax.tree.map(lambda x: x[0], xs))
    return jax.lax.scan(step, carry, xs)

  carry, _ = jax.block_until_ready(call(carry, draw()))
  calls = max(1, num_steps // per_call)
  start = time.perf_counter()
  for _ in range(calls):
    carry, _ = call(carry, draw())
  jax.block_until_ready(carry)
  return calls * per_call / (time.perf_counter() - start)
