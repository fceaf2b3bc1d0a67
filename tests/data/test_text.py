"""Text: rows, splits by document, the cache, tokenizers, TFDS's texts."""

import gc
import hashlib
import json
import os
import pathlib
import pickle
import random
import shutil
import subprocess
import sys
import sysconfig
import tracemalloc

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

import jaxplay
from jaxplay import config as config_lib
from jaxplay import data
from jaxplay.data import text
from tests.data import tiny_texts

TFDS_SPLITS = {"train": "train", "valid": "validation", "test": "test"}


def _write(folder, files):
  """Writes name -> content; returns the folder."""
  for name, content in files.items():
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
      content if isinstance(content, bytes) else content.encode()
    )
  return folder


def _load(pattern, cache, **kwargs):
  """`text.load` of files with rows of one token, so that none is left out."""
  defaults = dict(
    sequence_length=1, tokenizer="bytes", valid_files="", test_files=""
  )
  name = pattern if pattern == "pythonlib" else f"text:{pattern}"
  return text.load(name, cache=str(cache), **defaults | kwargs)


def _stream(rows):
  """The tokens of all rows in one sequence."""
  fetched = rows.fetch(np.arange(rows.num_examples))["tokens"]
  return np.concatenate([fetched[0, :1], fetched[:, 1:].reshape(-1)])


def _documents(loaded, split):
  """The contents of a split of bytes."""
  *documents, rest = _stream(loaded.splits[split]).tobytes().split(b"\0")
  assert not rest
  return documents


def _refusal(call, *args, **kwargs):
  with pytest.raises(jaxplay.UserError) as caught:
    call(*args, **kwargs)
  message = str(caught.value)
  assert "\n" not in message and len(message) < 500
  return message


def _many(number, first=0):
  """Small files of different contents."""
  return {
    f"{i:04}.txt": f"document {i}\n" for i in range(first, first + number)
  }


@pytest.fixture
def three_sides(tmp_path):
  """Explicit files: each letter is in one split only."""
  _write(tmp_path / "t", {"1": "aaaa", "2": "bb", "3": "ccccccc"})
  _write(tmp_path, {"v": "xxxxxxxxxxxxxxxxx", "w": "yyyyyyyyyyy"})
  return lambda **kwargs: _load(
    tmp_path / "t",
    tmp_path / "cache",
    valid_files=str(tmp_path / "v"),
    test_files=str(tmp_path / "w"),
    **kwargs,
  )


# Rows.


@pytest.mark.parametrize("length", [1, 2, 3, 5, 11, 15])
def test_rows_ask_for_every_token_once(three_sides, length):
  """Data: rows are packed documents with separators; only an end is left out.

  Row i begins with the last token of row i - 1, so that one is asked for.
  """
  rows = three_sides(sequence_length=length, splits=["train"]).splits["train"]
  packed = b"aaaa\0bb\0ccccccc\0"
  assert rows.num_examples == (len(packed) - 1) // length
  fetched = rows.fetch(np.arange(rows.num_examples))["tokens"]
  assert fetched.shape == (rows.num_examples, length + 1)
  asked = fetched[:, 1:].tobytes()
  assert packed[1 : 1 + len(asked)] == asked
  assert 0 <= len(packed) - 1 - len(asked) < length
  begun_with = packed[: rows.num_examples * length : length]
  assert fetched[:, 0].tobytes() == begun_with


def test_rows_do_not_cross_the_split(three_sides):
  """Data: "rows are packed without crossing the split"."""
  for length in (1, 4):
    loaded = three_sides(sequence_length=length)
    for split, letters in (("train", "abc"), ("valid", "x"), ("test", "y")):
      tokens = set(_stream(loaded.splits[split]))
      assert set(letters.encode()) <= tokens <= {0, *letters.encode()}


def test_fetch_is_a_function_of_the_index(tmp_path):
  """Idea 3: a row is a slice of the tokens, in whatever company it is asked."""
  content = np.random.default_rng(0).integers(1, 256, 5000).astype(np.uint8)
  _write(tmp_path, {"one": content.tobytes()})
  rows = _load(tmp_path / "one", tmp_path / "c", sequence_length=7).splits[
    "train"
  ]
  index = np.array([3, rows.num_examples - 1, 0, 3])
  fetched = rows.fetch(index)["tokens"]
  for row, i in zip(fetched, index, strict=True):
    np.testing.assert_array_equal(row, content[7 * i : 7 * i + 8])
  assert rows.fetch(index[:0])["tokens"].shape == (0, 8)
  whole = rows.fetch(np.arange(rows.num_examples))["tokens"]
  assert rows.nbytes == whole.nbytes
  # What reader processes get: where the tokens are, not the tokens.
  sent = pickle.dumps(rows)
  assert len(sent) < 500 < rows.nbytes
  np.testing.assert_array_equal(
    pickle.loads(sent).fetch(index)["tokens"], fetched
  )


@pytest.mark.slow
def test_reader_processes_bring_the_same(three_sides):
  """Data: "the order is order.batch_indices again", also by processes."""
  rows = three_sides(sequence_length=2).splits["train"]
  order = dict(seed=1, batch_size=4, augment="none", augment_pixels=0)
  examples = data.train_examples(
    step=3, num_steps=4, num_examples=rows.num_examples, **order
  )
  batches = data.train_batches(
    rows, start_step=3, stop_step=7, rows=np.arange(4), workers=2, **order
  )
  for batch, index in zip(batches, examples["index"], strict=True):
    np.testing.assert_array_equal(batch["tokens"], rows.fetch(index)["tokens"])
  del batches
  gc.collect()  # See `_collected` in test_batches.py.


def test_rows_of_a_file_larger_than_memory(tmp_path):
  """Data: "memory-mapped, so a set larger than memory works"."""
  path, size = tmp_path / "tokens", 2**40  # = 1 + 1023 * ...
  with open(path, "wb") as file:
    file.seek(size - 3)
    file.write(b"end")  # All before is a hole, and takes no room.
  rows = text.Rows(str(path), "uint8", size, 1023, 256, "train", "x")
  tracemalloc.start()
  fetched = rows.fetch(np.array([rows.num_examples - 1, 5]))["tokens"]
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert fetched[0].tobytes() == b"\0" * 1021 + b"end"
  assert not fetched[1].any()
  assert peak < 2**20


def test_preparing_holds_little_of_a_file(tmp_path):
  """Data: "a set larger than memory works", when it is prepared, too."""
  size = 2**26
  with open(tmp_path / "large", "wb") as file:
    for _ in range(size >> 20):
      file.write(b"fifteen letters\n" * 2**16)
  tracemalloc.start()
  loaded = _load(tmp_path / "large", tmp_path / "c", sequence_length=1023)
  loaded.splits["train"].fetch(np.arange(64))
  _, peak = tracemalloc.get_traced_memory()
  tracemalloc.stop()
  assert peak < size / 8
  tokens = sum(rows.num_tokens for rows in loaded.splits.values())
  assert tokens == size + 3


# Which side a document is on.


def _sides(loaded):
  return {
    document: split
    for split in loaded.splits
    for document in _documents(loaded, split)
  }


def test_more_files_move_none(tmp_path):
  """Data: a document's side is a function of its content, not its company."""
  _write(tmp_path / "t", _many(300))
  before = _sides(_load(tmp_path / "t", tmp_path / "c"))
  assert len(before) == 300
  _write(tmp_path / "t", _many(300, first=1000))
  after = _sides(_load(tmp_path / "t", tmp_path / "c"))
  assert len(after) == 600 and before.items() <= after.items()


def test_names_move_none(tmp_path):
  """Data: renamed, a document stays on its side."""
  files = _many(300)
  _write(tmp_path / "t", files)
  names = [f"{i}/other" for i in range(300)]
  random.Random(0).shuffle(names)
  _write(tmp_path / "u", dict(zip(names, files.values(), strict=True)))
  sides = [_sides(_load(tmp_path / of, tmp_path / "c")) for of in "tu"]
  assert sides[0] == sides[1] and set(sides[0].values()) == set(text.SPLITS)


def test_sides_are_frozen(tmp_path):
  """Data: pinned, or a later version would validate on what a run has seen."""
  loaded = _load(_write(tmp_path / "t", _many(100)), tmp_path / "c")
  for split, numbers in (("valid", [31, 36, 52]), ("test", [3, 14, 59])):
    expected = [f"document {i}\n".encode() for i in numbers]
    assert _documents(loaded, split) == expected


def test_held_out_shares(tmp_path):
  """Data: two percent of the documents each, as in so many draws."""
  _write(tmp_path / "t", _many(1000))
  facts = _load(tmp_path / "t", tmp_path / "c").facts["splits"]
  for split in ("valid", "test"):  # The deviation of the number is 4.4.
    assert abs(facts[split]["documents"] - 20) < 3 * 4.4
  assert sum(of["documents"] for of in facts.values()) == 1000


def _books(number, lines=400, first=0):
  """Files of different contents, of equal size, in lines of 32 bytes."""
  return {
    f"{i}.txt": "".join(f"line {j:6} of file {i:<12}\n" for j in range(lines))
    for i in range(first, first + number)
  }


def _lines_of(loaded):
  """Split -> lines, whichever documents they are in."""
  return {
    split: sorted(b"".join(_documents(loaded, split)).splitlines())
    for split in text.SPLITS
  }


@pytest.mark.parametrize("number", [*range(1, 10), 20, 60])
def test_few_files_leave_no_split_empty(tmp_path, number):
  """Data: of any number of files some text is held out, and none on two sides.

  About two percent for each split: of a few files their ends, of more whole
  files, at most a tenth of the text too much.
  """
  books = _books(number)
  loaded = _load(_write(tmp_path / "t", books), tmp_path / "c")
  sides = _lines_of(loaded)
  whole = sorted("".join(books.values()).encode().splitlines())
  assert sorted(line for of in sides.values() for line in of) == whole
  for split in ("valid", "test"):
    assert 0.015 < len(sides[split]) / len(whole) < 0.12
  if number >= 10:
    contents = {content.encode() for content in books.values()}
    assert {*_sides(loaded)} == contents
  # Whatever they are called, and whatever will be evaluated.
  renamed = dict(zip(books, reversed(books.values()), strict=True))
  again = _load(_write(tmp_path / "u", renamed), tmp_path / "c")
  assert _lines_of(again) == sides


def test_one_more_of_few_files_moves_few(tmp_path):
  """Data: a file that is added changes the sides of few others, or of none."""
  moved = []
  for number in range(10, 60):
    before, after = (
      _sides(
        _load(_write(tmp_path / str(n), _books(n, lines=5)), tmp_path / "c")
      )
      for n in (number, number + 1)
    )
    moved.append(sum(after[d] != side for d, side in before.items()))
  assert max(moved) <= 4 and np.mean(moved) < 0.6


def test_a_large_file_among_small_ones(tmp_path):
  """Data: neither is the largest file held out, nor a file of a few bytes."""
  small = {f"readme{i}": f"see file {i}\n" for i in range(5)}
  for number in (1, 3):
    folder = _write(tmp_path / str(number), _books(number, 4000) | small)
    loaded = _load(folder, tmp_path / "c")
    size = loaded.facts["splits"]["train"]["bytes"]
    for split in ("valid", "test"):
      held = loaded.facts["splits"][split]
      assert held["documents"] == number
      assert abs(held["bytes"] / size - 0.02) < 0.002
    assert {f"see file {i}\n".encode() for i in range(5)} <= {
      *_documents(loaded, "train")
    }


def test_equal_documents_are_one(tmp_path):
  """Data: copies of a file neither repeat it nor put it on two sides."""
  files = _many(200)
  copies = {f"copy/{name}": content for name, content in files.items()}
  loaded = _load(_write(tmp_path / "t", files | copies), tmp_path / "c")
  found = [d for split in text.SPLITS for d in _documents(loaded, split)]
  assert sorted(found) == sorted(c.encode() for c in files.values())


@pytest.mark.parametrize(
  "content",
  [
    "".join(f"line {i} of a file\n" for i in range(1000)),
    "\n".join("x" * (i % 90) for i in range(1000)),  # no line end at the end
    "äöü€😀" * 700,  # one long line
    "a line\n" * 40 + "ä" * 5000,  # and at the end
  ],
)
def test_a_single_file_is_cut(tmp_path, content):
  """Data: the end of one file is held out, cut at line ends, or characters."""
  content = content.encode()
  _write(tmp_path, {"one": content})
  loaded = _load(tmp_path / "one", tmp_path / "c")
  parts = {split: b"".join(_documents(loaded, split)) for split in text.SPLITS}
  assert parts["train"] + parts["valid"] + parts["test"] == content
  for split in ("valid", "test"):
    assert abs(len(parts[split]) / len(content) - 0.02) < 0.01
    parts[split].decode()  # No character is on both sides.
  if max(map(len, content.split(b"\n"))) < 100:
    assert parts["train"].endswith(b"\n") and parts["valid"].endswith(b"\n")


@pytest.mark.parametrize("size", [1, 2, 3, 30])
def test_a_file_too_small_to_cut(tmp_path, size):
  """Bad input: "a sequence longer than the corpus", however short that is."""
  _write(tmp_path, {"one": b"\xa4" * size})
  message = _refusal(
    _load, tmp_path / "one", tmp_path / "c", sequence_length=60
  )
  assert "sequence_length=60" in message and "tokens" in message


def test_named_files_are_held_out(tmp_path):
  """Data: what the user names is validation, what is not named is a share.

  Not the same again as the test set: a number that was tuned on is no test.
  """
  _write(tmp_path / "t", _many(300))
  _write(tmp_path / "v", _many(20, first=5000))
  _write(tmp_path / "w", {"1": "the only one"})
  drawn = _sides(_load(tmp_path / "t", tmp_path / "c"))
  v, w = str(tmp_path / "v"), str(tmp_path / "w" / "*")
  for named in ({"valid_files": v}, {"valid_files": v, "test_files": w}):
    loaded = _load(tmp_path / "t", tmp_path / "c", **named)
    expected = {
      document: "test" if side == "test" and len(named) == 1 else "train"
      for document, side in drawn.items()
    }
    expected |= {c.encode(): "valid" for c in _many(20, first=5000).values()}
    if len(named) == 2:
      expected[b"the only one"] = "test"
    assert _sides(loaded) == expected


def test_one_file_and_one_to_validate(tmp_path):
  """Data: with its validation named, one file is cut for the test only."""
  lines = "".join(f"line {i}\n" for i in range(500)).encode()
  _write(tmp_path, {"t": lines, "v": "held out"})
  v = str(tmp_path / "v")
  loaded = _load(tmp_path / "t", tmp_path / "c", valid_files=v)
  assert _documents(loaded, "valid") == [b"held out"]
  [train], [test] = (_documents(loaded, split) for split in ("train", "test"))
  assert train + test == lines and 0 < len(test) < 0.03 * len(lines)
  # Held out from training is all that validation and test have to be.
  loaded = _load(tmp_path / "t", tmp_path / "c", valid_files=v, test_files=v)
  assert _documents(loaded, "test") == [b"held out"]
  assert _documents(loaded, "train") == [lines]


@pytest.mark.parametrize("split", ["valid", "test"])
@pytest.mark.parametrize("pattern", ["t/1.txt", "t/*", "t", "copy"])
def test_held_out_files_are_not_trained_on(tmp_path, split, pattern):
  """Bad input: "a validation split that shares a file with training"."""
  _write(tmp_path, {"t/1.txt": "one", "t/2.txt": "two", "copy": "two"})
  named = {f"{split}_files": str(tmp_path / pattern)}
  message = _refusal(_load, tmp_path / "t", tmp_path / "c", **named)
  assert split in message and f"config.dataset.{split}_files" in message
  assert repr(str(tmp_path / "t" / "1.txt")) in message or (
    repr(str(tmp_path / "copy")) in message
  )


# Files and patterns.


def test_patterns(tmp_path):
  """Data: `text:` takes a file, a folder or a glob, and no hidden file."""
  _write(tmp_path / "t", _many(200) | {".git/x": "hidden", ".y": "hidden"})
  _write(tmp_path / "t", {"deep/er/z.md": "deep"})
  everything = {*(c.encode() for c in _many(200).values()), b"deep"}
  for pattern, expected in (
    ("t", everything),
    ("t/**", everything),
    ("t/*.txt", everything - {b"deep"}),
  ):
    sides = _sides(_load(tmp_path / pattern, tmp_path / "c"))
    assert sides.keys() == expected, pattern
  # A name is taken as it is written first.
  lines = "".join(f"{i}\n" for i in range(200))
  brackets = _write(tmp_path, {"a[1].txt": lines}) / "a[1].txt"
  sides = _sides(_load(brackets, tmp_path / "c"))
  assert sorted(sides.values()) == sorted(text.SPLITS)


def test_home_folder(tmp_path, monkeypatch):
  """Data: ~ is the home folder; a shell leaves it in --config.x=~/y."""
  monkeypatch.setenv("HOME", str(tmp_path))
  _write(tmp_path, {"one": "a line\n" * 100})
  folder = _load("~/one", "~/c").folder
  assert folder.parent == tmp_path / "c"


@pytest.mark.parametrize("key", ["name", "valid_files", "test_files"])
def test_nothing_matches(tmp_path, key):
  """Errors: a pattern without files is named, with its key."""
  _write(tmp_path, {"one": "x" * 500})
  missing = str(tmp_path / "none*")
  if key == "name":
    assert f"'text:{missing}'" in _refusal(_load, missing, tmp_path / "c")
    return
  message = _refusal(_load, tmp_path / "one", tmp_path / "c", **{key: missing})
  assert f"config.dataset.{key}={missing!r}" in message


def test_no_pattern(tmp_path, monkeypatch):
  """Errors: `text:` alone is not the current folder."""
  monkeypatch.chdir(_write(tmp_path, _many(200)))
  assert "'text:'" in _refusal(_load, "", tmp_path / "c")


def test_empty_file(tmp_path):
  """Bad input: "an empty file"."""
  _write(tmp_path / "t", _many(200) | {"nothing.txt": ""})
  message = _refusal(_load, tmp_path / "t", tmp_path / "c")
  assert repr(str(tmp_path / "t" / "nothing.txt")) in message


@pytest.mark.parametrize("split", text.SPLITS)
def test_sequence_longer_than_the_corpus(three_sides, split):
  """Bad input: "a sequence longer than the corpus", of any split."""
  tokens = {"train": 16, "valid": 18, "test": 12}[split]
  loaded = three_sides(sequence_length=tokens - 1, splits=[split])
  assert loaded.splits[split].num_examples == 1
  message = _refusal(three_sides, sequence_length=tokens, splits=[split])
  assert f"the {split} split" in message and f"has {tokens} tokens" in message
  assert f"config.dataset.sequence_length={tokens}" in message


def test_too_little_text_to_draw_from(tmp_path):
  """Errors: a split that is too short for a row says how to name another."""
  _write(tmp_path / "t", _many(3))
  message = _refusal(_load, tmp_path / "t", tmp_path / "c", sequence_length=20)
  assert "valid split" in message and "config.dataset.valid_files" in message
  # Where nothing of them is wanted, nothing is missed.
  _load(tmp_path / "t", tmp_path / "c", splits=["train"], sequence_length=20)


@pytest.mark.parametrize("where", [0, 5000])
def test_bytes_refuse_what_is_not_text(tmp_path, monkeypatch, where):
  """Bad input: byte 0 ends a document, so a file that holds it is refused."""
  monkeypatch.setattr(text, "_BLOCK_BYTES", 64)
  content = bytearray(b"any other byte \xff is fine\n" * 300)
  content[where] = 0
  _write(tmp_path, {"one": bytes(content)})
  message = _refusal(_load, tmp_path / "one", tmp_path / "c")
  assert repr(str(tmp_path / "one")) in message and "zero byte" in message
  _write(tmp_path, {"one": bytes(content).replace(b"\0", b"\1")})
  _load(tmp_path / "one", tmp_path / "c")


# The cache.


def _all_bytes(folder):
  return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_second_load_reads_the_files(tmp_path, monkeypatch):
  """Data: text is tokenized at its first use, and only then."""
  _write(tmp_path / "t", _many(200))
  first = _load(tmp_path / "t", tmp_path / "c")

  def fail(*_):
    raise AssertionError("prepared again")

  monkeypatch.setattr(text, "_prepare", fail)
  assert _load(tmp_path / "t", tmp_path / "c") == first
  # Also for rows of another length.
  longer = _load(tmp_path / "t", tmp_path / "c", sequence_length=5)
  assert longer.folder == first.folder
  with pytest.raises(AssertionError, match="again"):
    _load(tmp_path / "t", tmp_path / "elsewhere")


def test_damaged_tokens(tmp_path):
  """Bad input: tokens beyond the vocabulary, or fewer of them, are refused.

  As an index they would be the last token, or zero.
  """
  tokenizer = _word_level({f"w{i}": i for i in range(300)})
  loaded = _with(tokenizer, tmp_path, ["w0 w299 w7 w8 w9\n"])

  def load():
    return _load(
      tmp_path / "t",
      tmp_path / "c",
      tokenizer=str(tmp_path / "tokenizer.json"),
      valid_files=str(tmp_path / "held_out"),
      test_files=str(tmp_path / "held_out"),
    )

  rows = loaded.splits["train"]
  path, folder = pathlib.Path(rows.path), loaded.folder
  good = path.read_bytes()
  tokens = np.frombuffer(good, rows.dtype).copy()
  tokens[3] = 60_000
  path.write_bytes(tokens.tobytes())
  bad = load().splits["train"]
  message = _refusal(bad.fetch, np.arange(bad.num_examples))
  assert "train split" in message and "2 tokens outside" in message
  assert "[0, 300)" in message and "60000]" in message
  assert repr(str(folder)) in message
  assert bad.fetch(np.array([0]))["tokens"].tolist() == [[0, 299]]
  path.write_bytes(good[:-2])
  message = _refusal(load)
  assert repr(rows.path) in message and "size" in message
  assert repr(str(folder)) in message
  shutil.rmtree(folder)
  assert pathlib.Path(load().splits["train"].path).read_bytes() == good


def test_a_changed_file_is_another_set(tmp_path):
  """Data: the cache follows the files; the hash is that of the content."""
  _write(tmp_path / "t", _many(200))
  first = _load(tmp_path / "t", tmp_path / "c")
  os.utime(tmp_path / "t" / "0000.txt", ns=(0, 0))
  touched = _load(tmp_path / "t", tmp_path / "c")
  assert touched.folder != first.folder
  assert touched.facts == first.facts
  changed = dict(_many(200), **{"0000.txt": "different"})
  _write(tmp_path / "t", changed)
  second = _load(tmp_path / "t", tmp_path / "c")
  assert second.facts["sha256"] != first.facts["sha256"]
  assert _sides(second).keys() == {c.encode() for c in changed.values()}
  assert len({first.folder, touched.folder, second.folder}) == 3


def test_the_hash_is_of_what_is_trained_on(tmp_path):
  """Data: "hash recorded": another order or side is another hash."""
  _write(tmp_path, {"a": "one", "b": "two", "c": "six", "v": "x", "w": "y"})
  hashes = {
    _load(
      tmp_path / train,
      tmp_path / "cache",
      valid_files=str(tmp_path / valid),
      test_files=str(tmp_path / test),
    ).facts["sha256"]
    for train, valid, test in ("avw", "awv", "vaw", "bvw")
  }
  assert len(hashes) == 4
  # The first of the splits' own, by hand.
  loaded = _load(
    tmp_path / "[ab]",
    tmp_path / "cache",
    valid_files=str(tmp_path / "v"),
    test_files=str(tmp_path / "w"),
  )
  one, two = (hashlib.sha256(c).digest() for c in (b"one", b"two"))
  expected = hashlib.sha256(one + two).hexdigest()
  assert loaded.facts["splits"]["train"]["sha256"] == expected


_KILLED = """
import os, signal, sys
from jaxplay.data import text
write_split = text._write_split
def until_valid(folder, split, *args):
  if split == "valid":
    os.kill(os.getpid(), signal.SIGKILL)
  return write_split(folder, split, *args)
text._write_split = until_valid
text.load(
  "text:" + sys.argv[1], cache=sys.argv[2], sequence_length=1,
  tokenizer="bytes", valid_files="", test_files=""
)
"""


def test_killed_half_way(tmp_path):
  """Data: what a killed preparation leaves is not taken for a finished one."""
  t, c = _write(tmp_path / "t", _many(200)), tmp_path / "c"
  killed = subprocess.run(
    [sys.executable, "-c", _KILLED, t, c], capture_output=True, text=True
  )
  assert killed.returncode == -9, killed.stderr
  [left] = c.iterdir()
  assert (left / "train.tokens").stat().st_size  # It had begun.
  loaded = _load(t, c)
  assert loaded.folder != left
  fresh = _load(t, tmp_path / "other")
  assert _all_bytes(loaded.folder) == _all_bytes(fresh.folder)


_AT_ONCE = """
import os, sys
from jaxplay.data import text
replace = os.replace
def once_told(*args):
  print("ready", flush=True)
  sys.stdin.readline()
  replace(*args)
os.replace = once_told
loaded = text.load(
  "text:" + sys.argv[1], cache=sys.argv[2], sequence_length=1,
  tokenizer="bytes", valid_files="", test_files=""
)
print(loaded.facts["sha256"])
"""


def test_two_processes_at_once(tmp_path):
  """Data: hosts that share a cache prepare side by side, and both succeed."""
  t, c = _write(tmp_path / "t", _many(200)), tmp_path / "c"
  both = [
    subprocess.Popen(
      [sys.executable, "-c", _AT_ONCE, t, c],
      stdin=subprocess.PIPE,
      stdout=subprocess.PIPE,
      text=True,
    )
    for _ in range(2)
  ]
  for process in both:
    assert process.stdout.readline() == "ready\n"
  hashes = []
  for process in both:
    out, _ = process.communicate("go\n")
    assert process.returncode == 0
    hashes.append(out.strip())
  assert hashes == [_load(t, c).facts["sha256"]] * 2
  assert len(list(c.iterdir())) == 1


def test_failed_preparation_leaves_nothing(tmp_path):
  """Data: refused text takes no room in the cache."""
  _write(tmp_path, {"one": b"x\0y" * 100})
  _refusal(_load, tmp_path / "one", tmp_path / "c")
  assert list((tmp_path / "c").iterdir()) == []


def test_cache_that_cannot_be_written(tmp_path):
  """Errors: an unwritable cache names its key."""
  _write(tmp_path, {"one": "a line\n" * 100})
  message = _refusal(_load, tmp_path / "one", tmp_path / "one" / "below")
  assert "config.dataset.data_dir" in message
  assert str(tmp_path / "one" / "below") in message


def test_default_cache(tmp_path, monkeypatch):
  """Data: without a folder, or with a bucket's, it is the user's cache."""
  monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
  monkeypatch.chdir(tmp_path)
  _write(tmp_path, {"one": "a line\n" * 100})
  for cache in ("", "gs://bucket/sets"):
    folder = _load(tmp_path / "one", cache).folder
    assert folder.parent == tmp_path / "xdg" / "jaxplay" / "text"
  assert {p.name for p in tmp_path.iterdir()} == {"one", "xdg"}


# The standard library.


@pytest.fixture(scope="module")
def pythonlib(tmp_path_factory):
  return _load("pythonlib", tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def modules(pythonlib):
  """Split -> contents of files."""
  return {split: _documents(pythonlib, split) for split in text.SPLITS}


def test_pythonlib_is_the_running_interpreters(pythonlib, modules):
  """Data: pythonlib is "the source text of the standard library as bytes"."""
  import argparse
  import concurrent.futures.thread

  everything = [c for of_split in modules.values() for c in of_split]
  for module in (argparse, concurrent.futures.thread):
    content = pathlib.Path(module.__file__).read_bytes()
    assert everything.count(content) == 1
  for module in (np, pytest):  # not of the library
    assert pathlib.Path(module.__file__).read_bytes() not in everything
  assert b"" not in everything
  assert pythonlib.vocab_size == 256
  assert sum(map(len, everything)) > 5_000_000


def test_pythonlib_splits(modules):
  """Data: pythonlib is "split by file into train and validation"."""
  counts = {split: len(contents) for split, contents in modules.items()}
  assert len(set().union(*modules.values())) == sum(counts.values())
  assert counts["train"] > 0.9 * sum(counts.values())
  assert min(counts.values()) >= 3


def test_pythonlib_facts(pythonlib, tmp_path):
  """Data: "hash and version recorded in provenance", the same every time."""
  again = _load("pythonlib", tmp_path)
  assert again.folder != pythonlib.folder
  assert again.facts == pythonlib.facts
  assert json.loads(json.dumps(again.facts)) == again.facts
  assert len(again.facts["sha256"]) == 64
  assert again.facts["python"] == ".".join(map(str, sys.version_info[:3]))


def test_pythonlib_tells_nothing_of_the_machine(pythonlib, modules):
  """Data: nothing that was generated on this machine is in pythonlib."""
  stdlib = sysconfig.get_path("stdlib")
  paths = [p for p in (stdlib, sys.base_prefix) if p.count("/") > 2]
  everything = b"".join(c for of_split in modules.values() for c in of_split)
  for path in paths:  # Not where it is as short as /usr.
    assert path.encode() not in everything
  assert stdlib not in json.dumps(pythonlib.facts)


# Tokenizers.

WORDS = ["one two three\n", "four\n", "two two four one\n"]
END = "<|endoftext|>"


def _word_level(vocab, **kwargs):
  tokenizer = tokenizers.Tokenizer(models.WordLevel(vocab, **kwargs))
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return tokenizer


def _bpe(letters, merges=(), **kwargs):
  letters = {letter: i for i, letter in enumerate(letters)}
  letters |= {a + b: len(letters) + i for i, (a, b) in enumerate(merges)}
  return tokenizers.Tokenizer(models.BPE(letters, list(merges), **kwargs))


def _word_piece(more=()):
  vocab = {"x": 0, "##é": 1, "[UNK]": 2}
  vocab |= {word: i for i, word in enumerate(more, start=3)}
  tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab, unk_token="[UNK]"))
  tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
  return tokenizer


def _unigram(more=(), **kwargs):
  pieces = [("<unk>", 0.0), ("x", -1.0), ("é", -1.0), ("xé", -1.5), *more]
  return tokenizers.Tokenizer(models.Unigram(pieces, 0, **kwargs))


def _saved(tokenizer, folder, name="tokenizer.json"):
  path = folder / name
  tokenizer.save(str(path))
  return str(path)


def _with(tokenizer, folder, train, **kwargs):
  """Loads documents; what is held out is the first, twice."""
  _write(folder / "t", {f"{i:03}": c for i, c in enumerate(train)})
  _write(folder, {"held_out": train[0] * 2})
  return _load(
    folder / "t",
    folder / "c",
    tokenizer=_saved(tokenizer, folder),
    valid_files=str(folder / "held_out"),
    test_files=str(folder / "held_out"),
    splits=["train"],
    **kwargs,
  )


@pytest.fixture(scope="module")
def byte_level():
  """A byte-level BPE that has learnt some words."""
  tokenizer = tokenizers.Tokenizer(models.BPE())
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  trainer = trainers.BpeTrainer(
    vocab_size=400,
    special_tokens=[END],
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    show_progress=False,
  )
  tokenizer.train_from_iterator(["def one():\n    return 'äö'\n"] * 9, trainer)
  return tokenizer


def test_byte_level_tokens_hold_the_text(tmp_path, byte_level):
  """Data: any tokenizers JSON file; its end token separates documents.

  Bits per byte need the exact number of bytes in a token, of which a separator
  is one.
  """
  documents = ["def two(): return 'é€😀'\n", "\n\n  x", "return\r\n\tone"]
  loaded = _with(byte_level, tmp_path, documents)
  tokens = _stream(loaded.splits["train"])
  end = byte_level.token_to_id(END)
  [*pieces, rest] = np.split(tokens, np.flatnonzero(tokens == end) + 1)
  assert not len(rest)
  assert [byte_level.decode(piece[:-1]) for piece in pieces] == documents
  size = sum(len(document.encode()) + 1 for document in documents)
  assert loaded.bytes_per_token["train"] == size / len(tokens)
  assert len(tokens) < size
  assert loaded.vocab_size == byte_level.get_vocab_size()


def test_bytes_are_one_a_token(three_sides):
  """Data: byte-level by default, where bits per byte are those per token."""
  loaded = three_sides()
  assert loaded.bytes_per_token == dict.fromkeys(text.SPLITS, 1.0)
  assert loaded.vocab_size == 256
  assert loaded.splits["train"].dtype == "uint8"


@pytest.mark.parametrize("end", ["</s>", "<|endoftext|>", "[SEP]", None])
def test_end_token_separates(tmp_path, end):
  """Data: without such a token, documents follow one another."""
  vocab = {"four": 0, "one": 1, "two": 2, "three": 3} | (
    {end: 4} if end else {}
  )
  loaded = _with(_word_level(vocab), tmp_path, WORDS)
  separator = [4] if end else []
  expected = [1, 2, 3, *separator, 0, *separator, 2, 2, 0, 1, *separator]
  assert _stream(loaded.splits["train"]).tolist() == expected
  size = sum(map(len, WORDS)) + 3 * len(separator)
  assert loaded.bytes_per_token["train"] == size / len(expected)


_SPELLED = f"a text may say {END}, twice{END}{END} in a row\n"


def _specials(byte_level, **changes):
  """The tokenizer with its end token as an added token of another kind."""
  content = json.loads(byte_level.to_str())
  content["added_tokens"][0] |= changes
  return tokenizers.Tokenizer.from_str(json.dumps(content))


@pytest.mark.parametrize(
  "changes",
  [
    {},
    {"special": False},
    {"lstrip": True, "rstrip": True},
    {"single_word": True},
    {"normalized": True},
  ],
  ids=str,
)
def test_a_text_may_spell_the_end(tmp_path, byte_level, changes):
  """Data: a special token's text in a document is text: it does not end there.

  As many separators as documents, and all of the text is in the tokens.
  """
  documents = [_SPELLED, "no such thing\n", END, f"x {END}\n" * 9]
  tokenizer = _specials(byte_level, **changes)
  loaded = _with(tokenizer, tmp_path, documents)
  tokens = _stream(loaded.splits["train"])
  end = tokenizer.token_to_id(END)
  assert (tokens == end).sum() == len(documents)
  pieces = np.split(tokens, np.flatnonzero(tokens == end) + 1)[:-1]
  assert [tokenizer.decode(piece[:-1]) for piece in pieces] == documents


def test_other_special_tokens_are_text_too(tmp_path, byte_level):
  """Data: none of them is put in for its text, ending or not."""
  tokenizer = tokenizers.Tokenizer.from_str(byte_level.to_str())
  tokenizer.add_special_tokens(["<|system|>", "<pad>"])
  document = "<|system|> says <pad><pad>\n"
  loaded = _with(tokenizer, tmp_path, [document])
  tokens = _stream(loaded.splits["train"])
  assert {tokenizer.token_to_id(s) for s in ("<|system|>", "<pad>")}.isdisjoint(
    tokens
  )
  assert tokenizer.decode(tokens[:-1]) == document


@pytest.mark.parametrize(
  "tokenizer, end",
  [
    (_word_level({"x": 0, "[EOS]": 1, "y": 2}), "[EOS]"),
    (_word_piece(["[SEP]"]), "[SEP]"),
    (_unigram([("</s>", 0.0), (" ", -1.0)]), "</s>"),
    (_bpe(["x", "</s>", " "], ignore_merges=True), "</s>"),
  ],
  ids=["word_level", "word_piece", "unigram", "bpe"],
)
def test_a_model_whose_word_is_the_end(tmp_path, tokenizer, end):
  """Bad input: where the library cannot but end the document, it is refused."""
  tokenizer.add_special_tokens([end])
  _with(tokenizer, tmp_path, ["x x "])
  message = _refusal(_with, tokenizer, tmp_path, ["x ", end])
  assert repr(str(tmp_path / "t" / "001")) in message and end in message
  assert "config.dataset.tokenizer='bytes'" in message


@pytest.mark.parametrize(
  "size, dtype", [(300, "uint16"), (2**16, "uint16"), (2**16 + 1, "uint32")]
)
def test_tokens_fit_their_type(tmp_path, size, dtype):
  """Data: the largest token survives on both sides of two bytes."""
  tokenizer = _word_level({f"w{i}": i for i in range(size)})
  loaded = _with(tokenizer, tmp_path, [f"w0 w{size - 1} w1\n"])
  rows = loaded.splits["train"]
  assert _stream(rows).tolist() == [0, size - 1, 1]
  assert rows.dtype == rows.fetch(np.array([0]))["tokens"].dtype == dtype
  assert loaded.vocab_size == size


def test_vocabulary_with_gaps(tmp_path):
  """Data: the number of tokens is one more than the largest."""
  loaded = _with(_word_level({"one": 3, "two": 900}), tmp_path, ["two one\n"])
  assert loaded.vocab_size == 901
  assert _stream(loaded.splits["train"]).tolist() == [900, 3]


def _partial_byte_level():
  """One that has seen no byte but those of é and x."""
  tokenizer = _bpe(["Ã", "©", "x", "y"])  # as ByteLevel writes C3, A9
  tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
  tokenizer.decoder = decoders.ByteLevel()
  return tokenizer


BYTES = [f"<0x{i:02X}>" for i in range(256)]


@pytest.mark.parametrize(
  "tokenizer, good",
  [
    (_bpe("xé"), "xéxé"),
    (_bpe(["x", "é", "<unk>"], unk_token="<unk>"), "xéxé"),
    (_bpe(["x", "é", "<unk>"], unk_token="<unk>", fuse_unk=True), "xéxé"),
    (_bpe(["x", "é", "<0xC3>"], byte_fallback=True), "xéxé"),
    (_partial_byte_level(), "xéxé"),  # knows the first byte of ã
    (_word_level({"x": 0, "xé": 1, "[UNK]": 2}, unk_token="[UNK]"), "xé x "),
    (_word_level({"x": 0, "xé": 1}), "xé x "),
    (_word_piece(), "xé x "),
    (_unigram(), "xéxé"),
  ],
  ids=lambda value: (
    "" if isinstance(value, str) else type(value.model).__name__
  ),
)
def test_text_that_is_not_valid_in_the_tokenizer(tmp_path, tokenizer, good):
  """Bad input: "text that is not valid in the tokenizer".

  Libraries drop it, or put a token for the unknown: the loss would be that of
  another text.
  """
  tokens = _stream(_with(tokenizer, tmp_path, [good]).splits["train"])
  assert 2 <= len(tokens) <= len(good.encode())
  message = _refusal(_with, tokenizer, tmp_path, [good, good + "ã"])
  assert repr(str(tmp_path / "t" / "001")) in message
  assert repr(str(tmp_path / "tokenizer.json")) in message
  assert "ã" in message
  assert "config.dataset.tokenizer='bytes'" in message


@pytest.mark.parametrize(
  "tokenizer",
  [
    _bpe(["x", *BYTES], byte_fallback=True),
    _unigram([(byte, -9.0) for byte in BYTES], byte_fallback=True),
  ],
  ids=["bpe", "unigram"],
)
def test_byte_fallback_knows_everything(tmp_path, tokenizer):
  """Data: a tokenizer that falls back to bytes takes any text."""
  tokens = _stream(_with(tokenizer, tmp_path, ["xã\n"]).splits["train"])
  names = [tokenizer.id_to_token(token) for token in tokens]
  assert names == ["x", "<0xC3>", "<0xA3>", "<0x0A>"]


def test_a_text_may_spell_the_unknown(tmp_path):
  """Data: where a set's own files say <unk>, that is a word of theirs."""
  tokenizer = _word_level({"one": 0, "<unk>": 1}, unk_token="<unk>")
  loaded = _with(tokenizer, tmp_path, ["one <unk> one\n"])
  assert _stream(loaded.splits["train"]).tolist() == [0, 1, 0]
  _refusal(_with, tokenizer, tmp_path, ["one two one\n"])


def test_not_utf8(tmp_path, byte_level):
  """Bad input: subwords are of characters; bytes take any of them but 0."""
  latin = "caf\xe9 ".encode("latin-1") * 9
  message = _refusal(_with, byte_level, tmp_path, [latin])
  assert "0xe9" in message and "'bytes'" in message
  assert repr(str(tmp_path / "t" / "000")) in message
  loaded = _load(tmp_path / "t", tmp_path / "c", splits=["train"])
  assert loaded.facts["tokenizer"] == "bytes"


@pytest.mark.parametrize(
  "content",
  [
    b"hello",
    b"\xff",
    b"",
    b"{}",
    b"[]",
    b'{"model": {}}',
    b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}',
    None,
  ],
)
def test_not_a_tokenizer(tmp_path, content):
  """Errors: what is no tokenizer, or nothing at all, is named with its key."""
  path = tmp_path / "tokenizer.json"
  if content is not None:
    path.write_bytes(content)
  for name in (path, tmp_path):
    message = _refusal(_load, "x", tmp_path / "c", tokenizer=str(name))
    assert f"config.dataset.tokenizer={str(name)!r}" in message
    assert "'bytes'" in message


def test_without_the_library(tmp_path, monkeypatch):
  """Errors: the extra that a tokenizer needs is named; bytes need none."""
  monkeypatch.setitem(sys.modules, "tokenizers", None)
  message = _refusal(_load, "x", tmp_path / "c", tokenizer="my.json")
  assert "pip install 'jaxplay[tokenizers]'" in message
  _write(tmp_path, {"one": "a line\n" * 100})
  _load(tmp_path / "one", tmp_path / "c")


def test_whole_texts_always_alike(tmp_path):
  """Data: a file made for short inputs or for noise still gives all tokens."""
  tokenizer = _bpe("xyz", [("x", "y")], dropout=0.9)
  tokenizer.enable_truncation(4)
  tokenizer.enable_padding(length=64)
  loaded = _with(tokenizer, tmp_path, ["xyz" * 9, "z"])
  assert _stream(loaded.splits["train"]).tolist() == [3, 2] * 9 + [2]


def test_another_tokenizer_is_another_set(tmp_path):
  """Data: the cache and the facts tell one tokenizer from another."""
  first = _with(_word_level({"one": 0, "two": 1}), tmp_path, ["one two\n"])
  second = _with(_word_level({"one": 1, "two": 0}), tmp_path, ["one two\n"])
  assert _stream(first.splits["train"]).tolist() == [0, 1]
  assert _stream(second.splits["train"]).tolist() == [1, 0]
  assert first.facts["tokenizer"] != second.facts["tokenizer"]
  assert first.facts["sha256"] == second.facts["sha256"]


# Long documents.

LINES = "".join(f"{'wörd€ ' * (i % 4)}end{i}\n" for i in range(300))
ONE_LINE = "".join(f"wörd€😀 {i} return " for i in range(300))


@pytest.mark.parametrize("size", [1, 2, 5, 64, 10**6])
@pytest.mark.parametrize(
  "content", [LINES, ONE_LINE, "a\n" + ONE_LINE, "\n" * 99]
)
def test_blocks(tmp_path, monkeypatch, size, content):
  """Data: a document is read in pieces of whole lines, or else characters."""
  monkeypatch.setattr(text, "_BLOCK_BYTES", size)
  _write(tmp_path, {"one": content})
  document = text._file(tmp_path / "one", "one")
  blocks = [block.decode() for block in document.blocks()]
  assert "".join(blocks) == content
  assert max(len(block.encode()) for block in blocks) <= 2 * size + 3
  if max(len(line.encode()) for line in content.split("\n")) < size:
    assert all(block.endswith("\n") for block in blocks[:-1])
    assert all(len(block.encode()) >= size for block in blocks[:-1])


@pytest.mark.parametrize("content", [LINES, ONE_LINE])
def test_blocks_do_not_show_in_bytes(tmp_path, monkeypatch, content):
  """Data: how a long document is read changes nothing of its bytes."""
  _write(tmp_path, {"one": content})
  whole = _load(tmp_path / "one", tmp_path / "c")
  monkeypatch.setattr(text, "_BLOCK_BYTES", 17)
  pieces = _load(tmp_path / "one", tmp_path / "d")
  assert [_documents(pieces, split)[0][-30:] for split in text.SPLITS]
  joined = [
    b"".join(_documents(loaded, split)[0] for split in text.SPLITS)
    for loaded in (whole, pieces)
  ]
  assert joined[0] == joined[1] == content.encode()


@pytest.mark.parametrize(
  "content, same",
  [(LINES, True), (LINES.replace("\n", "\n    "), False), (ONE_LINE, False)],
)
def test_blocks_in_subwords(tmp_path, monkeypatch, byte_level, content, same):
  """Data: they hold the same text, and differ at most where a block ends.

  Lines that begin without whitespace have the same tokens.
  """
  whole = _with(byte_level, tmp_path, [content]).splits["train"]
  monkeypatch.setattr(text, "_BLOCK_BYTES", 64)
  (tmp_path / "o").mkdir()
  pieces = _with(byte_level, tmp_path / "o", [content]).splits["train"]
  assert byte_level.decode(_stream(pieces)) == content
  equal = np.array_equal(_stream(pieces), _stream(whole))
  assert equal == same
  borders = len(content.encode()) / 64
  assert abs(pieces.num_tokens - whole.num_tokens) <= 3 * borders


# TFDS.


@pytest.fixture(scope="module")
def tiny_texts_dir(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  for kind in tiny_texts.FEATURES:
    tiny_texts.prepare(folder, kind)
  return str(folder)


def _load_text(name, data_dir, **kwargs):
  defaults = dict(
    splits=TFDS_SPLITS,
    sequence_length=1,
    tokenizer="bytes",
    valid_files="",
    test_files="",
    mixtures=(),
  )
  return data.load_text(name, data_dir=str(data_dir), **defaults | kwargs)


@pytest.mark.parametrize("kind", ["plain", "pairs"])
@pytest.mark.parametrize("split", TFDS_SPLITS)
def test_tfds_holds_what_was_written(tiny_texts_dir, kind, split):
  """Data: `tfds:` for text sets, each text once, as TFDS splits them."""
  loaded = _load_text(f"tfds:tiny_texts/{kind}", tiny_texts_dir)
  written = tiny_texts.contents(TFDS_SPLITS[split])
  expected = sorted(content for content in written if content)
  assert sorted(_documents(loaded, split)) == expected
  assert loaded.bytes_per_token[split] == 1.0


def test_tfds_keeps_what_occurs_twice(tiny_texts_dir):
  """Data: a TFDS set is what it is; equal records stay, and on both sides."""
  splits = dict(TFDS_SPLITS, train="test+test", valid="test")
  loaded = _load_text("tfds:tiny_texts/plain", tiny_texts_dir, splits=splits)
  twice, once = (_documents(loaded, split) for split in ("train", "valid"))
  assert sorted(twice) == sorted(once * 2) and len(once) == 5


def test_tfds_split_strings(tiny_texts_dir):
  """Data: another part of a set is another set of tokens."""
  name = "tfds:tiny_texts/plain"
  parts = [
    _load_text(name, tiny_texts_dir, splits=dict(TFDS_SPLITS, train=train))
    for train in ("train[:9]", "train[9:]", "train")
  ]
  first, second, whole = (_documents(part, "train") for part in parts)
  assert first + second == whole
  assert len({part.facts["sha256"] for part in parts}) == 3


def test_tfds_with_a_tokenizer(tiny_texts_dir, tmp_path, byte_level):
  """Data: TFDS's texts, too, as subwords."""
  path = _saved(byte_level, tmp_path)
  name = "tfds:tiny_texts/plain"
  rows = _load_text(name, tiny_texts_dir, tokenizer=path).splits["valid"]
  found = byte_level.decode(_stream(rows)[:-1], skip_special_tokens=False)
  expected = [c.decode() for c in tiny_texts.contents("validation") if c]
  assert sorted(found.split(END)) == sorted(expected)


def test_tfds_without_texts(tiny_texts_dir):
  """Errors: a set without text says what it has instead."""
  message = _refusal(_load_text, "tfds:tiny_texts/numbers", tiny_texts_dir)
  assert "tiny_texts/numbers" in message and "['number']" in message


def test_tfds_bad_split(tiny_texts_dir, tmp_path):
  """Errors: a split that is none names the key, as for images."""
  splits = dict(TFDS_SPLITS, valid="nope")
  name = "tfds:tiny_texts/plain"
  message = _refusal(_load_text, name, tiny_texts_dir, splits=splits)
  assert "config.dataset.valid_split='nope'" in message
  # But not of a set that is only trained on.
  rest = _write(tmp_path, {"one": "a line\n" * 100}) / "one"
  mixtures = ((0, ((name, 1.0),)),)
  loaded = _load_text(
    f"text:{rest}", tiny_texts_dir, splits=splits, mixtures=mixtures
  )
  assert len(_documents(loaded, "train")) == 22


# Configs.


def _config(**overrides):
  config = config_lib.base()
  values = {
    "model.name": "lm",
    "model.norm": "rms",
    "dataset.name": "pythonlib",
  }
  for key, value in (values | overrides).items():
    config_lib.override(config, key, value)
  return config


@pytest.mark.parametrize("name", ["pythonlib", "text:some/*", "tfds:lm1b"])
def test_texts_need_a_language_model(name):
  """Errors: text to a model of images is refused, before anything is read."""
  config_lib.validate(_config(**{"dataset.name": name}))
  config = _config(**{"dataset.name": name, "model.name": "mlp"})
  config_lib.override(config, "model.norm", "none")
  if name.startswith("tfds:"):  # It may be of images or of texts.
    config_lib.validate(config)
    return
  message = _refusal(config_lib.validate, config)
  assert (
    f"config.dataset.name names {name!r}" in message and "'digits'" in message
  )


@pytest.mark.parametrize("name", ["digits", "synthetic", "", "pythonlibs"])
def test_language_models_need_texts(name):
  """Errors: images to a language model are refused, with what it can take."""
  message = _refusal(config_lib.validate, _config(**{"dataset.name": name}))
  assert f"config.dataset.name names {name!r}" in message
  assert "'pythonlib'" in message and "text:" in message


def test_texts_are_not_moved():
  """Errors: augmentation is of images."""
  message = _refusal(
    config_lib.validate, _config(**{"dataset.augment": "crop_flip"})
  )
  assert "config.dataset.augment is 'crop_flip'" in message


@pytest.mark.parametrize("key", ["valid_files", "test_files"])
def test_files_to_hold_out_are_of_files(key):
  """Errors: pythonlib is split by its content, whatever files are named."""
  overrides = {f"dataset.{key}": "some/*"}
  message = _refusal(config_lib.validate, _config(**overrides))
  assert key in message and "'pythonlib'" in message
  config_lib.validate(_config(**overrides, **{"dataset.name": "text:other/*"}))
