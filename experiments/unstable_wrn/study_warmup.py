"""Warmups of the unstable WideResNet to a learning rate that is too high.

The Playbook's Figure 6: the loss rises in the middle of a warmup that is too
short; with the longest, it recovers.

Cost    4 trials of 600 steps, one compilation; 30 s of CPU time
Expect  best validation error 0.5 to 0.9 with the three shorter warmups, 0.12
        with 300 steps; one seed each
"""

from jaxplay.study import space, study

RATE, LENGTHS = 0.27, (10, 30, 100, 300)


def get_study():
  """The study."""
  return study.Study(
    goal="How long a warmup does a high learning rate need?",
    config="config.py",
    overrides={
      "max_train_steps": 600,
      "log_every": 2,
      "hparams.learning_rate": RATE,
      "num_predictions": 0,
      "export": False,
    },
    space={
      "hparams.warmup_steps": space.Int(min(LENGTHS), max(LENGTHS) + 1, "log"),
    },
    algorithm="explicit",
    points=[{"hparams.warmup_steps": length} for length in LENGTHS],
  )
