"""The phases of `jaxplay playbook`, and the files in which they are saved.

Each phase runs once, and its outcome is saved in NN_PHASE.json. A loop that was
killed resumes with the same decisions, even if they depended on measured times.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NotRequired, TypedDict

import ml_collections

from jaxplay import config as config_lib
from jaxplay import finding, rundir
from jaxplay.playbook import budget as budget_lib
from jaxplay.playbook import result as result_lib
from jaxplay.playbook import study_runner
from jaxplay.study import space as space_lib

_WARMUP = "hparams.warmup_steps"
_FEWEST_EVALUATIONS = 8  # of a trial

# (folder, procedure, result) of a procedure; (folder, "", None) of a study.
WriteReport = Callable[[Any, str, result_lib.ProcedureResult | None], None]


@dataclasses.dataclass
class Phase:
  """The outcome of a phase, as JSON values.

  Attributes:
    name: Name of its file, without the number.
    summary: Sentences, the decision first.
    settings: Changes to the config.
    findings: Findings as JSON.
    data: Values that later phases read.
    spent: Cost of its trials, in trials.
    seconds: Duration.
    page: Path of its report in the folder of the plan; "": none.
  """

  name: str
  summary: Sequence[str]
  settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  findings: Sequence[Mapping[str, Any]] = ()
  data: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  spent: float = 0.0
  seconds: float = 0.0
  page: str = ""

  def as_json(self) -> dict[str, Any]:
    """Returns the content of NN_PHASE.json."""
    row = dataclasses.asdict(self)
    return {"name": row.pop("name"), "said": row.pop("summary"), **row}


class _StepsData(TypedDict):
  length: rundir.Positive


class _StabilityData(TypedDict):
  rates: tuple[rundir.Above0, rundir.Above0]


class _ShareRow(TypedDict):
  longer: rundir.Positive
  candidates: rundir.Positive
  seeds: rundir.Positive


class _SharesData(TypedDict):
  shares: _ShareRow


class _NextStudy(TypedDict):
  trials: rundir.Positive
  length: NotRequired[rundir.Positive]
  space: NotRequired[list[space_lib.Row]]


class _ExploreData(TypedDict):
  study: rundir.Name
  num_trials: rundir.Positive
  length: rundir.Positive
  next: _NextStudy | None
  values: list[float | None]


class _ExploitData(TypedDict):
  num_trials: rundir.Positive
  values: list[float | None]


class _LongerData(TypedDict):
  candidates: list[rundir.Count]
  values: list[float | None]


class _Side(TypedDict):
  mean: float
  deviation: float


class _Comparison(TypedDict):
  verdict: str
  improvement: float
  interval: tuple[float | None, float | None]
  baseline: _Side
  candidate: _Side


class _FinalData(TypedDict):
  chosen: rundir.Count | None
  means: dict[str, float]
  comparison: _Comparison | None


# Shape of `Phase.data`, by the name of the phase without a number.
_DATA = {
  "batch_size": dict[str, Any],
  "steps": _StepsData,
  "stability": _StabilityData,
  "shares": _SharesData,
  "explore": _ExploreData,
  "exploit": _ExploitData,
  "longer": _LongerData,
  "final": _FinalData,
}


class PhaseFile(TypedDict):
  """NN_PHASE.json: a `Phase`, whose data has a shape of `_DATA`."""

  name: str
  said: list[str]
  settings: dict[str, Any]
  findings: list[rundir.FindingRow]
  data: dict[str, Any]
  spent: rundir.Seconds
  seconds: rundir.Seconds
  page: str


class PlaybookLoop:
  """The completed phases, the config so far, and the remaining budget."""

  def __init__(
    self,
    runner: study_runner.StudyRunner,
    config: ml_collections.ConfigDict,
    budget: budget_lib.Budget,
    write_report: WriteReport,
  ):
    self.runner, self.given = runner, config
    self.budget, self.write_report = budget, write_report
    self.phases: list[Phase] = []

  def run(self, name: str, phase: Callable[[], Phase]) -> None:
    """Runs a phase, or reads its file if it has completed before."""
    self.runner.log(f"\n{name} ({self._budget_left()})")
    path = self.runner.path / f"{len(self.phases) + 1:02d}_{name}.json"
    if not path.exists():
      since, before = time.monotonic(), dict(self.runner.ran)
      new = phase()
      ran = self.runner.ran
      examples = sum(n for run, n in ran.items() if run not in before)
      new.spent = examples / self._examples()
      new.seconds = time.monotonic() - since
      rundir.write_json(path, rundir.plain(new.as_json()))
    row: Any = rundir.read_json(path, PhaseFile)
    shape = _DATA[name.rstrip("_0123456789")]
    rundir.check_shape(path, row["data"], shape, "$.data")
    row["summary"] = row.pop("said")
    names = [field.name for field in dataclasses.fields(Phase)]
    self.phases.append(Phase(**{name: row[name] for name in names}))
    for sentence in self.last.summary:
      self.runner.log(f"  {sentence}")

  def _examples(self):
    return self.given.max_train_steps * self.given.batch_size

  def _budget_left(self):
    left = self.left()
    if left == math.inf:
      return f"budget: {self.budget}"
    return f"budget: {self.budget}, {left:.3g} trials left"

  @property
  def last(self) -> Phase:
    return self.phases[-1]

  def explored(self) -> list[Phase]:
    return [p for p in self.phases if p.name.startswith("explore")]

  def data(self, name: str) -> Any:
    """Returns the latest value of that name in the data of the phases."""
    return next(p.data[name] for p in reversed(self.phases) if name in p.data)

  def spent(self) -> float:
    return sum(p.spent for p in self.phases)

  def left(self) -> float:
    return self.budget.left(self.spent(), sum(p.seconds for p in self.phases))

  def total(self) -> float:
    """Returns the whole budget in trials; an estimate if it is a time."""
    return self.spent() + self.left()

  @property
  def shares(self) -> budget_lib.Shares:
    return budget_lib.Shares(**self.data("shares"))

  def config(self) -> ml_collections.ConfigDict:
    """Returns the config with the settings of all phases."""
    config = self.given.copy_and_resolve_references()
    for phase in self.phases:
      for key, value in phase.settings.items():
        config_lib.override(config, key, value)
    return config

  def short(self, length: int) -> ml_collections.ConfigDict:
    """Returns the config of a trial of the first round, with `length` steps."""
    config = self.config()
    total = config.max_train_steps
    every = min(
      length * config.eval_every // total, length // _FEWEST_EVALUATIONS
    )
    changes = config_lib.with_steps(config_lib.flatten(config), length)
    warmup = changes.get(_WARMUP, config.hparams.warmup_steps)
    changes |= {
      "log_every": max(1, length * config.log_every // total),
      "eval_every": max(1, every),
      "checkpoint_every": length,
      _WARMUP: min(warmup, length // 4),
      **study_runner.CURVES_ONLY,
    }
    for key, value in changes.items():
      config_lib.override(config, key, value)
    return config

  def cost(self, length: int) -> float:
    """Returns the cost of a run of `length` steps, in trials."""
    return length * self.config().batch_size / self._examples()


def rows(findings: Iterable[finding.Finding]) -> list[dict[str, Any]]:
  """Returns findings as JSON."""
  return [row.as_json() for row in findings]
