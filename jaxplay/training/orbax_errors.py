"""Silences the messages of orbax threads after an error."""

import logging
import sys
import warnings


class _OfOrbax(logging.Filter):
  """Drops the tracebacks that threads of orbax log.

  Each thread logs the first error, 324 lines for a full disk, before it is
  raised.
  """

  def filter(self, record):
    return not (record.exc_info and "/orbax/" in record.pathname)


def _but_for_closed_loops(hook):
  """Wraps `sys.unraisablehook` to ignore errors of TensorStore's threads.

  After the first error of a save or a restore, orbax closes the event loop to
  which they report.
  """

  def unraisablehook(unraisable):
    closed = str(unraisable.exc_value) == "Event loop is closed"
    if unraisable.exc_type is not RuntimeError or not closed:
      hook(unraisable)

  return unraisablehook


logging.getLogger("absl").addFilter(_OfOrbax())
sys.unraisablehook = _but_for_closed_loops(sys.unraisablehook)


def hush():
  """Silences tasks that orbax leaves unfinished after an error."""
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  warnings.filterwarnings(
    "ignore", "coroutine .* was never awaited", RuntimeWarning
  )
