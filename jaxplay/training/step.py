"""The train step: a pure function of (hparams, state, batch).

`hparams` is a flat dict of traced numbers, so a study compiles once, and `vmap`
over (hparams, state) is a population. Names and shapes are fixed when the step
is made.
"""

import difflib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxplay
from jaxplay import models
from jaxplay.data import order
from jaxplay.training import diagnostics as diagnostics_lib
from jaxplay.training import optimizers, schedules


class TrainState(NamedTuple):
  """The state of training from step to step, and in checkpoints."""

  step: jax.Array  # int32, updates made
  params: Any
  batch_stats: Any  # averages for evaluation
  opt_state: Any  # of the parameters that are trained
  averages: Any  # name -> weight average of (params, batch_stats)
  dropout_key: jax.Array  # uint32 [2], raw PRNG key of the run
  # float32 sums since the last line of metrics, and diagnostics [layers]
  tally: dict[str, jax.Array]


# The entries of the tally. `bad_step` is 0 until the loss or the gradient norm
# is not finite, then permanently the number of that update.
_TALLY = (
  "loss",  # sum over steps, nats
  "error_rate",  # sum over steps, of a task that has errors
  "steps",
  "clipped",  # updates clipped
  "grad_norm",  # of the last step, before clipping
  "grad_norm_max",
  "learning_rate",  # of the last step
  "bad_step",
  "bad_loss",
  "bad_grad_norm",
)


def stream_seeds(seed: int) -> dict[str, np.uint32]:
  """The seeds of `init_state`, from the seed of a run."""
  return {
    stream: np.uint32(order.stream_seed(seed, stream))
    for stream in ("init", "dropout")
  }


def parameter_name(path) -> str:
  """The name of a parameter, "Dense_0/kernel", from its path in the tree."""
  return jax.tree_util.keystr(path, simple=True, separator="/")


def split_params(params: Any, frozen: Sequence[str]) -> tuple[Any, Any]:
  """Splits parameters into those that are trained, and the others.

  Args:
    params: Tree of parameters.
    frozen: Patterns of whole names, "Dense_0/.*", of those not to train.

  Returns:
    (trainable, fixed): both like `params`, with None for what is in the other.
  """

  def part(want):
    def of(path, leaf):
      name = parameter_name(path)
      is_frozen = any(re.fullmatch(pattern, name) for pattern in frozen)
      return leaf if is_frozen == want else None

    return jax.tree_util.tree_map_with_path(of, params)

  return part(False), part(True)


def merge_params(trainable: Any, fixed: Any) -> Any:
  """The parameters that `split_params` split."""
  return jax.tree.map(
    lambda a, b: b if a is None else a,
    trainable,
    fixed,
    is_leaf=lambda leaf: leaf is None,
  )


def check_frozen(params: Any, frozen: Sequence[str]) -> None:
  """Refuses patterns of no parameter, and to train none.

  Args:
    params: Of the model; only names matter.
    frozen: Patterns of whole names.

  Raises:
    jaxplay.UserError: A pattern matches nothing, or all parameters match.
  """
  paths = jax.tree_util.tree_leaves_with_path(params)
  names = [parameter_name(path) for path, _ in paths]
  for pattern in frozen:
    if not any(re.fullmatch(pattern, name) for name in names):
      raise jaxplay.UserError(
        f"config.frozen: {pattern!r} matches no whole name of a parameter;"
        f" the model has {_near(pattern, names)}"
      )
  if frozen and not jax.tree.leaves(split_params(params, frozen)[0]):
    raise jaxplay.UserError(
      f"config.frozen={tuple(frozen)!r} matches all {len(names)} parameters of"
      " the model, and nothing is left to train; leave some out"
    )


def _near(pattern, names):
  close = difflib.get_close_matches(pattern, names, 2, 0.0)
  return ", ".join(map(repr, close))


def init_state(
  model,
  *,
  seeds: Mapping[str, Any],
  inputs: jax.Array,
  loaded: Mapping[str, Mapping[str, Any]] = {},
  **kwargs: Any,
) -> TrainState:
  """The state before the first step; traceable.

  Args:
    model: From `models.build`.
    seeds: From `stream_seeds`; may be traced.
    inputs: Inputs of the model [batch, ...]; only shape and type matter.
    loaded: "params" and "batch_stats": name -> array to start from instead.
    **kwargs: Of `fresh_state`.
  """
  key = jax.random.key(seeds["init"])
  params, batch_stats = models.init(model, key, inputs)
  if loaded:
    params = _with_loaded(params, loaded["params"])
    batch_stats = _with_loaded(batch_stats, loaded["batch_stats"])
  return fresh_state(params, batch_stats, seeds=seeds, **kwargs)


def _with_loaded(tree, arrays):
  return jax.tree_util.tree_map_with_path(
    lambda path, leaf: arrays.get(parameter_name(path), leaf), tree
  )


def fresh_state(
  params: Any,
  batch_stats: Any,
  *,
  seeds: Mapping[str, Any],
  optimizer: str | optimizers.Make,
  hparams: dict,
  averages: Sequence[str],
  frozen: Sequence[str] = (),
  has_errors: bool = True,
  diagnostics: diagnostics_lib.Diagnostics = diagnostics_lib.NONE,
) -> TrainState:
  """The state before the first step, of given weights; traceable.

  Args:
    params: Parameters.
    batch_stats: Averages of batch statistics.
    seeds: From `stream_seeds`; may be traced.
    optimizer: As for `optimizers.build`.
    hparams: Its numbers.
    averages: Names of the weight averages to keep: "ema", "window".
    frozen: Patterns of the parameters that are not trained.
    has_errors: Whether the task has errors, which are added up.
    diagnostics: What is logged of each layer.
  """
  raw = jax.random.key(seeds["dropout"])
  copy = jax.tree.map(jnp.zeros_like, (params, batch_stats))
  kept = {"ema": copy, "window": {"partial": copy, "whole": copy}}
  trainable, _ = split_params(params, frozen)
  return TrainState(
    step=jnp.zeros([], jnp.int32),
    params=params,
    batch_stats=batch_stats,
    opt_state=optimizers.build(optimizer, hparams, 0.0).init(trainable),
    averages={name: kept[name] for name in averages},
    dropout_key=jax.random.key_data(raw),
    tally={
      name: jnp.zeros([], jnp.float32)
      for name in _TALLY
      if has_errors or name != "error_rate"
    }
    | diagnostics.empty(trainable),
  )


def make_train_step(
  model,
  task,
  *,
  optimizer: str | optimizers.Make,
  schedule_curves: Sequence[Callable] = (),
  clipping: bool,
  averages: Sequence[str],
  microbatches: int,
  log_every: int,
  frozen: Sequence[str] = (),
  diagnostics: diagnostics_lib.Diagnostics = diagnostics_lib.NONE,
) -> Callable:
  """Makes `train_step(hparams, state, batch) -> (state, metrics)`.

  The arrays of a batch have leading dimensions [microbatches, examples]. The
  gradient is that of the mean loss over the whole batch: microbatches are added
  before clipping and the optimizer, and batch statistics are averaged over
  them. Metrics are the tally of `state`: sums since the last line of metrics,
  at step `log_every * k`.

  Args:
    model: From `models.build`.
    task: From `tasks`.
    optimizer: As for `optimizers.build`.
    schedule_curves: The user's schedules; see `schedules.learning_rate`.
    clipping: Whether to clip the gradient norm at `hparams["clip_norm"]`.
    averages: Names of the weight averages to keep.
    microbatches: Sequential parts of a batch.
    log_every: Steps after which the tally restarts.
    frozen: Patterns of the parameters that are not trained: gradients, their
      norm, the optimizer and weight decay are of the others only.
    diagnostics: What is logged of each layer.
  """

  def microbatch_grads(hparams, state, key, batch, rows, total_weight):
    """(loss, error rate, batch statistics, gradient) of one microbatch.

    The error rate is None for a task without errors.
    """
    weights = batch.get("weight")
    trainable, fixed = split_params(state.params, frozen)

    def loss_fn(trainable):
      logits, batch_stats = models.apply(
        model,
        merge_params(trainable, fixed),
        state.batch_stats,
        task.inputs(batch),
        train=True,
        weights=weights,
        rows=rows,
        dropout_rate=hparams["dropout_rate"],
        dropout_key=key,
      )
      loss = task.loss(logits, batch, hparams)
      errors = None
      if task.errors is not None:
        errors = task.errors(logits, batch).astype(jnp.float32)
      if weights is not None:
        loss = loss * weights
        errors = None if errors is None else errors * weights
      # The fraction of the batch in this part.
      share = (rows.size if weights is None else weights.sum()) / total_weight
      batch_stats = jax.tree.map(lambda mean: share * mean, batch_stats)
      return loss.sum() / total_weight, (
        None if errors is None else errors.sum() / total_weight,
        batch_stats,
      )

    (loss, aux), grads = jax.value_and_grad(loss_fn, has_aux=True)(trainable)
    return loss, *aux, grads

  def batch_grads(hparams, state, batch):
    """(loss, error rate, batch statistics, gradient) of the whole batch."""
    key = jax.random.wrap_key_data(state.dropout_key)
    key = jax.random.fold_in(key, state.step)
    shape = jax.tree.leaves(batch)[0].shape[:2]
    rows = jnp.arange(shape[0] * shape[1]).reshape(shape)
    total_weight = batch["weight"].sum() if "weight" in batch else rows.size

    def one(part, part_rows):
      return microbatch_grads(
        hparams, state, key, part, part_rows, total_weight
      )

    first = jax.tree.map(lambda array: array[0], (batch, rows))
    if microbatches == 1:
      return one(*first)
    zeros = jax.tree.map(
      lambda leaf: jnp.zeros(leaf.shape, leaf.dtype),
      jax.eval_shape(one, *first),
    )
    total, _ = jax.lax.scan(
      lambda total, part: (jax.tree.map(jnp.add, total, one(*part)), None),
      zeros,
      (batch, rows),
    )
    return total

  def train_step(hparams, state, batch):
    loss, error_rate, batch_stats, grads = batch_grads(hparams, state, batch)
    grad_norm = optax.tree.norm(grads)
    unclipped, clipped = grads, jnp.zeros([])
    if clipping:
      clip = hparams["clip_norm"]
      clipped = jnp.float32(grad_norm > clip)
      factor = jnp.where(grad_norm > clip, clip / grad_norm, 1.0)
      grads = jax.tree.map(lambda g: g * factor, grads)

    rate = schedules.learning_rate(state.step, hparams, schedule_curves)
    trainable, fixed = split_params(state.params, frozen)

    # optax passes on the extra arguments that a function names.
    def objective(trainable, obj_fn=None):
      del obj_fn
      changed = state._replace(params=merge_params(trainable, fixed))
      return batch_grads(hparams, changed, batch)[0]

    # What some optimizers ask for beside the gradient, by optax's names.
    update = optax.with_extra_args_support(
      optimizers.build(optimizer, hparams, rate)
    ).update
    updates, opt_state = update(
      grads,
      state.opt_state,
      trainable,
      value=loss,
      grad=grads,
      value_fn=objective,
      obj_fn=objective,
    )
    measured = {}
    if diagnostics.names:
      done = state.step + 1
      # Unlike `where`, `cond` does not compute what is not logged.
      measured = jax.lax.cond(
        (done % log_every == 0) | (done == hparams["max_train_steps"]),
        lambda: diagnostics.measured(trainable, unclipped, updates),
        lambda: {name: state.tally[name] for name in diagnostics.names},
      )
    trainable = optax.apply_updates(trainable, updates)
    params = merge_params(trainable, fixed)
    keep = hparams["norm_momentum"]
    if models.averages_statistics(model):
      keep = 0.0
    batch_stats = jax.tree.map(
      lambda old, new: keep * old + (1 - keep) * new,
      state.batch_stats,
      batch_stats,
    )

    step = state.step + 1
    evaluated = (
      _eval_params(optimizer, hparams, opt_state, params, frozen),
      batch_stats,
    )
    tally = _add_to_tally(
      _restarted(state.tally, state.step % log_every == 0),
      step,
      loss=loss,
      error_rate=error_rate,
      clipped=clipped,
      grad_norm=grad_norm,
      learning_rate=rate,
    )
    tally |= measured
    new_averages = {
      name: _AVERAGE[name](state.averages[name], evaluated, step, hparams)
      for name in averages
    }
    state = TrainState(
      step,
      params,
      batch_stats,
      opt_state,
      new_averages,
      state.dropout_key,
      tally,
    )
    return state, tally

  return train_step


def make_run_steps(
  train_step: Callable, *, one_by_one: bool, until_diverged: bool = False
) -> Callable:
  """Makes `run_steps(hparams, state, arrays, examples, begin, end)`.

  Runs train steps in one dispatch on data that is on the device. `begin` and
  `end` are traced, so the division of a run into calls, by logging or by a
  preemption, cannot change its results.

  `arrays` holds all examples of the split. `examples` describes the batches of
  several steps: `examples["index"]` [steps, microbatches, examples] are indices
  into `arrays`, and its other entries are added to the batch. Runs the steps in
  [begin, end); if `one_by_one`, only step `begin`, without a loop. If
  `until_diverged`, stops after a step with a loss or gradient that is not
  finite.
  """

  def run_steps(hparams, state, arrays, examples, begin, end):
    def body(i, state):
      part = {name: array[i] for name, array in examples.items()}
      index = part.pop("index")
      batch = {name: array[index] for name, array in arrays.items()}
      return train_step(hparams, state, batch | part)[0]

    if one_by_one:
      state = body(begin, state)
    elif until_diverged:
      _, state = jax.lax.while_loop(
        lambda carry: (carry[0] < end) & (carry[1].tally["bad_step"] == 0),
        lambda carry: (carry[0] + 1, body(*carry)),
        (begin, state),
      )
    else:
      state = jax.lax.fori_loop(begin, end, body, state)
    return state, state.tally

  return run_steps


def _eval_params(optimizer, hparams, opt_state, params, frozen):
  trainable, fixed = split_params(params, frozen)
  trainable = optimizers.eval_params(optimizer, hparams, opt_state, trainable)
  return merge_params(trainable, fixed)


def eval_variables(
  state: TrainState,
  hparams: dict,
  optimizer: str,
  weights: str = "raw",
  frozen: Sequence[str] = (),
) -> dict:
  """The variables to evaluate: suffix -> (params, batch_stats).

  The suffix of the split's name is "_raw" for the raw weights (for
  schedule-free methods, their average), "_ema" and "_window" for the weight
  averages; the entry that `weights` names has "" instead.
  """
  params = _eval_params(
    optimizer, hparams, state.opt_state, state.params, frozen
  )
  variables = {"_raw": (params, state.batch_stats)}
  if "ema" in state.averages:
    variables["_ema"] = state.averages["ema"]
  if "window" in state.averages:
    window = state.averages["window"]
    full = state.step >= hparams["window_steps"]
    started = state.step >= _stride(hparams)
    variables["_window"] = jax.tree.map(
      lambda whole, partial, raw: jnp.where(
        full, whole, jnp.where(started, partial, raw)
      ),
      window["whole"],
      window["partial"],
      variables["_raw"],
    )
  variables[""] = variables.pop(f"_{weights}")
  return variables


def _exponential(average, new, step, hparams):
  """Exponential average, unbiased from the first step: weights sum to 1."""
  decay = jnp.float32(hparams["ema_decay"])
  share = (1 - decay) / (1 - decay ** step.astype(jnp.float32))
  return jax.tree.map(lambda a, n: a + share * (n - a), average, new)


def _uniform_window(average, new, step, hparams):
  """Uniform averages over consecutive windows of `window_steps` steps.

  Includes every `window_stride`-th step. `partial` averages the current window,
  `whole` the last complete one (Hägele et al. 2024, section 4.2). Two copies
  suffice for windows of any traced length.
  """
  length, stride = jnp.int32(hparams["window_steps"]), _stride(hparams)
  place = (step - 1) % length + 1  # in the window, from 1 to length

  def enter(average):
    number = place // stride
    partial = jax.tree.map(
      lambda a, n: jnp.where(number == 1, n, a + (n - a) / number),
      average["partial"],
      new,
    )
    return {"partial": partial, "whole": average["whole"]}

  def close(average):
    return {"partial": average["partial"], "whole": average["partial"]}

  # Unlike `where`, `cond` does not read and write all weights at every step.
  average = jax.lax.cond(place % stride == 0, enter, lambda a: a, average)
  return jax.lax.cond(place == length, close, lambda a: a, average)


def _stride(hparams):
  """Steps between two averaged steps; at most the length of a window."""
  return jnp.minimum(
    jnp.int32(hparams["window_stride"]), jnp.int32(hparams["window_steps"])
  )


_AVERAGE = {"ema": _exponential, "window": _uniform_window}


def _restarted(tally, fresh):
  kept = ("bad_step", "bad_loss", "bad_grad_norm")
  return {
    name: value if name in kept else jnp.where(fresh, 0.0, value)
    for name, value in tally.items()
  }


def _add_to_tally(
  tally, step, *, loss, error_rate, clipped, grad_norm, learning_rate
):
  finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)
  first_bad = ~finite & (tally["bad_step"] == 0)
  new = {
    "loss": tally["loss"] + loss,
    "steps": tally["steps"] + 1,
    "clipped": tally["clipped"] + clipped,
    "grad_norm": grad_norm,
    "grad_norm_max": jnp.maximum(tally["grad_norm_max"], grad_norm),
    "learning_rate": learning_rate,
    "bad_step": jnp.where(first_bad, step, tally["bad_step"]),
    "bad_loss": jnp.where(first_bad, loss, tally["bad_loss"]),
    "bad_grad_norm": jnp.where(first_bad, grad_norm, tally["bad_grad_norm"]),
  }
  if error_rate is not None:
    new["error_rate"] = tally["error_rate"] + error_rate
  return {name: jnp.float32(value) for name, value in new.items()}
