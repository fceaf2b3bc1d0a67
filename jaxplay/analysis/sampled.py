"""Whether the sample of periodic evaluations stands for the validation split.

"Check that the performance computed on the sampled dataset used by the model
matches the performance on the whole evaluation set, i.e., ensure there is no
skew between the sampled set and the full dataset" (Playbook, choosing a sample
for periodic evaluation). `config.eval_examples` chooses the sample.
"""

from typing import Any

import numpy as np
from scipy import stats

from jaxplay import config as config_lib
from jaxplay import finding, rundir
from jaxplay.analysis import results as results_lib

_CHECK = "sampled_evaluation"
_SOURCE = "Playbook, choosing a sample for periodic evaluation"
_LEVEL = 0.01  # chance of a false alarm, of both tests together
_DRAWS = 2000  # of labels, to know how they vary
# Times the squared skewness: examples from which a mean is nearly normal
# (Cochran 1977, Sampling Techniques, section 2.15).
_COCHRAN = 25


def check_trial(
  trial: results_lib.Trial, objective: str
) -> list[finding.Finding]:
  """Runs `sampled_evaluation` on a run; []: it evaluates no sample."""
  whole = objective.replace("valid", "valid_full", 1)
  if whole not in trial.curves:
    return []
  run = rundir.RunDir(trial.path)
  (value, step), (full, full_step) = trial.final(objective), trial.final(whole)
  if step != full_step:  # It has trained on since.
    return []
  metric = config_lib.metric.of(objective, trial.declared)
  try:
    return [
      sampled_evaluation(
        metric.cost(value),
        metric.cost(full),
        costs=_costs(run, objective, step),
        share=_share(run),
        counts=_counts(run, step),
      )
    ]
  except rundir.Damaged as error:
    return [_unknown(f"{error}.", {})]


def _costs(run, objective, step):
  examples = run.examples()
  if examples is None or (examples.metric, examples.step_last) != (
    objective,
    step,
  ):
    return None
  weight = examples.weight
  cost = examples.cost_last.astype(np.float64)
  return cost, np.ones(len(cost)) if weight is None else weight


def _share(run):
  """The sample as a share of the split; 0: unknown."""
  facts = (run.provenance() or {}).get("dataset") or {}
  valid = facts.get("splits", {}).get("valid", {})
  size, sampled = valid.get("examples"), valid.get("sampled")
  known = type(size) is int and type(sampled) is int and 0 < sampled <= size
  return sampled / size if known else 0.0


def _counts(run, step):
  """(examples of each class in the sample, in the split), or None."""
  if not (run.path / "predictions" / f"{step:08d}.npz").exists():
    return None
  arrays = run.predictions(step)
  if not {"label", "class_count", "class_count_full"} <= arrays.keys():
    return None  # Tokens are no classes.
  if arrays["label"].ndim != 1:
    return None  # Several labels of an example are not independent.
  return arrays["class_count"], arrays["class_count_full"]


def sampled_evaluation(
  value: float,
  full: float,
  *,
  costs: tuple[np.ndarray, np.ndarray] | None,
  share: float,
  counts: tuple[np.ndarray, np.ndarray] | None,
) -> finding.Finding:
  """Check a sample of the validation split for skew, at the last step.

  Not at the best step, which was chosen by the sample. The rule: `warn` if the
  objective on the sample differs from that on the whole split (if each example
  is right or wrong, by the exact hypergeometric test; else by a t-test, if the
  sample has more examples than 25 times the squared skewness of their costs),
  or the labels of the sample do (chi-square, by draws from the split), at 0.5%
  each; `unknown` without the first test and a warning of the second; else `ok`.

  Args:
    value: Cost of the objective on the sample.
    full: On the whole split.
    costs: Cost and weight of each example of the sample; None: not saved.
    share: Size of the sample as a share of the split; 0: unknown.
    counts: Examples of each class in the sample, and in the split; None: there
      are no classes.
  """
  evidence: dict[str, Any] = {"sample_cost": value, "full_cost": full}
  evidence["share"] = share
  if counts is not None:
    evidence["p_labels"] = _p_labels(*counts)
  found = {"the share of its labels": evidence.get("p_labels", 1.0)}
  missing = (
    "the cost of each example at the last step is not saved; see"
    " config.keep_examples"
  )
  if costs is not None and np.isfinite(value) and np.isfinite(full):
    evidence["num_examples"] = len(costs[0])
    p = _p_objective(full, *costs, share)
    missing = (
      f"{len(costs[0])} examples are too few for a test of costs as skewed as"
      " theirs; use more in config.eval_examples"
    )
    if p is not None:
      evidence["p_objective"] = found["its objective"] = p
  skewed = [what for what, p in found.items() if p < _LEVEL / 2]
  if skewed:
    return finding.Finding(
      _CHECK,
      "warn",
      "valid",
      evidence,
      "The sample of the validation split is skewed, by"
      f" {' and by '.join(skewed)} (cost {value:.4g}, and"
      f" {full:.4g} on the whole split). Trials are ranked by the"
      " sample; use more examples in config.eval_examples.",
      _SOURCE,
    )
  if "p_objective" not in evidence:
    return _unknown(
      f"The sample is not compared with the whole split: {missing}.", evidence
    )
  return finding.Finding(_CHECK, "ok", "valid", evidence, "", _SOURCE)


def _p_objective(full, cost, weight, share):
  """p of equal costs of a sample and of its split; None: too few examples."""
  n = len(cost)
  if share and np.isin(cost, (0, 1)).all() and (weight == weight[0]).all():
    size = round(n / share)
    wrong = min(max(round(full * size), 0), size)
    of_sample = stats.hypergeom(size, wrong, n)
    k = cost.sum()
    return float(min(1, 2 * min(of_sample.cdf(k), of_sample.sf(k - 1))))
  mean = np.average(cost, weights=weight)
  part = weight * (cost - mean)
  if n < 2 or n <= _COCHRAN * stats.skew(part) ** 2 or not part.any():
    return None
  squares = np.square(part).sum()
  error = np.sqrt(squares * (1 - share) * n / (n - 1)) / weight.sum()
  return float(2 * stats.t.sf(abs(mean - full) / error, n - 1))


def _p_labels(sample, whole):
  """p of equal label distributions, of a sample drawn without replacement.

  Of the chi-square statistic, by draws from the split: the counts of rare
  classes are too few for its usual distribution.
  """
  sample, whole = sample[whole > 0], whole[whole > 0].astype(np.int64)
  expected = sample.sum() * whole / whole.sum()
  drawn = np.random.default_rng(0).multivariate_hypergeometric(
    whole, sample.sum(), _DRAWS, method="marginals"
  )
  chi, of_draws = (
    (np.square(counts - expected) / expected).sum(-1)
    for counts in (sample, drawn)
  )
  # Equal statistics differ by rounding.
  return float((1 + (of_draws >= chi * (1 - 1e-9)).sum()) / (1 + _DRAWS))


def _unknown(advice, evidence):
  return finding.Finding(_CHECK, "unknown", "valid", evidence, advice, _SOURCE)
