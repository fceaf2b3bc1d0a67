"""Runs a real multi-process `jax.distributed` job on this machine.

    python launch/local.py --processes 2 --devices 4 -- train --config=... ...

Each process is a `jaxplay` with its own emulated CPU devices, as a host of a
pod is; their lines come out prefixed by the process's number. Ctrl-C and
SIGTERM are passed on, so that the job saves and can resume. When a process
fails, the others are ended: a job is whole or it is nothing. The exit code is
that of the first process that failed, else the job's own.
"""

import argparse
import signal
import socket
import subprocess
import sys
import threading

# What a process that lost a peer gets to say so and leave by itself.
GRACE_SECONDS = 40


def main():
  parser = argparse.ArgumentParser(
    description=__doc__.split("\n")[0],
    usage="%(prog)s [--processes P] [--devices D] -- VERB [ARGUMENT ...]",
  )
  parser.add_argument("--processes", type=int, default=2, metavar="P")
  parser.add_argument(
    "--devices", type=int, default=1, metavar="D", help="devices per process"
  )
  parser.add_argument("arguments", nargs="+", help="what jaxplay is to do")
  options = parser.parse_args()
  if options.processes < 1 or options.devices < 1:
    parser.error("--processes and --devices must be at least 1")
  return run(options.arguments, options.processes, options.devices)


def run(arguments, num_processes, devices):
  """Runs `jaxplay ARGUMENTS` as one job; returns its exit code."""
  coordinator = f"localhost:{_free_port()}"
  processes = []
  for process_id in range(num_processes):
    command = [
      *(sys.executable, "-m", "jaxplay.cli", *arguments),
      f"--fake_devices={devices}",
      f"--coordinator={coordinator}",
      f"--num_processes={num_processes}",
      f"--process_id={process_id}",
    ]
    processes.append(
      subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,  # Ctrl-C reaches them once: from here.
      )
    )
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
