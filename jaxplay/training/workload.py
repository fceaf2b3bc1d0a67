"""A config made into things: data set, model, mesh, state and step."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import data, models
from jaxplay.data import order as order_lib
from jaxplay.training import feed, schedules, sharding, step, tasks


@dataclasses.dataclass(frozen=True)
class Workload:
  """A config made into things: the one place that takes it apart."""

  mesh: Any
  dataset: data.Dataset
  model: Any
  task: Any
  hparams: dict[str, np.generic]  # the traced numbers, with max_train_steps
  state: step.TrainState  # ShapeDtypeStructs with shardings
  init: Any  # jitted: () -> TrainState
  init_state: Any  # (seeds=, hparams=) -> TrainState, traceable
  train_step: Any


def make_workload(
  config: ml_collections.ConfigDict,
  *,
  devices: Sequence[Any] | None = None,
  trials: bool = False,
  unroll: bool = False,
  planned: bool = False,
) -> Workload:
  """Builds mesh, data set, model and step of a checked config.

  Args:
    config: A checked config.
    devices: Instead of all of this job; may be of a topology.
    trials: Whether the devices are groups that train trials of their own.
    unroll: Whether the blocks of a transformer are compiled one by one.
    planned: Whether it is not to be run, and needs no data: a data set of the
      shapes that the config names stands for that of a name.

  Raises:
    jaxplay.UserError: The data set cannot be had, or the mesh is not one of
      these devices.
  """
  devices = jax.devices() if devices is None else devices
  asked = [config.mesh[axis] for axis in config_lib.MESH_AXES]
  if -1 not in asked and not trials:  # Not of all, if whoever calls allows it.
    devices = devices[: math.prod(asked)]
  sizes = config_lib.mesh_sizes(config.mesh, len(devices), trials=trials)
  mesh = sharding.make_mesh(**sizes, devices=devices)
  dataset = _planned_dataset(config) if planned else _same_dataset(config)
  sizes = config.model.to_dict()
  model = models.build(
    sizes.pop("name"),
    dataset.num_classes,
    norm_kind=sizes.pop("norm"),
    unroll=unroll,
    attend=sharding.over_batch(mesh, models.attend),
    constrain=sharding.constrain(mesh),
    **sizes,
  )
  task = tasks.of(dataset)
  hparams = traced(config)

  init_state = functools.partial(
    step.init_state,
    model,
    inputs=task.inputs(
      {
        name: jax.numpy.zeros((1, *shape), dtype)
        for name, (shape, dtype) in dataset.example.items()
      }
    ),
    optimizer=config.optimizer,
    averages=config.averages,
  )

  def init():
    return init_state(seeds=step.stream_seeds(config.seed), hparams=hparams)

  shapes = jax.eval_shape(init)
  shardings = sharding.by_rules(mesh, shapes, config.mesh.rules)
  return Workload(
    mesh=mesh,
    dataset=dataset,
    model=model,
    task=task,
    hparams=hparams,
    state=jax.tree.map(
      lambda leaf, where: jax.ShapeDtypeStruct(
        leaf.shape, leaf.dtype, sharding=where
      ),
      shapes,
      shardings,
    ),
    init=jax.jit(init, out_shardings=shardings),
    init_state=init_state,
    train_step=make_train_step(config, model, task),
  )


def make_train_step(config: ml_collections.ConfigDict, model, task):
  """The step that a config names; see `step.make_train_step`."""
  return step.make_train_step(
    model,
    task,
    optimizer=config.optimizer,
    clipping=config.clipping,
    averages=config.averages,
    microbatches=config.microbatches,
    log_every=config.log_every,
  )


def traced(config: ml_collections.ConfigDict) -> dict[str, np.generic]:
  """The numbers that a step takes as an argument, as 32-bit scalars."""
  numbers = dict(config.hparams, max_train_steps=config.max_train_steps)
  return {
    name: np.int32(number) if type(number) is int else np.float32(number)
    for name, number in numbers.items()
  } | schedules.numbers(config.schedule, config.cooldown_shape)


def load_dataset(config: ml_collections.ConfigDict) -> data.Dataset:
  """The data set of a config; of a text without test split only if asked.

  Raises:
    jaxplay.UserError: There is none, or it lacks a split that is needed.
  """
  dataset = config.dataset
  common = dict(
    data_dir=dataset.data_dir,
    splits={
      "train": dataset.train_split,
      "valid": dataset.valid_split,
      "test": dataset.test_split,
    },
  )
  if config.model.name in config_lib.TEXT_MODELS:
    return data.load_text(
      dataset.name,
      sequence_length=dataset.sequence_length,
      tokenizer=dataset.tokenizer,
      vocab_size=dataset.vocab_size,
      valid_files=dataset.valid_files,
      test_files=dataset.test_files,
      mixtures=dataset.mixtures,
      with_test=config.report_test,
      **common,
    )
  return data.load(
    dataset.name,
    image_size=dataset.image_size,
    center_share=dataset.center_share,
    synthetic=dict(
      num_train=dataset.num_train,
      num_valid=dataset.num_valid,
      num_test=dataset.num_test,
      num_classes=dataset.num_classes,
      shape=dataset.shape,
      difficulty=dataset.difficulty,
    ),
    with_test=config.report_test,
    **common,
  )


def _same_dataset(config):
  """The data set, once all hosts have the same."""
  dataset, error = None, None
  try:
    dataset = load_dataset(config)
  except jaxplay.UserError as refused:
    error = refused  # Of all hosts, which wait for this one.
  sharding.same_on_every_host(
    {"config": _shared(config), "dataset": dataset and dataset.facts},
    error=str(error or ""),
  )
  if error:
    raise error
  return dataset


def _shared(config):
  """What all hosts must have alike of a config, nested."""
  nested = config_lib.as_json(config)
  for key in ("data_dir", "workers"):  # Each host may keep its data elsewhere.
    nested["dataset"].pop(key)
  return nested


def check_same_hosts(configs: Sequence[ml_collections.ConfigDict]) -> None:
  """Refuses to begin where the hosts were given different configs."""
  shared = [_shared(config) for config in configs]
  sharding.same_on_every_host({"config": shared if shared[1:] else shared[0]})


def _planned_dataset(config):
  dataset = config.dataset
  if config.model.name in config_lib.TEXT_MODELS:
    return data.planned_text(
      sequence_length=dataset.sequence_length,
      tokenizer=dataset.tokenizer,
      vocab_size=dataset.vocab_size,
    )
  if not dataset.name.startswith("tfds:"):
    return load_dataset(config)
  if not dataset.image_size:
    raise jaxplay.UserError(
      f"config.dataset.name is {dataset.name!r}, whose images are not looked at"
      " in planning; set config.dataset.image_size, and num_classes"
    )
  return data.planned_images(
    image_size=dataset.image_size, num_classes=dataset.num_classes
  )


def make_feed(
  workload: Workload, config: ml_collections.ConfigDict, start_step: int
) -> feed.DeviceFeed | feed.HostFeed:
  """How training examples reach the step, by the size of the split."""
  source = workload.dataset.splits["train"]
  common = order(workload, config) | {"microbatches": config.microbatches}
  shardings = jax.tree.map(lambda leaf: leaf.sharding, workload.state)
  arguments = (workload.mesh, source, workload.train_step, shardings)
  if on_device(workload, config):
    return feed.DeviceFeed(
      *arguments,
      steps_per_call=config.steps_per_call or steps_per_call(workload),
      **common,
    )
  return feed.HostFeed(
    *arguments,
    start_step=start_step,
    stop_step=config.max_train_steps,
    workers=config.dataset.workers,
    **common,
  )


def order(
  workload: Workload, config: ml_collections.ConfigDict
) -> dict[str, Any]:
  """What decides which examples a step sees: for `data.train_examples`."""
  return dict(
    seed=config.seed,
    batch_size=config.batch_size,
    augment=config.dataset.augment,
    augment_pixels=config.dataset.augment_pixels,
    phases=workload.dataset.phases,
  )


def on_device(workload: Workload, config: ml_collections.ConfigDict) -> bool:
  """Whether the training split lives on the device.

  It does if it fits, unless what is read of an example depends on the step.
  """
  source = workload.dataset.splits["train"]
  is_cropped = config.dataset.augment == "resized_crop"
  return feed.fits(source, config.dataset.device_bytes) and not is_cropped


def steps_per_call(workload: Workload) -> int:
  """The number of steps per dispatch that `config.steps_per_call=0` means.

  Enough to hide the dispatch; but one for convolutions on CPU, whose gradients
  XLA makes slow inside loops (7 times slower, a ResNet-10 step on 2 cores).
  """
  on_cpu = jax.default_backend() == "cpu"
  return 1 if on_cpu and models.convolves(workload.model) else 50


def prediction_sample(
  source: data.Source, number: int
) -> dict[str, np.ndarray] | None:
  """The fixed examples whose predictions are saved: "index", and what is asked.

  They depend on no run's seed, so that runs can be compared example by example.
  """
  number = min(number, source.num_examples)
  if not number:
    return None
  seed = order_lib.stream_seed(0, "predictions")
  index = np.sort(order_lib.batch_indices(seed, 0, number, source.num_examples))
  fetched = source.fetch(index)
  fetched.pop("image", None)
  return {"index": index, **fetched}
