"""Generated runs on disk, in place of training.

The final error of a trial grows with the squared distance, in decades, of its
effective learning rate, learning_rate / (1 - momentum), from the best one;
training diverges 1.2 decades above that. It falls with the number of steps.
Seeds differ by some percent.
"""

import json
import math
import zlib

import numpy as np

import jaxplay
from jaxplay import config as config_lib

FEWEST = 0.02  # error at the best learning rate after infinitely many steps
NOISE = 0.05


def trains(best_rate=1.0, scale=100, noise=NOISE, stop=None):
  """Returns a function that "trains" jobs, for `study_runner.StudyRunner`.

  Args:
    best_rate: The best effective learning rate.
    scale: Number of steps at which the error is twice that of infinitely many.
    noise: Standard deviation of the log error between seeds.
    stop: Called before each run; True: stops as after a signal.
  """

  def train(directory, jobs):
    for job in jobs:
      if job.is_open():
        if stop is not None and stop():
          raise jaxplay.Stopped
        _run(job, best_rate, scale, noise)

  return train


def error(config, best_rate=1.0, scale=100) -> float:
  """Returns the final error of a config, without noise; inf: it diverges."""
  hparams = config.hparams
  effective = hparams.learning_rate / (1 - hparams.momentum)
  distance = math.log10(effective / best_rate)
  if distance > 1.2:
    return math.inf
  decay = 0.1 * math.log10(max(hparams.weight_decay, 1e-8) / 1e-3) ** 2
  excess = 2 * distance**2 + 0.5 * decay
  return min(0.85, FEWEST * (1 + excess) * (1 + scale / config.max_train_steps))


def _run(job, best_rate, scale, noise):
  config, total = job.config, job.config.max_train_steps
  end = error(config, best_rate, scale)
  # The noise depends on the run's config alone.
  key = json.dumps(config_lib.as_json(config), sort_keys=True)
  rng = np.random.default_rng(zlib.crc32(key.encode()))
  diverged = math.isinf(end)
  evaluated = config_lib.evaluated(config)
  end = 0.85 if diverged else end * math.exp(noise * rng.normal())
  lines = []
  for step in range(1, total + 1):
    if step % config.log_every and step % config.eval_every and step < total:
      continue
    share = step / total
    now = end + (0.9 - end) * math.exp(-12 * share)
    line = {"step": step}
    if step % config.log_every == 0 or step == total:
      line |= {
        "train/loss": 2 * now,
        "train/error_rate": 0.0 if now < 0.1 and share > 0.5 else now,
        "train/grad_norm": 1 + now,
        "learning_rate": config.hparams.learning_rate,
      }
    if step % config.eval_every == 0 or step == total:
      line |= {
        metric: now if metric.endswith("error_rate") else 2 * now
        for metric in evaluated
      }
    lines.append(line)
    if diverged and share > 0.5:
      lines[-1] |= {"train/loss": math.nan}
      break
  job.run.create()
  job.run.write_config(config_lib.as_json(config))
  job.run.append_metrics(lines)
  status = {"step": lines[-1]["step"], "max_train_steps": total}
  status |= {"chance": {"majority_error_rate": 0.9, "num_valid": 10_000}}
  if diverged:
    status["reason"] = "train/loss is NaN"
  job.run.write_status("infeasible" if diverged else "completed", **status)
