"""Which schedule: cosine, linear, two cooldowns, schedule-free, or averages?

After Hägele et al. 2024, at a size that 2 CPU cores train in seconds. Each arm
gets the same points of learning rate and weight decay.

Cost    placeholder
Expect  placeholder
"""

from jaxplay.study import sampling, space, study

ARMS = (
  {"schedule": "cosine"},
  {"schedule": "linear"},
  {"schedule": "wsd", "cooldown_shape": "1-sqrt"},
  {"schedule": "wsd", "cooldown_shape": "linear"},
  {"schedule": "constant", "optimizer": "schedule_free_adamw"},
  {"schedule": "constant", "optimizer": "adamw", "weights": "raw"},
  {"schedule": "constant", "optimizer": "adamw", "weights": "ema"},
  {"schedule": "constant", "optimizer": "adamw", "weights": "window"},
)
NUISANCE = {
  "hparams.learning_rate": space.Float(2e-3, 5e-2, scale="log"),
  "hparams.weight_decay": space.Float(1e-2, 1.0, scale="log"),
}
CONSTANT = {"schedule": "constant"}
ADAMW = CONSTANT | {"optimizer": "adamw"}


def get_study(points_of_each=9):
  """The study."""
  nuisance = sampling.points(
    space.Space(NUISANCE), algorithm="halton", seed=0, num=points_of_each
  )
  return study.Study(
    goal="Which schedule gives the small language model the lowest validation"
    " loss in 1,500 steps?",
    config="config.py",
    overrides={
      "max_train_steps": 1_500,
      "batch_size": 8,
      "eval_every": 500,
      "checkpoint_every": 1_500,
      "num_predictions": 0,
      "export": False,
      "model.width": 64,
      "model.depth": 2,
      "model.heads": 2,
      "hparams.warmup_steps": 50,
    },
    space={
      "schedule": space.Choice(
        ("cosine", "linear", "wsd", "constant"), role="scientific"
      ),
      "cooldown_shape": space.Choice(
        ("1-sqrt", "linear"), role="scientific", when={"schedule": "wsd"}
      ),
      "optimizer": space.Choice(
        ("adamw", "schedule_free_adamw"), role="scientific", when=CONSTANT
      ),
      "weights": space.Choice(
        ("raw", "ema", "window"), role="scientific", when=ADAMW
      ),
      **NUISANCE,
    },
    algorithm="explicit",
    points=[arm | point for point in nuisance for arm in ARMS],
    objective="final:valid/loss",
  )
