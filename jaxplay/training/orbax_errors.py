"""What orbax prints and leaves to end by itself after an error, silenced."""

import logging
import sys
import warnings


class _OfOrbax(logging.Filter):
  """Drops the tracebacks that threads of orbax log.

  Each of its threads logs the error of the first one, 324 lines for a full
  disk, and then it is raised for us as well.
  """

  def filter(self, record):
    return not (record.exc_info and "/orbax/" in record.pathname)


def _but_for_closed_loops(hook):
  """`sys.unraisablehook` without what TensorStore's threads cannot raise.

  After the first error of a save or a restore orbax closes the event loop to
  which they report theirs.
  """

  def unraisablehook(unraisable):
    closed = str(unraisable.exc_value) == "Event loop is closed"
    if unraisable.exc_type is not RuntimeError or not closed:
      hook(unraisable)

  return unraisablehook


logging.getLogger("absl").addFilter(_OfOrbax())
sys.unraisablehook = _but_for_closed_loops(sys.unraisablehook)


def hush():
  """Silences what orbax leaves to end by itself after an error."""
  logging.getLogger("asyncio").setLevel(logging.CRITICAL)
  warnings.filterwarnings(
    "ignore", "coroutine .* was never awaited", RuntimeWarning
  )
