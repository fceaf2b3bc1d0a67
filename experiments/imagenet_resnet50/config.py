r"""ResNet-50 on ImageNet, the Tuning Playbook's running example.

Data    tfds:imagenet2012, prepared once by tools/prepare_tfds.py; 99% of train
        for training, 1% for validation, the official validation set as test
Model   ResNet-50 v1.5, 25.6 M parameters, batch norm, bfloat16
Length  90 epochs of batches of 1,024: 111,500 steps
Expect  published, not run here: 23.6% +- 0.1 test error (Goyal et al. 2017,
        arXiv 1706.02677, table 1; all of train, same crops and flips)
        jaxplay train --config=experiments/imagenet_resnet50/config.py \
          --workdir=... --config.dataset.data_dir=... --config.report_test=True
Pod     jaxplay plan topology --topology=v5e:4x4 --config=...
"""

from jaxplay import config as config_lib


def get_config():
  """The config."""
  config = config_lib.base()
  config.max_train_steps = 111_500
  config.batch_size = 1_024
  config.eval_batch_size = 1_024
  config.log_every = 250
  config.eval_every = 2_500
  config.checkpoint_every = 2_500
  config.optimizer = "nesterov"
  config.schedule = "cosine"
  config.hparams.learning_rate = 0.4  # 0.1 per 256 examples
  config.hparams.momentum = 0.9
  # The paper adds 1e-4 to the gradient, which momentum multiplies by ten.
  config.hparams.weight_decay = 1e-3
  config.hparams.label_smoothing = 0.1
  config.hparams.warmup_steps = 6_200  # five epochs
  dataset = config.dataset
  dataset.name = "tfds:imagenet2012"
  dataset.train_split = "train[:99%]"
  dataset.valid_split = "train[99%:]"
  dataset.test_split = "validation"
  dataset.image_size = 224
  dataset.num_classes = 1_000
  dataset.augment = "resized_crop"
  dataset.center_share = 0.875
  dataset.workers = 16
  model = config.model
  model.name = "resnet"
  model.depth = 50
  model.width = 64
  model.stem = "imagenet"
  model.norm = "batch"
  model.zero_init_residual = True
  model.dtype = "bfloat16"
  return config
