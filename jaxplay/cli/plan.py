"""`jaxplay plan PROCEDURE` and `jaxplay playbook`: procedures as commands."""

import argparse
import contextlib
import json
import sys

import jaxplay
from jaxplay import rundir
from jaxplay.api import arguments as arguments_lib
from jaxplay.api import landscapes, plans, runs
from jaxplay.cli import common, topology
from jaxplay.playbook import result as result_lib

_METAVARS = {"workdir": "PLAN", "config": "CONFIG"}
_SWEEP = ("learning_rates", "seeds")
_ROUNDS = ("study", "steps", "rounds")
_LONGEST = (
  *("hardware", "investment", "software", "spread", "seed"),
  *("deadline", "today", "budget"),
)
_LINE = ("run", "other", "points", "split", "weights")
_MEAN = ("run", "last", "steps", "split", "weights", "safetensors")


def add(verbs):
  plan = verbs.add_parser(
    "plan",
    help="the playbook's procedures: steps, stability, topology, ...",
    description="Each procedure trains what it needs, decides by the playbook's"
    " rules, shows its evidence, and ends with the lines to paste into the"
    " config. The same command resumes.",
  )
  plan = plan.add_subparsers(metavar="PROCEDURE", required=True)

  steps = _procedure(
    plan,
    "steps",
    "how many steps to train: a first value, or the next",
    plans.plan_steps,
    *("study", "learning_rates", "steps", "fit"),
    rename={"study": "from"},
  )
  steps.set_defaults(verb=_steps)

  _procedure(
    plan,
    "stability",
    "is training unstable, and which fix costs least",
    plans.plan_stability,
    *(*_SWEEP, "sharpness"),
  )
  clip = _procedure(
    plan,
    "clip",
    "a clipping threshold, from the gradient norms of a run",
    plans.plan_clip,
    "run",
    positional=("run",),
    trains=False,
    computes=False,
  )
  clip.set_defaults(verb=_reads(plans.plan_clip, ("run",)))

  rounds = _procedure(
    plan,
    "rounds",
    "from the best of a short study to longer training",
    plans.plan_rounds,
    *_ROUNDS,
    positional=("study",),
  )
  rounds.set_defaults(verb=_reads(plans.plan_rounds, _ROUNDS))

  batch_size = _procedure(
    plan,
    "batch-size",
    "which batch sizes fit, are fast, and reach a target first",
    plans.plan_batch_size,
    *("batch_sizes", "largest", "topology", "target", *_SWEEP, "steps"),
  )
  batch_size.add_argument("--epochs", help=argparse.SUPPRESS)
  batch_size.set_defaults(verb=_batch_size)

  longest = _procedure(
    plan,
    "longest-run",
    "how long a run is worth starting, while all else grows",
    plans.plan_longest_run,
    *_LONGEST,
    trains=False,
    computes=False,
  )
  longest.epilog = "Model and derivations: docs/longest_run.md."
  longest.set_defaults(verb=_reads(plans.plan_longest_run, _LONGEST))
  topology.add(plan)

  _procedure(
    verbs,
    "playbook",
    "the whole playbook, unattended: from a config to a better one in a budget",
    plans.run_playbook,
    *("config", "budget", *_SWEEP, "seed", "keep_batch_size"),
    positional=("config",),
  )

  line = _procedure(
    verbs,
    "landscape",
    "the loss on the line between two checkpoints, and its barrier",
    landscapes.landscape,
    *_LINE,
    positional=("run", "other"),
    trains=False,
  )
  line.set_defaults(verb=_reads(landscapes.landscape, _LINE))
  mean = _procedure(
    verbs,
    "merge",
    "uniform means of the kept checkpoints of a run, evaluated",
    landscapes.merge,
    *_MEAN,
    positional=("run",),
    trains=False,
  )
  mean.set_defaults(verb=_reads(landscapes.merge, _MEAN))


def _procedure(
  parent,
  name,
  help,
  function,
  *names,
  positional=(),
  rename=None,
  trains=True,
  computes=True,
):
  """A verb of a procedure, with the function that it calls.

  Only what trains requires a workdir; only what computes has devices.
  """
  takes_config = "config" in arguments_lib.of(function)
  verb = parent.add_parser(
    name,
    help=help,
    allow_abbrev=False,
    epilog="Config keys are set by --config.KEY=VALUE."
    if takes_config
    else None,
  )
  if takes_config and "config" not in positional:
    verb.add_argument("--config", metavar="FILE", help="experiment file[:ARG]")
  common.add_options(
    verb,
    function,
    "workdir",
    *names,
    positional=positional,
    required=("workdir",) if trains else (),
    rename=rename,
    metavars=_METAVARS | {"study": "STUDY", "run": "RUN", "other": "RUN|FILE"},
  )
  verb.add_argument("--json", action="store_true", help="the result as JSON")
  verb.add_argument(
    "--figures",
    type=common.reader(arguments_lib.Folder),
    metavar="DIR",
    help="write each figure as an SVG file, too",
  )
  if computes:
    common.add_devices(verb)

  def run(arguments, rest):
    config = _load_config(arguments, rest)
    return _call(function, arguments, ("workdir", *names), config=config)

  verb.set_defaults(verb=run)
  return verb


def _load_config(arguments, rest):
  if arguments.config is None:
    raise jaxplay.UserError("--config is missing: the experiment file to plan")
  return runs.load_config(arguments.config, common.overrides(rest, arguments))


def _steps(arguments, rest):
  names = ("workdir", "study", "learning_rates", "steps", "fit")
  config = arguments.config
  if arguments.study is None:
    config = _load_config(arguments, rest)
  else:
    common.no_more(rest, arguments)
  return _call(plans.plan_steps, arguments, names, config=config)


def _reads(function, names):
  """What runs a procedure that takes no config."""

  def run(arguments, rest):
    common.no_more(rest, arguments)
    return _call(function, arguments, ("workdir", *names))

  return run


def _batch_size(arguments, rest):
  if arguments.epochs is not None:
    # B7.
    raise jaxplay.UserError(
      "--epochs cannot be given: comparing batch sizes at equal epochs only"
      " probes the perfect-scaling regime, even when larger batches still need"
      " fewer steps; compare them at an equal --target, with --steps of room"
      " (Playbook, choosing the batch size to minimize training time)"
    )
  names = ("workdir", "batch_sizes", "largest", "topology", "target", *_SWEEP)
  return _call(
    plans.plan_batch_size,
    arguments,
    (*names, "steps"),
    config=_load_config(arguments, rest),
  )


def _call(function, arguments, names, **more):
  """Runs a procedure, and shows its result."""
  from jaxplay import report

  arguments_lib.make_folder(arguments.figures)
  aside = contextlib.nullcontext()
  if arguments.json:  # Then the result alone is for standard output.
    aside = contextlib.redirect_stdout(sys.stderr)
  with aside:
    answer = function(**common.given(arguments, *names) | more)
  path = arguments.workdir and rundir.at(arguments.workdir)
  if arguments.figures:
    if path is not None:
      rundir.refuse_links_in(path, arguments.figures)
    report.answer_figures(answer, arguments.figures)
  if arguments.json:
    print(json.dumps(answer.as_json(), indent=1))
  else:
    _show(answer, path)
  return 0


def _show(answer, path):
  """The result on the terminal."""
  # The others are on the page, if there is one.
  tables = answer.tables if path is None else answer.tables[:1]
  for table in filter(lambda table: table.rows, tables):
    if len(tables) > 1:
      print(table.title)
    print(common.as_table(table.heads, table.rows))
    print()
  for sentence in answer.summary:
    print(sentence)
  for finding in answer.findings:
    is_shown = finding.verdict in ("warn", "fail")
    if is_shown and finding.advice not in answer.summary:
      print(f"  {finding.verdict}: {finding.check}: {finding.advice}")
  if answer.settings:
    print("\nfor the config:")
    for line in result_lib.as_config_lines(answer.settings).split("\n"):
      print(f"  {line}")
  if path is not None:
    print(f"report: {path / 'report.html'}")
    if command := plans.to_train(path, answer):
      common.show_next("to train the config", command)
