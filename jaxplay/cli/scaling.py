"""The verbs of scaling laws: `jaxplay scaling run` and `fit`."""

import dataclasses
import json

import jaxplay
from jaxplay import rundir
from jaxplay.api import arguments as arguments_lib
from jaxplay.api import devices
from jaxplay.api import scaling as scaling_lib
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
    help="run the unfinished runs of a ladder; the same command resumes",
    allow_abbrev=False,
  )
  common.add_options(
    run,
    scaling_lib.run_ladder,
    *("ladder", "workdir"),
    positional=("ladder",),
    metavars={"ladder": "FILE", "workdir": "LADDER"},
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
  common.add_options(
    fit,
    scaling_lib.read_ladder,
    "path",
    positional=("path",),
    metavars={"path": "LADDER"},
  )
  common.add_options(
    fit, scaling_lib.fit_scaling_law, "count", "count_embeddings"
  )
  fit.add_argument(
    "--flops",
    type=common.reader(arguments_lib.Measure),
    metavar="C",
    help="budget: which model, on how many tokens",
  )
  fit.add_argument(
    "--extrapolate",
    action="store_true",
    help="answer even far outside of what was measured",
  )
  fit.add_argument("--json", action="store_true", help="as JSON")
  fit.set_defaults(verb=_fit)


def _run(arguments, rest):
  common.no_more(rest, arguments)
  results = scaling_lib.run_ladder(arguments.ladder, arguments.workdir)
  if devices.is_first() and not arguments.no_report:
    show_report(results, *scaling_lib.write_ladder(results))
  return 0


def _fit(arguments, rest):
  common.no_more(rest, arguments)
  law, findings = scaling_lib.fit_scaling_law(
    arguments.path, **common.given(arguments, "count", "count_embeddings")
  )
  best = None
  if arguments.flops is not None:
    if not _LEAST_FLOPS <= arguments.flops <= _MOST_FLOPS:
      raise jaxplay.UserError(
        f"--flops={arguments.flops:g} is outside the supported range"
        f" [{_LEAST_FLOPS:g}, {_MOST_FLOPS:g}]"
      )
    best = law.optimal(arguments.flops, extrapolate=arguments.extrapolate)
  if arguments.json:
    print(
      json.dumps(
        rundir.plain(
          {
            "law": law.as_json(),
            "optimum": best and dataclasses.asdict(best),
            "findings": [finding.as_json() for finding in findings],
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


def show_report(results, law, why, findings, path):
  """The law in a few lines, what it cost, and where to read on."""
  if law is None:
    print(f"No law yet: {why}.")
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
  print(f"{law.formula}   (nats per token)")
  for name, value in law.coefficients.items():
    print(f"  {name:<16}{value.value:.4g} ({value.interval()})")
  p = law.optimal_exponent
  interval = p.interval("{:.2f}".format)
  print(f"  the best N grows as C^{p.value:.2f} ({interval})")
  common.show_findings(findings)


def _show_optimum(best):
  far = ""
  if best.factor > 1:
    far = f", {best.factor:.2g} times outside the points"
  print(f"for {best.flops:.3g} FLOPs (by the {best.flops_source}{far}):")
  for name, value in (
    ("parameters N", best.parameters),
    ("tokens D", best.tokens),
    ("loss", best.loss),
  ):
    print(f"  {name:<16}{value.value:.4g} ({value.interval()})")
