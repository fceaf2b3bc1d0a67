"""What a run has to do with its machine: clock, signals, profiler."""

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
  """Throughput since the last line, evaluations left out."""

  def __init__(self, at):
    self.restart(at)

  def restart(self, at):
    self._since, self._at, self._waited = time.monotonic(), at, 0.0

  def rates(self, at, batch_size):
    """Steps and examples per second, share of time spent waiting for data."""
    seconds = max(time.monotonic() - self._since, 1e-9)
    rate = (at - self._at) / seconds
    waited = self._waited
    self.restart(at)
    return {
      "steps_per_second": rate,
      "examples_per_second": rate * batch_size,
      "data_wait": min(waited / seconds, 1.0),
    }

  @contextlib.contextmanager
  def waiting_for_data(self):
    """Counts the time inside as waiting."""
    since = time.monotonic()
    yield
    self._waited += time.monotonic() - since


class Preemption:
  """Asks to stop on SIGTERM or Ctrl-C, at the same step on every host.

  One around several runs is asked, too, when the one of a run is: a signal in
  the last steps of a run must not be lost.
  """

  # Of the whole process: what one run agrees on may be met by the next.
  _calls = itertools.count(1)

  def __enter__(self):
    self._asked, self._old = False, {}
    # With several hosts JAX's own SIGTERM handler tells the others.
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
  """Traces a stretch of steps, if any."""

  def __init__(
    self,
    folder: pathlib.Path | None = None,
    steps: tuple[int, int] | None = None,
  ):
    """Starts nothing yet.

    Args:
      folder: Where to write the trace.
      steps: Those after the first and up to the second are traced.
    """
    self._folder = self._written = folder
    self._steps = steps or (-1, -1)

  def next_stop(self, at):
    """The first of the two ends after `at`."""
    return min((s for s in self._steps if s > at), default=math.inf)

  def before(self, at, state):
    """Begins before the call after step `at`, once all before it is done."""
    if at == self._steps[0]:
      jax.block_until_ready(state)
      if not rundir.is_local(self._folder):  # The profiler writes to disks.
        self._written = pathlib.Path(tempfile.mkdtemp())
      jax.profiler.start_trace(str(self._written), create_perfetto_trace=True)

  def after(self, at, state):
    """Ends after the call up to step `at`, once it is done."""
    if at == self._steps[1] and self._steps[0] >= 0:
      jax.block_until_ready(state)
      # A run that was resumed in between has begun nothing.
      with contextlib.suppress(RuntimeError):
        jax.profiler.stop_trace()
        if self._written != self._folder:
          rundir.copy(self._written, self._folder)
          rundir.remove(self._written)


def provenance(dataset: data.Dataset) -> dict[str, Any]:
  """What makes the runs of this process; see `provenance.record`."""
  kinds = collections.Counter(d.device_kind for d in jax.devices())
  text = ", ".join(f"{number} x {kind}" for kind, number in kinds.items())
  names = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain")
  return provenance_lib.record(
    f"{text} on {jax.process_count()} host(s)",
    {name: importlib.metadata.version(name) for name in names},
  ) | ({"dataset": dict(dataset.facts)} if dataset.facts else {})
