"""64 trials of the digits MLP, the study of `tools/benchmark.py study`."""

from jaxplay.study import space, study


def get_study():
  """The study; it is compute-bound."""
  return study.Study(
    goal="How long do 64 trials take?",
    config="../../experiments/digits_mlp/config.py",
    space={
      "hparams.learning_rate": space.Float(1e-3, 1, scale="log"),
      "hparams.momentum": space.Float(0.5, 0.99, scale="log_one_minus"),
    },
    num_trials=64,
  )
