"""Whether a run may be gone on with: the same config, the same data."""

import ml_collections

import jaxplay
from jaxplay import config as config_lib
from jaxplay import data, rundir


def check_extends(
  run: rundir.RunDir, config: ml_collections.ConfigDict
) -> None:
  """Refuses to make longer what depends on its length, or is longer already."""
  earlier, made = run.config(), run.status().get("step", 0)
  if earlier is None:
    raise jaxplay.UserError(
      f"workdir {str(run.path)!r} holds no run that could be extended"
    )
  if config.schedule not in ("constant", "rsqrt"):
    raise jaxplay.UserError(
      f"a run of schedule {config.schedule!r} cannot be extended: its rate"
      " depends on its length; extend a constant run, and branch from it"
    )
  asked = earlier.get("max_train_steps", 0)
  if config.max_train_steps < max(made, asked):
    raise jaxplay.UserError(
      f"--extend_steps={config.max_train_steps} is to be the new number of"
      f" steps in all, and {str(run.path)!r} has made {made} of"
      f" {asked}; use a larger one"
    )


def check_same_data(run: rundir.RunDir, dataset: data.Dataset) -> None:
  """Refuses to go on with a run whose examples or vocabulary have changed."""
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
      # What an older version did not write is not compared.
      if old is not None and old != new:
        raise jaxplay.UserError(
          f"dataset {name!r} has {what.format(new)}, and {str(run.path)!r}"
          f" began with {what.format(old)}; restore what it was, or use another"
          " workdir"
        )


def _by_name(facts):
  """Facts of each text of a mixture."""
  if not facts:
    return {}
  return {one["name"]: one for one in (facts, *facts.get("mixture", ()))}


def check_same_config(
  run: rundir.RunDir, config: ml_collections.ConfigDict, but: str = ""
) -> None:
  """Refuses to go on with a run of another config.

  Args:
    run: The run directory.
    config: What is asked for now.
    but: A key that may differ.
  """
  earlier = run.config()
  if earlier is None:
    return
  different = config_lib.differences(earlier, config_lib.as_json(config))
  different.pop(but, None)
  if different:
    raise jaxplay.UserError(
      f"workdir {str(run.path)!r} holds a run of another config:"
      f" {config_lib.changes(different)}; use another workdir"
    )
