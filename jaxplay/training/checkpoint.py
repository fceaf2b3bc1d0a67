"""Checkpoints by orbax: the N best, the latest two, and those of given steps.

The best allow to choose the best step at the end (Playbook, saving checkpoints
and retrospectively selecting the best checkpoint). The latest two allow to fall
back if the newest is damaged. Those of given steps allow branches.
"""

import contextlib
import dataclasses
import errno
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax import checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

import jaxplay
from jaxplay import rundir
from jaxplay.training import checkpoint_files as files
from jaxplay.training import orbax_errors, sharding

_SMALL = 2**20  # bytes


class Unfit(Exception):
  """There are checkpoints, but no complete lines of metrics for any of them.

  Attributes:
    step: Of the newest checkpoint.
  """

  def __init__(self, step: int):
    super().__init__(f"lines of metrics before step {step} are incomplete")
    self.step = step


class Checkpoints:
  """The checkpoints of one run. Every method is called on every host."""

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    keep_best: int,
    is_kept: Callable[[int], bool] = lambda step: False,
    tell: Callable[[str], None] = lambda message: None,
  ):
    """Opens or makes `folder`.

    Args:
      folder: The run's folder of checkpoints.
      keep_best: How many of the best to keep.
      is_kept: Whether to keep the checkpoint of a step permanently.
      tell: Called with a message about each damaged checkpoint that is deleted.

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
    self._folder, self._tell, self._is_kept = folder, tell, is_kept
    self._made = None  # stat of the folder
    # orbax reads the facts of all steps first, and fails if any is damaged.
    for step, problem in sharding.from_first_host(self._damaged_facts):
      tell(_deleted(step, problem))
    self._manager = _Manager(
      rundir.absolute(folder),
      options=ocp.CheckpointManagerOptions(
        preservation_policy=preservation_policy.AnyPreservationPolicy(keep),
        best_fn=_goodness,  # Without it orbax does not store the metrics.
        cleanup_tmp_directories=True,
      ),
    )
    if rundir.is_local(folder):
      self._made = folder.stat()

  def steps(self) -> list[int]:
    """Steps that can be restored, ascending."""
    return sorted(self._manager.all_steps())

  def save(
    self,
    step: int,
    state: Any,
    cost: float,
    lines: Sequence[Mapping[str, Any]] = (),
  ) -> None:
    """Starts to save; returns once the state may be overwritten.

    Args:
      step: Updates made.
      state: Tree of arrays.
      cost: Of the objective, to be minimized; NaN counts as the worst.
      lines: A `rundir.Digest` of the metrics of each run whose state this is.
    """
    # A preemption may follow a save of the same step.
    if step in self._manager.all_steps():
      return
    if self._is_gone():  # orbax would create it again.
      raise FileNotFoundError(
        errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder)
      )
    self._manager.save(
      step,
      args=ocp.args.StandardSave(_without_copies(state)),
      metrics=files.facts(step, cost, state, lines),
      force=True,
    )

  def restore(self, step: int, like: Any) -> Any:
    """The state saved at `step`, laid out like `like` (ShapeDtypeStructs).

    Raises:
      jaxplay.UserError: It is the state of another model or optimizer.
      jaxplay.StorageError: It cannot be read now.
      files.Damaged: It is not what was saved.
    """
    return files.restored(
      self._folder,
      step,
      like,
      lambda: self._manager.restore(step, args=ocp.args.StandardRestore(like)),
    )

  def restore_newest(
    self,
    like: Any,
    fits: Callable[[int, list[dict[str, Any]] | None], bool],
  ) -> tuple[int, Any] | None:
    """The newest usable checkpoint, and its step.

    Damaged ones are reported, deleted, and skipped. Those that are newer than
    the restored one and do not fit are deleted, too: training repeats them.

    Args:
      like: ShapeDtypeStructs with the shardings to restore to.
      fits: `fits(step, lines)`: whether the lines of metrics are complete; see
        `files.lines`.

    Returns:
      (step, state), or None if there is no intact checkpoint.

    Raises:
      Unfit: There are checkpoints, but none fits.
    """
    unfit = []
    for step in reversed(self.steps()):
      if not _all_hosts(fits(step, files.lines(self._folder, step))):
        unfit.append(step)
        continue
      state = self.restore_intact(step, like)
      if state is None:
        continue
      for other in unfit:
        self._tell(
          f"lines of metrics before step {other} are missing or changed;"
          f" falling back to step {step}, before which they are complete"
        )
        self._manager.delete(other)
      return step, state
    if unfit:
      raise Unfit(unfit[0])
    return None

  def restore_intact(self, step: int, like: Any) -> Any | None:
    """As `restore`; None if it was damaged: it is reported and deleted."""
    try:
      state, problem = self.restore(step, like), None
    except files.Damaged as error:
      state, problem = None, str(error)
      orbax_errors.hush()  # The other reads of orbax fail later.
    # A shard may be damaged on one host only; all fall back together.
    if _all_hosts(problem is None):
      return state
    self._tell(_deleted(step, problem or "on another host"))
    self._manager.delete(step)
    return None

  def _damaged_facts(self):
    """Deletes checkpoints with damaged facts; (step, problem) of each."""
    damaged = []
    for step in files.steps(self._folder):
      try:
        files.read_facts(self._folder, step)
      except files.Damaged as error:
        damaged.append((step, str(error)))
        rundir.remove(self._folder / str(step))
    return damaged

  def delete_all(self) -> None:
    """Deletes every checkpoint."""
    for step in self.steps():
      self._manager.delete(step)

  def delete_superseded(self) -> None:
    """Deletes all but the newest and the permanent ones."""
    for step in self.steps()[:-1]:
      if not self._is_kept(step):
        self._manager.delete(step)

  def wait(self) -> None:
    """Waits until everything is on disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and releases the folder."""
    self._manager.close()

  def abandon(self, root: pathlib.Path) -> None:
    """As `close`, after an error: removes what is incomplete.

    Args:
      root: Of the run or the study. If it was removed while orbax was saving,
        the folders that orbax created again are removed as well.
    """
    orbax_errors.hush()
    with contextlib.suppress(Exception):  # It has been raised already.
      self._manager.close()
    if not rundir.is_local(self._folder):
      return
    for path in self._folder.glob(f"*{files.INCOMPLETE}"):
      rundir.remove(path)
    if self._is_gone():
      rundir.remove(self._folder)
      with contextlib.suppress(OSError):  # It is not empty.
        for folder in (self._folder.parent, *self._folder.parent.parents):
          if not folder.is_relative_to(root):
            break
          folder.rmdir()

  def _is_gone(self):
    if self._made is None:
      return False
    try:
      return not os.path.samestat(self._made, self._folder.stat())
    except OSError:
      return True


@dataclasses.dataclass
class _Kept(preservation_policy.PreservationPolicy):
  """Preserves the checkpoints of some steps."""

  is_kept: Callable[[int], bool]

  def should_preserve(self, checkpoints, *, context):
    return [self.is_kept(checkpoint.step) for checkpoint in checkpoints]


def _deleted(step, problem):
  return (
    f"the checkpoint of step {step} is damaged and was deleted ({problem});"
    " falling back to another"
  )


class _Manager(ocp.CheckpointManager):
  """Leaves checks for preemption to the loop.

  The hosts agree on the number of the call at which all stop. orbax would check
  with the step as number: after a signal close to a save, the hosts could agree
  on a call that never comes.
  """

  def reached_preemption(self, step: int) -> bool:
    return False


def _without_copies(state):
  """Replaces small replicated arrays by the copy of one device.

  orbax would let each device write a part, which takes twice as long. With
  several hosts arrays have to stay global.
  """

  def one_copy(x):
    if not isinstance(x, jax.Array) or x.nbytes > _SMALL:
      return x
    return x.addressable_data(0) if x.is_fully_replicated else x

  return state if jax.process_count() > 1 else jax.tree.map(one_copy, state)


def _goodness(metrics):
  """Larger is better; among equals the earlier step."""
  return -metrics["objective"], -metrics["step"]


def _all_hosts(flag):
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array([flag])).all())
