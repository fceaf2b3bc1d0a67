"""Trains many trials together, each as if it was alone: a population.

A trial leaves the run directory that it would have left alone, but for its
checkpoints: those of all trials are saved together, in the folder of the
population, and RUN/checkpoints.json says where; see packed.py.
"""

import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import jax
import ml_collections
import numpy as np

from jaxplay import config as config_lib
from jaxplay import rundir
from jaxplay.training import (
  checkpoint,
  host,
  loop,
  packed,
  programs,
  record,
  resume,
  sharding,
)


class Group:
  """Trials of one static config: one compilation, some populations."""

  def __init__(
    self,
    configs: Sequence[ml_collections.ConfigDict],
    tell: Callable[[str], None],
    **kwargs: Any,
  ):
    """Compiles for as many of the trials as fit into memory together.

    Args:
      configs: One for each trial, equal but for what a step takes as an
        argument: `hparams`, `seed`, and which schedule it is.
      tell: Called with sentences.
      **kwargs: Of `programs.Programs`.
    """
    self.programs = programs.Programs(configs, tell, **kwargs)
    self._tell = tell

  @property
  def size(self) -> int:
    """Most trials of a population."""
    return self.programs.size

  def close(self) -> None:
    """Frees the programs; it is of no use any more."""
    self.programs.close()

  def train(
    self,
    configs: Sequence[ml_collections.ConfigDict],
    runs: Sequence[rundir.RunDir],
    folder: pathlib.Path,
    progress: Callable[[dict[int, dict[str, Any]]], None],
  ) -> bool:
    """Trains a population to its end; goes on where it was stopped.

    Args:
      configs: Of at most `size` trials.
      runs: Their run directories, locked. Trials that are done are left alone.
      folder: STUDY/populations/NAME/checkpoints, which stays: it holds the
        checkpoints of the trials.
      progress: Called with places in `runs` -> what is known of their status.

    Returns:
      Whether it came to its end; False: a signal asked it to stop.
    """
    config, dataset = self.programs.config, self.programs.workload.dataset
    records = [
      record.Record(run, config, dataset.bytes_per_token)
      for run, config in zip(runs, configs, strict=True)
    ]
    begin = [
      (one.run, config)
      for one, config in zip(records, configs, strict=True)
      if not one.has_ended()
    ]
    for run, one in begin:
      resume.check_same_config(run, one)
      resume.check_same_data(run, dataset)
    provenance = host.provenance(dataset)

    def write(i):
      run, one = begin[i]
      run.write_config(config_lib.stored(one))
      run.write_provenance(provenance)
      # Of another runner, that did not finish this trial.
      rundir.remove(run.checkpoints)

    if jax.process_index() == 0:
      loop.each(write, range(len(begin)))
    checkpoints = checkpoint.Checkpoints(
      folder,
      keep_best=0,
      is_kept=lambda at: config_lib.is_kept(at, config),
      tell=self._tell,
    )
    population = loop.Loop(
      config,
      _Population(self.programs, configs, records, folder, self._tell),
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
      went_on = population.train()
    except Exception as error:
      population.stopped_by(error, folder.parents[2])
      raise
    if went_on:
      checkpoints.delete_superseded()
    checkpoints.close()
    return went_on


class _Population:
  """Trials on groups of devices; see `loop.Trials`."""

  keeps_best = True  # One of many trials is better at nearly each evaluation.

  def __init__(self, of, configs, records, folder, tell):
    self._of, self._configs, self._records = of, configs, records
    self._folder, self._tell = folder, tell
    self._seeds = [config.seed for config in configs]
    self._hparams = of.hparams(configs)
    self.sample = of.sample
    like = of.packed_like(len(configs))
    self.saved_like = {"states": like, "best": [like] * of.config.keep_best}

  def init(self):
    states = self._of.init(self._configs, self._hparams)
    self._best = [
      jax.tree.map(jax.numpy.copy, states)
      for _ in range(self._of.config.keep_best)
    ]
    return states

  def saved(self, states):
    num = len(self._configs)
    return {
      "states": self._of.packed(states, num),
      "best": [self._of.packed(best, num) for best in self._best],
    }

  def restored(self, tree):
    self._best = [self._of.unpacked(best) for best in tree["best"]]
    return self._of.unpacked(tree["states"])

  def refuse_lines(self, step):
    # Another runner had begun a trial anew; or a file was damaged.
    self._tell(
      f"lines of metrics before step {step} are missing or changed;"
      " the trials begin anew"
    )

  def start(self, at):
    self._feed = self._of.make_feed(self._seeds, at)

  def next_stop(self, at):
    return self._feed.next_stop(at)

  def arguments(self, at, stop):
    return self._feed.arguments(at, stop)

  def run(self, states, arguments, live):
    return self._of.run_steps(self._hparams, states, arguments, live)

  def fetch(self, tallies):
    return sharding.to_host(tallies)

  def evaluate(self, split, states):
    sums, predictions = self._of.evaluate(split, self._hparams, states), None
    if split == "valid" and self.sample is not None:
      predictions = self._of.predictions(self._hparams, states)
    return sums, predictions

  def keep(self, states, ranks):
    keep_best = self._of.config.keep_best
    if any(rank < keep_best for rank in ranks.values()):
      places = np.full(self._of.size, keep_best, np.int32)
      for i, rank in ranks.items():
        places[i] = min(rank, keep_best)
      placed = sharding.place_trials(self._of.mesh, places)
      self._best = self._of.insert(placed, states, self._best)
    return False

  def best(self, records):
    lines = {i: one.best for i, one in enumerate(records)}
    return {i: line for i, line in lines.items() if line}, self._best[0]

  def ended(self, i):
    if self._records[i].writes:
      packed.refer(self._records[i].run, self._folder, i)

  def export(self, i, states):
    """Is made when `train` is called in the run directory of the trial."""
