"""Where should the loss become linear? Each value at its best learning rate.

Cost    24 trials of 1,000 steps, three compilations; 47 s on 2 busy CPU cores
Expect  best share of rows within 0.25: 0.84 with delta 0.1, 0.71 with 1, 0.33
        with 10, which is nearly a squared error; both differences from 0.1 are
        significant, and the edge of the space is a warning
"""

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
