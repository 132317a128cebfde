"""Spot machines in small: a Ray cluster of a head without cores and two nodes of one core, in a process of its own.

A node that was killed is replaced by a new one after a while, as a cloud gives capacity back. The process obeys lines
of JSON on its standard input, [PID of a dead node, seconds], keeps a file up to date that tells where the cluster is,
and takes the cluster down when its input ends, so that nothing outlives a killed harness.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
QUIET = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listeners on 127.0.0.1 only
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.1",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "15",
    "GLOO_SOCKET_IFNAME": "lo",
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": str(ROOT),
}
NODES, STORE = 2, 200 * 2**20
POINTER = Path(tempfile.gettempdir()) / "ray" / "ray_current_cluster"  # what others would join who give no address


def environment() -> dict[str, str]:
    """Of all processes of a trial; nothing of another cluster's."""
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | QUIET


class SpotCluster:
    """The harness's end; use as a context."""

    def __init__(self, folder: Path) -> None:
        self._state, self._log = folder / "cluster.json", folder / "cluster.log"

    def __enter__(self) -> SpotCluster:
        self._state.unlink(missing_ok=True)
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.cluster.spot", str(self._state)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=environment(),
                cwd=ROOT,
                text=True,
                start_new_session=True,
            )
        deadline = time.time() + 120
        while not self._state.exists():
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            assert time.time() < deadline, "the cluster does not start"
            time.sleep(0.1)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        family, address = self.family(), self.address
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(60)
        finally:
            self._process.kill()
            for process in family:  # known by process and start, so that a number used again is not hit
                if process.is_running():
                    process.kill()
            if POINTER.exists() and POINTER.read_text().strip() == address:
                POINTER.unlink()

    @property
    def address(self) -> str:
        return self._told["address"]

    @property
    def raylets(self) -> list[psutil.Process]:
        """The node processes that run workers and are alive."""
        found = [psutil.Process(pid) for pid in self._told["raylets"] if psutil.pid_exists(pid)]
        return [raylet for raylet in found if raylet.status() != psutil.STATUS_ZOMBIE]

    def family(self) -> list[psutil.Process]:
        """All processes of the cluster."""
        return psutil.Process(self._process.pid).children(recursive=True)

    def replace(self, raylet: int, seconds: float) -> None:
        """Give a new node for a dead one, after a while."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([raylet, seconds]) + "\n")
        self._process.stdin.flush()

    @property
    def _told(self) -> dict[str, Any]:
        return json.loads(self._state.read_text())


def main(state: Path) -> None:
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": STORE, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(NODES):
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
        _tell(state, cluster)
        for line in sys.stdin:
            dead, seconds = json.loads(line)
            time.sleep(seconds)
            cluster.remove_node(next(node for node in cluster.worker_nodes if _raylet(node) == dead))
            cluster.add_node(num_cpus=1, object_store_memory=STORE)
            _tell(state, cluster)
    finally:
        cluster.shutdown()


def _tell(state: Path, cluster: Any) -> None:
    part = state.with_suffix(".part")
    raylets = sorted(_raylet(node) for node in cluster.worker_nodes)
    part.write_text(json.dumps({"address": cluster.address, "raylets": raylets}))
    part.replace(state)


def _raylet(node: Any) -> int:
    return node.all_processes["raylet"][0].process.pid


if __name__ == "__main__":
    main(Path(sys.argv[1]))
