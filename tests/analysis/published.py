"""Published tuning runs of AlgoPerf as studies in memory.

They lie beside the repository, in ../shared/algoperf, and are no part of it:

    SUBMISSION/tuning_search_space.json
    SUBMISSION/WORKLOAD/trial_K/hparams.json
                                measurements.csv       training lines
                                eval_measurements.csv  an evaluation a row

A trial ends when its target is reached or its time is over. The learning rate
is not logged, and a submission's schedule is its own.
"""

import csv
import json
import math
import pathlib

import numpy as np

from jaxplay import config as config_lib
from jaxplay.analysis import results
from jaxplay.study import space as space_lib

FOLDER = pathlib.Path(__file__).resolve().parents[3] / "shared" / "algoperf"
# The metric that each workload is judged by, and whether more is better.
OBJECTIVES = {
  "fastmri_pytorch": ("ssim", True),
  "imagenet_resnet_jax": ("accuracy", True),
  "imagenet_vit_jax": ("accuracy", True),
  "librispeech_conformer_jax": ("wer", False),
  "wmt_jax": ("bleu", True),
}
# That of the baseline; those of the other submissions are functions of theirs.
SCHEDULES = {"baseline": "cosine"}
_TRAINING = {"loss": "train/loss", "grad_norm": "train/grad_norm"}


def studies() -> list[pathlib.Path]:
  """The folders of all studies; empty where there are none."""
  return sorted(p.parent for p in FOLDER.glob("*/*/trial_1"))


def read(path: pathlib.Path) -> results.Results:
  """Read a study: one workload of one submission.

  Args:
    path: One of `studies()`.
  """
  folders = sorted(path.glob("trial_*"))
  points = [
    {
      f"hparams.{name}": value
      for name, value in json.loads(
        (folder / "hparams.json").read_text()
      ).items()
    }
    for folder in folders
  ]
  space = space_lib.Space(
    {key: _domain([point[key] for point in points]) for key in points[0]}
  )
  curves = [_curves(folder) for folder in folders]
  steps = [max((s[-1] for s, _ in c.values()), default=0) for c in curves]
  name, maximized = OBJECTIVES[path.name]
  objective = f"valid/{name}"
  declared = (("metric", "algoperf.py:task", name, maximized, None),)
  config = config_lib.as_json(config_lib.base()) | {
    "max_train_steps": int(max(steps)),
    "schedule": SCHEDULES.get(path.parent.name, "algoperf.py:schedule"),
    "declared": declared,
    "objective": objective,
  }
  return results.Results(
    path=path,
    study={
      "goal": "",
      "config": config,
      "space": space.as_json(),
      "algorithm": "explicit",
      "points": points,
      "num_trials": len(points),
      "objective": objective,
    },
    space=space,
    objective=objective,
    select="best",
    trials=[
      results.Trial(
        index=i,
        path=folder,
        status="completed" if curves[i] else "failed",
        reason="" if curves[i] else "there are no measurements",
        point=space.labelled(points[i]),
        seed=0,
        step=int(steps[i]),
        max_train_steps=int(max(steps)),
        curves=curves[i],
        num_valid=_num_valid(folder),
        declared=declared,
      )
      for i, folder in enumerate(folders)
    ],
  )


def _domain(values):
  """The range of numbers that were tried, or the names."""
  numbers = {v for v in values if type(v) in (int, float)}
  if len(numbers) < 3:
    return space_lib.Choice(sorted(set(values), key=str))
  scale = "log" if min(numbers) > 0 else "linear"
  return space_lib.Float(min(numbers), max(numbers), scale)


def _rows(path):
  if not path.exists():
    return []
  with path.open(newline="") as file:
    return list(csv.DictReader(file))


def _curves(folder):
  """Metric -> (steps, values), under the names that jaxplay uses.

  Evaluations of the training set are "train_eval/METRIC": "train/" are the
  means of batches.
  """
  columns = {}

  def add(name, row, text):
    # Restarts after preemption wrote some steps again: the last one counts.
    columns.setdefault(name, {})[int(float(row["global_step"]))] = float(text)

  for row in _rows(folder / "measurements.csv"):
    for column, name in _TRAINING.items():
      if row.get(column):
        add(name, row, row[column])
  for row in _rows(folder / "eval_measurements.csv"):
    for column, text in row.items():
      split, _, metric = column.partition("/")
      name = {"validation": "valid", "train": "train_eval"}.get(split)
      if name and metric and metric != "num_examples" and text:
        add(f"{name}/{metric}", row, text)
  return {
    name: (
      np.array(sorted(values), np.int64),
      np.array([values[step] for step in sorted(values)]),
    )
    for name, values in columns.items()
  }


def _num_valid(folder):
  rows = _rows(folder / "eval_measurements.csv")
  counts = [float(r["validation/num_examples"] or math.nan) for r in rows]
  return int(counts[-1]) if counts and math.isfinite(counts[-1]) else 0
