"""A ladder: model sizes, each a base run at a constant rate with cooldowns.

    LADDER/ladder.json      goal, base config, sizes, lengths, cooldown
           provenance.json  code, environment and command
           sizes/64x2/counts.json   parameters and FLOPs
                      trunk/        the base run, a run directory
                      00002000/     a cooldown branch, ends at step 2,000
           findings.json, report.html    derived

Each pair of a size and a length is a point of a scaling law. Once the base run
exists, it costs only a cooldown (Hägele et al. 2024, section 5).
"""

import dataclasses
import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import ml_collections

import jaxplay
from jaxplay import commands, provenance, rundir, terminal
from jaxplay import config as config_lib
from jaxplay.scaling import law as law_lib


@dataclasses.dataclass(frozen=True, kw_only=True)
class Ladder:
  """A ladder, as returned by `get_ladder()` of a ladder file.

  Attributes:
    goal: Purpose of the ladder, in a sentence.
    config: The base config as for `--config`, FILE[:ARG]; the path is relative
      to the ladder file or else to the current folder.
    sizes: Name -> config keys of that size, with its learning rate.
    steps: Lengths in steps, cooldown included: for every size, or name ->
      lengths.
    overrides: Changes of the base config, for all sizes.
    cooldown_fraction: Share of the steps of each cooldown.
    cooldown_shape: One of `config.COOLDOWN_SHAPES`.
    notes: Notes for the reader of the report.

  Examples:
    >>> import jaxplay as jp
    >>> ladder = jp.Ladder(
    ...   goal="How does the loss fall with parameters and tokens?",
    ...   config="experiments/pythonlib_lm/config.py",
    ...   sizes={f"w{n}": {"model.width": n} for n in (32, 64, 128)},
    ...   steps=(300, 600, 1_200),
    ... )
  """

  goal: str
  config: str
  sizes: Mapping[str, Mapping[str, Any]]
  steps: Sequence[int] | Mapping[str, Sequence[int]]
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  cooldown_fraction: float = 0.2
  cooldown_shape: str = "1-sqrt"
  notes: str = ""


@dataclasses.dataclass(frozen=True)
class ModelSize:
  """A model size: its base run and its branches.

  Attributes:
    name: Name of the size.
    config: Config of the base run, up to the start of the last branch.
    branches: Length in steps -> config of the branch.
    starts: Length in steps -> step at which the branch begins.
  """

  name: str
  config: ml_collections.ConfigDict
  branches: Mapping[int, ml_collections.ConfigDict]
  starts: Mapping[int, int]


def load(path: str) -> dict[str, Any]:
  """Reads a ladder file; returns the contents of ladder.json.

  Raises:
    jaxplay.UserError: The file raises an error, or the ladder is invalid.
  """
  ladder = config_lib.from_user_file(path, "get_ladder", Ladder)
  if not ladder.goal.strip():
    raise jaxplay.UserError(
      f"ladder file {path!r} has no goal; state the purpose of the ladder in a"
      " sentence"
    )
  _check_sizes(path, ladder.sizes)
  if not 0 < ladder.cooldown_fraction < 1:
    raise jaxplay.UserError(
      f"ladder file {path!r}: expected cooldown_fraction in (0, 1), got"
      f" {ladder.cooldown_fraction}"
    )
  config_file = config_lib.beside(path, ladder.config)
  config = config_lib.load(config_file)
  for key, value in ladder.overrides.items():
    _check_key(path, key, _DECIDED)
    config_lib.override(config, key, value)
  config_lib.resolve(config)
  if not config.objective.endswith("/loss"):
    raise jaxplay.UserError(
      f"ladder file {path!r}: expected a loss as config.objective, got"
      f" {config.objective!r}"
    )
  if config.dataset.fold_validation:
    raise jaxplay.UserError(
      f"ladder file {path!r}: config.dataset.fold_validation is True, so its"
      f" runs have no {config.objective!r} to fit; leave it out"
    )
  steps = ladder.steps
  if not isinstance(steps, Mapping):
    steps = {name: steps for name in ladder.sizes}
  for name in steps:
    if name not in ladder.sizes:
      raise jaxplay.UserError(
        f"ladder file {path!r}: unknown size {name!r} in steps; sizes are"
        f" {', '.join(map(repr, ladder.sizes))}"
      )
  for name in ladder.sizes:
    lengths = steps.get(name)
    if not isinstance(lengths, Sequence) or not (
      lengths and all(type(n) is int and n > 0 for n in lengths)
    ):
      raise jaxplay.UserError(
        f"ladder file {path!r}: expected a list of positive integers as steps"
        f" of size {name!r}, got {lengths!r}"
      )
  return json.loads(
    json.dumps(
      {
        "goal": ladder.goal,
        "notes": ladder.notes,
        "config_file": config_lib.absolute(config_file),
        "config": config_lib.as_json(config),
        "sizes": {k: config_lib.as_json(v) for k, v in ladder.sizes.items()},
        "steps": {name: sorted(set(steps[name])) for name in ladder.sizes},
        "cooldown_fraction": ladder.cooldown_fraction,
        "cooldown_shape": ladder.cooldown_shape,
      }
    )
  )


# Keys that the ladder sets, and keys that must be the same for all sizes.
_DECIDED = ("schedule", "cooldown_shape", "max_train_steps", "keep_steps")
_SHARED = (*_DECIDED, "dataset.", "objective", "seed")


def _check_sizes(path, sizes):
  if not isinstance(sizes, Mapping) or not all(
    isinstance(name, str) and isinstance(size, Mapping)
    for name, size in sizes.items()
  ):
    raise jaxplay.UserError(
      f"ladder file {path!r}: expected a dict of names and config keys as"
      f" sizes, got {sizes!r}"
    )
  if len(sizes) < 2:
    raise jaxplay.UserError(
      f"ladder file {path!r}: expected at least 2 sizes, got {len(sizes)}; a"
      " scaling law needs 3"
    )
  models: dict = {}
  for name, size in sizes.items():
    if not re.fullmatch(r"\w[\w.+-]*", name):
      raise jaxplay.UserError(
        f"ladder file {path!r}: invalid name of a size {name!r}, which also"
        " names a folder; use letters, digits and hyphens"
      )
    for key in size:
      _check_key(path, key, _SHARED)
    model = {k: v for k, v in size.items() if not k.startswith("hparams.")}
    twin = models.setdefault(json.dumps(model, sort_keys=True), name)
    if twin != name:
      raise jaxplay.UserError(
        f"ladder file {path!r}: sizes {twin!r} and {name!r} are the same model"
      )


def _check_key(path, key, refused):
  if key.startswith(refused) or key == "hparams.cooldown_fraction":
    raise jaxplay.UserError(
      f"ladder file {path!r} sets {key!r}, which is set by the ladder or must"
      " be the same for all sizes"
    )


class LadderFile(TypedDict):
  """ladder.json."""

  goal: str
  notes: str
  config_file: str
  config: rundir.BaseConfig
  sizes: dict[rundir.Name, dict[str, Any]]
  steps: dict[rundir.Name, list[rundir.Positive]]
  cooldown_fraction: rundir.Share
  cooldown_shape: str
  command: list[str]


class _Flops(TypedDict):
  formula: float
  compiled: float | None


class Counts(TypedDict):
  """counts.json of a size: parameters by kind, FLOPs and tokens of a step."""

  parameters: dict[str, rundir.Count]
  flops_per_step: _Flops
  tokens_per_step: rundir.Positive


class LadderDir(rundir.Directory):
  """Reads and writes one ladder directory."""

  kind = "a ladder"
  shape = LadderFile

  def ladder(self) -> dict[str, Any]:
    """Returns the content of ladder.json.

    Raises:
      jaxplay.UserError: There is no ladder here.
    """
    return self._definition()

  def _read(self):
    ladder = super()._read()
    if ladder is not None and ladder["sizes"].keys() != ladder["steps"].keys():
      raise rundir.Damaged(
        self.path / "ladder.json", "$.steps: its sizes differ from $.sizes"
      )
    return ladder

  def create(self, definition: Mapping[str, Any]) -> None:
    """Creates the ladder, or continues it if it exists.

    Sizes and lengths may be added, but none removed; goal and notes are
    replaced.

    Raises:
      jaxplay.UserError: The directory holds another ladder, or other files.
    """
    existing = self._refuse_different(definition) or {}
    self.make()
    self.note_start(provenance.record())
    command = existing.get("command", commands.typed())
    self._write(dict(definition, command=command))

  def _check_same(self, here, definition):
    """Refuses changes after which the points would not be comparable."""
    changed = config_lib.differences(here["config"], definition["config"])
    changes = [config_lib.changes(changed)] if changed else []
    for key in ("cooldown_fraction", "cooldown_shape"):
      if here[key] != definition[key]:
        changes.append(
          f"{key} was {here[key]!r} and is now {definition[key]!r}"
        )
    for name, size in here["sizes"].items():
      if definition["sizes"].get(name) != size:
        changes.append(
          f"size {name!r} was {size!r} (use a new name for a new size)"
        )
        continue
      gone = sorted({*here["steps"][name]} - {*definition["steps"][name]})
      if gone:
        changes.append(f"the lengths {gone} of size {name!r} are missing")
    if changes:
      raise jaxplay.UserError(
        f"{str(self.path)!r} holds another ladder: {changes[0]}; undo this"
        " change of the ladder file, or use another workdir"
      )

  def base_run(self, size: str) -> rundir.RunDir:
    """Returns the base run of a size, which may not exist."""
    return rundir.RunDir(self.path / "sizes" / size / "trunk", self.path)

  def branch(self, size: str, steps: int) -> rundir.RunDir:
    """Returns the branch that ends at `steps`, which may not exist."""
    path = self.path / "sizes" / size / f"{steps:08d}"
    return rundir.RunDir(path, self.path)

  def counts(self, size: str) -> dict[str, Any] | None:
    """Returns counts.json of a size; None: it does not exist."""
    return rundir.read_json(self._counts(size), Counts)

  def write_counts(self, size: str, counts: Mapping[str, Any]) -> None:
    """Writes counts.json of a size."""
    path = self._counts(size)
    path.parent.mkdir(parents=True, exist_ok=True)
    rundir.write_json(path, counts)

  def _counts(self, size):
    return self.path / "sizes" / size / "counts.json"


def model_sizes(ladder: Mapping[str, Any]) -> list[ModelSize]:
  """Returns every size with the configs of its runs, shortest runs first.

  Args:
    ladder: The contents of ladder.json.

  Raises:
    jaxplay.UserError: A config is invalid.
  """
  fraction, shape = ladder["cooldown_fraction"], ladder["cooldown_shape"]
  sizes = []
  for name, size in ladder["sizes"].items():
    starts = {
      steps: steps - config_lib.cooldown_steps(steps, fraction)
      for steps in ladder["steps"][name]
    }
    constant = config_lib.from_json(ladder["config"])
    settings = {
      "schedule": "constant",
      "max_train_steps": max(max(starts.values()), 1),
      "keep_steps": tuple(starts.values()),
      "export": False,
    }
    for key, value in (size | settings).items():
      config_lib.override(constant, key, value)
    branches = {
      # Cooldowns of two lengths may start at the same step.
      steps: _branch_config(constant, start, steps, fraction, shape)
      for steps, start in starts.items()
    }
    config_lib.validate(constant)
    sizes.append(ModelSize(name, constant, branches, starts))
  return sizes


def _branch_config(constant, start, steps, fraction, shape):
  import jax

  from jaxplay.training import branch

  config_lib.validate(constant, jax.device_count())
  return branch.planned(
    constant,
    step=start,
    cooldown_fraction=fraction,
    cooldown_shape=shape,
    overrides={"max_train_steps": steps},
  )


def train(
  ladder: Mapping[str, Any],
  path: str | os.PathLike,
  console: terminal.Console,
) -> str:
  """Trains the unfinished runs of a ladder on the devices of this process.

  All configs are checked before the directory is created.

  Args:
    ladder: The ladder, from `load`.
    path: The ladder directory; created, or continued.
    console: Shows the progress; quiet on all hosts but the first.

  Returns:
    "completed", or "preempted" after a signal. A size that diverges keeps the
    branches before that.

  Raises:
    jaxplay.UserError: A config is invalid, or the path holds something else.
  """
  from jaxplay.training import host, sharding, workload

  sizes = model_sizes(ladder)
  for size in sizes:
    workload.make_workload(size.config)
  directory = LadderDir(path)
  sharding.from_first_host(lambda: directory.create(ladder))
  with host.Preemption() as preemption:
    for size in sizes:
      if _train_size(directory, size, preemption, console) == "preempted":
        return "preempted"
  return "completed"


def _train_size(directory, size, preemption, console):
  """Trains the base run of a size and its branches; returns the last status."""
  import jax

  from jaxplay.training import branch, dry_run, sharding
  from jaxplay.training import train as train_lib

  def train_run(config, run):
    if jax.process_count() == 1 and preemption.now():
      return "preempted"
    extend = config.schedule == "constant" and run.config() is not None
    with console:
      status = train_lib.train(config, str(run.path), console, extend=extend)
    return status["status"]

  base_run = directory.base_run(size.name)
  branches = {n: directory.branch(size.name, n) for n in size.branches}
  for made in (base_run, *branches.values()):
    made.refuse_links()
  if directory.counts(size.name) is None:
    directory.write_counts(size.name, dry_run.count(size.config))
  steps = size.config.max_train_steps
  console.tell(f"size {size.name}: base run of {steps:,} steps")
  base_status = status = train_run(size.config, base_run)
  for steps, config in size.branches.items():
    if status == "preempted":
      break
    start, run = size.starts[steps], branches[steps]
    if base_status == "infeasible" and start > base_run.status()["step"]:
      console.tell(f"size {size.name} diverged before step {start:,}")
    elif run.status().get("status") not in rundir.DONE:
      console.tell(
        f"size {size.name}: cooldown from step {start:,} to {steps:,}"
      )
      sharding.from_first_host(
        lambda s=start, r=run, c=config: branch.begin(base_run, s, r, c)
      )
      status = train_run(config, run)
  return status


@dataclasses.dataclass(frozen=True)
class LadderResults:
  """The contents of a ladder directory.

  Attributes:
    path: The ladder directory.
    ladder: The contents of ladder.json.
    points: A point for each completed branch, the smallest size first.
    spent: Compute compared with a separate run for each point; None: no branch
      has completed.
    base_runs: Size -> its base run, the smallest size first.
    branches: Size -> length in steps -> its branch.
    tokens_per_step: Size -> tokens of a step.
    unique_tokens: Tokens of the training split; None: not known.
  """

  path: pathlib.Path
  ladder: Mapping[str, Any]
  points: Sequence[law_lib.Point]
  spent: law_lib.Spent | None
  base_runs: Mapping[str, rundir.RunDir]
  branches: Mapping[str, Mapping[int, rundir.RunDir]]
  tokens_per_step: Mapping[str, int]
  unique_tokens: float | None


def read(
  path: str | os.PathLike, flops_source: str = "formula"
) -> LadderResults:
  """Reads a ladder, which may be unfinished.

  Args:
    path: The ladder directory.
    flops_source: How FLOPs are counted, "formula" or "compiled".

  Raises:
    jaxplay.UserError: There is no ladder here, or the compiler did not count.
  """
  directory = LadderDir(path)
  ladder = directory.ladder()
  objective = ladder["config"]["objective"]
  points, base_runs, steps_made = [], {}, {}
  branches: dict[str, dict[int, rundir.RunDir]] = {}
  ends: dict[str, list[tuple[int, int]]] = {}
  flops_per_step, tokens_per_step, unique = {}, {}, None
  counted = {
    name: counts
    for name in ladder["sizes"]
    if (counts := directory.counts(name)) is not None
  }
  smallest_first = sorted(
    counted.items(), key=lambda item: sum(item[1]["parameters"].values())
  )
  for name, counts in smallest_first:
    base_runs[name] = directory.base_run(name)
    branches[name], ends[name] = {}, []
    steps_made[name] = base_runs[name].status().get("step", 0)
    flops_per_step[name] = counts["flops_per_step"][flops_source]
    if flops_per_step[name] is None:
      raise jaxplay.UserError(
        f"size {name!r} has no FLOPs counted by the compiler; use"
        " --count=formula"
      )
    tokens_per_step[name] = counts["tokens_per_step"]
    dataset = (base_runs[name].provenance() or {}).get("dataset") or {}
    unique = dataset.get("splits", {}).get("train", {}).get("tokens", unique)
    for steps in ladder["steps"][name]:
      run = directory.branch(name, steps)
      status = run.status()
      loss = (status.get("final") or {}).get(objective)
      if status.get("status") != "completed" or loss is None:
        continue
      branches[name][steps] = run
      if "branch" not in (facts := run.provenance() or {}):
        raise rundir.Damaged(
          run.path / "provenance.json", "'branch' is missing"
        )
      ends[name].append((facts["branch"]["step"], steps))
      embedding = counts["parameters"].get("embedding", 0)
      points.append(
        law_lib.Point(
          size=name,
          parameters=sum(counts["parameters"].values()) - embedding,
          embedding_parameters=embedding,
          tokens=steps * counts["tokens_per_step"],
          loss=loss,
          flops=steps * flops_per_step[name],
          cooled=True,
        )
      )
  spent = None
  if points:
    spent = law_lib.compute_spent(steps_made, ends, flops_per_step)
  return LadderResults(
    path=directory.path,
    ladder=ladder,
    points=points,
    spent=spent,
    base_runs=base_runs,
    branches=branches,
    tokens_per_step=tokens_per_step,
    unique_tokens=unique,
  )
