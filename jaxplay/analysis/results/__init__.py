"""Results of a study, or of a single run, read from disk into arrays.

Nothing here judges: `curves` and `trials` do, `plots` draws. The objective is
chosen when reading, so it can be any logged metric, long after the trials ran.

    data.py       trials and studies in memory
    reading.py    from directories
    integrity.py  results that may not belong to the study
    tables.py     rows of trials.csv and of the table of studies
"""

from jaxplay.analysis.results.data import ENDED, EXCLUDED, Results, Trial
from jaxplay.analysis.results.integrity import doubts, in_words, refuse_doubts
from jaxplay.analysis.results.reading import curves, flat, read_run, read_study
from jaxplay.analysis.results.tables import (
  rerun_command,
  step_rows,
  trial_rows,
)

__all__ = [
  "ENDED",
  "EXCLUDED",
  "Results",
  "Trial",
  "curves",
  "doubts",
  "flat",
  "in_words",
  "read_run",
  "read_study",
  "refuse_doubts",
  "rerun_command",
  "step_rows",
  "trial_rows",
]
