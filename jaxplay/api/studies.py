"""Studies: run, extend, rerun, suggest, choose the final trial."""

import collections
import dataclasses
import functools
import pathlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import jaxplay
from jaxplay import (
  commands,
  formats,
  provenance,
  rundir,
  terminal,
  usercode,
  writers,
)
from jaxplay import config as config_lib
from jaxplay.analysis import results as results_lib
from jaxplay.api import arguments, devices, reading
from jaxplay.finding import Finding
from jaxplay.study import adaptive, runners
from jaxplay.study import study as study_lib


@dataclasses.dataclass(frozen=True)
class Runner:
  """What trains the trials of a study.

  Attributes:
    kind: all trials in one program (population), or a process for each
    parallel: with processes: maximum number of parallel processes
    retry_failed: try again the trials that crashed twice
    allow_code_change: go on although the code of the user's parts was changed

  Examples:
    >>> import jaxplay as jp
    >>> runner = jp.Runner(kind="processes", parallel=2)
  """

  kind: Literal["population", "processes"] = dataclasses.field(
    default="population", metadata={"option": "runner"}
  )
  parallel: arguments.Count = 1
  retry_failed: bool = False
  allow_code_change: bool = False


@dataclasses.dataclass(frozen=True)
class StudyOutcome:
  """How the trials of a call ended.

  Attributes:
    path: The study directory.
    statuses: Name of a trial or rerun to its status, of those of the call.
    has_run: Whether any of them was trained by the call.
    findings: Of the study; None: it is not finished, or no report was asked
      for.
    report: The page; None likewise.
  """

  path: pathlib.Path
  statuses: Mapping[str, Mapping[str, Any]]
  has_run: bool
  findings: list[Finding] | None = None
  report: pathlib.Path | None = None

  @functools.cached_property
  def results(self) -> results_lib.Results:
    """The results of the whole study."""
    return results_lib.read_study(self.path)

  @property
  def counts(self) -> dict[str, int]:
    """Status to number of trials of the call, such as {"completed": 20}."""
    return dict(
      sorted(
        collections.Counter(
          status.get("status", "waiting") for status in self.statuses.values()
        ).items()
      )
    )

  def _repr_html_(self) -> str:
    return self.results._repr_html_()


@arguments.public("study", "run")
def run_study(
  study: arguments.Definition,
  workdir: arguments.Folder,
  *,
  trials: arguments.Trials | None = None,
  runner: Runner = Runner(),  # noqa: B008 (frozen)
  report: bool = True,
) -> StudyOutcome:
  """Runs the unfinished trials of a study; the same call resumes.

  Args:
    study: Study file with get_study(), or a study.
    workdir: Study directory, made if need be.
    trials: Only trials A to B - 1 ("A:B"), or a single one (for job arrays).
    runner: What trains the trials.
    report: Write the report once the study is finished.

  Returns:
    How the trials ended, with the `results` of the study.

  Raises:
    jaxplay.UserError: The study is refused, or the directory holds another.
    jaxplay.Stopped: A signal asked to stop.

  Examples:
    >>> import jaxplay as jp
    >>> study = jp.Study(
    ...   goal="Which learning rate?",
    ...   config="experiments/digits_mlp/config.py",
    ...   space={"hparams.learning_rate": jp.Float(0.01, 1.0, scale="log")},
    ...   overrides={"max_train_steps": 20},
    ...   num_trials=2,
    ... )
    >>> outcome = jp.run_study(study, "runs/two")
    >>> outcome.counts
    {'completed': 2}
  """
  definition, notes = study_lib.load(study)
  writers.refuse_missing(definition["config"]["writers"])
  directory = study_lib.StudyDir(workdir)
  merged = directory.merged(
    definition, allow_code_change=runner.allow_code_change
  )
  which = _indices(trials, merged["num_trials"])
  directory.create(definition, allow_code_change=runner.allow_code_change)
  console = terminal.Console(quiet=False)
  for sentence in notes:
    console.tell(f"note: {sentence}")
  jobs = runners.trial_jobs(directory, which)
  return _run(directory, jobs, runner, report)


@arguments.public("study", "extend")
def extend_study(
  study: arguments.Place,
  trials: arguments.Count,
  *,
  runner: Runner = Runner(),  # noqa: B008
  report: bool = True,
) -> StudyOutcome:
  """Lengthens a study and runs its new trials; the same call resumes.

  Args:
    study: Study directory.
    trials: New total number of trials.
    runner: What trains the trials.
    report: Write the report once the study is finished.

  Returns:
    How the trials ended.

  Raises:
    jaxplay.UserError: There is no such study, or it has more trials already.
    jaxplay.Stopped: A signal asked to stop.

  Examples:
    >>> import jaxplay as jp
    >>> jp.extend_study("runs/study", 10).counts
    {'completed': 10}
  """
  directory = _opened(study, runner)
  directory.extend(trials)
  jobs = runners.trial_jobs(directory, range(trials))
  return _run(directory, jobs, runner, report)


@arguments.public("study", "rerun")
def rerun_study(
  study: arguments.Place,
  *,
  trial: arguments.Index | None = None,
  best: bool = False,
  best_of_each: bool = False,
  seeds: arguments.Seeds = 5,
  runner: Runner = Runner(),  # noqa: B008
  report: bool = True,
) -> StudyOutcome:
  """Trains a trial again with other seeds, for its retrain variance.

  Args:
    study: Study directory.
    trial: Index of the trial.
    best: Rerun the best trial.
    best_of_each: Rerun the best trial of each scientific value.
    seeds: Number of other seeds.
    runner: What trains the trials.
    report: Write the report once the study is finished.

  Returns:
    How the reruns ended; `results.reruns` has their values.

  Raises:
    jaxplay.UserError: There is no such trial, or no best one yet.
    jaxplay.Stopped: A signal asked to stop.

  Examples:
    >>> import jaxplay as jp
    >>> outcome = jp.rerun_study("runs/study", best=True, seeds=2)
    >>> [len(reruns) for reruns in outcome.results.reruns.values()]
    [2]
  """
  if (trial is not None) + best + best_of_each != 1:
    raise jaxplay.UserError(
      "a rerun requires one of trial, best and best_of_each"
    )
  directory = _opened(study, runner)
  results = results_lib.read_study(study)
  indices = _to_rerun(study, results, trial, best)
  num_trials = len(directory.points())
  if not 0 <= indices[0] < num_trials:
    raise jaxplay.UserError(
      f"there is no trial {indices[0]}; the study has trials 0 to"
      f" {num_trials - 1}"
    )
  jobs = runners.rerun_jobs(directory, indices, seeds)
  return _run(directory, jobs, runner, report)


def _to_rerun(path, results, trial, best):
  """Indices of the trials to rerun, at least one."""
  from jaxplay.analysis import trials

  if trial is not None:
    return [trial]
  results_lib.refuse_doubts(results)  # Which is the best depends on all.
  chosen = results.ranked[:1] if best else trials.best_of_each(results).values()
  indices = [trial.index for trial in chosen]
  if not indices:
    raise jaxplay.UserError(
      f"{str(path)!r} has no completed trial yet, so there is no best trial to"
      " rerun"
    )
  return indices


@arguments.public("study", "suggest")
def suggest(
  study: arguments.Place,
  trials: arguments.Count,
  *,
  # Trials of a batch do not learn of each other, and each batch starts a
  # program: 4 keep a small machine busy, and 16 trials learn three times.
  batch: arguments.Count = 4,
  seed: arguments.Index = 0,
  ignore_findings: bool = False,
  runner: Runner = Runner(),  # noqa: B008
  report: bool = True,
) -> StudyOutcome:
  """Continues a study by Bayesian optimization, once exploration is concluded.

  Args:
    study: Study directory.
    trials: Number of adaptive trials of the study in all.
    batch: Number of trials that are suggested and trained at the same time.
    seed: Seed of the suggestions.
    ignore_findings: Suggest trials even if the best ones cluster at a boundary
      of the space.
    runner: What trains the trials.
    report: Write the report once the study is finished.

  Returns:
    How the adaptive trials ended.

  Raises:
    jaxplay.UserError: Exploration is not concluded.
    jaxplay.Stopped: A signal asked to stop.

  Examples:
    >>> import jaxplay as jp
    >>> outcome = jp.suggest("runs/study", 2, ignore_findings=True)
    >>> outcome.results.num_adaptive
    2
  """
  directory = _opened(study, runner)
  adaptive_trials = study_lib.adaptive(directory.study())
  number = len(adaptive_trials)
  if trials < number:
    raise jaxplay.UserError(
      f"the study already has {number} adaptive trials; expected a --trials of"
      f" at least {number}, their total, got {trials}"
    )
  jobs = runners.trial_jobs(directory, adaptive_trials)
  _forgive(jobs, runner)
  study_lib.check_length(directory.study()["num_trials"] - number + trials)
  has_run = []

  def train(jobs):
    has_run.append(True)
    train_jobs(directory, jobs, runner)

  def log(sentence):
    terminal.Console(quiet=not devices.is_first()).tell(sentence)

  jobs = adaptive.run(
    directory,
    trials,
    train=train,
    next_batch=lambda most: _next_batch(
      directory, min(batch, most), seed, ignore_findings
    ),
    log=log,
  )
  return _outcome(directory, jobs, bool(has_run), report)


def _next_batch(directory, number, seed, ignore_findings):
  """What `StudyDir.append` is to add; refused before exploration is over."""
  from jaxplay.analysis import checklist, refine
  from jaxplay.study import suggest as suggest_lib

  results = results_lib.read_study(directory.path)
  results_lib.refuse_doubts(results)
  path, fewest = str(directory.path), suggest_lib.FEWEST
  ended = sum(
    trial.status in results_lib.ENDED for trial in results.space_filling.trials
  )
  if ended < fewest or not results.ranked:
    explore = commands.suggested(
      *("study", "extend", path),
      f"--trials={max(len(results.trials), fewest)}",
      keep=commands.RUNNER,
    )
    raise jaxplay.UserError(
      f"{path!r} has {ended} finished trials, {len(results.ranked)} of them"
      f" with a value; suggesting requires {fewest} finished trials and a"
      f" value; explore first: {explore}"
    )
  findings = checklist.check_study(results)
  bad = [
    finding.subject
    for finding in findings
    if finding.check == "search_space_boundary"
    and finding.verdict in ("warn", "fail")
  ]
  if bad and not ignore_findings:
    raise jaxplay.UserError(
      f"the best trials of {path!r} cluster at a boundary of"
      f" {', '.join(bad)}, so better ones may lie outside; run its"
      " next_study.py, which this writes:"
      f" {commands.suggested('report', path)}, or continue in this space with"
      " --ignore_findings"
    )
  return refine.next_batch(results, findings, num=number, seed=seed)


@arguments.public("study", "final")
def choose_final(
  study: arguments.Place,
  *,
  seeds: arguments.Seeds = 5,
  log: arguments.Log | None = None,
  again: bool = False,
  fold_validation: bool = False,
  runner: Runner = Runner(),  # noqa: B008
) -> dict[str, Any]:
  """Trains the best trial with other seeds; evaluates it once on the test set.

  With `fold_validation` the same seeds are then trained once more, on training
  and validation examples together, for a number of steps that is fixed before:
  the median best step of the reruns, or all steps if the learning rate decays
  over the run. The test set is evaluated once for these models as well. Nothing
  else can measure them, and none may be chosen by it.

  Args:
    study: Study directory.
    seeds: Number of other seeds.
    log: Log of launches to append to; default: STUDY/LOG.md.
    again: Evaluate the test set again after the study continued; it is recorded
      how often.
    fold_validation: Then train the final model on validation data, too.
    runner: What trains the reruns.

  Returns:
    What STUDY/final.json holds: trial, seeds, validation and test values; under
    "folded" steps, seeds and test values of the models trained on validation
    data, and what is no longer measured.

  Raises:
    jaxplay.UserError: No trial is completed, there is no test set, or it was
      evaluated before and the study continued; or validation data cannot be
      trained on.
    jaxplay.RunError: A rerun crashed.
    jaxplay.Stopped: A signal asked to stop.

  Examples:
    >>> import jaxplay as jp
    >>> final = jp.choose_final("runs/study", seeds=2)
    >>> sorted(final["test"])
    ['test/error_rate', 'test/loss']
  """
  from jaxplay.analysis import final as final_lib

  directory = _opened(study, runner)
  results, final = results_lib.read_study(study), directory.final()
  earlier = []
  if final is not None and "test" in final:
    has_grown = final_lib.num_ended(results) > final["num_trials"]
    if has_grown and not again:
      raise jaxplay.UserError(
        f"the test set was evaluated on {final['date']}, with trial"
        f" {final['trial']}, and {str(study)!r} continued afterwards;"
        " evaluating it a second time makes it a validation set: --again does"
        " it, and the log records it"
      )
    if has_grown:
      earlier, final = [*final.pop("earlier", ()), final], None
  if final is None:
    final = _chosen(directory, results, seeds, runner)
    final["earlier"] = earlier
    if devices.is_first():
      directory.write_final(final)
  if "test" not in final:
    # Whatever happened since it was chosen: that is what will be tested.
    trial = directory.trial(final["trial"])
    reruns = [directory.rerun(final["trial"], s) for s in final["seeds"]]
    _evaluate_on_test_set([trial, *reruns])
    final = final_lib.tested(final, trial, reruns)
    if devices.is_first():
      directory.write_final(final)
  if devices.is_first() and not final.get("log"):
    path = log or directory.path / "LOG.md"
    reading.append(path, final_lib.log_entry(str(study), final))
    final["log"] = str(path)
    directory.write_final(final)
  return (
    _folded(directory, study, final, log, runner) if fold_validation else final
  )


def _folded(directory, study, final, log, runner):
  """Adds the model that is trained on validation data, and tests it (E6)."""
  from jaxplay.analysis import final as final_lib

  trial = final["trial"]
  if "folded" not in final:
    reruns = [directory.rerun(trial, seed) for seed in final["seeds"]]
    _check_are_there(reruns)
    length = final_lib.fixed_steps(
      results_lib.read_study(directory.path), final, reruns, reruns[0].config()
    )
    jobs = runners.folded_jobs(
      directory, trial, final["seeds"], length["steps"]
    )
    for job in jobs:
      job.check(ended=True)
    _finished(directory, jobs, runner, "runs on validation data")
    final = final_lib.folded(
      final,
      length,
      [job.run for job in jobs],
      date=time.strftime("%Y-%m-%d"),
      command=commands.line(commands.typed()),
    )
    if devices.is_first():
      directory.write_final(final)
  if "test" not in final["folded"]:
    runs = [directory.folded(trial, s) for s in final["folded"]["seeds"]]
    _evaluate_on_test_set(runs)
    final = final_lib.folded_tested(final, runs)
    if devices.is_first():
      directory.write_final(final)
  if devices.is_first() and not final["folded"].get("log"):
    path = log or directory.path / "LOG.md"
    reading.append(path, final_lib.folded_entry(str(study), final))
    final["folded"]["log"] = str(path)
    directory.write_final(final)
  return final


def _chosen(directory, results, seeds, runner):
  """The best trial, trained with other seeds, as final.json keeps it."""
  from jaxplay.analysis import final as final_lib

  results_lib.refuse_doubts(results)
  path = str(directory.path)
  if not results.ranked:
    raise jaxplay.UserError(
      f"{path!r} has no completed trial, so there is no best trial to choose"
    )
  best = results.ranked[0].index
  jobs = runners.rerun_jobs(directory, [best], seeds)
  _finished(directory, jobs, runner, "reruns")
  return final_lib.chosen(
    results_lib.read_study(directory.path),
    trial=best,
    date=time.strftime("%Y-%m-%d"),
    command=commands.line(commands.typed()),
  )


def _finished(directory, jobs, runner, what):
  """Trains what is to be tested to its end."""
  from jaxplay.training import workload as workload_lib

  workload_lib.load_dataset(_with_test(jobs[0].config))  # Before anything runs.
  _forgive(jobs, runner)
  if any(job.is_open() for job in jobs):
    train_jobs(directory, jobs, runner)
  missing = [job for job in jobs if not job.is_done()]
  if missing:
    status = missing[0].run.status()
    reason = "locked by another process"
    if status.get("status") == "failed":
      reason = f"crashed: {status.get('reason')}; --retry_failed tries again"
    raise jaxplay.RunError(
      f"{len(missing)} of {len(jobs)} {what} are not finished;"
      f" {missing[0].name} {reason}"
    )


def _with_test(config):
  """The config of a run, to be asked for its test metrics."""
  return config_lib.from_json(
    config_lib.as_json(config) | {"report_test": True}
  )


def _check_are_there(runs):
  """Refuses runs that final.json names and somebody removed."""
  for run in runs:
    if run.config() is None:
      raise jaxplay.UserError(
        f"{str(run.path)!r} has no config.json, and final.json of its study"
        " names this run; restore it from a copy, or train a rerun again with"
        " jaxplay study rerun"
      )


def _evaluate_on_test_set(runs):
  """Adds test metrics to finished runs."""
  _check_are_there(runs)
  devices.start(cores_as_devices=True)

  import jax

  from jaxplay.training import train as train_lib

  with terminal.Console(quiet=jax.process_index() != 0) as console:
    console.tell(
      f"evaluating {formats.count(len(runs), 'run')} on the test set"
    )
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
      try:
        train_lib.train(config, str(run.path), console)
      except jax.errors.JaxRuntimeError as error:
        raise jaxplay.RunError(devices.describe(error)) from None
  if not all("test" in run.status() for run in runs):
    raise jaxplay.Stopped


@arguments.public()
def find_studies(root: arguments.Place) -> list[dict[str, Any]]:
  """Reads what the studies below a folder are about.

  Args:
    root: The folder.

  Returns:
    A row per study: path, goal, status, best value, and so on; of a damaged
    study only "study" and "damaged", the reason.

  Examples:
    >>> import jaxplay as jp
    >>> [row["goal"] for row in jp.find_studies("runs/study")]
    ['Which learning rate?']
  """
  from jaxplay.analysis import summary

  rows = []
  for directory in study_lib.find(root):
    try:
      rows.append(summary.tracking_row(directory))
    except rundir.Damaged as error:  # The others can be listed.
      rows.append({"study": str(directory.path), "damaged": str(error)})
  return rows


def _opened(path, runner):
  """A study that was made by an earlier command, from files of the user's."""
  directory = study_lib.StudyDir(path)
  provenance.carry(directory.provenance())
  usercode.look_in(directory.path)
  code = directory.study()["config"].get("code") or ""
  if runner.allow_code_change:
    directory.renew_code()
  elif changed := usercode.changed(code, directory.path):
    terminal.Console(quiet=not devices.is_first()).tell(
      f"note: {', '.join(changed[1])} was changed since the study began; its"
      " copy is used, or by --allow_code_change what is there now"
    )
  if code:
    usercode.folder_of(code)  # Before anything is written.
  return directory


def _indices(which, num):
  """Indices that --trials names: "7", "0:20", ":20", "20:"."""
  if which is None:
    return range(num)
  if not isinstance(which, str):
    return [_checked_index(index, num) for index in which]
  index = arguments.integer(0).read
  first, colon, last = which.partition(":")
  try:
    first = index(first) if first or not colon else 0
    last = (index(last) if last else num) if colon else first + 1
  except ValueError:
    raise jaxplay.UserError(
      f"{arguments.option('trials')}: expected a number, such as 7, or a range,"
      f" 0:20, got {which!r}"
    ) from None
  if not 0 <= first < last <= num:
    raise jaxplay.UserError(
      f"{arguments.option('trials')}={which} names trials {first} to"
      f" {last - 1}, but the study has trials 0 to {num - 1}"
    )
  return range(first, last)


def _checked_index(index, num):
  if not 0 <= index < num:
    raise jaxplay.UserError(
      f"trials has {index}, but the study has trials 0 to {num - 1}"
    )
  return index


def _forgive(jobs, runner):
  if runner.retry_failed:
    for job in jobs:
      job.forgive()


def _run(directory, jobs, runner, report):
  """Runs jobs of a study, as far as they are not finished."""
  _forgive(jobs, runner)
  is_open = any(job.is_open() for job in jobs)
  if is_open:
    train_jobs(directory, jobs, runner)
  return _outcome(directory, jobs, is_open, report)


def train_jobs(
  directory: study_lib.StudyDir,
  jobs: Sequence[runners.Job],
  runner: Runner = Runner(),  # noqa: B008
) -> None:
  """Trains jobs of a study to their end.

  Raises:
    jaxplay.Stopped: A signal asked to stop.
  """
  usercode.look_in(directory.path)
  console = terminal.Console(
    quiet=bool(devices.current().process_id),
    names=("trials", "best", "infeasible"),
    log_seconds=5.0,
  )
  progress = runners.Progress(jobs, console)
  with console:
    if runner.kind == "processes":
      has_ended = runners.run_processes(
        jobs,
        parallel=runner.parallel,
        progress=progress,
        tell=console.tell,
        options=_device_options(),
      )
    else:
      has_ended = _run_populations(directory, jobs, progress, console)
  if not has_ended:
    raise jaxplay.Stopped


def _device_options():
  """Options of the devices for a trial's own process."""
  number = devices.current().fake_devices
  return [] if number is None else [f"--fake_devices={number}"]


def _run_populations(directory, jobs, progress, console):
  devices.start(cores_as_devices=True)

  import jax

  from jaxplay.training import population, sharding

  console.quiet = console.quiet or jax.process_index() != 0
  return runners.run_populations(
    jobs,
    study=directory.path,
    make_group=lambda configs: population.Populations(configs, console.tell),
    progress=progress,
    tell=console.tell,
    first=sharding.from_first_host,
  )


def _outcome(directory, jobs, has_run, report):
  """How the jobs ended; writes the report once the study is finished."""
  outcome = StudyOutcome(
    path=directory.path,
    statuses={job.name: job.run.status() for job in jobs},
    has_run=has_run,
  )
  if not devices.is_first() or not report:
    return outcome
  ended = all(t.status in results_lib.ENDED for t in outcome.results.trials)
  if not ended:
    return outcome
  findings, path = reading.write_study(outcome.results)
  return dataclasses.replace(outcome, findings=findings, report=path)
