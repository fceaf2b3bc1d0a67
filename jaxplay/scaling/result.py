"""A ladder as the result of a procedure: tables, findings and a summary."""

import math
from collections.abc import Sequence

import jaxplay
from jaxplay import finding, formats
from jaxplay.playbook import result as result_lib
from jaxplay.scaling import isoflops
from jaxplay.scaling import ladder as ladder_lib
from jaxplay.scaling import law as law_lib

_SYMBOLS = dict(zip(law_lib.COEFFICIENTS, "E A a B b".split(), strict=True))
# Budgets of the report, relative to the compute of the largest point.
_BUDGETS = (0.1, 1.0, 10.0)


def as_result(
  results: ladder_lib.LadderResults,
  law: law_lib.Fit | None,
  findings: Sequence[finding.Finding],
  why: str = "",
) -> result_lib.ProcedureResult:
  """Returns the law, budgets, compute and points as the result of a procedure.

  `scaling.plots` draws the figures.

  Args:
    results: The ladder.
    law: The fitted law; None: the points do not determine one.
    findings: Findings on the law.
    why: Why there is no law.
  """
  tables, summary = [], []
  if law is not None:
    tables = [
      _law_table(law),
      _budgets_table(results, law),
      *_slices_table(law),
    ]
    summary.append(f"{law.formula} (nats per token)")
  elif why:
    summary.append(f"No law yet: {why}.")
  if results.spent is not None:
    spent, scratch = results.spent.spent, results.spent.from_scratch
    tables.append(
      result_lib.Table(
        "Compute",
        ["FLOPs", "spent", "one run per point", "ratio"],
        [["all", f"{spent:.3g}", f"{scratch:.3g}", spent / scratch]],
        "Base runs with cooldowns, compared with a separate run for every point"
        " (such as with a cosine schedule).",
      )
    )
  tables.append(_points_table(results))
  return result_lib.ProcedureResult(
    summary=summary,
    findings=findings,
    tables=tables,
    details={} if law is None else {"law": law.as_json()},
  )


def _law_table(law):
  counted = "with" if law.count_embeddings else "without"
  return result_lib.Table(
    "L(N, D) = E + A / N^a + B / D^b",
    ["coefficient", "value", "90% interval"],
    [
      [_SYMBOLS[name], row.value, row.interval()]
      for name, row in law.coefficients.items()
    ],
    f"In nats per token; N {counted} embedding parameters; intervals by"
    " bootstrap. An end that only a bound of the fit sets is not determined.",
  )


def _budgets_table(results, law):
  largest = max(point.flops for point in results.points)
  rows = []
  for factor in _BUDGETS:
    budget = f"{factor * largest:.2e}"
    try:
      best = law.optimal(factor * largest)
    except jaxplay.UserError:  # Too far outside of the points.
      best = None
    if best is None or _is_open(law, best.parameters):
      rows.append([budget, *["not determined"] * 4, None])
      continue
    beyond = " (extrapolated)" if best.factor > 1 else ""
    n, d = best.parameters, best.tokens
    rows.append(
      [
        budget + beyond,
        formats.large(n.value),
        n.interval(formats.large),
        formats.large(d.value),
        d.interval(formats.large),
        best.loss.value,
      ]
    )
  return result_lib.Table(
    "The best model for a budget",
    ["FLOPs", "N", "90% interval", "D", "90% interval", "loss"],
    rows,
    f"FLOPs by the {law.flops_source}. A model more than"
    f" {law_lib.MAX_FACTOR:g} times outside the points is not determined. For"
    " another budget, run jaxplay scaling fit LADDER --flops=C.",
  )


def _is_open(law, estimate):
  """Whether a bootstrap does not determine the estimate."""
  return len(law.samples) > 0 and math.isnan(estimate.high)


def _slices_table(law):
  try:
    found = isoflops.iso_flops(law)
  except jaxplay.UserError:  # No budget is covered by 3 sizes.
    return []
  rows = [
    [
      f"{part.flops:.2e}",
      len(part.parameters),
      *(
        ["not determined"] * 2
        if part.optimum is None
        else [
          formats.large(part.optimum.value),
          part.optimum.interval(formats.large),
        ]
      ),
      f"{part.num_usable} of {found.num_samples}",
    ]
    for part in found.slices
  ]
  note = "Where the sizes do not determine it, there is no law of the best N."
  if found.exponent is not None:
    p = found.exponent
    note = (
      f"The best N grows as C^{p.value:.2f} (90% interval"
      f" {p.interval('{:.2f}'.format)}, by {found.num_usable} of"
      f" {found.num_samples} bootstrap samples)."
    )
  return [
    result_lib.Table(
      "The best size of isoFLOP slices",
      ["FLOPs", "sizes", "N", "90% interval", "usable samples"],
      rows,
      f"{note} Usable: the minimum of the parabola is between the sizes. With"
      " at most 95% usable, or the lowest loss at the smallest or the largest"
      " size, the best size is not determined.",
    )
  ]


def _points_table(results):
  return result_lib.Table(
    "Points",
    ["size", "N", "embeddings", "tokens", "FLOPs", "loss"],
    [
      [
        point.size,
        f"{point.parameters:,.0f}",
        f"{point.embedding_parameters:,.0f}",
        f"{point.tokens:,.0f}",
        f"{point.flops:.3g}",
        point.loss,
      ]
      for point in results.points
    ],
  )
