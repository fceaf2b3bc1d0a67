"""Batches by step: what they are made of, and that all ways make the same."""

import gc

import numpy as np
import pytest

from jaxplay import data

SPLITS = {"train": "train", "valid": "validation", "test": "test"}
ORDER = dict(seed=3, batch_size=8, augment="crop_flip", augment_pixels=2)
STOP = 9  # after three epochs of the smallest set


@pytest.fixture(autouse=True)
def _collected(request):
  """Frees what iterators with processes leave behind while none is starting.

  Python warns of semaphores that are freed while another is being made, and
  grain's iterators are cycles that only the garbage collector frees.
  """
  yield
  if request.node.get_closest_marker("slow"):
    gc.collect()


@pytest.fixture(scope="module", params=["digits", "synthetic", "tfds"])
def source(request, tiny_tfds_dir):
  """A training split of each kind."""
  name = request.param
  return data.load(
    "tfds:tiny_tfds/varying" if name == "tfds" else name,
    data_dir=tiny_tfds_dir,
    splits=SPLITS,
    image_size=7,
    synthetic=dict(
      num_train=30,
      num_valid=5,
      num_test=5,
      num_classes=3,
      shape=(4, 6, 1),
      difficulty=0.5,
    ),
  ).splits["train"]


def _gathered(source, start, stop, rows):
  """Batches put together from the whole split in memory, as on a device."""
  arrays = source.fetch(np.arange(source.num_examples))
  examples = data.train_examples(
    step=start,
    num_steps=stop - start,
    num_examples=source.num_examples,
    **ORDER,
  )
  for index, moves in zip(examples["index"], examples["moves"], strict=True):
    batch = {name: array[index[rows]] for name, array in arrays.items()}
    yield batch | {"moves": moves[rows]}


def _assert_same(batches, expected):
  for batch, other in zip(batches, expected, strict=True):
    assert batch.keys() == other.keys()
    for name in batch:
      np.testing.assert_array_equal(batch[name], other[name], name)
      assert batch[name].dtype == other[name].dtype


@pytest.mark.parametrize(
  "start, workers",
  [
    (0, 0),
    (4, 0),
    (STOP - 1, 0),
    (STOP, 0),
    pytest.param(5, 2, marks=pytest.mark.slow),
  ],
)
def test_reading_equals_gathering(source, start, workers):
  """Idea 3: grain's threads and processes bring the batches of the gather.

  From any step on, so that a resumed run sees what an uninterrupted one does.
  """
  rows = np.arange(8)
  read = data.train_batches(
    source,
    start_step=start,
    stop_step=STOP,
    rows=rows,
    workers=workers,
    **ORDER,
  )
  _assert_same(read, _gathered(source, start, STOP, rows))


def test_rows_are_a_slice_of_the_global_batch(source):
  """M3: a host's part is its rows of the global batch, in any arrangement."""
  whole = list(_gathered(source, 2, STOP, np.arange(8)))
  for rows in (np.array([1, 5, 6]), np.arange(8).reshape(2, 4)[:, 2:]):
    part = data.train_batches(
      source, start_step=2, stop_step=STOP, rows=rows, workers=0, **ORDER
    )
    expected = [
      {name: array[rows] for name, array in batch.items()} for batch in whole
    ]
    _assert_same(part, expected)


class _Recorder:
  """A source that remembers which examples were asked for."""

  def __init__(self, source):
    self._source, self.asked = source, []
    self.num_examples = source.num_examples

  def fetch(self, indices):
    self.asked += indices.tolist()
    return self._source.fetch(indices)


def test_no_host_reads_what_it_does_not_use():
  """M3: only the examples of its own rows are fetched, each once a step."""
  source = _Recorder(_digits("train"))
  rows = np.array([0, 3])
  batches = data.train_batches(
    source, start_step=0, stop_step=STOP, rows=rows, workers=0, **ORDER
  )
  assert len(list(batches)) == STOP
  examples = data.train_examples(
    step=0, num_steps=STOP, num_examples=source.num_examples, **ORDER
  )
  assert sorted(source.asked) == sorted(examples["index"][:, rows].reshape(-1))


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
  """The training split of a set of JPEG files in ImageNet's schema."""
  from tests.data import tiny_tfds

  folder = tmp_path_factory.mktemp("photographs")
  tiny_tfds.prepare_photographs(folder)
  return data.load(
    "tfds:tiny_imagenet",
    data_dir=str(folder),
    splits={"train": "train", "valid": "validation", "test": "validation"},
    image_size=24,
    synthetic={},
  ).splits["train"]


@pytest.mark.parametrize(
  "start, workers, rows",
  [
    (0, 0, [0, 1, 2, 3, 4, 5, 6, 7]),
    (5, 0, [1, 6]),
    pytest.param(5, 2, [4, 5, 6, 7], marks=pytest.mark.slow),
  ],
)
def test_random_crops_are_read(photographs, start, workers, rows):
  """Idea 3, M3: a crop depends on step and example, not on who reads it."""
  crops = ORDER | {"augment": "resized_crop"}
  examples = data.train_examples(
    step=0, num_steps=STOP, num_examples=photographs.num_examples, **crops
  )
  read = data.train_batches(
    photographs,
    start_step=start,
    stop_step=STOP,
    rows=np.array(rows),
    workers=workers,
    **crops,
  )
  expected = (
    photographs.fetch(examples["index"][i, rows], examples["crops"][i, rows])
    for i in range(start, STOP)
  )
  _assert_same(read, expected)


def test_an_example_looks_different_in_each_epoch(photographs):
  """Augmentation: another epoch sees other parts of the same photograph."""
  words = [
    data.train_examples(
      step=i,
      num_steps=1,
      num_examples=photographs.num_examples,
      **ORDER | {"augment": "resized_crop"},
    )["crops"][0, :1]
    for i in (0, 1)
  ]
  one, other = (photographs.fetch([3], part)["image"] for part in words)
  assert one.shape == (1, 24, 24, 3) and (one != other).mean() > 0.5


def test_without_augmentation_there_are_no_moves():
  """Data: nothing is drawn that nothing uses."""
  examples = data.train_examples(
    step=0, num_steps=2, num_examples=20, **ORDER | {"augment": "none"}
  )
  assert examples.keys() == {"index"}
  assert examples["index"].shape == (2, 8)


def test_examples_of_a_stretch_are_those_of_its_steps():
  """Idea 3: how a run is cut into calls changes nothing of what it sees."""
  whole = data.train_examples(step=5, num_steps=6, num_examples=20, **ORDER)
  for i in range(6):
    one = data.train_examples(step=5 + i, num_steps=1, num_examples=20, **ORDER)
    for name in whole:
      np.testing.assert_array_equal(one[name][0], whole[name][i])


def _digits(split):
  return data.load(
    "digits", data_dir="", splits=SPLITS, image_size=0, synthetic={}
  ).splits[split]


@pytest.mark.parametrize("batch_size", [1, 7, 100, 300, 512])
def test_evaluation_sees_each_example_once(batch_size):
  """G4: every example has weight one once, padding has weight zero."""
  examples = data.eval_examples(300, batch_size)
  index, weight = examples["index"], examples["weight"]
  assert index.shape == weight.shape == (-(-300 // batch_size), batch_size)
  assert set(np.unique(weight)) <= {0.0, 1.0}
  np.testing.assert_array_equal(index[weight == 1], np.arange(300))
  assert index.min() >= 0 and index.max() < 300
  # Whole batches but for the last.
  assert (weight[:-1] == 1).all()


@pytest.mark.parametrize(
  "workers", [0, pytest.param(2, marks=pytest.mark.slow)]
)
def test_eval_batches_cover_the_split(workers):
  """G4: read from the host, too, each example comes once with weight one."""
  source = _digits("valid")
  whole = source.fetch(np.arange(300))
  read = list(
    data.eval_batches(
      source, batch_size=128, rows=np.arange(128), workers=workers
    )
  )
  assert len(read) == 3
  for name in ("image", "label"):
    array = np.concatenate([batch[name] for batch in read])
    weight = np.concatenate([batch["weight"] for batch in read])
    np.testing.assert_array_equal(array[weight == 1], whole[name])
  half = list(
    data.eval_batches(source, batch_size=128, rows=np.arange(64), workers=0)
  )
  _assert_same(
    half,
    [{name: array[:64] for name, array in batch.items()} for batch in read],
  )
