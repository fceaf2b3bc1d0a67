"""`jaxplay plan QUESTION`: the playbook's procedures as commands."""

import jaxplay
from jaxplay import provenance, rundir
from jaxplay.cli import batch_size, common, longest_run, question, topology


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


# plan steps

_FITTED = "train/error_rate<=0"


def _add_steps(plan):
  steps = question.add(
    plan, "steps", "how many steps to train: a first value, or the next"
  )
  steps.add_argument(
    "--from",
    dest="study",
    type=common.place,
    metavar="STUDY",
    help="judge by where the trials of a study were best, and train nothing",
  )
  question.add_rates(steps)
  steps.add_argument(
    "--steps",
    type=common.number,
    metavar="N",
    help="of each trial of the sweep; default: config.max_train_steps",
  )
  steps.add_argument(
    "--fit",
    metavar="'METRIC<=X'",
    help="what counts as a fitted training set, over an epoch; default:"
    f" {_FITTED}",
  )
  steps.set_defaults(verb=_steps)


def _steps(arguments, rest):
  from jaxplay.analysis import results as results_lib
  from jaxplay.playbook.steps import decide as planning
  from jaxplay.playbook.steps import run as steps

  if arguments.study is not None:
    common.no_more(rest, arguments)
    for name in ("config", "learning_rates", "steps", "fit"):
      if getattr(arguments, name) is not None:
        raise jaxplay.UserError(
          f"--{name} is of a sweep, and --from={arguments.study} judges a study"
          " instead; leave one of them out"
        )
    results = results_lib.read_study(arguments.study)
    return question.run(
      arguments,
      "steps",
      {"from": arguments.study},
      None,
      "Were the trials of the study as long as they should be?",
      lambda lab: steps.from_study(results),
    )
  config = question.load_config(arguments, rest)
  target = planning.Target.parse(arguments.fit or _FITTED)
  if target.metric not in planning.TRAINED:
    raise jaxplay.UserError(
      f"--fit={target} is not of the training set; it can be of"
      f" {' or '.join(planning.TRAINED)}"
    )
  low, high = question.rates(arguments, config)
  length = arguments.steps or config.max_train_steps
  options = {
    "learning_rates": [low, high],
    "steps": length,
    "fit": str(target),
  }
  return question.run(
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
      num_train=question.num_train(config),
    ),
  )


# plan stability, plan clip


def _add_stability(plan):
  stability = question.add(
    plan, "stability", "is training unstable, and which fix costs least"
  )
  question.add_rates(stability)
  question.add_seeds(stability, "the best rate of each fix is run again")
  stability.set_defaults(verb=_stability)


def _stability(arguments, rest):
  from jaxplay.playbook.stability import run as stability

  config = question.load_config(arguments, rest)
  rates = question.rates(arguments, config)
  return question.run(
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
  clip = question.add(
    plan,
    "clip",
    "a clipping threshold, from the gradient norms of a run",
    config=False,
    trains=False,
  )
  clip.add_argument("run", type=common.place, metavar="RUN")
  clip.set_defaults(verb=_clip)


def _clip(arguments, rest):
  from jaxplay.playbook.stability import run as stability

  common.no_more(rest, arguments)
  answer = stability.clip(rundir.RunDir(arguments.run))
  return question.tell(
    arguments,
    "clip",
    {"run": arguments.run},
    "At which norm is the gradient to be clipped?",
    answer,
  )


# plan rounds


def _add_rounds(plan):
  rounds = question.add(
    plan,
    "rounds",
    "from the best of a short study to longer training",
    config=False,
  )
  rounds.add_argument("study", type=common.place, metavar="STUDY")
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
  from jaxplay.playbook.rounds import run as rounds

  common.no_more(rest, arguments)
  first = results_lib.read_study(arguments.study)
  provenance.carry(rundir.RunDir(arguments.study).provenance())
  return question.run(
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
