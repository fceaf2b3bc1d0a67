"""Update rules: the FAQ's to the letter, optax's own for the others."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from jaxplay import config as config_lib
from jaxplay.training import optimizers

STEPS = 20
HPARAMS = dict(
  momentum=0.8,
  rho=0.7,
  beta1=0.85,
  beta2=0.95,
  epsilon=1e-2,  # large: where it stands shows
  decay_rate=0.7,
  beta3=0.99,
  mixing=3.0,
  gamma=0.5,
  weight_decay=0.0,
)
# A learning rate that changes: momentum before or after it is not the same.
RATES = np.linspace(0.02, 0.1, STEPS)


def _parameters():
  rng = np.random.default_rng(0)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  return {
    "Dense_0": {"kernel": draw(3, 2), "bias": draw(2)},
    "Norm_0": {"scale": draw(2)},
    "Embed_0": {"embedding": draw(4, 2)},
  }


def _gradients():
  """Of each step, with steps of very different sizes."""
  rng = np.random.default_rng(1)
  scale = np.exp(rng.normal(size=STEPS))
  return jax.tree.map(
    lambda leaf: (
      rng.normal(size=(STEPS, *leaf.shape))
      * scale.reshape((-1,) + (1,) * leaf.ndim)
    ).astype(np.float32),
    _parameters(),
  )


def _objective(params):
  """What optimizers of second order differentiate: it is not quadratic."""
  return sum(jnp.cosh(leaf).sum() for leaf in jax.tree.leaves(params))


def _with_objective(optimizer):
  update = optax.with_extra_args_support(optimizer).update
  return functools.partial(update, obj_fn=_objective)


@functools.partial(jax.jit, static_argnums=0)
def _trajectory(name, hparams, rates):
  """Parameters after each step, those to evaluate, and the last state."""
  params = _parameters()

  def step(carry, inputs):
    params, state = carry
    rate, grads = inputs
    update = _with_objective(optimizers.build(name, hparams, rate))
    updates, state = update(grads, state, params)
    params = optax.apply_updates(params, updates)
    evaluated = optimizers.eval_params(name, hparams, state, params)
    return (params, state), (params, evaluated)

  state = optimizers.build(name, hparams, 0.0).init(params)
  carry, (path, evaluated) = jax.lax.scan(
    step, (params, state), (rates, _gradients())
  )
  return path, evaluated, carry[1]


def _run(name, rates=RATES, **changes):
  hparams = {k: np.float32(v) for k, v in (HPARAMS | changes).items()}
  return _trajectory(name, hparams, rates.astype(np.float32))


def _optax(make, rates=RATES):
  """The same by a transformation of optax that is made for each step."""
  params = _parameters()

  def step(carry, inputs):
    params, state = carry
    t, rate, grads = inputs
    updates, state = _with_objective(make(rate, t))(grads, state, params)
    params = optax.apply_updates(params, updates)
    return (params, state), params

  @jax.jit
  def run(rates):
    state = make(0.0, 1.0).init(params)
    steps = jnp.arange(1.0, STEPS + 1)
    return jax.lax.scan(step, (params, state), (steps, rates, _gradients()))

  (_, state), path = run(rates.astype(np.float32))
  return path, state


def _assert_close(one, other, rtol=1e-5, atol=1e-6):
  assert jax.tree.structure(one) == jax.tree.structure(other)
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol),
    one,
    other,
  )


def _difference(one, other):
  gaps = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), one, other)
  return max(jax.tree.leaves(gaps))


# The FAQ's rules, line by line, for one array (theta_t, gradient, eta_t).


def _sgd(theta, gradients, rates, h):
  for g, eta in zip(gradients, rates, strict=True):
    theta = theta - eta * g
    yield theta


def _momentum(theta, gradients, rates, h):
  v = 0
  for g, eta in zip(gradients, rates, strict=True):
    v = h["momentum"] * v + g
    theta = theta - eta * v
    yield theta


def _nesterov(theta, gradients, rates, h):
  v = 0
  for g, eta in zip(gradients, rates, strict=True):
    v = h["momentum"] * v + g
    theta = theta - eta * (h["momentum"] * v + g)
    yield theta


def _rmsprop(theta, gradients, rates, h):
  v, m = 1, 0
  for g, eta in zip(gradients, rates, strict=True):
    v = h["rho"] * v + (1 - h["rho"]) * g**2
    m = h["momentum"] * m + eta / np.sqrt(v + h["epsilon"]) * g
    theta = theta - m
    yield theta


def _adam(theta, gradients, rates, h):
  m, v = 0, 0
  beta1, beta2 = h["beta1"], h["beta2"]
  for t, (g, alpha) in enumerate(zip(gradients, rates, strict=True)):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    b = np.sqrt(1 - beta2 ** (t + 1)) / (1 - beta1 ** (t + 1))
    theta = theta - alpha * m / (np.sqrt(v) + h["epsilon"]) * b
    yield theta


def _nadam(theta, gradients, rates, h):
  m, v = 0, 0
  beta1, beta2 = h["beta1"], h["beta2"]
  for t, (g, alpha) in enumerate(zip(gradients, rates, strict=True)):
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * g**2
    b = np.sqrt(1 - beta2 ** (t + 1)) / (1 - beta1 ** (t + 1))
    ahead = beta1 * m + (1 - beta1) * g
    theta = theta - alpha * ahead / (np.sqrt(v) + h["epsilon"]) * b
    yield theta


FAQ = {
  "sgd": _sgd,
  "momentum": _momentum,
  "nesterov": _nesterov,
  "rmsprop": _rmsprop,
  "adam": _adam,
  "nadam": _nadam,
}


def _transcribed(rule, **changes):
  """A rule's path in float64, array by array."""
  return jax.tree.map(
    lambda theta, gradients: np.stack(
      list(
        rule(
          theta.astype(np.float64),
          gradients.astype(np.float64),
          RATES,
          HPARAMS | changes,
        )
      )
    ),
    _parameters(),
    _gradients(),
  )


@pytest.mark.parametrize("name", FAQ)
def test_rules_of_the_faq(name):
  """A2: 20 steps equal a transcription of the FAQ, whatever the numbers."""
  for changes in ({}, dict(momentum=0.0, beta1=0.5, epsilon=1e-8, rho=0.99)):
    path, evaluated, _ = _run(name, **changes)
    expected = _transcribed(FAQ[name], **changes)
    # 1e-5 of parameters of size one; far less than a wrong rule would give.
    _assert_close(path, expected, rtol=1e-5, atol=1e-5)
    _assert_close(evaluated, path, rtol=0, atol=0)


def test_muon_is_optax_with_adamw_for_what_is_no_hidden_matrix():
  """A2: kernels as `contrib.muon`, embeddings and vectors as AdamW."""
  b1, b2, eps = (HPARAMS[key] for key in ("beta1", "beta2", "epsilon"))
  muon, _ = _optax(
    lambda rate, t: contrib.muon(
      rate, beta=HPARAMS["momentum"], eps=eps, consistent_rms=0.2
    )
  )
  # Its Adam looks ahead, as its momentum does.
  adam, _ = _optax(
    lambda rate, t: optax.adamw(
      rate, b1, b2, eps, weight_decay=0.0, nesterov=True
    )
  )
  expected = {
    "Dense_0": {
      "kernel": muon["Dense_0"]["kernel"],
      "bias": adam["Dense_0"]["bias"],
    },
    "Norm_0": adam["Norm_0"],
    "Embed_0": adam["Embed_0"],
  }
  _assert_close(_run("muon")[0], expected)
  assert _difference(muon["Embed_0"], adam["Embed_0"]) > 1e-2


def test_muon_takes_each_matrix_of_a_stack_alone():
  """A2: blocks stacked by a scan, q, k and v, windows of convolutions."""
  rng = np.random.default_rng(2)
  draw = lambda *shape: rng.normal(size=shape).astype(np.float32)  # noqa: E731
  hparams = HPARAMS | {"weight_decay": 0.0}

  def step(params):
    update = optimizers.build("muon", hparams, 0.1)
    state = update.init(params)
    return update.update(params, state, params)[0]

  stacked = {"blocks": {"up": {"kernel": draw(3, 4, 6)}}}
  query = {"query": {"kernel": draw(4, 2, 3)}}
  out = {"out": {"kernel": draw(2, 3, 4)}}
  window = {"Conv_0": {"kernel": draw(3, 3, 4, 6)}}
  for i in range(3):
    alone = {"up": {"kernel": stacked["blocks"]["up"]["kernel"][i]}}
    _assert_close(
      step(stacked)["blocks"]["up"]["kernel"][i],
      step(alone)["up"]["kernel"],
      atol=1e-5,
    )
  for tree, name, shape in ((query, "query", (4, 6)), (out, "out", (6, 4))):
    flat = {"up": {"kernel": tree[name]["kernel"].reshape(shape)}}
    _assert_close(
      step(tree)[name]["kernel"].reshape(shape),
      step(flat)["up"]["kernel"],
      atol=1e-5,
    )
  qkv = {"qkv": {"kernel": draw(4, 3, 2, 5)}}
  value = {"up": {"kernel": qkv["qkv"]["kernel"][:, 2].reshape(4, 10)}}
  _assert_close(
    step(qkv)["qkv"]["kernel"][:, 2].reshape(4, 10),
    step(value)["up"]["kernel"],
    atol=1e-5,
  )
  one = {"up": {"kernel": window["Conv_0"]["kernel"][1, 2]}}
  _assert_close(
    step(window)["Conv_0"]["kernel"][1, 2], step(one)["up"]["kernel"], atol=1e-5
  )


def test_adafactor_ademamix_and_sophia_are_those_of_optax():
  """A2: with the decoupled decay of all optimizers."""
  adafactor, _ = _optax(
    lambda rate, t: optax.adafactor(rate, decay_rate=HPARAMS["decay_rate"])
  )
  _assert_close(_run("adafactor")[0], adafactor)
  ademamix, _ = _optax(
    lambda rate, t: contrib.ademamix(
      rate,
      *(HPARAMS[key] for key in ("beta1", "beta2", "beta3", "mixing")),
      HPARAMS["epsilon"],
    )
  )
  _assert_close(_run("ademamix")[0], ademamix)
  sophia, _ = _optax(
    lambda rate, t: contrib.sophia(
      rate,
      *(HPARAMS[key] for key in ("beta1", "beta2", "epsilon")),
      weight_decay=0.0,
      gamma=HPARAMS["gamma"],
    )
  )
  _assert_close(_run("sophia")[0], sophia)


def test_the_rules_differ():
  """A2: the comparison would tell each of the rules from every other."""
  paths = {name: _transcribed(rule) for name, rule in FAQ.items()}
  for one in paths:
    for other in paths:
      assert one == other or _difference(paths[one], paths[other]) > 1e-2


def test_adam_differs_from_optax_in_epsilon():
  """A2: ours is optax.adam with epsilon / sqrt(1 - beta2^t), as it is said."""
  b1, b2, eps = (HPARAMS[key] for key in ("beta1", "beta2", "epsilon"))
  ours, _, _ = _run("adam")
  same, _ = _optax(
    lambda rate, t: optax.adam(rate, b1, b2, eps / jnp.sqrt(1 - b2**t))
  )
  _assert_close(ours, same, atol=1e-5)
  alias, _ = _optax(lambda rate, t: optax.adam(rate, b1, b2, eps))
  assert _difference(ours, alias) > 1e-3


def test_nadam_differs_from_optax_in_epsilon_and_look_ahead():
  """A2: optax corrects the momentum part of the look-ahead by step t + 1."""

  def optax_nadam(theta, gradients, rates, h):
    m, v = 0, 0
    beta1, beta2 = h["beta1"], h["beta2"]
    for t, (g, alpha) in enumerate(zip(gradients, rates, strict=True), 1):
      m = beta1 * m + (1 - beta1) * g
      v = beta2 * v + (1 - beta2) * g**2
      ahead = beta1 * m / (1 - beta1 ** (t + 1))
      ahead += (1 - beta1) * g / (1 - beta1**t)
      v_hat = v / (1 - beta2**t)
      theta = theta - alpha * ahead / (np.sqrt(v_hat) + h["epsilon"])
      yield theta

  b1, b2 = HPARAMS["beta1"], HPARAMS["beta2"]
  for eps in (HPARAMS["epsilon"], 1e-12):
    alias, _ = _optax(lambda rate, t, eps=eps: optax.nadam(rate, b1, b2, eps))
    expected = _transcribed(optax_nadam, epsilon=eps)
    _assert_close(alias, expected, atol=1e-5)
    ours, _, _ = _run("nadam", epsilon=eps)
    assert _difference(ours, alias) > 1e-2


def test_rmsprop_differs_from_optax_in_its_start():
  """A2: ours is optax.rmsprop from v = 1, with epsilon inside the root."""

  def alias(initial_scale, eps_in_sqrt=True):
    return _optax(
      lambda rate, t: optax.rmsprop(
        rate,
        HPARAMS["rho"],
        HPARAMS["epsilon"],
        initial_scale=initial_scale,
        eps_in_sqrt=eps_in_sqrt,
        momentum=HPARAMS["momentum"],
      )
    )[0]

  ours, _, _ = _run("rmsprop")
  _assert_close(ours, alias(1.0), atol=1e-5)
  assert _difference(ours, alias(0.0)) > 1e-2
  assert _difference(ours, alias(1.0, eps_in_sqrt=False)) > 1e-3


def _decayed(params):
  """Kernels and embeddings, by hand."""
  return {
    "Dense_0": {"kernel": True, "bias": False},
    "Norm_0": {"scale": False},
    "Embed_0": {"embedding": True},
  }


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_optax_own_rules(decay):
  """A2: adamw, lion and schedule_free_adamw are optax's aliases."""
  b1, b2, eps = (HPARAMS[key] for key in ("beta1", "beta2", "epsilon"))
  mask = dict(weight_decay=decay, mask=_decayed)
  alias, _ = _optax(lambda rate, t: optax.adamw(rate, b1, b2, eps, **mask))
  _assert_close(_run("adamw", weight_decay=decay)[0], alias)
  alias, _ = _optax(lambda rate, t: optax.lion(rate, b1, b2, **mask))
  _assert_close(_run("lion", weight_decay=decay)[0], alias)


def test_schedule_free_is_optax_own():
  """A2: schedule-free AdamW is optax's alias, and evaluated as optax says.

  The alias decays every parameter, so there is no decay here.
  """
  b1, b2, eps = (HPARAMS[key] for key in ("beta1", "beta2", "epsilon"))
  constant = np.full(STEPS, 0.05)
  alias, state = _optax(
    lambda rate, t: contrib.schedule_free_adamw(0.05, b1=b1, b2=b2, eps=eps)
  )
  path, evaluated, _ = _run("schedule_free_adamw", rates=constant)
  _assert_close(path, alias)
  last = jax.tree.map(lambda leaf: leaf[-1], (path, evaluated))
  expected = contrib.schedule_free_eval_params(state, last[0])
  _assert_close(last[1], expected)


def test_schedule_free_through_a_warmup():
  """A2: with a rate that changes, it is the algorithm of the paper.

  Defazio et al. 2024 (arXiv 2405.15682), algorithm 1 with AdamW's step: each z
  weighs as the square of the rate that led to it.
  """
  beta1, beta2 = HPARAMS["beta1"], HPARAMS["beta2"]

  def transcription(theta, gradients):
    x = z = y = theta.astype(np.float64)
    v, total, path, evaluated = 0, 0, [], []
    for t, (g, rate) in enumerate(zip(gradients, RATES, strict=True), 1):
      v = beta2 * v + (1 - beta2) * g.astype(np.float64) ** 2
      v_hat = v / (1 - beta2**t)
      z = z - rate * g / (np.sqrt(v_hat) + HPARAMS["epsilon"])
      total += rate**2
      x = x + rate**2 / total * (z - x)
      y = (1 - beta1) * z + beta1 * x
      path.append(y)
      evaluated.append(x)
    return np.stack([np.stack(path), np.stack(evaluated)])

  both = jax.tree.map(transcription, _parameters(), _gradients())
  path, evaluated, _ = _run("schedule_free_adamw")
  _assert_close(path, jax.tree.map(lambda b: b[0], both), atol=1e-5)
  _assert_close(evaluated, jax.tree.map(lambda b: b[1], both), atol=1e-5)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_weight_decay_is_decoupled(name):
  """A2: a step also subtracts rate x decay x parameter, of kernels only.

  Whatever the moments have become, and of no bias and no norm's scale.
  """
  hparams = {k: np.float32(v) for k, v in HPARAMS.items()}
  params = _parameters()
  grads = jax.tree.map(lambda g: g[0], _gradients())

  @jax.jit
  def after(decays):
    current = params
    state = optimizers.build(name, hparams, 0.0).init(current)
    for rate, decay in zip((0.1, 0.05, 0.2), decays, strict=True):
      before = current
      decaying = hparams | {"weight_decay": decay}
      update = _with_objective(optimizers.build(name, decaying, rate))
      updates, state = update(grads, state, current)
      current = optax.apply_updates(current, updates)
    # What schedule-free methods step with is z; x and y are means of it.
    return before, state.z if name == "schedule_free_adamw" else current

  before, plain = after(np.float32([0, 0, 0]))
  _, decayed = after(np.float32([0, 0, 0.3]))
  expected = jax.tree.map(
    lambda leaf, old, is_decayed: leaf - 0.2 * 0.3 * old * is_decayed,
    plain,
    before,
    _decayed(params),
  )
  _assert_close(decayed, expected)
  assert _difference(decayed, plain) > 1e-2


OWN = {
  name: {
    key.removeprefix("hparams.")
    for key, facts in config_lib.KEYS.items()
    if facts.used_by
    and facts.used_by[0] == "optimizer"
    and name in facts.used_by[1]
  }
  for name in optimizers.OPTIMIZERS
}


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_number_can_be_set(name):
  """A3: each number of an optimizer changes its path, the others do not.

  And none compiles anything anew: one program serves a study of them.
  """
  path, evaluated, _ = _run(name)
  compiled = _trajectory._cache_size()
  for key, value in HPARAMS.items():
    other, other_evaluated, _ = _run(name, **{key: 0.5 * value + 0.01})
    changed = _difference((path, evaluated), (other, other_evaluated))
    if key in OWN[name] or key == "weight_decay":
      assert changed > 1e-4, key
    else:
      assert changed == 0, key
  faster, _, _ = _run(name, rates=2 * RATES)
  assert _difference(path, faster) > 1e-2
  assert _trajectory._cache_size() == compiled


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_a_population_is_its_members(name):
  """Idea 1: vmap over the numbers gives what each gives alone."""
  rng = np.random.default_rng(2)
  members = [
    {k: np.float32(v * rng.uniform(0.5, 1)) for k, v in HPARAMS.items()}
    | {"weight_decay": np.float32(rng.uniform(0, 0.1))}
    for _ in range(3)
  ]
  stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
  rates = np.stack([RATES, RATES / 2, RATES / 3]).astype(np.float32)
  together = jax.vmap(functools.partial(_trajectory, name))(stacked, rates)
  for i, member in enumerate(members):
    alone = _trajectory(name, member, rates[i])
    _assert_close(
      jax.tree.map(lambda leaf, i=i: leaf[i], together[:2]), alone[:2]
    )
