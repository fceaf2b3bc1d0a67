"""The verbs of studies: `jaxplay study run`, `extend`, `suggest`, ..."""

import argparse
import collections
import sys
import time

import jaxplay
from jaxplay import commands, provenance
from jaxplay.cli import common
from jaxplay.cli import report as report_verbs


def add(verbs):
  study = verbs.add_parser(
    "study",
    help="studies: run, extend, rerun, suggest, final, status, list, export",
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
    "--workdir",
    type=common.folder,
    required=True,
    metavar="STUDY",
    help="study directory",
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
  extend.add_argument("study", type=common.place, metavar="STUDY")
  extend.add_argument(
    "--trials", required=True, type=common.number, metavar="N", help="new total"
  )
  _add_runner(extend)
  extend.set_defaults(verb=_study_extend)

  rerun = study.add_parser(
    "rerun",
    help="run a trial again with other seeds: its retrain variance",
    allow_abbrev=False,
  )
  rerun.add_argument("study", type=common.place, metavar="STUDY")
  which = rerun.add_mutually_exclusive_group(required=True)
  which.add_argument("--best", action="store_true", help="the best trial")
  which.add_argument(
    "--best_of_each",
    action="store_true",
    help="the best trial of each scientific value",
  )
  which.add_argument("--trial", type=common.index, metavar="I", help="trial I")
  rerun.add_argument("--seeds", type=common.seeds, default=5, metavar="N")
  _add_runner(rerun)
  rerun.set_defaults(verb=_study_rerun)

  suggest = study.add_parser(
    "suggest",
    help="go on by Bayesian optimization, once exploration is concluded",
    allow_abbrev=False,
  )
  suggest.add_argument("study", type=common.place, metavar="STUDY")
  suggest.add_argument(
    "--trials",
    required=True,
    type=common.number,
    metavar="K",
    help="adaptive trials of the study in all; the same command resumes",
  )
  suggest.add_argument(
    "--batch",
    type=common.number,
    # Trials of a batch do not learn of each other, and each batch starts a
    # program: 4 keep a small machine busy, and 16 trials learn three times.
    default=4,
    metavar="B",
    help="trials at the same time (default 4)",
  )
  suggest.add_argument("--seed", type=common.index, default=0, metavar="S")
  suggest.add_argument(
    "--ignore_findings",
    action="store_true",
    help="even if the best trials cluster at a boundary of the space",
  )
  _add_runner(suggest)
  suggest.set_defaults(verb=_study_suggest)

  final = study.add_parser(
    "final",
    help="the best trial over seeds and, once, on the test set",
    allow_abbrev=False,
  )
  final.add_argument("study", type=common.place, metavar="STUDY")
  final.add_argument("--seeds", type=common.seeds, default=5, metavar="N")
  final.add_argument(
    "--log",
    type=common.log,
    metavar="FILE.md",
    help="log of launches to append to (default STUDY/LOG.md)",
  )
  final.add_argument(
    "--again",
    action="store_true",
    help="look at the test set again after the study went on; it is recorded",
  )
  _add_runner(final)
  final.set_defaults(verb=_study_final)

  status = study.add_parser("status", help="how far a study is")
  status.add_argument("study", type=common.place, metavar="STUDY")
  status.set_defaults(verb=_study_status)

  table = study.add_parser("list", help="a table of all studies in a folder")
  table.add_argument("root", type=common.place, metavar="ROOT")
  table.add_argument("--csv", action="store_true", help="as CSV")
  table.set_defaults(verb=_study_list)

  export = study.add_parser("export", help="the trials, for other programs")
  export.add_argument("study", type=common.place, metavar="STUDY")
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
    type=common.number,
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
  common.add_devices(verb)


def _study_run(arguments, rest):
  from jaxplay.study import study as study_lib

  common.no_more(rest, arguments)
  definition, notes = study_lib.load(arguments.file)
  directory = study_lib.StudyDir(arguments.workdir)
  num_trials = directory.merged(definition)["num_trials"]
  which = _slice(arguments.trials, num_trials)
  directory.create(definition)
  for sentence in notes:
    print(f"note: {sentence}")
  return _run_trials(arguments, directory, which)


def _study_extend(arguments, rest):

  common.no_more(rest, arguments)
  directory = _opened(arguments.study)
  directory.extend(arguments.trials)
  return _run_trials(arguments, directory, range(arguments.trials))


def _opened(path):
  """A study that was made by an earlier command, from files of the user's."""
  from jaxplay.study import study as study_lib

  directory = study_lib.StudyDir(path)
  provenance.carry(directory.own.provenance())
  return directory


def _run_trials(arguments, directory, which):
  """Runs trials of a study, as far as they are not finished."""
  from jaxplay.study import runners

  jobs = runners.trial_jobs(directory, which)
  return _run_jobs(arguments, directory, jobs)


def _study_suggest(arguments, rest):
  from jaxplay.study import runners
  from jaxplay.study import study as study_lib

  common.no_more(rest, arguments)
  directory = _opened(arguments.study)
  there = len(study_lib.adaptive(directory.study()))
  if arguments.trials < there:
    raise jaxplay.UserError(
      f"the study has {there} adaptive trials already; --trials is their total,"
      f" and {arguments.trials} is less"
    )
  if arguments.retry_failed:
    for job in runners.trial_jobs(
      directory, study_lib.adaptive(directory.study())
    ):
      job.forgive()
  explored = directory.study()["num_trials"] - there
  study_lib.check_length(explored + arguments.trials)
  while True:
    which = study_lib.adaptive(directory.study())
    jobs = runners.trial_jobs(directory, which)
    if len(which) >= arguments.trials:
      return _run_jobs(arguments, directory, jobs)
    # What a kill left of the last batch comes first.
    left = [job for job in jobs if job.is_open()]
    if left:
      finished, quiet = train_jobs(arguments, directory, left)
      if not finished or any(not (j.is_open() or j.is_done()) for j in left):
        return _closed(arguments, directory, left, finished, quiet)
    batch = _next_batch(arguments, directory, arguments.trials - len(which))
    if directory.append(batch) and common.is_first(arguments):
      first, number = batch["after"], len(batch["points"])
      print(
        f"trials {first} to {first + number - 1} of the study: suggested by"
        f" {batch['sampler']}, which was told of {batch['told']} trials",
        flush=True,
      )


def _next_batch(arguments, directory, most):
  """What `StudyDir.append` is to add: at most so many points.

  Raises:
    jaxplay.UserError: Exploration is not concluded.
  """
  from jaxplay.analysis import checklist, refine
  from jaxplay.analysis import results as results_lib
  from jaxplay.study import suggest

  results = results_lib.read_study(directory.path)
  results_lib.refuse_doubts(results)
  ended = sum(
    trial.status in results_lib.ENDED for trial in results.space_filling.trials
  )
  if ended < suggest.FEWEST or not results.ranked:
    explore = common.command(
      *("study", "extend", arguments.study),
      f"--trials={max(len(results.trials), suggest.FEWEST)}",
      keep=commands.RUNNER,
    )
    raise jaxplay.UserError(
      f"{arguments.study!r} has {ended} finished trials, {len(results.ranked)}"
      f" of them with a value, and a suggestion needs {suggest.FEWEST} and a"
      f" value; explore first: {explore}"
    )
  findings = checklist.check_study(results)
  bad = [
    found.subject
    for found in findings
    if found.check == "search_space_boundary"
    and found.verdict in ("warn", "fail")
  ]
  if bad and not arguments.ignore_findings:
    raise jaxplay.UserError(
      f"the best trials of {arguments.study!r} cluster at a boundary of"
      f" {', '.join(bad)}, so better ones may lie outside; run its"
      " next_study.py, which this writes:"
      f" {common.command('report', arguments.study)}, or go on in this space"
      " with --ignore_findings"
    )
  return refine.next_batch(
    results,
    findings,
    num=min(arguments.batch, most),
    seed=arguments.seed,
  )


def _study_rerun(arguments, rest):
  from jaxplay.analysis import results as results_lib
  from jaxplay.analysis import trials
  from jaxplay.study import runners

  common.no_more(rest, arguments)
  directory = _opened(arguments.study)
  points = directory.points()
  results = results_lib.read_study(arguments.study)
  if arguments.trial is None:  # Which one is the best depends on all of them.
    results_lib.refuse_doubts(results)
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
  jobs = runners.rerun_jobs(directory, indices, arguments.seeds)
  return _run_jobs(arguments, directory, jobs)


def _study_final(arguments, rest):
  from jaxplay.analysis import final as final_lib
  from jaxplay.analysis import results as results_lib

  common.no_more(rest, arguments)
  directory = _opened(arguments.study)
  results, final = results_lib.read_study(arguments.study), directory.final()
  earlier = []
  if final is not None and "test" in final:
    went_on = final_lib.num_ended(results) > final["num_trials"]
    if went_on and not arguments.again:
      raise jaxplay.UserError(
        f"the test set was looked at on {final['date']}, with trial"
        f" {final['trial']}, and {arguments.study!r} went on afterwards; a"
        " second look makes it a validation set: --again takes it, and the log"
        " will say so"
      )
    if went_on:
      earlier, final = [*final.pop("earlier", ()), final], None
  if final is None:
    final, code = _chosen(arguments, directory, results)
    if final is None:
      return code
    final["earlier"] = earlier
    if common.is_first(arguments):
      directory.write_final(final)
  if "test" not in final:
    # Whatever happened since it was chosen: that is what will be tested.
    trial = directory.trial(final["trial"])
    reruns = [directory.rerun(final["trial"], s) for s in final["seeds"]]
    if not _look_at_test_set(arguments, [trial, *reruns]):
      return common.EXIT_PREEMPTED
    final = final_lib.tested(final, trial, reruns)
    if common.is_first(arguments):
      directory.write_final(final)
  if not common.is_first(arguments):
    return 0
  if not final.get("log"):
    log = arguments.log or directory.path / "LOG.md"
    common.append(log, final_lib.log_entry(arguments.study, final))
    final["log"] = str(log)
    directory.write_final(final)
  print(f"final: trial {final['trial']}, on {final['date']}")
  for line in final_lib.lines(final):
    print(f"  {line}")
  print(f"log: {final['log']}")
  return 0


def _chosen(arguments, directory, results):
  """The best trial, run over seeds; (None, exit code) if that has no end yet.

  Raises:
    jaxplay.UserError: There is no best trial, or no test set.
  """
  from jaxplay.analysis import final as final_lib
  from jaxplay.analysis import results as results_lib
  from jaxplay.study import runners
  from jaxplay.training import workload as workload_lib

  results_lib.refuse_doubts(results)
  if not results.ranked:
    raise jaxplay.UserError(
      f"{arguments.study!r} has no completed trial, so there is no best one to"
      " end with"
    )
  best = results.ranked[0].index
  jobs = runners.rerun_jobs(directory, [best], arguments.seeds)
  workload_lib.load_dataset(_with_test(jobs[0].config))  # Before anything runs.
  if arguments.retry_failed:
    for job in jobs:
      job.forgive()
  if any(job.is_open() for job in jobs):
    finished, quiet = train_jobs(arguments, directory, jobs)
    if not finished or not all(job.is_done() for job in jobs):
      return None, _closed(arguments, directory, jobs, finished, quiet)
  results = results_lib.read_study(directory.path)
  final = final_lib.chosen(
    results,
    trial=best,
    date=time.strftime("%Y-%m-%d"),
    command=commands.line(commands.typed()),
  )
  return final, 0


def _with_test(config):
  """The config of a run, to be asked for its test metrics."""
  from jaxplay import config as config_lib

  return config_lib.from_json(
    config_lib.as_json(config) | {"report_test": True}
  )


def _look_at_test_set(arguments, runs):
  """Adds test metrics to finished runs; False: not to all of them."""
  from jaxplay import config as config_lib
  from jaxplay.training import train

  common.start_jax(arguments, cores_as_devices=True)

  import jax

  console = common.Console(quiet=jax.process_index() != 0)
  with console:
    console.tell(f"the test set is looked at, by {len(runs)} runs")
    for run in runs:
      if "test" in run.status():
        continue
      run.refuse_links()
      config = _with_test(
        config_lib.from_json(run.config(), run.path / "config.json")
      )
      if jax.process_count() == 1:
        # Cores that are devices need not divide a batch.
        for axis in config_lib.MESH_AXES:
          config.mesh[axis] = abs(config.mesh[axis])
      train.train(config, str(run.path), console)
  return all("test" in run.status() for run in runs)


def _slice(text, num):
  """Indices that --trials names: "7", "0:20", ":20", "20:"."""
  if text is None:
    return range(num)
  first, colon, last = text.partition(":")
  try:
    first = common.index(first) if first or not colon else 0
    last = (common.index(last) if last else num) if colon else first + 1
  except argparse.ArgumentTypeError:
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
  """Runs jobs of a study, and says how they ended."""
  if arguments.retry_failed:
    for job in jobs:
      job.forgive()
  if not any(job.is_open() for job in jobs):
    print("nothing to run")
    return _close_study(arguments, directory, jobs)
  finished, quiet = train_jobs(arguments, directory, jobs)
  return _closed(arguments, directory, jobs, finished, quiet)


def train_jobs(arguments, directory, jobs):
  """Runs jobs of a study by the runner that was asked for.

  Returns:
    (whether the end was reached, whether another host says how it went)
  """
  from jaxplay.study import runners

  console = common.Console(
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
  return finished, console.quiet


def _closed(arguments, directory, jobs, finished, quiet):
  """Says how it went; returns the exit code."""
  if quiet:
    return 0 if finished else common.EXIT_PREEMPTED
  if not finished:
    print("stopped; the same command goes on where it was")
    return common.EXIT_PREEMPTED
  return _close_study(arguments, directory, jobs)


def _device_options(arguments):
  """What a trial's own process is to be told of the devices."""
  if arguments.fake_devices is None:
    return []
  return [f"--fake_devices={arguments.fake_devices}"]


def _run_populations(arguments, directory, jobs, progress, console):
  from jaxplay.study import runners

  common.start_jax(arguments, cores_as_devices=True)

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
    common.show_next(
      "try them again, once that is fixed",
      common.command(options={"--retry_failed": True}),
      arguments,
    )
  if set(counts) - {*rundir.DONE, "failed"}:
    print("what is not finished belongs to another runner")
  results = results_lib.read_study(directory.path)
  left = [t for t in results.trials if t.status not in results_lib.ENDED]
  if left:
    print(f"{len(left)} trials of the study are still to come")
  elif not arguments.no_report:
    report_verbs.show_study(results, *report_verbs.write_study(results))
  return common.EXIT_FAILED if counts["failed"] else 0


def _study_status(arguments, rest):
  from jaxplay.analysis import results as results_lib

  common.no_more(rest, arguments)
  results = results_lib.read_study(arguments.study)
  counts = collections.Counter(trial.status for trial in results.trials)
  print(common.short(results.study["goal"]))
  for name, number in sorted(counts.items()):
    print(f"  {name:<12}{number}")
  if results.num_adaptive:
    print(f"  {'adaptive':<12}{results.num_adaptive} of them")
  reruns = sum(map(len, results.reruns.values()))
  if reruns:
    print(f"  {'reruns':<12}{reruns}")
  if results.ranked:
    best = results.ranked[0]
    print(
      f"best {results.objective} {results.value(best):.4g} by trial"
      f" {best.index}, of {len(results.ranked)}"
    )
  _tell_doubts(results)
  return 0


def _tell_doubts(results):
  """Beside the output of a program, which may be read by another one."""
  from jaxplay.analysis import results as results_lib

  for sentence in results_lib.in_words(results_lib.doubts(results)):
    print(f"note: {sentence}", file=sys.stderr)


def _study_list(arguments, rest):
  from jaxplay import rundir
  from jaxplay.analysis import results as results_lib
  from jaxplay.study import study as study_lib

  common.no_more(rest, arguments)
  rows, code = [], 0
  for directory in study_lib.find(arguments.root):
    try:
      rows.append(results_lib.tracking_row(directory))
    except rundir.Damaged as error:  # The others can be listed.
      rows.append({"study": str(directory.path), "damaged": str(error)})
      code = common.EXIT_FAILED
  if arguments.csv:
    print(study_lib.as_csv(rows), end="")
  elif rows:
    for row in rows:
      print(row.pop("study"))
      for name, value in row.items():
        if value not in (None, ""):
          print(f"  {name:<20}{common.short(value)}")
  else:
    print(f"no studies in {arguments.root}")
  return code


def _study_export(arguments, rest):
  from jaxplay.analysis import results as results_lib
  from jaxplay.study import study as study_lib

  common.no_more(rest, arguments)
  results = results_lib.read_study(arguments.study)
  if arguments.csv:
    print(study_lib.as_csv(results_lib.trial_rows(results)), end="")
    _tell_doubts(results)
    return 0
  results_lib.refuse_doubts(results)
  from jaxplay.analysis import optuna_export

  name, added = optuna_export.export(results, arguments.optuna)
  trials = "trial" if added == 1 else "trials"
  print(f"{added} {trials} added to the study {name!r} in {arguments.optuna}")
  return 0
