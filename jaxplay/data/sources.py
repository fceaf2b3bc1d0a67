"""Where examples come from: digits, made-up images, TFDS records, text."""

import dataclasses
import difflib
import importlib.resources
import io
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay.data import dataset as dataset_lib
from jaxplay.data import features as features_lib
from jaxplay.data import files, images, order, own, ranges, text
from jaxplay.data.dataset import Dataset, Source


def _images(splits, num_classes, shape, pixel_max, name="", version=""):
  example = {"image": (tuple(shape), "uint8"), "label": ((), "int32")}
  hashes = {split: source.digest() for split, source in splits.items()}
  return Dataset(
    splits,
    num_classes,
    example,
    pixel_max,
    facts=name
    and dataset_lib.facts(name, version, num_classes, hashes, splits),
  )


def load(
  name: str,
  *,
  data_dir: str,
  splits: dict[str, str],
  image_size: int,
  center_share: float = 1.0,
  synthetic: dict,
  with_test: bool = True,
  task: str = "classification",
  inputs: Sequence[str] = (),
  targets: Sequence[str] = (),
  standardize: bool = False,
  augment: str = "none",
) -> Dataset:
  """Loads a data set that is no text.

  Args:
    name: `digits`, `synthetic`, `tfds:<name>[/config][:version]`, or files of
      the user: `npz:`, `folder:`, `csv:`, `parquet:` or `hf:` and a path, see
      `files`.
    data_dir: Where TFDS data sets were prepared; empty: TFDS's own default.
    splits: TFDS split strings under `train`, `valid` and `test`.
    image_size: Resize encoded images to this height and width; 0: as stored.
    center_share: Share of the shorter side that is used of a resized image,
      unless it is cropped at random.
    synthetic: Keyword arguments of the synthetic set.
    with_test: Whether the test split is used; if not, it may be missing, and
      its labels may be unknown.
    task: `classification`, another built-in task, or a name of the user's own.
    inputs: Columns of a table, or features; empty: see `files`, `features`.
    targets: Columns of a table, or features.
    standardize: Whether the inputs of a table are standardized.
    augment: Augmentation, which only uint8 images allow.

  Raises:
    jaxplay.UserError: There is no such data set, or it is not prepared, or has
      invalid labels.
  """
  if name == "digits":
    return _digits()
  if name == "synthetic":
    return _synthetic(**synthetic)
  inputs, targets = tuple(map(str, inputs)), tuple(map(str, targets))
  own_kwargs: dict[str, Any] = dict(
    task=task, with_test=with_test, augment=augment
  )
  if name.startswith("tfds:"):
    return _tfds(
      name.removeprefix("tfds:"),
      data_dir,
      splits,
      image_size,
      center_share,
      inputs,
      targets,
      own_kwargs,
    )
  if name.partition(":")[0] in files.KINDS:
    return files.load(
      name,
      image_size=image_size,
      center_share=center_share,
      inputs=inputs,
      targets=targets,
      standardize=standardize,
      **own_kwargs,
    )
  kinds = ", ".join(f"'{kind}:<path>'" for kind in files.KINDS)
  raise jaxplay.UserError(
    f"unknown dataset {name!r}; use 'digits', 'synthetic', 'tfds:<name>', or"
    f" one of {kinds}"
  )


def planned_images(*, image_size: int, num_classes: int) -> Dataset:
  """Describes an image set that need not exist."""
  return _images({}, num_classes, (image_size, image_size, 3), pixel_max=255)


def planned_text(
  *, sequence_length: int, tokenizer: str, vocab_size: int
) -> Dataset:
  """Describes a text that need not exist."""
  vocab_size = vocab_size or text.encoder_of(tokenizer).vocab_size
  if vocab_size <= 2**8:
    dtype = "uint8"
  elif vocab_size <= 2**16:
    dtype = "uint16"
  else:
    dtype = "uint32"
  return Dataset({}, vocab_size, {"tokens": ((sequence_length + 1,), dtype)})


def _digits():
  """1,797 handwritten digits of 8x8 pixels, values 0 to 16 (UCI, 1998).

  `tools/make_digits.py` made the file and its stratified split: 1,197 train,
  300 valid, 300 test.
  """
  data = importlib.resources.files("jaxplay.data").joinpath("digits.npz")
  with np.load(io.BytesIO(data.read_bytes())) as arrays:
    splits = {
      split: dataset_lib.Arrays(
        {
          "image": arrays[f"{split}_image"][..., None],
          "label": arrays[f"{split}_label"].astype(np.int32),
        }
      )
      for split in ("train", "valid", "test")
    }
  return _images(splits, 10, (8, 8, 1), pixel_max=16, name="digits")


@dataclasses.dataclass(frozen=True)
class _Synthetic:
  """Synthetic images: a pattern for each class under noise.

  An example is a function of its index alone, so a set of any size costs no
  memory until it is fetched.
  """

  first: int
  num_examples: int
  num_classes: int
  shape: tuple[int, int, int]
  difficulty: float

  @property
  def nbytes(self):
    return self.num_examples * (int(np.prod(self.shape)) + 4)

  def fetch(self, indices, crops=None):
    size = int(np.prod(self.shape))
    indices = np.asarray(indices) + self.first
    labels = order.draws(0, "synthetic", np.int64(0), indices, 1)[..., 0]
    labels = (labels % np.uint32(self.num_classes)).astype(np.int32)
    pictures = np.empty((len(indices), size), np.uint8)
    signal = 1 / (1 + self.difficulty)
    patterns = {int(k): _noise(1, int(k), size) for k in np.unique(labels)}
    for image, index, label in zip(pictures, indices, labels, strict=True):
      noise = _noise(0, int(index), size)
      image[:] = signal * patterns[int(label)] + (1 - signal) * noise
    pictures = pictures.reshape(-1, *self.shape)
    if crops is not None:
      cropped = map(images.crop, pictures, crops)
      pictures = np.stack(list(cropped))
    return {"image": pictures, "label": labels}

  def digest(self):
    few = self.fetch(np.unique([0, self.num_examples // 2]))
    return dataset_lib.digest(few.values())


def _noise(kind, index, size):
  """`size` random bytes: raw bits, whose stream numpy promises to keep."""
  words = np.random.Philox(key=(kind << 48) + index).random_raw(-(-size // 8))
  return words.view(np.uint8)[:size]


def _synthetic(
  *, num_train, num_valid, num_test, num_classes, shape, difficulty
):
  first, splits = 0, {}
  numbers = {"train": num_train, "valid": num_valid, "test": num_test}
  for split, number in numbers.items():
    splits[split] = _Synthetic(
      first, number, num_classes, tuple(shape), difficulty
    )
    first += number
  return _images(splits, num_classes, shape, pixel_max=255, name="synthetic")


@dataclasses.dataclass(frozen=True)
class _Records:
  """Records of a prepared TFDS set; only image and label are decoded.

  Images to be resized stay encoded, so that only a part is decoded.
  """

  source: object  # serialized records
  features: object  # how to decode image and label from one
  image_key: str
  label_key: str
  shape: tuple[int, int, int]
  resize: bool
  share: float  # of the shorter side that is used without random crops
  labels: object  # how to decode the label alone
  num_classes: int
  split: str
  name: str  # of the data set

  @property
  def num_examples(self):
    return len(self.source)

  def digest(self):
    return dataset_lib.digest(self._sample())

  def check_labels(self):
    """Refuses invalid labels in a sample of records."""
    read = [self.labels.deserialize_example_np(r) for r in self._sample()]
    self._check([record[self.label_key] for record in read])

  def _sample(self):
    index = dataset_lib.spread(self.num_examples)
    return self.source.__getitems__(index.tolist())

  def _check(self, labels):
    ranges.check(
      np.array(labels, np.int64),
      self.num_classes,
      what="labels",
      split=self.split,
      name=f"tfds:{self.name}",
      fix="TFDS writes -1 for an unknown label; set config.dataset."
      f"{self.split}_split to a split with labels",
    )

  @property
  def nbytes(self):
    return self.num_examples * (int(np.prod(self.shape)) + 4)

  def fetch(self, indices, crops=None):
    """As in `Source`; `crops`, from `images.draw_crops`, are random parts."""
    serialized = self.source.__getitems__([int(index) for index in indices])
    records = [
      self.features.deserialize_example_np(record) for record in serialized
    ]
    pictures = [record[self.image_key] for record in records]
    if self.resize:
      size, _, channels = self.shape
      pictures = [
        images.decode(picture, size, channels, words=words, share=self.share)
        for picture, words in itertools.zip_longest(
          pictures, () if crops is None else crops
        )
      ]
    labels = [record[self.label_key] for record in records]
    self._check(labels)
    return {"image": np.stack(pictures), "label": np.array(labels, np.int32)}


def _tfds_builder(name, data_dir):
  """What reads a prepared TFDS set, without TensorFlow."""
  # Imported here: it takes seconds that other sets need not spend.
  import tensorflow_datasets as tfds

  where = data_dir or "TFDS's default folder"
  prepare = (
    f"dataset {name!r} is not prepared in {where}; prepare it once there (most"
    f" sets need TensorFlow for that, and only for that) with"
    f" tfds.builder({name!r}, data_dir=...,"
    " file_format='array_record').download_and_prepare(), or set"
    " config.dataset.data_dir to where it is"
  )
  try:
    builder = tfds.builder(name, data_dir=data_dir or None, try_gcs=False)
  except tfds.core.DatasetNotFoundError:
    # Only TFDS's own sets: listing all would need TensorFlow.
    known = tfds.list_builders(with_community_datasets=False)
    close = difflib.get_close_matches(name, known, 1)
    hint = f" (nearest known name: {close[0]!r})" if close else ""
    raise jaxplay.UserError(prepare + hint) from None
  except Exception as error:  # Names can be wrong in many ways.
    raise jaxplay.UserError(
      f"dataset {name!r} cannot be loaded: {_first_line(error)}"
    ) from error
  if not builder.info.splits:
    raise jaxplay.UserError(prepare)
  return builder


def _tfds(
  name, data_dir, splits, image_size, center_share, inputs, targets, own_kwargs
):
  """A prepared TFDS set; images and classes are read as by `_Records`."""
  import tensorflow_datasets as tfds

  builder = _tfds_builder(name, data_dir)
  features = builder.info.features
  with_test = own_kwargs["with_test"]
  records = _tfds_records(builder, name, splits, with_test)
  # Of several, TFDS's supervised keys, then the usual names.
  usual = (*(builder.info.supervised_keys or ()), "image", "label")
  by_type = {
    kind: sorted(
      (key for key, value in features.items() if isinstance(value, kind)),
      key=lambda key: ((*usual, key).index(key), key),
    )
    for kind in (tfds.features.Image, tfds.features.ClassLabel)
  }
  is_usual = own_kwargs["task"] == "classification" and all(by_type.values())
  if not is_usual or inputs or targets:
    return _tfds_features(
      name,
      builder,
      records,
      image_size,
      center_share,
      inputs,
      targets,
      own_kwargs,
    )
  image_key, label_key = (keys[0] for keys in by_type.values())
  if features[image_key].np_dtype != np.uint8:
    raise jaxplay.UserError(
      f"images of dataset {name!r} are of type"
      f" {np.dtype(features[image_key].np_dtype)}; only uint8 can be used"
    )
  shape = _image_shape(name, features[image_key], image_size)
  # Not PartialDecoding, which data sources ignore and which needs TensorFlow.
  partial = tfds.features.FeaturesDict(
    {
      # Kept as the bytes of its file, of which a part is decoded later.
      image_key: tfds.features.Text() if image_size else features[image_key],
      label_key: features[label_key],
    }
  )
  classes = features[label_key].num_classes
  if not classes:
    raise jaxplay.UserError(
      f"dataset {name!r} has no number of classes for its {label_key!r}; only"
      " image classification sets can be used"
    )
  sources = {
    split: _Records(
      of_split,
      partial,
      image_key,
      label_key,
      tuple(shape),
      bool(image_size),
      center_share,
      tfds.features.FeaturesDict({label_key: features[label_key]}),
      classes,
      split,
      name,
    )
    for split, of_split in records.items()
  }
  for split, source in sources.items():
    if split != "test" or with_test:
      source.check_labels()
  return _images(
    sources,
    classes,
    shape,
    pixel_max=255,
    name=f"tfds:{name}",
    version=builder.info.full_name,
  )


def _image_shape(name, feature, image_size):
  """Height, width and channels of the images of a TFDS feature."""
  shape = feature.shape
  if image_size:
    shape = (image_size, image_size, shape[-1] or 3)
  if None in shape:
    raise jaxplay.UserError(
      f"images of dataset {name!r} differ in size; set"
      " config.dataset.image_size to the size to train on"
    )
  return shape


@dataclasses.dataclass(frozen=True)
class _Features:
  """Records of a prepared TFDS set; only chosen features are decoded."""

  source: Any  # serialized records
  features: Any  # how to decode the chosen features of one
  chosen: features_lib.Chosen
  shape: tuple[int, ...]  # of images to be resized; empty: as stored
  share: float  # as in `_Records`

  def __len__(self):
    return len(self.source)

  def fetch(self, indices, crops=None):
    records = [
      self.features.deserialize_example_np(record)
      for record in self.identity(indices)
    ]
    columns = {
      name: [_nested(record, name) for record in records]
      for name in self.chosen.names
    }
    if self.shape:
      size, _, channels = self.shape
      (name,) = self.chosen.inputs
      columns[name] = [
        images.decode(picture, size, channels, words=words, share=self.share)
        for picture, words in itertools.zip_longest(
          columns[name], () if crops is None else crops
        )
      ]
    return self.chosen.stacked(
      {name: np.stack(values) for name, values in columns.items()}
    )

  def identity(self, indices):
    """The serialized records."""
    return self.source.__getitems__([int(index) for index in indices])


def _nested(record, name):
  for part in name.split("/"):
    record = record[part]
  return record


def _tfds_features(
  name, builder, records, image_size, share, inputs, targets, own_kwargs
):
  """A prepared TFDS set of any features that a task can use."""
  import tensorflow_datasets as tfds

  known = _tfds_flat(builder.info.features)
  usable = {
    key: found
    for key, kind in known.items()
    if (found := _tfds_feature(kind)) is not None
  }
  supervised = builder.info.supervised_keys or ()
  if not all(isinstance(key, str) for key in supervised):
    supervised = ()
  where = f"dataset 'tfds:{name}'"
  chosen = features_lib.choose(
    usable,
    where,
    inputs=inputs,
    targets=targets,
    supervised=supervised,
  )
  task, number = own_kwargs["task"], 0
  if len(chosen.targets) == 1:
    number = usable[chosen.targets[0]].num_classes
  if task == "classification" and not number:
    raise jaxplay.UserError(
      f"{where} has no number of classes for {chosen.targets[0]!r}; name a"
      " ClassLabel in config.dataset.targets, or set config.task.name to"
      " 'regression'"
    )
  shape: tuple[int, ...] = ()
  partial: dict[str, Any] = {}
  for key in chosen.names:
    *outer, last = key.split("/")
    group = partial
    for part in outer:
      group = group.setdefault(part, {})
    group[last] = known[key]
    if usable[key].kind == "image":
      full = _image_shape(name, known[key], image_size)
      if image_size:  # Kept as the bytes of its file, as in `_tfds`.
        group[last], shape = tfds.features.Text(), full
  decoder = tfds.features.FeaturesDict(partial)
  splits: dict[str, Any] = {
    split: _Features(of_split, decoder, chosen, shape, share)
    for split, of_split in records.items()
  }
  if number:
    splits["num_classes"] = number
  return own.from_splits(
    splits,
    where,
    name=f"tfds:{name}",
    facts={"version": builder.info.full_name},
    **own_kwargs,
  )


def _tfds_flat(features, prefix=""):
  """Features by name, nested ones as "outer/inner"."""
  import tensorflow_datasets as tfds

  flat = {}
  for key, feature in features.items():
    if isinstance(feature, tfds.features.FeaturesDict):
      flat |= _tfds_flat(feature, f"{prefix}{key}/")
    else:
      flat[prefix + key] = feature
  return flat


def _tfds_feature(kind):
  """A feature of TFDS that can be used, or None."""
  import tensorflow_datasets as tfds

  if isinstance(kind, tfds.features.Image):
    return features_lib.Feature("image")
  if isinstance(kind, tfds.features.ClassLabel):
    return features_lib.Feature("class", (), kind.num_classes or 0)
  # Text and audio are kinds of tensors too.
  if type(kind) not in (tfds.features.Tensor, tfds.features.Scalar):
    return None
  if None in kind.shape or np.dtype(kind.np_dtype).kind not in "biuf":
    return None
  return features_lib.Feature("number", tuple(kind.shape))


def _tfds_records(builder, name, splits, with_test=True):
  """Returns the serialized records of each split; see `load` of the last."""
  import tensorflow_datasets as tfds

  records = {}
  for split, wanted in splits.items():
    try:
      records[split] = builder.as_data_source(
        split=wanted, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
      )
      if not len(records[split]):  # ValueError where it begins after it ends
        raise ValueError("it holds no examples")
    except (ValueError, KeyError) as error:
      if split == "test" and not with_test:
        records.pop(split, None)
        continue
      raise jaxplay.UserError(
        f"config.dataset.{split}_split={wanted!r} is not a split of {name!r},"
        f" which has {sorted(builder.info.splits)} ({_first_line(error)})"
      ) from None
    except NotImplementedError as error:  # prepared as TFRecord
      raise jaxplay.UserError(
        f"dataset {name!r} was not prepared in array_record format:"
        f" {_first_line(error)}"
      ) from None
  return records


def check_apart(name: str, data_dir: str, splits: dict[str, str]) -> None:
  """Refuses to train on a TFDS validation split that others share (E6).

  Args:
    name: `tfds:<name>`.
    data_dir: As in `load`.
    splits: TFDS split strings under `valid`, and under those that must have no
      example of it.

  Raises:
    jaxplay.UserError: They share examples.
  """
  name = name.removeprefix("tfds:")
  known = _tfds_builder(name, data_dir).info.splits
  parts = {}
  for split, wanted in splits.items():
    try:
      found = known[wanted].file_instructions
    except (ValueError, KeyError):
      return  # Loading it says what is wrong.
    parts[split] = [
      (one.filename, one.skip, one.skip + one.take if one.take >= 0 else np.inf)
      for one in found
    ]
  valid = parts.pop("valid")
  for split, others in parts.items():
    for (file, first, stop), (other, begin, end) in itertools.product(
      valid, others
    ):
      if file == other and first < end and begin < stop:
        raise jaxplay.UserError(
          "config.dataset.fold_validation is True, and"
          f" config.dataset.valid_split={splits['valid']!r} shares examples"
          f" with {split}_split={splits[split]!r}; name splits that do not"
          " overlap, or leave fold_validation out"
        )


def _first_line(error):
  return str(error).strip().split("\n")[0]


def load_text(
  name: str,
  *,
  data_dir: str,
  splits: dict[str, str],
  sequence_length: int,
  tokenizer: str,
  valid_files: str,
  test_files: str,
  mixtures: Sequence,
  vocab_size: int = 0,
  with_test: bool = True,
  fold_validation: bool = False,
) -> Dataset:
  """Loads a text, or a mixture of several, as rows of tokens.

  Args:
    name: `pythonlib`, `text:<path or glob>` or `tfds:<name>`. Validation and
      test rows are always from this text.
    data_dir: Where TFDS sets were prepared, and token files are kept; empty:
      the defaults of both.
    splits: TFDS split strings under `train`, `valid` and `test`.
    sequence_length: Number of tokens to predict per row.
    tokenizer: "bytes", or the path of a `tokenizers` JSON file.
    valid_files: Path or glob, for `text:`.
    test_files: Path or glob, for `text:`.
    mixtures: ((step, ((name, weight), ...)), ...): the training texts from
      each step on; empty: `name` alone.
    vocab_size: Different tokens of the model; 0: those of the tokenizer.
    with_test: Whether the test split is needed; if not, it may be absent.
    fold_validation: Whether the validation rows are trained on, as rows of
      `name`, which the mixtures then contain; see `dataset.folded`.

  Raises:
    jaxplay.UserError: There is no such text, or it cannot be used.
  """
  # A mixture need not contain `name`, which is then only evaluated on.
  trained = list(dict.fromkeys(n for _, parts in mixtures for n, _ in parts))
  trained = trained or [name]

  def load_source(source):
    used = ["train"] if source in trained else []
    if source == name:
      used += ["valid", "test"] if with_test else ["valid"]
    files = source == name and source.startswith("text:")
    return text.load(
      source,
      sequence_length=sequence_length,
      tokenizer=tokenizer,
      valid_files=valid_files if files else "",
      test_files=test_files if files else "",
      cache=data_dir,
      tfds_texts=_tfds_texts(
        source, data_dir, {s: w for s, w in splits.items() if s in used}
      ),
      splits=used,
    )

  main = load_source(name)
  texts = {n: main if n == name else load_source(n) for n in trained}
  for source, split in itertools.product(texts, main.splits):
    if source == name or split == "train":
      continue
    shared = text.shared_document(texts[source], main, split)
    if shared is not None:
      raise jaxplay.UserError(
        f"the {split} split of dataset {name!r} shares {shared} with"
        f" {source!r}, which is trained on; leave it out of one of them"
      )
  # Otherwise they were drawn so that none is in two splits.
  if fold_validation and "test" in main.splits and valid_files and test_files:
    shared = text.shared_document(main, main, "test", trained="valid")
    if shared is not None:
      raise jaxplay.UserError(
        f"config.dataset.fold_validation is True, and {shared} is in both"
        " config.dataset.valid_files and test_files, so the model would be"
        " trained on test data; leave it out of one of them"
      )
  if 0 < vocab_size < main.vocab_size:
    raise jaxplay.UserError(
      f"config.dataset.vocab_size is {vocab_size}, and the tokenizer has"
      f" {main.vocab_size} tokens; use at least that number"
    )
  rows = [
    dataset_lib.Concatenated((loaded.splits["train"], main.splits["valid"]))
    if fold_validation and source == name
    else loaded.splits["train"]
    for source, loaded in texts.items()
  ]
  sizes = [split.num_examples for split in rows]
  first = itertools.accumulate([0, *sizes[:-1]])
  place = dict(zip(trained, zip(first, sizes, strict=True), strict=True))
  train: Source = rows[0]
  if len(rows) > 1:
    train = dataset_lib.Concatenated(tuple(rows))
  facts = dict(main.facts)
  if mixtures:
    facts["mixture"] = [loaded.facts for loaded in texts.values()]
  made = Dataset(
    splits={**main.splits, "train": train},
    num_classes=vocab_size or main.vocab_size,
    example={"tokens": ((sequence_length + 1,), main.facts["dtype"])},
    bytes_per_token=main.bytes_per_token,
    phases=tuple(
      (step, tuple((*place[n], weight) for n, weight in parts))
      for step, parts in mixtures
    ),
    facts=facts,
  )
  if fold_validation:
    return dataset_lib.without_valid(made, made.splits)
  return made


def tfds_documents(name: str, data_dir: str, split: str) -> Iterator[str]:
  """Returns the documents of a split of a TFDS text set, `tfds:<name>`."""
  _, documents = _tfds_texts(name, data_dir, {"train": split})
  return (record.content.decode() for record in documents["train"])


def _tfds_texts(name, data_dir, splits):
  """Returns `tfds_texts` of `text.load` for these splits of a TFDS set."""
  if not name.startswith("tfds:"):
    return None
  import tensorflow_datasets as tfds

  name = name.removeprefix("tfds:")
  builder = _tfds_builder(name, data_dir)
  features = builder.info.features
  keys = [k for k, v in features.items() if isinstance(v, tfds.features.Text)]
  if not keys:
    raise jaxplay.UserError(
      f"dataset {name!r} has no Text feature among {sorted(features)}; a"
      " language model cannot be trained on it"
    )
  # Of several, the usual name, then TFDS's supervised keys.
  usual = ("text", *(builder.info.supervised_keys or ()))
  key = min(keys, key=lambda key: ((*usual, key).index(key), key))
  partial = tfds.features.FeaturesDict({key: features[key]})

  def documents(split, records):
    for i in range(len(records)):
      content = partial.deserialize_example_np(records[i])[key]
      if content:
        yield text.Record(f"{name}, {split} {i}", content)

  identity = [builder.info.full_name, str(builder.data_path), splits, key]
  return identity, {
    split: documents(split, records)
    for split, records in _tfds_records(builder, name, splits).items()
  }
