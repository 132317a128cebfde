"""A local run opens no connection off the machine."""

from __future__ import annotations

import ipaddress
import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil

SCRIPT = textwrap.dedent(
    """
    from pipeline.training.cluster import joined
    with joined("local"):
        import ray
        import ray.data
        task = ray.remote(lambda: 1)
        for _ in range(20):
            ray.get(task.remote())
        assert ray.data.range(20).map(lambda row: row).count() == 20
    """
)


def test_no_connection_leaves_this_machine(tmp_path):
    """Every socket of the driver, its cluster and its workers is watched; and nothing listens to the outside."""
    here = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    here |= {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    driver = subprocess.Popen([sys.executable, "-c", SCRIPT], env=here, start_new_session=True)
    outside, listening, seen = set(), set(), 0
    while driver.poll() is None:
        for process in _family(driver.pid):
            try:
                sockets = process.net_connections("inet")
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            for socket in sockets:
                seen += 1
                if socket.raddr and not ipaddress.ip_address(socket.raddr.ip).is_loopback:
                    outside.add((process.pid, socket.raddr))
                if socket.status == psutil.CONN_LISTEN and not ipaddress.ip_address(socket.laddr.ip).is_loopback:
                    listening.add((process.name(), socket.laddr))
        time.sleep(0.02)
    assert driver.returncode == 0
    assert seen > 20
    assert not outside
    assert not listening


def _family(pid):
    try:
        driver = psutil.Process(pid)
        return [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
