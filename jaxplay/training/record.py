"""What one run writes to its directory while it trains.

Every host keeps the record, host 0 writes it (M1).
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax
import ml_collections
import numpy as np

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir, writers
from jaxplay.training import metrics, own_task, scores


class Record:
  """Lines of metrics, evaluations and the status of one run."""

  def __init__(
    self,
    run: rundir.RunDir,
    config: ml_collections.ConfigDict,
    bytes_per_token: Mapping[str, float] | None = None,
    task: Any = None,
    tell: Callable[[str], None] = print,
    *,
    examples: str = "",
  ):
    """Starts from the content of the run directory.

    Args:
      run: The run directory.
      config: The run's config.
      bytes_per_token: Split -> average, for text.
      task: The run's task, which computes its metrics; None: nothing is
        evaluated.
      tell: Called with a sentence if one of `config.writers` fails.
      examples: Which examples the validation split has, from `data.identity`;
        empty: their costs are not saved.
    """
    self._examples = examples
    # Step -> costs of the examples, of the best and of the last evaluation.
    self._of_examples: dict[int, Mapping[str, np.ndarray] | None] = {}
    self._task = task
    self._bytes_per_token = bytes_per_token or {}
    status = run.status()
    self.run, self._config = run, config
    self.metric = config_lib.metric.of_config(config)  # of the objective
    self.status = status.get("status", "")
    self.content = status  # of status.json
    self.writes = jax.process_index() == 0
    names = config.writers if self.writes else ()
    self._writers = writers.Writers(run.path, names, config, tell)
    self.adopt([])
    self.best = status.get("best")  # see `rundir.best_line`
    self.step = status.get("step", 0)
    self._facts: dict[str, Any] = {
      key: status[key] for key in ("chance", "failures") if key in status
    }
    self._seconds_before = status.get("seconds", 0.0)
    self._started = self._written = time.monotonic()

  def has_ended(self) -> bool:
    """Whether all steps of the config are made, or none can follow."""
    if self.status == "completed":
      return self.step >= self._config.max_train_steps
    return self.status in rundir.DONE

  def adopt(self, lines: Iterable[Mapping[str, Any]]) -> None:
    """Sets the lines of metrics so far."""
    self.lines: list[Mapping[str, Any]] = list(lines)
    self._digest = rundir.Digest(self.lines)

  @property
  def digest(self) -> dict[str, Any]:
    """Digest of the lines so far; see `rundir.Digest`."""
    return self._digest.as_json()

  def lines_until(
    self, step: int, digest: Mapping[str, Any] | None
  ) -> list[dict[str, Any]] | None:
    """The lines on disk up to `step` if they are complete, else None.

    Args:
      step: Updates made.
      digest: From the checkpoint of that step; None: it has none.
    """
    intervals = self._config.log_every, self._config.eval_every
    due = max(step // every * every for every in intervals)
    return self.run.metrics_until(step, digest, due=due)

  def resume(self, step: int, lines: list[dict[str, Any]]) -> None:
    """Drops what comes after `step`, which is trained again.

    Args:
      step: Updates made.
      lines: From `lines_until`.
    """
    self.adopt(lines)
    if self.writes:
      self.run.write_packed(None)  # The checkpoints are made again.
      self.run.rewind_metrics(step, lines)
      self.run.write_examples(None)  # Written again at the end.
    self.step = step
    self.best = self.best_line(self.lines)
    self.write_status("running")

  def best_line(self, lines: list[Mapping[str, Any]]) -> dict[str, Any] | None:
    """As `rundir.best_line`, by the objective of the run."""
    maximized = self.metric.maximized
    return rundir.best_line(lines, self._config.objective, maximized)

  def result(self, lines: list[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The line of the weights that are the result, if it is one of `lines`.

    The best one or, of a run without validation split, that of the last step.
    """
    if not self._config.dataset.fold_validation:
      return self.best_line(lines)
    last = self._config.max_train_steps
    return next((line for line in lines if line["step"] == last), None)

  def complete(self) -> None:
    """Ensures, at the end, that exactly these lines are on disk."""
    there = self.run.metrics_until(self.step, None)
    if not self.lines:  # An earlier start has written them.
      self.adopt(there or [])
    elif self.writes and there != rundir.plain(self.lines):
      # The file was changed meanwhile; these are the original lines.
      self.run.rewind_metrics(self.step, self.lines)

  def write_line(self, line: dict[str, Any]) -> None:
    """Appends a line of metrics."""
    self.lines.append(line)
    self._digest.append(line)
    self.step = line["step"]
    self.best = self.best or self.best_line([line])
    value, cost = line.get(self._config.objective), self.metric.cost
    if value is not None and self.best:
      if cost(value) < cost(self.best["value"]):
        self.best |= {"step": line["step"], "value": value}
    if self.writes:
      self.run.append_metrics([line])
    self._writers.follow(self.lines)

  def sync(self) -> None:
    """Waits until all lines are on disk."""
    if self.writes:
      self.run.sync_metrics()

  def evaluation(
    self, sums: Mapping[str, Mapping[str, np.ndarray]]
  ) -> dict[str, float]:
    """The validation part of a line.

    Args:
      sums: Suffix of the weights -> sums over the validation split.
    """
    if chance := scores.chance(sums[""]):
      self._facts["chance"] = chance
    line: dict[str, float] = {}
    for suffix, of_weights in sums.items():
      line |= self._eval_line("valid", suffix, of_weights)
    objective = self._config.objective
    if objective not in line:  # Its name was not known before it was computed.
      raise jaxplay.UserError(
        f"config.objective is {objective!r}, and the evaluation has the metrics"
        f" {', '.join(map(repr, line))}"
      )
    return line

  def whole(
    self, sums: Mapping[str, Mapping[str, np.ndarray]]
  ) -> dict[str, float]:
    """As `evaluation`, over the whole split where that uses a sample."""
    line: dict[str, float] = {}
    for suffix, of_weights in sums.items():
      line |= self._eval_line("valid_full", suffix, of_weights)
    return line

  def test(self, sums: Mapping[str, np.ndarray], step: int) -> dict[str, Any]:
    """The test metrics of status.json, after `step` updates."""
    return self._eval_line("test", "", sums) | {"step": step}

  def _eval_line(self, split, suffix, sums):
    bytes_per_token = self._bytes_per_token.get(split)
    name = f"{split}{suffix}"
    return metrics.eval_line(name, sums, bytes_per_token, self._task)

  def write_predictions(
    self,
    step: int,
    sample: Mapping[str, np.ndarray],
    predictions: Mapping[str, np.ndarray],
    sums: Mapping[str, np.ndarray],
    whole: Mapping[str, np.ndarray],
  ) -> None:
    """Saves the predictions of the fixed sample, and counts per class.

    Args:
      step: Updates made.
      sample: The examples of the fixed sample.
      predictions: Of these.
      sums: Over the validation split.
      whole: Over all of it, if that is a sample; else empty.
    """
    if self.writes:
      counts = ("class_correct", "class_count")
      of_class = {name: sums[name] for name in counts if name in sums}
      if "class_count" in whole:
        of_class["class_count_full"] = whole["class_count"]
      self.run.write_predictions(step, **{**sample, **predictions, **of_class})

  def note_examples(
    self,
    step: int,
    costs: Mapping[str, np.ndarray] | None,
    line: Mapping[str, Any] | None = None,
  ) -> None:
    """Keeps the costs of the examples until the end.

    Args:
      step: Updates made.
      costs: Of `scores.COSTS`; None: the objective is no mean over examples.
      line: Result of the evaluation, which is not written yet: what is neither
        the best nor the last one is forgotten. None: of an earlier evaluation,
        made again.
    """
    if not self._examples:
      return
    known, kept = self._of_examples, {step}
    # Copies: a view would keep the costs of all trials in memory.
    known[step] = costs and {n: np.array(a) for n, a in costs.items()}
    if line is None:
      return
    if self.best and not self.cost(line) < self.metric.cost(self.best["value"]):
      kept.add(self.best["step"])
    self._of_examples = {at: known[at] for at in known.keys() & kept}

  def lacks_examples(self, step: int) -> bool:
    """Whether an evaluation has to be made again for costs of examples."""
    known = self._of_examples
    return (
      bool(self._examples) and step not in known and None not in known.values()
    )

  def write_examples(self, best: int) -> None:
    """Saves the costs of the examples at step `best` and at the last one."""
    of_best, of_last = map(self._of_examples.get, (best, self.step))
    if not (self.writes and of_best and of_last):
      return
    examples = rundir.Examples(
      step_best=best,
      cost_best=of_best["cost"],
      step_last=self.step,
      cost_last=of_last["cost"],
      weight=of_best.get("counts"),
      metric=self._config.objective,
      data=self._examples,
    )
    line = next(line for line in self.lines if line["step"] == best)
    # A user's metric may be no mean, with denominators that are negative, or
    # zero where the numerator is not.
    if examples.is_mean(self.cost(line)):
      self.run.write_examples(examples)

  def cost(self, line: Mapping[str, Any]) -> float:
    """The cost of a line's objective, less is better; NaN: it has none."""
    value = line.get(self._config.objective)
    return math.nan if value is None else self.metric.cost(value)

  def costs(self) -> list[float]:
    """The finite costs so far, in the order of their steps."""
    return [c for c in map(self.cost, self.lines) if math.isfinite(c)]

  def infeasible(
    self, tally: Mapping[str, np.ndarray], step: int, reason: str
  ) -> None:
    """Ends the run as diverged at `step`."""
    if step == 1:  # Before any update: it is the parts, not their tuning.
      named = config_lib.named(config_lib.flatten(self._config))
      for switch in ("model.name", "dataset.name"):
        if switch in named:
          reason += f"; see config.{switch}={named[switch]!r}"
      if isinstance(self._task, own_task.OwnTask):
        reason += f"; {self._task.diverged()}"
    self.write_line({"step": step, **metrics.train_line(tally)})
    self.write_status("infeasible", reason=reason)

  def write_status(self, status: str, **fields: Any) -> None:
    """Writes status.json, and keeps it as `content`."""
    seconds = self._seconds_before + time.monotonic() - self._started
    content: dict[str, Any] = {
      "step": self.step,
      "max_train_steps": self._config.max_train_steps,
      "best": self.best,
      "final": self.lines[-1] if self.lines else None,
      "seconds": round(seconds, 3),
      **self._facts,
    }
    if status in rundir.DONE:
      content["lines"] = self.digest
    content |= fields
    self._written = time.monotonic()
    if self.writes:
      self.run.write_status(status, **content)
    self.status, self.content = status, dict(content, status=status)
    self._writers.follow(self.lines, self.content)

  def failed(self, error: BaseException) -> None:
    """Ends this attempt as crashed, and counts it."""
    self._facts["failures"] = self._facts.get("failures", 0) + 1
    reason = f"{type(error).__name__}: {error}".split("\n")[0]
    self.write_status("failed", reason=reason)

  def interrupted(self, problem: jaxplay.StorageError) -> None:
    """Ends this attempt because of storage, not of the run itself."""
    with contextlib.suppress(Exception):  # The storage may be unwritable.
      self.write_status("preempted", reason=str(problem))

  def seconds_since_status(self) -> float:
    """Age of status.json."""
    return time.monotonic() - self._written
