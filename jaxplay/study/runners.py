"""Runs trials, each once: as populations in this process, or as processes.

Whoever holds the lock of a run directory runs that trial, and reads its status
only then, so any number of runners, on overlapping slices, share a study. The
functions that train are arguments: nothing here imports JAX.
"""

import contextlib
import dataclasses
import json
import pathlib
import resource
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import ml_collections

import jaxplay
from jaxplay import config as config_lib
from jaxplay import formats, lifeline, provenance, rundir, storage
from jaxplay.study import study as study_lib

# A trial that crashed is run once more, then only with --retry_failed.
_ATTEMPTS = 2
_POLL_SECONDS = 0.2
# Exit codes of `jaxplay train --of_study`: disk is full; saved, resumable.
_EXIT_STORAGE, _EXIT_PREEMPTED = 74, 75


@dataclasses.dataclass(frozen=True)
class Job:
  """A trial, or a rerun of a trial, that is to be run.

  Attributes:
    name: The run directory relative to the study's, "trials/0007".
    run: The run directory.
    config: What to train.
  """

  name: str
  run: rundir.RunDir
  config: ml_collections.ConfigDict

  @property
  def study(self) -> pathlib.Path:
    """The study directory."""
    return self.run.path.parents[self.name.count("/")]

  def is_done(self) -> bool:
    """Returns whether there is nothing left to run."""
    return self.run.status().get("status") in rundir.DONE

  def is_open(self) -> bool:
    """Returns whether it is to be run: neither done nor crashed twice."""
    status = self.run.status()
    if status.get("status") == "failed":
      return status.get("failures", 0) < _ATTEMPTS
    return status.get("status") not in rundir.DONE

  def check(self, ended: bool = False) -> None:
    """Refuses to resume a run that has trained another config.

    Args:
      ended: Whether to look at a run that has ended, too.

    Raises:
      jaxplay.UserError: Its config.json has another point, or base config.
    """
    here = self.run.config() if ended or self.is_open() else None
    if here is None:
      return
    changed = config_lib.differences(here, config_lib.as_json(self.config))
    changed.pop("code", None)  # Whoever started the study has allowed it.
    if changed:
      raise jaxplay.UserError(
        f"{self.name} has begun with another config:"
        f" {config_lib.changes(changed)}; restore study.json, or the run"
        " directory, from a copy, or use another workdir"
      )

  def forgive(self) -> None:
    """Resets the number of crashes, so that the job is open again."""
    status = self.run.status()
    if status.get("status") == "failed":
      self.run.write_status(**status | {"failures": 0})

  def failures(self) -> int:
    """Returns how often it crashed."""
    return self.run.status().get("failures", 0)

  def claim(self) -> contextlib.ExitStack | None:
    """Takes the lock if nobody holds it and the job is open; else None.

    Raises:
      jaxplay.StorageError: The study was removed, and is not made again.
    """
    if storage.is_gone(self.study):
      raise storage.gone(self.study)
    self.run.create()
    held = contextlib.ExitStack()
    try:
      held.enter_context(self.run.lock())
    except jaxplay.UserError:
      return None
    if self.is_open():
      return held
    held.close()
    return None

  def failed(self, reason: str, failures: int) -> None:
    """Writes that it crashed, unless it did itself, or another runner has it.

    Args:
      reason: For status.json.
      failures: How often it had crashed before.
    """
    held = self.claim()
    if held is None:
      return
    with held:
      status = self.run.status()
      if status.get("failures", 0) > failures:
        return
      status |= {"reason": reason, "failures": failures + 1}
      status.pop("status", None)
      self.run.write_status("failed", **status)


def trial_jobs(
  directory: study_lib.StudyDir, indices: Iterable[int]
) -> list[Job]:
  """Returns the jobs of trials of a study."""
  study, points = directory.study(), directory.points()
  return [
    Job(
      f"trials/{index:04d}",
      directory.trial(index),
      study_lib.trial_config(study["config"], points[index]),
    )
    for index in indices
  ]


def rerun_jobs(
  directory: study_lib.StudyDir, indices: Iterable[int], number: int
) -> list[Job]:
  """Returns jobs that repeat trials, each with `number` other seeds."""
  study, points = directory.study(), directory.points()
  return [
    Job(
      f"reruns/{index:04d}/{seed}",
      directory.rerun(index, seed),
      study_lib.trial_config(study["config"], points[index], seed=seed),
    )
    for index in indices
    for seed in config_lib.other_seeds(study["config"]["seed"], number)
  ]


class Progress:
  """The progress of all jobs: a single bar for the study."""

  def __init__(self, jobs: Sequence[Job], console):
    """Reads the status of each job.

    Args:
      jobs: All of them, the done ones too.
      console: Has `progress(done, total, values)`; steps of all jobs.
    """
    self._console = console
    self._steps = {job.name: job.config.max_train_steps for job in jobs}
    self._metrics = {
      job.name: config_lib.metric.of_config(job.config) for job in jobs
    }
    self._seen: dict[str, Mapping[str, Any]] = {
      job.name: job.run.status() for job in jobs
    }

  def update(self, statuses: Mapping[str, Mapping[str, Any]]) -> None:
    """Takes the statuses of some jobs, as they are or will be on disk."""
    for name, status in statuses.items():
      if name in self._seen:
        self._seen[name] = status
    done, ended, infeasible, best = 0, 0, 0, None
    for name, status in self._seen.items():
      is_done = status.get("status") in rundir.DONE
      is_infeasible = status.get("status") == "infeasible"
      if is_done:
        ended += 1
      if is_infeasible:
        infeasible += 1
      done += self._steps[name] if is_done else status.get("step", 0)
      value = (status.get("best") or {}).get("value")
      if value is not None and not is_infeasible:
        values = [value] if best is None else [best, value]
        best = min(values, key=self._metrics[name].cost)
    self._console.progress(
      done,
      sum(self._steps.values()),
      {
        "trials": f"{ended}/{len(self._seen)}",
        "best": best,
        "infeasible": str(infeasible),
      },
    )


class Group(Protocol):
  """What trains populations: `training.population.Populations`."""

  size: int

  def train(self, configs, runs, folder, progress) -> bool:
    """Trains at most `size` trials; returns False if a signal stopped it."""

  def close(self) -> None:
    """Frees its programs; the group cannot be used afterwards."""


def folded_jobs(
  directory: study_lib.StudyDir, index: int, seeds: Iterable[int], steps: int
) -> list[Job]:
  """Returns jobs that train a point for `steps` on validation data as well."""
  study, points = directory.study(), directory.points()
  changes = {"dataset.fold_validation": True, "max_train_steps": steps}
  return [
    Job(
      f"folded/{index:04d}/{seed}",
      directory.folded(index, seed),
      study_lib.trial_config(
        study["config"], points[index], seed=seed, **changes
      ),
    )
    for seed in seeds
  ]


def run_populations(
  jobs: Sequence[Job],
  *,
  study: pathlib.Path,
  make_group: Callable[[Sequence[ml_collections.ConfigDict]], Group],
  progress: Progress,
  tell: Callable[[str], None],
  first: Callable[[Callable[[], Any]], Any] = lambda make: make(),
) -> bool:
  """Runs jobs in this process, those of the same static config together.

  A population that was killed is continued as a whole. If it crashes, all its
  trials have crashed; each is tried once more, from what was saved.

  Args:
    jobs: What to run; those that are not open are left alone.
    study: The study directory; populations under way keep their state there.
    make_group: Compiles for the configs of a group.
    progress: Updated with the status of every trial.
    tell: Called with sentences.
    first: `first(make)` is what `make()` returns on the first host, everywhere.

  Returns:
    Whether all was run; False: a signal stopped it.

  Raises:
    jaxplay.UserError: A run has begun with another config; nothing was run.
    jaxplay.StorageError: The disk is full or lost; no trial has crashed.
  """
  for job in jobs:
    job.check()
  _allow_many_files()
  known = {job.name: job for job in jobs}
  first(lambda: _report_unknown(study, tell))
  for _ in range(_ATTEMPTS):
    for name, members in first(lambda: _plan(known, study)):
      members = [_job(study, member, known) for member in members]
      with _crash_of(members, tell):
        group = make_group([job.config for job in members])
        with contextlib.closing(group):
          size = len(members) if name else group.size
          for i in range(0, len(members), size):
            some = members[i : i + size]
            with _crash_of(some, tell):
              if not _run_population(group, name, some, study, progress, first):
                return False
    if not first(lambda: any(job.is_open() for job in jobs)):
      break
  return True


@contextlib.contextmanager
def _crash_of(members, tell):
  """Records an error as a crash of all these trials; the others go on."""
  failures = [job.failures() for job in members]
  try:
    yield
  except jaxplay.UserError:
    raise
  except Exception as error:
    problem = storage.problem(error, members[0].study)
    if problem is not None:
      raise problem from error
    reason = f"{type(error).__name__}: {error}".split("\n")[0]
    tell(f"{formats.count(len(members), 'trial')} crashed: {reason}")
    for job, before in zip(members, failures, strict=True):
      job.failed(reason, before)


def _allow_many_files():
  """Each trial of a population holds a file open, its lock."""
  soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
  most = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard)
  resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, most), hard))


def _plan(known, study):
  """Returns (name, members) of populations to continue and groups to begin."""
  waiting = {name: job for name, job in known.items() if job.is_open()}
  plan = []
  folder = study / "populations"
  for pattern in ("*", "*/*", "*/checkpoints/*"):
    rundir.refuse_links(study, folder, *folder.glob(pattern))
  for path in sorted(folder.glob("*/members.json")):
    names = _names(path)
    if not names:
      continue
    members = [_job(study, name, known) for name in names]
    begun = [job for job in members if job is not None]
    left = [job for job in begun if not job.is_done()]
    if None not in members and left and not any(j.is_open() for j in left):
      continue  # All crashed twice: --retry_failed continues it.
    if None in members or not left or not all(job.is_open() for job in left):
      _end(path.parent, begun)
    elif waiting.keys() & set(names):
      plan.append((path.parent.name, names))
      for name in names:
        waiting.pop(name, None)
  groups = {}
  for job in waiting.values():
    groups.setdefault(_static(job.config), []).append(job.name)
  return plan + [("", names) for names in groups.values()]


def _names(path):
  """Returns the members of a population; [] if it is gone, None if unknown.

  A population with unknown members is left alone.
  """
  try:
    names = rundir.read_json(path, list[str])
  except jaxplay.UserError:  # Damaged.
    return None
  if names is None and not path.exists():
    return []
  are_runs = isinstance(names, list) and all(map(study_lib.is_run, names))
  return names if are_runs and 0 < len(names) == len(set(names)) else None


def _report_unknown(study, tell):
  """Reports which populations are left alone."""
  for path in sorted((study / "populations").glob("*/members.json")):
    if _names(path) is None:
      tell(
        f"{str(path)!r} is not a list of runs of this study, so its population"
        " is left alone; restore it from a copy, or remove its folder"
      )


def _end(folder, members):
  """Ends a population that made all its steps or cannot be continued.

  Its folder stays if it holds checkpoints of trials that are done.
  """
  # Another process may be about to end it.
  with contextlib.suppress(jaxplay.UserError), contextlib.ExitStack() as locks:
    for job in members:
      locks.enter_context(job.run.lock())
    where = [job.run.packed() for job in members if job.is_done()]
    if any(w and w["population"] == folder.name for w in where):
      (folder / "members.json").unlink(missing_ok=True)
    else:
      rundir.remove(folder)


def _static(config):
  """Returns a string that is equal for configs that can share a program."""
  flat = config_lib.flatten(config_lib.as_json(config))
  keys = config_lib.keys_of(flat)
  static = {k: v for k, v in flat.items() if not keys[k].traced}
  return json.dumps(static, sort_keys=True)


def _job(study, name, known):
  """Returns the job of that name, known or not; None if it never began."""
  run = rundir.RunDir(study / name)
  if name in known or run.config() is None:
    return known.get(name)
  config = config_lib.from_json(run.config(), run.path / "config.json")
  return Job(name, run, config)


def _run_population(group, name, members, study, progress, first):
  """Begins a population, or continues that called `name`."""
  with contextlib.ExitStack() as locks:
    claimed = first(lambda: _claim(members, locks))
    if name and claimed != first(lambda: _open_names(members)):
      claimed = []  # It can only be continued as a whole.
    if not claimed:
      return True
    if not name:
      members = [job for job in members if job.name in claimed]
      name = first(lambda: _free_name(study, members))
    folder = study / "populations" / name
    first(lambda: _begin(folder, members))
    # After an error the folder stays as it is, and can be continued.
    is_complete = group.train(
      [job.config for job in members],
      [job.run for job in members],
      folder / "checkpoints",
      lambda statuses: progress.update(
        {members[i].name: status for i, status in statuses.items()}
      ),
    )
    if is_complete:
      first(lambda: (folder / "members.json").unlink())
    return is_complete


def _free_name(study, members):
  """Returns the name of a new population's folder."""
  name, number = members[0].name.replace("/", "-"), 1
  while (study / "populations" / name).exists():
    number += 1
    name = f"{members[0].name.replace('/', '-')}-{number}"
  return name


def _claim(members, locks):
  """Takes the locks of open members; returns their names."""
  claimed = []
  for job in members:
    held = job.claim()
    if held is not None:
      locks.enter_context(held)
      claimed.append(job.name)
  return claimed


def _open_names(members):
  return [job.name for job in members if job.is_open()]


def _begin(folder, members):
  folder.mkdir(parents=True, exist_ok=True)
  names = [job.name for job in members]
  if _names(folder / "members.json") != names:
    # It is of a population that could not be continued or is unknown.
    rundir.remove(folder / "checkpoints")
  rundir.write_json(folder / "members.json", names)


def run_processes(
  jobs: Sequence[Job],
  *,
  parallel: int,
  progress: Progress,
  tell: Callable[[str], None],
  options: Sequence[str] = (),
) -> bool:
  """Runs each job as `jaxplay train` in a process; output goes to log.txt.

  Args:
    jobs: What to run; those that are not open are left alone.
    parallel: Maximum number of processes in parallel.
    progress: Updated with the status of every trial.
    tell: Called with sentences.
    options: More arguments of `jaxplay train`.

  Returns:
    Whether all was run; False: a signal stopped it.

  Raises:
    jaxplay.UserError: A run has begun with another config; nothing was run.
    jaxplay.StorageError: The disk is full or lost; no trial has crashed.
  """
  for job in jobs:
    job.check()
  waiting = list(reversed(jobs))
  running: dict[Any, Any] = {}
  with _Stop() as stop, lifeline.hold() as tied:
    try:
      while (waiting or running) and not stop.is_set():
        while waiting and len(running) < parallel:
          job = waiting.pop()
          failures, started = job.failures(), _start(job, options, tied)
          if started is not None:
            running[job.name] = job, failures, *started
        for name, (job, failures, process, log) in list(running.items()):
          code = process.poll()
          progress.update({name: job.run.status()})
          if code is not None:
            del running[name]
            output = _last_line(job, log)
            if code == _EXIT_STORAGE:
              raise _storage_error(job, output)
            if _is_to_run_again(job, failures, code, output, tell):
              waiting.append(job)
        stop.wait(_POLL_SECONDS)
    finally:
      for _, _, process, _ in running.values():
        process.terminate()  # It saves, and exits with 75.
      for job, _, process, log in running.values():
        process.wait()
        with contextlib.suppress(OSError):  # Of a bucket; it ends anyway.
          _last_line(job, log)
  return not stop.is_set()


def _storage_error(job, output):
  """Returns a process's error about the disk, if there was room to log it."""
  if output.startswith("jaxplay: "):
    return jaxplay.StorageError(output.removeprefix("jaxplay: "))
  return storage.full(job.study)


def _is_to_run_again(job, failures, code, output, tell):
  """Records how the process of a job ended."""
  status = job.run.status().get("status")
  if status in rundir.DONE:
    return False
  # Somebody stopped this process alone. With another code the status is of an
  # earlier process, and this one crashed before it wrote its own.
  if status == "preempted" and code == _EXIT_PREEMPTED:
    return True
  reason = f"exit code {code}: {output}"[:300]
  job.failed(reason, failures)
  if job.failures() == failures:  # Another runner was faster.
    return False
  if not job.is_open():
    tell(f"{job.name} crashed again; see {job.run.path / 'log.txt'}")
    return False
  tell(f"{job.name} crashed and is tried again: {reason}")
  return True


def _start(job, options, tied):
  """Returns (process, its log), or None if it is done or being run."""
  held = job.claim()
  if held is None:
    return None
  with held:  # The process takes the lock itself.
    job.run.write_config(config_lib.as_json(job.config))
    if job.run.provenance() is None:  # The process has only the config.
      made_by = provenance.record()
      facts = {key: made_by[key] for key in ("files", "repositories")}
      rundir.write_json(job.run.path / "provenance.json", facts)
  path = job.run.path / "log.txt"
  # A process cannot write to a bucket.
  is_local = rundir.is_local(path)
  log = rundir.open_to_append(path) if is_local else tempfile.TemporaryFile()
  process = subprocess.Popen(
    [
      *(sys.executable, "-m", "jaxplay.cli", "train", "--of_study"),
      f"--config={job.run.path / 'config.json'}",
      f"--workdir={job.run.path}",
      *options,
    ],
    stdin=subprocess.DEVNULL,
    stdout=log,
    stderr=subprocess.STDOUT,
    start_new_session=True,  # Only this process receives Ctrl-C.
    **tied,
  )
  return process, log


def _last_line(job, log):
  """Returns the last line of a log, whose process has ended."""
  with log:
    log.seek(0)
    text = log.read().decode(errors="replace")
  if not rundir.is_local(job.run.path):
    rundir.write_text(job.run.path / "log.txt", text)
  lines = [line.strip() for line in text.split("\n") if line.strip()]
  return lines[-1] if lines else "no output"


class _Stop(threading.Event):
  """Set by SIGTERM and Ctrl-C."""

  def __enter__(self):
    self._old = {
      number: signal.signal(number, lambda *unused: self.set())
      for number in (signal.SIGTERM, signal.SIGINT)
    }
    return self

  def __exit__(self, *unused):
    for number, handler in self._old.items():
      signal.signal(number, handler)
