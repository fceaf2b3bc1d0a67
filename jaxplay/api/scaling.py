"""Scaling laws: ladders of model sizes, and the law fitted to them."""

import os
import pathlib
from typing import Any, Literal

import jaxplay
from jaxplay import rundir, terminal
from jaxplay.api import arguments, devices, reading
from jaxplay.finding import Finding
from jaxplay.scaling import ladder as ladder_lib
from jaxplay.scaling import law as law_lib


@arguments.public("scaling", "run")
def run_ladder(
  ladder: arguments.Definition, workdir: arguments.Folder
) -> ladder_lib.LadderResults:
  """Runs the unfinished runs of a ladder; the same call resumes.

  Args:
    ladder: Ladder file with get_ladder(): model sizes, each one constant run
      with cooldown branches.
    workdir: Ladder directory, made if need be.

  Returns:
    The points of the ladder.

  Raises:
    jaxplay.UserError: The ladder is refused, or the directory holds another.
    jaxplay.Stopped: A signal asked to stop.

  Examples:
    >>> import jaxplay as jp
    >>> results = jp.run_ladder("ladder.py", "runs/small")
    >>> len(results.points)
    6
  """
  definition = ladder_lib.load(os.fspath(ladder))
  devices.start()

  import jax

  console = terminal.Console(
    quiet=jax.process_index() != 0,
    names=("train/loss", "valid/loss"),
    log_seconds=10.0,
  )
  status = ladder_lib.train(definition, workdir, console)
  if status != "completed":
    raise jaxplay.Stopped
  return ladder_lib.read(workdir)


@arguments.public()
def read_ladder(
  path: arguments.Place, count: Literal["formula", "compiled"] = "formula"
) -> ladder_lib.LadderResults:
  """Reads the points of a ladder.

  Args:
    path: Ladder directory, finished or not.
    count: FLOPs by the formula, or as the compiler counts them.

  Raises:
    jaxplay.UserError: There is no ladder.

  Examples:
    >>> import jaxplay as jp
    >>> ladder = jp.read_ladder("runs/ladder")
    >>> len(ladder.points)
    24
  """
  return ladder_lib.read(path, count)


@arguments.public()
def fit_scaling_law(
  ladder: arguments.Ladder,
  *,
  count: Literal["formula", "compiled"] = "formula",
  count_embeddings: bool = False,
) -> tuple[law_lib.Fit, list[Finding]]:
  """Fits L(N, D) = E + A/N^a + B/D^b to the points of a ladder.

  Args:
    ladder: Ladder directory, or its points.
    count: FLOPs by the formula, or as the compiler counts them.
    count_embeddings: Count the parameters of embeddings, too.

  Returns:
    (the law, with intervals and `optimal(flops)`, what its checks reported)

  Raises:
    jaxplay.UserError: There are too few points.

  Examples:
    >>> import jaxplay as jp
    >>> law, findings = jp.fit_scaling_law("runs/ladder")
    >>> best = law.optimal(flops=1e13)
    >>> best.parameters.low < best.parameters.value < best.parameters.high
    True
  """
  from jaxplay.scaling import traps

  results = ladder
  if not isinstance(results, ladder_lib.LadderResults):
    results = ladder_lib.read(results, count)
  law = law_lib.fit(
    results.points, count_embeddings=count_embeddings, flops_source=count
  )
  return law, traps.checks(law, unique_tokens=results.unique_tokens)


def write_ladder(
  results: ladder_lib.LadderResults, out: str | os.PathLike[str] | None = None
) -> tuple[Any, str, list[Finding], pathlib.Path]:
  """Fits the law as far as the points allow, and writes the page.

  Args:
    results: The ladder.
    out: Where to write the page, and nothing else; None: all, in the ladder.

  Returns:
    (law or None, why there is none, findings, path of the report)
  """
  from jaxplay import report

  law, why = None, ""
  findings: list[Finding] = []
  try:
    law, findings = fit_scaling_law(results)
  except jaxplay.UserError as error:
    why = str(error)
  path = rundir.at(out) if out else results.path / "report.html"
  with rundir.written(path, reading.OUT):
    if out is None:
      rundir.RunDir(results.path).write_findings(
        [finding.as_json() for finding in findings]
      )
    report.write_ladder(results, law, findings, path=path, why=why)
  return law, why, findings, path


def write_figures(
  results: ladder_lib.LadderResults,
  law: Any,
  folder: str | os.PathLike[str] | None,
  format: str | None = None,
) -> None:
  """Writes each figure of a ladder as a file, if there is a folder for them."""
  from jaxplay import report

  if folder is not None:
    arguments.make_folder(folder)
    report.ladder_figures(results, law, folder, format or "svg")
