"""The HTML page: one file that holds its style, scripts and data."""

import functools
import importlib.resources
import json
import os
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import vl_convert

import jaxplay
from jaxplay import commands, finding, rundir
from jaxplay import provenance as provenance_lib
from jaxplay.analysis import plots

_SCRIPTS = ("report.js", "report.figures.js", "report.page.js")


def write_static(
  path: str | os.PathLike,
  *,
  figures: Sequence[plots.Figure],
  findings: Iterable[finding.Finding],
  said: Iterable[str] = (),
  settings: str | None = None,
  numbers: Sequence[Sequence[Any]] = (),
  **parts: Any,
) -> None:
  """Write a page without choices of objective or trials.

  Args:
    path: The HTML file; replaced atomically.
    figures: Figures that hold their rows.
    findings: Findings to list.
    said: Sentences of the result, the most important one first.
    settings: Lines of config to copy.
    numbers: Tables shown last, each (title, note, heads, rows).
    **parts: Other fields: title, goal, notes, tables, groups, provenance.
  """
  page = {
    "kind": "plain",
    "live": False,
    "said": list(said),
    "settings": settings,
    "numbers": list(numbers),
    "figures": figure_rows(figures),
    "findings": [f.as_json() for f in findings],
  }
  write(rundir.plain(page | parts), path)


def figure_rows(figures: Iterable[plots.Figure]) -> list[dict[str, Any]]:
  """The data of each figure for the page."""
  return [
    {
      "name": figure.name,
      "title": figure.title or figure.name,
      "group": figure.group,
      "source": figure.source,
      "caption": figure.caption,
      # Validation takes seconds; the tests do it.
      "spec": figure.chart.to_dict(validate=False),
    }
    for figure in figures
  ]


def command(words: Sequence[str] | str | None) -> str | None:
  """A command line as text."""
  if isinstance(words, str) or words is None:
    return words
  return commands.line(words)


def provenance_rows(
  facts: Mapping[str, Any], provenance: Mapping[str, Any]
) -> list[list[str]]:
  """The rows [name, text] of the provenance section, without empty ones.

  Args:
    facts: Name -> value of what the page is about.
    provenance: As from `RunDir.provenance`.
  """
  versions = provenance.get("versions") or {}
  code = provenance_lib.in_words(provenance) if provenance else {}
  now = time.strftime("%Y-%m-%d %H:%M:%S%z")
  rows = {
    **facts,
    **code,
    "devices": provenance.get("devices"),
    "host": provenance.get("host"),
    "folder": provenance.get("folder"),
    "started": provenance.get("time"),
    "versions": ", ".join(f"{k} {v}" for k, v in sorted(versions.items())),
    "report": f"{now}, by jaxplay {jaxplay.__version__}",
  }
  return [[name, str(value)] for name, value in rows.items() if value]


def write(page: Mapping[str, Any], path: str | os.PathLike) -> None:
  """Write a page from its data, JSON values; replaces the file atomically."""
  parts = {
    "css": _asset("report.css"),
    "js": "\n".join(_asset(name) for name in _SCRIPTS),
    "vega": _vega(),
    "data": _as_script(page),
  }
  text = re.sub(
    r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _asset("report.html")
  )
  rundir.write_text(rundir.at(path), text)


@functools.cache
def _vega():
  """Vega, Vega-Lite and vega-embed as one script."""
  return vl_convert.javascript_bundle().replace("</script", "<\\/script")


def _asset(name):
  return (importlib.resources.files("jaxplay.report") / name).read_text("utf-8")


def _as_script(value):
  """JSON that cannot end a script element, whatever it contains."""
  text = json.dumps(value, separators=(",", ":"), allow_nan=False)
  return text.replace("<", "\\u003c").replace(">", "\\u003e")
