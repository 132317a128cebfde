"""What the machines of the cluster offer, those included that an autoscaler could still start."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import ray

from pipeline.training.precision import ResourceSettings
from preprocessing.errors import RunError


@dataclass(frozen=True)
class Offer:
    """A kind of machine: its cores and GPUs, and how many of it there can be."""

    name: str
    cpus: int
    gpus: int
    machines: int

    def room(self, cpus: int, gpu: bool) -> int:
        """Workers with these cores, and a GPU each, that fit on all machines of this kind."""
        each = self.cpus // cpus
        return self.machines * (min(each, self.gpus) if gpu else each)

    def __str__(self) -> str:
        gpus = f" and {self.gpus} GPU{'s' * (self.gpus > 1)}" if self.gpus else ""
        many = "any number" if self.machines == sys.maxsize else str(self.machines)
        return f"{many} x {self.name} with {self.cpus} cores{gpus}"


def offers() -> list[Offer]:
    """The node types of the autoscaler where there is one, else the machines that are there. Ray must be up."""
    config = ray._private.state.state.get_cluster_config()
    if config is not None and config.node_group_configs:
        return [
            Offer(
                group.name,
                int(group.resources["CPU"]),
                int(group.resources["GPU"]),
                group.max_count if group.max_count >= 0 else sys.maxsize,
            )
            for group in config.node_group_configs
            if group.max_count
        ]
    alive = [node for node in ray.nodes() if node["Alive"]]
    return [
        Offer(node["NodeName"], int(node["Resources"].get("CPU", 0)), int(node["Resources"].get("GPU", 0)), 1)
        for node in alive
    ]


def share(resources: ResourceSettings, found: Sequence[Offer]) -> tuple[int, bool]:
    """Cores, and whether a GPU, for each worker of a group.

    Args:
        resources: as configured; 0 cores: as many as leave room for all workers.
        found: what the cluster offers.

    Raises:
        RunError: not even the least number of workers would ever fit.
    """
    gpu = resources.gpu == "yes" or (resources.gpu == "auto" and any(offer.gpus for offer in found))
    most = max((offer.cpus for offer in found), default=0)
    wanted = [resources.cpus_per_worker] if resources.cpus_per_worker else range(most, 0, -1)
    for workers in (resources.most_workers, resources.workers):
        for cpus in wanted:
            if sum(offer.room(cpus, gpu) for offer in found) >= workers:
                return cpus, gpu
    cpus = resources.cpus_per_worker or 1
    room = sum(offer.room(cpus, gpu) for offer in found)
    each = f"{cpus} core(s){' and a GPU' * gpu}"
    raise RunError(
        f"{resources.workers} training worker(s) with {each} each will never fit: the cluster offers "
        f"{'; '.join(map(str, found)) or 'no machine'}, which is room for {room}. Lower resources.workers or "
        "resources.cpus_per_worker, set resources.gpu=no, or add a node type to the cluster"
    )


def groups_at_once(resources: ResourceSettings) -> int:
    """Groups with these resources that can train side by side on what is there now, at least 1."""
    cpus, gpu = share(resources, offers())
    now = ray.cluster_resources()
    room = min(now.get("CPU", 0) // cpus, now.get("GPU", 0) if gpu else math.inf)
    return max(1, int(room) // resources.workers)
