"""Adaptive trials of a study, in batches that learn from the earlier ones."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from jaxplay.study import runners
from jaxplay.study import study as study_lib


def run(
  directory: study_lib.StudyDir,
  total: int,
  *,
  train: Callable[[Sequence[runners.Job]], None],
  next_batch: Callable[[int], Mapping[str, Any]],
  log: Callable[[str], None],
) -> list[runners.Job]:
  """Suggests and trains trials until the study has `total` adaptive ones.

  Args:
    directory: The study.
    total: Number of adaptive trials in all.
    train: Trains jobs to their end; raises if a signal asks to stop.
    next_batch: What `StudyDir.append` adds, with at most so many points.
    log: Called with a sentence for each batch.

  Returns:
    The jobs of the adaptive trials; fewer than `total` if one of them crashed.
  """
  while True:
    which = study_lib.adaptive(directory.study())
    jobs = runners.trial_jobs(directory, which)
    # What a kill left of the last batch comes first.
    open_jobs = [job for job in jobs if job.is_open()]
    if open_jobs:
      train(open_jobs)
    have_ended = all(job.is_open() or job.is_done() for job in open_jobs)
    if len(which) >= total or not have_ended:
      return jobs
    batch = next_batch(total - len(which))
    if directory.append(batch):
      first, number = batch["after"], len(batch["points"])
      log(
        f"trials {first} to {first + number - 1} of the study: suggested by"
        f" {batch['sampler'].upper()} from {batch['told']} trials"
      )
