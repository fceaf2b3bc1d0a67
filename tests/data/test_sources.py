"""Where examples come from: digits, made-up images, TFDS records."""

import shutil
import subprocess
import sys

import numpy as np
import pytest

import jaxplay
from jaxplay import data
from jaxplay.data import ranges
from tests.data import tiny_tfds

SPLITS = {"train": "train", "valid": "validation", "test": "test"}
SYNTHETIC = dict(
  num_train=60,
  num_valid=20,
  num_test=10,
  num_classes=4,
  shape=(3, 5, 2),
  difficulty=1.0,
)


def _load(
  name,
  *,
  data_dir="",
  image_size=0,
  splits=SPLITS,
  with_test=True,
  **synthetic,
):
  return data.load(
    name,
    data_dir=data_dir,
    splits=splits,
    image_size=image_size,
    with_test=with_test,
    synthetic=SYNTHETIC | synthetic,
  )


def _everything(source):
  return source.fetch(np.arange(source.num_examples))


@pytest.fixture(scope="module")
def digits():
  return _load("digits")


def test_digits_sizes(digits):
  """Data: 1,797 digits of 8x8 pixels from 0 to 16, in three splits."""
  sizes = {name: s.num_examples for name, s in digits.splits.items()}
  assert sizes == {"train": 1197, "valid": 300, "test": 300}
  assert digits.num_classes == 10 and digits.example["image"][0] == (8, 8, 1)
  for source in digits.splits.values():
    examples = _everything(source)
    assert examples["image"].shape == (source.num_examples, 8, 8, 1)
    assert examples["image"].dtype == np.uint8
    assert examples["label"].dtype == np.int32
    assert examples["image"].min() == 0
    assert examples["image"].max() == digits.pixel_max == 16


def test_digits_are_stratified(digits):
  """Data: each class has its share of each split, to the example."""
  counts = {
    name: np.bincount(_everything(source)["label"], minlength=10)
    for name, source in digits.splits.items()
  }
  share = sum(counts.values()) / 1797
  for name, source in digits.splits.items():
    expected = share * source.num_examples
    assert np.abs(counts[name] - expected).max() < 1, name


def test_digits_do_not_overlap(digits):
  """C10: no image of one split is in another."""
  images = {
    name: {image.tobytes() for image in _everything(source)["image"]}
    for name, source in digits.splits.items()
  }
  assert not images["train"] & images["valid"]
  assert not images["train"] & images["test"]
  assert not images["valid"] & images["test"]


@pytest.mark.parametrize("name", ["digits", "synthetic"])
def test_fetch_is_a_function_of_the_index(name):
  """Idea 3: an example is the same in whatever company it is fetched."""
  source = _load(name).splits["valid"]
  whole = _everything(source)
  index = np.array([7, 0, 19, 7])
  part = source.fetch(index)
  for key in ("image", "label"):
    np.testing.assert_array_equal(part[key], whole[key][index])
  assert source.fetch(index[:0])["image"].shape == (
    0,
    *whole["image"].shape[1:],
  )


def test_nbytes_is_the_size_in_memory():
  """Data: what decides whether a split lives on the device is its size."""
  for name in ("digits", "synthetic"):
    source = _load(name).splits["test"]
    size = sum(array.nbytes for array in _everything(source).values())
    assert source.nbytes == size


def test_synthetic_shapes():
  """Data: synthetic has any shape, size and number of classes."""
  dataset = _load("synthetic", num_train=300, num_classes=7, shape=(2, 9, 1))
  examples = _everything(dataset.splits["train"])
  assert dataset.num_classes == 7 and dataset.example["image"][0] == (2, 9, 1)
  assert examples["image"].shape == (300, 2, 9, 1)
  assert examples["image"].dtype == np.uint8
  assert np.unique(examples["label"]).tolist() == list(range(7))


def test_synthetic_splits_differ():
  """Data: the splits of a synthetic set are other examples, not the same."""
  images = {
    image.tobytes()
    for source in _load("synthetic").splits.values()
    for image in _everything(source)["image"]
  }
  assert len(images) == 60 + 20 + 10


def test_synthetic_without_noise_is_separable():
  """Data: at difficulty 0 each class is one image; at 1 no two are equal."""
  for difficulty, images_per_class in [(0.0, 1), (1.0, None)]:
    dataset = _load("synthetic", difficulty=difficulty)
    patterns = {}
    for source in dataset.splits.values():
      examples = _everything(source)
      for image, label in zip(*examples.values(), strict=True):
        patterns.setdefault(int(label), []).append(image.tobytes())
    assert len(patterns) == 4
    for images in patterns.values():
      assert len(set(images)) == (images_per_class or len(images))
    together = [image for images in patterns.values() for image in set(images)]
    assert len(set(together)) == len(together)


def test_synthetic_gets_harder():
  """Data: with more difficulty images lie further from their class."""

  def spread(difficulty):
    examples = _everything(
      _load("synthetic", difficulty=difficulty).splits["train"]
    )
    images = examples["image"].astype(float)
    own = [
      images[examples["label"] == k].std(0).mean()
      for k in np.unique(examples["label"])
    ]
    return np.mean(own) / images.std(0).mean()

  assert spread(0.0) == 0.0
  assert spread(0.1) < spread(1.0) < spread(10.0)


@pytest.mark.parametrize("kind", ["fixed", "gray"])
@pytest.mark.parametrize("split", SPLITS)
def test_tfds_holds_what_was_written(tiny_tfds_dir, kind, split):
  """Data: every record comes back once, image with its label."""
  dataset = _load(f"tfds:tiny_tfds/{kind}", data_dir=tiny_tfds_dir)
  assert dataset.num_classes == tiny_tfds.NUM_CLASSES
  assert dataset.example["image"][0] == tiny_tfds.SHAPES[kind]
  read = _everything(dataset.splits[split])
  assert read["image"].dtype == np.uint8 and read["label"].dtype == np.int32
  images, labels = tiny_tfds.pictures(kind, SPLITS[split])
  written = {
    image.tobytes(): k for image, k in zip(images, labels, strict=True)
  }
  got = [image.tobytes() for image in read["image"]]
  assert sorted(got) == sorted(written)
  assert [written[image] for image in got] == read["label"].tolist()


def test_tfds_decodes_what_is_used():
  """G2: features that are not trained on are dropped before decoding.

  The set's `depth` is no picture, so that decoding it would fail; that all the
  other tests here can read the set shows the property. This one shows that it
  would fail.
  """
  import tensorflow_datasets as tfds

  depth = tfds.features.FeaturesDict({"depth": tfds.features.Image()})
  serialized = depth.serialize_example({"depth": b"no picture at all"})
  with pytest.raises(Exception, match="cannot identify image"):
    depth.deserialize_example_np(serialized)


def test_tfds_fetches_by_index(tiny_tfds_dir):
  """Idea 3: a record is a function of its index, however often it is asked."""
  source = _load("tfds:tiny_tfds/fixed", data_dir=tiny_tfds_dir).splits["train"]
  whole = _everything(source)
  index = np.array([22, 3, 3, 0])
  part = source.fetch(index)
  for key in ("image", "label"):
    np.testing.assert_array_equal(part[key], whole[key][index])
  size = sum(array.nbytes for array in whole.values())
  assert source.nbytes == size


@pytest.mark.parametrize("kind", ["fixed", "varying", "gray"])
def test_tfds_resizes(tiny_tfds_dir, kind):
  """Data: image_size gives the middle square, averaged over its areas."""
  name = f"tfds:tiny_tfds/{kind}"
  dataset = _load(name, data_dir=tiny_tfds_dir, image_size=2)
  channels = tiny_tfds.SHAPES[kind][-1]
  assert dataset.example["image"][0] == (2, 2, channels)
  read = _everything(dataset.splits["train"])["image"]
  assert read.shape == (23, 2, 2, channels) and read.dtype == np.uint8
  expected = []
  for image in tiny_tfds.pictures(kind, "train")[0]:
    height, width = image.shape[:2]
    side = min(height, width)
    if side % 2:  # Areas of whole pixels only: their mean is easy to tell.
      continue
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side].astype(float)
    half = side // 2
    expected.append(square.reshape(2, half, 2, half, channels).mean((1, 3)))
  assert len(expected) > 5
  for image in expected:  # In the shuffled order of the file.
    assert np.abs(read - image).max((1, 2, 3)).min() <= 1


def test_tfds_split_strings(tiny_tfds_dir):
  """Data: TFDS's split strings cut and join splits without overlap."""
  name = "tfds:tiny_tfds/fixed"
  cut = {
    "train": "train[:80%]",
    "valid": "train[80%:]",
    "test": "test+validation",
  }
  parts = _load(name, data_dir=tiny_tfds_dir, splits=cut).splits
  whole = _load(name, data_dir=tiny_tfds_dir).splits["train"]
  images = [
    image.tobytes()
    for split in ("train", "valid")
    for image in _everything(parts[split])["image"]
  ]
  assert len(set(images)) == 23
  assert images == [image.tobytes() for image in _everything(whole)["image"]]
  assert parts["test"].num_examples == 6 + 9


def _refusal(*args, **kwargs):
  with pytest.raises(jaxplay.UserError) as caught:
    _load(*args, **kwargs)
  message = str(caught.value)
  assert "\n" not in message.strip()
  return message


@pytest.mark.parametrize(
  "split", ["nope", "train[", "", "validation[5]", "train[5:5]", "train[9:2]"]
)
def test_tfds_bad_split(tiny_tfds_dir, split):
  """Errors: a split that is none names the key and the splits that are."""
  message = _refusal(
    "tfds:tiny_tfds/fixed",
    data_dir=tiny_tfds_dir,
    splits=SPLITS | {"valid": split},
  )
  assert f"config.dataset.valid_split={split!r}" in message
  assert "['test', 'train', 'validation']" in message


@pytest.mark.parametrize("name", ["mnist", "tiny_tfds/fixed"])
def test_tfds_unprepared(tmp_path, name):
  """Errors: a set that is not there says where it was looked for, and how."""
  message = _refusal(f"tfds:{name}", data_dir=str(tmp_path))
  assert str(tmp_path) in message
  assert f"tfds.builder({name!r}" in message and "array_record" in message


def test_tfds_misspelt_name(tmp_path):
  """Errors: an unknown set is told the nearest name that TFDS knows."""
  assert "'mnist'" in _refusal("tfds:mnsit", data_dir=str(tmp_path))


@pytest.mark.parametrize(
  "name", ["", "No Such!", "../up", "mnist/nope", "mnist:9.9.9", "a/b/c/d"]
)
def test_tfds_impossible_name(tmp_path, name):
  """Errors: whatever is wrong with a name, it is said in a sentence."""
  assert repr(name) in _refusal(f"tfds:{name}", data_dir=str(tmp_path))


def test_tfds_unusable_sets(tiny_tfds_dir):
  """Errors: sets that cannot be trained on say why, and what to do."""
  name = "tfds:tiny_tfds"
  message = _refusal(f"{name}/varying", data_dir=tiny_tfds_dir)
  assert "config.dataset.image_size" in message
  message = _refusal(f"{name}/unlabelled", data_dir=tiny_tfds_dir)
  assert "ClassLabel" in message and "image" in message
  message = _refusal(f"{name}/deep", data_dir=tiny_tfds_dir)
  assert "uint16" in message and "uint8" in message


def test_hidden_labels_are_refused_where_they_are_used(tiny_tfds_dir):
  """Bad input: -1 is no class: not the last one, and no error rate of 1.

  Before a run begins; and a test split that is not evaluated may be hidden.
  """
  name = "tfds:tiny_tfds/hidden"
  message = _refusal(name, data_dir=tiny_tfds_dir)
  assert f"the test split of dataset {name!r}" in message
  assert "6 labels" in message and "the 6 that" in message
  assert "[0, 5)" in message and "[-1, -1]" in message
  assert "config.dataset.test_split" in message
  dataset = _load(name, data_dir=tiny_tfds_dir, with_test=False)
  with pytest.raises(jaxplay.UserError) as caught:
    _everything(dataset.splits["test"])
  assert str(caught.value) == message
  # As a validation split it is evaluated in any case.
  for split in ("train", "valid"):
    message = _refusal(
      name,
      data_dir=tiny_tfds_dir,
      splits=SPLITS | {split: "test"},
      with_test=False,
    )
    assert f"the {split} split" in message


def test_unknown_labels_are_refused_whenever_they_are_read(
  tiny_tfds_dir, monkeypatch
):
  """Bad input: in a set too large to be looked through, by whoever reads them.

  On the device, or from threads and processes that read ahead.
  """
  name = "tfds:tiny_tfds/partial"
  assert "6 labels" in _refusal(name, data_dir=tiny_tfds_dir, with_test=False)
  monkeypatch.setattr(ranges, "check", lambda *args, **kwargs: None)
  source = _load(name, data_dir=tiny_tfds_dir).splits["train"]
  monkeypatch.undo()
  labels = source.labels.deserialize_example_np
  bad = [labels(record)["label"] < 0 for record in source.source]
  with pytest.raises(jaxplay.UserError, match="has 6 labels .* the 23 that"):
    _everything(source)
  first_bad = bad.index(True)
  for workers in (0, 1):
    batches = data.eval_batches(
      source, batch_size=1, rows=np.arange(1), workers=workers
    )
    for _ in range(first_bad):
      next(batches)
    with pytest.raises(Exception, match="train split .* 1 labels") as caught:
      next(batches)
    assert isinstance(caught.value, jaxplay.UserError), workers


def test_two_sets_are_told_apart(tiny_tfds_dir):
  """Data: the facts are of what is in the splits, and of nothing else."""
  facts = [
    _load(name, data_dir=tiny_tfds_dir).facts
    for name in ("tfds:tiny_tfds/fixed", "tfds:tiny_tfds/gray", "digits")
  ]
  assert len({one["sha256"] for one in facts}) == len(facts)
  again = _load("tfds:tiny_tfds/fixed", data_dir=tiny_tfds_dir).facts
  assert again == facts[0]
  sizes = {split: of["examples"] for split, of in again["splits"].items()}
  assert sizes == {"train": 23, "valid": 9, "test": 6}
  other = _load(
    "tfds:tiny_tfds/fixed",
    data_dir=tiny_tfds_dir,
    splits=SPLITS | {"train": "train[:22]"},
  ).facts
  assert other["sha256"] != again["sha256"]
  assert other["splits"]["valid"] == again["splits"]["valid"]
  for key, value in (("difficulty", 2.0), ("num_valid", 21)):
    changed = _load("synthetic", **{key: value}).facts
    assert changed != _load("synthetic").facts


def test_tfds_of_another_format(tiny_tfds_dir, tmp_path):
  """Errors: records that allow no random access are refused."""
  folder = tmp_path / "tiny_tfds" / "gray" / "1.0.0"
  shutil.copytree(f"{tiny_tfds_dir}/tiny_tfds/gray/1.0.0", folder)
  info = folder / "dataset_info.json"
  info.write_text(info.read_text().replace("array_record", "tfrecord"))
  message = _refusal("tfds:tiny_tfds/gray", data_dir=str(tmp_path))
  assert "array_record" in message


def test_unknown_name():
  """Errors: a name of no kind is told the kinds there are."""
  message = _refusal("digit")
  assert "'digit'" in message and "'digits'" in message


_FROM_FILES = """
import sys
import numpy as np
from jaxplay import data
splits = {"train": "train", "valid": "validation", "test": "test"}
dataset = data.load(
  "tfds:tiny_tfds/fixed", data_dir=sys.argv[1], splits=splits, image_size=0,
  synthetic={}
)
fetched = dataset.splits["train"].fetch(np.arange(23))
assert "tensorflow" not in sys.modules
assert not any(name.startswith("tests") for name in sys.modules)
print(int(fetched["image"].sum()), *fetched["label"])
"""


def test_tfds_without_its_builder(tiny_tfds_dir):
  """Data: a prepared set needs neither its builder's code nor TensorFlow."""
  done = subprocess.run(
    [sys.executable, "-c", _FROM_FILES, tiny_tfds_dir],
    capture_output=True,
    text=True,
  )
  assert done.returncode == 0, done.stderr
  source = _load("tfds:tiny_tfds/fixed", data_dir=tiny_tfds_dir).splits["train"]
  read = _everything(source)
  total, *labels = map(int, done.stdout.split())
  assert total == read["image"].sum() and labels == read["label"].tolist()
