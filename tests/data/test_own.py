"""Data sets of the user's own: what `own.from_splits` makes of splits."""

import gc
import pathlib
import pickle
import re

import numpy as np
import pytest

import jaxplay
from jaxplay import data
from jaxplay.data import own
from tests.data import own_sets
from tests.data.own_sets import Many, OneByOne

WHERE = "load() in 'data.py'"


def _made(splits, **kwargs):
  kwargs = {"with_test": False, "name": "data.py:load"} | kwargs
  return own.from_splits(splits, WHERE, **kwargs)


def _everything(source):
  return source.fetch(np.arange(source.num_examples))


def _refusal(splits, *parts, **kwargs):
  """The sentence that refuses splits; it contains all of `parts`."""
  with pytest.raises(jaxplay.UserError) as caught:
    _made(splits, **kwargs)
  message = str(caught.value)
  assert "\n" not in message
  for part in (WHERE, *parts):
    assert part in message, message
  return message


@pytest.fixture(autouse=True)
def _collected(request):
  """As in test_batches: what iterators with processes leave behind."""
  yield
  if request.node.get_closest_marker("slow"):
    gc.collect()


@pytest.fixture(params=["arrays", "mapped", "one by one", "many"])
def given(request, tmp_path, monkeypatch):
  """Makes a split of each kind from arrays, and whether it stays lazy."""

  def make(arrays):
    if request.param == "arrays":
      return arrays
    if request.param == "one by one":
      return OneByOne(arrays)
    if request.param == "many":
      return Many(arrays)
    monkeypatch.setattr(own, "_SMALL", 300)  # larger than the labels alone
    mapped = {}
    for name, array in arrays.items():
      file = np.memmap(
        tmp_path / f"{len(list(tmp_path.iterdir()))}", array.dtype, "w+", 0,
        array.shape,
      )  # fmt: skip
      file[:] = array
      mapped[name] = file
    return mapped

  return make


def _with_classes(splits):
  return splits | {"num_classes": 3}


def test_every_kind_gives_the_same_examples(given):
  """Data: arrays, memory maps and sources, in 32 bits, by index."""
  train, valid = own_sets.arrays(0), own_sets.arrays(1, 9)
  made = _made(
    _with_classes({"train": given(train), "valid": given(valid)}),
  )
  assert made.num_classes == 3 and made.pixel_max == 0
  assert made.example == {"inputs": ((4,), "float32"), "label": ((), "int32")}
  assert list(made.splits) == ["train", "valid"]
  for split, arrays in (("train", train), ("valid", valid)):
    source = made.splits[split]
    got = _everything(source)
    np.testing.assert_array_equal(got["inputs"], arrays["x"].astype("float32"))
    np.testing.assert_array_equal(got["label"], arrays["y"])
    assert got["inputs"].dtype == np.float32 and got["label"].dtype == np.int32
    assert source.nbytes == sum(array.nbytes for array in got.values())
    index = np.array([7, 0, 7])
    for name, array in source.fetch(index).items():
      np.testing.assert_array_equal(array, got[name][index])
    assert source.fetch(index[:0])["inputs"].shape == (0, 4)


def test_large_maps_and_sources_are_not_read_whole(given):
  """Data: what is not in memory stays where it is, and so it is pickled."""
  train = own_sets.arrays()
  split = given(train)
  made = _made(_with_classes({"train": split}))
  source = made.splits["train"]
  copied = pickle.loads(pickle.dumps(source))
  for name, array in _everything(source).items():
    np.testing.assert_array_equal(array, _everything(copied)[name])
  if isinstance(split, dict) and isinstance(split["x"], np.memmap):
    assert len(pickle.dumps(source)) < 3000
    split["x"][:] = 7.0  # The file is read when it is fetched.
    assert (_everything(source)["inputs"] == 7).all()
    assert (_everything(copied)["inputs"] == 7).all()


def test_views_of_maps_stay_maps(tmp_path):
  """Data: a part of a mapped array is pickled by the name of its file."""
  whole = np.random.default_rng(0).normal(size=(300, 4, 6))
  np.save(tmp_path / "whole.npy", whole)
  mapped = np.load(tmp_path / "whole.npy", mmap_mode="r")
  for view in (
    mapped,
    mapped[3:],
    mapped[3:][::2, :, 1:],
    mapped[:, None],
    np.asarray(mapped)[5:, ::-1],
  ):
    columns = own._Columns({"x": view})
    pickled = pickle.dumps(columns)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).arrays["x"], view)


def test_a_tenth_is_held_out(given):
  """Data: fixed and disjoint, and a function of the number alone."""
  train = own_sets.arrays()
  train["at"] = np.arange(30)
  made = _made(_with_classes({"train": given(train)}))
  at = {s: _everything(source)["at"] for s, source in made.splits.items()}
  assert sorted([*at["train"], *at["valid"]]) == list(range(30))
  assert len(at["valid"]) == 3 and made.facts["held_out"] == own.HELD_OUT
  kept, held = own.held_out(30)
  assert at["valid"].tolist() == held.tolist()
  assert at["train"].tolist() == kept.tolist()
  for split, index in (("train", kept), ("valid", held)):
    got = _everything(made.splits[split])["inputs"]
    np.testing.assert_array_equal(got, train["x"][index].astype(np.float32))


def test_the_held_out_share_never_changes():
  """Data: the same under any order of the file, numpy and version of ours."""
  assert own.held_out(20)[1].tolist() == HELD_OUT_OF_20
  for number in (2, 3, 9, 10, 11, 1000, 10**5):
    kept, held = own.held_out(number)
    assert len(held) == max(1, number // 10)
    assert len(np.union1d(kept, held)) == number == len(kept) + len(held)
  # Neither the first nor the last, nor evenly spread.
  assert 400 < own.held_out(1000)[1].mean() < 600
  assert len({*np.diff(own.held_out(1000)[1])}) > 10


HELD_OUT_OF_20 = [7, 18]


def test_images_and_names():
  """Data: x and y, images and labels, uint8 and float, by simple rules."""
  pictures = own_sets.pictures()
  gray = pictures["image"][..., 0]
  for name, array, expected, pixel_max in (
    ("image", pictures["image"], ("image", (5, 6, 3), "uint8"), 255),
    ("x", pictures["image"], ("image", (5, 6, 3), "uint8"), 255),
    ("inputs", gray, ("image", (5, 6, 1), "uint8"), 255),
    ("images", gray / 255, ("image", (5, 6, 1), "float32"), 0),
    ("x", gray / 255, ("inputs", (5, 6), "float32"), 0),
    ("x", gray[:, 0], ("inputs", (6,), "uint8"), 0),
  ):
    made = _made({"train": {name: array, "labels": own_sets.LABELS[:, None]}})
    feature, shape, dtype = expected
    assert made.example[feature] == (shape, dtype), name
    assert made.example["label"] == ((), "int32")
    assert made.pixel_max == pixel_max
    got = _everything(made.splits["train"])
    index = own.held_out(30)[0]
    np.testing.assert_array_equal(
      got[feature].reshape(len(index), -1),
      array[index].reshape(len(index), -1).astype(dtype),
    )
    np.testing.assert_array_equal(got["label"], own_sets.LABELS[index])


def test_targets_of_each_task():
  """Data: a task decides whether numbers are labels or targets."""
  x, y = own_sets.arrays()["x"], own_sets.LABELS
  made = _made({"train": {"x": x, "y": y}}, task="regression")
  assert made.example["target"] == ((), "float32") and made.num_classes == 1
  made = _made({"train": {"x": x, "label": x[:, :2]}}, task="regression")
  assert made.example["target"] == ((2,), "float32") and made.num_classes == 2
  several = x[:, :3] > 0
  made = _made({"train": {"x": x, "y": several}}, task="multi_label")
  assert made.example["label"] == ((3,), "bool") and made.num_classes == 3
  tokens = np.arange(30 * 7).reshape(30, 7) % 50
  made = _made({"train": {"tokens": tokens}}, task="next_token")
  assert made.example == {"tokens": ((7,), "int32")} and made.num_classes == 50
  # A task of the user: any features, integers are labels and floats targets.
  mine = {"left": x, "right": several, "y": y - 1}
  made = _made({"train": mine}, task="task.py:Mine")
  assert made.example == {
    "left": ((4,), "float32"),
    "right": ((3,), "bool"),
    "label": ((), "int32"),
  }
  made = _made({"train": mine | {"y": x}}, task="task.py:Mine")
  assert made.example["target"] == ((4,), "float32") and made.num_classes == 4


def test_labels_of_text_are_sorted_classes():
  """Data: and the names are in the facts."""
  names = np.array(["cat", "bee", "dog"])
  train = {"x": own_sets.arrays()["x"], "y": names[own_sets.LABELS]}
  made = _made({"train": train, "valid": {"x": np.ones((1, 4)), "y": ["dog"]}})
  assert made.facts["classes"] == ["bee", "cat", "dog"]
  got = _everything(made.splits["train"])["label"]
  assert np.array(["bee", "cat", "dog"])[got].tolist() == train["y"].tolist()
  assert _everything(made.splits["valid"])["label"] == [2]


def test_a_test_split_is_used_when_asked_for():
  """C10: it may be missing, and wrong, until it is asked for."""
  train = own_sets.arrays()
  bad = {"x": np.full((2, 4), np.nan), "y": np.array([-1, -1])}
  splits = {"train": train, "test": bad}
  assert list(_made(splits).splits) == ["train", "valid"]
  _refusal(splits, "test split", "nan", with_test=True)
  _refusal({"train": train}, "test split", "report_test", with_test=True)
  good = own_sets.arrays(2, 6)
  made = _made({"test": good, "train": train}, with_test=True)
  assert list(made.splits) == ["train", "valid", "test"]
  # A run may be resumed to evaluate it.
  without = _made({"train": train, "test": good})
  assert made.facts["sha256"] == without.facts["sha256"]
  assert made.facts["splits"]["test"]["examples"] == 6


def test_facts_tell_sets_apart(given):
  """Data: other values, types, names or order of examples are other facts."""

  def sha256(train):
    return _made(_with_classes({"train": given(train)})).facts["sha256"]

  train = own_sets.arrays()
  first = sha256(train)
  assert sha256(own_sets.arrays()) == first
  changed = own_sets.arrays()
  changed["x"][7, 1] += 1
  renamed = {"inputs": train["x"].astype(np.float16), "y": train["y"]}
  more = train | {"z": train["y"]}
  reverse = {name: array[::-1] for name, array in train.items()}
  hashes = {sha256(one) for one in (changed, renamed, more, reverse)}
  assert len(hashes | {first}) == 5


ORDER = dict(seed=3, batch_size=8, augment_pixels=2)


def test_reading_ahead_equals_gathering(given):
  """Idea 3: threads bring the batches of the device."""
  _check_reading_ahead(given, given, workers=0)


@pytest.mark.slow
@pytest.mark.parametrize("given", ["mapped"], indirect=True)
def test_processes_read_what_threads_read(given):
  """Idea 3: mapped arrays, and a source of the user, in other processes."""
  _check_reading_ahead(given, OneByOne, workers=1)


def _check_reading_ahead(train, valid, workers):
  pictures = own_sets.pictures() | {"weighting": np.linspace(0, 1, 30)}
  splits = {"train": train(pictures), "valid": valid(pictures)}
  made = _made(_with_classes(splits), augment="crop_flip")
  source = made.splits["train"]
  arrays = _everything(source)
  order_kwargs = ORDER | {"augment": "crop_flip"}
  examples = data.train_examples(
    step=2, num_steps=5, num_examples=30, **order_kwargs
  )
  batches = data.train_batches(
    source,
    start_step=2,
    stop_step=7,
    rows=np.arange(8),
    workers=workers,
    **order_kwargs,
  )
  for batch, index, moves in zip(
    batches, examples["index"], examples["moves"], strict=True
  ):
    np.testing.assert_array_equal(batch.pop("moves"), moves)
    assert batch.keys() == {"image", "label", "weighting"}
    for name, array in batch.items():
      np.testing.assert_array_equal(array, arrays[name][index])
      assert array.dtype == arrays[name].dtype
  batches = data.eval_batches(
    made.splits["valid"], batch_size=20, rows=np.arange(20), workers=workers
  )
  labels = np.concatenate([batch["label"] for batch in batches])
  assert labels[:30].tolist() == own_sets.LABELS.tolist()


X, Y = own_sets.arrays()["x"], own_sets.LABELS


def _with(name, at, value):
  """The arrays with another value."""
  arrays = {"x": X.copy(), "y": Y.copy()}
  arrays[name][at] = value
  return arrays


@pytest.mark.parametrize(
  "splits, parts",
  [
    (7, ["int"]),
    ({}, ["'train'"]),
    ({"train": {}}, ["train split", "no features"]),
    ({"train": 7}, ["train split", "int"]),
    ({"train": {"x": X, "y": Y}, "dev": {}}, ["'dev'"]),
    ({"train": {"x": X, "y": Y}, "num_classes": 2.5}, ["num_classes", "2.5"]),
    ({"train": {"x": X, "y": Y[:7]}}, ["'x': 30", "'y': 7"]),
    ({"train": {"x": X[:0], "y": Y[:0]}}, ["train split", "no examples"]),
    ({"train": {"x": X, "y": 3}}, ["'y'", "single"]),
    ({"train": {"x": [[1], [2, 3]], "y": [0, 1]}}, ["'x'", "no array"]),
    ({"train": {"x": X, "index": Y}}, ["'index'"]),
    ({"train": {"x": X, 3: Y}}, ["3"]),
    ({"train": {"x": X.astype(object), "y": Y}}, ["'x'", "object"]),
    ({"train": {"x": np.ma.masked_less(X, 0), "y": Y}}, ["'x'", "masked"]),
    ({"train": {"x": X.astype(complex), "y": Y}}, ["'x'", "complex128"]),
    ({"train": {"x": X.astype(str), "y": Y}}, ["'x'", "U"]),
    ({"train": {"x": X, "y": X[:, 0]}}, ["'y'", "float64", "regression"]),
    ({"train": {"x": X, "y": X > 0}}, ["'y'", "(4,)", "multi_label"]),
    ({"train": {"x": X, "z": Y}}, ["['inputs', 'z']", "'label'"]),
    ({"train": {"y": Y}}, ["'image' or 'inputs'"]),
    ({"train": _with("x", (7, 2), np.nan)}, ["'x'", "example 7", "nan"]),
    ({"train": _with("x", (8, 2), -np.inf)}, ["'x'", "example 8", "-inf"]),
    ({"train": _with("x", (9, 2), 1e300)}, ["'x'", "example 9", "1e+300"]),
    ({"train": _with("y", 7, -1)}, ["'y'", "example 7", "-1"]),
    ({"train": _with("y", 7, 2**40)}, ["'y'", "example 7", f"{2**40}"]),
    ({"train": _with("y", 7, 99)}, ["99", "num_classes"]),
    (
      {"train": {"x": X, "y": Y}, "num_classes": 2},
      ["'y'", "example 2", "is 2", "[0, 2)"],
    ),
    (
      {"train": {"x": X, "y": Y}, "valid": {"x": X, "y": Y + 1}},
      ["'y'", "example 2", "valid split", "is 3", "[0, 3)"],
    ),
    (
      {"train": {"x": X, "y": Y // 2 * 2}, "valid": {"x": X, "y": Y}},
      ["example 1", "valid split", "class 1"],
    ),
    (
      {"train": {"x": X, "y": Y}, "valid": {"x": X[:0], "y": Y[:0]}},
      ["valid split", "no examples"],
    ),
    (
      {"train": {"x": X, "y": Y}, "valid": {"y": Y}},
      ["valid split", "lacks", "'inputs'"],
    ),
    (
      {"train": {"x": X, "y": Y}, "valid": {"x": X, "y": Y, "z": Y}},
      ["valid split", "'z'"],
    ),
    (
      {"train": {"x": X, "y": Y}, "valid": {"x": X[:, :3], "y": Y}},
      ["valid split", "'inputs'", "(3,)", "(4,)"],
    ),
    (
      {"train": {"x": X, "y": Y}, "valid": {"x": X > 0, "y": Y}},
      ["valid split", "'inputs'", "bool", "float32"],
    ),
    (
      {
        "train": {"x": X, "y": Y.astype(str)},
        "valid": {"x": X[:2], "y": ["2", "7"]},
      },
      ["valid split", "example 1", "'7'"],
    ),
    ({"train": {"x": X[:1], "y": Y[:1]}}, ["train split", "1 example"]),
    (
      {"train": {"image": np.zeros((30, 4, 4), np.uint16), "y": Y}},
      ["'image'", "uint16"],
    ),
    ({"train": {"image": X, "y": Y}}, ["'image'", "(4,)"]),
  ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(splits, parts):
  """Bad input: a sentence with the split, the feature and the example."""
  _refusal(splits, *parts)


@pytest.mark.parametrize(
  "train, task, parts",
  [
    ({"x": X, "y": Y}, "multi_label", ["'y'", "()"]),
    ({"x": X, "y": (X > 0) * 2}, "multi_label", ["'y'", "is 2", "0 or 1"]),
    ({"x": X, "y": X}, "multi_label", ["'y'", "float64"]),
    ({"x": X, "y": Y.astype(str)}, "regression", ["'y'", "U"]),
    ({"x": X, "y": X[:, None]}, "regression", ["'y'", "(1, 4)"]),
    ({"x": X, "y": Y}, "next_token", ["'tokens'"]),
    ({"tokens": X}, "next_token", ["'tokens'", "float64"]),
    ({"tokens": Y[:, None] - 1}, "next_token", ["'tokens'", "-1"]),
  ],
)
def test_what_a_task_cannot_use_is_refused(train, task, parts):
  """Bad input: a task says what it requires."""
  _refusal({"train": train}, *parts, task=task)


def test_only_bytes_of_images_are_augmented():
  """Bad input: rows of numbers and float images are not moved."""
  for train, part in (
    ({"x": X, "y": Y}, "inputs"),
    ({"image": np.zeros((30, 4, 4)), "y": Y}, "float32"),
  ):
    _refusal({"train": train}, "'shift'", part, augment="shift")


class _Broken(OneByOne):
  """A source of the user with a mistake in example 5."""

  def __init__(self, what):
    super().__init__(own_sets.arrays())
    self.what = what

  def __getitem__(self, i):
    record = super().__getitem__(i)
    if i == 5:
      record = self.what(record)
    return record


def _raises(record):
  raise KeyError("no such record")


@pytest.mark.parametrize(
  "what, parts",
  [
    (_raises, ["KeyError", "no such record", "test_own.py", "line"]),
    (lambda r: 3, ["int", "dict"]),
    (lambda r: {"x": r["x"]}, ["['x']", "['x', 'y']"]),
    (lambda r: r | {"x": r["x"][:2]}, ["'x'", "(2,)", "(4,)"]),
    (lambda r: r | {"x": r["x"] * np.nan}, ["'x'", "nan"]),
    (lambda r: r | {"x": r["x"].reshape(2, 2)}, ["'x'", "(2, 2)", "(4,)"]),
    (lambda r: r | {"y": "one"}, ["'y'", "U3"]),
    (lambda r: r | {"y": 3}, ["'y'", "is 3", "[0, 3)"]),
    (lambda r: r | {"y": -1}, ["'y'", "is -1"]),
    (lambda r: r | {"x": None}, ["'x'"]),
  ],
)
def test_sources_are_checked_whenever_they_are_read(what, parts, monkeypatch):
  """Bad input: before a run begins, of a sample; else by whoever reads."""
  splits = _with_classes({"train": _Broken(what), "valid": own_sets.arrays(1)})
  message = _refusal(splits, "train split", "example 5", *parts)
  monkeypatch.setattr(own.dataset_lib, "SAMPLE", 3)
  monkeypatch.setattr(
    own.dataset_lib, "spread", lambda number: np.array([0, 9, 20])
  )
  source = _made(splits).splits["train"]
  source.fetch(np.array([4, 6]))
  with pytest.raises(jaxplay.UserError) as caught:
    source.fetch(np.array([4, 5]))
  for part in ("example 5", *parts[:1]):
    assert part in str(caught.value)
  assert "example 5" in message


def test_labels_of_large_maps_are_all_checked(given):
  """Bad input: labels are small, so they are read where the rest is not."""
  train = own_sets.arrays()
  train["y"][7] = -1
  splits = {"train": given(train), "valid": own_sets.arrays(1, 3)}
  _refusal(_with_classes(splits), "'y'", "example 7", "-1")


def test_sources_of_unknown_classes():
  """Bad input: labels that are not all read need a number of classes."""
  _refusal({"train": OneByOne(own_sets.arrays())}, "num_classes", "'label'")


_PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "data.md"
_BLOCKS = re.findall(r"```python\n(.*?)```", _PAGE.read_text(), re.S)


@pytest.mark.parametrize(
  "block, task",
  [*zip(_BLOCKS, ("regression", "classification"), strict=True)],
)
def test_the_functions_of_the_page(block, task):
  """Docs: what docs/data.md shows can be trained on."""
  names = {}
  exec(block, names)
  made = _made(names["load"](), task=task)
  for source in made.splits.values():
    assert source.fetch(np.arange(5))["inputs"].shape[0] == 5
