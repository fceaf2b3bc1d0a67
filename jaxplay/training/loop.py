"""The training loop: one, over N trials that share a program; a run is N = 1.

How the trials are computed is behind `Trials`: a run over all devices, with
data from the device or the host (train.py), or a population of trials, each on
a group of devices (population.py).
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
)

# How often status.json of a running run is brought up to date, at evaluations;
# of N trials, N times as many seconds.
STATUS_SECONDS = 2.0


class Trials(Protocol):
  """How trials are computed. All arrays on the host have a leading [N, ...].

  Attributes:
    saved_like: What `saved` returns, as ShapeDtypeStructs.
    sample: The examples whose predictions are saved; see
      `workload.prediction_sample`. None: none are.
    keeps_best: Whether the best states are part of what is `saved`.
  """

  saved_like: Any
  sample: Mapping[str, np.ndarray] | None
  keeps_best: bool

  def init(self) -> Any:
    """The states before the first step; no checkpoint is intact."""

  def saved(self, states: Any) -> Any:
    """What a checkpoint holds, from which any layout can go on."""

  def restored(self, tree: Any) -> Any:
    """The states, from what a checkpoint holds."""

  def refuse_lines(self, step: int) -> None:
    """Lines of metrics before a checkpoint are not what they were.

    Raises:
      jaxplay.UserError: They are not made again without being asked.
    """

  def start(self, at: int) -> None:
    """Makes ready to train from step `at` on."""

  def next_stop(self, at: int) -> int:
    """The furthest step that one call can go to."""

  def arguments(self, at: int, stop: int) -> Any:
    """What the host brings for steps [at, stop)."""

  def run(self, states: Any, arguments: Any, live: np.ndarray) -> tuple:
    """Starts steps; donates the states. Returns (states, tallies)."""

  def fetch(self, tallies: Any) -> dict[str, np.ndarray]:
    """Tallies from the devices, once they are there."""

  def evaluate(self, split: str, states: Any) -> tuple[dict, dict | None]:
    """Sums over a split: suffix of the weights -> name -> [N, ...].

    Returns:
      (sums, predictions of the sample: name -> [N, examples, ...]); of the
      test split, and without a sample, there are no predictions: None.
    """

  def keep(self, states: Any, ranks: Mapping[int, int]) -> bool:
    """Keeps states that are among the best.

    Args:
      states: That were evaluated.
      ranks: Trial -> how many earlier evaluations were as good or better.

    Returns:
      Whether a checkpoint has to be saved for that.
    """

  def best(self, records: Sequence[record.Record]) -> tuple[dict, Any]:
    """(trial -> the line of its best step, states of these steps)."""

  def ended(self, i: int) -> None:
    """Trial `i` ends now: writes where its checkpoints are, if elsewhere."""

  def export(self, i: int, states: Any) -> None:
    """Writes the forward function of a trial, if that is to be done now."""


class Loop:
  """One start of some trials: the loop, and what it keeps between steps."""

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
    """Looks at which trials are done.

    Args:
      config: Of the trials, as far as they are alike.
      trials: How they are computed.
      records: One for each trial.
      checkpoints: Of all of them together.
      tell: Called with sentences.
      progress: Called with trial -> its new line of metrics, or {} where it
        has a new status alone.
      tracer: Traces some steps.
    """
    self._config, self._trials, self._records = config, trials, records
    self._checkpoints, self._tell = checkpoints, tell
    self._progress, self._tracer = progress, tracer or host.Tracer()
    self._total = config.max_train_steps
    self._live = np.array([not one.has_ended() for one in records])
    # Finite objectives of each, ascending.
    self._values: list[list[float]] = [[] for _ in records]

  def train(self) -> bool:
    """Trains from the newest checkpoint to the end.

    Returns:
      Whether the end was reached; False: a signal asked to stop.
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
        # From here on the devices are busy: what is next is made ready, and
        # what is behind is looked at.
        if at < self._total:
          stop = self._next_stop(at)
          with clock.waiting_for_data():
            arguments = trials.arguments(at, stop)
        rests_here = rests(at, config)
        while len(in_flight) > (0 if rests_here else 1):
          done, tally = in_flight.popleft()
          lines = self._settle(done, tally, clock)
        if rests_here:
          self._rest(at, states, lines)
          clock.restart(at)
      self._end(at, states)
      # Where nothing is left to be saved, the next trials must not begin.
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
    """(states, step) of the newest checkpoint that can be gone on with."""
    found = {0: {i: [] for i in self._left(0)}}  # Step -> trial -> lines.

    def fits(at, digests):
      # By an older version, if there are none.
      found[at] = {
        i: self._records[i].lines_until(at, digests and digests[i])
        for i in self._left(at)
      }
      return None not in found[at].values()

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
      self._records[i].resume(start, found[start][i])
      self._values[i] = sorted(self._records[i].values())

    each(resume, found[start])
    self._progress({i: {} for i in found[start]})
    return states, start

  def _left(self, at):
    """Trials to go on with from step `at`.

    Also those that diverged later: the states that were best until then are
    not in a checkpoint of that step.
    """
    return [
      i
      for i, one in enumerate(self._records)
      if self._live[i] or (one.status == "infeasible" and one.step > at)
    ]

  def _settle(self, at, tally, clock):
    """Waits for a call, and logs it if its last step is a logged one.

    Returns:
      Trial -> line, of those that go on. Lines of a step that also rests are
      left for `_rest` to write.
    """
    config = self._config
    logged = at % config.log_every == 0 or at == self._total
    if not logged and not rests(at, config):
      jax.block_until_ready(tally["loss"])  # Bounds how far the host is ahead.
      return {}
    tallies, lines = self._trials.fetch(tally), {}
    rates = clock.rates(at, config.batch_size) if logged else {}
    for i in self._alive():
      of_trial = {name: values[i] for name, values in tallies.items()}
      if bad := metrics.diverged(of_trial):
        self._diverged(i, of_trial, *bad)
        continue
      lines[i] = {"step": at}
      if logged:
        lines[i] |= metrics.train_line(of_trial) | rates
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
    """Evaluates and saves after step `at`, as far as it is time to."""
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
    """Adds the evaluation to the lines; whether it is to be saved for that."""
    trials, ranks = self._trials, {}
    sums, predictions = trials.evaluate("valid", states)

    def note(i):
      one, of_trial = self._records[i], _at(sums, i)
      if predictions is not None:
        of_sample = _at(predictions, i)
        one.write_predictions(at, trials.sample, of_sample, of_trial[""])
      lines[i] |= one.evaluation(of_trial)
      value = lines[i][self._config.objective]
      if np.isfinite(value):  # NaN is no better than nothing.
        ranks[i] = bisect.bisect_right(self._values[i], value)
        self._values[i].insert(ranks[i], value)

    each(note, lines)
    return trials.keep(states, ranks)

  def _save(self, at, states):
    # A checkpoint promises that all lines up to its step are on the disk.
    each(lambda i: self._records[i].sync(), self._alive())
    # By its value a checkpoint is kept as one of the best; of a population's
    # it decides nothing.
    newest = self._records[0].lines[-1:]
    value = math.nan
    if newest and newest[0]["step"] == at:
      value = newest[0].get(self._config.objective, math.nan)
    digests = [one.digest for one in self._records]
    self._checkpoints.save(at, self._trials.saved(states), value, digests)

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
    """Does what is left to do once no trial has a step to go."""
    if self._live.any():
      self.finish(self._alive())
    elif self._trials.keeps_best:  # Of trials that have all diverged.
      self._save(at, states)
      self._checkpoints.wait()

  def finish(self, trials: Sequence[int]) -> None:
    """Ends trials that made all steps: chooses the best, tests it if asked."""
    config = self._config
    self._checkpoints.wait()
    for i in trials:
      self._records[i].step = self._total
      self._records[i].complete()
    best, states = self._trials.best(self._records)
    if best and config.report_test:
      sums, _ = self._trials.evaluate("test", states)
      tests = sums[evaluate.suffix(config.objective)]

    def end(i):
      one, extra = self._records[i], {}
      if i in best:  # Else every evaluation was NaN: nothing to choose.
        extra["best"] = best[i]
        if config.report_test:
          extra["test"] = one.test(_at(tests, i), best[i]["step"])
        self._trials.export(i, states)
      self._trials.ended(i)
      one.write_status("completed", **extra)
      self._live[i] = False

    each(end, trials)
    self._progress({i: {} for i in trials})

  def stopped_by(self, error: Exception, root: pathlib.Path) -> None:
    """Notes an error that ended the loop in what the trials leave.

    Args:
      error: Whatever was raised.
      root: Of the run or the study.
    """
    if jax.process_count() == 1:  # Else a host that died is waited for.
      self._checkpoints.abandon(root)
    lost = storage.problem(error, root)
    for i in self._alive():
      if lost is not None:
        self._records[i].interrupted(lost)
      elif not isinstance(error, jaxplay.UserError):
        self._records[i].failed(error)


def each(function: Callable[[int], None], trials: Iterable[int]) -> None:
  """Calls a function with each trial, whose files are written side by side.

  A disk that takes milliseconds to write one takes hardly more for eight.
  """
  trials = list(trials)
  if len(trials) == 1:  # An error has no thread in its way.
    function(trials[0])
    return
  with futures.ThreadPoolExecutor(8) as pool:
    for _ in pool.map(function, trials):
      pass


def next_stop(at: int, config: ml_collections.ConfigDict) -> int:
  """The next step after which there is something to do, such as a line."""
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
