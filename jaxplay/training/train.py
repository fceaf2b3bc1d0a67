"""Trains one config in one run directory; resumes what is there."""

import functools
import math
from collections.abc import Mapping
from typing import Any, Protocol

import jax
import ml_collections
import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir, storage, usercode
from jaxplay.training import (
  checkpoint,
  evaluate,
  feed,
  host,
  packed,
  record,
  resume,
  sharding,
  step,
  weights,
)
from jaxplay.training import loop as loop_lib
from jaxplay.training import workload as workload_lib


class Console(Protocol):
  """Where a run reports its progress; only host 0 prints."""

  def tell(self, sentence: str) -> None:
    """Prints a line."""

  def progress(self, done: int, total: int, line: dict[str, Any]) -> None:
    """Shows that `done` of `total` steps are made; `line`: newest metrics."""


def train(
  config: ml_collections.ConfigDict,
  workdir: str,
  console: Console,
  *,
  extend: bool = False,
  allow_code_change: bool = False,
  profile: tuple[int, int] | None = None,
) -> dict[str, Any]:
  """Trains until `max_train_steps`, divergence or preemption; resumes.

  Called on every host. A finished run is not changed, except that missing test
  metrics, export, and the checkpoints of a trial of a population are added.

  Args:
    config: A checked config.
    workdir: The run directory.
    console: Reports progress.
    extend: Whether the run may have been shorter: if the learning rate does not
      depend on the length, it continues as if it had been longer all along.
    allow_code_change: Whether the user's code may be other than the run began
      with.
    profile: (first, last): the first host traces the steps after the first up
      to the last, into the folder profile of the run.

  Returns:
    The content of status.json at the end.

  Raises:
    jaxplay.UserError: The request is wrong: another config in this workdir, a
      missing data set, or missing lines of metrics.
    jaxplay.StorageError: Files cannot be written or read.
  """
  workload_lib.check_same_hosts([config])
  run = rundir.RunDir(workdir)
  usercode.look_in(workdir)
  but = ["max_train_steps"] * extend + ["code"] * allow_code_change
  with storage.reported(run.path), usercode.running(config.code):
    return _train_in(run, config, console, extend, but, profile)


def _train_in(run, config, console, extend, but, profile):
  rundir.refuse_other(run.path, "a run")
  run.refuse_remains()
  if extend:
    resume.check_extends(run, config)
  # A run that cannot start must leave no files.
  workload = loaded = None
  if not run.config():
    workload = workload_lib.make_workload(config)
    loaded = weights.load(config, workload.state, [run])
  if jax.process_index() != 0:
    return _train(config, run, console, but, None, workload, loaded)
  run.create()
  with run.lock():
    return _train(config, run, console, but, profile, workload, loaded)


def _train(config, run, console, but, profile, workload, loaded):
  resume.check_same_config(run, config, *but)
  status, done = run.status(), record.Record(run, config).has_ended()
  if done:
    run.check_metrics()
  is_whole = done and not _lacks(run, config, status)
  if is_whole and run.packed() is None:
    console.tell(
      f"{run.path} holds a finished run ({status['status']} at step"
      f" {status['step']}); nothing to do"
    )
    return status
  workload = workload or workload_lib.make_workload(config)
  resume.check_same_data(run, workload.dataset)
  if packed.unpack(run, workload.state):
    console.tell(f"copied the checkpoints of its population to {run.path}")
  if is_whole:
    return status
  if jax.process_index() == 0:
    if not done:  # A shorter run may have exported another checkpoint.
      rundir.remove(run.export)
    config_lib.write_code(config, run.path)
    run.write_config(config_lib.stored(config))
    run.write_provenance(host.provenance(workload.dataset))
  checkpoints = checkpoint.Checkpoints(
    run.checkpoints,
    keep_best=config.keep_best,
    is_kept=lambda at: config_lib.is_kept(at, config),
    tell=console.tell,
  )
  run_record = record.Record(
    run,
    config,
    workload.dataset.bytes_per_token,
    workload.task,
    console.tell,
    examples=workload_lib.kept_examples(workload, config),
  )

  def progress(lines):
    for line in filter(None, lines.values()):
      console.progress(line["step"], config.max_train_steps, line)

  loop = loop_lib.Loop(
    config,
    _Run(config, workload, run, checkpoints, loaded, console.tell),
    [run_record],
    checkpoints,
    tell=console.tell,
    progress=progress,
    tracer=host.Tracer(run.path / "profile", profile),
  )
  try:
    if done:
      loop.finish([0])
    else:
      loop.train()
  except Exception as error:
    loop.stopped_by(error, run.path)
    raise
  checkpoints.close()
  return run_record.content


def _lacks(run, config, status):
  """Whether a finished run lacks test metrics or an export."""
  if status["status"] != "completed":
    return False
  if config.report_test and "test" not in status:
    return True
  has_result = bool(status.get("best")) or config.dataset.fold_validation
  return config.export and has_result and not evaluate.exported(run.export)


class _Run:
  """One trial over all devices; see `loop.Trials`."""

  keeps_best = False  # The best states are separate checkpoints.

  def __init__(self, config, workload, run, checkpoints, loaded, tell):
    self._config, self._workload = config, workload
    self._run, self._checkpoints = run, checkpoints
    self._loaded, self._tell = loaded, tell
    self.saved_like, self.layers = workload.state, workload.layers
    self.is_sampled = "valid_full" in workload.dataset.splits
    self.sample = workload_lib.prediction_sample(
      workload.dataset, config.num_predictions
    )
    # Placed on the devices once, not at every call.
    self._hparams = {
      name: sharding.place_everywhere(workload.mesh, np.asarray(number))
      for name, number in workload.hparams.items()
    }
    get = lambda state: step.eval_variables(  # noqa: E731
      state, self._hparams, config.optimizer, config.weights, config.frozen
    )
    derived = config.averages or config.optimizer == "schedule_free_adamw"
    # Raw weights need no computation and no copy.
    self._variables = jax.jit(get) if derived else get

  def init(self):
    origin = (self._run.provenance() or {}).get("branch")
    if origin:
      raise jaxplay.UserError(
        f"{str(self._run.path)!r} is a branch of {origin['run']!r} from step"
        f" {origin['step']}, and none of its checkpoints is intact; branch from"
        " another step, in another workdir"
      )
    state = self._workload.state
    loaded = self._loaded or weights.load(self._config, state, [self._run])
    weights.note(loaded, [self._run], self._tell)
    return self._workload.init(loaded.arrays)

  def saved(self, state):
    return state

  def restored(self, state):
    return state

  def refuse_lines(self, step):
    raise jaxplay.UserError(
      f"{str(self._run.path / 'metrics.jsonl')!r} does not match"
      f" the checkpoint of step {step}: lines are missing, changed or"
      " duplicated; restore it from a copy, or use another workdir"
    )

  def start(self, at):
    self._feed = workload_lib.make_feed(self._workload, self._config, at)

  def next_stop(self, at):
    return self._feed.next_stop(at)

  def reads(self):
    return self._feed.reads

  def arguments(self, at, stop):
    return self._feed.arguments(at, stop)

  def run(self, state, arguments, live):
    return self._feed.program(self._hparams, state, *arguments)

  def fetch(self, tally):
    return _of_one(jax.device_get(tally))

  def evaluate(self, split, state):
    variables, predictions = self._variables(state), None
    sums = {
      suffix: self._evaluator(split)(weights)
      for suffix, weights in variables.items()
    }
    if split == "valid" and self.sample is not None:
      predictions = _of_one(self._predictor(variables[""]))
    return _of_one(sums), predictions

  @functools.cache  # noqa: B019
  def _evaluator(self, split):
    workload, config = self._workload, self._config
    return feed.make_evaluator(
      workload.mesh,
      workload.dataset.splits[split],
      workload_lib.make_eval_batch(workload, config),
      hparams=self._hparams,
      batch_size=config.eval_batch_size,
      device_bytes=config.dataset.device_bytes,
      workers=config.dataset.workers,
    )

  @functools.cached_property
  def _predictor(self):
    workload = self._workload
    return feed.make_predictor(
      workload.mesh,
      workload.dataset.splits["valid"],
      evaluate.make_predict(workload.model, workload.task),
      self.sample["index"],
    )

  def keep(self, state, ranks):
    return ranks.get(0, math.inf) < self._config.keep_best

  def best(self, records):
    while True:
      kept = self._checkpoints.steps()
      lines = [line for line in records[0].lines if line["step"] in kept]
      best = records[0].result(lines)
      if best is None and records[0].result(records[0].lines) is not None:
        raise jaxplay.StorageError(
          f"all candidates for the best checkpoint in"
          f" {str(self._run.checkpoints)!r} are damaged; run the same command"
          " again to train them again"
        )
      if best is None:
        return {}, None
      state = self._checkpoints.restore_intact(
        best["step"], self._workload.state
      )
      if state is not None:
        return {0: best}, state

  def ended(self, i):
    """The checkpoints are already in the run directory."""

  def export(self, i, state):
    if not self._config.export or evaluate.exported(self._run.export):
      return
    suffix = evaluate.suffix(self._config.objective)
    weights = sharding.to_host(self._variables(state)[suffix])
    if jax.process_index() == 0:
      workload = self._workload
      try:
        program, note = evaluate.export_forward(
          workload.model, workload.task, weights, workload.dataset.example
        )
      except evaluate.NotExportable as error:
        self._tell(f"warning: {error}")
        return
      if note:
        self._tell(f"warning: {note}")
      evaluate.write_export(self._run.export, program, weights)


def _of_one(tree: Mapping[str, Any]) -> Any:
  """Adds a leading dimension of one trial: [1, ...]."""
  return jax.tree.map(lambda array: np.asarray(array)[None], tree)
