"""The Kubernetes manifest against the fields of KubeRay's RayJob, and against what the jobs ask for."""

import copy
import shlex
from pathlib import Path

import jsonschema
import pytest
import yaml

from pipeline.config import Config
from pipeline.configuration.resolve import load

ROOT = Path(__file__).parents[1]
SCHEMA = yaml.safe_load((ROOT / "tests" / "kuberay_schema.yaml").read_text())


@pytest.fixture
def job():
    return yaml.safe_load((ROOT / "ray_job_kuberay.yaml").read_text())


def groups(job):
    return {group["groupName"]: group for group in job["spec"]["rayClusterSpec"]["workerGroupSpecs"]}


def container(group):
    (found,) = group["template"]["spec"]["containers"]
    return found


def test_every_field_is_one_of_the_operators(job):
    jsonschema.validate(job, SCHEMA)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda job: job["spec"].update(entryPoint="x"),
        lambda job: groups(job)["gpu"].pop("maxReplicas"),
        lambda job: container(groups(job)["gpu"])["resources"].update(limit={}),
        lambda job: job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].update({"num-cpus": 0}),
    ],
)
def test_the_schema_sees_a_slip_of_the_pen(job, spoil):
    job = copy.deepcopy(job)
    spoil(job)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(job, SCHEMA)


def test_the_entry_point_is_a_valid_command(job):
    python, flag, module, file, *words = shlex.split(job["spec"]["entrypoint"])
    assert (python, flag, module) == ("python", "-m", "jobs.run")
    config = load(ROOT / file, words, Config)
    assert all("://" in path for path in (config.data.root, config.run.dir))


def test_the_head_trains_nothing_and_workers_start_from_none(job):
    assert job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert all(group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"] for group in groups(job).values())


def test_one_pod_offers_what_a_worker_asks_for(job):
    limits = container(groups(job)["gpu"])["resources"]["limits"]
    _, _, _, file, *words = shlex.split(job["spec"]["entrypoint"])
    asked = load(ROOT / file, words, Config).resources
    assert asked.gpu == "yes"  # the operator tells nobody of its groups, so that "auto" would see no GPU yet
    assert int(limits["nvidia.com/gpu"]) >= 1
    assert int(limits["cpu"]) >= asked.cpus_per_worker >= 1


def test_versions_and_packages_are_pinned(job):
    pins = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split() if "==" in line)
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pins["ray"]
    dockerfile = (ROOT / "Dockerfile").read_text()
    assert f"FROM rayproject/ray:{pins['ray']}-py311" in dockerfile
    assert "-c /home/ray/mps-ams/constraints.txt" in dockerfile


def test_nothing_is_open_to_the_world_and_requests_need_a_token(job):
    cluster = job["spec"]["rayClusterSpec"]
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["enableIngress"] is False
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
