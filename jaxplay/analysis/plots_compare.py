"""Figures of two studies on common axes: the baseline, then the candidate.

They are those of `plots`, each with its rows, and with the ends of both.
"""

import altair as alt
from altair.utils import schemapi

from jaxplay.analysis import plot_rows, plots
from jaxplay.analysis import results as results_lib

SIDES = ("baseline", "candidate")
GROUPS = {
  "hyperparameters": (
    "Hyperparameters",
    "The baseline, then the candidate, on the same axes. Dotted lines are the"
    " ends of the range that was searched; the circle is the best trial. A"
    " diamond with a bar is the mean over reruns with other seeds and its 95%"
    " interval; a red triangle and a number stand for what lies above the"
    " axis.",
  ),
  "search": (
    "Search",
    "The best of n trials, were the study n trials long.",
  ),
}


def figures(
  baseline: results_lib.Results, candidate: results_lib.Results
) -> list[plots.Figure]:
  """Pairs of figures, of all that both studies varied.

  Args:
    baseline: A study; a run has nothing to draw.
    candidate: Another one, with the same objective.
  """
  with schemapi.debug_mode(False):
    return _figures((baseline, candidate))


def _figures(both):
  found = []
  labels = dict.fromkeys(p.label for r in both for p in r.space.parameters)
  for label in labels:
    pairs = [(r, _place(r, label)) for r in both]
    if None in [place for _, place in pairs]:
      continue  # What one of them did not vary is in the table of the space.
    parameters = [r.space.parameters[i] for r, i in pairs]
    if len({(p.kind, p.scale) for p in parameters}) > 1:
      continue  # There is no common axis.
    x_ends, is_choice = None, parameters[0].kind == "choice"
    if not is_choice:
      all_ends = [
        plot_rows.position(p, end)
        for p in parameters
        for end in (p.low, p.high)
      ]
      x_ends = [min(all_ends), max(all_ends)]
      y_ends = _union([plot_rows.ends(r, "trials") for r in both])
      found += [
        _figure(
          side,
          r,
          f"axis: {label}",
          f"{label}, every trial",
          "trials",
          plots.axis(r, i, x_ends, y_ends),
        )
        for side, (r, i) in zip(SIDES, pairs, strict=True)
      ]
    sources = [f"isolation:{i}" for _, i in pairs]
    y_ends = _union(
      [plot_rows.ends(r, s) for r, s in zip(both, sources, strict=True)]
    )
    name = "value" if is_choice else "slice"
    found += [
      _figure(
        side,
        r,
        f"isolation: {label}",
        f"{label}, best trial of each {name}",
        source,
        plots.isolation(r, i, x_ends, y_ends),
      )
      for side, (r, i), source in zip(SIDES, pairs, sources, strict=True)
    ]
  if all(len(r.ranked) > 1 for r in both):
    y_ends = _union([plot_rows.ends(r, "best_of") for r in both])
    found += [
      _figure(
        side,
        r,
        "best of n",
        "best of n trials",
        "best_of",
        plots.best_of(r, y_ends),
        "search",
      )
      for side, r in zip(SIDES, both, strict=True)
    ]
  return found


def _place(results, label):
  labels = [p.label for p in results.space.parameters]
  return labels.index(label) if label in labels else None


def _union(ends):
  return [min(low for low, _ in ends), max(high for _, high in ends)]


def _figure(side, results, name, title, source, chart, group="hyperparameters"):
  """One figure with its rows in it, and nothing to be selected."""
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
