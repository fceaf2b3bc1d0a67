"""The command line: `jaxplay VERB ...`; the only module that knows flags.

Exit codes: 0 done, 1 the run failed, 2 the request was wrong (one sentence, no
traceback), 75 preempted and resumable, 130 interrupted outside the loop.
"""

import argparse
import collections
import difflib
import json
import math
import os
import pathlib
import select
import shutil
import sys
import time
import traceback

import jaxplay

_LIVE_SECONDS = 10.0
EXIT_FAILED, EXIT_WRONG, EXIT_PREEMPTED, EXIT_INTERRUPTED = 1, 2, 75, 130


def main(argv: list[str] | None = None) -> int:
  """Runs a command line; returns the exit code."""
  arguments = None
  try:
    arguments, rest = _parser().parse_known_args(argv)
    code = arguments.verb(arguments, rest)
    sys.stdout.flush()
  except BrokenPipeError:
    code = _broken_pipe()
  except jaxplay.UserError as error:
    print(f"jaxplay: {error}", file=sys.stderr)
    code = EXIT_WRONG
  except PermissionError as error:
    print(f"jaxplay: no permission: {error.filename!r}", file=sys.stderr)
    code = EXIT_WRONG
  except KeyboardInterrupt:
    print("jaxplay: interrupted; the same command resumes", file=sys.stderr)
    code = EXIT_INTERRUPTED
  except Exception:
    traceback.print_exc()
    code = EXIT_FAILED
  if code not in (0, EXIT_PREEMPTED) and _one_of_several(arguments):
    # Without the farewell of Python and JAX: they would wait for the others.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return code


def _broken_pipe():
  """Exit code: 0 where the reader of our output, `head`, has seen enough."""
  output = select.poll()
  output.register(1)
  if any(
    event & (select.POLLERR | select.POLLHUP) for _, event in output.poll(0)
  ):
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # For what is not yet flushed.
    return 0
  traceback.print_exc()  # It was another pipe, such as a worker's.
  return EXIT_FAILED


class _Parser(argparse.ArgumentParser):
  """Tells a mistake as any other: in a sentence, without the usage."""

  def error(self, message):
    raise jaxplay.UserError(f"{message}; see {self.prog} --help")


def _number(text):
  """Type of arguments that count something."""
  if not text.isdecimal() or not int(text):
    raise argparse.ArgumentTypeError(
      f"it is {text!r}; it must be at least 1, and whole"
    )
  return int(text)


def _size(text):
  """Type of arguments that measure something."""
  try:
    number = float(text)
  except ValueError:
    number = math.nan
  if not 0 <= number < math.inf:
    raise argparse.ArgumentTypeError(
      f"it is {text!r}; it must be a number of at least 0"
    )
  return number


def _folder(text):
  """Type of arguments that name a folder, to be made if need be."""
  path = pathlib.Path(text)
  if path.exists() and not path.is_dir():
    raise argparse.ArgumentTypeError(f"{text!r} is a file, not a folder")
  return path


def _parser():
  parser = _Parser(
    prog="jaxplay",
    description="The Deep Learning Tuning Playbook as working software.",
  )
  parser.add_argument(
    "--version", action="version", version=jaxplay.__version__
  )
  verbs = parser.add_subparsers(metavar="VERB", required=True)

  _add_train(verbs)
  _add_study(verbs)
  _add_report(verbs)
  return parser


def _add_train(verbs):
  train = verbs.add_parser(
    "train",
    help="train one config in one run directory; the same command resumes",
    description="Trains one config in one run directory. The same command on"
    " the same workdir resumes. Every key of the config can be overridden by"
    " --config.KEY=VALUE; jaxplay/config.py lists them all.",
    allow_abbrev=False,
  )
  train.add_argument(
    "--config", required=True, metavar="FILE[:ARG]", help="experiment file"
  )
  train.add_argument(
    "--workdir", metavar="RUN", help="run directory, made if need be"
  )
  train.add_argument(
    "--dry_run",
    action="store_true",
    help="compile, print config, parameters, FLOPs and memory, and stop",
  )
  _add_devices(train)
  train.set_defaults(verb=_train)


def _add_devices(verb):
  """Arguments of what computes."""
  verb.add_argument(
    "--fake_devices",
    type=_number,
    metavar="N",
    help="emulate N devices on the CPU",
  )
  verb.add_argument(
    "--distributed",
    action="store_true",
    help="one of several processes, found by JAX (TPU pod, Slurm, ...)",
  )
  verb.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="with several processes: process 0",
  )
  verb.add_argument("--num_processes", type=int, metavar="N")
  verb.add_argument("--process_id", type=int, metavar="I")


def _add_study(verbs):
  study = verbs.add_parser(
    "study",
    help="quasi-random studies: run, extend, rerun, status, list, export",
    description="Runs and reads studies. A study is a Python file with"
    " get_study(), and a directory of trials.",
  )
  study = study.add_subparsers(metavar="ACTION", required=True)

  run = study.add_parser(
    "run",
    help="run what is not finished of a study; the same command resumes",
    allow_abbrev=False,
  )
  run.add_argument("file", metavar="FILE", help="study file, with get_study()")
  run.add_argument(
    "--workdir", required=True, metavar="STUDY", help="study directory"
  )
  run.add_argument(
    "--trials",
    metavar="A:B",
    help="only trials A to B - 1, or a single one (for job arrays)",
  )
  _add_runner(run)
  run.set_defaults(verb=_study_run)

  extend = study.add_parser(
    "extend", help="lengthen a study and run the new trials", allow_abbrev=False
  )
  extend.add_argument("study", metavar="STUDY")
  extend.add_argument(
    "--trials", required=True, type=_number, metavar="N", help="new total"
  )
  _add_runner(extend)
  extend.set_defaults(verb=_study_extend)

  rerun = study.add_parser(
    "rerun",
    help="run a trial again with other seeds: its retrain variance",
    allow_abbrev=False,
  )
  rerun.add_argument("study", metavar="STUDY")
  which = rerun.add_mutually_exclusive_group(required=True)
  which.add_argument("--best", action="store_true", help="the best trial")
  which.add_argument(
    "--best_of_each",
    action="store_true",
    help="the best trial of each scientific value",
  )
  which.add_argument("--trial", type=int, metavar="I", help="trial I")
  rerun.add_argument("--seeds", type=_number, default=5, metavar="N")
  _add_runner(rerun)
  rerun.set_defaults(verb=_study_rerun)

  status = study.add_parser("status", help="how far a study is")
  status.add_argument("study", metavar="STUDY")
  status.set_defaults(verb=_study_status)

  table = study.add_parser("list", help="a table of all studies in a folder")
  table.add_argument("root", metavar="ROOT")
  table.add_argument("--csv", action="store_true", help="as CSV")
  table.set_defaults(verb=_study_list)

  export = study.add_parser("export", help="the trials, for other programs")
  export.add_argument("study", metavar="STUDY")
  to = export.add_mutually_exclusive_group(required=True)
  to.add_argument("--csv", action="store_true", help="CSV on the terminal")
  to.add_argument(
    "--optuna",
    metavar="URL",
    help="an Optuna storage, such as sqlite:///FILE or postgresql://...",
  )
  export.set_defaults(verb=_study_export)


def _add_runner(verb):
  verb.add_argument(
    "--runner",
    default="population",
    choices=("population", "processes"),
    help="all trials in one program (default), or a process for each",
  )
  verb.add_argument(
    "--parallel",
    type=_number,
    default=1,
    metavar="N",
    help="processes: so many at a time",
  )
  verb.add_argument(
    "--retry_failed",
    action="store_true",
    help="try the trials again that crashed twice",
  )
  verb.add_argument(
    "--no_report", action="store_true", help="write no report at the end"
  )
  _add_devices(verb)


def _add_report(verbs):
  report = verbs.add_parser(
    "report",
    help="report.html of a study or of a run, finished or not",
    allow_abbrev=False,
  )
  report.add_argument("path", metavar="STUDY|RUN")
  report.add_argument(
    "--objective",
    metavar="METRIC",
    help="judge by another logged metric; final:METRIC for its last value",
  )
  report.add_argument(
    "--json", action="store_true", help="answer and findings as JSON"
  )
  report.add_argument(
    "--figures",
    type=_folder,
    metavar="DIR",
    help="write each figure as a file, too",
  )
  report.add_argument(
    "--format", default="svg", choices=("svg", "png"), help="of the figures"
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
  compare.add_argument("baseline", metavar="BASELINE")
  compare.add_argument("candidate", metavar="CANDIDATE")
  compare.add_argument(
    "--objective", metavar="METRIC", help="judge by another logged metric"
  )
  compare.add_argument(
    "--smallest",
    type=_size,
    default=0.0,
    metavar="X",
    help="least improvement that is worth the complexity of the change",
  )
  compare.add_argument(
    "--log",
    metavar="FILE.md",
    help="append verdict and evidence to a log of launches",
  )
  compare.add_argument("--json", action="store_true", help="as JSON")
  compare.set_defaults(verb=_compare)


def _train(arguments, rest):
  from jaxplay import config as config_lib

  config = config_lib.load(arguments.config, _overrides(rest, vars(arguments)))
  config_lib.validate(config)
  if not arguments.workdir and not arguments.dry_run:
    raise jaxplay.UserError("--workdir is missing: where the run is to be kept")
  _start_jax(arguments)

  import jax

  config_lib.validate(config, jax.device_count())
  console = _Console(quiet=jax.process_index() != 0)
  for sentence in config_lib.notes(config):
    console.tell(f"note: {sentence}")
  if arguments.dry_run:
    from jaxplay.training import dry_run

    for part in dry_run.describe(config):
      console.tell(part)
    return 0

  from jaxplay.training import train

  try:
    with console:
      status = train.train(config, arguments.workdir, console)
  except jax.errors.JaxRuntimeError as error:
    print(f"jaxplay: {_runtime_error(error)}", file=sys.stderr)
    return EXIT_FAILED
  if jax.process_index() == 0:
    _close(arguments, status)
  return EXIT_PREEMPTED if status["status"] == "preempted" else 0


def _study_run(arguments, rest):
  from jaxplay.study import study as study_lib

  _no_more(rest, arguments)
  definition, notes = study_lib.load(arguments.file)
  directory = study_lib.StudyDir(arguments.workdir)
  num_trials = directory.merged(definition)["num_trials"]
  which = _slice(arguments.trials, num_trials)
  directory.create(definition)
  for sentence in notes:
    print(f"note: {sentence}")
  return _run_trials(arguments, directory, which)


def _study_extend(arguments, rest):
  from jaxplay.study import study as study_lib

  _no_more(rest, arguments)
  directory = study_lib.StudyDir(arguments.study)
  directory.extend(arguments.trials)
  return _run_trials(arguments, directory, range(arguments.trials))


def _run_trials(arguments, directory, which):
  """Runs trials of a study, as far as they are not finished."""
  from jaxplay.study import runners
  from jaxplay.study import study as study_lib

  study, points = directory.study(), directory.points()
  jobs = [
    runners.Job(
      f"trials/{index:04d}",
      directory.trial(index),
      study_lib.trial_config(study["config"], points[index]),
    )
    for index in which
  ]
  return _run_jobs(arguments, directory, jobs)


def _study_rerun(arguments, rest):
  from jaxplay.analysis import results as results_lib
  from jaxplay.analysis import trials
  from jaxplay.study import runners
  from jaxplay.study import study as study_lib

  _no_more(rest, arguments)
  directory = study_lib.StudyDir(arguments.study)
  study, points = directory.study(), directory.points()
  results = results_lib.read_study(arguments.study)
  if arguments.trial is not None:
    indices = [arguments.trial]
  elif arguments.best:
    indices = [trial.index for trial in results.ranked[:1]]
  else:
    each = trials.best_of_each(results)
    indices = [trial.index for trial in each.values()]
  if not indices:
    raise jaxplay.UserError(
      f"{arguments.study!r} has no completed trial yet, so there is no best"
      " one to run again"
    )
  if not 0 <= indices[0] < len(points):
    raise jaxplay.UserError(
      f"there is no trial {indices[0]}; the study has trials 0 to"
      f" {len(points) - 1}"
    )
  seeds = [study["config"]["seed"] + 1 + i for i in range(arguments.seeds)]
  jobs = [
    runners.Job(
      f"reruns/{index:04d}/{seed}",
      directory.rerun(index, seed),
      study_lib.trial_config(study["config"], points[index], seed=seed),
    )
    for index in indices
    for seed in seeds
  ]
  return _run_jobs(arguments, directory, jobs)


def _slice(text, num):
  """Indices that --trials names: "7", "0:20", ":20", "20:"."""
  if text is None:
    return range(num)
  first, colon, last = text.partition(":")
  try:
    first = int(first) if first or not colon else 0
    last = (int(last) if last else num) if colon else first + 1
  except ValueError:
    raise jaxplay.UserError(
      f"--trials is {text!r}; it is a number, such as 7, or a range, 0:20"
    ) from None
  if not 0 <= first < last <= num:
    raise jaxplay.UserError(
      f"--trials={text} names trials {first} to {last - 1}, but the study has"
      f" trials 0 to {num - 1}"
    )
  return range(first, last)


def _run_jobs(arguments, directory, jobs):
  """Runs jobs of a study by the runner that was asked for."""
  from jaxplay.study import runners

  if arguments.retry_failed:
    for job in jobs:
      job.forgive()
  if not any(job.is_open() for job in jobs):
    print("nothing to run")
    return _close_study(arguments, directory, jobs)
  console = _Console(
    quiet=bool(arguments.process_id),
    names=("trials", "best", "infeasible"),
    log_seconds=5.0,
  )
  progress = runners.Progress(jobs, console)
  with console:
    if arguments.runner == "processes":
      finished = runners.run_processes(
        jobs,
        parallel=arguments.parallel,
        progress=progress,
        tell=console.tell,
        options=_device_options(arguments),
      )
    else:
      finished = _run_populations(arguments, directory, jobs, progress, console)
  if console.quiet:  # One host says how it went.
    return 0 if finished else EXIT_PREEMPTED
  if not finished:
    print("stopped; the same command goes on where it was")
    return EXIT_PREEMPTED
  return _close_study(arguments, directory, jobs)


def _device_options(arguments):
  """What a trial's own process is to be told of the devices."""
  if arguments.fake_devices is None:
    return []
  return [f"--fake_devices={arguments.fake_devices}"]


def _run_populations(arguments, directory, jobs, progress, console):
  from jaxplay.study import runners

  _start_jax(arguments, cores_as_devices=True)

  import jax

  from jaxplay.training import population, sharding

  console.quiet = jax.process_index() != 0
  return runners.run_populations(
    jobs,
    study=directory.path,
    make_group=lambda configs: population.Group(configs, console.tell),
    progress=progress,
    tell=console.tell,
    first=sharding.from_first_host,
  )


def _close_study(arguments, directory, jobs):
  """Says how the jobs ended; writes the report once the study is finished."""
  from jaxplay import rundir
  from jaxplay.analysis import results as results_lib

  statuses = [job.run.status() for job in jobs]
  counts = collections.Counter(s.get("status", "waiting") for s in statuses)
  told = ", ".join(f"{n} {name}" for name, n in sorted(counts.items()))
  print(f"\n{len(jobs)} trials: {told}")
  for job, status in zip(jobs, statuses, strict=True):
    if status.get("status") == "failed":
      print(f"  {job.name} crashed: {status.get('reason')}")
  if counts["failed"]:
    print("once that is mended, the same command with --retry_failed")
  if set(counts) - {*rundir.DONE, "failed"}:
    print("what is not finished belongs to another runner")
  results = results_lib.read_study(directory.path)
  left = [t for t in results.trials if t.status not in results_lib.ENDED]
  if left:
    print(f"{len(left)} trials of the study are still to come")
  elif not arguments.no_report:
    _show_report(results, *_write_report(results))
  return EXIT_FAILED if counts["failed"] else 0


def _write_report(results, live=False):
  """Checks a study and writes all that is derived from it.

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
  directory.own.write_findings([found.as_json() for found in findings])
  rundir.write_text(directory.path / "next_study.py", next_study)
  table = study_lib.as_csv(results_lib.trial_rows(results))
  rundir.write_text(directory.path / "trials.csv", table)
  path = directory.path / "report.html"
  report.write(results, findings, path=path, next_study=next_study, live=live)
  return findings, path


def _show_report(results, findings, path):
  """The answer in a few lines, and where to read on."""
  from jaxplay.analysis import compare, trials

  if results.ranked:
    best = results.ranked[0]
    print(
      f"best {results.objective} {results.value(best):.4g} by trial"
      f" {best.index}:"
    )
    width = max(map(len, best.point), default=0) + 2
    for label, value in best.point.items():
      print(f"  {label:<{width}}{_short(value)}")
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
    low, high = found.interval
    is_better = "better" if found.verdict == "adopt" else "cannot be told apart"
    print(
      f"{best} against {other}: {is_better}, by {found.improvement:.4g} (95 %:"
      f" {low:.4g} to {high:.4g})"
    )
  shown = [found for found in findings if found.verdict in ("warn", "fail")]
  for found in shown:
    print(f"  {found.verdict}: {found.check} ({found.subject}): {found.advice}")
  print(f"report: {path}")
  print(f"next study, to be edited: {path.parent / 'next_study.py'}")


def _study_status(arguments, rest):
  from jaxplay.analysis import results as results_lib

  _no_more(rest, arguments)
  results = results_lib.read_study(arguments.study)
  counts = collections.Counter(trial.status for trial in results.trials)
  print(results.study["goal"])
  for name, number in sorted(counts.items()):
    print(f"  {name:<12}{number}")
  reruns = sum(map(len, results.reruns.values()))
  if reruns:
    print(f"  {'reruns':<12}{reruns}")
  if results.ranked:
    best = results.ranked[0]
    print(
      f"best {results.objective} {results.value(best):.4g} by trial"
      f" {best.index}, of {len(results.ranked)}"
    )
  return 0


def _study_list(arguments, rest):
  from jaxplay.analysis import results as results_lib
  from jaxplay.study import study as study_lib

  _no_more(rest, arguments)
  directories = study_lib.find(arguments.root)
  rows = [results_lib.tracking_row(directory) for directory in directories]
  if arguments.csv:
    print(study_lib.as_csv(rows), end="")
  elif rows:
    for row in rows:
      print(row.pop("study"))
      for name, value in row.items():
        if value not in (None, ""):
          print(f"  {name:<20}{_short(value)}")
  else:
    print(f"no studies in {arguments.root}")
  return 0


def _study_export(arguments, rest):
  from jaxplay.analysis import results as results_lib
  from jaxplay.study import study as study_lib

  _no_more(rest, arguments)
  results = results_lib.read_study(arguments.study)
  if arguments.csv:
    print(study_lib.as_csv(results_lib.trial_rows(results)), end="")
    return 0
  from jaxplay.analysis import optuna_export

  name, added = optuna_export.export(results, arguments.optuna)
  trials = "trial" if added == 1 else "trials"
  print(f"{added} {trials} added to the study {name!r} in {arguments.optuna}")
  return 0


def _report(arguments, rest):
  from jaxplay import report
  from jaxplay.analysis import results as results_lib

  _no_more(rest, arguments)
  if not (pathlib.Path(arguments.path) / "study.json").exists():
    return _report_run(arguments)
  while True:
    results = results_lib.read_study(arguments.path, arguments.objective)
    open_ = [t for t in results.trials if t.status not in results_lib.ENDED]
    findings, path = _write_report(results, live=arguments.live and bool(open_))
    if not arguments.live or not open_:
      break
    print(
      f"{path}: {len(results.trials) - len(open_)} of"
      f" {len(results.trials)} trials",
      flush=True,
    )
    time.sleep(_LIVE_SECONDS)
  if arguments.figures:
    report.figures(results, arguments.figures, arguments.format)
  if arguments.json:
    print(json.dumps(report.as_json(results, findings), indent=1))
  else:
    _show_report(results, findings, path)
  return 0


def _report_run(arguments):
  from jaxplay import report, rundir
  from jaxplay.analysis import compare, curves
  from jaxplay.analysis import results as results_lib

  run = rundir.RunDir(arguments.path)
  if arguments.objective or arguments.figures:
    results = compare.read(arguments.path, arguments.objective)
  while True:
    trial = results_lib.read_run(arguments.path)
    objective = arguments.objective or run.config()["objective"]
    findings = curves.check_trial(trial, objective)
    live = arguments.live and trial.status == "running"
    path = run.path / "report.html"
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
    report.figures(results, arguments.figures, arguments.format)
  if arguments.json:
    print(json.dumps([found.as_json() for found in findings], indent=1))
  else:
    print(f"report: {path}")
  return 0


def _compare(arguments, rest):
  from jaxplay.analysis import compare

  _no_more(rest, arguments)
  baseline, candidate = (
    compare.read(path, arguments.objective)
    for path in (arguments.baseline, arguments.candidate)
  )
  comparison = compare.compare(baseline, candidate, arguments.smallest)
  if arguments.log:
    entry = compare.log_entry(comparison, time.strftime("%Y-%m-%d"))
    _append(arguments.log, entry)
  if arguments.json:
    print(json.dumps(comparison.as_json(), indent=1))
  else:
    _show_comparison(comparison)
  return 0


def _append(path, text):
  try:
    with open(path, "a", encoding="utf-8") as file:
      file.write(text)
  except OSError as error:
    raise jaxplay.UserError(
      f"cannot write {path!r}: {error.strerror}"
    ) from None


def _show_comparison(comparison):
  """The verdict first, then what it rests on."""
  low, high = comparison.interval
  print(
    f"{comparison.verdict}: the candidate improves {comparison.objective} by"
    f" {comparison.improvement:.4g} (95 %: {low:.4g} to {high:.4g})"
  )
  sides = {"baseline": comparison.baseline, "candidate": comparison.candidate}
  for name, side in sides.items():
    source = side.deviation_from
    if side.num_reruns < 2:
      source = f"{side.num_reruns or 'no'} reruns; +- is {source}"
    print(
      f"  {name:<12}{side.mean:.4g} +- {side.deviation:.2g} ({source});"
      f" {side.name}, trial {side.trial}"
    )
  for key, (old, new) in comparison.changes.items():
    print(f"  {key:<32}{_short(old)} -> {_short(new)}")
  for sentence in (*comparison.caveats, comparison.advice):
    print(sentence)


def _no_more(rest, arguments):
  """Refuses arguments that argparse left over."""
  for word in rest:
    name = word.partition("=")[0].lstrip("-")
    known = difflib.get_close_matches(name, vars(arguments), 1)
    hint = f"; did you mean --{known[0]}?" if known else ""
    raise jaxplay.UserError(f"unknown argument {word!r}{hint}")


def _overrides(rest, flags):
  """--config.KEY=VALUE, also as two words, from what argparse left over."""
  overrides, words = {}, list(rest)
  while words:
    word = words.pop(0)
    if not word.startswith("--config."):
      name = word.partition("=")[0].lstrip("-")
      known = difflib.get_close_matches(name, flags, 1)
      hint = f"did you mean --{known[0]}? " if known else ""
      raise jaxplay.UserError(
        f"unknown argument {word!r}; {hint}Config keys are set by"
        " --config.KEY=VALUE"
      )
    key, equals, value = word.removeprefix("--config.").partition("=")
    if not equals:
      if not words:
        raise jaxplay.UserError(f"{word} has no value; write {word}=VALUE")
      value = words.pop(0)
    overrides[key] = value
  return overrides


def _start_jax(arguments, cores_as_devices=False):
  """Devices, processes and the compilation cache, before JAX looks at them.

  Args:
    arguments: Of the command line.
    cores_as_devices: Whether each core of a CPU is to be a device.
  """
  import jax

  if cores_as_devices and not _one_of_several(arguments):
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))

  if arguments.fake_devices is not None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", arguments.fake_devices)
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    jax.config.update(
      "jax_compilation_cache_dir", str(pathlib.Path(cache) / "jaxplay" / "xla")
    )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  if _one_of_several(arguments):
    process = (arguments.num_processes, arguments.process_id)
    if arguments.coordinator is not None and None in process:
      raise jaxplay.UserError(
        "--coordinator needs --num_processes and --process_id as well"
      )
    jax.distributed.initialize(
      arguments.coordinator,
      *process,
      # A host that dies ends the others within this time.
      heartbeat_timeout_seconds=30,
    )


def _one_of_several(arguments):
  """Whether this process is one of a job's."""
  given = vars(arguments) if arguments else {}  # Not all verbs compute.
  return given.get("distributed") or given.get("coordinator") is not None


def _runtime_error(error):
  """A sentence on what the devices, or the other hosts, ran into."""
  import jax

  text = str(error).strip().split("\n")[0]
  if "RESOURCE_EXHAUSTED" in text:
    return (
      f"out of device memory ({text}); use a smaller config.batch_size, more"
      " config.microbatches, or split parameters by config.mesh.fsdp"
    )
  if jax.process_count() > 1:
    return (
      f"the job broke, most likely because another host is gone ({text}); start"
      " it again to resume from the newest checkpoint"
    )
  return f"the run failed on the device: {text}"


class _Console:
  """A progress bar on a terminal, plain lines in a log."""

  def __init__(
    self, quiet, names=("train/loss", "valid/error_rate"), log_seconds=0.0
  ):
    """Shows nothing yet.

    Args:
      quiet: Whether to show nothing at all.
      names: What to show beside the progress.
      log_seconds: Least time between lines of progress in a log.
    """
    self.quiet, self._bar = quiet, None
    self._terminal = sys.stderr.isatty()
    self._names, self._log_seconds = names, log_seconds
    self._unshown, self._shown_at = None, -log_seconds

  def __enter__(self):
    return self

  def tell(self, sentence):
    if self.quiet:
      return
    if self._bar is not None:
      self._bar.clear()
    self._print(sentence)

  def progress(self, done, total, line):
    if self.quiet:
      return
    shown = {
      name.replace("error_rate", "error"): _short(line[name])
      for name in self._names
      if line.get(name) is not None
    }
    if not self._terminal:
      values = "  ".join(f"{k} {v}" for k, v in shown.items())
      self._unshown = shown and f"step {done}/{total}  {values}"
      if time.monotonic() - self._shown_at >= self._log_seconds:
        self._show_line()
      return
    if self._bar is None:
      import tqdm

      self._shown = {}
      self._bar = tqdm.tqdm(
        total=total, initial=done, unit="step", dynamic_ncols=True
      )
    self._shown |= shown
    self._bar.set_postfix(self._shown, refresh=False)
    self._bar.update(done - self._bar.n)

  def _show_line(self):
    if self._unshown:
      self._print(self._unshown)
      self._unshown, self._shown_at = None, time.monotonic()

  def _print(self, text):
    try:
      print(text, flush=True)
    except BrokenPipeError:  # `| head` must not end a run of days.
      self.quiet = True
      sys.stdout = open(os.devnull, "w")

  def __exit__(self, *unused):
    self._show_line()
    if self._bar is not None:
      self._bar.close()


def _short(value):
  return f"{value:.4g}" if isinstance(value, float) else str(value)


def _close(arguments, status):
  """Writes the run's findings, and the closing summary."""
  from jaxplay import rundir
  from jaxplay.analysis import curves

  run = rundir.RunDir(arguments.workdir)
  findings = curves.check_run(run)
  run.write_findings([found.as_json() for found in findings])
  print(f"\n{_headline(status)}")
  best, test = status.get("best"), status.get("test")
  rows = []
  if best:
    rows.append((f"best {best['metric']}", f"{best['value']:.4g}"))
    rows.append(("at step", f"{best['step']} of {status['max_train_steps']}"))
  if test:
    rows.append(("test error there", f"{test['test/error_rate']:.4g}"))
  rows.append(("run directory", arguments.workdir))
  for name, value in rows:
    print(f"  {name:<24}{value}")
  for found in findings:
    if found.verdict in ("warn", "fail"):
      print(f"  {found.verdict}: {found.check}: {found.advice}")
  what, command = _next(arguments, status)
  print(f"next: {what}\n  {command}")


def _headline(status):
  if status["status"] == "infeasible":
    return (
      f"infeasible: {status['reason']}. Training diverged; a lower learning"
      " rate, warmup or clipping may help"
    )
  if status["status"] == "preempted":
    return f"preempted at step {status['step']}; the same command resumes"
  return f"completed {status['step']} steps in {status['seconds']:.0f} s"


def _next(arguments, status):
  """What to type next, and why."""
  program = "jaxplay" if shutil.which("jaxplay") else sys.argv[0]
  if status["status"] == "preempted":
    return "to resume", " ".join([program, *sys.argv[1:]])
  command = f"{program} train --config={arguments.config} --workdir=ANOTHER"
  rate = (status.get("final") or {}).get("learning_rate")
  if status["status"] == "infeasible" and rate:
    lower = f"--config.hparams.learning_rate={rate / 10:.2g}"
    return "a tenth of the learning rate", f"{command} {lower}"
  return (
    "another seed, to see how much it matters",
    f"{command} --config.seed=1",
  )


if __name__ == "__main__":
  sys.exit(main())
