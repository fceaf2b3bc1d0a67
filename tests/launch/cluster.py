"""A Slurm of two nodes on this machine, on loopback, for one test session.

Debian's packages `slurm-wlm`, `munge` and `slurm-wlm-basic-plugins`, started as
root in a folder of their own, with ports and keys of their own: it does not
touch a Slurm that the machine belongs to.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import time

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")

# cred_expire is also how long a requeued job waits before it starts again: two
# minutes by default. Slurm 22.05 takes 5 seconds, and ignores 3.
_CONF = """
ClusterName=jaxplaytest
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
SlurmctldPort={ports[0]}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmdSpoolDir={folder}/spool-%n
StateSaveLocation={folder}/state
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_min_interval=0,batch_sched_delay=0,sched_interval=1
SlurmdParameters=config_overrides
ReturnToService=2
KillWait=20
MinJobAge=3600
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
  """Why there can be no such Slurm here; empty: there can."""
  lacking = [name for name in PROGRAMS if shutil.which(name) is None]
  if lacking:
    return f"no {', '.join(lacking)} on this machine"
  return "" if os.getuid() == 0 else "only root can start a Slurm"


class Cluster:
  """Starts on entering, and ends what it started on leaving."""

  def __init__(self, folder):
    self.folder, self._daemons = pathlib.Path(folder), []
    self.environment = os.environ | {
      "SLURM_CONF": str(self.folder / "slurm.conf")
    }

  def __enter__(self):
    folder = self.folder
    for name in ("state", "spool-n1", "spool-n2"):
      (folder / name).mkdir(parents=True)
    (folder / "slurm.conf").write_text(
      _CONF.format(folder=folder, host=socket.gethostname(), ports=_ports(3))
    )
    key = folder / "munge.key"
    key.write_bytes(os.urandom(64))
    key.chmod(0o400)
    try:
      # --force: pytest's folders are looser than munge likes.
      files = ("socket", "pid-file", "log-file", "seed-file")
      munge = [f"--{name}={folder / f'munge.{name}'}" for name in files]
      munge[0] = f"--socket={folder / 'munge.socket'}"
      self._start(
        "munged", "--foreground", "--force", f"--key-file={key}", *munge
      )
      until((folder / "munge.socket").exists, 30)
      self._start("slurmctld", "-D")
      for node in ("n1", "n2"):
        self._start("slurmd", "-D", "-N", node)
      until(lambda: self._idle() == "2", 60)
    except BaseException:
      self.__exit__()
      raise
    return self

  def __exit__(self, *unused):
    for daemon in reversed(self._daemons):
      daemon.terminate()
    for daemon in self._daemons:
      try:
        daemon.wait(10)
      except subprocess.TimeoutExpired:
        daemon.kill()
        daemon.wait()

  def run(self, *command, **kwargs):
    """Output of a command that must succeed."""
    done = subprocess.run(
      list(map(str, command)),
      env=self.environment,
      capture_output=True,
      text=True,
      timeout=60,
      **kwargs,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

  def states(self, job):
    """States of a job, or of each element of an array."""
    return self.run(
      *("squeue", "--noheader", "--states=all", "--array"),
      *(f"--job={job}", "--format=%T"),
    ).split()

  def finish(self, job, seconds=150):
    """Waits until a job is at its end; its states."""
    ends = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL"}
    until(lambda: set(self.states(job)) <= ends, seconds)
    return self.states(job)

  def _idle(self):
    done = subprocess.run(
      ["sinfo", "--noheader", "--states=idle", "--format=%D"],
      env=self.environment,
      capture_output=True,
      text=True,
    )
    return done.stdout.strip()

  def _start(self, program, *arguments):
    with open(self.folder / f"{program}.log", "a") as log:
      self._daemons.append(
        subprocess.Popen(
          [program, *arguments],
          env=self.environment,
          stdin=subprocess.DEVNULL,
          stdout=log,
          stderr=subprocess.STDOUT,
          start_new_session=True,
        )
      )


def until(condition, seconds):
  """Waits for what another program does."""
  end = time.monotonic() + seconds
  while not condition():
    assert time.monotonic() < end, f"not so after {seconds} s"
    time.sleep(0.1)


def _ports(number):
  """Free ports, all different."""
  sockets = [socket.socket() for _ in range(number)]
  for one in sockets:
    one.bind(("127.0.0.1", 0))
  ports = [one.getsockname()[1] for one in sockets]
  for one in sockets:
    one.close()
  return ports
