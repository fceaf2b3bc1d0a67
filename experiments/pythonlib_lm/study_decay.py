"""Does a short training of a tiny language model need a decaying rate?

What `make demo` runs, twice: this study first, and then the next one that its
report writes. The range of learning rates is a habit, not a measurement: 3e-4
and 1e-3 are the two values that everybody begins with under Adam.
"""

from jaxplay.study import space, study


def get_study():
  """The study."""
  return study.Study(
    goal="Does a short training of a small language model need a decaying"
    " learning rate?",
    config="config.py",
    overrides={
      "max_train_steps": 1_500,
      "batch_size": 2,
      "log_every": 50,
      "eval_every": 750,
      "checkpoint_every": 1_500,
      "num_predictions": 0,
      "export": False,
      "averages": (),
      "clipping": False,
      "dataset.sequence_length": 32,
      "model.depth": 1,
      "model.width": 32,
      "model.heads": 2,
      "hparams.weight_decay": 0.0,
    },
    space={
      "schedule": space.Choice(("constant", "linear"), role="scientific"),
      "hparams.learning_rate": space.Float(3e-4, 1e-3, scale="log"),
    },
    num_trials=20,
  )
