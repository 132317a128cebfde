"""Where work of a single process runs: here where there is what it computes on, else on a machine that has it.

The driver of a submitted job sits on the cluster's head, which has neither GPU nor cores to spare.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import ray
import torch

from pipeline.training.offers import demand
from pipeline.training.precision import ResourceSettings

T = TypeVar("T")
_RETRIES = 5  # a spot machine may go while it works


def on_device(resources: ResourceSettings, work: Callable[..., T], *arguments: object) -> T:
    """Call `work(*arguments)` with a training worker's share of cores, and a GPU where training has one.

    Args:
        resources: as configured for the training workers.
        work: importable on the workers; arguments and result are plain data, files go to shared storage.

    Raises:
        RunError: no machine can ever have that share.
    """
    cpus, gpu = demand(resources)
    if _cores_here() and (torch.cuda.is_available() or not gpu):
        return work(*arguments)
    task = ray.remote(work).options(num_cpus=cpus, num_gpus=int(gpu), max_retries=_RETRIES)
    return ray.get(task.remote(*arguments))


def _cores_here() -> float:
    here = ray.get_runtime_context().get_node_id()
    return sum(node["Resources"].get("CPU", 0.0) for node in ray.nodes() if node["NodeID"] == here)
