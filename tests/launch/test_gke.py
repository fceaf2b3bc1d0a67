"""Manifests for GKE: what they say, and whether they are JobSets at all."""

import json

import pytest

from tests.launch import jobset, launches

_TPU = {"image": "i", "accelerator": "tpu-v5-lite-podslice", "topology": "4x4"}
_GPU = {"image": "i", "accelerator": "nvidia-l4", "gpus": 8}
_TRAIN = ["train", "--config=c", "--workdir=/runs/a b"]
_STUDY = ["study", "run", "s.py", "--workdir=/runs/s"]


def _manifest(folder, arguments=_TRAIN, **table):
  path = launches.write(folder, "job", arguments, gke=table)
  out, _ = launches.launch("gke.py", path, "--dry_run")
  manifest = json.loads(out)
  jobset.check(manifest)
  return manifest


def _parts(manifest):
  """(the replicated job, its job, its pod, its container)."""
  replicated = manifest["spec"]["replicatedJobs"][0]
  job = replicated["template"]["spec"]
  pod = job["template"]["spec"]
  return replicated, job, pod, pod["containers"][0]


@pytest.mark.parametrize(
  ("table", "arguments"),
  [
    (_TPU, _TRAIN),
    (_TPU | {"slices": 2, "spot": True, "service_account": "me"}, _TRAIN),
    (_TPU | {"topology": "2x2x4", "claim": "runs", "mount": "/r"}, _TRAIN),
    (_TPU | {"topology": "2x2", "trials": 64, "parallel": 8}, _STUDY),
    (_GPU | {"nodes": 4}, _TRAIN),
    (_GPU, _TRAIN),
    (_GPU | {"trials": 3, "parallel": 9}, _STUDY),
  ],
)
def test_manifests_have_the_form_of_a_jobset(tmp_path, table, arguments):
  """M: what the API server checks of the fields that we use."""
  _manifest(tmp_path, arguments, **table)


def test_every_node_of_every_slice_is_a_process(tmp_path):
  """M1: 2 slices of 4x4 chips, 4 to a node: 2 jobs of 4 pods, one run."""
  manifest = _manifest(tmp_path, **_TPU, slices=2)
  replicated, job, pod, container = _parts(manifest)
  assert replicated["replicas"] == 2
  assert job["parallelism"] == job["completions"] == 4
  assert container["resources"]["limits"] == {"google.com/tpu": 4}
  assert container["command"] == [
    *("jaxplay", *_TRAIN, "--wait_seconds=600", "--distributed")
  ]
  assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
  assert "exclusive-topology" in str(manifest["metadata"]["annotations"])


def test_gpu_nodes_are_told_of_the_first(tmp_path):
  """M1: the coordinator is the pod that is process 0, by its name in DNS."""
  manifest = _manifest(tmp_path, **_GPU, nodes=4)
  replicated, job, pod, container = _parts(manifest)
  assert job["completions"] == 4
  shell, command = container["command"][:3], container["command"][3:]
  assert shell[:2] == ["sh", "-c"]
  assert '--process_id="$JOB_COMPLETION_INDEX"' in shell[2]
  assert f"--coordinator=job-{replicated['name']}-0-0.job:8476" in command
  assert "--num_processes=4" in command
  assert manifest["spec"]["network"]["enableDNSHostnames"] is True


def test_one_node_needs_no_others(tmp_path):
  """M1: a single process is not told to wait for any."""
  for table in (_GPU, _TPU | {"topology": "2x2"}):
    *_, container = _parts(_manifest(tmp_path, **table))
    assert container["command"] == ["jaxplay", *_TRAIN]


def _after(rules, code=None, evicted=False):
  """What a pod failure policy does: the first rule that fits, else Count."""
  for rule in rules:
    codes = rule.get("onExitCodes")
    if codes and code in codes["values"]:
      return rule["action"]
    if evicted and "onPodConditions" in rule:
      return rule["action"]
  return "Count"


def test_an_evicted_run_restarts_as_a_whole_without_counting(tmp_path):
  """G7, M4: eviction and exit code 75; all else counts."""
  manifest = _manifest(tmp_path, **_TPU, max_restarts=5)
  _, job, *_ = _parts(manifest)
  rules = job["podFailurePolicy"]["rules"]
  assert _after(rules, code=75) == "FailJob"
  assert _after(rules, code=143, evicted=True) == "FailJob"
  assert _after(rules, code=1) == "Count" and job["backoffLimit"] == 0
  policy = manifest["spec"]["failurePolicy"]
  assert policy["maxRestarts"] == 5
  (rule,) = policy["rules"]
  # The reason that Kubernetes gives a job that FailJob ended.
  assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
  assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"


def test_trials_restart_each_by_itself(tmp_path):
  """G7: a pod for each trial; eviction and 75 do not count against it."""
  manifest = _manifest(tmp_path, _STUDY, **_GPU, trials=64, parallel=8)
  _, job, _, container = _parts(manifest)
  assert job["completionMode"] == "Indexed"
  assert (job["completions"], job["parallelism"]) == (64, 8)
  assert job["backoffLimitPerIndex"] == 3
  rules = job["podFailurePolicy"]["rules"]
  assert _after(rules, code=75) == _after(rules, 1, evicted=True) == "Ignore"
  assert _after(rules, code=1) == "Count"
  assert _after(rules, code=2) == "FailJob"
  assert container["command"] == [
    *("sh", "-c", 'exec "$@" --trials="$JOB_COMPLETION_INDEX"', "jaxplay"),
    *("jaxplay", *_STUDY),
  ]


def test_the_volume_is_mounted(tmp_path):
  """G7: run directories outlive the pods."""
  *_, pod, container = _parts(
    _manifest(tmp_path, **_GPU, claim="c", mount="/r")
  )
  (mount,), (volume,) = container["volumeMounts"], pod["volumes"]
  assert mount == {"name": volume["name"], "mountPath": "/r"}
  assert volume["persistentVolumeClaim"] == {"claimName": "c"}


def test_the_subset_of_the_schema_refuses_what_is_wrong(tmp_path):
  """Tests: the check is one; a field with a typo or a wrong action fails."""
  for change in (
    lambda m: m["spec"].update(failurePolicies={}),
    lambda m: m["spec"]["failurePolicy"]["rules"][0].update(action="Restart"),
    lambda m: m["spec"]["failurePolicy"]["rules"][0].pop("name"),
    lambda m: _parts(m)[1].update(completions="4"),
    lambda m: _parts(m)[1].pop("template"),
    lambda m: _parts(m)[2].update(restartPolicy="OnFailure"),
  ):
    manifest = _manifest(tmp_path, **_TPU)
    change(manifest)
    with pytest.raises(AssertionError):
      jobset.check(manifest)


def test_the_manifest_goes_to_kubectl_after_a_yes(tmp_path):
  """M: what --dry_run prints is what is applied; asked for first."""
  (tmp_path / "bin").mkdir()
  kubectl = tmp_path / "bin" / "kubectl"
  kubectl.write_text('#!/bin/sh\necho "$@" >words\ncat >applied\n')
  kubectl.chmod(0o755)
  path = launches.write(tmp_path, "job", _TRAIN, gke=_TPU)
  here = {"cwd": tmp_path, "env": {"PATH": f"{tmp_path / 'bin'}:/bin"}}
  _, err = launches.launch("gke.py", path, code=2, **here)
  assert "[y/N]" in err and not (tmp_path / "applied").exists()
  out, _ = launches.launch("gke.py", path, "--yes", **here)
  assert (tmp_path / "words").read_text().split() == ["apply", "-f", "-"]
  manifest = _manifest(tmp_path, **_TPU)
  assert json.loads((tmp_path / "applied").read_text()) == manifest
  assert "kubectl delete jobset --namespace=default job" in out


@pytest.mark.parametrize(
  ("table", "arguments", "sentence"),
  [
    ({"image": "i", "accelerator": "a"}, _TRAIN, "either topology"),
    (_TPU | {"gpus": 1}, _TRAIN, "either topology"),
    (_TPU | {"topology": "4"}, _TRAIN, "'4x4' or '2x2x4'"),
    (_TPU | {"chips_per_node": 3}, _TRAIN, "is not divisible by"),
    (_TPU | {"trials": 4}, _STUDY, "trials take one node each"),
    (_GPU | {"trials": 4}, _TRAIN, "begin with 'study', 'run'"),
    (_GPU | {"trials": 4}, [*_STUDY, "--trials=1"], "leave --trials out"),
  ],
)
def test_mistakes(tmp_path, table, arguments, sentence):
  """M: one sentence, exit code 2."""
  path = launches.write(tmp_path, "job", arguments, gke=table)
  out, err = launches.launch("gke.py", path, "--dry_run", code=2)
  assert sentence in err and len(err.strip().splitlines()) == 1
  assert not out
