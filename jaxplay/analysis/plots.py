"""Altair charts of a study, and the colours and sizes of all charts.

A chart of a study holds no rows: it reads those of one source of `plot_rows`,
under the name "data". So the same chart serves a file (`plots_study.spec` adds
the rows) and the page of a report, which replaces the rows when the reader
selects other trials or another objective.
"""

import dataclasses
import math
from collections.abc import Sequence

import altair as alt

from jaxplay.analysis import plot_rows
from jaxplay.analysis import results as results_lib

# Okabe and Ito's palette for the colour-blind, without yellow and black, which
# are invisible on one of the two backgrounds; grey for the rest.
BLUE, RED, GREY = "#0072B2", "#D55E00", "#8a8f98"
COLOURS = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", RED)

HEIGHT, WIDTH = 230, 420

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


def _tooltip(*fields):
  return [alt.Tooltip(field) for field in fields]


def _chart():
  return alt.Chart(alt.NamedData("data"))


def _finish(layers):
  return (
    alt.layer(*layers)
    .add_params(_CHOSEN)
    .properties(width=WIDTH, height=HEIGHT)
  )


def _x_axis(parameter, field, ends=None):
  title = parameter.label
  if parameter.kind == "choice":
    order = [str(value) for value in parameter.values]
    return alt.X(
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
  return alt.X(
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
