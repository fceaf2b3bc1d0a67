"""What made a run: commands, versions, machines, and the code of all."""

import os
import sys

from jaxplay import commands, provenance, rundir


def test_provenance_tells_what_made_the_run(tmp_path):
  """G8: commit, uncommitted changes, versions, devices, host and command."""
  run = rundir.RunDir(tmp_path)
  entry = provenance.record("8 x cpu", {"jax": "1.2"})
  assert entry["devices"] == "8 x cpu" and entry["versions"]["jax"] == "1.2"
  assert entry["versions"]["python"] == sys.version.split()[0]
  assert entry["command"] == commands.typed()
  assert entry["folder"] == os.getcwd()
  run.write_provenance(entry)
  assert run.provenance() == entry | {"resumes": []}
