"""A second generator of whole studies, to judge the checks by.

    python -m tests.analysis.second [--studies=N] [--check=NAME]

prints three tables in Markdown: false alarms on healthy studies by check, kind
and number of trials; how often a check says `unknown` there; and misses by
fault, strength and number of trials.

It was written from the description of the checks, and shares nothing with
`tests/analysis/generated.py`, so that a rule that fits only the one is found by
the other. No rule may take a number from here.

A study is made in three layers. The *landscape* says how good each point is: a
plateau around the optimum, then a square. The *shape* says how the loss gets
there, as the share of the fall that is left after a share of the steps. *Noise*
goes on top: between seeds, from the choice of validation examples (shared in
large part by all trials), and between evaluations. A *kind* of healthy study
fixes one of these, and draws all the others anew in each study. A *fault* is a
healthy study in which one thing is wrong, in all of its trials.
"""

import argparse
import collections
import dataclasses
import itertools
import math
import pathlib
import zlib
from collections.abc import Callable, Mapping
from concurrent import futures

import numpy as np

from jaxplay import config as config_lib
from jaxplay.analysis import checklist, importance, results
from jaxplay.study import sampling
from jaxplay.study import space as space_lib

STEPS = 12_000
SIZES = (16, 40, 100)  # trials of a study

# Numbers with room beyond both ends, and names. The first is always varied.
NUMBERS = {
  "hparams.learning_rate": space_lib.Float(1e-4, 1e-1, "log"),
  "hparams.momentum": space_lib.Float(0.5, 0.98, "log_one_minus"),
  "hparams.weight_decay": space_lib.Float(1e-5, 1e-2, "log"),
  "hparams.label_smoothing": space_lib.Float(0.02, 0.3),
  "hparams.warmup_steps": space_lib.Int(50, 2_000, "log"),
}
NAMES = {
  "model.norm": space_lib.Choice(("rms", "layer")),
  "clipping": space_lib.Choice((False, True)),
}
OPTIMIZERS = {
  "optimizer": space_lib.Choice(("momentum", "nesterov"), role="scientific")
}


@dataclasses.dataclass(frozen=True)
class Kind:
  """What is fixed about a study; None: drawn anew in each.

  Attributes:
    task: "error_rate" or "accuracy" of a classifier, or "lm".
    shape: Key of `SHAPES`.
    noise: Key of `NOISES`.
    seeds: Key of `SEEDS`.
    dims: Numbers that are varied, 1 to 5.
    names: Whether names are varied, too; they do nothing.
    groups: Whether two equal optimizers are compared.
    evals: Evaluations of a run.
    lines: Lines of training metrics.
    logged_rate: Whether the learning rate is logged.
    reruns: Of the best trial.
    num_valid: Number of validation examples.
    diverged: Share of the trials that diverges, by the learning rate.
    beyond: How far beyond the range the optimum of one number lies, as a share
      of the range, below the low end if negative; None: inside.
    sensitivity: How much worse the worst end of a number is, relative.
  """

  task: str | None = None
  shape: str | None = None
  noise: str | None = None
  seeds: str = "normal"
  dims: int | None = None
  names: bool | None = None
  groups: bool = False
  evals: int | None = None
  lines: int = 100
  logged_rate: bool = True
  reruns: int | None = None
  num_valid: int = 10_000
  diverged: float | None = None
  beyond: float | None = None
  sensitivity: float | None = None


# Shapes: the share of the fall that is left at the shares `s` of the steps, [n]
# or [trials, n], where `v` [trials, 1] in [0, 1) tells the trials apart.


def exponential(s, v):
  """A constant rate: flat for the last third."""
  return np.exp(-(8 + 2 * v) * s)


def slow_exponential(s, v):
  """A constant rate, for losses in nats, of which 1% is much."""
  return np.exp(-(6 + v) * s)


def cosine(s, v):
  """A cosine decay: a power law with the rate's share on top."""
  return (1 + 20 * s) ** -(0.5 + 0.3 * v) * (1 + np.cos(np.pi * s)) / 2


def wsd(s, v):
  """A power law under a constant rate; a cooldown of a fifth, flat at last."""
  power = (1 + 30 * s) ** -(0.5 + 0.3 * v)
  return power * np.clip((1 - s) / 0.2, 0, 1) ** 1.5


def step_decay(s, v):
  """A rate that falls twice: two sudden drops, each to a new level."""
  level = np.select([s <= 0.5, s <= 0.8], [0.2 + 0.1 * v, 0.05], 0.0)
  return level + (1 - level) * np.exp(-25 * s)


def late_drop(s, v):
  """One smooth drop, at 80 to 90% of the steps, where the rate is decayed."""
  before = 0.15 + 0.1 * v
  drop = 1 / (1 + np.exp((s - 0.82 - 0.06 * v) / 0.015))
  return before * drop + (1 - before) * np.exp(-15 * s)


def double_descent(s, v):
  """It falls, rises in mid-training, and falls again, below where it was."""
  hill = (0.03 + 0.03 * v) * np.exp(-(((s - 0.45) / 0.09) ** 2))
  return exponential(s, v) + hill


def warmup_bump(s, v):
  """The loss rises while the rate warms up, then falls for good."""
  return exponential(s, v) + (0.15 + 0.2 * v) * np.exp(
    -(((s - 0.03) / 0.012) ** 2)
  )


def power_law(s, v, exponent):
  """A constant rate and a budget that is too small: no healthy shape."""
  return (1 + 30 * s) ** -(exponent * (0.95 + 0.1 * v))


# Of the validation metric and of the training loss, and the schedule.
SHAPES: Mapping[str, tuple[Callable, Callable, str]] = {
  "exponential": (exponential, exponential, "constant"),
  "slow_exponential": (slow_exponential, slow_exponential, "constant"),
  "cosine": (cosine, cosine, "cosine"),
  "wsd": (wsd, wsd, "wsd"),
  "step_decay": (step_decay, step_decay, "schedules.py:step_decay"),
  "late_drop": (late_drop, late_drop, "wsd"),
  "double_descent": (double_descent, exponential, "constant"),
  "warmup_bump": (warmup_bump, warmup_bump, "constant"),
}

# Schedule: the share of the base rate at the shares `s` of the steps.
RATES: Mapping[str, Callable] = {
  "constant": np.ones_like,
  "cosine": lambda s: (1 + np.cos(np.pi * s)) / 2,
  "wsd": lambda s: 1 - np.sqrt(np.clip((s - 0.8) / 0.2, 0, 1)),
  "schedules.py:step_decay": (
    lambda s: np.select([s <= 0.5, s <= 0.8], [1.0, 0.1], 0.01)
  ),
}


# Noise of evaluations, [trials, n], in units of its usual standard deviation.


def gaussian(rng, s, num):
  """Independent and normal."""
  return rng.normal(size=(num, len(s)))


def heavy_tails(rng, s, num):
  """Student's t with three degrees of freedom."""
  return rng.standard_t(3, size=(num, len(s))) / math.sqrt(3)


def heteroscedastic(rng, s, num):
  """Four times as large at first as at the end, and larger in some trials."""
  scale = (2 - 1.5 * s) * rng.uniform(0.5, 1.5, (num, 1))
  return scale * rng.normal(size=(num, len(s)))


def bursts(rng, s, num):
  """Now and then two to four evaluations are worse together, then recover."""
  noise = 0.5 * rng.normal(size=(num, len(s)))
  for row in noise:
    for start in rng.integers(len(s), size=rng.poisson(2)):
      row[start : start + rng.integers(2, 5)] += rng.uniform(3, 6)
  return noise


def autocorrelated(rng, s, num):
  """An autoregression with a coefficient of 0.6 to 0.9."""
  keep = rng.uniform(0.6, 0.9)
  noise = rng.normal(size=(num, len(s)))
  for i in range(1, len(s)):
    noise[:, i] = keep * noise[:, i - 1] + math.sqrt(1 - keep**2) * noise[:, i]
  return noise


NOISES: Mapping[str, Callable] = {
  "gaussian": gaussian,
  "heavy_tails": heavy_tails,
  "heteroscedastic": heteroscedastic,
  "bursts": bursts,
  "autocorrelated": autocorrelated,
}


# What a seed does to where a run ends, [trials], in standard deviations.


def normal(rng, num):
  """Normal numbers."""
  return rng.normal(size=num)


def lucky(rng, num):
  """Heavy tails, and one trial that is luckier than all others."""
  deviations = rng.standard_t(3, size=num) / math.sqrt(3)
  deviations[rng.integers(num)] = -6
  return deviations


def unlucky(rng, num):
  """One seed in eight ends clearly worse."""
  return rng.normal(size=num) + 10 * (rng.random(num) < 0.125)


SEEDS: Mapping[str, Callable] = {
  "normal": normal,
  "lucky": lucky,
  "unlucky": unlucky,
}


class World:
  """The truth behind one study: what was drawn once for all of its trials."""

  def __init__(self, rng, kind):
    def drawn(value, *choices):
      return choices[rng.integers(len(choices))] if value is None else value

    steady = "slow_exponential" if kind.task == "lm" else "exponential"
    self.kind = kind = dataclasses.replace(
      kind,
      task=drawn(kind.task, "error_rate", "accuracy"),
      shape=drawn(kind.shape, steady, "cosine", "wsd"),
      noise=drawn(kind.noise, "gaussian", "autocorrelated", "heteroscedastic"),
      dims=drawn(kind.dims, 1, 2, 3, 4),
      names=drawn(kind.names, False, True),
      evals=drawn(kind.evals, 20, 30, 60),
      reruns=drawn(kind.reruns, 0, 5),
      diverged=drawn(kind.diverged, 0.0, rng.uniform(0.05, 0.15)),
      sensitivity=drawn(kind.sensitivity, rng.uniform(1.5, 3.0)),
    )
    rest = list(NUMBERS)[1:]
    rng.shuffle(rest)
    keys = ["hparams.learning_rate", *rest[: kind.dims - 1]]
    if kind.beyond is not None:
      # Any of them may be the one whose optimum is out of reach.
      rng.shuffle(keys)
    self.matter = keys[:2]  # the others do nothing
    mapping = {key: NUMBERS[key] for key in keys}
    mapping |= NAMES if kind.names else {}
    mapping |= OPTIMIZERS if kind.groups else {}
    self.space = space_lib.Space(mapping)
    # A sixth of the volume is on the plateau, and the plateau is inside.
    self.radius = 0.5 * (1 / 6) ** (1 / len(self.matter))
    self.optimum = {key: rng.uniform(0.35, 0.6) for key in self.matter}
    rate = "hparams.learning_rate"
    if kind.diverged > 0.2 and rate in self.optimum:
      self.optimum[rate] = (1 - kind.diverged) / 2
    self.is_lm = kind.task == "lm"
    self.valid_shape, self.train_shape, self.schedule = SHAPES[kind.shape]
    self.evals = np.arange(1, kind.evals + 1) / kind.evals
    self.lines = np.arange(1, kind.lines + 1) / kind.lines
    self.begin, self.best = (10.8, 3.3) if self.is_lm else (0.9, 0.1)
    # Relative standard deviations. Losses in nats are far steadier.
    scale = 0.15 if self.is_lm else 1.0
    self.eval_noise = scale * rng.uniform(0.005, 0.015)
    self.seed_noise = scale * rng.uniform(0.005, 0.015)
    self.line_noise = scale * rng.uniform(0.02, 0.06)
    self.examples = rng.normal()  # whether the validation split is easy

  @property
  def edge(self):
    """The number whose optimum is beyond the range."""
    return self.matter[0]

  def floors(self, points):
    """Where runs of points end without noise, relative to the best, [n]."""
    worse = np.zeros(len(points))
    for p in self.space.parameters:
      if p.key not in self.matter:
        continue
      units = np.array([p.to_unit(point[p.key]) for point in points])
      if self.kind.beyond is not None and p.key == self.edge:
        at = self.kind.beyond + (self.kind.beyond >= 0)
        square = (units - at) ** 2
        nearest, farthest = (np.clip(at, 0, 1) - at) ** 2, max(at, 1 - at) ** 2
        worse += (square - nearest) / (farthest - nearest)
      else:
        at = self.optimum[p.key]
        gap = np.clip(abs(units - at) - self.radius, 0, None)
        worse += (gap / (max(at, 1 - at) - self.radius)) ** 2
    relative = 1 + self.kind.sensitivity * worse
    if self.is_lm:  # 3.3 nats are mostly the entropy of the text.
      relative = 1 + (relative - 1) / 10
    return self.best * relative

  def curves(self, rng, points, seeds, bend=None):
    """The curves of runs, metric -> [n, lines or evals]; NaN after divergence.

    Args:
      rng: For the noise.
      points: A point for each run.
      seeds: What seeds do, of `SEEDS`.
      bend: Changes the clean curves in place: the fault.
    """
    num, s, t = len(points), self.evals, self.lines
    seed = 1 + self.seed_noise * seeds(rng, num)
    floor = np.clip(self.floors(points) * seed, 0, 0.95 * self.begin)
    floor = floor[:, None]
    v = rng.random((num, 1))
    valid = floor + (self.begin - floor) * self.valid_shape(s, v)
    begin, end = (10.8, 0.98) if self.is_lm else (2.3, 2.5)
    left = self.train_shape(t, v)
    clean = {
      "valid": valid,
      "train/loss": end * floor + (begin - end * floor) * left,
      # It falls smoothly, from 3 (6 with a warmup) to 0.4.
      "train/grad_norm": 0.4
      + (6 if self.kind.shape == "warmup_bump" else 2.6)
      * np.exp(-t / 0.12)
      * np.ones((num, 1)),
      "train/clipped": 0.3 * np.exp(-t / 0.1) * np.ones((num, 1)),
      "data_wait": np.full((num, len(t)), 0.02),
    }
    if bend is not None:
      bend(Draft(rng, s, t, clean, floor))
    return self._noisy(rng, clean)

  def _noisy(self, rng, clean):
    num, s, t = len(clean["valid"]), self.evals, self.lines
    noise = NOISES[self.kind.noise](rng, s, num)
    valid = clean["valid"] * (1 + self.eval_noise * noise)
    objective = {"lm": "valid/loss"}.get(self.kind.task, "valid/error_rate")
    if not self.is_lm:
      valid = self._counted(rng, np.clip(valid, 0, 1))
    curves = {objective: valid}
    if self.kind.task == "accuracy":
      curves["valid/accuracy"] = 1 - valid
    if not self.is_lm:
      curves["valid/loss"] = (
        2.5 * clean["valid"] * (1 + self.eval_noise * noise)
      )
    batches = np.exp(0.15 * rng.normal(size=(num, len(t))))
    curves |= {
      "train/loss": clean["train/loss"]
      * (1 + self.line_noise * rng.normal(size=(num, len(t)))),
      "train/grad_norm": clean["train/grad_norm"] * batches,
      "train/grad_norm_max": 1.3 * clean["train/grad_norm"] * batches,
      "train/clipped": np.clip(
        clean["train/clipped"] + 0.03 * rng.normal(size=(num, len(t))), 0, 1
      ),
      "data_wait": np.clip(clean["data_wait"] * batches, 0, 1),
    }
    return curves

  def _counted(self, rng, rates):
    """Error rates as counts of a split, most of whose luck trials share."""
    num = self.kind.num_valid
    deviation = np.sqrt(rates * (1 - rates) / num)
    own = rng.normal(size=(len(rates), 1))
    luck = math.sqrt(0.8) * self.examples + math.sqrt(0.2) * own
    wobble = 0.2 * rng.normal(size=rates.shape)
    counts = np.round(num * (rates + deviation * (luck + wobble)))
    return np.clip(counts, 0, num) / num

  def config(self):
    """The base config of the study."""
    config = config_lib.base()
    config.max_train_steps = STEPS
    config.eval_every = STEPS // self.kind.evals
    config.log_every = STEPS // self.kind.lines
    config.model.norm = "rms"
    if self.is_lm:
      config.model.name = "lm"
      config.dataset.name = "pythonlib"
    if self.kind.task == "accuracy":
      config.objective = "valid/accuracy"
      config.task.metrics = ("accuracy",)
    if (schedule := self.schedule) in config_lib.SCHEDULES:
      config.schedule = schedule
      return config_lib.as_json(config)
    # The file of a user's schedule need not be there to judge its runs.
    declared = [["part", "schedule", schedule, []]]
    own = {"schedule": schedule, "declared": declared}
    return config_lib.as_json(config) | own


@dataclasses.dataclass(frozen=True)
class Draft:
  """Clean curves [trials, n], for a fault to change in place.

  Attributes:
    rng: Random numbers.
    s: Shares of the steps of evaluations.
    t: Shares of the steps of lines.
    curves: "valid", what is validated, and training metrics by name.
    floor: Where the validation metric ends, [trials, 1].
  """

  rng: np.random.Generator
  s: np.ndarray
  t: np.ndarray
  curves: dict[str, np.ndarray]
  floor: np.ndarray


def make(seed, num_trials, kind, bend=None) -> tuple[results.Results, World]:
  """Make a study in memory, and the truth behind it.

  Args:
    seed: Of the study.
    num_trials: Its length.
    kind: What is fixed about it.
    bend: The fault, which changes the clean curves.
  """
  words = zlib.crc32(repr(kind).encode())  # kinds share no luck
  rng = np.random.default_rng([seed, num_trials, words])
  world = World(rng, kind)
  kind = world.kind
  points = sampling.points(
    world.space, algorithm="halton", seed=seed, num=num_trials
  )
  rates = np.array([p["hparams.learning_rate"] for p in points])
  diverged = rates > np.quantile(rates, 1 - kind.diverged)
  objective = {"lm": "valid/loss"}.get(kind.task, f"valid/{kind.task}")

  def runs(points, seeds, diverged, first_seed):
    curves = world.curves(rng, points, seeds, bend)
    for i, point in enumerate(points):
      end = rng.uniform(0.05, 0.4) if diverged[i] else 1.0
      last = max(1, int(end * kind.lines))
      yield results.Trial(
        index=i,
        path=pathlib.Path(f"second/trials/{i:04d}"),
        status="infeasible" if diverged[i] else "completed",
        reason="loss is nan" if diverged[i] else "",
        point=world.space.labelled(point),
        seed=first_seed,
        step=STEPS * last // kind.lines,
        max_train_steps=STEPS,
        curves=_logged(world, point, {k: c[i] for k, c in curves.items()}, end),
        chance=None if world.is_lm else 0.9,
        num_valid=kind.num_valid,
      )

  study = results.Results(
    path=pathlib.Path("second"),
    study={
      "goal": "",
      "config": world.config(),
      "space": world.space.as_json(),
      "algorithm": "halton",
      "seed": seed,
      "num_trials": num_trials,
      "objective": objective,
    },
    space=world.space,
    objective=objective,
    select="best",
    trials=list(runs(points, SEEDS[kind.seeds], diverged, 0)),
  )
  if kind.reruns and study.ranked:
    best = study.ranked[0].index
    again = [
      dataclasses.replace(run, index=best, seed=1 + i)
      for i, run in enumerate(
        runs([points[best]] * kind.reruns, normal, [False] * kind.reruns, 1)
      )
    ]
    study = dataclasses.replace(study, reruns={best: again})
  return study, world


def _logged(world, point, curves, end):
  """The curves of one run up to a share of its steps, as it logs them."""
  if world.kind.logged_rate:
    rate = point["hparams.learning_rate"] * RATES[world.schedule](world.lines)
    curves = curves | {"learning_rate": rate}
  logged = {}
  for name, values in curves.items():
    shares = world.evals if name.startswith("valid/") else world.lines
    steps = np.round(shares * STEPS).astype(np.int64)
    kept = shares <= end + 1e-9
    values = values[kept].copy()
    if end < 1 and name.startswith("train/") and len(values):
      values[-1] = math.nan
    if len(values):
      logged[name] = (steps[kept], values)
  return logged


HEALTHY: Mapping[str, Kind] = {
  **{name: Kind(noise=name) for name in NOISES},
  "500 examples": Kind(task="error_rate", num_valid=500),
  "300 examples": Kind(task="error_rate", num_valid=300),
  **{name: Kind(shape=name) for name in SHAPES if name != "slow_exponential"},
  "accuracy": Kind(task="accuracy"),
  "lm, 200 lines": Kind(task="lm", lines=200),
  "lm, 20 lines": Kind(task="lm", lines=20),
  **{f"{dims} dimensions": Kind(dims=dims) for dims in (1, 2, 3, 5)},
  "names": Kind(names=True),
  "lucky": Kind(seeds="lucky", reruns=0),
  "unlucky": Kind(seeds="unlucky"),
  "2 groups": Kind(groups=True),
  **{f"{n} evaluations": Kind(evals=n) for n in (5, 10, 100)},
  "rate not logged": Kind(logged_rate=False),
  "decay not logged": Kind(logged_rate=False, shape="cosine"),
  "no reruns": Kind(reruns=0),
  "5 reruns": Kind(reruns=5),
  "diverged 20%": Kind(diverged=0.2),
}


# Faults of curves: each changes the clean curves of all trials.


def _overfits(draft, strength):
  """The objective rises from half-way on, by `strength` of its lowest."""
  rise = strength * np.clip((draft.s - 0.5) / 0.5, 0, 1)
  draft.curves["valid"] *= 1 + rise


def _loss_rises(draft, strength):
  """The training loss ends `strength` times above where it was at 60%."""
  rise = np.clip((draft.t - 0.6) / 0.4, 0, 1)
  draft.curves["train/loss"] *= 1 + (strength - 1) * rise


def _saturates(draft, strength):
  """All of the fall is over after a share `strength` of the steps."""
  for name, x in (("valid", draft.s), ("train/loss", draft.t)):
    curve = draft.curves[name]
    first, last = curve[:, :1], curve[:, -1:]
    curve[:] = last + (first - last) * np.exp(-8 * x / strength)


def _spikes(draft, strength):
  """The loss is `strength[0]` nats higher for `strength[1]` lines."""
  nats, lines = strength
  num = len(draft.t)
  for row in draft.curves["train/loss"]:
    at = draft.rng.integers(int(0.3 * num), int(0.95 * num) - lines)
    row[at : at + lines] += nats


def _periodic(draft, strength):
  """The objective swings by `strength`, relative, 4 to 10 times."""
  times = draft.rng.uniform(4, 10)
  draft.curves["valid"] *= 1 + strength * np.sin(2 * np.pi * times * draft.s)


def _clips(draft, strength):
  """The share `strength` of updates is clipped."""
  draft.curves["train/clipped"][:] = strength


def _best_is_early(draft, strength):
  """The best is at 5 to 8% of the steps; then the objective rises."""
  floor = draft.floor
  at = draft.rng.uniform(0.05, 0.08, floor.shape)
  fall = np.clip(1 - draft.s / at, 0, 1)
  rise = strength * np.clip((draft.s - at) / 0.5, 0, 1)
  draft.curves["valid"][:] = floor * (1 + rise + 4 * fall)


def _late_variance(draft, strength):
  """Late evaluations scatter by `strength`, relative."""
  curve = draft.curves["valid"]
  late = draft.s > 0.5
  curve *= 1 + strength * late * draft.rng.normal(size=curve.shape)


def _compute_bound(draft, strength):
  """A power law that would go on; the floor is a third of where it ends."""
  for name, x in (("valid", draft.s), ("train/loss", draft.t)):
    curve = draft.curves[name]
    left = power_law(x, 0.5, strength)
    last = curve[:, -1:]
    curve[:] = last / 3 + last * 2 / 3 * left / left[-1]


def _explodes(first, last):
  """Gradients `strength` times as large for three lines between two shares."""

  def bend(draft, strength):
    num = len(draft.t)
    for row in draft.curves["train/grad_norm"]:
      at = draft.rng.integers(int(first * num), int(last * num) - 3)
      row[at : at + 3] *= strength

  return bend


def _waits(draft, strength):
  """The share `strength` of the time goes to waiting for data."""
  draft.curves["data_wait"][:] = strength


def _stays_at_chance(draft, strength):
  """Nothing is learned."""
  draft.curves["valid"][:] = 0.9
  draft.curves["train/loss"][:] = 2.3


@dataclasses.dataclass(frozen=True)
class Fault:
  """What is wrong with a study.

  Attributes:
    check: The check that has to report it.
    strengths: From weak to plain.
    kind: The study around it.
    bend: (draft, strength): changes its clean curves.
    settings: strength -> other fields of `Kind`.
    at_edge: Whether the check has to name the number of `World.edge`.
  """

  check: str
  strengths: tuple
  kind: Kind = Kind()
  bend: Callable | None = None
  settings: Callable = lambda strength: {}
  at_edge: bool = False


def _edge(side, dims):
  return Fault(
    "search_space_boundary",
    (0.0, 0.1, 0.3),
    Kind(dims=dims, diverged=0.0, sensitivity=2.0),
    settings=lambda x: {"beyond": x if side > 0 else -max(x, 1e-9)},
    at_edge=True,
  )


_STEADY = Kind(shape="exponential")
_LM = Kind(task="lm", lines=200)
FAULTS: Mapping[str, Fault] = {
  **{f"low edge, {d} dims": _edge(-1, d) for d in (1, 2, 3, 5)},
  **{f"high edge, {d} dims": _edge(+1, d) for d in (1, 2, 3, 5)},
  "divergence": Fault(
    "infeasible_share",
    (0.45, 0.6, 0.8),
    settings=lambda x: {"diverged": x},
  ),
  "edge of stability": Fault(
    "optimization_instability",
    (0.0, 0.1, 0.3),
    Kind(dims=1, names=False, diverged=0.3, sensitivity=2.0),
    settings=lambda x: {"beyond": x},
  ),
  "nothing matters, reruns": Fault(
    "retrain_variance", (0,), Kind(sensitivity=0.0, diverged=0.0, reruns=5)
  ),
  "nothing matters": Fault(
    "retrain_variance", (0,), Kind(sensitivity=0.0, diverged=0.0, reruns=0)
  ),
  "best is early": Fault(
    "max_train_steps", (0.2, 0.5, 2.0), _STEADY, _best_is_early
  ),
  "compute-bound": Fault(
    "compute_bound", (0.4, 0.7, 1.0), _STEADY, _compute_bound
  ),
  "still improving": Fault(
    "still_improving", (0.4, 0.7, 1.0), _STEADY, _compute_bound
  ),
  "chance": Fault("better_than_chance", (0,), Kind(), _stays_at_chance),
  "overfitting": Fault("overfitting", (0.1, 0.2, 0.4), _STEADY, _overfits),
  "training loss rises": Fault(
    "training_loss_rises", (1.3, 1.5, 2.0), _STEADY, _loss_rises
  ),
  "saturated": Fault("saturated_early", (0.3, 0.2, 0.1), _STEADY, _saturates),
  "spike of nats, lines": Fault(
    "mid_training_instability",
    ((1, 1), (2, 1), (3, 1), (1, 40), (1, 5), (2, 5), (3, 5), (3, 40)),
    _LM,
    _spikes,
  ),
  "period": Fault(
    "periodic_validation", (0.01, 0.02, 0.04), Kind(evals=60), _periodic
  ),
  "late variance": Fault(
    "late_variance", (0.1, 0.2, 0.4), _STEADY, _late_variance
  ),
  "early explosion": Fault(
    "early_instability", (10, 20, 100), Kind(), _explodes(0.05, 0.19)
  ),
  "mid explosion": Fault(
    "mid_training_instability", (10, 20, 100), Kind(), _explodes(0.3, 0.9)
  ),
  "clipping": Fault("aggressive_clipping", (0.55, 0.8), Kind(), _clips),
  "waiting for data": Fault("input_bound", (0.15, 0.3, 0.7), Kind(), _waits),
}


def healthy(seed, kind, num_trials):
  """A study of the kind of that name."""
  return make(seed, num_trials, HEALTHY[kind])[0]


def faulty(seed, fault, strength, num_trials):
  """A study with the fault of that name."""
  return _faulty(seed, FAULTS[fault], strength, num_trials)[0]


def _faulty(seed, fault, strength, num_trials):
  bend = None
  if fault.bend is not None:

    def bend(draft):
      fault.bend(draft, strength)

  kind = dataclasses.replace(fault.kind, **fault.settings(strength))
  return make(seed, num_trials, kind, bend)


def judged(findings, subject=""):
  """What each check says of a study: "warn", else "ok", else "unknown"."""
  said = collections.defaultdict(set)
  for found in findings:
    if subject in found.subject:
      said[found.check].add(found.verdict)

  def one(verdicts):
    if verdicts & {"warn", "fail"}:
      return "warn"
    return "ok" if "ok" in verdicts else "unknown"

  return {check: one(verdicts) for check, verdicts in said.items()}


def is_told(seed, name, strength, num_trials):
  """What the check of a fault says: "warn", "ok", "unknown" or "absent"."""
  fault = FAULTS[name]
  study, world = _faulty(seed, fault, strength, num_trials)
  subject = world.edge if fault.at_edge else ""
  said = judged(_check(study), subject)
  return said.get(fault.check, "absent")


def _print_table(heads, rows):
  print("| " + " | ".join(heads) + " |")
  print("|" + "---|" * len(heads))
  for row in rows:
    print("| " + " | ".join(map(str, row)) + " |")
  print(flush=True)


def _check(study):
  # It never warns, and takes longer than all others.
  importance._done[study] = []
  found = checklist.check_study(study)
  return [each for each in found if each.check != "importance"]


def _said(kind, size, num_studies):
  """What the checks say of healthy studies."""
  studies = (healthy(seed, kind, size) for seed in range(num_studies))
  return [judged(_check(study)) for study in studies]


def _told(name, strength, size, num_studies):
  return [is_told(seed, name, strength, size) for seed in range(num_studies)]


def _print_healthy(pool, num_studies, only):
  """False alarms, and where nothing is known."""
  said = collections.defaultdict(collections.Counter)
  each = list(itertools.product(HEALTHY, SIZES))
  found = pool.map(
    _said, *zip(*each, strict=True), itertools.repeat(num_studies)
  )
  for (kind, size), studies in zip(each, found, strict=True):
    for check, verdict in (item for one in studies for item in one.items()):
      if only in ("", check):
        said[check, kind][size, verdict] += 1

  def rows(verdict, by):
    total = collections.defaultdict(collections.Counter)
    for (check, kind), counts in said.items():
      total[by(check, kind)] += counts
    for key, counts in sorted(total.items()):
      cells = []
      for size in SIZES:
        of = sum(n for (s, _), n in counts.items() if s == size)
        cells.append(f"{100 * counts[size, verdict] / max(of, 1):.0f}")
      if set(cells) != {"0"}:
        yield (*key, *cells)

  sizes = list(map(str, SIZES))
  print(f"False alarms, % of {num_studies} healthy studies by trials:\n")
  kinds = rows("warn", lambda check, kind: (f"`{check}`", kind))
  _print_table(["check", "kind", *sizes], kinds)
  print("`unknown`, % of all of these studies:\n")
  _print_table(["check", *sizes], rows("unknown", lambda c, _: (f"`{c}`",)))


def _print_faulty(pool, num_studies, only):
  """Misses, and how many of these are `unknown`."""
  each = [
    (name, strength, size)
    for name, fault in FAULTS.items()
    if only in ("", fault.check)
    for strength in fault.strengths
    for size in SIZES
  ]
  found = pool.map(
    _told, *zip(*each, strict=True), itertools.repeat(num_studies)
  )
  cells = {}
  for key, told in zip(each, found, strict=True):
    missed = 100 * sum(x != "warn" for x in told) / num_studies
    unknown = 100 * told.count("unknown") / num_studies
    cells[key] = f"{missed:.0f}" + (f" ({unknown:.0f})" if unknown else "")
  rows = [
    (
      f"`{FAULTS[name].check}`",
      name,
      strength,
      *(cells[name, strength, size] for size in SIZES),
    )
    for name, strength in dict.fromkeys(key[:2] for key in each)
  ]
  print(f"Misses, % of {num_studies} studies by trials (`unknown`):\n")
  _print_table(["check", "fault", "strength", *map(str, SIZES)], rows)


def main():
  """Print the tables."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--studies", type=int, default=20)
  parser.add_argument("--check", default="")
  args = parser.parse_args()
  with futures.ProcessPoolExecutor() as pool:
    _print_healthy(pool, args.studies, args.check)
    _print_faulty(pool, args.studies, args.check)


if __name__ == "__main__":
  main()
