"""The training loop over N trials that share a program; a single run has N = 1.

`Trials` hides how they are computed: one run over all devices (train.py), or a
population of trials, each on a group of devices (population.py).
"""

import bisect
import collections
import math
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent import futures
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import storage
from jaxplay.training import (
  checkpoint,
  evaluate,
  host,
  metrics,
  record,
  scores,
)

# Minimum age at which an evaluation updates status.json, times N trials.
STATUS_SECONDS = 2.0


class Trials(Protocol):
  """How trials are computed. Arrays on the host have a leading dimension N.

  Attributes:
    saved_like: The result of `saved`, as ShapeDtypeStructs.
    sample: The examples whose predictions are saved; see
      `workload.prediction_sample`. None: no predictions are saved.
    layers: Names of the layers of the diagnostics.
    keeps_best: Whether `saved` contains the best states.
    is_sampled: Whether the split "valid" is a sample of "valid_full".
  """

  saved_like: Any
  sample: Mapping[str, np.ndarray] | None
  layers: Sequence[str]
  keeps_best: bool
  is_sampled: bool

  def init(self) -> Any:
    """The states before the first step; called if no checkpoint is intact."""

  def saved(self, states: Any) -> Any:
    """The content of a checkpoint, independent of the device layout."""

  def restored(self, tree: Any) -> Any:
    """The states, from the content of a checkpoint."""

  def refuse_lines(self, step: int) -> None:
    """Reports that the lines of metrics match no checkpoint.

    Raises:
      jaxplay.UserError: Training must not silently start again.
    """

  def start(self, at: int) -> None:
    """Prepares training from step `at`."""

  def next_stop(self, at: int) -> int:
    """The furthest step that one call can go to."""

  def reads(self) -> bool:
    """Whether the host reads the training examples."""

  def arguments(self, at: int, stop: int) -> Any:
    """The examples from the host for steps [at, stop)."""

  def run(self, states: Any, arguments: Any, live: np.ndarray) -> tuple:
    """Starts steps; donates the states. Returns (states, tallies)."""

  def fetch(self, tallies: Any) -> dict[str, np.ndarray]:
    """Waits for tallies, and copies them to the host."""

  def evaluate(self, split: str, states: Any) -> tuple[dict, dict | None]:
    """Sums over a split: suffix of the weights -> name -> [N, ...].

    Returns:
      (sums, predictions of the sample: name -> [N, examples, ...]); no
      predictions (None) for the test split, or without a sample.
    """

  def keep(self, states: Any, ranks: Mapping[int, int]) -> bool:
    """Keeps states that are among the best.

    Args:
      states: The evaluated states.
      ranks: Trial -> number of earlier evaluations that were as good or better.

    Returns:
      Whether this requires a checkpoint.
    """

  def best(self, records: Sequence[record.Record]) -> tuple[dict, Any]:
    """(trial -> its `Record.result`, states of these steps)."""

  def ended(self, i: int) -> None:
    """Called when trial `i` ends: writes where its checkpoints are."""

  def export(self, i: int, states: Any) -> None:
    """Exports the forward function of a trial, if requested."""


class Loop:
  """Trains some trials, from their newest checkpoint on."""

  def __init__(
    self,
    config: ml_collections.ConfigDict,
    trials: Trials,
    records: Sequence[record.Record],
    checkpoints: checkpoint.Checkpoints,
    *,
    tell: Callable[[str], None],
    progress: Callable[[Mapping[int, Mapping[str, Any]]], None],
    tracer: host.Tracer | None = None,
  ):
    """Finds the trials that are not done.

    Args:
      config: The part of their configs that the trials share.
      trials: How they are computed.
      records: One per trial.
      checkpoints: Of all trials together.
      tell: Called with messages.
      progress: Called with trial -> its new line of metrics, or {} if only its
        status is new.
      tracer: Traces some steps.
    """
    self._config, self._trials, self._records = config, trials, records
    self._checkpoints, self._tell = checkpoints, tell
    self._progress, self._tracer = progress, tracer or host.Tracer()
    self._total = config.max_train_steps
    self._live = np.array([not record.has_ended() for record in records])
    # Finite costs of each trial, ascending.
    self._costs: list[list[float]] = [[] for _ in records]

  def train(self) -> bool:
    """Trains from the newest checkpoint to the end.

    Returns:
      Whether it reached the end; False: a signal requested a stop.
    """
    config, trials = self._config, self._trials
    states, start = self._restore()
    trials.start(start)
    clock = host.Clock(start)
    in_flight: collections.deque = collections.deque()
    at, stop = start, self._next_stop(start)
    arguments = trials.arguments(at, stop) if at < self._total else None
    with host.Preemption() as preemption:
      while at < self._total and self._live.any():
        if preemption.now():
          return self._preempted(at, states, in_flight, clock)
        self._tracer.before(at, states)
        states, tally = trials.run(states, arguments, self._live)
        self._tracer.after(stop, states)
        if at == start:
          clock.restart(start)  # Compiling is not training.
        at = stop
        in_flight.append((at, tally))
        # While the devices are busy, the host prepares the next call and reads
        # the results of earlier ones.
        if at < self._total:
          stop = self._next_stop(at)
          with clock.waiting_for_data(trials.reads()):
            arguments = trials.arguments(at, stop)
        rests_here = rests(at, config)
        while len(in_flight) > (0 if rests_here else 1):
          done, tally = in_flight.popleft()
          lines = self._settle(done, tally, clock)
        if rests_here:
          self._rest(at, states, lines)
          clock.restart(at)
      self._end(at, states)
      # After a signal at the end, the next trials must not start.
      return not preemption.now()

  def _alive(self):
    return [int(i) for i in np.flatnonzero(self._live)]

  def _next_stop(self, at):
    return min(
      self._trials.next_stop(at),
      next_stop(at, self._config),
      self._tracer.next_stop(at),
    )

  def _restore(self):
    """(states, step) of the newest usable checkpoint."""
    complete = {0: {i: [] for i in self._left(0)}}  # Step -> trial -> lines.

    def fits(at, digests):
      # Checkpoints of older versions have no digests.
      complete[at] = {
        i: self._records[i].lines_until(at, digests and digests[i])
        for i in self._left(at)
      }
      return None not in complete[at].values()

    try:
      restored = self._checkpoints.restore_newest(self._trials.saved_like, fits)
    except checkpoint.Unfit as error:
      self._trials.refuse_lines(error.step)
      restored = None
    if restored is None:
      self._checkpoints.delete_all()
      start, states = 0, self._trials.init()
    else:
      start, states = restored[0], self._trials.restored(restored[1])
      self._tell(f"resuming from the checkpoint of step {start}")

    def resume(i):
      self._live[i] = True
      self._records[i].resume(start, complete[start][i])
      self._costs[i] = sorted(self._records[i].costs())

    each(resume, complete[start])
    self._progress({i: {} for i in complete[start]})
    return states, start

  def _left(self, at):
    """Trials to continue from step `at`.

    Also those that diverged later: their best states until then are not in a
    checkpoint of that step.
    """
    return [
      i
      for i, record in enumerate(self._records)
      if self._live[i] or (record.status == "infeasible" and record.step > at)
    ]

  def _settle(self, at, tally, clock):
    """Waits for a call, and logs its last step if it is due.

    Returns:
      Trial -> line, of live trials. `_rest` writes the lines of a step that
      rests.
    """
    config = self._config
    logged = at % config.log_every == 0 or at == self._total
    if not logged and not rests(at, config):
      jax.block_until_ready(tally["loss"])  # Bounds the calls in flight.
      return {}
    tallies, lines = self._trials.fetch(tally), {}
    throughput = clock.rates(at, config.batch_size) if logged else {}
    for i in self._alive():
      of_trial = {name: values[i] for name, values in tallies.items()}
      if bad := metrics.diverged(of_trial):
        self._diverged(i, of_trial, *bad)
        continue
      lines[i] = {"step": at}
      if logged:
        line = metrics.train_line(of_trial, self._trials.layers)
        lines[i] |= line | throughput
      self._records[i].step = at
    if not rests(at, config):
      self._write(lines)
    return lines

  def _diverged(self, i, tally, step, reason):
    self._live[i] = False
    self._trials.ended(i)
    self._records[i].infeasible(tally, step, reason)
    self._progress({i: {}})

  def _write(self, lines):
    written = {i: line for i, line in lines.items() if len(line) > 1}
    each(lambda i: self._records[i].write_line(written[i]), written)
    if written:
      self._progress(written)

  def _rest(self, at, states, lines):
    """Evaluates and saves after step `at`, if due."""
    config = self._config
    save = at % config.checkpoint_every == 0 or at == self._total
    save |= config_lib.is_kept(at, config)
    if not lines:
      return  # All have diverged.
    if at % config.eval_every == 0 or at == self._total:
      save |= self._evaluate(at, states, lines)
    self._write(lines)
    if save:
      self._save(at, states)
    first = self._records[next(iter(lines))]
    if first.seconds_since_status() > STATUS_SECONDS * len(lines):
      each(lambda i: self._records[i].write_status("running"), lines)

  def _evaluate(self, at, states, lines):
    """Adds the evaluation to the lines; returns whether to save."""
    trials, ranks = self._trials, {}
    if self._config.dataset.fold_validation:  # There is nothing to evaluate on.
      is_last = at == self._total
      return is_last and trials.keep(states, dict.fromkeys(lines, 0))
    sums, predictions = trials.evaluate("valid", states)
    whole = None
    if at == self._total and trials.is_sampled:
      whole, _ = trials.evaluate("valid_full", states)

    def note(i):
      record, of_trial = self._records[i], _at(sums, i)
      if predictions is not None:
        of_sample = _at(predictions, i)
        of_whole = {} if whole is None else _at(whole, i)[""]
        record.write_predictions(
          at, trials.sample, of_sample, of_trial[""], of_whole
        )
      lines[i] |= record.evaluation(of_trial)
      record.note_examples(at, self._costs_of(of_trial), lines[i])
      if whole is not None:
        lines[i] |= record.whole(_at(whole, i))
      cost = record.cost(lines[i])
      if np.isfinite(cost):
        ranks[i] = bisect.bisect_right(self._costs[i], cost)
        self._costs[i].insert(ranks[i], cost)

    each(note, lines)
    return trials.keep(states, ranks)

  def _costs_of(self, of_trial):
    """The costs of the examples, by the weights of the objective."""
    suffix = evaluate.suffix(self._config.objective)
    return of_trial[suffix].get(scores.COSTS)

  def _save(self, at, states):
    # All lines up to the step of a checkpoint must be on disk before it.
    each(lambda i: self._records[i].sync(), self._alive())
    # The cost decides which checkpoints of a run are kept as the best; for a
    # population it is not used.
    newest = self._records[0].lines[-1:]
    cost = math.nan
    if newest and newest[0]["step"] == at:
      cost = self._records[0].cost(newest[0])
    digests = [record.digest for record in self._records]
    self._checkpoints.save(at, self._trials.saved(states), cost, digests)

  def _preempted(self, at, states, in_flight, clock):
    while in_flight:
      self._settle(*in_flight.popleft(), clock)
    if not self._live.any():
      self._end(at, states)
      return False
    self._save(at, states)
    self._checkpoints.wait()

    def stop(i):
      self._records[i].step = at
      self._records[i].write_status("preempted", reason=host.PREEMPTED)

    each(stop, self._alive())
    return False

  def _end(self, at, states):
    """Finishes, once no trial has steps left."""
    if self._live.any():
      self.finish(self._alive(), states)
    elif self._trials.keeps_best:  # All trials have diverged.
      self._save(at, states)
      self._checkpoints.wait()

  def finish(self, trials: Sequence[int], last: Any = None) -> None:
    """Ends trials that made all steps: chooses the best, and tests it.

    Args:
      trials: Which.
      last: Their states after the last step; None: they had ended before.
    """
    config = self._config
    self._checkpoints.wait()
    for i in trials:
      self._records[i].step = self._total
      self._records[i].complete()
    best, states = self._trials.best(self._records)
    if last is not None:
      steps = {i: best[i]["step"] for i in trials if i in best}
      self._write_examples(steps, states, last)
    if best and config.report_test:
      sums, _ = self._trials.evaluate("test", states)
      tests = sums[evaluate.suffix(config.objective)]
    if best and self._trials.is_sampled:
      whole, _ = self._trials.evaluate("valid_full", states)

    def end(i):
      record, extra = self._records[i], {}
      if i in best:  # Else every evaluation was NaN.
        if not config.dataset.fold_validation:
          extra["best"] = best[i]
        if config.report_test:
          extra["test"] = record.test(_at(tests, i), best[i]["step"])
        if self._trials.is_sampled:
          step = {"step": best[i]["step"]}
          extra["full"] = record.whole(_at(whole, i)) | step
        self._trials.export(i, states)
      self._trials.ended(i)
      record.write_status("completed", **extra)
      self._live[i] = False

    each(end, trials)
    self._progress({i: {} for i in trials})

  def _write_examples(self, best, states, last):
    """Saves the costs of the examples at the steps `best` and the last one.

    A run that was stopped evaluates its best states again if it found them
    before: the same program gives the same bits.
    """
    for steps, of_step in (
      (dict.fromkeys(best, self._total), last),
      (best, states),
    ):
      lacking = [i for i in steps if self._records[i].lacks_examples(steps[i])]
      if lacking:
        sums, _ = self._trials.evaluate("valid", of_step)
        for i in lacking:
          costs = self._costs_of(_at(sums, i))
          self._records[i].note_examples(steps[i], costs)
    each(lambda i: self._records[i].write_examples(best[i]), best)

  def stopped_by(self, error: Exception, root: pathlib.Path) -> None:
    """Records an error that ended the loop in status.json of the trials.

    Args:
      error: The exception.
      root: Of the run or the study.
    """
    if jax.process_count() == 1:  # Else this would wait for a host that died.
      self._checkpoints.abandon(root)
    lost = storage.problem(error, root)
    for i in self._alive():
      if lost is not None:
        self._records[i].interrupted(lost)
      elif not isinstance(error, jaxplay.UserError):
        self._records[i].failed(error)


def each(function: Callable[[int], None], trials: Iterable[int]) -> None:
  """Calls a function with each trial, in parallel, to hide disk latency."""
  trials = list(trials)
  if len(trials) == 1:  # Keeps tracebacks simple.
    function(trials[0])
    return
  with futures.ThreadPoolExecutor(8) as pool:
    for _ in pool.map(function, trials):
      pass


def next_stop(at: int, config: ml_collections.ConfigDict) -> int:
  """The next step after which the loop logs, evaluates or saves."""
  intervals = (config.log_every, config.eval_every, config.checkpoint_every)
  return min(
    config.max_train_steps,
    config_lib.next_kept(at, config) or config.max_train_steps,
    *((at // every + 1) * every for every in intervals),
  )


def rests(at: int, config: ml_collections.ConfigDict) -> bool:
  """Whether the loop waits for the device after this step."""
  return (
    at == config.max_train_steps
    or at % config.eval_every == 0
    or at % config.checkpoint_every == 0
    or config_lib.is_kept(at, config)
  )


def _at(tree, i):
  """One trial of a tree over trials."""
  return jax.tree.map(lambda leaves: leaves[i], tree)
