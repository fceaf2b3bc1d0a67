"""A run and a population of one, compared to the bit: `test_population.py`."""

import pathlib
import sys
import tempfile

from jaxplay import rundir
from jaxplay.training import population, train
from tests.training import runs

_CASES = {
  "mlp": (
    ("together", runs.MLP | {"averages": ("ema",), "report_test": True}),
  ),
  "others": (
    ("looped", runs.MLP | {"keep_best": 2}),
    ("together", runs.LM | {"max_train_steps": 12}),
    ("called", runs.RESNET | {"model.norm": "batch", "max_train_steps": 6}),
  ),
}


def compare(mode, keys, folder):
  """Trains both, and compares what they leave."""
  keys = runs.overrides(max_train_steps=24, objective="valid/loss") | keys
  keys["steps_per_call"] = 1 if mode == "called" else 5
  config = runs.make_config(keys)
  status, _ = runs.train_here(keys, folder / "alone")
  run = rundir.RunDir(folder / "trials" / "0000")
  run.create()
  group = population.Populations([config], print, mode=mode)
  checkpoints = folder / "populations" / "0" / "checkpoints"
  assert group.train([config], [run], checkpoints, lambda statuses: None)
  train.train(config, str(run.path), runs.Quiet())  # Unpacks.
  runs.assert_same(runs.lines(run.path), runs.lines(folder / "alone"))
  assert run.status().get("test") == status.get("test")
  runs.assert_same(runs.examples(run.path), runs.examples(folder / "alone"))
  runs.assert_same(
    runs.last_state(keys, run.path), runs.last_state(keys, folder / "alone")
  )


if __name__ == "__main__":
  for case in _CASES[sys.argv[1]]:
    compare(*case, pathlib.Path(tempfile.mkdtemp()))
