"""A head of a Ray cluster in processes of its own, on loopback with a token, for tests that need a real one."""

from __future__ import annotations

import os
import secrets
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

BIN = Path(sys.executable).parent
STOP_S = 60


def free_port() -> int:
    """A port of loopback that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def environment(home: Path) -> dict[str, str]:
    """Of a head and its clients, with nothing of another cluster's; a token made for them alone."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    return own | {
        "HOME": str(home),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(16),
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # listeners on 127.0.0.1 only
    }


@contextmanager
def started(port: int, words: list[str], env: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """`ray start --head` with further words; at the end all that it started is gone."""
    command = [BIN / "ray", "start", "--head", "--block", f"--port={port}", *words]
    head = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield head
    finally:
        family = psutil.Process(head.pid).children(recursive=True)
        head.send_signal(signal.SIGTERM)
        head.wait(STOP_S)
        for member in psutil.wait_procs(family, timeout=STOP_S / 2)[1]:
            member.kill()
