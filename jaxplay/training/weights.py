"""Starting from weights: of a run, an export, or a .safetensors file.

Arrays are matched by name and shape. Parameters have the name of their path,
"Dense_0/kernel", and averages of batch statistics "batch_stats/" before it. A
model that differs only in its head finds everything but the head.
"""

import contextlib
import dataclasses
import difflib
import hashlib
import io
import math
import os
import pathlib
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import formats, rundir, storage
from jaxplay.training import (
  checkpoint_files,
  diagnostics,
  evaluate,
  packed,
  parts,
  resume,
  sharding,
  step,
)

_STATS = "batch_stats/"
_LISTED = 4  # names in a line of the summary
_LARGEST_HEADER = 10_000  # bytes, of an array in an export
_REMEDY = (
  "weights are read from a run, RUN:STEP, the export of a run, or a"
  " .safetensors file"
)


@dataclasses.dataclass(frozen=True)
class Match:
  """What goes where.

  Attributes:
    loaded: Name in the model -> name in the source.
    skipped: Name in the source -> why it is not used.
    left: Names in the model that stay as they were initialized.
  """

  loaded: Mapping[str, str]
  skipped: Mapping[str, str]
  left: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Loaded:
  """Weights to start from.

  Attributes:
    arrays: "params" and "batch_stats": name -> array laid out as in the state;
      {}: there are none.
    facts: The content of init.json.
  """

  arrays: Mapping[str, Mapping[str, jax.Array]]
  facts: Mapping[str, Any]


@dataclasses.dataclass(frozen=True)
class _Source:
  """Named arrays, which are read when they are asked for."""

  arrays: Mapping[str, Any]  # name -> has a shape and a dtype
  read: Callable[[str], np.ndarray]
  facts: Mapping[str, Any]  # for init.json; "sha256" of all of it


def match(
  source: Mapping[str, Any],
  model: Mapping[str, Any],
  init_map: Sequence[tuple[str, str]] = (),
) -> Match:
  """Matches arrays by name and shape.

  Args:
    source: Name -> has `shape` and `dtype`.
    model: Name -> has `shape` and `dtype`.
    init_map: (pattern, replacement): the first whose pattern matches a whole
      name of the source replaces it, as `re.sub`; "" drops the array.

  Raises:
    jaxplay.UserError: Two arrays of the source get one name, or a replacement
      names a group that its pattern has not.
  """
  loaded: dict[str, str] = {}
  skipped: dict[str, str] = {}
  for name, array in source.items():
    new = _renamed(name, init_map)
    wanted = model.get(new)
    if not new:
      skipped[name] = "dropped by init_map"
    elif wanted is None:
      skipped[name] = "the model has none"
    elif tuple(array.shape) != tuple(wanted.shape):
      skipped[name] = f"{_shape(array)}, the model has {_shape(wanted)}"
    elif not _converts(array.dtype, wanted.dtype):
      skipped[name] = f"of type {array.dtype}, the model has {wanted.dtype}"
    elif new in loaded:
      raise jaxplay.UserError(
        f"config.init_map gives {loaded[new]!r} and {name!r} the same name,"
        f" {new!r}; drop one of them"
      )
    else:
      loaded[new] = name
  return Match(loaded, skipped, [name for name in model if name not in loaded])


def _renamed(name, init_map):
  for pattern, replacement in init_map:
    if found := re.fullmatch(pattern, name):
      try:
        return found.expand(replacement)
      except (re.error, IndexError) as error:
        raise jaxplay.UserError(
          f"config.init_map: {replacement!r} does not go with the pattern"
          f" {pattern!r} ({error})"
        ) from None
  return name


def _converts(dtype, wanted):
  floats = [jnp.issubdtype(kind, jnp.floating) for kind in (dtype, wanted)]
  return all(floats) or dtype == wanted


def _shape(array):
  return " x ".join(map(str, array.shape)) or "a number"


def load(
  config: ml_collections.ConfigDict,
  state: step.TrainState,
  runs: Sequence[rundir.RunDir] = (),
) -> Loaded:
  """Reads the weights that a config starts from; called on every host.

  Args:
    config: A checked config.
    state: Of the model, as ShapeDtypeStructs with shardings.
    runs: What starts from them.

  Raises:
    jaxplay.UserError: The source is missing or damaged, nothing in it matches,
      it has changed since one of the runs or their study began, or hosts have
      different sources.
  """
  if not config.init_from:
    return Loaded({}, {})
  arrays, facts, error = {}, {}, None
  model = named(state.params, state.batch_stats)
  try:
    with _opened(config.init_from) as source:
      found = match(source.arrays, model, config.init_map)
      _refuse_nothing(config.init_from, source.arrays, model, found)
      arrays = {new: source.read(name) for new, name in found.loaded.items()}
      facts = {
        "source": config.init_from,
        **source.facts,
        **dataclasses.asdict(found),
      }
    resume.check_same_weights(runs, facts)
  except jaxplay.UserError as refused:
    error = refused  # Raised below: other hosts wait for this one.
  sharding.same_on_every_host(
    {"weights": {"sha256": facts.get("sha256")}}, error=str(error or "")
  )
  if error:
    raise error
  placed = {
    name: sharding.place_like(
      model[name], np.asarray(array).astype(model[name].dtype)
    )
    for name, array in arrays.items()
  }
  stats = {name for name in placed if name.startswith(_STATS)}
  return Loaded(
    {
      "params": {n: a for n, a in placed.items() if n not in stats},
      "batch_stats": {n.removeprefix(_STATS): placed[n] for n in stats},
    },
    facts,
  )


def note(
  loaded: Loaded,
  runs: Sequence[rundir.RunDir],
  tell: Callable[[str], None],
) -> None:
  """Tells what was loaded, and writes all of it to init.json of the runs."""
  for line in summary(loaded.facts):
    tell(line)
  if loaded.facts and jax.process_index() == 0:
    for run in runs:
      run.write_init(loaded.facts)


def summary(facts: Mapping[str, Any]) -> list[str]:
  """Lines that say what was loaded, skipped and left, with some names."""
  if not facts:
    return []
  loaded, skipped, left = facts["loaded"], facts["skipped"], facts["left"]
  at = f" (step {facts['step']})" if "step" in facts else ""
  whole = len(loaded) + len(left)
  lines = [
    f"starting from {facts['source']!r}{at}: {len(loaded)} of"
    f" {formats.count(whole, 'array')} of the model loaded"
  ]
  if skipped:
    why = [f"{name} ({reason})" for name, reason in skipped.items()]
    lines.append(f"skipped: {_some(why)}")
  if left:
    lines.append(f"left at initialization: {_some(left)}")
  return lines


def _some(texts):
  more = len(texts) - _LISTED
  return ", ".join(texts[:_LISTED]) + (f" and {more} more" if more > 0 else "")


def _refuse_nothing(init_from, source, model, found):
  if any(not name.startswith(_STATS) for name in found.loaded):
    return
  wanted = [name for name in model if not name.startswith(_STATS)]
  there = [name for name in source if not name.startswith(_STATS)]
  if not there:
    raise jaxplay.UserError(f"{init_from!r} holds no parameters; {_REMEDY}")
  pairs = []
  for name in wanted[:2]:
    (close,) = difflib.get_close_matches(name, there[:1000], 1, 0.0)
    pairs.append(
      f"{close!r} ({_shape(source[close])}) for {name!r}"
      f" ({_shape(model[name])})"
    )
  raise jaxplay.UserError(
    f"no parameter of {init_from!r} has the name and shape of one of the"
    f" model; nearest: {', '.join(pairs)}; rename them by config.init_map, or"
    " use another source"
  )


def named(params: Any, batch_stats: Any) -> dict[str, Any]:
  """Name -> leaf, of the parameters and the batch statistics."""
  flat = {}
  for prefix, tree in (("", params), (_STATS, batch_stats)):
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
      flat[prefix + step.parameter_name(path)] = leaf
  return flat


def nested(arrays: Mapping[str, Any], like: tuple[Any, Any]) -> tuple[Any, Any]:
  """(params, batch_stats) of named arrays; undoes `named`.

  Args:
    arrays: Name -> leaf.
    like: (params, batch_stats) of the same structure.
  """
  return jax.tree.unflatten(
    jax.tree.structure(like), [arrays[name] for name in named(*like)]
  )


def write_safetensors(
  arrays: Mapping[str, np.ndarray], file: str | os.PathLike
) -> None:
  """Writes weights to a file that `init_from` can load.

  Args:
    arrays: As from `read`.
    file: Where to write; it has the names of `arrays`.

  Raises:
    jaxplay.UserError: The file cannot be written, or the library is not
      installed.
  """
  library = _safetensors()
  arrays = {name: np.ascontiguousarray(arrays[name]) for name in arrays}
  path = rundir.at(file)
  with rundir.written(path, "use another file"):
    rundir.write_bytes(path, library.numpy.save(arrays))


def _safetensors():
  try:
    import safetensors.numpy
  except ImportError:
    raise jaxplay.UserError(
      "a .safetensors file requires safetensors; pip install"
      " 'jaxplay[safetensors]'"
    ) from None
  return safetensors


def read(
  source: str | os.PathLike, weights: str = ""
) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
  """Reads all weights of a source.

  Args:
    source: What `config.init_from` may be.
    weights: Of a run: "raw", "ema" or "window"; empty: those that its objective
      ranks.

  Returns:
    (name -> array, facts): its parameters, and "batch_stats/..." of batch
    statistics. Of a run the facts have the step and the weights.

  Raises:
    jaxplay.UserError: The source is missing or damaged, or has no such weights.
  """
  with _opened(os.fspath(source), weights) as opened:
    return {name: opened.read(name) for name in opened.arrays}, dict(
      opened.facts
    )


def split_step(source: str | os.PathLike) -> tuple[pathlib.Path, int | None]:
  """(path, step) of RUN:STEP; the step is None of another source."""
  text = os.fspath(source)
  path = rundir.at(text)
  folder, _, tail = text.rpartition(":")
  if folder and tail.isdecimal() and tail.isascii() and not path.exists():
    return rundir.at(folder), int(tail)
  return path, None


def steps(run: rundir.RunDir) -> list[int]:
  """Steps of the checkpoints that RUN:STEP can name, ascending.

  Raises:
    jaxplay.UserError: It is no run, or its checkpoints are with a population
      that is missing.
  """
  nested = run.config()
  if nested is None:
    raise rundir.absent(run.path, "a run")
  if run.packed() is None:
    return checkpoint_files.steps(run.checkpoints)
  config = config_lib.from_json(nested, run.path / "config.json")
  return sorted(packed.states(run, _like(packed.specs(run), config)))


@contextlib.contextmanager
def _opened(init_from: str, weights: str = "") -> Iterator[_Source]:
  """The source of weights that a text names; nothing is written there."""
  path, at = split_step(init_from)
  if (path / "config.json").exists():
    yield _of_run(rundir.RunDir(path), at, weights)
    return
  if at is None and (path / "weights.npz").is_file():
    path = path / "weights.npz"
  elif not path.name.endswith(".safetensors") or not path.is_file():
    raise jaxplay.UserError(f"{rundir.absent(path, 'a run')}; {_REMEDY}")
  if weights:
    raise jaxplay.UserError(
      f"{init_from!r} is a file with one set of weights, so {weights!r} cannot"
      " be chosen; name the run itself"
    )
  try:
    with contextlib.ExitStack() as stack:
      of_file = _of_npz if path.name == "weights.npz" else _of_safetensors
      yield of_file(path, stack)
  except (jaxplay.UserError, jaxplay.StorageError):
    raise
  # The file may be from anybody, and each library has its own errors.
  except Exception as error:
    if problem := storage.problem(error, path):
      raise problem from error
    reason = str(error).split("\n")[0][:200]
    raise jaxplay.UserError(
      f"{str(path)!r} cannot be read as weights ({reason}); restore it from a"
      " copy, or use another source"
    ) from None


def _of_run(run: rundir.RunDir, at: int | None, weights: str = "") -> _Source:
  config = config_lib.from_json(run.config() or {}, run.path / "config.json")
  config_lib.validate(config)
  try:
    at, state = _state(run, config, at)
  except checkpoint_files.Damaged as error:
    raise jaxplay.UserError(
      f"the checkpoint of {str(run.path)!r} to start from is damaged ({error});"
      " name another as RUN:STEP, or use the export of the run"
    ) from None
  variables = step.eval_variables(
    state,
    dict(config.hparams),
    config.optimizer,
    config.weights,
    config.frozen,
  )
  suffix = evaluate.suffix(run.objective())
  if weights:
    suffix = "" if weights == config.weights else f"_{weights}"
  if suffix not in variables:
    has = sorted(
      {name.removeprefix("_") or config.weights for name in variables}
    )
    raise jaxplay.UserError(
      f"{str(run.path)!r} has no weights {weights!r}; it has"
      f" {', '.join(has)} (config.averages)"
    )
  arrays = {
    name: np.asarray(array) for name, array in named(*variables[suffix]).items()
  }
  digest = hashlib.sha256()
  for name in sorted(arrays):
    array = np.ascontiguousarray(arrays[name])
    digest.update(f"{name} {array.dtype} {array.shape}\n".encode())
    digest.update(array.tobytes())
  chosen = suffix.removeprefix("_") or config.weights
  facts = {"step": at, "weights": chosen, "sha256": digest.hexdigest()}
  return _Source(arrays, arrays.__getitem__, facts)


def _state(run, config, at):
  """(step, its state as numpy arrays), of the run's result by default.

  That is the best step or, of a run without validation split, the last.
  """
  if run.packed() is not None:
    like = _like(packed.specs(run), config)
    states = packed.states(run, like)
    at = _chosen(run, at, states)
    return at, states[at][0]
  at = _chosen(run, at, checkpoint_files.steps(run.checkpoints))
  like = _like(checkpoint_files.specs(run.checkpoints, at), config)
  return at, checkpoint_files.read(run.checkpoints, at, like)


def _chosen(run, at, steps):
  """The step to load, one of `steps`."""
  if at is None:
    lines = [line for line in run.metrics() if line["step"] in steps]
    flat = config_lib.flatten(run.config() or {})
    maximized = config_lib.metric.of_config(flat).maximized
    best = rundir.best_line(lines, run.objective(), maximized)
    at = best and best["step"]
    if flat.get("dataset.fold_validation"):
      at = max(steps, default=None)
  if at not in steps:
    listed = ", ".join(map(str, sorted(steps))) or "none"
    what = "best step" if at is None else f"step {at}"
    raise jaxplay.UserError(
      f"{str(run.path)!r} has no checkpoint of {what} to start from; it has"
      f" {listed}"
    )
  return at


def _like(specs, config):
  """The state that a run has saved, as numpy arrays that take no memory.

  Args:
    specs: Name -> shape and type of each leaf.
    config: Of the run.
  """
  trees: dict[str, Any] = {"params": {}, "batch_stats": {}}
  for name, leaf in specs.items():
    first, *groups = name.split("/")
    if first in trees:
      tree = trees[first]
      for group in groups[:-1]:
        tree = tree.setdefault(group, {})
      tree[groups[-1]] = leaf
  state = jax.eval_shape(
    lambda params, stats: step.fresh_state(
      params,
      stats,
      seeds=step.stream_seeds(0),
      optimizer=parts.optimizer(config),
      hparams=dict(config.hparams),
      averages=config.averages,
      frozen=config.frozen,
      has_errors="tally/error_rate" in specs,
      diagnostics=diagnostics.of(config),
    ),
    trees["params"],
    trees["batch_stats"],
  )
  return jax.tree.map(
    lambda leaf: np.broadcast_to(np.zeros((), leaf.dtype), leaf.shape), state
  )


def _of_npz(path: pathlib.Path, stack: contextlib.ExitStack) -> _Source:
  """Of an export: its arrays are stored under "0/" and "1/"."""
  if not rundir.is_local(path):
    path = io.BytesIO(path.read_bytes())  # type: ignore[assignment]
  archive = stack.enter_context(zipfile.ZipFile(path))
  members, arrays = {}, {}
  for member in archive.infolist():
    key = member.filename.removesuffix(".npy")
    group, _, rest = key.partition("/")
    name = {"0": rest, "1": _STATS + rest}.get(group, key)
    if name in members:
      raise ValueError(f"{name!r} is in it twice")
    with archive.open(member) as file:
      arrays[name] = _header(file)
      size = arrays[name].size * arrays[name].dtype.itemsize
      if size != member.file_size - file.tell():
        raise ValueError(f"{name!r} has another size than its shape")
    members[name] = member

  def read(name):
    with archive.open(members[name]) as file:
      return np.lib.format.read_array(file, allow_pickle=False)

  return _Source(arrays, read, {"sha256": _sha256(path)})


def _header(file):
  """Shape and type of an .npy file, which is left at its data."""
  version = np.lib.format.read_magic(file)
  if version not in ((1, 0), (2, 0)):
    raise ValueError(f"version {version} of .npy")
  read = (
    np.lib.format.read_array_header_1_0,
    np.lib.format.read_array_header_2_0,
  )[version[0] - 1]
  shape, _, dtype = read(file, max_header_size=_LARGEST_HEADER)
  if dtype.hasobject:
    raise ValueError("it has Python objects, which could run anything")
  if any(size < 0 for size in shape):
    raise ValueError(f"a shape of {shape}")
  return _Spec(tuple(shape), dtype)


@dataclasses.dataclass(frozen=True)
class _Spec:
  shape: tuple[int, ...]
  dtype: np.dtype

  @property
  def size(self):
    return math.prod(self.shape)


def _of_safetensors(path: pathlib.Path, stack: contextlib.ExitStack) -> _Source:
  if not rundir.is_local(path):
    raise jaxplay.UserError(
      f"{str(path)!r} is in a bucket, and a .safetensors file is read from a"
      " disk; copy it here"
    )
  file = stack.enter_context(_safetensors().safe_open(path, "numpy"))
  arrays = {}
  for name in file.keys():  # noqa: SIM118
    part = file.get_slice(name)
    kind = _TYPES.get(part.get_dtype(), np.dtype("V1"))
    arrays[name] = _Spec(tuple(part.get_shape()), kind)
  return _Source(arrays, file.get_tensor, {"sha256": _sha256(path)})


# Of the format; others are not those of weights.
_TYPES = {
  "F64": np.dtype(np.float64),
  "F32": np.dtype(np.float32),
  "F16": np.dtype(np.float16),
  "BF16": np.dtype(jnp.bfloat16),
  "I64": np.dtype(np.int64),
  "I32": np.dtype(np.int32),
  "U32": np.dtype(np.uint32),
  "U8": np.dtype(np.uint8),
}


def _sha256(file):
  if isinstance(file, io.BytesIO):
    return hashlib.sha256(file.getvalue()).hexdigest()
  with open(file, "rb") as opened:
    return hashlib.file_digest(opened, "sha256").hexdigest()
