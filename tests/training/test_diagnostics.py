"""What is logged of each layer: names, numbers, and the same on any layout."""

import jax
import numpy as np
import pytest

from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.analysis import plot_rows
from jaxplay.training import diagnostics, population, step
from jaxplay.training import workload as workload_lib
from tests.training import runs

ALL = config_lib.DIAGNOSTICS


def _shape(*shape):
  return jax.ShapeDtypeStruct(shape, np.float32)


def test_layers_are_modules():
  """I8: parameters of a module belong together; stacked blocks are layers."""
  tree = {
    "Dense_0": {"kernel": _shape(2, 3), "bias": _shape(3)},
    "decoder": {"blocks": {"mlp": {"kernel": _shape(2, 4, 4)}}},
    "scale": _shape(1),
  }
  names = diagnostics.Diagnostics(ALL, stacked=True).layers(tree)
  blocks = ("decoder/blocks/0/mlp", "decoder/blocks/1/mlp")
  assert names == ("Dense_0", *blocks, "scale")
  names = diagnostics.Diagnostics(ALL).layers(tree)
  assert names == ("Dense_0", "decoder/blocks/mlp", "scale")
  assert diagnostics.NONE.layers(tree) == ()


@pytest.mark.parametrize(
  "groups, modules, expected",
  [(8, 8, 64), (8, 9, 8), (65, 1, 1), (64, 1, 64)],
)
def test_lines_stay_small(groups, modules, expected):
  """I8: at most 64 layers, with fewer levels of their names if need be."""
  tree = {
    f"group{i}": {f"Dense_{j}": {"kernel": _shape(2)} for j in range(modules)}
    for i in range(groups)
  }
  tally = diagnostics.Diagnostics(ALL)
  names = tally.layers(tree)
  assert len(names) == len(set(names)) == expected
  zeros = jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), tree)
  norms = tally.measured(zeros, zeros, zeros)["weight_norm"]
  assert norms.shape == (expected,)
  total = np.sqrt(np.sum(np.square(norms)))
  assert total == pytest.approx(np.sqrt(2 * groups * modules), rel=1e-5)


def _norms(tree):
  """Layer -> L2 norm, in numpy; of modules without stacked blocks."""
  squares = {}
  for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
    name = step.parameter_name(path[:-1])
    squares[name] = squares.get(name, 0) + np.sum(np.square(leaf))
  return {name: np.sqrt(square) for name, square in squares.items()}


@pytest.mark.parametrize(
  "changes",
  [
    {
      "optimizer": "adamw",
      "hparams.weight_decay": 0.1,
      "clipping": True,
      "hparams.clip_norm": 0.01,
    },
    {"microbatches": 2, "frozen": ("Dense_0/.*",)},
  ],
  ids=["adamw, clipping", "microbatches, frozen"],
)
def test_numbers_of_a_step(changes):
  """I8: the change of the weights over the weights, computed in numpy."""
  keys = runs.overrides(max_train_steps=2, log_every=2, steps_per_call=1)
  config = runs.make_config(keys | changes | {"diagnostics": ALL})
  workload = workload_lib.make_workload(config)
  feed = workload_lib.make_feed(workload, config, 0)
  states = [jax.device_get(workload.init())]
  for at in (0, 1):
    arguments = feed.arguments(at, at + 1)
    state, tally = feed.program(workload.hparams, states[-1], *arguments)
    states.append(jax.device_get(state))
  before, after = (
    step.split_params(state.params, config.frozen)[0] for state in states[1:]
  )
  update = _norms(jax.tree.map(np.subtract, after, before))
  weights = _norms(before)
  assert tuple(weights) == workload.layers
  got = {n: dict(zip(workload.layers, tally[n], strict=True)) for n in ALL}
  for layer, norm in weights.items():
    assert got["weight_norm"][layer] == pytest.approx(norm, rel=1e-5)
    ratio = update[layer] / norm
    assert got["update_ratio"][layer] == pytest.approx(ratio, rel=1e-3)
  together = np.sqrt(sum(x**2 for x in got["gradient_norm"].values()))
  assert together == pytest.approx(float(tally["grad_norm"]), rel=1e-5)


def _of_layers(lines):
  return [
    {k: v for k, v in line.items() if plot_rows.is_of_layer(k)}
    for line in lines
    if "train/loss" in line
  ]


@pytest.mark.slow
def test_a_run_that_asks_for_them(tmp_path):
  """I8: at logged steps, on one device, many, and in a population alike."""
  keys = runs.overrides(max_train_steps=10, steps_per_call=3)
  asks = keys | {"diagnostics": ALL}
  runs.train_here(keys, tmp_path / "without")
  runs.train_here(asks, tmp_path / "eight")
  runs.train_here(asks | {"mesh.data": 1}, tmp_path / "one")
  without, eight, one = (
    runs.lines(tmp_path / name) for name in ("without", "eight", "one")
  )
  runs.assert_close(eight, one, 1e-3, 1e-5)
  assert [line["step"] for line in eight if "train/loss" in line] == [4, 8, 10]
  layers = ("Dense_0", "Dense_1", "Dense_2")
  expected = {f"{name}/{layer}" for name in ALL for layer in layers}
  assert all(line.keys() == expected for line in _of_layers(eight))
  # They change nothing that was there.
  for line, other in zip(without, eight, strict=True):
    runs.assert_close(line, {k: other[k] for k in line}, 1e-3, 1e-5)
  configs = [
    runs.make_config(asks | {"hparams.learning_rate": rate})
    for rate in (0.1, 0.2)
  ]
  trials = [rundir.RunDir(tmp_path / "trials" / name) for name in "01"]
  for trial in trials:
    trial.create()
  group = population.Populations(configs, lambda sentence: None)
  folder = tmp_path / "populations" / "0" / "checkpoints"
  assert group.train(configs, trials, folder, lambda lines: None)
  group.close()
  runs.assert_close(runs.lines(trials[0].path), one, 1e-3, 1e-5)


def test_weights_of_zero():
  """I8: a layer whose weights are all 0 has no ratio, which a line writes."""
  zero, one = np.zeros(3, np.float32), np.ones(3, np.float32)
  for update in (zero, one):
    tally = diagnostics.Diagnostics(("update_ratio",)).measured(
      {"head": {"kernel": zero}}, None, {"head": {"kernel": update}}
    )
    ratio = float(tally["update_ratio"][0])
    assert "null" in rundir.as_line({"update_ratio/head": ratio})
