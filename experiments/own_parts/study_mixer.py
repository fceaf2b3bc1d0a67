"""Muon or AdamW for the mixer? Each at its best learning rate.

Cost    16 trials of 300 steps, two compilations; 92 s of CPU time
Expect  best validation F1 0.954 with Muon, 0.956 with AdamW, no significant
        difference
"""

from jaxplay.study import space, study


def get_study():
  """The study."""
  muon, adamw = "rules.py:muon", "adamw"
  return study.Study(
    goal="Does Muon find more of the sevens than AdamW in as many steps?",
    config="images.py",
    overrides={"max_train_steps": 300},
    space={
      "optimizer": space.Choice((muon, adamw), role="scientific"),
      "hparams.learning_rate": [
        space.Float(3e-3, 0.3, "log", when={"optimizer": muon}),
        space.Float(3e-4, 3e-2, "log", when={"optimizer": adamw}),
      ],
    },
    num_trials=16,
  )
