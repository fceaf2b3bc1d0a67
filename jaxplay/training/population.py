"""Trains many trials together, with the results of training each alone.

The run directory of a trial is the same as alone, except for its checkpoints:
those of all trials are saved together, in the folder of the population, and
RUN/checkpoints.json holds its path; see packed.py.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxplay import config as config_lib
from jaxplay import rundir, usercode
from jaxplay.training import (
  checkpoint,
  host,
  loop,
  packed,
  programs,
  record,
  resume,
  sharding,
  weights,
)
from jaxplay.training import workload as workload_lib


class Populations:
  """Trains populations of one static config, which is compiled once."""

  def __init__(
    self,
    configs: Sequence[ml_collections.ConfigDict],
    tell: Callable[[str], None],
    **kwargs: Any,
  ):
    """Compiles for as many trials as fit into memory together.

    Args:
      configs: One per trial, equal except for the arguments of a step:
        `hparams`, `seed`, and the schedule.
      tell: Called with messages.
      **kwargs: For `programs.Programs`.
    """
    self._code = configs[0].code
    with usercode.running(self._code):
      self.programs = programs.Programs(configs, tell, **kwargs)
    self._tell = tell

  @property
  def size(self) -> int:
    """Largest number of trials in a population."""
    return self.programs.size

  def close(self) -> None:
    """Frees the programs; the object cannot be used afterwards."""
    self.programs.close()

  def train(
    self,
    configs: Sequence[ml_collections.ConfigDict],
    runs: Sequence[rundir.RunDir],
    folder: pathlib.Path,
    progress: Callable[[dict[int, dict[str, Any]]], None],
  ) -> bool:
    """Trains a population to its end; resumes if it was stopped.

    Args:
      configs: Of at most `size` trials.
      runs: Their run directories, locked. Finished trials are not changed.
      folder: STUDY/populations/NAME/checkpoints, which is kept: it holds the
        checkpoints of the trials.
      progress: Called with index in `runs` -> status, step and best line.

    Returns:
      Whether it reached the end; False: a signal requested a stop.
    """
    config, workload = self.programs.config, self.programs.workload
    dataset, task = workload.dataset, workload.task
    examples = workload_lib.kept_examples(workload, config)
    records = [
      record.Record(
        run,
        trial_config,
        dataset.bytes_per_token,
        task,
        self._tell,
        examples=examples,
      )
      for run, trial_config in zip(runs, configs, strict=True)
    ]
    unfinished = [
      (record.run, trial_config)
      for record, trial_config in zip(records, configs, strict=True)
      if not record.has_ended()
    ]
    for run, trial_config in unfinished:
      resume.check_same_config(run, trial_config, "code")
      resume.check_same_data(run, dataset)
    loaded = None
    if not any(run.config() for run, _ in unfinished):  # Else it may resume.
      new = [run for run, _ in unfinished]
      loaded = weights.load(config, self.programs.workload.state, new)
    provenance = host.provenance(dataset)

    def write(i):
      run, trial_config = unfinished[i]
      config_lib.write_code(trial_config, run.path)
      run.write_config(config_lib.stored(trial_config))
      run.write_provenance(provenance)
      # Another runner may have left checkpoints of an unfinished trial.
      rundir.remove(run.checkpoints)

    if jax.process_index() == 0:
      loop.each(write, range(len(unfinished)))
    checkpoints = checkpoint.Checkpoints(
      folder,
      keep_best=0,
      is_kept=lambda at: config_lib.is_kept(at, config),
      tell=self._tell,
    )
    population = loop.Loop(
      config,
      _Population(self.programs, configs, records, folder, self._tell, loaded),
      records,
      checkpoints,
      tell=self._tell,
      progress=lambda lines: progress(
        {
          i: {
            "status": records[i].status,
            "step": records[i].step,
            "best": records[i].best,
          }
          for i in lines
        }
      ),
    )
    try:
      with usercode.running(self._code):
        is_done = population.train()
    except Exception as error:
      population.stopped_by(error, folder.parents[2])
      raise
    if is_done:
      checkpoints.delete_superseded()
    checkpoints.close()
    return is_done


class _Population:
  """Trials on groups of devices; see `loop.Trials`."""

  keeps_best = True  # Some of many trials improve at almost every evaluation.

  def __init__(self, programs, configs, records, folder, tell, loaded):
    self._programs, self._configs, self._records = programs, configs, records
    self._folder, self._tell, self._loaded = folder, tell, loaded
    self._seeds = [config.seed for config in configs]
    self._hparams = programs.hparams(configs)
    self.sample, self.layers = programs.sample, programs.workload.layers
    self.is_sampled = "valid_full" in programs.workload.dataset.splits
    like = programs.packed_like(len(configs))
    best = [like] * programs.config.keep_best
    self.saved_like = {"states": like, "best": best}

  def init(self):
    runs = [record.run for record in self._records]
    workload, config = self._programs.workload, self._programs.config
    loaded = self._loaded or weights.load(config, workload.state, runs)
    weights.note(loaded, runs, self._tell)
    states = self._programs.init(self._configs, self._hparams, loaded.arrays)
    self._best = [
      jax.tree.map(jax.numpy.copy, states)
      for _ in range(self._programs.config.keep_best)
    ]
    return states

  def saved(self, states):
    num = len(self._configs)
    return {
      "states": self._programs.packed(states, num),
      "best": [self._programs.packed(best, num) for best in self._best],
    }

  def restored(self, tree):
    self._best = [self._programs.unpacked(best) for best in tree["best"]]
    return self._programs.unpacked(tree["states"])

  def refuse_lines(self, step):
    # Another runner has restarted a trial, or a file was damaged.
    self._tell(
      f"lines of metrics before step {step} are missing or changed;"
      " the trials start again"
    )

  def start(self, at):
    self._feed = self._programs.make_feed(self._seeds, at)

  def next_stop(self, at):
    return self._feed.next_stop(at)

  def reads(self):
    return self._feed.reads

  def arguments(self, at, stop):
    return self._feed.arguments(at, stop)

  def run(self, states, arguments, live):
    return self._programs.run_steps(self._hparams, states, arguments, live)

  def fetch(self, tallies):
    return sharding.to_host(tallies)

  def evaluate(self, split, states):
    sums = self._programs.evaluate(split, self._hparams, states)
    predictions = None
    if split == "valid" and self.sample is not None:
      predictions = self._programs.predictions(self._hparams, states)
    return sums, predictions

  def keep(self, states, ranks):
    keep_best = self._programs.config.keep_best
    if any(rank < keep_best for rank in ranks.values()):
      places = np.full(self._programs.size, keep_best, np.int32)
      for i, rank in ranks.items():
        places[i] = min(rank, keep_best)
      placed = sharding.place_trials(self._programs.mesh, places)
      self._best = self._programs.insert(placed, states, self._best)
    return False

  def best(self, records):
    lines = {i: record.result(record.lines) for i, record in enumerate(records)}
    return {i: line for i, line in lines.items() if line}, self._best[0]

  def ended(self, i):
    if self._records[i].writes:
      packed.refer(self._records[i].run, self._folder, i)

  def export(self, i, states):
    """`train` in the run directory of the trial exports it."""
