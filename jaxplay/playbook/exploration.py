"""The studies of the playbook's loop: exploration, then exploitation."""

from jaxplay import formats
from jaxplay.analysis import checklist, refine
from jaxplay.analysis import results as results_lib
from jaxplay.playbook import budget as budget_lib
from jaxplay.playbook import phase
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib

# Checks that decide on another study and on its number of steps.
_DECIDING = (
  *("search_space_boundary", "enough_trials", "infeasible_share"),
  *("max_train_steps", "compute_bound", "saturated_early"),
)


def first_study(loop: phase.PlaybookLoop, seed: int) -> phase.Phase:
  """Runs a quasi-random study of the default space."""
  length, total = loop.data("length"), min(loop.total(), 1e6)
  num = budget_lib.num_explored(
    loop.left(), loop.shares.reserve, loop.cost(length)
  )
  # The whole budget limits the number of hyperparameters.
  space = space_lib.default_space(
    loop.short(length), int(total), tuple(loop.data("rates"))
  )
  return _study(loop, "explore_1", space_lib.Space(space), length, num, seed)


def next_study(loop: phase.PlaybookLoop, name: str, seed: int) -> phase.Phase:
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
    goal="Which hyperparameter values are best, and is the search space good?",
    config="",
    space=space,
    num_trials=num,
    seed=seed,
  )
  results = loop.runner.study(name, study, loop.short(length))
  return _explored(loop, name, results, 0, length)


def _explored(loop, name, results, first, length):
  """Checks a study, and decides on the next study from the checks."""
  loop.write_report(results.path, "", None)
  findings = checklist.check_study(results)
  num = len(results.trials)
  following, why = _following(loop, results, findings, length)
  if following is not None:
    left = loop.left() - (num - first) * loop.cost(length)
    cost = following["trials"] * loop.cost(following.get("length", length))
    least = loop.shares.reserve + budget_lib.BATCH * loop.cost(length)
    if left - cost < least:
      following, why = None, f"{why}; the remaining budget is too small"
  return phase.Phase(
    name,
    [
      f"{formats.count(num, 'trial')},"
      f" {formats.count(len(results.space.parameters), 'hyperparameter')}:"
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
  """Returns (number, space and length of the next trials or None, reason)."""
  num = len(results.trials)
  space, reasons = refine.repaired(results, findings)
  steps, longer = refine.next_steps(results.study, findings)
  # Only the last round has all steps.
  steps = max(length, min(steps, loop.config().max_train_steps // 2))
  if steps > length:
    reasons.append(longer)
  if reasons:
    following = {"space": space.as_json(), "length": steps, "trials": num}
    return following, "; ".join(reasons)
  few = next(f for f in findings if f.check == "enough_trials")
  if few.verdict == "warn":
    return {"trials": num}, few.advice
  open_ = [
    f.subject
    for f in findings
    if f.check in ("search_space_boundary", "enough_trials")
    and f.verdict == "unknown"
  ]
  if open_:
    return None, (
      "no check of the search space and of the trial count warns; these trials"
      f" do not decide it for {', '.join(open_)}"
    )
  return None, "the checks of the search space and of the trial count pass"


def num_exploited(loop: phase.PlaybookLoop) -> int:
  """Number of adaptive trials to run next."""
  last = loop.explored()[-1].data
  cost = loop.cost(last["length"])
  reserve = loop.shares.reserve
  return budget_lib.num_exploited(
    loop.left(), reserve, cost, num_explored=last["num_trials"]
  )


def exploit(
  loop: phase.PlaybookLoop, name: str, num: int, seed: int
) -> phase.Phase:
  """Extends the last study by adaptive trials."""
  last = loop.explored()[-1].data
  first = loop.last.data["num_trials"]
  results = loop.runner.suggest(
    last["study"],
    first + num - last["num_trials"],
    batch=budget_lib.batch(num),
    seed=seed,
  )
  loop.write_report(results.path, "", None)
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
  value = formats.number(results.value(best))
  return f"best {results.objective} {value} (trial {best.index})"


def costs(results: results_lib.Results, trials) -> list[float]:
  """Returns the cost of each trial, less is better; NaN if it has none."""
  return [results.cost(trial) for trial in trials]


def values(results: results_lib.Results, trials) -> list[float]:
  """Returns the objective of each trial; NaN if it has none."""
  return [results.value(trial) for trial in trials]
