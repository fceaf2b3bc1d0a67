"""Figures of two studies on common axes: the baseline, then the candidate."""

import altair as alt
from altair.utils import schemapi

from jaxplay.analysis import plot_rows, plots, plots_study
from jaxplay.analysis import results as results_lib

SIDES = ("baseline", "candidate")
GROUPS = {
  "hyperparameters": (
    "Hyperparameters",
    "The baseline, then the candidate, on the same axes. Dotted lines are the"
    " ends of the range; the circle is the best trial. A diamond with a bar is"
    " the mean over reruns with other seeds and its 95% interval over seeds, on"
    " these validation examples; a red triangle with a number is a value beyond"
    " the axis.",
  ),
  "search": (
    "Search",
    "The distribution of the best of n trials.",
  ),
}


def figures(
  baseline: results_lib.Results, candidate: results_lib.Results
) -> list[plots.Figure]:
  """Make pairs of figures of the hyperparameters that both studies varied.

  Args:
    baseline: A study; a run has no figures.
    candidate: Another one, with the same objective.
  """
  with schemapi.debug_mode(False):
    return _figures((baseline, candidate))


def _figures(both):
  drawn = []

  def add(name, title, group, sources, charts):
    for side, r, source, chart in zip(
      SIDES, both, sources, charts, strict=True
    ):
      drawn.append(_figure(side, r, name, title, source, chart, group))

  labels = dict.fromkeys(p.label for r in both for p in r.space.parameters)
  for label in labels:
    places = [_place(r, label) for r in both]
    if None in places:
      continue  # Varied in one of them only: the table of spaces lists it.
    parameters = [
      r.space.parameters[i] for r, i in zip(both, places, strict=True)
    ]
    if len({(p.kind, p.scale) for p in parameters}) > 1:
      continue  # No common axis.
    x_ends = None
    group = "hyperparameters"
    if parameters[0].kind != "choice":
      ends = [
        plot_rows.position(p, end)
        for p in parameters
        for end in (p.low, p.high)
      ]
      x_ends = [min(ends), max(ends)]
      sources = ["trials"] * len(both)
      y_ends = _union(both, sources)
      charts = [
        plots.axis(r, i, x_ends, y_ends)
        for r, i in zip(both, places, strict=True)
      ]
      title = f"{label}, every trial"
      add(f"axis: {label}", title, group, sources, charts)
    sources = [f"isolation:{i}" for i in places]
    y_ends = _union(both, sources)
    charts = [
      plots.isolation(r, i, x_ends, y_ends)
      for r, i in zip(both, places, strict=True)
    ]
    title = (
      f"{label}, best trial of each {plots_study.slice_name(parameters[0])}"
    )
    add(f"isolation: {label}", title, group, sources, charts)
  if all(len(r.ranked) > 1 for r in both):
    sources = ["best_of"] * len(both)
    y_ends = _union(both, sources)
    charts = [plots.best_of(r, y_ends) for r in both]
    add("best of n", "best of n trials", "search", sources, charts)
  return drawn


def _place(results, label):
  labels = [p.label for p in results.space.parameters]
  return labels.index(label) if label in labels else None


def _union(both, sources):
  """Ends of a common axis of the objective."""
  ends = [plot_rows.ends(r, s) for r, s in zip(both, sources, strict=True)]
  return [min(low for low, _ in ends), max(high for _, high in ends)]


def _figure(side, results, name, title, source, chart, group):
  """A figure that contains its rows and allows no selection."""
  chart = chart.properties(datasets={"data": plot_rows.rows(results, source)})
  chart.params = [p for p in chart.params if p.name != "brush"]
  for layer in chart.layer:
    layer.params = alt.Undefined
  return plots.Figure(
    name=f"{side}: {name}",
    group=group,
    source="own",
    chart=chart,
    title=f"{side.capitalize()}: {title}",
  )
