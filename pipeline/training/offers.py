"""What the machines of the cluster offer, those included that an autoscaler could still start."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import yaml

from pipeline.training.precision import ResourceSettings
from preprocessing.errors import RunError

BOOTSTRAP = "~/ray_bootstrap_config.yaml"


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
        return f"{self.machines} x {self.name} with {self.cpus} cores{gpus}"


def offers() -> list[Offer]:
    """The node types of the autoscaler where its configuration is at hand, else the machines that are there.

    `ray up` leaves the configuration on the head, where a submitted job's driver runs. Ray must be up.
    """
    types = _node_types()
    if types:
        return [_offer(name, spec["resources"], spec.get("max_workers", 1)) for name, spec in types.items()]
    return [_offer(node["NodeName"], node["Resources"], 1) for node in ray.nodes() if node["Alive"]]


def demand(resources: ResourceSettings) -> tuple[int, bool]:
    """`share` of what this cluster offers; Ray must be up."""
    return share(resources, offers(), _may_grow())


def check_trial(cpus: int, gpus: float) -> None:
    """That some machine of this cluster has room for a trial, which Ray would otherwise wait for without a word.

    Raises:
        RunError: none has, nor will one.
    """
    found = offers()
    if not _may_grow() and not any(offer.cpus >= cpus and offer.gpus >= gpus for offer in found):
        raise RunError(
            f"a trial with {cpus} core(s) and {gpus:g} GPU(s) will never fit: the cluster offers "
            f"{'; '.join(map(str, found)) or 'no machine'}. Lower search.cpus_per_trial or search.gpus_per_trial"
        )


def _may_grow() -> bool:
    """Whether there may come machines that are not known of."""
    node = ray._private.worker._global_node
    started_here = node is not None and node.head
    return not started_here and not _node_types()


def _node_types() -> dict[str, Any]:
    file = Path(BOOTSTRAP).expanduser()
    return (yaml.safe_load(file.read_text()) or {}).get("available_node_types", {}) if file.exists() else {}


def _offer(name: str, resources: Mapping[str, float], machines: int) -> Offer:
    return Offer(name, int(resources.get("CPU", 0)), int(resources.get("GPU", 0)), machines)


def share(resources: ResourceSettings, found: Sequence[Offer], may_grow: bool = False) -> tuple[int, bool]:
    """Cores, and whether a GPU, for each worker of a group.

    Args:
        resources: as configured; 0 cores: as many as leave room for all workers.
        found: what the cluster offers.
        may_grow: there may come machines that are not known of (KubeRay tells nobody its groups): nothing is refused.

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
    if may_grow:
        return cpus, gpu
    room = sum(offer.room(cpus, gpu) for offer in found)
    each = f"{cpus} core(s){' and a GPU' * gpu}"
    raise RunError(
        f"{resources.workers} training worker(s) with {each} each will never fit: the cluster offers "
        f"{'; '.join(map(str, found)) or 'no machine'}, which is room for {room}. Lower resources.workers or "
        "resources.cpus_per_worker, set resources.gpu=no, or add a node type to the cluster"
    )


def groups_at_once(resources: ResourceSettings) -> int:
    """`side_by_side` on this cluster; Ray must be up."""
    return side_by_side(resources, offers(), *demand(resources))


def side_by_side(resources: ResourceSettings, found: Sequence[Offer], cpus: int, gpu: bool) -> int:
    """Groups of `resources.workers` workers, of so many cores and a GPU or none each, that can train at once on all
    that the cluster offers, so that an autoscaler is asked for more than one group's machines; at least 1."""
    return max(1, sum(offer.room(cpus, gpu) for offer in found) // resources.workers)
