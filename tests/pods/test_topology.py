"""Programs compiled for TPU topologies, without TPUs."""

import importlib.util
import json
import re

import pytest

import jaxplay
from jaxplay import cli
from jaxplay import config as config_lib
from jaxplay.api import devices
from jaxplay.pods import program, roofline, topology
from tests.study import studies
from tests.training import runs

pytestmark = [
  pytest.mark.pods,
  pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="without libtpu nothing can be compiled for TPUs",
  ),
]
_LM = runs.overrides(
  model__name="lm",
  model__norm="rms",
  model__width=128,
  model__depth=3,
  model__heads=2,
  model__dtype="bfloat16",
  optimizer="adamw",
  objective="valid/loss",
  averages=("ema",),
  dataset__name="pythonlib",
  dataset__sequence_length=128,
  dataset__vocab_size=512,
  mesh__data=1,
  mesh__fsdp=-1,
  batch_size=16,
  eval_batch_size=16,
)


@pytest.fixture(scope="module", autouse=True)
def quiet():
  """Keeps JAX from searching the network for TPUs."""
  devices.quiet_without_tpu()


def test_a_pod_on_a_laptop():
  """Memory by kind, FLOPs, collectives and the chip, of a sharded program."""
  pod = topology.topology("v5e:2x2")
  config = runs.make_config(_LM)
  compiled = topology.compile_for(config, pod.devices)
  matrices = 3 * (4 * 128**2 + 3 * 128 * 352) + 2 * 512 * 128
  norms = (2 * 3 + 1) * 128
  assert not compiled.too_large
  assert compiled.memory["parameters"] == matrices + 4 * norms
  assert compiled.memory["averages"] == compiled.memory["parameters"]
  moments = compiled.memory["optimizer"] - 2 * compiled.memory["parameters"]
  assert 0 <= moments < 64  # and a counter
  assert compiled.memory["batch"] >= 16 * 129 / 4
  assert compiled.memory["temporaries"] > 0 and compiled.eval_bytes > 0
  # Six FLOPs per matrix parameter and token, and attention.
  tokens = 16 * 128 / 4
  least = 6 * tokens * (matrices - 512 * 128)
  assert least < compiled.flops < 1.5 * least
  traffic = program.traffic(compiled.text)
  assert not traffic.unknown_loops
  kinds = {collective.kind for collective in traffic.collectives}
  assert kinds & {"all-gather", "collective-permute"}
  # All parameters at least twice, for the forward and the backward pass.
  moved = sum(collective.wire_bytes for collective in traffic.collectives)
  assert moved > 2 * 2 * matrices * 3 / 4
  assert roofline.chip(pod.kind).memory == 16 * 2**30


def test_two_slices():
  """The gradients of replicas are exchanged over the network."""
  pod = topology.topology("2*v5e:2x2")
  assert len(pod.devices) == 8 and pod.slices == 2
  keys = _LM | {"mesh.replica": 2}
  compiled = topology.compile_for(runs.make_config(keys), pod.devices)
  found = program.traffic(compiled.text).collectives
  line = roofline.estimate(
    roofline.chip(pod.kind),
    flops=compiled.flops,
    memory_bytes=1.0,
    collectives=found,
    slice_shape=pod.shape,
  )
  assert line.seconds["network"] > 0 and line.seconds["links"] > 0
  with pytest.raises(jaxplay.UserError, match="multiple of 2"):
    topology.compile_for(runs.make_config(_LM), pod.devices)


@pytest.mark.parametrize("kind", ["v4", "v5p", "v6e"])
def test_kinds(kind):
  """A chip is a device, and its peaks are known."""
  shape = "2x2x1" if kind in ("v4", "v5p") else "2x2"
  pod = topology.topology(f"{kind}:{shape}")
  assert len(pod.devices) == 4
  assert roofline.chip(pod.kind) is not None


@pytest.mark.parametrize(
  "name",
  [
    *("v5e", "v5e:3x5", "v9:2x2", "0*v5e:2x2", "v5e:2x2x2x2", ""),
    # The library would abort the process for the first one.
    *("v5e:32x32", "v5e:2x2x2", "v5e:0x2", "v5p:4x4"),
  ],
)
def test_invalid_topologies(name):
  """Errors: an invalid name is refused."""
  with pytest.raises(jaxplay.UserError, match="topology"):
    topology.topology(name)


def _plan(tmp_path, *arguments, **extra):
  config = runs.make_config(_LM | extra)
  path = tmp_path / "config.json"
  path.write_text(json.dumps(config_lib.as_json(config)))
  return studies.call("plan", "topology", f"--config={path}", *arguments)


def test_the_table(tmp_path, capsys):
  """Topologies and batch sizes, as a table and as JSON."""
  options = ("--topology=v5e:2x2,v5p:2x2x1", "--batch_sizes=16,32")
  assert _plan(tmp_path, *options) == 0
  table = capsys.readouterr().out
  assert table.count("v5e:2x2") >= 2 and "bound by" in table
  assert "How to Scale Your Model" in table
  assert _plan(tmp_path, *options, "--json") == 0
  rows = json.loads(capsys.readouterr().out)
  assert [(row["topology"], row["batch_size"]) for row in rows] == [
    ("v5e:2x2", 16),
    ("v5e:2x2", 32),
    ("v5p:2x2x1", 16),
    ("v5p:2x2x1", 32),
  ]
  assert rows[1]["flops"] == 2 * rows[0]["flops"]
  assert rows[0]["seconds"]["compute"] > rows[2]["seconds"]["compute"]


def test_a_config_that_does_not_fit(tmp_path, capsys):
  """Out of memory at compile time is a row, with the required memory."""
  extra = {"model.width": 2048, "model.heads": 16, "dataset.vocab_size": 2**18}
  extra |= {"mesh.rules": ("data",)}
  assert _plan(tmp_path, "--topology=v5e:2x2", "--json", **extra) == 0
  (row,) = json.loads(capsys.readouterr().out)
  assert not row["fits"] and "HBM" in row["too_large"]
  assert row["memory"]["parameters"] > 4e9
  assert _plan(tmp_path, "--topology=v5e:2x2", **extra) == 0
  assert "NO" in capsys.readouterr().out


def test_batch_sizes_for_a_topology(tmp_path, capsys):
  """B1: sizes up to the first that does not fit into memory."""
  config = runs.make_config(_LM | {"dataset.vocab_size": 2**17})
  path = tmp_path / "config.json"
  path.write_text(json.dumps(config_lib.as_json(config)))
  options = ("plan", "batch-size", f"--config={path}", "--topology=v5e:2x2")
  options += (f"--workdir={tmp_path / 'plan'}", "--batch_sizes=16,512,1024")
  assert studies.call(*options, "--json") == 0
  result = json.loads(capsys.readouterr().out)
  # Sizes larger than the first that does not fit are not compiled.
  fits, too_large = result["details"]["speeds"]
  assert (fits["batch_size"], too_large["batch_size"]) == (16, 512)
  assert 0 < fits["bytes"] < 2**34 and not fits["too_large"]
  assert fits["loop_seconds"] > 0 and too_large["loop_seconds"] is None
  assert re.search(r"[\d.]+G.* HBM .*[\d.]+G", too_large["too_large"])
  (sentence,) = (s for s in result["said"] if "512 examples do not fit" in s)
  assert too_large["too_large"].rstrip(".") in sentence
  assert result["details"]["batch_size"] == 16


@pytest.mark.parametrize(
  "arguments, message",
  [
    (["--topology=v5e:2x2,v5e:3"], "v5e:3"),
    (["--topology=v5e:2x2", "--batch_sizes=15"], "12 or 16"),
    (["--topology=v5e:2x2", "--batch_sizes=0"], "at least 1"),
    (["--topology=v5e:2x2", "--config.mesh.tensor=3"], "does not cover 4"),
    (["--topology=v5e:2x2", "--bath_sizes=16"], "--batch_sizes"),
  ],
)
def test_bad_requests(tmp_path, capsys, arguments, message):
  """Errors: one sentence before anything is compiled."""
  assert _plan(tmp_path, *arguments) == cli.common.EXIT_WRONG
  error = capsys.readouterr().err
  assert message in error and error.count("\n") == 1
