"""What TensorBoard reads from a folder of event files."""

import math

from tensorboard.backend.event_processing import event_accumulator
from tensorboard.plugins.hparams import metadata

from jaxplay import rundir


def read(folder):
  """An accumulator that has read all files, and every event of them."""
  accumulator = event_accumulator.EventAccumulator(
    str(folder), size_guidance={"scalars": 0}
  )
  return accumulator.Reload()


def scalars(folder):
  """Tag -> [(step, value)], values in 32 bits."""
  accumulator = read(folder)
  return {
    tag: [(event.step, event.value) for event in accumulator.Scalars(tag)]
    for tag in accumulator.Tags()["scalars"]
  }


def hparams(folder):
  """(hyperparameters, status) as the HParams plugin reads them."""
  content = read(folder).PluginTagToContent("hparams")
  start = metadata.parse_session_start_info_plugin_data(
    content[metadata.SESSION_START_INFO_TAG]
  )
  values = {
    key: getattr(value, value.WhichOneof("kind"))
    for key, value in start.hparams.items()
  }
  end = content.get(metadata.SESSION_END_INFO_TAG)
  if end is None:
    return values, None
  return values, metadata.parse_session_end_info_plugin_data(end).status


def assert_same_as_metrics(workdir, folder=None):
  """The scalars are those of metrics.jsonl, each step once and in order."""
  import numpy as np

  run = rundir.RunDir(workdir)
  curves = {}
  for line in run.metrics():
    for name, value in line.items():
      if name != "step":
        value = math.nan if value is None else float(np.float32(value))
        curves.setdefault(name, []).append((line["step"], value))
  found = scalars(folder or run.path / "tensorboard")
  added = {tag for tag in found if tag.startswith(("best/", "test/"))}
  assert found.keys() - added == curves.keys()
  for name, points in curves.items():
    np.testing.assert_equal(found[name], points, err_msg=name)
