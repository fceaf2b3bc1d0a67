"""Made-up studies with realistic numbers, in memory and on disk.

Errors fall with training to a floor that depends on the distance from a best
point; too large a learning rate diverges.
"""

import dataclasses
import json
import math
import pathlib

import numpy as np

from jaxplay import config as config_lib
from jaxplay.analysis import results as results_lib
from jaxplay.study import space as space_lib

STEPS = 1_500
SPACE = {
  "optimizer": space_lib.Choice(("adam", "nesterov"), role="scientific"),
  "hparams.learning_rate": [
    space_lib.Float(1e-5, 1e-1, "log", when={"optimizer": "adam"}),
    space_lib.Float(1e-3, 1e1, "log", when={"optimizer": "nesterov"}),
  ],
  "hparams.beta1": space_lib.Float(
    0.5, 0.999, "log_one_minus", when={"optimizer": "adam"}
  ),
  "model.depth": space_lib.Int(1, 4),
  "hparams.dropout_rate": space_lib.Float(0.0, 0.5),
}


def trial(index, point, *, space=None, seed=0, evaluations=15, status=None):
  """One trial; it diverges where its learning rate is too large."""
  rng = np.random.default_rng([index, seed])
  space = space or space_lib.Space(SPACE)
  rate = next((v for k, v in point.items() if "learning_rate" in k), 0.1)
  peak = 3e-3 if point.get("optimizer") == "adam" else 0.2
  distance = math.log10(rate / peak)
  diverged = distance > 0.9
  steps = np.linspace(STEPS / evaluations, STEPS, evaluations).astype(np.int64)
  share = steps / STEPS
  floor = 0.012 + 0.03 * distance**2 + 0.002 * point.get("model.depth", 2)
  floor = min(0.8, floor * math.exp(0.1 * rng.normal()))
  error = floor + (0.9 - floor) * np.exp(-share * 12 / (1 + distance**2))
  noise = np.exp(0.05 * rng.normal(size=(4, evaluations)))
  curves = {
    "valid/error_rate": error * noise[0],
    "valid/loss": 2.5 * error * noise[1],
    "train/error_rate": 0.8 * error * noise[2],
    "train/loss": 2.0 * error * noise[3],
    "train/grad_norm": (0.3 + 3 * error) * np.exp(rng.normal(size=evaluations)),
    "learning_rate": rate * (1 - share),
  }
  done = evaluations
  if diverged:
    done = evaluations // 3
    for name in curves:
      if name != "learning_rate":
        curves[name][done - 1 :] = math.nan
  if status in ("failed", "running", "preempted"):
    done = evaluations // 2
  if status == "pending":
    done, curves = 0, {}
  if status is None:
    status = "infeasible" if diverged else "completed"
  reason = {
    "infeasible": f"train/loss is NaN at step {steps[done - 1]}",
    "failed": "RESOURCE_EXHAUSTED: out of memory",
  }
  return results_lib.Trial(
    index=index,
    path=pathlib.Path(f"studies/made_up/trials/{index:04d}"),
    status=status,
    reason=reason.get(status, ""),
    point=space.labelled(point),
    seed=seed,
    step=int(steps[done - 1]) if done else 0,
    max_train_steps=STEPS,
    curves={k: (steps[:done], v[:done]) for k, v in curves.items()},
    chance=0.9,
    num_valid=300,
  )


def study(
  num_trials=64, *, space=None, statuses=None, evaluations=15, **fields
) -> results_lib.Results:
  """A study with its trials; a few failed, running and pending by default.

  Args:
    num_trials: How many.
    space: Mapping for `space.Space`.
    statuses: Index of a trial to its status; the others end as they would.
    evaluations: Logged lines of each trial.
    **fields: Of study.json.
  """
  space = space_lib.Space(SPACE if space is None else space)
  rng = np.random.default_rng(1)
  if statuses is None:
    last = num_trials - 1
    statuses = {7: "failed", last: "pending", last - 1: "running"}
  trials = []
  for index in range(num_trials):
    drawn = {p.label: p.from_unit(float(rng.random())) for p in space.ordered}
    point = {}
    for p in space.ordered:
      if all(point.get(key) in values for key, values in p.when.items()):
        point[p.key] = drawn[p.label]
    trials.append(
      trial(
        index,
        point,
        space=space,
        evaluations=evaluations,
        status=statuses.get(index),
      )
    )
  config = config_lib.base()
  config.max_train_steps, config.optimizer = STEPS, "nesterov"
  config.model.depth = 2
  definition = {
    "goal": "Which optimizer trains the digits MLP to the lowest error?",
    "notes": "Learning rates are tuned for each optimizer by itself.",
    "config_file": "experiments/digits_mlp/config.py",
    "overrides": {},
    "config": config_lib.as_json(config),
    "space": space.as_json(),
    "algorithm": "halton",
    "points": None,
    "seed": 0,
    "num_trials": num_trials,
    "objective": "valid/error_rate",
    "command": ["jaxplay", "study", "run", "study.py", "--workdir=STUDY"],
  }
  return results_lib.Results(
    path=pathlib.Path("studies/made_up"),
    study=definition | fields,
    space=space,
    objective="valid/error_rate",
    select="best",
    trials=trials,
  )


def write(results, folder) -> results_lib.Results:
  """Writes the run directories of a made-up study, and where they are now."""
  folder = pathlib.Path(folder)
  folder.mkdir(parents=True, exist_ok=True)
  (folder / "study.json").write_text(json.dumps(results.study))
  moved = []
  for made in results.trials:
    path = folder / "trials" / f"{made.index:04d}"
    moved.append(dataclasses.replace(made, path=path))
    if made.status == "pending":
      continue
    path.mkdir(parents=True)
    config = config_lib.from_json(results.study["config"])
    for key, value in (results.by_key(made) | {"seed": made.seed}).items():
      config_lib.override(config, key, value)
    (path / "config.json").write_text(json.dumps(config_lib.as_json(config)))
    status = {
      "status": made.status,
      "reason": made.reason,
      "step": made.step,
      "max_train_steps": made.max_train_steps,
    }
    (path / "status.json").write_text(json.dumps(status))
    lines = {}
    for name, (steps, values) in made.curves.items():
      for step, value in zip(steps.tolist(), values.tolist(), strict=True):
        line = lines.setdefault(step, {"step": step})
        line[name] = value if math.isfinite(value) else None
    text = "".join(json.dumps(line) + "\n" for line in lines.values())
    (path / "metrics.jsonl").write_text(text)
  return dataclasses.replace(results, path=folder, trials=moved)
