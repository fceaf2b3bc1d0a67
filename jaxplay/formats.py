"""Numbers as people read them: in messages, findings, tables and reports."""

from typing import Any


def number(value: Any, digits: int = 4) -> str:
  """Format a float with `digits` significant digits, anything else as text."""
  return f"{value:.{digits}g}" if isinstance(value, float) else str(value)


def large(value: float) -> str:
  """Format a count with three significant digits: 85,200, 4.07M, 13.1B."""
  for unit, size in (("T", 1e12), ("B", 1e9), ("M", 1e6)):
    if value >= size:
      return f"{value / size:.3g}{unit}"
  return f"{rounded(value, 3):,.0f}"


def count(number: int, noun: str) -> str:
  """Format a number of things: 1 trial, 3,000 trials."""
  return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def spread(mean: float, deviation: float | None) -> str:
  """Format a mean and its standard deviation, which may be unknown."""
  if deviation is None:
    return f"{mean:.4g}"
  return f"{mean:.4g} +- {deviation:.2g}"


def interval(low: float, high: float) -> str:
  """Format the ends of an interval or range: 0.0123 to 4.568."""
  return f"{low:.4g} to {high:.4g}"


def rounded(value: float, digits: int) -> float:
  """Round to `digits` significant digits."""
  return float(f"{value:.{digits}g}")
