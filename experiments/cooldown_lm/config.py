"""The language model of the two comparisons in this folder: 123,000 parameters.

Data    pythonlib, or what the comparison sets
Model   2 blocks of width 64, tied embedding
Length  what the comparison sets; a step has 8 rows of 128 bytes
Expect  the numbers in the headers of continued.py and mixture.py
"""

from jaxplay import config as config_lib


def get_config():
  """The config."""
  config = config_lib.base()
  config.batch_size = 8
  config.eval_batch_size = 64
  config.log_every = 50
  config.eval_every = 200
  config.checkpoint_every = 1_000
  config.num_predictions = 0
  config.export = False
  config.objective = "valid/loss"
  config.optimizer = "adamw"
  config.schedule = "constant"
  config.clipping = True
  # Close to the best for cosine, and for a cooldown, of 1,500 steps
  # (pythonlib_lm/study_schedules.py).
  config.hparams.learning_rate = 3e-3
  config.hparams.beta2 = 0.95
  config.hparams.weight_decay = 0.5
  config.hparams.warmup_steps = 50
  config.dataset.name = "pythonlib"
  config.dataset.sequence_length = 128
  config.model.name = "lm"
  config.model.depth = 2
  config.model.width = 64
  config.model.heads = 2
  config.model.norm = "rms"
  config.model.tied_embedding = True
  return config
