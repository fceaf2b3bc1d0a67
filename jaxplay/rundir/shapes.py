"""The types of files in run directories."""

from typing import (
  Annotated,
  Any,
  Literal,
  NotRequired,
  Required,
  TypedDict,
  get_args,
)

import msgspec

Status = Literal["running", "completed", "infeasible", "preempted", "failed"]
STATUSES = get_args(Status)
DONE = ("completed", "infeasible")  # There is nothing left to run.

# Numbers that numpy and JAX can hold.
Count = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=2**63 - 1)]
Share = Annotated[float, msgspec.Meta(ge=0, le=1)]
Seconds = Annotated[float, msgspec.Meta(ge=0)]
Above0 = Annotated[float, msgspec.Meta(gt=0)]
# The name of a folder, never a path that leads elsewhere.
Name = Annotated[str, msgspec.Meta(pattern=r"^\w[\w.+-]*\Z")]
Numbers = dict[str, int | float | None]  # null: it was not finite


class _ConfigParts(TypedDict, total=False):
  averages: list[str]
  code: str
  declared: list[list[Any]]
  hparams: dict[str, float | bool | str]
  task: dict[str, Any]
  dataset: dict[str, Any]
  model: dict[str, Any]
  mesh: dict[str, Any]


class Config(_ConfigParts, total=False):
  """The keys of config.json that are read without `config.from_json`.

  A run of an earlier version lacks the keys that came later.
  """

  seed: Count
  max_train_steps: Positive
  objective: str


class BaseConfig(_ConfigParts):
  """As `Config`, for the config of a study or ladder."""

  seed: Count
  max_train_steps: Positive
  objective: str


class Best(TypedDict):
  """The line of metrics with the best objective; see `metrics.best_line`."""

  step: Count
  metric: str
  value: float


class _Chance(TypedDict):
  """What a constant prediction reaches; see `training.scores.chance`."""

  num_valid: Count
  majority_error_rate: NotRequired[Share]
  mean_mse: NotRequired[float | None]


class _Lines(TypedDict):
  """The lines of metrics.jsonl; see `metrics.Digest`."""

  count: Count
  sha256: str


class RunStatus(TypedDict):
  """status.json."""

  status: Status
  step: NotRequired[Count]
  max_train_steps: NotRequired[Positive]
  reason: NotRequired[str | None]
  best: NotRequired[Best | None]
  final: NotRequired[Numbers | None]
  test: NotRequired[Numbers]
  full: NotRequired[Numbers]
  seconds: NotRequired[Seconds]
  failures: NotRequired[Count]
  chance: NotRequired[_Chance | None]
  lines: NotRequired[_Lines]


class _Text(TypedDict, total=False):
  name: Required[str]
  vocab_size: Count
  tokenizer: str
  sha256: str
  splits: dict[str, dict[str, Any]]


class _Dataset(_Text, total=False):
  mixture: list[_Text]


class _Branch(TypedDict):
  run: str
  step: Count


class _Repository(TypedDict, total=False):
  """From `provenance`; only a known repository has more than a state."""

  state: Literal["none", "unknown", "known"]
  reason: str
  folder: str
  remote: str
  commit: str | None
  diff: str | None
  untracked: list[str] | None


class _Jaxplay(TypedDict):
  version: str
  repository: _Repository


class _KnownRepository(TypedDict):
  folder: str
  remote: str
  commit: str | None
  diff: str | None


class _File(TypedDict):
  path: str
  text: str
  sha256: str
  state: str
  repository: str | None


class Provenance(TypedDict, total=False):
  """provenance.json, of runs, studies, ladders and plans."""

  git_commit: str | None
  git_diff: str | None
  jaxplay: _Jaxplay
  files: list[_File]
  repositories: list[_KnownRepository]
  versions: dict[str, str]
  devices: str
  host: str
  command: list[str]
  folder: str
  time: str
  dataset: _Dataset | None
  branch: _Branch
  resumes: list[dict[str, Any]]


class Init(TypedDict):
  """init.json: the weights that a run started from; see `training.weights`."""

  source: str
  sha256: str
  step: NotRequired[Count]
  weights: NotRequired[str]
  loaded: dict[str, str]
  skipped: dict[str, str]
  left: list[str]


class Packed(TypedDict):
  """checkpoints.json: where the checkpoints are; see `training.packed`."""

  population: Name
  place: Count
  study: str


class FindingRow(TypedDict):
  """A row of findings.json, as `finding.Finding.as_json` makes it."""

  check: str
  verdict: Literal["ok", "warn", "fail", "unknown"]
  subject: str
  evidence: dict[str, Any]
  advice: str
  source: str
