"""Studies of several schedules, of which the gain of twice the steps is known.

    python -m tests.analysis.quadratic [--studies=N]

prints how well `jaxplay.analysis.longer` estimates it, in Markdown.

The loss is the exact expectation of SGD on a noisy quadratic (Schaul et al.
2013; Zhang et al. 2019, arXiv 1907.04164): of each eigenvalue h, the second
moment m of the weight's error becomes (1 - rate h)^2 m + rate^2 h noise in a
step. So it follows from the learning rates alone, and knows nothing of the law
that is fitted to it. With many small eigenvalues more steps always help; with
few large ones a run is finished, and only the rate decides where it ends.
"""

import argparse
import collections
import dataclasses
import math
import pathlib

import numpy as np

from jaxplay import config as config_lib
from jaxplay.analysis import longer, results
from jaxplay.study import space as space_lib

STEPS = 1_000
# Schedule: the share of the peak after a share of the steps after the warmup.
SCHEDULES = {
  "constant": np.ones_like,
  "linear": lambda s: 1 - s,
  "cosine": lambda s: (1 + np.cos(math.pi * s)) / 2,
  "wsd": lambda s: 1 - np.sqrt(np.clip((s - 0.8) / 0.2, 0, 1)),
}
SETS = (
  ("cosine", "wsd"),
  ("linear", "wsd"),
  ("constant", "cosine"),
  ("constant", "wsd"),
  ("constant", "cosine", "linear", "wsd"),
)
NOISES = (0.001, 0.003, 0.01)  # of an evaluation, relative


@dataclasses.dataclass(frozen=True)
class Quadratic:
  """A problem, in units of the largest eigenvalue.

  Attributes:
    eigenvalues: [modes].
    moments: [modes], second moments of the errors at first.
    noise: Of the gradient.
    floor: The least loss.
  """

  eigenvalues: np.ndarray
  moments: np.ndarray
  noise: float
  floor: float

  def losses(self, rates: np.ndarray, num: int) -> np.ndarray:
    """The expected loss at `num` equal distances, for rates [steps]."""
    moments, h = self.moments, self.eigenvalues
    every = len(rates) // num
    losses = []
    for i, rate in enumerate(rates, 1):
      moments = (1 - rate * h) ** 2 * moments + rate**2 * h * self.noise
      if i % every == 0:
        losses.append(self.floor + (h * moments).sum())
    return np.array(losses)


def rates_of(schedule: str, peak: float, steps: int) -> np.ndarray:
  """A learning rate for each step, after a warmup of 5%."""
  done = (np.arange(steps) + 0.5) / steps
  after = np.clip((done - 0.05) / 0.95, 0, 1)
  return peak * np.minimum(done / 0.05, 1) * SCHEDULES[schedule](after)


def drawn(rng: np.random.Generator) -> Quadratic:
  """A problem with 5 to 500 modes, whose spectrum is a power law."""
  places = np.arange(1, int(10 ** rng.uniform(0.7, 2.7)) + 1.0)
  eigenvalues = places ** -(1 + rng.uniform(0.2, 1.5))
  contributions = places ** -(1 + rng.uniform(0.1, 1.2))
  return Quadratic(
    eigenvalues,
    contributions / eigenvalues,
    noise=10 ** rng.uniform(-2, 0.5),
    floor=rng.uniform(0.3, 3),
  )


def study(
  seed: int, schedules: tuple[str, ...], noise: float, num: int = 40
) -> tuple[results.Results, float]:
  """A study in memory, and the true gain of twice the steps of its best trial.

  Args:
    seed: Of the problem and of the noise.
    schedules: Keys of `SCHEDULES`; two trials of each, whose learning rates
      differ by up to a factor of 2.
    noise: Relative standard deviation of an evaluation.
    num: Evaluations of a run.
  """
  rng = np.random.default_rng([seed, len(schedules), round(1e6 * noise)])
  problem = drawn(rng)
  peak = 10 ** rng.uniform(-1.5, -0.2)
  space = space_lib.Space(
    {
      "schedule": space_lib.Choice(tuple(SCHEDULES), role="scientific"),
      "hparams.learning_rate": space_lib.Float(1e-3, 1.0, "log"),
    }
  )
  points = [
    {
      "schedule": schedule,
      "hparams.learning_rate": float(peak * 2 ** rng.uniform(-0.5, 0.5)),
    }
    for schedule in schedules * 2
  ]
  steps = (np.arange(num) + 1) * (STEPS // num)
  trials = []
  for i, point in enumerate(points):
    rates = rates_of(point["schedule"], point["hparams.learning_rate"], STEPS)
    losses = problem.losses(rates, num) * (1 + noise * rng.normal(size=num))
    curves = {name: (steps, losses) for name in ("valid/loss", "train/loss")}
    trials.append(
      results.Trial(
        index=i,
        path=pathlib.Path(f"quadratic/{i}"),
        status="completed",
        reason="",
        point=space.labelled(point),
        seed=0,
        step=STEPS,
        max_train_steps=STEPS,
        curves=curves | {"learning_rate": (steps, rates[steps - 1])},
      )
    )
  config = config_lib.base()
  config.max_train_steps = STEPS
  made = results.Results(
    path=pathlib.Path("quadratic"),
    study={
      "config": config_lib.as_json(config),
      "num_trials": len(points),
      "objective": "valid/loss",
    },
    space=space,
    objective="valid/loss",
    select="final",
    trials=trials,
  )
  best = points[made.ranked[0].index]
  now, twice = (
    problem.losses(
      rates_of(best["schedule"], best["hparams.learning_rate"], steps), 1
    )[0]
    for steps in (STEPS, 2 * STEPS)
  )
  return made, float(1 - twice / now)


def main():
  """Print the table."""
  parser = argparse.ArgumentParser(description=main.__doc__)
  parser.add_argument("--studies", type=int, default=200)
  args = parser.parse_args()
  heads = ("schedules", "noise", "estimated", "covered", "error")
  heads += ("false alarms", "misses", "finished is ok", "8% is warned")
  print("| " + " | ".join(heads) + " |\n" + "|---" * len(heads) + "|")
  for schedules in SETS:
    for noise in NOISES:
      shares = collections.defaultdict(list)
      for seed in range(args.studies):
        made, true = study(seed, schedules, noise)
        found = longer.longer(made)
        is_known = not isinstance(found, str)
        shares["estimated"].append(is_known)
        helps = found.helps if is_known else None
        if true < longer.MATTERS:
          shares["false alarms"].append(helps is True)
        else:
          shares["misses"].append(helps is False)
        if true < longer.MATTERS / 2:
          shares["finished is ok"].append(helps is False)
        if true > 2 * longer.MATTERS:
          shares["8% is warned"].append(helps is True)
        if is_known:
          low, high = found.interval
          shares["covered"].append(low <= true <= high)
          shares["error"].append(abs(found.gain - true))
      cells = [
        ""  # There is none of this kind.
        if not shares[head]
        else f"{100 * np.median(shares[head]):.2f}"
        if head == "error"
        else f"{100 * np.mean(shares[head]):.0f}"
        for head in heads[2:]
      ]
      row = (", ".join(schedules), f"{noise:.1%}", *cells)
      print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
  main()
