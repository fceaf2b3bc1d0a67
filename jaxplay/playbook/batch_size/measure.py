"""Measures speed and memory of a batch size, or estimates them by topology."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections

Measure = Callable[[ml_collections.ConfigDict], Mapping[str, Any]]


def on_devices(devices: Sequence[Any]) -> Measure:
  """Returns a function that times a config on devices of this process.

  Args:
    devices: The devices to train on.

  Returns:
    A function from a config to the fields of `throughput.Speed`, except
    `batch_size`.
  """
  from jaxplay.pods import probe, program

  def measure(config):
    speed = probe.measure(config, devices)
    collectives = ()
    if speed.text and len(devices) > 1:
      collectives = program.traffic(speed.text).collectives
    exchange_seconds = sum(
      c.times * probe.exchange_seconds(devices, c.wire_bytes / c.times)
      for c in collectives
    )
    return {
      "step_seconds": speed.step_seconds,
      "loop_seconds": speed.loop_seconds,
      "exchange_seconds": exchange_seconds,
      "bytes": speed.bytes,
      "too_large": speed.too_large,
    }

  return measure


def for_topology(topology: Any) -> Measure:
  """As `on_devices`, but estimates by the compiler and a roofline.

  Args:
    topology: From `pods.topology.topology`.
  """
  from jaxplay.pods import estimate

  def measure(config):
    row = estimate.estimate(topology, config)
    if row["too_large"]:  # The compiler does not report the size.
      return {"too_large": row["too_large"]}
    needed, chip = sum(row["memory"].values()), row["chip"]
    speed = {"bytes": needed, "too_large": ""}
    if chip is None:
      return speed
    peak = max(needed, row["eval_bytes"])
    if peak > chip["memory"]:
      gib = 2**30
      speed["too_large"] = (
        f"{peak / gib:.1f} GiB of {chip['memory'] / gib:.1f} GiB"
      )
    return speed | {
      "loop_seconds": row["step_seconds"][0],
      "exchange_seconds": row["seconds"]["links"] + row["seconds"]["network"],
      "bound": row["bound"],
    }

  return measure


def planned_num_train(
  config: ml_collections.ConfigDict, topology: Any
) -> int | None:
  """Returns the examples of the training split; None: it is not available."""
  from jaxplay.training import workload

  planned = workload.make_workload(
    config, devices=topology.devices, planned=True
  )
  split = planned.dataset.splits.get("train")
  return split.num_examples if split else None
