"""One training, however the mesh lays it over devices."""

import functools
import math
import re

import jax
import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay.training import dry_run, sharding
from jaxplay.training import workload as workload_lib
from tests.training import runs

_WORKLOADS = {
  "resnet": {
    **runs.IMAGES,
    "model.name": "resnet",
    "model.depth": 10,
    "model.width": 8,
    "model.norm": "batch",
    "hparams.learning_rate": 0.01,
  },
  "vit": runs.VIT,
  "lm": runs.LM,
}
_MESHES = {
  "data": {"mesh.data": 8, "mesh.rules": ("data",)},
  "fsdp": {"mesh.data": 2, "mesh.fsdp": 4},
  "replica": {"mesh.replica": 2, "mesh.data": 1, "mesh.fsdp": 4},
  "tensor": {
    "mesh.data": 2,
    "mesh.fsdp": 2,
    "mesh.tensor": 2,
    "mesh.rules": ("fsdp+tensor",),
  },
  # Neither four heads nor anything else divides over all of these.
  "odd": {"mesh.data": 1, "mesh.tensor": 8, "mesh.rules": ("fsdp+tensor",)},
}


def _config(workload, mesh):
  keys = runs.overrides(batch_size=16) | _WORKLOADS[workload] | mesh
  return runs.make_config(keys)


def _batch(config, workload, number):
  """Batch `number` of a run, made up."""
  rng = np.random.default_rng(number)
  sizes = {"label": workload.dataset.num_classes, "tokens": 320, "image": 256}
  return {
    name: sharding.place(
      sharding.batch(workload.mesh, axis=1),
      rng.integers(0, sizes[name], (1, config.batch_size, *shape)).astype(kind),
      config.batch_size,
      1,
    )
    for name, (shape, kind) in dry_run.batch_shapes(config, workload).items()
  }


def _trained(workload_name, mesh, devices):
  """(last state on the host, workload, program) after three steps."""
  config = _config(workload_name, mesh)
  workload = workload_lib.make_workload(config, devices=devices, planned=True)
  program = dry_run.lower_train_step(config, workload).compile()
  state = workload.init()
  for number in range(3):
    batch = _batch(config, workload, number)
    state, _ = program(workload.hparams, state, batch)
  return jax.device_get(state), workload, program


# Each model and each mesh, and where heads or features do not divide.
_FOR_PODS = (
  *(("resnet", "fsdp"), ("resnet", "tensor")),
  *(("vit", "data"), ("vit", "tensor"), ("vit", "odd")),
  *(("lm", "replica"), ("lm", "tensor"), ("lm", "odd")),
)


@functools.cache
def _alone(workload):
  return _trained(workload, {"mesh.data": 1}, jax.devices()[:1])[0]


@pytest.mark.slow
@pytest.mark.parametrize(
  "workload, mesh",
  [
    ("lm", "fsdp"),
    *(pytest.param(*case, marks=pytest.mark.pods) for case in _FOR_PODS),
  ],
)
def test_presets_agree(workload, mesh):
  """M, N1: parameters, moments and averages as on one device."""
  state, made, program = _trained(workload, _MESHES[mesh], jax.devices())
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, 5e-3, 2e-5),
    _alone(workload),
    state,
  )
  # It is not equal for nothing having been split.
  whole = sum(leaf.nbytes for leaf in jax.tree.leaves(state.params))
  held = sum(
    leaf.dtype.itemsize * math.prod(leaf.sharding.shard_shape(leaf.shape))
    for leaf in jax.tree.leaves(made.state.params)
  )
  if mesh == "data":
    assert held == whole
  else:
    assert held < 0.7 * whole
  assert "all-reduce" in program.as_text()


@pytest.mark.pods
@pytest.mark.parametrize("norm", ["ghost", "batch"])
def test_each_step_agrees_from_a_common_state(norm):
  """M, N1: a step gives one result on any layout, to float tolerance.

  From the same state, which is all that can be promised: a sum that is rounded
  otherwise puts some activation on the other side of a ReLU sooner or later,
  and from there on two trainings part.
  """
  keys = runs.overrides(batch_size=16) | _WORKLOADS["resnet"]
  keys |= {"model.norm": norm, "hparams.learning_rate": 0.05}
  if norm == "ghost":
    keys["model.virtual_batch_size"] = 4  # On two devices each.
  programs = []
  for devices in (jax.devices()[:1], jax.devices()):
    config = runs.make_config(keys | {"mesh.data": len(devices)})
    made = workload_lib.make_workload(config, devices=devices, planned=True)
    program = dry_run.lower_train_step(config, made).compile()
    programs.append((config, made, program))
  state = jax.device_get(programs[0][1].init())
  for number in range(8):
    after = []
    for config, made, program in programs:
      placed = jax.tree.map(
        lambda leaf, like: jax.device_put(leaf, like.sharding),
        state,
        made.state,
      )
      batch = _batch(config, made, number)
      after.append(program(made.hparams, placed, batch)[0])
    one, eight = jax.device_get(after)
    for part in ("params", "batch_stats"):
      before, ours, theirs = (
        _vector(getattr(s, part)) for s in (state, one, eight)
      )
      moved = np.linalg.norm(ours - before)
      # About 1e-6; where an activation does change sides, 1e-3.
      assert np.linalg.norm(ours - theirs) < 1e-5 * moved, (number, part)
    state = one


def _vector(tree):
  """All numbers of a tree."""
  return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(tree)])


@pytest.mark.parametrize("workload, mesh", [("vit", "tensor"), ("lm", "fsdp")])
def test_activations_stay_split(workload, mesh):
  """Mesh: no device holds another's examples where parameters are split.

  A block's activations, [examples, positions, width], of all examples appear
  nowhere in the program of a device, nor does a part of their width.
  """
  config = _config(workload, _MESHES[mesh] | {"batch_size": 24})
  made = workload_lib.make_workload(config, planned=True)
  text = dry_run.lower_train_step(config, made).compile().as_text()
  rows = 24 // sharding.batch_parts(made.mesh)
  assert f"f32[{rows},16,32]" in text
  assert not re.search(r"f32\[24,16,(4|8|16|32)\]", text)


@pytest.mark.parametrize("parts", _WORKLOADS)
def test_optimizer_state_follows(parts):
  """Mesh: moments and averages are split as their parameters are."""
  made = workload_lib.make_workload(
    _config(parts, _MESHES["tensor"]), planned=True
  )
  where = jax.tree.map(lambda leaf: leaf.sharding.spec, made.state)
  params = jax.tree.leaves(where.params)
  if parts == "resnet":
    assert jax.tree.leaves(where.opt_state[0].trace) == params
    return
  moments = jax.tree.leaves(where.opt_state)
  assert moments[1 : 1 + len(params)] == params
  assert jax.tree.leaves(where.averages["ema"][0]) == params


@pytest.mark.parametrize(
  "mesh, sizes",
  [
    ({}, (1, 8, 1, 1)),
    ({"mesh.fsdp": 2, "mesh.tensor": 2}, (1, 2, 2, 2)),
    ({"mesh.data": 1, "mesh.fsdp": -1}, (1, 1, 8, 1)),
    ({"mesh.replica": 4, "mesh.fsdp": 2}, (4, 1, 2, 1)),
  ],
)
def test_one_axis_takes_what_is_left(mesh, sizes):
  """Mesh: an axis of -1 is whatever the others leave of the devices."""
  config = _config("lm", mesh)
  found = config_lib.mesh_sizes(config.mesh, 8)
  assert tuple(found[axis] for axis in config_lib.MESH_AXES) == sizes
  made = sharding.make_mesh(**found)
  assert dict(made.shape) == {"trial": 1} | found


def test_groups_of_a_population():
  """Mesh: in a population, other trials take what is left."""
  config = _config("lm", {"mesh.fsdp": 2})
  found = config_lib.mesh_sizes(config.mesh, 8, trials=True)
  assert found == {"replica": 1, "data": 1, "fsdp": 2, "tensor": 1, "trial": 4}


@pytest.mark.parametrize(
  "mesh, told",
  [
    ({"mesh.fsdp": -1}, "two axes of -1"),
    ({"mesh.data": 3}, "must be 8"),
    ({"mesh.fsdp": 3}, "must be 8"),
    ({"mesh.tensor": 0}, "config.mesh.tensor is 0"),
    ({"mesh.data": -2}, "config.mesh.data is -2"),
    ({"mesh.rules": ("fsdp+",)}, "'fsdp+tensor'"),
    ({"mesh.replica": 8, "batch_size": 12}, "use 8 or 16"),
  ],
)
def test_meshes_that_cannot_be(mesh, told):
  """Mesh: a mistake is told in a sentence, with the way out."""
  keys = runs.overrides(batch_size=16) | _WORKLOADS["lm"] | mesh
  with pytest.raises(jaxplay.UserError, match=re.escape(told)):
    config_lib.validate(runs.make_config(keys), 8)


class _OfSlice:
  """A device of one of two slices, of four chips in a row each."""

  platform, device_kind, core_on_chip = "tpu", "TPU v5 lite", 0

  def __init__(self, number):
    self.id, self.slice_index = number, number // 4
    self.process_index = self.slice_index
    self.coords = (number % 4, 0, 0)


def test_replicas_go_over_slices():
  """Mesh: only `replica`, else `trial`, has devices of several slices."""
  devices = [_OfSlice(i) for i in range(8)]
  slices = np.vectorize(lambda device: device.slice_index)
  for axis in ("replica", "trial"):
    made = sharding.make_mesh(**{axis: 2}, fsdp=4, devices=devices)
    found = slices(made.devices).reshape(2, 4)
    np.testing.assert_array_equal(found, [[0] * 4, [1] * 4])
  with pytest.raises(jaxplay.UserError, match="multiple of 2"):
    sharding.make_mesh(fsdp=8, devices=devices)
