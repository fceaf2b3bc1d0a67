"""The roofline of a step, on simple numbers."""

import pytest

from jaxplay.pods import program, roofline

_CHIP = roofline.Chip(
  flops=100.0,
  memory=1e9,
  memory_bandwidth=10.0,
  link_bandwidth=2.0,
  network_bandwidth=1.0,
  closes_at=4,
  source="made up",
)


def _collective(group, size=8.0, kind="all-gather"):
  return program.Collective(kind, size, tuple(group), 1)


def test_overlap():
  """A step takes the longest time with full overlap, and the sum without."""
  line = roofline.estimate(_CHIP, flops=300.0, memory_bytes=20.0)
  assert line.seconds == {
    "compute": 3.0,
    "memory": 2.0,
    "links": 0.0,
    "network": 0.0,
  }
  assert line.bound == "compute" and line.intensity == 15.0
  assert line.step_seconds == (3.0, 5.0)
  assert line.efficiency == (0.6, 1.0)
  assert (
    roofline.estimate(_CHIP, flops=1.0, memory_bytes=20.0).bound == "memory"
  )


@pytest.mark.parametrize(
  "size, shape, links",
  [
    (2, (2,), 1),  # a chain
    (4, (4,), 2),  # a ring, in both directions
    (4, (4, 4), 2),
    (16, (4, 4), 4),  # over both dimensions
    (8, (2, 8), 2),
    (16, (2, 8), 3),
  ],
)
def test_links_of_a_group(size, shape, links):
  """Links along each dimension that a group covers; twice in a ring."""
  line = roofline.estimate(
    _CHIP,
    flops=1.0,
    memory_bytes=0.0,
    collectives=[_collective(range(size))],
    slice_shape=shape,
  )
  expected = 8.0 * (size - 1) / size / (2.0 * links)
  assert line.seconds["links"] == pytest.approx(expected)
  assert line.seconds["network"] == 0


def test_between_slices():
  """A group with chips of two slices uses the network."""
  line = roofline.estimate(
    _CHIP,
    flops=1.0,
    memory_bytes=0.0,
    collectives=[_collective((0, 4), kind="all-reduce")],
    slice_shape=(4,),
  )
  assert line.seconds["network"] == 8.0 and line.seconds["links"] == 0


@pytest.mark.parametrize(
  "kind, memory",
  [
    ("TPU v4", 32 * 2**30),
    ("TPU v5 lite", 16 * 2**30),
    ("TPU v5", 95 * 2**30),
    ("TPU v5p", 95 * 2**30),
    ("TPU v6 lite", 32 * 2**30),
    ("NVIDIA H100 80GB HBM3", 80e9),
    ("NVIDIA H200", 141e9),
  ],
)
def test_chips_by_the_kind_of_a_device(kind, memory):
  """Device kinds of JAX are known, with a source."""
  assert roofline.chip(kind).memory == memory
  assert roofline.chip(kind).source


def test_an_unknown_chip():
  """There are no peaks."""
  assert roofline.chip("cpu") is None
