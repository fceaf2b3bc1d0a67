"""The studies of the loop: quasi-random exploration, and exploitation."""

from jaxplay.analysis import checklist, refine
from jaxplay.analysis import results as results_lib
from jaxplay.playbook import budget as budget_lib
from jaxplay.playbook import phase
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib

# Checks that decide whether there is another study, and its length.
_DECIDING = (
  *("search_space_boundary", "enough_trials", "infeasible_share"),
  *("max_train_steps", "compute_bound", "saturated_early"),
)


def first_study(loop: phase.Loop, seed: int) -> phase.Phase:
  """Runs a quasi-random study of the default space."""
  length, total = loop.data("length"), min(loop.total(), 1e6)
  num = budget_lib.num_explored(
    loop.left(), loop.shares.reserve, loop.cost(length)
  )
  # As many hyperparameters as the whole budget has trials for.
  space = space_lib.default_space(
    loop.short(length), int(total), tuple(loop.data("rates"))
  )
  return _study(loop, "explore_1", space_lib.Space(space), length, num, seed)


def next_study(loop: phase.Loop, name: str, seed: int) -> phase.Phase:
  """Runs the study that the checks of the last one recommend."""
  last = loop.last.data
  following, length = last["next"], last["length"]
  if "space" in following:
    space = space_lib.Space.from_json(following["space"])
    length, num = following["length"], following["trials"]
    return _study(loop, name, space, length, num, seed)
  first = last["num_trials"]
  loop.runner.extend(last["study"], first, first + following["trials"])
  results = results_lib.read_study(loop.runner.path / last["study"])
  return _explored(loop, name, results, first, length)


def _study(loop, name, space, length, num, seed):
  study = study_lib.Study(
    goal="Which values of the hyperparameters are good, and is the space?",
    config="",
    space=space,
    num_trials=num,
    seed=seed,
  )
  results = loop.runner.study(name, study, loop.short(length))
  return _explored(loop, name, results, 0, length)


def _explored(loop, name, results, first, length):
  """The checks of a study, and the next study that follows from them."""
  loop.keep(results.path, "", None)
  findings = checklist.check_study(results)
  num = len(results.trials)
  following, why = _following(loop, results, findings, length)
  if following is not None:
    left = loop.left() - (num - first) * loop.cost(length)
    cost = following["trials"] * loop.cost(following.get("length", length))
    least = loop.shares.reserve + budget_lib.BATCH * loop.cost(length)
    if left - cost < least:
      following, why = None, f"{why}; the budget does not allow that"
  return phase.Phase(
    name,
    [
      f"{num} trials, {len(results.space.parameters)} hyperparameters:"
      f" {best_in_words(results)}",
      why,
    ],
    findings=phase.rows(f for f in findings if f.check in _DECIDING),
    data={
      "study": results.path.name,
      "num_trials": num,
      "length": length,
      "next": following,
      "values": values(results, results.trials[first:]),
    },
    page=f"{results.path.name}/report.html",
  )


def _following(loop, results, findings, length):
  """(what to run next, or None; why)."""
  num = len(results.trials)
  space, reasons = refine.repaired(results, findings)
  steps, longer = refine.next_steps(results.study, findings)
  # The last round has all steps; until then a half is enough.
  steps = max(length, min(steps, loop.config().max_train_steps // 2))
  if steps > length:
    reasons.append(longer)
  if reasons:
    following = {"space": space.as_json(), "length": steps, "trials": num}
    return following, "; ".join(reasons)
  few = next(f for f in findings if f.check == "enough_trials")
  if few.verdict == "warn":
    return {"trials": num}, few.advice
  return None, "the checks of the space and of the number of trials pass"


def num_exploited(loop: phase.Loop) -> int:
  """Number of adaptive trials to run next."""
  last = loop.explored()[-1].data
  cost = loop.cost(last["length"])
  reserve = loop.shares.reserve
  there = last["num_trials"]
  return budget_lib.num_exploited(loop.left(), reserve, cost, there)


def exploit(loop: phase.Loop, name: str, num: int, seed: int) -> phase.Phase:
  """Runs Bayesian optimization with the rest of the short trials."""
  last = loop.explored()[-1].data
  first = loop.last.data["num_trials"]
  results = loop.runner.suggest(
    last["study"],
    first + num - last["num_trials"],
    batch=budget_lib.batch(num),
    seed=seed,
  )
  loop.keep(results.path, "", None)
  return phase.Phase(
    name,
    [f"{num} adaptive trials: {best_in_words(results)}"],
    data={
      "num_trials": first + num,
      "values": values(results, results.trials[first:]),
    },
    page=f"{results.path.name}/report.html",
  )


def best_in_words(results: results_lib.Results) -> str:
  """The best value and its trial."""
  if not results.ranked:
    return f"no trial has a value of {results.objective}"
  best = results.ranked[0]
  return f"{results.objective} {results.value(best):.4g} by trial {best.index}"


def values(results: results_lib.Results, trials) -> list[float]:
  """Values of trials, for the figure; NaN is written as null."""
  return [results.value(trial) for trial in trials]
