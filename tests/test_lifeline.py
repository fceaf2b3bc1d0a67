"""Processes that end with the one that started them."""

import subprocess
import sys

from tests.training import runs

_CHILD = r"""
import os, signal
from jaxplay import lifeline

def stop(number, frame):
  os.write(1, b"stopped\n")
  raise SystemExit

signal.signal(signal.SIGTERM, stop)
os.write(1, b"begun\n")
lifeline.watch()
while True:
  signal.pause()
"""
_PARENT = """
import subprocess, sys
from jaxplay import lifeline
with lifeline.hold() as tied:
  children = [subprocess.Popen([sys.executable, "-c", sys.argv[1]], **tied)
              for _ in range(2)]
  if sys.argv[2] == "waits":
    children[0].wait()
"""


def _start(what):
  return subprocess.Popen(
    [sys.executable, "-c", _PARENT, _CHILD, what],
    cwd=runs.ROOT,
    stdout=subprocess.PIPE,
    text=True,
  )


def test_children_of_a_killed_process_are_stopped():
  """Killed: what it started is asked to stop, as by SIGTERM."""
  with _start("waits") as parent:
    assert [parent.stdout.readline() for _ in range(2)] == ["begun\n"] * 2
    parent.kill()
    # Both, and then nobody has the pipe.
    assert parent.stdout.read() == "stopped\n" * 2


def test_children_may_begin_after_their_parent_is_gone():
  """Killed: also where that was before they looked."""
  with _start("ends") as parent:
    said = parent.stdout.read()
  assert sorted(said.split()) == ["begun", "begun", "stopped", "stopped"]
