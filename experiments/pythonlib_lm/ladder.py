"""placeholder"""

from jaxplay.planning import ladder


def get_ladder():
  """The ladder."""
  return ladder.Ladder(
    goal="How does the loss fall with parameters and tokens?",
    config="config.py",
    sizes={
      "32x1": {"model.width": 32, "model.depth": 1, "model.heads": 2},
      "48x2": {"model.width": 48, "model.depth": 2, "model.heads": 3},
      "64x2": {"model.width": 64, "model.depth": 2, "model.heads": 2},
    },
    steps=(40, 80),
    overrides={"batch_size": 8, "averages": (), "hparams.warmup_steps": 10},
  )
