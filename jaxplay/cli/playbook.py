"""`jaxplay playbook`: the playbook's whole loop on a config, unattended."""

from jaxplay.cli import batch_size, common, question
from jaxplay.cli import report as report_verbs


def add(verbs):
  verb = question.add(
    verbs,
    "playbook",
    "the whole loop, unattended: from a config to a better one in a budget",
    config=False,
  )
  verb.add_argument(
    "config", metavar="CONFIG", help="experiment file[:ARG] to begin with"
  )
  verb.add_argument(
    "--budget",
    required=True,
    metavar="TRIALS|HOURS",
    help="of all that is trained, in runs of the config's length, such as 64,"
    " or in hours, such as 2h",
  )
  question.add_rates(verb)
  question.add_seeds(verb, "the candidates and the config are run")
  verb.add_argument("--seed", type=common.index, default=0, metavar="S")
  verb.add_argument(
    "--keep_batch_size",
    action="store_true",
    help="do not look for a batch size that is faster",
  )
  verb.set_defaults(verb=_playbook)


def _playbook(arguments, rest):
  from jaxplay.playbook import budget as planning
  from jaxplay.playbook import loop as playbook
  from jaxplay.playbook.batch_size import run as batch_size_lib

  budget = planning.Budget.parse(arguments.budget)
  config = question.load_config(arguments, rest)
  rates = question.rates(arguments, config)
  playbook.check(config, budget, rates, arguments.seeds)
  options = {
    "budget": str(budget),
    "learning_rates": list(rates),
    "seeds": arguments.seeds,
    "seed": arguments.seed,
    "keep_batch_size": arguments.keep_batch_size,
  }

  def ask_batch_size(lab):
    devices, measure, num_train = batch_size.here(arguments, config)
    return batch_size_lib.batch_size(
      lab,
      config,
      measure=measure,
      num_devices=len(devices),
      num_train=num_train,
    )

  return question.run(
    arguments,
    "playbook",
    options,
    config,
    playbook.GOAL,
    lambda lab: playbook.playbook(
      lab,
      config,
      budget=budget,
      num_train=question.num_train(config),
      learning_rates=rates,
      seeds=arguments.seeds,
      seed=arguments.seed,
      batch_size=None if arguments.keep_batch_size else ask_batch_size,
      keep=_keep(options),
    ),
  )


def _keep(options):
  """What writes the page of a part of the loop."""
  from jaxplay.analysis import results as results_lib
  from jaxplay.playbook import result as answer_lib

  def keep(folder, asked, answer):
    if answer is None:
      report_verbs.write_study(results_lib.read_study(folder))
      return
    directory = answer_lib.PlanDir(folder)
    directory.create(asked, options)
    directory.write(answer)
    question.write_page(directory, asked, answer.said[0], answer)

  return keep
