"""Text as rows of tokens: packed, memory-mapped, split by document.

The first use of a text set writes its tokens to a folder of the user's cache,
one file for each split; from then on they are mapped into memory, so a set may
be larger than it. Of equal documents only the first is kept, and its split is a
function of its content: nothing is in two splits, and adding documents moves
none; for few documents, see `_drawn`. (TFDS sets keep the splits of TFDS.)

A split is one long sequence of tokens, each document ended by a separator. Row
`i` holds the tokens from `i * length` to `(i + 1) * length`, both included: it
has `length` targets, and over all rows every token but the first is a target
exactly once. (Less than a row at the end is left out.)
"""

import dataclasses
import functools
import glob
import hashlib
import json
import os
import pathlib
import platform
import re
import shutil
import sysconfig
import uuid
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, TypedDict

import msgspec
import numpy as np

import jaxplay
from jaxplay.data import ranges

SPLITS = ("train", "valid", "test")
# Byte 0 ends a document: text does not hold it.
_SEPARATOR = 0
# Shares of the documents, chosen by content, unless the user names files.
_HELD_OUT = {"test": 0.02, "valid": 0.02}
# A file of a larger share of the text is not held out as a whole.
_LARGE = 0.1
# Documents are read and tokenized in pieces of about this size, which end with
# a line. Where one ends, subwords may differ from those of the whole document:
# a line end and the indentation after it are not one token.
_BLOCK_BYTES = 2**20
_FORMAT = 2  # version of the files in the cache

# What differs between installations of one version, or is not source text.
_NOT_STANDARD = {
  *("site-packages", "dist-packages", "__pycache__", "test", "tests"),
  *("idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip"),
  *("sitecustomize.py", "usercustomize.py"),
}


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of `length` + 1 tokens of one split, in a file."""

  path: str
  dtype: str
  num_tokens: int
  length: int
  vocab_size: int
  split: str
  name: str  # of the data set

  @property
  def num_examples(self):
    return (self.num_tokens - 1) // self.length

  @property
  def nbytes(self):
    itemsize = np.dtype(self.dtype).itemsize
    return self.num_examples * (self.length + 1) * itemsize

  def fetch(self, indices):
    tokens = _mapped(self.path, self.dtype)
    rows = np.lib.stride_tricks.sliding_window_view(tokens, self.length + 1)
    fetched = rows[:: self.length][np.asarray(indices)]
    ranges.check(
      fetched,
      self.vocab_size,
      what="tokens",
      split=self.split,
      name=self.name,
      fix=_damaged(self.path),
    )
    return {"tokens": fetched}


def _damaged(path):
  folder = os.path.dirname(path)
  return (
    f"{path!r} is damaged; delete the folder {folder!r} to prepare it again"
  )


# Not in `Rows`: that is sent to reader processes, and would take the tokens.
@functools.lru_cache(maxsize=64)
def _mapped(path, dtype):
  return np.memmap(path, dtype, mode="r")


@dataclasses.dataclass(frozen=True)
class Text:
  """The splits of a text source, and facts about them.

  Attributes:
    splits: The splits that are used, of `SPLITS`.
    vocab_size: Number of different tokens.
    bytes_per_token: Of each split, separators counted as one byte.
    facts: For the provenance: name, version, hash of the content, sizes.
    folder: Where its files are.
  """

  splits: Mapping[str, Rows]
  vocab_size: int
  bytes_per_token: Mapping[str, float]
  facts: Mapping[str, Any]
  folder: pathlib.Path


def load(
  name: str,
  *,
  sequence_length: int,
  tokenizer: str,
  valid_files: str,
  test_files: str,
  cache: str,
  tfds_texts: Any = None,
  splits: Sequence[str] = SPLITS,
) -> Text:
  """Loads a text source, which is tokenized at its first use.

  Args:
    name: `pythonlib`, the source of the running interpreter's standard
      library; `text:PATTERN`, a file, a folder or a glob; or `tfds:...`.
    sequence_length: Number of tokens to predict per row.
    tokenizer: "bytes", or the path of a Hugging Face `tokenizers` JSON file.
    valid_files: For `text:`, the validation files; empty: a share of the
      documents or, of few, the ends of them.
    test_files: As `valid_files`. The two may share files with each other, but
      not with training.
    cache: Folder for token files; empty or a URL: in the user's cache.
    tfds_texts: For `tfds:...`, (its identity, split -> `Record`s), of the
      splits that will be used.
    splits: Splits that will be used: each has to hold a row.

  Raises:
    jaxplay.UserError: There is no such text, or it cannot be used.
  """
  encoder = encoder_of(tokenizer)
  if name.startswith("tfds:"):
    identity, documents = tfds_texts
  elif name == "pythonlib":
    identity = documents = {"": _standard_library()}
  else:
    identity = documents = _text_files(name, valid_files, test_files)
  key = json.dumps([_FORMAT, name, encoder.identity, identity], default=str)
  key = hashlib.sha256(key.encode()).hexdigest()[:16]
  # A URL is where TFDS sets are; nothing can be mapped from there.
  remote = not cache or "://" in cache
  root = _default_cache() if remote else pathlib.Path(cache).expanduser()
  folder = root / f"tokens-{key}"
  if not os.path.exists(folder / "meta.json"):
    _prepare(folder, name, documents, encoder)
  return _read(folder, name, sequence_length, splits)


def shared_document(
  train: Text, held_out: Text, split: str, trained: str = "train"
) -> str | None:
  """Returns the name of a held-out document that is also trained on, if any.

  Args:
    train: The text that is trained on.
    held_out: The text that is held out.
    split: The split of `held_out`.
    trained: The split of `train`.
  """
  ours = np.fromfile(train.folder / f"{trained}.documents", np.uint64)
  held = np.fromfile(held_out.folder / f"{split}.documents", np.uint64)
  common = np.flatnonzero(np.isin(held, ours))
  if not len(common):
    return None
  names = (held_out.folder / f"{split}.names").read_text(encoding="utf-8")
  return names.splitlines()[common[0]]


def _default_cache():
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(home) / "jaxplay" / "text"


class _Split(TypedDict):
  documents: int
  tokens: int
  bytes: int
  sha256: str


class _Facts(TypedDict):
  """meta.json of a folder of the cache."""

  name: str
  python: str | None
  sha256: str
  tokenizer: str
  vocab_size: int
  dtype: Literal["uint8", "uint16", "uint32"]
  splits: dict[str, _Split]


def _facts(folder):
  """Returns meta.json, checked against the token files."""
  path = folder / "meta.json"
  try:
    facts = json.loads(path.read_bytes().decode())
    msgspec.convert(facts, _Facts, strict=True)
    size = np.dtype(facts["dtype"]).itemsize
    for split in SPLITS:
      path = folder / f"{split}.tokens"
      if path.stat().st_size != facts["splits"][split]["tokens"] * size:
        raise ValueError("its size differs from meta.json")
  # ValueError: no UTF-8, no JSON, or another shape.
  except (OSError, ValueError, KeyError, RecursionError) as error:
    raise jaxplay.UserError(f"{_damaged(str(path))} ({error})") from None
  return facts


def _read(folder, name, length, splits):
  meta = _facts(folder)
  for split in splits:
    sizes = meta["splits"][split]
    if sizes["tokens"] <= length:
      advice = "use a shorter length, or more text"
      if name.startswith("text:") and split != "train":
        advice += (
          f" (2% of it is held out), or set config.dataset.{split}_files"
        )
      raise jaxplay.UserError(
        f"the {split} split of dataset {name!r} has {sizes['tokens']:,} tokens"
        f" in {sizes['documents']} documents, not enough for one row of"
        f" config.dataset.sequence_length={length}; {advice}"
      )
  return Text(
    splits={
      split: Rows(
        str(folder / f"{split}.tokens"),
        meta["dtype"],
        meta["splits"][split]["tokens"],
        length,
        meta["vocab_size"],
        split,
        name,
      )
      for split in splits
    },
    vocab_size=meta["vocab_size"],
    bytes_per_token={
      split: meta["splits"][split]["bytes"] / meta["splits"][split]["tokens"]
      for split in splits
    },
    facts=meta,
    folder=folder,
  )


# Documents have a name, blocks of bytes and, if they are a part of a document,
# the digest of the whole.


@dataclasses.dataclass(frozen=True)
class Record:
  """A document in memory."""

  name: str
  content: bytes
  part_of: bytes = b""

  def blocks(self) -> Iterator[bytes]:
    yield self.content


@dataclasses.dataclass(frozen=True)
class _File:
  """The bytes from `begin` to `end` of a file as a document."""

  path: pathlib.Path
  name: str  # without folders that differ between machines
  modified: int  # nanoseconds since 1970
  begin: int
  end: int
  part_of: bytes = b""

  @property
  def size(self):
    return self.end - self.begin

  def blocks(self) -> Iterator[bytes]:
    with open(self.path, "rb") as file:
      at = self.begin
      while at < self.end:
        stop = _line_end(file, min(at + _BLOCK_BYTES, self.end), self.end)
        file.seek(at)
        yield file.read(stop - at)
        at = stop


def _line_end(file, at, end):
  """Returns the end of the line with byte `at`; of a long line, a character."""
  file.seek(at)
  line = file.readline(min(_BLOCK_BYTES, end - at))
  if line.endswith(b"\n") or at + len(line) == end:
    return at + len(line)
  return _character(file, at, end)


def _character(file, at, end):
  """Returns the start of the first UTF-8 character from byte `at` on."""
  file.seek(at)
  for byte in file.read(3):
    if byte & 0xC0 != 0x80:  # not a continuation byte
      break
    at += 1
  return min(at, end)


def _file(path, name):
  stat = path.stat()
  return _File(path, name, stat.st_mtime_ns, 0, stat.st_size)


def _standard_library():
  root = pathlib.Path(sysconfig.get_path("stdlib"))
  found = []
  for folder, folders, files in os.walk(root):
    folders[:] = filter(_is_standard, folders)
    for file in filter(_is_standard, files):
      path = pathlib.Path(folder, file)
      if path.suffix == ".py" and path.stat().st_size:
        found.append(_file(path, path.relative_to(root).as_posix()))
  if not found:
    raise jaxplay.UserError(
      f"dataset 'pythonlib' does not exist: {str(root)!r} holds no source of"
      " the standard library; use 'text:<path or glob>'"
    )
  return sorted(found, key=lambda document: document.name)


def _is_standard(name):
  # Files generated for a machine contain its paths.
  return name not in _NOT_STANDARD and not name.startswith(
    ("_sysconfig", "config-")
  )


def _text_files(name, valid_files, test_files):
  """Returns split -> documents; "" for those still to be divided."""
  documents = {"": _matching(name.removeprefix("text:"), repr(name))}
  for split, pattern in (("valid", valid_files), ("test", test_files)):
    if pattern:
      key = f"config.dataset.{split}_files={pattern!r}"
      documents[split] = _matching(pattern, key)
  return documents


def _matching(pattern, where):
  path = pathlib.Path(pattern).expanduser()
  if pattern and path.is_dir():
    paths = [
      p
      for p in path.rglob("*")
      if not any(part.startswith(".") for part in p.relative_to(path).parts)
    ]
  elif path.is_file():  # Its name may hold brackets.
    paths = [path]
  else:
    paths = [pathlib.Path(p) for p in glob.glob(str(path), recursive=True)]
  paths = sorted(p for p in paths if p.is_file())
  if not paths:
    raise jaxplay.UserError(
      f"no file matches {where}; expected a file, a folder, or a glob such as"
      " 'texts/**/*.txt'"
    )
  for path in paths:
    if not path.stat().st_size:
      raise jaxplay.UserError(
        f"{str(path)!r} is empty; remove it, or narrow {where}"
      )
  return [_file(path, str(path)) for path in paths]


def _prepare(folder, name, documents, encoder):
  """Writes the token files of all splits; the folder appears when finished."""
  partial = folder.with_name(f"{folder.name}-{uuid.uuid4().hex}.partial")
  try:
    partial.mkdir(parents=True)
    if "" in documents:
      documents = _divided(name, documents)
    splits = {
      split: _write_split(partial, split, documents.get(split, ()), encoder)
      for split in SPLITS
    }
    meta = {
      "name": name,
      "python": platform.python_version() if name == "pythonlib" else None,
      "sha256": _combined(splits, "sha256"),
      "tokens_sha256": _combined(splits, "tokens_sha256"),
      "tokenizer": encoder.identity,
      "vocab_size": encoder.vocab_size,
      "dtype": encoder.dtype,
      "splits": splits,
    }
    (partial / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    os.replace(partial, folder)
  except OSError as error:
    if not os.path.exists(folder / "meta.json"):
      raise jaxplay.UserError(
        f"dataset {name!r} cannot be prepared in {str(folder.parent)!r}:"
        f" {error}; its files must be readable, and config.dataset.data_dir a"
        " writable folder with free space"
      ) from None
    # Another process was faster; its files are the same.
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _combined(splits, key):
  hashes = "".join(facts[key] for facts in splits.values())
  return hashlib.sha256(hashes.encode()).hexdigest()


def _divided(name, documents):
  """Returns split -> documents, each once and in one of the splits."""
  named: dict[str, dict[bytes, _File]] = {}  # split -> digest -> document
  for split, of_split in documents.items():
    named[split] = {}
    for document in of_split:
      named[split].setdefault(_digest(document), document)
  rest = named.pop("")
  for split, of_split in named.items():
    for digest, document in of_split.items():
      if digest in rest:
        raise jaxplay.UserError(
          f"the {split} split of dataset {name!r} shares a file with training:"
          f" {document.name!r} equals {rest[digest].name!r}; narrow the dataset"
          f" or config.dataset.{split}_files"
        )
  drawn = _drawn(rest, [split for split in _HELD_OUT if split not in named])
  return {
    split: [*of_split.values()] for split, of_split in (drawn | named).items()
  }


def _drawn(documents, to_draw):
  """Holds out some of the documents for the splits `to_draw`.

  The split of a document is a function of its content. If no document falls in
  a split, because there are few, it takes those that are next by content, until
  it has its share of the text. Large documents are trained on, except for their
  ends where the others do not suffice.

  Returns:
    Split -> digest -> document.
  """
  total = sum(document.size for document in documents.values())
  large = {d for d in documents if documents[d].size > _LARGE * total}
  drawn = {split: {} for split in ("train", *to_draw)}
  for digest, document in documents.items():
    side = "train" if digest in large else _side(digest)
    drawn[side if side in to_draw else "train"][digest] = document

  train, cut = drawn["train"], []
  for split in reversed(to_draw):  # Validation first: it is always needed.
    if drawn[split]:
      continue
    taken, size = [], 0
    for digest in sorted(train.keys() - large, key=_place):
      if size < _HELD_OUT[split] * total:
        taken.append(digest)
        size += train[digest].size
    if size < _HELD_OUT[split] * total:
      cut = [split, *cut]
    else:
      drawn[split] = {digest: train.pop(digest) for digest in taken}
  if cut:
    for digest in [d for d in train if d in large]:
      for split, part in _cut(train.pop(digest), digest, cut).items():
        drawn[split][digest] = part
  return drawn


def _digest(document):
  digest = hashlib.sha256()
  for block in document.blocks():
    digest.update(block)
  return digest.digest()


def _side(digest):
  """Returns a split, as a function of the content alone."""
  at = 0.0
  for split, share in _HELD_OUT.items():
    at += share
    if _place(digest) < at:
      return split
  return "train"


def _place(digest):
  """Returns a number in [0, 1), as a function of the content alone."""
  return int.from_bytes(digest[:8], "little") / 2**64


def _cut(document, digest, to_draw):
  """Returns split -> part of a file, whose end is held out; none is empty."""
  edges, end = {}, document.end
  with open(document.path, "rb") as file:
    for split in to_draw:
      at = int(end - _HELD_OUT[split] * document.end)
      begin = _line_end(file, at, end)
      if begin == end:  # No line ends in this part.
        begin = _character(file, at, end)
      edges[split], end = (begin, end), begin
  edges["train"] = (0, end)
  return {
    split: dataclasses.replace(document, begin=begin, end=end, part_of=digest)
    for split, (begin, end) in edges.items()
    if begin < end
  }


def _write_split(folder, split, documents, encoder):
  """Writes the files of one split; returns its sizes and its hash."""
  num_documents = num_tokens = num_bytes = 0
  content, all_tokens = hashlib.sha256(), hashlib.sha256()
  with (
    open(folder / f"{split}.tokens", "wb") as tokens_file,
    open(folder / f"{split}.documents", "wb") as digests_file,
    open(folder / f"{split}.names", "w", encoding="utf-8") as names_file,
  ):

    def write(tokens, size):
      nonlocal num_tokens, num_bytes
      encoded = np.asarray(tokens, encoder.dtype).tobytes()
      tokens_file.write(encoded)
      all_tokens.update(encoded)
      num_tokens, num_bytes = num_tokens + len(tokens), num_bytes + size

    for document in documents:
      digest = hashlib.sha256()
      for block in document.blocks():
        digest.update(block)
        write(encoder.encode(block, document.name), len(block))
      if encoder.separator is not None:
        write([encoder.separator], 1)
      num_documents += 1
      content.update(digest.digest())
      for part in filter(None, (digest.digest(), document.part_of)):
        digests_file.write(part[:8])
        names_file.write(f"{document.name!r}\n")
  return {
    "documents": num_documents,
    "tokens": num_tokens,
    "bytes": num_bytes,
    "sha256": content.hexdigest(),
    "tokens_sha256": all_tokens.hexdigest(),
  }


def encoder_of(tokenizer: str):
  """Returns the encoder "bytes", or that of a `tokenizers` JSON file."""
  return _Bytes() if tokenizer == "bytes" else _Subwords(tokenizer)


class _Bytes:
  """Every byte is a token."""

  identity = "bytes"
  vocab_size, dtype, separator = 256, "uint8", _SEPARATOR

  def encode(self, block, name):
    tokens = np.frombuffer(block, np.uint8)
    if (tokens == _SEPARATOR).any():
      raise jaxplay.UserError(
        f"{name!r} is not text: it holds a zero byte, which ends a document in"
        " token files; remove it"
      )
    return tokens


# Special tokens that end a document.
_ENDS = (
  "<|endoftext|>",
  "</s>",
  "<eos>",
  "<|end_of_text|>",
  "[EOS]",
  "[SEP]",
)


class _Subwords:
  """A tokenizer of the Hugging Face `tokenizers` library."""

  def __init__(self, path):
    try:
      import tokenizers  # An extra: byte-level needs none.
    except ImportError:
      raise jaxplay.UserError(
        f"config.dataset.tokenizer={path!r} needs the library tokenizers: pip"
        " install 'jaxplay[tokenizers]'"
      ) from None
    try:
      content = pathlib.Path(path).expanduser().read_bytes()
      strict = json.dumps(_strict(json.loads(content)))
      self._tokenizer = tokenizers.Tokenizer.from_str(strict)
      # Special tokens within a document are text, and do not end it.
      self._tokenizer.encode_special_tokens = True
      vocabulary = self._tokenizer.get_vocab()
      self.vocab_size = max(vocabulary.values()) + 1
    except OSError as error:
      raise jaxplay.UserError(
        f"config.dataset.tokenizer={path!r} is neither 'bytes' nor a file that"
        f" can be read: {error.strerror}"
      ) from None
    except Exception as error:  # The library has no narrower class.
      raise jaxplay.UserError(
        f"config.dataset.tokenizer={path!r} is neither 'bytes' nor a JSON file"
        f" of the tokenizers library: {type(error).__name__}: {error}"
      ) from None
    self._path = path
    self.identity = f"sha256:{hashlib.sha256(content).hexdigest()}"
    self.dtype = "uint16" if self.vocab_size <= 2**16 else "uint32"
    self._end = next((end for end in _ENDS if end in vocabulary), None)
    self.separator = vocabulary.get(self._end)

  def encode(self, block, name):
    try:
      text = block.decode()
    except UnicodeDecodeError as error:
      raise jaxplay.UserError(
        f"{name!r} is not valid in tokenizer {self._path!r}: its byte"
        f" {block[error.start]:#04x} is not UTF-8; convert it, or use"
        " config.dataset.tokenizer='bytes'"
      ) from None
    tokens = self._tokens(text)
    if tokens is None:
      words = (word[0] for word in re.finditer(r"\s+|\S+", text))
      unknown = next((w for w in words if self._tokens(w) is None), text)
      raise jaxplay.UserError(
        f"{name!r} is not valid in tokenizer {self._path!r}, which has no"
        f" tokens for {unknown[:80]!r}; use another tokenizer, or"
        " config.dataset.tokenizer='bytes'"
      )
    if self.separator in tokens:  # The model's vocabulary has it as a word.
      raise jaxplay.UserError(
        f"{name!r} is not valid in tokenizer {self._path!r}: it holds the text"
        f" {self._end!r}, which it encodes as the end of a document; remove it,"
        " or use config.dataset.tokenizer='bytes'"
      )
    return tokens

  def _tokens(self, text):
    try:
      return self._tokenizer.encode(text, add_special_tokens=False).ids
    except Exception:  # See `_strict`.
      return None


def _strict(content):
  """Returns a tokenizer that encodes whole texts deterministically, or raises.

  Tokens that end a document become special tokens, so that a text can contain
  their characters. The token for unknown words is replaced by one that is not
  in the vocabulary, so that the library raises where it would use it.
  """
  content |= {"truncation": None, "padding": None}
  for token in content.get("added_tokens", ()):
    token["special"] |= token["content"] in _ENDS
  model = content["model"]
  if "unk_id" not in model:
    model["unk_token"] = "\0unknown\0"
  elif not model.get("byte_fallback"):  # Unigram, without tokens for bytes
    model["unk_id"] = None
  if "dropout" in model:
    model["dropout"] = None
  return content
