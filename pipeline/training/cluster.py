"""Joining a Ray cluster, or starting one on this machine that opens no connection off it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from pipeline.training.environment import address_of, prepare


@contextmanager
def joined(address: str, cpus: int = 0) -> Iterator[None]:
    """A Ray cluster for the duration; one that this call started is stopped at the end, another is left alone.

    Args:
        address: of a running cluster; "local" starts one on this machine; "" takes RAY_ADDRESS if a job set it,
            else starts one.
        cpus: cores of a cluster started here; 0: all of the machine's.
    """
    prepare(address)
    for name in ("ray.data", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    if ray.is_initialized():
        yield
        return
    address = address_of(address)
    if address == "local":
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
