"""`jaxplay plan topology`: the pod on a laptop."""

import dataclasses
import json
import math
import sys

import jaxplay
from jaxplay.api import arguments as arguments_lib
from jaxplay.api import devices, runs
from jaxplay.cli import common
from jaxplay.terminal import short

_HERE = "here"
# A batch that doubles more often than this from what was asked for is not what
# anybody looks for.
_MOST_DOUBLINGS = 12


def add(plan):
  """Adds the question to those of `jaxplay plan`."""
  topology = plan.add_parser(
    "topology",
    help="memory, communication and speed on TPUs that are not here",
    allow_abbrev=False,
    epilog="Config keys are set by --config.KEY=VALUE.",
  )
  topology.add_argument(
    "--config", required=True, metavar="FILE", help="experiment file, or :ARG"
  )
  topology.add_argument(
    *("--topology", "--topologies"),
    required=True,
    metavar="T[,T...]",
    dest="topologies",
    help="such as v5e:16x16, or 2*v5p:4x4x8 for two slices; 'here': the devices"
    " of this machine, with a measured step",
  )
  topology.add_argument(
    "--batch_sizes",
    type=common.reader(arguments_lib.Counts),
    metavar="B[,B...]",
    help="examples per update; default: the config's",
  )
  topology.add_argument(
    "--largest",
    action="store_true",
    help="find the largest batch that fits, too: doubles until it does not",
  )
  topology.add_argument("--json", action="store_true", help="as JSON")
  topology.add_argument(
    "--fake_devices",
    type=common.reader(arguments_lib.Devices),
    metavar="N",
    help="'here': emulate N devices on the CPU",
  )
  topology.set_defaults(verb=_topology)


def _topology(arguments, rest):
  from jaxplay import config as config_lib

  config = runs.load_config(arguments.config, common.overrides(rest, arguments))
  names = arguments.topologies.split(",")
  if _HERE in names:
    devices.start()
  else:
    devices.start_to_compile()

  from jaxplay.pods import topology

  # All names are looked at before the first is compiled for, which may take
  # minutes.
  found = {name: _devices(name, topology) for name in names}
  cases = []
  for name, (chips, shape) in found.items():
    for size in arguments.batch_sizes or [config.batch_size]:
      sized = config_lib.with_batch_size(config, size)
      topology.check(sized, chips)
      cases.append((name, chips, shape, sized))
  rows = []
  for name, chips, shape, sized in cases:
    _tell_compiling(name, sized)
    row = _case(name, chips, shape, sized)
    if arguments.largest:
      row["largest_batch"] = _largest(name, sized, chips, row)
    rows.append(row)
  if arguments.json:
    print(json.dumps(rows, indent=1))
  else:
    print(_as_table(rows))
  return 0


def _devices(name, topology):
  """(devices, chips along each dimension of a slice)."""
  import jax

  if name == _HERE:
    return jax.devices(), (jax.local_device_count(),)
  found = topology.topology(name)
  return found.devices, found.shape


def _case(name, devices, shape, config):
  """What is known of a config on a topology, as JSON."""
  from jaxplay import config as config_lib
  from jaxplay.pods import probe, program, roofline, topology

  compiled = topology.compile_for(config, devices)
  kind = devices[0].device_kind
  chip = roofline.chip(kind)
  measured = None
  if name == _HERE:
    measured = probe.step_seconds(config)
    if chip is None:
      chip = dataclasses.replace(
        roofline.UNKNOWN, source="measured here", **probe.peaks()
      )
  row = {
    "topology": name,
    "kind": kind,
    "chips": len(devices),
    "mesh": config_lib.mesh_sizes(config.mesh, len(devices)),
    "batch_size": config.batch_size,
    "memory": dict(compiled.memory),
    "chip": chip and dataclasses.asdict(chip),
    "compile_seconds": compiled.seconds,
    "fits": not compiled.too_large,
    "too_large": compiled.too_large,
  }
  if compiled.too_large:
    return row
  traffic = program.traffic(compiled.text)
  row |= {
    "eval_bytes": compiled.eval_bytes,
    "flops": compiled.flops,
    "flops_source": compiled.flops_source,
    "memory_traffic_bytes": traffic.memory_bytes,
    "collectives": _by_kind(traffic.collectives),
    "unknown_loops": traffic.unknown_loops,
  }
  if measured is not None:
    row["measured_seconds"] = measured
  if chip is None:
    return row
  line = roofline.estimate(
    chip,
    flops=compiled.flops,
    memory_bytes=traffic.memory_bytes,
    collectives=traffic.collectives,
    slice_shape=shape,
  )
  low, high = line.step_seconds
  return row | {
    "intensity": line.intensity,
    "seconds": dict(line.seconds),
    "bound": line.bound,
    "step_seconds": [low, high],
    "examples_per_second": [config.batch_size / t for t in (high, low)],
    "efficiency": list(line.efficiency),
  }


def _by_kind(collectives):
  kinds: dict = {}
  for one in collectives:
    sums = kinds.setdefault(
      one.kind, {"times": 0, "wire_bytes": 0.0, "network_bytes": 0.0}
    )
    sums["times"] += one.times
    sums["wire_bytes"] += one.wire_bytes
    if one.between_slices:
      sums["network_bytes"] += one.wire_bytes
  return kinds


def _tell_compiling(name, config):
  """Large programs take the compiler minutes."""
  told = f"compiling for {name}, batch {config.batch_size} ..."
  print(told, file=sys.stderr, flush=True)


def _largest(name, config, devices, row):
  """The largest batch that fits, by doubling or halving; None: none does."""
  from jaxplay import config as config_lib
  from jaxplay.pods import topology

  def fits(size):
    sized = config_lib.with_batch_size(config, size)
    try:
      config_lib.validate(sized, len(devices))
    except jaxplay.UserError:  # Fewer examples than devices.
      return None
    _tell_compiling(name, sized)
    return not topology.compile_for(sized, devices).too_large

  size = config.batch_size
  for _ in range(_MOST_DOUBLINGS):
    if row["fits"]:
      if not fits(2 * size):
        return size
      size *= 2
    else:
      size //= 2
      outcome = fits(size) if size else None
      if outcome is None or outcome:
        return size if outcome else None
  return size


def _as_table(rows):
  """The cases side by side."""
  lines: list[tuple[str, list[str]]] = []

  def line(title, of_row):
    lines.append((title, [of_row(row) for row in rows]))

  def of(key, form=short):
    return lambda row: form(row[key]) if row.get(key) is not None else "-"

  line("", of("topology"))
  line("chips", of("chips"))
  line("kind", of("kind"))
  line("mesh", lambda row: _mesh(row["mesh"]))
  line("batch size", of("batch_size"))
  line("fits", lambda row: "yes" if row["fits"] else "NO")
  line(
    "memory of a chip", lambda row: _bytes((row["chip"] or {}).get("memory"))
  )
  for part in ("parameters", "optimizer", "averages", "other", "batch"):
    line(f"  {part}", lambda row, p=part: _bytes(row["memory"].get(p)))
  line("  temporaries", lambda row: _bytes(row["memory"].get("temporaries")))
  line("  of a step", lambda row: _bytes(_total(row)))
  line("  of an evaluation", of("eval_bytes", _bytes))
  if any("largest_batch" in row for row in rows):
    line("largest batch found", of("largest_batch"))
  line("FLOPs of a step", of("flops"))
  line("  counted by", of("flops_source", str))
  line("memory traffic", of("memory_traffic_bytes", _bytes))
  line("FLOPs per byte", of("intensity"))
  kinds = {kind for row in rows for kind in row.get("collectives", {})}
  for kind in sorted(kinds):
    line(f"{kind}s", lambda row, k=kind: _exchange(row, k))
  line("least time, ms", lambda row: "")
  for part in ("compute", "memory", "links", "network"):
    line(f"  of {part}", lambda row, p=part: _ms(row.get("seconds", {}).get(p)))
  line("step, ms", lambda row: _between(row.get("step_seconds"), _ms))
  if any("measured_seconds" in row for row in rows):
    line("measured step, ms", lambda row: _ms(row.get("measured_seconds")))
  line("bound by", of("bound", str))
  line(
    "examples per second",
    lambda row: _between(row.get("examples_per_second"), _digits),
  )
  line("of the peak", lambda row: _between(row.get("efficiency"), _percent))
  line("seconds to compile", of("compile_seconds"))
  heads, *cells = [[title, *values] for title, values in lines]
  told = common.as_table(heads, cells).split("\n")
  for row in rows:
    if row["too_large"]:
      told.append(f"{row['topology']}: {row['too_large']}")
  sources = {row["chip"]["source"] for row in rows if row["chip"]}
  told += [
    "Of one device, but batch size and examples per second. Estimates, but what"
    " is called measured; ranges: if all is overlapped, and if nothing is.",
    f"Peaks: {'; '.join(sorted(sources)) or 'none known of these devices'}",
  ]
  return "\n".join(told)


def _mesh(sizes):
  split = [f"{axis} {size}" for axis, size in sizes.items() if size > 1]
  return " x ".join(split) or "one device"


def _total(row):
  memory = row["memory"]
  return sum(memory.values()) if "temporaries" in memory else None


def _exchange(row, kind):
  of_kind = row.get("collectives", {}).get(kind)
  if of_kind is None:
    return "-"
  return f"{of_kind['times']:,} of {_bytes(of_kind['wire_bytes'])}"


def _bytes(number):
  from jaxplay.training import dry_run

  known = number is not None and not math.isnan(number)
  return dry_run.format_bytes(number) if known else "-"


def _ms(seconds):
  return "-" if seconds is None else _digits(1e3 * seconds)


def _digits(number):
  """Three of them, and none of the exponents that a table is no place for."""
  rounded = float(f"{number:.3g}")
  return f"{rounded:,.0f}" if rounded >= 100 else f"{rounded:.3g}"


def _percent(share):
  return f"{100 * share:.0f}%"


def _between(pair, form):
  if pair is None:
    return "-"
  low, high = map(form, pair)
  return low if low == high else f"{low} to {high}"
