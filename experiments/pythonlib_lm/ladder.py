"""A scaling law of small language models on the standard library's source.

Five sizes from 20,000 to 840,000 parameters, four lengths from 0.3 to 2.5 M
tokens, 20 points. What it costs and shows has not been measured yet.
"""

from jaxplay.planning import ladder


def _size(width, depth, learning_rate):
  return {
    "model.width": width,
    "model.depth": depth,
    "model.heads": max(width // 32, 1),
    "hparams.learning_rate": learning_rate,
  }


def get_ladder():
  """The ladder."""
  return ladder.Ladder(
    goal="How does the loss of small language models fall with parameters and"
    " tokens, and what is the best size for a budget?",
    config="config.py",
    sizes={
      "32x1": _size(32, 1, 4e-3),
      "32x3": _size(32, 3, 4e-3),
      "64x2": _size(64, 2, 3e-3),
      "96x3": _size(96, 3, 2.5e-3),
      "128x4": _size(128, 4, 2e-3),
    },
    steps=(300, 600, 1_200, 2_400),
    overrides={
      "batch_size": 8,
      "eval_every": 10_000,
      "averages": (),
      "num_predictions": 0,
      "hparams.warmup_steps": 50,
    },
    cooldown_fraction=0.2,
    cooldown_shape="1-sqrt",
  )
