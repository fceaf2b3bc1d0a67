"""Data sets in files of the user: arrays, tables, folders of images.

    npz:PATH      arrays: `train_x`, `train_y`, `valid_x`, ...; or `x_train`,
                  ...; or `x`, `y`, ... of one split. A folder has train.npz,
                  valid.npz, ...; or such arrays as .npy files, which are mapped
    csv:PATH      a table with a header, or a folder with train.csv, valid.csv,
    parquet:PATH  ...; see `tables`
    folder:PATH   CLASS/xxx.jpg or .png, or train/CLASS/xxx.jpg, valid/...
    hf:PATH       what `datasets` has saved by `save_to_disk`

Each reader returns the splits and the facts that `own.from_splits` takes.
"""

import dataclasses
import io
import math
import os
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay.data import dataset as dataset_lib
from jaxplay.data import features, images, own, tables

KINDS = ("npz", "folder", "csv", "parquet", "hf")

# As others call the splits.
_SPLITS = {
  "train": "train",
  "valid": "valid",
  "validation": "valid",
  "val": "valid",
  "test": "test",
}
_SUFFIXES = (".jpg", ".jpeg", ".png")


def load(
  name: str,
  *,
  image_size: int,
  center_share: float,
  task: str,
  inputs: Sequence[str],
  targets: Sequence[str],
  standardize: bool,
  with_test: bool,
  augment: str,
) -> dataset_lib.Dataset:
  """Loads a data set in files of the user.

  Args:
    name: KIND:PATH, as above.
    image_size: Resize encoded images to this height and width; 0: as stored.
    center_share: Share of the shorter side that is used of a resized image.
    task: Built-in task, or any other name for one of the user.
    inputs: Columns of a table, or features of `hf`; empty: all other numbers.
    targets: Columns of a table, or features of `hf`.
    standardize: Whether the inputs of a table are standardized.
    with_test: Whether the test split is used.
    augment: As in the config.

  Raises:
    jaxplay.UserError: There are no such files, or they cannot be used.
  """
  kind, _, path = name.partition(":")
  where = f"dataset {name!r}"
  path = os.path.expanduser(path)
  if not os.path.exists(path):
    raise jaxplay.UserError(f"there is no {path!r}, of {where}")
  classes: Sequence[str] = ()
  facts: Mapping[str, Any] = {}
  if kind == "npz":
    splits = _arrays(path, where)
  elif kind == "folder":
    splits, classes = _pictures(path, where, image_size, center_share)
  elif kind == "hf":
    splits, classes = _saved(
      path, where, image_size, center_share, inputs, targets
    )
  else:
    tables.check_targets(where, task, targets)
    files = {"train": path}
    if os.path.isdir(path):
      files = _by_split(path, where, f".{kind}")
    splits, facts = tables.load(
      kind, files, where, task, tuple(inputs), tuple(targets), standardize
    )
  return own.from_splits(
    splits,
    where,
    name=name,
    task=task,
    with_test=with_test,
    augment=augment,
    classes=classes,
    facts=facts,
  )


def _entries(folder, where):
  """The entries of a folder that are not hidden, sorted; none is a link."""
  try:
    with os.scandir(folder) as scan:
      found = sorted(scan, key=lambda entry: entry.name)
  except OSError as error:
    raise jaxplay.UserError(f"{where}: {own.first_line(error)}") from None
  found = [entry for entry in found if not entry.name.startswith(".")]
  for entry in found:
    if entry.is_symlink():
      raise jaxplay.UserError(
        f"{entry.path!r}, of {where}, is a symbolic link; put the file itself"
        " there"
      )
  return found


def _by_split(folder, where, suffix):
  """The file of each split in a folder: train.csv, valid.csv, ..."""
  files: dict[str, str] = {}
  for entry in _entries(folder, where):
    stem, extension = os.path.splitext(entry.name)
    split = _SPLITS.get(stem)
    if split is None or extension != suffix or split in files:
      raise jaxplay.UserError(
        f"{entry.path!r}, of {where}, is not the only file of a split; a folder"
        f" can hold train{suffix}, valid{suffix} and test{suffix}"
      )
    files[split] = entry.path
  return files


# Arrays.


def _arrays(path, where):
  """The splits of .npz or .npy files: {split: {feature: array}}."""
  if os.path.isfile(path):
    return _divided(_npz(path, where), where)
  entries = _entries(path, where)
  if not any(entry.name.endswith(".npy") for entry in entries):
    files = _by_split(path, where, ".npz")
    return {split: _npz(file, where) for split, file in files.items()}
  arrays = {}
  for entry in entries:
    stem, extension = os.path.splitext(entry.name)
    if extension != ".npy":
      raise jaxplay.UserError(
        f"{entry.path!r}, of {where}, is no .npy file; a folder holds either"
        " .npy files, an array in each, or train.npz, valid.npz and test.npz"
      )
    try:
      arrays[stem] = np.lib.format.open_memmap(entry.path, mode="r")
    except Exception as error:  # Of a damaged header, whatever occurs.
      if "Python objects" in str(error):
        raise _pickled(stem, where) from None
      raise jaxplay.UserError(
        f"{entry.path!r}, of {where}, cannot be mapped: {own.first_line(error)}"
      ) from None
  return _divided(arrays, where)


def _pickled(name, where):
  return jaxplay.UserError(
    f"array {name!r} of {where} holds Python objects, which are not read: they"
    " could run any program; save it as numbers, by .astype(...)"
  )


def _npz(path, where):
  """The arrays of an .npz file, by name; none is read before all are checked.

  A few bytes can be an archive of terabytes, or claim to be.
  """
  try:
    with zipfile.ZipFile(path) as archive:
      claimed = sum(
        _check_member(archive, m, where) for m in archive.infolist()
      )
      memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
      if claimed > memory:
        raise jaxplay.UserError(
          f"the arrays of {path!r}, of {where}, are {claimed:,} bytes, and this"
          f" machine has {memory:,}; use a folder of .npy files, which are"
          " mapped"
        )
    with np.load(path, allow_pickle=False) as arrays:
      return {name: arrays[name] for name in arrays.files}
  except jaxplay.UserError:
    raise
  # Of damaged files, numpy, zipfile and zlib raise whatever happens to occur.
  except Exception as error:
    raise jaxplay.UserError(
      f"{path!r}, of {where}, is no .npz file that can be read:"
      f" {own.first_line(error)}"
    ) from None


def _check_member(archive, member, where):
  """Returns the size of an array, of which only the header is read."""
  name = member.filename.removesuffix(".npy")
  with archive.open(member) as file:
    version = np.lib.format.read_magic(file)
    read = {
      (1, 0): np.lib.format.read_array_header_1_0,
      (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in read:
      raise ValueError(f"array {name!r} is of format {version}")
    shape, _, dtype = read[version](file)
    if dtype.hasobject:
      raise _pickled(name, where)
    size = math.prod(shape) * dtype.itemsize
    if size != member.file_size - file.tell():
      raise ValueError(
        f"array {name!r} claims {size:,} bytes, and has"
        f" {member.file_size - file.tell():,}"
      )
  return size


def _divided(arrays, where):
  """Arrays by split and feature: train_x, or x_train, or else of one split."""
  for part, rest in ((0, 2), (2, 0)):
    split_of = {
      key: key.partition("_") if not part else key.rpartition("_")
      for key in arrays
    }
    if not any(parts[part] == "train" for parts in split_of.values()):
      continue
    splits: dict[str, dict] = {}
    for key, parts in split_of.items():
      split = _SPLITS.get(parts[part])
      if split is None or not parts[rest]:
        raise jaxplay.UserError(
          f"array {key!r} of {where} names no split, as others do; expected"
          " such names as train_x, valid_x and test_x, or none with a split"
        )
      if parts[rest] in splits.setdefault(split, {}):
        raise jaxplay.UserError(
          f"{where} has feature {parts[rest]!r} of the {split} split twice,"
          f" one of them as {key!r}"
        )
      splits[split][parts[rest]] = arrays[key]
    return splits
  return {"train": arrays}


# Folders of images.


@dataclasses.dataclass(frozen=True)
class _Pictures:
  """Encoded images in files, with their classes."""

  root: str
  files: tuple[str, ...]  # relative to the root
  all_labels: np.ndarray
  where: str
  size: int  # height and width; 0: as stored
  channels: int
  share: float

  def __len__(self):
    return len(self.files)

  def fetch(self, indices, crops=None):
    encoded = [self._read(i) for i in indices]
    names = [os.path.join(self.root, self.files[i]) for i in indices]
    return {
      "image": _decoded(self, encoded, names, self.where, crops),
      "label": self.all_labels[indices],
    }

  def identity(self, indices):
    """All names, and the bytes of these files; another Pillow changes none."""
    yield "\n".join(self.files).encode()
    yield from map(self._read, indices)

  def _read(self, i):
    return _content(os.path.join(self.root, self.files[i]), self.where)


def _content(path, where):
  try:
    with open(path, "rb") as file:
      return file.read()
  except (OSError, TypeError, ValueError) as error:
    raise jaxplay.UserError(
      f"{path!r}, of {where}, cannot be read: {own.first_line(error)}"
    ) from None


def _decoded(how, encoded, names, where, crops):
  """Images uint8 [n, height, width, channels], of one size.

  Args:
    how: Has `size`, `channels` and `share`.
    encoded: The bytes of each file.
    names: Of the files, for messages.
    where: The data set.
    crops: As for `images.decode`; None: none.
  """
  decoded = []
  for i, (content, name) in enumerate(zip(encoded, names, strict=True)):
    words = None if crops is None else crops[i]
    try:
      if how.size:
        picture = images.decode(
          content, how.size, how.channels, words=words, share=how.share
        )
      else:
        picture = images.decode_whole(content, how.channels)
    except Exception as error:  # Pillow raises whatever happens to occur.
      raise jaxplay.UserError(
        f"{name!r}, of {where}, cannot be decoded: {own.first_line(error)}"
      ) from None
    if decoded and picture.shape != decoded[0].shape:
      raise _sizes_differ(name, where, picture.shape, decoded[0].shape)
    decoded.append(picture)
  return np.stack(decoded)


def _sizes_differ(name, where, shape, other):
  return jaxplay.UserError(
    f"{name!r}, of {where}, is of {shape[0]} x {shape[1]} pixels, and another"
    f" image of {other[0]} x {other[1]}; set config.dataset.image_size to the"
    " size to train on"
  )


def _pictures(path, where, image_size, center_share):
  """The splits of a folder of images, and the names of the classes."""
  if not os.path.isdir(path):
    raise jaxplay.UserError(f"{path!r}, of {where}, is not a folder")
  folders = {entry.name: entry.path for entry in _entries(path, where)}
  roots = {"train": path}
  train = folders.get("train", "")
  # A class may be called train.
  if os.path.isdir(train) and any(e.is_dir() for e in _entries(train, where)):
    roots = {}
    for name, folder in folders.items():
      split = _SPLITS.get(name)
      if split is None or split in roots:
        raise jaxplay.UserError(
          f"{folder!r}, of {where}, is not the only folder of a split; splits"
          " are train, valid and test"
        )
      roots[split] = folder
  listed = {split: _listed(root, where) for split, root in roots.items()}
  classes = tuple(listed["train"])
  splits = {}
  channels = 0
  for split in sorted(roots, key=own.SPLITS.index):
    for name, files in listed[split].items():
      if name not in classes:
        raise jaxplay.UserError(
          f"class {name!r} of the {split} split of {where} is not in the train"
          f" split, which has {', '.join(map(repr, classes[:20]))}"
        )
      if not files and split == "train":
        raise jaxplay.UserError(
          f"class {name!r} of the {split} split of {where} has no images"
        )
    files = [file for files in listed[split].values() for file in files]
    labels = [
      classes.index(name) for name, of in listed[split].items() for _ in of
    ]
    made = _Pictures(
      roots[split],
      tuple(files),
      np.array(labels, np.int32),
      where,
      image_size,
      channels,
      center_share,
    )
    channels = channels or _check_pictures(made, where)
    splits[split] = dataclasses.replace(made, channels=channels)
  return splits, classes


def _listed(root, where):
  """Class -> its image files, relative to the root; all sorted."""
  classes: dict[str, list[str]] = {}
  for folder in _entries(root, where):
    if not folder.is_dir():
      raise jaxplay.UserError(
        f"{folder.path!r}, of {where}, is not in the folder of a class;"
        " expected CLASS/xxx.jpg or .png"
      )
    files = classes.setdefault(folder.name, [])
    for entry in _entries(folder.path, where):
      if not entry.is_file() or not entry.name.lower().endswith(_SUFFIXES):
        raise jaxplay.UserError(
          f"{entry.path!r}, of {where}, is none of {', '.join(_SUFFIXES)};"
          " remove it"
        )
      files.append(os.path.join(folder.name, entry.name))
  if not classes:
    raise jaxplay.UserError(
      f"{root!r}, of {where}, has no folders of classes; expected"
      " CLASS/xxx.jpg or .png"
    )
  return classes


def _check_pictures(pictures, where):
  """Returns the number of channels, 1 or 3, from a sample of the headers."""
  if not len(pictures):
    return 0  # Refused later: the split is empty.
  first, modes = None, set()
  for i in dataset_lib.spread(len(pictures)):
    name = os.path.join(pictures.root, pictures.files[i])
    mode, shape = _header(name, where, name)
    if first is not None and shape != first and not pictures.size:
      raise _sizes_differ(name, where, shape, first)
    first = first or shape
    modes.add(mode)
  return 1 if modes <= {"1", "L"} else 3


def _header(file, where, name):
  """The mode of an image and its (height, width), from a path or a file."""
  from PIL import Image  # Costs start-up time that only such sets need.

  try:
    with Image.open(file, formats=("JPEG", "PNG")) as picture:
      mode, (width, height) = picture.mode, picture.size
  except Exception as error:  # Pillow raises whatever happens to occur.
    raise jaxplay.UserError(
      f"{name!r}, of {where}, cannot be decoded: {own.first_line(error)}"
    ) from None
  if mode.startswith(("I", "F")):
    raise jaxplay.UserError(
      f"{name!r}, of {where}, has more than 8 bits per channel (mode {mode!r});"
      " convert it, or give floats by a function of your own"
    )
  return mode, (height, width)


# Folders of `datasets`.


@dataclasses.dataclass(frozen=True)
class _Saved:
  """Rows of a split that `datasets` has saved, memory-mapped by it."""

  rows: Any  # datasets.Dataset of the chosen features, images not decoded
  chosen: features.Chosen
  where: str
  split: str
  size: int  # as in `_Pictures`
  channels: int
  share: float

  def __len__(self):
    return len(self.rows)

  def fetch(self, indices, crops=None):
    indices = np.asarray(indices)
    numbers = [
      name
      for name in self.chosen.names
      if not self.chosen.is_image or name not in self.chosen.inputs
    ]
    columns = dict(self.rows.with_format("numpy", columns=numbers)[indices])
    if self.chosen.is_image:
      (name,) = self.chosen.inputs
      columns[name] = _decoded(
        self,
        _encoded(self.rows, name, indices, self.where),
        [f"{name} of {self.split} example {i}" for i in indices],
        self.where,
        crops,
      )
    return self.chosen.stacked(
      {name: np.asarray(column) for name, column in columns.items()}
    )

  @property
  def all_labels(self):
    """The labels of all rows, int [n]; None: they are no scalars."""
    if len(self.chosen.targets) > 1:
      return None
    (name,) = self.chosen.targets
    labels = self.rows.with_format("numpy", columns=[name])[:][name]
    return labels if labels.dtype.kind in "biu" and labels.ndim == 1 else None


def _encoded(rows, name, indices, where):
  """The bytes of image files, which are in the rows or beside them."""
  content = []
  for stored in rows.select_columns([name])[indices][name]:
    if stored is None:
      content.append(b"")
    elif stored["bytes"] is None:
      content.append(_content(stored["path"], where))
    else:
      content.append(stored["bytes"])
  return content


def _saved(path, where, image_size, center_share, inputs, targets):
  """The splits that `datasets` has saved, and the names of the classes."""
  try:
    import datasets
  except ModuleNotFoundError:
    raise jaxplay.UserError(
      "datasets is not installed; 'hf:...' needs it: pip install"
      " 'jaxplay[huggingface]'"
    ) from None

  try:
    saved = datasets.load_from_disk(path)
  except Exception as error:  # Of damaged files, anything.
    raise jaxplay.UserError(
      f"{path!r}, of {where}, cannot be read as what save_to_disk has written:"
      f" {own.first_line(error)}"
    ) from None
  if isinstance(saved, datasets.Dataset):
    saved = {"train": saved}
  splits: dict[str, Any] = {}
  for name, rows in saved.items():
    split = _SPLITS.get(str(name))
    if split is None or split in splits:
      raise jaxplay.UserError(
        f"{where} has a split {name!r}; splits are train, validation and test"
      )
    splits[split] = rows
  if "train" not in splits:
    return splits, ()
  kinds = splits["train"].features
  usable = {
    name: found
    for name, kind in kinds.items()
    if (found := _feature(datasets, kind)) is not None
  }
  chosen = features.choose(usable, where, inputs=inputs, targets=targets)
  channels = 0
  readers = {}
  for split in sorted(splits, key=own.SPLITS.index):
    rows = splits[split]
    for name in chosen.names:
      if name not in rows.features:
        raise jaxplay.UserError(
          f"the {split} split of {where} lacks feature {name!r}; all splits"
          " must have those of the training split"
        )
    rows = rows.select_columns(list(dict.fromkeys(chosen.names)))
    if chosen.is_image:
      (name,) = chosen.inputs
      rows = rows.cast_column(name, datasets.Image(decode=False))
      channels = channels or _channels(rows, name, where)
    readers[split] = _Saved(
      rows, chosen, where, split, image_size, channels, center_share
    )
  target = kinds[chosen.targets[0]]
  is_class = len(chosen.targets) == 1
  is_class = is_class and isinstance(target, datasets.ClassLabel)
  return readers, tuple(target.names) if is_class else ()


def _feature(datasets, kind):
  """A feature of `datasets` that can be used, or None."""
  if isinstance(kind, datasets.Image):
    return features.Feature("image")
  if isinstance(kind, datasets.ClassLabel):
    return features.Feature("class", (), kind.num_classes or 0)
  shape = getattr(kind, "shape", None)  # of Array2D and others
  if shape is not None:
    return features.Feature("number", tuple(shape))
  length = getattr(kind, "length", None)  # of List
  if length is not None and length > 0:
    inner = _feature(datasets, kind.feature)
    is_number = inner is not None and inner.kind == "number"
    shape = (length, *inner.shape) if is_number else ()
    return features.Feature("number", shape) if is_number else None
  dtype = getattr(kind, "dtype", "") if isinstance(kind, datasets.Value) else ""
  if dtype.startswith(("int", "uint", "float", "bool")):
    return features.Feature("number")
  return None


def _channels(rows, name, where):
  """1 if a sample of images has no colors, else 3."""
  modes = set()
  for i, content in enumerate(
    _encoded(rows, name, dataset_lib.spread(len(rows)), where)
  ):
    modes.add(_header(io.BytesIO(content), where, f"image {i} of a sample")[0])
  return 1 if modes <= {"1", "L"} else 3
