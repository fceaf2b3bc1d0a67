"""The loss between checkpoints: exact at the ends, and by hand between."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxplay
import jaxplay as jp
from jaxplay import models, rundir
from jaxplay.api import devices
from jaxplay.training import landscape, weights
from jaxplay.training import workload as workload_lib
from tests.study import studies
from tests.training import runs

KEYS = runs.overrides(max_train_steps=16, checkpoint_every=8) | {
  "model.width": 32,
  "model.norm": "batch",
  "schedule": "constant",
  "averages": ("ema",),
  "keep_steps": (8, 16),
}


@pytest.fixture(scope="module")
def constant(tmp_path_factory):
  """A run with batch norm, two checkpoints and an average."""
  folder = tmp_path_factory.mktemp("constant") / "run"
  runs.train_here(KEYS, folder)
  return folder


@pytest.fixture(autouse=True)
def _started(monkeypatch):
  monkeypatch.setattr(devices, "start", lambda **kwargs: None)


def _logged(run, step, name):
  (line,) = [x for x in rundir.RunDir(run).metrics() if x["step"] == step]
  return line[name]


@pytest.mark.parametrize(
  "kind, split", [("raw", "valid"), ("ema", "valid_ema")]
)
def test_the_ends_are_what_the_run_evaluated(constant, kind, split):
  """S8: to float precision, of the raw weights and of an average."""
  answer = jp.landscape(
    f"{constant}:8", f"{constant}:16", points=2, weights=[kind]
  )
  line = answer.details["lines"]["batch statistics interpolated"]
  for point, step in zip(line, (8, 16), strict=True):
    for name in ("loss", "error_rate"):
      logged = _logged(constant, step, f"{split}/{name}")
      assert point[name] == pytest.approx(logged, rel=1e-6)
  fall = answer.details["fall"]
  assert fall["interval"][0] < fall["value"] < fall["interval"][1]
  assert answer.details["examples"] == 300


def test_batch_statistics_are_those_of_the_weights(constant):
  """S8: recomputed ones, by hand for the first layer."""
  config = runs.make_config(KEYS)
  evaluated = landscape.Landscape(config, "valid")
  arrays, _ = weights.read(f"{constant}:16")
  found = evaluated.recomputed(arrays)
  workload = workload_lib.make_workload(config)
  means = []
  for batch in workload_lib.fixed_batches(workload, config, landscape.EXAMPLES):
    batch = jax.tree.map(jnp.asarray, batch)
    inputs = np.asarray(workload.task.inputs(batch), np.float64)
    rows = inputs.reshape(len(inputs), -1)
    means.append(
      (rows @ arrays["Dense_0/kernel"] + arrays["Dense_0/bias"]).mean(0)
    )
  name = "batch_stats/Norm_0/BatchNorm_0/mean"
  np.testing.assert_allclose(found[name], np.mean(means, 0), atol=1e-5)
  assert np.abs(found[name] - arrays[name]).max() > 1e-3
  for name in arrays:
    if not name.startswith("batch_stats/"):
      np.testing.assert_array_equal(found[name], arrays[name])


def test_a_squared_error_is_a_parabola_along_the_head(tmp_path):
  """S8: outputs are linear in the head, so three points give all others."""
  rng = np.random.default_rng(0)
  table = rng.normal(size=(400, 4))
  (tmp_path / "table.csv").write_text(
    "a,b,c,y\n" + "\n".join(",".join(map(str, row)) for row in table)
  )
  keys = runs.overrides(max_train_steps=8, checkpoint_every=4) | {
    "dataset.name": f"csv:{tmp_path / 'table.csv'}",
    "dataset.targets": ("y",),
    "task.name": "regression",
    "objective": "valid/loss",
    "model.width": 8,
    "model.depth": 1,
    "model.norm": "none",
    "frozen": ("Dense_0/.*",),
    "schedule": "constant",
    "keep_steps": (4, 8),
    "num_predictions": 0,
  }
  runs.train_here(keys, tmp_path / "run")
  ends = [f"{tmp_path / 'run'}:{step}" for step in (4, 8)]
  for split in ("valid", "train"):
    answer = jp.landscape(*ends, points=9, split=split)
    (points,) = answer.details["lines"].values()
    places = [point["position"] for point in points]
    losses = [point["loss"] for point in points]
    some = [0, 6, 12]
    curve = np.polyfit(np.take(places, some), np.take(losses, some), 2)
    np.testing.assert_allclose(np.polyval(curve, places), losses, rtol=1e-5)
    assert curve[0] > 0
  merged = jp.merge(tmp_path / "run", steps=[4, 8])
  (mean,) = merged.details["means"]
  answer = jp.landscape(*ends, points=3)
  middle = next(
    point
    for point in next(iter(answer.details["lines"].values()))
    if point["position"] == 0.5
  )
  assert mean["loss"] == pytest.approx(middle["loss"], rel=1e-6)


def test_a_mean_can_be_started_from(constant, tmp_path, capsys):
  """S8: it is the mean, evaluated with statistics of its own."""
  file = tmp_path / "mean.safetensors"
  code = studies.call(
    *("merge", constant, "--last=2", f"--safetensors={file}", "--json")
  )
  answer = json.loads(capsys.readouterr().out)
  assert code == 0 and file.exists()
  two = [weights.read(f"{constant}:{step}")[0] for step in (8, 16)]
  read, _ = weights.read(file)
  mean = {n: (two[0][n] + two[1][n]) / 2 for n in two[0]}
  for name, array in read.items():
    if not name.startswith("batch_stats/"):
      np.testing.assert_allclose(array, mean[name], atol=1e-6)
  evaluated = landscape.Landscape(runs.make_config(KEYS), "valid")
  assert evaluated.measure(read).loss == pytest.approx(
    answer["details"]["means"][0]["loss"], rel=1e-6
  )
  again = studies.call("merge", constant, f"--safetensors={file}")
  assert again == 2 and str(file) in capsys.readouterr().err


@pytest.mark.slow
def test_a_page_and_a_figure(constant, tmp_path, capsys):
  """S8: as any procedure's result; the file of a mean is an end, too."""
  code = studies.call(
    *("landscape", f"{constant}:8", constant, "--points=3"),
    *(f"--workdir={tmp_path / 'plan'}", f"--figures={tmp_path / 'figures'}"),
  )
  assert code == 0
  assert "barrier" in capsys.readouterr().out
  assert (tmp_path / "plan" / "report.html").exists()
  assert len(list((tmp_path / "figures").glob("*.svg"))) == 1


def test_ends_are_exact_and_counters_are_no_floats():
  """S8: position 0 and 1 give the very numbers, whatever the others are."""
  one = {"w": np.float32([0.1, 3]), "n": np.int32(4)}
  other = {"w": np.float32([np.inf, 5]), "n": np.int32(8)}
  for place, end in ((0.0, one), (1.0, other)):
    found = landscape.between(one, other, place)
    np.testing.assert_array_equal(np.float32(found["w"]), end["w"])
    assert found["n"] == end["n"]
  assert landscape.between(one, other, 0.5)["w"][1] == 4
  assert landscape.mean([one, other])["w"][1] == 4


def test_statistics_of_a_model_that_averages_itself_follow_each_other(
  tmp_path, monkeypatch
):
  """S8: `apply` of such a model returns averages, which the next continues."""
  config = runs.make_config(KEYS)
  evaluated = landscape.Landscape(config, "valid")
  monkeypatch.setattr(models, "averages_statistics", lambda model: True)
  seen = []
  evaluated._of_batch = lambda params, stats, batch: (
    seen.append(stats) or jax.tree.map(lambda x: x + 1, stats)
  )
  arrays = weights.named(
    *jax.tree.map(
      lambda leaf: np.zeros(leaf.shape, leaf.dtype),
      (evaluated._workload.state.params, evaluated._workload.state.batch_stats),
    )
  )
  found = evaluated.recomputed(arrays)
  assert len(seen) > 1
  stats = [a for n, a in found.items() if n.startswith("batch_stats/")]
  assert all((array == len(seen)).all() for array in stats)


@pytest.mark.parametrize(
  "call, part",
  [
    (lambda run: jp.landscape(run, run, points=1), "points"),
    (lambda run: jp.landscape(run, run, weights=["window"]), "window"),
    (lambda run: jp.landscape(run, run, weights=["best"]), "best"),
    (lambda run: jp.landscape(f"{run}:7", run), "step 7"),
    (lambda run: jp.landscape(run, f"{run}/none"), "none"),
    (lambda run: jp.merge(run, steps=[7, 8]), "step 7"),
    (lambda run: jp.merge(run, steps=[8]), "two"),
    (lambda run: jp.merge(run, last=9), "last"),
    (lambda run: jp.merge(run, last=2, steps=[8]), "steps"),
    (lambda run: jp.merge(run / "none"), "none"),
  ],
)
def test_refusals(constant, call, part):
  """S8: in one sentence that names the value."""
  with pytest.raises(jaxplay.UserError, match=part):
    call(constant)


def test_another_model_is_refused(constant, tmp_path):
  """S8: with the first array that differs."""
  arrays, _ = weights.read(constant)
  arrays["Dense_0/bias"] = arrays["Dense_0/bias"][:-1]
  file = tmp_path / "other.safetensors"
  weights.write_safetensors(arrays, file)
  with pytest.raises(jaxplay.UserError, match="Dense_0/bias"):
    jp.landscape(constant, file)


@pytest.mark.slow
def test_a_trial_of_a_population_has_checkpoints_to_merge(tmp_path):
  """S8: they are with its population, and are left there."""
  file = studies.write(
    tmp_path,
    num_trials=2,
    overrides={
      "schedule": "constant",
      "max_train_steps": 8,
      "checkpoint_every": 4,
      "keep_steps": (4, 8),
    },
  )
  jp.run_study(file, tmp_path / "study", report=False)
  trial = tmp_path / "study" / "trials" / "0000"
  assert rundir.RunDir(trial).packed() is not None
  merged = jp.merge(trial)
  assert [row["step"] for row in merged.details["checkpoints"]] == [4, 8]
  line = jp.landscape(f"{trial}:4", f"{trial}:8", points=2)
  ends = [row["loss"] for row in merged.details["checkpoints"]]
  (points,) = line.details["lines"].values()
  np.testing.assert_allclose([p["loss"] for p in points], ends, rtol=1e-6)
  assert rundir.RunDir(trial).packed() is not None
