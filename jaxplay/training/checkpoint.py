"""Checkpoints by orbax: N best, the latest two, and those asked for.

The best ones, so that the best step can be chosen at the end (Playbook, saving
checkpoints and retrospectively selecting the best checkpoint). The latest two,
so that a run whose newest checkpoint is damaged can fall back. And those of
given steps, to branch from.
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
  """There are checkpoints, and of none the lines of metrics are whole.

  Attributes:
    step: That of the newest.
  """

  def __init__(self, step: int):
    super().__init__(f"of the checkpoint of step {step}")
    self.step = step


class Checkpoints:
  """The checkpoints of one run. Every method is called on every host."""

  def __init__(
    self,
    folder: pathlib.Path,
    *,
    keep_best: int,
    is_kept: Callable[[int], bool] = lambda step: False,
    tell: Callable[[str], None] = lambda sentence: None,
  ):
    """Opens or makes `folder`.

    Args:
      folder: The run's folder of checkpoints.
      keep_best: How many of the best to keep.
      is_kept: Whether the checkpoint of a step is to be kept for good.
      tell: Called with a sentence about each damaged checkpoint; these are
        deleted.

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
    self._made = None  # The folder as such, whatever its name.
    # orbax reads these facts first of all, and fails on those of any step.
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
    value: float,
    lines: Sequence[Mapping[str, Any]] = (),
  ) -> None:
    """Starts to save; returns once the state may be overwritten.

    Args:
      step: Updates made.
      state: Tree of arrays.
      value: The objective, less is better; NaN counts as the worst.
      lines: A `rundir.Digest` of the metrics of each run whose state this is.
    """
    # Preempted at a step that was just saved.
    if step in self._manager.all_steps():
      return
    if self._is_gone():  # orbax would make it again.
      raise FileNotFoundError(
        errno.ENOENT, os.strerror(errno.ENOENT), str(self._folder)
      )
    self._manager.save(
      step,
      args=ocp.args.StandardSave(_without_copies(state)),
      metrics=files.facts(step, value, state, lines),
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
    """The newest checkpoint that can be gone on with, and its step.

    Damaged ones are reported, deleted, and skipped. If some that do not fit are
    newer than one that does, they are deleted, too: what comes after it is
    made again.

    Args:
      like: ShapeDtypeStructs with the shardings to restore to.
      fits: `fits(step, lines)` is whether the lines of metrics are whole; see
        `files.lines`.

    Returns:
      (step, state), or None where there is no intact checkpoint.

    Raises:
      Unfit: There are intact ones, and none fits.
    """
    others = []
    for step in reversed(self.steps()):
      if not _all_hosts(fits(step, files.lines(self._folder, step))):
        others.append(step)
        continue
      state = self.restore_intact(step, like)
      if state is None:
        continue
      for other in others:
        self._tell(
          f"lines of metrics before step {other} are missing or changed; going"
          f" back to the checkpoint of step {step}, before which they are whole"
        )
        self._manager.delete(other)
      return step, state
    if others:
      raise Unfit(others[0])
    return None

  def restore_intact(self, step: int, like: Any) -> Any | None:
    """As `restore`; None: it was damaged, which is reported, and deleted."""
    try:
      state, problem = self.restore(step, like), None
    except files.Damaged as error:
      state, problem = None, str(error)
      orbax_errors.hush()  # orbax leaves its other reads to fail.
    # A shard may be damaged for one host only; all fall back together.
    if _all_hosts(problem is None):
      return state
    self._tell(_deleted(step, problem or "on another host"))
    self._manager.delete(step)
    return None

  def _damaged_facts(self):
    """Deletes checkpoints whose facts are damaged: (step, problem) of each."""
    found = []
    for step in files.steps(self._folder):
      try:
        files.read_facts(self._folder, step)
      except files.Damaged as error:
        found.append((step, str(error)))
        rundir.remove(self._folder / str(step))
    return found

  def delete_all(self) -> None:
    """Forgets every checkpoint."""
    for step in self.steps():
      self._manager.delete(step)

  def delete_superseded(self) -> None:
    """Deletes all but the newest, and those that are kept for good."""
    for step in self.steps()[:-1]:
      if not self._is_kept(step):
        self._manager.delete(step)

  def wait(self) -> None:
    """Waits until everything is on the disk."""
    self._manager.wait_until_finished()

  def close(self) -> None:
    """Waits, and gives the folder free."""
    self._manager.close()

  def abandon(self, root: pathlib.Path) -> None:
    """As `close`, after an error: what is incomplete is removed.

    Args:
      root: Of the run or the study. If that was removed by others while orbax
        was saving, what orbax made of it again is removed as well.
    """
    orbax_errors.hush()
    with contextlib.suppress(Exception):  # It was raised already.
      self._manager.close()
    if not rundir.is_local(self._folder):
      return
    for path in self._folder.glob(f"*{files.INCOMPLETE}"):
      rundir.remove(path)
    if self._is_gone():
      rundir.remove(self._folder)
      with contextlib.suppress(OSError):  # There is more in it.
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
  """Leaves it to the loop to ask for preemptions.

  JAX agrees on the call at which all hosts stop by the number that each gives,
  so only one caller may count: a signal next to a save, for which orbax gives
  the step, would be agreed on for a call that never comes.
  """

  def reached_preemption(self, step: int) -> bool:
    return False


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


def _goodness(metrics):
  """Larger is better; of equals the earlier step is."""
  return -metrics["objective"], -metrics["step"]


def _all_hosts(flag):
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array([flag])).all())
