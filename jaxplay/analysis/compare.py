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
from scipy import stats

import jaxplay
from jaxplay import commands, rundir
from jaxplay import config as config_lib
from jaxplay import provenance as provenance_lib
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.study import space as space_lib

Verdict = Literal["adopt", "do not adopt", "inconclusive"]

_MOST_SEEDS = 100  # more than anybody will run


@dataclasses.dataclass(frozen=True)
class Side:
  """What one of the two brings to the comparison.

  Attributes:
    name: Its directory.
    best: Objective of its best trial in the study.
    trial: That trial's index; -1 for a run of no study.
    mean: Mean over the reruns of that trial, or `best` where there are none.
    num_reruns: Reruns that have a value.
    diverged: Reruns that are infeasible.
    deviation: Standard deviation between trainings.
    deviation_from: What that is taken from, in words.
    search_deviation: Standard deviation of the best over searches as long as
      this one, by bootstrap of its trials; 0 for a single run.
    rerun: The command that adds reruns, less their number; for a run of no
      study one that trains it with another seed.
    commit: Of the code that made it, and whether that was all, in words.
    adaptive: Trials that were suggested by the results of others.
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
  """A verdict and what it rests on.

  Attributes:
    verdict: "adopt", "do not adopt" or "inconclusive".
    objective: What is compared; less is better.
    baseline: One side.
    candidate: The other.
    improvement: How far the candidate lies below the baseline.
    interval: Of the improvement; at 95 %, if not asked for otherwise.
    more_seeds: Reruns of each side that would make an improvement of this size
      certain; None: it is, or more than 100.
    alike: Whether the two were measured alike; there is no verdict if not.
    changes: Config key -> [of the baseline's best trial, of the candidate's]:
      the complexity that the change adds.
    caveats: Sentences, those that forbid a verdict first.
    advice: What to do now.
  """

  verdict: Verdict
  objective: str
  baseline: Side
  candidate: Side
  improvement: float
  interval: tuple[float, float]
  more_seeds: int | None
  alike: bool
  changes: Mapping[str, list[Any]]
  caveats: list[str]
  advice: str

  def as_json(self) -> dict[str, Any]:
    """JSON values."""
    return dataclasses.asdict(self)


def read(
  path: str | os.PathLike, objective: str | None = None
) -> results_lib.Results:
  """Reads a study, one trial of it, or a run as a study of one trial.

  Args:
    path: A study directory; STUDY/trials/0007 or STUDY/reruns/0007, which is
      that trial with its reruns; or a run directory.
    objective: As for `results.read_study`; a run has no "final:METRIC".

  Raises:
    jaxplay.UserError: There is none of these, or it did not log the objective.
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
    raise jaxplay.UserError(f"the run in {str(path)!r} logged no {objective!r}")
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
  """Is the candidate's best trial better than the baseline's?

  The rule: the improvement and its interval, by Welch's t-test on the
  reruns where both have 2 or more. Otherwise from the best values themselves,
  which were selected for their luck: then the interval also holds the variance
  of the search, and a side without reruns varies between seeds at least as the
  other does. `adopt` where the whole interval lies above 0 and the improvement
  is at least `smallest`; `do not adopt` where no improvement in the interval is
  above `smallest`; else `inconclusive`, and also where the two were not
  measured alike.

  Args:
    baseline: A study or, from `read`, a run.
    candidate: Another one.
    smallest: The least improvement that is worth the complexity that the change
      adds, in the objective's unit, at least 0.
    confidence: Of the interval, in (0, 1).

  Raises:
    jaxplay.UserError: They have different objectives, or no trial has a value.
  """
  for name in ("objective", "select"):
    one, other = getattr(baseline, name), getattr(candidate, name)
    if one != other:
      raise jaxplay.UserError(
        f"the baseline's {name} is {one!r}, the candidate's {other!r}; choose"
        " one for both with --objective"
      )
  one, other = _side(baseline), _side(candidate)
  sides = one, other = _at_least(one, other), _at_least(other, one)
  improvement = one.mean - other.mean
  reruns = [side.num_reruns for side in sides]
  from_reruns = min(reruns) >= 2
  variances = [
    side.deviation**2 / max(side.num_reruns, 1)
    + (0 if side.num_reruns else side.search_deviation**2)
    for side in sides
  ]
  freedom = math.inf
  if from_reruns:
    freedom = _welch(variances, [num - 1 for num in reruns])
  elif max(reruns) >= 2:
    freedom = max(reruns) - 1
  error = math.sqrt(sum(variances))
  reach = float(stats.t.isf((1 - confidence) / 2, freedom)) * error
  low, high = improvement - reach, improvement + reach
  unlike = _unlike(baseline, candidate)
  verdict = "inconclusive"
  if not unlike and low > 0 and improvement >= smallest:
    verdict = "adopt"
  elif not unlike and high <= smallest and high < math.inf:
    verdict = "do not adopt"
  changes = _changes(baseline, candidate)
  seeds = None
  if verdict == "inconclusive" and not unlike:
    deviation = math.hypot(one.deviation, other.deviation)
    seeds = _seeds(improvement, deviation, confidence)
  return Comparison(
    verdict=verdict,
    objective=baseline.objective,
    baseline=one,
    candidate=other,
    improvement=improvement,
    interval=(low, high),
    more_seeds=seeds,
    alike=not unlike,
    changes=changes,
    caveats=[
      *unlike,
      *_doubts(baseline, candidate),
      *_caveats(sides, improvement, from_reruns),
    ],
    advice=_advice(verdict, unlike, sides, changes, seeds),
  )


def cells(results: results_lib.Results) -> list[tuple[str, str, Comparison]]:
  """The best combination of scientific choices against each other one.

  Without adaptive trials, of which one combination may have had more than
  another. Best by the mean over the reruns of its best trial, or by that trial
  where there are none. The intervals hold together at 95 %, by Bonferroni's
  bound on all pairs: the best was not known before, and could have been any.

  Returns:
    (its name, the other's, comparison) for each other one that has a value,
    best first; [] where there is nothing to compare.
  """
  results, sides = results.space_filling, {}
  for name, indices in trials_lib.groups(results, slices=False).items():
    trials = [results.trials[i] for i in indices]
    if len(results.values_of(trials)):
      sides[name] = dataclasses.replace(results, trials=trials)
  if len(sides) < 2:
    return []
  best, *others = sorted(sides, key=lambda name: _side(sides[name]).mean)
  confidence = 1 - 0.05 / math.comb(len(sides), 2)
  return [
    (best, other, compare(sides[other], sides[best], confidence=confidence))
    for other in others
  ]


def log_entry(comparison: Comparison, date: str) -> str:
  """A comparison as an entry of a log of launches, in Markdown (E4).

  "For each launch, we must make sure that the change is based on strong
  evidence" (Playbook, the incremental tuning strategy): the entry holds it, and
  what is needed to look again.

  Args:
    comparison: Whatever its verdict: what was not adopted is worth a line, too.
    date: Of the decision.
  """
  low, high = comparison.interval
  rows = [
    f"| {name} | {side.name} | {side.trial if side.trial >= 0 else ''} |"
    f" {side.mean:.4g} +- {side.deviation:.2g} ({side.deviation_from}) |"
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
      f"It improves {comparison.objective} by {comparison.improvement:.4g} (95"
      f" %: {low:.4g} to {high:.4g}). {comparison.advice}",
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
  """The commit of jaxplay that made a study or run, in words."""
  provenance = rundir.RunDir(path).provenance() or {}
  commit = (provenance.get("git_commit") or "not known")[:12]
  return commit + (" and changes" if provenance.get("git_diff") else "")


def files_commit(path: str | os.PathLike) -> str:
  """The commit of the user's files that made a study or run, in words."""
  provenance = rundir.RunDir(path).provenance() or {}
  repositories = provenance.get("repositories", ())
  commits = [(r["commit"] or "not known")[:12] for r in repositories]
  changed = provenance_lib.is_changed(provenance)
  text = " and ".join(commits) or "none"
  return "not known" if changed is None else text + " and changes" * changed


def _side(results) -> Side:
  if not results.ranked:
    why = " ".join(_doubts(results)).rstrip(".")
    raise jaxplay.UserError(
      f"no trial of {str(results.path)!r} has a value of"
      f" {results.objective!r}; {why or 'wait for one to complete'}"
    )
  best = results.ranked[0]
  reruns = results.reruns.get(best.index, ())
  again = results.values_of(reruns)
  noise = trials_lib.noise(results)
  deviation, source = noise.deviation, noise.source
  if len(again) >= 2:
    deviation, source = float(again.std(ddof=1)), f"{len(again)} reruns"
  return Side(
    name=str(results.path),
    best=results.value(best),
    trial=best.index,
    mean=float(again.mean()) if len(again) else results.value(best),
    num_reruns=len(again),
    diverged=sum(trial.status == "infeasible" for trial in reruns),
    deviation=deviation,
    deviation_from=source,
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


def _at_least(side, other):
  """A side; one without reruns varies between seeds at least as `other`."""
  if side.num_reruns >= 2 or other.num_reruns < 2:
    return side
  if side.deviation >= other.deviation:
    return side
  return dataclasses.replace(
    side,
    deviation=other.deviation,
    deviation_from=f"as {other.num_reruns} reruns of {other.name}",
  )


def _search_deviation(values):
  """Standard deviation of the best of as many draws with replacement.

  Exact, as `trials.best_of`. A search that finds no feasible trial at all is
  left out.
  """
  values = np.sort(values)
  num = len(values)
  at_most = 1 - (1 - np.arange(num + 1) / num) ** num
  feasible = np.isfinite(values)
  weights, values = np.diff(at_most)[feasible], values[feasible]
  mean = np.average(values, weights=weights)
  return math.sqrt(float(np.average((values - mean) ** 2, weights=weights)))


def _welch(variances, freedoms):
  """Degrees of freedom of a difference of means (Welch 1947)."""
  terms = zip(variances, freedoms, strict=True)
  below = sum(v**2 / f for v, f in terms)
  return sum(variances) ** 2 / below if below else math.inf


def _seeds(improvement, deviation, confidence):
  """Reruns of each side for an interval that excludes 0, or None: too many.

  Args:
    improvement: Supposed to be the true one.
    deviation: Of the difference between one training of each.
  """
  for num in range(3, _MOST_SEEDS + 1):
    quantile = float(stats.t.isf((1 - confidence) / 2, 2 * (num - 1)))
    if quantile * deviation / math.sqrt(num) < abs(improvement):
      return num
  return None


def _unlike(baseline, candidate):
  """Why the two were not measured alike: no verdict then."""
  one, other = (_flat_config(r) for r in (baseline, candidate))
  found = []
  for key, why in (
    ("max_train_steps", "the longer one has an advantage"),
    (
      "batch_size",
      "they saw different numbers of examples; compare them at equal target,"
      " each re-tuned",
    ),
  ):
    if one[key] != other[key]:
      found.append(
        f"{key} is {one[key]:,} in the baseline and {other[key]:,} in the"
        f" candidate: {why}."
      )
  names = [flat["dataset.name"] for flat in (one, other)]
  sizes = [r.ranked[0].num_valid for r in (baseline, candidate)]
  if names[0] != names[1] or sizes[0] != sizes[1]:
    found.append(
      f"They are validated on different data: {sizes[0]:,} examples of"
      f" {names[0]}, and {sizes[1]:,} of {names[1]}."
    )
  return found


def _changes(baseline, candidate):
  """Config keys in which the two best trials differ."""
  different = config_lib.differences(
    _flat_config(baseline), _flat_config(candidate)
  )
  return {k: list(pair) for k, pair in different.items() if k != "seed"}


def _flat_config(results):
  """Of the best trial: dotted key -> value."""
  best = results.ranked[0]
  flat = results_lib.flat(results.study["config"])
  trained = {key: value for key, (_, value) in best.different.items()}
  return flat | results.by_key(best) | trained


def _doubts(*studies):
  """What is wrong with the files of a study, or of a trial of it."""
  return [
    f"In {results.path}: {sentence}"
    for results in studies
    for sentence in results_lib.in_words(results_lib.doubts(results))
  ]


def _caveats(sides, improvement, from_reruns):
  found = []
  one, other = (side.commit for side in sides)
  if one != other:
    found.append(
      f"The code is not the same: {one} in the baseline, {other} in the"
      " candidate."
    )
  if not from_reruns:
    found.append(
      "The best values were selected for being the best, and are too good; only"
      " reruns with other seeds are not."
    )
  for side in sides:
    if side.diverged:
      found.append(
        f"{side.diverged} reruns of {side.name} diverged and do not count."
      )
    if side.adaptive:
      found.append(
        f"{side.adaptive} trials of {side.name} were adaptive: its best point"
        " was searched for harder than a quasi-random study would."
      )
    if side.search_deviation > abs(improvement):
      found.append(
        f"Another search as long as that of {side.name} would change its best"
        f" value by {side.search_deviation:.2g} (one standard deviation), more"
        " than the improvement: true of these points, perhaps not of the"
        " change. Repeat the study with another seed to know."
      )
  return found


def _advice(verdict, unlike, sides, changes, seeds):
  if unlike:
    return f"Repeat one of them, so that both are measured alike. {unlike[0]}"
  if verdict == "adopt":
    return (
      "Adopt it, if the improvement outweighs what it adds: "
      f"{', '.join(changes) or 'nothing in the config'}."
    )
  if verdict == "do not adopt":
    return "Keep the baseline."
  lacking = [side for side in sides if side.num_reruns < (seeds or 3)]
  if seeds is None and not lacking:
    return (
      f"Not even {_MOST_SEEDS} seeds would tell so small a difference. Keep the"
      " simpler one."
    )
  again = "; ".join(
    side.rerun + (f" --seeds={seeds or 5}" if side.trial >= 0 else ", ...")
    for side in lacking or sides
  )
  if seeds is None or min(side.num_reruns for side in sides) < 2:
    return f"Measure the variance between seeds: {again}"
  return f"About {seeds} seeds of each would tell: {again}"
