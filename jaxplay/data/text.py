"""Text as rows of tokens: packed, memory-mapped, split by document.

The first use of a text set writes its tokens to a folder of the user's cache,
one file for each split; from then on they are mapped into memory, so a set may
be larger than it. Documents are never on both sides of a split: their place is
a function of their content, and of equal ones only the first is kept.

A split is one long sequence of tokens, each document ended by a separator. Row
`i` holds the tokens from `i * length` to `(i + 1) * length`, both included: it
asks for `length` next tokens, and over all rows every token but the first is
asked for exactly once. (Less than a row at the end is left out.)
"""

import dataclasses
import functools
import glob
import hashlib
import json
import os
import pathlib
import platform
import shutil
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import jaxplay

# Byte 0 ends a document: text does not hold it.
_SEPARATOR = 0
# Of the documents, where the user does not say which: by their content.
_HELD_OUT = {"test": 0.02, "valid": 0.02}
# Pieces in which a document is read, tokenized and written.
_BLOCK_BYTES = 2**24
_FORMAT = 1  # Of the files in the cache; counts up when they change.

# What differs between installations of one version, or is not source text.
_NOT_STANDARD = {
  *("site-packages", "dist-packages", "__pycache__", "test", "tests"),
  *("idlelib", "lib2to3", "tkinter", "turtledemo", "ensurepip"),
}


@dataclasses.dataclass(frozen=True)
class Rows:
  """Rows of `length` + 1 tokens of one split, in a file."""

  path: str
  dtype: str
  num_tokens: int
  length: int

  @property
  def num_examples(self):
    return (self.num_tokens - 1) // self.length

  @property
  def nbytes(self):
    itemsize = np.dtype(self.dtype).itemsize
    return self.num_examples * (self.length + 1) * itemsize

  def fetch(self, indices):
    tokens = _mapped(self.path, self.dtype)
    step = tokens.itemsize
    rows = np.lib.stride_tricks.as_strided(
      tokens,
      (self.num_examples, self.length + 1),
      (self.length * step, step),
      writeable=False,
    )
    return {"tokens": rows[np.asarray(indices)]}


# Not in `Rows`: that is sent to reader processes, and would take the tokens.
@functools.lru_cache(maxsize=64)
def _mapped(path, dtype):
  return np.memmap(path, dtype, mode="r")


@dataclasses.dataclass(frozen=True)
class Text:
  """The splits of one text source, and what is known of them.

  Attributes:
    splits: train, valid and test.
    vocab_size: Number of different tokens.
    bytes_per_token: Of each split, separators counted as one byte.
    documents: Of each split, a 64-bit digest of each document, uint64.
    facts: For the provenance: name, version, hash of the content, sizes.
  """

  splits: Mapping[str, Rows]
  vocab_size: int
  bytes_per_token: Mapping[str, float]
  documents: Mapping[str, np.ndarray]
  facts: Mapping[str, Any]


def load(
  name: str,
  *,
  sequence_length: int,
  tokenizer: str,
  valid_files: str,
  test_files: str,
  cache: str,
  tfds_texts: Any = None,
) -> Text:
  """The text source of that name, tokenized at its first use.

  Args:
    name: `pythonlib`, the source of the running interpreter's standard
      library; `text:PATTERN`, a file, a folder or a glob; or `tfds:...`.
    sequence_length: Next tokens that a row asks for.
    tokenizer: "bytes", or the path of a Hugging Face `tokenizers` JSON file.
    valid_files: For `text:`, the validation files; empty: a share of the
      documents, or the end of a single one.
    test_files: As `valid_files`.
    cache: Folder for token files; empty: in the user's cache.
    tfds_texts: For `tfds:...`, (what identifies it, split -> texts).

  Raises:
    jaxplay.UserError: There is no such text, or it cannot be used.
  """
  encoder = _encoder(tokenizer)
  if name == "pythonlib":
    documents = {"": _standard_library()}
  elif name.startswith("tfds:"):
    documents = tfds_texts[1]
  else:
    documents = _text_files(
      {
        "": name.removeprefix("text:"),
        "valid": valid_files,
        "test": test_files,
      }
    )
  identity = [_FORMAT, name, encoder.identity]
  identity.append(
    tfds_texts[0]
    if name.startswith("tfds:")
    else {split: [d.identity() for d in of] for split, of in documents.items()}
  )
  key = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
  root = pathlib.Path(cache) if cache else _default_cache()
  folder = root / key
  if not (folder / "meta.json").exists():
    _prepare(folder, name, documents, encoder)
  return _read(folder, name, sequence_length)


def shared_document(train: Text, held_out: Text, split: str) -> str | None:
  """The first document of a held-out split that is also trained on."""
  common = np.intersect1d(train.documents["train"], held_out.documents[split])
  return f"{common[0]:016x}" if len(common) else None


def _default_cache():
  home = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
  return pathlib.Path(home) / "jaxplay" / "text"


def _read(folder, name, length):
  meta = json.loads((folder / "meta.json").read_text())
  splits = {}
  for split, of_split in meta["splits"].items():
    if of_split["tokens"] <= length:
      raise jaxplay.UserError(
        f"the {split} split of dataset {name!r} has {of_split['tokens']:,}"
        f" tokens, not enough for one row of config.dataset.sequence_length="
        f"{length}; use a shorter one, or more text"
      )
    splits[split] = Rows(
      str(folder / f"{split}.tokens"),
      meta["dtype"],
      of_split["tokens"],
      length,
    )
  return Text(
    splits,
    meta["vocab_size"],
    {
      split: of_split["bytes"] / of_split["tokens"]
      for split, of_split in meta["splits"].items()
    },
    {
      split: np.fromfile(folder / f"{split}.documents", np.uint64)
      for split in meta["splits"]
    },
    {
      "name": name,
      "sha256": meta["sha256"],
      "tokenizer": meta["tokenizer"],
      "vocab_size": meta["vocab_size"],
      "python": meta["python"] if name == "pythonlib" else None,
      "splits": meta["splits"],
    },
  )


@dataclasses.dataclass(frozen=True)
class _File:
  """A file, or a part of one, as a document."""

  path: pathlib.Path
  name: str  # Without the part that differs between machines.
  begin: int = 0
  end: int | None = None

  def identity(self):
    stat = self.path.stat()
    span = (self.begin, self.end)
    return str(self.path), stat.st_size, stat.st_mtime_ns, *span

  def blocks(self) -> Iterator[bytes]:
    """Its bytes in pieces that end with a line, where lines are shorter."""
    left = None if self.end is None else self.end - self.begin
    with open(self.path, "rb") as file:
      file.seek(self.begin)
      while block := file.read(_least(_BLOCK_BYTES, left)):
        if len(block) == _BLOCK_BYTES:
          block += file.readline(
            _least(_BLOCK_BYTES, left and left - len(block))
          )
        left = None if left is None else left - len(block)
        yield block


def _least(size, left):
  return size if left is None else min(size, left)


@dataclasses.dataclass(frozen=True)
class Record:
  """A document that is in memory."""

  name: str
  content: bytes

  def blocks(self) -> Iterator[bytes]:
    yield self.content


def _standard_library():
  root = pathlib.Path(sysconfig.get_path("stdlib"))
  found = []
  for path in root.rglob("*.py"):
    parts = path.relative_to(root).parts
    # Generated for one machine, and full of its paths.
    generated = path.name.startswith("_sysconfig") or (
      parts[0].startswith("config-")
    )
    if _NOT_STANDARD.intersection(parts) or generated:
      continue
    if path.stat().st_size:
      found.append(_File(path, "/".join(parts)))
  return sorted(found, key=lambda document: document.name)


def _text_files(patterns):
  """Split -> documents; "" for what is to be split by content."""
  documents = {}
  for split, pattern in patterns.items():
    if pattern:
      documents[split] = _matching(pattern)
  seen = {}
  for split, of_split in documents.items():
    for document in of_split:
      other = seen.setdefault(document.path.resolve(), split)
      if other != split:
        raise jaxplay.UserError(
          f"{str(document.path)!r} is both for {other or 'train'} and for"
          f" {split}; what is trained on tells nothing in a held-out split:"
          f" narrow config.dataset.name or config.dataset.{split}_files"
        )
  if len(documents[""]) == 1 and len(documents) == 1:
    return _cut(documents[""][0])
  if len(documents) == 1:
    return documents
  # Some are named, so nothing else is held out from training but the other.
  documents["train"] = documents.pop("")
  for split, other in (("valid", "test"), ("test", "valid")):
    documents.setdefault(split, documents.get(other))
  return documents


def _matching(pattern):
  path = pathlib.Path(pattern).expanduser()
  if path.is_dir():
    paths = [
      p
      for p in path.rglob("*")
      if not any(part.startswith(".") for part in p.relative_to(path).parts)
    ]
  else:
    paths = [pathlib.Path(p) for p in glob.glob(str(path), recursive=True)]
  paths = sorted(p for p in paths if p.is_file())
  if not paths:
    raise jaxplay.UserError(f"no file matches 'text:{pattern}'")
  for path in paths:
    if not path.stat().st_size:
      raise jaxplay.UserError(
        f"{str(path)!r} is empty; remove it, or narrow the pattern"
        f" 'text:{pattern}'"
      )
  return [_File(path, str(path)) for path in paths]


def _cut(document):
  """One file as three documents: its end is held out."""
  size = document.path.stat().st_size
  edges, at = {}, float(size)
  for split, share in _HELD_OUT.items():
    end, at = int(at), at - share * size
    with open(document.path, "rb") as file:
      file.seek(int(at))
      file.readline()  # No line on both sides, where there are lines.
      begin = file.tell() if file.tell() < end else int(at)
    edges[split], at = (begin, end), begin
  edges["train"] = (0, int(at))
  return {
    split: [dataclasses.replace(document, begin=begin, end=end)]
    for split, (begin, end) in edges.items()
  }


def _prepare(folder, name, documents, encoder):
  """Writes the token files of all splits; the folder appears when finished."""
  try:
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = pathlib.Path(tempfile.mkdtemp(".partial", dir=folder.parent))
  except OSError as error:
    raise jaxplay.UserError(
      f"cannot write tokens to {str(folder.parent)!r}: {error.strerror}; set"
      " config.dataset.data_dir to a folder that can be written"
    ) from None
  try:
    meta = _write_splits(partial, name, documents, encoder)
    (partial / "meta.json").write_text(json.dumps(meta, indent=1))
    try:
      os.replace(partial, folder)
    except OSError:  # Another process was faster; its files are the same.
      if not (folder / "meta.json").exists():
        raise
  finally:
    shutil.rmtree(partial, ignore_errors=True)


def _write_splits(folder, name, documents, encoder):
  writers = {
    split: _Writer(folder, split, encoder)
    for split in ("train", "valid", "test")
  }
  for split, of_split in documents.items():
    for document in of_split:
      digest = _digest(document)
      writers[split or _split_of(digest)].write(document, digest)
  # Records are not files: in sets of them short ones occur twice.
  if not name.startswith("tfds:"):
    _check_disjoint(name, writers)
  for split, writer in writers.items():
    writer.close()
    if not writer.num_tokens:
      raise jaxplay.UserError(
        f"dataset {name!r} has nothing left for its {split} split, for it has"
        f" only {sum(len(w.digests) for w in writers.values())} different"
        f" documents; say which files, by config.dataset.{split}_files"
      )
  everything = b"".join(
    b"".join(sorted(writer.digests)) for writer in writers.values()
  )
  return {
    "name": name,
    "python": platform.python_version(),
    "tokenizer": encoder.name,
    "vocab_size": encoder.vocab_size,
    "dtype": encoder.dtype,
    "sha256": hashlib.sha256(everything).hexdigest(),
    "splits": {split: writer.facts() for split, writer in writers.items()},
  }


def _digest(document):
  digest = hashlib.sha256()
  for block in document.blocks():
    digest.update(block)
  return digest.digest()


def _check_disjoint(name, writers):
  trained = set(writers["train"].digests)
  for split in ("valid", "test"):
    for digest, document in writers[split].digests.items():
      if digest in trained:
        raise jaxplay.UserError(
          f"the {split} split of dataset {name!r} shares a document with"
          f" training: {document!r} is equal to"
          f" {writers['train'].digests[digest]!r}; remove one of them"
        )


def _split_of(digest):
  """A function of the content alone, so more documents move none."""
  at, place = 0.0, int.from_bytes(digest[:8], "little") / 2**64
  for split, share in _HELD_OUT.items():
    at += share
    if place < at:
      return split
  return "train"


class _Writer:
  """The token file of one split."""

  def __init__(self, folder, split, encoder):
    self._file = open(folder / f"{split}.tokens", "wb")
    self._documents = folder / f"{split}.documents"
    self._encoder = encoder
    self.digests = {}  # of each document -> its name
    self.num_tokens = self._num_bytes = 0

  def write(self, document, digest):
    if digest in self.digests:
      return
    self.digests[digest] = document.name
    for block in document.blocks():
      self._append(self._encoder.encode(block, document.name))
      self._num_bytes += len(block)
    if self._encoder.separator is not None:
      self._append([self._encoder.separator])
      self._num_bytes += 1

  def _append(self, tokens):
    tokens = np.asarray(tokens, self._encoder.dtype)
    self._file.write(tokens.tobytes())
    self.num_tokens += len(tokens)

  def close(self):
    self._file.close()
    short = b"".join(digest[:8] for digest in self.digests)
    self._documents.write_bytes(short)

  def facts(self):
    return {
      "documents": len(self.digests),
      "tokens": self.num_tokens,
      "bytes": self._num_bytes,
    }


class _Bytes:
  """Every byte is a token."""

  name = identity = "bytes"
  vocab_size, dtype, separator = 256, "uint8", _SEPARATOR

  def encode(self, block, name):
    tokens = np.frombuffer(block, np.uint8)
    if (tokens == _SEPARATOR).any():
      raise jaxplay.UserError(
        f"{name!r} is not text: it holds a zero byte, which here ends a"
        " document; leave it out"
      )
    return tokens


class _Subwords:
  """A tokenizer of the Hugging Face `tokenizers` library."""

  _ENDS = (
    "<|endoftext|>",
    "</s>",
    "<eos>",
    "<|end_of_text|>",
    "[EOS]",
    "[SEP]",
  )

  def __init__(self, path):
    try:
      import tokenizers  # An extra: byte-level needs none.
    except ImportError:
      raise jaxplay.UserError(
        f"config.dataset.tokenizer={path!r} needs the library tokenizers: pip"
        " install 'jaxplay[tokenizers]'"
      ) from None
    text = _tokenizer_file(path)
    try:
      self._tokenizer = tokenizers.Tokenizer.from_str(text)
    except Exception as error:  # The library raises nothing narrower.
      raise jaxplay.UserError(
        f"config.dataset.tokenizer={path!r} is no tokenizers JSON file: {error}"
      ) from None
    self.name = pathlib.Path(path).name
    self.identity = hashlib.sha256(text.encode()).hexdigest()
    vocabulary = self._tokenizer.get_vocab()
    self.vocab_size = max(vocabulary.values()) + 1
    self.dtype = "uint16" if self.vocab_size <= 2**16 else "uint32"
    ends = [vocabulary[end] for end in self._ENDS if end in vocabulary]
    self.separator = ends[0] if ends else None
    unknown = getattr(self._tokenizer.model, "unk_token", None)
    self._unknown = vocabulary.get(unknown)

  def encode(self, block, name):
    try:
      text = block.decode()
    except UnicodeDecodeError as error:
      raise jaxplay.UserError(
        f"{name!r} is not valid in tokenizer {self.name!r}: byte"
        f" {block[error.start]:#04x} is not UTF-8; convert it, or use"
        " config.dataset.tokenizer='bytes'"
      ) from None
    encoding = self._tokenizer.encode(text, add_special_tokens=False)
    self._check(text, encoding, name)
    return encoding.ids

  def _check(self, text, encoding, name):
    """Refuses text that the tokens do not hold."""
    ids = np.asarray(encoding.ids)
    spans = np.asarray(encoding.offsets).reshape(-1, 2)
    if self._unknown is not None and (ids == self._unknown).any():
      begin, end = spans[np.argmax(ids == self._unknown)]
    else:  # A model without a token for what is unknown drops it.
      change = np.bincount(spans[:, 0], minlength=len(text) + 1)
      change -= np.bincount(spans[:, 1], minlength=len(text) + 1)
      dropped = [i for i in np.flatnonzero(~change.cumsum()[:-1].astype(bool))]
      dropped = [i for i in dropped if not text[i].isspace()]
      if not dropped or self._tokenizer.normalizer is not None:
        return
      begin, end = dropped[0], dropped[0] + 1
    raise jaxplay.UserError(
      f"{name!r} is not valid in tokenizer {self.name!r}: it has no token for"
      f" {text[begin:end]!r}; use another tokenizer, or"
      " config.dataset.tokenizer='bytes'"
    )


def _tokenizer_file(path):
  try:
    return pathlib.Path(path).read_text(encoding="utf-8")
  except (OSError, UnicodeDecodeError):
    raise jaxplay.UserError(
      f"config.dataset.tokenizer is {path!r}; it must be 'bytes' or the path of"
      " a tokenizers JSON file"
    ) from None


def _encoder(tokenizer):
  return _Bytes() if tokenizer == "bytes" else _Subwords(tokenizer)
