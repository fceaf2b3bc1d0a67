from jaxplay import config as config_lib


def get_config():
  config = config_lib.base()
  config.max_train_steps = 1000
  config.batch_size = 64
  config.eval_batch_size = 300
  config.log_every = 50
  config.eval_every = 100
  config.checkpoint_every = 500
  config.schedule = "cosine"
  config.hparams.learning_rate = 0.05
  config.hparams.weight_decay = 1e-3
  config.dataset.augment = "shift"
  config.dataset.augment_pixels = 1
  config.model.name = "resnet"
  config.model.depth = 10
  config.model.width = 16
  config.model.norm = "batch"
  config.hparams.label_smoothing = 0.1
  return config
