"""Whole studies in memory, healthy or with a planted fault; and the verdicts.

    python -m tests.analysis.generated [--studies=200]

prints for each check the share of healthy studies that it warns of (false
alarms) and the share of faulty ones that it passes (misses): the table in
docs/checks.md.

A study varies learning rate, momentum, and weight decay and label smoothing,
which do nothing. The error that a trial ends with grows with the square of the
distance of its effective rate, learning_rate / (1 - momentum), from the best
one, and farther away with its fourth power; far above it training diverges.
Curves fall to their end as exponentials, with multiplicative autocorrelated
noise that follows the learning rate, and the validation error is a share of
`num_valid` examples.
"""

import argparse
import math
import pathlib
from concurrent import futures

import numpy as np

from jaxplay import config as config_lib
from jaxplay.analysis import checklist, importance
from jaxplay.analysis import results as results_lib
from jaxplay.study import sampling
from jaxplay.study import space as space_lib

STEPS, LINES, EVALUATIONS = 10_000, 200, 100
CHANCE = 0.9
BEST_RATE = 0.3  # learning_rate / (1 - momentum); diverges at 30 times it
FIRST_LOSS = 2.3

# Fault -> (check that has to tell it, weak to strong); the last is plain.
FAULTS = {
  "edge": ("search_space_boundary", (-0.2, -0.1, 0.0, 0.3)),
  "edge_of_feasible": ("optimization_instability", (0.0, 0.1, 0.3)),
  "needle": ("enough_trials", (0.1, 0.2, 0.5)),
  "infeasible": ("infeasible_share", (0.4, 0.6, 0.8)),
  "noisy_retraining": ("retrain_variance", (0.1, 0.3, 1.0)),
  "too_long": ("max_train_steps", (0.2, 0.5, 2.0)),
  "too_short": ("max_train_steps", (0.5, 1.0)),
  "compute_bound": ("compute_bound", (0.5, 1.0)),
  "chance": ("better_than_chance", (1.0,)),
  "overfitting": ("overfitting", (0.1, 0.2, 0.4)),
  "late_variance": ("late_variance", (0.05, 0.1, 0.2)),
  "improving": ("still_improving", (0.5, 1.0)),
  "saturated": ("saturated_early", (1.0,)),
  "loss_rises": ("training_loss_rises", (0.02, 0.05, 0.2)),
  "periodic": ("periodic_validation", (1.0, 2.0, 4.0)),
  "early_bump": ("early_instability", (0.3, 1.0, 3.0)),
  "mid_spike": ("mid_training_instability", (0.1, 0.5, 2.0)),
  "clipping": ("aggressive_clipping", (0.55, 0.8)),
}
# Those that the schedule would hide, or that need another.
CONSTANT = ("too_short", "compute_bound", "improving", "late_variance")


def study(
  seed: int,
  num_trials: int = 64,
  fault: str | None = None,
  strength: float = 0.0,
  schedule: str = "linear",
  num_valid: int = 10_000,
  optimizers: tuple[str, ...] = (),
  num_reruns: int = 0,
) -> results_lib.Results:
  """A study, healthy unless a fault is planted.

  Args:
    seed: Of everything.
    num_trials: Its length.
    fault: One of `FAULTS`.
    strength: Of the fault; what it means is seen where it is used.
    schedule: "constant" or "linear".
    num_valid: Validation examples.
    optimizers: A scientific choice, each with its own learning rate.
    num_reruns: Of the best trial, with other seeds.
  """
  rng = np.random.default_rng([seed, 7])
  config = config_lib.base()
  config.schedule = schedule
  config.max_train_steps = STEPS
  # The best rate lies in the middle of the range, give or take an eighth.
  low, high = 1e-4, 1.0
  best = math.log10(0.01) + rng.uniform(-0.5, 0.5)
  # What a decade costs: more where a small validation set would hide it, less
  # in a short study, of which some trials have to be good all the same.
  steepness = 4 if num_valid < 1000 else 1
  curvature = 10 ** rng.uniform(-1.7, -0.7) * min(num_trials / 64, 1)
  if fault == "edge":
    beyond = 4 * strength
    best = rng.choice([math.log10(low) - beyond, math.log10(high) + beyond])
  rate = space_lib.Float(low, high, "log")
  mapping = {"hparams.learning_rate": rate}
  if optimizers:
    mapping = {
      "optimizer": space_lib.Choice(optimizers, role="scientific"),
      "hparams.learning_rate": [
        space_lib.Float(low, high, "log", when={"optimizer": name})
        for name in optimizers
      ],
    }
  mapping["hparams.momentum"] = space_lib.Float(0.5, 0.95, "log_one_minus")
  mapping["hparams.weight_decay"] = space_lib.Float(1e-6, 1e-2, "log")
  mapping["hparams.label_smoothing"] = space_lib.Float(0.0, 0.2)
  space = space_lib.Space(mapping)
  points = sampling.points(space, algorithm="halton", seed=seed, num=num_trials)
  rates = np.array([p["hparams.learning_rate"] for p in points])
  # The best rate belongs to a momentum in the middle, 0.84.
  slowness = np.array([1 - p["hparams.momentum"] for p in points]) / 0.16
  distance = np.log10(rates) - best - 0.5 * np.log10(slowness)
  diverged = distance > {"edge": 99.0}.get(fault, 1.4)
  excess = steepness * (curvature * distance**2 + 0.1 * distance**4)
  error = 0.05 * (1 + excess)
  error = np.minimum(error, 0.8)
  if fault == "edge_of_feasible":
    # Better and better, until it breaks.
    error = 0.05 * (1.5 - (0.1 + strength) * distance)
    diverged = distance > 0.6
    error = np.maximum(error, 0.01)
  elif fault == "infeasible":
    diverged = distance > np.quantile(distance, 1 - strength)
  elif fault == "chance":
    error = np.full(num_trials, CHANCE)
  make = lambda e, d, r: _curves(  # noqa: E731
    rng, e, d, r, fault, strength, schedule, num_valid
  )
  level = error * (1 + 0.01 * rng.standard_normal(num_trials))
  if fault == "needle":
    level[np.argmin(np.where(diverged, np.inf, level))] *= 1 - strength
  curves = make(level, diverged, rates)
  trials = [
    _trial(i, points[i], space, curve, diverged[i], num_valid)
    for i, curve in enumerate(curves)
  ]
  results = results_lib.Results(
    path=pathlib.Path("generated"),
    study={
      "goal": "A generated study",
      "notes": "",
      "config_file": "experiments/digits_mlp/config.py",
      "overrides": {},
      "config": config_lib.as_json(config),
      "space": space.as_json(),
      "algorithm": "halton",
      "points": None,
      "seed": seed,
      "num_trials": num_trials,
      "objective": "valid/error_rate",
      "command": [],
    },
    space=space,
    objective="valid/error_rate",
    select="best",
    trials=trials,
    reruns={},
  )
  if num_reruns and results.ranked:
    index = results.ranked[0].index
    again = error[index] * (1 + 0.01 * rng.standard_normal(num_reruns))
    if fault == "noisy_retraining":
      spread = np.quantile(error[~diverged], 0.9) - error.min()
      again += strength * spread * rng.standard_normal(num_reruns)
    no = np.zeros(num_reruns, bool)
    results.reruns[index] = [
      _trial(index, points[index], space, curve, False, num_valid)
      for curve in make(again, no, np.full(num_reruns, rates[index]))
    ]
  return results


def faulty(
  seed: int, fault: str, strength: float, num_trials: int
) -> results_lib.Results:
  """A study with a fault, in the setting that lets it be seen."""
  return study(
    seed,
    num_trials,
    fault=fault,
    strength=strength,
    schedule="constant" if fault in CONSTANT else "linear",
    num_reruns=5 if fault == "noisy_retraining" else 0,
  )


def _trial(index, point, space, curves, diverged, num_valid):
  return results_lib.Trial(
    index=index,
    path=pathlib.Path(f"generated/{index}"),
    status="infeasible" if diverged else "completed",
    reason="",
    point=space.labelled(point),
    seed=0,
    step=STEPS,
    max_train_steps=STEPS,
    curves=curves,
    chance=CHANCE,
    num_valid=num_valid,
  )


def _curves(rng, error, diverged, rates, fault, strength, schedule, num_valid):
  """Curves of each trial, from the error rate that it is to end with."""
  count = len(error)
  line = np.arange(1, LINES + 1) / LINES  # share of the steps done
  correlation = rng.uniform(0.2, 0.8)
  factor = np.ones(LINES) if schedule == "constant" else 1 - line
  noise = _autocorrelated(rng, count, LINES, correlation)
  noise *= 0.02 * (0.3 + factor)
  noise *= rng.uniform(0.5, 1.0, (count, 1))
  speed = rng.uniform(7, 9, (count, 1))
  # 1 at the end; what the decay gains; a slow start at low rates.
  shape = 1 + 4 * np.exp(-speed * line)
  if schedule != "constant":
    shape = shape + 0.2 * factor - 0.2 * factor[-1]
  if fault in ("too_short", "compute_bound", "improving"):
    shape = line ** -(0.3 + strength)
  if fault == "saturated":
    shape = 1 + 4 * np.exp(-30 * line) + np.zeros((count, 1))
  shape = shape + np.zeros((count, 1))
  train = FIRST_LOSS * 0.3 * error[:, None] / 0.05 * shape / 5
  train = np.minimum(train, FIRST_LOSS) * (1 + noise)
  train[:, 0] = np.maximum(train[:, 0], FIRST_LOSS * 0.8)
  valid = error[:, None] * shape
  if fault in ("overfitting", "too_long"):
    since = 0.04 if fault == "too_long" else 0.5
    valid = error[:, None] * (
      1
      + 4 * np.exp(-(5 / since) * line)
      + strength * np.clip((line - since) / (1 - since), 0, 1)
    )
  other = _autocorrelated(rng, count, LINES, correlation)
  deviation = 10 ** rng.uniform(-2.3, -1.7) * (0.3 + factor)
  if fault == "late_variance":
    deviation = strength * np.ones(LINES)
    other = rng.standard_normal((count, LINES))
  valid = valid * (1 + deviation * other)
  # Which examples are hard does not change: less than binomial noise.
  share = np.clip(valid, 0, CHANCE)
  sampled = share + 0.3 * np.sqrt(share * (1 - share) / num_valid) * (
    rng.standard_normal((count, 1)) + (0.2 + factor) * other
  )
  loss = 3 * sampled * (1 + 0.005 * rng.standard_normal((count, LINES)))
  if fault == "periodic":
    wave = np.sin(2 * math.pi * line * LINES / 12 + rng.uniform(0, 6))
    loss = loss * (1 + 0.01 * strength * wave)
  if fault == "loss_rises":
    train += strength * FIRST_LOSS * np.clip(line - 0.4, 0, None) / 0.6
  norms = np.exp(0.2 * rng.standard_normal((count, LINES)))
  norms *= 0.2 + 2 * np.exp(-8 * line)
  if fault == "early_bump":
    at = (line > 0.06) & (line < 0.1)
    train[:, at] += strength * train[:, at].mean(axis=1, keepdims=True)
  if fault == "mid_spike":
    train[:, LINES // 2] += strength * FIRST_LOSS
  clipped = np.full((count, LINES), strength if fault == "clipping" else 0.05)
  end = np.where(diverged, rng.integers(3, LINES, count), LINES)
  errors = np.round(np.clip(sampled, 0, 1) * num_valid) / num_valid
  steps = np.round(line * STEPS).astype(np.int64)
  every = LINES // EVALUATIONS
  at = slice(every - 1, None, every)
  evaluated, loss, errors = steps[at], loss[:, at], errors[:, at]
  found = []
  for i, n in enumerate(end.tolist()):
    if n < LINES:
      train[i, n - 1] = np.nan
    m = n // every
    found.append(
      {
        "train/loss": (steps[:n], train[i, :n]),
        "train/error_rate": (steps[:n], np.minimum(train[i, :n] / 3, CHANCE)),
        "train/grad_norm": (steps[:n], 0.7 * norms[i, :n]),
        "train/grad_norm_max": (steps[:n], norms[i, :n]),
        "train/clipped": (steps[:n], clipped[i, :n]),
        "learning_rate": (steps[:n], rates[i] * factor[:n]),
        "valid/loss": (evaluated[:m], loss[i, :m]),
        "valid/error_rate": (evaluated[:m], errors[i, :m]),
      }
    )
  return found


def _autocorrelated(rng, count, length, correlation):
  """Standard normal, with that correlation between neighbours."""
  white = rng.standard_normal((count, length))
  out = np.empty_like(white)
  out[:, 0] = white[:, 0]
  for i in range(1, length):
    out[:, i] = (
      correlation * out[:, i - 1] + math.sqrt(1 - correlation**2) * white[:, i]
    )
  return out


def verdicts(results: results_lib.Results) -> dict[str, set[str]]:
  """Check -> verdicts of its findings, runs counted over all not among them."""
  found = {}
  # It never warns, and takes longer than all others.
  importance._done[results] = []
  for one in checklist.check_study(results):
    found.setdefault(one.check, set()).add(one.verdict)
  return found


def warns(verdict: set[str]) -> bool:
  return bool(verdict & {"warn", "fail"})


def rates(num_studies: int, **kwargs) -> dict[str, float]:
  """Check -> share of studies in which it warns."""
  total = {}
  for seed in range(num_studies):
    for check, verdict in verdicts(study(seed, **kwargs)).items():
      total[check] = total.get(check, 0) + warns(verdict)
  return {check: count / num_studies for check, count in total.items()}


HEALTHY = {
  "decay": dict(),
  "decay, 300 ex.": dict(num_valid=300),
  "constant": dict(schedule="constant"),
  "2 optimizers": dict(optimizers=("momentum", "nesterov")),
}
NUM_TRIALS = (20, 64, 200)


def _missed(fault, strength, num_trials, num_studies):
  """Share of studies with the fault in which its check does not warn."""
  check, _ = FAULTS[fault]
  warned = [
    warns(verdicts(faulty(seed, fault, strength, num_trials))[check])
    for seed in range(num_studies)
  ]
  return 1 - np.mean(warned)


def _print(heads, rows):
  print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
  for row in rows:
    print(f"| {' | '.join(row)} |", flush=True)


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--studies", type=int, default=200)
  num = parser.parse_args().studies
  with futures.ProcessPoolExecutor() as pool:
    titles = [f"{name}, {n}" for name in HEALTHY for n in NUM_TRIALS]
    columns = [
      pool.submit(rates, num, num_trials=n, num_reruns=5, **settings)
      for settings in HEALTHY.values()
      for n in NUM_TRIALS
    ]
    few = max(num // 5, 10)
    misses = {
      (fault, strength): [
        pool.submit(_missed, fault, strength, n, few) for n in NUM_TRIALS
      ]
      for fault, (_, strengths) in FAULTS.items()
      for strength in strengths
    }
    print(f"False alarms, % of {num} healthy studies\n")
    found = [column.result() for column in columns]
    rows = [
      [f"`{check}`", *(f"{100 * of.get(check, 0):.1f}" for of in found)]
      for check in found[0]
    ]
    _print(["check", *titles], rows)
    print(f"\nMisses, % of {few} studies with a fault, weak to plain\n")
    rows = [
      [
        *(f"`{FAULTS[fault][0]}`", fault, str(strength)),
        *(f"{100 * share.result():.0f}" for share in of),
      ]
      for (fault, strength), of in misses.items()
    ]
    _print(["check", "fault", "strength", *map(str, NUM_TRIALS)], rows)


if __name__ == "__main__":
  main()
