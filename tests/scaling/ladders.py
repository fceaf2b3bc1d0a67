"""Generated ladder directories, with losses from a known law."""

import numpy as np

from jaxplay import config as config_lib
from jaxplay.scaling import ladder

# E, A, a, B, b, similar to Hoffmann et al. 2022, but for small models.
LAW = (1.0, 20.0, 0.35, 60.0, 0.33)
WIDTHS = (32, 48, 64, 96, 128, 192)
STEPS = (500, 1_000, 2_000, 4_000)
TOKENS_PER_STEP = 1_024


def law(parameters, tokens):
  """Returns the loss of the law."""
  e, a_n, a, b_d, b = LAW
  return e + a_n / parameters**a + b_d / tokens**b


def counts(width):
  """Returns counts.json of a size."""
  blocks = 2 * 12 * width**2
  return {
    "parameters": {"embedding": 256 * width, "attention": blocks},
    "flops_per_step": {
      "formula": 6 * blocks * TOKENS_PER_STEP,
      "compiled": 6.6 * blocks * TOKENS_PER_STEP,
    },
    "tokens_per_step": TOKENS_PER_STEP,
  }


def definition(widths=WIDTHS, steps=STEPS):
  """Returns the contents of ladder.json."""
  config = config_lib.base()
  config.objective = "valid/loss"
  return {
    "goal": "How does the loss fall?",
    "notes": "<made> up",
    "config_file": "config.py",
    "config": config_lib.as_json(config),
    "sizes": {f"w{width}": {"model.width": width} for width in widths},
    "steps": {f"w{width}": list(steps) for width in widths},
    "cooldown_fraction": 0.2,
    "cooldown_shape": "1-sqrt",
  }


def make(
  folder,
  widths=WIDTHS,
  steps=STEPS,
  noise=0.002,
  finished=None,
  only_ratio=False,
):
  """Writes a ladder, with the branches of `finished` steps (default: all).

  With `only_ratio`, each size has the branch of D proportional to N alone.
  """
  if only_ratio:
    steps = tuple(round(500 * (width / widths[0]) ** 2) for width in widths)
  random = np.random.default_rng(0)
  directory = ladder.LadderDir(folder)
  directory.create(definition(widths, steps))
  for width in widths:
    size, n = f"w{width}", 24 * width**2
    directory.write_counts(size, counts(width))
    base_run = directory.base_run(size)
    last = max(steps) - round(0.2 * max(steps))
    _write_run(base_run, n, 0, last, None, 1.05)
    own = [steps[widths.index(width)]] if only_ratio else steps
    for total in finished or own:
      start = total - round(0.2 * total)
      loss = law(n, total * TOKENS_PER_STEP) * np.exp(noise * random.normal())
      facts = {"branch": {"run": str(base_run.path), "step": start}}
      run = directory.branch(size, total)
      _write_run(run, n, start, total, facts, 1.0, loss)
  return directory


def _write_run(run, n, begin, end, facts, factor, loss=None):
  run.create()
  lines = []
  for step in np.unique(np.linspace(max(begin, 50), end, 30).astype(int)):
    value = factor * law(n, float(step) * TOKENS_PER_STEP)
    lines.append({"step": int(step), "train/loss": value})
  if loss is not None:
    lines[-1]["valid/loss"] = loss
  run.append_metrics(lines)
  run.write_status("completed", step=int(end), final=lines[-1])
  run.write_config({"max_train_steps": int(end)})
  if facts:
    run.write_provenance(facts)
