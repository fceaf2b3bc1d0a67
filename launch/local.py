"""Runs a real multi-process `jax.distributed` job on this machine.

    python launch/local.py --processes 2 --devices 4 -- train --config=... ...
    python launch/local.py launch/example.toml

Each process is a `jaxplay` with its own emulated CPU devices, like a host of a
pod; its output lines are prefixed by the number of the process. Ctrl-C and
SIGTERM are forwarded, so that the job saves and can resume. When a process
fails, the others are ended. The exit code is that of the first process that
failed, or 0.
"""

import os
import shlex
import signal
import socket
import subprocess
import sys
import threading

import job as job_lib

KEYS = {
  "processes": job_lib.Key(int, 2, least=1, most=256),
  "devices": job_lib.Key(int, 1, least=1, most=4096),  # of each process
}

# Time for a process that lost a peer to report it and exit.
GRACE_SECONDS = 40


def main():
  parser = job_lib.Parser(
    description=__doc__.split("\n")[0],
    usage="%(prog)s [--dry_run] FILE.toml |"
    " [--processes P] [--devices D] -- VERB [ARGUMENT ...]",
  )
  parser.add_argument("--processes", type=int, metavar="P")
  parser.add_argument(
    "--devices", type=int, metavar="D", help="devices per process"
  )
  parser.add_argument(
    "--dry_run", action="store_true", help="print the commands, and stop"
  )
  parser.add_argument(
    "arguments", nargs="+", help="a launch file, or the arguments of jaxplay"
  )
  return job_lib.reported(lambda: launch(parser.parse_args()))


def launch(options):
  arguments, from_file = options.arguments, {}
  if arguments[0].endswith(".toml"):
    if arguments[1:]:
      raise job_lib.Mistake(
        f"{arguments[1]!r} is one argument too many: {arguments[0]} holds the"
        " arguments of jaxplay"
      )
    job = job_lib.read(arguments[0], "local", KEYS)
    arguments, from_file = list(job.arguments), vars(job.place)
  numbers = []
  for name, key in KEYS.items():
    number = vars(options)[name]
    if number is None:
      number = from_file.get(name, key.default)
    job_lib.check_number(f"--{name}", number, key)
    numbers.append(number)
  if options.dry_run:
    for command in commands(arguments, *numbers):
      print(shlex.join(command), "&")
    print("wait")
    return 0
  return run(arguments, *numbers)


def commands(arguments, num_processes, devices):
  """The command of each process."""
  coordinator = f"localhost:{_free_port()}"
  return [
    [
      *(sys.executable, "-m", "jaxplay.cli", *arguments),
      f"--fake_devices={devices}",
      f"--coordinator={coordinator}",
      f"--num_processes={num_processes}",
      f"--process_id={process_id}",
    ]
    for process_id in range(num_processes)
  ]


def run(arguments, num_processes, devices):
  """Runs `jaxplay ARGUMENTS` as one job; returns its exit code."""
  program = [sys.executable, sys.argv[0]]
  program += [f"--processes={num_processes}", f"--devices={devices}", "--"]
  launched = job_lib.launched(arguments, program=program)
  # Closed when this process ends, even if killed: then they save, and exit.
  lifeline, _held = os.pipe()
  processes = [
    subprocess.Popen(
      command,
      env=os.environ
      | {job_lib.LAUNCH: launched, "JAXPLAY_LIFELINE": str(lifeline)},
      pass_fds=[lifeline],
      stdout=subprocess.PIPE,
      stderr=subprocess.STDOUT,
      text=True,
      errors="replace",
      start_new_session=True,  # Only this process forwards Ctrl-C.
    )
    for command in commands(arguments, num_processes, devices)
  ]
  printers = [
    threading.Thread(target=_print_lines, args=(i, process))
    for i, process in enumerate(processes)
  ]
  for printer in printers:
    printer.start()
  for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda *_: _signal_all(processes))

  ended = threading.Condition()
  order = []

  def watch(index):
    code = processes[index].wait()
    with ended:
      order.append((index, code))
      ended.notify()

  watchers = [
    threading.Thread(target=watch, args=(i,)) for i in range(num_processes)
  ]
  for watcher in watchers:
    watcher.start()
  with ended:
    ended.wait_for(lambda: len(order) == num_processes or _failed(order))
    if len(order) < num_processes:
      index, code = _failed(order)[0]
      print(f"[launch] process {index} ended with code {code}", flush=True)
      ended.wait_for(lambda: len(order) == num_processes, GRACE_SECONDS)
  for index, process in enumerate(processes):
    if process.poll() is None:
      print(f"[launch] ending process {index}, which hangs", flush=True)
      process.kill()
  for thread in watchers + printers:
    thread.join()
  failed = _failed(order)
  code = failed[0][1] if failed else 0
  return 128 - code if code < 0 else code


def _failed(order):
  return [(index, code) for index, code in order if code != 0]


def _signal_all(processes):
  for process in processes:
    if process.poll() is None:
      process.terminate()


def _print_lines(index, process):
  for line in process.stdout:
    print(f"[{index}] {line}", end="", flush=True)


def _free_port():
  with socket.socket() as listener:
    listener.bind(("localhost", 0))
    return listener.getsockname()[1]


if __name__ == "__main__":
  sys.exit(main())
