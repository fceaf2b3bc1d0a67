"""Losses of runs that share a seed, compared within it."""

import statistics

import jaxplay as jp


def loss_at(run, step):
  """The validation loss of a run after a number of steps, nats per byte."""
  status = run.status()["status"]
  if status != "completed":
    raise SystemExit(f"{run.path}: {status}; the same command resumes")
  (line,) = [line for line in run.metrics() if line["step"] == step]
  return line["valid/loss"]


def show(rows, pairs):
  """Prints means and paired differences, with standard deviations.

  Args:
    rows: For each seed, name -> loss.
    pairs: (name, name that it is compared with).
  """
  print(f"\njaxplay {jp.__version__}, {len(rows)} seeds; mean +- sd")
  for name in rows[0]:
    print(f"  {name:<36}{_spread([row[name] for row in rows])}")
  print("differences within a seed (below 0: the first is better)")
  for name, other in pairs:
    found = [row[name] - row[other] for row in rows]
    print(f"  {f'{name} - {other}':<36}{_spread(found, '+')}")


def _spread(values, sign=""):
  each = " ".join(f"{value:{sign}.4f}" for value in values)
  mean = f"{statistics.mean(values):{sign}.4f}"
  return f"{mean} +- {statistics.stdev(values):.4f}  ({each})"
