"""What the results of a study hold for, and whether they are its own."""

from jaxplay import config as config_lib
from jaxplay import finding
from jaxplay.analysis import classes, curves, sampled
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.analysis.checklist import shared

_ROLES = "Playbook, identifying scientific, nuisance, and fixed hyperparameters"


def trials_match_study(results: results_lib.Results) -> finding.Finding:
  """Check that the results are those of the trials in study.json.

  The rule: `fail` if a trial's own config.json differs from its point and the
  base config, if a run is left out because its files are damaged, or if there
  are runs of trials that are not in study.json; else `ok`. Keys that decide
  only how a run is computed, or which files are kept, do not count.
  """
  evidence = results_lib.doubts(results)
  advice = ""
  if evidence:
    sentences = results_lib.in_words(evidence)
    advice = " ".join(sentences)
    advice += " Restore study.json, or the run directories, from a copy."
  return finding.Finding(
    "trials_match_study",
    "fail" if evidence else "ok",
    "all trials",
    evidence,
    advice,
    "Playbook, setting up experiment tracking",
  )


def better_than_chance(results: results_lib.Results) -> finding.Finding:
  """Check that the best trial is better than a constant prediction."""
  if not results.ranked:
    return curves.better_than_chance(None, None, 0)
  return curves.better_than_constant(results.ranked[0])


def rare_classes(results: results_lib.Results) -> list[finding.Finding]:
  """Check that the best trial predicts rare classes about as well as others.

  See `classes.rare_classes`. None if the task has no classes, or no trial has
  a value.
  """
  if not results.ranked:
    return []
  best = results.ranked[0]
  return classes.check_trial(best, results.objective, results.select)


def sampled_evaluation(results: results_lib.Results) -> list[finding.Finding]:
  """Check the sample that ranks trials for skew, on the best trial.

  See `sampled.sampled_evaluation`. None if whole splits are evaluated.
  """
  if not results.ranked:
    return []
  return sampled.check_trial(results.ranked[0], results.objective)


def fixed_caveats(results: results_lib.Results) -> finding.Finding:
  """List the fixed hyperparameters, to which conclusions are limited.

  Lists, for each group, the numbers of optimizer, schedule and regularization
  that have an effect there and do not vary, with their values, and the lengths
  and names fixed for all. The rule: `warn` if values of a scientific
  hyperparameter are compared with the learning rate fixed in one of their
  groups, since optimizer hyperparameters "shouldn't be fixed" then; else `ok`.
  `unknown` without a base config of jaxplay's, which alone says what is fixed.
  """
  base = config_lib.flatten(results.study["config"])
  if not any(key in base for key in config_lib.KEYS):
    return finding.Finding(
      "fixed_caveats",
      "unknown",
      results.objective,
      {},
      "The study has no base config of jaxplay's, so which hyperparameters were"
      " fixed, and to what, is not known.",
      _ROLES,
    )
  scientific = [
    p.label for p in results.space.parameters if p.role == "scientific"
  ]
  keys = {p.label: p.key for p in results.space.parameters}
  choices = [p for p in results.space.parameters if p.kind == "choice"]
  caveats, untuned = {}, []
  for name, indices in trials_lib.groups(results, slices=False).items():
    points = [results.trials[i].point for i in indices]
    varied = {keys[label] for point in points for label in point}
    # Whether a key has an effect depends on the choices alone.
    switches = [
      base | dict(chosen)
      for chosen in {
        tuple((p.key, point[p.label]) for p in choices if p.label in point)
        for point in points
      }
    ]
    caveats[name] = {
      key: shared.plain(value)
      for key, value in base.items()
      if key.startswith("hparams.")
      and key not in varied
      and any(config_lib.has_effect(key, flat) for flat in switches)
    }
    if "hparams.learning_rate" not in varied:
      untuned.append(name)
  everywhere = {
    key: shared.plain(base[key])
    for key in ("optimizer", "schedule", "batch_size", "max_train_steps")
    if key in base and key not in keys.values()
  }
  bad = bool(scientific and untuned)
  return finding.Finding(
    "fixed_caveats",
    "warn" if bad else "ok",
    ", ".join(scientific) or results.objective,
    dict(fixed=everywhere, fixed_by_group=caveats, learning_rate_fixed=untuned),
    f"Values of {', '.join(scientific)} are compared at a fixed learning rate,"
    " but the best learning rate generally depends on them. Make it a nuisance"
    " hyperparameter."
    if bad
    else "",
    _ROLES,
  )
