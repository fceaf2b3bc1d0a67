r"""Language models of three sizes on C4, for pods.

Data    tfds:c4/en, prepared once by tools/prepare_tfds.py, as subwords of a
        tokenizer from tools/make_tokenizer.py
Model   124m, 1b or 7b, named after a colon; bfloat16, parameters split by fsdp
Length  20 tokens per parameter (Hoffmann et al. 2022, arXiv 2203.15556),
        constant learning rate with a cooldown of 20%
Expect  not run here; see docs/pods.md and jaxplay plan topology for the cost
        python tools/make_tokenizer.py --name=tfds:c4/en --vocab_size=32768 \
          --data_dir=... --out=c4_tokenizer.json
        jaxplay train --config=experiments/c4_lm/config.py:1b --workdir=... \
          --config.dataset.data_dir=...
"""

import jaxplay
from jaxplay import config as config_lib

# Depth, width, heads, hidden features, learning rate, batch size, steps.
_SIZES = {
  "124m": (12, 768, 12, 0, 6e-4, 256, 9_500),
  "1b": (18, 2_048, 16, 5_632, 3e-4, 512, 20_000),
  "7b": (32, 4_096, 32, 11_008, 1.5e-4, 1_024, 64_000),
}


def get_config(size="124m"):
  """The config of a size."""
  if size not in _SIZES:
    raise jaxplay.UserError(
      f"there is no size {size!r}; use one of {', '.join(_SIZES)}"
    )
  depth, width, heads, mlp_width, rate, batch_size, steps = _SIZES[size]
  config = config_lib.base()
  config.max_train_steps = steps
  config.batch_size = batch_size
  config.eval_batch_size = batch_size
  config.log_every = 50
  config.eval_every = 1_000
  config.checkpoint_every = 1_000
  config.num_predictions = 0
  config.objective = "valid/loss"
  config.optimizer = "adamw"
  config.schedule = "wsd"
  config.clipping = True
  config.hparams.learning_rate = rate
  config.hparams.beta2 = 0.95
  config.hparams.weight_decay = 0.1
  config.hparams.warmup_steps = 1_000
  dataset = config.dataset
  dataset.name = "tfds:c4/en"
  dataset.valid_split = "validation[:10000]"
  dataset.test_split = "validation[10000:20000]"
  dataset.sequence_length = 1_024 if size == "124m" else 2_048
  dataset.tokenizer = "c4_tokenizer.json"
  dataset.vocab_size = 50_304 if size == "124m" else 32_768
  model = config.model
  model.name = "lm"
  model.depth = depth
  model.width = width
  model.heads = heads
  model.mlp_width = mlp_width
  model.norm = "rms"
  model.tied_embedding = size == "124m"
  model.qk_norm = size != "124m"
  model.remat = "dots" if size == "124m" else "full"
  model.dtype = "bfloat16"
  config.mesh.data = 1
  config.mesh.fsdp = -1
  return config
