"""Submits a job to Slurm: over several nodes, or as an array of trials.

    python launch/slurm.py launch/example.toml --dry_run    # the batch script
    python launch/slurm.py launch/example.toml

With `array`, each element runs one trial of a study; the elements need no
coordinator, since a trial is a function of its number. A job that receives a
signal to stop (before its time limit, or at a preemption) saves, exits with 75
and is requeued, as is a job that was killed; the same command then resumes it.
`RUN/status.json` holds the final status.
"""

import re
import shlex
import subprocess
import sys

import job as job_lib

KEYS = {
  "time": job_lib.Key(str),  # time limit, in the format of sbatch
  "nodes": job_lib.Key(int, 1, least=1),
  "tasks_per_node": job_lib.Key(int, 1, least=1),
  "gpus_per_node": job_lib.Key(int, 0),
  "cpus_per_task": job_lib.Key(int, 0),
  "memory": job_lib.Key(str, ""),  # per node
  "partition": job_lib.Key(str, ""),
  "account": job_lib.Key(str, ""),
  "array": job_lib.Key(str, ""),  # trials of a study, such as "0-63%8"
  "grace_seconds": job_lib.Key(
    int, 120, least=1
  ),  # from the signal to the limit
  "max_restarts": job_lib.Key(int, 3),  # after the job was killed
  # Shell lines before jaxplay starts.
  "setup": job_lib.Key(str, "", is_script=True),
  "sbatch_flags": job_lib.Key(list, ()),  # other flags
}

# The script of each rank, with the command as "$@". Slurm signals the shell as
# well, which has to outlive jaxplay while that saves. A rank that was stopped
# reports success, and rank 0 leaves a note, because with any other code
# --kill-on-bad-exit kills the ranks that still save.
_RANK = """
trap : TERM INT
"$@" %s
code=$?
[ $code = 75 ] || exit $code
[ "$SLURM_PROCID" = 0 ] && echo 75 >"$JAXPLAY_NOTE"
exit 0
"""
_RANK_NUMBER = '--num_processes="$SLURM_NTASKS" --process_id="$SLURM_PROCID"'

_FREE_PORT = (
  "import socket; s = socket.socket(); s.bind(('', 0));"
  " print(s.getsockname()[1])"
)

# This script runs on the first node, as rank 0 does. Node names may not
# resolve, so this uses the address that Slurm has for the node; and the port
# that JAX derives from the job's number may be in use by another job.
_COORDINATOR = f"""
host=$(scontrol show node "$SLURMD_NODENAME" |
  sed -n 's/.*NodeAddr=\\([^ ]*\\).*/\\1/p')
port=$(python3 -c "{_FREE_PORT}")
command+=("--coordinator=$host:$port")
"""

_END = """
export JAXPLAY_NOTE=$(mktemp)
srun --kill-on-bad-exit=1 bash -c "$rank" rank "${command[@]}"
code=$?
[ $code = 0 ] && [ -s "$JAXPLAY_NOTE" ] && code=75
rm -f "$JAXPLAY_NOTE"

# 75: saved, to be resumed. 128 and more: killed, perhaps with its node.
restarts=${SLURM_RESTART_COUNT:-0}
if [ $code = 75 ] || { [ $code -ge 128 ] && [ $restarts -lt %d ]; }; then
  echo "launch: exit code $code after $restarts restarts; requeued"
  # Without the element, the number of an array means all of it.
  scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}\\
${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"
fi
exit $code
"""


def main():
  return job_lib.main(__doc__, "slurm", KEYS, launch, check=check)


def check(job):
  """Checks combinations of keys."""
  place = job.place
  if place.array:
    if not re.fullmatch(r"\d+(-\d+)?(,\d+(-\d+)?)*(%[1-9]\d*)?", place.array):
      raise job_lib.Mistake(
        f"[slurm] array is {place.array!r}; it must be trials, such as '0-63',"
        " or '0-63%8' for at most 8 in parallel"
      )
    job_lib.check_trials(job, "[slurm] array")


def launch(job, options):
  text = script(job)
  if options.dry_run:
    print(text, end="")
    return 0
  job_lib.need("sbatch", "start this on a login node of the cluster")
  place = job.place
  each = f", for each of trials {place.array}" if place.array else ""
  job_lib.ask(
    f"Submit {job.name!r}: {place.nodes} node(s) for {place.time}{each}?",
    options.yes,
  )
  done = subprocess.run(
    ["sbatch", "--parsable"],
    input=text,
    encoding="utf-8",
    stdout=subprocess.PIPE,
  )
  if done.returncode:
    return job_lib.EXIT_FAILED  # sbatch has printed the reason.
  number = done.stdout.strip().partition(";")[0]
  print(f"submitted job {number}; its log: {_log(job).replace('%j', number)}")
  print(f"status: squeue --job={number}; to stop it: scancel {number}")
  return 0


def script(job):
  """The batch script."""
  place = job.place
  several = place.nodes * place.tasks_per_node > 1
  header = {
    "job-name": job.name,
    "output": _log(job),
    "open-mode": "append",  # a restart appends to the log
    "nodes": place.nodes,
    "ntasks-per-node": place.tasks_per_node,
    "gpus-per-node": place.gpus_per_node,
    "cpus-per-task": place.cpus_per_task,
    "mem": place.memory,
    "time": place.time,
    "partition": place.partition,
    "account": place.account,
    "array": place.array,
    # To the ranks, not to this script: they save and exit with 75.
    "signal": f"TERM@{place.grace_seconds}",
  }
  lines = ["#!/bin/bash"]
  lines += [
    # sbatch splits these lines like a shell.
    f"#SBATCH --{name}={shlex.quote(str(value))}"
    for name, value in header.items()
    if value
  ]
  lines += ["#SBATCH --requeue"]
  lines += [f"#SBATCH {flag}" for flag in place.sbatch_flags]
  lines += ["", *place.setup.strip().splitlines()]
  launched = shlex.quote(job_lib.launched(job.arguments, file=job.file))
  lines += [f"export {job_lib.LAUNCH}={launched}"]
  lines += [f"command=({shlex.join(['jaxplay', *job.arguments])})"]
  if place.array:
    lines += ['command+=("--trials=$SLURM_ARRAY_TASK_ID")']
  if several:
    lines += _COORDINATOR.strip().splitlines()
  rank = _RANK % (_RANK_NUMBER if several else "")
  lines += [f"rank={shlex.quote(rank)}"]
  return "\n".join(lines) + _END % place.max_restarts


def _log(job):
  return f"{job.name}-%A_%a.log" if job.place.array else f"{job.name}-%j.log"


if __name__ == "__main__":
  sys.exit(main())
