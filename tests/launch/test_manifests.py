"""The manifests for Kubernetes and SkyPilot: valid, and restarting what the exit codes ask to restart."""

import json
import re

import jsonschema
import kubernetes_validate
import pytest
import yaml

from tests.launch.programs import LAUNCH
from tests.launch.test_supervise import AGAIN, FINAL

HERE = LAUNCH.parent / "tests" / "launch"
JOBSETS = ("gke-gpu.yaml", "gke-tpu.yaml")
KUBERNETES = "1.32"


def load(name):
  return yaml.safe_load((LAUNCH / name).read_text(encoding="utf-8"))


def job_of(name):
  return load(name)["spec"]["replicatedJobs"][0]["template"]["spec"]


def container_of(name):
  return job_of(name)["template"]["spec"]["containers"][0]


@pytest.mark.parametrize("name", JOBSETS)
def test_jobsets_and_the_jobs_in_them_fit_their_schemas(name):
  jsonschema.validate(load(name), json.loads((HERE / "jobset.schema.json").read_text(encoding="utf-8")))
  job = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, "spec": job_of(name)}
  kubernetes_validate.validate(job, KUBERNETES, strict=True)


def test_the_storage_fits_its_schema():
  for document in yaml.safe_load_all((LAUNCH / "gke-storage.yaml").read_text(encoding="utf-8")):
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_containers_that_touch_no_tpu_have_no_more_powers_than_they_need():
  (pod,) = [
    one for one in yaml.safe_load_all((LAUNCH / "gke-storage.yaml").read_text(encoding="utf-8")) if one["kind"] == "Pod"
  ]
  for container in (*pod["spec"]["containers"], container_of("gke-gpu.yaml")):
    context = container["securityContext"]
    assert context["allowPrivilegeEscalation"] is False and context["capabilities"]["drop"] == ["ALL"]


def action_for(name, code=None, disrupted=False):
  """What JobSet does when a pod ends so: the Job's first rule that matches, then JobSet's, by the Job controller's
  messages (kubernetes/kubernetes, pkg/controller/job/pod_failure_policy.go)."""
  reason, message = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
  for index, rule in enumerate(job_of(name)["podFailurePolicy"]["rules"]):
    if code in rule.get("onExitCodes", {}).get("values", []):
      reason, message = (
        "PodFailurePolicy",
        f"Container bert-jax for pod a/b failed with exit code {code} matching FailJob rule at index {index}",
      )
      break
    if disrupted and "onPodConditions" in rule:
      reason, message = (
        "PodFailurePolicy",
        f"Pod a/b has condition DisruptionTarget matching FailJob rule at index {index}",
      )
      break
  for rule in load(name)["spec"]["failurePolicy"]["rules"]:
    patterns = rule.get("onJobFailureMessagePatterns", [""])
    if reason in rule.get("onJobFailureReasons", [reason]) and any(re.search(pattern, message) for pattern in patterns):
      return rule["action"]


@pytest.mark.parametrize("name", JOBSETS)
def test_final_codes_end_the_jobset_and_all_others_restart_it(name):
  assert {action_for(name, code) for code in FINAL if code} == {"FailJobSet"}
  assert {action_for(name, code) for code in AGAIN if code != 75} == {"RestartJobSet"}
  assert action_for(name, 75) == action_for(name, 137, disrupted=True) == "RestartJobSetAndIgnoreMaxRestarts"
  assert job_of(name)["backoffLimit"] == 0 and job_of(name)["template"]["spec"]["restartPolicy"] == "Never"
  assert job_of(name)["template"]["spec"]["terminationGracePeriodSeconds"] >= 300


@pytest.mark.parametrize("name", JOBSETS)
def test_pods_find_process_0_and_know_how_many_they_are(name):
  spec, job = load(name)["spec"], job_of(name)
  environ = {entry["name"]: entry.get("value") for entry in container_of(name)["env"]}
  host, port = environ["BERT_JAX_COORDINATOR"].split(":")
  assert (
    host == f"{load(name)['metadata']['name']}-{spec['replicatedJobs'][0]['name']}-0-0.{spec['network']['subdomain']}"
  )
  assert int(port) in [entry["containerPort"] for entry in container_of(name)["ports"]]
  assert (
    int(environ["BERT_JAX_NUM_PROCESSES"]) == job["completions"] == job["parallelism"]
    and job["completionMode"] == "Indexed"
  )


@pytest.mark.parametrize("name", ["skypilot-gpu.yaml", "skypilot-tpu.yaml"])
def test_skypilot_restarts_the_same_codes_and_its_commands_run(name, programs):
  task = load(name)
  recovery = task["resources"]["job_recovery"]
  assert recovery["recover_on_exit_codes"] == sorted(AGAIN) and recovery["max_restarts_on_errors"] == 0
  (programs.folder / "launch").symlink_to(LAUNCH)
  (programs.folder / ".venv" / "bin").mkdir(parents=True)
  (programs.folder / ".venv" / "bin" / "python").symlink_to(programs.python)
  nodes = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1", "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2"}
  result = programs.run("bash", "-c", task["run"], STAND_IN_PLAN="[0, 76]", **task["envs"] | nodes)
  assert result.returncode == 76, result.stderr
  seen = programs.calls()[-1]
  assert seen["argv"][2:] == [
    "pretrain",
    "--config=configs/bert_base.py:phase1",
    "--workdir=/mnt/bert_jax/runs/base-128",
    "--config.data.corpus=/mnt/bert_jax/wiki-128",
    "--config.data.cache_dir=/tmp/corpus",
  ]
  if "gpu" in name:
    assert [seen["environ"][f"BERT_JAX_{key}"] for key in ("COORDINATOR", "NUM_PROCESSES", "PROCESS_ID")] == [
      "10.0.0.1:8476",
      "2",
      "1",
    ]
