r"""A small decoder-only language model on the standard library's source.

Data    pythonlib: the .py files of the running Python's standard library as
        bytes, 10.4 M for training, 0.1 M each for validation and test (3.11)
Model   4 blocks of width 128, 836,736 parameters, tied embedding
Length  2,000 steps of 16 rows of 128 bytes: 4.1 M bytes, 0.4 epochs; 7 minutes
        on 2 CPU cores
Expect  validation 1.053 +- 0.004 nats (1.52 bits) per byte, test 1.28 +- 0.01
        (1.85), mean and standard deviation of three seeds on Python
        3.11.7; other versions have other texts
        jaxplay train --config=experiments/pythonlib_lm/config.py \
          --workdir=... --config.report_test=True
"""

from jaxplay import config as config_lib


def get_config():
  """The config."""
  config = config_lib.base()
  config.max_train_steps = 2_000
  config.batch_size = 16
  config.eval_batch_size = 64
  config.log_every = 50
  config.eval_every = 200
  config.checkpoint_every = 500
  config.num_predictions = 8
  config.objective = "valid/loss"
  config.optimizer = "adamw"
  config.schedule = "wsd"
  config.clipping = True
  config.averages = ("ema", "window")
  config.hparams.learning_rate = 2e-3
  config.hparams.beta2 = 0.95
  config.hparams.weight_decay = 0.1
  config.hparams.warmup_steps = 100
  config.hparams.ema_decay = 0.99
  config.dataset.name = "pythonlib"
  config.dataset.sequence_length = 128
  config.model.name = "lm"
  config.model.depth = 4
  config.model.width = 128
  config.model.heads = 4
  config.model.norm = "rms"
  config.model.tied_embedding = True
  return config
