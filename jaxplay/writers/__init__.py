"""Writers of curves for other programs, while a run trains.

`config.writers` names them. Each is a module of this package with one function,
`open(run)`, which returns a `Writer`; it imports a library, an extra of the
same name. A run never depends on them: a writer that fails is turned off.
"""

import dataclasses
import functools
import importlib
import importlib.util
import pathlib
import re
import secrets
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

import jaxplay
from jaxplay import config as config_lib
from jaxplay import rundir

# Of a status after which the run goes on elsewhere, or later.
_MAY_GO_ON = ("failed", "preempted")
# Libraries change what is global while they start or end a run.
_ONE_AT_A_TIME = threading.Lock()


class Writer(Protocol):
  """What writes the curves of one run to one place."""

  def write(self, step: int, line: Mapping[str, float | None]) -> None:
    """Writes the metrics of a step; None: the value was not finite.

    After a resume the lines come from the first on: those that the place has
    already must not appear twice.
    """

  def close(self, status: Mapping[str, Any]) -> None:
    """Ends the run, for now or for good.

    Args:
      status: As in status.json: "status", and of a completed run "best" and
        "test".
    """


@dataclasses.dataclass(frozen=True)
class Run:
  """What a writer needs to know of a run.

  Attributes:
    path: The run directory.
    hparams: Hyperparameter -> its value: number, bool or text.
  """

  path: pathlib.Path
  hparams: Mapping[str, bool | float | str]

  @functools.cached_property
  def root(self) -> pathlib.Path:
    """The study or ladder that the run is a part of, or the run itself."""
    path = rundir.absolute(self.path)
    for folder in list(path.parents)[:4]:
      if any((folder / name).exists() for name in _ROOTS):
        return folder
    return path

  @property
  def name(self) -> str:
    """Name within the project: "trials/0007", or that of the folder."""
    path = rundir.absolute(self.path)
    if path == self.root:
      return path.name
    return "/".join(path.parts[len(self.root.parts) :])

  @property
  def project(self) -> str:
    """Name of the study, or of the folder that a single run is in."""
    path = rundir.absolute(self.path)
    folder = path.parent if path == self.root else self.root
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", folder.name) or "jaxplay"

  @functools.cached_property
  def id(self) -> str:
    """Identifies the run wherever it is moved to, and when it resumes."""
    path = self.path / "writers.json"
    known = rundir.read_json(path, _File)
    if known is None:
      known = {"id": secrets.token_hex(8)}
      rundir.write_json(path, known)
    return known["id"]


_ROOTS = ("study.json", "ladder.json")
_File = dict[str, str]


def hyperparameters(flat: Mapping[str, Any]) -> dict[str, bool | float | str]:
  """The keys of a config that a study may vary and that have an effect.

  Args:
    flat: Its dotted keys and values, as from `flatten`; lists will do.
  """
  flat = {k: tuple(v) if isinstance(v, list) else v for k, v in flat.items()}
  return {
    key: plain(value)
    for key, value in flat.items()
    if config_lib.has_effect(key, flat)
    and not config_lib.keys_of(flat)[key].fixed
  }


def plain(value: Any) -> bool | float | str:
  """A value of a hyperparameter as the programs take it."""
  return value if isinstance(value, bool | int | float) else str(value)


def summary(
  status: Mapping[str, Any],
) -> list[tuple[int, dict[str, float | None]]]:
  """What a status adds to the lines of a completed run.

  Args:
    status: The content of status.json.

  Returns:
    (step, metrics): best/OBJECTIVE, such as "best/valid/error_rate", and the
    test metrics.
  """
  added: list[tuple[int, dict[str, float | None]]] = []
  if status["status"] != "completed":
    return added
  if best := status.get("best"):
    added.append((best["step"], {f"best/{best['metric']}": best["value"]}))
  if test := status.get("test"):
    metrics = {key: value for key, value in test.items() if key != "step"}
    added.append((test["step"], metrics))
  return added


def refuse_missing(names: Iterable[str]) -> None:
  """Refuses writers whose library is not installed.

  Raises:
    jaxplay.UserError: It names the extra.
  """
  for name in dict.fromkeys(names):
    spec = importlib.util.find_spec(name)
    # A folder of that name, as wandb makes it, is not the library.
    if spec is None or spec.origin is None:
      raise jaxplay.UserError(
        f"config.writers has {name!r}, which is not installed; pip install"
        f" 'jaxplay[{name}]', or leave it out"
      )


class Writers:
  """The writers of a run. Nothing here raises: a failure turns one off."""

  def __init__(
    self,
    path: pathlib.Path,
    names: Iterable[str],
    config: Mapping[str, Any],
    tell: Callable[[str], None],
  ):
    """Opens nothing yet.

    Args:
      path: The run directory.
      names: Of `config.writers`, or none on a host that does not write.
      config: The run's config.
      tell: Called with a sentence if a writer fails.
    """
    flat = config_lib.flatten(config)
    self._run = Run(path, hyperparameters(flat))
    self._names, self._tell = list(dict.fromkeys(names)), tell
    self._open: dict[str, Writer] = {}
    self._written: dict[str, int] = {}

  def follow(
    self,
    lines: Sequence[Mapping[str, Any]],
    status: Mapping[str, Any] | None = None,
  ) -> None:
    """Writes the lines that are new, and how the run stands.

    Args:
      lines: All lines of metrics so far.
      status: The content of status.json, if it is new.
    """
    for name in list(self._names):
      try:
        self._follow(name, lines, status)
      except Exception as error:
        self._names.remove(name)
        self._open.pop(name, None)
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        self._tell(
          f"warning: the writer {name!r} of {self._run.name} failed and is off"
          f" for the rest of this run ({reason})"
        )

  def _follow(self, name, lines, status):
    has_stopped = status is not None and status["status"] != "running"
    if name not in self._open:
      # Before training began: lines of an earlier start may be unknown here.
      if has_stopped and status["status"] in _MAY_GO_ON:
        return
      with _ONE_AT_A_TIME:
        module = importlib.import_module(f"jaxplay.writers.{name}")
        self._open[name], self._written[name] = module.open(self._run), 0
    writer = self._open[name]
    for line in lines[self._written[name] :]:
      metrics = rundir.plain(line)
      writer.write(metrics.pop("step"), metrics)
    self._written[name] = len(lines)
    if has_stopped:
      with _ONE_AT_A_TIME:
        writer.close(status)
      del self._open[name]
