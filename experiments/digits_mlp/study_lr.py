"""The learning rate of the digits MLP: what `make demo` runs."""

from jaxplay.study import space, study


def get_study():
  """The study."""
  return study.Study(
    goal="Which learning rates train the digits MLP well, at their best"
    " momentum and weight decay?",
    config="config.py",
    overrides={
      "max_train_steps": 1_000,
      "eval_every": 25,
      "log_every": 25,
      "model.width": 128,
    },
    space={
      "hparams.learning_rate": space.Float(
        1e-3, 10, scale="log", role="scientific"
      ),
      "hparams.momentum": space.Float(0.5, 0.99, scale="log_one_minus"),
      "hparams.weight_decay": space.Float(1e-6, 1e-2, scale="log"),
    },
    num_trials=64,
  )
