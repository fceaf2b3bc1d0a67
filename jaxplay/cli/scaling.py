"""The verbs of scaling laws: `jaxplay scaling run` and `fit`."""

import json

import jaxplay
from jaxplay.cli import common


def add(verbs):
  scaling = verbs.add_parser(
    "scaling",
    help="scaling laws: run a ladder of model sizes, fit the law",
    description="Runs and fits ladders. A ladder is a Python file with"
    " get_ladder(): model sizes, each one constant run with cooldown branches.",
  )
  scaling = scaling.add_subparsers(metavar="ACTION", required=True)

  run = scaling.add_parser(
    "run",
    help="run what is not finished of a ladder; the same command resumes",
    allow_abbrev=False,
  )
  run.add_argument(
    "file", metavar="FILE", help="ladder file, with get_ladder()"
  )
  run.add_argument(
    "--workdir", required=True, metavar="LADDER", help="ladder directory"
  )
  run.add_argument(
    "--no_report", action="store_true", help="write no report at the end"
  )
  common.add_devices(run)
  run.set_defaults(verb=_run)

  fit = scaling.add_parser(
    "fit",
    help="the law of a ladder, and the best model for a budget",
    allow_abbrev=False,
  )
  fit.add_argument("ladder", metavar="LADDER")
  fit.add_argument(
    "--flops",
    type=common.size,
    metavar="C",
    help="budget: which model, on how many tokens",
  )
  fit.add_argument(
    "--extrapolate",
    action="store_true",
    help="answer even far outside of what was measured",
  )
  fit.add_argument(
    "--count",
    default="formula",
    choices=("formula", "compiled"),
    help="FLOPs by the formula (default) or as the compiler counts them",
  )
  fit.add_argument(
    "--count_embeddings",
    action="store_true",
    help="count the parameters of embeddings, too",
  )
  fit.add_argument("--json", action="store_true", help="as JSON")
  fit.set_defaults(verb=_fit)


def _run(arguments, rest):
  from jaxplay.planning import ladder as ladder_lib

  common.no_more(rest, arguments)
  definition = ladder_lib.load(arguments.file)
  common.start_jax(arguments)

  import jax

  from jaxplay import config as config_lib
  from jaxplay.training import branch, dry_run, sharding, train

  directory = ladder_lib.LadderDir(arguments.workdir)
  sharding.from_first_host(lambda: directory.create(definition))
  quiet = jax.process_index() != 0
  console = common.Console(quiet=quiet)

  def plan(constant, start, fraction, shape):
    config_lib.validate(constant, jax.device_count())
    return branch.planned(
      constant, step=start, cooldown_fraction=fraction, cooldown_shape=shape
    )

  def trained(config, run):
    names = ("train/loss", config.objective)
    with common.Console(quiet=quiet, names=names, log_seconds=10.0) as shown:
      shown.tell = console.tell if not quiet else shown.tell
      extend = config.schedule == "constant" and run.config() is not None
      status = train.train(config, str(run.path), shown, extend=extend)
    return status["status"]

  status = ladder_lib.run(
    directory,
    plan=plan,
    train=trained,
    branch=lambda *args: sharding.from_first_host(lambda: branch.begin(*args)),
    count=dry_run.count,
    tell=console.tell,
  )
  if quiet:
    return 0 if status == "completed" else common.EXIT_PREEMPTED
  if status != "completed":
    print("stopped; the same command goes on where it was")
    return common.EXIT_PREEMPTED
  return 0


def _fit(arguments, rest):
  from jaxplay.planning import ladder as ladder_lib
  from jaxplay.planning import scaling

  common.no_more(rest, arguments)
  results = ladder_lib.read(arguments.ladder, arguments.count)
  raise jaxplay.UserError("not yet" + json.dumps(str(results)) + str(scaling))
