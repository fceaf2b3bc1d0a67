r"""A language model on the One Billion Word Benchmark.

Data    tfds:lm1b, prepared once by tools/prepare_tfds.py, as subwords of a
        tokenizer from tools/make_tokenizer.py
Model   12 blocks of width 768 and 12 heads, 110 M parameters, bfloat16
Length  50,000 steps of 256 rows of 256 tokens: 3.3 billion tokens
Expect  not run here; the loss per token depends on the tokenizer, so it cannot
        be compared with published ones
        python tools/make_tokenizer.py --name=tfds:lm1b --vocab_size=32768 \
          --data_dir=... --out=lm1b_tokenizer.json
        jaxplay train --config=experiments/lm1b_lm/config.py --workdir=... \
          --config.dataset.data_dir=...
"""

from jaxplay import config as config_lib


def get_config():
  """The config."""
  config = config_lib.base()
  config.max_train_steps = 50_000
  config.batch_size = 256
  config.eval_batch_size = 256
  config.log_every = 100
  config.eval_every = 2_500
  config.checkpoint_every = 2_500
  config.objective = "valid/loss"
  config.optimizer = "adamw"
  config.schedule = "wsd"
  config.clipping = True
  config.averages = ("ema",)
  config.hparams.learning_rate = 6e-4
  config.hparams.beta2 = 0.95
  config.hparams.weight_decay = 0.1
  config.hparams.warmup_steps = 1_000
  dataset = config.dataset
  dataset.name = "tfds:lm1b"
  dataset.train_split = "train"
  dataset.valid_split = "test[:50%]"
  dataset.test_split = "test[50%:]"
  dataset.sequence_length = 256
  dataset.tokenizer = "lm1b_tokenizer.json"
  dataset.vocab_size = 32_768
  model = config.model
  model.name = "lm"
  model.depth = 12
  model.width = 768
  model.heads = 12
  model.norm = "rms"
  model.tied_embedding = True
  model.dtype = "bfloat16"
  return config
