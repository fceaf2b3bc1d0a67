"""The verbs that train single runs: `jaxplay train` and `jaxplay branch`."""

import argparse
import math
import sys

import jaxplay
from jaxplay import commands, provenance
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
  train.add_argument(
    "--config", required=True, metavar="FILE[:ARG]", help="experiment file"
  )
  train.add_argument(
    "--workdir",
    type=common.folder,
    metavar="RUN",
    help="run directory, made if need be",
  )
  train.add_argument(
    "--dry_run",
    action="store_true",
    help="compile, print config, parameters, FLOPs and memory, and stop",
  )
  train.add_argument(
    "--extend_steps",
    type=common.number,
    metavar="N",
    help="go on with a run of constant rate until it has made N steps in all",
  )
  train.add_argument(
    "--profile",
    type=_stretch,
    metavar="A:B",
    help="trace steps A to B into RUN/profile, for Perfetto and TensorBoard;"
    " tools/profile.py sums it up",
  )
  train.add_argument("--of_study", action="store_true", help=argparse.SUPPRESS)
  common.add_devices(train)
  train.set_defaults(verb=_train)
  _add_branch(verbs)


def _add_branch(verbs):
  branch = verbs.add_parser(
    "branch",
    help="cool down from checkpoints of a run of constant rate",
    description="New runs that begin with a checkpoint of RUN after its warmup"
    " and cool down."
    " Each equals, bit for bit, the run that was planned so from the start. The"
    " same command resumes. --config.KEY=VALUE changes numbers of the branch.",
    allow_abbrev=False,
  )
  branch.add_argument(
    "run", type=common.place, metavar="RUN", help="run of constant rate"
  )
  steps = branch.add_mutually_exclusive_group(required=True)
  steps.add_argument(
    "--step", type=common.number, metavar="N", help="cool down after N steps"
  )
  steps.add_argument(
    "--steps",
    type=common.numbers,
    metavar="A,B,...",
    help="a branch for each, in folders of --workdir",
  )
  branch.add_argument(
    "--cooldown_fraction",
    type=common.size,
    default=0.2,
    metavar="F",
    help="share of all steps that the cooldown takes (default 0.2)",
  )
  branch.add_argument(
    "--shape",
    default="1-sqrt",
    metavar="SHAPE",
    help="1-sqrt (default), linear, cosine, square or mirror_cosine",
  )
  branch.add_argument(
    "--mixture",
    type=_mixture,
    default=(),
    metavar="NAME=WEIGHT,...",
    help="text to cool down on; default: what RUN trains on",
  )
  branch.add_argument(
    "--workdir",
    type=common.folder,
    required=True,
    metavar="DIR",
    help="run directory to be made",
  )
  common.add_devices(branch)
  branch.set_defaults(verb=_branch)


def _stretch(text):
  """Type of a stretch of steps: "100:105"."""
  first, _, last = text.partition(":")
  try:
    first, last = common.index(first), common.index(last)
  except argparse.ArgumentTypeError:
    first = last = 0
  if first >= last:
    raise argparse.ArgumentTypeError(
      f"it is {text!r}; it must be A:B, steps of which B is the later"
    )
  return first, last


def _mixture(text):
  """Type of a mixture: "pythonlib=0.7,text:notes/*.md=0.3"."""
  parts = []
  for part in text.split(","):
    name, equals, weight = part.rpartition("=")
    try:
      parts.append((name, float(weight)))
    except ValueError:
      equals = ""
    if parts and not 0 < parts[-1][1] < math.inf:
      raise argparse.ArgumentTypeError(
        f"it is {text!r}, and a weight must be above 0"
      )
    if not equals or not name:
      raise argparse.ArgumentTypeError(
        f"it is {text!r}; it must be NAME=WEIGHT, or several with commas"
        " between"
      )
  return tuple(parts)


def spec(text):
  """What `config.load` takes; files in buckets are read here."""
  from jaxplay import rundir

  path = rundir.at(text)
  if rundir.is_local(path):
    return text
  nested = rundir.read_json(path, rundir.Config)
  if nested is None:
    raise jaxplay.UserError(f"there is no config file {text!r}")
  return nested


def _train(arguments, rest):
  from jaxplay import config as config_lib
  from jaxplay import rundir

  overrides = common.overrides(rest, vars(arguments))
  config = config_lib.load(spec(arguments.config), overrides)
  if arguments.extend_steps:
    config_lib.override(config, "max_train_steps", arguments.extend_steps)
  config_lib.validate(config)
  if not arguments.workdir and not arguments.dry_run:
    raise jaxplay.UserError("--workdir is missing: where the run is to be kept")
  common.start_jax(arguments)

  import jax

  config_lib.validate(config, jax.device_count())
  console = common.Console(
    quiet=jax.process_index() != 0, names=("train/loss", config.objective)
  )
  for sentence in config_lib.notes(config):
    console.tell(f"note: {sentence}")
  if arguments.dry_run:
    from jaxplay.training import dry_run

    for part in dry_run.describe(config):
      console.tell(part)
    return 0
  if arguments.profile and arguments.profile[1] > config.max_train_steps:
    raise jaxplay.UserError(
      f"--profile ends at step {arguments.profile[1]}, and the run at"
      f" {config.max_train_steps}"
    )
  made = rundir.RunDir(arguments.workdir).status().get("step", 0)
  if arguments.profile and made >= arguments.profile[1]:
    raise jaxplay.UserError(
      f"--profile ends at step {arguments.profile[1]}, and"
      f" {arguments.workdir!r} has made {made} already; use another workdir"
    )
  return _run(
    arguments,
    config,
    arguments.workdir,
    console,
    lambda status: _next(arguments, config, status),
    extend=bool(arguments.extend_steps),
    profile=arguments.profile,
  )


def _branch(arguments, rest):
  from jaxplay import config as config_lib
  from jaxplay import rundir

  parent = rundir.RunDir(arguments.run)
  nested = parent.config()
  if nested is None:
    raise rundir.absent(arguments.run, "a run")
  provenance.carry(parent.provenance())
  base = config_lib.from_json(nested, parent.path / "config.json")
  overrides = config_lib.parsed(common.overrides(rest, vars(arguments)), base)
  common.start_jax(arguments)

  import jax

  from jaxplay.training import branch, host, resume, sharding
  from jaxplay.training import workload as workload_lib

  def planned(step):
    config = branch.planned(
      base,
      step=step,
      cooldown_fraction=arguments.cooldown_fraction,
      cooldown_shape=arguments.shape,
      mixture=arguments.mixture,
      overrides=overrides,
    )
    config_lib.validate(config, jax.device_count())
    return config

  folder = rundir.at(arguments.workdir)
  folders = {arguments.step: folder}
  if arguments.steps:
    folders = {step: folder / f"{step:08d}" for step in arguments.steps}
  # All are looked at before the first begins.
  configs = {step: planned(step) for step in folders}
  # Are the text and the vocabulary there, and those of the run?
  workload = workload_lib.make_workload(next(iter(configs.values())))
  resume.check_same_data(parent, workload.dataset)
  branch.unpack(parent, workload.state)
  branch.check_steps(parent, folders)
  with host.Preemption() as preemption:
    for step, config in configs.items():
      console = common.Console(
        quiet=jax.process_index() != 0, names=("train/loss", config.objective)
      )
      run = rundir.RunDir(folders[step], folder)
      sharding.from_first_host(
        lambda s=step, r=run, c=config: branch.begin(parent, s, r, c)
      )
      console.tell(f"cooling down from step {step} to {config.max_train_steps}")
      code = _run(
        arguments,
        config,
        str(run.path),
        console,
        lambda status, r=run: _next_of_branch(r.path, status),
      )
      if code:
        return code
      last = step == list(configs)[-1]
      if jax.process_count() == 1 and preemption.now() and not last:
        print("stopped; the same command goes on where it was")
        return common.EXIT_PREEMPTED
  return 0


def _run(arguments, config, workdir, console, what_next, **kwargs):
  """Trains a run, and says how it went; the exit code."""
  import jax

  from jaxplay.training import train

  try:
    with console:
      status = train.train(config, workdir, console, **kwargs)
  except jax.errors.JaxRuntimeError as error:
    print(f"jaxplay: {common.runtime_error(error)}", file=sys.stderr)
    return common.EXIT_FAILED
  if jax.process_index() == 0:
    _close(workdir, status)
    common.show_next(*what_next(status), arguments)
  return common.EXIT_PREEMPTED if status["status"] == "preempted" else 0


def _close(workdir, status):
  """Writes the run's findings, and the closing summary."""
  from jaxplay import rundir
  from jaxplay.analysis import curves

  run = rundir.RunDir(workdir)
  findings = curves.check_run(run)
  run.write_findings([found.as_json() for found in findings])
  print(f"\n{_headline(status)}")
  best, test = status.get("best"), status.get("test")
  rows = []
  if best:
    rows.append((f"best {best['metric']}", f"{best['value']:.4g}"))
    rows.append(("at step", f"{best['step']} of {status['max_train_steps']}"))
  if test:
    metric = best["metric"].split("/")[1]
    name = f"test {metric.removesuffix('_rate')} there"
    rows.append((name, f"{test[f'test/{metric}']:.4g}"))
  rows.append(("run directory", workdir))
  for name, value in rows:
    print(f"  {name:<24}{value}")
  for found in findings:
    if found.verdict in ("warn", "fail"):
      print(f"  {found.verdict}: {found.check}: {found.advice}")


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
    return "to resume", common.command()
  changes, options = {}, {}
  if arguments.extend_steps:  # A new run has nothing to extend.
    options["--extend_steps"] = None
    changes["max_train_steps"] = config.max_train_steps
  if status["status"] == "infeasible":
    what = "a tenth of the learning rate"
    rate = float(f"{config.hparams.learning_rate / 10:.6g}")
    changes["hparams.learning_rate"] = rate
    folder = commands.fresh(arguments.workdir, "rate", f"{rate:g}")
  else:
    what = "another seed, to see how much it matters"
    folder, seed = commands.fresh_number(arguments.workdir, "seed", config.seed)
    changes["seed"] = seed
  return what, common.command(
    options=options | {"--workdir": folder}, overrides=changes
  )


def _next_of_branch(folder, status):
  """As `_next`, of a run that `branch` made."""
  if status["status"] == "preempted":
    return "to resume", common.command()
  return "its curves", common.command("report", folder)
