"""Which hyperparameters matter, which interact, and which can be fixed."""

import numpy as np

from jaxplay import finding
from jaxplay.analysis import importance as importance_lib
from jaxplay.analysis import results as results_lib
from jaxplay.analysis import summary
from jaxplay.analysis import trials as trials_lib
from jaxplay.analysis.checklist import shared

_SOURCE = (
  "Playbook, exploration vs exploitation; Hutter et al. 2014, functional"
  " analysis of variance"
)


def importance(results: results_lib.Results) -> list[finding.Finding]:
  """Find what explains the order of the trials, see `importance.importances`.

  One finding for each group of scientific choices. The rule: a hyperparameter
  matters if the 99% interval of its share of what the hyperparameters explain
  lies above 5%, and that of its share of all variance above what noise explains
  by chance (2 / trials); two are to be tuned together if the same holds for
  their interaction; and one can be fixed, at the best trial's value, if its
  share is below 5% with a probability of 95%, among all trials, and below
  10% if their worse half tie. `ok` if one of these holds for any of them, with
  the result as advice; else `unknown`, as noise decides. Needs 16 trials with a
  value.
  """
  found = {row.group: row for row in importance_lib.importances(results)}
  sample = results.space_filling
  groups = trials_lib.groups(sample, slices=False)
  if "" in found:  # All groups together: each is too small.
    groups = {"": np.arange(len(sample.trials))}
  return [
    _judged(results, found[name])
    if name in found
    else _unknown(name or results.objective, sample.values[indices])
    for name, indices in (groups or {"": np.zeros(0, int)}).items()
  ]


def _unknown(subject, values):
  values = values[np.isfinite(values)]
  if len(values) < importance_lib.FEWEST:
    return shared.too_few(
      "importance", len(values), subject, importance_lib.FEWEST
    )
  return finding.Finding(
    "importance",
    "unknown",
    subject,
    dict(num_trials=len(values), num_values=len(np.unique(values))),
    "All trials have the same value, so there is no difference to explain."
    if np.ptp(values) == 0
    else "No hyperparameter varies between these trials.",
    _SOURCE,
  )


def _judged(results, row):
  decided = row.matter or row.idle or row.interact
  return finding.Finding(
    "importance",
    "ok" if decided else "unknown",
    row.group or results.objective,
    row.as_json(),
    " ".join(summary.of_importances(row)),
    _SOURCE,
  )
