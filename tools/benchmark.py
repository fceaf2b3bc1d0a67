"""Measures jaxplay's own costs, side by side, and prints them as ratios.

    python tools/benchmark.py loop      training loop against the bare step
    python tools/benchmark.py order     indices per second on one core
    python tools/benchmark.py startup   seconds to the first step, and where
    python tools/benchmark.py           all of them

Machines are shared and noisy: each pair is measured in turn, several times, and
the median ratio is given with its range.
"""

import argparse
import functools
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def loop(rounds: int) -> None:
  """Examples per second of `jaxplay train` over those of its bare step.

  With a line every 50 steps, an evaluation every 500, an asynchronous
  checkpoint every 5,000 and at each new best. `steady` is what the run logs:
  evaluations and waits for checkpoints left out. `whole` counts all time from
  the first line of metrics to the last.
  """
  from jaxplay import config as config_lib

  for experiment, steps in (("digits_mlp", 20_000), ("digits_resnet", 2_000)):
    config = config_lib.load(
      str(ROOT / "experiments" / experiment / "config.py")
    )
    config.log_every, config.eval_every = 50, 500
    config.checkpoint_every, config.max_train_steps = 5_000, steps
    config.export = False
    ratios = {"steady": [], "whole": []}
    for _ in range(rounds):
      bare = _bare_examples_per_second(config)
      for name, rate in _trained_examples_per_second(config).items():
        ratios[name].append(rate / bare)
    for name, values in ratios.items():
      _tell(f"loop {experiment} {name}, train / bare step", values)


def _trained_examples_per_second(config):
  """Of a run through the front door, in two senses."""
  from jaxplay import rundir
  from jaxplay.training import train

  console = _Clocked()
  with tempfile.TemporaryDirectory() as folder:
    train.train(config, folder, console)
    lines = rundir.RunDir(folder).metrics()
  # The first lines hold compilation and the copy of the data to the device.
  skip = len(lines) // 5
  rates = [line["examples_per_second"] for line in lines[skip:]]
  (begin, first), (end, last) = console.times[skip], console.times[-1]
  whole = (last - first) * config.batch_size / (end - begin)
  # Each line covers as many steps: the mean rate is the harmonic one.
  return {"steady": statistics.harmonic_mean(rates), "whole": whole}


class _Clocked:
  """A console that notes when each line of metrics came."""

  def __init__(self):
    self.times = []

  def tell(self, sentence):
    pass

  def progress(self, done, total, line):
    self.times.append((time.perf_counter(), done))


def _bare_examples_per_second(config):
  """Of the same step on data on the device, and nothing else.

  In a scan, but called one by one where loops are slow (convolutions on CPU).
  """
  import jax

  from jaxplay import data
  from jaxplay.training import train

  workload = train.make_workload(config)
  source = workload.dataset.splits["train"]
  arrays = jax.device_put(source.fetch(range(source.num_examples)))
  per_call = train.steps_per_call(workload)
  examples = data.train_examples(
    seed=config.seed,
    step=0,
    num_steps=per_call,
    batch_size=config.batch_size,
    num_examples=source.num_examples,
    augment=config.dataset.augment,
    augment_pixels=config.dataset.augment_pixels,
  )
  examples = jax.device_put({k: v[:, None] for k, v in examples.items()})

  def one(state, part):
    batch = {k: array[part["index"]] for k, array in arrays.items()}
    batch |= {k: v for k, v in part.items() if k != "index"}
    return workload.train_step(workload.hparams, state, batch)

  @functools.partial(jax.jit, donate_argnums=0)
  def call(state):
    if per_call == 1:
      return one(state, {k: v[0] for k, v in examples.items()})[0]
    return jax.lax.scan(one, state, examples)[0]

  state = jax.block_until_ready(call(workload.init()))
  calls = max(1, config.max_train_steps // per_call)
  start = time.perf_counter()
  for _ in range(calls):
    state = call(state)
  jax.block_until_ready(state)
  seconds = time.perf_counter() - start
  return calls * per_call * config.batch_size / seconds


def order(rounds: int) -> None:
  """Indices per second of `batch_indices`, in calls of 50 batches of 1,024."""
  from jaxplay.data import order as order_lib

  for name, size in (
    ("digits, 1,197", 1_197),
    ("ImageNet, 1,281,167", 1_281_167),
    ("a billion", 10**9),
  ):
    rates = []
    for _ in range(rounds):
      start, made, step = time.perf_counter(), 0, 0
      while (seconds := time.perf_counter() - start) < 0.5:
        made += len(order_lib.batch_indices(0, step, 1_024, size, 50))
        step += 50
      rates.append(made / seconds / 1e6)
    _tell(f"order, {name} examples, million indices per second", rates)


_STARTUP = """
import sys, time
start = time.perf_counter()
from jaxplay import config as config_lib
from jaxplay.training import train
import jax
jax.devices()
imported = time.perf_counter()

class Console:
  times = []
  def tell(self, sentence): pass
  def progress(self, done, total, line):
    self.times.append(time.perf_counter())

config = config_lib.load(sys.argv[1])
config.max_train_steps = config.log_every = config.steps_per_call = 1
config.export = False
train.train(config, sys.argv[2], Console())
first = Console.times[0]
print(imported - start, first - imported, first - start)
"""


def startup(rounds: int) -> None:
  """Seconds to the first step, warm compilation cache, and their parts."""
  experiment = ROOT / "experiments" / "digits_mlp" / "config.py"
  parts = {"imports": [], "data, compile, step 1": [], "in all": []}
  with tempfile.TemporaryDirectory() as folder:
    cache = {
      "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    for i in range(rounds + 1):
      done = subprocess.run(
        [sys.executable, "-c", _STARTUP, str(experiment), f"{folder}/run{i}"],
        env=os.environ | cache,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
      )
      if i:  # The first one fills the cache.
        numbers = map(float, done.stdout.split()[-3:])
        for name, number in zip(parts, numbers, strict=True):
          parts[name].append(number)
  whole = parts["in all"]
  _tell("startup, seconds to the first step", whole)
  for name in list(parts)[:2]:
    shares = [
      part / all_ for part, all_ in zip(parts[name], whole, strict=True)
    ]
    _tell(f"startup, share of {name}", shares)


def _tell(what: str, values: list[float]) -> None:
  middle = statistics.median(values)
  print(
    f"{what}: {middle:.3g} ({min(values):.3g} to {max(values):.3g},"
    f" {len(values)} rounds)",
    flush=True,
  )


BENCHMARKS = {"loop": loop, "order": order, "startup": startup}


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("which", nargs="*", help=", ".join(BENCHMARKS))
  parser.add_argument("--rounds", type=int, default=5, metavar="N")
  arguments = parser.parse_args()
  for name in arguments.which or BENCHMARKS:
    if name not in BENCHMARKS:
      parser.error(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    BENCHMARKS[name](arguments.rounds)


if __name__ == "__main__":
  main()
