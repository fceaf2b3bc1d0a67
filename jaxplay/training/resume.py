"""Whether a run may continue: with the same config and the same data."""

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
  if config.schedule not in ("constant", "rsqrt"):
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
  if message := config_lib.only_code(different, repr(str(run.path))):
    raise jaxplay.UserError(message)
  if different:
    raise jaxplay.UserError(
      f"workdir {str(run.path)!r} holds a run of another config:"
      f" {config_lib.changes(different)}; use another workdir"
    )
