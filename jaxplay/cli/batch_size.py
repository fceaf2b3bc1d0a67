"""`jaxplay plan batch-size`: what fits, what is fast, what gets there first."""

import argparse

import jaxplay
from jaxplay.cli import common, question

# Compiling for larger and larger batches has to end where memory does not.
_LARGEST_PLANNED = 2**20


def add(plan):
  """Adds the question to those of `jaxplay plan`."""
  verb = question.add(
    plan,
    "batch-size",
    "which batch sizes fit, are fast, and reach a target first",
  )
  verb.add_argument(
    "--batch_sizes",
    type=common.numbers,
    metavar="B[,B...]",
    help="examples per update to try; default: doubling from a small one until"
    " memory ends, or the training split, or the growth of throughput",
  )
  verb.add_argument(
    "--largest", type=common.number, metavar="N", help="size to end at"
  )
  verb.add_argument(
    "--topology",
    metavar="T",
    help="TPUs that are not here, such as v5e:2x2: memory and roofline, no"
    " timing",
  )
  verb.add_argument(
    "--target",
    metavar="'METRIC<=X'",
    help="train until it is reached, at each size with its own learning rate",
  )
  question.add_rates(verb)
  question.add_seeds(verb, "the best rates of each size are run again")
  verb.add_argument(
    "--steps",
    type=common.number,
    metavar="N",
    help="of each trial at the smallest size; default: config.max_train_steps",
  )
  verb.add_argument("--epochs", help=argparse.SUPPRESS)
  verb.set_defaults(verb=_batch_size)


def _batch_size(arguments, rest):
  from jaxplay.playbook.batch_size import run as batch_size
  from jaxplay.playbook.steps import decide as steps_lib

  if arguments.epochs is not None:
    # B7.
    raise jaxplay.UserError(
      "--epochs cannot be given: comparing batch sizes at equal epochs only"
      " probes the perfect-scaling regime, even when larger batches still need"
      " fewer steps; compare them at an equal --target, with --steps of room"
      " (Playbook, choosing the batch size to minimize training time)"
    )
  target = None
  if arguments.target is not None:
    if arguments.topology is not None:
      raise jaxplay.UserError(
        "--target trains, and the devices of --topology are not here; leave one"
        " of them out"
      )
    target = steps_lib.Target.parse(arguments.target)
  else:
    for name in ("learning_rates", "steps"):
      if getattr(arguments, name) is not None:
        raise jaxplay.UserError(
          f"--{name} is of training to a target; add --target='METRIC<=X'"
        )
  config = question.load_config(arguments, rest)
  options = {
    "batch_sizes": arguments.batch_sizes,
    "largest": arguments.largest,
    "topology": arguments.topology,
  }
  training = {}
  if target is not None:
    batch_size.check(target, config)
    training = {
      "learning_rates": question.rates(arguments, config),
      "seeds": arguments.seeds,
      "max_train_steps": arguments.steps or config.max_train_steps,
    }
    options |= {"target": str(target)} | {
      name: list(value) if isinstance(value, tuple) else value
      for name, value in training.items()
    }
  if arguments.topology is not None:
    devices, measure, num_train = _abstract(arguments, config)
  else:
    devices, measure, num_train = here(arguments, config)
  largest = arguments.largest
  if arguments.topology is not None and num_train is None:
    largest = largest or _LARGEST_PLANNED
  return question.run(
    arguments,
    "batch-size",
    options,
    config,
    batch_size.GOAL,
    lambda lab: batch_size.batch_size(
      lab,
      config,
      measure=measure,
      num_devices=len(devices),
      num_train=num_train,
      sizes=arguments.batch_sizes,
      largest=largest,
      measured=arguments.topology is None,
      target=target,
      **training,
    ),
  )


def here(arguments, config):
  """(devices, what measures on them, examples of the training split)."""
  # The populations that follow want each core as a device; said only once.
  common.start_jax(arguments, cores_as_devices=True)

  import jax

  from jaxplay.pods import probe, program

  devices = jax.devices()
  if devices[0].platform == "cpu" and arguments.fake_devices is None:
    devices = devices[:1]  # As `train` has it.

  def measure(config):
    speed = probe.measure(config, devices)
    exchanges = ()
    if speed.text and len(devices) > 1:
      exchanges = program.traffic(speed.text).collectives
    return {
      "step_seconds": speed.step_seconds,
      "loop_seconds": speed.loop_seconds,
      "exchange_seconds": sum(
        one.times * probe.exchange_seconds(devices, one.wire_bytes / one.times)
        for one in exchanges
      ),
      "bytes": speed.bytes,
      "too_large": speed.too_large,
    }

  return devices, measure, question.num_train(config)


def _abstract(arguments, config):
  """As `here`, of TPUs that are not here: compiled, not timed."""
  common.start_jax_to_compile()

  from jaxplay.pods import program, roofline, topology
  from jaxplay.training import workload as workload_lib

  found = topology.topology(arguments.topology)
  chip = roofline.chip(found.kind)

  def measure(config):
    compiled = topology.compile_for(config, found.devices)
    if compiled.too_large:  # How much it would be is not known then.
      return {"too_large": compiled.too_large}
    too_large = ""
    needed = max(sum(compiled.memory.values()), compiled.eval_bytes)
    if chip is not None and needed > chip.memory:
      too_large = f"{needed / 2**30:.1f} GiB of {chip.memory / 2**30:.1f} GiB"
    row = {"bytes": sum(compiled.memory.values()), "too_large": too_large}
    if chip is None:
      return row
    traffic = program.traffic(compiled.text)
    line = roofline.estimate(
      chip,
      flops=compiled.flops,
      memory_bytes=traffic.memory_bytes,
      collectives=traffic.collectives,
      slice_shape=found.shape,
    )
    return row | {
      "loop_seconds": line.step_seconds[0],
      "exchange_seconds": line.seconds["links"] + line.seconds["network"],
      "bound": line.bound,
    }

  workload = workload_lib.make_workload(
    config, devices=found.devices, planned=True
  )
  split = workload.dataset.splits.get("train")
  return found.devices, measure, split and split.num_examples
