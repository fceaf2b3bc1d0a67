"""Mixtures: shares, order, phases, and where their sources come from."""

import fractions

import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay import data
from jaxplay.data import dataset, order

BATCH = 12
# Three sets with odd weights; from step 30 on, two others of another size.
SETS = ((0, 50, 0.3), (50, 7, 1), (57, 500, 2.45))
LATER = ((57, 500, 0.4), (557, 90, 7.0))
PHASES = ((0, SETS), (30, LATER))


def _mixed(step, num_steps, phases=PHASES, seed=0, batch_size=BATCH):
  mixed = order.mixed_indices(seed, step, batch_size, phases, num_steps)
  return mixed.reshape(num_steps, batch_size)


def _own(indices, first, size):
  """Those of one set, in their order, as indices of its own."""
  indices = indices.reshape(-1)
  return indices[(indices >= first) & (indices < first + size)] - first


def _shares(parts):
  total = sum(weight for _, _, weight in parts)
  return {first: (size, weight / total) for first, size, weight in parts}


# Shares.


@pytest.mark.parametrize("batch_size", [1, 12, 256])
def test_each_batch_holds_the_shares(batch_size):
  """Data: "named sources with weights", kept in every single batch."""
  mixed = _mixed(0, 60, batch_size=batch_size)
  for steps, parts in ((mixed[:30], SETS), (mixed[30:], LATER)):
    for first, (size, share) in _shares(parts).items():
      counts = np.array([len(_own(batch, first, size)) for batch in steps])
      assert np.abs(counts - share * batch_size).max() < 2
      # And the whole of what is owed never grows.
      so_far = counts.cumsum() - share * batch_size * np.arange(1, 31)
      assert np.abs(so_far).max() < 2
    known = sum(len(_own(steps, f, s)) for f, s, _ in parts)
    assert known == steps.size  # And nothing else.


@pytest.mark.parametrize(
  "weights",
  [
    (1, 2, 5),
    (0.1, 0.2, 0.5),
    (7.5,),
    (1e-300, 1.0, 1e300),
    (1 / 3, 1 / 7, 0.1, 1e-9),
    (1,) * 20,
  ],
)
def test_counts(weights):
  """Data: shares are exact in the long run, and no count ever falls."""
  exact = [fractions.Fraction(weight) for weight in weights]
  exact = [weight / sum(exact) for weight in exact]
  last = [0] * len(weights)
  # Also as far as a run can go: 2**31 steps of 2**31 examples.
  for positions in [*range(200), 10**6, 2**31 - 1, 2**62 - 1, 2**62]:
    counts = order._counts(weights, positions)
    assert sum(counts) == positions
    assert all(a <= b for a, b in zip(last, counts, strict=True))
    for count, share in zip(counts, exact, strict=True):
      assert abs(count - share * positions) < 1 + np.log(len(weights) + 1)
    last = counts
  period = 8 * 10**6
  if set(weights) == {1, 2, 5}:
    assert order._counts(weights, period) == [10**6, 2 * 10**6, 5 * 10**6]


# Order.


def test_a_stretch_equals_its_steps():
  """Idea 3: "exactly resumable": the position is the step, in mixtures too."""
  whole = _mixed(0, 60)
  for start, steps in [(0, 1), (13, 30), (29, 2), (30, 5), (59, 1), (7, 0)]:
    part = _mixed(start, steps)
    np.testing.assert_array_equal(part, whole[start : start + steps])
  one_by_one = [_mixed(step, 1) for step in range(60)]
  np.testing.assert_array_equal(np.concatenate(one_by_one), whole)
  assert whole.dtype == np.int32


def test_far_away_steps():
  """Idea 3: a step is as cheap to reach at the end of the longest run."""
  phases = ((0, SETS), (2**30, LATER))
  for step in (2**30 - 1, 2**31 - 2):
    two = _mixed(step, 2, phases, batch_size=2**12)
    np.testing.assert_array_equal(
      two[1:], _mixed(step + 1, 1, phases, batch_size=2**12)
    )


def test_each_set_goes_through_its_epochs():
  """Idea 3: each set is seen in whole permutations, on across the switch."""
  mixed = _mixed(0, 400)
  sizes = {first: size for first, size, _ in (*SETS, *LATER)}
  epochs = {}
  for first, size in sizes.items():
    own = _own(mixed, first, size)
    epochs[first] = len(own) // size
    for epoch in range(epochs[first]):
      part = own[epoch * size : (epoch + 1) * size]
      np.testing.assert_array_equal(np.sort(part), np.arange(size))
  # Of the set of both phases: begun in one, not yet ended.
  before = len(_own(mixed[:30], 57, 500))
  assert 0 < before < 500 and epochs[57] == 0
  assert len(set(_own(mixed, 57, 500))) == len(_own(mixed, 57, 500)) > before
  assert epochs[50] > 5 and epochs[557] > 5


def test_one_set_is_no_mixture():
  """Idea 3: a mixture of one set has the order of that set alone.

  So a run may get its first mixture in the cooldown, and equal its trunk before
  that.
  """
  alone = order.batch_indices(3, 5, BATCH, 50, 40)
  for phases in (
    ((0, ((0, 50, 0.7),)),),
    ((0, ((0, 50, 1.0),)), (20, ((0, 50, 9.0),))),
    ((0, ((0, 50, 1.0),)), (45, ((0, 50, 1.0), (50, 9, 1.0)))),
  ):
    mixed = _mixed(5, 40, phases, seed=3)
    np.testing.assert_array_equal(mixed.reshape(-1), alone)


def test_a_later_phase_changes_nothing_before_it():
  """S6: another mixture for the cooldown leaves what was before as it was."""
  trunk = _mixed(0, 60, PHASES[:1])
  np.testing.assert_array_equal(_mixed(0, 60)[:30], trunk[:30])
  assert not np.array_equal(_mixed(0, 60)[30:], trunk[30:])
  # What both of its phases mix goes on where it was.
  early = ((0, SETS), (30, LATER), (31, LATER), (50, SETS))
  np.testing.assert_array_equal(_mixed(0, 60, early)[:31], _mixed(0, 60)[:31])
  own = _own(_mixed(0, 100, early), 50, 7)
  np.testing.assert_array_equal(
    own, _own(_mixed(0, 100, PHASES[:1]), 50, 7)[: len(own)]
  )


def test_sets_of_one_size_are_not_in_step():
  """Data: two sets of one size, half and half, have orders of their own."""
  mixed = _mixed(0, 10, ((0, ((0, 60, 1), (60, 60, 1))),))
  first, second = _own(mixed, 0, 60), _own(mixed, 60, 60)
  assert len(first) == len(second) == 60
  assert (first == second).mean() < 0.2


def test_seeds_differ():
  """M2: each seed has its own order of every set, in the same shares."""
  one, two = _mixed(0, 30, seed=0), _mixed(0, 30, seed=1)
  for first, size, _ in SETS:
    own = [_own(mixed, first, size) for mixed in (one, two)]
    assert len(own[0]) == len(own[1])
    assert not np.array_equal(*own)


def test_train_examples_of_phases():
  """Idea 3: batches of a run are made of its mixture, whatever its size."""
  examples = data.train_examples(
    seed=0,
    step=25,
    num_steps=10,
    batch_size=BATCH,
    num_examples=647,
    augment="none",
    augment_pixels=0,
    phases=PHASES,
  )
  assert examples.keys() == {"index"}
  np.testing.assert_array_equal(examples["index"], _mixed(25, 10))


# Sources.


class _Numbers:
  """Examples that are their own numbers."""

  def __init__(self, first, num_examples):
    self.first, self.num_examples = first, num_examples
    self.nbytes = 16 * num_examples

  def fetch(self, indices):
    indices = np.asarray(indices)
    assert ((0 <= indices) & (indices < self.num_examples)).all()
    return {"tokens": (indices + self.first)[:, None] * np.array([1, -1])}


def test_concatenated_equals_its_parts():
  """Data: an index of the whole is that of one part, less those before it."""
  parts = (_Numbers(100, 5), _Numbers(200, 1), _Numbers(300, 8))
  whole = dataset.Concatenated(parts)
  assert whole.num_examples == 14 and whole.nbytes == 14 * 16
  expected = [*range(100, 105), 200, *range(300, 308)]
  for index in (
    np.arange(14),
    np.array([13, 0, 5, 4, 6, 5]),
    np.array([], int),
  ):
    fetched = whole.fetch(index)["tokens"]
    assert fetched.shape == (len(index), 2)
    assert fetched[:, 0].tolist() == [expected[i] for i in index]
    assert (fetched[:, 1] == -fetched[:, 0]).all()


def _texts(folder, letters, number=150):
  """A folder for each letter, of files of that letter only."""
  for letter in letters:
    (folder / letter).mkdir()
    for i in range(1, number + 1):
      (folder / letter / f"{i}.txt").write_text(letter * i)
  return {letter: f"text:{folder / letter}" for letter in letters}


def _load(name, folder, mixtures, **kwargs):
  defaults = dict(
    splits={},
    sequence_length=16,
    tokenizer="bytes",
    valid_files="",
    test_files="",
  )
  return data.load_text(
    name, data_dir=str(folder / "cache"), mixtures=mixtures, **defaults | kwargs
  )


def _letters(tokens):
  """How many rows are of each letter: the most of their tokens."""
  most = [max(set(row) - {0}, key=list(row).count) for row in tokens.tolist()]
  return {chr(letter): most.count(letter) for letter in set(most)}


def test_batches_are_of_the_texts(tmp_path):
  """S6: "another mixture from a given step": what each batch is made of."""
  names = _texts(tmp_path, "abc")
  loaded = _load(
    names["a"],
    tmp_path,
    ((0, ((names["a"], 3), (names["b"], 1))), (5, ((names["c"], 1.0),))),
  )
  kwargs = dict(seed=0, batch_size=16, augment="none", augment_pixels=0)
  batches = data.train_batches(
    loaded.splits["train"],
    start_step=0,
    stop_step=8,
    rows=np.arange(16),
    workers=0,
    phases=loaded.phases,
    **kwargs,
  )
  found = [_letters(batch["tokens"]) for batch in batches]
  assert found == [{"a": 12, "b": 4}] * 5 + [{"c": 16}] * 3
  # What is held out is the main set's.
  for split in ("valid", "test"):
    rows = loaded.splits[split]
    tokens = rows.fetch(np.arange(rows.num_examples))["tokens"]
    assert set(np.unique(tokens)) <= {0, ord("a")}
  assert loaded.bytes_per_token.keys() == {"train", "valid", "test"}


def test_only_what_is_trained_on_is_there(tmp_path):
  """M3: no host reads what it does not use, such as an unmixed main set."""
  names = _texts(tmp_path, "ab")
  loaded = _load(names["a"], tmp_path, ((0, ((names["b"], 1.0),)),))
  rows = loaded.splits["train"]
  tokens = rows.fetch(np.arange(rows.num_examples))["tokens"]
  assert set(np.unique(tokens)) == {0, ord("b")}
  assert loaded.phases == ((0, ((0, rows.num_examples, 1.0),)),)


def test_places_of_the_texts_stay(tmp_path):
  """S6: a branch that adds a text for its cooldown goes on bit for bit."""
  names = _texts(tmp_path, "abc")
  mixed = ((names["b"], 1.0), (names["a"], 0.5))
  trunk = _load(names["a"], tmp_path, ((0, mixed),))
  branch = _load(
    names["a"], tmp_path, ((0, mixed), (9, ((names["c"], 1.0), *mixed)))
  )
  assert branch.phases[0] == trunk.phases[0]
  rows = trunk.splits["train"]
  everything = np.arange(rows.num_examples)
  np.testing.assert_array_equal(
    rows.fetch(everything)["tokens"],
    branch.splits["train"].fetch(everything)["tokens"],
  )
  # As does one that only now gets a mixture.
  alone = _load(names["a"], tmp_path, ())
  first = _load(names["a"], tmp_path, ((0, ((names["a"], 1.0),)), (9, mixed)))
  assert alone.phases == ()
  assert first.phases[0] == (
    0,
    ((0, alone.splits["train"].num_examples, 1.0),),
  )


def test_facts_name_every_text(tmp_path):
  """Data: the provenance tells the hash of all that is trained on."""
  names = _texts(tmp_path, "ab")
  mixtures = ((0, ((names["a"], 1.0), (names["b"], 1.0))),)
  loaded = _load(names["a"], tmp_path, mixtures)
  alone = [_load(names[letter], tmp_path, ()).facts for letter in "ab"]
  assert loaded.facts["mixture"] == alone
  assert loaded.facts["sha256"] == alone[0]["sha256"]
  assert "mixture" not in alone[0]


def test_a_small_text_can_be_mixed_in(tmp_path):
  """Data: of what is only trained on, no held-out rows are asked for."""
  names = _texts(tmp_path, "a") | _texts(tmp_path, "b", number=4)
  mixtures = ((0, ((names["a"], 1.0), (names["b"], 1.0))),)
  loaded = _load(names["a"], tmp_path, mixtures, sequence_length=4)
  (_, (_, (_, size, _))), *_ = loaded.phases
  tokens = loaded.facts["mixture"][1]["splits"]["train"]["tokens"]
  assert 0 < size == (tokens - 1) // 4
  with pytest.raises(jaxplay.UserError):
    _load(names["b"], tmp_path, (), sequence_length=4)


def _refused(call, *args, **kwargs):
  with pytest.raises(jaxplay.UserError) as caught:
    call(*args, **kwargs)
  message = str(caught.value)
  assert "\n" not in message
  return message


@pytest.mark.parametrize("split", ["valid", "test"])
def test_no_text_holds_what_is_held_out(tmp_path, split):
  """Bad input: "a validation split that shares a file with training".

  Also one of a mixture's, under another name.
  """
  names = _texts(tmp_path, "ab")
  held_out = tmp_path / "held out.txt"
  held_out.write_text("b" * 77)  # As is one of those.
  mixtures = ((0, ((names["a"], 1.0),)), (5, ((names["b"], 1.0),)))
  files = {f"{split}_files": str(held_out)}
  message = _refused(_load, names["a"], tmp_path, mixtures, **files)
  assert f"the {split} split" in message and repr(names["b"]) in message
  assert repr(str(held_out)) in message
  held_out.write_text("b" * 777)
  _load(names["a"], tmp_path, mixtures, **files)


@pytest.mark.parametrize("weight", [None, 0.25])
def test_validation_rows_can_be_trained_on(tmp_path, weight):
  """E6: as rows of their text, whose epochs then hold each row once, and whose
  share of a mixture stays."""
  names = _texts(tmp_path, "ab")
  mixtures = ()
  if weight is not None:
    mixtures = ((0, ((names["b"], 1.0), (names["a"], weight))),)
  usual = _load(names["a"], tmp_path, mixtures)
  folded = _load(names["a"], tmp_path, mixtures, fold_validation=True)
  assert folded.splits.keys() == {"train", "test"}

  def rows(loaded, split):
    source = loaded.splits[split]
    return source.fetch(np.arange(source.num_examples))["tokens"].tolist()

  expected = sorted(rows(usual, "train") + rows(usual, "valid"))
  assert sorted(rows(folded, "train")) == expected
  assert rows(folded, "test") == rows(usual, "test")
  if weight is None:
    assert folded.phases == ()
    return
  (_, before), (_, after) = usual.phases[0], folded.phases[0]
  number = usual.splits["valid"].num_examples
  assert after == (before[0], (before[1][0], before[1][1] + number, weight))
  first, size, _ = after[1]
  letters = folded.splits["train"].fetch(np.arange(first, first + size))
  assert _letters(letters["tokens"]) == {"a": size}


def test_validation_files_that_are_tested_on_stay_out(tmp_path):
  """E6: both may name one file, but not if it would be trained on."""
  names = _texts(tmp_path, "ab")
  files = {"valid_files": names["b"][5:], "test_files": names["b"][5:]}
  _load(names["a"], tmp_path, (), **files)
  fold = {"fold_validation": True}
  message = _refused(_load, names["a"], tmp_path, (), **files, **fold)
  assert "fold_validation" in message
  files["test_files"] = str(tmp_path / "b" / "7.txt")
  shorter = {"sequence_length": 3}
  message = _refused(
    _load, names["a"], tmp_path, (), **files, **fold, **shorter
  )
  assert "7.txt" in message and "test_files" in message
  unread = {"with_test": False}  # Then nothing is tested on it.
  _load(names["a"], tmp_path, (), **files, **fold, **shorter, **unread)


def test_a_cut_file_is_not_trained_on_as_a_whole(tmp_path):
  """Bad input: the end of a file is held out from a folder that has it, too."""
  names = _texts(tmp_path, "a")
  book = tmp_path / "a" / "book.txt"
  book.write_text("".join(f"line {i}\n" for i in range(500)))
  mixtures = ((0, ((names["a"], 1.0),)),)
  message = _refused(_load, f"text:{book}", tmp_path, mixtures)
  assert "book.txt" in message and repr(names["a"]) in message
  # Nor is it the other way round, when the whole is held out.
  files = {"valid_files": str(book)}
  other = _texts(tmp_path, "b")["b"]
  mixtures = ((0, ((f"text:{book}", 1.0),)),)
  message = _refused(_load, other, tmp_path, mixtures, **files)
  assert "book.txt" in message


def test_overlapping_texts_agree(tmp_path):
  """Data: sides go by content, so a part of a set can be mixed in."""
  names = _texts(tmp_path, "ab", number=200)
  everything = f"text:{tmp_path / '[ab]' / '*.txt'}"
  mixtures = ((0, ((everything, 1.0),)), (9, ((names["b"], 1.0),)))
  loaded = _load(everything, tmp_path, mixtures)
  assert (
    len({first for _, parts in loaded.phases for first, _, _ in parts}) == 2
  )


# Configs.


def _config(mixtures, **overrides):
  config = config_lib.base()
  values = {
    "model.name": "lm",
    "model.norm": "rms",
    "dataset.name": "pythonlib",
    "dataset.mixtures": mixtures,
  }
  for key, value in (values | overrides).items():
    config_lib.override(config, key, value)
  return config


PYTHON = (("pythonlib", 1.0),)


@pytest.mark.parametrize(
  "mixtures",
  [
    (),
    ((0, PYTHON),),
    ((0, PYTHON), (10, (("text:some/*", 2), ("tfds:lm1b", 1e-3)))),
    ((0, PYTHON), (1, PYTHON), (2**31 - 1, PYTHON)),
  ],
)
def test_mixtures_that_are_well_formed(mixtures):
  """Configs: also as lists, which they are in JSON and on a command line."""
  config = _config(mixtures)
  config_lib.validate(config)
  config_lib.validate(config_lib.from_json(config_lib.as_json(config)))


@pytest.mark.parametrize(
  "mixtures, word",
  [
    (("pythonlib",), "expected ((step, "),
    ((("pythonlib", 1.0),), "expected ((step, "),
    ((0, PYTHON), "expected ((step, "),
    (((0, "pythonlib"),), "expected ((step, "),
    (((0, ()),), "expected ((step, "),
    ((("0", PYTHON),), "expected ((step, "),
    (((0.0, PYTHON),), "expected ((step, "),
    (((0, (("pythonlib",),)),), "expected ((step, "),
    (((0, (("pythonlib", "1"),)),), "expected ((step, "),
    (((0, ((1.0, "pythonlib"),)),), "expected ((step, "),
    *(
      (((0, (("pythonlib", weight),)),), "expected ((step, ")
      for weight in (0, 0.0, -1, float("nan"), float("inf"))
    ),
    (((0, PYTHON * 2),), "twice at step 0"),
    (((5, PYTHON),), "begins at step 5"),
    (((-1, PYTHON),), "step -1"),
    (((0, PYTHON), (9, PYTHON), (9, PYTHON)), "step 9 comes after 9"),
    (((0, PYTHON), (9, PYTHON), (3, PYTHON)), "step 3 comes after 9"),
    (((0, PYTHON), (9, (("digits", 1),))), "'digits'"),
    (((0, (("lm1b", 1),)),), "'lm1b'"),
  ],
)
def test_malformed_mixtures(mixtures, word):
  """Errors: a mixture that is none is refused before anything is read."""
  message = _refused(config_lib.validate, _config(mixtures))
  assert word in message


def test_images_are_not_mixed():
  """Configs: a mixture has no effect on a model of images, and is said so."""
  config = config_lib.base()
  config_lib.override(config, "dataset.mixtures", ((0, (("tfds:x", 1.0),)),))
  [note] = config_lib.without_effect(config)
  assert "config.dataset.mixtures" in note and "config.model.name" in note
