"""Memory of devices: available, needed by programs, and exhausted."""

import math
import os
import re
from typing import Any

import jax

_SHORT = "RESOURCE_EXHAUSTED"


def of_device(device: Any) -> float:
  """Bytes that programs on a device may use; NaN if unknown.

  For a CPU all memory of the machine.
  """
  if device.platform == "cpu":
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
  return float((device.memory_stats() or {}).get("bytes_limit", math.nan))


def available() -> float:
  """Bytes that are free now for each device of this host."""
  device = jax.local_devices()[0]
  if device.platform != "cpu":
    return of_device(device)
  try:
    with open("/proc/meminfo", encoding="ascii") as file:
      kib = next(int(line.split()[1]) for line in file if "MemAvail" in line)
    free = kib * 1024.0
  except OSError:  # Not Linux: assume that half is free.
    free = of_device(device) / 2
  return free / jax.local_device_count()


def peak_bytes(program: Any) -> float:
  """Peak memory of a compiled program on one device, in bytes."""
  memory = program.memory_analysis()
  return float(
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
  )


def exhausted(error: BaseException) -> str:
  """Describes an error of exhausted device memory; "" for other errors."""
  text = str(error)
  if _SHORT not in text:
    return ""
  # Errors of the compiler are long; those of a device are one line.
  used = re.search(r"Used [\d.]+\w? of [\d.]+\w? \w+", text)
  line = text.partition(f"{_SHORT}: ")[2].split("\n")[0]
  return used[0] if used else line or "out of memory"
