"""Normalization of the digits ResNet: batch, ghost of two sizes, layer.

The two sizes of ghost groups share the trials of ghost norm, 8 each.

Cost    48 trials of 480 steps, four compilations; three minutes on 2 cores
Expect  best validation loss 0.01 to 0.03, layer norm 0.05; with other
        seeds batch and ghost norm 0.03 to 0.04, layer norm 0.06
"""

from jaxplay.study import space, study


def get_study():
  """The study."""
  return study.Study(
    goal="Does ghost batch norm, with fewer examples for its statistics, give"
    " the digits ResNet a lower validation loss than batch or layer norm?",
    config="config.py",
    overrides={
      "max_train_steps": 480,
      "eval_every": 15,
      "log_every": 15,
      "model.width": 8,
      "hparams.label_smoothing": 0.0,
    },
    space={
      "model.norm": space.Choice(
        ("batch", "ghost", "layer"), role="scientific"
      ),
      "model.virtual_batch_size": space.Choice(
        (8, 32), role="scientific", when={"model.norm": "ghost"}
      ),
      "hparams.learning_rate": space.Float(1e-3, 1, scale="log"),
      "hparams.weight_decay": space.Float(1e-5, 1e-1, scale="log"),
    },
    objective="valid/loss",
    num_trials=48,
  )
