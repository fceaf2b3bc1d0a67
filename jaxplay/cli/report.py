"""The verbs that read results: `jaxplay report` and `jaxplay compare`."""

import json
import time

import jaxplay
from jaxplay import commands, rundir
from jaxplay.analysis import results as results_lib
from jaxplay.api import arguments as arguments_lib
from jaxplay.api import reading
from jaxplay.api import scaling as scaling_lib
from jaxplay.cli import common, scaling
from jaxplay.terminal import short


def add(verbs):
  report = verbs.add_parser(
    "report",
    help="report.html of a study, a run or a ladder, finished or not",
    allow_abbrev=False,
  )
  common.add_options(
    report,
    reading.write_report,
    *("path", "objective", "out", "figures", "format"),
    positional=("path",),
    metavars={"path": "STUDY|RUN|LADDER"},
  )
  report.add_argument(
    "--json", action="store_true", help="results and findings as JSON"
  )
  report.add_argument(
    "--live",
    action="store_true",
    help="renew the report until the study is finished",
  )
  report.set_defaults(verb=_report)

  compare = verbs.add_parser(
    "compare",
    help="whether a candidate study should replace a baseline",
    allow_abbrev=False,
  )
  common.add_options(
    compare,
    reading.compare,
    *("baseline", "candidate", "objective", "smallest", "log"),
    positional=("baseline", "candidate"),
    metavars={"baseline": "BASELINE", "candidate": "CANDIDATE"},
  )
  common.add_options(compare, reading.write_comparison, "out")
  compare.add_argument(
    "--json", action="store_true", help="as JSON, and no page without --out"
  )
  compare.set_defaults(verb=_compare)


def show_study(results, findings, path):
  """The result in a few lines, and where to read on."""
  from jaxplay.analysis import compare, expected, importance, summary, trials

  if results.ranked:
    best = results.ranked[0]
    adaptive = ", adaptive" if best.adaptive else ""
    print(
      f"best {results.objective} {results.value(best):.4g}, trial"
      f" {best.index}{adaptive}:"
    )
    print(f"  {expected.of_best(results).in_words()}")
    width = max(map(len, best.point), default=0) + 2
    for label, value in best.point.items():
      print(f"  {label:<{width}}{short(value)}")
  for group, trial in trials.best_of_each(results).items():
    seeds = results.values_of(results.reruns.get(trial.index, ()))
    text = f"trial {trial.index}"
    if len(seeds) > 1:
      text += (
        f"; with {len(seeds)} other seeds {seeds.mean():.4g} +-"
        f" {seeds.std(ddof=1):.2g}"
      )
    if group or len(seeds) > 1:
      where = f" with {group}" if group else ""
      print(f"best {results.value(trial):.4g}{where}: {text}")
  for best, other, comparison in compare.choices(results):
    print(summary.of_choice(best, other, comparison))
  for row in importance.importances(results):
    print(summary.of_importances(row)[0])
  common.show_findings(findings)
  print(f"report: {path}")
  if path == results.path / "report.html":  # Else no next study is written.
    workdir, _ = commands.fresh_number(str(results.path), "round", 1)
    command = commands.suggested(
      *("study", "run", results.path / "next_study.py", f"--workdir={workdir}"),
      keep=commands.RUNNER,
      of=results.study.get("command"),
    )
    common.show_next(
      "edit the study that the findings suggest, and run it", command
    )


def _report(arguments, rest):
  common.no_more(rest, arguments)
  names = ("path", "objective", "out", "figures", "format")
  kind = reading.kind_of(**common.given(arguments, *names))
  shown = {"study": _report_study, "run": _report_run, "ladder": _report_ladder}
  return shown[kind](arguments)


def _report_study(arguments):
  from jaxplay import report

  def read():
    return results_lib.read_study(arguments.path, arguments.objective)

  read()  # Refuses before a folder is made.
  arguments_lib.make_folder(arguments.figures)
  while True:
    results = read()
    ended = [t for t in results.trials if t.status in results_lib.ENDED]
    is_live = arguments.live and len(ended) < len(results.trials)
    findings, path = reading.write_study(results, is_live, arguments.out)
    if not is_live:
      break
    print(f"{path}: {len(ended)} of {len(results.trials)} trials", flush=True)
    time.sleep(reading.LIVE_SECONDS)
  reading.write_figures(results, arguments.figures, arguments.format)
  if arguments.json:
    print(json.dumps(report.as_json(results, findings), indent=1))
  else:
    show_study(results, findings, path)
  return 0


def _report_ladder(arguments):
  if arguments.live:
    raise jaxplay.UserError(
      f"--live cannot be given for {arguments.path!r}: it holds a ladder, which"
      " is reported once; give it for a study or a run"
    )
  results = scaling_lib.read_ladder(arguments.path)
  arguments_lib.make_folder(arguments.figures)
  law, why, findings, path = scaling_lib.write_ladder(results, arguments.out)
  scaling_lib.write_figures(results, law, arguments.figures, arguments.format)
  if arguments.json:
    as_json = {
      "law": law and law.as_json(),
      "findings": [finding.as_json() for finding in findings],
    }
    print(json.dumps(as_json, indent=1))
  else:
    scaling.show_report(results, law, why, findings, path)
  return 0


def _report_run(arguments):
  of_run = (arguments.path, arguments.objective)
  if arguments.objective or arguments.figures:
    reading.read(*of_run)  # Refuses before a folder is made.
    arguments_lib.make_folder(arguments.figures)
  while True:
    trial = results_lib.read_run(arguments.path)
    is_live = arguments.live and trial.status == "running"
    findings, path = reading.write_run(
      arguments.path, trial, arguments.objective, is_live, arguments.out
    )
    if not is_live:
      break
    print(f"{path}: step {trial.step} of {trial.max_train_steps}", flush=True)
    time.sleep(reading.LIVE_SECONDS)
  reading.write_run_figures(*of_run, arguments.figures, arguments.format)
  if arguments.json:
    print(json.dumps([finding.as_json() for finding in findings], indent=1))
  else:
    print(f"report: {path}")
  return 0


def _compare(arguments, rest):
  from jaxplay.analysis import summary

  common.no_more(rest, arguments)
  paths = (arguments.baseline, arguments.candidate)
  for side in paths:
    if arguments.out is not None and rundir.at(side).is_dir():
      rundir.refuse_links_in(side, arguments.out)
  sides = [reading.read(path, arguments.objective) for path in paths]
  comparison = reading.compare(
    *paths, **common.given(arguments, "objective", "smallest", "log")
  )
  findings = [reading.check_trials(results) for results in sides]
  if arguments.json:
    print(json.dumps(comparison.as_json(), indent=1))
  else:
    both = dict(zip(("baseline", "candidate"), sides, strict=True))
    for sentence in summary.of_both(comparison, both, findings):
      print(sentence)
    for sentence in (*comparison.caveats, comparison.advice):
      print(f"  {sentence}")
  if arguments.json and arguments.out is None:
    return 0
  path = reading.write_comparison(
    *sides, comparison, findings, out=arguments.out
  )
  if not arguments.json:
    print(f"comparison: {path}")
  return 0
