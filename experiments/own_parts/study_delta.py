"""Where should the loss become linear? Each value at its best learning rate."""

from jaxplay.study import space, study


def get_study():
  """The study."""
  return study.Study(
    goal="Does a loss that ignores outliers predict more rows well?",
    config="table.py",
    space={
      "task.delta": space.Choice((0.1, 1.0, 10.0), role="scientific"),
      "hparams.learning_rate": space.Float(3e-4, 3e-2, scale="log"),
    },
    num_trials=24,
  )
