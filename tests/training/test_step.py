"""The train step: exact accumulation, clipping, averages, one compilation."""

import functools

import jax
import numpy as np
import pytest

from jaxplay import config as config_lib
from jaxplay import models
from jaxplay.data import order
from jaxplay.training import metrics, sharding, step, tasks
from jaxplay.training import workload as workload_lib

BATCH, SHAPE, CLASSES = 32, (4, 4, 1), 5
TASK = tasks.Classification(num_classes=CLASSES, pixel_max=255)


def _config(**changes):
  """A config of a small model; __ stands for the dot."""
  config = config_lib.base()
  small = dict(
    batch_size=BATCH,
    optimizer="sgd",
    log_every=4,
    max_train_steps=20,
    model__depth=1,
    model__width=8,
    model__virtual_batch_size=4,
  )
  for key, value in (small | changes).items():
    config_lib.override(config, key.replace("__", "."), value)
  config_lib.validate(config)
  return config


class _Program:
  """The jitted step and initial state of what is static in a config."""

  def __init__(self, config):
    sizes = config.model.to_dict()
    model = models.build(
      sizes.pop("name"), CLASSES, norm_kind=sizes.pop("norm"), **sizes
    )
    self.raw = step.make_train_step(
      model,
      TASK,
      optimizer=config.optimizer,
      clipping=config.clipping,
      averages=config.averages,
      microbatches=config.microbatches,
      log_every=config.log_every,
    )
    self.step = jax.jit(self.raw)
    init = functools.partial(
      step.init_state,
      model,
      inputs=np.zeros((1, *SHAPE), np.float32),
      optimizer=config.optimizer,
      averages=config.averages,
    )
    init = jax.jit(init)
    self.init = lambda seed, hparams: init(
      seeds=step.stream_seeds(seed), hparams=hparams
    )


_PROGRAMS = {}


def _program(config):
  """Compiled once for all configs that differ in `hparams` alone."""
  static = config_lib.flatten(config)
  key = str({k: v for k, v in static.items() if not k.startswith("hparams.")})
  if key not in _PROGRAMS:
    _PROGRAMS[key] = _Program(config)
  return _PROGRAMS[key]


def _batch(number, config, mesh=None, weights=None):
  """Batch `number` of a run, laid out as microbatches."""
  rng = np.random.default_rng(number)
  flat = {
    "image": rng.integers(0, 256, (BATCH, *SHAPE)).astype(np.uint8),
    "label": rng.integers(0, CLASSES, BATCH).astype(np.int32),
  }
  if weights is not None:
    flat["weight"] = weights
  parts = config.microbatches
  batch = {
    name: array.reshape(parts, -1, *array.shape[1:])
    for name, array in flat.items()
  }
  if mesh is None:
    return batch
  return jax.device_put(batch, sharding.batch(mesh, axis=1))


def _states(config, steps=3, mesh=None, **kwargs):
  """States after 0, 1, ..., `steps` steps, on the host."""
  program, hparams = _program(config), workload_lib.traced(config)
  state = program.init(seed=config.seed, hparams=hparams)
  if mesh is not None:
    state = jax.device_put(state, sharding.replicated(mesh))
  states = [state]
  for number in range(steps):
    batch = _batch(number, config, mesh, **kwargs)
    state, _ = program.step(hparams, state, batch)
    states.append(state)
  return jax.device_get(states)


def _assert_close(one, other, rtol=2e-5, atol=2e-6):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
    one,
    other,
  )


def _equal(one, other):
  same = jax.tree.map(np.array_equal, one, other)
  return all(jax.tree.leaves(same))


def _norm(tree):
  squares = [np.sum(np.square(leaf)) for leaf in jax.tree.leaves(tree)]
  return float(np.sqrt(sum(squares)))


def _updates(states):
  return [
    jax.tree.map(np.subtract, new.params, old.params)
    for old, new in zip(states, states[1:], strict=False)
  ]


# Gradient accumulation.

ACCUMULATED = dict(
  optimizer="nesterov",
  model__norm="ghost",
  model__dropout=True,
  hparams__dropout_rate=0.3,
  hparams__label_smoothing=0.1,
  clipping=True,
  hparams__clip_norm=0.3,
  averages=("ema",),
)


@pytest.fixture(scope="module")
def whole():
  """Three steps with whole batches on one device."""
  return _states(_config(**ACCUMULATED))


@pytest.mark.slow
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("microbatches", [1, 2, 4])
def test_accumulation_is_exact(mesh, whole, devices, microbatches):
  """B4: microbatches change neither loss, clipping, ghost groups nor masks.

  Nor does the number of devices: everything the state holds is the same.
  """
  config = _config(microbatches=microbatches, **ACCUMULATED)
  states = _states(config, mesh=mesh if devices == 8 else None)
  for state, expected in zip(states, whole, strict=True):
    _assert_close(state, expected)
  assert states[-1].tally["clipped"] > 0


def test_accumulation_would_show(whole):
  """B4: the comparison above tells other masks, groups and thresholds."""
  for changes in (
    dict(hparams__dropout_rate=0.31),
    dict(model__virtual_batch_size=8),
    dict(hparams__clip_norm=0.31),
    dict(hparams__label_smoothing=0.11),
  ):
    other = _states(_config(**ACCUMULATED | changes), steps=1)[1]
    with pytest.raises(AssertionError):
      _assert_close(other, whole[1])


@pytest.mark.parametrize("microbatches", [1, 4])
def test_padding_does_not_train(microbatches):
  """G4: a batch that ends in padding is the batch without it.

  The last of four microbatches is nothing but padding, and the one before it
  is in part.
  """
  changes = dict(model__norm="ghost", microbatches=microbatches)
  weights = np.ones(BATCH, np.float32)
  weights[20:] = 0
  padded = _states(_config(**changes), weights=weights, steps=1)[1]

  config = _config(model__norm="ghost")
  program, hparams = _program(config), workload_lib.traced(config)
  state = program.init(seed=0, hparams=hparams)
  batch = jax.tree.map(lambda array: array[:, :20], _batch(0, config))
  _assert_close(padded, jax.device_get(program.step(hparams, state, batch)[0]))


# Clipping.


@pytest.mark.parametrize("threshold", [1e-3, 0.3, 1e3])
def test_clipped_norm_is_at_most_the_threshold(threshold):
  """I5: no update is longer than the threshold; a short one stays as it is."""
  keys = dict(hparams__learning_rate=1.0, hparams__clip_norm=threshold)
  states = _states(_config(clipping=True, **keys), steps=1)
  unclipped = _states(_config(**keys), steps=1)
  (update,), (gradient,) = _updates(states), _updates(unclipped)
  length = _norm(gradient)
  assert _norm(update) <= threshold * (1 + 1e-5)
  shrunk = jax.tree.map(lambda g: g * min(1, threshold / length), gradient)
  _assert_close(update, shrunk)
  # I1: what is logged is the norm of the gradient as it was.
  for state in (states[1], unclipped[1]):
    assert state.tally["grad_norm"] == pytest.approx(length, rel=1e-5)
  assert states[1].tally["clipped"] == (length > threshold)
  assert unclipped[1].tally["clipped"] == 0


def test_share_of_clipped_updates():
  """I5: train/clipped is the share of the updates since the last line."""
  first = _states(_config(), steps=1)[1].tally["grad_norm"]
  threshold = float(first) * 0.999
  config = _config(clipping=True, hparams__clip_norm=threshold)
  states = _states(config, 4)
  lengths = [float(state.tally["grad_norm"]) for state in states[1:]]
  line = metrics.train_line(states[-1].tally)
  share = np.mean(np.array(lengths) > threshold)
  assert 0 < share < 1 and line["train/clipped"] == pytest.approx(share)
  assert line["train/grad_norm"] == pytest.approx(lengths[-1])
  assert line["train/grad_norm_max"] == pytest.approx(max(lengths))


# One compilation.

COMBINATIONS = {
  "nesterov, wsd, all averages": dict(
    optimizer="nesterov",
    schedule="wsd",
    hparams__cooldown_fraction=0.9,  # from the third step on
    clipping=True,
    averages=("ema", "window"),
    model__norm="batch",
    model__dropout=True,
  ),
  "rmsprop, rsqrt": dict(optimizer="rmsprop", schedule="rsqrt"),
  "adam, cosine": dict(optimizer="adam", schedule="cosine"),
  "muon": dict(optimizer="muon"),
  "adafactor": dict(optimizer="adafactor"),
  "ademamix": dict(optimizer="ademamix"),
  "sophia": dict(optimizer="sophia"),
  "schedule-free, linear": dict(
    optimizer="schedule_free_adamw", schedule="linear"
  ),
}
# Another value of each number, so far from the default that it shows.
OTHERS = {
  "learning_rate": 0.3,
  "momentum": 0.3,
  "rho": 0.3,
  "beta1": 0.3,
  "beta2": 0.3,
  "epsilon": 0.1,
  "weight_decay": 0.5,
  "clip_norm": 0.01,
  "label_smoothing": 0.4,
  "dropout_rate": 0.5,
  "norm_momentum": 0.3,
  "warmup_steps": 2,
  "final_factor": 0.7,
  "decay_timescale": 1,
  "cooldown_fraction": 1.0,
  "ema_decay": 0.3,
  "window_steps": 2,
  "window_stride": 2,
  "z_loss": 0.1,
  "decay_rate": 0.3,
  "beta3": 0.3,
  "mixing": 1.0,
  "gamma": 1.0,
}


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_changing_a_number_compiles_nothing(combination):
  """Idea 1: one compilation serves every value of every hyperparameter.

  And each one has an effect, unless the config says that it has none.
  """
  static = COMBINATIONS[combination]
  base = _config(**static)
  assert OTHERS.keys() == set(base.hparams.keys())
  program, expected = _program(base), _states(base, 4)
  assert program.step._cache_size() == 1
  for key, value in OTHERS.items():
    config = _config(**static | {f"hparams__{key}": value})
    changed = not _equal(_states(config, 4), expected)
    said = any(
      f"hparams.{key}=" in s for s in config_lib.without_effect(config)
    )
    assert changed != said, key
  _states(_config(**static, max_train_steps=5))
  assert program.step._cache_size() == 1


def test_every_number_is_tried():
  """A3: between them, the combinations use every hyperparameter there is."""
  unused = set(OTHERS)
  for static in COMBINATIONS.values():
    config = _config(**static)
    for key in set(unused):
      config_lib.override(config, f"hparams.{key}", OTHERS[key])
      notes = config_lib.without_effect(config)
      if not any(f"hparams.{key}=" in note for note in notes):
        unused.discard(key)
  assert unused == {"z_loss"}  # Of language models: see test_lm.py.


def test_a_population_is_its_members():
  """Idea 1: a step vmapped over trials is each trial's step alone."""
  static = COMBINATIONS["nesterov, wsd, all averages"]
  members = [
    _config(**static, hparams__learning_rate=0.3, hparams__warmup_steps=2),
    _config(**static, hparams__dropout_rate=0.4, hparams__momentum=0.5),
    _config(**static, hparams__clip_norm=0.05, hparams__window_steps=2),
  ]
  program = _program(members[0])
  hparams = [workload_lib.traced(member) for member in members]
  hparams = jax.tree.map(lambda *leaves: np.stack(leaves), *hparams)
  state = program.init(seed=0, hparams=workload_lib.traced(members[0]))
  states = jax.tree.map(
    lambda leaf: np.stack([leaf] * 3), jax.device_get(state)
  )
  together = jax.jit(jax.vmap(program.raw, (0, 0, None)))
  for number in range(3):
    states, _ = together(hparams, states, _batch(number, members[0]))
  for i, member in enumerate(members):
    alone = _states(member)[-1]
    mine = jax.tree.map(lambda leaf, i=i: np.asarray(leaf[i]), states)
    _assert_close(mine, alone, rtol=1e-4, atol=1e-5)


# Metrics.


def test_tally_begins_anew():
  """Metrics: sums run from one logged step to the next, then begin anew."""
  states = _states(_config(log_every=3), steps=7)
  steps = [float(state.tally["steps"]) for state in states[1:]]
  assert steps == [1, 2, 3, 1, 2, 3, 1]
  single = _states(_config(log_every=1), steps=7)
  for name in ("loss", "error_rate"):
    each = np.array([state.tally[name] for state in single[1:]])
    sums = [state.tally[name] for state in states[1:]]
    expected = [each[i - i % 3 : i + 1].sum() for i in range(7)]
    np.testing.assert_allclose(sums, expected, rtol=1e-5)
    line = metrics.train_line(states[6].tally)
    assert line[f"train/{name}"] == pytest.approx(each[3:6].mean(), rel=1e-5)
  lengths = np.array([state.tally["grad_norm"] for state in single[1:]])
  np.testing.assert_allclose(
    [state.tally["grad_norm_max"] for state in states[1:]],
    [lengths[i - i % 3 : i + 1].max() for i in range(7)],
    rtol=1e-5,
  )


def test_loss_is_the_mean_over_the_batch():
  """Metrics: the loss is the mean cross-entropy in nats, errors a share."""
  config = _config()
  before, after = _states(config, steps=1)
  batch = _batch(0, config)
  kernels = [before.params[f"Dense_{i}"]["kernel"] for i in (0, 1)]
  biases = [before.params[f"Dense_{i}"]["bias"] for i in (0, 1)]
  x = batch["image"][0].reshape(BATCH, -1) / 127.5 - 1.0
  hidden = np.maximum(x @ kernels[0] + biases[0], 0)
  logits = hidden @ kernels[1] + biases[1]
  labels = batch["label"][0]
  p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
  loss = -np.log(p[np.arange(BATCH), labels]).mean()
  assert after.tally["loss"] == pytest.approx(loss, rel=1e-5)
  errors = (logits.argmax(1) != labels).mean()
  assert after.tally["error_rate"] == pytest.approx(errors)


@pytest.mark.parametrize("where", [2, 4])
def test_the_first_bad_step_is_kept(where):
  """Metrics: the first loss that is not finite is told, once and for good."""
  config = _config(log_every=3, model__norm="none")
  program, hparams = _program(config), workload_lib.traced(config)
  state = program.init(seed=0, hparams=hparams)
  found = []
  for number in range(7):
    if number == where:  # One step of infinite length.
      state = state._replace(
        params=jax.tree.map(lambda leaf: leaf * np.float32(1e38), state.params)
      )
    state, tally = program.step(hparams, state, _batch(number, config))
    found.append(metrics.diverged(jax.device_get(tally)))
  assert found[:where] == [None] * where
  assert len(set(found[where:])) == 1
  bad_step, reason = found[-1]
  assert bad_step == where + 1
  assert f"at step {where + 1}" in reason
  assert "loss" in reason and ("nan" in reason or "inf" in reason)


def test_a_bad_gradient_is_bad():
  """Metrics: a finite loss with an infinite gradient is divergence, too."""
  tally = dict.fromkeys(step._TALLY, 0.0)
  finite = dict(error_rate=0.0, clipped=0.0, learning_rate=0.1)
  tally = step._add_to_tally(
    tally, 5, loss=1.0, grad_norm=np.float32("inf"), **finite
  )
  tally = step._add_to_tally(tally, 6, loss=2.0, grad_norm=1.0, **finite)
  assert metrics.diverged(tally) == (5, "gradient norm is inf at step 5")


# Weight averages.


@pytest.mark.parametrize("length, stride", [(3, 1), (3, 2), (4, 2), (2, 9)])
def test_averages(length, stride):
  """S4: exponential and window averages equal their definitions.

  Of parameters and of the evaluation averages of batch norm.
  """
  decay, total = 0.7, 8
  config = _config(
    **COMBINATIONS["nesterov, wsd, all averages"],
    hparams__ema_decay=decay,
    hparams__window_steps=length,
    hparams__window_stride=stride,
  )
  states = _states(config, steps=total)
  raw = [(state.params, state.batch_stats) for state in states[1:]]
  hparams = workload_lib.traced(config)
  for done in range(1, total + 1):
    variables = jax.device_get(
      step.eval_variables(states[done], hparams, config.optimizer)
    )
    assert variables.keys() == {"", "_ema", "_window"}
    _assert_close(variables[""], raw[done - 1], rtol=0, atol=0)

    weights = decay ** np.arange(done)[::-1]
    _assert_close(variables["_ema"], _mean(raw[:done], weights))

    # The last full window; before there is one, what there is of the first.
    # Of each, every stride-th step, and the last where it is no longer.
    end = done // length * length or done
    window = raw[max(end - length, 0) : end]
    window = window[min(stride, length) - 1 :: stride] or raw[done - 1 : done]
    _assert_close(variables["_window"], _mean(window, np.ones(len(window))))


def test_weights_to_use():
  """S4: what valid/ is of may be an average; the raw weights stand beside."""
  config = _config(**COMBINATIONS["nesterov, wsd, all averages"])
  state, hparams = _states(config, steps=5)[-1], workload_lib.traced(config)
  raw = step.eval_variables(state, hparams, config.optimizer)
  ema = step.eval_variables(state, hparams, config.optimizer, "ema")
  assert ema.keys() == {"", "_raw", "_window"}
  _assert_close(ema[""], raw["_ema"], rtol=0, atol=0)
  _assert_close(ema["_raw"], raw[""], rtol=0, atol=0)


def _mean(trees, weights):
  return jax.tree.map(
    lambda *leaves: np.average(
      np.stack(leaves).astype(np.float64), axis=0, weights=weights
    ),
    *trees,
  )


def test_averages_cost_no_training():
  """S4: whether averages are kept changes nothing of what is trained."""
  static = COMBINATIONS["nesterov, wsd, all averages"]
  with_averages = _states(_config(**static))[-1]
  without = _states(_config(**static | {"averages": ()}))[-1]
  for name in ("params", "batch_stats", "opt_state"):
    _assert_close(
      getattr(with_averages, name), getattr(without, name), rtol=1e-6
    )


def test_batch_statistics_are_averaged_over_steps():
  """N4: the evaluation averages forget at the rate of norm_momentum."""
  static = dict(model__norm="ghost", model__dropout=False)
  fast = _states(_config(**static, hparams__norm_momentum=0.0), steps=1)
  slow = _states(_config(**static, hparams__norm_momentum=0.9), steps=1)
  expected = jax.tree.map(
    lambda old, new: 0.9 * old + 0.1 * new,
    fast[0].batch_stats,
    fast[1].batch_stats,
  )
  _assert_close(slow[1].batch_stats, expected)


# Pure, and the same however it is cut into calls.


def test_the_step_is_pure():
  """Idea 1: same inputs, same outputs; and the inputs stay as they were."""
  config = _config(**COMBINATIONS["nesterov, wsd, all averages"])
  program, hparams = _program(config), workload_lib.traced(config)
  state = program.init(seed=0, hparams=hparams)
  inputs = (hparams, state, _batch(0, config))
  before = jax.tree.map(np.array, inputs)
  first = jax.device_get(program.step(*inputs))
  second = jax.device_get(program.step(*inputs))
  assert _equal(first, second)
  assert _equal(jax.tree.map(np.asarray, inputs), before)
  assert not _equal(first[0].params, before[1].params)


@pytest.mark.slow
@pytest.mark.parametrize("one_by_one", [False, True])
def test_how_a_run_is_cut_changes_nothing(one_by_one):
  """Idea 3: one call of six steps is six calls of one, to the last bit."""
  config = _config(**COMBINATIONS["nesterov, wsd, all averages"])
  program, hparams = _program(config), workload_lib.traced(config)
  rng = np.random.default_rng(0)
  arrays = {
    "image": rng.integers(0, 256, (50, *SHAPE)).astype(np.uint8),
    "label": rng.integers(0, CLASSES, 50).astype(np.int32),
  }
  index = order.batch_indices(0, 0, BATCH, 50, 6).reshape(6, 1, BATCH)
  run = jax.jit(step.make_run_steps(program.raw, one_by_one=one_by_one))
  ends = []
  for cuts in ([0, 6], [0, 1, 4, 6], range(7)):
    if one_by_one:
      cuts = range(7)
    state = program.init(seed=0, hparams=hparams)
    for begin, end in zip(cuts, cuts[1:], strict=False):
      state, tally = run(hparams, state, arrays, {"index": index}, begin, end)
    ends.append(jax.device_get((state, tally)))
  assert ends[0][0].step == 6
  assert _equal(ends[0], ends[1]) and _equal(ends[0], ends[2])
  assert run._cache_size() == 1
  # And the batches are those that the indices name.
  state = program.init(seed=0, hparams=hparams)
  for part in index:
    batch = {name: array[part] for name, array in arrays.items()}
    state, tally = program.step(hparams, state, batch)
  _assert_close(ends[0], jax.device_get((state, tally)))


def test_masks_change_from_step_to_step():
  """M2: dropout is drawn anew at each step, from the step's number."""
  config = _config(**ACCUMULATED, hparams__learning_rate=1e-12)
  program, hparams = _program(config), workload_lib.traced(config)
  state = program.init(seed=0, hparams=hparams)
  losses = []
  for number in (0, 1, 0):
    at = state._replace(step=np.int32(number))
    _, tally = program.step(hparams, at, _batch(0, config))
    losses.append(float(tally["loss"]))
  assert losses[0] == losses[2] != losses[1]


def test_seeds_are_streams():
  """M2: initialization and dropout of one seed, and of no other, are equal."""
  config = _config(**ACCUMULATED)
  program, hparams = _program(config), workload_lib.traced(config)
  one, again, other = (
    jax.device_get(program.init(seed=seed, hparams=hparams))
    for seed in (1, 1, 2)
  )
  assert _equal(one, again)
  assert not _equal(one.params, other.params)
  assert not np.array_equal(one.dropout_key, other.dropout_key)
