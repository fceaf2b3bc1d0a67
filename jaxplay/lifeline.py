"""Ends processes with the one that started them, also where that was killed.

The one that starts them holds an end of a pipe, and they wait at the other:
whatever ends it, its end is closed. Unlike Linux's PR_SET_PDEATHSIG this works
on every Unix, and there is no moment at which its death goes unnoticed.
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
  """Inside, processes can be tied to this one.

  Yields:
    More arguments of `subprocess.Popen`, for each of them.
  """
  waits, held = os.pipe()
  try:
    yield {"pass_fds": (waits,), "env": os.environ | {_VARIABLE: str(waits)}}
  finally:
    os.close(waits)
    os.close(held)


def watch() -> None:
  """Sends this process SIGTERM once the one that holds it is gone."""
  end = os.environ.pop(_VARIABLE, None)
  if end is not None:
    threading.Thread(target=_wait, args=[int(end)], daemon=True).start()


def _wait(end):
  with contextlib.suppress(OSError):  # It is of another process.
    if not os.read(end, 1):
      os.kill(os.getpid(), signal.SIGTERM)
