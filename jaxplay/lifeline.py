"""Ends child processes when their parent ends, even if it is killed.

The parent holds one end of a pipe, and the children wait at the other: however
the parent ends, its end is closed. Unlike Linux's PR_SET_PDEATHSIG this works
on every Unix, and the parent's death is never missed.
"""

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

_VARIABLE = "JAXPLAY_LIFELINE"  # launch/local.py writes it, too.


@contextlib.contextmanager
def hold() -> Iterator[dict[str, Any]]:
  """Ties child processes to this process.

  Yields:
    More arguments of `subprocess.Popen`, for each child.
  """
  waits, held = os.pipe()
  try:
    yield {"pass_fds": (waits,), "env": os.environ | {_VARIABLE: str(waits)}}
  finally:
    os.close(waits)
    os.close(held)


def watch() -> None:
  """Sends this process SIGTERM once its parent in `hold` has ended."""
  end = os.environ.pop(_VARIABLE, None)
  if end is not None:
    threading.Thread(target=_wait, args=[int(end)], daemon=True).start()


def _wait(end):
  with contextlib.suppress(OSError):  # The number is of another process.
    if not os.read(end, 1):
      os.kill(os.getpid(), signal.SIGTERM)
