"""Figures as files, SVG or PNG, without a browser."""

import os
import pathlib
import re
from typing import Any

import vl_convert

import jaxplay
from jaxplay import rundir
from jaxplay.analysis import plots_study
from jaxplay.analysis import results as results_lib
from jaxplay.playbook import plots as plots_answer
from jaxplay.playbook import result as result_lib
from jaxplay.scaling import ladder as ladder_lib
from jaxplay.scaling import law as law_lib
from jaxplay.scaling import plots as plots_ladder

FORMATS = ("svg", "png")

# Fonts of equal widths, of which most machines have one; the first is that of
# vl-convert, which measures the texts. And the mean width of a letter.
_FONT = "Liberation Sans, Arial, Helvetica, sans-serif"
_LETTER = 6.0


def answer_figures(
  answer: result_lib.ProcedureResult,
  folder: str | os.PathLike,
  format: str = "svg",
) -> list[pathlib.Path]:
  """Write each figure of a procedure's result into a file, like `figures`."""
  drawn = plots_answer.figures(answer.figures)
  specs = {figure.name: plots_ladder.spec(figure) for figure in drawn}
  return _write_figures(specs, folder, format)


def ladder_figures(
  results: ladder_lib.LadderResults,
  law: law_lib.Fit | None,
  folder: str | os.PathLike,
  format: str = "svg",
) -> list[pathlib.Path]:
  """Write each figure of a ladder into a file, like `figures`."""
  drawn = plots_ladder.figures(results, law)
  specs = {figure.name: plots_ladder.spec(figure) for figure in drawn}
  return _write_figures(specs, folder, format)


def figures(
  results: results_lib.Results,
  folder: str | os.PathLike,
  format: str = "svg",
) -> list[pathlib.Path]:
  """Write each figure of a study into a file.

  Args:
    results: The study.
    folder: Created if missing.
    format: One of `FORMATS`.

  Returns:
    The files.

  Raises:
    jaxplay.UserError: Unknown format.
  """
  drawn = plots_study.figures(results)
  specs = {figure.name: plots_study.spec(figure, results) for figure in drawn}
  return _write_figures(specs, folder, format)


def _write_figures(specs, folder, format):
  if format not in FORMATS:
    raise jaxplay.UserError(
      f"expected {' or '.join(FORMATS)} as format of figures, got {format!r}"
    )
  folder = rundir.at(folder)
  folder.mkdir(parents=True, exist_ok=True)
  written = []
  for number, (name, spec) in enumerate(specs.items(), 1):
    stem = re.sub(r"[^\w.=-]+", "_", name).strip("_")
    path = folder / f"{number:02d}_{stem}.{format}"
    write_figure(spec, path)
    written.append(path)
  return written


def write_figure(spec: dict[str, Any], path: str | os.PathLike) -> None:
  """Write a figure into a file.

  Args:
    spec: Vega-Lite, with its rows.
    path: Its suffix is one of `FORMATS`.
  """
  path = rundir.at(path)
  config = {"background": "white", "font": _FONT, "padding": _padding(spec)}
  options: dict[str, Any] = dict(config=config, show_warnings=False)
  if path.suffix == ".png":
    png = vl_convert.vegalite_to_png(spec, scale=2, **options)
    rundir.write_bytes(path, png)
  else:
    rundir.write_text(path, vl_convert.vegalite_to_svg(spec, **options))


def _padding(spec):
  """Padding of a figure in a file, in pixels.

  Beside a legend a fifth of its longest label: the viewer may lack the font,
  and substitute one that is up to that much wider.
  """
  labels = [
    str(label)
    for layer in spec.get("layer", ())
    if (colour := layer.get("encoding", {}).get("color", {})).get("legend")
    and "orient" not in colour["legend"]
    for label in colour.get("scale", {}).get("domain", ())
  ]
  room = 0.2 * _LETTER * max(map(len, labels), default=0)
  return {"left": 5, "top": 5, "bottom": 5, "right": 5 + round(room)}
