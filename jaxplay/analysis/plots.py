"""Altair charts of a study, and the colours and sizes of all charts.

A chart of a study holds no rows: it reads those of one source of `plot_rows`,
under the name "data". So the same chart serves a file (`plots_study.spec` adds
the rows) and the page of a report, which replaces the rows when the reader
selects other trials or another objective.
"""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np

from jaxplay.analysis import classes as classes_lib
from jaxplay.analysis import importance as importance_lib
from jaxplay.analysis import longer as longer_lib
from jaxplay.analysis import plot_rows
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib

# Okabe and Ito's palette for the colour-blind, without yellow and black, which
# are invisible on one of the two backgrounds; grey for the rest.
BLUE, RED, GREY = "#0072B2", "#D55E00", "#8a8f98"
COLOURS = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", RED)

HEIGHT, WIDTH = 230, 420
MOST_CLASSES = 40  # in a figure

# The reader's selection, {index: true}, is one signal that the page sets in
# every view. (A selection of Vega-Lite's own ends at its view.)
_CHOSEN = alt.param(name="chosen", value=False)
_OPACITY = alt.condition(
  "!chosen || chosen[datum.index]", alt.value(0.85), alt.value(0.1)
)
_STEPS = alt.Axis(format=",d", tickCount=6)
_SHAPE = {"infeasible": ("cross", RED), "failed": ("triangle-down", GREY)}


@dataclasses.dataclass(frozen=True)
class Figure:
  """One figure of a report.

  Attributes:
    name: Unique, such as "axis: hparams.learning_rate".
    group: Key of the group under which the page shows it.
    source: Source of its rows, see `plot_rows`; "own": the chart holds them.
    chart: The chart.
    caption: A sentence about these data, or "".
    title: Its title; empty: the name.
  """

  name: str
  group: str
  source: str
  chart: alt.LayerChart
  caption: str = ""
  title: str = ""


def axis(
  results: results_lib.Results,
  i: int,
  x_ends: Sequence[float] | None = None,
  y_ends: Sequence[float] | None = None,
) -> alt.LayerChart:
  """Objective against hyperparameter `i`, every trial (Playbook, figure 1).

  Args:
    results: The study.
    i: Place of the hyperparameter in the space.
    x_ends: Of the axis, as `position` has them; None: those of its range.
    y_ends: Of the axis; None: as `ends` says.
  """
  parameter = results.space.parameters[i]
  x = _x_axis(parameter, f"x{i}", x_ends)
  y_ends = y_ends or plot_rows.ends(results, "trials")
  y = _y_objective(results, y_ends)
  base = _chart().transform_filter(f"isValid(datum.x{i})")
  if parameter.kind == "choice":
    jitter = alt.XOffset("jitter:Q", scale=alt.Scale(domain=[-0.5, 1.5]))
    base = base.encode(xOffset=jitter)
  tooltip = _tooltip("index:O", "status:N", "objective:Q")
  points = base.transform_filter("isValid(datum.objective)")
  size = max(12, min(55, 11_000 // max(len(results.trials), 1)))
  marks = points.mark_circle(size=size)
  if results.num_adaptive:
    tooltip.insert(1, alt.Tooltip("kind:N"))
    marks = points.mark_point(size=size, filled=True)
    marks = marks.encode(shape=_kind_shape())
  layers = [
    marks.encode(
      x=x, y=y, color=_group_colour(results), opacity=_OPACITY, tooltip=tooltip
    ).add_params(alt.selection_interval(name="brush", encodings=["x", "y"])),
    points.transform_filter("datum.rank === 0")
    .mark_point(size=170, strokeWidth=1.8, color="currentColor")
    .encode(x=x, y=y, tooltip=tooltip),
  ]
  for status, (shape, colour) in _SHAPE.items():
    mark = dict(shape=shape, color=colour, size=60, filled=True)
    if shape == "cross":
      mark["angle"] = 45
    layers.append(
      base.transform_filter(f"datum.status === '{status}'")
      .mark_point(**mark)
      .encode(x=x, y=_at_worst(5), opacity=_OPACITY, tooltip=tooltip)
    )
  if parameter.kind != "choice":
    own = [plot_rows.position(parameter, end) for end in _range_of(parameter)]
    layers.append(
      alt.Chart(alt.InlineData([{"end": end} for end in own]))
      .mark_rule(strokeDash=[2, 3], opacity=0.6, color="currentColor")
      .encode(x=alt.X("end:Q"))
    )
  return _finish(layers).add_params(*_worst(results, y_ends))


def isolation(
  results: results_lib.Results,
  i: int,
  x_ends: Sequence[float] | None = None,
  y_ends: Sequence[float] | None = None,
) -> alt.LayerChart:
  """Best trial per value, or per slice, of a hyperparameter (figure 2).

  Args: As of `axis`.
  """
  parameter = results.space.parameters[i]
  y_ends = y_ends or plot_rows.ends(results, f"isolation:{i}")
  x, colour = _x_axis(parameter, "x", x_ends), _group_colour(results)
  base = _chart()
  valued = base.transform_filter("isValid(datum.objective)")
  inside = valued.transform_filter("sign * datum.objective <= sign * worst")
  beyond = valued.transform_filter("sign * datum.objective > sign * worst")
  reruns = inside.transform_filter("isValid(datum.mean)")
  tooltip = _tooltip("index:O", "objective:Q", "count:N", "luck:Q")
  layers = [
    inside.mark_circle(size=80).encode(
      x=x,
      y=_y_objective(results, y_ends),
      color=colour,
      opacity=_OPACITY,
      tooltip=tooltip,
    ),
    reruns.mark_rule(strokeWidth=1.6).encode(
      x=x,
      y=_y_objective(results, y_ends, "from"),
      y2=alt.Y2("to:Q"),
      color=colour,
      opacity=_OPACITY,
    ),
    reruns.mark_point(shape="diamond", size=70, strokeWidth=1.6).encode(
      x=x,
      y=_y_objective(results, y_ends, "mean"),
      color=colour,
      opacity=_OPACITY,
      tooltip=_tooltip("index:O", "mean:Q", "from:Q", "to:Q"),
    ),
    base.mark_text(
      dy=0, fontSize=10, color="currentColor", opacity=0.75
    ).encode(x=x, y=_at_worst(HEIGHT - 7), text=alt.Text("count:N")),
    beyond.mark_point(
      shape=alt.expr("sign > 0 ? 'triangle-up' : 'triangle-down'"),
      color=RED,
      size=45,
      filled=True,
    ).encode(x=x, y=_at_worst(5), tooltip=tooltip),
    beyond.mark_text(fontSize=9, color="currentColor", opacity=0.75).encode(
      x=x, y=_at_worst(16), text=alt.Text("objective:Q", format=".3g")
    ),
    base.transform_filter("!isValid(datum.objective) && datum.count !== '0'")
    .mark_point(shape="cross", angle=45, color=RED, size=60, filled=True)
    .encode(x=x, y=_at_worst(5)),
  ]
  if parameter.kind != "choice":
    layers.insert(
      0,
      inside.mark_rule(strokeWidth=2).encode(
        x=alt.X("low:Q"),
        x2=alt.X2("high:Q"),
        y=_y_objective(results, y_ends),
        color=colour,
        opacity=_OPACITY,
      ),
    )
  return _finish(layers).add_params(*_worst(results, y_ends))


def best_of(
  results: results_lib.Results, y_ends: Sequence[float] | None = None
) -> alt.LayerChart:
  """Box plots of the best of n trials (Playbook, figure 3).

  Args: As of `axis`.
  """
  x = alt.X("n:O", title="trials in the study", axis=alt.Axis(labelAngle=0))
  base, span = (
    _chart().encode(x=x),
    y_ends or plot_rows.ends(results, "best_of"),
  )
  tooltip = _tooltip("n:O", "low:Q", "q25:Q", "median:Q", "q75:Q", "high:Q")
  return _finish(
    [
      base.mark_rule(color=BLUE, clip=True).encode(
        y=_y_objective(results, span, "low"),
        y2=alt.Y2("high:Q"),
        tooltip=tooltip,
      ),
      base.mark_bar(size=14, color=BLUE, opacity=0.55, clip=True).encode(
        y=_y_objective(results, span, "q25"),
        y2=alt.Y2("q75:Q"),
        tooltip=tooltip,
      ),
      base.mark_tick(size=14, thickness=2.5, color="currentColor").encode(
        y=_y_objective(results, span, "median"), tooltip=tooltip
      ),
    ]
  )


def best_steps(results: results_lib.Results) -> alt.LayerChart:
  """Histogram of the steps at which trials were best, with F1's two bands."""
  last = (
    max((trial.max_train_steps for trial in results.trials), default=0) or 1
  )
  x = alt.X(
    "from:Q",
    title="step of the best value",
    axis=_STEPS,
    scale=alt.Scale(domain=[0, last], nice=False),
  )
  y = alt.Y("count():Q", title="trials", axis=alt.Axis(tickMinStep=1))
  bands = [{"a": 0, "b": last / 10}, {"a": last * 3 / 4, "b": last}]
  base = (
    _chart()
    .transform_filter("isValid(datum.at)")
    .transform_bin(
      ["from", "to"], "at", alt.Bin(extent=[0, last], step=last / 20)
    )
  )
  bars = dict(color=BLUE, binSpacing=1)
  return _finish(
    [
      alt.Chart(alt.InlineData(bands))
      .mark_rect(color=COLOURS[1], opacity=0.14)
      .encode(x=alt.X("a:Q"), x2=alt.X2("b:Q")),
      base.mark_bar(**bars, opacity=0.3).encode(
        x=x,
        x2=alt.X2("to:Q"),
        y=y,
        tooltip=_tooltip("from:Q", "to:Q", "count():Q"),
      ),
      base.transform_filter("!chosen || chosen[datum.index]")
      .mark_bar(**bars)
      .encode(
        x=x,
        x2=alt.X2("to:Q"),
        y=y,
        tooltip=_tooltip("from:Q", "to:Q", "count():Q"),
      ),
    ]
  )


def curves(results: results_lib.Results, name: str) -> alt.LayerChart:
  """A family of metrics against the step, a line per trial and split."""
  splits = {
    plot_rows.split(m) for m in results.metrics if plot_rows.family(m) == name
  }
  dashes = alt.Scale(
    domain=["valid", "test", "train", ""],
    range=[[], [2, 2], [5, 3] if len(splits) > 1 else [], []],
  )
  # Cross-entropies, whose tasks have an error rate.
  in_nats = name == "loss" and "error_rate" in plot_rows.families(results)
  lines = (
    _chart()
    # Invisible points, for the tooltip.
    .mark_line(strokeWidth=1.6, point={"opacity": 0, "size": 60})
    .encode(
      x=alt.X("step:Q", title="step", axis=_STEPS),
      y=alt.Y(
        "value:Q",
        title=f"{name}, nats" if in_nats else name,
        scale=alt.Scale(zero=False, nice=False, padding=6),
      ),
      color=_trial_colour(),
      strokeDash=alt.StrokeDash("split:N", scale=dashes, legend=None),
      detail=alt.Detail("index:N"),
      tooltip=_tooltip("index:O", "split:N", "step:Q", "value:Q"),
    )
  )
  return _finish([lines])


# "A rough heuristic is that this ratio should be somewhere around 1e-3"
# (Stanford CS231n, notes on neural networks, part 3: weights:updates ratio).
_USUAL_RATIO = 1e-3


def layers(name: str) -> alt.LayerChart:
  """A diagnostic of a run against the step, a line per layer.

  Args:
    name: One of `config.DIAGNOSTICS`.
  """
  scale = alt.Scale(type="log", nice=False, padding=6)
  lines = (
    _chart()
    .transform_filter("datum.value > 0")
    .mark_line(strokeWidth=1.2, point={"opacity": 0, "size": 60})
    .encode(
      x=alt.X("step:Q", title="step", axis=_STEPS),
      y=alt.Y("value:Q", title=name, scale=scale),
      color=alt.Color(
        "split:N",
        title=None,
        sort=None,
        scale=alt.Scale(scheme="turbo"),
        legend=alt.Legend(labelLimit=200, symbolLimit=0, columns=1),
      ),
      tooltip=_tooltip("split:N", "step:Q", "value:Q"),
    )
  )
  if name != "update_ratio":
    return _finish([lines])
  usual = alt.Chart(alt.InlineData([{"value": _USUAL_RATIO}]))
  rule = usual.mark_rule(color=GREY, strokeDash=[4, 3]).encode(
    y=alt.Y("value:Q", scale=scale)
  )
  return _finish([lines, rule])


def gradient_norm_histogram() -> alt.LayerChart:
  """How often which gradient norm was logged, and its 90th percentile."""
  x = alt.X("from:Q", title="grad_norm", scale=alt.Scale(type="log"))
  base = _chart().transform_filter("datum.value > 0")
  return _finish(
    [
      base.transform_calculate(log="log(datum.value) / LN10")
      .transform_bin(["a", "b"], "log", alt.Bin(step=0.1))
      .transform_calculate(
        **{"from": "pow(10, datum.a)", "to": "pow(10, datum.b)"}
      )
      .mark_bar(binSpacing=1, color=BLUE, opacity=0.8)
      .encode(
        x=x, x2=alt.X2("to:Q"), y=alt.Y("count():Q", title="logged steps")
      ),
      base.transform_quantile("value", probs=[0.9], as_=["share", "from"])
      .mark_rule(color=RED, strokeWidth=2, strokeDash=[5, 3])
      .encode(x=x, tooltip=alt.Tooltip("from:Q", title="90th percentile")),
    ]
  )


def longer(
  results: results_lib.Results, twice: longer_lib.Longer
) -> alt.LayerChart:
  """The best trial, as fitted, and twice its steps; it holds its rows."""
  steps, values = results.ranked[0].curves[results.objective]
  value = results.metric.value
  # Not the first fall, which the law leaves out and which is the tallest.
  since = longer_lib.SINCE * twice.steps
  curves = {
    "evaluated": (steps, values),
    "fitted": (twice.curve[0], value(twice.curve[1])),
    "expected of twice the steps": (
      twice.curve_of_twice[0],
      value(twice.curve_of_twice[1]),
    ),
  }
  rows = [
    {"curve": name, "step": int(step), "value": float(v)}
    for name, (steps, values) in curves.items()
    for step, v in zip(steps, values, strict=True)
    if step > since and math.isfinite(v)
  ]
  names = list(curves)
  colour = alt.Color(
    "curve:N",
    title=None,
    scale=alt.Scale(domain=names, range=[GREY, BLUE, RED]),
    legend=alt.Legend(orient="top"),
  )
  base = alt.Chart(alt.InlineData(rows)).encode(
    x=alt.X("step:Q", axis=_STEPS),
    y=alt.Y("value:Q", title=results.objective, scale=alt.Scale(zero=False)),
    color=colour,
    tooltip=_tooltip("curve:N", "step:Q", "value:Q"),
  )
  is_evaluated = f"datum.curve === '{names[0]}'"
  layers = [
    base.transform_filter(is_evaluated).mark_circle(size=22),
    base.transform_filter(f"!({is_evaluated})").mark_line(strokeWidth=1.8),
  ]
  return _finish(layers)


def importance(row: importance_lib.Importances) -> alt.LayerChart:
  """Bars of the shares of a group, with intervals; it holds its rows."""
  pairs = sorted(row.pairs, key=lambda p: -row.pairs[p].estimate)
  # Pairs that interact, else the one that is drawn beside.
  pairs = [p for p in pairs if p in row.interact] or pairs[:1]
  rows: list[dict[str, Any]] = [
    {
      "name": label,
      "kind": _IMPORTANCE[label in row.matter, label in row.idle],
      "alone": row.alone[label].estimate,
    }
    | share._asdict()
    for label, share in sorted(
      row.shares.items(), key=lambda item: -item[1].estimate
    )
  ]
  rows += [
    {
      "name": " × ".join(label.removeprefix("hparams.") for label in pair),
      "kind": _IMPORTANCE[pair in row.interact, False],
      "alone": None,
    }
    | row.pairs[pair]._asdict()
    for pair in pairs
  ]
  y = alt.Y(
    "name:N",
    sort=[bar["name"] for bar in rows],
    title=None,
    axis=alt.Axis(labelLimit=210),
  )
  kinds = [kind for kind in _KIND_COLOUR if kind in {r["kind"] for r in rows}]
  colour = alt.Color(
    "kind:N",
    title=None,
    scale=alt.Scale(domain=kinds, range=[_KIND_COLOUR[kind] for kind in kinds]),
    legend=alt.Legend(orient="top", symbolOpacity=1),
  )
  tooltip = _tooltip("name:N", "estimate:Q", "low:Q", "high:Q", "alone:Q")
  base = alt.Chart(alt.InlineData(rows)).encode(y=y, tooltip=tooltip)
  x = alt.X(
    "estimate:Q",
    title="share of what the hyperparameters explain",
    axis=alt.Axis(format=".0%"),
    scale=alt.Scale(domain=[0, 1]),
  )
  small = alt.InlineData([{"small": importance_lib.SMALL}])
  layers = [
    base.mark_bar(opacity=0.35).encode(x=x, color=colour),
    base.mark_bar(opacity=0.9).encode(x=alt.X("alone:Q"), color=colour),
    base.mark_rule(color="currentColor", strokeWidth=1.6).encode(
      x=alt.X("low:Q"), x2=alt.X2("high:Q")
    ),
    alt.Chart(small)
    .mark_rule(strokeDash=[2, 3], opacity=0.6, color="currentColor")
    .encode(x=alt.X("small:Q")),
  ]
  return _finish(layers).properties(height=max(HEIGHT, 24 * len(rows)))


_KIND_COLOUR = {"matters": BLUE, "undecided": COLOURS[1], "can be fixed": GREY}
# (matters, is idle) -> kind
_IMPORTANCE = {
  (True, False): "matters",
  (False, False): "undecided",
  (False, True): "can be fixed",
}


def interaction(
  results: results_lib.Results, row: importance_lib.Importances
) -> alt.LayerChart:
  """What is expected over two hyperparameters, and the group's trials."""
  assert row.map is not None
  by_label = {p.label: p for p in results.space.parameters}
  both = [by_label[label] for label in row.map.pair]
  sides = [
    _intervals(parameter, values)
    for parameter, values in zip(both, row.map.values, strict=True)
  ]
  tiles = [
    {"x": x, "x2": x2, "y": y, "y2": y2, "objective": float(f"{value:.5g}")}
    for (x, x2), values in zip(sides[0], row.map.objective, strict=True)
    for (y, y2), value in zip(sides[1], values, strict=True)
  ]
  sample = results.space_filling
  members = trials_lib.groups(sample, slices=False).get(row.group)
  places = range(len(sample.trials)) if members is None else members.tolist()
  points = [
    {
      "index": trial.index,
      "status": trial.status,
      "objective": value if math.isfinite(value) else None,
    }
    | {
      axis: plot_rows.position(parameter, trial.point[parameter.label])
      for axis, parameter in zip("xy", both, strict=True)
    }
    for trial, value in (
      (sample.trials[i], float(sample.values[i])) for i in places
    )
    if {p.label for p in both} <= trial.point.keys()
  ]
  x, y = (
    _axis_of(parameter, axis, _ends(side), channel)
    for parameter, axis, side, channel in zip(
      both, "xy", sides, (alt.X, alt.Y), strict=True
    )
  )
  drawn = [tile["objective"] for tile in tiles]
  kind: Any = plot_rows.scale(drawn, results.metric.maximized)
  colour = alt.Color(
    "objective:Q",
    title=objective_title(results.objective, results.select),
    scale=alt.Scale(
      scheme="viridis",
      type=kind,
      domain=plot_rows.domain(drawn),
      reverse=not results.metric.maximized,
      clamp=True,
    ),
    legend=alt.Legend(orient="right", format=".3~g"),
  )
  field = alt.Chart(alt.InlineData(tiles)).mark_rect(opacity=0.85)
  field = field.encode(x=x, y=y, color=colour)
  for name, parameter, channel in (
    ("x2", both[0], alt.X2),
    ("y2", both[1], alt.Y2),
  ):
    if parameter.kind != "choice":
      field = field.encode(**{name: channel(f"{name}:Q")})
  trials = alt.Chart(alt.InlineData(points)).encode(
    x=x, y=y, tooltip=_tooltip("index:O", "status:N", "objective:Q")
  )
  shape, red = _SHAPE["infeasible"]
  layers = [
    field,
    trials.transform_filter("isValid(datum.objective)")
    .mark_circle(size=45, opacity=1, stroke="white", strokeWidth=0.8)
    .encode(color=colour),
    trials.transform_filter("datum.status === 'infeasible'").mark_point(
      shape=shape, angle=45, color=red, size=50, filled=True
    ),
  ]
  return _finish(layers)


def _intervals(parameter, values):
  """Ends of the tile of each value of a map, as positions; of choices names."""
  if parameter.kind == "choice":
    return [(str(value), None) for value in values]
  if len(values) < importance_lib.GRID and parameter.kind == "int":
    ends = [values[0] - 0.5, *(value + 0.5 for value in values)]
    return list(itertools.pairwise(ends))
  units = np.linspace(0, 1, len(values) + 1)
  ends = [
    float(f"{plot_rows.position(parameter, value):.6g}")
    for value in parameter.from_units(units)
  ]
  return list(itertools.pairwise(ends))


def _ends(intervals):
  first, last = intervals[0][0], intervals[-1][1]
  return None if last is None else (first, last)


def _tooltip(*fields):
  return [alt.Tooltip(field) for field in fields]


def classes(of_trial: classes_lib.Classes) -> alt.LayerChart:
  """Error rate of each class with its 95% interval, the rarest first."""
  order = np.argsort(of_trial.count, kind="stable")[:MOST_CLASSES]
  intervals, errors = of_trial.intervals(), of_trial.errors
  rows = [
    {
      "class": of_trial.names[i],
      "examples": int(of_trial.count[i]),
      "error_rate": float(errors[i]) if of_trial.count[i] else None,
      "from": float(intervals[i, 0]),
      "to": float(intervals[i, 1]),
    }
    for i in order
  ]
  x = alt.X("class:N", sort=[row["class"] for row in rows], title="class")
  tooltip = ["class:N", "examples:Q", alt.Tooltip("error_rate:Q", format=".4g")]
  base = alt.Chart(alt.InlineData(rows))
  mean = 1 - of_trial.correct.sum() / of_trial.count.sum()
  layers = [
    base.mark_rule(strokeWidth=1.6, color=GREY).encode(
      x=x, y=alt.Y("from:Q", title="valid/error_rate"), y2="to:Q"
    ),
    base.mark_circle(size=70, color=BLUE).encode(
      x=x, y="error_rate:Q", tooltip=tooltip
    ),
    alt.Chart(alt.InlineData([{"mean": float(mean)}]))
    .mark_rule(strokeDash=[4, 3], color=RED)
    .encode(y="mean:Q"),
  ]
  chart: Any = alt.layer(*layers)
  return chart.properties(width=WIDTH, height=HEIGHT)


def _chart():
  return alt.Chart(alt.NamedData("data"))


def _finish(layers):
  return (
    alt.layer(*layers)
    .add_params(_CHOSEN)
    .properties(width=WIDTH, height=HEIGHT)
  )


def _x_axis(parameter, field, ends=None):
  return _axis_of(parameter, field, ends, alt.X)


def _axis_of(parameter, field, ends, channel):
  title = parameter.label
  if parameter.kind == "choice":
    order = [str(value) for value in parameter.values]
    return channel(
      f"{field}:N",
      title=title,
      sort=order,
      scale=alt.Scale(domain=order),
      axis=alt.Axis(labelAngle=0, labelLimit=90),
    )
  ends = sorted(
    ends or (plot_rows.position(parameter, end) for end in _range_of(parameter))
  )
  kind = "linear" if parameter.scale == "linear" else "log"
  options = {"zero": False} if kind == "linear" else {}
  axis_options = {"labelOverlap": "greedy", "labelSeparation": 4}
  if kind == "log":
    axis_options["values"] = log_ticks(*ends)
  if parameter.scale == "log_one_minus":
    options["reverse"] = True
    axis_options["labelExpr"] = "format(1 - datum.value, '.8~f')"
  elif parameter.kind == "int":
    axis_options |= {"tickMinStep": 1, "format": "~d"}
  elif kind == "log":
    axis_options["labelExpr"] = (
      "format(datum.value, abs(log(datum.value)) < 7 ? '~g' : '~e')"
    )
  return channel(
    f"{field}:Q",
    title=title,
    axis=alt.Axis(**axis_options),
    scale=alt.Scale(type=kind, domain=ends, nice=False, padding=10, **options),
  )


def _range_of(parameter):
  return parameter.low, parameter.high


def log_ticks(low: float, high: float) -> list[float]:
  """1, 10, 100; over fewer than four decades 1, 2, 5, 10."""
  digits = (1,) if high >= 1e4 * low else (1, 2, 5)
  first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
  ticks = [
    float(f"{digit}e{exponent}")
    for exponent in range(first, last + 1)
    for digit in digits
  ]
  return [
    tick for tick in ticks if low <= tick * 1.001 and tick <= high * 1.001
  ]


def _y_objective(results, ends, field="objective"):
  return alt.Y(
    f"{field}:Q",
    title=objective_title(results.objective, results.select),
    scale=alt.Scale(
      type=plot_rows.scale(ends, results.metric.maximized),
      domain=list(ends),
      nice=False,
      padding=20,
    ),
  )


def _worst(results, ends):
  """What marks the worst end of the axis; the page sets both as it draws.

  `sign` is 1 if less is better, and the worst end at the top, else -1; `worst`
  is the value there.
  """
  return (
    alt.param(name="sign", value=results.metric.either(1, -1)),
    alt.param(name="worst", value=results.metric.either(*reversed(ends))),
  )


def _at_worst(pixels):
  """A vertical position, by its distance from the worst end of the axis."""
  return {"value": alt.expr(f"sign > 0 ? {pixels} : {HEIGHT - pixels}")}


def objective_title(metric: str, select: str) -> str:
  """The title of an axis of the objective."""
  return f"{metric} ({select})"


def _group_colour(results):
  chosen = plot_rows.grouping(results)
  if chosen is None:
    return alt.value(BLUE)
  values = [str(value) for value in chosen.values]
  return alt.Color(
    "group:N",
    title=None,
    scale=alt.Scale(domain=values, range=list(COLOURS[: len(values)])),
    legend=alt.Legend(orient="top", symbolOpacity=1),
  )


def _kind_shape():
  return alt.Shape(
    "kind:N",
    title=None,
    scale=alt.Scale(domain=list(plot_rows.KINDS), range=["circle", "diamond"]),
    legend=alt.Legend(
      orient="top",
      symbolOpacity=1,
      symbolFillColor="currentColor",
      symbolStrokeWidth=0,
    ),
  )


def _trial_colour():
  return alt.Color(
    "trial:N",
    title="trial",
    sort=None,
    scale=alt.Scale(range=[*COLOURS, GREY]),
    legend=alt.Legend(orient="top", symbolType="stroke"),
  )
