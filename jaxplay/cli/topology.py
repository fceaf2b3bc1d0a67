"""`jaxplay plan topology`: the pod on a laptop."""

import contextlib
import json
import math
import sys

from jaxplay.api import arguments as arguments_lib
from jaxplay.api import plans, runs
from jaxplay.cli import common
from jaxplay.terminal import short


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
  common.add_options(
    topology,
    plans.plan_topology,
    *("topology", "batch_sizes", "largest"),
    metavars={"topology": "T[,T...]"},
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
  config = runs.load_config(arguments.config, common.overrides(rest, arguments))
  # The table alone is for standard output.
  with contextlib.redirect_stdout(sys.stderr):
    rows = plans.plan_topology(
      config, **common.given(arguments, "topology", "batch_sizes", "largest")
    )
  print(json.dumps(rows, indent=1) if arguments.json else _as_table(rows))
  return 0


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
