"""Prints the seconds of importing jaxplay, and those until the first step.

python tools/benchmarks/first_step.py CONFIG WORKDIR
"""

import sys
import time


class _Console:
  """Keeps the time of the first line of metrics."""

  first = 0.0

  def tell(self, sentence: str) -> None:
    pass

  def progress(self, done: int, total: int, line: dict) -> None:
    self.first = self.first or time.perf_counter()


def main() -> None:
  start = time.perf_counter()
  import jax

  from jaxplay import config as config_lib
  from jaxplay.training import train

  jax.devices()
  imported = time.perf_counter()
  config = config_lib.load(sys.argv[1])
  config.max_train_steps = config.log_every = config.steps_per_call = 1
  config.export = False
  config_lib.validate(config)
  console = _Console()
  train.train(config, sys.argv[2], console)
  print(imported - start, console.first - imported)


if __name__ == "__main__":
  main()
