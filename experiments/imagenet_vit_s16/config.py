r"""ViT-S/16 on ImageNet.

Data    as imagenet_resnet50
Model   12 blocks of width 384 and 6 heads, SwiGLU, 22 M parameters, bfloat16
Length  90 epochs of batches of 1,024: 111,500 steps
Expect  not run here. Published: 23.5% validation error (Beyer et al. 2022,
        arXiv 2205.01580) with RandAugment and MixUp, which this config lacks,
        and a plain MLP instead of SwiGLU: expect a higher error
        jaxplay train --config=experiments/imagenet_vit_s16/config.py \
          --workdir=... --config.dataset.data_dir=... --config.report_test=True
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
  config.optimizer = "adamw"
  config.schedule = "cosine"
  config.clipping = True
  config.hparams.learning_rate = 1e-3
  config.hparams.weight_decay = 0.1
  config.hparams.clip_norm = 1.0
  config.hparams.warmup_steps = 10_000
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
  model.name = "vit"
  model.depth = 12
  model.width = 384
  model.heads = 6
  model.patch_size = 16
  model.norm = "layer"
  model.dtype = "bfloat16"
  return config
