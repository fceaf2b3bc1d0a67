"""Text for a terminal: whatever a study says, it is shown and not obeyed.

Goals, reasons, commands and names of files come from studies that may be
somebody else's. Printed as they are, control characters in them would change
what is seen, or the terminal itself; and what the terminal's encoding lacks
would end the program. Both are shown as Python writes them, \\x1b and \\xe9.
"""

import contextlib
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

# All but the tab and the newline; and those that reorder what is beside them
# (Boucher and Anderson 2021, Trojan Source, arXiv 2111.00169).
_CONTROL = re.compile(
  r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def as_text(text: str, encoding: str = "utf-8") -> str:
  """What is to be shown of a text.

  Args:
    text: Whatever it is.
    encoding: Of where it is shown.
  """
  text = _CONTROL.sub(
    lambda match: match[0].encode("unicode_escape").decode(), text
  )
  return text.encode(encoding, "backslashreplace").decode(encoding)


class _Stream:
  """A text stream that shows what is written."""

  def __init__(self, stream):
    self.raw = stream

  def write(self, text):
    self.raw.write(as_text(text, self.raw.encoding or "utf-8"))
    return len(text)

  def writelines(self, lines):
    for line in lines:
      self.write(line)

  def __getattr__(self, name):
    return getattr(self.raw, name)


@contextlib.contextmanager
def shown_as_text() -> Iterator[None]:
  """Inside, what is written to standard output and error is shown as text."""
  before = sys.stdout, sys.stderr
  wrapped = sys.stdout, sys.stderr = tuple(map(_Stream, before))
  try:
    yield
  finally:
    # Whoever stopped to read is not written to again; see `Console`.
    if sys.stdout is wrapped[0]:
      sys.stdout = before[0]
    sys.stderr = before[1]


def stderr():
  """Standard error as it is, for what moves the cursor, as bars do."""
  return getattr(sys.stderr, "raw", sys.stderr)


_is_shown = True


def show_progress(is_shown: bool) -> None:
  """Sets whether training and procedures print their progress.

  Args:
    is_shown: Whether bars, lines of progress and notes appear.

  Examples:
    >>> import jaxplay as jp
    >>> jp.show_progress(False)
    >>> jp.show_progress(True)
  """
  global _is_shown
  _is_shown = is_shown


class Console:
  """A progress bar on a terminal, plain lines in a log."""

  def __init__(
    self,
    quiet: bool,
    names: Sequence[str] = ("train/loss",),
    log_seconds: float = 0.0,
  ):
    """Shows nothing yet.

    Args:
      quiet: Whether to show nothing at all.
      names: What to show beside the progress.
      log_seconds: Least time between lines of progress in a log.
    """
    self.quiet = quiet or not _is_shown
    self._bar: Any = None
    self._shown: dict[str, str] = {}
    # A notebook draws the bar itself.
    self._terminal = sys.stderr.isatty() or "ipykernel" in sys.modules
    self._names, self._log_seconds = names, log_seconds
    self._unshown, self._shown_at = "", -log_seconds

  def __enter__(self):
    return self

  def tell(self, sentence: str) -> None:
    """Shows a line."""
    if self.quiet:
      return
    if self._bar is not None:
      self._bar.clear()
    self._print(sentence)

  def progress(self, done: int, total: int, line: Mapping[str, Any]) -> None:
    """Shows that `done` of `total` steps are done, and values of a line."""
    if self.quiet:
      return
    shown = {
      name.replace("error_rate", "error"): short(line[name])
      for name in self._names
      if line.get(name) is not None
    }
    if not self._terminal:
      values = "  ".join(f"{k} {v}" for k, v in shown.items())
      self._unshown = f"step {done}/{total}  {values}" if shown else ""
      if time.monotonic() - self._shown_at >= self._log_seconds:
        self._show_line()
      return
    if self._bar is None:
      import tqdm.auto

      self._shown = {}
      self._bar = tqdm.auto.tqdm(
        total=total,
        initial=done,
        unit="step",
        dynamic_ncols=True,
        file=stderr(),
      )
    self._shown |= {k: as_text(v) for k, v in shown.items()}
    self._bar.set_postfix(self._shown, refresh=False)
    self._bar.update(done - self._bar.n)

  def _show_line(self):
    if self._unshown:
      self._print(self._unshown)
      self._unshown, self._shown_at = "", time.monotonic()

  def _print(self, text):
    try:
      print(text, flush=True)
    except BrokenPipeError:  # `| head` must not end a run of days.
      self.quiet = True
      sys.stdout = open(os.devnull, "w")

  def __exit__(self, *unused):
    self._show_line()
    if self._bar is not None:
      self._bar.close()
      self._bar = None  # The next run has its own.


def short(value: Any) -> str:
  """A value on one line, which may be somebody else's text."""
  if isinstance(value, float):
    return f"{value:.4g}"
  return str(value).replace("\n", "\\n")
