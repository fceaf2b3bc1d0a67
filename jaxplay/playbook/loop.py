"""`jaxplay playbook`: the whole loop, unattended, within a budget.

Each phase runs once: what it decided is kept in PHASE.json, so that a loop that
was killed goes on with the same decisions, also where these are of the clock.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import ml_collections

import jaxplay
from jaxplay import config as config_lib
from jaxplay import finding, rundir
from jaxplay.analysis import checklist, compare, refine
from jaxplay.analysis import results as results_lib
from jaxplay.playbook import budget as planning
from jaxplay.playbook import result as result_lib
from jaxplay.playbook import study_runner
from jaxplay.playbook.rounds import decide as rounds_lib
from jaxplay.playbook.stability import run as stability
from jaxplay.playbook.steps import decide as steps_lib
from jaxplay.playbook.steps import run as steps
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib
from jaxplay.study import suggest

GOAL = "Which configuration is the best one that this budget can find?"
_FIT = "train/error_rate<=0"
_WARMUP = "hparams.warmup_steps"
# Around the best rate of the sweep; other hyperparameters may move it so far.
_AROUND = 10.0
_FEWEST_EVALUATIONS = 8
# Checks that decide whether there is another study, of which length.
_DECIDING = (
  *("search_space_boundary", "enough_trials", "infeasible_share"),
  *("max_train_steps", "compute_bound", "saturated_early"),
)
_LOWER = 0.5  # of the rate, which longer runs may want
# Of these, a config that is handed over keeps its own.
_LOOKS = ("log_every", "eval_every", "checkpoint_every", *study_runner.CURVES_ONLY)

Keep = Callable[[Any, str, result_lib.ProcedureResult], None]


@dataclasses.dataclass
class Phase:
  """What a phase did, JSON values.

  Attributes:
    name: Of its file, without the number.
    said: What was decided, the shortest sentence first.
    settings: Changes to the config.
    findings: Rows of findings.
    data: What later phases need.
    spent: Trials that it cost.
    seconds: That it took.
    page: Its report, in the folder of the plan; "": none.
  """

  name: str
  said: Sequence[str]
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  findings: Sequence[Mapping[str, Any]] = ()
  data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  spent: float = 0.0
  seconds: float = 0.0
  page: str = ""


class _Steps(TypedDict):
  length: rundir.Positive


class _Stability(TypedDict):
  rates: tuple[rundir.Above0, rundir.Above0]


class _OfEnd(TypedDict):
  longer: rundir.Positive
  candidates: rundir.Positive
  seeds: rundir.Positive


class _Shares(TypedDict):
  shares: _OfEnd


class _Next(TypedDict):
  trials: rundir.Positive
  length: NotRequired[rundir.Positive]
  space: NotRequired[list[space_lib.Row]]


class _Explore(TypedDict):
  study: rundir.Name
  num_trials: rundir.Positive
  length: rundir.Positive
  next: _Next | None
  values: list[float | None]


class _Exploit(TypedDict):
  num_trials: rundir.Positive
  values: list[float | None]


class _Longer(TypedDict):
  candidates: list[rundir.Count]
  values: list[float | None]


class _Side(TypedDict):
  mean: float
  deviation: float


class _Comparison(TypedDict):
  verdict: str
  improvement: float
  interval: tuple[float | None, float | None]
  baseline: _Side
  candidate: _Side


class _Final(TypedDict):
  chosen: rundir.Count | None
  means: dict[str, float]
  comparison: _Comparison | None


# What is kept of each phase, by its name without a number.
_DATA = {
  "batch_size": dict[str, Any],
  "steps": _Steps,
  "stability": _Stability,
  "shares": _Shares,
  "explore": _Explore,
  "exploit": _Exploit,
  "longer": _Longer,
  "final": _Final,
}


class PhaseFile(TypedDict):
  """NN_PHASE.json, a `Phase`; its data is one of `_DATA`."""

  name: str
  said: list[str]
  settings: dict[str, Any]
  findings: list[rundir.FindingRow]
  data: dict[str, Any]
  spent: rundir.Seconds
  seconds: rundir.Seconds
  page: str


def playbook(
  runner: study_runner.StudyRunner,
  config: ml_collections.ConfigDict,
  *,
  budget: planning.Budget,
  num_train: int,
  learning_rates: tuple[float, float],
  seeds: int,
  seed: int,
  batch_size: Callable[[study_runner.StudyRunner], result_lib.ProcedureResult] | None,
  keep: Keep,
) -> result_lib.ProcedureResult:
  """Batch size, steps, stability, exploration, exploitation, the last round.

  Args:
    runner: Where to run it.
    config: The base config, whose `max_train_steps` is what a final run gets.
    budget: Of all that is trained; not refused by `check`.
    num_train: Examples of the training split.
    learning_rates: Lowest and highest of the sweeps.
    seeds: With which candidates and the config as it came are run.
    seed: Of the studies' sequences and suggestions.
    batch_size: Answers that question; None: the config's is kept.
    keep: Called with (folder, question, answer) of each procedure that is part
      of it, and with (folder, "", None) of each study, to write their pages.

  Raises:
    jaxplay.UserError: A budget of time is too small, or nothing trains.
  """
  loop = _Loop(runner, config, budget, keep)
  if batch_size is not None:
    loop.run("batch_size", lambda: _batch_size(loop, batch_size))
  loop.run("steps", lambda: _steps(loop, learning_rates, num_train))
  loop.run("stability", lambda: _stability(loop, learning_rates, seeds))
  loop.run("shares", lambda: _shares(loop, seeds))
  loop.run("explore_1", lambda: _first_study(loop, seed))
  while loop.last.data["next"] is not None:
    number = len(loop.explored()) + 1
    name = f"explore_{number}"
    # Another seed, so that what both spaces share gets other points.
    loop.run(name, lambda: _next_study(loop, name, seed + number - 1))  # noqa: B023
  number = 0
  while num := _num_exploited(loop):
    number += 1
    name = f"exploit_{number}"
    loop.run(name, lambda: _exploit(loop, name, num, seed))  # noqa: B023
  loop.run("longer", lambda: _longer(loop))
  loop.run("final", lambda: _final(loop, seeds))
  return _answer(loop)


def check(
  config: ml_collections.ConfigDict,
  budget: planning.Budget,
  learning_rates: tuple[float, float],
  seeds: int,
) -> None:
  """Refuses what `playbook` could not bring to an end.

  Raises:
    jaxplay.UserError: The budget or the config is too small for it.
  """
  if config.max_train_steps < planning.FEWEST_STEPS:
    raise jaxplay.UserError(
      f"config.max_train_steps is {config.max_train_steps}; the loop begins"
      f" with trials of a quarter of the steps, and needs"
      f" {planning.FEWEST_STEPS}"
    )
  rates = study_runner.learning_rates(*learning_rates, planning.per_decade(0))
  least = planning.least(seeds, len(rates))
  if budget.trials < least:
    raise jaxplay.UserError(
      f"{budget} are too little for the whole loop, which needs {least} with"
      f" {seeds} seeds; with less, `jaxplay plan` answers one question"
    )
  suggest.check_installed()


_FIELDS = tuple(field.name for field in dataclasses.fields(Phase))


class _Loop:
  """The phases so far, and what follows from them."""

  def __init__(self, runner, config, budget, keep):
    self.runner, self.given, self.budget, self.keep = runner, config, budget, keep
    self.phases: list[Phase] = []

  def run(self, name: str, phase: Callable[[], Phase]) -> None:
    """Runs a phase, or reads what it decided."""
    self.runner.log(f"\n{name} ({self._told_left()})")
    path = self.runner.path / f"{len(self.phases) + 1:02d}_{name}.json"
    if not path.exists():
      since, before = time.monotonic(), dict(self.runner.ran)
      found = phase()
      new = sum(n for p, n in self.runner.ran.items() if p not in before)
      found.spent = new / self._examples()
      found.seconds = time.monotonic() - since
      rundir.write_json(path, rundir.plain(dataclasses.asdict(found)))
    kept = rundir.read_json(path, PhaseFile)
    shape = _DATA[name.rstrip("_0123456789")]
    rundir.check_shape(path, kept["data"], shape, "$.data")
    self.phases.append(Phase(**{key: kept[key] for key in _FIELDS}))
    for sentence in self.last.summary:
      self.runner.log(f"  {sentence}")

  def _examples(self):
    return self.given.max_train_steps * self.given.batch_size

  def _told_left(self):
    left = self.left()
    if left == math.inf:
      return f"of {self.budget}"
    return f"{left:.3g} trials of {self.budget} are left"

  @property
  def last(self) -> Phase:
    return self.phases[-1]

  def explored(self) -> list[Phase]:
    return [p for p in self.phases if p.name.startswith("explore")]

  def data(self, name: str) -> Any:
    """The newest value of that name."""
    return next(p.data[name] for p in reversed(self.phases) if name in p.data)

  def spent(self) -> float:
    return sum(p.spent for p in self.phases)

  def left(self) -> float:
    return self.budget.left(self.spent(), sum(p.seconds for p in self.phases))

  def total(self) -> float:
    """Trials of the whole budget, as far as that can be told."""
    return self.spent() + self.left()

  @property
  def shares(self) -> planning.Shares:
    return planning.Shares(**self.data("shares"))

  def config(self) -> ml_collections.ConfigDict:
    """The config with all that was decided."""
    config = self.given.copy_and_resolve_references()
    for phase in self.phases:
      for key, value in phase.settings.items():
        config_lib.override(config, key, value)
    return config

  def short(self, length: int) -> ml_collections.ConfigDict:
    """The config of a trial of the first round: of so many steps."""
    config = self.config()
    total = config.max_train_steps
    every = min(
      length * config.eval_every // total, length // _FEWEST_EVALUATIONS
    )
    changes = config_lib.with_steps(config_lib.flatten(config), length)
    warmup = changes.get(_WARMUP, config.hparams.warmup_steps)
    changes |= {
      "log_every": max(1, length * config.log_every // total),
      "eval_every": max(1, every),
      "checkpoint_every": length,
      _WARMUP: min(warmup, length // 4),
      **study_runner.CURVES_ONLY,
    }
    for key, value in changes.items():
      config_lib.override(config, key, value)
    return config

  def cost(self, length: int) -> float:
    """Of a trial of so many steps."""
    return length * self.config().batch_size / self._examples()


def _rows(findings):
  return [found.as_json() for found in findings]


# Before the first study.


def _batch_size(loop, ask):
  """Another size only where it is twice as fast; examples stay the same."""
  answer = ask(loop.runner.within("batch_size"))
  loop.keep(loop.runner.path / "batch_size", "batch-size", answer)
  old, new = loop.given.batch_size, answer.details["batch_size"]
  settings = {}
  if new is None:
    said = (
      f"batches of {old} are kept, since it cannot be told: {answer.summary[0]}"
    )
  else:
    gain = planning.gain(answer.details["speeds"], old, new)
    told = f"{new} examples give {gain:.2g} times the throughput"
    if new == old:
      told = "throughput grows up to them, and no further"
    said = f"batches of {old} are kept: {told}"
    changes = planning.with_batch_size(config_lib.flatten(loop.given), new)
    steps = changes.get("max_train_steps", loop.given.max_train_steps)
    if gain >= planning.WORTH and steps < planning.FEWEST_STEPS:
      said += f", but then as many examples take {steps} steps"
    elif gain >= planning.WORTH:
      settings = changes
      said = f"batches of {new}, and as many examples in all: {told}"
  return Phase(
    "batch_size",
    [said],
    settings,
    # Nothing is to be tuned again where nothing changes.
    _rows(
      f for f in answer.findings if settings or f.check != "retune_after_change"
    ),
    page="batch_size/report.html",
  )


def _steps(loop, learning_rates, num_train):
  """Whether a quarter of the steps is enough to tell trials apart."""
  config = loop.config()
  total, findings, fits, page = config.max_train_steps, [], None, ""
  if config.model.name not in config_lib.TEXT_MODELS:
    answer = steps.sweep(
      loop.runner.within("steps"),
      config,
      learning_rates=learning_rates,
      max_train_steps=max(1, total // 4),
      target=steps_lib.Target.parse(_FIT),
      num_train=num_train,
      per_decade=planning.per_decade(loop.total()),
    )
    page = "steps/report.html"
    loop.keep(loop.runner.path / "steps", "steps", answer)
    fits, findings = answer.details["steps"], answer.findings
  length, why = planning.first_length(total, fits, loop.total())
  return Phase(
    "steps",
    [f"the first round has {length:,} of {total:,} steps: {why}"],
    findings=_rows(findings),
    data={"length": length},
    page=page,
  )


def _stability(loop, learning_rates, seeds):
  """The best rate; and a fix, if rates just above it are unstable."""
  repair = not planning.is_small(loop.total())
  answer = stability.stability(
    loop.runner.within("stability"),
    loop.short(loop.data("length")),
    learning_rates=learning_rates,
    seeds=seeds,
    per_decade=planning.per_decade(loop.total()),
    every_step=False,  # Its evaluations are no trials, and not paid for.
    repair=repair,
  )
  loop.keep(loop.runner.path / "stability", "stability", answer)
  settings = dict(answer.settings)
  if answer.details["fix"] == "warmup":
    # What the fix adds to a short run is no length of the whole one.
    for key in ("max_train_steps", "hparams.cooldown_fraction", _WARMUP):
      settings.pop(key, None)
    warmup = answer.details["warmup_steps"]
    settings |= config_lib.with_warmup(
      config_lib.flatten(loop.config()), warmup
    )
  best = answer.details["rate"]
  low = best / _AROUND if best else learning_rates[0] / _AROUND**3
  high = best * _AROUND if best else learning_rates[0]
  fix = answer.details["fix"]
  said = answer.summary[0]
  if answer.details["worth_fixing"] and not repair:
    said = f"{said} The budget is too small to look for a fix."
  return Phase(
    "stability",
    [
      f"the rate is searched from {low:.2g} to {high:.2g}"
      + (f", with {fix} as a fix" if fix not in (None, "none") else ""),
      said,
    ],
    settings,
    _rows(answer.findings),
    {"rates": [float(f"{low:.2g}"), float(f"{high:.2g}")]},
    page="stability/report.html",
  )


def _shares(loop, seeds):
  """What is put aside for the end, once it is known how long trials take."""
  shares = planning.shares(loop.total(), seeds)
  cost = loop.cost(loop.data("length"))
  if not planning.num_explored(loop.left(), shares.reserve, cost):
    raise jaxplay.UserError(
      f"after the sweeps, {max(loop.left(), 0):.2g} trials of {loop.budget} are"
      f" left; {shares.reserve} of them are needed for the end, which leaves no"
      " study; use another workdir and a larger --budget, fewer --seeds, or a"
      " config with fewer steps"
    )
  return Phase(
    "shares",
    [
      f"{shares.reserve} trials are put aside for the end: {shares.longer} of"
      f" all steps, and {seeds} other seeds of the {shares.candidates} best of"
      " them and of the config as it came"
    ],
    data={"shares": dataclasses.asdict(shares)},
  )


# Studies.


def _first_study(loop, seed):
  length, total = loop.data("length"), min(loop.total(), 1e6)
  num = planning.num_explored(
    loop.left(), loop.shares.reserve, loop.cost(length)
  )
  # As many hyperparameters as the whole budget has trials for.
  space = space_lib.default_space(
    loop.short(length), int(total), tuple(loop.data("rates"))
  )
  return _study(loop, "explore_1", space_lib.Space(space), length, num, seed)


def _next_study(loop, name, seed):
  """As the checks of the last one asked for."""
  last = loop.last.data
  asked, length = last["next"], last["length"]
  if "space" in asked:
    space = space_lib.Space.from_json(asked["space"])
    return _study(loop, name, space, asked["length"], asked["trials"], seed)
  first = last["num_trials"]
  loop.runner.extend(last["study"], first, first + asked["trials"])
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
  """What the checks say of a study, and which one is next."""
  loop.keep(results.path, "", None)
  findings = checklist.check_study(results)
  num = len(results.trials)
  asked, why = _asked(loop, results, findings, length)
  if asked is not None:
    left = loop.left() - (num - first) * loop.cost(length)
    cost = asked["trials"] * loop.cost(asked.get("length", length))
    least = loop.shares.reserve + planning.BATCH * loop.cost(length)
    if left - cost < least:
      asked, why = None, f"{why}; but there is no budget for that"
  return Phase(
    name,
    [
      f"{num} trials, {len(results.space.parameters)} hyperparameters:"
      f" {_told_best(results)}",
      why,
    ],
    findings=_rows(f for f in findings if f.check in _DECIDING),
    data={
      "study": results.path.name,
      "num_trials": num,
      "length": length,
      "next": asked,
      "values": _values(results, results.trials[first:]),
    },
    page=f"{results.path.name}/report.html",
  )


def _asked(loop, results, findings, length):
  """(what is to be run next, or None; why)."""
  num = len(results.trials)
  space, reasons = refine.repaired(results, findings)
  steps, longer = refine.next_steps(results.study, findings)
  # The last round has all steps; until then a half is enough.
  steps = max(length, min(steps, loop.config().max_train_steps // 2))
  if steps > length:
    reasons.append(longer)
  if reasons:
    asked = {"space": space.as_json(), "length": steps, "trials": num}
    return asked, "; ".join(reasons)
  few = next(f for f in findings if f.check == "enough_trials")
  if few.verdict == "warn":
    return {"trials": num}, few.advice
  return None, "the checks of the space and of the number of trials pass"


def _num_exploited(loop):
  """Adaptive trials that come next."""
  last = loop.explored()[-1].data
  cost = loop.cost(last["length"])
  reserve = loop.shares.reserve
  return planning.num_exploited(loop.left(), reserve, cost, last["num_trials"])


def _exploit(loop, name, num, seed):
  """Bayesian optimization with what is left for short trials."""
  last = loop.explored()[-1].data
  first = loop.last.data["num_trials"]
  results = loop.runner.suggest(
    last["study"],
    first + num - last["num_trials"],
    batch=planning.batch(num),
    seed=seed,
  )
  loop.keep(results.path, "", None)
  return Phase(
    name,
    [f"{num} adaptive trials: {_told_best(results)}"],
    data={
      "num_trials": first + num,
      "values": _values(results, results.trials[first:]),
    },
    page=f"{results.path.name}/report.html",
  )


def _told_best(results):
  if not results.ranked:
    return f"none has a value of {results.objective}"
  best = results.ranked[0]
  return f"{results.objective} {results.value(best):.4g} by trial {best.index}"


def _values(results, trials):
  """For the picture; NaN is null."""
  return [results.value(trial) for trial in trials]


# The last round.


def _longer(loop):
  """The best trials of the first round at the config's own length."""
  length = loop.data("length")
  config = loop.config()
  total, num = config.max_train_steps, loop.shares.longer
  trials = _best_of_first_round(loop, length)
  # "Unlikely to transfer" is the rate: the better half is tried with less, too.
  kept = trials[: -(-num // 2)]
  lower = [
    point | {study_runner.LEARNING_RATE: float(f"{_LOWER * point[study_runner.LEARNING_RATE]:.4g}")}
    for _, point in kept[: num - len(kept)]
  ]
  changes, why = _lengthened(loop, length)
  study = study_lib.Study(
    goal="Which of the best short trials is the best one at full length?",
    config="",
    algorithm="explicit",
    points=[*(point for _, point in kept), *lower],
    overrides=changes | study_runner.CURVES_ONLY,
  )
  results = loop.runner.study("longer", study, config)
  if not results.ranked:
    raise jaxplay.UserError(
      f"none of the {num} best trials came to a result at {total:,} steps; see"
      f" {str(results.path)!r}"
    )
  loop.keep(results.path, "", None)
  again = _values(results, results.trials[: len(kept)])
  ranking = rounds_lib.ranking([v for v, _ in kept], again, (length, total))
  return Phase(
    "longer",
    [
      f"the {len(kept)} best with {total:,} steps, and with"
      f" {_LOWER:g} times the rate: {_told_best(results)}",
      why,
    ],
    findings=_rows([ranking]),
    data={
      "candidates": [t.index for t in results.ranked],
      "values": _values(results, results.trials),
    },
    page="longer/report.html",
  )


def _lengthened(loop, length):
  """(changes that make the config's run of a short one's decay, why)."""
  flat, short = map(config_lib.flatten, (loop.config(), loop.short(length)))
  if flat["schedule"] == "wsd":
    # Its share is the config's, and no decay of a first round.
    return {}, "the cooldown keeps its share"
  longer, why = rounds_lib.longer(short, flat["max_train_steps"])
  # Of the short trials only the decay; the rest is as the config has it.
  changes = {
    key: longer[key]
    for key in ("schedule", "cooldown_shape", "hparams.cooldown_fraction")
    if key in longer
  }
  # A warmup that was cut for the short trials is long again.
  return changes | config_lib.with_warmup(
    {**flat, **changes}, flat[_WARMUP]
  ), why


def _best_of_first_round(loop, length):
  """(objective, point) of its trials of that length, the best first."""
  found = []
  for name in dict.fromkeys(p.data["study"] for p in loop.explored()):
    results = results_lib.read_study(loop.runner.path / name)
    if results.study["config"]["max_train_steps"] == length:
      found += [(results.value(t), results.by_key(t)) for t in results.ranked]
  if not found:
    raise jaxplay.UserError(
      "no trial of the first round came to a result; see"
      f" {str(loop.runner.path / name / 'report.html')!r}"
    )
  return sorted(found, key=lambda row: row[0])


def _final(loop, seeds):
  """Candidates and the config as it came, with other seeds."""
  given = loop.given
  study = study_lib.Study(
    goal="How good is the config as it came?",
    config="",
    space={study_runner.LEARNING_RATE: space_lib.Choice((given.hparams.learning_rate,))},
    algorithm="explicit",
    points=[{study_runner.LEARNING_RATE: given.hparams.learning_rate}],
    overrides=study_runner.CURVES_ONLY,
  )
  loop.runner.study("given", study, given)
  baseline = loop.runner.rerun("given", [0], seeds)
  candidates = loop.data("candidates")[: loop.shares.candidates]
  results = loop.runner.rerun("longer", candidates, seeds)
  means = {
    index: float(values.mean())
    for index in candidates
    if len(values := results.values_of(results.reruns[index])) == seeds
  }
  for path in (baseline.path, results.path):
    loop.keep(path, "", None)
  chosen = min(means, key=means.get, default=None)
  comparison, said = None, "every candidate diverged with some other seed"
  if chosen is not None and not baseline.ranked:
    said = "the config as it came has no result, so any is better"
  elif chosen is not None:
    trial = loop.runner.path / "longer" / "trials" / f"{chosen:04d}"
    found = compare.compare(baseline, compare.read(trial))
    comparison, (low, high) = found.as_json(), found.interval
    said = (
      f"{found.objective} {found.baseline.mean:.4g} ->"
      f" {found.candidate.mean:.4g} over {seeds} other seeds each, better by"
      f" {found.improvement:.3g} (95 %: {low:.3g} to {high:.3g})"
    )
  return Phase(
    "final",
    [said],
    data={"chosen": chosen, "means": means, "comparison": comparison},
    page="longer/report.html",
  )


# The answer.


def _answer(loop):
  final = loop.last.data
  chosen, comparison = final["chosen"], final["comparison"]
  verdict = "adopt" if comparison is None else comparison["verdict"]
  told = f"Adopt trial {chosen} of the last round"
  if chosen is None or (comparison and comparison["improvement"] <= 0):
    chosen, told = None, "Keep the config as it came"
  elif verdict != "adopt":
    told = f"Trial {chosen} of the last round may be better, or as good"
  settings, config = _handed_over(loop, chosen)
  path = loop.runner.path / "best.json"
  rundir.write_json(path, config_lib.as_json(config))
  return result_lib.ProcedureResult(
    summary=[
      f"{told}: {loop.last.summary[0]}.",
      f"{loop.spent():.3g} trials of {loop.budget} were spent.",
      f"The config is written: {path}",
    ],
    settings=settings,
    findings=[
      finding.Finding(**row | {"subject": f"{p.name}: {row['subject']}"})
      for p in loop.phases
      for row in p.findings
    ],
    tables=[
      _settings_table(config_lib.flatten(loop.given), settings),
      _phases_table(loop),
    ],
    figures=[_picture(loop, loop.given.objective)],
    details={
      "phases": [dataclasses.asdict(p) for p in loop.phases],
      "comparison": comparison,
      "spent": loop.spent(),
      "config": str(path),
    },
  )


def _handed_over(loop, chosen):
  """(what changes, the config) of a trial of the last round, or of none."""
  config = loop.given.copy_and_resolve_references()
  if chosen is None:
    return {}, config
  given, decided = (config_lib.flatten(c) for c in (config, loop.config()))
  trial = loop.runner.path / "longer" / "trials" / f"{chosen:04d}"
  run = config_lib.from_json(rundir.RunDir(trial).config())
  # How trials are looked at is no part of what was found.
  best = config_lib.flatten(run) | {key: decided[key] for key in _LOOKS}
  settings = config_lib.settled(given, best)
  for key, value in settings.items():
    config_lib.override(config, key, value)
  config_lib.validate(config)
  return settings, config


def _phases_table(loop):
  return result_lib.Table(
    "Phases",
    ["phase", "trials spent", "decided", "page"],
    [[p.name, round(p.spent, 1), p.summary[0], p.page] for p in loop.phases],
    "A trial is a run of the config's own length; shorter ones count their"
    " share.",
  )


def _settings_table(given, settings):
  return result_lib.Table(
    "What changes",
    ["key", "was", "is"],
    [[key, given[key], value] for key, value in settings.items()],
  )


def _picture(loop, objective):
  """Every trial of the studies, when it was paid for."""
  rows, at = [], 0.0
  for phase in loop.phases:
    values = phase.data.get("values", ())
    rows += [
      dict(x=at + phase.spent * i / len(values), y=value, series=phase.name)
      for i, value in enumerate(values, 1)
      if value is not None
    ]
    at += phase.spent
  comparison = loop.last.data["comparison"] or {}
  for name, side in (("as it came", "baseline"), ("chosen", "candidate")):
    if side in comparison:
      mean, std = (comparison[side][key] for key in ("mean", "deviation"))
      low = mean - std if mean > std else mean
      row = dict(x=at, y=mean, low=low, high=mean + std)
      rows.append(row | {"series": f"{name}, other seeds"})
  return result_lib.FigureData(
    "every trial, by when it was paid for",
    result_lib.Axis("budget spent, trials"),
    result_lib.Axis(objective, log=True, with_zero=True),
    points=rows,
    caption="Each trial that came to a result, when it was paid for; trials are"
    " short until the last round. At the end, the mean and standard deviation"
    " over other seeds.",
  )
