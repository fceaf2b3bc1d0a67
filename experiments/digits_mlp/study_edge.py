"""A search space that ends before the best learning rates: it has to be moved.

The Playbook's Figure 1. The report warns (search_space_boundary) and writes the
next study, `next_study.py`, with a higher end; its report may warn again.

Cost    40 trials of 400 steps, one compilation; 12 s of CPU time
Expect  best validation error 3%, at the highest learning rates; two rounds
        later 1.3%, at a learning rate of 0.3 in a space that ends at 3.6
"""

from jaxplay.study import space, study


def get_study():
  """The study."""
  return study.Study(
    goal="Which learning rate and weight decay suit the digits MLP?",
    config="config.py",
    overrides={
      "max_train_steps": 400,
      "eval_every": 20,
      "log_every": 20,
      "model.width": 128,
    },
    space={
      "hparams.learning_rate": space.Float(1e-3, 0.1, scale="log"),
      "hparams.weight_decay": space.Float(1e-6, 1e-2, scale="log"),
    },
    num_trials=40,
  )
