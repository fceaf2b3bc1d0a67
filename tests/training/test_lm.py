"""Language models through the whole of training, on a small text."""

import json
import math
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.training import branch, metrics, population, tasks, train
from tests.training import runs

TASK = tasks.NextToken(num_classes=5)
LOGITS = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
TOKENS = np.array([[0, 1, 2, 3, 4], [4, 4, 4, 4, 4], [1, 0, 1, 0, 1]], np.uint8)
HPARAMS = {"label_smoothing": 0.0, "z_loss": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  """A folder of two small corpora, and one for token files."""
  folder = tmp_path_factory.mktemp("text")
  words = {"a": "alpha beta gamma ", "b": "one two three ", "v": "alpha beta "}
  for name, word in words.items():
    (folder / name).mkdir()
    for i in range(20):
      text = "".join(f"{word * (j % 3 + 1)}{i} {j}\n" for j in range(12))
      (folder / name / f"{i}.txt").write_text(text)
  return folder


def _keys(folder, **extra):
  return runs.overrides(
    **{
      "batch_size": 16,
      "eval_batch_size": 16,
      "optimizer": "adamw",
      "averages": ("ema", "window"),
      "hparams__learning_rate": 3e-3,
      "hparams__ema_decay": 0.9,
      "hparams__window_steps": 6,
      "hparams__window_stride": 2,
      "dataset__name": f"text:{folder}/a/*.txt",
      "dataset__valid_files": f"{folder}/v/*.txt",
      "dataset__data_dir": str(folder / "cache"),
      "dataset__sequence_length": 16,
      "model__name": "lm",
      "model__width": 16,
      "model__depth": 2,
      "model__heads": 2,
      "model__norm": "rms",
      "mesh__data": 1,
      "max_train_steps": 32,
    }
    | extra
  )


@pytest.fixture(scope="module")
def whole(folder, tmp_path_factory):
  """An uninterrupted run: its keys and folder."""
  workdir = tmp_path_factory.mktemp("whole") / "run"
  keys = _keys(folder, keep_steps=(20,), export=True)
  status, _ = runs.train_here(keys, workdir)
  assert status["status"] == "completed"
  assert status["best"]["metric"] == "valid/loss"  # of text, unless it is said
  assert rundir.RunDir(workdir).config()["objective"] == "valid/loss"
  return keys, workdir


def _log_p():
  logits = LOGITS.astype(np.float64)
  return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def test_loss_is_the_mean_over_the_tokens_of_a_row():
  """A1: cross-entropy of each next token; smoothing and z-loss as defined."""
  batch = {"tokens": jnp.asarray(TOKENS)}
  log_p = _log_p()
  nll = -np.take_along_axis(log_p, TOKENS[:, 1:, None], -1)[..., 0]
  np.testing.assert_allclose(
    TASK.loss(jnp.asarray(LOGITS), batch, HPARAMS), nll.mean(1), rtol=1e-5
  )
  smoothed = 0.9 * nll - 0.1 * log_p.mean(-1)
  np.testing.assert_allclose(
    TASK.loss(
      jnp.asarray(LOGITS),
      batch,
      HPARAMS | {"label_smoothing": jnp.float32(0.1)},
    ),
    smoothed.mean(1),
    rtol=1e-5,
  )
  log_z = np.log(np.exp(LOGITS.astype(np.float64)).sum(-1))
  np.testing.assert_allclose(
    TASK.loss(
      jnp.asarray(LOGITS), batch, HPARAMS | {"z_loss": jnp.float32(0.5)}
    ),
    (nll + 0.5 * log_z**2).mean(1),
    rtol=1e-5,
  )


def test_sums_are_over_the_tokens_of_real_rows():
  """G4: tokens of padding rows count for nothing, whatever is in them."""
  spoilt = jnp.asarray(LOGITS).at[1].set(jnp.nan)
  batch = {"tokens": jnp.asarray(TOKENS), "weight": jnp.array([1.0, 0.0, 1.0])}
  sums = jax.device_get(TASK.eval_sums(spoilt, batch))
  rows = [0, 2]
  targets = TOKENS[rows][:, 1:]
  nll = -np.take_along_axis(_log_p()[rows], targets[..., None], -1)
  right = LOGITS[rows].argmax(-1) == targets
  assert sums["loss"] == pytest.approx(nll.sum(), rel=1e-5)
  assert sums["weight"] == 8 and sums["errors"] == 8 - right.sum()
  count = np.bincount(targets.reshape(-1), minlength=5)
  np.testing.assert_array_equal(sums["class_count"], count)
  correct = np.bincount(targets[right], minlength=5)
  np.testing.assert_array_equal(sums["class_correct"], correct)


def test_bits_per_byte():
  """Bits per byte do not depend on how many bytes a token stands for."""
  sums = {"loss": 80 * math.log(2), "errors": 3, "weight": 20}
  line = metrics.eval_line("valid", sums, bytes_per_token=4.0)
  assert line["valid/loss"] == pytest.approx(4 * math.log(2))
  assert line["valid/bits_per_byte"] == pytest.approx(1.0)
  sums = {"loss": 80 * math.log(2), "errors": 3, "weight": 80}  # as bytes
  line = metrics.eval_line("valid", sums, bytes_per_token=1.0)
  assert line["valid/bits_per_byte"] == pytest.approx(1.0)


def test_learns(whole):
  """A1, A5: a run beats chance clearly, and logs what is asked of text."""
  _, workdir = whole
  run = rundir.RunDir(workdir)
  last = run.metrics()[-1]
  assert (
    last["valid/error_rate"] < run.status()["chance"]["majority_error_rate"]
  )
  assert last["valid/loss"] < run.metrics()[0]["train/loss"] - 0.5
  for suffix in ("", "_ema", "_window"):
    bits = last[f"valid{suffix}/bits_per_byte"]
    assert bits == pytest.approx(last[f"valid{suffix}/loss"] / math.log(2))
  facts = run.provenance()["dataset"]
  assert facts["vocab_size"] == 256 and len(facts["sha256"]) == 64


def test_predictions_of_a_fixed_sample(whole):
  """G5: for the same rows at each evaluation, the loss of every token."""
  _, workdir = whole
  run = rundir.RunDir(workdir)
  first, last = run.predictions(8), run.predictions(32)
  np.testing.assert_array_equal(first["tokens"], last["tokens"])
  assert first["nll"].shape == first["predicted"].shape == (8, 16)
  assert last["nll"].mean() < first["nll"].mean()


def test_exported_model(whole):
  """G5: the export gives logits of tokens, of any length."""
  keys, workdir = whole
  export = pathlib.Path(workdir) / "export"
  forward = jax.export.deserialize((export / "forward.jaxexport").read_bytes())
  with np.load(export / "weights.npz") as file:
    weights = dict(file)
  predictions = rundir.RunDir(workdir).predictions(32)
  tokens = predictions["tokens"].astype(np.int32)
  logits = forward.call(weights, tokens[:, :-1])
  nll = -jnp.take_along_axis(
    jax.nn.log_softmax(logits), tokens[:, 1:, None], axis=-1
  )[..., 0]
  assert rundir.RunDir(workdir).status()["best"]["step"] == 32
  np.testing.assert_allclose(nll, predictions["nll"], rtol=1e-3, atol=1e-4)
  short = forward.call(weights, tokens[:3, :5])
  np.testing.assert_allclose(short, logits[:3, :5], rtol=1e-3, atol=1e-3)


def test_resumed_is_uninterrupted(whole, tmp_path):
  """G7: preempted and resumed, the run ends bit for bit the same."""
  keys, workdir = whole
  status, _ = runs.train_here(keys, tmp_path / "run", 20, runs.preempt)
  assert status["status"] == "preempted"
  runs.train_here(keys, tmp_path / "run")
  runs.assert_same(runs.lines(workdir), runs.lines(tmp_path / "run"))
  runs.assert_same(
    runs.last_state(keys, workdir), runs.last_state(keys, tmp_path / "run")
  )


@pytest.mark.pods
@pytest.mark.parametrize(
  "layout",
  [
    {"mesh.data": 2, "mesh.fsdp": 2, "microbatches": 2},
    {"mesh.data": 2, "mesh.fsdp": 4},
  ],
)
def test_layouts_agree(whole, tmp_path, layout):
  """N1: on 8 devices, on 1, with parameters split, in microbatches: one run."""
  keys, workdir = whole
  status, _ = runs.train_here(keys | layout, tmp_path / "run")
  runs.assert_close(
    runs.lines(workdir), runs.lines(tmp_path / "run"), 2e-3, 2e-3
  )


@pytest.mark.pods
def test_host_feed_equals_device_feed(whole, tmp_path):
  """M3: rows that the host reads from the mapped file are the same."""
  keys, workdir = whole
  runs.train_here(keys | {"dataset.device_bytes": 0}, tmp_path / "run")
  runs.assert_close(
    runs.lines(workdir), runs.lines(tmp_path / "run"), 2e-3, 1e-3
  )


MIXTURES = ((0, (("a", 0.75), ("b", 0.25))), (22, (("b", 1.0),)))


def _mixed(folder, **extra):
  mixtures = tuple(
    (step, tuple((f"text:{folder}/{n}/*.txt", w) for n, w in parts))
    for step, parts in MIXTURES
  )
  return _keys(folder, dataset__mixtures=mixtures, **extra)


@pytest.fixture(scope="module")
def whole_of_mixture(folder, tmp_path_factory):
  """An uninterrupted run on mixtures: its keys and folder."""
  keys, workdir = _mixed(folder), tmp_path_factory.mktemp("mixture") / "run"
  runs.train_here(keys, workdir)
  return keys, workdir


@pytest.mark.pods
@pytest.mark.parametrize("step", [16, 28])
def test_a_mixture_is_resumed_exactly(whole_of_mixture, tmp_path, step):
  """S6: preempted before or after the switch, the run ends the same."""
  keys, workdir = whole_of_mixture
  status, _ = runs.train_here(keys, tmp_path / "run", step, runs.preempt)
  assert status["status"] == "preempted"
  runs.train_here(keys, tmp_path / "run")
  runs.assert_same(runs.lines(workdir), runs.lines(tmp_path / "run"))


@pytest.mark.pods
def test_a_branch_cools_down_on_another_mixture(folder, whole, tmp_path):
  """S3, S6: a branch with a mixture is the run that was planned with it."""
  keys, workdir = whole
  other = ((f"text:{folder}/b/*.txt", 0.5), (keys["dataset.name"], 0.5))
  config = branch.planned(
    runs.make_config(keys),
    step=20,
    cooldown_fraction=0.4,
    cooldown_shape="1-sqrt",
    mixture=other,
  )
  assert config.dataset.mixtures[1] == (20, other)
  parent, run = rundir.RunDir(workdir), rundir.RunDir(tmp_path / "branch")
  branch.begin(parent, 20, run, config)
  train.train(config, str(run.path), runs.Quiet())
  planned = config_lib.flatten(config)
  runs.train_here(planned, tmp_path / "planned")
  runs.assert_same(
    runs.last_state(planned, tmp_path / "branch"),
    runs.last_state(planned, tmp_path / "planned"),
  )
  runs.assert_same(
    runs.lines(tmp_path / "branch"), runs.lines(tmp_path / "planned")
  )
  # And it is another than without the mixture.
  plain = planned | {"dataset.mixtures": ()}
  runs.train_here(plain, tmp_path / "plain")
  assert (
    runs.lines(tmp_path / "plain")[-1] != runs.lines(tmp_path / "branch")[-1]
  )


@pytest.mark.pods
def test_a_population_of_schedules_is_each_alone(folder, tmp_path):
  """Idea 1: schedules, shapes and rates in one program, each as if alone."""
  varied = [
    {"schedule": "cosine"},
    {"schedule": "wsd", "cooldown_shape": "linear"},
    {"schedule": "wsd", "cooldown_shape": "1-sqrt", "hparams.z_loss": 1e-2},
    {"schedule": "constant", "hparams.learning_rate": 1e-3},
  ]
  keys = _keys(folder, max_train_steps=16)
  configs = [runs.make_config(keys | more) for more in varied]
  group = population.Populations(configs, lambda sentence: None)
  together = [rundir.RunDir(tmp_path / f"{i}") for i in range(len(configs))]
  for run in together:
    run.create()
  assert group.train(configs, together, tmp_path / "p", lambda statuses: None)
  last = set()
  for config, run in zip(configs, together, strict=True):
    alone = tmp_path / f"alone{run.path.name}"
    train.train(config, str(alone), runs.Quiet())
    runs.assert_close(runs.lines(alone), runs.lines(run.path), 2e-3, 2e-3)
    last.add(run.metrics()[-1]["train/loss"])
  assert len(last) == len(configs)


def test_text_that_changed_is_not_resumed(folder, tmp_path):
  """Bad input: another text, or another vocabulary, under the same name."""
  text = tmp_path / "text"
  text.mkdir()
  for i in range(9):
    (text / f"{i}.txt").write_text(f"{i} alpha beta gamma delta\n" * 9)
  keys = _keys(folder, dataset__name=f"text:{text}")
  runs.train_here(keys, tmp_path / "run", 16, runs.preempt)
  (text / "0.txt").write_text("something else\n" * 9)
  with pytest.raises(jaxplay.UserError, match="hash .* started with"):
    runs.train_here(keys, tmp_path / "run")
  provenance = rundir.RunDir(tmp_path / "run").provenance()
  provenance["dataset"]["vocab_size"] = 300
  (tmp_path / "run" / "provenance.json").write_text(json.dumps(provenance))
  with pytest.raises(jaxplay.UserError, match="a vocabulary of 256 tokens"):
    runs.train_here(keys, tmp_path / "run")
  assert rundir.RunDir(tmp_path / "run").status()["status"] == "preempted"


@pytest.mark.slow
def test_pythonlib_is_on_every_machine(tmp_path):
  """A1: the embedded default trains, and says which Python's text it is."""
  keys = _keys(tmp_path, max_train_steps=4, eval_every=4) | {
    "dataset.name": "pythonlib",
    "dataset.valid_files": "",
    "dataset.sequence_length": 64,
    "averages": (),
  }
  status, _ = runs.train_here(keys, tmp_path / "run")
  assert status["status"] == "completed"
  facts = rundir.RunDir(tmp_path / "run").provenance()["dataset"]
  assert facts["python"] == sys.version.split()[0]
  assert facts["splits"]["train"]["tokens"] > 1_000_000
