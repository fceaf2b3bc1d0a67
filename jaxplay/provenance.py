"""What made a run: the command, the code, the machine (G8)."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from jaxplay import commands


def record(
  devices: str = "", versions: Mapping[str, str] = {}
) -> dict[str, Any]:
  """What makes a run, study, ladder or plan, for `RunDir.write_provenance`.

  Args:
    devices: Kind and count of the devices, in words.
    versions: Versions of the libraries that computed it.
  """

  def git(*args):
    command = ["git", "-C", os.path.dirname(os.path.abspath(__file__)), *args]
    try:
      done = subprocess.run(command, capture_output=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
      return None
    if done.returncode != 0:
      return None
    return done.stdout.decode(errors="replace")  # Of files in any encoding.

  commit = git("rev-parse", "HEAD")
  return {
    "git_commit": commit and commit.strip(),
    "git_diff": git("diff", "HEAD") if commit else None,
    "versions": {"python": sys.version.split()[0], **versions},
    "devices": devices,
    "host": socket.gethostname(),
    "command": commands.typed(),
    "folder": os.getcwd(),
    "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
  }
