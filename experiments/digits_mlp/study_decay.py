"""Weight decay of the digits MLP with AdamW, each at its best learning rate.

The Playbook's Figure 2. 0 is the baseline without weight decay: it has as many
trials, and so an equally well tuned learning rate.

Cost    84 trials of 600 steps, one compilation; 25 s of CPU time
Expect  best validation loss 0.06 up to a weight decay of 0.3, 0.12 with 1 and
        1 with 10; with 5 other seeds 0.05 to 0.06 from 0.01 to 0.3, and 0.10
        without weight decay
"""

from jaxplay.study import space, study


def get_study():
  """The study."""
  return study.Study(
    goal="Which weight decay gives the digits MLP the lowest validation loss?",
    config="config.py",
    overrides={
      "max_train_steps": 600,
      "eval_every": 20,
      "log_every": 20,
      "model.width": 128,
      "optimizer": "adamw",
    },
    space={
      "hparams.weight_decay": space.Choice(
        (0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 10.0), role="scientific"
      ),
      "hparams.learning_rate": space.Float(1e-4, 1e-1, scale="log"),
    },
    objective="valid/loss",
    num_trials=84,
  )
