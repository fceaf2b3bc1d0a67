"""Can a finished run be continued? Cosine decay against a constant rate.

    python experiments/cooldown_lm/continued.py runs/continued

After Hägele et al. 2024 (arXiv 2405.18392, section 3): a cosine decay fixes the
length of a run before it starts; a constant rate does not, as a cooldown can be
added at any step. A run of 800 steps is wanted, and then one of 1,600. The same
command resumes.

Cost    3 seeds, 6,900 steps each; 25 minutes on 2 CPU cores with much other
        load
Expect  validation loss at 1,600 steps, nats per byte: cooldown 1.422 +- 0.014,
        cosine planned so 1.451 +- 0.019, a mean of checkpoints 1.466 +- 0.011,
        cosine restarted 1.469 +- 0.015, cosine held 1.551 +- 0.017, mean and
        standard deviation of the seeds (Python 3.11.7)
"""

import pathlib
import sys

import paired

import jaxplay as jp
from jaxplay import report
from jaxplay.playbook import result

HALF = 800
SEEDS = (0, 1, 2)
COOLDOWN = 0.2
HERE = pathlib.Path(__file__).parent


def losses(workdir, seed):
  """Validation losses of all ways, name -> nats per byte."""
  config = jp.load_config(HERE / "config.py")
  config.seed = seed
  config.max_train_steps = 2 * HALF
  folder, found = workdir / f"seed_{seed}", {}
  for name in ("cosine", "restarted", "held"):
    own = f"{HERE / 'schedules.py'}:{name}"
    config.schedule = "cosine" if name == "cosine" else own
    run = jp.train(config, folder / name)
    found[f"{name} at 2N"] = paired.loss_at(run, 2 * HALF)
    found[f"{name} at N"] = paired.loss_at(run, HALF)
  config.schedule = "constant"
  starts = [round(steps * (1 - COOLDOWN)) for steps in (HALF, 2 * HALF)]
  config.keep_steps = tuple(starts)
  config.max_train_steps = starts[-1]
  jp.train(config, folder / "constant")
  branches = jp.branch(
    folder / "constant",
    folder / "cooldowns",
    steps=starts,
    cooldown_fraction=COOLDOWN,
  )
  for name, run in zip(("N", "2N"), branches, strict=True):
    steps = HALF if name == "N" else 2 * HALF
    found[f"cooldown at {name}"] = paired.loss_at(run, steps)
  # In place of the cooldown: the constant rate to the end, and a mean of the
  # checkpoints of what would have been the cooldown.
  merged = list(range(starts[-1], 2 * HALF + 1, HALF // 20))[1:]
  config.keep_steps = (*starts, *merged)
  run = jp.train(config, folder / "constant", extend_steps=2 * HALF)
  found["constant at 2N"] = paired.loss_at(run, 2 * HALF)
  mean = jp.merge(run.path, steps=merged)
  found["merge at 2N"] = mean.details["means"][-1]["loss"]
  return found


def figure(workdir):
  """Validation losses along the runs: means of the seeds, and their range."""
  ways = {
    "cosine planned for 2N": "cosine",
    "cosine for N, restarted": "restarted",
    "cosine for N, its rate held": "held",
    "constant": "constant",
    "cooldown to N": f"cooldowns/{round(HALF * (1 - COOLDOWN)):08d}",
    "cooldown to 2N": f"cooldowns/{round(2 * HALF * (1 - COOLDOWN)):08d}",
  }
  lines, ends = [], []
  for name, folder in ways.items():
    runs = [jp.RunDir(workdir / f"seed_{seed}" / folder) for seed in SEEDS]
    first = int(runs[0].path.name) if "cooldowns" in folder else HALF // 4
    losses = {}
    for line in (line for run in runs for line in run.metrics()):
      if "valid/loss" in line and line["step"] >= first:
        losses.setdefault(line["step"], []).append(line["valid/loss"])
    of_way = [
      {
        "x": step,
        "y": sum(values) / len(values),
        "low": min(values),
        "high": max(values),
        "series": name,
      }
      for step, values in losses.items()
    ]
    lines += of_way
    ends.append(of_way[-1])
  return result.FigureData(
    "A cosine run and a constant one, continued",
    result.Axis("step"),
    result.Axis("validation loss, nats per byte"),
    lines=lines,
    points=ends,
    rules={"N": HALF, "2N": 2 * HALF},
    caption="Means of the seeds, and their range.",
  )


def main(workdir):
  """Trains all runs, and prints their losses and differences."""
  rows = [losses(workdir, seed) for seed in SEEDS]
  paired.show(
    rows,
    # (the way, what it is compared with)
    [
      ("cooldown at N", "restarted at N"),
      ("held at N", "restarted at N"),
      ("cosine at N", "restarted at N"),
      ("cooldown at 2N", "cosine at 2N"),
      ("restarted at 2N", "cosine at 2N"),
      ("held at 2N", "cosine at 2N"),
      ("restarted at 2N", "cooldown at 2N"),
      ("held at 2N", "cooldown at 2N"),
      ("merge at 2N", "constant at 2N"),
      ("merge at 2N", "cooldown at 2N"),
    ],
  )
  answer = result.ProcedureResult(summary=[], figures=[figure(workdir)])
  print(*report.answer_figures(answer, workdir / "figures"))


if __name__ == "__main__":
  main(pathlib.Path(sys.argv[1]))
