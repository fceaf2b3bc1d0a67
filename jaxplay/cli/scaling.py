"""The verbs of scaling laws: `jaxplay scaling run` and `fit`."""

import dataclasses
import json

import jaxplay
from jaxplay import rundir
from jaxplay.cli import common

# Of a model of a few parameters, and of all computers for a long time.
_LEAST_FLOPS, _MOST_FLOPS = 1e6, 1e40


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
    "--workdir",
    type=common.folder,
    required=True,
    metavar="LADDER",
    help="ladder directory",
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
  fit.add_argument("ladder", type=common.place, metavar="LADDER")
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
  from jaxplay.scaling import ladder as ladder_lib

  common.no_more(rest, arguments)
  definition = ladder_lib.load(arguments.file)
  common.start_jax(arguments)

  import jax

  from jaxplay import config as config_lib
  from jaxplay.training import branch, dry_run, host, sharding, train
  from jaxplay.training import workload as workload_lib

  quiet = jax.process_index() != 0
  console = common.Console(quiet=quiet)

  def plan(constant, start, steps, fraction, shape):
    config_lib.validate(constant, jax.device_count())
    return branch.planned(
      constant,
      step=start,
      cooldown_fraction=fraction,
      cooldown_shape=shape,
      overrides={"max_train_steps": steps},
    )

  # All is looked at before anything is written.
  rungs = ladder_lib.rungs(definition, plan)
  for rung in rungs:
    workload_lib.make_workload(rung.config)
  directory = ladder_lib.LadderDir(arguments.workdir)
  sharding.from_first_host(lambda: directory.create(definition))

  def trained(config, run):
    if jax.process_count() == 1 and preemption.now():
      return "preempted"
    names = ("train/loss", config.objective)
    with common.Console(quiet=quiet, names=names, log_seconds=10.0) as shown:
      extend = config.schedule == "constant" and run.config() is not None
      status = train.train(config, str(run.path), shown, extend=extend)
    return status["status"]

  with host.Preemption() as preemption:
    status = ladder_lib.run(
      directory,
      rungs,
      train=trained,
      branch=lambda *a: sharding.from_first_host(lambda: branch.begin(*a)),
      count=dry_run.count,
      tell=console.tell,
    )
  if quiet:
    return 0 if status == "completed" else common.EXIT_PREEMPTED
  if status != "completed":
    print("stopped; the same command goes on where it was")
    return common.EXIT_PREEMPTED
  if not arguments.no_report:
    results = ladder_lib.read(directory.path)
    show_report(results, *write_report(results))
  return 0


def _fit(arguments, rest):
  from jaxplay.scaling import ladder as ladder_lib
  from jaxplay.scaling import law as scaling
  from jaxplay.scaling import traps

  common.no_more(rest, arguments)
  results = ladder_lib.read(arguments.ladder, arguments.count)
  law = scaling.fit(
    results.points,
    count_embeddings=arguments.count_embeddings,
    flops_source=arguments.count,
  )
  best = None
  if arguments.flops is not None:
    if not _LEAST_FLOPS <= arguments.flops <= _MOST_FLOPS:
      raise jaxplay.UserError(
        f"--flops={arguments.flops:g} is no budget of a training; it lies in"
        f" [{_LEAST_FLOPS:g}, {_MOST_FLOPS:g}]"
      )
    best = law.optimal(arguments.flops, extrapolate=arguments.extrapolate)
  findings = traps.checks(law, unique_tokens=results.unique_tokens)
  if arguments.json:
    print(
      json.dumps(
        rundir.plain(
          {
            "law": law.as_json(),
            "optimum": best and dataclasses.asdict(best),
            "findings": [found.as_json() for found in findings],
          }
        ),
        indent=1,
      )
    )
    return 0
  show_law(law, findings)
  if best is not None:
    _show_optimum(best)
  return 0


def write_report(results, out=None):
  """Fits the law as far as the points allow, and writes the page.

  Args:
    results: The ladder.
    out: Where to write the page, and nothing else; None: all, in the ladder.

  Returns:
    (law or None, why there is none, findings, path of the report)
  """
  from jaxplay import report
  from jaxplay.scaling import law as scaling
  from jaxplay.scaling import traps

  law, why, findings = None, "", []
  try:
    law = scaling.fit(results.points)
    findings = traps.checks(law, unique_tokens=results.unique_tokens)
  except jaxplay.UserError as error:
    why = str(error)
  path = out or results.path / "report.html"
  with rundir.written(path, common.OUT):
    if out is None:
      rundir.RunDir(results.path).write_findings(
        [found.as_json() for found in findings]
      )
    report.write_ladder(results, law, findings, path=path, why=why)
  return law, why, findings, path


def show_report(results, law, why, findings, path):
  """The law in a few lines, what it cost, and where to read on."""
  if law is None:
    print(f"no law yet: {why}")
  else:
    show_law(law, findings)
  if results.spent is not None:
    ratio = results.spent.spent / results.spent.from_scratch
    print(
      f"compute: {results.spent.spent:.3g} FLOPs, {ratio:.0%} of one run for"
      " each point"
    )
  print(f"report: {path}")


def show_law(law, findings):
  """The law, and what is wrong with it."""
  e, a_n, a, b_d, b = law.coefficients.values()
  print(
    f"L(N, D) = {e.value:.4g} + {a_n.value:.4g} / N^{a.value:.3g}"
    f" + {b_d.value:.4g} / D^{b.value:.3g}   (nats per token)"
  )
  for name, found in law.coefficients.items():
    print(
      f"  {name:<16}{found.value:.4g} ({found.low:.4g} to {found.high:.4g})"
    )
  p = law.optimal_exponent
  print(f"  the best N grows as C^{p.value:.2f} ({p.low:.2f} to {p.high:.2f})")
  for found in findings:
    if found.verdict in ("warn", "fail"):
      print(
        f"  {found.verdict}: {found.check} ({found.subject}): {found.advice}"
      )


def _show_optimum(best):
  far = f", {best.factor:.2g} times outside the points" * (best.factor > 1)
  print(f"for {best.flops:.3g} FLOPs (by the {best.flops_source}{far}):")
  for name, found in (
    ("parameters N", best.parameters),
    ("tokens D", best.tokens),
    ("loss", best.loss),
  ):
    print(
      f"  {name:<16}{found.value:.4g} ({found.low:.4g} to {found.high:.4g})"
    )
