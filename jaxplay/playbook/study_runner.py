"""Where a procedure runs its studies: a folder, and what trains in it.

A study that is finished is only read. So a procedure needs no memory of its
own: killed and started again, it takes the same decisions from the same
results, and trains what is missing.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ml_collections
import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.analysis import checklist, refine
from jaxplay.analysis import results as results_lib
from jaxplay.study import runners
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib

RATE = "hparams.learning_rate"
_BASE = "base_config.json"  # in the folder of a study that has no other
# Overrides of runs of which only the curves are looked at.
CURVES_ONLY = {"num_predictions": 0, "export": False}


class Lab:
  """Runs studies and measurements in a folder, each once."""

  def __init__(
    self,
    path,
    *,
    train: Callable[[study_lib.StudyDir, Sequence[runners.Job]], bool],
    tell: Callable[[str], None],
  ):
    """Makes nothing yet.

    Args:
      path: The folder, of a plan.
      train: Trains jobs of a study to their end; False: it was asked to stop.
      tell: Called with sentences.
    """
    self.path, self.tell = rundir.at(path), tell
    # Run directory -> examples that it is to see: what was paid for.
    self.ran: dict[str, int] = {}
    self._train = train
    self._root = self.path  # of the plan, for labs within

  def within(self, name: str) -> "Lab":
    """The lab of a folder in this one."""
    inner = Lab(self._folder(name), train=self._train, tell=self.tell)
    inner.ran, inner._root = self.ran, self._root
    return inner

  def _folder(self, name):
    """A folder of the plan, which is no link."""
    folder = self.path / name
    rundir.refuse_links(self._root, folder)
    return folder

  def study(
    self, name: str, study: study_lib.Study, config: ml_collections.ConfigDict
  ) -> results_lib.Results:
    """Runs what is not finished of a study, and reads it.

    Args:
      name: Of its folder.
      study: What to run.
      config: The base config; not changed.

    Raises:
      Stopped: Asked to stop.
      jaxplay.UserError: The study is refused, or all of its trials crashed.
    """
    directory = study_lib.StudyDir(self._folder(name))
    config = config.copy_and_resolve_references()
    is_own = not study.config
    if is_own:  # Then it is kept, for the study that follows this one.
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
      directory, jobs, f"{name}: {len(jobs)} trials of {steps:,} steps"
    )

  def extend(self, name: str, first: int, last: int) -> results_lib.Results:
    """Lengthens the study `name`, and runs its trials `first` to `last` - 1."""
    directory = study_lib.StudyDir(self._folder(name))
    if directory.study()["num_trials"] < last:
      directory.extend(last)
    jobs = runners.trial_jobs(directory, range(first, last))
    return self._run(directory, jobs, f"{name}: {last - first} more trials")

  def suggest(
    self, name: str, trials: int, *, batch: int, seed: int
  ) -> results_lib.Results:
    """Goes on with the study `name` by so many adaptive trials in all.

    Args:
      name: Of its folder; 8 of its trials ended.
      trials: Number of adaptive trials.
      batch: So many at a time.
      seed: Of the suggestions.
    """
    directory = study_lib.StudyDir(self._folder(name))
    while True:
      which = study_lib.adaptive(directory.study())
      jobs = runners.trial_jobs(directory, which)
      told = f"{name}: {len(which)} of {trials} adaptive trials"
      results = self._run(directory, jobs, told)
      if len(which) >= trials:
        return results
      directory.append(
        refine.next_batch(
          results,
          checklist.check_study(results),
          num=min(batch, trials - len(which)),
          seed=seed,
        )
      )

  def rerun(
    self, name: str, indices: Sequence[int], seeds: int
  ) -> results_lib.Results:
    """Runs trials of the study `name` with so many other seeds."""
    directory = study_lib.StudyDir(self._folder(name))
    jobs = runners.rerun_jobs(directory, indices, seeds)
    which = " and ".join(map(str, indices))
    trials = "trial" if len(indices) == 1 else "trials"
    return self._run(
      directory, jobs, f"{name}: {trials} {which} with {seeds} seeds"
    )

  def _run(self, directory, jobs, what):
    if any(job.is_open() for job in jobs):
      self.tell(what)
      if not self._train(directory, jobs):
        raise jaxplay.Stopped
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
    """A study of the learning rate alone, at the given rates, in order."""
    domain = space_lib.Choice(rates)
    if len(rates) > 1:
      domain = space_lib.Float(min(rates), max(rates), scale="log")
    study = study_lib.Study(
      goal=goal,
      config="",
      space={RATE: domain},
      algorithm="explicit",
      points=[{RATE: rate} for rate in rates],
      overrides=overrides,
      objective=objective,
    )
    return self.study(name, study, config)

  def measured(self, name: str, shape: Any) -> list[Any]:
    """What `measure` has kept by this name, in order.

    Args:
      name: Of its folder.
      shape: Of each; see `rundir.read_json`.
    """
    kept = []
    while True:
      found = rundir.read_json(self._kept(name, len(kept)), shape)
      if found is None:
        return kept
      kept.append(found)

  def measure(self, name: str, measure: Callable[[], Any]) -> None:
    """Keeps what `measure()` returns, JSON values, beside what there is."""
    path = self._kept(name, len(self.measured(name, Any)))
    path.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_json(path, measure())

  def _kept(self, name, index):
    return self._folder(name) / f"{index}.json"


def rates(low: float, high: float, per_decade: int = 4) -> list[float]:
  """Learning rates from `low` to `high`, even on the log scale, two digits.

  Args:
    low: The first, above 0.
    high: The last.
    per_decade: How many for each factor of ten, at least.
  """
  number = max(2, math.ceil(per_decade * math.log10(high / low)) + 1)
  found = [float(f"{rate:.2g}") for rate in np.geomspace(low, high, number)]
  return sorted(set(found))
