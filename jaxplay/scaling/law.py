"""Scaling laws: the loss as a function of model size and number of tokens.

The law is L(N, D) = E + A / N^a + B / D^b, with N parameters, D tokens and the
loss in nats per token (Hoffmann et al. 2022, approach 3). Its points come from
a *ladder*: model sizes, each trained for several durations, as cooldown
branches of a base run (Hägele et al. 2024).

Sources: Kaplan et al. 2020 (arXiv 2001.08361), Hoffmann et al. 2022
(2203.15556), Muennighoff et al. 2023 (2305.16264), Besiroglu et al. 2024
(2404.10102), Hägele et al. 2024 (2405.18392), Pearce and Song 2024
(2406.12907), Porian et al. 2024 (2406.19146), Czech et al. 2026 (2603.22339).
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy import optimize, stats

import jaxplay
from jaxplay import formats

COEFFICIENTS = (
  *("irreducible", "coefficient_n", "exponent_n"),
  *("coefficient_d", "exponent_d"),
)
INTERVAL = (5.0, 95.0)  # percentiles of every interval
# An interval ends at a bound of the fit from this share of its samples on.
PINNED = 0.05

# Maximum factor outside the points, in N, D or compute, without `extrapolate`.
# There the interval of the optimal loss is 4 times as wide as at the largest
# budget (5 sizes by 4 durations, 0.5% noise), and the points do not exclude
# another form of the law, though the frontier is known to bend (Hoffmann et al.
# 2022, appendix E).
MAX_FACTOR = 10.0
_MOST_FACTOR = MAX_FACTOR * (1 + 1e-6)  # the same, up to rounding

# An interval of the best N or D wider than this factor, or one of the exponent
# of the best N wider than this, says nothing: it is not determined.
_WIDEST_FACTOR, _WIDEST_EXPONENT = 100.0, 0.8
_MODELS = (1.0, 1e40)  # parameters, and tokens, that an optimum can have

_DELTA = 1e-3  # of the Huber loss, in log space (Hoffmann et al. 2022)
_MOST_STEPS = 400  # of the optimizer
_STARTS = (0.1, 0.2, 0.4, 0.7, 1.1)  # initial exponents
_LEAST_NOISE = 1e-5  # relative; no loss is measured more exactly
_SHARES = np.arange(0, 0.96, 0.05)  # of the variance that a size has in common


@dataclasses.dataclass(frozen=True)
class Point:
  """The result of a run of a ladder.

  Attributes:
    size: Name of the model size. Points of a size share a base run, so their
      errors may be correlated.
    parameters: Number of parameters, without embeddings.
    embedding_parameters: Number of embedding parameters.
    tokens: Number of training tokens, repetitions included.
    loss: Loss in nats per token.
    flops: FLOPs of the whole run, from step 0.
    cooled: Whether the run ended with a cooldown.
  """

  size: str
  parameters: float
  embedding_parameters: float
  tokens: float
  loss: float
  flops: float
  cooled: bool


class Estimate(NamedTuple):
  """A value and its interval; an end that is not determined is NaN."""

  value: float
  low: float
  high: float

  def interval(self, form: Callable[[float], str] = "{:.4g}".format) -> str:
    """Returns the interval as text, whatever of it is determined.

    Args:
      form: Formats a number.
    """
    open_low, open_high = math.isnan(self.low), math.isnan(self.high)
    if open_low and open_high:
      return "not determined"
    if open_low:
      return f"at most {form(self.high)}"
    if open_high:
      return f"at least {form(self.low)}"
    return f"{form(self.low)} to {form(self.high)}"


class Prediction(NamedTuple):
  """Losses predicted by the law, in nats per token, with their intervals.

  `factor` is the factor by which each is outside the points; 1: inside.
  """

  loss: np.ndarray
  low: np.ndarray
  high: np.ndarray
  factor: np.ndarray

  @property
  def extrapolated(self) -> np.ndarray:
    """Whether each factor is larger than the fit supports, bool."""
    return self.factor > _MOST_FACTOR


@dataclasses.dataclass(frozen=True)
class Optimum:
  """The compute-optimal N and D for a budget.

  Attributes:
    flops: The budget.
    parameters: N, counted as in the fit.
    tokens: D.
    loss: Predicted loss at N and D, nats per token.
    factor: Factor by which they are outside the points; 1: inside.
    extrapolated: Whether the factor is larger than the fit supports.
    flops_source: How FLOPs were counted: "formula", "compiled" or "given".
  """

  flops: float
  parameters: Estimate
  tokens: Estimate
  loss: Estimate
  factor: float
  extrapolated: bool
  flops_source: str


@dataclasses.dataclass(frozen=True)
class Fit:
  """A fitted law, L(N, D) = E + A / N^a + B / D^b.

  Predict with these coefficients, not with rounded ones: the rounding in a
  paper changed the loss by more than its noise (Besiroglu et al. 2024).

  Attributes:
    points: The fitted points.
    count_embeddings: Whether N includes the embeddings.
    flops_source: How the points' FLOPs were counted.
    irreducible: E, nats per token.
    coefficient_n: A.
    exponent_n: a.
    coefficient_d: B.
    exponent_d: b.
    flops_coefficient: c, if the points' FLOPs are c N^s D; 6 by the formula.
    flops_exponent: s; 1 by the formula.
    residuals: [points], log(measured) - log(law).
    samples: [num_bootstrap, 5], COEFFICIENTS of each bootstrap sample; none
      with 5 points, which do not show their noise.
    noise: [num_bootstrap, points], log(loss) - log(law) of each sample.
    bounds: [1 + num_bootstrap, 5], which of E, A / N^a, a, B / D^b and b lie at
      the lower bound of the fit (-1) or the upper (1), of the fit and of each
      sample.
  """

  points: tuple[Point, ...]
  count_embeddings: bool
  flops_source: str
  irreducible: float
  coefficient_n: float
  exponent_n: float
  coefficient_d: float
  exponent_d: float
  flops_coefficient: float
  flops_exponent: float
  residuals: np.ndarray
  samples: np.ndarray
  noise: np.ndarray
  bounds: np.ndarray

  @property
  def formula(self) -> str:
    """The law with its coefficients, as text; in nats per token."""
    return (
      f"L(N, D) = {self.irreducible:.4g}"
      f" + {self.coefficient_n:.4g} / N^{self.exponent_n:.3g}"
      f" + {self.coefficient_d:.4g} / D^{self.exponent_d:.3g}"
    )

  @property
  def coefficients(self) -> dict[str, Estimate]:
    """The COEFFICIENTS with their intervals.

    An end of an interval that is only a bound of the fit is not determined.
    """
    columns = self._laws().T
    found = {k: estimate(v) for k, v in zip(COEFFICIENTS, columns, strict=True)}
    pinned = self.pinned
    for name, (low, high) in pinned.items():
      value = found[name]
      if name.startswith("coefficient"):
        # A scales with its exponent, which means nothing without the term.
        exponent = name.replace("coefficient", "exponent")
        if max(low, high, *pinned[exponent]) >= PINNED:
          found[name] = _open(value)
        if max(low, high) >= PINNED:
          found[exponent] = _open(found[exponent])
        continue
      found[name] = value._replace(
        **({"low": math.nan} if low >= PINNED else {}),
        **({"high": math.nan} if high >= PINNED else {}),
      )
    return found

  @property
  def pinned(self) -> dict[str, tuple[float, float]]:
    """The shares of bootstrap samples at the lower and the upper bound.

    Of the irreducible loss, of both terms, named after their coefficients, and
    of both exponents. Without a bootstrap, of the fit.
    """
    at = self.bounds[1:] if len(self.samples) else self.bounds
    low, high = (at < 0).mean(axis=0), (at > 0).mean(axis=0)
    pairs = zip(low.tolist(), high.tolist(), strict=True)
    return dict(zip(COEFFICIENTS, pairs, strict=True))

  @property
  def optimal_exponent(self) -> Estimate:
    """The exponent p of the optimal N = G C^p."""
    _, _, a, _, b = self._laws().T
    found = estimate(b / (a + self.flops_exponent * b))
    if found.high - found.low > _WIDEST_EXPONENT:
      return _open(found)
    return found if self._separate else _open(found)

  @property
  def _separate(self):
    """Whether few samples have a term or an exponent at a bound."""
    shares = [self.pinned[name] for name in COEFFICIENTS[1:]]
    return max(map(max, shares)) < PINNED

  def predict(
    self, parameters, tokens, *, extrapolate: bool = False
  ) -> Prediction:
    """Predicts the loss of models of N parameters after D tokens.

    Args:
      parameters: N, counted as in the fit; an array, broadcast with tokens.
      tokens: D.
      extrapolate: Allows more than a factor of MAX_FACTOR outside the points.

    Raises:
      jaxplay.UserError: The factor is larger, and extrapolate is not set.
    """
    n, d = np.broadcast_arrays(np.float64(parameters), np.float64(tokens))
    outside = self.outside(n, d)
    if not extrapolate:
      _refuse_extrapolation(outside)
    losses = _law(self._laws().T.reshape(5, -1, *(1,) * n.ndim), n, d)
    factor = np.maximum.reduce(list(outside.values()))
    low, high = _interval(losses[1:])
    return Prediction(losses[0], low, high, factor)

  def outside(self, parameters, tokens) -> dict[str, np.ndarray]:
    """Returns the factors outside the points in parameters, tokens and FLOPs.

    Each is at least 1, which is inside; FLOPs have only an upper limit.
    """
    n, d, _, flops = columns(self.points, self.count_embeddings)
    parameters, tokens = np.float64(parameters), np.float64(tokens)
    compute = self.flops_coefficient * parameters**self.flops_exponent * tokens
    return {
      "parameters": _times_outside(parameters, n.min(), n.max()),
      "tokens": _times_outside(tokens, d.min(), d.max()),
      "flops": _times_outside(compute, 0.0, flops.max()),
    }

  def optimal(
    self,
    flops: float,
    *,
    flops_per_parameter_token: float | None = None,
    extrapolate: bool = False,
  ) -> Optimum:
    """Returns the N and D of the lowest loss for a compute budget C.

    Of all N and D with c N^s D = C, the minimum of A / N^a + B / D^b is at
    N = (a A / (s b B))^(1 / (a + s b)) (C / c)^(b / (a + s b)).

    Args:
      flops: C.
      flops_per_parameter_token: c, with s = 1; 6 for the formula. None: c and s
        of the points.
      extrapolate: Allows more than a factor of MAX_FACTOR outside the points.

    Raises:
      jaxplay.UserError: The factor is larger, and extrapolate is not set; or
        the budget is not above 0; or no model has this N or D.
    """
    if not 0 < flops < math.inf:
      raise jaxplay.UserError(f"expected a budget above 0 FLOPs, got {flops}")
    c, s = self.flops_coefficient, self.flops_exponent
    source = self.flops_source
    if flops_per_parameter_token is not None:
      c, s, source = flops_per_parameter_token, 1.0, "given"
    beyond = _times_outside(flops, 0.0, max(p.flops for p in self.points))
    if not extrapolate:
      _refuse_extrapolation({"flops": beyond})
    _, a_n, a, b_d, b = self._laws().T
    log_n = np.log(a) + np.log(a_n) - np.log(s * b) - np.log(b_d)
    log_n = (log_n + b * np.log(flops / c)) / (a + s * b)
    log_d = np.log(flops / c) - s * log_n
    least, most = np.log(_MODELS)
    if not least <= min(log_n[0], log_d[0]) <= max(log_n[0], log_d[0]) <= most:
      raise jaxplay.UserError(
        f"the law has no best model at {flops:.3g} FLOPs: its minimum is at"
        f" 10^{log_n[0] / math.log(10):.0f} parameters; train sizes and"
        " durations on both sides of the best, see the findings"
      )
    # Far samples only have to be outside of every interval.
    n, d = (np.exp(np.clip(log, -300, 300)) for log in (log_n, log_d))
    prediction = self.predict(n[0], d[0], extrapolate=extrapolate)
    factor = max(float(prediction.factor), float(beyond))
    return Optimum(
      flops=float(flops),
      parameters=self._of_optimum(n),
      tokens=self._of_optimum(d),
      loss=Estimate(*map(float, prediction[:3])),
      factor=factor,
      extrapolated=factor > _MOST_FACTOR,
      flops_source=source,
    )

  def as_json(self) -> dict[str, Any]:
    """Returns JSON values, with intervals in place of the samples."""
    row = dataclasses.asdict(self) | {"residuals": self.residuals.tolist()}
    for name in ("samples", "noise", "bounds"):
      del row[name]
    return row | {
      "intervals": as_lists(self.coefficients),
      "pinned": {name: list(shares) for name, shares in self.pinned.items()},
    }

  def _of_optimum(self, values):
    found = estimate(values)
    if self._separate and found.high <= _WIDEST_FACTOR * found.low:
      return found
    return _open(found)

  def _laws(self):
    """Returns fitted and bootstrap coefficients [1 + num_bootstrap, 5]."""
    fitted = [[getattr(self, name) for name in COEFFICIENTS]]
    return np.concatenate([fitted, self.samples])


def fit(
  points: Iterable[Point],
  *,
  count_embeddings: bool = False,
  flops_source: Literal["formula", "compiled"] = "formula",
  num_bootstrap: int = 200,
  seed: int = 0,
) -> Fit:
  """Fits the law to the points of a ladder.

  Minimizes the sum of Huber losses of the residuals in log space from a grid of
  exponents, with the law as a log-sum-exp (Hoffmann et al. 2022, approach 3).

  The intervals are those of a parametric bootstrap: the law is fitted again to
  its own losses, with noise like the residuals, of which points of a size have
  a share in common. `python -m tests.scaling.coverage` measures their coverage.

  Args:
    points: At least 5, of 3 sizes and 3 numbers of tokens.
    count_embeddings: Whether N includes the embeddings.
    flops_source: How the points' FLOPs were counted: by the formula 6 N D
      (Kaplan et al. 2020), or from the compiled program.
    num_bootstrap: Number of resamples; 0: no intervals.
    seed: Seed of the bootstrap.

  Raises:
    jaxplay.UserError: The points cannot determine the law, such as with tokens
      proportional to parameters, or one has no loss.
  """
  points = tuple(points)
  _check_points(points)
  if flops_source not in ("formula", "compiled"):
    raise jaxplay.UserError(
      "expected flops_source to be 'formula' or 'compiled', got"
      f" {flops_source!r}"
    )
  n, d, loss, flops = columns(points, count_embeddings)
  x, y = np.log(n), np.log(d)
  # Centred, exponents and coefficients are nearly uncorrelated.
  data = x - x.mean(), y - y.mean(), np.log(loss)
  bounds = _bounds(np.log(loss.min()))
  once = np.ones(len(n))
  thetas, values = _minimize(_starts(data, bounds), data, once, bounds)
  best = thetas[[values.argmin()]]
  _refuse_collinear(best, data, bounds)
  noise = _noise(best, data, bounds, points, num_bootstrap, seed)
  fitted = data[2] - _residuals(best, data)
  data = *data[:2], fitted + noise
  bounds_again = _bounds(data[2].min(axis=1))
  starts = np.clip(best.repeat(len(noise), 0), *bounds_again)
  again, _ = _minimize(starts, data, once, bounds_again)
  at_bounds = [_at_bounds(best, bounds), _at_bounds(again, bounds_again)]
  e, a_n, a, b_d, b = np.concatenate([best, again]).T
  a_n, b_d = a_n + a * x.mean(), b_d + b * y.mean()
  laws = np.stack([np.exp(e), np.exp(a_n), a, np.exp(b_d), b], axis=1)
  slope, intercept = np.polyfit(x, np.log(flops / d), 1)
  return Fit(
    points=points,
    count_embeddings=count_embeddings,
    flops_source=flops_source,
    **dict(zip(COEFFICIENTS, laws[0].tolist(), strict=True)),
    flops_coefficient=math.exp(intercept),
    flops_exponent=float(slope),
    residuals=np.log(loss / _law(laws[0], n, d)),
    samples=laws[1:],
    noise=noise,
    bounds=np.concatenate(at_bounds),
  )


def frontier(points: Iterable[Point]) -> list[Point]:
  """Returns the points with the lowest loss so far, sorted by compute."""
  best, kept = math.inf, []
  for point in sorted(points, key=lambda p: (p.flops, p.loss)):
    if point.loss < best:
      best = point.loss
      kept.append(point)
  return kept


@dataclasses.dataclass(frozen=True)
class Spent:
  """Compute of a ladder.

  Attributes:
    spent: FLOPs of the base runs and their branches.
    from_scratch: FLOPs of separate runs for all branches.
    saved: 1 - spent / from_scratch.
  """

  spent: float
  from_scratch: float
  saved: float


def compute_spent(
  base_runs: Mapping[str, int],
  branches: Mapping[str, Sequence[tuple[int, int]]],
  flops_per_step: Mapping[str, float],
) -> Spent:
  """Compares the compute of a ladder with separate runs, such as with cosine.

  Args:
    base_runs: Size -> steps of its base run.
    branches: Size -> (first step, last step) of each branch.
    flops_per_step: Size -> FLOPs of a training step.

  Raises:
    jaxplay.UserError: There is no branch, or a branch begins outside its base
      run.
  """
  if not any(branches.values()):
    raise jaxplay.UserError(
      "the ladder has no branches, so it has no points; run its cooldowns"
    )
  spent = sum(flops_per_step[size] * steps for size, steps in base_runs.items())
  from_scratch = 0.0
  for size, ends in branches.items():
    for start, last in ends:
      if not 0 <= start <= min(base_runs.get(size, 0), last):
        raise jaxplay.UserError(
          f"invalid branch of size {size!r} from step {start} to {last}: it has"
          f" to begin within the {base_runs.get(size, 0)} steps of the base"
          " run, and before its end"
        )
      spent += flops_per_step[size] * (last - start)
      from_scratch += flops_per_step[size] * last
  return Spent(float(spent), from_scratch, 1 - spent / from_scratch)


def as_lists(estimates):
  """Returns name -> [value, low, high] as JSON, with None for NaN."""
  return {
    name: [None if math.isnan(v) else float(v) for v in estimate]
    for name, estimate in estimates.items()
  }


def columns(points, count_embeddings):
  """Returns N, D, loss and FLOPs of the points, float64 [4, points]."""
  rows = [
    (
      p.parameters + (p.embedding_parameters if count_embeddings else 0),
      *(p.tokens, p.loss, p.flops),
    )
    for p in points
  ]
  return np.array(rows, float).reshape(-1, 4).T


def terms(laws, n, d):
  """Returns E, A / N^a and B / D^b; laws [5, ...] broadcast with n and d."""
  e, a_n, a, b_d, b = laws
  return np.stack(np.broadcast_arrays(e, a_n * n**-a, b_d * d**-b))


def _law(laws, n, d):
  return terms(laws, n, d).sum(axis=0)


def _interval(samples):
  """Returns low and high over the first axis; NaN if it is empty."""
  if not len(samples):
    return np.full((2, *samples.shape[1:]), np.nan)
  # No interpolation, since an isoFLOP minimum may be outside of the sizes.
  return np.percentile(samples, INTERVAL, axis=0, method="inverted_cdf")


def estimate(values):
  """Returns the estimate of [value, *bootstrap values]."""
  return Estimate(float(values[0]), *map(float, _interval(values[1:])))


def _open(found):
  """Returns the estimate without its interval."""
  return Estimate(found.value, math.nan, math.nan)


def _times_outside(value, low, high):
  """Returns a factor of at least 1, which is inside up to rounding."""
  factor = np.maximum(value / high, low / value)
  return np.where(factor < 1 + 1e-9, 1.0, factor)


def _refuse_extrapolation(outside):
  for name, factor in outside.items():
    if factor.max(initial=1.0) > _MOST_FACTOR:
      raise jaxplay.UserError(
        f"the request is {factor.max():.3g} times outside the {name} of the"
        f" points, and the fit supports at most {MAX_FACTOR:g}; train points"
        " closer to it, or use --extrapolate"
      )


def _check_points(points):
  for point in points:
    for name in ("parameters", "tokens", "loss", "flops"):
      if not 0 < getattr(point, name) < math.inf:
        raise jaxplay.UserError(
          f"a point of size {point.size!r} has {name} {getattr(point, name)};"
          " leave out runs that diverged or did not complete"
        )
  n, d, _, _ = columns(points, False)
  sizes, durations = len(np.unique(n)), len(np.unique(d))
  if sizes < 3:
    names = ", ".join(dict.fromkeys(p.size for p in points)) or "none"
    raise jaxplay.UserError(
      f"the ladder has {formats.count(sizes, 'size')} ({names}), too few to"
      " separate E from A / N^a; train at least 3"
    )
  if len(points) < 5 or durations < 3:
    raise jaxplay.UserError(
      f"{formats.count(len(points), 'point')} with"
      f" {formats.count(durations, 'number')} of tokens are too few for 5"
      " coefficients; run more cooldowns, for at least 5 points with at least 3"
      " numbers of tokens"
    )


def _bounds(least):
  """Returns bounds of log E, log A / N^a, a, log B / D^b, b, at the means.

  Args:
    least: Log of the lowest loss of each problem, [...].

  Returns:
    (low [..., 5], high [..., 5])
  """
  low, high = least - 10, least + 3  # of both terms
  small, large = np.full_like(least, 0.01), np.full_like(least, 3.0)
  return (
    np.stack([least - 7, low, small, low, small], axis=-1),
    np.stack([least, high, large, high, large], axis=-1),
  )


def _starts(data, bounds):
  """Returns initial values [25, 5]: a grid of exponents, and least squares.

  A grid of 25 is enough in place of Hoffmann's 4500 since the other
  coefficients are fitted (variable projection, Czech et al.).
  """
  x, y, log_loss = data
  starts = []
  for a, b in itertools.product(_STARTS, _STARTS):
    terms = np.stack([np.ones_like(x), np.exp(-a * x), np.exp(-b * y)], axis=1)
    weights, _ = optimize.nnls(terms * np.exp(-log_loss)[:, None], 0 * x + 1)
    e, a_n, b_d = np.log(np.maximum(weights, 1e-30))
    starts.append([e, a_n, a, b_d, b])
  return np.clip(starts, *bounds)


def _minimize(theta, data, weights, bounds):
  """Minimizes the sums of Huber losses of many problems at once.

  Reweighted least squares with Levenberg-Marquardt damping. A test compares it
  with SciPy's L-BFGS, which is not batched, and 30 times as slow on a busy
  machine since it waits for BLAS threads.

  Args:
    theta: [problems, 5], initial values within the bounds.
    data: Centred log N and log D, [points], and log loss, [points] or
      [problems, points].
    weights: [points].
    bounds: As from `_bounds`.

  Returns:
    (theta [problems, 5], sums [problems])
  """
  number, diagonal = len(theta), np.arange(5)
  found, least = theta.copy(), np.empty(number)
  # Of each problem that has not converged.
  low, high = (np.broadcast_to(bound, (number, 5)) for bound in bounds)
  x, y, log_loss = data
  data = x, y, np.broadcast_to(log_loss, (number, len(x)))
  which, damping = np.arange(number), np.full(number, 1e-2)
  value, residual, jacobian = _huber(theta, data, weights)
  for _ in range(_MOST_STEPS):
    # The parabola with this weight touches the Huber loss from above.
    weight = weights / np.maximum(np.abs(residual), 1)
    slope = np.einsum("pin,pn->pi", jacobian, weight * residual)
    free = np.where(slope > 0, theta > low, theta < high)
    part = jacobian * free[:, :, None]
    square = np.matmul(part * weight[:, None], part.transpose(0, 2, 1))
    square[:, diagonal, diagonal] *= 1 + damping[:, None]
    square[:, diagonal, diagonal] += 1e-9  # where a parameter is not free
    step = np.linalg.solve(square, (slope * free)[:, :, None])[:, :, 0]
    moved = np.clip(theta - step, low, high)
    new_value, new_residual, new_jacobian = _huber(moved, data, weights)
    better = new_value < value
    done = np.where(better, value - new_value < 1e-13 * value, damping > 1e9)
    damping = np.where(better, np.maximum(damping / 3, 1e-9), damping * 4)
    theta = np.where(better[:, None], moved, theta)
    value = np.where(better, new_value, value)
    residual = np.where(better[:, None], new_residual, residual)
    jacobian = np.where(better[:, None, None], new_jacobian, jacobian)
    found[which], least[which] = theta, value
    if done.any():
      left = ~done
      which, damping, theta, value = (
        v[left] for v in (which, damping, theta, value)
      )
      residual, jacobian, low, high = (
        v[left] for v in (residual, jacobian, low, high)
      )
      data = x, y, data[2][left]
    if not len(which):
      break
  return found, least


def _huber(theta, data, weights):
  """Returns sums, residuals log(law) - log(loss), and their derivatives.

  In units of delta, and summed: means are so small that an optimizer stops too
  early (Besiroglu et al. 2024, of Hoffmann et al.).
  """
  x, y, log_loss = data
  e, a_n, a, b_d, b = theta.T[:, :, None]
  logs = np.stack(np.broadcast_arrays(e, a_n - a * x, b_d - b * y))
  highest = logs.max(axis=0)
  terms = np.exp(logs - highest)
  total = terms.sum(axis=0)
  residual = (highest + np.log(total) - log_loss) / _DELTA
  size = np.abs(residual)
  huber = np.where(size > 1, size - 0.5, 0.5 * residual**2)
  e, a_n, b_d = terms / total / _DELTA
  jacobian = np.stack([e, a_n, -x * a_n, b_d, -y * b_d], axis=1)
  return (weights * huber).sum(axis=1), residual, jacobian


def _residuals(theta, data):
  """Returns log(measured) - log(law), [problems, points]."""
  return -_DELTA * _huber(theta, data, 1.0)[1]


def _at_bounds(theta, bounds):
  """Returns -1, 0 or 1: at the lower bound, at none, at the upper."""
  low, high = bounds
  return (theta >= high).astype(int) - (theta <= low)


def _refuse_collinear(best, data, bounds):
  """Refuses points that do not separate A / N^a from B / D^b.

  Along a line of log D and log N, such as with 20 tokens per parameter, the
  terms can be exchanged: a is then b times the slope of the line. The points
  have to exclude the law with exchanged terms (F-test at 1%).

  Args:
    best: [1, 5], the fitted law.
    data: As for `_minimize`.
    bounds: As from `_bounds`.
  """
  x, y, _ = data
  slope = x @ y / (x @ x)
  scatter = math.sqrt(max(1 - slope * (x @ y) / (y @ y), 0.0))
  if slope <= 0 or scatter > 0.9:
    return
  alike = scatter < 1e-3
  if not alike:
    e, a_n, a, b_d, b = best[0]
    exchanged = np.clip([[e, b_d, b * slope, a_n, a / slope]], *bounds)
    other, _ = _minimize(exchanged, data, np.ones(len(x)), bounds)
    squares = [(_residuals(t, data) ** 2).sum() for t in (best, other)]
    freedom = len(x) - 5
    critical = stats.f.isf(0.01, 1, freedom) / freedom if freedom else math.inf
    least = len(x) * _LEAST_NOISE**2
    shares = [t[0, 4] / (t[0, 2] + t[0, 4]) for t in (best, other)]
    alike = bool(
      abs(shares[1] - shares[0]) > 0.05
      and squares[1] <= max(squares[0], least) * (1 + critical)
    )
  if alike:
    raise jaxplay.UserError(
      "the points do not determine the best model: their tokens grow with the"
      f" parameters, as N^{slope:.2g}, and the law with A / N^a and B / D^b"
      " exchanged fits as well; train each size for at least 3 durations over a"
      " factor of 8, the same for all sizes"
    )


def _noise(best, data, bounds, points, number, seed):
  """Returns samples of the noise of all points, [number, points].

  Normal, with a share of the variance in common among the points of a size.
  Share and variance are drawn from their posterior given what the residuals
  leave of the fitted parameters: its tails are those of a t-distribution, which
  few degrees of freedom need.
  """
  _, _, jacobian = _huber(best, data, 1.0)
  free = _at_bounds(best, bounds)[0] == 0
  jacobian = jacobian[0, free].T
  rank = int(np.linalg.matrix_rank(jacobian))
  freedom = len(points) - rank
  if min(freedom, len(points) - 5) < 1 or not number:
    return np.zeros((0, len(points)))
  left = np.linalg.svd(jacobian)[0][:, rank:].T
  seen = left @ _residuals(best, data)[0]
  names = np.array([p.size for p in points])
  sizes = (names[:, None] == np.unique(names)).astype(float)
  log_density, squares = [], []
  for share in _SHARES:
    covariance = share * sizes @ sizes.T + (1 - share) * np.eye(len(points))
    root = np.linalg.cholesky(left @ covariance @ left.T)
    squares.append((np.linalg.solve(root, seen) ** 2).sum() + 1e-30)
    log_density.append(
      -np.log(np.diag(root)).sum() - freedom / 2 * np.log(squares[-1])
    )
  density = np.exp(np.array(log_density) - max(log_density))
  random = np.random.default_rng(seed)
  which = random.choice(len(_SHARES), number, p=density / density.sum())
  share = _SHARES[which][:, None]
  deviation = np.sqrt(
    np.array(squares)[which] / random.chisquare(freedom, number)
  )
  common = random.standard_normal((number, sizes.shape[1])) @ sizes.T
  own = random.standard_normal((number, len(points)))
  return deviation[:, None] * (
    np.sqrt(share) * common + np.sqrt(1 - share) * own
  )
