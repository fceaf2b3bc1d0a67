"""Learning rates of the digits MLP, with and without batch norm.

Cost    64 trials of 1,000 steps, two compilations; 80 s on 2 shared cores
Expect  best validation error 0.3% with batch norm and 1% without, at learning
        rates of 0.4 to 0.7; with 5 other seeds 0.8% (0.3% to 1.3%) and 1.1%
        (0.7% to 1.7%); without batch norm rates above 3.7 diverge
"""

from jaxplay.study import space, study


def get_study():
  """The study."""
  return study.Study(
    goal="Does batch norm help the digits MLP, each at its best learning rate?",
    config="config.py",
    overrides={
      "max_train_steps": 1_000,
      "eval_every": 25,
      "log_every": 25,
      "model.width": 128,
    },
    space={
      "model.norm": space.Choice(("none", "batch"), role="scientific"),
      "hparams.learning_rate": space.Float(1e-3, 10, scale="log"),
      "hparams.momentum": space.Float(0.5, 0.99, scale="log_one_minus"),
    },
    num_trials=64,
  )
