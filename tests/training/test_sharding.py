"""Who holds what: meshes, partitions by rules, rows of a batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxplay import models
from jaxplay.training import sharding

RULES = ((".*", "fsdp"),)


@pytest.fixture(scope="module")
def grid():
  """Two by two by two: data, fsdp and tensor."""
  return sharding.make_mesh(data=2, fsdp=2, tensor=2)


def _leaf(*shape):
  return jax.ShapeDtypeStruct(shape, jnp.float32)


def _shards(mesh, leaf, rules=RULES, name="kernel"):
  """The shape of each device's part of a leaf."""
  tree = sharding.by_rules(mesh, {"Dense_0": {name: leaf}}, rules)
  return tree["Dense_0"][name].shard_shape(leaf.shape)


@pytest.mark.parametrize(
  "shape, part",
  [
    ((64, 128), (64, 64)),  # the largest dimension
    ((128, 64), (64, 64)),
    ((3, 3, 64, 32), (3, 3, 32, 32)),
    ((63, 129), (63, 129)),  # none divides
    ((64, 129), (32, 129)),  # the largest that divides
    ((63, 64), (63, 64)),  # too small to be worth it
    ((64, 64), (32, 64)),  # just large enough
    ((8192,), (4096,)),
    ((), ()),
  ],
)
def test_fsdp_splits_the_largest_dimension(grid, shape, part):
  """Mesh: "fsdp" splits large parameters where they divide, once."""
  assert _shards(grid, _leaf(*shape)) == part


def test_fsdp_of_one_splits_nothing(mesh):
  """Mesh: without an fsdp axis every device holds every parameter."""
  assert _shards(mesh, _leaf(128, 128)) == (128, 128)


@pytest.mark.parametrize(
  "partition, part",
  [
    ((None, "tensor"), (10, 3)),
    (("fsdp", "tensor"), (5, 3)),
    ((None, None), (10, 6)),
    (("tensor",), (10, 6)),  # of another rank
    ((), (10, 6)),
  ],
)
def test_partitions_by_name(grid, partition, part):
  """Mesh: a rule names an axis for each dimension."""
  assert _shards(grid, _leaf(10, 6), [("kernel", partition)]) == part


def test_what_does_not_divide_is_replicated(grid):
  """Mesh: a rule that a leaf cannot follow leaves it whole, and runs."""
  rules = [("kernel", (None, "tensor"))]
  assert _shards(grid, _leaf(10, 7), rules) == (10, 7)
  where = sharding.by_rules(grid, {"kernel": _leaf(10, 7)}, rules)
  make = jax.jit(lambda: {"kernel": jnp.ones((10, 7))}, out_shardings=where)
  assert make()["kernel"].sharding.is_fully_replicated


def test_the_first_rule_that_matches_decides(grid):
  """Mesh: rules are searched in order; without a match, all hold all."""
  rules = [("Dense_0/kernel", ("tensor", None)), ("kernel", (None, "tensor"))]
  assert _shards(grid, _leaf(8, 8), rules) == (4, 8)
  assert _shards(grid, _leaf(8, 8), rules[1:]) == (8, 4)
  assert _shards(grid, _leaf(8, 8), rules, name="scale") == (8, 8)


def test_moments_follow_their_parameters(grid):
  """Mesh: an optimizer's moments are split as their parameters are."""
  params = {"Dense_0": {"kernel": _leaf(64, 128), "bias": _leaf(128)}}
  state = {"params": params, "opt_state": ({"mu": params, "nu": params}, ())}
  where = sharding.by_rules(grid, state, RULES)
  split = where["params"]
  assert split["Dense_0"]["kernel"].shard_shape((64, 128)) == (64, 64)
  assert where["opt_state"][0] == {"mu": split, "nu": split}


def test_batches_are_split_over_data_and_fsdp(grid):
  """Mesh: the tensor axis shares its examples, the other two split them."""
  batch = np.arange(32).reshape(8, 4)
  placed = jax.device_put(batch, sharding.batch(grid))
  parts = {}
  for shard in placed.addressable_shards:
    assert shard.data.shape == (2, 4)
    parts.setdefault(int(shard.data[0, 0]), []).append(shard.device)
  assert sorted(parts) == [0, 8, 16, 24]
  assert all(len(devices) == 2 for devices in parts.values())
  across = jax.device_put(batch.T, sharding.batch(grid, axis=1))
  assert {shard.data.shape for shard in across.addressable_shards} == {(4, 2)}


def test_rows_of_the_only_host(mesh, grid):
  """M3: one host holds all rows, each once, and puts them in their place."""
  for one in (mesh, grid):
    rows = sharding.local_rows(one, 16)
    np.testing.assert_array_equal(rows, np.arange(16))
    batch = np.arange(48).reshape(3, 16)
    placed = sharding.place(sharding.batch(one, axis=1), batch, 16, 1)
    np.testing.assert_array_equal(placed, batch)
    assert placed.sharding == sharding.batch(one, axis=1)


def test_place_everywhere(grid):
  """Mesh: what all hosts know is on every device."""
  placed = sharding.place_everywhere(grid, np.arange(5))
  assert placed.sharding.is_fully_replicated
  assert len(placed.addressable_shards) == 8
  for shard in placed.addressable_shards:
    np.testing.assert_array_equal(shard.data, np.arange(5))


@pytest.mark.parametrize("axes", [(8, 1, 1), (2, 2, 2), (1, 4, 2)])
def test_attention_over_the_mesh(axes):
  """M3: each device attends for its own rows and heads, as one would alone."""
  mesh = sharding.make_mesh(
    **dict(zip(("data", "fsdp", "tensor"), axes, strict=True))
  )
  seen = []

  def attend(query, key, value, **kwargs):
    seen.append(query.shape)
    return models.attend(query, key, value, **kwargs)

  keys = jax.random.split(jax.random.key(0), 3)
  inputs = [jax.random.normal(key, (16, 6, 4, 8)) for key in keys]
  split = jax.jit(
    lambda *qkv: sharding.over_batch(mesh, attend)(*qkv, causal=True)
  )
  whole = models.attend(*inputs, causal=True)
  np.testing.assert_allclose(split(*inputs), whole, rtol=1e-5, atol=1e-5)
  assert seen == [(16 // (axes[0] * axes[1]), 6, 4 // axes[2], 8)]
  # A single row, as at initialization, cannot be split.
  one = [array[:1] for array in inputs]
  np.testing.assert_allclose(split(*one), whole[:1], rtol=1e-5, atol=1e-5)
