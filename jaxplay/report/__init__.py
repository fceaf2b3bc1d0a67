"""One self-contained HTML page per study, run, ladder, plan or comparison.

Python computes, report.js shows. The data of a page are one block of JSON in
it: the trials as columns, each metric's values and what follows from them under
either way to select, the curves, and the charts without rows. So the reader can
change the objective, the trials and the rows without a server.

    page.py                  what all pages share
    study.py                 a study or a run
    comparison.py, ladder.py, answer.py
    files.py                 figures as SVG and PNG
"""

from jaxplay.report.answer import write_answer
from jaxplay.report.comparison import write_comparison
from jaxplay.report.files import (
  FORMATS,
  answer_figures,
  figures,
  ladder_figures,
  write_figure,
)
from jaxplay.report.ladder import write_ladder
from jaxplay.report.study import as_json, write, write_run

__all__ = [
  "FORMATS",
  "answer_figures",
  "as_json",
  "figures",
  "ladder_figures",
  "write",
  "write_answer",
  "write_comparison",
  "write_figure",
  "write_ladder",
  "write_run",
]
