"""The shipped cluster files against Ray's own validation, and against what the jobs ask for."""

import copy
from pathlib import Path

import pytest
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from pipeline.config import Config
from pipeline.configuration.resolve import load

ROOT = Path(__file__).parents[1]
FILES = ["ray_cluster.yaml", "ray_cluster_gcp.yaml"]
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))


@pytest.fixture(params=FILES)
def cluster(request):
    return yaml.safe_load((ROOT / request.param).read_text())


def test_ray_accepts_it(cluster):
    validate_config(prepare_config(copy.deepcopy(cluster)))


def test_the_head_trains_nothing_and_workers_start_from_none(cluster):
    types = cluster["available_node_types"]
    assert types[cluster["head_node_type"]]["resources"] == {"CPU": 0}
    workers = [spec for name, spec in types.items() if name != cluster["head_node_type"]]
    assert all(spec["min_workers"] == 0 < spec["max_workers"] for spec in workers)
    assert sum(spec["max_workers"] for spec in workers) <= cluster["max_workers"]


def test_workers_have_a_role_of_their_own(cluster):
    for name, spec in cluster["available_node_types"].items():
        if name != cluster["head_node_type"]:
            assert {"IamInstanceProfile", "serviceAccounts"} & set(spec["node_config"])


def test_gpus_are_spot_machines(cluster):
    text = yaml.safe_dump(cluster["available_node_types"]["gpu"]["node_config"]).lower()
    assert "spot" in text


def test_nothing_listens_for_the_world(cluster):
    start = " ".join(cluster["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    for commands in (cluster["head_start_ray_commands"], cluster["worker_start_ray_commands"]):
        assert any("RAY_AUTH_MODE=token" in line and "RAY_USAGE_STATS_ENABLED=0" in line for line in commands)
    for rule in cluster["provider"].get("security_group", {}).get("IpPermissions", []):
        assert rule["FromPort"] == rule["ToPort"] == 22
        assert all(part["CidrIp"] != "0.0.0.0/0" for part in rule["IpRanges"])


def test_what_is_installed_is_pinned(cluster):
    (command,) = cluster["setup_commands"]
    assert "-c /home/ray/mps-ams/constraints.txt" in command
    version = next(
        line.split("==")[1] for line in (ROOT / "constraints.txt").read_text().splitlines() if line.startswith("ray==")
    )
    assert f":{version}-" in cluster["docker"]["image"]


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("profile", ["small", "full"])
def test_some_machine_offers_what_a_worker_and_a_trial_ask_for(cluster, path, profile):
    config = load(path, [f"profile={profile}", "data.root=s3://bucket/scans"], Config)
    worker, trial = config.resources, config.search
    offers = [spec["resources"] for spec in cluster["available_node_types"].values()]

    def offered(cpus, gpus):
        return any(offer.get("CPU", 0) >= cpus and offer.get("GPU", 0) >= gpus for offer in offers)

    gpu = worker.gpu != "no"
    assert offered(max(1, worker.cpus_per_worker), gpu)
    assert offered(trial.cpus_per_trial, trial.gpus_per_trial * gpu)
