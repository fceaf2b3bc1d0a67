r"""WideResNet-28-10 on CIFAR-10.

Data    tfds:cifar10, prepared once by tools/prepare_tfds.py; 45,000 images for
        training, 5,000 for validation, 10,000 as test
Model   WRN-28-10, 36.5 M parameters, batch norm, bfloat16
Length  200 epochs of batches of 128: 70,300 steps
Expect  published, not run here: 4.0% test error (Zagoruyko and Komodakis 2016,
        arXiv 1605.07146, table 5; all 50,000 images)
        jaxplay train --config=experiments/cifar10_wrn/config.py \
          --workdir=... --config.dataset.data_dir=... --config.report_test=True
"""

from jaxplay import config as config_lib


def get_config():
  """The config."""
  config = config_lib.base()
  config.max_train_steps = 70_300
  config.batch_size = 128
  config.eval_batch_size = 1_000
  config.log_every = 100
  config.eval_every = 1_000
  config.checkpoint_every = 5_000
  config.optimizer = "nesterov"
  config.schedule = "cosine"
  config.hparams.learning_rate = 0.1
  config.hparams.momentum = 0.9
  # The paper adds 5e-4 to the gradient, which momentum multiplies by ten.
  config.hparams.weight_decay = 5e-3
  dataset = config.dataset
  dataset.name = "tfds:cifar10"
  dataset.train_split = "train[:45000]"
  dataset.valid_split = "train[45000:]"
  dataset.test_split = "test"
  dataset.image_size = 32
  dataset.num_classes = 10
  dataset.augment = "crop_flip"
  dataset.augment_pixels = 4
  model = config.model
  model.name = "wide_resnet"
  model.depth = 28
  model.width = 10
  model.norm = "batch"
  model.dtype = "bfloat16"
  return config
