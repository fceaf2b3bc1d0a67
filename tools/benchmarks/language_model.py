"""Benchmarks of language models: the step, averages of weights, the reader."""

import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from benchmarks import common

from jaxplay import models
from jaxplay.pods import probe, roofline
from jaxplay.training import dry_run
from jaxplay.training import workload as workload_lib

# Language models by size; on a CPU only the first.
_LARGE = {
  "model.dtype": "bfloat16",
  "eval_batch_size": 32,
  "hparams.learning_rate": 3e-4,
}
_LMS: dict[str, dict[str, Any]] = {
  "of the experiment": {},
  "124M": {
    "model.width": 768,
    "model.depth": 12,
    "model.heads": 12,
    "dataset.sequence_length": 1024,
    "batch_size": 32,
    **_LARGE,
  },
  "1B": {
    "model.width": 2048,
    "model.depth": 18,
    "model.heads": 16,
    "dataset.sequence_length": 2048,
    "batch_size": 8,
    "model.remat": "dots",
    **_LARGE,
  },
}


def _lm_config(keys):
  every = ("max_train_steps", "checkpoint_every", "eval_every")
  short = dict.fromkeys(every, 200)
  lean = {"averages": (), "export": False, "keep_steps": ()}
  return common.load_config("pythonlib_lm", {**short, **lean, **keys})


def lm(rounds: int) -> None:
  """Speed of language models relative to a hand-written step; tokens/s; MFU.

  The bare step is the same model under optax's own chain of clipping and AdamW,
  jitted in a scan over rows that are on the device. Model-FLOP utilization is
  by the formula, of the peak of a known chip or else of the measured speed of a
  product of large matrices.
  """
  names = list(_LMS)
  if jax.default_backend() == "cpu":
    names = names[:1]
  for name in names:
    config = _lm_config(_LMS[name])
    workload = workload_lib.make_workload(config)
    tokens = config.batch_size * config.dataset.sequence_length
    flops = sum(dry_run.formula_flops(config, workload).values())
    ratios, speeds = [], []
    for _ in range(rounds):
      bare = _bare_lm_steps_per_second(config)
      speeds.append(common.trained_steps_per_second(config)["steady"])
      ratios.append(speeds[-1] / bare)
    common.show(f"lm {name}, train / bare step", ratios)
    common.show(f"lm {name}, tokens per second", [s * tokens for s in speeds])
    shares = [s * flops / _peak_flops() for s in speeds]
    common.show(f"lm {name}, model-FLOP utilization", shares)


@functools.cache
def _peak_flops():
  """Of all devices per second."""
  chip = roofline.chip(jax.devices()[0].device_kind)
  if chip is None:
    return probe.peaks()["flops"]
  return chip.flops * jax.device_count()


def _bare_lm_steps_per_second(config):
  """Of a training step written by hand."""
  workload = workload_lib.make_workload(config)
  model, source = workload.model, workload.dataset.splits["train"]
  rows = jax.device_put(source.fetch(np.arange(source.num_examples))["tokens"])
  hparams, total, per_call = config.hparams, config.max_train_steps, 50

  def learning_rate(step):
    done = (step - 0.8 * total) / (0.2 * total)
    warm = jnp.minimum((step + 1) / hparams.warmup_steps, 1)
    return hparams.learning_rate * warm * (1 - jnp.sqrt(jnp.clip(done, 0, 1)))

  optimizer = optax.chain(
    optax.clip_by_global_norm(hparams.clip_norm),
    optax.adamw(
      learning_rate,
      hparams.beta1,
      hparams.beta2,
      hparams.epsilon,
      weight_decay=hparams.weight_decay,
      mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
    ),
  )

  def step(carry, index):
    params, opt_state = carry
    tokens = rows[index].astype(jnp.int32)

    def loss_fn(params):
      logits = model.apply({"params": params}, tokens[:, :-1], train=True)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, tokens[:, 1:]
      ).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  rng = np.random.default_rng(0)
  size = (per_call, config.batch_size)
  inputs = jnp.zeros((1, config.dataset.sequence_length), jnp.int32)
  params, _ = models.init(model, jax.random.key(0), inputs)
  return common.scanned_steps_per_second(
    step,
    (params, optimizer.init(params)),
    lambda: rng.integers(0, source.num_examples, size, np.int32),
    total - per_call,
  )


def averages(rounds: int) -> None:
  """Time of a language model's step with both averages over that without.

  In alternating blocks of 20 steps, ten a round: the difference is smaller than
  the noise of a whole run.
  """
  for name, stride in (("every step", 1), ("window of every 10th", 10)):
    both = {"averages": ("ema", "window"), "hparams.window_stride": stride}
    ratios = common.ratios_of_steps(
      _lm_config(both), _lm_config({"averages": ()}), 20, rounds
    )
    common.show(f"averages, {name}, step with / without", ratios)


def loader(rounds: int) -> None:
  """Tokens per second of packed rows, over what the experiment's LM consumes.

  Rows in the order of training, 64 batches at a time, from the memory-mapped
  files, on one core.
  """
  config = _lm_config({})
  source = workload_lib.make_workload(config).dataset.splits["train"]
  length = config.dataset.sequence_length
  speeds, ratios = [], []
  for _ in range(rounds):
    consumed = common.trained_steps_per_second(config)["steady"]
    consumed *= config.batch_size * length
    start, made, step = time.perf_counter(), 0, 0
    while (seconds := time.perf_counter() - start) < 1.0:
      chunk = common.train_examples(config, source, step, 64)
      rows = source.fetch(chunk["index"].reshape(-1))["tokens"]
      made, step = made + rows[:, 1:].size, step + 64
    speeds.append(made / seconds / 1e6)
    ratios.append(made / seconds / consumed)
  common.show("loader, million tokens per second", speeds)
  common.show("loader, read / consumed by the model", ratios)
