"""The study of a study file as a plain loop of Optuna; prints the best error.

    python tools/benchmarks/optuna_loop.py CONFIG OVERRIDES_AS_JSON

Each trial builds and compiles its own training function, as such loops do. The
data are on the device and a call makes many steps: nothing else is slow.
"""

import json
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optuna

from jaxplay import config as config_lib
from jaxplay import data
from jaxplay.data import images

NUM_TRIALS = 64


class MLP(nn.Module):
  """Images of digits -> logits."""

  depth: int
  width: int

  @nn.compact
  def __call__(self, x):
    x = x.reshape(len(x), -1) / 16.0
    for _ in range(self.depth):
      x = nn.relu(nn.Dense(self.width)(x))
    return nn.Dense(10)(x)


def train(config, splits, learning_rate: float, momentum: float) -> float:
  """Train one trial and return its best validation error."""
  steps, every = config.max_train_steps, config.eval_every
  train_set, valid_set = splits["train"], splits["valid"]
  optimizer = optax.sgd(
    optax.linear_schedule(learning_rate, 0.0, steps), momentum, nesterov=True
  )
  model = MLP(config.model.depth, config.model.width)
  params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  state = params, optimizer.init(params)

  def step(state, batch):
    params, opt_state = state

    def loss_fn(params):
      x = images.move(train_set["image"][batch["index"]], batch["moves"])
      return optax.softmax_cross_entropy_with_integer_labels(
        model.apply(params, x), train_set["label"][batch["index"]]
      ).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  @jax.jit
  def run(state, batches):
    return jax.lax.scan(step, state, batches)

  @jax.jit
  def error_rate(params):
    predicted = jnp.argmax(model.apply(params, valid_set["image"]), -1)
    return jnp.mean(predicted != valid_set["label"])

  best = 1.0
  for first in range(0, steps, every):
    batches = data.train_examples(
      seed=0,
      step=first,
      num_steps=every,
      batch_size=config.batch_size,
      num_examples=len(train_set["label"]),
      augment="shift",
      augment_pixels=1,
    )
    state, _ = run(state, batches)
    best = min(best, float(error_rate(state[0])))
  return best


def main() -> None:
  config = config_lib.load(sys.argv[1])
  for key, value in json.loads(sys.argv[2]).items():
    config_lib.override(config, key, value)
  digits = data.load(
    "digits", data_dir="", splits={}, image_size=0, synthetic={}
  ).splits
  splits = {
    name: jax.device_put(
      digits[name].fetch(np.arange(digits[name].num_examples))
    )
    for name in ("train", "valid")
  }

  def objective(trial: optuna.Trial) -> float:
    return train(
      config,
      splits,
      trial.suggest_float("learning_rate", 1e-3, 1, log=True),
      trial.suggest_float("momentum", 0.5, 0.99),
    )

  optuna.logging.set_verbosity(optuna.logging.WARNING)
  study = optuna.create_study(sampler=optuna.samplers.QMCSampler(seed=0))
  study.optimize(objective, n_trials=NUM_TRIALS)
  print(study.best_value)


if __name__ == "__main__":
  main()
