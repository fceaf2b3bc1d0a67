"""Checkpoints as files: list, verify, copy, and write them.

Each has a checksum of its state and the digests of the lines of metrics up to
its step, so that no run continues from corrupted data.
"""

import contextlib
import functools
import json
import math
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import jax
from orbax import checkpoint as ocp

import jaxplay
from jaxplay import rundir, storage
from jaxplay.training import checksum

INCOMPLETE = ".orbax-checkpoint-tmp"
_FINISHED = "commit_success.txt"
_FACTS = pathlib.PurePath("metrics", "metrics")  # of a checkpoint, as JSON
_OLD_NAME = "metadata"  # the name of that file in older versions
# The facts in checkpoints of older versions, without checksums.
_OLD_FACTS = {"objective", "step"}


class Damaged(Exception):
  """A checkpoint is not what was saved."""


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


def lines(folder: pathlib.Path, step: int) -> list[dict[str, Any]] | None:
  """The digests of the lines of metrics up to a checkpoint.

  Returns:
    A `rundir.Digest` per run in the checkpoint; None: it is of an older version
    without digests.

  Raises:
    Damaged: It is not what was saved.
  """
  return read_facts(folder, step).get("lines")


def restored(folder: pathlib.Path, step: int, like: Any, restore: Any) -> Any:
  """The state saved at `step`, verified.

  Args:
    folder: Of checkpoints.
    step: Updates made.
    like: Its ShapeDtypeStructs, or numpy arrays.
    restore: Reads it with orbax.

  Raises:
    jaxplay.UserError: It is the state of another model or optimizer.
    jaxplay.StorageError: It cannot be read now.
    Damaged: It is not what was saved, or orbax fails to read it.
  """
  with _damages(folder):
    facts = read_facts(folder, step)
    different = _different_shapes(_shapes(specs(folder, step)), _shapes(like))
    if different and facts.get("shapes") != _crc32(_shapes(like)):
      raise jaxplay.UserError(
        f"the checkpoint of step {step} has another model, vocabulary or"
        f" optimizer: {different}; use another workdir"
      )
    state = restore()
    if "state" in facts and facts["state"] != checksum.of(state):
      raise Damaged("its checksum does not match")
  return state


def specs(folder: pathlib.Path, step: int) -> dict[str, jax.ShapeDtypeStruct]:
  """Name -> ShapeDtypeStruct of the arrays that were saved at `step`.

  Raises:
    jaxplay.StorageError: They cannot be read now.
    Damaged: They are not what was saved.
  """
  path = rundir.absolute(folder) / str(step) / "default"
  with _damages(folder):
    saved = _named(ocp.StandardCheckpointHandler().metadata(path).tree)
    return {
      name: jax.ShapeDtypeStruct(tuple(leaf.shape), leaf.dtype)
      for name, leaf in saved.items()
    }


@contextlib.contextmanager
def _damages(folder):
  """Converts errors of orbax about a damaged checkpoint to `Damaged`."""
  try:
    yield
  except (jaxplay.UserError, Damaged):
    raise
  # Errors of this machine, not of the checkpoint.
  except (MemoryError, jax.errors.JaxRuntimeError):
    raise
  except Exception as error:
    if problem := storage.problem(error, folder):
      raise problem from error
    raise Damaged(f"{type(error).__name__}: {error}"[:100]) from error


def read(folder: pathlib.Path, step: int, like: Any) -> Any:
  """The state saved at `step`, as numpy arrays; see `restored`."""
  reader = ocp.Checkpointer(ocp.StandardCheckpointHandler())
  path = rundir.absolute(folder) / str(step) / "default"
  arguments = ocp.args.StandardRestore(like)
  return restored(
    folder, step, like, lambda: reader.restore(path, args=arguments)
  )


def copy(folder: pathlib.Path, step: int, to: pathlib.Path) -> None:
  """Copies the checkpoint of a step into the folder of another run."""
  rundir.remove(to / str(step))
  rundir.copy(folder / str(step), to / str(step))
  if not rundir.is_local(to):
    # Marks of finished checkpoints, where orbax cannot rename.
    for done in (to / str(step), *(to / str(step)).iterdir()):
      if done.is_dir():
        (done / _FINISHED).write_text("copied")


def write(
  folder: pathlib.Path,
  states: Mapping[int, tuple[Any, float, Mapping[str, Any]]],
) -> None:
  """Writes finished checkpoints that `Checkpoints(folder)` can read.

  For many small runs that end together: one manager for each would double the
  cost.

  Args:
    folder: The run's folder of checkpoints; it is empty.
    states: Step -> (tree of numpy arrays, cost of the objective,
      `rundir.Digest` of the metrics up to that step).
  """
  for step, (state, cost, lines) in states.items():
    _writer().save(
      rundir.absolute(folder) / str(step),
      args=ocp.args.Composite(
        default=ocp.args.StandardSave(state),
        metrics=ocp.args.JsonSave(facts(step, cost, state, [lines])),
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


def _different_shapes(saved, wanted):
  """Describes the first leaf that was saved with another shape; or ""."""
  different = [
    f"{name or 'its leaf'} is {saved.get(name, 'missing')}, expected"
    f" {wanted.get(name, 'none')}"
    for name in sorted(saved.keys() | wanted.keys())
    if saved.get(name) != wanted.get(name)
  ]
  more = f" ({len(different)} differ)" if len(different) > 1 else ""
  return f"{different[0]}{more}" if different else ""


def _shapes(tree):
  return {name: tuple(leaf.shape) for name, leaf in _named(tree).items()}


def _named(tree):
  leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
  return {
    jax.tree_util.keystr(path, simple=True, separator="/"): leaf
    for path, leaf in leaves
  }


def facts(step, cost, state, lines):
  """The facts stored with a state; orbax calls them the metrics of a step."""
  # orbax would compare NaN wrongly, and delete the best checkpoint.
  worst = float(cost) if math.isfinite(cost) else math.inf
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


def read_facts(folder, step):
  """Reads the `facts` of a step.

  Raises:
    Damaged: They are not what was saved.
    jaxplay.StorageError: They cannot be read now.
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
    if problem := storage.problem(error, folder):
      raise problem from error
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
      raise
    intact = False
  if not intact:
    raise Damaged("its facts are not what was saved")
  return facts
