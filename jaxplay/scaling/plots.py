"""Figures of a ladder: curves, loss against compute, isoFLOPs, the law.

Unlike the figures of a study, these contain their data.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import numpy as np
from altair.utils import schemapi

import jaxplay
from jaxplay import rundir
from jaxplay.analysis import plots
from jaxplay.analysis import results as results_lib
from jaxplay.scaling import isoflops
from jaxplay.scaling import ladder as ladder_lib
from jaxplay.scaling import law as law_lib

# Number of points of a learning curve, and of a line from a formula.
_CURVE_POINTS, _LINE_POINTS = 200, 60
_INK = plots.GREY

GROUPS = {
  "training": (
    "Base runs and cooldowns",
    "Solid: training loss of the base runs, at a constant learning rate."
    " Dashed: the cooldown branches. Points: validation loss at the end of each"
    " branch, to which the law is fitted.",
  ),
  "compute": (
    "Loss and compute",
    "Left: each point against the compute of a separate run, with the envelope"
    " of the lowest losses. Right: for budgets within the range of at least"
    " three sizes, a parabola fitted to the sizes, whose minimum is the best"
    " size. It is shown (diamond) if the points determine it: between the sizes"
    " in more than 95% of the bootstrap samples.",
  ),
  "law": (
    "The law",
    "Left: L(N, D) = E + A/N^a + B/D^b with its 90% bootstrap interval, and the"
    " points. Right: the best size and number of tokens for each budget; the"
    " dotted line is the largest compute of the points.",
  ),
}


def figures(
  results: ladder_lib.LadderResults, law: law_lib.Fit | None
) -> list[plots.Figure]:
  """Returns the figures of a ladder, in the order of the report.

  Args:
    results: The ladder.
    law: The fitted law; None: the points do not determine one.
  """
  with schemapi.debug_mode(False):
    found = [_figure("loss against tokens", "training", _curves(results))]
    if results.points:
      chart = _compute(results.points)
      found.append(_figure("loss against compute", "compute", chart))
    if law is not None:
      chart = _iso_flops(law)
      if chart is not None:
        found.append(_figure("isoFLOP slices", "compute", chart))
      found.append(_figure("fitted law", "law", _law(law)))
      chart = _optimum(law)
      if chart is not None:
        found.append(_figure("best model for a budget", "law", chart))
    return found


def spec(figure: plots.Figure) -> dict[str, Any]:
  """Returns a self-contained Vega-Lite chart, for a file or a notebook."""
  return figure.chart.to_dict() | {"title": figure.title or figure.name}


def _figure(name, group, layers):
  chart = alt.layer(*layers).properties(width=plots.WIDTH, height=plots.HEIGHT)
  return plots.Figure(name, group, "own", chart)


def _curves(results):
  rows = []
  for size, base_run in results.base_runs.items():
    runs = {"constant": base_run} | {
      f"to {steps:,}": run for steps, run in results.branches[size].items()
    }
    for name, run in runs.items():
      curves = results_lib.curves(run.metrics())
      begin = (run.provenance() or {}).get("branch", {}).get("step", 0)
      tokens = results.tokens_per_step[size]
      rows += [
        {"size": size, "run": name, "tokens": step * tokens, "loss": loss}
        for step, loss in _thinned(*curves.get("train/loss", ((), ())))
        if step >= begin
      ]
  ends = [_point_row(point) for point in results.points]
  x = alt.X("tokens:Q", title="tokens", scale=alt.Scale(type="log"), axis=_SI)
  y = alt.Y("loss:Q", title="loss, nats per token", scale=_LOG)
  lines = alt.Chart(alt.InlineData(rows)).encode(
    x=x, y=y, color=_size_colour(results.base_runs), detail="run:N"
  )
  constant = lines.transform_filter("datum.run == 'constant'")
  cooled = lines.transform_filter("datum.run != 'constant'")
  return [
    constant.mark_line(strokeWidth=1.2, opacity=0.8),
    cooled.mark_line(strokeWidth=1.2, strokeDash=[4, 2]),
    alt.Chart(alt.InlineData(ends))
    .mark_point(filled=True, size=45)
    .encode(x=x, y=y, color=_size_colour(results.base_runs), tooltip=_TOOLTIP),
  ]


def _compute(points):
  x = alt.X("flops:Q", title="training FLOPs", scale=_LOG, axis=_SCIENTIFIC)
  y = alt.Y("loss:Q", title="validation loss, nats per token", scale=_LOG)
  sizes = _sizes(points)
  chart = alt.Chart(alt.InlineData([_point_row(point) for point in points]))
  best = [_point_row(point) for point in law_lib.frontier(points)]
  return [
    chart.mark_line(strokeWidth=1.4, point={"filled": True, "size": 45}).encode(
      x=x, y=y, color=_size_colour(sizes), tooltip=_TOOLTIP
    ),
    alt.Chart(alt.InlineData(best))
    .mark_line(color=_INK, strokeWidth=5, opacity=0.35)
    .encode(x=x, y=y),
  ]


def _iso_flops(law):
  try:
    found = isoflops.iso_flops(law)
  except jaxplay.UserError:  # No budget is covered by 3 sizes.
    return None
  rows, lines, minima = [], [], []
  for part in found.slices:
    budget = f"{part.flops:.2g}"
    rows += [
      {"budget": budget, "parameters": n, "loss": loss}
      for n, loss in zip(
        part.parameters.tolist(), part.losses.tolist(), strict=True
      )
    ]
    least, most = part.parameters.min(), part.parameters.max()
    along = np.geomspace(least, most, _LINE_POINTS)
    lines += [
      {"budget": budget, "parameters": float(n), "loss": float(loss)}
      for n, loss in zip(
        along, np.polyval(part.parabola, np.log(along)), strict=True
      )
    ]
    if part.optimum is not None:
      n = part.optimum.value
      loss = float(np.polyval(part.parabola, math.log(n)))
      minima.append({"budget": budget, "parameters": n, "loss": loss})
  x = alt.X("parameters:Q", title="parameters N", scale=_LOG, axis=_SI)
  y = alt.Y("loss:Q", title="validation loss, nats per token", scale=_FREE)
  order = [f"{part.flops:.2g}" for part in found.slices]
  colour = alt.Color(
    "budget:N",
    title="FLOPs",
    sort=order,
    scale=alt.Scale(domain=order, scheme="turbo"),
  )

  def data(rows):
    return alt.Chart(alt.InlineData(rows))

  return [
    data(lines).mark_line(strokeWidth=1.2).encode(x=x, y=y, color=colour),
    data(rows)
    .mark_point(filled=True, size=40)
    .encode(
      x=x, y=y, color=colour, tooltip=["budget:N", "parameters:Q", "loss:Q"]
    ),
    data(minima)
    .mark_point(shape="diamond", size=110, strokeWidth=2)
    .encode(x=x, y=y, color=colour, tooltip=["budget:N", "parameters:Q"]),
  ]


def _law(law):
  bands, sizes = [], _sizes(law.points)
  for size, points in sizes.items():
    n = points[0].parameters
    if law.count_embeddings:
      n += points[0].embedding_parameters
    tokens = np.geomspace(
      min(p.tokens for p in points), max(p.tokens for p in points), _LINE_POINTS
    )
    found = law.predict(n, tokens, extrapolate=True)
    bands += [
      {"size": size, "tokens": d, "loss": loss, "low": low, "high": high}
      for d, loss, low, high in zip(
        tokens.tolist(),
        found.loss.tolist(),
        found.low.tolist(),
        found.high.tolist(),
        strict=True,
      )
    ]
  x = alt.X("tokens:Q", title="tokens D", scale=_LOG, axis=_SI)
  y = alt.Y("loss:Q", title="validation loss, nats per token", scale=_FREE)
  colour = _size_colour(sizes)
  chart = alt.Chart(alt.InlineData(bands))
  return [
    # A legend of the band would be too pale.
    chart.mark_area(opacity=0.2).encode(
      x=x,
      y=alt.Y("low:Q", scale=_FREE),
      y2="high:Q",
      color=_size_colour(sizes, legend=None),
    ),
    chart.mark_line(strokeWidth=1.4).encode(x=x, y=y, color=colour),
    alt.Chart(alt.InlineData([_point_row(point) for point in law.points]))
    .mark_point(filled=True, size=45)
    .encode(x=x, y=y, color=colour, tooltip=_TOOLTIP),
  ]


def _optimum(law):
  flops = [point.flops for point in law.points]
  last = max(flops)
  rows = []
  for budget in np.geomspace(
    min(flops), last * law_lib.MAX_FACTOR, _LINE_POINTS
  ):
    try:
      best = law.optimal(float(budget))
    except jaxplay.UserError:  # Far outside of the points.
      continue
    for what, estimate in (
      ("parameters N", best.parameters),
      ("tokens D", best.tokens),
    ):
      row = {"flops": float(budget), "what": what} | estimate._asdict()
      rows.append(rundir.plain(row))
  if not rows:
    return None
  x = alt.X("flops:Q", title="training FLOPs", scale=_LOG, axis=_SCIENTIFIC)
  y = alt.Y("value:Q", title="parameters, tokens", scale=_LOG, axis=_SI)
  scale = alt.Scale(
    domain=["parameters N", "tokens D"], range=[plots.BLUE, plots.RED]
  )
  legend = alt.Legend(symbolOpacity=1)
  colour = alt.Color("what:N", title=None, scale=scale, legend=legend)
  chart = alt.Chart(alt.InlineData(rows))
  return [
    chart.mark_area(opacity=0.2).encode(
      x=x, y=alt.Y("low:Q", scale=_LOG), y2="high:Q", color=colour
    ),
    chart.mark_line(strokeWidth=1.6).encode(
      x=x, y=y, color=colour, tooltip=["what:N", "flops:Q", "value:Q"]
    ),
    alt.Chart(alt.InlineData([{"flops": last}]))
    .mark_rule(color=_INK, strokeDash=[2, 3])
    .encode(x=x),
  ]


_LOG = alt.Scale(type="log", nice=False, padding=8)
_FREE = alt.Scale(zero=False, nice=False, padding=8)
_SI = alt.Axis(format="~s", labelOverlap="greedy", tickCount=5)
_SCIENTIFIC = alt.Axis(format=".0e", labelOverlap="greedy", tickCount=5)
_TOOLTIP = [
  alt.Tooltip("size:N"),
  alt.Tooltip("parameters:Q", format=",.0f"),
  alt.Tooltip("tokens:Q", format=",.0f"),
  alt.Tooltip("flops:Q", format=".3g"),
  alt.Tooltip("loss:Q", format=".4f"),
]


def _point_row(point) -> Mapping[str, Any]:
  return {
    "size": point.size,
    "parameters": point.parameters,
    "tokens": point.tokens,
    "flops": point.flops,
    "loss": point.loss,
  }


def _sizes(points: Sequence[law_lib.Point]):
  """Returns size -> its points, the smallest size first."""
  sizes: dict[str, list[law_lib.Point]] = {}
  for point in sorted(points, key=lambda p: (p.parameters, p.tokens)):
    sizes.setdefault(point.size, []).append(point)
  return sizes


def _size_colour(sizes, **kwargs):
  names = list(sizes)
  few = len(names) <= len(plots.COLOURS)
  colours = (
    {"range": plots.COLOURS[: len(names)]} if few else {"scheme": "turbo"}
  )
  return alt.Color(
    "size:N",
    title="size",
    sort=names,
    scale=alt.Scale(domain=names, **colours),
    **kwargs,
  )


def _thinned(steps, values):
  """Returns at most about `_CURVE_POINTS` points (step, value) of a curve."""
  every = max(1, len(steps) // _CURVE_POINTS)
  pairs = [
    (int(step), float(value))
    for step, value in zip(steps, values, strict=True)
    if math.isfinite(value)
  ]
  return pairs[::-1][::every][::-1]  # keeps the last point
