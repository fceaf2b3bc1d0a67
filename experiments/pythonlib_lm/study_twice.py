"""How much would twice the steps gain? Four schedules, three learning rates.

The report of a study of several schedules estimates it, if a law of the loss
under schedules predicts the held-out ones within 1% (docs/checks.md). The same
study with STEPS twice as large shows the truth.

Cost    12 trials of 1,000 steps, one compilation; 3 minutes on 2 busy CPU cores
Expect  best validation loss 1.78 with a cooldown and 8e-3, and no estimate: the
        law misses held-out schedules by 1.3%. With STEPS of 2,000 1.61 with a
        cooldown and 3e-3, and twice the steps to gain 7.9% (6.2 to 9.5); they
        gain 7.6%
"""

from jaxplay.study import space, study

STEPS = 1_000


def get_study():
  """The study."""
  points = [
    {"schedule": schedule, "hparams.learning_rate": rate}
    for schedule in ("constant", "linear", "cosine", "wsd")
    for rate in (3e-3, 8e-3, 2e-2)
  ]
  return study.Study(
    goal="What do a small language model's curves under four schedules say of"
    " twice the steps?",
    config="config.py",
    overrides={
      "max_train_steps": STEPS,
      "batch_size": 8,
      "log_every": 25,
      "eval_every": 25,
      "eval_examples": 256,
      "checkpoint_every": STEPS,
      "num_predictions": 0,
      "export": False,
      "averages": (),
      "model.width": 32,
      "model.depth": 2,
      "model.heads": 2,
      "dataset.sequence_length": 64,
      "hparams.warmup_steps": 50,
    },
    space={
      "schedule": space.Choice(("constant", "linear", "cosine", "wsd")),
      "hparams.learning_rate": space.Float(1e-3, 5e-2, scale="log"),
    },
    algorithm="explicit",
    points=points,
    num_trials=len(points),
  )
