"""The command line: `jaxplay VERB ...`; the only module that knows flags.

Exit codes: 0 done, 1 the run failed, 2 the request was wrong (one sentence, no
traceback), 75 preempted and resumable, 130 interrupted outside the loop.
"""

import argparse
import difflib
import os
import pathlib
import shutil
import sys
import traceback

import jaxplay

EXIT_FAILED, EXIT_WRONG, EXIT_PREEMPTED, EXIT_INTERRUPTED = 1, 2, 75, 130


def main(argv: list[str] | None = None) -> int:
  """Runs a command line; returns the exit code."""
  parser = _parser()
  arguments, rest = parser.parse_known_args(argv)
  try:
    code = arguments.verb(arguments, rest)
  except jaxplay.UserError as error:
    print(f"jaxplay: {error}", file=sys.stderr)
    code = EXIT_WRONG
  except KeyboardInterrupt:
    print("jaxplay: interrupted; the same command resumes", file=sys.stderr)
    code = EXIT_INTERRUPTED
  except Exception:
    traceback.print_exc()
    code = EXIT_FAILED
  if code not in (0, EXIT_PREEMPTED) and _one_of_several(arguments):
    # Without the farewell of Python and JAX: they would wait for the others.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
  return code


def _parser():
  parser = argparse.ArgumentParser(
    prog="jaxplay",
    description="The Deep Learning Tuning Playbook as working software.",
  )
  parser.add_argument(
    "--version", action="version", version=jaxplay.__version__
  )
  verbs = parser.add_subparsers(metavar="VERB", required=True)

  train = verbs.add_parser(
    "train",
    help="train one config in one run directory; the same command resumes",
    description="Trains one config in one run directory. The same command on"
    " the same workdir resumes. Every key of the config can be overridden by"
    " --config.KEY=VALUE; jaxplay/config.py lists them all.",
    allow_abbrev=False,
  )
  train.add_argument(
    "--config", required=True, metavar="FILE[:ARG]", help="experiment file"
  )
  train.add_argument(
    "--workdir", metavar="RUN", help="run directory, made if need be"
  )
  train.add_argument(
    "--dry_run",
    action="store_true",
    help="compile, print config, parameters, FLOPs and memory, and stop",
  )
  train.add_argument(
    "--fake_devices",
    type=int,
    metavar="N",
    help="emulate N devices on the CPU",
  )
  train.add_argument(
    "--distributed",
    action="store_true",
    help="one of several processes, found by JAX (TPU pod, Slurm, ...)",
  )
  train.add_argument(
    "--coordinator",
    metavar="HOST:PORT",
    help="with several processes: process 0",
  )
  train.add_argument("--num_processes", type=int, metavar="N")
  train.add_argument("--process_id", type=int, metavar="I")
  train.set_defaults(verb=_train)
  return parser


def _train(arguments, rest):
  from jaxplay import config as config_lib

  config = config_lib.load(arguments.config, _overrides(rest, vars(arguments)))
  config_lib.validate(config)
  if not arguments.workdir and not arguments.dry_run:
    raise jaxplay.UserError("--workdir is missing: where the run is to be kept")
  _start_jax(arguments)

  import jax

  config_lib.validate(config, jax.device_count())
  console = _Console(quiet=jax.process_index() != 0)
  for sentence in config_lib.notes(config):
    console.tell(f"note: {sentence}")
  if arguments.dry_run:
    from jaxplay.training import dry_run

    for part in dry_run.describe(config):
      console.tell(part)
    return 0

  from jaxplay.training import train

  try:
    with console:
      status = train.train(config, arguments.workdir, console)
  except jax.errors.JaxRuntimeError as error:
    print(f"jaxplay: {_runtime_error(error)}", file=sys.stderr)
    return EXIT_FAILED
  if jax.process_index() == 0:
    _close(arguments, status)
  return EXIT_PREEMPTED if status["status"] == "preempted" else 0


def _overrides(rest, flags):
  """--config.KEY=VALUE, also as two words, from what argparse left over."""
  overrides, words = {}, list(rest)
  while words:
    word = words.pop(0)
    if not word.startswith("--config."):
      name = word.partition("=")[0].lstrip("-")
      known = difflib.get_close_matches(name, flags, 1)
      hint = f"did you mean --{known[0]}? " if known else ""
      raise jaxplay.UserError(
        f"unknown argument {word!r}; {hint}Config keys are set by"
        " --config.KEY=VALUE"
      )
    key, equals, value = word.removeprefix("--config.").partition("=")
    if not equals:
      if not words:
        raise jaxplay.UserError(f"{word} has no value; write {word}=VALUE")
      value = words.pop(0)
    overrides[key] = value
  return overrides


def _start_jax(arguments):
  """Devices, processes and the compilation cache, before JAX looks at them."""
  import jax

  if arguments.fake_devices is not None:
    if arguments.fake_devices < 1:
      raise jaxplay.UserError(
        f"--fake_devices is {arguments.fake_devices}; it must be at least 1"
      )
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", arguments.fake_devices)
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    jax.config.update(
      "jax_compilation_cache_dir", str(pathlib.Path(cache) / "jaxplay" / "xla")
    )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  if _one_of_several(arguments):
    process = (arguments.num_processes, arguments.process_id)
    if arguments.coordinator is not None and None in process:
      raise jaxplay.UserError(
        "--coordinator needs --num_processes and --process_id as well"
      )
    jax.distributed.initialize(
      arguments.coordinator,
      *process,
      # A host that dies ends the others within this time.
      heartbeat_timeout_seconds=30,
    )


def _one_of_several(arguments):
  """Whether this process is one of a job's."""
  return arguments.distributed or arguments.coordinator is not None


def _runtime_error(error):
  """A sentence on what the devices, or the other hosts, ran into."""
  import jax

  text = str(error).strip().split("\n")[0]
  if "RESOURCE_EXHAUSTED" in text:
    return (
      f"out of device memory ({text}); use a smaller config.batch_size, more"
      " config.microbatches, or split parameters by config.mesh.fsdp"
    )
  if jax.process_count() > 1:
    return (
      f"the job broke, most likely because another host is gone ({text}); start"
      " it again to resume from the newest checkpoint"
    )
  return f"the run failed on the device: {text}"


class _Console:
  """A progress bar on a terminal, plain lines in a log."""

  def __init__(self, quiet):
    self._quiet, self._bar = quiet, None
    self._terminal = sys.stderr.isatty()

  def __enter__(self):
    return self

  def tell(self, sentence):
    if self._quiet:
      return
    if self._bar is not None:
      self._bar.clear()
    self._print(sentence)

  def progress(self, done, total, line):
    if self._quiet:
      return
    shown = {
      name.replace("error_rate", "error"): line[name]
      for name in ("train/loss", "valid/error_rate")
      if line.get(name) is not None
    }
    if not self._terminal:
      values = "  ".join(f"{k} {v:.4g}" for k, v in shown.items())
      if shown:
        self._print(f"step {done}/{total}  {values}")
      return
    if self._bar is None:
      import tqdm

      self._shown = {}
      self._bar = tqdm.tqdm(
        total=total, initial=done, unit="step", dynamic_ncols=True
      )
    self._shown |= {k: f"{v:.4g}" for k, v in shown.items()}
    self._bar.set_postfix(self._shown, refresh=False)
    self._bar.update(done - self._bar.n)

  def _print(self, text):
    try:
      print(text, flush=True)
    except BrokenPipeError:  # `| head` must not end a run of days.
      self._quiet = True
      sys.stdout = open(os.devnull, "w")

  def __exit__(self, *unused):
    if self._bar is not None:
      self._bar.close()


def _close(arguments, status):
  """Writes the run's findings, and the closing summary."""
  from jaxplay import rundir
  from jaxplay.analysis import curves

  run = rundir.RunDir(arguments.workdir)
  findings = curves.check_run(run)
  run.write_findings([found.as_json() for found in findings])
  print(f"\n{_headline(status)}")
  best, test = status.get("best"), status.get("test")
  rows = []
  if best:
    rows.append((f"best {best['metric']}", f"{best['value']:.4g}"))
    rows.append(("at step", f"{best['step']} of {status['max_train_steps']}"))
  if test:
    rows.append(("test error there", f"{test['test/error_rate']:.4g}"))
  rows.append(("run directory", arguments.workdir))
  for name, value in rows:
    print(f"  {name:<24}{value}")
  for found in findings:
    if found.verdict in ("warn", "fail"):
      print(f"  {found.verdict}: {found.check}: {found.advice}")
  what, command = _next(arguments, status)
  print(f"next: {what}\n  {command}")


def _headline(status):
  if status["status"] == "infeasible":
    return (
      f"infeasible: {status['reason']}. Training diverged; a lower learning"
      " rate, warmup or clipping may help"
    )
  if status["status"] == "preempted":
    return f"preempted at step {status['step']}; the same command resumes"
  return f"completed {status['step']} steps in {status['seconds']:.0f} s"


def _next(arguments, status):
  """What to type next, and why."""
  program = "jaxplay" if shutil.which("jaxplay") else sys.argv[0]
  if status["status"] == "preempted":
    return "to resume", " ".join([program, *sys.argv[1:]])
  command = f"{program} train --config={arguments.config} --workdir=ANOTHER"
  rate = (status.get("final") or {}).get("learning_rate")
  if status["status"] == "infeasible" and rate:
    lower = f"--config.hparams.learning_rate={rate / 10:.2g}"
    return "a tenth of the learning rate", f"{command} {lower}"
  return (
    "another seed, to see how much it matters",
    f"{command} --config.seed=1",
  )


if __name__ == "__main__":
  sys.exit(main())
