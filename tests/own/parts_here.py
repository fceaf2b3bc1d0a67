"""Files of a user who knows nothing of jaxplay, for the tests of parts."""

import textwrap

MIXER = """
from typing import Annotated, Literal

import flax.linen as nn
from blocks import mix


class Mixer(nn.Module):
  num_classes: int
  patch: Annotated[int, "[1, 8]", "side of a patch, in pixels"] = 4
  width: int = 8
  activation: Literal["gelu", "relu"] = "gelu"

  @nn.compact
  def __call__(self, x):
    x = nn.Conv(self.width, (self.patch,) * 2, (self.patch,) * 2)(x)
    x = mix(x.reshape(x.shape[0], -1, self.width), getattr(nn, self.activation))
    return nn.Dense(self.num_classes)(x.mean(1))
"""
BLOCKS = """
import flax.linen as nn


def mix(x, activation):
  y = nn.Dense(x.shape[1])(activation(x.swapaxes(1, 2)))
  return x + y.swapaxes(1, 2)
"""
RULES = """
from typing import Annotated

import jax.numpy as jnp
import optax


def heavy(
  learning_rate, beta: Annotated[float, "[0, 1)"] = 0.8, *, nesterov=True
):
  return optax.chain(
    optax.trace(beta, nesterov=nesterov), optax.scale(-learning_rate)
  )


def halves(step, hparams, *, every: int = 10):
  return 0.5 ** jnp.floor(step / every)
"""


def write(folder, **more):
  """Writes the files above, and `more` by stem, in a folder."""
  folder.mkdir(parents=True, exist_ok=True)
  files = {"mixer": MIXER, "blocks": BLOCKS, "rules": RULES} | more
  for stem, text in files.items():
    (folder / f"{stem}.py").write_text(textwrap.dedent(text))
  return folder


def config_file(folder, lines, name="config.py"):
  """Writes an experiment file whose get_config() has these lines."""
  body = "\n".join(f"  {line}" for line in lines)
  text = "from jaxplay import config as config_lib\n\n\n"
  text += "def get_config():\n  config = config_lib.base()\n"
  (folder / name).write_text(f"{text}{body}\n  return config\n")
  return str(folder / name)


SMALL = (
  'config.model.name = "mixer.py:Mixer"',
  'config.optimizer = "rules.py:heavy"',
  'config.schedule = "rules.py:halves"',
  "config.max_train_steps = 12",
  "config.eval_every = 6",
  "config.checkpoint_every = 4",
  "config.log_every = 2",
  "config.batch_size = 64",
  "config.steps_per_call = 3",
  "config.export = False",
  "config.hparams.learning_rate = 0.05",
)
