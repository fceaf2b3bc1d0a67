"""The figures of a study: which there are, with titles and captions."""

from typing import Any

import altair
from altair.utils import schemapi

from jaxplay import rundir
from jaxplay.analysis import classes as classes_lib
from jaxplay.analysis import importance, plot_rows, plots, summary
from jaxplay.analysis import longer as longer_lib
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.study import space as space_lib

# Least advantage of the fullest slice that a caption states, in deviations.
_UNEQUAL = 0.3

GROUPS = {
  "hyperparameters": (
    "Hyperparameters",
    "Left, every trial: good trials close to a dotted end of the range suggest"
    " extending it; a red cross is a trial that diverged, a grey triangle one"
    " that crashed, both without a value. Right, the best trial of each slice,"
    " all other hyperparameters optimized, with the number of trials in the"
    " slice. A diamond with a bar is the mean of its reruns with other seeds"
    " and its 95% interval over seeds, on these validation examples; a red"
    " triangle with a number is a slice whose best value lies beyond the axis.",
  ),
  "importance": (
    "Importance and interaction",
    "Left, the importance of each hyperparameter: its share, with its"
    " interactions, in the explained variance of the ranks of the trials. The"
    " dark part is without interactions; the line is a 99% interval. A"
    " hyperparameter whose share is surely below the dotted line (5%) can be"
    " fixed. Right, the expected objective over the two hyperparameters that"
    " interact most, averaged over the others. Points are trials, red crosses"
    " diverged trials. If the best value of either hyperparameter depends on"
    " the other, tune both together.",
  ),
  "curves": (
    "Training curves",
    "The best few trials first. Solid: validation; dashed: training.",
  ),
  "search": (
    "Search and length",
    "Left, the distribution of the best of n trials: if it still improves at"
    " the right end, more trials would help. Right, the step at which each"
    " trial was best: if all are in the first shaded tenth, training is too"
    " long; if most are in the last shaded quarter, it is too short.",
  ),
  "optimization": (
    "Gradients and learning rates",
    "Global norm of the gradient before clipping: spikes indicate instability;"
    " the 90th percentile is a good threshold for clipping.",
  ),
  "classes": (
    "Classes",
    "Error rate on the validation examples of each class (with several labels"
    " per example: on the examples that have the label), with its 95% interval"
    " (Wilson's score). The dashed line is the error rate on all examples.",
  ),
}


# Of a single run: title and caption.
_DIAGNOSTICS = {
  "update_ratio": (
    "Norm of each layer's update over that of its weights",
    "Dashed: 1e-3, the rule of thumb of Stanford's CS231n; much higher ratios"
    " suggest a lower learning rate, much lower ones a higher.",
  ),
  "gradient_norm": ("Gradient norm of each layer, before clipping", ""),
  "weight_norm": ("Norm of each layer's weights", ""),
}


def figures(results: results_lib.Results) -> list[plots.Figure]:
  """Make every figure that has data, in the order of the page."""
  # Altair would validate each part whenever a larger one is made, which takes
  # seconds; `spec` validates the whole.
  with schemapi.debug_mode(False):
    return _figures(results)


def _figures(results):
  drawn = []

  def add(name, group, source, chart, caption="", title=""):
    drawn.append(plots.Figure(name, group, source, chart, caption, title))

  parameters = results.space.parameters
  num = len(results.trials)
  fair = ""
  if results.num_adaptive:
    fair = f"Without the {results.num_adaptive} adaptive trials."
  scientific_first = sorted(
    range(len(parameters)), key=lambda i: parameters[i].role != "scientific"
  )
  for i in scientific_first:
    label = parameters[i].label
    exists = sum(label in trial.point for trial in results.trials)
    caption = f"Exists in {exists} of {num} trials." if exists < num else ""
    chart, title = plots.axis(results, i), f"{label}: every trial"
    add(f"axis: {label}", "hyperparameters", "trials", chart, caption, title)
    chart = plots.isolation(results, i)
    title = f"{label}: best trial of each {slice_name(parameters[i])}"
    name, source = f"isolation: {label}", f"isolation:{i}"
    unequal = _unequal(results, parameters[i])
    caption = " ".join(part for part in (fair, unequal) if part)
    add(name, "hyperparameters", source, chart, caption, title)
  for row in importance.importances(results):
    of, group = row.group or results.objective, "importance"
    advice = " ".join(summary.of_importances(row))
    chart, title = plots.importance(row), f"{of}: what matters"
    add(f"importance: {of}", group, "own", chart, advice, title)
    if row.map:
      chart = plots.interaction(results, row)
      title = f"{of}: {' and '.join(row.map.pair)}"
      add(f"interaction: {of}", group, "own", chart, "", title)
  logged = plot_rows.families(results)
  own = plot_rows.family(results.objective)
  for name in dict.fromkeys([own, "loss", "error_rate"]):
    if name in logged:
      chart, title = plots.curves(results, name), f"{name} during training"
      add(f"curves: {name}", "curves", f"curves:{name}", chart, title=title)
  if num > 1:
    title = "Best of n trials, by bootstrap"
    add("best of n", "search", "best_of", plots.best_of(results), fair, title)
    chart, title = (
      plots.best_steps(results),
      "Step at which each trial was best",
    )
    add("best step", "search", "trials", chart, title=title)
  twice = longer_lib.longer(results)
  if not isinstance(twice, str):
    low, high = twice.interval
    caption = (
      f"Expected gain {twice.gain:.1%} (95% interval {low:.1%} to {high:.1%}),"
      " by a law of the loss under schedules that predicts each of"
      f" {twice.num_schedules} schedules within {twice.held_out:.1%} when it is"
      " held out."
    )
    chart, title = plots.longer(results, twice), "Twice the steps"
    add("twice the steps", "search", "own", chart, caption, title)
  group = "optimization"
  if "grad_norm" in logged:
    source, chart = "curves:grad_norm", plots.curves(results, "grad_norm")
    title = "Gradient norm during training"
    add("gradient norm", group, source, chart, title=title)
    chart = plots.gradient_norm_histogram()
    title = "Histogram of gradient norms; dashed: 90th percentile"
    add("gradient norm: histogram", group, source, chart, title=title)
  if "learning_rate" in logged:
    chart = plots.curves(results, "learning_rate")
    title = "Learning rate during training"
    add("learning rate", group, "curves:learning_rate", chart, title=title)
  for name, (title, caption) in _DIAGNOSTICS.items():
    if num == 1 and any(
      plot_rows.is_of_layer(metric) and plot_rows.family(metric) == name
      for metric in results.metrics
    ):
      source, chart = f"curves:{name}", plots.layers(name)
      add(f"layers: {name}", group, source, chart, caption, title)
  if shown := _classes(results):
    trial, of_trial = shown
    num, rarest = len(of_trial.count), plots.MOST_CLASSES
    which = (
      f"the {rarest} rarest of {num} classes" if num > rarest else "all classes"
    )
    of = f"The best trial, {trial.index}," if trial.index >= 0 else "The run"
    caption = f"{of} at step {of_trial.step}: {which}, the rarest first."
    chart, title = plots.classes(of_trial), "Error rate of each class"
    add("classes", "classes", "own", chart, caption, title)
  return drawn


def _classes(results):
  """(best trial, its counts of classes), or None."""
  if not results.ranked:
    return None
  best = results.ranked[0]
  try:
    if not classes_lib.has_classes(best):
      return None
    found = classes_lib.read(best, results.objective, results.select)
  except rundir.Damaged:  # A finding reports it.
    return None
  return None if found is None else (best, found)


def _unequal(results, parameter):
  """How unequal numbers of trials favour some slices, or "" if they do not."""
  rows = [
    row
    for row in trials_lib.isolation(results, parameter.label)
    if row["trial"] is not None
  ]
  if not rows:
    return ""
  few, many = (f(rows, key=lambda row: row["luck"]) for f in (min, max))
  advantage = many["luck"] - few["luck"]
  if advantage < _UNEQUAL:
    return ""
  noise = trials_lib.noise(results)
  amount = ""
  if not noise.is_assumed:
    amount = f", here {advantage * noise.deviation:.2g}"
  numbers = [row["count"] - row["infeasible"] for row in (many, few)]
  return (
    f"By luck alone the best of {numbers[0]} trials is {advantage:.2f} standard"
    f" deviations of the noise{amount} better than the best of {numbers[1]}:"
    " slices with more trials have more chances."
  )


def slice_name(parameter: space_lib.Parameter) -> str:
  """What an isolation plot has a point for."""
  return "value" if parameter.kind == "choice" else "slice"


def charts(results: results_lib.Results) -> dict[str, Any]:
  """Draw the figures of a study with their rows: title -> altair.Chart."""
  return {
    figure.title or figure.name: altair.Chart.from_dict(spec(figure, results))
    for figure in figures(results)
  }


def spec(figure: plots.Figure, results: results_lib.Results) -> dict[str, Any]:
  """A figure with its rows as Vega-Lite, for a file or a notebook."""
  if figure.source == "own":
    return figure.chart.to_dict() | {"title": figure.title or figure.name}
  vega = {"datasets": {}} | figure.chart.to_dict()
  data = plot_rows.rows(results, figure.source)
  if figure.source.startswith("curves:"):
    name = figure.source.removeprefix("curves:")
    maximized = name in plot_rows.maximized(results)
    kind = plot_rows.scale([row["value"] for row in data], maximized)
    for layer in vega["layer"]:
      y = layer["encoding"].get("y", {})
      if y.get("field") == "value":
        y["scale"]["type"] = kind
        if kind == "log":
          y["scale"].pop("zero", None)
  vega["datasets"]["data"] = data
  return vega | {"title": figure.title or figure.name}
