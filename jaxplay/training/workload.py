"""Builds data set, model, mesh, state and step from a config."""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import data, models, usercode, writers
from jaxplay.data import order as order_lib
from jaxplay.training import (
  diagnostics,
  evaluate,
  feed,
  own_task,
  parts,
  schedules,
  sharding,
  step,
  tasks,
)


@dataclasses.dataclass(frozen=True)
class Workload:
  """Everything built from a config; functions below take no config."""

  mesh: Any
  dataset: data.Dataset
  model: Any
  task: Any
  hparams: dict[str, np.generic]  # the traced numbers, with max_train_steps
  state: step.TrainState  # ShapeDtypeStructs with shardings
  init: Any  # jitted: (loaded={}) -> TrainState; see `weights.Loaded`
  init_state: Any  # (seeds=, hparams=, loaded={}) -> TrainState, traceable
  train_step: Any
  layers: Sequence[str] = ()  # of the diagnostics


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
    devices: Instead of all devices of this job; may be of a topology.
    trials: Whether groups of the devices train different trials.
    unroll: Whether to compile the blocks of a transformer one by one.
    planned: Whether the workload is only compiled: then it uses a placeholder
      for the data set, with the shapes in the config.

  Raises:
    jaxplay.UserError: The data set is missing, or the mesh does not fit the
      devices.
  """
  flat = config_lib.flatten(config)
  with usercode.running(config.code), config_lib.wraps_errors(flat):
    return _make_workload(config, devices, trials, unroll, planned)


def _make_workload(config, devices, trials, unroll, planned):
  devices = jax.devices() if devices is None else devices
  requested = [config.mesh[axis] for axis in config_lib.MESH_AXES]
  if -1 not in requested and not trials:  # It may need fewer devices.
    devices = devices[: math.prod(requested)]
  sizes = config_lib.mesh_sizes(config.mesh, len(devices), trials=trials)
  mesh = sharding.make_mesh(**sizes, devices=devices)
  dataset = _planned_dataset(config) if planned else _same_dataset(config)
  task = make_task(config, dataset)
  model = parts.model(config, task.num_outputs, mesh, unroll)
  hparams = traced(config)

  inputs = task.inputs(
    {
      name: jax.numpy.zeros((1, *shape), dtype)
      for name, (shape, dtype) in dataset.example.items()
    }
  )
  init_state = functools.partial(
    step.init_state,
    model,
    inputs=inputs,
    optimizer=parts.optimizer(config),
    averages=config.averages,
    frozen=config.frozen,
    has_errors=task.errors is not None,
    diagnostics=diagnostics.of(config),
  )

  def init(loaded: Mapping[str, Any] = {}):
    seeds = step.stream_seeds(config.seed)
    return init_state(seeds=seeds, hparams=hparams, loaded=loaded)

  if isinstance(task, own_task.OwnTask):
    shapes = task.read(lambda: jax.eval_shape(init), inputs)
  else:
    shapes = jax.eval_shape(init)
  step.check_frozen(shapes.params, config.frozen)
  if isinstance(task, own_task.OwnTask):
    task.check(
      lambda variables, inputs: models.apply(
        model, variables[0], variables[1], inputs
      )[0],
      (shapes.params, shapes.batch_stats),
      hparams,
      config.objective,
    )
  shardings = sharding.by_rules(mesh, shapes, config.mesh.rules)
  train_step = make_train_step(config, model, task)
  if config_lib.named(config_lib.flatten(config)):
    _check_parts(config, model, task, dataset, hparams, shapes, train_step)
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
    train_step=train_step,
    layers=diagnostics.of(config).layers(
      step.split_params(shapes.params, config.frozen)[0]
    ),
  )


def _check_parts(config, model, task, dataset, hparams, state, train_step):
  """Traces a step and an evaluation, so that what fails does so before data."""
  size = config.batch_size // config.microbatches

  def batch(*leading):
    arrays = {
      name: jax.ShapeDtypeStruct((*leading, *shape), dtype)
      for name, (shape, dtype) in dataset.example.items()
    }
    weight = jax.ShapeDtypeStruct(leading, np.float32)
    return arrays, {"weight": weight}

  variables = (state.params, state.batch_stats)
  arrays, weight = batch(size)
  outputs = jax.eval_shape(
    lambda variables, batch: models.apply(
      model, *variables, task.inputs(batch)
    )[0],
    variables,
    arrays,
  )
  task.check_outputs(outputs, size, f"config.model.name={config.model.name!r}")
  jax.eval_shape(
    evaluate.make_eval_batch(model, task), variables, arrays | weight, hparams
  )
  arrays, _ = batch(config.microbatches, size)
  jax.eval_shape(train_step, hparams, state, arrays)


def make_eval_batch(
  workload: Workload, config: ml_collections.ConfigDict
) -> Callable:
  """`evaluate.make_eval_batch` of a config, with the costs that it keeps."""
  metric = None
  if kept_examples(workload, config):
    metric = config_lib.metric.of_config(config)
  return evaluate.make_eval_batch(workload.model, workload.task, metric)


def kept_examples(workload: Workload, config: ml_collections.ConfigDict) -> str:
  """Identity of the validation split if its costs are saved, else ""."""
  valid = workload.dataset.splits.get("valid")  # None: of a plan.
  if valid is None or valid.num_examples > config.keep_examples:
    return ""
  return data.identity(workload.dataset, "valid")


def make_task(config: ml_collections.ConfigDict, dataset: data.Dataset):
  """The task of a config on a data set; see `tasks.of`.

  Raises:
    jaxplay.UserError: The data do not fit the task, or a feature has the name
      of something that is added to batches.
  """
  name = config_lib.task_name(config)
  for reserved in ("weight", "index", "moves", "crops"):
    if reserved in dataset.example:
      raise jaxplay.UserError(
        f"the data set has a feature {reserved!r}, a name that batches need for"
        " themselves; rename it"
      )
  if not config_lib.is_own("task.name", name):
    return tasks.of(dataset, name, config_lib.metrics(config))
  return own_task.OwnTask(
    parts.task(config),
    name,
    dataset.example,
    num_classes=dataset.num_classes,
    pixel_max=dataset.pixel_max,
  )


def make_train_step(config: ml_collections.ConfigDict, model, task):
  """The train step of a config; see `step.make_train_step`."""
  return step.make_train_step(
    model,
    task,
    optimizer=parts.optimizer(config),
    schedule_curves=tuple(parts.schedules(config).values()),
    clipping=config.clipping,
    averages=config.averages,
    microbatches=config.microbatches,
    log_every=config.log_every,
    frozen=config.frozen,
    diagnostics=diagnostics.of(config),
  )


def traced(config: ml_collections.ConfigDict) -> dict[str, np.generic]:
  """The numbers that a step takes as arguments, as 32-bit scalars."""
  keys = config_lib.keys_of(config_lib.flatten(config))
  numbers = {
    name: value
    for name, value in config.hparams.items()
    if keys[f"hparams.{name}"].traced
  } | {"max_train_steps": config.max_train_steps}
  scalars: dict[str, np.generic] = {
    name: np.int32(number) if type(number) is int else np.float32(number)
    for name, number in numbers.items()
  }
  more = [
    name
    for switch, name in config_lib.declared_parts(config.declared)
    if switch == "schedule"
  ]
  return scalars | schedules.numbers(
    config.schedule, config.cooldown_shape, more
  )


def load_dataset(config: ml_collections.ConfigDict) -> data.Dataset:
  """Loads the data set of a config.

  Raises:
    jaxplay.UserError: It is missing, or lacks a required split.
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
  if dataset.fold_validation and dataset.name.startswith("tfds:"):
    held = dict(common["splits"])
    if not config.report_test:
      held.pop("test")
    data.check_apart(dataset.name, dataset.data_dir, held)
  is_text = config_lib.is_text(config)
  if is_text and not config_lib.is_own_data(dataset.name):
    return data.load_text(
      dataset.name,
      sequence_length=dataset.sequence_length,
      tokenizer=dataset.tokenizer,
      vocab_size=dataset.vocab_size,
      valid_files=dataset.valid_files,
      test_files=dataset.test_files,
      mixtures=dataset.mixtures,
      with_test=config.report_test,
      fold_validation=dataset.fold_validation,
      **common,
    )
  of_set = dict(
    task=config.task.name or ("next_token" if is_text else "classification"),
    with_test=config.report_test,
    augment=dataset.augment,
  )
  if config_lib.is_own("dataset.name", dataset.name):
    loaded = parts.dataset(config, **of_set)
  else:
    loaded = data.load(
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
      inputs=dataset.inputs,
      targets=dataset.targets,
      standardize=dataset.standardize,
      **of_set,
      **common,
    )
  if is_text and "tokens" in loaded.example:
    loaded = _text(loaded, dataset)
  return data.folded(loaded) if dataset.fold_validation else loaded


def _text(loaded, dataset):
  """Rows of tokens of the user, for a language model of the config's sizes."""
  length = loaded.example["tokens"][0][0] - 1
  if dataset.sequence_length != length:
    raise jaxplay.UserError(
      f"config.dataset.sequence_length is {dataset.sequence_length}, and"
      f" {dataset.name!r} has rows of {length + 1} tokens, each to predict the"
      f" next; set it to {length}"
    )
  vocab_size = dataset.vocab_size or loaded.num_classes
  if vocab_size < loaded.num_classes:
    raise jaxplay.UserError(
      f"config.dataset.vocab_size is {vocab_size}, and {dataset.name!r} has"
      f" {loaded.num_classes} different tokens; use at least that number"
    )
  return dataclasses.replace(loaded, num_classes=vocab_size)


def _same_dataset(config):
  """Loads the data set, and checks that all hosts have the same."""
  dataset, error = None, None
  try:
    dataset = data.sampled(load_dataset(config), config.eval_examples)
  except jaxplay.UserError as refused:
    error = refused  # Raised below: other hosts wait for this one.
  sharding.same_on_every_host(
    {"config": _shared(config), "dataset": dataset and dataset.facts},
    error=str(error or ""),
  )
  if error:
    raise error
  return dataset


def _shared(config):
  """The part of a config that must be equal on all hosts, nested."""
  nested = config_lib.as_json(config)
  for key in ("data_dir", "workers"):  # May differ between hosts.
    nested["dataset"].pop(key)
  return nested


def check_same_hosts(configs: Sequence[ml_collections.ConfigDict]) -> None:
  """Refuses different configs on different hosts, and missing writers."""
  for config in configs:
    writers.refuse_missing(config.writers)
  shared = [_shared(config) for config in configs]
  sharding.same_on_every_host({"config": shared if shared[1:] else shared[0]})


def _planned_dataset(config):
  dataset = config.dataset
  is_text = config_lib.is_text(config)
  if is_text and not config_lib.is_own_data(dataset.name):
    return data.planned_text(
      sequence_length=dataset.sequence_length,
      tokenizer=dataset.tokenizer,
      vocab_size=dataset.vocab_size,
    )
  is_usual = config.task.name in ("", "classification")
  is_usual = is_usual and not (dataset.inputs or dataset.targets)
  if not dataset.name.startswith("tfds:") or not is_usual:
    return load_dataset(config)
  if not dataset.image_size:
    raise jaxplay.UserError(
      f"config.dataset.name is {dataset.name!r}, which is not read for a plan;"
      " set config.dataset.image_size and num_classes"
    )
  return data.planned_images(
    image_size=dataset.image_size, num_classes=dataset.num_classes
  )


def make_feed(
  workload: Workload, config: ml_collections.ConfigDict, start_step: int
) -> feed.DeviceFeed | feed.HostFeed:
  """The feed of training examples, by the size of the split."""
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
  """The arguments of `data.train_examples` that determine the examples."""
  return dict(
    seed=config.seed,
    batch_size=config.batch_size,
    augment=config.dataset.augment,
    augment_pixels=config.dataset.augment_pixels,
    phases=workload.dataset.phases,
  )


def on_device(workload: Workload, config: ml_collections.ConfigDict) -> bool:
  """Whether the training split is copied to the device.

  It is if it fits, unless random crops are read from larger images.
  """
  source = workload.dataset.splits["train"]
  is_cropped = config.dataset.augment == "resized_crop"
  return feed.fits(source, config.dataset.device_bytes) and not is_cropped


def steps_per_call(workload: Workload) -> int:
  """The number of steps per dispatch that `config.steps_per_call=0` means.

  Enough to hide the dispatch, but one for convolutions on CPU, whose gradients
  are slow inside XLA loops (7 times, for a ResNet-10 step on 2 cores).
  """
  on_cpu = jax.default_backend() == "cpu"
  if not on_cpu:
    return 50
  state, example = workload.state, workload.dataset.example
  inputs = jax.eval_shape(
    workload.task.inputs,
    {
      name: jax.ShapeDtypeStruct((1, *shape), dtype)
      for name, (shape, dtype) in example.items()
    },
  )
  variables = (state.params, state.batch_stats)
  return 1 if models.convolves(workload.model, variables, inputs) else 50


def prediction_sample(
  dataset: data.Dataset, number: int
) -> dict[str, np.ndarray] | None:
  """The fixed examples whose predictions are saved: "index", and targets.

  They do not depend on the seed, so that runs can be compared by example.
  None: there are none, or no validation split.
  """
  if "valid" not in dataset.splits:
    return None
  source = dataset.splits["valid"]
  number = min(number, source.num_examples)
  if not number:
    return None
  seed = order_lib.stream_seed(0, "predictions")
  index = np.sort(order_lib.batch_indices(seed, 0, number, source.num_examples))
  fetched = source.fetch(index)
  for name in ("image", "inputs"):
    fetched.pop(name, None)
  return {"index": index, **fetched}


def fixed_batches(
  workload: Workload, config: ml_collections.ConfigDict, number: int
) -> list[dict[str, np.ndarray]]:
  """Fixed batches of training examples, each as large as those of a step.

  Those of a step with microbatches are as large as these.

  Args:
    workload: Of the config.
    config: A checked config.
    number: Examples in all, rounded up to whole batches; at most the split's.
  """
  source = workload.dataset.splits["train"]
  size = config.batch_size // config.microbatches
  batches = max(1, min(-(-number // size), source.num_examples // size))
  seed = order_lib.stream_seed(0, "predictions")
  index = order_lib.batch_indices(seed, 0, size, source.num_examples, batches)
  return [source.fetch(part) for part in index.reshape(batches, size)]
