"""`jaxplay plan longest-run`: how long a training is worth starting."""

import argparse
import datetime

import jaxplay
from jaxplay.cli import common, question

_GOAL = "How long is a training run worth starting, by growth rates alone?"


def add(plan):
  verb = question.add(
    plan,
    "longest-run",
    "how long a run is worth starting, while all else grows",
    config=False,
    trains=False,
  )
  verb.epilog = "Model and derivations: docs/longest_run.md."
  for name, default, what in (
    ("hardware", 0.281, "FLOP/s per dollar"),
    ("investment", 1.03, "dollars of a run"),
    ("software", 0.541, "algorithmic efficiency"),
  ):
    verb.add_argument(
      f"--{name}",
      type=float,
      default=default,
      metavar="RATE",
      help=f"growth of {what} per year, ln(2) / doubling time (default"
      f" {default})",
    )
  verb.add_argument(
    "--spread",
    type=float,
    default=0.3,
    help="uncertainty of the growth of hardware, relative (default 0.3)",
  )
  verb.add_argument(
    "--seed", type=common.index, default=0, help="of the draws (default 0)"
  )
  verb.add_argument(
    "--deadline",
    type=_date,
    metavar="DATE",
    help="the last day of the run, such as 2028-06-30: when to start?",
  )
  verb.add_argument(
    "--today",
    type=_date,
    metavar="DATE",
    help="the first day that can be chosen (default: today)",
  )
  verb.add_argument(
    "--budget", type=common.size, metavar="DOLLARS", help="of today"
  )
  verb.set_defaults(verb=_longest_run)


def _date(text):
  try:
    return datetime.date.fromisoformat(text)
  except ValueError:
    raise argparse.ArgumentTypeError(
      f"it is {text!r}; write a day as YEAR-MONTH-DAY"
    ) from None


def _longest_run(arguments, rest):
  from jaxplay import longest_run

  common.no_more(rest, arguments)
  if arguments.deadline is None:
    for name in ("today", "budget"):
      if getattr(arguments, name) is not None:
        raise jaxplay.UserError(
          f"--{name} says when to start for a deadline; add --deadline=DATE"
        )
  rates = longest_run.Rates(
    arguments.hardware, arguments.investment, arguments.software
  )
  asked = {
    "spread": arguments.spread,
    "seed": arguments.seed,
    "deadline": arguments.deadline,
    "today": arguments.deadline and (arguments.today or datetime.date.today()),
    "budget": arguments.budget,
  }
  answer = longest_run.answer(rates, **asked)
  options = {
    name: value.isoformat() if isinstance(value, datetime.date) else value
    for name, value in {**vars(rates), **asked}.items()
  }
  return question.tell(arguments, "longest-run", options, _GOAL, answer)
