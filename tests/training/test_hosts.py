"""Several hosts, as local processes: same results, one writer, no hanging."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys

import pytest

from jaxplay import rundir
from tests.training import runs

pytestmark = pytest.mark.slow

_SHORT = dict(
  max_train_steps=6, log_every=2, eval_every=3, steps_per_call=2, batch_size=32
)
# Of resnets: a step is equal on any layout, a long run is not. Sooner or later
# a rounding error puts an activation on the other side of a ReLU.
_TWO_STEPS = {"max_train_steps": 2, "log_every": 2, "eval_every": 1}


def assert_same_but_rounded(one, other):
  """Costs of examples, of which rounding may turn a prediction or two."""
  assert one.keys() == other.keys()
  for name in ("step_last", "data", "metric"):
    assert one[name] == other[name]
  different = one["cost_last"] != other["cost_last"]
  assert one["cost_last"].shape == (300,) and different.sum() <= 2


_WORKLOADS = {
  "mlp": runs.MLP | {"task.metrics": ("f1", "roc_auc", "average_precision")},
  "resnet_batch": runs.RESNET | _TWO_STEPS | {"model.norm": "batch"},
  "resnet_ghost": runs.RESNET
  | _TWO_STEPS
  | {"model.norm": "ghost", "model.virtual_batch_size": 16},
}


@pytest.mark.parametrize(
  "workload, mesh",
  [
    ("mlp", "fsdp"),
    *(
      pytest.param(*case, marks=pytest.mark.pods)
      for case in (("resnet_batch", "fsdp"), ("resnet_ghost", "data"))
    ),
  ],
)
def test_one_two_and_eight_are_equal(tmp_path, workload, mesh):
  """N1, N3, N4, M3, M4: 1 device = 1 process x 8 = 2 processes x 4.

  Parameters, batch norm averages, evaluations and lines of metrics; with
  parameters on every device, and split over all or some of them.
  """
  keys = runs.overrides(**_SHORT) | _WORKLOADS[workload]
  many = keys | {"mesh.fsdp": 4 if mesh == "fsdp" else 1}
  runs.train_here(keys | {"mesh.data": 1}, tmp_path / "one")
  runs.train_here(many, tmp_path / "eight")
  out = runs.launch(runs.command(many, tmp_path / "two"), 2, 4)
  # M1: host 0 alone writes to the console; the files have each line once.
  assert not re.search(r"^\[1\] step", out, re.M)
  one = runs.lines(tmp_path / "one")
  expected = [2, 3, 4, 6] if workload == "mlp" else [1, 2]
  assert [line["step"] for line in one] == expected
  state = runs.last_state(keys, tmp_path / "one")
  for other in ("eight", "two"):
    runs.assert_close(one, runs.lines(tmp_path / other), 1e-3, 1e-5)
    # G11: without padding, in the order of the split.
    costs = (runs.examples(tmp_path / name) for name in ("one", other))
    assert_same_but_rounded(*costs)
    runs.assert_close(
      state, runs.last_state(keys, tmp_path / other), 1e-3, 1e-5
    )


@pytest.mark.pods
@pytest.mark.parametrize(
  "workload, processes", [("resnet", 4), ("vit", 2), ("lm", 4)]
)
def test_presets_on_several_hosts(tmp_path, workload, processes):
  """M1, M3: heads and features over `tensor`, the rest over `fsdp`."""
  keys = runs.overrides(**_SHORT)
  keys |= {
    "resnet": _WORKLOADS["resnet_batch"] | {"mesh.fsdp": 4},
    "vit": runs.VIT,
    "lm": runs.LM,
  }[workload]
  many = dict(keys)
  if workload != "resnet":
    many |= {"mesh.rules": ("fsdp+tensor",), "mesh.fsdp": 2, "mesh.tensor": 2}
  runs.train_here(keys | {"mesh.data": 1, "mesh.fsdp": 1}, tmp_path / "one")
  command = runs.command(many, tmp_path / "many")
  runs.launch(command, processes, 8 // processes)
  one, other = (tmp_path / name for name in ("one", "many"))
  runs.assert_close(runs.lines(one), runs.lines(other), 5e-3, 1e-4)
  runs.assert_close(
    runs.last_state(keys, one), runs.last_state(keys, other), 5e-3, 1e-4
  )


@pytest.mark.pods
def test_begun_on_one_host_ends_on_two(tmp_path):
  """M3, G7: a run of 1 process x 8 resumes on 2 processes x 4."""
  keys = runs.overrides(**runs.MLP)
  runs.train_here(keys, tmp_path / "whole")
  runs.train_here(keys, tmp_path / "run", 20, runs.preempt)
  out = runs.launch(runs.command(keys, tmp_path / "run"), 2, 4)
  assert "resuming" in out
  runs.assert_close(
    runs.lines(tmp_path / "whole"), runs.lines(tmp_path / "run"), 2e-3, 2e-4
  )


@pytest.mark.pods
def test_host_feed_on_two_hosts(tmp_path):
  """M3: each host reads only its rows, and the batches are the same."""
  keys = runs.overrides(**_SHORT) | runs.MLP
  runs.train_here(keys, tmp_path / "one")
  streamed = keys | {"dataset.device_bytes": 0}
  runs.launch(runs.command(streamed, tmp_path / "two"), 2, 4)
  runs.assert_close(
    runs.lines(tmp_path / "one"), runs.lines(tmp_path / "two"), 2e-3, 2e-4
  )


@pytest.mark.pods
def test_a_finished_job_exports_and_tests(tmp_path):
  """M1, C10: export and test metrics work when parameters span hosts."""
  keys = runs.overrides(**_SHORT) | runs.MLP
  keys |= {"export": True, "report_test": True, "mesh.fsdp": 8}
  runs.launch(runs.command(keys, tmp_path / "run"), 2, 4)
  run = rundir.RunDir(tmp_path / "run")
  assert 0 <= run.status()["test"]["test/error_rate"] <= 1
  assert (run.export / "forward.jaxexport").stat().st_size > 0


def _long_job(workdir):
  """Two processes that train for ever, once they do; one writer of output."""
  keys = runs.overrides(**_SHORT) | {"max_train_steps": 10**6}
  processes = _job(keys, workdir, "--fake_devices=2")
  for line in processes[0].stdout:  # Both take part in every step.
    if line.startswith("step 6/"):
      return processes
  raise AssertionError("the job ended early")


def _free_port():
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    return listener.getsockname()[1]


def _job(keys, workdir, *more, envs=(None, None)):
  """Two processes of one job."""
  port = _free_port()
  return [
    runs.start(
      runs.command(
        keys,
        workdir,
        *(more or ("--fake_devices=1",)),
        f"--coordinator=localhost:{port}",
        "--num_processes=2",
        f"--process_id={i}",
      ),
      env=envs[i],
    )
    for i in range(2)
  ]


@pytest.mark.pods
@pytest.mark.parametrize("victim", [0, 1])
def test_a_dead_host_does_not_leave_the_other_hanging(tmp_path, victim):
  """M: SIGKILL one process; the other exits with a message within a minute."""
  processes = _long_job(tmp_path / "run")
  processes[victim].kill()
  survivor = processes[1 - victim]
  output, _ = survivor.communicate(timeout=60)
  assert survivor.returncode not in (0, 75)
  assert output.strip()
  processes[victim].communicate()


def _both(processes):
  """(exit code, output) of each process of a job that ends by itself."""
  outputs = [process.communicate(timeout=runs.HANG)[0] for process in processes]
  return [
    (process.returncode, output)
    for process, output in zip(processes, outputs, strict=True)
  ]


def _said(output):
  """The sentence that a verb was refused with."""
  [sentence] = re.findall("^jaxplay: (.*)$", output, re.M)
  return sentence


@pytest.mark.parametrize(
  "which", ["train", pytest.param("valid", marks=pytest.mark.pods)]
)
def test_hosts_with_different_data_do_not_begin(tmp_path, which):
  """M: a file that one host lacks ends both, with the host and what differs.

  Two of four such jobs trained on without a word, each host its own set; with
  other validation files they waited for each other for ever.
  """
  homes = [tmp_path / "0", tmp_path / "1"]
  for host, home in enumerate(homes):
    for split, number in (("train", 40), ("valid", 9)):
      (home / split).mkdir(parents=True)
      for i in range(number - (host == 1 and split == which)):
        (home / split / f"{i}").write_text(f"text {i} of {split}, and more\n")
  keys = runs.overrides(**_SHORT) | runs.LM
  keys |= {"dataset.name": "text:~/train", "dataset.data_dir": "~/cache"}
  keys |= {"dataset.valid_files": "~/valid"}
  processes = _job(
    keys,
    tmp_path / "run",
    envs=[os.environ | {"HOME": str(home)} for home in homes],
  )
  both = _both(processes)
  assert [code for code, _ in both] == [2, 2], both
  [sentence] = {_said(output) for _, output in both}
  assert sentence.startswith("host 1 (") and "host 0 (" in sentence
  number = {"train": 40, "valid": 9}[which]
  found = re.search(r"(\w+)\.documents is (\d+), and not (\d+)", sentence)
  # Some of the training files are the test set, whichever those are.
  assert found[1] in (which, "test") and int(found[2]) < int(found[3]) <= number
  assert not (tmp_path / "run").exists()


_HOSTS = """
import sys, time
import numpy as np
import jaxplay
from jaxplay.api import devices

devices.STOP_SECONDS = 2
host, address = int(sys.argv[1]), sys.argv[2]
jaxplay.use_devices(
  fake_devices=1,
  coordinator=address,
  num_processes=2,
  process_id=host,
  wait_seconds=600,
)
devices.start()
from jax.experimental import multihost_utils
from jaxplay.training import sharding

def refuse():
  raise jaxplay.UserError("not here")

for name, call in {
  "same": lambda: sharding.same_on_every_host({"a": [1, {"b": "x"}]}),
  "other": lambda: sharding.same_on_every_host({"a": [1, {"b": host}], "c": 2}),
  "lacks": lambda: sharding.same_on_every_host({"c": 2} if host else {}),
  "error": lambda: sharding.same_on_every_host({}, "no set" if host else ""),
  "alike": lambda: sharding.same_on_every_host({}, "none"),
  "first": lambda: print("made", sharding.from_first_host(lambda: [host])),
  "refused": lambda: sharding.from_first_host(refuse),
}.items():
  try:
    call()
    print(name, "passed")
  except jaxplay.UserError as error:
    print(name, error)
print("stuck", flush=True)
if host:
  multihost_utils.process_allgather(np.zeros(1))  # Which the other never joins.
time.sleep(3600)
"""


def test_hosts_agree_or_all_end(tmp_path):
  """M: every host says the same of a difference; none waits for ever.

  Nor once it is stuck: a signal ends it, and the others with it.
  """
  address = f"localhost:{_free_port()}"
  processes = [
    subprocess.Popen(
      [sys.executable, "-c", _HOSTS, str(host), address],
      cwd=runs.ROOT,
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for host in range(2)
  ]
  said = []
  for process in processes:
    said.append({})
    for line in process.stdout:
      if line == "stuck\n":
        break
      if not line.startswith("[Gloo]"):
        name, _, sentence = line.strip().partition(" ")
        said[-1][name] = re.sub(r"\(.*?\)", "", sentence)
  assert said[0] == said[1]
  assert said[0]["same"] == said[0]["alike"] == said[0]["first"] == "passed"
  assert said[0]["made"] == "[0]" and said[0]["refused"] == "not here"
  differs = "host 1  differs from host 0 : "
  assert said[0]["other"].startswith(f"{differs}a.1.b is 1, and not 0;")
  assert "c is 2, and not None" in said[0]["lacks"]
  assert said[0]["error"] == "host 1 : no set"
  processes[1].send_signal(signal.SIGTERM)
  for process in processes:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75 and "same command resumes" in errors


def test_preemption_reaches_every_host(tmp_path):
  """M4, G7: SIGTERM to one host: all save at the same step and exit with 75."""
  processes = _long_job(tmp_path / "run")
  processes[1].send_signal(signal.SIGTERM)
  outputs = [process.communicate(timeout=runs.HANG)[0] for process in processes]
  assert [process.returncode for process in processes] == [75, 75], outputs
  run = rundir.RunDir(tmp_path / "run")
  status = run.status()
  assert status["status"] == "preempted"
  assert (run.checkpoints / str(status["step"])).exists()
  steps = [line["step"] for line in run.metrics()]
  assert steps == sorted(set(steps)), json.dumps(steps[-5:])


@pytest.mark.pods
def test_killed_again_and_again(tmp_path):
  """Reliability: hosts killed at any moment, restarted; nothing is lost.

  One of two hosts gets SIGKILL, the other ends by itself, and the job is
  started again, until it comes to its end: as a job that nobody killed.
  """
  number = int(os.environ.get("JAXPLAY_KILLS", "6"))
  dice = random.Random(0)
  keys = runs.overrides(**_SHORT) | runs.MLP
  # Long enough for so many beginnings, each of which makes some steps: on the
  # average two lines and checkpoints, of the four that there are for it.
  keys |= {"max_train_steps": 100 * number, "log_every": 25}
  keys |= {"eval_every": 100, "checkpoint_every": 25, "steps_per_call": 25}
  runs.launch(runs.command(keys, tmp_path / "whole"), 2, 1)
  killed = 0
  while killed < number:
    processes = _job(keys, tmp_path / "run")
    patience = dice.randrange(1, 6)
    for line in processes[0].stdout:
      patience -= line.startswith(("step ", "resuming"))
      if not patience:
        break
    else:
      pytest.fail(f"the job ended after {killed} kills")
    victim = dice.randrange(2)
    processes[victim].kill()
    survivor = processes[1 - victim]
    survivor.communicate(timeout=runs.HANG)
    assert survivor.returncode not in (0, 75)
    processes[victim].communicate()
    killed += 1
  runs.launch(runs.command(keys, tmp_path / "run"), 2, 1)
  whole, run = (tmp_path / name for name in ("whole", "run"))
  runs.assert_same(runs.lines(whole), runs.lines(run))
  runs.assert_same(runs.last_state(keys, whole), runs.last_state(keys, run))
