"""Starting from weights, and training only some."""

import functools
import io
import json
import pathlib
import shutil
import zipfile

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import optax
import pytest
from safetensors import numpy as safetensors

import jaxplay
from jaxplay import config as config_lib
from jaxplay import models, rundir
from jaxplay.study import space
from jaxplay.training import branch, optimizers, step, train, weights
from jaxplay.training import workload as workload_lib
from tests.study import studies
from tests.training import runs

KEYS = runs.overrides(max_train_steps=8, eval_every=4, checkpoint_every=4) | {
  "model.width": 32,
  "model.norm": "batch",
}
# Another task: two classes of images of the same size.
OTHER = KEYS | {
  "dataset.name": "synthetic",
  "dataset.shape": (8, 8, 1),
  "dataset.num_classes": 2,
  "dataset.num_train": 200,
  "dataset.num_valid": 100,
}
BODY = "(Dense_[01]|Norm_.).*"


@pytest.fixture(scope="module")
def source(tmp_path_factory):
  """A finished run with an export; its folder, which nothing may change."""
  folder = tmp_path_factory.mktemp("source") / "run"
  runs.train_here(KEYS | {"export": True}, folder)
  return folder


@functools.cache
def _workload(keys):
  return workload_lib.make_workload(runs.make_config(dict(keys)))


def _load(keys, init_from, **more):
  """(Loaded, the state before the first step) of a config."""
  keys = keys | {"init_from": str(init_from)} | more
  workload = _workload(tuple(keys.items()))
  loaded = weights.load(runs.make_config(keys), workload.state)
  return loaded, jax.device_get(workload.init(loaded.arrays))


def _named(tree):
  return {
    step.parameter_name(path): np.asarray(leaf)
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
  }


def _at(workdir, at):
  """Parameters and statistics of a checkpoint, by the path in the state."""
  best = rundir.RunDir(workdir).status()["best"]["step"]
  with weights._opened(f"{workdir}:{at or best}") as opened:
    return {name: opened.read(name) for name in opened.arrays}


def _files(folder):
  return {
    path: path.read_bytes()
    for path in pathlib.Path(folder).rglob("*")
    if path.is_file()
  }


def test_what_matches_is_the_source_bit_for_bit(source):
  """The names that match have the source's values, and others random ones."""
  before = _files(source)
  loaded, state = _load(OTHER, source)
  saved = _at(source, None)
  new = _named(state.params)
  for name in ("Dense_0/kernel", "Dense_1/bias", "Norm_0/BatchNorm_0/scale"):
    np.testing.assert_array_equal(new[name], saved[name])
  stats = {n: a for n, a in saved.items() if n.startswith("batch_stats/")}
  assert len(stats) == 4
  for name, array in _named(state.batch_stats).items():
    np.testing.assert_array_equal(array, saved[f"batch_stats/{name}"])
  fresh = _workload(tuple(OTHER.items())).init()
  assert int(state.step) == 0
  heads = {"Dense_2/kernel", "Dense_2/bias"}
  for name in heads:
    np.testing.assert_array_equal(new[name], _named(fresh.params)[name])
  assert set(loaded.facts["left"]) == heads == set(loaded.facts["skipped"])
  assert not heads & set(loaded.facts["loaded"])
  assert _files(source) == before


def test_run_step_export_and_safetensors_are_the_same(source, tmp_path):
  """Every form of the same weights loads the same arrays."""
  best = rundir.RunDir(source).status()["best"]["step"]
  file = tmp_path / "w.safetensors"
  weights.write_safetensors(weights.read(source)[0], file)
  (tmp_path / "copy").mkdir()
  shutil.copy(source / "export" / "weights.npz", tmp_path / "copy")
  _, expected = _load(KEYS, source)
  for init_from in (
    f"{source}:{best}",
    source / "export",
    tmp_path / "copy",
    file,
  ):
    loaded, state = _load(KEYS, init_from)
    assert loaded.facts["left"] == [] and loaded.facts["skipped"] == {}
    runs.assert_same(_named(state), _named(expected))
  other = next(at for at in (4, 8) if at != best)
  assert _load(KEYS, f"{source}:{other}")[0].facts["step"] == other


@pytest.mark.parametrize(
  "keys, rtol",
  [
    ({"averages": ("ema",), "weights": "ema"}, 0),
    ({"averages": ("ema",), "objective": "valid_ema/loss"}, 0),
    ({"optimizer": "schedule_free_adamw"}, 1e-5),  # It is computed again.
  ],
)
def test_the_average_that_was_evaluated(tmp_path, keys, rtol):
  """A run ranked by an average, or schedule-free, gives that average."""
  keys = KEYS | keys | {"export": True, "frozen": "Dense_0/bias"}
  runs.train_here(keys, tmp_path / "run")
  loaded, of_run = _load(KEYS, tmp_path / "run")
  assert loaded.facts["left"] == []
  assert loaded.facts["weights"] == ("ema" if "averages" in keys else "raw")
  _, of_export = _load(KEYS, tmp_path / "run" / "export")
  for one in ("params", "batch_stats"):
    runs.assert_close(
      _named(getattr(of_run, one)),
      _named(getattr(of_export, one)),
      rtol=rtol,
      atol=rtol / 100,
    )


def test_other_types_are_cast(source, tmp_path):
  """bfloat16 and float64 become float32; integers are not weights."""
  arrays = _at(source, None)
  kernel = arrays["Dense_0/kernel"]
  file = tmp_path / "w.safetensors"
  safetensors.save_file(
    {
      "Dense_0/kernel": kernel.astype(ml_dtypes.bfloat16),
      "Dense_1/kernel": arrays["Dense_1/kernel"].astype(np.float64),
      "Dense_0/bias": np.zeros(32, np.int64),
    },
    file,
  )
  loaded, state = _load(KEYS, file)
  new = state.params["Dense_0"]["kernel"]
  assert new.dtype == np.float32
  np.testing.assert_array_equal(new, kernel.astype(ml_dtypes.bfloat16))
  assert "int64" in loaded.facts["skipped"]["Dense_0/bias"]


def test_init_map_renames_and_drops(source):
  """The first pattern of a whole name renames it; an empty name drops it."""
  pairs = (("Dense_0/bias", "Dense_1/bias"), (r"Dense_1/(.*)", ""))
  loaded, state = _load(KEYS, source, init_map=pairs)
  saved = _at(source, None)
  np.testing.assert_array_equal(
    state.params["Dense_1"]["bias"], saved["Dense_0/bias"]
  )
  assert loaded.facts["loaded"]["Dense_1/bias"] == "Dense_0/bias"
  assert loaded.facts["skipped"].keys() == {"Dense_1/bias", "Dense_1/kernel"}
  assert set(loaded.facts["left"]) == {"Dense_0/bias", "Dense_1/kernel"}


def test_match_is_of_names_and_shapes():
  """`match` needs no more than names, shapes and types."""
  spec = lambda *shape: np.zeros(shape, np.float32)  # noqa: E731
  found = weights.match(
    {"old/a": spec(2), "b": spec(3), "c": spec(4)},
    {"new/a": spec(2), "b": spec(5)},
    ((r"old/(.*)", r"new/\1"),),
  )
  assert found.loaded == {"new/a": "old/a"}
  assert found.skipped.keys() == {"b", "c"} and "5" in found.skipped["b"]
  assert found.left == ["b"]
  with pytest.raises(jaxplay.UserError, match="init_map.*'b'.*'c'"):
    weights.match({"b": spec(3), "c": spec(3)}, {"b": spec(3)}, (("c", "b"),))
  with pytest.raises(jaxplay.UserError, match="init_map"):
    weights.match({"b": spec(3)}, {"b": spec(3)}, (("b", r"\1"),))


@pytest.mark.parametrize(
  "optimizer", ["adamw", "rmsprop", "nesterov", "schedule_free_adamw"]
)
def test_frozen_has_no_updates_and_no_state(optimizer):
  """As if the gradients of the frozen were zero, and not decayed.

  The same steps by hand: the gradient of all parameters, without the frozen
  ones. So the norm of the gradient and clipping by it leave them out as well.
  """
  keys = KEYS | {
    "optimizer": optimizer,
    "frozen": BODY,
    "clipping": True,
    "hparams.clip_norm": 0.5,
    "hparams.weight_decay": 0.1,
    "hparams.learning_rate": 0.01,
  }
  config = runs.make_config(keys)
  workload = _workload(tuple(keys.items()))
  state = workload.init()
  frozen = _named(step.split_params(state.params, (BODY,))[1])
  assert {name.split("/")[0] for name in frozen} == {
    *("Dense_0", "Dense_1", "Norm_0", "Norm_1")
  }
  moments = _named(state.opt_state)
  assert not any(name.endswith(tuple(frozen)) for name in moments)
  if optimizer != "nesterov" or moments:
    assert any(name.endswith("Dense_2/kernel") for name in moments)

  fetched = workload.dataset.splits["train"].fetch(np.arange(64))
  batch = {name: jnp.asarray(array) for name, array in fetched.items()}
  by_hand = _step_by_hand(workload, optimizer, batch)
  params, stats = state.params, state.batch_stats
  opt_state, initial = state.opt_state, _named(state.params)
  train_step = jax.jit(workload.train_step)
  batch = {name: array[None] for name, array in batch.items()}
  for _ in range(3):
    params, stats, opt_state, norm = by_hand(params, stats, opt_state)
    state, tally = train_step(workload.hparams, state, batch)
    np.testing.assert_allclose(tally["grad_norm"], norm, rtol=1e-4)
    assert norm > config.hparams.clip_norm
  for name, array in _named(state.params).items():
    if name in frozen:
      np.testing.assert_array_equal(array, initial[name])
    else:
      assert (array != initial[name]).any()
      expected = _named(params)[name]
      np.testing.assert_allclose(array, expected, rtol=1e-4, atol=1e-6)


def _step_by_hand(workload, optimizer, batch):
  """A step on all gradients, of which the frozen ones are left out."""
  hparams = workload.hparams

  def loss(params, stats):
    logits, stats = models.apply(
      workload.model,
      params,
      stats,
      workload.task.inputs(batch),
      train=True,
      rows=np.arange(64),
    )
    return workload.task.loss(logits, batch, hparams).mean(), stats

  @jax.jit
  def by_hand(params, stats, opt_state):
    trained, fixed = step.split_params(params, (BODY,))
    grads, of_batch = jax.grad(loss, has_aux=True)(params, stats)
    grads, _ = step.split_params(grads, (BODY,))
    norm = optax.tree.norm(grads)
    clip = jnp.minimum(1, hparams["clip_norm"] / norm)
    grads = jax.tree.map(lambda grad: grad * clip, grads)
    updates, opt_state = optimizers.build(
      optimizer, hparams, hparams["learning_rate"]
    ).update(grads, opt_state, trained)
    params = step.merge_params(optax.apply_updates(trained, updates), fixed)
    keep = hparams["norm_momentum"]
    stats = jax.tree.map(
      lambda old, new: keep * old + (1 - keep) * new, stats, of_batch
    )
    return params, stats, opt_state, norm

  return by_hand


FINE = OTHER | {"frozen": BODY, "optimizer": "adamw", "seed": 3}


def test_a_run_tells_and_records_and_resumes_without_source(source, tmp_path):
  """init.json has all names; a resumed run does not read the source."""
  copied = tmp_path / "source"
  shutil.copytree(source, copied)
  keys = FINE | {"init_from": str(copied)}
  whole, told = runs.train_here(keys, tmp_path / "whole")
  assert whole["status"] == "completed"
  assert any(str(copied) in line for line in told)
  assert any("Dense_2/kernel" in line for line in told)
  facts = rundir.RunDir(tmp_path / "whole").init()
  assert facts["loaded"]["Dense_0/kernel"] == "Dense_0/kernel"
  assert set(facts["left"]) == {"Dense_2/kernel", "Dense_2/bias"}
  status, _ = runs.train_here(keys, tmp_path / "run", 4, runs.preempt)
  assert status["status"] == "preempted"
  shutil.rmtree(copied)
  status, _ = runs.train_here(keys, tmp_path / "run")
  assert status["status"] == "completed"
  runs.assert_same(runs.lines(tmp_path / "run"), runs.lines(tmp_path / "whole"))
  runs.assert_same(
    runs.last_state(keys, tmp_path / "run"),
    runs.last_state(keys, tmp_path / "whole"),
  )
  state = runs.last_state(keys, tmp_path / "run")
  saved = _at(source, None)
  for name in ("Dense_0/kernel", "Dense_1/kernel", "Norm_0/BatchNorm_0/bias"):
    np.testing.assert_array_equal(state[f"params/{name}"], saved[name])


@pytest.mark.slow
def test_fsdp_over_eight_devices(source, tmp_path):
  """Split over devices, the loaded arrays and the training are the same."""
  keys = FINE | {"init_from": str(source)}
  split = {"mesh.data": 1, "mesh.fsdp": 8, "model.width": 128}
  # A wide source, so that parameters are large enough to be split.
  wide = tmp_path / "wide"
  runs.train_here(KEYS | {"model.width": 128}, wide)
  keys = keys | {"init_from": str(wide), "model.width": 128}
  one = keys | {"mesh.data": 1}
  workload = _workload(tuple((keys | split).items()))
  loaded = weights.load(runs.make_config(keys | split), workload.state)
  kernel = loaded.arrays["params"]["Dense_1/kernel"]
  assert not kernel.is_fully_replicated
  state = workload.init(loaded.arrays)
  _, alone = _load(one, wide)
  runs.assert_same(_named(jax.device_get(state)), _named(alone))
  runs.train_here(keys | split, tmp_path / "split")
  runs.train_here(one, tmp_path / "one")
  runs.assert_close(
    runs.last_state(keys | split, tmp_path / "split"),
    runs.last_state(one, tmp_path / "one"),
    rtol=1e-3,
    atol=1e-4,
  )


def test_weights_that_changed_are_refused(source, tmp_path):
  """A run that starts again needs what it started from."""
  copied = tmp_path / "copy"
  shutil.copytree(source / "export", copied)
  keys = FINE | {"init_from": str(copied)}
  runs.train_here(keys, tmp_path / "run", 4, runs.preempt)
  shutil.rmtree(tmp_path / "run" / "checkpoints")
  (tmp_path / "run" / "metrics.jsonl").unlink()
  other = tmp_path / "other"
  runs.train_here(KEYS | {"export": True, "seed": 9}, other)
  shutil.copy(other / "export" / "weights.npz", copied)
  with pytest.raises(jaxplay.UserError, match="hash"):
    runs.train_here(keys, tmp_path / "run")
  shutil.copy(source / "export" / "weights.npz", copied)
  assert runs.train_here(keys, tmp_path / "run")[0]["status"] == "completed"


def _npz(path, entries):
  path.mkdir()
  with zipfile.ZipFile(path / "weights.npz", "w") as archive:
    for name, data in entries:
      archive.writestr(name, data)
  return path


def _npy(array, **kwargs):
  file = io.BytesIO()
  np.lib.format.write_array(file, array, **kwargs)
  return file.getvalue()


def _bad_sources(folder, source):
  kernel = np.zeros((64, 32), np.float32)
  name = "0/Dense_0/kernel.npy"
  huge = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    huge, {"descr": "<f4", "fortran_order": False, "shape": (2**40, 2**20)}
  )
  pickled = np.array([print], object)
  text = (source / "export" / "weights.npz").read_bytes()
  cut = folder / "cut"
  cut.mkdir()
  (cut / "weights.npz").write_bytes(text[:-100])
  flipped = folder / "flipped"
  flipped.mkdir()
  at = text.index(b"Dense_0/kernel") + 2000
  (flipped / "weights.npz").write_bytes(
    text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :]
  )
  header = json.dumps(
    {"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 4]}}
  ).encode()
  files = {
    "short": b"abc",
    "noise": b"\xff" * 100,
    "offsets": len(header).to_bytes(8, "little") + header + b"1234",
  }
  for stem, data in files.items():
    (folder / f"{stem}.safetensors").write_bytes(data)
  (folder / "empty").mkdir()
  damaged = folder / "damaged"
  shutil.copytree(source, damaged)
  for path in (damaged / "checkpoints").rglob("*"):
    if (
      path.is_file()
      and path.stat().st_size > 200
      and "metrics" not in str(path)
    ):
      path.write_bytes(path.read_bytes()[:100])
  return {
    "nowhere": folder / "nowhere",
    "empty": folder / "empty",
    "file": source / "metrics.jsonl",
    "step": f"{source}:77",
    "huge": _npz(folder / "huge", [(name, huge.getvalue())]),
    "pickle": _npz(
      folder / "pickle", [(name, _npy(pickled, allow_pickle=True))]
    ),
    "long": _npz(folder / "long", [(name, _npy(kernel) + b"0000")]),
    "no_header": _npz(folder / "no_header", [(name, b"\x93NUMPY\x01")]),
    "cut": cut,
    "flipped": flipped,
    "damaged": damaged,
    "strange": _npz(folder / "strange", [("0/Conv/w.npy", _npy(kernel))]),
    **{stem: folder / f"{stem}.safetensors" for stem in files},
  }


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_bad_sources_are_refused_in_a_sentence(source, tmp_path):
  """Nothing is written, and the sentence names the source."""
  sources = _bad_sources(tmp_path, source)
  kernel = np.zeros((64, 32), np.float32)
  twice = [("0/Dense_0/kernel.npy", _npy(kernel))] * 2
  sources["twice"] = _npz(tmp_path / "twice", twice)
  for name, init_from in sources.items():
    keys = KEYS | {"init_from": str(init_from)}
    with pytest.raises(jaxplay.UserError) as refused:
      runs.train_here(keys, tmp_path / "run")
    assert str(init_from).partition(":")[0] in str(refused.value), name
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists(), name


def test_nothing_that_matches_names_the_nearest(source, tmp_path):
  """With other names the message says which are nearest."""
  path = _npz(
    tmp_path / "other",
    [("0/dense0/kernel.npy", _npy(np.zeros((64, 32), np.float32)))],
  )
  with pytest.raises(jaxplay.UserError, match="dense0/kernel.*init_map"):
    _load(KEYS, path)
  _load(KEYS, path, init_map=(("dense0/kernel", "Dense_0/kernel"),))


@pytest.mark.parametrize(
  "keys, words",
  [
    ({"frozen": ("(",)}, ["config.frozen", "'('"]),
    ({"frozen": (3,)}, ["config.frozen", "3"]),
    ({"init_map": (("a", "b"),)}, ["config.init_map", "config.init_from"]),
    ({"init_map": ("a",), "init_from": "x"}, ["config.init_map", "'a'"]),
    (
      {"init_map": (("(", "b"),), "init_from": "x"},
      ["config.init_map", "'('"],
    ),
  ],
)
def test_a_config_is_checked(keys, words):
  """Patterns are patterns, pairs are pairs, and a map needs a source."""
  with pytest.raises(jaxplay.UserError) as refused:
    runs.make_config(KEYS | keys)
  assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize(
  "frozen, word", [("Dense_0", "Dense_0/"), (".*", "config.frozen")]
)
def test_frozen_names_some_parameters(tmp_path, frozen, word):
  """A pattern of none, and of all, is refused before anything is written."""
  with pytest.raises(jaxplay.UserError, match=word):
    runs.train_here(KEYS | {"frozen": frozen}, tmp_path / "run")
  assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def study(source, tmp_path_factory):
  """A folder with a study of trials from random weights and from an export."""
  folder = tmp_path_factory.mktemp("study")
  shutil.copytree(source / "export", folder / "export")
  fixed = {key: value for key, value in FINE.items() if key != "seed"}
  varied = {
    "init_from": space.Choice(("", str(folder / "export")), role="scientific"),
    "hparams.learning_rate": space.Choice((0.001, 0.002)),
  }
  path = studies.write(
    folder, space=varied, num_trials=4, algorithm="grid", overrides=fixed
  )
  workdir = f"--workdir={folder / 'study'}"
  assert studies.call("study", "run", path, workdir, "--no_report") == 0
  return folder


def _started(folder):
  """Trial -> its init.json, for those that started from weights."""
  facts = {
    path: rundir.RunDir(path).init()
    for path in sorted((folder / "study" / "trials").iterdir())
  }
  return {path: of_trial for path, of_trial in facts.items() if of_trial}


@pytest.mark.slow
def test_a_population_starts_as_each_trial_alone(study, source, tmp_path):
  """Trials of several sources train as alone, and record what they read."""
  started = _started(study)
  assert len(started) == 2
  for path, facts in started.items():
    config = rundir.RunDir(path).config()
    assert facts["source"] == config["init_from"]
    trial = config_lib.flatten(config_lib.from_json(config))
    runs.train_here(trial, tmp_path / path.name)
    alone = rundir.RunDir(tmp_path / path.name)
    assert alone.init() == facts
    runs.assert_close(
      runs.lines(path), runs.lines(alone.path), rtol=2e-3, atol=2e-3
    )
  # A trial is a source, whose checkpoints are with its population.
  before = _files(study)
  loaded, state = _load(OTHER, path)
  assert loaded.facts["left"] == [] and _files(study) == before
  runs.train_here(trial, path)  # Copies them to its directory.
  assert (path / "checkpoints").exists()
  again, same = _load(OTHER, path)
  assert again.facts["sha256"] == loaded.facts["sha256"]
  runs.assert_same(_named(same), _named(state))
  np.testing.assert_array_equal(
    state.params["Dense_0"]["kernel"], _at(source, None)["Dense_0/kernel"]
  )


@pytest.mark.slow
def test_reruns_need_the_source_as_it_was(study, tmp_path, capsys):
  """Other weights at the same path are refused; the same ones are taken."""
  shutil.copytree(study, tmp_path / "copy")
  saved = study / "export" / "weights.npz"
  original = saved.read_bytes()
  index = int(next(iter(_started(study))).name)
  rerun = (
    *("study", "rerun", tmp_path / "copy" / "study", f"--trial={index}"),
    *("--seeds=1", "--no_report"),
  )
  arrays = dict(np.load(saved))
  np.savez(saved, **{name: array + 1 for name, array in arrays.items()})
  capsys.readouterr()
  assert studies.call(*rerun) == 2
  assert "hash" in capsys.readouterr().err
  saved.write_bytes(original)
  assert studies.call(*rerun) == 0
  (made,) = (tmp_path / "copy" / "study" / "reruns").glob("*/*/init.json")
  assert rundir.RunDir(made.parent).status()["status"] == "completed"


def test_a_branch_keeps_where_it_came_from(source, tmp_path):
  """A branch needs no source: its parent's init.json comes with it."""
  copied = tmp_path / "source"
  shutil.copytree(source, copied)
  keys = FINE | {"init_from": str(copied), "keep_steps": (4,)}
  runs.train_here(keys, tmp_path / "parent")
  shutil.rmtree(copied)
  parent = rundir.RunDir(tmp_path / "parent")
  config = branch.planned(
    config_lib.from_json(parent.config()),
    step=4,
    cooldown_fraction=0.5,
    cooldown_shape="linear",
  )
  run = rundir.RunDir(tmp_path / "branch")
  branch.begin(parent, 4, run, config)
  status = train.train(config, str(run.path), runs.Quiet())
  assert status["status"] == "completed" and run.init() == parent.init()


@pytest.mark.pods
def test_two_hosts_are_one(source, tmp_path):
  """Every host reads the source; a missing one ends all of them."""
  keys = FINE | {"init_from": str(source), "mesh.fsdp": 4}
  out = runs.launch(runs.command(keys, tmp_path / "two"), 2, 4)
  assert "[1] starting from" not in out
  runs.train_here(keys, tmp_path / "one")
  one, two = rundir.RunDir(tmp_path / "one"), rundir.RunDir(tmp_path / "two")
  assert one.init() == two.init()
  runs.assert_close(
    runs.last_state(keys, one.path),
    runs.last_state(keys, two.path),
    rtol=1e-3,
    atol=1e-4,
  )
  with pytest.raises(AssertionError, match="nowhere"):
    missing = keys | {"init_from": str(tmp_path / "nowhere")}
    runs.launch(runs.command(missing, tmp_path / "three"), 2, 4)
  assert not (tmp_path / "three").exists()
