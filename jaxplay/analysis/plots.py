"""Figures of a study: what each shows as rows, and how it is drawn by Altair.

A chart here holds no data: it reads the rows of one source, under the name
"data". So one chart serves a file (`spec` adds the rows) and the page of a
report, which fills it again whenever the reader picks other trials or another
objective. Sources are named by a short text:

    "trials"         a row per trial
    "best_of"        best of n trials, by bootstrap
    "isolation:2"    best trial in each slice of hyperparameter 2 of the space
    "curves:loss"    logged points of the metrics that end in "/loss"

Fields are called x2, not by hyperparameter: a label such as
"hparams.beta1 [optimizer=adam]" would be read as a path in an expression.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import altair as alt
import numpy as np
from altair.utils import schemapi

from jaxplay.analysis import results as results_lib
from jaxplay.analysis import trials as trials_lib
from jaxplay.study import space as space_lib

# Okabe and Ito's colours, which the colour-blind tell apart, without yellow
# and black, which one of the two backgrounds swallows; grey for the rest.
BLUE, RED, GREY = "#0072B2", "#D55E00", "#8a8f98"
COLOURS = (BLUE, "#E69F00", "#009E73", "#CC79A7", "#56B4E9", RED)
OTHERS = "others"

# Trials whose curves are drawn before anybody asks for others.
BEST_FEW = 5
HEIGHT, WIDTH = 230, 420

# The reader's selection, {index: true}, is one signal that the page sets in
# every view. (A selection of Vega-Lite's own ends at its view.)
_CHOSEN = alt.param(name="chosen", value=False)
_OPACITY = alt.condition(
  "!chosen || chosen[datum.index]", alt.value(0.85), alt.value(0.1)
)
_STEPS = alt.Axis(format=",d", tickCount=6)
# Of trials: known in advance, or suggested by the results of others.
KINDS = ("planned", "adaptive")
_SHAPE = {"infeasible": ("cross", RED), "failed": ("triangle-down", GREY)}


@dataclasses.dataclass(frozen=True)
class Figure:
  """One figure of a report.

  Attributes:
    name: Unique, such as "axis: hparams.learning_rate".
    group: Key of `GROUPS`, under which the page shows it.
    source: Where its rows come from; see above.
    chart: It, without data.
    caption: A sentence about these data, or "".
    title: What is drawn, in words; empty: the name.
  """

  name: str
  group: str
  source: str
  chart: alt.LayerChart
  caption: str = ""
  title: str = ""


GROUPS = {
  "hyperparameters": (
    "Hyperparameters",
    "Left, every trial: good points close to a dotted end of the search space"
    " say that the space should reach further; a red cross is a trial that"
    " diverged, a grey triangle one that crashed, both without a value. Right,"
    " the best trial of each slice, everything else optimized away, and how"
    " many trials the slice had to find it. A diamond with a bar is the mean of"
    " its reruns with other seeds and its 95% interval; a red triangle and a"
    " number stand for a slice whose best lies above the axis.",
  ),
  "curves": (
    "Training curves",
    "The best few trials first. Solid: validation; dashed: training.",
  ),
  "search": (
    "Search and length",
    "Left, the best of n trials, were the study n trials long: a curve that"
    " still falls at its right end asks for more trials. Right, at which step"
    " each trial was best: all in the first shaded tenth, and training is too"
    " long; most in the last shaded quarter, and it is too short.",
  ),
  "optimization": (
    "Gradients and learning rates",
    "Norm of the whole gradient before clipping: spikes are instability, and"
    " the 90th percentile is where clipping would begin.",
  ),
}


def figures(results: results_lib.Results) -> list[Figure]:
  """Every figure that these results can fill, in the order of a page."""
  # Altair looks at each part again whenever a larger one is made, for seconds
  # in all; `spec` checks the whole.
  with schemapi.debug_mode(False):
    return _figures(results)


def _figures(results):
  found = []
  parameters = results.space.parameters
  roles = [p.role for p in parameters]
  for i in sorted(range(len(roles)), key=lambda i: roles[i] != "scientific"):
    label = parameters[i].label
    exists = sum(label in trial.point for trial in results.trials)
    caption = ""
    if exists < len(results.trials):
      caption = f"Exists in {exists} of {len(results.trials)} trials."
    group, fair = "hyperparameters", _without_adaptive(results)
    found += [
      Figure(
        f"axis: {label}",
        group,
        "trials",
        axis(results, i),
        caption,
        f"{label}: every trial",
      ),
      Figure(
        f"isolation: {label}",
        group,
        f"isolation:{i}",
        isolation(results, i),
        fair,
        f"{label}: best trial of each {_slice_name(parameters[i])}",
      ),
    ]
  here = families(results)
  shown = dict.fromkeys([family(results.objective), "loss", "error_rate"])
  for name in shown:
    if name in here:
      source = f"curves:{name}"
      found.append(
        Figure(
          f"curves: {name}",
          "curves",
          source,
          curves(results, name),
          title=f"{name} during training",
        )
      )
  if len(results.trials) > 1:
    found += [
      Figure(
        "best of n",
        "search",
        "best_of",
        best_of(results),
        _without_adaptive(results),
        "Best of n trials, by bootstrap",
      ),
      Figure(
        "best step",
        "search",
        "trials",
        best_steps(results),
        title="Step at which each trial was best",
      ),
    ]
  group, source = "optimization", "curves:grad_norm"
  if "grad_norm" in here:
    line, bars = curves(results, "grad_norm"), gradient_norm_histogram()
    found += [
      Figure(
        "gradient norm",
        group,
        source,
        line,
        title="Gradient norm during training",
      ),
      Figure(
        "gradient norm: histogram",
        group,
        source,
        bars,
        title="How often each gradient norm was logged; dashed: 90%",
      ),
    ]
  source = "curves:learning_rate"
  if "learning_rate" in here:
    line = curves(results, "learning_rate")
    title = "Learning rate during training"
    found.append(Figure("learning rate", group, source, line, title=title))
  return found


def _slice_name(parameter):
  return "value" if parameter.kind == "choice" else "slice"


def _without_adaptive(results):
  number = results.num_adaptive
  return f"Without the {number} adaptive trials." if number else ""


def rows(
  results: results_lib.Results,
  source: str,
  shown: Sequence[results_lib.Trial] | None = None,
) -> list[dict[str, Any]]:
  """What a source holds.

  Args:
    results: The study.
    source: See the top of this file.
    shown: Trials whose curves are wanted; None: the best few.
  """
  kind, _, argument = source.partition(":")
  if kind == "trials":
    columns = trial_columns(results) | objective_columns(results)
    return [
      dict(zip(columns, values, strict=True))
      for values in zip(*columns.values(), strict=True)
    ]
  if kind == "best_of":
    return best_of_rows(results)
  if kind == "isolation":
    return isolation_rows(results, int(argument))
  return curve_rows(shown or best_few(results), argument)


def best_few(results: results_lib.Results) -> list[results_lib.Trial]:
  """The best trials; while there are none, the first that logged anything."""
  begun = [trial for trial in results.trials if trial.curves]
  return (results.ranked or begun)[:BEST_FEW]


def trial_columns(results: results_lib.Results) -> dict[str, list]:
  """What of the trials no objective changes, a list per field."""
  trials = results.trials
  columns = {
    "index": [trial.index for trial in trials],
    "status": [trial.status for trial in trials],
    "kind": [KINDS[trial.adaptive] for trial in trials],
    # Spreads equal values of a choice; the same at every drawing.
    "jitter": [trial.index * 0.618034 % 1 for trial in trials],
    "group": [_group(results, trial) for trial in trials],
  }
  for i, parameter in enumerate(results.space.parameters):
    columns[f"x{i}"] = [
      position(parameter, trial.point.get(parameter.label)) for trial in trials
    ]
  return columns


def objective_columns(results: results_lib.Results) -> dict[str, list]:
  """What of the trials the objective decides, a list per field.

  `objective` is None without a value; `at` is the step of the best value, of
  completed trials only; `rank` counts from 0.
  """
  rank = {trial.index: i for i, trial in enumerate(results.ranked)}
  steps = [trial.best(results.objective)[1] for trial in results.trials]
  return {
    "objective": _finite(results.values),
    "at": [
      step if trial.index in rank else None
      for step, trial in zip(steps, results.trials, strict=True)
    ],
    "rank": [rank.get(trial.index) for trial in results.trials],
  }


def best_of_rows(results: results_lib.Results) -> list[dict[str, Any]]:
  """Best of n trials, for up to a dozen n from 1 to all that ended."""
  outcomes = trials_lib.outcomes(results)
  number = int((~np.isnan(outcomes)).sum())
  if not results.ranked:
    return []
  sizes = np.unique(np.geomspace(1, number, 12).round().astype(int))
  # Where all of n trials diverge, the box ends at the worst value there is.
  worst = float(np.nanmax(results.values))
  return [
    {
      name: min(value, worst) if name != "n" else value
      for name, value in row.items()
    }
    for row in trials_lib.best_of(outcomes, sizes.tolist())
  ]


def isolation_rows(
  results: results_lib.Results, i: int
) -> list[dict[str, Any]]:
  """Best trial in each slice of hyperparameter `i`, for `isolation`.

  `index` is None in a slice without a value; `mean`, `from` and `to` are of the
  reruns of that trial, None without two of them.
  """
  parameter = results.space.parameters[i]
  groups = {trial.index: _group(results, trial) for trial in results.trials}
  return [
    {
      **{
        field: position(parameter, row[field]) for field in ("x", "low", "high")
      },
      "objective": _finite([row["value"]])[0],
      **_of_reruns(results, row["trial"]),
      "index": row["trial"],
      "group": "" if row["trial"] is None else groups[row["trial"]],
      "label": row["x"] if row["low"] is None else _range(row),
      "count": str(row["count"]),
      "infeasible": row["infeasible"],
    }
    for row in trials_lib.isolation(results, parameter.label)
  ]


def _of_reruns(results, index):
  """Mean over the reruns of a trial and its 95 % interval."""
  mean, low, high = trials_lib.rerun_interval(results, index)
  return dict(
    zip(("mean", "from", "to"), _finite((mean, low, high)), strict=True)
  )


def ends(results: results_lib.Results, source: str) -> list[float]:
  """Ends of the axis of the objective in the figures of a source.

  The figures that show every trial share one, so that they can be compared.
  The others show what they compare: an isolation plot the best half of its
  slices, and no more than 4 times as far up as that reaches.
  """
  kind, _, argument = source.partition(":")
  if kind == "isolation":
    return _zoomed(isolation_rows(results, int(argument)))
  if kind == "best_of":
    found = best_of_rows(results)
    return domain([row[name] for row in found for name in ("low", "q75")])
  return domain(results.values)


def _zoomed(rows):
  """Ends of an axis for rows of `isolation_rows`."""
  values = sorted(r["objective"] for r in rows if r["objective"] is not None)
  if not values:
    return domain([])
  low, middle, high = values[0], values[len(values) // 2], values[-1]
  if len(values) > 3 and middle > low:
    high = min(high, low + 4 * (middle - low))
  spread = [r[name] for r in rows for name in ("from", "to")]
  return domain([low, high, *spread])


def curve_rows(
  trials: Sequence[results_lib.Trial], name: str
) -> list[dict[str, Any]]:
  """Logged points of every metric of a family, of these trials.

  The first trials get a colour each, those after them share one.
  """
  found = []
  for place, trial in enumerate(trials):
    label = f"{trial.index}" if place < len(COLOURS) else OTHERS
    for metric, (steps, values) in trial.curves.items():
      if family(metric) == name:
        found += [
          {
            "index": trial.index,
            "trial": label,
            "split": split(metric),
            "step": step,
            "value": value,
          }
          for step, value in zip(
            steps.tolist(), _finite(drawable(metric, values)), strict=True
          )
        ]
  return found


def drawable(metric: str, values: np.ndarray) -> np.ndarray:
  """A curve's values, without the zeros that a schedule starts or ends with.

  Learning rates of several orders of magnitude need a log axis.
  """
  if metric != "learning_rate":
    return values
  return np.where(values > 0, values, np.nan)


def family(metric: str) -> str:
  """valid/loss -> loss: what is drawn into one figure."""
  return metric.rpartition("/")[2]


def split(metric: str) -> str:
  """valid/loss -> valid; "" of a metric of no split."""
  return metric.rpartition("/")[0]


def families(results: results_lib.Results) -> list[str]:
  """Every family that was logged, sorted."""
  return sorted({family(metric) for metric in results.metrics})


def position(parameter: space_lib.Parameter, value: Any) -> Any:
  """Where on its axis a value lies: a text for a choice, else a number."""
  if value is None:
    return None
  if parameter.kind == "choice":
    return str(value)
  return 1 - value if parameter.scale == "log_one_minus" else value


def scale(values: Sequence[float | None]) -> str:
  """Log where positive values span more than a factor of 10, else linear."""
  low, high = domain(values)
  return "log" if 0 < 10 * low < high else "linear"


def domain(values: Sequence[float | None]) -> list[float]:
  """Ends of an axis that holds these values, of which some may be missing."""
  finite = [value for value in values if value is not None and value == value]
  low, high = min(finite, default=0.0), max(finite, default=1.0)
  margin = 0.1 * abs(low) or 1.0
  return [low, high] if low < high else [low - margin, high + margin]


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
  y = _y_objective(results, y_ends or ends(results, "trials"))
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
      .encode(x=x, y=alt.value(5), opacity=_OPACITY, tooltip=tooltip)
    )
  if parameter.kind != "choice":
    own = [position(parameter, end) for end in _range_of(parameter)]
    layers.append(
      alt.Chart(alt.InlineData([{"end": end} for end in own]))
      .mark_rule(strokeDash=[2, 3], opacity=0.6, color="currentColor")
      .encode(x=alt.X("end:Q"))
    )
  return _finish(layers)


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
  y_ends = y_ends or ends(results, f"isolation:{i}")
  x, colour = _x_axis(parameter, "x", x_ends), _group_colour(results)
  base = _chart()
  # `top` is the end of the axis, which the page sets as it draws.
  valued = base.transform_filter("isValid(datum.objective)")
  inside = valued.transform_filter("datum.objective <= top")
  above = valued.transform_filter("datum.objective > top")
  reruns = inside.transform_filter("isValid(datum.mean)")
  tooltip = _tooltip("index:O", "objective:Q", "count:N")
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
    ).encode(x=x, y=alt.value(HEIGHT - 7), text=alt.Text("count:N")),
    above.mark_point(
      shape="triangle-up", color=RED, size=45, filled=True
    ).encode(x=x, y=alt.value(5), tooltip=tooltip),
    above.mark_text(fontSize=9, color="currentColor", opacity=0.75).encode(
      x=x, y=alt.value(16), text=alt.Text("objective:Q", format=".3g")
    ),
    base.transform_filter("!isValid(datum.objective) && datum.count !== '0'")
    .mark_point(shape="cross", angle=45, color=RED, size=60, filled=True)
    .encode(x=x, y=alt.value(5)),
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
  return _finish(layers).add_params(alt.param(name="top", value=y_ends[1]))


def best_of(
  results: results_lib.Results, y_ends: Sequence[float] | None = None
) -> alt.LayerChart:
  """Box plots of the best of n trials (Playbook, figure 3).

  Args: As of `axis`.
  """
  x = alt.X("n:O", title="trials in the study", axis=alt.Axis(labelAngle=0))
  base, span = _chart().encode(x=x), y_ends or ends(results, "best_of")
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
  splits = {split(m) for m in results.metrics if family(m) == name}
  dashes = alt.Scale(
    domain=["valid", "test", "train", ""],
    range=[[], [2, 2], [5, 3] if len(splits) > 1 else [], []],
  )
  lines = (
    _chart()
    # The points are not seen, only found by the pointer.
    .mark_line(strokeWidth=1.6, point={"opacity": 0, "size": 60})
    .encode(
      x=alt.X("step:Q", title="step", axis=_STEPS),
      y=alt.Y(
        "value:Q",
        title=f"{name}, nats" if name == "loss" else name,
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


def spec(figure: Figure, results: results_lib.Results) -> dict[str, Any]:
  """A figure as Vega-Lite that stands alone, for a file or a notebook."""
  found = {"datasets": {}} | figure.chart.to_dict()
  data = rows(results, figure.source)
  if figure.source.startswith("curves:"):
    kind = scale([row["value"] for row in data])
    for layer in found["layer"]:
      y = layer["encoding"].get("y", {})
      if y.get("field") == "value":
        y["scale"]["type"] = kind
        if kind == "log":
          y["scale"].pop("zero", None)
  found["datasets"]["data"] = data
  return found | {"title": figure.title or figure.name}


def _range(row):
  return f"{row['low']:.3g} to {row['high']:.3g}"


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
    ends or (position(parameter, end) for end in _range_of(parameter))
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
      type=scale(ends), domain=list(ends), nice=False, padding=20
    ),
  )


def objective_title(metric: str, select: str) -> str:
  """What an axis says of the objective."""
  return f"{metric} ({select})"


def _group(results, trial):
  """Value of the scientific choice that colours the trials, or ""."""
  chosen = _grouping(results)
  return str(trial.point.get(chosen.label, "")) if chosen else ""


def _grouping(results):
  for parameter in results.space.parameters:
    if parameter.role == "scientific" and parameter.kind == "choice":
      if len(parameter.values) <= len(COLOURS):
        return parameter
  return None


def _group_colour(results):
  chosen = _grouping(results)
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
    scale=alt.Scale(domain=list(KINDS), range=["circle", "diamond"]),
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


def _finite(values):
  """As JSON has it: None for what is not finite."""
  return [float(v) if math.isfinite(v) else None for v in values]
