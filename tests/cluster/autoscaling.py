"""The shipped cluster file on Ray's fake node provider: machines are processes here, everything else is the real thing.

python -m tests.cluster.autoscaling FOLDER -- COMMAND... starts a head without workers, runs the command as its driver,
and prints as one JSON object how many machines there were before, at most, and after a while.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import yaml

from tests.cluster.head import environment, free_port, started

ROOT = Path(__file__).parents[2]
HEAD = "f" * 51 + "00000"  # what the provider calls its head
PROVIDER = {
    "type": "external",
    "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
    "launch_multiple": True,
    "head_node_id": HEAD,
}
CORES, GONE_S = 2, 90


def fake(file: Path, port: int) -> dict:
    """The cluster file with its machines shrunk to processes of this one."""
    cluster = yaml.safe_load(file.read_text())
    types = {}
    for name, spec in cluster["available_node_types"].items():
        head = name == cluster["head_node_type"]
        cores = 0 if head else CORES
        resources = {"CPU": cores, "object_store_memory": 150 * 2**20}
        limits = {"min_workers": 0, "max_workers": 0} if head else {"min_workers": 0, "max_workers": 2}
        types["ray.head.default" if head else name] = {"resources": resources, "node_config": {}, **limits}
        assert spec["resources"]["CPU"] == 0 or not head
    lists = ("setup_commands", "initialization_commands", "head_setup_commands", "worker_setup_commands")
    lists += ("cluster_synced_files", "rsync_exclude", "rsync_filter", "head_start_ray_commands")
    lists += ("worker_start_ray_commands",)
    return {
        "cluster_name": cluster["cluster_name"],
        "max_workers": 2,
        "upscaling_speed": cluster["upscaling_speed"],
        "idle_timeout_minutes": 0.1,
        "provider": PROVIDER | {"gcs_address": f"127.0.0.1:{port}"},
        "auth": {},
        "docker": {},
        "available_node_types": types,
        "head_node_type": "ray.head.default",
        "file_mounts": {},
        **{name: [] for name in lists},
    }


def main(folder: Path, command: list[str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "ray_bootstrap_config.yaml"  # where `ray up` leaves it
    port = free_port()
    file.write_text(json.dumps(fake(ROOT / "ray_cluster.yaml", port)))
    own = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_enable_autoscaler_v2": "1"}
    os.environ.update(environment(folder) | own)
    names = {"RAY_CLOUD_INSTANCE_ID": HEAD, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD}
    words = ["--num-cpus=0", "--include-dashboard=false", "--object-store-memory=200000000"]
    with started(port, [*words, f"--autoscaling-config={file}"], os.environ | names) as head:
        os.environ["RAY_ADDRESS"] = f"127.0.0.1:{port}"  # of the job; the head's own machines must not see it
        told = watch(port, command, head)
    print(json.dumps(told))


def watch(port: int, command: list[str], head: subprocess.Popen) -> dict:
    import ray

    deadline = time.time() + 60
    while socket.socket().connect_ex(("127.0.0.1", port)):
        assert head.poll() is None
        assert time.time() < deadline, "the head did not start"
        time.sleep(0.5)
    ray.init(address=f"127.0.0.1:{port}", log_to_driver=False)

    def machines() -> int:
        return sum(node["Alive"] for node in ray.nodes()) - 1  # the head aside

    told = {"before": machines(), "most": 0}
    job = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr)
    while job.poll() is None:
        told["most"] = max(told["most"], machines())
        time.sleep(0.5)
    ended = time.time()
    while machines() and time.time() - ended < GONE_S:
        time.sleep(0.5)
    told |= {"status": job.returncode, "after": machines(), "gone_s": time.time() - ended}
    ray.shutdown()
    return told


if __name__ == "__main__":
    cut = sys.argv.index("--")
    main(Path(sys.argv[1]), sys.argv[cut + 1 :])
