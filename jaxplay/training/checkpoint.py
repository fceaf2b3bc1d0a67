"""Checkpoints by orbax: N best and the latest two, asynchronous, repairable.

The best ones, so that the best step can be chosen at the end (Playbook, saving
checkpoints and retrospectively selecting the best checkpoint). The latest two,
so that a run whose newest checkpoint is damaged can fall back.
"""

import functools
import logging
import math
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax import checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy


class Checkpoints:
  """The checkpoints of one run. Every method is called on every host."""

  def __init__(self, folder: pathlib.Path, *, keep_best: int):
    """Opens or makes `folder`; keeps the `keep_best` best checkpoints."""
    keep = [preservation_policy.LatestN(2)]
    if keep_best:
      keep.append(
        preservation_policy.BestN(n=keep_best, get_metric_fn=_goodness)
      )
    self._manager = ocp.CheckpointManager(
      folder.absolute(),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=preservation_policy.AnyPreservationPolicy(keep),
        best_fn=_goodness,  # Without it orbax does not store the metrics.
        cleanup_tmp_directories=True,
      ),
    )

  def steps(self) -> list[int]:
    """Steps that can be restored, ascending."""
    return sorted(self._manager.all_steps())

  def save(self, step: int, state: Any, value: float) -> None:
    """Starts to save; returns once the state may be overwritten.

    Args:
      step: Updates made.
      state: Tree of arrays.
      value: The objective, less is better; NaN counts as the worst.
    """
    # Preempted at a step that was just saved.
    if step in self._manager.all_steps():
      return
    self._manager.save(
      step,
      args=ocp.args.StandardSave(state),
      metrics=_metrics(step, value),
      force=True,
    )

  def restore(self, step: int, like: Any) -> Any:
    """The state saved at `step`, laid out like `like` (ShapeDtypeStructs)."""
    return self._manager.restore(step, args=ocp.args.StandardRestore(like))

  def restore_newest(
    self, like: Any, tell: Callable[[str], None]
  ) -> tuple[int, Any] | None:
    """The newest checkpoint that can be read, and its step.

    Damaged ones are told, deleted, and skipped.

    Args:
      like: ShapeDtypeStructs with the shardings to restore to.
      tell: Called with a sentence about each damaged checkpoint.

    Returns:
      (step, state), or None where there is no intact checkpoint.
    """
    for step in reversed(self.steps()):
      try:
        state, problem = self.restore(step, like), None
      except Exception as error:  # orbax raises many kinds for many damages.
        state, problem = None, f"{type(error).__name__}: {error}"[:100]
      # A shard may be damaged for one host only; all fall back together.
      if _all_hosts(problem is None):
        return step, state
      # orbax leaves its other reads to fail; each would be logged at length.
      logging.getLogger("asyncio").setLevel(logging.CRITICAL)
      tell(
        f"the checkpoint of step {step} is damaged and was deleted"
        f" ({problem or 'on another host'}); falling back to the one before"
      )
      self._manager.delete(step)
    return None

  def delete_all(self) -> None:
    """Forgets every checkpoint."""
    for step in self.steps():
      self._manager.delete(step)

  def wait(self) -> None:
    """Waits until everything is on the disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and gives the folder free."""
    self._manager.close()


def write(
  folder: pathlib.Path, states: Mapping[int, tuple[Any, float]]
) -> None:
  """Writes finished checkpoints that `Checkpoints(folder)` can read.

  For many small runs that end together: opening a manager for each would cost
  as much again.

  Args:
    folder: The run's folder of checkpoints; there is nothing in it.
    states: Step -> (tree of numpy arrays, objective).
  """
  for step, (state, value) in states.items():
    _writer().save(
      folder.absolute() / str(step),
      args=ocp.args.Composite(
        default=ocp.args.StandardSave(state),
        metrics=ocp.args.JsonSave(_metrics(step, value)),
      ),
      force=True,
    )


@functools.cache
def _writer():
  return ocp.Checkpointer(
    ocp.CompositeCheckpointHandler(
      default=ocp.StandardCheckpointHandler(),
      metrics=ocp.JsonCheckpointHandler(),
    )
  )


def _metrics(step, value):
  # NaN counts as the worst: orbax's comparison would delete the true best.
  worst = value if math.isfinite(value) else math.inf
  return {"objective": worst, "step": step}


def _goodness(metrics):
  """Larger is better; of equals the earlier step is."""
  return -metrics["objective"], -metrics["step"]


def _all_hosts(flag):
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array([flag])).all())
