"""The devices that this process computes on, and how JAX begins.

JAX takes its settings before it first looks for devices. So they are kept
here by `use_devices`, and applied by what first trains or compiles.
"""

import dataclasses
import glob
import os
import pathlib
import socket
import sys
import threading
import time
from typing import Annotated

import jaxplay
from jaxplay import formats
from jaxplay.api import arguments

EXIT_FAILED, EXIT_PREEMPTED = 1, 75

# Started on one host of several, a job reports within a minute that others are
# missing, Python's own start included.
WAIT_SECONDS = 45

# After a SIGTERM to one of its hosts a job saves and ends, at a step that they
# agree on; if it has not after so long, it is stuck, and ends without.
STOP_SECONDS = 300


@dataclasses.dataclass(frozen=True)
class Devices:
  """Devices and processes to compute on.

  Attributes:
    fake_devices: emulate N devices on the CPU
    distributed: one of several processes, which JAX detects (TPU pod, Slurm,
      ...)
    coordinator: with several processes: address of process 0
    num_processes: number of processes
    process_id: index of this process
    wait_seconds: with several processes: seconds to wait for all of them

  Examples:
    >>> import jaxplay as jp
    >>> devices = jp.Devices(fake_devices=8)
  """

  fake_devices: arguments.Devices | None = None
  distributed: bool = False
  coordinator: arguments.Address | None = None
  num_processes: arguments.Count | None = None
  process_id: arguments.Index | None = None
  wait_seconds: Annotated[int, arguments.integer(1, 1_000_000, metavar="S")] = (
    WAIT_SECONDS
  )

  @property
  def are_several(self) -> bool:
    """Whether this process is one of several."""
    return self.distributed or self.coordinator is not None

  def check(self) -> None:
    """Checks that the processes are described completely.

    Raises:
      jaxplay.UserError: Of coordinator, num_processes and process_id one is
        missing, or process_id is too large.
    """
    given = dataclasses.asdict(self)
    names = ("coordinator", "num_processes", "process_id")
    missing = [f"--{name}" for name in names if given[name] is None]
    if len(missing) == len(names):
      return
    if missing:
      first = next(name for name in names if given[name] is not None)
      raise jaxplay.UserError(
        f"--{first}={given[first]} also requires {' and '.join(missing)}"
      )
    if given["process_id"] >= given["num_processes"]:
      raise jaxplay.UserError(
        f"expected a --process_id below --num_processes={self.num_processes},"
        f" got {self.process_id}"
      )


_devices = Devices()
_has_begun = False


def use_devices(
  *,
  fake_devices: arguments.Devices | None = None,
  distributed: bool = False,
  coordinator: arguments.Address | None = None,
  num_processes: arguments.Count | None = None,
  process_id: arguments.Index | None = None,
  wait_seconds: Annotated[
    int, arguments.integer(1, 1_000_000, metavar="S")
  ] = WAIT_SECONDS,
) -> None:
  """Sets the devices to compute on; call it before anything trains.

  Args:
    fake_devices: Number of devices to emulate on the CPU.
    distributed: Whether this is one of several processes that JAX detects by
      itself (TPU pod, Slurm).
    coordinator: HOST:PORT of process 0, if JAX cannot detect it.
    num_processes: Number of processes.
    process_id: Index of this process.
    wait_seconds: Seconds to wait for all processes.

  Raises:
    jaxplay.UserError: The processes are not described completely, or JAX has
      already started with another number of devices.

  Examples:
    >>> import jaxplay as jp
    >>> jp.use_devices(fake_devices=8)
    >>> jp.use_devices()  # those of this machine
  """
  given = dict(locals())
  arguments.checked(use_devices, given)
  configure(Devices(**given))
  if fake_devices is not None and "jax" in sys.modules:
    start()  # So that it is refused here if JAX has already started.


def configure(devices: Devices) -> None:
  """As `use_devices`; forgets whether JAX has begun."""
  global _devices, _has_begun
  devices.check()
  _devices, _has_begun = devices, False


def current() -> Devices:
  """The devices that were set."""
  return _devices


# Where there is no TPU, the library libtpu would look for one in the network,
# and print all that it misses. What the user has set comes first.
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


def start(*, cores_as_devices: bool = False) -> None:
  """Starts JAX on the devices that were set, once.

  Args:
    cores_as_devices: Whether each core of a CPU is a device of its own.
  """
  global _has_begun
  if _has_begun:
    return
  _has_begun = True
  quiet_without_tpu()

  import jax

  if cores_as_devices and not _devices.are_several:
    _set_cpu_devices(len(os.sched_getaffinity(0)), is_required=False)
  if _devices.fake_devices is not None:
    jax.config.update("jax_platforms", "cpu")
    _set_cpu_devices(_devices.fake_devices, is_required=True)
  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    cache = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    jax.config.update(
      "jax_compilation_cache_dir", str(pathlib.Path(cache) / "jaxplay" / "xla")
    )
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
  if _devices.are_several:
    _join(_devices)


def _set_cpu_devices(number, *, is_required):
  """Sets the number of CPU devices, unless JAX has begun in this process."""
  import jax

  try:
    jax.config.update("jax_num_cpu_devices", number)
  except RuntimeError:
    if is_required and jax.device_count() != number:
      raise jaxplay.UserError(
        f"fake_devices={number} comes too late: JAX has already started with"
        f" {formats.count(jax.device_count(), 'device')}; call"
        " jaxplay.use_devices first, or restart Python"
      ) from None


def start_to_compile() -> None:
  """Starts JAX for TPUs that are not here: compiles, and runs nothing."""
  quiet_without_tpu()

  import jax

  jax.config.update("jax_platforms", "cpu")


def has_joined() -> bool:
  """Whether JAX has begun here as one of several processes."""
  return _devices.are_several and _has_begun


def is_first() -> bool:
  """Whether this process writes and prints for all processes of its job."""
  if not _devices.are_several:
    return True
  start()

  import jax

  return jax.process_index() == 0


def _join(devices):
  """Becomes one of the processes of a job, once all of them are there."""
  import jax

  address = devices.coordinator
  process = (devices.num_processes, devices.process_id)
  # Process 0 first, while the others can still be counted.
  seconds = devices.wait_seconds + (3 if devices.process_id else 0)
  late = threading.Timer(seconds, _end_if_alone, [seconds])
  late.daemon = True
  late.start()
  try:
    jax.distributed.initialize(
      address,
      *process,
      # What is given is not to be detected: within Slurm, JAX would also give
      # each process only the GPU of its local number, one of a node's eight.
      cluster_detection_method=None if address is None else "deactivate",
      # Past its time JAX aborts the process; `late` reports before that.
      initialization_timeout=devices.wait_seconds + 60,
      # A host that dies ends the others within this time.
      heartbeat_timeout_seconds=30,
    )
  except ValueError as error:
    if address is None:
      raise jaxplay.UserError(
        "--distributed detects no other processes: this is neither a TPU pod"
        " nor a Slurm step; name them by --coordinator, --num_processes and"
        " --process_id"
      ) from None
    raise jaxplay.UserError(
      f"could not initialize jax.distributed: {error}"
    ) from None
  finally:
    late.cancel()
  threading.Thread(target=_end_if_stuck, daemon=True).start()


def _end_if_stuck():
  """Ends a process of a job that was asked to stop, and does not.

  From a thread: what waits for another host sees no signal. JAX's own handler
  sets this key for all hosts.
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
      continue  # No host was, so far.
    except AttributeError:
      return  # The job has ended.
    break
  time.sleep(STOP_SECONDS)
  print(
    f"jaxplay: {STOP_SECONDS} s after a signal to stop, this process still"
    " waits for another; it ends without saving, and the same command"
    " resumes from the newest checkpoint",
    file=sys.stderr,
    flush=True,
  )
  os._exit(EXIT_PREEMPTED)


def _end_if_alone(seconds):
  """Ends this process and reports which processes are missing.

  From a thread, while JAX waits: it prints nothing, then aborts the process.
  """
  # JAX has no public name for what it detected.
  from jax._src import distributed

  state = distributed.global_state
  address, number = state.coordinator_address, state.process_id
  total = state.num_processes
  if address is None:
    what = f"found no other processes of the job within {seconds} s"
  elif number == 0:
    number_here = _connected(address)
    count = "not all" if number_here is None else f"only {number_here}"
    what = (
      f"{count} of {total} processes connected to {address} within {seconds} s"
    )
  else:
    answer = "waits as well" if _answers(address) else "does not answer"
    what = (
      f"process {number} of {total} waited {seconds} s for the others;"
      f" process 0, at {address}, {answer}"
    )
  print(
    f"jaxplay: {what}; start the same command on every host",
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
  """How many processes are connected to this one; None: not known here.

  JAX's service does not report it. Linux lists each connection by its own port.
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


def describe(error: Exception) -> str:
  """A sentence on an error of the devices, or of the other hosts."""
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
      f"the job failed, most likely because another host is gone ({text});"
      " start it again to resume from the newest checkpoint"
    )
  return f"the run failed on the device: {text}"
