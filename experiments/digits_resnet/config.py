r"""A ten-layer ResNet with ghost batch norm on 8x8 digits.

Data    digits: 1,197 training, 300 validation, 300 test examples, embedded
Model   ResNet-10 of width 16, 308,538 parameters, ghost groups of 32
Length  1,000 steps of 64 examples, 53 epochs; under a minute on 2 CPU cores
Expect  test error 1.1% +- 0.4, validation error 0.2% +- 0.3: mean and
        standard deviation over seeds 0 to 4, at the best checkpoint by
        validation error (one test example is 0.33%). For each seed:
        jaxplay train --config=experiments/digits_resnet/config.py \
          --workdir=... --config.report_test=True --config.seed=...
"""

from jaxplay import config as config_lib


def get_config():
  """The config."""
  config = config_lib.base()
  config.max_train_steps = 1_000
  config.batch_size = 64
  config.eval_batch_size = 300
  config.checkpoint_every = 500
  config.optimizer = "nesterov"
  config.schedule = "cosine"
  config.hparams.learning_rate = 0.05
  config.hparams.weight_decay = 1e-3
  config.hparams.label_smoothing = 0.1
  config.dataset.name = "digits"
  config.dataset.augment = "shift"
  config.dataset.augment_pixels = 1
  config.model.name = "resnet"
  config.model.depth = 10
  config.model.width = 16
  config.model.norm = "ghost"
  config.model.virtual_batch_size = 32
  return config
