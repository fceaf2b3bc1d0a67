"""The machine of a run: clock, signals, profiler, provenance."""

import collections
import contextlib
import importlib.metadata
import itertools
import math
import pathlib
import signal
import tempfile
import threading
import time
from typing import Any

import jax
from jax.experimental import multihost_utils

from jaxplay import data, rundir
from jaxplay import provenance as provenance_lib

PREEMPTED = "asked to stop by a signal"


class Clock:
  """Throughput since the last line, without evaluations."""

  def __init__(self, at):
    self.restart(at)

  def restart(self, at):
    self._since, self._at, self._waited = time.monotonic(), at, 0.0

  def rates(self, at, batch_size):
    """Steps and examples per second, share of time spent waiting for data."""
    seconds = max(time.monotonic() - self._since, 1e-9)
    throughput = (at - self._at) / seconds
    waited = self._waited
    self.restart(at)
    return {
      "steps_per_second": throughput,
      "examples_per_second": throughput * batch_size,
      "data_wait": min(waited / seconds, 1.0),
    }

  @contextlib.contextmanager
  def waiting_for_data(self, reads):
    """Counts the time inside as waiting, if the host `reads` examples.

    Examples that lie on the devices are not waited for: what the host does
    then, it does while they compute.
    """
    since = time.monotonic()
    yield
    if reads:
      self._waited += time.monotonic() - since


class Preemption:
  """Requests a stop on SIGTERM or Ctrl-C, at the same step on every host.

  An instance around several runs receives the signals of an inner one as well:
  a signal in the last steps of a run must not be lost.
  """

  # One counter per process: hosts may agree on a call of the next run.
  _calls = itertools.count(1)

  def __enter__(self):
    self._asked, self._old = False, {}
    # With several hosts the SIGTERM handler of JAX notifies the others.
    if jax.process_count() == 1 and (
      threading.current_thread() is threading.main_thread()
    ):
      for number in (signal.SIGTERM, signal.SIGINT):
        self._old[number] = signal.signal(number, self._ask)
    return self

  def _ask(self, number, frame):
    if self._asked and number == signal.SIGINT:
      raise KeyboardInterrupt
    self._asked = True
    outer = getattr(self._old[number], "__self__", None)
    if isinstance(outer, Preemption):
      outer._asked = True

  def now(self):
    """Whether to stop before the next call."""
    if jax.process_count() == 1:
      return self._asked
    return multihost_utils.reached_preemption_sync_point(next(self._calls))

  def __exit__(self, *unused):
    for number, handler in self._old.items():
      signal.signal(number, handler)


class Tracer:
  """Profiles an interval of steps, if any."""

  def __init__(
    self,
    folder: pathlib.Path | None = None,
    steps: tuple[int, int] | None = None,
  ):
    """Starts nothing yet.

    Args:
      folder: Where to write the trace.
      steps: (first, last): steps after the first up to the last are traced.
    """
    self._folder = self._written = folder
    self._steps = steps or (-1, -1)

  def next_stop(self, at):
    """The next end of the interval after `at`."""
    return min((s for s in self._steps if s > at), default=math.inf)

  def before(self, at, state):
    """Starts the trace if it begins at `at`, after all earlier steps."""
    if at == self._steps[0]:
      jax.block_until_ready(state)
      if not rundir.is_local(self._folder):  # The profiler needs a local disk.
        self._written = pathlib.Path(tempfile.mkdtemp())
      jax.profiler.start_trace(str(self._written), create_perfetto_trace=True)

  def after(self, at, state):
    """Stops the trace if it ends at `at`, after that step."""
    if at == self._steps[1] and self._steps[0] >= 0:
      jax.block_until_ready(state)
      # A run that resumed within the interval has not started a trace.
      with contextlib.suppress(RuntimeError):
        jax.profiler.stop_trace()
        if self._written != self._folder:
          rundir.copy(self._written, self._folder)
          rundir.remove(self._written)


def provenance(dataset: data.Dataset) -> dict[str, Any]:
  """Hardware, versions and data of this process; see `provenance.record`."""
  kinds = collections.Counter(d.device_kind for d in jax.devices())
  text = ", ".join(f"{number} x {kind}" for kind, number in kinds.items())
  names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
  return provenance_lib.record(
    f"{text} on {jax.process_count()} host(s)",
    {name: importlib.metadata.version(name) for name in names},
  ) | ({"dataset": dict(dataset.facts)} if dataset.facts else {})
