"""Lines of metrics.jsonl: text, checks, hash, and the best one."""

import hashlib
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from jaxplay.rundir import reading, shapes, writing

_DECODER = msgspec.json.Decoder(shapes.Numbers)


def as_line(line: Mapping[str, Any]) -> str:
  """Returns the text of a line, in which non-finite numbers are null."""
  return json.dumps(writing.plain(line)) + "\n"


def parse_line(path: pathlib.Path, data: bytes, number: int) -> dict[str, Any]:
  """Returns a line of metrics.jsonl, which may have millions of them.

  Args:
    path: The file, for the error.
    data: The line.
    number: Its number, from 1.

  Raises:
    reading.Damaged: It is not a step with numbers.
  """
  line: Any
  try:
    line = _DECODER.decode(data)
    # Of a key that comes twice only one value is left.
    if data.count(b'":') == len(line) and _is_count(line.get("step")):
      return line
  except (msgspec.MsgspecError, RecursionError, UnicodeError):
    pass  # Parsed again below, which explains the error.
  line = reading.parse(path, data, number)
  if not isinstance(line, dict) or not _is_count(line.get("step")):
    raise reading.Damaged(path, f"line {number} has no step, a whole number")
  for name, value in line.items():
    if isinstance(value, bool) or not isinstance(value, int | float | None):
      raise reading.Damaged(path, f"line {number}: {name} is not a number")
    if isinstance(value, int) and abs(value) >= 2**63:
      raise reading.Damaged(path, f"line {number}: {name} is out of range")
  return line


def _is_count(value):
  return type(value) is int and 0 <= value < 2**63


class Digest:
  """The number and the hash of lines of metrics, as they are appended."""

  def __init__(self, lines: Iterable[Mapping[str, Any]] = ()):
    self._count, self._hash = 0, hashlib.sha256()
    for line in lines:
      self.append(line)

  def append(self, line: Mapping[str, Any]) -> None:
    self.append_text(as_line(line).encode())

  def append_text(self, text: bytes) -> None:
    """Appends a line as it is in the file."""
    self._count += 1
    self._hash.update(text)

  def as_json(self) -> dict[str, Any]:
    return {"count": self._count, "sha256": self._hash.hexdigest()}


def missing(
  status: Mapping[str, Any], lines: list[dict[str, Any]]
) -> str | None:
  """Returns what the lines lack according to status.json; None: nothing."""
  final, best = status.get("final") or {}, status.get("best")
  last = lines[-1]["step"] if lines else 0
  if final.get("step", last) != last:
    return f"it ends at step {last}, and the run at {final['step']}"
  if best:
    at_best = [line for line in lines if line["step"] == best["step"]]
    if not at_best or at_best[0].get(best["metric"]) != best["value"]:
      return (
        f"it lacks the best {best['metric']} of status.json, at step"
        f" {best['step']}"
      )
  return None


def best_line(
  lines: list[Mapping[str, Any]], objective: str, maximized: bool = False
) -> dict[str, Any] | None:
  """Returns the earliest line with the best finite objective.

  Args:
    lines: Of metrics.jsonl.
    objective: The metric.
    maximized: Whether more is better.

  Returns:
    {"step", "metric", "value"}, or None if no line has the objective.
  """
  return next(iter(best_lines(lines, objective, maximized)), None)


def best_lines(
  lines: Iterable[Mapping[str, Any]], objective: str, maximized: bool = False
) -> list[dict[str, Any]]:
  """As `best_line`, all lines with a finite objective, the best first."""
  sign = -1 if maximized else 1
  scored = [
    (sign * line[objective], line["step"], line[objective])
    for line in lines
    if line.get(objective) is not None and math.isfinite(line[objective])
  ]
  return [
    {"step": step, "metric": objective, "value": value}
    for _, step, value in sorted(scored)
  ]
