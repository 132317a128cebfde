"""A lock with an owner: one writer at a time, and a dead or replaced writer cannot go on.

The lock is a small file that names its owner: host, process and a random token. A dead owner's lock on this host
is taken over at once, another host's when its heartbeat has been silent for a while. Whoever writes on behalf of
the owner (a worker on another machine) checks the token before a file is put in place.

On a disk the lock is a hard link, on an object store a conditional put, see `object_store.create`. A store that knows
no conditions lets two in that come within the same moment; the one whose lock was overwritten stops at its next check.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from hashlib import sha256
from types import TracebackType
from typing import Any

import psutil
from upath import UPath

from preprocessing.errors import RunError
from preprocessing.object_store import StoreError, create, fresh, is_local, reaching, read_text
from preprocessing.storage import make_folder, write_text

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
        RunError: on entry, when a living owner holds the lock, or the store of a URI cannot be used.
    """

    def __init__(self, file: str, what: str) -> None:
        self.file, self.what = file, what
        self.token = secrets.token_hex(8)
        self._file = UPath(file)
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> OwnedLock:
        make_folder(self._file.parent)
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
            _remove(self._file)

    def _create(self) -> bool:
        """Whether the lock file is ours now. It appears whole: half of one would be taken for a broken one."""
        if not is_local(self._file):
            if _content(self._file) is None:
                create(self._file, self._text().encode())
            return is_owner(self.file, self.token)  # also where the answer was lost and the put repeated
        part = self._file.parent / f"{self._file.name}-{self.token}"
        part.write_text(self._text())
        try:
            os.link(part.path, self._file.path)
        except FileExistsError:
            return False
        finally:
            part.unlink()
        return True

    def _remove_stale(self, content: str) -> None:
        # of many that find the same stale lock only one may remove it: whoever creates this file
        claim = self._file.parent / f"{self._file.name}-{sha256(content.encode()).hexdigest()[:16]}"
        if not _claimed(claim):
            for _ in range(int(CLAIM_S / 0.1)):
                time.sleep(0.1)
                if _content(self._file) != content or _content(claim) is None:
                    return
            _remove(claim)  # the claimer died as well
            return
        try:
            if _content(self._file) == content:
                _remove(self._file)
        finally:
            _remove(claim)

    def _beat(self) -> None:
        while not self._ended.wait(HEARTBEAT_S):
            try:
                if not is_owner(self.file, self.token):
                    return
                write_text(self._file, self._text())
            except (StoreError, OSError):  # a full disk, a store that does not answer: the next beat may get through
                continue

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


def holder(file: str) -> dict[str, Any] | None:
    """The owner of a lock (its host and pid among others) if it is alive; None where nobody holds it any more."""
    owner = _read(fresh(UPath(file)))
    return owner if owner is not None and _alive(owner) else None


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
        return read_text(file, "replace")
    except FileNotFoundError:
        return None


def _claimed(file: UPath) -> bool:
    """Whether this call made the file."""
    if not is_local(file):
        return create(file, b"claimed")
    try:
        file.open("xb").close()
    except FileExistsError:
        return False
    return True


def _remove(file: UPath) -> None:
    if is_local(file):
        file.unlink(missing_ok=True)
        return
    with reaching(str(file)), suppress(FileNotFoundError):
        file.fs.rm_file(file.path)


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
