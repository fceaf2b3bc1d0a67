"""Memory of devices: what there is, what programs take, what was short."""

import math
import os
import re
from typing import Any

import jax

_SHORT = "RESOURCE_EXHAUSTED"


def of_device(device: Any) -> float:
  """Bytes that programs on a device may use; NaN where it does not say.

  A CPU's is the machine's, whatever else runs there.
  """
  if device.platform == "cpu":
    return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
  return float((device.memory_stats() or {}).get("bytes_limit", math.nan))


def available() -> float:
  """Bytes that each device of this host can have now."""
  device = jax.local_devices()[0]
  if device.platform != "cpu":
    return of_device(device)
  try:
    with open("/proc/meminfo", encoding="ascii") as file:
      kib = next(int(line.split()[1]) for line in file if "MemAvail" in line)
    free = kib * 1024.0
  except OSError:  # Of Linux alone; elsewhere others may need half of it.
    free = of_device(device) / 2
  return free / jax.local_device_count()


def peak_bytes(program: Any) -> float:
  """Bytes on one device, at the peak of a compiled program."""
  memory = program.memory_analysis()
  return float(
    memory.argument_size_in_bytes
    + memory.output_size_in_bytes
    - memory.alias_size_in_bytes
    + memory.temp_size_in_bytes
  )


def exhausted(error: BaseException) -> str:
  """What was short, if an error is of a device's memory; else empty."""
  text = str(error)
  if _SHORT not in text:
    return ""
  # The compiler's error is of pages; a device's is a line.
  used = re.search(r"Used [\d.]+\w? of [\d.]+\w? \w+", text)
  line = text.partition(f"{_SHORT}: ")[2].split("\n")[0]
  return used[0] if used else line or "out of memory"
