"""Estimates and measurements of a config on the devices of this process."""

import types

import jax
import pytest

from jaxplay.playbook.batch_size import measure
from jaxplay.pods import estimate, probe, topology
from jaxplay.training import memory
from tests.training import runs


def _config():
  return runs.make_config(runs.overrides(batch_size=16))


def _compiled(fits):
  return types.SimpleNamespace(too_large="" if fits else "out of memory")


@pytest.mark.parametrize(
  "most, begin, largest", [(100, 16, 64), (100, 256, 64), (16, 16, 16)]
)
def test_the_largest_batch_that_fits(most, begin, largest, monkeypatch):
  """B1: by doubling or halving the config's batch size."""
  monkeypatch.setattr(
    topology,
    "compile_for",
    lambda config, devices: _compiled(config.batch_size <= most),
  )
  config = runs.make_config(runs.overrides(batch_size=begin))
  here = topology.Topology("here", jax.devices()[:1], (1,), 1)
  compiled = []
  found = estimate.largest_batch(
    here, config, {"fits": begin <= most}, compiled.append
  )
  assert found == largest and compiled


def test_no_batch_fits(monkeypatch):
  """B1: None if an example for each device does not fit."""
  monkeypatch.setattr(topology, "compile_for", lambda *_: _compiled(False))
  here = topology.Topology("here", jax.devices()[:2], (2,), 1)
  assert estimate.largest_batch(here, _config(), {"fits": False}) is None


def test_measured_on_a_device():
  """B2: times of the step and of the loop, and peak memory."""
  row = measure.on_devices(jax.devices()[:1])(_config())
  assert row["step_seconds"] > 0 and row["loop_seconds"] > 0
  assert row["bytes"] > 0 and row["exchange_seconds"] == 0
  assert row["too_large"] == ""


def test_too_large(monkeypatch):
  """B1: by the memory of the compiled program, before it runs."""
  monkeypatch.setattr(memory, "of_device", lambda device: 1.0)
  speed = probe.measure(_config(), jax.devices()[:1])
  assert "as compiled" in speed.too_large and speed.bytes > 1
  assert speed.loop_seconds != speed.loop_seconds  # NaN: nothing was timed
