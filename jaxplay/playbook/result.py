"""The result of a procedure of the playbook, and the directory of its work.

    PLAN/plan.json        procedure, options, base config, and the result
         provenance.json  code, environment and command, as in a run
         NAME/            a study of the procedure, a study directory
         findings.json    derived: decisions with their evidence
         report.html      derived

A procedure is a pure function of the results of its studies, so no other state
is saved. After a kill, the same command reads the finished studies and runs the
rest.
"""

import dataclasses
import html
import json
from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import jaxplay
from jaxplay import commands, finding, provenance, rundir
from jaxplay import config as config_lib


@dataclasses.dataclass(frozen=True)
class Table:
  """A table of a result; entries are strings, numbers or None."""

  title: str
  heads: Sequence[str]
  rows: Sequence[Sequence[Any]]
  note: str = ""


@dataclasses.dataclass(frozen=True)
class Axis:
  """An axis of a figure.

  Attributes:
    title: Title, with the unit.
    log: Whether the scale is logarithmic; values that are not above 0 are then
      not drawn.
    with_zero: Whether a logarithmic scale is linear below the lowest value
      above 0, so that 0, such as an error rate, is drawn.
    whole: Whether values are integers.
  """

  title: str
  log: bool = False
  with_zero: bool = False
  whole: bool = False


def objective_axis(
  metric: config_lib.metric.Metric, title: str, log: bool = True
) -> Axis:
  """The axis of an objective; linear if it is maximized, see `plot_rows.scale`.

  Args:
    metric: Its metric.
    title: Title of the axis.
    log: Whether it is logarithmic if the objective is minimized.
  """
  log = log and not metric.maximized
  return Axis(title, log=log, with_zero=log)


@dataclasses.dataclass(frozen=True)
class FigureData:
  """The data of a figure; `playbook.plots` draws it.

  Attributes:
    name: Title, unique in its result.
    x: Horizontal axis.
    y: Vertical axis.
    lines: Rows {x, y, series}, with low and high for a band.
    points: Rows {x, y, series}, with low and high for error bars.
    bars: Rows {x, x2, y, series} of a histogram.
    rules: Label -> x of a dashed vertical line.
    levels: Label -> y of a dashed horizontal line.
    caption: What the figure shows, in a sentence or two.
  """

  name: str
  x: Axis
  y: Axis
  lines: Sequence[Mapping[str, Any]] = ()
  points: Sequence[Mapping[str, Any]] = ()
  bars: Sequence[Mapping[str, Any]] = ()
  rules: Mapping[str, float] = dataclasses.field(default_factory=dict)
  levels: Mapping[str, float] = dataclasses.field(default_factory=dict)
  caption: str = ""


@dataclasses.dataclass(frozen=True)
class ProcedureResult:
  """A decision with its evidence, and the settings for the config.

  Attributes:
    summary: The result in a few sentences, the most important first.
    settings: Config key -> recommended value; empty if nothing has to change,
      or if the result is inconclusive: then a finding states what is missing.
    findings: Each rule that was applied, with its evidence.
    tables: Tables of the report; the terminal shows the first.
    figures: Figures of the report.
    details: Values for programs, JSON.
  """

  summary: Sequence[str]
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  findings: Sequence[finding.Finding] = ()
  tables: Sequence[Table] = ()
  figures: Sequence[FigureData] = ()
  details: Mapping[str, Any] = dataclasses.field(default_factory=dict)

  def _repr_html_(self) -> str:
    """Summary, settings and tables as HTML, for notebooks."""
    parts = [f"<p>{html.escape(sentence)}</p>" for sentence in self.summary]
    if self.settings:
      parts.append(f"<pre>{html.escape(as_config_lines(self.settings))}</pre>")
    for table in self.tables:
      parts.append(f"<h4>{html.escape(table.title)}</h4>")
      parts.append(finding.as_html(table.heads, table.rows))
    return "".join(parts)

  def as_json(self) -> dict[str, Any]:
    """Returns summary, settings, details and findings as JSON."""
    return rundir.plain(
      {
        "said": list(self.summary),
        "settings": config_lib.as_json(self.settings),
        "details": self.details,
        "findings": [finding.as_json() for finding in self.findings],
      }
    )


def as_config_lines(settings: Mapping[str, Any]) -> str:
  """Returns lines of a config file: `config.max_train_steps = 1600`."""
  return "\n".join(
    f"config.{key} = "
    + (json.dumps(value) if isinstance(value, str) else repr(value))
    for key, value in settings.items()
  )


class _ResultRow(TypedDict):
  """The shape of `ProcedureResult.as_json`."""

  said: list[str]
  settings: dict[str, Any]
  details: dict[str, Any]
  findings: list[rundir.FindingRow]


class PlanFile(TypedDict):
  """plan.json."""

  question: str
  options: dict[str, Any]
  config: rundir.Config | None
  command: list[str]
  answer: NotRequired[_ResultRow]


class PlanDir(rundir.Directory):
  """Reads and writes a plan directory."""

  kind = "a plan"
  shape = PlanFile

  def plan(self) -> dict[str, Any]:
    """Returns the content of plan.json.

    Raises:
      jaxplay.UserError: There is no plan here.
    """
    return self._definition()

  def create(
    self,
    procedure: str,
    options: Mapping[str, Any],
    config: Mapping[str, Any] | None = None,
  ) -> bool:
    """Creates the plan, or continues it if it exists.

    Args:
      procedure: Name of the procedure, such as "steps".
      options: Options that the result depends on, JSON values.
      config: The base config, nested as from `config.as_json`.

    Returns:
      Whether it is new.

    Raises:
      jaxplay.UserError: The directory holds another plan, or other files.
    """
    plan = {"question": procedure, "options": options, "config": config}
    plan = json.loads(json.dumps(rundir.plain(plan)))
    existing = self._refuse_different(plan)
    if existing is None:
      self.make()
    self.note_start(provenance.record())
    if existing is None:
      self._write(plan | {"command": commands.typed()})
    return existing is None

  def _check_same(self, here, definition):
    difference = self._difference(here, definition)
    if difference:
      raise jaxplay.UserError(
        f"{str(self.path)!r} holds another plan: {difference}; use another"
        " workdir"
      )

  def _difference(self, here, definition):
    if here["question"] != definition["question"]:
      return f"its procedure is {here['question']!r}"
    if here["config"] is not None and definition["config"] is not None:
      changed = config_lib.differences(here["config"], definition["config"])
      if changed:
        return config_lib.changes(changed, 1)
    old, new = here["options"], definition["options"]
    for name in sorted(old.keys() | new.keys()):
      if old.get(name) != new.get(name):
        return f"--{name} was {old.get(name)!r} and is now {new.get(name)!r}"
    return None

  def write(self, result: ProcedureResult) -> None:
    """Writes the result into plan.json, and its findings into findings.json."""
    self._write(self.plan() | {"answer": result.as_json()})
    self.write_findings([row.as_json() for row in result.findings])
