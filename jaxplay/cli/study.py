"""The verbs of studies: `jaxplay study run`, `extend`, `suggest`, ..."""

import sys

from jaxplay import commands, formats, rundir
from jaxplay.analysis import results as results_lib
from jaxplay.api import devices, studies
from jaxplay.cli import common
from jaxplay.cli import report as report_verbs
from jaxplay.study import study as study_lib
from jaxplay.terminal import short


def add(verbs):
  study = verbs.add_parser(
    "study",
    help="studies: run, extend, rerun, suggest, final, status, list",
    description="Runs and reads studies. A study is a Python file with"
    " get_study(), and a directory of trials.",
  )
  study = study.add_subparsers(metavar="ACTION", required=True)

  def action(name, help, function, *names, path="study", runs=True):
    verb = study.add_parser(name, help=help, allow_abbrev=False)
    common.add_options(
      verb,
      function,
      path,
      *names,
      positional=(path,),
      metavars={"study": "FILE" if name == "run" else "STUDY", "root": "ROOT"},
    )
    if runs:
      common.add_options(
        verb,
        studies.Runner,
        *("kind", "parallel", "retry_failed", "allow_code_change"),
        rename={"kind": "runner"},
      )
      verb.add_argument(
        "--no_report", action="store_true", help="write no report at the end"
      )
      common.add_devices(verb)
    return verb

  run = action(
    "run",
    "run the unfinished trials of a study; the same command resumes",
    studies.run_study,
    *("workdir", "trials"),
  )
  run.set_defaults(verb=_run)

  extend = action(
    "extend",
    "lengthen a study and run the new trials",
    studies.extend_study,
    "trials",
  )
  extend.set_defaults(verb=_extend)

  rerun = action(
    "rerun",
    "train a trial with other seeds, for its retrain variance",
    studies.rerun_study,
    "seeds",
  )
  which = rerun.add_mutually_exclusive_group(required=True)
  common.add_options(
    which, studies.rerun_study, "best", "best_of_each", "trial"
  )
  rerun.set_defaults(verb=_rerun)

  suggest = action(
    "suggest",
    "continue by Bayesian optimization, once exploration is concluded",
    studies.suggest,
    *("trials", "batch", "seed", "ignore_findings"),
  )
  suggest.set_defaults(verb=_suggest)

  final = action(
    "final",
    "train the best trial with other seeds; evaluate it once on the test set",
    studies.choose_final,
    *("seeds", "log", "again", "fold_validation"),
  )
  final.set_defaults(verb=_final)

  status = action(
    "status", "progress of a study", studies.extend_study, runs=False
  )
  status.set_defaults(verb=_status)

  table = action(
    "list",
    "a table of all studies in a folder",
    studies.find_studies,
    path="root",
    runs=False,
  )
  table.add_argument("--csv", action="store_true", help="as CSV")
  table.set_defaults(verb=_list)


def _runner(arguments):
  return studies.Runner(
    **common.given(
      arguments, "kind", "parallel", "retry_failed", "allow_code_change"
    )
  )


def _call(function, arguments, rest, *names):
  """Runs trials by a function of the API, and shows how they ended."""
  common.no_more(rest, arguments)
  outcome = function(
    **common.given(arguments, "study", *names),
    runner=_runner(arguments),
    report=not arguments.no_report,
  )
  return _close(outcome)


def _run(arguments, rest):
  return _call(studies.run_study, arguments, rest, "workdir", "trials")


def _extend(arguments, rest):
  return _call(studies.extend_study, arguments, rest, "trials")


def _rerun(arguments, rest):
  names = ("trial", "best", "best_of_each", "seeds")
  return _call(studies.rerun_study, arguments, rest, *names)


def _suggest(arguments, rest):
  names = ("trials", "batch", "seed", "ignore_findings")
  return _call(studies.suggest, arguments, rest, *names)


def _close(outcome):
  """Prints how trials ended, and the report; the exit code."""
  failed = outcome.counts.get("failed", 0)
  code = common.EXIT_FAILED if failed else 0
  if not devices.is_first():
    return code
  if not outcome.has_run:
    print("nothing to run")
  counts = ", ".join(f"{n} {name}" for name, n in outcome.counts.items())
  print(f"\n{formats.count(len(outcome.statuses), 'trial')}: {counts}")
  for name, status in outcome.statuses.items():
    if status.get("status") == "failed":
      print(f"  {name} crashed: {status.get('reason')}")
  if failed:
    common.show_next(
      "try them again, once that is fixed",
      commands.suggested(options={"--retry_failed": True}),
    )
  if set(outcome.counts) - {*rundir.DONE, "failed"}:
    print("the remaining trials are locked by another process")
  trials = outcome.results.trials
  left = sum(trial.status not in results_lib.ENDED for trial in trials)
  if left:
    print(f"not finished: {formats.count(left, 'trial')} of the study")
  if outcome.report is not None:
    report_verbs.show_study(outcome.results, outcome.findings, outcome.report)
  return code


def _final(arguments, rest):
  common.no_more(rest, arguments)
  final = studies.choose_final(
    **common.given(
      arguments, "study", "seeds", "log", "again", "fold_validation"
    ),
    runner=_runner(arguments),
  )
  if not devices.is_first():
    return 0
  from jaxplay.analysis import final as final_lib

  print(f"final: trial {final['trial']}, on {final['date']}")
  for line in final_lib.lines(final):
    print(f"  {line}")
  if "folded" in final:
    place = f"folded/{final['trial']:04d}"
    print(f"with validation data, on {final['folded']['date']}: {place}")
    for line in final_lib.folded_lines(final):
      print(f"  {line}")
  print(f"log: {final['log']}")
  return 0


def _status(arguments, rest):
  common.no_more(rest, arguments)
  results = results_lib.read_study(arguments.study)
  statuses = [trial.status for trial in results.trials]
  print(short(results.study["goal"]))
  for name in sorted(set(statuses)):
    print(f"  {name:<12}{statuses.count(name)}")
  if results.num_adaptive:
    print(f"  {'adaptive':<12}{results.num_adaptive} of them")
  reruns = sum(map(len, results.reruns.values()))
  if reruns:
    print(f"  {'reruns':<12}{reruns}")
  if results.ranked:
    from jaxplay.analysis import expected

    best = results.ranked[0]
    print(
      f"best {results.objective} {results.value(best):.4g}, trial {best.index}"
      f" of {len(results.ranked)}"
    )
    print(f"  {expected.of_best(results).in_words()}")
  _print_doubts(results)
  return 0


def _print_doubts(results):
  """Beside the output of a program, which may be read by another one."""
  for sentence in results_lib.in_words(results_lib.doubts(results)):
    print(f"note: {sentence}", file=sys.stderr)


def _list(arguments, rest):
  common.no_more(rest, arguments)
  rows = studies.find_studies(arguments.root)
  if arguments.csv:
    print(study_lib.as_csv(rows), end="")
  for row in () if arguments.csv else rows:
    print(row["study"])
    for name, value in row.items():
      if name != "study" and value not in (None, ""):
        print(f"  {name:<20}{short(value)}")
  if not rows:
    print(f"no studies in {arguments.root}")
  # Of a study that can be read, it is a note on trials that are left out.
  is_damaged = any("goal" not in row for row in rows)
  return common.EXIT_FAILED if is_damaged else 0
