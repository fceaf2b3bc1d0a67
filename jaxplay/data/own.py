"""Data sets of the user's own: checked, named and split for the built-in tasks.

`from_splits` takes what a function or a file of the user gives: splits of
arrays, memory maps, or random-access sources. Three rules hold for all kinds.

*Names.* Of `image`, `images`, `x` and `inputs`, if exactly one is there, it is
the input: `image` if it is called so or is uint8 of 2 or 3 dimensions per
example, else `inputs`. Of `label`, `labels`, `y`, `target` and `targets`, if
exactly one is there, it is the target: `target` (float32) of a regression,
`label` of the other built-in tasks. Other features keep their names.

*Types.* 64 bits become 32, and numbers that do not fit are refused, as are NaN
and infinities. Labels of text become classes in the order of their names.

*Splits.* Without a validation split, a tenth of the training split is held out:
a pseudo-random choice that depends on the number of examples and nothing else.

What is in memory, or mapped and small, is checked as a whole before a run
begins; of the rest a sample, and every example when it is read.
"""

import dataclasses
import os
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay.data import dataset as dataset_lib
from jaxplay.data import order

SPLITS = ("train", "valid", "test")
HELD_OUT = 0.1
# Mapped arrays up to this size, in bytes, are read into memory.
_SMALL = 2**26

INPUTS = ("image", "images", "x", "inputs")
TARGETS = ("label", "labels", "y", "target", "targets")
# What the built-in tasks read: one of each group.
_READS = {
  "classification": (("image", "inputs"), ("label",)),
  "multi_label": (("image", "inputs"), ("label",)),
  "regression": (("image", "inputs"), ("target",)),
  "next_token": (("tokens",),),
}
BUILT_IN = tuple(_READS)
# Batches hold these besides the features.
_RESERVED = ("index", "weight", "moves", "crops", "arrays")
_NARROWED = {
  **{"float64": "float32", "float128": "float32"},
  **{"int64": "int32", "uint64": "int32"},
}


def from_splits(
  splits: Any,
  where: str,
  *,
  name: str = "",
  task: str = "classification",
  with_test: bool = True,
  augment: str = "none",
  classes: Sequence[str] = (),
  facts: Mapping[str, Any] | None = None,
) -> dataset_lib.Dataset:
  """Makes a data set of what a function or a file of the user gives.

  Args:
    splits: {"train": ..., "valid": ..., "test": ...}; all but the first may be
      missing. Each is a dict of arrays of equal length (numpy arrays, memory
      maps, or what numpy reads into an array); or an object with `__len__`, and
      `__getitem__` that returns the features of one example as a dict, or
      `fetch` that returns those of an array of indices, with a leading
      dimension. Optionally "num_classes": the number of classes, tokens or
      outputs, which is necessary where labels cannot be read as a whole.
    where: What gave the splits, for messages: "load() in 'data.py'".
    name: As in the config, for the provenance.
    task: A built-in task, or any other name for a task of the user: then
      integer targets are called `label`, and others `target`.
    with_test: Whether the test split is used; else it is left out.
    augment: As in the config; only uint8 images can be augmented.
    classes: Names of the classes, if labels are already integers.
    facts: More facts for the provenance.

  Raises:
    jaxplay.UserError: The splits cannot be used, with the split, the feature
      and the example.
  """
  given = _given(splits, where, with_test)
  num_classes = given.pop("num_classes", 0)
  opened = {
    split: _opened(content, split, where) for split, content in given.items()
  }
  # The training split decides the names, and what a batch is made of.
  first = opened["train"]
  names = _names(first.raw_example(), task)
  classes = tuple(classes) or _text_classes(first, names)
  for split, content in opened.items():
    opened[split] = content.named(names, task, classes)
    if split != "train":
      _check_alike(opened["train"], opened[split])
  if "valid" not in opened:
    opened |= _divided(opened["train"])
  opened = {split: opened[split] for split in SPLITS if split in opened}
  example = opened["train"].example
  _check_reads(example, task, where)
  _check_augment(example, augment, where)
  # What fits is read, and checked, as a whole.
  loaded = {split: content.loaded() for split, content in opened.items()}
  num_classes = num_classes or len(classes)
  num_classes = _num_classes(loaded, opened, example, task, num_classes)
  for split, content in opened.items():
    limited = dataclasses.replace(content, limit=num_classes)
    if isinstance(loaded[split], dataset_lib.Arrays):
      limited.check_limits(loaded[split].arrays)
    else:
      loaded[split] = limited
      if (labels := limited.labels()) is not None:
        limited.check_limits({"label": labels})
  if task == "classification":
    _check_classes(loaded, opened, classes)
  hashes = {}
  for split, source in loaded.items():
    described = (source.num_examples, sorted(example.items()))
    content = [repr(described).encode()]
    if isinstance(source, dataset_lib.Arrays):
      content += [source.arrays[feature] for feature in sorted(example)]
    else:
      content += source.sample()
    hashes[split] = dataset_lib.digest(content)
  made = dataset_lib.facts(
    name, "", num_classes, hashes, loaded, ("train", "valid")
  )
  made["features"] = {
    feature: [list(shape), dtype] for feature, (shape, dtype) in example.items()
  }
  if "valid" not in given:
    made["held_out"] = HELD_OUT
  if classes:
    made["classes"] = list(classes)
  is_bytes = example.get("image", ((), ""))[1] == "uint8"
  return dataset_lib.Dataset(
    loaded,
    num_classes,
    example,
    pixel_max=255 if is_bytes else 0,
    facts=made | dict(facts or {}),
  )


def held_out(num_examples: int) -> tuple[np.ndarray, np.ndarray]:
  """The examples of training and of validation, sorted indices.

  A tenth, rounded down and at least one, is held out: the first of a fixed
  permutation, which depends on nothing but the number of examples.
  """
  examples = np.arange(num_examples)
  # No two words are equal: each is a bijection of the index.
  words = order.draws(0, "held_out", np.int64(0), examples, 1)[:, 0]
  number = max(1, int(num_examples * HELD_OUT))
  is_held = words <= np.partition(words, number - 1)[number - 1]
  return examples[~is_held], examples[is_held]


def _given(splits, where, with_test):
  """The splits that are used, and "num_classes"."""
  if not isinstance(splits, Mapping):
    raise jaxplay.UserError(
      f"{where} gives {type(splits).__name__}; expected a dict of splits,"
      " {'train': ..., 'valid': ..., 'test': ...}"
    )
  given = {key: value for key, value in splits.items() if value is not None}
  for key in given:
    if key not in (*SPLITS, "num_classes"):
      raise jaxplay.UserError(
        f"{where} gives a split {key!r}; splits are called 'train', 'valid' and"
        " 'test', and beside them only 'num_classes' can be given"
      )
  if "train" not in given:
    raise jaxplay.UserError(f"{where} gives no split 'train'")
  if with_test and "test" not in given:
    raise jaxplay.UserError(
      f"config.report_test is set, but {where} gives no test split"
    )
  number = given.get("num_classes", 1)
  if type(number) is not int or number < 1:
    raise jaxplay.UserError(
      f"num_classes of {where} is {number!r}; expected a positive integer"
    )
  used = SPLITS if with_test else SPLITS[:2]  # Else its labels may be unknown.
  return {k: given[k] for k in (*used, "num_classes") if k in given}


def _opened(content, split, where):
  """A split as the user gave it, with names and types as they are."""
  if isinstance(content, Mapping):
    content = _Columns(_columns(content, split, where))
  of = f"the {split} split of {where}"
  has = [hasattr(content, m) for m in ("__len__", "__getitem__", "fetch")]
  if not has[0] or not any(has[1:]):
    raise jaxplay.UserError(
      f"{of} is {type(content).__name__}; expected a dict of arrays, or an"
      " object with __len__, and __getitem__ or fetch"
    )
  try:
    length = len(content)
  except (Exception, SystemExit) as error:  # The user's own code raises.
    raise jaxplay.UserError(f"{of} has no length: {_raised(error)}") from error
  if not length:
    raise jaxplay.UserError(f"{of} has no examples")
  return _Split(content, split, where)


def _columns(content, split, where):
  """The arrays of a split, by name; none is copied."""
  if not content:
    raise jaxplay.UserError(f"the {split} split of {where} has no features")
  arrays = {}
  for name, value in content.items():
    what = f"feature {name!r} of the {split} split of {where}"
    if not isinstance(name, str) or name in _RESERVED:
      raise jaxplay.UserError(
        f"{what} has a name that cannot be used: it must be text, and none of"
        f" {', '.join(map(repr, _RESERVED))}"
      )
    try:
      arrays[name] = np.asanyarray(value)
    except (ValueError, TypeError) as error:
      raise jaxplay.UserError(
        f"{what} is no array: {first_line(error)}"
      ) from None
    if np.ma.is_masked(arrays[name]):
      raise jaxplay.UserError(
        f"{what} has masked entries, and every example must have a value"
      )
    if not arrays[name].ndim:
      raise jaxplay.UserError(
        f"{what} is a single {type(value).__name__}; expected an array with one"
        " entry for each example"
      )
  lengths = {name: len(array) for name, array in arrays.items()}
  if len({*lengths.values()}) > 1:
    shown = ", ".join(f"{name!r}: {size:,}" for name, size in lengths.items())
    raise jaxplay.UserError(
      f"the features of the {split} split of {where} differ in length"
      f" ({shown}); each must have one entry for each example"
    )
  return arrays


@dataclasses.dataclass(frozen=True)
class _Columns:
  """Examples in arrays, of which some may be mapped."""

  arrays: dict[str, np.ndarray]

  def __len__(self):
    return len(next(iter(self.arrays.values())))

  def fetch(self, indices):
    return {n: np.asarray(array[indices]) for n, array in self.arrays.items()}

  # Pickled for reader processes: a mapped array by the name of its file.
  def __getstate__(self):
    return {
      name: _mapped(array) or array for name, array in self.arrays.items()
    }

  def __setstate__(self, state):
    arrays = {
      name: _map(*array) if isinstance(array, tuple) else array
      for name, array in state.items()
    }
    object.__setattr__(self, "arrays", arrays)


def _mapped(array):
  """File, place, dtype, shape, strides of a mapped array; None: in memory."""
  root = array
  while isinstance(root, np.ndarray):
    if isinstance(root, np.memmap) and not isinstance(root.base, np.ndarray):
      if root.filename is None:
        return None
      place = array.__array_interface__["data"][0]
      place += root.offset - root.__array_interface__["data"][0]
      path = os.path.abspath(root.filename)
      return path, place, array.dtype, array.shape, array.strides
    root = root.base
  return None


def _map(path, place, dtype, shape, strides):
  content = np.memmap(path, np.uint8, mode="r")
  return np.ndarray(shape, dtype, content, place, strides)


@dataclasses.dataclass(frozen=True)
class _Split:
  """A split that is checked wherever it is read.

  Attributes:
    reader: `_Columns`, or an object of the user or of `files`.
    split: Its name.
    where: What gave it.
    names: Feature as it is given -> as it is in a batch.
    example: Of `Dataset`.
    classes: Of labels that are text.
    task: Of `from_splits`.
    index: The examples of the reader that belong to it; None: all.
    limit: Labels and tokens lie below; 0: not known.
  """

  reader: Any
  split: str
  where: str
  names: Mapping[str, str] = dataclasses.field(default_factory=dict)
  example: dict[str, tuple[tuple[int, ...], str]] = dataclasses.field(
    default_factory=dict
  )
  classes: tuple[str, ...] = ()
  task: str = ""
  index: np.ndarray | None = None
  limit: int = 0

  @property
  def num_examples(self):
    return len(self.reader) if self.index is None else len(self.index)

  @property
  def nbytes(self):
    return self.num_examples * sum(
      int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
      for shape, dtype in self.example.values()
    )

  def fetch(self, indices, crops=None):
    """As in `Source`; `crops`, from `images.draw_crops`, are random parts."""
    indices = np.asarray(indices)
    if not len(indices):
      return {
        name: np.zeros((0, *shape), dtype)
        for name, (shape, dtype) in self.example.items()
      }
    if self.index is not None:
      indices = self.index[indices]
    raw = self._read(indices, {} if crops is None else {"crops": crops})
    for given in self.names.keys() ^ raw.keys():
      verb = "lacks" if given in self.names else "has also"
      raise self._refused(f"{verb} feature {given!r}", indices[0])
    fetched = {
      name: self._converted(given, name, raw[given], indices)
      for given, name in self.names.items()
    }
    self.check_limits(fetched, indices)
    return fetched

  def raw_example(self):
    """The first example as it is given: feature -> array [1, ...]."""
    return self._read(np.zeros(1, np.int64), {})

  def named(self, names, task, classes):
    """This split with names and types as they are in batches."""
    raw = self.raw_example()
    names = {given: names.get(given, given) for given in raw}
    example = {
      name: self._described(given, name, raw[given], task, classes)
      for given, name in names.items()
    }
    return dataclasses.replace(
      self, names=names, example=example, classes=classes, task=task
    )

  def loaded(self):
    """All examples in memory, or this split if it is to be read in parts."""
    if not isinstance(self.reader, _Columns):
      return self
    mapped = [a for a in self.reader.arrays.values() if _mapped(a)]
    if sum(array.nbytes for array in mapped) > _SMALL:
      return self
    return dataset_lib.Arrays(self.fetch(np.arange(self.num_examples)))

  def labels(self):
    """The labels of all examples, int [n]; None: not known without reading."""
    labels = getattr(self.reader, "all_labels", None)
    if isinstance(self.reader, _Columns):
      given = next((g for g, name in self.names.items() if name == "label"), "")
      column = self.reader.arrays.get(given)
      if column is not None and column.nbytes <= _SMALL:
        every = np.arange(len(column))
        labels = self._converted(given, "label", np.asarray(column), every)
    if labels is None or self.index is None:
      return labels
    return labels[self.index]

  def sample(self):
    """What identifies the examples: arrays or bytes, of a sample."""
    index = dataset_lib.spread(self.num_examples)
    if hasattr(self.reader, "identity"):
      if self.index is not None:
        index = self.index[index]
      return self.reader.identity(index)
    fetched = self.fetch(index)
    return [fetched[name] for name in sorted(fetched)]

  def check_limits(self, arrays, indices=None):
    """Refuses labels and tokens out of range."""
    names = {name: given for given, name in self.names.items()}
    for name in ("label", "tokens"):
      if name not in arrays or not self._is_checked(name):
        continue
      values = arrays[name]
      is_vector = self.task == "multi_label"
      limit = 2 if is_vector else self.limit
      low = values < 0
      bad = (low | (values >= limit)) if limit else low
      if values.dtype.kind == "b" or not bad.any():
        continue
      at, value = _first(bad, values)
      allowed = "0 or 1" if is_vector else f"in [0, {limit:,})"
      if not limit:
        allowed = "at least 0"
      if indices is None:
        indices = self._every()
      raise self._refused(
        f"is {value}; {'labels' if name == 'label' else name} must be"
        f" {allowed}",
        indices[at],
        names[name],
      )

  def _is_checked(self, name):
    if name == "tokens":
      return self.task == "next_token"
    return self.task in ("classification", "multi_label")

  def _every(self):
    return np.arange(len(self.reader)) if self.index is None else self.index

  def _read(self, indices, kwargs):
    """Raw features at indices of the reader; see `from_splits`."""
    at, records, fetched = indices[0], [], None
    try:
      if hasattr(self.reader, "fetch"):
        fetched = self.reader.fetch(indices, **kwargs)
      else:
        for at in indices:
          records.append(self.reader[int(at)])
    except jaxplay.UserError:
      raise
    # The user's own code may raise anything.
    except (Exception, SystemExit) as error:
      raise self._refused(f"cannot be read: {_raised(error)}", at) from error
    if records:
      fetched = self._stacked(records, indices)
    if not isinstance(fetched, Mapping):
      raise self._refused(
        f"is {type(fetched).__name__}; expected a dict of features", indices[0]
      )
    arrays = _columns(fetched, self.split, self.where)
    for name, array in arrays.items():
      if len(array) != len(indices):
        raise self._refused(
          f"has {len(array)} entries for {len(indices)} examples",
          indices[0],
          name,
        )
    return arrays

  def _stacked(self, records, indices):
    for i, record in zip(indices, records, strict=True):
      if not isinstance(record, Mapping):
        raise self._refused(
          f"is {type(record).__name__}; expected a dict of features", i
        )
      if record.keys() != records[0].keys():
        raise self._refused(
          f"has features {sorted(record)}, and example {indices[0]} has"
          f" {sorted(records[0])}",
          i,
        )
    stacked = {}
    for name in records[0]:
      arrays = [np.asarray(record[name]) for record in records]
      for i, array in zip(indices, arrays, strict=True):
        if array.shape != arrays[0].shape:
          raise self._refused(
            f"has shape {array.shape}, and that of example {indices[0]} has"
            f" {arrays[0].shape}; all must be equal",
            i,
            name,
          )
        kinds = [one.dtype.kind in "biuf" for one in (array, arrays[0])]
        if kinds[0] != kinds[1]:  # Stacked, numbers would become text.
          raise self._refused(
            f"is of dtype {array.dtype}, and that of example {indices[0]} of"
            f" {arrays[0].dtype}",
            i,
            name,
          )
      stacked[name] = np.stack(arrays)
    return stacked

  def _described(self, given, name, array, task, classes):
    """(shape, dtype) of a feature in a batch, from one as it is given."""
    shape, dtype = array.shape[1:], array.dtype
    is_text = name == "label" and bool(classes) and dtype.kind in "UT"
    if dtype.kind not in "biuf" and not is_text:
      fix = "expected numbers or booleans"
      if name == "label":
        fix += ", or labels of text"
      if dtype.hasobject:
        fix += "; make them an array of one type, as by .astype(str)"
      raise self._refused(f"is of dtype {dtype}; {fix}", feature=given)
    built_in = task in _READS
    if name == "label" and built_in and dtype.kind == "f":
      raise self._refused(
        f"is of dtype {dtype}, and labels are integers; use integers, or set"
        " config.task.name to 'regression'",
        feature=given,
      )
    if name == "label" and task == "classification":
      if (shape := _shape_in_batch(name, shape, task)) != ():
        raise self._refused(
          f"has shape {shape} per example, and a class is one integer; set"
          " config.task.name to 'multi_label' for several of 0 and 1",
          feature=given,
        )
      return shape, "int32"
    if name == "label" and task == "multi_label" and len(shape) != 1:
      raise self._refused(
        f"has shape {shape} per example; expected one dimension of 0 and 1",
        feature=given,
      )
    if name == "target" and built_in:
      if len(shape) > 1:
        raise self._refused(
          f"has shape {shape} per example; expected a number, or one dimension",
          feature=given,
        )
      return shape, "float32"
    if name == "tokens" and built_in and (len(shape) != 1 or dtype.kind == "f"):
      raise self._refused(
        f"is of shape {shape} per example and dtype {dtype}; expected one"
        " dimension of integers",
        feature=given,
      )
    if name == "image":
      if dtype.kind != "f" and dtype != np.uint8:
        raise self._refused(
          f"is of dtype {dtype}; images are uint8, from 0 to 255, or floats,"
          " which are not scaled",
          feature=given,
        )
      if len(shape) not in (2, 3):
        raise self._refused(
          f"has shape {shape} per example; expected (height, width) or (height,"
          " width, channels)",
          feature=given,
        )
      shape = _shape_in_batch(name, shape, task)
    if is_text:
      return shape, "int32"
    return shape, _NARROWED.get(dtype.name, dtype.name)

  def _converted(self, given, name, array, indices):
    """An array as in a batch; refuses what does not fit."""
    shape, dtype = self.example[name]
    if name == "label" and array.dtype.kind in "UT" and self.classes:
      classes, array = np.array(self.classes), np.asarray(array, str)
      number = np.searchsorted(classes, array)
      number = np.minimum(number, len(classes) - 1)
      if (bad := classes[number] != array).any():
        at, value = _first(bad, array)
        raise self._refused(
          f"is {str(value)!r}, a class that the training split has not",
          indices[at],
          given,
        )
      array = number
    is_alike = (array.dtype.kind == "f") == (np.dtype(dtype).kind == "f")
    if array.dtype.kind not in "biuf" or not (is_alike or name == "target"):
      raise self._refused(
        f"is of dtype {array.dtype}, and that of the first example is {dtype}",
        indices[0],
        given,
      )
    if _shape_in_batch(name, array.shape[1:], self.task) != shape:
      raise self._refused(
        f"has shape {array.shape[1:]}, and that of the first example has"
        f" {shape}; all must be equal",
        indices[0],
        given,
      )
    with np.errstate(over="ignore", invalid="ignore"):
      converted = array.astype(dtype, copy=False)
    is_float = converted.dtype.kind == "f"
    bad = ~np.isfinite(converted) if is_float else converted != array
    if bad.any():
      at, value = _first(bad, array)
      if array.dtype.kind == "f" and not np.isfinite(value):
        why = "only finite numbers can be used"
      else:
        why = f"that does not fit into {dtype}"
      raise self._refused(f"is {value}; {why}", indices[at], given)
    return converted.reshape(len(array), *shape)

  def _refused(self, what, at=None, feature=None):
    """The error of a feature, of an example, or of both."""
    of = f"the {self.split} split of {self.where}"
    if feature is not None and at is not None:
      subject = f"feature {feature!r} of example {int(at)} of {of}"
    elif feature is not None:
      subject = f"feature {feature!r} of {of}"
    else:
      subject = f"example {int(at)} of {of}"
    return jaxplay.UserError(f"{subject} {what}")


def _first(bad, values):
  """The first example that is bad [n, ...], and its first bad value."""
  at = int(bad.reshape(len(bad), -1).any(1).argmax())
  return at, np.ravel(values[at])[np.ravel(bad[at])][0]


def _shape_in_batch(name, shape, task):
  """The shape of a feature in a batch: gray images have a channel, too."""
  if name == "image" and len(shape) == 2:
    return (*shape, 1)
  if name == "label" and task == "classification" and shape == (1,):
    return ()
  return shape


def _names(raw, task):
  """Feature as it is given -> as it is in a batch, from one raw example."""
  names = {name: name for name in raw}
  inputs = [name for name in raw if name in INPUTS]
  if len(inputs) == 1:
    (name,) = inputs
    array = raw[name]
    is_image = array.dtype == np.uint8 and array.ndim in (3, 4)
    is_called_so = name in ("image", "images")
    names[name] = "image" if is_called_so or is_image else "inputs"
  targets = [name for name in raw if name in TARGETS]
  if len(targets) == 1:
    (name,) = targets
    is_float = raw[name].dtype.kind == "f" or raw[name].dtype.kind == "c"
    if task == "regression" or (task not in _READS and is_float):
      names[name] = "target"
    else:
      names[name] = "label"
  return names


def _text_classes(split, names):
  """The sorted names of classes, if the labels are text."""
  given = next((g for g, name in names.items() if name == "label"), None)
  if given is None or split.raw_example()[given].dtype.kind not in "UT":
    return ()
  reader = split.reader
  if not isinstance(reader, _Columns) or reader.arrays[given].nbytes > _SMALL:
    raise jaxplay.UserError(
      f"feature {given!r} of the {split.split} split of {split.where} is text,"
      " and too large to be read as a whole; use integers, and give"
      " 'num_classes'"
    )
  return tuple(np.unique(np.asarray(reader.arrays[given], str)).tolist())


def _check_alike(train, other):
  """Refuses splits with other features than the training split."""
  of = f"the {other.split} split of {other.where}"
  for feature in train.example.keys() ^ other.example.keys():
    verb = "lacks" if feature in train.example else "has also"
    raise jaxplay.UserError(
      f"{of} {verb} feature {feature!r}; all splits must have the features of"
      f" the training split, {sorted(train.example)}"
    )
  for feature, described in train.example.items():
    if other.example[feature] != described:
      (shape, dtype), (own_shape, own_dtype) = described, other.example[feature]
      raise jaxplay.UserError(
        f"feature {feature!r} of {of} has shape {own_shape} and dtype"
        f" {own_dtype}, and that of the training split {shape} and {dtype};"
        " they must be equal"
      )


def _divided(train):
  """The training split without a tenth of it, and that tenth."""
  if train.num_examples < 2:
    raise jaxplay.UserError(
      f"the train split of {train.where} has 1 example, of which none can be"
      " held out; give a validation split"
    )
  kept, held = held_out(train.num_examples)
  return {
    "train": dataclasses.replace(train, index=kept),
    "valid": dataclasses.replace(train, index=held, split="valid"),
  }


def _check_reads(example, task, where):
  """Refuses a set without the features that a built-in task reads."""
  for group in _READS.get(task, ()):
    if not any(feature in example for feature in group):
      raise jaxplay.UserError(
        f"{where} gives features {sorted(example)}, and config.task.name"
        f" {task!r} requires {' or '.join(map(repr, group))}"
      )


def _check_augment(example, augment, where):
  if augment == "none":
    return
  shape, dtype = example.get("image", ((), ""))
  if dtype != "uint8":
    raise jaxplay.UserError(
      f"config.dataset.augment is {augment!r}, an augmentation of uint8 images,"
      f" and {where} gives features {sorted(example)}"
      + (f" with images of {dtype}" if dtype else "")
      + "; use 'none'"
    )


def _num_classes(loaded, opened, example, task, given):
  """Number of classes, tokens or outputs: as given, or as many as there are."""
  if task == "multi_label":
    return example["label"][0][0]
  if "target" in example and (task == "regression" or task not in _READS):
    return int(np.prod(example["target"][0], dtype=np.int64))
  feature = "tokens" if task == "next_token" else "label"
  if given or feature not in example:
    return given
  train = opened["train"]
  if isinstance(loaded["train"], dataset_lib.Arrays):
    values = loaded["train"].arrays[feature]
  else:
    values = train.labels() if feature == "label" else None
  if task not in _READS:  # Labels of a task of the user may mean anything.
    if values is None or values.dtype.kind == "f" or values.min() < 0:
      return 0
    return int(values.max()) + 1 if values.ndim == 1 else values.shape[-1]
  if values is None:
    raise jaxplay.UserError(
      f"the number of classes of {train.where} is not known without reading all"
      f" {feature!r}; add 'num_classes' to the splits that it gives"
    )
  number = int(values.max()) + 1
  if feature == "label" and number > max(len(values), 2):
    raise jaxplay.UserError(
      f"labels of the train split of {train.where} go up to {number - 1:,}, and"
      f" it has {len(values):,} examples; number classes from 0, or add"
      " 'num_classes' to the splits that it gives"
    )
  return max(number, 2) if feature == "label" else number


def _check_classes(loaded, opened, classes):
  """Refuses classes that are evaluated on and not trained on."""
  labels = {}
  for split, source in loaded.items():
    if isinstance(source, dataset_lib.Arrays):
      labels[split] = source.arrays["label"]
    else:
      labels[split] = source.labels()
  if labels["train"] is None:
    return
  trained = np.unique(labels["train"])
  for split in ("valid", "test"):
    if labels.get(split) is None:
      continue
    missing = ~np.isin(labels[split], trained)
    if not missing.any():
      continue
    at = int(missing.argmax())
    number = int(labels[split][at])
    shown = repr(classes[number]) if classes else str(number)
    content = opened[split]
    index = at if content.index is None else int(content.index[at])
    held = " (held out of the train split)" if content.index is not None else ""
    raise jaxplay.UserError(
      f"example {index} of the {split} split{held} of {content.where} is of"
      f" class {shown}, of which the train split has no examples; add some, or"
      " leave the class out"
    )


def _raised(error):
  """An error of the user's code, and the line of it that raised."""
  frames = traceback.extract_tb(error.__traceback__)
  if not frames[1:]:
    return f"{type(error).__name__}: {first_line(error)}"
  # The deepest of the file that was called from here, not of a library.
  file = frames[1].filename
  line = [frame.lineno for frame in frames if frame.filename == file][-1]
  return f"{type(error).__name__}: {first_line(error)} ({file}, line {line})"


def first_line(error: BaseException) -> str:
  """The first line of an error's text, or its type."""
  return next(iter(str(error).strip().split("\n")), "") or type(error).__name__
