"""A mixer on images from an npz, with Muon: is there a 7 in the image?

Data    data/images.npz, made by make_data.py: 3,000 training, 1,000 validation
        images of 16 x 16 pixels, 19% with a 7
Model   mixer.py:Mixer, 37,154 parameters
Length  600 steps of 96 images; 20 to 30 seconds on 2 busy CPU cores
Expect  best validation F1 0.953 +- 0.021 (mean and standard deviation over
        seeds 0 to 4), the mean of the F1 of both classes
"""

from jaxplay import config as config_lib


def get_config():
  """The config."""
  config = config_lib.base()
  config.dataset.name = "npz:data/images.npz"
  config.model.name = "mixer.py:Mixer"
  config.optimizer = "rules.py:muon"
  config.schedule = "linear"
  config.objective = "valid/f1"
  config.max_train_steps = 600
  config.batch_size = 96
  config.log_every = 50
  config.eval_every = 50
  config.hparams.learning_rate = 0.1
  config.hparams.warmup_steps = 30
  return config
