"""A ladder as the result of a procedure: tables, findings and a summary."""

from collections.abc import Sequence

from jaxplay import finding, formats
from jaxplay.playbook import result as result_lib
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
    tables = [_law_table(law), _budgets_table(results, law)]
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
    ["coefficient", "value", "low", "high"],
    [[_SYMBOLS[name], *row] for name, row in law.coefficients.items()],
    f"In nats per token; N {counted} embedding parameters; low and high: 90%"
    " interval by bootstrap.",
  )


def _budgets_table(results, law):
  largest = max(point.flops for point in results.points)
  rows = []
  for factor in _BUDGETS:
    best = law.optimal(factor * largest, extrapolate=True)
    beyond = " (extrapolated)" if best.factor > 1 else ""
    n, d = best.parameters, best.tokens
    rows.append(
      [
        f"{best.flops:.2e}{beyond}",
        formats.large(n.value),
        _interval(n),
        formats.large(d.value),
        _interval(d),
        best.loss.value,
      ]
    )
  return result_lib.Table(
    "The best model for a budget",
    ["FLOPs", "N", "90% interval", "D", "90% interval", "loss"],
    rows,
    f"FLOPs by the {law.flops_source}. For another budget, run jaxplay scaling"
    " fit LADDER --flops=C.",
  )


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


def _interval(estimate):
  low, high = map(formats.large, (estimate.low, estimate.high))
  return f"{low} to {high}"
