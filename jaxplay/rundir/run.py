"""The run directory; the top of the package has its layout."""

import contextlib
import io
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

import jaxplay
from jaxplay.rundir import directory, metrics, paths, reading, shapes, writing
from jaxplay.rundir import examples as examples_lib

_BUCKET_SECONDS = 10.0  # at most, until a line of metrics is in a bucket


class RunDir(directory.Directory):
  """Reads and writes one run directory; any file may be absent when read.

  Examples:
    >>> import jaxplay as jp
    >>> run = jp.RunDir("runs/constant")
    >>> run.status()["step"], run.config()["batch_size"]
    (20, 128)
  """

  kind = "a run"
  shape = shapes.Config

  def __init__(
    self, path: str | os.PathLike, root: str | os.PathLike | None = None
  ):
    """Reads and writes nothing yet.

    Args:
      path: The run directory.
      root: The directory that it is a part of, such as a study's. None: it is
        itself the directory that the user named, which may be a link.
    """
    super().__init__(path, root)
    self.checkpoints = self.path / "checkpoints"
    self.export = self.path / "export"
    self._metrics = self.path / "metrics.jsonl"
    # Objects in a bucket cannot grow; each append writes all lines anew.
    self._unwritten, self._written = "", time.monotonic()

  def create(self) -> None:
    """Makes the directory.

    Raises:
      jaxplay.UserError: It cannot be made or written, or a folder in it is a
        link.
    """
    self.make()

  def refuse_remains(self) -> None:
    """Refuses a directory without config in which a run has begun already.

    Raises:
      jaxplay.UserError: What the run trained cannot be known.
    """
    names = ("status.json", "metrics.jsonl", "checkpoints")
    there = [name for name in names if (self.path / name).exists()]
    if there and self.config() is None:  # The config is written before these.
      raise jaxplay.UserError(
        f"{str(self.path)!r} holds {there[0]} of a run, but no config.json;"
        " restore it from a copy, or use another workdir"
      )

  def config(self) -> dict[str, Any] | None:
    """Returns the resolved config, or None before the run began."""
    return self._read()

  def write_config(self, config: Mapping[str, Any]) -> None:
    self._write(config)

  def init(self) -> dict[str, Any] | None:
    """Returns what the run started from, or None: random weights."""
    return reading.read_json(self.path / "init.json", shapes.Init)

  def write_init(self, facts: Mapping[str, Any]) -> None:
    writing.write_json(self.path / "init.json", facts)

  def objective(self) -> str:
    """Returns the metric by which the run's config chooses the best step.

    Raises:
      jaxplay.UserError: There is no run here, or its config has no objective.
    """
    config = self._definition()
    if "objective" not in config:
      raise reading.Damaged(self._file, "$: it has no objective")
    return config["objective"]

  def packed(self) -> dict[str, Any] | None:
    """Returns where the checkpoints are, if a population saved them."""
    return reading.read_json(self.path / "checkpoints.json", shapes.Packed)

  def write_packed(self, where: Mapping[str, Any] | None) -> None:
    """Writes where the checkpoints are; None: in the run directory."""
    path = self.path / "checkpoints.json"
    if where is not None:
      writing.write_json(path, where)
    else:
      path.unlink(missing_ok=True)

  def status(self) -> dict[str, Any]:
    """Returns the content of status.json; {} before the run began."""
    path = self.path / "status.json"
    return reading.read_json(path, shapes.RunStatus) or {}

  def write_status(self, status: str, **fields: Any) -> None:
    """Replaces status.json.

    Args:
      status: One of `STATUSES`. A diverged run is infeasible, which is a
        result; a crashed one failed, which is an accident.
      **fields: JSON values, such as `step`, `reason`, `best`, `final`.
    """
    if status not in shapes.STATUSES:
      raise ValueError(f"unknown status {status!r}")
    self._check_is_there()
    self._write_lines()
    writing.write_json(self.path / "status.json", dict(fields, status=status))

  def metrics(self) -> list[dict[str, Any]]:
    """Returns all complete lines of metrics.jsonl; a torn last line is not.

    Raises:
      reading.Damaged: A line has other values than numbers, or is not of a
        later step than the line before.
    """
    lines: list[dict[str, Any]] = []
    last = -1
    for number, text in enumerate(self._complete_lines(), 1):
      line = metrics.parse_line(self._metrics, text, number)
      step = line["step"]
      if step <= last:
        raise reading.Damaged(
          self._metrics,
          f"line {number} is of step {step}, and comes after step {last}",
        )
      last = step
      lines.append(line)
    return lines

  def _complete_lines(self):
    self._write_lines()
    return (reading.read_bytes(self._metrics) or b"").split(b"\n")[:-1]

  def metrics_until(
    self, step: int, digest: Mapping[str, Any] | None, *, due: int = 0
  ) -> list[dict[str, Any]] | None:
    """Returns the lines up to `step`, if they are as they were written.

    Args:
      step: Updates made.
      digest: Of the lines, from `Digest`. None, for runs of older versions:
        then they must be in order, and not end too early.
      due: Then, the least step of the last line.

    Returns:
      Lines; None if some are missing, changed, repeated or in another order.
    """
    lines: list[dict[str, Any]] = []
    texts = self._complete_lines()
    last = 0
    with contextlib.suppress(reading.Damaged):  # The lines before it count.
      for number, text in enumerate(texts, 1):
        line = metrics.parse_line(self._metrics, text, number)
        if digest is None and not last < line["step"] <= step:
          break
        last = line["step"]
        lines.append(line)
    if digest is None:
      return lines if last >= due else None
    lines = lines[: digest["count"]]
    return lines if metrics.Digest(lines).as_json() == digest else None

  def check_metrics(self) -> None:
    """Refuses a run that has ended and lost lines of its metrics.

    Raises:
      reading.Damaged: The lines are not those with which it ended.
    """
    status, texts = self.status(), self._complete_lines()
    if status.get("status") not in shapes.DONE:
      return
    digest = metrics.Digest()
    for text in texts:
      digest.append_text(text + b"\n")
    if status.get("lines", digest.as_json()) != digest.as_json():
      raise reading.Damaged(
        self._metrics,
        "lines are missing, changed or repeated since the run ended",
      )
    # A run of an older version has only its status to compare with.
    missing = metrics.missing(status, self.metrics())
    if missing is not None:
      raise reading.Damaged(self._metrics, missing)

  def append_metrics(self, lines: list[Mapping[str, Any]]) -> None:
    """Appends lines. Non-finite numbers become null: they are not JSON."""
    text = "".join(map(metrics.as_line, lines))
    self._check_is_there()
    if paths.is_local(self.path):
      writing.append(self._metrics, text.encode())
      return
    self._unwritten += text
    if time.monotonic() - self._written > _BUCKET_SECONDS:
      self._write_lines()

  def sync_metrics(self) -> None:
    """Waits until all lines are on the disk."""
    if paths.is_local(self.path):
      with writing.open_to_append(self._metrics) as file:
        os.fsync(file.fileno())
    self._write_lines()

  def _write_lines(self):
    if self._unwritten:
      before = (reading.read_bytes(self._metrics) or b"").decode()
      writing.write_text(self._metrics, before + self._unwritten)
      self._unwritten, self._written = "", time.monotonic()

  def rewind_metrics(
    self, step: int, lines: Sequence[Mapping[str, Any]] | None = None
  ) -> None:
    """Removes what comes after `step`: the resumed run writes it again.

    Args:
      step: Updates made.
      lines: The lines to keep; None: all up to `step`.
    """
    if lines is None:
      lines = [line for line in self.metrics() if line["step"] <= step]
    if lines or self._metrics.exists():  # Otherwise it has just begun.
      text = "".join(map(metrics.as_line, lines))
      writing.write_text(self._metrics, text)
    for path in list((self.path / "predictions").glob("*.npz")):
      if path.stem.isdecimal() and int(path.stem) > step:
        path.unlink()

  def write_predictions(self, step: int, /, **arrays: Any) -> None:
    """Saves arrays about the evaluation after `step` updates."""
    self._check_is_there()
    folder = self.path / "predictions"
    folder.mkdir(exist_ok=True)
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)
    path = folder / f"{step:08d}.npz"
    writing.write_bytes(path, file.getvalue(), sync=False)

  def predictions(self, step: int) -> dict[str, np.ndarray]:
    """Returns what `write_predictions` saved for `step`.

    Raises:
      reading.Damaged: It is not an archive of arrays.
    """
    path = self.path / "predictions" / f"{step:08d}.npz"
    arrays = reading.read_arrays(path)
    if arrays is None:
      raise reading.Damaged(path, "there is no such file")
    return arrays

  def examples(self) -> examples_lib.Examples | None:
    """Returns the cost of each validation example, None: they are not saved.

    They are if the run completed, and the objective is a mean over examples.

    Raises:
      reading.Damaged: The file holds something else.
    """
    path = self.path / "examples.npz"
    arrays = reading.read_arrays(path)
    return None if arrays is None else examples_lib.parse(path, arrays)

  def write_examples(self, examples: examples_lib.Examples | None) -> None:
    """Replaces what `examples` returns."""
    self._check_is_there()
    path = self.path / "examples.npz"
    if examples is None:
      path.unlink(missing_ok=True)
      return
    file = io.BytesIO()
    np.savez_compressed(file, **examples.as_arrays())
    writing.write_bytes(path, file.getvalue())
