"""A job that is started on some of its hosts only says so and ends."""

import contextlib
import socket
import time

import pytest

from jaxplay.api import devices
from tests.training import runs

pytestmark = pytest.mark.pods


def _start(tmp_path, port, process_id):
  """Process I of three, which wait for one another for 15 s."""
  return runs.start(
    runs.command(
      runs.overrides(),
      tmp_path / "run",
      "--fake_devices=1",
      f"--coordinator=localhost:{port}",
      "--num_processes=3",
      f"--process_id={process_id}",
      "--wait_seconds=15",
    )
  )


@pytest.mark.parametrize("came", [(0,), (1,), (0, 1)])
def test_missing_hosts_are_told(tmp_path, came):
  """M1: one sentence from each that came, exit code 1, in a limited time."""
  with contextlib.closing(socket.socket()) as listener:
    listener.bind(("localhost", 0))
    port = listener.getsockname()[1]
  begun = time.monotonic()
  processes = [_start(tmp_path, port, process_id) for process_id in came]
  outputs = [process.communicate(timeout=runs.HANG)[0] for process in processes]
  assert time.monotonic() - begun < 60
  for process_id, process, output in zip(came, processes, outputs, strict=True):
    assert process.returncode == 1, output
    sentence = output.strip().splitlines()[-1]
    assert "Traceback" not in output
    if process_id == 0:
      assert f"only {len(came)} of 3 processes " in sentence
      assert f"localhost:{port} within 15 s" in sentence
    else:
      assert "process 1 of 3 waited 18 s" in sentence
      assert f"localhost:{port}, does not answer" in sentence
  assert not (tmp_path / "run").exists()


def test_the_default_leaves_a_minute():
  """M1: nobody waits longer than a minute, the start of Python included."""
  assert devices.WAIT_SECONDS + 3 + 10 <= 60


@pytest.mark.parametrize(
  ("arguments", "values"),
  [
    (
      ["--distributed"],
      ["neither a TPU pod nor a Slurm step", "--coordinator"],
    ),
    (
      ["--coordinator=here", "--num_processes=2", "--process_id=0"],
      ["'here'", "HOST:PORT"],
    ),
    (
      ["--coordinator=localhost:1", "--num_processes=2", "--process_id=2"],
      ["--process_id", "--num_processes=2", "got 2"],
    ),
  ],
)
def test_mistakes(tmp_path, arguments, values):
  """M: what makes no job is refused in one sentence, with exit code 2."""
  command = runs.command(runs.overrides(), tmp_path / "run", *arguments)
  process = runs.start([*command, "--fake_devices=1"])
  output, _ = process.communicate(timeout=runs.HANG)
  assert process.returncode == 2, output
  assert all(value in output for value in values), output
  assert "Traceback" not in output
