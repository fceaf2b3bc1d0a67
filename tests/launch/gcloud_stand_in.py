#!/usr/bin/env python3
"""Stands in for `gcloud` in tests: there is no cloud to be had for them.

It writes down each call, says the states that a test has lined up, and plays a
slice of two workers: what is copied to them, and what `ssh` is to run on them,
goes to folders of this machine, by a real shell. It knows the few commands that
launch/tpu_vm.py uses, and refuses all others; whether Google's `gcloud` takes
these is not tested by it.
"""

import json
import os
import pathlib
import shutil
import subprocess
import sys

FOLDER = pathlib.Path(os.environ["STAND_IN"])
SLICE = FOLDER / "slice"


def main(words):
  with open(FOLDER / "calls.jsonl", "a") as file:
    file.write(json.dumps(words) + "\n")
  flags = dict(
    w.split("=", 1) for w in words if w.startswith("--") and "=" in w
  )
  if flags.get("--project") != "p" or flags.get("--zone") != "z":
    return fail("no project or zone")
  what, rest = words[2:4], words[4:]
  if words[:2] != ["compute", "tpus"]:
    return fail("not of TPUs")
  if what == ["queued-resources", "describe"]:
    return describe()
  if what == ["queued-resources", "create"]:
    if SLICE.exists():
      return fail("ALREADY_EXISTS")
    for worker in "01":
      (SLICE / worker).mkdir(parents=True)
    return 0
  if not SLICE.exists():
    return fail("NOT_FOUND")
  if what == ["queued-resources", "delete"]:
    shutil.rmtree(SLICE)
    return 0
  workers = {"all": "01"}.get(flags["--worker"], flags["--worker"])
  if what == ["tpu-vm", "scp"]:
    for worker in workers:
      shutil.copy(rest[0], SLICE / worker / rest[1].partition(":")[2])
    return 0
  if what == ["tpu-vm", "ssh"]:
    return max(ssh(worker, flags["--command"]) for worker in workers)
  return fail(f"unknown: {what}")


def describe():
  """The next state; the last one stays."""
  if not SLICE.exists():
    return fail("NOT_FOUND: no such queued resource")
  states = json.loads((FOLDER / "states.json").read_text())
  print(states[0])
  if states[1:]:
    (FOLDER / "states.json").write_text(json.dumps(states[1:]))
  return 0


def ssh(worker, command):
  home = SLICE / worker
  return subprocess.run(
    ["bash", "-c", command], cwd=home, env=os.environ | {"HOME": str(home)}
  ).returncode


def fail(why):
  print(f"ERROR: (gcloud) {why}", file=sys.stderr)
  return 1


if __name__ == "__main__":
  sys.exit(main(sys.argv[1:]))
