"""The loss at weights between checkpoints: on a line, and at their averages.

Batch norm needs care. The averages of batch statistics that belong to a mean of
weights are not the mean of the averages, so they are computed again, from
training examples (Izmailov et al. 2018, arXiv 1803.05407; Jordan et al. 2022,
arXiv 2211.08403, on what happens otherwise).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections
import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import data, models, usercode
from jaxplay.training import evaluate, feed, metrics, scores, sharding, weights
from jaxplay.training import workload as workload_lib

# Of which batch statistics are computed again; and of the training split, where
# there is no validation split.
EXAMPLES = 2_048


@dataclasses.dataclass(frozen=True, eq=False)
class Measured:
  """A model evaluated on a split.

  Attributes:
    loss: Mean over the split, nats or squared error.
    value: The metric of the config's objective.
    costs: Loss of each example, [examples]; None: the task has none.
    counts: How often each counts in the mean, [examples]; None: all the same.
  """

  loss: float
  value: float
  costs: np.ndarray | None = None
  counts: np.ndarray | None = None


class Landscape:
  """Evaluates weights of one model.

  Attributes:
    num_examples: In the split.
    has_statistics: Whether the model has averages of batch statistics.
    metric: Of the config's objective.
    dataset: Of the config.
  """

  def __init__(self, config: ml_collections.ConfigDict, split: str):
    """Loads the data set.

    Args:
      config: A checked config.
      split: "valid", as the run evaluates it, or "train": as many fixed random
        examples of the training split; 2,048 if the run was trained on the
        validation examples.

    Raises:
      jaxplay.UserError: As `workload.make_workload`; or there is no such split.
    """
    self._config = config
    self.metric = config_lib.metric.of_config(config_lib.flatten(config))
    with usercode.running(config.code):
      self._workload = workload = workload_lib.make_workload(config)
      splits = workload.dataset.splits
      source = splits.get("valid")
      if source is None and split == "valid":
        raise jaxplay.UserError(
          "the run was trained on its validation examples"
          " (config.dataset.fold_validation), so nothing can be evaluated on"
          " them; use split 'train'"
        )
      if source is None or split == "train":
        number = source.num_examples if source else EXAMPLES
        source = data.sample(splits["train"], number)
      self.dataset = workload.dataset
      self.num_examples = source.num_examples
      self.has_statistics = bool(jax.tree.leaves(workload.state.batch_stats))
      self._evaluate = feed.make_evaluator(
        workload.mesh,
        source,
        evaluate.make_eval_batch(
          workload.model, workload.task, config_lib.metric.of("loss")
        ),
        hparams={
          name: sharding.place_everywhere(workload.mesh, np.asarray(number))
          for name, number in workload.hparams.items()
        },
        batch_size=config.eval_batch_size,
        device_bytes=config.dataset.device_bytes,
        workers=config.dataset.workers,
      )
      self._of_batch = jax.jit(self._statistics)

  def measure(
    self, arrays: Mapping[str, np.ndarray], *, recompute: bool = False
  ) -> Measured:
    """Evaluates weights.

    Args:
      arrays: Name -> array, as from `weights.read`.
      recompute: Whether to compute batch statistics again.

    Raises:
      jaxplay.UserError: They are not those of the model.
    """
    with usercode.running(self._config.code):
      variables = self._placed(arrays)
      if recompute:
        variables = (variables[0], self._recomputed(*variables))
      sums = self._evaluate(variables)
      line = metrics.eval_line("valid", sums, task=self._workload.task)
    costs = sums.get(scores.COSTS, {})
    return Measured(
      loss=line["valid/loss"],
      value=line.get(f"valid/{self.metric.name}", np.nan),
      costs=costs.get("cost"),
      counts=costs.get("counts"),
    )

  def recomputed(
    self, arrays: Mapping[str, np.ndarray]
  ) -> dict[str, np.ndarray]:
    """The weights with batch statistics of `EXAMPLES` training examples."""
    with usercode.running(self._config.code):
      params, batch_stats = self._placed(arrays)
      batch_stats = self._recomputed(params, batch_stats)
      return weights.named(*sharding.to_host((params, batch_stats)))

  def _placed(self, arrays):
    state = self._workload.state
    model = weights.named(state.params, state.batch_stats)
    found = weights.match(arrays, model)
    if found.left or found.skipped:
      names = [*found.left, *found.skipped]
      raise jaxplay.UserError(
        f"the weights are not those of one model: {names[0]!r}"
        f" ({found.skipped.get(names[0], 'missing')}); use checkpoints of the"
        " same model"
      )
    placed = {
      name: sharding.place_like(
        like, np.asarray(arrays[name]).astype(like.dtype)
      )
      for name, like in model.items()
    }
    return weights.nested(placed, (state.params, state.batch_stats))

  def _statistics(self, params, batch_stats, batch):
    """What the model makes of a batch in training, without dropout."""
    workload = self._workload
    inputs = workload.task.inputs(batch)
    _, found = models.apply(
      workload.model,
      params,
      batch_stats,
      inputs,
      train=True,
      rows=jnp.arange(jax.tree.leaves(batch)[0].shape[0]),
      dropout_key=jax.random.key(0),
    )
    return found

  def _recomputed(self, params, batch_stats):
    """The mean of the statistics of fixed batches, in training mode."""
    workload = self._workload
    like = workload.state.batch_stats
    averages = models.averages_statistics(workload.model)
    parts = []
    for batch in workload_lib.fixed_batches(workload, self._config, EXAMPLES):
      batch = {
        name: sharding.place_everywhere(workload.mesh, array)
        for name, array in batch.items()
      }
      # On the host: emulated devices can lock where programs queue up.
      found = self._of_batch(params, batch_stats, batch)
      parts.append(sharding.to_host(found))
      if averages:  # The model itself averages, over batches.
        batch_stats = jax.tree.map(sharding.place_like, like, parts[-1])
    if averages:
      return batch_stats
    return jax.tree.map(
      lambda leaf, *leaves: sharding.place_like(
        leaf, np.mean(leaves, axis=0, dtype=np.float64).astype(leaf.dtype)
      ),
      like,
      *parts,
    )


def between(
  first: Mapping[str, np.ndarray],
  last: Mapping[str, np.ndarray],
  position: float,
) -> dict[str, np.ndarray]:
  """Weights on the line through two, in float64.

  Args:
    first: Name -> array, at position 0.
    last: Likewise, at position 1; the same names and shapes.
    position: Any number; outside of [0, 1] it extrapolates.

  Returns:
    (1 - position) * first + position * last. What is no float, such as a
    counter, is that of the nearer end.

  Raises:
    jaxplay.UserError: Names or shapes differ.
  """
  _check_alike(first, last)
  return {
    name: _combined(
      [array, last[name]],
      [1 - position, position],
      nearest=int(position >= 0.5),
    )
    for name, array in first.items()
  }


def mean(models: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
  """The uniform mean of weights, in float64.

  What is no float, such as a counter, is that of the last.

  Args:
    models: Name -> array of each; the same names and shapes.

  Raises:
    jaxplay.UserError: Names or shapes differ.
  """
  for other in models[1:]:
    _check_alike(models[0], other)
  share = 1 / len(models)
  return {
    name: _combined(
      [arrays[name] for arrays in models],
      [share] * len(models),
      nearest=len(models) - 1,
    )
    for name in models[0]
  }


def _combined(arrays: list[np.ndarray], factors: list[float], nearest: int):
  if not jnp.issubdtype(arrays[0].dtype, jnp.floating):
    return arrays[nearest]
  total: Any = 0.0
  for factor, array in zip(factors, arrays, strict=True):
    if factor:  # Also so that the ends are exact, whatever the others are.
      total = total + factor * np.asarray(array, np.float64)
  return total


def _check_alike(first, other):
  shapes = [
    {n: a.shape for n, a in arrays.items()} for arrays in (first, other)
  ]
  if shapes[0] == shapes[1]:
    return
  names = sorted(shapes[0].keys() | shapes[1].keys())
  name = next(n for n in names if shapes[0].get(n) != shapes[1].get(n))
  raise jaxplay.UserError(
    "the weights are not those of one model:"
    f" {name!r} is {shapes[0].get(name, 'missing')} in one and"
    f" {shapes[1].get(name, 'missing')} in the other; use checkpoints of the"
    " same model"
  )
