"""What the verbs share: arguments, devices, the console, exit codes."""

import argparse
import difflib
import glob
import json
import math
import os
import pathlib
import socket
import sys
import threading
import time

import jaxplay
from jaxplay import commands
from jaxplay.cli import terminal

EXIT_FAILED, EXIT_WRONG, EXIT_PREEMPTED, EXIT_INTERRUPTED = 1, 2, 75, 130
# Of the process of a trial, whose runner has to know that it did not crash.
EXIT_STORAGE = 74

# The way out where the directory of a report cannot be written.
OUT = "`jaxplay report` with --out=FILE.html writes the page elsewhere"

# Started on one host of several, a job is to say so within a minute, Python's
# own start included.
WAIT_SECONDS = 45

MOST = 2**31 - 1  # of what is counted, in the 32 bits of the step

# Characters of a message: whoever gives a value of 100,000 knows it.
_LONGEST = 1_000


class Parser(argparse.ArgumentParser):
  """Tells a mistake as any other: in a sentence, without the usage."""

  def error(self, message):
    raise jaxplay.UserError(f"{message}; see {self.prog} --help")


def whole(least, most=MOST):
  """Type of arguments that are whole numbers from `least` to `most`."""

  def number(text):
    # Python would also take 1_000, +3, blanks and the digits of all scripts.
    is_plain = text.isascii() and text.isdecimal()
    digits = text.lstrip("0") or "0"
    if not is_plain or (len(digits) == 1 and int(digits) < least):
      raise argparse.ArgumentTypeError(
        f"it is {text!r}; it must be at least {least}, and whole"
      )
    # By their number first: Python converts only so many.
    if len(digits) > len(str(most)) or int(digits) > most:
      raise argparse.ArgumentTypeError(
        f"it is {text!r}; it must be at most {most}"
      )
    return int(digits)

  return number


devices = whole(1, 4096)  # emulated, each with threads of its own
seeds = whole(1, 1_000)
number = whole(1)  # of what is counted
index = whole(0)  # of what is numbered, and a seed


def numbers(text):
  """Type of a list of numbers that count something."""
  return [number(part) for part in text.split(",")]


def size(text):
  """Type of arguments that measure something."""
  try:
    number = float(text) if text.isascii() else math.nan
  except ValueError:
    number = math.nan
  if not 0 <= number < math.inf:
    raise argparse.ArgumentTypeError(
      f"it is {text!r}; it must be a number of at least 0"
    )
  return number


def _path(text):
  """The path that an argument names, here or in a bucket."""
  from jaxplay import rundir

  if not text:
    raise argparse.ArgumentTypeError("it is ''; the current folder is '.'")
  path = rundir.at(text)
  if not rundir.is_local(path):
    return path
  try:
    os.stat(path)
  except FileNotFoundError:
    if text.startswith("~"):
      raise argparse.ArgumentTypeError(
        f"it is {text!r}, and the shell replaces ~ at the beginning of a word"
        " only; write $HOME"
      ) from None
  except (OSError, ValueError) as error:  # Too long, below a file, a null byte.
    reason = getattr(error, "strerror", None) or error
    raise argparse.ArgumentTypeError(f"it is {text!r}: {reason}") from None
  return path


def word(text):
  """Type of arguments that are a name, and not empty."""
  if not text.strip():
    raise argparse.ArgumentTypeError(f"it is {text!r}, and has to be a name")
  return text


def place(text):
  """Type of arguments that name what is to be read."""
  _path(text)
  return text


def folder(text):
  """Type of arguments that name a folder, to be made if need be."""
  from jaxplay import rundir

  path = _path(text)
  if rundir.is_local(path):
    if path.exists() and not path.is_dir():
      raise argparse.ArgumentTypeError(f"{text!r} is a file, not a folder")
    if path.absolute() == path.absolute().parent:
      raise argparse.ArgumentTypeError(
        f"{text!r} is the root of all folders; use one below it"
      )
  return text


def _file(text):
  """The path of a file to be written, in a folder that is there."""
  from jaxplay import rundir

  path = _path(text)
  if rundir.is_local(path):
    if path.exists() and not path.is_file():
      raise argparse.ArgumentTypeError(f"{text!r} is there, and is no file")
    if not path.parent.is_dir():
      raise argparse.ArgumentTypeError(
        f"it is {text!r}, and there is no folder {str(path.parent)!r}"
      )
  return path


def page(text):
  """Type of arguments that name a page to be written."""
  if not text.endswith(".html"):
    raise argparse.ArgumentTypeError(
      f"it is {text!r}; it must be a file whose name ends in .html"
    )
  return _file(text)


def log(text):
  """Type of arguments that name a log; a link is the user's own."""
  _file(text)
  return os.path.realpath(text) if os.path.islink(text) else text


def _address(text):
  """Type of the address of process 0."""
  host, _, port = text.rpartition(":")
  try:
    whole(1, 65535)(port if host else "")
  except argparse.ArgumentTypeError:
    raise argparse.ArgumentTypeError(
      f"it is {text!r}; it must be HOST:PORT, with a port of 1 to 65535"
    ) from None
  return text


def make_folder(path):
  """Makes a folder that is asked for, before the work that fills it."""
  from jaxplay import rundir

  if path is not None:
    rundir.make_folder(rundir.at(path))


def folder_of(arguments):
  """What a command works on, a path; None: nothing, or it is not known."""
  from jaxplay import rundir

  given = vars(arguments) if arguments else {}
  for name in ("workdir", "study", "run", "ladder"):
    if isinstance(given.get(name), str | os.PathLike):
      return rundir.at(given[name])
  return None


def append(path, text):
  """Appends to a text file, unless it is there already."""
  from jaxplay import rundir

  try:
    with rundir.open_to_append(path) as file:
      file.seek(0)
      if text not in file.read().decode("utf-8", "replace"):
        file.write(text.encode(errors="backslashreplace"))
  except OSError as error:
    raise jaxplay.UserError(
      f"cannot write {str(path)!r}: {error.strerror}"
    ) from None


def add_devices(verb):
  """Arguments of what computes."""
  verb.add_argument(
    "--fake_devices",
    type=devices,
    metavar="N",
    help="emulate N devices on the CPU",
  )
  verb.add_argument(
    "--distributed",
    action="store_true",
    help="one of several processes, found by JAX (TPU pod, Slurm, ...)",
  )
  verb.add_argument(
    "--coordinator",
    type=_address,
    metavar="HOST:PORT",
    help="with several processes: process 0",
  )
  verb.add_argument("--num_processes", type=number, metavar="N")
  verb.add_argument("--process_id", type=index, metavar="I")
  verb.add_argument(
    "--wait_seconds",
    type=whole(1, 1_000_000),
    default=WAIT_SECONDS,
    metavar="S",
    help="with several processes: how long to wait until all have come"
    f" (default {WAIT_SECONDS})",
  )


def check_processes(arguments):
  """Refuses to run alone, or with a wrong number, what is to be one of many."""
  given = vars(arguments)
  names = ("coordinator", "num_processes", "process_id")
  missing = [f"--{name}" for name in names if given.get(name) is None]
  if len(missing) == len(names):
    return
  if missing:
    first = next(name for name in names if given.get(name) is not None)
    raise jaxplay.UserError(
      f"--{first}={given[first]} needs {' and '.join(missing)} as well"
    )
  if arguments.process_id >= arguments.num_processes:
    raise jaxplay.UserError(
      f"--process_id is {arguments.process_id}; with --num_processes="
      f"{arguments.num_processes} it must be less"
    )


def no_more(rest, arguments):
  """Refuses arguments that argparse left over."""
  for word in rest:
    name = word.partition("=")[0].lstrip("-")
    known = difflib.get_close_matches(name, vars(arguments), 1)
    hint = f"; did you mean --{known[0]}?" if known else ""
    raise jaxplay.UserError(f"unknown argument {word!r}{hint}")


def overrides(rest, flags):
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


# After a SIGTERM to one of its hosts a job saves and ends, at a step that they
# agree on; if it has not after so long, it is stuck, and ends without.
STOP_SECONDS = 300


# Where there is no TPU, the library libtpu would look for one in the network,
# and tell of all that it misses. What the user has set comes first.
_WITHOUT_TPU = {
  "TPU_SKIP_MDS_QUERY": "1",
  "TPU_ACCELERATOR_TYPE": "v5litepod-8",
  "TPU_WORKER_HOSTNAMES": "localhost",
  "TPU_WORKER_ID": "0",
  "TPU_STDERR_LOG_LEVEL": "4",
  "TPU_MIN_LOG_LEVEL": "4",
  "TPU_LOG_DIR": "disabled",
  # Several processes may compile at a time, as none of them holds a TPU.
  "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def quiet_without_tpu():
  """Keeps libtpu from complaining where there is no TPU; before JAX starts."""
  if not glob.glob("/dev/accel*") and not glob.glob("/dev/vfio/*"):
    for name, value in _WITHOUT_TPU.items():
      os.environ.setdefault(name, value)


def start_jax(arguments, cores_as_devices=False):
  """Devices, processes and the compilation cache, before JAX looks at them.

  Args:
    arguments: Of the command line.
    cores_as_devices: Whether each core of a CPU is to be a device.
  """
  if getattr(arguments, "jax_has_begun", False):
    return  # A verb of several parts; JAX would refuse a second beginning.
  arguments.jax_has_begun = True
  quiet_without_tpu()

  import jax

  if cores_as_devices and not one_of_several(arguments):
    jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))

  if arguments.fake_devices is not None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", arguments.fake_devices)
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    jax.config.update(
      "jax_compilation_cache_dir", str(pathlib.Path(cache) / "jaxplay" / "xla")
    )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  if one_of_several(arguments):
    _join(arguments)


def start_jax_to_compile():
  """JAX for what is compiled for TPUs that are not here, and never run."""
  quiet_without_tpu()

  import jax

  jax.config.update("jax_platforms", "cpu")


def _join(arguments):
  """Becomes one of the processes of a job, once all of them are there."""
  import jax

  address = arguments.coordinator
  process = (arguments.num_processes, arguments.process_id)
  # Process 0 first, while the others can still be counted.
  seconds = arguments.wait_seconds + (3 if arguments.process_id else 0)
  late = threading.Timer(seconds, _nobody_came, [seconds])
  late.daemon = True
  late.start()
  try:
    jax.distributed.initialize(
      address,
      *process,
      # What was said is not to be detected: within Slurm, JAX would also give
      # each process only the GPU of its local number, one of a node's eight.
      cluster_detection_method=None if address is None else "deactivate",
      # Past its time JAX aborts the process; `late` speaks before that.
      initialization_timeout=arguments.wait_seconds + 60,
      # A host that dies ends the others within this time.
      heartbeat_timeout_seconds=30,
    )
  except ValueError as error:
    if address is None:
      raise jaxplay.UserError(
        "--distributed finds no other processes here, since this is neither a"
        " TPU pod nor a Slurm step; name them by --coordinator, --num_processes"
        " and --process_id"
      ) from None
    raise jaxplay.UserError(f"these processes make no job: {error}") from None
  finally:
    late.cancel()
  threading.Thread(target=_end_if_stuck, daemon=True).start()


def _end_if_stuck():
  """Ends a process of a job that was asked to stop, and does not.

  From a thread: what waits for another host sees no signal. JAX's own handler
  tells all hosts of it, under this key.
  """
  import jax
  from jax._src import distributed

  while True:
    time.sleep(min(5.0, STOP_SECONDS))
    try:
      distributed.global_state.client.key_value_try_get(
        "RECEIVED_PREEMPTION_NOTICE"
      )
    except jax.errors.JaxRuntimeError:
      continue  # Nobody was, so far.
    except AttributeError:
      return  # The job has ended.
    break
  time.sleep(STOP_SECONDS)
  print(
    f"jaxplay: asked to stop by a signal {STOP_SECONDS} s ago, this process"
    " still waits for another; it ends without saving, and the same command"
    " resumes from the newest checkpoint",
    file=sys.stderr,
    flush=True,
  )
  os._exit(EXIT_PREEMPTED)


def _nobody_came(seconds):
  """Ends this process with a sentence on who did not come.

  From a thread, while JAX waits: it says nothing, and then aborts the process.
  """
  # JAX has no public name for what it detected.
  from jax._src import distributed

  found = distributed.global_state
  address, number = found.coordinator_address, found.process_id
  total = found.num_processes
  if address is None:
    what = f"the other processes of the job were not found within {seconds} s"
  elif number == 0:
    came = _connected(address)
    came = "not all" if came is None else f"only {came}"
    what = f"{came} of {total} processes came within {seconds} s to {address}"
  else:
    state = "waits as well" if _answers(address) else "does not answer"
    what = (
      f"process {number} of {total} waited {seconds} s for the others in vain;"
      f" process 0, at {address}, {state}"
    )
  print(
    f"jaxplay: {what}; the same command has to be started on every host",
    file=sys.stderr,
    flush=True,
  )
  os._exit(EXIT_FAILED)


def _answers(address):
  host, _, port = address.rpartition(":")
  try:
    socket.create_connection((host.strip("[]"), int(port)), 5).close()
  except OSError:
    return False
  return True


def _connected(address):
  """How many processes are connected to this one; None: cannot be told here.

  JAX's service does not say. Linux lists each connection by its own port.
  """
  port = f"{int(address.rpartition(':')[2]):04X}"
  established, count = "01", 0
  try:
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
      for line in pathlib.Path(table).read_text().splitlines()[1:]:
        _, local, _, state, *_ = line.split()
        count += local.endswith(f":{port}") and state == established
  except OSError:
    return None
  return count


def one_of_several(arguments):
  """Whether this process is one of a job's."""
  given = vars(arguments) if arguments else {}  # Not all verbs compute.
  return given.get("distributed") or given.get("coordinator") is not None


def has_joined(arguments):
  """Whether JAX has begun here as one of several processes."""
  return one_of_several(arguments) and hasattr(arguments, "jax_has_begun")


def is_first(arguments):
  """Whether this process writes and speaks for those of its job."""
  if not one_of_several(arguments):
    return True
  start_jax(arguments)

  import jax

  return jax.process_index() == 0


def runtime_error(error):
  """A sentence on what the devices, or the other hosts, ran into."""
  import jax

  from jaxplay.training import memory

  text = str(error).strip().split("\n")[0]
  if short := memory.exhausted(error):
    return (
      f"out of device memory ({short}); use a smaller config.batch_size, more"
      " config.microbatches, or split parameters by config.mesh.fsdp"
    )
  if jax.process_count() > 1:
    return (
      f"the job broke, most likely because another host is gone ({text}); start"
      " it again to resume from the newest checkpoint"
    )
  return f"the run failed on the device: {text}"


class Console:
  """A progress bar on a terminal, plain lines in a log."""

  def __init__(self, quiet, names=("train/loss",), log_seconds=0.0):
    """Shows nothing yet.

    Args:
      quiet: Whether to show nothing at all.
      names: What to show beside the progress.
      log_seconds: Least time between lines of progress in a log.
    """
    self.quiet, self._bar = quiet, None
    self._terminal = sys.stderr.isatty()
    self._names, self._log_seconds = names, log_seconds
    self._unshown, self._shown_at = None, -log_seconds

  def __enter__(self):
    return self

  def tell(self, sentence):
    if self.quiet:
      return
    if self._bar is not None:
      self._bar.clear()
    self._print(sentence)

  def progress(self, done, total, line):
    if self.quiet:
      return
    shown = {
      name.replace("error_rate", "error"): short(line[name])
      for name in self._names
      if line.get(name) is not None
    }
    if not self._terminal:
      values = "  ".join(f"{k} {v}" for k, v in shown.items())
      self._unshown = shown and f"step {done}/{total}  {values}"
      if time.monotonic() - self._shown_at >= self._log_seconds:
        self._show_line()
      return
    if self._bar is None:
      import tqdm

      self._shown = {}
      self._bar = tqdm.tqdm(
        total=total,
        initial=done,
        unit="step",
        dynamic_ncols=True,
        file=terminal.stderr(),
      )
    self._shown |= {k: terminal.as_text(v) for k, v in shown.items()}
    self._bar.set_postfix(self._shown, refresh=False)
    self._bar.update(done - self._bar.n)

  def _show_line(self):
    if self._unshown:
      self._print(self._unshown)
      self._unshown, self._shown_at = None, time.monotonic()

  def _print(self, text):
    try:
      print(text, flush=True)
    except BrokenPipeError:  # `| head` must not end a run of days.
      self.quiet = True
      sys.stdout = open(os.devnull, "w")

  def __exit__(self, *unused):
    self._show_line()
    if self._bar is not None:
      self._bar.close()


def command(*verb, keep=(), of=None, options=None, overrides=None):
  """A command to paste: the one that was typed, or another verb, changed.

  Args:
    *verb: Words of the other verb; none: the command that was typed.
    keep: Options that the other verb has, too, of what was typed.
    of: Or of this command, such as the one that made a study.
    options: Option -> its new value, as `commands.changed` takes them.
    overrides: Config key -> its new value.
  """
  words = commands.typed()
  if verb:
    kept = commands.kept(of or words, keep)
    words = [*commands.program(words), *map(str, verb), *kept]
  words = commands.changed(words, options or {}, overrides or {})
  if "file" in (commands.launch() or {}):  # It starts no other command.
    return f"arguments = {json.dumps(words[1:], ensure_ascii=False)}"
  return commands.line(words)


def show_next(what, command, arguments=None):
  """The command that is likely to come next, and why."""
  where = ""
  launch = commands.launch()
  if launch is not None:
    where = f", in {launch['file']}:" if "file" in launch else ""
  elif one_of_several(arguments):
    where = ", on every host"
    if arguments.process_id is not None:
      where += " with its own --process_id"
  print(f"next: {what}{where}\n  {command}")


def sentence(error):
  """What an error says, in one line that can be read."""
  text = " ".join(str(error).splitlines())
  if len(text) <= _LONGEST:
    return text
  # What is allowed, and what to do, comes last.
  return f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


def as_table(heads, rows):
  """Columns side by side, all but the first to the right."""
  rows = [
    ["-" if c is None or c != c else short(c) for c in row] for row in rows
  ]
  widths = [max(map(len, column)) for column in zip(heads, *rows, strict=True)]
  return "\n".join(
    "  ".join(
      f"{cell:{'>' if place else '<'}{width}}"
      for place, (cell, width) in enumerate(zip(row, widths, strict=True))
    ).rstrip()
    for row in (heads, *rows)
  )


def short(value):
  """A value on one line: it may be somebody else's text."""
  if isinstance(value, float):
    return f"{value:.4g}"
  return str(value).replace("\n", "\\n")
