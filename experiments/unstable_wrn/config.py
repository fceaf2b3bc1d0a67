r"""A WideResNet without normalization that one stride makes unstable.

The Playbook's Figure 4, small: the stride of a single residual block, the first
of the second stage, is 1 instead of 2. High learning rates no longer train
well; `jaxplay plan stability` should detect and fix that. With
`:stable` the stride is 2, as in every WideResNet.

Data    digits: 1,197 training, 300 validation examples, embedded
Model   WRN-10-1 without norm layers; strides (1, 1, 2)
Length  300 steps of 32 examples; see docs/plan.md for what to expect
"""

from jaxplay import config as config_lib


def get_config(strides="unstable"):
  """The config; `:stable` has the usual strides."""
  config = config_lib.base()
  config.max_train_steps = 300
  config.batch_size = 32
  config.eval_every = 50
  config.eval_batch_size = 300
  config.optimizer = "momentum"
  config.hparams.learning_rate = 0.05
  config.hparams.momentum = 0.9
  config.dataset.name = "digits"
  config.model.name = "wide_resnet"
  config.model.depth = 10
  config.model.width = 1
  config.model.norm = "none"
  config.model.strides = (1, 2, 2) if strides == "stable" else (1, 1, 2)
  return config
