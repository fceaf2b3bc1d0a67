"""Checkpoints by orbax: N best, the latest two, and those asked for.

The best ones, so that the best step can be chosen at the end (Playbook, saving
checkpoints and retrospectively selecting the best checkpoint). The latest two,
so that a run whose newest checkpoint is damaged can fall back. And those of
given steps, to branch from.

Beside each are a checksum of its state and the digests of the lines of metrics
up to its step, so that what a disk or a copy changed is not gone on with.
"""

import contextlib
import dataclasses
import errno
import functools
import json
import logging
import math
import os
import pathlib
import sys
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from orbax import checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import preservation_policy

import jaxplay
from jaxplay import rundir, storage
from jaxplay.training import checksum, sharding

_FINISHED = "commit_success.txt"
_INCOMPLETE = ".orbax-checkpoint-tmp"
_FACTS = pathlib.PurePath("metrics", "metrics")  # of a checkpoint, as JSON
_OLD_NAME = "metadata"  # of the same file, as `write` had it once
_SMALL = 2**20  # bytes
# Of checkpoints that older versions left: nothing to check them by.
_OLD_FACTS = {"objective", "step"}


class Damaged(Exception):
  """A checkpoint is not what was saved."""


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
    self._folder, self._tell = folder, tell
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
      metrics=_facts(step, value, state, lines),
      force=True,
    )

  def restore(self, step: int, like: Any) -> Any:
    """The state saved at `step`, laid out like `like` (ShapeDtypeStructs).

    Raises:
      jaxplay.UserError: It is the state of another model or optimizer.
      jaxplay.StorageError: It cannot be read now.
      Damaged: It is not what was saved. orbax raises other errors for many a
        damage; they are made this one.
    """
    try:
      facts = _read_facts(self._folder, step)
      different = self._different_shapes(step, like)
      if different and facts.get("shapes") != _crc32(_shapes(like)):
        raise jaxplay.UserError(
          f"the checkpoint of step {step} is of another model, vocabulary or"
          f" optimizer: {different}; use another workdir"
        )
      state = self._manager.restore(step, args=ocp.args.StandardRestore(like))
      if "state" in facts and facts["state"] != checksum.of(state):
        raise Damaged("its checksum is another")
    except (jaxplay.UserError, Damaged):
      raise
    # Of this machine, and not of what is on the disk.
    except (MemoryError, jax.errors.JaxRuntimeError):
      raise
    except Exception as error:
      if found := storage.problem(error, self._folder):
        raise found from error
      raise Damaged(f"{type(error).__name__}: {error}"[:100]) from error
    return state

  def _different_shapes(self, step, like):
    """The first leaf that was saved with another shape, in words; or ""."""
    folder = self._manager.directory / str(step) / "default"
    saved = _shapes(ocp.StandardCheckpointHandler().metadata(folder).tree)
    wanted = _shapes(like)
    different = [
      f"{name or 'its leaf'} is {saved.get(name, 'not there')} and must be"
      f" {wanted.get(name, 'absent')}"
      for name in sorted(saved.keys() | wanted.keys())
      if saved.get(name) != wanted.get(name)
    ]
    more = f" ({len(different)} differ)" if len(different) > 1 else ""
    return f"{different[0]}{more}" if different else ""

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
        `lines`.

    Returns:
      (step, state), or None where there is no intact checkpoint.

    Raises:
      Unfit: There are intact ones, and none fits.
    """
    others = []
    for step in reversed(self.steps()):
      if not _all_hosts(fits(step, lines(self._folder, step))):
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
    except Damaged as error:
      state, problem = None, str(error)
      _hush()  # orbax leaves its other reads to fail.
    # A shard may be damaged for one host only; all fall back together.
    if _all_hosts(problem is None):
      return state
    self._tell(_deleted(step, problem or "on another host"))
    self._manager.delete(step)
    return None

  def _damaged_facts(self):
    """Deletes checkpoints whose facts are damaged: (step, problem) of each."""
    found = []
    for step in steps(self._folder):
      try:
        _read_facts(self._folder, step)
      except Damaged as error:
        found.append((step, str(error)))
        rundir.remove(self._folder / str(step))
    return found

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

  def abandon(self, root: pathlib.Path) -> None:
    """As `close`, after an error: what is incomplete is removed.

    Args:
      root: Of the run or the study. If that was removed by others while orbax
        was saving, what orbax made of it again is removed as well.
    """
    _hush()
    with contextlib.suppress(Exception):  # It was raised already.
      self._manager.close()
    if not rundir.is_local(self._folder):
      return
    for path in self._folder.glob(f"*{_INCOMPLETE}"):
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


def _deleted(step, problem):
  return (
    f"the checkpoint of step {step} is damaged and was deleted ({problem});"
    " falling back to another"
  )


class _OfOrbax(logging.Filter):
  """Drops the tracebacks that threads of orbax log.

  Each of its threads logs the error of the first one, 324 lines for a full
  disk, and then it is raised for us as well.
  """

  def filter(self, record):
    return not (record.exc_info and "/orbax/" in record.pathname)


def _but_for_closed_loops(hook):
  """`sys.unraisablehook` without what TensorStore's threads cannot raise.

  After the first error of a save or a restore orbax closes the event loop to
  which they report theirs.
  """

  def unraisablehook(unraisable):
    closed = str(unraisable.exc_value) == "Event loop is closed"
    if unraisable.exc_type is not RuntimeError or not closed:
      hook(unraisable)

  return unraisablehook


logging.getLogger("absl").addFilter(_OfOrbax())
sys.unraisablehook = _but_for_closed_loops(sys.unraisablehook)


def _hush():
  """Silences what orbax leaves to end by itself after an error."""
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  warnings.filterwarnings(
    "ignore", "coroutine .* was never awaited", RuntimeWarning
  )


def lines(folder: pathlib.Path, step: int) -> list[dict[str, Any]] | None:
  """What a checkpoint knows of the lines of metrics up to its step.

  Returns:
    A `rundir.Digest` of each run whose state it is; None: it knows nothing, as
    an older version saved it.

  Raises:
    Damaged: It is not what was saved.
  """
  return _read_facts(folder, step).get("lines")


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
  folder: pathlib.Path,
  states: Mapping[int, tuple[Any, float, Mapping[str, Any]]],
) -> None:
  """Writes finished checkpoints that `Checkpoints(folder)` can read.

  For many small runs that end together: opening a manager for each would cost
  as much again.

  Args:
    folder: The run's folder of checkpoints; there is nothing in it.
    states: Step -> (tree of numpy arrays, objective, `rundir.Digest` of the
      metrics up to that step).
  """
  for step, (state, value, lines) in states.items():
    _writer().save(
      rundir.absolute(folder) / str(step),
      args=ocp.args.Composite(
        default=ocp.args.StandardSave(state),
        metrics=ocp.args.JsonSave(_facts(step, value, state, [lines])),
      ),
      force=True,
    )


@functools.cache
def _writer():
  return ocp.Checkpointer(
    ocp.CompositeCheckpointHandler(
      default=ocp.StandardCheckpointHandler(),
      metrics=ocp.JsonCheckpointHandler(_FACTS.name),  # as orbax's manager
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


def _facts(step, value, state, lines):
  """What is kept beside a state; orbax calls it the metrics of a step."""
  # NaN counts as the worst: orbax's comparison would delete the true best.
  worst = float(value) if math.isfinite(value) else math.inf
  facts = {
    "objective": worst,
    "step": int(step),
    "shapes": _crc32(_shapes(state)),
    "state": checksum.of(state),
    "lines": [dict(digest) for digest in lines],
  }
  return facts | {"crc32": _crc32(facts)}


def _crc32(facts):
  return zlib.crc32(json.dumps(facts, sort_keys=True).encode())


def _read_facts(folder, step):
  """What `_facts` made for a step.

  Raises:
    Damaged: It was something else.
    jaxplay.StorageError: It cannot be read now.
  """
  path = folder / str(step) / _FACTS
  if not path.exists() and path.with_name(_OLD_NAME).exists():
    path = path.with_name(_OLD_NAME)
  try:
    facts = json.loads(path.read_bytes())
    intact = facts["step"] == step and type(facts["objective"]) is float
    if facts.keys() != _OLD_FACTS:
      intact = intact and facts.pop("crc32") == _crc32(facts)
  except (ValueError, LookupError, TypeError, AttributeError):
    intact = False
  except OSError as error:
    if found := storage.problem(error, folder):
      raise found from error
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
      raise
    intact = False
  if not intact:
    raise Damaged("its facts are not what was saved")
  return facts


def _goodness(metrics):
  """Larger is better; of equals the earlier step is."""
  return -metrics["objective"], -metrics["step"]


def _all_hosts(flag):
  if jax.process_count() == 1:
    return flag
  return bool(multihost_utils.process_allgather(np.array([flag])).all())
