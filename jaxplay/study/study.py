"""A study: its definition in a Python file, and its directory on disk.

    STUDY/study.json      goal, base config, space, algorithm, seed, trials, ...
          provenance.json what made it, as in a run
          trials/0007/    a run directory
          reruns/0007/3/  trial 7 again with seed 3, a run directory
          folded/0007/3/  the same, trained on the validation examples as well
          final.json      of the best trial, the test set included
          code/           the user's code that its parts are made of, if any
          trials.csv      derived: a row per trial
          findings.json   derived, as report.html and next_study.py are

A trial is a function of (space, seed, index), so a study needs no coordinator:
who holds the lock of a run directory runs that trial. Adaptive trials, which
depend on earlier results, are written down before they run, in study.json:

    "suggested": [{"after": 64, "points": [...], ...}, ...]

is a batch of points that take the places 64, 65, ...; the sequence goes on
behind them as if they were not there.
"""

import contextlib
import csv
import dataclasses
import functools
import io
import json
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NotRequired, TypedDict

import ml_collections

import jaxplay
from jaxplay import commands, provenance, rundir, usercode
from jaxplay import config as config_lib
from jaxplay.study import sampling
from jaxplay.study import space as space_lib

MOST_TRIALS = 10_000  # trials/0000 to trials/9999


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
  """What `get_study()` of a study file returns.

  Attributes:
    goal: What the study is to find out, in a sentence.
    config: The base config as `--config` takes it, FILE[:ARG]; the path is
      relative to the study file or, failing that, to the current folder.
    space: Config key -> domain, or several under different `when`; see
      `space.Space`. Or the path of a search space in AlgoPerf's JSON format.
    num_trials: Length of the study; more can be added later.
    overrides: Config keys fixed for this study at another value than the
      base config's.
    algorithm: One of `sampling.ALGORITHMS`.
    points: The trials themselves, {config key: value}, for "explicit"; a
      space says which roles their keys have.
    seed: Of the search. (That of training is `config.seed`, and the same for
      all trials: `study rerun` varies it.)
    objective: Logged metric, minimized or maximized as its kind requires, such
      as "valid/loss"; "final:METRIC" for its last value.
      Empty: `config.objective`.
    notes: Anything that the reader of the tracking table should know.

  Examples:
    >>> import jaxplay as jp
    >>> study = jp.Study(
    ...   goal="Which learning rate and momentum?",
    ...   config="experiments/digits_mlp/config.py",
    ...   space={
    ...     "hparams.learning_rate": jp.Float(1e-3, 1.0, scale="log"),
    ...     "hparams.momentum": jp.Float(0.5, 0.99, scale="log_one_minus"),
    ...   },
    ...   num_trials=20,
    ... )
  """

  goal: str
  config: str
  space: Mapping[str, Any] | str | None = None
  num_trials: int = 0
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  algorithm: str = "halton"
  points: Sequence[Mapping[str, Any]] | None = None
  seed: int = 0
  objective: str = ""
  notes: str = ""


class _Batch(TypedDict):
  """Adaptive trials: the points that follow `after` trials."""

  after: rundir.Count
  points: list[dict[str, Any]]


class StudyFile(TypedDict):
  """study.json.

  Attributes:
    file_trials: Number of trials in the study file; studies of older versions
      lack it.
    suggested: The adaptive trials; see the top of this file.
  """

  goal: str
  notes: str
  config_file: str
  overrides: dict[str, Any]
  config: rundir.BaseConfig
  space: list[space_lib.Row]
  algorithm: Literal[
    "halton", "sobol", "grid", "random", "explicit", "algoperf"
  ]
  points: list[dict[str, Any]] | None
  seed: rundir.Count
  num_trials: rundir.Positive
  objective: str
  command: list[str]
  file_trials: NotRequired[rundir.Positive]
  suggested: NotRequired[list[_Batch]]


class _Spread(TypedDict):
  mean: float
  std: float | None
  values: list[float]
  trial: float


class _Chosen(TypedDict):
  date: str
  trial: rundir.Count
  num_trials: rundir.Count


class _Metric(TypedDict):
  mean: float
  std: float | None
  values: list[float]


class _Examples(TypedDict):
  train: rundir.Count
  valid: rundir.Count


class _Folded(TypedDict):
  """The final model, trained on the validation examples as well."""

  date: str
  command: str
  steps: rundir.Positive
  of_steps: rundir.Positive
  schedule: str
  best_steps: list[rundir.Count]
  at_steps: _Metric | None
  seeds: list[rundir.Count]
  diverged: rundir.Count
  examples: _Examples | None
  unmeasured: list[str]
  test: NotRequired[dict[str, _Metric]]
  log: NotRequired[str]


class FinalFile(_Chosen):
  """final.json; `analysis.final` explains its content."""

  adaptive: bool
  point: dict[str, Any]
  objective: str
  seeds: list[rundir.Count]
  diverged: rundir.Count
  valid: _Spread
  commit: str
  command: str
  test: NotRequired[dict[str, _Spread]]
  earlier: NotRequired[list[_Chosen]]
  folded: NotRequired[_Folded]
  log: NotRequired[str]


def load(file: "str | os.PathLike | Study") -> tuple[dict[str, Any], list[str]]:
  """Reads and checks a study file.

  Args:
    file: Of the user, with `get_study`; or a study.

  Returns:
    The content of study.json, and notes for the terminal.

  Raises:
    jaxplay.UserError: It does not run, or its values are invalid.
  """
  if isinstance(file, Study):
    path, study = "", file
  else:
    path = os.fspath(file)
    study = config_lib.from_user_file(path, "get_study", Study)
  what = _named(path)
  for name, kind in _KINDS.items():
    value = getattr(study, name)
    if not isinstance(value, kind) or isinstance(value, bool):
      raise jaxplay.UserError(
        f"{what}: {name} is {config_lib.shown(value)}; expected type"
        f" {kind.__name__}"
      )
  if not study.goal.strip():
    raise jaxplay.UserError(
      f"{what} has no goal; say in one sentence what the study is"
      " to find out (Playbook, choosing the goal for the next round)"
    )
  config_file = config_lib.beside(path, study.config)
  config = config_lib.load(config_file)
  study = dataclasses.replace(study, config=config_lib.absolute(config_file))
  return define(study, config, path)


def define(
  study: Study, config: ml_collections.ConfigDict, path: str = ""
) -> tuple[dict[str, Any], list[str]]:
  """Checks a study of a config, which gets the study's overrides; see `load`.

  Args:
    study: The study; its `config` is only recorded.
    config: The base config.
    path: Of the study file, if there is one.
  """
  _check_keys(f"{_named(path)}: overrides", study.overrides)
  with config_lib.beside_config(config, path):
    for key, value in study.overrides.items():
      config_lib.override(config, key, value)
    config_lib.validate(config)
    space, algorithm, points = _space(path, study, config)
    for parameter in space.parameters:
      for value in parameter.values:
        if config_lib.is_own(parameter.key, value):
          config_lib.declare(config, parameter.key, value)
  num_trials = study.num_trials or len(points or ())
  if num_trials < 1:
    raise jaxplay.UserError(
      f"{_named(path)}: num_trials is {num_trials}; expected at least 1"
    )
  # Studies made by a program, without a file, may override unused keys.
  space.check(config, points, study.overrides if path else ())
  objective = study.objective or config.objective
  _, metric = parse_objective(objective)
  if config.dataset.fold_validation and metric not in _TRAIN_OBJECTIVES:
    raise jaxplay.UserError(
      f"{_named(path)}: config.dataset.fold_validation is True, so trials have"
      f" no {metric!r} that could rank them; leave it out: jaxplay study final"
      " STUDY --fold_validation trains the chosen point so, once the study is"
      " over"
    )
  if metric not in (config.objective, *_TRAIN_OBJECTIVES):
    # So that the best checkpoint is the best by the study's objective.
    config_lib.override(config, "objective", metric)
    config_lib.validate(config)
  definition = {
    "goal": study.goal,
    "notes": study.notes,
    "config_file": study.config,
    "overrides": config_lib.as_json(study.overrides),
    "config": config_lib.as_json(config),
    "space": space.as_json(),
    "algorithm": algorithm,
    "points": points,
    "seed": study.seed,
    "num_trials": num_trials,
    "objective": objective,
  }
  # As it will be read again, so that the two can be compared.
  definition = json.loads(json.dumps(definition))
  _sample(definition)  # Fails if there are fewer points.
  return definition, space.notes(config)


def _named(path):
  """The study in a message: by its file, if there is one."""
  return f"study file {path!r}" if path else "the study"


def _check_keys(what, mapping):
  for key in mapping:
    if not isinstance(key, str):
      raise jaxplay.UserError(
        f"{what} have the key {key!r}; expected a config key, such as"
        " 'hparams.learning_rate'"
      )


_KINDS = {
  "goal": str,
  "config": str,
  "overrides": Mapping,
  "algorithm": str,
  "num_trials": int,
  "seed": int,
  "objective": str,
  "notes": str,
}
# Logged in every run, but never used to choose a checkpoint.
_TRAIN_OBJECTIVES = ("train/loss", "train/error_rate")


def parse_objective(text: str) -> tuple[str, str]:
  """Splits "METRIC", "best:METRIC" or "final:METRIC".

  Returns:
    ("best" or "final", metric)

  Raises:
    jaxplay.UserError: It has another prefix.
  """
  select, colon, metric = text.rpartition(":")
  if colon and select not in ("best", "final"):
    raise jaxplay.UserError(
      f"objective {text!r} begins with {select!r}; expected METRIC,"
      " best:METRIC or final:METRIC"
    )
  return select or "best", metric


def check_length(num_trials: int) -> None:
  """Refuses a study with more than `MOST_TRIALS` trials.

  Raises:
    jaxplay.UserError: It has more.
  """
  if num_trials > MOST_TRIALS:
    raise jaxplay.UserError(
      f"the study would have {config_lib.shown(num_trials)} trials; it can"
      f" have at most {MOST_TRIALS}"
    )


def _sample(study):
  """The points of what study.json holds."""
  check_length(study["num_trials"])
  points = sampling.points(
    space_lib.Space.from_json(study["space"]),
    algorithm=study["algorithm"],
    seed=study["seed"],
    num=study["num_trials"] - len(adaptive(study)),
    explicit=study["points"],
  )
  for batch in study.get("suggested", ()):
    points[batch["after"] : batch["after"]] = batch["points"]
  return points


def adaptive(study: Mapping[str, Any]) -> list[int]:
  """Indices of the trials that were suggested by earlier ones, in order.

  Args:
    study: What study.json holds.
  """
  return [
    batch["after"] + i
    for batch in study.get("suggested", ())
    for i in range(len(batch["points"]))
  ]


def _space(path, study, config):
  """(space, algorithm, explicit points) of a study file."""
  space, algorithm, points = study.space, study.algorithm, study.points
  if isinstance(space, str):
    space = space_lib.from_algoperf(
      config_lib.beside(path, space), config.max_train_steps
    )
  if isinstance(space, list):
    algorithm, points, space = "explicit", space, None
  if algorithm == "explicit":
    is_list = isinstance(points, list | tuple) and points
    if not is_list or not all(isinstance(p, Mapping) for p in points):
      raise jaxplay.UserError(
        f"{_named(path)}: algorithm 'explicit' needs points, a list of"
        " {config key: value}"
      )
    for point in points:
      _check_keys(f"{_named(path)}: points", point)
    # As JSON will have them.
    points = [
      {key: space_lib.plain(value) for key, value in point.items()}
      for point in points
    ]
    space = space or _varied(points)
  if not isinstance(space, space_lib.Space):
    space = space_lib.Space(space or {})
  return space, algorithm, points


def _varied(points):
  """The space that explicit points span: a choice for each key."""
  values = {}
  for point in points:
    for key, value in point.items():
      if value not in values.setdefault(key, []):
        values[key].append(value)
  return {key: space_lib.Choice(choices) for key, choices in values.items()}


class StudyDir(rundir.Directory):
  """Reads and writes one study directory."""

  kind = "a study"
  shape = StudyFile

  def study(self) -> dict[str, Any]:
    """Returns the content of study.json.

    Raises:
      jaxplay.UserError: There is no study here, or it is damaged.
    """
    return self._definition()

  def _read(self):
    study = super()._read()
    if study is not None:
      try:
        _check(study)
      except jaxplay.UserError as error:
        raise rundir.Damaged(self.path / "study.json", str(error)) from None
    return study

  def merged(
    self, definition: Mapping[str, Any], *, allow_code_change: bool = False
  ) -> dict[str, Any]:
    """Returns the study.json of a new study, or of one that goes on.

    The goal, the notes and a larger number of trials are replaced, and where
    and how the base config computes trials. Anything else would make the trials
    of one study incomparable.

    Args:
      definition: From `load`.
      allow_code_change: Whether the user's code may be other than before; the
        trials from now on are made of it.

    Raises:
      jaxplay.UserError: Another study is here, or something else.
    """
    config, file_trials = definition["config"], definition["num_trials"]
    if allow_code_change and (here := self._read()) is not None:
      code = here["config"].get("code", "")
      definition = {**definition, "config": {**config, "code": code}}
    here = self._refuse_different(definition)
    if here is None:
      return dict(definition, command=commands.typed(), file_trials=file_trials)
    return here | {
      "goal": definition["goal"],
      "notes": definition["notes"],
      "config": config_lib.resumed(here["config"], config)
      | {"code": config.get("code", "")},
      "num_trials": max(here["num_trials"], file_trials),
      "file_trials": file_trials,
    }

  def create(
    self, definition: Mapping[str, Any], *, allow_code_change: bool = False
  ) -> None:
    """Makes the study, or goes on with the one that is here; see `merged`.

    Raises:
      jaxplay.UserError: Another study is here, or something else.
    """
    merged = functools.partial(
      self.merged, definition, allow_code_change=allow_code_change
    )
    merged()  # Before anything is written.
    self.make()
    with self.lock(wait=True):
      self.note_start(provenance.record())
      config_lib.write_code(definition["config"], self.path)
      self._write(merged())

  def _check_same(self, here, definition):
    changed = _differences(here, definition)
    code = {key.removeprefix("config."): pair for key, pair in changed.items()}
    where = f"study {str(self.path)!r}"
    if message := config_lib.only_code(code, where, self.path):
      raise jaxplay.UserError(message)
    if changed:
      shown = "; ".join(
        f"{key} was {_shown(old)} and is now {_shown(new)}"
        for key, (old, new) in list(changed.items())[:4]
      )
      more = f" and {len(changed) - 4} more" if len(changed) > 4 else ""
      raise jaxplay.UserError(
        f"{str(self.path)!r} holds another study: {shown}{more}; restore that"
        " in the study file, or use another workdir (to add trials to the study"
        " that is here: `jaxplay study extend`)"
      )

  def renew_code(self) -> None:
    """Makes the trials from now on of the user's code as it is now.

    Raises:
      jaxplay.UserError: It does not run.
    """
    with self.lock(wait=True):
      study = self.study()
      config = config_lib.from_json(study["config"])
      changed = usercode.changed(config.code, self.path)
      if changed is None:
        return
      config = config_lib.renewed(config, changed[0])
      config_lib.validate(config)
      config_lib.write_code(config, self.path)
      study["config"] = config_lib.as_json(config)
      self._write(study)

  def extend(self, num_trials: int) -> None:
    """Lengthens the study; its sequence goes on where it ended.

    Raises:
      jaxplay.UserError: That would shorten it, or there are no more points.
    """
    self.study()  # Before anything is written.
    with self.lock(wait=True):
      study = self.study()
      if num_trials < study["num_trials"]:
        raise jaxplay.UserError(
          f"the study has {study['num_trials']} trials already; --trials is"
          f" the new total, and {num_trials} is less"
        )
      study["num_trials"] = num_trials
      _sample(study)  # Fails if there are fewer points.
      self._write(study)

  def append(self, batch: Mapping[str, Any]) -> bool:
    """Adds a batch of adaptive trials at the end of the study.

    Args:
      batch: "after", the number of trials that it was made from; "points", from
        `suggest.suggest`; and anything that documents how it was made.

    Returns:
      Whether it was added: not if the study has more trials by now.
    """
    with self.lock(wait=True):
      study = self.study()
      if study["num_trials"] != batch["after"]:
        return False
      study["num_trials"] += len(batch["points"])
      study["suggested"] = [*study.get("suggested", ()), dict(batch)]
      self._write(study)
    return True

  def points(self) -> list[dict[str, Any]]:
    """Each trial as {config key: value}."""
    study = self.study()
    try:
      return _sample(study)
    except jaxplay.UserError as error:  # It was changed after it was written.
      raise rundir.Damaged(self.path / "study.json", str(error)) from None

  def final(self) -> dict[str, Any] | None:
    """Returns the content of final.json, or None if there is none."""
    return rundir.read_json(self.path / "final.json", FinalFile)

  def write_final(self, final: Mapping[str, Any]) -> None:
    rundir.write_json(self.path / "final.json", rundir.plain(final))

  def trial(self, index: int) -> rundir.RunDir:
    """The run directory of a trial, there or not."""
    return rundir.RunDir(self.path / "trials" / f"{index:04d}", self.path)

  def begun(self) -> list[int]:
    """Indices of trials that have a folder, also of those beyond the end."""
    folder = self.path / "trials"
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(name) for name in names if name.isdecimal())

  def rerun(self, index: int, seed: int) -> rundir.RunDir:
    """The run directory of a trial that is run again with another seed."""
    path = self.path / "reruns" / f"{index:04d}" / f"{seed}"
    return rundir.RunDir(path, self.path)

  def folded(self, index: int, seed: int) -> rundir.RunDir:
    """As `rerun`, trained on the validation examples as well."""
    path = self.path / "folded" / f"{index:04d}" / f"{seed}"
    return rundir.RunDir(path, self.path)

  def reruns(self) -> list[tuple[int, rundir.RunDir]]:
    """(trial, run directory) of every rerun that was begun."""
    names = [
      (int(folder.parent.name), int(folder.name))
      for folder in (self.path / "reruns").glob("*/*")
      if is_run(folder.relative_to(self.path).as_posix())
    ]
    return [(index, self.rerun(index, seed)) for index, seed in sorted(names)]


_INDEX = "(?:0[0-9]{3}|[1-9][0-9]{3,})"
_RUN = re.compile(
  f"trials/{_INDEX}|(?:reruns|folded)/{_INDEX}/(?:0|[1-9][0-9]*)"
)


def is_run(name: Any) -> bool:
  """Returns whether a value is the name of a run, relative to its study.

  Such as "trials/0007" and "reruns/0007/3". A name from a file becomes part of
  a path, and any other could lead anywhere.
  """
  return isinstance(name, str) and _RUN.fullmatch(name) is not None


def _check(study):
  """Refuses values of study.json that its types allow.

  Raises:
    jaxplay.UserError: With the place in the file.
  """
  with _place("$.space"):
    space = space_lib.Space.from_json(study["space"])
  with _place("$.config"):
    config_lib.own.as_rows(study["config"].get("declared") or ())
  with _place("$.objective"):
    parse_objective(study["objective"])
  with _place("$.num_trials"):
    check_length(study["num_trials"])
  if (study["algorithm"] == "explicit") != (study["points"] is not None):
    raise jaxplay.UserError(
      f"$.points: algorithm {study['algorithm']!r} has"
      f" {'no points' if study['points'] is None else 'points'}"
    )
  keys, end = {p.key for p in space.parameters}, 0
  for number, batch in enumerate(study.get("suggested", ())):
    place, after = f"$.suggested[{number}]", batch["after"]
    if after < end:
      raise jaxplay.UserError(
        f"{place}.after is {after}, and the batch before it ends at {end}"
      )
    end = after + len(batch["points"])
    for i, point in enumerate(batch["points"]):
      if not point.keys() <= keys:
        raise jaxplay.UserError(
          f"{place}.points[{i}] has {', '.join(point.keys() - keys)}, which is"
          " not in the space"
        )
  if end > study["num_trials"]:
    raise jaxplay.UserError(
      f"$.num_trials is {study['num_trials']}, and the suggested trials end at"
      f" {end}"
    )


@contextlib.contextmanager
def _place(place):
  """Puts a place in study.json in front of a refusal."""
  try:
    yield
  except jaxplay.UserError as error:
    raise jaxplay.UserError(f"{place}: {error}") from None


def _differences(here, definition):
  """Place in study.json -> (old, new) of what makes it another study.

  The goal and the notes do not count, and the config file may be moved: its
  content is compared.
  """
  old, new = _places(here), _places(definition)
  changed = {
    key: (old.get(key, _NOTHING), new.get(key, _NOTHING))
    for key in dict.fromkeys([*old, *new])
    if old.get(key, _NOTHING) != new.get(key, _NOTHING)
  }
  of_config = config_lib.differences(here["config"], definition["config"])
  for key, pair in of_config.items():  # Reported once.
    changed.pop(f"overrides.{key}", None)
    changed[f"config.{key}"] = pair
  # The study may have more trials than its file: extended, or suggested.
  file_trials, num_trials = here.get("file_trials", 1), definition["num_trials"]
  if num_trials < file_trials:
    changed["num_trials"] = file_trials, num_trials
  return changed


_NOTHING = object()


def _shown(value):
  return "absent" if value is _NOTHING else repr(value)


def _places(study):
  """Place -> value, of what must not change apart from the config."""
  parts = {key: study[key] for key in ("algorithm", "seed", "objective")}
  for key, value in study["overrides"].items():
    parts[f"overrides.{key}"] = value
  for row in study["space"]:
    for name, value in row.items():
      parts[f"space.{row.get('label', row['key'])}.{name}"] = value
  for index, point in enumerate(study["points"] or ()):
    parts[f"points[{index}]"] = point
  return parts


def planned(
  base: Mapping[str, Any], point: Mapping[str, Any], **more: Any
) -> ml_collections.ConfigDict:
  """The config of a trial, not checked; arguments as of `trial_config`."""
  config = config_lib.from_json(base)
  # Switches first: a part has defaults of its own.
  for key in sorted(point, key=lambda key: key not in config_lib.own.GROUPS):
    config_lib.select(config, key, point[key])
  for key, value in more.items():
    config_lib.select(config, key, value)
  return config


def trial_config(
  base: Mapping[str, Any], point: Mapping[str, Any], **more: Any
) -> ml_collections.ConfigDict:
  """The checked config of a trial.

  Args:
    base: Nested config of study.json.
    point: {config key: value}.
    **more: Further top-level keys, such as seed.

  Raises:
    jaxplay.UserError: The config's checks refuse the values.
  """
  config = planned(base, point, **more)
  config_lib.validate(config)
  return config


def find(root: str | os.PathLike) -> list[StudyDir]:
  """Every study under a folder, in the order of their paths.

  Raises:
    jaxplay.UserError: There is no such folder, or it is in a bucket.
  """
  if not rundir.is_local(rundir.at(root)):
    raise jaxplay.UserError(
      "studies in buckets cannot be listed; name each of them"
    )
  if not os.path.isdir(root):
    raise jaxplay.UserError(f"there is no folder {str(root)!r}")
  studies = []
  for folder, below, files in os.walk(os.fspath(root)):
    below.sort()
    if "study.json" in (*files, *below):  # As a folder it is damaged.
      below.clear()  # Its trials hold no studies.
      studies.append(StudyDir(folder))
  return studies


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
  """Rows as CSV; every key that some row has is a column, in order.

  A text that a spreadsheet would take for a formula gets an apostrophe in front
  of it (OWASP, CSV Injection).
  """
  columns = list(dict.fromkeys(key for row in rows for key in row))
  lines = [columns, *([row.get(c, "") for c in columns] for row in rows)]
  return "".join(map(_csv_line, lines))


def _csv_line(cells):
  file = io.StringIO()
  # It quotes line ends only if they are those that it writes itself.
  csv.writer(file, lineterminator="\r\n").writerow(map(_cell, cells))
  return file.getvalue().removesuffix("\r\n") + "\n"


def _cell(value):
  is_formula = str(value).startswith(("=", "+", "-", "@", "\t", "\r"))
  if isinstance(value, int | float) or not is_formula:
    return value
  try:
    float(value)  # Text, such as a choice of "-1", may be a number.
  except (TypeError, ValueError):
    return f"'{value}"
  return value
