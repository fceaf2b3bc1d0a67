"""Does a short training of a tiny language model need a decaying learning rate?

The first of three rounds of `make demo`; the report writes the next two
studies. The range of learning rates is a guess: 3e-4 and 1e-3 are common first
values for Adam.

Cost    20 trials of 1,500 steps, one compilation; the three rounds and 20
        reruns take 168 s of processor time with all compilations, about a
        minute and a half on 2 cores
Expect  round 1: a constant learning rate is better by 0.15 nats per byte (95%:
        0.11 to 0.18), all of the best trials at the upper edge; round 3, up to
        9e-3: 2.244 against 2.340 with other seeds, lower by 0.10 (0.08 to
        0.12), no significant difference between the schedules, no edge (Python
        3.11.7; other versions have other texts)
"""

from jaxplay.study import space, study


def get_study():
  """The study."""
  return study.Study(
    goal="Does a short run of a small language model need a decaying"
    " learning rate?",
    config="config.py",
    overrides={
      "max_train_steps": 1_500,
      "batch_size": 2,
      "log_every": 50,
      "eval_every": 750,
      "checkpoint_every": 1_500,
      "num_predictions": 0,
      "export": False,
      "averages": (),
      "clipping": False,
      "dataset.sequence_length": 32,
      "model.depth": 1,
      "model.width": 32,
      "model.heads": 2,
      "hparams.weight_decay": 0.0,
    },
    space={
      "schedule": space.Choice(("constant", "linear"), role="scientific"),
      "hparams.learning_rate": space.Float(3e-4, 1e-3, scale="log"),
    },
    num_trials=20,
  )
