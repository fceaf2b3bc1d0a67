"""TensorBoard event files: scalars and the HParams plugin, without TensorFlow.

The files are a function of the lines of metrics: opening a folder again writes
them anew, from the first line on, so nothing doubles after a resume.
"""

import math
import pathlib
import time
from collections.abc import Mapping
from typing import Any

from tensorboard.compat.proto import event_pb2, summary_pb2
from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2
from tensorboard.summary.writer import record_writer

from jaxplay import rundir, writers

# TensorBoard reads any file with "tfevents" in its name; these are ours.
_NAMES = "events.out.tfevents.*.jaxplay"
_BUCKET_SECONDS = 10.0  # at most, until a line is in a bucket

_STATUSES = {
  "completed": api_pb2.STATUS_SUCCESS,
  "infeasible": api_pb2.STATUS_FAILURE,
  "failed": api_pb2.STATUS_FAILURE,
  "running": api_pb2.STATUS_RUNNING,
}


def open(run: writers.Run) -> "EventFile":
  """Opens RUN/tensorboard; what an earlier start wrote there is dropped."""
  return EventFile(run.path / "tensorboard", run.hparams)


class EventFile:
  """The event file of one run; see `writers.Writer`."""

  def __init__(
    self, folder: pathlib.Path, hparams: Mapping[str, bool | float | str]
  ):
    """Begins a new file, and empties earlier ones of ours.

    Args:
      folder: Made if need be.
      hparams: Hyperparameter -> value, for the HParams plugin.
    """
    folder.mkdir(parents=True, exist_ok=True)
    earlier = sorted(folder.glob(_NAMES))
    for path in earlier[:-1]:
      path.unlink()
    for path in earlier[-1:]:
      # A TensorBoard that is open reads it to its end, and then the next one.
      rundir.write_bytes(path, b"", sync=False)
    name = f"events.out.tfevents.{time.time():017.6f}.jaxplay"
    self._records = record_writer.RecordWriter(_File(folder / name))
    self._event(file_version="brain.Event:2")
    # It drops the steps that it has: they come again.
    start = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._event(session_log=start, step=0)
    info = plugin_data_pb2.SessionStartInfo(start_time_secs=time.time())
    for key, value in hparams.items():
      if isinstance(value, bool):
        info.hparams[key].bool_value = value
      elif isinstance(value, str):
        info.hparams[key].string_value = value
      else:
        info.hparams[key].number_value = value
    self._plugin(metadata.SESSION_START_INFO_TAG, session_start_info=info)

  def write(self, step: int, line: Mapping[str, float | None]) -> None:
    """Writes scalars; what was not finite is NaN."""
    values = [
      summary_pb2.Summary.Value(
        tag=name, simple_value=math.nan if value is None else value
      )
      for name, value in line.items()
    ]
    self._event(step=step, summary=summary_pb2.Summary(value=values))

  def close(self, status: Mapping[str, Any]) -> None:
    """Writes best/OBJECTIVE, the test metrics and the status."""
    for step, line in writers.summary(status):
      self.write(step, line)
    info = plugin_data_pb2.SessionEndInfo(
      status=_STATUSES.get(status["status"], api_pb2.STATUS_UNKNOWN),
      end_time_secs=time.time(),
    )
    self._plugin(metadata.SESSION_END_INFO_TAG, session_end_info=info)
    self._records.flush()

  def _plugin(self, tag, **data):
    content = plugin_data_pb2.HParamsPluginData(**data)
    value = summary_pb2.Summary.Value(
      tag=tag,
      metadata=metadata.create_summary_metadata(content),
      tensor=metadata.NULL_TENSOR,
    )
    self._event(summary=summary_pb2.Summary(value=[value]))

  def _event(self, **fields):
    event = event_pb2.Event(wall_time=time.time(), **fields)
    self._records.write(event.SerializeToString())


class _File:
  """Appends to a file; objects in a bucket are written as a whole."""

  def __init__(self, path):
    self._path, self._data = path, bytearray()
    self._written = time.monotonic()

  def write(self, data):
    if rundir.is_local(self._path):
      # Opened for each line: a population may have a thousand trials.
      with rundir.open_to_append(self._path) as file:
        file.write(data)
      return
    self._data += data
    if time.monotonic() - self._written > _BUCKET_SECONDS:
      self.flush()

  def flush(self):
    if self._data:
      self._path.write_bytes(bytes(self._data))
    self._written = time.monotonic()
