"""What the benchmarks share: configs, timing, printing."""

import functools
import pathlib
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import ml_collections

from jaxplay import config as config_lib
from jaxplay import data, rundir
from jaxplay.training import train

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
