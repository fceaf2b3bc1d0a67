"""Text for a terminal: whatever a study says, it is shown and not obeyed.

Goals, reasons, commands and names of files come from studies that may be
somebody else's. Printed as they are, control characters in them would change
what is seen, or the terminal itself; and what the terminal's encoding lacks
would end the program. Both are shown as Python writes them, \\x1b and \\xe9.
"""

import contextlib
import re
import sys
from collections.abc import Iterator

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
