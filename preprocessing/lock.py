"""A lock with an owner: one writer at a time, and a dead or replaced writer cannot go on.

The lock is a small file that names its owner: host, process and a random token. A dead owner's lock on this host
is taken over at once, another host's when its heartbeat has been silent for a while. Whoever writes on behalf of
the owner (a worker on another machine) checks the token before a file is put in place.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from hashlib import sha256
from types import TracebackType
from typing import Any

import psutil
from upath import UPath

from preprocessing.errors import RunError
from preprocessing.storage import write_text

HEARTBEAT_S, SILENT_S = 10.0, 60.0
CLAIM_S = 10.0  # no living process takes that long to remove a file


class OwnedLock:
    """Held while used as a context manager.

    Args:
        file: path or URI of the lock file; its folder is created if it is missing.
        what: what is locked, for the message that another one gets, e.g. "the run runs/busi".

    Attributes:
        token: random name of this owner, for `check_owner`.

    Raises:
        RunError: on entry, when a living owner holds the lock.
    """

    def __init__(self, file: str, what: str) -> None:
        self.file, self.what = file, what
        self.token = secrets.token_hex(8)
        self._file = UPath(file)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> OwnedLock:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(10):
            if self._create():
                break
            content = _content(self._file)
            if content is None:
                continue  # its owner has just gone
            owner = _parse(content)
            if owner is not None and _alive(owner):
                raise RunError(
                    f"{self.what} is in use by process {owner['pid']} on {owner['host']}. Wait for it or stop it; "
                    f"if it is surely gone, delete {self.file}"
                )
            self._remove_stale(content)
        else:
            raise RunError(f"{self.what}: {self.file} changes hands all the time; is the same command running twice?")
        self._thread = threading.Thread(target=self._beat, name="owned-lock", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if is_owner(self.file, self.token):
            self._file.unlink(missing_ok=True)

    def _create(self) -> bool:
        """Whether the lock file is ours now. It appears whole: half of one would be taken for a broken one."""
        try:
            if self._file.protocol in ("", "file"):
                part = self._file.parent / f"{self._file.name}-{self.token}"
                part.write_text(self._text())
                try:
                    os.link(part.path, self._file.path)
                finally:
                    part.unlink()
            else:
                with self._file.open("xb") as stream:  # an object store shows it once it is closed
                    stream.write(self._text().encode())
        except FileExistsError:
            return False
        return True

    def _remove_stale(self, content: str) -> None:
        # of many that find the same stale lock only one may remove it: whoever creates this file
        claim = self._file.parent / f"{self._file.name}-{sha256(content.encode()).hexdigest()[:16]}"
        try:
            claim.open("xb").close()
        except FileExistsError:
            for _ in range(int(CLAIM_S / 0.1)):
                time.sleep(0.1)
                if _content(self._file) != content or not claim.exists():
                    return
            claim.unlink(missing_ok=True)  # the claimer died as well
            return
        try:
            if _content(self._file) == content:
                self._file.unlink(missing_ok=True)
        finally:
            claim.unlink(missing_ok=True)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            if not is_owner(self.file, self.token):
                return
            write_text(self._file, self._text())

    def _text(self) -> str:
        process = os.getpid()
        return json.dumps(
            {
                "host": socket.gethostname(),
                "pid": process,
                "started": psutil.Process(process).create_time(),
                "token": self.token,
                "what": self.what,
                "beat": time.time(),
            }
        )


def is_owner(file: str, token: str) -> bool:
    """Whether the lock is still the one with this token."""
    owner = _read(UPath(file))
    return owner is not None and owner["token"] == token


def check_owner(file: str, token: str) -> None:
    """To be called before anything is put in place on behalf of the lock's owner.

    Raises:
        RunError: the lock was lost to another process.
    """
    if not is_owner(file, token):
        raise RunError(f"the lock {file} is no longer held by this process's owner; it stops and writes nothing more")


def _read(file: UPath) -> dict[str, Any] | None:
    content = _content(file)
    return None if content is None else _parse(content)


def _content(file: UPath) -> str | None:
    try:
        return file.read_text(errors="replace")
    except FileNotFoundError:
        return None


def _parse(content: str) -> dict[str, Any] | None:
    try:
        owner = json.loads(content)
    except json.JSONDecodeError:
        return None
    return owner if isinstance(owner, dict) and {"host", "pid", "token", "beat", "what"} <= owner.keys() else None


def _alive(owner: dict[str, Any]) -> bool:
    if owner["host"] != socket.gethostname():
        return time.time() - owner["beat"] < SILENT_S
    try:
        return abs(psutil.Process(owner["pid"]).create_time() - owner["started"]) < 1
    except psutil.NoSuchProcess:
        return False
