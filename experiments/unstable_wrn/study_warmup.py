"""Warmups of the unstable WideResNet to a learning rate that is too high.

The Playbook's Figure 6: the loss rises in the middle of a warmup that is too
short.

Cost    8 trials of 600 steps, one compilation; two minutes of CPU time
"""

from jaxplay.study import space, study

RATES, LENGTHS = (0.16, 0.27), (10, 30, 100, 300)


def get_study():
  """The study."""
  return study.Study(
    goal="How long a warmup does a high learning rate need?",
    config="config.py",
    overrides={
      "max_train_steps": 600,
      "log_every": 2,
      "eval_every": 50,
      "num_predictions": 0,
      "export": False,
    },
    space={
      "hparams.learning_rate": space.Float(*RATES, scale="log"),
      "hparams.warmup_steps": space.Int(min(LENGTHS), max(LENGTHS) + 1, "log"),
    },
    algorithm="explicit",
    points=[
      {"hparams.learning_rate": rate, "hparams.warmup_steps": length}
      for rate in RATES
      for length in LENGTHS
    ],
  )
