"""How fast a step could be: what it computes and moves, over a chip's peaks.

An estimate from below: a program that reaches a peak and overlaps all else with
it takes the longest of its parts (Williams et al. 2009, doi
10.1145/1498765.1498785); one that overlaps nothing takes their sum.
"""

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence

from jaxplay.pods import program

_BOOK = "Austin et al. 2025, How to Scale Your Model, jax-ml.github.io"
_NVIDIA = "NVIDIA's data sheet (dense bfloat16)"


@dataclasses.dataclass(frozen=True)
class Chip:
  """Peaks of one chip.

  Attributes:
    flops: Per second, in bfloat16; float32 products of TPUs are of that type,
      too, unless another precision is asked for.
    memory: Bytes.
    memory_bandwidth: Bytes per second.
    link_bandwidth: Bytes per second, of one link to a neighbour, one way.
    network_bandwidth: Bytes per second between slices, for each chip.
    closes_at: Chips along a dimension of the torus from which on it is closed
      to a ring.
    source: Where the figures are from.
  """

  flops: float
  memory: float
  memory_bandwidth: float
  link_bandwidth: float
  network_bandwidth: float
  closes_at: int
  source: str


_GIB = 2**30  # the book says GB of the memory of TPUs, and means this

# By what the device's kind begins with, once lower case and without blanks.
CHIPS = {
  "tpuv4": Chip(2.75e14, 32 * _GIB, 1.2e12, 4.5e10, 6.25e9, 4, _BOOK),
  "tpuv5lite": Chip(1.97e14, 16 * _GIB, 8.1e11, 4.5e10, 3.125e9, 16, _BOOK),
  "tpuv5e": Chip(1.97e14, 16 * _GIB, 8.1e11, 4.5e10, 3.125e9, 16, _BOOK),
  "tpuv5": Chip(4.59e14, 95 * _GIB, 2.8e12, 9e10, 6.25e9, 4, _BOOK),
  "tpuv6": Chip(9.2e14, 32 * _GIB, 1.6e12, 9e10, 1.25e10, 16, _BOOK),
  # NVLink through a switch: all of a host's chips are one hop apart, which is
  # a ring of one link at the rate of all of them.
  "nvidiaa100": Chip(3.12e14, 80e9, 2.0e12, 3e11, 2.5e10, 1, _NVIDIA),
  "nvidiah100": Chip(9.89e14, 80e9, 3.35e12, 4.5e11, 5e10, 1, _NVIDIA),
  "nvidiah200": Chip(9.89e14, 141e9, 4.8e12, 4.5e11, 5e10, 1, _NVIDIA),
}


UNKNOWN = Chip(math.nan, math.nan, math.nan, math.inf, math.inf, 1, "")


def chip(kind: str) -> Chip | None:
  """The chip of a device's kind, such as "TPU v5 lite"; None: not known."""
  name = kind.lower().replace(" ", "").replace("-", "")
  found = [key for key in CHIPS if name.startswith(key)]
  return CHIPS[max(found, key=len)] if found else None


@dataclasses.dataclass(frozen=True)
class Roofline:
  """Least seconds of a step, by what takes them.

  Attributes:
    seconds: "compute", "memory", "links" (within a slice) and "network"
      (between slices).
    intensity: FLOPs for each byte from or to memory.
  """

  seconds: Mapping[str, float]
  intensity: float

  @property
  def bound(self) -> str:
    """Which of them is the longest."""
    return max(self.seconds, key=self.seconds.__getitem__)

  @property
  def step_seconds(self) -> tuple[float, float]:
    """Of a step: if all is overlapped, and if nothing is."""
    return max(self.seconds.values()), sum(self.seconds.values())

  @property
  def efficiency(self) -> tuple[float, float]:
    """Share of the peak that the computation reaches, at least and at most."""
    overlapped, added = self.step_seconds
    compute = self.seconds["compute"]
    return compute / added, compute / overlapped


def estimate(
  chip: Chip,
  *,
  flops: float,
  memory_bytes: float,
  collectives: Iterable[program.Collective] = (),
  slice_shape: Sequence[int] = (1,),
) -> Roofline:
  """Of a step on one of many chips.

  Args:
    chip: Its peaks.
    flops: Of one device.
    memory_bytes: From and to the memory of one device.
    collectives: Of the program; places of devices count slice by slice.
    slice_shape: Chips along each dimension of a slice.
  """
  within = between = 0.0
  size = math.prod(slice_shape)
  for one in collectives:
    if one.between_slices or len({p // size for p in one.group}) > 1:
      between += one.wire_bytes / chip.network_bandwidth
    else:
      within += one.wire_bytes / _ring_bandwidth(
        chip, len(one.group), slice_shape
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
  """Bytes per second into a chip of a group of `size`, over its links.

  Along each dimension of the torus that the group needs, both ways around where
  the dimension is closed, one way where it is not.
  """
  total, reached = 0.0, 1
  for length in sorted(shape, reverse=True):
    if reached >= size:
      break
    reached *= length
    closed = length >= chip.closes_at > 1
    total += chip.link_bandwidth * (2 if closed else 1)
  return total or chip.link_bandwidth
