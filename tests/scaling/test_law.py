"""Scaling laws, on ladders generated from a known law."""

import dataclasses
import json
import math

import numpy as np
import pytest
from scipy import optimize, special

import jaxplay
from jaxplay.scaling import isoflops, traps
from jaxplay.scaling import law as law_lib
from tests.scaling import coverage

# Similar to Hoffmann et al. 2022.
TRUE = dict(
  irreducible=1.7,
  coefficient_n=400.0,
  exponent_n=0.34,
  coefficient_d=410.0,
  exponent_d=0.28,
)
TRUE_OPTIMAL_EXPONENT = 0.28 / (0.34 + 0.28)
SIZES = tuple(np.geomspace(5e6, 160e6, 5))
TOKENS = (4e8, 8e8, 16e8, 32e8)


def _loss(n, d, *, irreducible, coefficient_n, exponent_n, **of_d):
  of_n = coefficient_n / n**exponent_n
  return irreducible + of_n + of_d["coefficient_d"] / d ** of_d["exponent_d"]


def _ladder(noise=0.0, seed=0, *, sizes=SIZES, tokens=TOKENS, law=TRUE):
  """Returns points of all sizes by all tokens, with relative noise."""
  random = np.random.default_rng(seed)
  return [
    law_lib.Point(
      size=f"{n:.3g}",
      parameters=n,
      embedding_parameters=0.02 * n,
      tokens=d,
      loss=_loss(n, d, **law) * math.exp(noise * random.standard_normal()),
      flops=6 * n * d,
      cooled=True,
    )
    for n in sizes
    for d in tokens
  ]


def _fit(points, num_bootstrap=0, **kwargs):
  return law_lib.fit(points, num_bootstrap=num_bootstrap, **kwargs)


def _changed(points, **changes):
  """Returns the points with some fields changed by functions of the point."""
  return [
    dataclasses.replace(p, **{k: f(p) for k, f in changes.items()})
    for p in points
  ]


@pytest.mark.parametrize(
  "noise, irreducible, exponent, optimal, loss",
  [
    (0.0, 1e-6, 1e-6, 1e-6, 1e-8),
    (0.001, 0.04, 0.05, 0.015, 0.001),
    (0.005, 0.2, 0.25, 0.07, 0.006),
  ],
)
def test_known_coefficients_are_recovered(
  noise, irreducible, exponent, optimal, loss
):
  """S5: the true law is recovered, at several levels of noise."""
  errors = []
  for seed in range(9):
    points = _ladder(noise, seed)
    law = _fit(points)
    best = law.optimal(max(p.flops for p in points))
    at_best = best.parameters.value, best.tokens.value
    errors.append(
      [
        abs(law.irreducible / TRUE["irreducible"] - 1),
        abs(law.exponent_n / TRUE["exponent_n"] - 1),
        abs(law.exponent_d / TRUE["exponent_d"] - 1),
        abs(law.optimal_exponent.value - TRUE_OPTIMAL_EXPONENT),
        abs(best.loss.value / _loss(*at_best, **TRUE) - 1),
      ]
    )
  allowed = np.array([irreducible, exponent, exponent, optimal, loss])
  assert (np.median(errors, axis=0) < allowed).all()


def test_other_laws_and_magnitudes_are_recovered():
  """S5: the fit also works with other coefficients, and for small models."""
  law = dict(
    irreducible=0.9,
    coefficient_n=50.0,
    exponent_n=0.5,
    coefficient_d=900.0,
    exponent_d=0.45,
  )
  sizes = np.geomspace(2e4, 1e6, 4)
  fitted = _fit(_ladder(sizes=sizes, tokens=(1e6, 3e6, 9e6), law=law))
  for name, value in law.items():
    assert getattr(fitted, name) == pytest.approx(value, rel=1e-5)


def test_residuals_are_of_the_logs():
  """S5: residuals are log(measured) - log(law), 0 without noise."""
  assert np.abs(_fit(_ladder()).residuals).max() < 1e-9
  law = _fit(_ladder(0.005))
  n, d, loss = np.array(
    [(p.parameters, p.tokens, p.loss) for p in law.points]
  ).T
  np.testing.assert_allclose(
    law.residuals, np.log(loss) - np.log(law.predict(n, d).loss), atol=1e-12
  )


@pytest.mark.parametrize(
  "law",
  [TRUE, TRUE | dict(irreducible=1e-6, coefficient_n=20, exponent_n=0.05)],
  ids=["inside", "at a bound"],
)
def test_lbfgs_finds_no_better_minimum(law):
  """S5: the fit is the minimum of the Huber losses, the same as L-BFGS's."""
  points = _ladder(0.005, 2, law=law)
  x, y, log_loss = np.log([(p.parameters, p.tokens, p.loss) for p in points]).T
  x0, y0 = x.mean(), y.mean()

  def objective(theta):
    e, a_n, a, b_d, b = theta
    terms = np.stack([e + 0 * x, a_n - a * (x - x0), b_d - b * (y - y0)])
    residual = special.logsumexp(terms, axis=0) - log_loss
    shares = special.softmax(terms, axis=0)
    slope = np.clip(residual / 1e-3, -1, 1) * 1e3
    e, n, d = shares * slope
    gradient = [e, n, -n * (x - x0), d, -d * (y - y0)]
    return special.huber(1e-3, residual).sum() * 1e6, np.sum(gradient, axis=1)

  fitted = _fit(points)
  a, b = fitted.exponent_n, fitted.exponent_d
  a_n = np.log(fitted.coefficient_n) - a * x0
  b_d = np.log(fitted.coefficient_d) - b * y0
  ours, _ = objective([np.log(fitted.irreducible), a_n, a, b_d, b])
  # The same minimum from distant initial values, and none below it.
  for start in ([0, 0, 0.5, 0, 0.5], [0.5, -1, 0.2, -1, 0.8]):
    found = optimize.minimize(
      objective,
      start,
      jac=True,
      method="L-BFGS-B",
      bounds=np.transpose(law_lib._bounds(log_loss.min())),
      options=dict(ftol=1e-12, maxiter=2000),
    )
    assert found.fun == pytest.approx(ours, rel=1e-5)


def test_unit_of_tokens_changes_only_their_coefficient():
  """S5: with D in thousands, only B changes."""
  points = _ladder(0.003)
  one = law_lib.fit(points, num_bootstrap=20)
  other = law_lib.fit(
    _changed(points, tokens=lambda p: p.tokens / 1000), num_bootstrap=20
  )
  for name, found in one.coefficients.items():
    if name == "coefficient_d":
      assert getattr(other, name) == pytest.approx(
        found.value / 1000**one.exponent_d, rel=1e-4
      )
    else:
      np.testing.assert_allclose(other.coefficients[name], found, rtol=1e-4)


def test_an_outlier_does_not_bend_the_law():
  """S5: with one loss 10% too high, least squares has a larger error."""
  points = _ladder(0.001)
  points[7] = dataclasses.replace(points[7], loss=points[7].loss * 1.1)
  law = _fit(points)
  n, d, loss = np.array([(p.parameters, p.tokens, p.loss) for p in points]).T

  def residuals(theta):
    e, a_n, a, b_d, b = theta
    n_term, d_term = (n / 3e7) ** -a, (d / 1e9) ** -b
    return np.log((e + a_n * n_term + b_d * d_term) / loss)

  squares = optimize.least_squares(
    residuals, [1.5, 1, 0.3, 1, 0.3], bounds=([0] * 5, [9] * 5)
  ).x
  error = abs(law.optimal_exponent.value - TRUE_OPTIMAL_EXPONENT)
  power = squares[4] / (squares[2] + squares[4])
  assert error < 0.02
  assert abs(power - TRUE_OPTIMAL_EXPONENT) > 4 * error


def test_intervals_cover_the_true_values():
  """S5: most of the 90% intervals do, without being too wide."""
  inside, widths = [], []
  for seed in range(20):
    law = law_lib.fit(_ladder(0.002, seed), num_bootstrap=100)
    found = law.coefficients
    inside += [found[k].low <= v <= found[k].high for k, v in TRUE.items()]
    low, high = law.optimal_exponent[1:]
    inside.append(low <= TRUE_OPTIMAL_EXPONENT <= high)
    widths.append(high - low)
  assert 0.78 < np.mean(inside)
  assert np.mean(widths) < 0.12


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["t3", "shared"])
def test_coverage_with_other_noise(kind):
  """S5: heavy tails, base runs in common, noise that falls with the size."""
  rows = [coverage.coverage(law, kind, 0.002, 6) for law in coverage.LAWS]
  inside, known = np.sum(rows, axis=0)
  assert inside.sum() > 0.8 * known.sum()
  assert (known[:5] > 12).all()


@pytest.mark.parametrize("noise", [0.0, 0.002])
@pytest.mark.parametrize("power", [1.0, 1.3])
@pytest.mark.parametrize("exponent", [0.34, 0.28])
def test_tokens_proportional_to_parameters_are_refused(noise, power, exponent):
  """S5: there A / N^a and B / D^b can be exchanged, also if a = b."""
  law = TRUE | dict(exponent_n=exponent)
  points = [
    point
    for i, n in enumerate(np.geomspace(5e6, 160e6, 8))
    for point in _ladder(
      noise, i, sizes=[n], tokens=[4e8 * (n / 5e6) ** power], law=law
    )
  ]
  with pytest.raises(jaxplay.UserError, match=f"N\\^{power:g}.*durations"):
    law_lib.fit(points)


def test_tokens_nearly_proportional_to_parameters():
  """S5: the best N is refused, not determined, or its interval holds it."""
  held = []
  for seed in range(4):
    points = coverage.ladder(coverage.LAWS[0], "near 20 N", 0.005, seed)
    flops = max(p.flops for p in points)
    true = coverage.LAWS[0].optimum(flops)
    try:
      best = law_lib.fit(points).optimal(flops).parameters
    except jaxplay.UserError:
      continue
    held.append(not (best.low > true or best.high < true))
  assert sum(held) >= len(held) - 1


def test_one_budget_for_all_sizes_is_no_such_line():
  """S5: with D = C / N both terms are told apart."""
  points = [
    point
    for n in np.geomspace(2e6, 2e8, 9)
    for point in _ladder(sizes=[n], tokens=[3e16 / n])
  ]
  law = law_lib.fit(points, num_bootstrap=20)
  assert law.exponent_n == pytest.approx(TRUE["exponent_n"], rel=1e-3)


def _flat(seed):
  """Returns losses that depend on neither N nor D: E is the least loss."""
  random = np.random.default_rng(seed)
  return _changed(
    _ladder(), loss=lambda p: 3 * math.exp(0.01 * random.standard_normal())
  )


@pytest.mark.parametrize(
  "points",
  [_flat(0), _flat(1), _ladder(0.02, 0, sizes=SIZES[:3], tokens=TOKENS[:3])],
)
def test_a_fit_at_its_bounds_is_not_ok(points):
  """S5: the share of samples at each bound; such an end is no interval."""
  law = law_lib.fit(points)
  found = {check.check: check for check in traps.checks(law)}["at_bounds"]
  pinned = law.pinned
  assert max(map(max, pinned.values())) >= law_lib.PINNED
  assert found.verdict in ("warn", "fail") and found.advice
  assert found.evidence["samples"]["exponent_n"] == list(pinned["exponent_n"])
  for name in ("irreducible", "exponent_n", "exponent_d"):
    low, high = law.coefficients[name][1:]
    assert not (pinned[name][0] >= law_lib.PINNED and low == low)
    assert not (pinned[name][1] >= law_lib.PINNED and high == high)
  # What is computed of them has no interval, either.
  assert math.isnan(law.optimal_exponent.low)
  json.dumps(law.as_json(), allow_nan=False)


def test_five_points_do_not_show_their_noise():
  """S5: there are no intervals without a degree of freedom."""
  points = [_ladder(0.002)[i] for i in (0, 5, 10, 15, 18)]
  law = law_lib.fit(points)
  assert not len(law.samples) and math.isnan(law.optimal_exponent.low)
  found = {check.check: check.verdict for check in traps.checks(law)}
  assert "ok" not in [
    found[name] for name in ("irreducible_loss", "exponents", "at_bounds")
  ]


def test_checks_without_data_are_unknown():
  """S5: neither missing intervals nor missing tokens are ok."""
  found = {f.check: f for f in traps.checks(_fit(_ladder(0.001)))}
  for name in ("irreducible_loss", "exponents", "at_bounds", "repeated_data"):
    assert found[name].verdict == "unknown" and found[name].advice
  for tokens in (None, math.nan, 0.0):
    check = traps.checks(_fit(_ladder()), unique_tokens=tokens)[-1]
    assert (check.check, check.verdict) == ("repeated_data", "unknown")


def test_intervals_as_text():
  """S5: what is determined of an interval, and never nan."""
  nan = math.nan
  texts = [law_lib.Estimate(1, *ends).interval() for ends in ((nan, nan),)]
  texts += [
    law_lib.Estimate(2.0, low, high).interval()
    for low, high in ((nan, 3.0), (1.0, nan), (1.0, 3.0))
  ]
  assert not any("nan" in text for text in texts)
  assert ["1" in text for text in texts] == [False, False, True, True]
  assert ["3" in text for text in texts] == [False, True, False, True]


def test_noise_widens_intervals():
  """S5: with five times the noise, every interval is wider."""
  widths = []
  for noise in (0.0005, 0.0025):
    law = law_lib.fit(_ladder(noise, 3), num_bootstrap=100)
    far = law.predict(4 * max(SIZES), 2 * max(TOKENS))
    low, high = np.array(list(law.coefficients.values()))[:, 1:].T
    widths.append([*np.log(high / low), float(far.high - far.low)])
  assert (np.array(widths[1]) > 2 * np.array(widths[0])).all()


def test_bootstrap_is_a_function_of_the_seed():
  """S5: samples depend on the seed only."""
  one, same, other = (
    law_lib.fit(_ladder(0.003), num_bootstrap=20, seed=seed).samples
    for seed in (0, 0, 1)
  )
  np.testing.assert_array_equal(one, same)
  assert (one != other).all()
  assert one.shape == (20, 5)


def test_without_a_bootstrap_there_are_no_intervals():
  """S5: unknown limits are NaN, and null in JSON."""
  law = _fit(_ladder(0.003))
  assert math.isnan(law.optimal(1e18).parameters.low)
  assert law.as_json()["intervals"]["irreducible"][1:] == [None, None]


def test_results_are_json():
  """S5: the law and the findings can be written as JSON."""
  law = law_lib.fit(_ladder(0.003), num_bootstrap=20)
  row = json.loads(json.dumps(law.as_json(), allow_nan=False))
  assert row["exponent_n"] == law.exponent_n
  assert row["intervals"]["exponent_n"] == list(law.coefficients["exponent_n"])
  for found in traps.checks(law, unique_tokens=1e9):
    json.dumps(found.as_json(), allow_nan=False)


def test_embeddings_are_counted_on_request():
  """S5: N is with or without embeddings, as recorded in the fit."""
  points = _changed(
    _ladder(),
    embedding_parameters=lambda p: 0.3 * p.parameters,
    parameters=lambda p: 0.7 * p.parameters,
  )
  law = _fit(points, count_embeddings=True)
  assert law.count_embeddings
  assert law.coefficient_n == pytest.approx(TRUE["coefficient_n"], rel=1e-4)
  without = _fit(points)
  assert not without.count_embeddings
  assert without.coefficient_n == pytest.approx(
    TRUE["coefficient_n"] * 0.7**0.34, rel=1e-4
  )


@pytest.mark.parametrize("power", [1.0, 0.9])
@pytest.mark.parametrize("factor", [0.1, 1.0, 5.0])
def test_optimum_is_least_on_its_budget(power, factor):
  """S5: it spends the budget, and both neighbours at that budget are worse."""
  points = _changed(
    _ladder(0.002), flops=lambda p: 8 * p.parameters**power * p.tokens
  )
  law = law_lib.fit(points, flops_source="compiled", num_bootstrap=20)
  budget = factor * max(p.flops for p in points)
  best = law.optimal(budget)
  n, d = best.parameters.value, best.tokens.value
  assert 8 * n**power * d == pytest.approx(budget)
  assert best.loss.value == pytest.approx(law.predict(n, d).loss)
  near = n * np.exp([-0.01, 0.01])
  around = law.predict(near, budget / (8 * near**power)).loss
  assert (around > best.loss.value).all()
  # The two neighbours are equal to first order.
  assert abs(np.diff(around)) < 0.05 * (around - best.loss.value).min()
  for found in (best.parameters, best.tokens, best.loss):
    assert found.low < found.value < found.high


def test_optimum_grows_with_the_exponent():
  """S5: N = G C^p, and D grows as C^(1 - p)."""
  law = _fit(_ladder())
  one, ten = law.optimal(1e17), law.optimal(1e18)
  grown = math.log10(ten.parameters.value / one.parameters.value)
  assert grown == pytest.approx(law.optimal_exponent.value)
  grown = math.log10(ten.tokens.value / one.tokens.value)
  assert grown == pytest.approx(1 - law.optimal_exponent.value)


def test_sources_of_flops():
  """S5: the count of the points, or a given ratio."""
  points = _ladder()
  assert _fit(points).optimal(1e18).flops_source == "formula"
  compiled = _changed(points, flops=lambda p: 9 * p.parameters * p.tokens)
  law = _fit(compiled, flops_source="compiled")
  assert law.flops_coefficient == pytest.approx(9)
  assert law.flops_exponent == pytest.approx(1)
  measured = law.optimal(1e18)
  assert measured.flops_source == "compiled"
  given = law.optimal(1e18, flops_per_parameter_token=6)
  assert given.flops_source == "given"
  for best, ratio in ((measured, 9), (given, 6)):
    assert best.parameters.value * best.tokens.value * ratio == pytest.approx(
      1e18
    )


def test_predictions_are_arrays():
  """S5: N and D broadcast; more of either is better."""
  law = law_lib.fit(_ladder(0.002), num_bootstrap=20)
  n, d = np.array(SIZES)[:, None], np.array(TOKENS)
  found = law.predict(n, d)
  assert found.loss.shape == found.low.shape == found.factor.shape == (5, 4)
  assert (np.diff(found.loss, axis=0) < 0).all()
  assert (np.diff(found.loss, axis=1) < 0).all()
  assert (found.low <= found.high).all()
  assert (found.factor == 1).all() and not found.extrapolated.any()
  assert law.predict(n[2, 0], d[1]).loss == pytest.approx(found.loss[2, 1])


def test_outside_is_in_factors():
  """S5: factors outside the points, in N, in D and in compute."""
  law = _fit(_ladder())
  far = law.outside(np.array([2 * max(SIZES), min(SIZES) / 3]), max(TOKENS))
  np.testing.assert_allclose(far["parameters"], [2, 3], rtol=1e-6)
  np.testing.assert_allclose(far["tokens"], [1, 1], rtol=1e-6)
  np.testing.assert_allclose(far["flops"], [2, 1], rtol=1e-6)


def test_extrapolation():
  """S5: beyond a factor of 10 a prediction is refused, or flagged."""
  law = law_lib.fit(_ladder(0.003), num_bootstrap=50)
  largest = max(p.flops for p in law.points)
  n, d = 5 * max(SIZES), 4 * max(TOKENS)
  with pytest.raises(jaxplay.UserError, match="20 times outside the flops"):
    law.predict(n, d)
  with pytest.raises(jaxplay.UserError, match="12 times outside the tokens"):
    law.predict(min(SIZES), 12 * max(TOKENS))
  with pytest.raises(jaxplay.UserError, match="--extrapolate"):
    law.optimal(30 * largest)
  assert law.predict(n, d, extrapolate=True).extrapolated
  far = law.optimal(30 * largest, extrapolate=True)
  assert far.extrapolated and far.factor == pytest.approx(30)
  near = law.optimal(3 * largest)
  assert not near.extrapolated and near.factor == pytest.approx(3)
  assert far.loss.high - far.loss.low > near.loss.high - near.loss.low


@pytest.mark.parametrize(
  "points, message",
  [
    (_ladder(sizes=SIZES[:1]), "1 size (5e+06)"),
    (_ladder(sizes=SIZES[:2]), "2 sizes (5e+06, 1.19e+07)"),
    (_ladder()[::5][:4], "4 points with 4 numbers of tokens"),
    (_ladder(tokens=TOKENS[:2]), "10 points with 2 numbers of tokens"),
    ([], "0 sizes (none)"),
    (_changed(_ladder(), loss=lambda p: math.nan), "has loss nan"),
    (_changed(_ladder(), tokens=lambda p: 0), "has tokens 0"),
  ],
)
def test_too_few_or_invalid_points_are_refused(points, message):
  """S5: the message has the values."""
  with pytest.raises(jaxplay.UserError) as error:
    law_lib.fit(points)
  assert message in str(error.value)
  assert "\n" not in str(error.value)


def test_bad_requests_are_refused():
  """S5: invalid budgets, and an unknown count of FLOPs."""
  with pytest.raises(jaxplay.UserError, match="'formula' or 'compiled'"):
    law_lib.fit(_ladder(), flops_source="guess")
  law = _fit(_ladder())
  for budget in (0, -1.0, math.nan, math.inf):
    with pytest.raises(jaxplay.UserError, match="budget above 0"):
      law.optimal(budget, extrapolate=True)


@pytest.mark.parametrize(
  "sizes, tokens",
  [
    (SIZES, TOKENS),
    # In wide slices, a parabola through all sizes has an error of 4%.
    (5e6 * 3.0 ** np.arange(5), 2e8 * 3.0 ** np.arange(5)),
  ],
  ids=["narrow", "wide"],
)
def test_isoflop_minima_agree_with_the_law(sizes, tokens):
  """S5: without noise, approaches 2 and 3 have the same optimum."""
  law = _fit(_ladder(sizes=sizes, tokens=tokens))
  found = isoflops.iso_flops(law)
  bracketed = [part for part in found.slices if part.bracketed]
  assert len(bracketed) >= 3
  for part in bracketed:
    n = part.optimum.value
    best = law.optimal(part.flops)
    assert n == pytest.approx(best.parameters.value, rel=0.02)
    assert np.polyval(part.parabola, math.log(n)) == pytest.approx(
      best.loss.value, rel=2e-3
    )
    assert found.coefficient * part.flops**found.exponent.value == (
      pytest.approx(n, rel=0.02)
    )
  assert found.exponent.value == pytest.approx(TRUE_OPTIMAL_EXPONENT, abs=0.01)


def test_isoflop_slices_are_at_equal_compute():
  """S5: each slice has at least 3 sizes, with the losses of the law."""
  law = _fit(_ladder())
  for part in isoflops.iso_flops(law).slices:
    n = part.parameters
    assert len(n) >= 3 and (np.diff(n) > 0).all()
    loss = _loss(n, part.flops / (6 * n), **TRUE)
    np.testing.assert_allclose(part.losses, loss, rtol=2e-3)


def test_isoflop_intervals_grow_with_noise():
  """S5: noise widens the intervals of the minima and of their exponent."""
  widths = []
  for noise in (0.0005, 0.002):
    found = isoflops.iso_flops(law_lib.fit(_ladder(noise, 1)))
    part = found.slices[len(found.slices) // 2]
    assert part.optimum.low < part.optimum.value < part.optimum.high
    widths.append(found.exponent.high - found.exponent.low)
  assert widths[1] > 2 * widths[0]


@pytest.mark.parametrize("noise", [0.0005, 0.003, 0.03])
@pytest.mark.parametrize("sizes", [SIZES[1:4], SIZES], ids=["three", "five"])
def test_isoflop_samples_outside_the_sizes(noise, sizes):
  """S5: with too many of them a slice has no optimum; no other is infinite."""
  found = isoflops.iso_flops(
    law_lib.fit(_ladder(noise, 2, sizes=sizes, tokens=TOKENS))
  )
  for part in found.slices:
    if part.optimum is None:
      assert not part.bracketed or part.num_usable <= 190
      continue
    assert part.bracketed and part.num_usable > 190
    assert part.parameters[0] < part.optimum.low <= part.optimum.high
    assert part.optimum.high < part.parameters[-1]
  if noise == 0.03:
    assert found.exponent is None and found.coefficient is None
    assert all(part.optimum is None for part in found.slices)
  if found.exponent is not None:
    assert found.num_usable >= 180
    assert -0.5 < found.exponent.low <= found.exponent.high < 1.5


def test_isoflop_minimum_at_an_edge_is_flagged():
  """S5: if the largest size is the best, the optimum is not bracketed."""
  sizes = np.geomspace(1e6, 8e6, 4)
  law = _fit(_ladder(sizes=sizes, tokens=[8 * d for d in TOKENS]))
  found = isoflops.iso_flops(law)
  assert found.slices and not any(part.bracketed for part in found.slices)
  assert found.exponent is None and found.coefficient is None


def test_isoflops_need_common_budgets():
  """S5: refused if the sizes do not overlap in compute."""
  apart = [
    point
    for i, n in enumerate(np.geomspace(1e6, 1e8, 3))
    for point in _ladder(sizes=[n], tokens=[10.0**i * d for d in TOKENS])
  ]
  with pytest.raises(jaxplay.UserError, match="3 of the 3 sizes"):
    isoflops.iso_flops(_fit(apart))


def test_frontier():
  """S5: the lower envelope of loss against compute."""
  rows = [(1, 3.0), (2, 2.5), (2, 2.4), (3, 2.4), (4, 2.6), (5, 2.0)]
  template = _ladder()[0]
  points = [
    dataclasses.replace(template, flops=flops, loss=loss)
    for flops, loss in rows
  ]
  found = [(p.flops, p.loss) for p in law_lib.frontier(points[::-1])]
  assert found == [(1, 3.0), (2, 2.4), (5, 2.0)]


def test_branches_are_cheaper_than_separate_runs():
  """S5: compute compared with a separate run for each point."""
  found = law_lib.compute_spent(
    base_runs={"small": 80, "large": 80},
    branches={"small": [(40, 50), (80, 100)], "large": [(80, 100)]},
    flops_per_step={"small": 1.0, "large": 10.0},
  )
  assert found.spent == 80 + 10 + 20 + 10 * (80 + 20)
  assert found.from_scratch == 50 + 100 + 10 * 100
  assert found.saved == pytest.approx(1 - 1110 / 1150)


@pytest.mark.parametrize(
  "branches, message",
  [
    ({"small": []}, "has no branches"),
    ({"small": [(90, 100)]}, "80 steps"),
    ({"small": [(50, 40)]}, "from step 50 to 40"),
    ({"large": [(1, 2)]}, "0 steps"),
  ],
)
def test_impossible_branches_are_refused(branches, message):
  """S5: a branch has to begin within its base run, and before its end."""
  with pytest.raises(jaxplay.UserError, match=message):
    law_lib.compute_spent({"small": 80}, branches, {"small": 1.0, "large": 2.0})


# Points with a known error, and the checks that detect it.
_BENT = _changed(
  _ladder(0.001, 1),
  loss=lambda p: p.loss * math.exp(0.01 * math.log(p.parameters / 3e7) ** 2),
)
_EMBEDDED = _changed(
  _ladder(0.001, 1),
  parameters=lambda p: p.parameters - 4e6,
  embedding_parameters=lambda p: 4e6,
)
_ONE_RATIO = [
  point
  for n in SIZES
  for point in _ladder(0.001, 1, sizes=[n], tokens=(20 * n, 30 * n, 40 * n))
]
_BADLY_SPREAD = "range_of_tokens_per_parameter"
TRAPS = {
  "embeddings": (_EMBEDDED, {"embedding_parameters": "warn"}),
  "no embeddings": (
    _changed(_ladder(0.001), embedding_parameters=lambda p: 0.0),
    {"embedding_parameters": "unknown"},
  ),
  "narrow N": (
    _ladder(sizes=np.geomspace(2e7, 8e7, 5)),
    {"range_of_parameters": "warn"},
  ),
  "narrow D": (
    _ladder(tokens=np.geomspace(4e8, 12e8, 4)),
    {"range_of_tokens": "warn"},
  ),
  "one D / N": (_ONE_RATIO, {_BADLY_SPREAD: "warn"}),
  "optimum not tried": (
    _ladder(tokens=[20 * d for d in TOKENS]),
    {_BADLY_SPREAD: "warn"},
  ),
  "some uncooled": (
    _changed(_ladder(), cooled=lambda p: p.tokens > 5e8),
    {"cooldown": "fail"},
  ),
  "all uncooled": (
    _changed(_ladder(), cooled=lambda p: False),
    {"cooldown": "warn"},
  ),
  "no E": (
    _ladder(law=TRUE | {"irreducible": 1e-6}),
    {"irreducible_loss": "warn"},
  ),
  "strange exponent": (
    _ladder(law=TRUE | {"coefficient_n": 1e9, "exponent_n": 1.3}),
    {"exponents": "fail"},
  ),
  "much noise": (_ladder(0.03), {"exponents": "warn"}),
  "unlike FLOPs": (
    _changed(_ladder(), flops=lambda p: 6 * (p.parameters + 3e6) * p.tokens),
    {"flops_per_token": "warn"},
  ),
  "bent": (_BENT, {"residuals": "warn"}),
  "few": (_ladder()[::3], {"enough_points": "warn", "residuals": "unknown"}),
}


@pytest.mark.parametrize("name", TRAPS)
def test_traps_are_detected(name):
  """S5: each known error has a check, with advice and source."""
  points, expected = TRAPS[name]
  findings = traps.checks(law_lib.fit(points, num_bootstrap=40))
  by_check = {finding.check: finding for finding in findings}
  for check, verdict in expected.items():
    assert by_check[check].verdict == verdict
    assert by_check[check].advice and by_check[check].source


@pytest.mark.parametrize("seed", range(3))
def test_a_sound_ladder_has_no_warnings(seed):
  """S5: all checks pass."""
  law = law_lib.fit(_ladder(0.001, seed), num_bootstrap=50)
  found = traps.checks(law, unique_tokens=2e9)
  assert {check.verdict for check in found} == {"ok"}
  assert not any(check.advice for check in found)
  assert len({check.check for check in found}) == len(found) == 12


def test_embeddings_move_the_optimum():
  """S5: the evidence has the exponents of both fits."""
  law = _fit(_EMBEDDED)
  found = {check.check: check for check in traps.checks(law)}
  evidence = found["embedding_parameters"].evidence
  without, counted = evidence["exponent_without_and_with"]
  assert without == law.optimal_exponent.value
  assert abs(counted - TRUE_OPTIMAL_EXPONENT) < 0.03
  assert abs(without - TRUE_OPTIMAL_EXPONENT) > 0.05


@pytest.mark.parametrize(
  "unique_tokens, verdict", [(1e10, "ok"), (8e8, "ok"), (7e8, "warn")]
)
def test_repetition_beyond_four_epochs(unique_tokens, verdict):
  """S5: tokens that repeat up to 4 times are as good as new ones."""
  found = traps.checks(_fit(_ladder()), unique_tokens=unique_tokens)[-1]
  assert (found.check, found.verdict) == ("repeated_data", verdict)
