"""Checkpoints by orbax: N best, the latest two, and those asked for.

The best ones, so that the best step can be chosen at the end (Playbook, saving
checkpoints and retrospectively selecting the best checkpoint). The latest two,
so that a run whose newest checkpoint is damaged can fall back. And those of
given steps, to branch from.
"""

import dataclasses
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

import jaxplay
from jaxplay import rundir

_FINISHED = "commit_success.txt"
_SMALL = 2**20  # bytes


class Checkpoints:
  """The checkpoints of one run. Every method is called on every host."""

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    keep_best: int,
    is_kept: Callable[[int], bool] = lambda step: False,
  ):
    """Opens or makes `folder`.

    Args:
      folder: The run's folder of checkpoints.
      keep_best: How many of the best to keep.
      is_kept: Whether the checkpoint of a step is to be kept for good.

    Raises:
      jaxplay.UserError: orbax cannot write there.
    """
    if str(folder).startswith("s3://"):
      raise jaxplay.UserError(
        f"orbax cannot write checkpoints to {str(folder)!r}; mount the bucket,"
        " or use gs://"
      )
    keep = [preservation_policy.LatestN(2), _Kept(is_kept)]
    if keep_best:
      keep.append(
        preservation_policy.BestN(n=keep_best, get_metric_fn=_goodness)
      )
    self._manager = _Manager(
      rundir.absolute(folder),
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
      args=ocp.args.StandardSave(_without_copies(state)),
      metrics=_metrics(step, value),
      force=True,
    )

  def restore(self, step: int, like: Any) -> Any:
    """The state saved at `step`, laid out like `like` (ShapeDtypeStructs).

    Raises:
      jaxplay.UserError: It is the state of another model or optimizer.
    """
    self._check_shapes(step, like)
    return self._manager.restore(step, args=ocp.args.StandardRestore(like))

  def _check_shapes(self, step, like):
    folder = self._manager.directory / str(step) / "default"
    saved = _shapes(ocp.StandardCheckpointHandler().metadata(folder).tree)
    wanted = _shapes(like)
    different = [
      f"{name or 'its leaf'} is {saved.get(name, 'not there')} and must be"
      f" {wanted.get(name, 'absent')}"
      for name in sorted(saved.keys() | wanted.keys())
      if saved.get(name) != wanted.get(name)
    ]
    if different:
      more = f" ({len(different)} differ)" if len(different) > 1 else ""
      raise jaxplay.UserError(
        f"the checkpoint of step {step} is of another model, vocabulary or"
        f" optimizer: {different[0]}{more}; use another workdir"
      )

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
      except jaxplay.UserError:
        raise  # It is not damaged, and must not be deleted.
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


@dataclasses.dataclass
class _Kept(preservation_policy.PreservationPolicy):
  """Preserves the checkpoints of some steps."""

  is_kept: Callable[[int], bool]

  def should_preserve(self, checkpoints, *, context):
    return [self.is_kept(checkpoint.step) for checkpoint in checkpoints]


def _shapes(tree):
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
    for path, leaf in leaves
  }


def steps(folder: pathlib.Path) -> list[int]:
  """Steps of the finished checkpoints in a folder, ascending."""
  if not folder.is_dir():
    return []
  return sorted(
    int(path.name)
    for path in folder.iterdir()
    if path.name.isdecimal()
    and (rundir.is_local(path) or (path / _FINISHED).exists())
  )


class _Manager(ocp.CheckpointManager):
  """Leaves it to the loop to ask for preemptions.

  JAX agrees on the call at which all hosts stop by the number that each gives,
  so only one caller may count: a signal next to a save, for which orbax gives
  the step, would be agreed on for a call that never comes.
  """

  def reached_preemption(self, step: int) -> bool:
    return False


def copy(folder: pathlib.Path, step: int, to: pathlib.Path) -> None:
  """Copies the checkpoint of a step into the folder of another run."""
  rundir.remove(to / str(step))
  rundir.copy(folder / str(step), to / str(step))
  if not rundir.is_local(to):
    # By these orbax knows what is finished, where it cannot rename.
    for done in (to / str(step), *(to / str(step)).iterdir()):
      if done.is_dir():
        (done / _FINISHED).write_text("copied")


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
      rundir.absolute(folder) / str(step),
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


def _without_copies(state):
  """Of small arrays that all devices hold, that of one.

  orbax would have each device write its part, which takes twice as long. Over
  several hosts an array has to stay whole.
  """

  def of_one(x):
    if not isinstance(x, jax.Array) or x.nbytes > _SMALL:
      return x
    return x.addressable_data(0) if x.is_fully_replicated else x

  return state if jax.process_count() > 1 else jax.tree.map(of_one, state)


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
