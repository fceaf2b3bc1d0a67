"""Data sets in files of the user: arrays, tables, folders of images."""

import csv
import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from PIL import Image

import jaxplay
from jaxplay import data
from jaxplay.data import images, own
from tests.data import own_sets

LABELS = own_sets.LABELS


def _load(name, folder="", **kwargs):
  kind, _, path = name.partition(":")
  return data.load(
    f"{kind}:{os.path.join(folder, path)}",
    **dict(
      data_dir="",
      splits={},
      image_size=0,
      synthetic={},
      with_test=False,
    )
    | kwargs,
  )


def _everything(source):
  return source.fetch(np.arange(source.num_examples))


def _refusal(name, folder, *parts, **kwargs):
  """The sentence that refuses a set; it contains all of `parts`."""
  with pytest.raises(jaxplay.UserError) as caught:
    _everything(_load(name, folder, **kwargs).splits["train"])
  message = str(caught.value)
  assert "\n" not in message
  if folder:
    message = message.replace(f"{folder}/", "")
  for part in parts:
    assert part in message, message
  return message


def _same(made, split, arrays):
  got = _everything(made.splits[split])
  assert got.keys() == arrays.keys()
  for name, array in arrays.items():
    np.testing.assert_array_equal(got[name], np.asarray(array), name)


def _three():
  """Three splits of inputs and labels, as a batch holds them."""
  splits = {}
  for i, (split, number) in enumerate(
    {"train": 30, "valid": 6, "test": 9}.items()
  ):
    arrays = own_sets.arrays(i, number)
    splits[split] = {
      "inputs": arrays["x"].astype(np.float32),
      "label": arrays["y"].astype(np.int32),
    }
  return splits


def _flat(splits, form):
  """The arrays of all splits, named by a form such as "{split}_{feature}"."""
  return {
    form.format(split=split, feature=feature): array
    for split, arrays in splits.items()
    for feature, array in arrays.items()
  }


# Arrays.


@pytest.mark.parametrize("form", ["{split}_{feature}", "{feature}_{split}"])
@pytest.mark.parametrize("kind", ["file", "compressed", "mapped"])
def test_arrays_by_name_of_the_split(form, kind, tmp_path):
  """Data: in an .npz file, or in .npy files that are mapped."""
  splits = _three()
  arrays = _flat(splits, form)
  if kind == "mapped":
    (tmp_path / "set.npz").mkdir()
    for name, array in arrays.items():
      np.save(tmp_path / "set.npz" / f"{name}.npy", array)
  else:
    save = np.savez if kind == "file" else np.savez_compressed
    save(tmp_path / "set.npz", **arrays)
  made = _load("npz:set.npz", tmp_path, with_test=True)
  assert list(made.splits) == ["train", "valid", "test"]
  for split in splits:
    _same(made, split, splits[split])
  assert made.facts["name"] == f"npz:{tmp_path}/set.npz"


def test_arrays_as_keras_names_them(tmp_path):
  """Data: x_train, y_train, x_test and y_test; a tenth is held out."""
  pictures = own_sets.pictures()
  np.savez(
    tmp_path / "mnist.npz",
    x_train=pictures["image"][..., 0],
    y_train=pictures["label"].astype(np.uint8),
    x_test=pictures["image"][:6, ..., 0],
    y_test=pictures["label"][:6].astype(np.uint8),
  )
  made = _load("npz:mnist.npz", tmp_path, with_test=True)
  assert made.example == {"image": ((5, 6, 1), "uint8"), "label": ((), "int32")}
  kept, held = own.held_out(30)
  for split, index in (("train", kept), ("valid", held), ("test", range(6))):
    index = np.array(index)
    arrays = {
      "image": pictures["image"][index][..., :1],
      "label": pictures["label"][index],
    }
    _same(made, split, arrays)


def test_arrays_of_one_split_and_a_file_for_each(tmp_path):
  """Data: without a split in their names, or with a file for each split."""
  splits = _three()
  np.savez(tmp_path / "one.npz", **splits["train"])
  made = _load("npz:one.npz", tmp_path)
  assert made.facts["held_out"] == own.HELD_OUT
  for i, split in enumerate(("train", "valid")):
    index = own.held_out(30)[i]
    _same(made, split, {n: a[index] for n, a in splits["train"].items()})
  (tmp_path / "three").mkdir()
  for split, name in (("train", "train"), ("valid", "validation")):
    np.savez(tmp_path / "three" / f"{name}.npz", **splits[split])
  made = _load("npz:three", tmp_path)
  for split in ("train", "valid"):
    _same(made, split, splits[split])


def test_paths_are_relative_to_the_current_folder(tmp_path, monkeypatch):
  """Data: `config.load` makes those of a config file absolute before."""
  np.savez(tmp_path / "one.npz", **_three()["train"])
  monkeypatch.chdir(tmp_path)
  here = _load("npz:one.npz")
  monkeypatch.chdir("/")
  there = _load("npz:one.npz", tmp_path)
  assert here.facts["sha256"] == there.facts["sha256"]
  _refusal("npz:one.npz", "", "'one.npz'")


class _Ran:
  """An object whose unpickling would write a file."""

  def __init__(self, path):
    self.path = path

  def __reduce__(self):
    return (open, (str(self.path), "w"))


@pytest.mark.parametrize("mapped", [False, True])
def test_pickles_are_never_loaded(tmp_path, mapped):
  """Bad input: an array of objects could run any program."""
  evil = np.array([_Ran(tmp_path / "ran")] * 3, object)
  if mapped:
    (tmp_path / "set").mkdir()
    np.save(tmp_path / "set" / "x.npy", evil, allow_pickle=True)
  else:
    np.savez(tmp_path / "set", x=evil, y=np.arange(3), allow_pickle=True)
  name = "npz:set" if mapped else "npz:set.npz"
  _refusal(name, tmp_path, "'x'", name, "objects")
  (tmp_path / "bare.npz").write_bytes(pickle.dumps(_Ran(tmp_path / "ran")))
  _refusal("npz:bare.npz", tmp_path, "bare.npz")
  assert not (tmp_path / "ran").exists()


def _npy(header):
  file = io.BytesIO()
  np.lib.format.write_array_header_1_0(file, header)
  return file.getvalue()


def _archive(path, name, content):
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr(name, content)


def test_archives_that_claim_too_much(tmp_path, monkeypatch):
  """Bad input: few bytes that are, or claim to be, more than the memory."""
  huge = {"descr": "<f8", "fortran_order": False, "shape": (2**40, 2**10)}
  _archive(tmp_path / "claim.npz", "x.npy", _npy(huge))
  _refusal("npz:claim.npz", tmp_path, "'x'", f"{2**53:,}")
  np.savez_compressed(tmp_path / "zeros.npz", x=np.zeros(10**6))
  assert (tmp_path / "zeros.npz").stat().st_size < 10**4
  monkeypatch.setattr(os, "sysconf", lambda name: 1000)
  _refusal("npz:zeros.npz", tmp_path, "zeros.npz", "8,000,000", "1,000,000")
  monkeypatch.undo()
  long = _npy({"descr": [(f"f{i}", "<f8") for i in range(500)],
               "fortran_order": False, "shape": (1,)})  # fmt: skip
  _archive(tmp_path / "long.npz", "x.npy", long + bytes(4000))
  _refusal("npz:long.npz", tmp_path, "long.npz")


def test_damaged_archives(tmp_path):
  """Bad input: whatever is wrong with a file, it is a sentence."""
  np.savez(tmp_path / "whole.npz", **_three()["train"])
  content = (tmp_path / "whole.npz").read_bytes()
  flipped = bytearray(content)
  flipped[300] ^= 1
  for i, damaged in enumerate(
    (b"", b"no archive", content[:-30], content[:200], bytes(flipped))
  ):
    (tmp_path / f"{i}.npz").write_bytes(damaged)
    _refusal(f"npz:{i}.npz", tmp_path, f"{i}.npz")
  _archive(tmp_path / "text.npz", "x.npy", b"no array")
  _refusal("npz:text.npz", tmp_path, "text.npz")
  (tmp_path / "maps").mkdir()
  np.save(tmp_path / "maps" / "x.npy", np.zeros(1000))
  content = (tmp_path / "maps" / "x.npy").read_bytes()
  for damaged in (b"no array", content[:-10], content[:20], b""):
    (tmp_path / "maps" / "x.npy").write_bytes(damaged)
    _refusal("npz:maps", tmp_path, "x.npy")


def test_names_of_arrays_that_are_not_clear(tmp_path):
  """Bad input: arrays of no split beside others, and features twice."""
  arrays = _flat(_three(), "{split}_{feature}")
  for extra in ("mean", "dev_inputs", "val_inputs"):
    np.savez(tmp_path / "set.npz", **arrays, **{extra: np.zeros(3)})
    _refusal("npz:set.npz", tmp_path, repr(extra))
  (tmp_path / "set").mkdir()
  for name in ("train.npz", "more.npz"):
    np.savez(tmp_path / "set" / name, **_three()["train"])
  _refusal("npz:set", tmp_path, "more.npz")


# Tables.

ROWS = 40


def _columns(seed=0):
  rng = np.random.default_rng(seed)
  return {
    "height": rng.normal(size=ROWS),
    "name": [f"n{i}, Esq." for i in range(ROWS)],
    "width": rng.integers(0, 100, ROWS),
    "kind": [("cat", "bee", "dog")[i % 3] for i in range(ROWS)],
    "grade": [i % 4 for i in range(ROWS)],
    "good": [i % 2 for i in range(ROWS)],
  }


def _write(path, columns):
  if path.suffix == ".parquet":
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return
  with open(path, "w", newline="") as file:
    writer = csv.writer(file)
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))


@pytest.fixture(params=["csv", "parquet"])
def kind(request):
  if request.param == "parquet":
    pytest.importorskip("pyarrow")
  return request.param


def test_tables_are_columns(kind, tmp_path):
  """Data: inputs and targets are columns, by the task."""
  columns = _columns()
  _write(tmp_path / f"t.{kind}", columns)
  name, index = f"{kind}:t.{kind}", own.held_out(ROWS)[0]
  used = ("width", "height")
  inputs = np.stack([columns[n] for n in used], 1).astype(np.float32)

  def load(*targets, **kwargs):
    made = _load(name, tmp_path, inputs=used, targets=targets, **kwargs)
    got = _everything(made.splits["train"])
    np.testing.assert_array_equal(got.pop("inputs"), inputs[index])
    assert made.facts["targets"] == list(targets)
    ((feature, array),) = got.items()
    return made, feature, array

  made, feature, array = load("kind")
  assert made.facts["classes"] == ["bee", "cat", "dog"] and feature == "label"
  names = np.array(made.facts["classes"])[array]
  assert names.tolist() == np.array(columns["kind"])[index].tolist()
  made, feature, array = load("grade")
  assert made.num_classes == 4 and feature == "label"
  assert array.tolist() == np.array(columns["grade"])[index].tolist()
  made, feature, array = load("grade", task="regression")
  assert feature == "target" and array.dtype == np.float32
  assert array.tolist() == np.array(columns["grade"])[index].tolist()
  made, feature, array = load("grade", "good", task="regression")
  assert made.example["target"] == ((2,), "float32") and made.num_classes == 2
  made, feature, array = load("good", "good", task="multi_label")
  assert made.example["label"] == ((2,), "int32") and made.num_classes == 2
  # A task of the user: by what is in the columns.
  assert load("kind", task="t.py:T")[1] == "label"
  assert load("grade", task="t.py:T")[1] == "label"
  assert load("height", task="t.py:T")[1] == "target"


def test_tables_use_all_other_numbers(kind, tmp_path):
  """Data: in the order of the file, by the first row; splits are files."""
  (tmp_path / "t").mkdir()
  for i, split in enumerate(("train", "valid", "test")):
    _write(tmp_path / "t" / f"{split}.{kind}", _columns(i))
  made = _load(f"{kind}:t", tmp_path, targets=("kind",), with_test=True)
  assert made.facts["inputs"] == ["height", "width", "grade", "good"]
  for i, split in enumerate(("train", "valid", "test")):
    columns = _columns(i)
    expected = np.stack([columns[n] for n in made.facts["inputs"]], 1)
    got = _everything(made.splits[split])["inputs"]
    np.testing.assert_array_equal(got, expected.astype(np.float32))


def test_standardized_by_the_training_split(kind, tmp_path):
  """Data: means and deviations are recorded; the held-out share has no part."""
  columns = _columns()
  kept, held = own.held_out(ROWS)
  columns["height"][held] += 1e6
  _write(tmp_path / f"t.{kind}", columns)
  made = _load(
    f"{kind}:t.{kind}",
    tmp_path,
    inputs=("height", "width"),
    targets=("good",),
    standardize=True,
  )
  train = _everything(made.splits["train"])["inputs"]
  np.testing.assert_allclose(train.mean(0), 0, atol=1e-6)
  np.testing.assert_allclose(train.std(0), 1, rtol=1e-5)
  facts = made.facts["standardize"]
  mean, std = columns["height"][kept].mean(), columns["width"][kept].std()
  assert facts["mean"]["height"] == pytest.approx(mean)
  assert facts["std"]["width"] == pytest.approx(std)
  valid = _everything(made.splits["valid"])["inputs"][:, 0]
  expected = columns["height"][held] - facts["mean"]["height"]
  expected /= facts["std"]["height"]
  np.testing.assert_allclose(valid, expected, rtol=1e-6)


@pytest.mark.parametrize(
  "line, parts",
  [
    ("1.5,,a", ["'w'", "missing"]),
    ("1.5,abc,a", ["'w'", "'abc'"]),
    ("nan,2,a", ["'h'", "'nan'"]),
    ("1.5,1e999,a", ["'w'", "'1e999'"]),
    ("1.5,2,", ["'k'", "missing"]),
    ("1.5,2", ["2 values", "3 columns"]),
    ("1.5,2,a,b", ["4 values", "3 columns"]),
  ],
)
def test_bad_values_are_found_by_line(line, parts, tmp_path):
  """Bad input: missing values and text in numbers: file, line and column."""
  lines = ["h,w,k", *["1.5,2,a", "2.5,3,b"] * 6, line, "1.5,2,a"]
  (tmp_path / "t.csv").write_text("\n".join(lines))
  _refusal("csv:t.csv", tmp_path, "t.csv", "line 14", *parts, targets=("k",))


def test_lines_are_counted_through_quotes(tmp_path):
  """Bad input: a value of several lines does not shift the lines after it."""
  rows = ['\n"a\nb",1\n', '"c",2\n', '"d",x\n']
  (tmp_path / "t.csv").write_text("k,v\n" + "".join(rows))
  _refusal("csv:t.csv", tmp_path, "line 6", "'v'", "'x'", targets=("k",))


def test_bad_values_are_found_by_row(tmp_path):
  """Bad input: as in CSV, of Parquet."""
  pytest.importorskip("pyarrow")
  for column, value, parts in (
    ("height", None, ["missing"]),
    ("height", float("nan"), ["'nan'"]),
    ("grade", None, ["missing"]),
  ):
    columns = _columns()
    columns[column] = [*columns[column][:7], value, *columns[column][8:]]
    _write(tmp_path / "t.parquet", columns)
    parts += ["t.parquet", "row 7", repr(column)]
    targets = ("grade",)
    _refusal("parquet:t.parquet", tmp_path, *parts, targets=targets)
  (tmp_path / "t.parquet").write_bytes(b"no parquet")
  _refusal("parquet:t.parquet", tmp_path, "t.parquet", targets=targets)


@pytest.mark.parametrize(
  "text, kwargs, parts",
  [
    ("", {}, ["no rows"]),
    ("h,k\n", {}, ["no rows"]),
    ("h,k\n1,a\n", {"targets": ()}, ["config.dataset.targets"]),
    ("h,k\n1,a\n", {"targets": ("z",)}, ["'z'", "'h', 'k'"]),
    ("h,k\n1,a\n", {"inputs": ("z",)}, ["'z'", "'h', 'k'"]),
    ("h,k\n1,a\n", {"targets": ("h", "k")}, ["config.dataset.targets", "2"]),
    ("h,h,k\n1,2,a\n", {}, ["'h'", "twice"]),
    (",h,k\n0,2,a\n", {}, ["no name", "config.dataset.inputs"]),
    ("h,k\n,a\n", {}, ["'h'", "first row", "config.dataset.inputs"]),
    ("n,k\nx,a\n", {}, ["no columns of numbers"]),
    ("h,k\n1,0.5\n2,1.5\n", {}, ["float64", "regression"]),
    ("h,k\n1,a\n2,b\n", {"task": "regression"}, ["line 2", "'k'", "'a'"]),
    ("h,k\n1,0.5\n", {"task": "multi_label"}, ["float64"]),
    ("h,k\n1,5\n2,1\n", {"task": "multi_label"}, ["is 5", "0 or 1"]),
    ("h,k\n1,a\n2,b\n", {"task": "next_token"}, ["next_token"]),
    ("h,k\n1,1\n1,0\n1,1\n", {"standardize": True}, ["'h'", "constant"]),
    ('h,k\n1,"a\n', {}, ["CSV"]),
    ("h,k\n1,\xff\n".encode("latin1"), {}, ["CSV"]),
  ],
)
def test_tables_that_cannot_be_used(text, kwargs, parts, tmp_path):
  """Bad input: of tables, a sentence each."""
  text = text.encode() if isinstance(text, str) else text
  (tmp_path / "t.csv").write_bytes(text)
  kwargs = {"targets": ("k",)} | kwargs
  _refusal("csv:t.csv", tmp_path, *parts, **kwargs)


def test_tables_of_other_columns_in_a_split(tmp_path):
  """Bad input: a split without a column of the training split."""
  (tmp_path / "t").mkdir()
  (tmp_path / "t" / "train.csv").write_text("h,w,k\n1,2,a\n2,3,b\n")
  (tmp_path / "t" / "valid.csv").write_text("h,k\n1,a\n")
  _refusal("csv:t", tmp_path, "valid.csv", "'w'", targets=("k",))
  (tmp_path / "t" / "notes.txt").write_text("")
  _refusal("csv:t", tmp_path, "notes.txt", targets=("k",))


# Folders of images.


def _picture(seed, shape=(5, 6, 3)):
  rng = np.random.default_rng(seed)
  return rng.integers(0, 256, shape, dtype=np.uint8)


def _save(path, picture):
  path.parent.mkdir(parents=True, exist_ok=True)
  Image.fromarray(picture.squeeze()).save(path)
  return path


def _pictures(root, number=4, classes=("bee", "cat"), shape=(5, 6, 3), seed=0):
  """Saves images; returns them and their labels, in the order of the names."""
  arrays, labels = [], []
  for k, name in enumerate(classes):
    for i in range(number):
      picture = _picture([seed, k, i], shape)
      _save(root / name / f"{i:02d}.png", picture)
      arrays.append(picture)
      labels.append(k)
  return {"image": np.stack(arrays), "label": np.array(labels, np.int32)}


@pytest.mark.parametrize("shape", [(5, 6, 3), (5, 6, 1)])
def test_folders_of_classes(shape, tmp_path):
  """Data: the images of each class, in the order of their names."""
  written = _pictures(tmp_path / "set", 10, shape=shape)
  (tmp_path / "set" / ".DS_Store").write_text("hidden files are none")
  made = _load("folder:set", tmp_path)
  assert made.example == {"image": (shape, "uint8"), "label": ((), "int32")}
  assert made.num_classes == 2 and made.facts["classes"] == ["bee", "cat"]
  assert made.pixel_max == 255
  for split, index in zip(("train", "valid"), own.held_out(20), strict=True):
    _same(made, split, {name: a[index] for name, a in written.items()})
  source = pickle.loads(pickle.dumps(made.splits["train"]))
  some = source.fetch(np.array([5, 0]))["image"]
  index = own.held_out(20)[0]
  np.testing.assert_array_equal(some, written["image"][index[[5, 0]]])


def test_folders_of_splits(tmp_path):
  """Data: train, validation and test; a class may be missing in the others."""
  train = _pictures(tmp_path / "train", 3, ("bee", "cat", "dog"))
  valid = _pictures(tmp_path / "val", 2, ("bee", "cat"), seed=1)
  test = _pictures(tmp_path / "test", 2, ("bee",), seed=2)
  made = _load("folder:.", tmp_path, with_test=True)
  assert made.num_classes == 3 and "held_out" not in made.facts
  for split, written in (("train", train), ("valid", valid), ("test", test)):
    _same(made, split, written)


def test_a_class_may_be_called_train(tmp_path):
  """Data: a folder of that name holds either images or folders."""
  _pictures(tmp_path, 9, ("bus", "train"))
  assert _load("folder:.", tmp_path).facts["classes"] == ["bus", "train"]


def test_folders_are_resized(tmp_path):
  """Data: to the center square, or to random parts, as TFDS sets are."""
  names = [f"{i:02d}.png" for i in range(20)]
  for i, name in enumerate(names):
    _save(tmp_path / "bee" / name, _picture(i, (9 + i % 3, 8 + i % 2, 3)))
  (tmp_path / "cat").mkdir()
  for i in range(20):
    _save(tmp_path / "cat" / f"{i}.jpg", _picture(i, (12, 7, 3)))
  _refusal("folder:.", tmp_path, "config.dataset.image_size")
  made = _load("folder:.", tmp_path, image_size=4, augment="resized_crop")
  source = made.splits["train"]
  index = own.held_out(40)[0][:5]
  got = source.fetch(np.arange(5))["image"]
  words = images.draw_crops(0, np.int64(0), np.arange(5))
  crops = source.fetch(np.arange(5), crops=words)["image"]
  assert got.shape == crops.shape == (5, 4, 4, 3) and (got != crops).any()
  for i, at in enumerate(index):
    content = (tmp_path / "bee" / names[at]).read_bytes()
    np.testing.assert_array_equal(got[i], images.decode(content, 4, 3))
    expected = images.decode(content, 4, 3, words=words[i])
    np.testing.assert_array_equal(crops[i], expected)
  batches = data.train_batches(
    source,
    start_step=0,
    stop_step=2,
    rows=np.arange(4),
    workers=0,
    seed=0,
    batch_size=4,
    augment="resized_crop",
    augment_pixels=0,
  )
  assert [batch["image"].shape for batch in batches] == [(4, 4, 4, 3)] * 2


def test_facts_of_a_folder(tmp_path):
  """Data: another name, image or class is another set."""
  _pictures(tmp_path, 8)
  facts = [_load("folder:.", tmp_path).facts]
  (tmp_path / "bee" / "00.png").rename(tmp_path / "bee" / "000.png")
  facts.append(_load("folder:.", tmp_path).facts)
  _save(tmp_path / "bee" / "000.png", _picture(99))
  facts.append(_load("folder:.", tmp_path).facts)
  (tmp_path / "bee" / "07.png").rename(tmp_path / "cat" / "99.png")
  facts.append(_load("folder:.", tmp_path).facts)
  assert len({one["sha256"] for one in facts}) == 4
  assert _load("folder:.", tmp_path).facts == facts[-1]


def _truncated(root):
  path = root / "bee" / "01.png"
  path.write_bytes(path.read_bytes()[:60])


def _no_image(root):
  (root / "cat" / "02.png").write_text("no image")


def _link(root):
  os.symlink(root / "bee" / "01.png", root / "cat" / "link.png")


def _linked_folder(root):
  os.symlink(root / "bee", root / "dog")


def _deep(root):
  array = np.zeros((5, 6), np.uint16)
  Image.fromarray(array).save(root / "bee" / "03.png")


@pytest.mark.parametrize(
  "change, parts",
  [
    (_truncated, ["01.png", "decoded"]),
    (_no_image, ["02.png", "decoded"]),
    (_link, ["link.png", "symbolic"]),
    (_linked_folder, ["dog", "symbolic"]),
    (_deep, ["03.png", "8 bits"]),
    (lambda r: (r / "bee" / "notes.txt").touch(), ["notes.txt"]),
    (lambda r: (r / "readme.md").touch(), ["readme.md"]),
    (lambda r: (r / "bee" / "more").mkdir(), ["more"]),
    (lambda r: (r / "dog").mkdir(), ["'dog'", "no images"]),
    (
      lambda r: _save(r / "bee" / "99.png", _picture(0, (7, 7, 3))),
      ["99.png", "7 x 7", "config.dataset.image_size"],
    ),
  ],
)
def test_folders_that_cannot_be_used(change, parts, tmp_path):
  """Bad input: a sentence with the file or folder."""
  _pictures(tmp_path, 8)
  change(tmp_path)
  _refusal("folder:.", tmp_path, "'folder:.'", *parts)


def test_unusable_splits_of_a_folder(tmp_path):
  """Bad input: classes that are not trained on, folders of no split."""
  _refusal("folder:nowhere", tmp_path, "nowhere")
  (tmp_path / "file").touch()
  _refusal("folder:file", tmp_path, "file")
  (tmp_path / "empty").mkdir()
  _refusal("folder:empty", tmp_path, "empty", "CLASS/")
  _pictures(tmp_path / "set" / "train", 3)
  _pictures(tmp_path / "set" / "valid", 1, ("bee", "dog"))
  _refusal("folder:set", tmp_path, "'dog'", "valid split", "'bee', 'cat'")
  _pictures(tmp_path / "set" / "extra", 1)
  _refusal("folder:set", tmp_path, "extra")


def test_a_rare_class_may_not_be_held_out_as_a_whole(tmp_path):
  """Bad input: of a class of one image, nothing could be learned."""
  for i in range(11):
    _save(tmp_path / f"c{i:02d}" / "0.png", _picture(i))
  (held,) = own.held_out(11)[1]
  _refusal("folder:.", tmp_path, f"'c{held:02d}'", "held out")


# What `datasets` saved.


@pytest.fixture
def saved(tmp_path):
  """Saves columns with `datasets`; returns the folder that holds the set."""
  datasets = pytest.importorskip("datasets")
  datasets.disable_progress_bars()

  def save(features, **splits):
    made = {
      split: datasets.Dataset.from_dict(
        columns, features=datasets.Features(features(datasets))
      )
      for split, columns in splits.items()
    }
    whole = datasets.DatasetDict(made)
    if list(made) == ["train"]:
      whole = made["train"]
    whole.save_to_disk(tmp_path / "saved")
    return tmp_path

  return save


def _as_pictures(arrays):
  return [Image.fromarray(array) for array in arrays]


def test_saved_images(saved):
  """Data: hf: image, label and names of classes; other columns are left."""
  pictures = own_sets.pictures()
  labels = ["bee", "cat", "dog"]

  def features(d):
    return {
      "image": d.Image(),
      "label": d.ClassLabel(names=labels),
      "note": d.Value("string"),
    }

  def columns(index):
    return {
      "image": _as_pictures(pictures["image"][index]),
      "label": pictures["label"][index].tolist(),
      "note": ["?"] * len(index),
    }

  train, valid = np.arange(20), np.arange(20, 30)
  folder = saved(features, train=columns(train), validation=columns(valid))
  made = _load("hf:saved", folder)
  assert made.num_classes == 3 and made.facts["classes"] == labels
  for split, index in (("train", train), ("valid", valid)):
    _same(made, split, {n: array[index] for n, array in pictures.items()})
  source = pickle.loads(pickle.dumps(made.splits["train"]))
  _refusal("hf:saved", folder, "test split", with_test=True)
  made = _load("hf:saved", folder, image_size=4)
  source = made.splits["train"]
  words = images.draw_crops(0, np.int64(0), np.arange(2))
  for crops in (None, words):
    got = source.fetch(np.arange(2), crops=crops)["image"]
    for i in range(2):
      content = io.BytesIO()
      Image.fromarray(pictures["image"][i]).save(content, format="PNG")
      expected = images.decode(
        content.getvalue(), 4, 3, words=None if crops is None else crops[i]
      )
      np.testing.assert_array_equal(got[i], expected)


def test_saved_numbers(saved):
  """Data: hf: a vector, or scalars that are named, and float targets."""
  rng = np.random.default_rng(0)
  columns = {
    "v": rng.normal(size=(30, 3)).astype(np.float32),
    "a": rng.normal(size=30),
    "b": rng.integers(0, 9, 30),
    "target": rng.normal(size=30),
  }

  def features(d):
    vector = d.Sequence(d.Value("float32"), length=3)
    number, integer = d.Value("float64"), d.Value("int64")
    return {"v": vector, "a": number, "b": integer, "target": number}

  folder = saved(features, train={n: c.tolist() for n, c in columns.items()})
  index = own.held_out(30)[0]

  def same(made, **arrays):
    arrays = {n: a[index].astype(np.float32) for n, a in arrays.items()}
    _same(made, "train", arrays)

  scalars = np.stack([columns["a"], columns["b"]], 1)
  kwargs = dict(task="regression")
  same(_load("hf:saved", folder, **kwargs), inputs=scalars,
       target=columns["target"])  # fmt: skip
  made = _load("hf:saved", folder, inputs=("v",), targets=("b", "a"), **kwargs)
  same(made, inputs=columns["v"], target=scalars[:, ::-1])
  made = _load("hf:saved", folder, inputs=("v",), targets=("b",))
  assert made.num_classes == columns["b"][index].max() + 1
  for kwargs, parts in (
    ({"inputs": ("z",)}, ["inputs", "'z'", "'v'"]),
    ({"inputs": ("v", "a")}, ["'v'", "(3,)"]),
    ({"targets": ("target",)}, ["float", "regression"]),
  ):
    _refusal("hf:saved", folder, *parts, **kwargs)


def test_saved_sets_that_cannot_be_used(saved, tmp_path):
  """Bad input: missing values, unknown labels, no targets, other folders."""
  (tmp_path / "other").mkdir()
  _refusal("hf:other", tmp_path, "other")
  _refusal("hf:nowhere", tmp_path, "nowhere")

  def features(d):
    return {"x": d.Value("float32"), "label": d.ClassLabel(names=["a", "b"])}

  train = {"x": [0.5, 1.5, 2.5], "label": [0, 1, 0]}
  folder = saved(features, train=train, validation=train)
  assert _load("hf:saved", folder).example["inputs"] == ((1,), "float32")
  for name, at, value, parts in (
    ("x", 1, None, ["'inputs'", "example 1", "nan"]),
    ("label", 2, -1, ["example 2", "is -1"]),
  ):
    bad = {key: list(column) for key, column in train.items()}
    bad[name][at] = value
    saved(features, train=bad, validation=train)
    _refusal("hf:saved", folder, *parts)
  saved(lambda d: {"x": d.Value("float32")}, train={"x": [1.0, 2.0]})
  _refusal("hf:saved", folder, "config.dataset.targets", "'x'")
