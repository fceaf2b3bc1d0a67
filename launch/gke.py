"""Starts a job on Google Kubernetes Engine, as a JobSet on TPU or GPU nodes.

    python launch/gke.py launch/example.toml --dry_run | kubectl diff -f -
    python launch/gke.py launch/example.toml

One run: each node of the slices, or each of the `nodes` GPU nodes, is one
process. An evicted node, or a job that saved and exited with 75, restarts all
of them and does not count as a restart; other failures do. With `trials`: an
indexed job whose pods are trials of a study, each on one node and restarted
separately. The manifest is JSON, which kubectl accepts like YAML. --workdir
must be on the volume `claim`, which all pods share and which outlives them.
"""

import json
import math
import re
import subprocess
import sys

import job as job_lib

KEYS = {
  "image": job_lib.Key(str),  # holds jaxplay and the experiments
  "accelerator": job_lib.Key(str),  # "tpu-v5-lite-podslice", "nvidia-l4"
  "topology": job_lib.Key(str, ""),  # TPU: of a slice, such as "4x4"
  "chips_per_node": job_lib.Key(int, 4, least=1),  # TPU: of the machine type
  "slices": job_lib.Key(int, 1, least=1),  # TPU
  "gpus": job_lib.Key(int, 0),  # of a node
  "nodes": job_lib.Key(int, 1, least=1),  # GPU
  "trials": job_lib.Key(int, 0),  # of a study: one pod for each
  "parallel": job_lib.Key(int, 1, least=1),  # most trials in parallel
  "claim": job_lib.Key(str, ""),  # persistent volume claim, read-write-many
  "mount": job_lib.Key(str, "/runs"),  # where the claim is mounted
  "namespace": job_lib.Key(str, "default"),
  "service_account": job_lib.Key(str, ""),
  "spot": job_lib.Key(bool, False),  # cheaper, but may be evicted
  "grace_seconds": job_lib.Key(int, 120),  # to save after an eviction
  "wait_seconds": job_lib.Key(int, 600, least=1),  # until all pods have started
  "max_restarts": job_lib.Key(int, 3),  # after failures, not evictions
}

CONTAINER = "jaxplay"
_PORT = 8476
_REPLICATED = "hosts"  # the replicated job of the set


def main():
  return job_lib.main(__doc__, "gke", KEYS, launch, check=check)


def check(job):
  """Checks combinations of keys."""
  place = job.place
  if bool(place.topology) == bool(place.gpus):
    raise job_lib.Mistake(
      "[gke] needs either topology, for TPUs, or gpus, for GPUs of a node"
    )
  if place.topology:
    if not re.fullmatch(r"[1-9]\d*(x[1-9]\d*){1,2}", place.topology):
      raise job_lib.Mistake(
        f"[gke] topology is {place.topology!r}; expected numbers of chips, such"
        " as '4x4' or '2x2x4'"
      )
    chips = _chips(place)
    if chips % place.chips_per_node:
      raise job_lib.Mistake(
        f"[gke] a slice of {place.topology} has {chips} chips, which is not"
        f" divisible by chips_per_node {place.chips_per_node}"
      )
  if place.trials:
    job_lib.check_trials(job, "[gke] trials")
    if _hosts(place) * _replicas(place) > 1:
      raise job_lib.Mistake(
        "[gke] trials take one node each, but these settings request"
        f" {_hosts(place) * _replicas(place)}"
      )


def launch(job, options):
  text = json.dumps(manifest(job), indent=2)
  if options.dry_run:
    print(text)
    return 0
  job_lib.need("kubectl", "install it, and configure it for your cluster")
  place = job.place
  pods = place.trials or _hosts(place) * _replicas(place)
  job_lib.ask(
    f"Create the JobSet {job.name!r} of {pods} pod(s) on {place.accelerator}"
    f" nodes in namespace {place.namespace!r}?",
    options.yes,
  )
  if subprocess.run(
    ["kubectl", "apply", "-f", "-"], input=text, encoding="utf-8"
  ).returncode:
    return job_lib.EXIT_FAILED  # kubectl has printed the reason.
  space = f"--namespace={place.namespace}"
  label = f"jobset.sigs.k8s.io/jobset-name={job.name}"
  first = f"{label},batch.kubernetes.io/job-completion-index=0"
  print(f"pods: kubectl get pods {space} --selector={label}")
  print(f"log of the first pod: kubectl logs -f {space} --selector={first}")
  print(f"to stop it: kubectl delete jobset {space} {job.name}")
  return 0


def manifest(job):
  """The JobSet."""
  place = job.place
  rules = [_on("FailJob", exit_codes=[75]), _on("FailJob", disruption=True)]
  # Rules for the reason of a failure. Those for messages, which could end the
  # set at exit code 2, are too new: older clusters drop them.
  failure_policy = {
    "maxRestarts": place.max_restarts,
    "rules": [
      {
        "name": "evictedOrSaved",
        "action": "RestartJobSetAndIgnoreMaxRestarts",
        "onJobFailureReasons": ["PodFailurePolicy"],
      }
    ],
  }
  spec = {
    "completionMode": "Indexed",
    "completions": _hosts(place),
    "parallelism": _hosts(place),
    "backoffLimit": 0,  # One failed pod fails the job.
    "podFailurePolicy": {"rules": rules},
  }
  if place.trials:
    spec |= {
      "completions": place.trials,
      "parallelism": min(place.parallel, place.trials),
      "backoffLimitPerIndex": place.max_restarts,
      "podFailurePolicy": {
        "rules": [
          _on("FailJob", exit_codes=[2]),  # Other trials would fail, too.
          _on("Ignore", exit_codes=[75]),
          _on("Ignore", disruption=True),
        ]
      },
    }
    del spec["backoffLimit"]
    failure_policy = {"maxRestarts": 0}
  spec["template"] = _pod(job)
  metadata = {"name": job.name, "namespace": place.namespace}
  if place.topology and not place.trials:
    # Each job of the set gets its own slice, which is a node pool.
    key = "alpha.jobset.sigs.k8s.io/exclusive-topology"
    metadata["annotations"] = {key: "cloud.google.com/gke-nodepool"}
  return {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": metadata,
    "spec": {
      "network": {"enableDNSHostnames": True},
      "failurePolicy": failure_policy,
      "replicatedJobs": [
        {
          "name": _REPLICATED,
          "replicas": _replicas(place),
          "template": {"spec": spec},
        }
      ],
    },
  }


def _on(action, exit_codes=None, disruption=False):
  if disruption:
    condition = {"type": "DisruptionTarget", "status": "True"}
    return {"action": action, "onPodConditions": [condition]}
  return {
    "action": action,
    "onExitCodes": {
      "containerName": CONTAINER,
      "operator": "In",
      "values": exit_codes,
    },
  }


def _pod(job):
  place = job.place
  if place.topology:
    selector = {
      "cloud.google.com/gke-tpu-accelerator": place.accelerator,
      "cloud.google.com/gke-tpu-topology": place.topology,
    }
    resources = {"google.com/tpu": place.chips_per_node}
  else:
    selector = {"cloud.google.com/gke-accelerator": place.accelerator}
    resources = {"nvidia.com/gpu": place.gpus}
  if place.spot:
    selector["cloud.google.com/gke-spot"] = "true"
  launched = job_lib.launched(job.arguments, file=job.file)
  container = {
    "name": CONTAINER,
    "image": place.image,
    "command": _command(job),
    # Kubernetes expands $(NAME).
    "env": [{"name": job_lib.LAUNCH, "value": launched.replace("$(", "$$(")}],
    "resources": {"limits": resources, "requests": resources},
  }
  spec = {
    "restartPolicy": "Never",  # The policies above restart.
    "terminationGracePeriodSeconds": place.grace_seconds,
    "nodeSelector": selector,
    "containers": [container],
  }
  if place.service_account:
    spec["serviceAccountName"] = place.service_account
  if place.claim:
    container["volumeMounts"] = [{"name": "runs", "mountPath": place.mount}]
    claim = {"claimName": place.claim}
    spec["volumes"] = [{"name": "runs", "persistentVolumeClaim": claim}]
  return {"spec": spec}


def _command(job):
  place = job.place
  command = ["jaxplay", *job.arguments]
  index = None
  if place.trials:
    index = "--trials"
  elif _hosts(place) * _replicas(place) > 1:
    # Pods start with their nodes, minutes apart.
    command += [f"--wait_seconds={place.wait_seconds}"]
    if place.topology:
      command += ["--distributed"]  # GKE connects the pods of a slice.
    else:
      host = f"{job.name}-{_REPLICATED}-0-0.{job.name}"
      command += [
        f"--coordinator={host}:{_PORT}",
        f"--num_processes={place.nodes}",
      ]
      index = "--process_id"
  if index is None:
    return command
  # exec: jaxplay has to receive the signal to stop.
  shell = f'exec "$@" {index}="$JOB_COMPLETION_INDEX"'
  return ["sh", "-c", shell, "jaxplay", *command]


def _chips(place):
  return math.prod(map(int, place.topology.split("x")))


def _hosts(place):
  """Number of nodes of a slice, or of a job with GPUs."""
  if place.topology:
    return _chips(place) // place.chips_per_node
  return place.nodes


def _replicas(place):
  return place.slices if place.topology else 1


if __name__ == "__main__":
  sys.exit(main())
