"""Sums up a trace that `jaxplay train --profile=A:B` has written.

    python tools/profile.py RUN

Prints the largest operations, the time by category, and, of a transformer on a
device whose peak is known, model-FLOP utilization. The trace itself opens in
Perfetto (RUN/profile/.../perfetto_trace.json.gz at ui.perfetto.dev) and in
TensorBoard (tensorboard --logdir=RUN/profile).
"""

import argparse
import collections
import pathlib
import re
import sys

# Or Python's own `profile`, which others import, would be this file.
sys.path = [folder for folder in sys.path if folder != sys.path[0]]


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("run", type=pathlib.Path, metavar="RUN")
  parser.add_argument("--top", type=int, default=15, metavar="N")
  options = parser.parse_args()
  traces = sorted(options.run.glob("profile/**/*.xplane.pb"))
  if not traces:
    parser.error(
      f"{str(options.run)!r} holds no trace; train with --profile=A:B"
    )

  import jax

  trace = jax.profiler.ProfileData.from_file(str(traces[-1]))
  operations = list(_operations(trace))
  if not operations:
    parser.error(f"{str(traces[-1])!r} holds no operation of a program")
  total = sum(seconds for _, _, seconds in operations)
  print(f"{total * 1e3:.1f} ms of operations, in {traces[-1]}")
  for title, key in (("category", 1), ("operation", 0)):
    sums = collections.Counter()
    calls = collections.Counter()
    for operation in operations:
      sums[operation[key]] += operation[2]
      calls[operation[key]] += 1
    print(f"\n{title:<40}{'ms':>10}{'share':>8}{'calls':>8}")
    for name, seconds in sums.most_common(options.top):
      share = seconds / total
      print(f"{name:<40.40}{seconds * 1e3:>10.2f}{share:>8.1%}{calls[name]:>8}")
  _utilization(options.run)
  return 0


def _operations(trace):
  """Yields (operation, category, seconds) of what the devices computed."""
  for plane in trace.planes:
    for line in plane.lines:
      if plane.name.startswith("/device:TPU") and line.name != "XLA Ops":
        continue
      for event in line.events:
        stats = dict(event.stats)
        name = stats.get("hlo_op")
        if not name and line.name != "XLA Ops":
          continue
        name = name or event.name
        # Without its number: the fusions of all layers are one kind.
        kind = re.sub(r"[.\d]+$", "", name.lstrip("%").split(" ")[0])
        category = stats.get("hlo_category") or kind.split("_")[-1]
        # Loops and calls hold the time of what is in them.
        if category not in ("while", "call", "conditional"):
          yield kind, category, event.duration_ns / 1e9


def _utilization(run):
  """Prints model-FLOP utilization, from what the run has logged."""
  import statistics

  from jaxplay import config as config_lib
  from jaxplay import rundir
  from jaxplay.pods import roofline
  from jaxplay.training import dry_run
  from jaxplay.training import workload as workload_lib

  directory = rundir.RunDir(run)
  config = config_lib.from_json(directory.config())
  lines = [line for line in directory.metrics() if "steps_per_second" in line]
  devices = (directory.provenance() or {}).get("devices", "")
  kind = re.sub(r"^\d+ x | on \d+ host\(s\)$", "", devices)
  chip = roofline.chip(kind)
  if (
    config.model.name not in config_lib.TRANSFORMERS
    or chip is None
    or not lines
  ):
    return
  rate = statistics.median(
    line["steps_per_second"] for line in lines[1:] or lines
  )
  workload = workload_lib.make_workload(config, planned=True)
  flops = sum(dry_run.formula_flops(config, workload).values())
  number = int(re.match(r"\d+", devices)[0])
  share = rate * flops / (number * chip.flops)
  print(f"\nmodel-FLOP utilization: {share:.1%} of {number} x {kind}")


if __name__ == "__main__":
  sys.exit(main())
