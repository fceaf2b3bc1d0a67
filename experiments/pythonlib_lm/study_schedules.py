"""Which schedule: cosine, linear, two cooldowns, schedule-free, or averages?

After Hägele et al. 2024, at a size that 2 CPU cores train in seconds. Each arm
has the same points of learning rate (schedule-free: with its own range) and
weight decay.

Cost    64 trials of 1,500 steps, four compilations; 42 minutes on 2 shared
        CPU cores
Expect  best validation loss 1.43 with a cooldown, 1.44 with an average, 1.45
        with cosine, 1.51 with the raw weights of a constant learning rate; 0.01
        to 0.02 more with other seeds (experiments/LOG.md)
"""

from jaxplay.study import sampling, space, study

ADAMW = {"optimizer": "adamw"}
SCHEDULE_FREE = {"optimizer": "schedule_free_adamw"}
CONSTANT = {"schedule": "constant"}
ARMS = (
  ADAMW | {"schedule": "cosine"},
  ADAMW | {"schedule": "linear"},
  ADAMW | {"schedule": "wsd", "cooldown_shape": "1-sqrt"},
  ADAMW | {"schedule": "wsd", "cooldown_shape": "linear"},
  ADAMW | CONSTANT | {"weights": "raw"},
  ADAMW | CONSTANT | {"weights": "ema"},
  ADAMW | CONSTANT | {"weights": "window"},
  SCHEDULE_FREE | CONSTANT,
)
NUISANCE = {
  "hparams.learning_rate": (
    space.Float(1e-3, 1e-2, scale="log", when=ADAMW),
    space.Float(2e-3, 3e-2, scale="log", when=SCHEDULE_FREE),
  ),
  "hparams.weight_decay": space.Float(1e-2, 1.0, scale="log"),
}


def get_study(points_of_each=8):
  """The study."""
  points = []
  for arm in ARMS:
    optimizer = space.Choice((arm["optimizer"],))
    own = space.Space({"optimizer": optimizer, **NUISANCE})
    found = sampling.points(own, algorithm="halton", seed=0, num=points_of_each)
    points += [point | arm for point in found]
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
      "optimizer": space.Choice(
        ("adamw", "schedule_free_adamw"), role="scientific"
      ),
      "cooldown_shape": space.Choice(
        ("1-sqrt", "linear"), role="scientific", when={"schedule": "wsd"}
      ),
      "weights": space.Choice(
        ("raw", "ema", "window"), role="scientific", when=ADAMW | CONSTANT
      ),
      **NUISANCE,
    },
    algorithm="explicit",
    points=points,
    objective="final:valid/loss",
  )
