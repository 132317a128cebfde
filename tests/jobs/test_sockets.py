"""A local run opens no connection off the machine."""

from __future__ import annotations

import ipaddress
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.tiny import FIELDS


@pytest.mark.slow
def test_no_connection_leaves_this_machine(tmp_path):
    """Every socket of a whole run, search included, on two workers is watched, Ray's own too."""
    fields = FIELDS | {
        "data.phantoms": 24,
        "resources.workers": 2,
        "data.root": str(tmp_path / "scans"),
        "run.dir": str(tmp_path / "run"),
    }
    config = tmp_path / "watched.yaml"
    config.write_text("data: {layout: busi}\n")
    words = [f"{name}={json.dumps(value)}" for name, value in fields.items()]
    here = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")} | {"HOME": str(tmp_path)}
    driver = subprocess.Popen(
        [sys.executable, "-m", "jobs.run", str(config), *words],
        env=here,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    outside, listening, seen = set(), set(), 0
    while driver.poll() is None:
        for process in _family(driver.pid):
            try:
                sockets = process.net_connections("inet")
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            for socket in sockets:
                seen += 1
                if socket.raddr and not _stays_here(socket.raddr.ip):
                    outside.add((process.pid, socket.raddr))
                if socket.status == psutil.CONN_LISTEN and not _stays_here(socket.laddr.ip):
                    listening.add((process.pid, socket.laddr))
        time.sleep(0.05)
    assert driver.returncode == 0
    assert seen > 20
    assert not outside
    # torch's rendezvous store, alive while a group trains, cannot be told to listen on one interface; pretraining and
    # fine-tuning have one each
    assert len(listening) <= 2


def _stays_here(address):
    parsed = ipaddress.ip_address(address)
    mapped = getattr(parsed, "ipv4_mapped", None)
    return (mapped or parsed).is_loopback


def _family(pid):
    try:
        driver = psutil.Process(pid)
        return [driver, *driver.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
