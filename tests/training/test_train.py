"""Properties of whole runs: resume, kill, preempt, damage, feeds."""

import collections
import dataclasses
import errno
import json
import os
import pathlib
import shutil

import jax
import numpy as np
import pytest
from jax.experimental import multihost_utils

import jaxplay
from jaxplay import rundir
from jaxplay.training import (
  checkpoint,
  checkpoint_files,
  checksum,
  resume,
  sharding,
)
from jaxplay.training import workload as workload_lib
from tests.data import tiny_tfds
from tests.training import runs


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """An uninterrupted run: its keys and folder."""
  keys = runs.overrides(**runs.MLP, averages=("ema", "window"))
  workdir = tmp_path_factory.mktemp("whole") / "run"
  status, _ = runs.train_here(keys, workdir)
  assert status["status"] == "completed"
  return keys, workdir


def test_leaves_what_others_read(whole):
  """A finished run directory holds every file by its documented name."""
  keys, workdir = whole
  run = rundir.RunDir(workdir)
  assert run.config()["max_train_steps"] == keys["max_train_steps"]
  assert [line["step"] for line in run.metrics()] == list(range(4, 49, 4))
  evaluated = [line for line in run.metrics() if "valid/loss" in line]
  assert [line["step"] for line in evaluated] == list(range(8, 49, 8))
  assert all("train/grad_norm" in line for line in run.metrics())
  assert all("valid_ema/error_rate" in line for line in evaluated)
  status = run.status()
  assert status["status"] == "completed" and status["step"] == 48
  least = min(line["valid/error_rate"] for line in evaluated)
  assert status["best"]["value"] == least
  assert run.provenance()["command"] and run.provenance()["versions"]["jax"]


def test_predictions_of_a_fixed_sample(whole):
  """G5: each evaluation saves the logits of the same examples."""
  _, workdir = whole
  run = rundir.RunDir(workdir)
  first, last = run.predictions(8), run.predictions(48)
  np.testing.assert_array_equal(first["index"], last["index"])
  assert first["logits"].shape == (8, 10)
  assert not np.array_equal(first["logits"], last["logits"])
  line = next(line for line in run.metrics() if line["step"] == 48)
  errors = 1 - last["class_correct"].sum() / last["class_count"].sum()
  assert errors == pytest.approx(line["valid/error_rate"])


@pytest.mark.slow
@pytest.mark.parametrize(
  "step", [*(pytest.param(s, marks=pytest.mark.pods) for s in (4, 24)), 36]
)
def test_preempted_and_resumed_is_uninterrupted(whole, tmp_path, step):
  """G7: SIGTERM saves; resumed, the run ends bit for bit the same."""
  keys, workdir = whole
  status, _ = runs.train_here(keys, tmp_path / "run", step, runs.preempt)
  assert status["status"] == "preempted"
  assert step <= status["step"] < 48
  status, told = runs.train_here(keys, tmp_path / "run")
  assert status["status"] == "completed"
  assert any("resuming" in sentence for sentence in told)
  runs.assert_same(runs.lines(workdir), runs.lines(tmp_path / "run"))
  runs.assert_same(
    runs.last_state(keys, workdir), runs.last_state(keys, tmp_path / "run")
  )


@pytest.mark.slow
def test_killed_at_any_moment_is_uninterrupted(whole, tmp_path):
  """G7: SIGKILL, also in the middle of saves: bit for bit, no line twice."""
  keys, workdir = whole
  for moment in ("4", "saving", "20", "saving"):
    runs.kill(keys, tmp_path / "run", moment)
  status, _ = runs.train_here(keys, tmp_path / "run")
  assert status["status"] == "completed"
  assert status["best"] == rundir.RunDir(workdir).status()["best"]
  runs.assert_same(runs.lines(workdir), runs.lines(tmp_path / "run"))
  runs.assert_same(
    runs.last_state(keys, workdir), runs.last_state(keys, tmp_path / "run")
  )


@pytest.mark.pods
def test_how_steps_are_cut_into_calls_changes_nothing(whole, tmp_path):
  """Idea 3: any number of steps per dispatch gives the same bits."""
  keys, workdir = whole
  runs.train_here(keys | {"steps_per_call": 2}, tmp_path / "two")
  runs.assert_same(runs.lines(workdir), runs.lines(tmp_path / "two"))
  # Without a loop it is another program: equal, but not in the last bits.
  runs.train_here(keys | {"steps_per_call": 1}, tmp_path / "one")
  runs.assert_close(
    runs.lines(workdir), runs.lines(tmp_path / "one"), 2e-3, 1e-4
  )


@pytest.mark.pods
@pytest.mark.parametrize("devices", [1, 4])
def test_resumes_on_another_number_of_devices(whole, tmp_path, devices):
  """M3: begun on 8 devices, continued on fewer, to float tolerance the same."""
  keys, workdir = whole
  runs.train_here(keys, tmp_path / "run", 20, runs.preempt)
  fewer = keys | {"mesh.data": devices}
  status, _ = runs.train_here(fewer, tmp_path / "run")
  assert status["status"] == "completed"
  runs.assert_close(
    runs.lines(workdir), runs.lines(tmp_path / "run"), 2e-3, 1e-4
  )
  runs.assert_close(
    runs.last_state(keys, workdir),
    runs.last_state(fewer, tmp_path / "run"),
    2e-3,
    1e-4,
  )


def test_host_feed_equals_device_feed(whole, tmp_path):
  """G2: shipping batches from the host trains on the same batches."""
  keys, workdir = whole
  runs.train_here(keys | {"dataset.device_bytes": 0}, tmp_path / "run")
  runs.assert_close(
    runs.lines(workdir), runs.lines(tmp_path / "run"), 2e-3, 1e-4
  )
  # D14, G1: only what the host reads is waited for.
  on_device, read = (
    [line["data_wait"] for line in rundir.RunDir(path).metrics()]
    for path in (workdir, tmp_path / "run")
  )
  assert max(on_device) == 0 < max(read)


def test_finished_run_is_left_alone(whole):
  """The same command on a finished run says so and does nothing."""
  keys, workdir = whole
  before = {
    path: path.stat().st_mtime_ns
    for path in pathlib.Path(workdir).rglob("*")
    if path.is_file()
  }
  status, told = runs.train_here(keys, workdir)
  assert status["status"] == "completed" and "nothing to do" in told[0]
  after = {path: path.stat().st_mtime_ns for path in before}
  assert before == after


def test_the_test_set_is_looked_at_only_when_asked(whole, tmp_path):
  """C10: no test metric without report_test; asked later, it is added."""
  keys, workdir = whole
  assert "test" not in json.dumps(rundir.RunDir(workdir).status())
  shutil.copytree(workdir, tmp_path / "run")
  status, _ = runs.train_here(keys | {"report_test": True}, tmp_path / "run")
  assert 0 <= status["test"]["test/error_rate"] <= 1
  assert status["test"]["step"] == status["best"]["step"]
  runs.assert_same(runs.lines(workdir), runs.lines(tmp_path / "run"))


def test_another_config_in_the_same_workdir_is_refused(whole):
  """A run directory holds one run: the differing keys are named."""
  keys, workdir = whole
  with pytest.raises(jaxplay.UserError, match="learning_rate was 0.1 and is"):
    runs.train_here(keys | {"hparams.learning_rate": 0.2}, workdir)
  assert rundir.RunDir(workdir).status()["status"] == "completed"


def test_two_processes_never_train_in_one_workdir(tmp_path):
  """The same command typed twice at once: the second is refused."""
  keys = runs.overrides(model__width=16)
  refused = []

  def again():
    with pytest.raises(jaxplay.UserError, match="another process is training"):
      runs.train_here(keys, tmp_path / "run")
    refused.append(True)

  status, _ = runs.train_here(keys, tmp_path / "run", 20, again)
  assert refused and status["status"] == "completed"


@pytest.fixture(scope="module")
def stopped(whole, tmp_path_factory):
  """A run that was stopped at step 36, and has checkpoints before that."""
  keys, _ = whole
  workdir = tmp_path_factory.mktemp("stopped") / "run"
  status, _ = runs.train_here(keys, workdir, 36, runs.preempt)
  assert status["status"] == "preempted"
  return workdir


def _edit_lines(workdir, edit):
  path = pathlib.Path(workdir) / "metrics.jsonl"
  lines = path.read_text().splitlines(keepends=True)
  path.write_text("".join(edit(lines)))


def test_lost_lines_are_made_again(whole, stopped, tmp_path):
  """G7: metrics cut under a checkpoint: from one before which they are whole.

  The run ends as if nothing had happened.
  """
  keys, workdir = whole
  shutil.copytree(stopped, tmp_path / "run")
  before = checkpoint_files.steps(tmp_path / "run" / "checkpoints")
  _edit_lines(tmp_path / "run", lambda lines: lines[: before[-2] // 4])
  status, told = runs.train_here(keys, tmp_path / "run")
  assert any(f"before step {before[-1]} are missing" in text for text in told)
  assert f"resuming from the checkpoint of step {before[-2]}" in told
  assert status["status"] == "completed"
  runs.assert_same(runs.lines(workdir), runs.lines(tmp_path / "run"))


@pytest.mark.parametrize(
  "edit",
  [
    lambda lines: [],
    lambda lines: lines[1:],
    lambda lines: [*lines[:1], *lines],
  ],
)
def test_lost_lines_that_no_checkpoint_makes_again(
  whole, stopped, tmp_path, edit
):
  """G7: a run never goes on without its first lines, and nothing changes."""
  keys, _ = whole
  shutil.copytree(stopped, tmp_path / "run")
  _edit_lines(tmp_path / "run", edit)
  before = _contents(tmp_path / "run")
  with pytest.raises(jaxplay.UserError, match="metrics.jsonl.*restore it"):
    runs.train_here(keys, tmp_path / "run")
  after = _contents(tmp_path / "run")
  for name in ("metrics.jsonl", "status.json", "config.json"):
    assert before[name] == after[name]
  saved = [name for name in before if name.startswith("checkpoints")]
  assert saved and all(before[name] == after[name] for name in saved)


def _contents(folder):
  return {
    str(path.relative_to(folder)): path.read_bytes()
    for path in folder.rglob("*")
    if path.is_file()
  }


def test_a_finished_run_that_lost_its_metrics(whole, tmp_path):
  """G7: what is left of it is no result, and is not called finished."""
  keys, workdir = whole
  shutil.copytree(workdir, tmp_path / "run")
  (tmp_path / "run" / "metrics.jsonl").unlink()
  with pytest.raises(jaxplay.UserError, match="metrics.jsonl.*restore it"):
    runs.train_here(keys, tmp_path / "run")
  assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_a_run_that_lost_its_config(stopped, tmp_path):
  """G7: checkpoints of which config are not gone on with."""
  shutil.copytree(stopped, tmp_path / "run")
  (tmp_path / "run" / "config.json").unlink()
  with pytest.raises(jaxplay.UserError, match="no config.json; restore it"):
    runs.train_here(runs.overrides(), tmp_path / "run")
  assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.slow
def test_any_flipped_bit_is_found(whole, stopped, tmp_path):
  """G7: bits of every file of a checkpoint, in many places.

  What is restored is what was saved: of that step, or else of the one before.
  """
  keys, _ = whole
  # On one device, which is faster, as states do not depend on their layout.
  workload = workload_lib.make_workload(
    runs.make_config(keys | {"mesh.data": 1})
  )
  folder = stopped / "checkpoints"
  *_, before, newest = checkpoint_files.steps(folder)
  opened = checkpoint.Checkpoints(folder, keep_best=1)
  saved = {
    step: jax.tree.leaves(jax.device_get(opened.restore(step, workload.state)))
    for step in (before, newest)
  }
  opened.close()
  random = np.random.default_rng(0)
  files = [p for p in (folder / str(newest)).rglob("*") if p.stat().st_size]
  files = sorted(path for path in files if path.is_file())
  found = collections.Counter()
  for path in files:
    size = path.stat().st_size
    for place in random.integers(size, size=3 if size > 10_000 else 1):
      copy = tmp_path / "checkpoints"
      shutil.copytree(folder, copy)
      damaged = copy / path.relative_to(folder)
      data = bytearray(damaged.read_bytes())
      data[place] ^= 1 << random.integers(8)
      damaged.write_bytes(data)
      told = []
      opened = checkpoint.Checkpoints(copy, keep_best=1, tell=told.append)
      step, state = opened.restore_newest(workload.state, lambda *_: True)
      opened.close()
      assert (step == newest) == (not told), (damaged, told)
      for one, other in zip(jax.tree.leaves(state), saved[step], strict=True):
        np.testing.assert_array_equal(one, other, err_msg=f"{path} {place}")
      found[step] += 1
      shutil.rmtree(copy)
  # Some bits hold nothing that is read.
  assert found[before] > 5 and found[newest]


def test_a_checksum_sees_any_change(whole):
  """G7: of each leaf, whatever its type; and is the same however laid out."""
  random = np.random.default_rng(0)
  tree = {
    "a": random.normal(size=(16, 30)).astype(np.float32),
    "b": random.normal(size=(8, 9_000)).astype(np.float32),  # on the devices
    "c": random.integers(0, 255, 7).astype(np.uint8),
    "d": random.normal(size=5).astype(np.float16),
    "e": np.array([True, False]),
    "f": np.array(3, np.int32),
    "g": np.zeros([0, 3], np.float32),
  }
  expected = checksum.of(tree)
  everywhere = jax.tree.map(jax.numpy.asarray, tree)
  assert checksum.of(everywhere) == expected
  mesh = sharding.make_mesh(data=4, fsdp=2)
  for where in (sharding.batch(mesh), sharding.batch(mesh, 1)):
    for name in "ab":
      if tree[name].shape[len(where.spec) - 1] % 8 == 0:
        moved = everywhere | {name: jax.device_put(tree[name], where)}
        assert checksum.of(moved) == expected
  for name in "abcdf":
    bits = np.frombuffer(tree[name].tobytes(), np.uint8).copy()
    bits[random.integers(len(bits))] ^= 1 << random.integers(8)
    changed = bits.view(tree[name].dtype).reshape(tree[name].shape)
    assert checksum.of(tree | {name: changed}) != expected, name
  assert checksum.of(tree | {"e": ~tree["e"]}) != expected
  assert checksum.of(tree | {"a": tree["a"][::-1]}) != expected


def test_a_damaged_best_checkpoint_is_not_chosen(whole, tmp_path):
  """G7: the best of those that are intact is; the run is not held up."""
  keys, workdir = whole
  shutil.copytree(workdir, tmp_path / "run")
  run = rundir.RunDir(tmp_path / "run")
  best = run.status()["best"]["step"]
  for path in (run.checkpoints / str(best)).rglob("*"):
    if path.is_file() and path.stat().st_size > 1000:
      _flip_bits(path)
  status, told = runs.train_here(keys | {"report_test": True}, run.path)
  assert any(f"step {best} is damaged" in sentence for sentence in told)
  kept = checkpoint_files.steps(run.checkpoints)
  assert best not in kept
  scored = [line for line in run.metrics() if line["step"] in kept]
  assert status["best"] == rundir.best_line(scored, "valid/error_rate")
  assert status["test"]["step"] == status["best"]["step"]


def test_checkpoints_of_older_versions_are_read(whole, stopped, tmp_path):
  """G7: what knows neither checksum nor digests is gone on with as before."""
  keys, workdir = whole
  shutil.copytree(stopped, tmp_path / "run")
  for path in (tmp_path / "run" / "checkpoints").glob("*/metrics/metrics"):
    facts = json.loads(path.read_text())
    path.write_text(json.dumps({k: facts[k] for k in ("objective", "step")}))
  runs.train_here(keys, tmp_path / "run")
  runs.assert_same(runs.lines(workdir), runs.lines(tmp_path / "run"))


@pytest.mark.parametrize(
  "error", [OSError(errno.EIO, "x"), OSError(errno.EMFILE, "x"), MemoryError()]
)
def test_what_cannot_be_read_now_is_not_deleted(
  stopped, tmp_path, monkeypatch, error
):
  """R2: a checkpoint is deleted for what is in it, and for nothing else."""
  shutil.copytree(stopped, tmp_path / "run")
  folder = tmp_path / "run" / "checkpoints"
  there = checkpoint_files.steps(folder)
  opened = checkpoint.Checkpoints(folder, keep_best=1)

  def fail(*unused, **kwargs):
    raise error

  monkeypatch.setattr(opened._manager, "restore", fail)
  monkeypatch.setattr(checkpoint_files, "_different_shapes", lambda *unused: "")
  with pytest.raises((jaxplay.StorageError, MemoryError)):
    opened.restore_newest({"x": None}, lambda *unused: True)
  opened.close()
  assert checkpoint_files.steps(folder) == there


def _truncate(path):
  os.truncate(path, path.stat().st_size // 2)


def _flip_bits(path):
  data = bytearray(path.read_bytes())
  data[len(data) // 2] ^= 0xFF
  path.write_bytes(data)


@pytest.mark.parametrize(
  "damage",
  [
    _flip_bits,
    *(pytest.param(d, marks=pytest.mark.pods) for d in (_truncate, os.unlink)),
  ],
)
def test_damaged_newest_checkpoint(whole, tmp_path, damage):
  """G7: a damaged newest checkpoint is told, and the one before serves."""
  keys, workdir = whole
  runs.train_here(keys, tmp_path / "run", 36, runs.preempt)
  folder = tmp_path / "run" / "checkpoints"
  newest = max(int(path.name) for path in folder.iterdir())
  largest = sorted(
    (path.stat().st_size, path)
    for path in (folder / str(newest)).rglob("*")
    if path.is_file()
  )[-3:]
  for _, path in largest:
    damage(path)
  status, told = runs.train_here(keys, tmp_path / "run")
  assert any(f"step {newest} is damaged" in sentence for sentence in told)
  assert status["status"] == "completed"
  runs.assert_same(runs.lines(workdir), runs.lines(tmp_path / "run"))


def test_divergence_is_a_result(tmp_path):
  """A non-finite loss: infeasible with step and reason, a final line."""
  keys = runs.overrides(hparams__learning_rate=1e6, model__width=32)
  status, _ = runs.train_here(keys, tmp_path / "run")
  assert status["status"] == "infeasible"
  last = rundir.RunDir(tmp_path / "run").metrics()[-1]
  assert last["step"] == status["step"] and last["train/loss"] is None
  assert f"at step {status['step']}" in status["reason"]
  assert runs.train_here(keys, tmp_path / "run")[0]["status"] == "infeasible"


def test_a_nan_objective_deletes_nothing(tmp_path):
  """G7: N best and the latest survive; a NaN objective is only the worst."""
  checkpoints = checkpoint.Checkpoints(tmp_path, keep_best=2)
  values = [5.0, 1.0, 3.0, float("nan"), 4.0, 9.0]
  for step, value in enumerate(values):
    checkpoints.save(step, {"x": np.float32(step)}, value)
  checkpoints.wait()
  assert checkpoints.steps() == [1, 2, 4, 5]  # best two, latest two
  checkpoints.close()


def test_saving_asks_for_no_preemption(tmp_path, monkeypatch):
  """M4: hosts agree on the call at which to stop, and only the loop counts.

  Were orbax to give JAX the step, a signal beside a save would be lost.
  """
  asked = []
  monkeypatch.setattr(
    multihost_utils, "reached_preemption_sync_point", asked.append
  )
  checkpoints = checkpoint.Checkpoints(tmp_path, keep_best=1)
  checkpoints.save(500, {"x": np.zeros(1)}, 0.5)
  checkpoints.wait()
  assert checkpoints.steps() == [500] and not asked


def test_ties_go_to_the_earlier_step(tmp_path):
  """G7: of equal objectives the earlier checkpoint is the best."""
  checkpoints = checkpoint.Checkpoints(tmp_path, keep_best=1)
  for step in range(5):
    checkpoints.save(step, {"x": np.float32(step)}, 1.0)
  checkpoints.wait()
  assert checkpoints.steps() == [0, 3, 4]
  checkpoints.close()


def test_a_crash_is_not_a_result(tmp_path):
  """A crash leaves status failed with its reason, and the run resumes."""
  keys = runs.overrides(model__width=32)

  def crash():
    raise OSError("disk on fire")

  with pytest.raises(OSError, match="disk on fire"):
    runs.train_here(keys, tmp_path / "run", 20, crash)
  status = rundir.RunDir(tmp_path / "run").status()
  assert status["status"] == "failed" and "disk on fire" in status["reason"]
  assert runs.train_here(keys, tmp_path / "run")[0]["status"] == "completed"


def test_trains_on_tfds_records(tmp_path):
  """M3, G2: a TFDS set in array_record, streamed, equals it on the device."""
  tiny_tfds.prepare(tmp_path / "data")
  keys = runs.overrides(
    batch_size=8, eval_batch_size=16, max_train_steps=16
  ) | {
    "dataset.name": "tfds:tiny_tfds/fixed",
    "dataset.data_dir": str(tmp_path / "data"),
    "dataset.augment": "crop_flip",
    "model.width": 16,
  }
  runs.train_here(keys, tmp_path / "device")
  streamed = keys | {"dataset.device_bytes": 0}
  status, _ = runs.train_here(streamed, tmp_path / "run", 8, runs.preempt)
  assert status["status"] == "preempted"
  status, _ = runs.train_here(streamed, tmp_path / "run")
  assert status["status"] == "completed"
  runs.assert_close(
    runs.lines(tmp_path / "device"), runs.lines(tmp_path / "run"), 1e-3, 1e-5
  )


def test_hidden_test_labels(tmp_path, tiny_tfds_dir):
  """Bad input: a test set without labels is refused where it is asked for.

  Before a step is made; and a run that does not ask trains, and is kept.
  """
  keys = runs.overrides(max_train_steps=4, batch_size=8, eval_batch_size=8)
  keys |= {
    "dataset.name": "tfds:tiny_tfds/hidden",
    "dataset.data_dir": tiny_tfds_dir,
    "model.width": 8,
  }
  run = rundir.RunDir(tmp_path / "run")
  asked = keys | {"report_test": True}
  with pytest.raises(jaxplay.UserError, match="test split .* 6 labels"):
    runs.train_here(asked, run.path)
  assert not run.path.exists()
  status, _ = runs.train_here(keys, run.path)
  assert status["status"] == "completed" and "test" not in status
  with pytest.raises(jaxplay.UserError, match="test split .* 6 labels"):
    runs.train_here(asked, run.path)
  assert run.status()["status"] == "completed" and "test" not in run.status()


def test_images_that_changed_are_not_resumed(tmp_path):
  """Bad input: other images under the same name, as text that has changed."""
  run = rundir.RunDir(tmp_path / "run")
  dataset = workload_lib.load_dataset(runs.make_config({}))
  run.create()
  run.write_provenance({"dataset": dict(dataset.facts)})
  resume.check_same_data(run, dataset)
  for key, value in (("sha256", "0" * 64), ("num_classes", 11)):
    other = dataclasses.replace(dataset, facts=dataset.facts | {key: value})
    with pytest.raises(jaxplay.UserError, match="'digits' has .* started"):
      resume.check_same_data(run, other)
