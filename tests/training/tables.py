"""Small data sets made by hand, and the configs of runs on them."""

import dataclasses

import numpy as np

from jaxplay import data
from jaxplay.training import parts
from jaxplay.training import workload as workload_lib
from tests.training import runs

FEATURES, TARGETS = 5, 3
SHORT = runs.overrides(
  max_train_steps=24, eval_batch_size=64, log_every=4, checkpoint_every=8
) | {"model.width": 16, "hparams.learning_rate": 0.03, "num_predictions": 6}


@dataclasses.dataclass(frozen=True)
class _Table:
  """Rows in memory, by index."""

  features: dict[str, np.ndarray]

  @property
  def num_examples(self):
    return len(next(iter(self.features.values())))

  @property
  def nbytes(self):
    return sum(array.nbytes for array in self.features.values())

  def fetch(self, indices):
    return {name: array[indices] for name, array in self.features.items()}


def made(*names, image=False):
  """A data set with these of: target, label, labels, weightless.

  The validation split has 203 rows, which no batch divides.
  """
  rng = np.random.default_rng(0)
  slopes = rng.normal(size=(FEATURES, TARGETS))
  splits = {}
  for split, number in (("train", 256), ("valid", 203), ("test", 101)):
    inputs = rng.normal(size=(number, FEATURES))
    target = inputs @ slopes + 0.1 * rng.normal(size=(number, TARGETS)) + 4
    of = {
      "inputs": np.float32(inputs),
      "target": np.float32(target),
      "scalar": np.float32(target[:, 0]),
      "label": target.argmax(1).astype(np.int32),
      "labels": (target > 4).astype(np.int32),
    }
    if image:
      scaled = (inputs.clip(-3, 3) + 3) / 6 * 255
      of["image"] = scaled.astype(np.uint8)[:, :, None, None]
    first = "image" if image else "inputs"
    stored = {"scalar": "target", "labels": "label"}
    splits[split] = _Table(
      {stored.get(name, name): of[name] for name in (first, *names)}
    )
  example = {
    name: (array.shape[1:], str(array.dtype))
    for name, array in splits["train"].features.items()
  }
  return data.Dataset(
    splits,
    TARGETS if "label" in names else 0,
    example,
    pixel_max=255 if image else 0,
  )


def use(monkeypatch, dataset, task=None):
  """Makes every run of a test read this data set, and learn this task."""
  monkeypatch.setattr(workload_lib, "load_dataset", lambda config: dataset)
  if task is not None:
    monkeypatch.setattr(parts, "task", lambda config: task)
