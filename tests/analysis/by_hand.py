"""Studies by hand: one value for each trial."""

import pathlib

import numpy as np

from jaxplay import config as config_lib
from jaxplay.analysis import results
from jaxplay.study import space as space_lib


def study(mapping, points, values, infeasible=(), num_valid=10_000, **config):
  """A study by hand: the value of each trial is all that it logged."""
  space = space_lib.Space(mapping)
  base = config_lib.base()
  base.update(config)
  return results.Results(
    path=pathlib.Path("by_hand"),
    study={
      "config": config_lib.as_json(base),
      "num_trials": len(points),
      "objective": "valid/error_rate",
    },
    space=space,
    objective="valid/error_rate",
    select="best",
    trials=[
      results.Trial(
        index=i,
        path=pathlib.Path(f"by_hand/{i}"),
        status="infeasible" if i in infeasible else "completed",
        reason="",
        point=space.labelled(point),
        seed=0,
        step=100,
        max_train_steps=100,
        curves={"valid/error_rate": (np.array([100]), np.array([value]))},
        chance=0.9,
        num_valid=num_valid,
      )
      for i, (point, value) in enumerate(zip(points, values, strict=True))
    ],
  )


def line(values, infeasible=(), low=1e-4, high=1.0, **more):
  """A study of one learning rate, trials evenly from its low to its high."""
  rates = np.geomspace(low, high, len(values)).tolist()
  points = [{"hparams.learning_rate": rate} for rate in rates]
  mapping = {"hparams.learning_rate": space_lib.Float(low, high, "log")}
  return study(mapping, points, values, infeasible, **more)
