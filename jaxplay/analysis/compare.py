"""Should a change be adopted? A candidate against a baseline.

Playbook, determining whether to adopt a training pipeline change or
hyperparameter configuration: be aware of the sources of variation (retraining,
search, the validation set), and "only adopt changes that produce improvements
that outweigh any complexity they add".
"""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

import jaxplay
from jaxplay import commands, formats, rundir
from jaxplay import config as config_lib
from jaxplay import provenance as provenance_lib
from jaxplay.analysis import difference
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.study import space as space_lib

Verdict = Literal["adopt", "do not adopt", "inconclusive"]

_MOST_SEEDS = 100  # more than anybody will run
_MOST_TIMES = 100  # as many examples; more than anybody will label


@dataclasses.dataclass(frozen=True)
class Side:
  """The baseline or the candidate of a comparison.

  Attributes:
    name: Its directory.
    best: Objective of its best trial in the study.
    trial: That trial's index; -1 for a single run.
    mean: Mean over the reruns of that trial, or `best` without reruns.
    num_reruns: Reruns that have a value.
    diverged: Reruns that are infeasible.
    deviation: Standard deviation between trainings.
    deviation_from: What that was estimated from.
    search_deviation: Standard deviation of the best over searches as long as
      this one, by bootstrap of its trials; 0 for a single run.
    rerun: The command that adds reruns, without their number; for a single run
      the command that trains it with another seed.
    commit: Commit of its code, and whether there were uncommitted changes.
    adaptive: Number of trials suggested from the results of others.
  """

  name: str
  best: float
  trial: int
  mean: float
  num_reruns: int
  diverged: int
  deviation: float
  deviation_from: str
  search_deviation: float
  rerun: str
  commit: str
  adaptive: int


@dataclasses.dataclass(frozen=True)
class Comparison:
  """A verdict and the evidence for it.

  Attributes:
    verdict: "adopt", "do not adopt" or "inconclusive".
    objective: The metric compared.
    baseline: One side.
    candidate: The other.
    improvement: By how much the candidate is better than the baseline: lower,
      or higher if the objective is maximized.
    interval: Confidence interval of the improvement, at 95% by default.
    data_deviation: Standard deviation of the improvement over samples of as
      many validation examples; None: not known, so not in the interval.
    data_from: What that was estimated from.
    more_seeds: Reruns of each side that would make an improvement of this size
      significant; None: it is, or more than 100, or that is not known.
    alike: Whether the two are comparable; if not, the verdict is inconclusive.
    changes: Config key -> [of the baseline's best trial, of the candidate's]:
      the complexity that the change adds.
    caveats: Sentences; first those that prevent a verdict.
    advice: What to do next.
    maximized: Whether more of the objective is better.
  """

  verdict: Verdict
  objective: str
  baseline: Side
  candidate: Side
  improvement: float
  interval: tuple[float, float]
  data_deviation: float | None
  data_from: str
  more_seeds: int | None
  alike: bool
  changes: Mapping[str, list[Any]]
  caveats: list[str]
  advice: str
  maximized: bool = False

  def as_json(self) -> dict[str, Any]:
    """JSON values."""
    return dataclasses.asdict(self)


def read(
  path: str | os.PathLike, objective: str | None = None
) -> results_lib.Results:
  """Read a study, one trial of it, or a run as a study of one trial.

  Args:
    path: A study directory; STUDY/trials/0007 or STUDY/reruns/0007, which is
      that trial with its reruns; or a run directory.
    objective: As for `results.read_study`; a run has no "final:METRIC".

  Raises:
    jaxplay.UserError: `path` is none of these, or lacks the objective.
  """
  path = rundir.at(path)
  if (path / "study.json").exists():
    return results_lib.read_study(path, objective)
  above, study = path.parent.name, path.parent.parent
  is_trial = above in ("trials", "reruns") and path.name.isdecimal()
  if is_trial and (study / "study.json").exists():
    results = results_lib.read_study(study, objective)
    trials = [t for t in results.trials if t.index == int(path.name)]
    if not trials:
      raise jaxplay.UserError(f"{str(study)!r} has no trial {path.name}")
    return dataclasses.replace(results, path=trials[0].path, trials=trials)
  trial = results_lib.read_run(path)
  config = rundir.RunDir(path).config()
  objective = objective or rundir.RunDir(path).objective()
  if objective not in trial.curves:
    why = ""
    if trial.folded:
      why = (
        ", as it was trained on its validation examples, and so is not"
        " comparable; compare runs without config.dataset.fold_validation"
      )
    raise jaxplay.UserError(
      f"the run in {str(path)!r} logged no {objective!r}{why}"
    )
  return results_lib.Results(
    path=trial.path,
    study={"config": config, "objective": objective},
    space=space_lib.Space({}),
    objective=objective,
    select="best",
    trials=[trial],
  )


def compare(
  baseline: results_lib.Results,
  candidate: results_lib.Results,
  smallest: float = 0.0,
  confidence: float = 0.95,
) -> Comparison:
  """Compare the candidate's best trial with the baseline's.

  The rule: the improvement and its interval, from the reruns where both sides
  have 2 or more. Otherwise from the best values themselves, which are biased by
  selection: then the interval also includes the variance of the search, and a
  side without reruns is assumed to vary between seeds at least as much as the
  other. The interval includes the sampling of the validation examples: that of
  the same examples where all trainings saved their results (`RUN/examples.npz`)
  else, of shares such as error rates, as if each side had examples of its own,
  which is too much; for other metrics a caveat says that it is not included.
  See `difference`.

  `adopt` if the whole interval lies above 0 and the improvement is at least
  `smallest`; `do not adopt` if no improvement in the interval is above
  `smallest`; else `inconclusive`, and also if the two are not comparable, or
  nothing shows how much trainings vary.

  Args:
    baseline: A study or, from `read`, a run.
    candidate: Another one.
    smallest: The least improvement that is worth the complexity of the change,
      in the objective's unit, at least 0.
    confidence: Level of the interval, in (0, 1).

  Raises:
    jaxplay.UserError: Their objectives differ, or no trial has a value.
  """
  for name in ("objective", "select"):
    ours, theirs = getattr(baseline, name), getattr(candidate, name)
    if ours != theirs:
      raise jaxplay.UserError(
        f"the baseline's {name} is {ours!r}, the candidate's {theirs!r}; choose"
        " one for both with --objective"
      )
  metric = baseline.metric
  if metric.maximized != candidate.metric.maximized:
    raise jaxplay.UserError(
      f"{baseline.objective!r} is maximized in only one of the baseline and the"
      " candidate; choose another objective for both with --objective"
    )
  both = baseline, candidate
  noises = _noises(both)
  sides = tuple(_side(r, n) for r, n in zip(both, noises, strict=True))
  improvement = metric.cost(sides[0].mean) - metric.cost(sides[1].mean)
  data, data_from, of_data = _data(both)
  configs = [_flat_config(results) for results in both]
  unlike = _unlike(both, configs)
  unknown = _unknown(both, noises, data)
  seeds = _seeds(sides, noises)
  reach = difference.reach(seeds, data, confidence)
  low, high = improvement - reach, improvement + reach
  verdict: Verdict = "inconclusive"
  if not unlike and not unknown:
    if low > 0 and improvement >= smallest:
      verdict = "adopt"
    elif high <= smallest and high < math.inf:
      verdict = "do not adopt"
  changes = _changes(configs)
  more = None
  if verdict == "inconclusive" and not unlike and not unknown:
    more = _more_seeds(improvement, seeds, data, confidence)
  advice = _advice(verdict, unlike, unknown, sides, changes, more)
  if verdict == "inconclusive" and not (unlike or unknown or more):
    advice += _examples_needed(improvement, data, data_from, confidence)
  most = metric.bounds[1] - metric.bounds[0]
  return Comparison(
    verdict=verdict,
    objective=baseline.objective,
    baseline=sides[0],
    candidate=sides[1],
    improvement=improvement,
    interval=(max(low, -most), min(high, most)),
    data_deviation=None if data is None else math.sqrt(data.variance),
    data_from=data_from,
    more_seeds=more,
    alike=not unlike,
    changes=changes,
    caveats=[
      *unlike,
      *unknown,
      *_doubts(baseline, candidate),
      *of_data,
      *_caveats(sides, improvement),
      *_unequal_chances(baseline, candidate),
    ],
    advice=advice,
    maximized=metric.maximized,
  )


def choices(results: results_lib.Results) -> list[tuple[str, str, Comparison]]:
  """Compare the best combination of scientific choices with each other one.

  Without adaptive trials, of which one combination may have had more than
  another. Best by the mean over the reruns of its best trial, or by that trial
  without reruns. The intervals hold jointly at 95%, by Bonferroni's bound over
  all pairs, because the best one was not fixed in advance.

  Returns:
    (name of the best, name of the other, comparison) for each other one that
    has a value, best first; [] if there is nothing to compare.
  """
  results, sides = results.space_filling, {}
  for name, indices in trials_lib.groups(results, slices=False).items():
    trials = [results.trials[i] for i in indices]
    if len(results.values_of(trials)):
      sides[name] = dataclasses.replace(results, trials=trials)
  if len(sides) < 2:
    return []
  best, *others = sorted(
    sides, key=lambda name: results.metric.cost(_mean(sides[name]))
  )
  confidence = 1 - 0.05 / math.comb(len(sides), 2)
  return [
    (best, other, compare(sides[other], sides[best], confidence=confidence))
    for other in others
  ]


def log_entry(comparison: Comparison, date: str) -> str:
  """Format a comparison as an entry of a launch log, in Markdown (E4).

  "For each launch, we must make sure that the change is based on strong
  evidence" (Playbook, the incremental tuning strategy): the entry contains it.

  Args:
    comparison: With any verdict.
    date: Date of the decision.
  """
  low, high = comparison.interval
  rows = [
    f"| {name} | {side.name} | {side.trial if side.trial >= 0 else ''} |"
    f" {formats.spread(side.mean, side.deviation)} ({side.deviation_from}) |"
    f" {side.commit} |"
    for name, side in (
      ("baseline", comparison.baseline),
      ("candidate", comparison.candidate),
    )
  ]
  changes = [
    f"- `{key}`: {old!r} -> {new!r}"
    for key, (old, new) in comparison.changes.items()
  ]
  return "\n".join(
    [
      f"## {date}: {comparison.verdict} {comparison.candidate.name}",
      "",
      f"It improves {comparison.objective} by {comparison.improvement:.4g}"
      f" (95%: {formats.interval(low, high)}; validation examples:"
      f" {comparison.data_from}). {comparison.advice}",
      "",
      f"| | | trial | {comparison.objective} | commit |",
      "|---|---|---|---|---|",
      *rows,
      "",
      "What changes:" if changes else "Nothing changes in the config.",
      "",
      *changes,
      *(f"- caveat: {caveat}" for caveat in comparison.caveats),
      "",
      "",
    ]
  )


def commit(path: str | os.PathLike) -> str:
  """The commit of jaxplay that made a study or run, as text."""
  provenance = rundir.RunDir(path).provenance() or {}
  commit = (provenance.get("git_commit") or "unknown")[:12]
  return commit + (" and changes" if provenance.get("git_diff") else "")


def files_commit(path: str | os.PathLike) -> str:
  """The commit of the user's files that made a study or run, as text."""
  provenance = rundir.RunDir(path).provenance() or {}
  repositories = provenance.get("repositories", ())
  commits = [(r["commit"] or "unknown")[:12] for r in repositories]
  changed = provenance_lib.is_changed(provenance)
  if changed is None:
    return "unknown"
  return (" and ".join(commits) or "none") + (" and changes" if changed else "")


def _trainings(results) -> list[results_lib.Trial]:
  """What stands for a side: reruns of its best trial, or that trial."""
  if not results.ranked:
    why = " ".join(_doubts(results)).rstrip(".")
    raise jaxplay.UserError(
      f"no trial of {str(results.path)!r} has a value of"
      f" {results.objective!r}; {why or 'wait until one is completed'}"
    )
  best = results.ranked[0]
  reruns = results.reruns.get(best.index, ())
  return [t for t in reruns if np.isfinite(results.value(t))] or [best]


def _num_reruns(results):
  trainings = _trainings(results)
  return 0 if trainings[0] is results.ranked[0] else len(trainings)


def _mean(results):
  return float(results.values_of(_trainings(results)).mean())


def _noise(results) -> trials_lib.Noise:
  """Noise between trainings of the best trial."""
  values = results.values_of(_trainings(results))
  if len(values) < 2:
    return trials_lib.noise(results)
  # Rounding in the mean of equal values would be a variance.
  deviation = float(values.std(ddof=1)) if np.ptp(values) else 0.0
  return trials_lib.Noise(deviation, len(values) - 1, f"{len(values)} reruns")


def _side(results, noise) -> Side:
  best = results.ranked[0]
  reruns = results.reruns.get(best.index, ())
  return Side(
    name=str(results.path),
    best=results.value(best),
    trial=best.index,
    mean=_mean(results),
    num_reruns=_num_reruns(results),
    diverged=sum(trial.status == "infeasible" for trial in reruns),
    deviation=noise.deviation,
    deviation_from=noise.source,
    search_deviation=_search_deviation(trials_lib.outcomes(results)),
    rerun=_rerun(results, best),
    commit=commit(results.path),
    adaptive=results.num_adaptive,
  )


def _rerun(results, best):
  if best.index < 0:
    run = rundir.RunDir(best.path)
    folder, seed = commands.fresh_number(str(best.path), "seed", best.seed)
    words = (run.provenance() or {}).get("command") or ()
    train = [
      *("train", f"--config={best.path / 'config.json'}"),
      *(f"--workdir={folder}", f"--config.seed={seed}"),
    ]
    kept = commands.kept(words, commands.DEVICES)
    return commands.line([*commands.program(words), *train, *kept])
  study = results.path
  if study == best.path:  # `read` took it alone.
    study = best.path.parent.parent
  return results_lib.rerun_command(results, study, best.index)


def _noises(both):
  """Noise of each side; without reruns at least that of the other's reruns."""
  own = [_noise(results) for results in both]
  numbers = [_num_reruns(results) for results in both]
  noises = list(own)
  for i, j in ((0, 1), (1, 0)):
    if numbers[i] < 2 <= numbers[j] and own[i].deviation < own[j].deviation:
      source = f"as {numbers[j]} reruns of {both[j].path}"
      noises[i] = dataclasses.replace(own[j], source=source)
  return noises


def _search_deviation(values):
  """Standard deviation of the best of as many draws with replacement.

  Exact, as `trials.best_of`, over searches that find a feasible trial.
  """
  values = np.sort(values)
  num = len(values)
  at_most = 1 - (1 - np.arange(num + 1) / num) ** num
  feasible = np.isfinite(values)
  weights, values = np.diff(at_most)[feasible], values[feasible]
  mean = np.average(values, weights=weights)
  return math.sqrt(float(np.average((values - mean) ** 2, weights=weights)))


def _seeds(sides, noises):
  """Both sides, as `difference.reach` needs them."""
  freedom = [noise.freedom for noise in noises]
  if min(side.num_reruns for side in sides) < 2:
    freedom = [min(freedom) / 2] * 2  # One estimate serves both sides.
  return tuple(
    difference.Seeds(
      variance=noise.deviation**2,
      freedom=free,
      number=max(side.num_reruns, 1),
      search=0.0 if side.num_reruns else side.search_deviation**2,
    )
    for side, noise, free in zip(sides, noises, freedom, strict=True)
  )


def _more_seeds(improvement, seeds, data, confidence):
  """Reruns of each side for an interval that excludes 0; None: too many.

  Args:
    improvement: Assumed to be the true one.
    seeds: Of both sides, now.
    data: Of both sides, now.
  """
  for number in range(3, _MOST_SEEDS + 1):
    then = tuple(
      difference.Seeds(side.variance, number - 1, number) for side in seeds
    )
    sampling = data and data.after([side.number for side in seeds], number)
    if difference.reach(then, sampling, confidence) < abs(improvement):
      return number
  return None


def _data(both):
  """The sampling of the validation examples.

  Returns:
    (its variance, what that is from, caveats); the variance may be None.
  """
  metric, caveats = both[0].metric, []
  try:
    one, other = (_examples(results) for results in both)
  except rundir.Damaged as error:
    one = other = None
    caveats.append(f"Results of single examples are not used: {error}.")
  if one and other:
    if (
      one[1] == other[1]
      and one[0].shape[1] == other[0].shape[1]
      and np.array_equal(one[2], other[2])
    ):
      data = difference.paired(one[0], other[0], one[2], metric.is_share)
      number = one[0].shape[1]
      return data, f"paired on {number:,} examples", caveats
    caveats.append(
      "The two sides saved results of different examples, so these cannot be"
      " compared one by one."
    )
  number = min(results.ranked[0].num_valid for results in both)
  if metric.is_share and number and both[0].objective.startswith("valid"):
    shares = [metric.cost(_mean(results)) for results in both]
    data = difference.independent(shares, number)
    return data, f"binomial, {number:,} examples for each side", caveats
  caveats.append(
    f"The sampling of the examples of {both[0].objective} is not included in"
    " the interval, as not all trainings saved the results of single examples."
  )
  return None, "not included", caveats


def _examples(results):
  """Costs of single examples in all trainings of a side.

  Returns:
    (costs [trainings, n], digest of the examples, weights [n] or None); None:
    they are not known, or not of the values that are compared.
  """
  costs, data, weight = [], None, None
  for trial in _trainings(results):
    found = results.example_costs(trial)
    if found is None:
      return None
    cost, its_weight, its_data = found
    if costs and not (
      its_data == data
      and cost.shape == costs[0].shape
      and np.array_equal(its_weight, weight)
    ):
      return None
    costs.append(cost)
    data, weight = its_data, its_weight
  return (np.stack(costs), data, weight) if len(costs[0]) > 1 else None


def _unknown(both, noises, data):
  """Reasons why nothing shows how much trainings vary."""
  reasons = []
  for results, noise in zip(both, noises, strict=True):
    counted = results.metric.is_share and results.ranked[0].num_valid
    if not counted and all(math.isinf(noise.freedom) for noise in noises):
      reasons.append(
        f"The variance of {results.objective} between seeds is not known for"
        f" {results.path}."
      )
    elif not noise.deviation and data is None:
      reasons.append(
        f"The reruns of {results.path} have equal values, so their variance is"
        " not known: log more digits, or rerun it with more seeds."
      )
  return reasons


def _unlike(both, configs):
  """Reasons why the two are not comparable."""
  one, other = configs
  reasons = []
  for key, why in (
    ("max_train_steps", "the longer one has an advantage"),
    (
      "batch_size",
      "they are trained on different numbers of examples; compare them at equal"
      " target, each re-tuned",
    ),
  ):
    if one[key] != other[key]:
      reasons.append(
        f"{key} is {one[key]:,} in the baseline and {other[key]:,} in the"
        f" candidate: {why}."
      )
  names = [flat["dataset.name"] for flat in (one, other)]
  sizes = [r.ranked[0].num_valid for r in both]
  if names[0] != names[1] or sizes[0] != sizes[1]:
    reasons.append(
      f"They are validated on different data: {sizes[0]:,} examples of"
      f" {names[0]}, and {sizes[1]:,} of {names[1]}."
    )
  return reasons


def _changes(configs):
  """Config keys in which the two best trials differ."""
  different = config_lib.differences(*configs)
  return {k: list(pair) for k, pair in different.items() if k != "seed"}


def _flat_config(results):
  """The config of the best trial: dotted key -> value."""
  best = results.ranked[0]
  flat = results_lib.flat(results.study["config"])
  trained = {key: value for key, (_, value) in best.different.items()}
  return flat | results.by_key(best) | trained


def _doubts(*studies):
  """What is wrong with the files of the studies, or of their trials."""
  return [
    f"In {results.path}: {sentence}"
    for results in studies
    for sentence in results_lib.in_words(results_lib.doubts(results))
  ]


def _unequal_chances(baseline, candidate):
  """A caveat if one side chose its best step among more evaluations."""
  if baseline.select != "best":
    return []
  one, other = (
    int(np.isfinite(r.ranked[0].costs(r.objective)[1]).sum())
    for r in (baseline, candidate)
  )
  if max(one, other) < 1.5 * min(one, other):
    return []
  return [
    f"The best step of a run is the best of {one} evaluations in the baseline,"
    f" of {other} in the candidate: more evaluations favour a side by luck."
    " Compare the last steps with --objective=final:METRIC."
  ]


def _caveats(sides, improvement):
  caveats = []
  one, other = (side.commit for side in sides)
  if one != other:
    caveats.append(
      f"The code differs: {one} in the baseline, {other} in the candidate."
    )
  if min(side.num_reruns for side in sides) < 2:
    caveats.append(
      "Best values are too optimistic, because they were selected; reruns with"
      " other seeds are not."
    )
  for side in sides:
    if side.diverged:
      caveats.append(
        f"{side.diverged} reruns of {side.name} diverged and are left out."
      )
    if side.adaptive:
      caveats.append(
        f"{side.adaptive} trials of {side.name} were adaptive, which favours it"
        " over a quasi-random study."
      )
    if side.search_deviation > abs(improvement):
      caveats.append(
        f"Repeating the search of {side.name} would change its best value by"
        f" {side.search_deviation:.2g} (one standard deviation), more than the"
        " improvement: the difference may be due to these points, not to the"
        " change. Repeat the study with another seed to find out."
      )
  return caveats


def _advice(verdict, unlike, unknown, sides, changes, seeds):
  if unlike:
    return f"Repeat one of them to make them comparable. {unlike[0]}"
  if verdict == "adopt":
    return (
      "Adopt it, if the improvement outweighs the added complexity: "
      f"{', '.join(changes) or 'nothing in the config'}."
    )
  if verdict == "do not adopt":
    return "Keep the baseline."
  lacking = [side for side in sides if side.num_reruns < (seeds or 3)]
  if seeds is None and not lacking and not unknown:
    return (
      f"Even {_MOST_SEEDS} seeds would not make so small a difference"
      " significant. Keep the simpler one."
    )
  again = ", ".join(
    f"`{side.rerun}{f' --seeds={seeds or 5}' if side.trial >= 0 else ', ...'}`"
    for side in lacking or sides
  )
  if seeds is None or min(side.num_reruns for side in sides) < 2:
    return f"Measure the variance between seeds: {again}."
  return f"About {seeds} seeds of each would make it significant: {again}."


def _examples_needed(improvement, data, data_from, confidence):
  """What other validation data could do, where seeds cannot; "": nothing."""
  if data is None:
    return ""
  exact = difference.Seeds(0.0, math.inf, 1)
  least = difference.reach((exact, exact), data, confidence)
  if abs(improvement) >= least or not improvement:
    return ""
  times = (least / improvement) ** 2
  if times > _MOST_TIMES:
    return ""
  advice = (
    " The validation set is too small for this difference: it needs at least"
    f" {max(times, 1.1):.2g} times as many examples"
  )
  if not data_from.startswith("paired"):
    advice += (
      ", or fewer if all trainings of both sides save the results of single"
      " examples, in examples.npz"
    )
  return advice + "."
