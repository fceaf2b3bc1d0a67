"""What the questions of `jaxplay plan` share: arguments, folder, answer."""

import argparse
import contextlib
import json
import sys

import jaxplay
from jaxplay import commands
from jaxplay.cli import common
from jaxplay.cli import study as study_verbs


def add(plan, name, help, *, config=True, trains=True):
  """A question; its config and its folder."""
  verb = plan.add_parser(
    name,
    help=help,
    allow_abbrev=False,
    epilog="Config keys are set by --config.KEY=VALUE." if config else None,
  )
  if config:
    verb.add_argument("--config", metavar="FILE", help="experiment file[:ARG]")
  verb.add_argument(
    "--workdir",
    type=common.folder,
    required=trains,
    metavar="PLAN",
    help="folder of the plan, with its studies and its report",
  )
  verb.add_argument("--json", action="store_true", help="the answer as JSON")
  verb.add_argument(
    "--figures",
    type=common.folder,
    metavar="DIR",
    help="write each picture as an SVG file, too",
  )
  if trains:
    common.add_devices(verb)
    # Of the runner that trains the trials.
    verb.set_defaults(runner="population", retry_failed=False)
  return verb


def load_config(arguments, rest):
  """The config that --config and its overrides name."""
  from jaxplay import config as config_lib

  if arguments.config is None:
    raise jaxplay.UserError("--config is missing: the experiment file to plan")
  config = config_lib.load(
    arguments.config, common.overrides(rest, vars(arguments))
  )
  config_lib.validate(config)
  return config


def _lab(arguments):
  """Where the studies of a plan run."""
  from jaxplay.playbook import study_runner as lab_lib

  def train(directory, jobs):
    return study_verbs.train_jobs(arguments, directory, jobs)[0]

  return lab_lib.Lab(arguments.workdir, train=train, tell=print)


def num_train(config):
  """Examples of the training split."""
  from jaxplay.training import workload

  return workload.load_dataset(config).splits["train"].num_examples


def run(arguments, question, options, config, goal, procedure):
  """Answers a question in its folder, and shows the answer."""
  from jaxplay import config as config_lib
  from jaxplay.playbook import result as answer_lib
  from jaxplay.playbook import study_runner as lab_lib

  directory = answer_lib.PlanDir(arguments.workdir)
  common.make_folder(arguments.figures)
  nested = config and config_lib.as_json(config)
  is_new = directory.create(question, options, nested)
  aside = contextlib.nullcontext()
  if arguments.json:  # Then the answer alone is for standard output.
    aside = contextlib.redirect_stdout(sys.stderr)
  with directory.own.lock(), aside:
    for sentence in config_lib.notes(config) if config else ():
      print(f"note: {sentence}")
    try:
      answer = procedure(_lab(arguments))
    except lab_lib.Stopped:
      print("stopped; the same command goes on where it was")
      return common.EXIT_PREEMPTED
    except jaxplay.UserError:
      if is_new:  # What cannot begin leaves nothing behind.
        directory.discard()
      raise
  directory.write(answer)
  return _show(arguments, question, answer, goal, directory)


def tell(arguments, question, options, goal, answer):
  """Shows an answer that took no training; kept if there is a folder."""
  from jaxplay.playbook import result as answer_lib

  directory = None
  common.make_folder(arguments.figures)
  if arguments.workdir is not None:
    directory = answer_lib.PlanDir(arguments.workdir)
    directory.create(question, options)
    directory.write(answer)
  return _show(arguments, question, answer, goal, directory)


def write_page(directory, question, goal, answer):
  """The page of an answer in its directory."""
  from jaxplay import report

  plan = directory.plan()
  report.write_answer(
    answer,
    path=directory.path / "report.html",
    title=f"Plan {question}: {directory.path.name}",
    goal=goal,
    facts={
      "plan": str(directory.path),
      "command": commands.line(plan["command"]),
      "to train the config": _to_train(directory, answer),
      "options": ", ".join(f"{k}={v}" for k, v in plan["options"].items()),
    },
    provenance=directory.own.provenance() or {},
  )


def _to_train(directory, answer):
  """The command that trains the config that an answer has written, if any."""
  path = answer.details.get("config")
  if path is None:
    return None
  workdir = commands.fresh(str(directory.path), "run")
  return common.command(
    *("train", f"--config={path}", f"--workdir={workdir}"),
    keep=commands.DEVICES,
  )


def _show(arguments, question, answer, goal, directory=None):
  """The answer on the terminal, its page and its pictures."""
  from jaxplay import report, rundir
  from jaxplay.playbook import result as answer_lib

  if directory is not None:
    write_page(directory, question, goal, answer)
  if arguments.figures:
    if directory is not None:
      rundir.refuse_links_in(directory.path, arguments.figures)
    report.answer_figures(answer, arguments.figures)
  if arguments.json:
    print(json.dumps(answer.as_json(), indent=1))
    return 0
  # The others are on the page, if there is one.
  tables = answer.tables if directory is None else answer.tables[:1]
  for table in tables:
    if len(tables) > 1:
      print(table.title)
    print(common.as_table(table.heads, table.rows))
    print()
  for sentence in answer.said:
    print(sentence)
  for found in answer.findings:
    if found.verdict in ("warn", "fail") and found.advice not in answer.said:
      print(f"  {found.verdict}: {found.check}: {found.advice}")
  if answer.settings:
    print("\nfor the config:")
    for line in answer_lib.as_config_lines(answer.settings).split("\n"):
      print(f"  {line}")
  if directory is not None:
    print(f"report: {directory.path / 'report.html'}")
    if command := _to_train(directory, answer):
      common.show_next("to train the config", command, arguments)
  return 0


_LEAST_RATE, _LARGEST_RATE = 1e-37, 1e37  # in the step's 32 bits


def _range(text):
  """Type of a range of learning rates: "0.001:1"."""
  low, _, high = text.partition(":")
  try:
    low, high = float(low), float(high)
  except ValueError:
    low = high = 0.0
  if not _LEAST_RATE <= low < high <= _LARGEST_RATE:
    raise argparse.ArgumentTypeError(
      f"it is {text!r}; it must be LOW:HIGH, such as 0.001:1, from"
      f" {_LEAST_RATE:g} to {_LARGEST_RATE:g}"
    )
  return low, high


def rates(arguments, config):
  """The range asked for, or 1.5 decades to each side of the config's rate."""
  rate = config.hparams.learning_rate
  return arguments.learning_rates or (rate / 30, rate * 30)


def add_rates(verb):
  verb.add_argument(
    "--learning_rates",
    type=_range,
    metavar="LOW:HIGH",
    help="range of the sweep; default: the config's rate / 30 to * 30",
  )


def add_seeds(verb, what):
  verb.add_argument(
    "--seeds",
    type=common.seeds,
    default=3,
    metavar="N",
    help=f"with which {what} (default 3)",
  )
