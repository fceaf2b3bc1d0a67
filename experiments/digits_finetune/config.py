"""Placeholder."""

from jaxplay import config as config_lib


def get_config(source="runs/digits_resnet"):
  """The config; FILE:RUN starts from another run, FILE:scratch from none."""
  config = config_lib.base()
  config.init_from = "" if source == "scratch" else source
  config.max_train_steps = 200
  config.batch_size = 32
  config.eval_batch_size = 300
  config.eval_every = 20
  config.log_every = 20
  config.checkpoint_every = 200
  config.optimizer = "nesterov"
  config.schedule = "cosine"
  config.hparams.learning_rate = 0.01
  config.hparams.weight_decay = 1e-3
  config.hparams.label_smoothing = 0.1
  config.dataset.augment = "shift"
  config.dataset.augment_pixels = 1
  config.model.name = "resnet"
  config.model.depth = 10
  config.model.width = 16
  config.model.norm = "ghost"
  config.model.virtual_batch_size = 32
  return config
