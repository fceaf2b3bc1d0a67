r"""An MLP of two hidden layers on 8x8 digits: the smallest real run.

Data    digits: 1,197 training, 300 validation, 300 test examples, embedded
Model   two hidden layers of 256, 85,002 parameters
Length  1,500 steps of 128 examples, 160 epochs; seconds on 2 CPU cores
Expect  test error 1.6% +- 0.4, validation error 1.1% +- 0.2: mean and
        standard deviation over seeds 0 to 4, at the best checkpoint by
        validation error (one test example is 0.33%). For each seed:
        jaxplay train --config=experiments/digits_mlp/config.py \
          --workdir=... --config.report_test=True --config.seed=...
"""

from jaxplay import config as config_lib


def get_config():
  """The config."""
  config = config_lib.base()
  config.max_train_steps = 1_500
  config.batch_size = 128
  config.eval_batch_size = 300
  config.eval_every = 100
  config.checkpoint_every = 500
  config.optimizer = "nesterov"
  config.schedule = "linear"
  config.hparams.learning_rate = 0.1
  config.dataset.name = "digits"
  config.dataset.augment = "shift"
  config.dataset.augment_pixels = 1
  config.model.name = "mlp"
  config.model.depth = 2
  config.model.width = 256
  return config
