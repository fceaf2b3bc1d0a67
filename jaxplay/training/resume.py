"""Whether a run may continue: with the same config and the same data."""

from collections.abc import Mapping, Sequence
from typing import Any

import ml_collections

import jaxplay
from jaxplay import config as config_lib
from jaxplay import data, rundir


def check_extends(
  run: rundir.RunDir, config: ml_collections.ConfigDict
) -> None:
  """Refuses to extend a run that depends on its length, or is longer."""
  earlier, made = run.config(), run.status().get("step", 0)
  if earlier is None:
    raise jaxplay.UserError(f"workdir {str(run.path)!r} holds no run to extend")
  if config.schedule not in config_lib.CONTINUED:
    raise jaxplay.UserError(
      f"a run of schedule {config.schedule!r} cannot be extended: its learning"
      " rate depends on its length; extend a run of schedule 'constant', and"
      " branch from it"
    )
  asked = earlier.get("max_train_steps", 0)
  if config.max_train_steps < max(made, asked):
    raise jaxplay.UserError(
      f"--extend_steps={config.max_train_steps} is the new total number of"
      f" steps, but {str(run.path)!r} has made {made} of {asked}; use a larger"
      " number"
    )


def check_same_data(run: rundir.RunDir, dataset: data.Dataset) -> None:
  """Refuses to continue a run whose examples or vocabulary have changed."""
  earlier = _by_name((run.provenance() or {}).get("dataset"))
  now = _by_name(dataset.facts)
  for name in earlier.keys() & now.keys():
    for key, what in (
      ("vocab_size", "a vocabulary of {} tokens"),
      ("tokenizer", "tokenizer {:.12}"),
      ("num_classes", "{} classes"),
      ("sha256", "content of hash {:.12}"),
      ("tokens_sha256", "tokens of hash {:.12}"),
    ):
      old, new = earlier[name].get(key), now[name].get(key)
      # Older versions did not write all facts.
      if old is not None and old != new:
        raise jaxplay.UserError(
          f"dataset {name!r} has {what.format(new)}, but {str(run.path)!r}"
          f" started with {what.format(old)}; restore the data, or use another"
          " workdir"
        )


def _by_name(facts):
  """Name -> facts, of each text of a mixture."""
  if not facts:
    return {}
  return {text["name"]: text for text in (facts, *facts.get("mixture", ()))}


def check_same_weights(
  runs: Sequence[rundir.RunDir], facts: Mapping[str, Any]
) -> None:
  """Refuses to start from weights that have changed since.

  Since the first start of one of the runs, or of another run of their study.

  Args:
    runs: What starts, of one study.
    facts: What would be in init.json.
  """
  for run in (*runs, *_of_study(runs)):
    earlier = run.init()
    if earlier is None or earlier["source"] != facts["source"]:
      continue
    if earlier["sha256"] != facts["sha256"]:
      raise jaxplay.UserError(
        f"the weights in {facts['source']!r} have hash {facts['sha256']:.12},"
        f" but {str(run.path)!r} started from those of hash"
        f" {earlier['sha256']:.12}; restore them, or use another workdir"
      )
    if run not in runs:  # The others of the study have been compared with it.
      return


def _of_study(runs):
  """The runs of the study of `runs` that have started from weights."""
  for run in runs[:1]:
    # STUDY/trials/INDEX, STUDY/reruns/INDEX/SEED.
    for study in rundir.absolute(run.path).parents[1:3]:
      if (study / "study.json").exists():
        for path in sorted(study.glob("trials/*/init.json")):
          yield rundir.RunDir(path.parent)


def check_same_config(
  run: rundir.RunDir, config: ml_collections.ConfigDict, *but: str
) -> None:
  """Refuses to continue a run of another config.

  Args:
    run: The run directory.
    config: The requested config.
    *but: Keys that may differ.
  """
  earlier = run.config()
  if earlier is None:
    return
  different = config_lib.differences(earlier, config_lib.as_json(config))
  for key in but:
    different.pop(key, None)
  where = repr(str(run.path))
  if message := config_lib.only_code(different, where, run.path):
    raise jaxplay.UserError(message)
  if different:
    raise jaxplay.UserError(
      f"workdir {str(run.path)!r} holds a run of another config:"
      f" {config_lib.changes(different)}; use another workdir"
    )
