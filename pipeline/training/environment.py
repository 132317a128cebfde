"""Environment of this process and its Ray workers; to be set before Ray is imported, which reads some of it then."""

from __future__ import annotations

import os

QUIET = {  # the stages say themselves how far they are
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
LOCAL = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # node and listeners on 127.0.0.1
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # reports are otherwise taken every 2 s
    "GLOO_SOCKET_IFNAME": "lo",
}


def address_of(configured: str) -> str:
    """The cluster to join: as configured, else a job's own (RAY_ADDRESS), else "local", a new one on this machine."""
    return configured or os.environ.get("RAY_ADDRESS", "") or "local"


def prepare(configured: str) -> None:
    """Set what is not set yet."""
    wanted = QUIET | (LOCAL if address_of(configured) == "local" else {})
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
