"""Data: examples by index, in an order that is a function of (seed, step).

The same batches can be assembled in two ways. `train_examples` and
`eval_examples` return indices and augmentations of many steps, for sets in
device memory; `train_batches` and `eval_batches` read, decode and yield arrays
on the host, through grain's threads or worker processes, in the same order.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from jaxplay.data import dataset, images, order, own, sources

Dataset: TypeAlias = dataset.Dataset
Source: TypeAlias = dataset.Source
load, load_text = sources.load, sources.load_text
from_splits, identity = own.from_splits, dataset.identity
folded, check_apart = dataset.folded, sources.check_apart
tfds_documents = sources.tfds_documents
planned_images, planned_text = sources.planned_images, sources.planned_text


def sample(source: Source, number: int) -> Source:
  """Returns fixed random examples of a source: `number`, or all it has."""
  if number >= source.num_examples:
    return source
  seed = order.stream_seed(0, "eval_sample")
  index = order.batch_indices(seed, 0, number, source.num_examples)
  return dataset.Sample(source, np.sort(index))


def sampled(loaded: Dataset, number: int) -> Dataset:
  """Returns a data set whose validation split is a sample of `number` examples.

  The whole is the split `valid_full`. The sample does not depend on a seed, so
  that all trials and runs share it. Without a larger split, or with 0, the data
  set is returned as it is.
  """
  whole = loaded.splits.get("valid")
  if whole is None or not 0 < number < whole.num_examples:
    return loaded
  splits = {
    **loaded.splits,
    "valid": sample(whole, number),
    "valid_full": whole,
  }
  facts, sizes = dict(loaded.facts or {}), loaded.bytes_per_token
  if of_splits := facts.get("splits"):
    of_valid = {**of_splits["valid"], "sampled": number}
    facts["splits"] = {**of_splits, "valid": of_valid}
  if sizes:
    sizes = {**sizes, "valid_full": sizes["valid"]}
  return dataclasses.replace(
    loaded, splits=splits, facts=facts or loaded.facts, bytes_per_token=sizes
  )


def train_examples(
  *,
  seed: int,
  step: int,
  num_steps: int,
  batch_size: int,
  num_examples: int,
  augment: str,
  augment_pixels: int,
  phases: Sequence = (),
) -> dict[str, np.ndarray]:
  """Returns the examples of `num_steps` training batches from `step` on.

  Args:
    seed: The run's seed.
    step: First step.
    num_steps: Number of steps.
    batch_size: Examples per step, over all hosts.
    num_examples: Size of the training split.
    augment: One of `images.draw_moves`, "resized_crop", or "none".
    augment_pixels: Largest shift.
    phases: Of a mixture, see `order.mixed_indices`; empty: of the whole split.

  Returns:
    {"index": int32 [num_steps, batch_size]} and, with augmentation, {"moves":
    int32 [num_steps, batch_size, 3]} or {"crops": uint32 [num_steps,
    batch_size, words]}.
  """
  if phases:
    index = order.mixed_indices(seed, step, batch_size, phases, num_steps)
  else:
    index = order.batch_indices(seed, step, batch_size, num_examples, num_steps)
  index = index.reshape(num_steps, batch_size)
  examples = {"index": index}
  steps = np.arange(step, step + num_steps)[:, None]
  if augment == "resized_crop":
    examples["crops"] = images.draw_crops(seed, steps, index)
  elif augment != "none":
    examples["moves"] = images.draw_moves(
      seed, steps, index, augment, augment_pixels
    )
  return examples


def eval_examples(num_examples: int, batch_size: int) -> dict[str, np.ndarray]:
  """Returns a whole split in batches; padding has weight zero.

  Returns:
    {"index": int32 [batches, batch_size], "weight": float32, same shape}.
  """
  batches = -(-num_examples // batch_size)
  position = np.arange(batches * batch_size, dtype=np.int32)
  weight = position < num_examples
  shape = (batches, batch_size)
  return {
    "index": np.where(weight, position, 0).reshape(shape),
    "weight": weight.astype(np.float32).reshape(shape),
  }


def train_batches(
  source: sources.Source,
  *,
  start_step: int,
  stop_step: int,
  rows: np.ndarray,
  workers: int,
  **order_kwargs,
) -> Iterator[dict[str, np.ndarray]]:
  """Yields this host's part of each training batch, read ahead.

  Args:
    source: Examples by index.
    start_step: First step.
    stop_step: The iterator ends before this step.
    rows: Rows of the global batch that this host needs, any shape.
    workers: Reader processes; 0: threads in this process.
    **order_kwargs: The other arguments of `train_examples`.

  Yields:
    {"image", "label"[, "moves"]} or {"tokens"}, of leading shape `rows.shape`.
  """

  def examples(step):
    parts = train_examples(
      step=step,
      num_steps=1,
      num_examples=source.num_examples,
      **order_kwargs,
    )
    return {name: part[0][rows] for name, part in parts.items()}

  return _read(_Steps(source, examples, stop_step), start_step, workers)


def eval_batches(
  source: sources.Source, *, batch_size: int, rows: np.ndarray, workers: int
) -> Iterator[dict[str, np.ndarray]]:
  """Yields this host's part of each evaluation batch, with "weight"."""
  parts = eval_examples(source.num_examples, batch_size)

  def examples(step):
    return {name: part[step][rows] for name, part in parts.items()}

  return _read(_Steps(source, examples, len(parts["index"])), 0, workers)


class _Steps:
  """Whole host batches by step, as grain reads them."""

  def __init__(self, source, examples, length):
    self._source, self._examples, self._length = source, examples, length

  def __len__(self):
    return self._length

  def __getitem__(self, step):
    batch = self._examples(step)
    index = batch.pop("index")
    crops = {}
    if "crops" in batch:  # They are used up in reading.
      words = batch.pop("crops")
      crops["crops"] = words.reshape(-1, words.shape[-1])
    fetched = self._source.fetch(index.reshape(-1), **crops)
    for name, array in fetched.items():
      batch[name] = array.reshape(index.shape + array.shape[1:])
    return batch


def _read(steps, start, workers):
  """Iterates in order over `steps[start:]`, a few batches ahead."""
  import grain  # Slow to import, and not needed for sets on the device.

  dataset = grain.MapDataset.source(steps)[start:].to_iter_dataset(
    grain.ReadOptions(num_threads=4, prefetch_buffer_size=8)
  )
  if workers:
    from absl import flags

    # Grain asks absl for its own flags, and cli/ parses none of absl's.
    if not flags.FLAGS.is_parsed():
      flags.FLAGS.mark_as_parsed()
    dataset = dataset.mp_prefetch(grain.MultiprocessingOptions(workers))
  return iter(dataset)
