"""Checks a JobSet against a part of its published schema, written by hand.

Not the schema itself, which describes all of a pod, but the fields that
launch/gke.py uses or might mistake: of JobSet v1alpha2 (kubernetes-sigs/jobset,
api/jobset/v1alpha2/jobset_types.go), of Job v1 and of pods, with their types,
their choices, and rules of the API server that their documentation states. What
is not here is refused: it was not looked up.
"""

import re

_NAME = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def _one_of(*choices):
  return lambda value: value in choices


def _name(value):
  return isinstance(value, str) and _NAME.fullmatch(value) and len(value) < 64


def _rule_name(value):
  return re.fullmatch(r"[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?", value)


def _variable(value):
  return re.fullmatch(r"[-._a-zA-Z][-._a-zA-Z0-9]*", value)


def _texts(value):
  return isinstance(value, list) and all(isinstance(v, str) for v in value)


def _codes(value):
  """Sorted, without repetition, and without success."""
  return value == sorted(set(value)) and 0 not in value


# Field -> its check: a type, a function, a dict (an object), a list (of these).
# "*" before a name: required.
_CONTAINER = {
  "*name": _name,
  "*image": str,
  "command": _texts,
  "env": [{"*name": _variable, "*value": str}],
  "resources": {"limits": dict, "requests": dict},
  "volumeMounts": [{"*name": _name, "*mountPath": str}],
}
_POD = {
  # Job v1: with a pod failure policy, nothing but Never.
  "*restartPolicy": _one_of("Never"),
  "*containers": [_CONTAINER],
  "terminationGracePeriodSeconds": int,
  "nodeSelector": dict,
  "serviceAccountName": str,
  "volumes": [{"*name": _name, "persistentVolumeClaim": {"*claimName": _name}}],
}
_JOB = {
  "completionMode": _one_of("Indexed", "NonIndexed"),
  "completions": int,
  "parallelism": int,
  "backoffLimit": int,
  "backoffLimitPerIndex": int,
  "podFailurePolicy": {
    "*rules": [
      {
        "*action": _one_of("FailJob", "FailIndex", "Ignore", "Count"),
        "onExitCodes": {
          "containerName": _name,
          "*operator": _one_of("In", "NotIn"),
          "*values": _codes,
        },
        "onPodConditions": [
          {"*type": str, "*status": _one_of("True", "False", "Unknown")}
        ],
      }
    ]
  },
  "*template": {"*spec": _POD},
}
_JOBSET = {
  "*apiVersion": _one_of("jobset.x-k8s.io/v1alpha2"),
  "*kind": _one_of("JobSet"),
  "*metadata": {"*name": _name, "namespace": _name, "annotations": dict},
  "*spec": {
    "network": {"enableDNSHostnames": bool},
    "failurePolicy": {
      "maxRestarts": int,
      "rules": [
        {
          "*name": _rule_name,
          "*action": _one_of(
            "FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"
          ),
          "onJobFailureReasons": _texts,
        }
      ],
    },
    "*replicatedJobs": [
      {"*name": _name, "replicas": int, "*template": {"*spec": _JOB}}
    ],
  },
}


def check(manifest):
  """Raises AssertionError, with the place, where it is not so."""
  _check(manifest, _JOBSET, "")
  for replicated in manifest["spec"]["replicatedJobs"]:
    job = replicated["template"]["spec"]
    # The longest name that comes of it has to be a label of DNS.
    pod = f"{manifest['metadata']['name']}-{replicated['name']}-00-0000"
    assert len(pod) < 64, pod
    pod = job["template"]["spec"]
    names = {container["name"] for container in pod["containers"]}
    for rule in job["podFailurePolicy"]["rules"]:
      kinds = {"onExitCodes", "onPodConditions"} & rule.keys()
      assert len(kinds) == 1, "a rule has one of the two"
      assert rule.get("onExitCodes", {}).get("containerName") in (None, *names)
    if "backoffLimitPerIndex" in job:
      assert job["completionMode"] == "Indexed"
    volumes = {volume["name"] for volume in pod.get("volumes", [])}
    for container in pod["containers"]:
      for mount in container.get("volumeMounts", []):
        assert mount["name"] in volumes
      # Extended resources cannot be overcommitted.
      resources = container["resources"]
      assert resources["limits"] == resources["requests"]


def _check(value, what, where):
  if isinstance(what, dict):
    assert isinstance(value, dict), where
    known = {name.lstrip("*"): part for name, part in what.items()}
    for name, item in value.items():
      assert name in known, f"{where}.{name} is not in the schema"
      _check(item, known[name], f"{where}.{name}")
    for name in what:
      if name.startswith("*"):
        assert name[1:] in value, f"{where}{name} is missing"
  elif isinstance(what, list):
    assert isinstance(value, list) and value, where
    for index, item in enumerate(value):
      _check(item, what[0], f"{where}[{index}]")
  elif isinstance(what, type):
    assert type(value) is what, f"{where} is {value!r}"
  else:
    assert what(value), f"{where} is {value!r}"
