"""A drill on a small cluster of three nodes: one of two training nodes gets a preemption notice and goes.

python -m tests.cluster.node_loss FOLDER trains in FOLDER/elastic and prints what happened as one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "10",
    "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
    "OMP_NUM_THREADS": "1",
}
NOTICE_S = 25


def checkpoints(folder: Path) -> list[Path]:
    return sorted((folder / "train").glob("checkpoint_*"))


def wait_for(what, seconds: float = 120.0):
    deadline = time.time() + seconds
    while not (found := what()):
        assert time.time() < deadline, "waited in vain"
        time.sleep(0.1)
    return found


def main(folder: Path) -> None:
    os.environ.update(QUIET)
    import ray
    from ray.cluster_utils import Cluster
    from upath import UPath

    from pipeline.training.group import train_group
    from preprocessing.lock import OwnedLock
    from tests.tiny import make_tiny
    from tests.traced import traced_loop

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 200 * 2**20})
    nodes = [cluster.add_node(num_cpus=1, object_store_memory=200 * 2**20) for _ in range(2)]
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False)
    tiny = make_tiny(folder / "tiny")
    fields = {"pretrain__epochs": 400, "pretrain__checkpoint_every": 400, "pretrain__probe_every": 0}
    task = tiny.task(folder / "elastic", resources__workers=1, resources__max_workers=2, **fields)
    failures: list[BaseException] = []

    def train() -> None:
        try:
            with OwnedLock(str(folder / "owner.json"), "the drill") as lock:
                train_group(traced_loop, task, UPath(task.folder), task.config.resources, 2, lock.file, lock.token)
        except BaseException as error:  # noqa: BLE001  told by the main thread
            failures.append(error)

    thread = threading.Thread(target=train)
    thread.start()
    history = folder / "elastic" / "history.jsonl"
    wait_for(lambda: failures or (history.exists() and len(history.read_text().splitlines()) >= 3))
    before = checkpoints(folder / "elastic")
    noticed = time.time()
    words = ["--address", cluster.address, "--node-id", nodes[1].node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION"]
    words += ["--reason-message", "a drill", "--deadline-remaining-seconds", str(NOTICE_S)]
    subprocess.run([Path(sys.executable).parent / "ray", "drain-node", *words], check=True, capture_output=True)
    wait_for(lambda: failures or len(checkpoints(folder / "elastic")) > len(before), NOTICE_S)
    saved = time.time() - noticed
    cluster.remove_node(nodes[1], allow_graceful=True)
    wait_for(lambda: failures or list((folder / "elastic").glob("trace-1-*")), 180)
    alone = time.time() - noticed
    thread.join()
    ray.shutdown()
    cluster.shutdown()
    print(json.dumps({"checkpoint_s": saved, "goes_on_s": alone, "failures": [repr(error) for error in failures]}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
