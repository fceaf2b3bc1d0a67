from jaxplay.study import space, study


def get_study():
  """The study."""
  return study.Study(
    goal="How far is the learning rate of the digits MLP from the best one?",
    config="config.py",
    overrides={"max_train_steps": 500, "model.width": 64},
    space={
      "hparams.learning_rate": space.Float(1e-3, 3, scale="log"),
      "hparams.momentum": space.Float(0.5, 0.99, scale="log_one_minus"),
    },
    num_trials=16,
  )
