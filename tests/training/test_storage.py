"""Disks that fill up, break or go: one sentence, and nothing is lost."""

import os
import subprocess
import sys

import pytest

from tests.training import runs, small_disks

pytestmark = [
  pytest.mark.slow,
  pytest.mark.skipif(
    not small_disks.can_mount(), reason="mounting a disk needs root"
  ),
]


@pytest.mark.parametrize(
  "check",
  [
    "run",
    pytest.param("runs", marks=pytest.mark.pods),
    pytest.param("studies", marks=pytest.mark.pods),
    pytest.param("kills", marks=pytest.mark.pods),
  ],
)
def test_a_disk_that_is_full_or_gone(tmp_path, check):
  """R2: exit code 1, one sentence, nothing partial, no crash counted.

  With room the same command goes on, and ends as if nothing had happened. What
  is gone is not made again.
  """
  done = subprocess.run(
    [sys.executable, "-m", "tests.training.small_disks", check],
    cwd=runs.ROOT,
    env=os.environ | {"JAX_NUM_CPU_DEVICES": "1", "TMPDIR": str(tmp_path)},
    capture_output=True,
    text=True,
    timeout=runs.HANG,
  )
  assert done.returncode == 0, done.stdout + done.stderr
  assert "Traceback" not in done.stderr
