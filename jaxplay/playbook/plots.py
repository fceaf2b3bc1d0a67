"""Draws the figures of a procedure as Vega-Lite charts."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt
from altair.utils import schemapi

from jaxplay import formats
from jaxplay.analysis import plots
from jaxplay.playbook import result as result_lib

_INK = plots.GREY


def figures(data: Sequence[result_lib.FigureData]) -> list[plots.Figure]:
  """Returns a chart for each figure, with its data."""
  drawn = []
  with schemapi.debug_mode(False):
    for figure in data:
      chart: Any = alt.layer(*_layers(figure))
      chart = chart.properties(width=plots.WIDTH, height=plots.HEIGHT)
      drawn.append(
        plots.Figure(
          name=figure.name,
          group="figures",
          source="own",
          chart=chart,
          caption=figure.caption,
        )
      )
  return drawn


def _layers(figure):
  x = _axis(alt.X, "x:Q", figure, "x")
  y = _axis(alt.Y, "y:Q", figure, "y")
  series = list(
    dict.fromkeys(
      row["series"]
      for rows in (figure.points, figure.lines, figure.bars)
      for row in rows
    )
  )
  colour = _colour(series)
  tooltip = ["series:N", alt.Tooltip("x:Q", format=".4g")]
  tooltip.append(alt.Tooltip("y:Q", format=".4g"))
  layers = []
  if figure.bars:
    foot = {}
    if not figure.y.log:
      # From 0, and with space above for the labels of rules.
      rows = (*figure.bars, *figure.lines, *figure.points)
      top = max(row["y"] for row in rows) * (1.3 if figure.rules else 1.05)
      y.scale, foot = alt.Scale(domainMax=top), {"y2": alt.Y2Datum(0)}
    layers.append(
      _data(figure, figure.bars)
      .mark_bar(opacity=0.75)
      .encode(*(x, y, colour), x2="x2:Q", tooltip=tooltip, **foot)
    )
  if any("low" in row for row in figure.lines):
    layers.append(
      _data(figure, [row for row in figure.lines if "low" in row])
      .mark_area(opacity=0.2)
      .encode(
        x=x, y=_axis(alt.Y, "low:Q", figure, "y"), y2="high:Q", color=colour
      )
    )
  if figure.lines:
    layers.append(
      _data(figure, figure.lines)
      .mark_line(strokeWidth=1.4)
      .encode(x=x, y=y, color=colour, tooltip=tooltip)
    )
  if any("low" in row for row in figure.points):
    layers.append(
      _data(figure, [row for row in figure.points if "low" in row])
      .mark_rule(strokeWidth=1.4)
      .encode(
        x=x, y=_axis(alt.Y, "low:Q", figure, "y"), y2="high:Q", color=colour
      )
    )
  if figure.points:
    layers.append(
      _data(figure, figure.points)
      .mark_point(filled=True, size=50)
      .encode(x=x, y=y, color=colour, tooltip=tooltip)
    )
  for label, value in figure.rules.items():
    rule = alt.Chart(alt.InlineData([{"x": value, "label": label}]))
    layers += [
      rule.mark_rule(color=_INK, strokeDash=[4, 3]).encode(x=x),
      rule.mark_text(
        color=_INK, align="left", baseline="top", dx=4, fontSize=10
      ).encode(
        x=x, y=alt.value(2 + 13 * (len(layers) // 2 % 3)), text="label:N"
      ),
    ]
  for label, value in figure.levels.items():
    layers += _level(label, value, y, figure)
  return layers


def _level(label, value, y, figure):
  """Draws a dashed line, or only its value if it is far above the data."""
  ink = dict(color=_INK, fontSize=10, align="right")
  right = alt.value(plots.WIDTH - 2)
  values = [r["y"] for rows in (figure.points, figure.lines) for r in rows]
  low, high = min(values, default=value), max(values, default=value)
  if value > high + 2 * (high - low) and not figure.y.log:
    text = f"{label}: {formats.number(value)}, above"
    far = alt.Chart(alt.InlineData([{"label": text}]))
    mark = far.mark_text(baseline="top", **ink)
    return [mark.encode(x=right, y=alt.value(2), text="label:N")]
  level = alt.Chart(alt.InlineData([{"y": value, "label": label}]))
  return [
    level.mark_rule(color=_INK, strokeDash=[4, 3]).encode(y=y),
    level.mark_text(baseline="bottom", dy=-2, **ink).encode(
      x=right, y=y, text="label:N"
    ),
  ]


def _data(figure, rows):
  """Returns the rows that are finite, and above 0 on a logarithmic scale."""

  def drawable(row):
    return all(
      math.isfinite(row[name])
      and (row[name] > 0 or not axis.log or axis.with_zero)
      for name, axis in (("x", figure.x), ("y", figure.y))
    )

  return alt.Chart(alt.InlineData([dict(r) for r in rows if drawable(r)]))


def _axis(channel, field, figure, name) -> Any:
  axis = getattr(figure, name)
  options: dict[str, Any] = {"labelOverlap": "greedy", "tickCount": 6}
  scale = alt.Scale(zero=False, nice=False, padding=8)
  if axis.whole:
    options |= {"format": "d", "tickMinStep": 1}
  if axis.log:
    scale = alt.Scale(type="log", nice=False, padding=8)
  values = [r[name] for rows in (figure.points, figure.lines) for r in rows]
  positive = [value for value in values if value > 0]
  if axis.log and axis.with_zero and 0 in values and positive:
    least, most = min(positive), max(positive)
    scale = alt.Scale(type="symlog", constant=least, nice=False, padding=8)
    options["values"] = [0, *plots.log_ticks(least, most)]
  return channel(
    field,
    title=axis.title,
    scale=scale,
    axis=alt.Axis(**({"format": ".4~g"} | options)),
  )


def _colour(series):
  few = len(series) <= len(plots.COLOURS)
  colours = (
    {"range": list(plots.COLOURS[: len(series)])}
    if few
    else {"scheme": "turbo"}
  )
  return alt.Color(
    "series:N",
    title=None,
    sort=series,
    scale=alt.Scale(domain=series, **colours),
    # Layers share a legend only if it is the same in all of them.
    legend=alt.Legend(labelLimit=300) if len(series) > 1 else None,
  )
