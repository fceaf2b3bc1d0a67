"""Checks of a fitted scaling law for known errors; sources are in `law`."""

import math

import numpy as np
from scipy import stats

import jaxplay
from jaxplay import finding
from jaxplay.scaling import law as law_lib

_NO_INTERVALS = (
  "The law has no bootstrap samples, which this check requires: add points, at"
  " least 9."
)
_PARTS = dict(
  zip(law_lib.COEFFICIENTS, ("E", "A/N^a", "a", "B/D^b", "b"), strict=True)
)
_EMBEDDINGS = "Pearce and Song 2024; Porian et al. 2024"


def checks(
  law: law_lib.Fit, *, unique_tokens: float | None = None
) -> list[finding.Finding]:
  """Checks a fitted law.

  Args:
    law: The law, with its points.
    unique_tokens: Number of tokens of the training data; None: not known.
  """
  findings = [
    _enough_points(law),
    _cooldown(law),
    _embedding_parameters(law),
    *_ranges(law),
    _irreducible_loss(law),
    _exponents(law),
    _at_bounds(law),
    _flops_per_token(law),
    _residuals(law),
  ]
  return [*findings, _repeated_data(law, unique_tokens)]


def _enough_points(law):
  """Checks that there are enough points to estimate the noise.

  With 5 points there are no intervals. With 6, 7 and 8 the 90% intervals of E,
  a, b and the optimal exponent covered the true value in 94, 91 and 90% of the
  cases (30 generated ladders, 0.2% noise), but nothing tests the law.
  """
  number, least = len(law.points), 9
  return _finding(
    "enough_points",
    "warn" if number < least else "ok",
    dict(points=number, least=least),
    f"{number} points leave {number - 5} degrees of freedom to estimate the"
    " noise: the intervals are wide or missing, and nothing tests the law. Use"
    f" at least {least} points: more cooldowns cost little.",
    "Besiroglu et al. 2024",
  )


def _cooldown(law):
  """Checks that all runs ended with a cooldown."""
  number = sum(not p.cooled for p in law.points)
  mixed = 0 < number < len(law.points)
  return _finding(
    "cooldown",
    "fail" if mixed else "warn" if number else "ok",
    dict(uncooled=number, points=len(law.points)),
    f"{number} of {len(law.points)} points have no cooldown, and follow"
    " another law than the rest. Fit only the points with a cooldown."
    if mixed
    else "No point has a cooldown: the exponents may be right (Porian et al."
    " 2024), but the losses and E are too high. Run a cooldown for each point.",
    "Hoffmann et al. 2022; Hägele et al. 2024",
  )


def _embedding_parameters(law):
  """Checks whether the optimum depends on counting embeddings in N."""
  shares = [
    p.embedding_parameters / (p.parameters + p.embedding_parameters)
    for p in law.points
  ]
  budget = max(p.flops for p in law.points)
  exponents, tokens = [], []
  try:
    for count in (False, True):
      other = law_lib.fit(law.points, count_embeddings=count, num_bootstrap=0)
      exponents.append(other.optimal_exponent.value)
      tokens.append(other.optimal(budget, extrapolate=True).tokens.value)
  except jaxplay.UserError as error:
    return _finding(
      "embedding_parameters",
      "unknown",
      dict(
        count_embeddings=law.count_embeddings, share=[min(shares), max(shares)]
      ),
      f"There is no law {'with' if count else 'without'} embeddings to compare"
      f" with: {error}.",
      _EMBEDDINGS,
    )
  factor = max(tokens) / min(tokens)
  matters = abs(exponents[1] - exponents[0]) > 0.05 or factor > 1.25
  given = any(shares)
  return _finding(
    "embedding_parameters",
    "warn" if matters else "ok" if given else "unknown",
    dict(
      count_embeddings=law.count_embeddings,
      share=[min(shares), max(shares)],
      exponent_without_and_with=exponents,
      optimal_tokens_without_and_with=tokens,
    ),
    f"Embeddings are up to {max(shares):.0%} of the parameters: the optimal N"
    f" grows as C^{exponents[0]:.2f} without them and as C^{exponents[1]:.2f}"
    f" with them, and the optimal tokens differ by a factor of {factor:.3g}."
    " Count all parameters and all FLOPs, or leave out the smallest sizes."
    if given
    else "The points have no embedding parameters, which this check requires.",
    _EMBEDDINGS,
  )


def _ranges(law):
  """Checks the ranges of N, D and D / N, and that they include the optimum.

  With ranges below these factors, the interval of the optimal exponent is twice
  as wide, on generated ladders with 0.3% noise.
  """
  n, d, _, flops = law_lib.columns(law.points, law.count_embeddings)
  try:
    best = law.optimal(flops.max(), extrapolate=True)
    ratio = best.tokens.value / best.parameters.value
  except jaxplay.UserError:  # No model is the best.
    ratio = None
  for name, values, least in (
    ("parameters", n, 8),
    ("tokens", d, 8),
    ("tokens_per_parameter", d / n, 4),
  ):
    low, high = float(values.min()), float(values.max())
    # Allows rounding errors of a range of exactly `least`.
    narrow = high / low < least * (1 - 1e-6)
    missed = name == "tokens_per_parameter" and not (
      ratio is not None and low <= ratio <= high
    )
    where = "none" if ratio is None else f"{ratio:.3g}"
    yield _finding(
      f"range_of_{name}",
      "warn" if narrow or missed else "ok",
      dict(low=low, high=high, least_factor=least)
      | (dict(optimal=ratio) if name == "tokens_per_parameter" else {}),
      f"A range of a factor of {high / low:.3g} is too narrow to separate E,"
      f" coefficient and exponent; use at least {least}."
      if narrow
      else f"The optimum at {flops.max():.2g} FLOPs has {where} tokens per"
      f" parameter, outside the range of the points, {low:.3g} to {high:.3g};"
      " train points on both sides of it.",
      "Hoffmann et al. 2022, who varied N by 230 and D by 100",
    )


def _irreducible_loss(law):
  """Checks that the points determine the irreducible loss E."""
  irreducible = law.coefficients["irreducible"]
  least = min(p.loss for p in law.points)
  # An interval that is open below reaches to 0.
  low = 0.0 if math.isnan(irreducible.low) else irreducible.low
  low = min(low, irreducible.value) if len(law.samples) else irreducible.value
  loose = low < 0.1 * least
  known = len(law.samples) or loose
  return _finding(
    "irreducible_loss",
    "warn" if loose else "ok" if known else "unknown",
    dict(irreducible=law_lib.as_lists({"": irreducible})[""], least_loss=least),
    f"E may be as low as {low:.2g} nats: the points do not determine the"
    " irreducible loss, on which extrapolations depend. Add larger models and"
    " longer runs, or do not extrapolate."
    if known
    else _NO_INTERVALS,
    "Besiroglu et al. 2024",
  )


def _exponents(law):
  """Checks the exponents against published ones, and their interval."""
  named = {k: law.coefficients[k] for k in ("exponent_n", "exponent_d")}
  strange = [
    f"{name} {estimate.value:.2g}"
    for name, estimate in named.items()
    if not 0.1 <= estimate.value <= 1
  ]
  optimal = law.optimal_exponent
  known = not math.isnan(optimal.high - optimal.low)
  uncertain = not known or optimal.high - optimal.low > 0.4
  verdict = "warn" if uncertain else "ok"
  if not len(law.samples):
    verdict = "unknown"
  return _finding(
    "exponents",
    "fail" if strange else verdict,
    law_lib.as_lists(named | {"optimal_n": optimal}),
    f"The fit has {' and '.join(strange)}, outside the range of language"
    " models, 0.1 to 1: check the findings on the ranges and the residuals."
    if strange
    else _NO_INTERVALS
    if verdict == "unknown"
    else "The exponent of the optimal N is"
    f" {optimal.interval('{:.2f}'.format)} (90% interval): the points do not"
    " determine how to divide compute between size and tokens. Add sizes,"
    " durations or seeds.",
    "Hoffmann et al. 2022 (0.34, 0.28); Besiroglu et al. 2024 (0.35, 0.37)",
  )


def _at_bounds(law):
  """Checks that the data, and not the bounds of the fit, determine the law."""
  pinned = law.pinned
  parts = [
    f"{_PARTS[name]} at its {side} bound in {share:.0%}"
    for name, shares in pinned.items()
    for side, share in zip(("lower", "upper"), shares, strict=True)
    if share >= law_lib.PINNED
  ]
  itself = [
    _PARTS[name]
    for name, at in zip(_PARTS, law.bounds[0].tolist(), strict=True)
    if at
  ]
  known = len(law.samples) or itself
  return _finding(
    "at_bounds",
    "fail" if itself else "warn" if parts else "ok" if known else "unknown",
    dict(
      fit=itself,
      samples={name: list(shares) for name, shares in pinned.items()},
      most=law_lib.PINNED,
    ),
    f"The fit has {' and '.join(itself)} at a bound: the points do not"
    " determine the law. Add sizes and durations, over a wider range."
    if itself
    else f"Of the bootstrap samples, {', '.join(parts)}: there the interval is"
    " not determined by the points. Add sizes and durations, over a wider"
    " range."
    if known
    else _NO_INTERVALS,
    "Besiroglu et al. 2024",
  )


def _flops_per_token(law):
  """Checks that compute is proportional to N D, as in the formula."""
  n, d, _, flops = law_lib.columns(law.points, law.count_embeddings)
  ratios = flops / (n * d)
  small, large = float(ratios[n.argmin()]), float(ratios[n.argmax()])
  return _finding(
    "flops_per_token",
    "warn" if ratios.max() > 1.2 * ratios.min() else "ok",
    dict(smallest=small, largest=large, flops_source=law.flops_source),
    f"FLOPs per token and parameter are {small:.3g} at the smallest size and"
    f" {large:.3g} at the largest: N leaves out computation, such as the last"
    " layer or attention, which is a larger share of small models. The optimum"
    " accounts for it within these sizes, but not far above them.",
    "Porian et al. 2024",
  )


def _residuals(law):
  """Checks the residuals for a curvature in log N or log D.

  A partial F-test of second-order terms, added to the five of the law.
  """
  n, d, _, _ = law_lib.columns(law.points, law.count_embeddings)
  x, y = (np.log(v) - np.log(v).mean() for v in (n, d))
  coefficients = [law.coefficients[k].value for k in law_lib.COEFFICIENTS]
  terms = law_lib.terms(np.array(coefficients), n, d)
  e, a_n, b_d = terms / terms.sum(axis=0)
  own = [e, a_n, -x * a_n, b_d, -y * b_d]
  rms = float(np.sqrt((law.residuals**2).mean()))
  sizes = dict.fromkeys(p.size for p in law.points)
  of_size = {s: [p.size == s for p in law.points] for s in sizes}
  means = {s: float(law.residuals[of_size[s]].mean()) for s in sizes}
  first, rank = _least_squares(own, law.residuals)
  second, rank_bent = _least_squares([*own, x * x, x * y, y * y], law.residuals)
  freedom, added = len(n) - rank_bent, rank_bent - rank
  p_value = None
  testable = freedom >= 4 and added > 0
  if testable and rms > 1e-5:  # smaller only if generated without noise
    f_value = (first - second) / added / (second / freedom)
    p_value = float(stats.f.sf(f_value, added, freedom))
  bent = p_value is not None and p_value < 0.005
  return _finding(
    "residuals",
    "unknown" if not testable else "warn" if bent else "ok",
    dict(rms=rms, mean_of_size=means, p_value=p_value),
    f"The residuals have a curvature in N or D (F-test p = {p_value:.2g}): the"
    " points follow another law. If a single size is off, tune its learning"
    " rate and batch size."
    if bent
    else f"{len(n)} points are too few for a test of the residuals; use at"
    " least 12.",
    "Porian et al. 2024; Besiroglu et al. 2024",
  )


def _repeated_data(law, unique_tokens):
  known = unique_tokens is not None and 0 < unique_tokens < math.inf
  epochs = max(p.tokens for p in law.points) / unique_tokens if known else None
  return _finding(
    "repeated_data",
    "unknown" if epochs is None else "warn" if epochs > 4 else "ok",
    dict(epochs=epochs, unique_tokens=unique_tokens, most=4),
    "The number of tokens of the training data is not known."
    if epochs is None
    else f"The longest run has {epochs:.3g} epochs. Beyond 4, repeated tokens"
    " lower the loss less than new ones, which biases the exponent of D. Use"
    " more data, or shorter runs.",
    "Muennighoff et al. 2023",
  )


def _finding(check, verdict, evidence, advice, source):
  advice = "" if verdict == "ok" else advice
  return finding.Finding(check, verdict, "ladder", evidence, advice, source)


def _least_squares(columns, values):
  """Returns the residual sum of squares of a linear fit, and its rank."""
  columns = np.stack(columns, axis=1)
  columns = columns / np.maximum(np.abs(columns).max(axis=0), 1e-300)
  solution, _, rank, _ = np.linalg.lstsq(columns, values, rcond=1e-9)
  return float(((values - columns @ solution) ** 2).sum()), int(rank)
