"""Joining a Ray cluster, or starting one on this machine that opens no connection off it."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

QUIET = {  # the stages say themselves how far they are
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
LOCAL_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # node and listeners on 127.0.0.1
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # reports are otherwise taken every 2 s
}


@contextmanager
def joined(address: str, cpus: int = 0) -> Iterator[None]:
    """A Ray cluster for the duration; one that this call started is stopped at the end, another is left alone.

    Args:
        address: of a running cluster; "local" starts one on this machine; "" takes RAY_ADDRESS if a job set it,
            else starts one.
        cpus: cores of a cluster started here; 0: all of the machine's.
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("ray.data", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS", "") or "local"
    if address == "local":
        for name, value in LOCAL_ENVIRONMENT.items():
            os.environ.setdefault(name, value)
        # without a dashboard nothing probes for a cloud's metadata service
        ray.init(
            address="local",
            num_cpus=cpus or None,
            include_dashboard=False,
            logging_level=logging.WARNING,
            log_to_driver=False,
            _node_ip_address="127.0.0.1",
        )
    else:
        ray.init(address=address, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()
