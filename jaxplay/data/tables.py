"""Tables with named columns: CSV and Parquet."""

import csv
import dataclasses
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay.data import own

_CHUNK = 2**16  # rows that are converted at once


@dataclasses.dataclass(frozen=True)
class _Rows:
  """Some rows of a table.

  Attributes:
    path: Of the file.
    places: What a row is called, such as "line 5".
    columns: Name -> values: text, or numbers; None where one is missing.
  """

  path: str
  places: Sequence[str]
  columns: Mapping[str, Sequence]

  def numbers(self, name):
    """A column as float64; refuses what is missing or no number."""
    try:
      column = np.array(self.columns[name], np.float64)
    except (ValueError, TypeError):
      column = np.array([_number(value) for value in self.columns[name]])
    if not (finite := np.isfinite(column)).all():
      raise self._refused(name, int(finite.argmin()), "a finite number")
    return column

  def texts(self, name):
    """A column as text; refuses what is missing."""
    column = self.columns[name]
    missing = [i for i, value in enumerate(column) if value in (None, "")]
    if missing:
      raise self._refused(name, missing[0], "a value")
    return [str(value) for value in column]

  def _refused(self, name, i, expected):
    value = self.columns[name][i]
    shown = "is missing" if value in (None, "") else f"is {str(value)[:80]!r}"
    return jaxplay.UserError(
      f"{self.path!r}, {self.places[i]}: column {name!r} {shown}; expected"
      f" {expected}"
    )


def _number(value):
  try:
    return math.nan if value is None else float(value)
  except (ValueError, TypeError):
    return math.nan


def _csv(path) -> Iterator[_Rows]:
  """Yields the rows of a CSV file with a header, at least once."""

  def refuse(line, what):
    return jaxplay.UserError(f"{path!r}, line {line}: {what}")

  try:
    with open(path, newline="", encoding="utf-8-sig") as file:
      reader = csv.reader(file, strict=True)
      header = next(reader, [])
      for name in header:
        if header.count(name) > 1:
          raise refuse(1, f"column {name!r} is there twice")
      places: list[str] = []
      rows: list[list[str]] = []
      for row in reader:
        if not row:
          continue
        if len(row) != len(header):
          raise refuse(
            reader.line_num,
            f"{len(row)} values, and the header names {len(header)} columns",
          )
        places.append(f"line {reader.line_num}")
        rows.append(row)
        if len(rows) == _CHUNK:
          yield _Rows(path, places, _turned(header, rows))
          places, rows = [], []
      yield _Rows(path, places, _turned(header, rows))
  except (OSError, UnicodeDecodeError, csv.Error) as error:
    raise jaxplay.UserError(
      f"{path!r} cannot be read as CSV: {own.first_line(error)}"
    ) from None


def _turned(header, rows):
  columns = zip(*rows, strict=True) if rows else ((),) * len(header)
  return dict(zip(header, columns, strict=True))


def _parquet(path) -> Iterator[_Rows]:
  """Yields the rows of a Parquet file, at least once."""
  try:
    import pyarrow
    import pyarrow.parquet
  except ModuleNotFoundError:
    raise jaxplay.UserError(
      "pyarrow is not installed; 'parquet:...' needs it: pip install"
      " 'jaxplay[parquet]'"
    ) from None

  try:
    with pyarrow.parquet.ParquetFile(path) as file:
      names = file.schema_arrow.names
      begin = 0
      for batch in file.iter_batches(_CHUNK):
        if not len(batch):
          continue
        columns = dict(zip(names, batch.to_pydict().values(), strict=True))
        places = [f"row {begin + i} (from 0)" for i in range(len(batch))]
        yield _Rows(path, places, columns)
        begin += len(batch)
      yield _Rows(path, [], dict.fromkeys(names, ()))
  except (OSError, pyarrow.ArrowException, ValueError) as error:
    raise jaxplay.UserError(
      f"{path!r} cannot be read as Parquet: {own.first_line(error)}"
    ) from None


def check_targets(where: str, task: str, targets: Sequence[str]) -> None:
  """Refuses columns to predict that do not go with a task."""
  if not targets:
    raise jaxplay.UserError(
      f"config.dataset.targets is empty, and {where} is a table; name its"
      " columns to predict"
    )
  if task == "next_token":
    raise jaxplay.UserError(
      f"config.task.name is {task!r}, and {where} is a table, which holds no"
      " text; use another task or data set"
    )
  if task == "classification" and len(targets) > 1:
    raise jaxplay.UserError(
      f"config.dataset.targets names {len(targets)} columns {targets}, and a"
      " classification has one; set config.task.name to 'multi_label' or"
      " 'regression', or name one"
    )


def load(
  kind: str,
  files: Mapping[str, str],
  where: str,
  task: str,
  inputs: tuple[str, ...],
  targets: tuple[str, ...],
  standardize: bool,
) -> tuple[dict[str, dict], dict[str, Any]]:
  """The splits of tables, and facts about them.

  Args:
    kind: "csv" or "parquet".
    files: Split to its file.
    where: The data set, for messages.
    task: Built-in task, or any other name for one of the user.
    inputs: Columns; empty: all of numbers that are no targets.
    targets: Columns to predict.
    standardize: Whether to standardize the inputs by the training split.

  Raises:
    jaxplay.UserError: With file, line and column.

  `inputs` are float32 [n, columns]. Of targets, numbers are float32 [n], or [n,
  columns] if there are several, for a regression; of a classification there is
  one: integers, or texts, which become classes in sorted order; of several
  labels, columns of 0 and 1.
  """
  read = {"csv": _csv, "parquet": _parquet}[kind]
  splits: dict[str, dict] = {}
  as_text = task == "classification" or (task not in own.BUILT_IN)
  as_text = as_text and len(targets) == 1
  # The training split decides which columns are inputs.
  for split in sorted(files, key=own.SPLITS.index):
    parts: dict[str, list] = {"inputs": [], "targets": []}
    for rows in read(files[split]):
      if not inputs:
        inputs = _numeric(rows, targets, where)
      for name in (*inputs, *targets):
        if name not in rows.columns:
          raise jaxplay.UserError(
            f"{rows.path!r} has no column {name!r}; it has"
            f" {', '.join(map(repr, rows.columns))}"
          )
      parts["inputs"].append(_stacked(rows.numbers(n) for n in inputs))
      if as_text:
        parts["targets"] += rows.texts(targets[0])
      else:
        parts["targets"].append(_stacked(rows.numbers(n) for n in targets))
    splits[split] = {
      "inputs": np.concatenate(parts["inputs"]),
      "targets": parts["targets"]
      if as_text
      else np.concatenate(parts["targets"]),
    }
  if as_text:
    labels = _labels([split["targets"] for split in splits.values()])
    for content, label in zip(splits.values(), labels, strict=True):
      content["targets"] = label
  elif task == "multi_label":
    for content in splits.values():
      content["targets"] = _whole(content["targets"])
  elif len(targets) == 1:
    for content in splits.values():
      content["targets"] = content["targets"][:, 0]
  facts: dict[str, Any] = {"inputs": list(inputs), "targets": list(targets)}
  if standardize:
    facts["standardize"] = _standardize(splits, inputs, where)
  return splits, facts


def _stacked(columns: Iterable[np.ndarray]) -> np.ndarray:
  return np.stack(list(columns), axis=1)


def _numeric(rows, targets, where):
  """The columns of numbers, by the first row, that are no targets."""
  if not rows.places:
    raise jaxplay.UserError(f"{rows.path!r}, of {where}, has no rows")
  names = []
  for name, values in rows.columns.items():
    if name in targets:
      continue
    if values[0] in (None, "") or not name:
      raise jaxplay.UserError(
        f"column {name!r} of {where} has"
        + (" no value in the first row" if name else " no name")
        + "; name the columns to use in config.dataset.inputs"
      )
    if math.isfinite(_number(values[0])):
      names.append(name)
  if not names:
    raise jaxplay.UserError(
      f"{where} has no columns of numbers besides {targets}; it has"
      f" {', '.join(map(repr, rows.columns))}"
    )
  return tuple(names)


def _labels(splits: list[list[str]]) -> list[np.ndarray]:
  """Labels of all splits: integers or, if not all are, floats, or texts."""
  for convert in (int, float):
    try:
      return [
        np.array([convert(text) for text in texts], np.dtype(convert))
        for texts in splits
      ]
    except (ValueError, OverflowError):
      continue
  return [np.array(texts, str) for texts in splits]


def _whole(array):
  """Integers, if all are; else the array."""
  rounded = np.clip(array, -(2.0**31), 2.0**31).astype(np.int64)
  return rounded.astype(np.int32) if (rounded == array).all() else array


def _standardize(splits, names, where):
  """Subtracts means and divides by standard deviations, of training examples.

  Returns:
    {"mean": {column: ...}, "std": {column: ...}}.
  """
  train = splits["train"]["inputs"]
  if "valid" not in splits and len(train) > 1:
    train = train[own.held_out(len(train))[0]]
  mean, std = train.mean(0), train.std(0)
  if not std.all():
    raise jaxplay.UserError(
      f"column {names[int(std.argmin())]!r} of {where} is constant, and"
      " config.dataset.standardize divides by its standard deviation; leave it"
      " out of config.dataset.inputs"
    )
  for content in splits.values():
    content["inputs"] = (content["inputs"] - mean) / std
  return {
    "mean": dict(zip(names, mean.tolist(), strict=True)),
    "std": dict(zip(names, std.tolist(), strict=True)),
  }
