"""What the tests of launchers share: launch files, and running a launcher."""

import json
import subprocess
import sys

from tests.training import runs


def write(folder, name, arguments, **tables):
  """Writes a launch file; returns its path."""
  lines = [f"name = {json.dumps(name)}", f"arguments = {json.dumps(arguments)}"]
  for table, values in tables.items():
    # JSON's texts, numbers, truths and lists are TOML's.
    lines += [f"[{table}]"]
    lines += [f"{key} = {json.dumps(value)}" for key, value in values.items()]
  path = folder / f"{name}.toml"
  path.write_text("\n".join(lines) + "\n")
  return path


def launch(launcher, *arguments, code=0, **kwargs):
  """Runs a launcher, which must end with `code`; (stdout, stderr)."""
  done = subprocess.run(
    [sys.executable, runs.ROOT / "launch" / launcher, *map(str, arguments)],
    capture_output=True,
    text=True,
    timeout=runs.HANG,
    **{"stdin": subprocess.DEVNULL} | kwargs,
  )
  assert done.returncode == code, done.stdout + done.stderr
  assert "Traceback" not in done.stderr, done.stderr
  return done.stdout, done.stderr
