"""Measures jaxplay's own costs, side by side, and prints them as ratios.

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

Machines are shared and noisy: each pair is measured in turn, several times, and
the median ratio is given with its range.
"""

import argparse
import functools
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]


def loop(rounds: int) -> None:
  """Examples per second of `jaxplay train` over those of its bare step.

  With a line every 50 steps, an evaluation every 500, an asynchronous
  checkpoint every 5,000 and at each new best. `steady` is what the run logs:
  evaluations and waits for checkpoints left out. `whole` counts all time from
  the first line of metrics to the last.
  """
  from jaxplay import config as config_lib

  for experiment, steps in (("digits_mlp", 20_000), ("digits_resnet", 2_000)):
    config = config_lib.load(
      str(ROOT / "experiments" / experiment / "config.py")
    )
    config.log_every, config.eval_every = 50, 500
    config.checkpoint_every, config.max_train_steps = 5_000, steps
    config.export = False
    config_lib.validate(config)
    ratios = {"steady": [], "whole": []}
    for _ in range(rounds):
      bare = _bare_examples_per_second(config)
      for name, rate in _trained_examples_per_second(config).items():
        ratios[name].append(rate / bare)
    for name, values in ratios.items():
      _tell(f"loop {experiment} {name}, train / bare step", values)


def _trained_examples_per_second(config):
  """Of a run through the front door, in two senses."""
  from jaxplay import rundir
  from jaxplay.training import train

  console = _Clocked()
  with tempfile.TemporaryDirectory() as folder:
    train.train(config, folder, console)
    lines = rundir.RunDir(folder).metrics()
  # The first lines hold compilation and the copy of the data to the device.
  skip = len(lines) // 5
  rates = [line["examples_per_second"] for line in lines[skip:]]
  (begin, first), (end, last) = console.times[skip], console.times[-1]
  whole = (last - first) * config.batch_size / (end - begin)
  # Each line covers as many steps: the mean rate is the harmonic one.
  return {"steady": statistics.harmonic_mean(rates), "whole": whole}


class _Clocked:
  """A console that notes when each line of metrics came."""

  def __init__(self):
    self.times = []

  def tell(self, sentence):
    pass

  def progress(self, done, total, line):
    self.times.append((time.perf_counter(), done))


def _bare_examples_per_second(config):
  """Of the same step on data on the device, and nothing else.

  In a scan, but called one by one where loops are slow (convolutions on CPU).
  """
  import jax

  from jaxplay import data
  from jaxplay.training import workload as workload_lib

  workload = workload_lib.make_workload(config)
  source = workload.dataset.splits["train"]
  arrays = jax.device_put(source.fetch(range(source.num_examples)))
  per_call = workload_lib.steps_per_call(workload)
  examples = data.train_examples(
    seed=config.seed,
    step=0,
    num_steps=per_call,
    batch_size=config.batch_size,
    num_examples=source.num_examples,
    augment=config.dataset.augment,
    augment_pixels=config.dataset.augment_pixels,
  )
  examples = jax.device_put({k: v[:, None] for k, v in examples.items()})

  def one(state, part):
    batch = {k: array[part["index"]] for k, array in arrays.items()}
    batch |= {k: v for k, v in part.items() if k != "index"}
    return workload.train_step(workload.hparams, state, batch)

  @functools.partial(jax.jit, donate_argnums=0)
  def call(state):
    if per_call == 1:
      return one(state, {k: v[0] for k, v in examples.items()})[0]
    return jax.lax.scan(one, state, examples)[0]

  state = jax.block_until_ready(call(workload.init()))
  calls = max(1, config.max_train_steps // per_call)
  start = time.perf_counter()
  for _ in range(calls):
    state = call(state)
  jax.block_until_ready(state)
  seconds = time.perf_counter() - start
  return calls * per_call * config.batch_size / seconds


def order(rounds: int) -> None:
  """Indices per second of `batch_indices`, in calls of 50 batches of 1,024."""
  from jaxplay.data import order as order_lib

  for name, size in (
    ("digits, 1,197", 1_197),
    ("ImageNet, 1,281,167", 1_281_167),
    ("a billion", 10**9),
  ):
    rates = []
    for _ in range(rounds):
      start, made, step = time.perf_counter(), 0, 0
      while (seconds := time.perf_counter() - start) < 0.5:
        made += len(order_lib.batch_indices(0, step, 1_024, size, 50))
        step += 50
      rates.append(made / seconds / 1e6)
    _tell(f"order, {name} examples, million indices per second", rates)


_STARTUP = """
import sys, time
start = time.perf_counter()
from jaxplay import config as config_lib
from jaxplay.training import train
import jax
jax.devices()
imported = time.perf_counter()

class Console:
  times = []
  def tell(self, sentence): pass
  def progress(self, done, total, line):
    self.times.append(time.perf_counter())

config = config_lib.load(sys.argv[1])
config.max_train_steps = config.log_every = config.steps_per_call = 1
config_lib.validate(config)
config.export = False
train.train(config, sys.argv[2], Console())
first = Console.times[0]
print(imported - start, first - imported, first - start)
"""


def startup(rounds: int) -> None:
  """Seconds to the first step, warm compilation cache, and their parts."""
  experiment = ROOT / "experiments" / "digits_mlp" / "config.py"
  parts = {"imports": [], "data, compile, step 1": [], "in all": []}
  with tempfile.TemporaryDirectory() as folder:
    cache = {
      "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    for i in range(rounds + 1):
      done = subprocess.run(
        [sys.executable, "-c", _STARTUP, str(experiment), f"{folder}/run{i}"],
        env=os.environ | cache,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
      )
      if i:  # The first one fills the cache.
        numbers = map(float, done.stdout.split()[-3:])
        for name, number in zip(parts, numbers, strict=True):
          parts[name].append(number)
  whole = parts["in all"]
  _tell("startup, seconds to the first step", whole)
  for name in list(parts)[:2]:
    shares = [
      part / all_ for part, all_ in zip(parts[name], whole, strict=True)
    ]
    _tell(f"startup, share of {name}", shares)


_STUDY = """
from jaxplay.study import space, study

def get_study():
  return study.Study(
    goal="How long do 64 trials take?",
    config={config!r},
    overrides={overrides!r},
    space={{
      "hparams.learning_rate": space.Float(1e-3, 1, scale="log"),
      "hparams.momentum": space.Float(0.5, 0.99, scale="log_one_minus"),
    }},
    num_trials=64,
  )
"""

# The usual loop: each trial builds and compiles its own training function. Data
# live on the device and a call makes many steps, so nothing else holds it up.
_OPTUNA = """
import json, sys
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np, optax, optuna
from jaxplay import config as config_lib, data
from jaxplay.data import images

config = config_lib.load(sys.argv[1])
for key, value in json.loads(sys.argv[2]).items():
  config_lib.override(config, key, value)
digits = data.load(
  "digits", data_dir="", splits={}, image_size=0, synthetic={}
).splits
train, valid = (
  jax.device_put(digits[name].fetch(np.arange(digits[name].num_examples)))
  for name in ("train", "valid")
)

class MLP(nn.Module):
  @nn.compact
  def __call__(self, x):
    x = x.reshape(len(x), -1) / 16.0
    for _ in range(config.model.depth):
      x = nn.relu(nn.Dense(config.model.width)(x))
    return nn.Dense(10)(x)

def objective(trial):
  rate = trial.suggest_float("learning_rate", 1e-3, 1, log=True)
  momentum = trial.suggest_float("momentum", 0.5, 0.99)
  steps, every = config.max_train_steps, config.eval_every
  optimizer = optax.sgd(
    optax.linear_schedule(rate, 0.0, steps), momentum, nesterov=True
  )
  model = MLP()
  params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 1)))
  state = params, optimizer.init(params)

  def step(state, batch):
    params, opt_state = state
    def loss_fn(params):
      x = images.move(train["image"][batch["index"]], batch["moves"])
      return optax.softmax_cross_entropy_with_integer_labels(
        model.apply(params, x), train["label"][batch["index"]]
      ).mean()
    loss, grads = jax.value_and_grad(loss_fn)(params)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return (optax.apply_updates(params, updates), opt_state), loss

  run = jax.jit(lambda state, batches: jax.lax.scan(step, state, batches))
  errors = jax.jit(lambda params: jnp.mean(
    jnp.argmax(model.apply(params, valid["image"]), -1) != valid["label"]
  ))
  best = 1.0
  for at in range(0, steps, every):
    state, loss = run(state, data.train_examples(
      seed=0, step=at, num_steps=every, batch_size=config.batch_size,
      num_examples=len(train["label"]), augment="shift", augment_pixels=1,
    ))
    best = min(best, float(errors(state[0])))
  return best

optuna.logging.set_verbosity(optuna.logging.WARNING)
study = optuna.create_study(sampler=optuna.samplers.QMCSampler(seed=0))
study.optimize(objective, n_trials=64)
print(study.best_value)
"""

# Compute bound as it is; the shorter it is, the more do fixed costs count.
_STUDIES = {
  "as it is": {},
  "64 wide, 300 steps": {
    "model.width": 64,
    "max_train_steps": 300,
    "eval_every": 50,
  },
}


def study(rounds: int) -> None:
  """Seconds of 64 trials of the digits MLP in three ways, as ratios."""
  config = str(ROOT / "experiments" / "digits_mlp" / "config.py")
  for name, overrides in _STUDIES.items():
    ratios = {"processes": [], "processes, 2 at a time": [], "Optuna": []}
    compiled = []
    for _ in range(rounds):
      with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "study.py"
        file.write_text(_STUDY.format(config=config, overrides=overrides))
        run = [
          *(sys.executable, "-m", "jaxplay.cli", "study", "run", str(file)),
          "--no_report",
        ]
        population, log = _seconds(
          [*run, f"--workdir={folder}/population"], folder
        )
        compiled.append(log.count("compilation of jit(train_population)"))
        processes = ["--runner=processes", f"--workdir={folder}/processes"]
        two = ["--runner=processes", f"--workdir={folder}/two", "--parallel=2"]
        optuna = [sys.executable, "-c", _OPTUNA, config, json.dumps(overrides)]
        for other, command in zip(
          ratios, ([*run, *processes], [*run, *two], optuna), strict=True
        ):
          ratios[other].append(_seconds(command, folder)[0] / population)
    for other, values in ratios.items():
      _tell(f"study {name}, {other} / population", values)
    _tell(f"study {name}, compilations of the population's step", compiled)


def _seconds(command, folder):
  """(wall time, what it logged) of a command.

  `jaxplay` keeps compiled programs in a cache that is empty before the first
  command of the folder: only the first process of many compiles.
  """
  env = os.environ | {"XDG_CACHE_HOME": folder, "JAX_LOG_COMPILES": "1"}
  env.pop("JAX_COMPILATION_CACHE_DIR", None)
  start = time.perf_counter()
  done = subprocess.run(
    command,
    env=env,
    cwd=ROOT,
    capture_output=True,
    text=True,
    check=True,
  )
  return time.perf_counter() - start, done.stderr


def report(rounds: int) -> None:
  """Seconds and peak memory of `jaxplay report`, 100 evaluations a trial.

  And seconds until a browser without a window, where there is one, has drawn
  every figure of the page.
  """
  for trials in (1_000, 10_000):
    with tempfile.TemporaryDirectory() as folder:
      _made_up_study(pathlib.Path(folder) / "study", trials)
      seconds, memory, opened = [], [], []
      for _ in range(rounds):
        start = time.perf_counter()
        process = subprocess.Popen(
          [sys.executable, "-m", "jaxplay.cli", "report", f"{folder}/study"],
          cwd=ROOT,
          stdout=subprocess.DEVNULL,
        )
        _, code, usage = os.wait4(process.pid, 0)
        assert code == 0
        seconds.append(time.perf_counter() - start)
        memory.append(usage.ru_maxrss / 1e3)
        opened += _seconds_to_open(f"{folder}/study/report.html")
    _tell(f"report of {trials:,} trials, seconds", seconds)
    _tell(f"report of {trials:,} trials, peak MB", memory)
    if opened:
      _tell(f"report of {trials:,} trials, seconds to open", opened)


def _seconds_to_open(page):
  """[seconds] until all is drawn; [] without a browser."""
  sys.path.insert(0, str(ROOT))
  from tests import browser

  if browser.BINARY is None:
    return []
  with browser.Browser() as window:
    start = time.perf_counter()
    window.open(page)
    return [time.perf_counter() - start]


def _made_up_study(folder, num_trials):
  """A study directory as training would leave it, with made-up curves."""
  import numpy as np

  from jaxplay import config as config_lib
  from jaxplay.study import study as study_lib

  file = folder.parent / "study.py"
  config = str(ROOT / "experiments" / "digits_mlp" / "config.py")
  text = _STUDY.format(config=config, overrides={"max_train_steps": 10_000})
  file.write_text(text.replace("num_trials=64", f"num_trials={num_trials}"))
  directory = study_lib.StudyDir(folder)
  definition, _ = study_lib.load(str(file))
  directory.create(definition)
  rng = np.random.default_rng(0)
  steps = np.arange(100, 10_100, 100)
  for index, point in enumerate(directory.points()):
    run = directory.trial(index)
    run.create()
    run.write_config(
      config_lib.as_json(study_lib.trial_config(definition["config"], point))
    )
    far = abs(np.log10(point["hparams.learning_rate"] / 0.1))
    errors = 0.9 * steps**-0.3 * (1 + far) * rng.uniform(0.97, 1.03, 100)
    lines = [
      {
        "step": int(step),
        "train/loss": float(error * 2),
        "train/error_rate": float(error),
        "train/grad_norm": float(error),
        "train/grad_norm_max": float(error * 1.5),
        "train/clipped": 0.0,
        "learning_rate": point["hparams.learning_rate"],
        "steps_per_second": 100.0,
        "examples_per_second": 12_800.0,
        "data_wait": 0.0,
        "valid/loss": float(error * 2.1),
        "valid/error_rate": float(error),
      }
      for step, error in zip(steps, errors, strict=True)
    ]
    run.append_metrics(lines)
    run.write_status(
      "completed", step=10_000, max_train_steps=10_000, seconds=1.0
    )


# Language models by size; on a CPU only the first.
_LMS = {
  "of the experiment": {},
  "124M": {
    "model.width": 768,
    "model.depth": 12,
    "model.heads": 12,
    "dataset.sequence_length": 1024,
    "batch_size": 32,
  },
  "1B": {
    "model.width": 2048,
    "model.depth": 18,
    "model.heads": 16,
    "dataset.sequence_length": 2048,
    "batch_size": 8,
    "model.remat": "dots",
  },
}
_LARGE = {
  "model.dtype": "bfloat16",
  "eval_batch_size": 32,
  "hparams.learning_rate": 3e-4,
}


def lm(rounds: int) -> None:
  """Step time of language models against a hand-written step; tokens/s; MFU.

  The bare step is the same model under optax's own chain of clipping and AdamW,
  jitted in a loop over rows that are on the device. Model-FLOP utilization is
  by the formula, against the maker's peak or, on a CPU, against the rate of a
  product of large matrices measured beside.
  """
  import jax

  sizes = dict(_LMS)
  if jax.default_backend() == "cpu":
    sizes = {"of the experiment": {}}
  for name, keys in sizes.items():
    config = _lm_config({**keys, **(_LARGE if keys else {})})
    ratios, rates, shares = [], [], []
    for _ in range(rounds):
      bare = _bare_lm_steps_per_second(config)
      ours = _steady_steps_per_second(config)
      tokens = config.batch_size * config.dataset.sequence_length
      ratios.append(ours / bare)
      rates.append(ours * tokens)
      shares.append(ours * _step_flops(config) / _peak_flops())
    _tell(f"lm {name}, train / bare step", ratios)
    _tell(f"lm {name}, tokens per second", rates)
    _tell(f"lm {name}, model-FLOP utilization", shares)


def averages(rounds: int) -> None:
  """Time of a language model's step with both averages over that without.

  Both programs in turn, 20 steps each, ten times a round: what is measured is
  smaller than what other work on the machine does to it.
  """
  for name, stride in (("every step", 1), ("window of every 10th", 10)):
    without = _blocks_of_steps({"averages": ()})
    both = _blocks_of_steps(
      {"averages": ("ema", "window"), "hparams.window_stride": stride}
    )
    next(without), next(both)
    ratios = []
    for _ in range(rounds):
      times = [(next(both), next(without)) for _ in range(10)]
      ratios.append(statistics.median(b / w for b, w in times))
    _tell(f"averages, {name}, step with / without", ratios)


def _blocks_of_steps(keys, size=20):
  """Yields the seconds of one block of steps after the other."""
  import jax

  from jaxplay.training import workload as workload_lib

  config = _lm_config({"max_train_steps": 10**6, "steps_per_call": size} | keys)
  workload = workload_lib.make_workload(config)
  feeder = workload_lib.make_feed(workload, config, 0)
  state, at = workload.init(), 0
  while True:
    arguments = feeder.arguments(at, at + size)
    start = time.perf_counter()
    state, _ = feeder.program(workload.hparams, state, *arguments)
    jax.block_until_ready(state)
    yield time.perf_counter() - start
    at += size


def loader(rounds: int) -> None:
  """Tokens per second of packed rows, over what the experiment's LM consumes.

  Rows in the order of training, 64 batches at a time, from the memory-mapped
  files, on one core.
  """
  import numpy as np

  from jaxplay import data
  from jaxplay.training import workload as workload_lib

  config = _lm_config({})
  workload = workload_lib.make_workload(config)
  source = workload.dataset.splits["train"]
  length = config.dataset.sequence_length
  rates, ratios = [], []
  for _ in range(rounds):
    consumed = _steady_steps_per_second(config) * config.batch_size * length
    start, made, step = time.perf_counter(), 0, 0
    while (seconds := time.perf_counter() - start) < 1.0:
      chunk = data.train_examples(
        seed=0,
        step=step,
        num_steps=64,
        batch_size=config.batch_size,
        num_examples=source.num_examples,
        augment="none",
        augment_pixels=0,
      )
      rows = source.fetch(chunk["index"].reshape(-1))["tokens"]
      made, step = made + rows[:, 1:].size, step + 64
      assert rows.dtype == np.uint8
    rates.append(made / seconds / 1e6)
    ratios.append(made / seconds / consumed)
  _tell("loader, million tokens per second", rates)
  _tell("loader, read / consumed by the model", ratios)


_PHOTOGRAPH = (375, 500)  # height and width, the median of ImageNet


def input_pipeline(rounds: int) -> None:
  """Photographs per second and core: read, cropped, decoded and resized to 224.

  Made-up JPEG files of ImageNet's usual size in array_record, by our reader on
  one core, against PIL in a plain loop and against grain reading one example
  at a time with the same decoder. Then where our time goes.
  """
  import io

  import grain
  import numpy as np
  from PIL import Image

  from jaxplay import data
  from jaxplay.data import images

  sys.path.insert(0, str(ROOT))
  from tests.data import tiny_tfds

  tiny_tfds.PHOTOGRAPHS.update(train=400, validation=10)
  tiny_tfds.photograph = _large_photograph
  with tempfile.TemporaryDirectory() as folder:
    tiny_tfds.prepare_photographs(folder)
    source = data.load(
      "tfds:tiny_imagenet",
      data_dir=folder,
      splits=dict.fromkeys(("train", "valid", "test"), "train"),
      image_size=224,
      synthetic={},
    ).splits["train"]
    rows, number = np.arange(64), 256
    words = images.draw_crops(0, np.int64(0), np.arange(number))
    files = [_large_photograph("train", i)[0] for i in range(number)]

    def ours():
      for i in range(0, number, 64):
        source.fetch(rows + i, words[rows + i])

    def plain():
      for file, word in zip(files, words, strict=True):
        with Image.open(io.BytesIO(file)) as picture:
          width, height = picture.size
          box = images.crop_box(word, height, width)
          np.asarray(picture.convert("RGB").resize((224, 224), 2, box=box))

    class One:
      def __len__(self):
        return number

      def __getitem__(self, i):
        return source.fetch(np.array([i]), words[i : i + 1])

    def by_grain():
      options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=8)
      for _ in grain.MapDataset.source(One()).to_iter_dataset(options):
        pass

    def reading():
      source.source.__getitems__(list(range(number)))

    def decoding():
      for file, word in zip(files, words, strict=True):
        images.decode(file, 224, 3, words=word)

    seconds = {}
    for _ in range(rounds):
      for step in (ours, plain, by_grain, reading, decoding):
        start = time.perf_counter()
        step()
        taken = time.perf_counter() - start
        seconds.setdefault(step.__name__, []).append(taken)
  ratios = {
    name: [s / o for s, o in zip(times, seconds["ours"], strict=True)]
    for name, times in seconds.items()
  }
  _tell(
    "input, images per second and core", [number / s for s in seconds["ours"]]
  )
  _tell("input, time of PIL in a loop / ours", ratios["plain"])
  _tell("input, time of grain, one by one / ours", ratios["by_grain"])
  _tell("input, share of reading records", ratios["reading"])
  _tell("input, share of decoding and resizing", ratios["decoding"])


@functools.cache
def _large_photograph(split, i):
  """(JPEG file, label) of the size of a photograph, and as hard to decode."""
  import io

  import numpy as np
  from PIL import Image

  height, width = _PHOTOGRAPH
  rng = np.random.default_rng(i)
  coarse = rng.integers(0, 255, (height // 8, width // 8, 3)).astype(np.uint8)
  picture = np.asarray(Image.fromarray(coarse).resize((width, height)), float)
  picture += rng.normal(0, 12, picture.shape)
  file = io.BytesIO()
  noisy = Image.fromarray(picture.clip(0, 255).astype(np.uint8))
  noisy.save(file, format="JPEG", quality=90)
  return file.getvalue(), i % 5


def roofline(rounds: int) -> None:
  """Measured time of a step over what `plan topology` estimates for it."""
  for name, keys in (("digits_mlp", {}), ("pythonlib_lm", {"averages": "()"})):
    ratios = []
    for _ in range(rounds):
      command = [
        *(sys.executable, "-m", "jaxplay.cli", "plan", "topology", "--json"),
        f"--config={ROOT / 'experiments' / name / 'config.py'}",
        "--topology=here",
        *(f"--config.{key}={value}" for key, value in keys.items()),
      ]
      out = subprocess.run(
        command, stdout=subprocess.PIPE, check=True, cwd=ROOT
      )
      row = json.loads(out.stdout)[0]
      ratios.append(row["measured_seconds"] / row["step_seconds"][0])
    _tell(f"roofline {name}, measured / all overlapped", ratios)


def _lm_config(keys):
  from jaxplay import config as config_lib

  path = ROOT / "experiments" / "pythonlib_lm" / "config.py"
  config = config_lib.load(str(path))
  config.max_train_steps = config.checkpoint_every = 200
  config.eval_every = 200
  config.averages, config.export, config.keep_steps = (), False, ()
  for key, value in keys.items():
    config_lib.override(config, key, value)
  config_lib.validate(config)
  return config


def _steady_steps_per_second(config):
  return _trained_examples_per_second(config)["steady"] / config.batch_size


def _step_flops(config):
  from jaxplay.training import dry_run
  from jaxplay.training import workload as workload_lib

  workload = workload_lib.make_workload(config)
  return sum(dry_run.formula_flops(config, workload).values())


@functools.cache
def _peak_flops():
  """Of all devices: the maker's for a known chip, else as measured."""
  import jax

  from jaxplay.pods import probe, roofline

  chip = roofline.chip(jax.devices()[0].device_kind)
  if chip is not None:
    return chip.flops * jax.device_count()
  return probe.peaks()["flops"]


def _bare_lm_steps_per_second(config):
  """Of a training step written by hand, in a loop on rows on the device."""
  import jax
  import jax.numpy as jnp
  import numpy as np
  import optax

  from jaxplay import models
  from jaxplay.training import workload as workload_lib

  workload = workload_lib.make_workload(config)
  model, source = workload.model, workload.dataset.splits["train"]
  rows = jax.device_put(source.fetch(np.arange(source.num_examples))["tokens"])
  hparams, total, calls_of = config.hparams, config.max_train_steps, 50

  def rate(step):
    done = (step - 0.8 * total) / (0.2 * total)
    warm = jnp.minimum((step + 1) / hparams.warmup_steps, 1)
    return hparams.learning_rate * warm * (1 - jnp.sqrt(jnp.clip(done, 0, 1)))

  def decayed(params):
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)

  optimizer = optax.chain(
    optax.clip_by_global_norm(hparams.clip_norm),
    optax.adamw(
      rate,
      hparams.beta1,
      hparams.beta2,
      hparams.epsilon,
      weight_decay=hparams.weight_decay,
      mask=decayed,
    ),
  )

  def one(carry, index):
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

  @functools.partial(jax.jit, donate_argnums=0)
  def call(carry, indices):
    return jax.lax.scan(one, carry, indices)

  rng = np.random.default_rng(0)
  draw = lambda: rng.integers(  # noqa: E731
    0, source.num_examples, (calls_of, config.batch_size), np.int32
  )
  params, _ = models.init(
    model,
    jax.random.key(0),
    jnp.zeros((1, config.dataset.sequence_length), jnp.int32),
  )
  carry, _ = call((params, optimizer.init(params)), draw())
  jax.block_until_ready(carry)
  calls = max(1, total // calls_of - 1)
  start = time.perf_counter()
  for _ in range(calls):
    carry, losses = call(carry, draw())
  jax.block_until_ready((carry, losses))
  return calls * calls_of / (time.perf_counter() - start)


def sampling(rounds: int) -> None:
  """Seconds for a million points of eight dimensions, by algorithm."""
  from jaxplay.study import sampling as sampling_lib
  from jaxplay.study import space as space_lib

  names = ("learning_rate", "momentum", "rho", "beta1", "beta2", "epsilon")
  names += ("weight_decay", "label_smoothing")
  space = space_lib.Space(
    {f"hparams.{name}": space_lib.Float(1e-3, 0.9, "log") for name in names}
  )
  for algorithm in ("halton", "sobol", "random", "algoperf"):
    seconds = []
    for _ in range(rounds):
      start = time.perf_counter()
      sampling_lib.points(space, algorithm=algorithm, seed=0, num=1_000_000)
      seconds.append(time.perf_counter() - start)
    _tell(f"sampling, {algorithm}, a million points, seconds", seconds)


def _tell(what: str, values: list[float]) -> None:
  middle = statistics.median(values)
  print(
    f"{what}: {middle:.3g} ({min(values):.3g} to {max(values):.3g},"
    f" {len(values)} rounds)",
    flush=True,
  )


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


def main():
  parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
  parser.add_argument("which", nargs="*", help=", ".join(BENCHMARKS))
  parser.add_argument("--rounds", type=int, default=5, metavar="N")
  arguments = parser.parse_args()
  for name in arguments.which or BENCHMARKS:
    if name not in BENCHMARKS:
      parser.error(f"no benchmark {name!r}; there are {', '.join(BENCHMARKS)}")
    BENCHMARKS[name](arguments.rounds)


if __name__ == "__main__":
  main()
