"""The roofline model: lower bounds of the time of a step.

The time of each resource is its use over its peak. With full overlap, a step
takes the longest of these times (Williams et al. 2009, doi
10.1145/1498765.1498785); without overlap, their sum.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from jaxplay.pods import program

_BOOK = "Austin et al. 2025, How to Scale Your Model, jax-ml.github.io"
_NVIDIA = "NVIDIA's data sheet (dense bfloat16)"


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peaks of a chip.

  Attributes:
    flops: FLOPs per second in bfloat16; TPUs use it for float32 products, too,
      by default.
    memory: Bytes.
    memory_bandwidth: Bytes per second.
    link_bandwidth: Bytes per second of a link to a neighbour, in one direction.
    network_bandwidth: Bytes per second between slices, for each chip.
    closes_at: Minimum number of chips along a dimension of the torus that is
      closed to a ring.
    source: Source of the values.
  """

  flops: float
  memory: float
  memory_bandwidth: float
  link_bandwidth: float
  network_bandwidth: float
  closes_at: int
  source: str


_GIB = 2**30  # "GB" of TPU memory in the book

# By the first characters of the device kind, lower case and without blanks.
CHIPS = {
  "tpuv4": Chip(2.75e14, 32 * _GIB, 1.2e12, 4.5e10, 6.25e9, 4, _BOOK),
  "tpuv5lite": Chip(1.97e14, 16 * _GIB, 8.1e11, 4.5e10, 3.125e9, 16, _BOOK),
  "tpuv5e": Chip(1.97e14, 16 * _GIB, 8.1e11, 4.5e10, 3.125e9, 16, _BOOK),
  "tpuv5": Chip(4.59e14, 95 * _GIB, 2.8e12, 9e10, 6.25e9, 4, _BOOK),
  "tpuv6": Chip(9.2e14, 32 * _GIB, 1.6e12, 9e10, 1.25e10, 16, _BOOK),
  # NVLink with a switch: all chips of a host are neighbours, which is the same
  # as a ring of links with the whole bandwidth.
  "nvidiaa100": Chip(3.12e14, 80e9, 2.0e12, 3e11, 2.5e10, 1, _NVIDIA),
  "nvidiah100": Chip(9.89e14, 80e9, 3.35e12, 4.5e11, 5e10, 1, _NVIDIA),
  "nvidiah200": Chip(9.89e14, 141e9, 4.8e12, 4.5e11, 5e10, 1, _NVIDIA),
}


UNKNOWN = Chip(math.nan, math.nan, math.nan, math.inf, math.inf, 1, "")


def chip(kind: str) -> Chip | None:
  """Returns the chip of a device kind, such as "TPU v5 lite"; None: unknown."""
  name = kind.lower().replace(" ", "").replace("-", "")
  found = [key for key in CHIPS if name.startswith(key)]
  return CHIPS[max(found, key=len)] if found else None


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Minimum time of a step by resource.

  Attributes:
    seconds: Resource -> seconds: "compute", "memory", "links" (within a slice)
      and "network" (between slices).
    intensity: Arithmetic intensity, FLOPs per byte from or to memory.
  """

  seconds: Mapping[str, float]
  intensity: float

  @property
  def bound(self) -> str:
    """The resource with the longest time."""
    return max(self.seconds, key=self.seconds.__getitem__)

  @property
  def step_seconds(self) -> tuple[float, float]:
    """Seconds of a step, with full overlap and without overlap."""
    return max(self.seconds.values()), sum(self.seconds.values())

  @property
  def efficiency(self) -> tuple[float, float]:
    """Share of the peak FLOPs, without overlap and with full overlap."""
    overlapped, without_overlap = self.step_seconds
    compute = self.seconds["compute"]
    return compute / without_overlap, compute / overlapped


def estimate(
  chip: Chip,
  *,
  flops: float,
  memory_bytes: float,
  collectives: Iterable[program.Collective] = (),
  slice_shape: Sequence[int] = (1,),
) -> Roofline:
  """Returns the roofline of a step.

  Args:
    chip: The chip of each device.
    flops: FLOPs of one device.
    memory_bytes: Memory traffic of one device.
    collectives: Collectives of the program; devices are ordered by slice.
    slice_shape: Chips along each dimension of a slice.
  """
  within = between = 0.0
  size = math.prod(slice_shape)
  for collective in collectives:
    if (
      collective.between_slices
      or len({p // size for p in collective.group}) > 1
    ):
      between += collective.wire_bytes / chip.network_bandwidth
    else:
      within += collective.wire_bytes / _ring_bandwidth(
        chip, len(collective.group), slice_shape
      )
  return Roofline(
    seconds={
      "compute": flops / chip.flops,
      "memory": memory_bytes / chip.memory_bandwidth,
      "links": within,
      "network": between,
    },
    intensity=flops / memory_bytes if memory_bytes else math.inf,
  )


def _ring_bandwidth(chip, size, shape):
  """Returns the bytes per second into a chip of a group of `size` chips.

  Over the links along each dimension of the torus that the group covers: two
  directions if the dimension is closed to a ring, otherwise one.
  """
  total, reached = 0.0, 1
  for length in sorted(shape, reverse=True):
    if reached >= size:
      break
    reached *= length
    closed = length >= chip.closes_at > 1
    total += chip.link_bandwidth * (2 if closed else 1)
  return total or chip.link_bandwidth
