"""What a data set is: splits of examples by index, and facts about them.

A source has a length and a size in memory, and fetches any examples by index:
feature -> array [n, ...]. Features that the built-in tasks read:

    image   uint8 [n, height, width, channels]; floats are not scaled
    inputs  numbers [n, ...] of any other kind
    label   int32 [n], classes; or [n, k] of 0 and 1, for several labels
    target  float32 [n] or [n, k], for regression
    tokens  integers [n, length + 1]

Others are passed on in the batch, for the task of a user.
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

import jaxplay

# Number of records, evenly spread, that are read before a run begins: to
# identify the set, and to check the labels.
SAMPLE = 256


class Source(Protocol):
  """Examples by index."""

  @property
  def num_examples(self) -> int: ...

  @property
  def nbytes(self) -> int:
    """Size of all examples in memory."""

  def fetch(self, indices: np.ndarray) -> dict[str, np.ndarray]:
    """The examples at int `indices` [n]."""


@dataclasses.dataclass(frozen=True)
class Dataset:
  """Its splits, and what a model must know about their examples."""

  splits: dict[str, Source]  # train, valid unless folded, test if there is one
  num_classes: int  # or of different tokens, or of outputs of a regression
  example: dict[str, tuple[tuple[int, ...], str]]  # feature: (shape, dtype)
  pixel_max: int = 0  # uint8 images: largest value; the smallest is 0.
  # Text: of each split, to turn a loss per token into bits per byte.
  bytes_per_token: Mapping[str, float] | None = None
  phases: tuple = ()  # Of a mixture; see `order.mixed_indices`.
  facts: Mapping[str, Any] | None = None  # for the provenance


@dataclasses.dataclass(frozen=True)
class Arrays:
  """Examples held in memory."""

  arrays: dict[str, np.ndarray]

  @property
  def num_examples(self):
    return len(next(iter(self.arrays.values())))

  @property
  def nbytes(self):
    return sum(array.nbytes for array in self.arrays.values())

  def fetch(self, indices):
    return {name: array[indices] for name, array in self.arrays.items()}

  def digest(self):
    return digest(self.arrays.values())


@dataclasses.dataclass(frozen=True)
class Sample:
  """Some examples of another source.

  Attributes:
    source: All examples.
    index: Which, ascending, int [n].
  """

  source: Source
  index: np.ndarray

  @property
  def num_examples(self):
    return len(self.index)

  @property
  def nbytes(self):
    return self.source.nbytes * len(self.index) // self.source.num_examples

  def fetch(self, indices):
    return self.source.fetch(self.index[indices])


@dataclasses.dataclass(frozen=True)
class Concatenated:
  """Sources one after the other, under one index."""

  sources: tuple[Source, ...]

  @property
  def num_examples(self):
    return sum(source.num_examples for source in self.sources)

  @property
  def nbytes(self):
    return sum(source.nbytes for source in self.sources)

  def fetch(self, indices, **of_each):
    """As in `Source`; `of_each`: arrays with an entry for each example."""
    indices = np.asarray(indices)
    sizes = [source.num_examples for source in self.sources]
    ends = np.cumsum(sizes)
    which = np.searchsorted(ends, indices, side="right")
    out: dict[str, np.ndarray] = {}
    for i, source in enumerate(self.sources):
      here = which == i
      if len(indices) and not here.any():
        continue
      own = {name: array[here] for name, array in of_each.items()}
      part = source.fetch(indices[here] - (ends[i] - sizes[i]), **own)
      for name, array in part.items():
        shape = (len(indices), *array.shape[1:])
        out.setdefault(name, np.empty(shape, array.dtype))[here] = array
    return out


def folded(dataset: Dataset) -> Dataset:
  """The data set with its validation examples at the end of training's (E6).

  It has no validation split. What was computed from the training split, such as
  the mean of standardized columns, stays as it was.

  Raises:
    jaxplay.UserError: The validation split is the test split.
  """
  train, valid = (dataset.splits[split] for split in ("train", "valid"))
  return without_valid(
    dataset, dataset.splits | {"train": Concatenated((train, valid))}
  )


def without_valid(dataset: Dataset, splits: Mapping[str, Source]) -> Dataset:
  """The data set with other splits, whose training split holds validation's.

  Args:
    dataset: As it was loaded.
    splits: The validation split among them, which is left out.

  Raises:
    jaxplay.UserError: As `folded`.
  """
  facts = dict(dataset.facts or {})
  hashes = {
    split: of_split.get("tokens_sha256") or of_split["sha256"]
    for split, of_split in facts.get("splits", {}).items()
  }
  if "valid" in hashes and hashes["valid"] == hashes.get("test"):
    raise jaxplay.UserError(
      f"config.dataset.fold_validation is True, and the validation split of"
      f" {facts.get('name')!r} is its test split, which would be trained on;"
      " name another split, or leave fold_validation out"
    )
  facts["fold_validation"] = {
    split: splits[split].num_examples for split in ("train", "valid")
  }
  kept = {name: of for name, of in splits.items() if name != "valid"}
  return dataclasses.replace(dataset, splits=kept, facts=facts)


def digest(parts: Iterable[Any]) -> str:
  """The hash of arrays or bytes, each with its length."""
  made = hashlib.sha256()
  for part in parts:
    content: Any = part
    if isinstance(part, np.ndarray):
      content = np.ascontiguousarray(part).reshape(-1).view(np.uint8).data
    made.update(len(content).to_bytes(8, "little"))
    made.update(content)
  return made.hexdigest()


def identity(dataset: Dataset, split: str) -> str:
  """The hash of which examples a split has, in their order; "": unknown.

  With equal hashes, results on the split can be compared example by example.
  """
  facts = (dataset.facts or {}).get("splits", {}).get(split)
  if not facts:
    return ""
  # A text is cut into rows only when it is read.
  rows = dataset.example.get("tokens", ((), ""))[0]
  content = [facts, dataset.splits[split].num_examples, rows]
  return digest([json.dumps(content, sort_keys=True).encode()])


def spread(number: int, most: int = SAMPLE) -> np.ndarray:
  """At most `most` indices below `number`, evenly spread."""
  most = min(most, number)
  return np.arange(most) * number // most


def facts(
  name: str,
  version: str,
  num_classes: int,
  hashes: Mapping[str, str],
  splits: Mapping[str, Source],
  trained: Iterable[str] = ("train", "valid", "test"),
) -> dict[str, Any]:
  """What the provenance says of a data set.

  Args:
    name: As in the config.
    version: Empty: none.
    num_classes: Of `Dataset`.
    hashes: The hash of the content of each split.
    splits: Of `Dataset`.
    trained: The splits that must be the same where a run resumes.
  """
  together = "".join(hashes[s] for s in trained if s in hashes)
  return {
    "name": name,
    "version": version,
    "sha256": hashlib.sha256(together.encode()).hexdigest(),
    "num_classes": num_classes,
    "splits": {
      split: {"examples": source.num_examples, "sha256": hashes[split]}
      for split, source in splits.items()
    },
  }
