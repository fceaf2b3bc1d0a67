"""Runs the studies and measurements of a procedure in a folder.

A finished study is only read. So a procedure has no state of its own: after a
restart it decides the same from the same results, and runs the rest.
"""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import formats, rundir
from jaxplay.analysis import checklist, refine
from jaxplay.analysis import results as results_lib
from jaxplay.study import adaptive, runners
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib

LEARNING_RATE = "hparams.learning_rate"
_BASE = "base_config.json"  # in the folder of a study without a config file
# Overrides of runs of which only the learning curves are read.
CURVES_ONLY = {"num_predictions": 0, "keep_examples": 0, "export": False}


Train = Callable[[study_lib.StudyDir, Sequence[runners.Job]], None]


class StudyRunner:
  """Runs studies and measurements in a folder, each of them once."""

  def __init__(
    self,
    path: str | os.PathLike,
    *,
    train: Train,
    log: Callable[[str], None] = print,
  ):
    """Creates the runner, but no files.

    Args:
      path: The folder of a plan.
      train: Trains jobs of a study until they end.
      log: Called with a sentence on each step.
    """
    self.path, self.log = rundir.at(path), log
    # Run directory -> number of training examples, for the loop's budget.
    self.ran: dict[str, int] = {}
    self._train = train
    self._root = self.path  # the folder of the whole plan

  def within(self, name: str) -> "StudyRunner":
    """Returns a runner of a subfolder."""
    inner = StudyRunner(self._folder(name), train=self._train, log=self.log)
    inner.ran, inner._root = self.ran, self._root
    return inner

  def _folder(self, name):
    """Returns a subfolder; refuses symbolic links."""
    folder = self.path / name
    rundir.refuse_links(self._root, folder)
    return folder

  def study(
    self, name: str, study: study_lib.Study, config: ml_collections.ConfigDict
  ) -> results_lib.Results:
    """Runs the unfinished trials of a study, and reads the study.

    Args:
      name: Name of its folder.
      study: The study.
      config: The base config; not changed.

    Raises:
      Stopped: A signal asked to stop.
      jaxplay.UserError: The study is invalid, or all of its trials crashed.
    """
    directory = study_lib.StudyDir(self._folder(name))
    config = config.copy_and_resolve_references()
    is_own = not study.config
    if is_own:  # A study that follows this one reads it.
      for key, value in study.overrides.items():
        config_lib.override(config, key, value)
      study = dataclasses.replace(study, config=_BASE, overrides={})
    base = config_lib.as_json(config)
    definition, _ = study_lib.define(study, config)
    directory.create(definition)
    if is_own:
      rundir.write_json(directory.path / _BASE, base)
    jobs = runners.trial_jobs(directory, range(definition["num_trials"]))
    steps = jobs[0].config.max_train_steps
    return self._run(
      directory,
      jobs,
      f"{name}: {formats.count(len(jobs), 'trial')} of {steps:,} steps",
    )

  def extend(self, name: str, first: int, last: int) -> results_lib.Results:
    """Extends the study `name`, and runs its trials `first` to `last` - 1."""
    directory = study_lib.StudyDir(self._folder(name))
    if directory.study()["num_trials"] < last:
      directory.extend(last)
    jobs = runners.trial_jobs(directory, range(first, last))
    more = formats.count(last - first, "additional trial")
    return self._run(directory, jobs, f"{name}: {more}")

  def suggest(
    self, name: str, trials: int, *, batch: int, seed: int
  ) -> results_lib.Results:
    """Extends the study `name` until it has `trials` adaptive trials.

    Args:
      name: Name of its folder; at least 8 of its trials have ended.
      trials: Number of adaptive trials in all.
      batch: Number of trials that are suggested at once.
      seed: Seed of the suggestions.
    """
    directory = study_lib.StudyDir(self._folder(name))

    def next_batch(left):
      jobs = runners.trial_jobs(
        directory, study_lib.adaptive(directory.study())
      )
      results = self._read(directory, jobs)
      findings = checklist.check_study(results)
      return refine.next_batch(
        results, findings, num=min(batch, left), seed=seed
      )

    jobs = adaptive.run(
      directory,
      trials,
      train=lambda jobs: self._train(directory, jobs),
      next_batch=next_batch,
      log=lambda sentence: self.log(f"{name}: {sentence}"),
    )
    return self._read(directory, jobs)

  def rerun(
    self, name: str, indices: Sequence[int], seeds: int
  ) -> results_lib.Results:
    """Reruns trials of the study `name` with `seeds` other seeds."""
    directory = study_lib.StudyDir(self._folder(name))
    jobs = runners.rerun_jobs(directory, indices, seeds)
    which = " and ".join(map(str, indices))
    trials = "trial" if len(indices) == 1 else "trials"
    with_seeds = formats.count(seeds, "seed")
    return self._run(
      directory, jobs, f"{name}: {trials} {which} with {with_seeds}"
    )

  def _run(self, directory, jobs, message):
    if any(job.is_open() for job in jobs):
      self.log(message)
      self._train(directory, jobs)
    return self._read(directory, jobs)

  def _read(self, directory, jobs):
    """Adds the cost of some jobs, and returns the results of their study."""
    for job in jobs:
      examples = job.config.max_train_steps * job.config.batch_size
      self.ran[str(job.run.path)] = examples
    statuses = [job.run.status() for job in jobs]
    crashed = [s for s in statuses if s.get("status") == "failed"]
    if crashed and len(crashed) == len(jobs):
      raise jaxplay.UserError(
        f"every trial of {str(directory.path)!r} crashed:"
        f" {crashed[0].get('reason')}"
      )
    results = results_lib.read_study(directory.path)
    results_lib.refuse_doubts(results)
    return results

  def sweep(
    self,
    name: str,
    rates: Sequence[float],
    config: ml_collections.ConfigDict,
    *,
    goal: str,
    overrides: Mapping[str, Any] = {},
    objective: str = "",
  ) -> results_lib.Results:
    """Runs a study of the learning rate alone, with a trial for each value."""
    domain: space_lib.Choice | space_lib.Float = space_lib.Choice(rates)
    if len(rates) > 1:
      domain = space_lib.Float(min(rates), max(rates), scale="log")
    study = study_lib.Study(
      goal=goal,
      config="",
      space={LEARNING_RATE: domain},
      algorithm="explicit",
      points=[{LEARNING_RATE: rate} for rate in rates],
      overrides=overrides,
      objective=objective,
    )
    return self.study(name, study, config)

  def measured(self, name: str, shape: Any) -> list[Any]:
    """Returns the measurements saved under this name, in order.

    Args:
      name: Name of their folder.
      shape: Shape of each; see `rundir.read_json`.
    """
    saved: list[Any] = []
    while True:
      value = rundir.read_json(self._measurement(name, len(saved)), shape)
      if value is None:
        return saved
      saved.append(value)

  def measure(self, name: str, measure: Callable[[], Any]) -> None:
    """Saves the JSON value of `measure()`, after earlier measurements."""
    path = self._measurement(name, len(self.measured(name, Any)))
    path.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_json(path, measure())

  def _measurement(self, name, index):
    return self._folder(name) / f"{index}.json"


def learning_rates(low: float, high: float, per_decade: int = 4) -> list[float]:
  """Returns log-spaced learning rates, rounded to two significant digits.

  Args:
    low: The lowest, above 0.
    high: The highest.
    per_decade: Minimum number for each factor of ten.
  """
  number = max(2, math.ceil(per_decade * math.log10(high / low)) + 1)
  grid = np.geomspace(low, high, number)
  return sorted({formats.rounded(rate, 2) for rate in grid})
