"""Measures the costs of jaxplay side by side, and prints them as ratios.

    python tools/benchmark.py loop      training loop against the bare step
    python tools/benchmark.py order     indices per second on one core
    python tools/benchmark.py startup   seconds to the first step, and where
    python tools/benchmark.py study     64 trials: population, processes, Optuna
    python tools/benchmark.py report    report of 1,000 and of 10,000 trials
    python tools/benchmark.py sampling  a million points of eight dimensions
    python tools/benchmark.py lm        language model against a bare step, MFU
    python tools/benchmark.py averages  what weight averages add to a step
    python tools/benchmark.py diagnostics  what norms of layers add to a step
    python tools/benchmark.py loader    tokens per second of packed rows
    python tools/benchmark.py input     decoded photographs per second and core
    python tools/benchmark.py roofline  estimate of a step against its time
    python tools/benchmark.py           all of them

Machines are shared and noisy: what is compared is measured alternately, several
times, and the median of the ratios is printed with its range.
"""

import argparse
import collections
import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

import jax
from benchmarks import common, language_model, made_up_study, photographs

from jaxplay import config as config_lib
from jaxplay.data import order as order_lib
from jaxplay.study import sampling as sampling_lib
from jaxplay.study import space as space_lib
from jaxplay.study import study as study_lib
from jaxplay.training import workload as workload_lib

PARTS = pathlib.Path(__file__).resolve().parent / "benchmarks"
JAXPLAY = (sys.executable, "-m", "jaxplay.cli")


def loop(rounds: int) -> None:
  """Steps per second of `jaxplay train` relative to its bare step.

  With a line every 50 steps, an evaluation every 500, and an asynchronous
  checkpoint every 5,000 steps and at each new best. `steady` is what the run
  logs, without evaluations and waiting for checkpoints. `whole` is all the time
  from the first line of metrics to the last.
  """
  for experiment, steps in (("digits_mlp", 20_000), ("digits_resnet", 2_000)):
    config = common.load_config(
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
      for name, speed in common.trained_steps_per_second(config).items():
        ratios[name].append(speed / bare)
    for name, values in ratios.items():
      common.show(f"loop {experiment} {name}, train / bare step", values)


def _bare_steps_per_second(config):
  """Of the same train step alone, on examples that are on the device."""
  workload = workload_lib.make_workload(config)
  source = workload.dataset.splits["train"]
  arrays = jax.device_put(source.fetch(range(source.num_examples)))
  # One at a time where loops are slow: convolutions on a CPU.
  per_call = workload_lib.steps_per_call(workload)
  examples = common.train_examples(config, source, 0, per_call)
  examples = jax.device_put({k: v[:, None] for k, v in examples.items()})

  def step(state, part):
    batch = {k: array[part["index"]] for k, array in arrays.items()}
    batch |= {k: v for k, v in part.items() if k != "index"}
    return workload.train_step(workload.hparams, state, batch)

  return common.scanned_steps_per_second(
    step, workload.init(), lambda: examples, config.max_train_steps
  )


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
    common.show(f"order, {name} examples, million indices per second", speeds)


def startup(rounds: int) -> None:
  """Seconds to the first step, warm compilation cache, and their parts."""
  whole, imports = [], []
  with tempfile.TemporaryDirectory() as folder:
    env = os.environ | {
      "JAX_COMPILATION_CACHE_DIR": f"{folder}/cache",
      "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    for i in range(rounds + 1):
      result = common.run(
        *(
          sys.executable,
          PARTS / "first_step.py",
          common.config_file("digits_mlp"),
        ),
        f"{folder}/run{i}",
        env=env,
      )
      if i > 0:  # The first one fills the cache.
        imported, rest = map(float, result.stdout.split()[-2:])
        whole.append(imported + rest)
        imports.append(imported / whole[-1])
  common.show("startup, seconds to the first step", whole)
  common.show("startup, share of imports", imports)
  rest = [1 - share for share in imports]
  common.show("startup, share of data, compile, step 1", rest)


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
        result = common.run(*command, f"--workdir={folder}/population", env=env)
        population = time.perf_counter() - start
        log = "compilation of jit(train_population)"
        compiled.append(result.stderr.count(log))
        for other, words in {
          "processes": (*processes, f"--workdir={folder}/one"),
          "processes, 2 in parallel": (
            *(*processes, "--parallel=2", f"--workdir={folder}/two"),
          ),
          "Optuna": (
            *(
              sys.executable,
              PARTS / "optuna_loop.py",
              common.config_file("digits_mlp"),
            ),
            overrides,
          ),
        }.items():
          seconds = common.seconds_of(
            functools.partial(common.run, *words, env=env)
          )
          ratios[other].append(seconds / population)
    for other, values in ratios.items():
      common.show(f"study {name}, {other} / population", values)
    common.show(
      f"study {name}, compilations of the population's step", compiled
    )


def report(rounds: int) -> None:
  """Seconds and peak memory of `jaxplay report`, 100 evaluations a trial.

  And seconds until Chromium, if installed, has drawn all figures of the page,
  less those of an empty page.
  """
  browser = shutil.which("chromium") or shutil.which("chromium-browser")
  for trials in (1_000, 10_000):
    with tempfile.TemporaryDirectory() as folder:
      made_up_study.write(f"{folder}/study", trials)
      results = collections.defaultdict(list)
      for _ in range(rounds):
        start = time.perf_counter()
        process = subprocess.Popen(
          [*JAXPLAY, "report", f"{folder}/study"],
          cwd=common.ROOT,
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
      common.show(f"report of {trials:,} trials, {what}", values)


def _seconds_to_draw(browser, folder, url):
  start = time.perf_counter()
  # Virtual time: timers do not wait, and it ends when nothing is left to do.
  page = common.run(
    *(browser, "--headless=new", "--no-sandbox", "--disable-gpu"),
    *("--disable-dev-shm-usage", f"--user-data-dir={folder}/profile"),
    *("--virtual-time-budget=600000", "--dump-dom", url),
  ).stdout
  if url != "about:blank" and 'data-drawn="yes"' not in page[:1000]:
    sys.exit(f"{browser} did not draw {url}")
  return time.perf_counter() - start


def roofline(rounds: int) -> None:
  """Measured time of a step over what `plan topology` estimates for it."""
  for name, options in (
    ("digits_mlp", ()),
    ("pythonlib_lm", ("--config.averages=()",)),
  ):
    ratios = []
    for _ in range(rounds):
      result = common.run(
        *(*JAXPLAY, "plan", "topology", "--topology=here", "--json"),
        *(f"--config={common.config_file(name)}", *options),
      )
      row = json.loads(result.stdout)[0]
      ratios.append(row["measured_seconds"] / row["step_seconds"][0])
    common.show(f"roofline {name}, measured / all overlapped", ratios)


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
    seconds = [common.seconds_of(draw) for _ in range(rounds)]
    common.show(f"sampling, {algorithm}, a million points, seconds", seconds)


def diagnostics(rounds: int) -> None:
  """Time of a step with all diagnostics over that without, logged each 50th."""
  for name, size in (("digits_mlp", 500), ("unstable_wrn", 50)):
    ratios = common.ratios_of_steps(
      common.load_config(name, {"diagnostics": config_lib.DIAGNOSTICS}),
      common.load_config(name, {}),
      size,
      rounds,
    )
    common.show(f"diagnostics, {name}, step with / without", ratios)


BENCHMARKS = {
  "loop": loop,
  "order": order,
  "startup": startup,
  "study": study,
  "report": report,
  "sampling": sampling,
  "lm": language_model.lm,
  "averages": language_model.averages,
  "diagnostics": diagnostics,
  "loader": language_model.loader,
  "input": photographs.input_pipeline,
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
