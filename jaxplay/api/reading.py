"""What reads studies and runs: results, checks, comparisons, reports."""

import os
import pathlib
import re
import time
from typing import Any, Literal

import jaxplay
from jaxplay import rundir
from jaxplay.analysis import results as results_lib
from jaxplay.api import arguments
from jaxplay.finding import Finding

# The way out where the directory of a report cannot be written.
OUT = "`jaxplay report` with --out=FILE.html writes the page elsewhere"

LIVE_SECONDS = 10.0


@arguments.public()
def read(
  path: arguments.Place, objective: arguments.Metric | None = None
) -> results_lib.Results:
  """Reads the results of a study, or of a run as a study of one trial.

  Args:
    path: Study or run directory, finished or not.
    objective: Judge by another logged metric; final:METRIC for its last value.

  Returns:
    The trials; `to_arrays()` and `to_dataframe()` give them as columns.

  Raises:
    jaxplay.UserError: There is no study or run, or the metric was not logged.

  Examples:
    >>> import jaxplay as jp
    >>> results = jp.read("runs/study")
    >>> best = results.ranked[0]
    >>> columns = results.to_arrays()
    >>> columns["hparams.learning_rate"].shape
    (8,)
  """
  from jaxplay.analysis import compare as compare_lib

  return compare_lib.read(path, objective)


@arguments.public()
def read_run(path: arguments.Place) -> results_lib.Trial:
  """Reads a run: its config, status and curves.

  Args:
    path: Run directory, finished or not.

  Raises:
    jaxplay.UserError: There is no run.

  Examples:
    >>> import jaxplay as jp
    >>> run = jp.read_run("runs/constant")
    >>> run.status
    'completed'
  """
  return results_lib.read_run(path)


@arguments.public()
def check(study: arguments.Source) -> list[Finding]:
  """Checks a study or a run as the playbook prescribes.

  Args:
    study: Study or run directory, or results.

  Returns:
    A finding per check: its verdict (ok, warn, fail, or unknown where data is
    missing), the numbers that decided it, and what to do.

  Raises:
    jaxplay.UserError: There is no study or run.

  Examples:
    >>> import jaxplay as jp
    >>> findings = jp.check("runs/study")
    >>> sorted({finding.verdict for finding in findings})
    ['ok', 'unknown', 'warn']
  """
  from jaxplay.analysis import checklist, curves

  if isinstance(study, results_lib.Results):
    return checklist.check_study(study)
  if (rundir.at(study) / "study.json").exists():
    return checklist.check_study(results_lib.read_study(study))
  results_lib.read_run(study)  # Refuses what is not a run.
  return curves.check_run(rundir.RunDir(study))


@arguments.public()
def importance(study: arguments.Source) -> list[Any]:
  """Finds which hyperparameters matter, which interact and which do not.

  Args:
    study: Study directory, or results.

  Returns:
    An `analysis.importance.Importances` for each combination of scientific
    choices with at least 16 trials: each hyperparameter's share of the variance
    of the scores of trials, that of each pair's interaction, with 99%
    intervals, and what follows from them.
    Empty with fewer trials, or if all have the same value.

  Raises:
    jaxplay.UserError: There is no study or run.

  Examples:
    >>> import jaxplay as jp
    >>> for row in jp.importance("runs/study"):
    ...   print(row.group, row.matter, row.interact, row.idle)
  """
  from jaxplay.analysis import importance as importance_lib

  return importance_lib.importances(_results(study))


@arguments.public("compare")
def compare(
  baseline: arguments.Source,
  candidate: arguments.Source,
  *,
  objective: arguments.Metric | None = None,
  smallest: arguments.Measure = 0.0,
  log: arguments.Log | None = None,
) -> Any:
  """Decides whether a candidate study should replace a baseline.

  Args:
    baseline: Study or run directory, or results.
    candidate: Study or run directory, or results.
    objective: Judge by another logged metric.
    smallest: Least improvement that is worth the complexity of the change, in
      units of the objective.
    log: Append verdict and evidence to a log of launches.

  Returns:
    An `analysis.compare.Comparison`: verdict, improvement with its confidence
    interval, caveats, advice.

  Raises:
    jaxplay.UserError: One of them has no value, or the metrics differ.

  Examples:
    >>> import jaxplay as jp
    >>> comparison = jp.compare("runs/study", "runs/study")
    >>> comparison.verdict
    'inconclusive'
  """
  from jaxplay.analysis import compare as compare_lib

  comparison = compare_lib.compare(
    _results(baseline, objective),
    _results(candidate, objective),
    smallest,
  )
  if log is not None:
    append(log, compare_lib.log_entry(comparison, time.strftime("%Y-%m-%d")))
  return comparison


def _results(source, objective=None):
  """The results of a path, or those that were given, by another objective."""
  if not isinstance(source, results_lib.Results):
    return read(source, objective)
  return source if objective is None else read(source.path, objective)


def write_comparison(
  baseline: results_lib.Results,
  candidate: results_lib.Results,
  comparison: Any,
  findings: list[list[Finding]],
  *,
  out: arguments.Page | None = None,
) -> pathlib.Path:
  """Writes the page that shows two studies side by side.

  Args:
    baseline: A study.
    candidate: A study.
    comparison: Of the two, by `compare`.
    findings: Of each.
    out: The page that shows both; default: comparison.html in CANDIDATE.

  Returns:
    Path of the page.
  """
  from jaxplay import report

  path = out or rundir.at(candidate.path) / "comparison.html"
  with rundir.written(path, "--out=FILE.html writes the page elsewhere"):
    report.write_comparison(
      comparison, baseline, candidate, findings, path=path
    )
  return rundir.at(path)


@arguments.public("report")
def write_report(
  path: arguments.Place,
  *,
  objective: arguments.Metric | None = None,
  out: arguments.Page | None = None,
  figures: arguments.Folder | None = None,
  format: Literal["svg", "png"] | None = None,
) -> pathlib.Path:
  """Writes report.html of a study, a run or a ladder, finished or not.

  Args:
    path: Study, run or ladder directory.
    objective: Judge by another logged metric, on a page of its own;
      final:METRIC for its last value.
    out: Write the page there, and nothing in the directory that it is about.
    figures: Folder for each figure as a file, too.
    format: Of the figures; default: svg.

  Returns:
    Path of the page.

  Raises:
    jaxplay.UserError: There is nothing to report on, or the metric was not
      logged.

  Examples:
    >>> import jaxplay as jp
    >>> jp.write_report("runs/study", figures="runs/figures").name
    'report.html'
  """
  from jaxplay.api import scaling

  kind = kind_of(path, objective, out, figures, format)
  if kind == "ladder":
    ladder = scaling.read_ladder(path)
    law, _, _, page = scaling.write_ladder(ladder, out)
    scaling.write_figures(ladder, law, figures, format)
    return page
  if kind == "run":
    trial = results_lib.read_run(path)
    _, page = write_run(path, trial, objective, out=out)
    write_run_figures(path, objective, figures, format)
    return page
  results = results_lib.read_study(path, objective)
  _, page = write_study(results, out=out)
  write_figures(results, figures, format)
  return page


def kind_of(
  path: str | os.PathLike[str],
  objective: str | None = None,
  out: str | os.PathLike[str] | None = None,
  figures: str | os.PathLike[str] | None = None,
  format: str | None = None,
) -> Literal["study", "run", "ladder"]:
  """What a report is about, after checking where it is to be written.

  Raises:
    jaxplay.UserError: It is a plan, or the options do not fit.
  """
  if format and not figures:
    raise jaxplay.UserError(
      f"{arguments.option('format')}={format} is for the figures; add"
      f" {arguments.option('figures')}=DIR"
    )
  folder = rundir.at(path)
  for written in (out, figures):
    if written is not None and folder.is_dir():
      rundir.refuse_links_in(folder, written)
  if (folder / "ladder.json").exists():
    if objective:
      raise jaxplay.UserError(
        f"{arguments.option('objective')} cannot be given for {str(path)!r}:"
        " it holds a ladder, whose law is fitted to its own loss"
      )
    return "ladder"
  if (folder / "plan.json").exists():
    raise jaxplay.UserError(
      f"{str(path)!r} holds a plan, whose page is"
      f" {str(folder / 'report.html')!r}; the command that made it writes it"
      " again, and its studies have reports of their own"
    )
  return "study" if (folder / "study.json").exists() else "run"


def write_study(
  results: results_lib.Results,
  live: bool = False,
  out: str | os.PathLike[str] | None = None,
) -> tuple[list[Finding], pathlib.Path]:
  """Checks a study and writes all that is derived from it.

  Under another objective than the study's own that is a page of another name,
  and nothing else: the study's own findings stay.

  Args:
    results: The study.
    live: Whether the page loads itself again.
    out: Where to write the page, and nothing else; None: all, in the study.

  Returns:
    (findings, path of the report)
  """
  from jaxplay import report
  from jaxplay.analysis import checklist, refine
  from jaxplay.study import study as study_lib

  directory = study_lib.StudyDir(results.path)
  findings = checklist.check_study(results)
  next_study = refine.next_study(results, findings)
  objective = (results.select, results.objective)
  is_own = objective == study_lib.parse_objective(results.study["objective"])
  page = "report.html" if is_own else _page_name(*objective)
  path = rundir.at(out) if out else directory.path / page
  with rundir.written(path, OUT):
    if out is None and is_own:
      directory.write_findings([f.as_json() for f in findings])
      rundir.write_text(directory.path / "next_study.py", next_study)
      table = study_lib.as_csv(results_lib.trial_rows(results))
      rundir.write_text(directory.path / "trials.csv", table)
    report.write(results, findings, path=path, next_study=next_study, live=live)
  return findings, path


def write_run(
  path: str | os.PathLike[str],
  trial: results_lib.Trial,
  objective: str | None = None,
  live: bool = False,
  out: str | os.PathLike[str] | None = None,
) -> tuple[list[Finding], pathlib.Path]:
  """As `write_study`, for the run of a directory."""
  from jaxplay import report
  from jaxplay.analysis import curves

  run = rundir.RunDir(path)
  judged = objective or run.objective()
  config = results_lib.flat(run.config() or {})
  findings = curves.check_whole(trial, judged, config)
  is_own = judged == run.objective()
  page = "report.html" if is_own else _page_name("best", judged)
  page_path = rundir.at(out) if out else run.path / page
  with rundir.written(page_path, OUT):
    if is_own and not out:  # So that page and file agree.
      run.write_findings([f.as_json() for f in findings])
    report.write_run(
      trial, findings, path=page_path, objective=objective or "", live=live
    )
  return findings, page_path


@arguments.public()
def figures(study: arguments.Source) -> dict[str, Any]:
  """Draws the figures of a study, which a notebook shows.

  Without network: `altair.renderers.enable("png")`.

  Args:
    study: Study or run directory, or results.

  Returns:
    Title to altair.Chart, as in the report.

  Raises:
    jaxplay.UserError: There is no study or run.

  Examples:
    >>> import jaxplay as jp
    >>> charts = jp.figures("runs/study")
    >>> chart = charts["hparams.learning_rate: every trial"]
  """
  from jaxplay.analysis import plots_study

  return plots_study.charts(_results(study))


@arguments.public()
def write_figures(
  results: arguments.Source,
  folder: arguments.Folder | None = None,
  format: Literal["svg", "png"] | None = None,
) -> None:
  """Writes each figure of a study as a file, if there is a folder for them.

  Args:
    results: Study or run directory, or results.
    folder: Made if need be; None: nothing is written.
    format: "svg" or "png"; None: svg.

  Examples:
    >>> import jaxplay as jp
    >>> jp.write_figures(jp.read("runs/study"), "runs/figures", "png")
  """
  from jaxplay import report

  if folder is not None:
    results = _results(results)
    arguments.make_folder(folder)
    report.figures(results, folder, format or "svg")


def write_run_figures(
  path: str | os.PathLike[str],
  objective: str | None,
  folder: str | os.PathLike[str] | None,
  format: Literal["svg", "png"] | None = None,
) -> None:
  """As `write_figures`, of a run."""
  from jaxplay.analysis import compare as compare_lib

  if folder is not None or objective:
    write_figures(compare_lib.read(path, objective), folder, format)


def check_trials(results: results_lib.Results) -> list[Finding]:
  """The checks of a study; none for a run or a single trial."""
  from jaxplay.analysis import checklist

  return checklist.check_study(results) if len(results.trials) > 1 else []


def _page_name(select, objective):
  """Of the page under another objective: report-valid-loss.html."""
  words = ["final", objective] if select == "final" else [objective]
  return f"report-{re.sub(r'[^a-zA-Z0-9_.]+', '-', '-'.join(words))}.html"


def append(path: str | os.PathLike[str], text: str) -> None:
  """Appends to a text file, unless it holds the text already."""
  try:
    with rundir.open_to_append(path) as file:
      file.seek(0)
      if text not in file.read().decode("utf-8", "replace"):
        file.write(text.encode(errors="backslashreplace"))
  except OSError as error:
    raise jaxplay.UserError(
      f"cannot write {str(path)!r}: {error.strerror}"
    ) from None
