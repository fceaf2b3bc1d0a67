"""The verbs that look back: `jaxplay report` and `jaxplay compare`."""

import json
import re
import time

import jaxplay
from jaxplay import commands
from jaxplay.cli import common, scaling

_LIVE_SECONDS = 10.0


def add(verbs):
  report = verbs.add_parser(
    "report",
    help="report.html of a study, a run or a ladder, finished or not",
    allow_abbrev=False,
  )
  report.add_argument("path", type=common.place, metavar="STUDY|RUN|LADDER")
  report.add_argument(
    "--objective",
    type=common.word,
    metavar="METRIC",
    help="judge by another logged metric, on a page of its own; final:METRIC"
    " for its last value",
  )
  report.add_argument(
    "--json", action="store_true", help="answer and findings as JSON"
  )
  report.add_argument(
    "--out",
    type=common.page,
    metavar="FILE.html",
    help="write the page there, and nothing in the directory that it is about",
  )
  report.add_argument(
    "--figures",
    type=common.folder,
    metavar="DIR",
    help="write each figure as a file, too",
  )
  report.add_argument(
    "--format", choices=("svg", "png"), help="of the figures (default svg)"
  )
  report.add_argument(
    "--live",
    action="store_true",
    help="renew the report until the study is finished",
  )
  report.set_defaults(verb=_report)

  compare = verbs.add_parser(
    "compare",
    help="whether a candidate study is to replace a baseline",
    allow_abbrev=False,
  )
  compare.add_argument("baseline", type=common.place, metavar="BASELINE")
  compare.add_argument("candidate", type=common.place, metavar="CANDIDATE")
  compare.add_argument(
    "--objective",
    type=common.word,
    metavar="METRIC",
    help="judge by another logged metric",
  )
  compare.add_argument(
    "--smallest",
    type=common.size,
    default=0.0,
    metavar="X",
    help="least improvement that is worth the complexity of the change",
  )
  compare.add_argument(
    "--log",
    type=common.log,
    metavar="FILE.md",
    help="append verdict and evidence to a log of launches",
  )
  compare.add_argument(
    "--out",
    type=common.page,
    metavar="FILE.html",
    help="the page that shows both (default comparison.html in CANDIDATE)",
  )
  compare.add_argument(
    "--json", action="store_true", help="as JSON, and no page without --out"
  )
  compare.set_defaults(verb=_compare)


def write_study(results, live=False, out=None):
  """Checks a study and writes all that is derived from it.

  Under another objective than the study's own that is a page of another name,
  and nothing else: what the study itself found stays.

  Args:
    results: The study.
    live: Whether the page is to load itself again.
    out: Where to write the page, and nothing else; None: all, in the study.

  Returns:
    (findings, path of the report)
  """
  from jaxplay import report, rundir
  from jaxplay.analysis import checklist, refine
  from jaxplay.analysis import results as results_lib
  from jaxplay.study import study as study_lib

  directory = study_lib.StudyDir(results.path)
  findings = checklist.check_study(results)
  next_study = refine.next_study(results, findings)
  objective = (results.select, results.objective)
  is_own = objective == study_lib.parse_objective(results.study["objective"])
  page = "report.html" if is_own else _page_name(*objective)
  path = out or directory.path / page
  with rundir.written(path, common.OUT):
    if out is None and is_own:
      directory.own.write_findings([found.as_json() for found in findings])
      rundir.write_text(directory.path / "next_study.py", next_study)
      table = study_lib.as_csv(results_lib.trial_rows(results))
      rundir.write_text(directory.path / "trials.csv", table)
    report.write(results, findings, path=path, next_study=next_study, live=live)
  return findings, path


def _page_name(select, objective):
  """Of the page under another objective: report-valid-loss.html."""
  words = ["final"] * (select == "final") + [objective]
  return f"report-{re.sub(r'[^a-zA-Z0-9_.]+', '-', '-'.join(words))}.html"


def show_study(results, findings, path):
  """The answer in a few lines, and where to read on."""
  from jaxplay.analysis import compare, summary, trials

  if results.ranked:
    best = results.ranked[0]
    print(
      f"best {results.objective} {results.value(best):.4g} by trial"
      f" {best.index}{', adaptive' * best.adaptive}:"
    )
    width = max(map(len, best.point), default=0) + 2
    for label, value in best.point.items():
      print(f"  {label:<{width}}{common.short(value)}")
  for cell, trial in trials.best_of_each(results).items():
    seeds = results.values_of(results.reruns.get(trial.index, ()))
    told = f"trial {trial.index}"
    if len(seeds) > 1:
      told += (
        f"; with {len(seeds)} other seeds {seeds.mean():.4g} +-"
        f" {seeds.std(ddof=1):.2g}"
      )
    if cell or len(seeds) > 1:
      where = f" with {cell}" if cell else ""
      print(f"best {results.value(trial):.4g}{where}: {told}")
  for best, other, found in compare.cells(results):
    print(summary.of_choice(best, other, found))
  shown = [found for found in findings if found.verdict in ("warn", "fail")]
  for found in shown:
    print(f"  {found.verdict}: {found.check} ({found.subject}): {found.advice}")
  print(f"report: {path}")
  if path == results.path / "report.html":  # Else no next study is written.
    workdir, _ = commands.fresh_number(str(results.path), "round", 1)
    command = common.command(
      *("study", "run", results.path / "next_study.py", f"--workdir={workdir}"),
      keep=commands.RUNNER,
      of=results.study.get("command"),
    )
    common.show_next("the study that the findings suggest; edit it", command)


def _report(arguments, rest):
  from jaxplay import report, rundir
  from jaxplay.analysis import results as results_lib

  common.no_more(rest, arguments)
  if arguments.format and not arguments.figures:
    raise jaxplay.UserError(
      f"--format={arguments.format} is of the figures; add --figures=DIR"
    )
  folder = rundir.at(arguments.path)
  for path in (arguments.out, arguments.figures):
    if path is not None and folder.is_dir():
      rundir.refuse_links_in(folder, path)
  if (folder / "ladder.json").exists():
    return _report_ladder(arguments)
  if (folder / "plan.json").exists():
    raise jaxplay.UserError(
      f"{arguments.path!r} holds a plan, whose page is"
      f" {str(folder / 'report.html')!r}; the command that made it writes it"
      " anew, and its studies have reports of their own"
    )
  if not (folder / "study.json").exists():
    return _report_run(arguments)
  results_lib.read_study(arguments.path, arguments.objective)
  common.make_folder(arguments.figures)
  while True:
    results = results_lib.read_study(arguments.path, arguments.objective)
    open_ = [t for t in results.trials if t.status not in results_lib.ENDED]
    live = arguments.live and bool(open_)
    findings, path = write_study(results, live, arguments.out)
    if not live:
      break
    print(
      f"{path}: {len(results.trials) - len(open_)} of"
      f" {len(results.trials)} trials",
      flush=True,
    )
    time.sleep(_LIVE_SECONDS)
  if arguments.figures:
    report.figures(results, arguments.figures, _format(arguments))
  if arguments.json:
    print(json.dumps(report.as_json(results, findings), indent=1))
  else:
    show_study(results, findings, path)
  return 0


def _format(arguments):
  return arguments.format or "svg"


def _report_ladder(arguments):
  from jaxplay import report
  from jaxplay.scaling import ladder as ladder_lib

  if arguments.objective:
    raise jaxplay.UserError(
      f"--objective cannot be given for {arguments.path!r}: it holds a ladder,"
      " whose law is of its own loss"
    )
  if arguments.live:
    raise jaxplay.UserError(
      f"--live cannot be given for {arguments.path!r}: it holds a ladder, which"
      " is reported once; give it for a study or a run"
    )
  results = ladder_lib.read(arguments.path)
  common.make_folder(arguments.figures)
  law, *rest = scaling.write_report(results, arguments.out)
  if arguments.figures:
    report.ladder_figures(results, law, arguments.figures, _format(arguments))
  if arguments.json:
    found = [finding.as_json() for finding in rest[1]]
    as_json = law and law.as_json()
    print(json.dumps({"law": as_json, "findings": found}, indent=1))
  else:
    scaling.show_report(results, law, *rest)
  return 0


def _report_run(arguments):
  from jaxplay import report, rundir
  from jaxplay.analysis import compare, curves
  from jaxplay.analysis import results as results_lib

  run = rundir.RunDir(arguments.path)
  if arguments.objective or arguments.figures:
    results = compare.read(arguments.path, arguments.objective)
    common.make_folder(arguments.figures)
  while True:
    trial = results_lib.read_run(arguments.path)
    objective = arguments.objective or run.objective()
    findings = curves.check_trial(trial, objective)
    live = arguments.live and trial.status == "running"
    is_own = objective == run.objective()
    page = "report.html" if is_own else _page_name("best", objective)
    path = arguments.out or run.path / page
    with rundir.written(path, common.OUT):
      # So that page and file say the same.
      if is_own and not arguments.out:
        run.write_findings([found.as_json() for found in findings])
      report.write_run(
        trial,
        findings,
        path=path,
        objective=arguments.objective or "",
        live=live,
      )
    if not live:
      break
    print(f"{path}: step {trial.step} of {trial.max_train_steps}", flush=True)
    time.sleep(_LIVE_SECONDS)
  if arguments.figures:
    report.figures(results, arguments.figures, _format(arguments))
  if arguments.json:
    print(json.dumps([found.as_json() for found in findings], indent=1))
  else:
    print(f"report: {path}")
  return 0


def _compare(arguments, rest):
  from jaxplay import report, rundir
  from jaxplay.analysis import compare, summary

  common.no_more(rest, arguments)
  for side in (arguments.baseline, arguments.candidate):
    if arguments.out is not None and rundir.at(side).is_dir():
      rundir.refuse_links_in(side, arguments.out)
  baseline, candidate = (
    compare.read(path, arguments.objective)
    for path in (arguments.baseline, arguments.candidate)
  )
  comparison = compare.compare(baseline, candidate, arguments.smallest)
  both = {"baseline": baseline, "candidate": candidate}
  findings = [_checked(results) for results in both.values()]
  if arguments.log:
    entry = compare.log_entry(comparison, time.strftime("%Y-%m-%d"))
    common.append(arguments.log, entry)
  if arguments.json:
    print(json.dumps(comparison.as_json(), indent=1))
  else:
    for sentence in summary.of_both(comparison, both, findings):
      print(sentence)
    for sentence in (*comparison.caveats, comparison.advice):
      print(f"  {sentence}")
  if arguments.json and arguments.out is None:
    return 0
  path = arguments.out or rundir.at(candidate.path) / "comparison.html"
  with rundir.written(path, "--out=FILE.html writes the page elsewhere"):
    report.write_comparison(comparison, *both.values(), findings, path=path)
  if not arguments.json:
    print(f"both, side by side: {path}")
  return 0


def _checked(results):
  """The checklist of a study; of a run or of a single trial there is none."""
  from jaxplay.analysis import checklist

  return checklist.check_study(results) if len(results.trials) > 1 else []
