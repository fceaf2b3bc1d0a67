"""The verbs that train single runs: `jaxplay train` and `jaxplay branch`."""

import argparse
import os

import jaxplay
from jaxplay import commands
from jaxplay.api import devices, reading, runs
from jaxplay.cli import common


def add(verbs):
  train = verbs.add_parser(
    "train",
    help="train one config in one run directory; the same command resumes",
    description="Trains one config in one run directory. The same command on"
    " the same workdir resumes. Every key of the config can be overridden by"
    " --config.KEY=VALUE; `jaxplay config` lists them all.",
    allow_abbrev=False,
  )
  common.add_options(
    train,
    runs.train,
    *("config", "workdir", "extend_steps", "allow_code_change", "profile"),
    optional=("workdir",),
    metavars={"config": "FILE[:ARG]", "workdir": "RUN"},
  )
  train.add_argument(
    "--dry_run",
    action="store_true",
    help="compile, print config, parameters, FLOPs and memory, and stop",
  )
  train.add_argument("--of_study", action="store_true", help=argparse.SUPPRESS)
  common.add_devices(train)
  train.set_defaults(verb=_train)

  branch = verbs.add_parser(
    "branch",
    help="cool down from checkpoints of a run of constant learning rate",
    description="New runs that begin with a checkpoint of RUN after its warmup"
    " and cool down. Each equals, bit for bit, the run that was planned so from"
    " the start. The same command resumes. --config.KEY=VALUE changes numbers"
    " of the branch.",
    allow_abbrev=False,
  )
  common.add_options(
    branch, runs.branch, "run", positional=("run",), metavars={"run": "RUN"}
  )
  which = branch.add_mutually_exclusive_group(required=True)
  common.add_options(which, runs.branch, "step", "steps")
  common.add_options(
    branch, runs.branch, *("cooldown_fraction", "shape", "mixture", "workdir")
  )
  common.add_devices(branch)
  branch.set_defaults(verb=_branch)


def _train(arguments, rest):
  config = runs.load_config(arguments.config, common.overrides(rest, arguments))
  if arguments.dry_run:
    for part in runs.describe(config, extend_steps=arguments.extend_steps):
      if devices.is_first():
        print(part)
    return 0
  if not arguments.workdir:
    raise jaxplay.UserError("--workdir is missing: where the run is kept")
  run = runs.train(
    config,
    **common.given(
      arguments, "workdir", "extend_steps", "allow_code_change", "profile"
    ),
  )
  if devices.is_first():
    _close(run, arguments.workdir)
    common.show_next(*_next(arguments, config, run.status()))
  return _exit_code(run)


def _branch(arguments, rest):
  names = ("run", "workdir", "step", "steps", "cooldown_fraction", "shape")
  branches = runs.branch(
    **common.given(arguments, *names, "mixture"),
    overrides=common.overrides(rest, arguments),
  )
  for run in branches if devices.is_first() else ():
    _close(run, run.path)
    common.show_next(*_next_of_branch(run))
  if len(branches) < len(arguments.steps or [arguments.step]):
    if devices.is_first():
      print("stopped; the same command resumes")
    return common.EXIT_PREEMPTED
  return max(map(_exit_code, branches))


def _exit_code(run):
  is_preempted = run.status()["status"] == "preempted"
  return common.EXIT_PREEMPTED if is_preempted else 0


def _close(run, workdir):
  """Prints the closing summary of a run."""
  status = run.status()
  print(f"\n{_headline(status)}")
  best, test = status.get("best"), status.get("test")
  rows = []
  if best:
    rows.append((f"best {best['metric']}", f"{best['value']:.4g}"))
    rows.append(("at step", f"{best['step']} of {status['max_train_steps']}"))
  if test:
    metric = run.objective().split("/")[1]
    where = " there" if best else ", last step"
    name = f"test {metric.removesuffix('_rate')}{where}"
    rows.append((name, f"{test[f'test/{metric}']:.4g}"))
  rows.append(("run directory", os.fspath(workdir)))
  for name, value in rows:
    print(f"  {name:<24}{value}")
  common.show_findings(reading.check(run.path))


def _headline(status):
  if status["status"] == "infeasible":
    return (
      f"infeasible: {status['reason']}. Training diverged; a lower learning"
      " rate, warmup or clipping may help"
    )
  if status["status"] == "preempted":
    return f"preempted at step {status['step']}; the same command resumes"
  return f"completed {status['step']} steps in {status['seconds']:.0f} s"


def _next(arguments, config, status):
  """(why, the command to type next) of a run that `train` made."""
  if status["status"] == "preempted":
    return "to resume", commands.suggested()
  changes, options = {}, {}
  if arguments.extend_steps:  # A new run has nothing to extend.
    options["--extend_steps"] = None
    changes["max_train_steps"] = arguments.extend_steps
  if status["status"] == "infeasible" and status["step"] <= 1:
    # No learning rate changes what is not finite before the first update.
    what = "once the model, the loss or the data are mended"
    folder = commands.fresh(arguments.workdir, "mended")
  elif status["status"] == "infeasible":
    what = "a tenth of the learning rate"
    learning_rate = float(f"{config.hparams.learning_rate / 10:.6g}")
    changes["hparams.learning_rate"] = learning_rate
    folder = commands.fresh(arguments.workdir, "rate", f"{learning_rate:g}")
  else:
    what = "another seed, to see how much it matters"
    folder, seed = commands.fresh_number(arguments.workdir, "seed", config.seed)
    changes["seed"] = seed
  options["--workdir"] = folder
  return what, commands.suggested(options=options, overrides=changes)


def _next_of_branch(run):
  """As `_next`, of a run that `branch` made."""
  if run.status()["status"] == "preempted":
    return "to resume", commands.suggested()
  return "its curves", commands.suggested("report", run.path)
