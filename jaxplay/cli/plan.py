"""`jaxplay plan QUESTION`: the playbook's procedures as commands."""

import argparse
import json

import jaxplay
from jaxplay.cli import batch_size, common, longest_run, topology
from jaxplay.cli import study as study_verbs


def add(verbs):
  plan = verbs.add_parser(
    "plan",
    help="the playbook's procedures: steps, stability, topology, ...",
    description="Each question runs the playbook's own procedure, decides by"
    " its rules, shows its evidence, and ends with the lines to paste into the"
    " config. The same command resumes.",
  )
  plan = plan.add_subparsers(metavar="QUESTION", required=True)
  _add_steps(plan)
  _add_stability(plan)
  _add_clip(plan)
  _add_rounds(plan)
  batch_size.add(plan)
  longest_run.add(plan)
  topology.add(plan)


# What the questions share.


def _add_question(plan, name, help, *, config=True, trains=True):
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


def _config(arguments, rest):
  from jaxplay import config as config_lib

  if arguments.config is None:
    raise jaxplay.UserError("--config is missing: the experiment file to plan")
  config = config_lib.load(
    arguments.config, common.overrides(rest, vars(arguments))
  )
  config_lib.validate(config)
  return config


def _lab(arguments, config):
  """Where the studies of a plan run; its examples can be counted."""
  from jaxplay.procedures import lab as lab_lib

  def train(directory, jobs):
    return study_verbs.train_jobs(arguments, directory, jobs)[0]

  tell = (lambda _: None) if arguments.json else print
  return lab_lib.Lab(arguments.workdir, train=train, tell=tell)


def _num_train(config):
  """Examples of the training split."""
  from jaxplay.training import train

  return train.load_dataset(config).splits["train"].num_examples


def _run(arguments, question, options, config, goal, procedure):
  """Answers a question in its folder, and shows the answer."""
  from jaxplay import config as config_lib
  from jaxplay.planning import answer as answer_lib
  from jaxplay.procedures import lab as lab_lib

  directory = answer_lib.PlanDir(arguments.workdir)
  directory.create(question, options, config and config_lib.as_json(config))
  with directory.own.lock():
    try:
      answer = procedure(_lab(arguments, config))
    except lab_lib.Stopped:
      print("stopped; the same command goes on where it was")
      return common.EXIT_PREEMPTED
  directory.write(answer)
  return show(arguments, question, answer, goal, directory)


def _tell(arguments, question, options, goal, answer):
  """Shows an answer that took no training; kept if there is a folder."""
  from jaxplay.planning import answer as answer_lib

  if arguments.workdir is None:
    return show(arguments, question, answer, goal)
  directory = answer_lib.PlanDir(arguments.workdir)
  directory.create(question, options)
  directory.write(answer)
  return show(arguments, question, answer, goal, directory)


def show(arguments, question, answer, goal, directory=None):
  """The answer on the terminal, its page and its pictures."""
  from jaxplay import report

  if directory is not None:
    plan = directory.plan()
    report.write_answer(
      answer,
      path=directory.path / "report.html",
      title=f"Plan {question}: {directory.path.name}",
      goal=goal,
      facts={
        "plan": str(directory.path),
        "command": " ".join(plan["command"]),
        "options": ", ".join(f"{k}={v}" for k, v in plan["options"].items()),
      },
      provenance=directory.own.provenance() or {},
    )
  if arguments.figures:
    report.answer_figures(answer, arguments.figures)
  if arguments.json:
    print(json.dumps(answer.as_json(), indent=1))
    return 0
  for table in answer.tables[:1]:
    print(common.as_table(table.heads, table.rows))
    print()
  for sentence in answer.said:
    print(sentence)
  for found in answer.findings:
    if found.verdict in ("warn", "fail") and found.advice not in answer.said:
      print(f"  {found.verdict}: {found.check}: {found.advice}")
  from jaxplay.planning import answer as answer_lib

  if answer.settings:
    print("\nfor the config:")
    for line in answer_lib.as_config_lines(answer.settings).split("\n"):
      print(f"  {line}")
  if directory is not None:
    print(f"report: {directory.path / 'report.html'}")
  return 0


def _range(text):
  """Type of a range of learning rates: "0.001:1"."""
  low, _, high = text.partition(":")
  try:
    low, high = float(low), float(high)
  except ValueError:
    low = high = 0.0
  if not 0 < low < high < float("inf"):
    raise argparse.ArgumentTypeError(
      f"it is {text!r}; it must be LOW:HIGH, such as 0.001:1"
    )
  return low, high


def _rates(arguments, config):
  """The range asked for, or 1.5 decades to each side of the config's rate."""
  rate = config.hparams.learning_rate
  return arguments.learning_rates or (rate / 30, rate * 30)


def _add_rates(verb):
  verb.add_argument(
    "--learning_rates",
    type=_range,
    metavar="LOW:HIGH",
    help="range of the sweep; default: the config's rate / 30 to * 30",
  )


# plan steps


def _add_steps(plan):
  steps = _add_question(
    plan, "steps", "how many steps to train: a first value, or the next"
  )
  steps.add_argument(
    "--from",
    dest="study",
    metavar="STUDY",
    help="judge by where the trials of a study were best, and train nothing",
  )
  _add_rates(steps)
  steps.add_argument(
    "--steps",
    type=common.number,
    metavar="N",
    help="of each trial of the sweep; default: config.max_train_steps",
  )
  steps.add_argument(
    "--fit",
    default="train/error_rate<=0",
    metavar="'METRIC<=X'",
    help="what counts as a fitted training set, over an epoch; default:"
    " train/error_rate<=0",
  )
  steps.set_defaults(verb=_steps)


def _steps(arguments, rest):
  from jaxplay.analysis import results as results_lib
  from jaxplay.planning import steps as planning
  from jaxplay.procedures import steps

  if arguments.study is not None:
    common.no_more(rest, arguments)
    results = results_lib.read_study(arguments.study)
    return _run(
      arguments,
      "steps",
      {"from": arguments.study},
      None,
      "Were the trials of the study as long as they should be?",
      lambda lab: steps.from_study(results),
    )
  config = _config(arguments, rest)
  target = planning.Target.parse(arguments.fit)
  low, high = _rates(arguments, config)
  length = arguments.steps or config.max_train_steps
  options = {
    "learning_rates": [low, high],
    "steps": length,
    "fit": str(target),
  }
  return _run(
    arguments,
    "steps",
    options,
    config,
    steps.GOAL,
    lambda lab: steps.sweep(
      lab,
      config,
      learning_rates=(low, high),
      max_train_steps=length,
      target=target,
      num_train=_num_train(config),
    ),
  )


# plan stability, plan clip


def _add_stability(plan):
  stability = _add_question(
    plan, "stability", "is training unstable, and which fix costs least"
  )
  _add_rates(stability)
  stability.add_argument(
    "--seeds",
    type=common.number,
    default=3,
    metavar="N",
    help="with which the best rate of each fix is run again (default 3)",
  )
  stability.set_defaults(verb=_stability)


def _stability(arguments, rest):
  from jaxplay.procedures import stability

  config = _config(arguments, rest)
  rates = _rates(arguments, config)
  return _run(
    arguments,
    "stability",
    {"learning_rates": list(rates), "seeds": arguments.seeds},
    config,
    stability.GOAL,
    lambda lab: stability.stability(
      lab, config, learning_rates=rates, seeds=arguments.seeds
    ),
  )


def _add_clip(plan):
  clip = _add_question(
    plan,
    "clip",
    "a clipping threshold, from the gradient norms of a run",
    config=False,
    trains=False,
  )
  clip.add_argument("run", metavar="RUN")
  clip.set_defaults(verb=_clip)


def _clip(arguments, rest):
  from jaxplay import rundir
  from jaxplay.procedures import stability

  common.no_more(rest, arguments)
  answer = stability.clip(rundir.RunDir(arguments.run))
  return _tell(
    arguments,
    "clip",
    {"run": arguments.run},
    "At which norm is the gradient to be clipped?",
    answer,
  )


# plan rounds


def _add_rounds(plan):
  rounds = _add_question(
    plan,
    "rounds",
    "from the best of a short study to longer training",
    config=False,
  )
  rounds.add_argument("study", metavar="STUDY")
  rounds.add_argument(
    "--steps",
    type=common.number,
    required=True,
    metavar="N",
    help="of the last round",
  )
  rounds.add_argument(
    "--rounds",
    type=common.number,
    metavar="K",
    help="run K rounds, whose steps grow by the same factor; default: only"
    " write the config of the next one",
  )
  rounds.set_defaults(verb=_rounds)


def _rounds(arguments, rest):
  from jaxplay.analysis import results as results_lib
  from jaxplay.procedures import rounds

  common.no_more(rest, arguments)
  first = results_lib.read_study(arguments.study)
  return _run(
    arguments,
    "rounds",
    {
      "study": arguments.study,
      "steps": arguments.steps,
      "rounds": arguments.rounds,
    },
    None,
    rounds.GOAL,
    lambda lab: rounds.rounds(
      lab, first, steps=arguments.steps, number=arguments.rounds or 0
    ),
  )
