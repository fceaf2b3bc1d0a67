"""A scaling law of small language models on the standard library's source.

Sizes   five, from 21,600 to 836,736 parameters
Lengths 300 to 9,600 steps of 8 rows of 128 bytes; 25 points from 5 base runs
Cost    eleven minutes on 2 CPU cores, 62% of one run per point
Expect  L(N, D) = 0.468 + 9.86 / N^0.257 + 750 / D^0.520 nats per byte, one seed
        on Python 3.11.7; intervals in experiments/LOG.md
        jaxplay scaling run experiments/pythonlib_lm/ladder.py --workdir=...
"""

from jaxplay.scaling import ladder

_STEPS = (300, 600, 1_200, 2_400)


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
    # Smaller models train longer: comparing sizes requires models of the same
    # compute.
    steps={
      "32x1": (*_STEPS, 4_800, 9_600),
      "32x3": (*_STEPS, 4_800, 9_600),
      "64x2": (*_STEPS, 4_800),
      "96x3": _STEPS,
      "128x4": _STEPS,
    },
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
