"""Makes the table and the picture of docs/pods.md: models on pods of TPUs.

    python tools/pods.py --out docs/pods.md

By `jaxplay plan topology --json`, so it needs the library libtpu and no TPU.
Each program takes the compiler some half a minute; what is done is kept in
--cache, and the same command goes on where it was stopped.
"""

import argparse
import json
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
# Model -> (experiment, examples per chip, mesh is of fsdp).
MODELS = {
  "ResNet-50": ("imagenet_resnet50/config.py", 128, False),
  "ViT-S/16": ("imagenet_vit_s16/config.py", 128, False),
  "LM 124M": ("c4_lm/config.py:124m", 16, True),
  "LM 1B": ("c4_lm/config.py:1b", 4, True),
  "LM 7B": ("c4_lm/config.py:7b", 2, True),
}
TOPOLOGIES = {
  "v5e": ("v5e:2x4", "v5e:8x8", "v5e:16x16", "4*v5e:16x16", "16*v5e:16x16"),
  "v5p": ("v5p:2x2x2", "v5p:4x4x4", "v5p:8x8x8", "v5p:16x16x16"),
}


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("--out", type=pathlib.Path, required=True)
  parser.add_argument(
    "--cache", type=pathlib.Path, default=ROOT / "runs" / "pods.json"
  )
  options = parser.parse_args()
  options.cache.parent.mkdir(parents=True, exist_ok=True)
  known, rows = {}, {}
  if options.cache.exists():
    known = json.loads(options.cache.read_text())
  for model in MODELS:
    for names in TOPOLOGIES.values():
      for name in names:
        key = f"{model} on {name}"
        if key not in known:
          known[key] = _planned(model, name)
          options.cache.write_text(json.dumps(known))
          told = "fits" if known[key]["fits"] else "does not fit"
          print(f"{key}: {told}", flush=True)
        rows[key] = known[key]
  page = options.out.read_text()
  begin, end = "<!-- made by tools/pods.py -->\n", "<!-- end -->"
  head, _, rest = page.partition(begin)
  options.out.write_text(
    head + begin + _table(rows) + end + rest.partition(end)[2]
  )
  _picture(rows, options.out.with_suffix(".svg"))
  return 0


def _planned(model, topology):
  experiment, per_chip, split = MODELS[model]
  slices = int((re.match(r"(\d+)\*", topology) or "11")[1])
  batch = per_chip * _chips(topology)
  mesh = {"replica": slices, "data": 1 if split else -1, "fsdp": -1}
  if not split:
    mesh["fsdp"] = 1
  command = [
    *(sys.executable, "-m", "jaxplay.cli", "plan", "topology", "--json"),
    f"--config={ROOT / 'experiments' / experiment}",
    f"--topology={topology}",
    f"--config.batch_size={batch}",
    f"--config.eval_batch_size={batch}",
    *(f"--config.mesh.{axis}={size}" for axis, size in mesh.items()),
  ]
  out = subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT)
  return json.loads(out.stdout)[0] | {"model": model, "per_chip": per_chip}


def _chips(topology):
  slices, shape = re.fullmatch(r"(?:(\d+)\*)?\w+:([\dx]+)", topology).groups()
  number = int(slices or 1)
  for size in shape.split("x"):
    number *= int(size)
  return number


def _table(rows):
  lines = [
    "| model | topology | chips | batch | memory, GiB | of it temporaries"
    " | links, GiB | network, GiB | step, ms | of the peak | bound by |",
    "|---|---|---|---|---|---|---|---|---|---|---|",
  ]
  for row in rows.values():
    cells = [row["model"], f"`{row['topology']}`", f"{row['chips']:,}"]
    cells += [f"{row['batch_size']:,}"]
    if not row["fits"]:
      needed = row["too_large"].rstrip(".")
      lines.append(
        f"| {' | '.join(cells)} | does not fit: {needed} |" + " |" * 6
      )
      continue
    memory = row["memory"]
    low, high = (1e3 * seconds for seconds in row["step_seconds"])
    least, most = (100 * share for share in row["efficiency"])
    moved = _moved(row)
    cells += [
      f"{sum(memory.values()) / 2**30:.2f}",
      f"{memory['temporaries'] / 2**30:.2f}",
      *(f"{moved[where] / 2**30:.2f}" for where in ("links", "network")),
      f"{low:.0f} to {high:.0f}",
      f"{least:.0f} to {most:.0f}%",
      row["bound"],
    ]
    lines.append(f"| {' | '.join(cells)} |")
  return "\n".join(lines) + "\n"


def _moved(row):
  """Bytes that a device receives in a step, within a slice and between."""
  sums = {"links": 0.0, "network": 0.0}
  for kind in row["collectives"].values():
    sums["links"] += kind["wire_bytes"] - kind["network_bytes"]
    sums["network"] += kind["network_bytes"]
  return sums


def _picture(rows, path):
  import altair as alt

  points = [
    {
      "model": row["model"],
      "chips": row["chips"],
      "kind": row["topology"].rpartition("*")[2].partition(":")[0],
      "least": row["efficiency"][0],
      "most": row["efficiency"][1],
      "received": sum(_moved(row).values()) / 2**30,
    }
    for row in rows.values()
    if row["fits"]
  ]
  base = alt.Chart(alt.Data(values=points), width=130, height=140).encode(
    alt.X(
      "chips:Q",
      scale=alt.Scale(type="log", base=8),
      axis=alt.Axis(values=[8, 64, 512, 4096]),
    ),
    alt.Color("kind:N", title="chip"),
  )
  share = base.mark_area(opacity=0.4, line=True).encode(
    alt.Y("least:Q", title="share of the peak", axis=alt.Axis(format="%")),
    alt.Y2("most:Q"),
    alt.Column("model:N", title=None, sort=list(MODELS)),
  )
  received = base.mark_line(point=True).encode(
    alt.Y(
      "received:Q",
      title="GiB to each chip in a step",
      scale=alt.Scale(type="log"),
      axis=alt.Axis(values=[0.01, 0.1, 1, 10, 100]),
    ),
    alt.Column("model:N", title=None, sort=list(MODELS), header=None),
  )
  (share & received).save(path)


if __name__ == "__main__":
  sys.exit(main())
