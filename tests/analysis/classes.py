"""Counts of made-up classes; and how often `rare_classes` is wrong about them.

    python -m tests.analysis.classes

prints the share of healthy splits that it warns of, the share of faulty ones
that it passes (verdict `ok`), and the share of the plainly faulty ones that it
does not judge: the table in docs/checks.md. Classes are unequally hard (their
error rates are a mean times a lognormal factor), and errors are independent.
"""

import argparse

import numpy as np

from jaxplay.analysis import classes as classes_lib

# Number of examples of each class, the rare ones last.
SPLITS = {
  "10 classes, 1 of 20": (*[200] * 9, 20),
  "10 classes, 2 of 5": (*[100] * 8, 5, 5),
  "2 classes, 5%": (950, 50),
  "100 classes, long tail": tuple(
    np.maximum(1000 * 0.95 ** np.arange(100), 8).astype(int).tolist()
  ),
}
HEALTHY = {"equal": 0.0, "unequal by 20%": 0.2}
# Error rate of one rare class, as a multiple of the mean, at least this.
FAULTS = {
  "3 times": (3, 0.0),
  "3 times, at least half": (3, 0.5),
  "always wrong": (1, 1),
}


def made(
  rng: np.random.Generator,
  split: tuple[int, ...],
  error: float,
  spread: float = 0.0,
  fault: tuple[float, float] | None = None,
) -> classes_lib.Classes:
  """Counts of a split, with one rare class at fault if asked for."""
  count = np.array(split)
  rates = error * np.exp(rng.normal(-(spread**2) / 2, spread, len(count)))
  if fault is not None:
    rates[-1] = max(fault[0] * error, fault[1])
  wrong = rng.binomial(count, np.clip(rates, 0, 1))
  names = tuple(map(str, range(len(count))))
  return classes_lib.Classes(1, count, count - wrong, names)


def rates(num: int, *args, seed: int = 0, **kwargs) -> dict[str, float]:
  """Verdict -> its share among `num` splits."""
  rng = np.random.default_rng(seed)
  found: dict[str, float] = {"ok": 0, "warn": 0, "unknown": 0}
  for _ in range(num):
    verdict = classes_lib.rare_classes(made(rng, *args, **kwargs)).verdict
    found[verdict] += 1 / num
  return found


def main():
  parser = argparse.ArgumentParser()
  parser.add_argument("--splits", type=int, default=2000)
  num = parser.parse_args().splits
  cases = {name: ("warn", dict(spread=s)) for name, s in HEALTHY.items()}
  cases |= {name: ("ok", dict(fault=f)) for name, f in FAULTS.items()}
  cases["not judged"] = (
    "unknown",
    dict(fault=FAULTS["3 times, at least half"]),
  )
  print("| examples | mean error |", " | ".join(cases), "|")
  print("|---" * (2 + len(cases)) + "|")
  for name, split in SPLITS.items():
    for error in (0.02, 0.1, 0.3):
      shares = [
        f"{100 * rates(num, split, error, **options)[verdict]:.1f}"
        for verdict, options in cases.values()
      ]
      print(f"| {name} | {error} |", " | ".join(shares), "|")


if __name__ == "__main__":
  main()
