"""Length and shape of the cooldown.

After Hägele et al. 2024, figures 3 to 5, at a size that 2 CPU cores train in
seconds. Learning rate and weight decay are close to the best for a cooldown in
study_schedules.py.

Cost    20 trials of 1,500 steps, one compilation; 7 minutes on 2 shared CPU
        cores
Expect  best validation loss 1.41 with 40% of the steps, 1.42 with 20% and
        1-sqrt, 1.48 with 5% and square; 0.02 more on average over other seeds
"""

from jaxplay.study import space, study


def get_study():
  """The study."""
  return study.Study(
    goal="Which length and shape of the cooldown give the small language model"
    " the lowest validation loss in 1,500 steps?",
    config="config.py",
    overrides={
      "max_train_steps": 1_500,
      "batch_size": 8,
      "eval_every": 1_500,
      "checkpoint_every": 1_500,
      "num_predictions": 0,
      "export": False,
      "averages": (),
      "model.width": 64,
      "model.depth": 2,
      "model.heads": 2,
      "hparams.learning_rate": 3e-3,
      "hparams.weight_decay": 0.5,
      "hparams.warmup_steps": 50,
    },
    space={
      "cooldown_shape": space.Choice(
        ("1-sqrt", "linear", "cosine", "square", "mirror_cosine"),
        role="scientific",
      ),
      "hparams.cooldown_fraction": space.Choice(
        (0.05, 0.1, 0.2, 0.4), role="scientific"
      ),
    },
    num_trials=20,
    algorithm="grid",
    objective="final:valid/loss",
  )
