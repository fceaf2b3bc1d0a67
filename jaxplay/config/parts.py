"""The parts that a config names, each with the keys that it alone reads.

A part is an optimizer, a schedule, a model family and so on. Its row stands in
the table of its switch, the key that selects it: name -> {dotted key: `Key`}.
Keys shared by several parts are written once and named in each row. Nothing
else has to be declared: a key has an effect if a part that lists it is selected
(`Key.used_by`), and reaches the part under its last name.
"""

from collections.abc import Mapping
from typing import Any

from jaxplay.config.key import (
  BELOW_1,
  INT_FROM_0,
  NOT_NEGATIVE,
  POSITIVE,
  POSITIVE_INT,
  SHARE,
  Key,
  data,
  number,
  size,
)

Part = Mapping[str, Key]

_MOMENTUM = {
  "hparams.momentum": number(
    0.9, "momentum coefficient (gamma)", BELOW_1, retune="optimizer"
  )
}
_MOMENTS = {
  "hparams.beta1": number(
    0.9, "decay of the first moment", BELOW_1, retune="optimizer"
  ),
  "hparams.beta2": number(
    0.999, "decay of the second moment", BELOW_1, retune="optimizer"
  ),
}
_RHO = {
  "hparams.rho": number(
    0.9, "rmsprop: decay of the second moment", BELOW_1, retune="optimizer"
  )
}
_EPSILON = {
  "hparams.epsilon": number(
    1e-8,
    "added to the root of the second moment",
    POSITIVE,
    retune="optimizer",
  )
}
_OPTIMIZERS: dict[str, Part] = {
  "sgd": {},
  "momentum": _MOMENTUM,
  "nesterov": _MOMENTUM,
  "rmsprop": _MOMENTUM | _RHO | _EPSILON,
  "adam": _MOMENTS | _EPSILON,
  "nadam": _MOMENTS | _EPSILON,
  "adamw": _MOMENTS | _EPSILON,
  "lion": _MOMENTS,
  "schedule_free_adamw": _MOMENTS | _EPSILON,
  "muon": _MOMENTUM | _MOMENTS | _EPSILON,
  "adafactor": {
    "hparams.decay_rate": number(
      0.8,
      "adafactor: exponent of the decay of the second moment",
      "(0, 1]",
      retune="optimizer",
    )
  },
  "sophia": _MOMENTS
  | _EPSILON
  | {
    "hparams.gamma": number(
      0.01,
      "sophia: factor of the Hessian's diagonal; more clips more updates",
      POSITIVE,
      retune="optimizer",
    )
  },
  "ademamix": _MOMENTS
  | _EPSILON
  | {
    "hparams.beta3": number(
      0.9999,
      "ademamix: decay of the slow momentum",
      BELOW_1,
      retune="optimizer",
    ),
    "hparams.mixing": number(
      5.0,
      "ademamix: weight of the slow momentum (alpha)",
      NOT_NEGATIVE,
      retune="optimizer",
    ),
  },
}

COOLDOWN_SHAPES = ("1-sqrt", "linear", "cosine", "square", "mirror_cosine")
# Their learning rate does not depend on the length of the run.
CONTINUED = ("constant", "rsqrt")
_FINAL = {
  "hparams.final_factor": number(
    0.0,
    "learning rate after the decay, relative to the base learning rate",
    SHARE,
    transfers="unlikely",
  )
}
_SCHEDULES: dict[str, Part] = {
  "constant": {},
  "linear": _FINAL,
  "cosine": _FINAL,
  "rsqrt": {
    "hparams.decay_timescale": number(
      1000,
      "rsqrt: steps before the learning rate starts to decay",
      POSITIVE_INT,
      transfers="unlikely",
    )
  },
  "wsd": _FINAL
  | {
    "hparams.cooldown_fraction": number(
      0.2,
      "wsd: length of the cooldown as a fraction of all steps",
      SHARE,
      transfers="unlikely",
    ),
    "cooldown_shape": Key(
      "1-sqrt",
      "wsd: shape of the cooldown",
      choices=COOLDOWN_SHAPES,
      traced=True,
      branch=True,
      transfers="unlikely",
    ),
  },
}

_AVERAGES: dict[str, Part] = {
  "ema": {
    "hparams.ema_decay": number(
      0.999, "averages 'ema': decay per step", BELOW_1
    )
  },
  "window": {
    "hparams.window_steps": number(
      100, "averages 'window': length of a window, in steps", POSITIVE_INT
    ),
    "hparams.window_stride": number(
      1, "averages 'window': steps between averaged weights", POSITIVE_INT
    ),
  },
}

_NORM_MOMENTUM = {
  "hparams.norm_momentum": number(
    0.9, "decay of the running statistics of batch norm", BELOW_1
  )
}
_NORMS: dict[str, Part] = {
  "batch": _NORM_MOMENTUM,
  "ghost": _NORM_MOMENTUM
  | {
    "model.virtual_batch_size": size(
      64, "norm 'ghost': examples per group", POSITIVE_INT
    )
  },
  "layer": {},
  "rms": {},
  "group": {
    "model.num_groups": size(
      8, "norm 'group': number of feature groups", POSITIVE_INT
    )
  },
  "none": {},
}

ACTIVATIONS = (
  *("relu", "leaky_relu", "elu", "gelu", "silu", "mish", "softplus"),
  *("tanh", "sigmoid"),
)
_ACTIVATION = {
  "model.activation": size(
    "",
    "activation function; empty: relu of mlp and resnets, silu of the gated MLP"
    " of vit and lm",
    choices=("", *ACTIVATIONS),
  )
}
REMAT = ("none", "dots", "full")
_ZERO_INIT = {
  "model.zero_init_residual": size(
    False, "initialize residual branches to zero", transfers="very likely"
  )
}
_NORM_POSITION = {
  "model.norm_position": size(
    "pre",
    "vit, lm, wide_resnet: 'pre': a norm begins each residual branch,"
    " x + f(norm(x)); 'post_branch': it ends it, x + norm(f(x)), as it always"
    " does in a resnet",
    choices=("pre", "post_branch"),
  )
}
_BLOCKS = (
  {
    "model.heads": size(
      4, "vit, lm: attention heads; must divide the width", POSITIVE_INT
    ),
    "model.mlp_width": size(
      0, "vit, lm: hidden features of the MLP; 0: 8/3 of the width", INT_FROM_0
    ),
    "model.qk_norm": size(False, "vit, lm: RMS-normalize queries and keys"),
    "model.remat": size(
      "none",
      "vit, lm: what the backward pass recomputes: 'none', 'dots' (all but"
      " matrix products) or 'full'",
      choices=REMAT,
    ),
  }
  | _NORM_POSITION
  | _ZERO_INIT
  | _ACTIVATION
)
_TEXT = {
  "dataset.sequence_length": Key(256, "text: tokens per example", POSITIVE_INT),
  "dataset.tokenizer": data(
    "bytes", "text: 'bytes', or the path of a tokenizers JSON file"
  ),
  "dataset.vocab_size": Key(
    0,
    "text: vocabulary size of the model, at least that of the tokenizer; a"
    " multiple of 128 is fast; 0: that of the tokenizer",
    INT_FROM_0,
  ),
  "dataset.valid_files": data(
    "", "text: path or glob of the validation set; empty: 2% of the text"
  ),
  "dataset.test_files": data(
    "", "text: path or glob of the test set; empty: as valid_files"
  ),
  "dataset.mixtures": Key(
    (),
    "text: ((step, ((name, weight), ...)), ...), the mixture from each step on;"
    " empty: only dataset.name",
    branch=True,
  ),
}
_MODELS: dict[str, Part] = {
  "mlp": _ACTIVATION,
  "resnet": {
    "model.stem": size(
      "small",
      "resnet: 'small' (3x3) or 'imagenet' (7x7 and max pooling)",
      choices=("small", "imagenet"),
    )
  }
  | _ZERO_INIT
  | _ACTIVATION,
  "wide_resnet": {
    "model.strides": size(
      (1, 2, 2), "wide_resnet: stride of the first block of each stage"
    )
  }
  | _NORM_POSITION
  | _ZERO_INIT
  | _ACTIVATION,
  "vit": _BLOCKS
  | {
    "model.patch_size": size(
      4, "vit: height and width of a patch, in pixels", POSITIVE_INT
    )
  },
  "lm": _BLOCKS
  | {
    "model.tied_embedding": size(
      False, "lm: the output layer shares the weights of the embedding"
    ),
    "model.rotary_base": size(
      10_000.0, "lm: base of the rotary position embedding", "(1, inf)"
    ),
    "hparams.z_loss": number(
      0.0,
      "lm: weight of the squared log-normalizer in the loss",
      NOT_NEGATIVE,
      off=("z_loss", 0.0),
      regularization=True,
    ),
  }
  | _TEXT,
}

_PIXELS = {
  "dataset.augment_pixels": Key(
    4, "largest shift of an image, in pixels", "[0, 65535]"
  )
}
_AUGMENTATIONS: dict[str, Part] = {
  "none": {},
  "shift": _PIXELS,
  "crop_flip": _PIXELS,
  "resized_crop": {},
}

# Switch -> its parts. A switch may also be a feature that is on or off.
PARTS: dict[str, Mapping[Any, Part]] = {
  "optimizer": _OPTIMIZERS,
  "schedule": _SCHEDULES,
  "averages": _AVERAGES,
  "model.norm": _NORMS,
  "model.name": _MODELS,
  "dataset.augment": _AUGMENTATIONS,
  "clipping": {
    True: {
      "hparams.clip_norm": number(
        1.0, "largest L2 norm of the gradient", POSITIVE
      )
    }
  },
  "model.dropout": {
    True: {
      "hparams.dropout_rate": number(
        0.0,
        "probability of zeroing an activation",
        BELOW_1,
        retune="regularization",
      )
    }
  },
}
OPTIMIZERS = tuple(_OPTIMIZERS)
SCHEDULES = tuple(_SCHEDULES)
AVERAGES = tuple(_AVERAGES)
NORMS = tuple(_NORMS)
MODELS = tuple(_MODELS)
AUGMENTATIONS = tuple(_AUGMENTATIONS)
TRANSFORMERS = ("vit", "lm")
TEXT_MODELS = ("lm",)
OWN_FILES = ("npz", "folder", "csv", "parquet", "hf")
TABLES = ("csv", "parquet")
MOVES = ("shift", "crop_flip")
RESNET_DEPTHS = (10, 18, 34, 50, 101)
DIAGNOSTICS = ("update_ratio", "gradient_norm", "weight_norm")
WRITERS = ("tensorboard", "wandb", "trackio", "mlflow")
MESH_AXES = ("replica", "data", "fsdp", "tensor")
MESH_PRESETS = ("data", "fsdp", "fsdp+tensor")
