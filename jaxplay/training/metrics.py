"""Lines of metrics.jsonl from sums on the device: the means are taken here."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxplay.training import scores


def train_line(
  tally: Mapping[str, np.ndarray], layers: Sequence[str] = ()
) -> dict[str, float]:
  """The training part of a line, from the tally of the steps since the last.

  Args:
    tally: Of the state.
    layers: Names of the layers of its diagnostics; empty: these are left out.

  Returns:
    train/loss: mean of the optimized loss. train/error_rate: mean, of a task
    that has errors. train/grad_norm: L2 norm before clipping, of the last step;
    train/grad_norm_max: its maximum. train/clipped: share of clipped updates.
    learning_rate: of the last step. update_ratio/LAYER and other diagnostics:
    of the last step.
  """
  sums = {n: float(value) for n, value in tally.items() if not np.ndim(value)}
  steps = sums["steps"]
  line = {"train/loss": sums["loss"] / steps}
  if "error_rate" in sums:
    line["train/error_rate"] = sums["error_rate"] / steps
  return line | {
    "train/grad_norm": sums["grad_norm"],
    "train/grad_norm_max": sums["grad_norm_max"],
    "train/clipped": sums["clipped"] / steps,
    "learning_rate": sums["learning_rate"],
    **{
      f"{name}/{layer}": value
      for name, values in tally.items()
      if np.ndim(values)
      for layer, value in zip(layers, values.tolist(), strict=False)
    },
  }


def diverged(tally: Mapping[str, np.ndarray]) -> tuple[int, str] | None:
  """(step, reason) of the first loss or gradient that is not finite."""
  step = int(tally["bad_step"])
  if not step:
    return None
  loss, norm = float(tally["bad_loss"]), float(tally["bad_grad_norm"])
  what = "loss" if not np.isfinite(loss) else "gradient norm"
  return step, f"{what} is {loss if what == 'loss' else norm} at step {step}"


def eval_line(
  split: str,
  sums: Mapping[str, Any],
  bytes_per_token: float | None = None,
  task: Any = None,
) -> dict[str, float]:
  """Metrics of a split by name, such as valid/loss, in nats.

  Args:
    split: Name of the split, with the suffix of the weights.
    sums: From `task.eval_sums`, added up.
    bytes_per_token: For text: adds `split`/bits_per_byte, which does not depend
      on the tokenizer.
    task: Computes the metrics; None: loss and error rate.
  """
  values = task.values if task is not None else scores.values
  line = values(sums, bytes_per_token=bytes_per_token)
  return {f"{split}/{name}": value for name, value in line.items()}
