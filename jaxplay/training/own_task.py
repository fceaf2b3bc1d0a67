"""A task of the user: an adapter from his class to what training needs.

The class needs nothing of jaxplay, and only `loss` is required:

    class Quantile:
      num_outputs = 3                       # default: of the data
      maximize = ("covered",)               # metrics of which more is better

      def inputs(self, batch): ...          # default: image, or else inputs
      def loss(self, outputs, batch): ...   # [batch]; (..., hparams) will do
      def metrics(self, outputs, batch):    # name -> [batch], averaged over the
        ...                                 # split, or ([batch], [batch]): the
                                            # sum of one over that of the other
      def collect(self, outputs, batch): ...   # name -> [batch, ...]
      def split_metrics(self, collected): ...  # name -> float, of numpy arrays
                                               # [examples, ...] of the split

`metrics` may also be a `clu.metrics.Collection`. It is computed on the host
from the whole split, with the arguments outputs (also as logits; of a dict of
outputs, outputs_NAME), loss, the features other than inputs, and labels, which
is the feature label or target.
"""

import inspect
import re
import types
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxplay
from jaxplay.config import files, own
from jaxplay.config import metric as metric_lib
from jaxplay.training import scores, tasks

# Examples of the check before training; a number that no shape is likely to
# have by chance.
_EXAMPLES = 7
_INPUTS = ("image", "inputs", "moves")
# Errors that another input cannot avoid.
_MISTAKES = (
  *(NameError, AttributeError, TypeError, KeyError, ImportError),
  SystemExit,
)


class OwnTask:
  """A task as in `tasks.py`, of the user's class."""

  errors = None  # A metric of his may be one.

  def __init__(
    self,
    user: Any,
    where: str,
    example: Mapping[str, tuple],
    *,
    num_classes: int = 0,
    pixel_max: int = 0,
  ):
    """Checks what the class defines.

    Args:
      user: The class, which takes no arguments, or an instance.
      where: FILE.py:NAME, for messages.
      example: Of the data set: feature -> (shape, dtype).
      num_classes: Of the data set; the default number of outputs, unless there
        is a feature `target`.
      pixel_max: Of the data set; see `tasks.default_inputs`.

    Raises:
      jaxplay.UserError: It lacks a method, or does not fit the data.
    """
    self.where, self._example = where, dict(example)
    self._pixel_max = pixel_max
    if isinstance(user, type):
      user = self._guarded(user, "the task", vars(user).get("__init__"))
    self._user = user
    if not callable(getattr(user, "loss", None)):
      raise jaxplay.UserError(
        f"the task {where!r} has no method loss(self, outputs, batch)"
      )
    both = ("collect", "split_metrics")
    have = [name for name in both if hasattr(user, name)]
    if len(have) == 1:
      other = both[have == ["collect"]]
      raise jaxplay.UserError(
        f"the task {where!r} has {have[0]} without {other}; define both"
      )
    self._clu = None
    metrics = getattr(user, "metrics", None)
    if isinstance(metrics, type):
      if not hasattr(metrics, "single_from_model_output"):
        raise jaxplay.UserError(
          f"metrics of the task {where!r} is the class {metrics.__name__};"
          " expected a method, or a clu.metrics.Collection"
        )
      self._clu = metrics
    elif metrics is not None and not callable(metrics):
      raise jaxplay.UserError(
        f"metrics of the task {where!r} is {type(metrics).__name__}; expected a"
        " method, or a clu.metrics.Collection"
      )
    self._takes_hparams = "hparams" in inspect.signature(user.loss).parameters
    self.num_outputs = self._outputs(num_classes)
    # Names of the metrics beside the loss, once checked; None: not known.
    self.names: tuple[str, ...] | None = None

  def _outputs(self, num_classes):
    number = getattr(self._user, "num_outputs", None)
    if number is None and "target" in self._example:
      number = int(np.prod(self._example["target"][0], dtype=int))
    number = num_classes or None if number is None else number
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
      raise jaxplay.UserError(
        f"num_outputs of the task {self.where!r} is {number!r}; set it to the"
        " size of the model's output, a positive integer"
      )
    return number

  def check(
    self,
    forward: Callable[[Any, Any], Any],
    variables: Any,
    hparams: Mapping[str, Any],
    objective: str = "",
  ) -> None:
    """Traces everything on some examples, before training.

    Args:
      forward: (variables, inputs) -> outputs of the model; traceable.
      variables: Its first argument, as ShapeDtypeStructs.
      hparams: The numbers of a step.
      objective: The config's objective.

    Raises:
      jaxplay.UserError: With the file and the line.
    """
    batch = {
      name: jax.ShapeDtypeStruct((_EXAMPLES, *shape), dtype)
      for name, (shape, dtype) in self._example.items()
    }

    def everything(variables, batch):
      inputs = self.inputs(batch)
      outputs = self.read(lambda: forward(variables, inputs), inputs)
      weighted = {**batch, "weight": jnp.ones(_EXAMPLES)}
      return (
        self.loss(outputs, batch, hparams),
        self.eval_sums(outputs, weighted, hparams),
        self.predictions(outputs, batch),
      )

    _, sums, _ = jax.eval_shape(everything, variables, batch)
    rng = np.random.default_rng(0)

    def made_up(leaf):
      if leaf.dtype.kind in "iub":
        ones = (1 + np.arange(leaf.size)) % 2  # A count is one.
        return ones.reshape(leaf.shape).astype(leaf.dtype)
      return rng.uniform(size=leaf.shape).astype(leaf.dtype)

    try:
      with warnings.catch_warnings(action="ignore"):
        known = self.values(scores.total([jax.tree.map(made_up, sums)]))
    except jaxplay.UserError as error:
      cause = error.__cause__
      if cause is None or isinstance(cause, _MISTAKES):
        raise
      return  # These numbers are no model's; the names remain unknown.
    self.names = tuple(name for name in known if name != "loss")
    maximized = own.maximized(self._user, f"the task {self.where!r}")
    missing = [name for name in maximized if name not in known]
    if missing:
      raise jaxplay.UserError(
        f"maximize of the task {self.where!r} names {missing[0]!r}; its metrics"
        f" are {', '.join(map(repr, known))}"
      )
    wanted = objective.partition("/")[2]
    if wanted and wanted not in known:
      raise jaxplay.UserError(
        f"config.objective is {objective!r}; the metrics of the task"
        f" {self.where!r} are {', '.join(map(repr, known))}"
      )

  def read(self, act: Callable[[], Any], inputs: Any) -> Any:
    """Calls `act`, in which a model reads `inputs`.

    Raises:
      jaxplay.UserError: It cannot.
    """
    try:
      return act()
    except jaxplay.UserError:
      raise
    except Exception as error:
      shapes = jax.tree.map(jax.typeof, inputs)
      raise jaxplay.UserError(
        f"the model cannot read the inputs of the task {self.where!r},"
        f" {shapes}: {type(error).__name__}: {_first_line(error)}"
      ) from error

  def inputs(self, batch: dict[str, Any]) -> Any:
    """What the model reads of a batch."""
    if hasattr(self._user, "inputs"):
      inputs = self._call("inputs", batch)
      if not jax.tree.leaves(inputs):
        self._refuse(
          "inputs", f"it returns {type(inputs).__name__}; expected arrays"
        )
      return inputs
    if not {"image", "inputs"} & batch.keys():
      raise jaxplay.UserError(
        f"the data has the features {', '.join(map(repr, batch))}; define"
        f" inputs(self, batch) in the task {self.where!r}"
      )
    return tasks.default_inputs(batch, self._pixel_max)

  def loss(self, outputs: Any, batch: dict[str, Any], hparams: Any) -> Any:
    """The loss of each example [batch], float32."""
    more = (hparams,) if self._takes_hparams else ()
    loss = self._call("loss", outputs, batch, *more)
    return self._per_example("loss", "the loss", loss, batch)

  def eval_sums(self, outputs: Any, batch: dict[str, Any], hparams: Any) -> Any:
    """Sums over the examples of weight one, and rows of the others.

    Returns:
      loss, weight; metrics: name -> {"sum", "weight"}; and `scores.ROWS`.
    """
    weight = batch["weight"]
    features = {name: batch[name] for name in batch if name != "weight"}
    counted = weight > 0

    def summed(array):
      return jnp.sum(jnp.where(counted, array, 0.0))

    loss = self.loss(outputs, features, hparams)
    sums: dict[str, Any] = {
      "loss": summed(loss),
      "weight": jnp.sum(counted, dtype=jnp.int32),
    }
    rows = {}
    if self._clu is not None:
      kept = {n: a for n, a in features.items() if n not in _INPUTS}
      rows = {**kept, **self.predictions(outputs, features), "loss": loss}
    elif hasattr(self._user, "metrics"):
      sums["metrics"] = {
        name: {
          "sum": summed(self._per_example("metrics", f"{name!r}", part, batch)),
          "weight": summed(
            self._per_example("metrics", f"{name!r}", whole, batch)
          ),
        }
        for name, (part, whole) in self._metrics(outputs, features).items()
      }
    if hasattr(self._user, "collect"):
      rows |= self._collected(outputs, features)
    if rows:
      # Named apart from the weight of the rows.
      named = {f"own.{name}": array for name, array in rows.items()}
      sums[scores.ROWS] = named | {"weight": weight}
    return sums

  def costs(
    self,
    outputs: Any,
    batch: dict[str, Any],
    metric: metric_lib.Metric,
    hparams: Any,
  ) -> dict[str, Any] | None:
    """As for `Classification`: of the loss, and of a metric of `metrics`."""
    features = {name: batch[name] for name in batch if name != "weight"}
    if metric.name == "loss":
      loss = self.loss(outputs, features, hparams)
      return {"cost": metric.cost(loss)}
    if self._clu is not None or not hasattr(self._user, "metrics"):
      return None
    pairs = self._metrics(outputs, features)
    if metric.name not in pairs:
      return None
    part, whole = (
      self._per_example("metrics", f"{metric.name!r}", array, batch)
      for array in pairs[metric.name]
    )
    value = part / jnp.where(whole == 0, 1, whole)
    return {"cost": metric.cost(value), "counts": whole}

  def check_outputs(self, outputs: Any, size: int, model: str) -> None:
    """Any outputs will do that his methods can read; see `check`."""

  def predictions(self, outputs: Any, batch: dict[str, Any]) -> dict[str, Any]:
    """Predictions of the fixed sample: the outputs [batch, ...] by name."""
    if isinstance(outputs, Mapping):
      return {f"outputs_{name}": array for name, array in outputs.items()}
    return {"outputs": outputs} if hasattr(outputs, "shape") else {}

  def values(
    self, sums: Mapping[str, Any], bytes_per_token: float | None = None
  ) -> dict[str, float]:
    """The metrics of a split, from the sums over it.

    Raises:
      jaxplay.UserError: `split_metrics` fails, or returns no numbers.
    """
    line = {"loss": float(sums["loss"]) / int(sums["weight"])}
    for name, of_name in sums.get("metrics", {}).items():
      whole = float(of_name["weight"])
      line[name] = float(of_name["sum"]) / whole if whole else np.nan
    rows = {
      name.removeprefix("own."): array
      for name, array in sums.get(scores.ROWS, {}).items()
    }
    if self._clu is not None:
      line |= self._numbers("metrics", self._of_clu(rows), line)
    if hasattr(self._user, "split_metrics"):
      made = self._call("split_metrics", rows)
      line |= self._numbers("split_metrics", made, line)
    return line

  def diverged(self) -> str:
    """Whose loss it was, for the reason of a divergence at the first step."""
    return f"see loss of the task {self.where!r} ({self._line('loss')})"

  def _metrics(self, outputs, batch):
    """Name -> (numerator, denominator), each [batch]."""
    made = self._named("metrics", self._call("metrics", outputs, batch))
    pairs = {}
    for name, value in made.items():
      if not isinstance(value, tuple):
        value = (value, jnp.ones(_size(batch)))
      if len(value) != 2:
        self._refuse(
          "metrics",
          f"{name!r} is a tuple of {len(value)}; expected [batch], or a pair of"
          " these",
        )
      pairs[name] = value
    return pairs

  def _collected(self, outputs, batch):
    made = self._named(
      "collect", self._call("collect", outputs, batch), reserved=()
    )
    for name, array in made.items():
      shape = getattr(array, "shape", None)
      if not shape or shape[0] != _size(batch):
        self._refuse(
          "collect",
          f"{name!r} has the shape {shape}; expected one row for each of the"
          f" {_size(batch)} examples",
        )
    return made

  def _of_clu(self, rows):
    arguments = dict(rows)
    if "outputs" in rows:
      arguments.setdefault("logits", rows["outputs"])
    for feature in ("target", "label"):
      if feature in rows:
        arguments["labels"] = rows[feature]

    def compute():
      return self._clu.single_from_model_output(**arguments).compute()

    return self._guarded(compute, "metrics", None)

  def _named(self, method, made, reserved=("loss",)):
    """Refuses what is not a dict of names."""
    if not isinstance(made, Mapping):
      self._refuse(method, f"it returns {type(made).__name__}; expected a dict")
    for name in made:
      if not _is_name(name) or name in reserved:
        self._refuse(
          method,
          f"it names {name!r}; expected another name, of lowercase letters,"
          " digits and _",
        )
    return dict(made)

  def _numbers(self, method, made, known):
    numbers = {}
    for name, value in self._named(method, made, known).items():
      if np.ndim(value) or np.asarray(value).dtype.kind not in "fiub":
        shape = list(np.shape(value))
        self._refuse(
          method,
          f"{name!r} is {type(value).__name__} {shape}; expected a number",
        )
      numbers[name] = float(value)
    return numbers

  def _per_example(self, method, what, value, batch):
    """A float32 array [batch], or a refusal."""
    size = _size(batch)
    try:
      array = jnp.asarray(value)
    except (TypeError, ValueError):
      array = None
    if array is None or not (
      jnp.issubdtype(array.dtype, jnp.number) or array.dtype == bool
    ):
      self._refuse(
        method, f"{what} is {type(value).__name__}; expected an array [batch]"
      )
    if array.shape != (size,):
      self._refuse(
        method,
        f"{what} has the shape {list(array.shape)} for {size} examples;"
        f" expected one number for each, [{size}]",
      )
    return array.astype(jnp.float32)

  def _line(self, method):
    """Where a method begins: "line 12", or its kind if that is unknown."""
    code = _code(getattr(self._user, method))
    return f"line {code.co_firstlineno}" if code else "no line known"

  def _refuse(self, method, what):
    raise jaxplay.UserError(
      f"{method} of the task {self.where!r}, {self._line(method)}: {what}"
    )

  def _call(self, method, *arguments):
    function = getattr(self._user, method)
    batch = arguments[min(1, len(arguments) - 1)]  # After the outputs, if any.
    return self._guarded(lambda: function(*arguments), method, function, batch)

  def _guarded(self, act, what, function, batch=()):
    """Calls `act`, which runs `function` of the user on features `batch`."""
    try:
      return act()
    except jaxplay.UserError:
      raise
    except (Exception, SystemExit) as error:
      code = _code(function)
      described = files.describe(error, code.co_filename if code else "")
      if isinstance(error, KeyError) and batch:
        described += f" (it is given {', '.join(map(repr, batch))})"
      name = what if what == "the task" else f"{what} of the task"
      raise jaxplay.UserError(
        f"{name} {self.where!r} fails: {described}"
      ) from error


def _size(batch):
  """Number of examples of a batch."""
  return jax.tree.leaves(batch)[0].shape[0]


def _code(function):
  code = getattr(inspect.unwrap(function), "__code__", None)
  return code if isinstance(code, types.CodeType) else None


def _is_name(name):
  return isinstance(name, str) and bool(re.fullmatch("[a-z0-9_]+", name))


def _first_line(error):
  return str(error).strip().partition("\n")[0]
