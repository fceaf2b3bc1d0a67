"""Measures the costs of jaxplay side by side, and prints them as ratios.

    python tools/benchmark.py loop      training loop against the bare step
    python tools/benchmark.py order     indices per second on one core
    python tools/benchmark.py startup   seconds to the first step, and where
    python tools/benchmark.py study     64 trials: population, processes, Optuna
    python tools/benchmark.py report    report of 1,000 and of 10,000 trials
    python tools/benchmark.py sampling  a million points of eight dimensions
    python tools/benchmark.py lm        language model against a bare step, MFU
    python tools/benchmark.py averages  what weight averages add to a step
    python tools/benchmark.py loader    tokens per second of packed rows
    python tools/benchmark.py input     decoded photographs per second and core
    python tools/benchmark.py roofline  estimate of a step against its time
    python tools/benchmark.py           all of them

Machines are shared and noisy: what is compared is measured alternately, several
times, and the median of the ratios is printed with its range.
"""

import argparse
import collections
import dataclasses
import functools
import io
import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import grain
import jax
import jax.numpy as jnp
import ml_collections
import numpy as np
import optax
from benchmarks import photographs, study_full
from PIL import Image

from jaxplay import config as config_lib
from jaxplay import data, models, rundir
from jaxplay.data import images
from jaxplay.data import order as order_lib
from jaxplay.pods import probe
from jaxplay.pods import roofline as roofline_lib
from jaxplay.study import sampling as sampling_lib
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib
from jaxplay.training import dry_run, train
from jaxplay.training import workload as workload_lib

ROOT = pathlib.Path(__file__).resolve().parents[1]
PARTS = ROOT / "tools" / "benchmarks"
JAXPLAY = (sys.executable, "-m", "jaxplay.cli")


def _print(what: str, values: list[float]) -> None:
  print(
    f"{what}: {statistics.median(values):.3g} ({min(values):.3g} to"
    f" {max(values):.3g}, {len(values)} rounds)",
    flush=True,
  )


def _seconds(function: Callable, *arguments: Any) -> float:
  start = time.perf_counter()
  function(*arguments)
  return time.perf_counter() - start


def _run(*command: Any, **options: Any) -> subprocess.CompletedProcess[str]:
  return subprocess.run(
    [str(word) for word in command],
    **{"cwd": ROOT, "capture_output": True, "text": True, "check": True},
    **options,
  )


def _config(name: str, keys: Mapping[str, Any]) -> ml_collections.ConfigDict:
  config = config_lib.load(str(_file(name)))
  for key, value in keys.items():
    config_lib.override(config, key, value)
  config_lib.validate(config)
  return config


def _file(experiment: str) -> pathlib.Path:
  return ROOT / "experiments" / experiment / "config.py"


def loop(rounds: int) -> None:
  """Steps per second of `jaxplay train` relative to its bare step.

  With a line every 50 steps, an evaluation every 500, and an asynchronous
  checkpoint every 5,000 steps and at each new best. `steady` is what the run
  logs, without evaluations and waiting for checkpoints. `whole` is all the time
  from the first line of metrics to the last.
  """
  for experiment, steps in (("digits_mlp", 20_000), ("digits_resnet", 2_000)):
    config = _config(
      experiment,
      {
        "log_every": 50,
        "eval_every": 500,
        "checkpoint_every": 5_000,
        "max_train_steps": steps,
        "export": False,
      },
    )
    ratios = collections.defaultdict(list)
    for _ in range(rounds):
      bare = _bare_steps_per_second(config)
      for name, speed in _trained_steps_per_second(config).items():
        ratios[name].append(speed / bare)
    for name, values in ratios.items():
      _print(f"loop {experiment} {name}, train / bare step", values)


class _Console:
  """Keeps the time of each line of metrics."""

  def __init__(self):
    self.times: list[tuple[float, int]] = []

  def tell(self, sentence: str) -> None:
    pass

  def progress(self, done: int, total: int, line: dict[str, Any]) -> None:
    self.times.append((time.perf_counter(), done))


def _trained_steps_per_second(config):
  """`steady` and `whole`; see `loop`."""
  console = _Console()
  with tempfile.TemporaryDirectory() as folder:
    train.train(config, folder, console)
    lines = rundir.RunDir(folder).metrics()
  # The first lines include compilation and copying the data to the device.
  skip = len(lines) // 5
  speeds = [line["steps_per_second"] for line in lines[skip:]]
  (begin, first), (end, last) = console.times[skip], console.times[-1]
  # Each line covers as many steps, hence the harmonic mean.
  steady = statistics.harmonic_mean(speeds)
  return {"steady": steady, "whole": (last - first) / (end - begin)}


def _bare_steps_per_second(config):
  """Of the same train step alone, on examples that are on the device."""
  workload = workload_lib.make_workload(config)
  source = workload.dataset.splits["train"]
  arrays = jax.device_put(source.fetch(range(source.num_examples)))
  # One at a time where loops are slow: convolutions on a CPU.
  per_call = workload_lib.steps_per_call(workload)
  examples = _train_examples(config, source, 0, per_call)
  examples = jax.device_put({k: v[:, None] for k, v in examples.items()})

  def step(state, part):
    batch = {k: array[part["index"]] for k, array in arrays.items()}
    batch |= {k: v for k, v in part.items() if k != "index"}
    return workload.train_step(workload.hparams, state, batch)

  return _scanned_steps_per_second(
    step, workload.init(), lambda: examples, config.max_train_steps
  )


def _train_examples(config, source, step, num_steps):
  return data.train_examples(
    seed=config.seed,
    step=step,
    num_steps=num_steps,
    batch_size=config.batch_size,
    num_examples=source.num_examples,
    augment=config.dataset.augment,
    augment_pixels=config.dataset.augment_pixels,
  )


def _scanned_steps_per_second(step, carry, draw, num_steps):
  """Of `step(carry, x)` in a scan over what each call of `draw` returns."""
  per_call = len(jax.tree.leaves(draw())[0])

  @functools.partial(jax.jit, donate_argnums=0)
  def call(carry, xs):
    if per_call == 1:
      return step(carry, jax.tree.map(lambda x: x[0], xs))
    return jax.lax.scan(step, carry, xs)

  carry, _ = jax.block_until_ready(call(carry, draw()))
  calls = max(1, num_steps // per_call)
  start = time.perf_counter()
  for _ in range(calls):
    carry, _ = call(carry, draw())
  jax.block_until_ready(carry)
  return calls * per_call / (time.perf_counter() - start)


def order(rounds: int) -> None:
  """Indices per second of `batch_indices`, in calls of 50 batches of 1,024."""
  for name, size in (
    ("digits, 1,197", 1_197),
    ("ImageNet, 1,281,167", 1_281_167),
    ("a billion", 10**9),
  ):
    speeds = []
    for _ in range(rounds):
      start, made, step = time.perf_counter(), 0, 0
      while (seconds := time.perf_counter() - start) < 0.5:
        made += len(order_lib.batch_indices(0, step, 1_024, size, 50))
        step += 50
      speeds.append(made / seconds / 1e6)
    _print(f"order, {name} examples, million indices per second", speeds)


def startup(rounds: int) -> None:
  """Seconds to the first step with a warm compilation cache, by parts."""
  whole, imports = [], []
  with tempfile.TemporaryDirectory() as folder:
    env = os.environ | {
      "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    for i in range(rounds + 1):
      result = _run(
        *(sys.executable, PARTS / "first_step.py", _file("digits_mlp")),
        f"{folder}/run{i}",
        env=env,
      )
      if i > 0:  # The first one fills the cache.
        imported, rest = map(float, result.stdout.split()[-2:])
        whole.append(imported + rest)
        imports.append(imported / whole[-1])
  _print("startup, seconds to the first step", whole)
  _print("startup, share of imports", imports)
  rest = [1 - share for share in imports]
  _print("startup, share of data, compile, step 1", rest)


def study(rounds: int) -> None:
  """Seconds of 64 trials of the digits MLP in three ways, as ratios.

  `jaxplay` caches compiled programs, in a folder that is empty before each
  population: of many processes, the first one alone compiles.
  """
  for name, file in (
    ("as it is", PARTS / "study_full.py"),
    ("64 wide, 300 steps", PARTS / "study_short.py"),
  ):
    definition, _ = study_lib.load(str(file))
    overrides = json.dumps(definition["overrides"])
    ratios, compiled = collections.defaultdict(list), []
    for _ in range(rounds):
      with tempfile.TemporaryDirectory() as folder:
        env = os.environ | {"XDG_CACHE_HOME": folder, "JAX_LOG_COMPILES": "1"}
        env.pop("JAX_COMPILATION_CACHE_DIR", None)
        command = (*JAXPLAY, "study", "run", file, "--no_report")
        processes = (*command, "--runner=processes")
        start = time.perf_counter()
        result = _run(*command, f"--workdir={folder}/population", env=env)
        population = time.perf_counter() - start
        log = "compilation of jit(train_population)"
        compiled.append(result.stderr.count(log))
        for other, words in {
          "processes": (*processes, f"--workdir={folder}/one"),
          "processes, 2 in parallel": (
            *(*processes, "--parallel=2", f"--workdir={folder}/two"),
          ),
          "Optuna": (
            *(sys.executable, PARTS / "optuna_loop.py", _file("digits_mlp")),
            overrides,
          ),
        }.items():
          seconds = _seconds(functools.partial(_run, *words, env=env))
          ratios[other].append(seconds / population)
    for other, values in ratios.items():
      _print(f"study {name}, {other} / population", values)
    _print(f"study {name}, compilations of the population's step", compiled)


def report(rounds: int) -> None:
  """Seconds and peak memory of `jaxplay report`, 100 evaluations a trial.

  And seconds until Chromium, if installed, has drawn all figures of the page,
  less those of an empty page.
  """
  browser = shutil.which("chromium") or shutil.which("chromium-browser")
  for trials in (1_000, 10_000):
    with tempfile.TemporaryDirectory() as folder:
      _make_up_study(f"{folder}/study", trials)
      results = collections.defaultdict(list)
      for _ in range(rounds):
        start = time.perf_counter()
        process = subprocess.Popen(
          [*JAXPLAY, "report", f"{folder}/study"],
          cwd=ROOT,
          stdout=subprocess.DEVNULL,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
          sys.exit("the report failed")
        results["seconds"].append(time.perf_counter() - start)
        results["peak MB"].append(usage.ru_maxrss / 1e3)
        if browser:
          page = f"file://{folder}/study/report.html"
          empty = _seconds_to_draw(browser, folder, "about:blank")
          drawn = _seconds_to_draw(browser, folder, page)
          results["seconds to open"].append(drawn - empty)
    for what, values in results.items():
      _print(f"report of {trials:,} trials, {what}", values)


def _seconds_to_draw(browser, folder, url):
  start = time.perf_counter()
  # Virtual time: timers do not wait, and it ends when nothing is left to do.
  page = _run(
    *(browser, "--headless=new", "--no-sandbox", "--disable-gpu"),
    *("--disable-dev-shm-usage", f"--user-data-dir={folder}/profile"),
    *("--virtual-time-budget=600000", "--dump-dom", url),
  ).stdout
  if url != "about:blank" and 'data-drawn="yes"' not in page[:1000]:
    sys.exit(f"{browser} did not draw {url}")
  return time.perf_counter() - start


def _make_up_study(folder, num_trials):
  """Write a study directory as training would, with made-up curves."""
  config = config_lib.load(str(_file("digits_mlp")))
  definition, _ = study_lib.define(
    dataclasses.replace(
      study_full.get_study(),
      config=str(_file("digits_mlp")),
      overrides={"max_train_steps": 10_000},
      num_trials=num_trials,
    ),
    config,
  )
  directory = study_lib.StudyDir(folder)
  directory.create(definition)
  rng = np.random.default_rng(0)
  steps = np.arange(100, 10_100, 100)
  for index, point in enumerate(directory.points()):
    run = directory.trial(index)
    run.create()
    run.write_config(
      config_lib.as_json(study_lib.trial_config(definition["config"], point))
    )
    learning_rate = point["hparams.learning_rate"]
    distance = abs(np.log10(learning_rate / 0.1))
    errors = 0.9 * steps**-0.3 * (1 + distance) * rng.uniform(0.97, 1.03, 100)
    run.append_metrics(
      [
        {
          "step": step,
          "train/loss": error * 2,
          "train/error_rate": error,
          "train/grad_norm": error,
          "train/grad_norm_max": error * 1.5,
          "train/clipped": 0.0,
          "learning_rate": learning_rate,
          "steps_per_second": 100.0,
          "examples_per_second": 12_800.0,
          "data_wait": 0.0,
          "valid/loss": error * 2.1,
          "valid/error_rate": error,
        }
        for step, error in zip(steps.tolist(), errors.tolist(), strict=True)
      ]
    )
    run.write_status(
      "completed", step=10_000, max_train_steps=10_000, seconds=1.0
    )


# Language models by size; on a CPU only the first.
_LARGE = {
  "model.dtype": "bfloat16",
  "eval_batch_size": 32,
  "hparams.learning_rate": 3e-4,
}
_LMS: dict[str, dict[str, Any]] = {
  "of the experiment": {},
  "124M": {
    "model.width": 768,
    "model.depth": 12,
    "model.heads": 12,
    "dataset.sequence_length": 1024,
    "batch_size": 32,
    **_LARGE,
  },
  "1B": {
    "model.width": 2048,
    "model.depth": 18,
    "model.heads": 16,
    "dataset.sequence_length": 2048,
    "batch_size": 8,
    "model.remat": "dots",
    **_LARGE,
  },
}


def _lm_config(keys):
  every = ("max_train_steps", "checkpoint_every", "eval_every")
  short = dict.fromkeys(every, 200)
  lean = {"averages": (), "export": False, "keep_steps": ()}
  return _config("pythonlib_lm", {**short, **lean, **keys})


def lm(rounds: int) -> None:
  """Speed of language models relative to a hand-written step; tokens/s; MFU.

  The bare step is the same model under optax's own chain of clipping and AdamW,
  jitted in a scan over rows that are on the device. Model-FLOP utilization is
  by the formula, of the peak of a known chip or else of the measured speed of a
  product of large matrices.
  """
  names = list(_LMS)
  if jax.default_backend() == "cpu":
    names = names[:1]
  for name in names:
    config = _lm_config(_LMS[name])
    workload = workload_lib.make_workload(config)
    tokens = config.batch_size * config.dataset.sequence_length
    flops = sum(dry_run.formula_flops(config, workload).values())
    ratios, speeds = [], []
    for _ in range(rounds):
      bare = _bare_lm_steps_per_second(config)
      speeds.append(_trained_steps_per_second(config)["steady"])
      ratios.append(speeds[-1] / bare)
    _print(f"lm {name}, train / bare step", ratios)
    _print(f"lm {name}, tokens per second", [s * tokens for s in speeds])
    shares = [s * flops / _peak_flops() for s in speeds]
    _print(f"lm {name}, model-FLOP utilization", shares)


@functools.cache
def _peak_flops():
  """Of all devices per second."""
  chip = roofline_lib.chip(jax.devices()[0].device_kind)
  if chip is None:
    return probe.peaks()["flops"]
  return chip.flops * jax.device_count()


def _bare_lm_steps_per_second(config):
  """Of a training step written by hand."""
  workload = workload_lib.make_workload(config)
  model, source = workload.model, workload.dataset.splits["train"]
  rows = jax.device_put(source.fetch(np.arange(source.num_examples))["tokens"])
  hparams, total, per_call = config.hparams, config.max_train_steps, 50

  def learning_rate(step):
    done = (step - 0.8 * total) / (0.2 * total)
    warm = jnp.minimum((step + 1) / hparams.warmup_steps, 1)
    return hparams.learning_rate * warm * (1 - jnp.sqrt(jnp.clip(done, 0, 1)))

  optimizer = optax.chain(
    optax.clip_by_global_norm(hparams.clip_norm),
    optax.adamw(
      learning_rate,
      hparams.beta1,
      hparams.beta2,
      hparams.epsilon,
      weight_decay=hparams.weight_decay,
      mask=lambda params: jax.tree.map(lambda leaf: leaf.ndim > 1, params),
    ),
  )

  def step(carry, index):
    params, opt_state = carry
    tokens = rows[index].astype(jnp.int32)

    def loss_fn(params):
      logits = model.apply({"params": params}, tokens[:, :-1], train=True)
      return optax.softmax_cross_entropy_with_integer_labels(
        logits, tokens[:, 1:]
      ).mean()

    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  rng = np.random.default_rng(0)
  size = (per_call, config.batch_size)
  inputs = jnp.zeros((1, config.dataset.sequence_length), jnp.int32)
  params, _ = models.init(model, jax.random.key(0), inputs)
  return _scanned_steps_per_second(
    step,
    (params, optimizer.init(params)),
    lambda: rng.integers(0, source.num_examples, size, np.int32),
    total - per_call,
  )


def averages(rounds: int) -> None:
  """Time of a language model's step with both averages over that without.

  In alternating blocks of 20 steps, ten a round: the difference is smaller than
  the noise of a whole run.
  """
  for name, stride in (("every step", 1), ("window of every 10th", 10)):
    without = _blocks_of_steps({"averages": ()})
    both = _blocks_of_steps(
      {"averages": ("ema", "window"), "hparams.window_stride": stride}
    )
    next(without)
    next(both)
    ratios = [
      statistics.median(next(both) / next(without) for _ in range(10))
      for _ in range(rounds)
    ]
    _print(f"averages, {name}, step with / without", ratios)


def _blocks_of_steps(
  keys: Mapping[str, Any], size: int = 20
) -> Iterator[float]:
  """Yields the seconds of one block of steps after the other."""
  config = _lm_config({"max_train_steps": 10**6, "steps_per_call": size} | keys)
  workload = workload_lib.make_workload(config)
  feeder = workload_lib.make_feed(workload, config, 0)
  state, step = workload.init(), 0
  while True:
    arguments = feeder.arguments(step, step + size)
    start = time.perf_counter()
    state, _ = feeder.program(workload.hparams, state, *arguments)
    jax.block_until_ready(state)
    yield time.perf_counter() - start
    step += size


def loader(rounds: int) -> None:
  """Tokens per second of packed rows, over what the experiment's LM consumes.

  Rows in the order of training, 64 batches at a time, from the memory-mapped
  files, on one core.
  """
  config = _lm_config({})
  source = workload_lib.make_workload(config).dataset.splits["train"]
  length = config.dataset.sequence_length
  speeds, ratios = [], []
  for _ in range(rounds):
    consumed = _trained_steps_per_second(config)["steady"]
    consumed *= config.batch_size * length
    start, made, step = time.perf_counter(), 0, 0
    while (seconds := time.perf_counter() - start) < 1.0:
      chunk = _train_examples(config, source, step, 64)
      rows = source.fetch(chunk["index"].reshape(-1))["tokens"]
      made, step = made + rows[:, 1:].size, step + 64
    speeds.append(made / seconds / 1e6)
    ratios.append(made / seconds / consumed)
  _print("loader, million tokens per second", speeds)
  _print("loader, read / consumed by the model", ratios)


def input_pipeline(rounds: int) -> None:
  """Photographs per second and core: read, cropped, decoded and resized to 224.

  Made-up JPEG files in array_record, by our reader on one core, against PIL in
  a plain loop and against grain reading one example at a time with the same
  decoder; and the parts of our time.
  """
  number = 256
  rows = np.arange(number)
  words = images.draw_crops(0, np.int64(0), rows)
  files = [photographs.photograph(i) for i in range(number)]
  with tempfile.TemporaryDirectory() as folder:
    photographs.prepare(folder)
    source: Any = data.load(
      "tfds:photographs",
      data_dir=folder,
      splits=dict.fromkeys(("train", "valid", "test"), "train"),
      image_size=224,
      synthetic={},
    ).splits["train"]

    def ours():
      for i in range(0, number, 64):
        source.fetch(rows[:64] + i, words[rows[:64] + i])

    def plain():
      for file, word in zip(files, words, strict=True):
        with Image.open(io.BytesIO(file)) as image:
          width, height = image.size
          box = images.crop_box(word, height, width)
          np.asarray(image.convert("RGB").resize((224, 224), 2, box=box))

    def by_grain():
      options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
      examples = grain.MapDataset.range(number).map(
        lambda i: source.fetch(np.array([i]), words[i : i + 1])
      )
      for _ in examples.to_iter_dataset(options):
        pass

    def reading():
      source.source.__getitems__(rows.tolist())

    def decoding():
      for file, word in zip(files, words, strict=True):
        images.decode(file, 224, 3, words=word)

    ratios = collections.defaultdict(list)
    for _ in range(rounds):
      seconds = _seconds(ours)
      ratios["images per second and core"].append(number / seconds)
      for what, function in (
        ("time of PIL in a loop / ours", plain),
        ("time of grain, one by one / ours", by_grain),
        ("share of reading records", reading),
        ("share of decoding and resizing", decoding),
      ):
        ratios[what].append(_seconds(function) / seconds)
  for what, values in ratios.items():
    _print(f"input, {what}", values)


def roofline(rounds: int) -> None:
  """Measured time of a step over what `plan topology` estimates for it."""
  for name, options in (
    ("digits_mlp", ()),
    ("pythonlib_lm", ("--config.averages=()",)),
  ):
    ratios = []
    for _ in range(rounds):
      result = _run(
        *(*JAXPLAY, "plan", "topology", "--topology=here", "--json"),
        *(f"--config={_file(name)}", *options),
      )
      row = json.loads(result.stdout)[0]
      ratios.append(row["measured_seconds"] / row["step_seconds"][0])
    _print(f"roofline {name}, measured / all overlapped", ratios)


def sampling(rounds: int) -> None:
  """Seconds for a million points of eight dimensions, by algorithm."""
  names = ("learning_rate", "momentum", "rho", "beta1", "beta2", "epsilon")
  names += ("weight_decay", "label_smoothing")
  space = space_lib.Space(
    {f"hparams.{name}": space_lib.Float(1e-3, 0.9, "log") for name in names}
  )
  for algorithm in ("halton", "sobol", "random", "algoperf"):
    draw = functools.partial(
      sampling_lib.points, space, algorithm=algorithm, seed=0, num=1_000_000
    )
    seconds = [_seconds(draw) for _ in range(rounds)]
    _print(f"sampling, {algorithm}, a million points, seconds", seconds)


BENCHMARKS = {
  "loop": loop,
  "order": order,
  "startup": startup,
  "study": study,
  "report": report,
  "sampling": sampling,
  "lm": lm,
  "averages": averages,
  "loader": loader,
  "input": input_pipeline,
  "roofline": roofline,
}


def main() -> None:
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("which", nargs="*", help=", ".join(BENCHMARKS))
  parser.add_argument("--rounds", type=int, default=5, metavar="N")
  arguments = parser.parse_args()
  unknown = set(arguments.which) - set(BENCHMARKS)
  if unknown:
    parser.error(
      f"unknown benchmark {min(unknown)!r}; choose from {', '.join(BENCHMARKS)}"
    )
  for name in arguments.which or BENCHMARKS:
    BENCHMARKS[name](arguments.rounds)


if __name__ == "__main__":
  main()
