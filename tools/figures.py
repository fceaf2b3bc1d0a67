"""Makes docs/figures.md: the playbook's nine figures, from runs of jaxplay.

    python tools/figures.py --workdir=runs/figures [--only=7a,8]

Trains the studies and plans that the figures are drawn from, reads those that
have ended, writes the figures as SVG into the folder beside the page that has
its name, and fills the places of the page that they and their numbers have.
Killed, the same command goes on.
"""

import argparse
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable

import numpy as np

import jaxplay as jp
from jaxplay import config as config_lib
from jaxplay import report
from jaxplay.analysis import plots_study
from jaxplay.analysis import trials as trials_lib
from jaxplay.playbook import plots as plots_plan
from jaxplay.playbook.stability import decide
from jaxplay.playbook.stability import figures as figures_lib
from jaxplay.scaling import plots as plots_ladder
from jaxplay.study import study as study_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "figures.md"
_EXPERIMENTS = ROOT / "experiments"
_ROUNDS = 4  # of moving a search space, at the most
_TRIALS = 100  # of the study of Figure 3, as in the playbook
_SEEDS = 5
_SEEDS_OF_PLAN = 3  # the default of `plan stability`
_TRAINS = 0.1  # most error of a run that trains, in Figure 4
_LAST = 10  # lines whose mean is the loss at the end
_RATE = "hparams.learning_rate"


@dataclasses.dataclass
class Work:
  """Studies and plans in a folder, each run once.

  Attributes:
    path: The folder.
    trials: At most so many trials of a study; None: as many as it has.
    steps: Steps of each; None: as many as they have.
  """

  path: pathlib.Path
  trials: int | None = None
  steps: int | None = None

  def study(self, name, file):
    """Results of a study of `experiments`, or of a file that a report wrote."""
    definition = str(file)
    if self.trials or self.steps:
      definition = self._shorter(file)
    return jp.run_study(definition, self.path / name).results

  def _shorter(self, file):
    study = config_lib.from_user_file(str(file), "get_study", study_lib.Study)
    steps = {} if self.steps is None else {"max_train_steps": self.steps}
    return dataclasses.replace(
      study,
      config=str(pathlib.Path(file).parent / study.config),
      num_trials=min(self.trials or study.num_trials, study.num_trials),
      overrides=study.overrides | steps,
    )

  def reruns(self, name, seeds=_SEEDS, **which):
    """Results of a study with its best trials run with other seeds."""
    path = self.path / name
    return jp.rerun_study(path, seeds=seeds, report=False, **which).results

  @functools.cached_property
  def rounds(self):
    """Studies, each of the space that the report of the last one suggests."""
    file = _EXPERIMENTS / "digits_mlp" / "study_edge.py"
    found = [self.study("edge", file)]
    while _edges(found[-1]) and len(found) < _ROUNDS:
      name = "edge" if len(found) == 1 else f"edge_{len(found)}"
      file = self.path / name / "next_study.py"
      found.append(self.study(f"edge_{len(found) + 1}", file))
    return found

  @functools.cached_property
  def sampled(self):
    """The last of the rounds, with `_TRIALS` trials and reruns of its best."""
    path = self.rounds[-1].path
    number = max(len(self.rounds[-1].trials), self.trials or _TRIALS)
    jp.extend_study(path, number)
    return self.reruns(path.name, best=True)

  @functools.cached_property
  def plans(self):
    """Results of `plan stability`, by the name of the config."""
    file = str(_EXPERIMENTS / "unstable_wrn" / "config.py")
    return {
      name: jp.plan_stability(f"{file}:{name}", self.path / name)
      for name in ("stable", "unstable")
    }


def _edges(results):
  return [row for row in _boundary(results) if row.verdict == "warn"]


def _boundary(results):
  found = jp.check(results)
  return [row for row in found if row.check == "search_space_boundary"]


# The figures: each returns {file: Vega-Lite} and what was measured.


def _boundaries(work):
  first, last = work.rounds[0], work.sampled
  figures = {
    name: _of_study(results, f"axis: {_RATE}")
    for name, results in (("1_bad", first), ("1_good", last))
  }
  rounds = len(work.rounds)
  edges = [
    "The check of the first study: " + row.advice for row in _edges(first)
  ]
  verdict = next(
    (row.verdict for row in _boundary(last) if row.subject == _RATE), "unknown"
  )
  spans = [_span(results) for results in work.rounds]
  best = [results.by_key(results.ranked[0])[_RATE] for results in (first, last)]
  return figures, " ".join(
    [
      *edges,
      f"Followed {_times(rounds - 1)}, the ranges are {', '.join(spans)}; the"
      f" verdict on the last, with {len(last.trials)} trials, is `{verdict}`."
      f" The best learning rate moved from {best[0]:.2g} to {best[1]:.2g}, the"
      f" best validation error from {_best(first):.3g} to {_best(last):.3g}.",
    ]
  )


def _span(results):
  domain = next(p for p in results.space.parameters if p.label == _RATE)
  return f"{domain.low:g} to {domain.high:g}"


def _times(number):
  return {0: "no times", 1: "once", 2: "twice"}.get(number, f"{number} times")


def _best(results):
  return results.value(results.ranked[0])


def _isolation(work):
  file = _EXPERIMENTS / "digits_mlp" / "study_decay.py"
  work.study("decay", file)
  results = work.reruns("decay", best_of_each=True)
  key = "hparams.weight_decay"
  rows = {
    results.trials[index].point[key]: results.values_of(runs)
    for index, runs in results.reruns.items()
  }
  best = min(rows, key=lambda value: rows[value].mean())
  none = rows.get(0.0)
  sentence = (
    f"With {_SEEDS} other seeds the lowest mean is that of weight decay"
    f" {best:g}: {_spread(rows[best])}"
  )
  if none is not None and best:
    sentence += f", against {_spread(none)} without weight decay"
  highest = max(rows)
  sentence += f" and {_spread(rows[highest])} with {highest:g}."
  return {"2_isolation": _of_study(results, f"isolation: {key}")}, sentence


def _spread(values):
  return f"{values.mean():.3g} +- {values.std(ddof=1):.2g}"


def _best_of(work):
  results = work.sampled
  few, many = trials_lib.best_of(trials_lib.outcomes(results), (6, 20))
  (reruns,) = results.reruns.values()
  values = results.values_of(reruns)
  boxes = [
    f"{row['q25']:.3g} to {row['q75']:.3g} for {row['n']} trials"
    for row in (few, many)
  ]
  lucky = f"{many['low']:.3g} to {many['high']:.3g}"
  return {"3_best_of": _of_study(results, "best of n")}, (
    f"Of {len(results.trials)} trials, the middle half of the studies reaches"
    f" {' and '.join(boxes)}. From a lucky to an unlucky study of 20 (5% to"
    f" 95%) it is {lucky}; the best trial with {_SEEDS} other seeds has"
    f" {_spread(values)}."
  )


def _strides(work):
  plan = work.plans["unstable"]
  # The plan has run the best of each of its fixes again, with as many seeds.
  work.reruns("stable/sweep", seeds=_SEEDS_OF_PLAN, best=True)
  paths = {"2x2": "stable/sweep", "1x1": "unstable/sweep"}
  if (work.path / "unstable" / "warmup").exists():  # One was long enough.
    paths["1x1 with warmup"] = "unstable/warmup"
  swept = {name: jp.read(work.path / path) for name, path in paths.items()}
  figure = figures_lib.sweeps(
    "strides of one residual block",
    {name: figures_lib.runs(results) for name, results in swept.items()},
    _named(plan, "best value against the learning rate").y,
  )
  sentences = []
  for name, results in swept.items():
    best = results.ranked[0]
    again = results.values_of(results.reruns[best.index])
    rates = [
      run.rate for run in figures_lib.runs(results) if run.value <= _TRAINS
    ]
    sentences.append(
      f"{name}: best error {results.value(best):.3g} at learning rate"
      f" {best.point[_RATE]:g}, {_spread(again)} with {len(again)} other seeds,"
      f" and at most {_TRAINS:g} up to {max(rates, default=np.nan):g}"
    )
  return {"4_strides": _of_plan(figure)}, "; ".join(sentences) + "."


def _every_step(work):
  plan = work.plans["unstable"]
  found = next(f for f in plan.findings if f.check == "early_instability_check")
  figure = _named(plan, "validation loss at every step")
  return {"5_every_step": _of_plan(figure)}, found.advice


def _during_warmup(work):
  folder = _EXPERIMENTS / "unstable_wrn"
  results = work.study("warmups", folder / "study_warmup.py")
  key = "hparams.warmup_steps"
  rate = results.study["overrides"][_RATE]
  runs = {
    trial.point[key]: figures_lib.run_of(trial, rate, results)
    for trial in results.trials
  }
  figure = figures_lib.losses(
    f"warmups to learning rate {rate:g}",
    {f"{length} steps": run for length, run in runs.items()},
    log=True,
  )
  errors = ", ".join(
    f"{run.value:.3g} with {length}" for length, run in runs.items()
  )
  length, run = max(runs.items())
  within = run.steps <= length
  peak = int(run.steps[within][np.nanargmax(run.loss[within])])
  return {"6_during_warmup": _of_plan(figure)}, (
    f"Best validation error: {errors} steps of warmup. Even in the longest the"
    f" loss peaks at step {peak}, where the learning rate is"
    f" {rate * peak / length:.2g}."
  )


def _rates(work):
  plan = work.plans["unstable"]
  details, kinds = plan.details, {}
  for run in figures_lib.runs(jp.read(work.path / "unstable" / "sweep")):
    kinds[run.rate] = decide.unstable(run) or "stable"
  between = [rate for rate in kinds if rate > details["best_rate"]][:2]
  above = ", ".join(f"{kinds[rate]} at {rate:g}" for rate in between)
  figure = _named(plan, "best value against the learning rate")
  return {"7a_rates": _of_plan(figure)}, (
    f"The best learning rate is {details['best_rate']:g}; above it, training is"
    f" {above}."
  )


def _losses(work):
  plan = work.plans["unstable"]
  figure = _named(plan, "training loss at and above the best learning rate")
  best, other = plan.details["best_rate"], plan.details["unstable_rate"]
  return {"7b_loss": _of_plan(figure)}, (
    f"Stable at the best learning rate, {best:g}; the lowest unstable one is"
    f" {other:g}, {other / best:.1f} times as high."
  )


def _fixed(fix, work):
  plan = work.plans["unstable"]
  rate = plan.details["unstable_rate"]
  figure = _named(plan, f"training loss with and without fixes, {_at(rate)}")
  lines = [
    row
    for row in figure.lines
    if row["series"].startswith(("without", fix))
    and " and " not in row["series"]
  ]
  figure = dataclasses.replace(
    figure, name=f"training loss at {_at(rate)}", lines=lines
  )
  ends: dict[str, list] = {}
  for row in lines:
    ends.setdefault(row["series"], []).append(row["y"])
  means = [
    f"{np.mean(losses[-_LAST:]):.2g} ({name})" for name, losses in ends.items()
  ]
  stem = {"warmup": "8_warmup", "clipping": "9_clipping"}[fix]
  return {stem: _of_plan(figure)}, (
    f"At {_at(rate)}, the mean training loss of the last {_LAST} logged lines"
    f" is {', '.join(means)}."
  )


def _at(rate):
  return f"learning rate {rate:g}"


def _named(plan, name):
  return next(figure for figure in plan.figures if figure.name == name)


def _of_plan(figure):
  return plots_ladder.spec(plots_plan.figures([figure])[0])


def _of_study(results, name):
  figures = {figure.name: figure for figure in plots_study.figures(results)}
  return plots_study.spec(figures[name], results)


FIGURES: dict[str, Callable] = {
  "1": _boundaries,
  "2": _isolation,
  "3": _best_of,
  "4": _strides,
  "5": _every_step,
  "6": _during_warmup,
  "7a": _rates,
  "7b": _losses,
  "8": functools.partial(_fixed, "warmup"),
  "9": functools.partial(_fixed, "clipping"),
}


# The page.


def filled(text: str, number: str, images: list[str], measured: str) -> str:
  """The page with the images and the numbers of a figure in their place."""
  begin, end = (
    f"<!-- figure {number}: by tools/figures.py -->\n",
    "<!-- end -->",
  )
  head, found, rest = text.partition(begin)
  if not found:
    raise SystemExit(f"the page has no place for figure {number}: {begin!r}")
  lines = [f"![Figure {number}]({image})" for image in images]
  middle = "\n".join([*lines, "", f"*Measured:* {measured}", ""])
  return head + begin + middle + end + rest.partition(end)[2]


def main():
  """Makes the figures and fills the page."""
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  add = parser.add_argument
  add("--workdir", type=pathlib.Path, default=ROOT / "runs" / "figures")
  add("--only", default=",".join(FIGURES), help="numbers, as 7a,8")
  add("--page", type=pathlib.Path, default=PAGE)
  add("--trials", type=int, help="of a study, at most: to try it")
  add("--steps", type=int, help="of a trial of a study: to try it")
  options = parser.parse_args()
  numbers = options.only.split(",")
  if unknown := [number for number in numbers if number not in FIGURES]:
    parser.error(f"--only={unknown[0]} is none of {', '.join(FIGURES)}")
  work = Work(options.workdir, options.trials, options.steps)
  for number in numbers:
    specs, measured = FIGURES[number](work)
    folder = options.page.with_suffix("")
    folder.mkdir(parents=True, exist_ok=True)
    for stem, spec in specs.items():
      # Labels of each mark for screen readers, which see none in an image.
      spec = spec | {"config": {"aria": False}}
      report.write_figure(spec, folder / f"{stem}.svg")
    images = [f"{folder.name}/{stem}.svg" for stem in specs]
    text = filled(options.page.read_text(), number, images, measured)
    options.page.write_text(text)
    print(f"figure {number}: {measured}", flush=True)
  return 0


if __name__ == "__main__":
  sys.exit(main())
