"""The playbook's procedures: each trains what it needs, and decides."""

import datetime
import functools
import os
from collections.abc import Callable, Mapping
from typing import Any

import jaxplay
from jaxplay import commands, provenance, rundir, terminal, usercode
from jaxplay import config as config_lib
from jaxplay.analysis import results as results_lib
from jaxplay.api import arguments, devices, reading, runs, studies
from jaxplay.playbook import result as result_lib
from jaxplay.playbook import study_runner


@arguments.public("plan", "steps")
def plan_steps(
  config: arguments.Config | None = None,
  workdir: arguments.Folder | None = None,
  *,
  study: arguments.Place | None = None,
  learning_rates: arguments.LearningRates | None = None,
  steps: arguments.Count | None = None,
  fit: arguments.Text | None = None,
) -> result_lib.ProcedureResult:
  """Decides how many steps to train: a first value, or the next.

  Args:
    config: Experiment file, or a config.
    workdir: Folder of the plan, with its studies and its report.
    study: Judge by where the trials of this study were best, and train nothing.
    learning_rates: Range of the sweep; default: the config's learning rate / 30
      to * 30.
    steps: Steps of each trial of the sweep; default: config.max_train_steps.
    fit: METRIC<=X, or METRIC>=X if more is better: what counts as a fitted
      training set, over an epoch; default: train/error_rate<=0.

  Returns:
    The decision: tables, summary, settings for the config, findings.

  Raises:
    jaxplay.UserError: The config or an option is refused.
    jaxplay.Stopped: A signal asked to stop.

  Examples:
    >>> import jaxplay as jp
    >>> plan = jp.plan_steps(study="runs/study", workdir="runs/steps")
    >>> plan.settings["max_train_steps"]
    40
  """
  from jaxplay.playbook.steps import decide, run

  if study is not None:
    given = {
      "config": config,
      "learning_rates": learning_rates,
      "steps": steps,
      "fit": fit,
    }
    for name, value in given.items():
      if value is not None:
        raise jaxplay.UserError(
          f"{arguments.option(name)} is for a sweep, and"
          f" {arguments.option('study', 'from')}={study} judges a study"
          " instead; leave one of them out"
        )
    results = results_lib.read_study(study)
    return _procedure(
      workdir,
      "steps",
      {"from": os.fspath(study)},
      None,
      "Were the trials of the study as long as they should be?",
      lambda runner: run.from_study(results),
    )
  loaded = _config(config)
  target = decide.Target.parse(fit or decide.FITTED, loaded.declared)
  if target.metric not in decide.TRAINED:
    raise jaxplay.UserError(
      f"{arguments.option('fit')}={target} is not a metric of the training set;"
      f" expected {' or '.join(decide.TRAINED)}"
    )
  logged = config_lib.evaluated(loaded)
  if target.metric.replace("train/", "valid/") not in logged:
    raise jaxplay.UserError(
      f"{arguments.option('fit')} is {target}, and runs of the task"
      f" {config_lib.task_name(loaded)!r} log no error rate; use"
      f" {arguments.option('fit')}='train/loss<=X', with a loss X that counts"
      " as fitted"
    )
  rates = _rates(learning_rates, loaded)
  length = steps or loaded.max_train_steps
  return _procedure(
    workdir,
    "steps",
    {"learning_rates": list(rates), "steps": length, "fit": str(target)},
    loaded,
    run.GOAL,
    lambda runner: run.sweep(
      runner,
      loaded,
      learning_rates=rates,
      max_train_steps=length,
      target=target,
      num_train=_num_train(loaded),
    ),
  )


@arguments.public("plan", "stability")
def plan_stability(
  config: arguments.Config,
  workdir: arguments.Folder,
  *,
  learning_rates: arguments.LearningRates | None = None,
  seeds: arguments.Seeds = 3,
  sharpness: bool = False,
) -> result_lib.ProcedureResult:
  """Decides whether training is unstable, and which fix costs least.

  Args:
    config: Experiment file, or a config.
    workdir: Folder of the plan, with its studies and its report.
    learning_rates: Range of the sweep; default: the config's learning rate / 30
      to * 30.
    seeds: Number of seeds with which the best learning rate of each fix is run
      again.
    sharpness: Also compare the largest eigenvalue of the Hessian with the
      threshold of stability, along two runs of the sweep.

  Returns:
    The decision: tables, summary, settings for the config, findings.

  Raises:
    jaxplay.UserError: The config or an option is refused.
    jaxplay.Stopped: A signal asked to stop.

  Examples:
    >>> import jaxplay as jp
    >>> config = jp.load_config("experiments/digits_mlp/config.py")
    >>> config.max_train_steps = 50
    >>> plan = jp.plan_stability(
    ...   config, "runs/stability", learning_rates="0.05:0.5", seeds=2
    ... )
    >>> plan.details["fix"]
    'none'
  """
  from jaxplay.playbook.stability import run

  loaded = _config(config)
  rates = _rates(learning_rates, loaded)

  def measure(config, steps):
    devices.start(cores_as_devices=True)

    from jaxplay.training import sharpness

    return sharpness.measure(config, steps)

  return _procedure(
    workdir,
    "stability",
    # Not the sharpness, so that it can be added to a plan.
    {"learning_rates": list(rates), "seeds": seeds},
    loaded,
    run.GOAL,
    lambda runner: run.stability(
      runner,
      loaded,
      learning_rates=rates,
      seeds=seeds,
      measure=measure if sharpness else None,
    ),
  )


@arguments.public("plan", "clip")
def plan_clip(
  run: arguments.Place, workdir: arguments.Folder | None = None
) -> result_lib.ProcedureResult:
  """Derives a clipping threshold from the gradient norms of a run.

  Args:
    run: Run directory.
    workdir: Folder of the plan; default: nothing is written.

  Returns:
    The decision: tables, summary, settings for the config, findings.

  Raises:
    jaxplay.UserError: There is no such run.

  Examples:
    >>> import jaxplay as jp
    >>> plan = jp.plan_clip("runs/constant")
    >>> sorted(plan.settings)
    ['clipping', 'hparams.clip_norm']
  """
  from jaxplay.playbook.stability import run as run_lib

  answer = run_lib.clip(rundir.RunDir(run))
  goal = "At which norm should the gradient be clipped?"
  return keep(workdir, "clip", {"run": os.fspath(run)}, goal, answer)


@arguments.public("plan", "rounds")
def plan_rounds(
  study: arguments.Place,
  workdir: arguments.Folder,
  *,
  steps: arguments.Count,
  rounds: arguments.Count | None = None,
) -> result_lib.ProcedureResult:
  """Goes from the best trial of a short study to longer training.

  Args:
    study: Study directory.
    workdir: Folder of the plan, with its studies and its report.
    steps: Steps of the last round.
    rounds: Run K rounds, whose steps grow by the same factor; default: only
      write the config of the next round.

  Returns:
    The decision: tables, summary, settings for the config, findings.

  Raises:
    jaxplay.UserError: The study has no best trial, or an option is refused.
    jaxplay.Stopped: A signal asked to stop.

  Examples:
    >>> import jaxplay as jp
    >>> plan = jp.plan_rounds("runs/study", "runs/rounds", steps=100)
    >>> longer = jp.load_config(plan.details["config"])
    >>> longer.max_train_steps
    100
  """
  from jaxplay.playbook.rounds import run

  first = results_lib.read_study(study)
  provenance.carry(rundir.RunDir(study).provenance())
  usercode.look_in(study)
  return _procedure(
    workdir,
    "rounds",
    {"study": os.fspath(study), "steps": steps, "rounds": rounds},
    None,
    run.GOAL,
    lambda runner: run.rounds(runner, first, steps=steps, number=rounds or 0),
  )


@arguments.public("plan", "batch-size")
def plan_batch_size(
  config: arguments.Config,
  workdir: arguments.Folder,
  *,
  batch_sizes: arguments.Counts | None = None,
  largest: arguments.Count | None = None,
  topology: arguments.Text | None = None,
  target: arguments.Text | None = None,
  learning_rates: arguments.LearningRates | None = None,
  seeds: arguments.Seeds = 3,
  steps: arguments.Count | None = None,
) -> result_lib.ProcedureResult:
  """Decides which batch sizes fit, are fast, and reach a target first.

  Args:
    config: Experiment file, or a config.
    workdir: Folder of the plan, with its studies and its report.
    batch_sizes: Examples per update to try; default: doubling from a small one
      until memory ends, or the training split, or the growth of throughput.
    largest: Batch size to end at.
    topology: TPUs that are not here, such as v5e:2x2: memory and roofline, no
      timing.
    target: METRIC<=X, or METRIC>=X if more is better: train until it is
      reached, at each size with its own learning rate.
    learning_rates: Range of the sweep; default: the config's learning rate / 30
      to * 30.
    seeds: Number of seeds with which the best learning rates of each size are
      run again.
    steps: Steps of each trial at the smallest size; default:
      config.max_train_steps.

  Returns:
    The decision: tables, summary, settings for the config, findings.

  Raises:
    jaxplay.UserError: The config or an option is refused.
    jaxplay.Stopped: A signal asked to stop.

  Examples:
    >>> import jaxplay as jp
    >>> plan = jp.plan_batch_size(
    ...   "experiments/digits_mlp/config.py", "runs/sizes", batch_sizes=[32, 64]
    ... )
    >>> len(plan.details["speeds"])
    2
  """
  from jaxplay.playbook.batch_size import measure, run
  from jaxplay.playbook.steps import decide

  if target is not None:
    if topology is not None:
      raise jaxplay.UserError(
        f"{arguments.option('target')} trains, and the devices of"
        f" {arguments.option('topology')} are not here; leave one of them out"
      )
  else:
    for name, value in (("learning_rates", learning_rates), ("steps", steps)):
      if value is not None:
        raise jaxplay.UserError(
          f"{arguments.option(name)} is for training to a target; add"
          f" {arguments.option('target')}='METRIC<=X'"
        )
  loaded = _config(config)
  parsed = target and decide.Target.parse(target, loaded.declared)
  options: dict[str, Any] = {
    "batch_sizes": batch_sizes,
    "largest": largest,
    "topology": topology,
  }
  training: dict[str, Any] = {}
  if parsed:
    run.check(parsed, loaded)
    training = {
      "learning_rates": _rates(learning_rates, loaded),
      "seeds": seeds,
      "max_train_steps": steps or loaded.max_train_steps,
    }
    options |= {"target": str(parsed)} | {
      name: list(value) if isinstance(value, tuple) else value
      for name, value in training.items()
    }
  sizes: dict[str, Any] = {"sizes": batch_sizes, "largest": largest}
  if topology is not None:
    found = _topologies([topology])[topology]
    procedure = functools.partial(run.for_topology, topology=found)
  else:
    found = _devices()
    procedure = functools.partial(
      run.batch_size,
      measure=measure.on_devices(found),
      num_devices=len(found),
      num_train=_num_train(loaded),
    )
  return _procedure(
    workdir,
    "batch-size",
    options,
    loaded,
    run.GOAL,
    lambda runner: procedure(
      runner, loaded, target=parsed, **sizes, **training
    ),
  )


@arguments.public("plan", "topology")
def plan_topology(
  config: arguments.Config,
  topology: arguments.Names,
  *,
  batch_sizes: arguments.Counts | None = None,
  largest: bool = False,
) -> list[dict[str, Any]]:
  """Estimates memory, communication and speed on TPUs that are not here.

  The step is compiled for them, and its time follows from a roofline.

  Args:
    config: Experiment file, or a config.
    topology: Such as v5e:16x16, or 2*v5p:4x4x8 for two slices; several, to
      compare them; here: the devices of this machine, with a measured step.
    batch_sizes: Examples per update; default: the config's.
    largest: Also find the largest batch that fits, by doubling.

  Returns:
    JSON values for each topology and batch size, of one device: memory in
    bytes, FLOPs, bytes per collective, seconds by resource, and the range of
    the seconds of a step, if all overlaps and if nothing does.

  Raises:
    jaxplay.UserError: There is no such topology, no compiler for it, or the
      batch or the mesh does not fit it.

  Examples:
    >>> import jaxplay as jp
    >>> rows = jp.plan_topology("experiments/digits_mlp/config.py", ["here"])
    >>> rows[0]["fits"]
    True
  """
  loaded = _config(config)
  found = _topologies(topology)

  from jaxplay.pods import estimate
  from jaxplay.pods import topology as topology_lib

  console = terminal.Console(quiet=False)

  def log(name, size):  # Large programs take the compiler minutes.
    console.tell(f"compiling for {name}, batch {size} ...")

  cases = []  # All are checked before the first is compiled for.
  for name, chips in found.items():
    for size in batch_sizes or [loaded.batch_size]:
      sized = config_lib.with_batch_size(loaded, size)
      topology_lib.check(sized, chips.devices)
      cases.append((name, chips, sized))
  rows = []
  for name, chips, sized in cases:
    log(name, sized.batch_size)
    row = estimate.estimate(chips, sized)
    if largest:
      row["largest_batch"] = estimate.largest_batch(
        chips, sized, row, functools.partial(log, name)
      )
    rows.append(row)
  return rows


@arguments.public("playbook")
def run_playbook(
  config: arguments.Config,
  workdir: arguments.Folder,
  *,
  budget: arguments.Budget,
  learning_rates: arguments.LearningRates | None = None,
  seeds: arguments.Seeds = 3,
  seed: arguments.Index = 0,
  keep_batch_size: bool = False,
) -> result_lib.ProcedureResult:
  """Runs the whole playbook unattended: from a config to a better one.

  Args:
    config: Experiment file, or a config.
    workdir: Folder of the plan, with its studies and its report.
    budget: Of all that is trained: a number of runs of the config's length,
      such as 64, or hours, such as 2h.
    learning_rates: Range of the first sweep; default: the config's learning
      rate / 30 to * 30.
    seeds: Number of seeds with which the candidates and the config are run.
    seed: Seed of the studies.
    keep_batch_size: Do not look for a batch size that is faster.

  Returns:
    The decision: tables, summary, settings for the config, findings.

  Raises:
    jaxplay.UserError: The config or an option is refused.
    jaxplay.Stopped: A signal asked to stop.

  Examples:
    >>> import jaxplay as jp
    >>> config = jp.load_config("experiments/digits_mlp/config.py")
    >>> config.max_train_steps = 100
    >>> plan = jp.run_playbook(
    ...   config, "runs/playbook", budget="20", seeds=1, keep_batch_size=True
    ... )
    >>> better = jp.load_config(plan.details["config"])
  """
  from jaxplay.playbook import budget as budget_lib
  from jaxplay.playbook import loop
  from jaxplay.playbook.batch_size import measure

  parsed = budget_lib.Budget.parse(str(budget))
  loaded = _config(config)
  rates = _rates(learning_rates, loaded)
  loop.check(loaded, parsed, rates, seeds)
  found = () if keep_batch_size else _devices()
  options = {
    "budget": str(parsed),
    "learning_rates": list(rates),
    "seeds": seeds,
    "seed": seed,
    "keep_batch_size": keep_batch_size,
  }

  def write_report(folder, name, result):
    if result is None:
      reading.write_study(results_lib.read_study(folder))
    else:
      keep(folder, name, options, result.summary[0], result)

  return _procedure(
    workdir,
    "playbook",
    options,
    loaded,
    loop.GOAL,
    lambda runner: loop.playbook(
      runner,
      loaded,
      budget=parsed,
      num_train=_num_train(loaded),
      learning_rates=rates,
      seeds=seeds,
      seed=seed,
      measure=measure.on_devices(found) if found else None,
      num_devices=len(found),
      write_report=write_report,
    ),
  )


@arguments.public("plan", "longest-run")
def plan_longest_run(
  workdir: arguments.Folder | None = None,
  *,
  hardware: arguments.Growth = 0.281,
  investment: arguments.Growth = 1.03,
  software: arguments.Growth = 0.541,
  spread: arguments.Growth = 0.3,
  seed: arguments.Index = 0,
  deadline: arguments.Date | None = None,
  today: arguments.Date | None = None,
  budget: arguments.Measure | None = None,
) -> result_lib.ProcedureResult:
  """Computes how long a run is worth starting, while all else grows.

  Args:
    workdir: Folder of the plan; default: nothing is written.
    hardware: Growth rate of FLOP/s per dollar per year, ln(2) / doubling time.
    investment: Growth rate of the dollars of a run, likewise.
    software: Growth rate of algorithmic efficiency, likewise.
    spread: Relative uncertainty of the growth rate of hardware.
    seed: Seed of the draws.
    deadline: The last day of the run, such as 2028-06-30: when to start?
    today: The first day that can be chosen; default: today.
    budget: Dollars of today.

  Returns:
    The decision: tables, summary, findings.

  Raises:
    jaxplay.UserError: An option is out of its range.

  Examples:
    >>> import jaxplay as jp
    >>> plan = jp.plan_longest_run(hardware=0.3)
    >>> len(plan.tables) > 0
    True
  """
  from jaxplay import longest_run

  if deadline is None:
    for name, value in (("today", today), ("budget", budget)):
      if value is not None:
        raise jaxplay.UserError(
          f"{arguments.option(name)} is for the start before a deadline; add"
          f" {arguments.option('deadline')}=DATE"
        )
  rates = longest_run.Rates(hardware, investment, software)
  asked: dict[str, Any] = {
    "spread": spread,
    "seed": seed,
    "deadline": deadline,
    "today": deadline and (today or datetime.date.today()),
    "budget": budget,
  }
  answer = longest_run.answer(rates, **asked)
  options = {
    name: value.isoformat() if isinstance(value, datetime.date) else value
    for name, value in {**vars(rates), **asked}.items()
  }
  goal = "How long is a training run worth starting, by growth rates alone?"
  return keep(workdir, "longest-run", options, goal, answer)


def _config(config):
  if config is None:
    raise jaxplay.UserError(
      f"{arguments.option('config')} is missing: the experiment file to plan"
    )
  return runs.resolved(config)


def _rates(learning_rates, config):
  """The given range, or 1.5 decades to each side of the config's."""
  rate = config.hparams.learning_rate
  return learning_rates or (rate / 30, rate * 30)


def _num_train(config):
  """Number of examples of the training split."""
  from jaxplay.training import workload

  return workload.load_dataset(config).splits["train"].num_examples


def _procedure(
  workdir: str | os.PathLike[str] | None,
  name: str,
  options: Mapping[str, Any],
  config: Any,
  goal: str,
  procedure: Callable[[study_runner.StudyRunner], result_lib.ProcedureResult],
) -> result_lib.ProcedureResult:
  """Runs a procedure in its folder, and writes its page."""
  if workdir is None:
    raise jaxplay.UserError(
      f"{arguments.option('workdir')} is missing: the folder of the plan"
    )
  directory = result_lib.PlanDir(workdir)
  nested = config and config_lib.as_json(config)
  is_new = directory.create(name, options, nested)

  with directory.lock():
    console = terminal.Console(quiet=False)
    for sentence in config_lib.notes(config) if config else ():
      console.tell(f"note: {sentence}")
    try:
      answer = procedure(
        study_runner.StudyRunner(
          workdir, train=studies.train_jobs, log=console.tell
        )
      )
    except jaxplay.UserError:
      if is_new:  # What cannot begin leaves nothing behind.
        directory.discard()
      raise
  directory.write(answer)
  _write_page(directory, name, goal, answer)
  return answer


def keep(
  workdir: arguments.Folder | None,
  name: str,
  options: Mapping[str, Any],
  goal: str,
  answer: result_lib.ProcedureResult,
) -> result_lib.ProcedureResult:
  """Writes an answer that took no training, if there is a folder."""
  if workdir is not None:
    directory = result_lib.PlanDir(workdir)
    directory.create(name, options)
    directory.write(answer)
    _write_page(directory, name, goal, answer)
  return answer


def _write_page(directory, name, goal, answer):
  from jaxplay import report

  plan = directory.plan()
  report.write_answer(
    answer,
    path=directory.path / "report.html",
    title=f"Plan {name}: {directory.path.name}",
    goal=goal,
    facts={
      "plan": str(directory.path),
      "command": commands.line(plan["command"]),
      "to train the config": to_train(directory.path, answer),
      "options": ", ".join(f"{k}={v}" for k, v in plan["options"].items()),
    },
    provenance=directory.provenance() or {},
  )


def to_train(
  path: str | os.PathLike[str], answer: result_lib.ProcedureResult
) -> str | None:
  """The command that trains the config that a plan has written, if any."""
  config = answer.details.get("config")
  if config is None:
    return None
  workdir = commands.fresh(str(path), "run")
  return commands.suggested(
    *("train", f"--config={config}", f"--workdir={workdir}"),
    keep=commands.DEVICES,
  )


def _topologies(names):
  """Name -> topology; "here": the devices of this process."""
  from jaxplay import pods

  if pods.HERE in names:
    devices.start()
  else:
    devices.start_to_compile()

  from jaxplay.pods import estimate

  return {name: estimate.find(name) for name in names}


def _devices():
  """The devices that `train` uses."""
  # The populations that follow need each core as a device.
  devices.start(cores_as_devices=True)

  import jax

  all_devices = jax.devices()
  is_cpu = all_devices[0].platform == "cpu"
  if is_cpu and devices.current().fake_devices is None:
    return all_devices[:1]
  return all_devices
